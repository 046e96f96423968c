"""What a process may take of its machine: control groups, resource limits, batch jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.memory.accounting import MIB
from penstock.memory.machine import (
    available_memory,
    control_groups,
    cpu_count,
    job_cores,
    job_memory,
    memory_left_by_groups,
)

GIB = 1024 * MIB
FREE = "/job/step"


def machine(folder: Path, member: str, mount: str, groups: dict[str, dict[str, str]]) -> Path:
    """A made-up ``/proc/self`` of a process in control groups that are made up too."""
    top = folder / "mounted"
    for group, files in groups.items():
        where = top / group.strip("/")
        where.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (where / name).write_text(f"{text}\n")
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(f"{member}\n")
    (proc / "mountinfo").write_text(f"35 31 0:32 {mount.format(top=top)}\n")
    return proc


V1 = "/ {top} rw,relatime - cgroup cgroup rw,memory"
V2 = "/ {top} rw,relatime - cgroup2 cgroup2 rw"


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_all_groups_around_a_process_counts(tmp_path: Path, version: int) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    if version == 2:
        names = ("memory.max", "memory.current", "inactive_file")

    def group(limit: object, used: int, reclaimable: int) -> dict[str, str]:
        stat = f"cache 5\n{names[2]} {reclaimable}"
        return {names[0]: str(limit), names[1]: str(used), "memory.stat": stat}

    none = "max" if version == 2 else 9223372036854771712
    proc = machine(
        tmp_path,
        f"4:memory:{FREE}" if version == 1 else f"0::{FREE}",
        V1 if version == 1 else V2,
        {
            "/": group(none, 20 * GIB, 0),
            "/job": group(700 * MIB, 500 * MIB, 300 * MIB),
            FREE: group(2 * GIB, 100 * MIB, 0),
        },
    )
    left = memory_left_by_groups(proc)
    assert sorted(left.values()) == [500 * MIB, 2 * GIB - 100 * MIB]


def test_memory_that_slows_a_group_down_is_its_limit_too(tmp_path: Path) -> None:
    files = {"memory.max": "max", "memory.high": str(GIB), "memory.current": str(MIB)}
    proc = machine(tmp_path, "0::/job", V2, {"/job": files})
    assert list(memory_left_by_groups(proc).values()) == [GIB - MIB]


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/inside", "/", "/../other"])
def test_inside_a_container_the_mounted_group_is_found(tmp_path: Path, path: str) -> None:
    files = {"memory.max": str(GIB), "memory.current": "0"}
    mount = "/docker/abc {top} rw - cgroup2 cgroup2 rw"
    proc = machine(tmp_path, f"0::{path}", mount, {"/": files, "/inside": {}})
    assert control_groups("memory", proc)[-1] == tmp_path / "mounted"
    assert list(memory_left_by_groups(proc).values()) == [GIB]


def test_groups_of_version_1_that_do_not_count_what_is_inside_are_no_limit(tmp_path: Path) -> None:
    outer = {
        "memory.limit_in_bytes": "5",
        "memory.usage_in_bytes": "1",
        "memory.use_hierarchy": "0",
    }
    proc = machine(tmp_path, "4:memory:/job/step", V1, {"/job": outer, "/job/step": {}})
    assert memory_left_by_groups(proc) == {}


def test_no_control_groups_is_no_error(tmp_path: Path) -> None:
    assert control_groups("memory", tmp_path) == []
    assert memory_left_by_groups(tmp_path) == {}


def test_a_slurm_job_has_what_it_asked_for() -> None:
    assert job_memory({}) is None
    assert job_cores({}) is None
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "16"}
    assert job_cores(job) == 16
    assert job_cores({**job, "SLURM_CPUS_PER_TASK": "4"}) == 4
    assert job_memory({**job, "SLURM_MEM_PER_NODE": "4096"}) == 4 * GIB
    assert job_memory({**job, "SLURM_MEM_PER_NODE": "0"}) is None  # (all there is)
    assert job_memory({**job, "SLURM_MEM_PER_CPU": "512"}) == 8 * GIB
    assert job_memory({**job, "SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_PER_TASK": "2"}) == GIB
    assert job_memory({**job, "SLURM_MEM_PER_NODE": "nonsense"}) is None


def test_the_job_bounds_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert 0 < available_memory() < 2000 * MIB
    assert cpu_count() == 1


@pytest.mark.parametrize("flag", ["-v", "-d"])
def test_resource_limits_bound_what_is_available(flag: str) -> None:
    code = "from penstock.memory.machine import available_memory; print(available_memory())"
    command = f'ulimit {flag} 2000000; exec "$0" -c "{code}"'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True)
    assert 0 < int(done.stdout) < 2_000_000 * 1024, done.stderr


def _own_group() -> Path | None:
    """A new control group for memory, where we may make one."""
    for top, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = top / f"penstock-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(700 * MIB))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_default_budget_is_within_the_jobs_own_group(executor: str) -> None:
    group = _own_group()
    if group is None:
        pytest.skip("making a control group with a memory limit takes rights that we lack here")
    code = (
        "import numpy as np, penstock as ps\n"
        "from penstock.testing import virtual_dataset\n"
        "plan = ps.Pipeline([np.abs]).plan(virtual_dataset((64, 1_000_000)), "
        f"executor={executor!r})\n"
        "print(plan.budget, plan.predicted_memory)"
    )
    try:
        command = f'echo $$ > {group}/cgroup.procs; exec "$0" -c "$1"'
        done = subprocess.run(
            ["bash", "-c", command, sys.executable, code], capture_output=True, text=True
        )
    finally:
        for _ in range(50):
            time.sleep(0.1)
            try:
                group.rmdir()
                break
            except OSError:
                continue
    budget, predicted = map(int, done.stdout.split())
    assert predicted <= budget < 700 * MIB, done.stderr
