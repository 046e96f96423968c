"""A budget that does not suffice is refused once, with one that does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.eeg import BandPassFilter, Rereference, Resample
from penstock.errors import BudgetError
from penstock.fmri import ExtractSpheres, SmoothVolumes
from penstock.memory.accounting import MIB, parse_bytes
from penstock.planning.refusals import least_budget, told
from penstock.testing import virtual_dataset


def recording() -> Any:
    return virtual_dataset((8, 20_000), sampling_frequency=250.0)


def long_recording() -> Any:
    return virtual_dataset((8, 600_000), sampling_frequency=1000.0)


def volumes() -> Any:
    ds = virtual_dataset((20, 22, 18, 40), ("x", "y", "z", "time"), sampling_frequency=0.5)
    return ps.voxels.with_affine(ds, np.diag([3.0, 3.0, 3.0, 1.0]))


def spectra() -> Any:
    return virtual_dataset((40, 30, 128), ("y", "x", "frequency"))


SPHERES = ExtractSpheres(seeds=[(20.0, 20.0, 20.0)], radius=9.0)
CASES: dict[str, tuple[Any, list[Any], str, str]] = {
    "zarr": (recording, [BandPassFilter(1.0, 40.0)], "zarr", "threads"),
    "edf": (recording, [BandPassFilter(1.0, 40.0)], "edf", "threads"),
    "fif": (recording, [Resample(100.0)], "fif", "threads"),
    "long rows": (long_recording, [Rereference(), BandPassFilter(0.1, 40.0)], "zarr", "threads"),
    "nifti": (volumes, [SmoothVolumes(6.0)], "nifti", "threads"),
    "nii": (volumes, [SmoothVolumes(6.0)], "nii", "threads"),
    "csv": (volumes, [SmoothVolumes(6.0), SPHERES], "csv", "threads"),
    "parquet": (volumes, [SPHERES], "parquet", "threads"),
    "spectra": (spectra, [ps.Apply(np.negative, core_dims=())], "zarr", "threads"),
    "processes": (recording, [BandPassFilter(1.0, 40.0)], "edf", "processes"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("asked", ["1 MiB", "just too little"])
def test_the_amount_that_is_told_suffices(name: str, asked: str, tmp_path: Path) -> None:
    make, steps, format, executor = CASES[name]
    if format in ("fif", "parquet"):
        pytest.importorskip({"fif": "mne", "parquet": "pyarrow"}[format])
    pipeline = ps.Pipeline(steps)
    options: dict[str, Any] = {"format": format, "executor": executor, "progress": False}

    def refused(memory: str) -> str:
        try:
            report = pipeline.run(make(), tmp_path / "out", memory=memory, workers=2, **options)
            said = "".join(report.failed.values())
        except BudgetError as error:
            said = str(error)
        amounts = re.findall(r"allow (?:at least )?([\d.]+ [KMGT]iB)", said)
        assert len(amounts) == 1, said
        return str(amounts[0])

    enough = refused("1 MiB")
    if asked != "1 MiB":  # (the process fits, and what it does not)
        if executor == "processes":
            pytest.skip("processes are started once only here")
        # (from 1 GiB on, as in a process that other tests have filled, amounts are told to 1 %)
        amount = parse_bytes(enough)
        enough = refused(f"{amount - 13 * MIB - (amount >> 6 if amount >> 30 else 0)} B")
    report = pipeline.run(make(), tmp_path / "out", memory=enough, workers=2, **options)
    assert not report.failed
    assert report.predicted_memory <= parse_bytes(enough)


def test_the_least_budget_is_found_to_a_percent() -> None:
    for need in (3 * MIB, 700 * MIB + 1, 90 << 30):
        found = least_budget(lambda budget, need=need: budget >= need, 2 * MIB)  # type: ignore[misc]
        assert found is not None
        assert need <= found <= need + max(MIB, need // 90)
    assert least_budget(lambda budget: False, MIB) is None


@pytest.mark.parametrize("amount", [1, 5 * MIB, 991 * MIB, 999 * MIB, 1 << 30, 33 << 30, 5 << 40])
def test_what_is_told_is_never_less(amount: int) -> None:
    assert amount <= parse_bytes(told(amount)) <= 1.02 * amount + 16 * MIB
