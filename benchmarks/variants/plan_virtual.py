"""Plan a virtual recording of 200 GiB: nothing is read."""

import json
import time

import penstock as ps
from penstock.eeg import simulate
from penstock.memory.accounting import process_base

process_base()  # what planning imports is counted in the whole process
began = time.perf_counter()

n_bytes = 200 * 1024**3
ds = simulate.recording(n_channels=255, duration=n_bytes / 4 / 256 / 5000, fmri=True)
pipeline = ps.Pipeline.from_yaml(
    "pipeline:\n  - TriggerDetector: '^1$'\n  - HighPassFilter: 1.0\n  - AASCorrection\n"
    "  - LowPassFilter: 70.0\n  - Resample: 250.0\n"
)
plan = pipeline.plan(ds, memory="8 GiB", workers=2)
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - began,
            "gib": ds.signal.size * 4 / 1024**3,
            "blocks": plan.n_blocks,
            "predicted": plan.predicted_memory,
        }
    )
)
