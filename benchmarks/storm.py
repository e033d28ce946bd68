"""Storms in virtual time, under the functions' own rules: `make storm`; exits 1 if a target is missed.

flow.py and pacing.py make every decision. SQS and PagerDuty's limit are those of the local stack; Lambda and DynamoDB
are modelled here.
"""

import argparse
import functools
import heapq
import itertools
import json
import math
import multiprocessing
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pacing
from delivery import CLOSING, choose_routing_key
from event import ACTIONS, Action, Event, Severity
from flow import Flow, Update
from local.command import deaf_to_ctrl_c
from local.fifo import FifoQueue, QueuedMessage
from local.pagerduty_rules import RateLimit
from local.resources import properties

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE

CALLS_PER_MINUTE: Final = 120
# Seconds until PagerDuty's answer, by the code of the outcome; a call that fails is made three times.
ANSWERED_AFTER: Final = {"delivered": 0.12, "pagerduty_rate_limited": 0.06, "pagerduty_unavailable": 0.5}
# Seconds until a call without an answer is given up: app.DIRECT_LIMIT and worker.CALL_LIMIT.
DIRECT_LIMIT: Final = 3.0
WORKER_LIMIT: Final = 5.0
# Seconds until flow control answers a request, for sending a message to SQS, and for a batch beside its calls.
REQUEST, ENQUEUE, BATCH_OVERHEAD = 0.01, 0.01, 0.03
# QueueConcurrency and BatchSize of template.yaml. Lambda runs as many batches at once as it may, and does not wait for
# a FIFO queue's batch to fill.
WORKERS: Final = 10
BATCH: Final = 10
VISIBILITY: Final = properties("Queue")["VisibilityTimeout"]
# The wall clock at the beginning of a storm: leases are compared with it.
EPOCH: Final = 1_000_000_000.0

# Version 1.0 in the same storms, measured once; `direct` has RudderStack's retries.
VERSION_1_0: Final = Path(__file__).with_name("baselines") / "storm_1_0.json"

# Figures by the names below; None if there was nothing to measure. Times are in seconds: of pages and resolves, from
# their arrival until PagerDuty accepts them; "page after", from the end of an outage until the last page sent in it is
# accepted; "drained", until the last of the arrivals is accepted or superseded.
Figures = Mapping[str, float | None]
COUNTS: Final = ("events", "posts/min", "429s/post", "receives/post")
TIMES: Final = ("page p50", "page p95", "page max", "page after", "resolve p95", "drained")

Arrivals = list[tuple[float, Event]]


class Outage(NamedTuple):
    """A time in which PagerDuty accepts nothing, and the code of a call's outcome; `end` is not part of it."""

    start: float
    end: float
    code: str = "pagerduty_unavailable"


# One page every two seconds, from two seconds after the storm began, and then one a minute.
PAGES: Final = (*(2.0 * number for number in range(1, 31)), *(MINUTE * number for number in range(2, 22)))


@dataclass(frozen=True)
class Storm:
    """A storm of `events`, and at the times `pages` critical triggers, each of the incident named by `page_of`.

    At the times `resolves`, an open incident is acknowledged or resolved, in turn. PagerDuty accepts `granted` calls a
    minute for each of `keys` routing keys. `targets` are upper bounds of figures, by name.
    """

    name: str
    targets: Mapping[str, float]
    events: int = 2000
    incidents: int = 2000
    seconds: float = 0.0
    severity: Severity = "warning"
    services: int = 1
    pages: Sequence[float] = PAGES
    page_of: str = "page {}"
    resolves: Sequence[float] = ()
    outage: Outage | None = None
    keys: int = 1
    granted: int = CALLS_PER_MINUTE

    def arrivals(self) -> Arrivals:
        """Return the triggers beside pages, evenly over the seconds, of the incidents and services in turn."""
        numbers = range(self.events)
        events = [event(n, f"incident {n % self.incidents}", self.severity, n % self.services) for n in numbers]
        return [(self.seconds * n / self.events, each) for n, each in enumerate(events)]


class Message(NamedTuple):
    """An event that arrives."""

    number: int
    arrived_at: float
    event: Event
    routing_key: str
    is_page: bool


class Table:
    """The DynamoDB table, in place of flow.Table."""

    def __init__(self) -> None:
        self._items: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def update(self, service: str, update: Update, _deadline: float) -> tuple[bool, Mapping[str, float]]:
        """Apply the update if the item is within its ranges; return whether it was, and the item as it is now."""
        item = self._items[service]
        for name, (above, limit) in update.ranges.items():
            number = item.get(name)
            if above is not None if number is None else number > limit or (above is not None and number <= above):
                return False, dict(item)
        item |= {name: item[name] + number for name, number in update.add.items()} | dict(update.set)
        return True, dict(item)


class Simulation:
    """A storm from its first event until the queue is empty; `posted` is what PagerDuty accepted, and when."""

    def __init__(self, storm: Storm, seed: int) -> None:
        self.now = 0.0
        self.posted: list[tuple[float, Message]] = []
        self.counts: Counter[str] = Counter()
        self.queue = FifoQueue(lambda: self.now)
        self._storm = storm
        self._drained = 0.0
        self._random = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        self._limit = RateLimit()
        self._table: Any = Table()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._ticks = itertools.count()
        # The memories of idle instances. Lambda reuses the one that was busy last, and makes another if all are busy.
        self._instances: list[Flow] = []
        self._workers = [self._new_flow() for _ in range(WORKERS)]
        routing_keys = [f"key {number}" for number in range(storm.keys)]
        pages = [(at, event(-1, storm.page_of.format(n), "critical"), True) for n, at in enumerate(storm.pages)]
        open_ = [(at, event(n, f"open {n}", "info", action=ACTIONS[1 + n % 2])) for n, at in enumerate(storm.resolves)]
        arrivals = [*((*each, False) for each in (*storm.arrivals(), *open_)), *pages]
        self._messages = [
            Message(number, at, each, choose_routing_key(routing_keys, each), is_page)
            for number, (at, each, is_page) in enumerate(sorted(arrivals, key=lambda arrival: arrival[0]))
        ]

    def run(self) -> Figures:
        """Simulate the storm."""
        for message in self._messages:
            self._at(message.arrived_at, functools.partial(self._continue, self._request(message)))
        while self._agenda:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        posts, (start, end, _) = len(self.posted), self._storm.outage or Outage(0, 0)
        pages = [(at, message.arrived_at) for at, message in self.posted if message.is_page]
        late = [at - arrived_at for at, arrived_at in pages]
        resolves = [at - message.arrived_at for at, message in self.posted if message.event.action != "trigger"]
        return {
            "events": len(self._messages),
            "posts/min": posts / self._drained * MINUTE,
            "429s/post": self.counts["pagerduty_rate_limited"] / posts,
            "receives/post": self.counts["receives"] / posts,
            "page p50": _quantile(late, 0.5),
            "page p95": _quantile(late, 0.95),
            "page max": _quantile(late, 1),
            "page after": _quantile([at - end for at, arrived_at in pages if start <= arrived_at < end], 1),
            "resolve p95": _quantile(resolves, 0.95),
            "drained": self._drained,
        }

    def _new_flow(self) -> Flow:
        return Flow(self._table, CALLS_PER_MINUTE, lambda: EPOCH + self.now)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._ticks), action))

    def _continue(self, work: Iterator[float]) -> None:
        seconds = next(work, None)
        if seconds is not None:
            self._at(self.now + seconds, functools.partial(self._continue, work))

    def _request(self, message: Message) -> Iterator[float]:
        """Do as app.py with one event; yield the seconds that each step takes."""
        instance = self._instances.pop() if self._instances else self._new_flow()
        yield REQUEST
        code = yield from self._deliver(message, instance, None, set())
        if code != "delivered":
            instance.extend_leases({message.event.service: EPOCH + self.now}, math.inf)
            yield ENQUEUE
            group = f"{message.event.service} {message.event.dedup_key}"
            self.queue.send("", {}, group, str(message.number))
            self._wake()
        self._instances.append(instance)

    def _wake(self) -> None:
        if self._workers:
            self._at(self.now, functools.partial(self._continue, self._work(self._workers.pop())))

    def _work(self, worker: Flow) -> Iterator[float]:
        """Do as worker.py as long as there are messages; yield the seconds that each step takes."""
        while batch := self.queue.receive(BATCH, VISIBILITY):
            self.counts["receives"] += len(batch)
            messages = [self._messages[int(each.deduplication_id)] for each in batch]
            waited = [self.now - each.sent_at for each in batch]
            superseded = pacing.superseded_triggers(list(zip((each.event for each in messages), waited, strict=True)))
            delays: dict[str, tuple[Message, int]] = {}
            done: set[str] = set()
            silent: set[str] = set()
            for number, (queued, message) in enumerate(zip(batch, messages, strict=True)):
                if queued.group in delays:
                    continue
                if number in superseded:
                    code = self._count("merged", message)
                else:
                    code = yield from self._deliver(message, worker, self.now - queued.sent_at, silent)
                if code in ("delivered", "merged"):
                    done.add(queued.id)
                else:
                    delays[queued.group] = message, self._retry_delay(message, queued, code)
            for message, delay in delays.values():
                worker.extend_leases({message.event.service: EPOCH + self.now + delay}, math.inf)
            yield BATCH_OVERHEAD
            for queued in batch:
                if queued.id in done:
                    self.queue.delete(queued.handle)
                else:
                    self.queue.change_visibility(queued.handle, delays[queued.group][1])
            # Wake a worker when messages become visible, now or after their delays.
            self._wake()
            for _, delay in delays.values():
                self._at(self.now + delay, self._wake)
        self._workers.append(worker)

    def _deliver(
        self, message: Message, own: Flow, waited: float | None, silent: set[str]
    ) -> Generator[float, None, str]:
        """Do as delivery.py, and add a service to `silent` if a call is not answered; return the code."""
        event, routing_key, is_direct = message.event, message.routing_key, waited is None
        if event.service in silent:
            return "pagerduty_timeout"
        priority = own.priority(event, waited or 0.0)
        admission = own.admit(event, routing_key, math.inf, priority=priority, is_direct=is_direct)
        if admission != "post":
            return "rate_limit_delay" if admission == "wait" else "earlier_events_queued"
        outage = self._storm.outage
        if outage and outage.start <= self.now < outage.end:
            code = outage.code
        else:
            is_accepted = self._limit.accepts(routing_key, self.now, self._storm.granted)
            code = "delivered" if is_accepted else "pagerduty_rate_limited"
        seconds = ANSWERED_AFTER.get(code, DIRECT_LIMIT if is_direct else WORKER_LIMIT)
        if code == "delivered":
            self.posted.append((self.now + seconds, message))
        yield seconds
        self._count(code, message)
        if code == "delivered":
            own.note_posted(event)
        if code in CLOSING:
            own.close(event.service, routing_key, math.inf)
        if code == "pagerduty_timeout":
            silent.add(event.service)
        return code

    def _count(self, code: str, message: Message) -> str:
        self.counts[code] += 1
        if code in ("delivered", "merged") and not message.is_page:
            self._drained = self.now
        return code

    def _retry_delay(self, message: Message, queued: QueuedMessage, code: str) -> int:
        waiting = pacing.Waiting(queued.receive_count, self.now - queued.sent_at)
        drain = pacing.seconds_to_drain(self.queue.in_flight, CALLS_PER_MINUTE * self._storm.keys)
        jitter = self._random.uniform(*pacing.JITTER)
        return pacing.retry_delay(code, message.event, waiting, seconds_to_drain=drain, jitter=jitter)


def _quantile(numbers: Sequence[float], share: float) -> float | None:
    return sorted(numbers)[math.ceil(share * len(numbers)) - 1] if numbers else None


def event(number: int, incident: str, severity: Severity, service: int = 0, action: Action = "trigger") -> Event:
    """Return an event of an incident; the number makes its message id."""
    content = {"payload": {"severity": severity}}
    return Event(f"service {service}", "alert", content, action, incident, f"{incident} {number}")


TEN_MINUTES: Final = 10 * MINUTE
_429S: Final = {"429s/post": 0.02}
_ON_TIME: Final = {"page p95": 2, "page max": 5, **_429S}
_RESOLVED: Final = {**_ON_TIME, "resolve p95": 5}
_LATER: Final = [2 * MINUTE + at for at in PAGES]
_FAILS: Final = {"page p95": 12, **_429S}
_EACH_SECOND: Final = [97.5 + number for number in range(20)]
_HANGS: Final = Outage(1, 61, "pagerduty_timeout")
_AWAY: Final = Outage(0, TEN_MINUTES)
STORMS: Final = (
    Storm("2,000 incidents at once", {**_ON_TIME, "drained": 25 * MINUTE}),
    Storm("2,000 events of 50 incidents at once", _ON_TIME, incidents=50),
    Storm("20,000 incidents within ten minutes", {**_ON_TIME, "drained": 4 * HOUR}, 20_000, 20_000, TEN_MINUTES),
    Storm("the same with four routing keys", {**_ON_TIME, "drained": 66 * MINUTE}, 20_000, 20_000, TEN_MINUTES, keys=4),
    Storm("60,000 incidents within ten minutes", {**_ON_TIME, "drained": 12 * HOUR}, 60_000, 60_000, TEN_MINUTES),
    Storm("2,000 at once, 30 more pages after 59 s", {"page p95": 6, **_429S}, pages=[*PAGES, *[59.0] * 30]),
    Storm("1 incident 2,000 times critical in a minute", {"page p95": 2, **_429S}, 2000, 1, MINUTE, "critical"),
    Storm("50 incidents 40 times critical in a minute", {"page p95": 10, **_429S}, 2000, 50, MINUTE, "critical"),
    Storm("5,000 at once, others resolved", _RESOLVED, 5000, 5000, resolves=[at - 1 for at in PAGES]),
    # As long as the 2,000 are urgent themselves, PagerDuty's limit leaves no room for other pages.
    Storm("2,000 critical at once, pages later", {"page max": 5, "429s/post": 5}, severity="critical", pages=_LATER),
    Storm("2,000 at once, PagerDuty grants half", {"page p95": 40, "429s/post": 0.2}, granted=60),
    Storm("PagerDuty fails for 10 s", _FAILS, 100, 100, TEN_MINUTES, pages=_EACH_SECOND, outage=Outage(100, 110)),
    Storm("PagerDuty hangs for a minute", {"page after": 12, **_429S}, 100, 100, TEN_MINUTES, outage=_HANGS),
    Storm("PagerDuty away for ten minutes", {"page after": 45, **_429S}, 1000, 1000, TEN_MINUTES, outage=_AWAY),
    Storm("2,000 at once, 50 of them become critical", {}, page_of="incident 1{:03}"),
    Storm("2,000 at once, two services with one key", {}, services=2),
)


def simulate(storm: Storm, seed: int) -> Figures:
    """Return the figures of a storm."""
    return Simulation(storm, seed).run()


def _print_row(storm: str, what: str, figures: Figures) -> None:
    cells = "".join(f"{_cell(name, figures.get(name)):>14}" for name in (*TIMES, *COUNTS))
    print(f"{storm:<44}{what:<11}{cells}".rstrip())


def _cell(name: str, figure: float | None) -> str:
    if figure is None:
        return ""
    if name in COUNTS:
        return f"{figure:.2f}" if name.endswith("/post") else f"{figure:.0f}"
    if figure < 2 * MINUTE:
        return f"{figure:.1f} s"
    return f"{figure / MINUTE:.1f} min" if figure < 2 * HOUR else f"{figure / HOUR:.1f} h"


def main(arguments: Sequence[str] | None = None, storms: Sequence[Storm] = STORMS) -> int:
    """Simulate and print the table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description="Storms in virtual time.")
    parser.add_argument("--seed", type=int, default=1, help="of the random part of the delays")
    seed = parser.parse_args(arguments).seed
    # Spawned, because a forked process would run its parent's clean-up when it ends.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as executor:
        with deaf_to_ctrl_c():
            largest_first = sorted(storms, key=lambda storm: -len(storm.arrivals()))
            futures = {storm.name: executor.submit(simulate, storm, seed) for storm in largest_first}
        results = {name: future.result() for name, future in futures.items()}
    version_1_0 = json.loads(VERSION_1_0.read_text())
    misses = []
    print(" " * 55 + "".join(f"{name:>14}" for name in (*TIMES, *COUNTS)))
    for storm in storms:
        _print_row(storm.name, "now", results[storm.name])
        _print_row("", "target", storm.targets)
        for way, figures in version_1_0.get(storm.name, {}).items():
            _print_row("", f"1.0 {way}", figures)
        for name, target in storm.targets.items():
            figure = results[storm.name][name]
            if figure is None or figure > target:
                misses.append(f"{storm.name}: {name} is {_cell(name, figure)}, allowed is {_cell(name, target)}")
    print("\nAll targets are met." if not misses else "\nNot met:\n" + "\n".join(misses))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
