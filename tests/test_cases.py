"""Small scripts that make their own input and say what is right: each must end with 0."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

FOLDERS = ("eeg", "engine", "fmri", "spectra")
ELSEWHERE = {
    "g05_client_is_used.py": "work of maskers and decompositions on a cluster",
    "g06_job_array.py": "several runs at a time into one folder",
}
"""Scripts about what is not claimed yet."""


def scripts() -> list[str]:
    """The scripts of all folders, as folder/name."""
    root = os.environ.get("PENSTOCK_CASES")
    if not root:
        return []
    found = [path for folder in FOLDERS for path in sorted(Path(root, folder).glob("*[0-9]*_*.py"))]
    return [f"{path.parent.name}/{path.name}" for path in found] + _functions(Path(root))


SEVERAL = "engine/failing_cases.py"
"""A script of several functions, which takes their names."""
SLOW = {
    "a_run_right_after_scale_waits_for_workers",
    "detrend_then_reference_of_128",
    "a_time_coordinate_as_xarray_writes_it",
    "ctrl_c_ends_a_run_whose_kernel_hangs",
}
"""Of these: more than half a minute each (tests of ours look at the same), or not claimed yet."""


def _functions(root: Path) -> list[str]:
    if not (root / SEVERAL).exists():
        return []
    names = re.findall(r"^@case\ndef (\w+)\(", (root / SEVERAL).read_text(), re.MULTILINE)
    return [f"{SEVERAL} {name}" for name in names if name not in SLOW]


@cache
def _started() -> dict[str, Future[subprocess.CompletedProcess[str]]]:
    """All of them, two at a time: most of their time is the start of an interpreter."""
    pool = ThreadPoolExecutor(2)
    return {script: pool.submit(_run, script) for script in scripts() if not _elsewhere(script)}


def _run(script: str) -> subprocess.CompletedProcess[str]:
    name, *arguments = script.split()
    path = Path(os.environ["PENSTOCK_CASES"], name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, path.name, *arguments],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def _elsewhere(script: str) -> str | None:
    return ELSEWHERE.get(script.partition("/")[2])


@pytest.mark.parametrize("script", scripts() or [None])
def test_what_is_right_comes_out(script: str | None) -> None:
    if script is None:
        pytest.skip("PENSTOCK_CASES is not set: it names the folder of the scripts")
    if reason := _elsewhere(script):
        pytest.skip(f"not claimed yet: {reason}")
    done = _started()[script].result()
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
