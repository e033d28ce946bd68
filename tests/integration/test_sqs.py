"""The queue on a real server: the calls to SQS, and the outcome of each event when SQS refuses some."""

from collections.abc import Sequence
from typing import Any

import pytest
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import dependencies
import sqs
from chaos.faults import Failure, fail
from dependencies import Dependencies
from event import Event
from outcome import Outcome, ProcessingError
from sqs import Queue
from tests.support import Clock, Endpoint, soon


def event(n: int = 1, action: Any = "trigger", **changes: Any) -> Event:
    content = {"event_action": action, "dedup_key": f"incident-{n}"}
    fields = {"kind": "alert", "content": content, "dedup_key": f"incident-{n}", "message_id": "m", "action": action}
    return Event(**{"service": "default", **fields, **changes})


def names(bodies: Sequence[str]) -> list[tuple[str | None, str | None]]:
    return [(event.dedup_key, event.action) for event in map(sqs.read, bodies)]


def codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes]


@pytest.fixture
def queue(endpoint: Endpoint) -> Queue:
    return endpoint.deps.queue


@pytest.fixture
def calls(endpoint: Endpoint) -> list[list[str]]:
    """Record the bodies of the messages in each call."""
    recorded: list[list[str]] = []
    fail(endpoint.aws, lambda _, request: recorded.append([entry["MessageBody"] for entry in request["Entries"]]))
    return recorded


@pytest.mark.parametrize(
    ("events", "sizes"),
    [
        ([event(n) for n in range(25)], [10, 10, 5]),
        ([event(n, content={"a": "x" * 400_000}) for n in range(5)], [2, 2, 1]),
    ],
    ids=["ten events", "a megabyte"],
)
def test_a_call_holds_no_more_than_sqs_accepts(
    queue: Queue, calls: list[list[str]], events: list[Event], sizes: list[int]
) -> None:
    assert codes(queue.enqueue(events, soon())) == ["queued"] * len(events)
    assert [len(call) for call in calls] == sizes


def test_a_call_holds_no_two_events_of_one_incident(queue: Queue, calls: list[list[str]]) -> None:
    queue.enqueue([event(1), event(2), event(1, "acknowledge"), event(1, "resolve"), event(2, "resolve")], soon())

    assert [names(call) for call in calls] == [
        [("incident-1", "trigger"), ("incident-2", "trigger")],
        [("incident-1", "acknowledge"), ("incident-2", "resolve")],
        [("incident-1", "resolve")],
    ]


def test_an_entry_that_sqs_refuses_defers_the_later_ones_of_its_incident(queue: Queue, endpoint: Endpoint) -> None:
    fail(endpoint.aws, lambda *_: Failure.entries("0"))

    outcomes = queue.enqueue([event(1), event(2), event(1, "resolve"), event(2, "resolve")], soon())

    assert codes(outcomes) == ["queue_unavailable", "queued", "earlier_event_deferred", "queued"]
    assert "(InternalError)" in outcomes[0].message
    records = endpoint.received(endpoint.deps.settings.queue_url)
    assert names([record["body"] for record in records]) == [("incident-2", "trigger"), ("incident-2", "resolve")]


def test_a_message_that_cannot_be_delayed_is_an_error(queue: Queue, endpoint: Endpoint) -> None:
    queue.enqueue([event(1), event(2)], soon())
    records = [SQSRecord(record) for record in endpoint.received()]
    fail(endpoint.aws, lambda *_: Failure.entries("1"))

    with pytest.raises(ProcessingError, match=r"SQS did not delay an event \(InternalError\)"):
        queue.delay([(record, 60) for record in records], soon())


def test_when_sqs_is_down_every_event_is_deferred(queue: Queue, endpoint: Endpoint) -> None:
    fail(endpoint.aws, lambda *_: Failure.answer(503, "ServiceUnavailable"))

    outcomes = queue.enqueue([event(1), event(1, "resolve"), event(2)], soon())

    assert codes(outcomes) == ["queue_unavailable", "earlier_event_deferred", "queue_unavailable"]
    assert outcomes[0].message == "SQS did not accept the event (ServiceUnavailable); it will be tried again"


def test_no_call_is_begun_without_time_for_it(queue: Queue, calls: list[list[str]]) -> None:
    assert codes(queue.enqueue([event()], soon(0.2))) == ["deadline_exceeded"]
    assert calls == []


def test_on_lambda_calls_to_sqs_and_ssm_are_tried_four_times_for_two_seconds_each() -> None:
    environment = {"QUEUE_URL": "https://q", "DEAD_LETTER_QUEUE_URL": "https://d", "FLOW_TABLE": "flow"}
    deps = dependencies.load(environment)
    assert isinstance(deps, Dependencies)

    for client in (deps.queue._client(), deps.credentials._client):  # noqa: SLF001 -- not visible from outside
        config: Any = client.meta.config
        assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (1, 2, 4)


def test_a_dead_letter_of_any_size_has_its_reason_and_sqs_own_message_id(queue: Queue, endpoint: Endpoint) -> None:
    queue.enqueue([event(content={"a": "é" * 174_600})], soon())
    record = SQSRecord(endpoint.received(endpoint.deps.settings.queue_url)[0])
    reason = "summary\x00is \ufffe odd " + "x" * 9000

    endpoint.deps.dead_letters.dead_letter(record, Outcome("pagerduty_rejected", reason), soon())

    (letter,) = endpoint.received(endpoint.deps.settings.dead_letter_queue_url)
    assert letter["body"] == record.body
    assert letter["attributes"]["MessageGroupId"] == record.attributes.message_group_id
    assert letter["attributes"]["MessageDeduplicationId"] == record.message_id
    assert letter["messageAttributes"]["code"]["stringValue"] == "pagerduty_rejected"
    assert letter["messageAttributes"]["reason"]["stringValue"] == ("summary is   odd " + "x" * 2000)[:1000]


@pytest.mark.parametrize(("seconds", "count"), [(9.9, 0), (10, 3), (-3600, 3)])
def test_the_messages_in_flight_are_counted_at_most_every_ten_seconds_unless_the_clock_was_set_back(  # noqa: PLR0913, PLR0917 -- a table
    queue: Queue, endpoint: Endpoint, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    monkeypatch.setattr("sqs.time.time", clock)
    assert queue.in_flight(soon()) == 0
    queue.enqueue([event(1), event(2), event(3)], soon())
    endpoint.received(endpoint.deps.settings.queue_url)
    clock.now += seconds
    assert queue.in_flight(soon()) == count
    fail(endpoint.aws, lambda *_: Failure.answer(503, "ServiceUnavailable"))
    clock.now += 10
    assert queue.in_flight(soon()) == count
