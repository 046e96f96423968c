"""Gaussian smoothing, against nilearn and scipy."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import penstock as ps
from penstock.fmri.images.smoothing import SmoothVolumes, smooth
from penstock.planning.chain import Chain
from penstock.testing import check_processor

AFFINE = np.array([[-3.0, 0, 0, 40], [0, 2.5, 0.5, -30], [0, -0.6, 3.4, -20], [0, 0, 0, 1]])
SIZES = np.linalg.norm(AFFINE[:3, :3], axis=0)


def volumes(shape=(17, 21, 9, 5), dtype="f4", order="F"):
    rng = np.random.default_rng(3)
    return np.asarray(rng.standard_normal(shape) * 60 + 100, dtype=dtype, order=order)


def dataset(data, dims=("x", "y", "z", "time")):
    coords = {"affine": (("affine_row", "affine_column"), AFFINE)}
    return ps.make_dataset(
        data, dims, coords=coords, sampling_frequency=0.5 if "time" in dims else None
    )


def result(processor, ds):
    chain = Chain(ds).bind([processor])
    return chain.compute(chain.whole())


def expected(data, fwhm):
    """Scipy in float64, volume by volume."""
    sigmas = np.broadcast_to(fwhm, 3) / (2 * np.sqrt(2 * np.log(2)) * SIZES)
    return np.stack(
        [gaussian_filter(volume, sigmas) for volume in np.moveaxis(data, -1, 0).astype("f8")], -1
    )


@pytest.mark.parametrize("fwhm", [6.0, 2.0, (8.0, 0.0, 4.0), 30.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 1e-6), ("f8", 1e-14), ("i2", 1e-6)])
def test_smoothing_is_scipys(fwhm, dtype, tolerance):
    data = volumes(dtype=dtype)
    found = result(SmoothVolumes(fwhm), dataset(data))
    assert found.dtype == ("f8" if dtype == "f8" else "f4")
    assert np.abs(found - expected(data, fwhm)).max() <= tolerance * np.abs(data).max()
    direct = smooth(data.T, tuple(SIZES), fwhm)
    assert np.array_equal(direct.T, found)


@pytest.mark.parametrize("missing", [False, True])
def test_smoothing_is_nilearns(missing):
    image = pytest.importorskip("nilearn.image")
    data = volumes()
    if missing:
        data[3:5, 7, 2, 1] = np.nan
        data[8, 8, 8, 3] = -np.inf
    for fwhm in (6.0, [3.0, 5.0, 9.0]):
        theirs = image.smooth_img(nibabel.Nifti1Image(data, AFFINE), fwhm).get_fdata()
        given_fwhm = tuple(fwhm) if isinstance(fwhm, list) else fwhm
        ours = result(SmoothVolumes(given_fwhm, nan_policy="zero"), dataset(data))
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_missing_voxels_have_no_weight(dtype):
    rng = np.random.default_rng(4)
    data = volumes((17, 21, 9, 2), dtype)
    missing = rng.random(data.shape) < 0.2
    missing[:, 10:] = True
    missing[4:6, 4:6, 4:6, 0] = True
    data[missing] = rng.choice([np.nan, np.inf, -np.inf], missing.sum())
    found = result(SmoothVolumes(7.0), dataset(data))
    weights = expected((~missing).astype("f8"), 7.0)
    means = expected(np.where(missing, 0, data), 7.0) / np.where(missing, 1, weights)
    np.testing.assert_array_equal(np.isnan(found), missing)
    tolerance = 1e-5 if dtype == "f4" else 1e-12
    np.testing.assert_allclose(found[~missing], means[~missing], rtol=tolerance, atol=tolerance)
    # a region beside a border is not darkened by what is not there
    level = np.where(missing, np.nan, 100.0).astype(dtype)
    np.testing.assert_allclose(result(SmoothVolumes(7.0), dataset(level))[~missing], 100, rtol=1e-6)
    spoilt = result(SmoothVolumes(7.0, nan_policy="propagate"), dataset(data))
    reached = expected(missing.astype("f8"), 7.0) > 1e-9
    assert np.isnan(spoilt[reached]).all()
    assert np.isfinite(spoilt[expected(missing.astype("f8"), 7.0) == 0]).all()


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_smoothing_keeps_the_contract(dtype, order):
    data = volumes((40, 41, 22, 5), dtype, order)
    if dtype[0] == "f":
        data[3, 4, 5, 2] = np.nan
        check_processor(SmoothVolumes(6.0, nan_policy="propagate"), dataset(data))
    check_processor(SmoothVolumes(6.0), dataset(data))
    check_processor(SmoothVolumes((0.0, 7.0, 3.0)), dataset(data))


def test_any_loop_dims():
    data = volumes((9, 8, 7, 2, 3))
    dims = ("x", "y", "z", "run", "time")
    several = result(SmoothVolumes(5.0), dataset(data, dims))
    single = result(SmoothVolumes(5.0), dataset(data[..., 1, 2], dims[:3]))
    assert single.shape == (9, 8, 7)
    assert np.array_equal(several[..., 1, 2], single)
    first = dataset(data[..., 1, :].transpose(3, 0, 1, 2), ("time", "x", "y", "z"))
    assert np.array_equal(
        result(SmoothVolumes(5.0), first), several[..., 1, :].transpose(3, 0, 1, 2)
    )


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    fwhm=st.tuples(*[st.floats(0, 25)] * 3).filter(any),
    seed=st.integers(0, 9),
)
def test_constants_stay_and_sums_of_images_are_sums(shape, fwhm, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 1, *shape))
    sizes = (2.0, 3.0, 2.5)
    assert np.allclose(smooth(np.full((1, *shape), 7.0), sizes, fwhm), 7.0, rtol=1e-12)
    together = smooth(a + b, sizes, fwhm)
    assert np.allclose(together, smooth(a, sizes, fwhm) + smooth(b, sizes, fwhm), atol=1e-12)
    # beyond an edge lies its mirror, so nothing is lost
    assert np.isclose(smooth(a, sizes, fwhm).sum(), a.sum(), atol=1e-9 * a.size)


def test_no_smoothing():
    ds = dataset(volumes(dtype="i2"))
    assert np.array_equal(result(SmoothVolumes(None), ds), ds.signal.values)
    with pytest.warns(UserWarning, match="not smoothed"):
        nothing = SmoothVolumes(0.0)
    found = result(nothing, ds)
    assert found.dtype == "i2"
    assert np.array_equal(found, ds.signal.values)


def test_errors():
    for fwhm in (-1.0, (3.0, -2.0, 1.0), float("nan")):
        with pytest.raises(ValueError, match="must not be negative: widths in mm"):
            SmoothVolumes(fwhm)
    with pytest.raises(TypeError, match="fwhm='fast' must be a number"):
        SmoothVolumes("fast")
    plain = ps.make_dataset(volumes(), ("x", "y", "z", "time"))
    with pytest.raises(ValueError, match="the volumes have no affine"):
        Chain(plain).then(SmoothVolumes(6.0))
    with pytest.raises(ValueError, match=r"SmoothVolumes needs the dim 'x'"):
        Chain(ps.make_dataset(np.ones((2, 9)))).then(SmoothVolumes(6.0))
