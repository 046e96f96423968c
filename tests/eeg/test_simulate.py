from __future__ import annotations

import itertools
import json
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as dsp

import penstock as ps
from penstock.eeg import simulate
from penstock.reading import reading_of

# low rate, several chunks of the generator's grid (12,288 samples at 250 Hz), volumes across them
SMALL = {"n_channels": 3, "duration": 150.0, "sampling_frequency": 250.0, "fmri": True}
STEADY = {"trigger_jitter": 0.0, "clock_drift": 0.0, "shape_drift": 0.0}


def artifact(ds):
    return ds.signal.values.astype(float) - ds.truth.values.astype(float)


@pytest.fixture(scope="module")
def small():
    ds = simulate.recording(**SMALL)
    return ds, {name: ds[name].values for name in ("signal", "truth")}


# ---------------------------------------------------------------------- blocks do not matter


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_region_equals_that_slice_of_the_whole(small, data):
    ds, whole = small
    name = data.draw(st.sampled_from(["signal", "truth"]))
    start = data.draw(st.integers(0, ds.sizes["time"] - 1))
    stop = data.draw(st.integers(start, ds.sizes["time"]))
    channels = data.draw(st.lists(st.integers(0, 3), unique=True, max_size=4))
    region = ds[name].isel(channel=channels, time=slice(start, stop)).values
    np.testing.assert_array_equal(region, whole[name][channels, start:stop])


@settings(max_examples=10, deadline=None)
@given(positions=st.lists(st.integers(0, 37499), max_size=8))
def test_picked_samples_equal_those_of_the_whole(small, positions):
    ds, whole = small
    picked = ds.signal.isel(time=positions).values
    np.testing.assert_array_equal(picked, whole["signal"][:, positions])


def test_blocks_do_not_matter_at_full_rate_on_other_threads():
    ds = simulate.recording(4, 24.0, fmri=True)
    whole = ds.signal.values
    parts: dict[int, np.ndarray] = {}

    def read(channel: int) -> None:
        copy = pickle.loads(pickle.dumps(ds))
        edges = [0, 1, 49151, 49153, 77777, 120000]
        stretches = [slice(*pair) for pair in itertools.pairwise(edges)]
        row = copy.signal.isel(channel=channel)
        parts[channel] = np.concatenate([row.isel(time=s).values for s in stretches])

    threads = [threading.Thread(target=read, args=(channel,)) for channel in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.stack([parts[i] for i in range(5)]), whole)


def test_seed_makes_the_recording(small):
    _, whole = small
    again = simulate.recording(**SMALL, seed=0)
    np.testing.assert_array_equal(again.signal.values, whole["signal"])
    other = simulate.recording(**SMALL, seed=1).truth.values
    for channel in range(3):
        assert abs(np.corrcoef(other[channel], whole["truth"][channel])[0, 1]) < 0.2


def test_reading_leaves_the_global_random_state_alone(small):
    ds, _ = small
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must not move
    ds.signal.isel(time=slice(0, 100)).load()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_double_precision_is_the_same_recording(small):
    _, whole = small
    double = simulate.recording(**SMALL, dtype="float64")
    assert double.signal.dtype == np.float64
    error = np.abs(double.signal.values - whole["signal"]).max(axis=1)
    assert (error <= 2e-6 * np.abs(whole["signal"]).max(axis=1)).all()


# ---------------------------------------------------------------------- costs


def test_200_gib_open_at_once_and_read_anywhere():
    seconds = 200 * 2**30 / (33 * 4 * 5000)
    ds = simulate.recording(32, seconds, fmri=True)
    assert ds.signal.nbytes > 199 * 2**30
    assert not ds.variables["signal"]._in_memory
    tracemalloc.start()
    ds = simulate.recording(32, seconds, fmri=True, seed=1)
    # a quarter of a million events, and nothing else
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()
    far = ds.signal.isel(channel=5, time=slice(-60_000, -50_000)).values
    assert 500 < np.abs(far).max() < 50_000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_read_stays_within_its_declared_memory(dtype):
    ds = simulate.recording(16, 40.0, fmri=True, seed=7, dtype=dtype)
    peaks = []

    def read() -> None:  # in a fresh thread: its scratch buffers count from nothing
        tracemalloc.start()
        region = ds.signal.isel(time=slice(30_000, 160_000)).values
        peaks.append(tracemalloc.get_traced_memory()[1] - region.nbytes)
        tracemalloc.stop()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    declared = reading_of(ds.signal).scratch_bytes
    assert peaks[0] < declared < 3 * peaks[0]


# ---------------------------------------------------------------------- what it looks like


def test_dataset_describes_itself():
    ds = simulate.recording(70, 20.0, fmri=True)
    assert ds.signal.dims == ds.truth.dims == ("channel", "time")
    assert ds.signal.attrs["units"] == "uV"
    assert ps.sampling_frequency(ds) == 5000
    names = ds.channel.values.tolist()
    assert names[:2] == ["Fp1", "Fp2"]
    assert names[64] == "E65"
    assert names[-1] == "ECG"
    assert len(set(names)) == 71
    assert ds.channel_type.values.tolist() == ["eeg"] * 70 + ["ecg"]
    assert set(ds.channel_unit.values.tolist()) == {"uV"}
    assert not ds.bad.any()
    assert json.loads(ds.attrs["simulation"])["repetition_time"] == 2.0
    assert ds.attrs["measurement_date"].startswith("2026")
    assert "ECG" not in simulate.recording(2, 1.0, ecg=False).channel


def test_background_is_one_over_f_of_about_20_microvolts():
    ds = simulate.recording(16, 120.0, 1000.0, blinks=False, ecg=False)
    values = ds.signal.values
    assert (np.abs(values.std(axis=1) - 19) < 5).all()
    frequencies, power = dsp.welch(values, 1000.0, nperseg=4096)
    fit = (frequencies > 15) & (frequencies < 400)
    slope, _ = np.polyfit(np.log(frequencies[fit]), np.log(power.mean(axis=0)[fit]), 1)
    assert slope == pytest.approx(-1, abs=0.05)
    # alpha stands out at the back of the head
    alpha = (frequencies > 9) & (frequencies < 11)
    beside = (frequencies > 15) & (frequencies < 18)
    ratio = power[:, alpha].mean(axis=1) / power[:, beside].mean(axis=1)
    back = ds.indexes["channel"].get_indexer(["O1", "O2"])
    front = ds.indexes["channel"].get_indexer(["Fp1", "Fp2"])
    assert ratio[back].min() > 2 * ratio[front].max()


def test_channels_share_a_part_of_the_background():
    values = simulate.recording(12, 60.0, 500.0, blinks=False, ecg=False).signal.values
    correlation = np.corrcoef(values)[~np.eye(12, dtype=bool)]
    assert 0.1 < correlation.mean() < 0.7
    assert correlation.max() < 0.9


def test_blinks_are_where_their_events_are():
    ds = simulate.recording(8, 120.0, 500.0)
    blinks = ps.events_table(ds).query("label == 'blink'")
    assert 15 < len(blinks) < 30

    def response(channel: str) -> float:
        row = ds.signal.sel(channel=channel)
        return np.mean([row.sel(time=slice(t + 0.1, t + 0.3)).mean() for t in blinks.onset])

    assert response("Fp1") > 40
    assert abs(response("P3")) < 15
    without = simulate.recording(8, 120.0, 500.0, blinks=False)
    assert without.sizes["event"] == 0
    assert np.abs(without.signal.sel(channel="Fp1")).max() < np.abs(ds.signal).max()


def test_ballistocardiogram_follows_the_heartbeat():
    settings = {"n_channels": 16, "duration": 60.0, "sampling_frequency": 500.0, "fmri": True}
    ds = simulate.recording(**settings)
    still = simulate.recording(**settings, bcg=0.0)
    peaks, _ = dsp.find_peaks(ds.truth.sel(channel="ECG"), height=700, distance=200)
    assert 60 < len(peaks) < 72
    pulse = (ds.truth - still.truth).values[:-1]
    average = np.mean([pulse[:, p - 100 : p + 350] for p in peaks[1:-1]], axis=0)
    delay = np.abs(average).argmax(axis=1) / 500 - 0.2
    assert 0.1 < np.median(delay) < 0.4
    strength = np.abs(average).max(axis=1)
    assert 20 < strength.max() < 80
    assert strength.max() > 2 * strength.min()


# ---------------------------------------------------------------------- the gradient artifact


def test_without_fmri_there_is_no_artifact():
    ds = simulate.recording(4, 30.0, 500.0)
    np.testing.assert_array_equal(ds.signal.values, ds.truth.values)
    assert "1" not in ds.event_label.values
    assert "volume_onset" not in ds.coords


def test_signal_is_truth_and_an_artifact_of_its_own():
    settings = {"n_channels": 4, "duration": 24.0, "fmri": True, "dtype": "float64"}
    ds = simulate.recording(**settings, gradient_amplitude=5000.0)
    weaker = simulate.recording(**settings, gradient_amplitude=1000.0)
    np.testing.assert_array_equal(ds.truth.values, weaker.truth.values)
    np.testing.assert_allclose(artifact(ds), 5 * artifact(weaker), atol=1e-9)
    outside = artifact(ds.sel(time=slice(0, 4.9)))
    assert not outside.any()
    assert not artifact(ds.sel(time=slice(19.1, None))).any()
    peaks = np.abs(artifact(ds)).max(axis=1)
    assert 1000 < np.median(peaks) < 15_000
    # channels pick up different mixtures of three axes, and of no more
    values = np.linalg.svd(artifact(ds), compute_uv=False)
    assert values[2] > 1e-3 * values[0]
    everything = simulate.recording(8, 24.0, fmri=True, dtype="float64", shape_drift=0.0)
    values = np.linalg.svd(artifact(everything), compute_uv=False)
    assert values[3] < 1e-9 * values[0]


def test_steady_artifact_repeats_with_every_volume():
    ds = simulate.recording(2, 40.0, fmri=True, dtype="float64", **STEADY)
    residue = artifact(ds)
    starts = np.rint(ds.event_onset.values[ds.event_label.values == "1"] * 5000).astype(int)
    assert len(starts) == 15
    assert set(np.diff(starts)) == {10_000}
    epochs = np.stack([residue[:, s : s + 10_000] for s in starts[1:-1]])
    # a neighbour's ringing is all that differs: 1e-6 of the peak
    np.testing.assert_allclose(epochs, epochs[:1].repeat(len(epochs), 0), atol=1e-6 * 5000)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shifts_are_exact_fractions_of_a_sample(seed):
    # one volume in silence, so that a Fourier shift of the recording wraps nothing
    settings = {"n_channels": 2, "duration": 12.0, "fmri": True, "dtype": "float64"}
    settings |= STEADY | {"blinks": False, "seed": seed}
    due = simulate.recording(**settings)
    shifted = simulate.recording(**settings | {"trigger_jitter": 60e-6})
    assert due.volume_onset.values.tolist() == [5.0] == due.event_onset.values.tolist()
    shift = float(shifted.volume_onset[0] - 5.0)
    assert 1e-6 < abs(shift) < 300e-6
    size = due.sizes["time"]
    turns = np.exp(-2j * np.pi * np.fft.rfftfreq(size, 1 / 5000) * shift)
    expected = np.fft.irfft(np.fft.rfft(artifact(due)) * turns, size)
    error = np.abs(artifact(shifted) - expected).max()
    assert error < 1e-6 * np.abs(expected).max()
    assert error < 1e-4 * np.abs(artifact(shifted) - artifact(due)).max()


def test_artifact_is_band_limited():
    ds = simulate.recording(3, 30.0, fmri=True, dtype="float64")
    frequencies, power = dsp.welch(artifact(ds), 5000.0, window="blackmanharris", nperseg=8192)
    # the readout rings near 770 Hz; the anti-alias filter ends at 1 kHz
    readout = (frequencies > 600) & (frequencies < 850)
    assert power[:, readout].sum() > 0.3 * power.sum()
    assert power[:, frequencies > 1010].max() < 1e-9 * power.max()


def test_markers_lie_on_samples_and_near_their_volume():
    ds = simulate.recording(2, 60.0, 1000.0, fmri=True, clock_drift=137.0)
    volumes = ds.event_onset.values[ds.event_label.values == "1"]
    assert len(volumes) == ds.sizes["volume"] == 24
    positions = volumes * 1000.0
    np.testing.assert_allclose(positions, np.rint(positions), atol=1e-9)
    assert ds.signal.sel(time=volumes).sizes["time"] == len(volumes)
    assert np.abs(volumes - ds.volume_onset.values).max() < 0.5e-3 + 6 * 20e-6
    assert np.diff(ds.event_onset.values).min() >= 0
    interval = np.polyfit(np.arange(24), ds.volume_onset.values, 1)[0]
    assert interval == pytest.approx(2 * (1 + 137e-6), abs=5e-6)


def test_shape_drifts_slowly():
    settings = {"n_channels": 8, "duration": 400.0, "sampling_frequency": 250.0, "fmri": True}
    ds = simulate.recording(**settings, trigger_jitter=0.0, clock_drift=0.0, dtype="float64")
    residue = artifact(ds)
    epochs = residue[:, 5 * 250 : 5 * 250 + 195 * 500].reshape(9, 195, 500)
    scale = np.linalg.norm(epochs, axis=2).mean(axis=1)
    near = np.linalg.norm(epochs[:, 11] - epochs[:, 10], axis=1) / scale
    far = np.linalg.norm(epochs[:, 100] - epochs[:, 10], axis=1) / scale
    assert near.max() < 0.02
    assert 0.01 < np.median(far) < 0.3


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_channels": 0}, "n_channels must be positive"),
        ({"n_channels": 2.5}, "n_channels must be a whole number"),
        ({"duration": -1}, "duration must be positive"),
        ({"duration": 1e-9}, "holds no sample"),
        ({"sampling_frequency": float("nan")}, "sampling_frequency must be positive"),
        ({"seed": -1}, "seed must not be negative"),
        ({"dtype": "int16"}, "dtype must be float32 or float64"),
        ({"fmri": True, "duration": 8.0}, "no volume of 2 s fits"),
        ({"fmri": True, "trigger_jitter": 0.1}, "jitter is a fraction of a sample"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(parameters, message):
    with pytest.raises(ValueError, match=message):
        simulate.recording(**parameters)


def test_short_recordings_work():
    ds = simulate.recording(1, 0.01, ecg=False)
    assert ds.signal.values.shape == (1, 50)
    assert np.isfinite(ds.signal.values).all()
    assert ds.sizes["event"] == 0
