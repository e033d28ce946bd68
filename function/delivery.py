"""Posts one event to PagerDuty if flow control admits it, for the API function and the worker alike."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dependencies import Dependencies
from event import Event
from flow import Admission
from outcome import Outcome, ProcessingError

# After these the next call would fail too: the routing key has another client or a lower limit, or PagerDuty is down.
CLOSING: Final = frozenset({"pagerduty_rate_limited", "pagerduty_timeout", "pagerduty_unreachable"})

_NOT_ADMITTED: Final[dict[Admission, Outcome]] = {
    "wait": Outcome("rate_limit_delay", "PagerDuty limits the rate of this routing key"),
    "queue": Outcome("earlier_events_queued", "Earlier events of this PagerDuty service may still be in the queue"),
    "unknown": Outcome("flow_control_unavailable", "DynamoDB did not say whether earlier events are in the queue"),
}


def deliver(event: Event, deps: Dependencies, deadline: float, *, limit: float, waited: float | None = None) -> Outcome:
    """Post the event if flow control admits it, and return the outcome by `deadline` (seconds of the monotonic clock).

    The call to PagerDuty takes at most `limit` seconds. `waited` is the event's time in the queue, None if it comes
    directly from RudderStack. If DynamoDB does not answer, only events from the queue are posted.
    """
    try:
        routing_key = choose_routing_key(deps.credentials.routing_keys(event.service, deadline), event)
    except ProcessingError as error:
        return error.outcome
    is_direct = waited is None
    priority = deps.flow.priority(event, waited or 0.0)
    admission = deps.flow.admit(event, routing_key, deadline, priority=priority, is_direct=is_direct)
    if admission == "post" or (admission == "unknown" and not is_direct):
        outcome = post(event, routing_key, deps, deadline, limit=limit)
    else:
        outcome = _NOT_ADMITTED[admission]
    return replace(outcome, is_urgent=priority == "urgent")


def post(event: Event, routing_key: str, deps: Dependencies, deadline: float, *, limit: float) -> Outcome:
    """Post the event, and act on what PagerDuty's answer means for the routing key and its budget."""
    outcome = deps.pagerduty.post(event, routing_key, min(deadline, time.monotonic() + limit))
    if outcome.code == "delivered":
        deps.flow.note_posted(event)
    elif outcome.code == "routing_key_refused":
        deps.credentials.invalidate_routing_keys(event.service)
    elif outcome.code in CLOSING:
        deps.flow.close(event.service, routing_key, deadline)
    return outcome


def choose_routing_key(routing_keys: Sequence[str], event: Event) -> str:
    """Return one of a service's routing keys, always the same one for an incident.

    PagerDuty knows a dedup key per integration only (https://support.pagerduty.com/main/docs/event-management). The
    rendezvous hash (https://en.wikipedia.org/wiki/Rendezvous_hashing) spreads incidents evenly, and one more key takes
    over only its share of them. The order of the keys does not matter.
    """
    identity = event.dedup_key or event.message_id or ""
    return max(routing_keys, key=lambda key: hashlib.sha256(f"{key}\n{identity}".encode("utf-8", "replace")).digest())
