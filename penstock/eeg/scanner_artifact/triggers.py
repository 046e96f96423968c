"""Triggers: when the scanner (or a heart beat) started each repetition of an artifact."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from penstock.dataset import SIGNAL, Region, read_region, sampling_frequency
from penstock.eeg.picks import channel_kinds, channel_names, listed
from penstock.processor import Processor

if TYPE_CHECKING:
    import xarray as xr

STRETCH = 1 << 20
"""Samples read at once from a channel that is searched for codes."""


@dataclass(frozen=True)
class TriggerStatistics:
    """What the distances between triggers say about the acquisition."""

    artifact_length: int
    """Samples from a trigger to the end of its artifact."""
    volume_gaps: bool
    """Whether some distances are clearly longer than the others: slices with a pause after each
    volume."""
    slices_per_volume: int | None = None
    """Triggers between two gaps, where there are gaps."""


def trigger_statistics(samples: np.ndarray) -> TriggerStatistics:
    """Artifact length, volume gaps and slices a volume, from trigger positions.

    Distances that differ by at most 3 samples (or a thousandth of their median, so that the answer
    does not depend on the sampling frequency) are regular: the artifact is as long as the longest.
    Otherwise distances above the mean of median and maximum are gaps between volumes, and the
    artifact is as long as the longest of the others.

    Parameters
    ----------
    samples : numpy.ndarray, shape (n_triggers,)
        Increasing trigger positions [samples].

    Returns
    -------
    TriggerStatistics

    Raises
    ------
    ValueError
        With fewer than two triggers.

    Notes
    -----
    The rule of FACETpy's ``TriggerDetector``, with two cases put right: there a single short
    distance (one trigger too many) makes every regular distance a gap, and jitter of one marker
    sample becomes volume gaps once the recording is upsampled.

    Examples
    --------
    >>> import numpy as np
    >>> trigger_statistics(np.array([0, 100, 200, 330, 430, 530, 660]))
    TriggerStatistics(artifact_length=100, volume_gaps=True, slices_per_volume=3)
    """
    distances = np.diff(np.asarray(samples, dtype=np.float64))
    if not len(distances):
        raise ValueError(
            f"{len(samples)} trigger has no distance to another: the artifact length "
            "needs at least two triggers"
        )
    median, longest = float(np.median(distances)), float(distances.max())
    if np.ptp(distances) <= 3 or longest - median <= max(3.0, median / 1000):
        return TriggerStatistics(round(longest), volume_gaps=False)
    border = (median + longest) / 2
    gaps = np.flatnonzero(distances > border)
    counts = np.diff(gaps)
    if not len(counts):
        # a single gap: the volumes before and after it are all there is to count
        counts = np.array([max(gaps[0] + 1, len(distances) - gaps[0])])
    return TriggerStatistics(
        round(float(distances[distances <= border].max())),
        volume_gaps=True,
        slices_per_volume=int(np.median(counts)),
    )


def start_time(ds: xr.Dataset) -> float:
    """Time of the first sample [s]."""
    return float(ds["time"][0])


def trigger_positions(ds: xr.Dataset) -> np.ndarray:
    """Triggers of a dataset in samples from its first one, as fractions (n_triggers,), sorted.

    Raises
    ------
    ValueError
        If no triggers were detected before.
    """
    if "trigger_time" not in ds.variables:
        raise ValueError(
            "the recording has no triggers yet: put TriggerDetector(regex) before this step"
        )
    times = np.unique(np.asarray(ds["trigger_time"].values, dtype=np.float64))
    return (times - start_time(ds)) * sampling_frequency(ds)


def with_triggers(ds: xr.Dataset, times: np.ndarray) -> xr.Dataset:
    """The dataset with its triggers replaced.

    Parameters
    ----------
    ds : xarray.Dataset
        With a sampled ``time``.
    times : array_like, shape (n_triggers,)
        Trigger times [s], on the axis of ``time``.

    Returns
    -------
    xarray.Dataset
        With the coordinate ``trigger_time`` on the dim ``trigger``; its attributes hold
        ``artifact_length`` [s] and ``volume_gaps`` (with two triggers or more) and
        ``slices_per_volume`` (where there are gaps).

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.zeros((1, 1000), "float32"), sampling_frequency=100.0)
    >>> with_triggers(ds, [1.0, 3.0, 5.0]).trigger_time.attrs["artifact_length"]
    2.0
    """
    times = np.unique(np.asarray(times, dtype=np.float64))
    attrs: dict[str, object] = {"units": "s"}
    if len(times) >= 2:
        frequency = sampling_frequency(ds)
        statistics = trigger_statistics(np.rint((times - start_time(ds)) * frequency))
        attrs["artifact_length"] = statistics.artifact_length / frequency
        attrs["volume_gaps"] = statistics.volume_gaps
        if statistics.slices_per_volume is not None:
            attrs["slices_per_volume"] = statistics.slices_per_volume
    ds = ds.drop_dims("trigger", errors="ignore")
    return ds.assign_coords(trigger_time=("trigger", times, attrs))


class ChannelReader:
    """Stretches of one channel of a lazy dataset.

    A channel that is one chunk along time is computed once and kept, because every further read of
    a part would compute the whole of it again; any other is read stretch by stretch.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``signal`` (channel, time).
    channel : int
        Position of the channel.
    """

    def __init__(self, ds: xr.Dataset, channel: int):
        self.ds = ds
        self.channel = channel
        self.size = int(ds.sizes["time"])
        chunks = ds[SIGNAL].chunksizes.get("time")
        self._row = self._read(0, self.size) if chunks is not None and len(chunks) == 1 else None

    def _read(self, start: int, stop: int) -> np.ndarray:
        region: Region = {
            "channel": slice(self.channel, self.channel + 1),
            "time": slice(start, stop),
        }
        return read_region(self.ds, region).reshape(-1)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``[start, stop)``, inside the recording."""
        if self._row is not None:
            return self._row[start:stop]
        return self._read(start, stop)

    def stretches(self, length: int = STRETCH) -> Iterator[tuple[int, np.ndarray]]:
        """The whole channel in order, as (first sample, samples)."""
        for start in range(0, self.size, length):
            yield start, self.read(start, min(self.size, start + length))


def check_finite(values: np.ndarray, start: int, channel: str, ds: xr.Dataset) -> None:
    """Raise if a stretch that begins at sample `start` holds NaN or infinity, with where."""
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        time = start_time(ds) + (start + int(wrong[0])) / sampling_frequency(ds)
        raise ValueError(
            f"channel {channel!r} has a non-finite sample ({values[wrong[0]]}) at {time:.6g} s: "
            "interpolate or replace it, or leave the channel out with picks"
        )


def code_onsets(reader: ChannelReader) -> tuple[np.ndarray, np.ndarray]:
    """Where a stimulus channel rises to a new code.

    A code begins where the value (rounded to whole numbers) is higher than the one before, as in
    `mne.find_events`; a recording that begins with a code counts as one more.

    Returns
    -------
    positions, codes : numpy.ndarray of int64, shape (n_codes,)
    """
    positions, codes = [], []
    previous = 0
    name = str(channel_names(reader.ds)[reader.channel])
    for start, values in reader.stretches():
        check_finite(values, start, name, reader.ds)
        whole = np.rint(values).astype(np.int64)
        rises = np.flatnonzero(np.diff(whole, prepend=previous) > 0)
        positions.append(start + rises)
        codes.append(whole[rises])
        previous = int(whole[-1])
    if not positions:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(positions), np.concatenate(codes)


@dataclass(frozen=True, repr=False)
class TriggerDetector(Processor):
    """Find the triggers of a repeating artifact among the events or in a stimulus channel.

    The signal is passed on as it is. Events are searched first; a stimulus channel is read only
    when `channel` names one, or when no event label matches and the recording has a channel of type
    ``stim``. Times outside the recording are left out, equal times count once.

    Parameters
    ----------
    regex : str
        Regular expression, searched (`re.search`) in every event label or in the code of the
        stimulus channel written as text (``r"^1$"`` for code 1).
    channel : str, optional
        Stimulus channel to search instead of the events.

    Raises
    ------
    ValueError
        If nothing matches: with the labels or codes that exist.

    Notes
    -----
    Adds the coordinate ``trigger_time`` [s] on the dim ``trigger``, with the attributes of
    `with_triggers`. Times are seconds, so resampling later never moves them. FACETpy's
    ``TriggerDetector`` prefers the stimulus channel; here events come first, because a matching
    label is the more specific statement.

    Examples
    --------
    >>> import numpy as np, pandas as pd, penstock as ps
    >>> events = pd.DataFrame({"onset": [1.0, 3.0, 5.0], "duration": 0.0, "label": "Sync On"})
    >>> ds = ps.make_dataset(np.zeros((2, 800), "float32"), sampling_frequency=100.0, events=events)
    >>> TriggerDetector("Sync").outline(ds, None).trigger_time.values
    array([1., 3., 5.])
    """

    selects: ClassVar[bool] = True

    regex: str
    channel: str | None = None

    def validate(self) -> None:
        """Refuse what is no regular expression."""
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(
                f"regex {self.regex!r} is not a regular expression ({error}): "
                "escape special characters with a backslash"
            ) from error

    def prepare(self, ds: xr.Dataset) -> np.ndarray:
        """Trigger times [s]; reads at most one channel, in bounded stretches."""
        number = self._stimulus_channel(ds)
        if number is None:
            return self._event_times(ds)
        positions, codes = code_onsets(ChannelReader(ds, number))
        matches = np.array([bool(re.search(self.regex, str(code))) for code in codes], dtype=bool)
        if not matches.any():
            name = str(channel_names(ds)[number])
            found = _counted(str(code) for code in codes)
            raise ValueError(
                f"no code of stimulus channel {name!r} matches regex {self.regex!r} "
                f"(codes: {found}): pass a regex that matches one of them"
            )
        return start_time(ds) + positions[matches] / sampling_frequency(ds)

    def outline(self, ds: xr.Dataset, state: np.ndarray | None) -> xr.Dataset:
        """The dataset with ``trigger_time``; without it until a stimulus channel is read."""
        if state is None:
            if self._stimulus_channel(ds) is not None:
                return ds.drop_dims("trigger", errors="ignore")
            state = self._event_times(ds)
        return with_triggers(ds, state)

    def _stimulus_channel(self, ds: xr.Dataset) -> int | None:
        """Position of the channel to read, None for the events."""
        if self.channel is not None:
            names = channel_names(ds)
            if self.channel not in names:
                raise ValueError(
                    f"there is no channel {self.channel!r}: stimulus channels are "
                    f"{listed(names[_stimulus(ds)]) or 'none'}"
                )
            return int(np.flatnonzero(names == self.channel)[0])
        stimulus = _stimulus(ds)
        if len(stimulus) and not self._matching(ds).any():
            return int(stimulus[0])
        return None

    def _matching(self, ds: xr.Dataset) -> np.ndarray:
        if "event_label" not in ds.variables:
            return np.zeros(0, dtype=bool)
        labels = ds["event_label"].values
        return np.array([bool(re.search(self.regex, str(label))) for label in labels], dtype=bool)

    def _event_times(self, ds: xr.Dataset) -> np.ndarray:
        matches = self._matching(ds)
        if not matches.any():
            labels = ds["event_label"].values if len(matches) else ()
            found = _counted(map(str, labels))
            raise ValueError(
                f"no event label matches regex {self.regex!r} (labels: {found}): pass a regex "
                "that matches one of them, or name a stimulus channel with channel="
            )
        times = np.asarray(ds["event_onset"].values, dtype=np.float64)[matches]
        positions = np.rint((times - start_time(ds)) * sampling_frequency(ds))
        inside = (positions >= 0) & (positions < ds.sizes["time"])
        if not inside.any():
            raise ValueError(
                f"all {len(times)} events that match regex {self.regex!r} lie outside the "
                "recording: select events and signal together, with ds.sel(time=...)"
            )
        return times[inside]


def _stimulus(ds: xr.Dataset) -> np.ndarray:
    """Positions of the stimulus channels."""
    kinds = channel_kinds(ds)
    return np.zeros(0, np.int64) if kinds is None else np.flatnonzero(kinds == "stim")


def _counted(labels: Iterator[str] | map[str]) -> str:
    """Labels with their counts, the most frequent first, at most ten."""
    counts = Counter(labels).most_common()
    shown = ", ".join(f"{label!r} {count}×" for label, count in counts[:10])
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    return (shown + more) or "none"
