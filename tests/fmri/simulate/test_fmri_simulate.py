"""Simulated images: the same values whatever the blocks, and a truth that is really in them."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.fmri.images.images import same_grid
from penstock.fmri.simulate import (
    simulate_fmri,
    simulated_atlas,
    simulated_brain_mask,
    simulated_maps,
    simulated_masks,
    simulated_networks,
)
from penstock.reading import reading_of

SHAPE = (13, 16, 11)
SMALL = {"shape": SHAPE, "n_volumes": 40, "voxel_size": 10.0, "spikes": 0.1, "n_networks": 3}
STILL = {"noise": 0.0, "drift": 0.0, "motion": 0.0, "spikes": 0.0, "n_networks": 0}


@pytest.fixture(scope="module")
def small():
    ds = simulate_fmri(**SMALL, background=0.3)
    return ds, ds.signal.values


# ---------------------------------------------------------------------- blocks do not matter


def indexers(size):
    stretches = st.tuples(st.integers(0, size), st.integers(0, size)).map(
        lambda pair: slice(min(pair), max(pair))
    )
    return stretches | st.lists(st.integers(0, size - 1), max_size=5)


@settings(max_examples=60, deadline=None)
@given(region=st.tuples(*(indexers(n) for n in (*SHAPE, 40))))
def test_any_region_equals_that_part_of_the_whole(small, region):
    ds, whole = small
    read = ds.signal.isel(dict(zip(ds.signal.dims, region, strict=True))).values
    picks = [np.arange(n)[one] for n, one in zip(whole.shape, region, strict=True)]
    np.testing.assert_array_equal(read, whole[np.ix_(*(p.astype(int) for p in picks))])


def test_blocks_lie_in_memory_as_in_a_file(small):
    ds, _ = small
    for block in (ds.signal[..., 3:9].values, ds.signal[2:7, :, 1:4, 5:6].values):
        assert block.transpose(3, 2, 1, 0).flags.c_contiguous
    assert reading_of(ds.signal).interleaved


def test_other_threads_and_copies_give_the_same_values(small):
    ds, whole = small
    copy = pickle.loads(pickle.dumps(ds))
    found: dict[int, np.ndarray] = {}

    def read(volume: int) -> None:
        found[volume] = copy.signal.isel(time=volume).values

    threads = [threading.Thread(target=read, args=(volume,)) for volume in (31, 0, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for volume, values in found.items():
        np.testing.assert_array_equal(values, whole[..., volume])


def test_seed_and_type():
    first, again, other = (simulate_fmri(**SMALL, seed=seed).signal.values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    double = simulate_fmri(**SMALL, seed=1, dtype="float64").signal.values
    assert double.dtype == np.float64
    np.testing.assert_allclose(first, double, rtol=1e-5)


def test_an_image_larger_than_any_memory_opens_at_once():
    with ps.testing.raise_if_computes():
        ds = simulate_fmri((91, 109, 91), 29_000, voxel_size=2.0)
    assert ds.signal.nbytes > 97 * 2**30
    part = ds.signal[40:44, 50:54, 60:63, 28_990:].values
    assert part.shape == (4, 4, 3, 10)
    assert part.std(axis=-1).min() > 0
    assert ps.sampling_frequency(ds) == 0.5


# ---------------------------------------------------------------------- what is in it


def test_the_image_is_what_the_truth_says():
    still = simulate_fmri(**SMALL | STILL).signal.values
    assert (still == still[..., :1]).all()
    baseline = still[..., 0].astype(float)
    ds = simulate_fmri(**SMALL | STILL | {"n_networks": 3, "dtype": "float64"})
    maps = simulated_networks(ds)
    assert same_grid(maps, ds)
    np.testing.assert_allclose(maps.data.max(axis=(0, 1, 2)), 1, atol=0.25)  # (a coarse grid)
    expected = baseline[..., None] * (1 + 0.015 * maps.data.astype(float) @ ds.truth.values)
    np.testing.assert_allclose(ds.signal.values, expected, rtol=1e-6)
    # maps belong to the simulation, not to the volumes that are selected
    assert simulated_networks(ds.isel(time=slice(3, 9))) == maps


def test_networks_are_limited_to_their_band():
    ds = simulate_fmri((4, 4, 4), 500, t_r=1.5)
    power = np.abs(np.fft.rfft(ds.truth.values, axis=1)) ** 2
    frequencies = np.fft.rfftfreq(500, 1.5)
    inside = (frequencies >= 0.01) & (frequencies <= 0.1)
    assert power[:, ~inside].max() < 1e-20 * power.max()
    np.testing.assert_allclose(ds.truth.std("time"), 1)


def test_networks_are_found_again_after_cleaning(small):
    ds = simulate_fmri((25, 30, 25), 300, voxel_size=6.0, n_networks=3, seed=4)
    values = ds.signal.values.reshape(-1, 300).T.astype(float)
    weights = simulated_networks(ds).data.reshape(-1, 3)
    means = values @ (weights**3) / (weights**3).sum(axis=0)
    spikes = np.eye(300)[:, ds.spike.values]
    slow = np.cos(np.pi / 300 * np.outer(np.arange(300) + 0.5, np.arange(12)))
    nuisance = np.hstack([ds.confounds.values, spikes, slow])
    means -= nuisance @ np.linalg.lstsq(nuisance, means)[0]
    for mean, truth in zip(means.T, ds.truth.values, strict=True):
        assert np.corrcoef(mean, truth)[0, 1] > 0.85


def test_movements_leak_as_displacements_of_the_image():
    still = simulate_fmri(**SMALL | STILL | {"dtype": "float64"}).signal.values[..., 0]
    options = {"motion": 0.5, "n_volumes": 300, "dtype": "float64"}
    ds = simulate_fmri(**SMALL | STILL | options)
    table = ds.confounds.to_pandas()
    assert list(table.columns) == ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    np.testing.assert_allclose(table.std(ddof=0), [0.5] * 3 + [0.01] * 3)
    changes = (ds.signal.values - still[..., None]).reshape(-1, 300).T
    fitted, residual, *_ = np.linalg.lstsq(table.to_numpy(), changes)
    assert changes.std() > 1
    np.testing.assert_allclose(residual, 0, atol=1e-10)
    brain = simulated_brain_mask(ds).data
    for k in range(3):
        slope = np.gradient(still, 10.0, axis=k)
        np.testing.assert_allclose(-fitted[k].reshape(SHAPE)[brain], slope[brain], atol=1e-6)
    # nodding (about x) moves the front up: there it brings what lay below
    place = np.array(np.nonzero(brain)).T @ ds.affine.values[:3, :3].T + ds.affine.values[:3, 3]
    shifts = -np.stack([np.gradient(still, 10.0, axis=k)[brain] for k in range(3)], axis=1)
    expected = place[:, 1] * shifts[:, 2] - place[:, 2] * shifts[:, 1]
    np.testing.assert_allclose(fitted[3].reshape(SHAPE)[brain], expected, atol=1e-3)


def test_every_disturbance_is_what_its_parameter_says():
    still = simulate_fmri(**SMALL | STILL).signal.values
    brain = simulated_brain_mask(simulate_fmri(**SMALL)).data
    noise = (simulate_fmri(**SMALL | STILL | {"noise": 2.0}).signal.values - still)[brain]
    assert noise.std() == pytest.approx(20, rel=0.02)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.15

    drift = simulate_fmri(**SMALL | STILL | {"drift": 2.0, "n_volumes": 400}).signal.values[brain]
    power = np.abs(np.fft.rfft((drift - drift.mean(axis=1, keepdims=True)), axis=1)) ** 2
    assert power[:, np.fft.rfftfreq(400, 2.0) < 0.01].sum() > 0.95 * power.sum()
    assert (drift.std(axis=1) / drift.mean(axis=1)).mean() == pytest.approx(0.02, rel=0.4)

    ds = simulate_fmri(**SMALL | STILL | {"spikes": 0.1, "seed": 3})
    means = np.abs(ds.signal.values[brain].mean(axis=0) / still[brain].mean() - 1)
    assert 0 < ds.spike.values.sum() < 12
    np.testing.assert_array_equal(means > 0.03, ds.spike.values)


def test_options_do_not_change_what_others_draw(small):
    _, whole = small
    plain = simulate_fmri(**SMALL).signal.values
    brain = simulated_brain_mask(SHAPE).data
    np.testing.assert_array_equal(plain[brain], whole[brain])
    assert (plain[~brain] == 0).all()
    outside = whole[~brain]
    assert outside.min() > 0
    assert np.sqrt((outside**2).mean()) == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (5, 5)}, "shape must be three whole numbers"),
        ({"shape": (5, 5, 5.5)}, "shape must be three whole numbers"),
        ({"n_volumes": 0}, "n_volumes must be positive"),
        ({"n_volumes": 1.5}, "n_volumes must be a whole number"),
        ({"t_r": -1.0}, "t_r must be positive"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"spikes": 2.0}, "spikes must be a fraction"),
        ({"dtype": "int16"}, "dtype must be float32 or float64"),
    ],
)
def test_wrong_parameters_get_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_fmri(**SMALL | options)


def test_short_runs():
    for n_volumes in (1, 2, 3):
        ds = simulate_fmri(SHAPE, n_volumes)
        assert np.isfinite(ds.signal.values).all()
        assert np.isfinite(ds.truth.values).all()


# ---------------------------------------------------------------------- images that go with it


def test_an_atlas_divides_the_brain_into_regions_of_similar_size():
    ds = simulate_fmri(n_volumes=2)
    atlas, brain = simulated_atlas(ds, 100), simulated_brain_mask(ds)
    assert same_grid(atlas, ds)
    np.testing.assert_array_equal(atlas.data > 0, brain.data)
    labels, sizes = np.unique(atlas.data[brain.data], return_counts=True)
    np.testing.assert_array_equal(labels, np.arange(1, 101))
    assert sizes.min() > 0.5 * sizes.mean()
    assert sizes.max() < 2 * sizes.mean()
    x = np.indices(atlas.shape)[0]
    centres = [x[atlas.data == label].mean() for label in labels]
    assert np.all(np.diff(centres) > -1)  # from left to right
    assert atlas == simulated_atlas(ds, 100)
    assert atlas != simulated_atlas(ds, 100, seed=1)
    with pytest.raises(ValueError, match="n_labels must be from 1"):
        simulated_atlas(SHAPE, 10**6)


def test_masks_and_maps_lie_in_the_brain():
    brain = simulated_brain_mask().data
    masks = simulated_masks()
    sizes = [int(mask.data.sum()) for mask in masks]
    assert len(masks) == 20
    assert 1000 <= min(sizes) < max(sizes) <= 2800
    assert not any((mask.data & ~brain).any() for mask in masks)
    assert any((a.data & b.data).any() for a in masks for b in masks if a is not b)
    maps = simulated_maps(n=12)
    assert maps.shape == (50, 59, 50, 12)
    assert not maps.data[~brain].any()
    assert 0 <= maps.data.min() < 0.9 < maps.data.max(axis=(0, 1, 2)).min()
    assert np.linalg.cond(maps.data.reshape(-1, 12)) < 10
    assert ((maps.data > 0).sum(axis=3) > 1).any()  # they overlap


def test_networks_are_only_known_of_simulations():
    with pytest.raises(ValueError, match="not simulated"):
        simulated_networks(ps.make_dataset(np.zeros((2, 2, 2)), ("x", "y", "z")))
    with pytest.raises(ValueError, match="n_networks=0"):
        simulated_networks(simulate_fmri(**SMALL | STILL))
