"""Stored values reach sums, tables, stores and images as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Penstock

import penstock as ps
from penstock.fmri import CleanSignals, NiftiLabelsMasker, NiftiMasker, SmoothVolumes, as_volumes

nibabel = pytest.importorskip("nibabel")

AFFINE = np.diag([3.0, 3, 3, 1])
SHAPE = (6, 5, 4, 8)
STORED = {
    "int16": (1.0, 0.0, "float32"),
    "uint16": (1.0, 0.0, "float32"),
    "int16 × 0.25": (0.25, 0.0, "float32"),
    "int16 × 75.54": (75.54, 3.0, "float64"),
    "int32": (1.0, 0.0, "float64"),
    "uint32": (1.0, 0.0, "float64"),
    "int64": (1.0, 0.0, "float64"),
    "float32": (1.0, 0.0, "float32"),
    "float32 × 0.1": (0.1, 0.0, "float64"),
    "float64": (1.0, 0.0, "float64"),
}


def stored_values(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    dtype = np.dtype(kind.split()[0])
    if dtype.kind == "f":
        return (rng.standard_normal(SHAPE) + 1e4).astype(dtype)
    top = min(np.iinfo(dtype).max, 2**52 if dtype.itemsize == 8 else 2**31 - 1)
    return rng.integers(top // 2, top, SHAPE).astype(dtype)


def write(path: Path, kind: str) -> np.ndarray:
    """An image of these stored values; returns what they mean, as nibabel says."""
    slope, inter, _ = STORED[kind]
    values = stored_values(kind)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_sform(AFFINE, 1)
    header.set_zooms((3, 3, 3, 2))
    header.set_xyzt_units("mm", "sec")
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, 352
    path.write_bytes(header.binaryblock + bytes(4) + values.tobytes(order="F"))
    return nibabel.load(path).get_fdata()


def atlas() -> object:
    labels = np.zeros(SHAPE[:3], "i2")
    labels[:3], labels[3:] = 1, 2
    return nibabel.Nifti1Image(labels, AFFINE)


def halves(values: np.ndarray, reduce: str = "mean") -> np.ndarray:
    parts = (values[:3], values[3:])
    return np.stack([getattr(part, reduce)(axis=(0, 1, 2)) for part in parts], axis=1)


@pytest.mark.parametrize("kind", STORED)
def test_files_and_images_keep_every_value(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bold.nii"
    values = write(path, kind)
    for source in (path, nibabel.load(path)):
        ds = as_volumes(source)
        assert ds.signal.dtype == STORED[kind][2]
        assert np.array_equal(ds.signal.values, values)
        everywhere = nibabel.Nifti1Image(np.ones(SHAPE[:3], "u1"), AFFINE)
        voxels = NiftiMasker(everywhere).fit_transform(source)
        assert np.array_equal(voxels.T.reshape(SHAPE), values)
    for strategy, reduce in (("mean", "mean"), ("sum", "sum"), ("maximum", "max")):
        found = NiftiLabelsMasker(atlas(), strategy=strategy).fit_transform(path)
        assert np.allclose(found, halves(values, reduce), rtol=1e-15, atol=0)
    if STORED[kind][:2] == (1.0, 0.0):
        array = nibabel.Nifti1Image(stored_values(kind), AFFINE, dtype=stored_values(kind).dtype)
        assert np.array_equal(as_volumes(array).signal.values, values)
        found = NiftiLabelsMasker(atlas(), strategy="sum").fit_transform(array)
        assert np.allclose(found, halves(values, "sum"), rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", ["int16", "int32", "int16 × 75.54", "float64"])
def test_what_is_written_holds_every_value(tmp_path: Path, kind: str, run_cli: Penstock) -> None:
    values = write(Path("bold.nii"), kind)
    for target in ("as.zarr", "as.nii"):
        done = run_cli("convert", "bold.nii", target, "--quiet")
        assert done.code == 0, done.err
        assert np.array_equal(ps.open_dataset(target).signal.values, values)
    assert np.array_equal(nibabel.load("as.nii").get_fdata(), values)
    nibabel.save(atlas(), "atlas.nii")
    run_cli("extract", "bold.nii", "--labels", "atlas.nii", "--out", "t.csv", "--quiet")
    table = np.genfromtxt("t.csv", delimiter=",", skip_header=1)[:, -2:]
    assert np.allclose(table, halves(values), rtol=1e-15, atol=0)


def test_info_says_what_is_stored_and_what_it_becomes(tmp_path: Path, run_cli: Penstock) -> None:
    for kind, text in {
        "int16": "as float32 (stored as int16)",
        "int32": "as float64 (stored as int32)",
        "int16 × 75.54": "as float64 (stored as int16 × 75.54 + 3)",
    }.items():
        write(Path("bold.nii"), kind)
        assert text in run_cli("info", "bold.nii").out


def test_integers_that_float32_rounds_are_not_rounded_on_the_way() -> None:
    values = stored_values("int32")
    ds = ps.make_dataset(
        values,
        ("x", "y", "z", "time"),
        sampling_frequency=0.5,
        coords={"affine": (("affine_row", "affine_column"), AFFINE)},
    )
    smoothed = ps.Pipeline([SmoothVolumes(1e-3)])(ds).signal
    assert smoothed.dtype == np.float64
    assert np.allclose(smoothed.values, values, rtol=1e-15, atol=0)
    cleaned = ps.Pipeline([CleanSignals(sample_mask=(0, 1, 2))])(ds).signal
    assert np.array_equal(cleaned.values, values[..., :3])


@pytest.mark.parametrize("kind", ["int32", "int16 × 75.54"])
def test_the_plan_counts_the_wider_type(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "bold.nii", kind)
    write(tmp_path / "narrow.nii", "int16")
    read = [
        ps.Pipeline([SmoothVolumes(4)]).plan(tmp_path / name).stages[0].bytes_in
        for name in ("bold.nii", "narrow.nii")
    ]
    assert read[0] == 2 * read[1]
