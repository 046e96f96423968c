"""Names of labels: tables of BIDS and nilearn, colour tables of FreeSurfer, FSL, ITK-SNAP, AAL."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path

from penstock.local_paths import check_local
from penstock.plain_values import check_size

INDEX = ("index", "value", "id", "label_id", "roi_id")
NAME = ("name", "label_name", "label", "region", "roi_name")
"""Columns of tables, in the order in which they are looked for."""

_COLOURS = r"(?:\s+-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_SNAP = re.compile(rf'(-?\d+){_COLOURS}{{6}}\s+"(.*)"')
_FREESURFER = re.compile(rf"(-?\d+)\s+(\S.*?){_COLOURS}{{3,4}}")
_FSLEYES = re.compile(rf"(-?\d+){_COLOURS}{{3}}\s+(\S.*)")
_WORKBENCH = re.compile(rf"(-?\d+){_COLOURS}{{4}}")
_PLAIN = re.compile(r"(-?\d+)[\s,;:]+(\S.*)")


def read_lut(path: str) -> tuple[tuple[int, str], ...]:
    """Values and names of a look-up table of labels.

    Parameters
    ----------
    path : str
        One of

        - a table with the columns ``index`` and ``name`` (of BIDS: ``_dseg.tsv``; of nilearn),
          separated by tabs, commas or semicolons;
        - a colour table of FreeSurfer (``FreeSurferColorLUT.txt``: value, name, R, G, B, A),
          FSLeyes (``.lut``), ITK-SNAP, or Connectome Workbench (names and values in turns);
        - an atlas of FSL (``HarvardOxford-Cortical.xml``) or of AAL (``AAL.xml``);
        - values and names, one of each in a line.

    Returns
    -------
    tuple of (int, str)
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of these, or an index is no whole number.

    Notes
    -----
    Files of FSL count the maps of a probabilistic atlas from 0; in the images of labels that belong
    to it (``maxprob``) values are one larger, and so they are here. Where a value comes twice its
    last name counts.

    Examples
    --------
    >>> import os, tempfile
    >>> from penstock.fmri.extraction.label_tables import read_lut
    >>> path = os.path.join(tempfile.mkdtemp(), "FreeSurferColorLUT.txt")
    >>> with open(path, "w") as file:
    ...     _ = file.write("#No. Label Name: R G B A\\n17  Left-Hippocampus  220 216 20 0\\n")
    >>> read_lut(path)
    ((17, 'Left-Hippocampus'),)
    """
    check_local(path)
    try:
        check_size(path)
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"lut: no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"lut: {path} cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise ValueError(f"lut: {path} is no table of text: give one of values and names")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if text.lstrip().startswith("<"):
        return _xml(text, path)
    lines = text.splitlines()
    delimiter = _delimiter(lines)
    if delimiter is not None:
        return tuple(_columns(lines, delimiter, path))
    found = _lines(lines)
    if not found:
        raise ValueError(
            f"lut: {path} needs the columns index and name, or to be a colour table of FreeSurfer, "
            "FSL, ITK-SNAP or Workbench: no values and names were found in it"
        )
    return tuple(found)


# ---------------------------------------------------------------------- tables


def _delimiter(lines: list[str]) -> str | None:
    """What separates the columns of a table with a header; None where there is no header."""
    header = next((line for line in lines if line.strip()), "").lower()
    for delimiter in "\t,;":
        cells = _cells(header, delimiter)
        if any(name in cells for name in INDEX) or any(name in cells for name in NAME):
            return delimiter
    return None


def _cells(header: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in header.split(delimiter)]


def _columns(lines: list[str], delimiter: str, path: str) -> Iterator[tuple[int, str]]:
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"lut: {path} is no table that can be read: {error}") from error
    first = next(number for number, row in enumerate(rows) if any(row))
    header = [cell.strip().lower() for cell in rows[first]]
    index = next((header.index(name) for name in INDEX if name in header), None)
    name = next((header.index(name) for name in NAME if name in header), None)
    if index is None or name is None:
        raise ValueError(f"lut: {path} needs the columns index and name (line {first + 1})")
    for number, row in enumerate(rows[first + 1 :], start=first + 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(index, name):
            raise ValueError(f"lut: {path} needs the columns index and name (line {number})")
        yield _whole(row[index], number, path), row[name].strip()


def _whole(text: str, number: int, path: str) -> int:
    try:
        value = float(text)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"lut: the index {text!r} in line {number} of {path} is no whole number")


# ---------------------------------------------------------------------- colour tables


def _lines(lines: Iterable[str]) -> list[tuple[int, str]]:
    """Values and names of lines without a header; empty where a line is nothing of the kind."""
    found: list[tuple[int, str]] = []
    waiting = ""  # (a name whose values stand in the next line)
    for line in lines:
        text = line.strip()
        if not text or text.startswith(("#", "//", "%")):
            continue
        if waiting:
            match = _WORKBENCH.fullmatch(text)
            if match is None:
                return []
            found.append((int(match[1]), waiting))
            waiting = ""
            continue
        for kind in (_SNAP, _FREESURFER, _FSLEYES, _PLAIN):
            if match := kind.fullmatch(text):
                found.append((int(match[1]), match[2].strip().strip('"')))
                break
        else:
            waiting = text
    return [] if waiting else found


# ---------------------------------------------------------------------- XML


def _xml(text: str, path: str) -> tuple[tuple[int, str], ...]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(
            f"lut: {path} defines entities of its own, which are not followed: take them out"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"lut: {path} is no XML that can be read: {error}") from error
    labels = list(root.iter("label"))
    kind = (root.findtext(".//header/type") or root.findtext(".//type") or "").strip().lower()
    shift = 1 if kind.startswith("prob") else 0
    found = []
    for number, label in enumerate(labels, start=1):
        index, name = label.get("index"), label.text
        if index is None:  # (AAL: both are elements)
            index, name = label.findtext("index"), label.findtext("name")
        if index is None:
            raise ValueError(f"lut: label {number} of {path} has no index")
        try:
            value = int(index)
        except ValueError:
            raise ValueError(
                f"lut: the index {index!r} of label {number} of {path} is no whole number"
            ) from None
        found.append((value + shift, " ".join((name or "").split()) or str(value + shift)))
    if not found:
        raise ValueError(f"lut: {path} holds no labels: an atlas of FSL or AAL has some")
    return tuple(found)
