"""A function is another one where anything of its user that it refers to has changed."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.function_source import source_digest

HELPERS = """
import functools
import pathlib
import numpy as np
import second

C = 1.0
TABLE = {"scale": 1.0}
HERE = pathlib.Path("a")
PICKED = np.abs

def inner(s):
    return C + 0 * float(s[0])

def decorate(function):
    @functools.wraps(function)
    def wrapper(s):
        return function(s) + 0.0
    return wrapper

def f(s): return inner(s)
def with_table(s): return TABLE["scale"] * s.sum()
def with_module(s): return second.more(s)
def with_path(s): return len(str(HERE)) * s.sum()
def with_ufunc(s): return PICKED(s).sum()

@decorate
def decorated(s): return s.sum()

class Kind:
    factor = 2.0
    def method(self, s): return self.other(s) * C
    def other(self, s): return s.sum()

class Child(Kind):
    pass

bound = Kind().method
partial = functools.partial(inner)
nested = lambda s: [inner(s) for _ in range(2)]

def alone(s): return s.sum()
"""
NAMES = (
    *("f", "with_path", "with_table", "with_module", "with_ufunc", "decorated"),
    *("bound", "partial", "nested", "Child", "alone"),
)
CHANGES = {
    ("C = 1.0", "C = 2.0"): {"f", "bound", "partial", "nested", "Child"},
    ('{"scale": 1.0}', '{"scale": 3.0}'): {"with_table"},
    ("C + 0 * float(s[0])", "C + 1 * float(s[0])"): {"f", "partial", "nested"},
    ("function(s) + 0.0", "function(s) + 1.0"): {"decorated"},
    ("return s.sum()\n\nclass Kind", "return s.max()\n\nclass Kind"): {"decorated"},
    ('pathlib.Path("a")', 'pathlib.Path("b")'): {"with_path"},
    ("PICKED = np.abs", "PICKED = np.sign"): {"with_ufunc"},
    ("factor = 2.0", "factor = 4.0"): {"bound", "Child"},
    ("def other(self, s): return s.sum()", "def other(self, s): return s.max()"): {
        "bound",
        "Child",
    },
}


def digests(folder: Path) -> dict[str, str]:
    """Of all functions of the module, in a fresh process."""
    code = (
        "import helpers, json; from penstock.function_source import source_digest; "
        f"print(json.dumps({{n: source_digest(getattr(helpers, n)) for n in {NAMES!r}}}))"
    )
    root = str(Path(__file__).parent.parent)
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['', {root!r}]; {code}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    import json

    return json.loads(ran.stdout)  # type: ignore[no-any-return]


def test_what_a_function_refers_to_counts(tmp_path: Path) -> None:
    (tmp_path / "second.py").write_text("def more(s): return s.sum()\n")
    (tmp_path / "helpers.py").write_text(HELPERS)
    before = digests(tmp_path)
    assert digests(tmp_path) == before
    assert len(set(before.values())) == len(before)
    for (old, new), changed in CHANGES.items():
        assert HELPERS.count(old) == 1, old
        (tmp_path / "helpers.py").write_text(HELPERS.replace(old, new))
        after = digests(tmp_path)
        assert {name for name in NAMES if after[name] != before[name]} == changed, new
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "second.py").write_text("def more(s): return s.max()\n")
    after = digests(tmp_path)
    assert {name for name in NAMES if after[name] != before[name]} == {"with_module"}


def test_parameters_and_closures_count() -> None:
    def scaled(factor: float, table: object = None) -> object:
        return lambda s: s * factor + (table is None)

    assert source_digest(scaled(1.0)) == source_digest(scaled(1.0))
    assert source_digest(scaled(1.0)) != source_digest(scaled(2.0))
    arrays = [source_digest(scaled(1.0, np.full(3, value))) for value in (0, 0, 1)]
    assert arrays[0] == arrays[1] != arrays[2]
    sets = [source_digest(scaled(1.0, value)) for value in ({"a", "b"}, {"b", "a"}, {"c"})]
    assert sets[0] == sets[1] != sets[2]
    halves = [source_digest(functools.partial(np.quantile, q=q)) for q in (0.1, 0.1, 0.9)]
    assert halves[0] == halves[1] != halves[2]


@pytest.mark.parametrize("function", [np.abs, np.median, len, str.upper], ids=str)
def test_functions_of_others_count_by_name(function: object) -> None:
    assert source_digest(function) == source_digest(function)  # type: ignore[arg-type]
