"""The one outbound call: an encoded event is posted to PagerDuty's Events API v2, and its answer is judged.

https://developer.pagerduty.com/docs/send-alert-event, https://developer.pagerduty.com/docs/send-change-event
"""

import http.client
import io
import json
import random
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError

from errors import Deferred, Exchange, NotSentError, Rejected
from mapping import Kind

PATHS: Final[dict[Kind, str]] = {"alert": "/v2/enqueue", "change": "/v2/change/enqueue"}
# Calls at the same time out of one process: 100 events of 150 ms each are done in four rounds.
PARALLEL_CALLS: Final = 32
# Seconds. A connection that is not there after one will not be there after two.
CONNECT_TIMEOUT: Final = 1.0
# Seconds. With less than this left until the deadline, a call is not begun.
SHORTEST_CALL: Final = 0.25
# One call and at most two quick retries; the long ones are RudderStack's, or the queue's.
ATTEMPTS: Final = 3
_RETRY_PAUSE: Final = (0.05, 0.2)
# Bytes. PagerDuty's answers have a few hundred.
MAX_REPLY: Final = 64 * 1024
_MAX_REASONS: Final = 10
_MAX_REASON_LENGTH: Final = 300
_HEADERS: Final = {"content-type": "application/json", "user-agent": "rudderstack-pagerduty"}
_ABOUT_ROUTING_KEY: Final = re.compile("routing.?key", re.IGNORECASE)

OK: Final = range(200, 300)
BAD_REQUEST: Final = 400
REQUEST_TIMEOUT: Final = 408
TOO_LARGE: Final = 413
TOO_MANY_REQUESTS: Final = 429
SERVER_ERRORS: Final = range(500, 600)


@dataclass(frozen=True, slots=True)
class Receipt:
    """PagerDuty took the event: the dedup key that it named, and the call in which it did."""

    dedup_key: str | None
    exchange: Exchange


class RoutingKeyRefused(Deferred):
    """PagerDuty did not like the routing key: our configuration, so the event is tried again with the key read anew."""


class Client:
    """One pool of keep-alive connections to PagerDuty; safe to share between threads.

    `pause` waits between two quick retries; a test that cannot wait passes its own.
    """

    def __init__(self, url: str, pause: Callable[[float], None] = time.sleep) -> None:
        # `retries=False`: no retries and no redirects by urllib3, which would resend to wherever it is told.
        self._pool = urllib3.connection_from_url(url, maxsize=PARALLEL_CALLS, retries=False)
        self._pool.ConnectionCls = _HTTPSConnection if self._pool.scheme == "https" else _HTTPConnection
        self._base_path = urllib3.util.parse_url(url).path or ""
        self._pause = pause

    def send(self, kind: Kind, body: bytes, routing_key: str, deadline: float) -> Receipt:
        """Post the event, encoded and without routing key, by `deadline` (seconds of the monotonic clock).

        Raises Rejected when PagerDuty will never take it, Deferred when it may later.
        """
        content = b'{"routing_key":' + json.dumps(routing_key).encode() + b"," + body[1:]
        path = self._base_path + PATHS[kind]
        error: NotSentError = Deferred("out_of_time", "No time was left to call PagerDuty; it will be tried again")
        for call in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            if deadline - began < SHORTEST_CALL:
                break
            status = None
            try:
                status, reply = self._post(path, content, deadline - began)
                dedup_key = _judge(status, reply, routing_key)
            except HTTPError as problem:
                error = _unanswered(problem)
            except NotSentError as judgement:
                error = judgement
            else:
                return Receipt(dedup_key, Exchange(status, time.monotonic() - began, call))
            error.exchange = Exchange(status, time.monotonic() - began, call)
            if call == ATTEMPTS or not (status in SERVER_ERRORS or error.code == "pagerduty_unreachable"):
                break
            self._pause(random.uniform(*_RETRY_PAUSE) * call)  # noqa: S311 -- jitter, not a secret
        raise error

    def _post(self, path: str, content: bytes, seconds: float) -> tuple[int, bytes]:
        """Post once; return the status and what could be read of the reply, which nothing depends on."""
        response = self._pool.urlopen(
            "POST",
            path,
            body=content,
            headers=_HEADERS,
            timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, seconds), total=seconds),
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )
        try:
            # Nothing asked for a compressed reply, and one that is would not be bounded once it is unpacked.
            reply = response.read(MAX_REPLY, decode_content=False)
        except HTTPError:
            reply = b""
        if response.length_remaining:
            response.close()
        response.release_conn()
        return response.status, reply


def _unanswered(problem: HTTPError) -> Deferred:
    if isinstance(problem, ReadTimeoutError):
        return Deferred("pagerduty_timeout", "PagerDuty did not answer in time; it will be tried again")
    return Deferred(
        "pagerduty_unreachable", f"PagerDuty could not be reached ({type(problem).__name__}); it will be tried again"
    )


def _judge(status: int, reply: bytes, routing_key: str) -> str | None:
    """Return the dedup key of an event that PagerDuty took; raise what became of any other."""
    content = _parse(reply)
    if status in OK:
        dedup_key = content.get("dedup_key")
        return dedup_key if isinstance(dedup_key, str) else None
    if status == TOO_MANY_REQUESTS:
        raise Deferred(
            "pagerduty_rate_limited", "PagerDuty limits the rate of this routing key; it will be tried again"
        )
    if status == REQUEST_TIMEOUT or status in SERVER_ERRORS:
        raise Deferred("pagerduty_unavailable", f"PagerDuty answered {status}; it will be tried again")
    if status in {BAD_REQUEST, TOO_LARGE}:
        reasons = _reasons(content, routing_key)
        if status == BAD_REQUEST and _ABOUT_ROUTING_KEY.search(reply.decode("utf-8", "replace")):
            raise RoutingKeyRefused(
                "routing_key_refused",
                f"PagerDuty refused the routing key in SSM: {reasons}. Correct the parameter; it will be tried again",
            )
        raise Rejected("pagerduty_rejected", f"PagerDuty refused the event for good with {status}: {reasons}")
    raise Deferred(
        "pagerduty_unexpected",
        f"PagerDuty answered {status}, which its Events API does not document: check PAGERDUTY_URL; "
        "it will be tried again",
    )


def _parse(reply: bytes) -> dict[str, Any]:
    """Read a reply that should be a JSON object, and need not be."""
    try:
        content = json.loads(reply)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _reasons(content: dict[str, Any], routing_key: str) -> str:
    """Pass on what PagerDuty says is wrong, in bounds, and never the routing key, should it quote it."""
    errors = content.get("errors")
    reasons = errors if isinstance(errors, list) and errors else [content.get("message") or "no reason given"]
    text = "; ".join(str(reason)[:_MAX_REASON_LENGTH] for reason in reasons[:_MAX_REASONS])
    return text.replace(routing_key, "[routing key]")


# -- a deadline for the whole answer ---------------------------------------------------------------------------------
#
# A socket's timeout starts anew with every byte, so an answer that trickles in would never time out.
# Here the read timeout, which urllib3 sets on the socket before it waits for the answer, limits the answer as a whole.


class _TimedReader(io.RawIOBase):
    """Reads from a socket, each time with what is left of the socket's timeout when the reader was made."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or 0)
        self._has_read = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._has_read:
            self._sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
        self._has_read = True
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class _HTTPConnection(HTTPConnection):
    response_class = _TimedResponse

    def request(self, *args: Any, **kwargs: Any) -> None:
        _restore_timeout(self)
        super().request(*args, **kwargs)


class _HTTPSConnection(HTTPSConnection):
    response_class = _TimedResponse

    def request(self, *args: Any, **kwargs: Any) -> None:
        _restore_timeout(self)
        super().request(*args, **kwargs)


def _restore_timeout(connection: HTTPConnection) -> None:
    """Give a connection that is used again its full timeout: the reader left what remained of the last answer's."""
    if connection.sock is not None:
        connection.sock.settimeout(connection.timeout)
