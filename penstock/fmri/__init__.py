"""Volumes: region signals, maskers and signal cleaning of fMRI, read once and in bounded memory.

Modules are loaded when one of their names is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CleanSignals": "penstock.fmri.clean",
    "ConfoundStrategy": "penstock.fmri.confound_strategies",
    "ExtractLabels": "penstock.fmri.regions",
    "ExtractMaps": "penstock.fmri.weighted",
    "ExtractSpheres": "penstock.fmri.weighted",
    "ExtractTogether": "penstock.fmri.together",
    "ExtractVoxels": "penstock.fmri.regions",
    "MultiNiftiLabelsMasker": "penstock.fmri.multi_maskers",
    "MultiNiftiMapsMasker": "penstock.fmri.multi_maskers",
    "MultiNiftiMasker": "penstock.fmri.multi_maskers",
    "MultiNiftiSpheresMasker": "penstock.fmri.multi_maskers",
    "NiftiLabelsMasker": "penstock.fmri.maskers",
    "NiftiMapsMasker": "penstock.fmri.maskers",
    "NiftiMasker": "penstock.fmri.maskers",
    "NiftiSpheresMasker": "penstock.fmri.maskers",
    "ResampleVolumes": "penstock.fmri.resampling",
    "SmoothVolumes": "penstock.fmri.smoothing",
    "SpatialImage": "penstock.fmri.images",
    "as_volumes": "penstock.fmri.volumes",
    "compute_mask": "penstock.fmri.masks",
    "extract": "penstock.fmri.one_pass",
    "find_confounds": "penstock.fmri.confounds",
    "high_variance_confounds": "penstock.fmri.high_variance",
    "intersect_masks": "penstock.fmri.masks",
    "load_confounds": "penstock.fmri.confound_strategies",
    "load_confounds_table": "penstock.fmri.confounds",
    "load_image": "penstock.fmri.images",
    "mean_image": "penstock.fmri.masks",
    "plot_carpet": "penstock.fmri.carpet",
    "plot_cleaning": "penstock.fmri.cleaning_view",
    "plot_regions": "penstock.fmri.view",
    "resample_image": "penstock.fmri.resampling",
    "signal_clean": "penstock.fmri.signal",
    "simulate_fmri": "penstock.fmri.simulate",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock.fmri' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
