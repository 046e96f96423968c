"""Penstock: recordings and datasets larger than memory, through processors, inside a memory budget.

Public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock import moved

__version__ = "0.1.0"

_HOMES = {
    "Apply": "penstock.processor",
    "BudgetError": "penstock.errors",
    "Context": "penstock.processor",
    "Processor": "penstock.processor",
    "Pipeline": "penstock.pipeline",
    "Plan": "penstock.planning.plan",
    "Report": "penstock.running.report",
    "events_table": "penstock.dataset",
    "export": "penstock.io",
    "from_mne": "penstock.io",
    "from_nibabel": "penstock.io",
    "from_sidpy": "penstock.io",
    "make_dataset": "penstock.dataset",
    "open_dataset": "penstock.io",
    "provenance": "penstock.attributes",
    "sampling_frequency": "penstock.dataset",
    "show_versions": "penstock.versions",
    "to_mne": "penstock.io",
    "to_nibabel": "penstock.io",
    "to_sidpy": "penstock.io",
    "with_events": "penstock.dataset",
}
moved.install()

_SUBMODULES = ("eeg", "fmri", "io", "spectra", "testing")

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from penstock.attributes import provenance as provenance
    from penstock.dataset import events_table as events_table
    from penstock.dataset import make_dataset as make_dataset
    from penstock.dataset import sampling_frequency as sampling_frequency
    from penstock.dataset import with_events as with_events
    from penstock.errors import BudgetError as BudgetError
    from penstock.io import export as export
    from penstock.io import from_mne as from_mne
    from penstock.io import from_nibabel as from_nibabel
    from penstock.io import from_sidpy as from_sidpy
    from penstock.io import open_dataset as open_dataset
    from penstock.io import to_mne as to_mne
    from penstock.io import to_nibabel as to_nibabel
    from penstock.io import to_sidpy as to_sidpy
    from penstock.pipeline import Pipeline as Pipeline
    from penstock.planning.plan import Plan as Plan
    from penstock.processor import Apply as Apply
    from penstock.processor import Context as Context
    from penstock.processor import Processor as Processor
    from penstock.running.report import Report as Report
    from penstock.versions import show_versions as show_versions


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"penstock.{name}")
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
