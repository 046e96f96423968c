"""Why a budget does not suffice, and the one that does."""

from __future__ import annotations

import math
from collections.abc import Callable

from penstock.dataset import SIGNAL, Region
from penstock.errors import BudgetError
from penstock.memory.accounting import MIB, THREAD_ALLOWANCE, format_bytes
from penstock.planning.blocks import Grid, block_cost, choose_block
from penstock.planning.budget import Resources, worker_too_small
from penstock.planning.chain import BlockBytes, Chain
from penstock.processor import Processor
from penstock.reading import reading_of
from penstock.storage.store import QUANTUM

LARGEST_BUDGET = 1 << 50
SLACK_BYTES = 8 * MIB
"""What a process may take more when it is asked again: it has planned and opened meanwhile."""


def least_budget(fits: Callable[[int], bool], start: int) -> int | None:
    """The smallest budget that fits [bytes], to a percent; None if none does."""
    high = max(start, MIB)
    while not fits(high):
        high += high // 2
        if high > LARGEST_BUDGET:
            return None
    low = min(start, high)
    while high - low > max(MIB, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def told(amount: float) -> str:
    """An amount to allow, rounded up to what people write: a budget of that text suffices."""
    n = min(amount + SLACK_BYTES, 1 << 80)  # (a parameter may ask for anything)
    unit = MIB if n < 1000 * MIB else 1 << 30
    step = 1 if unit == MIB else 10 ** (2 - min(2, int(math.log10(n / unit))))
    return f"{math.ceil(n / unit * step) / step:g} {'MiB' if unit == MIB else 'GiB'}"


def refusal(
    chain: Chain,
    limits: Resources,
    name: str,
    format: str,
    exporting: int,
    fits: Callable[[int], bool],
) -> BudgetError:
    """Say what needs how much, and with which budget the run goes through.

    `exporting` is what writing the finished result takes, `fits` says whether a budget suffices.
    """
    region, cost = _smallest(chain)
    task = max(cost.peak, exporting) + THREAD_ALLOWANCE
    tightest = limits.tightest
    if tightest is not None and tightest.room < min(task, limits.available):
        # (no budget would do: it is the worker's own limit)
        what = f"{cost.largest_step} needs {format_bytes(cost.peak)} for its smallest block"
        if exporting > cost.peak:
            what = f"writing a result as {format.upper()} takes {format_bytes(exporting)}"
        text = worker_too_small(tightest, task, "itself")
        return BudgetError(f"{name}: {what}, but {text}, or use a shorter recording (Crop)")
    least = least_budget(fits, limits.base + task) or limits.base + task
    enough = told(max(least, limits.base + _preparing(chain) + THREAD_ALLOWANCE))
    process = "process takes" if limits.processes == 1 else f"{limits.processes} processes take"
    have = format_bytes(limits.budget)
    base = format_bytes(limits.base)
    if limits.available < THREAD_ALLOWANCE:
        return BudgetError(
            f"{name}: the budget of {have} is no more than the {base} that the {process} before "
            f"any data: allow at least {enough}"
        )
    left = format_bytes(limits.available)
    if exporting > cost.peak and exporting + THREAD_ALLOWANCE > limits.available:
        return BudgetError(
            f"{name}: writing a result as {format.upper()} takes "
            f"{format_bytes(exporting + THREAD_ALLOWANCE)}, but the budget of {have} leaves {left} "
            f"beside the {base} that the {process}: allow {enough}, or use the format 'zarr'"
        )
    cuttable = chain.cuttable()
    where = ", ".join(
        f"{dim} {region[dim].start}"  # type: ignore[union-attr]
        for dim in chain.dims
        if cuttable.get(dim)
    )
    whole = [dim for dim in chain.dims if dim not in cuttable]
    advice = "a shorter recording (Crop)" if "time" in whole else "smaller core dims"
    if any(not is_free for is_free in cuttable.values()):
        advice = "a smaller margin (shorter filters or windows)"
    return BudgetError(
        f"{name}: {cost.largest_step} needs {format_bytes(cost.peak + THREAD_ALLOWANCE)} for its "
        f"smallest block{f' ({where})' if where else ''}, but the budget of {have} leaves {left} "
        f"beside the {base} that the {process}: allow {enough} or use {advice}"
    )


def _preparing(chain: Chain) -> int:
    """Memory of a row of the results that steps may look at before any block."""
    peaks = [0]
    for index, step in enumerate(chain.steps):
        if type(step.processor).prepare is not Processor.prepare:
            before = chain.until(index)
            row = choose_block(before, LARGEST_BUDGET, concurrency=1, single=True, target=1)
            peaks.append(row.bytes.peak if row is not None else 0)
    return max(peaks)


def _smallest(chain: Chain) -> tuple[Region, BlockBytes]:
    """Region and memory of the smallest block that makes sense."""
    cuttable = chain.cuttable()
    source = chain.source.variables[SIGNAL]
    if reading_of(source).sequential:  # (cut in file order only)
        cuttable = {dim: free for dim, free in cuttable.items() if dim == source.dims[-1]}
    block = {
        dim: 1 if dim in cuttable else size
        for dim, size in zip(chain.dims, chain.shape, strict=True)
    }
    for dim, is_free in cuttable.items():
        if not is_free:
            block[dim] = min(QUANTUM, chain.output.sizes[dim])
    grid = Grid(chain.dims, chain.shape, tuple(block.values()))
    return grid.middle(), block_cost(chain, grid)
