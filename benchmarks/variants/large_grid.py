"""A grid of 50 GiB under a budget: MODE OUT MEMORY [BLOCKS].

plan: only planned. run: ended after so many blocks.
"""

import contextlib
import json
import sys
import time

import penstock as ps
from penstock import events
from penstock.memory.accounting import process_base
from penstock.spectra import FindPeaksCWT
from penstock.testing import virtual_dataset

mode, out, memory, *rest = sys.argv[1:]
side = int((50 * 1024**3 / 4 / 512) ** 0.5)
ds = virtual_dataset((side, side, 512), ("y", "x", "frequency"), readable=mode == "run")
pipeline = ps.Pipeline([FindPeaksCWT((4.0, 8.0, 12.0, 16.0))])
process_base()  # what planning imports is counted in the whole process
began = time.perf_counter()
plan = pipeline.plan(ds, memory=memory, workers=2)
planned = time.perf_counter() - began
done = 0


def stop(event: events.Event) -> None:
    global done
    if isinstance(event, events.BlockFinished):
        done += 1
        if done >= int(rest[0]):
            raise KeyboardInterrupt


if mode == "run":
    with contextlib.suppress(KeyboardInterrupt):
        pipeline.run(ds, out, memory=memory, workers=2, progress=False, listeners=[stop])
print(
    json.dumps(
        {
            "planned": planned,
            "blocks": plan.n_blocks,
            "done": done,
            "predicted": plan.predicted_memory,
            "gib": ds.signal.nbytes / 1024**3,
        }
    )
)
