"""The queue's sender: what a message is, and what becomes of each event when SQS takes some and refuses others."""

import base64
import json
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import sqs
from delivery import Job, Queued
from errors import Deferred, Rejected

HEX = set("0123456789abcdef")


def job(n: int = 1, action: str = "trigger", **changes: Any) -> Job:
    body = json.dumps({"event_action": action, "dedup_key": f"incident-{n}"}, separators=(",", ":")).encode()
    return Job(
        **{"kind": "alert", "body": body, "dedup_key": f"incident-{n}", "message_id": "m", "action": action} | changes
    )


def soon() -> float:
    return time.monotonic() + 5


def codes(deliveries: list[Any]) -> list[str]:
    return [delivery.code if isinstance(delivery, Deferred) else type(delivery).__name__ for delivery in deliveries]


# -- messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_ascii_json_without_a_routing_key() -> None:
    message = sqs.write("default", job(body='{"payload":{"summary":"Käse ☃"}}'.encode()))

    assert message.body.isascii()
    assert json.loads(message.body) == {
        "service": "default",
        "kind": "alert",
        "action": "trigger",
        "dedup_key": "incident-1",
        "message_id": "m",
        "occurred_at": None,
        "event": {"payload": {"summary": "Käse ☃"}},
    }


@pytest.mark.parametrize("body", [b'{"a":1}', '{"a":"Käse ☃ 😀"}'.encode(), b'{"a":"' + "é".encode() * 250_000 + b'"}'])
def test_what_is_written_is_read_again(body: bytes) -> None:
    written = job(body=body)

    message = sqs.write("checkout", written)

    assert len(message.body) <= sqs.MAX_MESSAGE_BYTES
    assert sqs.read(message.body) == ("checkout", written)


@pytest.mark.parametrize("offset", [UTC, timezone(timedelta(hours=5.5))])
def test_when_an_event_occurred_is_known_to_the_worker(offset: tzinfo) -> None:
    occurred_at = datetime(2026, 1, 31, 12, 0, 0, 123456, offset)

    _, read = sqs.read(sqs.write("default", job(occurred_at=occurred_at)).body)

    assert read.occurred_at == occurred_at


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        "7",
        "null",
        "{}",
        '{"event": 7}',
        '{"event_base64": "!"}',
        '{"event_base64": 7}',
        "[" * 100_000,
    ],
)
def test_a_message_of_somebody_else_is_unreadable(body: str) -> None:
    with pytest.raises(Rejected) as caught:
        sqs.read(body)

    assert caught.value.code == "message_unreadable"


def test_ids_are_what_sqs_takes() -> None:
    message = sqs.write("default", job(dedup_key="☃" * 200, message_id="\ud800 spaces and\nlines"))

    assert len(message.group) == len(message.deduplication_id) == 64
    assert set(message.group + message.deduplication_id) <= HEX


def test_events_of_one_incident_share_a_group() -> None:
    assert sqs.write("default", job(action="trigger")).group == sqs.write("default", job(action="resolve")).group


@pytest.mark.parametrize(
    ("service", "other"),
    [("default", job(2)), ("checkout", job())],
)
def test_events_of_different_incidents_or_services_do_not(service: str, other: Job) -> None:
    assert sqs.write("default", job()).group != sqs.write(service, other).group


def test_change_events_wait_for_nobody() -> None:
    first = job(kind="change", dedup_key=None, message_id="c-1")
    second = job(kind="change", dedup_key=None, message_id="c-2")

    assert sqs.write("default", first).group != sqs.write("default", second).group


def test_a_retry_has_the_same_ids() -> None:
    assert sqs.write("default", job()) == sqs.write("default", job())


def test_a_resolve_that_reuses_its_triggers_id_is_not_a_retry() -> None:
    trigger, resolve = sqs.write("default", job(action="trigger")), sqs.write("default", job(action="resolve"))

    assert trigger.deduplication_id != resolve.deduplication_id


def test_the_same_event_with_another_id_is_another_event() -> None:
    first, second = sqs.write("default", job(message_id="m-1")), sqs.write("default", job(message_id="m-2"))

    assert first.deduplication_id != second.deduplication_id


def test_without_an_id_the_event_is_its_own() -> None:
    change = job(kind="change", dedup_key=None, message_id=None)
    other = job(2, kind="change", dedup_key=None, message_id=None)

    assert sqs.write("default", change) == sqs.write("default", change)
    assert sqs.write("default", change).group != sqs.write("default", other).group
    assert sqs.write("default", change).deduplication_id != sqs.write("default", other).deduplication_id


# -- sending ---------------------------------------------------------------------------------------------------------


class Sqs:
    """A real client of moto's server, whose calls are noted, and which can be told to refuse."""

    def __init__(self, aws_url: str) -> None:
        self.client = boto3.client("sqs", endpoint_url=aws_url)
        self.url = self.client.create_queue(
            QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true", "VisibilityTimeout": "0"}
        )["QueueUrl"]
        self.calls: list[list[Job]] = []
        self.refused: set[str] = set()  # incidents whose entries fail
        self.fails = False
        self.client.meta.events.register("provide-client-params.sqs.SendMessageBatch", self._note)
        self.client.meta.events.register("after-call.sqs.SendMessageBatch", self._refuse)

    def received(self) -> list[Job]:
        jobs = []
        while messages := self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                jobs.append(sqs.read(message["Body"])[1])
                self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return jobs

    def _note(self, params: dict[str, Any], **_: Any) -> None:
        if self.fails:
            raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, "SendMessageBatch")
        self.calls.append([sqs.read(entry["MessageBody"])[1] for entry in params["Entries"]])

    def _refuse(self, parsed: dict[str, Any], **_: Any) -> None:
        failed = [entry for entry in parsed["Successful"] if self.calls[-1][int(entry["Id"])].dedup_key in self.refused]
        parsed["Successful"] = [entry for entry in parsed["Successful"] if entry not in failed]
        parsed["Failed"] = [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in failed]


@pytest.fixture
def fifo(aws_url: str) -> Sqs:
    return Sqs(aws_url)


@pytest.fixture
def queue(fifo: Sqs) -> sqs.Queue:
    return sqs.Queue(fifo.client, fifo.url)


def test_events_are_enqueued_ten_a_call(fifo: Sqs, queue: sqs.Queue) -> None:
    jobs = [job(n) for n in range(25)]

    assert queue.deliver("default", jobs, soon()) == [Queued()] * 25
    assert [len(call) for call in fifo.calls] == [10, 10, 5]
    assert sorted(job.dedup_key or "" for job in fifo.received()) == sorted(job.dedup_key or "" for job in jobs)


def test_a_call_holds_no_two_events_of_one_incident(fifo: Sqs, queue: sqs.Queue) -> None:
    queue.deliver("default", [job(1), job(2), job(1, "acknowledge"), job(1, "resolve"), job(2, "resolve")], soon())

    assert [[(each.dedup_key, each.action) for each in call] for call in fifo.calls] == [
        [("incident-1", "trigger"), ("incident-2", "trigger")],
        [("incident-1", "acknowledge"), ("incident-2", "resolve")],
        [("incident-1", "resolve")],
    ]


def test_a_call_holds_no_more_bytes_than_sqs_takes(fifo: Sqs, queue: sqs.Queue) -> None:
    jobs = [job(n, body=b'{"a":"' + b"x" * 400_000 + b'"}') for n in range(5)]

    assert queue.deliver("default", jobs, soon()) == [Queued()] * 5
    assert [len(call) for call in fifo.calls] == [2, 2, 1]


def test_an_entry_that_sqs_refuses_is_deferred_and_holds_back_the_rest_of_its_incident(
    fifo: Sqs, queue: sqs.Queue
) -> None:
    fifo.refused = {"incident-1"}

    deliveries = queue.deliver("default", [job(1), job(2), job(1, "resolve"), job(2, "resolve")], soon())

    assert codes(deliveries) == ["queue_unavailable", "Queued", "held_back", "Queued"]
    assert [delivery.status for delivery in deliveries if isinstance(delivery, Deferred)] == [503, 503]


def test_when_sqs_is_down_every_event_is_deferred(fifo: Sqs, queue: sqs.Queue) -> None:
    fifo.fails = True

    deliveries = queue.deliver("default", [job(1), job(1, "resolve"), job(2)], soon())

    assert codes(deliveries) == ["queue_unavailable", "held_back", "queue_unavailable"]


def test_no_call_is_begun_without_time_for_it(fifo: Sqs, queue: sqs.Queue) -> None:
    assert codes(queue.deliver("default", [job()], time.monotonic() + 0.5)) == ["out_of_time"]
    assert fifo.calls == []


def test_a_deleted_message_is_gone(fifo: Sqs, queue: sqs.Queue) -> None:
    queue.deliver("default", [job()], soon())
    (received,) = fifo.client.receive_message(QueueUrl=fifo.url)["Messages"]

    queue.delete(received["ReceiptHandle"])

    assert fifo.received() == []


def test_a_message_that_cannot_be_deleted_is_deferred(aws_url: str) -> None:
    queue = sqs.Queue(boto3.client("sqs", endpoint_url=aws_url), f"{aws_url}/123456789012/not-there.fifo")

    with pytest.raises(Deferred) as caught:
        queue.delete("receipt")

    assert caught.value.code == "queue_unavailable"


def test_a_buried_message_has_its_reason(fifo: Sqs, queue: sqs.Queue) -> None:
    message = sqs.write("default", job())

    queue.bury(message, Rejected("pagerduty_rejected", "summary\x00is \ufffe odd " + "x" * 2000))

    (received,) = fifo.client.receive_message(QueueUrl=fifo.url, MessageAttributeNames=["All"])["Messages"]
    attributes = {name: value["StringValue"] for name, value in received["MessageAttributes"].items()}
    assert received["Body"] == message.body
    assert attributes["code"] == "pagerduty_rejected"
    assert attributes["reason"] == ("summary is   odd " + "x" * 2000)[:1000]


def test_the_largest_message_can_still_be_buried(fifo: Sqs, queue: sqs.Queue) -> None:
    message = sqs.write("default", job(body=b'{"a":"' + b"x" * 511_000 + b'"}'))

    queue.bury(message, Rejected("pagerduty_rejected", "no"))

    assert len(fifo.received()) == 1


def test_a_dead_letter_queue_that_fails_leaves_the_message_where_it_is(aws_url: str) -> None:
    queue = sqs.Queue(boto3.client("sqs", endpoint_url=aws_url), f"{aws_url}/123456789012/not-there.fifo")

    with pytest.raises(Deferred) as caught:
        queue.bury(sqs.write("default", job()), Rejected("pagerduty_rejected", "no"))

    assert caught.value.code == "queue_unavailable"


def test_base64_is_for_what_ascii_would_make_too_large() -> None:
    message = sqs.write("default", job(body=b'{"a":"' + "é".encode() * 250_000 + b'"}'))

    assert base64.b64decode(json.loads(message.body)["event_base64"]).startswith(b'{"a":"\xc3\xa9')
