"""Penstock: PIPELINE.yaml SOURCE OUT MEMORY WORKERS FORMAT, as a user's script would."""

import json
import sys
import time

import penstock as ps
import penstock.memory

pipeline, source, out, memory, workers, kind = sys.argv[1:]
ps.memory.process_base()  # imports what a run needs: before the clock, as in the other variants
began = time.perf_counter()
report = ps.Pipeline.from_yaml(pipeline).run(
    source, out, memory=memory, workers=int(workers), format=kind, overwrite=True, progress=False
)
assert report.ok, report
print(
    json.dumps(
        {
            "predicted": report.predicted_memory,
            "measured": report.peak_memory,
            "seconds": time.perf_counter() - began,
            "blocks": report.blocks,
        }
    )
)
