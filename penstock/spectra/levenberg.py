"""Levenberg-Marquardt for many small problems at once.

`scipy.optimize.curve_fit` spends most of its time in Python, once for every position. Here one
iteration is done for a whole tile of positions with a few NumPy calls; each position keeps its own
damping, leaves the tile as soon as it has converged, and is replaced by the next one, so that a
few hard positions never leave the tile empty.

Definitions: J. J. More, "The Levenberg-Marquardt algorithm: implementation and theory" (1978), for
scaling, the ratio of actual to predicted reduction, and the tests of convergence (those of
MINPACK's ``lmder``, which `scipy.optimize.least_squares` with ``method="lm"`` runs); H. B. Nielsen,
"Damping parameter in Marquardt's method" (1999), for the damping. With bounds, every step is the
best one within them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from penstock.results import STATUS_DONE, STATUS_FAILED

CONVERGED, FAILED = STATUS_DONE, STATUS_FAILED
NOT_CONVERGED, AT_BOUND, SINGULAR = 3, 4, 5
STATUS_MEANINGS = {
    CONVERGED: "converged",
    FAILED: "failed",
    NOT_CONVERGED: "not_converged",
    AT_BOUND: "at_bound",
    SINGULAR: "singular_covariance",
}
"""Status of a position. 0 is left for what has not been computed."""

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-12, 1e32
_LEAST_RATIO = 1e-4
"""A step is taken where it yields this fraction of the predicted reduction (as in MINPACK)."""


_APPROACH = 0.1
"""What is left of the way to a lower bound that must not be reached."""


@dataclass(frozen=True)
class Tolerances:
    """When to stop; the defaults are those of `scipy.optimize.least_squares`.

    Parameters
    ----------
    ftol : float, default 1e-8
        Relative reduction of the sum of squares, actual and predicted.
    xtol : float, default 1e-8
        Length of a step relative to the length of the parameters, both in the scale of the
        Jacobian's columns.
    gtol : float, default 1e-8
        Largest cosine between the residuals and a column of the Jacobian.
    max_nfev : int, optional
        Evaluations of the function at a position, those for differences not counted. Default: 100
        a parameter.
    """

    ftol: float = 1e-8
    xtol: float = 1e-8
    gtol: float = 1e-8
    max_nfev: int | None = None

    def most_evaluations(self, n_parameters: int) -> int:
        """Evaluations at a position at which it is given up."""
        return 100 * n_parameters if self.max_nfev is None else self.max_nfev


@dataclass(frozen=True)
class Problem:
    """One least-squares problem that has other data at every position.

    Parameters
    ----------
    function : callable
        Parameters of some positions (P, n) to curves (P, L), real or complex.
    jacobian : callable
        Parameters of some positions (P, n) to derivatives (P, L, n), or None for differences.
    lower, upper : numpy.ndarray
        Bounds of the parameters (n,), infinite where there are none.
    exclusive : numpy.ndarray
        Parameters (n,) that must stay above their lower bound. One step takes them nine tenths of
        the way at most: close to the bound, derivatives vanish.
    weights : numpy.ndarray or float, default 1.0
        Factors of the residuals, (L,) or one for all: one over sigma.
    tolerances : Tolerances
    """

    function: Callable[[np.ndarray], np.ndarray]
    jacobian: Callable[[np.ndarray], np.ndarray | None]
    lower: np.ndarray
    upper: np.ndarray
    exclusive: np.ndarray
    weights: np.ndarray | float = 1.0
    tolerances: Tolerances = field(default_factory=Tolerances)

    @property
    def bounded(self) -> bool:
        """Whether any parameter has a bound."""
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    def residuals(self, data: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        """Weighted data less curves, real and imaginary parts side by side: (P, N)."""
        return as_real((data - self.function(parameters)) * self.weights, data.dtype.kind)

    def derivatives(self, parameters: np.ndarray, kind: str) -> np.ndarray:
        """Weighted derivatives, real and imaginary parts side by side: (P, n, N)."""
        jacobian = self.jacobian(parameters)
        if jacobian is None:
            jacobian = self._differences(parameters)
        columns = jacobian.swapaxes(1, 2)
        if not (isinstance(self.weights, float) and self.weights == 1.0):
            columns = columns * self.weights
        return as_real(columns, kind)

    def _differences(self, parameters: np.ndarray) -> np.ndarray:
        """Central differences, on one side where a bound is closer than the step."""
        n = parameters.shape[1]
        columns = []
        for k in range(n):
            size = np.abs(parameters[:, k])
            width = np.cbrt(np.finfo(float).eps) * np.where(size > 0, size, 1.0)
            high = np.minimum(parameters[:, k] + width, self.upper[k])
            low = np.maximum(parameters[:, k] - width, self.lower[k])
            above, below = parameters.copy(), parameters.copy()
            above[:, k], below[:, k] = high, low
            columns.append(
                (self.function(above) - self.function(below)) / (high - low)[:, np.newaxis]
            )
        return np.stack(columns, axis=1).swapaxes(1, 2)


def as_real(values: np.ndarray, kind: str) -> np.ndarray:
    """Values of complex data as twice as many real ones along the last axis.

    Complex values have no place in real data: they become NaN.
    """
    if kind != "c":
        if np.iscomplexobj(values):
            values = np.where(values.imag == 0, values.real, np.nan)
        return np.ascontiguousarray(values, dtype=np.float64)
    return np.ascontiguousarray(values, dtype=np.complex128).view(np.float64)


@dataclass
class Positions:
    """State of the positions in the tile; every attribute has one entry a position."""

    rows: np.ndarray
    data: np.ndarray
    parameters: np.ndarray
    squares: np.ndarray
    """Sum of the squared residuals."""
    normal: np.ndarray
    """Jacobian's transpose times itself (n, n)."""
    descent: np.ndarray
    """Jacobian's transpose times the residuals (n,): half the negative gradient."""
    scale: np.ndarray
    """Largest length so far of every column of the Jacobian (n,)."""
    damping: np.ndarray
    growth: np.ndarray
    n_evaluations: np.ndarray
    status: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, mask: np.ndarray) -> Positions:
        """Some of the positions."""
        return Positions(*(getattr(self, f.name)[mask] for f in fields(self)))

    def joined(self, other: Positions) -> Positions:
        """These positions and others."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Positions(*(np.concatenate(pair) for pair in pairs))


def levenberg_marquardt(
    problem: Problem,
    load: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    n_positions: int,
    tile: int = 256,
) -> Iterator[Positions]:
    """Minimise the sum of squared residuals at every position.

    Parameters
    ----------
    problem : Problem
        Function, derivatives, bounds, weights, tolerances.
    load : callable
        ``load(start, stop) -> (data, parameters)``: spectra (P, L), float64 or complex128, and
        first parameters (P, n) of a stretch of positions. Asked for each stretch once, in order.
    n_positions : int
        How many positions there are.
    tile : int, default 256
        How many positions are worked on at once. It bounds the memory; the result of a position
        does not depend on it.

    Yields
    ------
    Positions
        Some positions that are done, with their status: converged, at a bound, not converged, or
        failed (data, first parameters, or the curve or its derivatives there are not finite).
    """
    following = 0
    active: Positions | None = None
    while following < n_positions or active is not None:
        held = 0 if active is None else len(active)
        if following < n_positions and held <= tile // 2:
            stop = min(n_positions, following + tile - held)
            fresh = _begin(problem, *load(following, stop), following)
            active = fresh if active is None else active.joined(fresh)
            following = stop
        else:
            assert active is not None
            _advance(problem, active)
        done = active.status > 0
        if done.any():
            yield active.take(done)
            active = None if done.all() else active.take(~done)


@np.errstate(all="ignore")
def _begin(problem: Problem, data: np.ndarray, parameters: np.ndarray, first: int) -> Positions:
    parameters = np.clip(parameters, problem.lower, problem.upper)
    residuals = problem.residuals(data, parameters)
    normal, descent = _linearised(problem, parameters, residuals, data.dtype.kind)
    squares = np.vecdot(residuals, residuals)
    n = len(data)
    state = Positions(
        rows=np.arange(first, first + n),
        data=data,
        parameters=parameters,
        squares=squares,
        normal=normal,
        descent=descent,
        scale=_lengths(normal),
        damping=np.full(n, _FIRST_DAMPING),
        growth=np.full(n, 2.0),
        n_evaluations=np.ones(n, dtype=np.int32),
        status=np.zeros(n, dtype=np.uint8),
    )
    if problem.tolerances.most_evaluations(parameters.shape[1]) <= 1:
        state.status[:] = NOT_CONVERGED
    state.status[_flat(problem, state)] = CONVERGED
    usable = np.isfinite(squares) & np.isfinite(normal).all(axis=(1, 2))
    usable &= np.isfinite(parameters).all(axis=1)
    state.status[~usable] = FAILED
    return state


@np.errstate(all="ignore")
def _advance(problem: Problem, state: Positions) -> None:
    """One trial step at every position: taken where it reduces the sum of squares."""
    tolerances = problem.tolerances
    step = _step(problem, state)
    trial = np.clip(state.parameters + step, problem.lower, problem.upper)
    residuals = problem.residuals(state.data, trial)
    squares = np.vecdot(residuals, residuals)
    state.n_evaluations += 1

    curvature = np.vecdot(step, _times(state.normal, step))
    predicted = 2 * np.vecdot(step, state.descent) - curvature
    actual = state.squares - squares
    ratio = actual / predicted
    taken = (predicted > 0) & (ratio > _LEAST_RATIO)
    settled = (np.abs(actual) <= tolerances.ftol * state.squares) & (ratio <= 2)
    settled &= predicted <= tolerances.ftol * state.squares
    length = np.linalg.norm(state.scale * step, axis=1)
    settled |= length <= tolerances.xtol * np.linalg.norm(state.scale * state.parameters, axis=1)

    # the last step changes the derivatives no more than the result: they are left as they are
    rows = np.flatnonzero(taken & ~settled)
    kind = state.data.dtype.kind
    normal, descent = _linearised(problem, trial[rows], residuals[rows], kind)
    usable = np.isfinite(normal).all(axis=(1, 2))
    if not usable.all():
        taken[rows[~usable]] = False
        rows, normal, descent = rows[usable], normal[usable], descent[usable]
    state.normal[rows] = normal
    state.descent[rows] = descent
    # columns that vanish keep their scale: their parameters would run away
    state.scale[rows] = np.maximum(state.scale[rows], _lengths(normal))
    state.parameters[taken] = trial[taken]
    state.squares[taken] = squares[taken]

    shrink = np.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
    state.damping *= np.where(taken, shrink, state.growth)
    np.clip(state.damping, _LEAST_DAMPING, _MOST_DAMPING, out=state.damping)
    state.growth = np.where(taken, 2.0, np.minimum(state.growth * 2, _MOST_DAMPING))

    most = tolerances.most_evaluations(state.parameters.shape[1])
    state.status[state.n_evaluations >= most] = NOT_CONVERGED
    # steps that only became short because the function is not finite around are no convergence
    settled |= taken & _flat(problem, state)
    state.status[settled] = np.where(np.isfinite(squares), CONVERGED, NOT_CONVERGED)[settled]


def _linearised(
    problem: Problem, parameters: np.ndarray, residuals: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    columns = problem.derivatives(parameters, kind)
    return columns @ columns.swapaxes(1, 2), np.vecdot(columns, residuals[:, np.newaxis])


def _lengths(normal: np.ndarray) -> np.ndarray:
    """Lengths of the Jacobian's columns."""
    return np.sqrt(np.diagonal(normal, axis1=1, axis2=2))


def _divisors(lengths: np.ndarray) -> np.ndarray:
    """Lengths that may be divided by: 1 for columns that are zero."""
    return np.where(lengths > 0, lengths, 1.0)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[:, :, np.newaxis])[:, :, 0]


def _held(problem: Problem, state: Positions) -> np.ndarray:
    """Parameters at a bound beyond which the sum of squares would go on falling."""
    outwards = (state.parameters <= problem.lower) & (state.descent <= 0)
    return outwards | ((state.parameters >= problem.upper) & (state.descent >= 0))


def _flat(problem: Problem, state: Positions) -> np.ndarray:
    """Whether the residuals are orthogonal to all columns of the Jacobian that are free."""
    cosines = np.abs(state.descent) / _divisors(_lengths(state.normal))
    if problem.bounded:
        cosines[_held(problem, state)] = 0.0
    return cosines.max(axis=1) <= problem.tolerances.gtol * np.sqrt(state.squares)


def _step(problem: Problem, state: Positions) -> np.ndarray:
    """Damped Gauss-Newton step, the best one within the bounds.

    Which parameters end at a bound is found by the primal-dual active set method (M. Hintermueller,
    K. Ito, K. Kunisch, 2002): beyond it they are fixed there, and let go where that is no gain.
    """
    scale = _divisors(state.scale)
    n = scale.shape[1]
    matrix = state.normal / (scale[:, :, np.newaxis] * scale[:, np.newaxis, :])
    diagonal = np.arange(n)
    matrix[:, diagonal, diagonal] += state.damping[:, np.newaxis]
    right = state.descent / scale
    if not problem.bounded:
        return np.linalg.solve(matrix, right[:, :, np.newaxis])[:, :, 0] / scale
    near = problem.lower + _APPROACH * (state.parameters - problem.lower)
    lower = np.where(problem.exclusive, near, problem.lower)
    low, high = (lower - state.parameters) * scale, (problem.upper - state.parameters) * scale
    at_low, at_high = (low >= 0) & (right <= 0), (high <= 0) & (right >= 0)
    identity = np.eye(n)
    for _ in range(2 * n + 2):
        fixed = at_low | at_high
        reached = np.where(at_low, low, np.where(at_high, high, 0.0))
        reduced = np.where(fixed[:, :, np.newaxis] | fixed[:, np.newaxis, :], identity, matrix)
        known = np.where(fixed, reached, right - _times(matrix, reached))
        moved = np.linalg.solve(reduced, known[:, :, np.newaxis])[:, :, 0]
        slope = right - _times(matrix, moved)
        beyond_low = np.where(at_low, slope <= 0, moved < low)
        beyond_high = np.where(at_high, slope >= 0, moved > high)
        if np.array_equal(beyond_low, at_low) and np.array_equal(beyond_high, at_high):
            break
        at_low, at_high = beyond_low, beyond_high
    return np.clip(moved, low, high) / scale


# ---------------------------------------------------------------------- the reference


def scipy_least_squares(
    problem: Problem,
    load: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    n_positions: int,
    tile: int = 256,
) -> Iterator[Positions]:
    """The same by `scipy.optimize.least_squares` (``method="trf"``), one position at a time.

    Parameters and results are those of `levenberg_marquardt`.
    """
    from scipy.optimize import least_squares

    tolerances = problem.tolerances
    for start in range(0, n_positions, tile):
        data, parameters = load(start, min(n_positions, start + tile))
        kind = data.dtype.kind
        state = _begin(problem, data, parameters, start)
        with np.errstate(all="ignore"):
            for i in np.flatnonzero(state.status != FAILED):

                def residuals(p: np.ndarray, row: np.ndarray = data[i : i + 1]) -> np.ndarray:
                    return -problem.residuals(row, p[np.newaxis])[0]

                def jacobian(p: np.ndarray, kind: str = kind) -> np.ndarray:
                    return problem.derivatives(p[np.newaxis], kind)[0].T

                try:
                    result = least_squares(
                        residuals,
                        state.parameters[i],
                        jacobian,
                        bounds=(problem.lower, problem.upper),
                        x_scale="jac",
                        ftol=tolerances.ftol,
                        xtol=tolerances.xtol,
                        gtol=tolerances.gtol,
                        max_nfev=tolerances.max_nfev,
                    )
                except (ValueError, np.linalg.LinAlgError):  # values that are not finite
                    state.status[i] = FAILED
                    continue
                # trf stays inside of bounds; what it calls active is meant to lie on them
                active = (result.active_mask != 0) & ~problem.exclusive
                at_bound = np.where(result.active_mask < 0, problem.lower, problem.upper)
                state.parameters[i] = np.where(active, at_bound, result.x)
                state.n_evaluations[i] = result.nfev
                state.status[i] = CONVERGED if result.status > 0 else NOT_CONVERGED
            left = problem.residuals(data, state.parameters)
            state.squares = np.vecdot(left, left)
            state.normal, _ = _linearised(problem, state.parameters, left, kind)
        yield state


# ---------------------------------------------------------------------- statistics


@np.errstate(all="ignore")
def covariances(problem: Problem, state: Positions, absolute_sigma: bool) -> np.ndarray:
    """Covariance of the parameters (P, n, n), as `scipy.optimize.curve_fit` defines it.

    The inverse of the Jacobian's transpose times itself (weighted by one over sigma), and unless
    `absolute_sigma`, times the reduced chi square. Infinite where it is singular to rounding.
    """
    scale = _divisors(_lengths(state.normal))
    product = scale[:, :, np.newaxis] * scale[:, np.newaxis, :]
    n = scale.shape[1]
    finite = np.isfinite(state.normal).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(
        np.where(finite[:, np.newaxis, np.newaxis], state.normal / product, np.eye(n))
    )
    # squaring the Jacobian has cost half of the digits: where they are needed, take it itself
    for i in np.flatnonzero(finite & (values[:, 0] < 1e-8 * values[:, -1])):
        jacobian = problem.derivatives(state.parameters[i : i + 1], state.data.dtype.kind)[0]
        if not np.isfinite(jacobian).all():
            values[i] = 0.0
            continue
        _, singular, right = np.linalg.svd((jacobian / scale[i, :, np.newaxis]).T, False)
        least = np.finfo(float).eps * max(jacobian.shape) * singular.max()
        padded = np.zeros(n)
        padded[: len(singular)] = np.where(singular > least, singular, 0.0) ** 2
        values[i], vectors[i] = padded, right.T
    inverse = (vectors / values[:, np.newaxis, :]) @ vectors.swapaxes(1, 2) / product
    if not absolute_sigma:
        inverse *= reduced_chi_square(state)[:, np.newaxis, np.newaxis]
    known = finite & (values > 0).all(axis=1) & np.isfinite(inverse).all(axis=(1, 2))
    inverse[~known] = np.inf
    return inverse


def reduced_chi_square(state: Positions) -> np.ndarray:
    """Sum of squares over the degrees of freedom; NaN where there are none."""
    n_values = state.data.shape[1] * (2 if state.data.dtype.kind == "c" else 1)
    freedom = n_values - state.parameters.shape[1]
    return state.squares / freedom if freedom > 0 else np.full(len(state), np.nan)
