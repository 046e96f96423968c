"""Work of a variant with its time, and with the memory that its imports had taken before."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from penstock.memory.accounting import pss

T = TypeVar("T")


def timed(work: Callable[[], T], *, once: float = 0.0, regions: int = 1) -> tuple[T, dict]:
    """Do the work, and what to say of it.

    `once` are the seconds that were spent before and that more regions would not add to (starting
    workers, loading the image); `regions` is how many the work is for.
    """
    imported = pss()
    result, seconds = clock(work)
    return result, {"seconds": seconds, "once": once, "regions": regions, "imported": imported}


def clock(work: Callable[[], T]) -> tuple[T, float]:
    """Do some work, and the seconds it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def say(**said: Any) -> None:
    """The line of a variant that the runner reads."""
    print(json.dumps(said))


def warm_up(work: Callable[[Path], Any]) -> None:
    """Do the work on a small image first: libraries import much on their first use only.

    The folder that `work` is given holds bold.nii.gz (8, 8, 8, 60), mask.nii.gz, labels.nii.gz,
    maps.nii.gz on its grid, confounds.npy and spheres.npy.
    """
    import nibabel
    import numpy as np

    rng = np.random.default_rng(0)
    mask = np.zeros((8, 8, 8), "uint8")
    mask[1:7, 1:7, 1:7] = 1
    images = {
        "bold": rng.standard_normal((8, 8, 8, 60)).astype("float32"),
        "mask": mask,
        "labels": mask.astype("int16") * (1 + np.arange(8, dtype="int16") // 4),
        "maps": (mask[..., np.newaxis] * rng.random((8, 8, 8, 2))).astype("float32"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for image, values in images.items():
            nibabel.Nifti1Image(values, np.diag([3.0, 3, 3, 1])).to_filename(
                folder / f"{image}.nii.gz"
            )
        np.save(folder / "confounds.npy", rng.standard_normal((60, 2)))
        np.save(folder / "spheres.npy", np.full((1, 3), 12.0))
        work(folder)
