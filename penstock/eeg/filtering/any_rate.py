"""Rate changes by any ratio, in steps that each are cheap: bounded memory, exact times.

A fraction such as 999/1000 or 1228800/2460119 has no short table of taps. Here the signal first
comes down by whole numbers while its rate is many times the lower one of both (`Ratio`, with wide
transitions), then through the steep filter, to a rate of at least three times the lower one. There
a short kernel gives its value at any time, so that the new samples lie exactly at their times,
however long the recording is. Every step reaches a fixed number of samples: results do not depend
on how a recording is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from penstock.eeg.filtering.overlap import Place
from penstock.eeg.filtering.rates import (
    BETA,
    PASS_BAND,
    Ratio,
    half_length,
    resample_windows,
    windowed,
)

OVERSAMPLED = 3
"""Rate at which values between samples are worked out, at least so many times the lower rate."""
STEEP_FROM = 8
"""Rate from which on the signal comes down by whole numbers first, in lower rates."""
LARGEST_STEP = 32
"""Largest whole number by which it comes down at once."""
BETWEEN = 4096
"""Times between two samples at which the weights of their neighbours are tabulated."""
PIECE = 1 << 13
"""New samples worked out at once, at most; fewer where the rates before are much higher."""


@dataclass(frozen=True)
class Cascade:
    """A change of the sampling frequency in several steps."""

    old: float
    new: float
    steps: tuple[Ratio, ...]
    """From the old frequency to `middle`, one after the other."""
    middle: float
    """Frequency at which values between samples are worked out [Hz]."""
    half: int
    """Samples of `middle` at each side that a new sample is made of."""

    @property
    def spacing(self) -> float:
        """Distance of new samples, in samples of `middle`."""
        return self.middle / self.new

    @property
    def reach(self) -> float:
        """Old samples at each side that a new one is made of."""
        samples, factor = float(self.half), self.middle / self.old
        reach = samples / factor
        rate = self.old
        for step in self.steps:
            reach += step.reach * self.old / rate
            rate *= step.up / step.down
        return reach

    @property
    def margin(self) -> int:
        """Old samples that a new one needs at each side, with those of whole windows."""
        low, high = self.span(0, 1)
        return max(-low, high)

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Old samples that new ones ``[start, stop)`` need; they may lie beyond the recording."""
        return self.spans(start, stop)[0]

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What new samples ``[start, stop)`` need: of old samples, after each step, in between."""
        low = math.floor(start * self.spacing) - self.half + 1
        high = math.floor((stop - 1) * self.spacing) + self.half + 1
        spans = [(low, high)]
        for step in reversed(self.steps):
            low, high = step.span(low, high)
            spans.append((low, high))
        return spans[::-1]

    @property
    def piece(self) -> int:
        """New samples worked out at once: what is between the steps stays small."""
        highest = max((self.old * s.up / s.down for s in self.steps), default=self.middle)
        highest = max(highest, self.middle)
        overlap = self.reach * highest / self.old
        most = max(8.0 * PIECE, 4 * overlap) * self.new / highest
        return max(1, min(PIECE, int(most)))

    @property
    def row_bytes(self) -> int:
        """Memory between the steps, of one row [bytes]."""
        lengths = [stop - start for start, stop in self.spans(0, self.piece)[1:]]
        # (weights and samples of the last step, and the table of weights while it is made)
        last = (4 * 8 * 2 * self.half + 64) * self.piece
        return 8 * sum(sorted(lengths)[-2:]) + last + 8 * 8 * 2 * self.half * BETWEEN


@lru_cache(maxsize=64)
def cascade(old: float, new: float, n_times: int) -> Cascade:
    """The steps of a change from one sampling frequency to another [Hz]."""
    lower = min(old, new)
    rate, n = old, n_times
    steps = []
    while rate >= STEEP_FROM * lower:
        down = min(LARGEST_STEP, int(rate / lower / 4))
        # what folds onto the band that is kept must be gone, what lies between need not
        edge, stop = PASS_BAND * lower / 2, rate / down - lower / 2
        half, cutoff = half_length((stop - edge) / (rate / 2)), (edge + stop) / rate
        steps.append(_found(windowed(1, down, half, cutoff, n)))
        rate, n = rate / down, max(1, n // down)
    up = max(1, math.ceil(OVERSAMPLED * lower / rate))
    nyquist = rate * up / 2
    half = half_length((1 - PASS_BAND) * lower / 2 / nyquist)
    steps.append(_found(windowed(up, 1, half, (1 + PASS_BAND) / 2 * lower / 2 / nyquist, n)))
    middle = rate * up
    # the band that is kept ends at half the lower rate, its first image as far below `middle`
    width = (middle - lower) / (middle / 2)
    return Cascade(old, new, tuple(steps), middle, half_length(width))


def _found(ratio: Ratio | None) -> Ratio:
    assert ratio is not None  # (steps of up to 32 and filters of a few thousand taps always fit)
    return ratio


def resample_in_steps(
    rows: np.ndarray,
    out: np.ndarray,
    change: Cascade,
    place: Place,
    origin: int = 0,
    *,
    missing: bool = False,
) -> int | None:
    """Resample a stretch that begins at sample `origin` of its recording.

    `rows`, `place` and the result as in `penstock.eeg.filtering.rates.resample_windows`.
    """
    n_out = out.shape[-1]
    for at in range(0, n_out, change.piece):
        end = min(n_out, at + change.piece)
        start, stop = place.out_first + at, place.out_first + end
        spans = change.spans(start, stop)
        first, weights = _weights(change, start, stop)
        for r in range(len(rows)):
            values, where = rows[r : r + 1], Place(place.first, place.size, 0)
            begins = origin
            for step, span in zip(change.steps, spans[1:], strict=True):
                made = np.empty((1, span[1] - span[0]), out.dtype)
                here = Place(where.first, where.size, span[0])
                bad = resample_windows(values, made, step, here, begins, missing=missing)
                if bad is not None:
                    return r
                # from here on all that is needed is there: no edge is continued
                values, begins = made, 0
                where = Place(span[0], span[1], 0)
            samples = sliding_window_view(values[0], 2 * change.half)[first - spans[-1][0]]
            np.einsum("ij,ij->i", samples, weights, out=out[r, at:end], casting="same_kind")
    return None


def _weights(change: Cascade, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """First sample of `middle` that each new sample is made of, and the weights of those samples.

    Shapes (n,) and (n, 2 half).
    """
    table = _weights_between(change.half)
    position = np.arange(start, stop) * change.spacing
    whole = np.floor(position)
    entry = (position - whole) * BETWEEN
    below = np.minimum(entry.astype(np.int64), BETWEEN - 1)
    part = (entry - below)[:, np.newaxis]
    weights = table[below + 1]
    weights *= part
    weights += table[below] * (1 - part)
    return whole.astype(np.int64) + 1 - change.half, weights


@lru_cache(maxsize=4)
def _weights_between(half: int) -> np.ndarray:
    """Weights of the samples around a time between two of them, (BETWEEN + 1, 2 half).

    A windowed sinc. Between the rows of the table weights are linear, which is exact to 1e-7.
    """
    between = np.arange(BETWEEN + 1)[:, np.newaxis] / BETWEEN
    distance = np.arange(1 - half, half + 1) - between
    inside = np.clip(1 - (distance / half) ** 2, 0, None)
    weights = np.sinc(distance) * np.i0(BETA * np.sqrt(inside))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
