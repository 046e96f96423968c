"""NIST's certified fits: how many digits of parameters and standard errors come out.

The 27 nonlinear sets of the Statistical Reference Datasets (NIST/ITL, public domain) are looked for
in ``next/strd`` of the folder named by ``PENSTOCK_DATA``. Every set is fitted from both of NIST's
starting points, with default tolerances.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tables import Table

Curve = Callable[..., np.ndarray]


def _exponentials(x, *b):
    return sum(a * np.exp(-rate * x) for a, rate in zip(b[::2], b[1::2], strict=True))


def _gauss(x, b1, b2, b3, b4, b5, b6, b7, b8):
    first = b3 * np.exp(-((x - b4) ** 2) / b5**2)
    return b1 * np.exp(-b2 * x) + first + b6 * np.exp(-((x - b7) ** 2) / b8**2)


def _lanczos(x, b1, b2, b3, b4, b5, b6):
    return _exponentials(x, b1, b2, b3, b4, b5, b6)


def _cubics(x, b1, b2, b3, b4, b5, b6, b7):
    return (b1 + x * (b2 + x * (b3 + x * b4))) / (1 + x * (b5 + x * (b6 + x * b7)))


def _enso(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    turn = 2 * np.pi * x
    year = b2 * np.cos(turn / 12) + b3 * np.sin(turn / 12)
    slow = b5 * np.cos(turn / b4) + b6 * np.sin(turn / b4)
    return b1 + year + slow + b8 * np.cos(turn / b7) + b9 * np.sin(turn / b7)


def _chwirut(x, b1, b2, b3):
    return np.exp(-b1 * x) / (b2 + b3 * x)


CURVES: dict[str, Curve] = {
    "Bennett5": lambda x, b1, b2, b3: b1 * (b2 + x) ** (-1 / b3),
    "BoxBOD": lambda x, b1, b2: b1 * (1 - np.exp(-b2 * x)),
    "Chwirut1": _chwirut,
    "Chwirut2": _chwirut,
    "DanWood": lambda x, b1, b2: b1 * x**b2,
    "ENSO": _enso,
    "Eckerle4": lambda x, b1, b2, b3: b1 / b2 * np.exp(-0.5 * ((x - b3) / b2) ** 2),
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "Gauss3": _gauss,
    "Hahn1": _cubics,
    "Kirby2": lambda x, b1, b2, b3, b4, b5: (b1 + b2 * x + b3 * x**2) / (1 + b4 * x + b5 * x**2),
    "Lanczos1": _lanczos,
    "Lanczos2": _lanczos,
    "Lanczos3": _lanczos,
    "MGH09": lambda x, b1, b2, b3, b4: b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4),
    "MGH10": lambda x, b1, b2, b3: b1 * np.exp(b2 / (x + b3)),
    "MGH17": lambda x, b1, b2, b3, b4, b5: b1 + b2 * np.exp(-x * b4) + b3 * np.exp(-x * b5),
    "Misra1a": lambda x, b1, b2: b1 * (1 - np.exp(-b2 * x)),
    "Misra1b": lambda x, b1, b2: b1 * (1 - (1 + b2 * x / 2) ** -2),
    "Misra1c": lambda x, b1, b2: b1 * (1 - (1 + 2 * b2 * x) ** -0.5),
    "Misra1d": lambda x, b1, b2: b1 * b2 * x / (1 + b2 * x),
    "Nelson": lambda x, b1, b2, b3: b1 - b2 * x[0] * np.exp(-b3 * x[1]),
    "Rat42": lambda x, b1, b2, b3: b1 / (1 + np.exp(b2 - b3 * x)),
    "Rat43": lambda x, b1, b2, b3, b4: b1 / (1 + np.exp(b2 - b3 * x)) ** (1 / b4),
    "Roszman1": lambda x, b1, b2, b3, b4: b1 - b2 * x - np.arctan(b3 / (x - b4)) / np.pi,
    "Thurber": _cubics,
}


@dataclass(frozen=True)
class Certified:
    """One of the sets: data, starting points, certified values."""

    name: str
    x: np.ndarray
    """(points,), or (2, points) where there are two predictors."""
    y: np.ndarray
    starts: np.ndarray
    """(2, parameters)"""
    parameters: np.ndarray
    errors: np.ndarray

    def digits(self, parameters: np.ndarray, errors: np.ndarray) -> float:
        """Certified digits that all parameters and standard errors have, 0 to 11."""
        found = np.concatenate([parameters, errors])
        right = np.concatenate([self.parameters, self.errors])
        with np.errstate(all="ignore"):
            apart = np.abs(found - right) / np.abs(right)
        if not np.isfinite(apart).all():
            return 0.0
        return float(np.clip(-np.log10(np.maximum(apart, 1e-11)), 0, 11).min())


def read_certified(path: Path) -> Certified:
    """A set from its file, whose head says in which lines to look."""
    lines = path.read_text().splitlines()
    head = "\n".join(lines[:12])

    def stretch(what: str) -> list[str]:
        found = re.search(rf"{what}\s+\(lines\s+(\d+)\s+to\s+(\d+)\)", head, re.IGNORECASE)
        assert found is not None, f"{path.name} says nothing of its {what.lower()}"
        return lines[int(found[1]) - 1 : int(found[2])]

    rows = [line.split("=")[1].split() for line in stretch("Starting Values") if "=" in line]
    table = np.array(rows, dtype=float)
    data = np.array([line.split() for line in stretch("Data")], dtype=float)
    y, x = data[:, 0], data[:, 1] if data.shape[1] == 2 else data[:, 1:].T
    if path.stem == "Nelson":
        y = np.log(y)
    return Certified(path.stem, x, y, table[:, :2].T, table[:, 2], table[:, 3])


def certified_sets(folder: Path) -> list[Certified]:
    """All sets of a folder, by name."""
    return [read_certified(path) for path in sorted(folder.glob("*.dat"))]


def by_penstock(case: Certified, start: np.ndarray, **options: object) -> tuple[np.ndarray, ...]:
    """Parameters, errors and status of `penstock.spectra.fit_positions`."""
    from penstock.spectra.fitting.fit import fit_positions
    from penstock.spectra.fitting.models import FunctionModel

    curve = CURVES[case.name]
    names = tuple(f"b{k + 1}" for k in range(len(start)))
    x = case.x
    model = FunctionModel(curve, names)
    if x.ndim == 2:  # two predictors, at points that lie on no grid
        model = FunctionModel(lambda number, *b: curve(case.x, *b), names)
        x = np.arange(x.shape[1])
    found = fit_positions(x, case.y, model, guess=tuple(start.tolist()), **options)
    return found.parameters, found.errors, found.status


def by_curve_fit(case: Certified, start: np.ndarray) -> tuple[np.ndarray, ...]:
    """Parameters and errors of `scipy.optimize.curve_fit`."""
    from scipy.optimize import curve_fit

    parameters, covariance = curve_fit(CURVES[case.name], case.x, case.y, p0=start)
    return parameters, np.sqrt(np.diagonal(covariance))


def by_lmfit(case: Certified, start: np.ndarray) -> tuple[np.ndarray, ...]:
    """Parameters and errors of lmfit's `minimize`."""
    import lmfit

    given = lmfit.Parameters()
    for k, value in enumerate(start):
        given.add(f"b{k + 1}", value=value)

    def residuals(current: lmfit.Parameters) -> np.ndarray:
        return case.y - CURVES[case.name](case.x, *current.valuesdict().values())

    found = lmfit.minimize(residuals, given)
    values = list(found.params.values())
    errors = [np.nan if p.stderr is None else p.stderr for p in values]
    return np.array([p.value for p in values]), np.array(errors)


WAYS = {"Penstock": by_penstock, "curve_fit": by_curve_fit, "lmfit": by_lmfit}
CONVERGED = 1


def digits(work: Path, *, quick: bool, peers: bool) -> list[Table]:
    """Certified digits from both starting points of all sets, and how often there are four."""
    ways = {title: way for title, way in WAYS.items() if peers or title == "Penstock"}
    each = Table(
        "NIST's certified fits: digits of the parameters, and of parameters and standard errors",
        ["set", "start", *ways, "status"],
    )
    counts = {title: [0, 0, 0] for title in ways}
    for case in certified_sets(Path(os.environ["PENSTOCK_DATA"]) / "next" / "strd"):
        for number, start in enumerate(case.starts, 1):
            row: dict[str, object] = {"set": case.name, "start": number}
            for title, way in ways.items():
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    try:
                        parameters, errors, *status = way(case, start)
                    except (RuntimeError, ValueError):  # (it gave up)
                        row[title] = "failed"
                        continue
                only, both = (case.digits(parameters, e) for e in (case.errors, errors))
                row[title] = f"{only:.1f}, {both:.1f}"
                said = int(status[0]) if status else CONVERGED
                if status:
                    row["status"] = said
                counts[title][0] += only >= 4
                counts[title][1] += both >= 4
                counts[title][2] += both < 2 and said == CONVERGED
            each.add(**row)
    n = 2 * len(CURVES)
    parameters, errors = f"parameters: runs of {n}", "and standard errors"
    wrong = "said to have converged, fewer than 2 digits"
    summary = Table("Runs with four certified digits", ["way", parameters, errors, wrong])
    for title, (only, both, bad) in counts.items():
        summary.add(way=title, **{parameters: only, errors: both, wrong: bad})
    return [each, summary]


SECTIONS = {"digits": digits}
