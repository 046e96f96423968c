"""Penstock: PIPELINE.yaml SOURCE OUT MEMORY WORKERS FORMAT, as a user's script would."""

import json
import sys

import penstock as ps

pipeline, source, out, memory, workers, kind = sys.argv[1:]
report = ps.Pipeline.from_yaml(pipeline).run(
    source, out, memory=memory, workers=int(workers), format=kind, overwrite=True, progress=False
)
assert report.ok, report
print(
    json.dumps(
        {
            "predicted": report.predicted_memory,
            "measured": report.peak_memory,
            "seconds": report.seconds,
            "blocks": report.blocks,
        }
    )
)
