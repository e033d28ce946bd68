"""`make chaos` reports what was promised and not kept; its runs are a step of `.ci/run` of their own."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.__main__ import main
from chaos.plan import Plan, plan
from chaos.report import Report
from chaos.router import Record, Request
from local.sandbox import Received, Sandbox
from tests.support import ROUTING_KEY

PLAN = plan(200, 20, "1")
CHANGE = next(job.event["messageId"] for job in PLAN.jobs if "integrations" in job.event)
# An incident that ends with its resolve, and one that is opened again after it.
CLOSED = next(key for key, life in PLAN.lives.items() if life[-1] == PLAN.ends[key, "resolve"] and len(life) > 2)
REOPENED = next(key for key, life in PLAN.lives.items() if life[-1] != PLAN.ends[key, "resolve"])
RESOLVE = PLAN.ends[CLOSED, "resolve"]


def posted(sent: Plan, order: Callable[[list[str]], list[str]] = lambda ids: ids) -> Report:
    """Return the report of a run in which PagerDuty got each event once, in this order, and half were queued."""
    events = {job.event["messageId"]: job.event for job in sent.jobs}
    sandbox = Sandbox()
    for number, message_id in enumerate(order([each for each in events if sent.fates[each] == "delivered"])):
        properties = events[message_id]["properties"]
        details = {"severity": properties["severity"], "custom_details": properties["customDetails"], "summary": "s"}
        event = {"payload": details, "dedup_key": properties.get("dedupKey"), "event_action": properties.get("action")}
        if event["event_action"] in ("acknowledge", "resolve"):
            del event["payload"]
        took_effect = event["dedup_key"] is None or sandbox.apply(
            {"routing_key": ROUTING_KEY, **event}, event["dedup_key"]
        )
        call = Received("alert", "/v2/enqueue", event, 202, (), accepted=took_effect, number=number)
        sandbox.received.append(call)
    records = []
    letters = {}
    for number, job in enumerate(sent.jobs):
        fate = sent.fates[job.event["messageId"]]
        status = "rejected" if fate == "refused" else "queued" if fate == "poison" or number % 2 else "delivered"
        row = f'{{"status": "{status}", "message": "properties.action"}}'
        request = Request((number,), 0.0, 0.1, 200, f'{{"status": "{status}", "results": [{row}]}}')
        records.append(Record(number, job, [request], 1, outcome="aborted" if fate == "refused" else "delivered"))
        if fate == "poison":
            letters[job.event["messageId"]] = "invalid event: this event is poison"
    return Report(sent, records, sandbox.received, sandbox.incidents, letters)


def kinds(report: Report) -> set[str]:
    return {kind for kind, _ in report.problems}


def test_a_run_in_which_every_promise_is_kept_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chaos.run.run", lambda **_: posted(PLAN))

    assert main(["--events", "200"]) == 0
    assert "problems        none" in capsys.readouterr().out


def test_a_broken_promise_ends_with_1_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chaos.run.run", lambda **_: posted(PLAN, without(CHANGE)))

    assert main(["--events", "200"]) == 1
    assert f"PROBLEM         lost: {CHANGE} was to be delivered" in capsys.readouterr().out


def without(message_id: str) -> Callable[[list[str]], list[str]]:
    return lambda ids: [each for each in ids if each != message_id]


def last(message_id: str) -> Callable[[list[str]], list[str]]:
    return lambda ids: [*without(message_id)(ids), message_id]


@pytest.mark.parametrize(
    ("order", "problems"),
    [
        (without(RESOLVE), {"lost", "left open"}),
        (last(PLAN.lives[CLOSED][0]), {"out of order"}),
        (last(PLAN.ends[REOPENED, "resolve"]), {"out of order", "not opened"}),
        (lambda ids: [*ids, PLAN.ends[REOPENED, "resolve"]], {"closed by mistake", "repeated"}),
        (lambda ids: [*ids, PLAN.lives[CLOSED][0]], {"doubled", "repeated"}),
        (lambda ids: [*ids, CHANGE], {"repeated"}),
    ],
)
def test_what_pagerduty_got_is_held_against_the_plan(
    order: Callable[[list[str]], list[str]], problems: set[str]
) -> None:
    assert problems <= kinds(posted(PLAN, order))


def test_an_answer_is_late_after_eight_and_a_half_seconds() -> None:
    report = posted(PLAN)
    for record, seconds in zip(report.records, (8.4, 8.6), strict=False):
        record.requests = [replace(record.requests[0], seconds=seconds)]

    assert [
        text[:23]
        for _, text in Report(PLAN, report.records, report.received, report.incidents, report.letters).problems
    ] == ["(1,) was answered after"]


def test_an_event_may_take_effect_again_for_each_loss() -> None:
    report = posted(PLAN, lambda ids: [*ids, CHANGE])
    report.died = Counter([CHANGE])

    assert kinds(replace(report)) == set()


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        ({"status": "queued", "code": "queued", "without_lease": True}, "1 of 20 incidents without a lease"),
        (
            {"status": "delivered", "reason": "queue_unavailable"},
            "1 incidents of which the queue did not accept a page",
        ),
    ],
)
def test_an_incident_whose_order_is_not_promised_is_counted_apart(line: dict[str, object], counted: str) -> None:
    report = posted(PLAN, last(PLAN.lives[CLOSED][0]))
    report = replace(report, log=[{**line, "message_id": RESOLVE, "dedup_key": CLOSED}])
    lines = [line.strip() for line in report.lines()]

    assert kinds(report) == set()
    assert counted in lines
    assert any("problems: " in each and "1 x out of order" in each for each in lines)


def test_a_run_that_shows_one_way_only_is_a_problem() -> None:
    report = posted(PLAN)
    for record in report.records:
        record.requests = [replace(each, body=each.body.replace("delivered", "queued")) for each in record.requests]

    assert kinds(replace(report)) == {"chaos"}
