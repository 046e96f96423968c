"""Signals that end a run: one sentence, a report, a code of its own; what is finished is kept."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from misbehaving import recording
from paths import TESTS

import penstock as ps
from penstock.processor import Context
from penstock.running.threads import Threads, left_behind

PATHS = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
STOPPED = "penstock: stopped; run the same command again to go on where it stopped"


@pytest.mark.parametrize(
    ("executor", "name", "how_often", "code"),
    [
        ("threads", "SIGINT", 2, 130),
        ("threads", "SIGHUP", 1, 129),
        ("processes", "SIGTERM", 2, 143),
    ],
)
def test_signals_end_a_run_whose_kernel_hangs(
    executor: str, name: str, how_often: int, code: int, tmp_path: Path
) -> None:
    np.save(tmp_path / "r.npy", np.zeros((8, 200_000), "f4"))
    (tmp_path / "p.yaml").write_text("pipeline:\n  - misbehaving.Hangs: {at: 6}\n")
    command = subprocess.Popen(
        [sys.executable, "-c", SMALL_BLOCKS, "run", "p.yaml", "r.npy", "--dims", "channel,time",
         "--allow", "misbehaving", "--executor", executor, "-j", "2", "-m", "3GiB", "-o", "o"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": PATHS}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # (in threads a block is finished then; processes cut no small blocks, and hang in the first)
    begun = ".r.zarr.partial/ledger/*" if executor == "threads" else ".penstock-begun/*"
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in (tmp_path / "o").glob(begun)):
            assert time.monotonic() < deadline, "the run never got going"
            time.sleep(0.05)
        for _ in range(how_often):
            if command.poll() is None:
                command.send_signal(getattr(signal, name))
                time.sleep(0.5)
        _, said = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == code, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == STOPPED
    assert (tmp_path / "o" / "penstock-report.json").exists()
    kept = list((tmp_path / "o").glob(".r.zarr.partial/ledger/*"))
    assert kept or executor == "processes", "what is finished is kept"
    assert not list((tmp_path / "o").glob(".penstock*")), "nothing of the run itself is left"


SMALL_BLOCKS = """
import penstock.planning.blocks
penstock.planning.blocks.SMALL_BYTES = 1
from penstock.commands.main import main
main()
"""


def test_an_interrupted_call_raises_and_leaves_handlers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.running.engine.LET_END", 0.5)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    began, end = threading.Event(), threading.Event()

    def wait(block: np.ndarray) -> np.ndarray:
        began.set()
        end.wait()
        return block

    threading.Thread(target=lambda: began.wait() and _thread.interrupt_main()).start()
    with pytest.raises(KeyboardInterrupt) as raised:
        ps.Pipeline([Calls(wait)]).run(recording(), tmp_path, memory="2 GiB", progress=False)
    assert "what is finished is kept" in raised.value.__notes__[0]
    assert (tmp_path / "penstock-report.json").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert left_behind()
    end.set()
    deadline = time.monotonic() + 10
    while left_behind():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass(frozen=True, repr=False)
class Calls(ps.Processor):
    """Calls a function of the test, which no file could name."""

    function: Callable[[np.ndarray], np.ndarray]
    core_dims = ("time",)

    def canonical(self) -> dict[str, Any]:
        return {"processor": "Calls", "version": 1, "parameters": {}}

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        return self.function(block)


def test_threads_do_what_they_are_given_in_order() -> None:
    pool = Threads(3)
    assert [each.result() for each in [pool.submit(pow, n, 2) for n in range(50)]] == [
        n**2 for n in range(50)
    ]
    failed = pool.submit(int, "no number")
    assert isinstance(failed.exception(), ValueError)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="no more tasks"):
        pool.submit(int)
    assert not left_behind()
