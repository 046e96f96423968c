"""The loops of `peak_kernels` compiled by numba: the same results in less time.

Imported only where numba is asked for. Compiled, or taken from numba's cache, at the import: what
that takes is then known before a run begins, and no two threads compile at once.
"""

from __future__ import annotations

from typing import Any

import numba  # type: ignore[import-not-found,import-untyped]
import numpy as np

from penstock.memory.buffers import scratch_buffer
from penstock.spectra.peaks.kernels import Engine, Lines


def _compiled(function: Any) -> Any:
    return numba.njit(function, nogil=True, cache=True)


@_compiled
def _strict_maxima(
    values: np.ndarray, tolerance: float, unsure: np.ndarray, found: np.ndarray
) -> int:
    n_rows, n = values.shape
    n_found = 0
    for i in range(n_rows):
        for j in range(1, n - 1):
            rise, fall = values[i, j] - values[i, j - 1], values[i, j] - values[i, j + 1]
            if rise >= -tolerance and fall >= -tolerance:
                if rise > tolerance and fall > tolerance:
                    found[n_found] = i * n + j
                    n_found += 1
                else:
                    unsure[i] = True
    return n_found


@_compiled
def _link(
    key: np.ndarray,
    value: np.ndarray,
    row: int,
    born: np.ndarray,
    reach: int,
    gap_thresh: float,
    lines: Lines,
    live: Lines,
    ended: Lines,
) -> tuple[int, int]:
    n_lines, n_found = len(lines.key), len(key)
    after = np.empty(n_found, np.int64)
    joined = np.empty(n_found, np.int64)
    i = 0
    for j in range(n_found):
        while lines.key[i] < key[j]:
            i += 1
        to_after, to_before = lines.key[i] - key[j], key[j] - lines.key[i - 1]
        nearest = i
        if to_before < to_after or (to_before == to_after and lines.born[i - 1] < lines.born[i]):
            nearest = i - 1
        after[j] = i
        joined[j] = nearest if min(to_before, to_after) <= reach else -1
    n_live, n_ended, j = 0, 0, 0
    for i in range(n_lines):
        while j < n_found and joined[j] < 0 and after[j] == i:
            live.key[n_live], live.value[n_live] = key[j], value[j]
            live.born[n_live], live.length[n_live], live.row[n_live] = born[j], 1, row
            n_live += 1
            j += 1
        last, length, latest, height = lines.key[i], lines.length[i], lines.row[i], lines.value[i]
        while j < n_found and joined[j] == i:
            last, length, latest, height = key[j], length + 1, row, value[j]
            j += 1
        if latest - row <= gap_thresh:
            live.key[n_live], live.value[n_live] = last, height
            live.born[n_live], live.length[n_live], live.row[n_live] = lines.born[i], length, latest
            n_live += 1
        else:
            ended.key[n_ended], ended.value[n_ended] = last, height
            ended.born[n_ended], ended.length[n_ended] = lines.born[i], length
            ended.row[n_ended] = latest
            n_ended += 1
    return n_live, n_ended


def strict_maxima(values: np.ndarray, tolerance: float, unsure: np.ndarray) -> np.ndarray:
    """As `peak_kernels.strict_maxima`."""
    found = scratch_buffer("peaks found", (values.size // 2 + 1,), np.int64)
    return found[: _strict_maxima(values, tolerance, unsure, found)]


def link(
    key: np.ndarray,
    value: np.ndarray,
    row: int,
    born: np.ndarray,
    reach: int,
    gap_thresh: float,
    lines: Lines,
) -> tuple[Lines, Lines]:
    """As `peak_kernels.link`."""
    live = Lines(*(np.empty(len(lines.key) + len(key), column.dtype) for column in lines))
    ended = Lines(*(np.empty_like(column) for column in lines))
    n_live, n_ended = _link(key, value, row, born, reach, gap_thresh, lines, live, ended)
    return live.taken(slice(n_live)), ended.taken(slice(n_ended))


NUMBA = Engine(strict_maxima, link)


def _compile() -> None:
    nothing = np.zeros(0, np.int64)
    sentinels = Lines(*(np.zeros(2, kind) for kind in ("i8", "i8", "i8", "i8", "f8")))
    strict_maxima(np.zeros((1, 3)), 0.0, np.zeros(1, bool))
    link(nothing, np.zeros(0), 0, nothing, 0, 0.0, sentinels)


_compile()
