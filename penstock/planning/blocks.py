"""Blocks: how a result is cut, what a block costs, and the best shape within a budget."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

from penstock.dataset import SIGNAL, Region
from penstock.errors import BudgetError as BudgetError
from penstock.memory.accounting import MIB
from penstock.planning.chain import BlockBytes, Chain
from penstock.reading import reading_of
from penstock.storage.store import CHUNK_BYTES, QUANTUM, fill_shape, write_buffer_bytes

TARGET_BYTES = 32 * MIB
"""Largest block worth making: beyond it a task is no more efficient, only bigger."""
SMALL_BYTES = 8 * MIB
"""A block below this takes less than `SMALL_SECONDS` where kernels are fast."""
SMALL_SECONDS = 0.05
"""Below this the overhead of a task begins to show."""
BLOCK_SECONDS = 5.0
"""Longest block worth making where a position takes long: what a crash may cost, and a worker waits
for at the end."""
BLOCKS_PER_THREAD = 4
"""At least so many blocks a thread where they are large enough: all threads end together."""
FINE_QUANTUM = 1 << 10
"""Cuts along a core dim fall on multiples of this many samples where chunks allow it."""
MARGIN_LIMIT = 0.25
"""Extra samples read for margins, above which whole rows are preferred even on fewer threads."""


@dataclass(frozen=True)
class Grid:
    """Blocks of a result: its dims cut every `block` elements. Never listed, only counted."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each dim."""
        return tuple(-(-n // max(1, b)) for n, b in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def region(self, number: int) -> Region:
        """Region of one block, counted in C order."""
        region: Region = {}
        for dim, size, unit, count in reversed(
            list(zip(self.dims, self.shape, self.block, self.counts, strict=True))
        ):
            number, i = divmod(number, max(1, count))
            region[dim] = slice(i * unit, min((i + 1) * unit, size))
        return {dim: region[dim] for dim in self.dims}

    def middle(self) -> Region:
        """A block in the middle: one with its full margins."""
        number = 0
        for count in self.counts:
            number = number * count + (count - 1) // 2
        return self.region(number)


@dataclass(frozen=True)
class Choice:
    """A block shape with what it costs."""

    block: tuple[int, ...]
    bytes: BlockBytes
    n_blocks: int
    overhead: float
    """Extra source values read for margins, as a fraction."""


def block_cost(chain: Chain, grid: Grid, *, write: bool = True) -> BlockBytes:
    """Memory of a block of a grid: computing it, then (with `write`) encoding it."""
    cost = chain.block_bytes(grid.middle())
    if write:
        cost = replace(cost, peak=max(cost.peak, cost.result + write_buffer_bytes(cost.result)))
    return cost


def choose_block(
    chain: Chain,
    slot: int,
    *,
    concurrency: int,
    single: bool = False,
    write: bool = False,
    target: int | None = None,
) -> Choice | None:
    """Best block shape of which one fits into `slot` bytes, or None.

    Blocks are not made larger than `target` bytes (`TARGET_BYTES`) where they can be smaller.

    Rows are kept whole along core dims if one row fits; otherwise core dims that allow it are cut
    into the longest stretches that fit. Sources that interleave rows are read in stretches of all
    rows where margins stay small, because then the file is read once.
    """
    cuttable = chain.cuttable()
    free = [dim for dim, is_free in cuttable.items() if is_free]
    stretched = [dim for dim, is_free in cuttable.items() if not is_free]
    slowest = _slowest_dim(chain)
    if slowest in free and len(free) > 1 and not single:
        # what lies together in the file stays together: blocks are runs of its slowest dim
        in_order = _choose(chain, slot, [slowest], [], concurrency, write=write, target=target)
        if in_order is not None:
            return in_order
    return _choose(
        chain, slot, free, stretched, concurrency, single=single, write=write, target=target
    )


def shortest_stretch(chain: Chain) -> Choice | None:
    """The smallest block worth making where a core dim may be cut: a short stretch of one row.

    None where core dims must be whole: then the smallest block is a row.
    """
    cuttable = chain.cuttable()
    stretched = [dim for dim, is_free in cuttable.items() if not is_free]
    if not stretched:
        return None
    sizes = dict(zip(chain.dims, chain.shape, strict=True))
    block = {dim: 1 if cuttable.get(dim) else size for dim, size in sizes.items()}
    block[stretched[0]] = min(QUANTUM, sizes[stretched[0]])
    grid = Grid(chain.dims, chain.shape, tuple(block.values()))
    return Choice(grid.block, block_cost(chain, grid, write=False), len(grid), 0.0)


def _slowest_dim(chain: Chain) -> str | None:
    """The dim that varies slowest in a file whose leading dims vary fastest; None for others."""
    source = chain.source.variables[SIGNAL]
    return str(source.dims[-1]) if reading_of(source).interleaved else None


def _choose(
    chain: Chain,
    slot: int,
    free: list[str],
    stretched: list[str],
    concurrency: int,
    *,
    single: bool = False,
    write: bool = False,
    target: int | None = None,
) -> Choice | None:
    target = target or TARGET_BYTES
    sizes = dict(zip(chain.dims, chain.shape, strict=True))
    free_shape = tuple(sizes[dim] for dim in free)
    n_free = math.prod(free_shape)

    @functools.cache
    def alone_bytes() -> BlockBytes:
        """Of everything as one block."""
        return chain.block_bytes(Grid(chain.dims, chain.shape, chain.shape).region(0))

    @functools.cache
    def choice(n_rows: int, length: int | None = None) -> Choice:
        rows = dict(zip(free, fill_shape(free_shape, n_rows), strict=True))
        block = {dim: rows.get(dim, sizes[dim]) for dim in chain.dims}
        if length is not None:
            block[stretched[0]] = min(length, sizes[stretched[0]])
        grid = Grid(chain.dims, chain.shape, tuple(block.values()))
        cost = block_cost(chain, grid, write=write)
        overhead = 0.0
        if length is not None:
            alone = alone_bytes()
            per_element = alone.source_elements / max(1, math.prod(chain.shape))
            asked = math.prod(min(b, s) for b, s in zip(grid.block, chain.shape, strict=True))
            overhead = max(0.0, cost.source_elements / max(1e-9, per_element * asked) - 1)
        return Choice(grid.block, cost, len(grid), overhead)

    def most(low: int, high: int, fits: Any) -> int:
        """Largest value in [low, high] that fits; low - 1 if none does."""
        if not fits(low):
            return low - 1
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle):
                low = middle
            else:
                high = middle - 1
        return low

    def even(total: int, size: int) -> int:
        """At most `size`, so that blocks are equal and, where they are few, share out evenly."""
        n_blocks = max(1, -(-total // size))
        if 1 < n_blocks < 2 * BLOCKS_PER_THREAD * concurrency:
            n_blocks = -(-n_blocks // concurrency) * concurrency
        size = max(1, -(-total // n_blocks))
        # chunks must divide blocks: a long block of a prime length would make chunks of one row
        return size - size % 1024 if size > 4096 and n_blocks > 1 else size

    def weight(found: Choice) -> int:
        return max(found.bytes.read, found.bytes.result)

    row_seconds = chain.row_seconds()
    last_is_free = chain.dims[-1:] != () and chain.dims[-1] in free

    def rows_choice() -> Choice | None:
        if single and not (last_is_free and len(free) < len(sizes)):
            # (where every dim is free, a row is still the whole last dim; where only others are
            # not, as regions that are made of whole volumes, one row costs as much as all)
            one = choice(sizes[chain.dims[-1]] if last_is_free else 1)
            return one if one.bytes.peak <= slot else None
        n = most(1, max(1, n_free), lambda k: choice(k).bytes.peak <= slot)
        if n < 1:
            return None
        large = most(1, n, lambda k: weight(choice(k)) <= target)
        n = max(1, min(n, large))
        row = max(1, weight(choice(1)))
        smallest = -(-SMALL_BYTES // row)
        if row_seconds:
            n = max(1, min(n, int(BLOCK_SECONDS / row_seconds)))
            smallest = min(smallest, math.ceil(SMALL_SECONDS / row_seconds))
        n = max(1, min(n, max(n_free // (BLOCKS_PER_THREAD * concurrency), smallest)))
        return choice(even(n_free, n))

    def stretch_choice(n_rows: int) -> Choice | None:
        size = sizes[stretched[0]]
        unit = min(QUANTUM, max(1, size // 4))
        n_units = -(-size // unit)
        n = most(1, n_units, lambda k: choice(n_rows, k * unit).bytes.peak <= slot)
        if n < 1:
            return None
        large = max(1, most(1, n, lambda k: weight(choice(n_rows, k * unit)) <= target))
        # a longer stretch than the target is better than reading the margins over and over
        while large < n and choice(n_rows, large * unit).overhead > MARGIN_LIMIT:
            large = min(n, 2 * large)
        n = large
        smallest = most(1, n, lambda k: weight(choice(n_rows, k * unit)) < SMALL_BYTES) + 1
        while n > smallest and choice(n_rows, n * unit).n_blocks < BLOCKS_PER_THREAD * concurrency:
            shorter = choice(n_rows, (n - 1) * unit)
            if shorter.overhead > 0.1:
                break
            n -= max(1, n // 16)
        length = even(n_units, max(1, n)) * unit
        equal = -(-size // -(-size // length) // FINE_QUANTUM) * FINE_QUANTUM
        bytes_long = equal * chain.dtype.itemsize
        # (a stretch of one chunk needs no common divisor with it: blocks may be equal)
        if n_rows * bytes_long >= CHUNK_BYTES >= bytes_long and equal < length:
            length = equal
        return choice(n_rows, length)

    if not free and not stretched:
        only = choice(1)
        return only if only.bytes.peak <= slot else None
    if not free:  # one row only: whole if it fits, else in stretches
        whole = choice(1)
        if whole.bytes.peak <= slot and (weight(whole) <= target or single):
            return whole
        return stretch_choice(1) or (whole if whole.bytes.peak <= slot else None)
    interleaved = reading_of(chain.source.variables[SIGNAL]).interleaved
    rows = rows_choice()
    if stretched and not single and interleaved and n_free > 1:
        passes = rows.n_blocks if rows is not None else n_free
        across = stretch_choice(n_free)
        if across is not None and passes > 1 and across.overhead <= MARGIN_LIMIT:
            return across
    if rows is not None or not stretched:
        return rows
    candidates = [stretch_choice(n_rows) for n_rows in ((1,) if single else (1, n_free))]
    found = [candidate for candidate in candidates if candidate is not None]
    return min(found, key=lambda c: c.overhead) if found else None
