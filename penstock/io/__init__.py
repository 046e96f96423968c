"""Reading and writing recordings: one file a format, a registry, an xarray backend.

Importing this package imports neither MNE-Python nor edfio; formats load what they need when a
file of theirs is opened.
"""

from __future__ import annotations

from penstock.io.edf import read_annotations
from penstock.io.export import ExportReport, export
from penstock.io.registry import (
    Reader,
    extensions,
    open_dataset,
    readers,
    register_reader,
)

__all__ = [
    "ExportReport",
    "Reader",
    "export",
    "extensions",
    "open_dataset",
    "read_annotations",
    "readers",
    "register_reader",
]
