"""Timestamps of every kind, read and written as RFC 3339 (https://www.rfc-editor.org/rfc/rfc3339)."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
_EPOCH: Final = re.compile(r"-?[0-9]{9,16}(?:\.[0-9]{1,9})?")
# The same of a number: 9 to 16 digits. A number with fewer, such as 20260131, leaves open what it counts.
_FIRST_EPOCH: Final = 10**8
_EPOCHS_END: Final = 10**16
_ORDINAL: Final = re.compile(r"([0-9]{4})-?([0-9]{3})(?![0-9-])")
# What datetime takes for something else: a fraction of an hour or a minute, an offset of more than 59 minutes.
_MISREAD: Final = re.compile(r"[Tt ][0-9]{2}(?::?[0-9]{2})?[.,]|[+-][0-9]{2}:?[6-9][0-9]$")
_LEAP_SECOND: Final = re.compile(r"(?<=:)60(?=[.Z+-])")
# As seconds this is the year 5138, as milliseconds 1973: what is larger counts milliseconds.
_FIRST_MILLISECONDS: Final = 100_000_000_000
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Timestamp(NamedTuple):
    """A timestamp as PagerDuty is to get it, and the moment that it means."""

    text: str
    moment: datetime


def read(value: object) -> Timestamp | None:
    """Read RFC 3339, any other form of ISO 8601, or an epoch in seconds or milliseconds; None when it is none of them.

    RFC 3339 is passed on as it is, everything else is rewritten. A time without an offset is taken as UTC.
    """
    try:
        if isinstance(value, str):
            return _from_text(value.strip())
        if isinstance(value, int | float):
            return _from_epoch(value) if _FIRST_EPOCH <= abs(value) < _EPOCHS_END else None
    except (ValueError, OverflowError):
        pass  # Not a date that exists, or one outside the years 1 to 9999.
    return None


def _from_text(text: str) -> Timestamp:
    if _RFC3339.fullmatch(text):
        # datetime knows no leap second; for telling an event's age, the second before will do.
        readable = _LEAP_SECOND.sub("59", text.upper()) if ":60" in text else text.upper()
        return Timestamp(text, datetime.fromisoformat(readable).astimezone(UTC))
    if _EPOCH.fullmatch(text):
        return _from_epoch(float(text))
    if _MISREAD.search(text):
        raise ValueError("a form of ISO 8601 that is not read")
    if ordinal := _ORDINAL.match(text):
        # The one form of a date in ISO 8601 that datetime does not read: the year and the day of the year.
        text = _calendar_date(int(ordinal[1]), int(ordinal[2])) + text[ordinal.end() :]
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    moment = moment.astimezone(UTC)
    return Timestamp(moment.isoformat(), moment)


def _calendar_date(year: int, day: int) -> str:
    found = date(year, 1, 1) + timedelta(days=day - 1)
    if found.year != year:
        raise ValueError("no such day in that year")
    return found.isoformat()


def _from_epoch(number: float) -> Timestamp:
    seconds = number / 1000 if abs(number) >= _FIRST_MILLISECONDS else number
    # Not fromtimestamp: it refuses years before 1970 on some systems.
    moment = _EPOCH_START + timedelta(seconds=seconds)
    return Timestamp(moment.isoformat(), moment)
