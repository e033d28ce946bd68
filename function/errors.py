"""Why an event is not sent: every reason has a stable code, and the code decides what RudderStack does next.

RudderStack gives an event up after any 4xx but 408 and 429, and sends it again after 429 and 5xx
(rudder-server, `router/misc.go`), so the status is a decision about somebody's page, not a formality.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

# Shown in the README under "Troubleshooting by code"; a test keeps the two together.
STATUS_OF: Final[dict[str, int]] = {
    # Ignored: nothing to do, and nothing wrong.
    "not_for_pagerduty": 200,
    "not_a_track_call": 200,
    # Rejected, the whole request: it cannot succeed however often it is sent.
    "unauthorized": 401,
    "no_such_service": 404,
    "preview_unclear": 400,
    "body_too_large": 413,
    "body_empty": 400,
    "body_not_base64": 400,
    "gzip_damaged": 400,
    "body_not_utf8": 400,
    "body_not_json": 400,
    "body_too_deep": 400,
    "body_without_events": 400,
    # Rejected, one event: it can never be sent as it is.
    "event_not_an_object": 400,
    "integration_unclear": 400,
    "type_missing": 400,
    "type_unknown": 400,
    "properties_not_an_object": 400,
    "action_unknown": 400,
    "dedup_key_missing": 400,
    "event_name_missing": 400,
    "source_missing": 400,
    "source_not_text": 400,
    "timestamp_too_old": 400,
    "pagerduty_rejected": 400,
    # Rejected, in the queue: somebody else's message.
    "message_unreadable": 400,
    # Deferred: PagerDuty cannot take it now.
    "pagerduty_rate_limited": 429,
    "pagerduty_unavailable": 503,
    "pagerduty_unreachable": 503,
    "pagerduty_timeout": 504,
    "out_of_time": 504,
    "held_back": 503,
    # Deferred: something of ours is wrong. Never the event's fault, so never final.
    "pagerduty_unexpected": 503,
    "routing_key_missing": 503,
    "routing_key_refused": 503,
    "webhook_token_missing": 503,
    "secrets_unavailable": 503,
    "queue_unavailable": 503,
    "settings_invalid": 500,
    "internal_error": 500,
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """The last call to PagerDuty for an event: its status (None: no answer), its seconds, and how many it was."""

    status: int | None
    seconds: float
    calls: int


class NotSentError(Exception):
    """An event, or a whole request, that is not sent; `code` is a key of STATUS_OF, `message` is for people.

    `exchange` is there when PagerDuty was called for it.
    """

    outcome: ClassVar[str]
    exchange: Exchange | None = None

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        """Take the status from the code unless another event's fate decides it (`held_back`)."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or STATUS_OF[code]


class Ignored(NotSentError):
    """There is nothing to send: answered 200."""

    outcome = "ignored"


class Rejected(NotSentError):
    """It can never be sent as it is: answered 4xx, and RudderStack gives it up."""

    outcome = "rejected"


class Deferred(NotSentError):
    """It cannot be sent now: answered 429 or 5xx, and RudderStack sends it again."""

    outcome = "deferred"
