"""Cleaned signals of one image: WAY KIND SOURCE REGIONS MASK CONFOUNDS TARGET [MEMORY].

Ways: penstock, penstock64 (the file read as float64), store (into TARGET.zarr), nilearn, nilearn64
(the image as float64 in memory). Kinds: labels, maps, voxels, spheres, smoothed (voxels). REGIONS
and MASK are paths, or "-" where there are none; spheres lie around centres in a .npy file. Signals
go into TARGET (.npy).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from timed import say, timed, warm_up

import penstock

CLEANING = {
    "standardize": "zscore_sample", "detrend": True, "low_pass": 0.1, "high_pass": 0.01,
}  # fmt: skip


def main() -> None:
    way, kind, source, regions, mask, confounds, target, *memory = sys.argv[1:]
    if way.startswith("nilearn"):
        from nilearn import maskers
    else:
        from penstock.fmri.maskers import maskers  # type: ignore[no-redef]
    options = {"memory": memory[0]} if memory else {}
    image: Any = source
    if way == "penstock64":
        image = penstock.open_dataset(source, dtype="float64")
    if way == "nilearn64":
        stored = nibabel.load(source)
        image = nibabel.Nifti1Image(np.asarray(stored.dataobj, np.float64), stored.affine)

    def work(image: Any, regions: str, mask: str, confounds: str, t_r: float, out: str) -> Any:
        masker = make(maskers, kind, regions, mask, {**CLEANING, **options, "t_r": t_r})
        table = np.load(confounds)
        if way == "store":
            return masker.fit(image).transform(image, table, out=out)
        return masker.fit_transform(image, confounds=table)

    def small(folder: Path) -> None:
        at = {name: str(folder / f"{name}.nii.gz") for name in ("bold", "mask", "labels", "maps")}
        at["spheres"] = str(folder / "spheres.npy")
        confounds, out = str(folder / "confounds.npy"), str(folder / "out.zarr")
        work(at["bold"], at.get(kind, "-"), at["mask"], confounds, 2.0, out)

    warm_up(small)
    t_r = repetition_time(source)
    if way == "store":
        shutil.rmtree(target, ignore_errors=True)  # (what is there already is not made again)
    signals, said = timed(lambda: work(image, regions, mask, confounds, t_r, target))
    if way != "store":
        np.save(target, signals)
    say(**said)


def make(maskers: Any, kind: str, regions: str, mask: Any, options: dict[str, Any]) -> Any:
    mask = None if mask == "-" else mask
    if kind == "labels":
        return maskers.NiftiLabelsMasker(regions, mask_img=mask, **options)
    if kind == "maps":
        return maskers.NiftiMapsMasker(regions, mask_img=mask, **options)
    if kind == "spheres":
        seeds = [tuple(seed) for seed in np.load(regions).tolist()]
        return maskers.NiftiSpheresMasker(seeds, radius=8.0, mask_img=mask, **options)
    if kind == "smoothed":
        options["smoothing_fwhm"] = 6.0
    return maskers.NiftiMasker(mask, **options)


def repetition_time(source: str) -> float:
    seconds = float(nibabel.load(source).header.get_zooms()[3])
    return seconds or 2.5  # (some headers do not say it)


if __name__ == "__main__":
    main()
