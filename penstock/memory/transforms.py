"""What Fourier transforms of whole rows take, and what SciPy keeps of them.

`scipy.fft` keeps the plans of the last 16 lengths of a type for as long as the process lives: for
long rows of many lengths that would be memory which no block gives back.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
import scipy.fft

PLANS_KEPT = 16
"""Plans that `scipy.fft` keeps of each type."""


def transform_bytes(n: int, itemsize: int = 8) -> int:
    """Memory of a real transform of `n` samples, one way: result, buffer and plan [bytes].

    Its input is not counted. Measured: three times the row; lengths with a large prime factor are
    done as a convolution of more than twice the length, which takes 19 times the row.
    """
    if _is_convolved(n):
        return int(9.6 * itemsize * scipy.fft.next_fast_len(2 * n - 1))
    return 3 * itemsize * n


def plan_bytes(n: int, itemsize: int = 8) -> int:
    """What stays of it until other lengths are transformed: the plan [bytes]."""
    if _is_convolved(n):
        return int(4.1 * itemsize * scipy.fft.next_fast_len(2 * n - 1))
    return itemsize * n


@lru_cache(maxsize=256)
def _is_convolved(n: int) -> bool:
    """Whether the transform goes through a convolution (Bluestein), by the rule of pocketfft."""
    if n < 50:
        return False
    cost, largest = _cost(n)
    if largest * largest <= n:
        return False
    return 3 * _cost(scipy.fft.next_fast_len(2 * n - 1))[0] < cost


def _cost(n: int) -> tuple[float, int]:
    """Guessed cost of a transform, and the largest prime factor of its length."""
    left, cost, largest, factor = n, 0.0, 1, 2
    while factor * factor <= left:
        while left % factor == 0:
            cost += factor if factor <= 5 else 1.1 * factor
            left, largest = left // factor, factor
        factor += 1 if factor == 2 else 2
    if left > 1:
        cost += left if left <= 5 else 1.1 * left
        largest = max(largest, left)
    return cost * n, largest


_lock = threading.Lock()
_last: list[object] = [None]


def forget_plans_unless(lengths: object) -> None:
    """Let SciPy forget plans of long rows where rows of other lengths come now.

    `lengths` is anything that tells the transforms that follow from others. Only small transforms
    make room: the plans that are kept are those of the last few lengths.
    """
    with _lock:
        if _last[0] == lengths:
            return
        _last[0] = lengths
    for dtype in (np.float32, np.float64):
        for n in range(PLANS_KEPT):
            values = np.zeros(20 + n, dtype)
            scipy.fft.rfft(values)
            scipy.fft.fft(values.astype(np.result_type(dtype, np.complex64)))
