"""The SQS FIFO queues: events become messages, and messages become events again.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
"""

import base64
import hashlib
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import aws
from deadline import MIN_CALL
from event import ACTIONS, SERVICE, Action, Event, Kind
from outcome import Outcome, ProcessingError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import ChangeMessageVisibilityBatchRequestEntryTypeDef as Delay
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef as Message

# The version of the messages' format; a message without one has version 1.
FORMAT_VERSION: Final = 1
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_BATCH_ENTRIES: Final = 10
MAX_BATCH_BYTES: Final = 1_048_576
# Leaves room for the attributes that a message gets on its way to the dead-letter queue.
MAX_MESSAGE_BYTES: Final = MAX_BATCH_BYTES - 8 * 1024
# Seconds for which the number of messages in flight is kept.
COUNT_TTL: Final = 10.0
_IN_FLIGHT: Final = "ApproximateNumberOfMessagesNotVisible"
_MAX_REASON_CHARACTERS: Final = 1000
_ACTIONS: Final[dict[Kind, tuple[Action | None, ...]]] = {"alert": ACTIONS, "change": (None,)}


def write(event: Event, number: int) -> "Message":
    """Return an event as an entry of SendMessageBatch with the number as id. The body is ASCII JSON.

    A message group is an incident, or one change event. SQS drops a message with the deduplication id of another one
    in the last five minutes: a retry by RudderStack has the same service, `messageId` and event, while a resolve
    differs from its trigger even if it reuses the `messageId`. Without one the id is random, since a retry cannot be
    distinguished from a second event.
    """
    content = {
        "version": FORMAT_VERSION,
        "service": event.service,
        "kind": event.kind,
        "action": event.action,
        "dedup_key": event.dedup_key,
        "message_id": event.message_id,
        "occurred_at": event.occurred_at and event.occurred_at.isoformat(),
    }
    body = json.dumps({**content, "event": event.content})
    if len(body) > MAX_MESSAGE_BYTES:
        # ASCII takes up to three times the bytes of UTF-8; base64 takes a third more, which always fits.
        body = json.dumps({**content, "event_base64": base64.b64encode(event.body).decode()})
    waits_for = event.dedup_key or event.message_id or str(uuid.uuid4())
    identity = str(uuid.uuid4()) if event.message_id is None else f"{event.service}\n{event.message_id}\n"
    return {
        "Id": str(number),
        "MessageBody": body,
        "MessageGroupId": _hash(f"{event.service}\n{waits_for}".encode()),
        "MessageDeduplicationId": _hash(identity.encode() + event.body),
    }


def read(body: str) -> Event:
    """Return the event in a message's body. Raises ProcessingError if `write` cannot have written it."""
    try:
        message = json.loads(body)
        packed = message.get("event_base64")
        content = json.loads(base64.b64decode(packed, validate=True)) if packed else message["event"]
        occurred_at = message["occurred_at"] and datetime.fromisoformat(message["occurred_at"]).astimezone(UTC)
        event = Event(
            service=message["service"],
            kind=message["kind"],
            content=content,
            action=message["action"],
            dedup_key=message["dedup_key"],
            message_id=message["message_id"],
            occurred_at=occurred_at,
        )
        if (
            message.get("version", FORMAT_VERSION) == FORMAT_VERSION
            and SERVICE.fullmatch(event.service)
            and event.action in _ACTIONS[event.kind]
            and all(value is None or isinstance(value, str) for value in (event.dedup_key, event.message_id))
            and isinstance(content, dict)
            and event.body  # Raises ValueError for NaN, which cannot be posted.
        ):
            return event
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # Not a message of this format.
    raise ProcessingError("message_unreadable", "This message is not one that the API function writes")


class Queue:
    """The queue at `url`; `client` returns the boto3 client. Deadlines are in seconds of the monotonic clock."""

    def __init__(self, client: "Callable[[], SQSClient]", url: str) -> None:
        self._client = client
        self._url = url
        self._in_flight = 0
        self._counted_at = float("-inf")

    def enqueue(self, events: Sequence[Event], deadline: float) -> list[Outcome]:
        """Enqueue all events, and return their outcomes in the same order.

        Entries of one call fail one by one, and a resolve must not overtake its trigger. So a call has at most one
        message of each group, and if SQS does not accept one, the later ones of its group are not sent.
        """
        messages = [write(event, number) for number, event in enumerate(events)]
        outcomes: dict[int, Outcome] = {}
        groups: dict[str, deque[int]] = {}
        for number, message in enumerate(messages):
            groups.setdefault(message["MessageGroupId"], deque()).append(number)
        while groups:
            for number, outcome in self._send(_next_chunk(groups, messages), deadline):
                group = messages[number]["MessageGroupId"]
                outcomes[number] = outcome
                groups[group].popleft()
                if outcome.status != "queued":
                    outcomes |= dict.fromkeys(groups[group], _behind(outcome))
                if outcome.status != "queued" or not groups[group]:
                    del groups[group]
        return [outcomes[number] for number in range(len(events))]

    def dead_letter(self, record: "SQSRecord", outcome: Outcome, deadline: float) -> None:
        """Put a message into this queue, the dead-letter queue, with the reason as attributes. Raises ProcessingError.

        As when SQS moves a message, its deduplication id there is its message id. With the original one SQS could drop
        it: the same event for another service, or a second refusal after a redrive.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html
        """
        reason = "".join(character if character.isprintable() else " " for character in outcome.message)
        try:
            aws.call_with_deadline(
                self._client().send_message,
                deadline,
                QueueUrl=self._url,
                MessageBody=record.body,
                MessageGroupId=record.attributes.message_group_id or record.message_id,
                MessageDeduplicationId=record.message_id,
                MessageAttributes={
                    "code": {"DataType": "String", "StringValue": outcome.code},
                    "reason": {"DataType": "String", "StringValue": reason[:_MAX_REASON_CHARACTERS]},
                },
            )
        except aws.AWS_ERRORS as error:
            raise _failed("put the event into the dead-letter queue", error) from None

    def delete(self, record: "SQSRecord", deadline: float) -> None:
        """Delete a message from this queue. Raises ProcessingError."""
        try:
            delete, handle = self._client().delete_message, record.receipt_handle
            aws.call_with_deadline(delete, deadline, QueueUrl=self._url, ReceiptHandle=handle)
        except aws.AWS_ERRORS as error:
            raise _failed("delete the event", error) from None

    def delay(self, delays: "Sequence[tuple[SQSRecord, int]]", deadline: float) -> None:
        """Make messages, at most ten, invisible for so many seconds each. Raises ProcessingError.

        If SQS fails, they return after the visibility timeout. An invisible message locks its group.
        """
        entries: list[Delay] = [
            {"Id": str(number), "ReceiptHandle": record.receipt_handle, "VisibilityTimeout": seconds}
            for number, (record, seconds) in enumerate(delays)
        ]
        try:
            change = self._client().change_message_visibility_batch
            answer = aws.call_with_deadline(change, deadline, QueueUrl=self._url, Entries=entries)
        except aws.AWS_ERRORS as error:
            raise _failed("delay the events", error) from None
        if failed := answer.get("Failed"):
            raise _failed("delay an event", failed[0]["Code"])

    def in_flight(self, deadline: float) -> int:
        """Return the number of messages in flight, delayed ones included, at most 10 s old if SQS answers."""
        if not 0 <= time.time() - self._counted_at < COUNT_TTL:
            self._counted_at = time.time()
            with suppress(*aws.AWS_ERRORS):
                ask = self._client().get_queue_attributes
                answer = aws.call_with_deadline(ask, deadline, QueueUrl=self._url, AttributeNames=[_IN_FLIGHT])
                self._in_flight = int(answer["Attributes"][_IN_FLIGHT])
        return self._in_flight

    def _send(self, entries: "Sequence[Message]", deadline: float) -> Iterator[tuple[int, Outcome]]:
        """Send at most ten messages of different groups in one call; yield the number and the outcome of each."""
        numbers = [int(entry["Id"]) for entry in entries]
        if deadline - time.monotonic() < MIN_CALL:
            late = Outcome("deadline_exceeded", "No time was left to enqueue it; it will be tried again")
            yield from ((number, late) for number in numbers)
            return
        # An entry that the response does not mention was not accepted.
        outcomes = dict.fromkeys(numbers, _failed("accept the event", "no answer").outcome)
        try:
            send = self._client().send_message_batch
            answer = aws.call_with_deadline(send, deadline, QueueUrl=self._url, Entries=entries)
            queued = Outcome("queued", "The queue has accepted the event and delivers it to PagerDuty")
            outcomes |= {int(entry["Id"]): queued for entry in answer.get("Successful", [])}
            for entry in answer.get("Failed", []):
                outcomes[int(entry["Id"])] = _failed("accept the event", entry["Code"]).outcome
        except aws.AWS_ERRORS as error:
            outcomes = dict.fromkeys(numbers, _failed("accept the event", error).outcome)
        yield from outcomes.items()


def _next_chunk(groups: dict[str, deque[int]], messages: "Sequence[Message]") -> "list[Message]":
    """Return the first waiting message of each group, as many as fit one call."""
    chunk: list[Message] = []
    size = 0
    for waiting in groups.values():
        message = messages[waiting[0]]
        size += len(message["MessageBody"])
        if chunk and (len(chunk) == MAX_BATCH_ENTRIES or size > MAX_BATCH_BYTES):
            break
        chunk.append(message)
    return chunk


def _behind(outcome: Outcome) -> Outcome:
    message = f"An earlier event with this dedup key was deferred ({outcome.code}); it will be tried again after it"
    return Outcome("earlier_event_deferred", message)


def _failed(what: str, error: Exception | str) -> ProcessingError:
    reason = error if isinstance(error, str) else aws.error_code(error)
    return ProcessingError("queue_unavailable", f"SQS did not {what} ({reason}); it will be tried again")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
