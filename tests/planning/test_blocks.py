"""Blocks do not matter: whatever the cut, the order, the executor, the result is the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from generic import Demean, MovingAverage, RegionMeans, SortChannels, SubtractMean
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BudgetError
from penstock.memory.accounting import MIB
from penstock.planning.blocks import Grid, choose_block
from penstock.planning.chain import Chain
from penstock.planning.plan import Resources, make_plan
from penstock.reading import Reading
from penstock.testing import check_processor, raise_if_computes, virtual_dataset


def dataset(shape: tuple[int, ...], dims: tuple[str, ...], dtype: str = "float64") -> xr.Dataset:
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return ps.make_dataset(values, dims, sampling_frequency=50.0 if "time" in dims else None)


PIPELINES = {
    "rows": ((8, 3000), ("channel", "time"), [Demean(), np.abs]),
    "margins": ((5, 4000), ("channel", "time"), [MovingAverage(11), MovingAverage(5)]),
    "grid": ((6, 7, 200), ("y", "x", "frequency"), [Demean("frequency")]),
    "reduction": ((9, 2000), ("channel", "time"), [Demean(), SubtractMean(), MovingAverage(7)]),
    "transpose": ((9, 2000), ("channel", "time"), [Demean(), SortChannels()]),
    "volumes": ((6, 5, 4, 300), ("x", "y", "z", "time"), [RegionMeans(3)]),
    "streamed along time": ((4, 5000), ("channel", "time"), [SubtractMean("time")]),
}


@pytest.mark.parametrize("kind", PIPELINES)
@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_any_cut_gives_the_whole(kind: str, draw: st.DataObject) -> None:
    shape, dims, processors = PIPELINES[kind]
    chain = Chain(dataset(shape, dims)).bind(ps.Pipeline(processors))
    whole = chain.compute(chain.whole())
    cuttable = chain.cuttable()
    block = tuple(
        draw.draw(st.integers(1, size)) if dim in cuttable else size
        for dim, size in zip(chain.dims, chain.shape, strict=True)
    )
    # blocks from anywhere in the grid stand for all of them
    grid = Grid(chain.dims, chain.shape, block)
    for number in draw.draw(st.sets(st.integers(0, len(grid) - 1), min_size=1, max_size=5)):
        region = grid.region(number)
        expected = whole[tuple(region.values())]
        found = chain.compute(region)
        in_order = chain.source.signal.dims[-1] in processors[0].core_dims
        if in_order and all(cuttable.get(dim, True) for dim in chain.dims):
            assert np.array_equal(found, expected)
        else:  # NumPy adds up strided data in an order that depends on the shape
            assert np.abs(found - expected).max() <= 1e-12 * np.abs(whole).max()


@pytest.mark.parametrize("kind", PIPELINES)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(slot=st.integers(150_000, 3_000_000), workers=st.integers(1, 4))
def test_any_budget_gives_the_whole(
    kind: str, slot: int, workers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through plan, stages, scratch and store, with blocks as small as the budget makes them."""
    shape, dims, processors = PIPELINES[kind]
    ds = dataset(shape, dims)
    pipeline = ps.Pipeline(processors)
    chain = Chain(ds).bind(pipeline)
    whole = chain.compute(chain.whole())
    out = tmp_path_factory.mktemp("out")
    budget_for_blocks(pipeline, ds, out, slot * workers, workers)
    made = ps.open_dataset(out / "dataset.zarr").signal
    assert made.dims == chain.dims
    assert np.abs(made.values - whole).max() <= 1e-12 * max(1.0, np.abs(whole).max())


def budget_for_blocks(
    pipeline: ps.Pipeline, ds: xr.Dataset, out: Path, n_bytes: int, workers: int
) -> None:
    """Run with so many bytes left for blocks, whatever this process takes already."""
    from penstock.memory.accounting import PROCESS_ALLOWANCE, THREAD_ALLOWANCE, process_base
    from penstock.planning import blocks

    base = process_base() + PROCESS_ALLOWANCE
    needed = base + n_bytes + workers * THREAD_ALLOWANCE
    original = blocks.write_buffer_bytes
    blocks.write_buffer_bytes = lambda n: 0  # tiny blocks: buffers would hide their size
    try:
        report = pipeline.run(ds, out, memory=needed + 2 * MIB, workers=workers, progress=False)
    except BudgetError:
        report = pipeline.run(ds, out, memory=4 * needed, workers=workers, progress=False)
    finally:
        blocks.write_buffer_bytes = original
    assert not report.failed, report


@pytest.mark.parametrize(
    "processor",
    [Demean(), MovingAverage(9), SubtractMean(), SubtractMean("time"), SortChannels()],
    ids=repr,
)
def test_generic_processors_keep_the_contract(processor: ps.Processor) -> None:
    check_processor(processor, dataset((6, 800), ("channel", "time")))
    check_processor(processor, dataset((6, 800), ("channel", "time"), "float32"))


def test_volumes_keep_the_contract() -> None:
    check_processor(RegionMeans(4), dataset((5, 4, 3, 60), ("x", "y", "z", "time")))


def test_lazy_dataset_is_dask_and_computes_only_what_is_asked() -> None:
    reads = []

    class Counting:
        def __call__(self, *indexers: slice) -> np.ndarray:
            reads.append(indexers)
            return np.ones([i.stop - i.start for i in indexers])

    from penstock.dataset import lazy_variable

    ds = ps.make_dataset(
        lazy_variable(("channel", "time"), Counting(), (100, 1_000_000), "float64"),
        sampling_frequency=100.0,
    )
    with raise_if_computes():
        lazy = ps.Pipeline([MovingAverage(11)])(ds)
        part = lazy.signal.isel(channel=3).sel(time=slice(10, 20))
    assert lazy.chunks["channel"]
    assert not reads
    assert part.compute(scheduler="synchronous").shape == (1001,)
    assert len(reads) == 1


def test_streamed_reduction_and_transpose_are_in_the_plan() -> None:
    ds = virtual_dataset((64, 4_000_000))
    limits = Resources(budget=300 * MIB, workers=2)
    reduced = make_plan(Chain(ds).bind([Demean(), SubtractMean()]), limits)
    assert [stage.kind for stage in reduced.stages] == ["scratch", "process"]
    assert reduced.stages[0].reduces == 1
    transposed = make_plan(Chain(ds).bind([Demean(), SortChannels()]), limits)
    assert [stage.kind for stage in transposed.stages] == ["scratch", "process"]
    assert transposed.stages[0].reduces is None
    assert transposed.stages[1].grid.block[0] == 64
    only = make_plan(Chain(ds).bind([SubtractMean()]), limits)
    assert not only.stages[0].keeps or len(only.stages) == 1


def test_plan_of_200_gib_touches_no_data() -> None:
    n = 200 * 1024**3 // 4 // 256
    ds = virtual_dataset((256, n), readable=False)
    with raise_if_computes():
        plan = make_plan(Chain(ds).bind([MovingAverage(1001), Demean()]), Resources(4 * 1024**3, 2))
    assert plan.predicted_memory <= 4 * 1024**3
    assert sum(stage.bytes_out for stage in plan.stages) >= 200 * 1024**3


def test_a_budget_that_cannot_be_kept_names_what_needs_it() -> None:
    ds = virtual_dataset((4, 50_000_000))
    with pytest.raises(BudgetError) as error:
        make_plan(Chain(ds).bind([Demean()]), Resources(100 * MIB, 2), name="night")
    text = str(error.value)
    assert "night: Demean needs" in text
    assert "allow" in text
    assert "or use" in text


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5000)),
    slot=st.integers(10_000, 10_000_000),
    concurrency=st.integers(1, 8),
)
def test_chosen_blocks_fit(shape: tuple[int, int, int], slot: int, concurrency: int) -> None:
    chain = Chain(virtual_dataset(shape, ("y", "x", "frequency"))).bind([Demean("frequency")])
    choice = choose_block(chain, slot, concurrency=concurrency)
    row = chain.block_bytes({"y": slice(0, 1), "x": slice(0, 1), "frequency": slice(0, shape[2])})
    if choice is None:
        assert row.peak > slot
        return
    grid = Grid(chain.dims, chain.shape, choice.block)
    assert choice.block[2] == shape[2]
    assert all(
        chain.block_bytes(grid.region(n)).peak <= slot for n in {0, len(grid) // 2, len(grid) - 1}
    )


def test_grid_covers_everything_once() -> None:
    grid = Grid(("a", "b"), (7, 10), (3, 4))
    seen = np.zeros((7, 10), int)
    for number in range(len(grid)):
        seen[tuple(grid.region(number).values())] += 1
    assert (seen == 1).all()


def test_an_interleaved_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a multiplexed file: read in file order into scratch, not once for every few rows."""
    monkeypatch.setattr("penstock.planning.plan.REREAD_BYTES", 1)
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    values = np.random.default_rng(0).standard_normal((12, 40_000)).astype("f4")
    read = []

    class File:
        def __call__(self, *indexers: slice) -> np.ndarray:
            part = values[indexers].copy()
            read.append(part.size)
            return part

    from penstock.dataset import lazy_variable

    signal = lazy_variable(
        ("channel", "time"), File(), values.shape, "f4", reading=Reading(interleaved=True)
    )
    ds = ps.make_dataset(signal, sampling_frequency=100.0)
    plan = ps.Pipeline([Demean()]).plan(ds, memory="3 GiB", workers=2)
    assert [stage.kind for stage in plan.stages] == ["scratch", "process"]
    assert "file order" in str(plan)
    report = ps.Pipeline([Demean()]).run(ds, tmp_path, memory="3 GiB", workers=2, progress=False)
    assert report.ok, report
    assert sum(read) == values.size
    made = ps.open_dataset(tmp_path / "dataset.zarr").signal.values
    assert np.array_equal(made, values - values.mean(axis=1, keepdims=True))


def one_at_a_time(processors: list[ps.Processor], ds: xr.Dataset) -> np.ndarray:
    """Each processor applied to the whole result of the one before, held in memory."""
    for processor in ps.Pipeline(processors):
        lazy = ps.Pipeline([processor])(ds)
        ds = lazy.assign(signal=lazy.signal.compute(scheduler="synchronous"))
    return ds.signal.values


def test_selections_after_steps_that_need_everything() -> None:
    """What a later step leaves out still counts in means, sorts and references before it."""
    from penstock.eeg import Crop, PickChannels, Rereference, Scale

    names = {"channel": [f"C{i}" for i in range(8)]}
    ds = dataset((8, 500), ("channel", "time")).assign_coords(names)
    for processors in (
        [Rereference(), PickChannels(("C0", "C1"))],
        [Rereference("C5"), PickChannels(("C1", "C0"))],
        [Scale(), Crop(1.0, 2.0)],
        [SortChannels(), PickChannels(("C0", "C5"))],
        [SortChannels(), PickChannels(tuple(f"C{i}" for i in (3, 1, 2, 0, 7, 6, 5, 4)))],
        [SubtractMean(), PickChannels(("C7", "C2")), Demean(), Crop(0.5, 3.0)],
    ):
        found = ps.Pipeline(processors)(ds).signal.compute(scheduler="synchronous").values
        assert np.abs(found - one_at_a_time(processors, ds)).max() < 1e-12, processors


def test_results_are_never_cast_down_silently() -> None:
    whole = ps.make_dataset(np.array([[2, 3, 5]], "i2"), sampling_frequency=1.0)
    announced = ps.Apply(np.sqrt, core_dims=(), dtype="int16")
    with pytest.raises(ValueError, match="int16 was announced"):
        ps.Pipeline([announced])(whole).signal.compute(scheduler="synchronous")
    # (a function that announces nothing gets floats)
    floats = ps.Pipeline([np.sqrt])(whole).signal
    assert floats.dtype == np.float32
    assert np.allclose(floats.compute(scheduler="synchronous"), np.sqrt([[2, 3, 5]]))
    made = ps.Pipeline([ps.Apply(np.sqrt, core_dims=(), dtype="float32")])(whole)
    assert made.signal.dtype == np.float32
    assert np.allclose(made.signal.compute(scheduler="synchronous"), np.sqrt([[2, 3, 5]]))


def test_dask_chunks_count_in_the_plan() -> None:
    import dask.array

    signal = dask.array.ones((64, 100_000), chunks=(64, -1), dtype="f4")
    chain = Chain(ps.make_dataset(signal, sampling_frequency=100.0)).bind([Demean()])
    one = chain.block_bytes({"channel": slice(0, 1), "time": slice(0, 100_000)})
    assert one.peak >= signal.nbytes


def test_empty_dims_have_blocks() -> None:
    for shape in ((0, 100), (3, 0)):
        ds = dataset(shape, ("channel", "time"))
        assert ps.Pipeline([np.abs])(ds).signal.compute(scheduler="synchronous").shape == shape


@pytest.mark.parametrize("kib", [64, 512, 4096, 8192, 12288, 65536])
@pytest.mark.parametrize("method", ["fir", "iir"])
def test_small_bounds_of_lazy_blocks_do_not_turn_into_whole_rows(kib: int, method: str) -> None:
    from penstock.eeg import HighPassFilter

    ds = virtual_dataset((4, 20_000_000))
    lazy = ps.Pipeline([HighPassFilter(1.0, method=method)])(ds, block_bytes=kib * 1024)
    largest = math.prod(max(lengths) for lengths in lazy.signal.chunks) * lazy.signal.dtype.itemsize
    cuttable = Chain(ds).bind([HighPassFilter(1.0, method=method)]).cuttable()
    if "time" in cuttable:
        assert largest <= max(kib * 1024, 64 * 1024)
    else:  # (a filter that needs the whole row)
        assert largest >= 20_000_000 * 4
