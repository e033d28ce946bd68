"""Timestamps: RFC 3339 (https://www.rfc-editor.org/rfc/rfc3339), other ISO 8601 and epochs become RFC 3339."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from paths import strip

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
# Other ISO 8601 that datetime parses. Alone it also accepts any character for the T, and misreads fractions of hours.
_ISO8601: Final = re.compile(
    r"[0-9]{4}(?:-?[0-9]{2}-?[0-9]{2}|-?W[0-9]{2}(?:-?[0-9])?)"
    r"(?:[Tt ][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]+)?)?)? ?(?:[Zz]|[+-][0-9]{2}(?::?[0-5][0-9])?)?)?"
)
_EPOCH: Final = re.compile(r"(?:[0-9]{10}|[0-9]{13}|[0-9]{16})(?:\.[0-9]{1,9})?")
# The fractions of a second that an epoch counts, by its number of digits.
_EPOCH_UNITS: Final = {10: 1, 13: 1_000, 16: 1_000_000}
_LEAP_SECOND: Final = re.compile(r"(?<=:)60(?=[.Z+-])")
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Earlier years are zero times: 0001 in Go and .NET, 1970 elsewhere, 1969 west of Greenwich.
_FIRST_YEAR: Final = 1971


class Timestamp(NamedTuple):
    """A timestamp in RFC 3339, and the moment that it means."""

    text: str
    moment: datetime


def read(value: object) -> Timestamp | None:
    """Return RFC 3339 as it is, and other ISO 8601 and epochs (s, ms or µs) rewritten; None for anything else.

    A time without an offset is UTC. Years before 1971 are invalid.
    """
    try:
        if isinstance(value, str):
            timestamp = _from_text(strip(value))
        elif isinstance(value, int | float) and _EPOCH.fullmatch(str(value)):
            timestamp = _from_text(str(value))
        else:
            return None
    except (ValueError, OverflowError):
        return None  # No such date, or not in the years 1 to 9999.
    return timestamp if timestamp.moment.year >= _FIRST_YEAR else None


def _from_text(text: str) -> Timestamp:
    if _RFC3339.fullmatch(text):
        # datetime has no leap seconds; the second before is close enough.
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
