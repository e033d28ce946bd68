"""How long a delayed event waits, which events are urgent, and which triggers need not be posted."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pacing
from event import SEVERITIES, Action, Event, Severity
from local.pagerduty_rules import Incident, Incidents
from pacing import Waiting


def trigger(severity: Severity = "warning", key: str = "disk", summary: str = "Disk full") -> Event:
    payload = {"summary": summary, "source": "db-1", "severity": severity, "custom_details": {"of": summary}}
    content = {"event_action": "trigger", "dedup_key": key, "payload": payload}
    return Event("payments", "alert", content, "trigger", key)


def other(action: Action, key: str = "disk") -> Event:
    return Event("payments", "alert", {"event_action": action, "dedup_key": key}, action, key)


def change() -> Event:
    return Event("payments", "change", {"payload": {"summary": "Deployed", "severity": "critical"}})


# -- what is urgent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "waited", "urgent"),
    [
        (trigger("critical"), 0, True),
        (trigger("critical"), 61.9, True),
        (trigger("critical"), 62, False),
        (trigger("error"), 0, False),
        (other("resolve"), 0, False),
        (change(), 0, False),
    ],
)
def test_a_critical_trigger_is_urgent_in_its_first_minute(event: Event, waited: float, urgent: bool) -> None:  # noqa: FBT001 -- a table
    assert pacing.is_urgent(event, waited) == urgent


# -- how long a delayed message waits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_flight", "calls_per_minute", "seconds"),
    [(0, 90, 20), (30, 90, 20), (90, 90, 60), (20_000, 90, 13_333), (20_000, 360, 3333), (120_000, 90, 39_600)],
)
def test_each_message_in_flight_is_posted_once_between_20_seconds_and_11_hours(
    in_flight: int, calls_per_minute: float, seconds: float
) -> None:
    assert pacing.seconds_to_drain(in_flight, calls_per_minute) == pytest.approx(seconds, abs=0.5)


def delay(  # noqa: PLR0913 -- all that a delay depends on
    code: str,
    event: Event | None = None,
    *,
    receive_count: int = 1,
    waited: float = 0,
    seconds_to_drain: float = 1200,
    jitter: float = 1,
) -> int:
    return pacing.retry_delay(
        code, event or trigger(), Waiting(receive_count, waited), seconds_to_drain=seconds_to_drain, jitter=jitter
    )


@pytest.mark.parametrize(("waited", "seconds"), [(0, 4), (10, 5), (40, 20), (45, 16), (57, 4), (58, 29)])
def test_an_urgent_event_is_tried_once_more_before_it_waits_like_the_others(waited: float, seconds: int) -> None:
    assert delay("pagerduty_rate_limited", trigger("critical"), waited=waited) == seconds


@pytest.mark.parametrize("code", ["pagerduty_rate_limited", "rate_limit_delay"])
@pytest.mark.parametrize(("waited", "seconds"), [(0, 4), (8, 4), (50, 25), (60, 30), (600, 300), (86_400, 1200)])
def test_a_rate_limited_event_waits_half_as_long_again_until_all_had_their_turn(
    code: str, waited: float, seconds: int
) -> None:
    assert delay(code, waited=waited) == seconds


@pytest.mark.parametrize("event", [trigger(), trigger("critical")], ids=["error", "critical"])
def test_after_an_hour_the_receives_of_few_messages_last_for_a_day(event: Event) -> None:
    assert delay("rate_limit_delay", event, waited=3600, seconds_to_drain=20) == 120


@pytest.mark.parametrize(
    "code", ["pagerduty_unavailable", "pagerduty_timeout", "secrets_unavailable", "internal_error"]
)
def test_after_a_failure_the_delay_doubles_up_to_two_minutes(code: str) -> None:
    assert [delay(code, receive_count=n) for n in (1, 2, 3, 4, 5, 6, 7, 1000)] == [4, 8, 16, 32, 64, 120, 120, 120]


@pytest.mark.parametrize(
    ("waited", "seconds"), [(0, 2), (32, 2), (64, 4), (240, 15), (480, 30), (3599, 30), (3600, 64)]
)
def test_after_a_failure_a_critical_trigger_is_tried_again_after_a_sixteenth_of_the_time_that_it_has_waited(
    waited: float, seconds: int
) -> None:
    assert delay("pagerduty_unavailable", trigger("critical"), receive_count=5, waited=waited) == seconds


@pytest.mark.parametrize("code", ["pagerduty_rate_limited", "rate_limit_delay"])
@pytest.mark.parametrize(
    "event", [trigger("critical"), other("acknowledge"), other("resolve")], ids=lambda e: e.type_name
)
def test_an_event_with_priority_is_tried_fifty_times_as_often_after_its_first_minute_and_within_its_first_hour(
    code: str, event: Event
) -> None:
    delays = [delay(code, event, waited=waited, seconds_to_drain=1200) for waited in (62, 600, 3599, 3600)]

    assert delays == [24, 24, 24, 1200]
    assert [delay(code, event, waited=waited, seconds_to_drain=20) for waited in (62, 80, 160, 600)] == [4, 5, 10, 10]


@pytest.mark.parametrize("code", ["routing_key_missing", "routing_key_refused"])
def test_after_an_error_in_the_configuration_the_delay_is_two_minutes(code: str) -> None:
    assert [delay(code, receive_count=count, waited=9999) for count in (1, 7)] == [120, 120]


def test_an_event_for_which_no_time_was_left_is_not_delayed() -> None:
    assert delay("deadline_exceeded", receive_count=7, waited=9999) == 0


@pytest.mark.parametrize("code", ["pagerduty_timeout", "routing_key_missing", "rate_limit_delay"])
def test_every_delay_is_shortened_or_stretched_by_up_to_a_quarter(code: str) -> None:
    delays = [delay(code, receive_count=9, waited=240, jitter=jitter) for jitter in pacing.JITTER]

    assert delays == [90, 150]


def test_no_delay_is_longer_than_sqs_accepts() -> None:
    assert delay("pagerduty_rate_limited", waited=10**6, seconds_to_drain=11 * 3600, jitter=1.25) == 12 * 3600 - 120


# -- superseded triggers -----------------------------------------------------------------------------------------------


def waited(*events: Event, seconds: float = 61) -> list[tuple[Event, float]]:
    return [(event, seconds) for event in events]


def test_of_triggers_that_waited_together_the_first_each_more_severe_one_and_the_last_are_posted() -> None:
    severities: list[Severity] = ["info", "info", "warning", "critical", "error", "critical", "info", "info"]

    assert pacing.superseded_triggers(waited(*[trigger(severity) for severity in severities])) == {1, 4, 5, 6}


@pytest.mark.parametrize("between", [(trigger(), 60.0), (other("acknowledge"), 61.0), (other("resolve"), 61.0)])
def test_a_trigger_that_waited_for_a_minute_or_less_and_any_other_action_end_the_run(
    between: tuple[Event, float],
) -> None:
    assert pacing.superseded_triggers([*waited(*[trigger()] * 3), between, *waited(*[trigger()] * 3)]) == {1, 5}


def test_incidents_and_services_are_merged_separately() -> None:
    elsewhere = Event("billing", "alert", trigger().content, "trigger", "disk")

    assert pacing.superseded_triggers(waited(*[trigger(), trigger(key="cpu"), elsewhere] * 3)) == {3, 4, 5}


def test_change_events_are_never_merged() -> None:
    assert pacing.superseded_triggers(waited(*[change()] * 5)) == set()


def at_pagerduty(events: list[Event]) -> list[Incident]:
    """Return the incidents that the events of one dedup key open at PagerDuty, without the number of triggers."""
    incidents = Incidents()
    for event in events:
        incidents.apply({"routing_key": "key", **event.content}, "disk")
    return [replace(incident, triggers=0) for incident in incidents.all]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SEVERITIES), st.sampled_from([5.0, 61.0])), max_size=10))
def test_pagerduty_shows_the_same_incident_with_merging_as_without(steps: list[tuple[Severity, float]]) -> None:
    batch = [(trigger(severity, summary=f"Disk full {n}"), seconds) for n, (severity, seconds) in enumerate(steps)]
    superseded = pacing.superseded_triggers(batch)

    posted = [event for number, (event, _) in enumerate(batch) if number not in superseded]
    assert at_pagerduty(posted) == at_pagerduty([event for event, _ in batch])


@pytest.mark.parametrize("content", [{}, {"payload": None}, {"payload": {}}, {"payload": {"severity": ["critical"]}}])
def test_an_event_without_a_severity_is_not_critical_and_is_merged(content: dict[str, Any]) -> None:
    foreign = Event("payments", "alert", content, "trigger", "disk")

    assert not pacing.is_critical(foreign)
    assert pacing.superseded_triggers(waited(*[foreign] * 3)) == {1}
