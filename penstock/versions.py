"""What is installed, and on what machine: for reports of errors, and to tell what is missing."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import sys
from typing import Any

import psutil

from penstock import __version__
from penstock.memory.machine import available_memory, cpu_count

_OF_DEVELOPERS = frozenset(("all", "bench", "dev", "docs", "test"))
"""Extras that are not for users."""
_MODULES = {"scikit-learn": "sklearn", "dask-jobqueue": "dask_jobqueue"}
"""Modules that are not called like what is installed for them."""
_NEEDS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([A-Za-z0-9_-]+)['\"]")


def show_versions(*, as_dict: bool = False) -> dict[str, Any] | None:
    """Print the versions of Penstock, of what it is made of, and of its extras, and the machine.

    Parameters
    ----------
    as_dict : bool, default False
        Return them instead, as plain values.

    Returns
    -------
    dict or None
        With ``penstock``, ``python``, ``platform``, ``cores`` (that this process may use),
        ``memory`` and ``available_memory`` [bytes], ``dependencies`` (version by name) and
        ``extras`` (the same for each of them; None for what is not installed).

    Examples
    --------
    >>> import penstock as ps
    >>> sorted(ps.show_versions(as_dict=True))[:4]
    ['available_memory', 'cores', 'dependencies', 'extras']
    """
    found = environment()
    if as_dict:
        return found
    print(environment_text(found))
    return None


def environment() -> dict[str, Any]:
    """Versions and machine as plain values (see `show_versions`)."""
    needed = requirements()
    return {
        "penstock": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cpu_count(),
        "memory": int(psutil.virtual_memory().total),
        "available_memory": int(available_memory()),
        "dependencies": {name: _version(name) for name in needed.get("", ())},
        "extras": {
            extra: {name: _version(name) for name in names}
            for extra, names in sorted(needed.items())
            if extra
        },
    }


def environment_text(found: dict[str, Any]) -> str:
    """Versions and machine in lines of at most 80 columns."""
    from penstock.memory.accounting import format_bytes
    from penstock.messages import folded

    lines = [
        f"penstock {found['penstock']}",
        f"  python    {found['python']} on {found['platform']}",
        f"  machine   {found['cores']} cores, {format_bytes(found['memory'])} of memory, "
        f"{format_bytes(found['available_memory'])} available",
        f"  needs     {_listed(found['dependencies'])}",
        *(f"  {extra:<9} {_listed(versions)}" for extra, versions in found["extras"].items()),
    ]
    return "\n".join(folded(line, 80) for line in lines)


def _listed(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or '(missing)'}" for name, version in versions.items())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    >>> from penstock.versions import missing_extra
    >>> missing_extra("numpy.fft")
    ''
    """
    top = module.partition(".")[0]
    if sys.modules.get(top) is not None or _is_there(top):
        return ""
    for extra, names in sorted(requirements().items()):
        if extra and any(_MODULES.get(name, name).lower() == top.lower() for name in names):
            return extra
    return ""


def _is_there(top: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
