"""Another sampling frequency: a steep linear-phase filter at any ratio, or the whole FFT.

Times are kept: events and triggers are in seconds and stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import scipy.fft

from penstock.dataset import (
    SIGNAL,
    Region,
    blank_variable,
    sampled_coordinate,
    sampled_index,
    sampling_frequency,
)
from penstock.eeg.codes import codes_lost, take_codes
from penstock.eeg.filtering.any_rate import Cascade, cascade, resample_in_steps
from penstock.eeg.filtering.band import resampled_band
from penstock.eeg.filtering.overlap import (
    Place,
    continued,
    each_matrix,
    missing_stretches,
    runs,
)
from penstock.eeg.filtering.rates import Ratio, rational_ratio, resample_windows
from penstock.eeg.picks import (
    PASSED,
    PICKED,
    TOLERATED,
    channel_kinds,
    floating_outline,
    loop_dims,
    refuse_not_finite,
    row_kinds,
)
from penstock.eeg.stretches import SKIPPED, Stretch, check_skip, resampled_stretches
from penstock.memory.transforms import forget_plans_unless, plan_bytes, transform_bytes
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

# ---------------------------------------------------------------------- processors


@dataclass(frozen=True, repr=False)
class _Resampler(Processor):
    """What all resampling shares; subclasses say the new frequency (`target`)."""

    core_dims = ("time",)
    version: ClassVar[int] = 2
    # measured: at most 7 MiB, and as much again once in a process for the table of the filter
    scratch_bytes: ClassVar[int] = 8 << 20

    def target(self, frequency: float) -> float:
        """New sampling frequency for an old one [Hz]."""
        raise NotImplementedError

    @property
    def common(self) -> Resample:
        """The parameters that all have, for the type checker."""
        return cast("Resample", self)

    @property
    def whole(self) -> bool:
        """Whether channels are resampled whole, through one FFT."""
        return bool(getattr(self, "method", "polyphase") == "fft")

    def validate(self) -> None:
        check_skip(self.common.skip_by_annotation)

    def lengths(self, ds: xr.Dataset) -> tuple[float, float, int, int]:
        """Old and new sampling frequency [Hz], old and new number of samples."""
        old, n_old = sampling_frequency(ds), ds.sizes["time"]
        new = self.target(old)
        return old, new, n_old, max(round(new / old * n_old), 1)

    def unchanged(self, ds: xr.Dataset) -> bool:
        """Whether the frequency is the same already (to a millionth, as in MNE)."""
        old, new, _, _ = self.lengths(ds)
        return abs(new - old) <= 1e-6 * old

    def change(self, ds: xr.Dataset) -> Ratio | Cascade:
        """The rate change: by a fraction of small numbers, or in steps where there is none."""
        old, new, n_old, _ = self.lengths(ds)
        return rational_ratio(old, new, n_old) or cascade(old, new, n_old)

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        if self.unchanged(ds):
            return ds
        _, new, n_old, n_new = self.lengths(ds)
        name = type(self).__name__
        if not n_old:
            raise ValueError(f"{name}: the recording has no samples")
        signal = floating_outline(ds, name)[SIGNAL].variable
        dims = tuple(map(str, signal.dims))
        shape = tuple(n_new if dim == "time" else signal.sizes[dim] for dim in dims)
        coordinate = sampled_index(ds)
        start = float(ds["time"][0]) if coordinate is None else coordinate.start
        resampled = ds.drop_dims("time").assign(
            {SIGNAL: blank_variable(dims, shape, signal.dtype, signal.attrs)}
        )
        timed = resampled.assign_coords(
            sampled_coordinate("time", n_new, new, start, ds["time"].attrs)
        )
        return resampled_band(timed, new)

    def margin(self, ds: xr.Dataset) -> int | None:
        if self.unchanged(ds):
            return 0
        return None if self.whole else self.change(ds).margin

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        if self.unchanged(ds):
            return 0
        if self.whole:
            old, new, n_old, _ = self.lengths(ds)
            # (a shorter stretch may have a length that is more awkward to transform)
            halvings = 4 if "event_label" in ds.variables else 1
            return max(_whole_bytes(n_old >> halved, new / old) for halved in range(halvings))
        change = self.change(ds)
        return change.row_bytes if isinstance(change, Cascade) else 0

    def source_region(self, region: Region, ds: xr.Dataset) -> Region:
        source: Region = {
            str(dim): region.get(str(dim), slice(0, ds.sizes[dim])) for dim in ds[SIGNAL].dims
        }
        asked, size = region.get("time"), ds.sizes["time"]
        if self.unchanged(ds):
            return source
        if self.whole or not isinstance(asked, slice):
            source["time"] = slice(0, size)
            return source
        start, stop = self.change(ds).span(asked.start, asked.stop)
        start = min(max(0, start), size - 1)
        source["time"] = slice(start, min(size, max(stop, start + 1)))
        return source

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        ds, name = ctx.dataset, type(self).__name__
        start, stop = ctx.output_span()
        if self.unchanged(ds):
            first = ctx.span()[0]
            return block[..., start - first : stop - first]
        _, new, n_old, n_new = self.lengths(ds)
        first, _ = ctx.span()
        dtype = block.dtype if block.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        out = ctx.empty((*block.shape[:-1], stop - start), dtype)
        kinds = _treated(ctx)
        parts = [
            (part, made)
            for part, made in resampled_stretches(ds, self.common.skip_by_annotation, new, n_new)
            if made.start < stop and made.stop > start
        ]
        for rows, results, row_kind in each_matrix(block, out, kinds):
            for kind, where in runs(row_kind):
                if kind == PASSED:
                    place = Place(first, n_old, start)
                    lost = take_codes(rows[where], results[where], n_new, place)
                    ctx.remark(codes_lost(self.lengths(ds)[0], new), lost)
                    continue
                for part, made in parts:
                    low, high = max(made.start, start), min(made.stop, stop)
                    target = results[where, low - start : high - start]
                    bad = self._resampled(rows[where], first, target, part, low, kind, ctx)
                    if bad is not None:
                        refuse_not_finite(block, kinds == PICKED, ctx, name)
        return out

    def _resampled(
        self,
        rows: np.ndarray,
        first: int,
        out: np.ndarray,
        part: Stretch,
        at: int,
        kind: int,
        ctx: Context,
    ) -> int | None:
        """Resample a stretch of rows as if it were the recording; `out` begins at new sample `at`.

        Returns a row that is not finite, where that is not allowed.
        """
        old, new, _, _ = self.lengths(ctx.dataset)
        missing = kind == TOLERATED
        begin = max(part.start, first)
        rows = rows[:, begin - first : part.stop - first]
        place = Place(begin - part.start, part.size, at)
        if self.whole:
            bad = _resample_whole(rows, out, new / old, place, part.start)
            if bad is None or not missing:
                return bad
            for row, result in zip(rows, out, strict=True):
                if not np.isfinite(row).all():
                    result[:] = np.nan
                else:
                    _resample_whole(row[None], result[None], new / old, place, part.start)
            return None
        change = self.change(ctx.dataset)
        if isinstance(change, Ratio):
            bad = resample_windows(rows, out, change, place, part.start, missing=missing)
        else:
            bad = resample_in_steps(rows, out, change, place, part.start, missing=missing)
        if missing:
            _mark_resampled(rows, out, old / new, at, begin, change.reach)
        return bad


@dataclass(frozen=True, repr=False)
class Resample(_Resampler):
    """Change the sampling frequency.

    Parameters
    ----------
    sfreq : float
        New sampling frequency [Hz].
    method : {"polyphase", "fft"}, default "polyphase"
        ``"polyphase"``: a linear-phase low-pass filter, evaluated at the new times only; it works
        on stretches of any length, in a few MiB. ``"fft"``: the result of `mne.io.Raw.resample`
        with its defaults; whole channels must fit into memory.
    skip_by_annotation : str or list of str, default ("edge", "bad_acq_skip")
        How the labels of events begin that part the recording (see `Filter`): the stretches between
        them are resampled apart, each continued by odd reflection at its own ends.

    Raises
    ------
    ValueError
        If a channel that is not marked bad holds values that are not finite.

    Notes
    -----
    The filter passes up to 0.95 of the lower Nyquist frequency (within 1e-6) and takes 120 dB off
    from that frequency on, so that nothing folds back. Below 0.95 the result agrees with MNE's
    whole-record FFT to about 1e-6 away from the ends (see the tests); between 0.95 and 1 MNE
    passes the signal, with a ringing as long as the record. Where the ratio is a fraction of small
    numbers, the result away from the ends equals
    ``scipy.signal.resample_poly(x, up, down, window=filter_taps(up, down))`` to rounding. Others
    (600.615 to 300 Hz, 44,100 to 256 Hz, 500 Hz to one sample in 3 s) are worked out in steps, with
    the same band and attenuation, at exact times however long the recording is.

    Where the length does not divide evenly, MNE stretches the record to a whole number of new
    samples (a drift of up to half a sample at its end); the times here are exact, ``method="fft"``
    is MNE's. At the ends the recording is continued by odd reflection, as MNE does, and the length
    is MNE's, ``round(n * new / old)``.

    Stimulus channels are not filtered: each new sample holds the first non-zero value of its
    stretch, as in MNE, so that short codes survive. Where several codes fall on one new sample, the
    later ones are lost: a warning says how many, or the report's note of a run.

    Data variables sampled along ``time`` besides the signal are left out of the result; channels
    of other sampling frequencies stay as they are.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.ones((2, 5000), "float32"), sampling_frequency=1000.0)
    >>> resampled = ps.Pipeline([ps.eeg.Resample(256.0)])(ds)
    >>> ps.sampling_frequency(resampled), resampled.sizes["time"]
    (256.0, 1280)
    """

    sfreq: float
    method: Literal["polyphase", "fft"] = "polyphase"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        super().validate()
        if not (self.sfreq > 0 and math.isfinite(self.sfreq)):
            raise ValueError(f"sfreq={self.sfreq:g} must be a frequency above 0 Hz")

    def target(self, frequency: float) -> float:
        return self.sfreq


@dataclass(frozen=True, repr=False)
class UpSample(_Resampler):
    """Raise the sampling frequency by a factor. See `Resample`.

    Parameters
    ----------
    factor : int, default 10
        How many samples each becomes.
    method : {"polyphase", "fft"}, default "polyphase"

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.ones((2, 500), "float32"), sampling_frequency=100.0)
    >>> ps.Pipeline([ps.eeg.UpSample(4)])(ds).sizes["time"]
    2000
    """

    factor: int = 10
    method: Literal["polyphase", "fft"] = "polyphase"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        super().validate()
        if self.factor < 1:
            raise ValueError(f"factor={self.factor} must be at least 1; DownSample goes down")

    def target(self, frequency: float) -> float:
        return frequency * self.factor


@dataclass(frozen=True, repr=False)
class DownSample(_Resampler):
    """Lower the sampling frequency by a factor. See `Resample`.

    Parameters
    ----------
    factor : int, default 10
        How many samples become one.
    method : {"polyphase", "fft"}, default "polyphase"

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.ones((2, 5000), "float32"), sampling_frequency=1000.0)
    >>> ps.Pipeline([ps.eeg.DownSample(10)])(ds).sizes["time"]
    500
    """

    factor: int = 10
    method: Literal["polyphase", "fft"] = "polyphase"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        super().validate()
        if self.factor < 1:
            raise ValueError(f"factor={self.factor} must be at least 1; UpSample goes up")

    def target(self, frequency: float) -> float:
        return frequency / self.factor


# ---------------------------------------------------------------------- kernels


def _treated(ctx: Context) -> np.ndarray:
    """What is done with the rows of a block: all but those of stimulus channels are filtered."""
    kinds = channel_kinds(ctx.dataset)
    if (
        kinds is not None
        and (kinds == "stim").all()
        and "channel" in loop_dims(ctx.dataset, ("time",))
    ):
        return np.full_like(row_kinds(ctx.dataset, "stim", "Resample", ctx), PASSED)
    return row_kinds(ctx.dataset, "all", "Resample", ctx)


def _mark_resampled(
    rows: np.ndarray, out: np.ndarray, step: float, at: int, begin: int, reach: float
) -> None:
    """Make NaN of the results within the filter's reach of a value that is not finite.

    Rows begin at sample `begin`, results at new sample `at`, `step` old samples apart.
    """
    reach += 1
    for row, results in zip(rows, out, strict=True):
        for start, stop in missing_stretches(row):
            low = math.ceil((begin + start - reach) / step) - at
            high = math.floor((begin + stop - 1 + reach) / step) + 1 - at
            results[max(0, low) : max(0, high)] = np.nan


LARGE_PLAN = 32 << 20
"""Plans of transforms that are rather made again for every row than kept beside the others."""


def _padded(n: int, ratio: float) -> tuple[int, int]:
    """Length of a stretch of `n` samples with its padding, before and after resampling."""
    n_padded = 2 ** math.ceil(math.log2(n + min(n // 8, 100) * 2)) if n else 1
    return n_padded, max(round(ratio * n_padded), 1)


def _whole_bytes(n: int, ratio: float) -> int:
    """What resampling a row of `n` samples through one FFT takes [bytes], in float64."""
    n_padded, n_new = _padded(n, ratio)
    # the padded row while it is transformed, beside the plan of the way back; then the spectrum
    kept = [plan_bytes(n) for n in (n_padded, n_new)]
    if max(kept) > LARGE_PLAN:
        kept = [0, 0]
    there = 8 * n_padded + transform_bytes(n_padded) + kept[1]
    back = 8 * n_padded + kept[0] + transform_bytes(n_new)
    if n_new > n_padded:  # (a longer copy of the spectrum; beside plans that stay, more of it)
        back += 8 * n_padded + (4 * n_new if kept[0] else 0)
    return max(there, back) + (2 << 20)


def _resample_whole(
    rows: np.ndarray, out: np.ndarray, ratio: float, place: Place, origin: int = 0
) -> int | None:
    """`mne.filter.resample` with ``npad="auto"``, row by row, of a stretch that begins at `origin`.

    Results are counted in the whole recording.
    """
    n = place.size
    n_padded, n_new = _padded(n, ratio)
    large = max(plan_bytes(n_padded), plan_bytes(n_new)) > LARGE_PLAN
    added = n_padded - n
    before, after = added // 2, added - added // 2
    skip = round(ratio * before) + place.out_first - round(ratio * origin)
    shorter = n_new < n_padded
    used = min(n_new, n_padded)
    for r in range(len(rows)):
        forget_plans_unless((n_padded, 0 if large else n_new))
        padded = np.empty((1, n_padded))
        continued(rows[r : r + 1], place.first, n, -before, n + after, padded)
        spectrum = scipy.fft.rfft(padded[0], overwrite_x=True)
        del padded
        if large:
            forget_plans_unless(("back", n_new))
        if used % 2 == 0:
            spectrum[used // 2] *= 2 if shorter else 0.5
        spectrum *= n_new / n_padded
        result = scipy.fft.irfft(spectrum, n=n_new, overwrite_x=True)
        del spectrum
        if not np.isfinite(result[0]):
            return r
        # (a join between two new samples may ask for one that lies just outside)
        low, high = max(skip, 0), min(skip + out.shape[-1], n_new)
        out[r, low - skip : high - skip] = result[low:high]
        out[r, : low - skip] = result[low]
        out[r, high - skip :] = result[high - 1]
    return None
