"""Plots of regions, carpets and cleaning: what is drawn where, and what is read for it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.fmri.images.images import SpatialImage, to_nibabel
from penstock.fmri.plots.carpet import plot_carpet
from penstock.fmri.plots.cleaning import plot_cleaning
from penstock.fmri.plots.regions import mean_of_few, plot_regions
from penstock.fmri.plots.report_figures import extraction_figures
from penstock.fmri.simulate import simulate_fmri, simulated_atlas, simulated_masks

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

SHAPE = (12, 14, 10)
AFFINE = np.array([[3.0, 0, 0, -16], [0, 3.0, 0, -20], [0, 0, 4.0, -18], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def stored_otherwise(image: SpatialImage, order: tuple[int, ...], flips: tuple[bool, ...]):
    """The same world, with the axes of the array in another order and direction."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    data = image.data.transpose(*order, *range(3, image.data.ndim))
    for new, old in enumerate(order):
        matrix[old, new] = 1
    for axis in range(3):
        if flips[axis]:
            data = np.flip(data, axis)
            turn = np.eye(4)
            turn[axis, axis], turn[axis, 3] = -1, data.shape[axis] - 1
            matrix = matrix @ turn
    return SpatialImage(np.ascontiguousarray(data), image.affine @ matrix)


def drawn(ax):
    """World positions (n, 2) of coloured pixels on top of a plane, and their colours."""
    image = ax.get_images()[-1]
    pixels = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    rows, columns = np.nonzero(pixels[..., 3])
    x = left + (columns + 0.5) * (right - left) / pixels.shape[1]
    y = bottom + (rows + 0.5) * (top - bottom) / pixels.shape[0]
    return np.stack([x, y], axis=1), pixels[rows, columns]


def lines_of(ax):
    return [line for line in ax.collections if isinstance(line, LineCollection)]


# ---------------------------------------------------------------------- regions


def test_voxels_are_drawn_where_they_are_in_the_world():
    data = np.zeros(SHAPE, bool)
    data[9, 3, 7] = True
    place = AFFINE[:3] @ [9, 3, 7, 1]
    assert place[0] > 0 > place[1]
    axes = plot_regions(SpatialImage(data, AFFINE))
    for axis, ax in enumerate(axes):
        across = [other for other in range(3) if other != axis]
        points, _ = drawn(ax)
        np.testing.assert_allclose(points, [place[across]])
        assert ax.get_xlabel() == f"{'xyz'[across[0]]} [mm]"
        assert ax.get_ylabel() == f"{'xyz'[across[1]]} [mm]"
        low, high = ax.get_xlim()
        assert low < high
    assert [ax.get_title() for ax in axes] == ["x = 11 mm", "y = −11 mm", "z = 10 mm"]
    sides = {text.get_text(): text.get_position()[0] for text in axes[2].texts}
    assert sides["L"] < 0.5 < sides["R"]
    sides = {text.get_text(): text.get_position()[0] for text in axes[0].texts}
    assert sides["P"] < 0.5 < sides["A"]


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    kind=st.sampled_from(["labels", "mask", "maps", "values"]),
)
def test_the_order_of_the_voxels_does_not_change_the_picture(order, flips, kind):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, SHAPE).astype("i2")
    values = {
        "labels": labels,
        "mask": labels > 2,
        "maps": rng.random((*SHAPE, 3)).astype("f4"),
        "values": rng.standard_normal(SHAPE),
    }[kind]
    image, beneath = SpatialImage(values, AFFINE), SpatialImage(rng.random(SHAPE), AFFINE)
    first = plot_regions(image, beneath, kind=kind)
    second = plot_regions(
        stored_otherwise(image, tuple(order), flips),
        stored_otherwise(beneath, tuple(order), flips),
        kind=kind,
    )
    for a, b in zip(first, second, strict=True):
        assert a.get_title() == b.get_title()
        np.testing.assert_allclose(a.get_xlim(), b.get_xlim())
        np.testing.assert_allclose(a.get_ylim(), b.get_ylim())
        for one, other in zip(a.get_images(), b.get_images(), strict=True):
            np.testing.assert_array_equal(
                np.ma.filled(one.get_array(), -9), np.ma.filled(other.get_array(), -9)
            )
            np.testing.assert_allclose(one.get_extent(), other.get_extent())
    plt.close("all")


def test_oblique_images_are_drawn_in_the_world_as_well():
    angle = 0.4
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0] * 3]
    )
    affine = np.eye(4)
    affine[:3, :3] = 3 * (turn + np.diag([0, 0, 1]))
    data = np.zeros((20, 20, 20), bool)
    data[13:16, 4:7, 9:12] = True
    centre = affine[:3] @ [14, 5, 10, 1]
    for axis, ax in enumerate(plot_regions(SpatialImage(data, affine))):
        across = [other for other in range(3) if other != axis]
        points, _ = drawn(ax)
        assert np.abs(points.mean(axis=0) - centre[across]).max() < 1.5


def test_cuts_are_chosen_where_most_is_seen_or_taken_as_given():
    i, j, k = np.indices(SHAPE)
    ball = (i - 8) ** 2 + (j - 4) ** 2 + (k - 6) ** 2 <= 9
    image = SpatialImage(ball, AFFINE)
    titles = [ax.get_title() for ax in plot_regions(image)]
    centre = AFFINE[:3] @ [8, 4, 6, 1]
    expected = [f"{dim} = {where:g} mm" for dim, where in zip("xyz", centre, strict=True)]
    assert [title.replace("−", "-") for title in titles] == expected
    assert plot_regions(image, cuts=(None, -10.4, None))[1].get_title() == "y = −11 mm"
    assert plot_regions(image, cuts={"y": -5.6})[1].get_title() == "y = −5 mm"
    with pytest.raises(ValueError, match="the cut at z = 900 mm lies outside"):
        plot_regions(image, cuts={"z": 900})
    with pytest.raises(ValueError, match="not along 'a'"):
        plot_regions(image, cuts={"a": 1})
    with pytest.raises(ValueError, match="three coordinates"):
        plot_regions(image, cuts=(1, 2))


def test_neighbouring_labels_have_different_colours():
    atlas = simulated_atlas((30, 36, 30), 60)
    ax = plot_regions(atlas, alpha=1.0, cuts=(0, 0, 0))[2]
    pixels = np.asarray(ax.get_images()[-1].get_array())
    image = ax.get_images()[-1]
    left, right, bottom, top = image.get_extent()
    # pixels are voxels here: labels of the plane in the same order
    shape = pixels.shape[:2]
    x = left + (np.arange(shape[1]) + 0.5) * (right - left) / shape[1]
    y = bottom + (np.arange(shape[0]) + 0.5) * (top - bottom) / shape[0]
    inverse = np.linalg.inv(atlas.affine)
    z = float(ax.get_title().split()[2].replace("−", "-"))
    points = np.stack([*np.meshgrid(x, y), np.full(shape, z), np.ones(shape)], axis=-1)
    voxels = np.rint(points @ inverse.T).astype(int)[..., :3]
    inside = ((voxels >= 0) & (voxels < atlas.shape)).all(axis=-1)
    labels = np.where(
        inside,
        atlas.data[tuple(np.clip(voxels, 0, np.array(atlas.shape) - 1).transpose(2, 0, 1))],
        0,
    )
    np.testing.assert_array_equal(pixels[..., 3] > 0, labels > 0)
    colors = pixels[..., :3]
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        touching = (labels[a] != labels[b]) & (labels[a] > 0) & (labels[b] > 0)
        assert touching.sum() > 20
        assert (colors[a][touching] != colors[b][touching]).any(axis=-1).all()
    for label in np.unique(labels[labels > 0]):
        assert len(np.unique(colors[labels == label], axis=0)) == 1


def test_masks_have_outlines_and_names():
    masks = simulated_masks((30, 36, 30), 4, sizes=(900, 1200), seed=2)
    axes = plot_regions(masks, names=["motor", "visual", "auditory", "insula"])
    assert len(lines_of(axes[0])) == 4
    listed = [text.get_text() for text in axes[2].get_legend().get_texts()]
    assert listed
    assert set(listed) <= {"motor", "visual", "auditory", "insula"}
    # the outline of a single square voxel has its four edges, where it lies
    data = np.zeros((5, 5, 5), bool)
    data[3, 1, 2] = True
    ax = plot_regions(SpatialImage(data, np.eye(4)))[2]
    corners = np.concatenate(lines_of(ax)[0].get_segments())
    assert len(corners) == 8
    np.testing.assert_allclose(corners.min(axis=0), [2.5, 0.5])
    np.testing.assert_allclose(corners.max(axis=0), [3.5, 1.5])
    assert ax.get_legend() is None


def test_labels_keep_their_names_and_values_get_a_scale():
    labels = np.zeros(SHAPE, "i2")
    labels[2:5], labels[7:10] = 17, 53
    ax = plot_regions(SpatialImage(labels, AFFINE), names={53: "Right-Hippocampus"})[2]
    listed = [text.get_text() for text in ax.get_legend().get_texts()]
    assert listed == ["17", "Right-Hippocampus"]
    values = np.random.default_rng(0).standard_normal(SHAPE)
    axes = plot_regions(SpatialImage(values, AFFINE))
    limits = axes[0].get_images()[-1].get_clim()
    assert limits == (-np.abs(values).max(), np.abs(values).max())
    assert len(axes[0].figure.axes) == 4  # (the scale)


def test_what_cannot_be_drawn_together_is_told():
    mask = SpatialImage(np.ones(SHAPE, bool), AFFINE)
    labels = SpatialImage(np.arange(np.prod(SHAPE)).reshape(SHAPE) % 5, AFFINE)
    maps = SpatialImage(np.ones((*SHAPE, 2)), AFFINE)
    for regions, options, message in [
        ([mask, labels], {}, "only where all of them are masks"),
        ([], {}, "the list of images is empty"),
        (SpatialImage(np.zeros(SHAPE), AFFINE), {}, "0 everywhere"),
        (maps, {"kind": "labels"}, "does not fit to an image with 4 dims"),
        (labels, {"kind": "maps"}, "does not fit to an image with 3 dims"),
        (labels, {"kind": "atlas"}, "must be 'mask', 'labels'"),
        (labels, {"names": ["a"]}, "there are 4 regions"),
        (labels, {"alpha": 2}, "alpha must be from 0 to 1"),
        (labels, {"ax": [plt.gca()]}, "3 planes to draw, but 1 axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot_regions(regions, **options)


def test_a_background_is_the_mean_of_a_few_volumes(tmp_path):
    ds = simulate_fmri((12, 14, 12), 200)
    values, reads = ds.signal.values, []

    def read(*region):
        reads.append(region[-1])
        return values[np.ix_(*(np.arange(n)[i] for n, i in zip(values.shape, region, strict=True)))]

    lazy = lazy_variable(ds.signal.dims, read, values.shape, "float32")
    found = mean_of_few(ds.assign(signal=lazy), 5)
    taken = np.concatenate([np.arange(200)[one] for one in reads])
    np.testing.assert_array_equal(taken, [0, 50, 100, 149, 199])
    np.testing.assert_allclose(found.data, values[..., taken].mean(axis=3), rtol=1e-5)
    np.testing.assert_array_equal(found.affine, ds.affine.values)
    assert mean_of_few(found) is found

    image = to_nibabel(SpatialImage(values, ds.affine.values))
    image.to_filename(tmp_path / "bold.nii.gz")
    for given_as in (tmp_path / "bold.nii.gz", str(tmp_path / "bold.nii.gz"), image):
        np.testing.assert_allclose(
            mean_of_few(given_as, 5).data, values[..., :5].mean(axis=3), rtol=1e-5
        )
    with pytest.raises(FileNotFoundError, match="no such file"):
        mean_of_few(tmp_path / "none.nii")
    drawn_on = plot_regions(simulated_atlas(ds, 4), tmp_path / "bold.nii.gz")
    assert len(drawn_on[0].get_images()) == 2


def test_given_axes_are_used():
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert plot_regions(simulated_atlas((12, 14, 12), 4), ax=axes) == tuple(axes)
    assert not plt.get_fignums()


# ---------------------------------------------------------------------- carpet


def signals(n_times=60, n_regions=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_times, n_regions)) * np.arange(1, n_regions + 1) + 100


def standardized(values):
    return (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)


def carpet_of(ax):
    return np.ma.filled(ax.get_images()[0].get_array(), np.nan)


def test_a_carpet_shows_every_region_in_its_standard_deviations():
    values = signals()
    kept = values.copy()
    ax = plot_carpet(values, t_r=2.0)
    np.testing.assert_array_equal(values, kept)
    np.testing.assert_allclose(carpet_of(ax), standardized(values).T)
    assert ax.get_images()[0].get_extent() == [0, 120, 8, 0]
    assert ax.get_xlabel() == "time [s]"
    frame = ax.figure.axes[0]
    average = next(a for a in frame.child_axes if a.get_ylabel().startswith("global"))
    x, y = average.lines[0].get_data()
    np.testing.assert_allclose(x, np.arange(60) * 2 + 1)
    np.testing.assert_allclose(y, standardized(values).mean(axis=1))


def test_carpets_of_datasets_arrays_and_tables_are_the_same():
    values = signals()
    names = [f"r{k}" for k in range(8)]
    ds = ps.make_dataset(
        values.T, ("region", "time"), sampling_frequency=0.5, coords={"region": names}
    )
    expected = carpet_of(plot_carpet(values))
    others = [ds, ds.signal, ds.signal.T, ds.chunk(time=7, region=3)]
    for other in [*others, pd.DataFrame(values, columns=names)]:
        np.testing.assert_allclose(carpet_of(plot_carpet(other)), expected)
    assert plot_carpet(ds).get_xlabel() == "time [s]"
    assert plot_carpet(values).get_xlabel() == "volume"
    # censored: no longer evenly spaced
    assert plot_carpet(ds.isel(time=[0, 1, 2, 5, 6, 7, 12])).get_xlabel() == "volume"
    assert plot_carpet(values, t_r=15.0).get_xlabel() == "time [min]"


@pytest.mark.parametrize("chunks", [{}, {"region": 4100, "time": 100}])
def test_a_large_carpet_is_read_by_stretches_and_averaged(chunks, monkeypatch):
    monkeypatch.setattr("penstock.fmri.plots.series.TILE_BYTES", 2 << 20)
    n, t = 4100, 1600
    values = np.random.default_rng(1).standard_normal((n, t)).astype("f4")
    values += np.sin(np.arange(t) / 50) * np.linspace(-3, 3, n)[:, None] + 50
    largest = 0

    def read(rows, times):
        nonlocal largest
        part = values[rows, times]
        largest = max(largest, part.size * 8)
        return part.copy()

    encoding = {"preferred_chunks": chunks}
    lazy = lazy_variable(("region", "time"), read, values.shape, "float32", encoding=encoding)
    with ps.testing.raise_if_computes():
        ax = plot_carpet(ps.make_dataset(lazy, sampling_frequency=1.0))
    chunk = 8 * np.prod(list(chunks.values())) if chunks else 0
    assert largest <= max(2 << 20, chunk)
    image = carpet_of(ax)
    assert image.shape == (800, 1500)
    z = standardized(values.astype(float).T).T
    rows = np.arange(n) * 800 // n
    columns = np.searchsorted(np.linspace(0, t, 1501).astype(int), np.arange(t), "right") - 1
    for row, column in itertools.product((0, 17, 799), (0, 700, 1499)):
        part = z[np.ix_(rows == row, columns == column)]
        assert image[row, column] == pytest.approx(part.mean(), abs=1e-5)


def test_values_that_are_missing_or_do_not_change():
    values = signals()
    values[:, 1] = 1e8
    values[10:20, 2] = np.nan
    values[:, 3] = np.inf
    image = carpet_of(plot_carpet(values))
    assert (image[1] == 0).all()
    assert np.isnan(image[2, 10:20]).all()
    rest = np.delete(values[:, 2], np.s_[10:20])
    np.testing.assert_allclose(np.delete(image[2], np.s_[10:20]), standardized(rest))
    assert np.isnan(image[3]).all()


def test_regions_are_ordered_by_label_group_or_similarity():
    values = signals()
    names = ["r10", "r9", "r2", "r1", "r30", "r3", "r4", "r5"]
    ds = ps.make_dataset(
        values.T,
        ("region", "time"),
        coords={"region": names, "network": ("region", list("babababa"))},
    )
    z = standardized(values).T
    order = [3, 2, 5, 6, 7, 1, 0, 4]
    np.testing.assert_allclose(carpet_of(plot_carpet(ds, order="label")), z[order])
    first = [k for k in range(8) if k % 2 == 0]
    second = [k for k in range(8) if k % 2]
    ax = plot_carpet(ds, groups="network")
    np.testing.assert_allclose(carpet_of(ax), z[first + second])
    strip = next(a for a in ax.figure.axes[0].child_axes if len(a.patches) == 2)
    assert [text.get_text() for text in strip.get_yticklabels()] == ["b", "a"]
    numbered = plot_carpet(ds, groups=[2, 10] * 4, order="label")
    np.testing.assert_allclose(carpet_of(numbered), z[[2, 6, 0, 4, 3, 5, 7, 1]])

    course = np.random.default_rng(5).standard_normal((60, 2))
    mixed = course[:, [0, 1, 0, 1, 0, 1, 0, 1]] + 0.1 * values / values.std(axis=0)
    image = carpet_of(plot_carpet(mixed, order="cluster"))
    halves = np.corrcoef(image)
    assert halves[:4, :4].min() > 0.9
    assert halves[4:, 4:].min() > 0.9


def test_confounds_are_drawn_above_the_carpet():
    ds = simulate_fmri((4, 4, 4), 60)
    table = ds.confounds.to_pandas().assign(csf=np.arange(60.0))
    ax = plot_carpet(signals(), confounds=table)
    shown = {a.get_ylabel(): a for a in ax.figure.axes[0].child_axes if a.lines}
    assert list(shown) == [
        "translation\n[mm]",
        "rotation\n[rad]",
        "confounds\n[SD]",
        "global\nsignal\n[SD]",
    ]
    np.testing.assert_allclose(
        shown["rotation\n[rad]"].lines[1].get_ydata(), ds.confounds.sel(confound="rot_y")
    )
    ax = plot_carpet(signals(), confounds={"FD [mm]": np.arange(60)}, ax=Figure().subplots())
    frame = ax.figure.axes[0]
    assert frame.child_axes[-2].get_ylabel() == "FD\n[mm]"
    plot_carpet(signals(), confounds=ds.confounds)


def test_carpets_that_cannot_be_drawn():
    values = signals()
    for given_as, options, message in [
        (values[0], {}, "must be an array"),
        (values[..., None], {}, "must be an array"),
        (xr.DataArray(np.ones((3, 4)), dims=("a", "b")), {}, "must have the dims time and region"),
        (values.astype(str), {}, "must be real numbers"),
        (values, {"order": "size"}, "must be 'label', 'cluster' or None"),
        (values, {"groups": ["a"]}, "1 groups for 8 regions"),
        (values, {"groups": "network"}, "no such coordinate"),
        (values, {"confounds": np.ones((5, 2))}, "but there are 60 volumes"),
        (values, {"t_r": 0}, "t_r must be positive"),
        (np.ones((2, 4001)), {"order": "cluster"}, "up to 4,000 regions, not 4,001"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot_carpet(given_as, **options)


# ---------------------------------------------------------------------- cleaning


def cleaned(n_times=400, n_regions=6, t_r=2.0):
    """Signals of 0.05 Hz with a confound, before and after it was taken out."""
    rng = np.random.default_rng(2)
    times = np.arange(n_times) * t_r
    confound = np.cumsum(rng.standard_normal((n_times, 2)), axis=0)
    wanted = np.sin(2 * np.pi * (0.05 * times[:, None] + rng.random(n_regions)))
    before = wanted + confound @ rng.standard_normal((2, n_regions))
    basis = np.column_stack([confound, np.ones(n_times)])
    after = before - basis @ np.linalg.lstsq(basis, before)[0]
    return before, after, confound


def test_cleaning_is_compared_in_courses_spectra_and_correlations():
    before, after, confound = cleaned()
    axes = plot_cleaning(
        before, after, t_r=2.0, regions=[4, "1"], band=(0.01, 0.1), confounds=confound
    )
    assert len(axes) == 4
    for ax, number in zip(axes[:2], (4, 1), strict=True):
        assert ax.get_title("left") == f"region {number}"
        for line, values in zip(ax.lines, (before, after), strict=True):
            x, y = line.get_data()
            np.testing.assert_array_equal(x, np.arange(300) * 2 / 60)  # (minutes, the first 300)
            z = (values[:, number] - values[:, number].mean()) / values[:, number].std()
            np.testing.assert_allclose(y, z[:300])
    assert axes[1].get_xlabel() == "time [min]"

    spectra = {line.get_label(): line.get_data() for line in axes[2].lines}
    frequency, power = spectra["after"]
    assert frequency[np.argmax(power)] == pytest.approx(0.05, abs=0.003)
    assert spectra["before"][0][np.argmax(spectra["before"][1])] < 0.01
    band = axes[2].patches[0].get_extents().transformed(axes[2].transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.01, 0.1))

    texts = [text.get_text() for text in axes[3].get_legend().get_texts()]
    expected = np.corrcoef(before.T, confound.T)[:6, 6:]
    assert texts[0] == f"before (median |r| {np.median(np.abs(expected)):.2f})"
    assert texts[1] == "after (median |r| 0.00)"


def test_censored_volumes_are_gaps():
    before, after, confound = cleaned(100)
    whole = ps.make_dataset(before.T, ("region", "time"), sampling_frequency=0.5)
    kept = np.delete(np.arange(100), [30, 31])
    shorter = ps.make_dataset(after.T, ("region", "time"), sampling_frequency=0.5)
    shorter = shorter.isel(time=kept)
    axes = plot_cleaning(whole, shorter, confounds=confound, span=(20, 90))
    x, y = axes[0].lines[1].get_data()
    assert (x[0], x[-1]) == (20, 88)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(y)), [20, 21])
    assert [line.get_label() for line in axes[3].lines] == ["before"]
    with pytest.raises(ValueError, match="no time coordinate says which"):
        plot_cleaning(before, after[kept], t_r=2.0)
    moved = shorter.assign_coords(time=shorter.time.values + 0.7)
    with pytest.raises(ValueError, match="are not among those before"):
        plot_cleaning(whole, moved)


def test_cleaning_that_cannot_be_compared():
    before, after, confound = cleaned(100)
    for arguments, options, message in [
        ((before, after[:, :3]), {}, "6 regions before and 3 after"),
        ((before, after), {"t_r": None}, "the repetition time is not known"),
        ((before, after), {"confounds": confound[:50]}, "but there are 100 volumes"),
        ((before, after), {"span": (900, 901)}, "holds no two volumes"),
        ((before, after), {"regions": "amygdala"}, "there is no region 'amygdala'"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot_cleaning(*arguments, **{"t_r": 2.0} | options)
    with pytest.raises(IndexError, match="they go from 0 to 5"):
        plot_cleaning(before, after, t_r=2.0, regions=[6])


def test_cleaning_is_drawn_into_part_of_a_figure():
    before, after, _ = cleaned(100)
    part = Figure().subfigures(1, 2)[1]
    axes = plot_cleaning(before, after, t_r=2.0, figure=part)
    assert all(ax.figure is part for ax in axes)


# ---------------------------------------------------------------------- reports


@pytest.mark.parametrize("shape", [(20, 100), (1, 30), (3, 1)])
def test_reports_get_two_pictures(shape):
    values = np.random.default_rng(0).standard_normal(shape)
    ds = ps.make_dataset(values, ("region", "time"), sampling_frequency=0.5)
    figures = extraction_figures(ds)
    assert [title for title, _ in figures] == ["Carpet plot", "Time courses"]
    for _, png in figures:
        assert png.startswith(b"\x89PNG\r\n")
        assert len(png) > 2000
    assert not plt.get_fignums()


def test_without_matplotlib_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    before, after, _ = cleaned(100)
    for draw in (
        lambda: plot_regions(simulated_atlas((12, 14, 12), 4)),
        lambda: plot_carpet(before),
        lambda: plot_cleaning(before, after, t_r=2.0),
        lambda: extraction_figures(ps.make_dataset(before.T, ("region", "time"))),
    ):
        with pytest.raises(ImportError, match='pip install "matplotlib"'):
            draw()
