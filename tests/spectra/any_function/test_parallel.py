"""One call: a function on every position, on several processes."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr

from penstock.running.workers.executors import local_processes
from penstock.spectra import parallel_compute
from penstock.spectra.any_function.parallel import choose_cores

DATA = np.random.default_rng(0).normal(size=(60, 20))


def peaks(spectrum: np.ndarray, height: float = 0.0, *, last: int = 1000) -> np.ndarray:
    inner = spectrum[1:-1]
    return np.flatnonzero((inner > spectrum[:-2]) & (inner > spectrum[2:]) & (inner > height))[
        :last
    ]


@pytest.fixture(scope="module")
def client() -> Any:
    with local_processes(2) as client:
        yield client


def equal(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def test_result_is_that_of_the_loop(client: Any) -> None:
    expected = [peaks(row, 0.5, last=2) for row in DATA]
    quiet = {"func_args": [0.5], "func_kwargs": {"last": 2}, "verbose": False}
    assert equal(parallel_compute(DATA, peaks, cores=1, **quiet), expected)
    assert equal(parallel_compute(DATA, peaks, 2, True, client=client, **quiet), expected)


@pytest.mark.parametrize("kind", ["partial", "lambda", "closure"])
def test_functions_of_every_kind_reach_other_processes(client: Any, kind: str, monkeypatch) -> None:
    monkeypatch.setattr("penstock.spectra.any_function.parallel.PROBE_SECONDS", 0.0)
    height = 0.7

    def closed(spectrum: np.ndarray) -> np.ndarray:
        return peaks(spectrum, height)

    functions = {
        "partial": functools.partial(peaks, height=0.7),
        "lambda": lambda spectrum: peaks(spectrum, 0.7),
        "closure": closed,
    }
    found = parallel_compute(DATA, functions[kind], 2, True, client=client, verbose=False)
    assert equal(found, [peaks(row, 0.7) for row in DATA])


def test_every_kind_of_array(client: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("penstock.spectra.any_function.parallel.PROBE_SECONDS", 0.0)
    expected = [float(row.sum()) for row in DATA]
    grid = xr.DataArray(DATA.reshape(5, 12, 20), dims=("y", "x", "frequency"))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = DATA
        sources = {
            "dask": da.from_array(DATA, chunks=(7, 20)),
            "h5py": file["data"],
            "DataArray": grid,
            "core dim first": grid.transpose("frequency", "y", "x"),
            "Dataset": grid.to_dataset(name="signal"),
            "dask in xarray": grid.chunk({"y": 2}),
        }
        for name, source in sources.items():
            core = ["frequency"] if name == "core dim first" else None
            found = parallel_compute(
                source, np.sum, 2, True, core_dims=core, client=client, verbose=False
            )
            np.testing.assert_allclose(found, expected, rtol=1e-14, err_msg=name)


def test_lazy_gives_dask_arrays_and_pads_lists() -> None:
    calls = []

    def counted(row: np.ndarray) -> float:
        calls.append(1)
        return float(row.sum())

    total = parallel_compute(DATA, counted, lazy=True)
    assert isinstance(total, da.Array)
    assert len(calls) <= 32
    np.testing.assert_allclose(total.compute(scheduler="synchronous"), DATA.sum(axis=1))
    padded, count = parallel_compute(DATA, peaks, lazy=True)
    padded, count = padded.compute(scheduler="sync"), count.compute(scheduler="sync")
    for row, entries, n in zip(DATA, padded, count, strict=True):
        np.testing.assert_array_equal(entries[:n], peaks(row))
        assert (entries[n:] == -1).all()


def test_small_jobs_stay_serial_and_it_says_so(capsys, monkeypatch) -> None:
    monkeypatch.setattr("penstock.spectra.any_function.parallel.PROBE_SECONDS", 0.0)
    here = []
    parallel_compute(DATA, lambda row: here.append(1), 2)
    assert len(here) == len(DATA)
    assert "too short for 2 processes to gain" in capsys.readouterr().err


def test_number_of_cores() -> None:
    assert choose_cores(16384, 0.002, available=8)[0] == 8
    assert choose_cores(16384, 0.002, 3, available=8)[0] == 3
    assert choose_cores(16384, 0.002, -2, available=8)[0] == 7
    assert choose_cores(16384, 0.002, 64, available=8)[0] == 8
    assert "there are no more" in choose_cores(16384, 0.002, 64, available=8)[1]
    assert choose_cores(2, 100.0, available=8)[0] == 2
    assert choose_cores(100, 1e-4, available=8)[0] == 1
    assert choose_cores(100, 1e-4, 4, available=8, lengthy_computation=True)[0] == 4


@pytest.mark.parametrize("cores", [1, 2])
def test_an_exception_keeps_its_type_and_names_its_position(
    client: Any, cores: int, monkeypatch
) -> None:
    monkeypatch.setattr("penstock.spectra.any_function.parallel.PROBE_SECONDS", 0.0)

    def picky(row: np.ndarray) -> float:
        if row[0] == DATA[17, 0]:
            raise ArithmeticError("not this one")
        return 0.0

    with pytest.raises(ArithmeticError, match="not this one") as caught:
        parallel_compute(DATA, picky, cores, True, client=client, verbose=False)
    assert "in position 17 of the data" in caught.value.__notes__


def test_wrong_use_is_told_in_one_sentence(client: Any, monkeypatch) -> None:
    for wrong, message in (
        ({"func": 3}, "func must be a function"),
        ({"cores": 0}, "cores must not be 0"),
        ({"cores": 1.5}, "whole number"),
        ({"func_args": "ab"}, "func_args must be a list"),
        ({"func_kwargs": [1]}, "func_kwargs must be a dictionary"),
        ({"data": [1, 2]}, "data must be an array"),
        ({"data": np.float64(3)}, "single number"),
        ({"core_dims": ["x"]}, "xarray"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            parallel_compute(**{"data": DATA, "func": np.sum, **wrong})
    monkeypatch.setattr("penstock.spectra.any_function.parallel.PROBE_SECONDS", 0.0)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be sent to other processes"):
        parallel_compute(DATA, lambda row: lock.locked(), 2, True, client=client, verbose=False)
    assert parallel_compute(DATA[:0], np.sum) == []


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from penstock.spectra import parallel_compute\n"
        "print('main runs')\n"
        "def slow(row):\n"
        "    import time; time.sleep(0.02); return row.sum()\n"
        "print(sum(parallel_compute(np.ones((60, 3)), slow, cores=2, lengthy_computation=True)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["main runs", "180.0"]
    assert "2 processes, up after" in done.stderr


HANGING = """
import os, sys, time
import numpy as np
from penstock.spectra import parallel_compute

main = os.getpid()

def hang(row, main=main):
    if os.getpid() != main:
        open(sys.argv[1], "w").close()
        time.sleep(1000)
    time.sleep(0.02)

parallel_compute(np.ones((20000, 2)), hang, cores=2, lengthy_computation=True)
"""


def test_ctrl_c_ends_a_call_whose_function_hangs(tmp_path) -> None:
    begun = tmp_path / "begun"
    script = HANGING.replace("sys.argv[1]", repr(str(begun)))
    # (Python warns at the end of what the killed processes left)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    call = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=quiet
    )
    try:
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert time.monotonic() < deadline, "no process came up"
            time.sleep(0.05)
        call.send_signal(signal.SIGINT)
        _, said = call.communicate(timeout=60)
    finally:
        call.kill()
    assert said.rstrip().splitlines()[-1] == "KeyboardInterrupt"
