"""What is sent: the lives of incidents, change events, and a few events that have to be refused."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from chaos.router import Event, Job
from local.options import Delivery

# Requests at once, at most. rudder-server sends up to 64; here all of Lambda runs on one machine, which starts no more
# than ten instances, and the limit of ten seconds is to measure the functions and not the wait for a processor.
SENDERS: Final = 10

POISON: Final = "this event is poison"

Fate = Literal["delivered", "refused", "poison"]


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
