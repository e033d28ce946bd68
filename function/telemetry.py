"""What the functions say about themselves: one line of JSON per event at its end, which carries its metrics as well.

CloudWatch reads the metrics out of the log (embedded metric format), so nothing is called for them:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
Never an event's content, a header or a secret: only what identifies the event and what became of it.
"""

import functools
import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from errors import Deferred, Exchange, NotSentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from delivery import Job

NAMESPACE: Final = "RudderStackPagerDuty"
# How an event, or a request, ended. One that was delivered before, in a batch that came again, has been counted.
_METRIC_OF_OUTCOME: Final = {
    "delivered": "Delivered",
    "queued": "Queued",
    "ignored": "Ignored",
    "rejected": "Rejected",
    "deferred": "Deferred",
}
_NOT_COUNTED: Final = frozenset({"already_delivered"})
# A messageId is a UUID; one that is not is shortened.
_LOGGED_CHARACTERS: Final = 100
_TOO_MANY_REQUESTS: Final = 429
# Every other metric is a count.
_UNITS: Final = {"EventAge": MetricUnit.Seconds, "PagerDutyTime": MetricUnit.Milliseconds}
_REMEMBERED_DIRECTIVES: Final = 512

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))

# For what belongs to no event. Lambda takes the level of a line only together with a time as in RFC 3339:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
handler: Final = logging.StreamHandler(sys.stdout)
logger: Final = Logger(location=None, use_rfc3339=True, logger_handler=handler)
_invocation: Final[dict[str, str]] = {}


def begin(request_id: str) -> None:
    """Name the invocation to which all lines belong from now on."""
    _invocation["request_id"] = request_id
    logger.append_keys(request_id=request_id)


def log_event(  # noqa: PLR0913 -- what one line is made of
    service: str,
    outcome: str,
    code: str,
    job: "Job | None",
    *,
    dedup_key: str | None = None,
    warnings: "Sequence[str]" = (),
    exchange: Exchange | None = None,
    preview: bool = False,
    receives: int | None = None,
) -> None:
    """Write the line of one event: who it is, what became of it, and the metrics of both, unless it is a preview.

    `job` is None when the event could not be read. `receives` is how often the queue handed it out, None at the API.
    """
    kind = (job.action or job.kind) if job else "unknown"
    fields = {
        "pagerduty_service": service,
        "kind": kind,
        "outcome": outcome,
        "code": code,
        "message_id": job.message_id[:_LOGGED_CHARACTERS] if job and job.message_id else None,
        "dedup_key": dedup_key,
        "receives": receives,
        "repaired": [warning.partition(":")[0] for warning in warnings] or None,
        "pagerduty_status": exchange and exchange.status,
    }
    _write("event", fields, {} if preview else _metrics(outcome, code, job, warnings, exchange, receives))


def log_request(error: NotSentError, *, preview: bool = False) -> None:
    """Write the line of a request of which no event was looked at; its metrics have no dimension of the caller's.

    A preview has none at all: whoever tries a wrong secret on purpose wakes nobody.
    """
    metrics: dict[str, float] = {}
    if not preview:
        metrics = {"Unauthorized": 1} if error.code == "unauthorized" else _outcome_metric(error.outcome, error.code)
    _write("request", {"outcome": error.outcome, "code": error.code}, metrics)


def bug(error: Exception) -> Deferred:
    """Log where a bug is, without the exception's text, which may hold the event; tell the sender to come again."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error("A bug", extra={"exception_type": type(error).__name__, "places": places})
    return Deferred("internal_error", "The function failed, and not because of the event; it will be tried again")


def _write(message: str, fields: dict[str, Any], metrics: dict[str, float]) -> None:
    """Write a line; should that fail, what became of the event stays what it was."""
    try:
        now = time.time()
        line: dict[str, Any] = {
            "level": "WARNING" if fields["outcome"] in {"rejected", "deferred"} else "INFO",
            "message": message,
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "service": logger.service,
            **_invocation,
        }
        line |= {name: value for name, value in fields.items() if value is not None}
        text = _ENCODER.encode(line | metrics)
        if metrics:
            directives = _directives(tuple(metrics), fields.get("pagerduty_service"), fields.get("kind"))
            text = f'{text[:-1]},"_aws":{{"Timestamp":{int(now * 1000)},"CloudWatchMetrics":{directives}}}}}'
        handler.stream.write(text + "\n")
        handler.flush()
    except Exception as error:  # noqa: BLE001 -- PagerDuty has the event or has not, whatever the log does
        bug(error)


# -- metrics ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(_REMEMBERED_DIRECTIVES)
def _directives(names: tuple[str, ...], pagerduty_service: str | None, kind: str | None) -> str:
    """Write, in JSON, what tells CloudWatch which of a line's members are metrics and which are their dimensions.

    The dimensions are this stack and, below it, the PagerDuty service and the kind. Written once for all lines that
    have the same, because it is longer than the line itself.
    """
    writer = EphemeralMetrics(namespace=NAMESPACE, service=logger.service)
    for name in names:
        writer.add_metric(name, _UNITS.get(name, MetricUnit.Count), 0)
    writer.add_dimension("service", logger.service)
    if pagerduty_service and kind:
        writer.add_dimensions(service=logger.service, pagerduty_service=pagerduty_service, kind=kind)
    return _ENCODER.encode(writer.serialize_metric_set()["_aws"]["CloudWatchMetrics"])


def _metrics(  # noqa: PLR0913, PLR0917 -- what log_event was told
    outcome: str,
    code: str,
    job: "Job | None",
    warnings: "Sequence[str]",
    exchange: Exchange | None,
    receives: int | None,
) -> dict[str, float]:
    metrics = _outcome_metric(outcome, code)
    if "Delivered" in metrics and job and job.occurred_at:
        # A sender's clock that is ahead of ours makes no event younger than new.
        metrics["EventAge"] = round(max(0.0, time.time() - job.occurred_at.timestamp()), 3)
    if receives is None:
        metrics["Received"] = 1
    if warnings:
        metrics["Repaired"] = 1
    if exchange:
        metrics[_answer_metric(exchange.status)] = 1
        metrics["PagerDutyTime"] = round(exchange.seconds * 1000, 1)
        if exchange.calls > 1:
            metrics["Retries"] = exchange.calls - 1
    return metrics


def _outcome_metric(outcome: str, code: str) -> dict[str, float]:
    name = None if code in _NOT_COUNTED else _METRIC_OF_OUTCOME.get(outcome)
    return {name: 1} if name else {}


def _answer_metric(status: int | None) -> str:
    if status is None:
        return "PagerDutyNoAnswer"
    return "PagerDuty429" if status == _TOO_MANY_REQUESTS else f"PagerDuty{status // 100}xx"
