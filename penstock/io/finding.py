"""Which recordings a path, a pattern or a folder means: each once, whole, and nothing else."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.io.bids.choice import IMAGE
from penstock.io.bids.names import parse_name
from penstock.io.mne.parts import first_part
from penstock.io.registry import (
    MissingExtraError,
    extensions,
    find_reader,
    is_recording_folder,
    readers,
    whole_of,
)
from penstock.local_paths import check_local, not_there
from penstock.messages import warn

_FUNCTIONAL = re.compile(r"_bold\.nii(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
_NOT_RECORDINGS = ("sourcedata", "code", "stimuli")
"""Folders of a BIDS dataset in which other things lie: originals, programs, pictures and sounds."""
_SIDECARS = (".json", ".tsv", ".tsv.gz", ".bvec", ".bval")


@dataclass(frozen=True)
class Found:
    """Recordings that somebody meant by one text."""

    paths: list[Path]
    """In order of their names, each once."""
    root: Path
    """The folder that was searched: names of results may mirror what lies below it."""
    searched: bool = True
    """Whether they were found, not named."""


def find_recordings(given: str | os.PathLike[str], *, every_desc: bool = False) -> Found:
    """Recordings meant by a path, a pattern, or a folder (the known formats in it).

    Where none lie in a folder itself, its subfolders are searched, through links too. Recordings
    that are folders (``.mff``, ``.ds``, ``.zarr``) are one recording; parts of others (``.eeg`` and
    ``.vmrk`` of BrainVision, later files of a split FIF recording) are not counted beside them. Of
    images in a folder the preprocessed ones are meant where there are some, unless `every_desc`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    check_local(given)
    text = str(Path(given).expanduser())
    path = Path(text)
    if is_recording_folder(path):
        return Found([path], _parent(path), searched=False)
    if path.is_dir():
        found = in_folder(path, every_desc)
        if not found:
            raise FileNotFoundError(
                f"{path}: no recordings in this folder (known: {', '.join(sorted(extensions()))})"
            )
        return Found(found, Path(os.path.abspath(path)))
    if path.exists():
        return Found([path], _parent(path), searched=False)
    if glob.has_magic(text):
        return Found(_matching(text, str(given)), _fixed_folder(text))
    if path.is_symlink():
        raise FileNotFoundError(not_there(str(path)))
    raise FileNotFoundError(f"{given}: no such file or folder")


def in_folder(folder: Path, every_desc: bool = False) -> list[Path]:
    """Recordings in a folder, or where it has none itself, in its subfolders."""
    found = _recordings(_entries(folder), folder, every_desc)
    return found or _recordings(_walk(folder), folder, every_desc)


def whole_recordings(paths: Iterable[Path]) -> list[Path]:
    """The paths as given, each once, without parts of recordings that are among them."""
    listed: dict[Path, Path] = {}
    for path in paths:
        listed.setdefault(Path(os.path.abspath(path)), path)
    folders: dict[Path, bool] = {}
    kept = []
    for place, path in listed.items():
        whole = _whole(place, folders)
        if whole is not None and whole in listed:
            continue
        if len(listed) > 1 and _is_sidecar(place):
            continue
        kept.append(path)
    return kept


# ---------------------------------------------------------------------- patterns


def _matching(pattern: str, given: str) -> list[Path]:
    """Recordings that a pattern matches: whole ones, and those in folders that it matches."""
    matched = sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not matched:
        raise FileNotFoundError(f"{given}: no file matches this pattern")
    found: dict[Path, None] = {}
    others: list[Path] = []
    folders: dict[Path, bool] = {}
    for path in matched:
        whole = _whole(path, folders)
        if whole is not None:
            found[whole] = None
        elif is_recording_folder(path) or (path.is_file() and _is_known(path)):
            found[path] = None
        elif path.is_dir():
            found |= dict.fromkeys(in_folder(path))
        elif not _is_sidecar(path):
            others.append(path)
    # (what nobody knows is named as a failure, unless recordings lie beside it)
    if not found and not others:
        raise FileNotFoundError(f"{given}: no recording matches this pattern")
    unique = {os.path.abspath(path): path for path in reversed(found or others)}
    return sorted(unique.values())


def _is_known(path: Path) -> bool:
    """Whether a reader's extension or signature fits a file."""
    lower = path.name.lower()
    if any(lower.endswith((*r.extensions, *r.shared_extensions)) for r in readers().values()):
        return True
    try:
        find_reader(str(path))
    except MissingExtraError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _fixed_folder(pattern: str) -> Path:
    """The folder in which a pattern begins to vary."""
    fixed = []
    for part in Path(os.path.abspath(pattern)).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


# ---------------------------------------------------------------------- folders


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _walk(folder: Path) -> Iterator[Path]:
    """Files and recordings below a folder; links are followed, hidden folders are not entered."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            stat = here.stat()
            entries = _entries(here)
        except OSError as error:
            warn(f"{here} is not searched ({error.strerror})", stacklevel=2)
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        is_dataset = any(path.name == "dataset_description.json" for path in entries)
        for path in entries:
            if not path.is_dir() or is_recording_folder(path):
                yield path
            elif not (is_dataset and path.name in _NOT_RECORDINGS):
                waiting.append(path)


def _recordings(paths: Iterable[Path], root: Path, every_desc: bool = False) -> list[Path]:
    """Those in a format that we know, in order of their names, without parts of others.

    Of a BIDS dataset or its derivatives, with masks, maps and anatomy beside the recordings, only
    the functional images are meant, and of these the preprocessed ones where there are some. Of
    other recordings only the original ones are meant where there are derivatives of them, too.
    """
    known = extensions()
    found = sorted(
        path
        for path in paths
        if (path.name.lower().endswith(known) and not path.is_dir()) or is_recording_folder(path)
    )
    found = [path for path in found if first_part(path) is None]
    images = {path for path in found if IMAGE.search(path.name)}
    functional = {path for path in images if _FUNCTIONAL.search(path.name)}
    preprocessed = {path for path in functional if "_desc-preproc_" in path.name}
    preprocessed = set() if every_desc else preprocessed
    wanted = preprocessed or functional or images
    others = {path for path in found if path not in images}
    wanted |= {p for p in others if "derivatives" not in p.relative_to(root).parts} or others
    return [path for path in found if path in wanted]


def _whole(path: Path, folders: dict[Path, bool]) -> Path | None:
    """The recording of which a path is only a part; None where it is one itself."""
    whole = whole_of(path, folders)
    return Path(whole) if whole is not None else first_part(path)


def _is_sidecar(path: Path) -> bool:
    name = parse_name(path)
    return name is not None and name.extension in _SIDECARS


def _parent(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent
