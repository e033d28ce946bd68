"""A PagerDuty for one machine: enforces the documented rules, keeps incidents by dedup key, and fails when told to."""

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
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import trustme

from local.guard import REFUSAL, is_for_us
from local.pagerduty_rules import ROUTING_KEY, SEVERITIES, violations
from local.server import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

PATHS = {"/v2/enqueue": "alert", "/v2/change/enqueue": "change"}

# Seconds in which RATE_LIMIT of local/options.py counts; its source says "per minute".
RATE_WINDOW = 60.0

# Below the ephemeral ports of Linux and macOS: while the sandbox is stopped, no client's own connection takes its port.
PORTS = range(20_000, 30_000)
# What this machine, or a container on it, may call the sandbox.
NAMES = ("127.0.0.1", "::1", "localhost", "host.docker.internal")
# The first byte of a connection that begins with TLS's handshake: https://www.rfc-editor.org/rfc/rfc8446#section-5.1
TLS_HANDSHAKE = b"\x16"
POLL_SECONDS = 0.02
JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Received:
    """One call and what became of it."""

    kind: str  # "alert", "change", or "" for an unknown path
    path: str
    event: dict[str, Any]  # the parsed body; {} when it was not a JSON object
    status: int  # what was answered, if at least the line with the status got out; else, and for a raw answer, 0
    errors: tuple[str, ...]  # why it was refused
    accepted: bool  # it took effect (on an open incident, or as a recorded change), even if the answer was lost
    number: int  # 1, 2, 3... in order of arrival


class Change(NamedTuple):
    """What happened to an incident, and when (seconds since 1970)."""

    what: Literal["triggered", "triggered again", "acknowledged", "resolved"]
    at: float


@dataclass
class Incident:
    """What PagerDuty holds for a routing key and a dedup key from a first trigger to its resolve."""

    routing_key: str
    dedup_key: str
    title: str  # the summary of the first trigger
    severity: str  # the highest of all triggers
    payload: dict[str, Any]  # of the last trigger: what the alert shows
    status: Literal["triggered", "acknowledged", "resolved"] = "triggered"
    triggers: int = 1  # the first included
    event: dict[str, Any] = field(default_factory=dict, compare=False)  # the last trigger
    history: list[Change] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Fault:
    """How one call goes wrong: by what is answered instead of what the rules say. More ways are in chaos/faults.py."""

    takes_effect: bool = True  # False: the rules are not applied, and nothing but the answer happens
    reply: bytes | None = None  # sent instead of what the rules say; None: that; b"": never answer
    status: int = 0  # of the reply, for the record

    @classmethod
    def answer(
        cls, status: int, body: Mapping[str, Any] | str | None = None, *, takes_effect: bool | None = None
    ) -> Self:
        """Answer this status and body (an object as JSON); the event takes effect if told so, else if it is a 2xx."""
        if takes_effect is None:
            takes_effect = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if body is None:
            body = {"status": responses.get(status, "unknown").lower(), "message": f"Told to answer {status}"}
        text = body if isinstance(body, str) else json.dumps(body)
        return cls(takes_effect, _response(status, text.encode()), status)

    def begin(self, connection: Connection) -> None:
        """Do what happens before the rules are applied."""

    def finish(self, connection: Connection, reply: bytes) -> None:
        """Send the reply; without one, wait until the client hangs up."""
        if reply:
            connection.send(reply)
        else:
            connection.wait_for_hang_up()


class _Answer(NamedTuple):
    """What the rules say to one call."""

    status: int
    body: dict[str, Any]
    errors: tuple[str, ...] = ()
    accepted: bool = False

    def encode(self, method: str) -> bytes:
        """Encode it; what answers HEAD has no body."""
        body = json.dumps(self.body).encode()
        response = _response(self.status, body)
        return response.removesuffix(body) if method == "HEAD" else response


# Events for an integration that was deleted: https://support.pagerduty.com/main/docs/billing
DISCARDED = _Answer(HTTPStatus.ACCEPTED, {"status": "success", "message": "Event processed"})


_authority = functools.cache(trustme.CA)


@functools.cache
def ca_file() -> Path:
    """Write the CA of this process's sandboxes as PEM, for a client's SSL_CERT_FILE; it is there until exit."""
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
    """A PagerDuty on 127.0.0.1; a context manager, or start() and stop(), again on the same port if wanted.

    Its port takes TLS and plain HTTP alike. Its certificate is of a CA of its own, which clients find in `ca_file()`.
    `rate_limit` calls are let through per `window` seconds and routing key (None: any number). `on_received` is called
    for every call between its effect and its answer, by the thread of its connection.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        rate_limit: int | None = None,
        window: float = RATE_WINDOW,
        on_received: Callable[[Received], object] | None = None,
    ) -> None:
        self.rate_limit = rate_limit
        self.window = window
        self.on_received = on_received
        # Asked for every call before the rules, one call at a time and in order of arrival; it must not block.
        self.on_call: Callable[[Received], Fault | None] | None = None
        # Routing keys that exist; None: every well-formed one does.
        self.known_keys: set[str] | None = None
        self.clock: Callable[[], float] = time.monotonic
        self._port = port
        self._server: _Server | None = None
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget every call, incident, change event and rate."""
        with self._lock:
            self._arrived = 0
            self.received: list[Received] = []
            self.incidents: list[Incident] = []
            self.changes: list[dict[str, Any]] = []
            self._latest: dict[tuple[str | None, str], Incident] = {}
            self._calls: defaultdict[str, deque[float]] = defaultdict(deque)

    @property
    def url(self) -> str:
        """Where it listens; with port 0 known from the first start on."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def plain_url(self) -> str:
        """The same without TLS, for a client that cannot be given the CA."""
        return self.url.replace("https", "http")

    def incident(self, dedup_key: str, routing_key: str | None = None) -> Incident | None:
        """Return the latest incident of a dedup key (None: of any routing key)."""
        with self._lock:
            return self._latest.get((routing_key, dedup_key))

    def start(self) -> None:
        """Listen; OSError when the port is taken, RuntimeError when it listens already."""
        if self._server:
            raise RuntimeError(f"The sandbox already listens at {self.url}")
        while not self._server:
            port = self._port or random.choice(PORTS)  # noqa: S311 -- any free port will do
            try:
                self._server = _Server(self, port)
            except OSError as error:
                if self._port or error.errno != errno.EADDRINUSE:
                    raise
        self._port = self._server.server_address[1]
        self._server.start()

    def stop(self) -> None:
        """Refuse new connections, close the open ones and wait for their threads; harmless when stopped already."""
        server, self._server = self._server, None
        if server:
            server.stop()

    def arrive(self, kind: str, path: str, event: dict[str, Any]) -> tuple[Received, Fault]:
        """Give a call its number and ask how it goes wrong; for the handler."""
        # The lock is reentrant: what misbehaves may look at the incidents, and needs no lock for a counter of its own.
        with self._lock:
            self._arrived += 1
            call = Received(kind, path, event, status=0, errors=(), accepted=False, number=self._arrived)
            on_call = self.on_call
            return call, (on_call and on_call(call)) or Fault()

    def decide(self, call: Received, method: str, errors: tuple[str, ...], fault: Fault) -> tuple[Received, bytes]:
        """Apply the rules as far as the fault lets them, record the call, return it and its answer; for the handler."""
        with self._lock:
            answer = self._ingest(call, method, errors) if fault.takes_effect else DISCARDED
            status = answer.status if fault.reply is None else fault.status
            call = replace(call, status=status, errors=answer.errors, accepted=answer.accepted)
            self.received.append(call)
        if self.on_received:
            self.on_received(call)
        return call, answer.encode(method) if fault.reply is None else fault.reply

    def mark_unanswered(self, call: Received) -> None:
        """Correct the record of a call whose answer did not get through; for the handler."""
        with self._lock:
            self.received[:] = [replace(call, status=0) if one is call else one for one in self.received]

    def _ingest(self, call: Received, method: str, errors: tuple[str, ...]) -> _Answer:
        """Answer as https://developer.pagerduty.com/docs/events-api-v2-overview says; the caller holds the lock."""
        if not call.kind:
            return _refused(HTTPStatus.NOT_FOUND, "not found", "There is nothing at this path")
        if method != "POST":
            return _refused(HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed", "Events are sent by POST")
        key = call.event.get("routing_key")
        if isinstance(key, str) and re.fullmatch(ROUTING_KEY, key):
            if self._is_throttled(key):
                message = "Requests for this service are arriving too quickly. Please retry later."
                return _refused(HTTPStatus.TOO_MANY_REQUESTS, "throttle exceeded", message)
            if self.known_keys is not None and key not in self.known_keys:
                errors = (*errors, "Invalid routing key")
        if errors:
            body = {"status": "invalid event", "message": "Event object is invalid", "errors": list(errors)}
            return _Answer(HTTPStatus.BAD_REQUEST, body, errors)
        if call.kind == "change":
            self.changes.append(call.event)
            body = {"status": "success", "message": "Change event processed"}
            return _Answer(HTTPStatus.ACCEPTED, body, accepted=True)
        dedup_key = call.event.get("dedup_key") or uuid.uuid4().hex
        body = {"status": "success", "message": "Event processed", "dedup_key": dedup_key}
        return _Answer(HTTPStatus.ACCEPTED, body, accepted=self.apply(call.event, dedup_key))

    def apply(self, event: dict[str, Any], dedup_key: str) -> bool:
        """Open or change an incident: https://developer.pagerduty.com/docs/send-alert-event#alert-de-duplication."""
        key, action = event["routing_key"], event["event_action"]
        incident = self._latest.get((key, dedup_key))
        if incident and incident.status != "resolved":
            what: Literal["triggered again", "acknowledged", "resolved"] = "triggered again"
            if action == "trigger":
                # The title and the status stay, an acknowledged one too; a severity never goes down:
                # https://support.pagerduty.com/main/docs/dynamic-notifications
                incident.triggers += 1
                incident.payload, incident.event = event["payload"], event
                incident.severity = min(incident.severity, event["payload"]["severity"], key=SEVERITIES.index)
            else:
                incident.status = what = "acknowledged" if action == "acknowledge" else "resolved"
            incident.history.append(Change(what, time.time()))
            return True
        if action == "trigger":
            payload = event["payload"]
            incident = Incident(key, dedup_key, payload["summary"], payload["severity"], payload, event=event)
            incident.history.append(Change("triggered", time.time()))
            self.incidents.append(incident)
            self._latest[key, dedup_key] = self._latest[None, dedup_key] = incident
            return True
        return False  # Without an open incident PagerDuty drops it, and does not say so.

    def _is_throttled(self, routing_key: str) -> bool:
        """Count a call; alerts and changes of a key share one sliding window, and a call refused does not count."""
        if self.rate_limit is None:
            return False
        now, calls = self.clock(), self._calls[routing_key]
        while calls and calls[0] <= now - self.window:
            calls.popleft()
        if len(calls) >= self.rate_limit:
            return True
        calls.append(now)
        return False


def _refused(status: HTTPStatus, name: str, message: str) -> _Answer:
    """Refuse a call for something other than its event."""
    return _Answer(status, {"status": name, "message": message}, (message,))


def _response(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    """Encode an answer; some statuses have no body (RFC 9110, section 6.4.1)."""
    head = f"HTTP/1.1 {status} {responses.get(status, '')}\r\nContent-Type: {content_type}\r\n"
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return f"{head}\r\n".encode()
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that it can end them."""

    request_queue_size = 256
    allow_reuse_port = False

    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self.sandbox = sandbox
        self.tls = _tls()
        self.stopping = threading.Event()
        self.connections: dict[threading.Thread, socket.socket] = {}
        self.accepting = threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,), daemon=True)
        super().__init__(("127.0.0.1", port), Connection)

    def server_bind(self) -> None:
        """Leave out the parent's look-up of the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def start(self) -> None:
        self.accepting.start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self.accepting.join()
        for thread, connection in list(self.connections.items()):
            with suppress(OSError):  # It has just ended by itself.
                connection.shutdown(socket.SHUT_RDWR)
            if thread is not threading.current_thread():
                thread.join(JOIN_SECONDS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the thread before it runs, so that none is missed by stop()."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self.connections[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.pop(threading.current_thread(), None)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection, in TLS when it begins so."""
        if request.recv(1, socket.MSG_PEEK) != TLS_HANDSHAKE:
            super().finish_request(request, client_address)
            return
        # wrap_socket() detaches the socket that it is given, and stop() needs this one.
        with self.tls.wrap_socket(request.dup(), server_side=True) as connection:
            super().finish_request(connection, client_address)
            # unwrap() sends TLS's own goodbye, and would then wait for the client's.
            connection.settimeout(0)
            with suppress(OSError):
                connection.unwrap()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show mistakes, but not a connection that broke: here that is everyday."""
        if isinstance(sys.exception(), OSError):
            request.close()  # Without the orderly end that would come next, since a reset must have none.
        else:
            super().handle_error(request, client_address)


class Connection(BaseHTTPRequestHandler):
    """Reads calls from one connection and answers them; what the answers are is the sandbox's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _status_is_out = False

    def do_POST(self) -> None:
        """Answer a call."""
        sandbox = self.server.sandbox
        if not is_for_us(self.headers.get("Host"), self.headers.get("Origin"), containers=True):
            self._read()
            self.send(_response(HTTPStatus.FORBIDDEN, REFUSAL, "text/plain"))
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        kind = PATHS.get(path, "")
        event, errors = violations(kind, self._read())
        call, fault = sandbox.arrive(kind, path, event)
        fault.begin(self)
        call, reply = sandbox.decide(call, self.command, errors, fault)
        self._status_is_out = False
        try:
            fault.finish(self, reply)
        except OSError:
            # Whoever has read the line with the status has been answered, whatever becomes of the rest.
            if not self._status_is_out:
                sandbox.mark_unanswered(call)
            raise

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 -- the parent's names for them

    def _read(self) -> bytes:
        """Read the body; without a length there is none, and what comes instead is not read as a next call."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = self.close_connection or self.command == "POST"
            return b""
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionResetError("The client went away in the middle of the body")
        return body

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than the sandbox runs: its end is the end of the connection."""
        if self.server.stopping.wait(seconds):
            raise ConnectionAbortedError("The sandbox was stopped")

    def send(self, content: bytes) -> None:
        """Send, unless the client has hung up: the system would take it, and nobody would get it."""
        with suppress(BlockingIOError):
            # TLS sockets refuse to peek; below them there is one that doesn't.
            if not socket.socket.recv(self.connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError("The client did not wait for the answer")
        self.connection.sendall(content)
        self._status_is_out = self._status_is_out or b"\n" in content

    def wait_for_hang_up(self) -> None:
        """Read until there is no more, and end."""
        self.close_connection = True
        self.rfile.read()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the parent's name for it
        """Stay quiet: `on_received` tells."""
