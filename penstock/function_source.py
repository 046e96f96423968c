"""What a user's function does, as one digest: its source, and all of theirs that it refers to.

A function that calls another one, reads a constant or is wrapped by a decorator changes with them.
What comes from installed packages counts by name: their versions are kept elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_INSTALLED = tuple(
    {
        str(Path(path).resolve())
        for name, path in sysconfig.get_paths().items()
        if name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {str(Path(__file__).resolve().parent)}
)


def source_digest(function: Callable[..., Any]) -> str:
    """Digest of the source of a function and of what else of its user it refers to.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.function_source import source_digest
    >>> def scaled(spectrum, factor=2.0):
    ...     return factor * spectrum
    >>> (
    ...     source_digest(scaled) == source_digest(scaled),
    ...     source_digest(scaled) == source_digest(np.abs),
    ... )
    (True, False)
    """
    digest = hashlib.sha256()
    seen: set[int] = set()
    kept: list[Any] = []  # (an id is only that of one object as long as that object is there)
    for part in _parts(function, seen, kept):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _parts(found: Any, seen: set[int], kept: list[Any]) -> Iterator[bytes]:
    """What makes something what it is, piece by piece."""
    if found is None or isinstance(found, bool | int | float | complex | str | bytes):
        yield repr(found).encode()
        return
    if id(found) in seen:
        return
    seen.add(id(found))
    kept.append(found)
    inner: list[Any] = []
    if isinstance(found, functools.partial):
        inner = [found.func, found.args, found.keywords]
    elif isinstance(found, types.MethodType):
        inner = [found.__func__, found.__self__]
    elif isinstance(found, staticmethod | classmethod):
        inner = [found.__func__]
    elif isinstance(found, property):
        inner = [found.fget]
    elif isinstance(found, types.FunctionType):
        yield _name(found)
        if _is_of_user(found.__module__):
            yield _text(found.__code__)
            inner = [found.__defaults__, found.__kwdefaults__]
            inner += [_content(cell) for cell in found.__closure__ or ()]
            names = sorted(_names(found.__code__) & found.__globals__.keys())
            inner += [item for name in names for item in (name, found.__globals__[name])]
    elif isinstance(found, type):
        yield _name(found)
        if _is_of_user(found.__module__):
            inner = [*found.__bases__, *_members(found)]
    elif isinstance(found, types.ModuleType):
        yield found.__name__.encode()
        if _is_of_user(found.__name__):
            yield _file(found)
            used = (value for name, value in sorted(vars(found).items()) if name[:2] != "__")
            inner = [value for value in used if isinstance(value, types.ModuleType)]
    elif isinstance(found, np.ndarray):
        yield f"{found.dtype} {found.shape}".encode()
        yield hashlib.sha256(np.ascontiguousarray(found).tobytes()).digest()
    elif isinstance(found, set | frozenset):
        yield repr(sorted(map(repr, found))).encode()
    elif isinstance(found, list | tuple):
        inner = list(found)
    elif isinstance(found, dict):
        inner = [item for pair in found.items() for item in pair]
    elif callable(found) and isinstance(getattr(found, "__name__", None), str):
        # (of C: ufuncs, builtins)
        yield f"{getattr(found, '__module__', '')}.{found.__name__}".encode()
    elif _is_of_user(type(found).__module__):
        # (an object counts by its class and its attributes, never by its address)
        inner = [type(found), dict(sorted(getattr(found, "__dict__", {}).items()))]
    else:
        yield _name(type(found))
        yield _pickled(found)
    for item in inner:
        yield from _parts(item, seen, kept)


def _name(found: Any) -> bytes:
    return f"{found.__module__}.{found.__qualname__}".encode()


def _members(kind: type) -> Iterator[Any]:
    """Names and values of a class's own attributes."""
    for name, value in sorted(vars(kind).items()):
        if name not in ("__dict__", "__weakref__", "__doc__", "__module__"):
            yield name
            yield value


def _names(code: types.CodeType) -> set[str]:
    """Global names that a function may read, those of functions inside it included."""
    inside = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inside))


def _text(code: types.CodeType) -> bytes:
    """Source of a function itself, not of one that it wraps; without any, its instructions."""
    try:
        return inspect.getsource(code).encode()
    except (OSError, TypeError):
        return code.co_code + repr(code.co_names).encode()


def _pickled(found: Any) -> bytes:
    """Digest of an object of an installed package; nothing where it has no state to keep."""
    if isinstance(found, np.random.Generator | np.random.RandomState):
        return b""  # (it changes by being used)
    try:
        return hashlib.sha256(pickle.dumps(found)).digest()
    except Exception:  # (locks, handles, clients: whatever their type raises)
        return b""


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # (of a function that is not finished yet)
        return None


def _file(module: types.ModuleType) -> bytes:
    try:
        return hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest()
    except OSError:
        return b""


def _is_of_user(module: str | None) -> bool:
    """Whether a module is a user's own: neither Python's, nor Penstock's, nor installed."""
    if module == "__main__":
        return True
    path = getattr(sys.modules.get(module or ""), "__file__", None)
    return path is not None and not str(Path(path).resolve()).startswith(_INSTALLED)
