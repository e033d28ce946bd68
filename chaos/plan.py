"""The events of a run: the lives of incidents, and change events."""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from chaos.router import Event, Form, Job
from local.pagerduty_rules import SEVERITIES

# Concurrent requests. rudder-server sends up to 64, but here all of Lambda shares one machine, and the answer times
# should be those of the functions, not of waiting for a processor.
SENDERS: Final = 10
# The part of the events that go to service `default`, and how many each of the other services gets.
DEFAULT_SERVICE: Final = 0.25
EVENTS_PER_SERVICE: Final = 50
# The part of the run in which a service other than `default` gets its events. Since all events of a service follow its
# first queued one through the queue, only services that start late show direct delivery.
SERVICE_SPAN: Final = 0.2
SEVERITY_WEIGHTS: Final = (10, 35, 45, 10)
CHANGE_EVENT: Final = {"pagerduty": {"type": "changeEvent"}}


@dataclass(frozen=True)
class Plan:
    """The jobs in their order, and the lives of the incidents."""

    jobs: Sequence[Job]
    services: Sequence[str]  # besides `default`
    lives: Mapping[str, Sequence[str]]  # the messageIds of an incident's events, in order, by dedup key
    ends: Mapping[tuple[str, str], str]  # messageIds of acknowledge and resolve, by dedup key and action

    def identify(self, event: Mapping[str, Any]) -> str:
        """Return the messageId of an event as PagerDuty gets it; acknowledge and resolve have no details to hold it."""
        details = event.get("payload", {}).get("custom_details")
        return str(details["id"] if details else self.ends[event["dedup_key"], event["event_action"]])


def plan(events: int, seed: str) -> Plan:
    """Return the plan of a seed: one incident for ten events, and change events for the rest."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    services = [f"service-{n}" for n in range(max(4, events // EVENTS_PER_SERVICE))]
    timed: list[tuple[float, Job]] = []
    lives: dict[str, list[str]] = defaultdict(list)
    ends: dict[tuple[str, str], str] = {}

    def choose() -> tuple[str, str, float]:
        """Choose a service, one of its users, and a time."""
        if chance.random() < DEFAULT_SERVICE:
            return "default", f"user-{chance.randrange(max(1, events // 40))}", chance.random()
        n = chance.randrange(len(services))
        return services[n], f"user-{n}-{chance.randrange(4)}", n / len(services) + chance.random() * SERVICE_SPAN

    def add(service: str, user: str, at: float, properties: Event, **fields: Any) -> str:
        message_id = f"event-{len(timed):06d}"
        (severity,) = chance.choices(SEVERITIES, SEVERITY_WEIGHTS)
        properties = {"source": "chaos", "severity": severity, "customDetails": {"id": message_id}, **properties}
        event = {"type": "track", "event": "Chaos", "messageId": message_id, "properties": properties, **fields}
        timed.append((at, Job(user, event, service)))
        return message_id

    for n in range(events // 10):
        key, (service, user, at) = f"incident-{n}", choose()
        for action in _life(chance):
            message_id = add(service, user, at, {"action": action, "dedupKey": key})
            at += chance.random() * 0.03
            lives[key].append(message_id)
            if action != "trigger":
                ends[key, action] = message_id
    while len(timed) < events:
        add(*choose(), {}, integrations=CHANGE_EVENT)
    jobs = [job for _, job in sorted(timed, key=lambda each: each[0])]
    forms: defaultdict[tuple[str, str], Iterator[Form]] = defaultdict(lambda: _forms(chance))
    return Plan([_in_form(job, next(forms[job.service, job.user])) for job in jobs], services, lives, ends)


def _forms(chance: random.Random) -> Iterator[Form]:
    """Yield the forms of a user's events: a few in one form, the next few in another."""
    every: tuple[Form, ...] = ("single", "array", "track", "batch")
    while True:
        yield from itertools.repeat(chance.choice(every), chance.randint(1, 4))


def _in_form(job: Job, form: Form) -> Job:
    """Return a job in this form if its service has it: /v1/… is service `default`, and few others get arrays."""
    if job.service != "default":
        form = "array" if job.service[-1] == "0" and form in ("array", "batch") else "single"
    return replace(job, form=form)


def _life(chance: random.Random) -> Iterator[str]:
    """Yield the actions of an incident: at most one acknowledge and one resolve, which have no details.

    Some incidents are opened again after the resolve and stay open: a late resolve would close them.
    """
    yield from ["trigger"] * chance.choice((1, 1, 2, 3))
    if chance.random() < 0.7:
        yield "acknowledge"
        if chance.random() < 0.3:
            yield "trigger"
    yield "resolve"
    if chance.random() < 0.3:
        yield from ["trigger"] * chance.choice((1, 1, 2))
