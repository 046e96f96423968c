"""One conformance test for all processors."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Region, lazy_variable, read_region, reads_fresh
from penstock.memory.buffers import release_memory
from penstock.pipeline import Pipeline
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.planning.plan import Resources, make_plan
from penstock.processor import Processor
from penstock.reading import Reading


@contextlib.contextmanager
def raise_if_computes() -> Iterator[None]:
    """Anything that computes a Dask collection inside raises: a test of laziness.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.ones((2, 100), "float32"), sampling_frequency=100.0)
    >>> with ps.testing.raise_if_computes():
    ...     lazy = ps.Pipeline([np.abs])(ds)
    """
    import dask

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was computed that should have stayed lazy")

    with dask.config.set(scheduler=refuse):
        yield


def virtual_dataset(
    shape: tuple[int, ...],
    dims: tuple[str, ...] = ("channel", "time"),
    *,
    sampling_frequency: float | None = 1000.0,
    dtype: Any = "float32",
    readable: bool = True,
) -> xr.Dataset:
    """A dataset of any size without data: reading a region makes its values up.

    Values are a fixed function of the position, so that any two reads agree. With
    ``readable=False`` reading raises: a test that nothing is read.
    """
    from penstock.dataset import make_dataset

    read = _Positions(shape, str(np.dtype(dtype))) if readable else _refuse_reading
    return make_dataset(
        lazy_variable(dims, read, shape, dtype, reading=Reading(scratch_bytes=4 << 20)),
        sampling_frequency=sampling_frequency if "time" in dims else None,
    )


class _Positions:
    def __init__(self, shape: tuple[int, ...], dtype: str):
        self.shape, self.dtype = shape, dtype

    def __call__(self, *indexers: Any) -> np.ndarray:
        lengths = [i.stop - i.start if isinstance(i, slice) else len(i) for i in indexers]
        rates = (0.7, 0.011, 1.3, 0.37)
        block = np.zeros(lengths, self.dtype)
        for axis, (indexer, length) in enumerate(zip(indexers, lengths, strict=True)):
            along = np.moveaxis(block, axis, -1)
            for at in range(0, length, 1 << 16):  # in pieces, so that temporaries stay small
                piece = slice(at, min(at + (1 << 16), length))
                if isinstance(indexer, slice):
                    position = np.arange(indexer.start + piece.start, indexer.start + piece.stop)
                else:
                    position = indexer[piece]
                along[..., piece] += np.sin(rates[axis] * position + axis).astype(self.dtype)
        return block


def _refuse_reading(*indexers: Any) -> np.ndarray:
    raise AssertionError("samples were read that should not have been")


def check_processor(
    processor: Processor,
    ds: xr.Dataset,
    *,
    tolerance: float | None = None,
    n_cuts: int = 3,
    in_files: bool = True,
) -> None:
    """Check that a processor keeps the contract; raise AssertionError where it does not.

    Checked are: the canonical form round trip through YAML and pickle; an outline that needs no
    data and describes the result; results that do not depend on how loop dims are cut (bit for bit)
    nor on how core dims are cut (to `tolerance`); an input left alone unless `overwrites`; no more
    memory than declared (`scratch`, `scratch_bytes`); no shared state between threads.

    Parameters
    ----------
    processor : Processor
        The processor to check.
    ds : xarray.Dataset
        A small dataset that it works on, in memory.
    tolerance : float, optional
        Allowed deviation for cut core dims, as a fraction of the largest absolute value. Default:
        1e-12 for float64, 2e-6 for float32.
    n_cuts : int, default 3
        Into how many pieces each dim is cut.
    in_files : bool, default True
        Whether the processor must survive YAML (not so for `Apply` of a local function).

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.random.randn(4, 500).astype("f4"), sampling_frequency=100.0)
    >>> ps.testing.check_processor(ps.Apply(np.abs, core_dims=()), ds)
    """
    name = type(processor).__name__
    assert pickle.loads(pickle.dumps(processor)) == processor, f"{name} changes when pickled"
    if in_files:
        again = Pipeline.from_yaml(Pipeline([processor]).to_yaml())[0]
        assert again == processor, f"{name} changes on its way through YAML: {again!r}"

    processor = processor.bound(ds)
    chain = prepared(Chain(ds), [processor], 1 << 40)
    state = chain.states[0]
    assert pickle.loads(pickle.dumps(state)) is not None or state is None
    outline = processor.outline(chain.steps[0].input, state)
    assert outline[SIGNAL].dims == chain.output[SIGNAL].dims

    region = chain.whole()
    before = read_region(ds, {str(d): slice(None) for d in ds[SIGNAL].dims}).copy()
    whole = chain.compute(region)
    after = read_region(ds, {str(d): slice(None) for d in ds[SIGNAL].dims})
    assert np.array_equal(before, after, equal_nan=True), f"{name} changes its input"
    assert whole.shape == outline[SIGNAL].shape, f"{name}: result {whole.shape} is not its outline"
    assert whole.dtype == outline[SIGNAL].dtype, f"{name}: result {whole.dtype} is not its outline"

    if tolerance is None:
        tolerance = 1e-12 if whole.dtype == np.float64 else 2e-6
    for dim, is_free in chain.cuttable().items():
        pieces = [chain.compute({**region, dim: part}) for part in _cuts(region[dim], n_cuts)]
        joined = np.concatenate(pieces, axis=chain.dims.index(dim))
        if is_free:
            assert _same(joined, whole), f"{name}: the result depends on how {dim!r} is cut"
        else:
            allowed = tolerance * float(np.abs(whole).max(initial=0.0))
            deviation = float(np.abs(joined - whole).max(initial=0.0))
            assert deviation <= allowed, (
                f"{name}: cutting {dim!r} with its margin changes the result by {deviation:g}, "
                f"more than {allowed:g}"
            )
    _check_memory(chain, region)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(chain.compute, [region] * 4):
            assert _same(result, whole), f"{name}: threads disturb it"
    limits = Resources(budget=1 << 40, workers=2)
    assert make_plan(Chain(ds).bind([processor]), limits).n_blocks >= 1


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit, NaN to NaN, field by field where they are records."""
    if a.dtype.names is None:
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return all(_same(a[name], b[name]) for name in a.dtype.names)


def _cuts(indexer: Any, n: int) -> list[slice]:
    edges = np.unique(np.linspace(indexer.start, indexer.stop, n + 1).astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _check_memory(chain: Chain, region: Region) -> None:
    """Compare what NumPy allocates with what the chain says it takes."""
    processor = chain.steps[0].processor
    if processor.selects:
        return
    release_memory()
    tracemalloc.start()
    try:
        result = chain.compute(region)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del result
    claimed = chain.block_bytes(region)
    # data in memory already are not allocated again, unless the kernel needs a block of its own
    in_memory = not reads_fresh(chain.source.variables[SIGNAL])
    shared = claimed.read if in_memory and not processor.overwrites else 0
    slack = 256 * 1024
    assert peak <= claimed.peak - shared + slack, (
        f"{type(processor).__name__} takes {peak - claimed.result} bytes beside its result "
        f"of {claimed.result}, but declares scratch={processor.scratch} of its input "
        f"({claimed.read} bytes), row_scratch={processor.row_scratch} and "
        f"scratch_bytes={processor.scratch_bytes}"
    )
