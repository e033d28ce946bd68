"""The faults of a run: a seed decides which calls of which events meet them."""

import itertools
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from chaos.faults import Failure, NetworkFault, fail
from chaos.plan import Plan
from local.sandbox import Fault, Received, Sandbox
from local.stack import LocalStack

# PagerDuty's limit of 120 calls a minute and routing key, the minute compressed to six seconds. The functions know it.
RATE_LIMIT: Final = 120
RATE_WINDOW: Final = 6.0
CALLS_PER_MINUTE: Final = round(RATE_LIMIT * 60 / RATE_WINDOW)
# Seconds that a call is held while its process is killed.
HELD_SECONDS: Final = 1.5

RESET_BEFORE: Final = NetworkFault.reset_before()
RESET_AFTER: Final = NetworkFault.reset_after()

EVENT_ID: Final = re.compile(r"event-\d{6}")

# For each kind: the share of events that meet it in a call to PagerDuty (at least one event), and the fault.
AT_PAGERDUTY: Final = {
    **{str(status): (0.01, Fault.answer(status)) for status in (429, 500, 501, 502, 503, 504)},
    "reset before": (0.015, RESET_BEFORE),
    "reset after": (0.015, RESET_AFTER),
    "no answer, without effect": (0.001, NetworkFault.hang(takes_effect=False)),
    "no answer, with effect": (0.001, NetworkFault.hang(takes_effect=True)),
    # The status line, which decides, arrives before the function's time limit for PagerDuty, or does not.
    "byte by byte, body late": (0.001, NetworkFault(pause=0.08)),
    "byte by byte, too late": (0.001, NetworkFault(pause=0.5)),
    "killed before": (0.002, NetworkFault.hang(HELD_SECONDS)),
    "killed after": (0.002, NetworkFault(hold=HELD_SECONDS)),
}
# The same for the calls that put events into the queue. A failed entry's id is known only once the call is made.
FAILED_ENTRY: Final = "SQS fails an entry"
AT_QUEUE: Final = {
    "SQS 503": (0.01, Failure.answer(503, "ServiceUnavailable")),
    FAILED_ENTRY: (0.01, Failure.answer(503, "ServiceUnavailable")),
    "SQS hangs": (0.001, Failure.hang(HELD_SECONDS * 2)),
    "SQS answer lost": (0.01, Failure(lost=True)),
    "killed before": (0.002, Failure.hang(HELD_SECONDS)),
    "killed after": (0.002, Failure(hold=HELD_SECONDS)),
}
KILLED: Final = {"killed before", "killed after"}
# These close a service's budget for five seconds of real time. Service `default` has too many events for that, and
# meets them in phases only.
CLOSES_BUDGET: Final = {"429", "no answer, without effect", "no answer, with effect", "byte by byte, too late"}
# Retries would hide fewer failures: the function posts three times, and botocore tries a call four times.
CALLS: Final = {"503": 3, "SQS 503": 4, "SQS hangs": 4, "SQS answer lost": 4}

FAILS: Final = Failure.answer(500, "InternalServerError")
HANGS: Final = Failure.hang(10.0)
# How SSM fails after a process was killed, in rotation, and for how many calls: the next process reads the parameters.
SSM_FAILURES: Final = (Failure.answer(400, "ThrottlingException"), FAILS, HANGS)
SSM_CALLS: Final = 4

# Phases in which all calls fail: the start (in calls to PagerDuty, as a part of the number of events), the seconds, and
# how calls to PagerDuty, in rotation, and to DynamoDB fail.
QUARTER: Final = "PagerDuty grants a quarter"
PHASES: Final[Mapping[str, tuple[float, float, Sequence[Fault], Failure | None]]] = {
    "PagerDuty down": (0.1, 3.0, (*map(Fault.answer, (503, 500)), RESET_BEFORE, RESET_AFTER), None),
    "all DynamoDB calls fail": (0.25, 1.0, (), FAILS),
    "PagerDuty hangs": (0.4, 3.0, (NetworkFault.hang(takes_effect=True), NetworkFault.hang(takes_effect=False)), None),
    "all DynamoDB calls hang": (0.55, 1.0, (), HANGS),
    "all DynamoDB answers lost": (0.65, 1.0, (), Failure(lost=True)),
    QUARTER: (0.7, 5.0, (), None),
}


class FaultPlan:
    """Assigns faults to the calls of events, by the seed, and injects them."""

    def __init__(self, stack: LocalStack, sandbox: Sandbox, plan: Plan, seed: str) -> None:
        self.faults: Counter[str] = Counter()  # those that happened
        self._stack = stack
        self._sandbox = sandbox
        self._plan = plan
        self._chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        self._at_pagerduty: defaultdict[str, list[str]] = defaultdict(list)
        self._at_queue: defaultdict[str, list[str]] = defaultdict(list)
        # Half of the services meet no faults of their own, so that their events are posted directly for longer.
        faulty = [job for job in plan.jobs if job.service[-1] not in "13579"]
        for kind, (share, _) in AT_PAGERDUTY.items():
            jobs = [job for job in faulty if job.service != "default"] if kind in CLOSES_BUDGET else faulty
            self._assign(self._at_pagerduty, kind, share, [job.message_id for job in jobs])
        for kind, (share, _) in AT_QUEUE.items():
            self._assign(self._at_queue, kind, share, [job.message_id for job in plan.jobs])
        self._phase_starts: dict[str, float] = {}
        self._calls = 0  # to PagerDuty
        self._ssm_failures = itertools.cycle(SSM_FAILURES)
        self._at_ssm: list[Failure] = []
        # The callbacks for calls must not block.
        self._killer = ThreadPoolExecutor(1, thread_name_prefix="killer")

    def begin(self) -> None:
        """Make calls fail from now on."""
        self._sandbox.window = RATE_WINDOW
        self._sandbox.on_call = self._at_call
        fail(self._stack.aws, self._at_aws_call)

    def end(self) -> None:
        """Wait for the last kill, and stop PagerDuty: an answer that still trickles is then recorded as lost."""
        self._killer.shutdown()
        self._sandbox.stop()
        self.faults["rate limit"] = sum(call.status == 429 and bool(call.errors) for call in self._sandbox.received)

    def _assign(self, faults: Mapping[str, list[str]], kind: str, share: float, ids: Sequence[str]) -> None:
        """Assign a kind of fault to a share of the events, one for each call."""
        for message_id in self._chance.sample(ids, min(len(ids), max(1, round(len(ids) * share)))):
            faults[message_id] += [kind] * CALLS.get(kind, 1)

    def _phase(self) -> tuple[str, Sequence[Fault], Failure | None]:
        """Return the current phase, and how calls fail in it."""
        now = time.monotonic()
        for name, (start, seconds, faults, failure) in PHASES.items():
            has_begun = self._calls >= start * len(self._plan.jobs)
            if has_begun and now < self._phase_starts.setdefault(name, now) + seconds:
                return name, faults, failure
        return "", (), None

    def _at_call(self, call: Received) -> Fault | None:
        message_id = self._plan.identify(call.event)
        self._calls = call.number
        phase, faults, _ = self._phase()
        if faults:
            self.faults[phase] += 1
            return faults[call.number % len(faults)]
        self._sandbox.rate_limit = RATE_LIMIT // 4 if phase == QUARTER else RATE_LIMIT
        if kinds := self._at_pagerduty[message_id]:
            return AT_PAGERDUTY[self._next_kind(kinds, message_id)][1]
        return None

    def _at_aws_call(self, target: str, request: Mapping[str, Any]) -> Failure | None:
        service, _, action = target.partition(".")
        if service == "AmazonSSM" and self._at_ssm:
            self.faults["SSM fails"] += 1
            return self._at_ssm.pop()
        if action == "UpdateItem":
            phase, _, failure = self._phase()
            self.faults.update([phase] if failure else [])
            return failure
        if action in ("SendMessage", "SendMessageBatch"):
            for entry in request.get("Entries", [request]):
                found = EVENT_ID.search(entry["MessageBody"])
                if found and (kinds := self._at_queue[found[0]]):
                    kind = self._next_kind(kinds, found[0])
                    fails_entry = kind == FAILED_ENTRY and "Id" in entry
                    return Failure.entries(entry["Id"]) if fails_entry else AT_QUEUE[kind][1]
        return None

    def _next_kind(self, kinds: list[str], message_id: str) -> str:
        """Take the next kind from an event's list and count it, or kill the process that makes the call."""
        kind = kinds.pop(0)
        if kind in KILLED:
            self._killer.submit(self._kill, kind, message_id)
        else:
            self.faults[kind] += 1
        return kind

    def _kill(self, kind: str, message_id: str) -> None:
        """Kill the instance that holds this event, and make SSM fail for its successor."""
        for instance in self._stack.runtime.busy_instances() + self._stack.worker.busy_instances():
            if message_id in instance.event:
                self._at_ssm = [next(self._ssm_failures)] * SSM_CALLS
                instance.kill()
                self.faults[kind] += 1
                return
