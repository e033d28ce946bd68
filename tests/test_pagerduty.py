"""The one outbound call, against real HTTP servers on loopback."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from errors import Deferred, NotSentError, Rejected
from local.sandbox import Fault, Received, Sandbox
from pagerduty import Client, RoutingKeyRefused
from support import ROUTING_KEY, no_pause

TRIGGER = (
    b'{"event_action":"trigger","dedup_key":"disk-full",'
    b'"payload":{"summary":"Disk is full","severity":"error","source":"db-1"}}'
)
CHANGE = b'{"payload":{"summary":"Deployed"}}'


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def always(fault: Fault) -> Callable[[Received], Fault]:
    return lambda _: fault


def error_of(client: Client, deadline: float | None = None) -> NotSentError:
    with pytest.raises(NotSentError) as caught:
        client.send("alert", TRIGGER, ROUTING_KEY, deadline or soon())
    return caught.value


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    return Client(sandbox.url, no_pause)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_an_alert_event_is_posted_with_the_routing_key(client: Client, sandbox: Sandbox) -> None:
    receipt = client.send("alert", TRIGGER, ROUTING_KEY, soon())

    (received,) = sandbox.received
    assert (received.path, received.event["routing_key"], received.event["dedup_key"]) == (
        "/v2/enqueue",
        ROUTING_KEY,
        "disk-full",
    )
    assert (receipt.dedup_key, receipt.exchange.status, receipt.exchange.calls) == ("disk-full", 202, 1)


def test_a_change_event_is_posted_to_its_own_path(client: Client, sandbox: Sandbox) -> None:
    client.send("change", CHANGE, ROUTING_KEY, soon())

    assert [received.path for received in sandbox.received] == ["/v2/change/enqueue"]


def test_a_path_in_the_url_comes_before_pagerdutys_own(sandbox: Sandbox) -> None:
    error = error_of(Client(f"{sandbox.url}/proxy", no_pause))

    assert [received.path for received in sandbox.received] == ["/proxy/v2/enqueue"]
    assert error.code == "pagerduty_unexpected"


EXPECTED = {
    **dict.fromkeys(range(200, 300), "delivered"),
    **dict.fromkeys(range(300, 500), "pagerduty_unexpected"),
    400: "pagerduty_rejected",
    413: "pagerduty_rejected",
    408: "pagerduty_unavailable",
    429: "pagerduty_rate_limited",
    **dict.fromkeys(range(500, 600), "pagerduty_unavailable"),
}


@pytest.mark.parametrize(("status", "code"), EXPECTED.items())
def test_every_status_of_pagerduty_is_again_or_never(sandbox: Sandbox, client: Client, status: int, code: str) -> None:
    sandbox.misbehave = always(Fault.answer(status, '{"status":"s","message":"m","errors":["e"]}'))

    try:
        client.send("alert", TRIGGER, ROUTING_KEY, soon())
        outcome = "delivered"
    except NotSentError as error:
        outcome = error.code

    assert outcome == code


@pytest.mark.parametrize(
    ("status", "calls"), [(202, 1), (301, 1), (400, 1), (404, 1), (408, 1), (429, 1), (500, 3), (503, 3)]
)
def test_only_server_errors_are_quickly_retried_and_only_twice(
    sandbox: Sandbox, client: Client, status: int, calls: int
) -> None:
    sandbox.misbehave = always(Fault.answer(status, "{}"))

    with contextlib.suppress(NotSentError):
        client.send("alert", TRIGGER, ROUTING_KEY, soon())

    assert len(sandbox.received) == calls


def test_a_quick_retry_that_succeeds_is_a_delivery(sandbox: Sandbox, client: Client) -> None:
    sandbox.misbehave = lambda call: Fault.answer(500, "") if call.number == 1 else None

    receipt = client.send("alert", TRIGGER, ROUTING_KEY, soon())

    assert (receipt.exchange.status, receipt.exchange.calls) == (202, 2)


@pytest.mark.parametrize(
    ("fault", "status", "calls"),
    [
        (Fault.answer(500, ""), 500, 3),
        (Fault.answer(408, ""), 408, 1),
        (Fault.answer(429, ""), 429, 1),
        (Fault.answer(400, ""), 400, 1),
        (Fault.reset_before(), None, 3),
    ],
    ids=["500", "408", "429", "400", "reset"],
)
def test_what_pagerduty_last_said_is_known_of_an_event_that_it_did_not_take(
    sandbox: Sandbox, client: Client, fault: Fault, status: int | None, calls: int
) -> None:
    sandbox.misbehave = always(fault)

    with pytest.raises(NotSentError) as caught:
        client.send("alert", TRIGGER, ROUTING_KEY, soon())

    assert caught.value.exchange is not None
    assert (caught.value.exchange.status, caught.value.exchange.calls) == (status, calls)


def test_the_time_of_a_call_is_that_of_pagerduty_and_not_of_what_came_before(sandbox: Sandbox, client: Client) -> None:
    sandbox.misbehave = lambda call: replace(Fault.answer(503), hold=1.0) if call.number == 1 else None

    assert client.send("alert", TRIGGER, ROUTING_KEY, soon()).exchange.seconds < 1.0


def test_of_an_event_for_which_no_time_was_left_there_is_no_call(client: Client) -> None:
    with pytest.raises(Deferred) as caught:
        client.send("alert", TRIGGER, ROUTING_KEY, soon(0))

    assert caught.value.exchange is None


@pytest.mark.parametrize("body", ["", "accepted", "[1]", "null", '{"dedup_key": 7}', "[" * 100_000])
def test_an_accepted_event_is_delivered_whatever_the_reply_says(sandbox: Sandbox, client: Client, body: str) -> None:
    sandbox.misbehave = always(Fault.answer(202, body))

    assert client.send("alert", TRIGGER, ROUTING_KEY, soon()).dedup_key is None


def test_a_reply_without_end_is_not_read_to_its_end(sandbox: Sandbox, client: Client) -> None:
    sandbox.misbehave = always(Fault.answer(202, " " * 10_000_000))

    assert client.send("alert", TRIGGER, ROUTING_KEY, soon()).exchange.status == 202


def test_pagerdutys_reasons_are_passed_on(sandbox: Sandbox, client: Client) -> None:
    reply = {"status": "invalid event", "message": "Event object is invalid", "errors": ["Length of 'summary'", "b"]}
    sandbox.misbehave = always(Fault.answer(400, reply))

    error = error_of(client)

    assert isinstance(error, Rejected)
    assert error.message == "PagerDuty refused the event for good with 400: Length of 'summary'; b"


@pytest.mark.parametrize("reply", ["", "<html>", "{}", '{"errors": []}', '{"errors": {"a": 1}}', '"x"'])
def test_a_refusal_without_reasons_is_survived(sandbox: Sandbox, client: Client, reply: str) -> None:
    sandbox.misbehave = always(Fault.answer(400, reply))

    assert error_of(client).message == "PagerDuty refused the event for good with 400: no reason given"


@pytest.mark.parametrize(
    "text", ["Invalid routing key", "'routing_key' is missing", "Routing-Key not valid", "ROUTINGKEY"]
)
def test_a_refused_routing_key_is_our_fault_and_not_the_events(sandbox: Sandbox, client: Client, text: str) -> None:
    sandbox.misbehave = always(Fault.answer(400, {"message": "invalid", "errors": [text]}))

    error = error_of(client)

    assert isinstance(error, RoutingKeyRefused)
    assert (error.status, error.code) == (503, "routing_key_refused")


def test_a_routing_key_that_pagerduty_quotes_is_not_passed_on(sandbox: Sandbox, client: Client) -> None:
    sandbox.misbehave = always(Fault.answer(400, {"errors": [f"bad key {ROUTING_KEY}"]}))

    assert ROUTING_KEY not in error_of(client).message


def test_a_refused_connection_is_tried_again(closed_port: int) -> None:
    error = error_of(Client(f"http://127.0.0.1:{closed_port}", no_pause))

    assert isinstance(error, Deferred)
    assert (error.status, error.code) == (503, "pagerduty_unreachable")


def test_a_name_that_does_not_resolve_is_tried_again() -> None:
    error = error_of(Client("http://pagerduty.invalid", no_pause))

    assert (error.status, error.code) == (503, "pagerduty_unreachable")


@pytest.mark.parametrize("fault", [Fault.reset_before(), Fault.reset_after()])
def test_a_connection_that_breaks_is_tried_again(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.misbehave = always(fault)

    error = error_of(client)

    assert (error.status, error.code) == (503, "pagerduty_unreachable")


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.trickle(0.02)])
def test_an_answer_that_does_not_come_in_time_is_a_timeout(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.misbehave = always(fault)

    error = error_of(client, soon(0.5))

    assert (error.status, error.code) == (504, "pagerduty_timeout")
    assert len(sandbox.received) == 1


def test_no_call_is_begun_without_time_for_an_answer(sandbox: Sandbox, client: Client) -> None:
    error = error_of(client, soon(0.1))

    assert (error.status, error.code) == (504, "out_of_time")
    assert sandbox.received == []


def test_a_connection_is_kept_and_has_its_full_timeout_again(sandbox: Sandbox, client: Client) -> None:
    sandbox.misbehave = lambda call: Fault.delay(0.3) if call.number != 2 else None
    for _ in range(3):
        client.send("alert", TRIGGER, ROUTING_KEY, soon(0.6))

    assert len(sandbox.received) == 3


def test_threads_share_the_client(sandbox: Sandbox, client: Client) -> None:
    with ThreadPoolExecutor(32) as threads:
        receipts = list(threads.map(lambda _: client.send("alert", TRIGGER, ROUTING_KEY, soon()), range(200)))

    assert {receipt.exchange.status for receipt in receipts} == {202}
    assert len(sandbox.received) == 200
