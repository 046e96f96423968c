"""Stretches between pauses and joins, which are filtered, resampled and scaled apart.

Where an amplifier paused or two recordings were joined, neighbouring samples are no neighbours in
time: a filter that runs across smears the step into both sides. MNE-Python therefore filters the
stretches between annotations such as ``BAD_ACQ_SKIP`` and ``EDGE boundary`` apart, and so do the
processors here (parameter ``skip_by_annotation``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.dataset import sampling_frequency

if TYPE_CHECKING:
    import xarray as xr

Skip = str | tuple[str, ...]

SKIPPED = ("edge", "bad_acq_skip")
"""How labels begin that part a recording, upper or lower case: MNE-Python's default."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring samples ``[start, stop)``."""

    start: int
    stop: int
    skipped: bool = False
    """Whether they lie inside a pause: filters leave them as they are."""

    @property
    def size(self) -> int:
        """Samples."""
        return self.stop - self.start


def check_skip(skip: Skip) -> None:
    """Refuse what could not be the beginning of a label."""
    for label in (skip,) if isinstance(skip, str) else skip:
        if not label:
            raise ValueError(
                "skip_by_annotation holds an empty label, which every event begins with: give () "
                "to treat the recording as one stretch"
            )


def stretches(ds: xr.Dataset, skip: Skip = SKIPPED) -> tuple[Stretch, ...]:
    """The stretches of a recording, in order; together they are all of its samples.

    Parameters
    ----------
    ds : xarray.Dataset
        With a sampled ``time``; events are looked for in ``event_onset``, ``event_duration`` and
        ``event_label``.
    skip : str or tuple of str
        How labels begin that part the recording, upper or lower case alike. ``()``: none does.

    Notes
    -----
    The rule of MNE-Python's ``skip_by_annotation``: an event that lasts is a stretch of its own
    (`Stretch.skipped`), one without duration is a join.
    """
    n = int(ds.sizes["time"])
    onsets, ends = _marks(ds, skip)
    if not len(onsets):
        return (Stretch(0, n),)
    frequency = sampling_frequency(ds)
    return _between(_samples(onsets, frequency, n), _samples(ends, frequency, n), n)


def resampled_stretches(
    ds: xr.Dataset, skip: Skip, new: float, n_new: int
) -> tuple[tuple[Stretch, Stretch], ...]:
    """The stretches of a recording, each beside what it becomes at another frequency [Hz].

    The joins of the result lie where `stretches` finds them in it afterwards.
    """
    old, n_old = sampling_frequency(ds), int(ds.sizes["time"])
    onsets, ends = _marks(ds, skip)
    times = np.unique(np.concatenate([onsets, ends]))
    before = [0, *_samples(times, old, n_old).tolist(), n_old]
    after = [0, *_samples(times, new, n_new).tolist(), n_new]
    pairs: list[tuple[Stretch, Stretch]] = []
    done = 0
    for (start, stop), end in zip(itertools.pairwise(before), after[1:], strict=True):
        # (joins closer than a sample: what lies between them is no stretch)
        if stop > start and end > done:
            pairs.append((Stretch(start, stop), Stretch(done, end)))
            done = end
    if done < n_new:
        last, target = pairs.pop() if pairs else (Stretch(0, n_old), Stretch(0, 0))
        pairs.append((last, Stretch(target.start, n_new)))
    return tuple(pairs)


def _marks(ds: xr.Dataset, skip: Skip) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of the events that part a recording [s from its first sample]."""
    nothing = np.zeros(0)
    beginnings = tuple(text.upper() for text in ((skip,) if isinstance(skip, str) else skip))
    if not beginnings or not {"event_onset", "event_label"} <= set(ds.variables):
        return nothing, nothing
    labels = ds["event_label"].values
    parting = np.array([str(label).upper().startswith(beginnings) for label in labels], dtype=bool)
    if not parting.any() or not ds.sizes["time"]:
        return nothing, nothing
    first = float(ds["time"][0]) if "time" in ds.coords else 0.0
    onsets = np.asarray(ds["event_onset"].values, dtype=np.float64)[parting] - first
    durations = np.zeros_like(onsets)
    if "event_duration" in ds.variables:
        given = np.asarray(ds["event_duration"].values, dtype=np.float64)[parting]
        durations = np.nan_to_num(given, nan=0.0)
    return onsets, onsets + np.maximum(durations, 0.0)


def _samples(seconds: np.ndarray, frequency: float, n: int) -> np.ndarray:
    return np.clip(np.rint(seconds * frequency), 0, n).astype(np.int64)


def _between(onsets: np.ndarray, ends: np.ndarray, n: int) -> tuple[Stretch, ...]:
    edges = np.unique(np.concatenate([[0, n], onsets, ends]))
    depth = np.zeros(len(edges), dtype=np.int64)
    np.add.at(depth, np.searchsorted(edges, onsets), 1)
    np.add.at(depth, np.searchsorted(edges, ends), -1)
    inside = np.cumsum(depth)[:-1] > 0
    found = [
        Stretch(start, stop, bool(skipped))
        for (start, stop), skipped in zip(itertools.pairwise(edges.tolist()), inside, strict=True)
    ]
    return tuple(found) or (Stretch(0, n),)
