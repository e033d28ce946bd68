"""RudderStack's router against the local stack while everything around the functions fails; then the reckoning.

`make chaos`, or `python -m chaos --events N --seed S [--mode MODE ...]` with tests/ on the path. It ends with 1 when an
event was lost, an incident was opened twice or left open, the order within an incident was broken, an answer came late,
or an event arrived twice for no reason that is inherent; each rule stands at its check, below. What a seed decides is
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import urllib3

from local.aws import Failure
from local.runtime import Instance, Runtime, emulator
from local.sandbox import Fault, Received, Sandbox
from local.stack import LOCAL_TOKEN, Delivery, LocalStack, Options
from router import BATCH_SIZE, REQUEST_SECONDS, Event, Job, Record, Router, Rules, worker_of

# The router's waiting times are divided by this: 10 to 300 seconds become 0.1 to 3, its three hours become 108 s.
SPEED: Final = 100.0
# Requests at once. rudder-server sends up to 64; here all of Lambda runs on one machine, which starts no more than ten
# instances, and the limit of ten seconds is to measure the functions and not the wait for a processor.
SENDERS: Final = 10
# PagerDuty's limit of 120 calls a minute and key, the minute compressed to two seconds.
RATE_LIMIT: Final = 120
RATE_WINDOW: Final = 2.0
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

    def identify(self, event: Mapping[str, Any]) -> str:
        """Return the messageId of an event as PagerDuty gets it; acknowledge and resolve have no details to hold it."""
        details = event.get("payload", {}).get("custom_details")
        return str(details["id"] if details else self.ends[event["dedup_key"], event["event_action"]])

    def may_repeat(self, message_id: str) -> bool:
        """Tell whether it does no harm to send an event twice: PagerDuty drops an acknowledge or resolve too many."""
        return message_id in self.ends.values()

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

# By kind: which part of the events meets it, at one of its calls to PagerDuty. Each kind strikes at least once.
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
# Of the requests that were answered, the part whose answer is lost on the way to the sender.
ANSWERS_LOST: Final = 0.05

# Ways in which SSM fails, one after the other, and for how many calls each; botocore tries a call twice.
SSM_FAILURES: Final = (
    Failure.answer(400, "ThrottlingException"),
    Failure.answer(500, "InternalServerError"),
    Failure.hang(10.0),
)
SSM_CALLS: Final = 4

SLOW: Final = {
    "no answer, not taken",
    "no answer, taken",
    "byte by byte, body late",
    "byte by byte, too late",
    "frozen",
}

# Seconds from byte to byte. The first is merely slow. With the second the headers come within the function's eight
# seconds and the body does not, with the third not even the headers.
PAUSES: Final = {"byte by byte": 0.01, "byte by byte, body late": 0.075, "byte by byte, too late": 0.3}


class Weather:
    """Decides, by the seed, what goes wrong with which call of an event, and makes it so."""

    def __init__(self, stack: LocalStack, plan: Plan, seed: str, failing: Sequence[Failing]) -> None:
        if stack.sandbox is None:
            raise RuntimeError("The stack has no sandbox")
        self.faults: Counter[str] = Counter()
        self._stack = stack
        self._sandbox: Sandbox = stack.sandbox
        self._plan = plan
        self._chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        queued = stack.options.delivery == "queued"
        at_aws = "aws" in failing
        at_api = AT_API if at_aws and emulator() else {}
        at_calls = (AT_PAGERDUTY if "pagerduty" in failing else {}) | (AT_PROCESSES if at_aws else {})
        self._pagerduty_fails = "pagerduty" in failing
        self._at_pagerduty = self._deal(at_calls | ({} if queued else at_api))
        self._at_queue = self._deal(AT_QUEUE | AT_PROCESSES | at_api if queued and at_aws else {})
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
        """Wait until no strike is under way."""
        self._striker.shutdown()

    def _deal(self, shares: Mapping[str, float]) -> dict[str, list[str]]:
        """Deal faults out to events: the first of an event's list is for its first call, and so on."""
        hands: defaultdict[str, list[str]] = defaultdict(list)
        ids = self._plan.ids("delivered")
        workers = {job.event["messageId"]: worker_of(job.user, SENDERS) for job in self._plan.jobs}
        # A worker of the sender would have to wait for one slow fault after the other: the one with the fewest is next.
        waiting: Counter[int] = Counter()
        for kind, share in shares.items():
            shuffled = self._chance.sample(ids, len(ids))
            if kind in SLOW:
                shuffled.sort(key=lambda each: waiting[workers[each]])
            for message_id in shuffled[: max(1, round(len(ids) * share))]:
                waiting[workers[message_id]] += kind in SLOW
                # botocore tries a call twice, so that one failure would not be noticed.
                hands[message_id] += [kind] * (2 if kind.startswith("SQS") else 1)
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
            self._strike(kind, lambda: self._strike_process(kind, message_id))
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
            self._strike(kind, lambda: self._strike_process(kind, message_id))
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

    def _strike_process(self, kind: str, message_id: str) -> bool:
        """Strike the instance that has this event in its hands, and let SSM fail: a new process has to ask it."""
        runtimes = [runtime for runtime in (self._stack.runtime, self._stack.worker) if runtime]
        for instance in (each for runtime in runtimes for each in runtime.busy_instances()):
            if message_id in instance.event:
                self._ssm_failure, self._ssm_left = next(self._ssm_failures), SSM_CALLS
                if kind == "frozen":
                    instance.freeze()
                else:
                    instance.kill()
                return True
        return False


# -- what the functions did ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invocation:
    """One run of a function: in which process, with which events, and what it said of each; None: it died."""

    process: tuple[int, int]
    ids: tuple[str, ...]
    codes: tuple[str, ...] | None


class Witness:
    """Notes the invocations of one function."""

    def __init__(self, runtime: Runtime) -> None:
        self.invocations: list[Invocation] = []
        self._lock = threading.Lock()
        self._instances: dict[Instance, int] = {}
        self._deaths: Counter[int] = Counter()
        runtime.on_invoked = self._note

    def _note(self, instance: Instance, event: str, answer: str) -> None:
        # A message names its event twice: as message_id, and in the custom details.
        ids = tuple(dict.fromkeys(_ID.findall(event)))
        codes = _codes(answer)
        with self._lock:
            number = self._instances.setdefault(instance, len(self._instances))
            # An instance that ran out of time goes on with a new process, which remembers nothing.
            process = number, self._deaths[number]
            self._deaths[number] += codes is None
            if codes and len(codes) == 1:
                codes *= len(ids)  # one answer to the whole request
            if ids:
                self.invocations.append(Invocation(process, ids, codes))


def _codes(answer: str) -> tuple[str, ...] | None:
    """Read what a function said of each event; the worker names only what stays. None: it did not answer."""
    try:
        content = json.loads(answer)
    except ValueError:
        return None  # the emulator's words for a time-out
    if "body" in content:
        body = json.loads(content["body"])
        return tuple(row["code"] for row in body.get("results", [body]))
    return () if "batchItemFailures" in content else None


# -- the reckoning ---------------------------------------------------------------------------------------------------


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
    held_back: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    twice_after_loss: int = 0
    twice_elsewhere: int = 0
    reopened_elsewhere: int = 0
    left_elsewhere: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Tell it to people."""
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.faults.items()))
        yield f"{self.mode.name}"
        yield f"  sent            {self.sent} events, {self.requests} requests, {self.attempts} attempts"
        yield f"  answered        {statuses}; {self.unanswered} answers lost; the slowest after {self.slowest:.2f} s"
        yield f"  delivered       {self.delivered} events in {self.calls} calls to PagerDuty"
        yield f"  refused         {self.refused}, dead-lettered {self.dead_lettered}"
        yield f"  retried         {self.retried} events, held back {self.held_back} times"
        yield f"  changes twice   {self.twice_after_loss}, each after a lost answer"
        if self.mode.batched or self.mode.delivery == "queued":
            yield (
                f"  counted apart   {self.twice_elsewhere} changes twice and {self.reopened_elsewhere} incidents "
                f"opened again, {self.left_elsewhere} of them left open: their batch was retried by another process, "
                "or its process died"
            )
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
    deferred: Counter[bool] = Counter()

    def read_log(line: str) -> None:
        # The worker's lines tell how often the event was received, the API function's do not.
        deferred['"outcome":"deferred"' in line and '"receives"' in line] += 1

    with LocalStack(Options(delivery=mode.delivery), on_log=read_log) as stack:
        _warm_up(stack)
        witness = Witness(stack.worker or stack.runtime)
        weather = Weather(stack, made_up, name, failing)
        router = Router(
            f"{stack.url}/events",
            HEADERS,
            Rules(batch_size=BATCH_SIZE if mode.batched else 0, workers=SENDERS, speed=SPEED),
            _loses(mode, made_up, name),
        )
        began = time.monotonic()
        weather.begin()
        records = router.deliver(made_up.jobs, PATIENCE)
        waiting = _drain(stack)
        weather.end()
        result = Reckoning(mode, len(made_up.jobs), seconds=time.monotonic() - began, faults=weather.faults)
        if waiting:
            result.problems.append(f"{waiting} messages are still in the queue")
        if stack.event_source:
            result.held_back = max(0, stack.event_source.failures - deferred[True])
        _reckon(result, made_up, records, stack, witness.invocations)
    return result


def _warm_up(stack: LocalStack) -> None:
    """Start as many instances as there will be requests at once; later cold starts come one by one, as on Lambda."""
    body = {"type": "track", "event": "warm up", "properties": {"source": "chaos"}}
    url = f"{stack.url}/events?preview=true"

    def post(_: int) -> int:
        return urllib3.request("POST", url, json=body, headers=HEADERS, timeout=60, retries=False).status

    with ThreadPoolExecutor(SENDERS) as threads:
        list(threads.map(post, range(SENDERS)))


def _loses(mode: Mode, plan: Plan, seed: str) -> Callable[[Sequence[Job]], bool] | None:
    """Choose requests whose answer does not reach the sender, which sends them again though they were accepted.

    Not in direct delivery of batches: a process that answered 200 has nothing to remember, and what a batch opened and
    resolved is then opened again.
    """
    if mode.batched and mode.delivery == "direct":
        return None
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    ids = {each for each in plan.fates if chance.random() < ANSWERS_LOST}
    lock = threading.Lock()

    def loses(jobs: Sequence[Job]) -> bool:
        with lock:
            chosen = jobs[0].event["messageId"] in ids
            ids.discard(jobs[0].event["messageId"])
        return chosen

    return loses


def _drain(stack: LocalStack) -> int:
    """Wait until the queue is empty; return how many messages it still holds."""
    if not stack.queue_url:
        return 0
    give_up = time.monotonic() + PATIENCE
    pause = threading.Event()
    while (waiting := stack.count_messages(stack.queue_url)) and time.monotonic() < give_up:
        pause.wait(0.1)
    return waiting


def _dead_letters(stack: LocalStack) -> dict[str, str]:
    """Empty the dead-letter queue; return the reasons by messageId."""
    letters: dict[str, str] = {}
    if not stack.dead_letter_queue_url:
        return letters
    sqs = stack.aws.client("sqs")
    while messages := sqs.receive_message(
        QueueUrl=stack.dead_letter_queue_url, MessageAttributeNames=["All"], MaxNumberOfMessages=10
    ).get("Messages", []):
        for message in messages:
            letters[json.loads(message["Body"])["message_id"]] = message["MessageAttributes"]["reason"]["StringValue"]
            sqs.delete_message(QueueUrl=stack.dead_letter_queue_url, ReceiptHandle=message["ReceiptHandle"])
    return letters


@dataclass
class Arrivals:
    """How often each event took effect at PagerDuty, when first, and how often its answer was lost on the way back."""

    times: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, received: Sequence[Received]) -> "Arrivals":
        """Count them."""
        arrivals = cls()
        for position, call in enumerate(received):
            if call.accepted:
                message_id = plan.identify(call.event)
                arrivals.times[message_id] += 1
                arrivals.lost[message_id] += call.status == 0
                arrivals.first.setdefault(message_id, position)
        return arrivals


@dataclass
class Repeats:
    """Why the function that calls PagerDuty could not know that it had delivered an event before."""

    alone: Counter[str] = field(default_factory=Counter)  # its process died with this event only
    in_batch: Counter[str] = field(default_factory=Counter)  # its process died with this event and others
    elsewhere: Counter[str] = field(default_factory=Counter)  # a retry of its batch reached another process
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan, invocations: Sequence[Invocation], *, remembers: bool) -> "Repeats":
        """Go through the invocations. Where the function remembers, a process must not deliver an event twice."""
        repeats = cls()
        delivered_by: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for each in invocations:
            if each.codes is None:
                (repeats.in_batch if len(each.ids) > 1 else repeats.alone).update(each.ids)
                continue
            for message_id, code in zip(each.ids, each.codes, strict=False):
                if code != "delivered" or plan.may_repeat(message_id):
                    continue
                before = delivered_by[message_id]
                if remembers and each.process in before:
                    repeats.problems.append(f"{message_id} was delivered twice by process {each.process}")
                elif remembers and before:
                    repeats.elsewhere[message_id] += 1
                before.add(each.process)
        return repeats

    def of_incident(self, life: Sequence[str], invocations: Sequence[Invocation]) -> int:
        """Count what can open an incident again: a retry elsewhere, a process that died with several of its events.

        A lost answer cannot: the sender and the queue keep later events back until the one is through, and a second
        trigger is merged while the incident is open.
        """
        died = sum(each.codes is None and len(set(life) & set(each.ids)) > 1 for each in invocations)
        return died + sum(self.elsewhere[each] for each in life)


def _reckon(
    result: Reckoning, plan: Plan, records: Sequence[Record], stack: LocalStack, invocations: Sequence[Invocation]
) -> None:
    """Fill in the result; the invocations are those of the function that calls PagerDuty."""
    sandbox = stack.sandbox
    if sandbox is None:
        raise RuntimeError("The stack has no sandbox")
    letters = _dead_letters(stack)
    queued = result.mode.delivery == "queued"
    requests = {request for record in records for request in record.requests}
    arrivals = Arrivals.of(plan, sandbox.received)
    repeats = Repeats.of(plan, invocations, remembers=result.mode.batched and not queued)

    result.requests = len(requests)
    result.attempts = sum(record.attempts for record in records)
    result.statuses = Counter(request.status for request in requests if request.answered)
    result.unanswered = sum(not request.answered for request in requests)
    result.slowest = max(request.seconds for request in requests)
    result.calls = len(sandbox.received)
    result.delivered = sum(arrivals.times[each] > 0 for each in plan.ids("delivered"))
    result.dead_lettered = len(letters)
    result.retried = sum(len(record.requests) > 1 for record in records)
    if not queued:
        result.held_back = sum(each.codes.count("held_back") for each in invocations if each.codes)

    late = [request for request in requests if request.seconds > REQUEST_SECONDS]
    result.problems += [f"answered after {request.seconds:.1f} s: {request.jobs}" for request in late]
    result.problems += wrong_ends(result, plan, records, letters, arrivals)
    result.problems += repeats.problems
    result.problems += wrong_incidents(result, plan, sandbox, repeats, invocations)
    result.problems += wrong_order(plan, arrivals)
    result.problems += wrong_repeats(result, plan, records, arrivals, repeats)


def wrong_ends(
    result: Reckoning, plan: Plan, records: Sequence[Record], letters: Mapping[str, str], arrivals: Arrivals
) -> Iterator[str]:
    """Each event is delivered, refused with a reason that tells why, or dead-lettered with one; else it is lost."""
    for number, record in enumerate(records):
        message_id = record.job.event["messageId"]
        fate = plan.fates[message_id]
        if record.outcome == "unfinished":
            yield f"{message_id} is unfinished after {len(record.requests)} requests: {record.message}"
            continue
        if fate == "delivered":
            if not arrivals.times[message_id] or record.outcome != "delivered":
                yield f"{message_id} is lost: {record.outcome}, {record.message}"
            continue
        if arrivals.times[message_id]:
            yield f"{message_id} was to be refused, and was delivered"
        if fate == "poison" and result.mode.delivery == "queued":
            if POISON not in letters.get(message_id, ""):
                yield f"{message_id} is not in the dead-letter queue with its reason: {letters.get(message_id)}"
            continue
        result.refused += 1
        request = record.requests[-1]
        answer = json.loads(request.body)
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


def wrong_incidents(
    result: Reckoning, plan: Plan, sandbox: Sandbox, repeats: Repeats, invocations: Sequence[Invocation]
) -> Iterator[str]:
    """Each incident is opened once, and resolved in the end; opened again only as `Repeats.of_incident` allows.

    Left open only where a retry of its batch reached another process: that one opened it again and could not resolve
    it, and the next retry reached the process that had done both before.
    """
    opened = Counter(incident.dedup_key for incident in sandbox.incidents)
    for key, life in plan.lives.items():
        again = opened[key] - 1
        # With a queue nothing may: the worker deletes a message before a later one of its incident goes out.
        allowed = 0 if result.mode.delivery == "queued" else repeats.of_incident(life, invocations)
        result.reopened_elsewhere += max(0, again)
        if again < 0 or again > allowed:
            yield f"{key} was opened {opened[key]} times"
        incident = sandbox.incident(key)
        if incident and incident.status != "resolved":
            # Opened again by a process that did not know of the resolve, and could not bring it to PagerDuty; the next
            # retry then reached the process that knew, and had both behind it.
            if any(repeats.elsewhere[each] for each in life):
                result.left_elsewhere += 1
            else:
                yield f"{key} is left {incident.status}"


def wrong_order(plan: Plan, arrivals: Arrivals) -> Iterator[str]:
    """Find incidents whose events did not take effect in the order in which they were sent.

    It is the first time that counts; what takes effect again is judged by how often it does.
    """
    for key, life in plan.lives.items():
        first = [arrivals.first[each] for each in life if each in arrivals.first]
        if first != sorted(first):
            yield f"{key}: the order is broken: {dict(zip(life, first, strict=False))}"


def wrong_repeats(
    result: Reckoning, plan: Plan, records: Sequence[Record], arrivals: Arrivals, repeats: Repeats
) -> Iterator[str]:
    """Find triggers and change events that took effect more often than answers, or processes, were lost.

    Lost are PagerDuty's answers on their way to the function, and in direct delivery the function's on their way to the
    sender; with a queue, SQS recognises what the sender repeats.
    """
    for record in records:
        message_id = record.job.event["messageId"]
        again = arrivals.times[message_id] - 1
        if again <= 0 or plan.may_repeat(message_id):
            continue
        losses = arrivals.lost[message_id] + repeats.alone[message_id]
        if result.mode.delivery == "direct":
            losses += sum(not request.answered for request in record.requests)
        apart = repeats.in_batch[message_id] + repeats.elsewhere[message_id]
        if again > losses + apart:
            yield f"{message_id} took effect {again + 1} times, for {losses} lost answers and {apart} lost processes"
        elif "integrations" in record.job.event:
            result.twice_after_loss += again <= losses
            result.twice_elsewhere += again > losses


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
        result = run(MODES[name], events=chosen.events // parts, incidents=incidents // parts, seed=chosen.seed)
        print("\n".join(result.lines()), flush=True)  # noqa: T201 -- a program prints
        problems += len(result.problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
