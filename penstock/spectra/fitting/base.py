"""What a model is, and how any function becomes one.

A model names its parameters and evaluates, for all positions at once, the curve, its derivatives
and a first guess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from penstock.spectra.fitting.rowwise import treats_rows_alone

MODELS: dict[str, type[Model]] = {}
"""Every named model."""


@dataclass(frozen=True)
class Model:
    """Base of all models: a frozen dataclass.

    Subclasses give themselves a `name`, and define `parameter_names` and `function`; `jacobian` and
    `guess` make them fast and easy to use.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from penstock.spectra.fitting.fit import fit_positions
    >>> from penstock.spectra.fitting.models import Model
    >>> @dataclass(frozen=True)
    ... class Sine(Model):
    ...     name = "sine"
    ...     parameter_names = ("amplitude", "rate")
    ...
    ...     def function(self, x, parameters):
    ...         return parameters[:, :1] * np.sin(parameters[:, 1:] * x)
    >>> x = np.linspace(0, 3, 40)
    >>> result = fit_positions(x, [2 * np.sin(1.5 * x)], "sine", guess=(1.0, 1.0))
    >>> result.parameters.round(6).tolist()
    [[2.0, 1.5]]
    """

    name: ClassVar[str] = ""
    """Name in pipelines and files."""
    scratch: ClassVar[float] = 1.0
    """Memory that fitting it takes, in those of a formula of real numbers."""
    is_complex: ClassVar[bool] = False
    """Whether the model is of complex spectra."""
    n_dims: ClassVar[int] = 1
    """Dims that curves lie over; with several, x holds the coordinates of all points (dims, L)."""
    parameter_names: ClassVar[tuple[str, ...]] = ()
    positive: ClassVar[tuple[str, ...]] = ()
    """Parameters that must be greater than 0 for the model to be defined."""
    not_negative: ClassVar[tuple[str, ...]] = ()
    """Parameters that may be 0 but no less."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            MODELS[cls.name] = cls

    def __call__(self, x: Any, *parameters: float) -> np.ndarray:
        """One curve, in the style of `scipy.optimize.curve_fit`.

        Parameters
        ----------
        x : array_like
            Abscissa (L,).
        *parameters : float
            In the order of `parameter_names`.

        Returns
        -------
        numpy.ndarray
            Curve (L,).
        """
        if len(parameters) != len(self.parameter_names):
            raise TypeError(
                f"{type(self).__name__} takes {len(self.parameter_names)} parameters "
                f"({', '.join(self.parameter_names)}), got {len(parameters)}"
            )
        curve: np.ndarray = self.function(np.asarray(x, float), np.array([parameters], float))[0]
        return curve

    def at(self, x: np.ndarray) -> Model:
        """The model with all that it takes from the abscissa decided. Default: itself."""
        return self

    def parameter_attrs(self) -> dict[str, dict[str, Any]]:
        """Attributes of the fitted parameters that their meaning depends on, by name."""
        return {}

    def with_attrs(self, attrs: Mapping[str, Mapping[str, Any]]) -> Model:
        """The model that `parameter_attrs` was asked of, for parameters with these attributes."""
        return self

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        """Curves (P, L) at x (L,) for the parameters of every position (P, n)."""
        raise NotImplementedError(f"{type(self).__name__} defines no function")

    def jacobian(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray | None:
        """Derivatives of the curves by the parameters (P, L, n); None: by differences.

        It is fastest where the memory is (P, n, L), transposed by ``swapaxes(1, 2)``.
        """
        return None

    def jacobian_at(
        self, x: np.ndarray, parameters: np.ndarray, curves: np.ndarray
    ) -> np.ndarray | None:
        """Derivatives where the curves (P, L) are known already: quicker for some models."""
        return self.jacobian(x, parameters)

    def guess(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """First guess of the parameters (P, n) from the spectra (P, L). Default: 1 for each."""
        return np.ones((len(y), len(self.parameter_names)))

    def units(self, x: str | None, y: str | None) -> tuple[str | None, ...]:
        """Units of the parameters where the spectra have `y` over `x`; None where unknown."""
        return (None,) * len(self.parameter_names)

    def canonical(self, parameters: np.ndarray) -> np.ndarray:
        """Of several sets of parameters with the same curve, the usual one (P, n)."""
        return parameters

    def curves(self, x: np.ndarray, around: np.ndarray | None = None) -> Callable[..., np.ndarray]:
        """The function at fixed x: parameters (P, n) to curves (P, L)."""
        return partial(self.function, x)

    def complaint(self, x: np.ndarray, parameters: np.ndarray) -> str:
        """Why the curve with these parameters (n,) is of no use."""
        return "the curve or its derivatives are not finite at the first guess"


def product_units(*factors: tuple[str | None, int]) -> str | None:
    """Unit of a product of powers, as UDUNITS writes it; None where one is unknown.

    Examples
    --------
    >>> product_units(("V", 1), ("Hz", -2))
    'V Hz-2'
    """
    words = []
    for unit, power in factors:
        if not power:
            continue
        if unit is None:
            return None
        base = unit if unit.isalpha() or power == 1 else f"({unit})"
        words.append(base if power == 1 else f"{base}{power}")
    return " ".join(words)


def columns_of(parameters: np.ndarray) -> list[np.ndarray]:
    """Each parameter as a column (P, 1), to be combined with x (L,)."""
    return [parameters[:, k : k + 1] for k in range(parameters.shape[1])]


def empty_jacobian(x: np.ndarray, parameters: np.ndarray, dtype: Any = float) -> np.ndarray:
    """Memory for derivatives, (P, n, L): one parameter's derivatives lie side by side."""
    return np.empty((*parameters.shape, len(x)), dtype)


_NUMERIC = "fciub"
"""Kinds of types that a curve may have."""


@dataclass(frozen=True)
class FunctionModel(Model):
    """Any function in the style of `scipy.optimize.curve_fit`, ``f(x, a, b, c) -> y``.

    Where the function takes columns of parameters, one row a position, and treats every row by
    itself (tried out before it is trusted), it is called once for all positions; otherwise once for
    each. Derivatives are central differences. Over several dims x is (dims, L), to be unpacked:
    ``v, u = x``.

    Parameters
    ----------
    formula : callable
        Curve (L,) for x (L,) and numbers.
    names : tuple of str, optional
        Names of the parameters. Default: those of the function's signature.

    Examples
    --------
    >>> from penstock.spectra.fitting.models import FunctionModel
    >>> FunctionModel(lambda x, slope, level: slope * x + level).parameter_names
    ('slope', 'level')
    """

    formula: Callable[..., Any]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.formula):
            raise TypeError(f"a model needs a function f(x, a, b, ...), got {self.formula!r}")
        if not self.names:
            object.__setattr__(self, "names", _signature_names(self.formula))

    @property
    def parameter_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names

    def function(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        return self.curves(x)(parameters)

    def curves(self, x: np.ndarray, around: np.ndarray | None = None) -> Callable[..., np.ndarray]:
        center = np.ones(len(self.names)) if around is None else around
        # rows that differ in every parameter show a function that mixes them up
        tried = center * (1 + np.array([[0.013], [0.029]]) * np.arange(1, len(center) + 1))
        single = self._one_by_one(x, tried)
        at_once = self._at_once(x, tried)
        trusted = (
            at_once is not None
            and treats_rows_alone(self.formula, x, columns_of(tried))
            and bool(np.isfinite(single).all())
            and not np.array_equal(single[0], single[1])
            and np.allclose(at_once, single, rtol=1e-12, atol=1e-12 * np.abs(single).max())
        )
        return partial(self._in_columns if trusted else self._one_by_one, x)

    def _at_once(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray | None:
        """Curves of all positions with one call; None where that does not work."""
        try:
            curves = np.asarray(self.formula(x, *columns_of(parameters)))
        except Exception:
            return None
        usable = curves.shape == (len(parameters), x.shape[-1]) and curves.dtype.kind in _NUMERIC
        return curves if usable else None

    def _in_columns(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        blank = np.full((1, x.shape[-1]), np.nan)
        if not len(parameters):
            return blank[:0]
        curves = self._at_once(x, parameters)
        if curves is not None:
            return curves
        # one position spoils it: columns of one row have the rounding of those of many
        rows = [self._at_once(x, row[np.newaxis]) for row in parameters]
        return np.concatenate([blank if row is None else row for row in rows])

    def _one_by_one(self, x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        rows = []
        for row in parameters:
            try:
                rows.append(np.broadcast_to(self.curve_at(x, row), x.shape[-1:]))
            except Exception:
                rows.append(np.full(x.shape[-1:], np.nan))
        return np.stack(rows) if rows else np.empty((0, x.shape[-1]))

    def curve_at(self, x: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The function's curve at x (L,) with one set of parameters (n,); its errors are raised.

        Raises
        ------
        ValueError, TypeError
            If it returns no number or curve (L,); and whatever it raises itself.
        """
        curve = np.asarray(self.formula(x, *row))
        if curve.shape not in ((), x.shape[-1:]):
            raise ValueError(f"returned shape {curve.shape} for x of shape {x.shape}")
        if curve.dtype.kind not in _NUMERIC:
            raise TypeError(f"returned values of type {curve.dtype}")
        return curve

    def complaint(self, x: np.ndarray, parameters: np.ndarray) -> str:
        name = getattr(self.formula, "__name__", repr(self.formula))
        try:
            self.curve_at(x, parameters)
        except Exception as error:
            return f"{name}: {str(error) or type(error).__name__}"
        return super().complaint(x, parameters)


def _signature_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's parameters after the first."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in by_position)
    if len(names) < 2 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise ValueError(
            f"the parameters of {getattr(function, '__name__', function)!r} cannot be told from "
            "its signature: write f(x, a, b, ...), or FunctionModel(f, names=('a', 'b', ...))"
        )
    return names[1:]
