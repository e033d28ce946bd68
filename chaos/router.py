"""A model of rudder-server's router as the sender: its requests, its retries and their order.

The rules are those of https://github.com/rudderlabs/rudder-server with its default settings, each with its file below.
Retry delays can be compressed; the ten seconds for a request cannot. Not modelled: the transformer, the job database,
throttling, and the limits on order and retries that a run is too short for (200 events of a user, three hours).
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import urllib3
from urllib3.exceptions import HTTPError

# Seconds for a whole request: router/handle_lifecycle.go, `httpTimeout`.
REQUEST_SECONDS: Final = 10.0
# Concurrent requests, and jobs in a batch: router/handle_lifecycle.go, `noOfWorkers`, `noOfJobsToBatchInAWorker`.
WORKERS: Final = 64
BATCH_SIZE: Final = 20
# Seconds before the first retry, doubled for each further one, and their maximum, without jitter: router/misc.go,
# `nextAttemptAfter`. `Retry-After` is ignored.
BACKOFF: Final = (10.0, 300.0)

Event = dict[str, Any]
# One event as the body of /events or of /v1/track, or several: as an array, or under "batch".
Form = Literal["single", "track", "array", "batch"]


@dataclass(frozen=True)
class Job:
    """An event, the user whose events keep their order, and its PagerDuty service and form."""

    user: str
    event: Event
    service: str = "default"
    form: Form = "single"

    @property
    def message_id(self) -> str:
        """The event's messageId."""
        return str(self.event["messageId"])

    @property
    def path(self) -> str:
        """The path of the request."""
        if self.form in ("track", "batch"):
            return f"/v1/{self.form}"
        return "/events" if self.service == "default" else f"/events/{self.service}"


@dataclass(frozen=True)
class Request:
    """One request: the numbers of its jobs, its start, its duration, and the answer.

    If it was not answered, the status is the one that the router records.
    """

    jobs: tuple[int, ...]
    began: float
    seconds: float
    status: int
    body: str = ""
    answered: bool = True


@dataclass
class Record:
    """A job's requests and outcome. `attempts` omit requests that failed only because of an earlier job."""

    number: int
    job: Job
    requests: list[Request] = field(default_factory=list)
    attempts: int = 0
    due: float = 0.0
    outcome: Literal["delivered", "aborted", "unfinished"] = "unfinished"


@dataclass
class Router:
    """Sends jobs to `url`; `speed` divides the retry delays.

    `loses_answer` returns whether the answer to a request with these jobs is lost on its way to the router.
    """

    url: str
    headers: Mapping[str, str]
    workers: int = WORKERS
    batch_size: int = BATCH_SIZE
    speed: float = 1.0
    request_seconds: float = REQUEST_SECONDS
    loses_answer: Callable[[Sequence[Job]], bool] = lambda _jobs: False

    def __post_init__(self) -> None:
        """Prepare the connections."""
        self._http = urllib3.PoolManager(maxsize=self.workers, retries=False)

    def deliver(self, jobs: Sequence[Job], patience: float) -> list[Record]:
        """Send all jobs for at most `patience` seconds; return their records in the same order.

        All jobs of a user belong to one worker, which sends one request at a time: router/handle.go, `findWorkerSlot`,
        and router/misc.go, `getWorkerPartition`.
        """
        queues: list[list[Record]] = [[] for _ in range(self.workers)]
        records = [Record(number, job) for number, job in enumerate(jobs)]
        for each in records:
            queues[zlib.crc32(each.job.user.encode()) % self.workers].append(each)
        deadline = time.monotonic() + patience
        list(ThreadPoolExecutor(self.workers).map(lambda queue: self._work(queue, deadline), queues))
        return records

    def retry_delay(self, attempts: int) -> float:
        """Return the seconds between the last of so many failed attempts and the next one."""
        first, most = BACKOFF
        return min(first * 2.0 ** min(attempts - 1, 30), most) / self.speed

    def _work(self, waiting: list[Record], deadline: float) -> None:
        while waiting and (now := time.monotonic()) < deadline:
            if batch := _next_batch(waiting, self.batch_size, now):
                self._record(batch, self._send(batch))
                waiting = [each for each in waiting if each.outcome == "unfinished"]
            else:
                time.sleep(min(each.due for each in waiting if each.due > now) - now)

    def _send(self, batch: Sequence[Record]) -> Request:
        jobs, numbers = [each.job for each in batch], tuple(each.number for each in batch)
        began = time.monotonic()
        try:
            response = self._http.request(
                "POST",
                self.url + jobs[0].path,
                body=json.dumps(_content(jobs)).encode(),
                # https://github.com/rudderlabs/rudder-server/blob/master/router/network.go
                headers={"User-Agent": "RudderLabs", "Content-Type": "application/json", **self.headers},
                timeout=urllib3.Timeout(total=self.request_seconds),
                redirect=False,
            )
            status, body = response.status, response.data.decode("utf-8", "replace")
        except HTTPError as error:
            status, body = 0, type(error).__name__
        seconds = time.monotonic() - began
        if not status or seconds > self.request_seconds or self.loses_answer(jobs):
            # A missing or late answer is recorded as a 504: router/network.go.
            return Request(numbers, began, seconds, 504, body, answered=False)
        return Request(numbers, began, seconds, status, body)

    def _record(self, batch: Sequence[Record], request: Request) -> None:
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
                each.due = time.monotonic() + self.retry_delay(each.attempts)
            # Otherwise an earlier job of the same user failed in this batch; this one waits behind it.


def is_retried(status: int) -> bool:
    """Return whether a job is sent again after this status: router/misc.go, `isJobTerminated`."""
    return status in (408, 429) or status >= 500


def _content(jobs: Sequence[Job]) -> object:
    """Return the content of a request's body; on /v1/track the path is the event's type."""
    events = [job.event for job in jobs]
    if jobs[0].form == "track":
        return {name: value for name, value in events[0].items() if name != "type"}
    return {"single": events[0], "array": events, "batch": {"batch": events}}[jobs[0].form]


def _next_batch(waiting: Sequence[Record], size: int, now: float) -> list[Record]:
    """Return the jobs of the next request: router/internal/eventorder.

    A job waits for the earlier ones of its user that are not due or need another request; after one that has failed
    before, it waits for the next request.
    """
    batch: list[Record] = []
    blocked: set[str] = set()
    for each in waiting:
        if each.job.user in blocked:
            continue
        first = (batch or [each])[0].job
        is_shared = first.form in ("array", "batch") and (each.job.path, each.job.form) == (first.path, first.form)
        fits = each.due <= now and (is_shared or not batch)
        if fits:
            batch.append(each)
        if each.attempts or not fits:
            blocked.add(each.job.user)
        if len(batch) == size:
            break
    return batch
