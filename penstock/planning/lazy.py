"""A chain's result as a dask array: one task a block, upon the user's own graph where there is one.

A source that is a dask array itself stays part of the graph: each of its chunks is computed once,
whoever needs it, and blocks are put together from the chunks that they touch.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Indexer, Region, blank_variable, indexer_length
from penstock.errors import RowTooLarge
from penstock.memory.accounting import single_threaded_kernels
from penstock.memory.footprints import at_work
from penstock.messages import warn
from penstock.planning.blocks import choose_block, shortest_stretch
from penstock.planning.chain import Chain, sized
from penstock.planning.dask_chunks import chunk_edges, touched
from penstock.planning.step_names import step_name
from penstock.processor import Processor
from penstock.records import failures_text, fields_of, remarks_texts, unpacked

SINGLE_ROWS = 1 << 13
"""Rows up to which a lazy result has a block for each of them where that is asked."""
MOST_PIECES = 1 << 18
"""Pieces of chunks up to which a graph lists them; with more, blocks compute what they read."""

_Place = tuple[slice | np.ndarray, ...]


def prepared(
    chain: Chain, processors: Iterable[Processor], limit: int, *, strict: bool = False
) -> Chain:
    """The chain with several more steps, each prepared on the lazy result before it.

    `limit` is what one block of that lazy result may take [bytes] (see `lazy_result` for `strict`).
    """
    import dask

    for processor in processors:
        processor = chain.checked(processor)
        chain = chain.ready_for(processor)
        state = None
        if type(processor).prepare is not Processor.prepare:
            # a prepare that computes does so in this thread: it may be running on a worker
            doing = at_work(f"preparing {step_name(processor)}")
            with doing, dask.config.set(scheduler="synchronous"), sized(processor):
                state = processor.prepare(lazy_result(chain, limit, single=True, strict=strict))
        chain = chain.then(processor, state)
    return chain


def lazy_result(
    chain: Chain, block_bytes: int, *, single: bool = False, strict: bool = False
) -> xr.Dataset:
    """The result as an ordinary dask-backed dataset: one task a block, nothing computed.

    `single` makes blocks of one row (one channel), for those who read a few of them. A row that
    does not fit into `block_bytes` is cut into stretches where its steps allow that, into the
    shortest where none fits, and made whole all the same where they do not; with `strict` what does
    not fit is refused once it is computed.
    """
    import dask.array
    from dask._task_spec import DataNode, Task, TaskRef
    from dask.highlevelgraph import HighLevelGraph

    source = chain.source.variables[SIGNAL]
    if not chain.steps and source.chunks is not None:
        return chain.source
    work: Callable[..., np.ndarray] = compute_block
    choice = choose_block(chain, block_bytes, concurrency=1, single=single)
    if single and choice is not None and choice.n_blocks > SINGLE_ROWS:
        # (voxels: nobody reads a few of them one by one, and tasks would outweigh the data)
        choice = choose_block(chain, block_bytes, concurrency=1) or choice
    if choice is None:
        choice = None if strict else shortest_stretch(chain)
        if choice is None:
            choice = choose_block(chain, sys.maxsize, concurrency=1, single=True, target=1)
        if strict and choice is not None:  # (whoever computes a block of it is told)
            work = functools.partial(_refuse, choice.bytes.peak, block_bytes)
    shape = choice.block if choice is not None else chain.shape
    token = uuid.uuid4().hex
    name, chain_key = f"penstock-{token}", f"penstock-chain-{token}"
    chunks = tuple(
        tuple(min(unit, size - at) for at in range(0, size, unit)) if size else (0,)
        for unit, size in zip((max(1, n) for n in shape), chain.shape, strict=True)
    )
    starts = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in chunks]
    blocks: dict[tuple[int, ...], Region] = {
        index: {
            dim: slice(int(edges[i]), int(edges[i + 1]))
            for dim, edges, i in zip(chain.dims, starts, index, strict=True)
        }
        for index in np.ndindex(*map(len, chunks))
    }
    upstream = _Upstream.of(chain, blocks) if work is compute_block else None
    layer: dict[Any, Any] = {}
    for index, region in blocks.items():
        key = (name, *index)
        given: tuple[Any, ...] = ()
        if upstream is not None:
            places, pieces = upstream.pieces(index, region, f"penstock-piece-{token}", layer)
            given = (places, *pieces)
        # the data-producer mark keeps the scheduler from starting all blocks at once
        layer[key] = Task(
            key, work, TaskRef(chain_key), region, *given, _data_producer=upstream is None
        )
    # (what the graph computes before, no block computes again)
    bare = chain if upstream is None else upstream.without_data
    layer[chain_key] = DataNode(chain_key, bare)
    graph = HighLevelGraph.from_collections(
        name, layer, dependencies=() if upstream is None else (source.data,)
    )
    meta = np.empty((0,) * len(chain.shape), chain.dtype)
    array = dask.array.Array(graph, name, chunks, meta=meta)
    if fields_of(chain.output) is not None:
        return unpacked(chain.output, array)
    signal = xr.Variable(chain.dims, array, chain.output[SIGNAL].attrs)
    return chain.output.assign({SIGNAL: signal})


class _Upstream:
    """The chunks of a dask-backed source, and which of them a block of the result is made of."""

    def __init__(self, chain: Chain):
        self.chain = chain
        self.source = chain.source.variables[SIGNAL]
        self.edges = chunk_edges(self.source)

    @classmethod
    def of(cls, chain: Chain, blocks: dict[tuple[int, ...], Region]) -> _Upstream | None:
        """None where the source is no dask array, or blocks and chunks would make too many."""
        if chain.source.variables[SIGNAL].chunks is None or not blocks:
            return None
        found = cls(chain)
        middle = list(blocks.values())[len(blocks) // 2]
        each = math.prod(len(part) for part in found._parts(chain.regions(middle)[0]))
        return found if each * len(blocks) <= MOST_PIECES else None

    @property
    def without_data(self) -> Chain:
        """The chain over the outline of its source."""
        source = self.source
        blank = blank_variable(
            tuple(map(str, source.dims)), source.shape, source.dtype, source.attrs
        )
        return replace(self.chain, source=self.chain.source.assign({SIGNAL: blank}))

    def _parts(self, region: Region) -> list[list[tuple[int, Indexer | None, Indexer]]]:
        """For every dim: chunk, what of it is needed (None: all of it), and where that goes."""
        return [
            list(touched(region[str(dim)], edges))
            for dim, edges in zip(self.source.dims, self.edges, strict=True)
        ]

    def pieces(
        self, index: tuple[int, ...], region: Region, name: str, layer: dict[Any, Any]
    ) -> tuple[tuple[_Place, ...], list[Any]]:
        """Where the pieces of a block go, and their keys; cut ones are added to the layer."""
        from dask._task_spec import Task, TaskRef

        places: list[_Place] = []
        keys: list[Any] = []
        for number, parts in enumerate(
            itertools.product(*self._parts(self.chain.regions(region)[0]))
        ):
            chunk = TaskRef((self.source.data.name, *(part[0] for part in parts)))
            inside = tuple(part[1] for part in parts)
            if all(indexer is None for indexer in inside):
                keys.append(chunk)
            else:
                key = (name, *index, number)
                layer[key] = Task(key, _cut, chunk, inside)
                keys.append(TaskRef(key))
            places.append(tuple(part[2] for part in parts))
        return tuple(places), keys


def _cut(chunk: np.ndarray, inside: tuple[Indexer | None, ...]) -> np.ndarray:
    """A part of a chunk, as an array of its own: a view would keep the chunk alive."""
    for axis, indexer in enumerate(inside):
        if indexer is not None:
            chunk = np.asarray(chunk)[(slice(None),) * axis + (indexer,)]
    return np.array(chunk)


def _put_together(shape: tuple[int, ...], dtype: np.dtype, places: Any, pieces: Any) -> np.ndarray:
    block = np.empty(shape, dtype)
    for place, piece in zip(places, pieces, strict=True):
        # (one axis may be a list of positions; several would be taken together: write by open mesh)
        if sum(isinstance(indexer, np.ndarray) for indexer in place) > 1:
            full = [
                np.arange(indexer.start, indexer.stop) if isinstance(indexer, slice) else indexer
                for indexer in place
            ]
            block[np.ix_(*full)] = piece
        else:
            block[place] = piece
    return block


def _refuse(need: int, limit: int, chain: Chain, region: Region) -> np.ndarray:
    """One task of a lazy dataset whose rows are too large."""
    raise RowTooLarge(need, limit)


def compute_block(
    chain: Chain, region: Region, places: Any = None, *pieces: np.ndarray
) -> np.ndarray:
    """One task of a lazy dataset, from pieces of its source's chunks or by reading the source."""
    failures: list[tuple[dict[str, int], str]] = []
    remarks: dict[str, int] = {}
    given = None
    if places is not None:
        needed = chain.regions(region)[0]
        source = chain.source.variables[SIGNAL]
        shape = tuple(indexer_length(needed[str(dim)]) for dim in source.dims)
        if len(pieces) == 1 and np.shape(pieces[0]) == shape:
            given = (np.asarray(pieces[0]), False)
        else:
            given = (_put_together(shape, source.dtype, places, pieces), True)
    with single_threaded_kernels():
        block = chain.compute(region, failures=failures, remarks=remarks, given=given)
    for text in remarks_texts(remarks):
        warn(text, RuntimeWarning, stacklevel=2)
    if failures:
        warn(failures_text(len(failures), failures[0]), RuntimeWarning, stacklevel=2)
    return block
