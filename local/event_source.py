"""Lambda's event source mapping for one SQS FIFO queue: receives batches, invokes the worker, deletes what succeeded.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and, for what follows from the worker's answer,
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html. Unlike Lambda it polls with one thread,
starts at full concurrency, and does not slow down after errors.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from local.server import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        ChangeMessageVisibilityBatchRequestEntryTypeDef,
        DeleteMessageBatchRequestEntryTypeDef,
        MessageTypeDef,
    )

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: of a synchronous invocation.
PAYLOAD_BYTES: Final = 6 * 1024 * 1024

_IDLE_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 3.0


class EventSource(Service):
    """Feeds a FIFO queue to `invoke`, which takes an event (JSON) and returns the worker's answer (JSON).

    Up to `max_concurrency` batches of up to `batch_size` messages run at once. A message that fails, or that could not
    be deleted, stays in the queue, and comes again when the worker said so to SQS, or after the queue's visibility
    timeout. Those of an invocation that failed outright are put off by `retry_seconds`, when that is given: a test need
    not wait for the visibility timeout then.
    """

    def __init__(  # noqa: PLR0913 -- what a mapping is configured with
        self,
        sqs: SQSClient,
        queue_url: str,
        invoke: Callable[[str], str],
        *,
        batch_size: int = 10,
        max_concurrency: int = 2,
        retry_seconds: int | None = None,
    ) -> None:
        self.batches = 0  # invocations
        self.messages = 0  # handed to the worker, each time that they were
        self.failures = 0  # messages that stayed in the queue, each time that they did
        self.in_flight = 0  # batches being worked on
        self._sqs = sqs
        self._queue_url = queue_url
        self._invoke = invoke
        self._batch_size = batch_size
        self._retry_seconds = retry_seconds
        self._slots = threading.BoundedSemaphore(max_concurrency)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None
        self._workers: set[threading.Thread] = set()
        self._queue_arn = ""

    def start(self) -> None:
        """Begin to poll; RuntimeError when it does already, botocore's errors when the queue cannot be reached."""
        if self._poller:
            raise RuntimeError("The event source is running already")
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["QueueArn"])
        self._queue_arn = attributes["Attributes"]["QueueArn"]
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, args=(self._stopping,), name="event source", daemon=True)
        self._poller.start()

    def stop(self) -> None:
        """Stop polling and await the invocations, for three seconds; a longer one is left to end by itself.

        Harmless when stopped already.
        """
        self._stopping.set()
        give_up = time.monotonic() + _STOP_SECONDS
        poller, self._poller = self._poller, None
        if poller:
            poller.join(_STOP_SECONDS)
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.join(max(0.0, give_up - time.monotonic()))

    def _poll(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            if not self._slots.acquire(timeout=_IDLE_SECONDS):
                continue
            messages = self._receive()
            if messages and not stopping.is_set():
                self._start_worker(messages)
            else:
                self._slots.release()
                stopping.wait(_IDLE_SECONDS)

    def _start_worker(self, messages: Sequence[MessageTypeDef]) -> None:
        worker = threading.Thread(target=self._work, args=(messages,), name="event source batch", daemon=True)
        with self._lock:
            self._workers.add(worker)
            self.in_flight += 1
        worker.start()

    def _receive(self) -> Sequence[MessageTypeDef]:
        try:
            answer = self._sqs.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=self._batch_size,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        except (BotoCoreError, ClientError):
            # SQS is down or refuses: the next poll asks again.
            return []
        return answer.get("Messages", [])

    def _work(self, messages: Sequence[MessageTypeDef]) -> None:
        try:
            self._deliver(messages)
        finally:
            with self._lock:
                self._workers.discard(threading.current_thread())
                self.in_flight -= 1
            self._slots.release()

    def _deliver(self, messages: Sequence[MessageTypeDef]) -> None:
        """Invoke the worker with a batch, in parts when it is too large for one event.

        The parts go one after the other, and a group of which a message failed goes no further: it keeps its order.
        """
        stayed: list[MessageTypeDef] = []
        for part in _parts([(message, _record(message, self._queue_arn)) for message in messages]):
            held_back = {_group(message) for message in stayed}
            going = [(message, record) for message, record in part if _group(message) not in held_back]
            failed = self._run(going) if going else set()
            self._delete([message for message, _ in going if message["MessageId"] not in failed])
            stayed += [each for each, _ in part if _group(each) in held_back or each["MessageId"] in failed]
        with self._lock:
            self.failures += len(stayed)

    def _run(self, batch: Sequence[tuple[MessageTypeDef, str]]) -> set[str]:
        """Run the worker and return the ids of the messages that failed."""
        ids = {message["MessageId"] for message, _ in batch}
        with self._lock:
            self.batches += 1
            self.messages += len(batch)
        failed: set[str] | None = None
        # Whatever goes wrong with an invocation, Lambda goes on.
        with contextlib.suppress(Exception):
            failed = failed_items(self._invoke(_event(record for _, record in batch)), ids)
        if failed is None:
            self._put_off([message for message, _ in batch])
            return ids
        return failed

    def _put_off(self, messages: Sequence[MessageTypeDef]) -> None:
        if self._retry_seconds is None:
            return
        entries: list[ChangeMessageVisibilityBatchRequestEntryTypeDef] = [
            {"Id": str(n), "ReceiptHandle": each["ReceiptHandle"], "VisibilityTimeout": self._retry_seconds}
            for n, each in enumerate(messages)
        ]
        # Otherwise they come again after the visibility timeout.
        with contextlib.suppress(BotoCoreError, ClientError):
            self._sqs.change_message_visibility_batch(QueueUrl=self._queue_url, Entries=entries)

    def _delete(self, messages: Sequence[MessageTypeDef]) -> None:
        if not messages:
            return
        entries: list[DeleteMessageBatchRequestEntryTypeDef] = [
            {"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(messages)
        ]
        # What is not deleted comes again: a queue delivers at least once.
        with contextlib.suppress(BotoCoreError, ClientError):
            self._sqs.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)


def failed_items(answer: str, ids: set[str]) -> set[str] | None:
    """Read which of a batch's messages failed, from the worker's answer; None when the invocation failed outright.

    It did when the function failed, when the answer is not of the documented form, or when it names a message that is
    not in the batch. No message failed when the answer is null or names none.
    """
    try:
        content = json.loads(answer)
        if content is None:
            return set()
        if not isinstance(content, dict) or "errorType" in content:
            return None
        items = content.get("batchItemFailures")
        if not isinstance(items, list | None):
            return None
        named = {item["itemIdentifier"] for item in items or []}
    except (ValueError, TypeError, KeyError):
        return None
    return named if named <= ids else None


def _event(records: Iterator[str]) -> str:
    return f'{{"Records": [{", ".join(records)}]}}'


def _record(message: MessageTypeDef, queue_arn: str) -> str:
    """Write one record of the event: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html."""
    record = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {
                "stringValue": value["StringValue"],
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": value["DataType"],
            }
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }
    return json.dumps(record)


def _group(message: MessageTypeDef) -> str:
    return message["Attributes"]["MessageGroupId"]


def _parts(batch: Sequence[tuple[MessageTypeDef, str]]) -> Iterator[list[tuple[MessageTypeDef, str]]]:
    """Cut a batch, in its order, into parts of which each fits into one event."""
    part: list[tuple[MessageTypeDef, str]] = []
    for item in batch:
        if part and len(_event(record for _, record in [*part, item])) > PAYLOAD_BYTES:
            yield part
            part = []
        part.append(item)
    if part:
        yield part
