"""Units of FIF channels: SI units without prefixes in the file, voltages in uV in a dataset."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.io.labels import clean_unit, volts

# https://github.com/mne-tools/fiff-constants, "unit"
NONE, UNITLESS, VOLT, TESLA, CELSIUS = -1, 0, 107, 112, 114
_NAMES = {
    UNITLESS: "1", 1: "m", 2: "kg", 3: "s", 4: "A", 5: "K", 6: "M", 7: "rad", 8: "sr", 9: "cd",
    10: "mol/m^3", 101: "Hz", 102: "N", 103: "Pa", 104: "J", 105: "W", 106: "C", 107: "V",
    108: "F", 109: "Ohm", 110: "S", 111: "Wb", 112: "T", 113: "H", 114: "degC", 115: "lm",
    116: "lx", 117: "V/m^2", 118: "s^2", 201: "T/m", 202: "Am", 203: "Am/m^2",
    204: "Am/m^3", 210: "px",
}  # fmt: skip
_CODES = {name: code for code, name in _NAMES.items()}
_OTHER_NAMES = {
    "sec": "s", "ohm": "Ohm", "ohms": "Ohm", "\u03a9": "Ohm", "\u2126": "Ohm", "mho": "S",
    "Siemens": "S",
    "°C": "degC", "℃": "degC", "deg C": "degC", "celsius": "degC", "Celsius": "degC",
    "A*m": "Am", "mol/L": "M", "mol/l": "M", "pixel": "px", "pixels": "px",
}  # fmt: skip
_PREFIXES = {
    "f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "c": 1e-2, "h": 1e2, "k": 1e3,
    "M": 1e6, "G": 1e9,
}  # fmt: skip
_PREFIXED = frozenset(
    ("m", "s", "A", "K", "M", "rad", "Hz", "N", "Pa", "J", "W", "F", "Ohm", "S", "T", "H", "lx",
     "T/m", "T/cm", "Am")
)  # fmt: skip
_NO_UNITS = frozenset(("pH", "Gs", "hs", "cs", "hm"))
"""What would read as a prefix and a unit, but means something else."""


@dataclass(frozen=True)
class FifUnit:
    """How FIF holds the values of a channel."""

    code: int
    """FIFF code of its unit; `NONE` where FIF has no such unit."""
    factor: float
    """From a value of the dataset to one of the file."""
    known: bool = True
    """Whether the file says the unit; otherwise it holds the numbers alone."""


def to_fif(unit: str, kind: str) -> FifUnit:
    """The FIF unit for values in `unit` of a channel of type `kind`.

    Trigger codes are written as they are, with volts as their unit, as MNE-Python does and expects,
    whatever unit a recorder gave them.

    Examples
    --------
    >>> from penstock.io.mne.units import to_fif
    >>> to_fif("mV", "misc")
    FifUnit(code=107, factor=0.001, known=True)
    >>> to_fif("Boolean", "stim").factor
    1.0
    >>> to_fif("L/min", "resp").known
    False
    """
    if kind == "stim":
        return FifUnit(VOLT, 1.0)
    unit = clean_unit(unit)
    microvolts = volts(unit)
    if microvolts is not None:
        return FifUnit(VOLT, 1.0 if microvolts == 1e6 else microvolts * 1e-6)
    if unit == "C" and kind == "temperature":
        return FifUnit(CELSIUS, 1.0)
    name, factor = _OTHER_NAMES.get(unit, unit), 1.0
    if name not in _CODES and name != "T/cm" and unit not in _NO_UNITS:
        rest = _OTHER_NAMES.get(unit[1:], unit[1:])
        if unit[:1] in _PREFIXES and rest in _PREFIXED:
            name, factor = rest, _PREFIXES[unit[0]]
    if name == "T/cm":
        name, factor = "T/m", factor * 100
    if name in _CODES and name != "1":
        return FifUnit(_CODES[name], factor)
    # (MNE-Python refuses to work with FIFF's own code for plain numbers)
    return FifUnit(NONE, 1.0, known=not unit)


def from_fif(code: int, kind: str, original: str = "") -> tuple[str, float]:
    """Unit of a channel in a dataset, and the factor from a value of MNE-Python to that unit.

    `original` is what the recorder called the unit, where FIFF has none for it: MNE-Python then
    gives the numbers of the file.
    """
    if kind == "stim":
        return "", 1.0
    if code == VOLT:
        return "uV", 1e6
    if code in _NAMES:
        return _NAMES[code], 1.0
    original = clean_unit(original)
    return ("" if volts(original) is not None or original in ("n/a", "NA") else original), 1.0
