"""What the header of an image tells: NIfTI-1, NIfTI-2, Analyze 7.5, MGH.

Headers are parsed by nibabel. It is given the bytes of the header only, never the data.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import warnings
from typing import Any, NamedTuple, cast

import numpy as np

from penstock.io.arrays.arrays import COMPONENT
from penstock.io.compressed import CODECS, inflated_head, read_inflated
from penstock.io.nifti.fields import HEADER, LENGTHS, MOST_EXTENSION_BYTES, kept_fields
from penstock.io.nifti.stored import ImageHeader, first_byte, stored_values, volume_dims
from penstock.io.nifti.stream import StoredValues
from penstock.io.nifti.times import TimeStep, header_time

HEADER_BYTES = 4096
"""Read of a file to tell its format and to parse its header."""
COMPRESSED = tuple(codec.suffix for codec in CODECS)
_SIZES = {348: "NIfTI-1", 540: "NIfTI-2"}


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
    head = inflated_head(head, 1024)
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
    head = read_inflated(header_path, HEADER_BYTES)
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
            header = _nifti(data_path or path, header_path, name, head)
    except (HeaderDataError, HeaderTypeError, WrapStructError, MGHError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{header_path} has no usable {name} header ({text}): convert or download it again"
        ) from error
    return header


def _files(path: str) -> tuple[str, str | None]:
    """Header file and, for pairs, the file of values."""
    stem, extension = os.path.splitext(path)
    compressed = extension.lower() in COMPRESSED
    packed = extension if compressed else ""
    if compressed:
        stem, extension = os.path.splitext(stem)
    parts = {".hdr": ".img", ".img": ".hdr"}
    if extension.lower() not in parts:
        return path, None
    other = parts[extension.lower()]
    other = other.upper() if extension.isupper() else other
    endings = dict.fromkeys((packed, "", *COMPRESSED))
    beside = next((stem + other + end for end in endings if os.path.exists(stem + other + end)), "")
    if not beside:
        raise FileNotFoundError(
            f"{path} is one of two files, and {os.path.basename(stem + other)} is not beside it: "
            "copy both into one folder"
        )
    return (path, beside) if other.lower() == ".img" else (beside, path)


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
    shape, dims = volume_dims(shape, path, last)
    unit = {3: "slices", 4: "volumes"}.get(len(shape), "series")
    return stored_values(path, offset, shape[::-1], dtype, scaling, unit), dims


def _nifti(path: str, header_path: str, name: str, head: bytes) -> ImageHeader:
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
        from penstock.io.nifti.cifti import read_cifti

        return read_cifti(path, header)
    doubts = _read_extensions(header, header_path, head)
    last = COMPONENT if "vector" in str(header.get_intent()[0]) else "time"
    shape = tuple(map(int, header.get_data_shape()))
    scaling = header.get_slope_inter()
    values, dims = _volumes(path, first_byte(header), shape, header.get_data_dtype(), scaling, last)
    try:
        affine = header.get_best_affine()
    except ValueError as error:  # (a quaternion longer than 1)
        raise nibabel.spatialimages.HeaderDataError(f"no rotation in its qform: {error}") from error
    told = describe_nifti(header, affine, path, name, sizes)
    return ImageHeader(
        values,
        dims,
        tuple(range(len(dims)))[::-1],
        affine,
        told.time if "time" in dims else TimeStep(),
        attrs=told.attrs,
        doubts=(*told.doubts, *doubts),
    )


class Description(NamedTuple):
    """What a NIfTI header says beside where values lie."""

    attrs: dict[str, Any]
    time: TimeStep
    """Of the fourth axis, if there is one."""
    doubts: tuple[str, ...]


def describe_nifti(
    header: Any, affine: Any, path: str, name: str, sizes: np.ndarray | None = None
) -> Description:
    """Attributes, repetition time and doubts of a NIfTI header of nibabel.

    Parameters
    ----------
    header : nibabel.Nifti1Header
        Or one derived from it.
    affine : array_like
        Of the image.
    path : str
        What messages call it.
    name : str
        The format.
    sizes : numpy.ndarray, optional
        Voxel sizes as they stand in the file, where nibabel has mended them.
    """
    sizes = np.array(header["pixdim"][1:4]) if sizes is None else sizes
    units = int(header["xyzt_units"])
    intent = str(header.get_intent()[0])
    attrs: dict[str, Any] = {
        "format": name,
        "spatial_units": LENGTHS.get(units & 7) or "mm",
        "sform_code": int(header["sform_code"]),
        "qform_code": int(header["qform_code"]),
        "description": _text(header["descrip"]),
        "intent": "" if intent == "none" else intent,
        HEADER: kept_fields(header, affine),
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
    time = header_time(header["pixdim"][4], units & 0x38, path)
    return Description(
        {key: value for key, value in attrs.items() if value != ""}, time, tuple(doubts)
    )


def _read_extensions(header: Any, path: str, head: bytes) -> list[str]:
    """Add the extensions that follow a header; returns doubts."""
    size = header.sizeof_hdr
    if len(head) < size + 4 or not head[size]:
        return []
    end = first_byte(header) if header.is_single else MOST_EXTENSION_BYTES
    if not 0 <= end <= MOST_EXTENSION_BYTES:
        return [f"{path} has extensions of its header too large to be kept ({end} bytes)"]
    content = read_inflated(path, end)[size + 4 :]
    byteswap = header.endianness != ("<" if sys.byteorder == "little" else ">")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            length = len(content) if header.is_single else -1
            header.extensions = header.exts_klass.from_fileobj(
                io.BytesIO(content), length, byteswap
            )
    except Exception as error:  # (whatever a damaged extension leads its parser to)
        text = " ".join(str(error).split())
        return [f"{path} has extensions of its header that cannot be read and are left out: {text}"]
    return []


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
    time = header_time(header["pixdim"][4], 0, path) if "time" in dims else TimeStep()
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
        time = header_time(with_footer["tr"], 16, path)
    attrs = {"format": "MGH", "spatial_units": "mm"}
    order = tuple(range(len(dims)))[::-1]
    return ImageHeader(values, dims, order, header.get_affine(), time, attrs=attrs)


def _text(field: np.ndarray) -> str:
    raw = bytes(field.item()).split(b"\0")[0]
    return raw.decode("utf-8", "replace").strip()


_silent = logging.Logger("nifti", logging.CRITICAL + 1)
"""For nibabel, which writes what it mends in a header to standard error."""
