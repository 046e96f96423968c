"""Pauses and joins: filters, resampling and scaling treat what lies between them apart."""

import os
import warnings
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.eeg.filtering.filters import Filter, HighPassFilter, LowPassFilter, NotchFilter
from penstock.eeg.filtering.resampling import Resample
from penstock.eeg.scaling import Scale
from penstock.eeg.stretches import stretches
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.testing import check_processor

mne.set_log_level("ERROR")

RATE = 200.0
TYPES = ["eeg", "eeg", "stim", "eog"]


def dataset(events, n_times=4000, dtype="f8", **attributes):
    """Stretches that stand at other levels, so that a filter across a join leaves its mark."""
    rng = np.random.default_rng(n_times)
    values = rng.standard_normal((4, n_times))
    table = pd.DataFrame(events, columns=["onset", "duration", "label"])
    for number, onset in enumerate(sorted(table.onset)):
        values[:, max(0, round(onset * RATE)) :] += 100 * (-1) ** number
    coords = {"channel": list("abcd"), "channel_type": ("channel", TYPES)}
    return ps.make_dataset(
        values.astype(dtype), sampling_frequency=RATE, coords=coords, events=table, **attributes
    )


def raw_of(ds):
    raw = mne.io.RawArray(
        ds.signal.values.astype("f8"),
        mne.create_info(ds.channel.values.tolist(), RATE, TYPES),
    )
    events = ps.events_table(ds)
    return raw.set_annotations(
        mne.Annotations(events.onset, events.duration, events.label.tolist())
    )


def result(processor, ds, **region):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than the .*")
        chain = prepared(Chain(ds), [processor], 1 << 40)
        return chain.compute(chain.whole() | region)


JOINED = [(4.0, 0.0, "EDGE boundary"), (9.0, 3.0, "BAD_ACQ_SKIP"), (15.0025, 0.0, "Bad_acq_skip")]
OTHERS = [(2.0, 1.0, "BAD blink"), (6.0, 0.0, "stimulus"), (7.0, 0.0, "no edge")]

FILTERS = [
    (Filter(2.0, 40.0), lambda raw: raw.filter(2.0, 40.0)),
    (HighPassFilter(1.0), lambda raw: raw.filter(1.0, None)),
    (LowPassFilter(30.0, phase="minimum"), lambda raw: raw.filter(None, 30.0, phase="minimum")),
    (HighPassFilter(1.0, method="iir"), lambda raw: raw.filter(1.0, None, method="iir")),
    (
        LowPassFilter(30.0, method="iir", phase="forward"),
        lambda raw: raw.filter(None, 30.0, method="iir", phase="forward"),
    ),
    (NotchFilter(50.0), lambda raw: raw.notch_filter(50.0)),
    (
        HighPassFilter(1.0, skip_by_annotation=()),
        lambda raw: raw.filter(1.0, None, skip_by_annotation=()),
    ),
    (
        HighPassFilter(1.0, skip_by_annotation="bad"),
        lambda raw: raw.filter(1.0, None, skip_by_annotation="bad"),
    ),
]


@pytest.mark.parametrize(("processor", "apply"), FILTERS, ids=lambda v: repr(v)[:70])
def test_filters_treat_stretches_apart_as_mne_does(processor, apply):
    ds = dataset(JOINED + OTHERS)
    expected = apply(raw_of(ds)).get_data()
    assert np.abs(result(processor, ds) - expected).max() < 1e-12 * np.abs(expected).max()
    single = result(processor, ds.assign(signal=ds.signal.astype("f4")))
    assert np.abs(single - expected).max() < 2e-6 * np.abs(expected).max()


event = st.tuples(
    st.floats(-1.0, 21.0),
    st.sampled_from([0.0, 0.0, 0.004, 1.5, 7.0]),
    st.sampled_from(["EDGE boundary", "BAD_ACQ_SKIP", "edge", "other"]),
)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(event, max_size=6),
    method=st.sampled_from(["fir", "iir"]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_events_and_any_cut(events, method, cut):
    events = [(max(0.0, onset), length, label) for onset, length, label in events]
    ds = dataset(events)
    processor = LowPassFilter(20.0, method=method)
    whole = result(processor, ds)
    limit = 1e-12 * np.abs(ds.signal.values).max()
    try:
        expected = raw_of(ds).filter(None, 20.0, method=method).get_data()
    except ZeroDivisionError:  # (MNE's recursive filter stops at a join at either end)
        expected = whole
    assert np.abs(whole - expected).max() <= limit
    start, stop = sorted(min(int(c * 4000), 3999) for c in cut)
    part = result(processor, ds, time=slice(start, stop + 1))
    assert np.abs(part - whole[:, start : stop + 1]).max() <= limit


@pytest.mark.parametrize(
    "processor",
    [
        HighPassFilter(1.0),
        LowPassFilter(30.0, method="iir"),
        Resample(100.0),
        Resample(130.0),
        Resample(99.37),
        Resample(99.9, "fft"),
        Scale(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.filterwarnings("ignore:.*longer than the|.*trigger codes")
def test_contract_with_joins(processor, dtype):
    check_processor(processor, dataset(JOINED, dtype=dtype))


def parts_of(ds):
    """The stretches as recordings of their own."""
    return [
        (part, ds.isel(time=slice(part.start, part.stop)).drop_dims("event"))
        for part in stretches(ds)
    ]


@pytest.mark.parametrize("new", [100.0, 400.0, 50.0])
@pytest.mark.parametrize("method", ["polyphase", "fft"])
def test_resampling_treats_stretches_apart(new, method):
    ds = dataset([(4.0, 0.0, "EDGE boundary"), (9.0, 3.0, "BAD_ACQ_SKIP")])
    found = result(Resample(new, method), ds)
    for part, alone in parts_of(ds):
        low, high = round(part.start * new / RATE), round(part.stop * new / RATE)
        expected = result(Resample(new, method), alone)
        difference = np.abs(found[:, low:high] - expected)[[0, 1, 3]].max()
        assert difference < 1e-10 * np.abs(expected).max()
    across = result(Resample(new, method, skip_by_annotation=()), ds)
    assert np.abs(across - found).max() > 1.0


@pytest.mark.parametrize("new", [130.0, 77.0, 333.0, 99.37])
def test_a_join_between_samples_stays_a_join(new):
    """A high-pass after resampling sees the join at the sample where the level changes."""
    ds = dataset([(4.0, 0.0, "EDGE boundary"), (9.0025, 0.0, "EDGE boundary")])
    ds = ds.assign(signal=(ds.signal > 50) * 100.0)
    levels = result(Resample(new), ds)[0]
    after = Chain(ds).then(Resample(new)).output
    for part in stretches(after):
        inside = levels[part.start : part.stop]
        assert np.ptp(inside) < 1e-4


def test_scaling_treats_stretches_apart():
    ds = dataset(JOINED)
    found = result(Scale(), ds)
    for part, alone in parts_of(ds):
        expected = result(Scale(), alone)
        assert np.abs(found[:, part.start : part.stop] - expected)[:2].max() < 1e-12 * 1000
    x = ds.signal.values
    whole = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    assert np.abs(result(Scale(skip_by_annotation=()), ds) - whole)[:2].max() < 1e-10


def test_joins_of_readers_count(tmp_path):
    """A file that MNE-Python joined, read back."""
    parts = [
        mne.io.RawArray(
            np.random.default_rng(i).standard_normal((2, 2000)) * 1e-5 + i * 5e-4,
            mne.create_info(2, RATE, "eeg"),
        )
        for i in range(3)
    ]
    path = tmp_path / "joined_raw.fif"
    mne.concatenate_raws(parts).save(path)
    ds = ps.open_dataset(path, dtype="float64")
    expected = mne.io.read_raw(path).load_data().filter(1.0, None).get_data() * 1e6
    found = ps.Pipeline([HighPassFilter(1.0)])(ds, block_bytes=1 << 16)
    assert found.signal.data.npartitions > 1
    assert np.abs(found.signal.values - expected).max() < 1e-6 * np.abs(expected).max()


def test_same_as_mne_on_a_real_recording_with_a_pause():
    data = os.environ.get("PENSTOCK_DATA")
    if not data:
        pytest.skip("PENSTOCK_DATA is not set: it names the folder with the real recordings")
    path = next(Path(data).rglob("S001R03.edf"))
    raw = mne.io.read_raw_edf(path, preload=True).crop(0, 60).pick([0, 20, 40])
    onsets, durations = np.array([20.0, 40.0]), np.array([5.0, 0.0])
    labels = ["BAD_ACQ_SKIP", "EDGE boundary"]
    origin = raw.annotations.orig_time
    raw.set_annotations(mne.Annotations(onsets, durations, labels, orig_time=origin))
    ds = ps.make_dataset(
        raw.get_data(),
        sampling_frequency=raw.info["sfreq"],
        events=pd.DataFrame({"onset": onsets, "duration": durations, "label": labels}),
    )
    for processor, apply in FILTERS[:6]:
        if isinstance(processor, NotchFilter):
            continue
        expected = apply(raw.copy()).get_data()
        found = result(processor, ds)
        assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


def test_labels_that_part_must_not_be_empty():
    with pytest.raises(ValueError, match=r"empty label, .*: give \(\)"):
        HighPassFilter(1.0, skip_by_annotation="")
    assert len(stretches(dataset(JOINED), ())) == 1
