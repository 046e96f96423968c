from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock as ps
from penstock.running.result_names import names_of
from penstock.running.sources import resolve_sources
from penstock.storage.store import write_store


def touched(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(source: object, pattern: str | None = None) -> list[str]:
    return [item.name for item in resolve_sources(source, name=pattern)]


def test_results_are_named_after_their_files(tmp_path: Path) -> None:
    touched(tmp_path, "a/one.edf", "b/two.nii.gz", "b/three.v2.fif")
    assert names(tmp_path) == ["one", "three.v2", "two"]


def test_files_of_one_name_get_results_in_folders_like_theirs(tmp_path: Path) -> None:
    touched(tmp_path, "s1/run 1/x.edf", "s1/run 2/x.edf", "s2/run 1/x.edf", "s2/y.edf")
    expected = ["s1/run 1/x", "s1/run 2/x", "s2/run 1/x", "s2/y"]
    assert names(tmp_path) == expected
    assert names(str(tmp_path / "s*" / "**" / "*.edf")) == expected
    assert names([str(path) for path in sorted(tmp_path.rglob("*.edf"))]) == expected
    assert names([tmp_path / "s1", tmp_path / "s2" / "run 1"]) == expected[:3]
    # below the folder that was searched, so that names stay as the cohort grows
    assert names(tmp_path / "s1") == ["run 1/x", "run 2/x"]


def test_files_that_differ_in_their_extension_keep_it(tmp_path: Path) -> None:
    touched(tmp_path, "a.edf", "a.bdf", "b.edf")
    assert names(tmp_path) == ["a.bdf", "a.edf", "b"]
    touched(tmp_path, "c/a.edf", "c/a.bdf", "c/a.bdf.edf")
    assert names(tmp_path / "c") == ["a.bdf", "a.bdf.edf", "a.edf"]
    touched(tmp_path, "s/b.edf")
    assert names([tmp_path, tmp_path / "s"]) == ["a.bdf", "a.edf", "b", "s/b"]


def test_one_recording_given_in_many_ways_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path, "in/a.edf", "in/b.mff/signal1.bin")
    monkeypatch.chdir(tmp_path)
    given_ = ["in/a.edf", "./in/a.edf", "in", str(tmp_path / "in" / "*"), "in/b.mff/", "in//a.edf"]
    assert names(given_) == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{folder}_{name}", ["func_sub-01_task-rest_bold", "func_sub-02_task-rest_bold"]),
        ("{sub}/{task}-{suffix}", ["01/rest-bold", "02/rest-bold"]),
        ("{number}.{extension}", ["1.nii.gz", "2.nii.gz"]),
        ("{folders}/{file}", [f"sub-0{i}/func/sub-0{i}_task-rest_bold.nii.gz" for i in (1, 2)]),
        ("s{sub}//x", ["s01/x", "s02/x"]),
        ("{{{sub}}}", ["{01}", "{02}"]),
    ],
)
def test_a_pattern_names_results(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touched(tmp_path, *(f"sub-0{i}/func/sub-0{i}_task-rest_bold.nii.gz" for i in (1, 2)))
    assert names(tmp_path, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{nmae}", r"a\.edf has no 'nmae' for the name .*it has \{name\}, \{file\}"),
        ("{ses}", r"has no 'ses'"),
        ("same", r"a\.edf and .*b\.edf would both become 'same'"),
        ("../{name}", r"'\.\./a' cannot be the name of a result"),
        ("/tmp/{name}", r"'/tmp/\{name\}' cannot be the name of a result"),
        ("~/{name}", r"'~/\{name\}' cannot be the name of a result"),
        (".{name}", "cannot be the name of a result"),
        ("", "cannot be the name of a result"),
        ("{name", "cannot be read"),
        ("{}", r"write names of fields alone"),
        ("{0}", r"has no '0'"),
        ("{name.__class__}", "write names of fields alone"),
        ("{name[0]}", "write names of fields alone"),
        ("{name!r}", "write names of fields alone"),
        ("{name:>99999999}", "write names of fields alone"),
    ],
)
def test_patterns_that_cannot_be_used_are_told(tmp_path: Path, pattern: str, reason: str) -> None:
    touched(tmp_path, "a.edf", "b.edf")
    with pytest.raises(ValueError, match=reason):
        names(tmp_path, pattern)


_PARTS = st.text(string.ascii_lowercase[:3] + ".", min_size=1, max_size=3)


@given(st.sets(st.tuples(_PARTS, _PARTS, st.sampled_from([".edf", ".bdf", ".nii.gz"])), min_size=1))
def test_every_set_of_files_has_names_of_its_own(files: set[tuple[str, str, str]]) -> None:
    paths = [Path("/data", folder, name + end) for folder, name, end in sorted(files)]
    paths = list(dict.fromkeys(path for path in paths if ".." not in path.parts))
    found = names_of(paths, [path.parent for path in paths])
    assert len(set(found)) == len(paths)
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in found)


def test_same_names_run_resume_and_are_found_again(tmp_path: Path) -> None:
    for number, folder in enumerate(("s1", "s2")):
        ds = ps.make_dataset(np.full((2, 50), number, "f4"), sampling_frequency=10.0)
        write_store(ds, tmp_path / folder / "night.zarr")
    pipeline = ps.Pipeline([np.abs])
    report = pipeline.run(tmp_path, tmp_path, name="out/{folder}_{name}", progress=False)
    assert sorted(report.outputs) == ["out/s1_night", "out/s2_night"]
    # (results in the folder that is searched are no recordings)
    report = pipeline.run(tmp_path, tmp_path, name="out/{folder}_{name}", progress=False)
    assert sorted(report.skipped) == ["out/s1_night", "out/s2_night"]
    out = tmp_path / "mirrored"
    for again in (False, True):
        report = pipeline.run(tmp_path / "s?", out, progress=False)
        assert bool(report.skipped) == again
        for number, name in enumerate(("s1/night", "s2/night")):
            assert report.outputs[name] == out / f"{name}.zarr"
            result = ps.open_dataset(out / f"{name}.zarr")
            assert (result.signal.values == number).all()
    assert [plan.name for plan in pipeline.plan(tmp_path / "s?", name="{folder}")] == ["s1", "s2"]


def test_files_of_nothing_in_common_are_told_apart_by_their_nearest_folders() -> None:
    paths = [Path("/data/a/rest/x.edf"), Path("/data/b/rest/x.edf"), Path("/home/me/rest/x.edf")]
    roots = [path.parent for path in paths]
    assert names_of(paths, roots) == ["a/rest/x", "b/rest/x", "me/rest/x"]
    assert names_of(paths[:2], roots[:2]) == ["a/rest/x", "b/rest/x"]
    assert names_of([*paths[::2]], [*roots[::2]], "{folders}") == ["a/rest", "me/rest"]


def test_a_mapping_names_its_results_itself(tmp_path: Path) -> None:
    touched(tmp_path, "a.edf")
    assert names({"s1/night": tmp_path / "a.edf"}) == ["s1/night"]
    with pytest.raises(ValueError, match="leave out name"):
        names({"a": tmp_path / "a.edf"}, "{name}")
    for wrong in ("", "../a", "/a", "a/", ".a"):
        with pytest.raises(ValueError, match="cannot be the name of a result"):
            names({wrong: tmp_path / "a.edf"})


def test_datasets_are_named_after_their_sources_too(tmp_path: Path) -> None:
    ds = ps.make_dataset(np.zeros((1, 5), "f4"), sampling_frequency=1.0)
    first, second = (ds.assign_attrs(source=f"/data/{f}/x.edf") for f in ("a", "b"))
    assert names([first, second]) == ["a/x", "b/x"]
    assert names([ds, ds]) == ["dataset", "dataset1"]
    with pytest.raises(ValueError, match="would both become 'x"):
        names([first, first])
