"""How results are named: after their recordings, after their folders too where names repeat."""

from __future__ import annotations

import os
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

FIELDS = ("name", "file", "extension", "folder", "folders", "number")
"""What a pattern may name for every recording, beside the entities of BIDS names."""

LONGEST_NAME = 200
"""Bytes of a name (file systems take 255), so that what is written beside a result has one too."""


def result_name(path: Path) -> str:
    """The name of a file without its extension, double ones (``.nii.gz``) included."""
    from penstock.io import extensions

    lower = path.name.lower()
    longest = max((e for e in extensions() if lower.endswith(e)), key=len, default=path.suffix)
    name = path.name[: len(path.name) - len(longest)] or path.stem
    return _shown(name)


def names_of(paths: Sequence[Path], roots: Sequence[Path], pattern: str | None = None) -> list[str]:
    """A name for the result of every recording.

    Parameters
    ----------
    paths, roots : sequence of path
        Of the recordings, and for each the folder that was searched for it.
    pattern : str, optional
        Such as ``"{sub}/{name}"``: see `FIELDS`. Default: the names of the files without their
        extensions; with them where files of one folder differ in nothing else; below folders like
        those of the recordings where two files would still have one name.

    Raises
    ------
    ValueError
        If the pattern cannot be used, or two results would have one name.
    """
    if pattern is not None:
        names = _by_pattern(paths, roots, pattern)
    else:
        names = [result_name(path) for path in paths]
        places = [os.path.abspath(path) for path in paths]
        within = Counter((os.path.dirname(p), n) for p, n in set(zip(places, names, strict=True)))
        names = [
            _shown(os.path.basename(place)) if within[os.path.dirname(place), name] > 1 else name
            for place, name in zip(places, names, strict=True)
        ]
        if len(set(names)) < len(names):
            folders = _folders(paths, roots)
            names = ["/".join((*f, n)) for f, n in zip(folders, names, strict=True)]
            repeated = Counter(names)  # (``a.bdf`` kept its extension, beside ``a.bdf.edf``)
            names = [
                "/".join((*folder, _shown(path.name))) if repeated[name] > 1 else name
                for folder, path, name in zip(folders, paths, names, strict=True)
            ]
    first: dict[str, Path] = {}
    for name, path in zip(names, paths, strict=True):
        if name in first:
            raise ValueError(
                f"{first[name]} and {path} would both become {name!r}: name the results "
                "otherwise, with name='{number}_{name}' (--name) or a mapping of names, or run "
                "them into different folders"
            )
        first[name] = path
    return names


def check_name(name: str) -> str:
    """The name, if a result can be called so: of parts of a path that stay in the folder."""
    parts = name.split("/")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        raise ValueError(
            f"{name[:60]!r}... is too long for the name of a result: at most {LONGEST_NAME} bytes "
            "between folders"
        )
    if any(not part or part.startswith(".") or not part.isprintable() for part in parts):
        raise ValueError(
            f"{name!r} cannot be the name of a result: use letters, digits, - and _, and / between "
            "folders"
        )
    return name


# ---------------------------------------------------------------------- inside


def _shown(name: str) -> str:
    """A name that does not hide what is called so, nor leads out of the folder."""
    return re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), name)


def _folders(paths: Sequence[Path], roots: Sequence[Path]) -> list[tuple[str, ...]]:
    """Folders in which the recordings lie, below the one that all of them share."""
    base = os.path.commonpath([os.path.abspath(root) for root in roots])
    inside = []
    for path in paths:
        relative = os.path.relpath(os.path.abspath(path.parent), base)
        parts = Path(relative).parts
        inside.append(tuple(_shown(part) for part in parts if part != os.curdir))
    if base != os.path.dirname(base):
        return inside
    # nothing in common but the root of the file system: as many folders as tell them apart
    for depth in range(1, max(map(len, inside), default=0)):
        nearest = [folders[-depth:] for folders in inside]
        names = [(*folders, path.name) for folders, path in zip(nearest, paths, strict=True)]
        if len(set(names)) == len(names):
            return nearest
    return inside


def _by_pattern(paths: Sequence[Path], roots: Sequence[Path], pattern: str) -> list[str]:
    wanted = _fields_in(pattern)
    if os.path.isabs(pattern) or pattern.startswith("~"):
        raise ValueError(
            f"{pattern!r} cannot be the name of a result: it lies in the folder of the results, "
            "so begin with a field or a folder inside of it, such as '{sub}/{name}'"
        )
    folders = _folders(paths, roots)
    names = []
    for number, (path, inside) in enumerate(zip(paths, folders, strict=True), 1):
        values = _values(path, inside, number, len(paths))
        unknown = [field for field in wanted if field not in values]
        if unknown:
            raise ValueError(
                f"{path.name} has no {unknown[0]!r} for the name {pattern!r}: it has "
                f"{', '.join('{' + field + '}' for field in values)}"
            )
        text = "".join(
            literal + (values[field] if field is not None else "")
            for literal, field, _, _ in string.Formatter().parse(pattern)
        )
        names.append(check_name(re.sub("/+", "/", text).strip("/")))
    return names


def _fields_in(pattern: str) -> list[str]:
    """Fields that a pattern names; nothing but plain names in braces is taken."""
    try:
        parsed = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(
            f"the name {pattern!r} cannot be read ({error}): write '{{name}}'"
        ) from None
    fields = [field for _, field, _, _ in parsed if field is not None]
    for _, field, spec, conversion in parsed:
        if field is not None and (spec or conversion or not re.fullmatch(r"[A-Za-z0-9]+", field)):
            raise ValueError(
                f"the name {pattern!r} has {{{field}{'!' if conversion else ''}{conversion or ''}"
                f"{':' if spec else ''}{spec or ''}}}: write names of fields alone, such as "
                "{name} or {folder}"
            )
    return fields


def _values(path: Path, folders: tuple[str, ...], number: int, count: int) -> dict[str, str]:
    from penstock.io.bids.names import parse_name

    name = result_name(path)
    bids = parse_name(path)
    values = {
        "name": name,
        "file": path.name,
        "extension": path.name[len(name) :].lstrip("."),
        "folder": _shown(Path(os.path.abspath(path)).parent.name),
        "folders": "/".join(folders),
        "number": str(number).zfill(len(str(count))),
    }
    if bids is not None:
        values = {**bids.entities, "suffix": bids.suffix, **values}
    return values
