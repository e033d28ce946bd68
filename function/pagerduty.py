"""The one outbound call: an event is posted to PagerDuty's Events API v2, and its answer is judged.

https://developer.pagerduty.com/docs/send-alert-event, https://developer.pagerduty.com/docs/send-change-event
"""

import http.client
import json
import logging
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from deadline import MIN_CALL, run_with_deadline
from event import Event, Kind
from outcome import Call, Outcome

PATHS: Final[dict[Kind, str]] = {"alert": "/v2/enqueue", "change": "/v2/change/enqueue"}
# Seconds for each address. A connection that is not there after one will not be there after two.
CONNECT_TIMEOUT: Final = 1.0
# Seconds from the status line to the end of the reply, which come together.
REPLY_TIMEOUT: Final = 1.0
# Seconds after which a connection is not reused: what lies between may have dropped it without a word.
MAX_IDLE: Final = 60.0
# One call and at most two quick retries; the long ones are the queue's.
ATTEMPTS: Final = 3
_RETRY_PAUSE: Final = (0.05, 0.2)
# Bytes. PagerDuty's replies have a few hundred.
MAX_REPLY: Final = 64 * 1024
_READ_SIZE: Final = 8 * 1024
_MAX_REASONS: Final = 10
_MAX_REASON_LENGTH: Final = 300
# Also the SemanticVersion in template.yaml, and the newest version in CHANGELOG.md.
VERSION: Final = "2.0.0"
_HEADERS: Final = {"content-type": "application/json", "user-agent": f"rudderstack-pagerduty/{VERSION}"}
_ABOUT_ROUTING_KEY: Final = re.compile("routing.?key", re.IGNORECASE | re.DOTALL)

OK: Final = range(200, 300)
BAD_REQUEST: Final = 400
REQUEST_TIMEOUT: Final = 408
TOO_LARGE: Final = 413
TOO_MANY_REQUESTS: Final = 429
SERVER_ERRORS: Final = range(500, 600)

# What an answer that is none of HTTP's can raise.
_CONNECTION_ERRORS = (HTTPError, http.client.HTTPException, OSError, ValueError)

# It would log headers that it cannot read, and somebody may have written the routing key into them.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class Client:
    """Posts events to PagerDuty at `url`, one at a time, over one connection that is kept alive.

    `pause` waits between two quick retries, and `clock` is the wall clock, which runs on while Lambda freezes the
    process; tests pass their own.
    """

    def __init__(
        self, url: str, pause: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.time
    ) -> None:
        self._url = urllib3.util.parse_url(url)
        # Made once: reading the certificates takes longer than a call.
        self._tls = ssl.create_default_context() if self._url.scheme == "https" else None
        self._connection: HTTPConnection | None = None
        self._used_at = 0.0
        self._pause = pause
        self._clock = clock

    def post(self, event: Event, routing_key: str, deadline: float) -> Outcome:
        """Post the event, and return what became of it at the latest at `deadline` (seconds of the monotonic clock)."""
        path = (self._url.path or "").rstrip("/") + PATHS[event.kind]
        body = b'{"routing_key":' + json.dumps(routing_key).encode() + b"," + event.body[1:]
        outcome = Outcome("deadline_exceeded", "No time was left to call PagerDuty; it will be tried again")
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            if deadline - began < MIN_CALL:
                break
            status = None
            try:
                status, reply = self._exchange(path, body, deadline)
                outcome = _outcome_of(status, reply, routing_key)
            except TimeoutError:
                outcome = Outcome("pagerduty_timeout", "PagerDuty did not answer in time; it will be tried again")
            except _CONNECTION_ERRORS as problem:
                outcome = _unreachable(problem)
            outcome = replace(outcome, call=Call(status, time.monotonic() - began, attempt))
            is_worth_another = status in SERVER_ERRORS or outcome.code == "pagerduty_unreachable"
            if not is_worth_another or attempt == ATTEMPTS:
                break
            self._pause(random.uniform(*_RETRY_PAUSE) * attempt)  # noqa: S311 -- jitter, not a secret
        return outcome

    def close(self) -> None:
        """Close the connection, if there is one; the next event opens another."""
        if self._connection:
            self._connection.close()

    def _exchange(self, path: str, body: bytes, deadline: float) -> tuple[int, bytes | None]:
        """Post once; return the status, and the reply, which is None unless it was read to its end.

        Past the deadline the connection is cut off, and nothing is posted any more. Once the line with the status was
        read, that counts, whatever becomes of the rest. Raises TimeoutError, and what _CONNECTION_ERRORS names.
        """
        connection, self._connection = self._connection or self._new_connection(), None
        is_stale = not 0 <= self._clock() - self._used_at < MAX_IDLE
        if is_stale or not connection.is_connected:
            connection.close()  # PagerDuty may have closed it, or has sent what nobody asked for.
        answers: list[tuple[socket.socket, http.client.HTTPResponse]] = []

        def make_response(sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
            answers.append((sock, http.client.HTTPResponse(sock, **options)))
            return answers[-1][1]

        connection.response_class = make_response  # type: ignore[assignment]  # what makes one is as good as the class
        given_up = threading.Event()
        try:
            content = run_with_deadline(_send_and_receive, deadline, connection, path, body, deadline, given_up)
        except Exception:
            given_up.set()
            sock, response = answers[-1] if answers else (connection.sock, None)
            # http.client sets it once it has read the line of a final status; to cut that off would end it too.
            status: int | None = getattr(response, "code", None)
            _abort(connection, sock)
            if status is None:
                raise
            return status, None
        self._connection, self._used_at = connection, self._clock()
        return answers[-1][1].status, content

    def _new_connection(self) -> HTTPConnection:
        host, port = str(self._url.hostname), self._url.port
        connection = (
            HTTPConnection(host, port) if self._tls is None else HTTPSConnection(host, port, ssl_context=self._tls)
        )
        connection.auto_open = 0  # One that was cut off is not opened again, to post what was given up.
        return connection


def _send_and_receive(
    connection: HTTPConnection, path: str, body: bytes, deadline: float, given_up: threading.Event
) -> bytes:
    """Post once over the connection, and return the reply."""
    if connection.is_closed:
        _connect(connection)
    # To connect may have taken longer than anybody waits for it. The event is then sent again by its sender, and
    # must not be sent from here as well: a trigger that comes after its resolve opens the incident again.
    if given_up.is_set():
        _abort(connection, connection.sock)
        raise TimeoutError("given up while connecting")
    # The response takes the socket away from a connection that is not to be kept alive.
    sock = connection.sock
    connection.timeout = max(MIN_CALL, deadline - time.monotonic())
    connection.request("POST", path, body=body, headers=_HEADERS, preload_content=False, decode_content=False)
    with connection.getresponse() as response:
        sock.settimeout(REPLY_TIMEOUT)
        return _read(response, sock, time.monotonic() + REPLY_TIMEOUT)


def _connect(connection: HTTPConnection) -> None:
    """Connect, with TLS where it is due. Raises ConnectionError, for a time-out too: PagerDuty was not asked yet."""
    connection.timeout = CONNECT_TIMEOUT
    try:
        connection.connect()
    except (HTTPError, OSError) as problem:
        raise ConnectionError(type(problem).__name__) from problem


def _read(response: urllib3.BaseHTTPResponse, sock: socket.socket, end: float) -> bytes:
    """Read the reply. Raises ValueError when the connection must not be used again."""
    if response.status not in range(200, 600):
        raise ValueError("not a final answer")
    content = b""
    while part := response.read1(_READ_SIZE, decode_content=False):
        content += part
        if len(content) > MAX_REPLY or time.monotonic() > end:
            raise ValueError("a longer reply than PagerDuty's")
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        raise ValueError("more than a reply")
    return content


def _abort(connection: HTTPConnection, sock: socket.socket | None) -> None:
    """Close the connection, also when a thread waits for it: that one is woken, and fails."""
    with suppress(OSError):
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
    connection.close()


# -- how an answer is judged -----------------------------------------------------------------------------------------


def _unreachable(problem: Exception) -> Outcome:
    name = str(problem) if type(problem) is ConnectionError else type(problem).__name__
    return Outcome("pagerduty_unreachable", f"PagerDuty could not be reached ({name}); it will be tried again")


def _outcome_of(status: int, reply: bytes | None, routing_key: str) -> Outcome:
    """Tell what a status means; the reply matters to a 400 and a 413 only, and only when it is PagerDuty's own."""
    if status in OK:
        return Outcome("delivered", "PagerDuty accepted the event")
    if status == TOO_MANY_REQUESTS:
        return Outcome(
            "pagerduty_rate_limited", "PagerDuty limits the rate of this routing key; it will be tried again"
        )
    if status == REQUEST_TIMEOUT or status in SERVER_ERRORS:
        return Outcome("pagerduty_unavailable", f"PagerDuty answered {status}; it will be tried again")
    said = _parse_refusal(reply) if status in {BAD_REQUEST, TOO_LARGE} else None
    if said is None:
        return Outcome(
            "pagerduty_unexpected",
            f"PagerDuty answered {status}, and not as its Events API documents it: check PAGERDUTY_URL, and proxies "
            "in between; it will be tried again",
        )
    reasons = _redact(said, routing_key)
    if status == BAD_REQUEST and _ABOUT_ROUTING_KEY.search(" ".join(said)):
        return Outcome(
            "routing_key_refused",
            f"PagerDuty refused the routing key in SSM: {reasons}. Correct the parameter; it will be tried again",
        )
    return Outcome("pagerduty_rejected", f"PagerDuty refused the event for good with {status}: {reasons}")


def _parse_refusal(reply: bytes | None) -> list[str] | None:
    """Read a refusal, `{"status": …, "message": …, "errors": [...]}`; None when it is none of PagerDuty's.

    Its errors come first and its message last. https://developer.pagerduty.com/docs/events-api-v2-overview
    """
    try:
        content = json.loads(reply or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    errors = content.get("errors", [])
    if not isinstance(errors, list) or not all(isinstance(error, str) for error in errors):
        return None
    if not isinstance(content.get("status"), str) or not isinstance(content.get("message"), str):
        return None
    return [*errors, content["message"]]


def _redact(said: list[str], routing_key: str) -> str:
    """Pass on what PagerDuty says is wrong, in bounds, and never the routing key, should it quote it."""
    reasons = said[:-1] or said
    redacted = [
        re.sub(re.escape(routing_key), "[routing key]", reason, flags=re.IGNORECASE)
        for reason in reasons[:_MAX_REASONS]
    ]
    return "; ".join(reason[:_MAX_REASON_LENGTH] for reason in redacted)
