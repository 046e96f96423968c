"""Comparisons on positions: peaks, any function, reductions, fits, large grids, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measure import Measured, measure
from tables import Table

from penstock.memory.accounting import MIB

VARIANTS = Path(__file__).parent / "variants"
COLUMNS = ["way", "work, warm [s]", "whole process [s]", "CPU [s]", "peak PSS [MiB]", "result",
           "speed (work)", "speed (whole)", "memory"]  # fmt: skip


def _peer(work: Path, name: str, packages: list[str]) -> Path | None:
    """An environment with a peer's pinned libraries, made once; None where it cannot be had."""
    python = work / name / "bin" / "python"
    ready = work / name / "ready"
    if not ready.exists():
        print(f"making an environment for {name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(work / name)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *packages])
        if done.returncode:
            print(f"{name} cannot be installed here", flush=True)
            return None
        ready.touch()
    return python


def _pyusid(work: Path) -> Path | None:
    # sidpy's newer releases import dask-ml; this pair works with the NumPy that pyUSID needs
    return _peer(work, "pyusid", ["pyUSID==0.0.12", "numpy<2", "sidpy<0.12.6", "distributed"])


def _spectra(work: Path) -> Path:
    path = work / "line_spectra.npy"
    if not path.exists():
        subprocess.run([sys.executable, str(VARIANTS / "line_spectra.py"), str(path)], check=True)
    return path


def _warm(command: list[str], repeat: int) -> Measured:
    """A fresh process that does the work once, and one that repeats it: the best of its times."""
    once = measure(command)
    if repeat > 1 and not once.failed:
        again = measure([*command, str(repeat)])
        if "seconds" in again.said:
            once.said["seconds"] = min(again.said["seconds"], once.said["seconds"])
    return once


def _row(table: Table, title: str, run: Measured, result: str, reference: Measured | None) -> None:
    if run.failed:
        table.add(way=title, **{"work, warm [s]": "failed: " + run.log.strip()[-200:]})
        return
    row = {
        "way": title,
        "work, warm [s]": f"{run.said['seconds']:.3g}",
        "whole process [s]": f"{run.wall:.2f}",
        "CPU [s]": f"{run.cpu:.2f}",
        "peak PSS [MiB]": f"{run.peak / MIB:.0f}",
        "result": result,
    }
    if reference is not None and not reference.failed:
        row["speed (work)"] = f"{reference.said['seconds'] / run.said['seconds']:.3g} ×"
        row["speed (whole)"] = f"{reference.wall / run.wall:.1f} ×"
        row["memory"] = f"1/{reference.peak / run.peak:.1f}"
    table.add(**row)


def peaks(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """find_peaks_cwt on 16,384 spectra: SciPy's function in processes, and the block kernel."""
    source = _spectra(work)
    if quick:
        short = work / "line_spectra_short.npy"
        np.save(short, np.load(source)[:1024])
        source = short
    n = len(np.load(source, mmap_mode="r"))
    table = Table(f"find_peaks_cwt, {n:,} × 119 complex64, widths 20-60 in 30 steps", COLUMNS)
    out = work / "out"
    out.mkdir(exist_ok=True)
    ways: list[tuple[str, str, Path | None, int]] = [
        ("serial loop", "serial", Path(sys.executable), 1),
        ("joblib (loky), 2 processes", "joblib", Path(sys.executable), 1),
        ("Penstock parallel_compute, SciPy's function, 2 processes already up", "function",
         Path(sys.executable), 1),
        ("Penstock parallel_compute, SciPy's function, one call", "call", Path(sys.executable), 1),
        ("Penstock FindPeaksCWT, NumPy, 2 threads", "numpy", Path(sys.executable), 7),
        ("Penstock FindPeaksCWT, numba, 2 threads", "numba", Path(sys.executable), 7),
    ]  # fmt: skip
    if peers:
        ways.insert(1, ("pyUSID parallel_compute, 2 processes", "pyusid", _pyusid(work), 1))
    runs: dict[str, Measured] = {}
    for title, way, python, repeat in ways:
        if python is None:
            continue
        target = out / f"{way}.npz"
        command = [str(python), str(VARIANTS / "peaks.py"), way, str(source), str(target)]
        runs[way] = _warm(command, repeat)
        result = ""
        if not runs[way].failed:
            found, serial = np.load(target), np.load(out / "serial.npz")
            same = all(np.array_equal(found[k], serial[k]) for k in ("count", "index"))
            result = "identical" if same else "DIFFERS"
        if runs[way].said.get("start"):
            title += f" (start {runs[way].said['start']:.1f} s)"
        _row(table, title, runs[way], result, runs.get("pyusid") or runs["serial"])
    gain = runs["serial"].said["seconds"] / runs["function"].said["seconds"]
    print(f"  SciPy's function in 2 processes that are up: {gain:.2f} x the serial loop")
    return [table]


def masks(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Two masks on 128 × 128 frames of 64 × 64."""
    table = Table("Two masks on 128 × 128 positions of 64 × 64 float32, from a .npy file", COLUMNS)
    source = work / "frames.npy"
    if not source.exists():
        rng = np.random.default_rng(0)
        np.save(source, rng.random((128, 128, 64, 64), dtype=np.float32))
    out = work / "out"
    out.mkdir(exist_ok=True)
    source.read_bytes()  # into the page cache, for all alike
    libertem = _peer(work, "libertem", ["libertem"]) if peers else None
    runs: dict[str, Measured] = {}
    for title, way, python in (
        ("LiberTEM, 2 threads", "libertem", libertem),
        ("NumPy in blocks, array in memory, 1 thread", "numpy", Path(sys.executable)),
        ("Penstock reduce, 2 threads", "penstock", Path(sys.executable)),
    ):
        if python is None:
            continue
        target = out / f"masks_{way}.npy"
        command = [str(python), str(VARIANTS / "masks.py"), way, str(source), str(target)]
        runs[way] = _warm(command, 3 if quick else 20)
        result = ""
        reference = out / "masks_numpy.npy"
        if not runs[way].failed and reference.exists():
            error = np.abs(np.load(target) - np.load(reference)).max() / np.load(reference).max()
            result = f"error {error:.0e}"
        _row(table, title, runs[way], result, runs.get("libertem") or runs.get("numpy"))
    return [table]


def oscillator(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Fits of a simple harmonic oscillator."""
    table = Table("Simple harmonic oscillator, 128 × 128 complex spectra of 119 points", COLUMNS)
    source = _spectra(work)
    whole, part = work / "oscillator_whole.npy", work / "oscillator_part.npy"
    np.save(whole, np.load(source)[: 1024 if quick else None])
    np.save(part, np.load(source)[:1024])
    out = work / "out"
    out.mkdir(exist_ok=True)
    ways = [
        ("curve_fit loop", "loop", whole, Path(sys.executable), 1),
        ("Penstock Fit, 1 thread", "penstock", whole, Path(sys.executable), 5),
        ("Penstock Fit, 2 threads", "penstock2", whole, Path(sys.executable), 5),
        ("Penstock Fit, 2 processes, into a store", "processes", whole, Path(sys.executable), 3),
    ]
    if peers:
        ways.append(("sidpy SidFitter, first 1,024 only", "sidpy", part, _pyusid(work), 1))
        ways.append(("Penstock Fit, first 1,024 only", "penstock", part, Path(sys.executable), 5))
    runs: dict[str, Measured] = {}
    for title, way, data, python, repeat in ways:
        if python is None:
            continue
        target = out / f"oscillator_{way}.npz"
        command = [str(python), str(VARIANTS / "oscillator.py"), way, str(data), str(target)]
        run = _warm(command, repeat)
        result = ""
        if not run.failed:
            residuals = np.load(target)["residuals"]
            loop = np.load(out / "oscillator_loop.npz")["residuals"][: len(residuals)]
            worse = (residuals / loop).max() - 1
            result = f"residuals at most {worse:+.0e}"
        reference = runs.get("sidpy") if data == part else runs.get("loop")
        runs[way if data == whole or way == "sidpy" else "part"] = run
        _row(table, title, run, result, reference or run)
    return [table]


def grid(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """A virtual grid of 50 GiB under 1 GiB: planned, and a part of it run."""
    table = Table(
        "A virtual grid of 50 GiB under 1 GiB",
        ["work", "seconds", "peak PSS [MiB]", "predicted [MiB]", "budget [MiB]"],
    )
    blocks = "4" if quick else "24"
    for mode in ("plan", "run"):
        command = [sys.executable, str(VARIANTS / "large_grid.py"), mode,
                   str(work / "out" / "grid"), "1GiB", blocks]  # fmt: skip
        run = measure(command, interval=0.01)
        if run.failed:
            table.add(work=f"failed: {run.log.strip()[-300:]}")
            continue
        said = run.said
        title = f"plan {said['gib']:.0f} GiB into {said['blocks']:,} blocks; whole process"
        if mode == "run":
            title = f"find peaks in the first {said['done']} of {said['blocks']:,} blocks"
        table.add(
            work=title,
            seconds=f"{said['planned']:.2f}; {run.wall:.1f}"
            if mode == "plan"
            else f"{run.wall:.1f}",
            **{
                "peak PSS [MiB]": f"{run.peak / MIB:.0f}",
                "predicted [MiB]": f"{said['predicted'] / MIB:.0f}",
                "budget [MiB]": "1024",
            },
        )
    return [table]


def killed(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """kill -9 of all processes of a run half-way, and the same command again."""
    table = Table(
        "Killed half-way (kill -9 of all its processes), and run again",
        ["work", "blocks", "finished when killed", "done again", "in flight at most"],
    )
    source = _spectra(work)
    out = work / "out" / "killed"
    command = [sys.executable, str(VARIANTS / "killed.py"), str(source), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    n_blocks = finished = 0
    for line in process.stdout:
        said = json.loads(line)
        n_blocks, finished = said["blocks"], said["finished"]
        if finished * 2 >= n_blocks:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    time.sleep(1)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    again = [json.loads(line) for line in done.stdout.splitlines()][-1]["finished"]
    table.add(
        work="a Python function at 16,384 positions, 2 processes",
        blocks=n_blocks,
        **{
            "finished when killed": finished,
            "done again": again - (n_blocks - finished),
            "in flight at most": 4,
        },
    )
    return [table]


SECTIONS = {
    "peaks": peaks,
    "masks": masks,
    "oscillator": oscillator,
    "grid": grid,
    "killed": killed,
}
