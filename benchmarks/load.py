"""What many blocks and many recordings cost: time each, and memory of the client as they grow."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import measure
from tables import Table

HERE = Path(__file__).parent
PLACES = ("threads", "processes", "client")
"""Threads of this process; local processes; a client of two worker processes."""


def blocks(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Time a block, and the memory of the client after few and many."""
    few, many = (200, 1000) if quick else (1000, 20_000)
    columns = ["where", "blocks", "ms a block", "CPU ms", "client [MiB]"]
    table = Table("Blocks of nothing: what each costs", columns)
    for place in PLACES:
        last = many if place == "threads" else many // 4
        for n in (few, last) if quick or place != "threads" else (few, last, 5 * last):
            _add(table, place, "blocks", n, ["block", place, str(n), str(work)])
    return [table]


def recordings(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Time a recording of one small block, and the memory of the client."""
    counts = (50, 200) if quick else (500, 5000)
    columns = ["where", "recordings", "ms a recording", "CPU ms", "client [MiB]"]
    table = Table("Recordings of 10 s × 2 channels, EDF to Zarr, filtered", columns)
    for place in ("threads", "client"):
        for n in counts:
            _add(table, place, "recordings", n, ["recording", place, str(n), str(work)])
    return [table]


def planning(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Time of planning a recording, and the memory of its plan."""
    columns = ["where", "recordings", "seconds", "ms a recording", "CPU ms", "client [MiB]"]
    table = Table("Opening and planning small EDF files", columns)
    for n in (200,) if quick else (1000, 10_000):
        _add(table, "threads", "recordings", n, ["plan", "threads", str(n), str(work)])
    return [table]


SECTIONS: dict[str, Callable[..., list[Table]]] = {
    "blocks": blocks,
    "recordings": recordings,
    "planning": planning,
}


def _add(table: Table, place: str, what: str, n: int, arguments: list[str]) -> None:
    found = measure([sys.executable, str(HERE / "load.py"), *arguments])
    seconds = found.said.get("seconds")
    row: dict[str, Any] = {"where": place, what: n}
    if seconds is None:
        table.add(**row, failed=found.log[-200:])
        return
    each = f"{1000 * seconds / n:.2f}"
    known = {f"ms a {what.removesuffix('s')}": each, "seconds": f"{seconds:.1f}"}
    known["CPU ms"] = f"{1000 * found.said['cpu'] / n:.2f}"
    row |= {name: value for name, value in known.items() if name in table.columns}
    table.add(**row, **{"client [MiB]": found.said["client"] >> 20})


# ---------------------------------------------------------------------- measured processes


@contextlib.contextmanager
def _client(place: str) -> Iterator[Any]:
    if place != "client":
        yield None
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _cpu_seconds() -> float:
    """Of this process and of those that it started: on a busy machine time says less."""
    import psutil

    here = psutil.Process()
    ended = here.cpu_times()
    times = [one.cpu_times() for one in (here, *here.children(recursive=True))]
    return float(
        sum(t.user + t.system for t in times) + ended.children_user + ended.children_system
    )


def _tiny_blocks() -> None:
    import penstock.planning.blocks as b

    b.SMALL_BYTES, b.TARGET_BYTES, b.BLOCKS_PER_THREAD = 1, 64 * 4 * 4, 1


def _small_files(work: Path, n: int) -> Path:
    import penstock as ps
    from penstock.io import export

    folder = work / f"recordings{n}"
    folder.mkdir(parents=True, exist_ok=True)
    one = work / "one.edf"
    if not one.exists():
        values = np.random.default_rng(0).normal(size=(2, 1000)).astype("f4")
        export(ps.make_dataset(values, sampling_frequency=100.0, units="uV"), one, format="edf")
    for i in range(n):
        with contextlib.suppress(FileExistsError):
            os.link(one, folder / f"sub-{i:05d}.edf")
    return folder


def _measured(kind: str, place: str, n: int, work: Path) -> dict[str, Any]:
    import penstock as ps
    from penstock.eeg import HighPassFilter
    from penstock.memory.accounting import pss
    from penstock.testing import virtual_dataset

    options: dict[str, Any] = {"memory": "2 GiB", "workers": 2}
    out = Path(tempfile.mkdtemp(dir=work))
    with _client(place) as client:
        if kind == "block":
            _tiny_blocks()
            if client is not None:
                client.run(_tiny_blocks)
            source: Any = virtual_dataset((n * 4, 64), ("y", "frequency"), sampling_frequency=None)
            pipeline = ps.Pipeline([ps.Apply(np.square, core_dims=())])
        else:
            source = str(_small_files(work, n))
            pipeline = ps.Pipeline([HighPassFilter(1.0)])
        began, before = time.perf_counter(), _cpu_seconds()
        if kind == "plan":
            kept: Any = pipeline.plan(source, **options)
        else:
            executor = place if client is None else None
            kept = pipeline.run(
                source, out, **options, progress=False, client=client, executor=executor
            )
            assert kept.ok, str(kept)
        seconds = time.perf_counter() - began
        cpu, taken = _cpu_seconds() - before, pss()
        del kept
    shutil.rmtree(out, ignore_errors=True)
    return {"seconds": seconds, "cpu": cpu, "client": taken}


if __name__ == "__main__":
    import json

    kind, place, n, work = sys.argv[1:]
    print(json.dumps(_measured(kind, place, int(n), Path(work))))
