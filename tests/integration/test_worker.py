"""The worker: what it delivers, what stays in the queue, and what goes to the dead-letter queue with the reason."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import pacing
import sqs
import worker
from chaos.faults import Failure, Fault, fail
from event import Event
from local.sandbox import Received
from settings import SettingsError
from tests.support import ROUTING_KEY, Clock, Endpoint, LambdaContext, soon

REFUSED = {"status": "invalid event", "message": "Event object is invalid", "errors": ["odd"]}
NEW_KEY = "n" * 32


def event(n: int, action: Any = "trigger", service: str = "default", severity: str = "error") -> Event:
    content: dict[str, Any] = {"event_action": action, "dedup_key": f"incident-{n}"}
    if action == "trigger":
        content["payload"] = {"summary": "Disk is full", "severity": severity, "source": "db-1"}
    return Event(service, "alert", content, action, f"incident-{n}", f"m-{n}-{action}")


def repeats(*summaries: str) -> list[Event]:
    """Build triggers of one incident, each a message of its own."""
    return [
        replace(
            event(1),
            content={**event(1).content, "payload": {**event(1).content["payload"], "summary": summary}},
            message_id=summary,
        )
        for summary in summaries
    ]


def record(number: int, event: Event, body: str | None = None) -> dict[str, Any]:
    """Build a message as Lambda hands it to the function, of a queue that knows nothing of it."""
    message = sqs.write(event, number)
    return {
        "messageId": str(number),
        "receiptHandle": f"receipt-{number}",
        "body": message["MessageBody"] if body is None else body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(int(time.time() * 1000)),
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
            "MessageGroupId": message["MessageGroupId"],
            "MessageDeduplicationId": message["MessageDeduplicationId"],
            "SequenceNumber": str(number),
        },
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:queue.fifo",
        "awsRegion": "us-east-1",
    }


def deliver(endpoint: Endpoint, *events: Event, milliseconds: int = 90_000) -> list[int]:
    """Enqueue the events one by one and run the worker; return the positions of those that stay in the queue."""
    for each in events:
        endpoint.deps.queue.enqueue([each], soon())
    return endpoint.work(milliseconds=milliseconds)


def queued(endpoint: Endpoint, *events: Event, waited: float) -> list[dict[str, Any]]:
    """Enqueue the events and receive them again, as if they had waited for so many seconds."""
    for each in events:
        endpoint.deps.queue.enqueue([each], soon())
    records = endpoint.received(endpoint.deps.settings.queue_url)
    for message in records:
        message["attributes"]["SentTimestamp"] = str(int((time.time() - waited) * 1000))
    return records


@pytest.fixture
def delays(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Collect the seconds for which each call delayed messages; chance has no part in them."""
    monkeypatch.setattr(pacing, "JITTER", (1.0, 1.0))
    calls: list[list[int]] = []

    def note(target: str, request: dict[str, Any]) -> None:
        if target == "AmazonSQS.ChangeMessageVisibilityBatch":
            calls.append([entry["VisibilityTimeout"] for entry in request["Entries"]])

    fail(endpoint.aws, note)
    return calls


def summaries(endpoint: Endpoint) -> list[str]:
    return [call.event["payload"]["summary"] for call in endpoint.sandbox.received]


def refusing(dedup_key: str, fault: Fault) -> Callable[[Received], Fault | None]:
    return lambda call: fault if call.event.get("dedup_key") == dedup_key else None


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def lines_of_events(log: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in lines(log) if line["message"] == "event"]


def actions(endpoint: Endpoint) -> list[str]:
    return [call.event["event_action"] for call in endpoint.sandbox.received]


def test_messages_are_delivered_in_their_order(endpoint: Endpoint) -> None:
    assert deliver(endpoint, event(1), event(1, "acknowledge"), event(1, "resolve")) == []
    assert actions(endpoint) == ["trigger", "acknowledge", "resolve"]
    assert endpoint.sandbox.received[0].event["routing_key"] == ROUTING_KEY


def test_a_message_is_deleted_before_a_later_one_of_its_group_goes_out(endpoint: Endpoint) -> None:
    deleted: list[int] = []

    def note(target: str, _: object) -> None:
        if target == "AmazonSQS.DeleteMessage":
            deleted.append(len(endpoint.sandbox.received))

    fail(endpoint.aws, note)
    deliver(endpoint, event(1), event(2), event(1, "acknowledge"), event(1, "resolve"))

    assert actions(endpoint)[:1] == ["trigger"]
    assert len(deleted) == 2
    assert deleted[0] == 1


def test_while_a_message_cannot_be_deleted_the_later_ones_of_its_group_wait(endpoint: Endpoint) -> None:
    fail(
        endpoint.aws,
        lambda target, _: Failure.answer(503, "ServiceUnavailable") if target == "AmazonSQS.DeleteMessage" else None,
    )

    assert len(deliver(endpoint, event(1), event(1, "resolve"))) == 2
    assert actions(endpoint) == ["trigger"]


def test_a_message_that_stays_is_not_deleted(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    targets: list[str] = []
    fail(endpoint.aws, lambda target, _: targets.append(target))
    deliver(endpoint, event(1), event(1, "resolve"))

    assert "AmazonSQS.DeleteMessage" not in targets


@pytest.mark.parametrize("fault", [Fault.answer(429), Fault.answer(503), Fault.answer(403), Fault.reset_before()])
def test_what_pagerduty_cannot_take_now_stays_and_holds_back_only_its_own_group(
    endpoint: Endpoint, fault: Fault
) -> None:
    endpoint.sandbox.on_call = refusing("incident-1", fault)
    others = [event(2, severity="critical"), event(1, "resolve")]
    records = [record(n, each) for n, each in enumerate([event(1), *others])]

    assert endpoint.work(records) == [0, 2]
    assert [incident.dedup_key for incident in endpoint.sandbox.incidents] == ["incident-2"]


def test_what_pagerduty_refuses_for_good_is_set_aside_and_holds_back_nothing(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.answer(400, REFUSED) if call.number == 1 else None

    assert deliver(endpoint, event(1), event(1, "resolve")) == []
    assert [letter[1:] for letter in endpoint.dead_letters()] == [
        ("pagerduty_rejected", "PagerDuty refused the event for good with 400: odd")
    ]
    assert actions(endpoint) == ["trigger", "resolve"]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "page"},
        {"kind": None},
        {"kind": ["alert"]},
        {"service": 7},
        {"service": "a/b"},
        {"message_id": 7},
        {"dedup_key": ["a"]},
        {"action": "resolved"},
        {"action": None},
        {"event": [1]},
        {"event": None},
        {"event": {"payload": float("nan")}},
        {"event_base64": "%"},
        {"occurred_at": "yesterday"},
        {"occurred_at": 7},
        {"occurred_at": "0001-01-01T00:00:00+10:00"},
        {"version": 2},
    ],
)
def test_a_message_that_the_api_function_cannot_have_written_is_set_aside_at_once(
    endpoint: Endpoint, log: io.StringIO, changes: dict[str, Any]
) -> None:
    body = json.dumps(json.loads(sqs.write(event(1), 0)["MessageBody"]) | changes)

    assert endpoint.work([record(0, event(1), body), record(1, event(2))]) == []
    assert [letter[:2] for letter in endpoint.dead_letters()] == [(body, "message_unreadable")]
    assert [line["code"] for line in lines(log)] == ["message_unreadable", "delivered"]


@pytest.mark.parametrize("body", ["hello", "7", "null", "[]", "{}", "[" * 100_000])
def test_a_message_of_somebody_else_is_set_aside_at_once(endpoint: Endpoint, body: str) -> None:
    assert endpoint.work([record(0, event(1), body)]) == []
    assert [letter[1] for letter in endpoint.dead_letters()] == ["message_unreadable"]


def test_a_message_that_cannot_be_set_aside_stays(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(400, REFUSED)
    endpoint.aws.client("sqs").delete_queue(QueueUrl=endpoint.deps.settings.dead_letter_queue_url)

    assert deliver(endpoint, event(1)) == [0]


def test_a_missing_routing_key_is_our_fault_and_the_message_stays(endpoint: Endpoint) -> None:
    records = [record(0, event(1, service="nobody-set-this-up")), record(1, event(2))]

    assert endpoint.work(records) == [0]
    assert endpoint.dead_letters() == []


def test_a_refused_routing_key_is_our_fault_and_is_read_anew(
    make_endpoint: Callable[..., Endpoint], clock: Clock
) -> None:
    endpoint = make_endpoint(clock=clock)
    endpoint.sandbox.known_keys = {NEW_KEY}

    assert endpoint.work([record(0, event(1))]) == [0]
    endpoint.put("routing-keys/default", NEW_KEY)
    clock.now += 1
    assert endpoint.work([record(0, event(1))]) == []
    assert endpoint.dead_letters() == []


def test_of_several_routing_keys_a_refused_one_holds_up_its_own_events_only(
    make_endpoint: Callable[..., Endpoint],
) -> None:
    endpoint = make_endpoint(default=f"{ROUTING_KEY} {NEW_KEY}")
    endpoint.sandbox.known_keys = {NEW_KEY}
    incidents = [event(n) for n in range(8)]

    stayed = endpoint.work([record(n, each) for n, each in enumerate(incidents)])

    taken = {incident.dedup_key for incident in endpoint.sandbox.incidents}
    assert taken | {f"incident-{n}" for n in stayed} == {each.dedup_key for each in incidents}
    assert 0 < len(stayed) < len(incidents)


def test_no_call_is_begun_with_less_than_ten_seconds_left(endpoint: Endpoint) -> None:
    assert endpoint.work([record(0, event(1)), record(1, event(2))], milliseconds=9_999) == [0, 1]
    assert endpoint.sandbox.received == []

    assert endpoint.work([record(0, event(1)), record(1, event(2))], milliseconds=10_000) == []


def test_what_pagerduty_cannot_take_now_comes_again_when_pacing_says(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    endpoint.work(queued(endpoint, event(1), waited=0))

    assert delays == [[4]]


def test_the_rest_of_a_group_is_put_off_together_with_the_message_before_it(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = refusing("incident-1", Fault.answer(503))
    endpoint.work(queued(endpoint, event(1), event(1, "acknowledge"), event(2), event(1, "resolve"), waited=0))

    assert delays == [[4, 4, 4]]


def test_what_was_delivered_is_not_put_off_with_the_rest_of_its_group(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.answer(503) if call.event["event_action"] == "resolve" else None
    endpoint.work(queued(endpoint, event(1), event(1, "resolve"), event(1, "acknowledge"), waited=0))

    assert delays == [[4, 4]]


def test_when_all_is_delivered_nothing_is_put_off(endpoint: Endpoint, delays: list[list[int]]) -> None:
    endpoint.work(queued(endpoint, event(1), event(2), waited=0))

    assert delays == []


def test_a_rate_limited_event_waits_half_as_long_again_but_not_until_all_others_had_their_turn(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(429)
    endpoint.work(queued(endpoint, event(1, severity="critical"), waited=30))
    endpoint.work(queued(endpoint, event(2, severity="critical"), waited=3600))

    assert delays == [[15], [20]]


def test_a_critical_event_comes_again_at_the_end_of_its_first_minute_and_no_other_does(
    endpoint: Endpoint, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(429)
    endpoint.work(queued(endpoint, event(1, severity="critical"), event(2, severity="warning"), waited=50))

    assert delays == [[11, 20]]


def test_after_a_429_only_what_has_priority_is_posted(
    endpoint: Endpoint, log: io.StringIO, delays: list[list[int]]
) -> None:
    endpoint.sandbox.on_call = refusing("incident-1", Fault.answer(429))
    events = [event(1), event(2), event(3, severity="critical"), event(4, "resolve")]
    endpoint.work(queued(endpoint, *events, waited=0))

    assert [line["code"] for line in lines(log)] == [
        "pagerduty_rate_limited",
        "rate_limit_delay",
        "delivered",
        "delivered",
    ]
    assert delays == [[4, 4]]


def test_the_budget_of_one_routing_key_is_not_that_of_another(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=NEW_KEY)
    endpoint.sandbox.on_call = refusing("incident-1", Fault.answer(429))

    assert endpoint.work(queued(endpoint, event(1), event(2), event(3, service="checkout"), waited=0)) == [0, 1]


def test_one_call_of_a_batch_hangs_and_not_ten(
    make_endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    monkeypatch.setattr("worker.CALL_LIMIT", 0.5)
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=NEW_KEY)
    endpoint.sandbox.on_call = lambda call: Fault.hang() if call.event["routing_key"] == ROUTING_KEY else None
    pages = [event(n, severity="critical") for n in range(4)]

    assert endpoint.work(queued(endpoint, *pages, event(9, service="checkout"), waited=0)) == [0, 1, 2, 3]
    assert [call.event["dedup_key"] for call in endpoint.sandbox.received] == ["incident-0", "incident-9"]
    assert [line["code"] for line in lines(log)] == ["pagerduty_timeout"] * 4 + ["delivered"]
    assert [line.get("PagerDutyNoResponse") for line in lines(log)] == [[1], None, None, None, None]


def lease(endpoint: Endpoint, service: str) -> float | None:
    """Return for how many seconds from now on a PagerDuty service has a lease."""
    table = endpoint.deps.settings.flow_table
    item = endpoint.aws.client("dynamodb").get_item(TableName=table, Key={"service": {"S": service}}).get("Item", {})
    return float(item["lease"]["N"]) - time.time() if "lease" in item else None


def test_a_delayed_message_has_the_lease_of_its_service_last_an_hour_longer(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "JITTER", (1.0, 1.0))
    endpoint.work([record(0, event(1, service="nobody-set-this-up")), record(1, event(2))])

    assert lease(endpoint, "nobody-set-this-up") == pytest.approx(3600 + 120, abs=30)
    assert lease(endpoint, "default") is None


def dynamodb_is_down(target: str, _: object) -> Failure | None:
    return Failure.answer(500, "InternalServerError") if target.startswith("DynamoDB") else None


def test_without_dynamodb_the_worker_posts(endpoint: Endpoint) -> None:
    fail(endpoint.aws, dynamodb_is_down)

    assert endpoint.work([record(0, event(1)), record(1, event(2))]) == []


def test_while_no_lease_can_be_written_nothing_is_delayed_for_more_than_20_seconds(
    endpoint: Endpoint, delays: list[list[int]], log: io.StringIO
) -> None:
    def note(target: str, request: dict[str, Any]) -> Failure | None:
        if target == "AmazonSQS.ChangeMessageVisibilityBatch":
            delays.append([entry["VisibilityTimeout"] for entry in request["Entries"]])
        return dynamodb_is_down(target, request)

    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    records = queued(endpoint, event(1), event(2), waited=3600)
    for each in records:
        each["attributes"]["ApproximateReceiveCount"] = "9"
    fail(endpoint.aws, note)
    endpoint.work(records)

    assert delays == [[20, 20]]


def test_the_same_event_for_two_services_refused_by_both_leaves_two_dead_letters(
    make_endpoint: Callable[..., Endpoint],
) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=NEW_KEY)
    endpoint.sandbox.on_call = lambda _: Fault.answer(400, REFUSED)

    assert deliver(endpoint, event(1), event(1, service="checkout")) == []
    assert len(endpoint.dead_letters()) == 2


def test_an_event_that_is_refused_again_after_a_redrive_leaves_a_dead_letter_again(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(400, REFUSED)
    sent = record(0, event(1))
    for message_id in ("first", "redriven"):
        assert endpoint.work([{**sent, "messageId": message_id}]) == []

    assert len(endpoint.dead_letters()) == 2


@pytest.mark.parametrize(
    "failure",
    [Failure.answer(400, "AccessDenied"), Failure.answer(503, "ServiceUnavailable"), Failure.entries("0")],
)
def test_what_sqs_does_not_put_off_is_neither_lost_nor_delivered_twice(
    endpoint: Endpoint, log: io.StringIO, failure: Failure
) -> None:
    endpoint.sandbox.on_call = refusing("incident-1", Fault.answer(503))
    records = queued(endpoint, event(1), event(1, "resolve"), event(2), waited=0)
    fail(endpoint.aws, lambda target, _: failure if target == "AmazonSQS.ChangeMessageVisibilityBatch" else None)

    assert endpoint.work(records) == [0, 1]
    assert [incident.dedup_key for incident in endpoint.sandbox.incidents] == ["incident-2"]
    assert lines(log)[-1]["message"] == "Delayed events stay invisible for the queue's visibility timeout"


def test_of_triggers_that_waited_together_only_those_are_posted_that_pagerduty_would_show(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    assert endpoint.work(queued(endpoint, *repeats("first", "second", "third", "last"), waited=61)) == []
    assert summaries(endpoint) == ["first", "last"]
    assert [line["status"] for line in lines(log)] == ["delivered", "merged", "merged", "delivered"]
    assert lines(log)[1]["Merged"] == [1]


def test_what_was_merged_is_deleted_as_what_was_delivered(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.answer(503) if "last" in str(call.event) else None

    assert endpoint.work(queued(endpoint, *repeats("first", "second", "last"), waited=61)) == [2]
    attributes = endpoint.aws.client("sqs").get_queue_attributes(
        QueueUrl=endpoint.deps.settings.queue_url, AttributeNames=["ApproximateNumberOfMessagesNotVisible"]
    )
    assert attributes["Attributes"] == {"ApproximateNumberOfMessagesNotVisible": "1"}


def test_nothing_is_merged_that_has_waited_for_less_than_a_minute(endpoint: Endpoint) -> None:
    endpoint.work(queued(endpoint, *repeats("first", "second", "last"), waited=50))

    assert summaries(endpoint) == ["first", "second", "last"]


def test_while_the_first_of_those_that_would_be_merged_is_not_delivered_all_of_them_stay(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.answer(503) if "first" in str(call.event) else None

    assert endpoint.work(queued(endpoint, *repeats("first", "second", "last"), waited=61)) == [0, 1, 2]


def test_when_pagerduty_refuses_the_first_for_good_the_others_are_not_merged(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.answer(400, REFUSED) if "first" in str(call.event) else None
    endpoint.work(queued(endpoint, *repeats("first", "second", "last"), waited=61))

    assert [incident.title for incident in endpoint.sandbox.incidents] == ["second"]


def test_merging_can_be_switched_off(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(merge_repeated_triggers=False)
    endpoint.work(queued(endpoint, *repeats("first", "second", "last"), waited=61))

    assert summaries(endpoint) == ["first", "second", "last"]


def test_a_mistake_of_ours_leaves_the_message_in_the_queue_and_delivers_its_neighbours(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    read = sqs.read

    def broken(body: str) -> Event:
        if "incident-1" in body:
            raise ZeroDivisionError("secret")
        return read(body)

    monkeypatch.setattr(sqs, "read", broken)

    assert endpoint.work([record(0, event(1)), record(1, event(2))]) == [0]
    assert '"exception_type":"ZeroDivisionError"' in log.getvalue()
    assert "secret" not in log.getvalue()
    assert [incident.dedup_key for incident in endpoint.sandbox.incidents] == ["incident-2"]


def test_each_message_has_one_line_in_the_log(
    endpoint: Endpoint, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LambdaContext, "aws_request_id", "this one")
    endpoint.sandbox.on_call = refusing("incident-2", Fault.answer(429))
    endpoint.work([record(0, event(1)), record(1, event(2)), record(2, event(3), "hello")])

    names = ("status", "code", "receive_count", "pagerduty_service", "dedup_key", "request_id")
    assert [tuple(line.get(name) for name in names) for line in lines_of_events(log)] == [
        ("delivered", "delivered", 1, "default", "incident-1", "this one"),
        ("deferred", "pagerduty_rate_limited", 1, "default", "incident-2", "this one"),
        ("rejected", "message_unreadable", 1, None, None, "this one"),
    ]
    assert ROUTING_KEY not in log.getvalue()


def test_a_line_about_a_pagerduty_service_without_a_routing_key_has_no_metrics_of_its_own(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    made_up = Event("made-up", "change", {"payload": {"summary": "Deployed"}})
    endpoint.work([record(0, event(1)), record(1, made_up)])

    dimensions = [line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] for line in lines_of_events(log)]
    assert dimensions == [[["service"], ["service", "pagerduty_service", "event_type"]], [["service"]]]


def test_the_age_of_an_event_counts_from_when_it_occurred_and_not_from_when_it_was_queued(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    change = Event("default", "change", {"payload": {"summary": "Deployed"}}, message_id="m", occurred_at=an_hour_ago)
    endpoint.work([record(0, change)])

    assert 3600 <= lines(log)[0]["EventAge"][0] < 3660


def test_how_long_an_event_has_been_in_the_queue_is_known_each_time_that_it_is_tried(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    sent = record(0, event(1))
    sent["attributes"]["SentTimestamp"] = str(int((time.time() - 600) * 1000))
    endpoint.work([sent])

    assert 600 <= lines(log)[0]["QueueTime"][0] < 660


def test_what_pagerduty_answered_is_in_the_line_of_a_message_that_it_did_not_take(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    endpoint.work([record(0, event(1))])

    (line,) = lines_of_events(log)
    assert (line["pagerduty_status"], line["PagerDuty5xx"], line["Retries"], line["Deferred"]) == (503, [1], [2], [1])


def test_the_sample_event_for_sam_local_invoke_is_delivered(endpoint: Endpoint) -> None:
    sample = Path(__file__).parents[2] / "events" / "worker" / "alert-trigger.json"

    assert endpoint.work(json.loads(sample.read_text())["Records"]) == []
    assert [incident.status for incident in endpoint.sandbox.incidents] == ["triggered"]


def test_invalid_settings_fail_the_batch() -> None:
    with pytest.raises(SettingsError, match="PAGERDUTY_URL"):
        worker.handle({"Records": []}, LambdaContext(), SettingsError(["PAGERDUTY_URL"]))  # type: ignore[arg-type]  # the part it reads
