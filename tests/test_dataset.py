"""The dataset: virtual time, lazy reading, events."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import LazyArray, lazy_variable, sampled_coordinate, sampled_index
from penstock.planning.chain import Chain
from penstock.testing import virtual_dataset


def test_time_is_exact_and_virtual() -> None:
    coordinates = sampled_coordinate("time", 10**12, 160.0, start=3.0)
    ds = xr.Dataset(coords=coordinates)
    far = ds.isel(time=slice(10**11, 10**11 + 3))
    assert np.array_equal(far["time"].values, 3.0 + np.arange(10**11, 10**11 + 3) / 160.0)
    assert sampled_index(far) is not None
    assert len(pickle.dumps(ds)) < 5000


@given(
    frequency=st.sampled_from([1.0, 100.0, 160.0, 512.5, 2048.0]),
    start=st.sampled_from([0.0, 12.25, -3.0]),
    size=st.integers(1, 500),
    labels=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
)
def test_slices_select_as_pandas_does(
    frequency: float, start: float, size: int, labels: tuple[float, float]
) -> None:
    low, high = sorted(labels)
    ds = ps.make_dataset(
        np.arange(size, dtype=float), ("time",), sampling_frequency=frequency, start_time=start
    )
    times = pd.Index(start + np.arange(size) / frequency)
    found = ds.sel(time=slice(low, high)).signal.values
    assert np.array_equal(found, ds.signal.values[times.slice_indexer(low, high)])


def test_every_sample_is_found_by_its_own_time() -> None:
    ds = ps.make_dataset(np.arange(997.0), ("time",), sampling_frequency=160.0, start_time=0.1)
    for i in (0, 1, 7, 501, 996):
        assert ds.sel(time=ds["time"].values[i]).signal == i
    assert ds.sel(time=[0.1, 1.1], method="nearest").signal.values.tolist() == [0, 160]
    with pytest.raises(KeyError, match="method"):
        ds.sel(time=0.1001)
    with pytest.raises(KeyError):
        ds.sel(time=1e6, method="nearest", tolerance=1.0)


def test_strided_and_picked_positions_keep_their_times() -> None:
    ds = ps.make_dataset(np.arange(100.0), ("time",), sampling_frequency=10.0)
    third = ds.isel(time=slice(1, None, 3))
    assert sampled_index(third) is not None
    assert np.allclose(third["time"].values, np.arange(1, 100, 3) / 10)
    picked = ds.isel(time=[5, 2])
    assert picked["time"].values.tolist() == [0.5, 0.2]
    assert np.allclose(ds.isel(time=slice(None, None, -1))["time"].values[:2], [9.9, 9.8])


@given(st.data())
def test_lazy_arrays_index_as_numpy_does(draw: st.DataObject) -> None:
    values = np.arange(6 * 7 * 5).reshape(6, 7, 5)

    def read(*indexers: object) -> np.ndarray:
        for indexer in indexers:
            if isinstance(indexer, slice):
                assert indexer.step is None
            else:
                assert (np.diff(indexer) > 0).all()
        return values[
            np.ix_(*(np.arange(n)[i] for n, i in zip(values.shape, indexers, strict=True)))
        ].copy()

    lazy = xr.Variable(
        ("a", "b", "c"), lazy_variable(("a", "b", "c"), read, values.shape, int)._data
    )
    whole = xr.Variable(("a", "b", "c"), values)
    for _ in range(2):
        indexers = {
            dim: draw.draw(
                st.one_of(
                    # (a backward slice of nothing is an IndexError in xarray 2026.9 itself)
                    st.slices(size).filter(lambda s, n=size: len(range(n)[s]) > 0)
                    if size
                    else st.just(slice(None)),
                    st.integers(-size, size - 1) if size else st.just(slice(None)),
                    st.lists(st.integers(-size, size - 1), max_size=4).map(
                        lambda x: np.array(x, dtype=int)
                    )
                    if size
                    else st.just(slice(None)),
                )
            )
            for dim, size in whole.sizes.items()
        }
        lazy, whole = lazy.isel(indexers), whole.isel(indexers)
    assert lazy.dims == whole.dims
    assert np.array_equal(lazy.values, whole.values)


def test_events_round_trip(small: xr.Dataset) -> None:
    table = pd.DataFrame({"onset": [1.0, 2.5], "duration": [0.0, 0.5], "label": ["a", "b"]})
    ds = ps.with_events(small, table)
    assert ps.events_table(ds).to_dict("list") == table.to_dict("list")
    assert len(ps.events_table(small)) == 0


def test_what_is_not_a_dataset_is_refused() -> None:
    with pytest.raises(TypeError, match="open a file with"):
        ps.Pipeline([np.abs])(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no variable 'signal'"):
        ps.Pipeline([np.abs])(xr.Dataset({"eeg": ("time", np.zeros(3))}))
    with pytest.raises(ValueError, match="no regular sampling"):
        ps.sampling_frequency(xr.Dataset({"signal": ("time", np.zeros(3))}))


def test_a_virtual_dataset_agrees_with_itself() -> None:
    ds = virtual_dataset((4, 1000))
    whole = ds.signal.values
    assert np.array_equal(ds.signal[1:3, 10:500:7].values, whole[1:3, 10:500:7])
    assert isinstance(ds.variables["signal"]._data.array, LazyArray)


@pytest.mark.parametrize("frequency", [1000.0, 160.0, 512.5])
def test_times_of_a_store_of_others_are_computed_where_they_are_regular(
    frequency: float, tmp_path: Path
) -> None:
    size = 300_000
    times = 3.25 + np.arange(size) / frequency
    values = np.arange(2 * size, dtype="f4").reshape(2, size)
    coords = {"channel": [0, 1], "time": ("time", times, {"units": "s"})}
    plain = xr.Dataset({"signal": (("channel", "time"), values)}, coords)
    plain.to_zarr(tmp_path / "plain.zarr", zarr_format=3, consolidated=False)
    ds = ps.open_dataset(tmp_path / "plain.zarr")
    assert sampled_index(ds) is not None
    assert np.array_equal(ds.time.values, times)
    part = ds.sel(time=slice(times[7], times[11]), channel=1)
    assert np.array_equal(part.signal.values, values[1, 7:12])
    assert Chain(ds).resident_bytes == 0


def test_times_that_are_not_regular_stay_and_count(tmp_path: Path) -> None:
    times = np.arange(300_000) / 1000.0
    times[150_000] += 1e-4
    plain = xr.Dataset({"signal": (("time",), np.zeros(300_000, "f4"))}, {"time": times})
    plain.to_zarr(tmp_path / "plain.zarr", zarr_format=3, consolidated=False)
    ds = ps.open_dataset(tmp_path / "plain.zarr")
    assert sampled_index(ds) is None
    assert np.array_equal(ds.time.values, times)
    assert Chain(ds).resident_bytes >= times.nbytes


def test_a_large_table_of_events_counts() -> None:
    n = 200_000
    events = pd.DataFrame({"onset": np.arange(n) / 10.0, "duration": 0.0, "label": "stimulus"})
    signal = np.zeros((2, 100), "f4")
    ds = ps.make_dataset(signal, sampling_frequency=1.0, events=events)
    assert Chain(ds).resident_bytes >= ds.event_label.nbytes + 2 * 8 * n
