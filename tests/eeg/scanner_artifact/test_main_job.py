"""The main job on real data: a folder of recordings, filtered and resampled as MNE does it."""

from __future__ import annotations

import warnings
from pathlib import Path

import mne
import numpy as np
import pytest

import penstock as ps
from penstock.eeg import HighPassFilter, Resample
from penstock.memory.accounting import MIB, PROCESS_ALLOWANCE, process_base

PIPELINE = ps.Pipeline([HighPassFilter(1.0), Resample(100.0, method="fft")])
FLOAT32 = 2e-6
"""Allowed deviation of single precision from MNE's double, as a fraction of the largest value."""
RUNS = [f"S001R{number:02}" for number in range(3, 9)]


@pytest.fixture(scope="module")
def expected(motor_runs: Path) -> dict[str, mne.io.BaseRaw]:
    """What MNE makes of every recording."""
    made = {}
    for name in RUNS:
        raw = mne.io.read_raw_edf(motor_runs / f"{name}.edf", preload=True, verbose="error")
        made[name] = raw.filter(1.0, None, verbose="error").resample(100.0, verbose="error")
    return made


@pytest.fixture(scope="module")
def results(motor_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    runs = [motor_runs / f"{name}.edf" for name in RUNS]
    report = PIPELINE.run(runs, out, memory="3 GiB", workers=2, progress=False)
    assert report.ok, report
    assert sorted(report.outputs) == RUNS
    assert report.peak_memory > 0
    return out


def values(path: Path) -> np.ndarray:
    return ps.open_dataset(path).signal.values


@pytest.mark.parametrize("name", RUNS)
def test_values_and_events_are_those_of_mne(
    results: Path, expected: dict[str, mne.io.BaseRaw], name: str
) -> None:
    made = ps.open_dataset(results / f"{name}.zarr")
    raw = expected[name]
    # (these recordings fill names up with dots, as in "Fc5.")
    assert made["channel"].values.tolist() == [name.rstrip(".") for name in raw.ch_names]
    assert ps.sampling_frequency(made) == raw.info["sfreq"] == 100.0
    assert made.signal.attrs["units"] == "uV"
    assert made.signal.dtype == np.float32
    reference = raw.get_data(units="uV")
    assert made.signal.shape == reference.shape
    deviation = np.abs(made.signal.values - reference).max()
    assert deviation <= FLOAT32 * np.abs(reference).max()
    events = ps.events_table(made)
    assert len(events) > 0
    assert events["label"].tolist() == raw.annotations.description.tolist()
    assert np.allclose(events["onset"], raw.annotations.onset)
    assert np.allclose(events["duration"], raw.annotations.duration)


def test_double_precision_is_exact(
    motor_runs: Path, tmp_path: Path, expected: dict[str, mne.io.BaseRaw]
) -> None:
    source = motor_runs / f"{RUNS[0]}.edf"
    PIPELINE.run(source, tmp_path, memory="3 GiB", dtype="float64", progress=False)
    made = values(tmp_path / f"{RUNS[0]}.zarr")
    reference = expected[RUNS[0]].get_data(units="uV")
    assert made.dtype == np.float64
    assert np.abs(made - reference).max() <= 1e-11 * np.abs(reference).max()


def test_export_reopens_in_mne_with_the_events(
    motor_runs: Path, tmp_path: Path, expected: dict[str, mne.io.BaseRaw]
) -> None:
    name = RUNS[1]
    report = PIPELINE.run(
        motor_runs / f"{name}.edf", tmp_path, memory="3 GiB", format="edf", progress=False
    )
    assert report.ok, report
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = mne.io.read_raw_edf(
            tmp_path / f"{name}.edf", preload=True, infer_types=True, verbose="error"
        )
    reference = expected[name]
    assert raw.ch_names == reference.ch_names  # (the labels of the file, dots and all)
    assert raw.info["sfreq"] == 100.0
    assert raw.annotations.description.tolist() == reference.annotations.description.tolist()
    assert np.allclose(raw.annotations.onset, reference.annotations.onset, atol=1e-4)
    assert np.allclose(raw.annotations.duration, reference.annotations.duration, atol=1e-4)
    made, wanted = raw.get_data(units="uV"), reference.get_data(units="uV")
    n = wanted.shape[1]
    assert n <= made.shape[1] < n + 100  # EDF holds whole data records
    # 16 bits between each channel's smallest and largest value
    step = np.ptp(wanted, axis=1) / 65535
    assert (np.abs(made[:, :n] - wanted).max(axis=1) <= 0.75 * step + 1e-3).all()


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> int:
    """A budget that leaves a little for blocks, whatever this process takes already."""
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    # (reading an EDF costs buffers of a fixed size: what is left is for the block)
    return process_base() + PROCESS_ALLOWANCE + 40 * MIB


@pytest.mark.parametrize("method", ["polyphase", "fft"])
def test_small_blocks_change_nothing(
    motor_runs: Path, tmp_path: Path, tight: int, method: str
) -> None:
    """Resampling by FFT needs time whole: blocks are channels. By polyphase they are stretches."""
    source = motor_runs / f"{RUNS[2]}.edf"
    pipeline = ps.Pipeline([HighPassFilter(1.0), Resample(100.0, method=method)])
    plan = pipeline.plan(source, memory=tight, workers=1)
    report = pipeline.run(source, tmp_path / "cut", memory=tight, workers=1, progress=False)
    assert report.ok, report
    assert report.blocks > 1
    if method == "polyphase":
        # blocks are stretches of all channels: the file is read once, in its own order
        assert plan.stages[0].grid.block[0] == 64
        assert plan.stages[0].grid.block[1] < plan.stages[0].grid.shape[1]
    lazy = pipeline(ps.open_dataset(source))
    whole = lazy.signal.compute(scheduler="synchronous").values
    made = values(tmp_path / "cut" / f"{RUNS[2]}.zarr")
    assert np.abs(made - whole).max() <= FLOAT32 * np.abs(whole).max()


def test_processes_make_identical_values(motor_runs: Path, results: Path, tmp_path: Path) -> None:
    report = PIPELINE.run(
        motor_runs / f"{RUNS[3]}.edf", tmp_path, memory="2 GiB", workers=1, executor="processes",
        progress=False,
    )  # fmt: skip
    assert report.ok, report
    assert report.kind == "processes"
    assert np.array_equal(values(tmp_path / f"{RUNS[3]}.zarr"), values(results / f"{RUNS[3]}.zarr"))
