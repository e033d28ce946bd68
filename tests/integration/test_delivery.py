"""One event on its way to PagerDuty: its routing key, and what an answer means for the next event."""

from collections import Counter
from collections.abc import Callable

import pytest

from chaos.faults import NetworkFault
from delivery import choose_routing_key, deliver
from event import Action, Event
from local.sandbox import Fault
from tests.support import Endpoint, soon

KEYS = ["a" * 32, "b" * 32, "c" * 32]
PAGE = Event("default", "alert", {"payload": {"severity": "critical"}}, "trigger", "disk-full", "m")


def alert(n: int, action: Action = "resolve") -> Event:
    content = {"event_action": action, "dedup_key": f"incident-{n}"}
    return Event("default", "alert", content, action, f"incident-{n}", f"m-{n}-{action}")


def change(n: int) -> Event:
    return Event("default", "change", {"payload": {"summary": "Deployed"}}, message_id=f"m-{n}")


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (Fault.answer(429), ["pagerduty_rate_limited", "rate_limit_delay"]),
        (NetworkFault.hang(), ["pagerduty_timeout", "rate_limit_delay"]),
        (NetworkFault.reset_before(), ["pagerduty_unreachable", "rate_limit_delay"]),
        (Fault.answer(503), ["pagerduty_unavailable", "pagerduty_unavailable"]),
    ],
    ids=["429", "no answer", "no connection", "503"],
)
def test_after_a_429_or_no_answer_the_next_event_has_to_wait(
    endpoint: Endpoint, fault: Fault, codes: list[str]
) -> None:
    endpoint.sandbox.on_call = lambda _: fault
    events = [alert(n, "trigger") for n in (1, 2)]

    assert [deliver(event, endpoint.deps, soon(30), limit=1, waited=0).code for event in events] == codes


@pytest.mark.parametrize(
    ("fault", "urgent"),
    [(Fault.answer(202), [True, False]), (Fault.answer(503), [True, True])],
    ids=["accepted", "not accepted"],
)
def test_only_after_a_page_that_pagerduty_accepted_the_next_one_is_a_repeat(
    endpoint: Endpoint, fault: Fault, urgent: list[bool]
) -> None:
    endpoint.sandbox.on_call = lambda _: fault

    assert [deliver(PAGE, endpoint.deps, soon(30), limit=3).is_urgent for _ in urgent] == urgent


@pytest.mark.parametrize("make", [alert, change])
def test_events_are_spread_evenly_and_one_more_key_takes_over_its_share_only(make: Callable[[int], Event]) -> None:
    before = [choose_routing_key(KEYS, make(n)) for n in range(3000)]
    after = [choose_routing_key([*KEYS, "d" * 32], make(n)) for n in range(3000)]

    assert all(900 < Counter(before)[key] < 1100 for key in KEYS)
    moved = [new for old, new in zip(before, after, strict=True) if new != old]
    assert set(moved) == {"d" * 32}
    assert 650 < len(moved) < 850


def test_the_events_of_an_incident_have_one_routing_key_whatever_the_order_of_the_keys() -> None:
    triggers = [choose_routing_key(KEYS, alert(n, "trigger")) for n in range(100)]

    assert [choose_routing_key(KEYS[::-1], alert(n, "resolve")) for n in range(100)] == triggers
