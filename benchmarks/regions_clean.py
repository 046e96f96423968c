"""Cleaned signals beside nilearn's: regions and voxels of a large image, and real images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from measure import Measured, by_turns
from regions_data import (
    BOLD,
    SHAPE,
    difference,
    failed,
    fill,
    length,
    peers_there,
    results,
    run_files,
    variant,
    warm_cache,
)
from tables import Table

from penstock.memory.accounting import MIB
from penstock.storage.store import open_store

COLUMNS = ["way", "work [s]", "whole process [s]", "CPU [s]", "peak PSS [MiB]", "above imports",
           "difference", "speed (work)", "speed (whole)", "memory"]  # fmt: skip
STEPS = "z-scores, trend, band-pass 0.01-0.1 Hz, 16 confounds"
KINDS = {"labels": ("labels_100.nii.gz", "-"), "maps": ("maps_32.nii.gz", "brain.nii.gz")}
TITLES = {"labels": "100 labels", "maps": "32 maps in a mask"}
ACCURACY = {
    "penstock": "Penstock",
    "penstock64": "Penstock, read as float64",
    "nilearn": "nilearn on the image as it is",
}
PENSTOCK, NILEARN = "Penstock", "nilearn"


def clean(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Regions of one image, cleaned."""
    folder, out = run_files(work, quick), results(work, "clean")
    peers = peers_there(peers)
    tables = []
    for name in BOLD[:3]:
        source = folder / name
        warm_cache(source)
        for kind, (regions, mask) in KINDS.items():
            mask = mask if mask == "-" else str(folder / mask)
            given = (kind, source, folder / regions, mask, folder / "confounds.npy")
            runs = _beside_nilearn(given, out, quick=quick, peers=peers)
            title = f"{TITLES[kind]} of {SHAPE} × {length(quick):,}, {name}: {STEPS}"
            table = Table(title, COLUMNS)
            fill(table, runs, _differences(out, runs), NILEARN)
            tables.append(table)
    return [*tables, *([_accuracy(folder, out, quick)] if peers else [])]


def _beside_nilearn(
    given: tuple[object, ...], out: Path, *, quick: bool, peers: bool, memory: str = "1GiB"
) -> dict[str, Measured]:
    """Both ways, and where they are wanted nilearn's with an image in double precision."""
    ways: dict[str, tuple[list[str], int]] = {}
    if peers:
        command = variant("region_clean", "nilearn", *given, out / "nilearn.npy")
        ways[NILEARN] = command, 1 if quick else 2
    command = variant("region_clean", "penstock", *given, out / "penstock.npy", memory)
    ways[PENSTOCK] = command, 1 if quick else 3
    return by_turns(ways)


def _differences(out: Path, runs: dict[str, Measured]) -> dict[str, str]:
    """Of ours from nilearn's: signals in single precision where the image is."""
    if NILEARN not in runs or runs[NILEARN].failed or runs[PENSTOCK].failed:
        return {}
    found = np.load(out / "penstock.npy", mmap_mode="r")
    return {PENSTOCK: difference(found, np.load(out / "nilearn.npy", mmap_mode="r"))}


def _accuracy(folder: Path, out: Path, quick: bool) -> Table:
    """A cut of the image, given to nilearn in double precision."""
    import penstock as ps
    from penstock.io.nifti.write import write_nifti

    n_volumes = min(300, length(quick))
    cut = out / "cut.nii.gz"
    ds = ps.open_dataset(folder / "float32.nii").isel(time=slice(n_volumes))
    write_nifti(ds, cut, overwrite=True)
    confounds = out / "cut_confounds.npy"
    np.save(confounds, np.load(folder / "confounds.npy")[:n_volumes])
    table = Table(
        f"Difference from nilearn on an image in double precision, {n_volumes} volumes: {STEPS}",
        ["regions", *ACCURACY.values()],
    )
    kinds = {**KINDS, "voxels": ("-", "voxels.nii.gz")}
    for kind, (regions, mask) in kinds.items():
        paths = [name if name == "-" else str(folder / name) for name in (regions, mask)]
        given = (kind, cut, *paths, confounds)
        table.add(**{"regions": TITLES.get(kind, kind), **_exact(given, out)})
    return table


def _exact(given: tuple[object, ...], out: Path) -> dict[str, str]:
    """How far our signals and nilearn's are from those that nilearn makes in double precision."""
    ways = ("nilearn64", *ACCURACY)
    runs = by_turns({w: (variant("region_clean", w, *given, out / f"{w}.npy"), 1) for w in ways})
    for run in runs.values():
        if run.failed:
            return {"regions": failed(run)}
    expected = np.load(out / "nilearn64.npy")
    return {t: difference(np.load(out / f"{w}.npy"), expected) for w, t in ACCURACY.items()}


def voxels(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """33,000 voxels of one image, cleaned."""
    folder, out = run_files(work, quick), results(work, "voxels")
    peers = peers_there(peers)
    tables = []
    for name in BOLD[:2]:
        source = folder / name
        warm_cache(source)
        given = ("voxels", source, "-", folder / "voxels.nii.gz", folder / "confounds.npy")
        store = out / "voxels.zarr"
        times = 1 if quick else 3
        command = variant("region_clean", "store", *given, store, "300MiB")
        runs = _beside_nilearn(given, out, quick=quick, peers=peers, memory="700MiB")
        to_store = "Penstock, to Zarr, 300 MiB"
        runs |= by_turns({to_store: (command, times)})
        found = _differences(out, runs)
        if found and not runs[to_store].failed:
            values = open_store(store).signal.transpose("time", ...).values
            found[to_store] = difference(values, np.load(out / "nilearn.npy", mmap_mode="r"))
        table = Table(
            f"33,000 voxels of {SHAPE} × {length(quick):,}, {name}: {STEPS}; the signals take "
            f"{33_000 * length(quick) * 4 / MIB:.0f} MiB",
            COLUMNS,
        )
        fill(table, runs, found, NILEARN)
        tables.append(table)
    return tables


# ---------------------------------------------------------------------- real images


def real(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Real images of `PENSTOCK_DATA`: the same signals as nilearn's."""
    data = os.environ.get("PENSTOCK_DATA")
    if not data or not Path(data, "fmri").is_dir():
        print("PENSTOCK_DATA is not set, or holds no folder fmri: no real images", flush=True)
        return []
    peers = peers_there(peers)
    table = Table(
        "Real images: z-scores, trend, band-pass 0.01-0.1 Hz, 6 confounds",
        ["image", *(column for column in COLUMNS if column != "difference")],
    )
    accuracy = Table(
        "Real images: difference from nilearn on the image in double precision",
        ["image", "regions", *ACCURACY.values()],
    )
    images = {
        "studyforrest, 80 × 80 × 35 × 156, int16 with a slope": next(
            Path(data, "fmri", "studyforrest_localizer").glob("*_bold.nii.gz")
        ),
        "Haxby, 40 × 20 × 1 × 1,452, int16": Path(data, "fmri", "haxby_slice", "bold.nii.gz"),
    }
    for image, source in images.items():
        out = results(work, "real")
        _real_regions(source, out)
        for kind in ("labels", "maps", "voxels", "spheres", "smoothed"):
            extension = "npy" if kind == "spheres" else "nii.gz"
            regions = out / f"{kind}.{extension}" if kind in REGION_KINDS else "-"
            given = (kind, source, regions, out / "mask.nii.gz", out / "confounds.npy")
            runs = _beside_nilearn(given, out, quick=quick, peers=peers)
            part = Table("", [])
            fill(part, {f"{title}, {kind}": run for title, run in runs.items()}, {},
                 f"{NILEARN}, {kind}")  # fmt: skip
            table.rows += [{"image": image, **row} for row in part.rows]
            if peers:
                accuracy.add(image=image, **{"regions": kind, **_exact(given, out)})
    return [table, *([accuracy] if peers else [])]


REGION_KINDS = ("labels", "maps", "spheres")


def _real_regions(source: Path, out: Path) -> None:
    """A mask of the brain, labels, maps, and centres of spheres on the grid of an image."""
    import nibabel

    image = nibabel.load(source)
    n_volumes = image.shape[3]
    mean = np.asarray(image.dataobj[..., : min(n_volumes, 100)], np.float64).mean(axis=3)
    inside = mean > 0.4 * np.percentile(mean, 98)
    points = np.stack(np.meshgrid(*map(np.arange, mean.shape), indexing="ij"), axis=-1)
    cubes = points // 8
    labels = 1 + np.ravel_multi_index(np.moveaxis(cubes, -1, 0), cubes.max(axis=(0, 1, 2)) + 1)
    rng = np.random.default_rng(0)
    centres = rng.permutation(points[inside])[:12]
    distances = ((points[..., np.newaxis, :] - centres) ** 2).sum(axis=-1)
    maps = np.exp(-distances / 50) * inside[..., np.newaxis]
    for name, values in (
        ("mask", inside.astype("uint8")),
        ("labels", (labels * inside).astype("int16")),
        ("maps", maps.astype("float32")),
    ):
        nibabel.Nifti1Image(values, image.affine).to_filename(out / f"{name}.nii.gz")
    apart = [centre for n, centre in enumerate(centres)
             if all(_far(centre, other) for other in centres[:n])]  # fmt: skip
    np.save(out / "spheres.npy", nibabel.affines.apply_affine(image.affine, np.array(apart)))
    np.save(out / "confounds.npy", rng.standard_normal((n_volumes, 6)))


def _far(centre: np.ndarray, other: np.ndarray) -> bool:
    """Whether spheres of 8 mm around two voxels, each at least 3 mm wide, share none."""
    return bool(((centre - other) ** 2).sum() > 36)
