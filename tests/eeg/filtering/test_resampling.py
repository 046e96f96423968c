"""Resampling: SciPy's polyphase and MNE's FFT results, any cut, times kept."""

import os
import warnings
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import sampling_frequency
from penstock.eeg.filtering.rates import filter_taps, rational_ratio
from penstock.eeg.filtering.resampling import DownSample, Resample, UpSample
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.testing import check_processor

mne.set_log_level("ERROR")


def dataset(n_channels=3, n_times=6000, frequency=500.0, dtype="f8", start=0.0, **coords):
    rng = np.random.default_rng(n_channels * n_times)
    walk = np.cumsum(rng.standard_normal((n_channels, n_times)), axis=1)
    names = {"channel": [f"C{i}" for i in range(n_channels)]}
    coords = {name: ("channel", list(values)) for name, values in coords.items()}
    return ps.make_dataset(
        walk.astype(dtype), sampling_frequency=frequency, start_time=start, coords=names | coords
    )


def result(processor, ds, **region):
    chain = prepared(Chain(ds), [processor], 1 << 40)
    return chain.compute(chain.whole() | region)


def raw_of(ds, types="eeg"):
    info = mne.create_info(ds.channel.values.tolist(), sampling_frequency(ds), types)
    return mne.io.RawArray(ds.signal.values, info)


RATES = [(160, 100), (1000, 256), (5000, 250), (512, 500), (500, 5000), (250, 256), (100, 100.5)]


@pytest.mark.parametrize(("old", "new"), RATES)
def test_same_as_scipy_with_the_same_taps(old, new):
    ds = dataset(frequency=old, n_times=9000)
    found = result(Resample(new), ds)
    assert found.shape[1] == round(9000 * new / old)
    ratio = rational_ratio(float(old), float(new), 9000)
    taps = filter_taps(ratio.up, ratio.down)
    expected = scipy.signal.resample_poly(
        ds.signal.values, ratio.up, ratio.down, axis=-1, window=taps
    )
    reach = ratio.half // ratio.down + 1
    inside = slice(reach, found.shape[1] - reach)
    assert found[:, inside].size
    limit = 1e-12 * np.abs(expected).max()
    assert np.abs(found[:, inside] - expected[:, inside]).max() < limit
    single = result(Resample(new), ds.assign(signal=ds.signal.astype("f4")))
    assert single.dtype == np.float32
    assert np.abs(single - found).max() < 2e-6 * np.abs(found).max()


def band_limited(old, new, n=40_000):
    """Noise below 0.93 of the lower Nyquist frequency, periodic, so that its samples at any other
    frequency are known exactly; and those samples."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal((2, n)))
    spectrum[:, np.fft.rfftfreq(n, 1 / old) > 0.93 * min(old, new) / 2] = 0
    noise = np.fft.irfft(spectrum, n)
    noise /= noise.std()
    ds = ps.make_dataset(noise, sampling_frequency=old, coords={"channel": ["a", "b"]})
    return ds, scipy.signal.resample(noise, round(n * new / old), axis=-1)


@pytest.mark.parametrize(("old", "new"), [(1000, 250), (500, 256), (250, 1000), (160, 100)])
def test_exact_within_the_pass_band(old, new):
    ds, truth = band_limited(old, new)
    ratio = rational_ratio(float(old), float(new), 40_000)
    reach = ratio.half // ratio.down + 1
    difference = (result(Resample(new), ds) - truth)[:, reach:-reach]
    assert np.abs(difference).max() < 5e-6


@pytest.mark.parametrize(("old", "new"), [(1000, 250), (250, 1000)])
def test_same_as_mne_within_the_pass_band(old, new):
    # ratios at which MNE's padded length is a whole number of new samples; at others (500 to 256)
    # MNE's sampling frequency and start are off by up to half a sample
    ds, truth = band_limited(old, new)
    found, expected = result(Resample(new), ds), raw_of(ds).resample(new).get_data()
    inside = slice(found.shape[1] // 10, -found.shape[1] // 10)
    # what remains is MNE's ringing from the ends, which falls only as 1/t
    theirs = np.abs(expected - truth)[:, inside].max()
    assert np.abs(found - expected)[:, inside].max() < theirs + 5e-6
    assert theirs < 2e-3


@pytest.mark.parametrize("new", [80, 100, 320, 1600])
def test_same_as_mne_on_a_real_recording(new):
    data = os.environ.get("PENSTOCK_DATA")
    if not data:
        pytest.skip("PENSTOCK_DATA is not set: it names the folder with the real recordings")
    path = next(Path(data).rglob("S001R03.edf"))
    raw = mne.io.read_raw_edf(path, preload=True).pick(list(range(0, 64, 8))).filter(None, 30.0)
    ds = ps.make_dataset(raw.get_data(), sampling_frequency=raw.info["sfreq"])
    found, expected = result(Resample(new), ds), raw.resample(new).get_data()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("old", "new"), [(500, 250), (500, 256), (500, 730), (160, 99.97)])
@pytest.mark.parametrize("n_times", [37, 3001])
def test_fft_is_mne(old, new, n_times):
    ds = dataset(frequency=old, n_times=n_times, channel_type=["eeg", "stim", "eog"])
    ds.signal.values[1] = np.random.default_rng(0).random(n_times) > 0.97
    expected = raw_of(ds, ["eeg", "stim", "eog"]).resample(new).get_data()
    found = result(Resample(new, "fft"), ds)
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("new", [100, 256, 499, 750, 2000])
def test_stimulus_channels_keep_their_codes_as_in_mne(new):
    ds = dataset(n_times=4003, channel_type=["eeg", "stim", "stim"])
    rng = np.random.default_rng(0)
    ds.signal.values[1] = np.where(rng.random(4003) > 0.98, rng.integers(1, 9, 4003), 0)
    ds.signal.values[2] = 0
    ds.signal.values[2, [0, 1234, 4002]] = 7
    expected = raw_of(ds, ["eeg", "stim", "stim"]).resample(new).get_data()
    assert np.array_equal(result(Resample(float(new)), ds)[1:], expected[1:])


def with_codes(positions, codes, n_times=4000):
    ds = dataset(n_channels=2, n_times=n_times, channel_type=["eeg", "stim"])
    ds.signal.values[1] = 0
    ds.signal.values[1, positions] = codes
    return ds


def told(ds, processor, block_bytes=1 << 30):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ps.Pipeline([processor])(ds, block_bytes=block_bytes).signal.values  # noqa: B018
    return [str(warning.message) for warning in caught]


@settings(max_examples=30, deadline=None)
@given(
    positions=st.lists(st.integers(1, 3999), max_size=30, unique=True),
    new=st.sampled_from([50.0, 100.0, 130.0, 499.0, 1000.0]),
    method=st.sampled_from(["polyphase", "fft"]),
)
def test_lost_codes_are_told_as_mne_counts_them(positions, new, method):
    ds = with_codes(sorted(positions), np.arange(1, len(positions) + 1))
    raw = raw_of(ds, ["eeg", "stim"])
    before = len(mne.find_events(raw, "C1", shortest_event=1))
    lost = before - len(mne.find_events(raw.resample(new), "C1", shortest_event=1))
    messages = told(ds, Resample(new, method))
    assert len(messages) == (lost > 0)
    assert not lost or messages[0].startswith(f"{lost} codes of stimulus channels are lost")


def test_the_report_of_a_run_says_how_many_codes_were_lost(tmp_path):
    positions = np.arange(1000, 200_000, 997)
    ds = with_codes(np.concatenate([positions, positions + 1]), 5, n_times=200_000)
    ds.signal.values[1, positions + 1] = 7
    ds = ds.assign(signal=ds.signal.astype("f4"))
    report = ps.Pipeline([DownSample(10)]).run({"one": ds}, tmp_path, memory="2 GiB")
    lost = np.count_nonzero(positions // 10 == (positions + 1) // 10)
    assert f"{lost} codes of stimulus channels are lost" in report.notes["one"]
    assert not ps.Pipeline([DownSample(1)]).run({"two": ds}, tmp_path).notes.get("two")


@pytest.mark.parametrize(
    "processor",
    [Resample(100.0), Resample(256.0), UpSample(4), DownSample(10), Resample(250.0, "fft")],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_contract(processor, dtype):
    check_processor(processor, dataset(dtype=dtype, channel_type=["eeg", "stim", "misc"]))


@settings(max_examples=40, deadline=None)
@given(
    n_times=st.integers(1, 4000),
    rates=st.sampled_from([(500.0, 100.0), (500.0, 256.0), (100.0, 700.0), (160.0, 100.0)]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    channels=st.lists(st.integers(0, 2), unique=True, min_size=1),
)
def test_any_cut_gives_the_same(n_times, rates, cut, channels):
    old, new = rates
    ds = dataset(n_times=n_times, frequency=old, channel_type=["eeg", "stim", "misc"])
    processor = Resample(new)
    whole = result(processor, ds)
    n_new = whole.shape[1]
    assert np.array_equal(result(processor, ds, channel=np.array(channels)), whole[channels])
    start, stop = sorted(min(int(c * n_new), n_new - 1) for c in cut)
    part = result(processor, ds, time=slice(start, stop + 1))
    limit = 1e-12 * np.abs(ds.signal.values).max()
    assert np.abs(part - whole[:, start : stop + 1]).max() <= limit


AWKWARD = [
    (600.614990234375, 300.0),
    (300.3074951171875, 150.0),
    (44100.0, 256.0),
    (1024.5902, 512.0),
    (1000.0, 999.0),
    (500.0, 1 / 3),
    (2000.0, 0.7),
    (1.0, 997.3),
    (250.0, 250.0 * np.pi / 3),
]


@pytest.mark.parametrize(("old", "new"), AWKWARD)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_any_ratio(old, new, dtype):
    """A sine at a tenth of the lower frequency, at its exact values at the new times."""
    lower = min(old, new)
    n = round(900 / lower * old)
    t = np.arange(n) / old
    assert rational_ratio(old, new, n) is None
    wave = np.sin(2 * np.pi * 0.1 * lower * t)[np.newaxis].astype(dtype)
    ds = ps.make_dataset(wave, sampling_frequency=old)
    found = result(Resample(new), ds)[0]
    expected = np.sin(2 * np.pi * 0.1 * lower * np.arange(len(found)) / new)
    inside = slice(len(found) // 3, -len(found) // 3)
    assert len(found) == round(n * new / old)
    assert np.abs(found - expected)[inside].max() < 1e-5
    start, stop = len(found) // 3, len(found) // 2
    part = result(Resample(new), ds, time=slice(start, stop))[0]
    assert np.abs(part - found[start:stop]).max() <= (1e-12 if dtype == "f8" else 2e-6)
    assert abs(Chain(ds).then(Resample(new)).output.time.values[-1] - (len(found) - 1) / new) < 1e-9


@pytest.mark.parametrize(("old", "new"), [(1000.0, 999.0), (600.615, 300.0), (250.0, 261.8)])
def test_any_ratio_is_exact_within_the_pass_band_and_nothing_folds(old, new):
    lower = min(old, new)
    t = np.arange(40_000) / old
    for part in (0.02, 0.3, 0.47):
        ds = ps.make_dataset(np.cos(2 * np.pi * part * lower * t)[None], sampling_frequency=old)
        found = result(Resample(new), ds)[0]
        expected = np.cos(2 * np.pi * part * lower * np.arange(len(found)) / new)
        assert np.abs(found - expected)[2000:-2000].max() < 5e-6
    if new < old:
        fast = ps.make_dataset(np.cos(np.pi * 1.001 * new * t)[None], sampling_frequency=old)
        assert np.abs(result(Resample(new), fast)[0, 2000:-2000]).max() < 5e-6


@pytest.mark.parametrize("new", [499.0, 123.4567, 701.3])
def test_contract_at_any_ratio(new):
    for dtype in ("f8", "f4"):
        check_processor(Resample(new), dataset(dtype=dtype, channel_type=["eeg", "stim", "misc"]))


@settings(max_examples=30, deadline=None)
@given(
    n_times=st.integers(1, 3000),
    rates=st.tuples(st.floats(1.0, 1000.0), st.floats(1.0, 1000.0)),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_cut_at_any_ratio(n_times, rates, cut):
    ds = dataset(2, n_times, rates[0])
    whole = result(Resample(rates[1]), ds)
    n_new = whole.shape[1]
    assert n_new == max(1, round(n_times * rates[1] / rates[0]))
    start, stop = sorted(min(int(c * n_new), n_new - 1) for c in cut)
    part = result(Resample(rates[1]), ds, time=slice(start, stop + 1))
    limit = 1e-12 * np.abs(ds.signal.values).max()
    assert np.abs(part - whole[:, start : stop + 1]).max() <= limit


def test_up_and_down_again_is_the_same_within_the_pass_band():
    t = np.arange(5000) / 250
    wave = np.sin(2 * np.pi * 30 * t) + np.cos(2 * np.pi * 3 * t)
    ds = ps.make_dataset(wave[np.newaxis], sampling_frequency=250.0)
    chain = Chain(ds).bind([UpSample(10), DownSample(10)])
    back = chain.compute(chain.whole())
    assert back.shape == (1, 5000)
    assert np.abs(back - wave)[0, 400:-400].max() < 1e-5


def test_frequencies_above_the_new_nyquist_do_not_fold():
    t = np.arange(50_000) / 1000
    for frequency in (126.0, 180.0, 240.0, 370.0):
        ds = ps.make_dataset(np.sin(2 * np.pi * frequency * t)[None], sampling_frequency=1000.0)
        left = result(Resample(250.0), ds)[0, 500:-500]
        assert np.abs(left).max() < 2e-6


def test_times_events_and_units_stay():
    ds = dataset(start=12.5)
    ds.signal.attrs["units"] = "uV"
    ds = ds.assign_coords(trigger_time=("trigger", [13.0, 14.0]))
    after = Chain(ds).then(DownSample(5)).output
    assert sampling_frequency(after) == 100.0
    assert float(after.time[0]) == 12.5
    assert after.signal.attrs["units"] == "uV"
    assert after.trigger_time.values.tolist() == [13.0, 14.0]
    assert after.sizes["time"] == 1200


def test_same_frequency_changes_nothing():
    ds = dataset()
    assert np.array_equal(result(Resample(500.0), ds), ds.signal.values)
    assert np.array_equal(result(UpSample(1), ds, time=slice(5, 9)), ds.signal.values[:, 5:9])


def test_any_leading_dims():
    ds = dataset()
    cube = ds.signal.values.reshape(3, 2, 3000)
    grid = ps.make_dataset(cube, ("y", "x", "time"), sampling_frequency=500.0)
    flat = ps.make_dataset(cube.reshape(6, 3000), ("row", "time"), sampling_frequency=500.0)
    found = result(Resample(128.0), grid)
    assert np.array_equal(found.reshape(6, -1), result(Resample(128.0), flat))


def test_errors():
    ds = dataset()
    with pytest.raises(ValueError, match="must be a frequency above 0"):
        Resample(-1.0)
    with pytest.raises(ValueError, match="at least 1"):
        DownSample(0)
    with pytest.raises(TypeError, match="whole number"):
        UpSample(2.5)
    ds.signal.values[1, 1000] = np.nan
    for method in ("polyphase", "fft"):
        with pytest.raises(ValueError, match=r"channel 'C1' has 1 value that is not .* at 2 s"):
            result(Resample(250.0, method), ds)
