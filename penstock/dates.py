"""When a recording was measured: the attribute ``measurement_date``, read and moved in one way."""

from __future__ import annotations

import datetime

ATTRIBUTE = "measurement_date"


def read_date(text: object) -> datetime.datetime | None:
    """The date and time that an attribute ``measurement_date`` gives; None for none.

    Its offset from UTC is kept where it has one.

    Raises
    ------
    ValueError
        If the text is no date.
    """
    if text is None or text == "":
        return None
    try:
        return datetime.datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(
            f"the attribute {ATTRIBUTE} is {str(text)!r}, no date and time as "
            "2024-05-17T09:30:00: set it to one, or delete it"
        ) from None


def moved_date(date: datetime.datetime, seconds: float) -> datetime.datetime:
    """A date some seconds later.

    Raises
    ------
    ValueError
        If it lies outside of the years 1 to 9999.
    """
    try:
        return date + datetime.timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError(
            f"the attribute {ATTRIBUTE} is {date.isoformat()!r}, and {seconds:g} s later no "
            "calendar has a date: set it to another, or delete it"
        ) from None


def in_utc(date: datetime.datetime) -> datetime.datetime:
    """The same moment in UTC; a date without an offset is taken as UTC.

    Raises
    ------
    ValueError
        If it lies outside of the years 1 to 9999.
    """
    if date.tzinfo is None:
        return date.replace(tzinfo=datetime.UTC)
    try:
        return date.astimezone(datetime.UTC)
    except OverflowError:
        raise ValueError(
            f"the attribute {ATTRIBUTE} is {date.isoformat()!r}, which has no date in UTC: set it "
            "to another, or delete it"
        ) from None
