"""Comparisons on EEG: artifact correction, filtering, the engine's overhead, large recordings."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import Measured, measure
from tables import Table

import penstock as ps
from penstock.eeg import HighPassFilter, LowPassFilter, simulate
from penstock.formats import FORMATS
from penstock.memory.accounting import MIB

VARIANTS = Path(__file__).parent / "variants"

SEED_CHAIN = """\
pipeline:
  - TriggerDetector: '^1$'
  - HighPassFilter: 1.0
  - UpSample: 10
  - AASCorrection: {window_size: 30, alignment: integer}
  - DownSample: 10
  - LowPassFilter: 70.0
"""
FRACTIONAL = """\
pipeline:
  - TriggerDetector: '^1$'
  - HighPassFilter: 1.0
  - AASCorrection: {window_size: 30}
  - LowPassFilter: 70.0
"""
ENGINE_PIPELINES = {
    "three FIR filters": (
        "pipeline:\n  - BandPassFilter: [1.0, 40.0]\n  - NotchFilter: 50.0\n"
        "  - HighPassFilter: 0.5\n"
    ),
    "two IIR filters": (
        "pipeline:\n  - BandPassFilter: {l_freq: 1.0, h_freq: 40.0, method: iir}\n"
        "  - HighPassFilter: {freq: 2.0, method: iir}\n"
    ),
}
BAND_PASS = "pipeline:\n  - BandPassFilter: [1.0, 40.0]\n"


def _recording(work: Path, quick: bool) -> tuple[Path, object]:
    """EEG inside a scanner: 32 channels and ECG, 5 kHz, 5 minutes."""
    seconds = 60.0 if quick else 300.0
    path = work / f"eeg_fmri_{seconds:.0f}.edf"
    simulated = simulate.recording(
        n_channels=32, duration=seconds, sampling_frequency=5000.0, fmri=True, seed=7
    )
    if not path.exists():
        ps.export(simulated, path)
    return path, simulated


def _facet(work: Path) -> Path | None:
    """An environment with FACETpy, made once; None where it cannot be had."""
    python = work / "facetpy" / "bin" / "python"
    if not python.exists():
        print("making an environment for FACETpy", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(work / "facetpy")], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", "facetpy==2.0.2"])
        if done.returncode:
            return None
    return python


def correction(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """The chain of FACETpy's guide, EDF to EDF, and the same without the tenfold upsampling."""
    source, simulated = _recording(work, quick)
    truth = _filtered_truth(simulated)
    table = Table(
        f"AAS correction, 32 channels + ECG × 5 kHz × {60 if quick else 300} s, EDF to EDF",
        ["way", "wall [s]", "CPU [s]", "peak PSS [MiB]", "predicted", "correlation", "RMSE [uV]",
         "speed", "memory"],
    )  # fmt: skip
    out = work / "out"
    out.mkdir(exist_ok=True)
    reference: Measured | None = None
    facet = _facet(work) if peers else None
    if facet is not None:
        target = out / "facet.edf"
        command = [str(facet), str(VARIANTS / "facet_chain.py"), str(source), str(target)]
        reference = measure([*command, "sequential"])
        _correction_row(table, "FACETpy, channel-sequential", reference, target, truth, reference)
    ways = [
        ("the same chain, 1 worker, 700 MiB", SEED_CHAIN, 1, "700MiB"),
        ("the same chain, 2 workers, 1000 MiB", SEED_CHAIN, 2, "1000MiB"),
        ("the same chain, 2 workers, 2 GiB", SEED_CHAIN, 2, "2GiB"),
        ("fractional alignment at 5 kHz, 1 worker, 400 MiB", FRACTIONAL, 1, "400MiB"),
        ("fractional alignment at 5 kHz, 2 workers, 400 MiB", FRACTIONAL, 2, "400MiB"),
        ("fractional alignment at 5 kHz, 2 workers, 700 MiB", FRACTIONAL, 2, "700MiB"),
    ]
    for title, pipeline, workers, memory in ways:
        measured = _penstock(work, pipeline, source, out / "penstock", memory, workers, "edf")
        target = out / "penstock" / f"{source.stem}.edf"
        _correction_row(table, f"Penstock, {title}", measured, target, truth, reference)
    return [table]


def _penstock(
    work: Path, pipeline: str, source: Path, out: Path, memory: str, workers: int, kind: str
) -> Measured:
    file = work / "pipeline.yaml"
    file.write_text(pipeline)
    return measure(
        [sys.executable, str(VARIANTS / "penstock_run.py"), str(file), str(source), str(out),
         memory, str(workers), kind]
    )  # fmt: skip


def _filtered_truth(simulated: object) -> tuple[np.ndarray, slice]:
    """The true EEG through the same pass band, inside the acquisition."""
    clean = simulated.drop_vars("signal").rename(truth="signal")  # type: ignore[attr-defined]
    eeg = np.flatnonzero(clean["channel_type"].values == "eeg")
    clean = clean.isel(channel=eeg)
    filtered = ps.Pipeline([HighPassFilter(1.0), LowPassFilter(70.0)])(clean)
    onsets = simulated["event_onset"].values[simulated["event_label"].values == "1"]  # type: ignore[index]
    rate = ps.sampling_frequency(clean)
    inside = slice(int(onsets[0] * rate), int(onsets[-1] * rate))
    return filtered.signal[:, inside].values, inside


def _correction_row(
    table: Table,
    title: str,
    measured: Measured,
    target: Path,
    truth: tuple[np.ndarray, slice],
    reference: Measured | None,
) -> None:
    if measured.failed:
        table.add(way=title, **{"wall [s]": "failed: " + measured.log.strip()[-200:]})
        return
    true, inside = truth
    made = ps.open_dataset(target)
    values = made.signal[: len(true), inside].values
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(true, values, strict=True)]
    errors = np.sqrt(((true - values) ** 2).mean(axis=1))
    row = {
        "way": title,
        "wall [s]": f"{measured.wall:.1f}",
        "CPU [s]": f"{measured.cpu:.1f}",
        "peak PSS [MiB]": f"{measured.peak / MIB:.0f}",
        "predicted": f"{measured.said['predicted'] / MIB:.0f}" if measured.said else "",
        "correlation": f"{np.mean(correlations):.4f} (min {np.min(correlations):.3f})",
        "RMSE [uV]": f"{errors.mean():.2f}",
    }
    if reference is not None:
        row["speed"] = f"{reference.wall / measured.wall:.1f} ×"
        row["memory"] = f"1/{reference.peak / measured.peak:.1f}"
    table.add(**row)


def _resting_eeg(work: Path, seconds: float) -> Path:
    """64 channels at 1 kHz."""
    path = work / f"eeg_{seconds:.0f}.edf"
    if not path.exists():
        simulated = simulate.recording(
            n_channels=64, duration=seconds, sampling_frequency=1000.0, seed=3, ecg=False
        )
        ps.export(simulated, path)
    return path


def filter(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """FIR 1-40 Hz on 64 channels × 1 kHz × 10 min, file to file."""
    seconds = 60.0 if quick else 600.0
    source = _resting_eeg(work, seconds)
    out = work / "out"
    out.mkdir(exist_ok=True)
    table = Table(
        f"FIR 1-40 Hz, 64 channels × 1 kHz × {seconds:.0f} s, file to file",
        [
            "way",
            "work, warm [s]",
            "whole process [s]",
            "CPU [s]",
            "peak PSS [MiB]",
            "predicted",
            "error",
            "speed (work)",
            "speed (whole)",
            "memory",
        ],
    )
    expected = _mne_filtered(source)
    repeat = 2 if quick else 7
    runs: list[tuple[str, Measured, Path]] = []
    if peers:
        for n_jobs in (1, 2):
            target = out / "mne_raw.fif"
            command = [sys.executable, str(VARIANTS / "mne_filter.py"), str(source), str(target)]
            title = f"MNE raw.filter, n_jobs={n_jobs}, EDF to FIF"
            runs.append((title, _warm([*command, str(n_jobs)], repeat), target))
    target = out / "scipy.npy"
    command = [sys.executable, str(VARIANTS / "scipy_filter.py"), str(source), str(target)]
    runs.append(("SciPy on the whole array, EDF to .npy", _warm(command, repeat), target))
    for workers, memory, kind in (
        (1, "260MiB", "zarr"),
        (2, "260MiB", "zarr"),
        (2, "700MiB", "zarr"),
        (2, "700MiB", "fif"),
    ):
        file = work / "band_pass.yaml"
        file.write_text(BAND_PASS)
        command = [sys.executable, str(VARIANTS / "penstock_run.py"), str(file), str(source),
                   str(out / kind), memory, str(workers), kind]  # fmt: skip
        title = f"Penstock, {workers} worker{'s' if workers > 1 else ''}, {memory}, EDF to {kind}"
        made = out / kind / FORMATS[kind].file_name(source.stem)
        runs.append((title, _warm(command, repeat), made))
    best = min((m for title, m, _ in runs if title.startswith("MNE")), default=None,
               key=lambda m: m.said["seconds"])  # fmt: skip
    for title, measured, target in runs:
        if measured.failed:
            table.add(way=title, **{"wall [s]": "failed: " + measured.log.strip()[-200:]})
            continue
        values = (
            np.load(target) if target.suffix == ".npy" else ps.open_dataset(target).signal.values
        )
        error = np.abs(values - expected).max() / np.abs(expected).max()
        row = {
            "way": title,
            "work, warm [s]": f"{measured.said['seconds']:.2f}",
            "whole process [s]": f"{measured.wall:.2f}",
            "CPU [s]": f"{measured.cpu:.2f}",
            "peak PSS [MiB]": f"{measured.peak / MIB:.0f}",
            "predicted": f"{measured.said.get('predicted', 0) / MIB:.0f}",
            "error": f"{error:.1e}",
        }
        if best is not None:
            row["speed (work)"] = f"{best.said['seconds'] / measured.said['seconds']:.1f} ×"
            row["speed (whole)"] = f"{best.wall / measured.wall:.1f} ×"
            row["memory"] = f"1/{best.peak / measured.peak:.1f}"
        table.add(**row)
    return [table]


def _warm(command: list[str], repeat: int) -> Measured:
    """A fresh process that does the work once (wall, CPU, memory), and one that repeats it.

    The time of the work alone is the best of the repetitions: what someone in a notebook waits for.
    """
    once = measure(command)
    again = measure([*command, str(repeat)])
    if "seconds" in again.said and "seconds" in once.said:
        once.said["seconds"] = min(again.said["seconds"], once.said["seconds"])
    return once


def _mne_filtered(source: Path) -> np.ndarray:
    import mne

    data = ps.open_dataset(source, dtype="float64").signal.values
    rate = ps.sampling_frequency(ps.open_dataset(source))
    return mne.filter.filter_data(data, rate, 1.0, 40.0, verbose="error").astype(np.float32)


def engine(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Overhead over a plain loop of the same kernels, and the gain of a second worker."""
    seconds = 60.0 if quick else 1800.0
    source = _resting_eeg(work, seconds)
    table = Table(
        f"Engine: 64 channels × 1 kHz × {seconds:.0f} s, EDF to Zarr, in one process, turn by turn",
        ["pipeline", "block [ms]", "plain loop [s]", "1 worker [s]", "overhead", "2 workers [s]",
         "gain", "gain of two separate processes"],
    )  # fmt: skip
    for title, pipeline in ENGINE_PIPELINES.items():
        file = work / "engine.yaml"
        file.write_text(pipeline)
        command = [sys.executable, str(VARIANTS / "engine.py"), str(work), "2" if quick else "5"]
        measured = measure([*command, str(source), str(file)])
        if measured.failed:
            table.add(pipeline=f"{title}: failed: {measured.log.strip()[-300:]}")
            continue
        said = measured.said
        table.add(
            pipeline=title,
            **{
                "block [ms]": f"{said['block_ms']:.0f}",
                "plain loop [s]": f"{said['plain']:.2f}",
                "1 worker [s]": f"{said['one']:.2f}",
                "overhead": f"{said['overhead']:+.1%} (median {said['overhead_median']:+.1%})",
                "2 workers [s]": f"{said['two']:.2f}",
                "gain": f"{said['gain']:.2f} × (median {said['gain_median']:.2f} ×)",
                "gain of two separate processes": f"{said['ceiling']:.2f} ×",
            },
        )
    return [table]


def limits(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """A virtual recording of 200 GiB planned; a recording four times the budget run."""
    table = Table(
        "Limits", ["work", "seconds", "peak PSS [MiB]", "predicted [MiB]", "budget [MiB]"]
    )
    planned = measure([sys.executable, str(VARIANTS / "plan_virtual.py")], interval=0.01)
    if planned.failed:
        table.add(work="failed: " + planned.log.strip()[-300:])
    else:
        table.add(
            work=f"plan {planned.said['gib']:.0f} GiB into {planned.said['blocks']} blocks: "
            "opening and planning; whole process with imports",
            seconds=f"{planned.said['seconds']:.2f}; {planned.wall:.2f}",
            **{"peak PSS [MiB]": f"{planned.peak / MIB:.0f}"},
        )
    seconds = 512 * MIB * 4 / (33 * 5000 * 4) / (8 if quick else 1)
    source = work / f"large_{seconds:.0f}.edf"
    if not source.exists():
        ps.export(
            simulate.recording(
                n_channels=32, duration=seconds, sampling_frequency=5000.0, fmri=True, seed=11
            ),
            source,
        )
    for memory in ("512MiB", "300MiB"):
        measured = _penstock(work, FRACTIONAL, source, work / "out" / "large", memory, 2, "zarr")
        if measured.failed:
            table.add(work=f"failed: {measured.log.strip()[-300:]}")
            continue
        array = ps.open_dataset(source).signal
        table.add(
            work=f"correct a recording of {array.size * 4 / MIB:.0f} MiB (float32), "
            f"{measured.said['blocks']} blocks",
            seconds=f"{measured.wall:.1f}",
            **{
                "peak PSS [MiB]": f"{measured.peak / MIB:.0f}",
                "predicted [MiB]": f"{measured.said['predicted'] / MIB:.0f}",
                "budget [MiB]": memory.removesuffix("MiB"),
            },
        )
    return [table]


def codecs(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """What compressing a filtered float32 recording costs and saves."""
    from concurrent.futures import ThreadPoolExecutor

    from numcodecs import Blosc

    from penstock.eeg import BandPassFilter

    ds = simulate.recording(n_channels=16, duration=200.0, sampling_frequency=1000.0, seed=3)
    values = np.ascontiguousarray(ps.Pipeline([BandPassFilter(1.0, 40.0)])(ds).signal.values)
    table = Table(
        "Compression of filtered EEG (float32, chunks of one row, one thread)",
        ["codec", "encode [MiB/s]", "decode [MiB/s]", "size"],
    )
    shuffles = {"bitshuffle": Blosc.BITSHUFFLE, "shuffle": Blosc.SHUFFLE}
    with ThreadPoolExecutor(1) as one:  # (off the main thread Blosc itself uses one thread)
        for name, level, shuffle in (
            ("lz4", 5, "bitshuffle"), ("zstd", 1, "bitshuffle"), ("zstd", 3, "bitshuffle"),
            ("zstd", 3, "shuffle"),
        ):  # fmt: skip
            codec = Blosc(name, level, shuffles[shuffle])
            encoded = [codec.encode(row) for row in values]
            encoding = min(_seconds(one, codec.encode, values) for _ in range(5))
            decoding = min(_seconds(one, codec.decode, encoded) for _ in range(5))
            table.add(
                codec=f"{name}-{level}, {shuffle}",
                **{
                    "encode [MiB/s]": f"{values.nbytes / MIB / encoding:.0f}",
                    "decode [MiB/s]": f"{values.nbytes / MIB / decoding:.0f}",
                    "size": f"{sum(map(len, encoded)) / values.nbytes:.1%}",
                },
            )
    return [table]


def _seconds(one: Any, function: Any, items: Any) -> float:
    began = time.perf_counter()
    for item in items:
        one.submit(function, item).result()
    return time.perf_counter() - began


SECTIONS = {
    "codecs": codecs,
    "correction": correction,
    "filter": filter,
    "engine": engine,
    "limits": limits,
}
