"""The main job on a simulated recording: EEG inside a scanner, cleaned within a budget."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import xarray as xr

import penstock as ps
from penstock.eeg import HighPassFilter, LowPassFilter, Resample, simulate
from penstock.memory.accounting import format_bytes

SAME_BAND = ps.Pipeline([HighPassFilter(1.0), LowPassFilter(70.0), Resample(250.0)])
"""What the demo's pipeline does to the true EEG."""

DEMO_PIPELINE = """\
# Remove the gradient artifact of a simultaneous EEG-fMRI recording.
pipeline:
  - TriggerDetector: {regex: '^1$'}
  - HighPassFilter: {freq: 1.0}
  - AASCorrection: {window_size: 30}
  - LowPassFilter: {freq: 70.0}
  - Resample: {sfreq: 250.0}
"""


def run_demo(out: Path, memory: str, workers: int | None, seconds: float) -> int:
    """Simulate, plan, run, report, compare with the truth; return the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    recording = out / f"eeg_fmri_{seconds:g}s.edf"
    simulated = simulate.recording(
        n_channels=32, duration=seconds, sampling_frequency=5000.0, fmri=True, seed=1
    )
    if not recording.exists():
        print(
            f"Simulating {seconds:g} s of EEG inside a scanner (32 channels, 5 kHz) into "
            f"{recording}"
        )
        began = time.perf_counter()
        ps.export(simulated, recording)
        size = format_bytes(recording.stat().st_size)
        print(f"  {size} written in {time.perf_counter() - began:.1f} s, block by block\n")
    pipeline_file = out / "pipeline.yaml"
    if not pipeline_file.exists():
        pipeline_file.write_text(DEMO_PIPELINE)
    pipeline = ps.Pipeline.from_yaml(pipeline_file)
    plan = pipeline.plan(recording, memory=memory, workers=workers)
    print(f"Plan ({pipeline_file}, memory {memory}):\n{plan}\n")
    cleaned = out / "clean"
    report = pipeline.run(recording, cleaned, memory=memory, workers=workers, overwrite=True)
    print(f"Run:\n{report}\n")
    if not report.ok:
        return 1
    result = ps.open_dataset(cleaned / f"{recording.stem}.zarr")
    before, after = _agreement(recording, simulated, result)
    print(f"Correlation with the true EEG: {before:.3f} before, {after:.3f} after (median channel)")
    print(f"Result: {cleaned / recording.stem}.zarr")
    print(f"Report: {report.path}")
    picture = _plot(out / "before_after.png", recording, simulated, result)
    if picture is not None:
        print(f"Picture: {picture}")
    return 0


def _agreement(recording: Path, simulated: xr.Dataset, result: xr.Dataset) -> tuple[float, float]:
    """Median correlation with the truth over a few channels, before and after."""
    truth = simulated.drop_vars("signal").rename(truth="signal")
    recorded = ps.open_dataset(recording)
    onsets = simulated["event_onset"].values
    inside = slice(float(onsets.min()), float(onsets.max()))
    before, after = [], []
    for number in np.flatnonzero(simulated["channel_type"].values == "eeg")[::8]:
        index = {"channel": [int(number)]}
        true = SAME_BAND(truth.isel(index)).signal.sel(time=inside).values[0]
        raw = SAME_BAND(recorded.isel(index)).signal.sel(time=inside).values[0]
        made = result.isel(index).signal.sel(time=inside).values[0]
        before.append(np.corrcoef(true, raw)[0, 1])
        after.append(np.corrcoef(true, made)[0, 1])
    return float(np.median(before)), float(np.median(after))


def _plot(path: Path, recording: Path, simulated: xr.Dataset, result: xr.Dataset) -> Path | None:
    """Six seconds of one channel: recorded, corrected, true. Needs matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return None
    middle = 0.5 * float(simulated["time"][-1])
    shown = slice(middle - 3, middle + 3)
    channel = {"channel": [min(18, simulated.sizes["channel"] - 2)]}
    truth = simulated.drop_vars("signal").rename(truth="signal").isel(channel)
    rows = [
        ("recorded", ps.open_dataset(recording).isel(channel).signal.sel(time=shown)),
        ("corrected", result.isel(channel).signal.sel(time=shown)),
        ("true EEG in the same band", SAME_BAND(truth).signal.sel(time=shown)),
    ]
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(9, 5), layout="constrained")
    name = str(simulated["channel"].values[channel["channel"][0]])
    for axis, (title, data) in zip(axes, rows, strict=True):
        axis.plot(data["time"].values, data.values[0], linewidth=0.6, color="#20507a")
        axis.set_ylabel("µV")
        axis.set_title(f"{title} ({name})", loc="left", fontsize=10)
    axes[-1].set_xlabel("time [s]")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
