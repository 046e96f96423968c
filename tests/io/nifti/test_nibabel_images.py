"""Images of nibabel as datasets and back: nothing is lost, and what was mended counts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.fmri import (
    NiftiLabelsMasker,
    NiftiMasker,
    SpatialImage,
    as_volumes,
    load_image,
)
from penstock.fmri.images.volumes import repetition_time
from penstock.io.nifti.open import close_streams, open_streams
from penstock.io.nifti.write import write_nifti
from penstock.testing import raise_if_computes

nib = pytest.importorskip("nibabel")

SHAPE = (6, 5, 4, 12)
OBLIQUE = np.array([[-2.0, 0.3, 0, 30], [0.3, 2.0, 0.2, -40], [0, -0.2, 3.5, -20], [0, 0, 0, 1]])
MOVED = np.array([[2.5, 0, 0, 1], [0, 2.5, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]])
FIELDS = (
    *("dim_info", "intent_p1", "intent_p2", "intent_p3", "intent_code", "intent_name"),
    *("slice_start", "slice_end", "slice_code", "slice_duration", "cal_min", "cal_max"),
    *("toffset", "xyzt_units", "descrip", "aux_file", "qform_code", "sform_code", "dim"),
)


@pytest.fixture(autouse=True)
def no_streams() -> None:
    close_streams()


def values(shape: tuple[int, ...] = SHAPE, dtype: Any = "int16") -> np.ndarray:
    return np.random.default_rng(2).integers(-999, 999, shape).astype(dtype)


def rich_image(kind: Any = None, unit: str = "msec") -> Any:
    """An image whose header says all that it can."""
    image = (kind or nib.Nifti1Image)(values(), None)
    header = image.header
    image.set_sform(OBLIQUE, 4)
    image.set_qform(MOVED, 1)
    header.set_xyzt_units("mm", unit)
    header["pixdim"][4] = {"sec": 2.5, "msec": 2500, "usec": 2.5e6}[unit]
    header.set_dim_info(freq=0, phase=1, slice=2)
    header.set_slice_duration(2500 / 4 if unit == "msec" else 0.6)
    header["slice_start"], header["slice_end"], header["slice_code"] = 0, 3, 3
    header.set_intent("t test", (14,), name="contrast")
    header["descrip"], header["aux_file"] = b"a study of rest", b"none.txt"
    header["cal_min"], header["cal_max"], header["toffset"] = -3, 3, 1.5
    extensions = header.extensions
    extensions.append(nib.nifti1.Nifti1Extension("comment", b"made by hand"))
    extensions.append(nib.nifti1.Nifti1Extension(4, b'<?xml version="1.0"?><AFNI/>'))
    return image


def assert_same(found: Any, expected: Any, *, fields: tuple[str, ...] = FIELDS) -> None:
    for name in fields:
        assert np.array_equal(found.header[name], expected.header[name]), name
    assert np.allclose(found.header["pixdim"], expected.header["pixdim"], rtol=1e-6)
    assert np.allclose(found.affine, expected.affine, atol=1e-5)
    assert np.allclose(found.header.get_qform(), expected.header.get_qform(), atol=1e-4)
    contents = [
        [(e.get_code(), bytes(e.content)) for e in image.header.extensions]
        for image in (found, expected)
    ]
    assert contents[0] == contents[1]
    assert np.array_equal(found.get_fdata(), expected.get_fdata())


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("unit", ["sec", "msec", "usec"])
@pytest.mark.parametrize("name", ["rich.nii", "rich.nii.gz"])
def test_everything_comes_back(tmp_path: Path, kind: Any, unit: str, name: str) -> None:
    image = rich_image(kind, unit)
    path = tmp_path / name
    image.to_filename(path)
    for source in (image, nib.load(path)):
        ds = ps.from_nibabel(source)
        assert repetition_time(ds) == 2.5
        found = ps.to_nibabel(ds)
        assert type(found) is kind
        assert_same(found, nib.load(path))
    # files, stores and their copies carry the same
    ds = ps.open_dataset(path)
    assert_same(ps.to_nibabel(ds), nib.load(path))
    again = nib.load(write_nifti(ds, tmp_path / f"again-{name}"))
    assert_same(again, nib.load(path))
    assert type(again) is kind
    ps.Pipeline().run({"as": str(path)}, tmp_path, progress=False)
    assert_same(ps.to_nibabel(ps.open_dataset(tmp_path / "as.zarr")), nib.load(path))


def test_slices_are_left_out_where_others_lie(tmp_path: Path) -> None:
    ds = ps.from_nibabel(rich_image())
    kept = ps.to_nibabel(ds.isel(time=slice(3, 9)))
    assert int(kept.header["slice_code"]) == 3
    cropped = ps.to_nibabel(ds.isel(z=slice(0, 2)))
    for name in ("dim_info", "slice_code", "slice_end", "slice_duration"):
        assert not cropped.header[name]
    assert cropped.header["descrip"].item() == b"a study of rest"
    assert len(cropped.header.extensions) == 2


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.sampled_from([0, 1, 2, 3, 4])] * 2),
    st.lists(st.floats(-0.57, 0.57), min_size=3, max_size=3),
    st.tuples(*[st.sampled_from([0.5, 1.0, 3.3])] * 3),
    st.sampled_from([-1.0, 1.0, 0.0]),
    st.booleans(),
)
def test_orientations_are_those_of_nibabel_and_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    codes: tuple[int, int],
    quaternion: list[float],
    sizes: tuple[float, float, float],
    qfac: float,
    big: bool,
) -> None:
    header = nib.Nifti1Header(endianness=">" if big else "<")
    data = values((4, 3, 2, 5))
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["pixdim"] = [qfac, *sizes, 2, 1, 1, 1]
    header["sform_code"], header["qform_code"] = codes
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion
    header["qoffset_x"], header["qoffset_z"] = -12.5, 30
    header["srow_x"], header["srow_y"] = OBLIQUE[0], OBLIQUE[1]
    header["srow_z"], header["vox_offset"], header["xyzt_units"] = OBLIQUE[2], 352, 10
    path = tmp_path_factory.mktemp("any") / "any.nii"
    order = ">" if big else "<"
    stored = data.astype(data.dtype.newbyteorder(order)).tobytes(order="F")
    path.write_bytes(header.binaryblock + bytes(4) + stored)
    expected = nib.load(path)
    ds = ps.open_dataset(path)
    assert np.array_equal(ds["affine"].values, expected.affine)
    for found in (ps.to_nibabel(ds), ps.to_nibabel(ps.from_nibabel(expected))):
        assert np.allclose(found.affine, expected.affine, atol=1e-4)
        assert found.header["sform_code"] == codes[0]
        assert found.header["qform_code"] == codes[1]
        if codes[1]:
            assert np.allclose(found.get_qform(), expected.get_qform(), atol=1e-4)
        assert np.array_equal(found.get_fdata(), data)


# ---------------------------------------------------------------------- mended in memory


@pytest.fixture(params=["bold.nii", "bold.nii.gz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    image = nib.Nifti1Image(values(), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1
    image.to_filename(tmp_path / request.param)
    return tmp_path / request.param


def test_values_stay_in_the_file(path: Path) -> None:
    image = nib.load(path)
    with raise_if_computes():
        ds = as_volumes(image)
    assert np.array_equal(ds.signal[..., 4:6].values, values()[..., 4:6])
    assert not image.in_memory
    assert bool(open_streams(path)) == path.name.endswith(".gz")
    assert ds.attrs["source"] == str(path)
    assert np.array_equal(pickle.loads(pickle.dumps(ds)).signal.values, values())


def test_headers_that_were_mended_count(path: Path) -> None:
    image = nib.load(path)
    image.set_sform(OBLIQUE)
    image.header.set_zooms((2, 2, 3.5, 2.0))
    ds = as_volumes(image)
    assert np.array_equal(ds["affine"].values, image.affine)
    assert repetition_time(ds) == 2.0
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 720
    assert repetition_time(as_volumes(image)) == 0.72
    # another image over the same file
    other = nib.Nifti1Image(image.dataobj, MOVED)
    assert np.array_equal(as_volumes(other)["affine"].values, MOVED)
    assert np.array_equal(as_volumes(other).signal.values, values())


def test_a_mended_time_comes_before_the_sidecar(path: Path) -> None:
    sidecar = path.with_name("bold.json")
    sidecar.write_text(json.dumps({"RepetitionTime": 3.0}))
    with pytest.warns(UserWarning, match="3 s in"):
        assert repetition_time(as_volumes(nib.load(path))) == 3.0
    image = nib.load(path)
    image.header["pixdim"][4] = 2.0
    assert repetition_time(as_volumes(image)) == 2.0


def test_values_that_were_changed_count(path: Path) -> None:
    changed = values().astype(float)
    changed[2] = 7.5
    image = nib.load(path)
    image.get_fdata()[2] = 7.5
    assert np.array_equal(as_volumes(image).signal.values, changed)
    image.uncache()
    assert np.array_equal(as_volumes(image).signal.values, values())
    array = nib.Nifti1Image(values(), np.eye(4))
    array.to_filename(path)
    array.dataobj[...] = 3
    assert (as_volumes(array).signal.values == 3).all()
    masker = NiftiMasker(nib.Nifti1Image(np.ones(SHAPE[:3], "u1"), np.eye(4)))
    assert (masker.fit_transform(array) == 3).all()


def test_atlases_that_were_changed_count(tmp_path: Path) -> None:
    labels = np.ones(SHAPE[:3], "i2")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "atlas.nii.gz")
    image = nib.load(tmp_path / "atlas.nii.gz")
    bold = nib.Nifti1Image(values(dtype="float32"), np.eye(4))
    image.get_fdata()  # (kept, and not changed)
    assert load_image(image) == load_image(tmp_path / "atlas.nii.gz")
    image.get_fdata()[3:] = 2
    found = NiftiLabelsMasker(image).fit_transform(bold)
    assert np.allclose(found[:, 1], values()[3:].mean(axis=(0, 1, 2)))
    mask = nib.load(tmp_path / "atlas.nii.gz")
    mask.get_fdata()[2:] = 0
    assert NiftiMasker(mask).fit_transform(bold).shape == (12, 2 * 20)


def test_values_that_nilearn_keeps_count(path: Path) -> None:
    nilearn = pytest.importorskip("nilearn.image")
    image = nib.load(path)
    nilearn.get_data(image)[1] = 5
    assert (as_volumes(image).signal[1].values == 5).all()


def test_slopes_are_those_with_which_the_image_reads(tmp_path: Path) -> None:
    image = nib.Nifti1Image(values(), np.eye(4))
    image.header.set_slope_inter(0.1, 3)
    path = tmp_path / "scaled.nii"
    image.to_filename(path)
    loaded = nib.load(path)
    loaded.header.set_slope_inter(9, 9)  # (for saving: nibabel reads on with the old ones)
    assert np.array_equal(as_volumes(loaded).signal.values, loaded.get_fdata())
    assert np.array_equal(as_volumes(nib.load(path)).signal.values, loaded.get_fdata())
    blank = nib.Nifti1Image(values(), np.eye(4))
    blank.header.set_slope_inter(2, 0)  # (arrays are not scaled)
    assert np.array_equal(as_volumes(blank).signal.values, values())


def test_a_file_that_is_gone_is_named(path: Path) -> None:
    image = nib.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is no longer there"):
        as_volumes(image)


# ---------------------------------------------------------------------- other images


def test_images_of_every_kind(tmp_path: Path) -> None:
    data = values(dtype="float32")
    made = {
        "mgh": nib.MGHImage(data, OBLIQUE),
        "img": nib.Spm2AnalyzeImage(data, np.diag([-3.0, 3, 3, 1])),
        "hdr": nib.Nifti1Pair(data, OBLIQUE),
        "nii": nib.Nifti2Image(data, OBLIQUE),
        "mgz": nib.MGHImage(data, OBLIQUE),
    }
    made["mgh"].header.set_zooms((2, 2, 2, 1500.0))
    made["mgz"].header.set_zooms((2, 2, 2, 1500.0))
    for suffix, image in made.items():
        image.to_filename(tmp_path / f"a.{suffix}")
        for source in (image, nib.load(tmp_path / f"a.{suffix}")):
            ds = ps.from_nibabel(source)
            assert np.array_equal(ds.signal.values, data)
            assert np.allclose(ds["affine"].values, image.affine)
            assert ds.attrs["format"]
            if suffix.startswith("mg"):
                assert repetition_time(ds) == 1.5


def test_images_of_bytes_and_streams() -> None:
    image = nib.Nifti1Image.from_bytes(rich_image().to_bytes())
    ds = ps.from_nibabel(image)
    assert np.array_equal(ds.signal.values, values())
    part = ds.signal[[0, 3, 5], 1:3, :, ::-4]
    assert np.array_equal(part.values, values()[[0, 3, 5], 1:3, :, ::-4])
    assert_same(ps.to_nibabel(ds), image)


def test_vectors(tmp_path: Path, data: Path) -> None:
    field = nib.Nifti1Image(values((4, 3, 2, 1, 3), "float32"), OBLIQUE)
    field.header.set_intent("vector")
    field.to_filename(tmp_path / "warp.nii.gz")
    for source in (field, nib.load(tmp_path / "warp.nii.gz")):
        ds = ps.from_nibabel(source)
        assert ds.signal.dims == ("x", "y", "z", "component")
        assert_same(ps.to_nibabel(ds), field)
    ones = nib.Nifti1Image(np.ones((4, 3, 2), "i2"), OBLIQUE)
    with pytest.raises(ValueError, match=r"ds\.isel\(component"):
        NiftiLabelsMasker(ones).fit_transform(field)
    small = data / "next" / "fmri" / "5D_small.nii"
    if small.exists():
        image = nib.load(small)
        assert_same(ps.to_nibabel(ps.from_nibabel(image)), image, fields=("dim", "intent_code"))


def test_grayordinates(tmp_path: Path) -> None:
    axes = nib.cifti2
    places = axes.BrainModelAxis.from_mask(np.ones((3, 4, 5), bool), "thalamus_left", OBLIQUE)
    header = axes.Cifti2Header.from_axes((axes.SeriesAxis(0, 0.72, 20), places))
    data = np.random.default_rng(0).standard_normal((20, 60)).astype("f4")
    image = nib.Cifti2Image(data, header)
    image.nifti_header.set_intent("ConnDenseSeries")
    image.to_filename(tmp_path / "a.dtseries.nii")
    expected = ps.open_dataset(tmp_path / "a.dtseries.nii")
    for source in (image, nib.load(tmp_path / "a.dtseries.nii")):
        ds = ps.from_nibabel(source)
        assert ds.signal.dims == ("grayordinate", "time")
        assert np.array_equal(ds.signal.values, data.T)
        assert np.array_equal(ds.signal[5:50:3, [7, 2]].values, data.T[5:50:3, [7, 2]])
        assert ds["voxel_x"].equals(expected["voxel_x"])
        assert repetition_time(ds) == 0.72


def test_what_is_no_image() -> None:
    with pytest.raises(TypeError, match="image of nibabel"):
        ps.from_nibabel(np.ones((3, 3, 3)))
    colours = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ValueError, match="colours"):
        ps.from_nibabel(nib.Nifti1Image(colours, np.eye(4)))
    with pytest.raises(ValueError, match="no affine"):
        ps.from_nibabel(nib.Nifti1Image(values(), None))
    with pytest.raises(ValueError, match="x, y, z and time"):
        ps.to_nibabel(ps.make_dataset(np.zeros((3, 9)), sampling_frequency=1.0))


# ---------------------------------------------------------------------- lazy on the way out


def test_images_made_of_files_read_when_they_are_asked(path: Path) -> None:
    ds = ps.open_dataset(path)
    with raise_if_computes():
        image = ps.to_nibabel(ds)
    assert np.array_equal(image.slicer[..., 3:5].get_fdata(), values()[..., 3:5])
    assert np.array_equal(np.asarray(image.dataobj[2, ..., 5]), values()[2, ..., 5])
    assert np.array_equal(image.get_fdata(), values())
    halved = ps.Pipeline([ps.Apply(np.negative, core_dims=("time",))])(ds)
    image = ps.to_nibabel(halved)
    image.to_filename(path.with_name("negative.nii"))
    assert np.array_equal(nib.load(path.with_name("negative.nii")).get_fdata(), -values())


def test_images_go_to_nilearn_and_into_pipelines(path: Path, tmp_path: Path) -> None:
    nilearn = pytest.importorskip("nilearn.maskers")
    labels = nib.Nifti1Image(np.ones(SHAPE[:3], "i2"), np.eye(4))
    image = ps.to_nibabel(ps.open_dataset(path))
    expected = NiftiLabelsMasker(labels).fit_transform(path)
    found = nilearn.NiftiLabelsMasker(labels, standardize=None).fit_transform(image)
    assert np.allclose(found, expected, rtol=1e-6)
    assert np.allclose(NiftiLabelsMasker(labels).fit_transform(image), expected, rtol=1e-12)
    report = ps.Pipeline().run({"image": nib.load(path)}, tmp_path / "out", progress=False)
    assert not report.failed
    found = ps.open_dataset(tmp_path / "out" / "image.zarr")
    assert np.array_equal(found.signal.values, values())


def test_the_way_back_says_its_units(tmp_path: Path) -> None:
    image = nib.Nifti1Image(values(dtype="float32"), OBLIQUE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 0.72
    labels = nib.Nifti1Image(np.ones(SHAPE[:3], "i2"), OBLIQUE)
    masker = NiftiLabelsMasker(labels).fit(image)
    signals = masker.transform(image)
    masker.inverse_transform(signals, tmp_path / "out.nii.gz")
    for found in (masker.inverse_transform(signals), nib.load(tmp_path / "out.nii.gz")):
        assert found.header.get_xyzt_units() == ("mm", "sec")
        assert np.allclose(found.header.get_zooms()[3], 0.72)
        assert np.allclose(found.affine, OBLIQUE, atol=1e-5)
        assert (found.header["sform_code"], found.header["qform_code"]) == (2, 0)
    assert masker.inverse_transform(signals[0]).header.get_xyzt_units() == ("mm", "sec")
    assert masker.labels_img_.header.get_xyzt_units()[0] == "mm"


def test_maps_are_no_series() -> None:
    maps = SpatialImage(values((4, 3, 2, 5), "float32"), OBLIQUE)
    image = maps.to_nibabel()
    assert image.header.get_zooms()[3] == 0
    assert repetition_time(as_volumes(image)) is None
