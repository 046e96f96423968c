"""Writing volumes as NIfTI, volume by volume in bounded memory, published when complete."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Region, check_dataset, read_region, sampling_frequency
from penstock.formats import BUFFER_BYTES, ExportReport, WriteOptions
from penstock.io.arrays.arrays import COMPONENT
from penstock.io.left_out import left_out
from penstock.io.nifti.fields import SECONDS, fields_of, restore_fields
from penstock.io.nifti.times import SECONDS_ASSUMED
from penstock.local_paths import local_path
from penstock.memory.buffers import scratch_buffer
from penstock.storage.publish import KeptOpen, published_file
from penstock.voxels import image_affine

BATCH_VALUES = 1 << 18
"""Values converted and written at once."""
AXES = ("x", "y", "z", "time")
STORABLE = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128"


def export_nifti(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write volumes as NIfTI; see `penstock.export`."""
    overwrite, block_bytes = options.overwrite, options.buffer_bytes
    write_nifti(ds, path, overwrite=overwrite, block_bytes=block_bytes)
    format = "nifti" if path.endswith(".gz") else "nii"
    return ExportReport(path, format, notes=tuple(left_out(ds, format)))


def write_nifti(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    dtype: Any = None,
    overwrite: bool = False,
    block_bytes: int = BUFFER_BYTES,
    progress: Callable[[float], None] | None = None,
    level: int = 1,
) -> Path:
    """Write volumes to a NIfTI file, in the order of the file and in bounded memory.

    The file appears under its name when it is complete; until then it is written beside it.

    Parameters
    ----------
    ds : xarray.Dataset
        ``signal`` over x, y, z and, for several volumes, time, in any order of dims; a coordinate
        ``affine`` (4, 4), from voxel positions to mm. Where x, y and z are coordinates that count
        voxels, as in every dataset of volumes that Penstock makes, the file gets the affine of the
        voxels that are there: those of a crop stay where they are in the world.
    path : path-like
        Target, ``.nii`` or ``.nii.gz``.
    dtype : numpy dtype, optional
        Type in the file: an integer, float32, float64 or complex type. Default: the signal's, with
        truth values as uint8 and float16 as float32. Nothing is scaled: an integer type must hold
        the values as they are.
    overwrite : bool, default False
        Whether to replace an existing target.
    block_bytes : int, default 32 MiB
        How much of the signal is read at once; memory is this, what reading it takes, and a few
        MiB.
    progress : callable, optional
        Called with the fraction done, from 0 to 1.
    level : int, default 1
        Effort of compression for ``.nii.gz``, from 1 (fast) to 9 (small); up to 3 through isal
        where that is installed. The same values give the same bytes.

    Returns
    -------
    pathlib.Path
        Absolute path of the file.

    Raises
    ------
    FileExistsError
        If the target exists and `overwrite` is False.
    ValueError
        If the dataset is no volumes, or the type does not hold its values.

    Notes
    -----
    The header says the affine as sform, and as qform too where it has no shears, with the codes of
    ``attrs["sform_code"]`` and ``attrs["qform_code"]``, and whatever else the header had from which
    the dataset was opened: units, intent, description, extensions, and, where the voxels are still
    those of the file, slice timing. NIfTI-2 is written where an axis is longer than NIfTI-1 can say
    (32,767), or where the dataset was opened from it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps
    >>> from penstock.io.nifti.write import write_nifti
    >>> ds = ps.make_dataset(
    ...     np.zeros((4, 5, 6, 20), "float32"),
    ...     ("x", "y", "z", "time"),
    ...     sampling_frequency=1 / 2.5,
    ...     coords={"affine": (("affine_row", "affine_column"), np.diag([3.0, 3, 3, 1]))},
    ... )
    >>> path = write_nifti(ds, os.path.join(tempfile.mkdtemp(), "bold.nii.gz"))
    >>> dict(ps.open_dataset(path).signal.sizes)
    {'x': 4, 'y': 5, 'z': 6, 'time': 20}
    """
    check_dataset(ds)
    target = local_path(path)
    if not target.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"cannot write {target} as NIfTI: end its name in .nii or .nii.gz")
    if os.path.exists(target) and not overwrite:
        raise FileExistsError(f"{target} exists: choose another name or give overwrite=True")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"no such folder: {os.path.dirname(target)}; create it first")
    source = ds[SIGNAL].encoding.get("source")
    if source and os.path.exists(target) and os.path.samefile(source, target):
        raise ValueError(f"{target} is the file this dataset is read from: choose another name")
    if level not in range(1, 10):
        raise ValueError(f"level={level!r} must be a whole number from 1 (fast) to 9 (small)")
    sizes = _check_dims(ds)
    stored = _stored_type(ds[SIGNAL].dtype, dtype)
    header = _header(ds, sizes, stored, target)
    with published_file(target) as file, _compressed(file, target, level) as out:
        head = io.BytesIO()  # (whoever writes extensions wants to know where)
        header.write_to(head)
        out.write(head.getvalue())
        regions = list(_regions(sizes, ds[SIGNAL].dtype.itemsize, block_bytes))
        for done, region in enumerate(regions, start=1):
            block = read_region(ds, {dim: region[dim] for dim in map(str, ds[SIGNAL].dims)})
            axes = [ds[SIGNAL].dims.index(dim) for dim in reversed(sizes)]
            _write(out, block.transpose(axes), stored, target)
            del block  # (before the next one is read)
            if progress is not None:
                progress(done / len(regions))
    return Path(target)


def image_header(ds: xr.Dataset, dtype: Any = None) -> tuple[Any, tuple[str, ...]]:
    """A NIfTI header of nibabel for a dataset of volumes, and its dims in the order of NIfTI.

    Raises
    ------
    ValueError
        If the dataset is no volumes, or the type is none of NIfTI.
    """
    check_dataset(ds)
    further = (COMPONENT,) if COMPONENT in ds[SIGNAL].dims else ()
    sizes = _check_dims(ds, further)
    stored = _stored_type(ds[SIGNAL].dtype, dtype)
    return _header(ds, sizes, stored, "the image"), tuple(sizes)


def _check_dims(ds: xr.Dataset, further: tuple[str, ...] = ()) -> dict[str, int]:
    """Dims of the volumes in the order of NIfTI, with their sizes."""
    sizes = {str(dim): size for dim, size in ds[SIGNAL].sizes.items()}
    if {*sizes} - {*further} not in ({*AXES}, {*AXES[:3]}) or 0 in sizes.values():
        raise ValueError(
            f"only volumes over x, y, z and time can be written as NIfTI, got {sizes}: select or "
            "rename dims first (a single slice as ds.isel(z=slice(k, k + 1)))"
        )
    if "affine" not in ds.variables:
        raise ValueError(
            "the dataset has no affine from voxel positions to mm: give it one with "
            "penstock.voxels.with_affine(ds, matrix)"
        )
    return {dim: sizes[dim] for dim in (*AXES, *further) if dim in sizes}


def _stored_type(signal: np.dtype, dtype: Any) -> np.dtype:
    if dtype is None:
        dtype = {"bool": "uint8", "float16": "float32"}.get(str(signal), signal)
    stored = np.dtype(dtype).newbyteorder("<")
    if stored.name not in STORABLE.split():
        raise ValueError(
            f"NIfTI files cannot hold {np.dtype(dtype)}: give dtype= one of "
            f"{', '.join(STORABLE.split())}"
        )
    if signal.kind == "c" and stored.kind != "c":
        raise ValueError(
            f"{stored.name} cannot hold {signal} values: write np.abs of them, or a complex type"
        )
    return stored


def _header(ds: xr.Dataset, sizes: dict[str, int], stored: np.dtype, target: str) -> Any:
    try:
        import nibabel
    except ImportError:
        raise ImportError(
            f'nibabel is needed to write {target}: pip install "penstock[fmri]"'
        ) from None
    affine = image_affine(ds)
    is_long = max(sizes.values()) >= 2**15 or str(ds.attrs.get("format", ""))[:7] == "NIfTI-2"
    kind = nibabel.Nifti2Header if is_long else nibabel.Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(stored)
    shape = tuple(sizes.values())
    if COMPONENT in sizes and "time" not in sizes:
        shape = (*shape[:3], 1, shape[3])
    header.set_data_shape(shape)
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    further = (fields_of(ds.attrs).get("further_steps") or []) + [0.0] * len(shape)
    step = _repetition_time(ds) if "time" in sizes else 0.0
    steps = (step, *further)[: len(shape) - 3]
    header.set_zooms((*zooms, *map(float, steps)))
    _set_units(header, ds)
    from_file = str(ds.attrs.get("format", "")).startswith("NIfTI")
    description = ds.attrs.get("description", "" if from_file else "Penstock")
    header["descrip"] = str(description).encode()[:79]
    restore_fields(header, ds.attrs, shape, affine)
    _set_orientation(header, ds, affine)
    header.set_slope_inter(1, 0)
    return header


def _set_units(header: Any, ds: xr.Dataset) -> None:
    """Units of lengths and times: mm and s, or those of the file that the dataset was opened from.

    A unit that was left out there is left out again where it was taken for what it is.
    """
    kept = fields_of(ds.attrs)
    lengths = {"m": "meter", "um": "micron"}
    length = lengths.get(str(ds.attrs.get("spatial_units")), "mm")
    length = "unknown" if kept.get("length_unit") == 0 and length == "mm" else length
    time = {0: "unknown", 16: "msec", 24: "usec"}.get(kept.get("time_unit", SECONDS), "sec")
    if time == "unknown" and "time" in ds[SIGNAL].dims and not _as_it_stood(ds):
        time = "sec"
    header.set_xyzt_units(length, time)
    if "time" in ds[SIGNAL].dims:
        header["pixdim"][4] *= {"msec": 1e3, "usec": 1e6}.get(time, 1)


def _as_it_stood(ds: xr.Dataset) -> bool:
    """Whether a repetition time without a unit in the header is still taken as it stood there."""
    note = str(ds.attrs.get("repetition_time_note", ""))
    return not _repetition_time(ds) or note == SECONDS_ASSUMED


def _set_orientation(header: Any, ds: xr.Dataset, affine: np.ndarray) -> None:
    """Where voxels lie: as sform, qform, or by voxel sizes alone, as it stood in the file."""
    codes = {name: int(ds.attrs.get(f"{name}_code", 0)) for name in ("sform", "qform")}
    if "sform_code" in ds.attrs and not any(codes.values()):
        header.set_sform(None, 0)
        header.set_qform(None, 0)
        if np.allclose(header.get_base_affine(), affine, atol=1e-4):
            return
    moved = fields_of(ds.attrs).get("qform_of_sform")
    for_qform = affine if moved is None else np.asarray(moved) @ affine
    header.set_qform(for_qform, codes["qform"], strip_shears=True)
    said = np.allclose(header.get_qform(), for_qform, rtol=1e-4, atol=1e-3)
    if not said:
        header["qform_code"] = 0  # (a quaternion cannot say it)
    if "sform_code" in ds.attrs and not codes["sform"] and codes["qform"] and said:
        header.set_sform(None, 0)
        return
    header.set_sform(affine, codes["sform"] or codes["qform"] or 2)  # ("aligned to something")


def _repetition_time(ds: xr.Dataset) -> float:
    try:
        return float(f"{1 / sampling_frequency(ds):.12g}")
    except ValueError:
        return 0.0  # (the header's word for "not known": volumes left out, or never told)


@contextlib.contextmanager
def _compressed(file: io.FileIO, target: str, level: int) -> Iterator[IO[bytes]]:
    """What values are written to: the file itself, or through gzip."""
    with io.BufferedWriter(KeptOpen(file), 1 << 20) as buffered:
        if not target.lower().endswith(".gz"):
            yield cast("IO[bytes]", buffered)
            return
        kind: Any = gzip.GzipFile
        if level <= 3 and importlib.util.find_spec("isal") is not None:
            kind = importlib.import_module("isal.igzip").IGzipFile
        # neither name nor time: the same values give the same bytes
        with kind("", "wb", level, buffered, mtime=0) as out:
            yield cast("IO[bytes]", out)


def _regions(sizes: dict[str, int], itemsize: int, block_bytes: int) -> Iterator[Region]:
    """Regions in the order of the file: volumes, or slices of one that is too large."""
    whole: Region = {dim: slice(0, size) for dim, size in sizes.items()}
    slice_bytes = sizes["x"] * sizes["y"] * itemsize
    thick = max(1, min(sizes["z"], block_bytes // slice_bytes))
    n_volumes = sizes.get("time", 1)
    several = max(1, block_bytes // (slice_bytes * sizes["z"]))
    for first in range(0, n_volumes, several):
        volumes = slice(first, min(first + several, n_volumes))
        for low in range(0, sizes["z"], thick):
            region = {**whole, "z": slice(low, min(low + thick, sizes["z"]))}
            yield {**region, "time": volumes} if "time" in sizes else region


def _write(out: IO[bytes], block: np.ndarray, stored: np.dtype, target: str) -> None:
    """Write a block whose axes are in the order of the file."""
    volumes = block if block.ndim == 4 else block[np.newaxis]
    step = max(1, BATCH_VALUES // volumes[0, 0].size)
    for volume in volumes:
        for first in range(0, len(volume), step):
            values = volume[first : first + step]
            if values.dtype != stored or not values.flags.c_contiguous:
                batch = scratch_buffer("nifti-write", values.shape, stored)
                with np.errstate(invalid="ignore", over="ignore"):
                    np.copyto(batch, values, casting="unsafe")
                _check_held(values, batch, target)
                values = batch
            out.write(values.reshape(-1).view(np.uint8).data)


def _check_held(values: np.ndarray, batch: np.ndarray, target: str) -> None:
    """Raise a ValueError where a type does not hold the values: only floats may be rounded."""
    if values.dtype.kind in "fc" and batch.dtype.kind in "fc":
        held = np.isfinite(batch) | ~np.isfinite(values)
    else:
        real = batch.real
        with np.errstate(invalid="ignore"):
            held = (real.astype(values.dtype) == values) & ((real < 0) == (values < 0))
    if not held.all():
        wrong = values[~held][0]
        raise ValueError(
            f"{batch.dtype.name} cannot hold the value {wrong:g} of the signal, so {target} was "
            "not written: give another dtype=, or scale or round the signal first"
        )
