"""How a dataset is laid out as EDF+: data records, labels, scaling, annotation bytes.

Pure functions: nothing here reads or writes.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

from penstock.io.labels import TYPE_PREFIXES, split_label

RECORD_BYTES = 61440
"""Largest data record that the EDF specification recommends."""
LONGEST_RECORD_BYTES = 1 << 24
"""Largest that is written at all, for sampling frequencies that need it."""
LOW, HIGH = -32768, 32767


@dataclass(frozen=True)
class RecordLayout:
    """Data records for signals of one or several sampling rates."""

    duration: Fraction
    """Seconds a record lasts."""
    samples: tuple[int, ...]
    """Samples a record holds of a signal of each rate."""
    n_records: int
    exact: bool
    """Whether the records end where the signals end."""


def plan_records(
    rates: Sequence[float], lengths: Sequence[int], n_signals: Sequence[int]
) -> RecordLayout:
    """Data records in which every rate has whole samples.

    Preferred, in this order: records that divide the recording, within the 61,440 bytes that the
    specification recommends, lasting about one second. Where no duration divides the recording,
    the last record is longer than the signal.

    Parameters
    ----------
    rates : sequence of float
        Sampling frequencies [Hz].
    lengths : sequence of int
        Samples of the signals of each rate.
    n_signals : sequence of int
        Number of signals of each rate.

    Raises
    ------
    ValueError
        If no duration that EDF can write (8 characters) gives every rate whole samples.
    """
    exact_rates = [Fraction(rate).limit_denominator(100_000) for rate in rates]
    # the shortest time with whole samples of every rate; every duration is a multiple of it
    unit = Fraction(
        math.lcm(*(rate.denominator for rate in exact_rates)),
        math.gcd(*(rate.numerator for rate in exact_rates)),
    )
    per_unit = [int(rate * unit) for rate in exact_rates]
    units_needed = max(-(-n // k) for n, k in zip(lengths, per_unit, strict=True))
    divides = all(n == k * units_needed for n, k in zip(lengths, per_unit, strict=True))
    unit_bytes = 2 * sum(n * k for n, k in zip(n_signals, per_unit, strict=True))
    most = max(1, RECORD_BYTES // unit_bytes)
    candidates = [m for m in range(1, min(most, units_needed) + 1) if _writable(unit * m)]
    best = _about_one_second(
        [m for m in candidates if divides and units_needed % m == 0 and unit * m >= 0.01], unit
    )
    if best is None:
        best = _about_one_second(candidates, unit)
    if best is None:
        longest = LONGEST_RECORD_BYTES // unit_bytes
        best = next((m for m in range(most, longest + 1) if _writable(unit * m)), None)
    inexact = any(
        abs(float(exact) - rate) > 1e-9 * rate
        for rate, exact in zip(rates, exact_rates, strict=True)
    )
    if best is None or inexact:
        raise ValueError(
            f"EDF has no data record duration for sampling frequencies of "
            f"{', '.join(f'{rate:g}' for rate in rates)} Hz: resample first, or export as .fif "
            "or .zarr"
        )
    n_records = -(-units_needed // best)
    return RecordLayout(
        unit * best,
        tuple(k * best for k in per_unit),
        n_records,
        divides and units_needed % best == 0,
    )


def _about_one_second(candidates: list[int], unit: Fraction) -> int | None:
    return min(candidates, key=lambda m: abs(math.log(unit * m)), default=None)


def _writable(duration: Fraction) -> bool:
    """Whether EDF's 8 characters hold it exactly."""
    denominator = duration.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1 and len(seconds_text(duration)) <= 8


def seconds_text(duration: Fraction) -> str:
    """A duration with finitely many decimals, as text without exponent."""
    text = format(Decimal(duration.numerator) / Decimal(duration.denominator), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# ---------------------------------------------------------------------- labels and scaling


def edf_label(name: str, kind: str, unit: str) -> str:
    """Label of at most 16 ASCII characters that reads back as this name and type if any does."""
    prefixed = f"{TYPE_PREFIXES[kind]} {name}" if kind in TYPE_PREFIXES else name
    candidates = [name, prefixed] if kind == "stim" else [prefixed, name]
    for label in candidates:
        fits = len(label) <= 16 and label.isascii() and label.isprintable()
        if fits and split_label(label, unit) == (name, kind):
            return label
    plain, prefix = ascii_text(name), prefixed.removesuffix(name)
    return prefix + plain if len(prefix + plain) <= 16 else plain[:16]


def ascii_text(text: str) -> str:
    """Text in printable ASCII: accents dropped, micro as u, anything else as ``?``."""
    text = unicodedata.normalize("NFKD", text.replace("µ", "u").replace("μ", "u"))
    kept = (c for c in text if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in kept)


def physical_range(low: float, high: float) -> tuple[float, float]:
    """The narrowest range around `low` and `high` that EDF's 8 characters hold.

    Values far below 1 are written with an exponent where digits after the point are too few; the
    specification does not foresee that, EDF readers understand it.
    """
    if low == high:
        high = low + 1
    plain = _eight_characters(low, -1), _eight_characters(high, 1)
    largest = max(abs(low), abs(high))
    # exponents of three digits do not fit
    if plain[1] - plain[0] <= 1.01 * (high - low) or not 1e-90 < largest < 1e-3:
        return plain
    step = Decimal(1).scaleb(Decimal(largest).adjusted() - 1)
    return (
        float(Decimal(low).quantize(step, rounding=_rounding(-1))),
        float(Decimal(high).quantize(step, rounding=_rounding(1))),
    )


def _rounding(direction: int) -> str:
    return "ROUND_FLOOR" if direction < 0 else "ROUND_CEILING"


def _eight_characters(value: float, direction: int) -> float:
    """Round down (-1) or up (1) to a number whose text has at most 8 characters."""
    exact = Decimal(value)
    for decimals in range(7, -1, -1):
        step = Decimal(1).scaleb(-decimals)
        if abs(exact) < 10**8:
            rounded = float(exact.quantize(step, rounding=_rounding(direction)))
            text = number_text(rounded)
            if len(text) <= 8 and "e" not in text:
                return rounded
    raise ValueError(
        f"EDF cannot hold a value of {value:g} (8 characters): rescale the channel or export as "
        ".fif or .zarr"
    )


def number_text(value: float) -> str:
    """The text that edfio writes for a number."""
    return str(int(value)) if float(value).is_integer() else str(float(value))


# ---------------------------------------------------------------------- annotations


def annotation_records(
    onsets: Sequence[float],
    durations: Sequence[float],
    labels: Sequence[str],
    layout: RecordLayout,
    first: Decimal,
) -> tuple[list[bytes], int]:
    """Annotation bytes of every data record, and the bytes to reserve for them in each (even).

    An event goes to the record in which it begins; where many begin in one record the rest go to
    the records after it, so that one burst of events does not lengthen all records.

    Parameters
    ----------
    onsets, durations, labels
        The events; onsets in seconds after the first sample.
    layout : RecordLayout
        The data records.
    first : Decimal
        Fraction of a second by which the first sample is later than the header's start.
    """
    n = layout.n_records
    step = Decimal(layout.duration.numerator) / Decimal(layout.duration.denominator)
    clocks = [f"{_onset(first + step * i)}\x14\x14".encode() + b"\x00" for i in range(n)]
    queues: dict[int, list[bytes]] = {}
    starts = np.asarray(onsets, dtype=np.float64)
    records = np.clip(np.floor(starts / float(layout.duration)), 0, n - 1).astype(int)
    for i in np.argsort(starts, kind="stable"):
        tal = _tal(starts[i], durations[i], labels[i], first)
        queues.setdefault(int(records[i]), []).append(tal)
    clock = max(map(len, clocks))
    longest = max((len(tal) for tals in queues.values() for tal in tals), default=0)
    fullest = max((sum(map(len, tals)) for tals in queues.values()), default=0)
    capacity = min(fullest, max(2 * longest, 200))
    while True:
        placed = _place(queues, n, capacity)
        if placed is not None:
            break
        capacity *= 2
    reserved = clock + capacity
    reserved += reserved % 2
    return [start + tals for start, tals in zip(clocks, placed, strict=True)], reserved


def _place(queues: dict[int, list[bytes]], n: int, capacity: int) -> list[bytes] | None:
    placed, waiting = [], []
    for record in range(n):
        waiting += queues.get(record, [])
        size = count = 0
        while count < len(waiting) and size + len(waiting[count]) <= capacity:
            size += len(waiting[count])
            count += 1
        placed.append(b"".join(waiting[:count]))
        waiting = waiting[count:]
    return None if waiting else placed


def _onset(value: Decimal) -> str:
    text = format(value, "+f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _tal(onset: float, duration: float, label: str, first: Decimal) -> bytes:
    text = _onset(Decimal(repr(float(onset))) + first)
    if duration > 0:
        text += "\x15" + _onset(Decimal(repr(float(duration))))[1:]
    for separator in "\x00\x14\x15":
        label = label.replace(separator, " ")
    return f"{text}\x14{label}\x14\x00".encode()
