from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from paths import ROOT

import penstock as ps
from penstock.io.mne.problems import IN_THE_EXTRA, reading_problem
from penstock.io.registry import MissingExtraError

mne = pytest.importorskip("mne")
PROJECT = ROOT / "pyproject.toml"


def matlab_73(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("EEG")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(116) + b"\0" * 8 + b"\0\2IM")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("a.set", "pymatreader"),
        ("a.mff", "mffpy"),
        ("a.nedf", "defusedxml"),
        ("a.mefd", "pymef"),
    ],
)
def test_a_missing_module_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    path = tmp_path / name
    if name == "a.set":
        matlab_73(path)
    elif name == "a.mff":
        path.mkdir()
        (path / "info.xml").write_text("<fileInfo/>")
    elif name == "a.mefd":
        (path / "x.timd").mkdir(parents=True)
    else:
        path.write_bytes(b"<?xml version='1.0'?>" + bytes(100_000))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as raised:
        ps.open_dataset(path)
    text = str(raised.value)
    assert str(path) in text
    assert f"needs {module} to be read: pip install" in text
    assert module in text.partition("pip install")[2]
    assert ('"penstock[eeg]", which brings it' in text) == (module in IN_THE_EXTRA)


def test_modules_are_found_in_what_mne_python_says() -> None:
    text = (
        "For read file header to work, the module curryreader>=0.1 is needed, but it could not be "
        "imported. Use the following installation method appropriate for your environment:"
    )
    error = reading_problem("/data/a.cdt", RuntimeError(text), {})
    assert isinstance(error, MissingExtraError)
    assert 'pip install "curryreader>=0.1"' in str(error)
    error = reading_problem("/data/a.xyz", ModuleNotFoundError("No module named 'pybv'"), {})
    assert str(error) == "/data/a.xyz needs pybv to be read: pip install pybv"


def test_what_each_format_of_an_extension_lacks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.cnt").write_bytes(b"RIFF" + bytes(20_000))
    monkeypatch.setitem(sys.modules, "antio", None)
    with pytest.raises(ValueError, match=r"as CNT: .*; as ANT: needs antio.*pip install") as raised:
        ps.open_dataset(tmp_path / "a.cnt")
    assert "Traceback" not in str(raised.value)


def test_the_extra_brings_what_the_sentences_say() -> None:
    extra = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["eeg"]
    assert all(any(line.startswith(module) for line in extra) for module in IN_THE_EXTRA)


def test_options_that_the_format_does_not_know_are_told(tmp_path: Path) -> None:
    raw = mne.io.RawArray(np.zeros((1, 100)), mne.create_info(1, 100.0, "eeg"), verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.raises(ValueError, match="'allow_maxsheild': did you mean 'allow_maxshield'"):
        ps.open_dataset(tmp_path / "a_raw.fif", allow_maxsheild=True)
    with pytest.raises(ValueError, match="'color': options of this format are allow_maxshield"):
        ps.open_dataset(tmp_path / "a_raw.fif", color="red")


def test_a_recording_that_is_a_folder_runs_in_every_way(recordings: Path, tmp_path: Path) -> None:
    pytest.importorskip("mffpy")
    there = recordings.parent / "next" / "eeg" / "example_3.mff"
    if not there.is_dir():
        pytest.skip("set PENSTOCK_DATA to data with next/eeg/example_3.mff")
    folder = tmp_path / "two words"
    folder.mkdir()
    (folder / "night one.mff").symlink_to(there)
    pipeline = ps.Pipeline([np.abs])
    expected = np.abs(ps.open_dataset(there).signal.values)
    for number, source in enumerate(
        (folder, folder / "*.mff", f"{folder}/night one.mff/", [folder, folder / "night one.mff"])
    ):
        out = tmp_path / str(number)
        report = pipeline.run(source, out, progress=False, dtype="float32")
        assert list(report.outputs) == ["night one"], report.failed
        values = ps.open_dataset(report.outputs["night one"]).signal.values
        np.testing.assert_array_equal(values, expected.astype("float32"))
        assert pipeline.run(source, out, progress=False, dtype="float32").skipped
