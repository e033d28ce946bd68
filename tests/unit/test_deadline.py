"""The sender has an answer in time, whatever hangs; and what was given up does nothing afterwards."""

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from urllib3.connection import HTTPSConnection

from chaos.faults import Failure, Fault, fail
from deadline import run_with_deadline
from local.options import ROOT
from tests.support import Answer, Endpoint, soon, track

# Of the function's time limit; half a second less than that is the deadline here, as it is eight seconds on Lambda.
MILLISECONDS = 1500
DEADLINE = 1.0
RESOLVE = {"action": "resolve"}
LOOK_UP = socket.getaddrinfo

Make = Callable[..., Endpoint]
CallsEnd = Callable[[], None]


def timed(endpoint: Endpoint, content: object) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = endpoint.post(content, milliseconds=MILLISECONDS)
    return answer, time.monotonic() - began


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Lend a port at which somebody takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def hang_look_ups(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let look-ups of names hang until the event is set; those of addresses go on."""
    go_on = threading.Event()

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "localhost":
            go_on.wait(30)
        return LOOK_UP(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield go_on
    go_on.set()


def test_an_answer_that_trickles_in(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.trickle(0.2)

    answer, seconds = timed(endpoint, track())

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert "did not answer in time" in answer.content["message"]
    assert seconds < DEADLINE + 0.5


def test_addresses_that_never_answer_the_connect(make_endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
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
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 3
            return LOOK_UP(host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        endpoint = make_endpoint(f"https://pagerduty.test:{address[1]}")

        answer, seconds = timed(endpoint, track())

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert "did not answer in time" in answer.content["message"]
    assert seconds < DEADLINE + 0.5


def test_a_look_up_that_hangs(make_endpoint: Make, sandbox: Any, hang_look_ups: threading.Event) -> None:
    endpoint = make_endpoint(sandbox.url.replace("127.0.0.1", "localhost"))

    answer, seconds = timed(endpoint, track())

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert "did not answer in time" in answer.content["message"]
    assert seconds < DEADLINE + 0.5


def test_a_tls_handshake_that_hangs(make_endpoint: Make, silent_port: int) -> None:
    endpoint = make_endpoint(f"https://127.0.0.1:{silent_port}")

    answer, seconds = timed(endpoint, track())

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert seconds < DEADLINE + 0.5


def test_an_ssm_that_hangs(endpoint: Endpoint) -> None:
    fail(endpoint.aws, lambda target, _: Failure.hang() if target.startswith("AmazonSSM") else None)

    answer, seconds = timed(endpoint, track())

    assert (answer.status, answer.content["code"]) == (503, "secrets_unavailable")
    assert seconds < DEADLINE + 0.5


@pytest.mark.parametrize("content", [track(), [track(), track(messageId="m-2", properties={"dedupKey": "other"})]])
def test_an_sqs_that_hangs(endpoint: Endpoint, content: object) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    fail(endpoint.aws, lambda target, _: Failure.hang() if target.startswith("AmazonSQS") else None)

    answer, seconds = timed(endpoint, content)

    assert (answer.status, answer.content["code"]) == (503, "queue_unavailable")
    assert seconds < DEADLINE + 0.5


def test_a_dynamodb_that_hangs_costs_a_second_once(endpoint: Endpoint) -> None:
    fail(endpoint.aws, lambda target, _: Failure.hang() if target.startswith("DynamoDB") else None)
    began = time.monotonic()
    codes = [endpoint.post(track(messageId=f"m-{n}")).content["code"] for n in range(3)]

    assert codes == ["queued"] * 3
    assert 1 <= time.monotonic() - began < 2.5


def test_secrets_that_were_read_before_serve_on_while_ssm_hangs(
    make_endpoint: Make, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credentials.REFRESH_LIMIT", 0.2)
    endpoint = make_endpoint(clock=clock)
    endpoint.post(track())
    clock.now += 1000
    fail(endpoint.aws, lambda target, _: Failure.hang() if target.startswith("AmazonSSM") else None)

    answer, seconds = timed(endpoint, track())

    assert answer.status == 200
    assert seconds < DEADLINE


@pytest.mark.parametrize(("milliseconds", "seconds"), [(9000, 8.0), (8400, 7.9)])
def test_the_answer_is_due_after_eight_seconds_or_half_a_second_before_the_functions_time_limit(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, milliseconds: int, seconds: float
) -> None:
    def tell(_: object, __: object, ___: object, deadline: float) -> dict[str, Any]:
        return {"statusCode": 200, "body": json.dumps({"in": deadline - time.monotonic()})}

    monkeypatch.setattr("app._answer", tell)

    assert seconds - 0.3 < endpoint.post(track(), milliseconds=milliseconds).content["in"] <= seconds


# -- what was given up -----------------------------------------------------------------------------------------------


def test_an_event_that_was_given_up_while_connecting_is_never_posted(
    make_endpoint: Make, sandbox: Any, hang_look_ups: threading.Event, calls_end: CallsEnd
) -> None:
    endpoint = make_endpoint(sandbox.url.replace("127.0.0.1", "localhost"))
    timed(endpoint, track())
    hang_look_ups.set()
    calls_end()

    assert sandbox.received == []


def test_an_event_that_was_given_up_once_connected_is_not_posted_over_another_connection(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, calls_end: CallsEnd
) -> None:
    go_on = threading.Event()
    putrequest = HTTPSConnection.putrequest

    def wait_and_put(*args: Any, **more: Any) -> None:
        go_on.wait(30)
        putrequest(*args, **more)

    monkeypatch.setattr(HTTPSConnection, "putrequest", wait_and_put)
    timed(endpoint, track())
    go_on.set()
    calls_end()

    assert endpoint.sandbox.received == []


def test_the_next_request_does_not_wait_for_what_was_given_up(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.hang() if call.number == 1 else None
    timed(endpoint, track())

    answer, seconds = timed(endpoint, track(messageId="m-2"))

    assert answer.status == 200
    assert seconds < 0.5
    assert [line["reason"] for line in map(json.loads, log.getvalue().splitlines()) if "reason" in line] == [
        "pagerduty_timeout",
        "earlier_events_queued",
    ]


def test_a_call_that_hangs_holds_up_no_other() -> None:
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        run_with_deadline(go_on.wait, time.monotonic() + 0.1, 30)

    assert run_with_deadline(str, soon(), "done") == "done"
    go_on.set()


def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run_with_deadline(int, soon(), "x")


def test_a_call_that_hangs_for_ever_does_not_keep_the_process() -> None:
    program = "import threading, deadline; deadline.run_with_deadline(threading.Event().wait, 0)"
    done = subprocess.run(  # noqa: S603 -- our own program
        [sys.executable, "-c", program], cwd=ROOT / "function", capture_output=True, text=True, check=False, timeout=20
    )

    assert done.stderr.splitlines()[-1] == "TimeoutError"


def test_what_was_given_up_ends_soon(endpoint: Endpoint, calls_end: CallsEnd) -> None:
    endless = iter(lambda: b"HTTP/1.1 100 Continue\r\n\r\n", None)
    endpoint.sandbox.on_call = lambda _: Fault.raw(endless, pause=0.001)

    answer, seconds = timed(endpoint, track())

    assert (answer.status, answer.content["code"]) == (200, "queued")
    assert "did not answer in time" in answer.content["message"]
    assert seconds < DEADLINE + 0.5
    calls_end()


def test_the_worker_counts_the_time_that_ssm_took(make_endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.DEADLINE", 1.0)
    endpoint = make_endpoint()
    fail(endpoint.aws, lambda target, _: Failure.delay(0.6) if target.startswith("AmazonSSM") else None)
    endpoint.sandbox.on_call = lambda _: Fault.hang()
    endpoint.post([track()])
    endpoint.deps.credentials._parameters.clear()  # noqa: SLF001 -- as in a process of its own
    records = endpoint.received(endpoint.deps.settings.queue_url)
    began = time.monotonic()

    assert endpoint.work(records) == [0]
    assert 1.0 <= time.monotonic() - began < 1.5
