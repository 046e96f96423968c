"""Least squares of volumes on maps, streamed: one product a volume, solved for all maps at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.fmri.extraction.reducers import NanPolicy
from penstock.fmri.extraction.weights import BATCH, DENSE_PIECE, WeightPiece, Weights
from penstock.memory.accounting import single_threaded_kernels
from penstock.memory.buffers import scratch_buffer

SPARSE_BELOW = 0.2
"""Share of weights that are not 0 below which a sparse product is faster than a dense one."""

WELL_CONDITIONED = 1e-6
"""Least ratio of the smallest and the largest eigenvalue with which the normal equations lose no
more than about 1e-10; beyond it the weights themselves are decomposed."""


def map_weights(maps: np.ndarray, mask: np.ndarray | None = None) -> Weights:
    """Weights of an image of maps; values that are not finite count as 0.

    Parameters
    ----------
    maps : numpy.ndarray
        (x, y, z, maps).
    mask : numpy.ndarray, optional
        Voxels that count, in the order of the file, bool (z * y * x,). Default: all.

    Returns
    -------
    Weights
        Sparse or dense, whichever is faster for maps as full as these.
    """
    from scipy.sparse import csr_array, hstack

    n_maps = maps.shape[-1]
    flat = maps.transpose(3, 2, 1, 0).reshape(n_maps, -1)  # a view of what nibabel reads

    def cleaned(start: int, length: int) -> np.ndarray:
        part = flat[:, start : start + length].astype(np.float64)
        part[~np.isfinite(part)] = 0
        if mask is not None:
            part *= mask[start : start + length]
        return part

    n_voxels = flat.shape[1]
    n_filled = n_support = 0
    for start in range(0, n_voxels, DENSE_PIECE):
        filled = cleaned(start, DENSE_PIECE) != 0
        n_filled += int(np.count_nonzero(filled))
        n_support += int(np.count_nonzero(filled.any(axis=0)))
    starts = range(0, n_voxels, DENSE_PIECE)
    if n_filled < SPARSE_BELOW * n_support * n_maps:
        stretches = [csr_array(cleaned(start, DENSE_PIECE)) for start in starts]
        return Weights.from_sparse(hstack(stretches, format="csr"))
    pieces = []
    for start in starts:
        dense = cleaned(start, DENSE_PIECE)
        columns = np.flatnonzero(dense.any(axis=0))
        if len(columns):
            pieces.append(WeightPiece(start, start + dense.shape[1], columns, dense[:, columns]))
    return Weights(n_maps, tuple(pieces))


def maps_overlap(weights: Weights, tolerance: float) -> bool:
    """Whether some voxel has more than one weight beyond the tolerance."""
    for start, stop, columns, matrix in weights.pieces:
        if columns is None:
            beyond = matrix.indices[np.abs(matrix.data) > tolerance]
            if (np.bincount(beyond, minlength=stop - start) > 1).any():
                return True
        elif ((np.abs(matrix) > tolerance).sum(axis=0) > 1).any():
            return True
    return False


@dataclass(frozen=True, eq=False)
class MapFit:
    """Signals s that minimise ``||W s - y||`` for every volume y.

    Made by `MapFit.of`.

    Parameters
    ----------
    weights : Weights
        W transposed, (maps, voxels).
    used : numpy.ndarray
        Which maps have a weight anywhere, bool (maps,).
    operator : Weights
        What volumes are multiplied by: the weights, or the pseudo-inverse of W.
    solution : numpy.ndarray, optional
        What that is multiplied by, (maps, maps); None where it is the solution already.
    """

    weights: Weights
    used: np.ndarray
    operator: Weights
    solution: np.ndarray | None

    @classmethod
    def of(cls, weights: Weights, present: np.ndarray | None = None) -> MapFit:
        """Of the weights: their normal equations, or a decomposition where those lose too much.

        With the voxels that are `present`, bool (voxels,), it solves volumes that are 0 elsewhere.
        """
        # (the same number of threads on every process, so that all have the same bits)
        with single_threaded_kernels():
            gram = weights.gram(present)
            used = gram.diagonal() > 0
            inverse = _inverse(gram[np.ix_(used, used)])
            if inverse is None:
                return cls(weights, used, _pseudo_inverse(weights.restricted(present)), None)
            solution = np.zeros(gram.shape)
            solution[np.ix_(used, used)] = inverse
        return cls(weights, used, weights, solution)

    @property
    def nbytes(self) -> int:
        """Memory of the weights and of what solves them."""
        own = 0 if self.operator is self.weights else self.operator.nbytes
        return self.weights.nbytes + own + (0 if self.solution is None else self.solution.nbytes)

    def solve(self, volumes: np.ndarray, nan_policy: NanPolicy = "omit") -> np.ndarray:
        """Signals of all maps, float64 (volumes, maps).

        Parameters
        ----------
        volumes : numpy.ndarray
            (volumes, voxels).
        nan_policy : {"omit", "zero", "propagate"}, default "omit"
            Values that are not finite are left out of the fit, taken as 0, or make all signals of
            their volume NaN.

        Returns
        -------
        numpy.ndarray
            NaN for maps without weights, or without any in the voxels that have values.
        """
        signals, complete = self._solve_complete(volumes)
        if nan_policy == "propagate":
            signals[~complete] = np.nan
            return signals
        # the same voxels mostly lack in all volumes: they are solved alike until that changes
        before, solver = None, self
        for row in np.flatnonzero(~complete):
            present = np.isfinite(volumes[row])
            values = scratch_buffer("complete-volume", (1, len(present)), volumes.dtype)
            values.fill(0)
            np.copyto(values[0], volumes[row], where=present)
            if nan_policy == "omit" and (before is None or not np.array_equal(before, present)):
                before, solver = present, MapFit.of(self.weights, present)
            signals[row] = solver._solve_complete(values)[0]
        return signals

    def _solve_complete(self, volumes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signals of volumes whose values are all there, and which volumes these are."""
        sums = self.operator.sums(volumes)
        signals = sums if self.solution is None else _product(sums, self.solution)
        complete = np.isfinite(sums).all(axis=1)
        signals[:, ~self.used] = np.nan
        return signals, complete


def _product(sums: np.ndarray, solution: np.ndarray) -> np.ndarray:
    """``sums @ solution`` in batches of one size: the same bits however many volumes there are."""
    result = np.empty(sums.shape)
    batch = np.zeros((BATCH, sums.shape[1]))
    for at in range(0, len(sums), BATCH):
        part = sums[at : at + BATCH]
        batch[: len(part)], batch[len(part) :] = part, 0
        with np.errstate(invalid="ignore", over="ignore"):
            result[at : at + BATCH] = (batch @ solution)[: len(part)]
    return result


def _inverse(gram: np.ndarray) -> np.ndarray | None:
    """(Pseudo-)inverse of the normal equations; None where they are too ill-conditioned."""
    if not len(gram):
        return gram
    # of full rank the solution does not depend on the scale of the maps, but its rounding does
    scale = 1 / np.sqrt(gram.diagonal())
    values, vectors = np.linalg.eigh(gram * scale * scale[:, np.newaxis])
    if values[0] >= WELL_CONDITIONED * values[-1]:
        return (vectors / values) @ vectors.T * scale * scale[:, np.newaxis]
    values, vectors = np.linalg.eigh(gram)
    null = values <= 8 * len(values) * np.finfo(np.float64).eps * values[-1]
    rest = ~null
    if values[rest][0] < WELL_CONDITIONED * values[-1]:
        return None
    return (vectors[:, rest] / values[rest]) @ vectors[:, rest].T


def _pseudo_inverse(weights: Weights) -> Weights:
    """The pseudo-inverse of W by singular values, as weights of voxels."""
    voxels, columns = weights.dense()
    left, values, right = np.linalg.svd(columns, full_matrices=False)
    kept = values > max(columns.shape) * np.finfo(np.float64).eps * values[0]
    inverse = (right[kept].T / values[kept]) @ left[:, kept].T
    pieces = []
    for at in range(0, len(voxels), DENSE_PIECE):
        part = voxels[at : at + DENSE_PIECE]
        start, stop = int(part[0]), int(part[-1]) + 1
        matrix = np.ascontiguousarray(inverse[:, at : at + DENSE_PIECE])
        pieces.append(WeightPiece(start, stop, part - start, matrix))
    return Weights(weights.n_regions, tuple(pieces))
