"""Methods of `mne.io.Raw` as processors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from penstock.dataset import (
    SIGNAL,
    Region,
    blank_variable,
    indexer_length,
    sampled_coordinate,
    sampling_frequency,
)
from penstock.eeg.channels import Crop, selected_channels
from penstock.eeg.codes import codes_lost, rises
from penstock.eeg.filtering.band import filtered_band
from penstock.eeg.mne_methods.arguments import named_arguments, plain_argument, restored_arguments
from penstock.eeg.mne_methods.memory import moments_bytes, rows_bytes
from penstock.eeg.mne_methods.missing import (
    mixing,
    mixing_bytes,
    refuse_spread_in_time,
    refuse_spread_to_channels,
)
from penstock.eeg.mne_methods.outline import (
    anonymous,
    call,
    converted_units,
    described,
    kept_channels,
    standing_raw,
    without_positions,
)
from penstock.eeg.mne_methods.table import PICKING, Kind, check_method, kind_of
from penstock.memory.buffers import new_array
from penstock.memory.transforms import forget_plans_unless
from penstock.processor import Context, Processor, _plain


@dataclass(frozen=True, repr=False, init=False)
class MNE(Processor):
    """A method of `mne.io.Raw` as a step.

    What the method changes in MNE-Python changes in the dataset: samples, names, types and units
    of channels, which are bad, positions, projections, events, dates, what is said of the subject.
    Methods of which that cannot be said are refused when the step is made. docs/mne_methods.md
    lists all of them.

    Methods that treat every channel for itself (``filter``, ``notch_filter``, ``resample``,
    ``savgol_filter``, ``apply_hilbert``) run on blocks of channels, those that mix channels at one
    time (``set_eeg_reference``, ``interpolate_bads``, ``apply_proj``, ``rescale``) on blocks of
    time, ``apply_function`` on the whole recording at once, which must then fit the budget. Methods
    that only change the description or select (``anonymize``, ``rename_channels``, ``pick``,
    ``crop``, ...) cost nothing.

    Parameters
    ----------
    method : str
        Name of a method of `mne.io.Raw`.
    *args, **kwargs
        Its arguments: plain values, `mne.Annotations`, montages, projections, dates.

    Raises
    ------
    ValueError
        If there is no such method, or it is no step of a pipeline, with what to do instead.

    Notes
    -----
    MNE-Python works in float64 and makes several copies; Penstock's own processors give the same
    results in a fraction of the memory. A stretch of a recording is never filtered alone: time is
    whole.

    ``anonymize`` does what MNE-Python does (`mne.io.Raw.anonymize`), and more: the dataset keeps no
    attributes but those that its signal needs, and the provenance of a result holds neither the
    source's path nor `daysback`. Names of files and the text of events are not changed: name
    results yourself (``run({"subject01": path}, ...)``), and look through the events.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.eeg import MNE
    >>> ds = ps.make_dataset(np.random.randn(2, 2000), sampling_frequency=200.0, units="uV")
    >>> ps.Pipeline([MNE("savgol_filter", h_freq=30.0)])(ds).signal.shape
    (2, 2000)
    """

    version = 3

    method: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, method: str | None = None, /, *args: Any, **kwargs: Any) -> None:
        # (``filter`` and ``resample`` have a parameter ``method`` of their own)
        if method is None:
            if "method" not in kwargs:
                raise TypeError("MNE() misses its required argument 'method'")
            method = kwargs.pop("method")
            kwargs = {**kwargs.pop("kwargs", {}), **kwargs}
        given = named_arguments(str(method), args) if args else {}
        twice = sorted(set(given) & set(kwargs))
        if twice:
            raise TypeError(f"MNE({method!r}): {twice[0]!r} is given twice")
        given |= kwargs
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "kwargs", {k: plain_argument(v) for k, v in given.items()})
        self.__post_init__()

    def __repr__(self) -> str:
        given = [repr(self.method), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"MNE({', '.join(given)})"

    def __hash__(self) -> int:
        return hash((self.method, str(sorted(self.kwargs.items()))))

    requires: ClassVar[tuple[str, ...]] = ("mne",)

    def validate(self) -> None:
        check_method(self.method, self.kwargs)
        if self.kind == "crop":
            self._crop()

    def parameters(self) -> dict[str, Any]:
        kwargs = _plain(self.kwargs)
        if "method" in kwargs:
            return {"method": self.method, "kwargs": kwargs}
        return {"method": self.method, **kwargs}

    @property
    def anonymizes(self) -> bool:  # type: ignore[override]
        """Whether the result must not say what it was made of."""
        return self.method == "anonymize"

    def recorded(self) -> dict[str, Any]:
        form = self.canonical()
        if self.anonymizes:
            # (with it the shifted dates would tell the true ones)
            form["parameters"] = {k: v for k, v in form["parameters"].items() if k != "daysback"}
        return form

    # ------------------------------------------------------------------ how it runs

    @property
    def kind(self) -> Kind:
        """How the method is carried out."""
        return kind_of(self.method, self.kwargs)

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        kinds: dict[str, tuple[str, ...]] = {
            "channels": ("time",),
            "whole": ("channel", "time"),
            "moments": ("channel",),
        }
        return kinds.get(self.kind, ())

    @property
    def selects(self) -> bool:  # type: ignore[override]
        return self.kind in ("description", "selection", "crop")

    @property
    def modules(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.kind in ("channels", "whole"):
            return ("penstock.eeg.mne_methods.loaded",)
        parts = ("mne.annotations", "mne.bem", "mne.epochs", "mne.channels.interpolation")
        loads = ("penstock.io.mne.loaded",)
        return (*loads, *parts) if self.kind == "moments" else loads

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        if self.kind == "types":
            return 0
        lengths = [indexer_length(region[str(dim)]) for dim in ds[SIGNAL].dims]
        n_values, n_times = math.prod(lengths), indexer_length(region["time"])
        n_rows = n_values // max(1, n_times)
        if self.kind == "moments":
            return mixing_bytes(ds.sizes["channel"]) + moments_bytes(self.method, n_rows, n_times)
        frequency = sampling_frequency(ds)
        return rows_bytes(self.method, self.kwargs, n_rows, n_times, frequency)

    def _arguments(self) -> dict[str, Any]:
        return restored_arguments(self.method, self.kwargs)

    def _crop(self) -> Crop:
        given = {k: v for k, v in self.kwargs.items() if k in ("tmin", "tmax", "include_tmax")}
        return Crop(**given)

    # ------------------------------------------------------------------ outline

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        mne = _mne()
        if not callable(getattr(mne.io.BaseRaw, self.method, None)):
            raise ValueError(
                f"mne.io.Raw of MNE-Python {mne.__version__} has no method {self.method!r}"
            )
        if self.kind == "crop":
            return self._crop().outline(ds, state)
        needs_samples = self.kind in ("channels", "whole", "moments")
        before = standing_raw(ds, samples=needs_samples)
        if self.method in _SAMPLES_ONLY or self.method == "filter":
            self._check_arguments(mne)
            return ds if self.method != "filter" else self._passed(ds, before, mne)
        # (a second one: copies of a Raw share parts that methods write into)
        after = call(standing_raw(ds, samples=needs_samples), self.method, self._arguments())
        positions = np.arange(len(after.ch_names))
        if self.kind in ("selection", "moments"):
            positions = kept_channels(before, after)
        outline = described(ds, before, after, positions)
        if self.kind == "types":
            units, _ = converted_units(ds, before, after)
            if units is not None:
                attrs = ds["channel_unit"].attrs if "channel_unit" in ds.variables else {}
                outline = outline.assign_coords(channel_unit=("channel", np.array(units), attrs))
        if self.anonymizes:
            return anonymous(outline)
        if self.method == "set_montage":
            return without_positions(outline)
        return self._resampled(outline) if self.method == "resample" else outline

    def _check_arguments(self, mne: Any) -> None:
        try:
            inspect.signature(getattr(mne.io.BaseRaw, self.method)).bind(None, **self.kwargs)
        except TypeError as error:
            raise TypeError(f"MNE({self.method!r}): {error}") from None

    def _passed(self, ds: xr.Dataset, raw: Any, mne: Any) -> xr.Dataset:
        """The outline with the band that is left where all data channels are filtered."""
        picked = np.zeros(ds.sizes["channel"], bool)
        picked[_picked(mne, raw.info, self.kwargs.get("picks"))] = True
        return filtered_band(ds, self.kwargs.get("l_freq"), self.kwargs.get("h_freq"), picked)

    def _resampled(self, ds: xr.Dataset) -> xr.Dataset:
        before, after = sampling_frequency(ds), float(self.kwargs["sfreq"])
        size = max(1, round(ds.sizes["time"] * after / before))
        start = float(ds["time"].values[0]) if ds.sizes["time"] else 0.0
        signal = ds[SIGNAL]
        shape = tuple(size if d == "time" else n for d, n in signal.sizes.items())
        blank = blank_variable(tuple(map(str, signal.dims)), shape, signal.dtype, signal.attrs)
        attrs = ds["time"].attrs
        rest = ds.drop_vars([n for n, v in ds.variables.items() if "time" in v.dims])
        return rest.assign({SIGNAL: blank}).assign_coords(
            sampled_coordinate("time", size, after, start, attrs)
        )

    def source_region(self, region: Region, ds: xr.Dataset) -> Region:
        if self.kind == "crop":
            return self._crop().source_region(region, ds)
        if self.kind != "selection":
            return super().source_region(region, ds)
        before = standing_raw(ds)
        after = call(standing_raw(ds), self.method, self._arguments())
        return selected_channels(kept_channels(before, after), region, ds)

    # ------------------------------------------------------------------ a block

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        if self.kind == "types":
            return self._converted(block, ctx)
        if self.kind == "moments":
            return self._moments(block, ctx)
        mne = _mne()
        from penstock.io.mne.info import info_of, si_divisors

        ds = ctx.dataset
        if self.method not in PICKING:
            here = np.arange(ctx.size("channel"))[ctx.region["channel"]]
            part = ds.isel(channel=here)
            if self.kind == "channels":
                every = np.ones(len(block), bool)
                refuse_spread_in_time(block, every, ctx, self.method, self.kwargs)
            result = self._call(block, part, info_of(part), si_divisors(part))
            self._tell_lost_codes(block, result, part, ctx)
            return result
        # which channels MNE treats must not depend on which others are in the block
        whole = info_of(ds)
        treated = np.isin(
            np.arange(ctx.size("channel")), _picked(mne, whole, self.kwargs.get("picks"))
        )
        rows = np.flatnonzero(ctx.take("channel", treated))
        if not len(rows):
            return block
        refuse_spread_in_time(block, ctx.take("channel", treated), ctx, self.method, self.kwargs)
        here = ctx.take("channel", np.arange(ctx.size("channel")))[rows]
        part = ds.isel(channel=here)
        info = mne.pick_info(whole, here, verbose="error")
        return self._call(block, part, info, si_divisors(part), rows, picks="all")

    def _call(
        self,
        block: np.ndarray,
        ds: xr.Dataset,
        info: Any,
        divisors: np.ndarray,
        rows: np.ndarray | None = None,
        **replaced: Any,
    ) -> np.ndarray:
        """The method's result for rows of channels (outline `ds`), whole along time.

        `rows` of the block are treated, the others stay as they are; None: all of them.
        """
        from penstock.io.mne.annotations import annotations_of
        from penstock.io.mne.raw import PlainRaw

        treated = np.arange(len(block)) if rows is None else rows
        values = np.empty((len(treated), block.shape[-1]))
        for value, row, divisor in zip(values, treated, divisors, strict=True):
            np.divide(block[row], divisor, out=value, dtype=np.float64)
        length = block.shape[-1] / float(info["sfreq"])
        forget_plans_unless((self, *values.shape[1:], float(info["sfreq"])))
        raw = PlainRaw(values, info, verbose="error")
        del values
        events = annotations_of(ds, float(ds["time"][0]), length, [])
        # (onsets count from the first sample)
        raw.set_annotations(events, emit_warning=False, verbose="error")
        changed = call(raw, self.method, {**self._arguments(), **replaced})
        del raw
        # (row by row: MNE-Python gives copies)
        dtype = block.dtype if block.dtype in (np.float32, np.float64) else np.float64
        out = new_array((len(block), changed.n_times), dtype)
        for number in np.setdiff1d(np.arange(len(block)), treated):
            out[number] = block[number]
        for number, row in enumerate(treated):
            found = changed.get_data(picks=[number])[0]
            found *= divisors[number]
            out[row] = found
        return out

    def _tell_lost_codes(
        self, block: np.ndarray, result: np.ndarray, ds: xr.Dataset, ctx: Context
    ) -> None:
        if self.method != "resample" or "channel_type" not in ds.variables:
            return
        lost = 0
        for row in np.flatnonzero(ds["channel_type"].values == "stim"):
            lost += rises(block[row], block[row, 0]) - rises(result[row], result[row, 0])
        ctx.remark(codes_lost(ctx.sampling_frequency, float(self.kwargs["sfreq"])), lost)

    def _moments(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        """Rows of times (n, channels): every channel at those times."""
        from penstock.io.mne.info import info_of, si_divisors
        from penstock.io.mne.raw import PlainRaw

        ds = ctx.dataset
        scale = si_divisors(ds)[:, np.newaxis]
        values = np.empty(block.shape[::-1])
        np.divide(block.T, scale, out=values)
        missing = ~np.isfinite(values)
        weights = np.zeros((0, 0))
        if missing.any():
            weights = mixing(info_of(ds), self.method, self._arguments())
            refuse_spread_to_channels(block.T, missing, weights, ctx, self.method)
            # what has no part in others must not meet them, not even with a weight of 0
            values[missing] = 0.0
        raw = PlainRaw(values, info_of(ds), verbose="error")
        del values
        changed = call(raw, self.method, self._arguments())
        del raw
        shape = (len(changed.ch_names), changed.n_times)
        dtype = block.dtype if block.dtype in (np.float32, np.float64) else np.float64
        result = new_array(shape, dtype)
        for number in range(len(result)):  # (row by row: MNE-Python gives copies)
            found = changed.get_data(picks=[number])[0]
            found *= scale[number, 0] if number < len(scale) else 1e6
            result[number] = found
        if missing.any():
            own = np.broadcast_to(np.diagonal(weights)[:, np.newaxis], missing.shape)
            stays = missing
            if self.method == "interpolate_bads":  # what is interpolated has no part in itself
                stays = missing & (own != 0)
            result[: len(scale)][stays] = block.T[stays] * own[stays]
        return result.T

    def _converted(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        before = standing_raw(ctx.dataset)
        after = call(standing_raw(ctx.dataset), self.method, self._arguments())
        _, factors = converted_units(ctx.dataset, before, after)
        if factors is None:
            return block
        axis = list(map(str, ctx.dataset[SIGNAL].dims)).index("channel")
        shape = [-1 if number == axis else 1 for number in range(block.ndim)]
        here = ctx.take("channel", factors).reshape(shape)
        out = ctx.empty(block.shape, block.dtype)
        np.multiply(block, here, out=out, casting="same_kind")
        return out


_SAMPLES_ONLY = frozenset(
    ("apply_function", "apply_hilbert", "notch_filter", "rescale", "savgol_filter")
)
"""Methods that change nothing but samples."""


def _picked(mne: Any, info: Any, picks: Any) -> list[int]:
    """Positions of the channels that a method treats; bad ones too, as in all methods of MNE."""
    raw = mne.io.RawArray(np.zeros((len(info["ch_names"]), 1)), info, verbose="error")
    names = raw.ch_names
    kept = raw.copy().pick("data" if picks is None else picks, exclude=(), verbose="error").ch_names
    return [names.index(name) for name in kept]


def _mne() -> Any:
    try:
        import mne
    except ImportError as error:
        raise ImportError('MNE() needs MNE: pip install "penstock[eeg]"') from error
    return mne
