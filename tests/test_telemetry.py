"""The line of an event: what it says, the metrics that CloudWatch reads out of it, and what it leaves out."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import telemetry
from delivery import Job
from errors import Deferred, Exchange, Rejected
from local.metrics import Metric, read, read_all

# One column of dimensions is the stack alone, the other one below it the PagerDuty service and the kind.
STACK = ("service",)
KIND = ("service", "pagerduty_service", "kind")

TRIGGER = Job("alert", b"{}", "disk-full", "m-1", "trigger", datetime(2026, 1, 31, 12, tzinfo=UTC))
CHANGE = Job("change", b"{}", None, "m-2")
TAKEN = Exchange(202, 0.1234, 1)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be a minute and a half after the event."""
    monkeypatch.setattr("telemetry.time.time", lambda: datetime(2026, 1, 31, 12, 1, 30, tzinfo=UTC).timestamp())


def only_line(log: io.StringIO) -> dict[str, Any]:
    (line,) = log.getvalue().splitlines()
    content: dict[str, Any] = json.loads(line)
    return content


def values(log: io.StringIO, dimensions: tuple[str, ...] = STACK) -> dict[str, float]:
    """Return the metrics under the dimensions of these names."""
    return {
        metric.name: metric.value
        for metric in read_all(log.getvalue().splitlines())
        if metric.dimension_names == dimensions
    }


def test_the_line_of_an_event_says_who_it_is_and_what_became_of_it(log: io.StringIO) -> None:
    telemetry.begin("request-1")
    telemetry.log_event("default", "delivered", "delivered", TRIGGER, dedup_key="disk-full", exchange=TAKEN)

    line = only_line(log)
    del line["_aws"]
    assert line | {"timestamp": ""} == {
        "level": "INFO",
        "message": "event",
        "timestamp": "",
        "service": "service_undefined",
        "request_id": "request-1",
        "pagerduty_service": "default",
        "kind": "trigger",
        "outcome": "delivered",
        "code": "delivered",
        "message_id": "m-1",
        "dedup_key": "disk-full",
        "pagerduty_status": 202,
        "Delivered": 1,
        "EventAge": 90.0,
        "Received": 1,
        "PagerDuty2xx": 1,
        "PagerDutyTime": 123.4,
    }


def test_its_time_is_one_that_lambda_can_read(log: io.StringIO) -> None:
    telemetry.log_event("default", "ignored", "not_a_track_call", None)

    assert datetime.fromisoformat(only_line(log)["timestamp"]).utcoffset() == timedelta(0)


def test_the_other_lines_have_such_a_time_as_well(log: io.StringIO) -> None:
    telemetry.logger.warning("trouble")

    assert datetime.fromisoformat(only_line(log)["timestamp"]).tzinfo is not None


def test_metrics_are_counted_for_the_stack_and_for_each_service_and_kind(log: io.StringIO) -> None:
    telemetry.log_event("checkout", "delivered", "delivered", CHANGE, exchange=TAKEN)

    delivered = [metric for metric in read_all(log.getvalue().splitlines()) if metric.name == "Delivered"]
    stack = ("service", "service_undefined")
    assert delivered == [
        Metric("RudderStackPagerDuty", "Delivered", "Count", (stack,), 1),
        Metric(
            "RudderStackPagerDuty",
            "Delivered",
            "Count",
            (stack, ("pagerduty_service", "checkout"), ("kind", "change")),
            1,
        ),
    ]


@pytest.mark.parametrize("dimensions", [STACK, KIND])
@pytest.mark.parametrize(
    ("outcome", "code", "metric"),
    [
        ("delivered", "delivered", "Delivered"),
        ("queued", "queued", "Queued"),
        ("ignored", "not_a_track_call", "Ignored"),
        ("rejected", "source_missing", "Rejected"),
        ("deferred", "pagerduty_timeout", "Deferred"),
    ],
)
def test_each_outcome_has_a_metric(
    log: io.StringIO, outcome: str, code: str, metric: str, dimensions: tuple[str, ...]
) -> None:
    telemetry.log_event("default", outcome, code, None)

    assert values(log, dimensions) == {metric: 1, "Received": 1}


def test_what_came_again_is_not_delivered_a_second_time(log: io.StringIO) -> None:
    telemetry.log_event("default", "delivered", "already_delivered", TRIGGER)

    assert values(log) == {"Received": 1}


@pytest.mark.parametrize(("outcome", "code"), [("preview", "preview"), ("rejected", "source_missing")])
def test_a_preview_has_a_line_and_no_metrics(log: io.StringIO, outcome: str, code: str) -> None:
    telemetry.log_event("default", outcome, code, TRIGGER, warnings=("properties.severity: unknown",), preview=True)

    assert (only_line(log)["code"], values(log)) == (code, {})


def test_an_event_out_of_the_queue_was_received_before(log: io.StringIO) -> None:
    telemetry.log_event("default", "delivered", "delivered", CHANGE, receives=3)

    assert (only_line(log)["receives"], values(log)) == (3, {"Delivered": 1})


@pytest.mark.parametrize(
    ("status", "metric"),
    [
        (200, "PagerDuty2xx"),
        (302, "PagerDuty3xx"),
        (400, "PagerDuty4xx"),
        (429, "PagerDuty429"),
        (503, "PagerDuty5xx"),
        (None, "PagerDutyNoAnswer"),
    ],
)
def test_pagerdutys_answer_is_counted_by_its_class(log: io.StringIO, status: int | None, metric: str) -> None:
    telemetry.log_event("default", "deferred", "pagerduty_unexpected", TRIGGER, exchange=Exchange(status, 0.5, 1))

    assert values(log) == {"Received": 1, "Deferred": 1, metric: 1, "PagerDutyTime": 500.0}


def test_quick_retries_are_counted(log: io.StringIO) -> None:
    telemetry.log_event("default", "delivered", "delivered", CHANGE, exchange=Exchange(202, 0.1, 3))

    assert values(log)["Retries"] == 2


def test_a_repaired_event_says_which_fields_and_is_counted_once(log: io.StringIO) -> None:
    warnings = ("event: 2,000 characters, cut to 1,024", "properties.severity: unknown")
    telemetry.log_event("default", "queued", "queued", TRIGGER, warnings=warnings)

    assert only_line(log)["repaired"] == ["event", "properties.severity"]
    assert values(log)["Repaired"] == 1


def test_an_event_of_the_future_is_not_younger_than_new(log: io.StringIO) -> None:
    job = Job("change", b"{}", None, "m", None, datetime(2027, 1, 1, tzinfo=UTC))
    telemetry.log_event("default", "delivered", "delivered", job)

    assert values(log)["EventAge"] == 0


def test_only_a_delivered_event_has_an_age(log: io.StringIO) -> None:
    telemetry.log_event("default", "deferred", "pagerduty_timeout", TRIGGER)

    assert "EventAge" not in values(log)


def test_what_is_not_delivered_is_a_warning(log: io.StringIO) -> None:
    telemetry.log_event("default", "deferred", "pagerduty_timeout", TRIGGER)

    assert only_line(log)["level"] == "WARNING"


def test_a_long_message_id_is_shortened(log: io.StringIO) -> None:
    telemetry.log_event("default", "queued", "queued", Job("change", b"{}", None, "m" * 1000))

    assert only_line(log)["message_id"] == "m" * 100


@pytest.mark.parametrize(
    ("error", "metric"),
    [
        (Rejected("unauthorized", ""), "Unauthorized"),
        (Rejected("body_not_json", ""), "Rejected"),
        (Deferred("secrets_unavailable", ""), "Deferred"),
    ],
)
def test_a_request_of_which_no_event_was_read_counts_for_the_stack_alone(
    log: io.StringIO, error: Any, metric: str
) -> None:
    telemetry.log_request(error)

    (found,) = read_all(log.getvalue().splitlines())
    assert (found.name, found.dimension_names, found.value) == (metric, STACK, 1)


class FullOnce(io.StringIO):
    """Cannot take the first line."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            self.full = False
            raise OSError("no space left on device")
        return super().write(text)


def test_a_line_that_cannot_be_written_is_a_bug_and_no_failure_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FullOnce()
    monkeypatch.setattr(telemetry.handler, "stream", log)
    telemetry.log_event("default", "delivered", "delivered", TRIGGER)

    assert only_line(log)["exception_type"] == "OSError"


# -- the reader of metrics, which must not be laxer than CloudWatch --------------------------------------------------


def line(**changes: Any) -> dict[str, Any]:
    metrics = [{"Name": "Delivered", "Unit": "Count"}]
    directive = {"Namespace": "N", "Dimensions": [["service"]], "Metrics": metrics}
    return {"_aws": {"Timestamp": 1, "CloudWatchMetrics": [directive]}, "service": "s", "Delivered": 1, **changes}


def test_the_reader_finds_the_metrics_of_a_line() -> None:
    assert read(json.dumps(line())) == [Metric("N", "Delivered", "Count", (("service", "s"),), 1)]


@pytest.mark.parametrize("text", ["START RequestId: 1", '{"level":"INFO"}', "[]"])
def test_a_line_without_metrics_has_none(text: str) -> None:
    assert read(text) == []


def without_timestamp(content: dict[str, Any]) -> None:
    del content["_aws"]["Timestamp"]


def with_too_many_metrics(content: dict[str, Any]) -> None:
    content["_aws"]["CloudWatchMetrics"][0]["Metrics"] *= 101


def with_too_many_dimensions(content: dict[str, Any]) -> None:
    content["_aws"]["CloudWatchMetrics"][0]["Dimensions"] = [["service"] * 31]


def with_an_empty_dimension(content: dict[str, Any]) -> None:
    content["service"] = " "


def with_a_text_as_value(content: dict[str, Any]) -> None:
    content["Delivered"] = "1"


def with_an_unknown_unit(content: dict[str, Any]) -> None:
    content["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Unit"] = "Pages"


@pytest.mark.parametrize(
    "damage",
    [
        without_timestamp,
        with_too_many_metrics,
        with_too_many_dimensions,
        with_an_empty_dimension,
        with_a_text_as_value,
        with_an_unknown_unit,
    ],
)
def test_what_cloudwatch_would_not_take_is_refused(damage: Callable[[dict[str, Any]], None]) -> None:
    content = line()
    damage(content)

    with pytest.raises(ValueError, match=r".+"):
        read(json.dumps(content))
