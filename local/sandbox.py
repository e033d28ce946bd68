"""PagerDuty on one machine: enforces the documented rules, keeps incidents, and fails on demand."""

from __future__ import annotations

import atexit
import errno
import functools
import json
import random
import re
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

from local.pagerduty_rules import RATE_WINDOW, ROUTING_KEY, Incidents, RateLimit, violations
from local.server import REFUSAL, Service, is_for_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from local.pagerduty_rules import Incident

PATHS = {"/v2/enqueue": "alert", "/v2/change/enqueue": "change"}
# Below the ephemeral ports of Linux and macOS: while the sandbox is stopped, no client's own connection takes its port.
PORTS = range(20_000, 30_000)
# The names of this machine, for itself and for a container on it.
NAMES = ("127.0.0.1", "localhost", "host.docker.internal")
# The first byte of a connection that begins with TLS's handshake: https://www.rfc-editor.org/rfc/rfc8446#section-5.1
TLS_HANDSHAKE = b"\x16"


@dataclass
class Received:
    """One call and its outcome, which is set when the rules were applied."""

    kind: str  # "alert", "change", or "" for an unknown path
    path: str
    event: dict[str, Any]  # the parsed body; {} when it was not a JSON object
    number: int  # 1, 2, 3... in order of arrival
    status: int = 0  # as answered; 0 if the status line was not sent, or for a raw answer
    errors: tuple[str, ...] = ()  # why it was refused
    accepted: bool = False  # it took effect (on an open incident, or as a change), even if the answer was lost


@dataclass(frozen=True)
class Fault:
    """A fault of one call: another answer than the usual one. chaos/faults.py has more faults."""

    takes_effect: bool = True  # False: the rules are not applied
    reply: bytes | None = None  # sent instead of the usual answer; None: that; b"": no answer
    status: int = 0  # of the reply, for the record

    @classmethod
    def answer(
        cls, status: int, body: Mapping[str, Any] | str | None = None, *, takes_effect: bool | None = None
    ) -> Self:
        """Answer this status and body (an object as JSON); by default, the event takes effect if it is a 2xx."""
        if takes_effect is None:
            takes_effect = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if body is None:
            body = {"status": responses.get(status, "unknown").lower(), "message": f"A simulated {status}"}
        text = body if isinstance(body, str) else json.dumps(body)
        return cls(takes_effect, _response(status, text.encode()), status)

    def begin(self, connection: Connection) -> None:
        """Act before the rules are applied."""

    def finish(self, connection: Connection, reply: bytes) -> None:
        """Send the reply; without one, wait until the client hangs up."""
        if reply:
            connection.send(reply)
        else:
            connection.wait_for_hang_up()


SUCCESS: dict[str, Any] = {"status": "success", "message": "Event processed"}
INVALID = {"status": "invalid event", "message": "Event object is invalid"}

_authority = functools.cache(trustme.CA)


@functools.cache
def ca_file() -> Path:
    """Write the CA of this process's sandboxes as PEM, for a client's SSL_CERT_FILE; it is removed at exit."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    path = Path(directory.name, "ca.pem")
    _authority().cert_pem.write_to_path(path)
    return path


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority().issue_cert(*NAMES).configure_cert(context)
    return context


class Sandbox(Service):
    """PagerDuty on 127.0.0.1; a restart keeps the port and the incidents.

    Its port accepts TLS and plain HTTP; `ca_file()` is the CA of its certificate. It accepts `rate_limit` calls per
    `window` (60 seconds) and routing key (None: any number). `on_received` is called for each call between its effect
    and its answer, in the thread of its connection.
    """

    def __init__(self, rate_limit: int | None = None, on_received: Callable[[Received], object] | None = None) -> None:
        self.rate_limit = rate_limit
        self.window = RATE_WINDOW
        self.on_received = on_received
        # Called for each call before the rules are applied, one at a time and in order of arrival; it must not block.
        self.on_call: Callable[[Received], Fault | None] | None = None
        # The routing keys that exist; None: every well-formed one does.
        self.known_keys: set[str] | None = None
        self._port = 0
        self._server: _Server | None = None
        # Reentrant: `on_call` may look at the incidents.
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget all calls, incidents, change events and rates."""
        with self._lock:
            self._arrived = 0
            self.received: list[Received] = []
            self.changes: list[dict[str, Any]] = []
            self._incidents = Incidents()
            self._limit = RateLimit()

    @property
    def url(self) -> str:
        """Where it listens, once it is started."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def plain_url(self) -> str:
        """The same without TLS, for a client that cannot be given the CA."""
        return self.url.replace("https", "http")

    @property
    def incidents(self) -> list[Incident]:
        """All incidents, the oldest first."""
        return self._incidents.all

    def start(self) -> None:
        """Listen, at the former port if there is one. Raises OSError if that is taken."""
        while not self._server:
            port = self._port or random.choice(PORTS)  # noqa: S311 -- any free port will do
            try:
                self._server = _Server(self, port)
            except OSError as error:
                if self._port or error.errno != errno.EADDRINUSE:
                    raise
        self._port = self._server.server_address[1]
        self._server.accepting.start()

    def stop(self) -> None:
        """Refuse new connections, close the open ones and wait for their threads."""
        server, self._server = self._server, None
        if server:
            server.stop()

    def answer(self, connection: Connection, body: bytes) -> None:
        """Record a call, apply its fault or the rules, and answer; for the connection."""
        path = connection.path.partition("?")[0]
        kind = PATHS.get(path, "")
        event, errors = violations(kind, body)
        with self._lock:
            self._arrived += 1
            call = Received(kind, path, event, self._arrived)
            fault = (self.on_call and self.on_call(call)) or Fault()
        fault.begin(connection)
        with self._lock:
            # A fault without an effect answers as PagerDuty does for an integration that was deleted:
            # https://support.pagerduty.com/main/docs/billing
            status, reply = HTTPStatus.ACCEPTED, SUCCESS
            if fault.takes_effect:
                status, reply = self._ingest(call, connection.command, errors)
            if status != HTTPStatus.ACCEPTED:
                call.errors = tuple(reply.get("errors") or [reply["message"]])
            call.status = status if fault.reply is None else fault.status
            self.received.append(call)
        if self.on_received:
            self.on_received(call)
        connection.status_is_sent = False
        try:
            usual = _response(status, json.dumps(reply).encode())
            fault.finish(connection, usual if fault.reply is None else fault.reply)
        except OSError:
            # A client that has read the status line has its answer, even if the rest is lost.
            if not connection.status_is_sent:
                call.status = 0
            raise

    def _ingest(self, call: Received, method: str, errors: Sequence[str]) -> tuple[HTTPStatus, dict[str, Any]]:
        """Apply the rules of https://developer.pagerduty.com/docs/events-api-v2-overview; the caller holds the lock."""
        if not call.kind:
            return HTTPStatus.NOT_FOUND, {"status": "not found", "message": "There is nothing at this path"}
        if method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, {"status": "method not allowed", "message": "Events are sent by POST"}
        key = call.event.get("routing_key")
        if isinstance(key, str) and re.fullmatch(ROUTING_KEY, key):
            limit = self.rate_limit
            if limit is not None and not self._limit.accepts(key, time.monotonic(), limit, self.window):
                message = "Requests for this service are arriving too quickly. Please retry later."
                return HTTPStatus.TOO_MANY_REQUESTS, {"status": "throttle exceeded", "message": message}
            if self.known_keys is not None and key not in self.known_keys:
                errors = (*errors, "Invalid routing key")
        if errors:
            return HTTPStatus.BAD_REQUEST, INVALID | {"errors": errors}
        if call.kind == "change":
            call.accepted = True
            self.changes.append(call.event)
            return HTTPStatus.ACCEPTED, SUCCESS | {"message": "Change event processed"}
        dedup_key = call.event.get("dedup_key") or uuid.uuid4().hex
        call.accepted = self._incidents.apply(call.event, dedup_key)
        return HTTPStatus.ACCEPTED, SUCCESS | {"dedup_key": dedup_key}


def _response(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    """Encode an answer; some statuses have no body (RFC 9110, section 6.4.1)."""
    head = f"HTTP/1.1 {status} {responses.get(status, '')}\r\nContent-Type: {content_type}\r\n"
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return f"{head}\r\n".encode()
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Server(ThreadingHTTPServer):
    """The HTTP server; it keeps its connections, to close them when it stops."""

    request_queue_size = 256
    allow_reuse_port = False
    daemon_threads = False  # server_close() waits for them.

    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self.sandbox = sandbox
        self.tls = _tls()
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self.accepting = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        super().__init__(("127.0.0.1", port), Connection)

    def server_bind(self) -> None:
        """Skip the parent's look-up of the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        for connection in list(self.connections):
            with suppress(OSError):  # It has just ended by itself.
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self.accepting.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection before its thread runs, so that stop() misses none."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().close_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection, with TLS if it begins with a handshake."""
        if request.recv(1, socket.MSG_PEEK) != TLS_HANDSHAKE:
            super().finish_request(request, client_address)
            return
        # wrap_socket() detaches the socket that it is given, and stop() needs this one.
        with self.tls.wrap_socket(request.dup(), server_side=True) as connection:
            super().finish_request(connection, client_address)
            # unwrap() sends TLS's close_notify, and would then wait for the client's.
            connection.settimeout(0)
            with suppress(OSError):
                connection.unwrap()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report mistakes, but not broken connections, which are normal here."""
        if isinstance(sys.exception(), OSError):
            request.close()  # Not shut down first, as the parent would: that would prevent a reset.
        else:
            super().handle_error(request, client_address)


class Connection(BaseHTTPRequestHandler):
    """Reads calls from one connection, and sends the sandbox's answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    status_is_sent = False

    def do_POST(self) -> None:
        """Answer a call."""
        if not is_for_us(self.headers.get("Host"), self.headers.get("Origin"), containers=True):
            self._read()
            self.send(_response(HTTPStatus.FORBIDDEN, REFUSAL, "text/plain"))
            self.close_connection = True
            return
        self.server.sandbox.answer(self, self._read())

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 -- the parent's names for them

    def _read(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("The client went away in the middle of the body")
        return body

    def wait(self, seconds: float) -> None:
        """Wait, but end the connection when the sandbox is stopped."""
        if self.server.stopping.wait(seconds):
            raise ConnectionAbortedError("The sandbox was stopped")

    def send(self, content: bytes) -> None:
        """Send, unless the client has hung up, which the system would not report."""
        with suppress(BlockingIOError):
            # TLS sockets refuse to peek; the socket below them does not.
            if not socket.socket.recv(self.connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError("The client did not wait for the answer")
        self.connection.sendall(content)
        self.status_is_sent = self.status_is_sent or b"\n" in content

    def wait_for_hang_up(self) -> None:
        """Read until the client hangs up, and end the connection."""
        self.close_connection = True
        self.rfile.read()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the parent's name for it
        """Stay quiet: `on_received` reports."""
