"""From a budget to blocks, concurrency and a predicted peak, before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from penstock import __version__
from penstock.dataset import SIGNAL
from penstock.errors import BudgetError, RowTooLarge
from penstock.formats import check_format
from penstock.io.export_memory import export_bytes
from penstock.memory.accounting import MIB, THREAD_ALLOWANCE, format_bytes
from penstock.planning.blocks import (
    MARGIN_LIMIT,
    SMALL_BYTES,
    TARGET_BYTES,
    Choice,
    Grid,
    block_cost,
    choose_block,
)
from penstock.planning.budget import Resources as Resources
from penstock.planning.budget import peak_together as peak_together
from penstock.planning.budget import resources as resources
from penstock.planning.chain import BlockBytes, Chain, Step
from penstock.planning.dask_chunks import chunk_elements, run_of_chunks
from penstock.planning.refusals import refusal, told
from penstock.planning.shown import plan_html, plan_text, plans_html
from penstock.planning.stages import reading_scratch, scratch_chain
from penstock.reading import reading_of
from penstock.records import fields_of
from penstock.storage.store import QUANTUM, fill_shape, large_variables

REREAD_BYTES = 512 * MIB
"""What reading an interleaved file again for every few rows may cost before it is reshaped."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind: read, some steps, write."""

    kind: str
    """"process", "scratch" (read back in other blocks later) or "copy" (a side variable)."""
    title: str
    chain: Chain
    grid: Grid
    block: BlockBytes
    reduces: int | None = None
    """Index, in the whole pipeline, of the step whose partial reduction this stage also makes."""
    keeps: bool = True
    """Whether the blocks themselves are written (not so where only the reduction is wanted)."""
    overhead: float = 0.0

    @property
    def in_order(self) -> bool:
        """Whether its source can only be read from front to back: one block after the other."""
        return reading_of(self.chain.source.variables[SIGNAL]).sequential

    @property
    def bytes_in(self) -> int:
        """Bytes read by all blocks, margins included."""
        return self.block.read * len(self.grid)

    @property
    def bytes_out(self) -> int:
        """Bytes written by all blocks, before compression."""
        return math.prod(self.grid.shape) * self.chain.dtype.itemsize if self.keeps else 0


@dataclass(frozen=True)
class Plan:
    """Blocks, concurrency and predicted peak memory of one recording.

    Printed it is a table; in Jupyter it is shown as HTML.
    """

    name: str
    stages: tuple[Stage, ...]
    concurrency: int
    workers: int
    processes: int
    base: int
    budget: int
    reason: str
    export_bytes: int = 0
    resident: int = 0
    """Of `base`: what readers and steps keep in all processes as long as they work [bytes]."""

    @property
    def block_bytes(self) -> int:
        """Memory of the largest block, with its thread's allowance [bytes]."""
        return max((stage.block.peak for stage in self.stages), default=0) + THREAD_ALLOWANCE

    @property
    def task_bytes(self) -> int:
        """Memory of the largest task [bytes]: a block, or exporting the finished result."""
        return max(self.block_bytes, self.export_bytes + THREAD_ALLOWANCE)

    @property
    def predicted_memory(self) -> int:
        """Peak of all processes together [bytes]: base + the largest blocks, one a thread.

        A thread keeps the memory of its largest block, so that of a stage with few of them some
        threads have none. A result is exported once, while the others keep that of their blocks.
        """
        largest: list[int] = []
        for stage in sorted(self.stages, key=lambda stage: stage.block.peak, reverse=True):
            missing = self.concurrency - len(largest)
            largest += [stage.block.peak + THREAD_ALLOWANCE] * min(missing, len(stage.grid))
        return self.base + sum(largest[1:]) + self.task_bytes

    @property
    def n_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(len(stage.grid) for stage in self.stages)

    def with_blocks(self, shapes: Iterable[tuple[int, ...]]) -> Plan:
        """The plan with other block shapes: those that an interrupted run began with."""
        stages = []
        for stage, shape in zip(self.stages, shapes, strict=True):
            grid = Grid(stage.grid.dims, stage.grid.shape, tuple(shape))
            stages.append(replace(stage, grid=grid, block=block_cost(stage.chain, grid)))
        changed = replace(self, stages=tuple(stages))
        at_once = 1 + (self.budget - self.base - changed.task_bytes) // changed.block_bytes
        return replace(changed, concurrency=max(1, min(self.concurrency, at_once)))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, as it stands in reports."""
        return {
            "name": self.name,
            "budget": self.budget,
            "predicted_memory": self.predicted_memory,
            "base": self.base,
            "workers": self.workers,
            "processes": self.processes,
            "concurrency": self.concurrency,
            "task_bytes": self.task_bytes,
            "resident": self.resident,
            "reason": self.reason,
            "stages": [
                {
                    "kind": stage.kind,
                    "title": stage.title,
                    "blocks": len(stage.grid),
                    "dims": list(stage.grid.dims),
                    "shape": list(stage.grid.shape),
                    "block": list(stage.grid.block),
                    "in_order": stage.in_order,
                    "bytes_in": stage.bytes_in,
                    "bytes_out": stage.bytes_out,
                    "block_peak": stage.block.peak,
                    "largest_step": stage.block.largest_step,
                    "margin_overhead": stage.overhead,
                }
                for stage in self.stages
            ],
        }

    def __str__(self) -> str:
        return plan_text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return plan_html(self)


class Plans(tuple[Plan, ...]):
    """Plans of several recordings that run with one budget."""

    limits: Resources | None = None
    failed: Mapping[str, str] = MappingProxyType({})
    """Recordings that cannot be planned, with the reasons, where these were to be skipped."""

    @classmethod
    def within(
        cls,
        limits: Resources | None,
        plans: Iterable[Plan],
        failed: Mapping[str, str] | None = None,
    ) -> Plans:
        """Plans of recordings that share what there is."""
        made = cls(plans)
        made.limits = limits
        made.failed = dict(failed or {})
        return made

    @property
    def predicted_memory(self) -> int:
        """Peak of the whole run [bytes]: blocks of several recordings run side by side."""
        highest = max((plan.predicted_memory for plan in self), default=0)
        if self.limits is None or len(self) < 2:
            return highest
        largest = max(plan.task_bytes + plan.resident for plan in self)
        return max(highest, peak_together(self.limits, self.n_blocks, largest))

    @property
    def n_blocks(self) -> int:
        """Blocks of all recordings."""
        return sum(plan.n_blocks for plan in self)

    def to_dict(self) -> dict[str, Any]:
        """The plans as plain values, with what cannot be planned."""
        return {
            "penstock": __version__,
            "predicted_memory": self.predicted_memory,
            "budget": self[0].budget if self else None,
            "blocks": self.n_blocks,
            "plans": [plan.to_dict() for plan in self],
            "failed": dict(self.failed),
        }

    def __str__(self) -> str:
        unplanned = f"; {len(self.failed)} cannot be planned" if self.failed else ""
        if not self:
            return f"no recording to plan{unplanned}"
        largest = max(self, key=lambda plan: plan.predicted_memory)
        total = sum(stage.bytes_in for plan in self for stage in plan.stages)
        return (
            f"{len(self)} recording{'s' if len(self) > 1 else ''}, {self.n_blocks} blocks, "
            f"{format_bytes(total)} to read, predicted peak "
            f"{format_bytes(self.predicted_memory)}{unplanned}; the largest:\n"
            f"{plan_text(largest)}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return plans_html(self)


def make_plan(
    chain: Chain, limits: Resources, *, name: str = "dataset", format: str = "zarr"
) -> Plan:
    """Stages, blocks and concurrency of one chain within a budget.

    Raises
    ------
    BudgetError
        If even one block of the smallest kind does not fit, with the budget that does.
    """
    kind = check_format(format)
    fields = fields_of(chain.output)
    if fields is not None and not kind.several:
        raise ValueError(
            f"the results of this pipeline ({', '.join(fields)}) are not a recording and cannot be "
            f"written as {format.upper()}: use format 'zarr'"
        )
    kind.check_dims(chain.dims)
    exporting = export_bytes(chain.output, format)
    # (some readers hold the whole file, some steps an atlas: of the process, not of a block)
    alone, limits = limits, limits.with_resident(chain.resident_bytes)
    resident = limits.base - alone.base
    copies = _copy_stages(chain)
    found = _fitting(chain, limits, name, exporting, copies, resident)
    if found is not None:
        return found

    def fits(budget: int) -> bool:
        more = replace(limits, budget=budget)
        return _fitting(chain, more, name, exporting, copies, resident) is not None

    raise refusal(chain, limits, name, format, exporting, fits)


def row_refusal(
    chain: Chain, limits: Resources, error: RowTooLarge, *, name: str, format: str
) -> BudgetError:
    """Say with which budget a row can be looked at beforehand, and the run goes through."""
    base = limits.with_resident(chain.resident_bytes).base
    enough = base + error.need + THREAD_ALLOWANCE
    try:
        make_plan(chain, replace(limits, budget=enough), name=name, format=format)
    except BudgetError as more:
        return more
    return BudgetError(
        f"{name}: one row takes {format_bytes(error.need)} and cannot be cut, but only "
        f"{format_bytes(limits.available)} are left for it: allow {told(enough)}"
    )


def _fitting(
    chain: Chain,
    limits: Resources,
    name: str,
    exporting: int,
    copies: list[Stage],
    resident: int,
) -> Plan | None:
    """The plan with the most blocks at once that fits the budget; None if not even one does."""
    if limits.largest_task - THREAD_ALLOWANCE < exporting:
        return None
    attempts = itertools.product((MARGIN_LIMIT, math.inf), range(limits.workers, 0, -1))
    for overhead, n in attempts:
        slot = limits.largest_block(n)
        if n > 1:  # (one exports while the others keep their blocks)
            slot = min(slot, (limits.available - exporting - THREAD_ALLOWANCE) // (n - 1))
        slot -= THREAD_ALLOWANCE
        if slot < max((stage.block.peak for stage in copies), default=1):
            continue
        stages = _stages(chain, slot, n, overhead, limits.workers)
        if stages is None:
            continue
        total = max(len(stage.grid) for stage in stages)
        made = Plan(
            name,
            (*stages, *copies),
            1,
            limits.workers,
            limits.processes,
            limits.base,
            limits.budget,
            "",
            exporting,
            resident,
        )
        # (as many as the run lets run at once: blocks may be smaller than they had to be)
        beside = (limits.available - made.task_bytes) // made.block_bytes
        at_once = max(n, min(1 + beside, limits.at_once(made.block_bytes)))
        concurrency = max(1, min(at_once, total))
        reason = _reason(limits, concurrency, total, made.block_bytes)
        return replace(made, concurrency=concurrency, reason=reason)
    return None


def _reason(limits: Resources, concurrency: int, total: int, n_bytes: int) -> str:
    """Why so many blocks run at once."""
    if concurrency == limits.workers:
        return f"all {limits.workers} workers"
    if concurrency == total:
        return f"only {total} block{'s' if total > 1 else ''} to share"
    within = "the budget"
    if limits.tightest is not None and limits.room // n_bytes < limits.workers:
        within = "the memory limits of the workers"
    return f"{concurrency} of {limits.workers} workers: one block more would not fit {within}"


def _stages(
    chain: Chain, slot: int, concurrency: int, overhead: float, workers: int
) -> list[Stage] | None:
    """One stage if it fits well, otherwise several around the steps that change direction."""
    one = choose_block(chain, slot, concurrency=concurrency, write=True)
    if one is not None and one.overhead > overhead:
        one = None
    if one is not None and _reads_over_and_over(chain, one):
        reshaped = _reshape_stages(chain, one, slot)
        if reshaped is not None:
            return reshaped
        if reading_of(chain.source.variables[SIGNAL]).sequential:
            one = None
    # a few large blocks leave workers idle: several stages may be better even where one fits
    idle = one is None or (one.bytes.read > TARGET_BYTES and one.n_blocks < max(2, workers))
    for index in _turning_points(chain) if idle else ():
        several = _split_stages(chain, index, slot, concurrency, overhead)
        if several is not None and not _computes_over_and_over(several[0].chain, several[0].grid):
            return several
    if one is None and chain.source.variables[SIGNAL].chunks is not None:
        read = _reading_stage(chain, slot)
        after = read and _stages(read[1], slot, concurrency, overhead, workers)
        return [read[0], *after] if read and after else None
    return None if one is None else [_stage("process", chain, one)]


PASSES_LIMIT = 2.0
"""How often the chunks of a user's dask array may be computed before they are put into scratch."""


def _reads_over_and_over(chain: Chain, choice: Choice) -> bool:
    """Whether blocks of a few rows each would read an interleaved file from end to end.

    Likewise where they would compute the chunks of a dask array again and again.
    """
    source = chain.source.variables[SIGNAL]
    grid = Grid(chain.dims, chain.shape, choice.block)
    if source.chunks is not None:
        return _computes_over_and_over(chain, grid)
    reading = reading_of(source)
    if not reading.interleaved or choice.bytes.source_elements >= source.size:
        return False
    last = dict(zip(grid.dims, grid.counts, strict=True)).get(str(source.dims[-1]), 1)
    passes = choice.n_blocks / max(1, last)
    again = (passes - 1) * source.size * source.dtype.itemsize
    return again > (0 if reading.sequential else REREAD_BYTES)


def _computes_over_and_over(chain: Chain, grid: Grid) -> bool:
    """Whether the blocks of a grid compute the chunks of a dask-backed source several times."""
    source = chain.source.variables[SIGNAL]
    if source.chunks is None:
        return False
    touched = chunk_elements(source, chain.regions(grid.middle())[0])
    return touched * len(grid) > PASSES_LIMIT * source.size


def _reading_stage(chain: Chain, slot: int) -> tuple[Stage, Chain] | None:
    """Read the source once, in its own order, into a scratch array, and the chain over that."""
    first = replace(chain, steps=())
    source = first.source.variables[SIGNAL]
    title = "read in file order"
    if source.chunks is not None:
        shape, title = run_of_chunks(source, min(slot, TARGET_BYTES) // 2), "compute every chunk"
    else:
        row_bytes = math.prod(first.shape[:-1]) * first.dtype.itemsize
        length = max(1, min(slot, TARGET_BYTES) // (2 * row_bytes))
        if length > QUANTUM:
            length -= length % QUANTUM
        shape = (*first.shape[:-1], min(length, first.shape[-1]))
    grid = Grid(first.dims, first.shape, shape)
    cost = block_cost(first, grid)
    if cost.peak > slot:
        return None
    return Stage("scratch", title, first, grid, cost), reading_scratch(first, chain.steps)


def _reshape_stages(chain: Chain, choice: Choice, slot: int) -> list[Stage] | None:
    """Rows in the chosen blocks, from a scratch array that the source was read into."""
    read = _reading_stage(chain, slot)
    if read is None:
        return None
    reading, rest = read
    made = Grid(rest.dims, rest.shape, choice.block)
    return [reading, Stage("process", _title(rest), rest, made, block_cost(rest, made))]


def _turning_points(chain: Chain) -> Iterator[int]:
    """Indices of steps that need other dims whole than the steps before, or a reduction."""
    seen: set[str] = set()
    for index, step in enumerate(chain.steps):
        core = set(step.processor.core_dims)
        if core and (step.processor.reduce_dims or (seen and not core <= seen)):
            yield index
        seen |= core


def _split_stages(
    chain: Chain, index: int, slot: int, concurrency: int, overhead: float
) -> list[Stage] | None:
    """A scratch stage up to a step, and the stages from it on."""
    first = chain.until(index)
    reduces = bool(chain.steps[index].processor.reduce_dims)
    keeps = bool(first.steps)
    before = choose_block(first, slot, concurrency=concurrency, write=keeps)
    if before is None or before.overhead > overhead:
        return None
    rest = scratch_chain(chain, index)
    if reduces:
        before = _with_partial(first, before, rest.steps[0])
        room = slot
        while before.bytes.peak > slot:  # (the partial reduction comes on top: smaller blocks)
            room = min(room * slot // before.bytes.peak, room * 9 // 10)
            smaller = choose_block(first, room, concurrency=concurrency, write=keeps)
            if smaller is None or smaller.overhead > overhead:
                return None
            before = _with_partial(first, smaller, rest.steps[0])
        grid = Grid(first.dims, first.shape, before.block)
        parts = math.prod(
            count
            for dim, count in zip(grid.dims, grid.counts, strict=True)
            if dim in rest.steps[0].processor.reduce_dims
        )
        streamed = replace(rest.steps[0], streamed=True, parts=parts)
        rest = replace(rest, steps=(streamed, *rest.steps[1:]))
    stage = _stage("scratch", first, before, reduces=index if reduces else None, keeps=keeps)
    after = choose_block(rest, slot, concurrency=concurrency, write=True)
    if after is not None and after.overhead <= overhead:
        return [stage, _stage("process", rest, after)]
    for later in _turning_points(rest):
        if later == 0:
            continue
        tail = _split_stages(rest, later, slot, concurrency, overhead)
        if tail is not None:
            return [stage, *tail]
    return None


def _with_partial(chain: Chain, choice: Choice, step: Step) -> Choice:
    """The blocks, with what the partial reduction of one takes: it is made of the whole result, in
    float64, and written."""
    region = Grid(chain.dims, chain.shape, choice.block).middle()
    partial = step.partial_bytes(region)
    peak = max(choice.bytes.peak, choice.bytes.result + 2 * partial)
    return replace(choice, bytes=replace(choice.bytes, peak=peak))


def _stage(
    kind: str,
    chain: Chain,
    choice: Choice,
    *,
    reduces: int | None = None,
    keeps: bool = True,
) -> Stage:
    return Stage(
        kind,
        _title(chain, reduces),
        chain,
        Grid(chain.dims, chain.shape, choice.block),
        choice.bytes,
        reduces,
        keeps,
        choice.overhead,
    )


def _title(chain: Chain, reduces: int | None = None) -> str:
    title = " → ".join(type(step.processor).__name__ for step in chain.steps) or "read"
    return title if reduces is None else f"{title} (+ partial reduction)"


def _copy_stages(chain: Chain) -> list[Stage]:
    """Side variables (channels of another rate) go into the result unchanged."""
    stages = []
    for name in large_variables(chain.output):
        if name == SIGNAL:
            continue
        side = side_chain(chain.output, name)
        block = fill_shape(side.shape, SMALL_BYTES // side.dtype.itemsize)
        grid = Grid(side.dims, side.shape, block)
        stages.append(Stage("copy", name, side, grid, block_cost(side, grid)))
    return stages


def side_chain(ds: Any, name: str) -> Chain:
    """A chain without steps over a side variable."""
    renamed = ds[[name]].rename({name: SIGNAL})
    return Chain(renamed)
