"""Options of `open_dataset` that mean the same for every format, and what is wrong with others."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, sampling_frequency

CASES: dict[str, tuple[Any, ...]] = {"gaps": ("raise", "join")}
"""Options that say what to do in a case which most formats do not know, and their values."""


def options_for(
    name: str, function: Callable[..., Any], path: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that a reader is called with, of those that were given.

    Parameters
    ----------
    name : str
        Of the reader, for messages.
    function : callable
        Its function.
    path : str
        The recording.
    given : mapping
        Options by name. What a format cannot come across (`CASES`) is left out.

    Raises
    ------
    ValueError
        If the reader does not know one, with what may have been meant.
    """
    parameters = inspect.signature(function).parameters
    known = [n for n, p in list(parameters.items())[1:] if p.kind is not p.VAR_KEYWORD]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    options = dict(given)
    for option, values in CASES.items():
        if option in options and options[option] not in values:
            shown = " or ".join(map(repr, values))
            raise ValueError(f"{option} must be {shown}, got {options[option]!r}")
        if option not in known:
            options.pop(option, None)
    if "rate" not in known:
        options.pop("rate", None)  # (`check_rate` sees to it)
    unknown = [option for option in options if option not in known]
    if unknown and not takes_any:
        close = difflib.get_close_matches(unknown[0], [*known, *COMMON], n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"the {name} reader cannot open {path} with the option {unknown[0]!r}{meant}: it knows "
            f"{', '.join(known) or 'none'}"
        )
    return options


def takes(function: Callable[..., Any], option: str) -> bool:
    """Whether a function has a parameter of that name."""
    return option in inspect.signature(function).parameters


COMMON = ("rate", "gaps", "channel_types", "bads", "sidecars", "dtype", "engine")
"""Options of `open_dataset` itself."""


def check_rate(ds: xr.Dataset, rate: float | None, path: str) -> xr.Dataset:
    """The dataset, if it is sampled at that rate [Hz], or no rate is asked for.

    Raises
    ------
    ValueError
        If it is not.
    """
    if rate is None:
        return ds
    if SIGNAL not in ds or "time" not in ds[SIGNAL].dims:
        raise ValueError(f"{path} is not sampled in time: leave out rate")
    found = sampling_frequency(ds)
    if abs(found - rate) > 1e-6 * abs(rate):
        raise ValueError(f"no channel of {path} is sampled at {rate:g} Hz: it has {found:g} Hz")
    return ds


def with_bads(ds: xr.Dataset, bads: Iterable[str] | str | None, path: str) -> xr.Dataset:
    """The dataset with channels marked as bad, beside those that the file says are.

    Parameters
    ----------
    ds : xarray.Dataset
        With channels, in one group or several (``channel``, ``channel_500Hz``).
    bads : iterable of str or None
        Their names.
    path : str
        Of the recording, for messages.

    Raises
    ------
    ValueError
        If a channel is not there.
    """
    if not bads:
        return ds
    wanted = [bads] if isinstance(bads, str) else [str(name) for name in bads]
    dims = [str(d) for d in ds.dims if str(d).startswith("channel") and d in ds.coords]
    names = {dim: [str(name) for name in ds[dim].values] for dim in dims}
    known = [name for there in names.values() for name in there]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        named = ", ".join(map(repr, unknown))
        raise ValueError(f"bads names {named}, not in {path}: {_meant(unknown[0], known)}")
    for dim, there in names.items():
        suffix = dim.removeprefix("channel")
        bad = np.isin(there, wanted)
        if f"bad{suffix}" in ds.coords:
            bad |= ds[f"bad{suffix}"].values.astype(bool)
        if bad.any() or f"bad{suffix}" in ds.coords:
            ds = ds.assign_coords({f"bad{suffix}": (dim, bad)})
    return ds


def _meant(name: str, known: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"its channels are {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
