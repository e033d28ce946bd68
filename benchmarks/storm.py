"""Storms in virtual time, under the functions' own rules: `make storm`; exits 1 when a target is missed.

Every decision is made by flow.py and pacing.py. Around them stand models of what is not ours: Lambda, DynamoDB, SQS and
PagerDuty's limit, each rule with its source.
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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pacing
from delivery import CLOSING, choose_routing_key
from event import ACTIONS, Action, Event, Severity
from flow import Flow, Update
from local.command import deaf_to_ctrl_c

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

# Calls that PagerDuty accepts in any 60 seconds of one routing key: https://developer.pagerduty.com/docs/rate-limits.
# That a refused call does not count is an assumption.
CALLS_PER_MINUTE: Final = 120
WINDOW: Final = 60.0
# Seconds until PagerDuty's answer, by the code of the outcome; a call that fails is made three times.
ANSWERED_AFTER: Final = {"delivered": 0.12, "pagerduty_rate_limited": 0.06, "pagerduty_unavailable": 0.5}
# Seconds after which a call without an answer is given up: app.DIRECT_LIMIT and worker.CALL_LIMIT.
DIRECT_LIMIT: Final = 3.0
WORKER_LIMIT: Final = 5.0
# Seconds of a request until flow control has answered, those of SQS for a message, and those of a batch beside its
# calls to PagerDuty.
REQUEST: Final = 0.01
ENQUEUE: Final = 0.01
BATCH_OVERHEAD: Final = 0.03

# QueueConcurrency and BatchSize of template.yaml. Lambda starts as many batches at once as it may, as long as there are
# messages (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html), and does not wait for a FIFO
# queue's batch to fill (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-parameters.html).
WORKERS: Final = 10
BATCH: Final = 10
# MessageRetentionPeriod and maxReceiveCount of template.yaml.
RETENTION: Final = 14 * DAY
MAX_RECEIVES: Final = 1000
# SQS looks for message groups among the first 120,000 messages of a FIFO queue, so no more are ever in flight either:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/avoid-backlog-with-the-same-message-group-id.html
VISIBLE: Final = 120_000

# The wall clock at the beginning of a storm: leases are compared with it.
EPOCH: Final = 1_000_000_000.0

_RESULTS: Final = Path(__file__).with_suffix(".json")
# The figures of version 1.0 in the same storms: measured once, with its rules in this simulation in place of ours.
# `direct` has RudderStack's retries: 64 requests at a time, in order per incident, after 10 s doubling to 300 s.
VERSION_1_0: Final = Path(__file__).with_name("baselines") / "storm_1_0.json"

_DONE: Final = frozenset({"delivered", "merged"})

# When events arrive, and which.
Arrivals = list[tuple[float, Event]]


class Outage(NamedTuple):
    """The time in which PagerDuty accepts nothing, and the code of the outcome of a call; `end` is not part of it."""

    start: float
    end: float
    code: str = "pagerduty_unavailable"


# One page every two seconds from the storm's second second on, and then one a minute.
PAGES: Final = (*(2.0 * number for number in range(1, 31)), *(MINUTE * number for number in range(2, 22)))


@dataclass(frozen=True)
class Storm:
    """What happens: `arrivals`, and at the times `pages` critical triggers, each of the incident named by `page_of`.

    At the times `resolves` an open incident is acknowledged or resolved, by turns. PagerDuty grants `granted` calls a
    minute to each of `keys` routing keys. `targets` are the highest figures that are allowed, by name.
    """

    name: str
    arrivals: Callable[[], Arrivals]
    targets: Mapping[str, float]
    pages: Sequence[float] = PAGES
    page_of: str = "page {}"
    resolves: Sequence[float] = ()
    outage: Outage | None = None
    keys: int = 1
    granted: int = CALLS_PER_MINUTE


# What came of a storm, by the names below; None, or nothing, if there was nothing to measure. Times are in seconds: of
# pages and resolves, from their arrival until PagerDuty accepts them; "page after", from the end of an outage until the
# last page is accepted that was sent in it; "drained", until the last of the arrivals is accepted or superseded.
Figures = Mapping[str, float | None]
COUNTS: Final = ("events", "posts/min", "429s/post", "receives/post")
TIMES: Final = ("page p50", "page p95", "page max", "page after", "resolve p95", "drained")


@dataclass(slots=True, eq=False)
class Group:
    """A message group of the queue: an incident. `in_flight` of its messages, the first ones, are invisible."""

    messages: "deque[Message]" = field(default_factory=deque)
    in_flight: int = 0


@dataclass(slots=True, eq=False)
class Message:
    """An event on its way, and what SQS knows of it; `place` is its place in the queue."""

    number: int
    arrived_at: float
    event: Event
    routing_key: str
    group: Group
    is_page: bool
    sent_at: float = math.nan
    place: int = -1
    receives: int = 0


class Queue:
    """An SQS FIFO queue; `on_visible` is called when a message group can be received.

    A group is locked while any of its messages is invisible. What was received of it becomes visible together here, so
    that it is either available or locked as a whole.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/interleaving-multiple-ordered-message-groups.html
    """

    def __init__(self, on_visible: Callable[[], None]) -> None:
        self._on_visible = on_visible
        self._available: list[tuple[int, Group]] = []
        self._beyond: deque[Message] = deque()
        self._seen = 0
        self._places = itertools.count()
        self.in_flight = 0
        self.lost = 0

    def send(self, message: Message, now: float) -> None:
        """Accept a message."""
        message.sent_at, message.place = now, next(self._places)
        self._beyond.append(message)
        self._look_on()

    def receive(self, now: float) -> list[Message]:
        """Receive at most ten messages, the oldest that are available, and of each group as many as there are.

        https://repost.aws/knowledge-center/sqs-fifo-messages-not-returned
        """
        batch: list[Message] = []
        while self._available and len(batch) < BATCH:
            _, group = heapq.heappop(self._available)
            messages = group.messages
            while messages and (messages[0].receives == MAX_RECEIVES or messages[0].sent_at < now - RETENTION):
                self._remove(group)
                self.lost += 1
            received = list(itertools.islice(messages, BATCH - len(batch)))
            for message in received:
                message.receives += 1
            group.in_flight = len(received)
            self.in_flight += len(received)
            batch += received
        return batch

    def delete(self, group: Group, count: int) -> None:
        """Delete the first messages of a group; it is locked as long as others of it are invisible."""
        for _ in range(count):
            self._remove(group)
        group.in_flight -= count
        self.in_flight -= count
        if not group.in_flight:
            self.show(group)

    def show(self, group: Group) -> None:
        """End the lock of a group."""
        self.in_flight -= group.in_flight
        group.in_flight = 0
        if group.messages:
            heapq.heappush(self._available, (group.messages[0].place, group))
            self._on_visible()

    def _remove(self, group: Group) -> None:
        group.messages.popleft()
        self._seen -= 1
        self._look_on()

    def _look_on(self) -> None:
        while self._beyond and self._seen < VISIBLE:
            message = self._beyond.popleft()
            self._seen += 1
            message.group.messages.append(message)
            if len(message.group.messages) == 1 and not message.group.in_flight:
                self.show(message.group)


class PagerDuty:
    """PagerDuty's limit of each routing key, and its outage."""

    def __init__(self, granted: int, outage: Outage | None) -> None:
        self._outage = outage
        self._accepted: defaultdict[str, deque[float]] = defaultdict(lambda: deque([-math.inf] * granted, granted))

    def post(self, routing_key: str, now: float) -> str:
        """Return the code of the outcome of a call."""
        if self._outage and self._outage.start <= now < self._outage.end:
            return self._outage.code
        accepted = self._accepted[routing_key]
        if accepted[0] > now - WINDOW:
            return "pagerduty_rate_limited"
        accepted.append(now)
        return "delivered"


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
        self.queue = Queue(self._wake)
        self._storm = storm
        self._drained = 0.0
        self._random = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        self._pagerduty = PagerDuty(storm.granted, storm.outage)
        self._table: Any = Table()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._ticks = itertools.count()
        # What the idle instances of either function remember. Lambda reuses the one that was busy last; of the API
        # function it makes another if all are busy.
        self._instances: list[Flow] = []
        self._workers = [self._new_flow() for _ in range(WORKERS)]

    def run(self) -> Figures:
        """Simulate the storm."""
        messages = self._messages()
        for message in messages:
            self._at(message.arrived_at, functools.partial(self._go_on, self._request(message)))
        while self._agenda:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        posts, (start, end, _) = len(self.posted), self._storm.outage or Outage(0, 0)
        pages = [(at, message.arrived_at) for at, message in self.posted if message.is_page]
        late = [at - arrived_at for at, arrived_at in pages]
        resolves = [at - message.arrived_at for at, message in self.posted if message.event.action != "trigger"]
        return {
            "events": len(messages),
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

    def _messages(self) -> list[Message]:
        storm, groups = self._storm, defaultdict[tuple[str, str | None], Group](Group)
        routing_keys = [f"key {number}" for number in range(storm.keys)]
        pages = [(at, event(-1, storm.page_of.format(n), "critical")) for n, at in enumerate(storm.pages)]
        resolves = [(at, event(n, f"open {n}", "info", ACTIONS[1 + n % 2])) for n, at in enumerate(storm.resolves)]
        arrivals = [(*each, False) for each in (*storm.arrivals(), *resolves)] + [(*page, True) for page in pages]
        return [
            Message(
                number, at, each, choose_routing_key(routing_keys, each), groups[each.service, each.dedup_key], is_page
            )
            for number, (at, each, is_page) in enumerate(sorted(arrivals, key=lambda arrival: arrival[0]))
        ]

    def _new_flow(self) -> Flow:
        return Flow(self._table, CALLS_PER_MINUTE, lambda: EPOCH + self.now)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._ticks), action))

    def _go_on(self, work: Iterator[float]) -> None:
        seconds = next(work, None)
        if seconds is not None:
            self._at(self.now + seconds, functools.partial(self._go_on, work))

    def _request(self, message: Message) -> Iterator[float]:
        """Do what app.py does with one event; yield the seconds that it takes."""
        instance = self._instances.pop() if self._instances else self._new_flow()
        yield REQUEST
        code = yield from self._deliver(message, instance, None, set())
        if code != "delivered":
            instance.extend_leases({message.event.service: EPOCH + self.now}, math.inf)
            yield ENQUEUE
            self.queue.send(message, self.now)
        self._instances.append(instance)

    def _wake(self) -> None:
        if self._workers:
            self._at(self.now, functools.partial(self._go_on, self._work(self._workers.pop())))

    def _work(self, worker: Flow) -> Iterator[float]:
        """Do what worker.py does as long as there are messages; yield the seconds that it takes."""
        while batch := self.queue.receive(self.now):
            self.counts["receives"] += len(batch)
            superseded = pacing.superseded_triggers([(each.event, self.now - each.sent_at) for each in batch])
            done = dict.fromkeys([message.group for message in batch], 0)
            delayed: dict[Group, tuple[Message, int]] = {}
            silent: set[str] = set()
            for number, message in enumerate(batch):
                if message.group in delayed:
                    continue
                if number in superseded:
                    code = self._count("merged", message)
                else:
                    code = yield from self._deliver(message, worker, self.now - message.sent_at, silent)
                if code in _DONE:
                    done[message.group] += 1
                else:
                    delayed[message.group] = message, self._retry_delay(message, code)
            for message, delay in delayed.values():
                worker.extend_leases({message.event.service: EPOCH + self.now + delay}, math.inf)
            yield BATCH_OVERHEAD
            for group, count in done.items():
                self.queue.delete(group, count)
            for message, delay in delayed.values():
                self._at(self.now + delay, functools.partial(self.queue.show, message.group))
        self._workers.append(worker)

    def _deliver(
        self, message: Message, own: Flow, waited: float | None, silent: set[str]
    ) -> Generator[float, None, str]:
        """Do as delivery.py does, and add a service of which a call was not answered to `silent`; return the code."""
        event, routing_key, is_direct = message.event, message.routing_key, waited is None
        if event.service in silent:
            return "pagerduty_timeout"
        priority = own.priority(event, waited or 0.0)
        admission = own.admit(event, routing_key, math.inf, priority=priority, is_direct=is_direct)
        if admission != "post":
            return "rate_limit_delay" if admission == "wait" else "earlier_events_queued"
        code = self._pagerduty.post(routing_key, self.now)
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
        if code in _DONE and not message.is_page:
            self._drained = self.now
        return code

    def _retry_delay(self, message: Message, code: str) -> int:
        rate = CALLS_PER_MINUTE * self._storm.keys
        return pacing.retry_delay(
            code,
            message.event,
            pacing.Waiting(message.receives, self.now - message.sent_at),
            seconds_to_drain=pacing.seconds_to_drain(self.queue.in_flight, rate),
            jitter=self._random.uniform(*pacing.JITTER),
        )


def _quantile(numbers: Sequence[float], share: float) -> float | None:
    return sorted(numbers)[math.ceil(share * len(numbers)) - 1] if numbers else None


def event(number: int, incident: str, severity: Severity, action: Action = "trigger", service: int = 0) -> Event:
    """Return an event of an incident; the number makes its message id."""
    content = {"payload": {"severity": severity}}
    return Event(f"service {service}", "alert", content, action, incident, f"{incident} {number}")


def arrive(
    events: int, incidents: int, seconds: float = 0, severity: Severity = "warning", services: int = 1
) -> Arrivals:
    """Return triggers that come evenly within so many seconds, of the incidents and the services by turns."""
    return [
        (seconds * n / events, event(n, f"incident {n % incidents}", severity, service=n % services))
        for n in range(events)
    ]


_of: Final = functools.partial
_2000: Final = _of(arrive, 2000, 2000)
_CRITICAL: Final = _of(arrive, 2000, severity="critical")
_WITHIN_TEN_MINUTES: Final = _of(arrive, seconds=10 * MINUTE)
_100: Final = _of(_WITHIN_TEN_MINUTES, 100, 100)
_1000: Final = _of(_WITHIN_TEN_MINUTES, 1000, 1000)
_20_000: Final = _of(_WITHIN_TEN_MINUTES, 20_000, 20_000)
_60_000: Final = _of(_WITHIN_TEN_MINUTES, 60_000, 60_000)
# The targets of a storm for which nothing else is said.
_429S: Final = {"429s/post": 0.02}
_ON_TIME: Final = {"page p95": 2, "page max": 5, **_429S}
_MINUTES_25: Final = {**_ON_TIME, "drained": 25 * MINUTE}
_TOGETHER: Final = {"page p95": 6, **_429S}
_RESOLVED: Final = {**_ON_TIME, "resolve p95": 5}
_LATER: Final = [2 * MINUTE + at for at in PAGES]
_EACH_SECOND: Final = [97.5 + number for number in range(20)]
_HANGS: Final = Outage(1, 61, "pagerduty_timeout")
ONE_KEY: Final = "20,000 incidents within ten minutes"
FOUR_KEYS: Final = "the same with four routing keys"
FOUR_KEYS_SHARE: Final = 0.3
STORMS: Final = (
    Storm("2,000 incidents at once", _2000, _MINUTES_25),
    Storm("2,000 incidents within a minute", _of(_2000, MINUTE), _MINUTES_25),
    Storm("2,000 incidents within ten minutes", _of(_2000, 10 * MINUTE), _MINUTES_25),
    Storm("2,000 events of 50 incidents at once", _of(arrive, 2000, 50), _ON_TIME),
    Storm(ONE_KEY, _20_000, {**_ON_TIME, "drained": 4 * HOUR}),
    Storm(FOUR_KEYS, _20_000, _ON_TIME, keys=4),
    Storm("60,000 incidents within ten minutes", _60_000, {**_ON_TIME, "drained": 12 * HOUR}),
    Storm("2,000 at once, 30 more pages after 50 s", _2000, _TOGETHER, [*PAGES, *[50.0] * 30]),
    Storm("2,000 at once, 30 more pages after 59 s", _2000, _TOGETHER, [*PAGES, *[59.0] * 30]),
    Storm("1 incident 2,000 times critical in a minute", _of(_CRITICAL, 1, MINUTE), {"page p95": 2, **_429S}),
    Storm("50 incidents 40 times critical in a minute", _of(_CRITICAL, 50, MINUTE), {"page p95": 10, **_429S}),
    Storm("5,000 at once, others resolved", _of(arrive, 5000, 5000), _RESOLVED, resolves=[at - 1 for at in PAGES]),
    # As long as the 2,000 are urgent themselves, PagerDuty's limit leaves no room for other pages.
    Storm("2,000 critical at once, pages later", _of(_CRITICAL, 2000), {"page max": 5, "429s/post": 5}, _LATER),
    Storm("2,000 at once, PagerDuty grants half", _2000, {"page p95": 40, "429s/post": 0.2}, granted=60),
    Storm("PagerDuty fails for 10 s", _100, {"page p95": 12, **_429S}, _EACH_SECOND, outage=Outage(100, 110)),
    Storm("PagerDuty hangs for a minute", _100, {"page after": 12, **_429S}, outage=_HANGS),
    Storm("PagerDuty away for ten minutes", _1000, {"page after": 45, **_429S}, outage=Outage(0, 10 * MINUTE)),
    Storm("2,000 at once, 50 of them become critical", _2000, {}, page_of="incident 1{:03}"),
    Storm("2,000 at once, two services with one key", _of(_2000, services=2), {}),
)

Results = Mapping[str, Figures]


def simulate(storm: Storm, seed: int) -> Figures:
    """Return the figures of a storm."""
    return Simulation(storm, seed).run()


def simulate_all(storms: Sequence[Storm], seed: int) -> Results:
    """Simulate the storms on all processors, the largest first; return their figures by name."""
    results = {}
    # Not forked: what the parent cleans up at its end, a fork of it would clean up too.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as executor:
        largest_first = sorted(storms, key=lambda storm: -len(storm.arrivals()))
        with deaf_to_ctrl_c():
            futures = {executor.submit(simulate, storm, seed): storm.name for storm in largest_first}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if sys.stderr.isatty():
                print(f"{len(results)} of {len(storms)} simulated", end="\r", file=sys.stderr, flush=True)
    return results


def targets(storm: Storm, results: Results) -> Mapping[str, float]:
    """Return the targets of a storm, of which one depends on another storm."""
    if storm.name != FOUR_KEYS:
        return storm.targets
    return {**storm.targets, "drained": FOUR_KEYS_SHARE * (results[ONE_KEY]["drained"] or 0)}


def missed(storms: Sequence[Storm], results: Results) -> Iterator[str]:
    """Yield every target that is missed, in words."""
    for storm in storms:
        for name, target in targets(storm, results).items():
            figure = results[storm.name][name]
            if figure is None or figure > target:
                yield f"{storm.name}: {name} is {_cell(name, figure)}, allowed is {_cell(name, target)}"


def table(storms: Sequence[Storm], results: Results) -> Iterator[tuple[str, str, Figures]]:
    """Yield the rows of the table: the storm, what the figures are, and the figures."""
    version_1_0: Mapping[str, Mapping[str, Figures]] = json.loads(VERSION_1_0.read_text())
    for storm in storms:
        yield storm.name, "now", results[storm.name]
        yield storm.name, "target", targets(storm, results)
        yield from ((storm.name, f"1.0 {way}", figures) for way, figures in version_1_0.get(storm.name, {}).items())


def _cell(name: str, figure: float | None) -> str:
    if figure is None:
        return ""
    if name in COUNTS:
        return f"{figure:.2f}" if name.endswith("/post") else f"{figure:.0f}"
    if figure < 2 * MINUTE:
        return f"{figure:.1f} s"
    return f"{figure / MINUTE:.1f} min" if figure < 2 * HOUR else f"{figure / HOUR:.1f} h"


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table, write it as JSON; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description="Storms in virtual time.")
    parser.add_argument("--seed", type=int, default=1, help="of the random part of the delays")
    seed = parser.parse_args(arguments).seed
    results = simulate_all(STORMS, seed)
    rows, misses = list(table(STORMS, results)), list(missed(STORMS, results))
    names = (*TIMES, *COUNTS)
    print(f"{'storm':<44}{'':<11}" + "".join(f"{name:>14}" for name in names))
    for storm, what, figures in rows:
        cells = "".join(f"{_cell(name, figures.get(name)):>14}" for name in names)
        print(f"{storm if what == 'now' else '':<44}{what:<11}{cells}".rstrip())
    written = [{"storm": storm, "what": what, **figures} for storm, what, figures in rows]
    _RESULTS.write_text(json.dumps({"seed": seed, "missed": misses, "figures": written}, indent=2) + "\n")
    print("\nAll targets are met." if not misses else "\nNot met:\n" + "\n".join(misses))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
