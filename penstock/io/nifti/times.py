"""The time between volumes: what headers and sidecars say of it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penstock.io.bids.names import metadata_of, read_json

_TIME_UNITS = {0: 1.0, 8: 1.0, 16: 1e3, 24: 1e6}
"""Codes of ``xyzt_units`` for times, and how many of the unit make a second."""


class TimeStep(NamedTuple):
    """What a header says of the time between volumes."""

    seconds: float | None = None
    """The repetition time; None where it is not known."""
    note: str = ""
    """What is missing or assumed, for the attributes."""
    doubt: str = ""
    """The same where it is worth a warning."""
    start: float = 0.0
    """Time of the first volume [s]."""
    is_time: bool = True
    """Whether the fourth axis is a time at all."""
    times: tuple[float, ...] = ()
    """Times of all volumes [s] where they do not follow each other regularly."""


SECONDS_ASSUMED = "unit not in the header, seconds assumed"
AGREE = 1e-3
"""Repetition times of header and sidecar differ if they do so by more than this part."""


def header_time(stored: np.floating, code: int, path: str) -> TimeStep:
    """The repetition time that stands in a header, in the unit of that code of ``xyzt_units``."""
    value = float(str(stored))  # (2.16 as it was meant, not the float32 nearest to it)
    if code not in _TIME_UNITS:
        note = "the fourth axis is not a time by its unit in the header"
        return TimeStep(None, note, is_time=False)
    if not 0 < value < math.inf:
        return TimeStep(None, f"the header has none ({value:g})")
    if not code and value > 100:
        doubt = (
            f"{path} has a repetition time of {value:g} without a unit: it is taken as "
            f"milliseconds ({value / 1e3:g} s); give t_r= [s] if that is wrong"
        )
        return TimeStep(value / 1e3, "unit not in the header, milliseconds assumed", doubt)
    seconds = value / _TIME_UNITS[code]
    if not 0.01 <= seconds <= 100:
        doubt = (
            f"{path} has a doubtful repetition time of {seconds:g} s, which is taken as it is: "
            "give t_r= [s] if that is wrong"
        )
        return TimeStep(seconds, "", doubt)
    return TimeStep(seconds, "" if code else SECONDS_ASSUMED)


def time_with_sidecars(path: str, step: TimeStep, n_volumes: int) -> TimeStep:
    """The time between volumes by the JSON files of an image, where these tell one.

    BIDS makes ``RepetitionTime`` (or ``VolumeTiming``) of the sidecar the authority, as headers are
    often wrong.

    Parameters
    ----------
    path : str
        The image; sidecars are found after the inheritance principle of BIDS, or beside it with the
        same name.
    step : TimeStep
        What the header says.
    n_volumes : int
        How many there are.
    """
    if not step.is_time:
        return step
    try:
        metadata, files = metadata_of(path)
        told = next((key for key in ("RepetitionTime", "VolumeTiming") if key in metadata), None)
        if told is None:
            return step
        source = next(file for file in reversed(files) if told in read_json(file))
    except (OSError, ValueError) as error:
        return step._replace(doubt=f"{error}; the repetition time is that of the header")
    if told == "VolumeTiming":
        found, what = _volume_timing(metadata[told], source, n_volumes), f"{n_volumes} times"
    else:
        found, what = _sidecar_step(metadata[told], source), "positive seconds"
    if found is None:
        doubt = (
            f"{told} in {source} does not give {what}: the repetition time of the header is taken"
        )
        return step._replace(doubt=doubt)
    if found.seconds is None or step.seconds is None:
        return found
    if not math.isclose(found.seconds, step.seconds, rel_tol=AGREE):
        doubt = (
            f"{path} has a repetition time of {step.seconds:g} s in its header and of "
            f"{found.seconds:g} s in {source.name}, which is taken: give t_r= [s] if that is wrong"
        )
        return found._replace(doubt=doubt)
    return found


def _sidecar_step(value: Any, source: Path) -> TimeStep | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 < value < math.inf:
        return None
    note = f"from {os.path.basename(source)}"
    if value > 100:
        doubt = (
            f"{source} gives a repetition time of {value:g}, which is taken as milliseconds "
            f"({value / 1e3:g} s): give t_r= [s] if that is wrong"
        )
        return TimeStep(value / 1e3, f"{note}, milliseconds assumed", doubt)
    return TimeStep(float(value), note)


def _volume_timing(values: Any, source: Path, n_volumes: int) -> TimeStep | None:
    """Times of all volumes [s]: a repetition time where they are regular."""
    try:
        times = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return None
    steps = np.diff(times) if times.ndim == 1 else np.zeros(1)
    if times.shape != (n_volumes,) or not np.isfinite(times).all() or not (steps > 0).all():
        return None
    note = f"from VolumeTiming in {source.name}"
    if len(steps) and np.allclose(steps, steps.mean(), rtol=1e-6):
        return TimeStep(float(f"{steps.mean():.12g}"), note, start=float(times[0]))
    return TimeStep(None, f"{note}: volumes are not regular", times=tuple(times.tolist()))
