"""Stages that read back what an earlier stage wrote, in other blocks: the bounded transpose.

A pipeline that filters along time and then mixes channels needs two kinds of blocks. The first
stage writes its blocks (rows of time) into a scratch array cut in pieces that the second stage
(stretches of all channels) reads whole. Both sides stay within one block of memory, and every
block is a file of its own, so that machines can share the folder.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.dataset import SIGNAL, Region, blank_variable, indexer_length
from penstock.planning.chain import Chain, Step
from penstock.reading import Reading
from penstock.storage.store import (
    CHUNK_BYTES,
    create_array,
    divided,
    fill_shape,
    read_array,
    store_version,
    stored_variable,
)

SCRATCH = "scratch"
PARTIALS = "partials"


def scratch_chain(chain: Chain, index: int) -> Chain:
    """The steps from `index` on, over an outline of what the steps before leave in scratch.

    Where there is nothing before (`index` 0), the source itself is read again instead.
    """
    first, rest = chain.until(index), chain.steps[index:]
    if not first.steps:
        return replace(chain, steps=rest)
    return reading_scratch(first, rest)


def reading_scratch(first: Chain, rest: tuple[Step, ...]) -> Chain:
    """Steps over an outline of the result of `first`, to be read from scratch."""
    outline = first.output
    blank = blank_variable(first.dims, first.shape, first.dtype, outline[SIGNAL].attrs)
    # (what `stored_variable` will say of pieces of this size)
    blank.encoding = Reading(scratch_bytes=4 * CHUNK_BYTES).in_encoding()
    return Chain(outline.assign({SIGNAL: blank}), rest, start=outline)


def create_scratch(folder: Path, number: int, stage: Any, following: Any) -> None:
    """Make the scratch arrays of a stage: its blocks, and its partial reductions."""
    chain: Chain = stage.chain
    if stage.keeps:
        needed = following.chain.regions(following.grid.middle())[0]
        pieces = tuple(
            max(1, min(unit, indexer_length(needed[dim]), size))
            for dim, unit, size in zip(chain.dims, stage.grid.block, chain.shape, strict=True)
        )
        # a piece must divide the block that writes it; larger ones are read in parts
        pieces = divided(pieces, stage.grid.block, chain.shape)
        part = fill_shape(pieces, max(1, CHUNK_BYTES // chain.dtype.itemsize))
        pieces = divided(part, pieces, chain.shape)
        create_array(
            folder,
            f"{SCRATCH}{number}",
            chain.dims,
            chain.shape,
            chain.dtype,
            stage.grid.block,
            compress=False,
            chunks=pieces,
        )
    if stage.reduces is not None:
        step: Step = following.chain.steps[0]
        n_stats, dims, shape, rows = partial_shape(stage, step)
        block = dict(zip(chain.dims, stage.grid.block, strict=True))
        part = (1, n_stats, *(block[dim] for dim in dims))
        create_array(
            folder,
            f"{PARTIALS}{number}",
            ("part", "statistic", *dims),
            (rows, n_stats, *shape),
            np.float64,
            part,
            compress=False,
            chunks=part,
        )


def partial_shape(stage: Any, step: Step) -> tuple[int, tuple[str, ...], tuple[int, ...], int]:
    """Statistics, remaining dims and their sizes, and number of parts of a reduction."""
    chain: Chain = stage.chain
    reduced = step.processor.reduce_dims
    dims = tuple(dim for dim in chain.dims if dim not in reduced)
    shape = tuple(size for dim, size in zip(chain.dims, chain.shape, strict=True) if dim in dims)
    parts = 1
    for dim, count in zip(chain.dims, stage.grid.counts, strict=True):
        if dim in reduced:
            parts *= count
    return step.processor.statistics(step.input), dims, shape, parts


def part_number(stage: Any, step: Step, number: int) -> int:
    """Which part of the reduction a block makes: its position along the reduced dims."""
    part = 0
    index = np.unravel_index(number, stage.grid.counts)
    for dim, i, count in zip(stage.grid.dims, index, stage.grid.counts, strict=True):
        if dim in step.processor.reduce_dims:
            part = part * count + int(i)
    return part


def scratch_source(folder: Path, number: int, chain: Chain) -> Chain:
    """The chain of a later stage, reading the scratch array that stage `number` wrote."""
    stored = stored_variable(folder, f"{SCRATCH}{number}")
    return replace(chain, source=chain.source.assign({SIGNAL: stored}))


def with_reduction(folder: Path, number: int, chain: Chain) -> Chain:
    """The chain with its first step reading the streamed reduction of stage `number`."""
    step = chain.steps[0]
    reader = functools.partial(
        _read_reduced,
        str(folder),
        f"{PARTIALS}{number}",
        step.processor,
        tuple(map(str, chain.start[SIGNAL].dims)),
    )
    return replace(chain, steps=(replace(step, reduced=reader), *chain.steps[1:]))


def _read_reduced(
    folder: str, name: str, processor: Any, dims: tuple[str, ...], region: Region
) -> Any:
    remaining = [region[str(dim)] for dim in dims if dim not in processor.reduce_dims]
    everything = slice(0, 1 << 62)
    version = store_version(Path(folder))
    if not processor.merges:
        partials = read_array(folder, name, version, everything, everything, *remaining)
        return processor.combine(partials)
    # (all parts at once would be as large as the blocks that they were made of)
    merged = None
    for part in itertools.count():
        found = read_array(folder, name, version, slice(part, part + 1), everything, *remaining)
        if not len(found):
            return merged
        if merged is None:
            merged = processor.combine(found)
        else:
            merged = processor.combine(np.stack([merged, found[0]]))
