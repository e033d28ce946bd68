"""The queue: what a message is, and what becomes of each event when SQS takes some and refuses others."""

import base64
import json
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
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

HEX = set("0123456789abcdef")
REFUSED = Outcome("pagerduty_rejected", "no")


def event(n: int = 1, action: Any = "trigger", **changes: Any) -> Event:
    content = {"event_action": action, "dedup_key": f"incident-{n}"}
    fields = {"kind": "alert", "content": content, "dedup_key": f"incident-{n}", "message_id": "m", "action": action}
    return Event(**{"service": "default", **fields, **changes})


def change(**changes: Any) -> Event:
    return Event(**{"service": "default", "kind": "change", "content": {"payload": {"summary": "Deployed"}}, **changes})


def body(event: Event) -> str:
    return sqs.write(event, 0)["MessageBody"]


def group(event: Event) -> str:
    return sqs.write(event, 0).get("MessageGroupId", "")


def deduplication_id(event: Event) -> str:
    return sqs.write(event, 0).get("MessageDeduplicationId", "")


def codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes]


# -- messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_ascii_json_with_a_format_version_and_without_a_routing_key() -> None:
    message = body(event(content={"payload": {"summary": "Käse ☃"}}))

    assert message.isascii()
    assert json.loads(message) == {
        "version": 1,
        "service": "default",
        "kind": "alert",
        "action": "trigger",
        "dedup_key": "incident-1",
        "message_id": "m",
        "occurred_at": None,
        "event": {"payload": {"summary": "Käse ☃"}},
    }


@pytest.mark.parametrize("text", ["a", "Käse ☃ 😀", "é" * 250_000])
@pytest.mark.parametrize("make", [event, change])
def test_what_is_written_is_read_again(make: Callable[..., Event], text: str) -> None:
    written = make(content={"a": text}, service="checkout")

    message = body(written)

    assert len(message) <= sqs.MAX_MESSAGE_BYTES
    assert sqs.read(message) == written


def test_a_message_of_the_first_format_which_did_not_name_it_is_read() -> None:
    message = json.loads(body(event()))
    del message["version"]

    assert sqs.read(json.dumps(message)) == event()


@pytest.mark.parametrize("offset", [UTC, timezone(timedelta(hours=5.5))])
def test_when_an_event_occurred_is_known_to_the_worker(offset: tzinfo) -> None:
    occurred_at = datetime(2026, 1, 31, 12, 0, 0, 123456, offset)

    assert sqs.read(body(event(occurred_at=occurred_at))).occurred_at == occurred_at


def test_ids_are_what_sqs_takes() -> None:
    message = event(dedup_key="☃" * 200, message_id=" spaces and\nlines")

    assert len(group(message)) == len(deduplication_id(message)) == 64
    assert set(group(message) + deduplication_id(message)) <= HEX


def test_events_of_one_incident_share_a_group() -> None:
    assert group(event(action="trigger")) == group(event(action="resolve"))


@pytest.mark.parametrize("other", [event(2), event(service="checkout")])
def test_events_of_different_incidents_or_services_do_not(other: Event) -> None:
    assert group(event()) != group(other)


@pytest.mark.parametrize(("first", "second"), [("c-1", "c-2"), (None, None)])
def test_change_events_wait_for_nobody(first: str | None, second: str | None) -> None:
    assert group(change(message_id=first)) != group(change(message_id=second))


def test_the_same_event_for_two_services_is_two_events() -> None:
    assert deduplication_id(event(service="a")) != deduplication_id(event(service="b"))


@pytest.mark.parametrize("make", [event, change])
def test_a_retry_has_the_same_ids(make: Callable[..., Event]) -> None:
    assert sqs.write(make(message_id="m"), 0) == sqs.write(make(message_id="m"), 0)


def test_a_resolve_that_reuses_its_triggers_id_is_not_a_retry() -> None:
    assert deduplication_id(event(action="trigger")) != deduplication_id(event(action="resolve"))


def test_the_same_event_with_another_id_is_another_event() -> None:
    assert deduplication_id(event(message_id="m-1")) != deduplication_id(event(message_id="m-2"))


@pytest.mark.parametrize("make", [event, change])
def test_without_an_id_nothing_tells_a_retry_from_a_second_event_that_says_the_same(
    make: Callable[..., Event],
) -> None:
    assert deduplication_id(make(message_id=None)) != deduplication_id(make(message_id=None))


def test_base64_is_for_what_ascii_would_make_too_large() -> None:
    message = json.loads(body(event(content={"a": "é" * 250_000})))

    assert base64.b64decode(message["event_base64"]).startswith('{"a":"éé'.encode())


# -- sending ---------------------------------------------------------------------------------------------------------


class Fifo:
    """A queue of its own, of a real server; the calls that send to it are noted, and fail when told to."""

    def __init__(self, aws: Aws) -> None:
        self.client = aws.client("sqs")
        self.url, _ = create_queues(self.client, str(uuid.uuid4()))
        self.queue = sqs.Queue(lambda: self.client, self.url)
        self.calls: list[list[Event]] = []
        self.refused: set[str] = set()  # incidents whose entries fail
        self.failure: Failure | None = None
        fail(aws, self._note)

    def received(self) -> list[Event]:
        events = []
        while messages := self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                events.append(sqs.read(message["Body"]))
                self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return events

    def count(self) -> int:
        """Count the messages, those that somebody has received included."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(int(number) for number in found["Attributes"].values())

    def record(self) -> SQSRecord:
        """Receive one message, as Lambda hands it to the worker."""
        (found,) = self.client.receive_message(QueueUrl=self.url, MessageSystemAttributeNames=["All"])["Messages"]
        return SQSRecord(
            {
                "messageId": found["MessageId"],
                "receiptHandle": found["ReceiptHandle"],
                "body": found["Body"],
                "attributes": found["Attributes"],
            }
        )

    def _note(self, target: str, request: dict[str, Any]) -> Failure | None:
        if target != "AmazonSQS.SendMessageBatch":
            return None
        events = {entry["Id"]: sqs.read(entry["MessageBody"]) for entry in request["Entries"]}
        self.calls.append(list(events.values()))
        refused = [number for number, each in events.items() if each.dedup_key in self.refused]
        return Failure.entries(*refused) if refused else self.failure


@pytest.fixture
def fifo(aws: Aws) -> Fifo:
    return Fifo(aws)


@pytest.fixture
def on_lambda(fifo: Fifo, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> sqs.Queue:
    """Make the same queue as the functions make it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    environment = {"QUEUE_URL": fifo.url, "DEAD_LETTER_QUEUE_URL": fifo.url, "FLOW_TABLE": "flow"}
    return Dependencies.from_environment(environment).queue


def test_events_are_enqueued_ten_a_call(fifo: Fifo) -> None:
    events = [event(n) for n in range(25)]

    assert codes(fifo.queue.enqueue(events, soon())) == ["queued"] * 25
    assert [len(call) for call in fifo.calls] == [10, 10, 5]
    assert sorted(str(each.dedup_key) for each in fifo.received()) == sorted(str(each.dedup_key) for each in events)


def test_a_call_holds_no_two_events_of_one_incident(fifo: Fifo) -> None:
    fifo.queue.enqueue([event(1), event(2), event(1, "acknowledge"), event(1, "resolve"), event(2, "resolve")], soon())

    assert [[(each.dedup_key, each.action) for each in call] for call in fifo.calls] == [
        [("incident-1", "trigger"), ("incident-2", "trigger")],
        [("incident-1", "acknowledge"), ("incident-2", "resolve")],
        [("incident-1", "resolve")],
    ]


def test_a_call_holds_no_more_bytes_than_sqs_takes(fifo: Fifo) -> None:
    events = [event(n, content={"a": "x" * 400_000}) for n in range(5)]

    assert codes(fifo.queue.enqueue(events, soon())) == ["queued"] * 5
    assert [len(call) for call in fifo.calls] == [2, 2, 1]


def test_an_entry_that_sqs_refuses_is_deferred_and_holds_back_the_rest_of_its_incident(fifo: Fifo) -> None:
    fifo.refused = {"incident-1"}

    outcomes = fifo.queue.enqueue([event(1), event(2), event(1, "resolve"), event(2, "resolve")], soon())

    assert codes(outcomes) == ["queue_unavailable", "queued", "earlier_event_deferred", "queued"]
    assert [(each.dedup_key, each.action) for each in fifo.received()] == [
        ("incident-2", "trigger"),
        ("incident-2", "resolve"),
    ]


def test_when_sqs_is_down_every_event_is_deferred(fifo: Fifo) -> None:
    fifo.failure = Failure.answer(503, "ServiceUnavailable")

    outcomes = fifo.queue.enqueue([event(1), event(1, "resolve"), event(2)], soon())

    assert codes(outcomes) == ["queue_unavailable", "earlier_event_deferred", "queue_unavailable"]
    assert outcomes[0].message == "SQS did not accept the event (ServiceUnavailable); it will be tried again"


def test_an_sqs_that_hangs_is_waited_for_until_the_deadline_only(fifo: Fifo) -> None:
    fifo.failure = Failure.hang()
    began = time.monotonic()

    outcomes = fifo.queue.enqueue([event(1), event(2), event(2, "resolve")], began + 0.5)

    assert codes(outcomes) == ["queue_unavailable", "queue_unavailable", "earlier_event_deferred"]
    assert time.monotonic() - began < 1


def test_what_was_given_up_is_not_sent_again_behind_the_senders_back(
    fifo: Fifo, on_lambda: sqs.Queue, calls_end: Callable[[], None]
) -> None:
    fifo.failure = Failure.hang()
    outcomes = on_lambda.enqueue([event()], time.monotonic() + 0.3)
    fifo.failure = None
    calls_end()

    assert codes(outcomes) == ["queue_unavailable"]
    assert (len(fifo.calls), fifo.count()) == (1, 0)


def test_on_lambda_a_call_is_tried_four_times_for_two_seconds_each(on_lambda: sqs.Queue) -> None:
    config: Any = on_lambda._client().meta.config  # noqa: SLF001 -- what nobody else can see

    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (1, 2, 4)


def test_no_call_is_begun_without_time_for_it(fifo: Fifo) -> None:
    assert codes(fifo.queue.enqueue([event()], time.monotonic() + 0.2)) == ["deadline_exceeded"]
    assert fifo.calls == []


def test_a_deleted_message_is_gone(fifo: Fifo) -> None:
    fifo.queue.enqueue([event()], soon())

    fifo.queue.delete(fifo.record(), soon())

    assert fifo.count() == 0


def test_a_dead_letter_has_its_reason_and_sqs_own_message_id(fifo: Fifo, aws: Aws) -> None:
    fifo.queue.enqueue([event()], soon())
    dead_letters = Fifo(aws)

    reason = "summary\x00is \ufffe odd " + "x" * 2000
    record = fifo.record()
    dead_letters.queue.dead_letter(record, Outcome("pagerduty_rejected", reason), soon())

    (found,) = fifo.client.receive_message(
        QueueUrl=dead_letters.url, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"]
    )["Messages"]
    attributes = {name: value["StringValue"] for name, value in found["MessageAttributes"].items()}
    assert found["Body"] == body(event())
    assert (found["Attributes"]["MessageGroupId"], found["Attributes"]["MessageDeduplicationId"]) == (
        group(event()),
        record.message_id,
    )
    assert attributes == {"code": "pagerduty_rejected", "reason": ("summary is   odd " + "x" * 2000)[:1000]}


# The last is a little too large to be set aside as ASCII.
@pytest.mark.parametrize("count", [170_000, 255_000, 174_600])
def test_the_largest_message_can_still_be_dead_lettered(fifo: Fifo, aws: Aws, count: int) -> None:
    fifo.queue.enqueue([event(content={"a": "é" * count})], soon())
    dead_letters = Fifo(aws)

    dead_letters.queue.dead_letter(fifo.record(), Outcome("pagerduty_rejected", "x" * 9000), soon())

    assert dead_letters.count() == 1


def test_what_sqs_does_not_do_to_a_message_is_told(fifo: Fifo, aws: Aws) -> None:
    fifo.queue.enqueue([event()], soon())
    record = fifo.record()
    gone = sqs.Queue(lambda: fifo.client, f"{aws.url}/123456789012/not-there.fifo")

    with pytest.raises(ProcessingError) as not_deleted:
        gone.delete(record, soon())
    with pytest.raises(ProcessingError) as not_dead_lettered:
        gone.dead_letter(record, REFUSED, soon())
    fail(aws, lambda *_: Failure.entries("1"))
    with pytest.raises(ProcessingError) as not_delayed:
        fifo.queue.delay([(record, 4), (record, 4)], soon())

    errors = (not_deleted, not_dead_lettered, not_delayed)
    assert [error.value.outcome.code for error in errors] == ["queue_unavailable"] * 3
    assert str(not_delayed.value) == "SQS did not delay an event (InternalError); it will be tried again"


def test_the_messages_in_flight_are_counted_at_most_every_ten_seconds(
    fifo: Fifo, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("sqs.time.time", clock)
    fifo.queue.enqueue([event(1), event(2)], soon())
    counts = [fifo.queue.in_flight(soon())]
    fifo.record()
    for seconds in (9.9, 0.1, 10):
        clock.now += seconds
        counts.append(fifo.queue.in_flight(soon()))
    fail(aws, lambda *_: Failure.answer(503, "ServiceUnavailable"))
    clock.now += 10
    counts.append(fifo.queue.in_flight(soon()))
    clock.now -= 3600
    fail(aws, None)
    fifo.record()
    counts.append(fifo.queue.in_flight(soon()))

    assert counts == [0, 0, 1, 1, 1, 2]
