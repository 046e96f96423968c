"""What the header of an image tells: NIfTI-1, NIfTI-2, Analyze 7.5, MGH.

Headers are parsed by nibabel. It is given the bytes of the header only, never the data.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, cast

import numpy as np

from penstock.io.arrays import COMPONENT
from penstock.io.nifti_stream import StoredValues

HEADER_BYTES = 4096
"""Read of a file to tell its format and to parse its header."""
_SIZES = {348: "NIfTI-1", 540: "NIfTI-2"}
_TIME_UNITS = {0: 1.0, 8: 1.0, 16: 1e3, 24: 1e6}
"""Codes of ``xyzt_units`` for times, and how many of the unit make a second."""
_LENGTHS = {1: "m", 2: "mm", 3: "um"}


class TimeStep(NamedTuple):
    """What a header says of the time between volumes."""

    seconds: float | None = None
    """The repetition time; None where it is not known."""
    note: str = ""
    """What is missing or assumed, for the attributes."""
    doubt: str = ""
    """The same where it is worth a warning."""
    start: float = 0.0
    """Time of the first volume [s]."""


@dataclass(frozen=True)
class ImageHeader:
    """An image file in the terms of Penstock."""

    values: StoredValues
    dims: tuple[str, ...]
    order: tuple[int, ...]
    """Dims in the order of the file: the last one varies fastest."""
    affine: np.ndarray | None
    time: TimeStep
    coords: dict[str, Any] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    """What else to warn of, one sentence each."""


def image_format(head: bytes) -> str | None:
    """Format of an image by the first bytes of its header, which may be compressed.

    Parameters
    ----------
    head : bytes
        512 bytes or more.

    Returns
    -------
    str or None
        ``"NIfTI-1"``, ``"NIfTI-2"`` (with ``" pair"`` where values lie in a file of their own),
        ``"Analyze 7.5"``, ``"MGH"``; None for anything else.
    """
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, 1024)
        except zlib.error:
            return None
    for order in "<>":
        name = _SIZES.get(struct.unpack_from(f"{order}i", head)[0]) if len(head) >= 4 else None
        if name is None:
            continue
        magic = head[344:347] if name == "NIfTI-1" else head[4:7]
        if magic[:1] == b"n" and magic[2:3] == name[-1:].encode():
            return name if magic[1:2] == b"+" else f"{name} pair"
        if name == "NIfTI-1" and len(head) >= 348:
            n_dims = struct.unpack_from(f"{order}h", head, 40)[0]
            return "Analyze 7.5" if 1 <= n_dims <= 7 else None
        return name if len(head) < 348 else None
    if len(head) >= 28:
        version, *sizes, kind, _ = struct.unpack_from(">7i", head)
        if version == 1 and min(sizes) > 0 and kind in (0, 1, 3, 4, 10):
            return "MGH"
    return None


def read_header(path: str) -> ImageHeader:
    """Parse the header of an image; a pair may be named by either of its files.

    Raises
    ------
    FileNotFoundError
        If the other file of a pair is missing.
    OSError, ValueError
        If the header is unusable, or the file is shorter than it says.
    """
    header_path, data_path = _files(path)
    head = _read_head(header_path)
    name = image_format(head)
    if name is None:
        raise ValueError(
            f"{header_path} is not a NIfTI, Analyze or MGH image (it begins with {head[:16]!r}): "
            "check where the file comes from"
        )
    size = {"NIfTI-2": 540, "MGH": 284}.get(name.removesuffix(" pair"), 348)
    if len(head) < size:
        raise ValueError(
            f"{header_path} is cut short: its {name} header takes {size} bytes, it holds "
            f"{len(head)}; copy or download it again"
        )
    is_pair = name.endswith("pair") or name == "Analyze 7.5"
    if is_pair != (data_path is not None):
        raise ValueError(
            f"{path} holds the header of {'a pair .hdr/.img' if is_pair else 'a single file'} "
            f"({name}, magic {head[344:348]!r}), which is not what its name says: rename it"
        )
    from nibabel.freesurfer.mghformat import MGHError
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    try:
        if name == "MGH":
            header = _mgh(path, head)
        elif name == "Analyze 7.5":
            header = _analyze(cast(str, data_path), head)
        else:
            header = _nifti(data_path or path, name, head)
    except (HeaderDataError, HeaderTypeError, WrapStructError, MGHError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{header_path} has no usable {name} header ({text}): convert or download it again"
        ) from error
    return header


@contextlib.contextmanager
def open_inflated(path: str) -> Iterator[IO[bytes]]:
    """A file to be read from its beginning, inflated where it is compressed, whatever its name."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb")) if compressed else file


def _read_head(path: str) -> bytes:
    try:
        with open_inflated(path) as file:
            return file.read(HEADER_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(
            f"{path} is cut short or damaged within its header ({error}): copy or download it again"
        ) from error


def _files(path: str) -> tuple[str, str | None]:
    """Header file and, for pairs, the file of values."""
    stem, extension = os.path.splitext(path)
    compressed = extension.lower() == ".gz"
    if compressed:
        stem, extension = os.path.splitext(stem)
    parts = {".hdr": ".img", ".img": ".hdr"}
    if extension.lower() not in parts:
        return path, None
    other = parts[extension.lower()]
    other = other.upper() if extension.isupper() else other
    endings = (".gz", "") if compressed else ("", ".gz")
    beside = next((stem + other + end for end in endings if os.path.exists(stem + other + end)), "")
    if not beside:
        raise FileNotFoundError(
            f"{path} is one of two files, and {os.path.basename(stem + other)} is not beside it: "
            "copy both into one folder"
        )
    return (path, beside) if other.lower() == ".img" else (beside, path)


def stored_values(
    path: str,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    scaling: tuple[float | None, float | None],
    unit: str,
) -> StoredValues:
    """The values of a file that is as the header says.

    Parameters
    ----------
    path : str
        File of the values.
    offset : int
        First byte of the values.
    shape : tuple of int
        In the order of the file, slowest axis first.
    dtype : numpy.dtype
        Stored type with its byte order.
    scaling : tuple of float or None
        Slope and intercept; None: there is none.
    unit : str
        What one position along the first axis is, for messages.

    Raises
    ------
    ValueError
        If the type cannot be read, or the file is too short.
    """
    if dtype.kind not in "iufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        kind = "colours" if dtype.names else str(dtype)
        raise ValueError(
            f"{path} holds {kind}, which cannot be read as numbers of float32 or float64: convert "
            "it to one of those with the program that wrote it"
        )
    if not shape or min(shape) < 1:
        raise ValueError(
            f"{path} has no voxels: its header gives the shape {shape[::-1]}; download it again"
        )
    if offset < 0:
        raise ValueError(
            f"{path} has no usable header: it does not tell where values begin; download it again"
        )
    stat = os.stat(path)
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    slope, inter = scaling
    values = StoredValues(
        path,
        (stat.st_mtime_ns, stat.st_size),
        compressed,
        offset,
        shape,
        dtype,
        1.0 if slope is None else slope,
        0.0 if inter is None else inter,
        unit,
    )
    if not compressed and offset + values.n_bytes > stat.st_size:
        raise ValueError(
            f"{path} is cut short: its header announces {values.n_bytes} bytes of values from byte "
            f"{offset} on, but it holds {stat.st_size} bytes; copy or download it again"
        )
    return values


def first_byte(header: Any) -> int:
    """Where values begin by a header of nibabel; -1 where it tells nothing of use."""
    try:
        return int(header.get_data_offset())
    except (ValueError, OverflowError):  # (not a number, or infinite)
        return -1


# ---------------------------------------------------------------------- the formats


def _volumes(
    path: str,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    scaling: tuple[float | None, float | None],
    last: str = "time",
) -> tuple[StoredValues, tuple[str, ...]]:
    """Values and dims of an image by the shape that its header gives, fastest axis first."""
    given = shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) > 4:
        raise ValueError(
            f"{path} has the shape {given}: images of x, y, z and one more axis can be opened; "
            "split it along its further axes"
        )
    shape = shape + (1,) * (3 - len(shape))
    dims = ("x", "y", "z", last)[: len(shape)]
    unit = "volumes" if len(shape) == 4 else "slices"
    return stored_values(path, offset, shape[::-1], dtype, scaling, unit), dims


def _nifti(path: str, name: str, head: bytes) -> ImageHeader:
    import nibabel

    kinds = {
        "NIfTI-1": nibabel.Nifti1Header,
        "NIfTI-1 pair": nibabel.nifti1.Nifti1PairHeader,
        "NIfTI-2": nibabel.Nifti2Header,
        "NIfTI-2 pair": nibabel.nifti2.Nifti2PairHeader,
    }
    kind = kinds[name]
    header = kind(head[: kind.sizeof_hdr], check=False)
    sizes = np.array(header["pixdim"][1:4])
    header.check_fix(logger=_silent, error_level=40)
    if name == "NIfTI-2" and 3000 <= int(header["intent_code"]) < 3100:
        from penstock.io.nifti_cifti import read_cifti

        return read_cifti(path, header)
    intent = str(header.get_intent()[0])
    last = COMPONENT if "vector" in intent else "time"
    shape = tuple(map(int, header.get_data_shape()))
    scaling = header.get_slope_inter()
    values, dims = _volumes(path, first_byte(header), shape, header.get_data_dtype(), scaling, last)
    units = int(header["xyzt_units"])
    attrs: dict[str, Any] = {
        "format": name,
        "spatial_units": _LENGTHS.get(units & 7, "mm"),
        "sform_code": int(header["sform_code"]),
        "qform_code": int(header["qform_code"]),
        "description": _text(header["descrip"]),
        "intent": "" if intent == "none" else intent,
    }
    doubts = []
    if attrs["spatial_units"] != "mm":
        doubts.append(
            f"{path} gives lengths in {attrs['spatial_units']}, not in mm: its affine is taken as "
            "it is"
        )
    if not attrs["sform_code"] and not (np.isfinite(sizes) & (sizes != 0)).all():
        doubts.append(
            f"{path} has no voxel sizes in its header (pixdim {', '.join(f'{s:g}' for s in sizes)})"
            ": 1 mm is taken where they are missing; check positions before you trust them"
        )
    time = TimeStep()
    if "time" in dims:
        time = _repetition_time(header["pixdim"][4], units & 0x38, path)
    return ImageHeader(
        values,
        dims,
        tuple(range(len(dims)))[::-1],
        header.get_best_affine(),
        time,
        attrs={key: value for key, value in attrs.items() if value != ""},
        doubts=tuple(doubts),
    )


def _repetition_time(stored: np.floating, code: int, path: str) -> TimeStep:
    value = float(str(stored))  # (2.16 as it was meant, not the float32 nearest to it)
    if code not in _TIME_UNITS:
        return TimeStep(None, "the fourth axis is not a time by its unit in the header")
    if not 0 < value < math.inf:
        return TimeStep(None, f"the header has none ({value:g})")
    if not code and value > 100:
        doubt = (
            f"{path} has a repetition time of {value:g} without a unit: it is taken as "
            f"milliseconds ({value / 1e3:g} s); give t_r= [s] if that is wrong"
        )
        return TimeStep(value / 1e3, "unit not in the header, milliseconds assumed", doubt)
    seconds = value / _TIME_UNITS[code]
    if not 0.01 <= seconds <= 100:
        doubt = (
            f"{path} has a doubtful repetition time of {seconds:g} s, which is taken as it is: "
            "give t_r= [s] if that is wrong"
        )
        return TimeStep(seconds, "", doubt)
    return TimeStep(seconds, "" if code else "unit not in the header, seconds assumed")


def _analyze(path: str, head: bytes) -> ImageHeader:
    from nibabel.fileholders import FileHolder
    from nibabel.spm2analyze import Spm2AnalyzeHeader, Spm2AnalyzeImage

    header = Spm2AnalyzeHeader(head[:348], check=False)
    header.check_fix(logger=_silent, error_level=40)
    scaling = header.get_slope_inter()
    shape = tuple(map(int, header.get_data_shape()))
    values, dims = _volumes(path, first_byte(header), shape, header.get_data_dtype(), scaling)
    # SPM keeps the affine in a file of its own
    matrix = f"{path.removesuffix('.gz')[:-4]}.mat"
    image = Spm2AnalyzeImage.from_file_map(
        {
            "header": FileHolder(fileobj=io.BytesIO(header.binaryblock)),
            "image": FileHolder(filename=path),
            "mat": FileHolder(matrix) if os.path.exists(matrix) else FileHolder(None, io.BytesIO()),
        }
    )
    time = _repetition_time(header["pixdim"][4], 0, path) if "time" in dims else TimeStep()
    attrs = {"format": "Analyze 7.5", "spatial_units": "mm"}
    if description := _text(header["descrip"]):
        attrs["description"] = description
    order = tuple(range(len(dims)))[::-1]
    return ImageHeader(values, dims, order, image.affine, time, attrs=attrs)


def _mgh(path: str, head: bytes) -> ImageHeader:
    from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader, footer_dtype, header_dtype

    header = MGHHeader(head[: header_dtype.itemsize])
    shape = tuple(map(int, header.get_data_shape()))
    values, dims = _volumes(path, DATA_OFFSET, shape, header.get_data_dtype(), (None, None))
    time = TimeStep()
    if "time" in dims and values.compressed:
        time = TimeStep(
            None,
            "not read: it stands behind the compressed values",
            f"{path} keeps its repetition time behind the compressed values, which are not read "
            "to open it: give t_r= [s] to have a time coordinate",
        )
    elif "time" in dims:
        with open(path, "rb") as file:
            file.seek(DATA_OFFSET + values.n_bytes)
            footer = file.read(footer_dtype.itemsize)
        with_footer = MGHHeader(head[: header_dtype.itemsize] + footer)
        time = _repetition_time(with_footer["tr"], 16, path)
    attrs = {"format": "MGH", "spatial_units": "mm"}
    order = tuple(range(len(dims)))[::-1]
    return ImageHeader(values, dims, order, header.get_affine(), time, attrs=attrs)


def _text(field: np.ndarray) -> str:
    raw = bytes(field.item()).split(b"\0")[0]
    return raw.decode("utf-8", "replace").strip()


_silent = logging.Logger("nifti", logging.CRITICAL + 1)
"""For nibabel, which writes what it mends in a header to standard error."""
