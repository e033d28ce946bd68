"""The local SSM, SQS and DynamoDB as boto3 sees them: what is refused, and what is concurrent."""

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from chaos.faults import Failure, fail
from local.aws_server import Aws
from local.resources import create_flow_table
from tests.support import Clock

EVERY_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
ATTRIBUTES: dict[str, Any] = {"MessageAttributes": {"a": {"DataType": "String", "StringValue": "x"}}}


class Queue:
    """A FIFO queue, used through boto3."""

    def __init__(self, sqs: Any) -> None:
        self.sqs = sqs
        attributes = {"FifoQueue": "true", "VisibilityTimeout": "120"}
        self.url = sqs.create_queue(QueueName=f"q-{uuid.uuid4()}.fifo", Attributes=attributes)["QueueUrl"]

    def send(self, body: str = "b", group: str = "g", **changes: Any) -> Any:
        return self.sqs.send_message(QueueUrl=self.url, **message(body, group) | changes)

    def send_batch(self, *entries: dict[str, Any]) -> Any:
        return self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)

    def receive(self, count: int = 10) -> list[Any]:
        answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=count)
        return list(answer.get("Messages", []))

    def bodies(self, count: int = 10) -> list[str]:
        return [each["Body"] for each in self.receive(count)]


@pytest.fixture
def queue(clocked_sqs: Any) -> Queue:
    return Queue(clocked_sqs)


def message(body: str = "b", group: str = "g") -> dict[str, Any]:
    return {"MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": str(uuid.uuid4())}


def entry(id: str, body: str = "b", group: str = "g", **changes: Any) -> dict[str, Any]:  # noqa: A002 -- SQS's name
    return {"Id": id, **message(body, group), **changes}


def code_of(call: Callable[[], object]) -> str:
    """Return the AWS error code with which a call is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    return refused.value.response["Error"]["Code"]


def test_deleting_a_batch_succeeds_or_fails_entry_by_entry(queue: Queue, queue_clock: Clock) -> None:
    queue.send_batch(entry("1", group="a"), entry("2", group="b"))
    late = queue.receive(1)[0]["ReceiptHandle"]
    queue_clock.now += 120
    good = queue.receive(2)[1]["ReceiptHandle"]
    entries = [{"Id": "late", "ReceiptHandle": late}, {"Id": "good", "ReceiptHandle": good}]
    answer = queue.sqs.delete_message_batch(QueueUrl=queue.url, Entries=entries)

    assert [each["Id"] for each in answer["Successful"]] == ["good"]
    assert [(each["Id"], each["Code"]) for each in answer["Failed"]] == [("late", "InvalidParameterValue")]


@pytest.mark.parametrize(
    "changes",
    [
        {"MessageGroupId": "a b"},
        {"MessageGroupId": "x" * 129},
        {"MessageDeduplicationId": ""},
        {"MessageBody": ""},
        {"MessageBody": "a\x1b"},
        {"MessageBody": "\ud800"},
        {"MessageAttributes": {"a": {"DataType": "String", "StringValue": ""}}},
        {"MessageAttributes": {"a": {"DataType": "String", "StringValue": "\x00"}}},
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_message_that_sqs_does_not_accept_is_refused(queue: Queue, changes: dict[str, Any]) -> None:
    assert code_of(lambda: queue.send(**changes)) == "InvalidParameterValue"
    assert queue.bodies() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"MessageGroupId": "x" * 128, "MessageDeduplicationId": EVERY_PUNCTUATION + "aZ09"},
        {"MessageBody": "\t\n\r \ud7ff\ue000\ufffd\U00010000\U0010ffff"},
        {"MessageBody": "x" * 1_048_568, **ATTRIBUTES},
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_message_at_the_limits_is_accepted(queue: Queue, changes: dict[str, Any]) -> None:
    queue.send(**changes)

    assert queue.bodies() == [changes.get("MessageBody", "b")]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([entry(str(n)) for n in range(11)], "InvalidParameterValue"),
        ([entry("1"), entry("1")], "InvalidParameterValue"),
        ([entry("1", "é" * 262_144), entry("2", "é" * 262_145)], "AWS.SimpleQueueService.BatchRequestTooLong"),
        ([entry("1", "x" * 1_048_569, **ATTRIBUTES)], "AWS.SimpleQueueService.BatchRequestTooLong"),
    ],
    ids=["eleven", "repeated id", "too long in UTF-8", "too long with attributes"],
)
def test_a_batch_that_sqs_does_not_accept_is_refused(queue: Queue, entries: list[dict[str, Any]], code: str) -> None:
    assert code_of(lambda: queue.send_batch(*entries)) == code
    assert queue.bodies() == []


@pytest.mark.parametrize(
    ("action", "request_", "what"),
    [("send_message", {**message(), "DelaySeconds": 1}, "DelaySeconds"), ("purge_queue", {}, "PurgeQueue")],
    ids=["parameter", "call"],
)
def test_what_is_not_modelled_is_refused_by_its_name(
    queue: Queue, action: str, request_: dict[str, Any], what: str
) -> None:
    with pytest.raises(ClientError, match=f"The local SQS does not model {what}; see local/aws_server.py"):
        getattr(queue.sqs, action)(QueueUrl=queue.url, **request_)


@pytest.fixture
def switching_at_every_chance() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching_at_every_chance")
def test_of_concurrent_writers_one_succeeds_and_the_others_get_what_it_wrote(clocked_aws: Aws) -> None:
    barrier = threading.Barrier(8)
    dynamodb = clocked_aws.client("dynamodb")
    table = create_flow_table(dynamodb, f"t-{uuid.uuid4()}")

    def raise_to(number: int) -> str | None:
        barrier.wait()
        try:
            dynamodb.update_item(
                TableName=table,
                Key={"service": {"S": "default"}},
                UpdateExpression="SET lease = :new",
                ConditionExpression="attribute_not_exists(lease) OR lease < :new",
                ExpressionAttributeValues={":new": {"N": str(number)}},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except dynamodb.exceptions.ConditionalCheckFailedException as error:
            return str(error.response["Item"]["lease"]["N"])
        return None

    with ThreadPoolExecutor(8) as threads:
        for number in range(1, 6):
            answers = list(threads.map(raise_to, [number] * 8))
            assert answers.count(None) == 1
            assert answers.count(str(number)) == 7


def test_stopping_ends_waiting_calls() -> None:
    arrived = threading.Event()

    def hang(*_: object) -> Failure:
        arrived.set()
        return Failure.hang()

    with Aws() as aws, ThreadPoolExecutor(1) as threads:
        fail(aws, hang)
        hanging = threads.submit(aws.client("ssm").describe_parameters)
        assert arrived.wait(30)
        aws.stop()
        assert isinstance(hanging.exception(timeout=30), BotoCoreError)
