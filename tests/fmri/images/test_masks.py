"""Masks, against nilearn on generated and real volumes, and by hand."""

import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.fmri.images.images import SpatialImage, same_grid, to_nibabel
from penstock.fmri.images.masks import check_mask, compute_mask, intersect_masks, mean_image

AFFINE = np.array([[-3.0, 0, 0, 54], [0, 3, 0, -60], [0, 0, 3.3, -40], [0, 0, 0, 1]])


def head(shape=(26, 30, 18, 6), *, noise=0.0, background=0.0, seed=0, dtype="f4"):
    """A bright ellipsoid, and a small one beside it, on a background."""
    rng = np.random.default_rng(seed)
    size = np.array(shape[:3]).reshape(3, 1, 1, 1)
    places = (np.indices(shape[:3]) - size / 2) / (size / 2)
    inside = (places**2).sum(axis=0) < rng.uniform(0.45, 0.6)
    inside |= ((places - 0.8) ** 2).sum(axis=0) < 0.05
    volumes = inside[..., None] * (800 + 100 * rng.standard_normal(shape)) + background
    volumes += noise * np.abs(rng.standard_normal(shape))
    return np.asfortranarray(volumes.astype(dtype))


def dataset(volumes, dims=("x", "y", "z", "time"), affine=AFFINE):
    return ps.make_dataset(
        volumes, dims, coords={"affine": (("affine_row", "affine_column"), affine)}
    )


def image(volumes, affine=AFFINE):
    return nibabel.Nifti1Image(volumes, affine)


@pytest.fixture
def nilearn_masking():
    return pytest.importorskip("nilearn.masking")


def agree(ours, theirs):
    expected = np.asarray(theirs.dataobj).astype(bool)
    assert expected.any()
    assert ours.data.dtype == bool
    assert np.array_equal(ours.data, expected)
    assert same_grid(ours, theirs)


# ---------------------------------------------------------------------- mean


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), memory=st.integers(1, 5000), dtype=st.sampled_from(["i2", "f4", "f8"]))
def test_the_mean_does_not_depend_on_how_it_is_read(n, memory, dtype):
    volumes = head((5, 6, 7, n), noise=20, dtype=dtype)
    found = mean_image(dataset(volumes), memory=memory)
    assert found.data.dtype == "f8"
    assert np.allclose(found.data, volumes.mean(axis=-1, dtype="f8"), rtol=1e-13)
    assert np.array_equal(found.data, mean_image(dataset(volumes)).data)


def test_everything_that_holds_volumes_has_a_mean(tmp_path):
    volumes = head((9, 8, 7, 5), noise=20)
    expected = mean_image(dataset(volumes))
    path = tmp_path / "bold.nii.gz"
    nibabel.save(image(volumes), path)
    for given_image in (path, str(path), nibabel.load(path), image(volumes)):
        found = mean_image(given_image)
        assert np.array_equal(found.data, expected.data)
        assert same_grid(found, expected)
    runs = dataset(volumes.reshape(9, 8, 7, 1, 5), ("x", "y", "z", "run", "time"))
    assert np.array_equal(mean_image(runs, memory=2500).data, expected.data)
    first = dataset(np.moveaxis(volumes, -1, 0), ("time", "x", "y", "z"))
    assert np.array_equal(mean_image(first).data, expected.data)
    single = mean_image(dataset(volumes[..., 2], ("x", "y", "z")))
    assert np.array_equal(single.data, volumes[..., 2])
    with pytest.raises(ValueError, match="the volumes have no affine"):
        mean_image(ps.make_dataset(volumes, ("x", "y", "z", "time")))
    with pytest.raises(ValueError, match="no volumes to average"):
        mean_image(dataset(volumes[..., :0]))


def test_the_mean_is_one_pass_in_order_and_in_bounded_memory():
    asked = []

    def read(x, y, z, time):
        asked.append((time.start, time.stop))
        return np.ones((time.stop - time.start, 30, 40, 50), "f4").transpose(3, 2, 1, 0)

    dims, shape = ("x", "y", "z", "time"), (50, 40, 30, 400)
    ds = dataset(lazy_variable(dims, read, shape, "f4"))
    tracemalloc.start()
    try:
        found = mean_image(ds, memory="4 MiB")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.data == 1).all()
    assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]
    assert asked[-1][1] == 400
    assert peak < 4 * 2**20 + 3 * found.data.nbytes + 2**20  # the whole is 92 MiB


# ---------------------------------------------------------------------- strategies


@pytest.mark.parametrize("options", [{}, {"opening": 1, "connected": True}, {"border_size": 1}])
@pytest.mark.parametrize("background", [0.0, 17.3])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_background_masks_are_nilearns(nilearn_masking, options, background, dtype):
    volumes = head(background=background, dtype=dtype)
    theirs = nilearn_masking.compute_background_mask(image(volumes), **options)
    agree(compute_mask(dataset(volumes), "background", **options), theirs)
    if dtype != "i2":
        volumes[volumes == volumes[0, 0, 0, 0]] = np.nan
        theirs = nilearn_masking.compute_background_mask(image(volumes), **options)
        agree(compute_mask(image(volumes), **options), theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opening": 0},
        {"opening": 1, "connected": False},
        {"opening": False, "connected": True},
        {"lower_cutoff": 0.05, "upper_cutoff": 0.95},
        {"exclude_zeros": True, "lower_cutoff": 0.0},
    ],
)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_epi_masks_are_nilearns(nilearn_masking, options, dtype):
    for seed in range(2):
        volumes = head(noise=60, seed=seed, dtype=dtype)
        volumes[:3] = 0
        if dtype != "i2" and seed:
            volumes[-2:] = np.nan
            volumes[12, 12, 8, 2] = np.inf
        theirs = nilearn_masking.compute_epi_mask(image(volumes), **options)
        agree(compute_mask(dataset(volumes), "epi", **options), theirs)


def test_masks_on_another_grid_are_nilearns(nilearn_masking):
    volumes = head(noise=60)
    axes, affine = np.diag([4.0, 4.0, 4.0]), np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-10, -40, -30]
    for target in (
        {"target_affine": axes},
        {"target_affine": affine, "target_shape": (12, 20, 15)},
    ):
        theirs = nilearn_masking.compute_epi_mask(image(volumes), **target)
        agree(compute_mask(dataset(volumes), "epi", **target), theirs)


def test_masks_of_several_images_are_nilearns(nilearn_masking):
    several = [head(noise=60, seed=seed) for seed in range(4)]
    images, datasets = list(map(image, several)), list(map(dataset, several))
    for threshold in (0.0, 0.5, 0.75, 1.0):
        theirs = nilearn_masking.compute_multi_epi_mask(images, threshold=threshold)
        agree(compute_mask(datasets, "epi", threshold=threshold), theirs)
    clean = [head(seed=seed) for seed in range(4)]
    theirs = nilearn_masking.compute_multi_background_mask(list(map(image, clean)))
    agree(compute_mask(list(map(image, clean))), theirs)


@pytest.mark.parametrize("kind", ["whole-brain", "gm"])
def test_template_masks_are_nilearns(nilearn_masking, kind):
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-90, -125, -70]
    volumes = np.zeros((37, 43, 36, 2), "f4")
    for options in ({}, {"threshold": 0.3, "opening": 0, "connected": False}):
        theirs = nilearn_masking.compute_brain_mask(
            image(volumes, affine), mask_type=kind, **options
        )
        ds = dataset(volumes, affine=affine)
        agree(compute_mask(ds, f"{kind}-template", **options), theirs)
    assert same_grid(compute_mask([ds, ds], f"{kind}-template"), ds)


def test_a_template_of_ones_own(tmp_path):
    template = np.zeros((20, 20, 20), "f4")
    template[5:15, 6:14, 7:17] = 1.0
    path = tmp_path / "template.nii"
    nibabel.save(image(template, np.eye(4)), path)
    shifted = np.eye(4)
    shifted[:3, 3] = 2.0
    ds = dataset(np.zeros((16, 16, 16)), ("x", "y", "z"), shifted)
    found = compute_mask(ds, "whole-brain-template", template=path, opening=0)
    expected = np.zeros((16, 16, 16), bool)
    expected[3:13, 4:12, 5:15] = True
    assert np.array_equal(found.data, expected)
    with pytest.raises(ValueError, match=r"empty: lower the threshold, .* in MNI152 space$"):
        compute_mask(ds, "gm-template", template=path, threshold=1.5, opening=0)


def test_epi_masks_of_a_real_run(data, nilearn_masking):
    path = data / "fmri/studyforrest_localizer/sub-02_task-oneback_run-1_bold.nii.gz"
    theirs = nilearn_masking.compute_epi_mask(str(path))
    agree(compute_mask(path, "epi"), theirs)
    background = nilearn_masking.compute_background_mask(str(path))
    agree(compute_mask(path, memory="8 MiB"), background)


def test_masks_of_a_real_slice(data, nilearn_masking):
    path = data / "fmri/haxby_slice/bold.nii.gz"
    theirs = nilearn_masking.compute_epi_mask(str(path), opening=0, connected=False)
    agree(compute_mask(path, "epi", opening=0, connected=False), theirs)
    agree(compute_mask(path), nilearn_masking.compute_background_mask(str(path)))
    with pytest.raises(ValueError, match=r"empty: .*\(opening=0 where volumes are a few voxels"):
        compute_mask(path, "epi")  # (one slice does not survive an erosion)


def test_errors_of_strategies():
    ds = dataset(head())
    with pytest.raises(ValueError, match="strategy must be one of background, epi"):
        compute_mask(ds, "brain")
    with pytest.raises(ValueError, match="a list of no images"):
        compute_mask([])
    with pytest.raises(ValueError, match="empty: images whose background is not constant"):
        compute_mask(dataset(np.ones((6, 6, 6, 2))))
    with pytest.raises(ValueError, match="border_size=0"):
        compute_mask(ds, border_size=0)
    with pytest.raises(ValueError, match=r"lower_cutoff=0\.9 < upper_cutoff=0\.85"):
        compute_mask(ds, "epi", lower_cutoff=0.9)
    with pytest.raises(ValueError, match="0 voxels are too few"):
        compute_mask(dataset(np.zeros((6, 6, 6, 2))), "epi", exclude_zeros=True)
    with pytest.raises(ValueError, match="target_shape needs a target_affine"):
        compute_mask(ds, target_shape=(3, 3, 3))
    with pytest.raises(ValueError, match="mask 2 lies on another grid"):
        compute_mask([ds, dataset(head((20, 30, 18, 2)))])


# ---------------------------------------------------------------------- masks that are there


def blobs(seed):
    return np.random.default_rng(seed).random((9, 8, 7)) > 0.35


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 2 / 3, 1])
def test_intersections_are_nilearns(nilearn_masking, threshold, connected):
    arrays = [blobs(seed) for seed in range(3)]
    theirs = nilearn_masking.intersect_masks(
        [image(array.astype("u1")) for array in arrays], threshold, connected
    )
    ours = [SpatialImage(array, AFFINE) for array in arrays]
    agree(intersect_masks(ours, threshold, connected=connected), theirs)
    assert check_mask(intersect_masks(list(map(to_nibabel, ours)), threshold)).any()


def test_empty_masks_count():
    full, empty = (SpatialImage(np.full((3, 3, 3), value, "u1"), AFFINE) for value in (1, 0))
    assert not intersect_masks([full, empty], threshold=1).data.any()
    assert not intersect_masks([full, empty], threshold=0.5).data.any()
    assert intersect_masks([full, full, empty], threshold=0.5).data.all()


def test_errors_of_intersections():
    mask = SpatialImage(blobs(0), AFFINE)
    with pytest.raises(ValueError, match="no masks to intersect"):
        intersect_masks([])
    for threshold in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"must lie between 0 \(union\) and 1"):
            intersect_masks([mask], threshold)
    with pytest.raises(ValueError, match=r"mask 2 lies on another grid .*resample_image"):
        intersect_masks([mask, SpatialImage(blobs(0), np.eye(4))])


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "f4", "f8"])
def test_masks_of_any_type(dtype):
    inside = blobs(1)
    values = inside.astype(dtype) * (3 if dtype != "?" else True)
    assert np.array_equal(check_mask(SpatialImage(values, AFFINE)), inside)
    if dtype[0] == "f":
        values[~inside] = np.nan
        values[0, 0, 0] = np.inf
        assert np.array_equal(
            check_mask(SpatialImage(values, AFFINE)), inside & np.isfinite(values)
        )
    assert check_mask(SpatialImage(np.ones((2, 2, 2), dtype), AFFINE)).all()


def test_masks_of_four_dims():
    both = np.stack([blobs(1), blobs(2)], axis=-1)
    assert np.array_equal(check_mask(SpatialImage(both, AFFINE)), blobs(1) & blobs(2))


def test_errors_of_masks(tmp_path):
    with pytest.raises(ValueError, match=r"6 different values \(0, 1, 2, 3, \.\.\.\), but a mask"):
        check_mask(SpatialImage(np.arange(216).reshape(6, 6, 6) % 6, AFFINE))
    with pytest.raises(ValueError, match="values 2 and 5, but what is outside must be 0"):
        check_mask(SpatialImage(blobs(0) * 3 + 2, AFFINE))
    path = tmp_path / "nothing.nii"
    nibabel.save(image(np.zeros((3, 3, 3), "u1")), path)
    with pytest.raises(ValueError, match=r"the mask .*nothing\.nii is empty"):
        check_mask(path)
    assert not check_mask(path, allow_empty=True).any()
