"""Reading and writing recordings and datasets: one file a format, a registry, an xarray backend.

Importing this package imports neither MNE-Python nor edfio nor h5py; formats load what they need
when a file of theirs is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock.formats import ExportReport
from penstock.io.edf.events import read_annotations
from penstock.io.export import export
from penstock.io.registry import (
    Reader,
    extensions,
    open_dataset,
    readers,
    register_reader,
)

if TYPE_CHECKING:
    from penstock.io.hdf5.open import list_main_datasets as list_main_datasets
    from penstock.io.hdf5.usid_write import write_usid as write_usid
    from penstock.io.hdf5.usid_write import write_usid_results as write_usid_results
    from penstock.io.mne.objects import from_mne as from_mne
    from penstock.io.mne.raw import to_mne as to_mne
    from penstock.io.nifti.images import from_nibabel as from_nibabel
    from penstock.io.nifti.images import to_nibabel as to_nibabel
    from penstock.io.sidpy_datasets import from_sidpy as from_sidpy
    from penstock.io.sidpy_datasets import to_sidpy as to_sidpy

_HOMES = {
    "from_mne": "penstock.io.mne.objects",
    "from_nibabel": "penstock.io.nifti.images",
    "from_sidpy": "penstock.io.sidpy_datasets",
    "list_main_datasets": "penstock.io.hdf5.open",
    "to_mne": "penstock.io.mne.raw",
    "to_nibabel": "penstock.io.nifti.images",
    "to_sidpy": "penstock.io.sidpy_datasets",
    "write_usid": "penstock.io.hdf5.usid_write",
    "write_usid_results": "penstock.io.hdf5.usid_write",
}

__all__ = [
    "ExportReport",
    "Reader",
    "export",
    "extensions",
    "from_mne",
    "from_nibabel",
    "from_sidpy",
    "list_main_datasets",
    "open_dataset",
    "read_annotations",
    "readers",
    "register_reader",
    "to_mne",
    "to_nibabel",
    "to_sidpy",
    "write_usid",
    "write_usid_results",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock.io' has no attribute {name!r}")
