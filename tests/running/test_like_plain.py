"""A dataset behaves under xarray exactly as the same numbers with plain coordinates would."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import lazy_variable, sampled_coordinate, sampled_index

# (explaining a failure traces every line of every example)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)

Operation = Callable[[xr.Dataset], Any]


class Stored:
    """Values behind a lazy variable, read by region as a file would be."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __call__(self, *indexers: Any) -> np.ndarray:
        places = [np.arange(n)[i] for n, i in zip(self.values.shape, indexers, strict=True)]
        return np.ascontiguousarray(self.values[np.ix_(*places)])


def pair(size: int, rate: float, start: float) -> tuple[xr.Dataset, xr.Dataset]:
    """A dataset of ours, and the same numbers with plain coordinates."""
    values = np.random.default_rng(size).standard_normal((2, size))
    values[0, size // 2 : size // 2 + 1] = np.nan
    extra = {"channel": ["a", "b"], "quality": ("time", np.arange(size) % 3)}
    lazy = lazy_variable(("channel", "time"), Stored(values), values.shape, values.dtype)
    ours = ps.make_dataset(
        lazy, sampling_frequency=rate, start_time=start, units="uV", coords=extra
    )
    plain = xr.Dataset(
        {"signal": (("channel", "time"), values, {"units": "uV"})},
        coords={"time": ("time", start + np.arange(size) / rate, {"units": "s"}), **extra},
    )
    return ours, plain[list(ours.data_vars)]


def outcome(operation: Operation, ds: xr.Dataset) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return operation(ds)
    except Exception as error:
        return type(error)


def assert_same(ours: Any, plain: Any) -> None:
    if isinstance(plain, type):
        assert ours is plain, f"right: {plain}, came out: {ours}"
    elif isinstance(plain, xr.Dataset | xr.DataArray):
        assert not isinstance(ours, type), f"{ours} instead of\n{plain}"
        # (sums of columns that were picked differ in the order that NumPy keeps them in)
        xr.testing.assert_allclose(ours.load(), plain.load(), rtol=1e-12)
        assert ours.attrs == plain.attrs
        for dim in plain.xindexes:
            assert type(ours.xindexes[dim]) is type(plain.xindexes[dim])
        for name in plain.coords:
            found, right = ours[name].values, plain[name].values
            if right.dtype == object:  # (labels of several levels: NaN in a tuple equals nothing)
                found, right = np.array([*map(repr, found)]), np.array([*map(repr, right)])
            np.testing.assert_array_equal(found, right)
    elif isinstance(plain, pd.DataFrame):
        pd.testing.assert_frame_equal(ours, plain, check_index_type=False, check_column_type=False)
    elif isinstance(plain, pd.Series):
        pd.testing.assert_series_equal(ours, plain, check_index_type=False)
    else:
        np.testing.assert_array_equal(ours, plain)


# What is drawn is drawn from the plain dataset, and done to both.


def _labels(draw: Any, ds: xr.Dataset) -> float:
    times = ds["time"].values
    if len(times) and draw(st.booleans()):
        return float(times[draw(st.integers(0, len(times) - 1))])
    return draw(st.floats(-2, 12))


def _stretch(draw: Any, ds: xr.Dataset) -> slice:
    steps = st.sampled_from([None, 1, 2, 3, 50, -1, -2])
    return slice(*draw(st.slices(ds.sizes["time"])).indices(ds.sizes["time"])[:2], draw(steps))


def _rising(draw: Any, ds: xr.Dataset) -> slice:
    found = _stretch(draw, ds)
    return slice(found.start, found.stop, abs(found.step or 1))


def _mask(draw: Any, ds: xr.Dataset) -> np.ndarray:
    n = ds.sizes["time"]
    return np.random.default_rng(draw(st.integers(0, 9))).random(n) < draw(
        st.sampled_from([0.1, 0.5, 0.95])
    )


def _positions(draw: Any, ds: xr.Dataset) -> np.ndarray:
    n = ds.sizes["time"]
    if not n:
        return np.zeros(0, dtype=int)
    return np.array(draw(st.lists(st.integers(-n, n - 1), max_size=6)), dtype=int)


def selections(draw: Any, ds: xr.Dataset) -> list[Operation]:
    """Operations that keep the dims, so that others can follow."""
    where, mask, picked = _stretch(draw, ds), _mask(draw, ds), _positions(draw, ds)
    low, high = sorted((_labels(draw, ds), _labels(draw, ds)))
    some = ds["time"].values[picked]
    first, second = _rising(draw, ds), _rising(draw, ds)
    shift, count = draw(st.integers(-7, 7)), draw(st.integers(1, 9))
    how = draw(st.sampled_from(["inner", "outer", "left", "right"]))
    stretch = draw(st.floats(-1, 1))
    return [
        lambda d: d.isel(time=where),
        lambda d: d.isel(time=first),
        lambda d: d.isel(time=slice(None, None, -1)),
        lambda d: d.isel(time=slice(None, None, 2**63)),
        lambda d: d.isel(time=mask),
        lambda d: d.isel(time=picked),
        lambda d: d.isel(time=xr.DataArray(mask, dims="time")),
        lambda d: d.sel(time=slice(low, high)),
        lambda d: d.sel(time=slice(None, high)),
        lambda d: d.sel(time=slice(low, None, 2)),
        lambda d: d.sel(time=slice(high, low)),
        lambda d: d.sel(time=d.time >= low),
        lambda d: d.sel(time=some),
        lambda d: d.sel(time=[low, high]),
        lambda d: d.sel(time=[low, high], method="nearest"),
        lambda d: d.sel(time=[low, high], method="pad"),
        lambda d: d.sel(time=[low, high], method="backfill"),
        lambda d: d.sel(time=[low, high], method="nearest", tolerance=0.04),
        lambda d: d.where(d.time >= low, drop=True),
        lambda d: d.where((d.time > low) & (d.quality != 1)),
        lambda d: d.dropna("time"),
        lambda d: d.fillna(0.0),
        lambda d: d.head(time=count),
        lambda d: d.tail(time=count),
        lambda d: d.thin(time=count),
        lambda d: d.sortby("time", ascending=False),
        lambda d: d.sortby("quality"),
        lambda d: d.roll(time=shift, roll_coords=True),
        lambda d: d.roll(time=shift),
        lambda d: d.shift(time=shift),
        lambda d: d.pad(time=(1, 2)),
        lambda d: d.drop_sel(time=some),
        lambda d: d.drop_isel(time=picked),
        lambda d: d.drop_duplicates("time"),
        lambda d: xr.concat([d.isel(time=first), d.isel(time=second)], "time"),
        lambda d: xr.concat(
            [d.isel(time=slice(0, count)), d.isel(time=slice(count, None))], "time"
        ),
        lambda d: xr.concat([d, d.isel(time=[])], "time"),
        lambda d: xr.align(d.isel(time=first), d.isel(time=second), join=how)[0],
        lambda d: xr.align(d.isel(time=first), d.isel(time=mask), join=how)[1],
        lambda d: xr.align(d.isel(time=first), d.isel(time=second), join="exact")[0],
        lambda d: d.isel(time=first) - d.isel(time=second),
        lambda d: d + d.isel(time=mask),
        lambda d: d * xr.DataArray(np.ones(len(some)), coords={"time": some}, dims="time"),
        lambda d: d.isel(time=first).combine_first(d.isel(time=second)),
        lambda d: xr.merge([d.isel(time=first), d.isel(time=second)], join=how),
        lambda d: xr.combine_by_coords(
            [d.isel(time=slice(0, count)), d.isel(time=slice(count, None))]
        ),
        lambda d: d.reindex(time=some),
        lambda d: d.reindex(time=[low, *some, high]),
        lambda d: d.reindex(time=np.sort([low, high]), method="nearest", tolerance=0.1),
        lambda d: d.reindex_like(d.isel(time=first)),
        lambda d: d.interp(time=[low, high]),
        lambda d: d.assign_coords(time=d.time + stretch),
        lambda d: d.coarsen(time=count, boundary="trim").mean(),
        lambda d: d.rolling(time=min(count, d.sizes["time"] or 1)).mean(),
        lambda d: d.diff("time"),
        lambda d: d.cumsum("time"),
        lambda d: d.differentiate("time"),
        lambda d: d.rename(time="t").rename(t="time"),
        lambda d: d.transpose("time", "channel").transpose("channel", "time"),
        lambda d: d.isel(channel=[1, 0]),
        lambda d: d.query(time=f"time > {low}"),
        lambda d: d.drop_indexes("time").set_xindex("time"),
        lambda d: d.reset_coords("quality").set_coords("quality"),
        lambda d: pickle.loads(pickle.dumps(d)),
        lambda d: copy.deepcopy(d),
        lambda d: d.chunk(time=5).compute(),
        lambda d: d.broadcast_like(d.isel(time=first)),
    ]


def ends(draw: Any, ds: xr.Dataset) -> list[Operation]:
    """Operations whose result is something else: they come last."""
    low, picked = _labels(draw, ds), _positions(draw, ds)
    n = ds.sizes["time"]
    return [
        lambda d: d,
        lambda d: d.sel(time=low),
        lambda d: d.sel(time=low, method="nearest"),
        lambda d: d.isel(time=n // 2),
        lambda d: d.isel(time=xr.DataArray(picked, dims="event")),
        lambda d: d.isel(time=xr.DataArray(picked.reshape(1, -1), dims=("a", "b"))),
        lambda d: d.sel(time=xr.DataArray([low, low], dims="event"), method="nearest"),
        lambda d: d.groupby_bins("time", [0, 0.31, 0.62, 5]).mean(),
        lambda d: d.groupby("quality").mean(),
        lambda d: d.groupby("time").first(),
        lambda d: d.resample(time="1s").mean(),
        lambda d: (
            d.assign_coords(time=pd.to_timedelta(d.time.values, unit="s"))
            .resample(time="200ms")
            .mean()
        ),
        lambda d: d.stack(sample=("channel", "time")),
        lambda d: d.stack(sample=("channel", "time")).unstack(),
        lambda d: d.to_dataframe(),
        lambda d: d.signal.to_series(),
        lambda d: d.signal.to_pandas(),
        lambda d: d.signal.idxmax("time"),
        lambda d: d.integrate("time"),
        lambda d: d.signal.polyfit("time", 1).polyfit_coefficients.round(6),
        lambda d: d.swap_dims(time="quality"),
        lambda d: d.expand_dims(run=[1]),
        lambda d: d.set_index(time="quality"),
        lambda d: d.reset_index("time"),
        lambda d: d.drop_vars("time"),
        lambda d: d.time.to_index().to_numpy(),
        lambda d: d.indexes["time"].get_indexer([low, 0.3]),
        lambda d: d.time.values,
        lambda d: d.time.isin([low, 0.1]),
        lambda d: d.time[::-1],
        lambda d: d.time.mean(),
        lambda d: d.time.max(),
        lambda d: d.identical(d.copy(deep=True)),
        lambda d: d.time.dtype == float and d.time.size,
        lambda d: d.signal.sum(),
        lambda d: d.map(np.abs),
    ]


@settings(max_examples=150, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_chains_of_operations_give_what_plain_coordinates_give(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 40), label="size")
    rate = data.draw(st.sampled_from([100.0, 160.0, 7.0, 512.5, 1 / 3]), label="rate")
    start = data.draw(st.sampled_from([0.0, 0.1, -3.0, 1.7e9]), label="start")
    ours, plain = pair(size, rate, start)
    for _ in range(data.draw(st.integers(0, 3), label="steps")):
        operations = selections(data.draw, plain)
        which = data.draw(st.integers(0, len(operations) - 1), label="operation")
        before, (ours, plain) = ours, [outcome(operations[which], ds) for ds in (ours, plain)]
        assert_same(ours, plain) if isinstance(plain, type) else None
        if isinstance(plain, type):
            return
        assert isinstance(ours, xr.Dataset), f"{ours} came out of {before}"
        if "time" not in plain.xindexes or set(plain.dims) != {"channel", "time"}:
            break
    else:
        operations = ends(data.draw, plain)
        which = data.draw(st.integers(0, len(operations) - 1), label="end")
        ours, plain = (outcome(operations[which], ds) for ds in (ours, plain))
    assert_same(ours, plain)


def test_what_stays_regular_stays_computed() -> None:
    ds = ps.make_dataset(np.zeros((1, 1000)), sampling_frequency=160.0, start_time=0.1)
    halves = [ds.isel(time=slice(0, 400)), ds.isel(time=slice(400, None))]
    kept: list[tuple[xr.Dataset, float]] = [
        (ds.isel(time=slice(3, 900, 4)), 40.0),
        (ds.sel(time=slice(1, 2)).isel(time=slice(2, None)), 160.0),
        (xr.concat(halves, "time"), 160.0),
        (xr.combine_by_coords(halves[::-1]), 160.0),
        (xr.align(ds, halves[1], join="inner")[0], 160.0),
        (xr.align(*halves, join="outer")[0], 160.0),
        (ds.rename(time="t").rename(t="time"), 160.0),
        (pickle.loads(pickle.dumps(halves[1])), 160.0),
        (copy.deepcopy(ds), 160.0),
    ]
    for made, rate in kept:
        index = sampled_index(made)
        assert index is not None, made
        assert ps.sampling_frequency(made) == rate
        assert made.time.values.tolist() == index.values.tolist()
        assert set(made.time.values) <= set(ds.time.values)
    assert sampled_index(xr.concat(halves[::-1], "time")) is None
    with pytest.raises(ValueError, match="no regular sampling"):
        ps.sampling_frequency(ds.isel(time=np.arange(1000) != 998))
    assert ps.sampling_frequency(ds.isel(time=np.arange(1000) % 2 == 0)) == pytest.approx(80.0)


def test_selecting_from_years_of_samples_costs_nothing() -> None:
    ds = xr.Dataset(coords=sampled_coordinate("time", 10**12, 5000.0))
    for size in (ds.sel(time=slice(1e6, 1e6 + 1)).sizes["time"], 5001):
        assert size == 5001
    assert ds.sel(time=[3.0, 7e7]).time.values.tolist() == [3.0, 7e7]
    assert float(ds.sel(time=12345.67891, method="nearest").time) == 12345.679
    assert float(ds.time[-1]) == (10**12 - 1) / 5000
    assert "2e+08" in repr(ds)
    assert len(pickle.dumps(ds)) < 5000


@pytest.mark.parametrize("selection", [slice(7, None, 3), [1, 2, 3, 5, 8], slice(None, None, -1)])
def test_times_come_back_from_files(tmp_path: Path, selection: Any) -> None:
    ours, plain = (ds.isel(time=selection) for ds in pair(50, 160.0, 0.1))
    ours.to_zarr(tmp_path / "x.zarr")
    ours.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    for found in (
        xr.open_zarr(tmp_path / "x.zarr"),
        xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf"),
    ):
        xr.testing.assert_equal(found.load(), plain)
    ps.export(ours, tmp_path / "own.zarr")
    own = ps.open_dataset(tmp_path / "own.zarr")
    np.testing.assert_array_equal(own.time.values, plain.time.values)
    np.testing.assert_allclose(own.signal.values, plain.signal.values, rtol=1e-6)


def test_results_are_written_by_xarray(small: xr.Dataset, tmp_path: Path) -> None:
    events = pd.DataFrame({"onset": [1.0, 2.5], "duration": [0.0, 0.5], "label": ["a", "β"]})
    source = ps.with_events(small, events).assign_attrs(device={"maker": "none", "gains": [1, 2]})
    ps.Pipeline([ps.Apply(np.negative, core_dims=())]).run(
        {"a": source}, tmp_path, memory="4 GiB", workers=1, progress=False
    )
    result = ps.open_dataset(tmp_path / "a.zarr")
    assert ps.provenance(result)["versions"]["penstock"] == ps.__version__
    result.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf")
    xr.testing.assert_equal(found.load(), result.load())
    assert ps.provenance(found) == ps.provenance(result)
    assert ps.events_table(found).to_dict("list") == events.to_dict("list")
    result.to_zarr(tmp_path / "copy.zarr")
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "copy.zarr").load(), result)
