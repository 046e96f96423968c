"""How the values of a channel become digital values in EDF: physical and digital range, unit.

In this order: the scaling of the file that the channel came from, while its values still lie on
that grid (copying a recording changes none of its digital values); whole numbers as they are;
otherwise the narrowest range around the values that the header can hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.io.edf.header import SignalHeader
from penstock.io.edf.labels import ascii_unit, written_unit
from penstock.io.edf.plan import HIGH, LOW, exact_text, number_text, physical_range
from penstock.io.labels import clean_unit, volts

SIGNALS = "edf_signals"
"""Attribute of a signal read from EDF: JSON text with what the header of every channel says beside
label and unit. It is text and not a variable so that it passes through every operation, Zarr and
netCDF without being aligned or repeated."""


@dataclass(frozen=True)
class Source:
    """What the file that a channel came from says of it."""

    scaling: Scaling | None = None
    transducer: str = ""
    prefiltering: str = ""


@dataclass(frozen=True)
class Scaling:
    """Header fields of a channel; physical values are in `unit`, `factor` of the dataset's each."""

    physical: tuple[float, float]
    digital: tuple[int, int]
    unit: str
    factor: float = 1.0

    @property
    def step(self) -> float:
        """Distance of neighbouring values in the unit of the dataset."""
        physical, digital = self.physical, self.digital
        return (physical[1] - physical[0]) / (digital[1] - digital[0]) * self.factor

    @property
    def offset(self) -> float:
        """Value of digital 0 in the unit of the dataset."""
        return self.physical[0] * self.factor - self.digital[0] * self.step

    @property
    def texts(self) -> tuple[str, str]:
        """The physical range as the header has it."""
        low, high = (exact_text(value) or number_text(value) for value in self.physical)
        return low, high

    def holds(self, values: np.ndarray) -> bool:
        """Whether all values are digital values of this scaling."""
        # float32 values of 16 bits are this close to a whole digital value, or are no copy
        digital = (values.astype(np.float64) - self.offset) / self.step
        whole = np.rint(digital)
        inside = whole.min() >= min(self.digital) and whole.max() <= max(self.digital)
        return bool(inside and np.abs(digital - whole).max() < 0.01)


def describe_signals(names: Iterable[str], signals: Iterable[SignalHeader]) -> str:
    """The attribute `SIGNALS` for the channels of a file."""
    about = {
        name: {
            "physical": [signal.physical_min, signal.physical_max],
            "digital": [signal.digital_min, signal.digital_max],
            "unit": signal.unit,
        }
        | {key: text for key in ("transducer", "prefiltering") if (text := getattr(signal, key))}
        for name, signal in zip(names, signals, strict=True)
    }
    return json.dumps(about, ensure_ascii=False)


def source_signals(attrs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the attribute `SIGNALS` says, by channel; empty where it is missing or not ours."""
    try:
        about = json.loads(str(attrs.get(SIGNALS, "")))
    except ValueError:
        return {}
    if not isinstance(about, dict):
        return {}
    return {name: entry for name, entry in about.items() if isinstance(entry, dict)}


def read_source(about: Mapping[str, Any], unit: str) -> Source:
    """What the file of a channel said of it, for values that are in `unit` now."""
    transducer, prefiltering = (str(about.get(key, "")) for key in ("transducer", "prefiltering"))
    try:
        low, high = (float(value) for value in about["physical"])
        digital_low, digital_high = (int(value) for value in about["digital"])
        written = str(about["unit"])
    except (KeyError, TypeError, ValueError):
        return Source(None, transducer, prefiltering)
    now = clean_unit(unit)
    read_as = {clean_unit(written)} | ({"uV"} if volts(written) or not written else set())
    usable = (
        now in read_as
        and low != high
        and digital_low != digital_high
        and all(LOW <= value <= HIGH for value in (digital_low, digital_high))
        and exact_text(low) is not None
        and exact_text(high) is not None
    )
    if not usable:
        return Source(None, transducer, prefiltering)
    factor = volts(written) if now == "uV" else None
    scaling = Scaling((low, high), (digital_low, digital_high), ascii_unit(written), factor or 1.0)
    return Source(scaling, transducer, prefiltering)


@dataclass
class Candidates:
    """What is known of the values of a channel while they are passed through."""

    kind: str
    unit: str
    source: Scaling | None
    low: float = np.inf
    high: float = -np.inf
    whole: bool = True
    """Whether all values so far are whole numbers."""
    missing: int = 0
    """How many are none (NaN or infinite)."""
    seen: bool = field(default=False, repr=False)

    def see(self, values: np.ndarray) -> None:
        """Take in further values."""
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = np.isfinite(values)
            self.missing += int(len(values) - np.count_nonzero(finite))
            # (they are written as 0 where they may be written at all)
            values = np.where(finite, values, 0)
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.source is not None and not self.source.holds(values):
            self.source = None
        self.whole = self.whole and bool((np.rint(values) == values).all())
        self.seen = True

    @property
    def promising(self) -> bool:
        """Whether something better than a range may hold the values."""
        return self.source is not None or self.whole or bool(self.missing)

    def choose(self) -> Scaling:
        """The scaling for what was seen."""
        if self.source is not None:
            return self.source
        unit, factor = written_unit(self.unit, self.kind)
        if self.whole and factor == 1.0:
            if self.low >= LOW and self.high <= HIGH:
                return Scaling((LOW, HIGH), (LOW, HIGH), unit)
            if self.high - self.low <= HIGH - LOW:
                low = 0.0 if self.low >= 0 and self.high <= HIGH - LOW else self.low
                if exact_text(low) is not None and exact_text(low + HIGH - LOW) is not None:
                    return Scaling((low, low + HIGH - LOW), (LOW, HIGH), unit)
        physical = physical_range(self.low * factor, self.high * factor)
        return Scaling(physical, (LOW, HIGH), unit, 1 / factor)
