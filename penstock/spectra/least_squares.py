"""From spectra to records of results: guesses, the solver, statistics, reasons of failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from penstock.results import Field, record_dtype
from penstock.spectra.levenberg import (
    AT_BOUND,
    CONVERGED,
    FAILED,
    SINGULAR,
    STATUS_MEANINGS,
    Positions,
    Problem,
    Tolerances,
    covariances,
    levenberg_marquardt,
    reduced_chi_square,
    scipy_least_squares,
)
from penstock.spectra.models import FunctionModel, Model

_TILE_BYTES = 2 << 20
"""Derivatives of the positions that are worked on at once: they should stay in the cache."""

First = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Numbers of positions (P,) and their spectra (P, L) to first parameters (P, n); NaN for the usual
guess."""


@dataclass(frozen=True)
class LeastSquares:
    """All that is fixed about a fit, whatever the data."""

    model: Model
    guess: tuple[float, ...] | Callable[..., Any] | None
    bounds: tuple[np.ndarray, np.ndarray]
    sigma: np.ndarray | None = None
    absolute_sigma: bool = False
    method: Literal["batched", "scipy"] = "batched"
    tolerances: Tolerances = field(default_factory=Tolerances)

    def fit(
        self,
        x: np.ndarray,
        block: np.ndarray,
        first: np.ndarray | First | None = None,
        *,
        fall_back: bool = False,
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Fit all spectra of a block.

        Parameters
        ----------
        x : numpy.ndarray
            Abscissa (L,).
        block : numpy.ndarray
            Spectra (..., L).
        first : array (P, n) or callable, optional
            Where fits start, NaN for the usual guess.
        fall_back : bool, default False
            Whether fits that `first` leads nowhere start again from the usual guess: those that
            fail, do not converge, are singular, or end with a larger sum of squares than the usual
            guess begins with (unless that is a function of the user, which may be slow).

        Returns
        -------
        records : numpy.ndarray
            Structured array (...) with the fields of `result_fields`.
        reasons : dict of int to str
            Why positions failed, by their number.
        """
        loops = block.shape[:-1]
        n_positions = int(np.prod(loops))
        dtype = np.complex128 if block.dtype.kind == "c" else np.float64
        problem = self._problem(x)
        reasons: dict[int, str] = {}
        usual_squares = np.full(n_positions, np.inf)

        def load(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.arange(start, stop)
            index = np.unravel_index(rows, loops) if loops else ()
            spectra = np.ascontiguousarray(block[index].reshape(-1, len(x)), dtype=dtype)
            if first is None:
                return spectra, self._guessed(x, spectra, rows, reasons)
            begin = first(rows, spectra) if callable(first) else first[rows]
            missing = np.flatnonzero(np.isnan(begin).any(axis=1))
            if fall_back and not callable(self.guess):
                usual_squares[start:stop] = _squares(
                    problem, spectra, self._guessed(x, spectra, rows, reasons)
                )
            if len(missing):
                begin[missing] = self._guessed(x, spectra[missing], rows[missing], reasons)
            return spectra, begin

        records = np.zeros(n_positions, record_dtype(result_fields(self.model)))
        row_bytes = 8 * len(x) * len(self.bounds[0]) * (2 if dtype is np.complex128 else 1)
        tile = int(np.clip(_TILE_BYTES // row_bytes, 1, 4096))
        solve = levenberg_marquardt if self.method == "batched" else scipy_least_squares
        lost = np.zeros(n_positions, bool)
        for done in solve(problem, load, n_positions, tile):
            for i in np.flatnonzero(done.status == FAILED):
                row = int(done.rows[i])
                known = reasons.get(row)
                reasons[row] = self._reason(x, done.data[i], done.parameters[i], known)
            lost[done.rows] = ~(done.squares <= usual_squares[done.rows])
            self._write(records, problem, done)
        if fall_back:
            rows = np.flatnonzero(lost | ~np.isin(records["status"], (CONVERGED, AT_BOUND)))
            self._start_again(x, block, rows, records, reasons)
        return records.reshape(loops), reasons

    def _start_again(
        self,
        x: np.ndarray,
        block: np.ndarray,
        rows: np.ndarray,
        records: np.ndarray,
        reasons: dict[int, str],
    ) -> None:
        """Fit some positions from the usual guess, and keep what is better than before."""
        if not len(rows):
            return
        loops = block.shape[:-1]
        index = np.unravel_index(rows, loops) if loops else np.newaxis
        again, complaints = self.fit(x, block[index])
        before = records[rows]
        usable, was_usable = (np.isin(r["status"], (CONVERGED, AT_BOUND)) for r in (again, before))
        better = (usable & ~was_usable) | (before["status"] == FAILED)
        better |= again["reduced_chi_square"] <= before["reduced_chi_square"]
        records[rows[better]] = again[better]
        for i in np.flatnonzero(better):
            reasons.pop(int(rows[i]), None)
            if int(i) in complaints:
                reasons[int(rows[i])] = complaints[int(i)]

    def _problem(self, x: np.ndarray) -> Problem:
        around = np.asarray(self.guess) if isinstance(self.guess, tuple) else None
        return Problem(
            self.model.curves(x, around),
            lambda parameters: self.model.jacobian(x, parameters),
            *self.bounds,
            exclusive=np.isin(self.model.parameter_names, self.model.positive)
            & (self.bounds[0] == 0),
            weights=1.0 if self.sigma is None else 1.0 / self.sigma,
            tolerances=self.tolerances,
        )

    def _guessed(
        self, x: np.ndarray, spectra: np.ndarray, rows: np.ndarray, reasons: dict[int, str]
    ) -> np.ndarray:
        """First parameters (P, n), NaN where the user's function gives none."""
        n = len(self.bounds[0])
        if isinstance(self.guess, tuple):
            return np.tile(np.asarray(self.guess, dtype=np.float64), (len(spectra), 1))
        if self.guess is None:
            if isinstance(self.model, FunctionModel):
                return np.tile(first_parameters(*self.bounds), (len(spectra), 1))
            with np.errstate(all="ignore"):
                return self.model.guess(x, spectra)
        begin = np.full((len(spectra), n), np.nan)
        for i, spectrum in enumerate(spectra):
            try:
                begin[i] = np.asarray(self.guess(x, spectrum.copy()), dtype=np.float64).reshape(n)
            except Exception as error:
                reasons[int(rows[i])] = f"guess: {type(error).__name__}: {error}"
        return begin

    def _reason(
        self, x: np.ndarray, spectrum: np.ndarray, parameters: np.ndarray, known: str | None
    ) -> str:
        bad = int((~np.isfinite(spectrum)).sum())
        if bad:
            return f"{bad} of {len(spectrum)} values are not finite"
        if not np.isfinite(parameters).all():
            return known or "the first guess is not finite"
        with np.errstate(all="ignore"):
            curve = self.model.curves(x)(parameters[np.newaxis])
            if np.iscomplexobj(curve) and not np.iscomplexobj(spectrum):
                return "the model is complex at the first guess, but the data are real"
            return self.model.complaint(x, parameters)

    def _write(self, records: np.ndarray, problem: Problem, done: Positions) -> None:
        """Parameters and statistics of some positions that are done, into their records."""
        usual = self.model.canonical(done.parameters)
        inside = ((usual >= problem.lower) & (usual <= problem.upper)).all(axis=1)
        changed = inside & (usual != done.parameters).any(axis=1)
        if changed.any():
            done.parameters[changed] = usual[changed]
            with np.errstate(all="ignore"):
                columns = problem.derivatives(usual[changed], done.data.dtype.kind)
            done.normal[changed] = columns @ columns.swapaxes(1, 2)
        covariance = covariances(problem, done, self.absolute_sigma)
        converged, failed = done.status == CONVERGED, done.status == FAILED
        at_bound = (done.parameters <= problem.lower) | (done.parameters >= problem.upper)
        done.status[converged & at_bound.any(axis=1)] = AT_BOUND
        done.status[converged & np.isinf(covariance).any(axis=(1, 2))] = SINGULAR
        values = {
            **dict(zip(self.model.parameter_names, done.parameters.T, strict=True)),
            **{
                f"{name}_error": np.sqrt(covariance[:, k, k])
                for k, name in enumerate(self.model.parameter_names)
            },
            "covariance": covariance,
            "reduced_chi_square": reduced_chi_square(done),
        }
        for name, found in values.items():
            found[failed] = np.nan
            records[name][done.rows] = found
        records["n_evaluations"][done.rows] = done.n_evaluations
        records["status"][done.rows] = done.status


def result_fields(
    model: Model, x_units: str | None = None, y_units: str | None = None
) -> dict[str, Field]:
    """What a fit gives at every position, with units where those of x and y are known."""
    names = model.parameter_names
    fields = {}
    for name, unit in zip(names, model.units(x_units, y_units), strict=True):
        units = {} if unit is None else {"units": unit}
        fields[name] = Field(attrs=units)
        fields[f"{name}_error"] = Field(attrs={**units, "long_name": f"standard error of {name}"})
    square = (len(names), len(names))
    fields["covariance"] = Field("float64", ("parameter", "parameter_2"), square)
    fields["reduced_chi_square"] = Field(attrs={"units": "1"})
    fields["n_evaluations"] = Field("int32", attrs={"long_name": "evaluations of the model"})
    flags = {
        "flag_values": list(STATUS_MEANINGS),
        "flag_meanings": " ".join(STATUS_MEANINGS.values()),
    }
    fields["status"] = Field("uint8", attrs=flags)
    return fields


# ---------------------------------------------------------------------- checks


def check_data(model: Model, x: np.ndarray, dtype: Any, sigma: Any) -> None:
    """Raise ValueError where data and model do not go together."""
    is_complex = np.dtype(dtype).kind == "c"
    named = not isinstance(model, FunctionModel)
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
    n_values, n = len(x) * (2 if is_complex else 1), len(model.parameter_names)
    if n_values < n:
        raise ValueError(
            f"{n} parameters cannot be fitted to spectra of {len(x)} points: fit a simpler model"
        )
    if not np.isfinite(x).all():
        raise ValueError("x is not finite everywhere: drop the points where it is not")
    if sigma is not None and np.ndim(sigma) and len(sigma) != len(x):
        raise ValueError(f"sigma has {len(sigma)} values for spectra of {len(x)} points")


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
                raise ValueError(f"bounds of {name!r} must be (low, high), got {pair!r}")
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
        f"bounds={bounds!r} must be {{name: (low, high)}} or (lower, upper), with one number for "
        f"all or one for each of {', '.join(names)}"
    )


def bound_arrays(bounds: Any, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (n,): those of the user within the limits of the model.

    Raises
    ------
    ValueError
        If a lower bound is not below the upper one.
    """
    names = model.parameter_names
    lower = np.where(np.isin(names, (*model.positive, *model.not_negative)), 0.0, -np.inf)
    upper = np.full(len(names), np.inf)
    if isinstance(bounds, Mapping):
        for name, (low, high) in bounds.items():
            k = names.index(name)
            lower[k], upper[k] = max(lower[k], low), min(upper[k], high)
    elif bounds is not None:
        lower, upper = np.maximum(lower, bounds[0]), np.minimum(upper, bounds[1])
    for name, low, high in zip(names, lower, upper, strict=True):
        if not low < high:
            raise ValueError(
                f"the lower bound {low:g} of {name!r} must be less than the upper bound {high:g}"
            )
    return lower, upper


@np.errstate(all="ignore")
def _squares(problem: Problem, data: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Sums of the squared residuals (P,); infinite where they are not finite."""
    residuals = problem.residuals(data, np.clip(parameters, problem.lower, problem.upper))
    squares = np.vecdot(residuals, residuals)
    return np.where(np.isfinite(squares), squares, np.inf)


def first_parameters(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """What `scipy.optimize.curve_fit` starts from without a guess."""
    begin = np.ones(len(lower))
    both = np.isfinite(lower) & np.isfinite(upper)
    begin[both] = (lower[both] + upper[both]) / 2
    only_lower = np.isfinite(lower) & ~np.isfinite(upper)
    begin[only_lower] = lower[only_lower] + 1
    only_upper = ~np.isfinite(lower) & np.isfinite(upper)
    begin[only_upper] = upper[only_upper] - 1
    return begin
