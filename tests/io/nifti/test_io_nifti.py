"""Images: NIfTI-1 and -2, pairs, Analyze, MGH and CIFTI-2, plain and compressed."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.io.nifti import stream as nifti_stream
from penstock.io.nifti.open import close_streams, open_nifti, open_streams
from penstock.io.registry import find_reader
from penstock.reading import reading_of
from penstock.testing import check_reader, raise_if_computes

nib = pytest.importorskip("nibabel")

SHAPE = (13, 11, 7, 24)
AFFINE = np.array([[-3.0, 0.2, 0, 60], [0.2, 3.0, 0.1, -40], [0, -0.1, 3.5, -20], [0, 0, 0, 1]])
HEADER_BYTES = 352


@pytest.fixture(autouse=True)
def no_streams() -> None:
    close_streams()


def volumes(shape: tuple[int, ...] = SHAPE, dtype: Any = "int16") -> np.ndarray:
    return np.random.default_rng(1).integers(-3000, 3000, shape).astype(dtype)


def write_image(
    path: Path,
    values: np.ndarray,
    *,
    kind: Any = None,
    tr: float | None = 2.5,
    units: str | int = "sec",
    scaling: tuple[float, float] = (1.0, 0.0),
    order: str = "<",
    **fields: Any,
) -> Path:
    """A single NIfTI file whose header says just this, with values stored as they are."""
    header = (kind or nib.Nifti1Header)(endianness=order)
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_sform(AFFINE, 1)
    header["pixdim"][1:4] = 3
    header["scl_slope"], header["scl_inter"] = scaling
    header["vox_offset"] = header.single_vox_offset
    if values.ndim > 3 and tr is not None:
        header["pixdim"][4] = tr
    header.set_xyzt_units("mm", units)
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4)
    content += values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def cifti(path: Path, first: Any = None, n_places: int = 90) -> np.ndarray:
    """A CIFTI-2 file of 30 vertices and 60 voxels; returns its values (places, first axis)."""
    axes = nib.cifti2
    surface = axes.BrainModelAxis.from_surface(np.arange(10, 40), 100, "cortex_left")
    voxels = axes.BrainModelAxis.from_mask(np.ones((3, 4, 5), bool), "thalamus_left", AFFINE)
    first = axes.SeriesAxis(3.0, 0.72, 50) if first is None else first
    header = axes.Cifti2Header.from_axes((first, surface + voxels))
    values = np.random.default_rng(3).standard_normal((len(first), n_places)).astype("f4")
    image = nib.Cifti2Image(values, header)
    compressed = path.suffix == ".gz"
    plain = path.with_suffix("") if compressed else path
    image.to_filename(plain)
    if compressed:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return values.T


def save(folder: Path, kind: str) -> Path:
    """A file of that kind."""
    path = folder / kind.split()[-1]
    name = kind.split()[0]
    if name == "CIFTI-2":
        cifti(path)
    elif name == "Analyze":
        nib.Spm2AnalyzeImage(volumes(), np.diag([-3.0, 3, 3, 1])).to_filename(path)
    elif name == "MGH":
        image = nib.MGHImage(volumes(dtype="float32"), AFFINE)
        image.header.set_zooms((3, 3, 3.5, 1500.0))
        image.to_filename(path)
    else:
        pair = not path.name.startswith("single")
        number = name[-1]
        image_class = getattr(nib, f"Nifti{number}{'Pair' if pair else 'Image'}")
        image = image_class(volumes(), AFFINE)
        image.header.set_slope_inter(0.25, 7)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((3, 3, 3.5, 2.5))
        image.to_filename(path)
    return path


KINDS = (
    "NIfTI-1 single.nii",
    "NIfTI-1 single.nii.gz",
    "NIfTI-2 single.nii",
    "NIfTI-2 single.nii.gz",
    "NIfTI-1 pair.hdr",
    "NIfTI-1 pair.img.gz",
    "NIfTI-2 pair.img",
    "Analyze analyze.hdr",
    "Analyze analyze.img",
    "MGH volume.mgh",
    "MGH volume.mgz",
    "CIFTI-2 series.dtseries.nii",
    "CIFTI-2 series.dtseries.nii.gz",
)


# ---------------------------------------------------------------------- every kind of file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*repetition time:UserWarning")
def test_every_kind_keeps_the_contract(tmp_path: Path, kind: str) -> None:
    ds = check_reader(save(tmp_path, kind))
    assert reading_of(ds.signal).sequential == kind.endswith("z")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*repetition time:UserWarning")
def test_values_and_affine_are_those_of_nibabel(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, kind)
    image = nib.load(path)
    expected = image.get_fdata()
    if kind.startswith("CIFTI"):  # (which nibabel takes for NIfTI where it is compressed)
        expected = expected.squeeze().T
    with raise_if_computes():
        double, single = (ps.open_dataset(path, dtype=dtype) for dtype in ("float64", "float32"))
    assert np.array_equal(double.signal.values, expected)
    assert np.array_equal(single.signal.values, expected.astype("float32"))
    if not kind.startswith("CIFTI"):
        assert single.signal.dims == ("x", "y", "z", "time")
        assert single["affine"].dims == ("affine_row", "affine_column")
        assert np.array_equal(single["affine"].values, image.affine)
        block = single.signal[..., 3:5].values
        assert block.transpose(3, 2, 1, 0).flags.c_contiguous
        assert reading_of(single.signal).interleaved


def test_large_files_keep_the_contract(tmp_path: Path) -> None:
    values = volumes((40, 41, 12, 30), "float32")
    for name in ("plain.nii", "compressed.nii.gz"):
        check_reader(write_image(tmp_path / name, values, scaling=(0.5, 3.0)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (0.1, 0.0), (2.5, -40.0)])
@pytest.mark.parametrize("name", ["values.nii", "values.nii.gz"])
def test_stored_types(tmp_path: Path, name: str, scaling: tuple[float, float], order: str) -> None:
    slope, inter = (float(np.float32(value)) for value in scaling)
    rng = np.random.default_rng(2)
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16"):
        dtype = np.dtype(kind)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            stored = rng.integers(limits.min, limits.max, (5, 4, 3, 6), dtype, endpoint=True)
        else:
            stored = (rng.standard_normal((5, 4, 3, 6)) * 100).astype(dtype)
            if dtype.kind == "c":
                stored = (stored * (1 - 2j)).astype(dtype)
        path = write_image(tmp_path / name, stored, scaling=scaling, order=order)
        wide = np.complex128 if dtype.kind == "c" else np.float64
        expected = stored.astype(wide) * slope + inter
        assert np.array_equal(open_nifti(str(path), dtype="float64").signal.values, expected)
        found = open_nifti(str(path), dtype="float32").signal.values
        assert found.dtype == (np.complex64 if dtype.kind == "c" else np.float32)
        assert np.array_equal(found, expected.astype(found.dtype)), dtype
        # by default nothing is lost, and nothing is wider than it must be
        exact = open_nifti(str(path)).signal
        assert np.array_equal(exact.values.astype(wide), expected), dtype
        small = ("u1", "i1", "u2", "i2", *(("f4", "c8") if slope == 1 else ()))
        real = exact.dtype.itemsize // (2 if dtype.kind == "c" else 1)
        assert real == (4 if kind in small and scaling != (0.1, 0.0) else 8), dtype
        close_streams()


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_a_slope_of_nothing_is_no_scaling(tmp_path: Path, slope: float) -> None:
    path = write_image(tmp_path / "values.nii", volumes(), scaling=(slope, 5.0))
    assert np.array_equal(open_nifti(str(path)).signal.values, volumes())


def test_files_open_as_what_they_are_whatever_their_name(tmp_path: Path) -> None:
    plain = write_image(tmp_path / "a.nii", volumes())
    compressed = write_image(tmp_path / "b.nii.gz", volumes())
    for path, name in ((plain, "plain.nii.gz"), (compressed, "compressed.nii"), (plain, "noname")):
        renamed = tmp_path / name
        renamed.write_bytes(path.read_bytes())
        ds = ps.open_dataset(renamed)
        assert np.array_equal(ds.signal.values, volumes())
        assert reading_of(ds.signal).sequential == (path == compressed)


def test_which_reader_opens_what(tmp_path: Path) -> None:
    for kind in ("NIfTI-1 pair.hdr", "Analyze analyze.hdr", "NIfTI-2 pair2.hdr"):
        assert find_reader(str(save(tmp_path, kind))).name == "nifti"
    big = tmp_path / "big.hdr"
    header = nib.Spm2AnalyzeHeader(endianness=">")
    header.set_data_shape((4, 5, 6))
    big.write_bytes(header.binaryblock)
    assert find_reader(str(big)).name == "nifti"
    other = tmp_path / "other.hdr"
    other.write_bytes(b"[Header]\n" * 100)
    assert find_reader(str(other)).name == "mne"
    fif = tmp_path / "recording.fif.gz"
    fif.write_bytes(gzip.compress(b"\x00\x00\x00\x64" + bytes(1000)))
    assert find_reader(str(fif)).name == "fif.gz"
    assert {".nii", ".nii.gz", ".mgh", ".mgz"} <= set(ps.io.extensions())
    assert not {".hdr", ".img"} & set(ps.io.extensions())


# ---------------------------------------------------------------------- streams


@pytest.fixture(params=["isal", "standard library"])
def inflating(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(nifti_stream, "zlib_module", lambda: zlib)


def inflated(path: Path) -> int:
    (stream,) = open_streams(path)
    return stream.inflated


@pytest.mark.usefixtures("inflating")
def test_blocks_in_order_cost_one_pass(tmp_path: Path) -> None:
    values = volumes((20, 20, 10, 60))
    path = write_image(tmp_path / "values.nii.gz", values)
    ds = ps.open_dataset(path)
    blocks = [slice(start, start + 4) for start in range(0, 60, 4)]
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda block: ds.signal[..., block].values, blocks))
    assert np.array_equal(np.concatenate(parts, axis=-1), values)
    assert inflated(path) == HEADER_BYTES + values.nbytes


def test_a_part_of_the_volumes_costs_one_pass_too(tmp_path: Path) -> None:
    values = volumes((20, 20, 10, 60))
    path = write_image(tmp_path / "values.nii.gz", values)
    ds = ps.open_dataset(path)
    x, z = np.array([1, 2, 5, 19]), slice(3, 6)
    for start in range(0, 60, 5):
        part = ds.signal.isel(x=x, z=z, time=slice(start, start + 5)).values
        assert np.array_equal(part, values[x, :, z, start : start + 5])
    assert inflated(path) <= HEADER_BYTES + values.nbytes
    # slices of a single large volume, one after another
    single = write_image(tmp_path / "single.nii.gz", values[..., 0])
    ds = ps.open_dataset(single)
    for k in range(10):
        assert np.array_equal(ds.signal[:, :, k].values, values[:, :, k, 0])
    assert inflated(single) == HEADER_BYTES + values[..., 0].nbytes


def test_a_later_block_waits_for_the_one_before(tmp_path: Path) -> None:
    values = volumes((20, 20, 10, 60))
    path = write_image(tmp_path / "values.nii.gz", values)
    ds = ps.open_dataset(path)
    with ThreadPoolExecutor(3) as pool:
        later = [pool.submit(lambda k=k: ds.signal[..., k : k + 20].values) for k in (40, 20)]
        time.sleep(0.05)
        first = ds.signal[..., :20].values
        parts = [first, later[1].result(), later[0].result()]
    assert np.array_equal(np.concatenate(parts, axis=-1), values)
    assert inflated(path) == HEADER_BYTES + values.nbytes


def test_any_order_gives_the_right_values(tmp_path: Path) -> None:
    values = volumes((9, 8, 7, 40))
    path = write_image(tmp_path / "values.nii.gz", values)
    ds = ps.open_dataset(path)
    starts = np.random.default_rng(0).permutation(40)[:8]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda k: ds.signal[..., k : k + 3].values, starts))
    for start, part in zip(starts, parts, strict=True):
        assert np.array_equal(part, values[..., start : start + 3])


def test_gzip_files_of_several_members(tmp_path: Path) -> None:
    path = write_image(tmp_path / "values.nii", volumes())
    content = path.read_bytes()
    members = [gzip.compress(content[at : at + 5000]) for at in range(0, len(content), 5000)]
    joined = tmp_path / "joined.nii.gz"
    joined.write_bytes(b"".join(members))
    assert np.array_equal(ps.open_dataset(joined).signal.values, volumes())


@pytest.mark.usefixtures("inflating")
@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.9, 0.999])
def test_cut_short_streams_say_how_far_they_go(tmp_path: Path, fraction: float) -> None:
    values = volumes((20, 20, 10, 60))
    path = write_image(tmp_path / "values.nii.gz", values)
    os.truncate(path, int(path.stat().st_size * fraction))
    ds = ps.open_dataset(path)
    assert np.array_equal(ds.signal[..., :2].values, values[..., :2])
    with pytest.raises(OSError, match=r"is cut short after \d+ of 60 volumes") as caught:
        ds.signal.values  # noqa: B018
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    good = int(str(caught.value).split(" after ")[1].split()[0])
    assert abs(good - 60 * fraction) < 20
    assert np.array_equal(ds.signal[..., :good].values, values[..., :good])


def test_a_stream_without_its_checksum_is_cut_short(tmp_path: Path) -> None:
    path = write_image(tmp_path / "values.nii.gz", volumes())
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(OSError, match="cut short after 24 of 24 volumes"):
        ps.open_dataset(path).signal.values  # noqa: B018


def test_a_stream_that_holds_too_little_is_cut_short(tmp_path: Path) -> None:
    path = write_image(tmp_path / "values.nii", volumes())
    short = tmp_path / "short.nii.gz"
    short.write_bytes(gzip.compress(path.read_bytes()[:-5000]))
    with pytest.raises(OSError, match="cut short after 21 of 24 volumes"):
        ps.open_dataset(short).signal.values  # noqa: B018


@pytest.mark.usefixtures("inflating")
def test_damaged_streams_are_told_of(tmp_path: Path) -> None:
    path = write_image(tmp_path / "values.nii.gz", volumes())
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    ds = ps.open_dataset(path)
    with pytest.raises(OSError, match=r"is (damaged|cut short) after .* of 24 volumes") as caught:
        ds.signal.values  # noqa: B018
    assert "\n" not in str(caught.value)
    # bytes stored as they are inflate without an error: only the checksum tells
    plain = write_image(tmp_path / "stored.nii", volumes())
    content = bytearray(gzip.compress(plain.read_bytes(), 0))
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"is damaged after .* of 24 volumes"):
        ps.open_dataset(path).signal.values  # noqa: B018


@pytest.mark.parametrize("name", ["values.nii", "values.nii.gz"])
def test_a_changed_file_is_not_read_on(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name, volumes())
    ds = ps.open_dataset(path)
    assert ds.signal[..., :3].values.any()
    write_image(path, volumes() + np.int16(1))
    os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match="has changed since it was opened"):
        ds.signal[..., 3:6].values  # noqa: B018


def test_streams_are_few_and_can_be_closed(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{i}.nii.gz", volumes((3, 3, 3, 4))) for i in range(12)]
    for path in paths:
        assert ps.open_dataset(path).signal[..., :2].values.shape == (3, 3, 3, 2)
    assert len(open_streams()) == 8
    close_streams(paths[-1])
    assert not open_streams(paths[-1])
    assert len(open_streams()) == 7
    close_streams()
    assert not open_streams()


def sum_of(pickled: bytes) -> float:
    return float(pickle.loads(pickled).signal[..., 10:].values.sum(dtype="float64"))


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_another_process_reads_the_same(tmp_path: Path, method: str) -> None:
    path = write_image(tmp_path / "values.nii.gz", volumes())
    ds = ps.open_dataset(path)
    assert np.array_equal(ds.signal[..., :10].values, volumes()[..., :10])
    (stream,) = open_streams()
    with stream.turn(0), multiprocessing.get_context(method).Pool(1) as pool:
        # the stream is taken in this process, which must not hold up the other
        found = pool.apply_async(sum_of, (pickle.dumps(ds),)).get(60)
    assert found == volumes()[..., 10:].sum(dtype="float64")
    assert np.array_equal(ds.signal[..., 10:].values, volumes()[..., 10:])


@pytest.mark.parametrize("name", ["values.nii", "values.nii.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    values = np.zeros((64, 64, 32, 120), "int16")
    values[::7, ::5, ::3] = 9
    path = write_image(tmp_path / name, values, scaling=(0.5, 1.0))
    ds = ps.open_dataset(path)
    ds.signal[:2, :2, 0, 0].values  # noqa: B018 (imports)
    totals = []
    tracemalloc.start()
    try:
        for start in range(0, 120, 2):
            totals.append(ds.signal[..., start : start + 2].values.sum(dtype="float64"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(totals) == (values * 0.5 + 1).sum()
    assert peak < values.nbytes / 5


def test_threads_that_read_alone_do_not_wait_each_time(tmp_path: Path) -> None:
    path = write_image(tmp_path / "values.nii.gz", volumes())
    ds = ps.open_dataset(path)
    idle, stop = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (idle.set(), stop.wait()))
    other.start()
    idle.wait()
    try:
        start = time.monotonic()
        for k in range(1, 24, 2):
            assert np.array_equal(ds.signal[..., k].values, volumes()[..., k])
        assert time.monotonic() - start < 5 * nifti_stream.PATIENCE
    finally:
        stop.set()
        other.join()


# ---------------------------------------------------------------------- what headers say


@pytest.mark.parametrize(
    ("tr", "units", "seconds", "warning"),
    [
        (2.16, "sec", 2.16, None),
        (720.0, "msec", 0.72, None),
        (2.5e6, "usec", 2.5, None),
        (2.0, 0, 2.0, None),
        (2000.0, 0, 2.0, "taken as milliseconds"),
        (2000.0, "sec", 2000.0, "doubtful repetition time"),
        (2.0, "msec", 0.002, "doubtful repetition time"),
        (0.0, "sec", None, None),
        (-1.0, "sec", None, None),
        (np.nan, "sec", None, None),
        (10.0, "hz", None, None),
    ],
)
@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_repetition_times(
    tmp_path: Path,
    tr: float,
    units: str | int,
    seconds: float | None,
    warning: str | None,
    kind: Any,
) -> None:
    path = write_image(tmp_path / "values.nii", volumes(), tr=tr, units=units, kind=kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = ps.open_dataset(path)
    messages = [str(entry.message) for entry in caught]
    if warning is None:
        assert not messages
    else:
        assert len(messages) == 1
        assert warning in messages[0]
        assert str(path) in messages[0]
        assert caught[0].filename == __file__
    if seconds is None:
        assert "time" not in ds.coords
        assert ds.attrs["repetition_time_note"]
    else:
        assert np.allclose(ds["time"].values, seconds * np.arange(24), rtol=1e-15)
    told = ps.open_dataset(path, t_r=1.5)
    assert float(told["time"][2]) == 3.0
    assert "repetition_time_note" not in told.attrs


def test_the_repetition_time_of_mgh(tmp_path: Path) -> None:
    plain = save(tmp_path, "MGH volume.mgh")
    assert float(ps.open_dataset(plain)["time"][2]) == 3.0
    compressed = save(tmp_path, "MGH volume.mgz")
    with pytest.warns(UserWarning, match=r"give t_r= \[s\]"):
        assert "time" not in ps.open_dataset(compressed).coords
    assert float(ps.open_dataset(compressed, t_r=1.5)["time"][2]) == 3.0


@pytest.mark.parametrize("t_r", [0, -2.0, np.nan, np.inf, "2"])
def test_impossible_repetition_times_are_refused(tmp_path: Path, t_r: Any) -> None:
    path = write_image(tmp_path / "values.nii", volumes())
    with pytest.raises(ValueError, match="must be a positive number of seconds"):
        ps.open_dataset(path, t_r=t_r)


def test_a_single_volume_has_no_time(tmp_path: Path) -> None:
    path = write_image(tmp_path / "mask.nii.gz", volumes((4, 5, 6), "uint8"))
    ds = check_reader(path)
    assert ds.signal.dims == ("x", "y", "z")
    with pytest.raises(ValueError, match="has no time axis"):
        ps.open_dataset(path, t_r=2.0)


@pytest.mark.parametrize("field", ["sform_code", "qform_code", "neither"])
def test_the_affine_is_the_one_nibabel_chooses(tmp_path: Path, field: str) -> None:
    codes = {"sform_code": 0, "qform_code": 0, **({field: 4} if field != "neither" else {})}
    quaternion = {"quatern_b": 0.1, "quatern_c": -0.99, "qoffset_x": 12.0}
    path = write_image(tmp_path / "values.nii", volumes(), **codes, **quaternion)
    ds = ps.open_dataset(path)
    assert np.array_equal(ds["affine"].values, nib.load(path).affine)
    assert {name: ds.attrs[name] for name in codes} == codes


def test_a_qform_that_is_no_rotation_is_told(tmp_path: Path) -> None:
    bent = {"quatern_b": 0.9, "quatern_c": 0.9}
    path = write_image(tmp_path / "a.nii", volumes(), sform_code=0, qform_code=1, **bent)
    with pytest.raises(ValueError, match=r"no usable NIfTI-1 header \(no rotation in its qform"):
        ps.open_dataset(path)


def test_headers_without_voxel_sizes(tmp_path: Path) -> None:
    sizes = np.array([1, 0, 0, 0, 2, 1, 1, 1])
    path = write_image(tmp_path / "values.nii", volumes(), sform_code=0, pixdim=sizes)
    with pytest.warns(UserWarning, match="has no voxel sizes"):
        ds = ps.open_dataset(path)
    assert np.array_equal(ds["affine"].values, nib.load(path).affine)


def test_lengths_in_other_units_are_doubted(tmp_path: Path) -> None:
    path = write_image(tmp_path / "values.nii", volumes(), xyzt_units=3 + 8)
    with pytest.warns(UserWarning, match="lengths in um"):
        assert ps.open_dataset(path).attrs["spatial_units"] == "um"


def test_axes_beyond_the_fourth(tmp_path: Path) -> None:
    values = volumes((4, 5, 6, 1, 8))
    ds = ps.open_dataset(write_image(tmp_path / "fifth.nii", values))
    assert dict(ds.signal.sizes) == {"x": 4, "y": 5, "z": 6, "time": 8}
    assert np.array_equal(ds.signal.values, values[:, :, :, 0])
    ds = ps.open_dataset(write_image(tmp_path / "trailing.nii", values.swapaxes(3, 4)))
    assert np.array_equal(ds.signal.values, values[:, :, :, 0])
    ds = ps.open_dataset(write_image(tmp_path / "warp.nii", values, intent_code=1007))
    assert ds.signal.dims == ("x", "y", "z", "component")
    ds = ps.open_dataset(write_image(tmp_path / "flat.nii", values[:, :, 0, 0, 0]))
    assert dict(ds.signal.sizes) == {"x": 4, "y": 5, "z": 1}
    values = volumes((4, 5, 6, 2, 8))
    ds = check_reader(write_image(tmp_path / "both.nii", values))
    assert ds.signal.dims == ("x", "y", "z", "time", "component")
    assert np.array_equal(ds.signal.values, values)
    path = write_image(tmp_path / "six.nii", volumes((4, 3, 2, 2, 2, 2)))
    with pytest.raises(ValueError, match=r"shape \(4, 3, 2, 2, 2, 2\)"):
        ps.open_dataset(path)


def test_real_images_of_five_axes(data: Path) -> None:
    path = data / "next" / "fmri" / "5D_small.nii"
    if not path.exists():
        pytest.skip("needs next/fmri/5D_small.nii of PENSTOCK_DATA")
    ds = check_reader(path)
    image = nib.load(path)
    assert np.array_equal(ds.signal.values, image.get_fdata()[:, :, :, 0])
    assert np.array_equal(ds["affine"].values, image.affine)


def test_spm_keeps_the_affine_of_analyze_files_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "spm.img"
    nib.Spm99AnalyzeImage(volumes(), AFFINE).to_filename(path)
    assert (tmp_path / "spm.mat").exists()
    assert np.allclose(ps.open_dataset(path)["affine"].values, AFFINE)


# ---------------------------------------------------------------------- CIFTI-2


def test_grayordinates_know_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rest.dtseries.nii"
    values = cifti(path)
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("grayordinate", "time")
    assert np.array_equal(ds.signal.values, values)
    assert np.allclose(ds["time"].values, 3.0 + 0.72 * np.arange(50))
    cortex = ds.isel(grayordinate=np.flatnonzero(ds["structure"] == "CIFTI_STRUCTURE_CORTEX_LEFT"))
    assert cortex["vertex"].values.tolist() == list(range(10, 40))
    assert (cortex["voxel_x"] == -1).all()
    thalamus = ds.isel(grayordinate=slice(30, None))
    assert set(thalamus["structure"].values) == {"CIFTI_STRUCTURE_THALAMUS_LEFT"}
    found = np.stack([thalamus[f"voxel_{axis}"].values for axis in "xyz"], axis=1)
    assert np.array_equal(found, np.argwhere(np.ones((3, 4, 5))))
    assert (thalamus["vertex"] == -1).all()
    assert np.allclose(ds["affine"].values, AFFINE)
    assert not reading_of(ds.signal).interleaved


def test_maps_of_grayordinates(tmp_path: Path) -> None:
    path = tmp_path / "maps.dscalar.nii"
    values = cifti(path, nib.cifti2.ScalarAxis(["thickness", "curvature"]))
    ds = check_reader(path)
    assert ds.signal.dims == ("grayordinate", "map")
    assert np.array_equal(ds.signal.sel(map="curvature").values, values[:, 1])


def test_connectivity_matrices_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rest.dconn.nii"
    mask = nib.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 10), bool), "thalamus_left", AFFINE)
    cifti(path, mask)
    with pytest.raises(ValueError, match="holds BrainModel × BrainModel"):
        ps.open_dataset(path)


# ---------------------------------------------------------------------- unusable files


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("volumes are elsewhere\n" * 100)


def half_a_header(path: Path) -> None:
    os.truncate(write_image(path, volumes()), 200)


def cut_short(path: Path) -> None:
    os.truncate(write_image(path, volumes()), 20_000)


def wrong_magic(path: Path) -> None:
    write_image(path, volumes(), magic=b"xyz")


def magic_of_a_pair(path: Path) -> None:
    write_image(path, volumes(), magic=b"ni1")


def colours(path: Path) -> None:
    write_image(path, volumes(), datatype=128, bitpix=24)


def long_floats(path: Path) -> None:
    write_image(path, volumes(), datatype=1536, bitpix=128)


def unknown_type(path: Path) -> None:
    write_image(path, volumes(), datatype=77)


def no_voxels(path: Path) -> None:
    write_image(path, volumes(), dim=[3, 4, 0, 5, 1, 1, 1, 1])


def bad_intercept(path: Path) -> None:
    write_image(path, volumes(), scaling=(2.0, np.nan))


def compressed_half_a_header(path: Path) -> None:
    write_image(path, volumes())
    path.write_bytes(gzip.compress(path.read_bytes())[:60])


def no_cifti(path: Path) -> None:
    write_image(path, volumes(), kind=nib.Nifti2Header, intent_code=3002)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty, r"is empty \(0 bytes\)"),
        (text, "does not hold it"),
        (half_a_header, "is cut short: its NIfTI-1 header takes 348 bytes, it holds 200"),
        (cut_short, "is cut short: its header announces 48048 bytes"),
        (wrong_magic, r"magic b'xyz"),
        (magic_of_a_pair, r"magic b'ni1"),
        (colours, "holds colours"),
        (long_floats, "cannot be read|data code 1536"),
        (unknown_type, "no usable NIfTI-1 header"),
        (no_voxels, "has no voxels"),
        (bad_intercept, "invalid intercept"),
        (compressed_half_a_header, "does not hold it|within its header"),
        (no_cifti, "no usable CIFTI-2 header"),
    ],
)
def test_unusable_files_are_told_in_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "spoiled.nii"
    spoil(path)
    with pytest.raises((OSError, ValueError), match=message) as caught:
        ps.open_dataset(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["hdr", "img"])
def test_half_of_a_pair_is_missing(tmp_path: Path, missing: str) -> None:
    save(tmp_path, "NIfTI-1 pair.hdr")
    left = tmp_path / f"pair.{'img' if missing == 'hdr' else 'hdr'}"
    (tmp_path / f"pair.{missing}").unlink()
    with pytest.raises(FileNotFoundError, match=rf"pair\.{missing} is not beside it"):
        ps.open_dataset(left)


# ---------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "t_r"),
    [
        ("haxby_slice/bold.nii.gz", 2.5),
        ("studyforrest_localizer/sub-02_task-oneback_run-1_bold.nii.gz", 2.0),
    ],
)
def test_real_runs_are_read_in_one_pass(data: Path, name: str, t_r: float) -> None:
    path = data / "fmri" / name
    ds, image = ps.open_dataset(path), nib.load(path)
    assert float(ds["time"][1]) == t_r
    assert np.array_equal(ds["affine"].values, image.affine)
    expected = image.get_fdata(dtype=np.float32)
    n = ds.sizes["time"]
    blocks = [slice(start, start + n // 12) for start in range(0, n, n // 12)]
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda block: ds.signal[..., block].values, blocks)
        for block, part in zip(blocks, parts, strict=True):
            assert np.allclose(part, expected[..., block], rtol=1e-6, atol=0)
    assert inflated(path) == HEADER_BYTES + image.dataobj.dtype.itemsize * expected.size


def test_reads_in_any_order_do_not_begin_again_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_stream, "MARK_BYTES", 1 << 16)
    monkeypatch.setattr(nifti_stream, "PIECE_BYTES", 1 << 14)
    values = np.random.default_rng(2).integers(0, 200, (20, 20, 20, 300)).astype("int16")
    path = tmp_path / "any.nii.gz"
    nib.Nifti1Image(values, np.eye(4)).to_filename(path)
    ds = ps.open_dataset(path)
    for order in (np.arange(290, -1, -10), np.random.default_rng(3).permutation(30) * 10):
        close_streams()
        for start in order:
            found = ds.signal[..., start : start + 10].values
            np.testing.assert_array_equal(found, values[..., start : start + 10])
        (stream,) = open_streams(path)
        assert stream.inflated < 4 * values.nbytes
    # a pass in file order is one pass, also after that
    before = stream.inflated
    for start in range(0, 300, 10):
        found = ds.signal[..., start : start + 10].values
        np.testing.assert_array_equal(found, values[..., start : start + 10])
    assert stream.inflated - before == values.nbytes + HEADER_BYTES


@pytest.mark.parametrize("seed", [3])
def test_damaged_headers_give_nibabels_image_or_one_sentence(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = nib.Nifti1Image(volumes((5, 4, 3, 6)), np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([3.0, 2, 2, 1]), 1)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"hello there"))
    content, path, opened = image.to_bytes(), tmp_path / "damaged.nii", 0
    sentences: list[str] = []
    for _ in range(300):
        damaged = bytearray(content)
        for at in rng.integers(4, 384, rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                ds = ps.open_dataset(path)
                found = ds.signal.values
            except (OSError, ValueError) as error:
                sentences.append(str(error))
                continue
            try:
                theirs = nib.load(path)
                expected = np.asanyarray(theirs.dataobj)
            except Exception:  # (nibabel has none for what we could open)
                continue
        opened += 1
        assert np.allclose(ds["affine"].values, theirs.affine, equal_nan=True)
        expected = expected.astype(found.dtype).squeeze()
        assert np.array_equal(found.squeeze(), expected, equal_nan=True)
    assert opened > 200
    assert all(str(path) in sentence for sentence in sentences)
