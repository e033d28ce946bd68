"""Flow control: leases and budgets in DynamoDB, which is moto's, with the condition of each update as it is sent."""

import io
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aws import DYNAMODB_CONFIG
from chaos.faults import Failure, fail
from event import Event, Severity
from flow import Flow, Table
from local.aws_server import Aws
from local.resources import create_flow_table
from tests.support import Clock, soon

KEY = "k" * 32


def trigger(severity: Severity = "warning", key: str = "disk", service: str = "default") -> Event:
    return Event(service, "alert", {"payload": {"severity": severity}}, "trigger", key)


RESOLVE = Event("default", "alert", {}, "resolve", "disk")
ACKNOWLEDGE = Event("default", "alert", {}, "acknowledge", "disk")
CHANGE = Event("default", "change", {"payload": {"severity": "critical"}})


@pytest.fixture
def make_flow(aws: Aws, clock: Clock) -> Callable[[], Flow]:
    """Make instances that share a table of their own, a clock, and PagerDuty's 120 calls a minute."""
    dynamodb = aws.client("dynamodb", DYNAMODB_CONFIG)
    name = create_flow_table(dynamodb, str(uuid.uuid4()))
    return lambda: Flow(Table(dynamodb, name), 120, clock)


@pytest.fixture(name="flow")
def _flow(make_flow: Callable[[], Flow]) -> Flow:
    return make_flow()


def admit(flow: Flow, event: Event, *, waited: float = 0.0, direct: bool = False, key: str = KEY) -> str:
    return flow.admit(event, key, soon(), priority=flow.priority(event, waited), is_direct=direct)


def admitted(flow: Flow, event: Event, *, waited: float = 0.0, direct: bool = False) -> int:
    """Count the calls that the budget has for such an event now, up to 50."""
    return next((count for count in range(50) if admit(flow, event, waited=waited, direct=direct) != "post"), 50)


# -- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
def test_an_idle_budget_has_a_twelfth_of_a_minutes_calls_and_refills_at_three_quarters(
    flow: Flow,
    clock: Clock,
    direct: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    counts = []
    for seconds in (0, 0.67, 2, 3600):
        clock.now += seconds
        counts.append(admitted(flow, trigger(), direct=direct))

    assert counts == [10, 1, 3, 10]


@pytest.mark.parametrize(
    ("event", "waited", "more"),
    [
        (RESOLVE, 0, 7),
        (ACKNOWLEDGE, 0, 7),
        (trigger("critical"), 62, 15),
        (trigger("error"), 0, 0),
        (CHANGE, 0, 0),
    ],
)
def test_what_people_wait_for_may_spend_five_seconds_ahead_and_an_older_page_ten(
    flow: Flow, event: Event, waited: float, more: int
) -> None:
    admitted(flow, trigger())

    assert admitted(flow, event, waited=waited) == more


def test_what_is_urgent_is_always_posted_and_charged_up_to_ten_seconds_ahead(flow: Flow, clock: Clock) -> None:
    assert [admit(flow, trigger("critical", f"incident-{number}")) for number in range(50)] == ["post"] * 50
    clock.now += 9
    assert admit(flow, trigger()) == "wait"
    clock.now += 1
    assert admit(flow, trigger()) == "post"


def test_all_instances_share_a_budget(make_flow: Callable[[], Flow]) -> None:
    instances = [make_flow() for _ in range(3)]

    assert sum(admit(instances[number % 3], trigger()) == "post" for number in range(30)) == 10


def test_instances_that_ask_at_the_same_moment_get_no_more_calls_than_there_are(make_flow: Callable[[], Flow]) -> None:
    admissions: list[str] = []
    threads = [threading.Thread(target=lambda: admissions.append(admit(make_flow(), trigger()))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(admissions) == ["post"] * 10 + ["wait"] * 20


def test_services_and_routing_keys_have_budgets_of_their_own(flow: Flow) -> None:
    admitted(flow, trigger())

    assert admit(flow, trigger(service="checkout")) == "post"
    assert admit(flow, trigger(), key="l" * 32) == "post"


def test_a_budget_that_was_closed_lets_only_what_has_priority_through_for_five_seconds(
    make_flow: Callable[[], Flow], clock: Clock
) -> None:
    make_flow().close("default", KEY, soon())
    other = make_flow()

    assert admit(other, trigger()) == "wait"
    assert admit(other, trigger(), key="l" * 32) == "post"
    clock.now += 5
    assert admit(other, trigger()) == "post"
    make_flow().close("default", KEY, soon())
    assert [admit(other, event) for event in (trigger(), RESOLVE)] == ["wait", "post"]
    assert admit(other, trigger("critical")) == "post"


# -- the lease -------------------------------------------------------------------------------------------------------


def test_while_the_lease_lasts_nothing_is_posted_directly_and_the_worker_posts(
    make_flow: Callable[[], Flow], clock: Clock
) -> None:
    assert make_flow().extend_leases({"default": clock.now}, soon()) == set()
    other = make_flow()

    assert admit(other, trigger(), direct=True) == "queue"
    assert admit(other, trigger("critical"), direct=True) == "queue"
    assert admit(other, trigger(service="checkout"), direct=True) == "post"
    assert admit(other, trigger()) == "post"
    clock.now += 3600
    assert admit(other, trigger(), direct=True) == "post"


def test_what_is_urgent_looks_at_the_lease_also_when_it_cannot_be_charged(
    make_flow: Callable[[], Flow], clock: Clock
) -> None:
    instance = make_flow()
    for number in range(50):
        admit(instance, trigger("critical", f"incident-{number}"))
    make_flow().extend_leases({"default": clock.now}, soon())

    assert admit(instance, trigger("critical"), direct=True) == "queue"


def test_the_lease_of_a_delayed_message_lasts_an_hour_longer_than_its_delay(flow: Flow, clock: Clock) -> None:
    flow.extend_leases({"default": clock.now}, soon())
    flow.extend_leases({"default": clock.now + 7200}, soon())
    flow.extend_leases({"default": clock.now}, soon())
    clock.now += 7200 + 3599

    assert admit(flow, trigger(), direct=True) == "queue"


def test_a_lease_is_written_at_most_every_five_minutes(flow: Flow, aws: Aws, clock: Clock) -> None:
    calls: list[str] = []
    fail(aws, lambda target, _: calls.append(target))
    for _ in range(20):
        flow.extend_leases({"default": clock.now}, soon())
        clock.now += 60

    assert len(calls) == 4


def test_what_an_instance_knows_to_wait_or_to_be_enqueued_costs_no_call(flow: Flow, aws: Aws, clock: Clock) -> None:
    admitted(flow, trigger())
    flow.extend_leases({"default": clock.now}, soon())
    calls: list[str] = []
    fail(aws, lambda target, _: calls.append(target))

    assert [admit(flow, trigger()), admit(flow, trigger(), direct=True)] == ["wait", "queue"]
    assert calls == []


def test_an_admitted_event_takes_one_call(flow: Flow, aws: Aws) -> None:
    calls: list[dict[str, Any]] = []
    fail(aws, lambda _, request: calls.append(request))

    assert [admit(flow, trigger(), direct=True) for _ in range(3)] == ["post"] * 3
    assert len(calls) == 3
    assert KEY not in json.dumps(calls)


# -- when DynamoDB does not answer -----------------------------------------------------------------------------------


def is_down(target: str, _: object) -> Failure | None:
    return Failure.answer(400, "ResourceNotFoundException") if target.startswith("DynamoDB") else None


def test_a_dynamodb_that_fails_is_logged_and_asked_again_after_five_seconds(
    flow: Flow, aws: Aws, clock: Clock, log: io.StringIO
) -> None:
    fail(aws, is_down)
    answers = [admit(flow, trigger(), direct=True)]
    fail(aws, None)
    for seconds in (4.9, 0.1):
        clock.now += seconds
        answers.append(admit(flow, trigger(), direct=True))

    assert answers == ["unknown", "unknown", "post"]
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["level"], line["FlowControlErrors"]) == ("WARNING", [1])
    assert line["detail"] == "DynamoDB: ResourceNotFoundException"


def test_a_dynamodb_that_throttles_for_a_moment_is_only_late(flow: Flow, aws: Aws) -> None:
    answers = iter([Failure.answer(400, "ThrottlingException")])
    fail(aws, lambda *_: next(answers, None))

    assert admit(flow, trigger(), direct=True) == "post"


def test_services_whose_lease_cannot_be_written_are_returned(flow: Flow, aws: Aws, clock: Clock) -> None:
    flow.extend_leases({"default": clock.now}, soon())
    fail(aws, is_down)

    assert flow.extend_leases({"default": clock.now, "checkout": clock.now}, soon()) == {"checkout"}


# -- repeats ---------------------------------------------------------------------------------------------------------


def page(message_id: str, key: str = "disk", service: str = "default") -> Event:
    return replace(trigger("critical", key, service), message_id=message_id)


def test_a_repeat_of_a_page_that_this_instance_posted_is_not_urgent_for_two_minutes(flow: Flow, clock: Clock) -> None:
    before = flow.priority(page("m-1"), 0)
    flow.note_posted(page("m-1"))
    repeats = []
    for seconds in (0, 119.9, 0.1):
        clock.now += seconds
        repeats.append(flow.priority(page("m-2"), 0))

    assert (before, repeats) == ("urgent", ["none", "none", "urgent"])
    assert flow.priority(page("m-3", "cpu"), 0) == "urgent"


def test_a_resolve_ends_an_incident_and_the_next_page_is_urgent(flow: Flow) -> None:
    flow.note_posted(trigger("critical"))
    flow.note_posted(RESOLVE)

    assert flow.priority(trigger("critical"), 0) == "urgent"


def test_a_warning_does_not_make_a_page_a_repeat(flow: Flow) -> None:
    flow.note_posted(trigger("warning"))

    assert flow.priority(trigger("critical"), 0) == "urgent"


def test_the_incidents_that_are_remembered_are_bounded(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow.MAX_INCIDENTS", 2)
    for key in ("a", "b", "a", "c"):
        flow.note_posted(trigger("critical", key))

    assert [flow.priority(trigger("critical", key), 0) for key in "abc"] == ["none", "urgent", "none"]


def test_when_the_budget_is_spent_all_instances_together_post_one_page_of_an_incident_in_two_minutes(
    make_flow: Callable[[], Flow], clock: Clock
) -> None:
    admitted(make_flow(), trigger())

    def posted(*events: Event) -> list[str]:
        return [admit(make_flow(), event) for event in events]

    assert posted(page("m-1"), page("m-2"), page("m-1"), page("m-3")) == ["post", "wait", "post", "wait"]
    assert posted(page("m-4", key="cpu"), page("m-5", key="cpu")) == ["post", "wait"]
    clock.now += 120
    admitted(make_flow(), trigger())
    assert posted(page("m-6"), page("m-1")) == ["post", "wait"]


def test_the_incidents_of_different_services_are_different(flow: Flow) -> None:
    for service in ("default", "checkout"):
        admitted(flow, trigger(service=service))

        assert admit(flow, page(service, service=service)) == "post"


def test_as_long_as_the_budget_lasts_repeats_are_posted(flow: Flow) -> None:
    assert [admit(flow, page(f"m-{number}")) for number in range(12)] == ["post"] * 11 + ["wait"]
