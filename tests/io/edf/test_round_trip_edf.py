"""Every type and unit of channel, and every field of the header, through EDF and back.

MNE-Python, edfio and pyEDFlib read what is written: a file that only Penstock understands is none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from edf_files import Signal, odd_file, signals_of, stamps, write
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.io.edf.plan import plan_records
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


@pytest.mark.parametrize("names", [["Pz", "Fz"], ["A", "B"], ["Cz", "B"]])
def test_renamed_channels_keep_their_digital_values(names, tmp_path):
    values = np.random.default_rng(0).integers(-2000, 2000, (2, 300))
    signals = [
        Signal("Cz", values[0], "uV", ("-500", "500"), ("-2048", "2047"), prefiltering="HP:1Hz"),
        Signal("Pz", values[1], "mV", ("-5", "5"), ("-2048", "2047"), transducer="cup"),
    ]
    ds = ps.open_dataset(write(tmp_path / "a.edf", signals, n_records=3, reserved=""))
    ps.export(ds.assign_coords(channel=names), tmp_path / "b.edf")
    found = signals_of(tmp_path / "b.edf")
    assert list(found) == names
    if names != ["Pz", "Fz"]:  # (a name of another channel may be that channel, moved)
        assert list(found.values()) == list(signals_of(tmp_path / "a.edf").values())
    again = ps.open_dataset(tmp_path / "b.edf", dtype="float64").signal.values
    assert np.allclose(again, ds.signal.values, rtol=0, atol=0.1)


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
