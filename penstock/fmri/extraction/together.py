"""Several extractions from the same volumes: the image is read once for all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Region, blank_variable, indexer_length
from penstock.fmri.extraction.base import Regions, _Extract
from penstock.fmri.extraction.reducers import Segments, reduce_segments
from penstock.fmri.images.images import AFFINE, AFFINE_DIMS, SPACE, VoxelGrid, voxel_grid
from penstock.memory.buffers import new_array, trim_scratch
from penstock.pipeline_files import parse_steps
from penstock.planning.chain import Chain, Step, run_step
from penstock.processor import Context, Processor

REGION, VOXEL = "region", "voxel"
PART = "part"

_KEPT = 2
"""Outlines to which a step keeps its parts bound: while blocks are chosen the same one is asked
about many times. What is bound (atlases, masks) lives and ends with the step."""


@dataclass(frozen=True, repr=False)
class ExtractTogether(Processor):
    """Region signals of several maskers, from one pass over the volumes.

    Parameters
    ----------
    parts : tuple of (tuple of Processor)
        For each masker the processors that end in region or voxel signals, for example
        ``((SmoothVolumes(6.0), ExtractLabels("atlas.nii.gz")), (ExtractVoxels("mask.nii"),))``. A
        part of one processor may be given as it is. Neighbouring parts that begin with the same
        processors share their result.

    Notes
    -----
    The result has the dims ``(region, time)``: all regions of the first part, then those of the
    second, and so on; the coordinate ``part`` says which. Voxels are called ``"x y z"`` after their
    indices. The type is that which holds all parts (float64 with any region average).

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri import ExtractTogether, ExtractVoxels, ExtractSpheres, SpatialImage
    >>> ds = ps.make_dataset(
    ...     np.ones((4, 5, 6, 10), "f4"),
    ...     ("x", "y", "z", "time"),
    ...     sampling_frequency=0.5,
    ...     coords={"affine": (("affine_row", "affine_column"), np.eye(4))},
    ... )
    >>> mask = SpatialImage(np.ones((4, 5, 6), bool), np.eye(4))
    >>> together = ExtractTogether((ExtractVoxels(mask), ExtractSpheres(((1, 1, 1),), radius=1.0)))
    >>> ps.Pipeline([together])(ds).signal.shape
    (121, 10)
    """

    parts: Any
    core_dims = SPACE

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple | list) or not self.parts:
            raise TypeError("parts must be a tuple of processors, or of tuples of processors")
        parts = tuple(tuple(_processors(part)) for part in self.parts)
        _check_parts(parts)
        object.__setattr__(self, "parts", parts)
        super().__post_init__()

    @property
    def modules(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(sorted({name for part in self.parts for one in part for name in one.modules}))

    @property
    def scratch_bytes(self) -> int:  # type: ignore[override]
        kept: dict[str, int] = {}  # (processors of one kind use the same)
        for one in itertools.chain(*self.parts):
            kind = type(one).__module__
            kept[kind] = max(kept.get(kind, 0), one.scratch_bytes)
        return sum(kept.values())

    def parameters(self) -> dict[str, Any]:
        return {
            "parts": [[{one.qualified_name(): one.parameters()} for one in p] for p in self.parts]
        }

    def canonical(self) -> dict[str, Any]:
        return {**super().canonical(), "of": [[one.canonical() for one in p] for p in self.parts]}

    def check_writable(self) -> None:
        for part in self.parts:
            for one in part:
                one.check_writable()

    # ------------------------------------------------------------------ the contract

    def _bound(self, outline: xr.Dataset) -> tuple[Chain, ...]:
        """The parts, bound to the outline of the volumes; neighbours that average are joined."""
        kept: tuple[tuple[xr.Dataset, tuple[Chain, ...]], ...] = self.__dict__.get("_kept", ())
        for of, chains in kept:
            if of is outline:
                return chains
        chains = tuple(Chain(outline).bind(part) for part in _joined(self.parts))
        object.__setattr__(self, "_kept", (*kept, (outline, chains))[-_KEPT:])
        return chains

    def __getstate__(self) -> dict[str, Any]:
        # (bound to outlines again where it arrives)
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        chains = self._bound(ds)
        names: list[str] = []
        parts: list[int] = []
        for chain in chains:
            for found in _names_by_part(chain):
                parts += [parts[-1] + 1 if parts else 0] * len(found)
                names += found
        loops = tuple(str(dim) for dim in ds[SIGNAL].dims if dim not in SPACE)
        shape = (len(names), *(ds.sizes[dim] for dim in loops))
        dtype = np.result_type(*(chain.dtype for chain in chains))
        rest = ds.drop_dims([dim for dim in (*SPACE, *AFFINE_DIMS) if dim in ds.dims])
        rest = rest.drop_vars(AFFINE, errors="ignore")
        signal = blank_variable((REGION, *loops), shape, dtype, ds[SIGNAL].attrs)
        return rest.assign({SIGNAL: signal}).assign_coords(
            {REGION: np.array(names), PART: (REGION, np.array(parts, "int32"))}
        )

    def resident_bytes(self, ds: xr.Dataset) -> int:
        return sum(chain.resident_bytes for chain in self._bound(ds))

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        return max(_beside_input(chain, region) for chain in self._bound(ds))

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        chains = self._bound(ctx.dataset)
        dims = tuple(map(str, ctx.dataset.variables[SIGNAL].dims))
        loops = tuple(dim for dim in dims if dim not in SPACE)
        # back in the order of the dataset, a view: sub-steps put their core dims last themselves
        volumes = block.transpose([(*loops, *SPACE).index(dim) for dim in dims])
        lengths = block.shape[: len(loops)]
        total = sum(chain.shape[0] for chain in chains)
        result = new_array((*lengths, total), np.result_type(*(c.dtype for c in chains)))
        at = 0
        kept: tuple[tuple[Processor, ...], np.ndarray] = ((), volumes)
        for chain in chains:
            before = tuple(step.processor for step in chain.steps[:-1])
            if not before or kept[0] != before:
                kept = ((), volumes)  # (those of the part before go first)
                kept = (before, self._run(chain.steps[:-1], volumes, ctx))
            values = self._run(chain.steps[-1:], kept[1], ctx)
            result[..., at : at + len(values)] = np.moveaxis(values, 0, -1)
            at += len(values)
        return result

    def _run(self, steps: tuple[Step, ...], block: np.ndarray, ctx: Context) -> np.ndarray:
        for step in steps:
            source = _whole(step.input, ctx.region)
            target = _whole(step.output, ctx.region)
            block = run_step(step, block, source, target, ctx.failures, owned=False)
            trim_scratch()
        return block


@dataclass(frozen=True, repr=False)
class _Averages(_Extract):
    """Region averages of several processors at once: volumes are looked at once for all."""

    parts: Any

    def _find(self, grid: VoxelGrid) -> Regions:
        found = [part.resolve(grid) for part in self.parts]
        names = [name for one in found for name in one.coords[REGION].tolist()]
        segments = Segments.joined([one.voxels for one in found])
        return Regions(segments, {REGION: np.array(names)})

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        for part in self.parts:
            part.outline(ds, state)  # (warns of regions that vanish)
        return super().outline(ds, state)

    def _reduce(self, regions: Regions, volumes: np.ndarray, out: np.ndarray) -> None:
        out[...] = reduce_segments(volumes, regions.voxels, "mean", self.parts[0].averages)

    def resident_bytes(self, ds: xr.Dataset) -> int:
        return 2 * sum(part.resident_bytes(ds) for part in self.parts)


def _beside_input(chain: Chain, region: Region) -> int:
    """Memory of the steps of a part, its result included, beside volumes that others use too."""
    peak = before = 0
    for step in chain.steps:
        processor, source = step.processor, _whole(step.input, region)
        copy = _n_bytes(step.input, source) if processor.overwrites else 0
        after = _n_bytes(step.output, _whole(step.output, region))
        peak = max(peak, before + copy + processor.kernel_bytes(step.input, source) + after)
        before = after
    return peak


def _n_bytes(outline: xr.Dataset, region: Region) -> int:
    signal = outline.variables[SIGNAL]
    lengths = (indexer_length(region[str(dim)]) for dim in signal.dims)
    return math.prod(lengths) * signal.dtype.itemsize


def _joined(parts: Iterable[tuple[Processor, ...]]) -> Iterator[tuple[Processor, ...]]:
    """The parts, neighbours that average the same volumes made one."""

    def kind(part: tuple[Processor, ...]) -> Any:
        last = part[-1]
        averages = last.averages if isinstance(last, _Extract) else None
        return (part[:-1], averages) if averages else id(part)

    for _, group in itertools.groupby(parts, kind):
        same = list(group)
        if len(same) == 1:
            yield same[0]
        else:
            yield (*same[0][:-1], _Averages(tuple(part[-1] for part in same)))


def _names_by_part(chain: Chain) -> Iterator[list[str]]:
    last = chain.steps[-1]
    if isinstance(last.processor, _Averages):
        grid = voxel_grid(last.input)
        for part in last.processor.parts:
            yield list(map(str, part.resolve(grid).coords[REGION]))
    else:
        yield list(region_names(chain))


def _whole(outline: xr.Dataset, region: Region) -> Region:
    """All of an outline, but only the volumes of a region."""
    signal = outline.variables[SIGNAL]
    return {
        str(dim): region[str(dim)]
        if str(dim) in region and dim not in SPACE
        else slice(0, signal.sizes[dim])
        for dim in signal.dims
    }


def _processors(part: Any) -> Iterator[Processor]:
    items: Iterable[Any] = part if isinstance(part, list | tuple) else (part,)
    for item in items:
        if isinstance(item, Processor):
            yield item
        elif isinstance(item, dict | str):  # (as files hold it)
            yield from parse_steps([item], ())
        else:
            raise TypeError(f"parts are made of processors, got {item!r}")


def _check_parts(parts: tuple[tuple[Processor, ...], ...]) -> None:
    for part in parts:
        if not part:
            raise ValueError("every part needs at least one processor, but one of them is empty")
        for one in part:
            along = [dim for dim in one.core_dims if dim not in SPACE]
            if along:
                raise ValueError(
                    f"{type(one).__name__} works along {along[0]!r}, and parts see some volumes at "
                    "a time: put it behind ExtractTogether in the pipeline"
                )


def region_names(chain: Chain) -> Iterator[str]:
    """Names of the regions (or voxels) that a part gives."""
    outline = chain.output
    dim = chain.dims[0]
    if dim == VOXEL and "voxel_x" in outline.coords:
        columns = [outline[f"voxel_{axis}"].values for axis in "xyz"]
        yield from (f"{x} {y} {z}" for x, y, z in zip(*columns, strict=True))
    elif dim in outline.coords and dim not in SPACE:
        yield from map(str, outline[dim].values)
    else:
        raise ValueError(
            f"the last processor of a part must give region signals, but "
            f"{type(chain.steps[-1].processor).__name__} gives {chain.dims}"
        )
