"""What goes wrong, with which call of which event: decided by a seed, and carried out."""

import itertools
import random
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from chaos.faults import Failure, Fault, fail
from chaos.plan import POISON, Plan
from local.runtime import emulator
from local.sandbox import Received, Sandbox
from local.stack import LocalStack

# PagerDuty's limit of 120 calls a minute and routing key, the minute compressed to six seconds; the functions are told.
RATE_LIMIT: Final = 120
RATE_WINDOW: Final = 6.0
CALLS_PER_MINUTE: Final = round(RATE_LIMIT * 60 / RATE_WINDOW)
# Nothing listens at PagerDuty's port for so many seconds, once in so many calls.
REFUSED_SECONDS: Final = 0.5
REFUSED_EVERY: Final = 2500
# Seconds that a call is held while its process is killed or frozen.
HELD_SECONDS: Final = 1.5

EVENT_ID: Final = re.compile(r"event-\d{6}")

# By kind: which part of the events meets it, at one of its calls to PagerDuty. Each strikes at least once.
AT_PAGERDUTY: Final = {
    **{str(status): (0.01, Fault.answer(status)) for status in (429, 500, 501, 502, 503, 504)},
    "202 not JSON": (0.02, Fault.answer(202, "<html>Accepted</html>")),
    "reset before": (0.015, Fault.reset_before()),
    "reset after": (0.015, Fault.reset_after()),
    "no answer, not taken": (0.001, Fault.hang(takes_effect=False)),
    "no answer, taken": (0.001, Fault.hang(takes_effect=True)),
    # The first is merely slow. With the second the line with the status, which is what counts, comes before the
    # function's limit and the rest does not; with the third it comes too late as well.
    "byte by byte": (0.002, Fault.trickle(0.01)),
    "byte by byte, body late": (0.001, Fault.trickle(0.08)),
    "byte by byte, too late": (0.001, Fault.trickle(0.5)),
    "killed before": (0.002, Fault.hang(HELD_SECONDS)),
    "killed after": (0.002, Fault(hold=HELD_SECONDS)),
    "frozen": (0.0005, Fault(hold=HELD_SECONDS)),
}
# The same for the calls that put events into the queue. An entry fails by its id, which only the call knows.
FAILED_ENTRY: Final = "SQS fails an entry"
AT_QUEUE: Final = {
    "SQS 503": (0.01, Failure.answer(503, "ServiceUnavailable")),
    FAILED_ENTRY: (0.01, Failure.answer(503, "ServiceUnavailable")),
    "SQS hangs": (0.001, Failure.hang(HELD_SECONDS * 2)),
    "SQS answer lost": (0.01, Failure.lose_answer()),
    "killed before": (0.002, Failure.hang(HELD_SECONDS)),
    "killed after": (0.002, Failure.delay(HELD_SECONDS)),
    "frozen": (0.0005, Failure.delay(HELD_SECONDS)),
}
# These strike the process that holds the call. The API function runs for nine seconds at most; the worker may run for
# 90, so that it is killed only.
AT_PROCESSES: Final = {"killed before", "killed after", "frozen"}
# After these, a service's budget is closed for five seconds of real time, for which service `default` has too many
# events: it meets them in stretches only.
CLOSES_BUDGET: Final = {"429", "no answer, not taken", "no answer, taken", "byte by byte, too late"}
# Fewer failures would not be noticed: the function posts three times, and botocore tries a call four times.
CALLS: Final = {"503": 3, "SQS 503": 4, "SQS hangs": 4, "SQS answer lost": 4}

THROTTLED: Final = Failure.answer(400, "ThrottlingException")
FAILED: Final = Failure.answer(500, "InternalServerError")
HANGS: Final = Failure.hang(10.0)
# Ways in which SSM fails after a process was struck, one after the other, and for how many calls.
SSM_FAILURES: Final = (THROTTLED, FAILED, THROTTLED, FAILED, HANGS)
SSM_CALLS: Final = 4
# The same for DynamoDB, each for calls about one service, since botocore tries a call four times; and how many calls
# there are to each such time.
DYNAMODB_EVERY: Final = 400
DYNAMODB_CALLS: Final = 4
DYNAMODB_FAILURES: Final = {
    "DynamoDB 500": FAILED,
    "DynamoDB throttled": THROTTLED,
    "DynamoDB over its throughput": Failure.answer(400, "ProvisionedThroughputExceededException"),
    "DynamoDB hangs": HANGS,
    "DynamoDB answer lost": Failure.lose_answer(),
}

# Stretches in which all calls fail: when each begins (how many calls PagerDuty has had, as a part of the events), how
# many seconds it lasts, and how calls to PagerDuty, by turns, and to DynamoDB fail.
QUARTER: Final = "PagerDuty grants a quarter"
STRETCHES: Final[Mapping[str, tuple[float, float, Sequence[Fault], Failure | None]]] = {
    "PagerDuty away": (0.1, 3.0, (*map(Fault.answer, (503, 500)), Fault.reset_before(), Fault.reset_after()), None),
    "all DynamoDB calls fail": (0.25, 1.0, (), FAILED),
    "PagerDuty hangs": (0.4, 3.0, (Fault.hang(takes_effect=True), Fault.hang(takes_effect=False)), None),
    "all DynamoDB calls hang": (0.55, 1.0, (), HANGS),
    QUARTER: (0.7, 5.0, (), None),
}


class FaultPlan:
    """Decides, by the seed, what goes wrong with which call of an event, and carries it out."""

    def __init__(self, stack: LocalStack, sandbox: Sandbox, plan: Plan, seed: str) -> None:
        self.faults: Counter[str] = Counter()
        self._stack = stack
        self._sandbox = sandbox
        self._plan = plan
        self._chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        self._at_pagerduty: defaultdict[str, list[str]] = defaultdict(list)
        self._at_queue: defaultdict[str, list[str]] = defaultdict(list)
        services = {job.event["messageId"]: job.service for job in plan.jobs}
        every = plan.ids("delivered")
        # The events of the other services go directly for longer.
        faulty = [each for each in every if services[each][-1] not in "13579"]
        few = [each for each in faulty if services[each] != "default"]
        for kind, (share, _) in AT_PAGERDUTY.items():
            self._deal(self._at_pagerduty, kind, share, few if kind in CLOSES_BUDGET else faulty)
        for kind, (share, _) in AT_QUEUE.items():
            self._deal(self._at_queue, kind, share, every)
        self._began: dict[str, float] = {}  # stretches
        self._calls = 0  # to PagerDuty
        self._granted: defaultdict[str, deque[float]] = defaultdict(
            deque
        )  # when a routing key's calls were let through
        self._ssm_failures = itertools.cycle(SSM_FAILURES)
        self._at_ssm: list[Failure] = []
        self._dynamodb_calls = itertools.count(1)
        self._dynamodb_kinds = itertools.cycle(DYNAMODB_FAILURES)
        self._at_dynamodb: defaultdict[str, list[str]] = defaultdict(list)
        # One thread, since what is asked how a call fails must not block.
        self._striker = ThreadPoolExecutor(1, thread_name_prefix="striker")

    def begin(self) -> None:
        """Let calls fail from now on."""
        self._sandbox.on_call = self._at_call
        fail(self._stack.aws, self._at_aws_call)

    def end(self) -> None:
        """Wait until no process is being struck, and stop PagerDuty.

        An answer that was given up may still be trickling; it is on record as lost when its connection has ended.
        """
        self._striker.shutdown()
        self._sandbox.stop()

    def _deal(self, hands: Mapping[str, list[str]], kind: str, share: float, ids: Sequence[str]) -> None:
        """Deal a kind of fault to events: the first of an event's list is for its first call, and so on."""
        if kind == "frozen" and not emulator():
            return
        for message_id in self._chance.sample(ids, min(len(ids), max(1, round(len(ids) * share)))):
            hands[message_id] += [kind] * CALLS.get(kind, 1)

    def _stretch(self) -> tuple[str, Sequence[Fault], Failure | None]:
        """Return the stretch that lasts, and how calls fail in it."""
        now = time.monotonic()
        for name, (begins, seconds, faults, failure) in STRETCHES.items():
            has_begun = self._calls >= begins * len(self._plan.jobs)
            if has_begun and now < self._began.setdefault(name, now) + seconds:
                return name, faults, failure
        return "", (), None

    def _at_call(self, call: Received) -> Fault | None:
        message_id = self._plan.identify(call.event)
        self._calls = call.number
        if self._plan.fates[message_id] == "poison":
            return Fault.answer(400, {"status": "invalid event", "message": "no", "errors": [POISON]})
        if call.number % REFUSED_EVERY == REFUSED_EVERY // 10:
            self._strike("connections refused", self._refuse_connections)
        stretch, faults, _ = self._stretch()
        if faults:
            self.faults[stretch] += 1
            return faults[call.number % len(faults)]
        if self._is_throttled(call.event["routing_key"], RATE_LIMIT // 4 if stretch == QUARTER else RATE_LIMIT):
            self.faults["rate limit"] += 1
            return Fault.answer(429)
        if not (kinds := self._at_pagerduty[message_id]):
            return None
        kind = kinds.pop(0)
        self._meet(kind, message_id)
        return AT_PAGERDUTY[kind][1]

    def _is_throttled(self, routing_key: str, limit: int) -> bool:
        """Limit the rate, so that no fault answers 202 to a call that the sandbox's own limit does not let through."""
        now, granted = time.monotonic(), self._granted[routing_key]
        while granted and granted[0] <= now - RATE_WINDOW:
            granted.popleft()
        if len(granted) < limit:
            granted.append(now)
            return False
        return True

    def _at_aws_call(self, target: str, request: Mapping[str, Any]) -> Failure | None:
        service, _, action = target.partition(".")
        if service == "AmazonSSM" and self._at_ssm:
            self.faults["SSM fails"] += 1
            return self._at_ssm.pop()
        if action == "UpdateItem":
            return self._at_dynamodb_call(request["Key"]["service"]["S"])
        if action in ("SendMessage", "SendMessageBatch"):
            for entry in request.get("Entries", [request]):
                found = EVENT_ID.search(entry["MessageBody"])
                if found and (kinds := self._at_queue[found[0]]):
                    kind = kinds.pop(0)
                    self._meet(kind, found[0])
                    fails_entry = kind == FAILED_ENTRY and "Id" in entry
                    return Failure.entries(entry["Id"]) if fails_entry else AT_QUEUE[kind][1]
        return None

    def _at_dynamodb_call(self, service: str) -> Failure | None:
        kind, _, failure = self._stretch()
        if failure is None:
            kinds = self._at_dynamodb[service]
            if next(self._dynamodb_calls) % DYNAMODB_EVERY == 0:
                kinds += [next(self._dynamodb_kinds)] * DYNAMODB_CALLS
            if not kinds:
                return None
            kind = kinds.pop(0)
            failure = DYNAMODB_FAILURES[kind]
        self.faults[kind] += 1
        return failure

    def _meet(self, kind: str, message_id: str) -> None:
        if kind in AT_PROCESSES:
            self._strike(kind, lambda: self._strike_process(kind, message_id))
        else:
            self.faults[kind] += 1

    def _strike(self, kind: str, strike: Callable[[], bool]) -> None:
        def run() -> None:
            self.faults[kind if strike() else f"{kind}, missed"] += 1

        self._striker.submit(run)

    def _refuse_connections(self) -> bool:
        self._sandbox.stop()
        time.sleep(REFUSED_SECONDS)
        self._sandbox.start()
        return True

    def _strike_process(self, kind: str, message_id: str) -> bool:
        """Strike the instance that holds this event, and let SSM fail: a new process has to ask it."""
        instances = self._stack.runtime.busy_instances()
        if kind != "frozen":
            instances += self._stack.worker.busy_instances()
        for instance in instances:
            if message_id in instance.event:
                self._at_ssm = [next(self._ssm_failures)] * SSM_CALLS
                (instance.freeze if kind == "frozen" else instance.kill)()
                return True
        return False
