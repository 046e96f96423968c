"""Penstock: PIPELINE.yaml SOURCE OUT MEMORY WORKERS FORMAT [TIMES], as a user's script would."""

import json
import sys
import time

import penstock as ps

pipeline, source, out, memory, workers, kind, *times = sys.argv[1:]
seconds = []
for _ in range(int(times[0]) if times else 1):
    began = time.perf_counter()
    report = ps.Pipeline.from_yaml(pipeline).run(
        source,
        out,
        memory=memory,
        workers=int(workers),
        format=kind,
        overwrite=True,
        progress=False,
    )
    seconds.append(time.perf_counter() - began)
    assert report.ok, report
print(
    json.dumps(
        {
            "predicted": report.predicted_memory,
            "seconds": min(seconds),
            "first": seconds[0],
            "blocks": report.blocks,
        }
    )
)
