"""Lazy results upon the user's own dask arrays: computed once, and equal whatever the chunks."""

from __future__ import annotations

import re
import threading

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest

import penstock as ps
from penstock.eeg import HighPassFilter, Rereference, Resample
from penstock.processor import Apply
from penstock.storage.store import write_store


class Counting:
    """Doubles, and counts how often."""

    def __init__(self) -> None:
        self.calls, self.lock = 0, threading.Lock()

    def __call__(self, block: np.ndarray) -> np.ndarray:
        with self.lock:
            self.calls += 1
        return block * 2


def upstream(values: np.ndarray, chunks: object) -> tuple[da.Array, Counting]:
    counting = Counting()
    array = da.from_array(values, chunks=chunks, name=False)
    empty = np.empty((0,) * values.ndim, values.dtype)
    return array.map_blocks(counting, dtype=values.dtype, meta=empty, name=False), counting


CHUNKS = [(8, 1000), (1, 10_000), (3, 700), (8, 10_000), ((2, 5, 1), (1, 3999, 6000))]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_every_chunk_of_the_users_graph_is_computed_once(chunks):
    values = np.random.default_rng(0).standard_normal((8, 10_000)).astype("f4")
    array, counting = upstream(values, chunks)
    ds = ps.make_dataset(array, sampling_frequency=100.0)
    lazy = ps.Pipeline([HighPassFilter(1.0, method="iir")])(ds, block_bytes=1 << 20)
    assert counting.calls == 0
    got = lazy.signal.data.compute(scheduler="threads", num_workers=2)
    assert counting.calls == array.npartitions
    plain = ps.make_dataset(values * 2, sampling_frequency=100.0)
    expected = ps.Pipeline([HighPassFilter(1.0, method="iir")])(plain).signal.values
    np.testing.assert_array_equal(got, expected)


def test_a_part_of_the_result_computes_a_part_of_the_graph():
    array, counting = upstream(np.ones((8, 10_000), "f4"), (2, 10_000))
    ds = ps.make_dataset(array, sampling_frequency=100.0)
    lazy = ps.Pipeline([HighPassFilter(1.0, method="iir")])(ds, block_bytes=1 << 18)
    lazy.signal[3].compute(scheduler="synchronous")
    assert counting.calls == 1


@pytest.mark.parametrize("chunks", CHUNKS)
def test_margins_picks_and_resampling_upon_chunks(chunks):
    values = np.random.default_rng(1).standard_normal((8, 10_000))
    coords = {"channel": [f"C{i}" for i in range(8)], "channel_type": ("channel", ["eeg"] * 8)}
    array, _ = upstream(values, chunks)
    steps = [HighPassFilter(5.0), Rereference(), Resample(50.0)]
    ds = ps.make_dataset(array, sampling_frequency=100.0, coords=coords)
    plain = ps.make_dataset(values * 2, sampling_frequency=100.0, coords=coords)
    picked = {"channel": [6, 0, 3], "time": slice(100, 9000)}
    for one, other in ((ds, plain), (ds.isel(picked), plain.isel(picked))):
        got = ps.Pipeline(steps)(one, block_bytes=1 << 18).signal.values
        expected = ps.Pipeline(steps)(other).signal.values
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_whole_numbers_and_a_kernel_that_writes_into_its_block_leave_the_users_chunks():
    values = np.arange(8000, dtype="i2").reshape(8, 1000)
    array = da.from_array(values, chunks=(8, 1000), name=False)
    ds = ps.make_dataset(array, sampling_frequency=100.0)
    lazy = ps.Pipeline([Apply(np.negative), HighPassFilter(5.0)])(ds)
    with dask.config.set(scheduler="synchronous"):
        both = dask.compute(lazy.signal.data, array)
    np.testing.assert_array_equal(both[1], np.arange(8000, dtype="i2").reshape(8, 1000))
    assert both[0].dtype.kind == "f"


@pytest.mark.parametrize("chunks", CHUNKS[:4])
def test_a_run_computes_the_users_chunks_about_once(chunks, tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((8, 10_000)).astype("f4")
    array, counting = upstream(values, chunks)
    ds = ps.make_dataset(array, sampling_frequency=100.0)
    pipeline = ps.Pipeline([HighPassFilter(1.0, method="iir")])
    monkeypatch.setattr(
        "penstock.planning.blocks.SMALL_BYTES", 1
    )  # (several blocks of so small a signal)
    report = pipeline.run(ds, tmp_path / "out", memory="4 GiB", workers=2, progress=False)
    assert report.ok
    assert counting.calls <= 2 * array.npartitions
    expected = pipeline(ps.make_dataset(values * 2, sampling_frequency=100.0)).signal.values
    (result,) = (tmp_path / "out").glob("*.zarr")
    np.testing.assert_array_equal(ps.open_dataset(result).signal.values, expected)


def test_a_run_on_a_small_budget_computes_the_users_chunks_once(tmp_path):
    # (blocks across all channels, with margins, do not fit: the reference is reduced before)
    values = np.random.default_rng(0).standard_normal((64, 150_000))
    array, counting = upstream(values, (64, 10_000))
    coords = {"channel": [f"C{i}" for i in range(64)], "channel_type": ("channel", ["eeg"] * 64)}
    ds = ps.make_dataset(array, sampling_frequency=256.0, coords=coords)
    steps = [Rereference(), HighPassFilter(0.05)]
    with pytest.raises(ps.BudgetError) as refused:
        ps.Pipeline(steps).plan(ds, memory="64 MiB", workers=2)
    least = re.findall(r"allow (?:at least )?([0-9.]+ [MG]iB)", str(refused.value))[-1]
    report = ps.Pipeline(steps).run(ds, tmp_path / "out", memory=least, workers=2, progress=False)
    assert report.ok, report.failed
    assert counting.calls <= 2 * array.npartitions
    plain = ps.make_dataset(values * 2, sampling_frequency=256.0, coords=coords)
    expected = ps.Pipeline(steps)(plain).signal.values
    (result,) = (tmp_path / "out").glob("*.zarr")
    got = ps.open_dataset(result).signal.values
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_writing_a_store_computes_every_chunk_once(tmp_path):
    array, counting = upstream(np.ones((64, 100_000), "f4"), (64, 1000))
    ds = ps.make_dataset(array, sampling_frequency=100.0)
    path = write_store(ds, tmp_path / "x.zarr")
    assert counting.calls == array.npartitions
    np.testing.assert_array_equal(ps.open_dataset(path).signal.values[:, ::99], 2)


def test_values_in_memory_do_not_travel_with_every_block(tmp_path, monkeypatch):
    from distributed import Client

    import penstock.running.engine

    sizes = []
    submit = penstock.running.engine.Engine._block_task

    def measured(self, recording, opened, stage, number):
        sizes.append(len(cloudpickle.dumps(opened)))
        return submit(self, recording, opened, stage, number)

    monkeypatch.setattr(penstock.running.engine.Engine, "_block_task", measured)
    values = np.random.default_rng(0).standard_normal((32, 50_000)).astype("f4")
    counting = Counting()
    array = da.from_array(values, chunks=(32, 5000), name=False).map_blocks(counting, dtype="f4")
    counting.calls = 0  # (Dask has tried the function)
    ds = ps.make_dataset(array, sampling_frequency=1000.0)
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as client:
        report = ps.Pipeline([np.abs]).run(
            ds, tmp_path / "out", memory="2 GiB", client=client, progress=False
        )
    assert report.ok
    assert max(sizes, default=0) < 1 << 20
    assert counting.calls == array.npartitions
    (result,) = (tmp_path / "out").glob("*.zarr")
    np.testing.assert_array_equal(ps.open_dataset(result).signal.values, np.abs(values * 2))
    assert not list((tmp_path / "out").glob(".*.input"))
