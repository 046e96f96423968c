"""Recordings that a process keeps open between their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock import events
from penstock.planning.budget import ProcessGroup, Resources
from penstock.running.job import Job
from penstock.running.workplaces import forget_run, keep_stages, kept_recordings, kept_stages
from penstock.storage.store import write_store


def _job(number: int, folder: Path, limits: Resources) -> Job:
    job = Job(
        f"a.{number}", f"r{number}", None, None, (), [], folder / f"{number}.zarr", "zarr", None,
        False, limits,
    )  # fmt: skip
    job.building.mkdir()
    return job


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Resources(1 << 30, 2), 8),
        (Resources(1 << 30, 16), 32),
        (Resources(1 << 30, 64, groups=(ProcessGroup(32, 2, 0),)), 8),
    ],
)
def test_two_recordings_a_thread_stay_open(tmp_path: Path, limits: Resources, kept: int) -> None:
    jobs = [_job(number, tmp_path, limits) for number in range(40)]
    for job in jobs:
        keep_stages(job, ())
    assert kept_recordings() == [job.name for job in jobs[-kept:]]
    assert kept_stages(jobs[-kept]) == ()
    assert kept_recordings()[-1] == jobs[-kept].name
    forget_run("a")
    assert not kept_recordings()


def test_a_recording_that_another_process_finished_is_let_go(tmp_path: Path) -> None:
    jobs = [_job(number, tmp_path, Resources(1 << 30, 2)) for number in range(3)]
    for job in jobs[:2]:
        keep_stages(job, ())
    jobs[0].building.rmdir()
    keep_stages(jobs[2], ())
    assert kept_recordings() == ["r1", "r2"]
    forget_run("a")


def _fails_for_two(block: np.ndarray) -> np.ndarray:
    if block.flat[0] == 2:
        raise ValueError("not this one")
    return block


def test_recordings_are_let_go_once_they_are_finished_or_given_up(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    for number in range(6):
        ds = ps.make_dataset(np.full((4, 50), number, "f4"), sampling_frequency=10.0)
        write_store(ds, folder / f"{number}.zarr")
    seen: list[list[str]] = []

    def listen(event: Any) -> None:
        if isinstance(event, events.RecordingFinished | events.RecordingFailed):
            seen.append([event.name, *kept_recordings()])

    report = ps.Pipeline([ps.Apply(_fails_for_two, core_dims=("time",))]).run(
        folder, tmp_path / "out", memory="4 GiB", progress=False, workers=1, listeners=[listen],
        executor="threads",
    )  # fmt: skip
    assert list(report.failed) == ["2"]
    assert len(seen) == 6
    assert not any(name in kept for name, *kept in seen)
