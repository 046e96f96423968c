"""Converged means converged: status and errors depend neither on units nor on neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from penstock.spectra.fitting.fit import fit_positions
from penstock.spectra.fitting.models import FunctionModel, as_model

CONVERGED, FAILED, NOT_CONVERGED, AT_BOUND, SINGULAR = 1, 2, 3, 4, 5
X = np.linspace(0, 5, 61)
TRUTHS = {
    "gaussian": (3.0, 2.0, 0.7, 0.2),
    "lorentzian": (3.0, 2.0, 0.7, 0.2),
    "voigt": (3.0, 2.0, 0.5, 0.3, 0.2),
    "exponential_decay": (3.0, 1.5, 0.2),
}
NAMES = pytest.mark.parametrize("name", TRUTHS)


def gaussian(x, height, center, width, level):
    return height * np.exp(-((x - center) ** 2) / (2 * width**2)) + level


def decay(x, height, time, level):
    return height * np.exp(-x / time) + level


def noisy(name, n=4, noise=0.02, seed=0):
    curve = as_model(name)(X, *TRUTHS[name])
    return curve + noise * np.random.default_rng(seed).standard_normal((n, len(X)))


# ---------------------------------------------------------------------- nothing to be found


@NAMES
@pytest.mark.parametrize("level", [0.0, 0.1, 3.5, -7e8, 1e-13])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_constant_spectra_determine_nothing(name, level, dtype):
    for scale in (1.0, 1e-9, 1e12):
        found = fit_positions(scale * X, np.full((2, len(X)), level, dtype), name)
        assert np.isin(found.status, (SINGULAR, FAILED)).all()
        assert not np.isfinite(found.errors).any()


@pytest.mark.parametrize(
    ("function", "guess"),
    [
        (lambda x, a, b, t: a * np.exp(b - x / t), (1.0, 0.5, 1.0)),
        (lambda x, a, x0, t: a * np.exp(-(x - x0) / t), (1.0, 0.1, 1.0)),
        (lambda x, a, b, t, u: a * np.exp(-x / t) + b * np.exp(-x / u), (1.0, 1.0, 1.0, 1.0)),
        (lambda x, a, b, c, t: (a + b) * np.exp(-x / t) + c, (1.0, 1.0, 0.0, 1.0)),
        (lambda x, a, b, t: a * b * np.exp(-x / t), (1.0, 2.0, 1.0)),
        (lambda x, a, t, unused: a * np.exp(-x / t), (1.0, 1.0, 1.0)),
    ],
    ids=["factor", "shift", "equal", "sum", "product", "unused"],
)
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e6])
def test_redundant_parameters_are_singular_in_any_unit(function, guess, unit):
    y = 3 * np.exp(-X / 1.3) + 0.02 * np.random.default_rng(0).standard_normal((50, len(X)))

    def scaled(x, *parameters):
        return unit * function(x, *parameters)

    model = FunctionModel(scaled, as_model(function).parameter_names)
    found = fit_positions(X, unit * y, model, guess=guess)
    assert (found.status == SINGULAR).all()
    assert np.isinf(found.errors).all()


def test_spectra_that_determine_everything_are_not_singular():
    # ill-conditioned, but determined: a decay of which a tenth is seen, a polynomial far from 0
    x = np.linspace(0, 1, 200)
    y = 3 * np.exp(-x / 10) + 1e-4 * np.random.default_rng(0).standard_normal((20, 200))
    assert (fit_positions(x, y, "exponential_decay").status == CONVERGED).all()
    assert (fit_positions(x, y, decay, guess=(2.0, 5.0, 0.0)).status == CONVERGED).all()
    far = fit_positions(x + 1000, y, {"polynomial": {"degree": 3}})
    assert (far.status == CONVERGED).all()


def test_as_many_values_as_parameters_leave_no_errors():
    for model, guess in (("exponential_decay", None), (decay, (2.0, 1.0, 0.0))):
        found = fit_positions(X[:3] * 10, [[3.0, 2.0, 1.5]], model, guess=guess)
        assert np.isinf(found.errors).all()  # as curve_fit says
        assert np.isnan(found.reduced_chi_square).all()
        assert (found.status == SINGULAR).all()


def test_errors_of_exact_data_are_those_of_rounding():
    y = gaussian(X, 3.0, 2.0, 0.7, 0.2)
    for model, guess in (("gaussian", None), (gaussian, (2.0, 1.8, 1.0, 0.0))):
        found = fit_positions(X, y, model, guess=guess)
        assert found.status == CONVERGED
        assert (found.errors > 0).all()
        assert (found.errors < 1e-12).all()


# ---------------------------------------------------------------------- units and neighbours


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from([*TRUTHS, "user"]),
    x_scale=st.sampled_from([1e-12, 1e-3, 7.0, 1e9]),
    y_scale=st.sampled_from([1e-15, 0.3, 1e6, 1e12]),
    seed=st.integers(0, 9),
)
def test_units_change_units_only(name, x_scale, y_scale, seed):
    y = noisy("gaussian" if name == "user" else name, seed=seed)
    model = gaussian if name == "user" else as_model(name)
    names = as_model(model).parameter_names
    guess = (2.0, 1.8, 1.0, 0.0) if name == "user" else None
    of_x, of_y = ("center", "sigma", "gamma", "width", "time_constant"), ("area",)
    factors = [x_scale if n in of_x else y_scale for n in names]
    factors = [f * x_scale if n in of_y else f for n, f in zip(names, factors, strict=True)]
    one = fit_positions(X, y, model, guess=guess)
    scaled = None if guess is None else tuple(np.multiply(guess, factors).tolist())
    other = fit_positions(X * x_scale, y * y_scale, model, guess=scaled)
    assert np.array_equal(one.status, other.status)
    sure = one.status == CONVERGED
    off = np.abs(other.parameters / factors - one.parameters) / one.errors
    assert (off[sure] < 1e-3).all()
    np.testing.assert_allclose(other.errors[sure] / factors, one.errors[sure], rtol=1e-3)


def power(x, height, exponent, level):
    return height * (x + 1) ** exponent + level


GUESSES_OF_ORDER_ONE = {
    "peak": (gaussian, (3.0, 2.5, 0.5, 0.5), (1.0, 2.2, 0.75, 1.0)),
    "decay": (decay, (3.0, 1.0, 1.0), (1.0, 0.3, 1.0)),
    "line": (
        lambda x, height, center, width, level: height / (1 + ((x - center) / width) ** 2) + level,
        (3.0, 2.5, 0.5, 0.5),
        (1.0, 2.2, 0.75, 1.0),
    ),
    "wave": (
        lambda x, height, rate, phase, level: height * np.sin(rate * x + phase) + level,
        (3.0, 3.0, 0.5, 0.5),
        (1.0, 2.9, 0.3, 1.0),
    ),
    "power": (power, (2.0, -0.7, 1.0), (1.0, -1.0, 1.0)),
}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(GUESSES_OF_ORDER_ONE)),
    exponent=st.integers(-15, 15),
    seed=st.integers(0, 5),
)
def test_guesses_of_another_order_than_the_data_end_in_no_other_curve(name, exponent, seed):
    curve, truth, guess = GUESSES_OF_ORDER_ONE[name]
    y = curve(X, *truth) + 0.05 * np.random.default_rng(seed).standard_normal(len(X))
    unit = 10.0**exponent
    found = fit_positions(X, y * unit, curve, guess=guess)
    assert exponent > 0 or found.status == CONVERGED
    if found.status != CONVERGED:
        return
    # a minimum, by differences of the curve that know nothing of the solver
    p = found.parameters
    columns = []
    for step in np.diag(np.where(p == 0, 1.0, np.abs(p)) * 1e-5):
        changed = curve(X, *(p + step)) - curve(X, *(p - step))
        while np.linalg.norm(changed) > 1e-4 * np.linalg.norm(y * unit):
            step = step / 2
            changed = curve(X, *(p + step)) - curve(X, *(p - step))
        columns.append(changed / step.sum())
    scaled = np.stack([c / np.linalg.norm(c) for c in columns], axis=-1)
    residuals = y * unit - curve(X, *p)
    left = scaled @ np.linalg.lstsq(scaled, residuals, rcond=1e-8)[0]
    assert np.linalg.norm(left) < 0.1 * np.sqrt(found.reduced_chi_square)
    if exponent <= 0:
        usual, _ = curve_fit(curve, X, y, truth)
        amounts = [unit, *[1.0] * (len(truth) - 2), unit]
        off = np.abs(p - usual * amounts) / found.errors
        assert (off < 1e-2).all()


def test_a_guess_that_is_far_too_high_falls():
    y = noisy("gaussian", n=1)[0]
    usual = fit_positions(X, y, gaussian, guess=TRUTHS["gaussian"])
    found = fit_positions(X, y, gaussian, guess=(1e8, 2.0, 1.0, 0.0))
    assert found.status == CONVERGED
    assert (np.abs(found.parameters - usual.parameters) < 1e-3 * usual.errors).all()


@pytest.mark.parametrize("seed", range(4))
def test_decays_that_ran_away_have_not_converged(seed):
    def two(x, a, s, b, t):
        return a * np.exp(-x / s) + b * np.exp(-x / t)

    x, truth = np.linspace(0, 10, 60), np.array([3.0, 1.0, 1.0, 5.0])
    rng = np.random.default_rng(seed)
    y = two(x, *truth) + 0.05 * rng.standard_normal(60)
    for _ in range(8):
        guess = tuple((truth * 10 ** rng.uniform(-1, 1, 4)).tolist())
        found = fit_positions(x, y, two, guess=guess)
        sure = found.status == CONVERGED
        assert not sure or (found.errors < 1e3 * np.abs(found.parameters)).all()


@NAMES
@pytest.mark.parametrize("offset", [-1e6, 1e3, 1e7])
def test_where_x_begins_to_count_does_not_matter(name, offset):
    y = noisy(name)
    one, other = fit_positions(X, y, name), fit_positions(X + offset, y, name)
    assert np.array_equal(one.status, other.status)
    shift = [offset if n == "center" else 0.0 for n in as_model(name).parameter_names]
    assert (np.abs(other.parameters - shift - one.parameters) < 1e-3 * one.errors).all()
    np.testing.assert_allclose(other.errors, one.errors, rtol=1e-3)
    np.testing.assert_allclose(other.curve(X + offset), one.curve(X), atol=1e-6)


def test_functions_of_the_user_may_lie_far_from_zero():
    y = noisy("gaussian")
    one = fit_positions(X, y, gaussian, guess=(2.0, 1.8, 1.0, 0.0))
    for offset in (1e3, 1e5, 1e7):
        other = fit_positions(X + offset, y, gaussian, guess=(2.0, offset + 1.8, 1.0, 0.0))
        assert (other.status == CONVERGED).all()
        off = other.parameters - [0, offset, 0, 0] - one.parameters
        assert (np.abs(off) < 1e-2 * one.errors).all()
        np.testing.assert_allclose(other.errors, one.errors, rtol=1e-3)


def test_where_y_begins_to_count_does_not_matter():
    y = noisy("gaussian")
    one, other = fit_positions(X, y, "gaussian"), fit_positions(X, y + 1e6, "gaussian")
    assert (np.abs(other.parameters - [0, 0, 0, 1e6] - one.parameters) < 1e-3 * one.errors).all()
    np.testing.assert_allclose(other.errors, one.errors, rtol=1e-3)


def small_below(x, height, time):
    if np.min(time) < 0.5:
        time = 0.5 + 0 * time
    return height * np.exp(-x / time)


def first_of_all(x, height, time):
    return height * np.exp(-x / np.asarray(time).reshape(-1)[0])


def mean_of_all(x, height, time):
    return height * np.exp(-x / np.mean(time))


@pytest.mark.parametrize("function", [decay, small_below, first_of_all, mean_of_all])
def test_a_result_does_not_depend_on_its_neighbours(function):
    rng = np.random.default_rng(0)
    times = np.concatenate([np.full(10, 2.0), np.full(10, 0.2)])[:, np.newaxis]
    y = 3 * np.exp(-X / times) + 0.01 * rng.standard_normal((20, len(X)))
    y *= np.where(np.arange(20) % 3 == 0, 1e9, 1.0)[:, np.newaxis]
    y[5] = 0
    guess = (1.0,) * len(as_model(function).parameter_names)
    together = fit_positions(X, y, function, guess=guess)
    order = rng.permutation(20)
    shuffled = fit_positions(X, y[order], function, guess=guess)
    for i in range(20):
        alone = fit_positions(X, y[i], function, guess=guess)
        at = int(np.flatnonzero(order == i)[0])
        for field in ("parameters", "errors", "status", "n_evaluations"):
            one = getattr(alone, field)
            assert np.array_equal(one, getattr(together, field)[i], equal_nan=True), field
            assert np.array_equal(one, getattr(shuffled, field)[at], equal_nan=True), field


# ---------------------------------------------------------------------- starts


@pytest.mark.parametrize(
    ("function", "guess", "truth"),
    [
        (lambda x, a, b: a * x + b, (0.0, 0.0), (2.0, 1.0)),
        (lambda x, a, k: a * np.exp(-k * x), (0.0, 0.0), (2.0, 0.3)),
        (lambda x, a, w: a * np.cos(w * x), (1.0, 0.0), (2.0, 0.4)),
        (lambda x, a, w: a / (1 + (w * x) ** 2), (0.0, 0.0), (2.0, 0.4)),
        (lambda x, a, b: a * x**b, (0.0, 0.0), (2.0, 0.4)),
        (lambda x, a, c, s: a * np.exp(-(((x - c) / s) ** 2)), (0.0, 0.0, 1.0), (2.0, 0.5, 1.5)),
    ],
    ids=["line", "decay", "cosine", "dispersion", "power", "peak"],
)
@pytest.mark.parametrize("unit", [1.0, 1e12])
def test_a_guess_of_zero_is_a_guess(function, guess, truth, unit):
    y = function(X, *truth) + 0.01 * np.random.default_rng(0).standard_normal((3, len(X)))
    model = FunctionModel(lambda x, *p: function(x / unit, *p), as_model(function).parameter_names)
    found = fit_positions(X * unit, y, model, guess=guess)
    assert (found.status == CONVERGED).all()
    np.testing.assert_allclose(np.abs(found.parameters), [truth] * 3, rtol=0.05)


def test_short_damped_steps_are_no_convergence():
    # both decays are over at the second point: the first steps can only be tiny
    x = np.arange(0, 330, 10.0)

    def two(x, a, b, c, k, m):
        return a + b * np.exp(-k * x) + c * np.exp(-m * x)

    y = two(x, 0.375, 1.94, -1.46, 0.0129, 0.0221)
    y = y + 1e-3 * np.random.default_rng(0).standard_normal(len(x))
    found = fit_positions(x, y, two, guess=(50.0, 150.0, -100.0, 1.0, 2.0))
    residuals = np.sum((y - two(x, *found.parameters)) ** 2)
    assert found.status != CONVERGED or residuals < 1e-4


def test_a_parameter_that_ran_away_is_tried_again():
    x = np.array([1.0, 2, 3, 5, 7, 10])
    y = np.array([109.0, 149, 149, 191, 213, 224])  # biochemical oxygen demand
    found = fit_positions(x, y, lambda x, b1, b2: b1 * (1 - np.exp(-b2 * x)), guess=(1.0, 1.0))
    assert found.status == CONVERGED
    np.testing.assert_allclose(found.parameters, [213.80940889, 0.54723748], rtol=1e-5)


def test_what_did_not_converge_has_no_errors():
    found = fit_positions(X, noisy("gaussian"), "gaussian", guess=(1.0, 4.5, 3.0, 0.0), max_nfev=2)
    assert (found.status == NOT_CONVERGED).all()
    assert np.isnan(found.errors).all()
    assert np.isfinite(found.parameters).all()


def test_errors_at_an_active_bound_are_those_of_curve_fit():
    y = noisy("gaussian")
    bounds = ([0, 0, 0, 0.3], [10, 5, 3, 1])
    found = fit_positions(X, y, "gaussian", bounds=bounds)
    assert (found.status == AT_BOUND).all()
    for spectrum, errors in zip(y, found.errors, strict=True):
        _, covariance = curve_fit(gaussian, X, spectrum, (2, 2, 1, 0.5), bounds=bounds, ftol=1e-12)
        np.testing.assert_allclose(errors, np.sqrt(np.diagonal(covariance)), rtol=1e-2)
