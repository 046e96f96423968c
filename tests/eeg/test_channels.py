"""Picking, cropping, re-referencing and scaling, against MNE and scikit-learn's definitions."""

import itertools

import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import SIGNAL, sampled_coordinate
from penstock.eeg import MNE
from penstock.eeg.channels import Crop, DropChannels, PickChannels, Rereference
from penstock.eeg.scaling import Scale
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.processor import Context
from penstock.testing import check_processor

mne.set_log_level("ERROR")

NAMES = ["Fz", "Cz", "Pz", "Oz", "EOG", "STI"]
TYPES = ["eeg", "eeg", "eeg", "eeg", "eog", "stim"]


def dataset(n_times=1000, frequency=100.0, dtype="f8", bads=(), events=None):
    rng = np.random.default_rng(n_times)
    values = (rng.standard_normal((6, n_times)) * 7 + np.arange(6)[:, None] * 100).astype(dtype)
    coords = {
        "channel": NAMES,
        "channel_type": ("channel", TYPES),
        "channel_unit": ("channel", ["uV"] * 6),
        "bad": ("channel", [name in bads for name in NAMES]),
    }
    return ps.make_dataset(
        values, sampling_frequency=frequency, units="uV", coords=coords, events=events
    )


def raw_of(ds):
    info = mne.create_info(NAMES, ps.sampling_frequency(ds), TYPES)
    raw = mne.io.RawArray(ds.signal.values.astype("f8"), info)
    raw.info["bads"] = [name for name, bad in zip(NAMES, ds.bad.values, strict=True) if bad]
    return raw


def result(processor, ds, **region):
    chain = prepared(Chain(ds), [processor], 1 << 40)
    return chain.compute(chain.whole() | region)


# ---------------------------------------------------------------------- selections


@pytest.mark.parametrize(
    ("processor", "kept"),
    [
        (PickChannels(("Oz", "Fz")), ["Oz", "Fz"]),
        (PickChannels("eeg"), NAMES[:4]),
        (PickChannels(("STI", "eeg")), ["STI", *NAMES[:4]]),
        (PickChannels(("Fz", "nowhere"), on_missing="ignore"), ["Fz"]),
        (DropChannels("Cz"), ["Fz", "Pz", "Oz", "EOG", "STI"]),
        (DropChannels(("eog", "stim")), NAMES[:4]),
        (DropChannels("nowhere", on_missing="ignore"), NAMES),
    ],
    ids=repr,
)
def test_channels_are_selected_with_all_that_describes_them(processor, kept):
    ds = dataset()
    after = Chain(ds).then(processor).output
    assert after.channel.values.tolist() == kept
    expected = ds.sel(channel=kept)
    assert after.channel_type.values.tolist() == expected.channel_type.values.tolist()
    assert np.array_equal(result(processor, ds), expected.signal.values)
    part = result(processor, ds, channel=slice(0, 1), time=slice(10, 20))
    assert np.array_equal(part, expected.signal.values[:1, 10:20])
    assert np.array_equal(result(processor, ds, channel=np.array([0])), expected.signal.values[:1])
    check_processor(processor, ds)


def test_a_missing_channel_is_named_with_what_is_near():
    ds = dataset()
    with pytest.raises(ValueError, match=r"no channel 'Fzz': did you mean 'Fz'"):
        Chain(ds).then(PickChannels("Fzz"))
    with pytest.raises(ValueError, match=r"no channel of type 'ecg' \(its types: eeg, eog, stim"):
        Chain(ds).then(DropChannels("ecg"))
    with pytest.raises(ValueError, match="none would be left"):
        Chain(ds).then(DropChannels(tuple(NAMES)))
    with pytest.raises(ValueError, match="needs a dim 'channel'"):
        Chain(ps.make_dataset(np.zeros(9), ("time",))).then(PickChannels("Fz"))


@settings(max_examples=60, deadline=None)
@given(
    tmin=st.floats(0, 9.9),
    length=st.none() | st.floats(0, 9.9),
    include=st.booleans(),
    frequency=st.sampled_from([100.0, 99.9, 160.0, 1000.0 / 3]),
)
def test_crop_is_mne(tmin, length, include, frequency):
    ds = dataset(int(10 * frequency), frequency)
    tmax = None if length is None else tmin + length
    include = include or tmax is None
    raw = raw_of(ds)
    try:
        raw.crop(tmin, tmax, include_tmax=include)
    except ValueError:
        # MNE compares seconds with the last sample's time; here, rounded sample numbers decide
        return
    chain = Chain(ds).then(Crop(tmin, tmax, include))
    assert np.array_equal(chain.compute(chain.whole()), raw.get_data())
    assert float(chain.output.time[0]) == 0.0
    assert ps.sampling_frequency(chain.output) == pytest.approx(frequency)


def test_crop_moves_events_triggers_and_slower_channels_along():
    table = pd.DataFrame(
        {
            "onset": [0.5, 1.5, 2.0, 4.9, 5.5, 5.51, 8.0],
            "duration": [0.2, 1.0, 0.0, 2.0, 1.0, 0.0, 1.0],
            "label": list("abcdefg"),
        }
    )
    ds = dataset(events=table).assign_coords(
        trigger_time=("trigger", [0.1, 2.0, 3.7, 5.5, 7.0], {"artifact_length": 9})
    )
    ds = ds.assign_coords(sampled_coordinate("time_10Hz", 100, 10.0))
    ds["signal_10Hz"] = (("channel_10Hz", "time_10Hz"), np.arange(200.0).reshape(2, 100))
    raw = raw_of(ds)
    raw.set_annotations(mne.Annotations(table.onset, table.duration, list(table.label)))
    raw.crop(2.0, 5.5)
    after = Chain(ds).then(Crop(2.0, 5.5)).output
    events = ps.events_table(after)
    kept = raw.annotations
    assert events.label.tolist() == list(kept.description)
    assert np.allclose(events.onset, kept.onset - raw.first_time)
    assert np.allclose(events.duration, kept.duration)
    assert after.trigger_time.values == pytest.approx([0.0, 1.7, 3.5])
    assert after.trigger_time.attrs == {"artifact_length": 9}
    assert after.signal_10Hz.values[0].tolist() == list(range(20, 56))
    assert float(after.time_10Hz[0]) == pytest.approx(0.0)
    # a crop of a crop is a crop
    twice = Chain(ds).bind([Crop(1.0, 6.0), Crop(1.0, 4.5)])
    assert np.array_equal(twice.compute(twice.whole()), raw.get_data())
    assert np.allclose(ps.events_table(twice.output).onset, events.onset)


def test_crop_moves_the_measurement_date_to_the_first_sample_kept():
    ds = dataset().assign_attrs(measurement_date="2024-02-29T23:59:57.500000+00:00")
    after = Chain(ds).then(Crop(2.5, 4.0)).output
    assert after.attrs["measurement_date"] == "2024-03-01T00:00:00+00:00"
    twice = Chain(ds).bind([Crop(1.0, 6.0), Crop(1.5, 3.0)]).output
    assert twice.attrs["measurement_date"] == after.attrs["measurement_date"]
    # a stretch that was selected before keeps the recording's own times, and its date
    part = Chain(ds.sel(time=slice(2.0, 8.0))).then(Crop(0.5)).output
    assert part.attrs["measurement_date"] == after.attrs["measurement_date"]
    assert "measurement_date" not in Chain(dataset()).then(Crop(1.0)).output.attrs


def with_flow():
    """A recording of which a second signal of 10 Hz counts its own tenths of seconds."""
    ds = dataset(n_times=2000).assign_coords(sampled_coordinate("time_10Hz", 200, 10.0))
    ds["signal_10Hz"] = (("channel_10Hz", "time_10Hz"), np.arange(200.0)[np.newaxis])
    return ds


@pytest.mark.parametrize("step", [Crop, lambda *times: MNE("crop", *times)])
def test_crop_keeps_the_same_seconds_of_every_rate_whatever_was_selected_before(step):
    ds = with_flow()
    expected = Chain(ds).bind([Crop(5.0, 10.0), Crop(1.0, 3.0)]).output
    assert expected.signal_10Hz.values[0].tolist() == list(range(60, 81))
    selected = [
        ds.sel(time=slice(5.0, 10.0)),
        ds.sel(time=slice(5.0, 10.0), time_10Hz=slice(5.0, 10.0)),
        ds.sel(time=slice(5.0, 10.0), time_10Hz=slice(3.0, 12.0)),
        ds.isel(time=slice(500, 1001), time_10Hz=slice(40, None)),
    ]
    for part in selected:
        after = Chain(part).then(step(1.0, 3.0)).output
        assert np.array_equal(after.signal_10Hz, expected.signal_10Hz)
        assert after.time_10Hz.values == pytest.approx(expected.time_10Hz.values)
        assert after.sizes["time"] == 201
    # the other signal alone was cut: what is left of it keeps its place
    late = Chain(ds.sel(time_10Hz=slice(2.0, None))).then(step(1.0, 3.0)).output
    assert late.signal_10Hz.values[0].tolist() == list(range(20, 31))
    assert late.time_10Hz.values == pytest.approx(np.arange(20, 31) / 10 - 1.0)
    # nothing is left of it, also for the next step
    gone = Chain(ds.sel(time_10Hz=slice(5.0, None))).bind([step(1.0, 3.0), step(0.5)]).output
    assert gone.sizes["time_10Hz"] == 0
    assert gone.sizes["time"] == 151


def test_crop_without_an_end_stops_all_rates_together(tmp_path):
    ds = with_flow()
    part = ds.isel(time=slice(500, 1000))
    after = Chain(part).then(Crop()).output
    assert after.signal_10Hz.values[0].tolist() == list(range(50, 100))
    # a whole recording stays whole
    assert Chain(ds).then(Crop()).output.sizes == ds.sizes
    assert Chain(ds).then(Crop(1.0)).output.sizes["time_10Hz"] == 190
    # also in files
    made = ps.Pipeline([Crop(1.0, 3.0)])(part)
    ps.export(made, tmp_path / "a.edf")
    again = ps.open_dataset(tmp_path / "a.edf")
    other = next(name for name in again.data_vars if str(name) != SIGNAL)
    assert again[other].values[0, :21] == pytest.approx(np.arange(60, 81), abs=0.01)


def test_crop_errors():
    ds = dataset()
    with pytest.raises(ValueError, match=r"tmax=10 s lies beyond .* last sample is at 9\.99 s"):
        Chain(ds).then(Crop(0.0, 10.0))
    with pytest.raises(ValueError, match=r"tmin=12 s lies beyond"):
        Chain(ds).then(Crop(12.0))
    with pytest.raises(ValueError, match=r"no sample lies between"):
        Chain(ds).then(Crop(1.0, 1.0, include_tmax=False))
    with pytest.raises(ValueError, match=r"must not be before"):
        Crop(3.0, 2.0)
    assert Chain(ds).then(Crop(0.0, 10.0, include_tmax=False)).output.sizes["time"] == 1000


# ---------------------------------------------------------------------- re-referencing


@pytest.mark.parametrize("channels", ["average", "Cz", ("Fz", "Oz"), ("EOG",)])
@pytest.mark.parametrize("bads", [(), ("Pz",)])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_rereference_is_mne(channels, bads, dtype):
    ds = dataset(bads=bads, dtype=dtype)
    given = (
        channels if channels == "average" else [channels] if isinstance(channels, str) else channels
    )
    expected, _ = mne.set_eeg_reference(raw_of(ds), given if given == "average" else list(given))
    found = result(Rereference(channels), ds)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == "f8" else 1e-6
    assert np.abs(found - expected.get_data()).max() <= tolerance * 600
    check_processor(Rereference(channels), ds)


def test_rereference_with_bads_and_picks():
    ds = dataset(bads=("Pz",))
    x = ds.signal.values
    found = result(Rereference(exclude_bads=False), ds)
    assert np.allclose(found[:4], x[:4] - x[:4].mean(0))
    found = result(Rereference(picks=("Pz", "EOG")), ds)
    assert np.allclose(found[[2, 4]], x[[2, 4]] - x[[2, 4]].mean(0))
    assert np.array_equal(found[[0, 1, 3, 5]], x[[0, 1, 3, 5]])


def streamed(processor, ds, cuts, dim):
    """Compute with the reduction merged over blocks, as a plan that streams it does."""
    outline = Chain(ds).start
    dims = [str(d) for d in ds[SIGNAL].dims if d != dim] + [dim]
    values = ds[SIGNAL].transpose(*dims).values
    edges = sorted({0, *(int(c * values.shape[-1]) for c in cuts), values.shape[-1]})

    def context(low, high, reduced=None):
        region = {d: slice(0, ds.sizes[d]) for d in dims} | {dim: slice(low, high)}
        return Context(region, region, outline, None, reduced)

    parts = [(values[..., a:b], a, b) for a, b in itertools.pairwise(edges)]
    reduced = processor.combine(
        np.stack([processor.partial(v, context(a, b)) for v, a, b in parts])
    )
    assert len(reduced) == processor.statistics(outline)
    pieces = [processor.kernel(v, context(a, b, reduced)) for v, a, b in parts]
    return np.moveaxis(np.concatenate(pieces, axis=-1), -1, list(ds[SIGNAL].dims).index(dim))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.floats(0, 1), max_size=4), name=st.sampled_from(["average", "Cz"]))
def test_a_streamed_reference_is_the_same(cuts, name):
    ds = dataset(300)
    whole = result(Rereference(name), ds)
    found = streamed(Rereference(name), ds, cuts, "channel")
    assert np.abs(found - whole).max() <= 1e-12 * np.abs(ds.signal.values).max()


def test_rereference_errors():
    ds = dataset()
    with pytest.raises(ValueError, match=r"no channel 'M1'"):
        Chain(ds).then(Rereference(("Cz", "M1")))
    with pytest.raises(ValueError, match=r"no EEG, ECoG"):
        Chain(ds.isel(channel=[4, 5])).then(Rereference())
    with pytest.raises(ValueError, match=r"all channels .* marked bad"):
        Chain(dataset(bads=NAMES)).then(Rereference())
    ds.signal.values[1, 77] = np.nan
    told = r"'Cz' has values that are not finite .* at 0\.77 s: they would spoil"
    with pytest.raises(ValueError, match=told):
        result(Rereference(), ds)
    # also where a stretch was selected, and where the channel lies in another block
    with pytest.raises(ValueError, match=told):
        result(Rereference(), ds.sel(time=slice(0.5, 3.0)))
    with pytest.raises(ValueError, match=told):
        result(Rereference(), ds, channel=slice(2, 4))
    with pytest.raises(ValueError, match=told):
        ps.Pipeline([Rereference()])(ds.chunk({"channel": 1})).signal[3].values.sum()
    assert np.isfinite(result(Rereference("Fz"), ds)[0]).all()


# ---------------------------------------------------------------------- scaling


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2"])
def test_scale_is_the_z_score(dtype):
    ds = dataset(dtype=dtype)
    x = ds.signal.values.astype("f8")
    expected = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    found = result(Scale(), ds)
    tolerance = 1e-12 if dtype == "f8" else 1e-6
    assert np.abs(found - expected)[:4].max() < tolerance * 10
    assert np.array_equal(found[4:], ds.signal.values[4:].astype(found.dtype))
    centred = result(Scale(with_std=False), ds)
    assert np.abs(centred[:4] - (x - x.mean(1, keepdims=True))[:4]).max() < tolerance * 1000
    divided = result(Scale(with_mean=False), ds)
    assert np.abs(divided[:4] - (x / x.std(1, keepdims=True))[:4]).max() < tolerance * 1000
    check_processor(Scale(), ds)


def test_scale_changes_the_units_of_what_it_scales():
    after = Chain(dataset()).then(Scale()).output
    assert after.channel_unit.values.tolist() == ["1"] * 4 + ["uV"] * 2
    assert after.signal.attrs["units"] == "uV"
    plain = ps.make_dataset(np.ones((2, 9)), sampling_frequency=1.0, units="uV")
    assert Chain(plain).then(Scale()).output.signal.attrs["units"] == "1"
    assert Chain(plain).then(Scale(with_std=False)).output.signal.attrs["units"] == "uV"


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
def test_scale_leaves_constant_channels_at_zero(value):
    ds = ps.make_dataset(np.full((2, 1001), value), sampling_frequency=1.0)
    assert np.abs(result(Scale(), ds)).max() <= 1e-15 * max(1, abs(value)) * 1001


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.floats(0, 1), max_size=4),
    offset=st.sampled_from([0.0, 1e6]),
    joins=st.lists(st.floats(0, 7), max_size=3),
)
def test_streamed_moments_are_the_same(cuts, offset, joins):
    table = pd.DataFrame({"onset": joins, "duration": 0.0, "label": "EDGE boundary"})
    ds = dataset(700, events=table)
    ds = ds.assign(signal=ds.signal + offset)
    whole = result(Scale(), ds)
    found = streamed(Scale(), ds, cuts, "time")
    assert np.abs(found - whole).max() <= 1e-9 if offset else 1e-12


def test_scale_carries_what_is_missing_through_bad_channels():
    ds = dataset(bads=("Pz", "Oz"))
    clean = result(Scale(), ds)
    ds.signal.values[2, 400:450] = np.nan
    ds.signal.values[3] = np.nan
    found = result(Scale(), ds)
    x = ds.signal.values[2]
    assert np.allclose(found[2], (x - np.nanmean(x)) / np.nanstd(x), equal_nan=True)
    assert np.isnan(found[3]).all()
    assert np.array_equal(found[[0, 1, 4, 5]], clean[[0, 1, 4, 5]])
    parts = streamed(Scale(), ds, [0.3, 0.41, 0.8], "time")
    assert np.allclose(parts, found, rtol=0, atol=1e-9, equal_nan=True)
    check_processor(Scale(), ds)


def test_scale_names_values_that_are_not_finite():
    ds = dataset()
    ds.signal.values[2, 400] = np.inf
    with pytest.raises(ValueError, match=r"channel 'Pz' has values that are not finite"):
        streamed(Scale(), ds, [0.3], "time")
    with pytest.raises(ValueError, match=r"channel 'Pz' has 1 value that is not finite .* at 4 s"):
        result(Scale(), ds)


def test_any_leading_dims():
    cube = np.random.default_rng(0).standard_normal((3, 4, 50))
    ds = ps.make_dataset(cube, ("y", "x", "time"), sampling_frequency=10.0)
    expected = (cube - cube.mean(-1, keepdims=True)) / cube.std(-1, keepdims=True)
    assert np.abs(result(Scale(), ds) - expected).max() < 1e-12
    with pytest.raises(ValueError, match="needs a dim 'channel'"):
        Chain(ds).then(Scale(picks="eeg"))
