from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings."""
    folder = os.environ.get("PENSTOCK_DATA")
    if not folder:
        pytest.skip("set PENSTOCK_DATA to the folder of real recordings (holding eeg/)")
    return Path(folder, "eeg")


@pytest.fixture(scope="session")
def spm() -> Path:
    """Folder of real spectra."""
    folder = os.environ.get("PENSTOCK_DATA")
    if not folder:
        pytest.skip("set PENSTOCK_DATA to the folder of real data (holding spm/)")
    return Path(folder, "spm")


@pytest.fixture
def make_edf(tmp_path: Path) -> Callable[..., tuple[Path, list[np.ndarray]]]:
    """Write an EDF or BDF file with edfio; returns its path and the digital values."""
    edfio = pytest.importorskip("edfio")

    def make(
        name: str = "synthetic.edf",
        labels: Sequence[str] = ("EEG Fp1", "EEG Cz", "EOG left"),
        rates: Sequence[float] = (100.0, 100.0, 100.0),
        seconds: float = 10.0,
        record: float = 1.0,
        units: Sequence[str] | str = "uV",
        ranges: Sequence[tuple[float, float]] | None = None,
        annotations: Any = None,
        **kwargs: Any,
    ) -> tuple[Path, list[np.ndarray]]:
        rng = np.random.default_rng(len(labels))
        bdf = name.endswith(".bdf")
        kind, dtype, limit = (
            (edfio.BdfSignal, np.int32, 2**23) if bdf else (edfio.EdfSignal, np.int16, 2**15)
        )
        signals, digital = [], []
        for i, (label, rate) in enumerate(zip(labels, rates, strict=True)):
            values = rng.integers(-limit, limit, round(rate * seconds)).astype(dtype)
            digital.append(values)
            signals.append(
                kind.from_digital(
                    values,
                    rate,
                    label=label,
                    physical_dimension=units if isinstance(units, str) else units[i],
                    physical_range=ranges[i] if ranges else (-3276.8, 3276.7),
                )
            )
        path = tmp_path / name
        (edfio.Bdf if bdf else edfio.Edf)(
            signals, data_record_duration=record, annotations=annotations, **kwargs
        ).write(path)
        return path, digital

    return make
