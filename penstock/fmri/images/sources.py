"""What users give as images: paths with ``~``, patterns, and what is no image of voxels."""

from __future__ import annotations

import glob
import os
from typing import Any

from penstock.local_paths import check_local


def matching_paths(path: str | os.PathLike[str]) -> list[str]:
    """The path, ``~`` written out, or all that it matches where it is a pattern.

    Raises
    ------
    FileNotFoundError
        If no file matches the pattern.
    RemotePathError
        If it is the address of something on another machine.
    """
    check_local(path)
    expanded = os.path.expanduser(os.fspath(path))
    if not glob.has_magic(expanded) or os.path.exists(expanded):
        return [expanded]
    found = sorted(glob.glob(expanded, recursive=True))
    if not found:
        raise FileNotFoundError(f"{path}: no file matches this pattern")
    return found


def refuse_surface(image: Any, name: str) -> None:
    """Raise TypeError for data on a surface, which have vertices instead of voxels."""
    if hasattr(image, "mesh") and hasattr(image, "data"):
        raise TypeError(
            f"{name} is a {type(image).__name__}: surfaces are not supported yet, only images of "
            "voxels are; nilearn's Surface maskers take it"
        )
