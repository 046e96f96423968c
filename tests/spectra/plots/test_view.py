"""Plots of maps and spectra: what is drawn, what is written beside it, what is read for it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.spectra.fitting.fit import Fit
from penstock.spectra.fitting.models import Gaussian
from penstock.spectra.peaks.processor import FindPeaksCWT
from penstock.spectra.plots.explorer import explore
from penstock.spectra.plots.view import plot_map, plot_position

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.backend_bases import MouseEvent, NavigationToolbar2

STATUS = {"flag_values": [1, 2, 4], "flag_meanings": "converged failed at_bound"}
FREQUENCY = np.linspace(3.0e5, 3.4e5, 41)


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def metres(dim: str, n: int, step: float = 1e-6) -> xr.Variable:
    return xr.Variable((dim,), np.arange(n) * step, {"units": "m"})


@pytest.fixture
def results() -> xr.Dataset:
    rng = np.random.default_rng(0)
    plane = ("y", "x")
    status = np.ones((4, 5), "u1")
    status[1, 2], status[0, 0], status[3, 4] = 2, 4, 0
    frequency = rng.uniform(3.1e5, 3.2e5, (4, 5))
    frequency[1, 2], frequency[2, 0] = np.nan, np.inf
    return xr.Dataset(
        {
            "frequency": (plane, frequency, {"units": "Hz", "long_name": "resonance frequency"}),
            "status": (plane, status, STATUS),
            "count": (plane, rng.integers(0, 4, (4, 5))),
            "labels": (plane, rng.integers(-1, 3, (4, 5)).astype("i4")),
            "maps": ((*plane, "component"), rng.normal(size=(4, 5, 3))),
            "covariance": ((*plane, "parameter", "bias"), rng.normal(size=(4, 5, 2, 3))),
            "spectrum": (plane, np.ones((4, 5), complex)),
            "inertia": ((), 3.0),
        },
        {
            "y": metres("y", 4),
            "x": metres("x", 5),
            "parameter": ["amplitude", "center"],
            "bias": ("bias", [-1.0, 0.0, 2.5], {"units": "V"}),
        },
    )


@pytest.fixture
def ds() -> xr.Dataset:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 5, 41)) * 1e-3
    coords = {"y": metres("y", 4), "x": metres("x", 5)}
    coords["frequency"] = xr.Variable(("frequency",), FREQUENCY, {"units": "Hz"})
    return ps.make_dataset(values, ("y", "x", "frequency"), units="V", coords=coords)


def ticks(axis: Any) -> list[str]:
    axis.get_figure().canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels()]


def bar_of(artist: Any) -> Any:
    return artist.colorbar.ax


def is_grey(color: np.ndarray) -> bool:
    return bool(color[0] == color[1] == color[2] and 0.5 < color[0] < 0.9)


class Counted:
    """A lazy dataset that notes how many values each read asks for."""

    def __init__(self, ds: xr.Dataset, name: str = "signal") -> None:
        self.reads: list[int] = []
        values = ds[name].values

        def read(*indexers: Any) -> np.ndarray:
            block = values[np.ix_(*(np.r_[i] for i in indexers))]
            self.reads.append(block.size)
            return block

        lazy = lazy_variable(ds[name].dims, read, values.shape, values.dtype, ds[name].attrs)
        self.dataset = ds.assign({name: lazy})


# ---------------------------------------------------------------------- maps


def test_map_has_values_at_their_places_with_units(results: xr.Dataset) -> None:
    ax = plot_map(results, "frequency", robust=False)
    (image,) = ax.images
    values = results.frequency.values
    finite = np.isfinite(values)
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), ~finite)
    np.testing.assert_array_equal(np.asarray(image.get_array())[finite], values[finite])
    np.testing.assert_allclose(image.get_extent(), [-0.5e-6, 4.5e-6, -0.5e-6, 3.5e-6])
    assert image.origin == "lower"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [µm]", "y [µm]")
    assert ax.get_aspect() == 1
    assert set(ticks(ax.xaxis)) >= {"0", "2", "4"}
    assert bar_of(image).get_ylabel() == "resonance frequency [kHz]"
    assert all(310 <= float(text) <= 320 for text in ticks(bar_of(image).yaxis))
    assert (image.norm.vmin, image.norm.vmax) == (values[finite].min(), values[finite].max())


def test_failed_positions_are_grey_and_counted(results: xr.Dataset) -> None:
    ax = plot_map(results, "frequency")
    colors = ax.images[0].to_rgba(ax.images[0].get_array())
    assert [tuple(p) for p in np.argwhere([[is_grey(c) for c in row] for row in colors])] == [
        (1, 2),
        (2, 0),
    ]
    assert ax.get_title(loc="left") == "grey: 2 of 20 without a value"


def test_robust_colours_leave_out_outliers() -> None:
    values = np.arange(100.0).reshape(10, 10)
    values[0, 0] = 1e6
    array = xr.DataArray(values, dims=("y", "x"), name="height")
    norm = plot_map(array).images[0].norm
    assert (norm.vmin, norm.vmax) == tuple(np.percentile(values, (2, 98)))
    norm = plot_map(array, robust=False).images[0].norm
    assert (norm.vmin, norm.vmax) == (1, 1e6)


@pytest.mark.parametrize("value", [5.0, 0.0, np.nan])
def test_maps_of_one_value_and_of_none(value: float) -> None:
    ax = plot_map(xr.DataArray(np.full((3, 3), value), dims=("y", "x"), name="flat"))
    ax.figure.canvas.draw()
    norm = ax.images[0].norm
    assert norm.vmin < norm.vmax
    assert ("9 of 9" in ax.get_title(loc="left")) == np.isnan(value)


def test_status_has_a_colour_for_each_meaning(results: xr.Dataset) -> None:
    ax = plot_map(results, "status")
    (image,) = ax.images
    assert ticks(bar_of(image).yaxis) == ["converged", "failed", "at bound"]
    colors = {
        status: image.to_rgba(image.get_array())[results.status.values == status]
        for status in (0, 1, 2, 4)
    }
    assert is_grey(colors[0][0])
    assert all(len(np.unique(group, axis=0)) == 1 for group in colors.values())
    assert len({tuple(group[0]) for group in colors.values()}) == 4
    assert ax.get_title(loc="left") == "grey: 1 of 20 without a value"


def test_whole_numbers_have_a_colour_each(results: xr.Dataset) -> None:
    results = results.drop_vars("status")
    (image,) = plot_map(results, "count").images
    assert ticks(bar_of(image).yaxis) == ["0", "1", "2", "3"]
    (image,) = plot_map(results, "labels").images
    assert ticks(bar_of(image).yaxis) == ["0", "1", "2"]
    missing = np.ma.getmaskarray(image.get_array())
    np.testing.assert_array_equal(missing, results["labels"].values == -1)
    (image,) = plot_map(results["count"] > 1).images
    assert ticks(bar_of(image).yaxis) == ["False", "True"]
    many = xr.DataArray(np.arange(100).reshape(10, 10), dims=("y", "x"), name="index")
    assert len(set(ticks(bar_of(plot_map(many).images[0]).yaxis))) < 12


@pytest.mark.parametrize(
    ("name", "selection"),
    [("count", {}), ("labels", {}), ("maps", {"component": 0}), ("covariance", {"parameter": 0})],
)
def test_positions_that_failed_are_grey(results: xr.Dataset, name: str, selection: Any) -> None:
    results["maps"][1, 2] = 1e30
    results["labels"] = abs(results["labels"])
    results = results.isel(bias=[1])
    ax = plot_map(results, name, robust=False, **selection)
    hidden = np.ma.getmaskarray(ax.images[0].get_array())
    np.testing.assert_array_equal(hidden, results["status"].values == 2)
    assert ax.images[0].norm.vmax < 10
    assert ax.get_title(loc="left").endswith("grey: 1 of 20 without a value")


def test_infinite_values_are_grey_and_stretch_no_colours(results: xr.Dataset) -> None:
    (image,) = plot_map(results, "frequency", robust=False).images
    hidden = np.ma.getmaskarray(image.get_array())
    np.testing.assert_array_equal(hidden, ~np.isfinite(results["frequency"].values))
    shown = results["frequency"].values[~hidden]
    assert (image.norm.vmin, image.norm.vmax) == (shown.min(), shown.max())


def test_dims_of_one_entry_are_no_choice(results: xr.Dataset) -> None:
    several = results["maps"].isel(component=[0]).expand_dims(repeat=1)
    (image,) = plot_map(several).images
    np.testing.assert_array_equal(image.get_array(), results["maps"].isel(component=0))
    column = results.isel(x=[2])
    with pytest.raises(ValueError, match="choose one entry of component"):
        plot_map(column, "maps")
    (image,) = plot_map(column.isel(component=[1]), "maps").images
    assert image.get_array().shape == (4, 1)


def test_a_spectrum_without_values_keeps_its_axis(ds: xr.Dataset, results: xr.Dataset) -> None:
    ds["signal"][0, 1] = np.nan
    ds["signal"][0, 2, 10:] = np.nan
    explorer = explore(ds, results, "count")
    for position in ((0, 1), (0, 2)):
        explorer.show(position)
        for ax in (plot_position(ds, position), *explorer.spectrum_axes):
            low, high = ax.get_xlim()
            assert 0.9 * FREQUENCY[0] < low <= FREQUENCY[0]
            assert FREQUENCY[-1] <= high < 1.1 * FREQUENCY[-1]


def test_the_position_to_write_is_plain_text(ds: xr.Dataset) -> None:
    known = ds.assign_attrs(position_dims=np.array(["y", "x"]))
    with pytest.raises(ValueError, match=r"give position={'y': 0, ...}") as refused:
        plot_position(known)
    assert "np." not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "selection", "index", "title"),
    [
        ("maps", {"component": 1}, {"component": 1}, "component 1"),
        ("maps", {"component": -1}, {"component": 2}, "component 2"),
        (
            "covariance",
            {"parameter": "center", "bias": 2.0},
            {"parameter": 1, "bias": 2},
            "parameter center, bias 2.5 V",
        ),
        (
            "covariance",
            {"parameter": 0, "bias": 0},
            {"parameter": 0, "bias": 0},
            "parameter amplitude, bias −1 V",
        ),
    ],
)
def test_entries_of_further_dims(
    results: xr.Dataset, name: str, selection: Any, index: Any, title: str
) -> None:
    results = results.drop_vars("status")
    ax = plot_map(results, name, **selection)
    expected = results[name].isel(index).values
    np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert ax.get_title(loc="left") == title
    drawn = plot_map(results[name].isel(index)).images[0].get_array()
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("name", "selection", "sentence"),
    [
        ("frequancy", {}, "no 'frequancy': did you mean 'frequency'"),
        (None, {}, "name one of the results: there are frequency, status"),
        ("maps", {}, r"choose one entry of component, .* component=0\)"),
        ("maps", {"component": 3}, "no component 3, it goes from 0 to 2"),
        ("maps", {"peak": 0}, "no dim 'peak' .*its dims are y, x, component"),
        ("maps", {"component": slice(2)}, "must be one entry; cut the results before"),
        ("maps", {"component": True}, "must be a whole number"),
        ("maps", {"component": 0.5}, "no values of 'component' to select by"),
        ("covariance", {"parameter": "sigma", "bias": 0}, "never 'sigma', it is one of amplitude"),
        ("covariance", {"parameter": 0, "bias": 40.0}, "outside of its values, .* -1 to 2.5 V"),
        ("spectrum", {}, "complex; plot abs"),
        ("inertia", {}, "a single number"),
        ("parameter", {}, "cannot be drawn as numbers"),
    ],
)
def test_maps_that_cannot_be_drawn(
    results: xr.Dataset, name: str, selection: Any, sentence: str
) -> None:
    with pytest.raises((ValueError, TypeError, IndexError), match=sentence):
        plot_map(results, name, **selection)
    assert not plt.get_fignums()


def test_x_is_horizontal_where_the_other_is_y(results: xr.Dataset) -> None:
    ax = plot_map(results.frequency.transpose("x", "y").rename(x="X", y="Y"))
    np.testing.assert_array_equal(
        np.ma.filled(ax.images[0].get_array(), 0),
        np.where(np.isfinite(results.frequency), results.frequency, 0),
    )
    assert ax.get_xlabel() == "X [µm]"
    turned = results.frequency.transpose("x", "y").rename(x="row", y="column")
    assert plot_map(turned).get_ylabel() == "row [µm]"


def test_coordinates_that_are_no_axes_are_counted() -> None:
    array = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("y", "x"), name="height")
    for values, note in [
        ([0, 1, 1, 2], "x (index: its values repeat)"),
        ([0, 2, 1, 3], "x (index: its values are not in order)"),
        ([0, 1, np.nan, 3], "x (index: its values are not finite)"),
    ]:
        ax = plot_map(array.assign_coords(x=("x", values, {"units": "m"})))
        assert ax.get_xlabel() == note
        np.testing.assert_allclose(ax.images[0].get_extent(), [-0.5, 3.5, -0.5, 2.5])
    assert ticks(plot_map(array.assign_coords(x=list("abcd"))).xaxis) == list("abcd")
    assert set(ticks(plot_map(array).xaxis)) >= {"0", "1", "2", "3"}


def test_decreasing_and_uneven_coordinates_keep_their_places() -> None:
    array = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("y", "x"), name="height")
    (image,) = plot_map(array.assign_coords(y=[4.0, 2.0, 0.0])).images
    np.testing.assert_array_equal(image.get_array(), array.values[::-1])
    np.testing.assert_allclose(image.get_extent()[2:], [-1, 5])
    ax = plot_map(array.assign_coords(x=[0.0, 1.0, 3.0, 7.0]))
    (mesh,) = ax.collections
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [-0.5, 0.5, 2, 5, 9])
    np.testing.assert_array_equal(mesh.get_array(), array.values)


def test_axes_of_different_kinds_are_not_drawn_to_scale() -> None:
    array = xr.DataArray(
        np.zeros((3, 4)),
        {"bias": ("bias", [0.0, 1, 2], {"units": "V"}), "x": metres("x", 4, 1e-9)},
        ("bias", "x"),
    )
    ax = plot_map(array)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("x [nm]", "bias [V]", "auto")
    long = xr.DataArray(
        np.zeros((2, 500)), {"y": metres("y", 2, 1e-9), "x": metres("x", 500)}, ("y", "x")
    )
    ax = plot_map(long)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("x [µm]", "y [nm]", "auto")


@pytest.mark.parametrize(
    ("units", "largest", "label"),
    [
        ("V", 3e-5, "v [µV]"),
        ("nm", 5000.0, "v [µm]"),
        ("uV", 50.0, "v [µV]"),
        ("s", 5000.0, "v [s]"),
        ("V Hz-2", 20.0, "v [V Hz⁻²]"),
        ("counts", 5e7, "v [$10^{6}$ counts]"),
        ("1", 0.5, "v"),
        (None, 3.0, "v"),
    ],
)
def test_units_get_readable_prefixes(units: str | None, largest: float, label: str) -> None:
    attrs = {} if units is None else {"units": units}
    array = xr.DataArray([[0.0, largest]], dims=("y", "x"), name="v", attrs=attrs)
    (image,) = plot_map(array, robust=False).images
    assert bar_of(image).get_ylabel() == label
    assert max(len(text) for text in ticks(bar_of(image).yaxis)) <= 5


def test_narrow_ranges_have_no_offset() -> None:
    values = 3.2e5 + np.linspace(0, 3, 20).reshape(4, 5)
    array = xr.DataArray(values, dims=("y", "x"), name="f", attrs={"units": "Hz"})
    bar = bar_of(plot_map(array, robust=False).images[0])
    shown = [float(text) for text in ticks(bar.yaxis)]
    np.testing.assert_allclose(np.array(shown) * 1e3, bar.get_yticks(), atol=1e-3)
    assert bar.yaxis.get_offset_text().get_text() == ""


def test_scattered_positions_lie_where_they_are() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 1e-6, (2, 30))
    height = rng.normal(size=30)
    height[4] = np.nan
    along = {"x": ("position", x, {"units": "m"}), "y": ("position", y, {"units": "m"})}
    results = xr.Dataset(
        {
            "height": ("position", height),
            "maps": (("position", "component"), rng.normal(size=(30, 2))),
        },
        along,
    )
    ax = plot_map(results, "height")
    (points,) = ax.collections
    np.testing.assert_array_equal(points.get_offsets(), np.stack([x, y], axis=1))
    np.testing.assert_array_equal(np.ma.getmaskarray(points.get_array()), np.isnan(height))
    ax.figure.canvas.draw()
    assert is_grey(points.get_facecolors()[4])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("x [nm]", "y [nm]", 1)
    with pytest.raises(ValueError, match="choose one entry of component"):
        plot_map(results, "maps")
    (points,) = plot_map(results, "maps", component=1).collections
    np.testing.assert_array_equal(points.get_array(), results.maps.values[:, 1])


def test_positions_along_one_dim_are_a_line(results: xr.Dataset) -> None:
    ax = plot_map(results.isel(y=1), "frequency")
    values = results.frequency.values[1]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), results.x.values)
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), results.x.values[np.isnan(values)])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [µm]", "resonance frequency [kHz]")
    assert ax.get_title(loc="left") == "y 1 µm\ngrey: 1 of 5 without a value"
    assert ticks(plot_map(results.isel(y=1), "status").yaxis) == ["converged", "failed", "at bound"]


def test_given_axes_are_drawn_into(results: xr.Dataset) -> None:
    _, axes = plt.subplots(1, 2)
    assert plot_map(results, "status", ax=axes[1]) is axes[1]
    assert not axes[0].images


def test_only_the_map_is_read(results: xr.Dataset) -> None:
    counted = Counted(results, "maps")
    plot_map(counted.dataset, "maps", component=2)
    assert counted.reads == [20]
    chunked = results.chunk(component=1)
    with ps.testing.raise_if_computes(), pytest.raises(ValueError, match="choose one entry"):
        plot_map(chunked, "maps")


def test_without_matplotlib_there_is_one_sentence(
    results: xr.Dataset, ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (
        lambda: plot_map(results, "frequency"),
        lambda: plot_position(ds, (0, 0)),
        lambda: explore(ds, results, "frequency"),
    ):
        with pytest.raises(ImportError, match='pip install "matplotlib"'):
            draw()


# ---------------------------------------------------------------------- one position


def test_spectrum_with_units(ds: xr.Dataset) -> None:
    ax = plot_position(ds, {"x": 2, "y": 1})
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), FREQUENCY)
    np.testing.assert_array_equal(line.get_ydata(), ds.signal.values[1, 2])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("frequency [kHz]", "signal [mV]")
    assert ax.get_title(loc="left") == "y[1] = 1 µm, x[2] = 2 µm"
    assert set(ticks(ax.xaxis)) >= {"300", "320", "340"}


@pytest.mark.parametrize(
    "given",
    [
        {"position": (1, 2)},
        {"position": [1, -3]},
        {"position": np.array([1, 2])},
        {"position": {"y": 1, "x": 2}},
        {"sel": {"y": 1.2e-6, "x": 2e-6}},
        {"position": {"y": 1}, "sel": {"x": 1.9e-6}},
    ],
)
def test_ways_to_name_a_position(ds: xr.Dataset, given: Any) -> None:
    line = plot_position(ds, **given).lines[0]
    np.testing.assert_array_equal(line.get_ydata(), ds.signal.values[1, 2])


def test_tuples_follow_the_dims_of_the_positions(ds: xr.Dataset) -> None:
    turned = ds.transpose("frequency", "y", "x").assign_attrs(position_dims=["y", "x"])
    line = plot_position(turned, (1, 2)).lines[0]
    np.testing.assert_array_equal(line.get_ydata(), ds.signal.values[1, 2])
    stacked = ds.stack(position=("y", "x")).transpose("position", "frequency")
    ax = plot_position(stacked, 7)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), ds.signal.values[1, 2])
    assert ax.get_title(loc="left") == "position[7]: y = 1 µm, x = 2 µm"
    line = plot_position(stacked, sel={"y": 1.1e-6, "x": 2.2e-6}).lines[0]
    np.testing.assert_array_equal(line.get_ydata(), ds.signal.values[1, 2])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "which position"),
        ({"position": (1, 5)}, "no x 5, it goes from 0 to 4"),
        ({"position": (1, 2.0)}, "x=2.0 must be a whole number"),
        ({"position": (1, 2, 3)}, "has 3 entries, but the positions have the dims y, x"),
        ({"position": {"z": 1}}, "no dim 'z', but y, x, frequency"),
        ({"position": {"y": 1}, "sel": {"y": 0.0}}, "given twice"),
        ({"sel": {"y": 1.0}}, "outside of its values, which go from 0 to 3e-06 m"),
        ({"position": (1, 2), "complex_as": "polar"}, "'magnitude' or 'real'"),
        ({"position": (1, 2), "fit": Fit("gaussian")}, "fit= needs the results"),
    ],
)
def test_positions_that_are_none(ds: xr.Dataset, given: Any, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError, IndexError), match=sentence):
        plot_position(ds, **given)
    assert not plt.get_fignums()


def test_results_of_other_data_are_refused(ds: xr.Dataset, results: xr.Dataset) -> None:
    fit = Fit("gaussian")
    with pytest.raises(ValueError, match="have 2 positions along 'y', the data 4"):
        plot_position(ds, (1, 2), results=results.isel(y=slice(2)))
    with pytest.raises(ValueError, match="none of the dims y, x"):
        plot_position(ds, (1, 2), results=results[["inertia"]])
    with pytest.raises(ValueError, match="'amplitude', a parameter of Gaussian"):
        plot_position(ds, (1, 2), results=results, fit=fit)
    with pytest.raises(ValueError, match="index along x is not given"):
        plot_position(ds, {"y": 1}, results=results, fit=fit)
    named = Fit("gaussian", core_dim="frequency")
    with pytest.raises(ValueError, match="fit is along 'frequency'"):
        plot_position(ds.rename(frequency="bias"), (1, 2), results=results, fit=named)
    with pytest.raises(TypeError, match="must be a Fit, or a function"):
        plot_position(ds, (1, 2), results=results, fit="gaussian")
    with pytest.raises(ValueError, match="the curve at a position has shape"):
        plot_position(ds, (1, 2), results=results, fit=lambda here, x: x[:3])
    with pytest.raises(ValueError, match="curve is complex"):
        plot_position(ds, (1, 2), results=results, fit=lambda here, x: 1j * x)


def test_complex_spectra(ds: xr.Dataset) -> None:
    values = ds.signal.values * np.exp(1j * np.linspace(0, 6, 41))
    ds = ds.assign(signal=ds.signal.copy(data=values))
    upper, lower = plot_position(ds, (3, 4))
    np.testing.assert_allclose(upper.lines[0].get_ydata(), np.abs(values[3, 4]))
    np.testing.assert_allclose(lower.lines[0].get_ydata(), np.angle(values[3, 4]))
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("magnitude [mV]", "phase [rad]")
    assert (upper.get_xlabel(), lower.get_xlabel()) == ("", "frequency [kHz]")
    assert [t for t in ticks(lower.yaxis) if t] == ["−π", "0", "π"]
    ax = plot_position(ds, (3, 4), complex_as="real")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values[3, 4].real)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), values[3, 4].imag)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["real", "imaginary"]
    with pytest.raises(ValueError, match=r"2 plots .* but 1 axes are given: pass ax=\(ax0, ax1\)"):
        plot_position(ds, (3, 4), ax=ax)


def test_fitted_curve_and_its_parameters(ds: xr.Dataset) -> None:
    centers = np.linspace(3.1e5, 3.3e5, 20).reshape(4, 5)
    noise = ds.signal.values * 0.1
    peaks = 2e-3 * np.exp(-((FREQUENCY - centers[..., np.newaxis]) ** 2) / 2 / 5e3**2) + noise
    ds = ds.assign(signal=ds.signal.copy(data=peaks))
    fit = Fit("gaussian")
    results = ps.Pipeline([fit])(ds).compute(scheduler="sync")
    ax = plot_position(ds, (1, 2), results=results, fit=fit)
    data, curve = ax.lines
    np.testing.assert_array_equal(data.get_ydata(), peaks[1, 2])
    here = results.isel(y=1, x=2)
    parameters = [float(here[name]) for name in Gaussian.parameter_names]
    np.testing.assert_allclose(curve.get_ydata(), Gaussian()(curve.get_xdata(), *parameters))
    assert (curve.get_xdata()[0], curve.get_xdata()[-1]) == (FREQUENCY[0], FREQUENCY[-1])
    text = ax.get_legend().get_texts()[1].get_text().splitlines()
    assert text[0] == "fit (converged)"
    assert [line.split(" = ")[0] for line in text[1:]] == list(Gaussian.parameter_names)
    value, error = float(here.center), float(here.center_error)
    shown, spread = text[2].removeprefix("center = ").removesuffix(" kHz").split(" ± ")
    assert abs(float(shown) * 1e3 - value) < 0.06 * error
    assert abs(float(spread) * 1e3 - error) < 0.06 * error


def test_any_curve_lists_values_with_errors(ds: xr.Dataset) -> None:
    plane = np.ones((4, 5))
    results = xr.Dataset(
        {
            "height": (("y", "x"), 2e-3 * plane, {"units": "V"}),
            "height_error": (("y", "x"), 5e-5 * plane, {"units": "V"}),
            "center": (("y", "x"), 320123.4 * plane, {"units": "Hz"}),
            "center_error": (("y", "x"), 41.2 * plane),
            "quality": (("y", "x"), 150.0 * plane, {"units": "1"}),
            "quality_error": (("y", "x"), np.inf * plane),
            "other": (("y", "x"), plane),
            "status": (("y", "x"), np.full((4, 5), 4, "u1"), STATUS),
        }
    )
    ax = plot_position(ds, (0, 1), results=results, fit=lambda here, x: float(here.height) + 0 * x)
    assert (ax.lines[1].get_ydata() == 2e-3).all()
    assert ax.get_legend().get_texts()[1].get_text().splitlines() == [
        "fit (at bound)",
        "height = 2.000 ± 0.050 mV",
        "center = 320.123 ± 0.041 kHz",
        "quality = 150 ± ∞",
    ]


def test_failed_fits_say_so(ds: xr.Dataset) -> None:
    ds.signal.values[1, 2, 5] = np.nan
    fit = Fit("gaussian", nan_policy="propagate")
    results = ps.Pipeline([fit])(ds).compute(scheduler="sync")
    ax = plot_position(ds, (1, 2), results=results, fit=fit)
    assert ax.get_legend().get_texts()[1].get_text() == "fit (failed)"
    assert np.isnan(ax.lines[1].get_ydata()).all()
    assert ax.get_title(loc="left").endswith("\n1 of 41 values are not finite")


def test_fitted_phase_is_not_joined_across_a_turn(ds: xr.Dataset) -> None:
    ds = ds.assign(signal=ds.signal.astype(complex))
    results = xr.Dataset({"rate": (("y", "x"), np.full((4, 5), 1e-3))})
    _, lower = plot_position(
        ds, (0, 0), results=results, fit=lambda here, x: np.exp(1j * float(here.rate) * x)
    )
    phase = lower.lines[1].get_ydata()
    assert np.nanmax(np.abs(np.diff(phase))) < 1
    assert np.isnan(phase).sum() == round(4e4 * 1e-3 / (2 * np.pi))


def test_peaks_are_marked(ds: xr.Dataset) -> None:
    x = np.arange(41)
    # (of two equal peaks rounding would decide whether there is another half-way)
    spectrum = np.exp(-(((x - 12) / 2) ** 2)) + 0.8 * np.exp(-(((x - 27) / 2) ** 2))
    ds = ds.assign(signal=ds.signal.copy(data=np.broadcast_to(spectrum, (4, 5, 41)) * 1e-3))
    found = ps.Pipeline([FindPeaksCWT.between(1, 4, 6, max_peaks=4)])(ds)
    ax = plot_position(ds, (1, 2), results=found)
    columns = found.peak_index.values[1, 2, :2]
    assert (np.abs(columns - [12, 27]) <= 1).all()
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), FREQUENCY[columns])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), spectrum[columns] * 1e-3)
    assert ax.get_legend().get_texts()[1].get_text() == "2 peaks"
    none = found.compute(scheduler="sync").assign(peak_count=found.peak_count * 0)
    ax = plot_position(ds, (1, 2), results=none)
    assert ax.get_legend().get_texts()[1].get_text() == "0 peaks"


def test_frames_are_images() -> None:
    rng = np.random.default_rng(4)
    frames = rng.normal(size=(3, 2, 8, 6)) + 1j * rng.normal(size=(3, 2, 8, 6))
    coords = {"kx": ("kx", np.linspace(-1, 1, 6), {"units": "1/nm"})}
    dims = ("y", "x", "ky", "kx")
    real = ps.make_dataset(frames.real, dims, units="counts", coords=coords)
    ax = plot_position(real, (2, 1))
    np.testing.assert_array_equal(ax.images[0].get_array(), frames.real[2, 1])
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("ky", "kx [1/nm]")
    assert bar_of(ax.images[0]).get_ylabel() == "signal [counts]"
    whole = ps.make_dataset(frames, dims, coords=coords)
    upper, lower = plot_position(whole, (2, 1))
    np.testing.assert_allclose(upper.images[0].get_array(), np.abs(frames[2, 1]))
    np.testing.assert_allclose(lower.images[0].get_array(), np.angle(frames[2, 1]))
    results = xr.Dataset({"total": (("y", "x"), np.zeros((3, 2)))})
    with pytest.raises(ValueError, match="the spectrum has two, ky and kx"):
        plot_position(real, (2, 1), results=results, fit=lambda here, x: x)
    with pytest.raises(ValueError, match="name all dims of the positions"):
        plot_position(real, {"y": 1})


def test_coordinates_of_a_loop_are_drawn_as_a_loop() -> None:
    bias = np.array([0.0, 1, 2, 1, 0, -1, -2, -1])
    ds = ps.make_dataset(
        np.arange(16.0).reshape(2, 8),
        ("x", "bias"),
        coords={"bias": ("bias", bias, {"units": "V"})},
    )
    ax = plot_position(ds, 1)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), bias)
    assert ax.get_xlabel() == "bias [V]"


def test_only_one_spectrum_is_read(ds: xr.Dataset, results: xr.Dataset) -> None:
    counted = Counted(ds)
    plot_position(counted.dataset, (1, 2))
    assert counted.reads == [41]
    counted_results = Counted(results.assign(frequency_error=results.frequency), "frequency")
    plot_position(
        counted.dataset,
        (1, 2),
        results=counted_results.dataset,
        fit=lambda here, x: float(here.frequency) + x,
    )
    assert counted.reads == [41, 41]
    assert counted_results.reads == [1]


# ---------------------------------------------------------------------- the interactive pair


def click(figure: Any, ax: Any, x: float, y: float, button: int = 1) -> None:
    figure.canvas.draw()
    left, up = ax.transData.transform((x, y))
    event = MouseEvent("button_press_event", figure.canvas, left, up, button)
    figure.canvas.callbacks.process("button_press_event", event)


def shown(explorer: Any) -> np.ndarray:
    return np.asarray(explorer.spectrum_axes[0].lines[0].get_ydata())


def test_a_click_shows_the_spectrum_of_the_pixel(ds: xr.Dataset, results: xr.Dataset) -> None:
    counted = Counted(ds)
    explorer = explore(counted.dataset, results, "frequency")
    assert explorer.position == {"y": 2, "x": 2}
    click(explorer.figure, explorer.map_axes, 3.4e-6, 0.6e-6)
    assert explorer.position == {"y": 1, "x": 3}
    np.testing.assert_array_equal(shown(explorer), ds.signal.values[1, 3])
    assert explorer.spectrum_axes[0].get_title(loc="left") == "y[1] = 1 µm, x[3] = 3 µm"
    marker = explorer.map_axes.lines[0]
    np.testing.assert_allclose((marker.get_xdata()[0], marker.get_ydata()[0]), (3e-6, 1e-6))
    assert counted.reads == [41, 41]
    click(explorer.figure, explorer.map_axes, 0.0, 0.0, button=3)
    click(explorer.figure, explorer.spectrum_axes[0], 3.2e5, 0.0)
    assert explorer.position == {"y": 1, "x": 3}


def test_clicks_that_zoom_choose_nothing(ds: xr.Dataset, results: xr.Dataset) -> None:
    explorer = explore(ds, results, "frequency")
    toolbar = NavigationToolbar2(explorer.figure.canvas)
    toolbar.zoom()
    click(explorer.figure, explorer.map_axes, 0.0, 0.0)
    assert explorer.position == {"y": 2, "x": 2}
    toolbar.zoom()
    click(explorer.figure, explorer.map_axes, 0.0, 0.0)
    assert explorer.position == {"y": 0, "x": 0}


def test_clicks_work_though_nobody_keeps_the_explorer(ds: xr.Dataset, results: xr.Dataset) -> None:
    figure = explore(ds, results, "frequency").figure
    gc.collect()
    click(figure, figure.axes[0], 0.0, 3e-6)
    assert "y[3] = 3 µm, x[0] = 0 m" in [ax.get_title(loc="left") for ax in figure.axes]


def test_show_takes_what_plot_position_takes(ds: xr.Dataset, results: xr.Dataset) -> None:
    explorer = explore(ds, results, "status")
    explorer.show((3, 1))
    np.testing.assert_array_equal(shown(explorer), ds.signal.values[3, 1])
    explorer.show({"x": 4, "y": 0})
    assert explorer.position == {"y": 0, "x": 4}
    explorer.show(sel={"y": 2e-6, "x": 1e-6})
    assert explorer.position == {"y": 2, "x": 1}
    for wrong, sentence in [
        ((1,), "1 entries, but the map"),
        ((9, 0), "no y 9"),
        ({"y": 1}, "along x"),
    ]:
        with pytest.raises((ValueError, IndexError), match=sentence):
            explorer.show(wrong)
    assert explorer.position == {"y": 2, "x": 1}


def test_fit_and_complex_data_in_the_pair(ds: xr.Dataset, results: xr.Dataset) -> None:
    whole = ds.assign(signal=ds.signal * (1 + 1j))
    explorer = explore(whole, results, "frequency", fit=lambda here, x: x * 1e-9 * (1 + 1j))
    explorer.show((1, 1))
    upper, lower = explorer.spectrum_axes
    assert len(upper.lines) == len(lower.lines) == 2
    np.testing.assert_allclose(lower.lines[1].get_ydata(), np.pi / 4)
    assert len(explore(whole, results, "frequency", complex_as="real").spectrum_axes) == 1


def test_entries_of_the_map_are_part_of_the_position() -> None:
    values = np.random.default_rng(5).normal(size=(3, 4, 2, 7))
    ds = ps.make_dataset(values, ("y", "x", "bias", "frequency"))
    peak = ds.signal.max("frequency").rename("peak")
    explorer = explore(ds, peak, bias=1)
    explorer.show((2, 3))
    assert explorer.position == {"y": 2, "x": 3, "bias": 1}
    np.testing.assert_array_equal(shown(explorer), values[2, 3, 1])
    # one value of every spectrum as the map
    one = ds.isel(bias=0)
    explorer = explore(one, one, "signal", frequency=3)
    np.testing.assert_array_equal(explorer.map_axes.images[0].get_array(), values[:, :, 0, 3])
    explorer.show((0, 2))
    np.testing.assert_array_equal(shown(explorer), values[0, 2, 0])


def test_scattered_positions_and_lines_can_be_clicked() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0, 1e-6, (2, 20))
    values = rng.normal(size=(20, 9))
    along = {"x": ("position", x, {"units": "m"}), "y": ("position", y, {"units": "m"})}
    ds = ps.make_dataset(values, ("position", "frequency"), coords=along)
    explorer = explore(ds, ds.signal.mean("frequency").rename("mean"))
    click(explorer.figure, explorer.map_axes, x[13], y[13])
    assert explorer.position == {"position": 13}
    line = ps.make_dataset(values, ("x", "frequency"))
    height = np.arange(20.0)
    height[7] = np.nan
    explorer = explore(line, xr.DataArray(height, dims="x", name="height"))
    click(explorer.figure, explorer.map_axes, 7.2, 17.0)
    assert explorer.position == {"x": 7}
    np.testing.assert_array_equal(shown(explorer), values[7])


def test_frames_follow_the_clicks() -> None:
    frames = np.random.default_rng(7).normal(size=(3, 2, 8, 6))
    ds = ps.make_dataset(frames, ("y", "x", "ky", "kx"))
    explorer = explore(ds, ds.signal.sum(("ky", "kx")).rename("sum"))
    explorer.show((0, 0))
    explorer.show((2, 1))
    np.testing.assert_array_equal(explorer.spectrum_axes[0].images[0].get_array(), frames[2, 1])
    # (the map, the frame, and a colour bar for each)
    assert len(explorer.figure.axes) == 4


def test_maps_of_other_data_are_refused(ds: xr.Dataset, results: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="map has 2 positions along 'y', the data 4"):
        explore(ds, results.isel(y=slice(2)), "frequency")
    with pytest.raises(ValueError, match="the map is over 'parameter'"):
        explore(ds, results.isel(x=0, bias=0), "covariance", y=1)
    with pytest.raises(ValueError, match="choose one entry of component"):
        explore(ds, results, "maps")
    assert not plt.get_fignums()


def test_without_anything_interactive_there_is_a_picture(
    ds: xr.Dataset, results: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explore(ds, results, "frequency").mode == "static"
    inline = "module://matplotlib_inline.backend_inline"
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: inline)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    explorer = explore(ds, results, "frequency")
    assert explorer.mode == "static"
    before = explorer._repr_png_()
    explorer.show((0, 0))
    assert explorer._repr_png_() != before
    assert before.startswith(b"\x89PNG")
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "widget")
    explorer = explore(ds, results, "frequency")
    assert explorer.mode == "click"
    assert explorer._repr_png_() is None


def test_sliders_choose_positions_beside_plain_pictures(
    ds: xr.Dataset, results: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipywidgets")
    inline = "module://matplotlib_inline.backend_inline"
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: inline)
    explorer = explore(ds, results, "frequency")
    assert explorer.mode == "sliders"
    *sliders, picture = explorer.widget.children
    assert [(s.description, s.value, s.max) for s in sliders] == [("y", 2, 3), ("x", 2, 4)]
    before = picture.value
    sliders[0].value = 3
    np.testing.assert_array_equal(shown(explorer), ds.signal.values[3, 2])
    assert picture.value != before
    explorer.show((1, 4))
    assert [s.value for s in sliders] == [1, 4]
    np.testing.assert_array_equal(shown(explorer), ds.signal.values[1, 4])
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()
