"""The PagerDuty event, in the one form that it has from the mapping to PagerDuty."""

import functools
import json
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
    def label(self) -> str:
        """The event in a word, for metrics and log: its action, or `change`."""
        return self.action or self.kind

    @property
    def noun(self) -> str:
        """The event in words, for people."""
        return "change event" if self.kind == "change" else f"alert event ({self.action})"
