"""What is installed, and on what machine."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import dask
import pytest

import penstock as ps
from penstock import installed, versions


def test_versions_as_plain_values() -> None:
    found = ps.show_versions(as_dict=True)
    assert found is not None
    assert json.loads(json.dumps(found)) == found
    assert found["penstock"] == ps.__version__
    assert found["python"] == platform.python_version()
    assert found["dependencies"]["dask"] == dask.__version__
    assert found["cores"] >= 1
    assert 0 < found["available_memory"] <= found["memory"]
    assert "mne" in found["extras"]["eeg"]
    assert not {"dev", "test", "docs", "all"} & set(found["extras"])


def test_versions_are_printed_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert ps.show_versions() is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"penstock {ps.__version__}"
    assert max(map(len, lines)) <= 80


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "nibabel":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    installed.version_of.cache_clear()
    found = versions.environment()
    installed.version_of.cache_clear()
    assert found["extras"]["fmri"]["nibabel"] is None
    assert "nibabel (missing)" in versions.environment_text(found)


def test_modules_lead_to_their_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    assert installed.missing_extra("sklearn.cluster") in ("fmri", "ml")
    assert installed.missing_extra("numpy.fft") == ""
    assert installed.missing_extra("nothing_that_there_is") == ""
