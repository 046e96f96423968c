"""Every processor of `penstock.eeg` keeps the contract; the MNE adapter does what MNE does."""

from __future__ import annotations

import warnings
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import penstock as ps
from penstock import eeg
from penstock.eeg import (
    MNE,
    AASCorrection,
    BandPassFilter,
    Crop,
    DownSample,
    DropChannels,
    Filter,
    HighPassFilter,
    LowPassFilter,
    NotchFilter,
    PickChannels,
    Rereference,
    Resample,
    Scale,
    TriggerDetector,
    UpSample,
    simulate,
)
from penstock.processor import Processor
from penstock.testing import check_processor

RATE = 200.0
KINDS = ["eeg", "eeg", "eeg", "eeg", "eog", "ecg", "stim"]
NAMES = ["Fp1", "Cz", "Pz", "Oz", "HEOG", "ECG", "STI"]

CASES: list[Processor] = [
    Filter(1.0, 40.0),
    Filter(30.0, 10.0),
    Filter(l_freq=2.0, method="iir"),
    Filter(None, 30.0, phase="zero-double", picks="all"),
    Filter(4.0, 30.0, phase="minimum"),
    Filter(1.0, 40.0, fir_window="blackman", filter_length="6s"),
    HighPassFilter(1.0),
    HighPassFilter(0.05, picks=("eeg", "eog")),
    HighPassFilter(1.0, method="iir", iir_order=2, phase="forward"),
    LowPassFilter(40.0),
    LowPassFilter(30.0, trans_bandwidth=5.0, fir_window="hann"),
    LowPassFilter(20.0, method="iir"),
    BandPassFilter(0.5, 40.0),
    BandPassFilter(8.0, 12.0, method="iir", picks="Oz"),
    NotchFilter(50.0),
    NotchFilter((50.0, 75.0), notch_widths=(1.0, 2.0), picks="all"),
    NotchFilter(50.0, method="iir"),
    Resample(100.0),
    Resample(250.0),
    Resample(90.0, method="fft"),
    Resample(200.0),
    DownSample(4),
    DownSample(2, method="fft"),
    UpSample(3),
    UpSample(2, method="fft"),
    Crop(1.0, 5.0),
    Crop(2.0025, include_tmax=False),
    PickChannels(("Oz", "Fp1")),
    PickChannels("eeg"),
    PickChannels(("Cz", "missing"), on_missing="ignore"),
    DropChannels("stim"),
    DropChannels(("Cz", "eog")),
    Rereference(),
    Rereference(("Cz", "Oz"), exclude_bads=False),
    Rereference("Fp1", picks=("eeg", "eog")),
    Scale(),
    Scale(picks=("eeg", "ecg"), with_mean=False),
    Scale(with_std=False),
    TriggerDetector("^go$"),
    TriggerDetector("^3$", channel="STI"),
    MNE("filter", l_freq=1.0, h_freq=40.0),
    MNE("notch_filter", freqs=50.0),
    MNE("resample", sfreq=100.0),
    MNE("savgol_filter", h_freq=30.0),
    MNE("apply_hilbert", envelope=True),
    MNE("filter", l_freq=1.0, h_freq=40.0, picks=("HEOG", "Cz"), method="iir"),
    MNE("set_eeg_reference", ref_channels="average"),
]
AAS_CASES = [
    AASCorrection(window_size=10),
    AASCorrection(window_size=8, alignment="integer", template="block"),
    AASCorrection(window_size=6, alignment="none", relative_window_position=-0.5, picks="eeg"),
]


def label(processor: Processor) -> str:
    return repr(processor)


def recording(dtype: str, n_times: int = 3000) -> xr.Dataset:
    """Seven channels of four types, one of them bad, with offsets and a stimulus channel."""
    rng = np.random.default_rng(11)
    signal = rng.standard_normal((len(NAMES), n_times)).cumsum(axis=1)
    signal += rng.uniform(-50, 50, (len(NAMES), 1))
    signal[-1] = 0
    signal[-1, 200::400] = 3
    signal[-1, 300::400] = 7
    ds = ps.make_dataset(
        signal.astype(dtype),
        sampling_frequency=RATE,
        units="uV",
        coords={
            "channel": NAMES,
            "channel_type": ("channel", KINDS),
            "bad": ("channel", np.asarray(NAMES) == "Pz"),
        },
    )
    onsets = np.arange(1.0, 14.0)
    return ps.with_events(ds, pd.DataFrame({"onset": onsets, "duration": 0.0, "label": "go"}))


@pytest.fixture(scope="module")
def in_scanner() -> xr.Dataset:
    ds = simulate.recording(
        n_channels=4, duration=32.0, sampling_frequency=1000.0, fmri=True, seed=2,
        start_padding=2.0, end_padding=2.0, repetition_time=1.0,
    )  # fmt: skip
    ds = ps.Pipeline([TriggerDetector("^1$")])(ds)
    return ds.assign(signal=ds.signal.compute(scheduler="synchronous"))


def test_every_processor_has_a_case() -> None:
    covered = {type(processor).__name__ for processor in [*CASES, *AAS_CASES]}
    assert covered == {name for name in eeg.__all__ if isinstance(getattr(eeg, name), type)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("processor", CASES, ids=label)
def test_contract(processor: Processor, dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than the recording.*")
        check_processor(processor, recording(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("processor", AAS_CASES, ids=label)
def test_contract_of_artifact_correction(
    processor: Processor, dtype: str, in_scanner: xr.Dataset
) -> None:
    # the artifact is a hundred times the EEG that is left: float32 keeps seven digits of the former
    tolerance = 2e-5 if dtype == "float32" else 1e-10
    check_processor(processor, in_scanner.assign(signal=in_scanner.signal.astype(dtype)),
                    tolerance=tolerance)  # fmt: skip


# ---------------------------------------------------------------------- the MNE adapter


def as_raw(ds: xr.Dataset) -> mne.io.BaseRaw:
    """The dataset as MNE holds it, made without Penstock."""
    info = mne.create_info(NAMES, RATE, KINDS, verbose="error")
    info["bads"] = ["Pz"]
    volts = np.where(np.asarray(KINDS) == "stim", 1.0, 1e-6)
    return mne.io.RawArray(ds.signal.values.astype("f8") * volts[:, None], info, verbose="error")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("filter", {"l_freq": 1.0, "h_freq": 40.0}),
        ("filter", {"l_freq": 4.0, "h_freq": None, "picks": ["HEOG", "Cz"]}),
        ("filter", {"l_freq": 1.0, "h_freq": 40.0, "method": "iir"}),
        ("notch_filter", {"freqs": [50.0, 75.0]}),
        ("resample", {"sfreq": 100.0}),
        ("resample", {"sfreq": 130.0, "method": "polyphase"}),
        ("savgol_filter", {"h_freq": 30.0}),
        ("apply_hilbert", {"envelope": True}),
        ("set_eeg_reference", {"ref_channels": "average"}),
        ("set_eeg_reference", {"ref_channels": ["Cz"]}),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
def test_mne_method_is_what_mne_does(
    method: str, parameters: dict[str, Any], block_bytes: int
) -> None:
    ds = recording("float64")
    raw = as_raw(ds)
    with mne.utils.use_log_level("error"):
        called = getattr(raw, method)(**parameters)
    expected = (called if isinstance(called, mne.io.BaseRaw) else raw).get_data()
    expected = expected / np.where(np.asarray(KINDS) == "stim", 1.0, 1e-6)[:, None]
    made = ps.Pipeline([MNE(method, **parameters)])(ds, block_bytes=block_bytes)
    values = made.signal.compute(scheduler="synchronous").values
    assert values.shape == expected.shape
    for name, row, other in zip(NAMES, values, expected, strict=True):
        assert np.abs(row - other).max() <= 1e-12 * max(1.0, np.abs(other).max()), name
