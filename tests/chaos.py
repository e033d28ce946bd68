"""RudderStack's router against the local stack while everything around the functions fails; then the reckoning.

`make chaos`, or `python -m chaos --events N --seed S [--mode MODE ...]` with tests/ on the path. It ends with 1 when an
event was lost, an incident was opened twice or left open, the order within an incident was broken, an answer came late,
or an event took effect again though nothing was lost; each rule stands at its check, below. What a seed decides is
which events there are and what goes wrong with which of their calls; how the threads interleave, it cannot decide.
"""

import argparse
import itertools
import json
import random
import re
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import urllib3

from local.aws import Failure
from local.runtime import Runtime, emulator
from local.sandbox import Fault, Received, Sandbox
from local.stack import LOCAL_TOKEN, Delivery, LocalStack, Options
from router import BATCH_SIZE, REQUEST_SECONDS, Event, Job, Record, Request, Router, Rules, worker_of

# The router's waiting times are divided by this: 10 to 300 seconds become 0.1 to 3, its three hours become 108 s.
SPEED: Final = 100.0
# Requests at once, at most. rudder-server sends up to 64; here all of Lambda runs on one machine, which starts no more
# than ten instances, and the limit of ten seconds is to measure the functions and not the wait for a processor.
SENDERS: Final = 10
# PagerDuty's limit of 120 calls a minute and key, the minute compressed to two seconds.
RATE_LIMIT: Final = 120
RATE_WINDOW: Final = 2.0
# So many times faster does the time of what waits in the queue pass too.
QUEUE_SPEED: Final = 30.0
# While this part of the calls comes in, PagerDuty fails.
OUTAGE: Final = (0.1, 0.15)
# Seconds in which nothing listens at PagerDuty's port, and how many calls there are to each such time.
REFUSED_SECONDS: Final = 0.5
REFUSED_EVERY: Final = 800
# Seconds that a call which is to be struck is held, so that the strike finds it.
HELD_SECONDS: Final = 1.5
# Seconds for the sender, and then for the queue, to come to an end.
PATIENCE: Final = 1200.0

POISON: Final = "this event is poison"
_ID: Final = re.compile(r"event-\d{6}")

Fate = Literal["delivered", "refused", "poison"]
Failing = Literal["pagerduty", "aws"]
HEADERS: Final = {"X-Api-Key": LOCAL_TOKEN}


@dataclass(frozen=True)
class Mode:
    """How events are delivered, and whether the sender batches."""

    name: str
    delivery: Delivery
    batched: bool

    @property
    def queued(self) -> bool:
        """Tell whether events go through the queue: those of a batch always do."""
        return self.batched or self.delivery == "queued"


MODES: Final = {
    mode.name: mode
    for mode in (
        Mode("direct", "direct", batched=False),
        Mode("direct-batched", "direct", batched=True),
        Mode("queued", "queued", batched=False),
        Mode("queued-batched", "queued", batched=True),
    )
}


# -- what is sent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is sent: the jobs in their order, what has to become of each event, and the lives of the incidents."""

    jobs: Sequence[Job]
    fates: Mapping[str, Fate]  # by messageId
    lives: Mapping[str, Sequence[str]]  # the messageIds of an incident's events, in their order, by dedup key
    ends: Mapping[tuple[str, str], str]  # messageIds of acknowledge and resolve, by dedup key and action

    @property
    def senders(self) -> int:
        """How many requests are sent at once: ten processes take seconds to start, for a few events in vain."""
        return min(SENDERS, 3 + len(self.jobs) // 60)

    def identify(self, event: Mapping[str, Any]) -> str:
        """Return the messageId of an event as PagerDuty gets it; acknowledge and resolve have no details to hold it."""
        details = event.get("payload", {}).get("custom_details")
        return str(details["id"] if details else self.ends[event["dedup_key"], event["event_action"]])

    def ids(self, fate: Fate) -> list[str]:
        """List the events that have this fate in store."""
        return [each for each, its in self.fates.items() if its == fate]


def plan(events: int, incidents: int, seed: str) -> Plan:
    """Make up the events: the lives of the incidents, a few that must be refused, the rest change events."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    users = max(1, events // 12)
    timed: list[tuple[float, Job]] = []
    fates: dict[str, Fate] = {}
    lives: dict[str, list[str]] = {}
    ends: dict[tuple[str, str], str] = {}

    def add(at: float, user: int, fate: Fate, properties: Event, **more: Any) -> str:
        message_id = f"event-{len(fates):06d}"
        fates[message_id] = fate
        properties = {"source": "chaos", "severity": "error", "customDetails": {"id": message_id}, **properties}
        name = POISON if fate == "poison" else f"Event {len(fates)}"
        event = {"type": "track", "event": name, "messageId": message_id, "properties": properties, **more}
        timed.append((at, Job(f"user-{user}", event)))
        return message_id

    for n in range(incidents):
        key, user, at = f"incident-{n}", chance.randrange(users), chance.random()
        lives[key] = []
        for action in _life(chance):
            fate: Fate = "poison" if action == "poison" else "refused" if action == "resolv" else "delivered"
            sent = "trigger" if action == "poison" else action
            message_id = add(at, user, fate, {"action": sent, "dedupKey": key})
            at += chance.random() * 0.1
            if fate == "delivered":
                lives[key].append(message_id)
            if fate == "delivered" and action != "trigger":
                ends[key, action] = message_id
    while len(fates) < events:
        user, at = chance.randrange(users), chance.random()
        if len(fates) % 50:
            add(at, user, "delivered", {}, integrations={"pagerduty": {"type": "changeEvent"}})
        else:
            add(at, user, "refused", {"source": ""})
    return Plan([job for _, job in sorted(timed, key=lambda each: each[0])], fates, lives, ends)


def _life(chance: random.Random) -> Iterator[str]:
    """Make up the actions of an incident; there is one acknowledge and one resolve at most, which have no details."""
    yield "trigger"
    for _ in range(chance.choice((0, 0, 1, 2))):
        yield "trigger"
    if chance.random() < 0.05:
        yield "poison"
    if chance.random() < 0.05:
        yield "resolv"
    if chance.random() < 0.7:
        yield "acknowledge"
        if chance.random() < 0.3:
            yield "trigger"
    yield "resolve"


# -- what goes wrong -------------------------------------------------------------------------------------------------

# By kind: which part of the events meets it, at one of its calls to PagerDuty. Each strikes at least once; those that
# take seconds, only in a run that does so anyway.
AT_PAGERDUTY: Final = {
    "429": 0.02,
    "500": 0.01,
    "501": 0.01,
    "502": 0.01,
    "503": 0.01,
    "504": 0.01,
    "202 not JSON": 0.02,
    "reset before": 0.015,
    "reset after": 0.015,
    "no answer, not taken": 0.001,
    "no answer, taken": 0.001,
    "byte by byte": 0.002,
    "byte by byte, body late": 0.001,
    "byte by byte, too late": 0.001,
}
# The same for what strikes the process that holds the call, before or after the event took effect.
AT_PROCESSES: Final = {"killed before": 0.004, "killed after": 0.004}
# The API function runs for nine seconds at most. The worker may run for 90; its death stands for its time-out as well.
AT_API: Final = {"frozen": 0.001}
# And for the calls that put events into the queue.
AT_QUEUE: Final = {"SQS 503": 0.01, "SQS fails an entry": 0.01, "SQS hangs": 0.002, "SQS answer lost": 0.01}
# botocore tries a call four times, so that fewer failures would not be noticed; an entry that fails is no failed call.
CALLS: Final = {"SQS 503": 4, "SQS hangs": 4, "SQS answer lost": 4}
# The part of the events of which an answer is lost on the way to the sender, and with it that to their batch.
ANSWERS_LOST: Final = 0.05

# Ways in which SSM fails, one after the other, and for how many calls each. The last one takes seconds.
SSM_FAILURES: Final = (
    Failure.answer(400, "ThrottlingException"),
    Failure.answer(500, "InternalServerError"),
    Failure.answer(400, "ThrottlingException"),
    Failure.answer(500, "InternalServerError"),
    Failure.hang(10.0),
)
SSM_CALLS: Final = 4

SLOW_FROM: Final = 250  # events
SLOW: Final = {
    "no answer, not taken",
    "no answer, taken",
    "byte by byte, body late",
    "byte by byte, too late",
    "SQS hangs",
    "frozen",
}

# Seconds from byte to byte. The first is merely slow. With the second the line with the status, which is what counts,
# comes within the function's eight seconds and the rest does not; with the third it comes too late as well.
PAUSES: Final = {"byte by byte": 0.01, "byte by byte, body late": 0.15, "byte by byte, too late": 0.5}


class Weather:
    """Decides, by the seed, what goes wrong with which call of an event, and makes it so."""

    def __init__(self, stack: LocalStack, mode: Mode, plan: Plan, seed: str, failing: Sequence[Failing]) -> None:
        self.faults: Counter[str] = Counter()
        self._stack = stack
        self._sandbox = _sandbox(stack)
        self._caller = _caller(stack, mode)
        self._plan = plan
        self._chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        at_aws = "aws" in failing
        at_api = AT_API if at_aws and emulator() else {}
        at_calls = (AT_PAGERDUTY if "pagerduty" in failing else {}) | (AT_PROCESSES if at_aws else {})
        self._pagerduty_fails = "pagerduty" in failing
        self._at_pagerduty = self._deal(at_calls | ({} if mode.queued else at_api))
        self._at_queue = self._deal(AT_QUEUE | AT_PROCESSES | at_api if mode.queued and at_aws else {})
        self._outage = range(*(int(len(plan.jobs) * part) for part in OUTAGE))
        self._ssm_failures = itertools.cycle(SSM_FAILURES)
        self._ssm_failure = SSM_FAILURES[0]
        self._ssm_left = 0
        self._latest: deque[float] = deque(maxlen=RATE_LIMIT)
        # One thread, since what is asked how a call fails must not block.
        self._striker = ThreadPoolExecutor(1, thread_name_prefix="striker")
        self._pause = threading.Event()

    def begin(self) -> None:
        """Let it fail from now on."""
        self._sandbox.misbehave = self._at_call
        self._stack.aws.fail = self._at_aws_call

    def end(self) -> None:
        """Wait until no strike is under way, and end PagerDuty.

        An answer that was given up may still be trickling; it is on record as lost when its connection has ended.
        """
        self._striker.shutdown()
        self._sandbox.stop()

    def _deal(self, shares: Mapping[str, float]) -> dict[str, list[str]]:
        """Deal faults out to events: the first of an event's list is for its first call, and so on."""
        hands: defaultdict[str, list[str]] = defaultdict(list)
        ids = self._plan.ids("delivered")
        workers = {job.event["messageId"]: worker_of(job.user, self._plan.senders) for job in self._plan.jobs}
        # A worker of the sender would have to wait for one slow fault after the other: the one with the fewest is next.
        waiting: Counter[int] = Counter()
        for kind, share in shares.items():
            shuffled = self._chance.sample(ids, len(ids))
            least = kind not in SLOW or len(ids) >= SLOW_FROM
            if kind in SLOW:
                shuffled.sort(key=lambda each: waiting[workers[each]])
            for message_id in shuffled[: max(least, round(len(ids) * share))]:
                waiting[workers[message_id]] += kind in SLOW
                hands[message_id] += [kind] * CALLS.get(kind, 1)
        return hands

    # -- PagerDuty

    def _at_call(self, call: Received) -> Fault | None:
        message_id = self._plan.identify(call.event)
        if self._plan.fates[message_id] == "poison":
            return Fault.answer(400, {"status": "invalid event", "message": "no", "errors": [POISON]})
        if self._pagerduty_fails and call.number % REFUSED_EVERY == REFUSED_EVERY // 10:
            self._strike("connections refused", self._refuse_connections)
        if self._pagerduty_fails and call.number in self._outage:
            self.faults["outage"] += 1
            return (Fault.answer(503), Fault.reset_before(), Fault.answer(500), Fault.reset_after())[call.number % 4]
        if self._pagerduty_fails and self._is_throttled():
            self.faults["rate limit"] += 1
            return Fault.answer(429)
        kinds = self._at_pagerduty.get(message_id)
        return self._fault(kinds.pop(0), message_id) if kinds else None

    def _is_throttled(self) -> bool:
        """Limit the rate, so that no fault answers 202 to a call which the sandbox's own limit does not let through."""
        now = time.monotonic()
        if len(self._latest) == RATE_LIMIT and self._latest[0] > now - RATE_WINDOW:
            return True
        self._latest.append(now)
        return False

    def _fault(self, kind: str, message_id: str) -> Fault | None:
        if kind in ("killed before", "killed after", "frozen"):
            self._strike(kind, lambda: self._strike_process(self._caller, kind, message_id))
            return Fault(hold=HELD_SECONDS) if kind != "killed before" else Fault.hang(HELD_SECONDS)
        self.faults[kind] += 1
        if kind.isdecimal():
            return Fault.answer(int(kind))
        if kind in PAUSES:
            return Fault.trickle(PAUSES[kind])
        return {
            "202 not JSON": Fault.answer(202, "<html>Accepted</html>"),
            "reset before": Fault.reset_before(),
            "reset after": Fault.reset_after(),
            "no answer, not taken": Fault.hang(takes_effect=False),
            "no answer, taken": Fault.hang(takes_effect=True),
        }[kind]

    def _refuse_connections(self) -> bool:
        self._sandbox.stop()
        self._pause.wait(REFUSED_SECONDS)
        self._sandbox.start()
        return True

    # -- AWS

    def _at_aws_call(self, target: str, request: Mapping[str, Any]) -> Failure | None:
        if target.startswith("AmazonSSM."):
            return self._at_ssm_call()
        if target != "AmazonSQS.SendMessageBatch":
            return None
        for entry in request["Entries"]:
            found = _ID.search(entry["MessageBody"])
            kinds = self._at_queue.get(found[0]) if found else None
            if found and kinds:
                return self._queue_failure(kinds.pop(0), found[0], entry["Id"])
        return None

    def _queue_failure(self, kind: str, message_id: str, entry_id: str) -> Failure:
        if not kind.startswith("SQS"):
            self._strike(kind, lambda: self._strike_process(self._stack.runtime, kind, message_id))
            return Failure.hang(HELD_SECONDS) if kind == "killed before" else Failure.delay(HELD_SECONDS)
        self.faults[kind] += 1
        return {
            "SQS 503": Failure.answer(503, "ServiceUnavailable"),
            "SQS fails an entry": Failure.entries(entry_id),
            "SQS hangs": Failure.hang(HELD_SECONDS * 2),
            "SQS answer lost": Failure.lose_answer(),
        }[kind]

    def _at_ssm_call(self) -> Failure | None:
        if not self._ssm_left:
            return None
        self._ssm_left -= 1
        self.faults["SSM fails"] += 1
        return self._ssm_failure

    # -- processes

    def _strike(self, kind: str, strike: Callable[[], bool]) -> None:
        def run() -> None:
            self.faults[kind if strike() else f"{kind}, missed"] += 1

        self._striker.submit(run)

    def _strike_process(self, runtime: Runtime, kind: str, message_id: str) -> bool:
        """Strike the instance that has this event in its hands, and let SSM fail: a new process has to ask it."""
        for instance in runtime.busy_instances():
            if message_id in instance.event:
                self._ssm_failure, self._ssm_left = next(self._ssm_failures), SSM_CALLS
                if kind == "frozen":
                    instance.freeze()
                else:
                    instance.kill()
                return True
        return False


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Reckoning:
    """What was sent and what became of it."""

    mode: Mode
    sent: int
    requests: int = 0
    attempts: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    slowest: float = 0.0
    calls: int = 0
    delivered: int = 0
    refused: int = 0
    dead_lettered: int = 0
    retried: int = 0
    put_back: int = 0
    merged: int = 0
    changes_twice: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Tell it to people."""
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.faults.items()))
        yield f"{self.mode.name}"
        yield f"  sent            {self.sent} events, {self.requests} requests, {self.attempts} attempts"
        yield f"  answered        {statuses}; {self.unanswered} answers lost; the slowest after {self.slowest:.2f} s"
        yield f"  delivered       {self.delivered} events in {self.calls} calls to PagerDuty; {self.merged} were merged"
        yield f"  refused         {self.refused}, dead-lettered {self.dead_lettered}"
        yield f"  retried         {self.retried} events by the sender; put back {self.put_back} times by the worker"
        yield f"  counted apart   {self.changes_twice} changes twice, each after a lost answer or a killed process"
        yield f"  faults          {faults}"
        yield f"  took            {self.seconds:.1f} s, {len(self.problems)} problems"
        yield from (f"  PROBLEM         {problem}" for problem in self.problems[:50])


def run(
    mode: Mode, *, events: int, incidents: int, seed: int, failing: Sequence[Failing] = ("pagerduty", "aws")
) -> Reckoning:
    """Send events through a stack of its own, wait until all has arrived, and reckon.

    `failing` tells what fails: PagerDuty; AWS, the functions' processes included. Answers get lost in any case.
    """
    name = f"{seed} {mode.name}"
    made_up = plan(events, incidents, name)
    log: list[str] = []
    options = Options(delivery=mode.delivery, rate_limit=None, speed=QUEUE_SPEED)
    with LocalStack(options, on_log=log.append) as stack:
        _warm_up(stack, made_up.senders)
        died = _count_deaths(_caller(stack, mode))
        weather = Weather(stack, mode, made_up, name, failing)
        router = Router(
            f"{stack.url}/events",
            HEADERS,
            Rules(batch_size=BATCH_SIZE if mode.batched else 0, workers=made_up.senders, speed=SPEED),
            _loses(made_up, name),
        )
        began = time.monotonic()
        weather.begin()
        records = router.deliver(made_up.jobs, PATIENCE)
        waiting = _drain(stack)
        weather.end()
        result = Reckoning(mode, len(made_up.jobs), seconds=time.monotonic() - began, faults=weather.faults)
        result.put_back = stack.event_source.failures
        if waiting:
            result.problems.append(f"{waiting} messages are still in the queue")
        _reckon(result, made_up, records, stack, died, _merged(log))
    return result


def _sandbox(stack: LocalStack) -> Sandbox:
    if stack.sandbox is None:
        raise RuntimeError("The stack has no sandbox")
    return stack.sandbox


def _caller(stack: LocalStack, mode: Mode) -> Runtime:
    """Tell which function calls PagerDuty."""
    return stack.worker if mode.queued else stack.runtime


def _warm_up(stack: LocalStack, senders: int) -> None:
    """Start as many instances as there will be requests at once; later cold starts come one by one, as on Lambda."""
    body = {"type": "track", "event": "warm up", "properties": {"source": "chaos"}}
    url = f"{stack.url}/events?preview=true"

    def post(_: int) -> int:
        return urllib3.request("POST", url, json=body, headers=HEADERS, timeout=60, retries=False).status

    with ThreadPoolExecutor(senders) as threads:
        list(threads.map(post, range(senders)))


def _count_deaths(runtime: Runtime) -> Counter[str]:
    """Count, from now on, the events that a process had in its hands when it was killed or ran out of time."""
    died: Counter[str] = Counter()
    lock = threading.Lock()

    def note(_: object, event: str, answer: str) -> None:
        with suppress(ValueError):  # A time-out is told in plain words.
            if json.loads(answer).keys() & {"statusCode", "batchItemFailures"}:
                return
        with lock:
            # A message names its event twice: as message_id, and in the custom details.
            died.update(set(_ID.findall(event)))

    runtime.on_invoked = note
    return died


def _loses(plan: Plan, seed: str) -> Callable[[Sequence[Job]], bool]:
    """Choose requests whose answer does not reach the sender, which sends them again though they were accepted."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    ids = {each for each in plan.fates if chance.random() < ANSWERS_LOST}
    lock = threading.Lock()

    def loses(jobs: Sequence[Job]) -> bool:
        with lock:
            chosen = ids.intersection(job.event["messageId"] for job in jobs)
            ids.difference_update(chosen)
        return bool(chosen)

    return loses


def _drain(stack: LocalStack) -> int:
    """Wait until the queue is empty; return how many messages it still holds."""
    give_up = time.monotonic() + PATIENCE
    pause = threading.Event()
    while (waiting := stack.count_messages(stack.queue_url)) and time.monotonic() < give_up:
        pause.wait(0.1)
    return waiting


def _dead_letters(stack: LocalStack) -> dict[str, str]:
    """Empty the dead-letter queue; return the reasons by messageId."""
    letters: dict[str, str] = {}
    sqs = stack.aws.client("sqs")
    while messages := sqs.receive_message(
        QueueUrl=stack.dead_letter_queue_url, MessageAttributeNames=["All"], MaxNumberOfMessages=10
    ).get("Messages", []):
        for message in messages:
            letters[json.loads(message["Body"])["message_id"]] = message["MessageAttributes"]["reason"]["StringValue"]
            sqs.delete_message(QueueUrl=stack.dead_letter_queue_url, ReceiptHandle=message["ReceiptHandle"])
    return letters


# -- the reckoning ---------------------------------------------------------------------------------------------------


def _merged(log: Iterable[str]) -> set[str]:
    """Find the events that the worker says it merged: PagerDuty would show nothing of them."""
    lines = [json.loads(line) for line in log if '"outcome":"merged"' in line]
    return {line["message_id"] for line in lines}


def _reckon(  # noqa: PLR0913, PLR0917 -- all that is known of a run
    result: Reckoning,
    plan: Plan,
    records: Sequence[Record],
    stack: LocalStack,
    died: Counter[str],
    merged: set[str],
) -> None:
    """Fill in the result; `died` counts the events that died with a process of the function that calls PagerDuty."""
    sandbox = _sandbox(stack)
    letters = _dead_letters(stack)
    requests = {request for record in records for request in record.requests}
    accepted = [(plan.identify(call.event), call) for call in sandbox.received if call.accepted]
    arrived = Counter(message_id for message_id, _ in accepted)
    # Why an event may take effect again: PagerDuty's answer, or the process, or our own answer was lost on its way.
    lost = died + Counter(message_id for message_id, call in accepted if not call.status)
    if not result.mode.queued:  # SQS recognises what the sender repeats.
        lost.update(
            record.job.event["messageId"]
            for record in records
            for request in record.requests
            if not request.answered and _said(request).get("status") == "delivered"
        )

    result.requests = len(requests)
    result.attempts = sum(record.attempts for record in records)
    result.statuses = Counter(request.status for request in requests if request.answered)
    result.unanswered = sum(not request.answered for request in requests)
    result.slowest = max(request.seconds for request in requests)
    result.calls = len(sandbox.received)
    result.delivered = sum(each in arrived or each in merged for each in plan.ids("delivered"))
    result.merged = len(merged)
    result.dead_lettered = len(letters)
    result.retried = sum(len(record.requests) > 1 for record in records)
    changes = {record.job.event["messageId"] for record in records if "integrations" in record.job.event}
    result.changes_twice = sum(1 < arrived[each] <= 1 + lost[each] for each in changes)

    result.problems += wrong_answers(requests)
    result.problems += wrong_ends(result, plan, records, letters, arrived.keys() | merged)
    result.problems += wrong_incidents(plan, sandbox)
    result.problems += wrong_order(plan, arrived)
    result.problems += wrong_repeats(arrived, lost)


def _said(request: Request) -> dict[str, Any]:
    """Read an answer, also one that was lost on the way to the sender; {} when there was none."""
    try:
        return dict(json.loads(request.body))
    except ValueError:
        return {}


def wrong_answers(requests: Iterable[Request]) -> Iterator[str]:
    """Each request is answered in time, and no answer is lost but those that were to be."""
    for request in requests:
        if request.seconds > REQUEST_SECONDS or not _said(request):
            yield f"{request.jobs} was answered after {request.seconds:.1f} s: {request.body[:200]}"


def wrong_ends(
    result: Reckoning, plan: Plan, records: Sequence[Record], letters: Mapping[str, str], arrived: AbstractSet[str]
) -> Iterator[str]:
    """Each event is delivered, refused with a reason that tells why, or dead-lettered with one; else it is lost.

    `arrived` are those that took effect and those that were merged.
    """
    for number, record in enumerate(records):
        message_id = record.job.event["messageId"]
        fate = plan.fates[message_id]
        if record.outcome == "unfinished":
            yield f"{message_id} is unfinished after {len(record.requests)} requests: {record.message}"
            continue
        if fate == "delivered":
            if message_id not in arrived or record.outcome != "delivered":
                yield f"{message_id} is lost: {record.outcome}, {record.message}"
            continue
        if message_id in arrived:
            yield f"{message_id} was to be refused, and was delivered"
        if fate == "poison" and result.mode.queued:
            if POISON not in letters.get(message_id, ""):
                yield f"{message_id} is not in the dead-letter queue with its reason: {letters.get(message_id)}"
            continue
        result.refused += 1
        request = record.requests[-1]
        answer = _said(request)
        row = answer["results"][request.jobs.index(number)] if "results" in answer else answer
        reason = POISON if fate == "poison" else "properties."
        # In a batch that had something to deliver as well, the 400 is a row of its 200.
        if (
            row["status"] != "rejected"
            or reason not in row["message"]
            or (request.status != 400 and len(request.jobs) < 2)
        ):
            yield f"{message_id} was not refused with its reason: {request.status}, {row}"
    for message_id in letters.keys() - plan.ids("poison"):
        yield f"{message_id} is in the dead-letter queue: {letters[message_id]}"


def wrong_incidents(plan: Plan, sandbox: Sandbox) -> Iterator[str]:
    """Each incident is opened once, whatever was repeated, and resolved in the end."""
    opened = Counter(incident.dedup_key for incident in sandbox.incidents)
    for key in plan.lives:
        if opened[key] != 1:
            yield f"{key} was opened {opened[key]} times"
        incident = sandbox.incident(key)
        if incident and incident.status != "resolved":
            yield f"{key} is left {incident.status}"
        last = [each for each in plan.lives[key] if each not in plan.ends.values()][-1]
        if incident and incident.payload["custom_details"]["id"] != last:
            yield f"{key} does not show what its last trigger said"


def wrong_order(plan: Plan, arrived: Iterable[str]) -> Iterator[str]:
    """Find incidents whose events did not take effect in the order in which they were sent; `arrived` is in order.

    It is the first time that counts; what takes effect again is judged by how often it does.
    """
    positions = {message_id: position for position, message_id in enumerate(arrived)}
    for key, life in plan.lives.items():
        order = {each: positions[each] for each in life if each in positions}
        if list(order.values()) != sorted(order.values()):
            yield f"{key}: the order is broken: {order}"


def wrong_repeats(arrived: Counter[str], lost: Counter[str]) -> Iterator[str]:
    """Find events that took effect more often than is on record why: each time, something must have been lost.

    PagerDuty merges a trigger that comes again, and drops a resolve; a change event it has to show twice.
    """
    for message_id, times in arrived.items():
        if times > 1 + lost[message_id]:
            yield f"{message_id} took effect {times} times, for {lost[message_id]} losses"


# -- the program -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the modes one after the other; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=2000, help="in all; the modes share them (default: 2000)")
    parser.add_argument("--incidents", type=int, help="in all (default: a tenth of the events)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: all")
    chosen = parser.parse_args(arguments)
    parts = len(chosen.mode)
    incidents = chosen.events // 10 if chosen.incidents is None else chosen.incidents
    problems = 0
    for name in chosen.mode:
        print(f"{name}: {chosen.events // parts} events ...", flush=True)  # noqa: T201 -- a program prints
        result = run(MODES[name], events=chosen.events // parts, incidents=incidents // parts, seed=chosen.seed)
        print("\n".join(result.lines()), flush=True)  # noqa: T201 -- a program prints
        problems += len(result.problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
