"""Labels of EDF signals: which name, type and mark of a channel they hold, and how to write them.

A label has 16 ASCII characters. What it cannot say goes, as text, to the reserved field of the
signal header, which the specification leaves free and other software passes over:
``type=eog exact bad`` (the type of the channel; its name is the label as it stands; it is bad).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.io.labels import TYPE_PREFIXES, clean_unit, split_label, unique_names, volts

LABEL_CHARACTERS = 16
RESERVED_CHARACTERS = 32

_MARK = re.compile(r"(?:type=(?P<kind>\S+))?(?P<exact> ?exact)?(?P<bad> ?bad)?")

# letters that have no decomposition into a Latin letter and an accent, and signs of units
_LATIN = str.maketrans({
    "µ": "u", "μ": "u", "ß": "ss", "ẞ": "SS", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE",
    "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th",
    "Þ": "Th", "ı": "i", "Ω": "Ohm", "\u2126": "Ohm", "°": "deg", "º": "deg", "\u2103": "degC",
    "\u2109": "degF", "\u2013": "-", "\u2014": "-",
    "\u2212": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b7": ".",
})  # fmt: skip


def ascii_text(text: str) -> str:
    """Text in printable ASCII: accents dropped, micro as u, anything else as ``?``."""
    text = unicodedata.normalize("NFC", text).translate(_LATIN)
    text = unicodedata.normalize("NFKD", text)
    kept = (c for c in text if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in kept)


def ascii_unit(unit: str) -> str:
    """A unit in the 8 ASCII characters of EDF."""
    return ascii_text(clean_unit(unit))[:8].strip()


@dataclass(frozen=True)
class Channel:
    """What a signal header says of its channel, beside units and scaling."""

    name: str
    kind: str
    bad: bool = False


def read_label(label: str, unit: str, reserved: str = "") -> Channel:
    """Name, type and mark that a label and the reserved field beside it give."""
    name, kind = split_label(label, unit)
    mark = _MARK.fullmatch(reserved.strip())
    if mark is None or not reserved.strip():
        return Channel(name, kind)
    if mark["exact"]:
        name = label.strip() or name
    return Channel(name, mark["kind"] or kind, bool(mark["bad"]))


def read_labels(
    labels: Sequence[str], units: Sequence[str], reserved: Sequence[str]
) -> list[Channel]:
    """The same for all signals of a file, with names that occur once."""
    channels = [read_label(*each) for each in zip(labels, units, reserved, strict=True)]
    names = unique_names(channel.name for channel in channels)
    return [Channel(n, c.kind, c.bad) for n, c in zip(names, channels, strict=True)]


def choose_labels(
    channels: Sequence[Channel],
    units: Sequence[str],
    sources: Sequence[str],
    typed: bool = False,
) -> tuple[list[str], list[str]]:
    """Label and reserved text of every channel.

    The label is the name, so that other software finds the channels under their names; the label
    of the file it came from, where that gives the name; or the standard text of EDF+ (``EEG Cz``)
    where `typed` asks for it.

    Parameters
    ----------
    channels : sequence of Channel
        What is to be read back.
    units : sequence of str
        Their units in the file.
    sources : sequence of str
        Labels in the file that the channels were read from; "" where there is none.
    typed : bool, default False
        Whether labels begin with the type of the channel.
    """
    own = [_own_label(channel, typed) for channel in channels]
    unique = _unique_labels([label for label, _ in own])
    sourced = [
        _gives(source, channel, unit, typed)
        for source, channel, unit in zip(sources, channels, units, strict=True)
    ]
    # a label that occurs twice in the file it is from gives another name without its twin
    found = unique_names(
        split_label(source, unit)[0] if usable else channel.name
        for source, channel, unit, usable in zip(sources, channels, units, sourced, strict=True)
    )
    labels, reserved = [], []
    for i, channel in enumerate(channels):
        usable = sourced[i] and found[i] == channel.name
        labels.append(sources[i] if usable else unique[i])
        reserved.append(_mark(labels[i], channel, units[i], exact=not usable and own[i][1]))
    return labels, reserved


def _own_label(channel: Channel, typed: bool) -> tuple[str, bool]:
    """The label that holds the name, and whether it is the name alone."""
    name = ascii_text(channel.name).strip() or "?"
    if name in ("EDF Annotations", "BDF Annotations"):
        name += "_"
    if typed and channel.kind in TYPE_PREFIXES:
        label = f"{TYPE_PREFIXES[channel.kind]} {name}"
        if len(label) <= LABEL_CHARACTERS:
            return label, False
    return name, True


def _unique_labels(labels: list[str]) -> list[str]:
    """Labels cut to their length, with a number at the end of those that would be the same."""
    cut = [label[:LABEL_CHARACTERS].strip() for label in labels]
    counts = Counter(cut)
    taken = {label for label, n in counts.items() if n == 1}
    result, running = [], Counter[str]()
    for label in cut:
        unique = label
        while counts[label] > 1 and (unique == label or unique in taken):
            ending = f"-{running[label]}"
            unique = label[: LABEL_CHARACTERS - len(ending)] + ending
            running[label] += 1
        taken.add(unique)
        result.append(unique)
    return result


def _gives(source: str, channel: Channel, unit: str, typed: bool) -> bool:
    """Whether a label of the source gives the channel its name."""
    fits = 0 < len(source) <= LABEL_CHARACTERS and source.isascii() and source.isprintable()
    name, kind = split_label(source, unit)
    twin = re.fullmatch(re.escape(name) + r"(-\d+)?", channel.name)
    told = kind == channel.kind and name != source.strip()
    return fits and twin is not None and (told or not typed)


def _mark(label: str, channel: Channel, unit: str, exact: bool) -> str:
    name, kind = split_label(label, unit)
    words = [f"type={channel.kind}"] if kind != channel.kind else []
    words += ["exact"] if exact and name != label else []
    words += ["bad"] if channel.bad else []
    while len(" ".join(words)) > RESERVED_CHARACTERS or not " ".join(words).isascii():
        words.pop(0)
    return " ".join(words)


def written_unit(unit: str, kind: str) -> tuple[str, float]:
    """Unit in the file and how many of it one in `unit` is: voltages are written in uV.

    Codes have no unit: software that takes their channel for EEG would scale them.
    """
    microvolts = volts(unit)
    if kind == "stim":
        return ("" if microvolts is not None else ascii_unit(unit)), 1.0
    return (ascii_unit(unit), 1.0) if microvolts is None else ("uV", microvolts)
