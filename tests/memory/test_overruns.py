"""More memory than planned: noticed, its cause named, the rest planned with what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import greedy
import numpy as np
import pytest
from command_line import Penstock
from greedy import MIB
from paths import TESTS

import penstock as ps
from penstock import events
from penstock.memory.overruns import OverrunWarning
from penstock.storage.store import write_store
from penstock.testing import virtual_dataset


@pytest.fixture(autouse=True)
def _nothing_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    place = request.getfixturevalue("place") if "place" in request.fixturenames else {}
    greedy.forget()
    yield
    greedy.forget()
    if "client" in place:
        place["client"].run(greedy.forget)


def run(
    function: Callable[[np.ndarray], np.ndarray], out: Path, *, n_channels: int = 16, **options: Any
) -> ps.Report:
    """A run of a function that declares nothing, in blocks of 8 MiB."""
    ds = virtual_dataset((n_channels, 1_000_000))
    pipeline = ps.Pipeline([ps.Apply(function, core_dims=(), scratch=0.0)])
    return pipeline.run(
        {"long": ds}, out, **{"memory": "3 GiB", "workers": 2, "progress": False, **options}
    )


def test_what_takes_more_is_named(place: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(OverrunWarning, match=r"Apply\(greedy\) takes .*scratch="):
        report = run(greedy.greedy, tmp_path, **place)
    assert report.ok, report.failed
    (overrun,) = report.overruns
    assert (overrun.step, overrun.kind, overrun.planned) == ("Apply(greedy)", "takes", 0)
    assert 90 * MIB < overrun.measured < 130 * MIB
    assert f"Apply(..., scratch={overrun.scratch:g})" in str(overrun)
    assert str(overrun) in str(report)
    assert "Apply(greedy) takes" in report.path.read_text()
    told = json.loads(report.path.with_suffix(".json").read_text())
    assert told["memory"]["overruns"][0]["step"] == "Apply(greedy)"


def test_what_keeps_memory_is_named(place: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(OverrunWarning, match=r"Apply\(keeping\) keeps about .* a block"):
        report = run(greedy.keeping, tmp_path, **place)
    assert report.ok, report.failed
    (overrun,) = report.overruns
    assert (overrun.step, overrun.kind) == ("Apply(keeping)", "keeps")
    assert 40 * MIB < overrun.measured < 70 * MIB


def test_processes_that_were_there_before_are_not_of_a_run(tmp_path: Path) -> None:
    held = "import sys; held = bytearray(300 << 20); held[::4096] = b'x' * len(held[::4096]); "
    other = subprocess.Popen(
        [sys.executable, "-c", f"{held} print('ready', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"ready\n"
        report = run(np.negative, tmp_path, executor="processes")
    finally:
        other.communicate(b"")
    assert report.ok
    assert not report.overruns
    assert report.peak_memory <= report.predicted_memory


def test_honest_functions_are_not_blamed(place: dict[str, Any], tmp_path: Path) -> None:
    ds = virtual_dataset((16, 1_000_000))
    pipeline = ps.Pipeline([ps.Apply(greedy.honest, core_dims=(), scratch=2.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", OverrunWarning)
        report = pipeline.run(ds, tmp_path, memory="3 GiB", workers=2, progress=False, **place)
    assert report.ok
    assert not report.overruns
    assert "warning" not in str(report)


@pytest.mark.filterwarnings("ignore::penstock.memory.overruns.OverrunWarning")
def test_fewer_blocks_run_at_once_when_they_take_more(tmp_path: Path) -> None:
    tight = ps.Pipeline([]).plan(virtual_dataset((1, 1000)), memory="3 GiB", workers=1).base
    told: list[int] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.MemoryOverrun):
            told.append(len(greedy.at_once))

    report = run(
        greedy.greedy,
        tmp_path,
        n_channels=32,
        workers=4,
        memory=tight + 260 * MIB,  # (two such blocks, not three)
        executor="threads",
        listeners=[listen],
    )
    assert report.ok
    assert max(greedy.at_once) > 2
    # (those that were at work when it was told may still be)
    assert len(greedy.at_once) - told[0] > 4
    assert max(greedy.at_once[told[0] + 1 :]) <= 2


@pytest.mark.filterwarnings("ignore::penstock.memory.overruns.OverrunWarning")
def test_recordings_to_come_are_planned_with_what_was_measured(tmp_path: Path) -> None:
    sources = {f"r{i}": virtual_dataset((8, 1_000_000)) for i in range(4)}
    pipeline = ps.Pipeline([ps.Apply(greedy.greedy, core_dims=(), scratch=0.0)])
    report = pipeline.run(
        sources, tmp_path, memory="3 GiB", workers=1, executor="threads", progress=False
    )
    assert report.ok
    assert report.overruns
    first, last = (report.plans[name]["stages"][0] for name in ("r0", "r3"))
    assert first["block_peak"] < 40 * MIB
    assert last["block_peak"] > 90 * MIB


def test_the_exit_code_says_it(run_cli: Penstock, tmp_path: Path) -> None:
    steps = [{"Apply": {"function": "greedy:greedy", "core_dims": [], "scratch": 0.0}}]
    (tmp_path / "p.yaml").write_text(json.dumps({"pipeline": steps}))
    write_store(virtual_dataset((8, 2_000_000)), tmp_path / "x.zarr")
    done = run_cli(
        "run", "p.yaml", "x.zarr", "--allow", "greedy", "-o", "out", "-m", "2GiB", "-j", "1"
    )
    assert done.code == 3, done.err
    assert "Apply(greedy) takes" in done.out
    assert not done.err


def test_where_marks_cannot_be_set_samples_have_to_do(tmp_path: Path) -> None:
    code = (
        "import sys, penstock.memory.peaks as peaks\n"
        "peaks._new_mark = lambda: False\n"
        "sys.path.insert(0, 'memory')\n"
        "import test_overruns as t\n"
        "report = t.run(t.greedy.honest, t.Path(sys.argv[1]))\n"
        "assert report.ok and report.peak_memory <= report.predicted_memory\n"
        "report = t.run(t.greedy.greedy, t.Path(sys.argv[1]) / 'second')\n"
        "assert report.overruns[0].step == 'Apply(greedy)', report\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        cwd=TESTS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_run_leaves_nothing_behind_on_workers(place: dict[str, Any], tmp_path: Path) -> None:
    client = place.get("client")
    if client is None:
        pytest.skip("its workers end with it")
    peaks = []
    for n, (name, size) in enumerate((("a", 1), ("b", 12), ("c", 1))):
        ds = virtual_dataset((4, size * 500_000))
        pipeline = ps.Pipeline([ps.Apply(greedy.honest, scratch=2.0)])
        report = pipeline.run(
            {name: ds}, tmp_path / str(n), memory="3 GiB", progress=False, client=client
        )
        assert report.ok
        assert report.peak_memory <= report.predicted_memory
        peaks.append(max(report.process_peaks.values()))
    assert peaks[2] < peaks[1] - 30 * MIB
    for names in client.run(_threads).values():
        assert "penstock-memory" not in names


def _threads() -> list[str]:
    import threading

    return [thread.name for thread in threading.enumerate()]


def test_two_runs_at_once_share_a_peak(tmp_path: Path) -> None:
    import threading

    reports: dict[str, ps.Report] = {}

    def one(name: str) -> None:
        reports[name] = run(greedy.honest, tmp_path / name)

    others = [threading.Thread(target=one, args=(name,)) for name in "ab"]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert all(report.ok and report.peak_memory > 0 for report in reports.values())
    assert not [t for t in threading.enumerate() if t.name == "penstock-memory"]


def computed(function: Callable[[np.ndarray], np.ndarray], scratch: float = 0.0) -> None:
    ds = virtual_dataset((16, 1_000_000))
    pipeline = ps.Pipeline([ps.Apply(function, core_dims=(), scratch=scratch)])
    pipeline.compute(ds, memory="4 GiB", workers=2, progress=False)


def test_what_takes_more_in_memory_is_named() -> None:
    with pytest.warns(OverrunWarning, match=r"Apply\(greedy\) takes .*scratch=") as told:
        computed(greedy.greedy)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert max(greedy.at_once) == 2
    assert greedy.at_once.count(2) < len(greedy.at_once) // 2  # (those that follow go alone)


def test_what_keeps_memory_in_memory_is_named() -> None:
    with pytest.warns(OverrunWarning, match=r"Apply\(keeping\) keeps about .* a block"):
        computed(greedy.keeping)


def test_honest_functions_in_memory_are_not_blamed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OverrunWarning)
        computed(greedy.honest, 2.0)
