"""Average artifact subtraction (AAS): what repeats with the scanner is averaged and subtracted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from penstock.dataset import sampling_frequency
from penstock.eeg.filtering.overlap import missing_stretches
from penstock.eeg.picks import (
    bad_rows,
    channel_kinds,
    channel_names,
    floating_outline,
    pick_mask,
    unknown_channel,
)
from penstock.eeg.scanner_artifact.alignment import (
    EpochTransform,
    combine_offsets,
    estimate_offsets,
)
from penstock.eeg.scanner_artifact.templates import EpochRows, block_weights, sliding_weights
from penstock.eeg.scanner_artifact.triggers import (
    ChannelReader,
    check_finite,
    trigger_positions,
    trigger_statistics,
)
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

BATCH = 16
"""Most epochs corrected at a time."""

LONGEST_PERIOD = 4
"""Epochs that follow after more than this many artifact lengths belong to another acquisition."""

ELECTRODES = frozenset(
    {"eeg", "eog", "ecg", "emg", "ecog", "seeg", "dbs", "bio", "mag", "grad", "ref_meg", "csd"}
)
"""Channel types that pick up an artifact; stimulus and auxiliary channels are left as they are."""


@dataclass(frozen=True)
class Epochs:
    """Where the epochs of a recording lie: what `AASCorrection.prepare` returns."""

    starts: np.ndarray
    """First sample of each epoch, aligned, int64 (n_epochs,)."""
    fractions: np.ndarray
    """What alignment leaves below one sample, in -0.5 ... 0.5, float64 (n_epochs,)."""
    stops: np.ndarray
    """One past the last sample that is corrected for each epoch: its end, or the next start."""
    periods: np.ndarray
    """One past the last sample before the next epoch; the epoch's own end at a long pause."""
    length: int
    """Samples of an epoch."""
    complete: tuple[int, int]
    """First and one past last epoch that lies whole inside the recording: these make templates."""
    picks: np.ndarray
    """Which channels are corrected, bool (n_channels,)."""
    references: tuple[str, ...]
    """Channels that were used to align."""
    offset_rms: float
    """Root mean square of the alignment [samples]."""


@dataclass(frozen=True, repr=False)
class AASCorrection(Processor):
    """Subtract the average of a repeating artifact from every channel.

    For every epoch the neighbouring epochs that resemble their mean are averaged, and the average
    (the template) is subtracted on the epoch's own stretch, from its trigger to the next one, and
    never beyond the artifact's length. Epochs are first aligned, by default to fractions of a
    sample, so that no upsampling is needed.

    Parameters
    ----------
    window_size : int, default 30
        Epochs from which a template is chosen, the corrected one included.
    correlation_threshold : float, default 0.975
        Epochs enter the template if their correlation (Pearson) with the mean is higher. Where
        fewer than 5 do, the best 5.
    alignment : {"fractional", "integer", "none"}, default "fractional"
        ``"fractional"``: offsets of the epochs are estimated as real numbers, common to all
        channels, and undone by a Fourier shift. ``"integer"``: whole samples. ``"none"``: the
        nearest sample to the trigger.
    template : {"sliding", "block"}, default "sliding"
        ``"sliding"``: each epoch has a window centred on it (moved inwards at the ends of the
        recording); chosen are those that correlate with the mean of the window. ``"block"``:
        windows side by side, one template each; beginning with its first 5 epochs, every epoch
        that correlates with the mean of those chosen so far joins them.
    relative_window_position : float, default 0.0
        Moves the window by this part of its width; 0.5 is later, -0.5 is earlier.
    artifact_to_trigger_offset : float, default 0.0
        From a trigger to the beginning of its artifact [s]; negative where it begins earlier.
    artifact_length : float, optional
        Length of the artifact [s]. Default: what the trigger distances say.
    search_window : float, default 0.001
        Largest alignment [s], either way; at least one sample.
    reference_channels : int or tuple of str, default 4
        Channels to align on: how many, evenly spread over the corrected EEG channels, or their
        names. Bad channels are not chosen.
    picks : str or tuple of str, optional
        Names or types of channels to correct. Default: all electrodes, which includes EOG, ECG and
        EMG and bad channels; not stimulus, respiration and other auxiliary channels.

    Raises
    ------
    ValueError
        Without triggers, with fewer than three whole epochs, without a channel to align on, and for
        samples that are not finite in a channel that is not marked bad (with channel and time); in
        bad channels they become NaN and the rest is corrected.

    Notes
    -----
    The method is Allen, Josephs & Turner, NeuroImage 12:230 (2000). ``template="block"`` selects as
    FACETpy's ``AASCorrection`` does; otherwise that differs: (a) its docstring promises a sliding
    window but one template serves a whole block, which is what ``"block"`` is for; (b) it aligns
    by whole samples on the first channel of whatever it is given, so results depend on how it is
    run: here offsets are found once for the recording, from several channels; (c) it leaves EOG
    channels uncorrected in one mode and ECG in all; (d) it subtracts overlapping epochs twice; (e)
    a last block of a single epoch would subtract that epoch from itself: the last block is moved
    inwards to full width instead.

    FACETpy takes epochs relative to the mean of the channel. Here their level is that against the
    mean of the signal from each trigger to the next: the same after a high-pass filter, but drift
    and electrode offsets stay where they are. Without gaps between epochs the template has zero
    mean.

    Epochs that the ends of the recording cut off are corrected where they exist if at least half is
    there, and enter no template; the signal outside all epochs is returned as it is.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.eeg.scanner_artifact.triggers import with_triggers
    >>> artifact = np.tile(np.hanning(100) * np.sin(np.arange(100)), 10)
    >>> ds = ps.make_dataset(artifact[None].astype("float32"), sampling_frequency=100.0)
    >>> ds = with_triggers(ds, np.arange(10.0))
    >>> clean = ps.Pipeline([AASCorrection(window_size=6)])(ds)
    >>> bool(abs(clean.signal).max() < 1e-3)
    True
    """

    core_dims: ClassVar[tuple[str, ...]] = ("time",)
    overwrites: ClassVar[bool] = True
    in_place: ClassVar[bool] = True
    # The rows of a window and four arrays of a batch of epochs, of one channel at a time.
    row_scratch: ClassVar[float] = 1.75

    window_size: int = 30
    correlation_threshold: float = 0.975
    alignment: Literal["fractional", "integer", "none"] = "fractional"
    template: Literal["sliding", "block"] = "sliding"
    relative_window_position: float = 0.0
    artifact_to_trigger_offset: float = 0.0
    artifact_length: float | None = None
    search_window: float = 0.001
    reference_channels: int | tuple[str, ...] = 4
    picks: str | tuple[str, ...] | None = None

    def validate(self) -> None:
        """Refuse windows, thresholds and lengths that mean nothing."""
        if self.window_size < 2:
            raise ValueError(
                f"window_size={self.window_size} must be at least 2 epochs: the template of a "
                "single epoch is that epoch"
            )
        if not -1 <= self.correlation_threshold < 1:
            raise ValueError(
                f"correlation_threshold={self.correlation_threshold} must be in [-1, 1)"
            )
        if self.search_window < 0:
            raise ValueError(f"search_window={self.search_window} must not be negative")
        if self.artifact_length is not None and not self.artifact_length > 0:
            raise ValueError(f"artifact_length={self.artifact_length} must be positive")
        if self.reference_channels in (0, ()) or (
            isinstance(self.reference_channels, int) and self.reference_channels < 0
        ):
            raise ValueError(
                f"reference_channels={self.reference_channels!r} must name or count at least one "
                "channel: use alignment='none' to trust the triggers"
            )

    @property
    def scratch_bytes(self) -> int:  # type: ignore[override]
        """Chunks of scalar products, and the products of a window's epochs with each other."""
        return (3 << 20) + 32 * (self.window_size + 2 * BATCH) ** 2

    # ------------------------------------------------------------------ once a recording

    def prepare(self, ds: xr.Dataset) -> Epochs:
        """Align the epochs; reads the reference channels, one after the other."""
        starts, length = self._nominal(ds)
        size = ds.sizes["time"]
        inside = np.minimum(starts + length, size) - np.maximum(starts, 0)
        starts = starts[inside >= (length + 1) // 2]
        n_complete = int(np.count_nonzero((starts >= 0) & (starts + length <= size)))
        if n_complete < 3:
            raise ValueError(
                f"{n_complete} whole epochs of {length} samples lie inside the recording and an "
                "average needs at least 3: check the triggers and artifact_length"
            )
        picks = self._picked(ds)
        search = self._search(ds, starts)
        references: list[int] = []
        offsets = np.zeros(len(starts))
        if self.alignment != "none" and search > 0:
            references = self._references(ds, picks)
            estimates = [
                self._channel_offsets(ds, number, starts, length, search) for number in references
            ]
            offsets = combine_offsets(
                np.stack([offset for offset, _ in estimates]),
                np.stack([weight for _, weight in estimates]),
            )
        whole = np.rint(offsets).astype(np.int64)
        fractional = self.alignment == "fractional"
        starts = starts + whole
        complete = np.flatnonzero((starts >= 0) & (starts + length <= size))
        ends = starts + length
        following = np.append(starts[1:], ends[-1])
        return Epochs(
            starts=starts,
            fractions=offsets - whole if fractional else np.zeros(len(starts)),
            stops=np.minimum(ends, np.append(starts[1:], size)),
            periods=np.where(
                following - starts <= LONGEST_PERIOD * length, np.maximum(following, ends), ends
            ),
            length=length,
            complete=(int(complete[0]), int(complete[-1]) + 1),
            picks=picks,
            references=tuple(str(channel_names(ds)[number]) for number in references),
            offset_rms=float(np.sqrt(np.mean((offsets if fractional else whole) ** 2))),
        )

    def _nominal(self, ds: xr.Dataset) -> tuple[np.ndarray, int]:
        """First sample of every epoch by its trigger, and the length of an epoch [samples]."""
        frequency = sampling_frequency(ds)
        positions = trigger_positions(ds) + self.artifact_to_trigger_offset * frequency
        starts = np.unique(np.rint(positions).astype(np.int64))
        if len(starts) < 3:
            raise ValueError(
                f"{len(starts)} triggers are too few to average, at least 3 are needed: "
                "check the regex of TriggerDetector"
            )
        length = self.artifact_length or ds["trigger_time"].attrs.get("artifact_length")
        if length is None:
            return starts, trigger_statistics(starts).artifact_length
        return starts, max(1, round(length * frequency))

    def _search(self, ds: xr.Dataset, starts: np.ndarray) -> int:
        """Largest alignment [samples]; epochs must keep their order."""
        asked = max(1, round(self.search_window * sampling_frequency(ds)))
        return int(min(asked, np.diff(starts).min() // 4 if len(starts) > 1 else asked))

    def _picked(self, ds: xr.Dataset) -> np.ndarray:
        """Which channels are corrected."""
        kinds = channel_kinds(ds)
        if self.picks is not None or kinds is None:
            return pick_mask(ds, self.picks, "AASCorrection")
        return np.isin(kinds, list(ELECTRODES))

    def _references(self, ds: xr.Dataset, picks: np.ndarray) -> list[int]:
        """Positions of the channels to align on."""
        names, kinds = channel_names(ds), channel_kinds(ds)
        if not isinstance(self.reference_channels, int):
            for name in self.reference_channels:
                if name not in names:
                    raise ValueError(
                        f"AASCorrection: reference_channels: {unknown_channel(name, names, None)}"
                    )
            return [int(np.flatnonzero(names == name)[0]) for name in self.reference_channels]
        good = picks.copy()
        if "bad" in ds.variables:
            good &= ~np.asarray(ds["bad"].values, dtype=bool)
        if kinds is not None and np.any(good & (kinds == "eeg")):
            good &= kinds == "eeg"
        if not good.any():
            raise ValueError(
                "AASCorrection: there is no channel to align on, none is corrected or all are "
                "marked bad: name some in reference_channels, or use alignment='none'"
            )
        candidates = np.flatnonzero(good)
        spread = (np.arange(self.reference_channels) + 0.5) / self.reference_channels
        chosen = candidates[(spread * len(candidates)).astype(np.int64)]
        return [int(number) for number in np.unique(chosen)]

    def _channel_offsets(
        self, ds: xr.Dataset, number: int, starts: np.ndarray, length: int, search: int
    ) -> tuple[np.ndarray, np.ndarray]:
        reader = ChannelReader(ds, number)
        name = str(channel_names(ds)[number])

        def read(start: int, stop: int) -> np.ndarray:
            samples = reader.read(start, stop)
            check_finite(samples, start, name, ds)
            return samples

        return estimate_offsets(
            read, reader.size, starts, length, search, fractional=self.alignment == "fractional"
        )

    # ------------------------------------------------------------------ lazily

    def outline(self, ds: xr.Dataset, state: Epochs | None) -> xr.Dataset:
        """The same dataset; whole numbers become float32."""
        return floating_outline(ds, "AASCorrection")

    def margin(self, ds: xr.Dataset) -> int | None:
        """Samples from an epoch to the far end of its window; None while triggers are unknown."""
        if "trigger_time" not in ds.variables or ds.sizes["trigger"] < 3:
            return None
        starts, length = self._nominal(ds)
        # a window at the ends of the recording lies wholly on one side of its epoch
        reach = int(np.ceil(self.window_size * (1 + abs(self.relative_window_position)))) + 1
        reach = min(reach, len(starts) - 1)
        widest = int((starts[reach:] - starts[:-reach]).max())
        pad = EpochTransform(length, self.alignment == "fractional").pad
        slack = 2 * pad + 2 * (self._search(ds, starts) + 2)
        return min(widest + length + slack, int(ds.sizes["time"]))

    # ------------------------------------------------------------------ a block

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        """Correct the picked channels of a block, in place."""
        epochs: Epochs = ctx.state
        if block.dtype not in (np.float32, np.float64):
            block = block.astype(np.float32)
        first, _ = ctx.span()
        low, high = ctx.output_span()
        targets = (
            int(np.searchsorted(epochs.stops, low, side="right")),
            int(np.searchsorted(epochs.starts, high)),
        )
        names = ctx.take("channel", channel_names(ctx.dataset))
        bad = bad_rows(ctx)
        for channel in np.flatnonzero(ctx.take("channel", epochs.picks)):
            check = partial(check_finite, channel=str(names[channel]), ds=ctx.dataset)
            # (a channel marked bad is corrected where it has values, as if the others were 0)
            missing = list(missing_stretches(block[channel])) if bad[channel] else []
            for start, stop in missing:
                block[channel, start:stop] = 0
            self._correct(block[channel], first, epochs, targets, check)
            for start, stop in missing:
                block[channel, start:stop] = np.nan
        return block

    def _windows(self, epochs: Epochs) -> tuple[np.ndarray, np.ndarray]:
        """First and one past last epoch of the window of every epoch."""
        begin, end = epochs.complete
        width = min(self.window_size, end - begin)
        low = np.arange(len(epochs.starts))
        shift = int(width * self.relative_window_position)
        low = low - width // 2 if self.template == "sliding" else low - (low - begin) % width
        low = np.clip(low + shift, begin, end - width)
        return low, low + width

    def _correct(
        self,
        row: np.ndarray,
        first: int,
        epochs: Epochs,
        targets: tuple[int, int],
        check: Callable[[np.ndarray, int], None],
    ) -> None:
        """Correct the epochs `targets` of one channel whose samples begin at `first`."""
        begin, end = targets
        if begin >= end:
            return
        transform = EpochTransform(epochs.length, self.alignment == "fractional")
        weigh = sliding_weights if self.template == "sliding" else block_weights
        low, high = self._windows(epochs)
        n_batch = int(np.clip(len(low) // 8, 1, BATCH))
        # Batches begin at multiples of their size in the whole recording, wherever it is cut.
        batches = [
            (max(b, begin), min(b + n_batch, end))
            for b in range(begin - begin % n_batch, end, n_batch)
        ]
        loads = self._loads(batches, high, epochs, transform.pad)
        rows = EpochRows(
            transform,
            capacity=max(load - int(low[b]) for (b, _), load in zip(batches, loads, strict=True)),
            n_batch=n_batch,
            dtype=np.dtype(np.result_type(row.dtype, np.float32)),
            start=int(low[begin]),
        )
        for (b0, b1), load in zip(batches, loads, strict=True):
            while rows.stop < load:
                k = slice(rows.stop, min(rows.stop + n_batch, load))
                starts, periods = epochs.starts[k] - first, epochs.periods[k] - first
                if not rows.load(row, starts, periods, epochs.fractions[k]):
                    a = max(0, int(starts[0]) - transform.pad)
                    b = max(int(starts[-1]) + transform.length + transform.pad, int(periods[-1]))
                    check(row[a:b], first + a)
            start, stop = int(low[b0]), int(high[b1 - 1])
            weights = weigh(
                rows.products(start, stop),
                low[b0:b1] - start,
                high[b0:b1] - start,
                self.correlation_threshold,
            )
            templates = rows.means(weights, start, epochs.fractions[b0:b1])
            for epoch, template in zip(range(b0, b1), templates, strict=True):
                a = int(epochs.starts[epoch]) - first
                inside = slice(max(a, 0), min(int(epochs.stops[epoch]) - first, len(row)))
                row[inside] -= template[inside.start - a : inside.stop - a]

    @staticmethod
    def _loads(
        batches: list[tuple[int, int]], high: np.ndarray, epochs: Epochs, pad: int
    ) -> list[int]:
        """One past the last epoch to load before each batch of epochs is corrected.

        Those of its windows, and those whose pad reaches back into the batch: they must be read
        while the signal there is still the original.
        """
        last = int(high[batches[-1][1] - 1])
        loads = []
        for _, stop in batches:
            beyond = int(np.searchsorted(epochs.starts, epochs.stops[stop - 1] + pad))
            loads.append(max(int(high[stop - 1]), min(beyond, last)))
        return loads
