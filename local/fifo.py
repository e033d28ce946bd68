"""SQS's rules for FIFO queues: order, deduplication, visibility, and dead letters.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
The rules only: requests are read and checked in aws_server.py, and benchmarks/storm.py uses the same queue in virtual
time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-exactly-once-processing.html
DEDUPLICATION_SECONDS: Final = 300
# From the receive on, however often the visibility is changed:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
MAX_VISIBILITY_SECONDS: Final = 43_200
# SQS looks for message groups among these only. What happens beyond them is not modelled:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/avoid-backlog-with-the-same-message-group-id.html
MAX_MESSAGES: Final = 120_000

# SQS's sequence numbers have 20 digits and only ever increase.
_SEQUENCE: Final = itertools.count(18_850_000_000_000_000_000, 256)


class SqsError(Exception):
    """A refusal by SQS, with its code; the HTTP status is always 400."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(name: str, value: object, reason: str) -> SqsError:
    """Return SQS's usual refusal of a parameter."""
    return SqsError("InvalidParameterValue", f"Value {value} for parameter {name} is invalid. Reason: {reason}")


@dataclass(slots=True, eq=False)
class QueuedMessage:
    """A message of a FIFO queue, until it is deleted; times are in seconds of the queue's clock."""

    body: str
    attributes: dict[str, Any]  # message attributes, as in the request
    group: str
    deduplication_id: str
    sent_at: float
    sequence: int = field(default_factory=lambda: next(_SEQUENCE))
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    received_at: float = math.nan
    receive_count: int = 0
    hidden_until: float = -math.inf
    is_hidden: bool = False  # in flight, in SQS's terms
    is_delayed: bool = False  # hidden because its consumer changed its visibility, not because it is being processed

    @property
    def handle(self) -> str:
        """The receipt handle of the latest receive."""
        return f"{self.id} {self.receive_count}"


@dataclass(slots=True, eq=False)
class _Group:
    """A message group: its messages by id, the oldest first. While one of them is hidden, it is locked."""

    messages: dict[str, QueuedMessage] = field(default_factory=dict)
    hidden: int = 0


class FifoQueue:
    """A FIFO queue whose deduplication ids count within their group; the caller makes one call at a time.

    `clock` returns seconds. With `dead_letters`, messages that were received `max_receives` times are moved there.
    """

    def __init__(
        self, clock: Callable[[], float], dead_letters: FifoQueue | None = None, max_receives: int = 0
    ) -> None:
        self.in_flight = 0  # as of the latest call
        self._clock = clock
        self._dead_letters = dead_letters
        self._max_receives = max_receives
        self._messages: dict[str, QueuedMessage] = {}
        self._groups: dict[str, _Group] = {}
        self._accepted: OrderedDict[tuple[str, str], QueuedMessage] = OrderedDict()
        # Groups without a message in flight, by their oldest message.
        self._available: list[tuple[int, _Group]] = []
        # When messages become visible. An entry is stale if the visibility was changed after it was made.
        self._hidden: list[tuple[float, int, list[QueuedMessage]]] = []
        self._entries = itertools.count()

    def peek(self) -> list[QueuedMessage]:
        """Return copies of all messages, in the order in which they were accepted."""
        self._show_due()
        return [replace(message) for message in self._messages.values()]

    def counts(self) -> tuple[int, int]:
        """Return the number of messages that are visible, and of those that are not."""
        self._show_due()
        return len(self._messages) - self.in_flight, self.in_flight

    def send(self, body: str, attributes: dict[str, Any], group: str, deduplication_id: str) -> QueuedMessage:
        """Accept a message, or return the one whose deduplication id it repeats."""
        now = self._show_due()
        if len(self._messages) >= MAX_MESSAGES:
            raise SqsError("UnsupportedOperation", f"The model ends at {MAX_MESSAGES} messages")
        while self._accepted and now - next(iter(self._accepted.values())).sent_at >= DEDUPLICATION_SECONDS:
            self._accepted.popitem(last=False)
        key = (group, deduplication_id)
        if key not in self._accepted:
            message = self._accepted[key] = QueuedMessage(body, attributes, group, deduplication_id, now)
            self._add(message)
        return self._accepted[key]

    def receive(self, count: int, visibility_seconds: float) -> list[QueuedMessage]:
        """Return messages of unlocked groups, the oldest group first and as many of it as possible, and lock them."""
        now = self._show_due()
        received: list[QueuedMessage] = []
        while self._available and len(received) < count:
            _, group = heapq.heappop(self._available)
            for message in list(group.messages.values()):
                if len(received) == count:
                    break
                if self._dead_letters and message.receive_count >= self._max_receives:
                    self._remove(message)
                    # A copy: the deduplication of this queue still refers to the message as it was accepted.
                    self._dead_letters._add(replace(message, sequence=next(_SEQUENCE)))  # noqa: SLF001 -- of its class
                    continue
                message.receive_count += 1
                message.received_at = now
                message.is_hidden = True
                group.hidden += 1
                self.in_flight += 1
                received.append(message)
        self._hide(received, now + visibility_seconds)
        return received

    def delete(self, handle: str) -> None:
        """Delete a message that is in flight; deleting it again changes nothing."""
        self._show_due()
        if message := self._in_flight(handle):
            self._remove(message)
            self._show(message)

    def change_visibility(self, handle: str, seconds: float) -> None:
        """Hide a message that is in flight for so many seconds from now on."""
        now = self._show_due()
        message = self._in_flight(handle)
        if message is None:
            raise invalid("ReceiptHandle", handle, "Message does not exist.")
        if now + seconds > message.received_at + MAX_VISIBILITY_SECONDS:
            raise invalid("VisibilityTimeout", seconds, f"In total, {MAX_VISIBILITY_SECONDS} seconds are allowed.")
        message.is_delayed = True
        self._hide([message], now + seconds)

    def purge(self) -> None:
        """Delete all messages, those in flight as well, and forget the deduplication ids."""
        self.in_flight = 0
        for part in (self._messages, self._groups, self._accepted, self._available, self._hidden):
            part.clear()

    def _in_flight(self, handle: str) -> QueuedMessage | None:
        """Return the message of a receipt handle, None if it is deleted. Raises SqsError if the handle has expired."""
        message = self._messages.get(handle.partition(" ")[0])
        if message and not (message.is_hidden and message.handle == handle):
            raise invalid("ReceiptHandle", handle, "The receipt handle has expired.")
        return message

    def _add(self, message: QueuedMessage) -> None:
        self._messages[message.id] = message
        group = self._groups.setdefault(message.group, _Group())
        group.messages[message.id] = message
        if len(group.messages) == 1:
            self._offer(group)

    def _remove(self, message: QueuedMessage) -> None:
        del self._messages[message.id]
        group = self._groups[message.group]
        del group.messages[message.id]
        if not group.messages:
            del self._groups[message.group]

    def _offer(self, group: _Group) -> None:
        heapq.heappush(self._available, (next(iter(group.messages.values())).sequence, group))

    def _hide(self, messages: list[QueuedMessage], until: float) -> None:
        for message in messages:
            message.hidden_until = until
        heapq.heappush(self._hidden, (until, next(self._entries), messages))

    def _show_due(self) -> float:
        """Make messages visible whose time has come; return the time."""
        now = self._clock()
        while self._hidden and self._hidden[0][0] <= now:
            for message in heapq.heappop(self._hidden)[2]:
                if message.is_hidden and message.hidden_until <= now:
                    self._show(message)
        return now

    def _show(self, message: QueuedMessage) -> None:
        message.is_hidden = message.is_delayed = False
        self.in_flight -= 1
        group = self._groups.get(message.group)
        if group:
            group.hidden -= 1
            if not group.hidden:
                self._offer(group)
