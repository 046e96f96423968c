"""``python kill_fuzz.py FOLDER SEED KILLS``: runs that are killed at random instants, and go on.

Children are forked from a process that has imported everything, so that ten kills take seconds.
Prints one JSON line: seed, kills, how many runs were under way then, how many were resumed, and in
how many of them the results have the bytes of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from interrupted import OPTIONS, contents, recording

import penstock as ps
import penstock.planning.blocks
from penstock.eeg import HighPassFilter
from penstock.storage.ledger import Ledger, partial_path

penstock.planning.blocks.SMALL_BYTES = 1
FORMATS = ("zarr", "edf")
PIPELINE = ps.Pipeline([HighPassFilter(1.0)])


def child(work: Callable[[], bool]) -> int:
    """Process that does some work and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    return pid


def main(folder: Path, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    source = folder / "r.zarr"

    def run(out: str, format: str) -> bool:
        return PIPELINE.run(source, folder / out, **{**OPTIONS, "workers": 2}, format=format).ok

    os.waitpid(child(lambda: bool(recording(source, channels=24, samples=100_000))), 0)
    # (what a process takes before any block is found out once, and not by every child)
    PIPELINE.plan(source, memory="3 GiB", workers=2)
    whole, seconds = {}, {}
    for format in FORMATS:
        began = time.perf_counter()
        assert os.waitpid(child(lambda format=format: run(f"whole-{format}", format)), 0)[1] == 0
        seconds[format] = time.perf_counter() - began
        whole[format] = contents(folder / f"whole-{format}")
    found = {"seed": seed, "kills": kills, "running": 0, "resumed": 0, "identical": 0}
    for number in range(kills):
        out, format = f"out{number}", FORMATS[number % len(FORMATS)]
        pid = child(lambda out=out, format=format: run(out, format))
        time.sleep(chance.uniform(0, seconds[format]))
        os.kill(pid, signal.SIGKILL)
        found["running"] += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        ledger = Ledger(partial_path(folder / out / f"r.{format}") / "ledger")
        found["resumed"] += bool(ledger.finished())
        again = os.waitpid(child(lambda out=out, format=format: run(out, format)), 0)[1] == 0
        found["identical"] += again and contents(folder / out) == whole[format]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
