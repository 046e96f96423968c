"""Which channels a processor works on, and what it says where they are missing or not finite.

Channels are described by the coordinates ``channel`` (names), ``channel_type`` and ``bad``; data
without them (grids, simulated arrays) are taken whole.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np

from penstock.dataset import SIGNAL, blank_variable, indexer_length, sampled_index
from penstock.processor import Context

if TYPE_CHECKING:
    import xarray as xr

Picks = str | tuple[str, ...] | None

MEG_TYPES = ("mag", "grad", "planar1", "planar2", "ref_meg")
FNIRS_TYPES = (
    "hbo",
    "hbr",
    "fnirs_cw_amplitude",
    "fnirs_fd_ac_amplitude",
    "fnirs_fd_phase",
    "fnirs_od",
    "fnirs_td_gated_amplitude",
    "fnirs_td_moments_intensity",
    "fnirs_td_moments_mean",
    "fnirs_td_moments_variance",
)
ELECTRODE_TYPES = ("eeg", "ecog", "seeg", "dbs")
DATA_TYPES = frozenset(("meg", "csd", "fnirs", *ELECTRODE_TYPES, *MEG_TYPES, *FNIRS_TYPES))
"""Channel types that carry brain signals: what MNE filters unless told otherwise."""
OTHER_TYPES = frozenset(
    ("eog", "ecg", "emg", "bio", "resp", "stim", "misc", "syst", "exci", "ias", "chpi", "gsr",
     "temperature", "eyegaze", "pupil", "dipole", "gof")
)  # fmt: skip
TYPE_GROUPS = {"meg": MEG_TYPES[:4], "fnirs": FNIRS_TYPES, "data": tuple(DATA_TYPES)}


def channel_names(ds: xr.Dataset) -> np.ndarray:
    """Names of the channels, shape (n_channels,); their numbers where they have no names."""
    if "channel" in ds.coords:
        return np.asarray(ds["channel"].values).astype(str)
    return np.arange(ds.sizes["channel"]).astype(str)


def channel_kinds(ds: xr.Dataset) -> np.ndarray | None:
    """Types of the channels (``"eeg"``, ``"stim"``, ...), or None where none are given."""
    if "channel_type" not in ds.variables:
        return None
    return np.asarray(ds["channel_type"].values).astype(str)


def pick_mask(ds: xr.Dataset, picks: Picks, name: str = "picks") -> np.ndarray:
    """Which channels are meant, as bools.

    Parameters
    ----------
    ds : xarray.Dataset
        With a dim ``channel``.
    picks : str, tuple of str or None
        Channel names or types (``"meg"`` and ``"fnirs"`` stand for all of their kind), ``"all"``
        for all but stimulus channels, None for the data channels (see `DATA_TYPES`), bad ones
        included. Where no types are given, None and ``"all"`` mean all channels.
    name : str
        What the message begins with.

    Returns
    -------
    numpy.ndarray of bool, shape (n_channels,)

    Raises
    ------
    ValueError
        If a name is unknown, or nothing is picked.
    """
    kinds, n = channel_kinds(ds), ds.sizes["channel"]
    if picks is None:
        if kinds is None:
            return np.ones(n, bool)
        mask = np.isin(kinds, list(DATA_TYPES))
        if not mask.any():
            found = ", ".join(sorted(set(kinds))) or "none"
            raise ValueError(
                f"{name}: there is no data channel among the channel types of this recording "
                f"({found}): say which to take with picks=..., for example picks='all'"
            )
        return mask
    wanted = (picks,) if isinstance(picks, str) else picks
    if wanted == ("all",):
        return np.ones(n, bool) if kinds is None else kinds != "stim"
    names = channel_names(ds)
    mask = np.zeros(n, bool)
    for pick in wanted:
        found_here = names == pick
        if not found_here.any() and kinds is not None:
            found_here = np.isin(kinds, TYPE_GROUPS.get(pick, (pick,)))
        if not found_here.any():
            raise ValueError(f"{name}: {unknown_channel(pick, names, kinds)}")
        mask |= found_here
    if not mask.any():
        raise ValueError(f"{name}: picks={picks!r} picks no channel")
    return mask


def unknown_channel(pick: str, names: np.ndarray, kinds: np.ndarray | None) -> str:
    """One sentence about a channel name or type that is not there."""
    known = [*map(str, names), *(sorted(map(str, set(kinds))) if kinds is not None else ())]
    near = difflib.get_close_matches(pick, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "it has " + listed(names)
    if pick in DATA_TYPES | OTHER_TYPES:
        present = ", ".join(sorted(set(kinds))) if kinds is not None else "not given"
        return f"the recording has no channel of type {pick!r} (its types: {present})"
    return f"the recording has no channel {pick!r}: {hint}"


def listed(names: np.ndarray, most: int = 8) -> str:
    """Names in one line, cut short where there are many."""
    shown = ", ".join(map(str, names[:most]))
    return shown + (f", ... ({len(names)} in all)" if len(names) > most else "")


def loop_dims(ds: xr.Dataset, core_dims: tuple[str, ...]) -> tuple[str, ...]:
    """The signal's other dims, in the order in which they come first in a kernel's block."""
    return tuple(str(dim) for dim in ds[SIGNAL].dims if dim not in core_dims)


def picked_rows(ds: xr.Dataset, picks: Picks, name: str, ctx: Context | None = None) -> np.ndarray:
    """Which rows of a block (core dim: time) are picked, in the shape of its leading dims.

    Without `ctx`: of the whole dataset.
    """
    dims = loop_dims(ds, ("time",))
    if "channel" in dims:
        mask = pick_mask(ds, picks, name)
    elif picks is None or picks == "all":
        mask = np.ones(1, bool)
    else:
        raise ValueError(
            f"{name}: picks={picks!r} needs a dim 'channel', but the data have "
            f"{tuple(map(str, ds[SIGNAL].dims))}: leave picks out"
        )
    return mask if ctx is None else _of_rows(mask, dims, ctx)


def bad_rows(ctx: Context) -> np.ndarray:
    """Which rows of a block (core dim: time) are of channels marked bad, as `picked_rows`."""
    dims = loop_dims(ctx.dataset, ("time",))
    if "channel" in dims and "bad" in ctx.dataset.variables:
        return _of_rows(np.asarray(ctx.dataset["bad"].values, dtype=bool), dims, ctx)
    return _of_rows(np.zeros(1, bool), (), ctx)


PASSED, PICKED, TOLERATED = 0, 1, 2
"""What a kernel does with a row: pass it on, treat it, or treat it and carry what is missing."""


def row_kinds(ds: xr.Dataset, picks: Picks, name: str, ctx: Context) -> np.ndarray:
    """Which rows of a block are passed on, picked, or picked though marked bad.

    A value that is not finite is an error in a picked channel; in a bad one it is what "bad" says.
    """
    picked = picked_rows(ds, picks, name, ctx)
    return np.where(picked, np.where(bad_rows(ctx), TOLERATED, PICKED), PASSED)


def _of_rows(mask: np.ndarray, dims: tuple[str, ...], ctx: Context) -> np.ndarray:
    """One value a channel (or a single one) for every row of a block."""
    loops = loop_dims(ctx.dataset, ("time",))
    if "channel" in dims:
        mask = ctx.take("channel", mask)
        mask = mask.reshape([-1 if dim == "channel" else 1 for dim in loops])
    else:
        mask = mask.reshape((1,) * len(loops))
    shape = tuple(indexer_length(ctx.region[dim]) for dim in loops)
    return np.broadcast_to(mask, shape).copy()


def floating_outline(ds: xr.Dataset, name: str) -> xr.Dataset:
    """The outline with a floating signal: float32 unless it is float64 already."""
    signal = ds[SIGNAL]
    if signal.dtype.kind == "c":
        raise ValueError(f"{name} works on real values, but the signal is {signal.dtype}")
    if signal.dtype in (np.float32, np.float64):
        return ds
    dims = tuple(map(str, signal.dims))
    return ds.assign({SIGNAL: blank_variable(dims, signal.shape, np.float32, signal.attrs)})


def refuse_not_finite(
    block: np.ndarray, picked: np.ndarray, ctx: Context, name: str, advice: str | None = None
) -> None:
    """Raise for the first picked row of a block (time comes last) that is not finite: which, where.

    Values that became infinite only in the computation are named as such. `advice` says what to
    do, where it is not the usual.
    """
    dims = loop_dims(ctx.dataset, ("time",))
    times = ctx.take("time", np.arange(ctx.size("time")))

    def place_of(index: np.ndarray) -> str:
        place = []
        for dim, i in zip(dims, index, strict=True):
            position = ctx.take(dim, np.arange(ctx.size(dim)))[i]
            shown = channel_names(ctx.dataset)[position] if dim == "channel" else position
            place.append(f"{dim} {str(shown)!r}" if dim == "channel" else f"{dim} {shown}")
        return ", ".join(place) or "the signal"

    advice = advice or (
        "interpolate them, crop them away, mark the channel bad or drop it (DropChannels) first"
    )
    whole = len(times) == ctx.size("time")
    for index in np.argwhere(picked):
        row = block[tuple(index)]
        wrong = np.flatnonzero(~np.isfinite(row))
        if not len(wrong):
            continue
        coordinate = sampled_index(ctx.dataset)
        start = 0.0 if coordinate is None else coordinate.start
        seconds = start + int(times[wrong[0]]) / ctx.sampling_frequency
        at_least = "" if whole else "at least "
        one = len(wrong) == 1
        raise ValueError(
            f"{name}: {place_of(index)} has {at_least}{len(wrong)} value{'' if one else 's'} that "
            f"{'is' if one else 'are'} not finite (NaN or infinite), the first at {seconds:g} s: "
            f"{advice}"
        )
    if not whole and picked.any():
        raise ValueError(
            f"{name}: {place_of(np.argwhere(picked)[0])} has values that are not finite (NaN or "
            f"infinite), or too large for {block.dtype}: {advice}"
        )
    raise ValueError(
        f"{name}: the values are too large for {block.dtype}: convert the signal to float64, or "
        "check its units"
    )
