"""The PagerDuty event, from the mapping to the call, and how JSON is read and written."""

import functools
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

Kind = Literal["alert", "change"]
Action = Literal["trigger", "acknowledge", "resolve"]
Severity = Literal["critical", "error", "warning", "info"]

# https://developer.pagerduty.com/docs/send-alert-event
ACTIONS: Final[tuple[Action, ...]] = ("trigger", "acknowledge", "resolve")
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "error", "warning", "info")

# The name of a PagerDuty service. Paths and SSM parameters end with it.
SERVICE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def encode(value: object) -> bytes:
    """Return finite JSON as UTF-8. Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


class NonFinite(str):  # noqa: SLOT000 -- there are few of them
    """`NaN`, `Infinity` or `-Infinity`, which Python writes and JSON does not have: a text that counts as blank."""

    def strip(self, _chars: str | None = None, /) -> str:
        """Return nothing."""
        return ""


def decode(text: str) -> Any:
    """Parse JSON to values that can be encoded. Raises json.JSONDecodeError and RecursionError."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # An integer of more than 4,300 digits.
        return _DECODER_OF_LONG_INTEGERS.decode(text)


def _finite(digits: str) -> float | str:
    """Parse a number; one that is too large for a float stays a text."""
    number = float(digits)
    return number if math.isfinite(number) else digits


def _integer(digits: str) -> int | str:
    """Parse an integer; one that is too long for Python stays a text."""
    try:
        return int(digits)
    except ValueError:
        return digits


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=NonFinite)
_DECODER_OF_LONG_INTEGERS: Final = json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=NonFinite)


@dataclass(frozen=True)
class Event:
    """An event for a PagerDuty service.

    `content` is what PagerDuty receives, without the routing key. `action` and `dedup_key` are None for a change event.
    `message_id` is RudderStack's, and `occurred_at` the event's own time, None if it has none. `warnings` say what was
    repaired.
    """

    service: str
    kind: Kind
    content: dict[str, Any]
    action: Action | None = None
    dedup_key: str | None = None
    message_id: str | None = None
    occurred_at: datetime | None = None
    warnings: tuple[str, ...] = ()

    @functools.cached_property
    def body(self) -> bytes:
        """The content, encoded."""
        return encode(self.content)

    @property
    def type_name(self) -> str:
        """The event's action, or `change`: its type in metrics and the log."""
        return self.action or self.kind

    @property
    def description(self) -> str:
        """The event in words, for messages."""
        return "change event" if self.kind == "change" else f"alert event ({self.action})"
