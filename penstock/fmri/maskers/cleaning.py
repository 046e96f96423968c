"""How the parameters of a masker become the cleaning of its signals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.fmri.cleaning.plan import CleaningOptions, kept_volumes
from penstock.fmri.cleaning.processor import CleanSignals
from penstock.fmri.images.volumes import repetition_time
from penstock.processor import Processor

if TYPE_CHECKING:
    from penstock.fmri.maskers.base import BaseMasker

CLEANING = (
    "standardize", "standardize_confounds", "detrend", "low_pass", "high_pass", "t_r",
)  # fmt: skip
"""Parameters of maskers that say how signals are cleaned."""


def cleaning_options(masker: BaseMasker, ds: xr.Dataset | None = None) -> CleaningOptions:
    """How signals are cleaned; the repetition time is that of the image where none is given.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown, given twice, or contradicts another.
    """
    given = {name: getattr(masker, name) for name in CLEANING}
    extra = _further_options(masker)
    twice = sorted(set(given) & set(extra))
    if twice:
        raise TypeError(f"{twice[0]!r} is given twice: as a parameter and in clean_args")
    if given["t_r"] is None and ds is not None:
        given["t_r"] = repetition_time(ds)
    return CleaningOptions(**given, **extra)


def cleaning_processors(
    masker: BaseMasker, confounds: Any, sample_mask: Any
) -> tuple[Processor, ...]:
    """The cleaning as a processor; nothing where nothing is to be cleaned."""
    if masker.high_variance_confounds:
        raise ValueError(
            "high_variance_confounds are computed from one image before its pass: compute them "
            "with penstock.fmri.high_variance_confounds and give them as confounds"
        )
    nothing = not (masker.standardize or masker.detrend or masker.low_pass or masker.high_pass)
    if nothing and confounds is None and sample_mask is None and not masker.clean_args:
        return ()
    given = {name: getattr(masker, name) for name in CLEANING}
    given["standardize"] = given["standardize"] or None
    if sample_mask is not None and masker.runs is not None:  # (it may be a list for each run)
        sample_mask = kept_volumes(sample_mask, len(masker.runs), masker.runs)
    if sample_mask is not None and not isinstance(sample_mask, str):
        sample_mask = tuple(np.asarray(sample_mask).tolist())
    runs = None if masker.runs is None else tuple(np.asarray(masker.runs).tolist())
    return (
        CleanSignals(
            confounds=confounds,
            confound_columns=masker.confound_columns if confounds is not None else None,
            strategy=masker.strategy_for(confounds),
            strategy_options=dict(masker.confound_options or {}),
            sample_mask=sample_mask,
            runs=runs,
            **given,
            **_further_options(masker),
        ),
    )


def _further_options(masker: BaseMasker) -> dict[str, Any]:
    """Those of `clean_args`; whether the filter copies makes no difference here."""
    given = dict(masker.clean_args or {})
    given.pop("butterworth__copy", None)
    return {key.removeprefix("butterworth__"): value for key, value in given.items()}
