"""Which recordings are meant: by a path, a pattern, a folder, a dataset, or a list of them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.io.objects import as_dataset
from penstock.store import provenance, sidecar_path


@dataclass(frozen=True)
class SourceItem:
    """One recording as the user gave it."""

    name: str
    path: Path | None = None
    dataset: xr.Dataset | None = None


def resolve_sources(source: Any, out: Path | None = None) -> list[SourceItem]:
    """Recordings meant by a path, pattern, folder, dataset or a list of them, with result names.

    A mapping gives its own names for the results: ``{"sub-01_rest": "bold.nii.gz"}``.

    Where a folder or pattern also covers `out`, earlier results in it are left out, so that the
    same command can go on in the folder of its recordings.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or two would have one name.
    """
    if isinstance(source, Mapping) and not isinstance(source, xr.Dataset):
        return [_named(str(name), entry) for name, entry in source.items()]
    several = isinstance(source, list | tuple)
    items: list[SourceItem] = []
    for entry in map(as_dataset, source if several else [source]):
        if isinstance(entry, xr.Dataset):
            origin = entry.attrs.get("source") or entry.attrs.get("store")
            default = f"dataset{len(items) or ''}"
            name = result_name(Path(str(origin))) if origin else default
            items.append(SourceItem(name, dataset=entry))
        elif isinstance(entry, str | Path):
            paths = expand_paths(entry)
            if out is not None and paths != [Path(entry).expanduser()]:
                paths = [p for p in paths if p.absolute().parent != out or not _is_result(p)]
            items += [SourceItem(result_name(path), path=path) for path in paths]
        else:
            raise TypeError(f"expected paths or datasets, got {type(entry).__name__}")
    if not items:
        raise ValueError("no recordings given")
    names: dict[str, SourceItem] = {}
    for item in items:
        if item.name in names:
            first, second = (i.path or "a dataset" for i in (names[item.name], item))
            raise ValueError(
                f"{first} and {second} would both become {item.name!r}: "
                "rename one, or run them into different folders"
            )
        names[item.name] = item
    return items


def _named(name: str, entry: Any) -> SourceItem:
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} cannot be the name of a result: use letters, digits, - and _")
    entry = as_dataset(entry)
    if isinstance(entry, xr.Dataset):
        return SourceItem(name, dataset=entry)
    paths = expand_paths(entry)
    if len(paths) != 1:
        raise ValueError(f"{name!r} names one recording, but {entry} means {len(paths)}")
    return SourceItem(name, path=paths[0])


def result_name(path: Path) -> str:
    """The name of a file without its extension, double ones (``.nii.gz``) included."""
    from penstock.io import extensions

    lower = path.name.lower()
    longest = max((e for e in extensions() if lower.endswith(e)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(longest)] or path.stem


def _is_result(path: Path) -> bool:
    about = provenance(path)
    return (about is not None and "key" in about) or sidecar_path(path).exists()


def expand_paths(pattern: str | Path) -> list[Path]:
    """Recordings meant by a path, a pattern, or a folder (the known formats in it).

    Where none lie in the folder itself, its subfolders are searched.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    from penstock.io import extensions

    text = str(Path(pattern).expanduser())
    path = Path(text)
    if path.is_dir() and not (path / "zarr.json").exists():
        found = _recordings(path.iterdir()) or _recordings(path.rglob("*"))
        if not found:
            raise FileNotFoundError(
                f"{path}: no recordings in this folder (known: {', '.join(sorted(extensions()))})"
            )
        return found
    if path.exists():
        return [path]
    if glob.has_magic(text):
        found = sorted(map(Path, glob.glob(text, recursive=True)))
        if found:
            return found
        raise FileNotFoundError(f"{pattern}: no file matches this pattern")
    raise FileNotFoundError(f"{pattern}: no such file or folder")


def _recordings(paths: Iterable[Path]) -> list[Path]:
    """Those in a format that we know, in order of their names.

    Of a BIDS dataset or its derivatives, with masks, maps and anatomy beside the recordings, only
    the functional images are meant, and of these the preprocessed ones where there are some.
    """
    from penstock.io import extensions

    known = extensions()
    found = sorted(
        path
        for path in paths
        if path.name.lower().endswith(known) and not path.name.startswith(".")
    )
    images = {path for path in found if path.name.lower().endswith((".nii", ".nii.gz"))}
    functional = {path for path in images if re.search(r"_bold\.nii(\.gz)?$", path.name.lower())}
    preprocessed = {path for path in functional if "_desc-preproc_" in path.name}
    wanted = preprocessed or functional or images
    return [path for path in found if path not in images or path in wanted]
