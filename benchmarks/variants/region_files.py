"""Make what the comparisons on regions read: FOLDER N_VOLUMES [N_IMAGES].

One simulated run of 50 × 59 × 50 voxels as float32 and as int16, as it is and compressed; regions,
an atlas, maps and masks on its grid; a table of confounds. With N_IMAGES: so many runs of other
subjects, int16 and compressed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr

import penstock as ps
from penstock.fmri.images.images import SpatialImage, to_nibabel
from penstock.fmri.simulate import (
    simulate_fmri,
    simulated_atlas,
    simulated_maps,
    simulated_masks,
)
from penstock.io.nifti.write import write_nifti

N_REGIONS = 400
N_VOXELS = 33_000


def main() -> None:
    folder, n_volumes, *images = sys.argv[1:]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if images:
        for number in range(int(images[0])):
            ds = simulate_fmri(n_volumes=int(n_volumes), background=1.0, seed=100 + number)
            write_nifti(rounded(ds), target / f"subject{number}.nii.gz", dtype="int16")
        return
    make_regions(target)
    make_run(target, int(n_volumes))


def make_run(target: Path, n_volumes: int) -> None:
    """The run, in four files, and its confounds."""
    simulated = simulate_fmri(n_volumes=n_volumes, background=1.0)
    np.save(target / "confounds.npy", confounds(simulated))
    plain = write_nifti(simulated, target / "float32.nii", overwrite=True)
    ds = ps.open_dataset(plain)
    write_nifti(ds, target / "float32.nii.gz", overwrite=True)
    for name in ("int16.nii", "int16.nii.gz"):
        write_nifti(rounded(ds), target / name, dtype="int16", overwrite=True)


def rounded(ds: xr.Dataset) -> xr.Dataset:
    """Volumes as a scanner writes them: whole numbers."""
    return ps.Pipeline([ps.Apply(np.rint, core_dims=())])(ds)


def confounds(simulated: xr.Dataset) -> np.ndarray:
    """The head's six movements, their differences, and four others (volumes, 16)."""
    motion = simulated["confounds"].values
    other = np.random.default_rng(0).standard_normal((len(motion), 4))
    return np.hstack([motion, np.diff(motion, axis=0, prepend=motion[:1]), other])


def make_regions(target: Path) -> None:
    """Masks that may overlap, the same as one image of labels, atlases, maps, a mask of voxels."""
    masks = simulated_masks(n=N_REGIONS)
    (target / "masks").mkdir(exist_ok=True)
    for number, mask in enumerate(masks):
        save(mask.data.astype("uint8"), mask, target / "masks" / f"mask_{number:03}.nii.gz")
    labels = np.zeros(masks[0].shape, "int16")
    for number, mask in enumerate(masks[:20]):
        labels[mask.data] = number + 1
    save(labels, masks[0], target / "labels_20.nii.gz")
    for n in (100, 400):
        atlas = simulated_atlas(n_labels=n)
        save(atlas.data, atlas, target / f"labels_{n}.nii.gz")
    maps = simulated_maps(n=32)
    save(maps.data, maps, target / "maps_32.nii.gz")
    (large,) = simulated_masks(n=1, sizes=(N_VOXELS, N_VOXELS))
    save(large.data.astype("uint8"), large, target / "voxels.nii.gz")
    brain = simulated_atlas(n_labels=1)
    save(brain.data.astype("uint8"), brain, target / "brain.nii.gz")


def save(data: np.ndarray, like: SpatialImage, path: Path) -> None:
    to_nibabel(SpatialImage(data, like.affine)).to_filename(path)


if __name__ == "__main__":
    main()
