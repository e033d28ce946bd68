"""What became of an event, or of a whole request: every outcome has a stable code, and the code decides what follows.

RudderStack gives an event up after any 4xx but 408 and 429, and sends it again after 408, 429 and 5xx (rudder-server,
`router/misc.go`), so the status is a decision about somebody's page, not a formality.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

from event import Event

Status = Literal["delivered", "queued", "merged", "preview", "ignored", "rejected", "deferred"]

# The documentation explains each under "Troubleshooting by code"; a test keeps the two together.
CODES: Final[dict[str, tuple[Status, int]]] = {
    "delivered": ("delivered", 200),
    "queued": ("queued", 200),
    # In the queue: PagerDuty would show nothing of it.
    "merged": ("merged", 200),
    "preview": ("preview", 200),
    # Nothing to do, and nothing wrong.
    "not_for_pagerduty": ("ignored", 200),
    "not_a_track_call": ("ignored", 200),
    # The whole request: it cannot succeed however often it is sent.
    "unauthorized": ("rejected", 401),
    "no_such_service": ("rejected", 404),
    "query_unknown": ("rejected", 400),
    "preview_invalid": ("rejected", 400),
    "body_too_large": ("rejected", 413),
    "too_many_events": ("rejected", 413),
    "body_empty": ("rejected", 400),
    "body_not_base64": ("rejected", 400),
    "gzip_damaged": ("rejected", 400),
    "body_not_utf8": ("rejected", 400),
    "body_not_json": ("rejected", 400),
    "body_too_deep": ("rejected", 400),
    "body_without_events": ("rejected", 400),
    # One event: it can never be sent as it is.
    "event_not_an_object": ("rejected", 400),
    "integration_invalid": ("rejected", 400),
    "type_missing": ("rejected", 400),
    "type_unknown": ("rejected", 400),
    "properties_not_an_object": ("rejected", 400),
    "action_unknown": ("rejected", 400),
    "dedup_key_missing": ("rejected", 400),
    "event_name_missing": ("rejected", 400),
    "source_missing": ("rejected", 400),
    "source_not_text": ("rejected", 400),
    "timestamp_too_old": ("rejected", 400),
    "pagerduty_rejected": ("rejected", 400),
    # In the queue: a message that the API function did not write.
    "message_unreadable": ("rejected", 400),
    # The same in a batch whose other events were queued: to repeat it would repeat those.
    "event_failed": ("rejected", 400),
    # PagerDuty does not accept it now. A single event is then enqueued, and this is the reason; no 429, which would be
    # retried for 30 days, is ever the answer.
    "pagerduty_rate_limited": ("deferred", 503),
    "pagerduty_unavailable": ("deferred", 503),
    "pagerduty_unreachable": ("deferred", 503),
    "pagerduty_timeout": ("deferred", 504),
    "pagerduty_unexpected": ("deferred", 503),
    "deadline_exceeded": ("deferred", 504),
    # Flow control: PagerDuty was not asked.
    "rate_limit_delay": ("deferred", 503),
    "earlier_events_queued": ("deferred", 503),
    "flow_control_unavailable": ("deferred", 503),
    # Our configuration or AWS is at fault. Never the event, so never final.
    "routing_key_missing": ("deferred", 503),
    "routing_key_refused": ("deferred", 503),
    "webhook_token_missing": ("deferred", 503),
    "secrets_unavailable": ("deferred", 503),
    "queue_unavailable": ("deferred", 503),
    "earlier_event_deferred": ("deferred", 503),
    "settings_invalid": ("deferred", 500),
    "internal_error": ("deferred", 500),
}


@dataclass(frozen=True, slots=True)
class Call:
    """The last call to PagerDuty for an event: its status (None: no answer), its seconds, and how many there were."""

    status: int | None
    seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event: `code` is a key of CODES, `message` is for the sender, `detail` for the log alone.

    `message_id` and `dedup_key` say whose outcome it is, `warnings` what was repaired, `call` how PagerDuty answered
    when it was called. `content` is the PagerDuty event, in a preview only. `reason` is the code for which an event was
    enqueued, or for which a page was posted although earlier events are queued; `is_urgent` says that flow control
    lets it go ahead, and `without_lease` that the order of its incident is not kept, since DynamoDB did not answer.
    """

    code: str
    message: str
    detail: str | None = None
    message_id: str | None = None
    dedup_key: str | None = None
    warnings: tuple[str, ...] = ()
    call: Call | None = None
    content: dict[str, Any] | None = None
    reason: str | None = None
    is_urgent: bool = False
    without_lease: bool = False

    @property
    def status(self) -> Status:
        """How it ended, which is the answer's `status`."""
        return CODES[self.code][0]

    @property
    def http_status(self) -> int:
        """The status that tells RudderStack the truth: done, never, or again."""
        return CODES[self.code][1]

    def for_event(self, event: Event) -> Self:
        """Say whose outcome it is."""
        return replace(self, message_id=event.message_id, dedup_key=event.dedup_key, warnings=event.warnings)


class ProcessingError(Exception):
    """Ends the way of an event, or of a request; `outcome` says why."""

    def __init__(self, code: str, message: str, *, detail: str | None = None) -> None:
        """Take the code, a key of CODES, and the words for people; `detail` is for the log alone."""
        super().__init__(message)
        self.outcome = Outcome(code, message, detail)
