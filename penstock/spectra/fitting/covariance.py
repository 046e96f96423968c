"""Covariances of fitted parameters, and whether they are determined at all.

A covariance that only rounding errors keep from being infinite is worth less than none. What is
singular shows in three ways: columns of the Jacobian are dependent to the accuracy of the
derivatives; the standard errors change out of recognition when the parameters move by what rounding
errors of data and curve leave open (the time constant of a decay whose amplitude is 1e-17 of the
data, two decays that have become one); or there are fewer values than parameters. None of them
depends on the units of x or y.
"""

from __future__ import annotations

import numpy as np

from penstock.spectra.fitting.problem import Problem
from penstock.spectra.fitting.solver_state import SolverState, divisors, lengths_of

_ILL = 1e8
"""Condition of the scaled normal matrix from which on the Jacobian itself is looked at: squaring it
has cost half of the digits."""
_NOISE = 16.0
"""Rounding errors of data and curve, in units of the machine's precision."""
_RECOGNISED = 4.0
"""Factor by which standard errors may change when parameters move by rounding errors."""
_INSIGNIFICANT = 1e-3
"""A parameter that is known less well than this part of it, were rounding all errors there are, is
looked at more closely."""
_NARROW = 1e-2
"""Bounds closer than this part of a standard error leave nothing to be found."""
_EXAMINED_BYTES = 256 << 10
"""Derivatives that are looked at closely at once: it takes some copies of them."""
_STALE = 1e-4
"""Derivatives that are further out of date are taken again."""
_EPSILON = float(np.finfo(float).eps)


@np.errstate(all="ignore")
def covariances(
    problem: Problem, state: SolverState, absolute_sigma: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the parameters, as `scipy.optimize.curve_fit` defines it.

    Parameters
    ----------
    problem : Problem
    state : SolverState
        At their last parameters. Their normal matrices are brought up to date.
    absolute_sigma : bool
        Whether the inverse of the Jacobian's transpose times itself (weighted by one over sigma) is
        the covariance; otherwise it is multiplied by the reduced chi square.

    Returns
    -------
    covariance : numpy.ndarray
        (P, n, n), infinite where it is singular.
    singular : numpy.ndarray
        Where that is so (P,).
    """
    _refresh(problem, state)
    n = state.parameters.shape[1]
    scale = divisors(lengths_of(state.normal))
    product = scale[:, :, np.newaxis] * scale[:, np.newaxis, :]
    scaled = state.normal / product
    finite = np.isfinite(scaled).all(axis=(1, 2))
    plain = finite & (np.diagonal(scaled, axis1=1, axis2=2) > 0).all(axis=1)
    scaled[~plain] = np.eye(n)
    inverse = _inverted(scaled)
    flat = (scaled.reshape(-1, n * n), inverse.reshape(-1, n * n))
    condition = np.sqrt(np.vecdot(flat[0], flat[0]) * np.vecdot(flat[1], flat[1]))
    doubtful = ~plain | ~(condition < _ILL)
    noise = _NOISE * _EPSILON * np.sqrt(state.size)
    unsure = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)) / scale * noise[:, np.newaxis]
    doubtful |= (unsure > _INSIGNIFICANT * np.abs(state.parameters)).any(axis=1)
    singular = ~finite
    rows = np.flatnonzero(doubtful & finite)
    some = max(1, _EXAMINED_BYTES // (8 * n * (state.data.nbytes // 8 // max(1, len(state)) + 1)))
    for start in range(0, len(rows), some):
        part = rows[start : start + some]
        inverse[part], singular[part] = _examined(problem, state.take(part), scale[part])
    deviation = np.ones(len(state)) if absolute_sigma else np.sqrt(state.variance)
    n_held = _hold_between_bounds(problem, deviation, scaled, inverse, scale)
    covariance = inverse / product
    if not absolute_sigma:
        # (residuals that are all rounding errors say no more than that)
        least = (_EPSILON / 2) ** 2 * state.size / np.maximum(state.n_values, 1)
        freedom = np.maximum(state.n_values - n, 1)
        variance = state.variance * freedom / (freedom + n_held)
        covariance *= np.maximum(variance, least)[:, np.newaxis, np.newaxis]
        singular |= state.n_values <= n
    singular |= state.n_values < n
    singular |= ~np.isfinite(covariance).all(axis=(1, 2))
    covariance[singular] = np.inf
    return covariance, singular


def reduced_chi_square(state: SolverState) -> np.ndarray:
    """Sum of squares over the degrees of freedom; NaN where there are none."""
    freedom = state.n_values - state.parameters.shape[1]
    return np.where(freedom > 0, state.squares / np.maximum(freedom, 1), np.nan)


def _refresh(problem: Problem, state: SolverState) -> None:
    """Derivatives at the last parameters, where the last step has changed them noticeably."""
    rows = np.flatnonzero(state.stale > _STALE)
    if len(rows):
        part = state.take(rows)
        columns = problem.derivatives(part.parameters, part.data.dtype.kind, part.weights)
        state.normal[rows] = columns @ columns.swapaxes(1, 2)


def _inverted(matrices: np.ndarray) -> np.ndarray:
    """Inverses (P, n, n); infinite where there is none."""
    try:
        return np.linalg.inv(matrices)
    except np.linalg.LinAlgError:  # one at least is singular to the last digit
        inverse = np.full_like(matrices, np.inf)
        for i, matrix in enumerate(matrices):
            try:
                inverse[i] = np.linalg.inv(matrix)
            except np.linalg.LinAlgError:
                continue
        return inverse


def _examined(
    problem: Problem, state: SolverState, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inverses of scaled normal matrices from the Jacobian itself, and where there is none."""
    kind = state.data.dtype.kind
    columns, errors = problem.careful_derivatives(state.parameters, kind, state.weights)
    inverse, least = _from_columns(columns / scale[:, :, np.newaxis])
    off = np.linalg.norm(errors / scale[:, :, np.newaxis], axis=(1, 2))
    size = max(columns.shape[1:])
    singular = ~(least > np.maximum(4 * off, size * _EPSILON))
    n = scale.shape[1]
    diagonal = np.diagonal(inverse, axis1=1, axis2=2)
    noise = _NOISE * _EPSILON * np.sqrt(state.size)
    for k in range(n):
        rows = np.flatnonzero(~singular)
        if not len(rows):
            break
        # parameter k moves by its own uncertainty, and the others as they do with it
        along = inverse[rows, :, k] / np.sqrt(diagonal[rows, k, np.newaxis]) / scale[rows]
        moved = state.parameters[rows] + noise[rows, np.newaxis] * along
        moved = np.clip(moved, problem.lower, problem.upper)
        there = problem.derivatives(moved, kind, state.weights[rows]) / scale[rows, :, np.newaxis]
        usable = np.isfinite(there).all(axis=(1, 2))
        there[~usable] = 0.0
        found, _ = _from_columns(there)
        ratio = np.diagonal(found, axis1=1, axis2=2) / diagonal[rows]
        same = (ratio > 1 / _RECOGNISED**2) & (ratio < _RECOGNISED**2)
        singular[rows] = ~(usable & same.all(axis=1))
    return inverse, singular


def _from_columns(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of the normal matrix, and the least singular value relative to the largest."""
    n_rows, n, n_values = columns.shape
    usable = np.isfinite(columns).all(axis=(1, 2))
    columns = np.where(usable[:, np.newaxis, np.newaxis], columns, 0.0)
    _, values, right = np.linalg.svd(columns.swapaxes(1, 2), full_matrices=False)
    padded = np.zeros((n_rows, n))
    padded[:, : values.shape[1]] = values
    if n_values < n:  # (fewer values than parameters: nothing to invert)
        return np.full((n_rows, n, n), np.inf), np.zeros(n_rows)
    inverse = (right.swapaxes(1, 2) / padded[:, np.newaxis, :] ** 2) @ right
    least = padded.min(axis=1) / np.where(padded.max(axis=1) > 0, padded.max(axis=1), 1.0)
    return inverse, np.where(usable, least, 0.0)


def _hold_between_bounds(
    problem: Problem,
    deviation: np.ndarray,
    scaled: np.ndarray,
    inverse: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Take as known, in place, what bounds say far better than the data; how many they are.

    The standard error of such a parameter is that of a uniform distribution between its bounds; the
    others' are those with it held.
    """
    width = problem.upper - problem.lower
    if not np.isfinite(width).any():
        return np.zeros(len(scale))
    errors = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)) / scale * deviation[:, np.newaxis]
    known = np.isfinite(errors) & (width < _NARROW * errors)
    for i in np.flatnonzero(known.any(axis=1)):
        free = np.flatnonzero(~known[i])
        part = np.ix_(free, free)
        found = _inverted(scaled[i][part][np.newaxis])[0] if len(free) else np.zeros((0, 0))
        inverse[i] = 0.0
        inverse[i][part] = found
        for k in np.flatnonzero(known[i]):
            inverse[i, k, k] = (width[k] * scale[i, k] / deviation[i]) ** 2 / 12
    count: np.ndarray = known.sum(axis=1)
    return count
