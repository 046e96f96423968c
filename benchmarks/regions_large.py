"""More than memory holds, and many images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from measure import by_turns, measure
from regions_data import (
    SHAPE,
    difference,
    failed,
    fill,
    peers_there,
    results,
    run_files,
    subject_files,
    subject_length,
    variant,
    warm_cache,
)
from tables import Table

from penstock.memory.accounting import MIB


def virtual(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """A simulated image of 100 GiB under 1 GiB: planned, and a part of it run."""
    table = Table(
        "A simulated image of 91 × 109 × 91 × 29,800 under 1 GiB: 100 labels, cleaned",
        ["work", "seconds", "peak PSS [MiB]", "predicted [MiB]", "budget [MiB]"],
    )
    out = work / "out" / "virtual"
    for mode in ("plan", "run"):
        shutil.rmtree(out, ignore_errors=True)
        seconds = 10 if quick else 60
        run = measure(variant("region_virtual", mode, out, "1GiB", seconds), interval=0.01)
        if run.failed:
            table.add(work=failed(run))
            continue
        said = run.said
        title = f"plan {said['gib']:.0f} GiB into {said['blocks']:,} blocks; whole process"
        took = f"{said['planned']:.2f}; {run.wall:.1f}"
        if mode == "run":
            title = (
                f"the first {said['done']} of {said['blocks']:,} blocks: "
                f"{said['read'] / MIB / 1024:.1f} GiB simulated and averaged"
            )
            took = f"{run.wall:.1f}"
        table.add(
            work=title,
            seconds=took,
            **{
                "peak PSS [MiB]": f"{run.peak / MIB:.0f}",
                "predicted [MiB]": f"{said['predicted'] / MIB:.0f}",
                "budget [MiB]": "1024",
            },
        )
    return [table]


def cohort(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Images of eight subjects, two at a time."""
    images = subject_files(work, quick)
    labels = run_files(work, quick) / "labels_100.nii.gz"
    out = results(work, "cohort")
    warm_cache(*images)
    ways: dict[str, tuple[list[str], int]] = {}
    targets: dict[str, Path] = {}
    times = 1 if quick else 3
    listed = {
        "nilearn MultiNiftiLabelsMasker, n_jobs=2": ("nilearn", 2),
        "Penstock MultiNiftiLabelsMasker, n_jobs=1": ("masker", 1),
        "Penstock MultiNiftiLabelsMasker, n_jobs=2": ("masker", 2),
        "Penstock pipeline.run into tables, 2 workers": ("run", 2),
    }
    for title, (way, workers) in listed.items():
        if way == "nilearn" and not peers_there(peers):
            continue
        targets[title] = out / ("tables" if way == "run" else f"{way}_{workers}.npy")
        command = variant("region_cohort", way, labels, workers, targets[title], *images)
        ways[title] = command, times
    runs = by_turns(ways)
    first = next(iter(listed))
    found: dict[str, str] = {}
    if first in runs and not runs[first].failed:
        expected = np.load(targets[first])
        for title, run in runs.items():
            if title != first and not run.failed:
                found[title] = difference(_signals(targets[title]), expected)
    table = Table(
        f"8 images of {SHAPE} × {subject_length(quick)}, int16 .nii.gz: 100 labels, z-scores, "
        "trend, band-pass; nilearn's workers start in its work",
        ["way", "work [s]", "whole process [s]", "CPU [s]", "peak PSS [MiB]", "above imports",
         "difference", "speed (work)", "speed (whole)", "memory"],
    )  # fmt: skip
    fill(table, runs, found, first)
    return [table]


def _signals(target: Path) -> np.ndarray:
    if target.is_file():
        return np.load(target)
    import pandas as pd

    tables = [pd.read_parquet(path) for path in sorted(target.glob("*.parquet"))]
    return np.stack([table.drop(columns="time").to_numpy() for table in tables])
