from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from penstock.io import (
    Reader,
    export,
    list_main_datasets,
    read_annotations,
    register_reader,
    registry,
)
from penstock.io.finding import find_recordings, whole_recordings
from penstock.local_paths import RemotePathError
from penstock.storage.store import open_store, write_store


def touched(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"x")


def found(given: Path | str, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in find_recordings(given).paths]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    touched(
        tmp_path,
        "in/a.edf",
        "in/b.mff/",
        "in/b.mff/signal1.bin",
        "in/b.mff/info.xml",
        "in/c.ds/",
        "in/c.ds/c.res4",
        "in/c.ds/hz.ds/hz.res4",
        "in/d.zarr/",
        "in/d.zarr/inner.edf",
        "in/e.vhdr",
        "in/e.eeg",
        "in/e.vmrk",
        "in/notes.txt",
        "in/.hidden.edf",
        "in/deeper/f.edf",
        "odd.ds/g.edf",
        "only/deep/h.mff/",
        "only/.git/annex/i.edf",
    )
    return tmp_path


ALL = ["in/a.edf", "in/b.mff", "in/c.ds", "in/d.zarr", "in/e.vhdr"]


def test_a_folder_holds_files_and_folders_that_are_recordings(cohort: Path) -> None:
    assert found(cohort / "in", cohort) == ALL
    assert found(str(cohort / "in") + "/", cohort) == ALL
    assert found(cohort / "only", cohort) == ["only/deep/h.mff"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.mff", ["in/b.mff"]),
        ("in/*.mff/", ["in/b.mff"]),
        ("**/*.mff", ["in/b.mff", "only/deep/h.mff"]),
        ("in/*.ds", ["in/c.ds"]),
        ("in/[ab].*", ["in/a.edf", "in/b.mff"]),
        ("in/e.*", ["in/e.vhdr"]),
        ("in/*.eeg", ["in/e.vhdr"]),
        ("in/b.mff/*", ["in/b.mff"]),
        ("in/**/*.edf", ["in/a.edf", "in/d.zarr", "in/deeper/f.edf"]),
        ("o*", ["odd.ds/g.edf", "only/deep/h.mff"]),
        ("in/deep*", ["in/deeper/f.edf"]),
    ],
)
def test_a_pattern_means_whole_recordings_once(
    cohort: Path, pattern: str, expected: list[str]
) -> None:
    assert found(cohort / pattern, cohort) == expected
    if pattern.endswith("/"):
        assert found(str(cohort / pattern) + "/", cohort) == expected


def test_a_recording_by_its_path_and_one_that_is_only_called_like_a_folder(cohort: Path) -> None:
    for name in ("in/b.mff", "in/c.ds", "in/d.zarr"):
        assert found(str(cohort / name) + "/", cohort) == [name]
    assert found(cohort / "odd.ds", cohort) == ["odd.ds/g.edf"]


def test_links_are_followed_once(cohort: Path) -> None:
    (cohort / "links" / "sub").mkdir(parents=True)
    (cohort / "links" / "sub" / "there").symlink_to(cohort / "in" / "deeper")
    (cohort / "links" / "sub" / "up").symlink_to(cohort / "links")
    (cohort / "links" / "sub" / "one.mff").symlink_to(cohort / "in" / "b.mff")
    expected = ["links/sub/one.mff", "links/sub/there/f.edf"]
    assert found(cohort / "links", cohort) == expected
    (cohort / "gone.edf").symlink_to(cohort / "nowhere.edf")
    with pytest.raises(FileNotFoundError, match="link to a file that is not there: get the file"):
        find_recordings(cohort / "gone.edf")
    with pytest.raises(FileNotFoundError, match="link to a file that is not there"):
        ps.open_dataset(cohort / "gone.edf")


def test_a_list_holds_every_recording_once(cohort: Path) -> None:
    paths = [*sorted((cohort / "in").glob("e.*")), cohort / "in" / "e.vhdr"]
    assert whole_recordings(paths) == [cohort / "in" / "e.vhdr"]
    assert whole_recordings([cohort / "in" / "e.eeg"]) == [cohort / "in" / "e.eeg"]


def test_a_bids_dataset_is_searched_for_its_recordings(tmp_path: Path) -> None:
    touched(
        tmp_path,
        "dataset_description.json",
        "sub-01/eeg/sub-01_task-rest_eeg.edf",
        "sub-01/eeg/sub-01_task-rest_channels.tsv",
        "sourcedata/sub-01/original.edf",
        "stimuli/sound.edf",
        "derivatives/clean/sub-01/eeg/sub-01_task-rest_desc-clean_eeg.edf",
    )
    assert found(tmp_path, tmp_path) == ["sub-01/eeg/sub-01_task-rest_eeg.edf"]
    assert found(tmp_path / "sub-*" / "eeg" / "*", tmp_path) == [
        "sub-01/eeg/sub-01_task-rest_eeg.edf"
    ]
    assert len(find_recordings(tmp_path / "derivatives").paths) == 1
    assert len(find_recordings(tmp_path / "sourcedata").paths) == 1


def test_files_that_nobody_knows_are_named_only_where_nothing_else_is(tmp_path: Path) -> None:
    touched(tmp_path, "night1", "night2")
    assert found(tmp_path / "night*", tmp_path) == ["night1", "night2"]
    (tmp_path / "night3").write_bytes(b"0       " + bytes(600))  # (EDF, whatever its name)
    assert found(tmp_path / "night*", tmp_path) == ["night3"]


@pytest.mark.parametrize("split", ["neuromag", "bids"])
def test_parts_of_a_split_recording_are_one(tmp_path: Path, split: str) -> None:
    mne = pytest.importorskip("mne")
    values = np.random.default_rng(0).standard_normal((20, 60_000)) * 1e-5
    raw = mne.io.RawArray(values, mne.create_info(20, 250.0, "eeg"), verbose="error")
    name = "sub-01_meg.fif" if split == "bids" else "night_raw.fif"
    raw.save(
        tmp_path / name,
        split_size="2MB",
        split_naming=split,
        buffer_size_sec=10,
        verbose="error",
    )
    first = "sub-01_split-01_meg.fif" if split == "bids" else name
    assert len(list(tmp_path.iterdir())) > 2
    for given in (tmp_path, tmp_path / "*.fif", tmp_path / "*2*.fif"):
        assert found(given, tmp_path) == [first]
    assert whole_recordings(sorted(tmp_path.iterdir(), reverse=True)) == [tmp_path / first]
    # one called like a part, which is a recording of its own
    raw.crop(0, 1).save(tmp_path / "rest_raw.fif", verbose="error")
    raw.save(tmp_path / "rest_raw-1.fif", verbose="error")
    assert found(tmp_path, tmp_path) == sorted([first, "rest_raw-1.fif", "rest_raw.fif"])


def test_empty_parts_of_a_bids_skeleton_are_told_by_their_names(tmp_path: Path) -> None:
    touched(tmp_path, "sub-01_split-01_meg.fif", "sub-01_split-02_meg.fif", "x.fif", "x-1.fif")
    assert found(tmp_path, tmp_path) == ["sub-01_split-01_meg.fif", "x-1.fif", "x.fif"]


def test_a_reader_says_what_its_recordings_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_readers", dict(registry._readers))
    register_reader(Reader("boxed", (".boxed",), lambda path: None, on_disk="folder"))  # type: ignore[arg-type,return-value]
    touched(tmp_path, "a.boxed/", "a.boxed/inner.edf", "b.edf/c.edf")
    assert found(tmp_path, tmp_path) == ["a.boxed"]
    assert found(tmp_path / "b.edf", tmp_path) == ["b.edf/c.edf"]
    (tmp_path / "d.boxed").write_bytes(b"not a folder")
    with pytest.raises(ValueError, match="is a file, but such a recording is a folder"):
        ps.open_dataset(tmp_path / "d.boxed")
    with pytest.raises(ValueError, match=r"only a part of the recording .*a\.boxed: open"):
        ps.open_dataset(tmp_path / "a.boxed" / "inner.edf")


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a.edf", "https://host/a.edf?x=1", "gs://b/a.zarr", "http://host/*.fif"],
)
def test_addresses_are_not_paths_yet(address: str, tmp_path: Path) -> None:
    ds = ps.make_dataset(np.zeros((1, 5), "f4"), sampling_frequency=1.0)
    pipeline = ps.Pipeline([np.abs])
    for given in (address, Path(address)):
        for use, arguments in (
            (ps.open_dataset, (given,)),
            (pipeline.run, (given, tmp_path)),
            (pipeline.run, ([given], tmp_path)),
            (pipeline.run, ({"a": given}, tmp_path)),
            (pipeline.run, (tmp_path, given)),
            (pipeline.plan, (given,)),
            (pipeline.compute, (given,)),
            (ps.Pipeline.from_yaml, (given,)),
            (pipeline.to_yaml, (given,)),
            (read_annotations, (given,)),
            (export, (ds, given)),
            (write_store, (ds, given)),
            (open_store, (given,)),
            (list_main_datasets, (given,)),
        ):
            with pytest.raises(RemotePathError, match=r"^\w+://.*not supported yet: copy it"):
                use(*arguments)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RemotePathError, match=r"give the path itself, without file://"):
        ps.open_dataset("file:///data/a.edf")


BRAINVISION = """Brain Vision Data Exchange Header File Version 1.0
[Common Infos]
DataFile={data}
MarkerFile=a.vmrk
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels=1
SamplingInterval=10000
[Binary Infos]
BinaryFormat=INT_16
[Channel Infos]
Ch1=Cz,,0.5,uV
"""


def test_data_outside_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    pytest.importorskip("mne")
    inside = tmp_path / "in"
    inside.mkdir()
    samples = np.arange(100, dtype="<i2").tobytes()
    (tmp_path / "secret.eeg").write_bytes(samples)
    (inside / "a.eeg").write_bytes(samples)
    (inside / "a.vmrk").write_text("Brain Vision Data Exchange Marker File, Version 1.0\n")
    header = inside / "a.vhdr"
    for name in ("../secret.eeg", str(tmp_path / "secret.eeg"), "x/../../secret.eeg"):
        header.write_text(BRAINVISION.format(data=name))
        with pytest.raises(ValueError, match=r"outside of its folder, which is not followed"):
            ps.open_dataset(header)
    header.write_text(BRAINVISION.format(data="a.eeg"))
    assert ps.open_dataset(header).sizes == {"channel": 1, "time": 100, "event": 0}
    (inside / "a.eeg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.eeg is empty \(0 bytes\)"):
        ps.open_dataset(header)


def test_a_change_of_any_part_is_another_input(tmp_path: Path) -> None:
    pytest.importorskip("mne")
    (tmp_path / "a.vhdr").write_text(BRAINVISION.format(data="a.eeg"))
    (tmp_path / "a.vmrk").write_text("Brain Vision Data Exchange Marker File, Version 1.0\n")
    (tmp_path / "a.eeg").write_bytes(np.arange(100, dtype="<i2").tobytes())
    pipeline, out = ps.Pipeline([np.abs]), tmp_path / "out"
    assert pipeline.run(tmp_path / "a.vhdr", out, progress=False).ok
    assert pipeline.run(tmp_path / "a.*", out, progress=False).skipped == ["a"]
    (tmp_path / "a.eeg").write_bytes(np.arange(101, dtype="<i2").tobytes())
    assert "was not made" in pipeline.run(tmp_path / "a.vhdr", out, progress=False).failed["a"]


def test_what_cannot_be_searched_is_told(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.io import finding

    entries = finding._entries

    def refusing(folder: Path) -> list[Path]:
        if folder.name == "deep":
            raise PermissionError(13, "Permission denied")
        return entries(folder)

    monkeypatch.setattr(finding, "_entries", refusing)
    with (
        pytest.warns(UserWarning, match=r"deep is not searched \(Permission denied\)"),
        pytest.raises(FileNotFoundError, match="no recordings in this folder"),
    ):
        find_recordings(cohort / "only")


def test_a_link_that_leads_nowhere_is_named_by_a_run(cohort: Path, tmp_path: Path) -> None:
    (cohort / "far").mkdir()
    (cohort / "far" / "x.edf").symlink_to("/nowhere/x.edf")
    report = ps.Pipeline([np.abs]).run(cohort / "far", cohort / "out", progress=False)
    assert "is a link to a file that is not there: get the file" in report.failed["x"]
