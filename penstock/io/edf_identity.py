"""Who was recorded, and when, in the fields that EDF+ has for it.

The rules are those of the EDF+ specification, 2.1.3.3 and 2.1.3.4: both fields begin with
subfields without spaces, X where something is not known. Software that checks them (EDFlib, and
with it EDFbrowser and pyEDFlib) refuses a file that breaks them.
"""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

from penstock.io.edf_labels import ascii_text

FIELD_CHARACTERS = 80
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
FIRST_YEAR, LAST_YEAR = 1985, 2084
"""Years that the two digits of the header's own date can tell."""

_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "x": "X"}


def parse_date(text: str) -> datetime.date | None:
    """A date as EDF+ writes it (``25-APR-1997``); None if it is none."""
    match = re.fullmatch(r"(\d{1,2})-([A-Za-z]{3})-(\d{4})", text)
    if match is None or match[2].upper() not in MONTHS:
        return None
    try:
        return datetime.date(int(match[3]), MONTHS.index(match[2].upper()) + 1, int(match[1]))
    except ValueError:
        return None


def date_text(date: datetime.date | None) -> str:
    """A date as EDF+ writes it; X where there is none."""
    return "X" if date is None else f"{date.day:02}-{MONTHS[date.month - 1]}-{date.year:04}"


def patient_field(text: str) -> tuple[str, bool]:
    """The patient field of EDF+ for a text, and whether all of the text stands in it as it is.

    Text that is not code, sex, birthdate and name becomes the name.

    Examples
    --------
    >>> patient_field("MCH-0234567 F 02-MAY-1951 Haagse_Harry")
    ('MCH-0234567 F 02-MAY-1951 Haagse_Harry', True)
    >>> patient_field("J. B. (1066 28)")
    ('X X X J._B._(1066_28)', False)
    """
    words = ascii_text(" ".join(text.split())).split()
    if not words:
        return "X X X X", True
    sex = _SEXES.get(words[1].lower()) if len(words) > 1 else None
    birth = parse_date(words[2]) if len(words) > 2 else None
    if sex and (birth or (len(words) > 2 and words[2].upper() == "X")):
        fields = [words[0], sex, date_text(birth), *(words[3:] or ["X"])]
    elif len(words) == 1 or not all(word == "X" for word in words):
        fields = ["X", "X", "X", "_".join(words)]
    else:
        fields = ["X"] * max(4, len(words))
    field = _cut(fields, 4)
    kept = text.split()
    return field, field.split()[: len(kept)] == kept


def recording_field(text: str, date: datetime.date | None) -> tuple[str, bool]:
    """The recording field of EDF+ for a text and a date, and whether all of the text stands in it.

    The date is that of the dataset, which may be a part of the recording. Text that does not begin
    as EDF+ wants it becomes the name of the equipment.
    """
    words = ascii_text(" ".join(text.split())).split()
    if words[:1] == ["Startdate"] and (words[1:2] == ["X"] or parse_date("".join(words[1:2]))):
        rest = words[2:]
        kept = text.split()[2:]
    else:
        rest = ["X", "X", "_".join(words)] if words else []
        kept = text.split()
    rest += ["X"] * (3 - len(rest))
    field = _cut(["Startdate", date_text(date), *rest], 5)
    came = field.split()[2:]
    return field, came[: len(kept)] == kept


def _cut(fields: list[str], n_subfields: int) -> str:
    """The subfields, shortened at their end where they are too long, each with one character."""
    text = " ".join(fields)
    if len(text) <= FIELD_CHARACTERS:
        return text
    first = fields[:n_subfields]
    while len(" ".join(first)) > FIELD_CHARACTERS:
        longest = max(range(n_subfields), key=lambda i: len(first[i]))
        first[longest] = first[longest][:-1]
    return " ".join([*first, *fields[n_subfields:]])[:FIELD_CHARACTERS].rstrip()


def start_fields(start: datetime.datetime | None) -> tuple[str, str]:
    """Date and time of the header.

    Two digits of the year always, although the specification asks for the letters ``yy`` after
    2084: software in use refuses those, and takes the four digits of the recording field.
    """
    if start is None:
        return "01.01.85", "00.00.00"
    return f"{start:%d.%m.}{start.year % 100:02}", f"{start:%H.%M.%S}"


def split_start(text: object) -> tuple[datetime.datetime | None, Decimal, list[str]]:
    """Start in whole seconds, the fraction of a second left over, and what EDF cannot say of it.

    Raises
    ------
    ValueError
        If the text is no date.
    """
    if text is None or text == "":
        return None, Decimal(0), []
    try:
        start = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(
            f"the attribute measurement_date is {str(text)!r}, no date and time as "
            "2024-05-17T09:30:00: set it to one, or delete it"
        ) from None
    notes = []
    if start.utcoffset():
        notes.append(f"EDF holds local time without its zone (here {start:%z} from UTC)")
    if not FIRST_YEAR <= start.year <= LAST_YEAR:
        notes.append(
            f"only the recording field of EDF+ holds the year {start.year}: software that reads "
            "the two digits of the header takes it for another"
        )
    fraction = Decimal(start.microsecond) / 1_000_000
    return start.replace(microsecond=0, tzinfo=None), fraction, notes
