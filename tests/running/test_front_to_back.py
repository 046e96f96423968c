"""Sources that can only be read from front to back are read once, whatever is made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from generic import Demean, MovingAverage
from tape import dataset, tape

import penstock as ps
from penstock import events
from penstock.planning import blocks, plan
from penstock.storage.store import open_store


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few dozen volumes, so that a file has many."""
    for module in (blocks, plan):
        monkeypatch.setattr(module, "TARGET_BYTES", 1 << 17)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 1 << 14)


PIPELINES = {
    "nothing": [],
    "each volume": [Demean("x")],
    "each voxel": [Demean("time")],
    "both": [Demean("x"), Demean("time")],
    "stretches": [MovingAverage(11)],
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_reads_once_and_in_order(name, workers, tmp_path):
    source = tape(tmp_path / "tape.npy")
    ds = dataset(source)
    pipeline = ps.Pipeline(PIPELINES[name])
    report = pipeline.run(ds, tmp_path / "out", memory="3GiB", workers=workers, progress=False)
    assert report.ok, report.failed
    expected = pipeline(ds.load()).signal.values
    made = open_store(tmp_path / "out" / "tape.zarr")
    np.testing.assert_allclose(made.signal.values, expected, atol=2e-6)
    reads = next(iter(source.reads().values()))
    assert len(reads) > 4
    n_read = sum(stop - first for first, stop in reads) - 3000  # (once more by ds.load())
    if name == "stretches":  # margins are read again, nothing else
        assert n_read < 3000 * 1.5
    else:
        assert source.times_wound_back() <= 1
        assert n_read == 3000


def test_in_memory_it_is_read_once(tmp_path):
    source = tape(tmp_path / "tape.npy")
    made = ps.Pipeline([Demean("x")]).compute(dataset(source), workers=3)
    assert source.times_wound_back() == 0
    assert sum(b - a for a, b in source.reads().popitem()[1]) == 3000
    assert made.signal.shape == (20, 10, 3000)


def test_each_thread_has_a_file_of_its_own(tmp_path):
    tapes = [tape(tmp_path / f"tape{i}.npy", seed=i) for i in range(4)]
    at_once: list[str] = []
    report = ps.Pipeline([Demean("x")]).run(
        [dataset(t) for t in tapes], tmp_path / "out", workers=2, progress=False,
        listeners=[lambda e: at_once.append(e.name) if isinstance(e, events.BlockFinished) else 0],
    )  # fmt: skip
    assert report.ok, report.failed
    assert [t.times_wound_back() for t in tapes] == [0] * 4
    # two files are under way side by side: neither is done before the other begins
    first = [at_once.index(f"tape{i}") for i in range(2)]
    last = [len(at_once) - 1 - at_once[::-1].index(f"tape{i}") for i in range(2)]
    assert max(first) < min(last)


def test_worker_processes_keep_to_one_file_each(tmp_path):
    # (as large as blocks are outside of these tests)
    tapes = [tape(tmp_path / f"tape{i}.npy", (60, 60, 3000), seed=i) for i in range(3)]
    report = ps.Pipeline([Demean("x")]).run(
        [dataset(t) for t in tapes], tmp_path / "out", workers=2, executor="processes",
        memory="3GiB", progress=False,
    )  # fmt: skip
    assert report.ok, report.failed
    for t in tapes:
        assert len(t.reads()) == 1
        assert t.times_wound_back() == 0
    assert report.blocks > 3


def test_the_same_command_goes_on_in_order(tmp_path):
    source = tape(tmp_path / "tape.npy")
    ds, pipeline = dataset(source), ps.Pipeline([Demean("x")])
    seen = 0

    def stop(event: events.Event) -> None:
        nonlocal seen
        seen += isinstance(event, events.BlockFinished)
        if seen == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(ds, tmp_path / "out", workers=1, progress=False, listeners=[stop])
    before = len(source.reads().popitem()[1])
    report = pipeline.run(ds, tmp_path / "out", workers=1, progress=False)
    assert report.ok
    after = source.reads().popitem()[1][before:]
    assert after[0][0] > 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(after))
    expected = pipeline(ds.load()).signal.values
    np.testing.assert_array_equal(open_store(tmp_path / "out" / "tape.zarr").signal, expected)


def test_the_plan_says_so(tmp_path):
    plan = ps.Pipeline([Demean("time")]).plan(dataset(tape(tmp_path / "tape.npy")))
    assert [stage.kind for stage in plan.stages] == ["scratch", "process"]
    assert "front to back" in str(plan)
    assert "front to back" in plan._repr_html_()
