"""Objects of other libraries that are as good as files: what opens them as a dataset."""

from __future__ import annotations

import importlib
from typing import Any

import xarray as xr

OBJECTS = {
    ("mne", "BaseRaw"): "penstock.io.mne.objects:from_mne",
    ("mne", "BaseEpochs"): "penstock.io.mne.objects:from_mne",
    ("nibabel", "SpatialImage"): "penstock.io.nifti.images:from_nibabel",
    ("nibabel", "Cifti2Image"): "penstock.io.nifti.images:from_nibabel",
}
"""Package and class, to the function that makes a dataset of such an object."""


def is_object(source: Any) -> bool:
    """Whether something is an object of another library that `as_dataset` knows."""
    return _opener(source) is not None


def as_dataset(source: Any, **options: Any) -> Any:
    """The dataset of an object of another library; anything else as it is.

    No library is imported to find out: whoever has such an object has imported it.
    """
    if isinstance(source, xr.Dataset):
        return source
    target = _opener(source)
    if target is None:
        return source
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(source, **options)


def _opener(source: Any) -> str | None:
    for kind in type(source).__mro__:
        found = OBJECTS.get((kind.__module__.partition(".")[0], kind.__name__))
        if found is not None:
            return found
    return None
