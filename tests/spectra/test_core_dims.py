"""Which dim is the spectrum: the spectroscopic one that a file tells, or the last."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.spectra import (
    FindPeaksCWT,
    Fit,
    PerPosition,
    Process,
    explore,
    parallel_compute,
    plot_position,
    reduce,
    svd,
)
from penstock.spectra.passes.layout import spectral_dim, spectral_dims
from penstock.spectra.passes.reductions import PositionSum

matplotlib.use("Agg")

X = np.linspace(-5, 5, 50)
CENTRES = np.linspace(-1, 1, 12).reshape(3, 4)


def scan(*dims: str, positions: list[str] | None = None) -> xr.Dataset:
    """Curves over the last dim."""
    values = np.exp(-((X - CENTRES[..., np.newaxis]) ** 2) / 2)
    attrs = {} if positions is None else {"position_dims": positions}
    return ps.make_dataset(values, dims, coords={dims[-1]: X}, attrs=attrs)


@pytest.mark.parametrize("name", ["Frequency", "energy", "Wavelength", "frequency", "time"])
def test_whatever_the_spectral_dim_is_called(name: str):
    ds = scan("Y", "X", name)
    for processor in (Fit("gaussian"), FindPeaksCWT((3.0, 4.0)), PerPosition(np.argmax)):
        found = ps.Pipeline([processor])(ds).compute()
        assert found.status.dims == ("Y", "X")
        assert (found.status == 1).all()
    fit = Fit("gaussian")
    fitted = ps.Pipeline([fit])(ds).compute()
    assert np.allclose(fitted.center, CENTRES)
    assert fit.curve(fitted, ds[name]).dims == ("Y", "X", name)
    plot_position(ds, (1, 2), results=fitted, fit=fit)
    shown = explore(ds, fitted, "center", fit=fit)
    shown.show((0, 1))
    plt.close("all")
    process = Process(ds, FindPeaksCWT((3.0, 4.0)), name="peaks", out="unused")
    assert process.position_dims == ("Y", "X")
    sums = reduce(ds, {"sum": PositionSum()}, workers=1, progress=False)["sum"]
    assert sums.dims == ("Y", "X")
    assert svd(ds, 2, workers=1, progress=False).sizes[name] == 50
    assert len(parallel_compute(ds, np.argmax, verbose=False)) == 12


def test_what_a_file_tells_of_positions_comes_first():
    ds = scan("Bias", "Cycle", "X", positions=["X"])
    assert spectral_dims(ds) == ("Bias", "Cycle")
    assert spectral_dim(ds) == "Cycle"
    assert PerPosition(np.argmax).bound(ds).core_dims == ("Bias", "Cycle")
    assert reduce(ds, {"sum": PositionSum()}, workers=1, progress=False)["sum"].dims == ("X",)
    assert spectral_dims(scan("y", "x", "band", positions=["y", "x", "band"])) == ("band",)
    assert spectral_dim(scan("frequency", "x", "bias", positions=["x"])) == "frequency"


def test_a_dim_that_is_named_and_missing_is_told():
    for processor in (
        Fit("gaussian", core_dim="bias"),
        FindPeaksCWT((3.0,), core_dim="bias"),
        PerPosition(np.argmax, core_dims=("bias",)),
    ):
        with pytest.raises(
            ValueError, match=r"needs the dim 'bias', .*name another one in core_di"
        ):
            ps.Pipeline([processor])(scan("Y", "X", "energy"))


def test_one_spectrum_without_positions(tmp_path):
    spectrum = scan("Y", "X", "energy").isel(Y=1, X=2)
    fitted = ps.Pipeline([Fit("gaussian")])(spectrum).compute()
    assert np.isclose(fitted.center, CENTRES[1, 2])
    assert fitted.center.shape == ()
    peaks = ps.Pipeline([FindPeaksCWT((3.0, 4.0, 5.0))])(spectrum).compute()
    assert peaks.peak_count.shape == ()
    for operation in (np.ptp, Fit("gaussian")):
        process = Process(spectrum, operation, name="one", out=tmp_path / str(len(str(operation))))
        tried = process.test(plot=True)
        plt.close("all")
        results = process.compute(workers=1, progress=False)
        for name in tried.data_vars:
            assert results[name].shape == tried[name].shape
            assert np.allclose(results[name], tried[name], equal_nan=True)
    assert parallel_compute(spectrum, np.argmax, verbose=False) == [int(spectrum.signal.argmax())]


def test_the_title_of_a_trial_names_the_position_asked_for(tmp_path):
    ds = scan("y", "x", "energy").assign_coords(y=("y", [0.0, 1e-6, 2e-6], {"units": "m"}))
    process = Process(ds, np.ptp, name="range", out=tmp_path)
    for position in ((1, 2), {"x": 2, "y": 1}):
        process.test(position, plot=True)
        title = plt.gca().get_title(loc="left")
        plt.close("all")
        assert title == "y[1] = 1 µm, x[2]"


@pytest.mark.parametrize(
    "call",
    [
        lambda: FindPeaksCWT(np.eye(400)),
        lambda: Fit("gaussian", guess=list(range(2000))),
        lambda: Fit("gaussian", method=np.eye(400)),
        lambda: PerPosition(np.eye(400)),
        lambda: ps.make_dataset(np.eye(4), ("y", "x")).pipe(plot_position, np.eye(400)),
        lambda: reduce(ps.make_dataset(np.eye(4), ("y", "x")), np.eye(400)),
    ],
)
def test_messages_hold_no_arrays(call):
    with pytest.raises((ValueError, TypeError, IndexError)) as caught:
        call()
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_single_value_is_no_curve(tmp_path):
    single = ps.make_dataset(np.array(3.0), ())
    for processor in (Fit("gaussian"), FindPeaksCWT((3.0,))):
        with pytest.raises(ValueError, match="there is no curve in them"):
            ps.Pipeline([processor])(single)
    doubled = ps.Pipeline([ps.Apply(lambda block: 2 * block, core_dims=())])
    assert float(doubled(single).signal) == 6.0
    report = doubled.run({"single": single}, tmp_path, workers=1, progress=False)
    assert not report.failed
    assert float(ps.open_dataset(tmp_path / "single.zarr").signal) == 6.0
