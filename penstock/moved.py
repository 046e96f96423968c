"""Modules that scripts ask for by earlier names: they get the same module, and are told."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

MOVED = {
    "penstock.blocks": "penstock.planning.blocks",
    "penstock.chain": "penstock.planning.chain",
    "penstock.engine": "penstock.running.engine",
    "penstock.plan": "penstock.planning.plan",
    "penstock.run": "penstock.running.run",
    "penstock.store": "penstock.storage.store",
    "penstock.work": "penstock.running.tasks",
    "penstock.fmri.masker_report": "penstock.fmri.maskers.report",
    "penstock.spectra.fit": "penstock.spectra.fitting.fit",
    "penstock.spectra.models": "penstock.spectra.fitting.models",
}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules under names that they had; asked only where nothing else finds one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        now = MOVED[spec.name]
        warnings.warn(f"{spec.name} is called {now} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(now)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: Any) -> None:
        # (it is there already: the import has only given it the spec of its earlier name)
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let imports of earlier names succeed."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
