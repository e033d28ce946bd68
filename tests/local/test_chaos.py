"""`make chaos` reports broken promises; its runs are a step of `.ci/run` of their own."""

import itertools
from typing import Any

import pytest

from chaos.__main__ import main
from chaos.plan import plan
from chaos.report import Report
from chaos.router import Record, Request
from local.pagerduty_rules import Incidents
from local.sandbox import Received
from tests.support import ROUTING_KEY

PLAN = plan(200, "1")
CHANGE = next(job.message_id for job in PLAN.jobs if "integrations" in job.event)
# An incident that ends with its resolve, and one that is opened again after it.
CLOSED = next(key for key, life in PLAN.lives.items() if life[-1] == PLAN.ends[key, "resolve"] and len(life) > 2)
REOPENED = next(key for key, life in PLAN.lives.items() if life[-1] != PLAN.ends[key, "resolve"])
TRIGGER, RESOLVE, EARLY_RESOLVE = PLAN.lives[CLOSED][0], PLAN.ends[CLOSED, "resolve"], PLAN.ends[REOPENED, "resolve"]


def report(lost: str = "", added: str = "", **changes: Any) -> Report:
    """Return the report of a run in which PagerDuty got each event once, but for a lost and an added one."""
    events = {job.message_id: job.event for job in PLAN.jobs}
    incidents, received = Incidents(), []
    arrived = [each for each in events if each != lost]
    for number, message_id in enumerate([*arrived, added] if added else arrived):
        properties = events[message_id]["properties"]
        key, action = properties.get("dedupKey"), properties.get("action")
        event = {"routing_key": ROUTING_KEY, "dedup_key": key, "event_action": action}
        if action not in ("acknowledge", "resolve"):
            severity, details = properties["severity"], properties["customDetails"]
            event["payload"] = {"severity": severity, "custom_details": details, "summary": "s"}
        accepted = key is None or incidents.apply(event, key)
        received.append(Received("alert", "/v2/enqueue", event, number, 202, (), accepted))
    found = {"records": records(), "received": received, "incidents": incidents.all}
    return Report(PLAN, **{**found, **changes})


def records(*statuses: str, seconds: float = 0.1) -> list[Record]:
    """Return the records of jobs that were answered in turn with these statuses."""
    bodies = itertools.cycle(f'{{"status": "{status}"}}' for status in statuses or ("queued", "delivered"))
    requests = [Request((number,), 0.0, seconds, 200, next(bodies)) for number in range(len(PLAN.jobs))]
    return [Record(n, job, [requests[n]], outcome="delivered") for n, job in enumerate(PLAN.jobs)]


def kinds(found: Report) -> set[str]:
    return {kind for kind, _ in found.problems}


@pytest.mark.parametrize(
    ("lost", "code", "line"),
    [("", 0, "problems        none"), (CHANGE, 1, f"PROBLEM         lost: {CHANGE}: delivered")],
    ids=["kept", "broken"],
)
def test_the_command_prints_broken_promises_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: str, code: int, line: str
) -> None:
    monkeypatch.setattr("chaos.run.run", lambda *_: report(lost))

    assert main(["--events", "200"]) == code
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lost", "added", "problems"),
    [
        pytest.param(RESOLVE, "", {"lost", "left open"}, id="resolve lost"),
        pytest.param(TRIGGER, TRIGGER, {"out of order"}, id="trigger overtaken"),
        pytest.param(EARLY_RESOLVE, EARLY_RESOLVE, {"out of order", "not opened"}, id="resolve overtaken"),
        pytest.param("", EARLY_RESOLVE, {"closed by mistake", "repeated"}, id="resolve repeated"),
        pytest.param("", TRIGGER, {"doubled", "repeated"}, id="trigger repeated"),
        pytest.param("", CHANGE, {"repeated"}, id="change repeated"),
    ],
)
def test_a_difference_from_the_plan_is_a_problem(lost: str, added: str, problems: set[str]) -> None:
    assert problems <= kinds(report(lost, added))


def test_an_answer_after_more_than_eight_and_a_half_seconds_is_late() -> None:
    assert kinds(report(records=records(seconds=8.5))) == set()
    assert kinds(report(records=records(seconds=8.6))) == {"late answer"}


@pytest.mark.parametrize(
    "line",
    [
        {"status": "queued", "code": "queued", "without_lease": True},
        {"status": "delivered", "reason": "queue_unavailable"},
    ],
    ids=["no lease", "queue unavailable"],
)
def test_an_incident_whose_order_is_not_promised_is_counted_apart(line: dict[str, object]) -> None:
    found = report(TRIGGER, TRIGGER, log=[{**line, "message_id": RESOLVE, "dedup_key": CLOSED}])
    lines = [each.strip() for each in found.lines()]

    assert kinds(found) == set()
    assert "1 of 20 incidents whose order is not promised" in lines
    assert any("problems: " in each and "1 x out of order" in each for each in lines)


def test_a_run_in_which_all_events_were_queued_is_a_problem() -> None:
    assert kinds(report(records=records("queued"))) == {"chaos"}
