"""The simulation of storms: its models keep the rules of what they stand for, and ours bring what they promise."""

import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import storm
from benchmarks.storm import Arrivals, Figures, Group, Message, PagerDuty, Queue, Simulation, Storm
from event import Event

# A storm of a few incidents, of which each is resolved at its end and opened again.
MIXED: list[tuple[float, int, Any]] = [
    *((float(number % 7), number % 40, ("warning", "error", "info")[number % 3]) for number in range(1200)),
    *((600.0 + number, number, "resolve") for number in range(40)),
    *((700.0 + number, number, "critical") for number in range(40)),
]


def simulated(rules: str) -> Simulation:
    """Simulate that storm, and return the simulation at its end."""
    simulation = Simulation(Storm("mixed", lambda: iter(MIXED)), storm.RULES[rules], seed=1)
    simulation.run()
    return simulation


# -- the simulation as a whole ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["before", "after"])
def mixed(request: pytest.FixtureRequest) -> Simulation:
    return simulated(request.param)


def test_every_event_is_posted_or_merged_once(mixed: Simulation) -> None:
    assert len(mixed.posted) + mixed.counts["merged"] == len(MIXED) + 20
    assert len({message.number for _, message in mixed.posted}) == len(mixed.posted)


def test_the_events_of_an_incident_are_posted_in_order(mixed: Simulation) -> None:
    numbers = defaultdict(list)
    for _, message in mixed.posted:
        numbers[message.event.dedup_key].append(message.number)

    assert all(posted == sorted(posted) for posted in numbers.values())


def test_every_resolve_is_posted(mixed: Simulation) -> None:
    assert sum(message.event.action == "resolve" for _, message in mixed.posted) == 40


def test_pagerduty_takes_no_more_than_its_limit_in_any_minute(mixed: Simulation) -> None:
    moments = [when for when, _ in mixed.posted]

    assert min(later - earlier for earlier, later in zip(moments, moments[120:], strict=False)) >= 60


def test_repeats_are_merged_after_and_not_before() -> None:
    merged = [simulated(rules).counts["merged"] for rules in ("before", "after")]

    assert merged[0] == 0
    assert merged[1] > 500


def test_the_same_seed_gives_the_same_figures() -> None:
    def run(seed: int) -> Figures:
        return storm.simulate(Storm("burst", lambda: storm.at_once(400, 400)), "after", seed)

    assert run(1) == run(1)
    assert run(1) != run(2)


# -- what follows from the rules -------------------------------------------------------------------------------------


def figures(arrivals: Arrivals, rules: str = "after", **more: Any) -> Figures:
    return Simulation(Storm("storm", lambda: arrivals, **more), storm.RULES[rules], seed=1).run()


def test_in_calm_weather_nothing_is_put_off() -> None:
    assert figures(storm.at_once(100, 100), pages=()).receives_per_event == 1
    assert figures(storm.within(900, 900), pages=()).receives_per_event == 1


def test_a_critical_page_does_not_wait_for_the_backlog() -> None:
    pages = [30.0 + 60 * number for number in range(5)]

    assert figures(storm.at_once(500, 500), "before", pages=pages).late_max > 100
    assert figures(storm.at_once(500, 500), pages=pages).late_max < 60


def test_a_page_that_comes_when_pagerdutys_minute_is_used_up_waits_for_the_rest_of_it() -> None:
    assert figures(storm.at_once(500, 500), pages=[30.0]).late_max < 60


def test_a_storm_is_drained_at_no_less_than_seven_tenths_of_what_pagerduty_takes() -> None:
    assert figures(storm.at_once(2000, 2000), pages=()).posts_a_minute > 84


def test_a_blip_of_ten_seconds_makes_a_page_late_by_seconds() -> None:
    more: dict[str, Any] = {"pages": [100.0 + number for number in range(10)], "outage": (100, 110)}

    assert figures(storm.within(600, 100), "before", **more).late_max > 115
    assert figures(storm.within(600, 100), **more).late_max < 25


def test_an_outage_of_a_day_loses_nothing_and_its_end_is_noticed() -> None:
    outage = figures(storm.within(86_400, 100), pages=(), outage=(0, 86_400))

    assert (outage.lost, outage.posts) == (0, 100)
    assert outage.noticed <= 150


def test_an_outage_of_two_days_is_longer_than_sqs_counts_receives() -> None:
    arrivals: Arrivals = iter([(0, 0, "warning"), (0, 1, "critical"), (172_000, 2, "warning")])

    outage = figures(arrivals, pages=(), outage=(0, 172_800))

    assert (outage.lost, outage.posts) == (2, 1)


# -- the models ------------------------------------------------------------------------------------------------------


def message(number: int, group: Group, sent_at: float = 0) -> Message:
    return Message(number, sent_at, Event("default", "alert", {}, "trigger", "key"), group, is_page=False)


def filled(*groups: Group) -> Queue:
    """Make a queue with a message for each mention of a group, in that order."""
    queue = Queue(shown=lambda: None)
    for number, group in enumerate(groups):
        queue.send(message(number, group))
    return queue


def received(queue: Queue, now: float = 0) -> list[int]:
    return [item.number for item in queue.receive(now)]


def test_a_batch_has_ten_messages_at_most_and_those_of_the_oldest_group_first() -> None:
    one, other = Group(0), Group(0)

    assert received(filled(*[one, other] * 8)) == [0, 2, 4, 6, 8, 10, 12, 14, 1, 3]


def test_a_group_is_locked_until_all_that_was_received_is_deleted_or_visible() -> None:
    group = Group(0)
    queue = filled(*[group] * 12)

    assert received(queue) == list(range(10))
    queue.delete(group, 4)
    assert received(queue) == []
    queue.show([group])
    assert received(queue) == [4, 5, 6, 7, 8, 9, 10, 11]
    queue.delete(group, 8)
    queue.send(message(12, group))
    assert received(queue) == [12]


def test_in_flight_is_what_was_received_and_is_neither_deleted_nor_visible() -> None:
    group = Group(0)
    queue = filled(*[group] * 12)
    counts = [queue.in_flight]

    queue.receive(0)
    counts.append(queue.in_flight)
    queue.delete(group, 4)
    counts.append(queue.in_flight)
    queue.show([group])
    counts.append(queue.in_flight)

    assert counts == [0, 10, 6, 0]


def test_the_thousand_and_first_receive_is_the_dead_letter_queues() -> None:
    group = Group(0)
    queue = filled(group)
    for _ in range(1000):
        assert received(queue) == [0]
        queue.show([group])

    assert (received(queue), queue.lost) == ([], 1)


def test_a_message_is_lost_after_fourteen_days() -> None:
    group = Group(0)
    queue = filled(group, group)

    assert received(queue, 14 * 86_400) == [0, 1]
    queue.show([group])
    assert (received(queue, 14 * 86_400 + 1), queue.lost) == ([], 2)


def test_sqs_sees_no_group_beyond_the_first_120_000_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "SEEN", 3)
    one, other = Group(0), Group(0)
    queue = filled(one, one, one, other)

    assert received(queue) == [0, 1, 2]
    assert received(queue) == []
    queue.delete(one, 1)
    assert received(queue) == [3]


def test_pagerduty_takes_120_calls_in_any_60_seconds_of_a_key() -> None:
    pagerduty = PagerDuty(outage=(0, 0))
    for number in range(120):
        assert pagerduty.answer(1, number / 10) == "delivered"
        pagerduty.take(1, number / 10)

    assert [pagerduty.answer(1, now) for now in (59.9, 60)] == ["pagerduty_rate_limited", "delivered"]
    assert pagerduty.answer(2, 59.9) == "delivered"


def test_pagerduty_takes_nothing_while_it_is_away() -> None:
    pagerduty = PagerDuty(outage=(100, 110))

    assert [pagerduty.answer(1, now) for now in (99.9, 100, 109.9, 110)] == [
        "delivered",
        "pagerduty_unavailable",
        "pagerduty_unavailable",
        "delivered",
    ]


# -- the command -----------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, path: Path, *storms: Storm) -> int:
    monkeypatch.setattr(storm, "STORMS", storms)
    monkeypatch.setattr(storm, "_RESULTS", path)
    return storm.main([])


def small(name: str = "small", drained: float = 600, keys: int = 1) -> Storm:
    return Storm(name, functools.partial(storm.at_once, 600, 600), drained=drained, keys=keys)


def test_the_command_writes_a_table_and_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path / "storm.json", small()) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["small", "before"], ["after", "0.1"]]
    assert lines[-1] == "All targets are met."
    written = json.loads((tmp_path / "storm.json").read_text())
    assert sorted((row["storm"], row["rules"], row["events"]) for row in written["figures"]) == [
        ("small", "after", 620),
        ("small", "before", 620),
    ]


def test_the_command_fails_when_a_target_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path / "storm.json", small(drained=60)) == 1

    assert "small: drained is" in capsys.readouterr().out


def test_four_keys_that_bring_too_little_are_a_target_missed() -> None:
    storms = [small(storm.ONE_KEY), small(storm.FOUR_KEYS)]
    results = {(item.name, "after"): storm.simulate(item, "after", 1) for item in storms}

    assert list(storm.missed(storms, results)) == [
        "the same with four routing keys: drained after 1 of the time, allowed is 0.3"
    ]


def test_each_storm_has_a_name_of_its_own() -> None:
    names = [item.name for item in (*storm.STORMS, storm.COMPARED)]

    assert len(set(names)) == len(names)
