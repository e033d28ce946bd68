"""The reckoning of `make chaos`, whose runs are a step of `.ci/run` of their own."""

from collections import Counter
from dataclasses import replace

import pytest
import urllib3

from chaos import __main__ as program
from chaos.plan import MODES, plan
from chaos.reckoning import Reckoning, wrong_answers, wrong_ends, wrong_incidents, wrong_order, wrong_repeats
from chaos.router import Record, Request
from local.sandbox import Sandbox
from support import ROUTING_KEY


def test_a_seed_decides_what_is_sent() -> None:
    assert plan(200, 20, "1") == plan(200, 20, "1")
    assert plan(200, 20, "1") != plan(200, 20, "2")


def test_a_plan_has_as_many_events_as_it_should_and_every_incident_ends() -> None:
    assert len(PLAN.jobs) == 200
    assert {PLAN.ends[key, "resolve"] for key in PLAN.lives} == {life[-1] for life in PLAN.lives.values()}
    assert {PLAN.fates[each] for each in PLAN.fates} == {"delivered", "refused", "poison"}


# -- the reckoning sees what it is there for -------------------------------------------------------------------------

PLAN = plan(200, 20, "1")
DELIVERED = PLAN.ids("delivered")
TRIGGER = PLAN.lives["incident-0"][0]
LAST_TRIGGER = [each for each in PLAN.lives["incident-0"] if each not in PLAN.ends.values()][-1]
CHANGE = next(job.event["messageId"] for job in PLAN.jobs if "integrations" in job.event)
RECORDS = [Record(job, "delivered", 1, (Request((n,), 0.0, 0.1, 200),)) for n, job in enumerate(PLAN.jobs)]


def reckoning(mode: str = "direct") -> Reckoning:
    return Reckoning(MODES[mode], len(PLAN.jobs))


def test_an_event_that_did_not_arrive_is_lost() -> None:
    records = [record for record in RECORDS if record.job.event["messageId"] in DELIVERED]
    arrived = set(DELIVERED)

    assert list(wrong_ends(reckoning(), PLAN, records, {}, arrived)) == []
    assert [each.split()[0] for each in wrong_ends(reckoning(), PLAN, records, {}, arrived - {CHANGE})] == [CHANGE]


def test_an_answer_that_came_late_or_got_lost_by_itself_is_wrong() -> None:
    in_time = Request((0,), 0.0, 9.9, 504, '{"status": "delivered"}', answered=False)
    late = replace(in_time, jobs=(1,), seconds=10.1)
    lost = replace(in_time, jobs=(2,), body="ProtocolError")

    assert [each.split()[0] for each in wrong_answers([in_time, late, lost])] == ["(1,)", "(2,)"]


def test_an_event_that_overtakes_another_of_its_incident_breaks_the_order() -> None:
    last = [each for each in DELIVERED if each != TRIGGER] + [TRIGGER]

    assert list(wrong_order(PLAN, DELIVERED)) == []
    assert [each.split(":")[0] for each in wrong_order(PLAN, last)] == ["incident-0"]


def test_an_event_may_take_effect_again_for_each_loss_and_not_more_often() -> None:
    twice = Counter([*DELIVERED, CHANGE])

    assert list(wrong_repeats(twice, Counter([CHANGE]))) == []
    assert list(wrong_repeats(twice, Counter([TRIGGER]))) == [f"{CHANGE} took effect 2 times, for 0 losses"]
    assert list(wrong_repeats(twice + Counter([CHANGE]), Counter([CHANGE]))) == [
        f"{CHANGE} took effect 3 times, for 1 losses"
    ]


@pytest.mark.parametrize(
    ("actions", "problem"),
    [
        (("trigger", "resolve"), None),
        (("trigger",), "incident-0 is left triggered"),
        (("trigger", "resolve", "trigger", "resolve"), "incident-0 was opened 2 times"),
        ((), "incident-0 was opened 0 times"),
    ],
)
def test_an_incident_is_opened_once_and_resolved(
    sandbox: Sandbox, actions: tuple[str, ...], problem: str | None
) -> None:
    alone = replace(PLAN, lives={"incident-0": PLAN.lives["incident-0"]})
    payload = {"summary": "s", "source": "s", "severity": "error", "custom_details": {"id": LAST_TRIGGER}}
    for action in actions:
        event = {"routing_key": ROUTING_KEY, "event_action": action, "dedup_key": "incident-0", "payload": payload}
        urllib3.request("POST", f"{sandbox.url}/v2/enqueue", json=event, retries=False)

    assert list(wrong_incidents(alone, sandbox)) == ([problem] if problem else [])


def test_an_incident_shows_what_its_last_trigger_said(sandbox: Sandbox) -> None:
    alone = replace(PLAN, lives={"incident-1": PLAN.lives["incident-1"]})
    payload = {"summary": "s", "source": "s", "severity": "error", "custom_details": {"id": "event-000999"}}
    for action in ("trigger", "resolve"):
        event = {"routing_key": ROUTING_KEY, "event_action": action, "dedup_key": "incident-1", "payload": payload}
        urllib3.request("POST", f"{sandbox.url}/v2/enqueue", json=event, retries=False)

    assert list(wrong_incidents(alone, sandbox)) == ["incident-1 does not show what its last trigger said"]


def test_any_problem_is_an_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results = {name: reckoning(name) for name in MODES}
    monkeypatch.setattr(program, "run", lambda mode, **_: results[mode.name])
    fine = program.main(["--events", "40"])
    results["queued"].problems.append("event-000007 is lost")

    assert (fine, program.main(["--events", "40"])) == (0, 1)
    assert "PROBLEM         event-000007 is lost" in capsys.readouterr().out
