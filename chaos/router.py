"""A model of rudder-server's router as the sender: what it sends, and when it sends it again.

The rules are those of https://github.com/rudderlabs/rudder-server with its default settings, each with its file below.
Its waiting times can be compressed, its limit of ten seconds for a request is not. Left out are the transformer, the
job database, throttling, the switch that gives up the order of a user after 200 events of theirs, and giving up after
three hours: a run is shorter.
"""

import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import urllib3
from urllib3.exceptions import HTTPError

# Seconds for a request in all: router/handle_lifecycle.go, `httpTimeout`.
REQUEST_SECONDS: Final = 10.0
# Requests at once, and a batch's largest size: router/handle_lifecycle.go, `noOfWorkers`, `noOfJobsToBatchInAWorker`.
WORKERS: Final = 64
BATCH_SIZE: Final = 20
# How many jobs a worker looks through for those of a batch: one router has the jobs of many destinations here.
BATCH_WINDOW: Final = 100
# Seconds to wait after the first failure, doubled with each, and the most, without jitter: router/misc.go,
# `nextAttemptAfter`. No code reads `Retry-After`.
BACKOFF: Final = (10.0, 300.0)

Event = dict[str, Any]
# One event as the body of /events or of /v1/track, or several: as an array, or under "batch".
Form = Literal["single", "track", "array", "batch"]


@dataclass(frozen=True)
class RetryRules:
    """The router's rules; `speed` divides every waiting time."""

    batch_size: int = BATCH_SIZE
    workers: int = WORKERS
    speed: float = 1.0
    request_seconds: float = REQUEST_SECONDS

    def wait_after(self, attempts: int) -> float:
        """Return the seconds between a failed attempt and the next."""
        first, most = BACKOFF
        return min(first * 2.0 ** min(attempts - 1, 30), most) / self.speed


@dataclass(frozen=True)
class Job:
    """An event, the user whose events keep their order, and where and in which form it is sent."""

    user: str
    event: Event
    service: str = "default"
    form: Form = "single"

    @property
    def path(self) -> str:
        """The path of the URL that it is sent to."""
        if self.form in ("track", "batch"):
            return f"/v1/{self.form}"
        return "/events" if self.service == "default" else f"/events/{self.service}"

    @property
    def is_batched(self) -> bool:
        """Whether other events may be in the same request."""
        return self.form in ("array", "batch")


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


@dataclass
class Record:
    """What became of a job. `attempts` are those that the router counts: a job that only shared a batch has none."""

    number: int
    job: Job
    requests: list[Request] = field(default_factory=list)
    attempts: int = 0
    due: float = 0.0
    outcome: Literal["delivered", "aborted", "unfinished"] = "unfinished"


class Router:
    """Sends jobs to `url`; `loses` returns whether a request's answer gets lost on the way to the router."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        rules: RetryRules | None = None,
        loses: Callable[[Sequence[Job]], bool] = lambda _: False,
    ) -> None:
        self._url = url
        # https://github.com/rudderlabs/rudder-server/blob/master/router/network.go
        self._headers = {"User-Agent": "RudderLabs", "Content-Type": "application/json", **headers}
        self._rules = rules or RetryRules()
        self._loses = loses
        self._http = urllib3.PoolManager(maxsize=self._rules.workers, retries=False)
        self._stop = threading.Event()

    def deliver(self, jobs: Sequence[Job], patience: float) -> list[Record]:
        """Send all jobs and return what became of each, in their order; after `patience` seconds it stops.

        A user's jobs are one worker's, and each worker sends one request at a time: router/handle.go, `findWorkerSlot`.
        """
        queues: list[list[Record]] = [[] for _ in range(self._rules.workers)]
        records = [Record(number, job) for number, job in enumerate(jobs)]
        for each in records:
            queues[worker_of(each.job.user, len(queues))].append(each)
        give_up = time.monotonic() + patience
        try:
            list(ThreadPoolExecutor(len(queues)).map(lambda queue: self._work(queue, give_up), queues))
        finally:
            self._stop.set()
        return records

    def _work(self, waiting: list[Record], give_up: float) -> None:
        while waiting and (now := time.monotonic()) < give_up and not self._stop.is_set():
            batch = _pick(waiting, self._rules.batch_size, now)
            if batch:
                self._settle(batch, self._send(batch))
                waiting = [each for each in waiting if each.outcome == "unfinished"]
            else:
                self._stop.wait(min(each.due for each in waiting if each.due > now) - now)

    def _send(self, batch: Sequence[Record]) -> Request:
        jobs, numbers = [each.job for each in batch], tuple(each.number for each in batch)
        limit = self._rules.request_seconds
        began = time.monotonic()
        try:
            response = self._http.request(
                "POST",
                self._url + jobs[0].path,
                body=json.dumps(_content(jobs)).encode(),
                headers=self._headers,
                timeout=urllib3.Timeout(total=limit),
                redirect=False,
            )
            status, body = response.status, response.data.decode("utf-8", "replace")
        except HTTPError as error:
            status, body = 0, type(error).__name__
        seconds = time.monotonic() - began
        if not status or seconds > limit or self._loses(jobs):
            # No answer, or none in time, is recorded as a 504: router/network.go.
            return Request(numbers, began, seconds, 504, body, answered=False)
        return Request(numbers, began, seconds, status, body)

    def _settle(self, batch: Sequence[Record], request: Request) -> None:
        """Apply one status to all jobs of a request: router/worker.go, `processDestinationJobs`."""
        failed: set[str] = set()
        for each in batch:
            each.requests.append(request)
            if not is_retried(request.status):
                each.attempts += 1
                each.outcome = "delivered" if request.status in range(200, 300) else "aborted"
            elif each.job.user not in failed:
                failed.add(each.job.user)
                each.attempts += 1
                each.due = time.monotonic() + self._rules.wait_after(each.attempts)
            # Otherwise an earlier job of the same user failed in the same batch: this one waits, without an attempt.


def worker_of(user: str, workers: int) -> int:
    """Return which worker has a user's jobs: router/misc.go, `getWorkerPartition`."""
    return zlib.crc32(user.encode()) % workers


def is_retried(status: int) -> bool:
    """Return whether a job is sent again after this status: router/misc.go, `isJobTerminated`."""
    return status in (408, 429) or status >= 500


def _content(jobs: Sequence[Job]) -> object:
    """Return the content of a request's body; on /v1/track the path is the event's type."""
    events = [job.event for job in jobs]
    if jobs[0].form == "track":
        return {name: value for name, value in events[0].items() if name != "type"}
    return {"single": events[0], "array": events, "batch": {"batch": events}}[jobs[0].form]


def _pick(waiting: Sequence[Record], size: int, now: float) -> list[Record]:
    """Return the next jobs that can share a request; while one of a user fails, it goes alone.

    router/internal/eventorder. A job that waits, or has another destination or form, holds back those behind it of its
    user.
    """
    batch: list[Record] = []
    held_back: set[str] = set()
    looked_at = 0
    for each in waiting:
        if each.job.user in held_back:
            continue
        is_due = each.due <= now
        goes = is_due and (not batch or (each.job.path, each.job.form) == (batch[0].job.path, batch[0].job.form))
        if goes:
            batch.append(each)
        if each.attempts or not goes:
            held_back.add(each.job.user)
        looked_at += is_due
        if batch and (not batch[0].job.is_batched or len(batch) == size or looked_at == BATCH_WINDOW):
            break
    return batch
