from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.io.bids.sidecars import sidecars_of

STEM = "sub-01/eeg/sub-01_task-rest"


@pytest.fixture
def dataset(tmp_path: Path, make_edf: Callable[..., tuple[Path, list[np.ndarray]]]) -> Path:
    """A BIDS dataset with one EDF recording of 10 s: Fp1, Cz (100 Hz, uV) and ``left`` (EOG)."""
    edfio = pytest.importorskip("edfio")
    path, _ = make_edf(
        annotations=[edfio.EdfAnnotation(1.0, None, "of the file")], units=["uV", "uV", ""]
    )
    root = tmp_path / "set"
    (root / "sub-01" / "eeg").mkdir(parents=True)
    (root / "dataset_description.json").write_text("{}")
    os.replace(path, root / f"{STEM}_eeg.edf")
    return root


def table(root: Path, name: str, *rows: str) -> None:
    (root / name).write_text("\n".join(row.replace("|", "\t") for row in rows) + "\n")


def opened(root: Path, **options: object) -> xr.Dataset:
    return ps.open_dataset(root / f"{STEM}_eeg.edf", **options)  # type: ignore[arg-type]


def test_without_sidecars_nothing_is_said(dataset: Path) -> None:
    ds = opened(dataset)
    assert "sidecars" not in ds.attrs
    assert "sidecar_notes" not in ds.attrs
    assert ds.event_label.values.tolist() == ["of the file"]


def test_channels_have_the_types_units_and_status_of_the_table(dataset: Path) -> None:
    plain = opened(dataset)
    table(
        dataset,
        f"{STEM}_channels.tsv",
        "name|type|units|status",
        "Cz|MISC|uV|BAD",
        "EOG left|VEOG|mV|good",
        "Fp1|n/a|V|n/a",
        "O1|EEG|uV|bad",
    )
    ds = opened(dataset)
    assert ds.channel.values.tolist() == ["Fp1", "Cz", "left"]
    assert ds.channel_type.values.tolist() == ["eeg", "misc", "eog"]
    assert ds.bad.values.tolist() == [False, True, False]
    assert ds.channel_unit.values.tolist() == ["uV", "uV", "uV"]
    # only the channel without a unit in the file is scaled
    expected = plain.signal.values * np.array([[1.0], [1.0], [1000.0]])
    np.testing.assert_allclose(ds.signal.values, expected, rtol=1e-6)
    notes = ds.attrs["sidecar_notes"]
    for told in (
        "names O1, which the recording does not have",
        "1 from eeg to misc",
        "units of left, which the file lacks",
        "Fp1 (uV, not V)",
        "bad channels Cz",
    ):
        assert told in notes
    assert ds.attrs["sidecars"] == f"{STEM}_channels.tsv"
    # what the caller says comes first
    given = opened(dataset, channel_types={"Cz": "ecg"}, bads=["Fp1"])
    assert given.channel_type.values.tolist() == ["eeg", "ecg", "eog"]
    assert given.bad.values.tolist() == [True, True, False]
    xr.testing.assert_identical(opened(dataset, sidecars=False).load(), plain.load())
    theirs = xr.open_dataset(dataset / f"{STEM}_eeg.edf", engine="penstock", sidecars=False)
    xr.testing.assert_identical(theirs.load(), plain)
    theirs = xr.open_dataset(dataset / f"{STEM}_eeg.edf", engine="penstock", bads=["Fp1"])
    assert theirs.bad.values.tolist() == [True, True, False]


def test_events_of_the_table_stand_in_place_of_those_of_the_file(dataset: Path) -> None:
    table(
        dataset,
        "task-rest_events.tsv",
        "onset|duration|trial_type|value|sample|stim",
        "2.5|n/a|go|1|250|a.png",
        "0.5|0.25|go|2|50|n/a",
        "1.5|0|stop|x|150|b.png",
        "n/a|0|go|1|0|n/a",
        "3|0|n/a|9|300|n/a",
    )
    ds = opened(dataset)
    assert ds.event_onset.values.tolist() == [0.5, 1.5, 2.5]
    assert ds.event_duration.values.tolist() == [0.25, 0.0, 0.0]
    # as MNE-BIDS calls them: a type that has several values is told apart by them
    assert ds.event_label.values.tolist() == ["go/2", "stop", "go/1"]
    extras = [json.loads(text) for text in ds.event_extras.values]
    assert extras[0] == {"value": "2", "sample": 50}
    assert extras[2] == {"value": "1", "sample": 250, "stim": "a.png"}
    assert "3 events in place of 1 of the file, without 2" in ds.attrs["sidecar_notes"]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (["onset|duration|value", "1|0|7", "2|0|8"], ["7", "8"]),
        (["onset|duration|trial_type|value", "1|0|n/a|7", "2|0|n/a|8"], ["7", "8"]),
        (["onset|duration|trial_type|value", "1|0|a|7", "2|0|n/a|8"], ["a"]),
        (["onset|duration|stim_type", "1|0|a", "2|0|b"], ["a", "b"]),
        (["onset|duration", "1|0"], ["n/a"]),
        (["onset", "1"], ["n/a"]),
        (["onset|duration|trial_type"], []),
    ],
)
def test_labels_come_from_the_column_there_is(
    dataset: Path, rows: list[str], labels: list[str]
) -> None:
    table(dataset, f"{STEM}_events.tsv", *rows)
    assert opened(dataset).event_label.values.tolist() == labels


def test_seams_of_the_file_stay_beside_the_events_of_the_table(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    info = mne.create_info(["a", "b"], 100.0, "eeg")
    raw = mne.io.RawArray(np.zeros((2, 1000)), info, verbose="error")
    raw.set_annotations(mne.Annotations([1, 2, 3], [0, 1, 0], ["x", "BAD_ACQ_SKIP", "y"]))
    raw.save(tmp_path / "sub-01_eeg.fif", verbose="error")
    table(tmp_path, "sub-01_events.tsv", "onset|duration|trial_type", "1.5|0|go")
    ds = ps.open_dataset(tmp_path / "sub-01_eeg.fif")
    assert set(ds.event_label.values.tolist()) == {"go", "BAD_ACQ_SKIP"}
    assert set(ds.event_onset.values.tolist()) == {1.5, 2.0}


def test_positions_reference_and_line_frequency(dataset: Path) -> None:
    table(
        dataset,
        "sub-01/eeg/sub-01_space-CapTrak_electrodes.tsv",
        "name|x|y|z",
        "Cz|0|10|90",
        "Fp1|-30|80|n/a",
    )
    path = dataset / "sub-01/eeg/sub-01_space-CapTrak_coordsystem.json"
    path.write_text('{"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "mm"}')
    (dataset / "task-rest_eeg.json").write_text(
        '{"PowerLineFrequency": 60, "EEGReference": "FCz", "SamplingFrequency": 250}'
    )
    (dataset / f"{STEM}_eeg.json").write_text('{"PowerLineFrequency": 50}')
    ds = opened(dataset)
    assert ds.electrode_y.sel(channel="Cz") == 0.01
    assert ds.electrode_z.isnull().values.tolist() == [True, False, True]
    assert (ds.attrs["reference"], ds.attrs["line_frequency"]) == ("FCz", 50.0)
    notes = ds.attrs["sidecar_notes"]
    assert "says 250 Hz, the file is sampled at 100 Hz" in notes
    assert "positions of 2 channels (CapTrak)" in notes
    assert ds.attrs["electrode_frame"] == "CapTrak"
    pytest.importorskip("mne")
    raw = ps.to_mne(ds)
    places = raw.get_montage().get_positions()
    assert places["ch_pos"]["Cz"].tolist() == [0.0, 0.01, 0.09]
    assert places["coord_frame"] == "head"
    assert raw.info["line_freq"] == 50.0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (f"{STEM}_channels.tsv", "", "not a table"),
        (f"{STEM}_events.tsv", "onset\tduration\nsoon\t0\n", "onset of row 1 is no number"),
        ("task-rest_eeg.json", "{", "not JSON"),
    ],
)
def test_a_sidecar_that_cannot_be_used_is_named(
    dataset: Path, name: str, content: str, reason: str
) -> None:
    (dataset / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{Path(name).name}.*{reason}.*sidecars=False"):
        opened(dataset)
    assert opened(dataset, sidecars=False).sizes["channel"] == 3


@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        (f"{STEM}_channels.tsv", ["type|units", "EEG|uV"], "has no column 'name'"),
        (f"{STEM}_channels.tsv", ["name|type", "Cz|EEG", "Cz|EOG"], "Cz more than once"),
        (f"{STEM}_channels.tsv", ["name|type", "Cz|AUDIO"], "types AUDIO are not known"),
        (f"{STEM}_events.tsv", ["time|label", "1|x"], "has no column 'onset'"),
        ("sub-01/eeg/sub-01_electrodes.tsv", ["name|x|y|z", "Cz|0|0|1"], "no coordsystem.json"),
    ],
)
def test_what_is_not_used_is_told(dataset: Path, name: str, rows: list[str], told: str) -> None:
    table(dataset, name, *rows)
    assert told in opened(dataset).attrs["sidecar_notes"]


def test_runs_tell_what_sidecars_changed_and_go_by_them(dataset: Path, tmp_path: Path) -> None:
    table(dataset, f"{STEM}_channels.tsv", "name|type|status", "Cz|EEG|bad")
    pipeline, name = ps.Pipeline([np.abs]), "sub-01_task-rest_eeg"

    def run(**options: object) -> ps.Report:
        return pipeline.run(dataset, tmp_path / "out", progress=False, open_options=options)

    report = run()
    assert report.ok
    assert "bad channels Cz" in report.notes[name]
    assert ps.open_dataset(report.outputs[name]).bad.values.tolist() == [False, True, False]
    assert run().skipped == [name]
    # what is read is another input when a sidecar changes, or is not used
    assert name in run(sidecars=False).failed
    table(dataset, f"{STEM}_channels.tsv", "name|type|status", "Fp1|EEG|bad")
    assert "was not made by this pipeline from this input" in run().failed[name]


def test_results_are_not_given_the_sidecars_of_their_recording(
    dataset: Path, tmp_path: Path
) -> None:
    table(dataset, "task-rest_events.tsv", "onset|duration|trial_type", "1|0|go")
    out = dataset / "derivatives" / "clean"
    report = ps.Pipeline([np.abs]).run(dataset, out, format="edf", progress=False)
    (path,) = report.outputs.values()
    assert sidecars_of(path) == []
    assert "sidecars" not in ps.open_dataset(path).attrs


def test_empty_files_of_a_cohort_are_named_and_stop_nothing(dataset: Path, tmp_path: Path) -> None:
    data = os.environ.get("PENSTOCK_DATA")
    if not data:
        pytest.skip("set PENSTOCK_DATA to the folder with next/bids (skeletons of BIDS datasets)")
    with tarfile.open(Path(data, "next", "bids", "eeg_cbm.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    whole = tmp_path / "eeg_cbm" / "sub-cbm001" / "eeg" / "sub-cbm001_task-protmap_eeg.edf"
    whole.unlink()
    os.replace(dataset / f"{STEM}_eeg.edf", whole)
    report = ps.Pipeline([np.abs]).run(tmp_path / "eeg_cbm", tmp_path / "out", progress=False)
    assert list(report.outputs) == ["sub-cbm001_task-protmap_eeg"]
    assert len(report.failed) == 19
    assert all("is empty (0 bytes)" in reason for reason in report.failed.values())
    ds = ps.open_dataset(report.outputs["sub-cbm001_task-protmap_eeg"])
    assert "discontinuity" in ds.event_label.values
    assert ds.attrs["line_frequency"] == 60.0


def test_events_are_not_moved_across_pauses_that_were_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Path
) -> None:
    path = dataset / f"{STEM}_eeg.edf"
    header = bytearray(path.read_bytes())
    header[192:197] = b"EDF+D"
    n_records, n_signals = int(header[236:244]), int(header[252:256])
    record = (len(header) - 256 * (n_signals + 1)) // n_records
    last = 256 * (n_signals + 1) + (n_records - 1) * record
    at = header.index(b"+9", last)
    header[at : at + 3] = b"+99" if header[at + 2 : at + 3] == b"\x14" else header[at : at + 3]
    header[at + 3 : at + 5] = b"\x14\x14"
    path.write_bytes(header)
    table(dataset, f"{STEM}_events.tsv", "onset|duration|trial_type", "99.5|0|go")
    ds = opened(dataset, gaps="join")
    assert ds.event_label.values.tolist() == ["of the file", "BAD_ACQ_SKIP"]
    assert "its onsets count the pauses that were joined" in ds.attrs["sidecar_notes"]
