"""Thousands of blocks and recordings: what they cost the client, and what is told of them."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock as ps
from penstock import events
from penstock.planning.budget import Resources
from penstock.planning.plan import Plans
from penstock.running.engine import Engine
from penstock.running.job import Done, Job, Opened
from penstock.running.plan_many import in_windows
from penstock.running.progress import LogProgress, Tally
from penstock.running.report import LINES_SHOWN, Report
from penstock.storage.ledger import BlockNumbers
from penstock.storage.store import write_store

LIMITS = Resources(8 << 30, 8, 1, 0, 8)


class _AtOnce(Executor):
    """Answers every task at once, without doing it."""

    def submit(self, attempt: Any, task: Any = None, /, *args: Any, **kwargs: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        about = args[0]
        if task.__name__ == "open_recording":
            plan = {"predicted_memory": 1, "task_bytes": 1, "resident": 0, "stages": []}
            answer.set_result(Opened(about, plan, (), ((1,),), (COUNT,), (False,), 1 << 20, 1))
        elif task.__name__ == "run_block":
            name = about.job.name
            answer.set_result(events.BlockFinished(name, 0, args[2], 1, 1, {"read": 0.1}, "p:1", 1))
        else:
            answer.set_result(Done(Path("x")))
        return answer


COUNT = 20


def _run(n: int, workers: int = 8, listener: Any = None) -> None:
    limits = Resources(8 << 30, workers, 1, 0, workers)
    jobs = [
        Job(str(i), f"r{i}", None, None, (), [], Path(f"{i}.zarr"), "zarr", None, False, limits)
        for i in range(n)
    ]
    Engine(_AtOnce(), limits, [listener] if listener else [], None).run(jobs)


def test_a_task_costs_the_client_the_same_however_many_are_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    look = Engine._task_of

    def counted(self: Engine, recording: Any) -> Any:
        nonlocal looks
        looks += 1
        return look(self, recording)

    monkeypatch.setattr(Engine, "_task_of", counted)
    _run(400, workers=400)
    assert looks < 4 * 400 * (COUNT + 2)


def _traced() -> int:
    """Memory that lines of ours have allocated: clients of other tests go on beside."""
    ours = [tracemalloc.Filter(True, pattern) for pattern in ("*penstock*", "*test_load*")]
    taken = tracemalloc.take_snapshot().filter_traces(ours)
    return sum(trace.size for trace in taken.traces)


def test_the_client_keeps_nothing_of_a_block() -> None:
    report = Report([], "out", LIMITS, "threads")

    def kept(n: int) -> int:
        tracemalloc.start()
        report.listen(events.RunStarted(1, 2, 1))
        for i in range(n):
            report.listen(events.BlockFinished("r", 0, i, 8, 8, {"read": 0.1}, "p:1", 1 << 20))
        size = _traced()
        tracemalloc.stop()
        return size

    kept(100)
    assert kept(10_000) < kept(100) + 50_000


def test_a_recording_takes_little_of_the_client() -> None:
    def kept(n: int) -> int:
        tracemalloc.start()
        report = Report([], "out", LIMITS, "threads")
        _run(n, listener=report.listen)
        size = _traced()
        tracemalloc.stop()
        assert len(report.outputs) == n
        return size

    first = kept(200)
    assert kept(1200) - first < 1000 * 4096


def test_many_plans_hold_no_datasets(tmp_path: Path) -> None:
    write_store(
        ps.make_dataset(np.zeros((2, 50), "f4"), sampling_frequency=10.0), tmp_path / "0.zarr"
    )
    for i in range(1, 30):
        os.symlink(tmp_path / "0.zarr", tmp_path / f"{i}.zarr")
    pipeline = ps.Pipeline([np.abs])
    paths = [tmp_path / f"{i}.zarr" for i in range(30)]
    one = pipeline.plan(paths[0], memory="4 GiB", workers=2)
    many = pipeline.plan(paths, memory="4 GiB", workers=2)
    assert isinstance(many, Plans)
    assert [plan.name for plan in many] == [str(i) for i in range(30)]
    assert many[0].to_dict()["stages"] == one.to_dict()["stages"]
    assert not any("source" in s.chain.source.attrs or s.chain.steps for s in many[3].stages)


def test_work_in_windows_keeps_its_order_and_does_not_run_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Any:
        for i in range(500):
            taken.append(i)
            yield i

    found = in_windows(lambda i: -i, numbers())
    assert [next(found) for _ in range(5)] == [0, -1, -2, -3, -4]
    assert len(taken) < 50
    assert list(found) == [-i for i in range(5, 500)]


def test_thousands_of_failures_are_told_briefly_and_kept_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report([], str(tmp_path), LIMITS, "threads")
    log = LogProgress()
    for listener in (report.listen, log):
        listener(events.RunStarted(5000, 2, 1 << 30))
        for i in range(5000):
            listener(events.RecordingFailed(f"r{i}", f"file {i} is empty"))
    assert str(report).count("\n") < LINES_SHOWN + 5
    assert "and 4980 more: see penstock-report.json" in str(report)
    assert capsys.readouterr().err.count("\n") < 60
    assert len(report.to_dict()["failed"]) == 5000
    assert len(report.page()) < 500_000


def test_progress_does_not_count_before_there_is_a_plan() -> None:
    tally = Tally()
    tally.hear(events.RunStarted(1, 2, 1 << 30))
    assert tally.text() == "opening and planning"
    tally.hear(events.RecordingPlanned("a", {}, 4, 0))
    assert tally.text() == "0/4 blocks"


def test_progress_counts_parts_of_recordings() -> None:
    tally = Tally()
    tally.hear(events.RunStarted(2, 2, 1))
    tally.hear(events.RecordingPlanned("a", {}, 4, 0))
    for i in range(2):
        tally.hear(events.BlockFinished("a", 0, i, 1, 1))
    assert tally.fraction == pytest.approx(0.25, abs=0.01)
    tally.hear(events.RecordingFinished("a", ""))
    assert tally.fraction == 0.5


def test_retries_are_counted_and_the_first_are_kept() -> None:
    report = Report([], "out", LIMITS, "threads")
    for i in range(5000):
        report.listen(events.BlockRetried("r", 0, i, "a read failed", 0.1))
    assert report.n_retries == report.to_dict()["n_retries"] == 5000
    assert len(report.retries) == len(report.to_dict()["retries"]) == 1000
    assert "5000 blocks were tried again" in str(report)


@given(st.lists(st.integers(0, 50_000)), st.integers(0, 50_000))
def test_block_numbers_are_a_set(numbers: list[int], other: int) -> None:
    blocks = BlockNumbers(numbers)
    assert blocks == set(numbers)
    assert list(blocks) == sorted(set(numbers))
    assert (other in blocks) == (other in set(numbers))
    assert blocks.add(other) == (other not in numbers)
    assert pickle.loads(pickle.dumps(blocks)) == {*numbers, other}


def test_finished_blocks_take_a_bit_each() -> None:
    tracemalloc.start()
    blocks = BlockNumbers(range(1_000_000))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(blocks) == 1_000_000
    assert size < 300_000
    assert len(BlockNumbers([10**15])) == 1
