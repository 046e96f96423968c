"""Which recordings are meant: by a path, a pattern, a folder, a dataset, or a list of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.io.objects import as_dataset
from penstock.running.result_names import check_name, names_of
from penstock.running.result_names import result_name as result_name
from penstock.storage.store import sidecar_path, stored_provenance


@dataclass(frozen=True)
class SourceItem:
    """One recording as the user gave it."""

    name: str
    path: Path | None = None
    dataset: xr.Dataset | None = None


@dataclass(frozen=True)
class _Entry:
    """One recording, and what its result may be named after."""

    place: Path
    root: Path
    path: Path | None = None
    dataset: xr.Dataset | None = None


def resolve_sources(
    source: Any,
    out: Path | None = None,
    name: str | None = None,
    select: Mapping[str, str] | None = None,
) -> list[SourceItem]:
    """Recordings meant by a path, pattern, folder, dataset or a list of them, with result names.

    A mapping gives its own names for the results: ``{"sub-01_rest": "bold.nii.gz"}``. Otherwise
    they are those of the files, below folders like those of the recordings where two files have
    one name, or made by the pattern `name` (see `penstock.running.result_names.names_of`).

    A recording that is given twice counts once. Where a folder or pattern also covers `out`,
    earlier results in it are left out, so that the same command can go on in the folder of its
    recordings. Of several images of one run in such a folder (in other spaces, say) one must be
    chosen with `select` (see `penstock.io.bids.choice`); where `select` is given, of paths that are
    listed as well.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or two would have one name.
    """
    if isinstance(source, Mapping) and not isinstance(source, xr.Dataset):
        if name is not None:
            raise ValueError("a mapping names its results itself: leave out name (--name)")
        return [_named(str(one), entry, select) for one, entry in source.items()]
    entries = _entries(source if isinstance(source, list | tuple) else [source], out, select)
    if not entries:
        raise ValueError("no recordings given")
    names = names_of([e.place for e in entries], [e.root for e in entries], name)
    return [SourceItem(one, e.path, e.dataset) for one, e in zip(names, entries, strict=True)]


def _entries(
    given: list[Any] | tuple[Any, ...], out: Path | None, select: Mapping[str, str] | None
) -> list[_Entry]:
    from penstock.io.bids.choice import check_choice, chosen_images
    from penstock.io.finding import find_recordings, whole_recordings

    every_desc = "desc" in check_choice(select)
    entries: list[_Entry] = []
    searched: list[Path] = []
    for one in map(as_dataset, given):
        if isinstance(one, xr.Dataset):
            origin = one.attrs.get("source") or one.attrs.get("store")
            n_before = sum(e.dataset is not None for e in entries)
            place = Path(str(origin)) if origin else Path(f"dataset{n_before or ''}")
            root = Path(os.path.abspath(place)).parent
            entries.append(_Entry(place, root, dataset=one))
        elif isinstance(one, str | os.PathLike):
            found = find_recordings(one, every_desc=every_desc)
            paths = found.paths
            if out is not None and found.searched:
                paths = [p for p in paths if out not in p.absolute().parents or not _is_result(p)]
            entries += [_Entry(path, found.root, path) for path in paths]
            searched += paths if found.searched or select is not None else []
        else:
            raise TypeError(f"expected paths or datasets, got {type(one).__name__}")
    left_out = {*searched} - {*chosen_images(list(dict.fromkeys(searched)), select)}
    entries = [entry for entry in entries if entry.path not in left_out]
    paths = [entry.path for entry in entries if entry.path is not None]
    whole = {Path(os.path.abspath(path)) for path in whole_recordings(paths)}
    kept = []
    for entry in entries:
        if entry.path is None:
            kept.append(entry)
        elif (there := Path(os.path.abspath(entry.path))) in whole:
            whole.remove(there)
            kept.append(entry)
    return kept


def _named(name: str, entry: Any, select: Mapping[str, str] | None) -> SourceItem:
    from penstock.io.bids.choice import chosen_images

    check_name(name)
    entry = as_dataset(entry)
    if isinstance(entry, xr.Dataset):
        return SourceItem(name, dataset=entry)
    paths = chosen_images(expand_paths(entry, select), select)
    if len(paths) != 1:
        raise ValueError(f"{name!r} names one recording, but {entry} means {len(paths)}")
    return SourceItem(name, path=paths[0])


def _is_result(path: Path) -> bool:
    about = stored_provenance(path)
    return (about is not None and "key" in about) or sidecar_path(path).exists()


def expand_paths(
    pattern: str | os.PathLike[str], select: Mapping[str, str] | None = None
) -> list[Path]:
    """Recordings meant by a path, a pattern, or a folder (see `penstock.io.finding`).

    Images of a run are all of them: which of them are meant is for `resolve_sources`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    from penstock.io.finding import find_recordings

    return find_recordings(pattern, every_desc="desc" in (select or {})).paths
