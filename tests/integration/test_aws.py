"""Calls to AWS that were abandoned at their deadline send nothing more: the clients as deployed, over real sockets."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import trustme

import dependencies
from chaos.faults import fail
from dependencies import Dependencies
from event import Event
from local.aws_server import Aws
from tests.support import no_pause

EVENT = Event("default", "alert", {"event_action": "resolve", "dedup_key": "k"}, "resolve", "k", "m")
ENVIRONMENT = {"QUEUE_URL": "{}/123456789012/q.fifo", "DEAD_LETTER_QUEUE_URL": "{}/dead", "FLOW_TABLE": "flow"}
LOOK_UP = socket.getaddrinfo

Call = Callable[[Dependencies, float], object]
CALLS: dict[str, Call] = {
    "SSM": lambda deps, deadline: deps.credentials.services_without_key(["default"], deadline),
    "SQS": lambda deps, deadline: deps.queue.enqueue([EVENT], deadline),
    "DynamoDB": lambda deps, deadline: deps.flow.extend_leases({"default": 1.0}, deadline),
}
EACH_SERVICE = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def deployed(url: str, monkeypatch: pytest.MonkeyPatch) -> Dependencies:
    """Make the clients as on Lambda, for an AWS at this URL; they try again without a pause."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=no_pause))
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    deps = dependencies.load({name: value.format(url) for name, value in ENVIRONMENT.items()})
    assert isinstance(deps, Dependencies)
    return deps


@EACH_SERVICE
def test_a_call_that_was_abandoned_while_looking_up_a_name_is_not_sent(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, calls_end: Callable[[], None], call: Call
) -> None:
    go_on = threading.Event()

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "localhost":
            go_on.wait(30)
        return LOOK_UP(host, *rest, **more)

    targets: list[str] = []
    fail(aws, lambda target, _: targets.append(target))
    deps = deployed(aws.url.replace("127.0.0.1", "localhost"), monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    call(deps, time.monotonic() + 0.4)
    go_on.set()
    calls_end()

    assert targets == []


class SlowTls(NamedTuple):
    """A server that begins its TLS handshakes when `go_on` is set, and keeps what clients then send."""

    url: str
    go_on: threading.Event
    received: list[bytes]


@pytest.fixture
def slow_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[SlowTls]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = SlowTls(f"https://127.0.0.1:{listening.getsockname()[1]}", threading.Event(), [])

        def serve() -> None:
            # Until the socket is shut down.
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    server.go_on.wait(30)
                    with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                        server.received.append(secured.recv(65536))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(30)


@EACH_SERVICE
def test_a_call_that_was_abandoned_in_its_tls_handshake_is_not_sent(
    slow_tls: SlowTls, monkeypatch: pytest.MonkeyPatch, calls_end: Callable[[], None], call: Call
) -> None:
    deps = deployed(slow_tls.url, monkeypatch)
    call(deps, time.monotonic() + 0.4)
    slow_tls.go_on.set()
    calls_end()

    assert b"".join(slow_tls.received) == b""
