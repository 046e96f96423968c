"""Images in memory, their grids, and images as parameters of processors."""

import gzip
import os
import pickle
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest

import penstock as ps
from penstock.fmri.images.images import (
    SpatialImage,
    VoxelGrid,
    adopt_images,
    check_images_have_paths,
    image_digests,
    load_image,
    plain_images,
    same_grid,
    to_nibabel,
    voxel_grid,
    voxel_sizes,
)

AFFINE = np.array([[-3.0, 0.0, 0.0, 78.0], [0, 2.9, 0.6, -112], [0, -0.8, 3.2, -50], [0, 0, 0, 1]])


def values(shape=(4, 5, 6), dtype="f4"):
    return (np.arange(np.prod(shape)).reshape(shape) % 50).astype(dtype)


def dataset(data, affine=AFFINE):
    dims = ("x", "y", "z", "time")[: data.ndim]
    coords = {} if affine is None else {"affine": (("affine_row", "affine_column"), affine)}
    return ps.make_dataset(data, dims, coords=coords)


def unread(data):
    ds = dataset(data)
    return ds.assign(signal=ds.signal.chunk())


@pytest.fixture
def image_file(tmp_path):
    def write(data, name="image.nii.gz", affine=AFFINE):
        path = tmp_path / name
        nibabel.save(nibabel.Nifti1Image(data, affine), path)
        return path

    return write


# ---------------------------------------------------------------------- loading


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
def test_every_kind_of_image_gives_the_same(image_file, dtype):
    data = values(dtype=dtype)
    path = image_file(data)
    given = [path, str(path), nibabel.load(path), dataset(data)]
    given.append(SpatialImage(data, AFFINE))
    given.append(nibabel.Nifti1Image(data, AFFINE))
    for image in given:
        found = load_image(image)
        assert found.data.dtype == dtype
        assert np.array_equal(found.data, data)
        assert np.allclose(found.affine, AFFINE, atol=1e-5)
        assert same_grid(found, AFFINE_GRID)
    assert load_image(path).source == str(path)
    assert load_image(dataset(data)) == load_image(given[-1])


AFFINE_GRID = VoxelGrid((4, 5, 6), AFFINE)


def test_scaled_integers_are_floats(tmp_path):
    stored = nibabel.Nifti1Image(values(dtype="i2"), AFFINE)
    stored.header.set_slope_inter(0.5, 2.0)
    nibabel.save(stored, tmp_path / "scaled.nii")
    found = load_image(tmp_path / "scaled.nii")
    assert found.data.dtype == "f8"
    assert np.array_equal(found.data, nibabel.load(tmp_path / "scaled.nii").get_fdata())


def test_dims_are_checked_before_anything_is_read(image_file):
    maps = image_file(values((4, 5, 6, 3)))
    with pytest.raises(
        ValueError, match=r"the mask .*4 dims \(4 x 5 x 6 x 3\) where 3 are .*one v"
    ):
        load_image(maps, name="the mask")
    assert load_image(maps, ndim=4).shape == (4, 5, 6, 3)
    assert load_image(maps, ndim=(3, 4)).shape == (4, 5, 6, 3)
    single = image_file(values((4, 5, 6, 1)), "single.nii")
    assert load_image(single).shape == (4, 5, 6)
    assert load_image(single, ndim=4).shape == (4, 5, 6, 1)
    assert np.array_equal(load_image(single).data, values())
    assert load_image(image_file(values(), "three.nii"), ndim=4).shape == (4, 5, 6, 1)  # one map
    with ps.testing.raise_if_computes(), pytest.raises(ValueError, match="where 3 are expected"):
        load_image(unread(values((4, 5, 6, 2))))


def test_a_file_that_changes_is_read_again(image_file):
    path = image_file(values())
    assert load_image(path) is load_image(path)
    before = load_image(path).digest
    image_file(values() + 1)
    os.utime(path, ns=(0, 12345))
    assert load_image(path).digest != before


def test_errors_of_files(tmp_path, image_file):
    with pytest.raises(FileNotFoundError, match=r"atlas: no such file: .*nowhere\.nii"):
        load_image(tmp_path / "nowhere.nii", name="atlas")
    (tmp_path / "text.nii").write_text("not an image at all" * 50)
    with pytest.raises(ValueError, match=r"text\.nii is not an image that can be read"):
        load_image(tmp_path / "text.nii")
    noise = np.random.default_rng(0).standard_normal((20, 20, 20))
    whole = image_file(noise).read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"short\.nii\.gz is cut short or damaged"):
        load_image(tmp_path / "short.nii.gz")
    (tmp_path / "short.nii").write_bytes(gzip.decompress(whole)[:3000])
    with pytest.raises(ValueError, match=r"short\.nii is cut short or damaged"):
        load_image(tmp_path / "short.nii")


def test_errors_of_objects():
    with pytest.raises(TypeError, match="mask must be a path, a nibabel image"):
        load_image(np.zeros((2, 2, 2)), name="mask")
    with pytest.raises(TypeError, match="a dataset with an affine, got DataArray"):
        load_image(dataset(values()).signal)
    with pytest.raises(ValueError, match=r"no affine .*with_affine\(ds, matrix\)"):
        load_image(dataset(values(), affine=None))
    with pytest.raises(ValueError, match=r"dims x, y and z, but the data have \('channel', 'time'"):
        voxel_grid(ps.make_dataset(np.zeros((2, 3)), sampling_frequency=1.0))
    with pytest.raises(ValueError, match="cannot be inverted"):
        SpatialImage(values(), np.diag([1.0, 0, 1, 1]))
    with pytest.raises(ValueError, match="4 x 4 matrix of finite numbers"):
        SpatialImage(values(), np.diag([1.0, np.nan, 1, 1]))
    with pytest.raises(ValueError, match="holds numbers, not complex128"):
        SpatialImage(values(dtype="c16"), AFFINE)
    with pytest.raises(ValueError, match="three or four dims"):
        SpatialImage(np.zeros((3, 3)), AFFINE)


# ---------------------------------------------------------------------- identity


def test_images_are_what_they_hold():
    image = SpatialImage(values(), AFFINE)
    assert image == SpatialImage(np.asfortranarray(values()), AFFINE, source="elsewhere.nii")
    assert image == SpatialImage(values().astype(">f4"), AFFINE)
    assert image == pickle.loads(pickle.dumps(image))
    assert len({image, SpatialImage(values(), AFFINE)}) == 1
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    others = [
        SpatialImage(values() + 1, AFFINE),
        SpatialImage(values(), shifted),
        SpatialImage(values(dtype="f8"), AFFINE),
        SpatialImage(values().reshape(5, 4, 6), AFFINE),
        SpatialImage(values().view("i4"), AFFINE),
    ]
    assert len({image, *others}) == 6
    assert len(repr(image)) < 100


def test_images_cannot_be_written_to():
    image = load_image(SpatialImage(values(), AFFINE))
    with pytest.raises(ValueError, match="read-only"):
        image.data[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        image.affine[0, 0] = 1


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i8", "f4", "f8"])
def test_to_nibabel_keeps_values_and_grid(dtype, tmp_path):
    image = SpatialImage(values(dtype=dtype), AFFINE)
    nibabel.save(to_nibabel(image), tmp_path / "out.nii")
    again = load_image(tmp_path / "out.nii")
    assert again.data.dtype == ("u1" if dtype == "?" else dtype)
    assert np.array_equal(again.data, image.data)
    assert same_grid(again, image)


# ---------------------------------------------------------------------- grids


def test_grids(image_file):
    grid = voxel_grid(dataset(values()))
    assert grid == VoxelGrid([4, 5, 6], AFFINE.tolist())
    assert len({grid, voxel_grid(SpatialImage(values(), AFFINE))}) == 1
    assert np.array_equal(grid.matrix, AFFINE)
    expected = np.linalg.norm(AFFINE[:3, :3], axis=0)
    assert np.allclose(grid.voxel_sizes, expected)
    assert np.allclose(voxel_sizes(AFFINE), expected)
    path = image_file(values((4, 5, 6, 2)))
    assert same_grid(path, grid)
    with pytest.raises(ValueError, match="three positive lengths"):
        VoxelGrid((4, 0, 6), AFFINE)
    with pytest.raises(TypeError, match="ndarray has no voxel grid"):
        voxel_grid(values())


def test_grids_are_the_same_where_affines_are_close():
    grid = VoxelGrid((4, 5, 6), AFFINE)
    assert same_grid(grid, VoxelGrid((4, 5, 6), AFFINE + 1e-9))
    assert not same_grid(grid, VoxelGrid((4, 5, 6), AFFINE + 1e-2))
    assert not same_grid(grid, VoxelGrid((4, 5, 7), AFFINE))


def test_the_grid_of_a_dataset_reads_nothing():
    with ps.testing.raise_if_computes():
        assert voxel_grid(unread(values((4, 5, 6, 3)))).shape == (4, 5, 6)


# ---------------------------------------------------------------------- parameters


@dataclass(frozen=True, repr=False)
class Masked(ps.Processor):
    """A processor with an image, as others are written."""

    mask_img: str | SpatialImage | None = None

    def __post_init__(self):
        adopt_images(self, "mask_img")
        super().__post_init__()

    def parameters(self):
        return plain_images(super().parameters())

    def canonical(self):
        return {**super().canonical(), "images": image_digests(self, "mask_img")}

    def check_writable(self):
        check_images_have_paths(self, "mask_img")


def test_images_as_parameters(image_file):
    path = image_file(values())
    by_path, in_memory = Masked(path), Masked(SpatialImage(values(), AFFINE))
    assert by_path.mask_img == str(path)
    assert Masked(nibabel.Nifti1Image(values(), AFFINE)) == in_memory
    assert Masked(dataset(values())) == in_memory
    assert Masked().canonical()["images"] == {}

    again = ps.Pipeline.from_yaml(ps.Pipeline([by_path]).to_yaml(), allow=[__name__])[0]
    assert again == by_path
    with pytest.raises(ValueError, match=r"mask_img is only in memory .* save the image"):
        ps.Pipeline([in_memory]).to_yaml()
    loaded = Masked(load_image(path))
    assert loaded.parameters() == {"mask_img": str(path)}
    ps.Pipeline([loaded]).to_yaml()


def test_the_content_of_an_image_decides_what_a_processor_is(image_file):
    path = image_file(values())
    before = Masked(path).canonical()
    in_memory = Masked(SpatialImage(values(), load_image(path).affine))
    assert in_memory.canonical()["images"] == before["images"]
    assert ps.Pipeline([in_memory]).canonical()[0]["parameters"]["mask_img"].startswith("sha256:")
    image_file(values() + 1)
    os.utime(path, ns=(0, 777))
    assert Masked(path).canonical() != before
