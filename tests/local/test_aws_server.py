"""The local SSM, SQS and DynamoDB as boto3 sees them: what is refused, and what is concurrent."""

import functools
import hashlib
import json
import sys
import threading
import time
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


@functools.cache
def client(aws: Aws) -> Any:
    """Return the one client of a server: making one takes longer than most tests."""
    return aws.client("sqs")


class Queue:
    """A FIFO queue, used through boto3."""

    def __init__(self, aws: Aws, **attributes: str) -> None:
        self.sqs = client(aws)
        self.name = f"q-{uuid.uuid4()}.fifo"
        asked = {"FifoQueue": "true", "VisibilityTimeout": "120", "DeduplicationScope": "messageGroup", **attributes}
        self.url = self.sqs.create_queue(QueueName=self.name, Attributes=asked)["QueueUrl"]

    def attribute(self, name: str) -> str:
        return str(self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])["Attributes"][name])

    def send(self, body: str = "b", group: str = "g", **changes: Any) -> Any:
        return self.sqs.send_message(QueueUrl=self.url, **message(body, group) | changes)

    def send_batch(self, *entries: dict[str, Any]) -> Any:
        return self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)

    def receive(self, count: int = 10, **changes: Any) -> list[Any]:
        answer = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=count, MessageSystemAttributeNames=["All"], **changes
        )
        return list(answer.get("Messages", []))

    def bodies(self, count: int = 10) -> list[str]:
        return [each["Body"] for each in self.receive(count)]


@pytest.fixture(scope="module")
def time_of_queues() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def aws(time_of_queues: Clock) -> Iterator[Aws]:
    with Aws(clock=time_of_queues) as running:
        yield running


@pytest.fixture
def queue(aws: Aws) -> Queue:
    return Queue(aws)


def message(body: str = "b", group: str = "g") -> dict[str, Any]:
    return {"MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": str(uuid.uuid4())}


def entry(id: str, body: str = "b", group: str = "g", **changes: Any) -> dict[str, Any]:  # noqa: A002 -- SQS's name
    return {"Id": id, **message(body, group), **changes}


def code_of(call: Callable[[], object]) -> str:
    """Return the AWS error code with which a call is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return refused.value.response["Error"]["Code"]


# -- messages --------------------------------------------------------------------------------------------------------


def test_a_message_is_received_with_its_attributes_and_those_of_sqs(queue: Queue, time_of_queues: Clock) -> None:
    sent = queue.send("é", "a", MessageDeduplicationId="d-1", **ATTRIBUTES)
    queue.receive()
    time_of_queues.now += 120
    (received,) = queue.receive(MessageAttributeNames=["All"])

    assert received["MessageId"] == sent["MessageId"]
    assert received["MessageAttributes"] == ATTRIBUTES["MessageAttributes"]
    md5 = hashlib.md5("é".encode(), usedforsecurity=False).hexdigest()
    assert received["MD5OfBody"] == sent["MD5OfMessageBody"] == md5
    system = received["Attributes"]
    assert int(system.pop("ApproximateFirstReceiveTimestamp")) - int(system.pop("SentTimestamp")) == 0
    assert len(system["SequenceNumber"]) == 20
    assert system == {
        "SenderId": "AIDALOCALLOCALLOCALLO",
        "ApproximateReceiveCount": "2",
        "SequenceNumber": sent["SequenceNumber"],
        "MessageGroupId": "a",
        "MessageDeduplicationId": "d-1",
    }


def test_a_batch_is_accepted_in_its_order_and_duplicates_are_answered_like_the_first(queue: Queue) -> None:
    twice = entry("1", "m1")
    answer = queue.send_batch(twice, entry("2", "m2"), twice | {"Id": "3"})

    assert [each["Id"] for each in answer["Successful"]] == ["1", "2", "3"]
    assert answer["Successful"][0]["MessageId"] == answer["Successful"][2]["MessageId"]
    assert "MessageAttributes" not in queue.receive(1)[0]
    assert queue.attribute("ApproximateNumberOfMessages") == "1"
    assert queue.attribute("ApproximateNumberOfMessagesNotVisible") == "1"


def test_deleting_a_batch_succeeds_or_fails_entry_by_entry(queue: Queue, time_of_queues: Clock) -> None:
    queue.send_batch(entry("1", group="a"), entry("2", group="b"))
    late = queue.receive(1)[0]["ReceiptHandle"]
    time_of_queues.now += 120
    good = queue.receive(2)[1]["ReceiptHandle"]
    entries = [{"Id": "late", "ReceiptHandle": late}, {"Id": "good", "ReceiptHandle": good}]
    answer = queue.sqs.delete_message_batch(QueueUrl=queue.url, Entries=entries)

    assert [each["Id"] for each in answer["Successful"]] == ["good"]
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("late", "InvalidParameterValue", True)


def test_concurrent_receivers_never_get_the_same_message(queue: Queue) -> None:
    for tens in range(5):
        queue.send_batch(*(entry(f"{tens}{n}", f"{tens}{n}", f"g-{tens}{n}") for n in range(10)))

    with ThreadPoolExecutor(8) as threads:
        received = list(threads.map(lambda _: queue.bodies(3), range(20)))

    assert sorted(body for bodies in received for body in bodies) == [f"{n:02}" for n in range(50)]


def test_with_a_speed_a_delayed_message_is_visible_sooner_and_reports_a_longer_wait(time_of_queues: Clock) -> None:
    with Aws(clock=time_of_queues, speed=10) as fast:
        queue = Queue(fast)
        queue.send()
        handle = queue.receive()[0]["ReceiptHandle"]
        queue.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=handle, VisibilityTimeout=60)
        time_of_queues.now += 5.9
        assert queue.bodies() == []
        time_of_queues.now += 0.1
        (received,) = queue.receive()

    assert time.time() - int(received["Attributes"]["SentTimestamp"]) / 1000 == pytest.approx(60, abs=30)


def test_a_queue_has_its_own_visibility_timeout_and_dead_letter_queue(aws: Aws, time_of_queues: Clock) -> None:
    dead_letters = Queue(aws)
    policy = json.dumps({"deadLetterTargetArn": dead_letters.attribute("QueueArn"), "maxReceiveCount": 1})
    queue = Queue(aws, VisibilityTimeout="5", RedrivePolicy=policy)
    queue.send("poison")
    assert queue.bodies() == ["poison"]
    time_of_queues.now += 5

    assert queue.bodies() == []
    assert dead_letters.bodies() == ["poison"]


def test_a_queue_that_does_not_exist_is_refused_and_one_that_was_deleted_starts_empty(queue: Queue) -> None:
    queue.send("m", MessageDeduplicationId="one")
    queue.sqs.delete_queue(QueueUrl=queue.url)
    assert code_of(queue.send) == "AWS.SimpleQueueService.NonExistentQueue"

    queue.sqs.create_queue(QueueName=queue.name, Attributes={"FifoQueue": "true"})
    queue.send("n", MessageDeduplicationId="one")
    assert queue.bodies() == ["n"]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"MessageGroupId": "a b"}, "InvalidParameterValue"),
        ({"MessageGroupId": None}, "MissingParameter"),
        ({"MessageDeduplicationId": ""}, "InvalidParameterValue"),
        ({"MessageDeduplicationId": None}, "MissingParameter"),
        ({"MessageBody": ""}, "MissingParameter"),
        ({"MessageBody": "a\x1b"}, "InvalidMessageContents"),
        ({"MessageBody": "\ud800"}, "InvalidMessageContents"),
        ({"MessageBody": "é" * 524_289}, "InvalidParameterValue"),
        ({"MessageBody": "x" * 1_048_569, **ATTRIBUTES}, "InvalidParameterValue"),
        ({"MessageAttributes": {"a": {"DataType": "String", "StringValue": ""}}}, "InvalidParameterValue"),
        ({"MessageAttributes": {"a": {"DataType": "String", "StringValue": "\x00"}}}, "InvalidParameterValue"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_message_that_sqs_does_not_accept_is_refused(queue: Queue, changes: dict[str, Any], code: str) -> None:
    wrong = {name: value for name, value in (message() | changes).items() if value is not None}

    assert code_of(lambda: queue.sqs.send_message(QueueUrl=queue.url, **wrong)) == code
    assert queue.bodies() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"MessageGroupId": EVERY_PUNCTUATION + "aZ09", "MessageDeduplicationId": "x" * 128},
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
        ([], "EmptyBatchRequest"),
        ([entry(str(n)) for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([entry("1"), entry("1")], "BatchEntryIdsNotDistinct"),
        ([entry("1", "é" * 262_144), entry("2", "é" * 262_145)], "BatchRequestTooLong"),
        ([entry("1", "x" * 524_288), entry("2", "x" * 524_281, **ATTRIBUTES)], "BatchRequestTooLong"),
    ],
    ids=["empty", "eleven", "repeated id", "too long in UTF-8", "too long with attributes"],
)
def test_a_batch_that_sqs_does_not_accept_is_refused(queue: Queue, entries: list[dict[str, Any]], code: str) -> None:
    assert code_of(lambda: queue.send_batch(*entries)) == f"AWS.SimpleQueueService.{code}"
    assert queue.bodies() == []


NUMBER = {"MessageAttributes": {"a": {"DataType": "Number", "StringValue": "1"}}}


@pytest.mark.parametrize(
    ("action", "request_", "what"),
    [
        ("send_message", {**message(), "DelaySeconds": 1}, "DelaySeconds"),
        ("send_message", {**message(), **NUMBER}, "message attributes of type Number"),
        ("receive_message", {"WaitTimeSeconds": 1}, "WaitTimeSeconds"),
        ("purge_queue", {}, "PurgeQueue"),
        ("create_queue", {"QueueName": "standard"}, "standard queues"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_not_modelled_is_refused_by_its_name(
    queue: Queue, action: str, request_: dict[str, Any], what: str
) -> None:
    place = {} if action == "create_queue" else {"QueueUrl": queue.url}
    with pytest.raises(ClientError, match=f"The local SQS does not model {what}; see local/aws_server.py") as refused:
        getattr(queue.sqs, action)(**place, **request_)

    assert refused.value.response["Error"]["Code"] == "AWS.SimpleQueueService.UnsupportedOperation"


# -- moto ------------------------------------------------------------------------------------------------------------


def raise_to(dynamodb: Any, table: str, number: int) -> dict[str, Any] | None:
    """Write a number if it is greater than the stored one; otherwise return the stored item."""
    request: Any = {
        "Key": {"service": {"S": "default"}},
        "UpdateExpression": "SET lease = :new",
        "ConditionExpression": "attribute_not_exists(lease) OR lease < :new",
        "ExpressionAttributeValues": {":new": {"N": str(number)}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    try:
        dynamodb.update_item(TableName=table, **request)
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return dict(error.response["Item"])
    return None


@pytest.fixture
def switching_at_every_chance() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching_at_every_chance")
def test_of_concurrent_writers_one_succeeds_and_the_others_get_what_it_wrote(aws: Aws) -> None:
    barrier = threading.Barrier(8)
    dynamodb = aws.client("dynamodb")
    table = create_flow_table(dynamodb, f"t-{uuid.uuid4()}")

    def write(number: int) -> dict[str, Any] | None:
        barrier.wait()
        return raise_to(dynamodb, table, number)

    with ThreadPoolExecutor(8) as threads:
        rounds = [list(threads.map(write, [number] * 8)) for number in range(1, 21)]

    assert [answers.count(None) for answers in rounds] == [1] * 20
    assert [{item["lease"]["N"] for item in answers if item} for answers in rounds] == [
        {str(number)} for number in range(1, 21)
    ]


@pytest.mark.parametrize(
    ("action", "request_", "what"),
    [
        ("scan", {}, "Scan"),
        ("update_item", {"Key": {"service": {"S": "default"}}, "AttributeUpdates": {}}, "AttributeUpdates"),
    ],
    ids=["call", "parameter"],
)
def test_what_of_dynamodb_is_not_modelled_is_refused_by_its_name(
    aws: Aws, action: str, request_: dict[str, Any], what: str
) -> None:
    with pytest.raises(ClientError, match=f"The local DynamoDB does not model {what}; see local/aws_server.py"):
        getattr(aws.client("dynamodb"), action)(TableName="any", **request_)


# -- starting and stopping -------------------------------------------------------------------------------------------


def test_stopping_ends_waiting_calls_and_a_restart_finds_the_messages() -> None:
    with Aws() as aws:
        queue = Queue(aws)
        queue.send("m")
        url, arrived = aws.url, threading.Event()

        def hang(*_: object) -> Failure:
            arrived.set()
            return Failure.hang()

        fail(aws, hang)
        with ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(queue.send)
            assert arrived.wait(30)
            aws.stop()
            assert isinstance(hanging.exception(timeout=30), BotoCoreError)

        fail(aws, None)
        aws.start()
        with pytest.raises(RuntimeError, match="already listens"):
            aws.start()
        assert aws.url == url
        assert queue.bodies() == ["m"]
