"""One failure stays one: whatever goes wrong with a recording, the others are done."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from misbehaving import RAISED, Misbehaves, open_numbers, recording, write_numbers

import penstock as ps
from penstock import events, formats
from penstock.io import Reader, register_reader, registry
from penstock.running import failures
from penstock.running.failures import may_pass, seconds_to_wait, text_of

BUDGET = "2 GiB"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What these tests register is gone after them."""
    register_reader(Reader("numbers", (".numbers",), open_numbers))
    formats.register_format(formats.Format("numbers", ".numbers", write=write_numbers))
    yield
    registry._readers.pop("numbers")
    formats.FORMATS.pop("numbers")


def test_what_is_raised_is_of_one_recording(place: dict[str, Any], tmp_path: Path) -> None:
    sources = {f"kernel-{how}": recording(f"kernel {how}") for how in RAISED}
    sources |= {f"{phase}": recording(f"{phase} value") for phase in ("prepare", "outline")}
    sources |= {"good": recording(), "exits": recording("prepare exit")}
    report = ps.Pipeline([Misbehaves()]).run(
        sources, tmp_path, memory=BUDGET, workers=2, progress=False, **place
    )
    assert set(report.outputs) == {"good"}, report
    assert set(report.failed) == set(sources) - {"good"}
    for name, reason in report.failed.items():
        assert "\n" not in reason
        assert len(reason) < 1200
        assert "Traceback" not in reason, name
    assert "out of order (in Misbehaves" in report.failed["kernel-value"]
    assert "belongs to this process" in report.failed["kernel-unpicklable"]
    assert "SystemExit" in report.failed["kernel-exit"]
    assert not report.retries


def test_opening_and_writing_fail_for_one_recording(place: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("open-value", "open-exit", "write-value", "good"):
        np.arange(400, dtype="<f4").tofile(folder / f"{name}.numbers")
    (folder / "broken.numbers").write_bytes(bytes(20))
    out = tmp_path / "out"
    report = ps.Pipeline([Misbehaves()]).run(
        folder, out, format="numbers", memory=BUDGET, workers=2, progress=False, **place
    )
    assert set(report.outputs) == {"good"}, report
    assert set(report.failed) == {"open-value", "open-exit", "write-value", "broken"}
    assert np.array_equal(np.fromfile(out / "good.numbers", "<f4"), 2 * np.arange(400))
    assert [path.name for path in out.glob("*.numbers")] == ["good.numbers"]


def test_publishing_fails_for_one_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import penstock.running.tasks as work

    publish = work.publish

    def refuse(finished: Path, target: Path, **options: Any) -> None:
        if target.stem == "bad":
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        publish(finished, target, **options)

    monkeypatch.setattr(work, "publish", refuse)
    sources = {"bad": recording(), "good": recording()}
    report = ps.Pipeline([Misbehaves()]).run(sources, tmp_path, memory=BUDGET, progress=False)
    assert set(report.outputs) == {"good"}
    assert "permission denied" in report.failed["bad"]


# ---------------------------------------------------------------------- what may pass


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (ConnectionResetError(), True),
        (TimeoutError("no answer"), True),
        (OSError("Can't read data (file read failed: errno = 5, error message = 'I/O')"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (OSError("cannot tell what this is"), False),
        (ValueError("wrong"), False),
        (MemoryError(), False),
    ],
)
def test_hiccups_of_disks_and_networks_may_pass(error: BaseException, passes: bool) -> None:
    assert may_pass(error) is passes
    wrapped = ValueError("the recording cannot be read")
    wrapped.__cause__ = error
    assert may_pass(wrapped) is passes


@given(st.integers(1, 1000))
def test_waits_grow_to_a_limit(tries: int) -> None:
    wait = seconds_to_wait(tries)
    assert failures.FIRST_WAIT / 2 <= wait <= failures.LONGEST_WAIT
    assert wait <= failures.FIRST_WAIT * 2.0 ** min(tries - 1, 50)


@given(st.text())
def test_reasons_are_one_line(text: str) -> None:
    assert len(text_of(ValueError(text)).splitlines()) == 1


def test_a_block_waits_for_its_next_try_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    began: list[float] = []
    heard: list[events.Event] = []

    def hiccup(block: np.ndarray) -> np.ndarray:
        if block[0, 0] == 0:
            began.append(time.monotonic())
            if len(began) < 4:
                raise OSError(errno.EIO, "Input/output error")
        return block

    values = np.repeat(np.arange(16, dtype="f4")[:, None], 100_000, axis=1)
    ds = ps.make_dataset(values, sampling_frequency=100.0)
    report = ps.Pipeline([ps.Apply(hiccup)]).run(
        ds, tmp_path, memory=BUDGET, workers=2, progress=False, listeners=[heard.append]
    )
    assert report.ok, report
    assert len(report.retries) == 3
    assert all("Input/output error (in Apply" in each["reason"] for each in report.retries)
    # each wait is longer than half of what it may be at most: 0.25, 0.5 and 1 second
    assert np.all(np.diff(began) >= [0.25, 0.5, 1.0])
    kinds = [type(event).__name__ for event in heard]
    last = len(kinds) - 1 - kinds[::-1].index("BlockRetried")
    assert kinds[:last].count("BlockFinished") > 3, "blocks beside it went on"


def test_what_does_not_pass_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.001)

    def broken(block: np.ndarray) -> np.ndarray:
        if block.shape[1] == 401:
            raise TimeoutError("the file server does not answer")
        return block

    sources = {
        "bad": ps.make_dataset(np.ones((2, 401), "f4"), sampling_frequency=1.0),
        "good": ps.make_dataset(np.ones((2, 400), "f4"), sampling_frequency=1.0),
    }
    report = ps.Pipeline([ps.Apply(broken)]).run(sources, tmp_path, memory=BUDGET, progress=False)
    assert set(report.outputs) == {"good"}
    assert "does not answer" in report.failed["bad"]
    assert len(report.retries) == failures.RETRIES
