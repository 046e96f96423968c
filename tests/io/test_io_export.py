from __future__ import annotations

import tracemalloc
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock as ps
from penstock.io.edf.plan import (
    annotation_records,
    exact_text,
    physical_range,
    plan_records,
    seconds_text,
)
from penstock.reading import reading_of

edfio = pytest.importorskip("edfio")
mne = pytest.importorskip("mne")


def recording(n_channels=4, n_times=2500, rate=250.0, seed=0, dtype="float64", **coords):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 40, (n_channels, n_times)).cumsum(axis=1).astype(dtype)
    names = np.array([f"C{i}" for i in range(n_channels)])
    return ps.make_dataset(
        values,
        sampling_frequency=rate,
        units="uV",
        coords={"channel": names, **coords},
        events=pd.DataFrame(
            {
                "onset": [0.0, 0.3, 7.77, n_times / rate - 0.01],
                "duration": [0.0, 1.25, 0.0, 0.0],
                "label": ["start", "Reiz µ", "b", "end"],
            }
        ),
        attrs={"measurement_date": "2021-03-04T05:06:07.250000"},
    )


# ------------------------------------------------------------------ EDF+


def test_edf_round_trip_within_half_a_step(tmp_path):
    types = np.array(["eeg", "eog", "ecg", "misc"])
    ds = recording(channel_type=("channel", types))
    path = tmp_path / "out.edf"
    fractions = []
    report = ps.export(ds, path, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert set(report.clipped.values()) == {0}
    assert report.renamed == {}
    step = np.array([report.quantisation_step[name] for name in ds.channel.values])[:, None]
    again = ps.open_dataset(path, dtype="float64")
    assert (np.abs(again.signal.values - ds.signal.values) <= step * 0.5000001).all()
    assert again.channel.values.tolist() == ds.channel.values.tolist()
    assert again.channel_type.values.tolist() == types.tolist()
    assert again.attrs["measurement_date"] == "2021-03-04T05:06:07.250000"
    pd.testing.assert_frame_equal(
        ps.events_table(again), ps.events_table(ds), check_dtype=False, rtol=0, atol=0
    )
    raw = mne.io.read_raw_edf(path, verbose="error")
    assert np.allclose(raw.get_data() * 1e6, again.signal.values, rtol=0, atol=1e-8)
    assert raw.annotations.description.tolist() == ps.events_table(ds).label.tolist()
    assert np.allclose(raw.annotations.onset, ps.events_table(ds).onset, rtol=0, atol=1e-9)
    edf = edfio.read_edf(path)
    assert edf.num_data_records * edf.data_record_duration == 10.0
    assert np.allclose(edf.signals[1].data, again.signal.values[1], rtol=0, atol=1e-8)
    assert not list(tmp_path.glob(".*"))


def test_a_copied_recording_keeps_its_digital_values(recordings, tmp_path):
    source = recordings / "eegmmidb_S001/S001R04.edf"
    path = tmp_path / "copy.edf"
    ps.export(ps.open_dataset(source), path)
    old, new = edfio.read_edf(source), edfio.read_edf(path)
    for before, after in zip(old.signals, new.signals, strict=True):
        assert before.physical_range == after.physical_range
        assert np.array_equal(before.digital, after.digital)
    assert [a.text for a in new.annotations] == [a.text for a in old.annotations]


def test_changed_values_get_a_scaling_of_their_own(recordings, tmp_path):
    ds = ps.open_dataset(recordings / "eegmmidb_S001/S001R04.edf").isel(channel=slice(0, 2))
    smaller = ds.assign(signal=(ds.signal.dims, ds.signal.values * 0.01, ds.signal.attrs))
    report = ps.export(smaller, tmp_path / "small.edf")
    assert max(report.quantisation_step.values()) < 1e-3


def test_every_rate_is_exported(make_edf, tmp_path):
    source, _ = make_edf(
        labels=["EEG Fz", "Resp chest", "Temp rectal"],
        rates=[100, 10, 0.5],
        record=2.0,
        units=["uV", "", "degC"],
    )
    ds = ps.open_dataset(source, dtype="float64")
    ps.export(ds, tmp_path / "out.edf")
    again = ps.open_dataset(tmp_path / "out.edf", dtype="float64")
    for name in ("signal", "signal_10Hz", "signal_0.5Hz"):
        assert np.allclose(again[name].values, ds[name].values, rtol=0, atol=1e-9)
    assert again["channel_type_0.5Hz"].values.tolist() == ["temperature"]
    assert again["channel_unit_0.5Hz"].values.tolist() == ["degC"]


def test_known_ranges_need_one_pass_and_clip_with_a_count(tmp_path):
    ds = recording()
    values = ds.signal.values
    low, high = values.min(axis=1), values.max(axis=1)
    report = ps.export(ds, tmp_path / "a.edf", ranges=(low, high))
    assert sum(report.clipped.values()) == 0
    report = ps.export(ds, tmp_path / "b.edf", ranges=(low, high / 2))
    again = ps.open_dataset(tmp_path / "b.edf").signal.values
    above = (values > report.quantisation_step["C0"] + high[:, None] / 2).sum(axis=1)
    assert all(abs(report.clipped[f"C{i}"] - above[i]) <= 3 for i in range(4))
    assert (again.max(axis=1) <= high / 2 + 0.1).all()


@pytest.mark.parametrize("buffer_bytes", [20_000, 100_000, 1 << 25])
@pytest.mark.parametrize("chunks", [None, {"channel": 1, "time": -1}, {"channel": 2, "time": 700}])
def test_blocks_do_not_matter(tmp_path, buffer_bytes, chunks):
    ds = recording()
    ps.export(ds, tmp_path / "whole.edf")
    part = ds if chunks is None else ds.chunk(chunks)
    ps.export(part, tmp_path / "blocks.edf", buffer_bytes=buffer_bytes)
    assert (tmp_path / "blocks.edf").read_bytes() == (tmp_path / "whole.edf").read_bytes()


def test_a_length_that_no_record_divides_is_padded_and_said(tmp_path):
    n_times = 30_011  # a prime number, too many for one record
    ds = recording(n_times=n_times)
    report = ps.export(ds, tmp_path / "out.edf")
    again = ps.open_dataset(tmp_path / "out.edf")
    extra = again.sizes["time"] - n_times
    assert extra > 0
    assert report.padded_seconds == pytest.approx(extra / 250)
    assert (again.signal.values[:, n_times:] == again.signal.values[:, n_times - 1 : n_times]).all()


def test_what_edf_cannot_hold_is_said(tmp_path):
    ds = recording()
    broken = ds.copy(deep=True)
    broken.signal.values[2, 100] = np.nan
    with pytest.raises(ValueError, match="'C2' holds values that are not numbers"):
        ps.export(broken, tmp_path / "out.edf")
    with pytest.raises(ValueError, match="'C2' holds values that are not numbers"):
        ps.export(broken, tmp_path / "out.edf", ranges=(np.full(4, -1e4), np.full(4, 1e4)))
    assert list(tmp_path.iterdir()) == []
    long_names = ds.assign_coords(channel=["a" * 20, "Fp1-Längs", "c", "d"])
    report = ps.export(long_names, tmp_path / "names.edf")
    assert report.renamed == {"a" * 20: "a" * 16, "Fp1-Längs": "Fp1-Langs"}


def test_status_codes_stay_exact(tmp_path):
    codes = np.tile([0, 1, 255, 128, 32767], 100).astype("float32")
    ds = ps.make_dataset(
        np.stack([codes, codes * 0.37]),
        sampling_frequency=100,
        units="uV",
        coords={"channel": ["Status", "Cz"], "channel_type": ("channel", ["stim", "eeg"])},
    )
    ps.export(ds, tmp_path / "out.edf")
    again = ps.open_dataset(tmp_path / "out.edf")
    assert np.array_equal(again.signal.values[0], codes)
    assert again.channel_type.values.tolist() == ["stim", "eeg"]


def test_flat_tiny_and_volt_channels(tmp_path):
    rng = np.random.default_rng(0)
    values = np.stack([np.full(500, 3.25), rng.normal(0, 1e-6, 500), rng.normal(0, 2e-5, 500)])
    ds = ps.make_dataset(
        values,
        sampling_frequency=100,
        units="uV",
        coords={"channel_unit": ("channel", ["uV", "S", "V"]), "channel": ["flat", "skin", "volt"]},
    )
    report = ps.export(ds, tmp_path / "out.edf")
    again = ps.open_dataset(tmp_path / "out.edf", dtype="float64").signal.values
    assert np.abs(again[0] - 3.25).max() < 1e-4
    assert np.abs(again[1] - values[1]).max() <= report.quantisation_step["skin"] * 0.51 < 1e-9
    assert np.abs(again[2] - values[2] * 1e6).max() < 1e-2


# ------------------------------------------------------------------ FIF


def test_fif_round_trip(tmp_path):
    bad = np.array([False, True, False, False])
    ds = recording(bad=("channel", bad), channel_type=("channel", ["eeg", "eog", "ecg", "odd"]))
    report = ps.export(ds, tmp_path / "out_raw.fif", buffer_bytes=50_000)
    assert report.notes == ("FIF knows no channel type 'odd': 'C3' is written as 'misc'",)
    raw = mne.io.read_raw_fif(tmp_path / "out_raw.fif", verbose="error")
    assert raw.info["bads"] == ["C1"]
    assert raw.info["meas_date"].isoformat() == "2021-03-04T05:06:07.250000+00:00"
    again = ps.open_dataset(tmp_path / "out_raw.fif")
    assert np.allclose(again.signal.values[:3], ds.signal.values[:3], rtol=1e-6)
    assert again.channel_type.values.tolist() == ["eeg", "eog", "ecg", "misc"]
    table = ps.events_table(again)
    assert np.allclose(table.onset, ps.events_table(ds).onset, rtol=0, atol=1e-5)
    assert table.label.tolist() == ps.events_table(ds).label.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["out_raw.fif"]


# ------------------------------------------------------------------ all formats


@pytest.mark.parametrize("name", ["out.edf", "out.fif"])
def test_existing_targets_and_failures(tmp_path, name, monkeypatch):
    ds = recording()
    target = tmp_path / name
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists: choose another name or give overwrite"):
        ps.export(ds, target)

    def stop(fraction):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        ps.export(ds, target, overwrite=True, progress=stop)
    assert target.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    ps.export(ds, target, overwrite=True)
    assert ps.open_dataset(target).sizes["time"] == 2500


def test_export_refuses_what_it_cannot_do(make_edf, tmp_path):
    ds = recording()
    with pytest.raises(
        ValueError, match=r"cannot tell the format.*\.zarr, \.edf, \.fif, \.nii\.gz"
    ):
        ps.export(ds, tmp_path / "out.xyz")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ps.export(ds, tmp_path / "nowhere" / "out.edf")
    source, _ = make_edf()
    with pytest.raises(ValueError, match="is the file this dataset is read from"):
        ps.export(ps.open_dataset(source), source, overwrite=True)


@pytest.mark.parametrize("name", ["out.edf", "out.fif"])
def test_memory_stays_within_the_buffer(make_edf, tmp_path, name):
    labels = [f"EEG {i}" for i in range(32)]
    source, _ = make_edf(labels=labels, rates=[500.0] * 32, seconds=600)
    ds = ps.open_dataset(source)
    buffer_bytes = 4 << 20
    ps.export(ds.isel(time=slice(0, 1000)), tmp_path / f"first_{name}")  # imports and caches
    tracemalloc.start()
    try:
        ps.export(ds, tmp_path / name, buffer_bytes=buffer_bytes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ds.signal.nbytes > 8 * buffer_bytes
    assert peak < buffer_bytes + reading_of(ds.signal).scratch_bytes + (1 << 20)


# ------------------------------------------------------------------ layout


@given(
    rate=st.sampled_from([0.5, 1, 100, 128, 160, 200, 250, 256, 500, 512, 512.5, 1000, 2048, 5000]),
    slow=st.sampled_from([None, 1, 10, 0.25]),
    n_times=st.integers(1, 2_000_000),
    n_channels=st.integers(1, 300),
)
def test_records_hold_whole_samples_of_every_rate(rate, slow, n_times, n_channels):
    rates, lengths, counts = [rate], [n_times], [n_channels]
    if slow is not None:
        rates, counts = [rate, slow], [n_channels, 2]
        lengths = [n_times, max(1, round(n_times * slow / rate))]
    layout = plan_records(rates, lengths, counts)
    text = seconds_text(layout.duration)
    assert len(text) <= 8
    assert Fraction(text) == layout.duration
    for one, samples, length in zip(rates, layout.samples, lengths, strict=True):
        assert samples == Fraction(one) * layout.duration
        total = samples * layout.n_records
        assert total >= length
        if layout.exact:
            assert total == length
    # never a whole record too many
    assert any(
        samples * (layout.n_records - 1) < length
        for samples, length in zip(layout.samples, lengths, strict=True)
    )


def test_record_durations():
    assert plan_records([160.0], [20000], [64]).duration == 1
    assert plan_records([512.5], [5125], [8]).duration == 2
    assert plan_records([1000 / 3], [10_000], [8]).samples == (400,)
    dense = plan_records([5000.0], [3_000_000], [64])
    assert 2 * 64 * dense.samples[0] <= 61440
    assert dense.exact
    with pytest.raises(ValueError, match="no data record duration for sampling frequencies"):
        plan_records([100.0, 100.0 * np.pi], [1000, 3141], [64, 1])


@pytest.mark.parametrize("n_channels", [1, 64])
@pytest.mark.parametrize("n_times", [1, 1000, 36_007, 2_162_214, 10_000_000])
@pytest.mark.parametrize("rate", [600.615, 999.4121, np.pi * 100, 2048.0001, 0.3])
def test_rates_without_whole_records_move_no_sample(rate, n_times, n_channels):
    layout = plan_records([rate], [n_times], [n_channels])
    written = float(layout.samples[0] / layout.duration)
    assert len(seconds_text(layout.duration)) <= 8
    assert 2 * n_channels * layout.samples[0] <= 10 << 20
    assert abs(n_times / written - n_times / rate) * rate <= 0.1001
    assert written == pytest.approx(rate, rel=1e-6)
    padded = layout.samples[0] * layout.n_records - n_times
    assert 0 <= padded / rate <= max(1.0, 0.1 * n_times / rate)


@given(
    st.floats(-9e6, 9e6, allow_nan=False),
    st.floats(0, 9e6, allow_nan=False),
)
def test_physical_range_contains_the_data_in_eight_characters(low, width):
    high = low + width
    first, last = physical_range(low, high)
    assert first < last
    assert first <= low
    assert last >= high
    assert exact_text(first) is not None
    assert exact_text(last) is not None
    # hardly wider than needed: by what the last of the characters can tell
    digit = 10.0 ** -max(0, 5 - len(str(int(max(abs(low), abs(high))))))
    assert last - first <= 1.02 * (high - low if high > low else 1.0) + 2 * digit


@given(
    st.lists(
        st.tuples(
            st.floats(-5, 200, allow_nan=False).map(lambda t: round(t, 4)),
            st.text(st.characters(exclude_characters="\x00\x14\x15", codec="utf-8"), max_size=20),
        ),
        max_size=40,
    )
)
def test_annotation_records_hold_every_event(events):
    layout = plan_records([100.0], [10_000], [3])
    onsets, labels = [onset for onset, _ in events], [label for _, label in events]
    records, reserved = annotation_records(onsets, [0] * len(events), labels, layout, Decimal("0"))
    assert len(records) == layout.n_records
    assert reserved % 2 == 0
    assert max(map(len, records)) <= reserved
    found = []
    for i, data in enumerate(records):
        tals = data.split(b"\x00")[:-1]
        clock = Decimal(layout.duration.numerator) / Decimal(layout.duration.denominator) * i
        assert Decimal(tals[0].split(b"\x14")[0].decode()) == clock
        found += [
            (float(tal.split(b"\x14")[0]), tal.split(b"\x14")[1].decode()) for tal in tals[1:]
        ]
    assert sorted(found) == sorted(events)


def regions(n_regions=5, n_volumes=41):
    values = np.random.default_rng(3).standard_normal((n_regions, n_volumes))
    values[2, 7] = np.nan
    names = ["V1", "V1", "insula", "a,b", "amygdala"][:n_regions]
    return ps.make_dataset(
        values, ("region", "time"), sampling_frequency=0.5, coords={"region": names}
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
@pytest.mark.parametrize("buffer_bytes", [1, 1 << 20])
def test_tables_have_a_row_a_volume_and_a_column_a_region(suffix, buffer_bytes, tmp_path):
    ds = regions()
    path = tmp_path / f"signals{suffix}"
    report = ps.export(ds, path, buffer_bytes=buffer_bytes)
    assert report.format == suffix[1:]
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, sep="," if suffix == ".csv" else "\t")
    assert list(table.columns) == ["time", "V1", "V1_2", "insula", "a,b", "amygdala"]
    np.testing.assert_allclose(table["time"], np.arange(41) * 2.0)
    np.testing.assert_array_equal(table.iloc[:, 1:].to_numpy().T, ds.signal.values)
    with pytest.raises(FileExistsError):
        ps.export(ds, path)


def test_only_two_dims_make_a_table(tmp_path):
    ds = ps.make_dataset(np.zeros((2, 3, 4)), ("x", "y", "time"), sampling_frequency=1.0)
    with pytest.raises(ValueError, match=r"a table has rows and columns.*\.zarr"):
        ps.export(ds, tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())
