"""A function at every position, as a processor and as a process whose results are kept."""

from __future__ import annotations

import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock import events
from penstock.spectra import PerPosition, Process

Moments = namedtuple("Moments", ["mean", "std"])
QUICK = {"memory": "2 GiB", "workers": 2, "executor": "threads", "progress": False}


@pytest.fixture
def grid() -> xr.Dataset:
    values = np.random.default_rng(1).normal(size=(6, 7, 40))
    coords = {"frequency": np.linspace(1.0, 2.0, 40), "y": np.arange(6) * 1e-9}
    return ps.make_dataset(values, ("y", "x", "frequency"), coords=coords)


def moments(spectrum: np.ndarray, scale: float = 1.0) -> dict[str, Any]:
    return {"mean": spectrum.mean() * scale, "ends": spectrum[[0, -1]], "n": len(spectrum)}


def above(spectrum: np.ndarray, limit: float = 1.5) -> list[int]:
    return np.flatnonzero(spectrum > limit).tolist()


def test_outputs_are_found_out_by_trying(grid: xr.Dataset) -> None:
    made = ps.Pipeline([PerPosition(moments, kwargs={"scale": 2.0})])(grid).compute(
        scheduler="sync"
    )
    values = grid.signal.values
    np.testing.assert_allclose(made["mean"], 2 * values.mean(axis=-1), rtol=1e-13)
    np.testing.assert_array_equal(made["ends"], values[..., [0, -1]])
    assert made["n"].dtype.kind == "i"
    assert (made["status"] == 1).all()
    named = ps.Pipeline([PerPosition(lambda v: Moments(v.mean(), v.std()))])(grid)
    assert {"mean", "std"} <= set(named.data_vars)


def test_lists_of_varying_length_are_padded_and_counted(grid: xr.Dataset) -> None:
    made = ps.Pipeline([PerPosition(above)])(grid).compute(scheduler="sync")
    for y, x in np.ndindex(6, 7):
        expected = above(grid.signal.values[y, x])
        entries = made.result.values[y, x]
        assert made.result_count.values[y, x] == len(expected)
        assert entries[: len(expected)].tolist() == expected
        assert (entries[len(expected) :] == -1).all()


def test_declared_outputs(grid: xr.Dataset, tmp_path: Path) -> None:
    declared = {"result": {"dtype": "int32", "slots": 5, "dims": ["peak"], "units": "1"}}
    processor = PerPosition(above, outputs=declared)
    assert ps.Pipeline([processor]).plan(grid, memory="3 GiB").n_blocks >= 1
    made = ps.Pipeline([processor])(grid).compute(scheduler="sync")
    assert made.result.dims == ("y", "x", "peak")
    assert made.result.attrs["units"] == "1"
    too_many = [len(above(v)) > 5 for v in grid.signal.values.reshape(-1, 40)]
    assert any(too_many)
    np.testing.assert_array_equal(made.status.values.ravel() == 2, too_many)
    with pytest.raises(ValueError, match="it has dtype, shape"):
        PerPosition(above, outputs={"result": {"size": 3}})


def sometimes(spectrum: np.ndarray) -> Any:
    if spectrum[0] > 1.0:
        raise ArithmeticError("no fit")
    if spectrum[0] < -1.5:
        return None
    return spectrum[:3]


def test_positions_that_fail_are_marked_counted_and_named(grid, tmp_path: Path) -> None:
    process = Process(grid, sometimes, out=tmp_path, outputs={"result": {"shape": [3]}})
    with pytest.warns(RuntimeWarning, match="positions failed"):
        results = process.compute(**QUICK)
    first = grid.signal.values[..., 0]
    bad = (first > 1.0) | (first < -1.5)
    assert 1 < bad.sum() < bad.size
    np.testing.assert_array_equal(results.status.values == 2, bad)
    assert np.isnan(results.result.values[bad]).all()
    np.testing.assert_array_equal(results.result.values[~bad], grid.signal.values[~bad][:, :3])
    note = str(process.report)
    assert f"{bad.sum()} positions failed" in note
    assert "ArithmeticError: no fit" in note or "None" in note


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: 1 / 0, "failed at all of .* positions tried: ZeroDivisionError"),
        (lambda v: None, "returned None"),
        (lambda v: "text", "must return numbers"),
        (lambda v: np.zeros((2, int(abs(v[0]) * 10))), "only one-dimensional"),
    ],
)
def test_functions_that_cannot_work_are_refused_before_the_run(grid, function, message) -> None:
    with pytest.raises(ValueError, match=message):
        ps.Pipeline([PerPosition(function)])(grid)


def test_nan_spectra_reach_the_function(grid: xr.Dataset) -> None:
    grid.signal.values[2, 3] = np.nan
    made = ps.Pipeline([PerPosition(np.mean)])(grid).compute(scheduler="sync")
    assert np.isnan(made.result.values[2, 3])
    assert np.isfinite(made.result.values).sum() == 41


def test_in_processes(grid: xr.Dataset, tmp_path: Path) -> None:
    scale = 3.0
    process = Process(grid, lambda v: v.max() * scale, name="largest", out=tmp_path)
    results = process.compute(memory="4 GiB", workers=2, progress=False, executor="processes")
    assert process.report.kind == "processes"
    np.testing.assert_array_equal(results.result, 3 * grid.signal.values.max(axis=-1))


class Range(Process):
    """A process as a subclass."""

    outputs = {"low": "float64", "high": {"dtype": "float64", "units": "V"}}

    @staticmethod
    def map_function(spectrum: np.ndarray, offset: float = 0.0) -> dict[str, float]:
        return {"low": spectrum.min() + offset, "high": spectrum.max() + offset}


def test_subclass_test_estimate_plan_compute(grid: xr.Dataset, tmp_path: Path) -> None:
    process = Range(grid, parameters={"offset": 1.0}, out=tmp_path)
    assert process.position_dims == ("y", "x")
    one = process.test((2, 5))
    assert float(one.high) == grid.signal.values[2, 5].max() + 1.0
    assert float(process.test({"y": 2, "x": 5}).low) == float(one.low)
    with pytest.raises(IndexError, match="no position"):
        process.test((20, 0))
    for wrong in ((1,), 5, {"q": 1}):
        with pytest.raises(ValueError, match="one index for each of y, x"):
            process.test(wrong)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    before = len(pyplot.get_fignums())
    assert float(process.test((2, 5), plot=True).high) == float(one.high)
    assert len(pyplot.get_fignums()) == before + 1
    pyplot.close("all")
    assert 0 < process.estimate(workers=1) < 5
    assert process.plan(memory="2 GiB", workers=2).n_blocks >= 1
    with pytest.raises(FileNotFoundError, match="not computed yet"):
        _ = process.results
    results = process.compute(**QUICK)
    assert results.high.attrs["units"] == "V"
    np.testing.assert_array_equal(results.high, grid.signal.values.max(axis=-1) + 1.0)


class Bound(Process):
    """Not a static method."""

    def map_function(self, spectrum: np.ndarray) -> float:  # type: ignore[override]
        return float(spectrum.sum())


def test_map_function_must_be_static(grid: xr.Dataset) -> None:
    with pytest.raises(TypeError, match="must be a static method"):
        Bound(grid)


def test_a_slow_first_call_does_not_mislead(tmp_path: Path) -> None:
    first: list[float] = []

    def peaks(spectrum: np.ndarray) -> np.ndarray:
        if not first:
            first.append(1.0)
            time.sleep(0.7)
        return np.flatnonzero(spectrum > 1.0)

    values = np.random.default_rng(4).normal(size=(300, 30))
    values[0] = 0.0
    values[0, 3] = 2.0
    processor = PerPosition(peaks)
    tried = processor.prepare(ps.make_dataset(values, ("position", "frequency")))
    assert tried.outputs["result"].slots is not None
    assert tried.seconds < 0.1


def counting(path: Path) -> Any:
    def count(spectrum: np.ndarray, power: int = 1) -> float:
        with open(path, "a") as file:
            file.write(".")
        return float((spectrum**power).sum())

    return count


def test_computed_already_is_recognised_by_everything_that_matters(grid, tmp_path) -> None:
    log = tmp_path / "calls"
    made = Process(grid, counting(log), {"power": 1}, out=tmp_path / "out")
    made.compute(**QUICK)
    calls = log.stat().st_size
    again = Process(grid, counting(log), {"power": 1}, out=tmp_path / "out")
    again.compute(**QUICK)
    assert again.report.skipped == 1 or again.report.blocks == 0
    tried = log.stat().st_size - calls
    assert tried <= 32
    others = (
        Process(grid, counting(log), {"power": 2}, out=tmp_path / "out"),
        Process(grid + 1, counting(log), {"power": 1}, out=tmp_path / "out"),
        Process(grid, lambda v, power: v.sum(), {"power": 1}, out=tmp_path / "out"),
    )
    for other in others:
        other.compute(**QUICK)
        assert not other.report.skipped
    assert len({process.target for process in (again, *others)}) == 4
    results = others[0].compute(**QUICK, override=True)
    assert not others[0].report.skipped
    np.testing.assert_allclose(results.result, (grid.signal.values**2).sum(axis=-1), rtol=1e-12)


def test_interrupted_work_goes_on_where_it_stopped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("penstock.planning.blocks.BLOCK_SECONDS", 0.01)
    monkeypatch.setattr("penstock.planning.blocks.SMALL_SECONDS", 0.001)
    monkeypatch.setattr("penstock.spectra.any_function.positions.PROBES", 2)
    values = np.random.default_rng(2).normal(size=(400, 30))
    ds = ps.make_dataset(values, ("position", "frequency"))
    log = tmp_path / "calls"
    finished: list[int] = []

    def slow(spectrum: np.ndarray) -> float:
        with open(log, "a") as file:
            file.write(".")
        end = np.arange(3000).sum()
        return float(spectrum.sum() + 0 * end)

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.BlockFinished):
            finished.append(event.block)
            if len(finished) == 3:
                raise KeyboardInterrupt

    process = Process(ds, slow, {}, out=tmp_path / "out", outputs={"result": "float64"})
    n_blocks = process.plan(memory="2 GiB", workers=2).n_blocks
    assert n_blocks >= 8
    with pytest.raises(KeyboardInterrupt):
        process.compute(**QUICK, listeners=[interrupt])
    before = log.stat().st_size
    results = process.compute(**QUICK)
    assert "blocks were finished" in str(process.report)
    # what was finished is not done again; a few positions are tried
    assert log.stat().st_size - before < 400 - 2
    np.testing.assert_allclose(results.result, values.sum(axis=-1), rtol=1e-12)


def test_an_edited_function_is_another_function(tmp_path: Path, monkeypatch) -> None:
    import importlib
    import sys

    module = tmp_path / "mine.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = []
    for text in ("v.sum()", "v.mean()"):
        module.write_text(f"def total(v):\n    return {text}\n")
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        keys.append(PerPosition(importlib.import_module("mine").total).canonical())
    sys.modules.pop("mine", None)
    assert keys[0] != keys[1]


def test_written_back_results_are_still_those_of_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(5, 6, 20))
    coords = {"y": np.arange(5.0), "x": np.arange(6.0), "frequency": np.arange(20.0)}
    scan = ps.make_dataset(values, ("y", "x", "frequency"), coords=coords, units="V")
    path = tmp_path / "scan.h5"
    ps.io.write_usid(scan, path, position_dims=("y", "x"))
    raw = ps.open_dataset(path, dtype="float64").signal.values
    process = Process(path, moments, dtype="float64", name="Moments")
    process.compute(**QUICK, write_back=True)
    assert process.target == tmp_path / "scan-Moments" / "scan.zarr"
    np.testing.assert_array_equal(
        ps.open_dataset(path, dataset="Channel_000/Raw_Data", dtype="float64").signal, raw
    )
    again = Process(path, moments, dtype="float64", name="Moments", dataset="Channel_000/Raw_Data")
    again.compute(**QUICK, write_back=True)
    assert again.report.blocks == 0
    assert again.write_back().endswith("Raw_Data-Moments_000")
    with h5py.File(path) as file:
        assert "Raw_Data-Moments_001" not in file["Measurement_000/Channel_000"]
    name = "Raw_Data-Moments_000/mean"
    np.testing.assert_array_equal(
        ps.open_dataset(path, dataset=name, dtype="float64").signal.squeeze(), values.mean(axis=-1)
    )
    other = Process(scan, np.sum, name="sum", out=tmp_path / "sum")
    with pytest.raises(ValueError, match="h5USID"):
        other.compute(**QUICK, write_back=True)


def test_no_function_is_told(grid: xr.Dataset) -> None:
    with pytest.raises(TypeError, match="needs a function"):
        Process(grid)
    with pytest.raises(TypeError, match="belong to functions"):
        Process(grid, ps.Apply(np.abs, core_dims=()), {"a": 1})
