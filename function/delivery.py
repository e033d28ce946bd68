"""Direct delivery of the events of one request: in order per dedup key, otherwise at the same time."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from errors import Deferred, NotSentError
from mapping import Kind
from pagerduty import PARALLEL_CALLS, Receipt

# How long, and how many, deliveries of a deferred batch are remembered: RudderStack retries within minutes.
MEMORY_SECONDS: Final = 3600.0
MEMORY_SIZE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Job:
    """An event ready to be posted: encoded, without routing key. `occurred_at` is when it says that it happened."""

    kind: Kind
    body: bytes
    dedup_key: str | None
    message_id: str | None
    action: str | None = None
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """The queue took the event, and delivers it."""


# What became of a job: posted, enqueued, already posted for an earlier request (None), or the reason why it was not.
Delivery = Receipt | Queued | None | NotSentError


class Memory:
    """What was delivered out of batches that RudderStack was told to send again, so that it is not delivered twice.

    Holds hashes, at most MEMORY_SIZE of them and for an hour. Only an event with a `messageId` is remembered: without
    one, nothing tells a retry from a second event that says the same.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._delivered: OrderedDict[bytes, float] = OrderedDict()

    def add(self, service: str, job: Job) -> None:
        """Remember that the job was delivered."""
        if job.message_id is None:
            return
        key = self._key(service, job)
        self._delivered[key] = self._clock()
        self._delivered.move_to_end(key)
        if len(self._delivered) > MEMORY_SIZE:
            self._delivered.popitem(last=False)

    def __len__(self) -> int:
        return len(self._delivered)

    def __contains__(self, item: tuple[str, Job]) -> bool:
        service, job = item
        if job.message_id is None:
            return False
        delivered_at = self._delivered.get(self._key(service, job))
        return delivered_at is not None and 0 <= self._clock() - delivered_at < MEMORY_SECONDS

    @staticmethod
    def _key(service: str, job: Job) -> bytes:
        text = f"{service}\n{job.kind}\n{job.message_id}\n".encode("utf-8", "surrogatepass")
        return hashlib.sha256(text + job.body).digest()


class Direct:
    """Delivers jobs with `send`, which posts one and raises NotSentError; remembers what a retry must not repeat."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = Memory() if memory is None else memory
        self._threads: ThreadPoolExecutor | None = None

    def deliver(
        self, service: str, jobs: Sequence[Job], send: Callable[[Job], Receipt], *, again: bool = False
    ) -> list[Delivery]:
        """Deliver all jobs and return what became of each, in their order.

        `again` tells that the sender will be told to send all of them again, whatever becomes of them.
        """
        deliveries: list[Delivery] = [None] * len(jobs)
        chains = _chains(jobs, skip=self._already_delivered(service, jobs))

        def run(chain: list[int]) -> None:
            for n, delivery in zip(chain, _in_order([jobs[n] for n in chain], send), strict=True):
                deliveries[n] = delivery

        if len(chains) == 1:
            run(chains[0])
        elif chains:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(PARALLEL_CALLS, thread_name_prefix="pagerduty")
            list(self._threads.map(run, chains))

        if again or any(isinstance(delivery, Deferred) for delivery in deliveries):
            for job, delivery in zip(jobs, deliveries, strict=True):
                if not isinstance(delivery, NotSentError):
                    self._memory.add(service, job)
        return deliveries

    def _already_delivered(self, service: str, jobs: Sequence[Job]) -> set[int]:
        """Find the positions of the jobs that need not be sent again.

        A resolve is one of them only behind its trigger. When it comes alone, RudderStack has regrouped the retry: the
        trigger may have reached another process and opened the incident again, and the resolve has to close it.
        Where none is open, PagerDuty drops it.
        """
        found: set[int] = set()
        if not self._memory:
            return found
        triggered: set[str | None] = set()
        for n, job in enumerate(jobs):
            if (service, job) in self._memory and (job.action != "resolve" or job.dedup_key in triggered):
                found.add(n)
                if job.action == "trigger":
                    triggered.add(job.dedup_key)
        return found


def _in_order(jobs: Sequence[Job], send: Callable[[Job], Receipt]) -> Iterator[Delivery]:
    """Send one after the other; after a deferred one the rest waits too, or a resolve would overtake its trigger."""
    deferred: Deferred | None = None
    for job in jobs:
        if deferred:
            yield held_back(deferred)
            continue
        try:
            yield send(job)
        except Deferred as error:
            deferred = error
            yield error
        except NotSentError as error:
            yield error


def _chains(jobs: Sequence[Job], skip: set[int]) -> list[list[int]]:
    """Group the positions of the jobs that have to go out one after the other: those of one dedup key."""
    chains: dict[object, list[int]] = {}
    for n, job in enumerate(jobs):
        if n not in skip:
            # A job without a dedup key waits for none: its position is a group of its own.
            chains.setdefault(job.dedup_key if job.dedup_key is not None else n, []).append(n)
    return list(chains.values())


def held_back(error: Deferred) -> Deferred:
    """Tell of a later event of the same dedup key what became of it: it waits, and has the earlier one's status."""
    return Deferred(
        "held_back",
        f"An earlier event with this dedup key was deferred ({error.code}); it will be tried again after it",
        status=error.status,
    )
