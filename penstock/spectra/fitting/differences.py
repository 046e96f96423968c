"""Derivatives of curves by differences, with widths that suit every parameter.

A width that is a fixed part of a parameter fails where the parameter is near zero (rounding is all
that is left of the difference) and where it is far from it (a peak at 1e7 is stepped over). Here a
width is right when the curve changes by a suitable part of its own variation; it is looked for
where that is not so. Every position is treated by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
"""Parameters (P, n) to curves (P, L)."""

_PART = float(np.cbrt(np.finfo(float).eps))
"""Suitable change of a curve, relative to its variation, and of a parameter, to begin with."""
_LEAST, _MOST = 1e-9, 1e-3
"""Changes of the curve between which a width is left as it is."""
_TRIALS = 6


def differences(
    function: Function, parameters: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """Central differences (P, n, L), on one side where a bound is closer than the width."""
    columns = [
        _difference(function, parameters, lower, upper, k)[0] for k in range(parameters.shape[1])
    ]
    return np.stack(columns, axis=1)


def refined_differences(
    function: Function, parameters: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two widths, extrapolated to none, and how far the two lie apart."""
    columns, errors = [], []
    for k in range(parameters.shape[1]):
        wide, width = _difference(function, parameters, lower, upper, k)
        narrow, *_ = _at(function, parameters, lower, upper, k, width / 2)
        columns.append((4 * narrow - wide) / 3)
        errors.append(narrow - wide)
    return np.stack(columns, axis=1), np.stack(errors, axis=1)


def _difference(
    function: Function, parameters: np.ndarray, lower: np.ndarray, upper: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives by one parameter (P, L), and the widths that were used (P,)."""
    size = np.abs(parameters[:, k])
    width = _PART * np.where(size > 0, size, 1.0)
    slopes, change, bump = _at(function, parameters, lower, upper, k, width)
    looking = ~((change >= _LEAST) & (change <= _MOST))
    if not looking.any():
        return slopes, width
    first, used = change.copy(), width.copy()
    for _ in range(_TRIALS):
        rows = np.flatnonzero(looking)
        if not len(rows):
            break
        # too wide where the curve is another on both sides, even if it is the same one
        moved = np.maximum(change[rows], bump[rows])
        with np.errstate(all="ignore"):
            factor = np.where(moved > _MOST, np.clip(_PART / moved, 1e-6, 0.1), 1e3)
        factor[~np.isfinite(moved)] = 1e-3
        width[rows] *= factor
        again, changed, bumped = _at(function, parameters[rows], lower, upper, k, width[rows])
        change[rows], bump[rows] = changed, bumped
        good = (changed >= _LEAST) & (changed <= _MOST)
        # (narrower is better than too wide, even where it is too narrow to be good)
        usable = good | (~(first[rows] <= _MOST) & (changed <= _MOST))
        slopes[rows[usable]] = again[usable]
        used[rows[usable]] = width[rows[usable]]
        # a wider step that jumps tells less than the first one
        jumped = (factor > 1) & ~(np.maximum(changed, bumped) <= _MOST)
        looking[rows[usable | jumped]] = False
    return slopes, used


def _at(
    function: Function,
    parameters: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    k: int,
    width: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Derivatives with these widths.

    Also half of the curves' change between the two sides, and their change to one side, both
    relative to their variation. The second is only looked at where the first is next to nothing.
    """
    above, below = parameters.copy(), parameters.copy()
    above[:, k] = np.minimum(parameters[:, k] + width, upper[k])
    below[:, k] = np.maximum(parameters[:, k] - width, lower[k])
    high, low = function(above), function(below)
    with np.errstate(all="ignore"):
        apart = high - low
        slopes = apart / (above[:, k] - below[:, k])[:, np.newaxis]
        variation = np.abs(high - high[:, :1]).max(axis=1, initial=0.0)
        # (the change of a constant curve is compared with its height)
        variation = np.maximum(variation, 1e-6 * np.abs(high).max(axis=1, initial=0.0))
        change = _relative(np.abs(apart).max(axis=1, initial=0.0) / 2, variation)
        bump = np.zeros(len(parameters))
        rows = np.flatnonzero(~(change >= _LEAST) | ~np.isfinite(change))
        if len(rows):
            here = function(parameters[rows])
            side = np.abs(high[rows] - here).max(axis=1, initial=0.0)
            bump[rows] = _relative(side, variation[rows])
            # where one side cannot be computed the other one does
            for one, edge, sign in ((high, above, 1.0), (low, below, -1.0)):
                other = low if sign > 0 else high
                usable = np.isfinite(one[rows]).all(axis=1) & np.isfinite(here).all(axis=1)
                usable &= ~np.isfinite(other[rows]).all(axis=1)
                single = sign * (one[rows] - here)
                span = sign * (edge[rows, k] - parameters[rows, k])
                slopes[rows[usable]] = (single / span[:, np.newaxis])[usable]
                extent = np.abs(one[rows] - one[rows, :1]).max(axis=1, initial=0.0)
                extent = np.maximum(extent, 1e-6 * np.abs(one[rows]).max(axis=1, initial=0.0))
                alone = _relative(np.abs(single).max(axis=1, initial=0.0), extent)
                change[rows[usable]] = alone[usable]
                bump[rows[usable]] = 0.0
    return slopes, change, bump


def _relative(change: np.ndarray, variation: np.ndarray) -> np.ndarray:
    nothing = np.where(change > 0, _PART, 0.0)  # (a curve of zeros that becomes another)
    relative = np.where(variation > 0, change / variation, nothing)
    return np.where(np.isfinite(variation), relative, np.nan)
