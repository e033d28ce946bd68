"""The outcome of an event, or of a whole request: each has a stable code, and the code decides the status.

RudderStack gives an event up after any 4xx but 408 and 429, and sends it again after 408, 429 and 5xx (rudder-server,
`router/misc.go`), so a careless 4xx is a lost page.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, get_args

from event import Event

Status = Literal["delivered", "queued", "merged", "preview", "ignored", "rejected", "deferred"]

_Ignored = Literal["not_for_pagerduty", "not_a_track_call"]
# The request or the event can never succeed as it is. `event_failed` is a bug in an event of a batch, of which others
# were queued: repeating the batch would repeat those.
_Invalid = Literal[
    "query_unknown", "preview_invalid", "body_empty", "body_not_base64", "gzip_damaged", "body_not_utf8",
    "body_not_json", "body_too_deep", "body_without_events",
    "event_not_an_object", "integration_invalid", "type_missing", "type_unknown", "properties_not_an_object",
    "action_unknown", "dedup_key_missing", "event_name_missing", "source_missing", "source_not_text",
    "timestamp_too_old",
    "pagerduty_rejected", "message_unreadable", "event_failed",
]  # fmt: skip
# PagerDuty does not accept the event now, flow control does not admit it, or our configuration or AWS prevents it. In
# the first two cases a single event is enqueued, with the code as reason.
_Unavailable = Literal[
    "pagerduty_rate_limited", "pagerduty_unavailable", "pagerduty_unreachable", "pagerduty_unexpected",
    "rate_limit_delay", "earlier_events_queued", "flow_control_unavailable",
    "routing_key_missing", "routing_key_refused", "webhook_token_missing", "secrets_unavailable", "queue_unavailable",
    "earlier_event_deferred",
]  # fmt: skip
_Accepted = Literal["delivered", "queued", "merged", "preview"]
_Late = Literal["pagerduty_timeout", "deadline_exceeded"]
_Large = Literal["body_too_large", "too_many_events"]
_Faulty = Literal["settings_invalid", "internal_error"]
Code = Literal[_Accepted, _Ignored, _Invalid, _Large, "unauthorized", "no_such_service", _Unavailable, _Late, _Faulty]

# docs/answers.md explains each code. None is a 429, which RudderStack would retry for 30 days.
CODES: Final[dict[Code, tuple[Status, int]]] = {
    **{code: (code, 200) for code in get_args(_Accepted)},
    **dict.fromkeys(get_args(_Ignored), ("ignored", 200)),
    **dict.fromkeys(get_args(_Invalid), ("rejected", 400)),
    **dict.fromkeys(get_args(_Large), ("rejected", 413)),
    "unauthorized": ("rejected", 401),
    "no_such_service": ("rejected", 404),
    **dict.fromkeys(get_args(_Unavailable), ("deferred", 503)),
    **dict.fromkeys(get_args(_Late), ("deferred", 504)),
    **dict.fromkeys(get_args(_Faulty), ("deferred", 500)),
}


@dataclass(frozen=True, slots=True)
class Call:
    """The last call to PagerDuty for an event: HTTP status (None: no answer), seconds, and the number of calls."""

    status: int | None
    seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an event, or of a request; `message` is for the sender, `detail` for the log alone.

    `message_id`, `dedup_key` and `warnings` are the event's. `call` is None unless PagerDuty was called. `content` is
    the PagerDuty event, in a preview only. `reason` says why an event was enqueued, or why a page was posted although
    earlier events are queued. `is_urgent` means that flow control lets the event go ahead, and `without_lease` that
    its order is not kept, since DynamoDB did not answer.
    """

    code: Code
    message: str
    detail: str | None = None
    message_id: str | None = None
    dedup_key: str | None = None
    warnings: tuple[str, ...] = ()
    call: Call | None = None
    content: dict[str, Any] | None = None
    reason: Code | Literal["several_events"] | None = None
    is_urgent: bool = False
    without_lease: bool = False

    @property
    def status(self) -> Status:
        """The status in the answer and the log."""
        return CODES[self.code][0]

    @property
    def http_status(self) -> int:
        """The HTTP status, which tells RudderStack: done, never, or again."""
        return CODES[self.code][1]

    def for_event(self, event: Event) -> Self:
        """Return the outcome with what identifies the event."""
        return replace(self, message_id=event.message_id, dedup_key=event.dedup_key, warnings=event.warnings)


class ProcessingError(Exception):
    """Stops processing an event or a request; `outcome` says why."""

    def __init__(self, code: Code, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.outcome = Outcome(code, message, detail)
