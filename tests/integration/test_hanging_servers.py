"""The sender has an answer in time, even if a server hangs; an abandoned call sends nothing afterwards."""

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3.connection import HTTPSConnection

from chaos.faults import Failure, Fault, fail
from tests.support import Answer, Clock, Endpoint, track

# Seconds. A request that awaits what hangs takes at least twice as long, and one that does not about a second.
IN_TIME = 5.0
LOOK_UP = socket.getaddrinfo

Make = Callable[..., Endpoint]
CallsEnd = Callable[[], None]


def post_in_time(endpoint: Endpoint, content: object, milliseconds: int = 9000) -> Answer:
    began = time.monotonic()
    answer = endpoint.post(content, milliseconds=milliseconds)
    assert time.monotonic() - began < IN_TIME
    return answer


def hang(service: str) -> Callable[[str, object], Failure | None]:
    return lambda target, _: Failure.hang() if target.startswith(service) else None


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a direct call to PagerDuty to half a second, instead of three."""
    monkeypatch.setattr("app.DIRECT_LIMIT", 0.5)


@pytest.fixture
def hang_look_ups(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make look-ups of names hang until the event is set; look-ups of addresses are answered."""
    go_on = threading.Event()

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "localhost":
            go_on.wait(30)
        return LOOK_UP(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield go_on
    go_on.set()


# -- PagerDuty ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("half_a_second")
def test_an_answer_that_trickles_in_is_not_awaited(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.trickle(0.2)

    answer = post_in_time(endpoint, track())

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert "did not answer in time" in answer.content["message"]


@pytest.mark.usefixtures("half_a_second")
def test_addresses_that_do_not_answer_the_connect_are_not_awaited(
    make_endpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A listener whose backlog is full does not answer.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        first.connect(address)
        second.settimeout(0)
        second.connect_ex(address)

        def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
            if host == "pagerduty.test":
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 30
            return LOOK_UP(host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        answer = post_in_time(make_endpoint(f"https://pagerduty.test:{address[1]}"), track())

    assert (answer.status, answer.content["code"]) == (200, "queued")


@pytest.mark.usefixtures("half_a_second")
def test_a_tls_handshake_that_hangs_is_not_awaited(make_endpoint: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = post_in_time(make_endpoint(f"https://127.0.0.1:{silent.getsockname()[1]}"), track())

    assert (answer.status, answer.content["code"]) == (200, "queued")


@pytest.mark.usefixtures("half_a_second")
def test_an_event_that_was_abandoned_while_looking_up_the_name_is_not_posted(
    make_endpoint: Make, sandbox: Any, hang_look_ups: threading.Event, calls_end: CallsEnd
) -> None:
    endpoint = make_endpoint(sandbox.url.replace("127.0.0.1", "localhost"))
    answer = post_in_time(endpoint, track())
    hang_look_ups.set()
    calls_end()

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert sandbox.received == []


@pytest.mark.usefixtures("half_a_second")
def test_an_event_that_was_abandoned_once_connected_is_not_posted_over_another_connection(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, calls_end: CallsEnd
) -> None:
    go_on = threading.Event()
    putrequest = HTTPSConnection.putrequest

    def wait_and_put(*args: Any, **more: Any) -> None:
        go_on.wait(30)
        putrequest(*args, **more)

    monkeypatch.setattr(HTTPSConnection, "putrequest", wait_and_put)
    post_in_time(endpoint, track())
    go_on.set()
    calls_end()

    assert endpoint.sandbox.received == []


@pytest.mark.usefixtures("half_a_second")
def test_an_abandoned_call_ends_although_the_server_sends_forever(endpoint: Endpoint, calls_end: CallsEnd) -> None:
    endless = iter(lambda: b"HTTP/1.1 100 Continue\r\n\r\n", None)
    endpoint.sandbox.on_call = lambda _: Fault.raw(endless, pause=0.001)

    assert post_in_time(endpoint, track()).content["code"] == "queued"
    calls_end()


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


# -- AWS ---------------------------------------------------------------------------------------------------------------


def test_an_ssm_that_hangs_is_not_awaited(endpoint: Endpoint) -> None:
    fail(endpoint.aws, hang("AmazonSSM"))

    answer = post_in_time(endpoint, track(), milliseconds=1500)

    assert (answer.status, answer.content["code"]) == (503, "secrets_unavailable")


def test_secrets_that_were_read_before_are_used_while_ssm_hangs(
    make_endpoint: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
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


def test_a_dynamodb_that_hangs_delays_only_the_first_event(make_endpoint: Make, clock: Clock) -> None:
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
