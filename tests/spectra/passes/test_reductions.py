"""Reductions of positions: values, cuts, memory, NaN, and what they refuse."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import lazy_variable, sampled_index
from penstock.errors import BudgetError
from penstock.memory.accounting import MIB, PROCESS_ALLOWANCE, resident
from penstock.records import Field
from penstock.spectra.passes import passes
from penstock.spectra.passes.reductions import (
    ApplyMasks,
    CentreOfMass,
    ImageReduction,
    MapReduction,
    Mean,
    PositionSum,
    Statistics,
    Sum,
    reduce,
)
from penstock.testing import virtual_dataset

DIMS = ("y", "x", "v", "u")


class Source:
    """A reader that remembers what was asked of it."""

    def __init__(self, values: np.ndarray):
        self.values = values
        self.read: list[tuple[slice, ...]] = []

    def __call__(self, *indexers: slice | np.ndarray) -> np.ndarray:
        self.read.append(indexers)
        for axis, indexer in enumerate(indexers):
            if not isinstance(indexer, slice):
                return np.take(self(*_sliced(indexers, axis)), indexer, axis)
        return self.values[indexers].copy()


def _sliced(indexers: tuple, axis: int) -> tuple:
    return (*indexers[:axis], slice(None), *indexers[axis + 1 :])


def images(shape=(5, 7, 4, 6), dtype="float32", seed=1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) + 3
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return (10 * values).astype(dtype)


def lazy(values: np.ndarray, dims=DIMS, **encoding) -> xr.Dataset:
    source = lazy_variable(dims, Source(values), values.shape, values.dtype, encoding=encoding)
    return ps.make_dataset(source)


@pytest.fixture
def small_pieces(monkeypatch):
    """Cuts of a few positions, several tasks, in data of any size."""

    def use(piece: int = 600, task: int = 1500, block: int = 1700) -> None:
        monkeypatch.setattr(passes, "PIECE_BYTES", piece)
        monkeypatch.setattr(passes, "TASK_BYTES", task)
        monkeypatch.setattr(passes, "BLOCK_BYTES", block)

    use()
    return use


# ---------------------------------------------------------------------- values


def test_many_reductions_read_the_data_once(small_pieces):
    values = images()
    source = Source(values)
    ds = ps.make_dataset(lazy_variable(DIMS, source, values.shape, values.dtype), units="nA")
    masks = np.random.default_rng(0).random((3, 4, 6)).astype("float32")
    out = reduce(
        ds,
        {
            "field": ApplyMasks(masks),
            "total": PositionSum(),
            "sum": Sum(),
            "mean": Mean(),
            "all": Statistics(ddof=1),
            "centre": CentreOfMass(),
        },
    )
    touched = np.zeros(values.shape, int)
    for indexers in source.read:
        touched[indexers] += 1
    assert (touched == 1).all()
    assert len(source.read) > 5

    wide = values.astype("float64")
    expected = {
        "field": np.einsum("yxvu,mvu->yxm", wide, masks),
        "total": wide.sum(axis=(2, 3)),
        "sum": wide.sum(axis=(0, 1)),
        "mean": wide.mean(axis=(0, 1)),
        "all_mean": wide.mean(axis=(0, 1)),
        "all_standard_deviation": wide.std(axis=(0, 1), ddof=1),
        "all_minimum": wide.min(axis=(0, 1)),
        "all_maximum": wide.max(axis=(0, 1)),
        "all_count": np.full((4, 6), 35),
        "centre_v": (wide * np.arange(4)[:, None]).sum(axis=(2, 3)) / wide.sum(axis=(2, 3)),
        "centre_u": (wide * np.arange(6)).sum(axis=(2, 3)) / wide.sum(axis=(2, 3)),
    }
    assert set(out.data_vars) == set(expected)
    for name, values in expected.items():
        tolerance = 1e-6 if name == "field" else 1e-12
        np.testing.assert_allclose(out[name].values, values, rtol=tolerance, err_msg=name)
    assert out["field"].dims == ("y", "x", "mask")
    assert out["field"].dtype == out["all_minimum"].dtype == np.float32
    assert out["sum"].dims == out["all_mean"].dims == ("v", "u")
    assert out["centre_v"].dims == ("y", "x")
    for name in ("field", "total", "sum", "mean", "all_standard_deviation"):
        assert out[name].attrs["units"] == "nA"
    assert out["all_count"].dtype.kind == "i"
    assert "3×4×6" in out["field"].attrs["reduction"]


ORDERS = st.permutations(DIMS)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 4),
    order=ORDERS,
    dtype=st.sampled_from(["float32", "float64", "complex64", "int16", "uint8"]),
    kind=st.sampled_from(["memory", "lazy", "interleaved", "chunked", "dask"]),
    piece=st.integers(1, 800),
    task=st.integers(1, 3000),
    workers=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_cut_gives_the_same(shape, order, dtype, kind, piece, task, workers, seed):
    values = images(shape, dtype, seed)
    rng = np.random.default_rng(seed)
    chunks = {dim: int(rng.integers(1, 4)) for dim in DIMS}
    stored = values.transpose([DIMS.index(dim) for dim in order])
    if kind == "memory":
        ds = ps.make_dataset(stored, order)
    elif kind == "dask":
        ds = ps.make_dataset(dask.array.from_array(stored, tuple(chunks[d] for d in order)), order)
    else:
        encoding = {"interleaved": {"interleaved": True}, "chunked": {"preferred_chunks": chunks}}
        ds = lazy(stored, order, **encoding.get(kind, {}))
    roi = rng.random((*shape[:2],)) < 0.7
    roi[0, 0] = True
    masks = rng.random((2, *shape[2:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "PIECE_BYTES", piece)
        patch.setattr(passes, "TASK_BYTES", task)
        patch.setattr(passes, "BLOCK_BYTES", 2 * piece)
        asked = {"m": ApplyMasks(masks), "p": PositionSum()}
        asked["s"] = Sum(roi=xr.DataArray(roi, dims=("y", "x")))
        if dtype != "complex64":
            asked["t"] = Statistics()
        out = reduce(ds, asked, core_dims=("v", "u"), workers=workers)
    wide = values.astype(np.result_type(dtype, "float64"))
    size = np.abs(wide).sum()
    out = out.transpose("y", "x", "v", "u", "mask", missing_dims="ignore")
    close = lambda found, right: np.testing.assert_allclose(found, right, atol=1e-13 * size)  # noqa: E731
    close(out["m"].values, np.einsum("yxvu,mvu->yxm", wide, masks))
    close(out["p"].values, wide.sum(axis=(2, 3)))
    close(out["s"].values, wide[roi].sum(axis=0))
    if dtype != "complex64":
        close(out["t_mean"].values, wide.mean(axis=(0, 1)))
        close(out["t_standard_deviation"].values ** 2, wide.var(axis=(0, 1)))
        assert np.array_equal(out["t_minimum"].values, values.min(axis=(0, 1)))
        assert np.array_equal(out["t_maximum"].values, values.max(axis=(0, 1)))


@pytest.mark.parametrize("order", [DIMS, ("v", "u", "y", "x")])
def test_any_number_of_workers_gives_the_same_bits(small_pieces, order):
    values = images((9, 8, 4, 6), "float32")
    ds = lazy(values.transpose([DIMS.index(dim) for dim in order]), order)
    asked = {"m": ApplyMasks(np.ones((1, 4, 6), "f4")), "s": Sum(), "t": Statistics()}
    one = reduce(ds, asked, workers=1, core_dims=("v", "u"))
    for workers in (2, 3, 5):
        assert one.identical(reduce(ds, asked, workers=workers, core_dims=("v", "u")))


def test_selected_parts_of_a_lazy_dataset(small_pieces):
    values = images((6, 8, 4, 5))
    ds = lazy(values)
    for selection in (
        {"y": slice(2, 5), "u": slice(1, 4)},
        {"x": slice(None, None, 2)},
        {"y": 3},
        {"v": [0, 3]},
    ):
        part = ds.isel(selection)
        out = reduce(part, {"s": PositionSum()}, core_dims=("v", "u"))
        right = xr.DataArray(values.astype("f8"), dims=DIMS).isel(selection).sum(("v", "u"))
        np.testing.assert_allclose(out["s"].values, right.values, rtol=1e-13)


def test_the_result_of_a_pipeline_can_be_reduced():
    ds = ps.make_dataset(images((4, 3, 5, 6)), DIMS)
    out = reduce(ps.Pipeline([ps.Apply(np.abs, core_dims=())])(ds), {"s": Sum()})
    np.testing.assert_allclose(out["s"].values, np.abs(images((4, 3, 5, 6))).sum((0, 1, 2)), 1e-5)


# ---------------------------------------------------------------------- maps


def test_masks_with_names_in_any_order():
    values = images((3, 4, 5, 6), "float64")
    masks = xr.DataArray(
        np.random.default_rng(2).random((6, 2, 5)),
        dims=("u", "detector", "v"),
        coords={"detector": ["bright", "dark"]},
    )
    ds = ps.make_dataset(values.transpose(2, 0, 3, 1), ("v", "y", "u", "x"))
    out = reduce(ds, {"d": ApplyMasks(masks)})
    right = xr.dot(xr.DataArray(values, dims=DIMS), masks, dim=("u", "v"))
    np.testing.assert_allclose(
        out["d"].sel(detector="dark").values, right.sel(detector="dark").values, rtol=1e-13
    )
    single = reduce(ds, {"d": ApplyMasks(masks.sel(detector="bright", drop=True))})
    assert single["d"].dims == ("y", "x")
    np.testing.assert_allclose(single["d"], right.sel(detector="bright"), rtol=1e-13)


@pytest.mark.parametrize("shape", [(3, 1 << 20), (40, 3000), (9, 40000), (1, 7)])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "int16"])
def test_masks_add_up_in_double_precision(shape, dtype):
    rng = np.random.default_rng(0)
    values = (1e4 + rng.integers(0, 3, shape)).astype(dtype)
    masks = np.stack([np.ones(shape[1]), rng.random(shape[1]) < 0.5]).astype("float32")
    out = reduce(ps.make_dataset(values, ("position", "pixel")), {"m": ApplyMasks(masks)})["m"]
    wide = values.astype("complex128" if dtype == "complex64" else "float64")
    expected = wide @ masks.T.astype("float64")
    rounding = 1e-13 if out.dtype.itemsize == wide.dtype.itemsize else 1e-7
    np.testing.assert_allclose(out, expected, rtol=rounding)


@pytest.mark.parametrize(
    ("data", "masks", "result"),
    [
        ("float32", "float32", "float32"),
        ("float32", "bool", "float32"),
        ("float32", "float64", "float64"),
        ("float16", "bool", "float32"),
        ("uint16", "float32", "float64"),
        ("complex64", "float32", "complex64"),
        ("float64", "complex64", "complex128"),
    ],
)
def test_precision_of_masks(data, masks, result):
    values = np.full((3, 70000), 257, data)
    given_masks = np.ones((1, 70000), masks)
    out = reduce(ps.make_dataset(values, ("position", "pixel")), {"m": ApplyMasks(given_masks)})
    assert out["m"].dtype == result
    # (above 2**24: single precision could not count whole numbers exactly)
    assert np.allclose(out["m"], 257 * 70000, rtol=1e-5)
    if result == "float64":
        assert (out["m"] == 257 * 70000).all()


def test_values_that_are_not_finite():
    values = images((2, 3, 4, 5), "float32")
    values[0, 0, 1, 1] = np.nan
    values[0, 1, 2, 2] = np.inf
    values[1, 2] = np.nan
    ds = ps.make_dataset(values, DIMS)
    mask = np.ones((4, 5), bool)
    mask[1, 1] = False
    asked = {
        "m": ApplyMasks(mask[np.newaxis]),
        "s": PositionSum(),
        "c": CentreOfMass(mask=mask),
        "sum": Sum(),
        "t": Statistics(),
    }
    out = reduce(ds, asked)
    finite = np.where(np.isfinite(values), values, 0).astype("f8")
    assert np.isnan(out["m"].values[1, 2, 0])
    assert np.isnan(out["s"].values[1, 2])
    right = (finite * mask).sum(axis=(2, 3))
    kept = ~np.isnan(out["s"].values)
    assert kept.sum() == 5
    np.testing.assert_allclose(out["m"].values[kept, 0], right[kept], rtol=1e-6)
    np.testing.assert_allclose(out["s"].values[kept], finite.sum(axis=(2, 3))[kept], rtol=1e-12)
    centre = (finite * mask * np.arange(5)).sum(axis=(2, 3)) / np.where(right, right, np.nan)
    np.testing.assert_allclose(out["c_u"].values, centre, rtol=1e-12)
    np.testing.assert_allclose(out["sum"].values, finite.sum(axis=(0, 1)), rtol=1e-12)
    omitted = np.where(np.isfinite(values), values, np.nan).astype("f8")
    np.testing.assert_allclose(out["t_mean"], np.nanmean(omitted, axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(
        out["t_standard_deviation"], np.nanstd(omitted, axis=(0, 1)), rtol=1e-12
    )
    assert np.array_equal(out["t_maximum"], np.nanmax(omitted, axis=(0, 1)))
    assert np.array_equal(out["t_count"], np.isfinite(values).sum(axis=(0, 1)))

    shown = reduce(
        ds,
        {
            "m": ApplyMasks(mask[np.newaxis], nan_policy="propagate"),
            "s": PositionSum(nan_policy="propagate"),
            "mean": Mean(nan_policy="propagate"),
            "t": Statistics(nan_policy="propagate"),
        },
    )
    # a value under no mask never counts
    assert np.isnan(shown["m"].values[..., 0]).tolist() == [
        [False, True, False],
        [False, False, True],
    ]
    assert np.isnan(shown["s"].values).sum() == 3
    assert np.isnan(shown["mean"].values).all()
    assert np.isnan(shown["t_minimum"].values).all()


def test_what_has_no_finite_value_is_nan_and_never_zero():
    values = np.full((3, 2), np.nan)
    values[:, 0] = 1
    out = reduce(
        ps.make_dataset(values, ("position", "bias")),
        {"s": Sum(), "mean": Mean(), "t": Statistics()},
    )
    for name in ("s", "mean", "t_mean", "t_standard_deviation", "t_minimum", "t_maximum"):
        assert np.isfinite(out[name].values[0]), name
        assert np.isnan(out[name].values[1]), name
    assert out["t_count"].values.tolist() == [3, 0]


def test_centre_of_mass_in_the_units_of_the_coordinate():
    frequency = xr.DataArray(1e6 + 0.5 * np.arange(8.0), dims="frequency", attrs={"units": "Hz"})
    weights = np.random.default_rng(3).random((5, 8))
    ds = ps.make_dataset(weights, ("position", "frequency"), coords={"frequency": frequency})
    out = reduce(ds, {"c": CentreOfMass(), "i": CentreOfMass(units="index")})
    index = (weights * np.arange(8)).sum(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(out["i_frequency"], index, rtol=1e-14)
    # to the last digits, far from 0
    np.testing.assert_allclose(out["c_frequency"].values - 1e6, 0.5 * index, atol=2e-10)
    assert out["c_frequency"].attrs["units"] == "Hz"
    assert out["i_frequency"].attrs["units"] == "1"
    empty = reduce(ds * 0, {"c": CentreOfMass()})
    assert np.isnan(empty["c_frequency"].values).all()


# ---------------------------------------------------------------------- images


def test_statistics_far_from_zero_lose_no_digits(small_pieces):
    rng = np.random.default_rng(4)
    deviation = rng.standard_normal((2000, 3))
    ds = ps.make_dataset(1e9 + deviation, ("position", "bias"))
    out = reduce(ds, {"t": Statistics()})
    exact = (1e9 + deviation) - 1e9
    np.testing.assert_allclose(out["t_standard_deviation"], exact.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "int16"])
def test_statistics_of_integers_keep_their_type(dtype):
    values = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    if dtype == "int64":
        values[0, 0] = 2**62 + 1
    out = reduce(ps.make_dataset(values, ("position", "bias")), {"t": Statistics()})
    assert out["t_maximum"].dtype == dtype
    assert np.array_equal(out["t_maximum"], values.max(axis=0))
    assert np.array_equal(out["t_minimum"], values.min(axis=0))


def test_region_of_interest():
    values = images((6, 5, 3, 4), "float64")
    roi = np.random.default_rng(5).random((6, 5)) < 0.4
    ds = ps.make_dataset(values, DIMS)
    asked = {
        "inside": Statistics(roi=xr.DataArray(roi.T, dims=("x", "y"))),
        "outside": Mean(roi=~roi),
        "m": ApplyMasks(np.ones((1, 3, 4))),
    }
    out = reduce(ds, asked)
    np.testing.assert_allclose(out["inside_mean"], values[roi].mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(out["inside_standard_deviation"], values[roi].std(axis=0))
    assert (out["inside_count"] == roi.sum()).all()
    np.testing.assert_allclose(out["outside"], values[~roi].mean(axis=0), rtol=1e-13)


# ---------------------------------------------------------------------- own reductions


@dataclass(frozen=True, eq=False)
class PeakPosition(MapReduction):
    """Where the largest value lies, and how large it is."""

    def fields(self, layout):
        return {"index": Field("int64"), "height": Field(layout.dtype)}

    def kernel(self, piece, prepared, out):
        out["index"][:] = piece.values.argmax(axis=1)
        out["height"][:] = piece.values.max(axis=1)


@dataclass(frozen=True, eq=False)
class Order(ImageReduction):
    """The positions in the order in which they were taken in and merged."""

    def fields(self, layout):
        return {"": Field("int64", ("order",), (layout.n_positions,))}

    def start(self, layout):
        return []

    def accumulate(self, piece, state):
        state += np.arange(layout_size)[piece.positions].tolist()

    def merge(self, first, second):
        return first + second

    def finish(self, state, layout):
        return {"": np.array(state)}


layout_size = 5 * 7


def test_reductions_of_ones_own(small_pieces):
    values = images()
    out = reduce(lazy(values), {"peak": PeakPosition(), "o": Order()}, core_dims=("v", "u"))
    flat = values.reshape(5, 7, -1)
    assert np.array_equal(out["peak_index"], flat.argmax(axis=-1))
    assert np.array_equal(out["peak_height"], flat.max(axis=-1))
    assert out["o"].values.tolist() == list(range(layout_size))


# ---------------------------------------------------------------------- metadata


def test_coordinates_and_attributes_are_carried_over():
    ds = ps.make_dataset(
        np.ones((4, 3, 50)),
        ("y", "x", "time"),
        sampling_frequency=10.0,
        units="V",
        coords={
            "y": ("y", np.arange(4.0), {"units": "um"}),
            "area": (("y", "x"), np.ones((4, 3))),
            "session": 7,
        },
        attrs={"source": "somewhere"},
    )
    out = reduce(ds, {"m": PositionSum(), "mean": Mean()})
    assert out["m"].coords["y"].attrs["units"] == "um"
    assert set(out["m"].coords) == {"y", "area", "session"}
    assert sampled_index(out) is not None
    assert out["mean"].sel(time=slice(1, 2)).sizes["time"] == 11
    assert out.attrs["source"] == "somewhere"
    only = reduce(ds, {"m": PositionSum()})
    assert set(only.dims) == {"y", "x"}


def test_progress_is_shown_when_asked_for(capsys):
    ds = ps.make_dataset(np.ones((4, 5)), ("position", "bias"))
    reduce(ds, {"m": Mean()}, progress=True)
    assert "blocks" in capsys.readouterr().err
    reduce(ds, {"m": Mean()})
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "dims", [("y", "x", "frequency"), ("frequency", "y", "x")], ids=["core last", "core first"]
)
def test_memory_stays_inside_the_budget(dims):
    sizes = {"y": 128, "x": 512, "frequency": 1024}
    ds = virtual_dataset(tuple(sizes[dim] for dim in dims), dims)
    assert ds.signal.nbytes == 256 * MIB
    asked = {"m": ApplyMasks(np.ones((2, 1024), "f4")), "t": Statistics()}
    reduce(ds.isel(y=slice(0, 1)), asked, core_dims="frequency")  # (imports)
    left = 64 * MIB
    memory = resident() + 40 * MIB + left
    tracemalloc.start()
    try:
        out = reduce(ds, asked, core_dims="frequency", memory=memory, workers=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < left
    row = ds.signal.isel(y=5, x=9).values.astype("f8")
    np.testing.assert_allclose(out["m"].isel(y=5, x=9), [row.sum()] * 2, rtol=1e-4, atol=1e-3)


def test_a_result_that_does_not_fit_is_refused_before_anything_is_read():
    ds = virtual_dataset((1000, 1000, 100), ("y", "x", "frequency"), readable=False)
    asked = {"m": ApplyMasks(np.ones((50, 100), "f4"))}
    with pytest.raises(BudgetError, match=r"191 MiB for results .* allow [0-9.]+ [MG]iB"):
        reduce(ds, asked, memory=resident() + 60 * MIB)


def test_a_position_that_does_not_fit_is_refused():
    ds = virtual_dataset((4, 1 << 26), ("y", "frequency"), readable=False)
    with pytest.raises(BudgetError, match="work on a few positions"):
        reduce(ds, {"s": PositionSum()}, memory=resident() + 200 * MIB)


def test_the_memory_that_an_error_names_is_enough():
    ds = virtual_dataset((64, 64, 4096), ("y", "x", "frequency"))
    asked = {"t": Statistics()}
    with pytest.raises(BudgetError) as refused:
        reduce(ds, asked, memory=resident() + PROCESS_ALLOWANCE + MIB)
    words = str(refused.value).split("allow ")[1].split(", or")[0]
    reduce(ds, asked, memory=int(float(words.split()[0]) * MIB) + 4 * MIB)


# ---------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("asked", "kwargs", "sentence"),
    [
        ({"m": ApplyMasks(np.ones((2, 5)))}, {}, r"masks must have the shape \(6,\) .* \(2, 5\)"),
        ({"m": ApplyMasks(np.ones((2, 4, 5)))}, {}, r"must have the shape \(4, 6\) of the dims v"),
        ({"m": ApplyMasks(np.full((1, 6), np.nan))}, {}, "masks must be finite"),
        (
            {"m": ApplyMasks(xr.DataArray(np.ones((2, 6)), dims=("m", "energy")))},
            {"core_dims": "u"},
            "masks must have the dims u",
        ),
        ({"m": ApplyMasks(np.ones((1, 6)), nan_policy="drop")}, {}, "nan_policy must be"),
        (
            {"m": ApplyMasks(xr.DataArray(np.ones((2, 6)), dims=("y", "u")))},
            {"core_dims": "u"},
            "rename that of the data",
        ),
        ({"s": Sum()}, {"core_dims": "energy"}, "no dim 'energy'"),
        ({"s": Sum()}, {"core_dims": DIMS}, "but not all"),
        ({"s": Sum()}, {"core_dims": ("u", "u")}, "named once"),
        ({"s": Sum()}, {"workers": 0}, "workers must be at least 1"),
        ({"s": Sum()}, {"memory": "lots"}, "amount of memory"),
        ({"s": Sum(roi=np.ones((5, 7), bool))}, {}, r"roi must have the shape \(5, 7, 4\)"),
        ({"s": Sum(roi=np.zeros((5, 7, 4), bool))}, {}, "selects no position"),
        ({"s": Sum(roi=np.ones((5, 7, 4)))}, {}, "roi must be boolean"),
        ({"c": CentreOfMass(units="pixel")}, {}, "units must be"),
        ({"u": Sum()}, {}, "name of a dim"),
        ({"a_mean": Mean(), "a": Statistics()}, {}, "name of two results"),
        ({}, {}, "no reductions"),
    ],
)
def test_wrong_input_gets_a_sentence(asked, kwargs, sentence):
    ds = lazy(images())
    with pytest.raises(ValueError, match=sentence) as refused:
        reduce(ds, asked, **kwargs)
    assert "\n" not in str(refused.value)


def test_wrong_types_get_a_sentence():
    ds = ps.make_dataset(images(dtype="complex64"), DIMS)
    with pytest.raises(ValueError, match="take their magnitude first"):
        reduce(ds, {"t": Statistics()})
    with pytest.raises(ValueError, match="take their magnitude first"):
        reduce(ds, {"c": CentreOfMass()})
    with pytest.raises(TypeError, match=r"write Sum\(...\)"):
        reduce(ds, {"s": Sum})
    with pytest.raises(TypeError, match="must be a mapping of names to reductions"):
        reduce(ds, [Sum()])
    with pytest.raises(ValueError, match="data are empty"):
        reduce(ds.isel(y=slice(0, 0)), {"s": Sum()})
    with pytest.raises(ValueError, match="convert them to numbers"):
        reduce(ps.make_dataset(np.array([["a", "b"]]), ("y", "u")), {"s": Sum()})
    names = ps.make_dataset(np.ones((2, 3)), ("y", "u"), coords={"u": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="units='index'"):
        reduce(names, {"c": CentreOfMass()})


def test_an_error_while_reading_reaches_the_user(small_pieces):
    def read(*indexers):
        raise OSError("the disk is gone")

    ds = ps.make_dataset(lazy_variable(DIMS, read, (9, 9, 4, 4), "float32"))
    with pytest.raises(OSError, match="the disk is gone"):
        reduce(ds, {"s": Sum()}, workers=3)


# ---------------------------------------------------------------------- real data


def test_real_spectra(data: Path):
    path = data / "spm" / "BEPFM_32x32x102.npy"
    values = np.load(path).astype("float64")
    ds = ps.open_dataset(path, dims=("y", "x", "frequency"), dtype="float64")
    band = np.zeros((1, 102))
    band[0, 30:60] = 1
    out = reduce(ds, {"band": ApplyMasks(band), "t": Statistics(), "c": CentreOfMass()})
    np.testing.assert_allclose(out["band"].values[..., 0], values[..., 30:60].sum(-1), rtol=1e-12)
    np.testing.assert_allclose(out["t_standard_deviation"], values.std(axis=(0, 1)), rtol=1e-10)
    right = (values * np.arange(102)).sum(-1) / values.sum(-1)
    np.testing.assert_allclose(out["c_frequency"], right, rtol=1e-12)
