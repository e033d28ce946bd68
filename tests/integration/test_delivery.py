"""One event on its way to PagerDuty: which routing key it goes out with, and what a refused key means."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from delivery import choose_routing_key, deliver
from event import Event
from outcome import Outcome
from tests.support import ROUTING_KEY, Endpoint, soon

KEYS = ["a" * 32, "b" * 32, "c" * 32]


def event(n: int = 1, **changes: Any) -> Event:
    content = {"event_action": "resolve", "dedup_key": f"incident-{n}"}
    fields = {"service": "default", "kind": "alert", "content": content, "action": "resolve"}
    return Event(**{**fields, "dedup_key": f"incident-{n}", **changes})


def change(n: int) -> Event:
    return Event("default", "change", {"payload": {"summary": "Deployed"}}, message_id=f"m-{n}")


def sent(endpoint: Endpoint, event: Event) -> Outcome:
    return deliver(event, endpoint.deps, soon(), limit=3)


def test_an_event_goes_out_with_the_routing_key_of_its_service(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout="c" * 32)

    assert sent(endpoint, event(service="checkout")).code == "delivered"
    assert [call.event["routing_key"] for call in endpoint.sandbox.received] == ["c" * 32]


def test_without_a_routing_key_nothing_is_posted(endpoint: Endpoint) -> None:
    assert sent(endpoint, event(service="unknown")).code == "routing_key_missing"
    assert endpoint.sandbox.received == []


def test_all_events_of_an_incident_have_the_same_routing_key(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(default=" ".join(KEYS))
    for n in range(10):
        trigger = {"summary": "s", "source": "s", "severity": "error"}
        content = {"event_action": "trigger", "dedup_key": f"incident-{n}", "payload": trigger}
        sent(endpoint, event(n, content=content, action="trigger"))
        sent(endpoint, event(n))

    assert {incident.status for incident in endpoint.sandbox.incidents} == {"resolved"}
    assert {incident.routing_key for incident in endpoint.sandbox.incidents} == set(KEYS)


@pytest.mark.parametrize("make", [event, change])
def test_events_are_spread_evenly_over_several_routing_keys(make: Callable[[int], Event]) -> None:
    counts = Counter(choose_routing_key(KEYS, make(n)) for n in range(3000))

    assert set(counts) == set(KEYS)
    assert all(900 < count < 1100 for count in counts.values())


def test_one_more_routing_key_moves_its_share_of_incidents_and_no_other() -> None:
    before = [choose_routing_key(KEYS, event(n)) for n in range(3000)]
    after = [choose_routing_key([*KEYS, "d" * 32], event(n)) for n in range(3000)]

    moved = [new for old, new in zip(before, after, strict=True) if new != old]
    assert set(moved) == {"d" * 32}
    assert 650 < len(moved) < 850


def test_the_order_of_the_routing_keys_does_not_matter() -> None:
    assert [choose_routing_key(KEYS, event(n)) for n in range(100)] == [
        choose_routing_key(KEYS[::-1], event(n)) for n in range(100)
    ]
