"""Checks of parameters of maskers that need no image: a wrong one is told at `fit`."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from penstock.memory.accounting import parse_bytes

if TYPE_CHECKING:
    from penstock.fmri.maskers.base import BaseMasker

SWITCHES = (
    "standardize_confounds", "detrend", "high_variance_confounds", "allow_overlap",
    "keep_masked_labels", "keep_masked_maps", "keep_empty_spheres",
)  # fmt: skip
"""Parameters of maskers that are on or off."""


def check_parameters(masker: BaseMasker) -> None:
    """Tell wrong parameters that need no image, before one is opened."""
    from penstock.fmri.extraction.reducers import NanPolicy
    from penstock.fmri.images.smoothing import SmoothVolumes
    from penstock.fmri.maskers.frames import check_signal_type

    for name in SWITCHES:
        check_switch(name, getattr(masker, name, False))
    masker.options()
    masker.confounds_chosen()
    check_signal_type(masker.dtype)
    if masker.nan_policy not in get_args(NanPolicy):
        raise ValueError(
            f"nan_policy must be one of {', '.join(map(repr, get_args(NanPolicy)))}, got "
            f"{masker.nan_policy!r}"
        )
    width = masker.smoothing_fwhm
    if width is not None and (isinstance(width, bool) or not isinstance(width, Real)):
        raise TypeError(f"smoothing_fwhm is a width in mm, or None; got {width!r}")
    if width is not None:
        SmoothVolumes(float(width))
    check_whole("n_jobs", masker.n_jobs, "a number of threads (-1: all cores)")
    masker._workers()
    check_budget(masker.memory)


def check_switch(name: str, value: Any) -> None:
    """Raise TypeError where what is on or off is neither: any text would be on."""
    if value is None or isinstance(value, bool | np.bool_):
        return
    if not (isinstance(value, Integral) and value in (0, 1)):
        raise TypeError(f"{name} is True or False, got {value!r}")


def check_whole(name: str, value: Any, what: str) -> None:
    """Raise TypeError where a parameter is neither None nor a whole number."""
    if value is None or (isinstance(value, Integral) and not isinstance(value, bool)):
        return
    raise TypeError(f"{name} is {what}, or None; got {value!r}")


def check_budget(memory: Any) -> None:
    """Raise where a memory budget is a number that is none (folders, as in nilearn, are told)."""
    if isinstance(memory, bool):
        raise TypeError(f"memory is a number of bytes, such as '500 MiB', or None; got {memory!r}")
    if isinstance(memory, Real):
        parse_bytes(float(memory))
