"""Flow control: leases and budgets in DynamoDB, which is moto's server, so that each condition is evaluated as sent."""

import io
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.config import Config

from aws import DYNAMODB_CONFIG
from chaos.faults import Failure, fail
from event import Event, Severity
from flow import Flow, Table
from local.aws_server import Aws
from local.resources import create_flow_table
from tests.support import Clock, soon

KEY = "k" * 32
RESOLVE = Event("default", "alert", {}, "resolve", "disk")
ACKNOWLEDGE = Event("default", "alert", {}, "acknowledge", "disk")
CHANGE = Event("default", "change", {"payload": {"severity": "critical"}})

MakeFlow = Callable[[], Flow]


def trigger(severity: Severity = "warning", service: str = "default") -> Event:
    return Event(service, "alert", {"payload": {"severity": severity}}, "trigger", "disk")


def page(message_id: str = "m", key: str = "disk", service: str = "default") -> Event:
    return Event(service, "alert", {"payload": {"severity": "critical"}}, "trigger", key, message_id)


@pytest.fixture
def make_flow(aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> MakeFlow:
    """Make instances that share a table of their own, a clock, and PagerDuty's 120 calls a minute."""
    # A busy machine may need more than a second for a call.
    monkeypatch.setattr("flow.CALL_LIMIT", 30)
    dynamodb = aws.client("dynamodb", DYNAMODB_CONFIG.merge(Config(read_timeout=30)))
    name = create_flow_table(dynamodb, str(uuid.uuid4()))
    return lambda: Flow(Table(dynamodb, name), 120, clock)


@pytest.fixture
def flow(make_flow: MakeFlow) -> Flow:
    return make_flow()


@pytest.fixture
def requests(aws: Aws) -> list[Any]:
    """Record the requests to AWS."""
    recorded: list[Any] = []
    fail(aws, lambda _, request: recorded.append(request))
    return recorded


def admit(flow: Flow, event: Event, *, waited: float = 0.0, direct: bool = False, key: str = KEY) -> str:
    return flow.admit(event, key, soon(30), priority=flow.priority(event, waited), is_direct=direct)


def spend(flow: Flow, event: Event, *, waited: float = 0.0) -> int:
    """Post until the budget has no call for such an event, and return how many it had, up to 20."""
    return next((count for count in range(20) if admit(flow, event, waited=waited) != "post"), 20)


def test_a_budget_saves_up_a_twelfth_of_a_minute_and_refills_at_three_quarters(flow: Flow, clock: Clock) -> None:
    counts = []
    for seconds in (0, 0.67, 2, 3600):
        clock.now += seconds
        counts.append(spend(flow, trigger()))

    assert counts == [10, 1, 3, 10]


@pytest.mark.parametrize(
    ("event", "waited", "more"),
    [(RESOLVE, 0, 7), (ACKNOWLEDGE, 0, 7), (page(), 62, 15), (trigger("error"), 0, 0), (CHANGE, 0, 0)],
    ids=["resolve", "acknowledge", "a page after its first minute", "another trigger", "change"],
)
def test_an_answer_may_spend_five_seconds_ahead_and_an_older_page_ten(
    flow: Flow, event: Event, waited: float, more: int
) -> None:
    spend(flow, trigger())

    assert spend(flow, event, waited=waited) == more


def test_without_a_lease_a_page_is_always_posted_and_charged_ten_seconds_ahead(
    make_flow: MakeFlow, clock: Clock
) -> None:
    flow = make_flow()
    assert [admit(flow, page(key=f"incident-{number}")) for number in range(30)] == ["post"] * 30
    make_flow().extend_leases({"default": clock.now}, soon())
    assert admit(flow, page(), direct=True) == "queue"
    clock.now += 9
    assert admit(flow, trigger()) == "wait"
    clock.now += 1
    assert admit(flow, trigger()) == "post"


def test_instances_that_ask_at_the_same_moment_share_one_budget(make_flow: MakeFlow) -> None:
    with ThreadPoolExecutor(30) as threads:
        admissions = list(threads.map(lambda _: admit(make_flow(), trigger()), range(30)))

    assert sorted(admissions) == ["post"] * 10 + ["wait"] * 20


@pytest.mark.parametrize(
    ("event", "direct", "admission"),
    [(page(), False, "post"), (page(), True, "wait"), (trigger(), False, "wait")],
    ids=["a page from the queue", "a page posted directly", "a warning"],
)
def test_an_item_that_changes_before_each_of_five_updates_delays_all_but_a_page_from_the_queue(
    flow: Flow, aws: Aws, event: Event, admission: str, *, direct: bool
) -> None:
    calls: list[str] = []

    def change_before(target: str, _: object) -> Failure:
        calls.append(target)
        return Failure.answer(400, "ConditionalCheckFailedException")

    fail(aws, change_before)

    assert (admit(flow, event, direct=direct), len(calls)) == (admission, 5)


def test_services_and_routing_keys_have_budgets_of_their_own(flow: Flow) -> None:
    spend(flow, trigger())

    assert admit(flow, trigger(service="checkout")) == "post"
    assert admit(flow, trigger(), key="l" * 32) == "post"


def test_a_closed_budget_admits_only_events_with_priority_for_five_seconds(make_flow: MakeFlow, clock: Clock) -> None:
    make_flow().close("default", KEY, soon())
    assert [admit(make_flow(), event) for event in (trigger(), RESOLVE, page())] == ["wait", "post", "post"]
    make_flow().close("checkout", KEY, soon())
    clock.now += 5
    assert admit(make_flow(), trigger(service="checkout")) == "post"


def test_during_the_longest_lease_and_its_hour_only_the_worker_posts(make_flow: MakeFlow, clock: Clock) -> None:
    for delay in (0, 7200, 0):
        assert make_flow().extend_leases({"default": clock.now + delay}, soon()) == set()
    clock.now += 7200 + 3599

    assert [admit(make_flow(), event, direct=True) for event in (trigger(), page())] == ["queue", "queue"]
    assert admit(make_flow(), trigger(service="checkout"), direct=True) == "post"
    assert admit(make_flow(), trigger()) == "post"
    clock.now += 1
    assert admit(make_flow(), trigger(), direct=True) == "post"


def test_a_lease_is_written_at_most_every_five_minutes(flow: Flow, requests: list[Any], clock: Clock) -> None:
    for _ in range(20):
        flow.extend_leases({"default": clock.now}, soon())
        clock.now += 60

    assert len(requests) == 4


def test_an_admitted_event_takes_one_call_and_one_that_has_to_wait_none(
    flow: Flow, requests: list[Any], clock: Clock
) -> None:
    assert [admit(flow, trigger(), direct=True) for _ in range(3)] == ["post"] * 3
    assert len(requests) == 3
    assert KEY not in json.dumps(requests)
    spend(flow, trigger())
    flow.extend_leases({"default": clock.now}, soon())
    requests.clear()
    assert [admit(flow, trigger()), admit(flow, trigger(), direct=True)] == ["wait", "queue"]
    assert requests == []


def is_down(target: str, _: object) -> Failure | None:
    return Failure.answer(400, "ResourceNotFoundException") if target.startswith("DynamoDB") else None


def test_a_failure_of_dynamodb_is_logged_and_the_next_call_made_after_five_seconds(
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


def test_after_the_deadline_dynamodb_is_not_called(flow: Flow, log: io.StringIO) -> None:
    admission = flow.admit(trigger(), KEY, time.monotonic(), priority="none", is_direct=True)

    assert (admission, log.getvalue()) == ("unknown", "")


def test_a_throttled_call_is_tried_again(flow: Flow, aws: Aws) -> None:
    answers = iter([Failure.answer(400, "ThrottlingException")])
    fail(aws, lambda *_: next(answers, None))

    assert admit(flow, trigger(), direct=True) == "post"


def test_services_whose_lease_cannot_be_written_are_returned(flow: Flow, aws: Aws, clock: Clock) -> None:
    flow.extend_leases({"default": clock.now}, soon())
    fail(aws, is_down)

    assert flow.extend_leases({"default": clock.now, "checkout": clock.now}, soon()) == {"checkout"}


def test_the_leases_of_many_services_are_written_although_they_take_more_than_a_second(
    flow: Flow, aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.CALL_LIMIT", 1.0)
    fail(aws, lambda *_: Failure(hold=0.04))

    assert flow.extend_leases({f"service-{number}": clock.now for number in range(30)}, soon(60)) == set()


def test_a_repeat_of_a_page_that_this_instance_posted_is_not_urgent_for_two_minutes(flow: Flow, clock: Clock) -> None:
    flow.note_posted(page())
    clock.now += 119.9
    assert flow.priority(page(), 0) == "none"
    clock.now += 0.1
    assert flow.priority(page(), 0) == "urgent"


def test_a_page_is_no_repeat_of_a_warning_or_of_another_incident(flow: Flow) -> None:
    for event in (trigger(), page(key="cpu"), page(service="checkout")):
        flow.note_posted(event)

    assert flow.priority(page(), 0) == "urgent"


@pytest.mark.parametrize(("event", "priority"), [(RESOLVE, "urgent"), (trigger(), "none"), (page(key="cpu"), "none")])
def test_only_a_resolve_ends_the_incident_of_which_a_page_is_a_repeat(flow: Flow, event: Event, priority: str) -> None:
    flow.note_posted(page())
    flow.note_posted(event)

    assert flow.priority(page(), 0) == priority


def test_the_incidents_that_are_remembered_are_bounded(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow.MAX_INCIDENTS", 2)
    for key in ("a", "b", "a", "c"):
        flow.note_posted(page(key=key))

    assert [flow.priority(page(key=key), 0) for key in "abc"] == ["none", "urgent", "none"]


def test_beyond_the_budget_all_instances_together_post_one_page_of_an_incident_in_two_minutes(
    make_flow: MakeFlow, clock: Clock
) -> None:
    def posted(*events: Event) -> list[str]:
        return [admit(make_flow(), event) for event in events]

    assert posted(*(page(f"m-{number}") for number in range(10, 20))) == ["post"] * 10
    # The same page is admitted again, since PagerDuty may have limited its rate.
    assert posted(page("m-1"), page("m-2"), page("m-1"), page("m-3")) == ["post", "wait", "post", "wait"]
    assert posted(page("m-4", key="cpu"), page("m-5", key="cpu")) == ["post", "wait"]
    spend(make_flow(), trigger(service="checkout"))
    assert posted(page("m-6", service="checkout")) == ["post"]
    clock.now += 120
    spend(make_flow(), trigger())
    assert posted(page("m-7"), page("m-1")) == ["post", "wait"]
