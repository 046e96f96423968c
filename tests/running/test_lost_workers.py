"""Workers that end, are paused, or never come: said in one sentence, not waited for in silence."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generic import Slow
from misbehaving import Misbehaves, open_numbers, recording
from paths import environment
from real_cluster import RealCluster, real_cluster

import penstock as ps
from penstock import events
from penstock.io import Reader, register_reader, registry
from penstock.running.failures import RunStopped
from penstock.running.workers import watch as worker_watch
from penstock.testing import virtual_dataset

BUDGET = "4 GiB"


class Heard(list[str]):
    """What a run says that it waits for."""

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RunWaits):
            self.append(event.reason)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.running.engine.LOOK_EVERY", 0.5)
    monkeypatch.setattr(worker_watch, "PATIENCE", 2.0)
    monkeypatch.setattr(worker_watch, "SOON", 1.0)


def run(
    cluster: Any, out: Path, sources: Any, steps: list[Any] | None = None, **more: Any
) -> ps.Report:
    return ps.Pipeline(steps or [Misbehaves()]).run(
        sources, out, memory=BUDGET, client=cluster.client, progress=False, **more
    )


def test_a_real_cluster_that_loses_its_parts(tmp_path: Path, impatient: None) -> None:
    """One after the other, because starting a cluster takes longer than all of it."""
    with real_cluster(tmp_path) as cluster:
        _a_block_that_ends_its_workers_ends_one_at_a_time(cluster, tmp_path / "crash")
        _a_worker_that_comes_later_knows_what_was_registered(cluster, tmp_path)
        _all_workers_gone(cluster, tmp_path / "gone")
        _the_scheduler_gone(cluster, tmp_path)


def _a_block_that_ends_its_workers_ends_one_at_a_time(cluster: RealCluster, out: Path) -> None:
    sources = {f"good{i}": recording() for i in range(6)}
    sources = {"bad": recording("kernel end"), **sources}
    report = run(cluster, out, sources)
    assert set(report.outputs) == {f"good{i}" for i in range(6)}, report
    assert "ended the worker process 2 times" in report.failed["bad"]
    assert len(report.retries) == 1
    assert not list(out.glob(".penstock-*"))


def _a_worker_that_comes_later_knows_what_was_registered(
    cluster: RealCluster, folder: Path
) -> None:
    register_reader(Reader("numbers", (".numbers",), open_numbers))
    try:
        np.arange(400, dtype="<f4").tofile(folder / "a.numbers")
        cluster.workers.clear()
        cluster.add_workers(1)
        cluster.client.wait_for_workers(1, timeout=60)
        assert run(cluster, folder / "late", folder / "a.numbers").ok
    finally:
        registry._readers.pop("numbers")


def _all_workers_gone(cluster: RealCluster, out: Path) -> None:
    def kill(event: events.Event) -> None:
        if isinstance(event, events.RecordingFinished):
            for worker in cluster.workers:
                worker.kill()

    heard = Heard()
    sources = {f"r{i}": recording() for i in range(30)}
    with pytest.raises(RunStopped, match=r"all Dask workers are gone.*run the same command again"):
        run(cluster, out, sources, listeners=[kill, heard])
    assert heard == ["all Dask workers are gone"]
    assert (out / "penstock-report.json").exists()
    assert len(list(out.glob("*.zarr"))) >= 1


def _the_scheduler_gone(cluster: RealCluster, folder: Path) -> None:
    cluster.workers.clear()
    cluster.add_workers(1)
    cluster.client.wait_for_workers(1, timeout=60)
    address = cluster.client.scheduler.address
    ps.io.export(virtual_dataset((4, 4000), sampling_frequency=100.0), folder / "r.fif")
    (folder / "p.yaml").write_text("pipeline:\n  - generic.Slow: {seconds: 600}\n")
    command = subprocess.Popen(
        [sys.executable, "-m", "penstock", "run", "p.yaml", "r.fif", "--allow", "generic",
         "--scheduler", address, "-m", BUDGET, "-o", "o", "--quiet"],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((folder / "o" / ".penstock-begun").glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cluster.scheduler.kill()
    _, said = command.communicate(timeout=60)
    assert command.returncode == 1
    assert len(said.splitlines()) == 1, said
    assert f"the connection to the Dask scheduler at {address} is lost" in said
    assert (folder / "o" / "penstock-report.json").exists()


# ---------------------------------------------------------------------- local processes


def test_a_crash_in_local_processes_is_of_one_recording(tmp_path: Path) -> None:
    """Processes are started again, and what is said is how each of them ended."""
    sources = {
        "crash": recording("kernel crash"),
        "end": recording("prepare end"),
        **{f"good{i}": recording() for i in range(4)},
        "other": recording("kernel crash"),
    }
    report = ps.Pipeline([Misbehaves()]).run(
        sources, tmp_path, memory=BUDGET, workers=2, executor="processes", progress=False
    )
    assert set(report.outputs) == {f"good{i}" for i in range(4)}, report
    assert "segmentation fault" in report.failed["crash"]
    assert "segmentation fault" in report.failed["other"]
    assert "exit code 3" in report.failed["end"]
    assert all(len(reason.splitlines()) == 1 for reason in report.failed.values())


# ---------------------------------------------------------------------- states


@pytest.fixture(scope="module")
def threads_cluster() -> Any:
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        memory_limit=0,  # (what pauses workers by itself also lets them go on)
        dashboard_address=None,
    ) as cluster:
        yield cluster, lambda: Client(cluster, set_as_default=False)


def _set_status(name: str, dask_worker: Any) -> None:
    from distributed.core import Status

    dask_worker.status = Status[name]


def test_paused_workers_are_told_and_not_waited_for_without_end(
    threads_cluster: Any, tmp_path: Path, impatient: None
) -> None:
    cluster, connect = threads_cluster
    heard = Heard()
    with connect() as client:
        cluster.client = client
        pause = lambda dask_worker: _set_status("paused", dask_worker)  # noqa: E731
        go_on = lambda dask_worker: _set_status("running", dask_worker)  # noqa: E731
        client.run(pause)
        try:
            with pytest.raises(RunStopped, match=r"\(2 paused\).*memory is nearly full"):
                run(cluster, tmp_path / "a", recording(), listeners=[heard])
            assert heard == ["no Dask worker takes blocks (2 paused)"]
            # those that go on in time are worked with
            threading.Timer(1.0, client.run, (go_on,)).start()
            heard.clear()
            assert run(cluster, tmp_path / "b", recording(), listeners=[heard]).ok
            assert heard == ["no Dask worker takes blocks (2 paused)"]
        finally:
            client.run(go_on)


def test_blocks_of_a_paused_worker_go_to_the_others(
    threads_cluster: Any, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    cluster, connect = threads_cluster
    heard = Heard()
    paused: list[str] = []
    with connect() as client:
        cluster.client = client

        def pause_one(event: events.Event) -> None:
            if isinstance(event, events.BlockFinished) and not paused:
                paused.append(next(iter(client.scheduler_info(n_workers=-1)["workers"])))
                client.run(_set_status, "paused", workers=paused)

        ds = virtual_dataset((16, 100_000), sampling_frequency=100.0)
        try:
            report = run(cluster, tmp_path, ds, [Slow(0.2)], listeners=[pause_one, heard])
        finally:
            client.run(_set_status, "running")
    assert report.ok
    assert heard in ([], ["1 of 2 Dask workers does not take blocks (1 paused)"])


def test_a_closed_client_ends_the_run_in_one_sentence(
    threads_cluster: Any, tmp_path: Path, impatient: None
) -> None:
    cluster, connect = threads_cluster
    client = connect()
    cluster.client = client

    def close(event: events.Event) -> None:
        if isinstance(event, events.RecordingFinished):
            client.close()

    sources = {f"r{i}": recording() for i in range(20)}
    with pytest.raises(RunStopped, match=r"is lost .*what is finished is kept"):
        run(cluster, tmp_path, sources, listeners=[close])


def test_no_workers_is_told_soon_and_workers_on_their_way_are_waited_for(
    tmp_path: Path, impatient: None
) -> None:
    from distributed import Client, LocalCluster

    heard = Heard()
    with (
        LocalCluster(
            n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.client = client
        with pytest.raises(ValueError, match="has no workers"):
            run(cluster, tmp_path / "none", recording())
        threading.Timer(0.5, cluster.scale, (1,)).start()
        cluster.scale(1)
        assert run(cluster, tmp_path / "later", recording(), listeners=[heard]).ok


def test_the_terminal_is_as_before_after_a_run(threads_cluster: Any, tmp_path: Path) -> None:
    """Dask is kept quiet for the time of a run alone."""
    import logging

    cluster, connect = threads_cluster
    handlers = logging.getLogger("distributed").handlers
    before = [list(handler.filters) for handler in handlers]
    with connect() as client:
        cluster.client = client
        assert run(cluster, tmp_path, recording()).ok
    assert [list(handler.filters) for handler in handlers] == before
    assert os.environ.get("DASK_LOGGING__DISTRIBUTED") is None
