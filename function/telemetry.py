"""What the functions say about themselves: one line of JSON per event at its end, which carries its metrics as well.

CloudWatch reads the metrics out of the log (embedded metric format), so nothing is called for them:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
Never an event's content, a header or a secret: only what identifies the event and what became of it.
"""

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from event import Event
from outcome import Outcome, Status

NAMESPACE: Final = "RudderStackPagerDuty"
# How an event, or a request, ended; a preview is not counted.
_METRIC_OF_STATUS: Final[dict[Status, str]] = {
    "delivered": "Delivered",
    "queued": "Queued",
    "merged": "Merged",
    "ignored": "Ignored",
    "rejected": "Rejected",
    "deferred": "Deferred",
}
# From the least to the worst: what the line that stands for many says.
_SEVERITY: Final[tuple[Status, ...]] = ("preview", "ignored", "deferred", "rejected")
_ACCEPTED: Final = frozenset({"delivered", "queued"})
# Why an event was queued; every other reason is an answer of PagerDuty's, or none.
_METRIC_OF_REASON: Final = {
    "several_events": "QueuedBatch",
    "earlier_events_queued": "QueuedEarlierEvents",
    "rate_limit_delay": "QueuedRateLimit",
    "flow_control_unavailable": "QueuedFlowControl",
}
# Ours: the lines of one request about events that were not accepted. A request of a million bad events is one request.
MAX_LINES: Final = 100
# A messageId is a UUID; one that is not is shortened. A dedup key has 255 characters at most.
_LOGGED_CHARACTERS: Final = 255
_TOO_MANY_REQUESTS: Final = 429
# Every other metric is a count.
_UNITS: Final = {
    "EventAge": MetricUnit.Seconds,
    "QueueTime": MetricUnit.Seconds,
    "PagerDutyTime": MetricUnit.Milliseconds,
}

# Lambda takes the level of a line only together with a time as in RFC 3339:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
logger: Final = Logger(location=None, use_rfc3339=True, stream=sys.stdout)
# One for all lines, since to make one takes longer than to fill it; it is empty again after each.
_line: Final = EphemeralMetrics(namespace=NAMESPACE, service=logger.service)


def set_request_id(request_id: str) -> None:
    """Name the invocation to which all lines belong from now on."""
    logger.append_keys(request_id=request_id)


def log_event(  # noqa: PLR0913 -- what one line is made of
    outcome: Outcome,
    service: str | None,
    event: Event | None,
    *,
    is_known: bool,
    is_preview: bool = False,
    receive_count: int | None = None,
    queue_time: float | None = None,
) -> None:
    """Write the line of one event: who it is, what became of it, and the metrics of both, unless it is a preview.

    `event` is None when it was refused before it was one, `service` when it could not be told. `is_known` tells whether
    the PagerDuty service has a routing key: a name that somebody made up would cost as much as a real one.
    `receive_count` and `queue_time` (seconds) are the queue's, None at the API.
    """
    type_name = event.type_name if event else "unknown"
    fields = {
        "pagerduty_service": service,
        "event_type": type_name,
        "status": outcome.status,
        "code": outcome.code,
        "detail": outcome.detail,
        "reason": outcome.reason,
        "without_lease": outcome.without_lease or None,
        "message_id": outcome.message_id and outcome.message_id[:_LOGGED_CHARACTERS],
        "dedup_key": outcome.dedup_key and outcome.dedup_key[:_LOGGED_CHARACTERS],
        "receive_count": receive_count,
        "repaired": [warning.partition(":")[0] for warning in outcome.warnings] or None,
        "pagerduty_status": outcome.call and outcome.call.status,
    }
    metrics = {} if is_preview else _metrics(outcome, event, receive_count, queue_time)
    _write(
        "event",
        fields,
        metrics,
        {"pagerduty_service": service, "event_type": type_name} if service and is_known else {},
    )


def log_events(
    outcomes: Sequence[Outcome],
    mapped: Sequence[Event | Outcome],
    service: str,
    knows: Callable[[str], bool],
    *,
    is_preview: bool,
) -> None:
    """Write the lines of a request's events: one for each that was accepted, and of the others 100 and a count.

    `service` is the request's PagerDuty service; `knows` tells whether one has a routing key.
    """
    lines = 0
    left_out: Counter[Status] = Counter()
    for outcome, item in zip(outcomes, mapped, strict=True):
        if outcome.status not in _ACCEPTED:
            lines += 1
            if lines > MAX_LINES:
                left_out[outcome.status] += 1
                continue
        event = item if isinstance(item, Event) else None
        its_service = event.service if event else service
        log_event(outcome, its_service, event, is_known=knows(its_service), is_preview=is_preview)
    if left_out:
        number = left_out.total()
        fields = {"pagerduty_service": service, "status": max(left_out, key=_SEVERITY.index), "left_out": number}
        metrics: dict[str, float] = {}
        if not is_preview:
            metrics = {"Received": number, **{_METRIC_OF_STATUS[status]: count for status, count in left_out.items()}}
        _write("more events", fields, metrics, {})


def log_request(outcome: Outcome, *, is_preview: bool) -> None:
    """Write the line of a request of which no event was looked at; its metrics have no dimension of the caller's.

    A preview has none at all: whoever tries a wrong secret on purpose wakes nobody.
    """
    metrics: dict[str, float] = {}
    if not is_preview:
        metrics = {"Unauthorized" if outcome.code == "unauthorized" else _METRIC_OF_STATUS[outcome.status]: 1}
    fields = {"status": outcome.status, "code": outcome.code, "detail": outcome.detail}
    _write("request", fields, metrics, {})


def log_flow_control_error(code: str) -> None:
    """Log and count that DynamoDB did not answer a call of flow control."""
    fields = {"status": "deferred", "code": "flow_control_unavailable", "detail": f"DynamoDB: {code}"}
    _write("flow control", fields, {"FlowControlErrors": 1}, {})


def log_without_lease(event: Event) -> None:
    """Log that an event is about to be enqueued without a lease: the process may die before it writes its line."""
    fields = {
        "status": "deferred",
        "code": "flow_control_unavailable",
        "pagerduty_service": event.service,
        "without_lease": True,
        "message_id": event.message_id,
        "dedup_key": event.dedup_key,
    }
    _write("without lease", fields, {}, {})


def log_exception(error: Exception) -> Outcome:
    """Log where an exception came from, without its text, which may hold the event; tell the sender to come again."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error("Unexpected exception", extra={"exception_type": type(error).__name__, "places": places})
    return Outcome("internal_error", "The function failed, and not because of the event; it will be tried again")


def _write(message: str, fields: Mapping[str, Any], metrics: Mapping[str, float], dimensions: dict[str, str]) -> None:
    """Write a line, with its metrics for the stack and, below it, for the dimensions.

    Should that fail, what became of the event stays what it was.
    """
    try:
        present = {name: value for name, value in fields.items() if value is not None}
        is_warning = fields["status"] in {"rejected", "deferred"}
        if not metrics:
            (logger.warning if is_warning else logger.info)(message, extra=present)
            return
        for name, value in metrics.items():
            _line.add_metric(name, _UNITS.get(name, MetricUnit.Count), value)
        if dimensions:
            _line.add_dimensions(service=logger.service, **dimensions)
        present |= {
            "level": "WARNING" if is_warning else "INFO",
            "message": message,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": logger.get_current_keys().get("request_id"),
        }
        for name, value in present.items():
            _line.add_metadata(name, value)
        _line.flush_metrics()
    except Exception as error:  # noqa: BLE001 -- PagerDuty has the event or has not, whatever the log does
        _line.clear_metrics()
        log_exception(error)


def _metrics(
    outcome: Outcome, event: Event | None, receive_count: int | None, queue_time: float | None
) -> dict[str, float]:
    metrics: dict[str, float] = {_METRIC_OF_STATUS[outcome.status]: 1}
    if receive_count is None:
        metrics["Received"] = 1
        if outcome.is_urgent:
            metrics["Urgent"] = 1
    if outcome.status == "queued" and outcome.reason:
        metrics[_METRIC_OF_REASON.get(outcome.reason, "QueuedPagerDuty")] = 1
    if queue_time is not None:
        metrics["QueueTime"] = queue_time
    if outcome.status == "delivered" and event and event.occurred_at:
        # A sender's clock that is ahead of ours makes no event younger than new.
        metrics["EventAge"] = round(max(0.0, time.time() - event.occurred_at.timestamp()), 3)
    if outcome.warnings:
        metrics["Repaired"] = 1
    if call := outcome.call:
        metrics[_answer_metric(call.status)] = 1
        metrics["PagerDutyTime"] = round(call.seconds * 1000, 1)
        if call.attempts > 1:
            metrics["Retries"] = call.attempts - 1
    return metrics


def _answer_metric(status: int | None) -> str:
    if status is None:
        return "PagerDutyNoResponse"
    return "PagerDuty429" if status == _TOO_MANY_REQUESTS else f"PagerDuty{status // 100}xx"
