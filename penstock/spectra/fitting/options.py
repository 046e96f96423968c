"""Bounds, fixed parameters and checks of a fit, as plain values and as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.messages import shown
from penstock.spectra.fitting.models import FunctionModel, Model

CLOSE = 1e-9
"""Bounds closer than this part of themselves hold a parameter fixed."""


def check_data(model: Model, x: np.ndarray, dtype: Any, n_free: int) -> None:
    """Raise ValueError where data (x of the shape (L,) or (dims, L)) and model do not go together.

    `n_free` is how many parameters are not fixed.
    """
    is_complex = np.dtype(dtype).kind == "c"
    named = not isinstance(model, FunctionModel)
    length = x.shape[-1]
    if model.is_complex and not is_complex:
        raise ValueError(
            f"{type(model).__name__} is a model of complex spectra, but the data are {dtype}: fit "
            "the complex response, or another model (lorentzian) to its magnitude"
        )
    if is_complex and named and not model.is_complex:
        raise ValueError(
            f"{type(model).__name__} is a model of real spectra, but the data are {dtype}: fit "
            "their magnitude or real part, or a complex model"
        )
    if length * (2 if is_complex else 1) < n_free:
        raise ValueError(
            f"{n_free} parameters cannot be fitted to spectra of {length} points: fit a simpler "
            "model, or fix parameters"
        )
    if not np.isfinite(x).all():
        raise ValueError("x is not finite everywhere: drop the points where it is not")
    n_dims = 1 if x.ndim == 1 else len(x)
    if named and n_dims != model.n_dims:
        raise ValueError(
            f"{type(model).__name__} is a model over {model.n_dims} dim"
            f"{'s' if model.n_dims > 1 else ''}, but core_dim names {n_dims}"
        )
    for along in np.atleast_2d(x):
        if named and n_free > 1 and length > 1 and along.min() == along.max():
            raise ValueError(
                f"x is {along[0]:g} at all {length} points: {type(model).__name__} cannot be "
                "fitted over an abscissa without extent"
            )


def check_sigma(sigma: np.ndarray | None, length: int) -> None:
    """Raise ValueError where sigma has another length than the spectra."""
    if sigma is not None and sigma.ndim and sigma.shape[-1] not in (1, length):
        raise ValueError(f"sigma has {sigma.shape[-1]} values for spectra of {length} points")


def plain_bounds(bounds: Any, names: tuple[str, ...]) -> Any:
    """Bounds as plain values that compare equal where they mean the same.

    Raises
    ------
    ValueError
        If they are neither ``{name: (low, high)}`` nor ``(lower, upper)``.
    """
    if bounds is None:
        return None
    if isinstance(bounds, Mapping):
        plain = {}
        for name, pair in bounds.items():
            if name not in names:
                raise ValueError(
                    f"bounds of {name!r}: the model has the parameters {', '.join(names)}"
                )
            if not isinstance(pair, list | tuple | np.ndarray) or len(pair) != 2:
                raise ValueError(f"bounds of {name!r} must be (low, high), got {shown(pair)}")
            low, high = pair
            plain[name] = (
                -np.inf if low is None else float(low),
                np.inf if high is None else float(high),
            )
        return plain
    if isinstance(bounds, list | tuple | np.ndarray) and len(bounds) == 2:
        sides = [np.asarray(side, dtype=np.float64) for side in bounds]
        if all(side.shape in ((), (len(names),)) for side in sides):
            return tuple(float(side) if side.ndim == 0 else tuple(side.tolist()) for side in sides)
    raise ValueError(
        f"bounds={shown(bounds)} must be {{name: (low, high)}} or (lower, upper), with one number "
        f"for all or one for each of {', '.join(names)}"
    )


def bound_arrays(bounds: Any, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (n,): those of the user within the limits of the model.

    Raises
    ------
    ValueError
        If a lower bound is above the upper one, or is no number.
    """
    names = model.parameter_names
    lower = np.where(np.isin(names, (*model.positive, *model.not_negative)), 0.0, -np.inf)
    upper = np.full(len(names), np.inf)
    if isinstance(bounds, Mapping):
        for name, (low, high) in bounds.items():
            k = names.index(name)
            lower[k], upper[k] = np.maximum(lower[k], low), np.minimum(upper[k], high)
    elif bounds is not None:
        lower, upper = np.maximum(lower, bounds[0]), np.minimum(upper, bounds[1])
    for name, low, high in zip(names, lower, upper, strict=True):
        if not low <= high or (low == high and not np.isfinite(low)):
            raise ValueError(
                f"the lower bound {low:g} of {name!r} must be less than the upper bound {high:g}"
            )
    return lower, upper


def fixed_values(
    fixed: Mapping[str, float] | None, lower: np.ndarray, upper: np.ndarray, model: Model
) -> np.ndarray:
    """Values of the parameters that are fixed (n,), NaN for the others.

    Bounds that are equal, or so close that no fit could tell, fix a parameter too.

    Raises
    ------
    ValueError
        If nothing is left to be fitted, or a value lies outside of its bounds.
    """
    names = model.parameter_names
    size = np.maximum(np.abs(lower), np.abs(upper))
    closed = np.zeros(len(size), bool)
    finite = np.isfinite(size)
    closed[finite] = (upper - lower)[finite] <= CLOSE * size[finite]
    values = np.full(len(size), np.nan)
    values[closed] = lower[closed] + (upper - lower)[closed] / 2
    for name, value in (fixed or {}).items():
        if name not in names:
            raise ValueError(f"fixed {name!r}: the model has the parameters {', '.join(names)}")
        k = names.index(name)
        if not lower[k] <= value <= upper[k] or (name in model.positive and value <= 0):
            raise ValueError(
                f"{name!r} is fixed at {value:g}, outside of its bounds ({lower[k]:g}, "
                f"{upper[k]:g})"
            )
        values[k] = value
    if not np.isnan(values).any():
        raise ValueError(
            "all parameters are fixed: there is nothing to fit (penstock.spectra.evaluate gives "
            "the curve)"
        )
    return values


def first_parameters(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """What `scipy.optimize.curve_fit` starts from without a guess."""
    begin = np.ones(len(lower))
    both = np.isfinite(lower) & np.isfinite(upper)
    begin[both] = lower[both] + (upper[both] - lower[both]) / 2
    only_lower = np.isfinite(lower) & ~np.isfinite(upper)
    begin[only_lower] = lower[only_lower] + 1
    only_upper = ~np.isfinite(lower) & np.isfinite(upper)
    begin[only_upper] = upper[only_upper] - 1
    return begin
