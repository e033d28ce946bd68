"""The reckoning: what became of each event, and whether it is what had to become of it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from chaos.plan import POISON, Mode, Plan
from chaos.router import REQUEST_SECONDS, Record, Request
from local.sandbox import Sandbox


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


def reckon(  # noqa: PLR0913, PLR0917 -- all that is known of a run
    result: Reckoning,
    plan: Plan,
    records: Sequence[Record],
    sandbox: Sandbox,
    letters: Mapping[str, str],
    died: Counter[str],
    merged: set[str],
) -> None:
    """Fill in the result.

    `letters` are the reasons of the dead letters by messageId; `died` counts the events that died with a process of the
    function that calls PagerDuty; `merged` are those that the worker says it merged.
    """
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
    poison = set(plan.ids("poison"))
    refused = {job.event["properties"]["dedupKey"] for job in plan.jobs if job.event["messageId"] in poison}
    for key in plan.lives:
        if opened[key] != 1:
            yield f"{key} was opened {opened[key]} times"
        incident = sandbox.incident(key)
        if incident and incident.status != "resolved":
            yield f"{key} is left {incident.status}"
        last = [each for each in plan.lives[key] if each not in plan.ends.values()][-1]
        # Of triggers that waited together, those before one that PagerDuty refused for good were merged with it.
        if key not in refused and incident and incident.payload["custom_details"]["id"] != last:
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
