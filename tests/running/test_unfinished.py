"""What a run leaves unfinished: whatever is damaged of it, the result is that of a whole run."""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupted import (
    OPTIONS,
    WAYS,
    contents,
    damage,
    files_of,
    interrupt,
    recording,
)

import penstock
import penstock as ps
from penstock.eeg import HighPassFilter, Rereference
from penstock.running.resuming.unfinished import read_begun
from penstock.storage.ledger import Ledger, partial_path

FILTERED = ps.Pipeline([HighPassFilter(1.0)])
STAGED = ps.Pipeline([HighPassFilter(1.0, method="iir"), Rereference()])
"""Takes a scratch array or partial sums."""


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
        for module in ("blocks", "plan"):
            patch.setattr(f"penstock.{module}.TARGET_BYTES", 1 << 17)
        yield


class Left:
    """Runs that were interrupted, and what comes of them whole."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.source = recording(folder / "r.zarr")
        self.cases = {
            "filtered": (FILTERED, 3, {}),
            "first stage": (STAGED, 7, {}),
            "second stage": (STAGED, 15, {}),
            "exported": (FILTERED, 3, {"format": "edf"}),
        }
        for name, (pipeline, after, options) in self.cases.items():
            report = pipeline.run(self.source, folder / name / "whole", **OPTIONS, **options)
            assert report.ok, report
            interrupt(pipeline, self.source, folder / name / "left", after, **options)
            assert files_of(folder / name / "left")

    def resumed(self, name: str, path: str | None, how: str = "", at: float = 0.5) -> str:
        """Damage a file of what is left, run again, and compare; what the report notes."""
        pipeline, _, options = self.cases[name]
        again = self.folder / name / "again"
        shutil.rmtree(again, ignore_errors=True)
        # (blocks are begun in the folder that they are resumed in)
        shutil.copytree(self.folder / name / "left", again)
        if path is not None:
            damage(again / path, how, at)
        report = pipeline.run(self.source, again, **OPTIONS, **options)
        assert report.ok, report
        assert contents(again) == contents(self.folder / name / "whole"), (path, how)
        return report.notes.get("r", "")

    def files(self, name: str) -> list[str]:
        """Files of what is left, but the report."""
        return [key for key in contents(self.folder / name / "left") if ".partial" in key]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    return Left(tmp_path_factory.mktemp("left"))


@given(data=st.data())
@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_file_may_be_damaged(left: Left, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(left.cases)))
    path = data.draw(st.sampled_from(left.files(name)))
    left.resumed(name, path, data.draw(st.sampled_from(WAYS)), data.draw(st.floats(0, 1)))


@pytest.mark.parametrize("name", ["filtered", "first stage", "second stage", "exported"])
def test_what_is_whole_is_not_done_again(left: Left, name: str) -> None:
    n = sum(len(done) for done in Ledger(
        partial_path(left.folder / name / "left" / f"r.{'edf' if name == 'exported' else 'zarr'}")
        / "ledger"
    ).finished().values())  # fmt: skip
    assert n >= 2
    assert f"resumed: {n} of" in left.resumed(name, None)


@pytest.mark.parametrize("how", WAYS)
def test_a_block_whose_file_is_not_whole_is_done_again(left: Left, how: str) -> None:
    (path,) = [p for p in left.files("filtered") if "signal/c/1/" in p or p.endswith("c/1")][:1]
    note = left.resumed("filtered", path, how, at=0.9)
    assert "resumed: 2 of 6 blocks were finished; 1 more was not whole" in note


@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_plan_begins_again(left: Left, how: str) -> None:
    (path,) = [p for p in left.files("filtered") if p.endswith("plan.json")]
    note = left.resumed("filtered", path, how)
    assert how == "gone" or note.startswith("started again, because the plan")


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"key": "x"}', '{"check": 1}', "\x00"])
def test_a_plan_of_anything_else_begins_again(left: Left, content: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(left.folder / "filtered" / "left", out)
    (partial_path(out / "r.zarr") / "plan.json").write_text(content)
    report = FILTERED.run(left.source, out, **OPTIONS)
    assert report.ok, report
    assert "started again, because" in report.notes["r"]


def test_other_work_is_not_discarded(left: Left, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(left.folder / "filtered" / "left", out)
    other = ps.Pipeline([HighPassFilter(2.0)])
    report = other.run(left.source, out, **OPTIONS)
    assert "3 finished blocks of another pipeline (HighPassFilter)" in report.failed["r"]
    assert "overwrite" in report.failed["r"]
    # the work is there as it was
    again = FILTERED.run(left.source, out, **OPTIONS)
    assert "resumed: 3 of 6" in again.notes["r"]
    # and goes where that is asked for
    out = tmp_path / "other"
    shutil.copytree(left.folder / "filtered" / "left", out)
    report = other.run(left.source, out, overwrite=True, **OPTIONS)
    assert report.ok
    assert "discarded, as asked" in report.notes["r"]


def test_blocks_that_no_longer_fit_are_not_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 8 << 20)
    monkeypatch.setattr("penstock.planning.blocks.TARGET_BYTES", 32 << 20)
    source = recording(tmp_path / "r.zarr", channels=16, samples=500_000)
    interrupt(FILTERED, source, tmp_path / "out", 1)
    plan = FILTERED.plan(source, memory="3 GiB", workers=1)
    assert plan.stages[0].grid.block[0] > 2
    tight = {**OPTIONS, "memory": plan.base + int(0.8 * plan.block_bytes)}
    report = FILTERED.run(source, tmp_path / "out", **tight)
    assert "1 finished block that a run with memory of 3 GiB made" in report.failed["r"]
    assert "resumed: 1 of" in FILTERED.run(source, tmp_path / "out", **OPTIONS).notes["r"]


def test_versions_that_changed_in_between_are_told(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(left.folder / "filtered" / "left", out)
    monkeypatch.setattr("numpy.__version__", "99.0")
    report = FILTERED.run(left.source, out, **OPTIONS)
    assert "numpy" in report.notes["r"]
    assert "to 99.0" in report.notes["r"]
    about = ps.provenance(ps.open_dataset(out / "r.zarr"))
    assert about["versions"]["numpy"] == "99.0"
    assert about["earlier_versions"][0]["numpy"] != "99.0"


def test_files_lost_during_the_run_are_made_again(left: Left, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(left.folder / "filtered" / "left", out)
    store = partial_path(out / "r.zarr") / "store"
    removed: list[Path] = []

    def lose(event: object) -> None:
        if type(event).__name__ == "BlockFinished" and not removed:
            removed.append(files_of(store / "signal" / "c")[0])
            removed[0].unlink()

    report = FILTERED.run(left.source, out, listeners=[lose], **OPTIONS)
    assert report.ok, report
    assert removed
    assert contents(out) == contents(left.folder / "filtered" / "whole")


def test_a_ledger_goes_on_after_a_line_that_is_cut(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(0, 1)
    (path,) = tmp_path.iterdir()
    with open(path, "ab") as file:
        file.write(b'{"stage":0,"blo')
    ledger.add(0, 2)
    assert ledger.finished() == {0: {1, 2}}
    # a number that another bit turned into another is not a block
    path.write_bytes(path.read_bytes().replace(b'"block":2', b'"block":3'))
    assert ledger.finished() == {0: {1}}
    ledger.forget({(0, 1)})
    assert ledger.finished() == {}


def test_the_provenance_of_a_result_is_text_that_json_reads(left: Left) -> None:
    left.resumed("exported", None)
    about = json.loads((left.folder / "exported" / "again" / "r.edf.penstock.json").read_text())
    assert list(about["files"]) == ["r.edf"]


STEPS = (
    "penstock.running.tasks.add_provenance",
    "penstock.running.tasks.sync_file_system",
    "penstock.running.tasks.publish",
    "penstock.running.tasks.discard",
    "penstock.storage.durable.os.replace",
)


class Ended(Exception):
    """As if the process had ended here."""


@contextmanager
def ended_at(step: str, count: int, after: bool) -> Iterator[None]:
    """Let the process come to its end before or after a call of a function."""
    done = operator.attrgetter(step.removeprefix("penstock."))(penstock)
    calls = itertools.count()

    def ends(*args: Any, **options: Any) -> Any:
        last = next(calls) == count
        found = done(*args, **options) if after or not last else None
        if last:
            raise Ended
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, ends)
        yield


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["edf", "zarr, replaced"])
def test_publishing_may_end_anywhere(tmp_path: Path, step: str, name: str) -> None:
    format, _, replaced = name.partition(", ")
    source = recording(tmp_path / "r.zarr", channels=1, samples=5000)
    options = {**OPTIONS, "format": format, "overwrite": bool(replaced)}
    assert FILTERED.run(source, tmp_path / "whole", **options).ok
    whole = contents(tmp_path / "whole")
    ended = 0
    # (before one renaming is after the one before it)
    whens = (True,) if step.endswith("os.replace") else (False, True)
    for count, after in itertools.product(range(30), whens):
        out = tmp_path / f"{count}-{after}"
        if replaced:
            other = ps.Pipeline([ps.Apply(np.negative, core_dims=())])
            assert other.run(source, out, **OPTIONS, format=format).ok
        with ended_at(step, count, after), contextlib.suppress(Ended):
            report = FILTERED.run(source, out, **options)
            if report.ok:
                break
        ended += 1
        report = FILTERED.run(source, out, **options)
        assert report.ok, (count, after, report)
        assert contents(out) == whole, (count, after)
    assert ended


def test_blocks_of_other_stages_are_not_taken_for_these(left: Left, tmp_path: Path) -> None:
    """Two budgets may cut one pipeline into as many stages that do other things."""
    out = tmp_path / "out"
    shutil.copytree(left.folder / "filtered" / "left", out)
    building = partial_path(out / "r.zarr")
    begun = read_begun(building)
    assert begun is not None
    replace(begun, stages=[["process", "something else"]]).save(building)
    report = FILTERED.run(left.source, out, **OPTIONS)
    assert "of other stages" in report.failed["r"]
    begun.save(building)
    assert "resumed: 3 of 6" in FILTERED.run(left.source, out, **OPTIONS).notes["r"]
