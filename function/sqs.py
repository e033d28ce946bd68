"""The queue of queued delivery: jobs become messages of an SQS FIFO queue, and messages become jobs again.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
"""

import base64
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import aws
import limits
from delivery import Delivery, Job, Queued, held_back
from errors import Deferred, Rejected

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_BATCH_ENTRIES: Final = 10
MAX_BATCH_BYTES: Final = 1_048_576
# Leaves room for the attributes that a message gets on its way to the dead-letter queue.
MAX_MESSAGE_BYTES: Final = MAX_BATCH_BYTES - 8 * 1024
# Seconds. With less than this left until the deadline, no call is begun.
SHORTEST_CALL: Final = 1.0
_MAX_REASON_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """A job as it travels: its body is ASCII JSON without routing key; both ids are SHA-256 in hex."""

    body: str
    group: str
    deduplication_id: str


def write(service: str, job: Job) -> Message:
    """Turn a job into a message.

    Messages of one group are delivered in order: those of one incident. A change event waits for none. A message with
    the deduplication id of another in the last five minutes is not delivered again: RudderStack's retry is the same
    event with the same `messageId`, while a resolve differs from its trigger even if it reuses the id.
    """
    content = {
        "service": service,
        "kind": job.kind,
        "action": job.action,
        "dedup_key": job.dedup_key,
        "message_id": job.message_id,
        "occurred_at": job.occurred_at and job.occurred_at.isoformat(),
    }
    body = json.dumps({**content, "event": json.loads(job.body)})
    if len(body) > MAX_MESSAGE_BYTES:
        # ASCII takes up to three times the bytes of UTF-8, base64 only a third more, which always fits.
        body = json.dumps({**content, "event_base64": base64.b64encode(job.body).decode()})
    identity = job.body if job.message_id is None else _bytes(job.message_id) + b"\n" + job.body
    waits_for = job.dedup_key or job.message_id
    group = _bytes(service) + b"\n" + (identity if waits_for is None else _bytes(waits_for))
    return Message(body, _hash(group), _hash(identity))


def read(body: str) -> tuple[str, Job]:
    """Turn a message's body into its PagerDuty service and job. Raises Rejected when nobody could have written it."""
    try:
        content = json.loads(body)
        packed = content.get("event_base64")
        event = base64.b64decode(packed) if packed else limits.encode(content["event"])
        occurred_at = content.get("occurred_at")
        occurred_at = datetime.fromisoformat(occurred_at) if occurred_at else None
        job = Job(content["kind"], event, content["dedup_key"], content["message_id"], content["action"], occurred_at)
        return content["service"], job
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Rejected("message_unreadable", "This message is not one that the API function writes") from None


class Queue:
    """The queue at `url`: jobs are sent to it, and messages deleted from it or buried in it."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url

    def deliver(self, service: str, jobs: Sequence[Job], deadline: float) -> list[Delivery]:
        """Enqueue all jobs and return what became of each, in their order."""
        deliveries: list[Delivery] = [None] * len(jobs)
        messages = [write(service, job) for job in jobs]
        groups: dict[str, deque[int]] = {}
        for n, message in enumerate(messages):
            groups.setdefault(message.group, deque()).append(n)
        while groups:
            chunk = _next_chunk(groups, messages)
            for n, error in zip(chunk, self._send([messages[n] for n in chunk], deadline), strict=True):
                waiting = groups[messages[n].group]
                waiting.popleft()
                deliveries[n] = error or Queued()
                if error:
                    for later in waiting:
                        deliveries[later] = held_back(error)
                if error or not waiting:
                    del groups[messages[n].group]
        return deliveries

    def bury(self, message: Message, error: Rejected) -> None:
        """Put a message into this queue, the dead-letter queue, with the reason as attributes. Raises Deferred."""
        reason = "".join(character if character.isprintable() else " " for character in error.message)
        try:
            self._client.send_message(
                QueueUrl=self._url,
                MessageBody=message.body,
                MessageGroupId=message.group,
                MessageDeduplicationId=message.deduplication_id,
                MessageAttributes={
                    "code": {"DataType": "String", "StringValue": error.code},
                    "reason": {"DataType": "String", "StringValue": reason[:_MAX_REASON_CHARACTERS]},
                },
            )
        except aws.Failure as problem:
            raise _unavailable(aws.reason_of(problem)) from None

    def delete(self, receipt_handle: str) -> None:
        """Delete a message that was received from this queue. Raises Deferred."""
        try:
            self._client.delete_message(QueueUrl=self._url, ReceiptHandle=receipt_handle)
        except aws.Failure as problem:
            raise _unavailable(aws.reason_of(problem)) from None

    def _send(self, messages: Sequence[Message], deadline: float) -> Iterator[Deferred | None]:
        """Send at most ten messages of different groups in one call; tell of each whether SQS took it."""
        if deadline - time.monotonic() < SHORTEST_CALL:
            error = Deferred("out_of_time", "No time was left to enqueue it; it will be tried again")
            return iter([error] * len(messages))
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {
                "Id": str(n),
                "MessageBody": message.body,
                "MessageGroupId": message.group,
                "MessageDeduplicationId": message.deduplication_id,
            }
            for n, message in enumerate(messages)
        ]
        try:
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
        except aws.Failure as problem:
            return iter([_unavailable(aws.reason_of(problem))] * len(messages))
        taken = {entry["Id"] for entry in answer.get("Successful", [])}
        refused = {entry["Id"]: entry["Code"] for entry in answer.get("Failed", [])}
        return (
            None if entry["Id"] in taken else _unavailable(refused.get(entry["Id"], "not answered"))
            for entry in entries
        )


def _next_chunk(groups: dict[str, deque[int]], messages: Sequence[Message]) -> list[int]:
    """Take the first waiting message of each group, as many as fit one call.

    Never two of a group: entries fail one by one, and a resolve must not overtake its trigger.
    """
    chunk: list[int] = []
    size = 0
    for waiting in groups.values():
        n = waiting[0]
        size += len(messages[n].body)
        if chunk and (len(chunk) == MAX_BATCH_ENTRIES or size > MAX_BATCH_BYTES):
            break
        chunk.append(n)
    return chunk


def _unavailable(reason: str) -> Deferred:
    return Deferred("queue_unavailable", f"SQS did not take the event ({reason}); it will be tried again")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
