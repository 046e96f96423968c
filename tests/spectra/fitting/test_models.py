"""Models against independent definitions: formulas, derivatives, guesses, names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.special import voigt_profile

from penstock.spectra.fitting.models import (
    ExponentialDecay,
    FunctionModel,
    Gaussian,
    Lorentzian,
    Model,
    Polynomial,
    SimpleHarmonicOscillator,
    Voigt,
    as_model,
    plain_model,
)

X = np.linspace(0.2, 10.0, 61)


def sho(x, amplitude, frequency, quality, phase):
    """SHOfunc of pycroscopy, as published."""
    return (
        amplitude
        * np.exp(1j * phase)
        * frequency**2
        / (x**2 - 1j * x * frequency / quality - frequency**2)
    )


def gaussian(x, amplitude, center, sigma, offset):
    return amplitude * np.exp(-((x - center) ** 2) / (2 * sigma**2)) + offset


def lorentzian(x, amplitude, center, gamma, offset):
    return amplitude / (1 + ((x - center) / gamma) ** 2) + offset


def voigt(x, area, center, sigma, gamma, offset):
    return area * voigt_profile(x - center, sigma, gamma) + offset


def decay(x, amplitude, time_constant, offset):
    return amplitude * np.exp(-x / time_constant) + offset


def polynomial(x, *coefficients):
    return np.polynomial.Polynomial(coefficients)(x)


signed = st.floats(0.1, 5.0) | st.floats(-5.0, -0.1)
width = st.floats(0.3, 3.0)
center = st.floats(1.0, 9.0)
CASES = [
    (SimpleHarmonicOscillator(), sho, (signed, center, st.floats(1.0, 80.0), st.floats(-3, 3))),
    (Gaussian(), gaussian, (signed, center, width, signed)),
    (Lorentzian(), lorentzian, (signed, center, width, signed)),
    (Voigt(), voigt, (signed, center, width, st.floats(0.0, 3.0), signed)),
    (ExponentialDecay(), decay, (signed, st.floats(0.5, 8.0), signed)),
    (Polynomial(0), polynomial, (signed,)),
    (Polynomial(3), polynomial, (signed,) * 4),
]
NAMES = [repr(model) for model, _, _ in CASES]


def rows(strategies):
    return st.lists(st.tuples(*strategies), min_size=1, max_size=4)


@pytest.mark.parametrize(("model", "formula", "strategies"), CASES, ids=NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_curve_is_its_formula(model, formula, strategies, data):
    parameters = data.draw(rows(strategies))
    curves = model.function(X, np.array(parameters))
    expected = np.array([formula(X, *row) for row in parameters])
    np.testing.assert_allclose(curves, expected, rtol=1e-10, atol=1e-12)
    assert np.array_equal(model(X, *parameters[-1]), curves[-1])


@pytest.mark.parametrize(("model", "formula", "strategies"), CASES, ids=NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_derivatives_are_those_of_the_formula(model, formula, strategies, data):
    parameters = np.array(data.draw(rows(strategies)))
    jacobian = model.jacobian(X, parameters)
    assert jacobian.shape == (len(parameters), len(X), parameters.shape[1])
    for row, found in zip(parameters, jacobian, strict=True):
        for k in range(len(row)):
            # five points: the truncation error is of the fourth order
            step = np.zeros(len(row))
            step[k] = 1e-4 * max(abs(row[k]), 0.1)
            if formula is voigt and row[3] < 3 * step[3]:
                row[3] += 3 * step[3]
                found = model.jacobian(X, row[np.newaxis])[0]
            difference = (
                8 * (formula(X, *(row + step)) - formula(X, *(row - step)))
                - formula(X, *(row + 2 * step))
                + formula(X, *(row - 2 * step))
            ) / (12 * step[k])
            scale = np.abs(difference).max()
            np.testing.assert_allclose(found[:, k], difference, rtol=0, atol=2e-6 * scale + 1e-9)


@pytest.mark.parametrize("sigma", [0.03, 1e-3, 1e-6, 1e-9])
def test_a_narrow_voigt_keeps_its_derivatives(sigma):
    # V changes with half the variance as its second derivative says (the equation of heat), and is
    # -Im 1/(x + i gamma) / pi without the Gaussian
    x, gamma = np.linspace(-3, 3, 41), 0.7
    t = x + 1j * gamma
    jacobian = Voigt().jacobian(x, np.array([[2.0, 0.0, sigma, gamma, 0.0]]))[0]
    for column, expected in (
        (jacobian[:, 1], -2 * (1 / t**2).imag / np.pi),
        (jacobian[:, 2] / sigma, -4 * (1 / t**3).imag / np.pi),
        (jacobian[:, 3], 2 * (1j / t**2).imag / np.pi),
    ):
        np.testing.assert_allclose(column, expected, rtol=0, atol=50 * sigma**2 + 1e-12)


@pytest.mark.parametrize(
    ("model", "parameters", "close"),
    [
        (SimpleHarmonicOscillator(), [[1e-5, 4.0, 60.0, 1.0], [3.0, 7.0, 20.0, -3.0]], 1e-6),
        (Gaussian(), [[2.0, 4.0, 0.8, 1.0], [-2.0, 7.0, 0.5, 1.0]], 0.25),
        (Lorentzian(), [[2.0, 4.0, 0.5, 1.0], [-3.0, 6.0, 0.3, -1.0]], 0.25),
        (Voigt(), [[2.0, 5.0, 0.3, 0.3, 1.0], [-2.0, 4.0, 0.3, 0.3, 1.0]], 0.5),
        (ExponentialDecay(), [[2.0, 3.0, 1.0], [-1.0, 1.5, 5.0], [0.1, -4.0, 2.0]], 0.02),
        (Polynomial(3), [[1.0, -2.0, 3.0, -0.5], [0.0, 1.0, 0.0, 2.0]], 1e-9),
    ],
    ids=lambda value: repr(value) if isinstance(value, Model) else "",
)
def test_guesses_are_near_the_truth(model, parameters, close):
    truth = np.array(parameters)
    guess = model.guess(X, model.function(X, truth))
    assert guess.shape == truth.shape
    np.testing.assert_allclose(guess, truth, rtol=close, atol=close)
    # in any order of the points, and each for itself
    shuffled = np.random.default_rng(0).permutation(len(X))
    if not isinstance(model, Gaussian | Lorentzian | Voigt):
        again = model.guess(X[shuffled], model.function(X[shuffled], truth))
        np.testing.assert_allclose(again, truth, rtol=close, atol=close)
    alone = [model.guess(X, model.function(X, row[np.newaxis]))[0] for row in truth]
    assert np.array_equal(guess, alone)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(signed, signed, signed, st.floats(-30, 30)),
    st.sampled_from([SimpleHarmonicOscillator(), Gaussian(), Lorentzian()]),
)
def test_the_usual_parameters_give_the_same_curve(row, model):
    parameters = np.array([row])
    usual = model.canonical(parameters)
    scale = np.abs(model.function(X, parameters)).max()
    np.testing.assert_allclose(
        model.function(X, usual), model.function(X, parameters), rtol=1e-9, atol=1e-9 * scale
    )
    if isinstance(model, SimpleHarmonicOscillator):
        amplitude, frequency, _, phase = usual[0]
        assert amplitude >= 0
        assert frequency > 0
        assert -np.pi <= phase <= np.pi
    else:
        assert usual[0, 2] > 0


def test_units_follow_from_those_of_the_data():
    assert Gaussian().units("Hz", "V") == ("V", "Hz", "Hz", "V")
    assert Voigt().units("Hz", "V")[0] == "V Hz"
    assert Polynomial(2).units("m/s", "V") == ("V", "V (m/s)-1", "V (m/s)-2")
    assert SimpleHarmonicOscillator().units("Hz", "m") == ("m", "Hz", "1", "rad")
    assert Polynomial(1).units(None, "V") == ("V", None)


def test_models_work_with_curve_fit():
    truth = (2.0, 4.0, 0.8, 1.0)
    found, _ = curve_fit(Gaussian(), X, gaussian(X, *truth), p0=(1, 3.5, 1, 0))
    np.testing.assert_allclose(found, truth, rtol=1e-6)
    with pytest.raises(TypeError, match=r"takes 4 parameters \(amplitude, center, sigma, offset\)"):
        Gaussian()(X, 1.0, 2.0)


# ---------------------------------------------------------------------- functions


def plain(x, a, b):
    return a * np.exp(-b * x)


def normalised(x, a, b):
    """Mixes up positions where they are columns."""
    y = a * np.exp(-b * x)
    return y / np.max(y) * a


def branching(x, a, b):
    return a * x if a < b else b * x


def looking_up(x, a, b):
    return np.interp(x, [0.0, 10.0], [a, b])


def running(x, a, b):
    """Runs through all positions where they are columns."""
    return np.cumsum(a * x + b).reshape(np.shape(a * x))


def level(x, a, b):
    return a + b


@pytest.mark.parametrize(
    "function", [plain, normalised, branching, looking_up, running, level], ids=lambda f: f.__name__
)
def test_any_function_gives_what_it_gives_one_by_one(function):
    parameters = np.random.default_rng(1).uniform(0.2, 2.0, (7, 2))
    expected = [np.broadcast_to(function(X, *row), X.shape) for row in parameters]
    found = FunctionModel(function).function(X, parameters)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_function_that_can_take_all_positions_is_called_once_for_them():
    calls = []

    def counted(x, a, b):
        calls.append(np.shape(a))
        return a * x + b

    curves = FunctionModel(counted).curves(X)
    calls.clear()
    curves(np.ones((500, 2)))
    assert calls == [(500, 1)]


def test_names_come_from_the_signature():
    assert FunctionModel(plain).parameter_names == ("a", "b")
    assert FunctionModel(lambda x, *p: p[0] * x, ("slope",)).parameter_names == ("slope",)
    with pytest.raises(ValueError, match=r"cannot be told from its signature: write f\(x, a, b"):
        FunctionModel(lambda x, *p: p[0] * x)
    with pytest.raises(ValueError, match="cannot be told"):
        FunctionModel(lambda x: x)


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "model",
    [
        Gaussian(),
        Lorentzian(),
        Voigt(),
        ExponentialDecay(),
        Polynomial(4),
        SimpleHarmonicOscillator(),
    ],
    ids=repr,
)
def test_models_survive_as_plain_values(model):
    assert as_model(plain_model(model)) == model
    assert as_model(model) is model


def test_what_is_no_model_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"no model is called 'gausian': did you mean 'gaussian'"):
        as_model("gausian")
    with pytest.raises(ValueError, match="there are exponential_decay, gaussian"):
        as_model("?")
    with pytest.raises(ValueError, match=r"needs degree: write \{'polynomial': \{'degree'"):
        as_model("polynomial")
    with pytest.raises(ValueError, match="has no parameter 'order': it has degree"):
        as_model({"polynomial": {"order": 2}})
    with pytest.raises(ValueError, match=r"degree=-1 must be a whole number"):
        Polynomial(-1)
    with pytest.raises(ValueError, match="is a function, which a file cannot name"):
        as_model("os:system")
    with pytest.raises(TypeError, match=r"Gaussian is a class: write Gaussian\(\.\.\.\)"):
        as_model(Gaussian)
    with pytest.raises(TypeError, match="must be a name"):
        as_model(3)
