"""Results that are there count only while they are whole, and only for what they were made of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from interrupted import OPTIONS, WAYS, contents, damage, files_of, interrupt, recording

import penstock as ps
from penstock.eeg import HighPassFilter
from penstock.storage.ledger import partial_path

PIPELINE = ps.Pipeline([HighPassFilter(1.0)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording and its results, as a store and as a file."""
    folder = tmp_path_factory.mktemp("made")
    recording(folder / "r.zarr", samples=20_000)
    for format in ("zarr", "edf", "csv"):
        assert PIPELINE.run(folder / "r.zarr", folder / "out", format=format, **OPTIONS).ok
    return folder


def again(made: Path, out: Path, format: str = "zarr") -> ps.Report:
    return PIPELINE.run(made / "r.zarr", out, format=format, **OPTIONS)


@pytest.mark.parametrize("format", ["zarr", "edf", "csv"])
def test_a_whole_result_is_there(made: Path, tmp_path: Path, format: str) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    before = contents(tmp_path / "out")
    assert again(made, tmp_path / "out", format).skipped == ["r"]
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("file", ["signal/c/0/0", "signal/zarr.json", "channel/c/0"])
def test_a_store_that_is_not_whole_is_not_there(
    made: Path, tmp_path: Path, how: str, file: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made / "out", out)
    whole = contents(out)
    damage(out / "r.zarr" / file, how, at=0.3)
    report = again(made, out)
    assert report.skipped == [] or (file, how) == ("signal/zarr.json", "flipped")
    if report.ok and not report.skipped:
        assert "made again" in report.notes["r"]
        assert contents(out) == whole
    elif not report.ok:
        assert "overwrite" in report.failed["r"]
    assert how != "gone" or report.ok


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("format", ["edf", "csv"])
def test_a_file_that_is_not_whole_is_not_there(
    made: Path, tmp_path: Path, how: str, format: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made / "out", out)
    whole = contents(out)
    damage(out / f"r.{format}", how, at=0.999)
    report = again(made, out, format)
    assert report.skipped == []
    if how == "gone":
        assert report.ok
        assert contents(out) == whole
    else:
        assert "was changed or damaged after it was made" in report.failed["r"]


def test_a_chunk_that_is_lost_is_not_read_as_missing_values(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out" / "r.zarr", tmp_path / "r.zarr")
    files_of(tmp_path / "r.zarr" / "signal" / "c")[0].unlink()
    with pytest.raises(OSError, match=r"signal/c/0/0 is missing: values of the array were lost"):
        ps.open_dataset(tmp_path / "r.zarr").signal.values  # noqa: B018


def test_values_that_are_missing_on_purpose_are_read(tmp_path: Path) -> None:
    values = np.ones((2, 100), "f4")
    values[0] = np.nan
    xr.Dataset({"signal": (("channel", "time"), values)}).to_zarr(
        tmp_path / "x.zarr", zarr_format=3, encoding={"signal": {"chunks": (1, 100)}}
    )
    assert np.array_equal(
        ps.open_dataset(tmp_path / "x.zarr").signal.values, values, equal_nan=True
    )


def test_silence_and_missing_values_are_whole(tmp_path: Path) -> None:
    for value in (0.0, np.nan):
        ds = ps.make_dataset(np.full((2, 1000), value, "f4"), sampling_frequency=100.0)
        same = ps.Pipeline([ps.Apply(np.negative, core_dims=())])
        out = tmp_path / str(value)
        assert same.run({"x": ds}, out, **OPTIONS).ok
        assert same.run({"x": ds}, out, **OPTIONS).skipped == ["x"]
        assert np.array_equal(
            ps.open_dataset(out / "x.zarr").signal.values, -ds.signal.values, equal_nan=True
        )


# ---------------------------------------------------------------------- sources


def _zarr3(folder: Path) -> Path:
    return recording(folder / "r.zarr", samples=20_000)


def _npy(folder: Path) -> Path:
    np.save(folder / "r.npy", np.ones((2, 2000), "f4"))
    return folder / "r.npy"


def _change(path: Path) -> None:
    """Other values of the same number of bytes, in place."""
    if path.is_dir():
        array = zarr.open_array(path / "signal", mode="r+")
        array[:] = np.asarray(array[:]) + 1
    else:
        with open(path, "r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"\1" * 8)


@pytest.mark.parametrize("make", [_zarr3, _npy])
@pytest.mark.parametrize("way", ["path", "dataset", "dask"])
def test_a_source_that_changed_is_another(
    tmp_path: Path, make: Callable[[Path], Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    path = make(tmp_path)
    options = {"dims": "channel,time"} if path.suffix == ".npy" else {}

    def run(out: str, **more: object) -> ps.Report:
        source, extra = path, {"open_options": options}
        if way != "path":
            source, extra = ps.open_dataset(path, **options), {}
        if way == "dask":
            source = source.chunk({"channel": 1})
        return same.run({"r": source}, tmp_path / out, **OPTIONS, **extra, **more)

    same = ps.Pipeline([ps.Apply(np.negative, core_dims=("time",))])
    assert run("out").ok
    assert run("out").skipped == ["r"]
    _change(path)
    refused = run("out")
    assert "was not made by this pipeline from this input" in refused.failed["r"]
    assert run("out", overwrite=True).ok
    values = ps.open_dataset(path, **options).signal.values
    assert np.array_equal(ps.open_dataset(tmp_path / "out" / "r.zarr").signal.values, -values)


def test_blocks_of_two_states_of_a_source_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    path = _zarr3(tmp_path)
    interrupt(PIPELINE, path, tmp_path / "out")
    _change(path)
    report = PIPELINE.run(path, tmp_path / "out", **OPTIONS)
    assert "the input has changed" in report.notes["r"]
    PIPELINE.run(path, tmp_path / "whole", **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_source_that_changes_during_the_run_gives_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    path = _zarr3(tmp_path)
    changed: list[bool] = []

    def change(event: object) -> None:
        if type(event).__name__ == "BlockFinished" and not changed:
            changed.append(True)
            _change(path)

    report = PIPELINE.run(path, tmp_path / "out", listeners=[change], **OPTIONS)
    assert "r.zarr was changed while it was processed" in report.failed["r"]
    assert not (tmp_path / "out" / "r.zarr").exists()
    # the next run does not go on with what may be of either
    report = PIPELINE.run(path, tmp_path / "out", **OPTIONS)
    assert report.ok
    assert "the input has changed" in report.notes["r"]
    assert not partial_path(tmp_path / "out" / "r.zarr").exists()


def test_results_within_the_folder_of_their_source_do_not_change_it(tmp_path: Path) -> None:
    path = _zarr3(tmp_path)
    assert PIPELINE.run({"r": path}, path / "derived", **OPTIONS).ok
    assert PIPELINE.run({"r": path}, path / "derived", **OPTIONS).skipped == ["r"]


@pytest.mark.parametrize("wrap", ["from_zarr", "from_array"])
def test_a_dask_array_over_a_store_knows_its_files(tmp_path: Path, wrap: str) -> None:
    path = _zarr3(tmp_path) / "signal"
    same = ps.Pipeline([ps.Apply(np.negative, core_dims=("time",))])

    def run() -> ps.Report:
        array = zarr.open_array(path, mode="r")
        values = da.from_zarr(str(path)) if wrap == "from_zarr" else da.from_array(array)
        ds = ps.make_dataset(values, sampling_frequency=1000.0)
        return same.run({"r": ds}, tmp_path / "out", **OPTIONS)

    assert run().ok
    assert run().skipped == ["r"]
    _change(tmp_path / "r.zarr")
    assert "not made by this pipeline from this input" in run().failed["r"]
