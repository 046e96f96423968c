"""Faults: runs killed at random instants and run again, what their files go through, what it costs.

``python faults.py [--kills 20] [--seed 0] [--only threads,processes,edf]``

Every kill is a ``kill -9`` of the command line (and of its worker processes) at a random instant of
the run, every other one soon after its first finished block; the same command then runs again, and
every byte of its results is compared.
Prints a table of counts, and the share of a run that checksums, checks and syncing take.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
WAYS: dict[str, list[str]] = {
    "threads": [],
    "processes": ["--executor", "processes"],
    "edf": ["--format", "edf"],
    "fif": ["--format", "fif"],
}
PIPELINE = "pipeline:\n  - HighPassFilter: {freq: 1.0}\n  - Resample: {sfreq: 250.0}\n"

MAKE = """
import sys, numpy as np, penstock as ps
n, t = int(sys.argv[2]), int(sys.argv[3])
ds = ps.make_dataset(np.random.default_rng(0).standard_normal((n, t)).astype("f4"),
    sampling_frequency=1000.0, units="uV", coords={"channel": [f"C{i}" for i in range(n)]})
ps.export(ds, sys.argv[1], overwrite=True)
"""

COST = """
import json, sys, threading, time
import penstock as ps, google_crc32c
import penstock.storage.shards, penstock.running.tasks, penstock.running.resuming.beginning
spent, lock = {}, threading.Lock()

def timed(module, name):
    function = getattr(module, name)
    def wrapped(*args, **options):
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            with lock:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
    setattr(module, name, wrapped)

timed(google_crc32c, "extend")
for name in ("sync_file_system", "array_files", "_redo_lost", "source_identity", "result_key"):
    timed(penstock.running.tasks, name)
timed(penstock.running.resuming.beginning, "lost_blocks")
began = time.perf_counter()
report = ps.Pipeline.from_yaml(sys.argv[1]).run(
    sys.argv[2], sys.argv[3], memory="1 GiB", workers=2, progress=False)
assert report.ok, report
print(json.dumps({"seconds": time.perf_counter() - began, **spent}))
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the reports."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("penstock-report")
    }


def kills(work: Path, source: Path, way: str, count: int, chance: random.Random) -> dict[str, int]:
    """Kill a run `count` times, each time run it again, and count what came of it."""
    command = [sys.executable, "-m", "penstock", "run", str(work / "pipeline.yaml"), str(source)]
    command += ["--memory", "2GiB", "-j", "2", "--quiet", *WAYS[way], "--out"]
    shutil.rmtree(work / "whole", ignore_errors=True)
    began = time.perf_counter()
    subprocess.run([*command, str(work / "whole")], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    whole = contents(work / "whole")
    found = dict.fromkeys(("kills", "running", "resumed", "identical", "visible too early"), 0)
    for number in range(count):
        out = work / f"{way}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        process = subprocess.Popen(
            [*command, str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if number % 2:  # anywhere, and every other time after the first finished block
            time.sleep(chance.uniform(0.1, 1.0) * seconds)
        else:
            while process.poll() is None and not any(out.glob(".*.partial/ledger/*.jsonl")):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.1) * seconds)
        found["kills"] += 1
        found["running"] += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = contents(out) if out.exists() else {}
        early = [name for name in left if not name.startswith(".")]
        found["visible too early"] += any(left[name] != whole.get(name) for name in early)
        again = subprocess.run([*command, str(out)], capture_output=True, text=True)
        found["resumed"] += "resumed" in again.stdout
        found["identical"] += again.returncode == 0 and contents(out) == whole
        shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(work / "whole")
    return found


def cost(work: Path, source: Path) -> dict[str, float]:
    """Share of a run's time that keeping results whole takes."""
    shutil.rmtree(work / "cost", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", COST, *map(str, (work / "pipeline.yaml", source, work / "cost"))],
        check=True,
        capture_output=True,
        text=True,
    )
    said = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = said.pop("seconds")
    return {name: part / seconds for name, part in said.items()}


def main() -> None:
    """Print the table of kills, and the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--work", type=Path, default=HERE / "work" / "faults")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    (work / "pipeline.yaml").write_text(PIPELINE)
    source = work / "recording.zarr"
    subprocess.run([sys.executable, "-c", MAKE, str(source), "32", "300000"], check=True)
    print(f"seed {options.seed}\n")
    print("| where | kills | while it ran | went on | same bytes | visible too early |")
    print("|---|---|---|---|---|---|")
    for way in options.only.split(","):
        chance = random.Random(f"{options.seed} {way}")
        row = kills(work, source, way, options.kills, chance)
        print(f"| {way} | " + " | ".join(map(str, row.values())) + " |", flush=True)
    print("\nShare of the time of a run (two threads; of each thread's time half as much):\n")
    for name, part in cost(work, source).items():
        print(f"- {name}: {part:.2%}")


if __name__ == "__main__":
    main()
