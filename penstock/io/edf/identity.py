"""Who was recorded, and when, in the fields that EDF+ has for it.

The rules are those of the EDF+ specification, 2.1.3.3 and 2.1.3.4: both fields begin with
subfields without spaces, X where something is not known. Software that checks them (EDFlib, and
with it EDFbrowser and pyEDFlib) refuses a file that breaks them.
"""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

from penstock.dates import read_date
from penstock.io.edf.labels import ascii_text

FIELD_CHARACTERS = 80
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
FIRST_YEAR, LAST_YEAR = 1985, 2084
"""Years that the two digits of the header's own date can tell."""

OLDEST_YEAR = 1970
"""Year before which EDFlib refuses a file."""
_EARLY = re.compile(r" measured (\d\d-[A-Z]{3}-\d{4})$")
"""Where the recording field holds an earlier date: in its free part."""

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

    The date is that of the dataset, which may be a part of the recording; one that common software
    refuses goes to the end of the field. Text that does not begin as EDF+ wants it becomes the name
    of the equipment.
    """
    text = _EARLY.sub("", text)
    early = date is not None and date.year < OLDEST_YEAR
    ending = f" measured {date_text(date)}" if early else ""
    words = ascii_text(" ".join(text.split())).split()
    if words[:1] == ["Startdate"] and (words[1:2] == ["X"] or parse_date("".join(words[1:2]))):
        rest = words[2:]
        kept = text.split()[2:]
    else:
        rest = ["X", "X", "_".join(words)] if words else []
        kept = text.split()
    rest += ["X"] * (3 - len(rest))
    field = _cut(["Startdate", date_text(None if early else date), *rest], 5, len(ending)) + ending
    came = field.split()[2:]
    return field, came[: len(kept)] == kept


def says_more(recording: str) -> bool:
    """Whether a recording field says anything beside the date: who recorded, with what.

    Examples
    --------
    >>> says_more("Startdate 02-MAR-2002 X X X"), says_more("Startdate X X X Neuroscan")
    (False, True)
    """
    words = _EARLY.sub("", recording).split()
    rest = words[2:] if words[:1] == ["Startdate"] else words
    return any(word.upper() != "X" for word in rest)


def _cut(fields: list[str], n_subfields: int, reserved: int = 0) -> str:
    """The subfields, the longest of them shortened where they are too long together."""
    most = FIELD_CHARACTERS - reserved
    first = fields[:n_subfields]
    while len(" ".join(first)) > most:
        longest = max(range(n_subfields), key=lambda i: len(first[i]))
        first[longest] = first[longest][:-1]
    return " ".join([*first, *fields[n_subfields:]])[:most].rstrip()


def read_start(recording: str, date_field: str, time_field: str) -> datetime.datetime | None:
    """Date and time of a header in whole seconds; None if anonymised or unreadable.

    The date is that of the recording field, which has four digits for the year, if it holds one. A
    header date of 1 January 1985 beside an anonymised recording field is anonymised as well.
    """
    words = recording.split()
    date = parse_date(words[1]) if words[:1] == ["Startdate"] and len(words) > 1 else None
    if date is None and (early := _EARLY.search(recording)):
        date = parse_date(early[1])
    if date is None and (numbers := _three_numbers(date_field)):
        day, month, year = numbers
        date = _date(year + (1900 if year >= 85 else 2000), month, day)
        if recording.startswith("Startdate X") and date == datetime.date(1985, 1, 1):
            date = None
    return None if date is None else datetime.datetime.combine(date, read_time(time_field))


def read_time(field: str) -> datetime.time:
    """The time in a header; midnight if it holds none."""
    try:
        return datetime.time(*(_three_numbers(field) or (0, 0, 0)))
    except ValueError:
        return datetime.time()


def _date(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def _three_numbers(field: str) -> tuple[int, int, int] | None:
    match = re.fullmatch(r"\s*(\d{1,2})[.:'\-/ ]\s*(\d{1,2})[.:'\-/ ]\s*(\d{1,2})", field)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def start_fields(start: datetime.datetime | None) -> tuple[str, str]:
    """Date and time of the header.

    Two digits of the year always, although the specification asks for the letters ``yy`` after
    2084: software in use refuses those, and takes the four digits of the recording field.
    """
    if start is None:
        return "01.01.85", "00.00.00"
    if start.year < OLDEST_YEAR:
        return "01.01.85", f"{start:%H.%M.%S}"
    return f"{start:%d.%m.}{start.year % 100:02}", f"{start:%H.%M.%S}"


def split_start(text: object) -> tuple[datetime.datetime | None, Decimal, list[str]]:
    """Start in whole seconds, the fraction of a second left over, and what EDF cannot say of it.

    Raises
    ------
    ValueError
        If the text is no date.
    """
    start = read_date(text)
    if start is None:
        return None, Decimal(0), []
    notes = []
    if start.utcoffset():
        notes.append(f"EDF holds local time without its zone (here {start:%z} from UTC)")
    if start.year < OLDEST_YEAR:
        notes.append(
            f"software for EDF refuses the year {start.year}: the date stands at the end of the "
            "recording field, where Penstock reads it, and for others in none"
        )
    elif not FIRST_YEAR <= start.year <= LAST_YEAR:
        notes.append(
            f"only the recording field of EDF+ holds the year {start.year}: software that reads "
            "the two digits of the header takes it for another"
        )
    fraction = Decimal(start.microsecond) / 1_000_000
    return start.replace(microsecond=0, tzinfo=None), fraction, notes
