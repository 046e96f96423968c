"""Weights of voxels in regions, and weighted sums of volumes, in pieces that stay in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from penstock.memory.buffers import scratch_buffer

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PIECE = 1 << 16
"""Voxels looked at at once."""

DENSE_PIECE = 1 << 12
"""Voxels of a dense piece: their weights, for all regions, are read from the cache."""

BATCH = 16
"""Volumes multiplied by dense weights at once. Always as many, so that results do not depend, in
the last bit, on how many there are."""


class WeightPiece(NamedTuple):
    """Weights of all regions in a stretch of voxels."""

    start: int
    stop: int
    columns: np.ndarray | None
    """Which voxels of the stretch a dense matrix has; None: all, the matrix is sparse."""
    matrix: Any
    """(regions, voxels), float64: `scipy.sparse.csr_array` or `numpy.ndarray`."""

    def restricted(self, present: np.ndarray) -> WeightPiece:
        """The weights of the voxels that are present, bool (voxels,); the others get 0."""
        here = present[self.start : self.stop]
        if self.columns is None:
            matrix = self.matrix.copy()
            matrix.data *= here[matrix.indices]
        else:
            matrix = self.matrix * here[self.columns]
        return self._replace(matrix=matrix)


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of voxels in regions, (regions, voxels), cut into stretches of voxels.

    Parameters
    ----------
    n_regions : int
    pieces : tuple of WeightPiece
        In the order of the voxels. Voxels in none of them have no weight.
    """

    n_regions: int
    pieces: tuple[WeightPiece, ...]

    @classmethod
    def from_sparse(cls, matrix: csr_array) -> Weights:
        """Of a sparse matrix (regions, voxels)."""
        pieces = []
        for start in range(0, matrix.shape[1], PIECE):
            part = matrix[:, start : start + PIECE]
            if part.nnz:
                low, high = int(part.indices.min()), int(part.indices.max()) + 1
                pieces.append(WeightPiece(start + low, start + high, None, part[:, low:high]))
        return cls(matrix.shape[0], tuple(pieces))

    def sums(self, volumes: np.ndarray) -> np.ndarray:
        """Weighted sums over the voxels of every volume, float64 (volumes, regions)."""
        sums = np.zeros((len(volumes), self.n_regions))
        with np.errstate(invalid="ignore", over="ignore"):
            for piece in self.pieces:
                if piece.columns is None:
                    _add_sparse(piece, volumes, sums)
                else:
                    _add_dense(piece, volumes, sums)
        return sums

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        total = 0
        for _, _, columns, matrix in self.pieces:
            if columns is None:
                total += matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
            else:
                total += matrix.nbytes + columns.nbytes
        return total

    def gram(self, present: np.ndarray | None = None) -> np.ndarray:
        """Products of every two regions' weights, summed over the voxels (present), float64."""
        gram = np.zeros((self.n_regions, self.n_regions))
        for piece in self.pieces:
            matrix = piece.matrix if present is None else piece.restricted(present).matrix
            product = matrix @ matrix.T
            gram += product.toarray() if piece.columns is None else product
        return gram

    def of_regions(self, regions: np.ndarray) -> Weights:
        """The weights of some regions only."""
        pieces = tuple(piece._replace(matrix=piece.matrix[regions]) for piece in self.pieces)
        return Weights(len(regions), pieces)

    def restricted(self, present: np.ndarray | None) -> Weights:
        """The weights of the voxels that are present, bool (voxels,); the others get 0."""
        if present is None:
            return self
        return Weights(self.n_regions, tuple(piece.restricted(present) for piece in self.pieces))

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Voxels with weights, and their weights as one array (voxels, regions)."""
        voxels, rows = [np.zeros(0, np.intp)], [np.zeros((0, self.n_regions))]
        for start, _, columns, matrix in self.pieces:
            part = matrix
            if columns is None:
                columns = np.unique(matrix.indices)
                part = matrix[:, columns].toarray()
            voxels.append(start + columns)
            rows.append(part.T)
        return np.concatenate(voxels), np.concatenate(rows)

    def paint(self, signals: np.ndarray, n_voxels: int) -> np.ndarray:
        """Volumes (volumes, voxels) in which every voxel is the sum of signals by its weights."""
        volumes = np.zeros((len(signals), n_voxels), signals.dtype)
        for start, stop, columns, matrix in self.pieces:
            if columns is None:
                volumes[:, start:stop] = (matrix.T @ signals.T).T
            else:
                volumes[:, start + columns] = signals @ matrix
        return volumes


def _add_sparse(piece: WeightPiece, volumes: np.ndarray, sums: np.ndarray) -> None:
    values = scratch_buffer("piece", (piece.stop - piece.start,), np.float64)
    for volume, row in zip(volumes, sums, strict=True):
        np.copyto(values, volume[piece.start : piece.stop])
        row += piece.matrix @ values


def _add_dense(piece: WeightPiece, volumes: np.ndarray, sums: np.ndarray) -> None:
    assert piece.columns is not None
    values = scratch_buffer("piece", (BATCH, len(piece.columns)), np.float64)
    picked = scratch_buffer("piece-picked", piece.columns.shape, volumes.dtype)
    for at in range(0, len(volumes), BATCH):
        batch = volumes[at : at + BATCH, piece.start : piece.stop]
        for volume, row in zip(batch, values, strict=False):
            volume.take(piece.columns, out=picked, mode="clip")
            np.copyto(row, picked)
        values[len(batch) :] = 0
        sums[at : at + BATCH] += (values @ piece.matrix.T)[: len(batch)]
