"""Tables of confounds: arrays, CSV and TSV files, motion parameters, and those of fMRIPrep."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.plain_values import LARGEST_TABLE, check_size

if TYPE_CHECKING:
    import pandas as pd

MISSING = ("n/a", "na", "nan", "")
"""How tables write that there is no value, in lower case."""
SUFFIXES = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")
"""Ends of the names of fMRIPrep's tables: today's, and that before version 20.2."""
OF_IMAGES = ("echo-", "part-", "res-", "den-", "cohort-")
"""Entities of images that their table of confounds does not have: echoes share one."""


def load_confounds_table(
    source: Any, columns: str | Sequence[str] | None = None, n_times: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Confounds as one table of numbers.

    Parameters
    ----------
    source : array_like, path, pandas.DataFrame or Series, or list of them
        An array (time points, confounds), or (time points,) for one; or the path of a table as
        text: separated by tabs (fMRIPrep), commas, or blanks (motion parameters of FSL, AFNI and
        SPM), with or without a line of names. Several are put side by side.
    columns : str or sequence of str, optional
        Names of the confounds that are used, in this order; patterns such as ``"trans_*"`` or
        ``"a_comp_cor_0[0-4]"`` stand for all they match. Columns without names are numbered from
        ``"0"``. Default: all.
    n_times : int, optional
        Rows that there must be.

    Returns
    -------
    values : numpy.ndarray
        float64, (n_times, n_confounds). Values that are missing (``n/a``) are NaN, but for columns
        of a table that lack the first one only, such as differences to the volume before: they get
        the second value there, as `nilearn.interfaces.fmriprep.load_confounds` fills them.
    names : tuple of str
        Names of the columns.

    Raises
    ------
    OSError, ValueError, TypeError
        If a table cannot be read, is not made of numbers, has another length, or lacks a column.

    Examples
    --------
    >>> import pandas as pd
    >>> from penstock.fmri.cleaning.confounds import load_confounds_table
    >>> table = pd.DataFrame({"trans_x": [0.0, 0.1], "rot_x": [0.0, 0.2], "csf": [5.0, 6.0]})
    >>> values, names = load_confounds_table(table, ("trans_*", "rot_*"))
    >>> names, values.tolist()
    (('trans_x', 'rot_x'), [[0.0, 0.0], [0.1, 0.2]])
    """
    found = [column for part in _parts(source) for column in _columns(part)]
    if not found:
        raise ValueError("the table of confounds has no columns")
    if columns is not None:
        found = _chosen(found, (columns,) if isinstance(columns, str) else tuple(columns))
    for column in found:
        if n_times is not None and len(column.values) != n_times:
            raise ValueError(wrong_length(f"{column.table} has", len(column.values), n_times))
        if len(column.values) != len(found[0].values):
            raise ValueError(
                f"{column.table} has {len(column.values)} rows, {found[0].table} "
                f"{len(found[0].values)}: confounds side by side must be as long"
            )
    values = np.stack([column.numbers() for column in found], axis=1)
    if len(values) > 1:
        # differences to the volume before have none in the first: as usual, that of the second
        named = np.array([column.named for column in found])
        empty = named & np.isnan(values[0]) & np.isfinite(values[1:]).all(axis=0)
        values[0, empty] = values[1, empty]
    return values, tuple(column.name for column in found)


def find_confounds(bold: str | os.PathLike[str]) -> str:
    """Path of fMRIPrep's confounds of a preprocessed image, by its name.

    Parameters
    ----------
    bold : path
        Of the image, named as in BIDS:
        ``sub-01_task-rest_run-1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz``.

    Returns
    -------
    str
        Of the table in the same folder: ``sub-01_task-rest_run-1_desc-confounds_timeseries.tsv``,
        or ``..._desc-confounds_regressors.tsv``.

    Raises
    ------
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> import os, tempfile
    >>> from penstock.fmri.cleaning.confounds import find_confounds
    >>> folder = tempfile.mkdtemp()
    >>> table = os.path.join(folder, "sub-01_task-rest_desc-confounds_timeseries.tsv")
    >>> _ = open(table, "w").write("csf\\n1\\n")
    >>> find_confounds(os.path.join(folder, "sub-01_task-rest_space-T1w_bold.nii")) == table
    True
    """
    path = Path(bold)
    entities = []
    for entity in path.name.partition(".")[0].split("_"):
        if "-" not in entity or entity.startswith(("space-", "desc-")):
            break
        if not entity.startswith(OF_IMAGES):
            entities.append(entity)
    wanted = ["_".join([*entities, suffix]) for suffix in SUFFIXES]
    for name in wanted:
        if (found := path.parent / name).is_file():
            return str(found)
    raise FileNotFoundError(
        f"there are no confounds beside {path}: expected {wanted[0]} or {Path(wanted[1]).name}; "
        "name the table, confounds='path.tsv'"
    )


def wrong_length(what: str, found: int, n_times: int) -> str:
    """One sentence about a table or mask that does not fit the series."""
    return (
        f"{what} {found} rows, the series {n_times} time points: they must be as many; where dummy "
        "scans were cut off one of them, cut them off the other too, and give whole tables with "
        "sample_mask, which leaves volumes out of both"
    )


# ---------------------------------------------------------------------- reading


@dataclass(frozen=True, eq=False)
class _Column:
    """One confound as it was found; text becomes numbers only if the column is used."""

    name: str
    values: np.ndarray
    table: str
    """Where it comes from, for messages."""
    named: bool = False
    """Whether a table calls it by a name."""

    def numbers(self) -> np.ndarray:
        try:
            return np.asarray(self.values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.table}: column {self.name!r} is not made of numbers ({error}): choose "
                "others with columns (confound_columns)"
            ) from error


def _parts(source: Any) -> Iterator[Any]:
    """The tables of a list of tables, or the one given."""
    if not isinstance(source, list | tuple):
        yield source
    elif any(isinstance(part, str | os.PathLike | np.ndarray) or hasattr(part, "columns")
             or hasattr(part, "to_frame") for part in source):  # fmt: skip
        yield from source
    else:
        yield source  # numbers: rows of one table


def _columns(source: Any) -> Iterator[_Column]:
    import pandas as pd

    table = "the table of confounds"
    if isinstance(source, str | os.PathLike):
        table = os.path.expanduser(os.fspath(source))
        source = read_table(table)
    if isinstance(source, pd.Series):
        source = source.to_frame()
    if isinstance(source, pd.DataFrame):
        for position, name in enumerate(source.columns):
            named = isinstance(name, str)
            yield _Column(str(name), source.iloc[:, position].to_numpy(), table, named)
        return
    values = np.asarray(source)
    if values.dtype.kind not in "fiub":
        raise TypeError(
            f"confounds must be numbers, a table, or paths of tables; got "
            f"{type(source).__name__} of {values.dtype}"
        )
    if values.ndim not in (1, 2):
        raise ValueError(
            f"confounds must be (time points, confounds), got the shape {values.shape}"
        )
    for position, column in enumerate(values.reshape(len(values), -1).T):
        yield _Column(str(position), column, table)


def read_table(path: str) -> pd.DataFrame:
    """A table as text, of which nothing is known but its first line.

    A first column without a name that counts the rows is the index that pandas or R wrote along.
    """
    import pandas as pd

    skipped, first = 0, ""
    try:
        check_size(path, LARGEST_TABLE)
        with open(path, encoding="utf-8-sig") as file:
            for line in file:
                first = line.rstrip("\r\n")
                if first.strip() and not first.lstrip().startswith("#"):
                    break
                skipped, first = skipped + 1, ""
        if not first:
            raise ValueError("it is empty")
        separator = next((mark for mark in "\t,;" if mark in first), r"\s+")
        # (pandas leaves the name of the index empty, and numbers columns that have no names)
        indexed = separator in "\t,;" and not first.partition(separator)[0].strip("\"' ")
        first = first.strip()
        # motion parameters are aligned by blanks, with a tab here and there
        if "," not in first and all(map(_is_number, first.split())):
            separator = r"\s+"
        fields = [field.strip().strip("\"'") for field in re.split(separator, first)]
        named = indexed or not all(_is_number(f) or f.lower() in MISSING for f in fields)
        table = pd.read_csv(
            path,
            sep=separator,
            header=0 if named else None,
            skiprows=skipped,
            na_values=["n/a", "N/A"],
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
    except (ValueError, UnicodeDecodeError) as error:  # (pandas' own errors are ValueErrors)
        text = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a table of confounds ({text})") from error
    except OSError as error:
        raise type(error)(f"cannot open the confounds {path}: {error.strerror}") from error
    return _without_index(table, indexed) if named else table


def _without_index(table: pd.DataFrame, indexed: bool) -> pd.DataFrame:
    """Without the numbers of the rows: they are no confound, but a trend."""
    import pandas as pd

    if not isinstance(table.index, pd.RangeIndex):  # (one name less than columns, as R writes them)
        return table.reset_index(drop=True)
    numbers = list(range(len(table) + 1))
    if indexed and table.iloc[:, 0].tolist() in (numbers[:-1], numbers[1:]):
        return table.iloc[:, 1:]
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _chosen(found: list[_Column], patterns: tuple[str, ...]) -> list[_Column]:
    chosen: list[_Column] = []
    for pattern in patterns:
        matching = [column for column in found if column.name == pattern]
        matching = matching or [c for c in found if fnmatchcase(c.name, pattern)]
        if not matching:
            names = [column.name for column in found]
            close = difflib.get_close_matches(pattern, names, n=1)
            if close:
                hint = f"did you mean {close[0]!r}?"
            else:
                hint = "it has " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"{found[0].table} has no column {pattern!r}: {hint}")
        chosen += [column for column in matching if column not in chosen]
    return chosen
