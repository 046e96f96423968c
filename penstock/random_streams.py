"""Random numbers by address: the same for any block, in any order, on any worker."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np

_GROUP = 1024
"""Occurrences whose random numbers are drawn together."""


Draws: TypeAlias = tuple[np.ndarray, np.ndarray]


def random_generator(seed: int, stream: int, channel: int, index: int) -> np.random.Generator:
    """The generator of one address. Negative channels and indices are addresses like others."""
    counter = np.array([0, index % 2**64, channel % 2**64, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed), counter=counter))


@lru_cache(maxsize=64)
def _key(seed: int) -> np.ndarray:
    return np.random.SeedSequence(seed).generate_state(2, np.uint64)


@lru_cache(maxsize=64)
def _draw_group(seed: int, stream: int, group: int) -> Draws:
    generator = random_generator(seed, stream, 0, group)
    return generator.random((_GROUP, 2)), generator.standard_normal((_GROUP, 2))


def draws(seed: int, stream: int, first: int, last: int) -> Draws:
    """Two uniform and two normal numbers for each of the occurrences ``[first, last)``."""
    groups = range(first // _GROUP, (last - 1) // _GROUP + 1)
    uniform, normal = zip(*(_draw_group(seed, stream, group) for group in groups), strict=True)
    cut = slice(first - groups.start * _GROUP, last - groups.start * _GROUP)
    return np.concatenate(uniform)[cut], np.concatenate(normal)[cut]
