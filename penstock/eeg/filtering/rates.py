"""Rate changes by a fraction of small numbers: windows that go through one FFT and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import scipy.fft

from penstock.eeg.filtering.fir import windowed_sinc
from penstock.eeg.filtering.overlap import BATCH_BYTES, Place, Windows, transform_windows
from penstock.memory.buffers import scratch_buffer

PASS_BAND = 0.95
"""Edge of the pass band, as a fraction of the lower of both Nyquist frequencies; the stop band
begins at that frequency itself, so that nothing folds."""
ATTENUATION = 120.0
"""Stop-band attenuation [dB]; the ripple in the pass band is as small (1e-6)."""
BETA = 0.1102 * (ATTENUATION - 8.7)
"""Shape of the Kaiser window (Kaiser's formula, above 50 dB)."""
LARGEST_TERM = 220
"""Smaller term of a fraction, above which several steps are cheaper than one (measured)."""
LARGEST_TABLE = 1 << 20
"""Values of the frequency response, above which a ratio is too awkward for one step."""


@dataclass(frozen=True)
class Ratio:
    """A change of the sampling frequency by ``up / down``, and the windows that carry it out."""

    up: int
    down: int
    half: int
    """Taps of the filter at each side of its centre, at ``up`` times the input's frequency."""
    guard: int
    """Units (`down` inputs, `up` outputs) at each end of a window that the FFT's wrap reaches."""
    units: int
    """Units of a window."""
    cutoff: float
    """Middle of the filter's transition, as a fraction of the Nyquist frequency of those taps."""

    @property
    def margin(self) -> int:
        """Input samples that an output needs at each side, with those of whole units."""
        return self.down * (self.guard + 1)

    @property
    def reach(self) -> float:
        """Input samples at each side that an output is made of."""
        return self.half / self.up

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Input samples that outputs ``[start, stop)`` need; they may lie beyond the recording."""
        return (
            start // self.up * self.down - self.margin,
            -(-stop // self.up) * self.down + self.margin,
        )


def filter_taps(up: int, down: int) -> np.ndarray:
    """The low-pass filter of a rate change, as `scipy.signal.resample_poly` takes it (``window=``).

    A Kaiser window: pass band to 0.95 of the lower Nyquist frequency, 120 dB from that frequency
    on.
    """
    largest = max(up, down)
    return kaiser_low_pass(half_length((1 - PASS_BAND) / largest), (1 + PASS_BAND) / 2 / largest)


def kaiser_low_pass(half: int, cutoff: float) -> np.ndarray:
    """Taps of a low-pass filter, shape (2 half + 1,); `cutoff` as a fraction of Nyquist."""
    return windowed_sinc(np.kaiser(2 * half + 1, BETA), cutoff)


def half_length(width: float) -> int:
    """Taps at each side that a transition of that width takes, as a fraction of Nyquist."""
    return math.ceil((ATTENUATION - 7.95) / (2.285 * width * math.pi) / 2)


@lru_cache(maxsize=64)
def rational_ratio(old: float, new: float, n_times: int) -> Ratio | None:
    """The ratio of two sampling frequencies as a fraction, with windows that suit it.

    The fraction with the smallest terms is taken that drifts by less than a millionth of a sample
    until the end of the recording. None where no fraction of small numbers does.
    """
    n_new = n_times * new / old
    for limit in (10, 30, 100, 300, 1000, 3000):
        fraction = Fraction(new / old).limit_denominator(limit)
        up, down = fraction.numerator, fraction.denominator
        if up and abs(up / down * n_times - n_new) <= 1e-6:
            if min(up, down) > LARGEST_TERM:
                return None
            largest = max(up, down)
            half, cutoff = half_length((1 - PASS_BAND) / largest), (1 + PASS_BAND) / 2 / largest
            return windowed(up, down, half, cutoff, n_times)
    return None


def windowed(up: int, down: int, half: int, cutoff: float, n_times: int) -> Ratio | None:
    """A rate change with the windows that make it cheapest; None where none is short enough."""
    guard = math.ceil(half / (up * down))
    best, best_cost = 0, math.inf
    for units in _smooth_numbers(4096):
        longest = max(up, down) * units
        if units < 2 * guard + 1 or longest > BATCH_BYTES // 4:
            continue
        if up * down * units > LARGEST_TABLE:
            continue
        n_in, n_out = down * units, up * units
        cost = n_in * math.log2(n_in + 1) + n_out * math.log2(n_out + 1) + up * n_in
        # measured: large batches leave the cache, and strides of powers of two collide in it
        cost *= 1.6 if longest > 20_000 else 1.0
        cost *= 1.3 if longest > 8192 and longest & (longest - 1) == 0 else 1.0
        cost *= math.ceil(n_times / down / (units - 2 * guard))
        if cost < best_cost:
            best, best_cost = units, cost
    return Ratio(up, down, half, guard, best, cutoff) if best else None


@lru_cache(maxsize=1)
def _smooth_numbers(limit: int) -> list[int]:
    """Numbers whose FFT is fast: products of 2, 3 and 5."""
    return [n for n in range(1, limit + 1) if scipy.fft.next_fast_len(n, real=True) == n]


@dataclass(frozen=True)
class _Fold:
    """Part of the output's spectrum: ``spectrum[at] += full[source] * response``."""

    at: slice
    source: slice
    response: np.ndarray


class _RateChange:
    """Windows of ``down * units`` samples to ``up * (units - 2 guard)`` at the other rate.

    Zero stuffing repeats the spectrum `up` times, the filter multiplies it (by real values: it is
    centred), decimation folds it onto the spectrum of the output. All of that is done on the bins
    of the output, so that neither the stuffed nor the filtered signal at the high rate ever exists.
    """

    def __init__(self, ratio: Ratio, dtype: np.dtype):
        self.ratio = ratio
        self.n_in, self.n_out = ratio.down * ratio.units, ratio.up * ratio.units
        taps = kaiser_low_pass(ratio.half, ratio.cutoff)
        # the window is longer than the filter's reach; where it is not, wrap its far ends around
        n_high = self.n_in * ratio.up
        centred = np.zeros(n_high)
        np.add.at(centred, np.arange(-ratio.half, ratio.half + 1) % n_high, taps)
        response = scipy.fft.rfft(centred).real * (ratio.up / ratio.down)
        self.folds: list[_Fold] = []
        n_bins = self.n_out // 2 + 1
        for alias in range(ratio.down):
            start, stop = alias * self.n_out, alias * self.n_out + n_bins
            while start < stop:
                end = min(stop, (start // self.n_in + 1) * self.n_in)
                bins = np.arange(start, end)
                values = response[np.minimum(bins, n_high - bins)]
                at = slice(2 * (start - alias * self.n_out), 2 * (end - alias * self.n_out))
                source = slice(2 * (start % self.n_in), 2 * (start % self.n_in + end - start))
                self.folds.append(_Fold(at, source, np.repeat(values, 2).astype(dtype)))
                start = end
        keep = ratio.up * ratio.guard
        self.valid = slice(keep, self.n_out - keep)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        n, dtype = len(batch), batch.dtype
        # a real input: the second half of the spectrum is filled in by symmetry
        full = scipy.fft.fft(batch).view(dtype)
        n_bins = self.n_out // 2 + 1
        spectrum = scratch_buffer("resample-spectrum", (n, 2 * n_bins), dtype)
        product = scratch_buffer("resample-product", (n, 2 * n_bins), dtype)
        first_alias = True
        for fold in self.folds:
            target, source = spectrum[:, fold.at], full[:, fold.source]
            if first_alias:
                np.multiply(source, fold.response, out=target)
                first_alias = fold.at.stop < 2 * n_bins
            else:
                part = product[:, : fold.at.stop - fold.at.start]
                np.multiply(source, fold.response, out=part)
                target += part
        half_spectrum = spectrum.view(np.result_type(dtype, np.complex64))
        result: np.ndarray = scipy.fft.irfft(half_spectrum, n=self.n_out)
        return result[:, self.valid]


@lru_cache(maxsize=16)
def _rate_change(ratio: Ratio, dtype: str) -> _RateChange:
    return _RateChange(ratio, np.dtype(dtype))


def resample_windows(
    rows: np.ndarray,
    out: np.ndarray,
    ratio: Ratio,
    place: Place,
    origin: int = 0,
    *,
    missing: bool = False,
) -> int | None:
    """Resample a stretch that begins at sample `origin` of its recording; results are counted in
    the whole recording, so that they lie at its times."""
    change = _rate_change(ratio, out.dtype.str)
    unit = place.out_first // ratio.up
    units = ratio.units - 2 * ratio.guard
    windows = Windows(
        start=(unit - ratio.guard) * ratio.down - origin,
        length=change.n_in,
        hop=units * ratio.down,
        hop_out=units * ratio.up,
        skip=place.out_first - unit * ratio.up,
        longest=change.n_out,
    )
    return transform_windows(rows, out, windows, change, place, missing=missing)
