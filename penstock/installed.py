"""Which packages and modules are installed here, and which extra brings those that are not."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import sys

_OF_DEVELOPERS = frozenset(("all", "bench", "dev", "docs", "test"))
"""Extras that are not for users."""
_MODULES = {"scikit-learn": "sklearn", "dask-jobqueue": "dask_jobqueue"}
"""Modules that are not called like what is installed for them."""
_NEEDS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([A-Za-z0-9_-]+)['\"]")


@functools.cache
def requirements() -> dict[str, tuple[str, ...]]:
    """What Penstock needs, and its extras: names of packages; under ``""`` what it always needs.

    Where it runs without being installed, nothing is known of that.
    """
    try:
        lines = importlib.metadata.requires("penstock") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    found: dict[str, list[str]] = {}
    for line in lines:
        name, extra = _NEEDS.match(line), _EXTRA.search(line)
        of = extra[1] if extra else ""
        if name is None or name[1] == "penstock" or of in _OF_DEVELOPERS:
            continue
        found.setdefault(of, []).append(name[1])
    return {extra: tuple(names) for extra, names in found.items()}


def missing_extra(module: str) -> str:
    """The extra that brings a module which is not installed; nothing where it is, or no extra does.

    Examples
    --------
    >>> from penstock.installed import missing_extra
    >>> missing_extra("numpy.fft")
    ''
    """
    top = module.partition(".")[0]
    if sys.modules.get(top) is not None or is_installed(top):
        return ""
    for extra, names in sorted(requirements().items()):
        if extra and any(_MODULES.get(name, name).lower() == top.lower() for name in names):
            return extra
    return ""


def is_installed(module: str) -> bool:
    """Whether a module can be imported, as far as can be told without doing so."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def version_of(name: str) -> str | None:
    """Version of a package; every run tells it, and looking it up takes most of a millisecond."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
