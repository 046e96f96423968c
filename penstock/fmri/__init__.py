"""Volumes: region signals, maskers and signal cleaning of fMRI, read once and in bounded memory.

Modules are loaded when one of their names is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CleanSignals": "penstock.fmri.cleaning.processor",
    "ConfoundStrategy": "penstock.fmri.cleaning.strategies",
    "ExtractLabels": "penstock.fmri.extraction.regions",
    "ExtractMaps": "penstock.fmri.extraction.weighted",
    "ExtractSpheres": "penstock.fmri.extraction.weighted",
    "ExtractTogether": "penstock.fmri.extraction.together",
    "ExtractVoxels": "penstock.fmri.extraction.regions",
    "MultiNiftiLabelsMasker": "penstock.fmri.maskers.several",
    "MultiNiftiMapsMasker": "penstock.fmri.maskers.several",
    "MultiNiftiMasker": "penstock.fmri.maskers.several",
    "MultiNiftiSpheresMasker": "penstock.fmri.maskers.several",
    "NiftiLabelsMasker": "penstock.fmri.maskers.maskers",
    "NiftiMapsMasker": "penstock.fmri.maskers.maskers",
    "NiftiMasker": "penstock.fmri.maskers.maskers",
    "NiftiSpheresMasker": "penstock.fmri.maskers.maskers",
    "ResampleVolumes": "penstock.fmri.images.resampling",
    "SmoothVolumes": "penstock.fmri.images.smoothing",
    "SpatialImage": "penstock.fmri.images.images",
    "as_volumes": "penstock.fmri.images.volumes",
    "compute_mask": "penstock.fmri.images.masks",
    "extract": "penstock.fmri.maskers.one_pass",
    "find_confounds": "penstock.fmri.cleaning.confounds",
    "high_variance_confounds": "penstock.fmri.cleaning.high_variance",
    "intersect_masks": "penstock.fmri.images.masks",
    "load_confounds": "penstock.fmri.cleaning.strategies",
    "load_confounds_table": "penstock.fmri.cleaning.confounds",
    "load_image": "penstock.fmri.images.images",
    "mean_image": "penstock.fmri.images.masks",
    "plot_carpet": "penstock.fmri.plots.carpet",
    "plot_cleaning": "penstock.fmri.plots.cleaning",
    "plot_regions": "penstock.fmri.plots.regions",
    "resample_image": "penstock.fmri.images.resampling",
    "signal_clean": "penstock.fmri.cleaning.nilearn_call",
    "simulate_fmri": "penstock.fmri.simulate",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock.fmri' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
