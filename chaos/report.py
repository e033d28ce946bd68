"""The report of a run: what became of each event, and whether it is what was promised."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from chaos.plan import POISON, Plan
from chaos.router import REQUEST_SECONDS, Record, Request
from local.pagerduty_rules import SEVERITIES, Incident
from local.sandbox import Received

# Seconds: the function's deadline is eight. Of a process that was killed or frozen Lambda says so, after up to nine.
ANSWER_SECONDS: Final = 8.5
# The log's name for the status of an event.
STATUS: Final = "status"
# A run shows little in which a smaller part of the events went one of the two ways, or of the incidents was not exempt.
LEAST_PART: Final = 0.05
SHOWN_PROBLEMS: Final = 50

Problems = Iterator[tuple[str, str]]  # the kind of the broken promise, and what happened


@dataclass
class Report:
    """What was sent and what became of it."""

    plan: Plan
    records: Sequence[Record] = ()
    received: Sequence[Received] = ()
    incidents: Sequence[Incident] = ()
    letters: Mapping[str, str] = field(default_factory=dict)  # the reasons of dead letters, by messageId
    died: Counter[str] = field(default_factory=Counter)  # how often a process ended that held the event, by messageId
    log: Sequence[Mapping[str, Any]] = ()  # the lines of events
    faults: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0  # messages still in the queue
    delayed: int = 0  # how often a message stayed in the queue
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Sort what is known by event."""
        self._events = {job.event["messageId"]: job.event for job in self.plan.jobs}
        self._poisoned = {self._events[each]["properties"]["dedupKey"] for each in self.plan.ids("poison")}
        self._requests = {request for record in self.records for request in record.requests}
        calls = [(self.plan.identify(call.event), call) for call in self.received]
        # How often each took effect, in the order in which each did first.
        self._arrived = Counter(each for each, call in calls if call.accepted)
        self._positions = {each: position for position, each in enumerate(self._arrived)}
        # PagerDuty drops the end of an incident that is not open; the worker merges what it would not show.
        reached = {each for each, call in calls if call.accepted or call.status in range(200, 300)}
        self._merged = {line["message_id"] for line in self.log if line[STATUS] == "merged"}
        self._done = reached | self._merged
        self._dropped = reached - self._arrived.keys()
        # Why the order of an incident is not promised: an event waited while no lease could be written, or a page was
        # posted that the queue did not accept.
        lines = [line for line in self.log if line.get("without_lease")]
        pages = [line for line in self.log if line[STATUS] == "delivered" and line.get("reason") == "queue_unavailable"]
        self._without_lease, self._pages = (
            {str(line.get("dedup_key")) for line in each} & self.plan.lives.keys() for each in (lines, pages)
        )
        self._exempt = self._without_lease | self._pages
        self._rows = [row_of(each.requests[-1], each.number) if each.requests else {} for each in self.records]
        self._ways = Counter(row.get("status") for row in self._rows)
        # Why an event may take effect again: an answer to it was lost, its process died, or it had no lease.
        self._losses = self.died + Counter(each for each, call in calls if call.accepted and not call.status)
        self._losses.update({line["message_id"] for line in lines})
        # SQS recognises what is enqueued again, but not what was posted before.
        self._losses.update(
            record.job.event["messageId"]
            for record in self.records
            for request in record.requests
            if not request.answered and row_of(request, record.number).get("status") == "delivered"
        )

    @cached_property
    def problems(self) -> list[tuple[str, str]]:
        """Every broken promise: its kind, and what happened."""
        problems = [*self._wrong_answers(), *self._wrong_ends(), *self._wrong_repeats(), *self._too_little_shown()]
        for key in self.plan.lives.keys() - self._exempt:
            problems += self._wrong_incident(key)
        return problems

    def lines(self) -> Iterator[str]:
        """Yield the lines for the terminal."""
        plan, attempts = self.plan, sum(record.attempts for record in self.records)
        statuses = Counter(f"{request.status}" if request.answered else "lost" for request in self._requests)
        own, lambdas = (
            [each.seconds for each in self._requests if ("status" in said(each)) is is_own] for is_own in (True, False)
        )
        # By messageId, since a repeated request repeats the line.
        queued = {line["message_id"]: line.get("reason", line["code"]) for line in self.log if line[STATUS] == "queued"}
        apart = Counter(kind for key in self._exempt for kind, _ in self._wrong_incident(key))
        changes = {each.job.event["messageId"] for each in self.records if "integrations" in each.job.event}
        twice = sum(1 < self._arrived[each] <= 1 + self._losses[each] for each in changes)
        yield f"sent            {len(self.records)} events, {len(self._requests)} requests, {attempts} attempts"
        yield f"answered        {_counts(statuses)}; the slowest after {max(own, default=0):.2f} s"
        yield f"                {len(lambdas)} by Lambda alone, the slowest after {max(lambdas, default=0):.2f} s"
        yield f"directly        {self._ways['delivered']} events"
        yield f"queued          {self._ways['queued']} events, by reason (repeated ones counted once):"
        yield from (f"{count:20} {reason}" for reason, count in Counter(queued.values()).most_common())
        yield f"delivered       {len(self._done)} events in {len(self.received)} calls; {len(self._merged)} merged"
        yield f"delayed         {self.delayed} times a message stayed in the queue"
        yield f"refused         {self._ways['rejected']} events, {len(self.letters)} dead letters"
        yield f"counted apart   {twice} changes twice, each after a lost answer or a killed process"
        yield f"                {len(self._without_lease)} of {len(plan.lives)} incidents without a lease"
        yield f"                {len(self._pages)} incidents of which the queue did not accept a page"
        yield f"                their problems: {_counts(apart)}"
        yield f"faults          {_counts(self.faults)}"
        yield f"took            {self.seconds:.1f} s"
        yield f"problems        {_counts(Counter(kind for kind, _ in self.problems))}"
        yield from (f"PROBLEM         {kind}: {text}" for kind, text in self.problems[:SHOWN_PROBLEMS])

    def _wrong_answers(self) -> Problems:
        """Yield requests that were answered late, or whose answer was lost though it was not to be."""
        for each in self._requests:
            answer = said(each)
            if each.seconds > (ANSWER_SECONDS if "status" in answer else REQUEST_SECONDS) or not answer:
                yield "late answer", f"{each.jobs} was answered after {each.seconds:.1f} s: {each.body[:200]}"

    def _wrong_ends(self) -> Problems:  # noqa: C901 -- the ends that an event can have
        """Yield events that were neither delivered nor merged, or not refused or dead-lettered with the reason."""
        for record, row in zip(self.records, self._rows, strict=True):
            message_id = record.job.event["messageId"]
            fate = self.plan.fates[message_id]
            reason = POISON if fate == "poison" else "properties."
            # In a batch that had something to deliver as well, the 400 is a row of its 200.
            is_told = record.outcome == "aborted" or record.job.is_batched
            text = f"{message_id} was to be {fate}: {record.outcome} after {len(record.requests)} requests, {row}"
            if record.outcome == "unfinished":
                yield "lost", text
            elif fate == "delivered":
                if message_id not in self._done or record.outcome == "aborted":
                    yield "lost", text
            elif message_id in self._done:
                yield "not refused", text
            elif row.get("status") == "queued" and fate == "poison":
                if POISON not in self.letters.get(message_id, ""):
                    yield "not refused", f"{message_id} is no dead letter: {self.letters.get(message_id)}"
            elif not is_told or row.get("status") != "rejected" or reason not in row["message"]:
                yield "not refused", text
        for message_id in self.letters.keys() - self.plan.ids("poison"):
            yield "lost", f"{message_id} is a dead letter: {self.letters[message_id]}"
        if self.waiting:
            yield "lost", f"{self.waiting} messages are still in the queue"

    def _wrong_repeats(self) -> Problems:
        """Yield events that took effect more often than is on record why: each time, something must have been lost.

        PagerDuty merges a trigger that is repeated, and drops a resolve; a change event it has to show twice.
        """
        for each, times in self._arrived.items():
            if times > 1 + self._losses[each]:
                yield "repeated", f"{each} took effect {times} times, for {self._losses[each]} losses"

    def _wrong_incident(self, key: str) -> Problems:
        """Yield what is wrong with an incident: it is opened once, or twice if it has triggers after its resolve."""
        life, incidents = self.plan.lives[key], [each for each in self.incidents if each.dedup_key == key]
        place = life.index(self.plan.ends[key, "resolve"])
        is_reopened = place < len(life) - 1
        # It is the first time that counts; what takes effect again is judged by how often it does.
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
        events = [self._events[each] for each in life[place if is_reopened else 0 :]]
        triggers = [each for each in events if each["properties"]["action"] == "trigger"]
        severities = [each["properties"]["severity"] for each in triggers]
        expected = triggers[-1]["messageId"], min(severities, key=SEVERITIES.index)
        shown = incidents[-1].payload["custom_details"]["id"], incidents[-1].severity
        # Triggers that waited together with one that PagerDuty refused were merged with it.
        if shown != expected and key not in self._poisoned:
            yield "stale", f"{key} shows {shown} instead of {expected}"

    def _too_little_shown(self) -> Problems:
        """Yield what the run itself failed to show: events that go either way, and incidents that are not exempt."""
        for way in ("delivered", "queued"):
            if self._ways[way] < LEAST_PART * len(self.records):
                yield "chaos", f"only {self._ways[way]} events were {way} when they were answered"
        if len(self.plan.lives) - len(self._exempt) < LEAST_PART * len(self.plan.lives):
            yield "chaos", f"{len(self._exempt)} incidents are exempt from what is promised"


def said(request: Request) -> dict[str, Any]:
    """Return an answer, also one that was lost on the way to the sender; {} when there was none."""
    try:
        return dict(json.loads(request.body))
    except ValueError:
        return {}


def row_of(request: Request, number: int) -> dict[str, Any]:
    """Return what a request's answer says of one job: a row of a batch's results, or all of it."""
    answer = said(request)
    return dict(answer["results"][request.jobs.index(number)]) if "results" in answer else answer


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counter.items())) or "none"
