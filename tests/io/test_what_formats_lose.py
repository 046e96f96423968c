"""What a file cannot hold is said; what it holds is not called lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.eeg import HighPassFilter

mne = pytest.importorskip("mne")

EVENTS = pd.DataFrame({"onset": [1.0, 2.5], "duration": [0.0, 1.0], "label": ["go", "stop"]})


def recording() -> xr.Dataset:
    values = np.random.default_rng(0).normal(0, 30, (2, 1000)).astype("float32")
    ds = ps.make_dataset(
        values,
        sampling_frequency=100.0,
        units="uV",
        coords={"channel": ["Cz", "EOG"]},
        events=EVENTS,
        attrs={"measurement_date": "2021-03-04T05:06:07"},
    )
    return ds.assign_coords(
        channel_type=("channel", ["eeg", "eog"]),
        channel_unit=("channel", ["uV", "uV"]),
        bad=("channel", [False, True]),
    )


def two_rates(path: Path) -> Path:
    edfio = pytest.importorskip("edfio")
    signals = [
        edfio.EdfSignal(np.sin(np.arange(10 * rate)), rate, label=name, physical_dimension="uV")
        for name, rate in (("C3", 100), ("C4", 100), ("Snore", 500))
    ]
    edfio.Edf(signals).write(path)
    return path


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet"])
def test_tables_say_what_they_leave_out(format: str, tmp_path: Path) -> None:
    report = ps.export(recording(), tmp_path / f"a.{format}")
    (note,) = report.notes
    for lost in ("2 events", "units (uV)", "types (eeg, eog)", "bad channels (EOG)", "date"):
        assert lost in note
    bare = recording().isel(event=slice(0, 0))[["signal"]].drop_vars(["channel_type", "bad"])
    bare = bare.drop_vars("channel_unit").drop_dims("event", errors="ignore")
    bare.signal.attrs.clear()
    bare.attrs.clear()
    assert ps.export(bare, tmp_path / f"b.{format}").notes == ()


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_of_regions_tell_only_what_they_lose(format: str, tmp_path: Path) -> None:
    ds = ps.make_dataset(
        np.ones((2, 10), "float32"),
        ("region", "time"),
        sampling_frequency=0.5,
        coords={"region": ["V1", "V2"]},
    ).assign_coords(label=("region", [3, 4]), n_voxels=("region", [10, 12]))
    assert ps.export(ds, tmp_path / f"a.{format}").notes == ()
    ds.signal.attrs["units"] = "%"
    assert ps.export(ds, tmp_path / f"percent.{format}").notes == ()
    ds.signal.attrs["units"] = "uV"
    (note,) = ps.export(ds, tmp_path / f"b.{format}").notes
    assert "units (uV)" in note


def test_images_tell_only_what_they_lose(tmp_path: Path) -> None:
    ds = ps.make_dataset(
        np.ones((2, 3, 4, 5), "float32"),
        ("x", "y", "z", "time"),
        sampling_frequency=0.5,
        coords={"affine": (("affine_row", "affine_column"), np.eye(4))},
    )
    assert ps.export(ds, tmp_path / "a.nii.gz").notes == ()
    ds = ps.with_events(ds, EVENTS).assign(motion=("time", np.zeros(5)))
    (note,) = ps.export(ds, tmp_path / "b.nii.gz").notes
    assert "NIfTI has no place for 2 events, the variables motion" in note


@pytest.mark.parametrize("format", ["csv", "parquet", "fif"])
def test_runs_never_say_that_a_file_holds_what_it_does_not(format: str, tmp_path: Path) -> None:
    path = two_rates(tmp_path / "psg.edf")
    run = ps.Pipeline([HighPassFilter(1.0)]).run
    report = run(path, tmp_path / "out", format=format, progress=False)
    assert report.ok, report
    note = report.notes["psg"]
    assert "passed on" not in note
    assert "signal_500Hz" in note
    assert "left out" in note


def test_formats_of_several_rates_pass_them_on(tmp_path: Path) -> None:
    path = two_rates(tmp_path / "psg.edf")
    run = ps.Pipeline([HighPassFilter(1.0)]).run
    report = run(path, tmp_path / "out", format="edf", progress=False)
    assert "passed on as they are (signal_500Hz" in report.notes["psg"]


# ---------------------------------------------------------------------- FIF


@settings(max_examples=12, deadline=None)
@given(
    bounds=st.lists(st.integers(0, 1000), min_size=1, max_size=6),
    buffer=st.integers(1, 1100),
    dated=st.booleans(),
)
def test_samples_marked_as_skipped_are_written(
    tmp_path_factory: pytest.TempPathFactory, bounds: list[int], buffer: int, dated: bool
) -> None:
    ds = recording()
    if not dated:
        del ds.attrs["measurement_date"]
    edges = sorted(bounds)
    events = pd.DataFrame(
        [(a / 100, (b - a) / 100, "BAD_ACQ_SKIP") for a, b in itertools.pairwise(edges)]
        + [(edges[0] / 100, 0.0, "Bad_acq_skip seam")],
        columns=["onset", "duration", "label"],
    )
    ds = ps.with_events(ds, events[events.onset < 10])
    path = tmp_path_factory.mktemp("fif") / "a_raw.fif"
    if (0, 1000) in itertools.pairwise(edges):
        with pytest.raises(ValueError, match="whole recording is marked BAD_ACQ_SKIP"):
            ps.export(ds, path, buffer_bytes=64 * buffer)
        return
    report = ps.export(ds, path, buffer_bytes=64 * buffer)
    assert not any("SKIP" in note for note in report.notes)
    values = mne.io.read_raw_fif(path, verbose="error").get_data() * 1e6
    np.testing.assert_allclose(values, ds.signal.values, rtol=1e-5)


def test_samples_at_buffers_ends_are_written(tmp_path: Path) -> None:
    events = pd.DataFrame({"onset": [1.0], "duration": [2.0], "label": ["BAD_ACQ_SKIP"]})
    ds = ps.with_events(recording(), events)
    ps.export(ds, tmp_path / "a_raw.fif", buffer_bytes=64 * 100)
    raw = mne.io.read_raw_fif(tmp_path / "a_raw.fif", verbose="error")
    np.testing.assert_allclose(raw.get_data() * 1e6, ds.signal.values, rtol=1e-5)


def test_spelling_of_labels_is_no_loss(tmp_path: Path) -> None:
    edfio = pytest.importorskip("edfio")
    for equipment, told in (("X", False), ("Neuroscan", True)):
        signal = edfio.EdfSignal(np.sin(np.arange(500)), 100, label="EEG Fp1-Ref")
        about = edfio.Recording(equipment_code=equipment)
        edfio.Edf([signal], recording=about).write(tmp_path / f"{equipment}.edf")
        ds = ps.open_dataset(tmp_path / f"{equipment}.edf")
        notes = " ".join(ps.export(ds, tmp_path / f"{equipment}_raw.fif").notes)
        assert "label" not in notes
        assert "edf_" not in notes
        assert ("equipment" in notes) == told


# ---------------------------------------------------------------------- EDF


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ([-65535, 0, 1.5], True),
        ([0, 0.3, 7], True),
        ([123456789, 123456790, 123456795], True),
        ([0, 70000, 3], True),
        ([0, 3, 255], False),
        ([0, 65535, 1], False),
        ([1.5, 1.5, 1.5], False),
        ([7, 7, 7], False),
    ],
)
def test_codes_that_change_in_edf_are_told(codes: list[float], told: bool, tmp_path: Path) -> None:
    values = np.resize(np.array(codes, "float64"), (1, 300))
    ds = ps.make_dataset(values, sampling_frequency=100.0, coords={"channel": ["STI"]})
    ds = ds.assign_coords(channel_type=("channel", ["stim"]), channel_unit=("channel", [""]))
    report = ps.export(ds, tmp_path / "a.edf")
    assert any("the codes of 'STI'" in note for note in report.notes) == told
    if not told:
        again = ps.open_dataset(tmp_path / "a.edf", dtype="float64")
        np.testing.assert_array_equal(again.signal.values, values)
    # a copy of the file changes nothing more
    copy = ps.export(ps.open_dataset(tmp_path / "a.edf"), tmp_path / "b.edf")
    assert not any("the codes of" in note for note in copy.notes) or told


# ---------------------------------------------------------------------- what is no recording


@pytest.mark.parametrize("missing", [0, 1])
def test_parts_whose_beginning_is_missing_are_named_failures(missing: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((20, 60_000)) * 1e-5
    raw = mne.io.RawArray(values, mne.create_info(20, 250.0, "eeg"), verbose="error")
    raw.save(tmp_path / "n_raw.fif", split_size="2MB", buffer_size_sec=10, verbose="error")
    names = ["n_raw.fif", "n_raw-1.fif", "n_raw-2.fif"]
    assert all((tmp_path / name).exists() for name in names)
    (tmp_path / names[missing]).unlink()
    later = tmp_path / names[missing + 1]
    reason = f"only a part of n_raw.fif, of which {names[missing]} is missing"
    with pytest.raises(ValueError, match=reason):
        ps.open_dataset(later)
    report = ps.Pipeline([np.abs]).run(tmp_path, tmp_path / "out", progress=False)
    assert not report.outputs
    assert reason in report.failed[later.stem]
    # a part under another name is still none
    later.rename(tmp_path / "other.fif")
    with pytest.raises(ValueError, match=names[missing]):
        ps.open_dataset(tmp_path / "other.fif")


def test_parts_of_a_renamed_recording_belong_to_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((20, 30_000)) * 1e-5
    raw = mne.io.RawArray(values, mne.create_info(20, 250.0, "eeg"), verbose="error")
    raw.save(tmp_path / "n_raw.fif", split_size="2MB", buffer_size_sec=10, verbose="error")
    for end in ("", "-1"):
        (tmp_path / f"n_raw{end}.fif").rename(tmp_path / f"m_raw{end}.fif")
    assert ps.open_dataset(tmp_path / "m_raw-1.fif").sizes["channel"] == 20


@pytest.mark.parametrize("format", ["single", "double"])
def test_analytic_signals_in_fif_are_refused_in_a_sentence(format: str, tmp_path: Path) -> None:
    info = mne.create_info(["a", "b"], 100.0, "eeg")
    raw = mne.io.RawArray(np.full((2, 500), 1e-6 + 1e-6j), info, verbose="error")
    raw.save(tmp_path / "a_raw.fif", fmt=format, verbose="error")
    with pytest.raises(ValueError, match=r"a_raw\.fif holds complex values"):
        ps.open_dataset(tmp_path / "a_raw.fif")
    for preload in (False, True):
        again = mne.io.read_raw_fif(tmp_path / "a_raw.fif", preload=preload, verbose="error")
        with pytest.raises(ValueError, match="Raw object holds complex values"):
            ps.from_mne(again)
