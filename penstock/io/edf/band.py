"""Filters that a recording has been through, in the prefiltering fields of EDF."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_NUMBER = r":\s*(?P<value>DC|\d+(?:[.,]\d+)?)\s*(?:Hz)?"
_EDGES = {"highpass": "HP", "lowpass": "LP"}


def edge_of(text: str, name: str) -> float | None:
    """Cut-off frequency [Hz] that a prefiltering text gives for ``highpass`` or ``lowpass``.

    Examples
    --------
    >>> edge_of("HP:0.1Hz LP:75Hz N:50Hz", "lowpass")
    75.0
    """
    found = re.findall(rf"{_EDGES[name]}{_NUMBER}", text)
    if not found:
        return None
    return 0.0 if found[-1] == "DC" else float(found[-1].replace(",", "."))


def band_of(texts: Iterable[str], rate: float) -> dict[str, float]:
    """Attributes ``highpass`` and ``lowpass`` for channels of a sampling frequency [Hz].

    Where channels differ, the narrowest band that all have, as in MNE-Python. Nothing for edges
    that are not given, or that pass everything.
    """
    given = list(texts)
    band: dict[str, float] = {}
    low = [edge for text in given if (edge := edge_of(text, "highpass"))]
    high = [edge for text in given if (edge := edge_of(text, "lowpass"))]
    if low:
        band["highpass"] = max(low)
    if high and min(high) < rate / 2:
        band["lowpass"] = min(high)
    return band


def prefiltering(text: str, attrs: Mapping[str, Any], rate: float) -> str:
    """The text of a channel after what the attributes of its dataset say it went through."""
    for name, short in _EDGES.items():
        edge, before = attrs.get(name), edge_of(text, name)
        if edge is None or not math.isfinite(float(edge)):
            continue
        edge = float(edge)
        passed = (before or 0.0, math.inf) if name == "highpass" else (0.0, before or rate / 2)
        if not passed[0] < edge < passed[1]:
            continue
        written = f"{short}:{edge:.6g}Hz"
        if before is None:
            text = f"{text} {written}".strip()
        else:
            text = re.sub(rf"{short}{_NUMBER}", written, text)
    return text
