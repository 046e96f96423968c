"""Curve fits at every position: of datasets (`Fit`) and of arrays (`fit_positions`)."""

from penstock.spectra.curves import evaluate
from penstock.spectra.fit_arrays import FitResult, fit_positions
from penstock.spectra.fit_processor import Fit

__all__ = ["Fit", "FitResult", "evaluate", "fit_positions"]
