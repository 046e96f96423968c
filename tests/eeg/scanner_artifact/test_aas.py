"""Average artifact subtraction against known truth and against naive implementations."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.eeg.scanner_artifact.aas import AASCorrection
from penstock.eeg.scanner_artifact.alignment import combine_offsets, estimate_offsets, shift_epochs
from penstock.eeg.scanner_artifact.triggers import with_triggers
from penstock.memory.buffers import trim_scratch
from penstock.processor import Context
from penstock.testing import check_processor

RATE = 1000.0


def artifact(
    onsets: np.ndarray, length: int, size: int, seed: int = 0, amplitude: float = 1000.0
) -> np.ndarray:
    """A waveform band-limited to 0.35 of the rate, evaluated at onsets between samples.

    It fades to zero at both ends and has zero mean, as the fade holds harmonics 0 and 1 only.
    """
    rng = np.random.default_rng(seed)
    n_harmonics = min(25, length // 4)
    harmonics = 2 + rng.choice(int(0.35 * length), n_harmonics, replace=False)
    phases = rng.uniform(0, 2 * np.pi, n_harmonics)
    heights = rng.standard_normal(n_harmonics)
    x = np.zeros(size)
    turns = 2 * np.pi * harmonics / length
    for onset in onsets:
        samples = np.arange(max(0, int(np.ceil(onset))), min(size, int(np.ceil(onset)) + length))
        since = samples - onset
        fade = np.sin(np.pi * np.clip(since / length, 0, 1)) ** 2
        wave = np.cos(since[:, None] * turns + phases) @ heights
        x[samples] += amplitude / np.sqrt(n_harmonics / 2) * fade * wave
    return x


def simulate(
    n_channels: int = 4,
    n_epochs: int = 40,
    length: int = 500,
    *,
    gap: int = 0,
    jitter: bool = True,
    pause: int = 700,
    seed: int = 0,
    dtype: Any = np.float32,
) -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
    """Dataset with triggers on whole samples, EEG (channel, time), real onsets [samples]."""
    rng = np.random.default_rng(seed)
    size = n_epochs * (length + gap) + 2 * pause
    due = pause + 0.37 + np.arange(n_epochs) * (length + gap) * (1 + 1e-5)
    onsets = due + (rng.uniform(-0.5, 0.5, n_epochs) if jitter else 0.0)
    triggers = np.rint(due)
    noise = rng.standard_normal((n_channels, size))
    eeg = 10 * noise + 5 * np.sin(2 * np.pi * 10.37 / RATE * np.arange(size))
    signal = np.stack([eeg[k] + artifact(onsets, length, size, seed=k) for k in range(n_channels)])
    ds = ps.make_dataset(
        signal.astype(dtype),
        sampling_frequency=RATE,
        units="uV",
        coords={"channel": [f"E{k}" for k in range(n_channels)]},
    )
    return with_triggers(ds, triggers / RATE), eeg, onsets


def correct(
    processor: AASCorrection,
    ds: xr.Dataset,
    channels: slice | None = None,
    output: slice | None = None,
    state: Any = None,
) -> np.ndarray:
    """What a run does with one block: read the source region, run the kernel, trim."""
    state = processor.prepare(ds) if state is None else state
    channels = channels or slice(0, ds.sizes["channel"])
    output = output or slice(0, ds.sizes["time"])
    wanted = {"channel": channels, "time": output}
    region = processor.source_region(wanted, ds)
    block = ds.signal.values[region["channel"], region["time"]].copy()
    result = processor.kernel(block, Context(region, wanted, ds, state))
    assert result.shape == block.shape
    start = region["time"].start
    return result[:, output.start - start : output.stop - start]


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    return min(float(np.corrcoef(x, y)[0, 1]) for x, y in zip(a, b, strict=True))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


# ---------------------------------------------------------------------- truth


def test_truth_is_recovered_and_finer_alignment_is_better() -> None:
    ds, eeg, onsets = simulate()
    errors = {}
    for alignment in ("none", "integer", "fractional"):
        processor = AASCorrection(window_size=30, alignment=alignment)
        clean = correct(processor, ds)
        errors[alignment] = rms(clean - eeg)
        if alignment == "fractional":
            # a template of 30 epochs holds a thirtieth of the EEG's power
            assert likeness(clean, eeg) > 0.98
            assert errors[alignment] < 1.1 * rms(eeg) / np.sqrt(30)
            state = processor.prepare(ds)
            found = state.starts + state.fractions - onsets
            assert rms(found - found.mean()) < 0.01
            assert abs(found.mean()) < 0.5
            offsets = onsets - ds.trigger_time.values * RATE
            assert state.offset_rms == pytest.approx(rms(offsets - np.median(offsets)), abs=0.01)
    assert errors["fractional"] < 0.2 * errors["integer"] < 0.2 * errors["none"]


def test_markers_off_by_whole_samples_are_put_right() -> None:
    ds, eeg, _ = simulate(jitter=False)
    rng = np.random.default_rng(1)
    moved = ds.trigger_time.values + rng.integers(-3, 4, ds.sizes["trigger"]) / RATE
    ds = with_triggers(ds, moved)
    errors = {}
    for alignment in ("none", "integer", "fractional"):
        processor = AASCorrection(
            alignment=alignment, search_window=0.008, artifact_length=0.5, window_size=20
        )
        errors[alignment] = rms(correct(processor, ds) - eeg)
    assert errors["integer"] < 0.1 * errors["none"]
    assert errors["fractional"] < 1.1 * rms(eeg) / np.sqrt(20)


def test_slices_with_gaps_between_volumes_leave_the_gaps_alone() -> None:
    size, n_slices, n_volumes, length, gap = 60_000, 20, 25, 100, 130
    starts = 1000 + np.arange(n_volumes)[:, None] * (n_slices * length + gap)
    triggers = (starts + np.arange(n_slices) * length).reshape(-1)
    rng = np.random.default_rng(0)
    eeg = 10 * rng.standard_normal((1, size))
    onsets = triggers + rng.uniform(-0.4, 0.4, len(triggers))
    signal = (eeg + artifact(onsets, length, size)).astype(np.float32)
    ds = with_triggers(ps.make_dataset(signal, sampling_frequency=RATE), triggers / RATE)
    assert ds.trigger_time.attrs["slices_per_volume"] == n_slices
    clean = correct(AASCorrection(), ds)
    inside = np.zeros(size, dtype=bool)
    for trigger in triggers:
        inside[trigger - 2 : trigger + length + 2] = True
    np.testing.assert_array_equal(clean[:, ~inside], signal[:, ~inside])
    assert likeness(clean[:, inside], eeg[:, inside]) > 0.97


def test_thousands_of_slices_stay_within_the_declared_memory() -> None:
    n_epochs, length = 5000, 60
    rng = np.random.default_rng(0)
    size = (n_epochs + 2) * length
    wave = np.diff(np.hanning(length + 1)) * 10_000
    eeg = 10 * rng.standard_normal(size)
    signal = eeg.copy()
    signal[length:-length] += np.tile(wave, n_epochs)
    ds = ps.make_dataset(signal[None].astype(np.float32), sampling_frequency=RATE)
    ds = with_triggers(ds, (1 + np.arange(n_epochs)) * length / RATE)
    processor = AASCorrection()
    state = processor.prepare(ds)
    block = ds.signal.values.copy()
    region = {"channel": slice(0, 1), "time": slice(0, size)}
    context = Context(region, region, ds, state)
    trim_scratch(0)
    tracemalloc.start()
    try:
        processor.kernel(block, context)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < processor.row_scratch * block[:1].nbytes + processor.scratch_bytes
    assert peak < 8 * n_epochs**2 / 20
    assert rms(block[0] - eeg) < 0.3 * rms(eeg)
    assert len(pickle.dumps(state)) < 40 * n_epochs


@pytest.mark.parametrize("window_size", [2, 30, 400])
@pytest.mark.parametrize("template", ["sliding", "block"])
def test_memory_of_long_epochs_is_as_declared(window_size: int, template: Any) -> None:
    n_epochs, length = 64, 10_000
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((1, n_epochs * length), np.float32)
    signal += 100 * np.tile(np.sin(np.arange(length) ** 1.1), n_epochs).astype(np.float32)
    ds = ps.make_dataset(signal, sampling_frequency=RATE)
    ds = with_triggers(ds, np.arange(n_epochs) * length / RATE)
    processor = AASCorrection(window_size=window_size, template=template)
    state = processor.prepare(ds)
    block = ds.signal.values.copy()
    region = {"channel": slice(0, 1), "time": slice(0, block.shape[1])}
    trim_scratch(0)
    tracemalloc.start()
    try:
        processor.kernel(block, Context(region, region, ds, state))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < processor.row_scratch * block[:1].nbytes + processor.scratch_bytes


def test_upsampled_recordings_are_corrected_alike() -> None:
    length, n_epochs, rate = 20_000, 12, 50_000.0
    size = (n_epochs + 1) * length
    rng = np.random.default_rng(0)
    due = length / 2 + np.arange(n_epochs) * length
    onsets = due + rng.uniform(-8, 8, n_epochs)
    time = np.arange(length) / rate
    signal = np.zeros(size)
    for onset in onsets:
        start = int(np.ceil(onset))
        t = time + (start - onset) / rate
        signal[start : start + length] += 1000 * np.sin(2 * np.pi * 800 * t) * np.hanning(length)
    # noise of 500 Hz and less
    eeg = np.repeat(10 * rng.standard_normal(size // 100), 100)
    ds = ps.make_dataset((signal + eeg)[None].astype("f4"), sampling_frequency=rate)
    ds = with_triggers(ds, due / rate)
    clean = correct(AASCorrection(), ds)
    assert rms(clean[0] - eeg) < 1.1 * rms(eeg) / np.sqrt(n_epochs)
    assert AASCorrection().prepare(ds).offset_rms > 3


# ---------------------------------------------------------------------- definitions


def naive(row: np.ndarray, starts: np.ndarray, length: int, processor: AASCorrection) -> np.ndarray:
    """Sliding and block templates as the docstring defines them, epoch by epoch."""
    row = row.astype(np.float64)
    epochs = np.stack([row[s : s + length] for s in starts])
    epochs -= epochs.mean(axis=1, keepdims=True)
    n_epochs = len(epochs)
    width = min(processor.window_size, n_epochs)
    shift = int(width * processor.relative_window_position)
    ends = np.maximum(np.append(starts[1:], 0), starts + length)
    levels = [
        row[s : s + length].mean() - row[s:e].mean() for s, e in zip(starts, ends, strict=True)
    ]
    result = row.copy()
    for i, start in enumerate(starts):
        first = i - width // 2 if processor.template == "sliding" else i - i % width
        first = min(max(first + shift, 0), n_epochs - width)
        window = list(range(first, first + width))
        if processor.template == "sliding":
            mean = epochs[window].mean(axis=0)
            r = [np.corrcoef(epochs[j], mean)[0, 1] for j in window]
            chosen = [
                j for j, x in zip(window, r, strict=True) if x > processor.correlation_threshold
            ]
            if len(chosen) < min(5, width):
                chosen = [window[k] for k in np.argsort(r)[::-1][:5]]
        else:
            chosen = window[:5]
            for j in window[5:]:
                mean = epochs[chosen].mean(axis=0)
                if np.corrcoef(epochs[j], mean)[0, 1] > processor.correlation_threshold:
                    chosen.append(j)
        stop = min(start + length, starts[i + 1] if i + 1 < n_epochs else len(row))
        template = epochs[chosen].mean(axis=0) + np.mean([levels[j] for j in chosen])
        result[start:stop] -= template[: stop - start]
    return result


@settings(max_examples=60, deadline=None)
@given(
    n_epochs=st.integers(3, 70),
    window_size=st.integers(2, 40),
    threshold=st.sampled_from([-1.0, 0.5, 0.9, 0.975, 0.999]),
    template=st.sampled_from(["sliding", "block"]),
    position=st.sampled_from([0.0, 0.5, -0.7, 1.0]),
    gap=st.integers(-5, 60),
    seed=st.integers(0, 5),
)
def test_selection_is_the_naive_one(
    n_epochs: int,
    window_size: int,
    threshold: float,
    template: Any,
    position: float,
    gap: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    length = 40
    starts = 50 + np.arange(n_epochs) * (length + gap)
    signal = rng.standard_normal(starts[-1] + length + 30) + 3
    for k, start in enumerate(starts):
        size = rng.choice([0.5, 2.0, 10.0]) * (-1 if k % 11 == 3 else 1)
        signal[start : start + length] += size * np.sin(np.arange(length))
    ds = ps.make_dataset(signal[None], sampling_frequency=RATE)
    ds = with_triggers(ds, starts / RATE)
    processor = AASCorrection(
        window_size=window_size,
        correlation_threshold=threshold,
        template=template,
        alignment="none",
        relative_window_position=position,
        artifact_length=length / RATE,
    )
    expected = naive(signal, starts, length, processor)
    np.testing.assert_allclose(correct(processor, ds)[0], expected, rtol=1e-9, atol=1e-9)


def test_fractional_templates_are_means_of_shifted_epochs() -> None:
    """Against interpolation in time: the epochs fade out, so a shift needs no context."""
    ds, _, _ = simulate(1, n_epochs=20, gap=100, dtype=np.float64)
    processor = AASCorrection(window_size=20, correlation_threshold=-1.0, artifact_length=0.5)
    state = processor.prepare(ds)
    row = ds.signal.values[0]
    at = [slice(s - 40, s + 540) for s in state.starts]
    moved = shift_epochs(np.stack([row[a] for a in at]), -state.fractions)
    expected = shift_epochs(np.repeat(moved.mean(axis=0)[None], 20, axis=0), state.fractions)
    clean = correct(processor, ds)[0]
    for k, a in enumerate(at):
        inner = slice(60, 520)
        difference = (row[a] - clean[a])[inner] - expected[k][inner]
        assert rms(difference - difference.mean()) < 0.5


def test_offsets_reach_the_maximum_of_the_cross_correlation() -> None:
    rng = np.random.default_rng(0)
    late = rng.uniform(-2.5, 2.5, 30)
    late -= np.median(late)
    starts = 200 + 400 * np.arange(30)
    x = artifact(starts + late + 50, 300, 12_500) + 20 * rng.standard_normal(12_500)
    found, weights = estimate_offsets(lambda a, b: x[a:b], len(x), starts, 400, search=4)
    assert rms(found - late) < 0.01
    assert (weights > 0).all()
    whole, _ = estimate_offsets(lambda a, b: x[a:b], len(x), starts, 400, 4, fractional=False)
    assert np.abs(whole - late).max() < 1.0
    assert (whole == np.rint(whole)).all()


def test_one_channel_that_is_wrong_does_not_move_the_others() -> None:
    offsets = np.array([[0.1, 0.0], [0.2, 0.0], [5.0, 0.0], [0.3, 0.0]])
    weights = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(combine_offsets(offsets, weights), [0.225, 0.0])


# ---------------------------------------------------------------------- blocks


@pytest.mark.parametrize("alignment", ["none", "integer", "fractional"])
@pytest.mark.parametrize("template", ["sliding", "block"])
@pytest.mark.parametrize("gap", [0, 37])
def test_time_cuts_do_not_matter(alignment: Any, template: Any, gap: int) -> None:
    ds, _, _ = simulate(2, n_epochs=60, length=100, gap=gap)
    processor = AASCorrection(window_size=9, alignment=alignment, template=template)
    state = processor.prepare(ds)
    whole = correct(processor, ds, state=state)
    size = ds.sizes["time"]
    margin = processor.margin(ds)
    assert margin is not None
    assert margin < size / 3
    borders = [0, 700, 701, 1503, 2900, 2901, 4000, size]
    for start, stop in itertools.pairwise(borders):
        part = correct(processor, ds, output=slice(start, stop), state=state)
        np.testing.assert_allclose(part, whole[:, start:stop], rtol=0, atol=1e-6 * 1000)


@settings(max_examples=25, deadline=None)
@given(
    window_size=st.integers(2, 20),
    position=st.sampled_from([0.0, 0.6, -1.0]),
    template=st.sampled_from(["sliding", "block"]),
    cut=st.integers(1, 1000),
    width=st.integers(1, 600),
    length=st.integers(12, 50),
)
def test_any_stretch_is_the_same_stretch_of_the_whole(
    window_size: int, position: float, template: Any, cut: int, width: int, length: int
) -> None:
    ds, _, _ = simulate(1, n_epochs=30, length=length, gap=3, pause=5)
    processor = AASCorrection(
        window_size=window_size, template=template, relative_window_position=position
    )
    state = processor.prepare(ds)
    size = ds.sizes["time"]
    start = cut % size
    stop = min(size, start + width)
    whole = correct(processor, ds, state=state)
    part = correct(processor, ds, output=slice(start, stop), state=state)
    np.testing.assert_allclose(part, whole[:, start:stop], rtol=0, atol=1e-6 * 2000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alignment", ["none", "integer", "fractional"])
@pytest.mark.parametrize("template", ["sliding", "block"])
def test_keeps_the_contract(dtype: Any, alignment: Any, template: Any) -> None:
    ds, _, _ = simulate(3, n_epochs=40, length=100, gap=7, dtype=dtype)
    processor = AASCorrection(window_size=8, alignment=alignment, template=template)
    # single precision is that of the artifact, which is larger than what is left
    check_processor(processor, ds, tolerance=2e-5 if dtype is np.float32 else 1e-12)


def test_channel_blocks_are_identical_bit_for_bit() -> None:
    ds, _, _ = simulate(5)
    processor = AASCorrection(window_size=12)
    state = pickle.loads(pickle.dumps(processor.prepare(ds)))
    whole = correct(processor, ds, state=state)
    for block in (slice(0, 1), slice(1, 4), slice(4, 5)):
        np.testing.assert_array_equal(correct(processor, ds, block, state=state), whole[block])
    picked = {"channel": np.array([0, 3]), "time": slice(0, ds.sizes["time"])}
    result = processor.kernel(ds.signal.values[[0, 3]], Context(picked, picked, ds, state))
    np.testing.assert_array_equal(result, whole[[0, 3]])


@pytest.mark.parametrize("chunks", [(1, -1), (2, 3000), (5, 777)])
def test_upstream_chunks_do_not_change_the_alignment(chunks: tuple[int, int]) -> None:
    ds, _, _ = simulate(5)
    lazy = ds.assign(signal=(ds.signal.dims, da.from_array(ds.signal.values, chunks)))
    expected, state = AASCorrection().prepare(ds), AASCorrection().prepare(lazy)
    np.testing.assert_array_equal(state.starts, expected.starts)
    np.testing.assert_array_equal(state.fractions, expected.fractions)


def test_only_reference_channels_are_computed_and_once_each() -> None:
    ds, _, _ = simulate(6)
    computed: list[int] = []

    def block(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        computed.append(block_info[0]["chunk-location"][0])
        return values

    lazy = da.from_array(ds.signal.values, (1, -1)).map_blocks(
        block, dtype="f4", meta=np.zeros((0, 0), "f4")
    )
    lazy_ds = ds.assign(signal=(ds.signal.dims, lazy))
    bad = ("channel", [True, False, False, False, False, False])
    lazy_ds = lazy_ds.assign_coords(bad=bad)
    processor = AASCorrection(reference_channels=3)
    processor.outline(lazy_ds, None)
    processor.margin(lazy_ds)
    assert computed == []
    state = processor.prepare(lazy_ds)
    assert len(computed) == len(set(computed)) == 3
    assert 0 not in computed
    assert state.references == tuple(f"E{k}" for k in computed)


# ---------------------------------------------------------------------- channels and borders


def test_electrodes_are_corrected_and_other_channels_are_not() -> None:
    ds, eeg, _ = simulate(5)
    types = ["eeg", "eog", "ecg", "stim", "resp"]
    ds = ds.assign_coords(
        channel_type=("channel", types), bad=("channel", [False, False, True, False, False])
    )
    clean = correct(AASCorrection(), ds)
    np.testing.assert_array_equal(clean[3:], ds.signal.values[3:])
    assert likeness(clean[:3], eeg[:3]) > 0.97
    assert AASCorrection().prepare(ds).references == ("E0",)
    some = correct(AASCorrection(picks=("E1", "resp"), reference_channels=("E4",)), ds)
    np.testing.assert_array_equal(some[[0, 2, 3]], ds.signal.values[[0, 2, 3]])
    assert likeness(some[[1, 4]], eeg[[1, 4]]) > 0.97


def test_the_signal_outside_the_acquisition_is_untouched() -> None:
    ds, _, _ = simulate()
    clean = correct(AASCorrection(), ds)
    np.testing.assert_array_equal(clean[:, :699], ds.signal.values[:, :699])
    np.testing.assert_array_equal(clean[:, -698:], ds.signal.values[:, -698:])


def test_epochs_cut_off_by_the_recording_are_corrected_where_they_exist() -> None:
    full, eeg, _ = simulate()
    # 300 of the first epoch's 500 samples are left, and 350 of the last one's
    low, high = 900, 700 + 39 * 500 + 350
    cut = full.isel(time=slice(low, high))
    clean = correct(AASCorrection(), cut)
    error = clean - eeg[:, low:high]
    assert rms(error[:, :290]) < 0.4 * rms(eeg)
    assert rms(error[:, -340:]) < 0.4 * rms(eeg)
    assert AASCorrection().prepare(cut).complete == (1, 39)
    # less than half is left of both: they stay as they are, and nothing wraps around
    low, high = 1000, 700 + 39 * 500 + 200
    cut = full.isel(time=slice(low, high))
    clean = correct(AASCorrection(), cut)
    np.testing.assert_array_equal(clean[:, :195], cut.signal.values[:, :195])
    np.testing.assert_array_equal(clean[:, -195:], cut.signal.values[:, -195:])


def test_drift_and_offsets_stay() -> None:
    ds, eeg, _ = simulate(2)
    drift = np.array([[30_000.0], [-5000.0]]) + np.linspace(0, 2000, ds.sizes["time"])
    ds = ds.assign(signal=ds.signal + drift.astype(np.float32))
    clean = correct(AASCorrection(), ds)
    half = clean[:, 2000:-2000] - (eeg + drift)[:, 2000:-2000]
    assert np.abs(half.mean(axis=1)).max() < 5


def test_a_flat_channel_stays_flat_and_does_not_spoil_the_alignment() -> None:
    ds, eeg, _ = simulate(4)
    signal = ds.signal.values.copy()
    signal[1] = 12.0
    ds = ds.assign(signal=(ds.signal.dims, signal))
    clean = correct(AASCorrection(), ds)
    np.testing.assert_array_equal(clean[1], signal[1])
    assert likeness(clean[[0, 2, 3]], eeg[[0, 2, 3]]) > 0.97
    only = AASCorrection(reference_channels=("E1",))
    assert np.isfinite(correct(only, ds)).all()
    assert only.prepare(ds).offset_rms == 0


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_other_types(dtype: Any) -> None:
    ds, _, _ = simulate(2, dtype=dtype)
    expected = correct(AASCorrection(), ds.assign(signal=ds.signal.astype(np.float32)))
    outline = AASCorrection().outline(ds, None)
    result = correct(AASCorrection(), ds)
    assert result.dtype == outline.signal.dtype
    assert result.dtype == (np.float64 if dtype is np.float64 else np.float32)
    np.testing.assert_allclose(result, expected, atol=0.05)


def test_real_scanner_timing() -> None:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no real markers")
    path = Path(os.environ["PENSTOCK_DATA"]) / "eeg/eegfmri_markers/sub-36_raw.vmrk"
    positions = np.array([int(p) - 1 for p in re.findall(r"Sync On,(\d+)", path.read_text())])
    assert len(positions) == 363
    # the first minute; Vision Recorder counts samples of 5 kHz
    positions = positions[positions < 300_000]
    size = int(positions[-1]) + 10_000
    rng = np.random.default_rng(0)
    eeg = 20 * rng.standard_normal((2, size))
    wave = [artifact(np.zeros(1), 10_000, 10_000, seed=k, amplitude=4000) for k in range(2)]
    signal = eeg.copy()
    for position in positions:
        signal[:, position : position + 10_000] += wave
    ds = ps.make_dataset(signal.astype(np.float32), sampling_frequency=5000.0)
    ds = with_triggers(ds, positions / 5000)
    state = AASCorrection().prepare(ds)
    # amplifier and scanner were synchronised: there is nothing to align
    assert state.offset_rms < 0.005
    clean = correct(AASCorrection(), ds, state=state)
    np.testing.assert_array_equal(clean[:, : positions[0]], signal.astype("f4")[:, : positions[0]])
    assert likeness(clean, eeg) > 0.97


def test_simulated_scanner() -> None:
    from penstock.eeg import simulate as simulation
    from penstock.eeg.scanner_artifact.triggers import TriggerDetector

    ds = simulation.recording(4, duration=80.0, fmri=True, shape_drift=0.0)
    ds = TriggerDetector("^1$").outline(ds, None)
    state = AASCorrection().prepare(ds)
    error = state.starts + state.fractions - ds.volume_onset.values * ps.sampling_frequency(ds)
    assert rms(error - error.mean()) < 0.01
    clean = correct(AASCorrection(), ds, state=state)
    assert likeness(clean[:4], ds.truth.values[:4]) > 0.97


# ---------------------------------------------------------------------- errors


def test_errors_say_what_to_do() -> None:
    ds, _, _ = simulate(3, n_epochs=8)
    with pytest.raises(ValueError, match=r"no triggers yet: put TriggerDetector"):
        AASCorrection().prepare(ds.drop_dims("trigger"))
    assert AASCorrection().margin(ds.drop_dims("trigger")) is None
    few = with_triggers(ds, ds.trigger_time.values[:2])
    with pytest.raises(ValueError, match=r"2 triggers are too few"):
        AASCorrection().prepare(few)
    assert AASCorrection().margin(few) is None
    with pytest.raises(ValueError, match=r"0 whole epochs of 9000 samples"):
        AASCorrection(artifact_length=9.0).prepare(ds)
    with pytest.raises(ValueError, match=r"no channel to align on"):
        AASCorrection().prepare(ds.assign_coords(bad=("channel", [True] * 3)))
    with pytest.raises(ValueError, match=r"no channel 'Fz'"):
        AASCorrection(picks="Fz").prepare(ds)
    with pytest.raises(ValueError, match=r"reference_channels: .* no channel 'Fz'"):
        AASCorrection(reference_channels=("Fz",)).prepare(ds)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("alignment", ["none", "fractional"])
def test_a_sample_that_is_not_finite_is_named(value: float, alignment: Any) -> None:
    ds, _, _ = simulate(3)
    processor = AASCorrection(alignment=alignment, reference_channels=("E0",))
    signal = ds.signal.values.copy()
    signal[1, 3210] = value
    broken = ds.assign(signal=(ds.signal.dims, signal))
    with pytest.raises(ValueError, match=r"'E1' has a non-finite sample .* at 3\.21 s"):
        correct(processor, broken)
    if alignment != "none":
        with pytest.raises(ValueError, match=r"'E1' has a non-finite sample .* at 3\.21 s"):
            AASCorrection(reference_channels=("E1",)).prepare(broken)


@pytest.mark.parametrize(
    "parameters",
    [
        {"window_size": 1},
        {"correlation_threshold": 1.0},
        {"search_window": -0.1},
        {"artifact_length": 0.0},
        {"reference_channels": 0},
        {"reference_channels": ()},
    ],
)
def test_parameters_that_mean_nothing_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        AASCorrection(**parameters)
