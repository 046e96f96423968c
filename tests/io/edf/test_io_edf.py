from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

import penstock as ps
from penstock.io import read_annotations
from penstock.io.labels import split_label, unique_names, volts
from penstock.testing.readers import check_reader

edfio = pytest.importorskip("edfio")
mne = pytest.importorskip("mne")


def physical(digital: np.ndarray, low: float, high: float, bits: int = 16) -> np.ndarray:
    """Straight from the specification, in float64."""
    gain = (high - low) / (2**bits - 1)
    return digital * gain + (low + 2 ** (bits - 1) * gain)


# ------------------------------------------------------------------ real recordings


@pytest.mark.parametrize("run", range(3, 9))
def test_same_values_and_events_as_mne(recordings, run):
    path = recordings / f"eegmmidb_S001/S001R{run:02}.edf"
    raw = mne.io.read_raw_edf(path, verbose="error")
    expected = raw.get_data() * 1e6
    span = np.ptp(expected)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        ds = ps.open_dataset(path, dtype=dtype)
        assert ds.signal.dtype == dtype
        assert np.abs(ds.signal.values - expected).max() <= tolerance * span
    events = ps.events_table(ds)
    assert events.onset.tolist() == raw.annotations.onset.tolist()
    assert events.duration.tolist() == raw.annotations.duration.tolist()
    assert events.label.tolist() == raw.annotations.description.tolist()
    assert ds.channel.values.tolist() == [name.rstrip(".") for name in raw.ch_names]
    assert ds["label"].values.tolist() == raw.ch_names
    assert ps.sampling_frequency(ds) == 160.0
    assert ds.attrs["measurement_date"] == "2009-08-12T16:15:00"
    assert set(ds.channel_type.values) == {"eeg"}
    assert ds.signal.attrs["units"] == "uV"


def test_edf_keeps_the_reader_contract(recordings):
    check_reader(recordings / "eegmmidb_S001/S001R03.edf")


def test_bdf_as_mne_reads_it(recordings):
    path = recordings / "biosemi_test.bdf"
    check_reader(path)
    raw = mne.io.read_raw_bdf(path, verbose="error")
    ds = ps.open_dataset(path, dtype="float64")
    expected = raw.get_data()
    stim = ds.channel_type.values == "stim"
    assert np.abs(ds.signal.values[~stim] - expected[~stim] * 1e6).max() < 1e-12 * 262144
    assert ds.channel.values[stim].tolist() == ["Status"]
    assert np.array_equal(ds.signal.values[stim], expected[stim])
    assert set(ps.open_dataset(path, stim_mask=0xFF).signal.values[stim].ravel()) == {0, 128}
    # MNE-Python calls these EEG unless told otherwise
    assert ds.channel.values[ds.channel_type.values == "eog"].tolist() == ["REOG", "LEOG"]


def test_float32_is_within_two_units_in_the_last_place(recordings):
    path = recordings / "biosemi_test.bdf"
    exact = ps.open_dataset(path, dtype="float64").signal.values
    found = ps.open_dataset(path).signal.values
    assert (np.abs(found - exact) <= 2 * np.spacing(np.abs(exact).astype("float32"))).all()


def test_hypnogram_has_events_but_no_signal(recordings):
    path = recordings / "sleep_edf/SC4001EC-Hypnogram.edf"
    with pytest.raises(ValueError, match=r"annotations only.*read_annotations") as info:
        ps.open_dataset(path)
    assert "\n" not in str(info.value)
    expected = mne.read_annotations(path)
    events = read_annotations(path)
    assert events.onset.tolist() == expected.onset.tolist()
    assert events.duration.tolist() == expected.duration.tolist()
    assert events.label.tolist() == expected.description.tolist()


# ------------------------------------------------------------------ what files can be like


def test_every_rate_keeps_its_own_channels(make_edf):
    path, digital = make_edf(
        labels=["EEG Fpz-Cz", "Resp oro-nasal", "EEG Pz-Oz", "Temp rectal", "Event marker"],
        rates=[100, 1, 100, 0.5, 1],
        record=2.0,
        units=["uV", "", "uV", "DegC", ""],
    )
    ds = ps.open_dataset(path, dtype="float64")
    assert ds.channel.values.tolist() == ["Fpz-Cz", "Pz-Oz"]
    assert ds.signal.shape == (2, 1000)
    assert np.allclose(ds.signal.values[1], physical(digital[2], -3276.8, 3276.7), rtol=1e-13)
    assert ds.signal_1Hz.dims == ("channel_1Hz", "time_1Hz")
    assert ds["channel_1Hz"].values.tolist() == ["oro-nasal", "Event marker"]
    assert ds["channel_type_1Hz"].values.tolist() == ["resp", "stim"]
    assert ps.sampling_frequency(ds, "time_0.5Hz") == 0.5
    assert ds["channel_unit_0.5Hz"].values.tolist() == ["DegC"]
    assert np.allclose(ds["signal_0.5Hz"].values[0], physical(digital[3], -3276.8, 3276.7))
    slow = ps.open_dataset(path, rate=1)
    assert slow.signal.shape == (2, 10)
    assert slow.signal_100Hz.shape == (2, 1000)
    with pytest.raises(ValueError, match=r"sampled at 7 Hz: it has 0\.5, 1, 100 Hz"):
        ps.open_dataset(path, rate=7)
    check_reader(path)


@pytest.mark.parametrize("name", ["long.edf", "long.bdf"])
@pytest.mark.parametrize("record", [0.5, 60.0])
def test_short_and_very_long_records(make_edf, monkeypatch, name, record):
    if record > 1:
        # as if one data record were many megabytes
        monkeypatch.setattr("penstock.io.edf.records.BATCH_BYTES", 4096)
        monkeypatch.setattr("penstock.io.edf.records.LONG_BYTES", 16384)
    path, digital = make_edf(name, seconds=60.0, record=record)
    ds = check_reader(path, dtype="float64")
    bits = 24 if name.endswith("bdf") else 16
    expected = physical(np.stack(digital), -3276.8, 3276.7, bits)
    assert np.allclose(ds.signal.values, expected, rtol=0, atol=1e-9)


def test_channels_far_apart_are_read_without_what_lies_between(make_edf, monkeypatch):
    labels = [f"EEG {i}" for i in range(20)]
    path, digital = make_edf(labels=labels, rates=[1000.0] * 20, seconds=5)
    ds = ps.open_dataset(path, dtype="float64")
    n_read = 0
    preadv = os.preadv

    def counting(fd, buffers, position):
        nonlocal n_read
        done = preadv(fd, buffers, position)
        n_read += done
        return done

    monkeypatch.setattr(os, "preadv", counting)
    found = ds.signal.isel(channel=[0, 1, 17]).values
    expected = physical(np.stack([digital[0], digital[1], digital[17]]), -3276.8, 3276.7)
    assert np.allclose(found, expected, rtol=0, atol=1e-9)
    assert n_read == 3 * 5000 * 2


def test_non_integer_record_duration(make_edf):
    path, digital = make_edf(rates=[512.5] * 3, seconds=8, record=0.08 * 2)
    ds = ps.open_dataset(path)
    assert ps.sampling_frequency(ds) == 512.5
    assert ds.sizes["time"] == len(digital[0]) == 4100


def test_units_become_microvolts(make_edf):
    path, digital = make_edf(
        labels=["EEG 1", "EEG 2", "EEG 3", "EEG 4", "Pulse"],
        rates=[100] * 5,
        units=["mV", "V", "nV", "", "bpm"],
        ranges=[(-1, 1), (-2, 3), (-500, 500), (-100, 100), (0, 300)],
    )
    ds = ps.open_dataset(path, dtype="float64")
    assert ds.channel_unit.values.tolist() == ["uV", "uV", "uV", "uV", "bpm"]
    assert ds.channel_type.values.tolist() == ["eeg"] * 4 + ["misc"]
    for i, (low, high, factor) in enumerate(
        [(-1, 1, 1e3), (-2, 3, 1e6), (-500, 500, 1e-3), (-100, 100, 1), (0, 300, 1)]
    ):
        expected = physical(digital[i], low, high) * factor
        assert np.allclose(ds.signal.values[i], expected, rtol=1e-12, atol=1e-12 * factor * 500)


def test_micro_sign_decimal_comma_and_nul_padding(make_edf):
    path, digital = make_edf(labels=["EEG Cz"], rates=[100], ranges=[(-12.5, 12.5)])
    data = bytearray(path.read_bytes())
    data[256 + 96 : 256 + 104] = b"\xb5V\x00\x00\x00\x00\x00\x00"
    data[256 + 104 : 256 + 112] = b"-12,5   "
    path.write_bytes(data)
    ds = ps.open_dataset(path, dtype="float64")
    assert ds.channel_unit.values.tolist() == ["uV"]
    assert np.allclose(ds.signal.values[0], physical(digital[0], -12.5, 12.5))


def test_channel_names_are_unique_and_types_can_be_given(make_edf):
    path, _ = make_edf(labels=["EEG Cz", "Cz.", "HEOG"])
    ds = ps.open_dataset(path, channel_types={"Cz-1": "misc"})
    assert ds.channel.values.tolist() == ["Cz-0", "Cz-1", "HEOG"]
    assert ds.channel_type.values.tolist() == ["eeg", "misc", "eog"]
    with pytest.raises(ValueError, match="channel_types names 'Oz', not in"):
        ps.open_dataset(path, channel_types={"Oz": "eog"})


@pytest.mark.parametrize(
    ("label", "unit", "expected"),
    [
        ("EEG Fpz-Cz", "uV", ("Fpz-Cz", "eeg")),
        ("C5..", "uV", ("C5", "eeg")),
        ("EKG", "mV", ("EKG", "ecg")),
        ("ECG II", "mV", ("II", "ecg")),
        ("EMG1-EMG2", "uV", ("EMG1-EMG2", "emg")),
        ("Event marker", "", ("Event marker", "stim")),
        ("Status", "Boolean", ("Status", "stim")),
        ("STI 014", "", ("STI 014", "stim")),
        ("SaO2 SpO2", "%", ("SpO2", "bio")),
        ("Temporal", "uV", ("Temporal", "eeg")),
        ("Position", "cm", ("Position", "misc")),
        ("EEG", "uV", ("EEG", "eeg")),
    ],
)
def test_labels_tell_name_and_type(label, unit, expected):
    assert split_label(label, unit) == expected


def test_unit_and_name_helpers():
    assert [volts(u) for u in ("uV", "µV", "μV", "mV", "V", "nV", "degC", "")] == [
        1, 1, 1, 1e3, 1e6, 1e-3, None, None,
    ]  # fmt: skip
    assert unique_names(["a", "b", "a", "a-0", ""]) == ["a-1", "b", "a-2", "a-0", "channel 5"]


def test_onsets_count_from_the_first_sample(make_edf):
    import datetime

    events = [edfio.EdfAnnotation(0.1, None, "µ-Welle"), edfio.EdfAnnotation(3.3, 1.5, "b")]
    path, _ = make_edf(annotations=events, starttime=datetime.time(1, 2, 3, 250000))
    table = ps.events_table(ps.open_dataset(path))
    assert table.onset.tolist() == [0.1, 3.3]
    assert table.duration.tolist() == [0.0, 1.5]
    assert table.label.tolist() == ["µ-Welle", "b"]


# ------------------------------------------------------------------ EDF+D


def interrupted(path, record_onsets):
    """Rewrite the clock of every data record of an EDF+C file and call it EDF+D."""
    data = path.read_bytes().replace(b"EDF+C", b"EDF+D", 1)
    for i, onset in enumerate(record_onsets):
        old, new = f"+{i}\x14\x14\x00".encode(), f"+{onset}\x14\x14\x00".encode()
        assert len(old) == len(new)
        assert old in data
        position = data.rindex(old)
        data = data[:position] + new + data[position + len(old) :]
    path.write_bytes(data)


def test_interrupted_recordings_are_refused_or_joined(make_edf):
    events = [edfio.EdfAnnotation(1.5, None, "before"), edfio.EdfAnnotation(8.25, 0.5, "after")]
    path, digital = make_edf(seconds=5, annotations=events)
    interrupted(path, [0, 1, 2, 7, 8])
    with pytest.raises(ValueError, match=r"interrupted 1 time.*after 3 s for 4 s.*gaps='join'"):
        ps.open_dataset(path)
    ds = ps.open_dataset(path, gaps="join", dtype="float64")
    table = ps.events_table(ds)
    assert table.label.tolist() == ["before", "BAD_ACQ_SKIP", "after"]
    assert table.onset.tolist() == [1.5, 3.0, 4.25]
    assert np.allclose(ds.signal.values[0], physical(digital[0], -3276.8, 3276.7))


def test_edf_d_without_interruption_opens(make_edf):
    path, _ = make_edf(seconds=5, annotations=[edfio.EdfAnnotation(1, None, "x")])
    interrupted(path, [0, 1, 2, 3, 4])
    assert ps.events_table(ps.open_dataset(path)).label.tolist() == ["x"]


# ------------------------------------------------------------------ damaged files


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert ".edf" in text
    return text


def test_cut_short_uses_the_complete_records(make_edf):
    path, digital = make_edf()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="cut short.*9 complete records are used"):
        ds = ps.open_dataset(path, dtype="float64")
    assert ds.sizes["time"] == 900
    assert np.allclose(ds.signal.values[0], physical(digital[0][:900], -3276.8, 3276.7))


def test_unknown_number_of_records_is_taken_from_the_size(make_edf):
    path, _ = make_edf()
    data = bytearray(path.read_bytes())
    data[236:244] = b"-1      "
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ps.open_dataset(path).sizes["time"] == 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:100], "ends inside its header"),
        (lambda data: data[:600], "ends inside its header"),
        (lambda data: data[:1024], "no complete data record"),
        (lambda data: data[:1100], "no complete data record"),
        (lambda data: b"", "is empty"),
        (lambda data: b"channel,time\n1,2\n" * 40, "does not hold it"),
        (lambda data: data[:236] + b"\r\n      " + data[244:], "damaged.*text mode"),
        (lambda data: data[:252] + b"abcd" + data[256:], "number of signals is 'abcd'"),
        (lambda data: data.replace(b"\n", b"\r\n"), "line end has become CR LF"),
    ],
)
def test_damaged_files_give_one_sentence(make_edf, change, words):
    path, _ = make_edf()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=words) as error:
        ps.open_dataset(path)
    one_sentence(error)


def test_shifted_bytes_are_noticed_by_the_annotations(recordings, tmp_path):
    path = tmp_path / "shifted.edf"
    data = (recordings / "eegmmidb_S001/S001R03.edf").read_bytes()
    path.write_bytes(data[:500_000] + data[500_001:])
    with (
        pytest.warns(UserWarning, match="cut short"),
        pytest.raises(ValueError, match=r"not where its header says.*binary mode") as error,
    ):
        ps.open_dataset(path)
    one_sentence(error)


def test_file_that_shrinks_after_opening(make_edf):
    path, _ = make_edf()
    ds = ps.open_dataset(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(OSError, match="ended while it was read"):
        ds.signal.load()
