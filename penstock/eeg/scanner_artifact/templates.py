"""Templates of a repeating artifact: which epochs of a window resemble each other, and their mean.

Everything is computed from scalar products of epochs. Only those of a window's epochs with each
other are ever held, and only the epochs of a window: a recording has thousands of slices.
"""

from __future__ import annotations

import numpy as np

from penstock.eeg.scanner_artifact.alignment import EpochTransform
from penstock.memory.buffers import scratch_buffer

MINIMUM_EPOCHS = 5
"""Fewest epochs in a template (all there are, with fewer)."""

_CHUNK = 1 << 17
"""Numbers of an operand of the scalar products held in double precision at a time."""


def sliding_weights(
    products: np.ndarray, low: np.ndarray, high: np.ndarray, threshold: float
) -> np.ndarray:
    """Epochs that correlate with the mean of their window, with equal weights.

    Parameters
    ----------
    products : numpy.ndarray, shape (n_epochs, n_epochs)
        Scalar products of zero-mean epochs with each other.
    low, high : numpy.ndarray of int, shape (n_templates,)
        First and one past last epoch of the window of each template.
    threshold : float
        Epochs with a higher correlation are chosen; where these are fewer than `MINIMUM_EPOCHS`,
        that many with the highest correlation.

    Returns
    -------
    numpy.ndarray, shape (n_templates, n_epochs)
        Rows that sum to one.

    Examples
    --------
    >>> import numpy as np
    >>> epochs = np.array([[1.0, -1, 0]] * 5 + [[-1.0, 0, 1]])
    >>> sliding_weights(epochs @ epochs.T, np.array([0]), np.array([6]), 0.9)
    array([[0.2, 0.2, 0.2, 0.2, 0.2, 0. ]])
    """
    n_epochs = len(products)
    running = np.zeros((n_epochs, n_epochs + 1))
    np.cumsum(products, axis=1, out=running[:, 1:])
    # scalar product of every epoch (rows) with the sum of every window (columns)
    with_sum = running[:, high] - running[:, low]
    number = np.arange(n_epochs)[:, None]
    inside = (number >= low) & (number < high)
    energy = np.where(inside, with_sum, 0.0).sum(axis=0)
    norms = np.sqrt(np.maximum(np.diagonal(products)[:, None] * energy, 0.0))
    correlation = np.divide(with_sum, norms, out=np.zeros_like(with_sum), where=norms > 0)
    correlation[~inside] = -np.inf
    chosen = correlation > threshold
    few = np.flatnonzero(chosen.sum(axis=0) < np.minimum(MINIMUM_EPOCHS, high - low))
    if len(few):
        best = np.argsort(-correlation[:, few], axis=0, kind="stable")[:MINIMUM_EPOCHS]
        chosen[:, few] = False
        chosen[best, few[None]] = inside[best, few[None]]
    return (chosen / chosen.sum(axis=0)).T


def block_weights(
    products: np.ndarray, low: np.ndarray, high: np.ndarray, threshold: float
) -> np.ndarray:
    """Epochs that correlate with the mean of those chosen before them, with equal weights.

    The first `MINIMUM_EPOCHS` of a window are always chosen; then, in order, each epoch that
    correlates with the mean of all chosen so far. Parameters and returns as for `sliding_weights`.
    """
    weights = np.zeros((len(low), len(products)))
    norms = np.sqrt(np.diagonal(products))
    for template, (begin, end) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if template and begin == low[template - 1] and end == high[template - 1]:
            weights[template] = weights[template - 1]
            continue
        chosen = list(range(begin, min(begin + MINIMUM_EPOCHS, end)))
        with_sum = products[chosen].sum(axis=0)
        energy = float(with_sum[chosen].sum())
        for epoch in range(chosen[-1] + 1, end):
            if with_sum[epoch] > threshold * norms[epoch] * np.sqrt(max(energy, 0.0)):
                chosen.append(epoch)
                energy += 2 * float(with_sum[epoch]) + float(products[epoch, epoch])
                with_sum = with_sum + products[epoch]
        weights[template, chosen] = 1 / len(chosen)
    return weights


class EpochRows:
    """The epochs of a moving window of one channel, their scalar products and weighted means.

    Epochs are compared without their means. The level of an epoch is its mean against that of the
    signal from its start to the next epoch's: zero where epochs follow each other without gaps.

    Rows lie in a ring: epoch ``e`` in row ``e % capacity``. An epoch is read once, before anything
    is subtracted from it.

    Parameters
    ----------
    transform : EpochTransform
        How epochs become rows.
    capacity : int
        Most epochs needed at the same time.
    n_batch : int
        Most epochs loaded or templates made by one call.
    dtype : numpy.dtype
        ``float32`` or ``float64``.
    start : int
        First epoch that will be loaded.
    """

    def __init__(
        self,
        transform: EpochTransform,
        capacity: int,
        n_batch: int,
        dtype: np.dtype,
        start: int,
    ):
        self.transform = transform
        self.capacity = capacity
        self.stop = start
        self._rows = scratch_buffer("aas rows", (capacity, transform.n_columns), dtype)
        # rows that are still empty have weight zero, but zero times NaN would be NaN
        self._rows[:] = 0
        self._epochs = scratch_buffer("aas epochs", (n_batch, transform.span), dtype)
        self._means = scratch_buffer("aas means", (n_batch, transform.n_columns), dtype)
        self._products = scratch_buffer("aas products", (capacity, capacity), np.float64)
        self._products[:] = 0
        self._levels = np.zeros(capacity)

    def load(
        self, samples: np.ndarray, starts: np.ndarray, stops: np.ndarray, fractions: np.ndarray
    ) -> bool:
        """Take in the next epochs.

        Parameters
        ----------
        samples : numpy.ndarray, shape (n_samples,)
            Stretch of the channel.
        starts, stops : numpy.ndarray of int, shape (n_new,)
            First sample of each epoch in the stretch, and one past the last before the next epoch.
        fractions : numpy.ndarray, shape (n_new,)
            Delay of each epoch [samples].

        Returns
        -------
        bool
            False if a sample is not finite: the rows are useless then.
        """
        n_new = len(starts)
        epochs = self._epochs[:n_new]
        with np.errstate(invalid="ignore"):
            means = self.transform.gather(samples, starts, epochs)
            levels = [
                mean - samples[start:stop].mean(dtype=np.float64)
                for mean, start, stop in zip(means, starts.tolist(), stops.tolist(), strict=True)
            ]
        if not (np.isfinite(levels).all() and np.isfinite(epochs).all()):
            return False
        places = self._places(self.stop, self.stop + n_new)
        self._levels[places] = levels
        new = self._means[:n_new]
        self.transform.forward(epochs, fractions, new)
        self._rows[places] = new
        self.stop += n_new
        products = self._multiply(new)
        self._products[places] = products
        self._products[:, places] = products.T
        return True

    def products(self, start: int, stop: int) -> np.ndarray:
        """Scalar products of the epochs ``[start, stop)`` with each other, float64."""
        places = self._places(start, stop)
        return self._products[np.ix_(places, places)]

    def means(self, weights: np.ndarray, start: int, fractions: np.ndarray) -> np.ndarray:
        """Weighted means of epochs, moved to where they are subtracted.

        Parameters
        ----------
        weights : numpy.ndarray, shape (n_templates, n_epochs)
            For the epochs from `start` on.
        start : int
        fractions : numpy.ndarray, shape (n_templates,)
            Delay of each mean [samples].

        Returns
        -------
        numpy.ndarray, shape (n_templates, length)
            Overwritten by the next call.
        """
        ring = np.zeros((len(weights), self.capacity), self._rows.dtype)
        ring[:, self._places(start, start + weights.shape[1])] = weights
        means = np.matmul(ring, self._rows, out=self._means[: len(weights)])
        epochs = self.transform.backward(means, fractions)
        epochs += (ring.astype(np.float64) @ self._levels).astype(epochs.dtype)[:, None]
        return epochs

    def _places(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop) % self.capacity

    def _multiply(self, new: np.ndarray) -> np.ndarray:
        """Scalar products of new rows with all rows.

        In double precision: rounding must not decide which side of the threshold an epoch is on,
        or the same epoch would be chosen in one block and not in another.
        """
        n_columns = new.shape[1]
        step = max(64, _CHUNK // self.capacity)
        left = scratch_buffer("aas left", (len(new), step), np.float64)
        right = scratch_buffer("aas right", (self.capacity, step), np.float64)
        products = np.zeros((len(new), self.capacity))
        for first in range(0, n_columns, step):
            width = min(step, n_columns - first)
            left[:, :width] = new[:, first : first + width]
            right[:, :width] = self._rows[:, first : first + width]
            products += left[:, :width] @ right[:, :width].T
        return products
