"""Values, units, types, codes and everything that `mne.Info` says, through MNE-Python and back."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import penstock as ps

mne = pytest.importorskip("mne")
object_diff = pytest.importorskip("mne.utils").object_diff

# type, unit in the dataset, factor to the SI unit that FIF holds, unit that comes back
CHANNELS = [
    *((kind, "uV", 1e-6, "uV") for kind in ("eeg", "eog", "ecg", "emg", "seeg", "ecog", "dbs")),
    *((kind, "uV", 1e-6, "uV") for kind in ("bio", "misc", "resp", "syst", "ias", "chpi", "exci")),
    ("eeg", "mV", 1e-3, "uV"),
    ("eeg", "V", 1.0, "uV"),
    ("eeg", "nV", 1e-9, "uV"),
    ("eeg", "µV", 1e-6, "uV"),
    ("eeg", "", 1.0, ""),
    ("eeg", "1", 1.0, ""),
    ("misc", "mV", 1e-3, "uV"),
    ("misc", "", 1.0, ""),
    ("misc", "m/s^2", 1.0, ""),
    ("misc", "pH", 1.0, ""),
    ("misc", "mm", 1e-3, "m"),
    ("misc", "kPa", 1e3, "Pa"),
    ("misc", "mmHg", 1.0, ""),
    ("misc", "Hz", 1.0, "Hz"),
    ("bio", "%", 1.0, ""),
    ("resp", "L/min", 1.0, ""),
    ("gsr", "S", 1.0, "S"),
    ("gsr", "uS", 1e-6, "S"),
    ("gsr", "kOhm", 1e3, "Ohm"),
    ("temperature", "degC", 1.0, "degC"),
    ("temperature", "C", 1.0, "degC"),
    ("temperature", "K", 1.0, "K"),
    *(("stim", unit, 1.0, "") for unit in ("", "Boolean", "uV", "mV", "V", "code")),
    ("mag", "T", 1.0, "T"),
    ("mag", "fT", 1e-15, "T"),
    ("grad", "T/m", 1.0, "T/m"),
    ("grad", "fT/cm", 1e-13, "T/m"),
    ("ref_meg", "T", 1.0, "T"),
    ("hbo", "M", 1.0, "M"),
    ("hbr", "uM", 1e-6, "M"),
    ("fnirs_cw_amplitude", "V", 1.0, "uV"),
    ("fnirs_od", "", 1.0, ""),
    ("eyegaze", "px", 1.0, "px"),
    ("eyegaze", "rad", 1.0, "rad"),
    ("pupil", "mm", 1e-3, "m"),
    ("pupil", "a.u.", 1.0, ""),
    ("csd", "V/m^2", 1.0, "V/m^2"),
]
NAMES = [f"{kind[:9]}{i}" for i, (kind, *_) in enumerate(CHANNELS)]
FACTORS = np.array([factor for _, _, factor, _ in CHANNELS])


@pytest.fixture
def every_channel() -> xr.Dataset:
    values = np.repeat(np.arange(1.0, len(CHANNELS) + 1)[:, None], 300, axis=1)
    values += np.arange(300) / 1024
    values[[kind == "stim" for kind, *_ in CHANNELS]] = np.arange(300) // 100 * 255
    return ps.make_dataset(
        values,
        sampling_frequency=100.0,
        units="uV",
        coords={
            "channel": NAMES,
            "channel_type": ("channel", [kind for kind, *_ in CHANNELS]),
            "channel_unit": ("channel", [unit for _, unit, *_ in CHANNELS]),
        },
    )


def quiet_raw(path: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mne.io.read_raw(path, verbose="error")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_type_and_unit_through_fif(every_channel, tmp_path, dtype):
    ds = every_channel.astype(dtype).assign_attrs(every_channel.attrs)
    report = ps.export(ds, tmp_path / "all_raw.fif")
    raw, again = quiet_raw(tmp_path / "all_raw.fif"), ps.open_dataset(tmp_path / "all_raw.fif")
    assert again.signal.dtype == dtype
    tolerance = 3e-7 if dtype == "float32" else 1e-15
    assert np.allclose(raw.get_data(), ds.signal.values * FACTORS[:, None], rtol=tolerance, atol=0)
    assert raw.get_channel_types() == [kind for kind, *_ in CHANNELS]
    assert again.channel_type.values.tolist() == raw.get_channel_types()
    assert again.channel_unit.values.tolist() == [back for *_, back in CHANNELS]
    back = np.where(again.channel_unit.values == "uV", 1e-6, 1.0)[:, None]
    assert np.allclose(again.signal * back, raw.get_data(), rtol=tolerance, atol=0)
    for (_, unit, _, unit_back), name in zip(CHANNELS, NAMES, strict=True):
        lost = unit not in ("", "code", "Boolean") and unit_back == "" and "stim" not in name
        assert any(repr(name) in note for note in report.notes) == lost, (name, unit)


def test_every_type_and_unit_in_memory_and_in_stores(every_channel, tmp_path):
    raw = ps.to_mne(every_channel)
    assert np.allclose(raw.get_data(), every_channel.signal * FACTORS[:, None], rtol=1e-15, atol=0)
    ps.export(every_channel, tmp_path / "all.zarr")
    stored = ps.open_dataset(tmp_path / "all.zarr")
    assert stored.channel_unit.values.tolist() == every_channel.channel_unit.values.tolist()
    assert np.array_equal(ps.to_mne(stored).get_data(), raw.get_data())
    # and what MNE-Python gave goes back as it was
    back = ps.from_mne(raw)
    assert back.channel_unit.values.tolist() == [unit for *_, unit in CHANNELS]
    assert np.allclose(ps.to_mne(back).get_data(), raw.get_data(), rtol=3e-16, atol=0)
    assert object_diff(ps.to_mne(back).info, raw.info) == ""


def test_all_types_of_mne_are_in_the_table():
    known = set(mne.io.get_channel_type_constants(include_defaults=True))
    ours = {kind for kind, *_ in CHANNELS}
    alike = {k for k in known if k.startswith("fnirs_")} | {"dipole", "gof"}
    assert known - alike <= ours


# ---------------------------------------------------------------------- files of other programs

BRAINVISION = [("Fz", "µV", 0.5), ("Cz", "mV", 0.5), ("Pz", "nV", 2.0), ("Oz", "V", 0.01),
               ("GSR", "µS", 0.25), ("Temp", "C", 0.5), ("Belt", "ARU", 1.0), ("Sat", "%", 0.5),
               ("Force", "mN", 0.5), ("None", "n/a", 1.0)]  # fmt: skip


@pytest.fixture
def brainvision(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A recording with a channel of every unit, and its values in these units."""
    stored = (np.arange(len(BRAINVISION) * 50).reshape(50, -1) % 997 - 400).astype("<i2")
    (tmp_path / "a.eeg").write_bytes(stored.tobytes())
    lines = [f"Ch{i + 1}={n},,{step},{unit}" for i, (n, unit, step) in enumerate(BRAINVISION)]
    (tmp_path / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=a.eeg\nMarkerFile=a.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(BRAINVISION)}\nSamplingInterval=4000\n"
        "[Binary Infos]\nBinaryFormat=INT_16\n[Channel Infos]\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    (tmp_path / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nDataFile=a.eeg\n"
        "[Marker Infos]\nMk1=Stimulus,S  7,10,1,0\n"
    )
    steps = np.array([step for *_, step in BRAINVISION])
    return tmp_path / "a.vhdr", (stored * steps).T


def test_units_of_brainvision(brainvision, tmp_path):
    path, values = brainvision
    ds, raw = ps.open_dataset(path, dtype="float64"), quiet_raw(path)
    factors = {"µV": ("uV", 1), "mV": ("uV", 1e3), "nV": ("uV", 1e-3), "V": ("uV", 1e6),
               "µS": ("S", 1e-6), "C": ("degC", 1), "n/a": ("", 1)}  # fmt: skip
    wanted = [factors.get(unit, (unit, 1)) for _, unit, _ in BRAINVISION]
    assert ds.channel_unit.values.tolist() == [unit for unit, _ in wanted]
    assert np.allclose(ds.signal, values * np.array([[f] for _, f in wanted]), rtol=1e-12)
    assert np.allclose(ps.to_mne(ds).get_data(), raw.get_data(), rtol=1e-12, atol=0)
    assert ps.open_dataset(path).signal.dtype == np.float32  # 16 bits
    ps.export(ds, tmp_path / "a_raw.fif")
    assert np.allclose(quiet_raw(tmp_path / "a_raw.fif").get_data(), raw.get_data(), rtol=1e-12)


def test_codes_are_the_numbers_of_the_file(brainvision, tmp_path):
    """Also where a reader takes them for voltages; then MNE-Python finds them as events."""
    from scipy.io import savemat

    codes = np.zeros(500)
    codes[100:110], codes[300:310] = 255, 7
    places = np.zeros(2, dtype=[("labels", "O"), ("type", "O")])
    places[0], places[1] = ("Cz", "EEG"), ("Trigger", "STIM")
    recording = {
        "setname": "a", "nbchan": 2, "pnts": 500, "trials": 1, "srate": 100.0, "xmin": 0.0,
        "xmax": 4.99, "data": np.stack([np.full(500, 20.0), codes]), "chanlocs": places,
        "event": [], "epoch": [], "icawinv": [], "icasphere": [], "icaweights": [],
        "ref": "common", "urevent": [],
    }  # fmt: skip
    savemat(tmp_path / "a.set", {"EEG": recording}, appendmat=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (it has no events)
        ds = ps.open_dataset(tmp_path / "a.set")
        taken = ps.from_mne(quiet_raw(tmp_path / "a.set"))
    assert np.unique(ds.signal.sel(channel="Trigger")).tolist() == [0, 7, 255]
    assert np.unique(taken.signal.sel(channel="Trigger")).tolist() == [0, 7, 255]
    assert np.allclose(ds.signal.sel(channel="Cz"), 20)
    events = mne.find_events(ps.to_mne(ds), verbose="error")
    assert events[:, 2].tolist() == [255, 7]

    path, values = brainvision
    named = {name: "stim" for name in ("Fz", "Cz", "Pz", "Oz", "Sat")}
    codes_of = ps.open_dataset(path, dtype="float64", channel_types=named)
    for row, (name, *_) in enumerate(BRAINVISION):
        if name in named:
            assert np.allclose(codes_of.signal[row], values[row], rtol=1e-12), name


WITNESSES = [
    "eeg/yasa_resting_EO_200Hz_raw.fif",
    "eeg/brainvision/test.vhdr",
    "eeg/eeglab/eeglab_data.set",
    "next/eeg/ctf_comp_raw.fif",
    "next/eeg/example_3.mff",
]


@pytest.fixture(params=WITNESSES)
def witness(request: pytest.FixtureRequest, recordings: Path) -> Path:
    path = recordings.parent / request.param
    if not path.exists():
        pytest.skip(f"{path} is not there")
    if path.suffix == ".mff":
        pytest.importorskip("mffpy")
    return path


def same_info(found: Any, wanted: Any, but: tuple[str, ...] = ()) -> None:
    """Calibration factors belong to a file; everything else must be what it was."""
    found, wanted = found.copy(), wanted.copy()
    matrices: list[np.ndarray] = []
    with found._unlock(), wanted._unlock():
        for info in (found, wanted):
            for key in but:
                info[key] = None
            for comp in info["comps"]:
                comp["rowcals"] = comp["colcals"] = None
                matrices.append(comp["data"].pop("data"))
            for channel in info["chs"]:
                channel["cal"] = channel["range"] = 1.0
                if int(channel["unit"]) in (-1, 110):  # siemens, which MNE-Python knows as no unit
                    channel["unit"] = -1
    assert object_diff(found, wanted) == ""
    half = len(matrices) // 2  # (files hold them in single precision)
    for one, other in zip(matrices[:half], matrices[half:], strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=0)


def same_annotations(found: Any, wanted: Any) -> None:
    assert found.orig_time == wanted.orig_time
    assert found.description.tolist() == wanted.description.tolist()
    assert np.allclose(found.onset, wanted.onset, rtol=0, atol=1e-9)
    assert np.allclose(found.duration, wanted.duration, rtol=0, atol=1e-9)
    assert found.ch_names.tolist() == wanted.ch_names.tolist()


def test_real_recordings_come_back_whole(witness, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, ds = quiet_raw(witness), ps.open_dataset(witness)
        ps.export(ds, tmp_path / "stored.zarr")
        ways = {
            "opened": ds,
            "a Raw object": ps.from_mne(raw),
            "stored": ps.open_dataset(tmp_path / "stored.zarr"),
            "pickled": pickle.loads(pickle.dumps(ds)),
        }
        values = raw.get_data()
    largest = np.abs(values).max(axis=1, keepdims=True)
    for way, each in ways.items():
        back = ps.to_mne(each)
        same_info(back.info, raw.info)
        same_annotations(back.annotations, raw.annotations)
        assert (back.first_samp, back.n_times) == (raw.first_samp, raw.n_times), way
        assert (np.abs(back.get_data() - values) <= 2e-7 * largest).all(), way


def test_real_recordings_through_fif(witness, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, ds = quiet_raw(witness), ps.open_dataset(witness)
        ps.export(ds, tmp_path / "a_raw.fif")
        again = quiet_raw(tmp_path / "a_raw.fif")
        raw.save(tmp_path / "witness_raw.fif", verbose="error")
        wanted = quiet_raw(tmp_path / "witness_raw.fif")
    same_info(again.info, wanted.info, but=("file_id", "meas_id"))
    assert again.first_samp == wanted.first_samp
    assert np.allclose(again.annotations.onset, wanted.annotations.onset, rtol=0, atol=1e-4)
    largest = np.abs(wanted.get_data()).max(axis=1, keepdims=True)
    assert (np.abs(again.get_data() - wanted.get_data()) <= 3e-7 * largest).all()
