"""A least-squares problem: residuals, derivatives and bounds for many positions at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from penstock.spectra.fitting.differences import differences, refined_differences

NO_WEIGHTS = np.empty((0, 0))
"""Stands for positions without weights of their own: an array without columns."""


@dataclass(frozen=True)
class Tolerances:
    """When to stop; the defaults are those of `scipy.optimize.least_squares`.

    Parameters
    ----------
    ftol : float, default 1e-8
        Relative reduction of the sum of squares, actual and predicted. What is left of the way to
        the minimum, as the last two steps let expect, must be below a tenth of its square root, in
        standard errors.
    xtol : float, default 1e-8
        Length of a step relative to the length of the parameters and to the variation of the data,
        both in the scale of the Jacobian's columns. (The second makes it the same wherever x and y
        begin to count.)
    gtol : float, default 1e-8
        Largest cosine between the residuals and a column of the Jacobian.
    max_nfev : int, optional
        Evaluations of the function at a position, those for differences not counted. Default: 200
        for each parameter and one more, and as many again where a fit starts again.
    """

    ftol: float = 1e-8
    xtol: float = 1e-8
    gtol: float = 1e-8
    max_nfev: int | None = None

    def most_evaluations(self, n_parameters: int) -> int:
        """Evaluations at a position at which it is given up."""
        return 200 * (n_parameters + 1) if self.max_nfev is None else self.max_nfev


@dataclass(frozen=True)
class Problem:
    """One least-squares problem that has other data at every position.

    Parameters
    ----------
    function : callable
        Parameters of some positions (P, n) to curves (P, L), real or complex.
    jacobian : callable
        Parameters of some positions (P, n), and their curves where they are known already, to
        derivatives (P, L, n), or None for differences.
    lower, upper : numpy.ndarray
        Bounds of the parameters (n,), infinite where there are none.
    exclusive : numpy.ndarray
        Parameters (n,) that must stay above their lower bound. One step takes them nine tenths of
        the way at most: close to the bound, derivatives vanish.
    weights : numpy.ndarray or float, default 1.0
        Factors of the residuals, (L,) or one for all: one over sigma. Positions may have weights of
        their own (P, L) instead, with 0 for values that do not count.
    tolerances : Tolerances
    """

    function: Callable[[np.ndarray], np.ndarray]
    jacobian: Callable[..., np.ndarray | None]
    lower: np.ndarray
    upper: np.ndarray
    exclusive: np.ndarray
    weights: np.ndarray | float = 1.0
    tolerances: Tolerances = field(default_factory=Tolerances)

    @property
    def bounded(self) -> bool:
        """Whether any parameter has a bound."""
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    def own_weights(self, weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Weights of positions (P, L), those of the problem where they have none of their own."""
        return weights if weights.shape[1] else np.array(np.broadcast_to(self.weights, shape))

    def weighted(self, values: np.ndarray, weights: np.ndarray = NO_WEIGHTS) -> np.ndarray:
        """Values of positions (P, ..., L) times their weights (P, L), or those of the problem.

        Where a weight is 0 the product is 0, even where a curve is not finite.
        """
        if not weights.shape[1]:
            if isinstance(self.weights, float) and self.weights == 1.0:
                return values
            return values * self.weights
        factors = weights if values.ndim == 2 else weights[:, np.newaxis]
        product = values * factors
        np.copyto(product, 0, where=factors == 0)
        return product

    def residuals(
        self, data: np.ndarray, parameters: np.ndarray, weights: np.ndarray = NO_WEIGHTS
    ) -> np.ndarray:
        """Weighted data less curves, real and imaginary parts side by side: (P, N)."""
        return self.left_of(data, self.function(parameters), weights)

    def left_of(self, data: np.ndarray, curves: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted data less these curves, real and imaginary parts side by side: (P, N)."""
        return as_real(self.weighted(data - curves, weights), data.dtype.kind)

    def derivatives(
        self,
        parameters: np.ndarray,
        kind: str,
        weights: np.ndarray = NO_WEIGHTS,
        curves: np.ndarray | None = None,
    ) -> np.ndarray:
        """Weighted derivatives, real and imaginary parts side by side: (P, n, N).

        `curves` are those of the parameters, where they are known already.
        """
        known = () if curves is None else (curves,)
        jacobian = self.jacobian(parameters, *known)
        if jacobian is None:
            columns = differences(self.function, parameters, self.lower, self.upper)
        else:
            columns = jacobian.swapaxes(1, 2)
        return as_real(self.weighted(columns, weights), kind)

    def careful_derivatives(
        self, parameters: np.ndarray, kind: str, weights: np.ndarray = NO_WEIGHTS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives as exact as they can be had, and an estimate of their errors (P, n, N)."""
        jacobian = self.jacobian(parameters)
        if jacobian is None:
            columns, errors = refined_differences(self.function, parameters, self.lower, self.upper)
        else:
            columns = jacobian.swapaxes(1, 2)
            errors = np.finfo(float).eps * columns
        pair = (as_real(self.weighted(one, weights), kind) for one in (columns, errors))
        exact, off = pair
        return exact, off


def as_real(values: np.ndarray, kind: str) -> np.ndarray:
    """Values of complex data as twice as many real ones along the last axis.

    Complex values have no place in real data: they become NaN.
    """
    if kind != "c":
        if np.iscomplexobj(values):
            values = np.where(values.imag == 0, values.real, np.nan)
        return np.ascontiguousarray(values, dtype=np.float64)
    return np.ascontiguousarray(values, dtype=np.complex128).view(np.float64)
