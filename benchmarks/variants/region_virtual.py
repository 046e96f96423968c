"""An image of 100 GiB under a budget: MODE OUT MEMORY SECONDS.

plan: only planned. run: its first stage is begun, and ended after so many seconds.
"""

from __future__ import annotations

import contextlib
import sys
import time

from timed import say

import penstock as ps
from penstock import events
from penstock.fmri import CleanSignals, ExtractLabels, simulate_fmri
from penstock.fmri.simulate import simulated_atlas
from penstock.memory.accounting import process_base

mode, out, memory, seconds = sys.argv[1:]
ds = simulate_fmri((91, 109, 91), n_volumes=29_800, voxel_size=2.0)
pipeline = ps.Pipeline(
    [
        ExtractLabels(simulated_atlas(ds, n_labels=100)),
        CleanSignals(detrend=True, standardize="zscore_sample", high_pass=0.01, low_pass=0.1),
    ]
)
process_base()  # what planning imports is counted in the whole process
began = time.perf_counter()
plan = pipeline.plan(ds, memory=memory, workers=2)
planned = time.perf_counter() - began
done = read = 0


def stop(event: events.Event) -> None:
    global done, read
    if isinstance(event, events.BlockFinished):
        done, read = done + 1, read + event.bytes_in
        if time.perf_counter() - began > float(seconds):
            raise KeyboardInterrupt


if mode == "run":
    began = time.perf_counter()
    with contextlib.suppress(KeyboardInterrupt):
        report = pipeline.run(ds, out, memory=memory, workers=2, progress=False, listeners=[stop])
        assert report.ok, report
say(
    planned=planned,
    blocks=plan.n_blocks,
    done=done,
    read=read,
    predicted=plan.predicted_memory,
    gib=ds.signal.nbytes / 1024**3,
)
