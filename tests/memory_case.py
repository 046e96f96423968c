"""Run one pipeline in this process and print predicted memory; its parent measures the peak."""

from __future__ import annotations

import json
import sys

import numpy as np

import penstock as ps
from penstock.testing import virtual_dataset


def main() -> None:
    case = json.loads(sys.argv[1])
    if "simulate" in case:
        from penstock.eeg import simulate

        ds = simulate.recording(**case["simulate"])
    elif "source" in case:
        ds = case["source"]
    else:
        ds = virtual_dataset(
            tuple(case["shape"]), tuple(case["dims"]), sampling_frequency=case.get("rate", 1000.0)
        )
        if "x" in case["dims"]:
            ds = ds.assign_coords(affine=(("affine_row", "affine_column"), np.diag([3, 3, 3, 1.0])))
    pipeline = ps.Pipeline.from_dict(case["pipeline"], allow=case.get("allow", []))
    report = pipeline.run(
        ds,
        case["out"],
        memory=case["memory"],
        workers=case["workers"],
        format=case.get("format", "zarr"),
        executor=case.get("executor"),
        progress=False,
    )
    print(
        json.dumps(
            {
                "predicted": report.predicted_memory,
                "measured_inside": report.peak_memory,
                "overruns": [str(overrun) for overrun in report.overruns],
                "base": report.limits.base,
                "budget": report.limits.budget,
                "failed": report.failed,
                "blocks": report.blocks,
                "seconds": report.seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
