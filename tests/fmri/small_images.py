"""Small images for the tests of volumes."""

from __future__ import annotations

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-3.0, 0, 0, 60], [0, 3.0, 0, -50], [0, 0, 3.5, -40], [0, 0, 0, 1]])


def image(values: np.ndarray, affine: np.ndarray = AFFINE, t_r: float = 2.0):
    """A nibabel image."""
    made = nibabel.Nifti1Image(values, affine)
    if values.ndim == 4:
        made.header.set_zooms((*made.header.get_zooms()[:3], t_r))
    made.header.set_xyzt_units("mm", "sec")
    return made
