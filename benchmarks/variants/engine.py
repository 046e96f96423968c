"""The engine beside the bare kernels in a plain loop, in one process, turn by turn.

What a second core is worth on this machine at that moment is measured too: the plain loop beside
another process that runs the same loop on another file. No engine can gain more.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numcodecs.blosc

import penstock as ps
from penstock.memory.accounting import lean_allocator, single_threaded_kernels
from penstock.planning.blocks import Grid
from penstock.planning.chain import Chain
from penstock.storage.store import create_array, create_group, write_block

work = Path(sys.argv[1])
rounds = int(sys.argv[2])
pipeline = ps.Pipeline.from_yaml(Path(sys.argv[4]))
# off the main thread Blosc works in the calling thread; the plain loop must not get a second core
numcodecs.blosc.use_threads = False
source = Path(sys.argv[3])
ds = ps.open_dataset(source)
chain = Chain(ds).bind(pipeline)
plan = pipeline.plan(ds, memory="1500MiB", workers=1)
grid: Grid = plan.stages[0].grid


def plain_loop(name: str = "plain") -> float:
    """Read, filter, write, block after block: what a careful user writes by hand."""
    target = work / name
    shutil.rmtree(target, ignore_errors=True)
    began = time.perf_counter()
    with lean_allocator(), single_threaded_kernels():
        create_group(target, chain.output, {})
        create_array(target, "signal", chain.dims, chain.shape, chain.dtype, grid.block)
        for number in range(len(grid)):
            region = grid.region(number)
            write_block(target, "signal", region, chain.compute(region))
    return time.perf_counter() - began


def engine(workers: int) -> float:
    target = work / "engine"
    shutil.rmtree(target, ignore_errors=True)
    began = time.perf_counter()
    report = pipeline.run(
        source, target, memory="1500MiB", workers=workers, progress=False, overwrite=True
    )
    assert report.ok, report
    return time.perf_counter() - began


if len(sys.argv) > 5:  # the other process: a loop for every line
    plain_loop("other")
    print("ready", flush=True)
    for _ in sys.stdin:
        plain_loop("other")
        print("done", flush=True)
    sys.exit()

other = subprocess.Popen(
    [sys.executable, __file__, *sys.argv[1:], "other"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)  # fmt: skip
assert other.stdin is not None
assert other.stdout is not None
other.stdout.readline()


def together() -> float:
    """Seconds until this process and the other have both done a plain loop."""
    began = time.perf_counter()
    other.stdin.write("\n")
    other.stdin.flush()
    plain_loop()
    other.stdout.readline()
    return time.perf_counter() - began


plain_loop()  # imports, plans of FFTs, page cache
times = {"plain": [], "one": [], "two": [], "together": []}
for _ in range(rounds):
    times["together"].append(together())
    times["plain"].append(plain_loop())
    times["one"].append(engine(1))
    times["two"].append(engine(2))
other.stdin.close()
other.wait()
ratios = [one / plain for one, plain in zip(times["one"], times["plain"], strict=True)]
gains = [one / two for one, two in zip(times["one"], times["two"], strict=True)]
print(
    json.dumps(
        {
            "block_ms": 1000 * min(times["plain"]) / len(grid),
            "plain": min(times["plain"]),
            "one": min(times["one"]),
            "two": min(times["two"]),
            "overhead": min(times["one"]) / min(times["plain"]) - 1,
            "overhead_median": statistics.median(ratios) - 1,
            "gain": min(times["one"]) / min(times["two"]),
            "gain_median": statistics.median(gains),
            "ceiling": 2 * min(times["plain"]) / min(times["together"]),
        }
    )
)
