"""Storms in virtual time, under the worker's own rules: `make storm`; exits 1 when a target is missed.

Every decision is one of pacing.py's. Around them stand models of what is not ours: SQS, Lambda's event source mapping
and PagerDuty's limit, each rule with its source.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pacing
from event import Event, Severity
from pacing import Pace

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

# Calls that PagerDuty takes in any 60 seconds of one routing key: https://developer.pagerduty.com/docs/rate-limits.
# That a refused call does not count is an assumption.
LIMIT: Final = 120
WINDOW: Final = 60.0
# Seconds that a call takes, and one that is refused.
CALL: Final = 0.12
REFUSAL: Final = 0.06

# QueueConcurrency and BatchSize of template.yaml. Lambda starts as many batches at once as it may, as long as there are
# messages (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html), and does not wait for a FIFO
# queue's batch to fill (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-parameters.html).
WORKERS: Final = 10
BATCH: Final = 10
# Seconds of a batch beside its calls to PagerDuty: Lambda's, and those of the calls to SQS.
OVERHEAD: Final = 0.03
# Seconds after which a process asks anew how many messages are in flight.
ASKED_AGAIN: Final = 10.0

# MessageRetentionPeriod and maxReceiveCount of template.yaml.
RETENTION: Final = 14 * DAY
MAX_RECEIVES: Final = 1000
# SQS looks for message groups among the first 120,000 messages of a FIFO queue, so no more are ever in flight either:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/avoid-backlog-with-the-same-message-group-id.html
SEEN: Final = 120_000

_RESULTS: Final = Path(__file__).with_suffix(".json")


class Before:
    """The rules as they were: everything is tried, and again after the queue's visibility timeout."""

    may_go = staticmethod(lambda _event, _waited, _pace, _now: True)
    learn = staticmethod(lambda pace, _code, _now: pace)
    is_urgent = staticmethod(lambda _event, _waited: False)
    share = staticmethod(lambda _in_flight, _keys: 0.0)
    pause = staticmethod(lambda _code, **_: 120)
    merged = staticmethod(lambda _batch: frozenset[int]())


RULES: Final[dict[str, Any]] = {"before": Before, "after": pacing}

# The moment of an event, its incident, and its severity when it is a trigger.
Arrivals = Iterator[tuple[float, int, Severity | Literal["resolve"]]]


@dataclass(frozen=True)
class Storm:
    """What comes: `arrivals`, and between them, at the moments `pages`, critical pages that it is judged by.

    During `outage`, from and to, PagerDuty takes nothing. What follows are targets: the most that is allowed.
    """

    name: str
    arrivals: Callable[[], Arrivals]
    pages: Sequence[float] = tuple(30.0 + MINUTE * number for number in range(20))
    outage: tuple[float, float] = (0.0, 0.0)
    keys: int = 1
    workers: int = WORKERS
    late_p95: float = math.inf
    drained: float = math.inf
    refusals_per_post: float = 0.3
    noticed: float = math.inf
    lost: float = 0


@dataclass(frozen=True)
class Figures:
    """What came of a storm.

    Times are in seconds: `late` from when SQS took a critical page until PagerDuty's answer, `drained` until the last
    of the arrivals was done, `noticed` from the end of the outage until something was delivered.
    """

    events: int
    posts: int
    merged: int
    lost: int
    late_p50: float
    late_p95: float
    late_max: float
    drained: float
    posts_a_minute: float
    refusals_per_post: float
    receives_per_event: float
    batches: int
    noticed: float


@dataclass(slots=True, eq=False)
class Group:
    """A message group of the queue: an incident. `in_flight` of its messages, the first ones, are invisible."""

    key: int
    messages: "deque[Message]" = field(default_factory=deque)
    in_flight: int = 0


@dataclass(slots=True, eq=False)
class Message:
    """A message of the queue."""

    number: int
    sent_at: float
    event: Event
    group: Group
    is_page: bool
    receives: int = 0


class Queue:
    """An SQS FIFO queue; `shown` is called when a message group can be received.

    A group is locked while any of its messages is invisible. What was received of it becomes visible together here, so
    that it is either available or locked as a whole.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/interleaving-multiple-ordered-message-groups.html
    """

    def __init__(self, shown: Callable[[], None]) -> None:
        self._shown = shown
        self._available: list[tuple[int, Group]] = []
        self._beyond: deque[Message] = deque()
        self._seen = 0
        self.in_flight = 0
        self.lost = 0

    def send(self, message: Message) -> None:
        """Take a message."""
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
            self.show([group])

    def show(self, groups: Sequence[Group]) -> None:
        """End the lock of groups."""
        for group in groups:
            self.in_flight -= group.in_flight
            group.in_flight = 0
            if group.messages:
                heapq.heappush(self._available, (group.messages[0].number, group))
                self._shown()

    def _remove(self, group: Group) -> None:
        group.messages.popleft()
        self._seen -= 1
        self._look_on()

    def _look_on(self) -> None:
        while self._beyond and self._seen < SEEN:
            message = self._beyond.popleft()
            self._seen += 1
            message.group.messages.append(message)
            if len(message.group.messages) == 1 and not message.group.in_flight:
                self.show([message.group])


class PagerDuty:
    """PagerDuty's limit of each routing key, and its outage."""

    def __init__(self, outage: tuple[float, float]) -> None:
        self._outage = outage
        self._taken: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=LIMIT))

    def answer(self, key: int, now: float) -> str:
        """Tell how a call is answered. What is not "delivered" at a later moment, nobody's call before can change."""
        if self._outage[0] <= now < self._outage[1]:
            return "pagerduty_unavailable"
        taken = self._taken[key]
        is_full = len(taken) == LIMIT and taken[0] > now - WINDOW
        return "pagerduty_rate_limited" if is_full else "delivered"

    def take(self, key: int, now: float) -> None:
        """Count a call that was answered "delivered"."""
        self._taken[key].append(now)


@dataclass(slots=True)
class Process:
    """What a process of Lambda's keeps, and by how many seconds its own clock is ahead of the others'."""

    paces: defaultdict[int, Pace] = field(default_factory=lambda: defaultdict(Pace))
    asked_at: float = -math.inf
    in_flight: int = 0
    ahead: float = 0.0


class Simulation:
    """A storm from its first event until the queue is empty; `posted` is what PagerDuty took, with the moment."""

    def __init__(self, storm: Storm, rules: Any, seed: int) -> None:
        self.now = 0.0
        self.drained = 0.0
        self.counts: Counter[str] = Counter()
        self.posted: list[tuple[float, Message]] = []
        self._storm = storm
        self._rules = rules
        self._random = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        self._pagerduty = PagerDuty(storm.outage)
        self._queue = Queue(self._wake)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._ticks = itertools.count()
        # Lambda reuses the process that was busy last.
        self._idle = [Process() for _ in range(storm.workers)]

    def run(self) -> Figures:
        """Let it all happen."""
        messages = list(self._messages())
        for message in messages:
            self._at(message.sent_at, functools.partial(self._queue.send, message))
        while self._agenda:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        late = sorted(when - message.sent_at for when, message in self.posted if message.is_page)
        events, posts = len(messages), len(self.posted)
        end = self._storm.outage[1]
        return Figures(
            events=events,
            posts=posts,
            merged=self.counts["merged"],
            lost=self._queue.lost,
            late_p50=_quantile(late, 0.5),
            late_p95=_quantile(late, 0.95),
            late_max=_quantile(late, 1),
            drained=self.drained,
            posts_a_minute=posts / self.drained * MINUTE,
            refusals_per_post=self.counts["pagerduty_rate_limited"] / posts,
            receives_per_event=self.counts["receives"] / events,
            batches=self.counts["batches"],
            noticed=next((when for when, _ in self.posted if when >= end), math.inf) - end,
        )

    def _messages(self) -> Iterator[Message]:
        arrivals: list[tuple[float, str, str]] = [
            (when, f"incident {incident}", what) for when, incident, what in self._storm.arrivals()
        ]
        arrivals += [(when, f"page {number}", "critical") for number, when in enumerate(self._storm.pages)]
        groups: dict[str, Group] = {}
        for number, (when, incident, what) in enumerate(sorted(arrivals, key=lambda arrival: arrival[0])):
            group = groups.setdefault(incident, Group(key=len(groups) % self._storm.keys))
            if what == "resolve":
                event = Event("default", "alert", {}, "resolve", incident)
            else:
                event = Event("default", "alert", {"payload": {"severity": what}}, "trigger", incident)
            yield Message(number, when, event, group, incident.startswith("page"))

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._ticks), action))

    def _wake(self) -> None:
        if self._idle:
            process = self._idle.pop()
            self._at(self.now, functools.partial(self._go_on, process, self._work(process)))

    def _go_on(self, process: Process, work: Iterator[float]) -> None:
        seconds = next(work, None)
        if seconds is None:
            self._idle.append(process)
        else:
            self._at(self.now + seconds, functools.partial(self._go_on, process, work))

    def _work(self, process: Process) -> Iterator[float]:
        """Do what worker.py does, as long as there are messages; yields the seconds that it takes."""
        while batch := self._queue.receive(self.now):
            self.counts["batches"] += 1
            self.counts["receives"] += len(batch)
            if self.now - process.asked_at >= ASKED_AGAIN:
                process.asked_at, process.in_flight = self.now, self._queue.in_flight
            superfluous = self._rules.merged([(message.event, self.now - message.sent_at) for message in batch])
            done = dict.fromkeys([message.group for message in batch], 0)
            put_off: dict[Group, int] = {}
            for number, message in enumerate(batch):
                if message.group in put_off:
                    continue
                if number in superfluous:
                    code = "merged"
                elif self._may_go(process, message):
                    code = yield from self._call(process, message)
                else:
                    code = "not_its_turn"
                self.counts[code] += 1
                if code in {"delivered", "merged"}:
                    done[message.group] += 1
                    self.drained = self.drained if message.is_page else self.now + process.ahead
                else:
                    put_off[message.group] = self._pause(process, message, code)
            yield process.ahead + OVERHEAD
            process.ahead = 0.0
            self._answer(done, put_off)

    def _may_go(self, process: Process, message: Message) -> bool:
        now = self.now + process.ahead
        pace = process.paces[message.group.key]
        return bool(self._rules.may_go(message.event, now - message.sent_at, pace, now))

    def _call(self, process: Process, message: Message) -> Generator[float, None, str]:
        """Call PagerDuty; return the code of its answer."""
        key = message.group.key
        code = self._pagerduty.answer(key, self.now + process.ahead)
        if code == "delivered" and process.ahead:
            yield process.ahead
            process.ahead = 0.0
            code = self._pagerduty.answer(key, self.now)
        if code == "delivered":
            self._pagerduty.take(key, self.now)
            self.posted.append((self.now + CALL, message))
        process.ahead += REFUSAL if code == "pagerduty_rate_limited" else CALL
        process.paces[key] = self._rules.learn(process.paces[key], code, self.now + process.ahead)
        return code

    def _pause(self, process: Process, message: Message, code: str) -> int:
        waited = self.now + process.ahead - message.sent_at
        pause: int = self._rules.pause(
            code,
            receives=message.receives,
            waited=waited,
            share=self._rules.share(process.in_flight, self._storm.keys),
            urgent=self._rules.is_urgent(message.event, waited),
            jitter=self._random.uniform(*pacing.JITTER),
        )
        return pause

    def _answer(self, done: Mapping[Group, int], put_off: Mapping[Group, int]) -> None:
        """Delete what is done; the rest of its group comes back after the pause."""
        for group, count in done.items():
            self._queue.delete(group, count)
        together: defaultdict[int, list[Group]] = defaultdict(list)
        for group, pause in put_off.items():
            together[pause].append(group)
        for pause, groups in together.items():
            self._at(self.now + pause, functools.partial(self._queue.show, groups))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def at_once(events: int, incidents: int, severity: Severity = "warning") -> Arrivals:
    """Yield events that come all at once, of the incidents in turn."""
    return ((0.0, number % incidents, severity) for number in range(events))


def within(seconds: float, incidents: int) -> Arrivals:
    """Yield warnings that come evenly, each of an incident of its own."""
    return ((seconds * number / incidents, number, "warning") for number in range(incidents))


_of: Final = functools.partial
_IN_TEN_MINUTES: Final = _of(within, 10 * MINUTE)
_LATER: Final = tuple(2 * MINUTE + 30.0 * number for number in range(20))
_SOON: Final = tuple(5.0 * number for number in range(20))
_IN_THE_BLIP: Final = tuple(97.5 + number for number in range(20))
ONE_KEY: Final = "20,000 incidents within ten minutes"
FOUR_KEYS: Final = "the same with four routing keys"
TIMES_AS_LONG: Final = 0.3
STORMS: Final = (
    Storm("2,000 events of 50 incidents at once", _of(at_once, 2000, 50), late_p95=5, drained=14 * MINUTE),
    Storm("2,000 incidents at once", _of(at_once, 2000, 2000), late_p95=5, drained=25 * MINUTE),
    Storm(
        "2,000 incidents within a minute, pages too",
        _of(within, MINUTE, 2000),
        pages=_SOON,
        late_p95=65,
        drained=25 * MINUTE,
    ),
    Storm("2,000 incidents within ten minutes", _of(_IN_TEN_MINUTES, 2000), late_p95=5, drained=21 * MINUTE),
    Storm("20,000 events of 50 incidents at once", _of(at_once, 20_000, 50), late_p95=5, drained=1.5 * HOUR),
    Storm(ONE_KEY, _of(_IN_TEN_MINUTES, 20_000), late_p95=15, drained=3.3 * HOUR),
    Storm(FOUR_KEYS, _of(_IN_TEN_MINUTES, 20_000), keys=4),
    Storm("60,000 incidents within ten minutes", _of(_IN_TEN_MINUTES, 60_000), late_p95=45, drained=10 * HOUR),
    Storm(
        "2,000 critical incidents at once, then others",
        _of(at_once, 2000, 2000, "critical"),
        pages=_LATER,
        late_p95=10,
        drained=25 * MINUTE,
        refusals_per_post=4,
    ),
    Storm("PagerDuty away for 10 s", _of(_IN_TEN_MINUTES, 100), pages=_IN_THE_BLIP, outage=(100, 110), late_p95=20),
    Storm("PagerDuty away for a day", _of(within, DAY, 2000), pages=(), outage=(0, DAY), noticed=150),
)
# To be put side by side with the local stack.
COMPARED: Final = Storm(
    "500 incidents at once, two workers",
    _of(at_once, 500, 500),
    pages=tuple(30 + MINUTE * number for number in range(5)),
    workers=2,
)

Results = dict[tuple[str, str], Figures]


def simulate(storm: Storm, rules: str, seed: int) -> Figures:
    """Simulate a storm under the rules of that name."""
    return Simulation(storm, RULES[rules], seed).run()


def simulate_all(storms: Sequence[Storm], seed: int) -> Results:
    """Simulate each storm under both rules, on every processor; those that take longest first."""
    jobs = [(storm, rules) for storm in storms for rules in RULES]
    jobs.sort(key=lambda job: sum(1 for _ in job[0].arrivals()) + job[0].outage[1], reverse=True)
    results: Results = {}
    # Not forked: what the parent is to tidy up at its end, a fork of it would tidy up too.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as executor:
        futures = {executor.submit(simulate, storm, rules, seed): (storm.name, rules) for storm, rules in jobs}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if sys.stderr.isatty():
                print(f"{len(results)} of {len(jobs)} simulated", end="\r", file=sys.stderr, flush=True)
    return results


def missed(storms: Sequence[Storm], results: Results) -> Iterator[str]:
    """Yield every target that is missed, in words."""
    for storm in storms:
        for name in ("late_p95", "drained", "refusals_per_post", "noticed", "lost"):
            value, target = getattr(results[storm.name, "after"], name), getattr(storm, name)
            if value > target:
                yield f"{storm.name}: {name} is {value:.3g}, allowed is {target:g}"
    if (FOUR_KEYS, "after") in results:
        times = results[FOUR_KEYS, "after"].drained / results[ONE_KEY, "after"].drained
        if times > TIMES_AS_LONG:
            yield f"{FOUR_KEYS}: drained after {times:.3g} of the time, allowed is {TIMES_AS_LONG}"


_ROW: Final = "{:<46}{:<7}" + "{:>10}" * 4 + "{:>8}{:>7}{:>10}{:>9}{:>12}"
_HEAD: Final = ("storm", "", "late p50", "p95", "max", "drained", "posts", "a min.", "429s each", "receives", "batches")


def table(storms: Sequence[Storm], results: Results) -> Iterator[str]:
    """Yield the lines of the table: each storm under both rules."""
    yield _ROW.format(*_HEAD)
    for storm, rules in itertools.product(storms, RULES):
        figures = results[storm.name, rules]
        yield _ROW.format(
            storm.name if rules == "before" else "",
            rules,
            *map(_time, (figures.late_p50, figures.late_p95, figures.late_max, figures.drained)),
            figures.posts,
            f"{figures.posts_a_minute:.0f}",
            f"{figures.refusals_per_post:.2f}",
            f"{figures.receives_per_event:.1f}",
            figures.batches,
        )


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 2 * MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / MINUTE:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table, write it as JSON; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description="Storms in virtual time.")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another storm of the same size")
    parser.add_argument("--compare", action="store_true", help=f"only: {COMPARED.name}")
    options = parser.parse_args(arguments)
    storms = [COMPARED] if options.compare else list(STORMS)
    results = simulate_all(storms, options.seed)
    print("\n".join(table(storms, results)))
    misses = list(missed(storms, results))
    figures = [{"storm": storm, "rules": rules, **asdict(reached)} for (storm, rules), reached in results.items()]
    _RESULTS.write_text(json.dumps({"seed": options.seed, "missed": misses, "figures": figures}, indent=2) + "\n")
    print("\nAll targets are met." if not misses else "\nNot met:\n" + "\n".join(misses))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
