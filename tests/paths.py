"""Where the tests and the project lie."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def search_path() -> str:
    """``PYTHONPATH`` of processes that are sent functions of tests, wherever they lie."""
    rooms = sorted({path.parent for path in TESTS.rglob("test_*.py")})
    paths = [str(TESTS), *map(str, rooms), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def environment() -> dict[str, str]:
    """Of processes that are started by tests: they find the modules of tests."""
    return {**os.environ, "PYTHONPATH": search_path()}
