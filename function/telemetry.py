"""The log: one line of JSON for each event, written when it is done, with its metrics.

CloudWatch reads the metrics from the log (embedded metric format), so they cost no call:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
A line never has an event's content, a header or a secret.
"""

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from event import Event
from outcome import Outcome, Status
from pacing import Waiting

NAMESPACE: Final = "RudderStackPagerDuty"
# Why an event was queued; every other reason is PagerDuty's answer, or that there was none.
_METRIC_OF_REASON: Final = {
    "several_events": "QueuedBatch",
    "earlier_events_queued": "QueuedEarlierEvents",
    "rate_limit_delay": "QueuedRateLimit",
    "flow_control_unavailable": "QueuedFlowControl",
}
# Lines of one request about events that were not accepted: a million bad events are one request's.
MAX_LINES: Final = 100
# A messageId is a UUID; one that is longer is cut. A dedup key has 255 characters at most.
_MAX_ID_CHARACTERS: Final = 255
# Every other metric is a count.
_UNITS: Final = {
    "EventAge": MetricUnit.Seconds,
    "QueueTime": MetricUnit.Seconds,
    "PagerDutyTime": MetricUnit.Milliseconds,
}

# Lambda reads the level of a line only together with a time as in RFC 3339:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
logger: Final = Logger(location=None, use_rfc3339=True, stream=sys.stdout)
# One for all lines, since it takes longer to make than to fill; it is empty again after each.
_line: Final = EphemeralMetrics(namespace=NAMESPACE, service=logger.service)


def set_request_id(request_id: str) -> None:
    """Add the id of the invocation to all lines from now on."""
    logger.append_keys(request_id=request_id)


def log_event(  # noqa: PLR0913 -- two of them have defaults
    outcome: Outcome,
    service: str | None,
    event: Event | None,
    *,
    is_known: bool,
    is_preview: bool = False,
    waiting: Waiting | None = None,
) -> None:
    """Write the line of one event, with its metrics unless it is a preview.

    `event` is None if it was refused before it was mapped, `service` if it is not known. `is_known` means that the
    PagerDuty service has a routing key: there are no dimensions, which cost money, for made-up names.
    `waiting` is what the queue knows, None at the API.
    """
    event_type = event.type_name if event else "unknown"
    fields = {
        "pagerduty_service": service,
        "event_type": event_type,
        "status": outcome.status,
        "code": outcome.code,
        "detail": outcome.detail,
        "reason": outcome.reason,
        "without_lease": outcome.without_lease or None,
        "message_id": outcome.message_id and outcome.message_id[:_MAX_ID_CHARACTERS],
        "dedup_key": outcome.dedup_key and outcome.dedup_key[:_MAX_ID_CHARACTERS],
        "receive_count": waiting and waiting.receive_count,
        "repaired": [warning.partition(":")[0] for warning in outcome.warnings] or None,
        "pagerduty_status": outcome.call and outcome.call.status,
    }
    dimensions = {"pagerduty_service": service, "event_type": event_type} if service and is_known else {}
    _write("event", fields, {} if is_preview else _metrics(outcome, event, waiting), dimensions)


def log_events(
    outcomes: Sequence[Outcome],
    mapped: Sequence[Event | Outcome],
    service: str,
    has_routing_key: Callable[[str], bool],
    *,
    is_preview: bool,
) -> None:
    """Write a line for each accepted event of a request, for 100 others, and one with the number of the rest."""
    refused = 0
    left_out: Counter[Status] = Counter()
    for outcome, item in zip(outcomes, mapped, strict=True):
        is_accepted = outcome.status in {"delivered", "queued"}
        refused += not is_accepted
        if not is_accepted and refused > MAX_LINES:
            left_out[outcome.status] += 1
            continue
        event = item if isinstance(item, Event) else None
        its_service = event.service if event else service
        log_event(outcome, its_service, event, is_known=has_routing_key(its_service), is_preview=is_preview)
    if left_out:
        worst = max(left_out, key=("preview", "ignored", "deferred", "rejected").index)
        counts = {status.capitalize(): number for status, number in left_out.items()}
        metrics = {} if is_preview else {"Received": left_out.total(), **counts}
        _write("more events", {"pagerduty_service": service, "status": worst, "left_out": left_out.total()}, metrics)


def log_request(outcome: Outcome, *, is_preview: bool) -> None:
    """Write the line of a refused request. A preview has no metrics, so that testing a wrong token raises no alarm."""
    metric = "Unauthorized" if outcome.code == "unauthorized" else outcome.status.capitalize()
    fields = {"status": outcome.status, "code": outcome.code, "detail": outcome.detail}
    _write("request", fields, {} if is_preview else {metric: 1})


def log_flow_control_error(error_code: str) -> None:
    """Log and count that DynamoDB did not answer a call of flow control."""
    fields = {"status": "deferred", "code": "flow_control_unavailable", "detail": f"DynamoDB: {error_code}"}
    _write("flow control", fields, {"FlowControlErrors": 1})


def log_without_lease(event: Event) -> None:
    """Log that an event is about to be enqueued without a lease: the process may die before it writes its line."""
    ids = {"pagerduty_service": event.service, "message_id": event.message_id, "dedup_key": event.dedup_key}
    fields = {"status": "deferred", "code": "flow_control_unavailable", "without_lease": True}
    _write("without lease", fields | ids, {})


def log_exception(error: Exception) -> Outcome:
    """Log where an exception was raised, without its text, which may hold the event; return the outcome."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error("Unexpected exception", extra={"exception_type": type(error).__name__, "places": places})
    return Outcome("internal_error", "The function failed, and not because of the event; it will be tried again")


def _write(
    message: str, fields: Mapping[str, Any], metrics: Mapping[str, float], dimensions: Mapping[str, str] | None = None
) -> None:
    """Write a line, with its metrics for the stack and also for the dimensions. An error is logged, and not raised."""
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
    except Exception as error:  # noqa: BLE001 -- the log must not change the outcome
        _line.clear_metrics()
        log_exception(error)


def _metrics(outcome: Outcome, event: Event | None, waiting: Waiting | None) -> dict[str, float]:
    metrics: dict[str, float] = {outcome.status.capitalize(): 1}
    if waiting:
        metrics["QueueTime"] = waiting.waited
    else:
        metrics["Received"] = 1
        if outcome.is_urgent:
            metrics["Urgent"] = 1
    if outcome.status == "queued" and outcome.reason:
        metrics[_METRIC_OF_REASON.get(outcome.reason, "QueuedPagerDuty")] = 1
    if outcome.status == "delivered" and event and event.occurred_at:
        # 0 if the sender's clock is ahead.
        metrics["EventAge"] = round(max(0.0, time.time() - event.occurred_at.timestamp()), 3)
    if outcome.warnings:
        metrics["Repaired"] = 1
    if call := outcome.call:
        answer = (
            "429"
            if call.status == HTTPStatus.TOO_MANY_REQUESTS
            else f"{call.status // 100}xx"
            if call.status
            else "NoResponse"
        )
        metrics |= {f"PagerDuty{answer}": 1, "PagerDutyTime": round(call.seconds * 1000, 1)}
        if call.attempts > 1:
            metrics["Retries"] = call.attempts - 1
    return metrics
