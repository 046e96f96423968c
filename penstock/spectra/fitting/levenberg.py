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

import numpy as np

from penstock.spectra.fitting.problem import NO_WEIGHTS, Problem, as_real
from penstock.spectra.fitting.solver_state import (
    CONVERGED,
    FAILED,
    NOT_CONVERGED,
    SolverState,
    divisors,
    length_of,
    lengths_of,
    products,
)

FIRST_DAMPING = 1e-2
CAREFUL_DAMPING = 1e4
"""Where a fit that led nowhere starts again: short steps, along the gradient."""
_LEAST_DAMPING, _MOST_DAMPING = 1e-12, 1e32
_STALLED_DAMPING = 1e24
"""No step that is damped more reduces the sum of squares: it never will."""
_LEAST_RATIO = 1e-4
"""A step is taken where it yields this fraction of the predicted reduction (as in MINPACK)."""
_DECAY = 0.9
"""How fast the scale of a column of the Jacobian follows where the column becomes shorter."""
_NEAR = 1e-2
"""Standard errors between a minimum and where damped steps may end."""
_DEPENDENT = 1e-13
"""Least eigenvalue of a scaled normal matrix that is more than rounding."""
_EXPLAINED = 1e-12
"""Residuals below this part of the data are those of rounding in the model."""
_CALM = 5
"""Steps in a row that change next to nothing: rounding lets no more be reached."""
_LATE = 60
"""Evaluations after which a fit is in a curved valley, and steps are bent along it."""
_LEFT = 2.0
"""What may be left of the way to the minimum, in units of what is aimed at."""
_STALE = 3e-5
"""Steps that were longer, in parts of what changes the curve by as much as the data vary, call for
new derivatives."""

_APPROACH = 0.1
"""What is left of the way to a lower bound that must not be reached."""

Load = Callable[[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""``load(start, stop)``: spectra (P, L), float64 or complex128, their weights (P, L), or
`NO_WEIGHTS` in (P, 0) for those of the problem, and first parameters (P, n)."""


def levenberg_marquardt(
    problem: Problem,
    load: Load,
    n_positions: int,
    tile: int = 256,
    damping: float = FIRST_DAMPING,
) -> Iterator[SolverState]:
    """Minimise the sum of squared residuals at every position.

    Parameters
    ----------
    problem : Problem
        Function, derivatives, bounds, weights, tolerances.
    load : callable
        ``load(start, stop) -> (data, weights, parameters)`` of a stretch of positions. Asked for
        each stretch once, in order.
    n_positions : int
        How many positions there are.
    tile : int, default 256
        How many positions are worked on at once. It bounds the memory; the result of a position
        does not depend on it.
    damping : float
        To begin with: the larger, the shorter and the more along the gradient the first steps.

    Yields
    ------
    SolverState
        Some positions that are done, with their status: converged, not converged, or failed (data,
        first parameters, or the curve or its derivatives there are not finite).
    """
    following = 0
    active: SolverState | None = None
    while following < n_positions or active is not None:
        held = 0 if active is None else len(active)
        if following < n_positions and held <= tile // 2:
            stop = min(n_positions, following + tile - held)
            fresh = begin(problem, *load(following, stop), following, damping)
            if active is not None and fresh.weights.shape[1] != active.weights.shape[1]:
                for part in (fresh, active):
                    part.weights = problem.own_weights(part.weights, part.data.shape)
            active = fresh if active is None else active.joined(fresh)
            following = stop
        else:
            assert active is not None
            _advance(problem, active)
        done = active.status > 0
        if done.any():
            yield active.finished(np.flatnonzero(done))
            active = None if done.all() else active.take(~done)


@np.errstate(all="ignore")
def begin(
    problem: Problem,
    data: np.ndarray,
    weights: np.ndarray,
    parameters: np.ndarray,
    first: int,
    damping: float = FIRST_DAMPING,
) -> SolverState:
    """The state of some positions before the first step."""
    parameters = np.clip(parameters, problem.lower, problem.upper)
    curves = problem.function(parameters)
    residuals = problem.left_of(data, curves, weights)
    normal, descent = linearised(problem, parameters, residuals, data.dtype.kind, weights, curves)
    still = (parameters == 0) & (np.diagonal(normal, axis1=1, axis2=2) == 0)
    if still.any():
        rows = np.flatnonzero(still.any(axis=1))
        moved = _set_going(problem, data[rows], weights[rows], parameters[rows], still[rows])
        parameters[rows] = moved
        residuals[rows] = problem.residuals(data[rows], moved, weights[rows])
        normal[rows], descent[rows] = linearised(
            problem, moved, residuals[rows], data.dtype.kind, weights[rows]
        )
    squares = np.vecdot(residuals, residuals)
    n = len(data)
    n_values, size, variation = _extent(problem, data, weights)
    state = SolverState(
        rows=np.arange(first, first + n),
        data=data,
        weights=weights,
        n_values=n_values,
        size=size,
        variation=variation,
        parameters=parameters,
        squares=squares,
        normal=normal,
        descent=descent,
        scale=lengths_of(normal),
        damping=np.full(n, float(damping)),
        growth=np.full(n, 2.0),
        change=np.zeros(n),
        stale=np.zeros(n),
        calm=np.zeros(n, dtype=np.uint8),
        n_evaluations=np.ones(n, dtype=np.int32),
        status=np.zeros(n, dtype=np.uint8),
    )
    if problem.tolerances.most_evaluations(parameters.shape[1]) <= 1:
        state.status[:] = NOT_CONVERGED
    state.status[_flat(problem, state) | (squares <= state.rounding)] = CONVERGED
    usable = np.isfinite(squares) & np.isfinite(normal).all(axis=(1, 2))
    usable &= np.isfinite(parameters).all(axis=1) & (n_values >= parameters.shape[1])
    state.status[~usable] = FAILED
    return state


def _extent(
    problem: Problem, data: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many values there are, the sum of their squares, and how far they vary."""
    parts = 2 if data.dtype.kind == "c" else 1
    if weights.shape[1]:
        n_values = np.count_nonzero(weights, axis=1) * parts
    else:
        n_values = np.full(len(data), data.shape[1] * parts)
    kind = data.dtype.kind
    values = as_real(problem.weighted(data, weights), kind)
    size = np.vecdot(values, values)
    if values.base is data or values is data:
        total = data.sum(axis=1)
        squares = size - np.abs(total) ** 2 / data.shape[1]
        # (of data far from 0 the difference has no digits left)
        rows = np.flatnonzero(squares < 1e-6 * size)
        if len(rows):
            middle = total[rows] / data.shape[1]
            around = as_real(data[rows] - middle[:, np.newaxis], kind)
            squares[rows] = np.vecdot(around, around)
        return n_values, size, np.sqrt(squares)
    squared = weights**2 if weights.shape[1] else np.square(problem.weights)
    total = np.sum(np.broadcast_to(squared, data.shape), axis=1)
    middle = (data * squared).sum(axis=1) / np.where(total > 0, total, 1.0)
    around = as_real(problem.weighted(data - middle[:, np.newaxis], weights), kind)
    return n_values, size, length_of(around)


def _set_going(
    problem: Problem,
    data: np.ndarray,
    weights: np.ndarray,
    parameters: np.ndarray,
    still: np.ndarray,
) -> np.ndarray:
    """Parameters that begin at exactly 0, where nothing depends on them, moved a little.

    A product of two parameters that are both 0 and a cosine of rate 0 are saddle points: no
    derivative leads away from them. The move is the smallest power of ten that shows in the curve.
    """
    curve = problem.residuals(data, parameters, weights)
    wanted = 1e-3 * np.abs(curve).max(axis=1)
    sign = np.where(problem.upper <= 0, -1.0, 1.0)
    found, looking = parameters.copy(), np.ones(len(parameters), bool)
    for power in range(-12, 13):
        rows = np.flatnonzero(looking)
        if not len(rows):
            break
        trial = parameters[rows] + still[rows] * sign * 10.0**power
        trial = np.clip(trial, problem.lower, problem.upper)
        moved = problem.residuals(data[rows], trial, weights[rows]) - curve[rows]
        change = np.abs(moved).max(axis=1)
        shown = (change >= wanted[rows]) & np.isfinite(change)
        found[rows[shown]] = trial[shown]
        looking[rows[shown]] = False
    return found


@np.errstate(all="ignore")
def _advance(problem: Problem, state: SolverState) -> None:
    """One trial step at every position: taken where it reduces the sum of squares."""
    tolerances = problem.tolerances
    step = _step(problem, state.parameters, state.normal, state.descent, state.scale, state.damping)
    target = state.parameters + step
    late = np.flatnonzero(state.n_evaluations >= _LATE)
    if len(late):
        target[late] += _bend(problem, state.take(late), step[late])
        state.n_evaluations[late] += 1
    trial = np.clip(target, problem.lower, problem.upper)
    curves = problem.function(trial)
    residuals = problem.left_of(state.data, curves, state.weights)
    squares = np.vecdot(residuals, residuals)
    state.n_evaluations += 1

    curvature = np.vecdot(step, products(state.normal, step))
    predicted = 2 * np.vecdot(step, state.descent) - curvature
    actual = state.squares - squares
    ratio = actual / predicted
    taken = (predicted > 0) & (ratio > _LEAST_RATIO)
    change = np.sqrt(curvature)
    length = length_of(state.scale * step)
    settled, left = _settled(problem, state, length, change, predicted, actual)
    stale = length / np.where(state.variation > 0, state.variation, 1.0)

    # the last step changes the derivatives little: they are only taken again where that counts
    last = settled & taken & ((left > _LEFT) | (stale > _STALE))
    rows = np.flatnonzero(taken & (last | ~settled))
    normal, descent = linearised(
        problem,
        trial[rows],
        residuals if len(rows) == len(state) else residuals[rows],
        state.data.dtype.kind,
        state.weights[rows],
        curves if len(rows) == len(state) else curves[rows],
    )
    usable = np.isfinite(normal).all(axis=(1, 2))
    if not usable.all():
        taken[rows[~usable]] = False
        rows, normal, descent = rows[usable], normal[usable], descent[usable]
    state.normal[rows] = normal
    state.descent[rows] = descent
    # columns that vanish keep their scale for a while: their parameters would run away
    state.scale[rows] = np.maximum(_DECAY * state.scale[rows], lengths_of(normal))
    state.parameters[taken] = trial[taken]
    state.squares[taken] = squares[taken]
    state.change[taken] = change[taken]
    state.stale = np.where(taken, stale, state.stale)
    state.stale[rows] = 0.0
    last[last] = state.stale[last] == 0
    if last.any():
        _finish(problem, state, np.flatnonzero(last))

    shrink = np.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
    state.damping *= np.where(taken, shrink, state.growth)
    np.clip(state.damping, _LEAST_DAMPING, _MOST_DAMPING, out=state.damping)
    state.growth = np.where(taken, 2.0, np.minimum(state.growth * 2, _MOST_DAMPING))

    most = tolerances.most_evaluations(state.parameters.shape[1])
    stalled = (state.damping >= _STALLED_DAMPING) & ~taken
    state.status[(state.n_evaluations >= most) | stalled] = NOT_CONVERGED
    over = np.flatnonzero(state.status == NOT_CONVERGED)
    if len(over):
        settled[over] |= _near(problem, state, over)
    # steps that only became short because the function is not finite around are no convergence
    settled |= taken & (_flat(problem, state) | (state.squares <= state.rounding))
    state.status[settled] = np.where(np.isfinite(squares), CONVERGED, NOT_CONVERGED)[settled]


def _settled(
    problem: Problem,
    state: SolverState,
    length: np.ndarray,
    change: np.ndarray,
    predicted: np.ndarray,
    actual: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Where a step and what is left behind it are too small to matter.

    Also what is left, in units of what may be: a small part of a standard error, or of what changes
    the curve by as much as the data vary.
    """
    tolerances = problem.tolerances
    least = tolerances.ftol * state.squares
    negligible = (np.abs(actual) <= least) & (predicted <= least)
    small = negligible & (actual <= 2 * predicted)
    state.calm = np.where(small, state.calm + 1, 0).astype(np.uint8)
    # steps become shorter by the same factor each, or by a smaller one: a geometric series is left,
    # of which `_finish` takes the first term
    shorter = np.where(state.change > 0, np.minimum(change / state.change, 1.0), 1.0)
    rest = np.where(shorter < 0.5, shorter / (1 - shorter), 1.0)
    tenth = 1e-2 * tolerances.ftol
    allowed = np.sqrt(np.maximum(tenth * state.variance, state.rounding))
    left = np.minimum(
        rest * change / allowed, rest * length / (np.sqrt(tenth) * 0.1 * state.variation)
    )
    settled = small & ((left * shorter <= 1) | (state.calm >= _CALM))
    rows = np.flatnonzero(negligible & ~settled)
    if len(rows):
        settled[rows] = _dependent(state.normal[rows])
    whole = length_of(state.scale * state.parameters)
    settled |= length <= tolerances.xtol * np.minimum(whole, state.variation)
    # a short step says nothing where damping has made it so, or the scale of a longer column
    doubtful = np.flatnonzero(settled)
    if len(doubtful):
        settled[doubtful] = _near(problem, state, doubtful)
        far = doubtful[~settled[doubtful]]
        lengths = lengths_of(state.normal[far])
        state.scale[far] = np.where(lengths > 0, lengths, state.scale[far])
    return settled, left


def _dependent(normal: np.ndarray) -> np.ndarray:
    """Whether columns of the Jacobian are dependent: along them, rounding errors lead the way."""
    scale = divisors(lengths_of(normal))
    matrix = normal / (scale[:, :, np.newaxis] * scale[:, np.newaxis, :])
    dependent: np.ndarray = np.linalg.eigvalsh(matrix)[:, 0] < _DEPENDENT
    return dependent


def _finish(problem: Problem, state: SolverState, rows: np.ndarray) -> None:
    """One more step from new derivatives, so short that its outcome need not be looked at."""
    parameters, normal, descent = state.parameters[rows], state.normal[rows], state.descent[rows]
    damping = np.full(len(rows), _LEAST_DAMPING)
    step = _step(problem, parameters, normal, descent, state.scale[rows], damping)
    curvature = np.vecdot(step, products(normal, step))
    good = np.flatnonzero(np.sqrt(curvature) <= state.change[rows])
    kept = rows[good]
    state.parameters[kept] = np.clip(parameters + step, problem.lower, problem.upper)[good]
    gain = (2 * np.vecdot(step, descent) - curvature)[good]
    state.squares[kept] -= np.clip(gain, 0, state.squares[kept])


def _near(problem: Problem, state: SolverState, rows: np.ndarray) -> np.ndarray:
    """Whether an undamped step would lead no further than a small part of a standard error."""
    normal, descent = state.normal[rows], state.descent[rows]
    scale = divisors(lengths_of(normal))
    n = scale.shape[1]
    diagonal = np.arange(n)
    normal /= scale[:, :, np.newaxis]
    normal /= scale[:, np.newaxis, :]
    normal[:, diagonal, diagonal] += 1e-10
    descent /= scale
    if problem.bounded:
        fixed = _held(problem, state.parameters[rows], descent)
        some = np.flatnonzero(fixed.any(axis=1))
        if len(some):
            across = fixed[some, :, np.newaxis] | fixed[some, np.newaxis, :]
            normal[some] = np.where(across, np.eye(n), normal[some])
            descent[fixed] = 0.0
    moved = np.linalg.solve(normal, descent[:, :, np.newaxis])[:, :, 0]
    far = np.vecdot(moved, descent)
    squares, rounding = state.squares[rows], state.rounding[rows]
    near = far <= np.maximum(_NEAR**2 * state.variance[rows], rounding)
    # (how exactly a curve can be computed at all is its own matter)
    explained: np.ndarray = near | (squares <= _EXPLAINED**2 * state.size[rows])
    return explained


def _bend(problem: Problem, state: SolverState, step: np.ndarray) -> np.ndarray:
    """What to add to steps for them to follow a curved valley.

    Geodesic acceleration (M. K. Transtrum, J. P. Sethna, 2012): the second derivative along the
    step, from one more evaluation, moves the target; not at all where it would move it far.
    """
    kind, part = state.data.dtype.kind, 0.1
    columns = problem.derivatives(state.parameters, kind, state.weights)
    here = problem.residuals(state.data, state.parameters, state.weights)
    ahead = np.clip(state.parameters + part * step, problem.lower, problem.upper)
    there = problem.residuals(state.data, ahead, state.weights)
    along = (step[:, np.newaxis] @ columns)[:, 0]
    second = 2 / part * ((here - there) / part - along)
    scale = divisors(state.scale)
    n = scale.shape[1]
    matrix = state.normal / (scale[:, :, np.newaxis] * scale[:, np.newaxis, :])
    matrix[:, np.arange(n), np.arange(n)] += state.damping[:, np.newaxis]
    right = -0.5 * np.vecdot(columns, second[:, np.newaxis]) / scale
    usable = np.isfinite(right).all(axis=1)
    right[~usable] = 0.0
    bend = np.linalg.solve(matrix, right[:, :, np.newaxis])[:, :, 0]
    short = length_of(bend) <= 0.375 * length_of(step * scale)
    if problem.bounded:  # a step that ends at a bound was chosen to
        target = state.parameters + step
        short &= ((target > problem.lower) & (target < problem.upper)).all(axis=1)
    bent: np.ndarray = np.where(short[:, np.newaxis], bend / scale, 0.0)
    return bent


def linearised(
    problem: Problem,
    parameters: np.ndarray,
    residuals: np.ndarray,
    kind: str,
    weights: np.ndarray = NO_WEIGHTS,
    curves: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Normal matrix (P, n, n) and descent (P, n)."""
    columns = problem.derivatives(parameters, kind, weights, curves)
    return columns @ columns.swapaxes(1, 2), np.vecdot(columns, residuals[:, np.newaxis])


def _held(problem: Problem, parameters: np.ndarray, descent: np.ndarray) -> np.ndarray:
    """Parameters at a bound beyond which the sum of squares would go on falling."""
    outwards = (parameters <= problem.lower) & (descent <= 0)
    return outwards | ((parameters >= problem.upper) & (descent >= 0))


def _flat(problem: Problem, state: SolverState) -> np.ndarray:
    """Whether the residuals are orthogonal to all columns of the Jacobian that are free."""
    cosines = np.abs(state.descent) / divisors(lengths_of(state.normal))
    if problem.bounded:
        cosines[_held(problem, state.parameters, state.descent)] = 0.0
    return cosines.max(axis=1) <= problem.tolerances.gtol * np.sqrt(state.squares)


def _step(
    problem: Problem,
    parameters: np.ndarray,
    normal: np.ndarray,
    descent: np.ndarray,
    scale: np.ndarray,
    damping: np.ndarray,
) -> np.ndarray:
    """Damped Gauss-Newton step, the best one within the bounds.

    Which parameters end at a bound is found by the primal-dual active set method (M. Hintermueller,
    K. Ito, K. Kunisch, 2002): beyond it they are fixed there, and let go where that is no gain.
    """
    scale = divisors(scale)
    n = scale.shape[1]
    matrix = normal / (scale[:, :, np.newaxis] * scale[:, np.newaxis, :])
    diagonal = np.arange(n)
    matrix[:, diagonal, diagonal] += damping[:, np.newaxis]
    right = descent / scale
    if not problem.bounded:
        return np.linalg.solve(matrix, right[:, :, np.newaxis])[:, :, 0] / scale
    near = problem.lower + _APPROACH * (parameters - problem.lower)
    lower = np.where(problem.exclusive, near, problem.lower)
    low, high = (lower - parameters) * scale, (problem.upper - parameters) * scale
    at_low, at_high = (low >= 0) & (right <= 0), (high <= 0) & (right >= 0)
    identity = np.eye(n)
    for _ in range(2 * n + 2):
        fixed = at_low | at_high
        reached = np.where(at_low, low, np.where(at_high, high, 0.0))
        reduced = np.where(fixed[:, :, np.newaxis] | fixed[:, np.newaxis, :], identity, matrix)
        known = np.where(fixed, reached, right - products(matrix, reached))
        moved = np.linalg.solve(reduced, known[:, :, np.newaxis])[:, :, 0]
        slope = right - products(matrix, moved)
        beyond_low = np.where(at_low, slope <= 0, moved < low)
        beyond_high = np.where(at_high, slope >= 0, moved > high)
        if np.array_equal(beyond_low, at_low) and np.array_equal(beyond_high, at_high):
            break
        at_low, at_high = beyond_low, beyond_high
    return np.clip(moved, low, high) / scale
