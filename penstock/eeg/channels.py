"""Keeping channels and stretches of time, re-referencing, scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from penstock.dataset import (
    SIGNAL,
    Region,
    indexer_length,
    sampled_coordinate,
    sampling_frequency,
)
from penstock.dates import ATTRIBUTE, moved_date, read_date
from penstock.eeg.described import events_of_channels_kept, with_reference
from penstock.eeg.picks import (
    ELECTRODE_TYPES,
    TYPE_GROUPS,
    channel_kinds,
    channel_names,
    floating_outline,
    listed,
    loop_dims,
    pick_mask,
    unknown_channel,
)
from penstock.memory.buffers import scratch_buffer
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

STRETCH = 1 << 14
"""Samples of all channels that are re-referenced at once."""


# ---------------------------------------------------------------------- selections


@dataclass(frozen=True, repr=False)
class PickChannels(Processor):
    """Keep some channels, in the order given.

    Parameters
    ----------
    channels : str or list of str
        Names or types of channels. Channels of a type keep their order.
    on_missing : {"raise", "ignore"}, default "raise"
        What to do about names that the recording does not have.

    Raises
    ------
    ValueError
        If a name is missing (unless ignored), or nothing is left.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> names = {"channel": ["Fz", "Cz", "Pz"]}
    >>> ds = ps.make_dataset(np.zeros((3, 100)), sampling_frequency=100.0, coords=names)
    >>> ps.Pipeline([ps.eeg.PickChannels(("Pz", "Fz"))])(ds).channel.values.tolist()
    ['Pz', 'Fz']
    """

    selects: ClassVar[bool] = True

    channels: str | tuple[str, ...]
    on_missing: Literal["raise", "ignore"] = "raise"

    def positions(self, ds: xr.Dataset) -> np.ndarray:
        """Positions of the channels that are kept, in their new order."""
        kept = _named_positions(ds, self.channels, self.on_missing, type(self).__name__)
        if not len(kept):
            raise ValueError(
                f"{type(self).__name__}: none of {self.channels!r} is in the recording, which has "
                f"{listed(channel_names(ds))}"
            )
        return kept

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        return events_of_channels_kept(ds.isel(channel=self.positions(ds)))

    def source_region(self, region: Region, ds: xr.Dataset) -> Region:
        return selected_channels(self.positions(ds), region, ds)


def selected_channels(positions: np.ndarray, region: Region, ds: xr.Dataset) -> Region:
    """The part of the input that a region needs of a result whose channels lay at `positions`."""
    wanted = positions[region["channel"]] if "channel" in region else positions
    source: Region = {
        str(dim): region.get(str(dim), slice(0, ds.sizes[dim])) for dim in ds[SIGNAL].dims
    }
    contiguous = len(wanted) and bool((np.diff(wanted) == 1).all())
    source["channel"] = slice(int(wanted[0]), int(wanted[-1]) + 1) if contiguous else wanted
    return source


@dataclass(frozen=True, repr=False)
class DropChannels(PickChannels):
    """Leave some channels out.

    Parameters
    ----------
    channels : str or list of str
        Names or types of channels.
    on_missing : {"raise", "ignore"}, default "raise"
        What to do about names that the recording does not have.

    Raises
    ------
    ValueError
        If a name is missing (unless ignored), or nothing is left.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> names = {"channel": ["Fz", "Cz", "ECG"]}
    >>> ds = ps.make_dataset(np.zeros((3, 100)), sampling_frequency=100.0, coords=names)
    >>> ps.Pipeline([ps.eeg.DropChannels("ECG")])(ds).channel.values.tolist()
    ['Fz', 'Cz']
    """

    def positions(self, ds: xr.Dataset) -> np.ndarray:
        dropped = _named_positions(ds, self.channels, self.on_missing, "DropChannels")
        kept = np.setdiff1d(np.arange(ds.sizes["channel"]), dropped)
        if not len(kept):
            raise ValueError("DropChannels: every channel would be dropped, none would be left")
        return kept


def _named_positions(
    ds: xr.Dataset, channels: str | tuple[str, ...], on_missing: str, name: str
) -> np.ndarray:
    if "channel" not in ds[SIGNAL].dims:
        raise ValueError(
            f"{name} needs a dim 'channel', but the data have {tuple(map(str, ds[SIGNAL].dims))}"
        )
    names, kinds = channel_names(ds), channel_kinds(ds)
    found: list[int] = []
    for wanted in (channels,) if isinstance(channels, str) else channels:
        here = np.flatnonzero(names == wanted)
        if not len(here) and kinds is not None:
            here = np.flatnonzero(np.isin(kinds, TYPE_GROUPS.get(wanted, (wanted,))))
        if not len(here) and on_missing == "raise":
            raise ValueError(
                f"{name}: {unknown_channel(wanted, names, kinds)} "
                "(on_missing='ignore' passes over missing ones)"
            )
        found += [int(i) for i in here if int(i) not in found]
    return np.asarray(found, dtype=np.int64)


@dataclass(frozen=True, repr=False)
class Crop(Processor):
    """Keep a stretch of time. As in `mne.io.Raw.crop`, time begins at 0 afterwards.

    Events and triggers move along; those outside are left out, and events that reach over an end
    are cut to it. Channels of another sampling frequency are cropped to the same seconds. The
    measurement date is that of the first sample that is kept.

    Parameters
    ----------
    tmin : float, default 0.0
        Start [s] after the first sample, rounded to the nearest sample.
    tmax : float, optional
        End [s] after the first sample, rounded likewise. Default: the end of the recording, whose
        last sample is then always kept (MNE drops it where ``include_tmax=False``).
    include_tmax : bool, default True
        Whether the sample at `tmax` is kept.

    Raises
    ------
    ValueError
        If the stretch is empty or reaches beyond the recording.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.zeros((2, 1000)), sampling_frequency=100.0)
    >>> ps.Pipeline([ps.eeg.Crop(1.0, 2.0)])(ds).sizes["time"]
    101
    """

    version: ClassVar[int] = 2
    selects: ClassVar[bool] = True

    tmin: float = 0.0
    tmax: float | None = None
    include_tmax: bool = True

    def validate(self) -> None:
        if self.tmin < 0:
            raise ValueError(f"tmin={self.tmin:g} s must not be negative: 0 is the first sample")
        if self.tmax is not None and self.tmax < self.tmin:
            raise ValueError(f"tmax={self.tmax:g} s must not be before tmin={self.tmin:g} s")

    def span(self, ds: xr.Dataset, dim: str = "time") -> tuple[int, int]:
        """First and one past last sample that are kept.

        `tmin` and `tmax` count from the first sample along ``time``, in all dims of times.
        """
        if dim != "time":
            return self._other_span(ds, dim)
        frequency, n = sampling_frequency(ds), ds.sizes["time"]
        start, stop = round(self.tmin * frequency), n
        if self.tmax is not None:
            stop = round(self.tmax * frequency) + int(self.include_tmax)
        if start >= n or stop > n:
            given = f"tmin={self.tmin:g} s" if start >= n else f"tmax={self.tmax:g} s"
            raise ValueError(
                f"Crop: {given} lies beyond the recording, whose last sample is at "
                f"{(n - 1) / frequency:g} s"
                + ("" if start >= n else ": leave tmax out to keep everything to the end")
            )
        if stop <= start:
            raise ValueError(
                f"Crop: no sample lies between tmin={self.tmin:g} and tmax={self.tmax:g} s at "
                f"{frequency:g} Hz (include_tmax={self.include_tmax}): widen the stretch"
            )
        return start, stop

    def _other_span(self, ds: xr.Dataset, dim: str) -> tuple[int, int]:
        """The samples of another rate that lie in the same seconds, which may be none."""
        n, first = ds.sizes[dim], _first_time(ds, "time")
        if not n:
            return 0, 0
        rate = sampling_frequency(ds, dim)
        early = first - _first_time(ds, dim)
        start = round((early + self.tmin) * rate)
        if self.tmax is None:
            # a sample that lasts beyond the end belongs to it
            length = ds.sizes["time"] / sampling_frequency(ds)
            stop = math.ceil((early + length) * rate - 1e-6)
        else:
            stop = round((early + self.tmax) * rate) + int(self.include_tmax)
        low = min(max(start, 0), n)
        return low, min(max(stop, low), n)

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        frequency = sampling_frequency(ds)
        start, stop = self.span(ds)
        # seconds of the old time coordinate at which the new one begins
        origin = float(ds["time"][start])
        length = (stop - start) / frequency
        cropped = ds.isel(time=slice(start, stop))
        cropped = cropped.assign_coords(
            sampled_coordinate("time", stop - start, frequency, attrs=ds["time"].attrs)
        )
        for dim in [str(dim) for dim in ds.dims if str(dim).startswith("time_")]:
            if not ds.sizes[dim]:
                continue
            low, high = self.span(ds, dim)
            rate = sampling_frequency(ds, dim)
            began = _first_time(ds, dim) + low / rate - origin
            cropped = cropped.isel({dim: slice(low, high)}).assign_coords(
                sampled_coordinate(dim, high - low, rate, began, ds[dim].attrs)
            )
        cropped = _crop_triggers(_crop_events(cropped, origin, length), origin, length)
        return measured_later(cropped, origin)

    def source_region(self, region: Region, ds: xr.Dataset) -> Region:
        start, stop = self.span(ds)
        source: Region = {
            str(dim): region.get(str(dim), slice(0, ds.sizes[dim])) for dim in ds[SIGNAL].dims
        }
        asked = region.get("time", slice(0, stop - start))
        source["time"] = (
            slice(asked.start + start, asked.stop + start)
            if isinstance(asked, slice)
            else asked + start
        )
        return source


def _first_time(ds: xr.Dataset, dim: str) -> float:
    """Seconds at which the first sample along a dim lies."""
    return float(ds[dim][0])


def measured_later(ds: xr.Dataset, seconds: float) -> xr.Dataset:
    """The dataset with its measurement date moved, where it has one.

    A recording of MNE-Python keeps its date and counts how much later its first sample is.
    """
    if not seconds:
        return ds
    if "mne_info" in ds.attrs:
        ds = ds.assign_attrs(first_time=float(ds.attrs.get("first_time", 0.0)) + seconds)
    date = read_date(ds.attrs.get(ATTRIBUTE))
    if date is None:
        return ds
    return ds.assign_attrs({ATTRIBUTE: moved_date(date, seconds).isoformat()})


def _crop_events(ds: xr.Dataset, origin: float, length: float) -> xr.Dataset:
    """Shift events and cut them to ``[0, length]`` as `mne.Annotations.crop` does."""
    if "event_onset" not in ds.variables:
        return ds
    onset = ds["event_onset"].values - origin
    duration = np.zeros_like(onset)
    if "event_duration" in ds.variables:
        duration = ds["event_duration"].values
    end = onset + np.nan_to_num(duration)
    # a rounding error of the shift must not lose an event on the first or last sample
    slack = 1e-9
    kept = (onset <= length + slack) & (end >= -slack)
    ds = ds.isel(event=kept)
    onset, end, duration = onset[kept], end[kept], duration[kept]
    cut = (onset < -slack) | (end > length + slack)
    low, high = np.clip(onset, 0, None), np.clip(end, None, length)
    coords: dict[str, Any] = {"event_onset": ("event", low, ds["event_onset"].attrs)}
    if "event_duration" in ds.variables:
        shown = np.where(cut, np.maximum(high - low, 0), duration)
        coords["event_duration"] = ("event", shown, ds["event_duration"].attrs)
    return ds.assign_coords(coords)


def _crop_triggers(ds: xr.Dataset, origin: float, length: float) -> xr.Dataset:
    if "trigger_time" not in ds.variables:
        return ds
    times = ds["trigger_time"].values - origin
    kept = (times >= -1e-9) & (times < length - 1e-9)
    ds = ds.isel(trigger=kept)
    attrs = ds["trigger_time"].attrs
    return ds.assign_coords(trigger_time=("trigger", np.clip(times[kept], 0, None), attrs))


# ---------------------------------------------------------------------- re-referencing


@dataclass(frozen=True, repr=False)
class Rereference(Processor):
    """Subtract a reference from the EEG channels: their average, or other channels.

    Parameters
    ----------
    channels : str or list of str, default "average"
        ``"average"``, or the names of the channels whose mean becomes the reference. They stay in
        the data.
    picks : str or list of str, optional
        Channels that are re-referenced (and averaged). Default: those of the first type that is
        present among EEG, ECoG, SEEG and DBS.
    exclude_bads : bool, default True
        Leave bad channels out of the average, and as they are (as MNE does), unless they are named
        in `channels` or `picks`.

    Raises
    ------
    ValueError
        If a channel is missing, there is nothing to re-reference, or a reference is not finite.

    Notes
    -----
    The same as `mne.set_eeg_reference`. The mean is accumulated in float64, channel after channel;
    a plan may stream it over blocks of channels.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.array([[1.0, 2.0], [3.0, 6.0]]), sampling_frequency=1.0)
    >>> ps.Pipeline([ps.eeg.Rereference()])(ds).signal.values.tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
    """

    core_dims = ("channel",)
    reduce_dims: ClassVar[tuple[str, ...]] = ("channel",)
    merges: ClassVar[bool] = True
    scratch_bytes: ClassVar[int] = 1 << 20

    channels: str | tuple[str, ...] = "average"
    picks: str | tuple[str, ...] | None = None
    exclude_bads: bool = True

    def masks(self, ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Which channels make the reference, and from which it is subtracted."""
        kinds = channel_kinds(ds)
        if self.picks is not None:
            targets = pick_mask(ds, self.picks, "Rereference")
        elif kinds is None:
            targets = np.ones(ds.sizes["channel"], bool)
        else:
            present = [kind for kind in ELECTRODE_TYPES if (kinds == kind).any()]
            if not present:
                raise ValueError(
                    "Rereference: the recording has no EEG, ECoG, SEEG or DBS channels (its types: "
                    f"{', '.join(sorted(set(kinds)))}): say which to take with picks=..."
                )
            targets = kinds == present[0]
        if self.exclude_bads and "bad" in ds.variables:
            chosen = (self.picks,) if isinstance(self.picks, str) else (self.picks or ())
            targets = targets & (
                ~np.asarray(ds["bad"].values, dtype=bool) | np.isin(channel_names(ds), chosen)
            )
        if not targets.any():
            raise ValueError("Rereference: all channels to re-reference are marked bad")
        if self.channels == "average":
            return targets, targets
        wanted = (self.channels,) if isinstance(self.channels, str) else self.channels
        names = channel_names(ds)
        missing = [name for name in wanted if name not in names]
        if missing or not wanted:
            sentence = (
                unknown_channel(missing[0], names, None) if missing else "no channel is given"
            )
            raise ValueError(f"Rereference: {sentence}")
        return np.isin(names, wanted), targets

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        # the sum over channels in float64: so far, of the next block, of both, and of both together
        others = [region[str(dim)] for dim in ds[SIGNAL].dims if dim != "channel"]
        return 4 * 8 * math.prod(map(indexer_length, others))

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        self.masks(ds)
        return with_reference(floating_outline(ds, "Rereference"))

    def partial(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        references = np.flatnonzero(ctx.take("channel", self.masks(ctx.dataset)[0]))
        total = np.zeros((1, *block.shape[:-1]))
        for part in _stretches(block):
            for channel in references:
                total[0, part] += block[part, ..., channel]
            # (here every reference channel is seen, whichever block of channels it lies in)
            if not np.isfinite(total[0, part]).all():
                self._refuse(block, references, ctx)
        return total

    def combine(self, partials: np.ndarray) -> np.ndarray:
        total: np.ndarray = partials[0]
        for part in partials[1:]:
            total = total + part
        return total

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        masks = self.masks(ctx.dataset)
        references, targets = (ctx.take("channel", mask) for mask in masks)
        n_references = np.count_nonzero(masks[0])
        dtype = block.dtype if block.dtype in (np.float32, np.float64) else np.float32
        out = ctx.empty(block.shape, dtype)
        for part in _stretches(block):
            total = ctx.reduced[0][part]
            mean = scratch_buffer("reference-mean", total.shape, np.float64)
            np.divide(total, n_references, out=mean)
            if not np.isfinite(mean).all():
                self._refuse(block, np.flatnonzero(references), ctx)
            for channel, is_target in enumerate(targets):
                source, target = block[part, ..., channel], out[part, ..., channel]
                if is_target:
                    # cast, subtract, cast: twice as fast as a subtraction that casts
                    row = scratch_buffer("reference-row", mean.shape, np.float64)
                    np.copyto(row, source)
                    row -= mean
                    target[...] = row
                else:
                    target[...] = source
        return out

    def _refuse(self, block: np.ndarray, references: np.ndarray, ctx: Context) -> None:
        names = ctx.take("channel", channel_names(ctx.dataset))
        who, when = "a reference channel", ""
        for channel in references:
            wrong = ~np.isfinite(block[..., channel])
            if not wrong.any():
                continue
            who = f"channel {str(names[channel])!r}"
            loops = loop_dims(ctx.dataset, ("channel",))
            if "time" in loops and "time" in ctx.dataset.coords:
                axes = tuple(axis for axis, dim in enumerate(loops) if dim != "time")
                first, here = int(wrong.any(axis=axes).argmax()), ctx.region["time"]
                position = here.start + first if isinstance(here, slice) else int(here[first])
                when = f", such as at {float(ctx.dataset['time'][position]):g} s"
            break
        raise ValueError(
            f"Rereference: {who} has values that are not finite (NaN or infinite){when}: they "
            "would spoil every channel: interpolate them, or mark the channel bad"
        )


def _stretches(block: np.ndarray) -> Iterator[slice]:
    """Stretches of a block's first axis that stay in the cache, for all channels in turn."""
    length = max(1, STRETCH // max(1, int(np.prod(block.shape[1:-1]))))
    for start in range(0, len(block), length):
        yield slice(start, min(len(block), start + length))
