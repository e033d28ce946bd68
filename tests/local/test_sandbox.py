"""The PagerDuty sandbox as real clients see it: its answers, its TLS, its faults, and how it stops."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3

from chaos.faults import NetworkFault
from local.sandbox import Fault, Received, Sandbox, ca_file
from tests.support import wait_until

KEY = "0123456789abcdefABCDEF0123456789"
ALERTS = "/v2/enqueue"
CHANGES = "/v2/change/enqueue"
# With TLS, as in production, and without, as from a container that does not know the CA.
over_both = pytest.mark.parametrize("url", ["url", "plain_url"], indirect=True)

DISK_FULL = {"summary": "Disk full", "source": "db1", "severity": "error"}
TRIGGER = {"routing_key": KEY, "event_action": "trigger", "dedup_key": "disk", "payload": DISK_FULL}
WRONG_TRIGGER = TRIGGER | {"payload": DISK_FULL | {"severity": "high"}, "typo": 1}
WRONG = ["'typo' is not a known field", "'payload.severity' must be one of: critical, error, warning, info"]
INVALID = {"status": "invalid event", "message": "Event object is invalid"}
CHANGE = {"routing_key": KEY, "payload": {"summary": "Deployed"}}
PROCESSED = {"status": "success", "message": "Event processed"}


@pytest.fixture(scope="module")
def client() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        yield pool


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest, sandbox: Sandbox) -> str:
    found: str = getattr(sandbox, getattr(request, "param", "url"))
    return found


Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def call(client: urllib3.PoolManager, url: str) -> Call:
    """Send an event; return the status and the body."""

    def send(event: object = TRIGGER, path: str = ALERTS) -> tuple[int, Any]:
        response = client.request("POST", url + path, body=json.dumps(event).encode())
        return response.status, response.data and response.json()

    return send


def connect(url: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=30)
    if url.startswith("https:"):
        trusting = ssl.create_default_context(cafile=ca_file())
        return trusting.wrap_socket(connection, server_hostname="127.0.0.1")
    return connection


def open_call(url: str) -> socket.socket:
    """Send a call over a connection of its own, and leave the answer to be read."""
    connection = connect(url)
    body = json.dumps(TRIGGER)
    head = f"POST {ALERTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection


def end_of(connection: socket.socket) -> str:
    """Read the rest below TLS: Python's ssl may mistake a reset for an orderly end (python/cpython issue 115627)."""
    try:
        while socket.socket.recv(connection, 65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "closed"


def outcomes(sandbox: Sandbox) -> list[tuple[int, bool]]:
    return [(each.status, each.accepted) for each in sandbox.received]


@pytest.mark.parametrize(
    ("path", "event", "status", "content"),
    [
        (ALERTS, TRIGGER, 202, PROCESSED | {"dedup_key": "disk"}),
        (CHANGES, CHANGE, 202, {"status": "success", "message": "Change event processed"}),
        (ALERTS, WRONG_TRIGGER, 400, INVALID | {"errors": WRONG}),
        (ALERTS, TRIGGER | {"routing_key": "f" * 32}, 400, INVALID | {"errors": ["Invalid routing key"]}),
        ("/v1/enqueue", TRIGGER, 404, {"status": "not found", "message": "There is nothing at this path"}),
    ],
    ids=["alert", "change", "broken rules", "unknown key", "unknown path"],
)
def test_a_call_is_answered_as_documented_and_recorded(  # noqa: PLR0913, PLR0917 -- a table
    sandbox: Sandbox, call: Call, path: str, event: dict[str, Any], status: int, content: dict[str, Any]
) -> None:
    reported: list[Received] = []
    sandbox.on_received = reported.append
    sandbox.known_keys = {KEY}

    assert call(event, path) == (status, content)
    assert reported == sandbox.received
    (received,) = reported
    assert (received.path, received.event, received.status, received.number) == (path, event, status, 1)
    assert received.accepted == (status == 202)
    assert [each.title for each in sandbox.incidents] == ["Disk full"] * (path == ALERTS and status == 202)
    assert sandbox.changes == [CHANGE] * (path == CHANGES)

    sandbox.clear()
    assert (sandbox.received, sandbox.incidents, sandbox.changes) == ([], [], [])


def test_calls_over_the_rate_limit_are_throttled_and_have_no_effect(sandbox: Sandbox, call: Call) -> None:
    sandbox.rate_limit = 2
    assert [call()[0], call(CHANGE, CHANGES)[0]] == [202, 202]

    assert call(TRIGGER | {"event_action": "resolve"})[0] == 429
    assert sandbox.incidents[0].status == "triggered"


def test_a_call_without_all_of_its_body_has_no_effect(sandbox: Sandbox) -> None:
    with connect(sandbox.url) as connection:
        connection.sendall(b"POST /v2/enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    sandbox.stop()

    assert sandbox.received == []


GARBLED = b"HTTP/1.1 202 Accepted\r\nContent-Length: -5\r\n\r\n{"


@over_both
@pytest.mark.parametrize(
    ("fault", "reply", "end", "accepted"),
    [
        (NetworkFault.reset_before(), b"", "reset", False),
        (NetworkFault.reset_after(), b"", "reset", True),
        (NetworkFault.hang(0.05, takes_effect=True), b"", "closed", True),
        (NetworkFault.raw(GARBLED), GARBLED, "closed", True),
    ],
    ids=["reset before", "reset after", "hang and end", "garbled"],
)
def test_a_connection_can_break_with_and_without_effect(  # noqa: PLR0913 -- a table
    sandbox: Sandbox, url: str, fault: Fault, reply: bytes, end: str, *, accepted: bool
) -> None:
    sandbox.on_call = lambda _: fault

    with open_call(url) as connection:
        assert connection.recv(65536) == reply if reply else True
        assert end_of(connection) == end
    assert outcomes(sandbox) == [(0, accepted)]


@over_both
@pytest.mark.parametrize("fault", [NetworkFault.hang(), NetworkFault(wait=60)], ids=["hang", "delay"])
def test_stopping_ends_a_waiting_call(sandbox: Sandbox, url: str, fault: Fault) -> None:
    asked = threading.Event()

    def on_call(_: Received) -> Fault:
        asked.set()
        return fault

    sandbox.on_call = on_call
    with open_call(url) as connection:
        assert asked.wait(30)
        start = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - start < 30
        assert end_of(connection) == "closed"
    assert all(one.status == 0 for one in sandbox.received)


@over_both
@pytest.mark.parametrize(("read", "status"), [(b"HTTP/1.1 202", 0), (b"HTTP/1.1 202 Accepted\r\nCon", 202)])
def test_a_client_that_leaves_is_answered_once_it_has_read_the_status(
    sandbox: Sandbox, url: str, read: bytes, status: int
) -> None:
    has_left = threading.Event()
    others = set(threading.enumerate())

    def pieces() -> Iterator[bytes]:
        yield read
        assert has_left.wait(30)
        yield b"the rest"

    sandbox.on_call = lambda _: NetworkFault(pieces=pieces())
    with open_call(url) as connection:
        assert connection.recv(65536) == read
    has_left.set()
    wait_until(lambda: not [each for each in {*threading.enumerate()} - others if "process_request" in each.name])

    assert outcomes(sandbox) == [(status, True)]


@over_both
def test_stopped_it_refuses_connections_and_restarted_it_continues(sandbox: Sandbox, url: str, call: Call) -> None:
    with open_call(url) as idle:
        assert idle.recv(65536).startswith(b"HTTP/1.1 202")
        sandbox.stop()
        assert end_of(idle) == "closed"
    with pytest.raises(urllib3.exceptions.NewConnectionError, match="refused"):
        call()

    sandbox.start()
    assert call()[0] == 202
    assert url in (sandbox.url, sandbox.plain_url)
    assert [one.triggers for one in sandbox.incidents] == [2]
