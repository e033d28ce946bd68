"""The local SSM, SQS and DynamoDB: the rules of FIFO queues, what SQS refuses, and how it fails when told to."""

import functools
import hashlib
import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError

from chaos.faults import Failure, fail
from local.aws_server import Aws
from local.resources import create_flow_table
from tests.support import Clock

HIGH_THROUGHPUT = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}


@functools.cache
def client(aws: Aws) -> Any:
    """Make one client for a server: making one takes longer than most tests."""
    return aws.client("sqs")


class Queue:
    """A FIFO queue, used through boto3, with the little that most tests need of it."""

    def __init__(self, aws: Aws, **attributes: str) -> None:
        self.aws = aws
        self.sqs = client(aws)
        self.name = f"q-{uuid.uuid4()}.fifo"
        asked: Any = {"FifoQueue": "true", "VisibilityTimeout": "120", **HIGH_THROUGHPUT, **attributes}
        self.url = self.sqs.create_queue(QueueName=self.name, Attributes=asked)["QueueUrl"]

    @property
    def arn(self) -> str:
        return self.attribute("QueueArn")

    def attribute(self, name: str) -> str:
        return str(self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])["Attributes"][name])

    def send(self, body: str = "b", group: str = "g", id: str | None = None, **changes: Any) -> Any:  # noqa: A002 -- short
        request = {"MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": id or str(uuid.uuid4())}
        return self.sqs.send_message(QueueUrl=self.url, **request, **changes)

    def send_batch(self, *entries: dict[str, Any]) -> Any:
        return self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)

    def receive(self, count: int = 10, **changes: Any) -> list[Any]:
        answer = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=count, MessageSystemAttributeNames=["All"], **changes
        )
        return list(answer.get("Messages", []))

    def bodies(self, count: int = 10, **changes: Any) -> list[str]:
        return [message["Body"] for message in self.receive(count, **changes)]

    def delete(self, *messages: Any) -> None:
        for message in messages:
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])


@pytest.fixture(scope="module")
def time() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def running(time: Clock) -> Iterator[Aws]:
    with Aws(clock=time) as aws:
        yield aws


@pytest.fixture
def aws(running: Aws) -> Iterator[Aws]:
    yield running
    fail(running, None)


@pytest.fixture
def queue(aws: Aws) -> Queue:
    return Queue(aws)


@pytest.fixture(scope="module")
def untouched(running: Aws) -> Queue:
    """Lend one queue to the tests that leave nothing in it."""
    return Queue(running)


def entry(id: str, body: str = "b", group: str = "g", **changes: Any) -> dict[str, Any]:  # noqa: A002 -- SQS's name
    return {"Id": id, "MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": f"d-{id}", **changes}


def code_of(call: Callable[[], object]) -> str:
    """Return the AWS error code that a call is refused with."""
    with pytest.raises(ClientError) as refused:
        call()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return refused.value.response["Error"]["Code"]


# -- order -----------------------------------------------------------------------------------------------------------


def test_messages_of_a_group_arrive_in_the_order_in_which_they_were_sent(queue: Queue) -> None:
    queue.send_batch(*(entry(str(n), f"m{n}") for n in range(10)))

    assert queue.bodies() == ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"]


def test_the_oldest_group_comes_first_and_as_much_of_it_as_possible(queue: Queue) -> None:
    queue.send_batch(entry("1", "a1", "a"), entry("2", "b1", "b"), entry("3", "a2", "a"), entry("4", "c1", "c"))

    assert queue.bodies(3) == ["a1", "a2", "b1"]


def test_a_group_with_a_message_in_flight_waits_and_the_other_groups_do_not(queue: Queue) -> None:
    queue.send_batch(entry("1", "a1", "a"), entry("2", "a2", "a"))
    first, second = queue.receive()
    queue.send("a3", "a")
    queue.send("b1", "b")

    assert queue.bodies() == ["b1"]
    queue.delete(first)
    assert queue.bodies() == []
    queue.delete(second)
    assert queue.bodies() == ["a3"]


def test_a_batch_that_comes_back_keeps_its_order(queue: Queue, time: Clock) -> None:
    queue.send("trigger")
    queue.send("resolve")
    assert queue.bodies() == ["trigger", "resolve"]
    queue.send("trigger again")

    time.now += 119.9
    assert queue.bodies() == []
    time.now += 0.1
    assert queue.bodies() == ["trigger", "resolve", "trigger again"]


def test_what_was_not_deleted_comes_back_before_what_was_sent_meanwhile(queue: Queue, time: Clock) -> None:
    queue.send_batch(entry("1", "m1"), entry("2", "m2"))
    queue.delete(queue.receive()[0])
    queue.send("m3")
    time.now += 120

    assert queue.bodies() == ["m2", "m3"]


def test_receivers_at_the_same_time_never_get_the_same_message(queue: Queue) -> None:
    for tens in range(10):
        queue.send_batch(*(entry(f"{tens}{n}", f"{tens}{n}", f"g-{tens}{n}") for n in range(10)))

    with ThreadPoolExecutor(8) as threads:
        received = list(threads.map(lambda _: queue.bodies(3), range(40)))

    assert sorted(body for bodies in received for body in bodies) == [f"{n:02}" for n in range(100)]


# -- deduplication ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["waiting", "in flight", "deleted"])
def test_a_duplicate_is_accepted_and_not_delivered(queue: Queue, fate: str) -> None:
    first = queue.send(id="one")
    received = queue.receive() if fate in ("in flight", "deleted") else []
    if fate == "deleted":
        queue.delete(*received)
    second = queue.send("another body", id="one")

    assert second["MessageId"] == first["MessageId"]
    assert second["SequenceNumber"] == first["SequenceNumber"]
    assert second["MD5OfMessageBody"] == hashlib.md5(b"another body", usedforsecurity=False).hexdigest()
    assert queue.bodies() == (["b"] if fate == "waiting" else [])


@pytest.mark.parametrize(("seconds", "delivered"), [(299.9, []), (300.0, ["again"])])
def test_a_deduplication_id_is_remembered_for_five_minutes_from_its_acceptance(
    queue: Queue, time: Clock, seconds: float, delivered: list[str]
) -> None:
    first = queue.send(id="one")
    time.now += seconds / 2
    queue.send("swallowed", id="one")
    time.now += seconds / 2
    queue.delete(*queue.receive())
    again = queue.send("again", id="one")

    assert queue.bodies() == delivered
    assert (again["MessageId"] == first["MessageId"]) == (not delivered)


@pytest.mark.parametrize(("scope", "delivered"), [("messageGroup", ["a", "b"]), ("queue", ["a"])])
def test_the_scope_decides_whether_two_groups_may_use_the_same_id(aws: Aws, scope: str, delivered: list[str]) -> None:
    queue = Queue(aws, DeduplicationScope=scope, FifoThroughputLimit="perQueue")
    queue.send("a", "a", id="one")
    queue.send("b", "b", id="one")

    assert queue.bodies() == delivered


def test_duplicates_in_a_batch_are_answered_in_its_order(queue: Queue) -> None:
    known = queue.send("known", id="d-1")
    answer = queue.send_batch(
        entry("1", "duplicate"), entry("2", "new"), entry("3", "twice", MessageDeduplicationId="d-2")
    )

    assert [each["Id"] for each in answer["Successful"]] == ["1", "2", "3"]
    assert answer["Successful"][0]["MessageId"] == known["MessageId"]
    assert answer["Successful"][2]["MessageId"] == answer["Successful"][1]["MessageId"]
    assert "Failed" not in answer
    assert queue.bodies() == ["known", "new"]


# -- messages --------------------------------------------------------------------------------------------------------


def test_a_message_carries_what_sqs_tells_about_it(queue: Queue, time: Clock) -> None:
    sent = [queue.send("one", "g", "d-1"), queue.send("two", "g", "d-2")]
    queue.receive()
    time.now += 120
    one, two = queue.receive()

    assert one["MessageId"] == sent[0]["MessageId"]
    assert one["MD5OfBody"] == sent[0]["MD5OfMessageBody"] == "f97c5d29941bfb1b2fdab0874906ab82"
    assert set(one["Attributes"]) == {
        "SenderId",
        "SentTimestamp",
        "ApproximateReceiveCount",
        "ApproximateFirstReceiveTimestamp",
        "SequenceNumber",
        "MessageGroupId",
        "MessageDeduplicationId",
    }
    assert one["Attributes"]["ApproximateReceiveCount"] == "2"
    assert one["Attributes"]["MessageGroupId"] == "g"
    assert one["Attributes"]["MessageDeduplicationId"] == "d-1"
    assert one["Attributes"]["SequenceNumber"] == sent[0]["SequenceNumber"]
    assert len(one["Attributes"]["SequenceNumber"]) == 20
    assert one["Attributes"]["SequenceNumber"] < two["Attributes"]["SequenceNumber"]


def test_message_attributes_arrive_when_they_are_asked_for(queue: Queue) -> None:
    attributes = {"reason": {"DataType": "String", "StringValue": "é"}}
    queue.send("with", "a", MessageAttributes=attributes)
    queue.send("without", "b")

    assert [each.get("MessageAttributes") for each in queue.receive(MessageAttributeNames=["All"])] == [
        attributes,
        None,
    ]


def test_message_attributes_do_not_arrive_unasked(queue: Queue) -> None:
    queue.send(MessageAttributes={"reason": {"DataType": "String", "StringValue": "é"}})

    assert "MessageAttributes" not in queue.receive()[0]


def test_a_receipt_handle_is_good_for_as_long_as_the_message_is_hidden(queue: Queue, time: Clock) -> None:
    queue.send()
    late = queue.receive()[0]
    time.now += 120
    assert code_of(lambda: queue.delete(late)) == "InvalidParameterValue"

    latest = queue.receive()[0]
    assert code_of(lambda: queue.delete(late)) == "InvalidParameterValue"
    queue.delete(latest)
    queue.delete(latest)
    assert queue.attribute("ApproximateNumberOfMessages") == "0"


def test_deleting_a_batch_succeeds_or_fails_entry_by_entry(queue: Queue, time: Clock) -> None:
    queue.send_batch(entry("1", group="a"), entry("2", group="b"))
    late = queue.receive(1)[0]
    time.now += 120
    handles = {"late": late, "good": queue.receive(1, VisibilityTimeout=0)[0] | queue.receive(2)[1]}
    answer = queue.sqs.delete_message_batch(
        QueueUrl=queue.url,
        Entries=[{"Id": id_, "ReceiptHandle": each["ReceiptHandle"]} for id_, each in handles.items()],
    )

    assert [each["Id"] for each in answer["Successful"]] == ["good"]
    assert [(each["Id"], each["Code"], each["SenderFault"]) for each in answer["Failed"]] == [
        ("late", "InvalidParameterValue", True),
    ]


def test_visibility_can_be_changed_while_a_message_is_in_flight(queue: Queue, time: Clock) -> None:
    def change(message: Any, seconds: int) -> None:
        queue.sqs.change_message_visibility(
            QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )

    queue.send("m")
    message = queue.receive()[0]
    change(message, 600)
    time.now += 599
    assert queue.bodies() == []
    change(message, 0)
    assert code_of(lambda: change(message, 10)) == "AWS.SimpleQueueService.MessageNotInflight"

    message = queue.receive()[0]
    queue.delete(message)
    assert code_of(lambda: change(message, 10)) == "InvalidParameterValue"


def test_a_message_is_hidden_for_12_hours_at_most_from_when_it_was_received(queue: Queue, time: Clock) -> None:
    def change(message: Any, seconds: int) -> None:
        queue.sqs.change_message_visibility(
            QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )

    queue.send("m")
    message = queue.receive()[0]
    time.now += 60

    assert code_of(lambda: change(message, 43_200)) == "InvalidParameterValue"
    change(message, 43_140)


def test_where_time_passes_faster_a_message_comes_again_sooner_and_has_waited_longer(
    time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Clock()
    monkeypatch.setattr("local.aws_server.time", SimpleNamespace(time=wall, monotonic=monotonic))
    with Aws(clock=time, speed=10) as fast:
        queue = Queue(fast)
        sent_at = wall.now
        queue.send("m")
        handle = queue.receive()[0]["ReceiptHandle"]
        queue.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=handle, VisibilityTimeout=60)
        time.now += 5
        hidden = queue.bodies()
        time.now += 1
        wall.now += 6
        (message,) = queue.receive()

    assert hidden == []
    assert wall.now - int(message["Attributes"]["SentTimestamp"]) / 1000 == 60
    assert wall.now - sent_at == 6


def test_a_message_that_is_shown_again_waits_for_the_rest_of_its_group(queue: Queue, time: Clock) -> None:
    queue.send_batch(entry("1", "m1"), entry("2", "m2"))
    first = queue.receive()[0]
    queue.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)

    assert queue.bodies() == []
    time.now += 120
    assert queue.bodies() == ["m1", "m2"]


def test_the_visibility_timeout_is_the_queues_own_until_a_receive_says_otherwise(aws: Aws, time: Clock) -> None:
    queue = Queue(aws, VisibilityTimeout="5")
    queue.send("m")
    for seconds, changes in [(5, {}), (7, {"VisibilityTimeout": 7})]:
        assert queue.bodies(**changes) == ["m"]
        time.now += seconds - 0.1
        assert queue.bodies() == []
        time.now += 0.1


def test_who_looks_into_a_queue_sees_what_is_delayed_and_until_when(queue: Queue, aws: Aws, time: Clock) -> None:
    queue.send_batch(entry("1", "waiting", "a"), entry("2", "in flight", "b"), entry("3", "put off", "c"))
    queue.delete(*queue.receive(1))
    queue.send_batch(entry("4", "waiting", "a"))
    received = {message["Body"]: message["ReceiptHandle"] for message in queue.receive(2)}
    queue.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=received["put off"], VisibilityTimeout=100)

    seen = [(each.body, each.receive_count, each.is_hidden, each.is_delayed) for each in aws.peek(queue.url)]

    assert seen == [("in flight", 1, True, False), ("put off", 1, True, True), ("waiting", 0, False, False)]
    assert [each.hidden_until - time.now for each in aws.peek(queue.url) if each.is_delayed] == [100]


def test_the_queue_counts_its_messages(queue: Queue) -> None:
    queue.send_batch(entry("1", group="a"), entry("2", group="a"), entry("3", group="b"))
    queue.receive(1)

    assert queue.attribute("ApproximateNumberOfMessages") == "2"
    assert queue.attribute("ApproximateNumberOfMessagesNotVisible") == "1"
    assert queue.attribute("ApproximateNumberOfMessagesDelayed") == "0"


def test_what_is_received_too_often_goes_to_the_dead_letter_queue_and_its_group_goes_on(aws: Aws, time: Clock) -> None:
    dead_letters = Queue(aws)
    policy = {"deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": 2}
    queue = Queue(aws, RedrivePolicy=json.dumps(policy))
    sent = queue.send("poison", "g", "d-1", MessageAttributes={"a": {"DataType": "String", "StringValue": "x"}})
    queue.send("after")

    assert queue.bodies(1) == ["poison"]
    time.now += 120
    assert queue.bodies(1) == ["poison"]
    time.now += 120
    assert queue.bodies() == ["after"]
    buried = dead_letters.receive(MessageAttributeNames=["All"])
    assert [message["MessageId"] for message in buried] == [sent["MessageId"]]
    assert buried[0]["MessageAttributes"] == {"a": {"DataType": "String", "StringValue": "x"}}
    assert buried[0]["Attributes"]["MessageGroupId"] == "g"


# -- what is refused -------------------------------------------------------------------------------------------------

EVERY_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
STRING = {"DataType": "String", "StringValue": "x"}


def attributes(*names: str) -> dict[str, Any]:
    return {"MessageAttributes": dict.fromkeys(names, STRING)}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"MessageGroupId": ""}, "InvalidParameterValue"),
        ({"MessageGroupId": "a b"}, "InvalidParameterValue"),
        ({"MessageGroupId": "é"}, "InvalidParameterValue"),
        ({"MessageGroupId": "x" * 129}, "InvalidParameterValue"),
        ({"MessageGroupId": None}, "MissingParameter"),
        ({"MessageDeduplicationId": ""}, "InvalidParameterValue"),
        ({"MessageDeduplicationId": "a\n"}, "InvalidParameterValue"),
        ({"MessageDeduplicationId": "x" * 129}, "InvalidParameterValue"),
        ({"MessageDeduplicationId": None}, "MissingParameter"),
        ({"MessageBody": ""}, "MissingParameter"),
        ({"MessageBody": "\x00"}, "InvalidMessageContents"),
        ({"MessageBody": "a\x1b"}, "InvalidMessageContents"),
        ({"MessageBody": "\ud800"}, "InvalidMessageContents"),
        ({"MessageBody": "\ufffe"}, "InvalidMessageContents"),
        ({"MessageBody": "x" * 1_048_577}, "InvalidParameterValue"),
        ({"MessageBody": "é" * 524_289}, "InvalidParameterValue"),
        ({"MessageBody": "x" * 1_048_569, **attributes("a")}, "InvalidParameterValue"),
        ({"MessageAttributes": {"a": {"DataType": "String", "StringValue": ""}}}, "InvalidParameterValue"),
        ({"MessageAttributes": {"a": {"DataType": "String", "StringValue": "\x00"}}}, "InvalidParameterValue"),
    ],
    ids=lambda value: ascii(value)[:60],
)
@pytest.mark.parametrize("in_batch", [False, True])
def test_a_message_that_sqs_does_not_take_is_refused(
    untouched: Queue, changes: dict[str, Any], code: str, *, in_batch: bool
) -> None:
    message = {name: value for name, value in (entry("1") | changes).items() if value is not None}
    too_long = in_batch and len(message["MessageBody"]) > 500_000
    del message["Id"]

    def send() -> None:
        if in_batch:
            untouched.send_batch(entry("good"), {"Id": "bad", **message})
        else:
            untouched.sqs.send_message(QueueUrl=untouched.url, **message)

    assert code_of(send) == ("AWS.SimpleQueueService.BatchRequestTooLong" if too_long else code)
    assert untouched.bodies() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"MessageGroupId": EVERY_PUNCTUATION + "aZ09"},
        {"MessageDeduplicationId": EVERY_PUNCTUATION + "aZ09"},
        {"MessageGroupId": "x" * 128, "MessageDeduplicationId": "x" * 128},
        {"MessageBody": "\t\n\r \ud7ff\ue000\ufffd\U00010000\U0010ffff"},
        {"MessageBody": "x" * 1_048_576},
        {"MessageBody": "x" * 1_048_568, **attributes("a")},
        {"DelaySeconds": 0},
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_message_at_the_limits_is_taken(queue: Queue, changes: dict[str, Any]) -> None:
    message = entry("1") | changes
    del message["Id"]
    queue.sqs.send_message(QueueUrl=queue.url, **message)

    assert queue.bodies() == [message["MessageBody"]]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([], "AWS.SimpleQueueService.EmptyBatchRequest"),
        ([entry(str(n)) for n in range(11)], "AWS.SimpleQueueService.TooManyEntriesInBatchRequest"),
        ([entry("1"), entry("1")], "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"),
        ([entry("1", "x" * 524_288), entry("2", "x" * 524_289)], "AWS.SimpleQueueService.BatchRequestTooLong"),
        ([entry("1", "é" * 262_144), entry("2", "é" * 262_145)], "AWS.SimpleQueueService.BatchRequestTooLong"),
        (
            [entry("1", "x" * 524_288), entry("2", "x" * 524_281, **attributes("a"))],
            "AWS.SimpleQueueService.BatchRequestTooLong",
        ),
    ],
    ids=["empty", "eleven", "repeated id", "too long", "in UTF-8", "with attributes"],
)
def test_a_batch_that_sqs_does_not_take_is_refused(
    untouched: Queue, entries: Sequence[dict[str, Any]], code: str
) -> None:
    assert code_of(lambda: untouched.send_batch(*entries)) == code
    assert untouched.bodies() == []


def test_a_batch_at_the_limits_is_taken(queue: Queue) -> None:
    queue.send_batch(entry("1", "x" * 524_288), entry("2", "x" * 524_288))

    assert [len(body) for body in queue.bodies()] == [524_288, 524_288]


def test_a_message_is_measured_by_the_queues_own_maximum(aws: Aws) -> None:
    queue = Queue(aws, MaximumMessageSize="1024")
    queue.send("x" * 1024)

    assert code_of(lambda: queue.send("x" * 1025)) == "InvalidParameterValue"


@pytest.mark.parametrize("count", [0, 1001])
def test_a_receive_count_that_sqs_does_not_take_is_refused(aws: Aws, untouched: Queue, count: int) -> None:
    policy = json.dumps({"deadLetterTargetArn": untouched.arn, "maxReceiveCount": count})

    assert code_of(lambda: Queue(aws, RedrivePolicy=policy)) == "InvalidParameterValue"


@pytest.mark.parametrize("count", [1, 1000, "1000"])
def test_a_receive_count_at_the_limits_is_taken(queue: Queue, aws: Aws, count: int | str) -> None:
    policy = json.dumps({"deadLetterTargetArn": queue.arn, "maxReceiveCount": count})

    assert json.loads(Queue(aws, RedrivePolicy=policy).attribute("RedrivePolicy"))["maxReceiveCount"] == int(count)


def test_a_queue_that_is_not_there_is_refused_and_one_that_is_deleted_starts_anew(queue: Queue) -> None:
    queue.send("m", id="one")
    queue.sqs.delete_queue(QueueUrl=queue.url)
    assert code_of(queue.send) == "AWS.SimpleQueueService.NonExistentQueue"
    assert code_of(queue.receive) == "AWS.SimpleQueueService.NonExistentQueue"

    queue.sqs.create_queue(QueueName=queue.name, Attributes={"FifoQueue": "true"})
    assert queue.bodies() == []
    queue.send("n", id="one")
    assert queue.bodies() == ["n"]


# -- what is not modelled --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "request_", "what"),
    [
        ("send_message", {"DelaySeconds": 1}, "DelaySeconds"),
        (
            "send_message",
            {"MessageAttributes": {"a": {"DataType": "Number", "StringValue": "1"}}},
            "message attributes of type Number",
        ),
        ("send_message", {"MessageAttributes": {"a": {"DataType": "Binary", "BinaryValue": b"1"}}}, "BinaryValue"),
        ("receive_message", {"WaitTimeSeconds": 1}, "WaitTimeSeconds"),
        ("receive_message", {"AttributeNames": ["All"]}, "AttributeNames"),
        ("receive_message", {"MessageAttributeNames": ["a.*"]}, "MessageAttributeNames but All"),
        (
            "receive_message",
            {"MessageSystemAttributeNames": ["SenderId"]},
            "MessageSystemAttributeNames but All",
        ),
        ("purge_queue", {}, "PurgeQueue"),
        ("set_queue_attributes", {"Attributes": {"VisibilityTimeout": "1"}}, "SetQueueAttributes"),
        ("create_queue", {"QueueName": "standard"}, "standard queues"),
        (
            "create_queue",
            {"QueueName": "q.fifo", "Attributes": {"FifoQueue": "true", "ContentBasedDeduplication": "true"}},
            "ContentBasedDeduplication",
        ),
    ],
    ids=str,
)
def test_what_is_not_modelled_is_refused_by_its_name(
    queue: Queue, action: str, request_: dict[str, Any], what: str
) -> None:
    message = {"MessageBody": "b", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
    queue.send("waiting", "other")
    place = {} if action == "create_queue" else {"QueueUrl": queue.url}
    with pytest.raises(ClientError) as refused:
        getattr(queue.sqs, action)(**place, **(message if action == "send_message" else {}), **request_)

    assert refused.value.response["Error"] == {
        "Code": "AWS.SimpleQueueService.UnsupportedOperation",
        "Message": f"The local SQS does not model {what}; see local/aws_server.py",
        "Type": "Sender",
        "QueryErrorCode": "UnsupportedOperation",
    }
    assert queue.attribute("ApproximateNumberOfMessages") == "1"


# -- moto ------------------------------------------------------------------------------------------------------------


def test_parameters_are_motos(aws: Aws) -> None:
    ssm = aws.client("ssm")
    name = f"/test/{uuid.uuid4()}"
    ssm.put_parameter(Name=name, Value="secret", Type="SecureString")

    assert ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == "secret"


# -- the table ---------------------------------------------------------------------------------------------------------


class Table:
    """The table of flow control, with one number of one service in it, which only ever grows."""

    def __init__(self, aws: Aws) -> None:
        self.dynamodb = aws.client("dynamodb")
        self.name = create_flow_table(self.dynamodb, f"t-{uuid.uuid4()}")

    def raise_to(self, number: int, **changes: Any) -> dict[str, Any] | None:
        """Write a number if it is greater than what is there; return the item that was there if it is not."""
        request: Any = {
            "Key": {"service": {"S": "default"}},
            "UpdateExpression": "SET lease = :new",
            "ConditionExpression": "attribute_not_exists(lease) OR lease < :new",
            "ExpressionAttributeValues": {":new": {"N": str(number)}},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            self.dynamodb.update_item(TableName=self.name, **request, **changes)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return dict(error.response["Item"])  # type: ignore[typeddict-item]  # the stubs do not know that it has one
        return None


@pytest.fixture
def table(aws: Aws) -> Table:
    return Table(aws)


@pytest.fixture
def switching_at_every_chance() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching_at_every_chance")
def test_of_writers_at_the_same_time_one_succeeds_and_the_others_get_what_it_wrote(table: Table) -> None:
    barrier = threading.Barrier(8)

    def raise_to(number: int) -> dict[str, Any] | None:
        barrier.wait()
        return table.raise_to(number)

    with ThreadPoolExecutor(8) as threads:
        rounds = [list(threads.map(raise_to, [number] * 8)) for number in range(1, 21)]

    assert [answers.count(None) for answers in rounds] == [1] * 20
    assert [item["lease"]["N"] for answers in rounds for item in answers if item] == [
        str(number) for number in range(1, 21) for _ in range(7)
    ]


def test_the_table_is_that_of_the_template(table: Table) -> None:
    described = table.dynamodb.describe_table(TableName=table.name)["Table"]
    time_to_live = table.dynamodb.describe_time_to_live(TableName=table.name)["TimeToLiveDescription"]

    assert (described["KeySchema"], described["BillingModeSummary"]["BillingMode"], time_to_live) == (
        [{"AttributeName": "service", "KeyType": "HASH"}],
        "PAY_PER_REQUEST",
        {"TimeToLiveStatus": "ENABLED", "AttributeName": "lease"},
    )


@pytest.mark.parametrize(
    ("action", "request_", "what"),
    [
        ("scan", {}, "Scan"),
        ("put_item", {"Item": {"service": {"S": "default"}}}, "PutItem"),
        ("update_item", {"Key": {"service": {"S": "default"}}, "AttributeUpdates": {}}, "AttributeUpdates"),
    ],
    ids=str,
)
def test_what_of_dynamodb_is_not_modelled_is_refused_by_its_name(
    table: Table, action: str, request_: dict[str, Any], what: str
) -> None:
    with pytest.raises(
        ClientError, match=f"The local DynamoDB does not model {what}; see local/aws_server.py"
    ) as refused:
        getattr(table.dynamodb, action)(TableName=table.name, **request_)

    assert refused.value.response["Error"]["Code"] == "UnknownOperationException"


def test_a_table_that_is_not_there_is_not_found(table: Table) -> None:
    table.dynamodb.delete_table(TableName=table.name)

    assert code_of(lambda: table.raise_to(1)) == "ResourceNotFoundException"


# -- failures --------------------------------------------------------------------------------------------------------


def failing(failure: Failure, *targets: str) -> Callable[[str, dict[str, Any]], Failure | None]:
    return lambda target, _: failure if target in targets else None


@pytest.mark.parametrize("code", ["InternalError", "RequestThrottled"])
def test_a_call_fails_with_the_error_that_it_is_told(queue: Queue, code: str) -> None:
    fail(queue.aws, failing(Failure.answer(503, code, "Not now"), "AmazonSQS.SendMessage"))
    with pytest.raises(ClientError) as failed:
        queue.send()

    assert failed.value.response["Error"]["Code"] == code
    assert failed.value.response["Error"]["Message"] == "Not now"
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert queue.bodies() == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalServerError"), (400, "ProvisionedThroughputExceededException"), (400, "AccessDeniedException")],
)
def test_dynamodb_fails_the_same_way(table: Table, aws: Aws, status: int, code: str) -> None:
    fail(aws, failing(Failure.answer(status, code), "DynamoDB_20120810.UpdateItem"))
    with pytest.raises(ClientError) as failed:
        table.raise_to(1)
    fail(aws, None)

    assert failed.value.response["Error"]["Code"] == code
    assert table.raise_to(1) is None


def test_ssm_fails_the_same_way(aws: Aws) -> None:
    fail(aws, failing(Failure.answer(400, "ThrottlingException"), "AmazonSSM.GetParameters"))

    assert code_of(lambda: aws.client("ssm").get_parameters(Names=["/a"])) == "ThrottlingException"


@pytest.mark.parametrize(("ids", "delivered"), [(["1"], ["m2", "m3"]), (["1", "3"], ["m2"]), (["1", "2", "3"], [])])
def test_entries_of_a_batch_fail_one_by_one(queue: Queue, ids: list[str], delivered: list[str]) -> None:
    fail(queue.aws, failing(Failure.entries(*ids), "AmazonSQS.SendMessageBatch"))
    answer = queue.send_batch(*(entry(str(n), f"m{n}", f"g{n}") for n in (1, 2, 3)))

    assert [(each["Id"], each["Code"], each["SenderFault"]) for each in answer["Failed"]] == [
        (each, "InternalError", False) for each in ids
    ]
    assert len(answer.get("Successful", [])) == len(delivered)
    assert queue.bodies() == delivered


def test_a_send_whose_answer_is_lost_and_that_is_repeated_is_delivered_once(queue: Queue) -> None:
    fail(queue.aws, failing(Failure.lose_answer(), "AmazonSQS.SendMessage"))
    with pytest.raises(ConnectionClosedError):
        queue.send("m", id="one")
    fail(queue.aws, None)
    again = queue.send("m", id="one")

    assert [message["MessageId"] for message in queue.receive()] == [again["MessageId"]]


def test_a_late_answer_is_an_answer(queue: Queue) -> None:
    fail(queue.aws, failing(Failure.delay(0.01), "AmazonSQS.SendMessage"))

    assert queue.send("m")["MessageId"] == queue.receive()[0]["MessageId"]


def test_a_call_that_hangs_runs_into_the_clients_time_limit_and_takes_no_effect(queue: Queue) -> None:
    fail(queue.aws, failing(Failure.hang(), "AmazonSQS.SendMessage"))
    receiving, queue.sqs = (
        queue.sqs,
        queue.aws.client("sqs", Config(read_timeout=0.1, retries={"total_max_attempts": 1})),
    )
    with pytest.raises(ReadTimeoutError):
        queue.send("m")

    queue.sqs = receiving
    assert queue.bodies() == []


def test_stopping_ends_the_calls_that_wait_and_starting_again_finds_the_messages() -> None:
    with Aws() as aws:
        queue = Queue(aws)
        queue.send("m", "g", "one")
        url, arrived = aws.url, threading.Event()

        def hang_on_send(target: str, _: dict[str, Any]) -> Failure | None:
            arrived.set()
            return Failure.hang() if target == "AmazonSQS.SendMessage" else None

        fail(aws, hang_on_send)
        with ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(queue.send)
            assert arrived.wait(5)
            aws.stop()
            assert isinstance(hanging.exception(timeout=5), BotoCoreError)
        with pytest.raises(BotoCoreError):
            queue.receive()
        aws.stop()

        fail(aws, None)
        aws.start()
        with pytest.raises(RuntimeError, match="already listens"):
            aws.start()
        assert aws.url == url
        queue.send("swallowed", "g", "one")
        assert queue.bodies() == ["m"]
