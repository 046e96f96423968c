"""FIR filters: MNE's design, and overlap-save evaluation in batches that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft

from penstock.eeg.filtering.overlap import Place, Windows, transform_windows, windows_together

LENGTH_FACTORS = {"hann": 3.1, "hamming": 3.3, "blackman": 5.0}
"""Filter length x transition width of each window (MNE's values)."""

MAX_FFT = 1 << 18
MOST_TAPS = 1 << 24
"""Longest filter [samples]: at 1 kHz more than four hours."""
"""Longest FFT [samples]. Longer filters are evaluated in parts, so that scratch stays bounded."""
SCRATCH_BYTES = 8 << 20
"""What `overlap_save` takes beside its result (measured: 4 MiB, and 8 MiB in float64 with the
longest FFT; the first call also designs the filter)."""


# ---------------------------------------------------------------------- design


@lru_cache(maxsize=16)
def design_fir(
    sampling_frequency: float,
    l_freq: tuple[float, ...] | None,
    h_freq: tuple[float, ...] | None,
    *,
    filter_length: str | int = "auto",
    l_trans_bandwidth: str | float = "auto",
    h_trans_bandwidth: str | float = "auto",
    fir_window: str = "hamming",
) -> np.ndarray:
    """Taps of a linear-phase FIR filter as MNE designs it (``fir_design="firwin"``).

    Every transition is a windowed sinc of its own length, centred in the filter and added or
    subtracted: the widths of the transitions do not depend on each other.

    Parameters
    ----------
    sampling_frequency : float
        [Hz]
    l_freq, h_freq : tuple of float or None
        Edges of the pass band [Hz]. Only `l_freq`: high-pass; only `h_freq`: low-pass; both, with
        ``l_freq < h_freq``: band-pass; with ``l_freq > h_freq``: band-stop. Several of each: that
        many stop bands.
    filter_length : str or int, default "auto"
        Taps, or a time such as ``"10s"`` or ``"500ms"``. ``"auto"``: as long as the narrowest
        transition needs.
    l_trans_bandwidth, h_trans_bandwidth : float or "auto"
        Width of the transitions [Hz]. ``"auto"``: ``min(max(l / 4, 2), l)`` and
        ``min(max(h / 4, 2), Nyquist - h)``.
    fir_window : {"hamming", "hann", "blackman"}, default "hamming"

    Returns
    -------
    numpy.ndarray, shape (n_taps,)
        Odd length, symmetric, float64, read-only.

    Raises
    ------
    ValueError
        If a frequency, a width or the length is impossible, with what would be possible.
    """
    nyquist = sampling_frequency / 2
    low = None if l_freq is None else np.asarray(l_freq, dtype=np.float64)
    high = None if h_freq is None else np.asarray(h_freq, dtype=np.float64)
    check_frequencies(l_freq, h_freq, sampling_frequency)
    stops = low is not None and high is not None and not (low < high).any()
    widths: dict[str, np.ndarray] = {}
    if low is not None:
        automatic = np.minimum(np.maximum(0.25 * low, 2.0), low)
        if stops:  # the upper end of a stop band: its transition lies inside the band
            automatic = np.minimum(np.maximum(0.25 * low, 2.0), nyquist - low)
        widths["l_trans_bandwidth"] = _widths(l_trans_bandwidth, automatic, "l_trans_bandwidth")
    if high is not None:
        automatic = np.minimum(np.maximum(0.25 * high, 2.0), nyquist - high)
        if stops:
            automatic = np.minimum(np.maximum(0.25 * high, 2.0), high)
        widths["h_trans_bandwidth"] = _widths(h_trans_bandwidth, automatic, "h_trans_bandwidth")

    # (frequency, gain) where the gain is reached; between two gains lies a transition
    points: list[tuple[float, int]] = []
    if stops:
        assert low is not None
        assert high is not None
        for start, stop, down, up in zip(high, low, widths["h_trans_bandwidth"],
                                         widths["l_trans_bandwidth"], strict=True):  # fmt: skip
            points += [(start, 1), (start + down, 0), (stop - up, 0), (stop, 1)]
            if start + down > stop - up:
                raise ValueError(
                    f"the stop band {start:g}-{stop:g} Hz is narrower than its transitions "
                    f"({down:g} + {up:g} Hz): widen the band, or make l_trans_bandwidth and "
                    "h_trans_bandwidth smaller"
                )
        points.sort(key=lambda point: point[0])
        gains = [gain for _, gain in points]
        if gains != [1, 0, 0, 1] * (len(gains) // 4):
            raise ValueError(
                "the stop bands overlap: leave more room between them, or make trans_bandwidth "
                "and notch_widths smaller"
            )
    else:
        if low is not None:
            edge, width = float(low[0]), float(widths["l_trans_bandwidth"][0])
            if edge - width < 0:
                raise ValueError(
                    f"l_freq={edge:g} Hz with a transition of {width:g} Hz would begin below 0 Hz: "
                    f"make l_trans_bandwidth at most {edge:g} Hz"
                )
            points += [(edge - width, 0), (edge, 1)]
        if high is not None:
            edge, width = float(high[0]), float(widths["h_trans_bandwidth"][0])
            if edge + width > nyquist:
                raise ValueError(
                    f"h_freq={edge:g} Hz with a transition of {width:g} Hz would end above the "
                    f"Nyquist frequency ({nyquist:g} Hz): make h_trans_bandwidth at most "
                    f"{nyquist - edge:g} Hz"
                )
            points += [(edge, 1), (edge + width, 0)]
    narrowest = min(float(width.min()) for width in widths.values())
    n_taps = taps_in(filter_length, LENGTH_FACTORS[fir_window] / narrowest, sampling_frequency)

    if points[0][0] != 0:
        points.insert(0, (0.0, points[0][1]))
    if points[-1][0] != nyquist:
        points.append((nyquist, points[-1][1]))
    taps = np.zeros(n_taps)
    if points[-1][1] == 1:
        taps[n_taps // 2] = 1.0
    for (below, gain_below), (above, gain_above) in zip(points[-2::-1], points[:0:-1], strict=True):
        if gain_below == gain_above:
            continue
        transition = (above / nyquist - below / nyquist) / 2.0
        length = round(LENGTH_FACTORS[fir_window] / transition)
        length += 1 - length % 2
        if length > n_taps:
            raise ValueError(
                f"filter_length={filter_length!r} ({n_taps} samples) is too short for a transition "
                f"of {above - below:g} Hz: it takes {length} samples "
                f"({length / sampling_frequency:g} s), or a wider transition"
            )
        part = windowed_sinc(_WINDOWS[fir_window](length), (below + above) / nyquist / 2.0)
        offset = (n_taps - length) // 2
        taps[offset : n_taps - offset] += part if gain_below == 1 else -part
    taps = symmetrised(taps)
    taps.setflags(write=False)
    return taps


_WINDOWS: dict[str, Callable[[int], np.ndarray]] = {
    "hann": np.hanning,
    "hamming": np.hamming,
    "blackman": np.blackman,
}


def windowed_sinc(window: np.ndarray, cutoff: float) -> np.ndarray:
    """Low-pass filter with unit gain at 0: `scipy.signal.firwin` without importing `scipy.signal`.

    That import costs 46 MiB and half a second, more than filtering a recording.

    Parameters
    ----------
    window : numpy.ndarray, shape (n_taps,)
    cutoff : float
        Middle of the transition, as a fraction of the Nyquist frequency.
    """
    centred = np.arange(len(window)) - 0.5 * (len(window) - 1)
    taps: np.ndarray = cutoff * np.sinc(cutoff * centred) * window
    return taps / taps.sum()


def symmetrised(taps: np.ndarray) -> np.ndarray:
    """Taps rid of the rounding that keeps them from being exactly symmetric.

    `overlap_save` is a third faster where they are.
    """
    result: np.ndarray = (taps + taps[::-1]) / 2
    return result


def check_frequencies(
    l_freq: tuple[float, ...] | None, h_freq: tuple[float, ...] | None, sampling_frequency: float
) -> None:
    """Raise if an edge of a band [Hz] cannot be one at this sampling frequency, or none is left."""
    nyquist = sampling_frequency / 2
    for name, values in (("l_freq", l_freq), ("h_freq", h_freq)):
        for value in values or ():
            if not value > 0:
                raise ValueError(
                    f"{name}={value:g} Hz must be above 0 Hz: leave {name} out for no limit on "
                    "that side"
                )
            if value >= nyquist:
                raise ValueError(
                    f"{name}={value:g} Hz must be below the Nyquist frequency of this recording, "
                    f"{nyquist:g} Hz (sampled at {sampling_frequency:g} Hz): choose a lower "
                    "frequency, or resample first"
                )
    for low, high in zip(l_freq or (), h_freq or (), strict=False):
        if low == high:
            raise ValueError(
                f"l_freq and h_freq are both {low:g} Hz: no band lies between them; "
                "l_freq < h_freq keeps a band, l_freq > h_freq removes one"
            )


def _widths(given: str | float, automatic: np.ndarray, name: str) -> np.ndarray:
    if isinstance(given, str):
        if given != "auto":
            raise ValueError(f"{name}={given!r} must be a width in Hz, or 'auto'")
        return automatic
    if not given > 0:
        raise ValueError(f"{name}={given!r} must be above 0 Hz")
    return np.full_like(automatic, given)


def minimum_phase_bytes(n_taps: int) -> int:
    """What `scipy.signal.minimum_phase` takes for a filter [bytes]: transforms of 200 times it."""
    return int(12.2 * 8 * 2 ** math.ceil(math.log2(200 * max(2, n_taps - 1))))


def taps_in(given: str | int, automatic: float, sampling_frequency: float) -> int:
    """Odd number of taps of a length given in samples or as a time; `automatic` in seconds."""
    if isinstance(given, int):
        n_taps = given
    else:
        text = given.strip().lower()
        try:
            if text == "auto":
                seconds = automatic
            elif text.endswith("ms"):
                seconds = float(text[:-2]) * 1e-3
            elif text.endswith("s"):
                seconds = float(text[:-1])
            else:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"filter_length={given!r} must be a number of samples, a time such as '10s' or "
                "'500ms', or 'auto'"
            ) from None
        n_taps = max(math.ceil(min(seconds * sampling_frequency, 2.0 * MOST_TAPS)), 1)
    if n_taps > MOST_TAPS:
        raise ValueError(
            f"the filter would be longer than {MOST_TAPS} samples: make its transition wider, or "
            "filter_length shorter"
        )
    if n_taps <= 0:
        raise ValueError(f"filter_length={given!r} must be positive")
    return n_taps + 1 - n_taps % 2


# ---------------------------------------------------------------------- filtering


def fft_length(n_taps: int, n_out: int, itemsize: int = 4) -> int:
    """Length of the windows that makes filtering `n_out` samples with `n_taps` taps cheapest.

    Powers of two, and such times 9/8, 5/4, 3/2 and 15/8: as fast a sample, and windows that end
    where the samples do are worth more than a shorter transform, as long as those that are
    transformed together fill the vector lanes of the FFT.
    """
    best, best_cost = 16, math.inf
    for exponent in range(4, MAX_FFT.bit_length()):
        for factor in (8, 9, 10, 12, 15):
            length = factor << exponent >> 3
            step = length - n_taps + 1
            if step < 1 or length > MAX_FFT or length % 2:
                continue
            n_windows = -(-n_out // step)
            cost = n_windows * length * (exponent + 1.0)
            cost *= _lanes_cost(n_windows, length, itemsize)
            # measured: windows, spectra and results of a batch must fit the cache, and beyond 2^16
            # no four windows are left for the vector lanes
            cost *= 1.5 if length > 1 << 16 else 1.25 if length > 36864 else 1.0
            if cost < best_cost:
                best, best_cost = length, cost
    return best


def _lanes_cost(n_windows: int, length: int, itemsize: int) -> float:
    """What windows cost that leave vector lanes empty, beside those that fill them.

    Measured: a window that is not one of a full set (four in single, two in double precision) takes
    twice the time.
    """
    if length > 1 << 16:
        return 1.0  # (where no set is full, which `fft_length` counts)
    rows, batch = windows_together(n_windows, length, itemsize)
    together = rows * n_windows
    at_once = min(batch, together)
    lanes = 16 // itemsize
    alone = together // at_once * (at_once % lanes) + together % at_once % lanes
    return 1 + alone / together


@lru_cache(maxsize=8)
def _response(taps: bytes, length: int, dtype: str, symmetric: bool) -> np.ndarray:
    """Frequency response of taps at an FFT length; of symmetric ones around their centre, which is
    real, every value twice so that it multiplies real and imaginary parts alike."""
    h = np.frombuffer(taps, dtype=np.float64)
    padded = np.zeros(length)
    padded[: len(h)] = h
    if symmetric:
        response = scipy.fft.rfft(np.roll(padded, -(len(h) // 2))).real
        response = np.repeat(response, 2).astype(dtype)
    else:
        response = scipy.fft.rfft(padded).astype(np.result_type(dtype, np.complex64))
    response.setflags(write=False)
    return response


def overlap_save(
    rows: np.ndarray,
    out: np.ndarray,
    taps: np.ndarray,
    centre: int,
    place: Place,
    *,
    missing: bool = False,
) -> int | None:
    """Filter rows: ``out[t] = sum_k taps[k] * x[t + centre - k]``, x continued beyond its edges.

    Parameters
    ----------
    rows : numpy.ndarray, shape (n_rows, n)
        Samples of any real dtype.
    out : numpy.ndarray, shape (n_rows, n_out)
        Receives the results; float32 or float64, which is also the
        precision of the arithmetic.
    taps : numpy.ndarray, shape (n_taps,)
    centre : int
        Tap of no delay: ``(n_taps - 1) // 2`` for zero phase, 0 for a causal filter.
    place : Place
        Where the rows lie in the recording.
    missing : bool
        Take what is not finite as 0 (see `transform_windows`).

    Returns
    -------
    int or None
        A row that holds values that are not finite, if there is one.
    """
    # taps that only ever meet the zeros beyond the reflection
    reach = 2 * max(place.size, 1) - 1
    if len(taps) - 1 - centre > reach or centre > reach:
        cut = max(0, centre - reach)
        taps, centre = taps[cut : centre + reach + 1], centre - cut
    n_taps = len(taps)
    symmetric = 2 * centre == n_taps - 1 and np.array_equal(taps, taps[::-1])
    # very long filters in equal parts, whose results add up
    longest = -(-n_taps // -(-n_taps // (MAX_FFT // 2)))
    for part in range(0, n_taps, longest):
        h = taps[part : part + longest]
        zero_phase = symmetric and len(h) == n_taps
        length = fft_length(len(h), out.shape[-1], out.itemsize)
        step = length - len(h) + 1
        response = _response(h.tobytes(), length, out.dtype.str, zero_phase)
        valid = len(h) // 2 if zero_phase else len(h) - 1
        windows = Windows(place.out_first + centre - part - len(h) + 1, length, step, step)
        transform = _Filtering(response, length, slice(valid, valid + step), zero_phase)
        bad = transform_windows(rows, out, windows, transform, place, add=part > 0, missing=missing)
        if bad is not None:
            return bad
    return None


@dataclass(frozen=True)
class _Filtering:
    response: np.ndarray
    length: int
    valid: slice
    real: bool

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        spectrum = scipy.fft.rfft(batch)
        parts = spectrum.view(batch.dtype) if self.real else spectrum
        np.multiply(parts, self.response, out=parts)
        result: np.ndarray = scipy.fft.irfft(spectrum, n=self.length, overwrite_x=True)
        return result[:, self.valid]
