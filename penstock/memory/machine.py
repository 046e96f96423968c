"""What this process may take of the machine it runs on: memory and cores.

A batch job or a container owns a part of a machine only: control groups say which (version 1 and 2,
with all groups around the process's own), so do resource limits and the variables of SLURM.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

PROC = Path("/proc/self")

_UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as the largest number of pages that there may be."""


def control_groups(controller: str, proc: Path = PROC) -> list[Path]:
    """Folders of the control groups of this process, its own first, as far as they are seen here.

    Those of version 1 that hold `controller`, then those of version 2.
    """
    try:
        member = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in member:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            kind, _, options = after.split(" ", 2)
            is_this = (
                kind == "cgroup" and controller in options.split(",")
                if controllers
                else kind == "cgroup2"
            )
            if is_this:
                root, where = before.split(" ")[3:5]
                top = Path(where.replace("\\040", " "))
                found += _upwards(top, root, path)
                break
    return found


def _upwards(top: Path, root: str, path: str) -> list[Path]:
    """Folders from a group to the mount point; inside a container its own group is that point."""
    inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:
        parts = []
    folders = [top.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
    return [folder for folder in folders if folder.is_dir()]


def _number(path: Path) -> int | None:
    """A number in a file; None where there is none (``max``, or no such file)."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def memory_left_by_groups(proc: Path = PROC) -> dict[Path, int]:
    """Memory that control groups leave this process [bytes], by the folders of those with a limit.

    Pages of files that have not been used for a while count as free: they are given up on demand.
    """
    left: dict[Path, int] = {}
    for number, folder in enumerate(control_groups("memory", proc)):
        if number and _number(folder / "memory.use_hierarchy") == 0:
            continue  # (version 1: it does not count what groups inside it use)
        limits = [
            limit
            for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
            if (limit := _number(folder / name)) is not None and limit < _UNLIMITED
        ]
        used = _number(folder / "memory.current")
        if used is None:
            used = _number(folder / "memory.usage_in_bytes")
        if limits and used is not None:
            left[folder] = max(0, min(limits) - max(0, used - _reclaimable(folder)))
    return left


def _reclaimable(folder: Path) -> int:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name.endswith("inactive_file"):
                found[name] = int(value)
    # (version 1: the totals are those with groups inside, as the usage is)
    return found.get("total_inactive_file", found.get("inactive_file", 0))


def limits_left() -> Iterator[int]:
    """What resource limits (``ulimit -v``, ``-d``) leave this process [bytes]."""
    info = psutil.Process().memory_info()
    for name, used in (("RLIMIT_AS", info.vms), ("RLIMIT_DATA", getattr(info, "data", 0))):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            yield max(0, limit - used)


def job_memory(environment: Mapping[str, str] = os.environ) -> int | None:
    """Memory of a SLURM job on this node [bytes], which not every cluster enforces; None: unknown.

    Where it was asked for by core, that of the cores of one task.
    """
    per_node = _whole(environment, "SLURM_MEM_PER_NODE")
    if per_node:  # (0: all that the node has)
        return per_node << 20
    per_core = _whole(environment, "SLURM_MEM_PER_CPU")
    cores = job_cores(environment)
    return per_core * cores << 20 if per_core and cores else None


def job_cores(environment: Mapping[str, str] = os.environ) -> int | None:
    """Cores that SLURM gave to a task on this node; None outside of its jobs."""
    if "SLURM_JOB_ID" not in environment:
        return None
    task = _whole(environment, "SLURM_CPUS_PER_TASK")
    return task or _whole(environment, "SLURM_CPUS_ON_NODE") or None


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    try:
        return max(0, int(environment.get(name, "")))
    except ValueError:
        return None


def available_memory() -> int:
    """Memory this process and those it starts may still take [bytes].

    The least of what is free, what the control groups of its job leave, what resource limits leave,
    and what SLURM gave the job.
    """
    return memory_domain()[1]


def memory_domain() -> tuple[str, int]:
    """Whose memory this process shares with others, and how much of it is left [bytes].

    The machine, or the control group or job around it that leaves the least.
    """
    left = {"": int(psutil.virtual_memory().available)}
    left |= {str(folder): n for folder, n in memory_left_by_groups().items()}
    job = job_memory()
    if job is not None:
        left["SLURM " + os.environ.get("SLURM_JOB_ID", "")] = max(0, job - _used_by_tree())
    where = min(left, key=lambda name: left[name])
    return f"{socket.gethostname()} {where}".strip(), min([left[where], *limits_left()])


def _used_by_tree() -> int:
    this = psutil.Process()
    used = this.memory_info().rss
    for child in this.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            used += child.memory_info().rss
    return int(used)


def cpu_count() -> int:
    """Cores this process may use: affinity, control groups and the SLURM job are respected."""
    from dask.system import cpu_count as seen_by_dask

    return max(1, min(seen_by_dask(), *_quotas(PROC), job_cores() or seen_by_dask()))


def _quotas(proc: Path) -> list[int]:
    """Cores that control groups allow, the part of one counted as one."""
    found: list[int] = []
    for folder in control_groups("cpu", proc):
        with contextlib.suppress(OSError, ValueError):
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            found.append(math.ceil(quota / period))
        quota_v1 = _number(folder / "cpu.cfs_quota_us")
        period_v1 = _number(folder / "cpu.cfs_period_us")
        if quota_v1 and period_v1 and quota_v1 > 0:
            found.append(math.ceil(quota_v1 / period_v1))
    return found
