"""Recordings: EEG, simultaneous EEG-fMRI, sleep. Processors whose loop dim is the channel."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.eeg.channels import Crop, DropChannels, PickChannels, Rereference
from penstock.eeg.filtering.filters import (
    BandPassFilter,
    Filter,
    HighPassFilter,
    LowPassFilter,
    NotchFilter,
)
from penstock.eeg.filtering.resampling import DownSample, Resample, UpSample
from penstock.eeg.mne_methods.processor import MNE
from penstock.eeg.plots.before_after import add_pictures, plot_before_after
from penstock.eeg.plots.spectra import plot_psd
from penstock.eeg.plots.traces import plot_traces
from penstock.eeg.scaling import Scale
from penstock.eeg.scanner_artifact.aas import AASCorrection
from penstock.eeg.scanner_artifact.triggers import TriggerDetector

__all__ = [
    "MNE",
    "AASCorrection",
    "BandPassFilter",
    "Crop",
    "DownSample",
    "DropChannels",
    "Filter",
    "HighPassFilter",
    "LowPassFilter",
    "NotchFilter",
    "PickChannels",
    "Rereference",
    "Resample",
    "Scale",
    "TriggerDetector",
    "UpSample",
    "add_pictures",
    "plot_before_after",
    "plot_psd",
    "plot_traces",
]


def __getattr__(name: str) -> Any:
    if name == "simulate":
        return importlib.import_module("penstock.eeg.simulate")
    raise AttributeError(f"module 'penstock.eeg' has no attribute {name!r}")
