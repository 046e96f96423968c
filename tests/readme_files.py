"""The files that the snippets of README speak of, made small in the current folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import penstock as ps

GRID = np.array([[6.0, 0, 0, -90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])
SHAPE, N_VOLUMES = (31, 37, 31), 80


def make_files() -> dict[str, Any]:
    """Write the files; returns what the snippets take for granted besides them."""
    _recordings()
    _spectra()
    _images()
    return {
        "array": np.random.default_rng(0).random((20, 30)),
        "my_function": _widest,
        "widths": np.arange(1, 4),
    }


def _widest(spectrum: np.ndarray, widths: np.ndarray) -> float:
    return float(spectrum.max() * widths.max())


def _recordings() -> None:
    rng = np.random.default_rng(0)
    names = ["Fp1", "Fp2", "C3", "Cz", "C4", "O1", "O2", "EOG"]
    ds = ps.make_dataset(
        (rng.standard_normal((8, 160 * 60)) * 20).astype("float32"),
        sampling_frequency=160.0,
        units="uV",
        coords={"channel": names},
        events=pd.DataFrame({"onset": [1.0, 30.0], "duration": [0.0, 0.5], "label": ["a", "b"]}),
    )
    Path("recordings").mkdir()
    ps.export(ds, "S001R03.edf")
    for copy in ("recordings/S001R03.edf", "recordings/S001R04.edf", "recording.edf"):
        shutil.copyfile("S001R03.edf", copy)


def _spectra() -> None:
    rng = np.random.default_rng(1)
    frequency = np.linspace(300e3, 320e3, 64)
    centre = rng.uniform(308e3, 312e3, (12, 24, 1))
    response = 1e-3 * centre**2 / (centre**2 - frequency**2 + 1j * frequency * centre / 100)
    ds = ps.make_dataset(
        response.astype("complex64"),
        ("y", "x", "frequency"),
        units="V",
        coords={
            "y": ("y", np.arange(12.0), {"units": "um"}),
            "x": ("x", np.arange(24.0), {"units": "um"}),
            "frequency": ("frequency", frequency, {"units": "Hz"}),
        },
    )
    ps.io.write_usid(ds, "scan.h5", position_dims=("y", "x"))


def _images() -> None:
    import nibabel

    rng = np.random.default_rng(2)
    values = rng.normal(1000, 20, (*SHAPE, N_VOLUMES)).astype("float32")
    bold = nibabel.Nifti1Image(values, GRID)
    bold.header.set_xyzt_units("mm", "sec")
    bold.header.set_zooms((6, 6, 6, 2.0))
    labels = np.zeros(SHAPE, "int16")
    labels[5:12, 8:20, 8:20], labels[16:24, 8:20, 8:20] = 1, 2
    nibabel.save(nibabel.Nifti1Image(labels, GRID), "atlas.nii.gz")
    inside = np.zeros(SHAPE, "uint8")
    inside[4:27, 5:32, 5:26] = 1
    nibabel.save(nibabel.Nifti1Image(inside, GRID), "mask.nii.gz")
    nibabel.save(bold, "bold.nii.gz")
    table = {}
    for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"):
        moved = rng.normal(size=N_VOLUMES).cumsum() / 100
        table |= {name: moved, f"{name}_derivative1": np.diff(moved, prepend=np.nan)}
        table |= {f"{key}_power2": table[key] ** 2 for key in (name, f"{name}_derivative1")}
    for name in ("csf", "white_matter"):
        table[name] = rng.normal(size=N_VOLUMES)
    table["framewise_displacement"] = np.r_[np.nan, rng.uniform(0, 0.6, N_VOLUMES - 1)]
    table["std_dvars"] = np.r_[np.nan, rng.uniform(0.8, 1.4, N_VOLUMES - 1)]
    frame = pd.DataFrame(table)
    frame.to_csv("confounds.tsv", sep="\t", index=False, na_rep="n/a")
    for subject in ("sub-01", "sub-02"):
        folder = Path("derivatives", subject, "func")
        folder.mkdir(parents=True)
        stem = f"{subject}_task-rest"
        image = f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
        shutil.copyfile("bold.nii.gz", folder / image)
        shutil.copyfile("confounds.tsv", folder / f"{stem}_desc-confounds_timeseries.tsv")
