"""What the header and the annotations of EDF+ hold: names, people, dates, events, filters.

MNE-Python, edfio and pyEDFlib read what is written.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from edf_files import Signal, odd_file, stamps, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.io.edf.identity import patient_field, recording_field

edfio = pytest.importorskip("edfio")
mne = pytest.importorskip("mne")
pyedflib = pytest.importorskip("pyedflib")

ONE_FILE = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# ------------------------------------------------------------------ names and types


def names_dataset(names, kinds=None, **coords):
    n = len(names)
    return ps.make_dataset(
        np.random.default_rng(0).normal(0, 30, (n, 200)),
        sampling_frequency=100,
        units="uV",
        coords={
            "channel": list(names),
            "channel_type": ("channel", list(kinds or ["eeg"] * n)),
            **coords,
        },
    )


def test_channels_are_not_renamed(tmp_path):
    names = ["Cz", "EEG 001", "Fc5.", "EOG left", "ECG", "Temp", "A B", "STI 014", "x" * 16]
    kinds = ["eeg", "eeg", "eeg", "eog", "misc", "eeg", "ecg", "stim", "emg"]
    ds = names_dataset(names, kinds)
    report = ps.export(ds, tmp_path / "out.edf")
    assert report.renamed == {}
    assert mne.io.read_raw_edf(tmp_path / "out.edf", verbose="error").ch_names == names
    again = ps.open_dataset(tmp_path / "out.edf")
    assert again.channel.values.tolist() == names
    assert again.channel_type.values.tolist() == kinds
    ps.export(again, tmp_path / "twice.edf")
    assert mne.io.read_raw_edf(tmp_path / "twice.edf", verbose="error").ch_names == names


def test_standard_labels_are_written_when_asked_for(tmp_path):
    ds = names_dataset(["Cz", "left", "STI 014"], ["eeg", "eog", "stim"])
    ps.export(ds, tmp_path / "out.edf", typed_labels=True)
    raw = mne.io.read_raw_edf(tmp_path / "out.edf", verbose="error", infer_types=True)
    assert raw.ch_names == ["Cz", "left", "014"] or raw.ch_names[:2] == ["Cz", "left"]
    assert raw.get_channel_types()[:2] == ["eeg", "eog"]
    again = ps.open_dataset(tmp_path / "out.edf")
    assert again.channel.values.tolist() == ["Cz", "left", "STI 014"]
    assert again.channel_type.values.tolist() == ["eeg", "eog", "stim"]


def test_standard_labels_take_the_place_of_bare_ones(tmp_path):
    signals = [Signal(label, np.arange(100)) for label in ("Cz", "EEG Pz", "EOG left")]
    ds = ps.open_dataset(write(tmp_path / "a.edf", signals, n_records=1, reserved=""))
    ps.export(ds, tmp_path / "b.edf", typed_labels=True)
    labels = [s.label for s in edfio.read_edf(tmp_path / "b.edf").signals]
    assert labels == ["EEG Cz", "EEG Pz", "EOG left"]


def test_names_that_edf_cannot_hold_are_told(tmp_path):
    names = ["a" * 17, "a" * 18, "Ω-Kanal", "Größe", "Cz", "EDF Annotations", "日本"]
    report = ps.export(names_dataset(names), tmp_path / "out.edf")
    again = ps.open_dataset(tmp_path / "out.edf").channel.values.tolist()
    assert len(set(again)) == len(names)
    assert report.renamed == {
        before: after for before, after in zip(names, again, strict=True) if before != after
    }
    assert again[2:5] == ["Ohm-Kanal", "Grosse", "Cz"]
    with pyedflib.EdfReader(str(tmp_path / "out.edf")) as reader:
        assert reader.signals_in_file == len(names)


def test_labels_of_the_source_stay_while_they_give_the_name(tmp_path):
    source = write(
        tmp_path / "a.edf",
        [Signal(label, np.arange(100)) for label in ("EEG Fpz-Cz", "Cz", "Cz", "EOG left")],
        n_records=1,
        reserved="",
    )
    ds = ps.open_dataset(source)
    assert ds.channel.values.tolist() == ["Fpz-Cz", "Cz-0", "Cz-1", "left"]
    other = ds.assign_coords(
        channel=["renamed", "Cz-0", "Cz-1", "left"],
        channel_type=("channel", ["eeg", "eeg", "eeg", "emg"]),
    )
    ps.export(other, tmp_path / "b.edf")
    labels = [s.label for s in edfio.read_edf(tmp_path / "b.edf").signals]
    assert labels == ["renamed", "Cz", "Cz", "EOG left"]
    again = ps.open_dataset(tmp_path / "b.edf")
    assert again.channel.values.tolist() == ["renamed", "Cz-0", "Cz-1", "left"]
    assert again.channel_type.values.tolist() == ["eeg", "eeg", "eeg", "emg"]
    ps.export(ds.isel(channel=[2]), tmp_path / "c.edf")
    assert ps.open_dataset(tmp_path / "c.edf").channel.values.tolist() == ["Cz-1"]


def test_bad_channels_are_told_and_come_back(tmp_path):
    ds = names_dataset(["Cz", "Pz", "EOG"], bad=("channel", [True, False, True]))
    report = ps.export(ds, tmp_path / "out.edf")
    assert any("Cz, EOG" in note and "bad" in note for note in report.notes)
    again = ps.open_dataset(tmp_path / "out.edf")
    assert again.bad.values.tolist() == [True, False, True]
    assert ps.export(ds.isel(channel=[1]), tmp_path / "good.edf").notes == ()


def test_texts_of_the_header_that_change_are_told(tmp_path):
    signals = [
        Signal("Cz", np.arange(100), transducer="\xb5-electrode"),
        Signal("Pz", np.arange(100), transducer="cup", prefiltering="HP:0,1\xa0Hz"),
    ]
    path = write(tmp_path / "a.edf", signals, n_records=1, reserved="")
    notes = " ".join(ps.export(ps.open_dataset(path), tmp_path / "b.edf").notes)
    assert "the transducer of Cz" in notes
    assert "the prefiltering text of Pz" in notes
    assert edfio.read_edf(tmp_path / "b.edf").signals[0].transducer_type == "u-electrode"


@pytest.mark.parametrize("ranges", [False, True])
def test_missing_values_of_bad_channels_do_not_stop_a_recording(ranges, tmp_path):
    ds = names_dataset(["Cz", "Pz", "dead"], bad=("channel", [False, True, True]))
    ds.signal.values[1, 50:60] = np.nan
    ds.signal.values[2] = np.inf
    low, high = ds.signal.values.min(axis=1), ds.signal.values.max(axis=1)
    report = ps.export(ds, tmp_path / "out.edf", ranges=(low, high) if ranges else None)
    notes = " ".join(report.notes)
    assert "10 samples of the bad channel 'Pz'" in notes
    assert "200 samples of the bad channel 'dead'" in notes
    again = ps.open_dataset(tmp_path / "out.edf", dtype="float64").signal.values
    assert np.abs(again[2]).max() == 0
    assert np.abs(again[1, 50:60]).max() < report.quantisation_step["Pz"]
    assert np.abs(again[1, :50] - ds.signal.values[1, :50]).max() < report.quantisation_step["Pz"]


def test_everything_that_edf_has_no_place_for_is_named(tmp_path):
    ds = names_dataset(["Cz", "Pz"]).assign_coords(
        trigger_time=("trigger", [0.5, 1.0]), position=("channel", [1.0, 2.0])
    )
    ds.attrs |= {"montage": "standard", "measurement_date": "2024-05-17T09:30:00+02:00"}
    notes = " ".join(ps.export(ds, tmp_path / "out.edf").notes)
    for word in ("trigger_time", "position", "montage", "+0200"):
        assert word in notes
    assert ps.open_dataset(tmp_path / "out.edf").attrs["measurement_date"] == "2024-05-17T09:30:00"


# ------------------------------------------------------------------ who, when, and what happened

PATIENT = re.compile(
    r"^\S+ [XFM] (X|\d\d-(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)-\d{4}) \S+( .*)?$"
)
texts = st.text(st.characters(codec="utf-8"), max_size=100) | st.sampled_from(
    [
        "J. B. (1066 28)",
        "Doe",
        "12345 John",
        "MCH-0234567 F 02-MAY-1951 Haagse_Harry",
        "MCH f 2-may-1951 Harry",
        "A M 31-FEB-1999 X",
        "X X X X",
        "Müller, Jürgen",
        "a=b=c",
        "ab M 01-JAN-1990 " + "n" * 100 + " more",
        "Startdate 02-MAR-2002 PSG-1234/2002 NN Telemetry03",
        "Startdate 2-mar-2002",
        "Startdate X X",
        "Startdate",
        "ward 3",
    ]
)


@given(patient=texts, recording=texts, year=st.sampled_from([1924, 1970, 1984, 1985, 2024, 2085]))
@ONE_FILE
def test_identity_keeps_to_edf_plus_for_any_text(tmp_path, patient, recording, year):
    date = f"{year}-02-28T23:59:58.250000"
    ds = names_dataset(["Cz"])
    ds.attrs |= {"edf_patient": patient, "edf_recording": recording, "measurement_date": date}
    path = tmp_path / "out.edf"
    ps.export(ds, path, overwrite=True)
    head = path.read_bytes()[:256]
    assert head.isascii()
    assert PATIENT.match(head[8:88].decode().rstrip())
    with pyedflib.EdfReader(str(path)) as reader:
        found = reader.getStartdatetime()
    if year >= 1970:
        assert found.replace(microsecond=0) == datetime.datetime(year, 2, 28, 23, 59, 58)
    again = ps.open_dataset(path)
    assert again.attrs["measurement_date"] == date
    assert edfio.read_edf(path).starttime == datetime.time(23, 59, 58, 250000)
    # what is written once keeps its form
    ps.export(again, tmp_path / "twice.edf", overwrite=True)
    assert (tmp_path / "twice.edf").read_bytes()[:256] == head


def test_identity_fields():
    assert patient_field("MCH-0234567 F 02-MAY-1951 Haagse_Harry x=1") == (
        "MCH-0234567 F 02-MAY-1951 Haagse_Harry x=1",
        True,
    )
    assert patient_field("J. B. (1066 28)") == ("X X X J._B._(1066_28)", False)
    assert patient_field("MCH f 2-may-1951 Harry") == ("MCH F 02-MAY-1951 Harry", False)
    assert patient_field("A M 31-FEB-1999 X")[0] == "X X X A_M_31-FEB-1999_X"
    assert patient_field("") == ("X X X X", True)
    date = datetime.date(2002, 3, 2)
    assert recording_field("Startdate 01-JAN-2000 PSG NN Tele", date) == (
        "Startdate 02-MAR-2002 PSG NN Tele",
        True,
    )
    assert recording_field("ward 3", None) == ("Startdate X X X ward_3", False)
    assert recording_field("", date) == ("Startdate 02-MAR-2002 X X X", True)


def test_a_patient_is_not_named_in_the_notes(tmp_path):
    ds = names_dataset(["Cz"])
    ds.attrs["edf_patient"] = "John Doe 1.1.1970"
    notes = ps.export(ds, tmp_path / "out.edf").notes
    assert any("patient field" in note for note in notes)
    assert not any("Doe" in note for note in notes)


@pytest.mark.parametrize("year", [1, 1924, 1969, 1970, 1984, 1985, 2084, 2085, 9999])
def test_dates_of_any_year(year, tmp_path):
    ds = names_dataset(["Cz"])
    ds.attrs["measurement_date"] = f"{year:04}-12-31T00:00:01.000250"
    report = ps.export(ds, tmp_path / "out.edf")
    assert bool(report.notes) == (not 1985 <= year <= 2084)
    again = ps.open_dataset(tmp_path / "out.edf")
    assert again.attrs["measurement_date"] == ds.attrs["measurement_date"]
    raw = mne.io.read_raw_edf(tmp_path / "out.edf", verbose="error")
    if year >= 1970:
        assert raw.info["meas_date"].year == year


def test_an_unusable_date_is_refused(tmp_path):
    ds = names_dataset(["Cz"])
    ds.attrs["measurement_date"] = "yesterday"
    with pytest.raises(ValueError, match="measurement_date is 'yesterday'"):
        ps.export(ds, tmp_path / "out.edf")
    assert not list(tmp_path.iterdir())


def test_the_time_of_an_anonymised_recording(tmp_path):
    source = write(
        tmp_path / "a.edf",
        [Signal("Cz", np.arange(100)), stamps(["0.5"])],
        n_records=1,
        time="22.30.00",
    )
    ds = ps.open_dataset(source)
    assert "measurement_date" not in ds.attrs
    assert ds.attrs["edf_start_time"] == "22:30:00"
    report = ps.export(ds, tmp_path / "b.edf")
    assert any("edf_start_time" in note for note in report.notes)


event = st.tuples(
    st.floats(-5, 8, allow_nan=False).map(lambda t: round(t, 6)),
    st.sampled_from([0.0, 0.5, 1.25, 1e-3, 100.0]),
    st.text(st.characters(codec="utf-8"), max_size=30)
    | st.sampled_from(["Reiz µ", "a\tb\nc", "x" * 700, " ", "😀", "R  1", "\x14", ""]),
)


@given(events=st.lists(event, max_size=12))
@ONE_FILE
def test_events_of_any_text(tmp_path, events):
    table = pd.DataFrame(events, columns=["onset", "duration", "label"])
    ds = ps.with_events(names_dataset(["Cz"]), table)
    ds.attrs["measurement_date"] = "2024-05-17T09:30:00.125000"
    before = ps.events_table(ds)
    path = tmp_path / "out.edf"
    report = ps.export(ds, path, overwrite=True)
    after = ps.events_table(ps.open_dataset(path))
    kept = before[before["label"] != ""].sort_values("onset", kind="stable")
    assert np.allclose(after["onset"], kept["onset"], rtol=0, atol=1e-9)
    assert sorted(after["duration"]) == sorted(kept["duration"])
    changed = sorted(after["label"]) != sorted(kept["label"])
    assert changed == any("characters that EDF+ cannot" in note for note in report.notes)
    assert (len(kept) < len(before)) == any("without a label" in note for note in report.notes)
    with pyedflib.EdfReader(str(path)) as reader:
        assert len(reader.readAnnotations()[0]) == len(kept)
    if not any(
        set(label) & set("\n\r") for label in kept["label"]
    ):  # (edfio drops a bare line end)
        assert len(edfio.read_edf(path).annotations) == len(kept)


def test_events_without_time_or_duration_are_told(tmp_path):
    table = pd.DataFrame({"onset": [0.5, np.nan], "duration": [np.nan, 1.0], "label": ["a", "b"]})
    ds = ps.with_events(names_dataset(["Cz"]), table)
    notes = " ".join(ps.export(ds, tmp_path / "out.edf").notes)
    assert "1 events without a time" in notes
    assert "duration of 1 events" in notes
    assert ps.events_table(ps.open_dataset(tmp_path / "out.edf")).label.tolist() == ["a"]


def test_events_of_single_channels_are_those_of_mne(tmp_path):
    ds = ps.with_events(
        names_dataset(["Cz", "EEG 2", "x" * 20]),
        pd.DataFrame({"onset": [0.5, 1, 1], "duration": [0.25, 0, 0], "label": ["bad", "a", "b"]}),
    ).assign_coords(event_channels=("event", ['["Cz", "EEG 2"]', "", f'["{"x" * 20}"]']))
    ps.export(ds, tmp_path / "out.edf")
    annotations = mne.io.read_raw_edf(tmp_path / "out.edf", verbose="error").annotations
    assert annotations.description.tolist() == ["bad", "a", "b"]
    assert annotations.ch_names.tolist() == [("Cz", "EEG 2"), (), ("x" * 16,)]
    again = ps.open_dataset(tmp_path / "out.edf")
    assert ps.events_table(again).label.tolist() == ["bad", "a", "b"]
    assert again.event_channels.values.tolist() == ['["Cz", "EEG 2"]', "", f'["{"x" * 16}"]']


def test_a_selected_stretch_takes_its_events_along(tmp_path):
    table = pd.DataFrame(
        {"onset": [0.1, 0.3, 0.75, 1.9], "duration": [0.1, 0.5, 0.0, 5.0], "label": list("abcd")}
    )
    ds = ps.with_events(names_dataset(["Cz"]), table).sel(time=slice(0.5, 1.49))
    ps.export(ds, tmp_path / "out.edf")
    after = ps.events_table(ps.open_dataset(tmp_path / "out.edf"))
    assert after.label.tolist() == ["b", "c"]
    assert np.allclose(after.onset, [0.0, 0.25])
    assert np.allclose(after.duration, [0.3, 0.0])


def many_rates(path: Path) -> Path:
    scale = ("-32768", "32767")
    signals = [
        Signal("EEG C3", np.arange(6000), "uV", scale),
        Signal("Resp", np.arange(600), "", scale),
        Signal("Temp", np.arange(60), "degC", scale),
    ]
    return write(path, [*signals, stamps(range(60))], n_records=60)


@pytest.mark.parametrize("start", [0, 10, 37])
def test_a_selected_stretch_cuts_every_rate(start, tmp_path):
    ds = ps.open_dataset(many_rates(tmp_path / "a.edf"))
    report = ps.export(ds.sel(time=slice(start, start + 9.995)), tmp_path / "out.edf")
    assert report.padded_seconds == 0
    assert report.notes == ()
    again = ps.open_dataset(tmp_path / "out.edf")
    for name, rate in (("signal", 100), ("signal_10Hz", 10), ("signal_1Hz", 1)):
        expected = np.arange(start * rate, (start + 10) * rate)
        assert np.array_equal(again[name].values[0], expected)


def test_signals_that_begin_between_samples_are_told(tmp_path):
    ds = ps.open_dataset(many_rates(tmp_path / "a.edf"))
    report = ps.export(ds.sel(time=slice(10.35, 20.345)), tmp_path / "out.edf")
    assert any(note.startswith("signal_1Hz begins -0.35 s") for note in report.notes)
    again = ps.open_dataset(tmp_path / "out.edf")
    assert again["signal_1Hz"].values[0, :10].tolist() == list(range(10, 20))
    assert again.signal.values[0, 0] == 1035


# ------------------------------------------------------------------ what MNE-Python says of it


def test_subjects_filters_and_devices_of_mne_are_written(tmp_path):
    info = mne.create_info(["Cz", "STI"], 200.0, ["eeg", "stim"])
    raw = mne.io.RawArray(np.random.default_rng(0).normal(0, 1e-5, (2, 2000)), info, verbose=False)
    raw.set_meas_date(datetime.datetime(2024, 5, 17, 9, 30, tzinfo=datetime.UTC))
    raw.info["subject_info"] = {
        "his_id": "S 1", "sex": 2, "first_name": "Ann", "last_name": "Lee", "hand": 1,
        "birthday": datetime.date(1990, 1, 2), "height": 1.7,
    }  # fmt: skip
    raw.info["device_info"] = {"type": "My Amp"}
    raw.filter(1.0, 40.0, verbose=False)
    path = tmp_path / "out.edf"
    ps.export(ps.from_mne(raw), path)
    head = path.read_bytes()[:256].decode()
    assert head[8:88].rstrip() == "S_1 F 02-JAN-1990 Ann_Lee height=1.7 hand=1"
    assert head[88:168].rstrip() == "Startdate 17-MAY-2024 X X My_Amp"
    found = mne.io.read_raw_edf(path, verbose="error").info
    assert (found["highpass"], found["lowpass"]) == (1.0, 40.0)
    assert found["subject_info"]["birthday"] == datetime.date(1990, 1, 2)
    assert [s.prefiltering for s in edfio.read_edf(path).signals] == ["HP:1Hz LP:40Hz", ""]
    back = ps.to_mne(ps.open_dataset(path), notes=[]).info
    assert (back["highpass"], back["lowpass"]) == (1.0, 40.0)
    assert dict(back["subject_info"]) == dict(found["subject_info"])


def test_filters_are_added_to_what_the_file_says(tmp_path):
    from penstock.eeg import BandPassFilter

    source = odd_file(tmp_path / "odd.edf", duration=2)
    ds = ps.open_dataset(source)[["signal"]].isel(channel=[0])
    assert ds.attrs["highpass"] == 0.1
    ps.export(ps.Pipeline([BandPassFilter(1.0, 20.0)])(ds), tmp_path / "out.edf")
    (signal,) = edfio.read_edf(tmp_path / "out.edf").signals
    assert signal.prefiltering == "HP:1Hz LP:20Hz N:50Hz"
    assert signal.transducer_type == "AgAgCl electrode"


@pytest.mark.parametrize(
    ("texts", "band"),
    [
        (["HP:0.1Hz LP:75Hz N:50Hz"] * 2, {"highpass": 0.1, "lowpass": 75.0}),
        (["HP:0,1 LP:30", "HP: 1Hz LP:35Hz"], {"highpass": 1.0, "lowpass": 30.0}),
        (["HP:DC; LP:417 Hz"], {}),
        (["", "none"], {}),
    ],
)
def test_bands_of_headers(texts, band, tmp_path):
    signals = [
        Signal(name, np.arange(200), prefiltering=text)
        for name, text in zip(("Cz", "Pz"), texts, strict=False)
    ]
    path = write(tmp_path / "a.edf", signals, n_records=1, reserved="")
    attrs = ps.open_dataset(path).attrs
    assert {key: attrs[key] for key in ("highpass", "lowpass") if key in attrs} == band
    found = mne.io.read_raw_edf(path, verbose="error").info
    assert found["highpass"] == band.get("highpass", 0.0)
    assert min(found["lowpass"], 100.0) == band.get("lowpass", 100.0)
