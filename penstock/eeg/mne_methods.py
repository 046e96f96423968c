"""Methods of `mne.io.Raw` as processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, blank_variable, sampled_coordinate, sampling_frequency
from penstock.processor import Context, Processor

CHANNEL_WISE = frozenset(
    {"apply_hilbert", "filter", "notch_filter", "rescale", "resample", "savgol_filter"}
)
"""Methods that treat every channel for itself: blocks may be single channels."""


@dataclass(frozen=True, repr=False, init=False)
class MNE(Processor):
    """Any method of `mne.io.Raw` that keeps the channels, run on blocks.

    The method sees the block as a `mne.io.RawArray` in volts, with channel names, types and bad
    channels. Methods that treat every channel for itself (``filter``, ``notch_filter``,
    ``resample``, ``savgol_filter``, ``apply_hilbert``, ``rescale``) run on blocks of channels, all
    others on the whole recording at once, which must then fit the budget.

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

    method: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, method: str, **kwargs: Any) -> None:
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "kwargs", dict(kwargs))
        self.__post_init__()

    def __hash__(self) -> int:
        return hash((self.method, str(sorted(self.kwargs.items()))))

    def validate(self) -> None:
        if not self.method.isidentifier() or self.method.startswith("_"):
            raise ValueError(f"method must be the name of a method of mne.io.Raw: {self.method!r}")
        if self.method == "resample" and not isinstance(self.kwargs.get("sfreq"), int | float):
            raise ValueError("MNE('resample') needs sfreq, the new sampling frequency [Hz]")

    def parameters(self) -> dict[str, Any]:
        return {"method": self.method, **self.kwargs}

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
        ds = ctx.dataset.isel(channel=ctx.region["channel"])
        names = [str(name) for name in ds["channel"].values]
        kinds = [str(kind) for kind in ds["channel_type"].values] if "channel_type" in ds else []
        kinds = [k if k in mne.io.get_channel_type_constants() else "misc" for k in kinds]
        info = mne.create_info(names, ctx.sampling_frequency, kinds or "eeg", verbose="error")
        volts = np.asarray([1e-6 if kind in _VOLTS else 1.0 for kind in info.get_channel_types()])
        info["bads"] = [n for n, bad in zip(names, _bad(ds), strict=True) if bad]
        picks_default = self.kwargs.get("picks") is None and self.method != "resample"
        if self.method in CHANNEL_WISE and picks_default and not _has_data(mne, info):
            return block  # MNE raises where a block holds none of the channels it would treat
        raw = mne.io.RawArray(
            block.astype(np.float64) * volts[:, np.newaxis], info, verbose="error"
        )
        with mne.utils.use_log_level("error"):
            result = getattr(raw, self.method)(**self.kwargs)
        changed = result if isinstance(result, mne.io.BaseRaw) else raw
        values = changed.get_data()
        expected = ctx.output_span("time")[1] - ctx.output_span("time")[0]
        if values.shape != (block.shape[0], expected):
            raise ValueError(
                f"MNE({self.method!r}) returned shape {values.shape} for {block.shape}: processors "
                "keep the channels; use Crop, PickChannels or DropChannels to change them"
            )
        values /= volts[:, np.newaxis]
        return values


_VOLTS = frozenset({"eeg", "eog", "ecg", "emg", "ecog", "seeg", "dbs", "bio", "ref_meg"})


def _bad(ds: xr.Dataset) -> np.ndarray:
    return ds["bad"].values if "bad" in ds.variables else np.zeros(ds.sizes["channel"], bool)


def _has_data(mne: Any, info: Any) -> bool:
    return (
        len(mne.pick_types(info, meg=True, eeg=True, ecog=True, seeg=True, dbs=True, exclude=[]))
        > 0
    )


def _mne() -> Any:
    try:
        import mne
    except ImportError as error:
        raise ImportError('MNE() needs MNE: pip install "penstock[eeg]"') from error
    return mne
