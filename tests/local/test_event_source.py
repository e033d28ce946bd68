"""The local event source mapping: what the worker receives, and what follows from its answers."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.aws_server import Aws
from local.event_source import EventSource, failed_items
from tests.support import Clock, wait_until

VISIBILITY = 120


class Mapping:
    """A queue, and an event source that feeds it to a worker."""

    def __init__(self, aws: Aws, sqs: Any) -> None:
        self.aws = aws
        self.sqs = sqs
        self.batches: list[list[Any]] = []
        # The worker; it is called with the records of each invocation.
        self.work: Callable[[list[Any]], str] = failing()
        attributes = {"FifoQueue": "true", "VisibilityTimeout": str(VISIBILITY)}
        self.url = sqs.create_queue(QueueName=f"q-{uuid.uuid4()}.fifo", Attributes=attributes)["QueueUrl"]
        self.source = self.configured()

    def configured(self, **settings: Any) -> EventSource:
        self.source = EventSource(self.sqs, self.url, self._invoke, **settings)
        return self.source

    def _invoke(self, event: str) -> str:
        records = json.loads(event)["Records"]
        self.batches.append(records)
        return self.work(records)

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for batch in self.batches for record in batch]

    def send(self, *bodies: str, group: str = "", **changes: Any) -> None:
        """Send messages, each to the group that its first letter names unless one is given."""
        for body in bodies:
            request = {"MessageGroupId": group or body[0], "MessageDeduplicationId": str(uuid.uuid4()), **changes}
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **request)

    def left(self) -> list[str]:
        return [message.body for message in self.aws.peek(self.url)]

    def settle(self, batches: int) -> None:
        """Wait until that many batches have been processed."""
        wait_until(lambda: self.source.batches == batches)


@pytest.fixture
def mapping(clocked_aws: Aws, clocked_sqs: Any) -> Iterator[Mapping]:
    made = Mapping(clocked_aws, clocked_sqs)
    yield made
    made.source.stop()


def failing(*bodies: str) -> Callable[[list[Any]], str]:
    """Return a worker that fails the messages with these bodies."""

    def work(records: list[Any]) -> str:
        failed = [{"itemIdentifier": record["messageId"]} for record in records if record["body"] in bodies]
        return json.dumps({"batchItemFailures": failed})

    return work


def test_the_event_has_the_form_of_lambdas(mapping: Mapping) -> None:
    attributes = {"reason": {"DataType": "String", "StringValue": "é"}}
    mapping.send("wörld", group="a-group", MessageAttributes=attributes)
    mapping.send("without attributes")
    with mapping.source:
        mapping.settle(1)

    record, other = mapping.batches[0]
    assert other["messageAttributes"] == {}
    system = record.pop("attributes")
    assert record.pop("receiptHandle").startswith(record.pop("messageId"))
    assert record == {
        "body": "wörld",
        "messageAttributes": {
            "reason": {"stringValue": "é", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
        },
        "md5OfBody": "8a223f8cb0e9065ff43b328b97e8467e",
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{mapping.url.rpartition('/')[2]}",
        "awsRegion": "us-east-1",
    }
    assert (system["ApproximateReceiveCount"], system["MessageGroupId"]) == ("1", "a-group")


def test_a_batch_has_at_most_so_many_messages_and_those_of_a_group_in_order(mapping: Mapping) -> None:
    mapping.send("m0", "m1", "m2")
    with mapping.configured(batch_size=2, max_concurrency=10):
        mapping.settle(2)

    assert [len(batch) for batch in mapping.batches] == [2, 1]
    assert mapping.bodies == ["m0", "m1", "m2"]
    assert (mapping.source.failures, mapping.left()) == (0, [])


def test_batches_of_different_groups_are_processed_concurrently_up_to_the_limit(mapping: Mapping) -> None:
    together, running, most = threading.Barrier(4), threading.Semaphore(4), []

    def work(_: list[Any]) -> str:
        most.append(running.acquire(blocking=False))
        together.wait(30)
        running.release()
        return "{}"

    mapping.work = work
    mapping.send(*"abcdefgh")
    with mapping.configured(batch_size=1, max_concurrency=4):
        mapping.settle(8)

    assert most == [True] * 8


def test_a_failed_message_is_received_again_before_later_ones_of_its_group(
    mapping: Mapping, queue_clock: Clock
) -> None:
    mapping.work = failing("a1", "a2")
    mapping.send("a1", "b1", "a2")
    with mapping.source:
        mapping.settle(1)
        mapping.send("a3")
        mapping.send("b2")
        mapping.settle(2)
        mapping.work = failing()
        queue_clock.now += VISIBILITY
        mapping.settle(3)

    assert mapping.bodies == ["a1", "a2", "b1", "b2", "a1", "a2", "a3"]
    assert [record["attributes"]["ApproximateReceiveCount"] for record in mapping.batches[2]] == ["2", "2", "1"]
    assert (mapping.source.failures, mapping.left()) == (2, [])


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ('{"batchItemFailures": []}', ""),
        ("null", ""),
        ('{"batchItemFailures": [{"itemIdentifier": "b"}]}', "b"),
        ('{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "z"}]}', None),
        ('{"errorType": "Sandbox.Timedout", "batchItemFailures": []}', None),
        ("Task timed out after 90.00 seconds", None),
        ("[]", None),
    ],
)
def test_the_answer_names_the_messages_that_failed(answer: str, failed: str | None) -> None:
    assert failed_items(answer, {"a", "b", "c"}) == (None if failed is None else set(failed))


@pytest.mark.parametrize("retry_seconds", [None, 2])
def test_a_failed_invocation_fails_its_whole_batch(
    mapping: Mapping, queue_clock: Clock, retry_seconds: int | None
) -> None:
    def work(_: list[Any]) -> str:
        raise RuntimeError("killed")

    mapping.work = work
    mapping.send("m1", "m2")
    with mapping.configured(retry_seconds=retry_seconds):
        mapping.settle(1)
        assert mapping.source.failures == 2
        mapping.work = failing()
        queue_clock.now += retry_seconds or VISIBILITY
        mapping.settle(2)

    assert mapping.bodies == ["m1", "m2", "m1", "m2"]
    assert mapping.left() == []
