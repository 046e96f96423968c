"""Positions: one operation on every spectrum of a grid. Loop dims are positions.

Public names are loaded on first use: a worker process imports what its functions need, no more.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ApplyMasks": "penstock.spectra.passes.maps",
    "CentreOfMass": "penstock.spectra.passes.maps",
    "ExponentialDecay": "penstock.spectra.fitting.models",
    "FindPeaksCWT": "penstock.spectra.peaks.processor",
    "Fit": "penstock.spectra.fitting.fit",
    "FitResult": "penstock.spectra.fitting.fit",
    "FunctionModel": "penstock.spectra.fitting.models",
    "Gaussian": "penstock.spectra.fitting.models",
    "ImageReduction": "penstock.spectra.passes.contract",
    "Lorentzian": "penstock.spectra.fitting.models",
    "MapReduction": "penstock.spectra.passes.contract",
    "Mean": "penstock.spectra.passes.images",
    "Output": "penstock.spectra.any_function.outputs",
    "PerPosition": "penstock.spectra.any_function.positions",
    "Polynomial": "penstock.spectra.fitting.models",
    "PositionSum": "penstock.spectra.passes.maps",
    "Process": "penstock.spectra.any_function.process",
    "Reduction": "penstock.spectra.passes.contract",
    "SimpleHarmonicOscillator": "penstock.spectra.fitting.models",
    "Statistics": "penstock.spectra.passes.images",
    "Sum": "penstock.spectra.passes.images",
    "Voigt": "penstock.spectra.fitting.models",
    "evaluate": "penstock.spectra.fitting.fit",
    "explore": "penstock.spectra.plots.explorer",
    "find_peaks_cwt": "penstock.spectra.peaks.processor",
    "fit_positions": "penstock.spectra.fitting.fit",
    "kmeans": "penstock.spectra.passes.clustering",
    "nmf": "penstock.spectra.passes.nonnegative",
    "parallel_compute": "penstock.spectra.any_function.parallel",
    "pca": "penstock.spectra.passes.principal",
    "plot_map": "penstock.spectra.plots.view",
    "plot_position": "penstock.spectra.plots.view",
    "reduce": "penstock.spectra.passes.reductions",
    "svd": "penstock.spectra.passes.principal",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock.spectra' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
