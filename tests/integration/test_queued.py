"""The queue through the whole stack: what becomes of an event when SQS or PagerDuty does not accept it."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3

from chaos.faults import Failure, Fault, fail
from local.options import LOCAL_TOKEN, Options
from local.sandbox import Received, Sandbox
from local.stack import LocalStack
from tests.support import track, wait_until

SEND = "AmazonSQS.SendMessageBatch"


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack(Options(speed=30, rate_limit=None)) as running:
        yield running


@pytest.fixture
def pagerduty(stack: LocalStack) -> Sandbox:
    assert stack.sandbox is not None
    fail(stack.aws, None)
    stack.sandbox.on_call = None
    stack.sandbox.clear()
    return stack.sandbox


def post(stack: LocalStack, events: object) -> tuple[int, Any]:
    response = urllib3.request(
        "POST", f"{stack.url}/events", json=events, headers={"X-Api-Key": LOCAL_TOKEN}, retries=False, timeout=20
    )
    return response.status, response.json()


def numbered(n: int, action: str = "trigger") -> dict[str, Any]:
    # Of its own time, so that no test's events are another's duplicates.
    message_id = f"{time.monotonic_ns()}-{n}-{action}"
    return track(messageId=message_id, properties={"dedupKey": f"incident-{n}", "action": action})


def is_drained(stack: LocalStack) -> bool:
    return stack.count_messages(stack.queue_url) == 0


def test_a_life_of_an_incident_arrives_in_its_order(stack: LocalStack, pagerduty: Sandbox) -> None:
    status, answer = post(stack, [numbered(1), numbered(1, "acknowledge"), numbered(1, "resolve")])
    wait_until(lambda: is_drained(stack))

    assert (status, answer["status"]) == (200, "queued")
    assert [call.event["event_action"] for call in pagerduty.received] == ["trigger", "acknowledge", "resolve"]


def test_a_poison_event_is_buried_with_its_reason_and_the_events_behind_it_go_out(
    stack: LocalStack, pagerduty: Sandbox
) -> None:
    def refuse(call: Received) -> Fault | None:
        poisonous = call.event["event_action"] == "acknowledge"
        body = {"status": "invalid event", "message": "no", "errors": ["this one is poison"]}
        return Fault.answer(400, body) if poisonous else None

    pagerduty.on_call = refuse
    post(stack, [numbered(2), numbered(2, "acknowledge"), numbered(2, "resolve")])
    wait_until(lambda: is_drained(stack))
    (letter,) = stack.aws.client("sqs").receive_message(
        QueueUrl=stack.dead_letter_queue_url, MessageAttributeNames=["All"]
    )["Messages"]

    assert [incident.status for incident in pagerduty.incidents] == ["resolved"]
    assert json.loads(letter["Body"])["action"] == "acknowledge"
    assert {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()} == {
        "code": "pagerduty_rejected",
        "reason": "PagerDuty refused the event for good with 400: this one is poison",
    }


def test_while_pagerduty_is_down_every_request_is_answered_and_nothing_is_lost(
    stack: LocalStack, pagerduty: Sandbox
) -> None:
    pagerduty.on_call = lambda _: Fault.answer(503)
    answers = [post(stack, numbered(n))[0] for n in range(10, 15)]
    wait_until(lambda: len(pagerduty.received) >= 15)
    pagerduty.on_call = None
    wait_until(lambda: is_drained(stack))

    assert answers == [200] * 5
    assert sorted(incident.dedup_key for incident in pagerduty.incidents) == [f"incident-{n}" for n in range(10, 15)]


def test_a_misspelt_service_is_told_to_rudderstack_instead_of_waiting_unseen(
    stack: LocalStack, pagerduty: Sandbox
) -> None:
    calls: list[str] = []
    fail(stack.aws, lambda target, _: calls.append(target))
    response = urllib3.request(
        "POST", f"{stack.url}/events/checkuot", json=numbered(9), headers={"X-Api-Key": LOCAL_TOKEN}, timeout=20
    )

    assert (response.status, response.json()["code"]) == (503, "routing_key_missing")
    assert SEND not in calls


def test_a_retry_is_sent_once(stack: LocalStack, pagerduty: Sandbox) -> None:
    change = numbered(20) | {"integrations": {"pagerduty": {"type": "changeEvent"}}}
    post(stack, [change])
    wait_until(lambda: len(pagerduty.changes) == 1)
    post(stack, [change])
    wait_until(lambda: is_drained(stack))

    assert len(pagerduty.changes) == 1


def test_an_event_that_sqs_does_not_take_is_deferred_and_sent_again(stack: LocalStack, pagerduty: Sandbox) -> None:
    events = [numbered(n) for n in range(30, 33)]
    failures = dict(
        zip(
            [event["messageId"] for event in events],
            [Failure.answer(503, "ServiceUnavailable"), Failure.entries("0"), Failure.lose_answer()],
            strict=True,
        )
    )

    def choose(target: str, request: dict[str, Any]) -> Failure | None:
        return failures[json.loads(request["Entries"][0]["MessageBody"])["message_id"]] if target == SEND else None

    fail(stack.aws, choose)
    # At the same time, since botocore's attempts take seconds.
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda event: post(stack, [event]), events))
    fail(stack.aws, None)
    again = [post(stack, [event])[0] for event in events]
    wait_until(lambda: is_drained(stack))

    assert [(status, answer["code"]) for status, answer in answers] == [(503, "queue_unavailable")] * 3
    assert again == [200] * 3
    assert sorted((incident.dedup_key, incident.triggers) for incident in pagerduty.incidents) == [
        ("incident-30", 1),
        ("incident-31", 1),
        ("incident-32", 1),
    ]


def test_batches_are_taken_at_once_whatever_pagerduty_does_and_arrive_once_and_in_order(
    stack: LocalStack, pagerduty: Sandbox
) -> None:
    faults = [Fault.answer(429), Fault.answer(503), Fault.reset_before(), Fault.reset_after(), Fault.answer(500)]
    pagerduty.on_call = lambda _: faults.pop() if faults else None
    actions = ("trigger", "acknowledge", "resolve")
    began = time.monotonic()
    answers = [post(stack, [numbered(n, action) for n in range(40, 46)])[0] for action in actions]
    seconds = time.monotonic() - began
    wait_until(lambda: is_drained(stack))

    assert answers == [200, 200, 200]
    assert seconds < 5
    assert sorted((incident.dedup_key, incident.status) for incident in pagerduty.incidents) == [
        (f"incident-{n}", "resolved") for n in range(40, 46)
    ]
    for n in range(40, 46):
        calls = [call for call in pagerduty.received if call.accepted and call.event["dedup_key"] == f"incident-{n}"]
        assert tuple(dict.fromkeys(call.event["event_action"] for call in calls)) == actions
