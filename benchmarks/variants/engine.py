"""The engine beside the bare kernels in a plain loop, in one process, turn by turn."""

import json
import shutil
import statistics
import sys
import time
from pathlib import Path

import numcodecs.blosc

import penstock as ps
from penstock.blocks import Grid
from penstock.chain import Chain
from penstock.memory import lean_allocator, single_threaded_kernels
from penstock.store import create_array, create_group, write_block

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


def plain_loop() -> float:
    """Read, filter, write, block after block: what a careful user writes by hand."""
    target = work / "plain"
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


plain_loop()  # imports, plans of FFTs, page cache
times = {"plain": [], "one": [], "two": []}
for _ in range(rounds):
    times["plain"].append(plain_loop())
    times["one"].append(engine(1))
    times["two"].append(engine(2))
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
        }
    )
)
