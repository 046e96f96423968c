"""From spectra to records of results: guesses, the solver, statistics, reasons of failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from penstock.records import Field, record_dtype
from penstock.spectra.fitting.covariance import covariances, reduced_chi_square
from penstock.spectra.fitting.levenberg import CAREFUL_DAMPING, FIRST_DAMPING, levenberg_marquardt
from penstock.spectra.fitting.models import FunctionModel, Model
from penstock.spectra.fitting.options import first_parameters
from penstock.spectra.fitting.problem import Problem, Tolerances
from penstock.spectra.fitting.reference import scipy_least_squares
from penstock.spectra.fitting.solver_state import (
    AT_BOUND,
    CONVERGED,
    FAILED,
    NOT_CONVERGED,
    SINGULAR,
    STATUS_MEANINGS,
    SolverState,
    lengths_of,
)
from penstock.spectra.gaps import without_gaps

_TILE_BYTES = 3 << 20
"""Derivatives of the positions that are worked on at once: they should stay in the cache."""

_INFLUENCE = 1e-8
"""A parameter that as a whole makes up less of the curve has no influence."""

NanPolicy: TypeAlias = Literal["omit", "propagate", "raise"]
"""What values that are not finite do: not count, make the fit of their position fail, or stop."""

First = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Numbers of positions (P,) and their spectra (P, L) to first parameters (P, n); NaN for the usual
guess."""


@dataclass(frozen=True)
class LeastSquares:
    """All that is fixed about a fit, whatever the data."""

    model: Model
    guess: tuple[float, ...] | Callable[..., Any] | None
    bounds: tuple[np.ndarray, np.ndarray]
    fixed: np.ndarray
    """Values of the parameters that are fixed (n,), NaN for the others."""
    sigma: np.ndarray | None = None
    absolute_sigma: bool = False
    method: Literal["batched", "scipy"] = "batched"
    nan_policy: NanPolicy = "omit"
    tolerances: Tolerances = field(default_factory=Tolerances)

    @property
    def free(self) -> np.ndarray:
        """Numbers of the parameters that are fitted."""
        return np.flatnonzero(np.isnan(self.fixed))

    def fit(
        self,
        x: np.ndarray,
        block: np.ndarray,
        first: np.ndarray | First | None = None,
        *,
        sigma: np.ndarray | None = None,
        fall_back: bool = False,
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Fit all spectra of a block.

        Parameters
        ----------
        x : numpy.ndarray
            Abscissa (L,), or (dims, L) of curves over several dims.
        block : numpy.ndarray
            Spectra (..., L).
        first : array (P, n) or callable, optional
            Where fits start, NaN for the usual guess.
        sigma : numpy.ndarray, optional
            Standard deviations that every position has of its own, broadcast to `block`.
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
        run = _Run(self, x, block, sigma)
        run.minimise(first, FIRST_DAMPING, compare=fall_back and not callable(self.guess))
        if self.method == "batched" and self.tolerances.max_nfev is None:
            # what had no influence to begin with may have some now
            still = np.flatnonzero(run.still & ~run.perfect)
            names = self.model.parameter_names
            here = np.stack([run.records[name][still] for name in names], axis=-1)
            run.again(still, here, FIRST_DAMPING)
            # a first step that is too long may lead where nothing changes any more
            lost = run.lost & ~run.perfect
            rows = np.flatnonzero(lost)
            run.again(
                rows, first[rows] if isinstance(first, np.ndarray) else first, CAREFUL_DAMPING
            )
        if fall_back:
            usable = np.isin(run.records["status"], (CONVERGED, AT_BOUND))
            run.again(np.flatnonzero(run.worse | ~usable), None, FIRST_DAMPING)
        return run.records.reshape(block.shape[:-1]), run.reasons

    def problem(self, x: np.ndarray) -> Problem:
        """The least-squares problem of the free parameters."""
        around = np.asarray(self.guess) if isinstance(self.guess, tuple) else None
        curves, model, free = self.model.curves(x, around), self.model, self.free
        exclusive = np.isin(model.parameter_names, model.positive) & (self.bounds[0] == 0)

        def function(parameters: np.ndarray) -> np.ndarray:
            return curves(self.whole(parameters))

        def jacobian(parameters: np.ndarray, at: np.ndarray | None = None) -> np.ndarray | None:
            whole = self.whole(parameters)
            if at is None:
                derivatives = model.jacobian(x, whole)
            else:
                derivatives = model.jacobian_at(x, whole, at)
            if derivatives is None or len(free) == len(self.fixed):
                return derivatives
            return derivatives[:, :, free]

        return Problem(
            function,
            jacobian,
            self.bounds[0][free],
            self.bounds[1][free],
            exclusive=exclusive[free],
            weights=1.0 if self.sigma is None else 1.0 / self.sigma,
            tolerances=self.tolerances,
        )

    def whole(self, parameters: np.ndarray) -> np.ndarray:
        """All parameters (P, n) from those that are free."""
        if parameters.shape[1] == len(self.fixed):
            return parameters
        whole = np.tile(self.fixed, (len(parameters), 1))
        whole[:, self.free] = parameters
        return whole

    def guessed(
        self,
        x: np.ndarray,
        spectra: np.ndarray,
        missing: np.ndarray | None,
        rows: np.ndarray,
        reasons: dict[int, str],
    ) -> np.ndarray:
        """First parameters (P, n), NaN where the user's function gives none.

        `missing` says where spectra have gaps.
        """
        n = len(self.bounds[0])
        if isinstance(self.guess, tuple):
            return np.tile(np.asarray(self.guess, dtype=np.float64), (len(spectra), 1))
        if self.guess is None:
            if isinstance(self.model, FunctionModel):
                return np.tile(first_parameters(*self.bounds), (len(spectra), 1))
            if missing is not None:
                spectra = without_gaps(x, spectra, missing)
            with np.errstate(all="ignore"):
                return self.model.guess(x, spectra)
        begin = np.full((len(spectra), n), np.nan)
        for i, spectrum in enumerate(spectra):
            whole = slice(None) if missing is None else ~missing[i]
            try:
                given = self.guess(x[..., whole], spectrum[whole].copy())
                begin[i] = np.asarray(given, dtype=np.float64).reshape(n)
            except Exception as error:
                reasons[int(rows[i])] = f"guess: {type(error).__name__}: {error}"
        return begin


class _Run:
    """One block on its way through the solver."""

    def __init__(
        self, solver: LeastSquares, x: np.ndarray, block: np.ndarray, sigma: np.ndarray | None
    ):
        self.solver, self.x, self.block = solver, x, block
        self.loops = block.shape[:-1]
        self.sigma = None if sigma is None else np.broadcast_to(sigma, block.shape)
        self.dtype = np.complex128 if block.dtype.kind == "c" else np.float64
        self.problem = solver.problem(x)
        n = int(np.prod(self.loops))
        self.records = np.zeros(n, record_dtype(result_fields(solver.model)))
        self.reasons: dict[int, str] = {}
        self.perfect = np.zeros(n, bool)
        """Where rounding errors are all that is left: no other start would do better."""
        self.lost = np.zeros(n, bool)
        """Where fits did not converge, or only because a parameter has no influence any more."""
        self.still = np.zeros(n, bool)
        """Where a parameter has stayed at 0 because the curve does not depend on it there."""
        self.worse = np.zeros(n, bool)
        """Where the usual guess begins with less than what is left."""

    def minimise(self, first: np.ndarray | First | None, damping: float, *, compare: bool) -> None:
        """Fit all positions; with `compare`, see what the usual guess would have begun with."""
        solver, problem, x = self.solver, self.problem, self.x
        usual = np.full(len(self.records), np.inf)

        def load(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows = np.arange(start, stop)
            index = np.unravel_index(rows, self.loops) if self.loops else ()
            spectra = np.ascontiguousarray(
                self.block[index].reshape(-1, x.shape[-1]), dtype=self.dtype
            )
            spectra, weights, missing = self._weighed(spectra, index)
            if first is None:
                begin = solver.guessed(x, spectra, missing, rows, self.reasons)
                return spectra, weights, begin[:, solver.free]
            begin = first(rows, spectra) if callable(first) else first[rows]
            unknown = np.flatnonzero(np.isnan(begin).any(axis=1))
            if compare:
                guess = solver.guessed(x, spectra, missing, rows, self.reasons)[:, solver.free]
                usual[start:stop] = _squares(problem, spectra, weights, guess)
            if len(unknown):
                gaps = None if missing is None else missing[unknown]
                begin[unknown] = solver.guessed(
                    x, spectra[unknown], gaps, rows[unknown], self.reasons
                )
            return spectra, weights, begin[:, solver.free]

        parts = 2 if self.dtype is np.complex128 else 1
        row_bytes = 8 * x.shape[-1] * len(solver.fixed) * parts
        tile = int(np.clip(_TILE_BYTES // row_bytes, 1, 4096))
        solve = levenberg_marquardt if solver.method == "batched" else scipy_least_squares
        for done in solve(problem, load, len(self.records), tile, damping):
            for i in np.flatnonzero(done.status == FAILED):
                row = int(done.rows[i])
                self.reasons[row] = self._reason(done, int(i), self.reasons.get(row))
            self.worse[done.rows] = ~(done.squares <= usual[done.rows])
            self.perfect[done.rows] = done.squares <= 16 * done.rounding
            self._write(done)

    def _weighed(
        self, spectra: np.ndarray, index: tuple[Any, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Spectra with 0 where they have gaps, their weights, and where the gaps are."""
        omit = self.solver.nan_policy == "omit"
        missing = ~np.isfinite(spectra) if omit else np.zeros(0, bool)
        if self.sigma is None and not missing.any():
            return spectra, np.empty((len(spectra), 0)), None
        if self.sigma is None:
            shared = 1.0 if self.solver.sigma is None else 1.0 / self.solver.sigma
            weights = np.array(np.broadcast_to(shared, spectra.shape))
        else:
            sigma = self.sigma[index].reshape(spectra.shape)
            with np.errstate(divide="ignore"):
                weights = 1.0 / np.asarray(sigma, dtype=np.float64)
            weights[weights < 0] = np.inf  # (fails)
            if omit:
                missing |= np.isnan(weights)
        if not missing.any():
            return spectra, weights, None
        weights[missing] = 0.0
        return np.where(missing, 0.0, spectra), weights, missing

    def again(self, rows: np.ndarray, first: np.ndarray | First | None, damping: float) -> None:
        """Fit some positions from another start, and keep what is better than before.

        An array `first` has the starts of these positions only.
        """
        if not len(rows):
            return
        index = np.unravel_index(rows, self.loops) if self.loops else np.newaxis
        sigma = None if self.sigma is None else self.sigma[index]
        other = _Run(self.solver, self.x, self.block[index], sigma)

        def of_those(numbers: np.ndarray, spectra: np.ndarray) -> np.ndarray:
            assert callable(first)
            return first(rows[numbers], spectra)

        start: Any = of_those if callable(first) else first
        other.minimise(start, damping, compare=False)
        now, before = other.records, self.records[rows]
        now["n_evaluations"] += before["n_evaluations"]
        usable, was = (np.isin(r["status"], (CONVERGED, AT_BOUND)) for r in (now, before))
        left, was_left = now["reduced_chi_square"], before["reduced_chi_square"]
        better = (before["status"] == FAILED) | (left < was_left * (1 - 1e-6))
        better |= usable & ~was & (left <= was_left * (1 + 1e-6))
        better &= usable | ~was
        self.records["n_evaluations"][rows] = now["n_evaluations"]
        self.records[rows[better]] = now[better]
        for i in np.flatnonzero(better):
            self.reasons.pop(int(rows[i]), None)
            if int(i) in other.reasons:
                self.reasons[int(rows[i])] = other.reasons[int(i)]

    def _reason(self, done: SolverState, i: int, known: str | None) -> str:
        """Why a position failed."""
        spectrum, weights = done.data[i], done.weights[i]
        n_free, n_points = len(self.solver.free), len(spectrum)
        bad = int((~np.isfinite(spectrum)).sum())
        if bad:
            return f"{bad} of {n_points} values are not finite"
        if done.n_values[i] < n_free:
            n_left = int(np.count_nonzero(weights))
            return f"{n_left} of {n_points} values are left, too few for {n_free} parameters"
        wrong = int((~np.isfinite(weights) | (weights < 0)).sum())
        if wrong:
            return f"{wrong} of {n_points} values of sigma are not positive"
        parameters = self.solver.whole(done.parameters[i : i + 1])
        if not np.isfinite(parameters).all():
            return known or "the first guess is not finite"
        with np.errstate(all="ignore"):
            curve = self.solver.model.curves(self.x)(parameters)
            if np.iscomplexobj(curve) and not np.iscomplexobj(spectrum):
                return "the model is complex at the first guess, but the data are real"
            return self.solver.model.complaint(self.x, parameters[0])

    def _write(self, done: SolverState) -> None:
        """Parameters and statistics of some positions that are done, into their records."""
        solver, problem, free = self.solver, self.problem, self.solver.free
        whole = solver.whole(done.parameters)
        usual = solver.model.canonical(whole)
        lower, upper = solver.bounds
        allowed = ((usual >= lower) & (usual <= upper)).all(axis=1)
        held = ~np.isnan(solver.fixed)
        allowed &= (usual[:, held] == solver.fixed[held]).all(axis=1)
        changed = allowed & (usual[:, free] != done.parameters).any(axis=1)
        if changed.any():
            done.parameters[changed] = usual[changed][:, free]
            done.stale[changed] = np.inf  # (derivatives are those of other parameters)
        covariance, singular = covariances(problem, done, solver.absolute_sigma)
        failed, converged = done.status == FAILED, done.status == CONVERGED
        at_bound = (done.parameters <= problem.lower) | (done.parameters >= problem.upper)
        done.status[converged & at_bound.any(axis=1)] = AT_BOUND
        done.status[converged & singular] = SINGULAR
        covariance[done.status == NOT_CONVERGED] = np.nan
        n = len(solver.fixed)
        if len(free) < n:
            part, covariance = covariance, np.full((len(done), n, n), np.nan)
            covariance[:, free[:, np.newaxis], free] = part
        values = {
            **dict(zip(solver.model.parameter_names, solver.whole(done.parameters).T, strict=True)),
            **{
                f"{name}_error": np.sqrt(covariance[:, k, k])
                for k, name in enumerate(solver.model.parameter_names)
            },
            "covariance": covariance,
            "reduced_chi_square": reduced_chi_square(done),
        }
        for name, found in values.items():
            if failed.any():
                found = np.where(failed.reshape(-1, *(1,) * (found.ndim - 1)), np.nan, found)
            self.records[name][done.rows] = found
        lengths = lengths_of(done.normal)
        self.still[done.rows] = ((done.parameters == 0) & (lengths == 0)).any(axis=1)
        influence = lengths * np.abs(done.parameters)
        gone = (influence < _INFLUENCE * np.sqrt(done.size)[:, np.newaxis]) & (done.parameters != 0)
        self.lost[done.rows] = (done.status == NOT_CONVERGED) | (
            (done.status == SINGULAR) & gone.any(axis=1)
        )
        self.records["n_evaluations"][done.rows] = done.n_evaluations
        self.records["status"][done.rows] = done.status


@np.errstate(all="ignore")
def _squares(
    problem: Problem, data: np.ndarray, weights: np.ndarray, parameters: np.ndarray
) -> np.ndarray:
    """Sums of the squared residuals (P,); infinite where they are not finite."""
    inside = np.clip(parameters, problem.lower, problem.upper)
    residuals = problem.residuals(data, inside, weights)
    squares = np.vecdot(residuals, residuals)
    return np.where(np.isfinite(squares), squares, np.inf)


def result_fields(
    model: Model, x_units: str | None = None, y_units: str | None = None
) -> dict[str, Field]:
    """What a fit gives at every position, with units where those of x and y are known."""
    names = model.parameter_names
    fields = {}
    for name, unit in zip(names, model.units(x_units, y_units), strict=True):
        units = {} if unit is None else {"units": unit}
        fields[name] = Field(attrs={**units, **model.parameter_attrs().get(name, {})})
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
