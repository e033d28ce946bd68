"""Lambda's event source mapping for one SQS FIFO queue: receives batches, invokes the worker, deletes what succeeded.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and, for failures,
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html. Unlike Lambda it starts at full
concurrency, does not slow down after errors, and does not split a batch whose event is larger than 6 MB.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from local.server import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Message = dict[str, Any]

_IDLE_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 3.0


class EventSource(Service):
    """Feeds a FIFO queue to `invoke`, which gets an event (JSON) and returns the worker's answer (JSON).

    Up to `max_concurrency` batches of up to `batch_size` messages run at once. A message that fails, or that cannot be
    deleted, stays in the queue, hidden for as long as the worker or the queue's visibility timeout says. With
    `retry_seconds`, messages of a failed invocation are hidden for that long instead, so that tests need not wait.
    """

    def __init__(  # noqa: PLR0913 -- the settings of a mapping
        self,
        sqs: Any,
        queue_url: str,
        invoke: Callable[[str], str],
        *,
        batch_size: int = 10,
        max_concurrency: int = 2,
        retry_seconds: int | None = None,
    ) -> None:
        self.batches = 0  # that are finished
        self.failures = 0  # messages that stayed in the queue, counted each time
        self._sqs = sqs
        self._queue_url = queue_url
        self._invoke = invoke
        self._batch_size = batch_size
        self._retry_seconds = retry_seconds
        self._counting = threading.Lock()
        self._polling = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(max_concurrency)]
        self._queue_arn = ""

    def start(self) -> None:
        """Start polling. Raises botocore's errors if the queue cannot be reached."""
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["QueueArn"])
        self._queue_arn = attributes["Attributes"]["QueueArn"]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop polling, and wait three seconds for running invocations."""
        self._stopping.set()
        give_up = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            messages: Sequence[Message] = []
            # One thread polls at a time, also while the queue is empty.
            with self._polling:
                if not self._stopping.is_set():
                    with contextlib.suppress(BotoCoreError, ClientError):  # The next poll tries again.
                        messages = self._receive()
                if not messages:
                    self._stopping.wait(_IDLE_SECONDS)
            if messages and not self._stopping.is_set():
                self._deliver(messages)

    def _receive(self) -> Sequence[Message]:
        answer = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=self._batch_size,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", []))

    def _deliver(self, messages: Sequence[Message]) -> None:
        """Invoke the worker; delete the messages that succeeded."""
        ids = {message["MessageId"] for message in messages}
        failed: set[str] | None = None
        # Lambda continues, whatever happens to an invocation.
        with contextlib.suppress(Exception):
            records = [record(message, self._queue_arn) for message in messages]
            failed = failed_items(self._invoke(json.dumps({"Records": records})), ids)
        with self._counting:
            self.failures += len(ids if failed is None else failed)
        entries: list[Any] = [{"Id": each["MessageId"], "ReceiptHandle": each["ReceiptHandle"]} for each in messages]
        # If SQS fails, the messages are received again: a queue delivers at least once.
        with contextlib.suppress(BotoCoreError, ClientError):
            if failed is None and self._retry_seconds is not None:
                delayed = [entry | {"VisibilityTimeout": self._retry_seconds} for entry in entries]
                self._sqs.change_message_visibility_batch(QueueUrl=self._queue_url, Entries=delayed)
            elif failed is not None and failed != ids:
                succeeded = [entry for entry in entries if entry["Id"] not in failed]
                self._sqs.delete_message_batch(QueueUrl=self._queue_url, Entries=succeeded)
        with self._counting:
            self.batches += 1


def failed_items(answer: str, ids: set[str]) -> set[str] | None:
    """Return which of a batch's messages failed, by the worker's answer; None if the invocation failed.

    It failed if the function did, if the answer is not of the documented form, or if it names a message that is not in
    the batch. No message failed if the answer is null or names none.
    """
    try:
        content = {} if answer == "null" else json.loads(answer)
        named = {item["itemIdentifier"] for item in content.get("batchItemFailures") or []}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return named if named <= ids and "errorType" not in content else None


def record(message: Message, queue_arn: str) -> dict[str, Any]:
    """Return one record of the event: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html."""
    empty: dict[str, list[str]] = {"stringListValues": [], "binaryListValues": []}
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {"stringValue": value["StringValue"], **empty, "dataType": value["DataType"]}
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }
