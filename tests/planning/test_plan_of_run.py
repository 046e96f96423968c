"""The plan of a run is the run that is made: same blocks, same predicted memory, everywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import place as place

import penstock as ps
from penstock.eeg import HighPassFilter, Rereference
from penstock.memory.accounting import MIB
from penstock.memory.worker_processes import worker_processes
from penstock.testing import virtual_dataset


def named(ds: Any) -> Any:
    names = [f"C{i}" for i in range(ds.sizes["channel"])]
    ds = ds.assign_coords(channel=names, channel_type=("channel", ["eeg"] * len(names)))
    ds.signal.attrs["units"] = "uV"
    return ds


def recording(n_channels: int, n_samples: int) -> Any:
    values = np.random.default_rng(0).standard_normal((n_channels, n_samples)).astype("float32")
    return named(ps.make_dataset(values, sampling_frequency=500.0))


def blocks_of(plan: dict[str, Any]) -> list[Any]:
    return [(stage["title"], stage["shape"], stage["block"]) for stage in plan["stages"]]


def assert_same(plan: Any, report: Any) -> None:
    assert report.ok, report.failed
    assert plan.predicted_memory == report.predicted_memory <= report.limits.budget
    plans = [plan] if isinstance(plan, ps.Plan) else plan
    for one in plans:
        (made,) = (p for p in report.plans.values() if p["name"] == one.name)
        assert blocks_of(one.to_dict()) == blocks_of(made)
        assert one.to_dict() == made
    assert report.peak_memory <= report.predicted_memory


PIPELINE = ps.Pipeline([HighPassFilter(1.0, method="iir"), Rereference()])


@pytest.mark.parametrize("format", ["edf", "parquet", "fif"])
def test_of_every_format(format: str, tmp_path: Path) -> None:
    options = {"memory": "2 GiB", "workers": 2, "format": format, "executor": "threads"}
    source = {"night": recording(5, 200_000)}
    plan = PIPELINE.plan(source, **options)
    assert_same(plan, PIPELINE.run(source, tmp_path, progress=False, **options))


def test_of_several_recordings(place: dict[str, Any], tmp_path: Path) -> None:
    file = PIPELINE.run(
        {"file": recording(3, 50_000)}, tmp_path / "made", workers=1, progress=False
    ).outputs["file"]
    sources = {
        "one": recording(2, 300_000),
        "two": named(virtual_dataset((9, 700_000))),
        "three": file,
    }
    options = {"memory": "3 GiB", "workers": 2, **place}
    plans = PIPELINE.plan(sources, **options)
    assert_same(plans, PIPELINE.run(sources, tmp_path / "out", progress=False, **options))


def test_precision_is_planned_too(tmp_path: Path) -> None:
    source = (
        ps.Pipeline()
        .run({"x": recording(2, 100_000)}, tmp_path, progress=False, workers=1)
        .outputs["x"]
    )
    plan = PIPELINE.plan(source, dtype="float64", memory="2 GiB", workers=1)
    report = PIPELINE.run(
        source, tmp_path / "out", dtype="float64", memory="2 GiB", workers=1, progress=False
    )
    assert_same(plan, report)


# ---------------------------------------------------------------------- limits of workers


@pytest.fixture
def limited(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of worker processes with the memory limits and threads that are asked for."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    workers = {
        number: {
            "cls": Nanny,
            "options": {"nthreads": threads, "memory_limit": f"{mib} MiB", "dashboard": False},
        }
        for number, (mib, threads) in enumerate(request.param)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None},
    }
    with (
        SpecCluster(workers, scheduler, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(len(workers), timeout=60)
        yield client


NEGATIVE = ps.Pipeline([ps.Apply(np.negative, core_dims=("time",), scratch=0.0)])


@pytest.mark.parametrize("limited", [[(450, 1), (900, 4)]], indirect=True)
def test_blocks_fit_the_smallest_worker(limited: Any, tmp_path: Path) -> None:
    pipeline = ps.Pipeline([HighPassFilter(1.0, method="iir")])
    source = named(virtual_dataset((12, 2_000_000)))
    options = {"memory": "4 GiB", "client": limited}
    plan = pipeline.plan({"x": source}, **options)
    smallest = min(one.usable - one.base for one in worker_processes(limited))
    assert plan[0].task_bytes <= smallest < 0.8 * 450 * MIB
    report = pipeline.run({"x": source}, tmp_path, progress=False, **options)
    assert_same(plan, report)
    assert not report.retries
    for one in worker_processes(limited):
        host, pid, _ = one.process.split(":")
        assert report.process_peaks.get(f"{host}:{pid}", 0) <= one.usable

    # a block that fits none of them is refused with the limit, and what would make it fit
    with pytest.raises(ps.BudgetError, match=r"80% of its memory limit of 450 MiB.*start workers"):
        NEGATIVE.plan(virtual_dataset((4, 60_000_000)), **options)


@pytest.mark.parametrize("limited", [[(900, 4)]], indirect=True)
def test_a_smaller_worker_that_joins_takes_no_more_than_fits_it(
    limited: Any, tmp_path: Path
) -> None:
    from distributed import Worker

    joined: list[int] = []

    def join(event: object) -> None:
        if type(event).__name__ == "RecordingPlanned" and not joined:
            joined.append(1)
            spec = {
                "cls": Worker,
                "options": {"nthreads": 2, "memory_limit": "260 MiB", "dashboard": False},
            }
            from distributed import Nanny

            limited.cluster.worker_spec["small"] = {**spec, "cls": Nanny}
            limited.cluster.sync(limited.cluster._correct_state)
            limited.wait_for_workers(2, timeout=60)

    source = virtual_dataset((24, 8_000_000))
    report = NEGATIVE.run(
        {"x": source}, tmp_path, memory="4 GiB", client=limited, progress=False, listeners=[join]
    )
    assert report.ok, report.failed
    assert joined


def clipped(block: np.ndarray) -> np.ndarray:
    return np.clip(block, -150, 150)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("steps", [[Rereference()], [HighPassFilter(1.0), Rereference()],
    [HighPassFilter(1.0), ps.Apply(clipped, core_dims=(), scratch=1.0), Rereference(),
     HighPassFilter(0.5)]])  # fmt: skip
def test_what_a_budget_holds_a_larger_one_holds_too(steps: list[Any], workers: int) -> None:
    ds = named(virtual_dataset((64, 8 * 3_600_000), readable=False))
    pipeline = ps.Pipeline(steps)
    base = pipeline.plan(ds, memory="4 GiB", workers=workers, executor="threads").base
    planned: list[int] = []
    for more in range(10, 260, 10):
        try:
            pipeline.plan(ds, memory=base + more * MIB, workers=workers, executor="threads")
            planned.append(more)
        except ps.BudgetError:
            assert not planned, f"{planned[-1]} MiB beside the process suffice, {more} do not"
    assert planned
    assert planned[0] <= 60
