"""Methods of `mne.io.Raw` as processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, blank_variable, sampled_coordinate, sampling_frequency
from penstock.processor import Context, Processor, _plain

PICKING = frozenset({"apply_hilbert", "filter", "notch_filter"})
"""Channel-wise methods that leave out channels: those not picked, by default all without data."""
CHANNEL_WISE = PICKING | {"resample", "savgol_filter"}
"""Methods that treat every channel for itself: blocks may be single channels."""


@dataclass(frozen=True, repr=False, init=False)
class MNE(Processor):
    """Any method of `mne.io.Raw` that keeps the channels, run on blocks.

    The method sees the block as a `mne.io.RawArray` in volts, with channel names, types and bad
    channels. Methods that treat every channel for itself (``filter``, ``notch_filter``,
    ``resample``, ``savgol_filter``, ``apply_hilbert``) run on blocks of channels, all others on the
    whole recording at once, which must then fit the budget.

    Parameters
    ----------
    method : str
        Name of a method of `mne.io.Raw`.
    **kwargs
        Its arguments, as plain values.

    Raises
    ------
    ValueError
        If there is no such method, or its result has another shape (``crop``, ``pick``: use `Crop`,
        `PickChannels`).

    Notes
    -----
    MNE works in float64 and makes several copies; Penstock's own processors give the same results
    in a fraction of the memory. A stretch of a recording is never filtered alone: time is whole.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.eeg import MNE
    >>> ds = ps.make_dataset(np.random.randn(2, 2000), sampling_frequency=200.0, units="uV")
    >>> ps.Pipeline([MNE("savgol_filter", h_freq=30.0)])(ds).signal.shape
    (2, 2000)
    """

    modules = ("mne",)

    method: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, method: str | None = None, /, **kwargs: Any) -> None:
        # (``filter`` and ``resample`` have a parameter ``method`` of their own)
        if method is None:
            if "method" not in kwargs:
                raise TypeError("MNE() misses its required argument 'method'")
            method = kwargs.pop("method")
            kwargs = {**kwargs.pop("kwargs", {}), **kwargs}
        object.__setattr__(self, "method", method)
        object.__setattr__(
            self, "kwargs", {k: v if callable(v) else _plain(v) for k, v in kwargs.items()}
        )
        self.__post_init__()

    def __repr__(self) -> str:
        given = [repr(self.method), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"MNE({', '.join(given)})"

    def __hash__(self) -> int:
        return hash((self.method, str(sorted(self.kwargs.items()))))

    def validate(self) -> None:
        if not self.method.isidentifier() or self.method.startswith("_"):
            raise ValueError(f"method must be the name of a method of mne.io.Raw: {self.method!r}")
        if self.method == "resample" and not isinstance(self.kwargs.get("sfreq"), int | float):
            raise ValueError("MNE('resample') needs sfreq, the new sampling frequency [Hz]")
        if self.method == "apply_hilbert" and not self.kwargs.get("envelope"):
            raise ValueError("MNE('apply_hilbert') would make complex values: give envelope=True")

    def parameters(self) -> dict[str, Any]:
        kwargs = _plain(self.kwargs)
        if "method" in kwargs:
            return {"method": self.method, "kwargs": kwargs}
        return {"method": self.method, **kwargs}

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("time",) if self.method in CHANNEL_WISE else ("channel", "time")

    @property
    def scratch(self) -> float:  # type: ignore[override]
        # measured (float32 input): float64 copies, padded rows, FFTs of the next power of two
        return 46.0 if self.method == "resample" else 12.0

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        mne = _mne()
        if not callable(getattr(mne.io.BaseRaw, self.method, None)):
            raise ValueError(f"mne.io.Raw has no method {self.method!r}")
        if self.method != "resample":
            return ds
        before, after = sampling_frequency(ds), float(self.kwargs["sfreq"])
        size = max(1, round(ds.sizes["time"] * after / before))
        start = float(ds["time"].values[0]) if ds.sizes["time"] else 0.0
        signal = ds[SIGNAL]
        shape = tuple(size if d == "time" else n for d, n in signal.sizes.items())
        blank = blank_variable(tuple(map(str, signal.dims)), shape, signal.dtype, signal.attrs)
        rest = ds.drop_vars([n for n, v in ds.variables.items() if "time" in v.dims])
        return rest.assign({SIGNAL: blank}).assign_coords(
            sampled_coordinate("time", size, after, start)
        )

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        mne = _mne()
        expected = ctx.output_span("time")[1] - ctx.output_span("time")[0]
        if self.method not in PICKING:
            return self._call(mne, block, _info(mne, ctx.dataset, ctx.region["channel"]), expected)
        # which channels MNE treats must not depend on which others are in the block
        everything = np.arange(ctx.size("channel"))
        whole = _info(mne, ctx.dataset, everything)
        treated = np.isin(everything, _picked(mne, whole, self.kwargs.get("picks")))
        here = np.flatnonzero(ctx.take("channel", treated))
        if not len(here):
            return block
        info = mne.pick_info(whole, ctx.take("channel", everything)[here], verbose="error")
        out = block.astype(np.float64)
        out[here] = self._call(mne, block[here], info, expected, picks="all")
        return out

    def _call(
        self, mne: Any, block: np.ndarray, info: Any, expected: int, **replaced: Any
    ) -> np.ndarray:
        """The method's result for a block whose channels `info` describes."""
        scale = [1e-6 if kind in _VOLTS else 1.0 for kind in info.get_channel_types()]
        volts = np.asarray(scale)[:, np.newaxis]
        raw = mne.io.RawArray(block.astype(np.float64) * volts, info, verbose="error")
        with mne.utils.use_log_level("error"):
            result = getattr(raw, self.method)(**{**self.kwargs, **replaced})
        changed = result if isinstance(result, mne.io.BaseRaw) else raw
        values: np.ndarray = changed.get_data()
        if values.shape != (block.shape[0], expected):
            raise ValueError(
                f"MNE({self.method!r}) returned shape {values.shape} for {block.shape}: processors "
                "keep the channels; use Crop, PickChannels or DropChannels to change them"
            )
        values /= volts
        return values


def _info(mne: Any, ds: xr.Dataset, channels: Any) -> Any:
    """What MNE must know of some channels: names, types, which are bad."""
    ds = ds.isel(channel=channels)
    names = [str(name) for name in ds["channel"].values]
    known = mne.io.get_channel_type_constants()
    kinds = [str(kind) for kind in ds["channel_type"].values] if "channel_type" in ds else []
    kinds = [kind if kind in known else "misc" for kind in kinds]
    info = mne.create_info(names, sampling_frequency(ds), kinds or "eeg", verbose="error")
    bad = ds["bad"].values if "bad" in ds.variables else np.zeros(len(names), bool)
    info["bads"] = [name for name, is_bad in zip(info["ch_names"], bad, strict=True) if is_bad]
    return info


def _picked(mne: Any, info: Any, picks: Any) -> list[int]:
    """Positions of the channels that a method treats; bad ones too, as in all methods of MNE."""
    raw = mne.io.RawArray(np.zeros((len(info["ch_names"]), 1)), info, verbose="error")
    names = raw.ch_names
    kept = raw.copy().pick("data" if picks is None else picks, exclude=(), verbose="error").ch_names
    return [names.index(name) for name in kept]


_VOLTS = frozenset({"eeg", "eog", "ecg", "emg", "ecog", "seeg", "dbs", "bio", "ref_meg"})


def _mne() -> Any:
    try:
        import mne
    except ImportError as error:
        raise ImportError('MNE() needs MNE: pip install "penstock[eeg]"') from error
    return mne
