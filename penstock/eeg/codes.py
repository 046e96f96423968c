"""Codes of stimulus channels at another sampling frequency, and how many are lost on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.eeg.filtering.overlap import Place

STRETCH = 1 << 16
"""Samples of a stimulus channel taken at once."""


def codes_lost(old: float, new: float) -> str:
    """What is told where codes of stimulus channels do not survive another frequency [Hz]."""
    return (
        f"{{count}} codes of stimulus channels are lost between {old:g} and {new:g} Hz, because "
        "several fall on one sample: find them before resampling (TriggerDetector), keep them as "
        "events, or keep a higher frequency"
    )


def rises(values: np.ndarray, before: Any) -> int:
    """Codes that begin in a stretch of a stimulus channel, as `mne.find_events` counts them.

    `before` is the value before the stretch.
    """
    whole = np.rint(values)
    return int(np.count_nonzero(whole[1:] > whole[:-1])) + int(whole[0] > np.rint(before))


def take_codes(rows: np.ndarray, out: np.ndarray, n_new: int, place: Place) -> int:
    """Stimulus channels: the first non-zero value of the stretch that each new sample stands for.

    The rule of `mne.io.Raw.resample` (``_resample_stim_channels``). Returns how many codes fewer
    begin in the result.
    """
    first, size = place.first, place.size
    ratio = n_new / size
    lost = 0
    for begin in range(0, out.shape[-1], STRETCH):
        end = min(out.shape[-1], begin + STRETCH)
        # (the sample before is taken along, to see whether a code begins with the first)
        extra = int(place.out_first + begin > 0)
        numbers = np.arange(place.out_first + begin - extra, place.out_first + end + 1)
        edges = np.minimum((numbers / ratio).astype(np.int64), size - 1)
        if numbers[-1] >= n_new:
            edges[-1] = size
        low, high = int(edges[0]), int(max(edges[-1], edges[-2] + 1))
        for row, target in zip(rows, out, strict=True):
            part = row[low - first : high - first]
            following = np.where(part != 0, np.arange(len(part)), len(part))
            following = np.minimum.accumulate(following[::-1])[::-1]
            starts = edges[:-1] - low
            found = following[starts]
            codes = part[np.where(found < edges[1:] - low, found, starts)]
            target[begin:end] = codes[extra:]
            begins = int(edges[extra]) - low
            known = part[begins : int(edges[-1]) - low]
            if len(known):
                lost += rises(known, part[max(begins - 1, 0)])
            lost -= rises(codes[extra:], codes[0])
    return lost
