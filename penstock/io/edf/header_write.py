"""The header of an EDF+ file, as bytes.

Written here and not by edfio, which writes whole files from samples in memory, and whose checks do
not let every field through that copies of recordings need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ANNOTATIONS = "EDF Annotations"


@dataclass(frozen=True)
class SignalFields:
    """Texts of the header of one signal, in the order of the file."""

    label: str
    transducer: str
    unit: str
    physical_min: str
    physical_max: str
    digital_min: str
    digital_max: str
    prefiltering: str
    samples: str
    reserved: str = ""


WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
"""Characters of the fields of `SignalFields`."""


def annotation_fields(samples: int) -> SignalFields:
    """The header of the signal that holds the annotations."""
    low, high = "-32768", "32767"
    return SignalFields(ANNOTATIONS, "", "", "-1", "1", low, high, "", str(samples))


def header_bytes(
    signals: Sequence[SignalFields],
    *,
    patient: str,
    recording: str,
    date: str,
    time: str,
    n_records: int,
    duration: str,
) -> bytes:
    """The header of an EDF+C file with these signals."""
    n = len(signals)
    if n > 9999:
        raise ValueError(
            f"EDF holds at most 9998 channels, got {n - 1}: select channels, or export as .zarr"
        )
    fixed = (
        ("0", 8),
        (patient, 80),
        (recording, 80),
        (date, 8),
        (time, 8),
        (str(256 * (n + 1)), 8),
        ("EDF+C", 44),
        (str(n_records), 8),
        (duration, 8),
        (str(n), 4),
    )
    columns = zip(*(vars(signal).values() for signal in signals), strict=True)
    fields = [
        *fixed,
        *((text, width) for column, width in zip(columns, WIDTHS, strict=True) for text in column),
    ]
    for text, width in fields:
        if len(text) > width or not text.isascii():
            raise ValueError(f"the header of EDF cannot hold {text!r} in {width} ASCII characters")
    return b"".join(text.encode("ascii").ljust(width) for text, width in fields)
