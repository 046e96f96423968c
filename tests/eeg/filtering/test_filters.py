"""Filters: MNE's results on real and made-up recordings, any cut, and clear errors."""

import os
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.eeg.filtering.filters import (
    BandPassFilter,
    Filter,
    HighPassFilter,
    LowPassFilter,
    NotchFilter,
)
from penstock.eeg.filtering.fir import MAX_FFT, design_fir, fft_length, overlap_save
from penstock.eeg.filtering.overlap import Place, windows_together
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.testing import check_processor

mne.set_log_level("ERROR")


def dataset(n_channels=4, n_times=3000, sampling_frequency=250.0, dtype="f8", **coords):
    rng = np.random.default_rng(n_channels * n_times)
    walk = np.cumsum(rng.standard_normal((n_channels, n_times)), axis=1)
    names = {"channel": [f"C{i}" for i in range(n_channels)]}
    coords = {name: ("channel", list(values)) for name, values in coords.items()}
    return ps.make_dataset(
        walk.astype(dtype), sampling_frequency=sampling_frequency, coords=names | coords
    )


def result(processor, ds, **region):
    chain = prepared(Chain(ds), [processor], 1 << 40)
    return chain.compute(chain.whole() | region)


def deviation(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


MNE_EQUIVALENTS = [
    (Filter(1.0, 40.0), {"l_freq": 1.0, "h_freq": 40.0}),
    (HighPassFilter(0.3), {"l_freq": 0.3, "h_freq": None}),
    (LowPassFilter(30.0), {"l_freq": None, "h_freq": 30.0}),
    (BandPassFilter(0.5, 20.0), {"l_freq": 0.5, "h_freq": 20.0}),
    (Filter(70.0, 30.0), {"l_freq": 70.0, "h_freq": 30.0}),
    (
        Filter(4.0, 30.0, filter_length="4s", l_trans_bandwidth=2.0, fir_window="blackman"),
        {
            "l_freq": 4.0,
            "h_freq": 30.0,
            "filter_length": "4s",
            "l_trans_bandwidth": 2.0,
            "fir_window": "blackman",
        },
    ),
    (
        LowPassFilter(30.0, phase="minimum"),
        {"l_freq": None, "h_freq": 30.0, "phase": "minimum"},
    ),
    (
        Filter(2.0, 40.0, phase="zero-double"),
        {"l_freq": 2.0, "h_freq": 40.0, "phase": "zero-double"},
    ),
    (Filter(1.0, 40.0, method="iir"), {"l_freq": 1.0, "h_freq": 40.0, "method": "iir"}),
    (LowPassFilter(30.0, method="iir"), {"l_freq": None, "h_freq": 30.0, "method": "iir"}),
    (Filter(60.0, 40.0, method="iir"), {"l_freq": 60.0, "h_freq": 40.0, "method": "iir"}),
    (
        HighPassFilter(1.0, method="iir", phase="forward"),
        {"l_freq": 1.0, "h_freq": None, "method": "iir", "phase": "forward"},
    ),
    (
        LowPassFilter(30.0, method="iir", iir_order=2),
        {
            "l_freq": None,
            "h_freq": 30.0,
            "method": "iir",
            "iir_params": {"order": 2, "ftype": "butter", "output": "sos"},
        },
    ),
]


@pytest.mark.parametrize(("processor", "options"), MNE_EQUIVALENTS, ids=lambda p: repr(p)[:60])
def test_same_as_mne(processor, options):
    ds = dataset()
    expected = mne.filter.filter_data(ds.signal.values, 250.0, **options)
    assert deviation(result(processor, ds), expected) < 1e-12
    single = ds.assign(signal=ds.signal.astype("f4"))
    found = result(processor, single)
    assert found.dtype == np.float32
    assert deviation(found, expected) < 2e-6


@pytest.mark.parametrize(
    ("processor", "options"),
    [
        (NotchFilter(50.0), {"freqs": [50.0]}),
        (NotchFilter((50.0, 100.0)), {"freqs": [50.0, 100.0]}),
        (
            NotchFilter((30.0, 60.0), notch_widths=(2.0, 4.0), trans_bandwidth=2.0),
            {"freqs": [30.0, 60.0], "notch_widths": np.array([2.0, 4.0]), "trans_bandwidth": 2.0},
        ),
        (NotchFilter(50.0, method="iir"), {"freqs": [50.0], "method": "iir"}),
    ],
    ids=repr,
)
def test_notch_same_as_mne(processor, options):
    ds = dataset()
    options = options | {"freqs": np.array(options["freqs"])}
    expected = mne.filter.notch_filter(ds.signal.values, 250.0, **options)
    assert deviation(result(processor, ds), expected) < 1e-12


def test_frequencies_are_given_as_an_array(tmp_path):
    notches = NotchFilter(np.arange(50, 251, 50), notch_widths=np.full(5, 2.0))
    assert notches == NotchFilter((50.0, 100.0, 150.0, 200.0, 250.0), notch_widths=(2.0,) * 5)
    assert notches.parameters()["freqs"] == [50.0, 100.0, 150.0, 200.0, 250.0]
    pipeline = ps.Pipeline([notches])
    pipeline.to_yaml(tmp_path / "notches.yaml")
    assert ps.Pipeline.from_yaml(tmp_path / "notches.yaml") == pipeline
    with pytest.raises(TypeError, match=r"freqs=.*must be a number or a list of a number"):
        NotchFilter(np.array(["a"]))


@pytest.fixture(scope="module")
def recording():
    data = os.environ.get("PENSTOCK_DATA")
    if not data:
        pytest.skip("PENSTOCK_DATA is not set: it names the folder with the real recordings")
    path = next(Path(data).rglob("S001R03.edf"))
    return mne.io.read_raw_edf(path, preload=True).crop(0, 60)


@pytest.mark.parametrize(
    ("processor", "apply"),
    [
        (Filter(1.0, 40.0), lambda raw: raw.filter(1.0, 40.0)),
        (HighPassFilter(0.1), lambda raw: raw.filter(0.1, None)),
        (NotchFilter(60.0), lambda raw: raw.notch_filter(60.0)),
        (BandPassFilter(8.0, 13.0, method="iir"), lambda raw: raw.filter(8, 13, method="iir")),
    ],
    ids=lambda value: repr(value) if isinstance(value, ps.Processor) else "",
)
def test_same_as_mne_on_a_real_recording(recording, processor, apply):
    raw = recording.copy()
    raw.set_channel_types({raw.ch_names[0]: "eog", raw.ch_names[1]: "stim"})
    ds = ps.make_dataset(
        raw.get_data(),
        sampling_frequency=raw.info["sfreq"],
        coords={
            "channel": raw.ch_names,
            "channel_type": ("channel", raw.get_channel_types()),
        },
    )
    expected = apply(raw.copy()).get_data()
    assert deviation(result(processor, ds), expected) < 1e-9
    scale = np.abs(expected).max(axis=1, keepdims=True) + 1e-30
    found = result(processor, ds.assign(signal=ds.signal.astype("f4")))
    assert (np.abs(found - expected) / scale).max() < 1e-5


@pytest.mark.parametrize("n_times", [1, 2, 7, 60, 331])
def test_recordings_shorter_than_the_filter_warn_and_give_what_mne_gives(n_times):
    ds = dataset(n_times=n_times)
    with pytest.warns(UserWarning, match="longer than the recording"):
        found = result(HighPassFilter(1.0), ds)
    expected = mne.filter.filter_data(ds.signal.values, 250.0, 1.0, None)
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(ds.signal.values).max()


def test_very_long_filters_are_evaluated_in_parts():
    rng = np.random.default_rng(0)
    taps = rng.standard_normal(MAX_FFT + 101)
    x = rng.standard_normal((1, 2 * MAX_FFT))
    out = np.empty((1, 500))
    assert overlap_save(x, out, taps, len(taps) // 2, Place(0, x.shape[1], MAX_FFT)) is None
    half = len(taps) // 2
    part = x[0, MAX_FFT - half : MAX_FFT + half + 500]
    expected = scipy.signal.fftconvolve(part, taps, mode="valid")[:500]
    assert deviation(out[0], expected) < 1e-12


@pytest.mark.parametrize(
    "processor",
    [
        BandPassFilter(1.0, 40.0),
        LowPassFilter(20.0, phase="minimum"),
        NotchFilter(50.0),
        LowPassFilter(30.0, method="iir"),
        HighPassFilter(2.0, method="iir", phase="forward"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_contract(processor, dtype):
    ds = dataset(n_times=4000, dtype=dtype, channel_type=["eeg", "stim", "eeg", "misc"])
    check_processor(processor, ds)


@settings(max_examples=40, deadline=None)
@given(
    n_times=st.integers(2, 3000),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    channels=st.lists(st.integers(0, 4), unique=True, min_size=1),
    frequency=st.sampled_from([2.0, 10.0, 30.0]),
    method=st.sampled_from(["fir", "iir"]),
)
@pytest.mark.filterwarnings("ignore:.*longer than the recording")
def test_any_cut_gives_the_same(n_times, cut, channels, frequency, method):
    ds = dataset(5, n_times, 200.0, channel_type=["eeg", "eeg", "stim", "ecg", "eeg"])
    processor = HighPassFilter(frequency, method=method)
    whole = result(processor, ds)
    picked = result(processor, ds, channel=np.array(channels))
    assert np.array_equal(picked, whole[channels])
    start, stop = sorted(int(c * n_times) for c in cut)
    stop = max(stop, start + 1) if start < n_times else n_times
    start = min(start, stop - 1)
    part = result(processor, ds, time=slice(start, stop))
    limit = 1e-12 * np.abs(ds.signal.values).max()
    assert np.abs(part - whole[:, start:stop]).max() <= limit


def test_any_leading_dims_and_order():
    rng = np.random.default_rng(1)
    cube = rng.standard_normal((3, 4, 900))
    ds = ps.make_dataset(cube, ("y", "x", "time"), sampling_frequency=100.0)
    found = result(LowPassFilter(10.0), ds)
    expected = mne.filter.filter_data(cube.reshape(12, -1), 100.0, None, 10.0)
    assert deviation(found.reshape(12, -1), expected) < 1e-12
    turned = ps.make_dataset(
        np.ascontiguousarray(cube.transpose(2, 0, 1)), ("time", "y", "x"), sampling_frequency=100.0
    )
    assert np.array_equal(result(LowPassFilter(10.0), turned).transpose(1, 2, 0), found)
    line = ps.make_dataset(cube[0, 0], ("time",), sampling_frequency=100.0)
    assert np.array_equal(result(LowPassFilter(10.0), line), found[0, 0])


def test_integers_become_float32():
    ds = dataset()
    whole = ds.assign(signal=(ds.signal * 100).round().astype("i2"))
    found = result(LowPassFilter(30.0), whole)
    assert found.dtype == np.float32
    expected = mne.filter.filter_data(whole.signal.values.astype("f8"), 250.0, None, 30.0)
    assert deviation(found, expected) < 2e-6


@pytest.mark.parametrize(
    ("picks", "filtered"),
    [
        (None, [0, 3]),
        ("all", [0, 1, 3]),
        ("eog", [1]),
        (("C2", "eog"), [1, 2]),
        (("eeg", "C1"), [0, 1, 3]),
    ],
)
def test_picks(picks, filtered):
    ds = dataset(channel_type=["eeg", "eog", "stim", "eeg"], bad=[False, False, False, True])
    found = result(LowPassFilter(10.0, picks=picks), ds)
    changed = [i for i in range(4) if not np.array_equal(found[i], ds.signal.values[i])]
    assert changed == filtered


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (LowPassFilter(200.0), r"h_freq=200 Hz must be below the Nyquist frequency .* 125 Hz"),
        (LowPassFilter(200.0, method="iir"), r"h_freq=200 Hz must be below the Nyquist"),
        (HighPassFilter(0.0), r"l_freq=0 Hz must be above 0 Hz"),
        (Filter(10.0, 10.0), r"both 10 Hz"),
        (NotchFilter((50.0, 125.0)), r"125 Hz.*Nyquist frequency.*leave 125 Hz out"),
        (LowPassFilter(30.0, filter_length=11), r"too short .* takes \d+ samples"),
        (LowPassFilter(30.0, filter_length="long"), r"such as '10s'"),
        (HighPassFilter(1.0, trans_bandwidth=2.0), r"below 0 Hz: .* at most 1 Hz"),
        (LowPassFilter(30.0, picks=("C9",)), r"no channel 'C9': did you mean 'C"),
        (LowPassFilter(30.0, picks="seeg"), r"no channel of type 'seeg'"),
        (LowPassFilter(1e-15, method="iir"), r"unstable"),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.filterwarnings("ignore::scipy.signal.BadCoefficients")
def test_errors_when_applied(processor, message):
    ds = dataset(channel_type=["eeg", "eog", "stim", "eeg"])
    with pytest.raises(ValueError, match=message):
        Chain(ds).then(processor)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Filter(), ValueError, "needs a frequency"),
        (lambda: BandPassFilter(40.0, 1.0), ValueError, "l_freq < h_freq"),
        (lambda: LowPassFilter("thirty"), TypeError, "must be a number"),
        (lambda: NotchFilter(()), ValueError, "one or more frequencies"),
        (lambda: NotchFilter((50.0, 60.0), method="iir"), ValueError, "removes one band"),
        (lambda: LowPassFilter(3.0, phase="forward"), ValueError, "does not go with"),
        (lambda: LowPassFilter(3.0, method="iir", filter_length=9), ValueError, "no length"),
        (lambda: LowPassFilter(3.0, method="wavelet"), TypeError, "one of 'fir', 'iir'"),
    ],
)
def test_errors_when_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("method", ["fir", "iir"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(method, value):
    ds = dataset(channel_type=["eeg", "misc", "eeg", "eeg"])
    ds.signal.values[2, 500:503] = value
    ds.signal.values[1, 100] = np.nan
    message = r"channel 'C2' has 3 values that are not finite .* first at 2 s"
    with pytest.raises(ValueError, match=message):
        result(LowPassFilter(30.0, method=method), ds)
    assert np.isnan(result(LowPassFilter(30.0, picks=("C0",)), ds)[1, 100])


def test_design_is_symmetric_and_read_only():
    taps = design_fir(1000.0, (1.0,), (40.0,))
    assert len(taps) == 3301
    assert np.array_equal(taps, taps[::-1])
    assert not taps.flags.writeable


@pytest.mark.parametrize("n_taps", [101, 825, 3301])
def test_windows_fill_the_vector_lanes_at_any_length_of_a_block(n_taps):
    for n_out in range(20 << 10, 160 << 10, 1 << 10):
        length = fft_length(n_taps, n_out)
        n_windows = -(-n_out // (length - n_taps + 1))
        rows, batch = windows_together(n_windows, length, 4)
        together = rows * n_windows
        at_once = min(together, batch)
        alone = together // at_once * (at_once % 4) + together % at_once % 4
        assert alone <= together / 4, (n_out, length)
