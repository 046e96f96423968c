"""Resampling of images and volumes, against nilearn and scipy."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

import penstock as ps
from penstock.fmri.images.images import SpatialImage, VoxelGrid, load_image, to_nibabel, voxel_grid
from penstock.fmri.images.resampling import ResampleVolumes, resample_image, target_grid
from penstock.planning.chain import Chain
from penstock.testing import check_processor

STRAIGHT = np.array([[3.0, 0, 0, -24], [0, 3, 0, -30], [0, 0, 3.3, -15], [0, 0, 0, 1]])
OBLIQUE = np.array([[2.5, 0.2, 0, -20], [-0.2, 2.5, 0.4, -24], [0, 0.3, 4, -12], [0, 0, 0, 1.0]])
AXES = np.diag([4.0, 4.0, 4.0])
FLIPPED = np.diag([-2.5, 2.5, 2.5])
TARGETS = {
    "axes": (AXES, None),
    "flipped": (FLIPPED, None),
    "oblique": (OBLIQUE, None),
    "oblique axes": (OBLIQUE[:3, :3], None),
    "grid": (np.diag([2.0, 2.0, 2.0, 1.0]), (11, 9, 8)),
}
ORDERS = {"continuous": 3, "linear": 1, "nearest": 0}


def volumes(shape=(16, 19, 10, 4), dtype="f4", order="F", seed=7):
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) * 40 + 60, dtype=dtype, order=order)


def dataset(data, dims=("x", "y", "z", "time"), affine=STRAIGHT):
    coords = {"affine": (("affine_row", "affine_column"), affine)}
    return ps.make_dataset(
        data, dims, coords=coords, sampling_frequency=0.5 if "time" in dims else None
    )


def result(processor, ds):
    chain = Chain(ds).bind([processor])
    return chain.compute(chain.whole())


def sampled(data, source, target, order):
    """Scipy at every target voxel's coordinates, float64, without a change of sign."""
    indices = np.indices(target.shape).reshape(3, -1)
    combined = np.linalg.inv(source) @ target.matrix
    places = combined[:3, :3] @ indices + combined[:3, 3:]
    # (scipy calls what lies a rounding error outside the image outside)
    found = map_coordinates(data.astype("f8"), places, order=order).reshape(target.shape)
    return np.clip(found, None if data.min() < 0 else 0, None if data.max() > 0 else 0)


# ---------------------------------------------------------------------- the grid


def test_target_grids_by_hand():
    grid = VoxelGrid((11, 21, 5), np.diag([2.0, 2.0, 3.0, 1.0]))
    assert target_grid(grid, np.diag([4.0, 5.0, 3.0])).shape == (6, 9, 5)
    flipped = target_grid(grid, np.diag([-4.0, 4.0, 3.0]))
    assert flipped.shape == (6, 11, 5)
    assert flipped.matrix[:3, 3].tolist() == [20.0, 0.0, 0.0]
    moved = np.diag([2.0, 2.0, 3.0, 1.0])
    moved[:3, 3] = [4.0, -6.0, 0.0]
    assert target_grid(grid, moved).shape == (9, 24, 5)
    assert target_grid(grid, moved, (3, 5, 3)) == VoxelGrid((3, 5, 3), moved)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.floats(0.5, 6)] * 3),
    angle=st.floats(-3, 3),
    shape=st.tuples(*[st.integers(1, 30)] * 3),
)
def test_the_bounding_box_holds_the_image(sizes, angle, shape):
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = target_grid(VoxelGrid(shape, STRAIGHT), turn @ np.diag(sizes))
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    corners = STRAIGHT[:3, :3] @ ends + STRAIGHT[:3, 3:]
    inverse = np.linalg.inv(grid.matrix)
    places = inverse[:3, :3] @ corners + inverse[:3, 3:]
    assert places.min() > -1e-9
    assert (places.max(axis=1) < np.array(grid.shape)).all()


def test_errors_of_targets():
    grid = VoxelGrid((5, 5, 5), STRAIGHT)
    far = np.eye(4)
    far[0, 3] = 500.0
    with pytest.raises(ValueError, match="holds nothing of the image"):
        target_grid(grid, far)
    far[0, 3] = -500.0  # nilearn gives zeros here
    with pytest.raises(ValueError, match="holds nothing of the image"):
        target_grid(grid, far, (5, 5, 5))
    with pytest.raises(ValueError, match="needs a 4 x 4 target_affine"):
        target_grid(grid, AXES, (5, 5, 5))
    with pytest.raises(ValueError, match="3 x 3 or 4 x 4"):
        target_grid(grid, np.eye(2))
    with pytest.raises(ValueError, match="cannot be inverted"):
        target_grid(grid, np.zeros((3, 3)))


# ---------------------------------------------------------------------- images


@pytest.mark.filterwarnings("ignore:NaNs or infinite", "ignore:Casting data")
@pytest.mark.parametrize("interpolation", ORDERS)
@pytest.mark.parametrize("target", TARGETS)
def test_images_are_nilearns_bit_for_bit(interpolation, target):
    image = pytest.importorskip("nilearn.image")
    affine, shape = TARGETS[target]
    types = ("f4", "f8", "i2", "i4") if interpolation != "linear" else ("f4", "f8")
    for dtype in types:
        data = volumes(dtype=dtype)
        if dtype == "f4":
            data[3:5, 7, 2, 1] = np.nan
        theirs = image.resample_img(
            nibabel.Nifti1Image(data, STRAIGHT), affine, shape, interpolation=interpolation
        )
        ours = resample_image(
            SpatialImage(data, STRAIGHT), (affine, shape), interpolation=interpolation
        )
        # (integers of 32 bit stay exact here, where float32 rounds them)
        wide = dtype == "i4" and interpolation == "continuous"
        assert ours.data.dtype == (np.float64 if wide else theirs.dataobj.dtype)
        rounded = ours.data.astype(theirs.dataobj.dtype)
        equal = (rounded == theirs.dataobj) | (np.isnan(rounded) & np.isnan(theirs.dataobj))
        # (there, what rounding puts outside the image is lost)
        lost = off_by_rounding(STRAIGHT, data.shape, voxel_grid(ours))
        assert equal[~lost].all()
        assert not np.asarray(theirs.dataobj)[lost].any()
        assert np.array_equal(ours.affine, theirs.affine)


def off_by_rounding(source, shape, target):
    """Voxels outside of an image by no more than rounding."""
    indices = np.indices(target.shape).reshape(3, -1)
    combined = np.linalg.inv(source).dot(target.matrix)
    places = combined[:3, :3] @ indices + combined[:3, 3:]
    last = np.array(shape[:3])[:, np.newaxis] - 1
    over = np.maximum(-places, places - last).max(axis=0)
    return ((over > 0) & (over < 1e-4)).reshape(target.shape)


@pytest.mark.parametrize("interpolation", ORDERS)
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_crops_of_oblique_images_keep_their_border(interpolation, dtype):
    turned = np.array(  # (rotations of files: float32, whose products are not exact)
        np.float32(
            [[-2.98, 0.21, 0.27, 81.3], [0.17, 2.95, -0.52, -77.7], [-0.3, 0.51, 3.25, -41.9]]
        ),
        np.float64,
    )
    affine = np.vstack([turned, [0, 0, 0, 1]])
    full = np.round(volumes((13, 14, 12, 2))).astype(dtype)
    crops = [
        (slice(a, b, s), slice(c, d), slice(e, f))
        for a, b, s in ((5, None, 1), (7, 2, -1), (0, 9, 1))
        for c, d in ((3, None), (0, 10))
        for e, f in ((1, None), (6, 11))
    ]
    for crop in crops:
        ds = dataset(full, affine=affine).isel(x=crop[0], y=crop[1], z=crop[2])
        moved = np.float64(np.float32(voxel_grid(ds).matrix))  # (as a file holds it)
        part = np.ascontiguousarray(full[crop])
        right = np.zeros_like(full)
        right[crop] = part
        grid = VoxelGrid(full.shape[:3], affine)
        found = resample_image(SpatialImage(part, moved), grid, interpolation=interpolation)
        np.testing.assert_allclose(found.data, right, atol=2e-4)
        streamed = result(
            ResampleVolumes(target_img=grid, interpolation=interpolation),
            dataset(part, affine=moved),
        )
        np.testing.assert_allclose(streamed, right, atol=2e-4)


def test_a_finer_grid_with_rounding_keeps_the_border():
    affine = np.diag([3.3, 3.3, 3.3, 1.0])
    affine[:3, 3] = [-37.7, 41.3, -0.7]
    data = volumes((6, 7, 5))
    data[0, 0, 0] = np.nan
    finer = affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    for shift in (-1e-6, 1e-6):
        moved = finer.copy()
        moved[:3, 3] += shift
        for interpolation in ORDERS:
            grid = VoxelGrid((11, 13, 9), moved)
            found = resample_image(SpatialImage(data, affine), grid, interpolation=interpolation)
            np.testing.assert_allclose(found.data[::2, ::2, ::2], data, atol=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_grids_are_nilearns(target):
    image = pytest.importorskip("nilearn.image")
    affine, shape = TARGETS[target]
    ones = nibabel.Nifti1Image(np.ones((16, 19, 10), "u1"), STRAIGHT)
    theirs = image.resample_img(ones, affine, shape, interpolation="nearest")
    found = target_grid(ones, affine, shape)
    assert found == VoxelGrid(theirs.shape, theirs.affine)


def test_types_of_images():
    labels = SpatialImage((volumes()[..., 0] > 60).astype("u1"), STRAIGHT)
    nearest = resample_image(labels, (AXES,), interpolation="nearest")
    assert nearest.data.dtype == "u1"
    assert set(np.unique(nearest.data)) == {0, 1}
    mask = SpatialImage(labels.data.astype(bool), STRAIGHT)
    chosen = resample_image(mask, nearest, interpolation="nearest")
    assert chosen.data.dtype == bool
    assert np.array_equal(chosen.data, nearest.data)
    for interpolation in ("linear", "continuous"):  # fractions are not cut off
        between = resample_image(mask, nearest, interpolation=interpolation).data
        assert between.dtype == "f4"
        assert ((between > 0.05) & (between < 0.95)).any()
        assert between.min() >= 0
        assert between.max() <= 1


def test_clipping():
    image = SpatialImage(np.pad(np.ones((4, 4, 4)), 4), STRAIGHT)
    finer = (np.diag([1.0, 1.0, 1.0]),)
    free = resample_image(image, finer, clip=False).data
    assert free.max() > 1.05
    assert free.min() < -0.05
    assert np.array_equal(resample_image(image, finer).data, np.clip(free, 0, 1))


def test_the_same_grid_gives_the_image_itself():
    image = SpatialImage(volumes(), STRAIGHT)
    assert resample_image(image, VoxelGrid((16, 19, 10), STRAIGHT + 1e-10)) is image
    with pytest.raises(ValueError, match="interpolation must be one of"):
        resample_image(image, (AXES,), interpolation="cubic")


# ---------------------------------------------------------------------- volumes


@pytest.mark.parametrize("interpolation", ORDERS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 1e-6), ("f8", 1e-12)])
def test_volumes_are_resampled_one_by_one(interpolation, target, dtype, tolerance):
    data = volumes(dtype=dtype)
    affine, shape = TARGETS[target]
    processor = ResampleVolumes(
        target_affine=affine, target_shape=shape, interpolation=interpolation
    )
    ds = dataset(data)
    outline = Chain(ds).then(processor).output
    target_is = target_grid(ds, affine, shape)
    assert voxel_grid(outline) == target_is
    assert ps.sampling_frequency(outline) == 0.5
    found = result(processor, ds)
    assert found.dtype == dtype
    for i in range(data.shape[-1]):
        one = SpatialImage(data[..., i], STRAIGHT)
        free = resample_image(one, target_is, interpolation=interpolation, clip=False).data
        low, high = data[..., i].min(), data[..., i].max()
        expected = np.clip(free, None if low < 0 else 0, None if high > 0 else 0)
        assert np.abs(found[..., i] - expected).max() <= tolerance * np.abs(data).max()


@pytest.mark.parametrize("interpolation", ["linear", "continuous"])
@pytest.mark.parametrize("affine", [np.diag([2.9, 2.3, 2.7]), OBLIQUE[:3, :3]])
def test_values_lie_where_the_coordinates_say(interpolation, affine):
    data = volumes((16, 19, 10, 1), "f8")
    # one voxel inside the image on all sides, so that rounding decides nothing
    inner = target_grid(VoxelGrid((10, 13, 5), STRAIGHT), affine).matrix
    inner[:3, 3] += STRAIGHT[:3, :3] @ [2.3, 2.3, 2.3]
    target = VoxelGrid((6, 7, 4), inner)
    processor = ResampleVolumes(VoxelGrid((6, 7, 4), inner), interpolation=interpolation)
    expected = sampled(data[..., 0], STRAIGHT, target, ORDERS[interpolation])
    assert np.abs(expected).min() > 0
    assert np.abs(result(processor, dataset(data))[..., 0] - expected).max() < 1e-11 * 200


@pytest.mark.parametrize("interpolation", ORDERS)
@pytest.mark.parametrize("affine", [AXES, OBLIQUE])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1"])
def test_resampling_keeps_the_contract(interpolation, affine, dtype):
    processor = ResampleVolumes(target_affine=affine, interpolation=interpolation)
    for order in "CF":
        data = volumes((40, 41, 22, 4), dtype, order)
        check_processor(processor, dataset(data))
        if dtype[0] == "f":
            data[5:8, 6, 7, 2] = np.nan
            check_processor(processor, dataset(data))


@pytest.mark.parametrize("affine", [AXES, OBLIQUE])
@pytest.mark.parametrize("interpolation", ORDERS)
def test_missing_values_stay_where_they_are(affine, interpolation):
    data = volumes()
    data[4:9, 5:10, 3:6, 1] = np.nan
    data[12, 12, 8, 1] = np.inf
    processor = ResampleVolumes(target_affine=affine, interpolation=interpolation)
    found = result(processor, dataset(data))
    whole = result(processor, dataset(volumes()))
    assert np.isfinite(found[..., [0, 2, 3]]).all()
    assert np.array_equal(found[..., [0, 2, 3]], whole[..., [0, 2, 3]])
    absent = SpatialImage(~np.isfinite(data[..., 1]), STRAIGHT)
    nearest = resample_image(absent, (affine,), interpolation="nearest").data
    assert nearest.any()
    assert np.array_equal(np.isnan(found[..., 1]), nearest)
    # far away nothing changes
    corner = (slice(0, 3), slice(0, 3), slice(0, 2))
    assert whole[corner][..., 1].any()
    assert np.abs(found[corner][..., 1] - whole[corner][..., 1]).max() < 2.0


def test_any_loop_dims():
    data = volumes((9, 8, 7, 2, 3))
    dims = ("x", "y", "z", "run", "time")
    processor = ResampleVolumes(target_affine=np.diag([2.0, 4.0, 2.0]))
    several = result(processor, dataset(data, dims))
    single = result(processor, dataset(data[..., 1, 2], dims[:3]))
    assert single.ndim == 3
    assert np.array_equal(several[..., 1, 2], single)
    first = dataset(np.moveaxis(data[..., 1, :], -1, 0), ("time", *dims[:3]))
    assert np.array_equal(result(processor, first), np.moveaxis(several[..., 1, :], -1, 0))


def test_the_same_grid_leaves_volumes_alone():
    ds = dataset(volumes(dtype="i2"))
    processor = ResampleVolumes(target_affine=STRAIGHT)
    found = result(processor, ds)
    assert found.dtype == "i2"
    assert np.array_equal(found, ds.signal.values)


def test_coordinates_that_follow():
    own = {"x": np.arange(16) * 3.0, "note": ("time", list("abcd"))}
    ds = dataset(volumes()).drop_vars(["x", "y", "z"]).assign_coords(own)
    after = Chain(ds).then(ResampleVolumes(target_affine=AXES)).output
    assert after["x"].values.tolist() == list(range(after.sizes["x"]))  # (of the new grid)
    with pytest.raises(ValueError, match="does not count their voxels"):
        Chain(dataset(volumes()).assign_coords(own)).then(ResampleVolumes(target_affine=AXES))
    assert after.note.values.tolist() == list("abcd")
    assert after.signal.dims == ("x", "y", "z", "time")


# ---------------------------------------------------------------------- parameters


def test_a_target_in_memory_is_its_grid(tmp_path):
    atlas = SpatialImage(np.zeros((5, 6, 7), "i2"), OBLIQUE)
    by_grid = ResampleVolumes(target_affine=OBLIQUE, target_shape=(5, 6, 7))
    for target in (
        atlas,
        atlas.grid,
        to_nibabel(atlas),
        dataset(volumes((5, 6, 7, 2)), affine=OBLIQUE),
    ):
        found = ResampleVolumes(target)
        assert found.target_img is None
        assert voxel_grid(Chain(dataset(volumes())).then(found).output) == atlas.grid
    assert ResampleVolumes(atlas) == by_grid

    path = tmp_path / "atlas.nii"
    nibabel.save(to_nibabel(atlas), path)
    by_path = ResampleVolumes(path)
    assert by_path == ResampleVolumes(str(path))
    again = ps.Pipeline.from_yaml(ps.Pipeline([by_path, by_grid]).to_yaml())
    assert list(again) == [by_path, by_grid]
    stored = load_image(path).grid
    assert np.array_equal(
        result(by_path, dataset(volumes())), result(ResampleVolumes(stored), dataset(volumes()))
    )
    before = by_path.canonical()
    nibabel.save(to_nibabel(SpatialImage(np.ones((5, 6, 7), "i2"), OBLIQUE)), path)
    assert by_path.canonical() == before  # its values do not matter
    nibabel.save(to_nibabel(SpatialImage(np.ones((5, 6, 8), "i2"), OBLIQUE)), path)
    assert by_path.canonical() != before


def test_errors_of_parameters(tmp_path):
    with pytest.raises(ValueError, match="say where to resample to"):
        ResampleVolumes()
    with pytest.raises(ValueError, match="not both"):
        ResampleVolumes("atlas.nii", target_affine=AXES)
    with pytest.raises(ValueError, match="not both"):
        ResampleVolumes(VoxelGrid((5, 6, 7), OBLIQUE), target_shape=(5, 6, 7))
    with pytest.raises(TypeError, match="interpolation='cubic' must be one of"):
        ResampleVolumes(target_affine=AXES, interpolation="cubic")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Chain(dataset(volumes())).then(ResampleVolumes(tmp_path / "nowhere.nii"))
    plain = ps.make_dataset(volumes(), ("x", "y", "z", "time"))
    with pytest.raises(ValueError, match="the volumes have no affine"):
        Chain(plain).then(ResampleVolumes(target_affine=AXES))
