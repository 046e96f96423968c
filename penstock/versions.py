"""What is installed, and on what machine: for reports of errors."""

from __future__ import annotations

import platform
from typing import Any

import psutil

from penstock import __version__
from penstock.installed import requirements, version_of
from penstock.memory.machine import available_memory, cpu_count


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
    return {
        "penstock": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cpu_count(),
        "memory": int(psutil.virtual_memory().total),
        "available_memory": int(available_memory()),
        "dependencies": _versions(""),
        "extras": {extra: _versions(extra) for extra in sorted(requirements()) if extra},
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


def _versions(extra: str) -> dict[str, str | None]:
    """Versions of what an extra brings, or of what is always needed (``""``)."""
    return {name: version_of(name) for name in requirements().get(extra, ())}
