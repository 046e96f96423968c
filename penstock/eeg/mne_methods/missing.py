"""Values that are not finite where methods of MNE-Python would spread them.

MNE-Python says nothing of them: one missing value becomes a missing channel, or a missing moment of
all channels. Here the rule of Penstock's own steps holds: an error that names channel and time for
what would be spread, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.eeg.mne_methods.outline import ZEROS, call
from penstock.eeg.picks import bad_rows, channel_names, listed, refuse_not_finite
from penstock.eeg.stretches import SKIPPED, stretches
from penstock.processor import Context

_NEGLIGIBLE = 1e-12
"""Weight of a channel in another, beside the largest, that is a rounding error."""


def refuse_spread_in_time(
    block: np.ndarray, treated: np.ndarray, ctx: Context, method: str, arguments: Mapping[str, Any]
) -> None:
    """Raise for a good channel with a value that a method would spread along time.

    Parameters
    ----------
    block : numpy.ndarray, shape (channels, times)
        Whole along time.
    treated : numpy.ndarray of bool, shape (channels,)
        Which rows the method changes.
    ctx : Context
    method : str
    arguments : mapping
        What is given to the method.
    """
    checked = treated & ~bad_rows(ctx)
    if method == "resample":
        if float(arguments["sfreq"]) == ctx.sampling_frequency:
            return  # (MNE-Python leaves it as it is)
        if "channel_type" in ctx.dataset.variables:
            # (of codes one sample is taken for each new one)
            kinds = np.asarray(ctx.dataset["channel_type"].values).astype(str)
            checked &= ctx.take("channel", kinds != "stim")
    checked[checked] = ~np.isfinite(block[checked]).all(axis=-1)
    if not checked.any():
        return
    rows = block[checked]
    if method in ("filter", "notch_filter"):
        skip = arguments.get("skip_by_annotation", SKIPPED)
        for part in stretches(ctx.dataset, skip if isinstance(skip, str) else tuple(skip or ())):
            if part.skipped:  # passed on as it is
                rows[:, part.start : part.stop] = 0
    checked[checked] = ~np.isfinite(rows).all(axis=-1)
    if checked.any():
        shown = np.zeros_like(block)
        shown[checked] = rows[~np.isfinite(rows).all(axis=-1)]
        refuse_not_finite(shown, checked, ctx, f"MNE({method!r})")


def mixing_bytes(n_channels: int) -> int:
    """What `mixing` takes at most [bytes]."""
    return 6 * 8 * n_channels * max(n_channels, ZEROS)


def mixing(info: Any, method: str, arguments: Mapping[str, Any]) -> np.ndarray:
    """How much of every channel a method puts into every channel at the same time.

    Returns
    -------
    numpy.ndarray of float64, shape (n_channels_after, n_channels)
        In SI units; 0 where a channel has no part in another.
    """
    from penstock.io.mne.raw import PlainRaw

    n = len(info["ch_names"])
    # one channel at a time is 1 (some methods want more than a few samples)
    probe = np.eye(n, max(n, ZEROS))
    raw = PlainRaw(probe, info, verbose="error")
    weights: np.ndarray = np.nan_to_num(call(raw, method, arguments).get_data()[:, :n])
    largest = np.abs(weights).max(axis=1, keepdims=True)
    weights[np.abs(weights) <= _NEGLIGIBLE * largest] = 0.0
    return weights


def refuse_spread_to_channels(
    block: np.ndarray, wrong: np.ndarray, weights: np.ndarray, ctx: Context, method: str
) -> None:
    """Raise for a channel with a value that a method would spread to others.

    Parameters
    ----------
    block, wrong : numpy.ndarray, shape (channels, times)
        Values, and which of them are not finite.
    weights : numpy.ndarray
        See `mixing`.
    ctx : Context
    method : str
    """
    bad = np.broadcast_to(bad_rows(ctx), len(block))
    for channel in np.flatnonzero(wrong.any(axis=1)):
        others = np.flatnonzero(weights[:, channel])
        others = others[others != channel]
        if not len(others):
            continue
        picked = np.arange(len(block)) == channel
        advice = None
        if bad[channel]:
            names = channel_names(ctx.dataset)[others[others < len(block)]]
            advice = (
                f"they would spoil {listed(names)}, which are made of it: interpolate them, crop "
                "them away, or name channels without such values"
            )
        refuse_not_finite(block, picked, ctx, f"MNE({method!r})", advice)
