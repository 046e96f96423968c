"""Fits of arrays: no dataset, no blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.dataset import Region, make_dataset
from penstock.processor import Context
from penstock.spectra.fitting.models import Model
from penstock.spectra.fitting.processor import Fit


@dataclass(frozen=True)
class FitResult:
    """Fits of all positions of an array; every attribute begins with the positions' axes."""

    model: Model
    parameters: np.ndarray
    """Fitted parameters (..., n), NaN where the fit failed."""
    errors: np.ndarray
    """Standard errors (..., n): infinite where the data do not determine them, NaN where there are
    none (fixed parameters, fits that failed or did not converge)."""
    covariance: np.ndarray
    """Covariance of the parameters (..., n, n)."""
    reduced_chi_square: np.ndarray
    n_evaluations: np.ndarray
    status: np.ndarray
    """As for `Fit`: 1 converged, 2 failed, 3 not converged, 4 at a bound, 5 singular."""
    failures: Mapping[tuple[int, ...], str]
    """Why positions failed."""

    def __getitem__(self, name: str) -> np.ndarray:
        """Values of one parameter."""
        return self.parameters[..., self.model.parameter_names.index(name)]

    def curve(self, x: Any) -> np.ndarray:
        """Fitted curves (..., L) at x (L,), or (dims, L) of curves over several dims."""
        n = self.parameters.shape[-1]
        with np.errstate(all="ignore"):
            flat = self.model.curves(np.asarray(x, float))(self.parameters.reshape(-1, n))
        return flat.reshape(*self.parameters.shape[:-1], flat.shape[-1])


def fit_positions(x: Any, y: Any, model: Any, **options: Any) -> FitResult:
    """Fit a curve to every spectrum of an array.

    Parameters
    ----------
    x : array_like
        Abscissa (L,); of curves over several dims the coordinates of every point (dims, L).
    y : array_like
        Spectra (..., L), real or complex.
    model : str, mapping, Model or callable
        As for `Fit`.
    **options
        Further parameters of `Fit`: `guess`, `bounds`, `fixed`, `sigma`, `absolute_sigma`,
        `nan_policy`, `method`, `prior`, `n_clusters`, `n_prior`, `ftol`, `xtol`, `gtol`,
        `max_nfev`. Here `sigma` may also be an array that broadcasts to `y`.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError, TypeError
        If model, options and data do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fitting.fit import fit_positions
    >>> x = np.linspace(0, 4, 60)
    >>> y = np.array([[2.0], [3.0]]) * np.exp(-x / 1.5) + 1
    >>> fit_positions(x, y, "exponential_decay")["time_constant"].round(6).tolist()
    [1.5, 1.5]
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim not in (1, 2) or not y.ndim or y.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"x must be one-dimensional and as long as the last axis of y: x has shape {x.shape}, "
            f"y {y.shape}"
        )
    sigma = options.pop("sigma", None)
    if np.ndim(sigma) > 1:
        sigma = np.asarray(sigma, dtype=np.float64)
        try:
            sigma = np.broadcast_to(sigma, y.shape)
        except ValueError:
            raise ValueError(
                f"sigma of shape {sigma.shape} does not broadcast to spectra of shape {y.shape}"
            ) from None
    own = sigma if np.ndim(sigma) > 1 else None
    fit = Fit(model, core_dim="x", sigma=None if own is not None else sigma, **options)
    dims = (*(f"position_{axis}" for axis in range(y.ndim - 1)), "x")
    ds = make_dataset(y, dims, coords={"x": x} if x.ndim == 1 else None)
    whole: Region = {dim: slice(0, size) for dim, size in zip(dims, y.shape, strict=True)}
    ctx = Context(whole, {dim: whole[dim] for dim in dims[:-1]}, ds, fit.prepared(ds, x))
    records = fit.fitted(y, ctx, x, own)
    names = fit.model.parameter_names
    return FitResult(
        model=fit.model.at(x),
        parameters=np.stack([records[name] for name in names], axis=-1),
        errors=np.stack([records[f"{name}_error"] for name in names], axis=-1),
        covariance=records["covariance"],
        reduced_chi_square=records["reduced_chi_square"],
        n_evaluations=records["n_evaluations"],
        status=records["status"],
        failures={tuple(where.values()): reason for where, reason in ctx.failures},
    )
