"""The sender has an answer in time, even if a server hangs; an abandoned call sends nothing afterwards."""

import io
import json
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3.connection import HTTPSConnection

from chaos.faults import Failure, Fault, fail
from event import Event
from local.sandbox import Sandbox
from pagerduty import Client
from tests.support import ROUTING_KEY, Answer, Clock, Endpoint, soon, track

# Seconds. What awaits a server that hangs takes at least twice as long, and what does not about a second.
IN_TIME = 5.0
LOOK_UP = socket.getaddrinfo

MakeEndpoint = Callable[..., Endpoint]
MakeClient = Callable[[str], Client]
CallsEnd = Callable[[], None]


# -- a call to PagerDuty -----------------------------------------------------------------------------------------------


def assert_timeout(client: Client) -> None:
    """Post an event, and assert that the call is abandoned at its deadline."""
    began = time.monotonic()
    outcome = client.post(Event("default", "alert", {}, "trigger", "k"), ROUTING_KEY, soon(0.5))

    assert outcome.code == "pagerduty_timeout"
    assert time.monotonic() - began < IN_TIME


def test_an_answer_that_trickles_in_is_not_awaited(sandbox: Sandbox, make_client: MakeClient) -> None:
    sandbox.on_call = lambda _: Fault.trickle(0.2)

    assert_timeout(make_client(sandbox.url))


def test_a_call_that_is_answered_forever_ends_at_its_deadline(
    sandbox: Sandbox, make_client: MakeClient, calls_end: CallsEnd
) -> None:
    sandbox.on_call = lambda _: Fault.raw(iter(lambda: b"HTTP/1.1 100 Continue\r\n\r\n", None), pause=0.001)

    assert_timeout(make_client(sandbox.url))
    calls_end()


def test_addresses_that_do_not_answer_the_connect_are_not_awaited(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A listener whose backlog is full does not answer.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        first.connect(address)
        second.settimeout(0)
        second.connect_ex(address)
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 30
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)

        assert_timeout(make_client(f"https://pagerduty.test:{address[1]}"))


def test_a_tls_handshake_that_hangs_is_not_awaited(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert_timeout(make_client(f"https://127.0.0.1:{silent.getsockname()[1]}"))


def test_an_event_that_was_abandoned_while_looking_up_the_name_is_not_posted(
    sandbox: Sandbox, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, calls_end: CallsEnd
) -> None:
    go_on = threading.Event()

    def getaddrinfo(*name: Any, **more: Any) -> Any:
        go_on.wait(30)
        return LOOK_UP(*name, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert_timeout(make_client(sandbox.url.replace("127.0.0.1", "localhost")))
    go_on.set()
    calls_end()

    assert sandbox.received == []


def test_an_event_that_was_abandoned_once_connected_is_not_posted_over_another_connection(
    sandbox: Sandbox, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, calls_end: CallsEnd
) -> None:
    go_on = threading.Event()
    putrequest = HTTPSConnection.putrequest

    def wait_and_put(*args: Any, **more: Any) -> None:
        go_on.wait(30)
        putrequest(*args, **more)

    monkeypatch.setattr(HTTPSConnection, "putrequest", wait_and_put)
    assert_timeout(make_client(sandbox.url))
    go_on.set()
    calls_end()

    assert sandbox.received == []


# -- a request ---------------------------------------------------------------------------------------------------------


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
    endpoint.sandbox.on_call = lambda _: Fault.hang()
    began = time.monotonic()
    endpoint.post(track())
    seconds = time.monotonic() - began
    endpoint.post(track(messageId="m-2"))

    assert 3 <= seconds < 7
    assert len(endpoint.sandbox.received) == 1
    assert [line["reason"] for line in map(json.loads, log.getvalue().splitlines())] == [
        "pagerduty_timeout",
        "earlier_events_queued",
    ]


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


@pytest.mark.parametrize(
    "content", [track(), [track(), track(messageId="m-2", properties={"dedupKey": "other"})]], ids=["event", "batch"]
)
def test_an_sqs_that_hangs_is_not_awaited(endpoint: Endpoint, content: object) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    fail(endpoint.aws, hang("AmazonSQS"))

    answer = post_in_time(endpoint, content, milliseconds=3000)

    assert (answer.status, answer.content["code"]) == (503, "queue_unavailable")


def test_a_dynamodb_that_hangs_delays_only_the_first_event(make_endpoint: MakeEndpoint, clock: Clock) -> None:
    endpoint = make_endpoint(clock=clock)
    calls: list[str] = []

    def note_and_hang(target: str, _: object) -> Failure | None:
        if not target.startswith("DynamoDB"):
            return None
        calls.append(target)
        return Failure.hang()

    fail(endpoint.aws, note_and_hang)
    began = time.monotonic()
    codes = [endpoint.post(track()).content["code"]]
    seconds, count = time.monotonic() - began, len(calls)
    codes += [endpoint.post(track(messageId=f"m-{n}")).content["code"] for n in (2, 3)]

    assert codes == ["queued"] * 3
    assert 1 <= seconds < IN_TIME
    assert len(calls) == count


# -- the deadline ------------------------------------------------------------------------------------------------------


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
    records = endpoint.received(endpoint.deps.settings.queue_url)
    fail(endpoint.aws, lambda target, _: Failure.delay(0.5) if target.startswith("AmazonSSM") else None)
    endpoint.sandbox.on_call = lambda _: Fault.hang()
    began = time.monotonic()

    assert endpoint.work(records) == [0]
    assert time.monotonic() - began < IN_TIME
