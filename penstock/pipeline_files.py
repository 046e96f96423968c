"""Steps that a file names become processors: what may be named, and what is wrong with the rest."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.messages import shown, shown_text
from penstock.processor import Processor, registered_processors

_DOMAINS = ("penstock.eeg", "penstock.spectra", "penstock.fmri")
"""Packages whose processors may be named in files without saying where they live."""

_SAFE_FUNCTIONS = (
    "numpy", "numpy.fft", "numpy.linalg", "scipy.fft", "scipy.linalg", "scipy.ndimage",
    "scipy.signal", "scipy.special", "scipy.stats",
)  # fmt: skip
"""Modules whose functions ``Apply`` may name in files: functions of arrays, which neither run what
they are given nor write it (`numpy.testing` does). Others must be allowed by the user."""


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"cannot import {module!r}: {error}") from error


def parse_steps(steps: list[Any], allow: Sequence[str]) -> list[Processor]:
    """Processors that a file names, with their parameters.

    Raises
    ------
    ValueError, TypeError
        With the step that is wrong and what would be right.
    """
    for module in (*_DOMAINS, *allow):
        _import(module)
    return [_parse_step(step, number, allow) for number, step in enumerate(steps, 1)]


def _parse_step(step: Any, number: int, allow: Sequence[str]) -> Processor:
    if isinstance(step, str):
        name, given = step, None
    elif isinstance(step, dict) and len(step) == 1:
        name, given = next(iter(step.items()))
    else:
        raise ValueError(
            f"step {number}: write 'Name' or 'Name: {{parameter: value}}', got {shown(step)}"
        )
    cls = _find_processor(str(name), number)
    if _takes_function(cls):
        if not isinstance(given, dict):
            given = dict(zip(("function", "kwargs"), _as_list(given), strict=False))
        given = {**given, "function": _find_function(given.get("function"), number, allow)}
    if given is None:
        given = {}
    try:
        if isinstance(given, dict):
            return cls(**given)
        positional: Any = cls  # (the base class has no parameters of its own)
        return positional(*given) if isinstance(given, list) else positional(given)
    except TypeError as error:
        raise TypeError(f"step {number}: {_parameter_error(cls, given, error)}") from error
    except (ValueError, OverflowError) as error:
        raise ValueError(f"step {number}: {cls.__name__}: {error}") from error


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _parameter_error(cls: type[Processor], given: Any, error: TypeError) -> str:
    import dataclasses

    names = [f.name for f in dataclasses.fields(cls) if f.init]
    unknown = [key for key in given if key not in names] if isinstance(given, dict) else []
    if isinstance(given, list) and len(given) > len(names):
        return f"{cls.__name__} has {len(names)} parameters ({', '.join(names)}), got {len(given)}"
    if unknown and "required" not in str(error):
        close = difflib.get_close_matches(str(unknown[0]), names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names) or 'none'}"
        return f"{cls.__name__} has no parameter {unknown[0]!r}: {hint}"
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.init
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and not (isinstance(given, dict) and f.name in given)
    ]
    if missing and "required" in str(error):
        return f"{cls.__name__} needs the parameter {missing[0]!r}"
    return str(error)


def _takes_function(cls: type[Processor]) -> bool:
    """Whether a processor is made of a function, which files name as ``module:name``."""
    return "function" in getattr(cls, "__dataclass_fields__", {})


def _load(name: str | None = None) -> None:
    """Import the processors of that name, or all: domains load their modules on first use."""
    for domain in _DOMAINS:
        package = _import(domain)
        for label in package.__all__:
            if name in (None, label, f"{domain}.{label}"):
                with contextlib.suppress(ImportError):  # (of an extra that is not installed)
                    getattr(package, label)


def _find_processor(name: str, number: int) -> type[Processor]:
    _load(name)
    known = registered_processors()
    if name in known:
        return known[name]
    found = [cls for cls in known.values() if cls.__name__ == name]
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(cls.qualified_name() for cls in found)
        raise ValueError(f"step {number}: {name!r} may be any of {places}: write the full name")
    _load()
    known = registered_processors()
    short = sorted({cls.__name__ for cls in known.values()})
    close = difflib.get_close_matches(name, [*short, *known], 1)
    module = name.rpartition(".")[0]
    if close:
        hint = f"did you mean {close[0]!r}?"
    elif module.replace(".", "").isidentifier() and module.split(".")[0] != "penstock":
        hint = f"one of a module of yours must be allowed: --allow {shown_text(module)}"
    else:
        hint = (
            f"known are {', '.join(short)}; one of a module of yours must be allowed: "
            "--allow MODULE"
        )
    raise UnknownProcessor(f"step {number}: unknown processor {shown(name)}: {hint}", name)


class UnknownProcessor(ValueError):
    """A file names a processor that nobody has defined."""

    def __init__(self, text: str, name: str = ""):
        super().__init__(text)
        self.name = name
        """As the file has it."""


def _find_function(name: Any, number: int, allow: Sequence[str]) -> Any:
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"step {number}: it needs 'function: module:name', got {shown(name)}")
    module, _, attribute = name.partition(":")
    # Importing a module runs it: a file may only name packages that the user trusts anyway.
    if module not in _SAFE_FUNCTIONS and module not in allow:
        raise ValueError(
            f"step {number}: functions of {shown(module)} may not be named by a file unless you "
            f"allow it: --allow {shown_text(module)}"
        )
    if any(part.startswith("_") for part in attribute.split(".")):
        raise ValueError(f"step {number}: {shown(attribute)} is private")
    found = _import(module)
    for part in attribute.split("."):
        # (a method may do anything with a block, ndarray.tofile writes it to any path; and what a
        # module imports is not what was allowed)
        opaque = isinstance(found, type) or (found is not _import(module) and _is_module(found))
        found = None if opaque else getattr(found, part, None)
    if not callable(found) or isinstance(found, type):
        raise ValueError(
            f"step {number}: {shown(module)} has no function {shown(attribute)} that a file may "
            "name: write 'module:function', for example 'numpy.fft:rfft'"
        )
    home = "numpy" if isinstance(found, np.ufunc) else str(getattr(found, "__module__", None))
    trusted = {"numpy", "scipy", *(name.split(".")[0] for name in allow)}
    own = module in allow and "." not in attribute and not _of_python(home, module)
    if home.split(".")[0] not in trusted and not own:
        raise ValueError(
            f"step {number}: {shown_text(module)}:{shown_text(attribute)} is a function of "
            f"{home!r}, which a file may not name"
        )
    if module not in allow and (why := _no_function_of_arrays(found, attribute)):
        raise ValueError(
            f"step {number}: {shown_text(module)}:{shown_text(attribute)} {why}: a file may only "
            "name functions that turn arrays into arrays; call others yourself"
        )
    return found


def _is_module(found: Any) -> bool:
    return isinstance(found, types.ModuleType)


def _of_python(home: str, module: str) -> bool:
    """Whether a function is Python's own, and not of the module that was allowed."""
    return home.split(".")[0] in sys.stdlib_module_names and home != module


_OF_FILES = frozenset(
    ("file", "filename", "fname", "fid", "fp", "path", "mmap_mode", "allow_pickle", "save_as")
)
"""Parameters of functions that read or write files."""
_OF_THE_PROCESS = re.compile(
    r"test|info|"
    r"(set|get|show|register|print)_?.*(err|opt|buf|include|work|backend|config|runtime|call|funcs)"
    r"[a-z]*"
)
"""Names of functions that change or tell what is no array: settings, tests, printing."""


def _no_function_of_arrays(found: Any, name: str) -> str:
    """Why a function of NumPy or SciPy is none that turns an array into an array; "" if it is."""
    if _OF_THE_PROCESS.fullmatch(name):
        return "is no function of an array"
    with contextlib.suppress(ValueError, TypeError):  # (compiled functions have no signature)
        parameters = inspect.signature(found).parameters
        if _OF_FILES & set(parameters):
            return "reads or writes files"
    return "reads or writes files" if name in ("fromfile", "load") else ""
