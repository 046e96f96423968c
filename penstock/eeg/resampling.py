"""Another sampling frequency: a steep linear-phase filter at a rational ratio, or the whole FFT.

Times are kept: events and triggers are in seconds and stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import scipy.fft

from penstock.buffers import scratch_buffer
from penstock.dataset import (
    SIGNAL,
    Region,
    blank_variable,
    sampled_coordinate,
    sampled_index,
    sampling_frequency,
)
from penstock.eeg.fir import windowed_sinc
from penstock.eeg.overlap import (
    BATCH_BYTES,
    Place,
    Windows,
    continued,
    each_matrix,
    missing_stretches,
    runs,
    transform_windows,
)
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
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

PASS_BAND = 0.95
"""Edge of the pass band, as a fraction of the lower of both Nyquist frequencies; the stop band
begins at that frequency itself, so that nothing folds."""
ATTENUATION = 120.0
"""Stop-band attenuation [dB]; the ripple in the pass band is as small (1e-6)."""
LARGEST_TABLE = 1 << 20
"""Values of the frequency response, above which a ratio is too awkward for `Resample`."""
STRETCH = 1 << 16
"""Samples of a stimulus channel taken at once."""


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

    @property
    def margin(self) -> int:
        """Input samples that an output needs at each side."""
        return self.down * (self.guard + 1)


def filter_taps(up: int, down: int) -> np.ndarray:
    """The low-pass filter of a rate change, as `scipy.signal.resample_poly` takes it (``window=``).

    A Kaiser window: pass band to 0.95 of the lower Nyquist frequency, 120 dB from that frequency
    on.
    """
    largest = max(up, down)
    half = _half_length(largest)
    beta = 0.1102 * (ATTENUATION - 8.7)  # Kaiser's formula, above 50 dB
    return windowed_sinc(np.kaiser(2 * half + 1, beta), (1 + PASS_BAND) / 2 / largest)


def _half_length(largest: int) -> int:
    width = (1 - PASS_BAND) * math.pi / largest
    return math.ceil((ATTENUATION - 7.95) / (2.285 * width) / 2)


@lru_cache(maxsize=64)
def rational_ratio(old: float, new: float, n_times: int) -> Ratio:
    """The ratio of two sampling frequencies as a fraction, with windows that suit it.

    The fraction with the smallest terms is taken that drifts by less than a hundredth of a sample
    until the end of the recording.

    Raises
    ------
    ValueError
        If no small fraction does.
    """
    n_new = n_times * new / old
    up, down = 0, 1
    for limit in (10, 30, 100, 300, 1000, 3000):
        fraction = Fraction(new / old).limit_denominator(limit)
        up, down = fraction.numerator, fraction.denominator
        if up and abs(up / down * n_times - n_new) <= 0.01:
            break
    else:
        raise ValueError(_awkward(old, new, f"no fraction of small numbers ({up}/{down} drifts)"))
    half = _half_length(max(up, down))
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
    if not best:
        raise ValueError(_awkward(old, new, f"{up}/{down}"))
    return Ratio(up, down, half, guard, best)


def _awkward(old: float, new: float, ratio: str) -> str:
    return (
        f"resampling from {old:.10g} to {new:.10g} Hz is a ratio of {ratio}, too awkward for a "
        "filter: use method='fft' (which needs whole channels in memory), or a rounder frequency"
    )


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
        taps = filter_taps(ratio.up, ratio.down)
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


@lru_cache(maxsize=4)
def _rate_change(ratio: Ratio, dtype: str) -> _RateChange:
    return _RateChange(ratio, np.dtype(dtype))


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
        if self.whole:
            # padded row, spectrum and result in float64 for a row of float32 padded to a power of
            # two; of the ratio only UpSample knows more than that it rarely exceeds 2
            raised = float(getattr(self, "factor", 2)) if not isinstance(self, DownSample) else 0.5
            object.__setattr__(self, "row_scratch", max(9.0, 8.5 * raised))

    def lengths(self, ds: xr.Dataset) -> tuple[float, float, int, int]:
        """Old and new sampling frequency [Hz], old and new number of samples."""
        old, n_old = sampling_frequency(ds), ds.sizes["time"]
        new = self.target(old)
        return old, new, n_old, max(round(new / old * n_old), 1)

    def unchanged(self, ds: xr.Dataset) -> bool:
        """Whether the frequency is the same already (to a millionth, as in MNE)."""
        old, new, _, _ = self.lengths(ds)
        return abs(new - old) <= 1e-6 * old

    def ratio(self, ds: xr.Dataset) -> Ratio:
        """The rate change as a fraction."""
        old, new, n_old, _ = self.lengths(ds)
        return rational_ratio(old, new, n_old)

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        if self.unchanged(ds):
            return ds
        _, new, n_old, n_new = self.lengths(ds)
        name = type(self).__name__
        if not n_old:
            raise ValueError(f"{name}: the recording has no samples")
        if not self.whole:
            self.ratio(ds)
        signal = floating_outline(ds, name)[SIGNAL].variable
        dims = tuple(map(str, signal.dims))
        shape = tuple(n_new if dim == "time" else signal.sizes[dim] for dim in dims)
        coordinate = sampled_index(ds)
        start = float(ds["time"][0]) if coordinate is None else coordinate.start
        resampled = ds.drop_dims("time").assign(
            {SIGNAL: blank_variable(dims, shape, signal.dtype, signal.attrs)}
        )
        return resampled.assign_coords(
            sampled_coordinate("time", n_new, new, start, ds["time"].attrs)
        )

    def margin(self, ds: xr.Dataset) -> int | None:
        if self.unchanged(ds):
            return 0
        return None if self.whole else self.ratio(ds).margin

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
        ratio = self.ratio(ds)
        start = asked.start // ratio.up * ratio.down - ratio.margin
        stop = -(-asked.stop // ratio.up) * ratio.down + ratio.margin
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
                    lost = _take_codes(rows[where], results[where], n_new, place)
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
        ratio = self.ratio(ctx.dataset)
        bad = _resample_windows(rows, out, ratio, place, part.start, missing=missing)
        if missing:
            _mark_resampled(rows, out, old / new, at, begin, ratio)
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

    Raises
    ------
    ValueError
        If the ratio of the frequencies has no small fraction (``method="fft"`` takes any), or a
        channel holds values that are not finite.

    Notes
    -----
    The filter passes up to 0.95 of the lower Nyquist frequency (within 1e-6) and takes 120 dB off
    from that frequency on, so that nothing folds back. Below 0.95 the result agrees with MNE's
    whole-record FFT to about 1e-6 away from the ends (see the tests); between 0.95 and 1 MNE
    passes the signal, with a ringing as long as the record. Away from the
    ends the result equals ``scipy.signal.resample_poly(x, up, down, window=filter_taps(up, down))``
    to rounding. Where the length does not divide evenly, MNE stretches the record to a whole number
    of new samples (a drift of up to half a sample at its end); the times here are exact,
    ``method="fft"`` is MNE's. At the ends the recording is continued by odd reflection, as
    MNE does, and the length is MNE's, ``round(n * new / old)``.

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


def _resample_windows(
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


def _mark_resampled(
    rows: np.ndarray, out: np.ndarray, step: float, at: int, begin: int, ratio: Ratio
) -> None:
    """Make NaN of the results within the filter's reach of a value that is not finite.

    Rows begin at sample `begin`, results at new sample `at`, `step` old samples apart.
    """
    reach = ratio.half / ratio.up + 1
    for row, results in zip(rows, out, strict=True):
        for start, stop in missing_stretches(row):
            low = math.ceil((begin + start - reach) / step) - at
            high = math.floor((begin + stop - 1 + reach) / step) + 1 - at
            results[max(0, low) : max(0, high)] = np.nan


def _resample_whole(
    rows: np.ndarray, out: np.ndarray, ratio: float, place: Place, origin: int = 0
) -> int | None:
    """`mne.filter.resample` with ``npad="auto"``, row by row, of a stretch that begins at `origin`.

    Results are counted in the whole recording.
    """
    n = place.size
    added = 2 ** math.ceil(math.log2(n + min(n // 8, 100) * 2)) - n
    before, after = added // 2, added - added // 2
    n_padded = n + added
    n_new = max(round(ratio * n_padded), 1)
    skip = round(ratio * before) + place.out_first - round(ratio * origin)
    shorter = n_new < n_padded
    used = min(n_new, n_padded)
    for r in range(len(rows)):
        padded = np.empty((1, n_padded))
        continued(rows[r : r + 1], place.first, n, -before, n + after, padded)
        spectrum = scipy.fft.rfft(padded[0], overwrite_x=True)
        del padded
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


def _take_codes(rows: np.ndarray, out: np.ndarray, n_new: int, place: Place) -> int:
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
