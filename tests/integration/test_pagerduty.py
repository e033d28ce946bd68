"""The one outbound call, against real HTTP servers on loopback."""

import pkgutil
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

import pagerduty
from chaos.faults import NetworkFault
from event import Event
from local.sandbox import Fault, Sandbox
from outcome import Outcome
from pagerduty import Client
from tests.support import ROUTING_KEY, Clock, soon

RESOLVE = Event("default", "alert", {"event_action": "resolve", "dedup_key": "disk ☃"}, "resolve", "disk ☃")
CHANGE = Event("default", "change", {"payload": {"summary": "Deployed"}})
REFUSED: dict[str, Any] = {"status": "invalid event", "message": "Event object is invalid"}

MakeClient = Callable[[str], Client]
PostWith = Callable[..., Outcome]


def post(client: Client, deadline: float | None = None, event: Event = RESOLVE) -> Outcome:
    return client.post(event, ROUTING_KEY, deadline or soon())


def calls(outcome: Outcome) -> tuple[int | None, int]:
    """Return PagerDuty's status and the number of attempts."""
    assert outcome.call is not None
    return outcome.call.status, outcome.call.attempts


@pytest.fixture
def client(sandbox: Sandbox, make_client: MakeClient) -> Client:
    return make_client(sandbox.url)


@pytest.fixture
def post_with(sandbox: Sandbox, client: Client) -> PostWith:
    """Post an event to a PagerDuty with this fault, in its first call or in every one."""

    def post_with(fault: Fault, seconds: float = 5.0, *, only_first: bool = False) -> Outcome:
        sandbox.on_call = lambda call: None if only_first and call.number > 1 else fault
        return post(client, soon(seconds))

    return post_with


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Listen at a port, and never say anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listening:
        yield listening


def test_an_event_is_posted_to_the_path_of_its_kind(client: Client, make_client: MakeClient, sandbox: Sandbox) -> None:
    outcomes = [post(client), post(client, event=CHANGE)]
    post(make_client(f"{sandbox.url}/proxy/"))

    assert [(call.path, call.event) for call in sandbox.received] == [
        ("/v2/enqueue", {"routing_key": ROUTING_KEY, **RESOLVE.content}),
        ("/v2/change/enqueue", {"routing_key": ROUTING_KEY, **CHANGE.content}),
        ("/proxy/v2/enqueue", {"routing_key": ROUTING_KEY, **RESOLVE.content}),
    ]
    assert [(outcome.code, calls(outcome)) for outcome in outcomes] == [("delivered", (202, 1))] * 2


def test_a_request_is_json_and_names_the_product_with_its_version(make_client: MakeClient, silent: Any) -> None:
    post(make_client(f"http://127.0.0.1:{silent.getsockname()[1]}"), soon(0.8))
    with silent.accept()[0] as connection:
        request = connection.recv(65_536)

    assert b"user-agent: rudderstack-pagerduty/2.0.0\r\n" in request
    assert b"content-type: application/json\r\n" in request


def test_nothing_is_posted_to_a_server_whose_certificate_is_not_trusted(
    sandbox: Sandbox, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    outcome = post(make_client(sandbox.url))

    assert (outcome.code, sandbox.received) == ("pagerduty_unreachable", [])
    assert "SSL" in outcome.message


# For each status with a refusal as PagerDuty writes it: the code, and how often the event is posted.
EXPECTED = {
    **dict.fromkeys(range(200, 300), ("delivered", 1)),
    **dict.fromkeys(range(300, 500), ("pagerduty_unexpected", 1)),
    400: ("pagerduty_rejected", 1),
    408: ("pagerduty_unavailable", 1),
    413: ("pagerduty_rejected", 1),
    429: ("pagerduty_rate_limited", 1),
    **dict.fromkeys(range(500, 600), ("pagerduty_unavailable", 3)),
    600: ("pagerduty_unexpected", 1),
}


def test_every_status_of_pagerduty_is_again_or_never(sandbox: Sandbox, post_with: PostWith) -> None:
    codes = {status: post_with(Fault.answer(status, REFUSED)).code for status in EXPECTED}
    posts = Counter(call.status for call in sandbox.received)

    assert {status: (code, posts[status]) for status, code in codes.items()} == EXPECTED


@pytest.mark.parametrize(
    ("errors", "reasons"),
    [(["x" * 301, *"abcdefghij"], "x" * 300 + "; a; b; c; d; e; f; g; h; i"), ([], "Event object is invalid")],
    ids=["many", "none"],
)
def test_the_reasons_for_a_refusal_are_passed_on(post_with: PostWith, errors: list[str], reasons: str) -> None:
    message = post_with(Fault.answer(400, REFUSED | {"errors": errors})).message

    assert message == f"PagerDuty refused the event for good with 400: {reasons}"


FOREIGN: dict[str, str | dict[str, Any]] = {
    "nothing": "",
    "a list": "[]",
    "no status": {"message": "Bad Request"},
    "a numeric message": {"status": "invalid event", "message": 400},
    "errors that are an object": {**REFUSED, "errors": {"a": 1}},
    "errors that are no texts": {**REFUSED, "errors": ["a", ["b"]]},
    "nested lists": "[" * 50_000,
    "more than 64 KB": {**REFUSED, "errors": ["x" * 65_536]},
}


@pytest.mark.parametrize("reply", FOREIGN.values(), ids=FOREIGN)
def test_a_refusal_that_is_not_pagerdutys_is_never_final(post_with: PostWith, reply: Any) -> None:
    assert [post_with(Fault.answer(status, reply)).code for status in (400, 413)] == ["pagerduty_unexpected"] * 2


@pytest.mark.parametrize("text", ["'routing_key' is missing", "ROUTINGKEY", "Bad routing\nkey"])
def test_a_400_about_the_routing_key_refuses_the_key_and_a_413_the_event(post_with: PostWith, text: str) -> None:
    codes = [post_with(Fault.answer(status, REFUSED | {"errors": [text]})).code for status in (400, 413)]

    assert codes == ["routing_key_refused", "pagerduty_rejected"]


@pytest.mark.parametrize("quoted", [ROUTING_KEY, ROUTING_KEY.upper(), ROUTING_KEY.lower(), "x" * 280 + ROUTING_KEY])
def test_a_routing_key_that_pagerduty_quotes_is_never_in_an_outcome(post_with: PostWith, quoted: str) -> None:
    outcome = post_with(Fault.answer(400, REFUSED | {"errors": [f"bad {quoted} here"]}))

    assert "[routing key]" in outcome.message
    assert ROUTING_KEY.lower()[:16] not in repr(outcome).lower()


def test_a_header_that_cannot_be_read_is_not_logged(post_with: PostWith, caplog: pytest.LogCaptureFixture) -> None:
    head = f"HTTP/1.1 202 X\r\nContent-Length: 2\r\n{ROUTING_KEY} is no header\r\nX: y\r\n\r\n{{}}"

    assert post_with(NetworkFault.raw(head.encode(), ending="keep")).code == "delivered"
    assert caplog.text == ""


def test_a_quick_retry_that_succeeds_is_a_delivery_with_the_time_of_the_last_call(post_with: PostWith) -> None:
    outcome = post_with(replace(NetworkFault.answer(500), hold=1.0), only_first=True)

    assert (outcome.code, calls(outcome)) == ("delivered", (202, 2))
    assert outcome.call is not None
    assert outcome.call.seconds < 1.0


def test_the_pause_before_a_quick_retry_is_random_and_before_the_second_twice_as_long(sandbox: Sandbox) -> None:
    sandbox.on_call = lambda _: Fault.answer(503)
    pauses: list[float] = []
    client = Client(sandbox.url, pauses.append)
    random.seed(7)
    for _ in range(10):
        post(client)
    # No pause ends after the deadline.
    post(client, soon(0.3))
    client.close()

    assert len(set(pauses)) == len(pauses) == 20
    assert all(0.05 <= pause <= 0.2 for pause in pauses[::2])
    assert all(0.1 <= pause <= 0.4 for pause in pauses[1::2])


def test_no_call_is_begun_without_time_for_an_answer(sandbox: Sandbox, client: Client) -> None:
    outcome = post(client, soon(0.1))

    assert (outcome.code, outcome.call, sandbox.received) == ("deadline_exceeded", None, [])


@pytest.mark.parametrize(
    "place",
    ["socket.getaddrinfo", "urllib3.util.connection.create_connection", "urllib3.connection.HTTPConnection.putrequest"],
)
def test_an_event_that_was_abandoned_before_it_was_sent_is_never_posted(
    sandbox: Sandbox,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    calls_end: Callable[[], None],
    place: str,
) -> None:
    go_on = threading.Event()
    original = pkgutil.resolve_name(place)

    def wait(*args: Any, **options: Any) -> Any:
        go_on.wait(30)
        return original(*args, **options)

    monkeypatch.setattr(place, wait)
    outcome = post(make_client(sandbox.plain_url), soon(0.8))
    go_on.set()
    calls_end()

    assert (outcome.code, sandbox.received) == ("pagerduty_timeout", [])


def test_connecting_is_retried_after_its_timeout_and_ends_at_the_deadline(
    make_client: MakeClient, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(f"https://127.0.0.1:{silent.getsockname()[1]}")  # It does not answer the TLS handshake.
    assert post(client, soon(0.8)).code == "pagerduty_timeout"
    monkeypatch.setattr(pagerduty, "CONNECT_TIMEOUT", 0.1)
    outcome = post(client)
    assert (outcome.code, calls(outcome)) == ("pagerduty_unreachable", (None, 3))


@pytest.mark.parametrize("fault", [NetworkFault.hang(), NetworkFault(pause=0.05)], ids=["nothing", "a byte at a time"])
def test_an_answer_that_does_not_arrive_in_time_is_a_timeout_and_its_call_ends(
    post_with: PostWith, calls_end: Callable[[], None], fault: Fault
) -> None:
    outcome = post_with(fault, 0.8)
    calls_end()

    assert (outcome.code, calls(outcome)) == ("pagerduty_timeout", (None, 1))


def test_a_connection_is_kept_and_does_not_shorten_the_timeout_of_the_next_call(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a connection may take, or a reply.
    sandbox.on_call = lambda call: NetworkFault(wait=1.2) if call.number == 2 else None
    post(client)
    monkeypatch.setattr(pagerduty, "_connect", None)

    assert post(client).code == "delivered"


@pytest.mark.parametrize(("seconds", "connections"), [(59.9, 1), (60, 2), (-1, 2)])
def test_a_connection_that_was_idle_for_a_minute_is_not_reused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, connections: int
) -> None:
    connect = Mock(wraps=pagerduty._connect)  # noqa: SLF001 -- how often it connects is not seen from outside
    monkeypatch.setattr(pagerduty, "_connect", connect)
    client = Client(sandbox.url, clock=clock)
    post(client)
    clock.now += seconds
    post(client)
    client.close()

    assert connect.call_count == connections


def test_a_connection_that_pagerduty_has_closed_costs_no_attempt_and_reads_no_certificates(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "create_default_context", None)
    post(client)
    sandbox.stop()
    sandbox.start()

    assert calls(post(client)) == (202, 1)


def test_over_tls_unrequested_bytes_after_an_answer_do_not_answer_the_next_event(
    sandbox: Sandbox, client: Client, post_with: PostWith
) -> None:
    accepted, refused = (b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status for status in (202, 503))
    # Python reads 8 KB at once. The rest of the TLS record is then in OpenSSL's buffer, and the socket looks idle.
    fault = NetworkFault.raw(accepted.ljust(8192) + refused, ending="keep")

    assert [post_with(fault, only_first=True).code, post(client).code] == ["delivered", "delivered"]
    assert [call.status for call in sandbox.received] == [0, 202]
