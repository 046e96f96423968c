"""Small images for the tests of volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_images import image


@pytest.fixture(scope="session")
def bold_values() -> np.ndarray:
    """Volumes with structure in space and time, (9, 8, 7, 120), whole numbers."""
    rng = np.random.default_rng(7)
    base = rng.uniform(400, 1200, (9, 8, 7, 1))
    drift = np.linspace(0, 30, 120) * rng.uniform(-1, 1, (9, 8, 7, 1))
    waves = np.sin(2 * np.pi * np.arange(120) / 25) * rng.uniform(-20, 20, (9, 8, 7, 1))
    noise = rng.normal(0, 10, (9, 8, 7, 120))
    return np.round(base + drift + waves + noise)


@pytest.fixture(scope="session")
def bold(bold_values, tmp_path_factory) -> Path:
    """The volumes as int16 in a compressed file."""
    path = tmp_path_factory.mktemp("images") / "sub-01_task-rest_bold.nii.gz"
    image(bold_values.astype("int16")).to_filename(path)
    return path


@pytest.fixture(scope="session")
def atlas() -> np.ndarray:
    """Twelve labels with gaps between their values, background around them."""
    labels = np.zeros((9, 8, 7), "int16")
    inside = labels[1:-1, 1:-1, 1:-1]
    inside[...] = 3 * (1 + np.arange(inside.size).reshape(inside.shape) * 12 // inside.size)
    return labels


@pytest.fixture(scope="session")
def mask() -> np.ndarray:
    """A ball of voxels."""
    x, y, z = np.ogrid[:9, :8, :7]
    return ((x - 4) ** 2 + (y - 4) ** 2 + (z - 3) ** 2 <= 10).astype("uint8")


@pytest.fixture(scope="session")
def confounds() -> np.ndarray:
    """Four confounds, (120, 4)."""
    return np.random.default_rng(11).normal(size=(120, 4)).cumsum(axis=0)
