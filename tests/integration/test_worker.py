"""The worker: what it delivers, what stays in the queue, and what becomes a dead letter."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import delivery
import pacing
import sqs
import worker
from chaos.faults import NetworkFault, fail
from event import Event
from local.sandbox import Fault, Received
from settings import SettingsError
from tests.support import ROUTING_KEY, Clock, Endpoint, LambdaContext, down, lines, soon

REFUSED = Fault.answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": ["odd"]})
NEW_KEY = "n" * 32

Make = Callable[..., Endpoint]


def event(n: int, action: Any = "trigger", service: str = "default", **payload: str) -> Event:
    content: dict[str, Any] = {"event_action": action, "dedup_key": f"incident-{n}"}
    if action == "trigger":
        content["payload"] = {"summary": "Disk is full", "severity": "error", "source": "db-1", **payload}
    return Event(service, "alert", content, action, f"incident-{n}", f"m-{n}-{action}-{payload}")


def queued(endpoint: Endpoint, *events: Event, waited: float = 0, receive_count: int = 1) -> list[dict[str, Any]]:
    """Enqueue the events; return their messages in this order, as if they had waited for so many seconds."""
    for each in events:
        endpoint.deps.queue.enqueue([each], soon())
    records = endpoint.received()
    for record in records:
        record["attributes"]["SentTimestamp"] = str(int((time.time() - waited) * 1000))
        record["attributes"]["ApproximateReceiveCount"] = str(receive_count)
    return sorted(records, key=lambda record: int(record["attributes"]["SequenceNumber"]))


def in_queue(endpoint: Endpoint) -> int:
    """Return how many messages were received and not deleted."""
    return endpoint.deps.queue.in_flight(soon())


def when(text: str, fault: Fault) -> Callable[[Received], Fault | None]:
    """Let the calls fail whose event contains the text."""
    return lambda call: fault if text in str(call.event) else None


def actions(endpoint: Endpoint) -> list[str]:
    return [call.event["event_action"] for call in endpoint.sandbox.received]


# -- order -------------------------------------------------------------------------------------------------------------


def test_messages_are_delivered_in_their_order_each_deleted_before_a_later_one_of_its_group(endpoint: Endpoint) -> None:
    calls: list[tuple[str, int]] = []

    def note(target: str, _: object) -> None:
        if target.startswith("AmazonSQS"):
            calls.append((target.partition(".")[2], len(endpoint.sandbox.received)))

    records = queued(endpoint, event(1), event(2), event(1, "acknowledge"), event(1, "resolve"))
    fail(endpoint.aws, note)

    assert endpoint.work(records) == []
    assert actions(endpoint) == ["trigger", "trigger", "acknowledge", "resolve"]
    assert endpoint.sandbox.received[0].event["routing_key"] == ROUTING_KEY
    # Lambda deletes the last message of each group.
    assert calls == [("DeleteMessage", 1), ("DeleteMessage", 3)]


def test_while_a_message_cannot_be_deleted_the_later_ones_of_its_group_stay(endpoint: Endpoint) -> None:
    records = queued(endpoint, event(1), event(1, "resolve"))
    fail(endpoint.aws, down("AmazonSQS.DeleteMessage"))

    assert endpoint.work(records) == [0, 1]
    assert actions(endpoint) == ["trigger"]


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Collect the seconds for which each call delays messages, without jitter, instead of delaying them."""
    monkeypatch.setattr(pacing, "JITTER", (1.0, 1.0))
    calls: list[list[int]] = []
    monkeypatch.setattr(sqs.Queue, "delay", lambda _, records, __: calls.append([seconds for _, seconds in records]))
    return calls


def test_a_message_that_pagerduty_does_not_accept_now_is_delayed_with_the_rest_of_its_group(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = when("acknowledge", Fault.answer(503))
    records = queued(endpoint, event(1), event(1, "acknowledge"), event(2), event(1, "resolve"))

    assert endpoint.work(records) == [1, 3]
    assert [incident.dedup_key for incident in endpoint.sandbox.incidents] == ["incident-1", "incident-2"]
    assert delays == [[4, 4]]
    assert in_queue(endpoint) == 3


# -- dead letters, routing keys, time limits ---------------------------------------------------------------------------


def test_a_message_that_pagerduty_refuses_for_good_becomes_a_dead_letter_and_delays_nothing(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = when("payload", REFUSED)

    assert endpoint.work(queued(endpoint, event(1), event(1, "resolve"))) == []
    assert [letter[1:] for letter in endpoint.dead_letters()] == [
        ("pagerduty_rejected", "PagerDuty refused the event for good with 400: odd")
    ]
    assert actions(endpoint) == ["trigger", "resolve"]


def test_an_unreadable_message_becomes_a_dead_letter_at_once(endpoint: Endpoint) -> None:
    records = queued(endpoint, event(1), event(2))
    records[0]["body"] = "hello"

    assert endpoint.work(records) == []
    assert [letter[:2] for letter in endpoint.dead_letters()] == [("hello", "message_unreadable")]
    assert [incident.dedup_key for incident in endpoint.sandbox.incidents] == ["incident-2"]


def test_a_message_that_cannot_be_dead_lettered_stays(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: REFUSED
    endpoint.aws.client("sqs").delete_queue(QueueUrl=endpoint.deps.settings.dead_letter_queue_url)

    assert endpoint.work(queued(endpoint, event(1))) == [0]


def test_a_message_stays_until_its_routing_key_is_corrected(make_endpoint: Make, clock: Clock) -> None:
    endpoint = make_endpoint(clock=clock)
    endpoint.sandbox.known_keys = {NEW_KEY}
    records = queued(endpoint, event(1), event(2, service="missing"))

    assert endpoint.work(records) == [0, 1]
    for service in ("default", "missing"):
        endpoint.put(f"routing-keys/{service}", NEW_KEY)
    clock.now += 1.1
    assert endpoint.work(records) == []
    assert endpoint.dead_letters() == []


def test_no_call_is_started_with_less_than_ten_seconds_left(endpoint: Endpoint, log: io.StringIO) -> None:
    records = queued(endpoint, event(1), event(2))

    assert endpoint.work(records, milliseconds=9_999) == [0, 1]
    assert [line["code"] for line in lines(log)] == ["deadline_exceeded"] * 2
    assert endpoint.sandbox.received == []
    assert endpoint.work(records, milliseconds=10_000) == []


def test_a_routing_key_that_is_deleted_during_a_batch_costs_nothing(make_endpoint: Make, clock: Clock) -> None:
    endpoint = make_endpoint(clock=clock)
    records = queued(endpoint, event(1))

    def delete_key(_: object) -> Fault:
        endpoint.ssm.delete_parameter(Name=f"{endpoint.prefix}/routing-keys/default")
        clock.now += 301
        return Fault.answer(429)

    endpoint.sandbox.on_call = delete_key
    assert endpoint.work(records) == [0]


def test_one_call_of_a_batch_hangs_and_not_ten(
    make_endpoint: Make, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    monkeypatch.setattr("worker.CALL_LIMIT", 0.5)
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=NEW_KEY)
    endpoint.sandbox.on_call = when(ROUTING_KEY, NetworkFault.hang())
    pages = [event(n, severity="critical") for n in range(4)]

    assert endpoint.work(queued(endpoint, *pages, event(9, service="checkout"))) == [0, 1, 2, 3]
    assert [call.event["dedup_key"] for call in endpoint.sandbox.received] == ["incident-0", "incident-9"]
    assert [line["code"] for line in lines(log)] == ["pagerduty_timeout"] * 4 + ["delivered"]
    assert [line.get("PagerDutyNoResponse") for line in lines(log)] == [[1], None, None, None, None]


# -- delays ------------------------------------------------------------------------------------------------------------


def test_the_delay_of_a_rate_limited_message_depends_on_priority_messages_in_flight_and_routing_keys(
    make_endpoint: Make, delays: list[list[int]]
) -> None:
    endpoint = make_endpoint(default=f"{ROUTING_KEY} {NEW_KEY}", calls_per_minute=3)
    endpoint.sandbox.on_call = lambda _: Fault.answer(429)
    events = [event(1, severity="critical"), *[event(n) for n in range(2, 6)]]
    endpoint.work(queued(endpoint, *events, waited=3000))

    assert delays == [[10, 50, 50, 50, 50]]


def test_after_a_429_only_events_with_priority_are_posted(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.sandbox.on_call = when("incident-1", Fault.answer(429))
    events = [event(1), event(2), event(3, severity="critical"), event(4, "resolve")]

    assert endpoint.work(queued(endpoint, *events)) == [0, 1]
    assert [line["code"] for line in lines(log)] == [
        "pagerduty_rate_limited",
        "rate_limit_delay",
        "delivered",
        "delivered",
    ]


@pytest.mark.usefixtures("delays")
def test_the_lease_of_a_delayed_message_lasts_an_hour_longer_than_its_delay(endpoint: Endpoint) -> None:
    endpoint.work(queued(endpoint, event(1, service="missing"), event(2)))

    dynamodb, table = endpoint.aws.client("dynamodb"), endpoint.deps.settings.flow_table
    missing, default = (
        dynamodb.get_item(TableName=table, Key={"service": {"S": service}}).get("Item", {})
        for service in ("missing", "default")
    )
    assert float(missing["lease"]["N"]) - time.time() == pytest.approx(3600 + 120, abs=60)
    assert "lease" not in default


def test_without_dynamodb_messages_are_posted_and_delayed_by_20_seconds_at_most(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = when("incident-1", Fault.answer(503))
    records = queued(endpoint, event(1), event(2), waited=3600, receive_count=9)
    fail(endpoint.aws, down("DynamoDB"))

    assert endpoint.work(records) == [0]
    assert delays == [[20]]


def test_a_message_that_cannot_be_delayed_stays_and_the_log_says_so(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.sandbox.on_call = when("incident-1", Fault.answer(503))
    records = queued(endpoint, event(1), event(1, "resolve"), event(2))
    fail(endpoint.aws, down("AmazonSQS.ChangeMessageVisibilityBatch"))

    assert endpoint.work(records) == [0, 1]
    assert lines(log)[-1]["message"] == "Delayed events stay invisible for the queue's visibility timeout"


# -- merging -----------------------------------------------------------------------------------------------------------

REPEATS = [event(1, summary=summary) for summary in ("first", "second", "last")]


@pytest.mark.parametrize(("merge", "posted"), [(True, ["first", "last"]), (False, ["first", "second", "last"])])
def test_repeated_triggers_are_merged_unless_that_is_switched_off(
    make_endpoint: Make,
    merge: bool,  # noqa: FBT001 -- a table
    posted: list[str],
) -> None:
    endpoint = make_endpoint(merge_repeated_triggers=merge)

    assert endpoint.work(queued(endpoint, *REPEATS, waited=61)) == []
    assert [call.event["payload"]["summary"] for call in endpoint.sandbox.received] == posted


def test_a_merged_message_is_logged_and_deleted_as_a_delivered_one(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.sandbox.on_call = when("last", Fault.answer(503))

    assert endpoint.work(queued(endpoint, *REPEATS, waited=61)) == [2]
    assert [line["status"] for line in lines(log)] == ["delivered", "merged", "deferred"]
    assert lines(log)[1]["Merged"] == [1]
    assert in_queue(endpoint) == 1


def test_nothing_is_merged_after_pagerduty_refused_the_first_for_good(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = when("first", REFUSED)
    endpoint.work(queued(endpoint, *REPEATS, waited=61))

    assert [incident.title for incident in endpoint.sandbox.incidents] == ["second"]


# -- faults of the function, the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["sqs.read", "worker.deliver"])
def test_a_message_on_which_the_function_fails_stays_and_its_neighbours_are_delivered(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, log: io.StringIO, function: str
) -> None:
    functions: dict[str, Callable[..., Any]] = {"sqs.read": sqs.read, "worker.deliver": delivery.deliver}

    def broken(subject: Any, *rest: Any, **more: Any) -> Any:
        if "incident-1" in str(subject):
            raise ZeroDivisionError("secret")
        return functions[function](subject, *rest, **more)

    records = queued(endpoint, event(1), event(2))
    monkeypatch.setattr(function, broken)

    assert endpoint.work(records) == [0]
    assert [line["exception_type"] for line in lines(log) if "exception_type" in line] == ["ZeroDivisionError"]
    assert "secret" not in log.getvalue()
    assert [incident.dedup_key for incident in endpoint.sandbox.incidents] == ["incident-2"]


def test_each_message_has_one_line_in_the_log(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.sandbox.on_call = when("incident-2", Fault.answer(429))
    records = queued(endpoint, event(1), event(2), event(3), event(4, service="missing"), waited=600, receive_count=3)
    records[2]["body"] = "hello"
    endpoint.work(records)

    names = ("status", "code", "receive_count", "pagerduty_service", "dedup_key", "request_id")
    assert [tuple(line.get(name) for name in names) for line in lines(log)] == [
        ("delivered", "delivered", 3, "default", "incident-1", LambdaContext.aws_request_id),
        ("deferred", "pagerduty_rate_limited", 3, "default", "incident-2", LambdaContext.aws_request_id),
        ("rejected", "message_unreadable", 3, None, None, LambdaContext.aws_request_id),
        ("deferred", "routing_key_missing", 3, "missing", "incident-4", LambdaContext.aws_request_id),
    ]
    assert all(600 <= line["QueueTime"][0] < 660 for line in lines(log))
    # A service without a routing key, or none, has no metrics of its own.
    assert [len(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"]) for line in lines(log)] == [2, 2, 1, 1]
    assert ROUTING_KEY not in log.getvalue()


def test_the_sample_event_for_sam_local_invoke_is_delivered(endpoint: Endpoint) -> None:
    sample = Path(__file__).parents[2] / "events" / "worker" / "alert-trigger.json"

    assert endpoint.work(json.loads(sample.read_text())["Records"]) == []
    assert [incident.status for incident in endpoint.sandbox.incidents] == ["triggered"]


def test_invalid_settings_fail_the_batch() -> None:
    with pytest.raises(SettingsError, match="PAGERDUTY_URL"):
        worker.handle({"Records": []}, LambdaContext(), SettingsError(["PAGERDUTY_URL"]))  # type: ignore[arg-type]  # the part it reads
