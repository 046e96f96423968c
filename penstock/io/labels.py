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

_WORD_TYPES = {
    word: kind
    for kind, words in {
        "resp": "flow airflow nasal cannula ptaf therm thermistor thor thorax thoracic tho chest "
        "abd abdo abdomen abdominal effort",
        "misc": "snore snoring mic microphone audio sound phono position body light cpap epap ipap "
        "leak capno etco",
        "bio": "pleth plethysmogram ppg",
        "emg": "chin leg legs lleg rleg tib tibialis submental masseter",
        "eog": "loc roc",
        "gsr": "eda",
    }.items()
    for word in words.split()
}
"""First word of a label of a sleep recording (in lower case, without its number) to type."""
_WORD = re.compile(r"([a-z]+)(\d?)", re.IGNORECASE)

_ELECTRODE = (
    r"(?:fp|af|afp|aff|f|ff[ct]|ft|ftt|fc|fcc|c|ccp|cp|cpp|t|ttp|tp|tpp|p|ppo|po|poo|o|oi|i|n)"
    r"(?:z|10|[1-9])h?"
)
_EEG_LABEL = re.compile(
    rf"(?:eeg(?![a-z]).*|{_ELECTRODE}(?:[ap]?[am][12])?(?![a-z0-9]).*)", re.IGNORECASE
)
"""A label that begins with EEG, or with a place of the 10-20 system and its extensions."""

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
    word = _WORD.match(name)
    kind = _WORD_TYPES.get(word[1].lower(), "") if word is not None else ""
    # LOC and ROC are canthi; LOC3 is a contact of a depth electrode
    if word is not None and kind and (kind != "eog" or not word[2]):
        return name, kind
    return name, "eeg" if not unit or volts(unit) is not None else "misc"


def says_eeg(label: str) -> bool:
    """Whether a label says that its channel is EEG: ``"EEG 1"``, ``"Fp1"``, ``"C4-A1"``."""
    return _EEG_LABEL.fullmatch(label.strip().rstrip(". ")) is not None


def clean_unit(unit: str) -> str:
    """A unit with every spelling of micro (Latin-1, Greek, UTF-8 or Shift-JIS bytes) as ``u``."""
    unit = unit.strip()
    for micro in ("\u00c2\u00b5", "\u00ce\u00bc", "\u00b5", "\u03bc", "\x83\xca"):
        unit = unit.replace(micro, "u")
    return unit


def volts(unit: str) -> float | None:
    """Microvolts in one of `unit`; None if it is no unit of voltage."""
    return _VOLTS.get(clean_unit(unit).lower())


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names for a sentence, the first of them where they are many."""
    names = list(names)
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


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
