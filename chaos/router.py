"""A model of rudder-server's router as the sender: what it sends, when it sends it again, and when it gives up.

The rules are those of https://github.com/rudderlabs/rudder-server with its default settings, each with its file below.
Its waiting times can be compressed, its limit of ten seconds for a request is not. Left out are the transformer, the
job database, throttling, and the switch that gives up the order of a user after 200 events of theirs.
"""

import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal

import urllib3
from urllib3.exceptions import HTTPError

# Seconds for a request in all: router/handle_lifecycle.go, `httpTimeout`.
REQUEST_SECONDS: Final = 10.0
# Requests at once: router/handle_lifecycle.go, `noOfWorkers`.
WORKERS: Final = 64
# Events that a worker takes up together, and so a batch's largest size: router/handle_lifecycle.go,
# `noOfJobsToBatchInAWorker`.
BATCH_SIZE: Final = 20
# Seconds to wait after the first failure, doubled with each, and the most, without jitter: router/misc.go,
# `nextAttemptAfter`. No code reads `Retry-After`.
BACKOFF: Final = (10.0, 300.0)
# A 5xx is given up after both: so many seconds since the first attempt, and so many attempts: router/worker.go,
# `retryLimitReached`.
RETRY_SECONDS: Final = 180 * 60.0
RETRY_ATTEMPTS: Final = 3
# The user is shown this much of an answer: router/worker.go.
SHOWN_CHARACTERS: Final = 10 * 1024

Event = dict[str, Any]
Outcome = Literal["delivered", "aborted", "unfinished"]


@dataclass(frozen=True)
class Rules:
    """What can be chosen: the body (an array of up to `batch_size` events, or with 0 one event), and the model's own.

    `speed` divides every waiting time.
    """

    batch_size: int = 0
    workers: int = WORKERS
    speed: float = 1.0
    request_seconds: float = REQUEST_SECONDS

    def wait_after(self, attempts: int) -> float:
        """Return the seconds between a failed attempt and the next."""
        first, most = BACKOFF
        return min(first * 2.0 ** min(attempts - 1, 30), most) / self.speed

    def gives_up(self, status: int, attempts: int, seconds: float) -> bool:
        """Tell whether a failed job has had its time; 408 and 429 always get another one."""
        is_limited = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return is_limited and attempts >= RETRY_ATTEMPTS and seconds > RETRY_SECONDS / self.speed


@dataclass(frozen=True)
class Job:
    """An event, and the user whose events keep their order."""

    user: str
    event: Event


@dataclass(frozen=True)
class Request:
    """One request: its jobs by their position, when it began, how long it took, and the answer.

    Without an answer (`answered` false) the status is what the router records then.
    """

    jobs: tuple[int, ...]
    began: float
    seconds: float
    status: int
    body: str = ""
    answered: bool = True


@dataclass(frozen=True)
class Record:
    """What became of a job. `attempts` are those that the router counts: a job that only shared a batch has none."""

    job: Job
    outcome: Outcome
    attempts: int
    requests: tuple[Request, ...]

    @property
    def message(self) -> str:
        """What the user is shown: the last answer."""
        return self.requests[-1].body[:SHOWN_CHARACTERS] if self.requests else ""


@dataclass
class _Pending:
    """A job that is not done yet."""

    number: int
    job: Job
    requests: list[Request] = field(default_factory=list)
    attempts: int = 0
    first_attempt: float = 0.0
    due: float = 0.0
    outcome: Outcome = "unfinished"

    def record(self) -> Record:
        return Record(self.job, self.outcome, self.attempts, tuple(self.requests))


class Router:
    """Sends jobs to `url`; `loses` tells of a request whether its answer gets lost on the way to the router."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        rules: Rules | None = None,
        loses: Callable[[Sequence[Job]], bool] | None = None,
    ) -> None:
        self._url = url
        # https://github.com/rudderlabs/rudder-server/blob/master/router/network.go
        self._headers = {"User-Agent": "RudderLabs", "Content-Type": "application/json", **headers}
        self._rules = rules or Rules()
        self._loses = loses
        self._http = urllib3.PoolManager(maxsize=self._rules.workers, retries=False)
        self._stop = threading.Event()

    def deliver(self, jobs: Sequence[Job], patience: float) -> list[Record]:
        """Send all jobs and return what became of each, in their order; what takes longer than `patience` stays undone.

        A user's jobs are one worker's, and each worker sends one request at a time: router/handle.go, `findWorkerSlot`.
        """
        queues: list[list[_Pending]] = [[] for _ in range(self._rules.workers)]
        pending = [_Pending(number, job) for number, job in enumerate(jobs)]
        for each in pending:
            queues[worker_of(each.job.user, len(queues))].append(each)
        give_up = time.monotonic() + patience
        with ThreadPoolExecutor(len(queues)) as threads:
            list(threads.map(lambda queue: self._work(queue, give_up), queues))
        return [each.record() for each in pending]

    def _work(self, queue: Sequence[_Pending], give_up: float) -> None:
        waiting = list(queue)
        while waiting and (now := time.monotonic()) < give_up:
            batch = _pick(waiting, self._rules.batch_size or 1, now)
            if batch:
                self._settle(batch, self._send(batch))
                waiting = [each for each in waiting if each.outcome == "unfinished"]
            else:
                self._stop.wait(min(each.due for each in waiting if each.due > now) - now)

    def _send(self, batch: Sequence[_Pending]) -> Request:
        jobs = [each.job for each in batch]
        content = [job.event for job in jobs] if self._rules.batch_size else jobs[0].event
        began = time.monotonic()
        try:
            response = self._http.request(
                "POST",
                self._url,
                body=json.dumps(content).encode(),
                headers=self._headers,
                timeout=urllib3.Timeout(total=self._rules.request_seconds),
                retries=False,
                redirect=False,
            )
            status, body = response.status, response.data.decode("utf-8", "replace")
        except HTTPError as error:
            status, body = 0, type(error).__name__
        seconds = time.monotonic() - began
        numbers = tuple(each.number for each in batch)
        if not status or seconds > self._rules.request_seconds or (self._loses and self._loses(jobs)):
            # No answer, or none in time, is recorded as a 504: router/network.go.
            return Request(numbers, began, seconds, HTTPStatus.GATEWAY_TIMEOUT, body, answered=False)
        return Request(numbers, began, seconds, status, body)

    def _settle(self, batch: Sequence[_Pending], request: Request) -> None:
        """Apply one status to all jobs of a request: router/worker.go, `processDestinationJobs`."""
        now = time.monotonic()
        failed: set[str] = set()
        for each in batch:
            each.requests.append(request)
            if not is_retried(request.status):
                each.attempts += 1
                each.outcome = "delivered" if request.status in range(200, 300) else "aborted"
            elif each.job.user not in failed:
                failed.add(each.job.user)
                each.attempts += 1
                each.first_attempt = each.first_attempt or now
                each.due = now + self._rules.wait_after(each.attempts)
                if self._rules.gives_up(request.status, each.attempts, now - each.first_attempt):
                    each.outcome = "aborted"
            # Otherwise an earlier job of the same user failed in the same batch: this one waits, without an attempt.


def worker_of(user: str, workers: int) -> int:
    """Tell which worker has a user's jobs: router/misc.go, `getWorkerPartition`."""
    return zlib.crc32(user.encode()) % workers


def is_retried(status: int) -> bool:
    """Tell whether a job is sent again after this status: router/misc.go, `isJobTerminated`."""
    return (
        status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _pick(waiting: Sequence[_Pending], size: int, now: float) -> list[_Pending]:
    """Take the next jobs, in their order; while one of a user fails, it alone: router/internal/eventorder."""
    batch: list[_Pending] = []
    held_back: set[str] = set()
    for each in waiting:
        user = each.job.user
        if user not in held_back:
            if each.attempts:
                held_back.add(user)
            if each.due <= now:
                batch.append(each)
        if len(batch) == size:
            break
    return batch
