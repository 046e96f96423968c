"""What methods of `mne.io.Raw` take: copies of all rows in float64, and of one row at a time.

Measured method by method with MNE-Python 1.13; the tests hold every one of them to it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from penstock.eeg.filtering.fir import minimum_phase_bytes
from penstock.memory.accounting import MIB
from penstock.memory.transforms import plan_bytes, transform_bytes

SMALL = 4 * MIB
"""Description, window of events, and arrays that the heap keeps."""
TOGETHER = 18 * MIB
"""Rows that recursive filters work through together, at most (unless one is longer)."""


def rows_bytes(
    method: str, arguments: Mapping[str, Any], n_rows: int, n_times: int, frequency: float
) -> int:
    """Peak memory beside rows and their result [bytes], for methods of every channel for itself."""
    row = 8 * n_times
    every = row * n_rows
    if method == "resample":
        extra = _resampling(arguments, n_rows, n_times, frequency)
    elif method == "apply_hilbert":
        extra = _hilbert(arguments.get("n_fft", "auto"), n_times)
    elif method == "apply_function":
        # (what the function itself takes is not known)
        extra = 7 * (row if arguments.get("channel_wise", True) else every)
    elif method == "savgol_filter":
        extra = every + 2 * row
    elif arguments.get("method") == "spectrum_fit":
        extra = 3 * row + _tapers(arguments, n_times, frequency)
    elif arguments.get("method") == "iir":
        extra = every + int(2.4 * max(row, min(every, TOGETHER)))
    else:
        n_taps = _taps(method, arguments, n_times, frequency)
        extra = every + int(2.3 * row) + 32 * 8 * n_taps
        if arguments.get("phase") == "minimum":
            extra = max(extra, minimum_phase_bytes(n_taps))
    return every + extra + SMALL


def moments_bytes(method: str, n_channels: int, n_times: int) -> int:
    """Peak memory beside values and their result [bytes], for methods that mix channels."""
    row = 8 * n_times
    every = row * n_channels
    extra = every + 2 * row
    if method in ("rescale", "add_reference_channels"):
        extra = 2 * every + 4 * row
    # (and where values are missing, one byte each)
    return every + every // 8 + extra + SMALL


def _hilbert(given: Any, n_times: int) -> int:
    import scipy.fft

    n = n_times
    if isinstance(given, str):
        n = int(scipy.fft.next_fast_len(n_times))
    elif given is not None:
        n = int(given)
    awkward = transform_bytes(n) - 3 * 8 * n
    return 9 * 8 * n + int(1.2 * max(0, awkward))


def _resampling(arguments: Mapping[str, Any], n_rows: int, n_times: int, frequency: float) -> int:
    ratio = float(arguments["sfreq"]) / frequency
    made = int(8 * ratio * n_times * n_rows)
    if arguments.get("method", "fft") == "polyphase":
        n_new = max(1, round(ratio * n_times))
        # its filter has 20 taps a term of the ratio, which may be the length of the row
        largest = max(n_new, n_times) // max(1, math.gcd(n_new, n_times))
        return 2 * made + 6 * 8 * 20 * largest
    padding = arguments.get("npad", "auto")
    n_padded = n_times + 2 * padding if isinstance(padding, int) else _power(n_times)
    n_new = max(1, round(ratio * n_padded))
    there = 3 * 8 * n_padded + transform_bytes(n_padded)
    back = 5 * 8 * n_padded + plan_bytes(n_padded) + transform_bytes(n_new)
    return max(made + max(there, back), 2 * made + 20 * MIB)


def _power(n: int) -> int:
    return int(2 ** math.ceil(math.log2(n + min(n // 8, 100) * 2)))


def _tapers(arguments: Mapping[str, Any], n_times: int, frequency: float) -> int:
    window = n_times
    given = arguments.get("filter_length", "auto")
    seconds = "10s" if given == "auto" else given
    if isinstance(seconds, str):
        with contextlib.suppress(ValueError):
            scale = 1e-3 if seconds.endswith("ms") else 1.0
            window = min(n_times, int(float(seconds.rstrip("ms")) * scale * frequency) + 1)
    elif seconds is not None:
        window = min(n_times, int(seconds))
    width = arguments.get("mt_bandwidth")
    n_tapers = 8 if width is None else max(1, int(float(width) * window / frequency))
    return 10 * 16 * n_tapers * window


def _taps(method: str, arguments: Mapping[str, Any], n_times: int, frequency: float) -> int:
    """How long the filter becomes [samples]; where it cannot be told, as long as the recording."""
    from penstock.eeg.filtering.filters import Filter
    from penstock.eeg.filtering.fir import LENGTH_FACTORS, taps_in

    known = {
        name: arguments[name]
        for name in ("filter_length", "l_trans_bandwidth", "h_trans_bandwidth", "fir_window")
        if arguments.get(name) is not None
    }
    n_taps = n_times
    with contextlib.suppress(TypeError, ValueError):
        if method == "filter":
            band = Filter(arguments.get("l_freq"), arguments.get("h_freq"), **known)
            n_taps = len(band.taps(frequency)[0])
        else:
            window = LENGTH_FACTORS[known.get("fir_window", "hamming")]
            widths = 2 * window / float(arguments.get("trans_bandwidth", 1.0))
            n_taps = taps_in(known.get("filter_length", "auto"), widths, frequency)
    return n_taps
