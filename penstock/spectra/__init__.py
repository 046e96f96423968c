"""Positions: one operation on every spectrum of a grid. Loop dims are positions.

Public names are loaded on first use: a worker process imports what its functions need, no more.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ApplyMasks": "penstock.spectra.maps",
    "CentreOfMass": "penstock.spectra.maps",
    "ExponentialDecay": "penstock.spectra.models",
    "FindPeaksCWT": "penstock.spectra.peaks",
    "Fit": "penstock.spectra.fit",
    "FitResult": "penstock.spectra.fit",
    "FunctionModel": "penstock.spectra.models",
    "Gaussian": "penstock.spectra.models",
    "ImageReduction": "penstock.spectra.reduction_contract",
    "Lorentzian": "penstock.spectra.models",
    "MapReduction": "penstock.spectra.reduction_contract",
    "Mean": "penstock.spectra.images",
    "Output": "penstock.spectra.outputs",
    "PerPosition": "penstock.spectra.positions",
    "Polynomial": "penstock.spectra.models",
    "PositionSum": "penstock.spectra.maps",
    "Process": "penstock.spectra.process",
    "Reduction": "penstock.spectra.reduction_contract",
    "SimpleHarmonicOscillator": "penstock.spectra.models",
    "Statistics": "penstock.spectra.images",
    "Sum": "penstock.spectra.images",
    "Voigt": "penstock.spectra.models",
    "evaluate": "penstock.spectra.fit",
    "explore": "penstock.spectra.explorer",
    "find_peaks_cwt": "penstock.spectra.peaks",
    "fit_positions": "penstock.spectra.fit",
    "kmeans": "penstock.spectra.clustering",
    "nmf": "penstock.spectra.nonnegative",
    "parallel_compute": "penstock.spectra.parallel",
    "pca": "penstock.spectra.principal",
    "plot_map": "penstock.spectra.view",
    "plot_position": "penstock.spectra.view",
    "reduce": "penstock.spectra.reductions",
    "svd": "penstock.spectra.principal",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock.spectra' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
