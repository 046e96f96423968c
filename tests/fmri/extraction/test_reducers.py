"""The kernels behind region signals, against plain loops, scipy.ndimage and numpy.linalg."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.sparse import csr_array

from penstock.fmri.extraction.map_fit import MapFit, map_weights
from penstock.fmri.extraction.reducers import (
    Segments,
    file_order,
    flat_volumes,
    pick_voxels,
    reduce_segments,
)
from penstock.fmri.extraction.weights import Weights

PLAIN = {
    "mean": np.mean,
    "median": np.median,
    "sum": np.sum,
    "minimum": np.min,
    "maximum": np.max,
    "standard_deviation": np.std,
    "variance": np.var,
}


def reduced(volumes, lists, statistic, policy):
    """One region of one volume after the other, in float64."""
    out = np.full((len(volumes), len(lists)), np.nan)
    for row, volume in enumerate(volumes):
        for column, voxels in enumerate(lists):
            values = volume[list(voxels)].astype(float)
            if policy == "zero":
                values[~np.isfinite(values)] = 0
            elif policy == "omit":
                values = values[np.isfinite(values)]
            if len(values):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    out[row, column] = PLAIN[statistic](values)
    return out


# ---------------------------------------------------------------------- segments


@st.composite
def cases(draw):
    n_voxels = draw(st.integers(1, 40))
    region = st.sets(st.integers(0, n_voxels - 1), max_size=n_voxels)
    lists = [sorted(one) for one in draw(st.lists(region, max_size=6))]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    volumes = rng.normal(100, 10, (draw(st.integers(0, 4)), n_voxels))
    volumes = volumes.astype(draw(st.sampled_from(["f4", "f8", "i2"])))
    if volumes.dtype.kind == "f":
        share = draw(st.sampled_from([0, 0.1, 0.7]))
        for bad in (np.nan, np.inf, -np.inf):
            volumes[rng.random(volumes.shape) < share / 3] = bad
    return volumes, lists


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(sorted(PLAIN)), st.sampled_from(["omit", "zero", "propagate"]))
def test_any_segments_reduce_as_a_plain_loop_does(case, statistic, policy):
    volumes, lists = case
    before = volumes.copy()
    found = reduce_segments(volumes, Segments.from_lists(lists), statistic, policy)
    expected = reduced(volumes, lists, statistic, policy)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    assert np.array_equal(volumes, before, equal_nan=volumes.dtype.kind == "f")


@pytest.mark.parametrize("statistic", sorted(PLAIN))
def test_regions_larger_than_what_is_looked_at_at_once(statistic):
    rng = np.random.default_rng(1)
    volumes = rng.normal(1000, 30, (3, 200_000)).astype("f4")
    volumes[1, ::7] = np.nan
    lists = [
        np.arange(150_000),
        rng.choice(200_000, 70_000, replace=False),
        [199_999],
        [],
        np.arange(60_000, 66_000),
    ]
    found = reduce_segments(volumes, Segments.from_lists(lists), statistic)
    expected = reduced(volumes, [np.asarray(one, int) for one in lists], statistic, "omit")
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("statistic", sorted(PLAIN))
def test_the_same_as_scipy_ndimage(statistic):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 12, (9, 8, 7))
    volume = rng.normal(size=(9, 8, 7))
    values = np.unique(labels)[1:]
    segments = Segments.from_labels(file_order(labels), values)
    found = reduce_segments(file_order(volume)[np.newaxis], segments, statistic)[0]
    expected = getattr(ndimage, statistic)(volume, labels, values)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_sums_of_single_precision_are_exact_to_rounding():
    values = np.random.default_rng(3).normal(1e4, 1, (1, 100_000)).astype("f4")
    segments = Segments.from_lists([range(100_000)])
    exact = math.fsum(values[0].tolist())
    assert reduce_segments(values, segments, "sum")[0, 0] == pytest.approx(exact, rel=1e-13)
    spread = math.fsum((v - exact / 1e5) ** 2 for v in values[0].tolist()) / 1e5
    assert reduce_segments(values, segments, "variance")[0, 0] == pytest.approx(spread, rel=1e-12)


def test_values_that_add_up_to_more_than_single_precision_holds():
    values = np.full((1, 3), 3e38, "f4")
    segments = Segments.from_lists([range(3)])
    for statistic in ("mean", "median", "minimum", "maximum"):
        assert reduce_segments(values, segments, statistic)[0, 0] == float(np.float32(3e38))


def test_painting_averages_where_segments_overlap():
    segments = Segments.from_lists([[0, 1], [1, 2], []])
    painted = segments.paint(np.array([[2.0, 4.0, 9.0], [np.nan, 1.0, 9.0]]), 5)
    assert painted[0].tolist() == [2, 3, 4, 0, 0]
    np.testing.assert_array_equal(painted[1], [np.nan, np.nan, 1, 0, 0])


# ---------------------------------------------------------------------- volumes


def in_file_order(shape, loops):
    n = math.prod(loops)
    file = np.arange(n * math.prod(shape), dtype="f4").reshape(*loops, *shape[::-1])
    return file.swapaxes(-1, -3), file.reshape(n, math.prod(shape))


@pytest.mark.parametrize("loops", [(5,), (2, 3), (), (0,)])
def test_volumes_come_in_the_order_of_the_file_without_a_copy(loops):
    block, expected = in_file_order((4, 3, 2), loops)
    parts = list(flat_volumes(block, 1))
    assert all(np.shares_memory(volumes, block) for _, volumes in parts)
    found = np.full_like(expected, -1)
    for rows, volumes in parts:
        found[rows] = volumes
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("n_signals", [1, 40_000])
@pytest.mark.parametrize("change", ["x slowest", "time fastest", "every other", "backwards"])
def test_volumes_in_another_order_are_copied(change, n_signals):
    block, expected = in_file_order((40, 30, 20), (90,))
    if change == "x slowest":
        block = np.ascontiguousarray(block)
    elif change == "time fastest":
        block = np.asfortranarray(block)
    elif change == "every other":
        block, expected = block[::2], expected[::2]
    else:
        block, expected = block[:, ::-1], expected.reshape(90, 20, 30, 40)[..., ::-1]
    found = np.full((len(block), 24000), -1, "f4")
    for rows, volumes in flat_volumes(block, n_signals):
        found[rows] = volumes
    assert np.array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize("policy", ["omit", "zero", "propagate"])
def test_voxels_are_picked_as_they_are(policy):
    volumes = np.array([[1, np.nan, 3, np.inf], [5, 6, 7, 8]], "f4")
    out = np.empty((2, 3), "f4")
    pick_voxels(volumes, np.array([3, 1, 0]), out, policy)
    first = [0, 0, 1] if policy == "zero" else [np.inf, np.nan, 1]
    np.testing.assert_array_equal(out, [first, [8, 6, 5]])


# ---------------------------------------------------------------------- weights


def random_maps(shape, n_maps, density, seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(*shape, n_maps))
    return np.where(rng.random(maps.shape) < density, maps, 0)


def design(maps):
    """The maps as columns, voxels in the order of the file."""
    return maps.transpose(2, 1, 0, 3).reshape(-1, maps.shape[-1])


SHAPE = (20, 21, 22)
N_VOXELS = math.prod(SHAPE)


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_weighted_sums_and_painting_are_matrix_products(density):
    maps = random_maps(SHAPE, 5, density)
    maps[:, :, :4] = 0
    weights = map_weights(np.asfortranarray(maps))
    volumes = np.random.default_rng(1).normal(size=(19, N_VOXELS))
    np.testing.assert_allclose(weights.sums(volumes), volumes @ design(maps), rtol=1e-11)
    signals = np.random.default_rng(2).normal(size=(3, 5))
    np.testing.assert_allclose(weights.paint(signals, N_VOXELS), signals @ design(maps).T)


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_neighbours_do_not_change_the_bits(density):
    squares = MapFit.of(map_weights(random_maps(SHAPE, 7, density)))
    volumes = np.random.default_rng(1).normal(size=(37, N_VOXELS)).astype("f4")
    whole = squares.solve(volumes)
    for rows in (slice(0, 1), slice(5, 22), slice(36, 37), slice(3, 36, 4)):
        assert np.array_equal(squares.solve(volumes[rows]), whole[rows])


def test_weights_of_a_sparse_matrix():
    rng = np.random.default_rng(4)
    dense = rng.normal(size=(6, 150_000)) * (rng.random((6, 150_000)) < 0.01)
    volumes = rng.normal(size=(2, 150_000)).astype("f4")
    found = Weights.from_sparse(csr_array(dense)).sums(volumes)
    np.testing.assert_allclose(found, volumes.astype("f8") @ dense.T, rtol=1e-12)


# ---------------------------------------------------------------------- least squares


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
@pytest.mark.parametrize("density", [0.02, 0.9])
def test_least_squares_as_numpy_solves_them(density, dtype):
    maps = random_maps(SHAPE, 8, density)
    maps[..., 3] *= 1e5  # (the scale of a map is no problem of condition)
    maps[2, 3, 4, 0] = np.nan
    volumes = (np.random.default_rng(1).normal(size=(5, N_VOXELS)) * 100).astype(dtype)
    found = MapFit.of(map_weights(maps)).solve(volumes)
    matrix = np.nan_to_num(design(maps))
    expected = np.linalg.lstsq(matrix, volumes.astype("f8").T, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_a_mask_leaves_voxels_out(density):
    maps = random_maps(SHAPE, 4, density)
    inside = np.random.default_rng(3).random(N_VOXELS) < 0.5
    volumes = np.random.default_rng(1).normal(size=(2, N_VOXELS))
    volumes[:, ~inside] = np.nan
    found = MapFit.of(map_weights(maps, inside)).solve(volumes, "propagate")
    matrix = design(maps)[inside]
    expected = np.linalg.lstsq(matrix, volumes[:, inside].T, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_dependent_maps_get_the_solution_of_least_norm(density):
    maps = random_maps(SHAPE, 5, density)
    maps[..., 4] = maps[..., 0] - 2 * maps[..., 1]
    volumes = np.random.default_rng(1).normal(size=(2, N_VOXELS))
    found = MapFit.of(map_weights(maps)).solve(volumes)
    expected = volumes @ np.linalg.pinv(design(maps), rcond=1e-10).T
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_maps_that_are_nearly_dependent(density):
    maps = random_maps(SHAPE, 5, density)
    maps[..., 4] = maps[..., 0] + 1e-5 * maps[..., 4]
    volumes = np.random.default_rng(1).normal(size=(20, N_VOXELS))
    squares = MapFit.of(map_weights(maps))
    expected = np.linalg.lstsq(design(maps), volumes.T, rcond=None)[0].T
    # (normal equations would be wrong by 1e-6 of the largest)
    assert np.abs(squares.solve(volumes) - expected).max() < 1e-10 * np.abs(expected).max()
    volumes[2, 50:900] = np.nan
    present = np.isfinite(volumes[2])
    some = np.linalg.lstsq(design(maps)[present], volumes[2, present], rcond=None)[0]
    found = squares.solve(volumes)
    assert np.abs(found[2] - some).max() < 1e-10 * np.abs(some).max()
    assert np.array_equal(found[3], squares.solve(volumes[3:4])[0])


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_missing_values_are_left_out_of_the_fit(density):
    maps = random_maps(SHAPE, 4, density)
    maps[..., 3] = 0
    maps[5:7, 5:7, 5:7, 3] = 1.0
    rng = np.random.default_rng(1)
    volumes = rng.normal(size=(6, N_VOXELS)).astype("f4")
    volumes[1, rng.random(N_VOXELS) < 0.3] = np.nan
    volumes[2] = np.where(np.isnan(volumes[1]), np.inf, volumes[2])
    volumes[4, file_order(maps[..., 3]) > 0] = np.nan
    squares = MapFit.of(map_weights(maps))
    found = squares.solve(volumes)
    matrix = design(maps)
    for volume, signals in zip(volumes, found, strict=True):
        present = np.isfinite(volume)
        used = (matrix[present] != 0).any(axis=0)
        kept, values = matrix[present][:, used], volume[present].astype("f8")
        expected = np.linalg.lstsq(kept, values, rcond=None)[0]
        np.testing.assert_allclose(signals[used], expected, rtol=1e-8)
        assert np.isnan(signals[~used]).all()
    assert np.isnan(found).sum() == 1
    zero = squares.solve(volumes, "zero")
    whole = np.nan_to_num(volumes, posinf=0.0).astype("f8")
    expected = np.linalg.lstsq(matrix, whole.T, rcond=None)[0].T
    np.testing.assert_allclose(zero, expected, rtol=1e-8)
    passed_on = squares.solve(volumes, "propagate")
    assert np.isnan(passed_on[[1, 2, 4]]).all()
    assert np.array_equal(passed_on[[0, 3, 5]], found[[0, 3, 5]])


def test_a_map_without_weights_has_no_signal():
    maps = random_maps(SHAPE, 3, 0.5)
    maps[..., 1] = 0
    volumes = np.random.default_rng(1).normal(size=(2, N_VOXELS))
    found = MapFit.of(map_weights(maps)).solve(volumes)
    expected = MapFit.of(map_weights(maps[..., [0, 2]])).solve(volumes)
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(found[:, [0, 2]], expected)
