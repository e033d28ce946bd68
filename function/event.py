"""The PagerDuty event, in the one form that it has from the mapping to PagerDuty."""

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

# The names that a PagerDuty service can have here: they are the ends of paths and of SSM parameters.
SERVICE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def encode(value: object) -> bytes:
    """Encode finite JSON as UTF-8; half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


class NonFinite(str):
    """`NaN`, `Infinity` or `-Infinity`, which JSON does not have and Python writes: a text that counts as blank."""

    __slots__ = ()

    def strip(self, _chars: str | None = None, /) -> str:
        """Return nothing."""
        return ""


def decode(text: str) -> Any:
    """Parse JSON into values that can be encoded again. Raises json.JSONDecodeError and RecursionError."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # An integer of thousands of digits, which Python refuses to read.
        return _DECODER_OF_LONG_INTEGERS.decode(text)


def _finite(digits: str) -> float | str:
    """Read a number; one that is too large for a float stays as its digits rather than become infinite."""
    number = float(digits)
    return number if math.isfinite(number) else digits


def _integer(digits: str) -> int | str:
    """Read an integer; one that is too long for Python stays as its digits."""
    try:
        return int(digits)
    except ValueError:
        return digits


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=NonFinite)
_DECODER_OF_LONG_INTEGERS: Final = json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=NonFinite)


@dataclass(frozen=True)
class Event:
    """An event for a PagerDuty service, ready to be sent but for the service's routing key.

    `content` is what PagerDuty gets, without the routing key. `action` is None for a change event, and so is
    `dedup_key`. `message_id` is RudderStack's, and `occurred_at` the event's own time; both are None when it has none.
    `warnings` say what was repaired on the way.
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
        """The event in a word, for metrics and log: its action, or `change`."""
        return self.action or self.kind

    @property
    def description(self) -> str:
        """The event in words, for people."""
        return "change event" if self.kind == "change" else f"alert event ({self.action})"
