"""A chain: processors bound to one dataset. It maps regions backwards and computes them forwards.

Asked for a region of the output, a chain works out which region of the source that takes (margins
of all steps added up), reads it once, and runs the kernels on it. A block is computed in one task
this way, and its memory is a closed formula (`Chain.block_bytes`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import PandasIndexingAdapter

from penstock.dataset import (
    SIGNAL,
    Region,
    check_dataset,
    in_floats,
    indexer_length,
    outline_of,
    read_region,
    reads_fresh,
)
from penstock.memory.buffers import recycle, trim_scratch
from penstock.memory.footprints import READING, StepWatch
from penstock.planning.dask_chunks import chunk_elements
from penstock.planning.step_names import advice_for, step_name
from penstock.processor import Context, Processor
from penstock.reading import reading_of
from penstock.records import fields_of
from penstock.sampled import SampledIndex

GRAPH_TEMPORARIES = 2
"""Chunks that a user's own dask graph is taken to need beside those that it has computed."""


@dataclass(frozen=True)
class Step:
    """One processor in its place: outlines before and after it, and what it prepared."""

    processor: Processor
    input: xr.Dataset
    output: xr.Dataset
    state: Any = None
    streamed: bool = False
    """Whether a stage before computes the reduction: then `reduce_dims` may be cut."""
    measured: float = 0.0
    """Scratch that it was seen to take, as a multiple of its input, where that is known."""
    reduced: Callable[[Region], Any] | None = None
    """Reads the streamed reduction for a region, where the plan computes it in a stage before."""
    parts: int = 1
    """Blocks that the streamed reduction is made of."""

    def partial_bytes(self, region: Region) -> int:
        """Memory of one partial reduction over a region of the input [bytes]."""
        processor, signal = self.processor, self.input[SIGNAL]
        left = [str(dim) for dim in signal.dims if dim not in processor.reduce_dims]
        lengths = math.prod(indexer_length(region[dim]) for dim in left)
        return 8 * processor.statistics(self.input) * lengths


@dataclass(frozen=True)
class BlockBytes:
    """Memory of one block, in bytes."""

    read: int
    """Source region."""
    result: int
    """Output region."""
    peak: int
    """Most that is alive at once: the largest of (input + scratch + output) over all steps."""
    largest_step: str
    """Which step that is."""
    source_elements: int
    """Source values read, context included."""


@dataclass(frozen=True)
class Chain:
    """Steps applied to a source dataset.

    Parameters
    ----------
    source : xarray.Dataset
        Where the data come from, lazy.
    steps : tuple of Step
    """

    source: xr.Dataset
    steps: tuple[Step, ...] = ()
    start: xr.Dataset = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.start is None:
            object.__setattr__(self, "start", outline_of(check_dataset(self.source)))

    @property
    def output(self) -> xr.Dataset:
        """Outline of the result."""
        return self.steps[-1].output if self.steps else self.start

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of the result's signal."""
        return tuple(map(str, self.output.variables[SIGNAL].dims))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result's signal."""
        return tuple(self.output.variables[SIGNAL].shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the result's values."""
        return np.dtype(self.output.variables[SIGNAL].dtype)

    # ------------------------------------------------------------------ building

    def then(self, processor: Processor, state: Any = None) -> Chain:
        """This chain with one more step."""
        processor = self.checked(processor)
        chain = self.ready_for(processor)
        before = chain.output
        with sized(processor):
            after = processor.outline(before, state)
        return replace(chain, steps=(*chain.steps, Step(processor, before, after, state)))

    def ready_for(self, processor: Processor) -> Chain:
        """This chain, reading whole numbers as floats if the next processor computes with those."""
        if processor.selects or processor.takes_integers:
            return self
        if self.output.variables[SIGNAL].dtype.kind not in "biu":
            return self
        if not all(step.processor.selects for step in self.steps):
            return self  # (a step before has made them: it knows why)
        selecting = [step.processor for step in self.steps]
        return Chain(in_floats(self.source)).bind(selecting, self.states)

    def checked(self, processor: Processor) -> Processor:
        """The processor bound to these data; one that cannot follow is refused before it reads."""
        before = self.output
        if self.steps and fields_of(before) is not None:
            raise ValueError(
                f"{type(self.steps[-1].processor).__name__} gives several results "
                f"({', '.join(fields_of(before) or ())}) and must be the last of its pipeline: "
                f"run {type(processor).__name__} on one of them afterwards"
            )
        processor = processor.bound(before)
        missing = [dim for dim in processor.core_dims if dim not in before.variables[SIGNAL].dims]
        if missing:
            named = [f.name for f in fields(processor) if f.name in ("core_dim", "core_dims")]
            other = f"name another one in {named[0]}=" if named else "use another processor"
            raise ValueError(
                f"{type(processor).__name__} needs the dim {missing[0]!r}, but the data have "
                f"{tuple(before.variables[SIGNAL].dims)}: rename a dim, or {other}"
            )
        return processor

    def bind(self, processors: Iterable[Processor], states: Iterable[Any] | None = None) -> Chain:
        """This chain with several more steps; states default to None (planning)."""
        chain = self
        processors = list(processors)
        known = list(states) if states is not None else [None] * len(processors)
        for processor, state in zip(processors, known, strict=True):
            chain = chain.then(processor, state)
        return chain

    @property
    def states(self) -> tuple[Any, ...]:
        """What each step prepared."""
        return tuple(step.state for step in self.steps)

    def with_measured(self, scratch: Mapping[str, float]) -> Chain:
        """This chain with the scratch that steps were seen to take, by their names."""
        steps = (
            replace(step, measured=scratch.get(step_name(step.processor), 0.0))
            for step in self.steps
        )
        return replace(self, steps=tuple(steps)) if scratch else self

    def until(self, index: int) -> Chain:
        """The chain up to a step."""
        return replace(self, steps=self.steps[:index])

    # ------------------------------------------------------------------ regions

    def whole(self) -> Region:
        """The region of the entire result."""
        return {dim: slice(0, size) for dim, size in zip(self.dims, self.shape, strict=True)}

    def regions(self, region: Region) -> list[Region]:
        """What is needed before each step, from the source on; the last is `region` itself."""
        chain = [region]
        for step in reversed(self.steps):
            source = step.processor.source_region(chain[-1], step.input)
            if not step.streamed:  # the reduction is made of the block: it needs all of them
                for dim in step.processor.reduce_dims:
                    source[dim] = slice(0, step.input.sizes[dim])
            chain.append(source)
        return chain[::-1]

    def cuttable(self) -> dict[str, bool]:
        """Dims of the result along which blocks can be cut.

        True: freely (a loop dim of every step). False: with margins (a core dim of some step). Dims
        that some step must hold whole are left out; a streamed reduction needs none whole.
        """
        dims: dict[str, bool] = {}
        for dim in self.dims:
            free = True
            for step in self.steps:
                processor = step.processor
                if dim not in step.input.variables[SIGNAL].dims:
                    break  # made by this step: only its kernel knows how
                if dim not in processor.core_dims:
                    continue
                if step.streamed and dim in processor.reduce_dims:
                    continue
                if processor.margin(step.input) is None:
                    break
                free = False
            else:
                dims[dim] = free
        return dims

    @property
    def resident_bytes(self) -> int:
        """What a process keeps as long as it works on the chain: of the file, and of the steps."""
        return (
            reading_of(self.source.variables[SIGNAL]).resident_bytes
            + _held_beside(self.source)
            + sum(step.processor.resident_bytes(step.input) for step in self.steps)
        )

    def row_seconds(self) -> float | None:
        """Estimated time of one position [s]; None where no step is slow."""
        known = [step.processor.row_seconds(step.input, step.state) for step in self.steps]
        return sum(seconds for seconds in known if seconds) or None

    def _read_bytes(self, region: Region) -> int:
        """Memory that reading a region of the source takes, beside the values that are read."""
        source = self.source.variables[SIGNAL]
        read = _elements(source, region) * source.dtype.itemsize
        reading = reading_of(source)
        extra = int(read * reading.scratch) + reading.scratch_bytes
        if source.chunks is not None:
            # chunks are computed whole and then put together; the user's graph has temporaries
            largest = math.prod(max(lengths) for lengths in source.chunks)
            chunks = chunk_elements(source, region) + GRAPH_TEMPORARIES * largest
            extra += chunks * source.dtype.itemsize
        return extra

    def block_bytes(self, region: Region) -> BlockBytes:
        """Memory that computing a region takes."""
        regions = self.regions(region)
        source = self.source.variables[SIGNAL]
        n_source = _elements(source, regions[0])
        read = n_source * source.dtype.itemsize
        peak = read + self._read_bytes(regions[0])
        largest = "reading"
        kept: dict[str, int] = {}
        shared = not reads_fresh(source)
        before = read
        for step, source_region, target in zip(self.steps, regions, regions[1:], strict=False):
            processor = step.processor
            result = step.output.variables[SIGNAL]
            after = _elements(result, target) * result.dtype.itemsize
            if not processor.selects:
                copy = before if processor.overwrites and shared else 0
                # scratch of fixed size stays with its thread; steps of one kind use the same
                kind = type(processor).__module__
                kept[kind] = max(kept.get(kind, 0), processor.scratch_bytes)
                extra = processor.kernel_bytes(step.input, source_region)
                if step.streamed and not processor.merges:
                    # (all parts are read, and combined at once)
                    extra += 2 * step.parts * step.partial_bytes(source_region)
                extra = max(extra, int(step.measured * before))
                alive = before + extra + copy + (0 if processor.in_place else after)
                if alive > peak:
                    peak, largest = alive, type(processor).__name__
                shared = False
            before = after
        return BlockBytes(read, before, peak + sum(kept.values()), largest, n_source)

    # ------------------------------------------------------------------ computing

    def compute(
        self,
        region: Region,
        seconds: dict[str, float] | None = None,
        failures: list[tuple[dict[str, int], str]] | None = None,
        remarks: dict[str, int] | None = None,
        given: tuple[np.ndarray, bool] | None = None,
    ) -> np.ndarray:
        """Values of a region of the result.

        Time spent is added to `seconds` by step, positions that failed to `failures`, what else was
        lost to `remarks`. The source's values are read, or `given` with whether nobody else uses
        them.
        """
        regions = self.regions(region)
        clock = {} if seconds is None else seconds
        if given is None:
            declared = functools.partial(self._read_bytes, regions[0])
            with _timed(clock, "read"), StepWatch(READING, declared) as watch:
                block = read_region(self.source, regions[0])
                watch.made(None, block)
            owned = reads_fresh(self.source.variables[SIGNAL])
        else:
            block, owned = given
            del given
        for step, source, target in zip(self.steps, regions, regions[1:], strict=False):
            if step.processor.selects:
                continue
            name = type(step.processor).__name__
            try:
                known = step.processor
                declared = functools.partial(_declared, step, block, source, owned=owned)
                advice = functools.partial(advice_for, known)
                with _timed(clock, name), StepWatch(step_name(known), declared, advice) as watch:
                    result = run_step(step, block, source, target, failures, remarks, owned=owned)
                    watch.made(block, result)
            except Exception as error:
                error.add_note(f"in {name}, {describe_region(source)}")
                raise
            if not np.may_share_memory(result, block):
                if owned:
                    recycle(block)
                owned = True
            block = result
            del result
            trim_scratch()
        return block

    def partial(
        self,
        region: Region,
        step: Step,
        seconds: dict[str, float] | None = None,
        remarks: dict[str, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The result of a region, and the partial reduction that `step` (the next) makes of it."""
        block = self.compute(region, seconds, remarks=remarks)
        ctx = Context(region, region, step.input, step.state)
        moved = _core_last(block, self.dims, step.processor.core_dims)
        return block, step.processor.partial(moved, ctx)


HELD = 1 << 20
"""Coordinates and tables of events count from this size on; smaller ones are of the process."""


def _held_beside(ds: xr.Dataset) -> int:
    """What coordinates, events and other small variables take in memory [bytes].

    Twice their size: they are put together from a file, and written into another.
    """
    held = 0
    for name, variable in ds.variables.items():
        data: Any = variable._data
        index = isinstance(data, PandasIndexingAdapter) and not isinstance(data.array, SampledIndex)
        if name != SIGNAL and (index or isinstance(data, np.ndarray)):
            held += int(variable.nbytes)
    return 2 * held if held >= HELD else 0


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began


def _declared(step: Step, block: np.ndarray, source: Region, *, owned: bool) -> int:
    """How far a step may raise memory beside its input and its result [bytes]."""
    processor = step.processor
    copy = block.nbytes if processor.overwrites and not owned else 0
    return processor.kernel_bytes(step.input, source) + processor.scratch_bytes + copy


@contextlib.contextmanager
def sized(processor: Processor) -> Iterator[None]:
    """Parameters so large, or so small, that a computer has no numbers for them, as a sentence."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(
            f"{type(processor).__name__}: its parameters are too large or too small to work with "
            f"({error}): check them"
        ) from error


def describe_region(region: Region) -> str:
    """A region for people: ``channel 3:5, time 0:20000``."""
    return ", ".join(
        f"{dim} {indexer.start}:{indexer.stop}"
        if isinstance(indexer, slice)
        else f"{dim} {indexer[0]}, ... ({len(indexer)})"
        for dim, indexer in region.items()
    )


def run_step(
    step: Step,
    block: np.ndarray,
    source: Region,
    target: Region,
    failures: list[tuple[dict[str, int], str]] | None = None,
    remarks: dict[str, int] | None = None,
    *,
    owned: bool,
) -> np.ndarray:
    """Run one kernel: core dims last; output trimmed to what was asked, dims as in the outline."""
    processor = step.processor
    dims = tuple(map(str, step.input.variables[SIGNAL].dims))
    if processor.overwrites and not owned:
        block = block.copy()
    moved = _core_last(block, dims, processor.core_dims)
    reduced = None
    if processor.reduce_dims:
        if step.reduced is not None:
            reduced = step.reduced(source)
        else:
            ctx = Context(source, target, step.input, step.state)
            reduced = processor.combine(processor.partial(moved, ctx)[np.newaxis])
    noted = [] if failures is None else failures
    told = {} if remarks is None else remarks
    ctx = Context(source, target, step.input, step.state, reduced, noted, told)
    result = np.asarray(processor.kernel(moved, ctx))
    out_signal = step.output.variables[SIGNAL]
    out_dims = tuple(map(str, out_signal.dims))
    loops = [dim for dim in dims if dim not in processor.core_dims and dim in out_dims]
    kernel_dims = [*loops, *(dim for dim in out_dims if dim not in loops)]
    if result.ndim != len(kernel_dims):
        raise ValueError(
            f"the kernel of {type(processor).__name__} returned {result.ndim} dims where its "
            f"outline has {tuple(kernel_dims)}"
        )
    for axis, dim in enumerate(kernel_dims):
        wanted = indexer_length(target[dim])
        given, asked = source.get(dim), target[dim]
        if dim in processor.core_dims and wanted != step.output.sizes[dim] == result.shape[axis]:
            # (a kernel may give the whole of a dim that it holds whole)
            if isinstance(asked, np.ndarray):
                result = result.take(asked, axis)
            else:
                result = result[(slice(None),) * axis + (asked,)]
            continue
        whole = isinstance(given, slice) and result.shape[axis] == given.stop - given.start
        if whole and isinstance(asked, np.ndarray):  # positions picked by a later step
            assert isinstance(given, slice)
            result = result.take(asked - given.start, axis)
            continue
        if result.shape[axis] == wanted:
            continue
        if (
            isinstance(given, slice)
            and isinstance(asked, slice)
            and result.shape[axis] == given.stop - given.start
        ):
            at = asked.start - given.start
            result = result[(slice(None),) * axis + (slice(at, at + wanted),)]
        else:
            raise ValueError(
                f"the kernel of {type(processor).__name__} returned {result.shape[axis]} along "
                f"{dim!r} where {wanted} were asked"
            )
    if tuple(kernel_dims) != out_dims:
        result = result.transpose([kernel_dims.index(dim) for dim in out_dims])
    if not np.can_cast(result.dtype, out_signal.dtype, "same_kind"):
        raise ValueError(
            f"{type(processor).__name__} returned {result.dtype} where {out_signal.dtype} was "
            "announced: override outline, give Apply a dtype, or convert the data first"
        )
    return result.astype(out_signal.dtype, copy=False)


def _core_last(block: np.ndarray, dims: tuple[str, ...], core_dims: tuple[str, ...]) -> np.ndarray:
    loops = [dim for dim in dims if dim not in core_dims]
    order = [dims.index(dim) for dim in (*loops, *core_dims)]
    return block if order == sorted(order) else block.transpose(order)


def _elements(array: xr.Variable, region: Region) -> int:
    return math.prod(indexer_length(region[str(dim)]) for dim in array.dims)
