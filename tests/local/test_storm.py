"""The simulation of storms: the functions' rules keep what they promise, and the models keep their own."""

import re
from collections import defaultdict

import pytest

import app
import worker
from benchmarks import storm
from benchmarks.storm import Arrivals, Outage, Simulation, Storm, event


class Mixed(Storm):
    """Repeated triggers of 40 incidents, each of which is resolved and opened again."""

    def arrivals(self) -> Arrivals:
        repeated = [
            (number / 20, event(number, str(number % 40), ("warning", "error", "info")[number % 3]))
            for number in range(1200)
        ]
        resolved = [(600.0 + number, event(number, str(number), "info", action="resolve")) for number in range(40)]
        return [*repeated, *resolved, *((700.0 + n, event(-n, str(n), "critical")) for n in range(40))]


@pytest.mark.parametrize(
    ("outage", "granted"),
    [(None, 120), (Outage(20, 100, "pagerduty_timeout"), 120), (Outage(20, 100), 120), (None, 40)],
    ids=["calm", "hangs", "fails", "limits"],
)
def test_every_event_is_posted_in_order_or_superseded_and_within_the_limit(outage: Outage | None, granted: int) -> None:
    simulation = Simulation(Mixed("mixed", {}, outage=outage, granted=granted), seed=1)
    simulation.run()
    posted = defaultdict(list)
    for _, message in simulation.posted:
        posted[message.event.dedup_key].append(message.number)
    times = [at for at, _ in simulation.posted]

    assert len(simulation.posted) + simulation.counts["merged"] == 1280 + 50
    assert simulation.counts["merged"] > 100
    assert all(numbers == sorted(set(numbers)) for numbers in posted.values())
    assert min(later - earlier for earlier, later in zip(times, times[120:], strict=False)) >= 59.99
    assert simulation.queue.counts() == (0, 0)


def test_the_simulation_has_the_limits_of_the_functions() -> None:
    assert (storm.DIRECT_LIMIT, storm.WORKER_LIMIT) == (app.DIRECT_LIMIT, worker.CALL_LIMIT)


@pytest.mark.parametrize(
    ("target", "code", "last_line"),
    [(1200, 0, "All targets are met."), (60, 1, "2,000 incidents at once: drained is .* min, allowed is 60.0 s")],
    ids=["met", "missed"],
)
def test_the_command_prints_each_figure_and_fails_if_a_target_is_missed(
    target: float, code: int, last_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Storm(storm.STORMS[0].name, {"drained": target}, 200, 200)

    assert storm.main([], [small]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line[44:55].strip() for line in lines[1:5]] == ["now", "target", "1.0 direct", "1.0 queued"]
    assert re.fullmatch(last_line, lines[-1])
