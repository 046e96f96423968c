"""Each process of a run has a limit of its own: what fits which, and how many at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.memory.accounting import MIB
from penstock.memory.worker_processes import WorkerProcess, merged, usable_fraction
from penstock.planning.budget import ProcessGroup, Resources, peak_together
from penstock.running.workers.admission import Admission


@st.composite
def clusters(draw: st.DrawFn) -> Resources:
    groups = tuple(
        ProcessGroup(
            draw(st.integers(1, 3)),
            draw(st.integers(1, 8)),
            base,
            draw(st.none() | st.integers(base, base + 500)),
            1 << 20,
        )
        for base in draw(st.lists(st.integers(1, 100), min_size=1, max_size=3))
    )
    threads = sum(group.count * group.threads for group in groups)
    base = 50 + sum(group.count * group.base for group in groups)
    workers = draw(st.integers(1, threads))
    return Resources(base + draw(st.integers(0, 2000)), workers, 4, base, threads, groups)


@given(clusters(), st.data())
def test_blocks_fit_the_budget_and_every_worker(limits: Resources, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, limits.workers))
    size = limits.largest_block(n)
    if size:
        # (each worker takes one, together they take n, and no more than all of them hold)
        assert all(g.limit is None or g.base + size <= g.limit for g in limits.groups)
        fit = [
            g.threads if g.limit is None else min(g.threads, (g.limit - g.base) // size)
            for g in limits.groups
        ]
        assert sum(g.count * f for g, f in zip(limits.groups, fit, strict=True)) >= n
        assert limits.base + n * size <= limits.budget
        assert limits.at_once(size) >= n
    assert limits.at_once(size + 1) < n


def test_many_threads_on_a_worker_run_what_fits_it() -> None:
    big = ProcessGroup(1, 8, 200 * MIB, 480 * MIB, 600 * MIB)
    limits = Resources(4096 * MIB, 8, 2, 300 * MIB, 8, (big,))
    assert limits.at_once(140 * MIB) == 2
    assert limits.largest_block(8) == 35 * MIB
    assert limits.available == 280 * MIB


def test_what_a_recording_keeps_is_there_once_in_every_process() -> None:
    two = ProcessGroup(2, 1, 100, 400)
    limits = Resources(2000, 2, 3, 300, 2, (two,)).with_resident(50)
    assert limits.base == 400
    assert limits.largest_task == 250


def test_recordings_side_by_side_take_no_more_than_all_workers_may() -> None:
    limits = Resources(10_000, 4, 3, 300, 4, (ProcessGroup(2, 2, 100, 400),))
    assert peak_together(limits, 100, 200) == 300 + 600
    assert peak_together(limits, 1, 200) == 300 + 200


def _worker(name: str, process: str, limit: int | None, fraction: float = 0.8) -> WorkerProcess:
    return WorkerProcess(process, name, 2, 100, limit, fraction)


def test_workers_of_one_process_are_one_process() -> None:
    found = merged([_worker("a", "p", 1000), _worker("b", "p", 500), _worker("c", "q", None)])
    assert [(one.process, one.threads, one.usable) for one in found] == [
        ("p", 4, 400),
        ("q", 2, None),
    ]


@pytest.mark.parametrize(
    ("pause", "nanny", "expected"),
    [(0.8, True, 0.8), (0.5, False, 0.5), (False, True, 0.95), (False, False, 1.0)],
)
def test_the_lowest_threshold_at_which_a_worker_stops_counts(
    pause: float | bool, nanny: bool, expected: float
) -> None:
    pytest.importorskip("distributed")

    class Manager:
        memory_pause_fraction = pause

    assert usable_fraction(Manager(), nanny=nanny) == expected


def test_tasks_wait_inside_a_worker_until_they_fit() -> None:
    admission, lock = Admission(), threading.Lock()
    held = highest = 0

    def task(n_bytes: int) -> None:
        nonlocal held, highest
        with admission.admitted(n_bytes, 100, token="recording", kept=20):
            with lock:
                held += n_bytes
                highest = max(highest, held)
            time.sleep(0.005)
            with lock:
                held -= n_bytes

    threads = [threading.Thread(target=task, args=(n,)) for n in [40, 30, 20, 40, 80, 10] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 40 < highest <= 80


def test_a_task_that_fits_nowhere_is_let_in_alone() -> None:
    with Admission().admitted(500, 100):
        pass


def test_libraries_that_local_workers_share_count_once() -> None:
    from penstock.memory.accounting import worker_shared
    from penstock.planning.budget import resources

    two, four = (resources("8 GiB", n, kind="processes") for n in (2, 4))
    assert four.base - two.base == 2 * (four.groups[0].base - worker_shared())
    assert 0 <= worker_shared() < four.groups[0].base


@pytest.mark.parametrize(
    "name", ["S001R03.edf", "yasa_resting_EO_200Hz_raw.fif", "eeglab_data.set", "test.vhdr",
             "BEPS_PTO_50x50.h5", "5D_small.nii"]
)  # fmt: skip
def test_opening_a_file_loads_what_was_counted_before(name: str, data: Path) -> None:
    """What a plan said is true of a run after it: also where the plan was the first to open one."""
    path = next(data.rglob(name), None)
    if path is None:
        pytest.skip(f"{name} is not among the real recordings")
    code = (
        "import sys, penstock as ps\n"
        "from penstock.io.registry import reading_modules\n"
        "from penstock.memory.accounting import GROWN, process_base, resident, trim_heap\n"
        "before = process_base(reading_modules([sys.argv[1]]))\n"
        "ps.Pipeline([]).plan(ps.open_dataset(sys.argv[1]), memory='4 GiB')\n"
        "trim_heap()\n"
        "assert resident() - before < GROWN + (2 << 20), (resident() - before) / 2**20\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
