"""How a dataset is laid out as EDF+: data records, numbers of the header, annotation bytes.

Pure functions: nothing here reads or writes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

RECORD_BYTES = 61440
"""Largest data record that the EDF specification recommends."""
LONGEST_RECORD_BYTES = 10 << 20
"""Largest that is written at all, for sampling frequencies that need it: EDFlib reads no larger."""
LOW, HIGH = -32768, 32767
SHORTEST = Fraction(1, 100)
"""Seconds of a record that divides the recording; the annotations cost space in every record."""
SHORT, LONG = Fraction(1, 4), Fraction(2)
"""Seconds of ordinary records, tried first where none divides the recording."""
LONGEST_SECONDS = 10
"""Seconds of records whose duration is rounded."""
OFF, MOVED = 1e-6, 0.1
"""Part of the sampling frequency, and samples at the end, by which that may be off."""
MANY = 1000
"""Lengths of records that are weighed against each other."""
LITTLE = Fraction(1, 50)
"""Seconds of padding that are not worth shorter records."""


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
    rates: Sequence[float],
    lengths: Sequence[int],
    n_signals: Sequence[int],
    source_duration: float | None = None,
) -> RecordLayout:
    """Data records in which every rate has whole samples.

    Preferred, in this order: the records of the file that the recording came from, if they fit;
    records that divide the recording, within the 61,440 bytes that the specification recommends,
    lasting about one second. Where no duration divides the recording, the last record is longer
    than the signal, by as little as records of ordinary lengths allow. Sampling frequencies of
    which no short record holds whole samples get records of a rounded duration, if that moves no
    sample by more than a tenth of the distance of two.

    Parameters
    ----------
    rates : sequence of float
        Sampling frequencies [Hz].
    lengths : sequence of int
        Samples of the signals of each rate.
    n_signals : sequence of int
        Number of signals of each rate.
    source_duration : float, optional
        Seconds that a data record of the source lasts.

    Raises
    ------
    ValueError
        If no duration that EDF can write (8 characters) gives every rate whole samples, not even
        nearly.
    """
    source = _source_records(rates, lengths, source_duration)
    if source is not None and source.exact:
        return source
    exact_rates = [Fraction(rate).limit_denominator(100_000) for rate in rates]
    inexact = any(
        abs(float(exact) - rate) > 1e-9 * rate
        for rate, exact in zip(rates, exact_rates, strict=True)
    )
    layout = None if inexact else _planned(exact_rates, lengths, n_signals)
    if layout is None or _much_padding(layout, rates, lengths):
        layout = _nearly(rates, lengths, n_signals) or layout or source
    if layout is None:
        raise ValueError(
            f"EDF has no data record duration for sampling frequencies of "
            f"{', '.join(f'{rate:g}' for rate in rates)} Hz: resample first, or export as .fif "
            "or .zarr"
        )
    return layout


def _much_padding(layout: RecordLayout, rates: Sequence[float], lengths: Sequence[int]) -> bool:
    lasts = max(n / rate for n, rate in zip(lengths, rates, strict=True))
    padded = float(layout.n_records * layout.duration) - lasts
    return padded > max(1.0, 0.1 * lasts)


def _nearly(
    rates: Sequence[float], lengths: Sequence[int], n_signals: Sequence[int]
) -> RecordLayout | None:
    """Records whose duration is rounded to 8 characters, where that moves no sample by a tenth."""
    ratios = [Fraction(rate / rates[0]).limit_denominator(1000) for rate in rates]
    if any(
        abs(float(ratio) * rates[0] - rate) > 1e-9 * rate
        for rate, ratio in zip(rates, ratios, strict=True)
    ):
        return None
    common = Fraction(
        math.lcm(*(ratio.denominator for ratio in ratios)),
        math.gcd(*(ratio.numerator for ratio in ratios)),
    )
    per_unit = [int(ratio * common) for ratio in ratios]
    unit = per_unit[0] / float(rates[0])
    units_needed = max(-(-n // k) for n, k in zip(lengths, per_unit, strict=True))
    unit_bytes = 2 * sum(n * k for n, k in zip(n_signals, per_unit, strict=True))
    error = min(OFF, MOVED / max(lengths))
    for limit in (RECORD_BYTES, LONGEST_RECORD_BYTES):
        most = max(1, min(limit // unit_bytes, int(LONGEST_SECONDS / unit)))
        exact = np.arange(1, most + 1) * unit
        # (below 10 s, 8 characters hold 6 decimals)
        rounded = np.rint(exact * 1e6) / 1e6
        candidates = (np.flatnonzero(np.abs(rounded / exact - 1) <= error) + 1).tolist()
        if candidates:
            break
    else:
        return None
    if len(candidates) > MANY:
        candidates = candidates[:: len(candidates) // MANY]
    best = _least_padding(candidates, units_needed, Fraction(unit))
    return RecordLayout(
        Fraction(round(best * unit * 1e6), 1_000_000),
        tuple(k * best for k in per_unit),
        -(-units_needed // best),
        all(n == k * units_needed for n, k in zip(lengths, per_unit, strict=True))
        and units_needed % best == 0,
    )


def _source_records(
    rates: Sequence[float], lengths: Sequence[int], duration: float | None
) -> RecordLayout | None:
    """The records of the source, if they hold whole samples of every rate."""
    if duration is None or not duration > 0:
        return None
    exact = Fraction(repr(float(duration)))
    samples = [round(rate * duration) for rate in rates]
    same = all(
        n > 0 and abs(n / duration - rate) <= 1e-12 * rate
        for n, rate in zip(samples, rates, strict=True)
    )
    if not same or not _writable(exact):
        return None
    n_records = max(-(-n // k) for n, k in zip(lengths, samples, strict=True))
    divides = all(n == k * n_records for n, k in zip(lengths, samples, strict=True))
    return RecordLayout(exact, tuple(samples), n_records, divides)


def _planned(
    rates: Sequence[Fraction], lengths: Sequence[int], n_signals: Sequence[int]
) -> RecordLayout | None:
    # the shortest time with whole samples of every rate; every duration is a multiple of it
    unit = Fraction(
        math.lcm(*(rate.denominator for rate in rates)),
        math.gcd(*(rate.numerator for rate in rates)),
    )
    per_unit = [int(rate * unit) for rate in rates]
    units_needed = max(-(-n // k) for n, k in zip(lengths, per_unit, strict=True))
    divides = all(n == k * units_needed for n, k in zip(lengths, per_unit, strict=True))
    unit_bytes = 2 * sum(n * k for n, k in zip(n_signals, per_unit, strict=True))
    if unit_bytes > LONGEST_RECORD_BYTES:
        return None
    most = max(1, RECORD_BYTES // unit_bytes)
    # only multiples of this many units have finitely many decimals
    step = _other_factors(unit.denominator)
    best = None
    if divides:
        dividing = (m for m in range(step, most + 1, step) if units_needed % m == 0)
        best = _about_one_second(
            [m for m in dividing if unit * m >= SHORTEST and _writable(unit * m)], unit
        )
    if best is None:
        longest = LONGEST_RECORD_BYTES // unit_bytes
        ordinary = range(step, max(1, min(most, int(LONG / unit))) + 1, step)
        candidates = [m for m in ordinary if _writable(unit * m)]
        if not candidates:
            long = (m for m in range(step, longest + 1, step) if _writable(unit * m))
            candidates = list(itertools.islice(long, 1))
        if not candidates:
            return None
        best = _least_padding(candidates, units_needed, unit)
    n_records = -(-units_needed // best)
    return RecordLayout(
        unit * best,
        tuple(k * best for k in per_unit),
        n_records,
        divides and units_needed % best == 0,
    )


def _least_padding(candidates: list[int], units_needed: int, unit: Fraction) -> int:
    """Of ordinary lengths, unless shorter records would spare much of what is filled up."""
    chosen = [m for m in candidates if unit * m >= SHORT] or candidates
    least, padded = (min(-units_needed % m for m in some) for some in (candidates, chosen))
    if unit * padded > max(LITTLE, units_needed * unit / 100) and least < padded:
        chosen, padded = candidates, least
    best = _about_one_second([m for m in chosen if -units_needed % m == padded], unit)
    assert best is not None
    return best


def _about_one_second(candidates: list[int], unit: Fraction) -> int | None:
    return min(candidates, key=lambda m: abs(math.log(unit * m)), default=None)


def _writable(duration: Fraction) -> bool:
    """Whether EDF's 8 characters hold it exactly."""
    return _other_factors(duration.denominator) == 1 and len(seconds_text(duration)) <= 8


def _other_factors(number: int) -> int:
    """A number without its factors 2 and 5."""
    for prime in (2, 5):
        while number % prime == 0:
            number //= prime
    return number


def seconds_text(duration: Fraction) -> str:
    """A duration with finitely many decimals, as text without exponent."""
    text = format(Decimal(duration.numerator) / Decimal(duration.denominator), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# ---------------------------------------------------------------------- scaling


def physical_range(low: float, high: float) -> tuple[float, float]:
    """The narrowest range around `low` and `high` that EDF's 8 characters hold.

    Values far below 1 or above 10 million are written with an exponent; the specification does not
    foresee that, EDF readers understand it.

    Raises
    ------
    ValueError
        If the values are too large for that as well.
    """
    if low == high:
        high = low + (1.0 if abs(low) < 1e7 else abs(low) * 1e-6)
    ranges = [
        (first, last)
        for first, last in zip(_eight_characters(low, -1), _eight_characters(high, 1), strict=True)
        if first is not None and last is not None
    ]
    if not ranges:
        raise ValueError(
            f"EDF cannot hold values from {low:g} to {high:g} (8 characters): rescale the channel "
            "or export as .fif or .zarr"
        )
    plain = ranges[0]
    if plain[1] - plain[0] <= 1.01 * (high - low):
        return plain
    return min(ranges, key=lambda found: found[1] - found[0])


def _eight_characters(value: float, direction: int) -> tuple[float | None, ...]:
    """Round down (-1) or up (1) to the next number of at most 8 characters, by ways to write it.

    With digits after the point, then with an exponent.
    """
    exact = Decimal(value)
    rounding = "ROUND_FLOOR" if direction < 0 else "ROUND_CEILING"
    size = exact.adjusted() if exact else 0
    plain = [-decimals for decimals in range(7, -1, -1)] if size < 8 else []
    exponent = [size - digits for digits in range(5, -1, -1)]
    found = []
    for places, marked in ((plain, False), (exponent, True)):
        rounded = (
            float(exact.quantize(Decimal(1).scaleb(place), rounding=rounding)) for place in places
        )
        found.append(
            next(
                (
                    number
                    for number in rounded
                    if (text := exact_text(number)) is not None and (marked or "e" not in text)
                ),
                None,
            )
        )
    return tuple(found)


def number_text(value: float) -> str:
    """A number as text, whole ones without a point."""
    return str(int(value)) if float(value).is_integer() else str(float(value))


def exact_text(value: float) -> str | None:
    """Text of at most 8 characters that reads as this number and no other; None if none does."""
    texts = (number_text(value), repr(float(value)), *(f"{value:.{n}g}" for n in range(1, 8)))
    short = (text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e") for text in texts)
    return next((text for text in short if len(text) <= 8 and float(text) == value), None)


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
    return f"{text}\x14{label}\x14\x00".encode()
