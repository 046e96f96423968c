"""Every type and unit of channel, and every field of the header, through EDF and back.

MNE-Python, edfio and pyEDFlib read what is written: a file that only Penstock understands is none.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from edf_files import Annotations, Signal, signals_of, stamps, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.io.edf_identity import patient_field, recording_field
from penstock.io.edf_plan import plan_records
from penstock.io.labels import clean_unit, volts

edfio = pytest.importorskip("edfio")
mne = pytest.importorskip("mne")
pyedflib = pytest.importorskip("pyedflib")

TYPES = (
    "eeg", "seeg", "ecog", "dbs", "eog", "ecg", "emg", "bio", "resp", "temperature", "gsr", "misc",
    "stim", "mag", "grad", "ref_meg", "hbo", "fnirs_cw_amplitude", "fnirs_fd_ac_amplitude",
    "eyegaze", "pupil", "syst", "accelerometer",
)  # fmt: skip
UNITS = {  # unit to a size of values that is usual in it
    "uV": 40.0, "µV": 40.0, "μV": 40.0, "mV": 0.3, "V": 2e-5, "nV": 4e4, "%": 95.0, "L/min": 6.0,
    "degC": 36.5, "°C": 36.5, "Boolean": 1.0, "mmHg": 120.0, "hPa": 1013.0, "cmH2O": 12.0, "": 3.0,
    "bpm": 70.0, "S": 2e-6, "µS": 2.0, "Ohm": 5e3, "Ω": 5e3, "T": 1e-13, "T/m": 1e-11, "m/s²": 9.8,
    "rad": 0.1, "counts": 1e5,
}  # fmt: skip


ONE_FILE = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def table_of(kind: str, rate: float = 100.0, n_times: int = 700) -> xr.Dataset:
    """One channel of a type in every unit."""
    rng = np.random.default_rng(len(kind))
    values = np.stack([size * (1 + 0.1 * rng.standard_normal(n_times)) for size in UNITS.values()])
    values[list(UNITS).index("Boolean")] = rng.integers(0, 2, n_times)
    if kind == "stim":
        values = rng.integers(0, 256, values.shape).astype(float)
    return ps.make_dataset(
        values,
        sampling_frequency=rate,
        coords={
            "channel": [f"A{i}" for i in range(len(UNITS))],
            "channel_type": ("channel", [kind] * len(UNITS)),
            "channel_unit": ("channel", list(UNITS)),
        },
    )


def through(ds: xr.Dataset, way: str, folder: Path) -> tuple[Path, list[str]]:
    """An EDF file of the dataset, and everything that the reports of the way say."""
    path = folder / "out.edf"
    if way == "zarr":
        ps.export(ds, folder / "between.zarr")
        ds = ps.open_dataset(folder / "between.zarr")
    if way == "run":
        ps.export(ds, folder / "between.zarr")
        report = ps.Pipeline().run(
            {"out": folder / "between.zarr"}, folder, format="edf", progress=False
        )
        assert not report.failed
        return path, list(report.notes.values())
    report = ps.export(ds, path)
    return path, [*report.notes, *(f"{a} {b}" for a, b in report.renamed.items())]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("way", ["edf", "zarr"])
def test_every_type_in_every_unit(kind, way, tmp_path):
    ds = table_of(kind)
    path, notes = through(ds, way, tmp_path)
    check_table(ds, path, " ".join(notes))


def test_runs_write_the_same(tmp_path):
    ds = table_of("eeg").astype("float32")
    path, notes = through(ds, "run", tmp_path)
    check_table(ds, path, " ".join(notes))
    assert "'m/s²'" in " ".join(notes)


def check_table(ds: xr.Dataset, path: Path, notes: str) -> None:
    again = ps.open_dataset(path, dtype="float64")
    assert again.channel.values.tolist() == ds.channel.values.tolist()
    assert again.channel_type.values.tolist() == ds.channel_type.values.tolist()
    raw = mne.io.read_raw_edf(path, verbose="error")
    assert raw.ch_names == ds.channel.values.tolist()
    written = edfio.read_edf(path)
    with pyedflib.EdfReader(str(path)) as reader:
        by_pyedflib = np.stack([reader.readSignal(i) for i in range(reader.signals_in_file)])
        labels = reader.getSignalLabels()
        dimensions = [reader.getPhysicalDimension(i) for i in range(reader.signals_in_file)]
    assert labels == ds.channel.values.tolist()
    for i, signal in enumerate(written.signals):
        unit, kind = str(ds.channel_unit.values[i]), str(ds.channel_type.values[i])
        factor = volts(unit) if kind != "stim" else None
        expected = ds.signal.values[i].astype("float64") * (factor or 1.0)
        found = again.signal.values[i]
        step = np.ptp(expected) / 65535
        assert np.abs(found - expected).max() <= 0.52 * step + 1e-9 * np.abs(expected).max(), unit
        # (pyEDFlib and edfio scale with an offset in digital values)
        assert np.allclose(signal.data, found, rtol=0, atol=1e-3 * step)
        assert np.allclose(by_pyedflib[i], found, rtol=0, atol=1e-3 * step)
        to_mne = 1e6 if signal.physical_dimension == "uV" else 1.0
        assert np.allclose(raw.get_data([i])[0] * to_mne, found, rtol=0, atol=1e-3 * step)
        assert dimensions[i] == signal.physical_dimension
        unit_back = str(again.channel_unit.values[i])
        if factor is not None:
            assert unit_back == signal.physical_dimension == "uV"
        elif kind == "stim":
            assert np.array_equal(found, expected)
            assert signal.physical_dimension != "uV"
        else:
            assert unit_back == clean_unit(unit) or f"{unit!r}" in notes


@pytest.mark.parametrize("low", [0, -5, 40_000, 65_535 - 255, 70_000])
def test_codes_of_16_bits_are_exact(low, tmp_path):
    codes = np.tile([0, 1, 255, 128, 254], 100) + low
    codes[0] = 0 if low == 65_535 - 255 else codes[0]
    for dtype in ("float32", "float64", "int32"):
        ds = ps.make_dataset(
            codes[None].astype(dtype),
            sampling_frequency=100,
            units="uV",
            coords={"channel": ["STI 014"], "channel_type": ("channel", ["stim"])},
        )
        path = tmp_path / f"{dtype}.edf"
        report = ps.export(ds, path)
        assert not any("bits" in note for note in report.notes)
        assert np.array_equal(ps.open_dataset(path).signal.values[0], codes)
        assert np.array_equal(mne.io.read_raw_edf(path, verbose="error").get_data()[0], codes)


def test_codes_of_more_bits_are_told(tmp_path):
    codes = np.tile([0, 65536, 1, 131071], 100)
    ds = ps.make_dataset(
        codes[None].astype("float32"),
        sampling_frequency=100,
        coords={"channel": ["Status"], "channel_type": ("channel", ["stim"])},
    )
    report = ps.export(ds, tmp_path / "out.edf")
    assert any("codes of 'Status' need more than 16 bits" in note for note in report.notes)


def test_whole_numbers_stay_whole(tmp_path):
    values = np.stack([np.arange(300) % 4 + 95, np.arange(300) % 2, np.arange(300) * 100])
    ds = ps.make_dataset(
        values.astype("float32"),
        sampling_frequency=10,
        coords={
            "channel": ["SaO2", "Lights", "Cz"],
            "channel_unit": ("channel", ["%", "Boolean", "uV"]),
        },
    )
    ps.export(ds, tmp_path / "out.edf")
    assert np.array_equal(ps.open_dataset(tmp_path / "out.edf").signal.values, values)


# ------------------------------------------------------------------ EDF to EDF


def odd_file(path: Path, **changes: object) -> Path:
    """A file as recorders write them: several annotation signals, scalings of every kind."""
    rng = np.random.default_rng(5)

    def noise(n: int, low: int = -2000, high: int = 2000) -> np.ndarray:
        return rng.integers(low, high, n)

    signals = [
        Signal("EEG Fpz-Cz", noise(1000), "uV", ("-500", "500"), ("-2048", "2047"),
               "AgAgCl electrode", "HP:0.1Hz LP:75Hz N:50Hz"),
        stamps(range(0, 20, 2), (2, b"+2.25\x14first\x14")),
        Signal("Fc5.", noise(1000), "\xb5V", ("500", "-500"), ("-2048", "2047")),
        Signal("Pz", noise(1000), "mV", ("-1.25", "1.25"), ("2047", "-2048"), "gold cup"),
        Signal("Resp chest", noise(100), "", ("-1e-3", "0.001"), ("-32767", "32767")),
        Annotations([f"+{i + 0.5}\x1510.5\x14more \xb5\x14\x00".encode() for i in range(10)]),
        Signal("EOG left", noise(1000), "", ("-1024", "1023,5"), ("-2048", "2047")),
        Signal("Temp rectal", noise(10, 0, 2000), "\xb0C", ("34", "40.2"), ("-2849", "2731")),
        Signal("STI 014", noise(1000, 0, 255), "Boolean", ("-32768", "32767")),
    ]  # fmt: skip
    return write(path, signals, n_records=10, **changes)


@pytest.mark.parametrize("way", ["edf", "zarr", "run"])
def test_copies_keep_header_and_digital_values(way, tmp_path):
    source = odd_file(tmp_path / "odd.edf", duration=2)
    ds = ps.open_dataset(source)
    path = tmp_path / "out.edf"
    if way == "run":
        assert not ps.Pipeline().run({"out": source}, tmp_path, format="edf", progress=False).failed
    else:
        path, _ = through(ds, way, tmp_path)
    assert signals_of(path) == signals_of(source)
    again = ps.open_dataset(path)
    for name in ds.data_vars:
        assert np.array_equal(again[name].values, ds[name].values)
    assert again.attrs["edf_record_duration"] == 2.0
    pd.testing.assert_frame_equal(ps.events_table(again), ps.events_table(ds))
    units = {s.label: s.physical_dimension for s in edfio.read_edf(path).signals}
    assert [units[name] for name in ("EEG Fpz-Cz", "Fc5.", "Pz")] == ["uV", "uV", "mV"]


def test_a_part_of_a_copy_keeps_its_digital_values(tmp_path):
    source = odd_file(tmp_path / "odd.edf", duration=2)
    ds = ps.open_dataset(source)
    part = ds[["signal"]].isel(channel=[2, 0]).sel(time=slice(3, 7.99))
    ps.export(part, tmp_path / "part.edf")
    before, after = signals_of(source), signals_of(tmp_path / "part.edf")
    assert list(after) == ["Pz", "EEG Fpz-Cz"]
    for label, signal in after.items():
        whole = np.frombuffer(before[label]["values"], "<i2")
        assert np.array_equal(np.frombuffer(signal["values"], "<i2"), whole[150:400])
        assert signal["physical"] == before[label]["physical"]
        assert signal["prefiltering"] == before[label]["prefiltering"]


def test_a_changed_unit_or_scale_is_not_that_of_the_source(tmp_path):
    ds = ps.open_dataset(odd_file(tmp_path / "odd.edf", duration=2))[["signal"]]
    wrong = ds.assign_coords(channel_unit=("channel", ["mV"] * ds.sizes["channel"]))
    ps.export(wrong, tmp_path / "unit.edf")
    again = ps.open_dataset(tmp_path / "unit.edf", dtype="float64")
    assert np.allclose(again.signal.values[0], ds.signal.values[0] * 1e3, rtol=0, atol=20)
    halved = ds.assign(signal=(ds.signal.dims, ds.signal.values / 2, ds.signal.attrs))
    ps.export(halved, tmp_path / "half.edf")
    again = ps.open_dataset(tmp_path / "half.edf", dtype="float64")
    assert np.allclose(again.signal.values, halved.signal.values, rtol=0, atol=0.02)


def test_rates_that_only_the_source_can_write(tmp_path):
    values = np.random.default_rng(0).integers(-9, 9, 70)
    source = write(
        tmp_path / "a.edf",
        [Signal("Cz", values), stamps([f"{0.0333333 * i:.7f}" for i in range(10)])],
        n_records=10,
        duration="0.033333",
    )
    ds = ps.open_dataset(source)
    assert ps.sampling_frequency(ds) == 7 / 0.033333
    report = ps.export(ds, tmp_path / "b.edf")
    assert signals_of(tmp_path / "b.edf") == signals_of(source)
    assert report.padded_seconds == 0


def test_bdf_becomes_edf_as_closely_as_16_bits_can(recordings, tmp_path):
    ds = ps.open_dataset(recordings / "biosemi_test.bdf", dtype="float64")
    report = ps.export(ds, tmp_path / "out.edf")
    again = ps.open_dataset(tmp_path / "out.edf", dtype="float64")
    assert again.channel.values.tolist() == ds.channel.values.tolist()
    assert again.channel_type.values.tolist() == ds.channel_type.values.tolist()
    for name, before, after in zip(
        ds.channel.values, ds.signal.values, again.signal.values, strict=True
    ):
        assert np.abs(before - after).max() <= 0.501 * report.quantisation_step[str(name)]


@pytest.mark.parametrize(
    ("unit", "kind", "factor", "expected"),
    [
        ("uV", "Cz", 1, "uV"),
        ("\xb5V", "Cz", 1, "uV"),
        ("\xce\xbcV", "Cz", 1, "uV"),
        ("\xc2\xb5V", "Cz", 1, "uV"),
        ("mV", "EMG chin", 1e3, "uV"),
        ("nV", "Cz", 1e-3, "uV"),
        ("V", "Cz", 1e6, "uV"),
        ("", "Cz", 1, "uV"),
        ("", "Resp", 1, ""),
        ("%", "SaO2", 1, "%"),
        ("L/min", "Flow", 1, "L/min"),
        ("\xb0C", "Temp", 1, "°C"),
        ("Boolean", "Status", 1, "Boolean"),
        ("mmHg", "Art", 1, "mmHg"),
    ],
)
@pytest.mark.parametrize("bdf", [False, True])
def test_units_are_read_from_edf_and_bdf(unit, kind, factor, expected, bdf, tmp_path):
    values = np.arange(-50, 50)
    limits = (str(-(2**23)), str(2**23 - 1)) if bdf else ("-32768", "32767")
    codes = kind == "Status"
    path = write(
        tmp_path / ("a.bdf" if bdf else "a.edf"),
        [Signal(kind, np.abs(values) if codes else values, unit, limits, limits)],
        n_records=1,
        reserved="",
        bdf=bdf,
    )
    ds = ps.open_dataset(path, dtype="float64")
    assert ds.channel_unit.values.tolist() == [expected]
    assert np.allclose(
        ds.signal.values[0], (np.abs(values) if codes else values) * factor, rtol=1e-12, atol=1e-12
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
    back = ps.to_mne(ps.open_dataset(path)).info
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


# ------------------------------------------------------------------ length


def test_a_rate_that_edf_cannot_hold_is_told(tmp_path):
    ds = ps.make_dataset(
        np.random.default_rng(0).normal(0, 30, (2, 5000)), sampling_frequency=999.4121, units="uV"
    )
    report = ps.export(ds, tmp_path / "out.edf")
    assert any("cannot hold the sampling frequency 999.4121 Hz" in note for note in report.notes)
    again = ps.open_dataset(tmp_path / "out.edf")
    assert ps.sampling_frequency(again) == pytest.approx(999.4121, rel=1e-6)
    assert again.sizes["time"] == 5000


@given(
    rate=st.sampled_from([1, 10, 100, 128, 200, 250, 256, 500, 512, 512.5, 1000, 2048, 5000]),
    n_times=st.integers(1, 30_000),
    n_channels=st.integers(1, 300),
)
@settings(max_examples=200, deadline=None)
def test_padding_is_short(rate, n_times, n_channels):
    layout = plan_records([rate], [n_times], [n_channels])
    extra = layout.samples[0] * layout.n_records - n_times
    shortest = {128: 2, 256: 4, 512: 8, 512.5: 1025, 2048: 32}.get(rate, 1)
    assert extra < shortest or extra / rate <= min(1.0, 0.1 * n_times / rate)
