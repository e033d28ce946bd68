"""The one outbound call, against real HTTP servers on loopback."""

import json
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from urllib3.connection import HTTPConnection

import pagerduty
from chaos.faults import Fault
from event import Event
from local.sandbox import Received, Sandbox
from outcome import Outcome
from pagerduty import Client
from tests.support import ROUTING_KEY, Clock, soon

TRIGGER = Event(
    "default",
    "alert",
    {
        "event_action": "trigger",
        "dedup_key": "disk-full",
        "payload": {"summary": "Disk is full", "severity": "error", "source": "db-1"},
    },
    "trigger",
    "disk-full",
)
CHANGE = Event("default", "change", {"payload": {"summary": "Deployed"}})
REFUSED = {"status": "invalid event", "message": "Event object is invalid"}

MakeClient = Callable[[str], Client]


def always(fault: Fault) -> Callable[[Received], Fault]:
    return lambda _: fault


def post(client: Client, deadline: float | None = None, event: Event = TRIGGER) -> Outcome:
    return client.post(event, ROUTING_KEY, deadline or soon())


def calls(outcome: Outcome) -> tuple[int | None, int]:
    """Return PagerDuty's status and the number of attempts."""
    assert outcome.call is not None
    return outcome.call.status, outcome.call.attempts


@pytest.fixture
def client(sandbox: Sandbox, make_client: MakeClient) -> Client:
    return make_client(sandbox.url)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_an_alert_event_is_posted_with_the_routing_key(client: Client, sandbox: Sandbox) -> None:
    outcome = post(client)

    (received,) = sandbox.received
    assert (received.path, received.event["routing_key"], received.event["dedup_key"]) == (
        "/v2/enqueue",
        ROUTING_KEY,
        "disk-full",
    )
    assert (outcome.code, calls(outcome)) == ("delivered", (202, 1))


def test_a_change_event_is_posted_to_its_own_path(client: Client, sandbox: Sandbox) -> None:
    post(client, event=CHANGE)

    assert [received.path for received in sandbox.received] == ["/v2/change/enqueue"]


def test_a_path_in_the_url_comes_before_pagerdutys_own(sandbox: Sandbox, make_client: MakeClient) -> None:
    outcome = post(make_client(f"{sandbox.url}/proxy"))

    assert [received.path for received in sandbox.received] == ["/proxy/v2/enqueue"]
    assert outcome.code == "pagerduty_unexpected"


def test_pagerduty_is_told_which_version_calls(make_client: MakeClient) -> None:
    callers: list[str | None] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            callers.append(self.headers["User-Agent"])
            self.send_response(202)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        post(make_client(f"http://127.0.0.1:{server.server_port}"))
        thread.join()

    assert callers == ["rudderstack-pagerduty/2.0.0"]


def test_without_tls_too(sandbox: Sandbox, make_client: MakeClient) -> None:
    assert post(make_client(sandbox.plain_url)).code == "delivered"


def test_a_certificate_that_nobody_vouches_for_is_not_talked_to(
    sandbox: Sandbox, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    outcome = post(make_client(sandbox.url))

    assert (outcome.code, sandbox.received) == ("pagerduty_unreachable", [])
    assert "SSL" in outcome.message


def test_the_tls_context_is_made_once(
    sandbox: Sandbox, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(sandbox.url)
    monkeypatch.setattr(ssl, "create_default_context", None)
    for _ in range(3):
        client.close()
        assert post(client).code == "delivered"


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
    sandbox.on_call = always(Fault.answer(status, REFUSED))

    assert post(client).code == code


@pytest.mark.parametrize(
    ("status", "attempts"), [(202, 1), (301, 1), (400, 1), (404, 1), (408, 1), (429, 1), (500, 3), (503, 3)]
)
def test_only_server_errors_are_quickly_retried_and_only_twice(
    sandbox: Sandbox, client: Client, status: int, attempts: int
) -> None:
    sandbox.on_call = always(Fault.answer(status, "{}"))

    outcome = post(client)

    assert calls(outcome) == (status, attempts)
    assert len(sandbox.received) == attempts


def test_a_quick_retry_that_succeeds_is_a_delivery(sandbox: Sandbox, client: Client) -> None:
    sandbox.on_call = lambda call: Fault.answer(500, "") if call.number == 1 else None

    assert calls(post(client)) == (202, 2)


def test_there_is_a_pause_before_each_quick_retry_with_jitter_and_the_second_is_longer(sandbox: Sandbox) -> None:
    sandbox.on_call = always(Fault.answer(503, ""))
    pauses: list[float] = []
    client = Client(sandbox.url, pauses.append)
    random.seed(7)
    for _ in range(10):
        post(client)
    client.close()

    first, second = pauses[::2], pauses[1::2]
    assert len(set(pauses)) == 20
    assert all(0.05 <= pause <= 0.2 for pause in first)
    assert all(0.1 <= pause <= 0.4 for pause in second)


def test_of_an_event_that_could_not_be_brought_to_pagerduty_no_status_is_known(
    sandbox: Sandbox, client: Client
) -> None:
    sandbox.on_call = always(Fault.reset_before())

    assert calls(post(client)) == (None, 3)


def test_the_time_of_a_call_is_that_of_pagerduty_and_not_of_what_came_before(sandbox: Sandbox, client: Client) -> None:
    sandbox.on_call = lambda call: replace(Fault.answer(503), hold=1.0) if call.number == 1 else None

    call = post(client).call
    assert call is not None
    assert call.seconds < 1.0


def test_of_an_event_for_which_no_time_was_left_there_is_no_call(client: Client) -> None:
    assert post(client, soon(0)).call is None


@pytest.mark.parametrize("body", ["", "accepted", "[1]", "null", '{"dedup_key": 7}', "[" * 100_000])
def test_an_accepted_event_is_delivered_whatever_the_reply_says(sandbox: Sandbox, client: Client, body: str) -> None:
    sandbox.on_call = always(Fault.answer(202, body))

    assert post(client).code == "delivered"


def test_a_reply_without_end_is_not_read_to_its_end_and_its_connection_not_used_again(
    sandbox: Sandbox, client: Client
) -> None:
    sandbox.on_call = lambda call: Fault.answer(202, " " * 10_000_000) if call.number == 1 else None

    assert [post(client).code for _ in range(2)] == ["delivered", "delivered"]


def test_pagerdutys_reasons_are_passed_on(sandbox: Sandbox, client: Client) -> None:
    sandbox.on_call = always(Fault.answer(400, {**REFUSED, "errors": ["Length of 'summary'", "b"]}))

    outcome = post(client)

    assert (outcome.code, outcome.message) == (
        "pagerduty_rejected",
        "PagerDuty refused the event for good with 400: Length of 'summary'; b",
    )


@pytest.mark.parametrize("errors", [{}, {"errors": []}])
def test_a_refusal_without_errors_gives_its_message(sandbox: Sandbox, client: Client, errors: object) -> None:
    sandbox.on_call = always(Fault.answer(400, REFUSED | errors))  # type: ignore[operator]  # a dict

    assert post(client).message == "PagerDuty refused the event for good with 400: Event object is invalid"


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize(
    "reply",
    [
        "",
        "<html>Bad Request</html>",
        "{}",
        "[]",
        '"x"',
        '{"message": "Bad Request"}',
        '{"status": 400, "message": "Bad Request"}',
        '{"status": "invalid event", "message": 400}',
        json.dumps({**REFUSED, "errors": {"a": 1}}),
        json.dumps({**REFUSED, "errors": [[["a"]]]}),
        json.dumps(REFUSED)[:-1],
        "[" * 100_000,
        " " * 100_000 + json.dumps(REFUSED),
    ],
)
def test_a_refusal_that_is_not_pagerdutys_is_never_final(
    sandbox: Sandbox, client: Client, status: int, reply: str
) -> None:
    sandbox.on_call = always(Fault.answer(status, reply))

    assert post(client).code == "pagerduty_unexpected"


@pytest.mark.parametrize(
    "text",
    [
        "Invalid routing key",
        "'routing_key' is missing",
        "Routing-Key not valid",
        "ROUTINGKEY",
        "Invalid routing\\u0020key",
        "Invalid routing\\nkey",
    ],
)
def test_a_refused_routing_key_is_our_fault_and_not_the_events(sandbox: Sandbox, client: Client, text: str) -> None:
    body = json.dumps({**REFUSED, "errors": ["TEXT"]}).replace("TEXT", text)
    sandbox.on_call = always(Fault.answer(400, body))

    outcome = post(client)

    assert (outcome.http_status, outcome.code) == (503, "routing_key_refused")


def test_an_event_that_is_too_large_is_so_whatever_is_said_of_the_routing_key(sandbox: Sandbox, client: Client) -> None:
    sandbox.on_call = always(Fault.answer(413, REFUSED | {"errors": ["Too large for this routing key"]}))

    assert post(client).code == "pagerduty_rejected"


def test_a_status_that_http_does_not_have_is_never_final(sandbox: Sandbox, client: Client) -> None:
    sandbox.on_call = always(Fault.raw(b"HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\n{}", ending="keep"))

    assert post(client).code == "pagerduty_unexpected"


def test_a_header_that_cannot_be_read_is_not_logged(
    sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    head = f"HTTP/1.1 202 X\r\nContent-Length: 2\r\n{ROUTING_KEY} is no header\r\nX: y\r\n\r\n{{}}"
    sandbox.on_call = always(Fault.raw(head.encode(), ending="keep"))

    assert post(client).code == "delivered"
    assert caplog.text == ""


def test_over_tls_what_comes_unasked_after_an_answer_is_not_that_of_the_next_event(
    sandbox: Sandbox, client: Client
) -> None:
    accepted, refused = (b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status for status in (202, 503))
    # Python reads 8 KB at once; what comes after that in the same record of TLS, no socket tells of.
    answers = accepted.ljust(8192) + refused
    sandbox.on_call = lambda call: Fault.raw(answers, ending="keep") if call.number == 1 else None

    assert [post(client).code, post(client).code] == ["delivered", "delivered"]
    assert [call.status for call in sandbox.received] == [0, 202]


@pytest.mark.parametrize("quoted", [ROUTING_KEY, ROUTING_KEY.upper(), ROUTING_KEY.lower(), "x" * 280 + ROUTING_KEY])
def test_a_routing_key_that_pagerduty_quotes_is_not_passed_on(sandbox: Sandbox, client: Client, quoted: str) -> None:
    sandbox.on_call = always(Fault.answer(400, {**REFUSED, "errors": [f"bad {quoted} here"]}))

    message = post(client).message.lower()
    assert ROUTING_KEY.lower()[:16] not in message
    assert "[routing key]" in message


def test_a_refused_connection_is_tried_again(closed_port: int, make_client: MakeClient) -> None:
    outcome = post(make_client(f"http://127.0.0.1:{closed_port}"))

    assert (outcome.http_status, outcome.code) == (503, "pagerduty_unreachable")


def test_a_name_that_does_not_resolve_is_tried_again(make_client: MakeClient) -> None:
    outcome = post(make_client("http://pagerduty.invalid"))

    assert (outcome.http_status, outcome.code) == (503, "pagerduty_unreachable")


@pytest.mark.parametrize("fault", [Fault.reset_before(), Fault.reset_after()])
def test_a_connection_that_breaks_is_tried_again(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.on_call = always(fault)

    outcome = post(client)

    assert (outcome.http_status, outcome.code) == (503, "pagerduty_unreachable")


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.trickle(0.05)])
def test_an_answer_that_does_not_come_in_time_is_a_timeout(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.on_call = always(fault)

    outcome = post(client, soon(0.5))

    assert (outcome.http_status, outcome.code) == (504, "pagerduty_timeout")
    assert len(sandbox.received) == 1


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 202 Accepted\r\n",
        b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n",
    ],
)
def test_a_202_of_which_no_more_arrives_is_delivered_and_not_posted_again(
    sandbox: Sandbox, client: Client, begun: bytes
) -> None:
    sandbox.on_call = lambda call: Fault.raw(begun, ending="hold") if call.number == 1 else None

    assert [post(client, soon(0.5)).code for _ in range(2)] == ["delivered", "delivered"]
    assert len(sandbox.received) == 2


def test_no_call_is_begun_without_time_for_an_answer(sandbox: Sandbox, client: Client) -> None:
    outcome = post(client, soon(0.1))

    assert (outcome.http_status, outcome.code) == (504, "deadline_exceeded")
    assert sandbox.received == []


def test_a_connection_is_kept_and_has_its_full_timeout_again(
    sandbox: Sandbox, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.on_call = lambda call: Fault.delay(0.3) if call.number != 2 else None
    post(client, soon(0.6))
    monkeypatch.setattr(pagerduty, "_connect", None)
    outcomes = [post(client, soon(0.6)).code for _ in range(2)]

    assert outcomes == ["delivered", "delivered"]


@pytest.mark.parametrize(("seconds", "connections"), [(59.9, 1), (60, 2), (-1, 2)])
def test_a_connection_that_was_idle_for_a_minute_is_not_reused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, connections: int
) -> None:
    connect, connected = pagerduty._connect, []  # noqa: SLF001 -- how often it connects is not seen from outside

    def count(connection: HTTPConnection) -> None:
        connected.append(connection)
        connect(connection)

    monkeypatch.setattr(pagerduty, "_connect", count)
    client = Client(sandbox.url, clock=clock)
    post(client)
    clock.now += seconds
    post(client)
    client.close()

    assert len(connected) == connections


def test_a_connection_that_pagerduty_has_closed_meanwhile_costs_no_attempt(sandbox: Sandbox, client: Client) -> None:
    post(client)
    sandbox.stop()
    sandbox.start()

    assert calls(post(client)) == (202, 1)
