"""The local event source mapping: what the worker is given, and what becomes of its answers."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from chaos.faults import Failure, fail
from local.aws_server import Aws
from local.event_source import EventSource, failed_items
from tests.support import Clock, wait_until

VISIBILITY = 120
RESOLVED = '{"batchItemFailures": []}'


class Worker:
    """The worker: notes what it is given, and answers as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        # Called with the records of each invocation; without it every message succeeds.
        self.answer: Callable[[list[Any]], str] = lambda _: RESOLVED

    def invoke(self, event: str) -> str:
        records = json.loads(event)["Records"]
        self.batches.append(records)
        return self.answer(records)

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for batch in self.batches for record in batch]


class Mapping:
    """A queue, an event source that feeds it to a worker, and the clock of the queue."""

    def __init__(self, aws: Aws, sqs: Any, time: Clock) -> None:
        self.aws = aws
        self.sqs = sqs
        self.time = time
        self.worker = Worker()
        attributes = {"FifoQueue": "true", "VisibilityTimeout": str(VISIBILITY), "DeduplicationScope": "messageGroup"}
        self.url = sqs.create_queue(QueueName=f"q-{uuid.uuid4()}.fifo", Attributes=attributes)["QueueUrl"]
        self.source = EventSource(sqs, self.url, self.worker.invoke)

    def configure(self, **changes: Any) -> EventSource:
        self.source = EventSource(self.sqs, self.url, self.worker.invoke, **changes)
        return self.source

    def send(self, body: str, group: str = "g", **changes: Any) -> str:
        request = {"MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": str(uuid.uuid4())}
        return str(self.sqs.send_message(QueueUrl=self.url, **request, **changes)["MessageId"])

    def count(self) -> int:
        """Count the messages in the queue, those in flight included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(map(int, answer["Attributes"].values()))

    def settle(self, batches: int) -> None:
        """Wait until that many batches have been worked off."""
        wait_until(lambda: self.source.batches == batches and self.source.in_flight == 0)


@pytest.fixture(scope="module")
def time() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def running(time: Clock) -> Iterator[Aws]:
    with Aws(clock=time) as aws:
        yield aws


@pytest.fixture(scope="module")
def sqs(running: Aws) -> Any:
    return running.client("sqs")


@pytest.fixture
def mapping(running: Aws, sqs: Any, time: Clock) -> Iterator[Mapping]:
    made = Mapping(running, sqs, time)
    yield made
    fail(running, None)
    made.source.stop()


def failing(*bodies: str) -> Callable[[list[Any]], str]:
    """Make a worker's answer in which the messages with these bodies failed."""

    def answer(records: list[Any]) -> str:
        failed = [{"itemIdentifier": record["messageId"]} for record in records if record["body"] in bodies]
        return json.dumps({"batchItemFailures": failed})

    return answer


def huge(number: int) -> str:
    """Make the largest body, which as JSON in JSON is so long that three of them do not fit into one event."""
    return str(number) + '"' * 1_048_575


# -- what the worker is given ------------------------------------------------------------------------------------------


def test_the_event_is_lambdas(mapping: Mapping) -> None:
    attributes = {"reason": {"DataType": "String", "StringValue": "é"}}
    message_id = mapping.send("wörld", "a-group", MessageAttributes=attributes)
    with mapping.source:
        mapping.settle(1)

    record = mapping.worker.batches[0][0]
    system = record.pop("attributes")
    assert len(record.pop("receiptHandle")) > 0
    assert record == {
        "messageId": message_id,
        "body": "wörld",
        "messageAttributes": {
            "reason": {"stringValue": "é", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
        },
        "md5OfBody": "8a223f8cb0e9065ff43b328b97e8467e",
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{mapping.url.rpartition('/')[2]}",
        "awsRegion": "us-east-1",
    }
    assert sorted(system) == [
        "ApproximateFirstReceiveTimestamp",
        "ApproximateReceiveCount",
        "MessageDeduplicationId",
        "MessageGroupId",
        "SenderId",
        "SentTimestamp",
        "SequenceNumber",
    ]
    assert (system["ApproximateReceiveCount"], system["MessageGroupId"]) == ("1", "a-group")


def test_a_message_without_attributes_has_an_empty_object_of_them(mapping: Mapping) -> None:
    mapping.send("m")
    with mapping.source:
        mapping.settle(1)

    assert mapping.worker.batches[0][0]["messageAttributes"] == {}


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (10, [3])])
def test_a_batch_has_at_most_so_many_messages(mapping: Mapping, batch_size: int, sizes: list[int]) -> None:
    for number in range(3):
        mapping.send(f"m{number}")
    with mapping.configure(batch_size=batch_size) as source:
        mapping.settle(len(sizes))

    assert [len(batch) for batch in mapping.worker.batches] == sizes
    assert mapping.worker.bodies == ["m0", "m1", "m2"]
    assert (source.batches, source.messages, source.failures, source.in_flight) == (len(sizes), 3, 0, 0)
    assert mapping.count() == 0


def test_batches_of_different_groups_run_side_by_side_and_never_more_than_so_many(mapping: Mapping) -> None:
    together, in_flight = threading.Barrier(4), []

    def answer(_: list[Any]) -> str:
        together.wait(5)
        in_flight.append(mapping.source.in_flight)
        return RESOLVED

    mapping.worker.answer = answer
    for number in range(12):
        mapping.send("m", f"g{number}")
    with mapping.configure(batch_size=1, max_concurrency=4):
        mapping.settle(12)

    assert max(in_flight) == 4
    assert mapping.source.failures == 0


def test_batches_of_one_group_run_one_after_the_other(mapping: Mapping) -> None:
    alone = threading.Lock()
    found_alone = []

    def answer(_: list[Any]) -> str:
        found_alone.append(alone.acquire(blocking=False))
        alone.release()
        return RESOLVED

    mapping.worker.answer = answer
    for number in range(6):
        mapping.send(f"m{number}")
    with mapping.configure(batch_size=1, max_concurrency=10):
        mapping.settle(6)

    assert found_alone == [True] * 6
    assert mapping.worker.bodies == ["m0", "m1", "m2", "m3", "m4", "m5"]


def test_messages_that_are_too_large_for_one_event_go_in_parts_and_keep_their_order(mapping: Mapping) -> None:
    for number in range(3):
        mapping.send(huge(number))
    with mapping.source:
        mapping.settle(2)

    assert [[record["body"][0] for record in batch] for batch in mapping.worker.batches] == [["0", "1"], ["2"]]
    assert mapping.count() == 0


def test_after_a_failure_in_one_part_its_group_goes_no_further(mapping: Mapping) -> None:
    for number, group in enumerate("aaab"):
        mapping.send(huge(number), group)
    mapping.worker.answer = failing(huge(1))
    with mapping.source:
        mapping.settle(2)
        assert [body[0] for body in mapping.worker.bodies] == ["0", "1", "3"]
        assert mapping.source.failures == 2

        mapping.worker.answer = failing()
        mapping.time.now += VISIBILITY
        mapping.settle(3)

    assert [body[0] for body in mapping.worker.bodies] == ["0", "1", "3", "1", "2"]
    assert mapping.count() == 0


# -- what becomes of the answers ---------------------------------------------------------------------------------------


def test_a_resolve_never_overtakes_its_trigger_when_the_first_attempt_fails(mapping: Mapping) -> None:
    mapping.worker.answer = failing("trigger", "resolve")
    mapping.send("trigger")
    mapping.send("resolve")
    with mapping.source:
        mapping.settle(1)
        mapping.send("trigger again")
        mapping.worker.answer = failing()
        mapping.time.now += VISIBILITY
        mapping.settle(2)

    assert mapping.worker.bodies == ["trigger", "resolve", "trigger", "resolve", "trigger again"]
    assert [record["attributes"]["ApproximateReceiveCount"] for record in mapping.worker.batches[1]] == ["2", "2", "1"]
    assert mapping.count() == 0


def test_a_failure_holds_back_its_own_group_and_no_other(mapping: Mapping) -> None:
    mapping.worker.answer = failing("a1", "a2")
    for body in ("a1", "b1", "a2"):
        mapping.send(body, body[0])
    with mapping.source:
        mapping.settle(1)
        assert mapping.count() == 2
        mapping.send("b2", "b")
        mapping.send("a3", "a")
        mapping.settle(2)

    assert mapping.worker.bodies == ["a1", "a2", "b1", "b2"]
    assert mapping.source.failures == 2
    assert mapping.count() == 3


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ('{"batchItemFailures": []}', ""),
        ('{"batchItemFailures": null}', ""),
        ("{}", ""),
        ("null", ""),
        ('{"batchItemFailures": [{"itemIdentifier": "b"}]}', "b"),
        ('{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "a"}]}', "a"),
        ('{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "z"}]}', None),
        ('{"batchItemFailures": [{"itemIdentifier": ""}]}', None),
        ('{"batchItemFailures": [{"itemIdentifier": null}]}', None),
        ('{"batchItemFailures": [{"itemIdentifier": ["a"]}]}', None),
        ('{"batchItemFailures": [{"messageId": "a"}]}', None),
        ('{"batchItemFailures": ["a"]}', None),
        ('{"batchItemFailures": [null]}', None),
        ('{"batchItemFailures": {"itemIdentifier": "a"}}', None),
        ('{"batchItemFailures": "a"}', None),
        ('{"batchItemFailures": ""}', None),
        ('{"errorType": "Runtime.ExitError", "errorMessage": "signal: killed"}', None),
        ('{"errorType": "Sandbox.Timedout", "batchItemFailures": []}', None),
        ("Task timed out after 90.00 seconds", None),
        ("", None),
        ("[]", None),
        ('"ok"', None),
    ],
)
def test_the_answer_says_which_messages_failed(answer: str, failed: str | None) -> None:
    assert failed_items(answer, {"a", "b", "c"}) == (None if failed is None else set(failed))


@pytest.mark.parametrize("answer", ["not JSON", '{"batchItemFailures": [{"itemIdentifier": "unknown"}]}'])
def test_after_an_answer_that_makes_no_sense_the_whole_batch_comes_again(mapping: Mapping, answer: str) -> None:
    mapping.worker.answer = lambda _: answer
    mapping.send("m1")
    mapping.send("m2")
    with mapping.source:
        mapping.settle(1)
        assert mapping.source.failures == 2
        mapping.worker.answer = failing()
        mapping.time.now += VISIBILITY
        mapping.settle(2)

    assert mapping.worker.bodies == ["m1", "m2", "m1", "m2"]
    assert mapping.count() == 0


def test_an_invocation_that_raises_fails_its_batch_and_nothing_else(mapping: Mapping) -> None:
    def answer(_: list[Any]) -> str:
        raise RuntimeError("the local stack is shutting down")

    mapping.worker.answer = answer
    mapping.send("m")
    with mapping.source:
        mapping.settle(1)
        mapping.worker.answer = failing()
        mapping.send("other", "other")
        mapping.settle(2)

    assert mapping.source.failures == 1
    assert mapping.count() == 1


@pytest.mark.parametrize("failure", [RuntimeError("killed"), '{"errorType": "Runtime.ExitError"}'])
def test_an_invocation_that_failed_outright_is_put_off_when_so_configured(
    mapping: Mapping, failure: Exception | str
) -> None:
    def fail(_: list[Any]) -> str:
        if isinstance(failure, Exception):
            raise failure
        return failure

    mapping.send("m")
    mapping.worker.answer = fail
    with mapping.configure(retry_seconds=2):
        mapping.settle(1)
        mapping.worker.answer = failing()
        mapping.time.now += 2
        mapping.settle(2)

    assert mapping.count() == 0


def test_what_the_worker_put_off_is_left_as_it_said(mapping: Mapping) -> None:
    mapping.send("m")
    mapping.worker.answer = failing("m")
    with mapping.configure(retry_seconds=2):
        mapping.settle(1)
        mapping.time.now += VISIBILITY - 1
        mapping.send("other", "other")
        mapping.settle(2)

    assert mapping.worker.bodies == ["m", "other"]


def test_a_message_in_the_hands_of_a_worker_is_not_handed_out_again_sooner(mapping: Mapping) -> None:
    release = threading.Event()

    def answer(_: list[Any]) -> str:
        release.wait(5)
        return RESOLVED

    mapping.worker.answer = answer
    mapping.send("slow")
    with mapping.configure(retry_seconds=2):
        wait_until(lambda: mapping.source.in_flight == 1)
        mapping.time.now += VISIBILITY - 1
        mapping.send("other", "other")
        wait_until(lambda: mapping.source.batches == 2)
        release.set()
        mapping.settle(2)

    assert mapping.worker.bodies == ["slow", "other"]
    assert mapping.count() == 0


# -- when things go wrong, and the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Failure.answer(503, "ServiceUnavailable"), Failure.lose_answer()])
def test_it_goes_on_when_sqs_has_failed_for_a_while(mapping: Mapping, failure: Failure) -> None:
    failed = threading.Semaphore(0)

    def fail_to_receive(target: str, _: dict[str, Any]) -> Failure | None:
        if target != "AmazonSQS.ReceiveMessage":
            return None
        failed.release()
        return failure

    fail(mapping.aws, fail_to_receive)
    with mapping.source:
        assert all(failed.acquire(timeout=5) for _ in range(3))
        fail(mapping.aws, None)
        mapping.send("m")
        mapping.settle(1)

    assert mapping.worker.bodies == ["m"]


def test_what_could_not_be_deleted_comes_again(mapping: Mapping) -> None:
    down = Failure.answer(500, "InternalError")
    fail(mapping.aws, lambda target, _: down if target == "AmazonSQS.DeleteMessageBatch" else None)
    mapping.send("m")
    with mapping.source:
        mapping.settle(1)
        fail(mapping.aws, None)
        mapping.time.now += VISIBILITY
        mapping.settle(2)

    assert mapping.worker.bodies == ["m", "m"]
    assert mapping.count() == 0


def start_with_a_busy_worker(mapping: Mapping) -> threading.Event:
    """Start with a worker in the middle of a message, and return what lets it go on."""
    started, release = threading.Event(), threading.Event()

    def answer(_: list[Any]) -> str:
        started.set()
        release.wait(5)
        return RESOLVED

    mapping.worker.answer = answer
    mapping.send("m")
    mapping.source.start()
    assert started.wait(5)
    return release


def test_it_ends_after_the_invocation_that_is_under_way(mapping: Mapping) -> None:
    release = start_with_a_busy_worker(mapping)
    ending = threading.Thread(target=mapping.source.stop)
    ending.start()
    mapping.send("too late", "other")
    release.set()
    ending.join(5)

    assert not ending.is_alive()
    assert mapping.source.in_flight == 0
    assert mapping.count() == 1
    mapping.source.stop()


def test_it_does_not_wait_for_an_invocation_that_hangs(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.event_source._STOP_SECONDS", 0.05)
    release = start_with_a_busy_worker(mapping)
    mapping.source.stop()
    assert mapping.source.in_flight == 1

    release.set()
    mapping.settle(1)


def test_it_ends_while_sqs_hangs(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.event_source._STOP_SECONDS", 0.05)
    asked = threading.Event()

    def hang(target: str, _: dict[str, Any]) -> Failure | None:
        if target != "AmazonSQS.ReceiveMessage":
            return None
        asked.set()
        return Failure.hang(0.2)

    fail(mapping.aws, hang)
    mapping.source.start()
    assert asked.wait(5)
    mapping.source.stop()


def test_it_starts_again_after_it_was_stopped(mapping: Mapping) -> None:
    with mapping.source, pytest.raises(RuntimeError, match="running already"):
        mapping.source.start()
    mapping.send("m")
    with mapping.source:
        mapping.settle(1)

    assert mapping.worker.bodies == ["m"]


def test_it_does_not_start_without_its_queue(mapping: Mapping) -> None:
    mapping.sqs.delete_queue(QueueUrl=mapping.url)
    with pytest.raises(mapping.sqs.exceptions.QueueDoesNotExist):
        mapping.source.start()
    mapping.source.stop()


def test_it_does_not_start_without_sqs() -> None:
    with Aws() as aws:
        sqs = aws.client("sqs", Config(connect_timeout=1, retries={"total_max_attempts": 1}))
    with pytest.raises(EndpointConnectionError):
        EventSource(sqs, f"{aws.url}/123456789012/q.fifo", lambda _: RESOLVED).start()
