"""A pytest plugin that puts Penstock's classes where nilearn's tests look for nilearn's.

Given to pytest with ``-p penstock_in_nilearn`` by `nilearn_suite`, in a process of its own: names
are replaced before a test module is imported, so that each of them finds Penstock's. What each test
came to is written, one JSON object a line, into the file named by ``PENSTOCK_NILEARN_RESULTS``,
with whether Penstock took part in it.

Messages are each project's own. Where a test asks for an error or a warning with certain words, any
words will do here, and the test goes on; which tests needed that is written down, too. Likewise
nilearn's announcements of what its next versions will change, and whether an error is a TypeError
or a ValueError.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import warnings
from typing import Any

import nilearn.maskers
import nilearn.signal
import pytest

import penstock.fmri as ours
from penstock.fmri.maskers.several import _Multi

MASKERS = {
    "NiftiMasker": ("nifti_masker",),
    "NiftiLabelsMasker": ("nifti_labels_masker",),
    "NiftiMapsMasker": ("nifti_maps_masker",),
    "NiftiSpheresMasker": ("nifti_spheres_masker",),
    "MultiNiftiMasker": ("multi_nifti_masker",),
    "MultiNiftiLabelsMasker": ("multi_nifti_labels_masker",),
    "MultiNiftiMapsMasker": ("multi_nifti_maps_masker",),
}
"""Maskers, and the modules of nilearn in which they are."""
FUNCTIONS = {"clean": ours.signal_clean, "high_variance_confounds": ours.high_variance_confounds}

WORDING, KIND, ANNOUNCED = "wording", "kind of error", "announcement"

_taking_part: set[str] = set()
_relaxed: dict[str, set[str]] = {}
_current: list[str] = []


def _take_part() -> None:
    if _current:
        _taking_part.add(_current[-1])


def _relax(what: str) -> None:
    if _current:
        _relaxed.setdefault(_current[-1], set()).add(what)


class _Raises:
    """`pytest.raises`, whatever the words of the error."""

    def __init__(self, expected: Any, match: Any, options: dict[str, Any]):
        self.expected = expected if isinstance(expected, tuple) else (expected,)
        wider = self.expected
        if any(issubclass(kind, ValueError | TypeError) for kind in wider):
            wider = (*wider, ValueError, TypeError)
        self.match, self.inner = match, _pytest_raises(wider, **options)

    def __enter__(self) -> Any:
        return self.inner.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        handled = self.inner.__exit__(kind, error, trace)
        if handled and not isinstance(error, self.expected):
            _relax(KIND)
        if handled and self.match is not None and not re.search(self.match, str(error)):
            _relax(WORDING)
        return handled


class _Warns:
    """`pytest.warns`, whatever the words of the warning; announcements need not be made."""

    def __init__(self, expected: Any, match: Any):
        self.announced = expected is not None and issubclass(
            expected, FutureWarning | DeprecationWarning
        )
        self.expected, self.match = expected or UserWarning, match
        self.inner: Any = (
            warnings.catch_warnings(record=True) if self.announced else _pytest_warns(self.expected)
        )

    def __enter__(self) -> Any:
        self.found = self.inner.__enter__()
        if self.announced:
            warnings.simplefilter("always")
        return self.found

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        handled = self.inner.__exit__(kind, error, trace)
        if self.announced:  # (as pytest does, for those around it that wait for other warnings)
            for w in self.found:
                if not issubclass(w.category, self.expected):
                    warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
        texts = [str(w.message) for w in self.found if issubclass(w.category, self.expected)]
        if kind is None and not any(re.search(self.match or "", text) for text in texts):
            _relax(ANNOUNCED if self.announced else WORDING)
        return handled


_pytest_raises, _pytest_warns = pytest.raises, pytest.warns


def _lenient_raises(expected: Any, *args: Any, match: Any = None, **options: Any) -> Any:
    if args:
        return _pytest_raises(expected, *args, **options)
    return _Raises(expected, match, options)


def _lenient_warns(expected: Any = None, *args: Any, match: Any = None, **options: Any) -> Any:
    if args:
        return _pytest_warns(expected, *args, **options)
    return _Warns(expected, match)


def _watched(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        _take_part()
        return function(*args, **kwargs)

    call.__wrapped__ = function
    call.__doc__ = function.__doc__
    return call


def _replace() -> None:
    for name, homes in MASKERS.items():
        masker = getattr(ours, name)
        first = masker.fit

        def fit(self: Any, *args: Any, _first: Any = first, **kwargs: Any) -> Any:
            _take_part()
            return _first(self, *args, **kwargs)

        fit.__doc__, fit.__wrapped__ = first.__doc__, first
        masker.fit = fit
        setattr(nilearn.maskers, name, masker)
        for home in homes:
            setattr(importlib.import_module(f"nilearn.maskers.{home}"), name, masker)
    # (its checks ask by this class which maskers take several images)
    importlib.import_module("nilearn.maskers._mixin")._MultiMixin = _Multi
    for name, function in FUNCTIONS.items():
        setattr(nilearn.signal, name, _watched(function))


_replace()
pytest.raises, pytest.warns = _lenient_raises, _lenient_warns  # type: ignore[assignment]


def _is_ours(value: Any) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__.startswith("penstock.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Any:
    _current.append(item.nodeid)
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    nested = [
        part
        for value in parameters.values()
        for part in (value if isinstance(value, list | tuple) else (value,))
    ]
    if any(map(_is_ours, nested)):
        _take_part()
    try:
        return (yield)
    finally:
        _current.pop()


def pytest_runtest_logreport(report: Any) -> None:
    if report.when != "call" and report.outcome == "passed":
        return
    text = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr)
    record = {
        "test": report.nodeid.split("nilearn/", 1)[-1],
        "outcome": "xfailed" if hasattr(report, "wasxfail") else report.outcome,
        "relaxed": sorted(_relaxed.get(report.nodeid, ())),
        "ours": report.nodeid in _taking_part,
        "text": text,
    }
    with open(os.environ["PENSTOCK_NILEARN_RESULTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
