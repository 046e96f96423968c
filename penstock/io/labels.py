"""Channel labels and units as recorders write them, and what they mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

PREFIX_TYPES = {
    "eeg": "eeg",
    "seeg": "seeg",
    "ecog": "ecog",
    "dbs": "dbs",
    "eog": "eog",
    "ecg": "ecg",
    "ekg": "ecg",
    "emg": "emg",
    "bio": "bio",
    "sao2": "bio",
    "spo2": "bio",
    "resp": "resp",
    "temp": "temperature",
    "gsr": "gsr",
    "misc": "misc",
    "light": "misc",
    "sound": "misc",
    "stim": "stim",
}
"""First word of an EDF+ label (in lower case) to channel type, after the EDF+ standard texts."""

TYPE_PREFIXES = {
    "eeg": "EEG",
    "seeg": "SEEG",
    "ecog": "ECOG",
    "dbs": "DBS",
    "eog": "EOG",
    "ecg": "ECG",
    "emg": "EMG",
    "bio": "BIO",
    "resp": "Resp",
    "temperature": "Temp",
    "gsr": "GSR",
    "misc": "Misc",
    "stim": "Stim",
}
"""Channel type to the first word of its EDF+ label."""

VOLTAGE_TYPES = frozenset({"eeg", "seeg", "ecog", "dbs", "eog", "ecg", "emg", "bio"})

_TYPED_NAME = re.compile(r"[hvlr]?(eog|ecg|ekg|emg|resp|temp|sao2|spo2)(?![a-z])", re.IGNORECASE)
_STIM_NAME = re.compile(r"(status|trigger|trig|stim?|event|marker)(?![a-z])", re.IGNORECASE)

_VOLTS = {
    "nv": 1e-3,
    "uv": 1.0,
    "uvolt": 1.0,
    "uvolts": 1.0,
    "microv": 1.0,
    "mv": 1e3,
    "mvolt": 1e3,
    "mvolts": 1e3,
    "v": 1e6,
    "volt": 1e6,
    "volts": 1e6,
}


def split_label(label: str, unit: str = "uV") -> tuple[str, str]:
    """Name and type of a channel from its label.

    ``"EEG Fpz-Cz"`` is ``("Fpz-Cz", "eeg")``, ``"Fc5."`` is ``("Fc5", "eeg")``, ``"Event marker"``
    is ``("Event marker", "stim")``. A label that says nothing is EEG, unless its unit is none of
    voltage: then ``"misc"``.
    """
    name = label.strip().rstrip(". ") or label.strip()
    first, _, rest = name.partition(" ")
    if rest.strip() and first.lower() in PREFIX_TYPES:
        return rest.strip(), PREFIX_TYPES[first.lower()]
    if match := _TYPED_NAME.match(name):
        return name, PREFIX_TYPES[match.group(1).lower()]
    if _STIM_NAME.match(name):
        return name, "stim"
    return name, "eeg" if not unit or volts(unit) is not None else "misc"


def clean_unit(unit: str) -> str:
    """A unit with every spelling of micro (Latin-1, Greek, UTF-8 or Shift-JIS bytes) as ``u``."""
    unit = unit.strip()
    for micro in ("\u00c2\u00b5", "\u00ce\u00bc", "\u00b5", "\u03bc", "\x83\xca"):
        unit = unit.replace(micro, "u")
    return unit


def volts(unit: str) -> float | None:
    """Microvolts in one of `unit`; None if it is no unit of voltage."""
    return _VOLTS.get(clean_unit(unit).lower())


def unique_names(names: Iterable[str]) -> list[str]:
    """Names with ``-0``, ``-1``, ... after those that occur more than once, as MNE-Python does."""
    names = [name or f"channel {i + 1}" for i, name in enumerate(names)]
    counts = Counter(names)
    taken = {name for name, n in counts.items() if n == 1}
    result, running = [], Counter[str]()
    for name in names:
        unique = name
        while counts[name] > 1 and (unique == name or unique in taken):
            unique = f"{name}-{running[name]}"
            running[name] += 1
        taken.add(unique)
        result.append(unique)
    return result


def apply_channel_types(
    names: list[str], types: list[str], wanted: Mapping[str, str] | None, path: str
) -> list[str]:
    """The types with those that the user gave by name; unknown names are an error."""
    unknown = [name for name in wanted or {} if name not in names]
    if unknown:
        raise ValueError(
            f"channel_types names {', '.join(map(repr, unknown))}, not in {path}: "
            f"its channels are {', '.join(names)}"
        )
    return [(wanted or {}).get(name, kind) for name, kind in zip(names, types, strict=True)]
