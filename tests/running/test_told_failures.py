"""What is told of a failure: in the report's JSON, by the logger, and as an error where asked."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from misbehaving import Misbehaves, recording

import penstock as ps
from penstock.errors import RecordingError
from penstock.running.failures import LONGEST_TRACEBACK, of_error, type_name

BUDGET = "2 GiB"


def run(sources: dict[str, Any], out: Path, **options: Any) -> ps.Report:
    return ps.Pipeline([Misbehaves()]).run(
        sources, out, memory=BUDGET, workers=2, progress=False, **options
    )


def test_the_report_has_type_and_traceback(place: dict[str, Any], tmp_path: Path) -> None:
    run({"bad": recording("kernel value"), "good": recording()}, tmp_path, **place)
    told = json.loads((tmp_path / "penstock-report.json").read_text())
    (error,) = told["errors"].values()
    assert error["type"] == "ValueError"
    assert error["reason"] == told["failed"]["bad"]
    assert error["traceback"].startswith("Traceback (most recent call last)")
    assert "misbehaving.py" in error["traceback"]
    assert "ValueError: this part is out of order" in error["traceback"]


def test_the_report_has_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    values = np.ones((4, 1000), "f4")
    values[2] = np.nan

    def refuse(block: np.ndarray) -> np.ndarray:
        if not np.isfinite(block).all():
            raise ArithmeticError("no numbers")
        return block

    ds = ps.make_dataset(values, sampling_frequency=100.0)
    pipeline = ps.Pipeline([ps.Apply(refuse)])
    plan = pipeline.plan(ds, memory=BUDGET, workers=1)
    assert isinstance(plan, ps.Plan)
    assert plan.n_blocks == 4  # (a row each)
    report = pipeline.run({"bad": ds}, tmp_path, memory=BUDGET, workers=1, progress=False)
    error = report.errors["bad"]
    assert (error["type"], error["stage"], error["block"]) == ("ArithmeticError", 0, 2)


def test_opening_has_no_block(tmp_path: Path) -> None:
    (tmp_path / "bad.edf").write_bytes(b"not a recording")
    report = run({"bad": tmp_path / "bad.edf"}, tmp_path / "out")
    assert (report.errors["bad"]["stage"], report.errors["bad"]["block"]) == (None, None)


# ---------------------------------------------------------------------- on_error


def test_a_failure_ends_the_run_where_that_is_asked(place: dict[str, Any], tmp_path: Path) -> None:
    sources = {"bad": recording("kernel value"), **{f"good{n}": recording() for n in range(4)}}
    with pytest.raises(RecordingError, match=r"^bad: ") as raised:
        run(sources, tmp_path, on_error="raise", **place)
    error = raised.value
    assert (error.name, error.error) == ("bad", "ValueError")
    assert any("misbehaving.py" in note for note in error.__notes__)
    told = json.loads((tmp_path / "penstock-report.json").read_text())
    assert told["interrupted"]
    assert list(told["failed"]) == ["bad"]
    # the same call goes on
    report = run({**sources, "bad": recording()}, tmp_path, on_error="raise", **place)
    assert report.ok
    assert len(report.outputs) == 5


def test_other_ways_to_treat_failures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_error must be 'report' or 'raise', got 'ignore'"):
        run({"good": recording()}, tmp_path, on_error="ignore")
    assert not list(tmp_path.iterdir())


def test_the_error_travels() -> None:
    error = RecordingError("night", "it is broken", "ValueError", "Traceback ...")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "night: it is broken"
    assert again.traceback == error.traceback


# ---------------------------------------------------------------------- the logger


def test_the_logger_hears_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="penstock")
    run({"bad": recording("kernel value"), "good": recording()}, tmp_path)
    levels: dict[str, set[str]] = {}
    for record in caplog.records:
        if record.name == "penstock":
            levels.setdefault(record.levelname, set()).add(record.getMessage())
    assert any(text.startswith("bad: failed: ") for text in levels["ERROR"])
    assert any(text.startswith("good: done") for text in levels["INFO"])
    assert any("Traceback" in text for text in levels["DEBUG"])


def test_the_logger_is_quiet_by_default(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # (pytest listens)
    run({"bad": recording("kernel value")}, tmp_path)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------- as text


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_errors_that_cannot_be_printed_have_a_traceback() -> None:
    try:
        raise Silent
    except Silent as error:
        failure = of_error(error)
    assert failure.error.endswith("Silent")
    assert failure.traceback.startswith("Traceback")
    assert pickle.loads(pickle.dumps(failure)) == failure


def test_tracebacks_are_not_without_end_and_cannot_steer_a_terminal() -> None:
    try:
        raise ValueError("\x1b[2J" + "x" * 100_000)
    except ValueError as error:
        told = of_error(error).traceback
    assert len(told) < LONGEST_TRACEBACK + 100
    assert told.replace("\n", "").isprintable()


def test_types_are_named_with_their_modules() -> None:
    assert type_name(ValueError()) == "ValueError"
    assert type_name(json.JSONDecodeError("", "", 0)) == "json.decoder.JSONDecodeError"
