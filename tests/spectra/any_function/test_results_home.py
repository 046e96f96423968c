"""Results find themselves again: of every dataset of a file, of every set of parameters."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock import events
from penstock.dataset import lazy_variable
from penstock.running.keys import content_token
from penstock.running.run import executor_kind
from penstock.spectra import Fit, PerPosition, Process
from penstock.testing import raise_if_computes

QUICK = {"workers": 1, "progress": False, "executor": "threads"}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """An h5USID file of two channels."""
    values = np.random.default_rng(0).random((4, 5, 6))
    path = tmp_path / "scan.h5"
    ps.io.write_usid(ps.make_dataset(values, ("y", "x", "frequency"), units="V"), path)
    with h5py.File(path, "r+") as file:
        first = file["Measurement_000/Channel_000"]
        second = file.create_group("Measurement_000/Channel_001")
        raw = second.create_dataset("Raw_Data", data=first["Raw_Data"][...] * 2)
        for name, value in first["Raw_Data"].attrs.items():
            raw.attrs[name] = value
    return path


def span(path: Path, channel: int = 0, **options: object) -> Process:
    part = f"Channel_00{channel}/Raw_Data"
    return Process(
        path, np.ptp, name="span", dataset=part, outputs={"result": "float64"}, **options
    )


def assert_known(process: Process) -> None:
    results = process.compute(**QUICK)
    assert process.report is not None
    assert process.report.skipped
    np.testing.assert_allclose(
        results.result, np.ptp(process.dataset.signal.values, axis=-1), rtol=1e-12
    )


def test_datasets_of_a_file_have_results_of_their_own(scan: Path) -> None:
    targets = []
    for channel in (0, 1):
        process = span(scan, channel)
        process.compute(**QUICK)
        targets.append(process.target)
    assert [target.name for target in targets] == ["scan.zarr", "scan_001.zarr"]
    for channel in (0, 1):
        assert_known(span(scan, channel))
        assert span(scan, channel).target == targets[channel]


def test_what_else_is_written_into_the_file_does_not_matter(scan: Path) -> None:
    span(scan).compute(**QUICK)
    with h5py.File(scan, "r+") as file:
        file["Measurement_000/Channel_000"].create_group("Elsewhere")["values"] = np.arange(5)
        file["Measurement_000"].attrs["comment"] = "later"
    assert_known(span(scan))
    with h5py.File(scan, "r+") as file:
        file["Measurement_000/Channel_000/Raw_Data"][3, 2] += 1
    changed = span(scan)
    assert changed.target.name == "scan_001.zarr"
    changed.compute(**QUICK)
    assert_known(span(scan))


def test_writing_back_leaves_all_results_known(scan: Path) -> None:
    span(scan, 1).compute(**QUICK)
    other = Process(scan, np.median, name="middle", dataset="Channel_000/Raw_Data")
    other.compute(**QUICK)
    one = span(scan)
    one.compute(**QUICK, write_back=True)
    assert one.write_back() == one.write_back()
    for channel in (0, 1):
        assert_known(span(scan, channel))
    again = Process(scan, np.median, name="middle", dataset="Channel_000/Raw_Data")
    again.compute(**QUICK)
    assert again.report.skipped


def test_parameters_stand_side_by_side(scan: Path) -> None:
    def quantile(q: float) -> Process:
        return Process(scan, np.quantile, {"q": q}, name="quantile", dataset="Channel_000/Raw_Data")

    made = {q: float(quantile(q).compute(**QUICK).result.mean()) for q in (0.1, 0.5, 0.9)}
    assert made[0.1] < made[0.5] < made[0.9]
    for q, mean in made.items():
        again = quantile(q)
        assert float(again.compute(**QUICK).result.mean()) == mean
        assert again.report.skipped
        assert float(quantile(q).results.result.mean()) == mean
    with pytest.raises(FileNotFoundError, match="not computed yet"):
        _ = quantile(0.3).results
    replaced = quantile(0.5)
    replaced.compute(**QUICK, override=True)
    assert not replaced.report.skipped
    assert replaced.target.name == "scan_001.zarr"


def test_units_and_coordinates_are_part_of_the_data(tmp_path: Path) -> None:
    x = np.linspace(-3, 3, 40)

    def dataset(x: np.ndarray = x, unit: str = "Hz", own: str = "V") -> xr.Dataset:
        return ps.make_dataset(
            np.exp(-(np.linspace(-3, 3, 40) ** 2)) * np.ones((2, 2, 1)),
            ("y", "x", "frequency"),
            coords={"frequency": ("frequency", x, {"units": unit})},
            units=own,
        )

    def center(ds: xr.Dataset) -> xr.DataArray:
        process = Process(ds, Fit("gaussian"), name="fit", out=tmp_path)
        return process.compute(**QUICK)

    assert center(dataset()).center.attrs["units"] == "Hz"
    assert center(dataset(unit="kHz")).center.attrs["units"] == "kHz"
    assert center(dataset(own="mV")).amplitude.attrs["units"] == "mV"
    np.testing.assert_allclose(center(dataset(x + 1)).center, 1, atol=1e-6)
    assert center(dataset()).center.attrs["units"] == "Hz"
    assert len(list(tmp_path.glob("*.zarr"))) == 4


def test_nothing_is_started_for_what_is_finished_or_short(scan: Path, monkeypatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr("penstock.running.run.local_processes", refuse)
    short = span(scan)
    short.compute(workers=2, progress=False)
    assert short.report.kind == "threads"
    monkeypatch.setattr("penstock.running.run.START_SECONDS", 0.0)
    again = span(scan)
    again.compute(workers=2, progress=False)
    assert again.report.skipped
    with pytest.raises(AssertionError, match="processes were started"):
        span(scan, 1).compute(workers=2, progress=False)


def test_interrupted_work_is_not_in_the_way_of_other_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("penstock.planning.blocks.BLOCK_SECONDS", 0.01)
    monkeypatch.setattr("penstock.planning.blocks.SMALL_SECONDS", 0.001)
    ds = ps.make_dataset(np.random.default_rng(2).random((4000, 30)), ("position", "frequency"))

    def process(q: float) -> Process:
        return Process(
            ds, np.quantile, {"q": q}, name="q", out=tmp_path, outputs={"result": "float64"}
        )

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.BlockFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process(0.1).compute(**QUICK, listeners=[interrupt])
    other = process(0.9)
    other.compute(**QUICK)
    assert other.target.name != process(0.1).target.name
    gone_on = process(0.1)
    results = gone_on.compute(**QUICK)
    assert "blocks were finished" in str(gone_on.report)
    np.testing.assert_allclose(results.result, np.quantile(ds.signal.values, 0.1, axis=-1))


def test_where_work_is_done_is_tried_and_not_guessed(tmp_path: Path, monkeypatch) -> None:
    ds = ps.make_dataset(np.random.default_rng(3).random((60, 8)), ("position", "frequency"))

    def slow(spectrum: np.ndarray) -> float:
        time.sleep(0.05)
        return float(spectrum.sum())

    pipeline = ps.Pipeline([PerPosition(slow, core_dims=("frequency",))])
    assert executor_kind(pipeline, None, [ds], trying=True) == "processes"  # 60 x 50 ms
    assert executor_kind(pipeline, None, [ds.isel(position=[0, 1, 2])], trying=True) == "threads"
    with raise_if_computes():
        pipeline.plan(ds.chunk(), memory="4 GiB", workers=2)
    with pytest.raises(ValueError, match="executor must be"):
        executor_kind(pipeline, "thread")


def test_a_dataset_that_does_not_suit_stops_no_other(tmp_path: Path) -> None:
    x = np.linspace(-3, 3, 40)
    good = ps.make_dataset(
        np.exp(-(x**2)) * np.ones((4, 1)), ("position", "frequency"), coords={"frequency": x}
    )
    bad = good.rename(frequency="energy")
    fit = Fit("gaussian", core_dim="frequency")
    report = ps.Pipeline([fit]).run({"a": bad, "b": good}, tmp_path, workers=1, progress=False)
    assert list(report.failed) == ["a"]
    assert list(report.outputs) == ["b"]


def test_values_are_known_by_pieces_of_any_shape(monkeypatch) -> None:
    ds = ps.make_dataset(np.arange(7 * 5 * 11.0).reshape(1, 7, 55), ("y", "x", "frequency"))
    monkeypatch.setattr("penstock.running.keys.PIECE_BYTES", 64)
    read: list[int] = []
    values = ds.signal.values

    def region(*indexers: object) -> np.ndarray:
        places = (np.arange(n)[i] for n, i in zip(values.shape, indexers, strict=True))
        part = values[np.ix_(*places)].copy()
        read.append(part.nbytes)
        return part

    lazy = ds.assign(signal=lazy_variable(("y", "x", "frequency"), region, values.shape, "f8"))
    before = content_token(lazy)
    assert before == content_token(ds)
    assert max(read) <= 64
    assert sum(read) == values.nbytes
    values[0, 6, 54] += 1
    assert content_token(lazy) != before
