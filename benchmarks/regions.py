"""Comparisons on regions of fMRI: one pass over large images, cleaning, many images."""

from __future__ import annotations

from regions_clean import clean, real, voxels
from regions_large import cohort, virtual
from regions_seed import convert, seed

SECTIONS = {
    "seed": seed,
    "clean": clean,
    "voxels": voxels,
    "real": real,
    "virtual": virtual,
    "convert": convert,
    "cohort": cohort,
}
