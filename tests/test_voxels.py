"""Voxels keep their places in the world, whatever xarray does to their image."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.voxels import check_affine, image_affine, with_affine

AFFINE = np.array([[-3.0, 0.2, 0, 60], [0.2, 3.0, 0.1, -40], [0, -0.1, 3.5, -20], [0, 0, 0, 1]])
SHAPE = (9, 8, 7, 3)


def image() -> xr.Dataset:
    """Volumes whose values say where they lie: x + y + z in the world, plus 1,000 a volume."""
    places = np.indices(SHAPE[:3]).reshape(3, -1)
    world = (AFFINE[:3, :3] @ places).T + AFFINE[:3, 3]
    values = world.sum(axis=1).reshape(SHAPE[:3])[..., None] + 1000.0 * np.arange(SHAPE[3])
    return ps.make_dataset(
        values,
        ("x", "y", "z", "time"),
        sampling_frequency=0.5,
        coords={"affine": (("affine_row", "affine_column"), AFFINE)},
    )


def assert_in_place(ds: xr.Dataset) -> None:
    signal = ds.signal.transpose("x", "y", "z", ...).values
    affine = image_affine(ds)
    places = np.indices(signal.shape[:3]).reshape(3, -1)
    world = ((affine[:3, :3] @ places).T + affine[:3, 3]).sum(axis=1).reshape(signal.shape[:3])
    found = signal[..., 0] % 1000 - world % 1000
    shift = np.minimum(np.abs(found), 1000 - np.abs(found))  # (modulo 1,000)
    assert np.nanmax(shift, initial=0) < 1e-6


@st.composite
def selections(draw: st.DrawFn) -> Callable[[xr.Dataset], xr.Dataset]:
    dim = draw(st.sampled_from(["x", "y", "z"]))
    start, stop = sorted(draw(st.tuples(st.integers(0, 8), st.integers(1, 9))))
    step, cut = draw(st.sampled_from([1, 1, 2, 3, -1, -2])), draw(st.integers(1, 5))
    piece = slice(start, max(stop, start + 1))
    way = slice(None, None, step)
    operations: list[Callable[[xr.Dataset], xr.Dataset]] = [
        lambda d: d.isel({dim: piece}),
        lambda d: d.isel({dim: way}),
        lambda d: d.sel({dim: slice(start, stop)}),
        lambda d: d.where(d[dim] >= start, drop=True),
        lambda d: d.isel({dim: d[dim].values >= start}),
        lambda d: d.sortby(dim, ascending=False),
        lambda d: d.thin({dim: cut}),
        lambda d: d.coarsen({dim: 2}, boundary="trim").mean(),
        lambda d: d.transpose("time", "z", "x", "y", ...),
        lambda d: xr.concat([d.isel({dim: slice(0, cut)}), d.isel({dim: slice(cut, None)})], dim),
        lambda d: xr.align(d, d.isel({dim: slice(cut, None)}), join="inner")[0],
        lambda d: d.isel({dim: slice(0, cut)}).combine_first(d.isel({dim: slice(cut, None)})),
        lambda d: d.reindex({dim: d[dim].values[::-1]}),
        lambda d: d - d.isel({dim: slice(cut, None)}) * 0,
        lambda d: d.interp({dim: d[dim].values[:-1] + 0.5}) if d.sizes[dim] > 1 else d,
        lambda d: d.isel({dim: cut % max(1, d.sizes[dim])}).expand_dims(dim),
        lambda d: d.swap_dims({dim: "other"}).swap_dims(other=dim),
        lambda d: d.rename({dim: "other"}).rename(other=dim),
        lambda d: d.stack(voxel=("x", "y", "z")).unstack(),
        lambda d: pickle.loads(pickle.dumps(d)),
        lambda d: d.chunk().compute(),
        lambda d: d + d.mean("time") * 0,
    ]
    return draw(st.sampled_from(operations))


@settings(max_examples=120)
@given(chain=st.lists(selections(), max_size=4))
def test_voxels_keep_their_places(chain: list[Callable[[xr.Dataset], xr.Dataset]]) -> None:
    ds = image()
    for operation in chain:
        ds = operation(ds)
        if 0 in ds.sizes.values():
            return
        if any(len({*np.diff(ds[dim].values).round(9)}) > 1 for dim in "xyz"):
            with pytest.raises(ValueError, match="evenly spaced"):  # (and not placed elsewhere)
                image_affine(ds)
            return
        assert_in_place(ds)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".zarr"])
def test_files_hold_the_places_of_what_is_left(tmp_path: Path, suffix: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    part = image().isel(x=slice(2, None, 2), y=slice(None, None, -1), z=slice(1, 5))
    ps.export(part, tmp_path / f"part{suffix}")
    again = ps.open_dataset(tmp_path / f"part{suffix}")
    np.testing.assert_allclose(image_affine(again), image_affine(part), atol=1e-5)
    if suffix != ".zarr":
        stored = nibabel.load(tmp_path / f"part{suffix}")
        np.testing.assert_allclose(stored.affine, image_affine(part), atol=1e-5)
        np.testing.assert_allclose(stored.get_fdata(), part.signal.values)
    ps.export(again.isel(x=slice(1, None)), tmp_path / f"rest{suffix}")
    rest = ps.open_dataset(tmp_path / f"rest{suffix}")
    np.testing.assert_allclose(
        image_affine(rest), image_affine(part.isel(x=slice(1, None))), atol=1e-5
    )


def test_maskers_look_where_the_voxels_are() -> None:
    pytest.importorskip("nilearn")
    import nibabel

    from penstock.fmri import NiftiLabelsMasker, NiftiSpheresMasker

    ds = image()
    labels = np.zeros(SHAPE[:3], "int16")
    labels[4:6, 3:5, 2:4], labels[6:8, 3:5, 2:4] = 1, 2
    atlas = nibabel.Nifti1Image(labels, AFFINE)
    seeds = [tuple((AFFINE @ [5, 4, 3, 1])[:3])]
    for masker in (NiftiLabelsMasker(atlas), NiftiSpheresMasker(seeds, radius=4)):
        right = masker.fit_transform(ds)
        for part in (
            ds.isel(x=slice(2, None), z=slice(1, None)),
            ds.isel(x=slice(None, None, -1), y=slice(None, None, -1)),
            xr.concat([ds.isel(x=slice(0, 3)), ds.isel(x=slice(3, None))], "x"),
        ):
            np.testing.assert_allclose(masker.fit_transform(part), right, rtol=1e-12)
        with pytest.raises(ValueError, match="evenly spaced"):
            masker.fit_transform(ds.isel(x=[0, 1, 4, 5]))


def test_another_affine_counts_from_the_first_voxel() -> None:
    part = image().isel(x=slice(4, None))
    np.testing.assert_array_equal(image_affine(with_affine(part, AFFINE)), AFFINE)
    with pytest.raises(ValueError, match="does not count their voxels"):
        image_affine(part.assign_coords(x=np.arange(5) * 3.0))
    plain = part.drop_vars(["x", "y", "z"])
    np.testing.assert_array_equal(image_affine(plain), AFFINE)


def joined(*affines: np.ndarray) -> xr.Dataset:
    runs = [with_affine(image(), affine) for affine in affines]
    return xr.concat(runs, "time", coords="different", compat="equals")


def test_positions_that_were_dropped_are_missed() -> None:
    nifti = pytest.importorskip("penstock.io.nifti.write")
    pytest.importorskip("nibabel")
    for dims in (["x"], ["y", "z"]):
        part = image().isel(x=slice(3, 7)).drop_vars(dims)
        with pytest.raises(ValueError, match=f"along {dims[0]} were dropped"):
            image_affine(part)
        with pytest.raises(ValueError, match=f"along {dims[0]} were dropped"):
            nifti.write_nifti(part, "never.nii")
    plane = image().isel(x=4).drop_vars("x")  # (no dim of the signal)
    assert image_affine(plane).shape == (4, 4)


def test_renamed_dims_of_space_are_told() -> None:
    swapped = image().rename(x="y", y="x")
    with pytest.raises(ValueError, match="the dim x of the volumes counts the voxels along y"):
        image_affine(swapped)
    assert_in_place(swapped.rename(x="y", y="x"))
    stored_before = image()
    for dim in "xyz":
        del stored_before[dim].attrs["axis"]
    assert_in_place(stored_before.isel(x=slice(2, None)))
    np.testing.assert_array_equal(image_affine(with_affine(swapped, AFFINE)), AFFINE)


def test_joined_runs_have_one_affine_where_theirs_are_close(tmp_path: Path) -> None:
    near = AFFINE.copy()
    near[:3, 3] += 2e-6
    runs = joined(AFFINE, near)
    np.testing.assert_array_equal(image_affine(runs), AFFINE)
    crop = runs.isel(y=slice(2, None))
    np.testing.assert_array_equal(image_affine(crop), image_affine(image().isel(y=slice(2, None))))
    if pytest.importorskip("nibabel"):
        ps.export(runs, tmp_path / "runs.nii.gz")
        again = ps.open_dataset(tmp_path / "runs.nii.gz")
        np.testing.assert_allclose(image_affine(again), AFFINE, atol=1e-5)
    far = AFFINE.copy()
    far[0, 3] += 0.5
    with pytest.raises(ValueError, match="several voxel grids") as told:
        image_affine(joined(AFFINE, far))
    assert len(str(told.value)) < 250


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((300, 4, 4)), r"shape \(300, 4, 4\)"),
        (np.full((4, 4), np.nan), "some are not finite"),
        (np.zeros((4, 4)), "cannot be inverted"),
    ],
)
def test_errors_print_no_matrices(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        check_affine(matrix)
    assert "[" not in str(told.value)
