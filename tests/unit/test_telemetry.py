"""The line of an event: what it says, the metrics that CloudWatch reads out of it, and what it leaves out."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import telemetry
from event import Event
from local.metrics import Metric, read, read_all
from outcome import Call, Outcome

# One column of dimensions is the stack alone, the other one below it the PagerDuty service and the kind.
STACK = ("service",)
KIND = ("service", "pagerduty_service", "event_type")

TRIGGER = Event(
    "default", "alert", {}, "trigger", "disk-full", "m-1", datetime(2026, 1, 31, 12, tzinfo=UTC), ("event: cut",)
)
CHANGE = Event("checkout", "change", {}, message_id="m-2")
TAKEN = Call(202, 0.1234, 1)


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


def log_event(code: str, event: Event | None = CHANGE, call: Call | None = None, **more: Any) -> None:
    outcome = Outcome(code, "", call=call)
    outcome = outcome.for_event(event) if event else outcome
    telemetry.log_event(outcome, event.service if event else "default", event, **{"is_known": True, **more})


def test_the_line_of_an_event_says_who_it_is_and_what_became_of_it(log: io.StringIO) -> None:
    telemetry.set_request_id("request-1")
    log_event("delivered", TRIGGER, TAKEN)

    line = only_line(log)
    del line["_aws"]
    assert line | {"timestamp": ""} == {
        "level": "INFO",
        "message": "event",
        "timestamp": "",
        "service": "service_undefined",
        "request_id": "request-1",
        "pagerduty_service": "default",
        "event_type": "trigger",
        "status": "delivered",
        "code": "delivered",
        "message_id": "m-1",
        "dedup_key": "disk-full",
        "repaired": ["event"],
        "pagerduty_status": 202,
        "Delivered": [1],
        "EventAge": [90.0],
        "Received": [1],
        "Repaired": [1],
        "PagerDuty2xx": [1],
        "PagerDutyTime": [123.4],
    }


def test_its_time_is_one_that_lambda_can_read(log: io.StringIO) -> None:
    log_event("not_a_track_call", None)

    assert datetime.fromisoformat(only_line(log)["timestamp"]).utcoffset() == timedelta(0)


def test_the_other_lines_have_such_a_time_as_well(log: io.StringIO) -> None:
    telemetry.logger.warning("trouble")

    assert datetime.fromisoformat(only_line(log)["timestamp"]).tzinfo is not None


def test_metrics_are_counted_for_the_stack_and_for_each_service_and_kind(log: io.StringIO) -> None:
    log_event("delivered", CHANGE, TAKEN)

    delivered = [metric for metric in read_all(log.getvalue().splitlines()) if metric.name == "Delivered"]
    stack = ("service", "service_undefined")
    assert delivered == [
        Metric("RudderStackPagerDuty", "Delivered", "Count", (stack,), 1),
        Metric(
            "RudderStackPagerDuty",
            "Delivered",
            "Count",
            (stack, ("pagerduty_service", "checkout"), ("event_type", "change")),
            1,
        ),
    ]


def test_a_service_that_somebody_made_up_is_no_dimension(log: io.StringIO) -> None:
    log_event("routing_key_missing", CHANGE, is_known=False)

    assert only_line(log)["pagerduty_service"] == "checkout"
    assert {metric.dimension_names for metric in read_all(log.getvalue().splitlines())} == {STACK}


@pytest.mark.parametrize("dimensions", [STACK, KIND])
@pytest.mark.parametrize(
    ("code", "metric"),
    [
        ("delivered", "Delivered"),
        ("queued", "Queued"),
        ("not_a_track_call", "Ignored"),
        ("source_missing", "Rejected"),
        ("pagerduty_timeout", "Deferred"),
    ],
)
def test_each_outcome_has_a_metric(log: io.StringIO, code: str, metric: str, dimensions: tuple[str, ...]) -> None:
    log_event(code, None)

    assert values(log, dimensions) == {metric: 1, "Received": 1}


@pytest.mark.parametrize(("code", "level"), [("preview", "INFO"), ("source_missing", "WARNING")])
def test_a_preview_has_a_line_and_no_metrics(log: io.StringIO, code: str, level: str) -> None:
    log_event(code, TRIGGER, is_preview=True)

    line = only_line(log)
    assert (line["code"], line["level"], values(log)) == (code, level, {})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", line["timestamp"])


def test_an_event_out_of_the_queue_was_received_before(log: io.StringIO) -> None:
    log_event("delivered", CHANGE, receive_count=3, queue_time=12.5)

    assert (only_line(log)["receive_count"], values(log)) == (3, {"Delivered": 1, "QueueTime": 12.5})


@pytest.mark.parametrize(
    ("status", "metric"),
    [
        (200, "PagerDuty2xx"),
        (302, "PagerDuty3xx"),
        (400, "PagerDuty4xx"),
        (429, "PagerDuty429"),
        (503, "PagerDuty5xx"),
        (None, "PagerDutyNoResponse"),
    ],
)
def test_pagerdutys_answer_is_counted_by_its_class(log: io.StringIO, status: int | None, metric: str) -> None:
    log_event("pagerduty_unexpected", CHANGE, Call(status, 0.5, 1))

    assert values(log) == {"Received": 1, "Deferred": 1, metric: 1, "PagerDutyTime": 500.0}


@pytest.mark.parametrize(("attempts", "retries"), [(1, None), (2, 1), (3, 2)])
def test_quick_retries_are_counted(log: io.StringIO, attempts: int, retries: int | None) -> None:
    log_event("delivered", CHANGE, Call(202, 0.1, attempts))

    assert values(log).get("Retries") == retries


def test_a_repaired_event_says_which_fields_and_is_counted_once(log: io.StringIO) -> None:
    warnings = ("event: 2,000 characters, cut to 1,024", "properties.severity: unknown")
    log_event("queued", replace(CHANGE, warnings=warnings))

    assert only_line(log)["repaired"] == ["event", "properties.severity"]
    assert values(log)["Repaired"] == 1


def test_an_event_of_the_future_is_not_younger_than_new(log: io.StringIO) -> None:
    log_event("delivered", replace(CHANGE, occurred_at=datetime(2027, 1, 1, tzinfo=UTC)))

    assert values(log)["EventAge"] == 0


def test_only_a_delivered_event_has_an_age(log: io.StringIO) -> None:
    log_event("pagerduty_timeout", TRIGGER)

    assert "EventAge" not in values(log)


def test_what_is_not_delivered_is_a_warning(log: io.StringIO) -> None:
    log_event("pagerduty_timeout", TRIGGER)

    assert only_line(log)["level"] == "WARNING"


def test_a_long_message_id_is_shortened(log: io.StringIO) -> None:
    log_event("queued", replace(CHANGE, message_id="m" * 1000))

    assert only_line(log)["message_id"] == "m" * 255


def test_of_a_request_of_very_many_bad_events_a_hundred_have_a_line_and_the_rest_are_counted(
    log: io.StringIO,
) -> None:
    outcomes = [Outcome("queued", ""), *[Outcome("type_missing", "")] * 150, *[Outcome("not_a_track_call", "")] * 60]
    mapped: list[Event | Outcome] = [CHANGE, *outcomes[1:], CHANGE]
    telemetry.log_events([*outcomes, Outcome("queued", "")], mapped, "default", lambda _: True, is_preview=False)

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["status"] for line in lines] == ["queued", *["rejected"] * 100, "queued", "rejected"]
    assert (lines[-1]["message"], lines[-1]["left_out"]) == ("more events", 110)
    totals: Counter[str] = Counter()
    for metric in read_all(log.getvalue().splitlines()):
        if metric.dimension_names == STACK:
            totals[metric.name] += round(metric.value)
    assert totals == {"Received": 212, "Queued": 2, "Rejected": 150, "Ignored": 60}


def test_of_a_preview_of_very_many_events_nothing_is_counted(log: io.StringIO) -> None:
    outcomes = [Outcome("preview", "")] * 150
    telemetry.log_events(outcomes, [CHANGE] * 150, "default", lambda _: True, is_preview=True)

    assert (len(log.getvalue().splitlines()), values(log)) == (101, {})


@pytest.mark.parametrize(
    ("code", "metric"),
    [("unauthorized", "Unauthorized"), ("body_not_json", "Rejected"), ("secrets_unavailable", "Deferred")],
)
def test_a_request_of_which_no_event_was_read_counts_for_the_stack_alone(
    log: io.StringIO, code: str, metric: str
) -> None:
    telemetry.log_request(Outcome(code, ""), is_preview=False)

    (found,) = read_all(log.getvalue().splitlines())
    assert (found.name, found.dimension_names, found.value) == (metric, STACK, 1)


def test_what_is_for_the_log_alone_is_in_the_line_of_the_request(log: io.StringIO) -> None:
    telemetry.log_request(Outcome("secrets_unavailable", "later", "SSM parameter /p: AccessDenied"), is_preview=False)

    assert only_line(log)["detail"] == "SSM parameter /p: AccessDenied"


def test_a_line_that_cannot_be_written_is_no_failure_of_the_event(log: io.StringIO) -> None:
    log_event("delivered", TRIGGER, queue_time="soon")

    assert only_line(log)["exception_type"] == "MetricValueError"


def test_a_line_that_cannot_be_written_leaves_nothing_for_the_next_one(log: io.StringIO) -> None:
    log_event("delivered", TRIGGER, queue_time="soon")
    log.truncate(log.seek(0))
    log_event("queued", CHANGE)

    assert (values(log), "dedup_key" in only_line(log)) == ({"Queued": 1, "Received": 1}, False)


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
