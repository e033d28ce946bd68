"""What goes wrong, with which call of which event: decided by a seed, and made so."""

import itertools
import random
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from chaos.faults import Failure, Fault, fail
from chaos.plan import POISON, Mode, Plan
from chaos.router import worker_of
from local.runtime import Runtime, emulator
from local.sandbox import Received, Sandbox
from local.stack import LocalStack

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

EVENT_ID: Final = re.compile(r"event-\d{6}")

# By kind: which part of the events meets it, at one of its calls to PagerDuty. Each strikes at least once.
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
# Ways in which SSM fails, one after the other, and for how many calls each. The last one takes seconds.
SSM_FAILURES: Final = (
    Failure.answer(400, "ThrottlingException"),
    Failure.answer(500, "InternalServerError"),
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
    "SQS hangs",
    "frozen",
}

# Seconds from byte to byte. The first is merely slow. With the second the line with the status, which is what counts,
# comes within the function's eight seconds and the rest does not; with the third it comes too late as well.
PAUSES: Final = {"byte by byte": 0.01, "byte by byte, body late": 0.15, "byte by byte, too late": 0.5}


class Weather:
    """Decides, by the seed, what goes wrong with which call of an event, and makes it so."""

    def __init__(self, stack: LocalStack, mode: Mode, plan: Plan, seed: str) -> None:
        self.faults: Counter[str] = Counter()
        self._stack = stack
        self._sandbox = sandbox_of(stack)
        self._caller = caller_of(stack, mode)
        self._plan = plan
        self._chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        at_api = AT_API if emulator() else {}
        self._at_pagerduty = self._deal(AT_PAGERDUTY | AT_PROCESSES | ({} if mode.queued else at_api))
        self._at_queue = self._deal(AT_QUEUE | AT_PROCESSES | at_api if mode.queued else {})
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
        fail(self._stack.aws, self._at_aws_call)

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
            if kind in SLOW:
                shuffled.sort(key=lambda each: waiting[workers[each]])
            for message_id in shuffled[: max(1, round(len(ids) * share))]:
                waiting[workers[message_id]] += kind in SLOW
                hands[message_id] += [kind] * CALLS.get(kind, 1)
        return hands

    # -- PagerDuty

    def _at_call(self, call: Received) -> Fault | None:
        message_id = self._plan.identify(call.event)
        if self._plan.fates[message_id] == "poison":
            return Fault.answer(400, {"status": "invalid event", "message": "no", "errors": [POISON]})
        if call.number % REFUSED_EVERY == REFUSED_EVERY // 10:
            self._strike("connections refused", self._refuse_connections)
        if call.number in self._outage:
            self.faults["outage"] += 1
            return (Fault.answer(503), Fault.reset_before(), Fault.answer(500), Fault.reset_after())[call.number % 4]
        if self._is_throttled():
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
            found = EVENT_ID.search(entry["MessageBody"])
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


def sandbox_of(stack: LocalStack) -> Sandbox:
    """Return the PagerDuty of a stack that has the sandbox for one."""
    if stack.sandbox is None:
        raise RuntimeError("The stack has no sandbox")
    return stack.sandbox


def caller_of(stack: LocalStack, mode: Mode) -> Runtime:
    """Tell which function calls PagerDuty."""
    return stack.worker if mode.queued else stack.runtime
