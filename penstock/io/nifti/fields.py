"""What else a NIfTI header says: kept with a dataset, and written again.

Affine, codes, units and repetition time have places of their own in a dataset. The rest travels as
one text (JSON) in ``attrs["nifti_header"]``, which every store and format of ours can hold.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.attributes import nested_attribute

HEADER = "nifti_header"
"""Name of the attribute."""
NUMBERS = (
    *("intent_p1", "intent_p2", "intent_p3", "intent_code", "dim_info"),
    *("slice_start", "slice_end", "slice_code", "slice_duration"),
    *("cal_min", "cal_max", "toffset"),
)
TEXTS = ("intent_name", "aux_file")
OF_SLICES = ("dim_info", "slice_start", "slice_end", "slice_code", "slice_duration")
"""What is true of the voxels as they lay in the file only."""
OF_VALUES = ("cal_min", "cal_max", *("intent_p1", "intent_p2", "intent_p3", "intent_code"))
"""What is true of the values in the file only."""
SECONDS, TIME_CODES = 8, (8, 16, 24)
MOST_EXTENSION_BYTES = 16 * 1024 * 1024
LENGTHS = {0: "", 1: "m", 2: "mm", 3: "um"}
"""Codes of ``xyzt_units`` for lengths."""


def kept_fields(header: Any, affine: Any) -> str:
    """The fields of a header of nibabel, as the text that datasets carry; empty without any.

    Parameters
    ----------
    header : nibabel.Nifti1Header
        Or one derived from it (NIfTI-2, pairs).
    affine : array_like
        From voxel positions to mm, as the image says it.
    """
    kept: dict[str, Any] = {}
    for name in NUMBERS:
        value = header[name].item()
        if value and np.isfinite(value):
            kept[name] = value
    for name in TEXTS:
        if text := _text(header[name]):
            kept[name] = text
    units = int(header["xyzt_units"])
    if units & 0x38 != SECONDS:
        kept["time_unit"] = units & 0x38
    if not units & 7:
        kept["length_unit"] = 0
    shape = tuple(map(int, header.get_data_shape()))
    is_vector = "vector" in str(header.get_intent()[0])
    if len(shape) > 3 and (is_vector or units & 0x38 not in (0, *TIME_CODES)):
        kept["step"] = float(header["pixdim"][4])
    if len(shape) > 4:
        kept["further_steps"] = [float(step) for step in header["pixdim"][5 : len(shape) + 1]]
    if any(name in kept for name in OF_SLICES):
        kept["grid"] = [list(shape[:3]), np.asarray(affine, np.float64).round(6).tolist()]
    if int(header["qform_code"]) and int(header["sform_code"]):
        moved = _qform_of_sform(header)
        if moved is not None and not np.allclose(moved, np.eye(4), atol=1e-5):
            # (from world to world, which stays true whatever voxels are left)
            kept["qform_of_sform"] = moved.tolist()
    extensions = [
        [int(extension.get_code()), base64.b64encode(_content(extension)).decode()]
        for extension in getattr(header, "extensions", ())
    ]
    if extensions:
        kept["extensions"] = extensions
    return json.dumps(kept) if kept else ""


def _qform_of_sform(header: Any) -> np.ndarray | None:
    """From where the sform puts voxels to where the qform does; None where one is no use."""
    try:
        other = np.asarray(header.get_qform(), np.float64)
        moved = other @ np.linalg.inv(np.asarray(header.get_sform(), np.float64))
    except (ValueError, np.linalg.LinAlgError):
        return None
    return moved if np.isfinite(moved).all() else None


def fields_of(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields that the attributes of a dataset carry."""
    try:
        found = json.loads(attrs.get(HEADER) or "{}")
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def restore_fields(
    header: Any, attrs: Mapping[Any, Any], shape: tuple[int, ...], affine: np.ndarray
) -> None:
    """Write the fields that a dataset carries into a header of nibabel.

    Those about slices are left out where the voxels are no longer those of the file, and those
    about the values where processors have made others.
    """
    kept = fields_of(attrs)
    left_out: set[str] = set()
    if not _same_voxels(kept.get("grid"), shape, affine):
        left_out |= set(OF_SLICES)
    if nested_attribute(attrs, "penstock").get("pipeline"):
        left_out |= set(OF_VALUES)
    for name in NUMBERS:
        if name in kept and name not in left_out:
            header[name] = kept[name]
    for name in TEXTS:
        if name in kept:
            size = header[name].dtype.itemsize
            header[name] = str(kept[name]).encode()[: size - 1]
    if len(shape) > 3 and "step" in kept:
        header["pixdim"][4] = kept["step"]
        if "time_unit" in kept:
            header["xyzt_units"] = (int(header["xyzt_units"]) & 7) | int(kept["time_unit"])
    from nibabel.nifti1 import Nifti1Extension

    for code, content in kept.get("extensions", ()):
        header.extensions.append(Nifti1Extension(int(code), base64.b64decode(content)))


def _same_voxels(grid: Any, shape: tuple[int, ...], affine: np.ndarray) -> bool:
    if not grid:
        return False
    return list(shape[:3]) == grid[0] and np.allclose(affine, grid[1], atol=1e-4)


def _content(extension: Any) -> bytes:
    if hasattr(extension, "content"):
        return bytes(extension.content)
    content = extension.get_content()
    return bytes(content) if isinstance(content, bytes | bytearray) else str(content).encode()


def _text(field: np.ndarray) -> str:
    raw = bytes(field.item()).split(b"\0")[0]
    return raw.decode("utf-8", "replace").strip()
