"""Recursive (IIR) filters: Butterworth designs, and their evaluation with state in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from penstock.eeg.filtering.fir import check_frequencies
from penstock.eeg.filtering.overlap import Place, continued, zero_missing
from penstock.memory.buffers import scratch_buffer

Edges = tuple[float, ...] | None

STRETCH = 1 << 15
"""Samples of a row that go through a recursive filter at once."""


@dataclass(frozen=True)
class Recursive:
    """A designed IIR filter."""

    sos: np.ndarray
    start: np.ndarray
    """State of each section that a constant input of 1 leads to."""
    padding: int
    """Samples of reflection at recording edges (MNE's estimate of the ringing)."""
    margin: int
    """Samples after which a wrong start has decayed below the precision of float64."""


@lru_cache(maxsize=32)
def design_iir(frequency: float, l_freq: Edges, h_freq: Edges, order: int) -> Recursive:
    """A Butterworth filter for the edges of its pass band [Hz], with the margin that it needs."""
    from scipy.signal import butter, sos2zpk, sosfilt_zi

    check_frequencies(l_freq, h_freq, frequency)
    if l_freq is None or h_freq is None:
        kind, band = ("lowpass", h_freq) if l_freq is None else ("highpass", l_freq)
        assert band is not None
        wanted: list[float] | float = band[0]
    else:
        kind = "bandpass" if l_freq[0] < h_freq[0] else "bandstop"
        wanted = sorted((l_freq[0], h_freq[0]))
    sos = butter(order, wanted, kind, fs=frequency, output="sos")
    slowest = float(np.abs(sos2zpk(sos)[1]).max())
    if slowest >= 1:
        raise ValueError(
            f"a Butterworth filter of order {order} at {wanted} Hz is unstable when sampled at "
            f"{frequency:g} Hz: lower iir_order, resample first, or use method='fir'"
        )
    padding = _ringing(sos)
    margin = max(math.ceil(math.log(1e-15) / math.log(slowest)), padding) + 1
    return Recursive(sos, sosfilt_zi(sos), padding, margin)


def _ringing(sos: np.ndarray) -> int:
    """Samples until an impulse has fallen to a thousandth, as `mne.filter.estimate_ringing_samples`
    counts them: in thousands, at most a hundred of those."""
    from scipy.signal import sosfilt

    length, limit = 1000, 100
    impulse, state = np.zeros(length), np.zeros((len(sos), 2))
    impulse[0] = 1
    last, threshold = length, 0.0
    for number in range(limit):
        response, state = sosfilt(sos, impulse, zi=state)
        impulse[0] = 0
        response = np.abs(response)
        threshold = max(0.001 * float(response.max()), threshold)
        above = np.flatnonzero(response > threshold)
        if not len(above):
            return (number - 1) * length + last
        last = int(above[-1])
    return length * limit


def filter_recursively(
    rows: np.ndarray,
    out: np.ndarray,
    design: Recursive,
    forward: bool,
    place: Place,
    *,
    missing: bool = False,
) -> int | None:
    """Filter rows through second-order sections, a few at a time, state in float64.

    True edges are continued by odd reflection, as MNE does, and the state starts at rest for the
    first value; at a cut it starts likewise, and the margin lets the difference decay. Returns a
    row that is not finite, if there is one; with `missing` such values count as 0.
    """
    first, size, n = place.first, place.size, rows.shape[-1]
    padding = 0 if forward else min(design.padding, size - 1)
    start = first - (padding if first == 0 else 0)
    stop = first + n + (padding if first + n == size else 0)
    at = place.out_first - start
    n_grouped = max(1, STRETCH // (stop - start))
    for r in range(0, len(rows), n_grouped):
        group = rows[r : r + n_grouped]
        values = scratch_buffer("iir-rows", (len(group), stop - start), np.float64)
        continued(group, first, size, start, stop, values)
        if missing:
            zero_missing(values)
        with np.errstate(invalid="ignore", over="ignore"):
            _pass(values, design, at_rest=forward)
            if not forward:
                _pass(values[:, ::-1], design, at_rest=False)
        # a value that is not finite stays in the state to the end of the last pass
        finite = np.isfinite(values[:, -1 if forward else 0])
        if not missing and not finite.all():
            return r + int(np.argmin(finite))
        out[r : r + n_grouped] = values[:, at : at + out.shape[-1]]
    return None


def _pass(values: np.ndarray, design: Recursive, *, at_rest: bool) -> None:
    """Filter rows in place, a stretch at a time."""
    from scipy.signal import sosfilt

    state = np.zeros((len(design.sos), len(values), 2))
    if not at_rest:
        state = design.start[:, np.newaxis] * values[:, :1]
    for start in range(0, values.shape[-1], STRETCH):
        part = values[:, start : start + STRETCH]
        part[:], state = sosfilt(design.sos, part, axis=-1, zi=state)
