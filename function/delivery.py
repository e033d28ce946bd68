"""Delivers one event to PagerDuty: chooses the routing key, posts, and acts on what PagerDuty says of the key."""

import hashlib
from collections.abc import Sequence

from credentials import Credentials
from event import Event
from outcome import NotSentError, Outcome
from pagerduty import Client


def deliver(event: Event, credentials: Credentials, pagerduty: Client, deadline: float) -> Outcome:
    """Deliver the event and return what became of it, at the latest at `deadline` (seconds of the monotonic clock)."""
    try:
        key = choose(credentials.routing_keys(event.service, deadline), event)
    except NotSentError as error:
        return error.outcome
    return post(event, key, credentials, pagerduty, deadline)


def post(event: Event, routing_key: str, credentials: Credentials, pagerduty: Client, deadline: float) -> Outcome:
    """Post the event with its routing key; when PagerDuty refuses that, have it read anew."""
    outcome = pagerduty.post(event, routing_key, deadline)
    if outcome.code == "routing_key_refused":
        credentials.distrust_routing_keys(event.service)
    return outcome


def choose(routing_keys: Sequence[str], event: Event) -> str:
    """Choose one of a service's routing keys: always the same for an incident, so that its events stay together.

    PagerDuty knows a dedup key per integration only (https://support.pagerduty.com/main/docs/event-management). A
    rendezvous hash (https://en.wikipedia.org/wiki/Rendezvous_hashing) spreads incidents evenly, and one more key takes
    over no more of them than its share. The order of the keys does not matter.
    """
    identity = event.dedup_key or event.message_id or ""
    return max(routing_keys, key=lambda key: hashlib.sha256(f"{key}\n{identity}".encode("utf-8", "replace")).digest())
