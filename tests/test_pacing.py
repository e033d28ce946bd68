"""How long an event that was put off waits, who goes first, and which triggers need not be posted."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pacing
from event import SEVERITIES, Action, Event, Severity
from local.sandbox import Incident, Sandbox
from pacing import Pace

CLOSED = Pace(gap=10, next_at=1000)


def trigger(severity: Severity = "warning", key: str = "disk", summary: str = "Disk full") -> Event:
    payload = {"summary": summary, "source": "db-1", "severity": severity, "custom_details": {"of": summary}}
    content = {"event_action": "trigger", "dedup_key": key, "payload": payload}
    return Event("payments", "alert", content, "trigger", key)


def other(action: Action, key: str = "disk") -> Event:
    return Event("payments", "alert", {"event_action": action, "dedup_key": key}, action, key)


def change() -> Event:
    return Event("payments", "change", {"payload": {"summary": "Deployed", "severity": "critical"}})


# -- who goes first --------------------------------------------------------------------------------------------------


def test_in_calm_weather_everything_goes() -> None:
    calm = pacing.learn(Pace(), "delivered", 1000)

    assert (Pace(), calm) == (Pace(gap=0, next_at=0), Pace(gap=0, next_at=1000))
    assert all(pacing.may_go(event, 0, calm, 1000) for event in (trigger(), other("resolve"), change()))


def test_a_critical_trigger_goes_in_its_first_minute_whatever_was_learned() -> None:
    assert pacing.may_go(trigger("critical"), 61.9, CLOSED, 999)


def test_a_critical_trigger_waits_like_the_others_after_that() -> None:
    assert not pacing.may_go(trigger("critical"), 62, CLOSED, 999)


@pytest.mark.parametrize(
    "event",
    [trigger("error"), trigger("info"), other("resolve"), other("acknowledge"), change()],
    ids=lambda e: e.label,
)
def test_everything_else_goes_when_the_gap_is_over(event: Event) -> None:
    assert [pacing.may_go(event, 0, CLOSED, now) for now in (999.9, 1000)] == [False, True]


# -- what a process learns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gap", "after"), [(0, 1), (0.4, 1), (1, 2), (3, 6), (40, 60), (60, 60)])
def test_a_429_doubles_the_gap_from_a_second_to_a_minute(gap: float, after: float) -> None:
    assert pacing.learn(Pace(gap, 1000), "pagerduty_rate_limited", 1000) == Pace(after, 1000 + after)


@pytest.mark.parametrize(("gap", "after"), [(10, 7.48), (1, 0.73), (0.025, 0), (0, 0)])
def test_a_success_shortens_the_gap(gap: float, after: float) -> None:
    learned = pacing.learn(Pace(gap, 1000), "delivered", 1000)

    assert [learned.gap, learned.next_at] == pytest.approx([after, 1000 + after])


@pytest.mark.parametrize(("code", "gap"), [("delivered", 0), ("pagerduty_rate_limited", 1)])
def test_what_was_learned_is_forgotten_five_minutes_after_the_gap(code: str, gap: float) -> None:
    assert pacing.learn(CLOSED, code, 1300) == Pace(gap, 1300 + gap)


@pytest.mark.parametrize("code", ["pagerduty_unavailable", "pagerduty_timeout", "pagerduty_rejected", "not_its_turn"])
def test_what_says_nothing_of_the_rate_teaches_nothing(code: str) -> None:
    assert pacing.learn(CLOSED, code, 5000) == CLOSED


# -- how long what was put off waits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_flight", "keys", "seconds"),
    [(0, 1, 20), (40, 1, 20), (120, 1, 60), (20_000, 1, 10_000), (20_000, 4, 2500), (120_000, 1, 39_600)],
)
def test_each_message_in_flight_has_its_turn_at_120_a_minute_and_key(in_flight: int, keys: int, seconds: float) -> None:
    assert pacing.share(in_flight, keys) == seconds


def pause(  # noqa: PLR0913 -- all that a pause depends on
    code: str, *, receives: int = 1, waited: float = 0, share: float = 1200, urgent: bool = False, jitter: float = 1
) -> int:
    return pacing.pause(code, receives=receives, waited=waited, share=share, urgent=urgent, jitter=jitter)


@pytest.mark.parametrize(("waited", "seconds"), [(0, 4), (10, 5), (40, 20), (45, 16), (57, 4), (58, 29)])
def test_what_is_urgent_is_tried_once_more_before_it_waits_like_the_others(waited: float, seconds: int) -> None:
    assert pause("pagerduty_rate_limited", waited=waited, urgent=True) == seconds


@pytest.mark.parametrize("code", ["pagerduty_rate_limited", "not_its_turn"])
@pytest.mark.parametrize(("waited", "seconds"), [(0, 4), (8, 4), (50, 25), (60, 30), (600, 300), (86_400, 1200)])
def test_what_is_rate_limited_waits_half_as_long_again_up_to_its_share(code: str, waited: float, seconds: int) -> None:
    assert pause(code, waited=waited) == seconds


@pytest.mark.parametrize(
    "code", ["pagerduty_unavailable", "pagerduty_timeout", "secrets_unavailable", "internal_error"]
)
def test_after_a_failure_the_pause_doubles_up_to_two_minutes(code: str) -> None:
    assert [pause(code, receives=n) for n in (1, 2, 3, 4, 5, 6, 7, 1000)] == [4, 8, 16, 32, 64, 120, 120, 120]


@pytest.mark.parametrize("code", ["routing_key_missing", "routing_key_refused"])
def test_settings_take_two_minutes(code: str) -> None:
    assert [pause(code, receives=receives, waited=9999) for receives in (1, 7)] == [120, 120]


def test_what_there_was_no_time_for_comes_back_at_once() -> None:
    assert pause("out_of_time", receives=7, waited=9999) == 0


@pytest.mark.parametrize("code", ["pagerduty_timeout", "routing_key_missing", "not_its_turn"])
def test_every_pause_is_shortened_or_stretched_by_up_to_a_quarter(code: str) -> None:
    pauses = [pause(code, receives=9, waited=240, jitter=jitter) for jitter in pacing.JITTER]

    assert pauses == [90, 150]


def test_no_pause_is_longer_than_sqs_takes() -> None:
    assert pause("pagerduty_rate_limited", waited=10**6, share=11 * 3600, jitter=1.25) == 12 * 3600 - 120


# -- merging ---------------------------------------------------------------------------------------------------------


def waited(*events: Event, seconds: float = 61) -> list[tuple[Event, float]]:
    return [(event, seconds) for event in events]


def test_of_triggers_that_waited_together_the_first_each_more_severe_one_and_the_last_are_posted() -> None:
    severities: list[Severity] = ["info", "info", "warning", "critical", "error", "critical", "info", "info"]

    assert pacing.merged(waited(*[trigger(severity) for severity in severities])) == {1, 4, 5, 6}


def test_nothing_is_merged_that_waited_for_a_minute_or_less() -> None:
    assert pacing.merged(waited(*[trigger()] * 5, seconds=60)) == set()


def test_a_trigger_that_is_still_news_is_posted_and_ends_the_run() -> None:
    batch = [*waited(*[trigger()] * 3), (trigger(), 5.0), *waited(*[trigger()] * 3)]

    assert pacing.merged(batch) == {1, 5}


@pytest.mark.parametrize("action", ["resolve", "acknowledge"])
def test_a_resolve_or_acknowledge_is_posted_and_ends_the_run(action: Action) -> None:
    batch = waited(*[trigger()] * 3, other(action), other(action), *[trigger()] * 3)

    assert pacing.merged(batch) == {1, 6}


def test_incidents_are_merged_apart() -> None:
    batch = waited(*[trigger(key="disk"), trigger(key="cpu")] * 3)

    assert pacing.merged(batch) == {2, 3}


def test_services_are_merged_apart() -> None:
    elsewhere = Event("billing", "alert", trigger().content, "trigger", "disk")

    assert pacing.merged(waited(trigger(), elsewhere, trigger())) == set()


def test_change_events_are_never_merged() -> None:
    assert pacing.merged(waited(*[change()] * 5)) == set()


def at_pagerduty(events: list[Event]) -> list[Incident]:
    """Post the events of one dedup key; return every incident that this opened, with all but the number of triggers."""
    sandbox = Sandbox()
    for event in events:
        sandbox.apply({"routing_key": "key", **event.content}, "disk")
    return [replace(incident, triggers=0) for incident in sandbox.incidents]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["trigger", "trigger", "trigger", "acknowledge", "resolve"]),
            st.sampled_from(SEVERITIES),
            st.sampled_from([5.0, 61.0, 3600.0]),
        ),
        max_size=30,
    ),
    batches=st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=30, max_size=30),
)
def test_every_incident_ends_the_same_with_merging_as_without(
    steps: list[tuple[Action, Severity, float]], batches: list[tuple[int, int]]
) -> None:
    queue = [
        (trigger(severity, summary=f"Disk full {number}") if action == "trigger" else other(action), seconds)
        for number, (action, severity, seconds) in enumerate(steps)
    ]
    posted: list[Event] = []

    waiting = queue
    for received, handled in batches:  # The others of the batch were put off, and come again with what came later.
        batch = waiting[:received]
        superfluous = pacing.merged(batch)
        posted += [event for number, (event, _) in enumerate(batch[:handled]) if number not in superfluous]
        waiting = waiting[min(received, handled) :]

    assert waiting == []
    assert at_pagerduty(posted) == at_pagerduty([event for event, _ in queue])


@pytest.mark.parametrize("content", [{}, {"payload": None}, {"payload": {}}, {"payload": {"severity": ["critical"]}}])
def test_a_message_of_somebody_else_is_not_critical(content: dict[str, Any]) -> None:
    foreign = Event("payments", "alert", content, "trigger", "disk")

    assert not pacing.may_go(foreign, 0, CLOSED, 999)
    assert pacing.merged(waited(*[foreign] * 3)) == {1}
