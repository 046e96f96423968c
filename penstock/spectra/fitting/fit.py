"""Curve fits at every position: of datasets (`Fit`) and of arrays (`fit_positions`)."""

from penstock.spectra.fitting.arrays import FitResult, fit_positions
from penstock.spectra.fitting.curves import evaluate
from penstock.spectra.fitting.processor import Fit

__all__ = ["Fit", "FitResult", "evaluate", "fit_positions"]
