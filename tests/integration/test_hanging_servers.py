"""The sender has an answer in time, even if a server hangs."""

import io
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.faults import Failure, NetworkFault, fail
from flow import CALL_LIMIT
from local.sandbox import Fault
from tests.support import Answer, Clock, Endpoint, lines, track

# Seconds. A call that is not abandoned takes at least twice as long, the others take about one.
IN_TIME = 5.0

MakeEndpoint = Callable[..., Endpoint]


def post_in_time(endpoint: Endpoint, content: object, milliseconds: int = 9000) -> Answer:
    began = time.monotonic()
    answer = endpoint.post(content, milliseconds=milliseconds)
    assert time.monotonic() - began < IN_TIME
    return answer


def hang(service: str) -> Callable[[str, object], Failure | None]:
    return lambda target, _: Failure.hang() if target.startswith(service) else None


def test_a_pagerduty_that_hangs_delays_the_first_event_by_three_seconds_and_later_ones_by_nothing(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    endpoint.sandbox.on_call = lambda _: NetworkFault.hang()
    began = time.monotonic()
    endpoint.post(track())
    seconds = time.monotonic() - began
    endpoint.post(track(messageId="m-2"))

    assert 3 <= seconds < 7
    assert len(endpoint.sandbox.received) == 1
    assert [line["reason"] for line in lines(log)] == ["pagerduty_timeout", "earlier_events_queued"]


def test_half_of_the_time_is_kept_for_the_queue(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: NetworkFault.hang()

    # Less than PagerDuty's three seconds until the deadline.
    assert endpoint.post(track(), milliseconds=3400).content["code"] == "queued"


def test_an_ssm_that_hangs_is_not_awaited(endpoint: Endpoint) -> None:
    fail(endpoint.aws, hang("AmazonSSM"))

    answer = post_in_time(endpoint, track(), milliseconds=1500)

    assert (answer.status, answer.content["code"]) == (503, "secrets_unavailable")


def test_secrets_that_were_read_before_are_used_while_ssm_hangs(
    make_endpoint: MakeEndpoint, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credentials.REFRESH_LIMIT", 0.2)
    endpoint = make_endpoint(clock=clock)
    endpoint.post(track())
    clock.now += 1000
    fail(endpoint.aws, hang("AmazonSSM"))

    assert post_in_time(endpoint, track()).status == 200


def test_an_sqs_that_hangs_is_not_awaited(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    fail(endpoint.aws, hang("AmazonSQS"))

    answer = post_in_time(endpoint, track(), milliseconds=3000)

    assert (answer.status, answer.content["code"]) == (503, "queue_unavailable")
    assert "SQS did not accept the event (TimeoutError)" in answer.content["message"]


def test_a_page_that_may_not_overtake_is_posted_in_time_while_sqs_hangs(endpoint: Endpoint) -> None:
    endpoint.post([track()])
    fail(endpoint.aws, hang("AmazonSQS"))

    answer = post_in_time(endpoint, track(messageId="m-2", properties={"dedupKey": "page"}), milliseconds=3000)

    assert (answer.status, answer.content["status"]) == (200, "delivered")


def test_a_dynamodb_that_hangs_delays_only_the_first_event(
    make_endpoint: MakeEndpoint, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = make_endpoint(clock=clock)
    monkeypatch.setattr("flow.CALL_LIMIT", CALL_LIMIT)
    calls: list[str] = []

    def note_and_hang(target: str, _: object) -> Failure | None:
        if target.startswith("DynamoDB"):
            calls.append(target)
        return hang("DynamoDB")(target, None)

    fail(endpoint.aws, note_and_hang)
    began = time.monotonic()
    first = endpoint.post(track(), milliseconds=2500).content["code"]
    seconds, count = time.monotonic() - began, len(calls)
    later = [endpoint.post(track(messageId=f"m-{n}")).content["code"] for n in (2, 3)]

    assert [first, *later] == ["queued"] * 3
    assert 1 <= seconds < IN_TIME
    assert len(calls) == count


@pytest.mark.parametrize(("milliseconds", "seconds"), [(9000, 8.0), (8000, 7.5)])
def test_the_deadline_is_after_eight_seconds_or_half_a_second_before_the_functions_time_limit(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, milliseconds: int, seconds: float
) -> None:
    def answer_with_deadline(_: object, __: object, ___: object, deadline: float) -> dict[str, Any]:
        return {"statusCode": 200, "body": json.dumps({"in": deadline - 1000})}

    monkeypatch.setattr("app.time", SimpleNamespace(monotonic=lambda: 1000.0))
    monkeypatch.setattr("app._answer", answer_with_deadline)

    assert endpoint.post(track(), milliseconds=milliseconds).content["in"] == seconds


def test_the_worker_counts_the_time_that_ssm_took(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.DEADLINE", 1.5)
    monkeypatch.setattr("worker.CALL_LIMIT", 30.0)
    endpoint.post([track()])
    endpoint.deps.credentials._parameters.clear()  # noqa: SLF001 -- as in a process of its own
    records = endpoint.received()
    fail(endpoint.aws, lambda target, _: Failure(hold=0.5) if target.startswith("AmazonSSM") else None)
    endpoint.sandbox.on_call = lambda _: NetworkFault.hang()
    began = time.monotonic()

    assert endpoint.work(records) == [0]
    assert time.monotonic() - began < IN_TIME
