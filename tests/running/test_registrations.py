"""What a user registers works wherever blocks run: here, in processes, on workers of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock import formats
from penstock.formats import Format, register_format
from penstock.io import Reader, register_reader, registry
from penstock.running.registrations import registrations, take_over

BUDGET = "2 GiB"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    known, written = dict(registry._readers), dict(formats.FORMATS)
    yield
    for table, before in ((registry._readers, known), (formats.FORMATS, written)):
        table.clear()
        table.update(before)  # type: ignore[call-overload]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.plain"
    np.arange(400, dtype="<f4").tofile(path)
    return path


def _reader(factor: float, **more: Any) -> Reader:
    """A reader whose function is a closure: no other process can import it."""

    def open_plain(path: str, *, dtype: Any = None) -> Any:
        values = factor * np.fromfile(path, "<f4").reshape(4, -1)
        return ps.make_dataset(values, sampling_frequency=100.0)

    return Reader("plain", (".plain",), open_plain, **more)


def _sum(source: Path, out: Path, place: dict[str, Any]) -> float:
    report = ps.Pipeline([np.abs]).run(source, out, memory=BUDGET, progress=False, **place)
    assert report.ok, report
    return float(ps.open_dataset(report.outputs["a"]).signal.sum())


def test_a_reader_of_a_closure_is_the_one_of_this_process(
    place: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    whole = float(np.arange(400).sum())
    # (workers of a cluster outlive a run: what is registered later replaces what they had)
    for number, factor in enumerate((1.0, 2.0, 1.0) if place.get("client") else (2.0,)):
        reader = register_reader(_reader(factor))
        assert _sum(source, tmp_path / f"out{number}", place) == factor * whole
        assert registry.readers()["plain"] is reader


def test_nothing_travels_where_nothing_was_registered() -> None:
    assert registrations() == b""
    take_over(b"")


def test_what_cannot_be_sent_is_told_where_it_is_needed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()

    def open_locked(path: str, *, dtype: Any = None) -> Any:
        with lock:
            raise AssertionError("not here")

    register_reader(Reader("plain", (".plain",), open_locked))
    register_reader(Reader("other", (".other",), _reader(3.0).open))
    sent = registrations()
    registry._readers.pop("plain")
    registry._readers.pop("other")
    monkeypatch.setattr("penstock.running.registrations._process", lambda: ("another", 1))
    take_over(sent)
    other = source.rename(tmp_path / "a.other")
    assert float(ps.open_dataset(other).signal.max()) == 3 * 399
    other.rename(source)
    with pytest.raises(ValueError, match="cannot be sent to other processes"):
        ps.open_dataset(source)


def test_a_format_needs_a_function_and_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="is a format of Penstock"):
        register_format(Format("edf", ".edf", write=print))
    with pytest.raises(ValueError, match="needs a function"):
        register_format(Format("mine", ".mine"))


SCRIPT = """
import sys
from dataclasses import dataclass
import numpy as np, penstock as ps
from penstock.formats import Format, register_format
from penstock.io import Reader, register_reader
from penstock.spectra import parallel_compute

def open_plain(path, *, dtype=None):
    return ps.make_dataset(np.fromfile(path, "<f4").reshape(4, -1), sampling_frequency=100.0)

def write_plain(ds, path):
    ds.signal.values.tofile(path)

@dataclass(frozen=True)
class Twice(ps.Processor):
    core_dims = ("time",)
    gil = "held"
    def kernel(self, block, ctx):
        return 2 * block

register_reader(Reader("plain", (".plain",), open_plain))
register_format(Format("plain", ".plain", write=write_plain))
source, out = sys.argv[1:]
report = ps.Pipeline([Twice()]).run(
    source, out, format="plain", memory="2 GiB", workers=1, executor="processes", progress=False)
assert report.ok, report
assert np.array_equal(np.fromfile(out + "/a.plain", "<f4"), 2 * np.fromfile(source, "<f4"))

def largest(row):
    return float(ps.open_dataset(source).signal.max())

found = parallel_compute(
    np.ones((40, 2)), largest, cores=2, lengthy_computation=True, verbose=False)
assert found == [399.0] * 40, found
"""


def test_what_a_script_defines_needs_no_module(source: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(source), str(tmp_path / "out")],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
