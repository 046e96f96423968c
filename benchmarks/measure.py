"""Run a command and measure it: wall time, CPU time of the tree, peak PSS of the tree."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.memory.accounting import tree_pss


@dataclass
class Measured:
    """What a command took."""

    wall: float
    cpu: float
    peak: int
    failed: bool = False
    said: dict[str, Any] = field(default_factory=dict)
    """The last line of its output, where that is JSON."""
    log: str = ""


def measure(command: list[str], *, interval: float = 0.05, timeout: float = 3600) -> Measured:
    """Run to the end, looking at the memory of the whole process tree all the while."""
    # Byte code is kept and used: where it is switched off every import looks three times slower.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_pss(process.pid))
            time.sleep(interval)
            if time.perf_counter() - began > timeout:
                process.kill()
        wall = time.perf_counter() - began
        output.seek(0)
        errors.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
        log = errors.read().decode(errors="replace")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said: dict[str, Any] = {}
    if lines:
        try:
            said = json.loads(lines[-1])
        except ValueError:
            log += "\n".join(lines)
    return Measured(wall, cpu, peak, process.returncode != 0, said, log)


def by_turns(
    ways: Mapping[str, tuple[list[str], int]], *, interval: float = 0.02
) -> dict[str, Measured]:
    """Commands with their numbers of repetitions, in turns, so that a slow minute meets all alike.

    Of each: the best times, and the highest memory; ``said["all"]`` holds what every run said.
    """
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for turn in range(max(times for _, times in ways.values())):
        for name, (command, times) in ways.items():
            if turn < times and not any(run.failed for run in runs[name]):
                runs[name].append(measure(command, interval=interval))
    return {name: _best(each) for name, each in runs.items()}


def _best(runs: list[Measured]) -> Measured:
    if runs[-1].failed:
        return runs[-1]
    best = min(runs, key=lambda run: run.said.get("seconds", run.wall))
    return Measured(
        wall=min(run.wall for run in runs),
        cpu=min(run.cpu for run in runs),
        peak=max(run.peak for run in runs),
        said={**best.said, "all": [run.said for run in runs]},
    )


def folder_bytes(path: Path) -> int:
    """Size of a file or of everything in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
