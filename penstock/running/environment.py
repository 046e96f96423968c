"""What a run was carried out with: versions, and what the machine has."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import psutil

from penstock import __version__
from penstock.memory.accounting import cpu_count

LIBRARIES = ("numpy", "dask", "xarray", "zarr", "scipy")


def environment() -> dict[str, Any]:
    """Versions of Python, Penstock and what it stands on; system, memory and cores of the machine.

    Examples
    --------
    >>> from penstock.running.environment import environment
    >>> sorted(environment())
    ['cores', 'dependencies', 'memory', 'penstock', 'platform', 'python']
    """
    return {
        "penstock": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cpu_count(),
        "memory": int(psutil.virtual_memory().total),
        "dependencies": {name: metadata.version(name) for name in LIBRARIES},
    }
