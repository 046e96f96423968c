"""Rows in overlapping windows: how filters and rate changes work through a block.

Every kernel here cuts rows into overlapping windows, transforms a batch of windows at a time in
scratch memory that its thread reuses, and keeps the part of each window that the circular wrap of
the FFT does not reach. Edges are continued by odd reflection, window by window, so that no padded
copy of a row is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from penstock.memory.buffers import scratch_buffer

BATCH_BYTES = 1 << 20
"""Windows transformed together: input, spectrum and output then fit a core's L2 and L3 share, and
there are at least four of them for the FFT's vector lanes."""


def continued(
    rows: np.ndarray, first: int, size: int, start: int, stop: int, out: np.ndarray
) -> None:
    """Write samples ``[start, stop)`` of rows continued beyond their recording into `out`.

    Before and after the recording lies its odd reflection, ``2 x[0] - x[k]``, as long as the
    recording reaches, and zeros beyond (MNE's ``pad="reflect_limited"``).

    Parameters
    ----------
    rows : numpy.ndarray, shape (n_rows, n)
        Samples ``[first, first + n)`` of a recording of `size` samples. What is neither here nor
        reflected from here becomes zero.
    out : numpy.ndarray, shape (n_rows, stop - start)
    """
    n = rows.shape[-1]
    out[:] = 0
    low, high = max(start, first), min(stop, first + n)
    if low < high:
        out[:, low - start : high - start] = rows[:, low - first : high - first]
    if start < 0 and first == 0 and n:
        # position -k mirrors k: those with 1 <= k < min(size, n) exist
        far, near = min(-start, size - 1, n - 1), max(1, 1 - stop)
        if far >= near:
            part = out[:, -far - start : 1 - near - start]
            part[:] = rows[:, far : near - 1 : -1]
            edge = rows[:, :1].astype(out.dtype)
            np.subtract(2 * edge, part, out=part)
    if stop > size and first + n == size and n:
        far, near = min(stop - size, size - 1, n - 1), max(1, start - size + 1)
        if far >= near:
            part = out[:, size - 1 + near - start : size + far - start]
            part[:] = rows[:, n - 1 - far : n - near][:, ::-1]
            edge = rows[:, -1:].astype(out.dtype)
            np.subtract(2 * edge, part, out=part)


@dataclass(frozen=True)
class Place:
    """Where the rows of a block lie in their recording."""

    first: int
    """First sample of the rows."""
    size: int
    """Samples of the recording."""
    out_first: int
    """First result that is asked for, counted in samples of the result."""


@dataclass(frozen=True)
class Windows:
    """How rows are cut into windows: where they start, how far apart, and what each yields."""

    start: int
    """First sample of the first window, in the whole recording; may be negative."""
    length: int
    """Samples of a window."""
    hop: int
    """Samples from one window to the next."""
    hop_out: int
    """Results of a window."""
    skip: int = 0
    """Results of the first window that were not asked for."""
    longest: int = 0
    """Longest array that a window becomes on its way, if longer than itself."""


def windows_together(n_windows: int, longest: int, itemsize: int) -> tuple[int, int]:
    """How many rows, and how many of a row's windows, are transformed at once at the most."""
    batch = max(1, BATCH_BYTES // (longest * itemsize))
    batch -= batch % 4 if batch > 4 else 0  # the FFT's vector lanes
    return max(1, batch // n_windows), batch


Transform = Callable[[np.ndarray], np.ndarray]
"""Windows (n, length) to their results (n, hop_out)."""


def transform_windows(
    rows: np.ndarray,
    out: np.ndarray,
    windows: Windows,
    transform: Transform,
    place: Place,
    *,
    add: bool = False,
    missing: bool = False,
) -> int | None:
    """Fill `out` with what `transform` makes of the windows of rows.

    Parameters
    ----------
    rows : numpy.ndarray, shape (n_rows, n)
    out : numpy.ndarray, shape (n_rows, n_out)
    place : Place
        Where the rows lie in the recording.
    add : bool
        Add to `out` instead.
    missing : bool
        Take values that are not finite as 0 instead of refusing them. The caller marks the results
        that they reach (`mark_missing`).

    Returns
    -------
    int or None
        A row in which a value is not finite: its result is then not finite either.
    """
    n_rows, n_out = out.shape
    if not n_rows or not n_out:
        return None
    n_windows = -(-(n_out + windows.skip) // windows.hop_out)
    longest = max(windows.length, windows.longest)
    n_grouped, batch = windows_together(n_windows, longest, out.itemsize)
    n_grouped = min(n_rows, n_grouped)
    for r in range(0, n_rows, n_grouped):
        group, target = rows[r : r + n_grouped], out[r : r + n_grouped]
        k = len(group)
        for w in range(0, n_windows, batch):
            n = min(batch, n_windows - w)
            buffer = scratch_buffer("fir-windows", (k, n, windows.length), out.dtype)
            _fill(buffer, group, windows, w, place)
            if missing:
                zero_missing(buffer)
            # what is not finite in the data becomes an error below, with its place
            with np.errstate(invalid="ignore", over="ignore"):
                result = transform(buffer.reshape(k * n, windows.length)).reshape(k, n, -1)
            # a value that is not finite spreads over the whole FFT: one result a window tells
            finite = np.isfinite(result[:, :, 0]).all(axis=1)
            if not missing and not finite.all():
                return r + int(np.argmin(finite))
            _place(result, target, w * windows.hop_out - windows.skip, add)
    return None


def _fill(buffer: np.ndarray, rows: np.ndarray, windows: Windows, w: int, place: Place) -> None:
    """Copy windows ``w, w + 1, ...`` of the rows into a buffer (n_rows, n_windows, length)."""
    n_rows, n, length = buffer.shape
    first, size = place.first, place.size
    start = windows.start + w * windows.hop
    # windows inside the block are copied at once, through a view that repeats the overlaps
    inside = min(n, max(0, -(-(first - start) // windows.hop)))
    beyond = (first + rows.shape[-1] - length - start) // windows.hop + 1
    beyond = max(inside, min(n, beyond))
    if beyond > inside:
        at = start + inside * windows.hop - first
        stride = rows.strides[-1]
        view = np.lib.stride_tricks.as_strided(
            rows[:, at:],
            (n_rows, beyond - inside, length),
            (rows.strides[0], stride * windows.hop, stride),
            writeable=False,
        )
        np.copyto(buffer[:, inside:beyond], view, casting="unsafe")
    for i in (*range(inside), *range(beyond, n)):
        at = start + i * windows.hop
        continued(rows, first, size, at, at + length, buffer[:, i])


def _place(result: np.ndarray, out: np.ndarray, at: int, add: bool) -> None:
    """Write results (n_rows, n_windows, hop) into rows from position `at`, cut to the rows."""
    n_rows, n, hop = result.shape
    n_out = out.shape[-1]
    whole_from = min(n, -(-max(0, -at) // hop))
    whole_to = max(whole_from, min(n, (n_out - at) // hop))
    stretches: list[tuple[np.ndarray, np.ndarray]] = []
    if whole_to > whole_from:
        low, high = at + whole_from * hop, at + whole_to * hop
        view = out[:, low:high].reshape(n_rows, whole_to - whole_from, hop, copy=False)
        stretches.append((view, result[:, whole_from:whole_to]))
    for i in (*range(whole_from), *range(whole_to, n)):
        low, high = at + i * hop, at + (i + 1) * hop
        a, b = max(low, 0), min(high, n_out)
        if a < b:
            stretches.append((out[:, a:b], result[:, i, a - low : b - low]))
    for target, values in stretches:
        if add:
            target += values
        else:
            target[:] = values


# ---------------------------------------------------------------------- missing values


def mark_missing(rows: np.ndarray, out: np.ndarray, offset: int, before: int, after: int) -> None:
    """Make NaN of the results that a value reaches which is not finite.

    Parameters
    ----------
    rows : numpy.ndarray, shape (n_rows, n)
        The values that were filtered.
    out : numpy.ndarray, shape (n_rows, n_out)
        The results; ``out[:, i]`` belongs to ``rows[:, i + offset]``.
    before, after : int
        How many results before and after its own a value reaches.
    """
    if rows.dtype.kind != "f":
        return
    for row, results in zip(rows, out, strict=True):
        for start, stop in missing_stretches(row):
            low, high = start - before - offset, stop + after - offset
            results[max(0, low) : max(0, high)] = np.nan


def zero_missing(values: np.ndarray) -> None:
    """Make 0, in place, of what is not finite."""
    for at in range(0, values.shape[-1], 1 << 16):
        part = values[..., at : at + (1 << 16)]
        part[~np.isfinite(part)] = 0


def missing_stretches(row: np.ndarray, length: int = 1 << 16) -> Iterator[tuple[int, int]]:
    """Where a row is not finite: ``(first, one past last)``, searched a stretch at a time."""
    for at in range(0, len(row), length):
        wrong = ~np.isfinite(row[at : at + length])
        if wrong.any():
            edges = np.flatnonzero(np.diff(wrong, prepend=False, append=False))
            for start, stop in edges.reshape(-1, 2).tolist():
                yield at + start, at + stop


# ---------------------------------------------------------------------- blocks of any dims


def each_matrix(
    block: np.ndarray, out: np.ndarray, picked: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of any leading dims as matrices (n_rows, n), without copying: views of both arrays.

    `picked` holds one value for every row, in the shape of the leading dims.
    """
    if block.ndim == 2:
        yield block, out, picked
    elif block.ndim == 1:
        yield block[np.newaxis], out[np.newaxis], picked.reshape(1)
    elif block.flags.c_contiguous and out.flags.c_contiguous:
        yield (
            block.reshape(-1, block.shape[-1]),
            out.reshape(-1, out.shape[-1]),
            picked.reshape(-1),
        )
    else:
        for part, part_out, part_picked in zip(block, out, picked, strict=True):
            yield from each_matrix(part, part_out, part_picked)


def runs(picked: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Stretches of equal values in a vector of bools or whole numbers: ``(value, where)``."""
    edges = (np.flatnonzero(np.diff(picked)) + 1).tolist()
    for start, stop in zip((0, *edges), (*edges, len(picked)), strict=True):
        if stop > start:
            yield int(picked[start]), slice(start, stop)
