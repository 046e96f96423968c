"""Several results at every position: a variable each in lazy datasets and in stores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.records import Field, record_dtype, results_outline

FIELDS = {
    "height": Field("float64", attrs={"units": "V"}),
    "ends": Field("float32", ("end",), (2,)),
    "status": Field("uint8"),
}


@dataclass(frozen=True)
class Extremes(ps.Processor):
    """Largest magnitude, first and last value; positions above `limit` fail."""

    limit: float = 1e9
    core_dims = ("frequency",)

    def outline(self, ds: xr.Dataset, state: object) -> xr.Dataset:
        return results_outline(ds, self.core_dims, FIELDS, {"end": ["first", "last"]})

    def kernel(self, block: np.ndarray, ctx: ps.Context) -> np.ndarray:
        out = np.zeros(block.shape[:-1], record_dtype(FIELDS))
        out["height"] = np.abs(block).max(axis=-1)
        out["ends"] = block[..., [0, -1]].real
        out["status"] = np.where(out["height"] > self.limit, 2, 1)
        for index in np.argwhere(out["height"] > self.limit):
            ctx.failed(tuple(index), "too high")
        return out


@pytest.fixture
def grid() -> xr.Dataset:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 9, 50)) + 1j * rng.normal(size=(12, 9, 50))
    coords = {"frequency": np.linspace(3e5, 4e5, 50), "y": np.arange(12) * 1e-9}
    return ps.make_dataset(values.astype("complex64"), ("y", "x", "frequency"), coords=coords)


def expected(ds: xr.Dataset) -> dict[str, np.ndarray]:
    values = ds.signal.values
    height = np.abs(values).max(axis=-1).astype("float64")
    return {"height": height, "ends": values[..., [0, -1]].real, "status": np.ones((12, 9))}


def test_conformance(grid: xr.Dataset) -> None:
    ps.testing.check_processor(Extremes(), grid, in_files=False)


@pytest.mark.parametrize("dims", [("y", "x", "frequency"), ("frequency", "y", "x")])
def test_lazy_and_run_give_a_variable_for_each_result(grid, tmp_path, dims) -> None:
    ds = grid.transpose(*dims)
    pipeline = ps.Pipeline([Extremes()])
    with ps.testing.raise_if_computes():
        lazy = pipeline(ds, block_bytes=20_000)
    assert pipeline.run(ds, tmp_path, memory="4 GiB", progress=False).failed == {}
    stored = ps.open_dataset(tmp_path / "dataset.zarr")
    for found in (lazy, stored):
        assert list(found.data_vars) == ["height", "ends", "status"]
        assert found.ends.dims == ("y", "x", "end")
        assert list(found.end.values) == ["first", "last"]
        assert found.height.attrs["units"] == "V"
        assert "frequency" not in found.dims
        for name, values in expected(grid).items():
            np.testing.assert_array_equal(found[name].values, values)
        np.testing.assert_array_equal(found.y.values, grid.y.values)


def test_failed_positions_are_counted_and_named_with_their_reason(grid, tmp_path) -> None:
    report = ps.Pipeline([Extremes(limit=2.5)]).run(grid, tmp_path, memory="4 GiB")
    stored = ps.open_dataset(tmp_path / "dataset.zarr")
    bad = np.argwhere(stored.status.values == 2)
    assert len(bad) > 1
    about = ps.provenance(stored)
    assert about["n_failed"] == len(bad)
    assert about["failures"][0] == [dict(zip(("y", "x"), bad[0].tolist(), strict=True)), "too high"]
    place = f"y {bad[0][0]}, x {bad[0][1]}"
    assert f"{len(bad)} positions failed (the first, {place}: too high)" in str(report)


def test_nothing_can_follow_several_results(grid) -> None:
    with pytest.raises(ValueError, match=r"Extremes gives several results .* must be the last"):
        ps.Pipeline([Extremes(), ps.Apply(np.abs, core_dims=())])(grid)


def test_results_are_not_a_recording(grid, tmp_path) -> None:
    report = ps.Pipeline([Extremes()]).run(grid, tmp_path, memory="4 GiB", format="edf")
    assert "height, ends, status" in next(iter(report.failed.values()))


def test_a_result_cannot_take_the_name_of_a_coordinate(grid) -> None:
    with pytest.raises(ValueError, match="'y'"):
        results_outline(grid, ("frequency",), {"y": Field()})


@dataclass(frozen=True)
class Slow(ps.Processor):
    """Says that a position takes a second."""

    core_dims = ("frequency",)

    def row_seconds(self, ds: xr.Dataset, state: object) -> float:
        return 1.0

    def kernel(self, block: np.ndarray, ctx: ps.Context) -> np.ndarray:
        return block.copy()


def test_blocks_of_slow_processors_are_cut_by_time(grid) -> None:
    fast = ps.Pipeline([ps.Apply(np.abs, core_dims=("frequency",), dtype="float32")])
    assert fast.plan(grid, memory="3 GiB", workers=2).n_blocks == 1
    assert ps.Pipeline([Slow()]).plan(grid, memory="3 GiB", workers=2).n_blocks >= 12 * 9 / 5
