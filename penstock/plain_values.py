"""Text files of plain values (JSON, YAML, tables): read whole, so never one that is too large."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from penstock.memory.accounting import MIB, format_bytes
from penstock.messages import shown_text

LARGEST_TEXT = 16 * MIB
"""Largest pipeline, JSON sidecar or table of labels [bytes]; what parsing makes of it is larger."""
LARGEST_TABLE = 256 * MIB
"""Largest table of events or confounds [bytes]: a million events take 50 MiB."""
LARGEST_YAML = 4 * MIB
"""Characters of a YAML text: its parser takes seconds for each of these."""
MOST_VALUES = 1_000_000
"""Values of a YAML file: names for parts of it (anchors) make many of few characters."""
TOO_DEEP = "its values are nested too deeply"


def check_size(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> None:
    """Raise ValueError for a file that is larger than its kind ever is, before it is read.

    Raises
    ------
    OSError
        If there is no such file.
    """
    size = os.stat(path).st_size
    if size > largest:
        raise ValueError(
            f"{os.fspath(path)} has {format_bytes(size)}, more than such a file ever has "
            f"({format_bytes(largest)}): check what it is"
        )


def read_text(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> str:
    """A text file whole.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is too large, or not text.
    """
    check_size(path, largest)
    return Path(path).read_text(encoding="utf-8-sig")


def from_json(text: str | bytes) -> Any:
    """Plain values of a JSON text.

    Raises
    ------
    ValueError
        If it is not JSON; the message lacks what was read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def to_json(values: Any) -> str:
    """Plain values as JSON that every parser reads: numbers that it does not have become null."""
    try:
        return json.dumps(values, indent=1, default=str, allow_nan=False)
    except ValueError:
        known = json.loads(json.dumps(values, default=str), parse_constant=lambda _: None)
        return json.dumps(known, indent=1, allow_nan=False)


def from_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises
    ------
    ValueError
        If it is not YAML, or holds far more than it has characters; the message lacks what was
        read, and begins with the line.
    """
    import yaml

    if len(text) > LARGEST_YAML:
        raise ValueError(f"it has more than {format_bytes(LARGEST_YAML)}")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise ValueError(
                f"it stands for more than {MOST_VALUES} values: write them out, without anchors"
            )
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        told = getattr(error, "problem", None) or getattr(error, "reason", None)
        problem = told or "it is not YAML"
        raise ValueError(f"{line}{shown_text(problem)}") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _size(node: Any, known: dict[int, int]) -> int:
    """Values that a node stands for: what is named once and used often counts as often."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # (one that holds itself has no end)
        inside = node.value if isinstance(node.value, list) else []
        flat = (part for item in inside for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(part, known) for part in flat)
    return known[id(node)]
