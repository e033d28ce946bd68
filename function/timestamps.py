"""Timestamps of every kind, read and written as RFC 3339 (https://www.rfc-editor.org/rfc/rfc3339)."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from paths import strip

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
# Other ISO 8601 that datetime reads. Alone it would read more than that, and misread some of it: any character may
# stand for the T, and a fraction of an hour counts as one of a second.
_ISO8601: Final = re.compile(
    r"[0-9]{4}(?:-?[0-9]{2}-?[0-9]{2}|-?W[0-9]{2}(?:-?[0-9])?)"
    r"(?:[Tt ][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]+)?)?)? ?(?:[Zz]|[+-][0-9]{2}(?::?[0-5][0-9])?)?)?"
)
_EPOCH: Final = re.compile(r"(?:[0-9]{10}|[0-9]{13}|[0-9]{16})(?:\.[0-9]{1,9})?")
# By the number of digits before the point: what an epoch counts, as parts of a second.
_EPOCH_UNITS: Final = {10: 1, 13: 1_000, 16: 1_000_000}
_LEAP_SECOND: Final = re.compile(r"(?<=:)60(?=[.Z+-])")
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
# What is earlier is no moment but a zero time: 0001 in Go and .NET, 1970 elsewhere, 1969 west of Greenwich.
_FIRST_YEAR: Final = 1971


class Timestamp(NamedTuple):
    """A timestamp as PagerDuty is to get it, and the moment that it means."""

    text: str
    moment: datetime


def read(value: object) -> Timestamp | None:
    """Read RFC 3339, other ISO 8601, or an epoch in seconds, milliseconds or microseconds; None for anything else.

    RFC 3339 is passed on as it is, everything else is rewritten. A time without an offset is taken as UTC. Years
    before 1971 mean no moment.
    """
    try:
        if isinstance(value, str):
            timestamp = _from_text(strip(value))
        elif isinstance(value, int | float) and _EPOCH.fullmatch(str(value)):
            timestamp = _from_text(str(value))
        else:
            return None
    except (ValueError, OverflowError):
        return None  # Not a date that exists, or one outside the years 1 to 9999.
    return timestamp if timestamp.moment.year >= _FIRST_YEAR else None


def _from_text(text: str) -> Timestamp:
    if _RFC3339.fullmatch(text):
        # datetime knows no leap second; for telling an event's age, the second before will do.
        readable = _LEAP_SECOND.sub("59", text.upper()) if ":60" in text else text.upper()
        return Timestamp(text, datetime.fromisoformat(readable).astimezone(UTC))
    if _EPOCH.fullmatch(text):
        moment = _EPOCH_START + timedelta(seconds=float(text) / _EPOCH_UNITS[len(text.partition(".")[0])])
    elif _ISO8601.fullmatch(text):
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    else:
        raise ValueError("not a timestamp")
    return Timestamp(moment.isoformat(), moment)
