"""Filters along time: FIR as MNE designs and applies them, and Butterworth IIR.

All are row-wise and know their margin, so that blocks may be cut along channels and along time
without changing the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from penstock import messages
from penstock.dataset import Region, sampling_frequency
from penstock.eeg.filtering.band import filtered_band
from penstock.eeg.filtering.fir import (
    MAX_FFT,
    SCRATCH_BYTES,
    design_fir,
    minimum_phase_bytes,
    overlap_save,
    symmetrised,
)
from penstock.eeg.filtering.overlap import Place, each_matrix, mark_missing, runs
from penstock.eeg.filtering.recursive import Recursive, design_iir, filter_recursively
from penstock.eeg.picks import (
    PASSED,
    PICKED,
    TOLERATED,
    floating_outline,
    picked_rows,
    refuse_not_finite,
    row_kinds,
)
from penstock.eeg.stretches import SKIPPED, Stretch, check_skip, stretches
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

Method = Literal["fir", "iir"]
Phase = Literal["zero", "zero-double", "minimum", "forward"]
Window = Literal["hamming", "hann", "blackman"]
Edges = tuple[float, ...] | None


@dataclass(frozen=True, repr=False)
class _Filter(Processor):
    """What all filters share; subclasses say which band (`edges`)."""

    core_dims = ("time",)
    version: ClassVar[int] = 2
    scratch_bytes: ClassVar[int] = SCRATCH_BYTES

    # ------------------------------------------------------------------ design

    def edges(self) -> tuple[Edges, Edges]:
        """Pass band edges ``(l_freq, h_freq)`` [Hz], each a tuple or None."""
        raise NotImplementedError

    def transitions(self) -> tuple[float | str, float | str]:
        """Widths of the transitions at `l_freq` and `h_freq` [Hz]."""
        return self.common.l_trans_bandwidth, self.common.h_trans_bandwidth

    @property
    def common(self) -> Filter:
        """The parameters that all filters have, for the type checker."""
        return cast("Filter", self)

    def validate(self) -> None:
        method, phase = self.common.method, self.common.phase
        allowed = ("zero", "zero-double", "minimum" if method == "fir" else "forward")
        if phase not in allowed:
            raise ValueError(
                f"phase={phase!r} does not go with method={method!r}: choose one of "
                + ", ".join(map(repr, allowed))
            )
        if self.common.iir_order < 1:
            raise ValueError(
                f"iir_order={self.common.iir_order} must be at least 1 (MNE's default is 4)"
            )
        check_skip(self.common.skip_by_annotation)
        length = self.common.filter_length
        if method == "iir" and length != "auto":
            raise ValueError("filter_length is for method='fir': an IIR filter has no length")
        if isinstance(length, int) and length < 1:
            raise ValueError(f"filter_length={length} must be at least 1 sample")
        if method == "iir":
            # a row in float64, of a float32 block that may be one row
            object.__setattr__(self, "row_scratch", 2.0)

    def taps(self, frequency: float) -> tuple[np.ndarray, int]:
        """FIR taps at a sampling frequency [Hz], and which of them has no delay.

        Examples
        --------
        >>> import penstock as ps
        >>> len(ps.eeg.BandPassFilter(1.0, 40.0).taps(1000.0)[0])
        3301
        """
        l_freq, h_freq = self.edges()
        l_width, h_width = self.transitions()
        taps = design_fir(
            frequency,
            l_freq,
            h_freq,
            filter_length=self.common.filter_length,
            l_trans_bandwidth=l_width,
            h_trans_bandwidth=h_width,
            fir_window=self.common.fir_window,
        )
        phase = self.common.phase
        if phase == "zero-double":
            taps = symmetrised(np.convolve(taps, taps[::-1]))
        elif phase == "minimum":
            return _minimum_phase(taps.tobytes()), 0
        return taps, len(taps) // 2

    def recursive(self, frequency: float) -> Recursive:
        """The designed IIR filter at a sampling frequency [Hz]."""
        return design_iir(frequency, *self.edges(), self.common.iir_order)

    # ------------------------------------------------------------------ contract

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        frequency, name = sampling_frequency(ds), type(self).__name__
        picked = picked_rows(ds, self.common.picks, name)
        if self.common.method == "iir":
            self.recursive(frequency)
        else:
            n_taps = len(self.taps(frequency)[0])
            parts = stretches(ds, self.common.skip_by_annotation)
            n_times = max((part.size for part in parts if not part.skipped), default=0)
            if n_taps > n_times:
                whole = "recording" if len(parts) == 1 else "longest stretch between joins"
                messages.warn(
                    f"{name}: the filter ({n_taps} samples, {n_taps / frequency:g} s) is longer "
                    f"than the {whole} ({n_times} samples): expect distortion; use wider "
                    "transitions, or filter a longer recording",
                    stacklevel=2,
                )
        low, high = (edge[0] if edge else None for edge in self.edges())
        return filtered_band(floating_outline(ds, name), low, high, picked)

    @property
    def modules(self) -> tuple[str, ...]:  # type: ignore[override]
        recursive = self.common.method == "iir" or self.common.phase == "minimum"
        return ("scipy.signal",) if recursive else ()

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        extra = super().kernel_bytes(ds, region)
        if self.common.method == "iir":
            return extra
        n_taps = len(self.taps(sampling_frequency(ds))[0])
        # windows of long filters, and the filter's response, which is made with the first block
        extra += 5 * 8 * min(2 * n_taps, MAX_FFT) + 4 * 8 * n_taps
        if self.common.phase == "minimum":
            extra = max(extra, minimum_phase_bytes(n_taps))
        return extra

    def margin(self, ds: xr.Dataset) -> int | None:
        return max(self.reach(sampling_frequency(ds)))

    def reach(self, frequency: float) -> tuple[int, int]:
        """How many results before and after its own a sample reaches."""
        if self.common.method == "iir":
            margin = self.recursive(frequency).margin
            return (0 if self.common.phase == "forward" else margin), margin
        taps, centre = self.taps(frequency)
        return centre, len(taps) - 1 - centre

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        name = type(self).__name__
        first, _ = ctx.span()
        start, stop = ctx.output_span()
        kinds = row_kinds(ctx.dataset, self.common.picks, name, ctx)
        dtype = block.dtype if block.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        out = ctx.empty((*block.shape[:-1], stop - start), dtype)
        parts = [
            part
            for part in stretches(ctx.dataset, self.common.skip_by_annotation)
            if part.start < stop and part.stop > start
        ]
        for rows, results, row_kind in each_matrix(block, out, kinds):
            for kind, where in runs(row_kind):
                for part in parts:
                    low, high = max(part.start, start), min(part.stop, stop)
                    target = results[where, low - start : high - start]
                    if kind == PASSED or part.skipped:
                        target[...] = rows[where, low - first : high - first]
                        continue
                    bad = self._filtered(rows[where], first, target, part, low, kind, ctx)
                    if bad is not None:
                        refuse_not_finite(block, kinds == PICKED, ctx, name)
        return out

    def _filtered(
        self,
        rows: np.ndarray,
        first: int,
        out: np.ndarray,
        part: Stretch,
        at: int,
        kind: int,
        ctx: Context,
    ) -> int | None:
        """Filter a stretch of rows as if it were the recording; `out` begins at sample `at`.

        Returns a row that is not finite, where that is not allowed.
        """
        frequency, missing = ctx.sampling_frequency, kind == TOLERATED
        begin = max(part.start, first)
        rows = rows[:, begin - first : part.stop - first]
        place = Place(begin - part.start, part.size, at - part.start)
        if self.common.method == "fir":
            bad = overlap_save(rows, out, *self.taps(frequency), place, missing=missing)
        else:
            forward = self.common.phase == "forward"
            design = self.recursive(frequency)
            bad = filter_recursively(rows, out, design, forward, place, missing=missing)
        if missing:
            mark_missing(rows, out, at - begin, *self.reach(frequency))
        return bad


@dataclass(frozen=True, repr=False)
class Filter(_Filter):
    """Low-pass, high-pass, band-pass or band-stop filter along time.

    With the defaults the result is that of `mne.io.Raw.filter`: a linear-phase FIR filter designed
    with a Hamming window, applied without delay, the recording continued by odd reflection at both
    ends.

    Parameters
    ----------
    l_freq, h_freq : float, optional
        Edges of the pass band [Hz]. Only `l_freq`: high-pass. Only `h_freq`: low-pass. Both with
        ``l_freq < h_freq``: band-pass; with ``l_freq > h_freq``: band-stop.
    picks : str or list of str, optional
        Channel types or names. Default: the data channels (EEG, MEG, ECoG, SEEG, ... but not EOG,
        ECG, EMG, stimulus or miscellaneous), bad ones included; ``"all"``: all but stimulus
        channels. The others pass unchanged.
    filter_length : str or int, default "auto"
        Length of the FIR filter in samples, or as a time such as ``"10s"``.
    l_trans_bandwidth, h_trans_bandwidth : float or "auto"
        Widths of the transitions [Hz]. ``"auto"``: ``min(max(l / 4, 2), l)`` and
        ``min(max(h / 4, 2), Nyquist - h)``.
    method : {"fir", "iir"}, default "fir"
        ``"iir"``: Butterworth, by default forward and backward.
    iir_order : int, default 4
        Order of the Butterworth filter (of one pass).
    phase : {"zero", "zero-double", "minimum", "forward"}, default "zero"
        ``"zero-double"`` applies the FIR filter twice; ``"minimum"`` (FIR) and ``"forward"`` (IIR)
        are causal.
    fir_window : {"hamming", "hann", "blackman"}, default "hamming"
    skip_by_annotation : str or list of str, default ("edge", "bad_acq_skip")
        How the labels of events begin that part the recording, upper or lower case alike.
        ``()``: the recording is filtered as one stretch.

    Raises
    ------
    ValueError
        If a frequency does not suit the recording (when applied to a dataset), or a picked channel
        that is not marked bad holds values that are not finite (when computed).

    Warns
    -----
    UserWarning
        If the filter is longer than the recording.

    Notes
    -----
    float32 stays float32 (to about 1e-6 of the largest value), float64 agrees with MNE to 1e-12,
    integers become float32. IIR states are float64 in any case.

    As in MNE, the stretches between pauses and joins (`skip_by_annotation`) are filtered apart,
    each continued by odd reflection at its own ends, and what lies inside a pause stays as it is.

    The attributes ``highpass`` and ``lowpass`` say which band is left, as MNE's `Info` does: where
    all data channels are filtered.

    In a channel marked bad, values that are not finite are no error: the result is NaN where the
    filter reaches them, and as usual elsewhere.

    Cut along time, FIR filters need half their length at each side. For IIR filters the margin is
    the time in which the slowest pole decays to 1e-15, so that a cut leaves no trace in float64.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> t = np.arange(2000) / 200
    >>> slow, fast = np.sin(2 * np.pi * 5 * t), np.sin(2 * np.pi * 60 * t)
    >>> ds = ps.make_dataset((slow + fast)[np.newaxis], sampling_frequency=200.0)
    >>> low = ps.Pipeline([ps.eeg.Filter(h_freq=30.0)])(ds).signal.values
    >>> bool(np.abs(low - slow)[0, 100:-100].max() < 0.01)
    True
    """

    l_freq: float | None = None
    h_freq: float | None = None
    picks: str | tuple[str, ...] | None = None
    filter_length: str | int = "auto"
    l_trans_bandwidth: float | str = "auto"
    h_trans_bandwidth: float | str = "auto"
    method: Method = "fir"
    iir_order: int = 4
    phase: Phase = "zero"
    fir_window: Window = "hamming"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        super().validate()
        if self.l_freq is None and self.h_freq is None:
            raise ValueError(
                "Filter needs a frequency: l_freq=1.0 for a high-pass, h_freq=40.0 for a low-pass, "
                "or both for a band-pass"
            )

    def edges(self) -> tuple[Edges, Edges]:
        return (
            None if self.l_freq is None else (self.l_freq,),
            None if self.h_freq is None else (self.h_freq,),
        )


@dataclass(frozen=True, repr=False)
class HighPassFilter(_Filter):
    """Remove what is slower than `freq`. See `Filter` for the other parameters.

    Parameters
    ----------
    freq : float
        Lower edge of the pass band [Hz].

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.full((1, 4000), 5.0), sampling_frequency=500.0)
    >>> offset_removed = ps.Pipeline([ps.eeg.HighPassFilter(1.0)])(ds).signal.values
    >>> bool(np.abs(offset_removed).max() < 1e-9)
    True
    """

    freq: float
    picks: str | tuple[str, ...] | None = None
    filter_length: str | int = "auto"
    trans_bandwidth: float | str = "auto"
    method: Method = "fir"
    iir_order: int = 4
    phase: Phase = "zero"
    fir_window: Window = "hamming"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def edges(self) -> tuple[Edges, Edges]:
        return (self.freq,), None

    def transitions(self) -> tuple[float | str, float | str]:
        return self.trans_bandwidth, "auto"


@dataclass(frozen=True, repr=False)
class LowPassFilter(_Filter):
    """Remove what is faster than `freq`. See `Filter` for the other parameters.

    Parameters
    ----------
    freq : float
        Upper edge of the pass band [Hz].

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.ones((1, 4000)), sampling_frequency=500.0)
    >>> same = ps.Pipeline([ps.eeg.LowPassFilter(40.0)])(ds).signal.values
    >>> bool(np.allclose(same, 1.0, atol=2e-3))
    True
    """

    freq: float
    picks: str | tuple[str, ...] | None = None
    filter_length: str | int = "auto"
    trans_bandwidth: float | str = "auto"
    method: Method = "fir"
    iir_order: int = 4
    phase: Phase = "zero"
    fir_window: Window = "hamming"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def edges(self) -> tuple[Edges, Edges]:
        return None, (self.freq,)

    def transitions(self) -> tuple[float | str, float | str]:
        return "auto", self.trans_bandwidth


@dataclass(frozen=True, repr=False)
class BandPassFilter(_Filter):
    """Keep what lies between two frequencies. See `Filter` for the other parameters.

    Parameters
    ----------
    l_freq, h_freq : float
        Edges of the pass band [Hz], ``l_freq < h_freq``.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.Pipeline([ps.eeg.BandPassFilter(1.0, 40.0)])
    Pipeline([BandPassFilter(l_freq=1.0, h_freq=40.0)])
    """

    l_freq: float
    h_freq: float
    picks: str | tuple[str, ...] | None = None
    filter_length: str | int = "auto"
    l_trans_bandwidth: float | str = "auto"
    h_trans_bandwidth: float | str = "auto"
    method: Method = "fir"
    iir_order: int = 4
    phase: Phase = "zero"
    fir_window: Window = "hamming"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        super().validate()
        if self.l_freq >= self.h_freq:
            raise ValueError(
                f"BandPassFilter needs l_freq < h_freq, got {self.l_freq:g} and {self.h_freq:g} "
                "Hz: swap them, or use Filter or NotchFilter to remove a band"
            )

    def edges(self) -> tuple[Edges, Edges]:
        return (self.l_freq,), (self.h_freq,)


@dataclass(frozen=True, repr=False)
class NotchFilter(_Filter):
    """Remove narrow bands, such as the mains frequency and its harmonics.

    The result is that of `mne.io.Raw.notch_filter`. See `Filter` for `picks`, `filter_length`,
    `method`, `iir_order`, `phase`, `fir_window` and `skip_by_annotation`.

    Parameters
    ----------
    freqs : float or array_like of float
        Centres of the bands [Hz], such as ``np.arange(50, 251, 50)``.
    notch_widths : float or array_like of float, optional
        Widths of the bands [Hz]. Default: ``freqs / 200``.
    trans_bandwidth : float, default 1.0
        Width of the transitions, both sides of a band together [Hz].

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> t = np.arange(10000) / 500
    >>> ds = ps.make_dataset(np.sin(2 * np.pi * 50 * t)[np.newaxis], sampling_frequency=500.0)
    >>> quiet = ps.Pipeline([ps.eeg.NotchFilter((50.0, 100.0))])(ds).signal.values
    >>> bool(np.abs(quiet[0, 2000:-2000]).max() < 0.005)
    True
    """

    freqs: float | tuple[float, ...]
    picks: str | tuple[str, ...] | None = None
    filter_length: str | int = "auto"
    notch_widths: float | tuple[float, ...] | None = None
    trans_bandwidth: float = 1.0
    method: Method = "fir"
    iir_order: int = 4
    phase: Phase = "zero"
    fir_window: Window = "hamming"
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        super().validate()
        centres, widths = self._bands()
        if not len(centres) or (centres <= 0).any():
            raise ValueError(f"freqs={self.freqs!r} must be one or more frequencies above 0 Hz")
        if widths.shape != centres.shape:
            raise ValueError(
                f"notch_widths={self.notch_widths!r} must be one width, or as many as there are "
                f"freqs ({len(centres)})"
            )
        if (widths < 0).any() or self.trans_bandwidth <= 0:
            raise ValueError("notch_widths must not be negative and trans_bandwidth above 0 Hz")
        if self.method == "iir" and len(centres) > 1:
            raise ValueError(
                f"method='iir' removes one band, got {len(centres)}: use method='fir', or one "
                "NotchFilter a frequency"
            )

    def _bands(self) -> tuple[np.ndarray, np.ndarray]:
        centres = np.atleast_1d(np.asarray(self.freqs, dtype=np.float64))
        widths = centres / 200 if self.notch_widths is None else np.asarray(self.notch_widths)
        widths = np.atleast_1d(widths).astype(np.float64)
        return centres, np.full_like(centres, widths[0]) if len(widths) == 1 else widths

    def edges(self) -> tuple[Edges, Edges]:
        centres, widths = self._bands()
        half = widths / 2 + self.trans_bandwidth / 2
        return tuple((centres + half).tolist()), tuple((centres - half).tolist())

    def transitions(self) -> tuple[float | str, float | str]:
        return self.trans_bandwidth / 2, self.trans_bandwidth / 2

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        nyquist = sampling_frequency(ds) / 2
        above, below = self.edges()
        assert above is not None
        assert below is not None
        for centre, high, low in zip(self._bands()[0], above, below, strict=True):
            if high >= nyquist or low <= 0:
                raise ValueError(
                    f"NotchFilter: the band at {centre:g} Hz reaches from {low:g} to {high:g} Hz "
                    f"with its transitions, and must lie between 0 and the Nyquist frequency of "
                    f"this recording, {nyquist:g} Hz: leave {centre:g} Hz out"
                )
        return super().outline(ds, state)


@lru_cache(maxsize=8)
def _minimum_phase(taps: bytes) -> np.ndarray:
    from scipy.signal import minimum_phase

    result: np.ndarray = minimum_phase(np.frombuffer(taps), half=False)
    return result
