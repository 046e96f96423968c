"""Whether results are whole: what their files should be, and what is missing, cut or changed.

A store says in its attributes how many files every array takes, and how many bytes; the sidecar of
a result in another format says it of its files. Checking that reads no values: it looks at every
file's size and, of files of values, at the index of their chunks.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.storage.file_facts import end_facts, files_of_array
from penstock.storage.shards import check_file
from penstock.storage.store import stored_format, stored_provenance


@dataclass(frozen=True)
class Damage:
    """Why a result is not what was published."""

    reason: str
    lost: bool
    """Whether something of it is gone, rather than other than it was."""


def store_damage(store: Path) -> Damage | None:
    """What is wrong with a published store; None where it is as it was published.

    Arrays that somebody added do not count.
    """
    about = stored_provenance(store)
    if about is None:
        return Damage("zarr.json is damaged", lost=True)
    for name, noted in (about.get("files") or {}).items():
        array = store / name
        try:
            json.loads((array / "zarr.json").read_bytes())
        except (OSError, ValueError):
            return Damage(f"{name}/zarr.json is missing or damaged", lost=True)
        try:
            found = files_of_array(array)
        except OSError as error:
            return Damage(f"{name} cannot be read ({error.strerror})", lost=True)
        lost = _lost(store, name)
        if lost is not None:
            return Damage(lost, lost=True)
        if found[0] < noted[0]:
            return Damage(f"{noted[0] - found[0]} files of {name} are missing", lost=True)
        if found != noted:
            # (values of coordinates that are cut or zeroed cannot be told from others)
            return Damage(f"the values of {name} are not those that were written", lost=False)
    return None


def _lost(store: Path, name: str) -> str | None:
    """The first file of an array of values that is missing or damaged."""
    form = stored_format(store, name)
    if form is None:
        return None
    counts = (-(-n // size) for n, size in zip(form.shape, form.unit, strict=True))
    for index in itertools.product(*map(range, counts)):
        path = store.joinpath(name, "c", *map(str, index))
        try:
            check_file(str(path), form, path.stat().st_size)
        except FileNotFoundError:
            if form.whole:
                return f"{path.relative_to(store)} is missing"
        except (OSError, ValueError):
            return f"{path.relative_to(store)} is damaged"
    return None


def exported_files(paths: list[Path]) -> dict[str, list[int]]:
    """What `export_damage` compares: size and ends of the files of a result."""
    return {path.name: list(end_facts(path)) for path in paths}


def export_damage(target: Path, about: dict[str, Any]) -> Damage | None:
    """What is wrong with a published file, and those beside it that belong to it."""
    for name, noted in (about.get("files") or {}).items():
        if os.path.basename(name) != name:
            continue  # (never out of the folder of the result)
        try:
            found = list(end_facts(target.with_name(name)))
        except FileNotFoundError:
            return Damage(f"{name} is missing", lost=True)
        except OSError as error:
            return Damage(f"{name} cannot be read ({error.strerror})", lost=True)
        if found != noted:
            return Damage(f"{name} is not what was written", lost=False)
    return None
