"""Names of BIDS files, and the sidecars that belong to a recording (inheritance principle).

The rules are those of https://bids-specification.readthedocs.io, "Common principles". Nothing here
knows what a sidecar means: that is for the readers of recordings and of images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.io.folder_names import Folder, folder_at
from penstock.plain_values import LARGEST_TABLE, check_size, from_json, read_text

if TYPE_CHECKING:
    import pandas as pd

_ENTITY = re.compile(r"([a-zA-Z0-9]+)-(.+)", re.DOTALL)
_MISSING = ("n/a", "N/A", "NA", "")


@dataclass(frozen=True)
class BidsName:
    """The parts of a file name such as ``sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz``."""

    entities: Mapping[str, str] = field(default_factory=dict)
    """Keys and values in their order: ``{"sub": "01", "task": "rest", ...}``."""
    suffix: str = ""
    """What comes after the last underscore: ``"bold"``, ``"eeg"``, ``"channels"``."""
    extension: str = ""
    """With its first dot: ``".nii.gz"``."""

    def without(self, *keys: str) -> dict[str, str]:
        """The entities but those named."""
        return {key: value for key, value in self.entities.items() if key not in keys}


def parse_name(path: str | os.PathLike[str]) -> BidsName | None:
    """Entities, suffix and extension of a file name; None if it is not made as BIDS makes names.

    Parameters
    ----------
    path : path-like
        Of a file, or its name alone; whether it exists does not matter.

    Returns
    -------
    BidsName or None
        None where a part is no entity, an entity comes twice, or there is none at all.

    Examples
    --------
    >>> from penstock.io.bids.names import parse_name
    >>> name = parse_name("sub-01_ses-2_task-rest_eeg.vhdr")
    >>> dict(name.entities), name.suffix, name.extension
    ({'sub': '01', 'ses': '2', 'task': 'rest'}, 'eeg', '.vhdr')
    >>> parse_name("night_raw.fif") is None
    True
    """
    stem, dot, extension = Path(path).name.partition(".")
    *pairs, suffix = stem.split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        match = _ENTITY.fullmatch(pair)
        if match is None or match[1] in entities:
            return None
        entities[match[1]] = match[2]
    if not entities or not suffix or "-" in suffix:
        return None
    return BidsName(entities, suffix, dot + extension)


def bids_root(path: str | os.PathLike[str]) -> Path | None:
    """The folder of the BIDS dataset (or derivatives) in which a file lies; None if it is in none.

    That is the nearest folder above it with a ``dataset_description.json``, otherwise the one that
    holds its ``sub-*`` folder.
    """
    above = Path(os.path.abspath(path)).parents
    for folder in above:
        if (folder / "dataset_description.json").is_file():
            return folder
    for folder in above:
        if folder.name.startswith("sub-") and len(folder.name) > len("sub-"):
            return folder.parent
    return None


def find_sidecars(
    path: str | os.PathLike[str],
    extension: str,
    *,
    suffix: str | None = None,
    free: Collection[str] = (),
) -> list[Path]:
    """Files of metadata that apply to a data file, from the most general to the most specific.

    A file applies if it lies in the folder of the data file or in one above it inside the dataset,
    has the right suffix and extension, and names no entity that the data file does not have with
    the same value. Of values in JSON files the later ones in the list win; of tables the last one
    is used whole.

    Parameters
    ----------
    path : path-like
        The data file (or folder, such as ``.mff``).
    extension : str
        Of the sidecars: ``".json"``, ``".tsv"``.
    suffix : str, optional
        Of the sidecars: ``"channels"``, ``"events"``. Default: that of the data file.
    free : collection of str
        Entities that the sidecar may have though the data file does not: ``("space",)`` for
        ``electrodes.tsv``, ``("desc",)`` for confounds.

    Returns
    -------
    list of pathlib.Path
        Empty where there is none, or where the file is not named as in BIDS.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from penstock.io.bids.names import find_sidecars
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> (root / "sub-01" / "eeg").mkdir(parents=True)
    >>> for name in ("task-rest_eeg.json", "sub-01/eeg/sub-01_task-rest_eeg.json"):
    ...     _ = (root / name).write_text("{}")
    >>> [p.name for p in find_sidecars(root / "sub-01/eeg/sub-01_task-rest_eeg.edf", ".json")]
    ['task-rest_eeg.json', 'sub-01_task-rest_eeg.json']
    """
    data = parse_name(path)
    if data is None:
        return []
    wanted = data.suffix if suffix is None else suffix
    found: list[Path] = []
    for folder in _folders(path):
        here = []
        for name in _table_of(folder_at(folder), extension, wanted, free).within(data.entities):
            entities = _entities(name)
            if _applies(entities, data, free):
                here.append((len(entities), name))
        found += [folder / name for _, name in sorted(here)]
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON sidecar.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is not an object of names and values.
    """
    try:
        content = from_json(read_text(path))
    except OSError as error:
        raise type(error)(f"cannot open the sidecar {path}: {error.strerror}") from error
    except ValueError as error:  # (JSON's and Unicode's errors are ValueErrors)
        text = " ".join(str(error).split())
        raise ValueError(f"the sidecar {path} is not JSON ({text}): mend or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"the sidecar {path} does not hold names and values: mend or remove it")
    return content


def metadata_of(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Path]]:
    """What the JSON sidecars of a data file say together, and which they are.

    A file beside it with the same name but ``.json`` counts also where the name is not of BIDS.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from penstock.io.bids.names import metadata_of
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (root / "task-rest_bold.json").write_text('{"RepetitionTime": 2.0, "TaskName": "rest"}')
    >>> _ = (root / "sub-01_task-rest_bold.json").write_text('{"RepetitionTime": 1.5}')
    >>> metadata, files = metadata_of(root / "sub-01_task-rest_bold.nii.gz")
    >>> metadata["RepetitionTime"], metadata["TaskName"], len(files)
    (1.5, 'rest', 2)
    """
    files = find_sidecars(path, ".json")
    beside = Path(os.path.abspath(path))
    beside = beside.with_name(beside.name.partition(".")[0] + ".json")
    if beside not in files and beside.is_file():
        files.append(beside)
    merged: dict[str, Any] = {}
    for file in files:
        merged |= read_json(file)
    return merged, files


def read_tsv(path: Path) -> pd.DataFrame:
    """A table of BIDS as text, column by column; ``n/a`` and empty fields are None.

    Raises
    ------
    OSError, ValueError
        If it cannot be read as a table separated by tabs.
    """
    import pandas as pd

    try:
        check_size(path, LARGEST_TABLE)
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig", quoting=3
        )
    except OSError as error:
        raise type(error)(f"cannot open the sidecar {path}: {error.strerror}") from error
    except ValueError as error:  # (pandas' own errors are ValueErrors)
        text = " ".join(str(error).split())
        raise ValueError(
            f"the sidecar {path} is not a table ({text}): mend or remove it"
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    cleaned = table.apply(lambda column: column.str.strip())
    return cleaned.astype(object).where(~cleaned.isin(_MISSING), None)


# ---------------------------------------------------------------------- inside


def _folders(path: str | os.PathLike[str]) -> Iterable[Path]:
    """Folders whose sidecars may apply, the outermost first."""
    own = Path(os.path.abspath(path)).parent
    root = bids_root(path)
    if root is None:
        return [own]
    inside = [own, *own.parents]
    return inside[: inside.index(root) + 1][::-1]


class _ByEntities:
    """Names by their entities: those that a set of entities holds are found without a search."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]] = {}

    def add(self, entities: Mapping[str, str], name: str) -> None:
        keys = tuple(sorted(entities))
        group = self._groups.setdefault(keys, {})
        group.setdefault(tuple(entities[key] for key in keys), []).append(name)

    def within(self, entities: Mapping[str, str]) -> Iterator[str]:
        """What has no entity that these lack, or have with another value."""
        for keys, group in self._groups.items():
            if all(key in entities for key in keys):
                yield from group.get(tuple(entities[key] for key in keys), ())


def _table_of(
    folder: Folder, extension: str, suffix: str, free: Collection[str] = ()
) -> _ByEntities:
    """Names of one kind in a folder, by their entities but those that are free."""

    def made() -> _ByEntities:
        table = _ByEntities()
        for name in folder.names:
            if not name.endswith(f"{suffix}{extension}"):
                continue
            candidate = parse_name(name)
            # (a sidecar at the top may be called for its suffix alone: ``events.json``)
            if candidate is None and name == f"{suffix}{extension}":
                candidate = BidsName({}, suffix, extension)
            if candidate is None:
                continue
            if candidate.extension == extension and candidate.suffix == suffix:
                table.add(candidate.without(*free), name)
        return table

    return folder.once((extension, suffix, frozenset(free)), made)


def _entities(name: str) -> Mapping[str, str]:
    parsed = parse_name(name)
    return {} if parsed is None else parsed.entities


def _applies(candidate: Mapping[str, str], data: BidsName, free: Collection[str]) -> bool:
    return all(
        data.entities.get(key) == value or (key in free and key not in data.entities)
        for key, value in candidate.items()
    )
