"""The worker: what it delivers, what it leaves in the queue, and what it buries, with the reason."""

import io
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

import sqs
import worker
from credentials import Credentials
from delivery import Job
from errors import Deferred
from local.sandbox import Fault, Received, Sandbox
from pagerduty import Client
from support import ROUTING_KEY, LambdaContext, no_pause

Deliver = Callable[..., list[int]]


def message(n: int, action: str = "trigger", service: str = "default") -> sqs.Message:
    event: dict[str, Any] = {"event_action": action, "dedup_key": f"incident-{n}"}
    if action == "trigger":
        event["payload"] = {"summary": "Disk is full", "severity": "error", "source": "db-1"}
    return sqs.write(service, Job("alert", json.dumps(event).encode(), f"incident-{n}", f"m-{n}-{action}", action))


def record(n: int, message: sqs.Message) -> dict[str, Any]:
    return {
        "messageId": str(n),
        "receiptHandle": f"receipt-{n}",
        "body": message.body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1545082649183",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
            "MessageGroupId": message.group,
            "MessageDeduplicationId": message.deduplication_id,
            "SequenceNumber": str(n),
        },
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:queue.fifo",
        "awsRegion": "us-east-1",
    }


class DeadLetters:
    """A real queue of moto's."""

    def __init__(self, aws_url: str) -> None:
        self.client = boto3.client("sqs", endpoint_url=aws_url)
        created = self.client.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true"})
        self.url = created["QueueUrl"]

    def received(self) -> list[tuple[str, str, str]]:
        """List body, code and reason of what is there."""
        found = self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        return [
            (
                each["Body"],
                each["MessageAttributes"]["code"]["StringValue"],
                each["MessageAttributes"]["reason"]["StringValue"],
            )
            for each in found.get("Messages", [])
        ]


class Deletions(sqs.Queue):
    """Notes which messages the worker deletes, and how many calls PagerDuty had received by then."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.deleted: list[tuple[str, int]] = []
        self.fails = False
        self._sandbox = sandbox

    def delete(self, receipt_handle: str) -> None:
        if self.fails:
            raise Deferred("queue_unavailable", "told to fail")
        self.deleted.append((receipt_handle, len(self._sandbox.received)))


@pytest.fixture
def dead_letters(aws_url: str) -> DeadLetters:
    return DeadLetters(aws_url)


@pytest.fixture
def deliver(ssm: Any, sandbox: Sandbox, dead_letters: DeadLetters, monkeypatch: pytest.MonkeyPatch) -> Deliver:
    """Run the worker over messages; return the positions of those that stay in the queue."""
    prefix = f"/test/{uuid.uuid4()}"
    ssm.put_parameter(Name=f"{prefix}/routing-keys/default", Value=ROUTING_KEY, Type="SecureString")
    queue = Deletions(sandbox)
    parts = worker.Worker(
        Credentials(prefix, ssm),
        Client(sandbox.url, no_pause),
        queue,
        sqs.Queue(dead_letters.client, dead_letters.url),
    )
    monkeypatch.setattr(worker, "worker", lambda: parts)

    def run(*messages: sqs.Message, milliseconds: int = 90_000) -> list[int]:
        event = {"Records": [record(n, each) for n, each in enumerate(messages)]}
        answer = worker.lambda_handler(event, LambdaContext(milliseconds))  # type: ignore[arg-type]  # the part it reads
        return [int(str(failure["itemIdentifier"])) for failure in answer["batchItemFailures"]]

    return run


def refusing(dedup_key: str, fault: Fault) -> Callable[[Received], Fault | None]:
    return lambda call: fault if call.event.get("dedup_key") == dedup_key else None


def test_messages_are_delivered_in_their_order(deliver: Deliver, sandbox: Sandbox) -> None:
    assert deliver(message(1), message(1, "acknowledge"), message(1, "resolve")) == []
    assert [call.event["event_action"] for call in sandbox.received] == ["trigger", "acknowledge", "resolve"]
    assert sandbox.received[0].event["routing_key"] == ROUTING_KEY


def deletions() -> Deletions:
    queue = worker.worker().queue
    assert isinstance(queue, Deletions)
    return queue


def test_a_message_is_deleted_before_a_later_one_of_its_group_goes_out(deliver: Deliver) -> None:
    deliver(message(1), message(2), message(1, "acknowledge"), message(1, "resolve"))

    assert deletions().deleted == [("receipt-0", 1), ("receipt-2", 3)]


def test_while_a_message_cannot_be_deleted_the_later_ones_of_its_group_wait(deliver: Deliver, sandbox: Sandbox) -> None:
    deletions().fails = True

    assert deliver(message(1), message(2), message(1, "resolve")) == [0, 2]
    assert [call.event["event_action"] for call in sandbox.received] == ["trigger", "trigger"]


def test_a_message_that_stays_is_not_deleted(deliver: Deliver, sandbox: Sandbox) -> None:
    sandbox.misbehave = lambda _: Fault.answer(503)
    deliver(message(1), message(1, "resolve"))

    assert deletions().deleted == []


@pytest.mark.parametrize("fault", [Fault.answer(429), Fault.answer(503), Fault.answer(403), Fault.reset_before()])
def test_what_pagerduty_cannot_take_now_stays_and_holds_back_only_its_own_group(
    deliver: Deliver, sandbox: Sandbox, fault: Fault
) -> None:
    sandbox.misbehave = refusing("incident-1", fault)

    assert deliver(message(1), message(2), message(1, "resolve"), message(2, "resolve")) == [0, 2]
    assert [incident.status for incident in sandbox.incidents] == ["resolved"]


def test_a_batch_that_stays_as_a_whole_is_no_error_of_the_function(deliver: Deliver, sandbox: Sandbox) -> None:
    sandbox.misbehave = lambda _: Fault.answer(503)

    assert deliver(message(1), message(2)) == [0, 1]


def test_what_pagerduty_refuses_for_good_is_buried_and_holds_back_nothing(
    deliver: Deliver, sandbox: Sandbox, dead_letters: DeadLetters
) -> None:
    sandbox.misbehave = lambda call: Fault.answer(400, {"errors": ["odd"]}) if call.number == 1 else None

    assert deliver(message(1), message(1, "resolve")) == []
    assert dead_letters.received() == [
        (message(1).body, "pagerduty_rejected", "PagerDuty refused the event for good with 400: odd")
    ]
    assert len(sandbox.received) == 2


def test_a_message_of_somebody_else_is_buried(deliver: Deliver, dead_letters: DeadLetters) -> None:
    assert deliver(sqs.Message("hello", "g", "d")) == []
    assert [code for _, code, _ in dead_letters.received()] == ["message_unreadable"]


def test_a_message_that_cannot_be_buried_stays(
    deliver: Deliver, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, dead_letters: DeadLetters
) -> None:
    sandbox.misbehave = lambda _: Fault.answer(400, {"errors": ["odd"]})
    dead_letters.client.delete_queue(QueueUrl=dead_letters.url)

    assert deliver(message(1)) == [0]


def test_a_missing_routing_key_is_our_fault_and_the_message_stays(deliver: Deliver, dead_letters: DeadLetters) -> None:
    assert deliver(message(1, service="nobody-set-this-up"), message(2)) == [0]
    assert dead_letters.received() == []


def test_a_refused_routing_key_is_our_fault_and_is_read_anew(
    deliver: Deliver, sandbox: Sandbox, ssm: Any, dead_letters: DeadLetters
) -> None:
    sandbox.known_keys = {"n" * 32}
    credentials = worker.worker().credentials

    assert deliver(message(1)) == [0]
    ssm.put_parameter(
        Name=credentials._name_of("default"),  # noqa: SLF001 -- the prefix is the fixture's
        Value="n" * 32,
        Type="SecureString",
        Overwrite=True,
    )
    assert deliver(message(1)) == []
    assert dead_letters.received() == []


def test_no_call_is_begun_with_less_than_ten_seconds_left(deliver: Deliver, sandbox: Sandbox) -> None:
    assert deliver(message(1), message(2), milliseconds=9_999) == [0, 1]
    assert sandbox.received == []


def test_a_bug_leaves_the_message_in_the_queue(
    deliver: Deliver, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(sqs, "read", broken)

    assert deliver(message(1)) == [0]
    assert '"exception_type":"ZeroDivisionError"' in log.getvalue()
    assert "secret" not in log.getvalue()


def test_each_message_has_one_line_in_the_log(deliver: Deliver, sandbox: Sandbox, log: io.StringIO) -> None:
    sandbox.misbehave = refusing("incident-2", Fault.answer(429))
    deliver(message(1), message(2), sqs.Message("hello", "g", "d"))

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["outcome"], line["code"], line["receives"]) for line in lines] == [
        ("delivered", "delivered", 1),
        ("deferred", "pagerduty_rate_limited", 1),
        ("rejected", "message_unreadable", 1),
    ]
    assert ROUTING_KEY not in log.getvalue()


def test_the_age_of_an_event_counts_from_when_it_occurred_and_not_from_when_it_was_queued(
    deliver: Deliver, log: io.StringIO
) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    deliver(sqs.write("default", Job("change", b'{"payload":{"summary":"Deployed"}}', None, "m", None, an_hour_ago)))

    assert 3600 <= json.loads(log.getvalue())["EventAge"] < 3660


def test_what_pagerduty_answered_is_in_the_line_of_a_message_that_it_did_not_take(
    deliver: Deliver, sandbox: Sandbox, log: io.StringIO
) -> None:
    sandbox.misbehave = lambda _: Fault.answer(503)
    deliver(message(1))

    line = json.loads(log.getvalue())
    assert (line["pagerduty_status"], line["PagerDuty5xx"], line["Retries"], line["Deferred"]) == (503, 1, 2, 1)


def test_settings_that_make_no_sense_fail_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGERDUTY_URL", "ftp://pagerduty")
    worker.worker.cache_clear()

    with pytest.raises(ValueError, match="PAGERDUTY_URL"):
        worker.lambda_handler({"Records": []}, LambdaContext())  # type: ignore[arg-type]  # the part it reads
