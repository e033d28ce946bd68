"""The simulation of storms: its models keep the rules of what they stand for, and ours do what they promise."""

import functools
import json
from collections import defaultdict
from pathlib import Path

import pytest

import app
import worker
from benchmarks import storm
from benchmarks.storm import Arrivals, Group, Message, Outage, PagerDuty, Queue, Simulation, Storm, arrive, event

MINUTE = 60


def mixed() -> Arrivals:
    """Return repeated triggers of 40 incidents, each of which is resolved and opened again."""
    return [
        *(
            (number / 20, event(number, str(number % 40), ("warning", "error", "info")[number % 3]))
            for number in range(1200)
        ),
        *((600.0 + number, event(number, str(number), "info", "resolve")) for number in range(40)),
        *((700.0 + number, event(-number, str(number), "critical")) for number in range(40)),
    ]


@pytest.fixture(scope="module", params=["calm", "hangs", "fails", "limits"])
def simulation(request: pytest.FixtureRequest) -> Simulation:
    outages = {"hangs": Outage(20, 100, "pagerduty_timeout"), "fails": Outage(20, 100)}
    granted = 40 if request.param == "limits" else 120
    simulation = Simulation(Storm("mixed", mixed, {}, outage=outages.get(request.param), granted=granted), seed=1)
    simulation.run()
    return simulation


def test_every_event_is_posted_or_superseded_once(simulation: Simulation) -> None:
    assert len(simulation.posted) + simulation.counts["merged"] == 1280 + 50
    assert len({message.number for _, message in simulation.posted}) == len(simulation.posted)
    assert simulation.counts["merged"] > 100
    assert simulation.queue.lost == 0


def test_the_events_of_an_incident_are_posted_in_order(simulation: Simulation) -> None:
    numbers = defaultdict(list)
    for _, message in simulation.posted:
        numbers[message.event.dedup_key].append(message.number)

    assert all(posted == sorted(posted) for posted in numbers.values())


def test_pagerduty_accepts_no_more_than_its_limit_in_any_minute(simulation: Simulation) -> None:
    times = [at for at, _ in simulation.posted]

    assert min(later - earlier for earlier, later in zip(times, times[120:], strict=False)) >= 59.99


def test_the_same_seed_gives_the_same_figures() -> None:
    def run(seed: int) -> storm.Figures:
        return storm.simulate(Storm("burst", functools.partial(arrive, 400, 400), {}), seed)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_in_calm_weather_everything_is_posted_at_once() -> None:
    figures = storm.simulate(Storm("calm", functools.partial(arrive, 900, 900, 900), {}), 1)

    assert figures["receives/post"] == 0
    assert figures["page max"] == pytest.approx(0.13)


def test_an_outage_of_a_day_loses_nothing() -> None:
    arrivals = functools.partial(arrive, 20, 20, 86_400)
    simulation = Simulation(Storm("day", arrivals, {}, outage=Outage(0, 86_400)), 1)
    figures = simulation.run()

    assert simulation.queue.lost == 0
    assert len(simulation.posted) == 70
    assert figures["drained"] == pytest.approx(86_400, abs=150)


# -- the models ------------------------------------------------------------------------------------------------------


def test_a_call_without_an_answer_is_given_up_when_the_functions_do() -> None:
    assert (storm.DIRECT_LIMIT, storm.WORKER_LIMIT) == (app.DIRECT_LIMIT, worker.CALL_LIMIT)


def filled(*groups: Group) -> Queue:
    """Return a queue with a message for each mention of a group, in that order."""
    queue = Queue(on_visible=lambda: None)
    for number, group in enumerate(groups):
        queue.send(Message(number, 0, event(number, "disk", "warning"), "key", group, is_page=False), 0)
    return queue


def received(queue: Queue, now: float = 0) -> list[int]:
    return [item.number for item in queue.receive(now)]


def test_a_batch_has_ten_messages_at_most_and_those_of_the_oldest_group_first() -> None:
    one, other = Group(), Group()

    assert received(filled(*[one, other] * 8)) == [0, 2, 4, 6, 8, 10, 12, 14, 1, 3]


def test_a_group_is_locked_until_all_that_was_received_is_deleted_or_visible() -> None:
    group = Group()
    queue = filled(*[group] * 12)

    assert received(queue) == list(range(10))
    queue.delete(group, 4)
    assert (received(queue), queue.in_flight) == ([], 6)
    queue.show(group)
    assert queue.in_flight == 0
    assert received(queue) == [4, 5, 6, 7, 8, 9, 10, 11]


def test_a_message_is_lost_after_a_thousand_receives_or_fourteen_days() -> None:
    often, late = Group(), Group()
    queue = filled(often, late, late)
    for _ in range(1000):
        assert received(queue) == [0, 1, 2]
        queue.show(often)
        queue.show(late)
        late.messages[0].receives = late.messages[1].receives = 0

    assert (received(queue, 14 * 86_400), queue.lost) == ([1, 2], 1)
    queue.show(late)
    assert (received(queue, 14 * 86_400 + 1), queue.lost) == ([], 3)


def test_sqs_sees_no_group_beyond_the_first_120_000_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "VISIBLE", 3)
    one, other = Group(), Group()
    queue = filled(one, one, one, other)

    assert received(queue) == [0, 1, 2]
    assert received(queue) == []
    queue.delete(one, 1)
    assert received(queue) == [3]


def test_pagerduty_accepts_120_calls_in_any_60_seconds_of_a_key() -> None:
    pagerduty = PagerDuty(120, None)
    assert {pagerduty.post("key", number / 10) for number in range(120)} == {"delivered"}

    assert [pagerduty.post("key", now) for now in (59.9, 60, 60.05)] == [
        "pagerduty_rate_limited",
        "delivered",
        "pagerduty_rate_limited",
    ]
    assert pagerduty.post("other", 59.9) == "delivered"


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the command simulate two small storms, and return the file that it writes."""
    drained = {"drained": 20 * MINUTE}
    small = Storm(storm.ONE_KEY, functools.partial(arrive, 600, 600), drained)
    monkeypatch.setattr(storm, "STORMS", (small, Storm(storm.FOUR_KEYS, small.arrivals, drained, keys=4)))
    monkeypatch.setattr(storm, "_RESULTS", tmp_path / "storm.json")
    return tmp_path / "storm.json"


def test_the_command_prints_each_figure_with_its_target_and_that_of_version_1_0(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert storm.main([]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line[44:55].strip() for line in lines[1:5]] == ["now", "target", "1.0 direct", "1.0 queued"]
    assert lines[-1] == "All targets are met."
    rows = json.loads(written.read_text())["figures"]
    assert [row["events"] for row in rows if row["what"] == "now"] == [650, 650]


def test_the_command_fails_when_a_target_is_missed(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storm, "FOUR_KEYS_SHARE", 0.1)

    assert storm.main([]) == 1
    assert "the same with four routing keys: drained is" in capsys.readouterr().out


def test_version_1_0_was_measured_in_each_storm() -> None:
    kept = json.loads(storm.VERSION_1_0.read_text())

    assert list(kept) == [each.name for each in storm.STORMS]
    assert all(list(figures) == ["direct", "queued"] for figures in kept.values())
