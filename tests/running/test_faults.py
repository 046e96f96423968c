"""Nothing is lost: kill -9, a killed worker, a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from digests import digests
from generic import Demean, Slow
from paths import TESTS, environment
from real_cluster import RealCluster
from real_cluster import cluster as cluster

import penstock as ps
from penstock.storage.ledger import Ledger, partial_path
from penstock.storage.store import write_store

SCRIPT = """
import penstock as ps
from generic import Slow, Demean
report = ps.Pipeline([Demean(), Slow({seconds}, {marks!r})]).run(
    {source!r}, {out!r}, memory="3 GiB", workers=2, progress=False)
print(report)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    ds = ps.make_dataset(
        rng.standard_normal((24, 200_000)).astype("f4"),
        sampling_frequency=1000.0,
        coords={"channel": [f"C{i}" for i in range(24)]},
    )
    return write_store(ds, tmp_path / "recording.zarr")


def test_killed_and_resumed_run_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    marks = tmp_path / "marks"
    marks.mkdir()
    out = tmp_path / "out"
    script = (
        "import penstock.planning.blocks; penstock.planning.blocks.SMALL_BYTES = 1\n"
        + SCRIPT.format(seconds=0.4, marks=str(marks), source=str(source), out=str(out))
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.DEVNULL
    )
    building = partial_path(out / "recording.zarr")
    deadline = time.time() + 60
    while len(Ledger(building / "ledger").finished().get(0, ())) < 3:
        assert time.time() < deadline, "the run never got going"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = Ledger(building / "ledger").finished()[0]
    assert not (out / "recording.zarr").exists()
    before = len(list(marks.iterdir()))
    total = len(
        ps.Pipeline([Demean(), Slow()]).plan(source, memory="3 GiB", workers=2).stages[0].grid
    )
    assert 0 < len(finished) < total

    # the same command, with the same parameters, goes on
    pipeline = ps.Pipeline([Demean(), Slow(0.4, str(marks))])
    report = pipeline.run(source, out, memory="3 GiB", workers=2, progress=False)
    assert report.ok, report
    assert report.blocks == total - len(finished)
    assert len(list(marks.iterdir())) - before == total - len(finished)

    undisturbed = tmp_path / "undisturbed"
    pipeline.run(source, undisturbed, memory="3 GiB", workers=2, progress=False)
    assert digests(out / "recording.zarr") == digests(undisturbed / "recording.zarr")
    assert not list(out.glob(".*"))


def test_a_worker_killed_in_a_block_changes_nothing(
    cluster: RealCluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    client, workers = cluster.client, cluster.workers
    # (the workers plan for themselves: they must cut as small as we do)
    client.run(_cut_small)
    marks = tmp_path / "marks"
    marks.mkdir()
    killed: list[int] = []

    def kill_one(event: object) -> None:
        if (
            type(event).__name__ == "BlockFinished"
            and not killed
            and len(list(marks.iterdir())) > 3
        ):
            killed.append(workers[0].pid)
            threading.Timer(0.25, workers[0].kill).start()  # half-way through its next block

    pipeline = ps.Pipeline([Demean(), Slow(0.5, str(marks))])
    out = tmp_path / "out"
    report = pipeline.run(
        source, out, memory="4 GiB", client=client, progress=False, listeners=[kill_one]
    )
    assert killed, report
    assert report.ok, report
    assert report.kind == "cluster"
    undisturbed = tmp_path / "undisturbed"
    pipeline.run(source, undisturbed, memory="4 GiB", workers=2, progress=False)
    made = ps.open_dataset(out / "recording.zarr").signal.values
    expected = ps.open_dataset(undisturbed / "recording.zarr").signal.values
    assert np.array_equal(made, expected)
    assert digests(out / "recording.zarr") == digests(undisturbed / "recording.zarr")
    # the block under way was begun twice, and no other
    total = len(pipeline.plan(source, memory="4 GiB", workers=2).stages[0].grid)
    assert total < len(list(marks.iterdir())) - total <= total + 2


def _cut_small() -> None:
    import penstock.planning.blocks

    penstock.planning.blocks.SMALL_BYTES = 1


def test_a_full_disk_keeps_what_is_finished(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import penstock.running.tasks as work

    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    room = [3]
    write = work.write_block

    def full(*args: object, **kwargs: object) -> None:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        write(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "write_block", full)
    out = tmp_path / "out"
    pipeline = ps.Pipeline([Demean()])
    report = pipeline.run(source, out, memory="3 GiB", workers=1, progress=False)
    assert "no space left" in report.failed["recording"]
    assert "run the same command again" in report.failed["recording"]
    assert not (out / "recording.zarr").exists()
    assert not report.retries
    monkeypatch.setattr(work, "write_block", write)
    again = pipeline.run(source, out, memory="3 GiB", workers=1, progress=False)
    assert again.ok
    assert "3 of" in again.notes["recording"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_is_really_full(source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        report = ps.Pipeline([Demean()]).run(
            source, small / "out", memory="3 GiB", workers=2, progress=False
        )
        assert "no space left" in report.failed["recording"]
        assert not (small / "out" / "recording.zarr").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_edf_that_does_not_fit_leaves_no_file(tmp_path: Path, small: xr.Dataset) -> None:
    with pytest.raises(OSError, match=r"."):
        ps.export(small, tmp_path / "missing" / "x.edf")
    assert not list(tmp_path.rglob("*.edf"))


def test_runs_killed_at_random_instants_end_with_the_same_bytes(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4)) if "CI" not in os.environ else 1
    done = subprocess.run(
        [sys.executable, str(TESTS / "kill_fuzz.py"), str(tmp_path), str(seed), "10"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stdout, done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["identical"] == found["kills"] == 10, found
