"""Positions: one operation on every spectrum of a grid. Loop dims are positions.

Public names are loaded on first use: a worker process imports what its functions need, no more.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Output": "penstock.spectra.outputs",
    "PerPosition": "penstock.spectra.positions",
    "Process": "penstock.spectra.process",
    "parallel_compute": "penstock.spectra.parallel",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'penstock.spectra' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
