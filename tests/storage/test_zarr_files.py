"""Stores written as files are those that xarray and zarr-python would write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec

import penstock as ps
from penstock.storage.shards import array_format
from penstock.storage.store import create_array, create_group, write_block, write_store
from penstock.storage.zarr_files import read_document, write_plain

NUMBERS = ("bool", "i1", ">i4", "u8", "f2", "f4", ">f8", "c8", "c16")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)


@st.composite
def variables(draw: st.DrawFn) -> xr.Variable:
    """Small variables of one of the usual kinds."""
    dims = draw(st.sampled_from([(), ("a",), ("a", "b")]))
    shape = tuple({"a": 3, "b": 2}[dim] for dim in dims)
    if draw(st.booleans()):
        n = int(np.prod(shape))
        values = np.array(draw(st.lists(TEXTS, min_size=n, max_size=n)), "U4").reshape(shape)
    else:
        dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
        special = [0.0, -0.0, 1.0] + [np.nan, np.inf] * (dtype.kind in "fc")
        values = np.zeros(shape, dtype)
        values[...] = np.resize(draw(st.lists(st.sampled_from(special), min_size=1)), shape)
    return xr.Variable(dims, values, draw(st.sampled_from([{}, {"units": "mV", "n": [1, 2]}])))


@st.composite
def datasets(draw: st.DrawFn) -> xr.Dataset:
    """Datasets of some of them, as coordinates and as data."""
    some = st.dictionaries(st.sampled_from("pqr"), variables(), max_size=3)
    data = {f"data_{name}": variable for name, variable in draw(some).items()}
    ds = xr.Dataset(data, coords=draw(some), attrs={"about": "é", "nested": {"n": [1, None]}})
    if "a" in ds.dims and draw(st.booleans()):
        ds = ds.assign_coords(a=["x", "y", "z"])
    return ds


def contents(store: Path) -> dict[str, object]:
    """Every file of a store: documents as they read, values byte by byte."""
    return {
        path.relative_to(store).as_posix(): json.loads(path.read_text())
        if path.name == "zarr.json"
        else path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }


@given(datasets())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_small_variables_are_the_files_of_xarray(
    tmp_path_factory: pytest.TempPathFactory, ds: xr.Dataset
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    assert write_plain(ds, folder / "ours")
    texts = {
        name: (variable.dims, variable.values.astype(object), variable.attrs)
        for name, variable in ds.variables.items()
        if variable.dtype.kind == "U"
    }
    coords = {name: texts[name] for name in texts if name in ds.coords}
    plain = ds.assign_coords(coords).assign({n: texts[n] for n in texts if n in ds.data_vars})
    plain.to_zarr(folder / "xarray", zarr_format=3, consolidated=False)
    assert contents(folder / "ours") == contents(folder / "xarray")


@pytest.mark.parametrize("dims", [("channel", "time"), ("x", "y", "z", "time"), ("t",)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "?", "c16"])
@pytest.mark.parametrize("compress", [True, False])
def test_arrays_say_of_themselves_what_zarr_would(
    tmp_path: Path, dims: tuple[str, ...], dtype: str, compress: bool
) -> None:
    shape = (20, 300, 40, 7)[: len(dims)]
    create_group(tmp_path / "s", ps.make_dataset(np.zeros((1, 1))), {})
    create_array(
        tmp_path / "s", "v", dims, shape, dtype, shape, {"units": "mV", "n": 1}, compress=compress
    )
    ours = read_document(tmp_path / "s" / "v")
    opened = zarr.open_array(tmp_path / "s" / "v")
    volumes = dims[0] == "x"
    made = zarr.create_array(
        tmp_path / "z",
        shape=shape,
        dtype=dtype,
        chunks=opened.chunks,
        shards=opened.shards,
        filters=[zarr.codecs.TransposeCodec(order=(2, 1, 0, 3))] if volumes else None,
        compressors=BloscCodec(
            cname="lz4", clevel=5, shuffle="shuffle" if volumes else "bitshuffle"
        )
        if compress
        else None,
        fill_value=np.nan if np.dtype(dtype).kind in "fc" else 0,
        dimension_names=dims,
        attributes={"units": "mV", "n": 1},
    )
    assert ours == read_document(tmp_path / "z")
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    write_block(tmp_path / "s", "v", {d: slice(0, n) for d, n in zip(dims, shape)}, values)  # noqa: B905
    made[...] = values
    np.testing.assert_array_equal(opened[...], values)
    form = array_format(ours)
    assert form is not None
    assert form.shape == made.shape
    assert form.chunks == made.chunks


@pytest.mark.parametrize("dtype", [*NUMBERS, "U3"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_variables_without_values_are_the_files_of_xarray(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    empty = xr.Variable(("a", "b")[: len(shape)], np.empty(shape, dtype), {"units": "s"})
    ds = xr.Dataset({"data": empty})
    assert write_plain(ds, tmp_path / "ours")
    read = xr.open_zarr(tmp_path / "ours", consolidated=False)["data"]
    assert read.shape == shape
    if dtype == "U3":  # (of which xarray would make numbers)
        assert read.dtype.kind in "OTU"
        return
    ds.to_zarr(tmp_path / "theirs", zarr_format=3, consolidated=False)
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


def test_a_recording_without_events_is_written_as_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_called(*arguments: object, **options: object) -> None:
        raise AssertionError("xarray wrote it")

    monkeypatch.setattr(xr.Dataset, "to_zarr", not_called)
    ds = ps.make_dataset(np.zeros((2, 50), "f4"), sampling_frequency=10.0)
    none = {"event_onset": np.empty(0), "event_duration": np.empty(0)}
    ds = ds.assign_coords({name: ("event", values) for name, values in none.items()})
    ds = ds.assign_coords(event_label=("event", np.empty(0, "U1")))
    write_store(ds, tmp_path / "a.zarr")
    back = ps.open_dataset(tmp_path / "a.zarr")
    assert back.sizes["event"] == 0
    assert back["event_label"].dtype.kind == "U"
    assert len(ps.events_table(back)) == 0


def test_what_is_not_usual_is_left_to_xarray(tmp_path: Path) -> None:
    ds = ps.make_dataset(
        np.zeros((2, 8), "f4"),
        sampling_frequency=4.0,
        coords={
            "when": ("channel", np.array(["2020-01-01", "2021-06-01"], "M8[ns]")),
            "label": ("channel", ["a", "b"]),
        },
    )
    write_store(ds, tmp_path / "s.zarr")
    xr.testing.assert_equal(ps.open_dataset(tmp_path / "s.zarr"), ds)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, 4]},
        {"shape": ["2", 4]},
        {"shape": None},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4]}}},
        {"fill_value": "0x7fc00000"},
        {"fill_value": {}},
        {"codecs": []},
        {"codecs": [{"name": "transpose", "configuration": {"order": [0, 0]}}]},
        {"data_type": "object"},
        {"data_type": ["float32"]},
        {"zarr_format": 2},
    ],
)
def test_documents_that_are_not_ours_are_not_taken_for_it(
    tmp_path: Path, change: dict[str, object]
) -> None:
    create_array(tmp_path, "v", ("a", "b"), (2, 4), "f4", (2, 4))
    document = read_document(tmp_path / "v")
    assert array_format(document) is not None
    assert array_format({**document, **change}) is None
