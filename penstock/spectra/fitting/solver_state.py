"""What the solver knows of the positions that it works on, and small algebra for all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from penstock.records import STATUS_DONE, STATUS_FAILED

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


_EPSILON = float(np.finfo(float).eps)


@dataclass
class SolverState:
    """State of the positions in the tile; every attribute has one entry a position."""

    rows: np.ndarray
    data: np.ndarray
    weights: np.ndarray
    """Weights of the values (L,), or no columns where they are those of the problem."""
    n_values: np.ndarray
    """Values that count, real and imaginary parts as two."""
    size: np.ndarray
    """Sum of the squared weighted values: rounding errors are relative to it."""
    variation: np.ndarray
    """Square root of the sum of the squared weighted values less their mean."""
    parameters: np.ndarray
    squares: np.ndarray
    """Sum of the squared residuals."""
    normal: np.ndarray
    """Jacobian's transpose times itself (n, n)."""
    descent: np.ndarray
    """Jacobian's transpose times the residuals (n,): half the negative gradient."""
    scale: np.ndarray
    """Lengths of the columns of the Jacobian (n,), that of late where a column vanishes."""
    damping: np.ndarray
    growth: np.ndarray
    change: np.ndarray
    """Length of the last step that was taken, as a change of the curve."""
    stale: np.ndarray
    """How far derivatives are out of date: the step since then, in parts of what would change the
    curve by as much as the data vary."""
    calm: np.ndarray
    """Steps in a row that changed next to nothing."""
    n_evaluations: np.ndarray
    status: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def variance(self) -> np.ndarray:
        """Mean squared residual over the degrees of freedom (one at least)."""
        freedom = np.maximum(self.n_values - self.parameters.shape[1], 1)
        variance: np.ndarray = self.squares / freedom
        return variance

    @property
    def rounding(self) -> np.ndarray:
        """Sum of squares that rounding errors of the data and the curve may make up."""
        rounding: np.ndarray = (4 * _EPSILON) ** 2 * self.size
        return rounding

    def take(self, which: np.ndarray) -> SolverState:
        """Some of the positions, by a mask or by their numbers."""
        index = np.flatnonzero(which) if which.dtype == bool else which
        return SolverState(*[getattr(self, name).take(index, axis=0) for name in _NAMES])

    def without_data(self, rows: np.ndarray) -> SolverState:
        """Some of the positions, for those who look at neither data nor weights."""
        kept = [getattr(self, name).take(rows, axis=0) for name in _NAMES if name not in _VALUES]
        blank = dict.fromkeys(_VALUES, self.data[:0])
        names = (name for name in _NAMES if name not in _VALUES)
        return SolverState(**blank, **dict(zip(names, kept, strict=True)))

    def finished(self, rows: np.ndarray) -> SolverState:
        """Some of the positions: data of those that failed, for others only their shape."""
        if (self.status[rows] == FAILED).any():
            return self.take(rows)
        part = self.without_data(rows)
        part.data = np.broadcast_to(self.data[:1], (len(rows), self.data.shape[1]))
        part.weights = self.weights.take(rows, axis=0)
        return part

    def joined(self, other: SolverState) -> SolverState:
        """These positions and others."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in _NAMES]
        return SolverState(*[np.concatenate(pair) for pair in pairs])


_NAMES = tuple(f.name for f in fields(SolverState))
_VALUES = ("data", "weights")


def lengths_of(normal: np.ndarray) -> np.ndarray:
    """Lengths of the Jacobian's columns."""
    return np.sqrt(np.diagonal(normal, axis1=1, axis2=2))


def divisors(lengths: np.ndarray) -> np.ndarray:
    """Lengths that may be divided by: 1 for columns that are zero."""
    return np.where(lengths > 0, lengths, 1.0)


def length_of(vectors: np.ndarray) -> np.ndarray:
    """Lengths (P,) of vectors (P, n)."""
    length: np.ndarray = np.sqrt(np.vecdot(vectors, vectors))
    return length


def products(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Matrices (P, n, n) times vectors (P, n)."""
    return (matrices @ vectors[:, :, np.newaxis])[:, :, 0]
