"""Fits at every position against SciPy's one at a time, and whatever may go wrong with them."""

import dataclasses
import itertools
import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit, least_squares

import penstock as ps
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.spectra.fitting.fit import Fit, evaluate, fit_positions
from penstock.spectra.fitting.levenberg import levenberg_marquardt
from penstock.spectra.fitting.models import (
    ExponentialDecay,
    FunctionModel,
    Gaussian,
    Lorentzian,
    Polynomial,
    SimpleHarmonicOscillator,
    Voigt,
)
from penstock.spectra.fitting.problem import Problem
from penstock.testing import check_processor, raise_if_computes

X = np.linspace(0.1, 10.0, 53)
CONVERGED, FAILED, NOT_CONVERGED, AT_BOUND, SINGULAR = 1, 2, 3, 4, 5
TIGHT = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
RANGES = {
    Gaussian(): [(1, 3), (3, 7), (0.5, 1.5), (-1, 1)],
    Lorentzian(): [(1, 3), (3, 7), (0.5, 1.5), (-1, 1)],
    Voigt(): [(1, 3), (4, 6), (0.4, 0.8), (0.4, 0.8), (-1, 1)],
    ExponentialDecay(): [(1, 3), (1, 4), (-1, 1)],
    Polynomial(2): [(-1, 1), (-1, 1), (-1, 1)],
    SimpleHarmonicOscillator(): [(1, 3), (4, 6), (5, 30), (-3, 3)],
}
MODELS = pytest.mark.parametrize("model", RANGES, ids=repr)


def truth(model, n=12, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(low, high, n) for low, high in RANGES[model]], axis=1)


def spectra(model, n=12, noise=0.02, seed=0, x=X):
    if isinstance(model, Voigt):
        noise /= 10  # with more, it cannot be told how much of the width is whose
    rng = np.random.default_rng(seed + 1)
    curves = model.function(x, truth(model, n, seed))
    scatter = noise * np.abs(curves).max() * rng.standard_normal((2, *curves.shape))
    return curves + (scatter[0] + 1j * scatter[1] if model.is_complex else scatter[0])


def stacked(values):
    return np.concatenate([values.real, values.imag], axis=0) if values.dtype == complex else values


def scipy_fit(model, y, start, x=X, **kwargs):
    """One position by curve_fit, complex spectra as real and imaginary parts."""

    def function(_, *parameters):
        return stacked(np.asarray(model(x, *parameters)))

    kwargs = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "maxfev": 5000} | kwargs
    return curve_fit(function, None, stacked(y), p0=start, **kwargs)


def grid(y, x=X, shape=(3, 4), units="V"):
    """A dataset of positions (y, x)."""
    return ps.make_dataset(
        y.reshape(*shape, len(x)),
        ("y", "x", "frequency"),
        units=units,
        coords={"frequency": ("frequency", x, {"units": "Hz"}), "y": np.arange(shape[0]) * 0.5},
    )


# ---------------------------------------------------------------------- against SciPy


@MODELS
def test_without_noise_the_truth_is_found(model):
    expected = truth(model)
    found = fit_positions(X, model.function(X, expected), model, **TIGHT)
    np.testing.assert_allclose(found.parameters, expected, rtol=1e-6, atol=1e-6)
    assert np.all(found.status == CONVERGED)
    assert np.all(found.errors < 1e-5)


@MODELS
@pytest.mark.parametrize("weighting", ["equal", "one", "each", "absolute"])
def test_fits_are_those_of_curve_fit(model, weighting):
    y = spectra(model)
    sigma = {"equal": None, "one": 0.3}.get(weighting, 0.1 + 0.05 * np.cos(X))
    absolute = weighting == "absolute"
    found = fit_positions(X, y, model, sigma=sigma, absolute_sigma=absolute, **TIGHT)
    n_values = len(X) * (2 if model.is_complex else 1)
    given = None if sigma is None else np.broadcast_to(sigma, X.shape)
    if given is not None and model.is_complex:
        given = np.tile(given, 2)
    for i, (spectrum, start) in enumerate(zip(y, model.guess(X, y), strict=True)):
        parameters, covariance = scipy_fit(
            model, spectrum, start, sigma=given, absolute_sigma=absolute
        )
        errors = np.sqrt(np.diagonal(covariance))
        # two minimisers end within a small part of an error
        assert np.all(np.abs(found.parameters[i] - parameters) < 1e-4 * errors)
        scale = np.outer(errors, errors)
        np.testing.assert_allclose(found.covariance[i] / scale, covariance / scale, atol=1e-3)
        np.testing.assert_allclose(found.errors[i], errors, rtol=1e-3)
        residuals = stacked(spectrum - model(X, *parameters)) / (1.0 if given is None else given)
        chi_square = np.sum(residuals**2) / (n_values - len(parameters))
        np.testing.assert_allclose(found.reduced_chi_square[i], chi_square, rtol=1e-9)


BOUNDS = {
    Gaussian(): {"center": (4.0, 6.0), "amplitude": (1.5, 2.5)},
    Lorentzian(): {"gamma": (0.7, 1.0), "offset": (None, 0.2)},
    Voigt(): {"sigma": (0.5, 0.7), "gamma": (0.5, 0.7)},
    ExponentialDecay(): {"time_constant": (2.0, 3.0)},
    Polynomial(2): {"c1": (-0.2, 0.2), "c2": (0.0, None)},
    SimpleHarmonicOscillator(): {"quality_factor": (10.0, 20.0), "amplitude": (1.5, 2.5)},
}


@MODELS
def test_bounds_are_kept_as_scipy_keeps_them(model):
    y = spectra(model, n=24)
    found = fit_positions(X, y, model, bounds=BOUNDS[model], **TIGHT)
    names = model.parameter_names
    lower = [BOUNDS[model].get(name, (None, None))[0] for name in names]
    upper = [BOUNDS[model].get(name, (None, None))[1] for name in names]
    lower = np.array([-np.inf if low is None else low for low in lower])
    upper = np.array([np.inf if high is None else high for high in upper])
    at_bound = (found.parameters == lower) | (found.parameters == upper)
    assert at_bound.any(axis=1).mean() > 0.3  # this is about optima at bounds
    assert np.array_equal(found.status == AT_BOUND, at_bound.any(axis=1))
    assert np.all(found.parameters >= lower)
    assert np.all(found.parameters <= upper)
    for i, spectrum in enumerate(y):
        expected = least_squares(
            lambda p, spectrum=spectrum: stacked(model(X, *p) - spectrum),
            np.clip(model.guess(X, y[i : i + 1])[0], lower + 1e-3, upper - 1e-3),
            bounds=(lower, upper),
            x_scale="jac",
            method="trf",
            ftol=1e-14,
            xtol=1e-14,
            gtol=1e-14,
        )
        residuals = stacked(model(X, *found.parameters[i]) - spectrum)
        assert np.sum(residuals**2) <= 2 * expected.cost * (1 + 1e-7)
        np.testing.assert_allclose(found.parameters[i], expected.x, rtol=1e-3, atol=1e-4)
        jacobian = stacked(model.jacobian(X, found.parameters[i : i + 1])[0])
        variance = np.sum(residuals**2) / (len(jacobian) - len(names))
        covariance = np.linalg.inv(jacobian.T @ jacobian) * variance
        scale = np.sqrt(np.outer(np.diagonal(covariance), np.diagonal(covariance)))
        np.testing.assert_allclose(found.covariance[i] / scale, covariance / scale, atol=1e-6)


@MODELS
def test_the_reference_method_agrees(model):
    y = spectra(model)
    for bounds in (None, BOUNDS[model]):
        batched = fit_positions(X, y, model, bounds=bounds, **TIGHT)
        reference = fit_positions(X, y, model, bounds=bounds, method="scipy", **TIGHT)
        assert np.array_equal(batched.status, reference.status)
        within = np.abs(batched.parameters - reference.parameters)
        assert np.all(within < 2e-3 * reference.errors)
        np.testing.assert_allclose(batched.errors, reference.errors, rtol=1e-2)
        np.testing.assert_allclose(
            batched.reduced_chi_square, reference.reduced_chi_square, rtol=1e-7
        )


def test_band_excitation_spectra_are_fitted_no_worse_than_by_a_loop():
    model = SimpleHarmonicOscillator()
    x = np.linspace(285e3, 345e3, 119)
    rng = np.random.default_rng(4)
    n = 150
    parameters = np.stack(
        [
            rng.uniform(0.5e-5, 2e-5, n),
            rng.uniform(300e3, 330e3, n),
            rng.uniform(30, 150, n),
            rng.choice([0.4, 0.4 - np.pi], n),
        ],
        axis=1,
    )
    y = model.function(x, parameters)
    noise = np.median(np.abs(y).max(axis=1)) / 16.7 / np.sqrt(2)
    y = y + noise * (rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape))
    y = y.astype(np.complex64)
    found = fit_positions(x, y, model)
    squares = np.sum(np.abs(y - found.curve(x)) ** 2, axis=1)
    for i, spectrum in enumerate(y.astype(complex)):
        position = np.abs(spectrum).argmax()
        start = [np.abs(spectrum[position]) / 50, x[position], 50, np.angle(spectrum[position]) - 1]
        best, _ = scipy_fit(model, spectrum, start, x=x, ftol=1e-8, xtol=1e-8, gtol=1e-8)
        assert squares[i] <= np.sum(np.abs(spectrum - model(x, *best)) ** 2) * (1 + 1e-4)
    errors = np.abs(found.parameters - parameters) / found.errors
    assert 0.5 < np.median(errors) < 0.85  # of a normal distribution: 0.67


def test_ill_conditioned_covariances_keep_their_digits():
    x = np.linspace(100.0, 101.0, 40)
    y = 1 + (x - 100) ** 2 + 0.1 * np.random.default_rng(0).standard_normal((3, len(x)))
    found = fit_positions(x, y, {"polynomial": {"degree": 2}})
    for i, spectrum in enumerate(y):
        _, covariance = np.polyfit(x, spectrum, 2, cov=True)
        np.testing.assert_allclose(found.covariance[i], covariance[::-1, ::-1], rtol=1e-4)


# ---------------------------------------------------------------------- functions of the user


def user_decay(x, height, rate, level):
    return height * np.exp(-rate * x) + level


def user_branch(x, height, rate, level):
    if rate < 0:
        raise ValueError("rate must not be negative")
    return height * np.exp(-rate * x) + level


def one_parameter(x, slope):
    return slope * x


def complex_line(x, re, im):
    return (re + 1j * im) * x


@pytest.mark.parametrize("function", [user_decay, user_branch], ids=lambda f: f.__name__)
def test_any_function_can_be_fitted(function):
    y = spectra(ExponentialDecay())
    found = fit_positions(X, y, function, **TIGHT)
    for i, spectrum in enumerate(y):
        parameters, covariance = curve_fit(user_decay, X, spectrum, p0=[1, 0.5, 0])
        errors = np.sqrt(np.diagonal(covariance))
        assert np.all(np.abs(found.parameters[i] - parameters) < 1e-3 * errors)
        np.testing.assert_allclose(found.errors[i], errors, rtol=1e-2)
    assert found.model == FunctionModel(function)
    assert np.array_equal(found["rate"], found.parameters[:, 1])


def test_one_parameter_is_as_good_as_several():
    slopes = np.array([[1.0, -2.0], [0.5, 3.0]])
    found = fit_positions(X, slopes[..., np.newaxis] * X + 0.01 * np.sin(9 * X), one_parameter)
    assert found.parameters.shape == (2, 2, 1)
    assert found.covariance.shape == (2, 2, 1, 1)
    expected = slopes + np.sum(0.01 * np.sin(9 * X) * X) / np.sum(X**2)
    np.testing.assert_allclose(found["slope"], expected, rtol=1e-9)


def test_complex_functions_are_fitted_to_complex_spectra():
    y = np.array([1 + 2j, -3j])[:, np.newaxis] * X
    np.testing.assert_allclose(
        fit_positions(X, y, complex_line).parameters, [[1, 2], [0, -3]], atol=1e-8
    )
    found = fit_positions(X, y.real, complex_line)
    assert np.all(found.status == FAILED)
    assert "the model is complex at the first guess, but the data are real" in set(
        found.failures.values()
    )


def test_guesses_may_be_given():
    y = spectra(Gaussian())
    free = fit_positions(X, y, "gaussian")
    for guess in (
        (2.0, 5.0, 1.0, 0.0),
        np.array([2.0, 5.0, 1.0, 0.0]),
        lambda x, spectrum: [np.ptp(spectrum), x[spectrum.argmax()], 1.0, spectrum.min()],
    ):
        found = fit_positions(X, y, "gaussian", guess=guess)
        np.testing.assert_allclose(found.parameters, free.parameters, rtol=1e-3)


def test_without_a_guess_functions_start_where_curve_fit_does():
    bounds = ([2.0, -np.inf, 0.0], [4.0, 7.0, np.inf])
    with pytest.raises(ValueError, match="started at 3, 6, 1"):
        fit_positions(X, [X], _show_start, bounds=bounds)


def _show_start(x, a, b, c):
    raise ValueError(f"started at {a:g}, {b:g}, {c:g}")


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("guess", [None, (2.0,), lambda x, y: [y.max()]])
def test_a_function_that_always_fails_is_refused_before_the_run(guess):
    fit = Fit(lambda x, a: a * x.nope, guess=guess)
    sentence = r"failed at its first guess, a=\S+, on the 53 points of 'frequency': AttributeError"
    with pytest.raises(ValueError, match=sentence) as refused:
        ps.Pipeline([fit])(grid(spectra(Gaussian())))
    assert "\n" not in str(refused.value)


def test_positions_that_are_not_finite_fail_alone():
    y = spectra(Gaussian())
    whole = fit_positions(X, y, "gaussian")
    y[3, 5], y[7, 0] = np.nan, np.inf
    found = fit_positions(X, y, "gaussian", nan_policy="propagate")
    failed = np.isin(np.arange(12), (3, 7))
    assert np.array_equal(found.status == FAILED, failed)
    assert found.failures == {
        (3,): "1 of 53 values are not finite",
        (7,): "1 of 53 values are not finite",
    }
    for name in ("parameters", "errors", "covariance", "reduced_chi_square"):
        assert np.isnan(getattr(found, name)[failed]).all()
        assert np.array_equal(getattr(found, name)[~failed], getattr(whole, name)[~failed])


@pytest.mark.parametrize("model", ["gaussian", "lorentzian", "voigt", "exponential_decay"])
def test_constant_spectra_are_no_silent_success(model):
    found = fit_positions(X, np.full((2, len(X)), 3.5), model)
    assert np.all(np.isin(found.status, (SINGULAR, FAILED)))
    singular = found.status == SINGULAR
    assert np.isinf(found.errors[singular]).all()
    np.testing.assert_allclose(found["offset"][singular], 3.5)


def test_parameters_that_cannot_be_told_apart_are_singular():
    found = fit_positions(X, [2 * X, 3 * X], lambda x, a, b: (a + b) * x)
    assert np.all(found.status == SINGULAR)
    np.testing.assert_allclose(found.parameters.sum(axis=1), [2, 3])
    assert np.isinf(found.covariance).all()


def test_exhausted_evaluations_keep_the_best_found():
    y = spectra(Gaussian())
    start = fit_positions(X, y, "gaussian", guess=(1.0, 5.0, 3.0, 0.0), max_nfev=1)
    later = fit_positions(X, y, "gaussian", guess=(1.0, 5.0, 3.0, 0.0), max_nfev=3)
    assert np.all(start.parameters == (1.0, 5.0, 3.0, 0.0))
    assert np.all(later.status == NOT_CONVERGED)
    assert np.all(later.n_evaluations == 3)
    assert np.all(later.reduced_chi_square <= start.reduced_chi_square)
    assert np.mean(later.reduced_chi_square < start.reduced_chi_square) > 0.5


def raises_at_peaks(x, height, rate, level):
    if rate > 1.9:
        raise RuntimeError("rate too large")
    return height * np.exp(-rate * x) + level


def short(x, height, rate, level):
    curve = height * np.exp(-rate * x) + level
    return curve if rate < 1.9 else curve[:-1]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (raises_at_peaks, "raises_at_peaks: rate too large"),
        (short, "short: returned shape (52,) for x of shape (53,)"),
    ],
)
@pytest.mark.parametrize("method", ["batched", "scipy"])
def test_a_function_that_fails_fails_where_it_does(function, reason, method):
    y = spectra(ExponentialDecay(), n=6)
    y[2] += 100.0

    def guess(x, spectrum):
        return (1.0, 2.0, 0.0) if spectrum.min() > 50 else (1.0, 0.5, 0.0)

    found = fit_positions(X, y, function, guess=guess, method=method)
    assert found.failures == {(2,): reason}
    assert np.array_equal(found.status == FAILED, np.arange(6) == 2)
    others = np.delete(np.arange(6), 2)
    usual = fit_positions(X, y, user_decay, guess=guess)
    np.testing.assert_allclose(found.parameters[others], usual.parameters[others], rtol=1e-4)


def test_a_guess_that_fails_fails_where_it_does():
    def guess(x, spectrum):
        if spectrum[0] > 50:
            raise KeyError("no peak")
        return (1.0, 5.0, 1.0) if spectrum[0] < -50 else (1.0, 5.0, 1.0, 0.0)

    y = spectra(Gaussian(), n=3)
    y[1] += 100
    y[2] -= 100
    found = fit_positions(X, y, "gaussian", guess=guess)
    assert found.status.tolist() == [CONVERGED, FAILED, FAILED]
    assert found.failures[(1,)] == "guess: KeyError: 'no peak'"
    assert found.failures[(2,)].startswith("guess: ValueError: cannot reshape")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": {"center": (5.0, 2.0)}}, r"lower bound 5 of 'center' must be less than the"),
        ({"bounds": {"centre": (0.0, 2.0)}}, r"bounds of 'centre': the model has the parameters a"),
        ({"bounds": {"center": 3.0}}, r"bounds of 'center' must be \(low, high\), got 3.0"),
        ({"bounds": ([0.0] * 3, [1.0] * 3)}, r"must be \{name: \(low, high\)\} or \(lower, upper"),
        ({"guess": (1.0, 2.0)}, r"guess has 2 values, but the model has 4 parameters: amplitude"),
        (
            {"guess": (1.0, 9.0, 1.0, 0.0), "bounds": {"center": (0.0, 5.0)}},
            r"the guess 9 of 'center' lies outside of its bounds \(0, 5\)",
        ),
        ({"sigma": 0.0}, r"sigma=0.0 must be positive"),
        ({"sigma": (1.0, 2.0)}, r"sigma has 2 values for spectra of 53 points"),
        ({"max_nfev": 0}, r"max_nfev=0 must be at least 1"),
    ],
)
def test_wrong_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit_positions(X, spectra(Gaussian()), "gaussian", **options)


def test_data_that_do_not_fit_the_model_are_refused():
    real, complex_ = spectra(Gaussian()), spectra(SimpleHarmonicOscillator())
    with pytest.raises(ValueError, match="model of complex spectra, but the data are float64"):
        fit_positions(X, real, "simple_harmonic_oscillator")
    with pytest.raises(ValueError, match="Gaussian is a model of real spectra"):
        fit_positions(X, complex_, "gaussian")
    with pytest.raises(ValueError, match="4 parameters cannot be fitted to spectra of 3 points"):
        fit_positions(X[:3], real[:, :3], "gaussian")
    with pytest.raises(ValueError, match=r"x has shape \(52,\), y \(12, 53\)"):
        fit_positions(X[1:], real, "gaussian")
    with pytest.raises(ValueError, match="x is not finite everywhere"):
        fit_positions(np.where(X > 9, np.nan, X), real, "gaussian")
    dated = grid(real).assign_coords(frequency=np.arange(53).astype("datetime64[D]"))
    with pytest.raises(ValueError, match="coordinate of 'frequency' must be numbers"):
        Chain(dated).then(Fit("gaussian"))
    with pytest.raises(ValueError, match="cannot be called 'y'"):
        Chain(grid(real)).then(Fit(lambda x, y, z: y * x + z))


def test_as_many_points_as_parameters_leave_no_errors():
    x = np.array([0.0, 1.0, 2.0])
    found = fit_positions(x, [[1.0, 3.0, 7.0]], {"polynomial": {"degree": 2}})
    np.testing.assert_allclose(found.parameters, [[1, 1, 1]], atol=1e-9)
    assert np.isnan(found.reduced_chi_square).all()
    assert np.isinf(found.errors).all()


# ---------------------------------------------------------------------- blocks


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from([*RANGES, FunctionModel(user_decay), FunctionModel(user_branch)]),
    bounded=st.booleans(),
    n=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_a_position_does_not_depend_on_those_around(model, bounded, n, seed):
    named = not isinstance(model, FunctionModel)
    y = spectra(model if named else ExponentialDecay(), n=9, seed=seed)
    bounds = BOUNDS[model] if bounded and named else None
    whole = fit_positions(X, y, model, bounds=bounds)
    parts = [fit_positions(X, y[i : i + n], model, bounds=bounds) for i in range(0, 9, n)]
    for name in ("parameters", "covariance", "reduced_chi_square", "n_evaluations", "status"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name)), name


@MODELS
def test_the_solver_does_not_depend_on_its_tile(model):
    y = spectra(model, n=30, noise=0.1)
    n = len(model.parameter_names)
    lower = np.where(
        np.isin(model.parameter_names, model.positive + model.not_negative), 0, -np.inf
    )
    problem = Problem(
        lambda p: model.function(X, p),
        lambda p, curves=None: model.jacobian(X, p),
        lower,
        np.full(n, np.inf),
        exclusive=np.isin(model.parameter_names, model.positive),
    )
    results = []
    for tile in (1, 4, 1000):
        parameters, seen = np.zeros((30, n)), np.zeros(30, int)
        loaded = []

        def load(start, stop, loaded=loaded):
            loaded.append((start, stop))
            nothing = np.empty((stop - start, 0))
            return y[start:stop], nothing, model.guess(X, y[start:stop])

        for done in levenberg_marquardt(problem, load, 30, tile):
            parameters[done.rows] = done.parameters
            seen[done.rows] += 1
        assert np.all(seen == 1)
        assert loaded[0][0] == 0
        assert loaded[-1][1] == 30
        assert all(a[1] == b[0] for a, b in itertools.pairwise(loaded))
        assert max(stop - start for start, stop in loaded) <= tile
        results.append(parameters)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    "processor",
    [
        Fit("gaussian"),
        Fit("voigt", bounds={"center": (4.0, 6.0)}),
        Fit({"polynomial": {"degree": 1}}, sigma=0.1, absolute_sigma=True),
        Fit("gaussian", prior="neighbour", n_prior=4),
        Fit("gaussian", prior="kmeans", n_clusters=3, n_prior=8),
        Fit("gaussian", method="scipy"),
    ],
    ids=repr,
)
def test_the_contract_is_kept(processor):
    if processor.prior == "kmeans":
        pytest.importorskip("sklearn")
    check_processor(processor, grid(spectra(Gaussian())))


def test_the_contract_is_kept_for_complex_spectra_and_functions():
    y = spectra(SimpleHarmonicOscillator()).astype(np.complex64)
    check_processor(Fit("simple_harmonic_oscillator"), grid(y))
    decays = grid(spectra(ExponentialDecay()).astype(np.float32))
    check_processor(Fit(user_decay), decays, in_files=False)
    check_processor(Fit(user_branch), decays, in_files=False)
    # a core dim that is not the last, and blocks that are not contiguous
    check_processor(Fit("exponential_decay"), decays.transpose("frequency", "y", "x"))


# ---------------------------------------------------------------------- priors


def hard_case():
    """Narrow lines that wander far over the positions: one first guess fits few of them."""
    x = np.linspace(0.0, 100.0, 301)
    position = np.linspace(0, 1, 12)
    centers = 20 + 40 * position[:, np.newaxis] * position + 10 * position
    y = 1 / (1 + ((x - centers[..., np.newaxis]) / 1.5) ** 2)
    y = y + 0.02 * np.random.default_rng(3).standard_normal(y.shape)
    return grid(y, x, centers.shape), centers


@pytest.mark.parametrize("prior", ["neighbour", "kmeans"])
def test_priors_find_what_one_guess_does_not(prior):
    if prior == "kmeans":
        pytest.importorskip("sklearn")
    ds, centers = hard_case()
    guess = (1.0, 50.0, 1.5, 0.0)
    options = {"guess": guess, "n_prior": 36 if prior == "neighbour" else 144, "n_clusters": 40}
    alone = ps.Pipeline([Fit("lorentzian", guess=guess)])(ds)
    helped = ps.Pipeline([Fit("lorentzian", prior=prior, **options)])(ds)

    def found(results):
        return float((np.abs(results.center - centers) < 0.5).mean())

    assert found(alone) < 0.4
    assert found(helped) > 0.8


@pytest.mark.parametrize("prior", ["neighbour", "kmeans"])
def test_priors_do_no_harm_beside_spectra_of_zeros(prior):
    if prior == "kmeans":
        pytest.importorskip("sklearn")
    x = np.linspace(300e3, 340e3, 60)
    y = np.tile(SimpleHarmonicOscillator()(x, 1.0, 320e3, 100.0, 0.5), (12, 10, 1))
    y[4] = 0
    found = fit_positions(x, y, "simple_harmonic_oscillator", prior=prior, n_prior=120)
    good = np.arange(12) != 4
    assert (found.status[good] == CONVERGED).all()
    np.testing.assert_allclose(found["frequency"][good], 320e3, rtol=1e-9)
    assert (found.status[~good] == SINGULAR).all()


def test_a_prior_that_leads_nowhere_gives_way_to_the_usual_guess():
    # the prior knows one position, whose line is far from that of the first
    y = np.exp(-((X - np.array([[2.0], [9.0], [9.0], [9.0]])) ** 2) / 0.02)
    found = fit_positions(X, y, "gaussian", prior="neighbour", n_prior=1)
    alone = fit_positions(X, y, "gaussian")
    assert (alone.status == CONVERGED).all()
    np.testing.assert_allclose(found["center"], alone["center"], rtol=1e-6)
    assert np.array_equal(found.status, alone.status)


@pytest.mark.parametrize("prior", ["neighbour", "kmeans"])
def test_priors_do_not_depend_on_blocks(prior):
    if prior == "kmeans":
        pytest.importorskip("sklearn")
    ds, _ = hard_case()
    ds.signal[0, 0, 3] = ds.signal[7, 9, 0] = np.nan
    guess = (1.0, 50.0, 1.5, 0.0)
    fit = Fit("lorentzian", guess=guess, prior=prior, n_prior=20, nan_policy="propagate")
    whole = ps.Pipeline([fit])(ds).compute()
    chunked = ps.Pipeline([fit])(ds.chunk({"y": 5, "x": 7}))
    blocks = ps.Pipeline([fit])(ds, block_bytes=1 << 18)
    assert whole.status.values[0, 0] == FAILED
    for other in (chunked, blocks):
        xr.testing.assert_identical(other.compute(), whole)


def test_kmeans_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "penstock\[ml\]"'):
        fit_positions(X, spectra(Gaussian()), "gaussian", prior="kmeans")


# ---------------------------------------------------------------------- datasets


def test_results_are_variables_with_units_and_meanings():
    ds = grid(spectra(Gaussian()))
    with raise_if_computes():
        results = ps.Pipeline([Fit("gaussian")])(ds)
    assert set(results.data_vars) == {
        *("amplitude", "center", "sigma", "offset"),
        *("amplitude_error", "center_error", "sigma_error", "offset_error"),
        *("covariance", "reduced_chi_square", "n_evaluations", "status"),
    }
    assert results.center.attrs["units"] == results.center_error.attrs["units"] == "Hz"
    assert results.amplitude.attrs["units"] == "V"
    assert results.covariance.dims == ("y", "x", "parameter", "parameter_2")
    assert results.parameter.values.tolist() == ["amplitude", "center", "sigma", "offset"]
    assert results.status.attrs["flag_values"] == [1, 2, 3, 4, 5]
    assert results.status.attrs["flag_meanings"].split()[0] == "converged"
    assert results.y.values.tolist() == [0.0, 0.5, 1.0]
    assert "frequency" not in results.dims
    expected = fit_positions(X, ds.signal.values, "gaussian")
    assert np.array_equal(results.center, expected["center"])
    assert np.array_equal(results.covariance, expected.covariance)
    variance = results.covariance.sel(parameter="sigma", parameter_2="sigma")
    np.testing.assert_allclose(results.sigma_error**2, variance)


def test_x_counts_from_0_where_the_dim_has_no_coordinate():
    ds = grid(spectra(Gaussian())).drop_vars("frequency")
    results = ps.Pipeline([Fit("gaussian")])(ds)
    expected = fit_positions(np.arange(53.0), ds.signal.values, "gaussian")
    assert np.array_equal(results.center, expected["center"])
    assert "units" not in results.center.attrs


def test_failures_reach_the_report(tmp_path):
    ds = grid(spectra(Gaussian()))
    ds.signal[1, 2, 0] = np.nan
    chain = prepared(Chain(ds), [Fit("gaussian", nan_policy="propagate")], 1 << 40)
    failures = []
    chain.compute(chain.whole() | {"y": slice(1, 3)}, failures=failures)
    assert failures == [({"y": 1, "x": 2}, "1 of 53 values are not finite")]


def test_curves_are_those_of_the_parameters():
    ds = grid(spectra(Gaussian()))
    ds.signal[0, 1] = np.nan
    fit = Fit("gaussian")
    results = ps.Pipeline([fit])(ds)
    with raise_if_computes():
        curves = fit.curve(results, ds.frequency)
    assert curves.dims == ("y", "x", "frequency")
    assert curves.frequency.attrs["units"] == "Hz"
    values = curves.values
    assert np.isnan(values[0, 1]).all()
    row = [float(results[name][2, 3]) for name in Gaussian().parameter_names]
    np.testing.assert_allclose(values[2, 3], Gaussian()(X, *row))
    fine = evaluate("gaussian", np.linspace(0, 10, 500), results.compute())
    assert fine.sizes == {"y": 3, "x": 4, "frequency": 500}
    with pytest.raises(ValueError, match="the results have no 'area', a parameter of Voigt"):
        evaluate("voigt", X, results)


@pytest.mark.parametrize(
    "processor",
    [
        Fit("gaussian"),
        Fit({"polynomial": {"degree": 3}}, core_dim="voltage"),
        Fit("voigt", bounds={"center": (0, None), "gamma": [0, 2]}, sigma=[0.1, 0.2]),
        Fit("lorentzian", (1, 2, 3, 4), bounds=([0, 0, 0, 0], np.inf), prior="kmeans"),
    ],
    ids=repr,
)
def test_fits_survive_yaml(processor):
    pipeline = ps.Pipeline([processor])
    for text, read in (
        (pipeline.to_yaml(), ps.Pipeline.from_yaml),
        (pipeline.to_json(), ps.Pipeline.from_json),
    ):
        again = read(text)
        assert again == pipeline
        assert again.canonical() == pipeline.canonical()
    assert hash(processor) == hash(dataclasses.replace(processor))


def test_functions_are_told_apart_but_not_read_from_files():
    first, second = Fit(lambda x, a, b: a * x + b), Fit(lambda x, a, b: a * x - b)
    assert first.canonical() != second.canonical()
    with pytest.raises(ValueError, match="is a function, which a file cannot name"):
        ps.Pipeline.from_yaml("pipeline:\n  - penstock.spectra.Fit: {model: 'os:system'}\n")


def test_real_band_excitation_spectra(data):
    y = np.load(data / "spm" / "BEPFM_32x32x102.npy")[::4, ::4]
    x = np.arange(102.0)
    found = fit_positions(x, y, "lorentzian")
    for index in np.ndindex(8, 8):
        start = [np.ptp(y[index]), float(y[index].argmax()), 8.0, y[index].min()]
        expected, covariance = curve_fit(Lorentzian(), x, y[index], p0=start)
        residuals = y[index] - Lorentzian()(x, *expected)
        n = len(x) - 4
        assert found.reduced_chi_square[index] <= np.sum(residuals**2) / n * (1 + 1e-4)
        expected[2] = abs(expected[2])
        errors = np.sqrt(np.diagonal(covariance))
        assert np.all(np.abs(found.parameters[index] - expected) < 1e-2 * errors)
        np.testing.assert_allclose(found.errors[index], errors, rtol=1e-2)


def test_functions_cannot_be_written_to_files():
    for fit in (Fit(lambda x, a: a * x), Fit("gaussian", guess=lambda x, y: (1.0, 0.0, 1.0, 0.0))):
        with pytest.raises(ValueError, match="cannot be written to a file"):
            ps.Pipeline([fit]).to_yaml()
