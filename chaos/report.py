"""The report of a run: what happened to each event, and which promises were broken."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from chaos.plan import Plan
from chaos.router import REQUEST_SECONDS, Record, Request
from local.pagerduty_rules import Incident
from local.sandbox import Received

# Seconds: the function's deadline is eight. Lambda ends it after nine, and answers instead.
ANSWER_SECONDS: Final = 8.5
# A run proves little if fewer of the events were posted directly, or queued, or fewer of the incidents were checked.
MIN_SHARE: Final = 0.05
SHOWN_PROBLEMS: Final = 50

Problems = Iterator[tuple[str, str]]  # the kind of the broken promise, and a description


@dataclass
class Report:
    """What was sent and what happened to it."""

    plan: Plan
    records: Sequence[Record] = ()
    received: Sequence[Received] = ()
    incidents: Sequence[Incident] = ()
    died: Counter[str] = field(default_factory=Counter)  # how often a process died that held the event, by messageId
    log: Sequence[Mapping[str, Any]] = ()  # the lines of events
    faults: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0  # messages still in the queue
    delayed: int = 0  # how often a message stayed in the queue
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Group the observations by event and incident."""
        self._requests = {request for record in self.records for request in record.requests}
        calls = [(self.plan.identify(call.event), call) for call in self.received]
        # How often each event took effect, in the order of the first times.
        self._arrived = Counter(each for each, call in calls if call.accepted)
        self._positions = {each: position for position, each in enumerate(self._arrived)}
        # PagerDuty accepts an acknowledge or resolve without an open incident, and drops it.
        reached = {each for each, call in calls if call.accepted or call.status in range(200, 300)}
        self._dropped = reached - self._arrived.keys()
        self._merged = {line["message_id"] for line in self.log if line["status"] == "merged"}
        self._done = reached | self._merged
        # Order is not promised if an event waited while no lease could be written, or if a page was posted because the
        # queue was unavailable.
        lines = [line for line in self.log if line.get("without_lease")]
        pages = [line for line in self.log if line.get("reason") == "queue_unavailable"]
        self._exempt = {str(line.get("dedup_key")) for line in (*lines, *pages)} & self.plan.lives.keys()
        self._results = [result_of(each.requests[-1], each.number) if each.requests else {} for each in self.records]
        self._statuses = Counter(result.get("status") for result in self._results)
        # An event may take effect again if its answer was lost, its process died, or it had no lease.
        self._losses = self.died + Counter(each for each, call in calls if call.accepted and not call.status)
        self._losses.update({line["message_id"] for line in lines})
        # SQS deduplicates events that are enqueued again, but not those posted before.
        self._losses.update(
            record.job.message_id
            for record in self.records
            for request in record.requests
            if not request.answered and result_of(request, record.number).get("status") == "delivered"
        )

    @cached_property
    def problems(self) -> list[tuple[str, str]]:
        """Every broken promise: its kind, and a description."""
        problems = [*self._late_answers(), *self._lost_events(), *self._repeated_events(), *self._weak_run()]
        for key in self.plan.lives.keys() - self._exempt:
            problems += self._incident_problems(key)
        return problems

    def lines(self) -> Iterator[str]:
        """Yield the lines for the terminal."""
        statuses = Counter(f"{request.status}" if request.answered else "lost" for request in self._requests)
        slowest = max((request.seconds for request in self._requests), default=0)
        # By messageId, since a repeated request repeats the line.
        queued = {
            each["message_id"]: each.get("reason", each["code"]) for each in self.log if each["status"] == "queued"
        }
        apart = Counter(kind for key in self._exempt for kind, _ in self._incident_problems(key))
        changes = {each.job.message_id for each in self.records if "integrations" in each.job.event}
        twice = sum(1 < self._arrived[each] <= 1 + self._losses[each] for each in changes)
        yield f"sent            {len(self.records)} events, {len(self._requests)} requests in {self.seconds:.1f} s"
        yield f"answered        {_counts(statuses)}; the slowest after {slowest:.2f} s"
        yield f"directly        {self._statuses['delivered']} events"
        yield f"queued          {self._statuses['queued']} events, by reason (repeated ones counted once):"
        yield from (f"{count:20} {reason}" for reason, count in Counter(queued.values()).most_common())
        calls = f"{len(self.received)} calls, {self.delayed} messages delayed"
        yield f"delivered       {len(self._done)} events in {calls}; {len(self._merged)} merged"
        yield f"counted apart   {twice} change events recorded twice, each after a lost answer or a killed process"
        yield f"                {len(self._exempt)} of {len(self.plan.lives)} incidents whose order is not promised"
        yield f"                their problems: {_counts(apart)}"
        yield f"faults          {_counts(self.faults)}"
        yield f"problems        {_counts(Counter(kind for kind, _ in self.problems))}"
        yield from (f"PROBLEM         {kind}: {text}" for kind, text in self.problems[:SHOWN_PROBLEMS])

    def _late_answers(self) -> Problems:
        """Yield requests that were answered late or not at all."""
        for each in self._requests:
            answer = answer_of(each)
            if each.seconds > (ANSWER_SECONDS if "status" in answer else REQUEST_SECONDS) or not answer:
                yield "late answer", f"{each.jobs} was answered after {each.seconds:.1f} s: {each.body[:200]}"

    def _lost_events(self) -> Problems:
        """Yield events that were neither delivered nor merged, and messages that are left in the queue."""
        for record, result in zip(self.records, self._results, strict=True):
            message_id = record.job.message_id
            if record.outcome != "delivered" or message_id not in self._done:
                yield "lost", f"{message_id}: {record.outcome} after {len(record.requests)} requests, {result}"
        if self.waiting:
            yield "lost", f"{self.waiting} messages are still in the queue"

    def _repeated_events(self) -> Problems:
        """Yield events that took effect more often than their recorded losses explain.

        PagerDuty merges a repeated trigger and drops a repeated resolve, but shows a change event twice.
        """
        for each, times in self._arrived.items():
            if times > 1 + self._losses[each]:
                yield "repeated", f"{each} took effect {times} times, for {self._losses[each]} losses"

    def _incident_problems(self, key: str) -> Problems:
        """Yield the problems of an incident: it is opened once, or twice if triggers follow its resolve."""
        life, incidents = self.plan.lives[key], [each for each in self.incidents if each.dedup_key == key]
        is_reopened = life[-1] != self.plan.ends[key, "resolve"]
        # Only the first effect of an event counts here; repeated ones are checked by their number.
        order = [self._positions[each] for each in life if each in self._positions]
        dropped = self._dropped.intersection(life)
        if order != sorted(order) or dropped:
            yield "out of order", f"{key}: {life} took effect as {order}; dropped {dropped or 'none'}"
        if len(incidents) != 1 + is_reopened:
            kind = "doubled" if len(incidents) > 1 + is_reopened else "not opened"
            yield kind, f"{key} was opened {len(incidents)} times"
            return
        status = incidents[-1].status
        if is_reopened and status != "triggered":
            yield "closed by mistake", f"{key} was opened again and is {status}"
        if not is_reopened and status != "resolved":
            yield "left open", f"{key} is {status}"

    def _weak_run(self) -> Problems:
        """Yield the parts that are too small for the run to prove anything."""
        for status in ("delivered", "queued"):
            if self._statuses[status] < MIN_SHARE * len(self.records):
                yield "chaos", f"only {self._statuses[status]} events were {status} when they were answered"
        if len(self.plan.lives) - len(self._exempt) < MIN_SHARE * len(self.plan.lives):
            yield "chaos", f"{len(self._exempt)} incidents are exempt from the checks"


def answer_of(request: Request) -> dict[str, Any]:
    """Return the function's answer, even if it was lost on its way to the sender; {} if there was none."""
    try:
        return dict(json.loads(request.body))
    except ValueError:
        return {}


def result_of(request: Request, number: int) -> dict[str, Any]:
    """Return the result of one job in a request's answer: an entry of its results, or all of it."""
    answer = answer_of(request)
    return dict(answer["results"][request.jobs.index(number)]) if "results" in answer else answer


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counter.items())) or "none"
