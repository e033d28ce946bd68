"""The PagerDuty sandbox: its answers, the life of an incident, and every way to fail, as real clients see them."""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest
import urllib3

from chaos.faults import Fault
from local.options import RATE_LIMIT
from local.pagerduty_rules import Incident
from local.sandbox import Received, Sandbox, ca_file

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "0123456789abcdefABCDEF0123456789"
OTHER_KEY = "f" * 32
ALERTS = "/v2/enqueue"
CHANGES = "/v2/change/enqueue"
# Over TLS, as in production, and without, as from a container that does not know the CA.
over_both = pytest.mark.parametrize("url", ["url", "plain_url"], indirect=True)

DISK_FULL = {"summary": "Disk full", "source": "db1", "severity": "error"}
TRIGGER = {"routing_key": KEY, "event_action": "trigger", "dedup_key": "disk", "payload": DISK_FULL}
CHANGE = {"routing_key": KEY, "payload": {"summary": "Deployed"}}
WRONG_SEVERITY = "'payload.severity' is invalid (must be one of: critical, error, warning, info)"


@pytest.fixture(scope="module")
def client() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        yield pool


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest, sandbox: Sandbox) -> str:
    """Speak TLS to the sandbox, unless a test asks for something else."""
    found: str = getattr(sandbox, getattr(request, "param", "url"))
    return found


class Caller:
    """Posts to a sandbox and returns status and body."""

    def __init__(self, client: urllib3.PoolManager, url: str) -> None:
        self._client = client
        self._url = url

    def __call__(self, path: str, event: object, method: str = "POST") -> tuple[int, Any]:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        response = self._client.request(method, self._url + path, body=body)
        return response.status, response.json()

    def status(self, event: object, path: str = ALERTS) -> int:
        return self(path, event)[0]


@pytest.fixture
def call(client: urllib3.PoolManager, url: str) -> Caller:
    return Caller(client, url)


def act(action: str, dedup_key: str = "disk", routing_key: str = KEY) -> dict[str, Any]:
    return {**TRIGGER, "event_action": action, "dedup_key": dedup_key, "routing_key": routing_key}


def trigger(**payload: str) -> dict[str, Any]:
    return {**TRIGGER, "payload": DISK_FULL | payload}


def invalid(*errors: str) -> tuple[int, dict[str, Any]]:
    return 400, {"status": "invalid event", "message": "Event object is invalid", "errors": list(errors)}


def connect(url: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=5)
    if url.startswith("https:"):
        return trusting().wrap_socket(connection, server_hostname="127.0.0.1")
    return connection


@functools.cache
def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file())


def encoded(event: dict[str, Any], path: str = ALERTS) -> bytes:
    body = json.dumps(event).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def open_call(url: str) -> socket.socket:
    """Send a call over a connection of its own and leave the answer to be read."""
    connection = connect(url)
    connection.sendall(encoded(TRIGGER))
    return connection


def end_of(connection: socket.socket) -> str:
    """Read on, below TLS: in it, Python's ssl may take a reset for an orderly end (python/cpython issue 115627)."""
    try:
        while socket.socket.recv(connection, 65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "closed"


# What is answered


def test_a_trigger_is_answered_with_its_dedup_key(call: Caller) -> None:
    assert call(ALERTS, TRIGGER) == (
        202,
        {"status": "success", "message": "Event processed", "dedup_key": "disk"},
    )


def test_a_change_event_is_answered_without_a_dedup_key(call: Caller) -> None:
    assert call(CHANGES, CHANGE) == (202, {"status": "success", "message": "Change event processed"})


def test_a_trigger_without_a_dedup_key_gets_one_of_its_own(call: Caller) -> None:
    event = {name: value for name, value in TRIGGER.items() if name != "dedup_key"}

    keys = [call(ALERTS, event)[1]["dedup_key"] for _ in range(2)]

    assert all(re.fullmatch(r"[0-9a-f]{32}", key) for key in keys)
    assert keys[0] != keys[1]


def test_an_event_that_breaks_rules_is_refused_with_all_of_them(call: Caller) -> None:
    event = {**trigger(severity="high"), "typo": 1}

    assert call(ALERTS, event) == invalid("'typo' is not a known field", WRONG_SEVERITY)


def test_a_key_that_does_not_exist_is_refused_when_the_keys_are_known(sandbox: Sandbox, call: Caller) -> None:
    sandbox.known_keys = {KEY}

    assert call.status(TRIGGER) == 202
    assert call.status(CHANGE, CHANGES) == 202
    assert call(ALERTS, act("trigger", routing_key=OTHER_KEY)) == invalid("Invalid routing key")
    assert call(CHANGES, {**CHANGE, "routing_key": OTHER_KEY}) == invalid("Invalid routing key")


@pytest.mark.parametrize("path", ["/", "/v2/enqueue/", "/v1/enqueue", "/v2/change"])
def test_an_unknown_path_is_not_found(sandbox: Sandbox, call: Caller, path: str) -> None:
    assert call(path, TRIGGER) == (404, {"status": "not found", "message": "There is nothing at this path"})
    assert (sandbox.received[-1].kind, sandbox.received[-1].path, sandbox.received[-1].accepted) == ("", path, False)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(call: Caller, method: str) -> None:
    assert call(ALERTS, TRIGGER, method) == (
        405,
        {"status": "method not allowed", "message": "Events are sent by POST"},
    )


@pytest.mark.parametrize(
    ("method", "status", "first_line"),
    [
        (b"HEAD", None, b"HTTP/1.1 405 Method Not Allowed"),
        (b"POST", 204, b"HTTP/1.1 204 No Content"),
        (b"POST", 304, b"HTTP/1.1 304 Not Modified"),
    ],
)
def test_what_has_no_body_is_answered_without_one(
    sandbox: Sandbox, method: bytes, status: int | None, first_line: bytes
) -> None:
    sandbox.on_call = lambda _: Fault.answer(status, "text") if status else None
    with connect(sandbox.url) as connection:
        connection.sendall(
            method + b" /v2/enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        )
        answer = connection.makefile("rb").read()

    assert answer.split(b"\r\n")[0] == first_line
    assert answer.endswith(b"\r\n\r\n")


# The life of an incident


def test_a_trigger_opens_an_incident(sandbox: Sandbox, call: Caller) -> None:
    call(ALERTS, TRIGGER)

    assert sandbox.incidents == [Incident(KEY, "disk", "Disk full", "error", DISK_FULL, "triggered", 1)]
    assert sandbox.incident("disk") is sandbox.incident("disk", KEY) is sandbox.incidents[0]
    assert sandbox.incident("another") is None
    assert sandbox.incident("disk", OTHER_KEY) is None


def test_triggers_of_one_key_merge_into_the_open_incident(sandbox: Sandbox, call: Caller) -> None:
    call(ALERTS, TRIGGER)
    call(ALERTS, trigger(summary="Disk still full"))

    still_full = {**DISK_FULL, "summary": "Disk still full"}
    assert sandbox.incidents == [Incident(KEY, "disk", "Disk full", "error", still_full, "triggered", 2)]


def test_the_severity_of_an_alert_rises_and_never_falls(sandbox: Sandbox, call: Caller) -> None:
    severities = []
    for severity in ("warning", "critical", "info"):
        call(ALERTS, trigger(severity=severity))
        severities.append(sandbox.incidents[0].severity)

    assert severities == ["warning", "critical", "critical"]


def test_an_incident_is_acknowledged_and_resolved(sandbox: Sandbox, call: Caller) -> None:
    statuses = []
    for action in ("trigger", "acknowledge", "acknowledge", "trigger", "resolve"):
        call(ALERTS, act(action))
        statuses.append(sandbox.incidents[0].status)

    assert statuses == ["triggered", "acknowledged", "acknowledged", "acknowledged", "resolved"]
    assert [one.triggers for one in sandbox.incidents] == [2]
    assert [change.what for change in sandbox.incidents[0].history] == [
        "triggered",
        "acknowledged",
        "acknowledged",
        "triggered again",
        "resolved",
    ]
    assert all(one.accepted for one in sandbox.received)


def test_a_trigger_after_the_resolve_opens_a_new_incident(sandbox: Sandbox, call: Caller) -> None:
    for action in ("trigger", "resolve", "trigger"):
        call(ALERTS, act(action))

    assert [one.status for one in sandbox.incidents] == ["resolved", "triggered"]
    assert sandbox.incident("disk") is sandbox.incidents[1]


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_without_an_open_incident_it_is_dropped_silently(sandbox: Sandbox, call: Caller, action: str) -> None:
    success = (202, {"status": "success", "message": "Event processed", "dedup_key": "disk"})

    assert call(ALERTS, act(action)) == success
    assert sandbox.incidents == []
    call(ALERTS, act("trigger"))
    call(ALERTS, act("resolve"))
    assert call(ALERTS, act(action)) == success
    assert [one.status for one in sandbox.incidents] == ["resolved"]
    assert [one.accepted for one in sandbox.received] == [False, True, True, False]


def test_the_same_dedup_key_under_another_routing_key_is_another_incident(sandbox: Sandbox, call: Caller) -> None:
    call(ALERTS, act("trigger"))
    call(ALERTS, act("resolve", routing_key=OTHER_KEY))
    call(ALERTS, act("trigger", routing_key=OTHER_KEY))

    assert [(one.routing_key, one.status) for one in sandbox.incidents] == [
        (KEY, "triggered"),
        (OTHER_KEY, "triggered"),
    ]
    assert sandbox.incident("disk") is sandbox.incidents[1]
    assert sandbox.incident("disk", KEY) is sandbox.incidents[0]


def test_each_change_event_is_recorded_also_the_same_again(sandbox: Sandbox, call: Caller) -> None:
    call(CHANGES, CHANGE)
    call(CHANGES, CHANGE)

    assert sandbox.changes == [CHANGE, CHANGE]
    assert sandbox.incidents == []


def test_a_refused_event_changes_nothing(sandbox: Sandbox, call: Caller) -> None:
    call(ALERTS, trigger(severity="high"))
    call(CHANGES, {**CHANGE, "dedup_key": "x"})

    assert (sandbox.incidents, sandbox.changes) == ([], [])
    assert [one.errors for one in sandbox.received] == [(WRONG_SEVERITY,), ("'dedup_key' is not a known field",)]


# What is told about the calls


def test_every_call_is_told_before_it_is_answered(sandbox: Sandbox, call: Caller) -> None:
    told: list[Received] = []
    sandbox.on_received = told.append

    call(ALERTS, TRIGGER)

    assert told == [Received("alert", ALERTS, TRIGGER, 202, (), accepted=True, number=1)]
    assert sandbox.received == told
    call(CHANGES, CHANGE)
    assert told[1:] == [Received("change", CHANGES, CHANGE, 202, (), accepted=True, number=2)]


def test_cleared_it_has_seen_nothing(sandbox: Sandbox, call: Caller) -> None:
    sandbox.rate_limit = 2
    call(ALERTS, TRIGGER)
    call(CHANGES, CHANGE)

    sandbox.clear()

    assert (sandbox.received, sandbox.incidents, sandbox.changes, sandbox.incident("disk")) == ([], [], [], None)
    assert call.status(TRIGGER) == 202
    assert sandbox.received[0].number == 1


@over_both
def test_many_clients_at_once_lose_nothing(sandbox: Sandbox, call: Caller) -> None:
    asked = []
    sandbox.on_call = lambda received: asked.append(received.number)

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(call.status, [TRIGGER] * 200))

    assert statuses == [202] * 200
    assert [one.triggers for one in sandbox.incidents] == [200]
    assert asked == list(range(1, 201))
    assert sorted(one.number for one in sandbox.received) == asked


@over_both
def test_a_connection_serves_many_calls(url: str) -> None:
    with open_call(url) as connection:
        answers = [connection.recv(65536)]
        connection.sendall(encoded(CHANGE, CHANGES))
        answers.append(connection.recv(65536))

    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 202 Accepted"] * 2


def test_a_post_without_a_length_is_refused_and_ends_the_connection(sandbox: Sandbox) -> None:
    with connect(sandbox.url) as connection:
        connection.sendall(b"POST /v2/enqueue HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@over_both
def test_a_call_broken_off_in_its_body_is_none(sandbox: Sandbox, url: str, call: Caller) -> None:
    with connect(url) as connection:
        connection.sendall(b"POST /v2/enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    assert call.status(TRIGGER) == 202

    sandbox.stop()

    assert len(sandbox.received) == 1


def test_a_mistake_in_what_misbehaves_is_shown(
    sandbox: Sandbox, call: Caller, capsys: pytest.CaptureFixture[str]
) -> None:
    def mistake(_: Received) -> Fault:
        raise AssertionError("no such event was expected")

    sandbox.on_call = mistake
    with pytest.raises(urllib3.exceptions.ProtocolError):
        call(ALERTS, TRIGGER)
    sandbox.stop()

    assert "no such event was expected" in capsys.readouterr().err


# TLS


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "localhost", "host.docker.internal"])
def test_its_certificate_is_for_every_name_of_this_machine(sandbox: Sandbox, name: str) -> None:
    connection = connect(sandbox.plain_url)

    with trusting().wrap_socket(connection, server_hostname=name) as encrypted:
        assert encrypted.version() == "TLSv1.3"


def test_its_certificate_is_not_for_pagerduty(sandbox: Sandbox) -> None:
    with (
        connect(sandbox.plain_url) as connection,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        trusting().wrap_socket(connection, server_hostname="events.pagerduty.com")


def test_a_client_that_does_not_know_the_ca_refuses_it(sandbox: Sandbox) -> None:
    with (
        connect(sandbox.plain_url) as connection,
        pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"),
    ):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(connection, server_hostname="127.0.0.1")


def test_a_client_process_learns_the_ca_from_its_environment(sandbox: Sandbox) -> None:
    post = "import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode())).status)"

    status = subprocess.run(  # noqa: S603 -- our own line of Python
        [sys.executable, "-c", post, sandbox.url + ALERTS, json.dumps(TRIGGER)],
        env={"SSL_CERT_FILE": str(ca_file())},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert status == "202\n"


def test_the_file_with_the_ca_goes_with_the_process() -> None:
    show = "from local.sandbox import ca_file; print(ca_file(), ca_file().exists())"

    path, existed = subprocess.check_output(  # noqa: S603 -- our own line of Python
        [sys.executable, "-c", show], cwd=Path(__file__).parents[2], text=True
    ).split()

    assert existed == "True"
    assert path != str(ca_file())
    assert not Path(path).parent.exists()


@over_both
def test_a_connection_is_kept(url: str) -> None:
    with urllib3.connection_from_url(url, retries=False, timeout=5) as pool:
        for _ in range(3):
            assert pool.request("POST", ALERTS, body=json.dumps(TRIGGER)).status == 202

        assert pool.num_connections == 1


@pytest.mark.parametrize("beginning", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_a_client_that_does_not_go_on_holds_up_neither_the_others_nor_the_end(
    sandbox: Sandbox, call: Caller, beginning: bytes
) -> None:
    before = set(threading.enumerate())
    with connect(sandbox.plain_url) as connection:
        connection.sendall(beginning)
        assert call.status(TRIGGER) == 202
        start = time.monotonic()

        sandbox.stop()

        assert time.monotonic() - start < 1
        assert connection.recv(1) == b""
    assert sandbox_threads_end(before)


def test_a_handshake_that_fails_ends_its_connection_and_nothing_else(
    sandbox: Sandbox, call: Caller, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(sandbox.plain_url) as connection:
        connection.sendall(b"\x16\x03\x01\x00\x05hello")
        alert = connection.makefile("rb").read()

    assert alert[:1] == b"\x15"
    assert call.status(TRIGGER) == 202
    assert capsys.readouterr().err == ""


def test_the_end_of_a_connection_is_told_as_tls_does(sandbox: Sandbox) -> None:
    connection = connect(sandbox.plain_url)
    with trusting().wrap_socket(connection, server_hostname="localhost", suppress_ragged_eofs=False) as encrypted:
        encrypted.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

        assert encrypted.makefile("rb").read().startswith(b"HTTP/1.1 404 Not Found\r\n")


# The rate limit


def test_calls_over_the_rate_are_throttled_and_not_ingested(sandbox: Sandbox, call: Caller) -> None:
    sandbox.rate_limit = 2
    call(ALERTS, TRIGGER)
    call(CHANGES, CHANGE)

    assert call(ALERTS, act("resolve")) == (
        429,
        {
            "status": "throttle exceeded",
            "message": "Requests for this service are arriving too quickly. Please retry later.",
        },
    )
    assert call.status(CHANGE, CHANGES) == 429
    assert [one.status for one in sandbox.incidents] == ["triggered"]
    assert sandbox.changes == [CHANGE]
    assert [one.accepted for one in sandbox.received] == [True, True, False, False]


def test_every_routing_key_has_a_rate_of_its_own(sandbox: Sandbox, call: Caller) -> None:
    sandbox.rate_limit = 1

    assert [call.status(act("trigger", routing_key=key)) for key in (KEY, OTHER_KEY, KEY)] == [202, 202, 429]


def test_the_window_of_the_rate_slides(sandbox: Sandbox, call: Caller) -> None:
    seconds = iter([0, 30, 59.9, 60, 61, 90])
    sandbox.rate_limit = 2
    sandbox.clock = lambda: next(seconds)

    assert [call.status(TRIGGER) for _ in range(6)] == [202, 202, 429, 202, 429, 202]


def test_the_documented_rate_is_120_calls_a_minute() -> None:
    assert (RATE_LIMIT, Sandbox().window) == (120, 60.0)


# The ways to fail


def test_any_status_can_be_answered_and_only_2xx_takes_effect(client: urllib3.PoolManager, sandbox: Sandbox) -> None:
    for status in range(200, 600):
        sandbox.clear()
        sandbox.on_call = lambda _, status=status: Fault.answer(status)
        response = client.request("POST", sandbox.url + ALERTS, body=json.dumps(TRIGGER), redirect=False)

        assert response.status == status
        assert [one.status for one in sandbox.received] == [status]
        assert len(sandbox.incidents) == (1 if status < 300 else 0)


def test_a_told_answer_has_the_body_it_is_told(client: urllib3.PoolManager, sandbox: Sandbox) -> None:
    errors = {"status": "invalid event", "message": "Event object is invalid", "errors": ["Because"]}
    faults = [
        Fault.answer(400, errors),
        Fault.answer(202, "<html>Accepted</html>"),
        Fault.answer(429),
    ]
    sandbox.on_call = lambda received: faults[received.number - 1]

    answers = [client.request("POST", sandbox.url + ALERTS, body=json.dumps(TRIGGER)) for _ in faults]

    assert [answer.data for answer in answers] == [
        json.dumps(errors).encode(),
        b"<html>Accepted</html>",
        b'{"status": "too many requests", "message": "Told to answer 429"}',
    ]
    assert [answer.headers["Content-Type"] for answer in answers] == ["application/json"] * 3
    assert [one.accepted for one in sandbox.received] == [False, True, False]


def test_an_event_can_take_effect_behind_an_error_and_not_behind_a_success(sandbox: Sandbox, call: Caller) -> None:
    sandbox.on_call = lambda _: Fault.answer(500, takes_effect=True)
    assert call.status(act("trigger", "a")) == 500
    sandbox.on_call = lambda _: Fault.answer(202, takes_effect=False)
    assert call.status(act("trigger", "b")) == 202

    assert [one.dedup_key for one in sandbox.incidents] == ["a"]
    assert [one.accepted for one in sandbox.received] == [True, False]


def test_an_event_for_a_deleted_integration_is_discarded_behind_a_success(sandbox: Sandbox, call: Caller) -> None:
    sandbox.on_call = lambda _: Fault(takes_effect=False)

    assert call(ALERTS, TRIGGER) == (202, {"status": "success", "message": "Event processed"})
    assert (sandbox.incidents, [one.accepted for one in sandbox.received]) == ([], [False])


def test_an_invalid_event_takes_no_effect_whatever_is_answered(sandbox: Sandbox, call: Caller) -> None:
    sandbox.on_call = lambda _: Fault.answer(202)

    assert call.status(trigger(severity="high")) == 202
    assert sandbox.incidents == []
    assert [(one.errors, one.accepted) for one in sandbox.received] == [((WRONG_SEVERITY,), False)]


def test_it_misbehaves_by_what_it_was_sent_and_holds(sandbox: Sandbox, call: Caller) -> None:
    sandbox.on_call = lambda received: (
        Fault.answer(503) if received.event["dedup_key"] == "bad" and sandbox.incident("good") else None
    )

    assert [call.status(act("trigger", key)) for key in ("bad", "good", "bad")] == [202, 202, 503]


def test_a_delayed_call_goes_on_as_usual(sandbox: Sandbox, call: Caller) -> None:
    sandbox.on_call = lambda _: Fault.delay(0.05)
    start = time.monotonic()

    assert call.status(TRIGGER) == 202
    assert time.monotonic() - start >= 0.05
    assert [one.accepted for one in sandbox.received] == [True]


@over_both
def test_a_reset_before_the_effect_leaves_no_trace(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: Fault.reset_before()

    with open_call(url) as connection:
        assert end_of(connection) == "reset"

    assert sandbox.incidents == []
    assert sandbox.received == [Received("alert", ALERTS, TRIGGER, 0, (), accepted=False, number=1)]


@over_both
def test_a_reset_after_the_effect_loses_only_the_answer(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: Fault.reset_after()

    with open_call(url) as connection:
        assert end_of(connection) == "reset"

    assert len(sandbox.incidents) == 1
    assert sandbox.received == [Received("alert", ALERTS, TRIGGER, 0, (), accepted=True, number=1)]


@over_both
def test_a_call_can_go_without_an_answer(client: urllib3.PoolManager, sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: Fault.hang()

    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        client.request("POST", url + ALERTS, body=json.dumps(TRIGGER), timeout=0.05)

    assert sandbox.incidents == []
    assert [(one.status, one.accepted) for one in sandbox.received] == [(0, False)]


@over_both
def test_a_hanging_call_can_take_effect_and_end(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: Fault.hang(0.05, takes_effect=True)

    with open_call(url) as connection:
        assert end_of(connection) == "closed"

    assert len(sandbox.incidents) == 1
    assert [(one.status, one.accepted) for one in sandbox.received] == [(0, True)]


@over_both
def test_an_answer_can_come_byte_by_byte(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: Fault.trickle(0.001)
    start = time.monotonic()

    with open_call(url) as connection:
        pieces = [connection.recv(65536)]
        response = http.client.HTTPResponse(connection)
        while not b"".join(pieces).endswith(b"}"):
            pieces.append(connection.recv(65536))
        response.close()

    assert pieces[0] == b"H"
    assert b"".join(pieces).startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert b"".join(pieces).endswith(b'{"status": "success", "message": "Event processed", "dedup_key": "disk"}')
    assert time.monotonic() - start >= 0.001 * len(b"".join(pieces))


@over_both
def test_an_answer_that_nobody_waited_for_is_none(sandbox: Sandbox, url: str) -> None:
    told, gone = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    def hold(_: Received) -> None:
        told.set()
        assert gone.wait(5)

    sandbox.on_received = hold
    with open_call(url):
        assert told.wait(5)
    gone.set()
    assert sandbox_threads_end(before)

    assert [(one.status, one.accepted) for one in sandbox.received] == [(0, True)]


@over_both
@pytest.mark.parametrize(("waits_for", "status"), [(b"HTTP/1.1 202", 0), (b"HTTP/1.1 202 Accepted\r\nCon", 202)])
def test_a_client_that_leaves_is_answered_once_it_was_told_the_status(
    sandbox: Sandbox, url: str, waits_for: bytes, status: int
) -> None:
    before = set(threading.enumerate())
    sandbox.on_call = lambda _: Fault.trickle(0.01)

    with open_call(url) as connection:
        told = b""
        while not told.startswith(waits_for):
            told += connection.recv(1)
    assert sandbox_threads_end(before)

    assert [(one.status, one.accepted) for one in sandbox.received] == [(status, True)]


GARBLED = b"HTTP/1.1 202 Accepted\r\nContent-Length: -5\r\n\r\n{"


@over_both
@pytest.mark.parametrize(("ending", "end"), [("close", "closed"), ("reset", "reset")])
def test_any_bytes_can_be_answered_before_the_connection_ends(
    sandbox: Sandbox, url: str, ending: Literal["close", "reset"], end: str
) -> None:
    sandbox.on_call = lambda _: Fault.raw(GARBLED, ending=ending)

    with open_call(url) as connection:
        assert connection.recv(65536) == GARBLED
        assert end_of(connection) == end

    assert [(one.status, one.accepted) for one in sandbox.received] == [(0, True)]


@over_both
def test_an_answer_can_break_off_and_leave_the_client_waiting_until_it_hangs_up(sandbox: Sandbox, url: str) -> None:
    before = set(threading.enumerate())
    sandbox.on_call = lambda _: Fault.raw(GARBLED, ending="hold", takes_effect=False)

    with open_call(url) as connection:
        assert connection.recv(65536) == GARBLED
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert sandbox_threads_end(before)

    assert [(one.status, one.accepted) for one in sandbox.received] == [(0, False)]


@over_both
def test_after_any_bytes_the_connection_can_take_the_next_call(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda received: Fault.raw(GARBLED, ending="keep") if received.number == 1 else None

    with open_call(url) as connection:
        assert connection.recv(65536) == GARBLED
        connection.sendall(encoded(TRIGGER))
        assert connection.recv(65536).startswith(b"HTTP/1.1 202 Accepted\r\n")


@over_both
def test_an_answer_can_come_in_pieces(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: Fault.raw([b"HTTP/1.1", b" 202"], pause=0.05)
    start = time.monotonic()

    with open_call(url) as connection:
        assert connection.recv(65536) == b"HTTP/1.1"
        assert connection.recv(65536) == b" 202"

    assert time.monotonic() - start >= 0.1


@over_both
@pytest.mark.parametrize("pause", [0.0, 0.001])
def test_an_answer_without_an_end_lasts_until_the_client_hangs_up(sandbox: Sandbox, url: str, pause: float) -> None:
    before = set(threading.enumerate())
    sandbox.on_call = lambda _: Fault.raw(itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), pause=pause)

    with open_call(url) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert sandbox_threads_end(before)


def test_faults_combine(sandbox: Sandbox, url: str) -> None:
    sandbox.on_call = lambda _: replace(Fault.answer(503, "Busy"), wait=0.02, pause=0.001)
    start = time.monotonic()

    with open_call(url) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()

        assert (response.status, response.read()) == (503, b"Busy")
        assert time.monotonic() - start >= 0.04


# Starting and stopping


def sandbox_threads_end(before: set[threading.Thread]) -> bool:
    """Wait for the threads that were not there before, and tell whether all have ended."""
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(5)
    return not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.delay(60), Fault(hold=60), Fault.trickle(60)])
@over_both
def test_stopping_ends_a_hanging_call_at_once(sandbox: Sandbox, url: str, fault: Fault) -> None:
    before = set(threading.enumerate())
    asked = threading.Event()

    def on_call(_: Received) -> Fault:
        asked.set()
        return fault

    sandbox.on_call = on_call
    with open_call(url) as connection, open_call(url):
        assert asked.wait(5)
        start = time.monotonic()

        sandbox.stop()

        assert time.monotonic() - start < 1
        assert connection.recv(1) == b""
    assert sandbox_threads_end(before)
    assert all(one.status == 0 for one in sandbox.received)


@over_both
def test_stopping_ends_an_answer_without_an_end_that_nobody_reads(sandbox: Sandbox, url: str) -> None:
    before = set(threading.enumerate())
    sandbox.on_call = lambda _: Fault.raw(itertools.repeat(b"x" * 65536))

    with open_call(url) as connection:
        assert connection.recv(1) == b"x"
        start = time.monotonic()

        sandbox.stop()

        assert time.monotonic() - start < 1
        assert sandbox_threads_end(before)


@over_both
def test_stopping_closes_idle_connections(sandbox: Sandbox, url: str) -> None:
    with open_call(url) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 202")

        sandbox.stop()

        assert connection.recv(1) == b""


@over_both
def test_stopped_it_refuses_connections_and_started_again_it_goes_on(sandbox: Sandbox, url: str, call: Caller) -> None:
    call(ALERTS, TRIGGER)

    for _ in range(3):
        sandbox.stop()
        with pytest.raises(urllib3.exceptions.NewConnectionError, match="refused"):
            call(ALERTS, TRIGGER)
        sandbox.start()
        assert call.status(TRIGGER) == 202

    assert url in (sandbox.url, sandbox.plain_url)
    assert [one.triggers for one in sandbox.incidents] == [4]


def test_stopping_twice_is_harmless_and_starting_twice_is_a_mistake(sandbox: Sandbox) -> None:
    with pytest.raises(RuntimeError, match=f"already listens at {sandbox.url}"):
        sandbox.start()

    sandbox.stop()
    sandbox.stop()


def test_a_port_that_is_taken_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"):
        Sandbox(urlsplit(sandbox.url).port or 0).start()


def test_it_can_be_stopped_by_what_it_tells(client: urllib3.PoolManager, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    with Sandbox() as running:
        running.on_received = lambda _: running.stop()
        with pytest.raises(urllib3.exceptions.ProtocolError):
            Caller(client, running.url).status(TRIGGER)
        assert sandbox_threads_end(before)

    assert [(one.status, one.accepted) for one in running.received] == [(0, True)]
    assert capsys.readouterr().err == ""
