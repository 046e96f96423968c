"""Models: what can be fitted at every position.

Every model evaluates curves, derivatives and first guesses of all positions at once; `as_model`
finds them by name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.processor import function_name
from penstock.spectra.fitting.base import (
    MODELS,
    FunctionModel,
    Model,
    columns_of,
    empty_jacobian,
    product_units,
)
from penstock.spectra.fitting.guesses import (
    guess_decays,
    guess_oscillators,
    guess_peaks,
    oscillator_response,
)

__all__ = [
    "ExponentialDecay",
    "FunctionModel",
    "Gaussian",
    "Lorentzian",
    "Model",
    "Polynomial",
    "SimpleHarmonicOscillator",
    "Voigt",
    "as_model",
    "plain_model",
]


@dataclass(frozen=True)
class SimpleHarmonicOscillator(Model):
    """Complex response of a damped harmonic oscillator to a drive of frequency x.

    ``y = A exp(i φ) f² / (x² - i x f / Q - f²)`` with amplitude A [units of y], resonance frequency
    f [units of x], quality factor Q and phase φ [rad]. Frequency and quality factor are both
    positive or (by ``canonical``) made so for the frequency, A is not negative, φ lies in
    (-π, π]. A is the static amplitude; the peak is Q times as high.

    This is the convention of band-excitation piezoresponse force microscopy: ``SHOfunc`` of
    pycroscopy and BGlib; S. Jesse et al., Nanotechnology 18 (2007) 435503.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fitting.models import SimpleHarmonicOscillator
    >>> y = SimpleHarmonicOscillator()(np.array([100.0]), 1.0, 100.0, 50.0, 0.0)
    >>> complex(y[0].round(9))
    50j
    """

    name = "simple_harmonic_oscillator"
    is_complex = True
    parameter_names = ("amplitude", "frequency", "quality_factor", "phase")

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, frequency, quality, phase = columns_of(parameters)
        response, _ = oscillator_response(x / frequency, quality)
        response *= amplitude * np.exp(1j * phase)
        return response

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        return self.jacobian_at(x, parameters, self.function(x, parameters))

    def jacobian_at(self, x: np.ndarray, parameters: np.ndarray, curves: np.ndarray) -> np.ndarray:
        amplitude, frequency, quality, phase = columns_of(parameters)
        u = x / frequency
        turn = np.exp(1j * phase)
        columns = empty_jacobian(x, parameters, np.complex128)
        with np.errstate(all="ignore"):
            np.divide(curves, amplitude, out=columns[:, 0])
        blank = np.flatnonzero(amplitude == 0)
        if len(blank):  # nothing of their shape is in their curves
            response, _ = oscillator_response(u[blank], quality[blank])
            columns[blank, 0] = response * turn[blank]
        np.multiply(curves, 1j, out=columns[:, 3])
        # the rest is the square of the response, times powers of u
        rest = columns[:, 0] * curves
        rest *= u
        rest *= 1 / turn
        np.multiply(rest, -1j / quality**2, out=columns[:, 2])
        rest *= u
        rest *= 2 / frequency
        np.multiply(columns[:, 2], quality / frequency, out=columns[:, 1])
        columns[:, 1] += rest
        return columns.swapaxes(1, 2)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return guess_oscillators(x, y)

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        return (y, x, "1", "rad")

    def canonical(self, parameters: np.ndarray) -> np.ndarray:
        amplitude, frequency, quality, phase = parameters.T
        phase = np.where(amplitude < 0, phase + np.pi, phase)
        turns = np.ceil((phase - np.pi) / (2 * np.pi))
        sign = np.where(frequency < 0, -1.0, 1.0)
        wrapped = phase - 2 * np.pi * turns
        return np.stack([np.abs(amplitude), sign * frequency, sign * quality, wrapped], axis=1)


@dataclass(frozen=True)
class Gaussian(Model):
    """Gaussian peak (or dip) on a constant.

    ``y = A exp(-(x - c)² / (2 σ²)) + offset`` with amplitude A (height over the offset, [units of
    y]), center c and standard deviation sigma [units of x], as `astropy.modeling.models.Gaussian1D`
    (lmfit's ``amplitude`` is the area instead). The full width at half maximum is 2.3548 σ.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fitting.models import Gaussian
    >>> Gaussian()(np.array([3.0, 100.0]), 2.0, 3.0, 1.0, 0.5).tolist()
    [2.5, 0.5]
    """

    name = "gaussian"
    parameter_names = ("amplitude", "center", "sigma", "offset")

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, center, sigma, offset = columns_of(parameters)
        t = (x - center) / sigma
        return amplitude * np.exp(-t * t / 2) + offset

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, center, sigma, _ = columns_of(parameters)
        t = (x - center) / sigma
        columns = empty_jacobian(x, parameters)
        np.exp(-t * t / 2, out=columns[:, 0])
        np.multiply(columns[:, 0] * t, amplitude / sigma, out=columns[:, 1])
        np.multiply(columns[:, 1], t, out=columns[:, 2])
        columns[:, 3] = 1.0
        return columns.swapaxes(1, 2)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        peaks = guess_peaks(x, y)
        sigma = peaks.width / np.sqrt(2 * np.log(2))
        return np.stack([peaks.amplitude, peaks.center, sigma, peaks.offset], axis=1)

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        return (y, x, x, y)

    def canonical(self, parameters: np.ndarray) -> np.ndarray:
        amplitude, center, sigma, offset = parameters.T
        return np.stack([amplitude, center, np.abs(sigma), offset], axis=1)


@dataclass(frozen=True)
class Lorentzian(Model):
    """Lorentzian (Cauchy) peak or dip on a constant.

    ``y = A γ² / ((x - c)² + γ²) + offset`` with amplitude A (height over the offset, [units of y]),
    center c and gamma, the half width at half maximum [units of x]; as
    `astropy.modeling.models.Lorentz1D` with ``fwhm = 2 γ``.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fitting.models import Lorentzian
    >>> Lorentzian()(np.array([3.0, 4.0]), 2.0, 3.0, 1.0, 0.5).tolist()
    [2.5, 1.5]
    """

    name = "lorentzian"
    parameter_names = ("amplitude", "center", "gamma", "offset")

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, center, gamma, offset = columns_of(parameters)
        t = (x - center) / gamma
        return amplitude / (t * t + 1) + offset

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, center, gamma, _ = columns_of(parameters)
        t = (x - center) / gamma
        columns = empty_jacobian(x, parameters)
        np.divide(1.0, t * t + 1, out=columns[:, 0])
        np.multiply(columns[:, 0] ** 2 * t, 2 * amplitude / gamma, out=columns[:, 1])
        np.multiply(columns[:, 1], t, out=columns[:, 2])
        columns[:, 3] = 1.0
        return columns.swapaxes(1, 2)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        peaks = guess_peaks(x, y)
        return np.stack([peaks.amplitude, peaks.center, peaks.width, peaks.offset], axis=1)

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        return (y, x, x, y)

    def canonical(self, parameters: np.ndarray) -> np.ndarray:
        amplitude, center, gamma, offset = parameters.T
        return np.stack([amplitude, center, np.abs(gamma), offset], axis=1)


@dataclass(frozen=True)
class Voigt(Model):
    """Voigt peak or dip on a constant: a Gaussian and a Lorentzian convolved.

    ``y = area Re w(z) / (σ sqrt(2π)) + offset`` with ``z = (x - c + i γ) / (σ sqrt(2))`` and the
    Faddeeva function w (`scipy.special.wofz`); area [units of y times x], center c, standard
    deviation sigma > 0 of the Gaussian and half width at half maximum gamma >= 0 of the Lorentzian
    [units of x]. The profile over `area` is that of `scipy.special.voigt_profile`; lmfit calls the
    area ``amplitude``. These limits are always kept.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import voigt_profile
    >>> from penstock.spectra.fitting.models import Voigt
    >>> x = np.linspace(-3, 3, 7)
    >>> bool(np.allclose(Voigt()(x, 2.0, 0.0, 1.0, 0.5, 0.0), 2 * voigt_profile(x, 1.0, 0.5)))
    True
    """

    name = "voigt"
    scratch = 2.0  # (w is complex, and so is its derivative)
    parameter_names = ("area", "center", "sigma", "gamma", "offset")
    positive = ("sigma",)
    not_negative = ("gamma",)

    @staticmethod
    def _faddeeva(x: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from scipy.special import wofz

        _, center, sigma, gamma, _ = columns_of(parameters)
        z = (x - center + 1j * gamma) / (sigma * np.sqrt(2))
        return z, wofz(z)

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        area, _, sigma, _, offset = columns_of(parameters)
        _, w = self._faddeeva(x, parameters)
        return area / (sigma * np.sqrt(2 * np.pi)) * w.real + offset

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        area, _, sigma, _, _ = columns_of(parameters)
        z, w = self._faddeeva(x, parameters)
        slope, spread = _faddeeva_derivatives(z, w)
        height = 1 / (sigma * np.sqrt(2 * np.pi))
        per_z = area * height / (sigma * np.sqrt(2))
        columns = empty_jacobian(x, parameters)
        np.multiply(w.real, height, out=columns[:, 0])
        np.multiply(slope.real, -per_z, out=columns[:, 1])
        np.multiply(spread.real, -area * height / sigma, out=columns[:, 2])
        np.multiply(slope.imag, -per_z, out=columns[:, 3])
        columns[:, 4] = 1.0
        return columns.swapaxes(1, 2)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        peaks = guess_peaks(x, y)
        # equal shares: fwhm = 0.5346 L + sqrt(0.2166 L² + G²) (Olivero and Longbothum, 1977)
        share = peaks.width / (0.5346 + np.sqrt(1.2166))
        sigma = share / np.sqrt(2 * np.log(2))
        top = self.function(
            np.zeros(1),
            np.stack([np.ones_like(share), 0 * share, sigma, share, 0 * share], axis=1),
        )[:, 0]
        return np.stack([peaks.amplitude / top, peaks.center, sigma, share, peaks.offset], axis=1)

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        return (product_units((y, 1), (x, 1)), x, x, x, y)


def _faddeeva_derivatives(z: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of w(z) and of z w(z).

    Far from 0, where their definitions cancel (a narrow Gaussian), by the asymptotic series of w
    (Abramowitz and Stegun, 7.1.23).
    """
    factor = 1j / np.sqrt(np.pi)
    slope = 2 * factor - 2 * z * w
    spread = w + z * slope
    far = np.abs(z) > 30
    if far.any():
        inverse = 1 / z[far]
        q = inverse * inverse
        series = 1 + q * (3 / 2 + q * (15 / 4 + q * (105 / 8 + q * 945 / 16)))
        slope[far] = -factor * q * series
        series = 1 + q * (3 + q * (45 / 4 + q * (105 / 2 + q * 4725 / 16)))
        spread[far] = -factor * q * inverse * series
    return slope, spread


@dataclass(frozen=True)
class ExponentialDecay(Model):
    """Exponential decay to a constant.

    ``y = A exp(-(x - origin) / τ) + offset`` with amplitude A at the origin [units of y] and
    time_constant τ [units of x], negative for growth.

    Parameters
    ----------
    origin : float, optional
        Where the amplitude is that of the curve over its offset [units of x]. Default: 0, or the
        smallest x where all are further from 0 than ten times their extent (the seconds of a
        clock): at 0 the amplitude would be beyond all numbers. Results keep it as the attribute
        ``origin`` of ``amplitude``.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fitting.models import ExponentialDecay
    >>> ExponentialDecay()(np.array([0.0]), 2.0, 3.0, 0.5).tolist()
    [2.5]
    >>> ExponentialDecay(origin=1000.0)(np.array([1000.0]), 2.0, 3.0, 0.5).tolist()
    [2.5]
    """

    name = "exponential_decay"
    parameter_names = ("amplitude", "time_constant", "offset")
    origin: float | None = None

    def _origin(self, x: np.ndarray) -> float:
        if self.origin is not None:
            return self.origin
        far = len(x) and np.abs(x).min() > 10 * np.ptp(x) > 0
        return float(x.min()) if far else 0.0

    def at(self, x: np.ndarray) -> Model:
        return dataclasses.replace(self, origin=self._origin(x))

    def parameter_attrs(self) -> dict[str, dict[str, Any]]:
        return {"amplitude": {"origin": float(self.origin)}} if self.origin else {}

    def with_attrs(self, attrs: Mapping[str, Mapping[str, Any]]) -> Model:
        origin = attrs.get("amplitude", {}).get("origin", self.origin or 0.0)
        return dataclasses.replace(self, origin=float(origin))

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, time_constant, offset = columns_of(parameters)
        return amplitude * np.exp((self._origin(x) - x) / time_constant) + offset

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        amplitude, time_constant, _ = columns_of(parameters)
        t = x - self._origin(x)
        columns = empty_jacobian(x, parameters)
        np.exp(-t / time_constant, out=columns[:, 0])
        np.multiply(columns[:, 0] * t, amplitude / time_constant**2, out=columns[:, 1])
        columns[:, 2] = 1.0
        return columns.swapaxes(1, 2)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return guess_decays(x - self._origin(x), y)

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        return (y, x, y)


@dataclass(frozen=True)
class Polynomial(Model):
    """Polynomial ``y = c0 + c1 x + c2 x² + ...``, as `numpy.polynomial.Polynomial`.

    The first guess is the least-squares solution already, found in Legendre polynomials over the
    range of x, which stay well conditioned where powers of x do not.

    Parameters
    ----------
    degree : int
        Highest power, 0 or more. Coefficient k has the units of y over those of x to the k.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fitting.models import Polynomial
    >>> Polynomial(2)(np.array([2.0]), 1.0, 10.0, 100.0).tolist()
    [421.0]
    """

    name = "polynomial"
    degree: int

    def __post_init__(self) -> None:
        degree: Any = self.degree
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
            raise ValueError(f"degree={degree!r} must be a whole number, 0 or more")

    @property
    def parameter_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"c{k}" for k in range(self.degree + 1))

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        curve = np.repeat(parameters[:, -1:], len(x), axis=1)
        for k in range(self.degree - 1, -1, -1):
            curve *= x
            curve += parameters[:, k : k + 1]
        return curve

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        columns = empty_jacobian(x, parameters)
        columns[:] = x ** np.arange(self.degree + 1)[:, np.newaxis]
        return columns.swapaxes(1, 2)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        domain = (float(x.min()), float(x.max()))
        if domain[0] == domain[1]:
            domain = (domain[0] - 1, domain[0] + 1)
        powers = np.zeros((self.degree + 1, self.degree + 1))
        for k in range(self.degree + 1):
            basis = np.polynomial.Legendre.basis(k, domain=domain)
            powers[: k + 1, k] = basis.convert(kind=np.polynomial.Polynomial).coef
        scaled = np.interp(x, domain, (-1, 1))
        solution = powers @ np.linalg.pinv(np.polynomial.legendre.legvander(scaled, self.degree))
        coefficients: np.ndarray = np.vecdot(y[:, np.newaxis], solution)
        return coefficients

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        return tuple(product_units((y, 1), (x, -k)) for k in range(self.degree + 1))


def as_model(model: Any) -> Model:
    """The model that is meant.

    Parameters
    ----------
    model : Model, str, mapping or callable
        A model; the name of one; a name with parameters, ``{"polynomial": {"degree": 3}}``; or a
        function ``f(x, a, b, ...)``.

    Returns
    -------
    Model

    Raises
    ------
    ValueError, TypeError
        If there is no such model, with those there are.

    Examples
    --------
    >>> from penstock.spectra.fitting.models import as_model
    >>> as_model({"polynomial": {"degree": 1}})
    Polynomial(degree=1)
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, type) and issubclass(model, Model):
        raise TypeError(f"{model.__name__} is a class: write {model.__name__}(...)")
    if isinstance(model, str):
        return _named_model(model, {})
    if isinstance(model, Mapping) and len(model) == 1:
        name, given = next(iter(model.items()))
        if isinstance(given, Mapping):
            return _named_model(str(name), given)
    if callable(model):
        return FunctionModel(model)
    raise TypeError(
        f"model={model!r} must be a name, {{name: parameters}}, a Model or a function f(x, a, ...)"
    )


def _named_model(name: str, given: Mapping[str, Any]) -> Model:
    if name not in MODELS:
        if ":" in name:
            raise ValueError(
                f"model {name!r} is a function, which a file cannot name: give Fit the function in "
                "Python, or define a Model with a name"
            )
        close = difflib.get_close_matches(name, MODELS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(MODELS))}"
        raise ValueError(f"no model is called {name!r}: {hint}")
    cls = MODELS[name]
    fields = [f.name for f in dataclasses.fields(cls) if f.init]
    wrong = [key for key in given if key not in fields]
    if wrong:
        listed = ", ".join(fields) or "none"
        raise ValueError(f"model {name!r} has no parameter {wrong[0]!r}: it has {listed}")
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(
            f"model {name!r} needs {', '.join(fields)}: write "
            f"{{{name!r}: {{{', '.join(f'{field!r}: ...' for field in fields)}}}}}"
        ) from error


def plain_model(model: Model) -> Any:
    """A model as plain values, which `as_model` takes back: a name, or a name with parameters.

    A function has no name that a file may use: what stands for it only tells it from others.
    """
    if isinstance(model, FunctionModel):
        return f"{function_name(model.formula)}({', '.join(model.names)})"
    given = {
        f.name: getattr(model, f.name)
        for f in dataclasses.fields(model)
        if f.init and getattr(model, f.name) != f.default
    }
    return {model.name: given} if given else model.name
