from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.io.bids.names import (
    bids_root,
    find_sidecars,
    metadata_of,
    parse_name,
    read_json,
    read_tsv,
)

WORDS = st.text("abcXYZ019+", min_size=1, max_size=5)
KEYS = st.lists(
    st.sampled_from(["sub", "ses", "task", "acq", "run", "space", "res", "desc", "echo", "split"]),
    min_size=1,
    unique=True,
)


@given(KEYS, st.data(), st.sampled_from(["eeg", "bold", "channels"]))
def test_a_name_is_its_parts(keys: list[str], data: st.DataObject, suffix: str) -> None:
    entities = {key: data.draw(WORDS) for key in keys}
    extension = data.draw(st.sampled_from([".nii.gz", ".vhdr", ".tsv", ""]))
    text = "_".join([*(f"{key}-{value}" for key, value in entities.items()), suffix]) + extension
    name = parse_name("/some/where/" + text)
    assert name is not None
    assert (dict(name.entities), name.suffix, name.extension) == (entities, suffix, extension)
    assert list(name.entities) == keys


@pytest.mark.parametrize(
    "name", ["night_raw.fif", "sub-01.edf", "sub-01_sub-02_eeg.edf", "eeg.edf", "_eeg.edf", ".json"]
)
def test_other_names_are_none_of_bids(name: str) -> None:
    assert parse_name(name) is None


def touched(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


def test_sidecars_are_inherited_from_the_dataset_and_from_nowhere_else(tmp_path: Path) -> None:
    touched(
        tmp_path,
        "task-rest_eeg.json",  # outside the dataset
        "set/dataset_description.json",
        "set/task-rest_eeg.json",
        "set/eeg.json",
        "set/task-play_eeg.json",
        "set/task-rest_channels.json",
        "set/sub-01/sub-01_eeg.json",
        "set/sub-01/eeg/sub-01_task-rest_eeg.json",
        "set/sub-01/eeg/sub-01_task-rest_run-1_eeg.json",
        "set/sub-01/eeg/sub-01_task-rest_run-2_eeg.json",
        "set/sub-02/eeg/sub-02_task-rest_eeg.json",
    )
    data = tmp_path / "set" / "sub-01" / "eeg" / "sub-01_task-rest_run-1_eeg.vhdr"
    assert [str(p.relative_to(tmp_path / "set")) for p in find_sidecars(data, ".json")] == [
        "eeg.json",
        "task-rest_eeg.json",
        "sub-01/sub-01_eeg.json",
        "sub-01/eeg/sub-01_task-rest_eeg.json",
        "sub-01/eeg/sub-01_task-rest_run-1_eeg.json",
    ]
    assert bids_root(data) == tmp_path / "set"


def test_a_folder_of_subjects_is_a_dataset_without_description(tmp_path: Path) -> None:
    touched(tmp_path, "task-rest_bold.json", "sub-01/func/sub-01_task-rest_bold.nii.gz")
    data = tmp_path / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz"
    assert bids_root(data) == tmp_path
    assert find_sidecars(data, ".json") == [tmp_path / "task-rest_bold.json"]


def test_only_free_entities_may_be_added(tmp_path: Path) -> None:
    touched(
        tmp_path, "sub-01_space-CapTrak_electrodes.tsv", "sub-01_space-CapTrak_acq-x_electrodes.tsv"
    )
    data = tmp_path / "sub-01_task-rest_eeg.edf"
    assert find_sidecars(data, ".tsv", suffix="electrodes") == []
    found = find_sidecars(data, ".tsv", suffix="electrodes", free=("space",))
    assert [path.name for path in found] == ["sub-01_space-CapTrak_electrodes.tsv"]


def test_a_file_of_the_same_name_counts_whatever_the_name(tmp_path: Path) -> None:
    (tmp_path / "night.json").write_text('\ufeff{"RepetitionTime": 2}', encoding="utf-8")
    metadata, files = metadata_of(tmp_path / "night.nii.gz")
    assert metadata == {"RepetitionTime": 2}
    assert files == [tmp_path / "night.json"]
    assert metadata_of(tmp_path / "day.nii.gz") == ({}, [])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_broken_metadata_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sub-01_eeg.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sub-01_eeg\.json.*: mend or remove it"):
        read_json(path)


def test_tables_are_text_with_none_for_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_events.tsv"
    path.write_bytes(b'\xef\xbb\xbfonset\tduration\tvalue\r\n0.5\tn/a\t"A\r\n1\t\t 01\r\n')
    table = read_tsv(path)
    assert list(table) == ["onset", "duration", "value"]
    assert table.values.tolist() == [["0.5", None, '"A'], ["1", None, "01"]]
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="mend or remove it"):
        read_tsv(path)
