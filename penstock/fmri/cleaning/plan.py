"""The plan of a cleaning: all that depends on time points and confounds only, computed once.

A plan (`Cleaning`) holds the kept volumes, the filter, and an orthonormal basis of the confounds,
which went through the same detrending and filter as the signals will. It applies to any columns in
any order: each is cleaned on its own, and the same bits come out however they are cut into blocks.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from penstock.fmri.cleaning.censoring import each_run, kept_volumes
from penstock.fmri.cleaning.confounds import wrong_length
from penstock.fmri.cleaning.steps import (
    FLAT,
    Cleaning,
    RunCleaning,
    as_slice,
    result_type,
    root_mean_square,
)
from penstock.fmri.cleaning.temporal_filters import (
    butterworth_sections,
    least_padding,
    with_cosines,
)
from penstock.fmri.maskers.parameters import check_switch, check_whole

__all__ = ["Cleaning", "CleaningOptions", "kept_volumes", "plan_cleaning", "result_type"]

STANDARDIZATIONS = ("zscore_sample", "psc")
FILTERS = ("butterworth", "cosine")


@dataclass(frozen=True)
class CleaningOptions:
    """What is done to every series, without the confounds. See `penstock.fmri.signal_clean`.

    Names and defaults are those of `nilearn.signal.clean`; ``order``, ``padtype`` and ``padlen``
    are its ``butterworth__order`` and so on. ``standardize=True`` becomes ``"zscore_sample"``;
    what is switched off becomes None.

    Raises
    ------
    TypeError
        If an option is of another type than needed.
    ValueError
        If an option is unknown or contradicts another.
    """

    detrend: bool = True
    standardize: Literal["zscore_sample", "psc"] | bool | None = "zscore_sample"
    standardize_confounds: bool = True
    filter: Literal["butterworth", "cosine"] | bool | None = "butterworth"
    low_pass: float | None = None
    high_pass: float | None = None
    t_r: float | None = 2.5
    ensure_finite: bool = False
    extrapolate: bool = False
    order: int = 5
    padtype: Literal["odd", "even", "constant"] | None = "odd"
    padlen: int | None = None

    def __post_init__(self) -> None:
        for name in ("detrend", "standardize_confounds", "ensure_finite", "extrapolate"):
            check_switch(name, getattr(self, name))
        check_whole("order", self.order, "the whole-numbered order of the Butterworth filter")
        standardize: Any = self.standardize
        if isinstance(standardize, bool):
            standardize = "zscore_sample" if standardize else None
        _check_choice("standardize", standardize, STANDARDIZATIONS)
        object.__setattr__(self, "standardize", standardize)
        chosen: Any = None if self.filter is False else self.filter
        _check_choice("filter", chosen, FILTERS)
        _check_choice("padtype", self.padtype, ("odd", "even", "constant"))
        for name in ("low_pass", "high_pass", "t_r"):
            value: Any = getattr(self, name)
            if value is None:
                continue
            unit, advice = ("s", "give the repetition time") if name == "t_r" else (
                "Hz", "leave it out (None) where no such filter is wanted")  # fmt: skip
            if isinstance(value, bool | str) or not 0 < value < np.inf:
                raise ValueError(f"{name}={value!r} must be a number of {unit} above 0: {advice}")
        if chosen == "cosine" and self.high_pass is None:
            raise ValueError(
                "filter='cosine' needs high_pass, the frequency [Hz] below which drifts are removed"
            )
        cuts = (self.low_pass, self.high_pass)
        if chosen == "butterworth" and cuts == (None, None):
            chosen = None
        elif chosen == "butterworth" and None not in cuts and cuts[1] >= cuts[0]:  # type: ignore[operator]
            raise ValueError(
                f"high_pass={self.high_pass:g} Hz must be below low_pass={self.low_pass:g} Hz: "
                "what lies between them is kept; swap them"
            )
        if self.filter is False and cuts != (None, None):
            warnings.warn(
                "filter=False: the given low_pass and high_pass are not used", stacklevel=3
            )
        if chosen == "cosine" and self.low_pass is not None:
            warnings.warn(
                "filter='cosine' only removes slow drifts: the given low_pass is not used",
                stacklevel=3,
            )
        object.__setattr__(self, "filter", chosen)
        if self.order < 1:
            raise ValueError(f"the order of the Butterworth filter is {self.order}, below 1")


def plan_cleaning(
    n_times: int,
    options: CleaningOptions,
    *,
    confounds: np.ndarray | None = None,
    names: Sequence[str] = (),
    sample_mask: Any = None,
    runs: Any = None,
) -> Cleaning:
    """Plan a cleaning of series of a given length.

    Parameters
    ----------
    n_times : int
        Time points of the series.
    options : CleaningOptions
        What is done.
    confounds : numpy.ndarray, optional
        Confounds as columns, (n_times, n_confounds).
    names : sequence of str, optional
        Names of the confounds, for messages.
    sample_mask : array_like of int or bool, or list of them, optional
        Volumes that are kept (see `kept_volumes`).
    runs : array_like, optional
        Run of each volume, (n_times,); each run is cleaned on its own.

    Returns
    -------
    Cleaning

    Raises
    ------
    ValueError
        If these do not go together: one sentence saying why and what to do.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.cleaning.plan import CleaningOptions, plan_cleaning
    >>> cleaning = plan_cleaning(4, CleaningOptions(standardize=None))
    >>> bool(np.allclose(cleaning.apply(np.array([[1.0], [3.0], [5.0], [7.0]])), 0))
    True
    """
    if options.filter is not None and options.t_r is None:
        raise ValueError(
            f"filter={options.filter!r} needs the repetition time: give t_r=... in seconds"
        )
    kept = kept_volumes(sample_mask, n_times, runs)
    table = None if confounds is None else np.asarray(confounds, dtype=np.float64)
    if table is not None:
        if table.ndim != 2 or len(table) != n_times:
            raise ValueError(wrong_length("the confounds have", len(table), n_times))
        _check_finite(table, names, kept)
        if not options.detrend and not options.standardize_confounds:
            warnings.warn(
                "confounds that are neither standardized nor detrended take part of the series' "
                "mean with them: centre them, or use detrend=True or standardize_confounds=True",
                stacklevel=3,
            )
    planned = []
    for label, volumes in each_run(runs, n_times):
        where = "" if label is None else f" of run {label}"
        of_run = np.flatnonzero(np.isin(kept, volumes, assume_unique=True))
        if not len(of_run):
            raise ValueError(
                f"sample_mask keeps no volume{where}: keep some, or leave that run out"
            )
        at = np.searchsorted(volumes, kept[of_run])
        part = None if table is None else table[volumes]
        planned.append(_plan_run(options, len(volumes), at, as_slice(of_run), part, where))
    return Cleaning(n_times, kept, options.ensure_finite, tuple(planned))


def _plan_run(
    options: CleaningOptions,
    n_volumes: int,
    at: np.ndarray,
    place: slice | np.ndarray,
    confounds: np.ndarray | None,
    where: str,
) -> RunCleaning:
    """Plan one run of `n_volumes`, of which those `at` these places are kept."""
    n_kept = len(at)
    sos, n_filtered, between = None, n_kept, None
    if options.filter == "cosine":
        assert options.high_pass is not None
        assert options.t_r is not None
        confounds = with_cosines(confounds, n_volumes, options.high_pass, options.t_r)
    elif options.filter == "butterworth":
        assert options.t_r is not None
        sos = butterworth_sections(options.low_pass, options.high_pass, options.t_r, options.order)
        first, stop = (0, n_volumes) if options.extrapolate else (int(at[0]), int(at[-1]) + 1)
        n_filtered = stop - first
        if n_kept < n_filtered:
            between = at - first
            if n_kept < 2:
                raise ValueError(
                    f"sample_mask keeps a single volume{where}: the others cannot be interpolated "
                    "from it for the filter"
                )
        padding = 0 if options.padtype is None else least_padding(sos, options.padlen)
        if n_filtered <= padding:
            raise ValueError(
                f"{n_filtered} time points{where} are too few for a Butterworth filter of order "
                f"{options.order}, which takes more than {padding}: lower its order or padding, or "
                "use filter='cosine'"
            )
    detrend, standardize = options.detrend, options.standardize
    if n_kept == 1 and (detrend or standardize):
        warnings.warn(
            f"a single time point{where} cannot be detrended or standardized: it stays as it is",
            stacklevel=3,
        )
        detrend, standardize = False, None
    assert not isinstance(standardize, bool)
    plan: dict[str, Any] = {
        "place": place,
        "n_kept": n_kept,
        "n_filtered": n_filtered,
        "between": between,
        "detrend": detrend,
        "sos": sos,
        "padtype": options.padtype,
        "padlen": options.padlen,
        "standardize": standardize,
    }
    if confounds is not None and confounds.shape[1]:
        plan["basis"] = _basis(
            RunCleaning(**plan), confounds[at], options.standardize_confounds, where
        )
    if standardize == "psc":
        run, ones = RunCleaning(**plan), np.ones((1, n_kept))
        run.filter(ones)
        if run.basis is not None:
            run.project(ones)
        plan["restore_mean"] = bool(abs(ones.mean()) < 0.1)
    return RunCleaning(**plan)


def _basis(
    run: RunCleaning, confounds: np.ndarray, standardize: bool, where: str
) -> np.ndarray | None:
    """Orthonormal basis (rank, n_kept) of the confounds after the run's detrending and filter."""
    from scipy.linalg import qr

    rows = np.ascontiguousarray(confounds.T)
    magnitude = root_mean_square(rows)
    run.filter(rows)
    if standardize and run.n_kept > 1:
        rows -= rows.mean(axis=-1, keepdims=True)
        unit = root_mean_square(rows) * np.sqrt(run.n_kept / (run.n_kept - 1))
    else:
        unit = np.abs(rows).max(axis=-1)
    flat = unit <= FLAT * magnitude
    rows[flat], unit[flat] = 0, 1
    rows /= unit[:, np.newaxis]
    columns, triangle, _ = qr(rows.T, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    # what is left of one that the others make up: rounding errors of mean, spline and filter
    basis = columns[:, diagonal > FLAT * diagonal[0]].T
    # (series without mean, and without trend, have as many dimensions less)
    n_free = max(1, run.n_kept - (2 if run.detrend else 1))
    if len(basis) >= n_free or len(rows) > run.n_kept:
        raise ValueError(
            f"{len(rows)} confounds (drifts of the cosine filter included) leave nothing of "
            f"{run.n_kept} time points{where}: choose fewer confounds, or keep more volumes"
        )
    return np.ascontiguousarray(basis) if len(basis) else None


def _check_finite(table: np.ndarray, names: Sequence[str], kept: np.ndarray) -> None:
    wrong = ~np.isfinite(table[kept])
    if not wrong.any():
        return
    columns = np.flatnonzero(wrong.any(axis=0))
    shown = [str(names[i]) if len(names) == table.shape[1] else str(i) for i in columns[:5]]
    rows = kept[np.flatnonzero(wrong.any(axis=1))]
    first_only = rows.tolist() == [0]
    raise ValueError(
        f"{len(columns)} of {table.shape[1]} confounds ({', '.join(shown)}"
        f"{', ...' if len(columns) > 5 else ''}) have no value (NaN) in "
        + ("the first volume" if first_only else f"{len(rows)} volumes, the first {rows[0]}")
        + (", as derivatives of fMRIPrep have" if first_only else "")
        + ": fill it in (table.fillna(0)), choose other columns, or leave such volumes out with "
        "sample_mask"
    )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value is None or (isinstance(value, str) and value in choices):
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "known are " + ", ".join(map(repr, choices))
    raise ValueError(f"{name}={value!r} is not known: {hint}")
