"""The experiment of the seed document: 20 regions of one large image; and converting it first."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
from measure import Measured, by_turns, folder_bytes
from regions_data import (
    BOLD,
    SHAPE,
    difference,
    failed,
    figures,
    length,
    peers_there,
    results,
    run_files,
    variant,
    warm_cache,
)
from tables import Table

from penstock.fmri.images.images import load_image
from penstock.memory.accounting import MIB
from penstock.storage.store import open_store

OURS = {
    "Penstock, 1 region mean": ("means", 1),
    "Penstock, 20 region means": ("means", 20),
    "Penstock, 400 region means": ("means", 400),
    "Penstock, 400 regions of one atlas": ("atlas", 400),
    "Penstock, all voxels of 20 regions": ("voxels", 20),
    "Penstock, all voxels of 20 regions to Zarr, 300 MiB": ("store", 20),
}
READERS = {
    "inflating the file once, isal": "isal",
    "inflating the file once, zlib": "zlib",
    "reading the file once": "read",
}
PEERS = {  # regions, jobs, repetitions
    "nilearn NiftiMasker": ("nilearn", 1, 1, 2),
    "nilearn NiftiMasker, reports=False": ("nilearn-bare", 1, 1, 2),
    "nilearn NiftiMasker, image in memory": ("nilearn-memory", 1, 1, 1),
    "nilearn NiftiMasker, 2 processes": ("nilearn-parallel", 4, 2, 1),
    "nilearn NiftiMasker, 3 processes": ("nilearn-parallel", 3, 3, 1),
    "nilearn NiftiMasker, 2 processes, image in memory": ("nilearn-parallel-memory", 4, 2, 1),
    "nilearn NiftiLabelsMasker, one image of labels without overlap": ("nilearn-labels", 1, 1, 2),
    "NumPy": ("numpy", 1, 1, 2),
    "NumPy, image in memory": ("numpy-memory", 20, 1, 1),
    "NumPy, 3 processes": ("numpy-parallel", 3, 3, 1),
    "NumPy, 20 processes, image in memory": ("numpy-parallel-memory", 20, 20, 1),
    "NumPy, 20 processes, shared memory": ("numpy-shared", 20, 20, 1),
}
FEW = ("nilearn NiftiMasker", "nilearn NiftiMasker, 2 processes", "NumPy")
"""Peers that meet all kinds of files; the others only the first."""
PARALLEL = "nilearn NiftiMasker, 2 processes"
TWENTY = 20


def seed(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Regions of one large image, from four kinds of files."""
    folder = run_files(work, quick)
    peers = peers_there(peers)
    return [_seed_of(work, folder, name, quick, peers) for name in BOLD]


def _seed_of(work: Path, folder: Path, name: str, quick: bool, peers: bool) -> Table:
    source, out = folder / name, results(work, "seed")
    warm_cache(source)
    table = Table(
        f"{TWENTY} regions of {SHAPE} × {length(quick):,}, {name} "
        f"({source.stat().st_size / MIB:.0f} MiB)",
        ["way", "regions", "work [s]", "whole process [s]", "CPU [s]", "peak PSS [MiB]",
         "above imports", "reading once", f"{TWENTY} regions [s]", "difference", "speed",
         "memory"],
    )  # fmt: skip
    ways: dict[str, tuple[list[str], int]] = {}
    targets: dict[str, Path] = {}

    def add(title: str, way: str, n: int, jobs: int, times: int) -> None:
        of = {"atlas": f"labels_{n}.nii.gz", "nilearn-labels": f"labels_{TWENTY}.nii.gz"}
        targets[title] = out / (f"{way}_{n}.zarr" if way == "store" else f"{way}_{n}_{jobs}.npy")
        command = variant(
            "region_seed", way, source, folder / of.get(way, "masks"), n, jobs, targets[title]
        )
        ways[title] = command, 1 if quick else times

    for title, (way, n, jobs, times) in PEERS.items():
        if peers and (name == BOLD[0] or title in FEW):
            add(title, way, n, jobs, times)
    compressed = name.endswith(".gz")
    for title, way in READERS.items():
        if (way != "read") == compressed:
            add(title, way, 0, 0, 3)
    for title, (way, n) in OURS.items():
        add(title, way, n, 0, 3)
    if compressed:
        add("Penstock, 20 region means, zlib", "means-zlib", TWENTY, 0, 3)
    runs = by_turns(ways)
    once = runs["inflating the file once, isal" if compressed else "reading the file once"]
    expected = _region_means(source)
    for title, run in runs.items():
        if run.failed:
            table.add(way=title, **{"work [s]": failed(run)})
            continue
        ours = title.startswith("Penstock")
        row = {"way": title, "regions": ways[title][0][5], **figures(run)}
        if ours:
            slower = runs["inflating the file once, zlib"] if "zlib" in title else once
            row["reading once"] = _times(run, slower)
        else:
            del row["above imports"]
        if title in READERS:
            row["regions"] = ""
        elif "labels" not in title and "atlas" not in title:  # (other regions than the masks)
            row["difference"] = _difference(targets[title], expected)
        total = _twenty(title, run)
        if total is not None:
            row[f"{TWENTY} regions [s]"] = f"{total:.3g}"
        parallel = runs.get(PARALLEL)
        if total is not None and parallel is not None and not parallel.failed:
            row["speed"] = f"{(_twenty(PARALLEL, parallel) or 0) / total:.1f} ×"
            row["memory"] = f"1/{parallel.peak / run.peak:.1f}"
        table.add(**row)
        if title == "nilearn NiftiMasker, 3 processes":
            table.add(**_extrapolated(run, 3))
    return table


def _twenty(title: str, run: Measured) -> float | None:
    """Seconds for 20 regions: what is done once, and 20 times what a region takes."""
    if title in READERS or (title.startswith("Penstock") and f" {TWENTY} " not in title):
        return None
    each = run.said["seconds"] / run.said["regions"]
    return run.said["once"] + TWENTY * each


def _times(run: Measured, reference: Measured) -> str:
    pairs = zip(run.said["all"], reference.said["all"], strict=True)
    ratios = [one["seconds"] / other["seconds"] for one, other in pairs]
    best = run.said["seconds"] / reference.said["seconds"]
    return f"{best:.2f} × (median {statistics.median(ratios):.2f} ×)"


def _extrapolated(run: Measured, jobs: int) -> dict[str, str]:
    """Memory of as many processes as regions, as the document runs it."""
    parent = run.said["imported"]
    each = (run.peak - parent) / jobs
    return {
        "way": f"the same, {TWENTY} processes (extrapolated from {jobs})",
        "peak PSS [MiB]": f"≈ {(parent + TWENTY * each) / MIB:.0f}",
    }


def _region_means(bold: Path) -> np.ndarray:
    """Means of the regions (regions, volumes), by plain sums over the stored values."""
    import nibabel

    path = bold.parent / f"means_{bold.name.split('.')[0]}.npy"
    if not path.exists():
        image = nibabel.load(str(bold).removesuffix(".gz")).dataobj
        masks = sorted((bold.parent / "masks").glob("*.nii.gz"))[:TWENTY]
        inside = [load_image(mask).data.astype(bool) for mask in masks]
        volumes = (np.asarray(image[..., t], np.float64) for t in range(image.shape[3]))
        np.save(path, np.array([[v[mask].mean() for mask in inside] for v in volumes]).T)
    return np.load(path)


def _difference(target: Path, expected: np.ndarray) -> str:
    if target.suffix == ".zarr":
        ds = open_store(target)
        parts = ds["part"].values
        found = np.stack(
            [
                ds.signal[np.flatnonzero(parts == n)].values.mean(axis=0, dtype=np.float64)
                for n in range(parts.max() + 1)
            ]
        )
    else:
        found = np.load(target)
    n = min(len(found), len(expected))
    return difference(found[:n], expected[:n])


def convert(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """An image converted to Zarr, and regions from it, beside the compressed image."""
    folder, out = run_files(work, quick), results(work, "convert")
    source, plain = folder / "int16.nii.gz", folder / "int16.nii"
    store = out / "converted.zarr"
    warm_cache(source, plain)
    table = Table(
        f"Converting int16.nii.gz of {SHAPE} × {length(quick):,} to Zarr, and regions of it",
        ["way", "work [s]", "whole process [s]", "CPU [s]", "peak PSS [MiB]", "above imports",
         "reading once", "size [MiB]"],
    )  # fmt: skip
    times = 1 if quick else 3
    commands = {
        "inflating the file once, isal": _seed_command("isal", source, folder, 0),
        "penstock convert, 2 GiB": variant("region_convert", source, store, "2GiB"),
        "penstock convert, 300 MiB": variant("region_convert", source, store, "300MiB"),
    }
    runs = by_turns({title: (command, times) for title, command in commands.items()})
    kinds = {"from .nii.gz": source, "from .nii": plain, "from .zarr": store}
    warm_cache(*(path for path in store.rglob("*") if path.is_file()))
    later: dict[str, tuple[list[str], int]] = {}
    for what, (way, n) in {
        "20 region means": ("means", TWENTY),
        "voxels of 1 region": ("voxels", 1),
    }.items():
        for kind, path in kinds.items():
            later[f"{what} {kind}"] = _seed_command(way, path, folder, n), times
    runs |= by_turns(later)
    once = runs["inflating the file once, isal"]
    for title, run in runs.items():
        if run.failed:
            table.add(way=title, **{"work [s]": failed(run)})
            continue
        row = {"way": title, **figures(run), "reading once": _times(run, once)}
        made = {"inflating": source, "penstock": store}.get(title.split()[0])
        if made is not None:
            row["size [MiB]"] = f"{folder_bytes(made) / MIB:.0f}"
        table.add(**row)
    return [table]


def _seed_command(way: str, source: Path, folder: Path, n: int) -> list[str]:
    return variant("region_seed", way, source, folder / "masks", n, 0, "-")
