"""How arrays lie in stores: volumes as in images, readable by everyone, region by region."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import SIGNAL, Region, lazy_variable, read_region
from penstock.reading import Reading, reading_of
from penstock.storage.store import create_array, open_store, store_layout, write_block, write_store

VOLUMES = ("x", "y", "z", "time")
MIB = 1 << 20


def dataset(values: np.ndarray, dims: tuple[str, ...] = VOLUMES) -> xr.Dataset:
    return ps.make_dataset(values, dims, sampling_frequency=0.5 if "time" in dims else None)


def numbers(shape: tuple[int, ...], dtype: Any = "f4") -> np.ndarray:
    values = np.random.default_rng(0).normal(100, 20, shape)
    return values.astype(dtype)


def written(path: Path, values: np.ndarray, dims: tuple[str, ...], **options: Any) -> xr.Dataset:
    """A store of one array, written by zarr-python."""
    write_store(dataset(np.zeros((1, 1), "f4"), ("channel", "time")), path)
    shutil.rmtree(path / SIGNAL)
    array = zarr.create_array(
        path, name=SIGNAL, shape=values.shape, dtype=values.dtype, dimension_names=dims, **options
    )
    array[...] = values
    return open_store(path)


# ---------------------------------------------------------------------- layout


@st.composite
def shapes_and_blocks(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 400), min_size=3, max_size=4)))
    return shape, tuple(draw(st.integers(1, size)) for size in shape)


@given(shapes_and_blocks(), st.sampled_from([1, 4, 8]), st.booleans())
def test_no_chunk_and_no_shard_lies_across_blocks(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], itemsize: int, volumes: bool
) -> None:
    shape, block = sizes
    chunks, shards = store_layout(shape, block, itemsize, volumes=volumes)
    assert math.prod(chunks) * itemsize <= MIB
    assert math.prod(shards or chunks) * itemsize <= 16 * MIB
    for size, whole, chunk, shard in zip(shape, block, chunks, shards or chunks, strict=True):
        assert shard % chunk == 0
        assert whole % shard == 0 or whole == size


@pytest.mark.parametrize("shape", [(50, 59, 50, 1680), (91, 109, 91, 1200), (64, 64, 33, 200)])
@pytest.mark.parametrize("n_volumes", [8, 16, 56])
def test_chunks_are_slabs_of_runs_of_volumes(shape: tuple[int, ...], n_volumes: int) -> None:
    chunks, shards = store_layout(shape, (*shape[:3], n_volumes), 4, volumes=True)
    assert chunks[:2] == shape[:2]
    assert shape[2] / 10 <= chunks[2] <= shape[2] / 3
    assert chunks[3] > 1
    assert 0.4 * MIB < 4 * math.prod(chunks) <= MIB
    assert shards is not None
    assert all(n >= size for n, size in zip(shards, shape[:3], strict=False))
    assert 2 * MIB < 4 * math.prod(shards) <= 16 * MIB


# ---------------------------------------------------------------------- volumes


@pytest.mark.parametrize("shape", [(20, 24, 18, 45), (20, 24, 18), (200, 200, 20, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_everyone_reads_volumes_as_they_are(
    shape: tuple[int, ...], order: Any, tmp_path: Path
) -> None:
    values = np.asarray(numbers(shape), order=order)
    dims = VOLUMES[: len(shape)]
    path = write_store(dataset(values, dims), tmp_path / "volumes.zarr")
    np.testing.assert_array_equal(zarr.open_array(path, path=SIGNAL, mode="r")[...], values)
    plain = xr.open_zarr(path, consolidated=False)[SIGNAL]
    assert plain.dims == dims
    np.testing.assert_array_equal(plain.values, values)
    np.testing.assert_array_equal(plain.isel(x=3, z=slice(4, 9)), values[3, :, 4:9])
    ds = open_store(path)
    np.testing.assert_array_equal(ds[SIGNAL].values, values)
    assert reading_of(ds[SIGNAL]).interleaved is True


def test_volumes_lie_in_memory_as_in_images(tmp_path: Path) -> None:
    values = numbers((20, 24, 18, 45))
    ds = open_store(write_store(dataset(values), tmp_path / "volumes.zarr"))
    for part in (slice(0, 45), slice(3, 20)):
        block = ds[SIGNAL].isel(time=part).values
        assert block.transpose(3, 2, 1, 0).flags.c_contiguous
        np.testing.assert_array_equal(block, values[..., part])


def test_slabs_of_all_times_are_written_too(tmp_path: Path) -> None:
    values = numbers((9, 10, 16, 30))
    path = write_store(dataset(values), tmp_path / "slabs.zarr")
    for number, axis in enumerate((0, 2)):
        name, unit = f"signal_{number}", (3, 10, 4, 30)[axis]
        block = tuple(unit if i == axis else n for i, n in enumerate(values.shape))
        create_array(path, name, VOLUMES, values.shape, "f4", block)
        for start in range(0, values.shape[axis], unit):
            region: Region = {
                dim: slice(start, start + unit) if i == axis else slice(0, n)
                for i, (dim, n) in enumerate(zip(VOLUMES, values.shape, strict=True))
            }
            at = tuple(region.values())
            write_block(path, name, region, values[at])  # type: ignore[index]
        np.testing.assert_array_equal(zarr.open_array(path, path=name, mode="r")[...], values)
        np.testing.assert_array_equal(open_store(path)[name].values, values)


def test_a_series_read_front_to_back_is_stored_in_one_pass(tmp_path: Path) -> None:
    values = numbers((40, 50, 30, 100))
    starts: list[int] = []

    def read(*indexers: Any) -> np.ndarray:
        assert [i.stop - i.start for i in indexers[:3]] == [40, 50, 30]
        starts.append(indexers[3].start)
        return values[indexers]

    reading = Reading(interleaved=True, sequential=True)
    lazy = lazy_variable(VOLUMES, read, values.shape, values.dtype, reading=reading)
    ds = ps.make_dataset(lazy, sampling_frequency=0.5)
    path = write_store(ds, tmp_path / "once.zarr")
    assert starts == sorted(set(starts))
    assert len(starts) > 1
    np.testing.assert_array_equal(open_store(path)[SIGNAL].values, values)


def test_a_store_without_transposed_chunks_is_read(tmp_path: Path) -> None:
    values = numbers((9, 10, 16, 30))
    compressors = zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
    options = {"chunks": (1, 10, 16, 8), "shards": (3, 10, 16, 8), "compressors": compressors}
    ds = written(tmp_path / "old.zarr", values, VOLUMES, **options)
    np.testing.assert_array_equal(ds[SIGNAL].values, values)
    assert reading_of(ds[SIGNAL]).interleaved is False


# ---------------------------------------------------------------------- reading regions


CODECS = {
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")},
    "plain": {"compressors": None},
    "transposed": {"filters": [zarr.codecs.TransposeCodec(order=(1, 2, 0))]},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "zstd": {},
    "big-endian": {"serializer": zarr.codecs.BytesCodec(endian="big"), "compressors": None},
    "v2 keys": {
        "compressors": None,
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
    },
}


@pytest.fixture(scope="module", params=itertools.product(CODECS, (None, (8, 6, 10))))
def any_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[xr.Dataset, np.ndarray]:
    codec, shards = request.param
    path = tmp_path_factory.mktemp("stores") / "any.zarr"
    values = numbers((13, 11, 17), "i2")
    values[8:, 6:] = 7  # whole chunks and shards of fill value: zarr-python leaves them out
    options = {"chunks": (4, 3, 5), "shards": shards, "fill_value": 7, **CODECS[codec]}
    return written(path, values, ("a", "b", "c"), **options), values


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_region_of_any_store(
    any_store: tuple[xr.Dataset, np.ndarray], data: st.DataObject
) -> None:
    ds, values = any_store
    region: Region = {}
    for dim, size in ds.sizes.items():
        start = data.draw(st.integers(0, size), label=f"{dim} from")
        stop = data.draw(st.integers(start, size), label=f"{dim} to")
        picked = data.draw(st.sets(st.integers(0, size - 1), min_size=1), label=f"{dim} picked")
        as_slice = data.draw(st.booleans(), label=f"{dim} sliced")
        region[str(dim)] = slice(start, stop) if as_slice else np.array(sorted(picked))
    expected = values
    for axis, indexer in enumerate(region.values()):
        expected = expected[(slice(None),) * axis + (indexer,)]
    found = read_region(ds, region)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, expected)


def test_what_is_missing_is_fill_value(tmp_path: Path) -> None:
    ds = written(
        tmp_path / "holes.zarr",
        numbers((6, 40)),
        ("channel", "time"),
        chunks=(2, 10),
        shards=(4, 20),
    )
    values = ds[SIGNAL].values
    (tmp_path / "holes.zarr" / SIGNAL / "c" / "0" / "1").unlink()
    values[:4, 20:] = 0
    np.testing.assert_array_equal(ds[SIGNAL].values, values)


@pytest.mark.parametrize("damage", ["cut", "index", "frame"])
def test_a_damaged_shard_is_named(damage: str, tmp_path: Path) -> None:
    path = write_store(
        dataset(numbers((6, 2_000_000), "f4"), ("channel", "time")), tmp_path / "bad.zarr"
    )
    shard = next(p for p in sorted((path / SIGNAL / "c").rglob("*")) if p.is_file())
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        del content[-5000:]
    elif damage == "index":
        content[-10] ^= 255
    else:
        content[4:8] = b"\xff\xff\xff\xff"
    shard.write_bytes(content)
    with pytest.raises(OSError, match=rf"{shard.name}: damaged"):
        open_store(path)[SIGNAL].isel(time=slice(0, 10)).load()


def test_reading_takes_what_it_declares(tmp_path: Path) -> None:
    import tracemalloc

    values = numbers((40, 50, 30, 200))
    ds = open_store(write_store(dataset(values), tmp_path / "volumes.zarr"))
    region: Region = {**{d: slice(0, ds.sizes[d]) for d in "xyz"}, "time": slice(3, 90)}
    read_region(ds, region)
    tracemalloc.start()
    block = read_region(ds, region)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    declared = reading_of(ds[SIGNAL])
    assert declared.scratch == 0
    assert peak <= block.nbytes + declared.scratch_bytes + 64 * 1024
    assert declared.scratch_bytes < 4 * MIB
