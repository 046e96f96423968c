"""What the comparisons on regions have in common: their files, and how a row is made."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
from measure import Measured
from tables import Table

from penstock.memory.accounting import MIB

VARIANTS = Path(__file__).parent / "variants"
SHAPE = "50 × 59 × 50"
BOLD = ("float32.nii.gz", "int16.nii.gz", "float32.nii", "int16.nii")


def variant(name: str, *arguments: object) -> list[str]:
    """Command of a variant: a process of its own."""
    return [sys.executable, str(VARIANTS / f"{name}.py"), *map(str, arguments)]


def length(quick: bool) -> int:
    """Volumes of the large run."""
    return 168 if quick else 1680


def run_files(work: Path, quick: bool) -> Path:
    """Folder with the large run, its regions and confounds; made once."""
    return _made(work / f"regions_{length(quick)}", length(quick))


def subject_length(quick: bool) -> int:
    """Volumes of the run of a subject."""
    return 60 if quick else 200


def subject_files(work: Path, quick: bool) -> list[Path]:
    """Runs of eight subjects; made once."""
    n_volumes = subject_length(quick)
    folder = _made(work / f"subjects_{n_volumes}", n_volumes, 8)
    return sorted(folder.glob("subject*.nii.gz"))


def _made(folder: Path, *arguments: object) -> Path:
    ready = folder / "ready"
    if not ready.exists():
        print(f"simulating {folder.name}", flush=True)
        subprocess.run(variant("region_files", folder, *arguments), check=True)
        ready.touch()
    return folder


def warm_cache(*files: Path) -> None:
    """Read files into the page cache, for all alike."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def peers_there(wanted: bool) -> bool:
    """Whether nilearn is to be compared with, and is there."""
    if wanted and importlib.util.find_spec("nilearn") is None:
        print('nilearn is not installed: pip install "penstock[dev]"', flush=True)
        return False
    return wanted


def results(work: Path, name: str) -> Path:
    """Folder for what variants write."""
    folder = work / "out" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def failed(run: Measured) -> str:
    return "failed: " + run.log.strip()[-300:].replace("\n", " ")


def figures(run: Measured) -> dict[str, str]:
    """Columns that all tables have."""
    found = {
        "work [s]": f"{run.said['seconds']:.2f}",
        "whole process [s]": f"{run.wall:.1f}",
        "CPU [s]": f"{run.cpu:.1f}",
        "peak PSS [MiB]": f"{run.peak / MIB:.0f}",
    }
    if "imported" in run.said:
        found["above imports"] = f"{(run.peak - run.said['imported']) / MIB:.0f}"
    return found


def against(run: Measured, reference: Measured | None) -> dict[str, str]:
    """How often faster and smaller than the reference, by the work and as a whole process."""
    if reference is None or reference.failed:
        return {}
    return {
        "speed (work)": f"{reference.said['seconds'] / run.said['seconds']:.1f} ×",
        "speed (whole)": f"{reference.wall / run.wall:.1f} ×",
        "memory": f"1/{reference.peak / run.peak:.1f}",
    }


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """Largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        return f"DIFFERS in shape: {found.shape}, {expected.shape}"
    largest = np.abs(found - expected).max() / np.abs(expected).max()
    return f"{largest:.0e}" if largest else "0"


def fill(table: Table, runs: dict[str, Measured], results: dict[str, str], first: str) -> None:
    """Rows of all runs, beside the one called `first`."""
    for title, run in runs.items():
        if run.failed:
            table.add(way=title, **{"work [s]": failed(run)})
            continue
        table.add(
            way=title,
            **figures(run),
            difference=results.get(title, ""),
            **against(run, runs.get(first)),
        )
