"""The line of an event: its fields, the metrics that CloudWatch reads from it, and what is left out."""

import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import telemetry
from event import Event
from outcome import Call, Code, Outcome
from pacing import Waiting
from tests.metrics import Metric, read_all
from tests.support import lines

# Each metric is counted for the stack, and below it for the PagerDuty service and the event's type.
STACK = ("service",)
TYPE = ("service", "pagerduty_service", "event_type")

TRIGGER = Event(
    "default", "alert", {}, "trigger", "disk-full", "m-1", datetime(2026, 1, 31, 12, tzinfo=UTC), ("event: cut",)
)
CHANGE = Event("checkout", "change", {}, message_id="m-2")
CALL = Call(None, 0, 1)  # without a response


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock to a minute and a half after the event."""
    monkeypatch.setattr("telemetry.time.time", lambda: datetime(2026, 1, 31, 12, 1, 30, tzinfo=UTC).timestamp())


def only_line(log: io.StringIO) -> dict[str, Any]:
    (line,) = lines(log)
    return line


def values(log: io.StringIO, dimensions: tuple[str, ...] = STACK) -> dict[str, float]:
    """Return the metrics under the dimensions of these names."""
    found = read_all(log.getvalue().splitlines())
    return {metric.name: metric.value for metric in found if metric.dimension_names == dimensions}


def log_event(outcome: Outcome, event: Event | None = CHANGE, **more: Any) -> None:
    outcome = outcome.for_event(event) if event else outcome
    telemetry.log_event(outcome, event.service if event else "default", event, **{"is_known": True, **more})


def test_the_line_of_an_event_identifies_it_and_says_what_happened(log: io.StringIO) -> None:
    telemetry.set_request_id("request-1")
    log_event(Outcome("delivered", "", call=Call(202, 0.1234, 2), is_urgent=True), TRIGGER)

    line = only_line(log)
    del line["_aws"]
    # Lambda reads the level of a line only together with such a time.
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {
        "level": "INFO",
        "message": "event",
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
        "Urgent": [1],
        "Repaired": [1],
        "PagerDuty2xx": [1],
        "PagerDutyTime": [123.4],
        "Retries": [1],
    }


def test_a_deferred_event_is_a_warning_with_its_details_and_no_age(log: io.StringIO) -> None:
    event = replace(TRIGGER, message_id="m" * 1000, dedup_key="k" * 1000, warnings=("event: cut", "a.b: unknown"))
    log_event(Outcome("pagerduty_timeout", "", detail="more", reason="queue_unavailable", without_lease=True), event)

    line = only_line(log)
    assert (line["level"], line["detail"], line["reason"], line["without_lease"]) == (
        ("WARNING", "more", "queue_unavailable", True)
    )
    assert (line["message_id"], line["dedup_key"], line["repaired"]) == ("m" * 255, "k" * 255, ["event", "a.b"])
    assert values(log) == {"Received": 1, "Deferred": 1, "Repaired": 1}


def test_metrics_are_counted_for_the_stack_and_for_each_service_and_type(log: io.StringIO) -> None:
    event = replace(CHANGE, occurred_at=TRIGGER.occurred_at)
    log_event(Outcome("delivered", "", call=Call(202, 0.5, 1)), event, waiting=Waiting(1, 2.0))

    stack = ("service", "service_undefined")
    both = (stack,), (stack, ("pagerduty_service", "checkout"), ("event_type", "change"))
    expected = [("Delivered", "Count", 1), ("QueueTime", "Seconds", 2.0), ("EventAge", "Seconds", 90.0)]
    expected += [("PagerDuty2xx", "Count", 1), ("PagerDutyTime", "Milliseconds", 500.0)]
    assert read_all(log.getvalue().splitlines()) == [
        Metric("RudderStackPagerDuty", name, unit, dimensions, value)
        for dimensions in both
        for name, unit, value in expected
    ]


@pytest.mark.parametrize(
    ("outcome", "metrics"),
    [
        (Outcome("merged", ""), {"Merged"}),
        (Outcome("not_a_track_call", ""), {"Ignored"}),
        (Outcome("source_missing", ""), {"Rejected"}),
        (Outcome("queued", "", reason="several_events"), {"Queued", "QueuedBatch"}),
        (Outcome("queued", "", reason="earlier_events_queued"), {"Queued", "QueuedEarlierEvents"}),
        (Outcome("queued", "", reason="rate_limit_delay"), {"Queued", "QueuedRateLimit"}),
        (Outcome("queued", "", reason="flow_control_unavailable"), {"Queued", "QueuedFlowControl"}),
        (Outcome("queued", "", reason="pagerduty_timeout"), {"Queued", "QueuedPagerDuty"}),
        (Outcome("pagerduty_rejected", "", call=Call(400, 0, 1)), {"Rejected", "PagerDuty4xx", "PagerDutyTime"}),
        (Outcome("pagerduty_rate_limited", "", call=Call(429, 0, 1)), {"Deferred", "PagerDuty429", "PagerDutyTime"}),
        (Outcome("pagerduty_timeout", "", call=CALL), {"Deferred", "PagerDutyNoResponse", "PagerDutyTime"}),
    ],
    ids=lambda value: f"{value.code} {value.reason or ''}" if isinstance(value, Outcome) else "",
)
def test_each_outcome_has_its_metrics(log: io.StringIO, outcome: Outcome, metrics: set[str]) -> None:
    log_event(outcome, None)

    assert values(log, TYPE).keys() == values(log).keys() == {"Received", *metrics}


@pytest.mark.parametrize(("code", "level"), [("preview", "INFO"), ("source_missing", "WARNING")])
def test_a_preview_has_a_line_and_no_metrics(log: io.StringIO, code: Code, level: str) -> None:
    log_event(Outcome(code, ""), TRIGGER, is_preview=True)

    line = only_line(log)
    assert (line["code"], line["level"], values(log)) == (code, level, {})
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None


def test_an_event_from_the_queue_is_not_counted_as_received_again(log: io.StringIO) -> None:
    log_event(Outcome("delivered", "", is_urgent=True), waiting=Waiting(3, 12.5))

    assert (only_line(log)["receive_count"], values(log)) == (3, {"Delivered": 1, "QueueTime": 12.5})


def test_the_age_of_an_event_from_the_future_is_zero(log: io.StringIO) -> None:
    log_event(Outcome("delivered", ""), replace(CHANGE, occurred_at=datetime(2027, 1, 1, tzinfo=UTC)))

    assert values(log)["EventAge"] == 0


def test_a_hundred_events_that_were_not_accepted_have_a_line_and_the_others_are_counted(log: io.StringIO) -> None:
    outcomes = [Outcome("queued", ""), *[Outcome("type_missing", "")] * 150, *[Outcome("not_a_track_call", "")] * 60]
    mapped: list[Event | Outcome] = [CHANGE, *outcomes[1:], CHANGE]
    services: list[str] = []

    def is_known(service: str) -> bool:
        services.append(service)
        return True

    telemetry.log_events([*outcomes, Outcome("queued", "")], mapped, "default", is_known, is_preview=False)

    written = lines(log)
    assert [line["status"] for line in written] == ["queued", *["rejected"] * 100, "queued", "rejected"]
    assert (written[-1]["message"], written[-1]["left_out"], written[-1]["level"]) == ("more events", 110, "WARNING")
    assert [line["pagerduty_service"] for line in written[-2:]] == ["checkout", "default"]
    assert services == ["checkout", *["default"] * 100, "checkout"]
    totals: Counter[str] = Counter()
    for metric in read_all(log.getvalue().splitlines()):
        if metric.dimension_names == STACK:
            totals[metric.name] += round(metric.value)
    assert totals == {"Received": 212, "Queued": 2, "Rejected": 150, "Ignored": 60}


def test_a_preview_of_many_events_is_not_counted(log: io.StringIO) -> None:
    telemetry.log_events([Outcome("preview", "")] * 150, [CHANGE] * 150, "default", lambda _: True, is_preview=True)

    written = lines(log)
    assert (len(written), written[-1]["status"], written[-1]["left_out"], values(log)) == (101, "preview", 50, {})


@pytest.mark.parametrize(
    ("code", "metric"),
    [("unauthorized", "Unauthorized"), ("body_not_json", "Rejected"), ("secrets_unavailable", "Deferred")],
)
def test_a_request_that_was_not_read_counts_for_the_stack_alone(log: io.StringIO, code: Code, metric: str) -> None:
    telemetry.log_request(Outcome(code, "later", "SSM: AccessDenied"), is_preview=False)

    (found,) = read_all(log.getvalue().splitlines())
    assert (found.name, found.dimension_names, found.value) == (metric, STACK, 1)
    assert (only_line(log)["message"], only_line(log)["detail"]) == ("request", "SSM: AccessDenied")


def test_a_failure_of_flow_control_is_counted(log: io.StringIO) -> None:
    telemetry.log_flow_control_error("Throttling")

    names = ("message", "code", "detail", "level")
    assert [only_line(log)[name] for name in names] == [
        *("flow control", "flow_control_unavailable", "DynamoDB: Throttling", "WARNING")
    ]
    assert values(log) == {"FlowControlErrors": 1}


def test_an_event_without_a_lease_can_be_found(log: io.StringIO) -> None:
    telemetry.log_without_lease(TRIGGER)

    names = ("message", "code", "pagerduty_service", "message_id", "dedup_key", "without_lease", "level")
    assert [only_line(log)[name] for name in names] == [
        *("without lease", "flow_control_unavailable", "default", "m-1", "disk-full", True, "WARNING")
    ]


def test_an_exception_is_logged_without_its_text(log: io.StringIO) -> None:
    try:
        int("confidential")
    except ValueError as error:
        outcome = telemetry.log_exception(error)

    line = only_line(log)
    assert (outcome.code, line["exception_type"], line["level"]) == ("internal_error", "ValueError", "ERROR")
    assert [place.partition("test_telemetry.py:")[1] for place in line["places"]] == ["test_telemetry.py:"]
    assert "confidential" not in log.getvalue()


def test_a_line_that_cannot_be_written_is_an_error_in_the_log_and_the_next_one_complete(log: io.StringIO) -> None:
    log_event(Outcome("delivered", ""), TRIGGER, waiting=Waiting(1, "soon"))  # type: ignore[arg-type]  # it cannot be written
    log_event(Outcome("queued", ""))

    failed, line = lines(log)
    assert failed["exception_type"] == "MetricValueError"
    assert (line["code"], "dedup_key" in line) == ("queued", False)
    assert values(log) == {"Queued": 1, "Received": 1}
