"""FACETpy: SOURCE TARGET MODE, the chain of its guide (runs in an environment of its own)."""

import sys

from facet import (
    AASCorrection,
    DownSample,
    EDFExporter,
    HighPassFilter,
    Loader,
    LowPassFilter,
    Pipeline,
    TriggerDetector,
    UpSample,
)

source, target, mode = sys.argv[1:]
pipeline = Pipeline(
    [
        Loader(path=source, preload=True),
        TriggerDetector(regex=r"\b1\b"),
        HighPassFilter(freq=1.0),
        UpSample(factor=10),
        AASCorrection(window_size=30),
        DownSample(factor=10),
        LowPassFilter(freq=70),
        EDFExporter(path=target, overwrite=True),
    ]
)
result = pipeline.run(channel_sequential=mode == "sequential", parallel=mode == "parallel")
if not result.was_successful():
    sys.exit(f"FACETpy failed: {result.error}")
