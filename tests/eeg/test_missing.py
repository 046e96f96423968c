"""A channel that is marked bad may hold what it likes: the others do not notice, NaN stays NaN."""

import warnings

import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.eeg import (
    MNE,
    AASCorrection,
    BandPassFilter,
    Crop,
    HighPassFilter,
    LowPassFilter,
    NotchFilter,
    Rereference,
    Resample,
    Scale,
)
from penstock.eeg.scanner_artifact.triggers import with_triggers
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared

mne.set_log_level("ERROR")

RATE, NAMES = 200.0, ["Fz", "Cz", "Pz", "Oz"]


def dataset(n_times=4000, dtype="f8", bad=("Pz",), events=None):
    rng = np.random.default_rng(5)
    values = rng.standard_normal((4, n_times)).cumsum(axis=1)
    values += np.tile(np.sin(np.arange(200)) * 50, n_times // 200)[:n_times]
    ds = ps.make_dataset(
        values.astype(dtype),
        sampling_frequency=RATE,
        units="uV",
        coords={
            "channel": NAMES,
            "channel_type": ("channel", ["eeg"] * 4),
            "bad": ("channel", np.isin(NAMES, bad)),
        },
        events=events,
    )
    return with_triggers(ds, np.arange(0, n_times / RATE - 1, 1.0))


def result(processor, ds, **region):
    chain = prepared(Chain(ds), [processor], 1 << 40)
    return chain.compute(chain.whole() | region)


STEPS = [
    BandPassFilter(2.0, 40.0),
    LowPassFilter(30.0, phase="minimum"),
    HighPassFilter(2.0, method="iir"),
    LowPassFilter(30.0, method="iir", phase="forward"),
    NotchFilter(50.0),
    Rereference(),
    Rereference("Cz"),
    Scale(),
    Resample(100.0),
    Resample(130.0),
    Resample(99.37),
    Resample(100.0, "fft"),
    AASCorrection(window_size=6),
    AASCorrection(window_size=6, alignment="none", template="block"),
    Crop(1.0, 9.0),
    MNE("filter", l_freq=1.0, h_freq=40.0),
    MNE("set_eeg_reference", ref_channels="average"),
]


@pytest.mark.parametrize("processor", STEPS, ids=repr)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_a_bad_channel_without_values_stops_nothing(processor, dtype):
    ds = dataset(dtype=dtype)
    good = [0, 1, 3]
    clean = result(processor, ds)
    ds.signal.values[2] = np.nan
    found = result(processor, ds)
    assert np.array_equal(found[good], clean[good])
    assert np.isnan(found[2]).all()
    ds.signal.values[2, 100] = np.inf
    assert np.array_equal(result(processor, ds)[good], clean[good])


ROW_WISE = [s for s in STEPS[:-2] if not isinstance(s, Rereference) and "fft" not in repr(s)]


@pytest.mark.parametrize("processor", ROW_WISE, ids=repr)
def test_missing_values_reach_as_far_as_the_step_does(processor):
    """NaN where a missing value could have an influence, and the usual result elsewhere."""
    ds = dataset()
    clean = result(processor, ds)
    ds.signal.values[2, 1500:1520] = np.nan
    found = result(processor, ds)[2]
    missing = np.isnan(found)
    assert missing.any()
    assert not missing.all()
    middle = round(1510 * len(found) / 4000) if not isinstance(processor, Crop) else 1310
    assert missing[middle]
    if isinstance(processor, Scale | AASCorrection):  # (what is missing counts for nothing)
        assert missing.sum() == 20
        return
    # exactly: any other value there gives the same result elsewhere
    ds.signal.values[2, 1500:1520] = 1e3
    other = result(processor, ds)[2]
    limit = 1e-9 * np.abs(clean[2]).max()
    assert np.abs(other - found)[~missing].max() <= limit


@settings(max_examples=40, deadline=None)
@given(
    holes=st.lists(st.tuples(st.integers(0, 3999), st.integers(1, 30)), min_size=1, max_size=3),
    joins=st.lists(st.floats(0, 20), max_size=2),
    processor=st.sampled_from(ROW_WISE),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_missing_values_do_not_depend_on_blocks(holes, joins, processor, cut):
    table = pd.DataFrame({"onset": joins, "duration": 0.0, "label": "EDGE boundary"})
    ds = dataset(events=table)
    for start, length in holes:
        ds.signal.values[2, start : start + length] = np.nan
    if isinstance(processor, Scale):
        return  # (in test_channels: its moments are streamed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        whole = result(processor, ds)
        n = whole.shape[1]
        start, stop = sorted(min(int(c * n), n - 1) for c in cut)
        part = result(processor, ds, time=slice(start, stop + 1))
    expected = whole[:, start : stop + 1]
    assert np.array_equal(np.isnan(part), np.isnan(expected))
    limit = 1e-10 * np.abs(ds.signal.values[[0, 1, 3]]).max()
    assert np.nan_to_num(np.abs(part - expected)).max() <= limit


@pytest.mark.parametrize(
    "processor", [s for s in STEPS if not isinstance(s, Crop) and s != Rereference("Cz")], ids=repr
)
def test_missing_values_of_good_channels_are_refused_with_their_place(processor):
    ds = dataset(bad=())
    ds.signal.values[2, 1500] = np.nan
    with pytest.raises(ValueError, match=r"'Pz' has .*(mark .*bad|picks)"):
        result(processor, ds)


def with_positions(bad, holes=()):
    """Ten electrodes with positions, the units of MNE-Python, and NaN in some from 5 s to 5.1 s."""
    names = ["Fz", "Cz", "Pz", "Oz", "C3", "C4", "F3", "F4", "EOG", "STI"]
    values = np.random.default_rng(1).standard_normal((10, 4000)) * 1e-6
    info = mne.create_info(names, RATE, ["eeg"] * 8 + ["eog", "stim"])
    raw = mne.io.RawArray(values, info)
    raw.set_montage("standard_1020", on_missing="ignore")
    raw.info["bads"] = list(bad)
    for name in holes:
        raw._data[names.index(name), 1000:1020] = np.nan
    return raw, ps.from_mne(raw.copy())


REFERENCES = [["Pz"], ["Cz", "Pz"], {"Cz": ["Pz"]}, {"Cz": ["Pz", "Fz"], "Fz": ["Oz"]}]


@pytest.mark.parametrize("reference", REFERENCES, ids=repr)
@pytest.mark.parametrize("bad", [(), ("Pz",)])
def test_a_reference_with_missing_values_is_refused_and_named(reference, bad):
    _, ds = with_positions(bad, ["Pz"])
    step = MNE("set_eeg_reference", reference)
    with pytest.raises(ValueError, match=r"'set_eeg_reference'.* 'Pz' .*20 values .* at 5 s: "):
        result(step, ds)
    # a stretch without missing values is what MNE-Python makes of it
    raw, _ = with_positions(bad)
    expected = raw.set_eeg_reference(reference).get_data()[:, :1000]
    found = result(step, ds, time=slice(0, 1000))
    assert np.allclose(found[:9], expected[:9] * 1e6, rtol=0, atol=1e-9)


def test_methods_that_mix_channels_leave_nan_where_it_was():
    def compared(step, bad, holes):
        raw, ds = with_positions(bad, holes)
        with mne.utils.use_log_level("error"):
            expected = getattr(raw, step.method)(**step.kwargs).get_data()
        found = result(step, ds)
        scale = np.array([1e6] * 9 + [1.0])[:, np.newaxis]
        np.testing.assert_allclose(found, expected * scale, rtol=0, atol=1e-9)
        return np.isnan(found)

    # NaN of an excluded bad channel stays, and the others are interpolated without it
    missing = compared(MNE("interpolate_bads", exclude=["Pz"]), ["Pz", "C3"], ["Pz", "C3"])
    assert missing[2, 1000:1020].all()
    assert missing.sum() == 20
    assert not compared(MNE("interpolate_bads"), ["Pz"], ["Pz"]).any()
    # so does that of channels that have no part in others, marked bad or not
    for step in (MNE("set_eeg_reference", ["Cz"]), MNE("rescale", {"eeg": 2.0})):
        for bad in ([], ["Pz"]):
            assert compared(step, bad, ["Pz", "EOG", "STI"]).sum() == 60
    assert compared(MNE("interpolate_bads"), ["Pz"], ["EOG"]).sum() == 20


@pytest.mark.parametrize(
    "step",
    [
        MNE("interpolate_bads"),
        MNE("set_eeg_reference"),
        MNE("apply_proj"),
        MNE("filter", 1.0, 40.0),
        MNE("notch_filter", 50.0),
        MNE("resample", 100.0),
        MNE("savgol_filter", 30.0),
        MNE("apply_hilbert", envelope=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_methods_of_mne_python_that_would_spread_a_missing_value_name_it(step, value):
    raw, ds = with_positions(["Pz"], ["Oz"])
    if step.method == "apply_proj":
        raw.set_eeg_reference(projection=True)
        ds = ps.from_mne(raw)
    ds["signal"] = ds.signal.copy(data=np.where(np.isnan(ds.signal.values), value, ds.signal))
    told = rf"^.*MNE\('{step.method}'\): channel 'Oz' has 20 values that are not .* at 5 s: "
    with pytest.raises(ValueError, match=told):
        result(step, ds)
    # its sibling marked bad goes through, and no other channel notices
    marked = ds.assign_coords(bad=("channel", np.isin(ds.channel, ["Oz"])))
    clean = marked.assign(signal=marked.signal.copy(data=np.nan_to_num(ds.signal, posinf=0)))
    good = [0, 1, 2, *range(4, 10)]
    found, expected = result(step, marked), result(step, clean)
    assert np.array_equal(found[good], expected[good])
    assert np.isfinite(found[3]).all() == (step.method == "interpolate_bads")


def test_missing_values_that_methods_of_mne_python_pass_on_are_no_error():
    table = pd.DataFrame({"onset": [5.0], "duration": [0.5], "label": "BAD_ACQ_SKIP"})
    ds = dataset(bad=(), events=table)
    ds.signal.values[:, 1010:1090] = np.nan  # within the pause
    found = result(MNE("filter", l_freq=1.0, h_freq=None), ds)
    assert np.isnan(found).sum() == 4 * 80
    with pytest.raises(ValueError, match=r"'Fz' has 80 values"):
        result(MNE("filter", l_freq=1.0, h_freq=None, skip_by_annotation=[]), ds)
    ds.signal.values[1, 2000] = np.nan
    with pytest.raises(ValueError, match=r"'Cz' has 1 value that is not .* at 10 s"):
        result(MNE("filter", l_freq=1.0, h_freq=None), ds)
    # channels that are not filtered, and codes
    _, other = with_positions([], ["EOG", "STI"])
    assert np.isnan(result(MNE("filter", 1.0, None), other)).sum() == 40
    _, codes = with_positions([], ["STI"])
    assert np.isnan(result(MNE("resample", 100.0), codes)).sum() == 10
    assert np.isnan(result(MNE("resample", RATE), other)).sum() == 40


def test_a_run_of_a_recording_with_a_dead_channel(tmp_path):
    ds = dataset(dtype="f4")
    ds.signal.values[2] = np.nan
    steps = [HighPassFilter(1.0), Rereference(), Resample(100.0), Scale()]
    for format in ("zarr", "fif", "edf"):
        report = ps.Pipeline(steps).run({"one": ds}, tmp_path / format, format=format)
        assert not report.failed, report.failed
    made = ps.open_dataset(tmp_path / "zarr" / "one.zarr")
    assert np.isnan(made.signal.values[2]).all()
    assert np.isfinite(made.signal.values[[0, 1, 3]]).all()
