"""Fixed parameters, weights of every position, gaps, and curves over several dims."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

import penstock as ps
from penstock.spectra import Fit, Gaussian
from penstock.spectra.fitting.fit import evaluate, fit_positions
from penstock.testing import check_processor

X = np.linspace(-5, 5, 101)
CONVERGED, FAILED, AT_BOUND = 1, 2, 4


def gaussian(x, amplitude, center, sigma, offset):
    return amplitude * np.exp(-((x - center) ** 2) / (2 * sigma**2)) + offset


def spectra(n=3, seed=0, noise=0.02):
    rng = np.random.default_rng(seed)
    return gaussian(X, 3.0, 1.0, 0.7, 0.2) + noise * rng.standard_normal((n, len(X)))


def grid(y, shape):
    dims = (*("y", "x")[: len(shape)], "frequency")
    return ps.make_dataset(y.reshape(*shape, len(X)), dims, coords={"frequency": X})


# ---------------------------------------------------------------------- fixed parameters


@pytest.mark.parametrize(
    "options",
    [
        {"fixed": {"offset": 0.2}},
        {"bounds": {"offset": (0.2, 0.2)}},
        {"bounds": {"offset": (0.2, 0.2 + 1e-12)}},
        {"bounds": {"offset": (0.2, 0.2 + 1e-7)}},
        {"fixed": {"offset": 0.2}, "bounds": {"amplitude": (0, 10)}},
        {"fixed": {"offset": 0.2}, "method": "scipy"},
    ],
    ids=str,
)
def test_what_is_held_leaves_the_errors_of_the_others(options):
    y = spectra()
    found = fit_positions(X, y, "gaussian", **options)
    for i, spectrum in enumerate(y):
        parameters, covariance = curve_fit(
            lambda x, a, c, s: gaussian(x, a, c, s, 0.2), X, spectrum, (2, 0.5, 1)
        )
        errors = np.sqrt(np.diagonal(covariance))
        assert (np.abs(found.parameters[i, :3] - parameters) < 1e-3 * errors).all()
        np.testing.assert_allclose(found.errors[i, :3], errors, rtol=1e-3)
        np.testing.assert_allclose(found.covariance[i, :3, :3], covariance, rtol=1e-2, atol=1e-8)
    np.testing.assert_allclose(found["offset"], 0.2, atol=1e-6)
    if options.get("fixed") or options["bounds"]["offset"][1] < 0.2 + 1e-9:
        assert np.isnan(found.errors[:, 3]).all()
        assert np.isnan(found.covariance[:, 3]).all()
        assert (found.status == CONVERGED).all()


def test_degrees_of_freedom_count_free_parameters():
    y = spectra(1)
    found = fit_positions(X, y, "gaussian", fixed={"offset": 0.2, "sigma": 0.7})
    left = np.sum((y - found.curve(X)) ** 2)
    np.testing.assert_allclose(found.reduced_chi_square, left / (len(X) - 2))


def test_fixed_parameters_of_functions_and_complex_models():
    found = fit_positions(X, spectra(), gaussian, guess=(2.0, 0.5, 1.0, 9.0), fixed={"offset": 0.2})
    named = fit_positions(X, spectra(), "gaussian", fixed={"offset": 0.2})
    np.testing.assert_allclose(found.parameters, named.parameters, rtol=1e-5)
    x = np.linspace(300, 340, 60)
    y = ps.spectra.SimpleHarmonicOscillator()(x, 1.0, 320.0, 40.0, -1.0)
    found = fit_positions(x, y, "simple_harmonic_oscillator", fixed={"phase": -1.0})
    np.testing.assert_allclose(found.parameters, [1.0, 320.0, 40.0, -1.0], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"level": 1.0}}, "fixed 'level': the model has the parameters amplitude"),
        ({"fixed": dict(amplitude=1, center=1, sigma=1, offset=1)}, "all parameters are fixed"),
        ({"fixed": {"offset": 5}, "bounds": {"offset": (0, 1)}}, "fixed at 5, outside of its"),
    ],
)
def test_wrong_fixed_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Fit("gaussian", **options)


# ---------------------------------------------------------------------- weights


def test_every_position_may_have_its_own_weights():
    rng = np.random.default_rng(0)
    y = rng.poisson(gaussian(X, 100.0, 1.0, 0.7, 5.0), (4, len(X))).astype(float)
    sigma = np.sqrt(np.maximum(y, 1))
    for absolute in (False, True):
        found = fit_positions(X, y, "gaussian", sigma=sigma, absolute_sigma=absolute)
        for i in range(4):
            parameters, covariance = curve_fit(
                gaussian, X, y[i], (80, 0.9, 1, 3), sigma[i], absolute_sigma=absolute
            )
            errors = np.sqrt(np.diagonal(covariance))
            assert (np.abs(found.parameters[i] - parameters) < 1e-3 * errors).all()
            np.testing.assert_allclose(found.errors[i], errors, rtol=1e-3)
    # one number a position; and equal weights are those of one sigma for all
    each = fit_positions(X, y, "gaussian", sigma=np.array([[1.0], [2.0], [3.0], [4.0]]))
    same = fit_positions(X, y, "gaussian", sigma=3.0)
    np.testing.assert_allclose(each.errors, same.errors, rtol=1e-4)


def test_weights_are_read_from_a_coordinate():
    y = spectra(12)
    sigma = 0.01 + 0.01 * np.random.default_rng(1).random(y.shape)
    ds = grid(y, (3, 4))
    weighted = ds.assign_coords(sigma=(("frequency", "y", "x"), np.moveaxis(sigma, 1, 0).reshape(
        len(X), 3, 4)))  # fmt: skip
    fit = Fit("gaussian", sigma="sigma")
    results = ps.Pipeline([fit])(weighted).compute()
    expected = fit_positions(X, y, "gaussian", sigma=sigma)
    assert np.array_equal(results.center.values.ravel(), expected["center"])
    check_processor(fit, weighted, in_files=False)
    by_map = ds.assign_coords(noise=(("y", "x"), np.full((3, 4), 0.02)))
    results = ps.Pipeline([Fit("gaussian", sigma="noise", absolute_sigma=True)])(by_map)
    expected = fit_positions(X, y, "gaussian", sigma=0.02, absolute_sigma=True)
    np.testing.assert_allclose(results.center_error.values.ravel(), expected.errors[:, 1])
    with pytest.raises(ValueError, match="no coordinate 'sigma' to take sigma from"):
        ps.Pipeline([fit])(ds)


def test_wrong_weights_are_told():
    y = spectra(3)
    sigma = np.ones_like(y)
    sigma[1, 4] = 0
    found = fit_positions(X, y, "gaussian", sigma=sigma)
    assert found.status.tolist() == [CONVERGED, FAILED, CONVERGED]
    assert found.failures == {(1,): "1 of 101 values of sigma are not positive"}
    with pytest.raises(ValueError, match=r"shape \(2, 101\) does not broadcast .* \(3, 101\)"):
        fit_positions(X, y, "gaussian", sigma=sigma[:2])
    with pytest.raises(ValueError, match="sigma of every position is given as a coordinate"):
        Fit("gaussian", sigma=sigma)


# ---------------------------------------------------------------------- gaps


@pytest.mark.parametrize("model", ["gaussian", gaussian], ids=["named", "function"])
def test_values_that_are_missing_do_not_count(model):
    rng = np.random.default_rng(0)
    y = spectra(6)
    y[rng.random(y.shape) < 0.1] = np.nan
    y[2, 60] = np.inf
    y[3] = spectra(1)
    guess = None if model == "gaussian" else (2.0, 0.5, 1.0, 0.0)
    found = fit_positions(X, y, model, guess=guess)
    assert (found.status == CONVERGED).all()
    for i, spectrum in enumerate(y):
        there = np.isfinite(spectrum)
        parameters, covariance = curve_fit(gaussian, X[there], spectrum[there], (2, 0.5, 1, 0))
        errors = np.sqrt(np.diagonal(covariance))
        assert (np.abs(found.parameters[i] - parameters) < 1e-3 * errors).all()
        np.testing.assert_allclose(found.errors[i], errors, rtol=1e-3)
    # what is whole beside others with gaps is as it is by itself, bit for bit
    alone = fit_positions(X, y[3], model, guess=guess)
    assert np.array_equal(found.parameters[3], alone.parameters)
    assert np.array_equal(found.errors[3], alone.errors)


def test_complex_spectra_and_guesses_of_the_user_have_gaps_too():
    x = np.linspace(300, 340, 60)
    y = ps.spectra.SimpleHarmonicOscillator()(x, 1.0, 320.0, 40.0, -1.0)
    y[[3, 40]] = [complex(np.nan, 1), complex(1, np.inf)]
    found = fit_positions(x, y, "simple_harmonic_oscillator")
    np.testing.assert_allclose(found.parameters, [1.0, 320.0, 40.0, -1.0], rtol=1e-9)
    gaps = spectra(2)
    gaps[:, 10] = np.nan
    found = fit_positions(
        X, gaps, "gaussian", guess=lambda x, y: (np.ptp(y), x[y.argmax()], 1.0, y.min())
    )
    assert (found.status == CONVERGED).all()


def test_too_few_values_are_a_failure():
    y = spectra(3)
    y[0] = np.nan
    y[1, 3:] = np.nan
    found = fit_positions(X, y, "gaussian")
    assert found.status.tolist() == [FAILED, FAILED, CONVERGED]
    assert np.isnan(found.errors[:2]).all()
    assert found.failures[(1,)] == "3 of 101 values are left, too few for 4 parameters"


def test_gaps_may_be_an_error_or_lose_the_position():
    y = spectra(2)
    y[1, 4] = np.nan
    with pytest.raises(ValueError, match="values at position_0 1 are not all finite"):
        fit_positions(X, y, "gaussian", nan_policy="raise")
    found = fit_positions(X, y, "gaussian", nan_policy="propagate")
    assert found.status.tolist() == [CONVERGED, FAILED]
    with pytest.raises(TypeError, match="nan_policy"):
        Fit("gaussian", nan_policy="ignore")


def test_gaps_and_held_parameters_do_not_depend_on_blocks():
    y = spectra(12)
    y[4, 7] = np.nan
    check_processor(Fit("gaussian", fixed={"offset": 0.2}), grid(y, (3, 4)))


def test_options_survive_yaml_and_are_part_of_the_identity():
    fit = Fit("gaussian", fixed={"offset": 0.2}, nan_policy="propagate", sigma="sigma")
    pipeline = ps.Pipeline([fit])
    again = ps.Pipeline.from_yaml(pipeline.to_yaml())
    assert again == pipeline
    keys = {
        str(one.canonical())
        for one in (Fit("gaussian"), Fit("gaussian", nan_policy="propagate"), fit)
    }
    assert len(keys) == 3


# ---------------------------------------------------------------------- several dims


def round_peak(vu, height, v0, u0, width):
    v, u = vu
    return height * np.exp(-((v - v0) ** 2 + (u - u0) ** 2) / (2 * width**2))


def frames():
    v, u = np.linspace(0, 3, 12), np.linspace(10, 12, 9)
    at = np.stack([g.ravel() for g in np.meshgrid(v, u, indexing="ij")])
    centers = np.array([[1.0, 11.0], [1.5, 11.3], [2.0, 10.8], [1.2, 11.1]])
    values = np.stack([round_peak(at, 2.0, *center, 0.6) for center in centers])
    values = values + 0.01 * np.random.default_rng(0).standard_normal(values.shape)
    return v, u, at, centers, values


def test_curves_over_two_dims():
    v, u, at, centers, values = frames()
    guess = (1.0, 1.4, 11.0, 0.5)
    ds = ps.make_dataset(values.reshape(4, 12, 9), ("position", "v", "u"), coords={"v": v, "u": u})
    fit = Fit(round_peak, guess=guess, core_dim=("v", "u"))
    results = ps.Pipeline([fit])(ds).compute()
    assert results.v0.dims == ("position",)
    assert (results.status == CONVERGED).all()
    np.testing.assert_allclose(results.v0, centers[:, 0], atol=0.01)
    np.testing.assert_allclose(results.u0, centers[:, 1], atol=0.01)
    for i in range(4):
        parameters, covariance = curve_fit(round_peak, at, values[i], guess)
        np.testing.assert_allclose(results.v0[i], parameters[1], rtol=1e-6)
        np.testing.assert_allclose(results.v0_error[i], np.sqrt(covariance[1, 1]), rtol=1e-3)
    arrays = fit_positions(at, values, round_peak, guess=guess)
    assert np.array_equal(arrays["u0"], results.u0)
    curves = fit.curve(results, [ds.v, ds.u])
    assert curves.dims == ("position", "v", "u")
    np.testing.assert_allclose(curves.values.reshape(4, -1), arrays.curve(at))
    check_processor(fit, ds, in_files=False)
    turned = ps.Pipeline([Fit(round_peak, guess=guess, core_dim=("v", "u"))])(
        ds.transpose("u", "position", "v")
    )
    np.testing.assert_allclose(turned.v0, results.v0)


def test_named_models_say_over_how_many_dims_they_are():
    ds = ps.make_dataset(np.zeros((2, 6, 6)), ("position", "v", "u"))
    pipeline = ps.Pipeline([Fit("gaussian", core_dim=("v", "u"))])
    with pytest.raises(ValueError, match="Gaussian is a model over 1 dim, but core_dim names 2"):
        pipeline(ds)


# ---------------------------------------------------------------------- x


def test_an_abscissa_without_extent_is_told():
    for model in ({"polynomial": {"degree": 1}}, "gaussian", "exponential_decay"):
        with pytest.raises(ValueError, match="x is 2 at all 20 points"):
            fit_positions(np.full(20, 2.0), np.random.default_rng(0).random((3, 20)), model)
    mean = fit_positions(np.full(20, 2.0), np.arange(20.0), {"polynomial": {"degree": 0}})
    np.testing.assert_allclose(mean.parameters, [9.5])


def test_the_origin_of_a_decay_travels_with_its_results():
    x = np.linspace(1000, 1005, 61)
    y = 3 * np.exp(-(x - 1000) / 1.5) + 0.2
    ds = ps.make_dataset(y[np.newaxis], ("position", "frequency"), coords={"frequency": x})
    results = ps.Pipeline([Fit("exponential_decay")])(ds)
    assert results.amplitude.attrs["origin"] == 1000.0
    np.testing.assert_allclose(results.amplitude, [3.0])
    np.testing.assert_allclose(evaluate("exponential_decay", x, results).values[0], y)
    fine = evaluate("exponential_decay", np.array([1000.0, 1001.5]), results).values[0]
    np.testing.assert_allclose(fine, [3.2, 3 / np.e + 0.2])
    given = fit_positions(x, y, {"exponential_decay": {"origin": 1001.5}})
    np.testing.assert_allclose(given["amplitude"], 3 / np.e)
    assert Gaussian().at(x) == Gaussian()


@pytest.mark.parametrize("options", [{}, {"prior": "neighbour"}, {"prior": "kmeans"}])
def test_no_positions_have_no_results(options):
    x = np.linspace(-5, 5, 41)
    found = fit_positions(x, np.empty((0, 3, 41)), "gaussian", **options)
    assert found.parameters.shape == (0, 3, 4)
    assert found.curve(x).shape == (0, 3, 41)
    ds = ps.make_dataset(np.ones((2, 3, 41)), ("y", "x", "frequency"), coords={"frequency": x})
    results = ps.Pipeline([Fit("gaussian", **options)])(ds.isel(x=slice(0, 0))).compute()
    assert results.center.shape == (2, 0)


def test_messages_hold_no_long_lists():
    for options in ({"sigma": (0.0, *[1.0] * 400)}, {"bounds": {"center": (1.0,) * 400}}):
        with pytest.raises(ValueError, match="must be") as told:
            Fit("gaussian", **options)
        assert len(str(told.value)) < 200
