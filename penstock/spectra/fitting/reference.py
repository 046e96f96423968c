"""Fits by SciPy's own solver, one position at a time: what the batched one is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from penstock.spectra.fitting.levenberg import FIRST_DAMPING, Load, begin, linearised
from penstock.spectra.fitting.problem import Problem
from penstock.spectra.fitting.solver_state import CONVERGED, FAILED, NOT_CONVERGED, SolverState


def scipy_least_squares(
    problem: Problem,
    load: Load,
    n_positions: int,
    tile: int = 256,
    damping: float = FIRST_DAMPING,
) -> Iterator[SolverState]:
    """The same by `scipy.optimize.least_squares` (``method="trf"``), one position at a time.

    Parameters and results are those of `levenberg_marquardt`; `damping` has no meaning here.
    """
    from scipy.optimize import least_squares

    tolerances = problem.tolerances
    for start in range(0, n_positions, tile):
        data, weights, parameters = load(start, min(n_positions, start + tile))
        kind = data.dtype.kind
        state = begin(problem, data, weights, parameters, start)
        with np.errstate(all="ignore"):
            for i in np.flatnonzero(state.status != FAILED):

                def residuals(p: np.ndarray, i: Any = i, state: SolverState = state) -> np.ndarray:
                    here = slice(i, i + 1)
                    weights = state.weights[here]
                    return -problem.residuals(state.data[here], p[np.newaxis], weights)[0]

                def jacobian(p: np.ndarray, i: Any = i, state: SolverState = state) -> np.ndarray:
                    kind, weights = state.data.dtype.kind, state.weights[i : i + 1]
                    return problem.derivatives(p[np.newaxis], kind, weights)[0].T

                try:
                    result = least_squares(
                        residuals,
                        state.parameters[i],
                        jacobian,
                        bounds=(problem.lower, problem.upper),
                        x_scale="jac",
                        ftol=tolerances.ftol,
                        xtol=tolerances.xtol,
                        gtol=tolerances.gtol,
                        max_nfev=tolerances.max_nfev,
                    )
                except (ValueError, np.linalg.LinAlgError):  # values that are not finite
                    state.status[i] = FAILED
                    continue
                # trf stays inside of bounds; what it calls active is meant to lie on them
                active = (result.active_mask != 0) & ~problem.exclusive
                at_bound = np.where(result.active_mask < 0, problem.lower, problem.upper)
                state.parameters[i] = np.where(active, at_bound, result.x)
                state.n_evaluations[i] = result.nfev
                state.status[i] = CONVERGED if result.status > 0 else NOT_CONVERGED
            state.stale[:] = np.inf
            left = problem.residuals(data, state.parameters, weights)
            state.squares = np.vecdot(left, left)
            state.normal, _ = linearised(problem, state.parameters, left, kind, weights)
        yield state
