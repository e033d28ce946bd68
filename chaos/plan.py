"""What is sent: the lives of incidents, change events, and a few events that have to be refused."""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from chaos.router import Event, Form, Job
from local.pagerduty_rules import SEVERITIES

# Requests at once, at most. rudder-server sends up to 64; here all of Lambda runs on one machine, which starts no more
# than ten instances, and the limit of ten seconds is to measure the functions and not the wait for a processor.
SENDERS: Final = 10
# The part of the events that go to service `default`, and how many each of the other services gets.
DEFAULT_SERVICE: Final = 0.25
EVENTS_PER_SERVICE: Final = 50
# The part of the run in which the events of such a service come. Once one of them was queued, the later ones are too:
# direct delivery shows in services whose first events are still to come.
SERVICE_SPAN: Final = 0.2
SEVERITY_WEIGHTS: Final = (10, 35, 45, 10)

POISON: Final = "this event is poison"

Fate = Literal["delivered", "refused", "poison"]


@dataclass(frozen=True)
class Plan:
    """What is sent: the jobs in their order, what has to become of each event, and the lives of the incidents."""

    jobs: Sequence[Job]
    services: Sequence[str]  # besides `default`
    fates: Mapping[str, Fate]  # by messageId
    lives: Mapping[str, Sequence[str]]  # the messageIds of an incident's delivered events, in order, by dedup key
    ends: Mapping[tuple[str, str], str]  # messageIds of acknowledge and resolve, by dedup key and action

    @property
    def senders(self) -> int:
        """How many requests are sent at once: for a few events, starting ten processes is not worth the seconds."""
        return min(SENDERS, 3 + len(self.jobs) // 60)

    def identify(self, event: Mapping[str, Any]) -> str:
        """Return the messageId of an event as PagerDuty gets it; acknowledge and resolve have no details to hold it."""
        details = event.get("payload", {}).get("custom_details")
        return str(details["id"] if details else self.ends[event["dedup_key"], event["event_action"]])

    def ids(self, fate: Fate) -> list[str]:
        """Return the messageIds of the events with this fate."""
        return [each for each, its in self.fates.items() if its == fate]


def plan(events: int, incidents: int, seed: str) -> Plan:
    """Make the events of a seed: the lives of the incidents, a few that must be refused, the rest change events."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    services = [f"service-{n}" for n in range(max(4, events // EVENTS_PER_SERVICE))]
    timed: list[tuple[float, Job]] = []
    fates: dict[str, Fate] = {}
    lives: dict[str, list[str]] = {}
    ends: dict[tuple[str, str], str] = {}

    def choose() -> tuple[str, str, float]:
        """Choose a service, one of its users, and a time."""
        if chance.random() < DEFAULT_SERVICE:
            return "default", f"user-{chance.randrange(max(1, events // 40))}", chance.random()
        n = chance.randrange(len(services))
        return services[n], f"user-{n}-{chance.randrange(4)}", n / len(services) + chance.random() * SERVICE_SPAN

    def add(service: str, user: str, at: float, fate: Fate, properties: Event, **more: Any) -> str:
        message_id = f"event-{len(fates):06d}"
        fates[message_id] = fate
        (severity,) = chance.choices(SEVERITIES, SEVERITY_WEIGHTS)
        properties = {"source": "chaos", "severity": severity, "customDetails": {"id": message_id}, **properties}
        name = POISON if fate == "poison" else f"Event {len(fates)}"
        event = {"type": "track", "event": name, "messageId": message_id, "properties": properties, **more}
        timed.append((at, Job(user, event, service)))
        return message_id

    for n in range(incidents):
        key, (service, user, at) = f"incident-{n}", choose()
        lives[key] = []
        for action in _life(chance):
            fate: Fate = "poison" if action == "poison" else "refused" if action == "resolv" else "delivered"
            sent = "trigger" if action == "poison" else action
            message_id = add(service, user, at, fate, {"action": sent, "dedupKey": key})
            at += chance.random() * 0.03
            if fate == "delivered":
                lives[key].append(message_id)
                if action != "trigger":
                    ends[key, action] = message_id
    while len(fates) < events:
        if len(fates) % 50:
            add(*choose(), "delivered", {}, integrations={"pagerduty": {"type": "changeEvent"}})
        else:
            add(*choose(), "refused", {"source": ""})
    jobs = [job for _, job in sorted(timed, key=lambda each: each[0])]
    forms: defaultdict[tuple[str, str], Iterator[Form]] = defaultdict(lambda: _forms(chance))
    return Plan([_in_form(job, next(forms[job.service, job.user])) for job in jobs], services, fates, lives, ends)


def _forms(chance: random.Random) -> Iterator[Form]:
    """Yield the forms in which the events of a user arrive: a few in one form, the next in another."""
    every: tuple[Form, ...] = ("single", "array", "track", "batch")
    while True:
        yield from itertools.repeat(chance.choice(every), chance.randint(1, 4))


def _in_form(job: Job, form: Form) -> Job:
    """Return a job in this form if its service has it: /v1/… is service `default`, and few others get arrays."""
    if job.service != "default":
        form = "array" if job.service[-1] == "0" and form in ("array", "batch") else "single"
    return replace(job, form=form)


def _life(chance: random.Random) -> Iterator[str]:
    """Yield the actions of an incident; there is one acknowledge and one resolve at most, which have no details.

    Some incidents are opened again after the resolve and stay open: a resolve that comes late would close them.
    """
    yield from ["trigger"] * chance.choice((1, 1, 2, 3))
    if chance.random() < 0.05:
        yield "poison"
    if chance.random() < 0.05:
        yield "resolv"
    if chance.random() < 0.7:
        yield "acknowledge"
        if chance.random() < 0.3:
            yield "trigger"
    yield "resolve"
    if chance.random() < 0.3:
        yield from ["trigger"] * chance.choice((1, 1, 2))
