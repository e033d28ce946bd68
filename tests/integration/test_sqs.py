"""The queue on a real server: what is sent in which calls, and the outcome of each event when SQS refuses some."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import sqs
from chaos.faults import Failure, fail
from dependencies import Dependencies
from event import Event
from local.aws_server import Aws
from local.resources import create_queues
from outcome import Outcome, ProcessingError
from tests.support import Clock, soon


def event(n: int = 1, action: Any = "trigger", **changes: Any) -> Event:
    content = {"event_action": action, "dedup_key": f"incident-{n}"}
    fields = {"kind": "alert", "content": content, "dedup_key": f"incident-{n}", "message_id": "m", "action": action}
    return Event(**{"service": "default", **fields, **changes})


def names(events: Sequence[Event]) -> list[tuple[str | None, str | None]]:
    return [(event.dedup_key, event.action) for event in events]


def codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes]


class Fifo:
    """A queue of its own on a real server; the calls that send to it are recorded, and can be made to fail."""

    def __init__(self, aws: Aws) -> None:
        self.client = aws.client("sqs")
        self.url, dead_letter_url = create_queues(self.client, str(uuid.uuid4()))
        self.queue = sqs.Queue(lambda: self.client, self.url)
        self.dead_letters = sqs.Queue(lambda: self.client, dead_letter_url)
        self.dead_letter_url = dead_letter_url
        self.calls: list[list[Event]] = []
        self.refused: set[str] = set()  # incidents whose entries fail
        self.failure: Failure | None = None
        fail(aws, self._fail)

    def received(self, url: str | None = None) -> list[dict[str, Any]]:
        """Receive the messages that are visible, ten at most."""
        found: Any = self.client.receive_message(
            QueueUrl=url or self.url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return found.get("Messages", [])  # type: ignore[no-any-return]  # a list

    def record(self) -> SQSRecord:
        """Receive one message, as Lambda hands it to the worker."""
        (found,) = self.received()
        return SQSRecord(
            {
                "messageId": found["MessageId"],
                "receiptHandle": found["ReceiptHandle"],
                "body": found["Body"],
                "attributes": found["Attributes"],
            }
        )

    def _fail(self, target: str, request: dict[str, Any]) -> Failure | None:
        if target != "AmazonSQS.SendMessageBatch":
            return None
        events = {entry["Id"]: sqs.read(entry["MessageBody"]) for entry in request["Entries"]}
        self.calls.append(list(events.values()))
        refused = [number for number, each in events.items() if each.dedup_key in self.refused]
        return Failure.entries(*refused) if refused else self.failure


@pytest.fixture
def fifo(aws: Aws) -> Fifo:
    return Fifo(aws)


# -- sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "sizes"),
    [
        ([event(n) for n in range(25)], [10, 10, 5]),
        ([event(n, content={"a": "x" * 400_000}) for n in range(5)], [2, 2, 1]),
    ],
    ids=["ten events", "a megabyte"],
)
def test_a_call_holds_no_more_than_sqs_accepts(fifo: Fifo, events: list[Event], sizes: list[int]) -> None:
    assert codes(fifo.queue.enqueue(events, soon())) == ["queued"] * len(events)
    assert [len(call) for call in fifo.calls] == sizes


def test_a_call_holds_no_two_events_of_one_incident(fifo: Fifo) -> None:
    fifo.queue.enqueue([event(1), event(2), event(1, "acknowledge"), event(1, "resolve"), event(2, "resolve")], soon())

    assert [names(call) for call in fifo.calls] == [
        [("incident-1", "trigger"), ("incident-2", "trigger")],
        [("incident-1", "acknowledge"), ("incident-2", "resolve")],
        [("incident-1", "resolve")],
    ]


def test_an_entry_that_sqs_refuses_is_deferred_with_the_later_ones_of_its_incident(fifo: Fifo) -> None:
    fifo.refused = {"incident-1"}

    outcomes = fifo.queue.enqueue([event(1), event(2), event(1, "resolve"), event(2, "resolve")], soon())

    assert codes(outcomes) == ["queue_unavailable", "queued", "earlier_event_deferred", "queued"]
    assert names([sqs.read(message["Body"]) for message in fifo.received()]) == [
        ("incident-2", "trigger"),
        ("incident-2", "resolve"),
    ]


def test_when_sqs_is_down_every_event_is_deferred(fifo: Fifo) -> None:
    fifo.failure = Failure.answer(503, "ServiceUnavailable")

    outcomes = fifo.queue.enqueue([event(1), event(1, "resolve"), event(2)], soon())

    assert codes(outcomes) == ["queue_unavailable", "earlier_event_deferred", "queue_unavailable"]
    assert outcomes[0].message == "SQS did not accept the event (ServiceUnavailable); it will be tried again"


def test_an_sqs_that_hangs_is_abandoned_at_the_deadline(fifo: Fifo) -> None:
    fifo.failure = Failure.hang()
    began = time.monotonic()

    outcomes = fifo.queue.enqueue([event(1), event(2), event(2, "resolve")], began + 0.5)

    assert codes(outcomes) == ["queue_unavailable", "queue_unavailable", "earlier_event_deferred"]
    assert time.monotonic() - began < 1.5


def test_no_call_is_begun_without_time_for_it(fifo: Fifo) -> None:
    assert codes(fifo.queue.enqueue([event()], soon(0.2))) == ["deadline_exceeded"]
    assert fifo.calls == []


def test_on_lambda_calls_to_sqs_and_ssm_are_tried_four_times_for_two_seconds_each() -> None:
    environment = {"QUEUE_URL": "https://q", "DEAD_LETTER_QUEUE_URL": "https://d", "FLOW_TABLE": "flow"}
    deps = Dependencies.from_environment(environment)

    for client in (deps.queue._client(), deps.credentials._client):  # noqa: SLF001 -- not visible from outside
        config: Any = client.meta.config
        assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (1, 2, 4)


# -- after receiving -------------------------------------------------------------------------------------------------


def test_a_dead_letter_has_its_reason_and_sqs_own_message_id(fifo: Fifo) -> None:
    fifo.queue.enqueue([event()], soon())
    record = fifo.record()
    reason = "summary\x00is \ufffe odd " + "x" * 2000

    fifo.dead_letters.dead_letter(record, Outcome("pagerduty_rejected", reason), soon())

    (found,) = fifo.received(fifo.dead_letter_url)
    assert found["Body"] == record.body
    assert found["Attributes"]["MessageGroupId"] == record.attributes.message_group_id
    assert found["Attributes"]["MessageDeduplicationId"] == record.message_id
    assert {name: value["StringValue"] for name, value in found["MessageAttributes"].items()} == {
        "code": "pagerduty_rejected",
        "reason": ("summary is   odd " + "x" * 2000)[:1000],
    }


@pytest.mark.parametrize("count", [174_600, 255_000], ids=["too large for ASCII by a few bytes", "base64"])
def test_the_largest_message_can_still_be_dead_lettered(fifo: Fifo, count: int) -> None:
    fifo.queue.enqueue([event(content={"a": "é" * count})], soon())

    fifo.dead_letters.dead_letter(fifo.record(), Outcome("pagerduty_rejected", "x" * 9000), soon())

    assert len(fifo.received(fifo.dead_letter_url)) == 1


def test_a_failure_of_sqs_to_delete_dead_letter_or_delay_is_raised(fifo: Fifo, aws: Aws) -> None:
    fifo.queue.enqueue([event()], soon())
    record = fifo.record()
    missing = sqs.Queue(lambda: fifo.client, f"{aws.url}/123456789012/not-there.fifo")
    refused = Outcome("pagerduty_rejected", "no")

    with pytest.raises(ProcessingError) as not_deleted:
        missing.delete(record, soon())
    with pytest.raises(ProcessingError) as not_dead_lettered:
        missing.dead_letter(record, refused, soon())
    with pytest.raises(ProcessingError) as not_delayed:
        missing.delay([(record, 4)], soon())
    fail(aws, lambda *_: Failure.entries("1"))
    with pytest.raises(ProcessingError) as one_not_delayed:
        fifo.queue.delay([(record, 4), (record, 4)], soon())

    errors = (not_deleted, not_dead_lettered, not_delayed, one_not_delayed)
    assert [error.value.outcome.code for error in errors] == ["queue_unavailable"] * 4
    assert str(one_not_delayed.value) == "SQS did not delay an event (InternalError); it will be tried again"


def test_the_messages_in_flight_are_counted_at_most_every_ten_seconds(
    fifo: Fifo, aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqs.time.time", clock)
    fifo.queue.enqueue([event(1), event(2), event(3)], soon())
    counts = [fifo.queue.in_flight(soon())]
    fifo.received()
    for seconds in (9.9, 0.1):
        clock.now += seconds
        counts.append(fifo.queue.in_flight(soon()))
    fail(aws, lambda *_: Failure.answer(503, "ServiceUnavailable"))
    clock.now += 10
    counts.append(fifo.queue.in_flight(soon()))
    fail(aws, None)
    fifo.queue.enqueue([event(4)], soon())
    fifo.received()
    clock.now -= 3600
    counts.append(fifo.queue.in_flight(soon()))

    assert counts == [0, 0, 3, 3, 4]
