"""The one outbound call: posts an event to PagerDuty's Events API v2, and decides what its answer means.

https://developer.pagerduty.com/docs/send-alert-event, https://developer.pagerduty.com/docs/send-change-event
"""

import http.client
import json
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from deadline import MIN_CALL, run_with_deadline
from event import Event, Kind
from outcome import Call, Outcome

PATHS: Final[dict[Kind, str]] = {"alert": "/v2/enqueue", "change": "/v2/change/enqueue"}
# Seconds for each address. Waiting longer rarely helps.
CONNECT_TIMEOUT: Final = 1.0
# Seconds from the status line to the end of the reply, which PagerDuty sends together.
REPLY_TIMEOUT: Final = 1.0
# Seconds after which a connection is not reused: something in between may have dropped it silently.
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

# What a broken connection, or an answer that is not HTTP, can raise.
_CONNECTION_ERRORS: Final = (HTTPError, http.client.HTTPException, OSError, ValueError)

# It would log headers that it cannot read, which may contain the routing key.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class Client:
    """Posts events to PagerDuty at `url`, one at a time, over one connection that is kept alive.

    `pause` waits between quick retries. `clock` is the wall clock, since the monotonic clock may stop while Lambda
    freezes the process.
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
        """Post the event and return its outcome, by `deadline` (seconds of the monotonic clock)."""
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
            except _CONNECTION_ERRORS as error:
                name = str(error) if type(error) is ConnectionError else type(error).__name__
                message = f"PagerDuty could not be reached ({name}); it will be tried again"
                outcome = Outcome("pagerduty_unreachable", message)
            outcome = replace(outcome, call=Call(status, time.monotonic() - began, attempt))
            may_succeed_soon = status in range(500, 600) or outcome.code == "pagerduty_unreachable"
            pause = random.uniform(*_RETRY_PAUSE) * attempt  # noqa: S311 -- jitter, not a secret
            if not may_succeed_soon or attempt == ATTEMPTS or deadline - time.monotonic() < pause + MIN_CALL:
                break
            self._pause(pause)
        return outcome

    def close(self) -> None:
        """Close the connection, if there is one; the next event opens another."""
        if self._connection:
            self._connection.close()

    def _exchange(self, path: str, body: bytes, deadline: float) -> tuple[int, bytes | None]:
        """Post once; return the status, and the reply, which is None unless it was read to its end.

        Once the status line is read, the status stands even if the reply is lost. Raises TimeoutError at the deadline,
        after which nothing is sent, and _CONNECTION_ERRORS.
        """
        connection, self._connection = self._connection or self._new_connection(), None
        is_stale = not 0 <= self._clock() - self._used_at < MAX_IDLE
        if is_stale or not connection.is_connected:
            connection.close()  # PagerDuty may have closed it, or sent something unasked.
        exchange = _Exchange(connection, deadline)
        try:
            status, reply = run_with_deadline(exchange.post, deadline, path, body)
        except Exception:
            known_status = exchange.abort()
            if known_status is None:
                raise
            return known_status, None
        self._connection, self._used_at = connection, self._clock()
        return status, reply

    def _new_connection(self) -> HTTPConnection:
        host, port = str(self._url.hostname), self._url.port
        connection = HTTPSConnection(host, port, ssl_context=self._tls) if self._tls else HTTPConnection(host, port)
        connection.auto_open = 0  # An aborted one must not connect again to post what was given up.
        return connection


class _Exchange:
    """One request over a connection and its response: made in one thread, and aborted from another."""

    def __init__(self, connection: HTTPConnection, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._is_aborted = False
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Post the body, and return the status and the reply. Raises TimeoutError and _CONNECTION_ERRORS."""
        connection = self._connection
        if connection.is_closed:
            _connect(connection)
        if self._is_aborted:  # While connecting. By now the event may have been sent from the queue.
            self.abort()
            raise TimeoutError("aborted while connecting")
        # Kept, since the response takes it from a connection that is not kept alive.
        self._socket = connection.sock
        connection.timeout = max(MIN_CALL, self._deadline - time.monotonic())
        connection.response_class = self._new_response  # type: ignore[assignment]  # called like the class
        connection.request("POST", path, body=body, headers=_HEADERS, preload_content=False, decode_content=False)
        with connection.getresponse() as response:
            self._socket.settimeout(REPLY_TIMEOUT)
            return response.status, _read(response, self._socket)

    def abort(self) -> int | None:
        """Close the connection, which wakes a thread that waits for it; return the status if its line was read."""
        status: object = self._response and self._response.status  # A text until then. Closing may complete the line.
        self._is_aborted = True
        with suppress(OSError):
            if sock := self._socket or self._connection.sock:
                sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        return status if isinstance(status, int) else None

    def _new_response(self, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
        self._response = http.client.HTTPResponse(sock, **options)
        return self._response


def _connect(connection: HTTPConnection) -> None:
    """Connect, with TLS if needed. Raises ConnectionError, also for a timeout: nothing was sent yet."""
    connection.timeout = CONNECT_TIMEOUT
    try:
        connection.connect()
    except (HTTPError, OSError) as error:
        raise ConnectionError(type(error).__name__) from error


def _read(response: urllib3.BaseHTTPResponse, sock: socket.socket) -> bytes:
    """Read the reply. Raises ValueError if the connection must not be reused."""
    end = time.monotonic() + REPLY_TIMEOUT
    if response.status not in range(200, 600):
        raise ValueError("not a final response")
    content = b""
    while part := response.read1(_READ_SIZE, decode_content=False):
        content += part
        if len(content) > MAX_REPLY or time.monotonic() > end:
            raise ValueError("a longer reply than PagerDuty's")
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        raise ValueError("more than one reply")
    return content


def _outcome_of(status: int, reply: bytes | None, routing_key: str) -> Outcome:
    """Return the outcome for a response. The reply matters to a 400 and a 413 only, and only if it is PagerDuty's."""
    if status in range(200, 300):
        return Outcome("delivered", "PagerDuty accepted the event")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        message = "PagerDuty limits the rate of this routing key; it will be tried again"
        return Outcome("pagerduty_rate_limited", message)
    if status == HTTPStatus.REQUEST_TIMEOUT or status in range(500, 600):
        return Outcome("pagerduty_unavailable", f"PagerDuty answered {status}; it will be tried again")
    errors = _parse_refusal(reply) if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE} else None
    if errors is None:
        advice = "check PAGERDUTY_URL, and proxies in between; it will be tried again"
        message = f"PagerDuty answered {status}, and not as its Events API documents it: {advice}"
        return Outcome("pagerduty_unexpected", message)
    reasons = _redact(errors[:-1] or errors, routing_key)
    if status == HTTPStatus.BAD_REQUEST and _ABOUT_ROUTING_KEY.search(" ".join(errors)):
        message = f"PagerDuty refused the routing key in SSM: {reasons}. Correct the parameter; it will be tried again"
        return Outcome("routing_key_refused", message)
    return Outcome("pagerduty_rejected", f"PagerDuty refused the event for good with {status}: {reasons}")


def _parse_refusal(reply: bytes | None) -> list[str] | None:
    """Return the errors of `{"status": …, "message": …, "errors": [...]}`, and its message; None if it is not that.

    https://developer.pagerduty.com/docs/events-api-v2-overview
    """
    try:
        content = json.loads(reply or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("status"), str):
        return None
    errors = content.get("errors", [])
    texts: list[Any] = [*errors, content.get("message")] if isinstance(errors, list) else [None]
    return texts if all(isinstance(text, str) for text in texts) else None


def _redact(errors: list[str], routing_key: str) -> str:
    """Return PagerDuty's errors, shortened, and without the routing key, should one contain it."""
    key = re.compile(re.escape(routing_key), re.IGNORECASE)
    return "; ".join(key.sub("[routing key]", error)[:_MAX_REASON_LENGTH] for error in errors[:_MAX_REASONS])
