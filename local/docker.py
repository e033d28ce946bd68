"""Let containers on this machine, such as those of `sam local`, reach the stack's servers, which listen on loopback.

In a container, `host.docker.internal` is this machine. Docker Desktop forwards it to loopback. Docker Engine on Linux
resolves it to the bridge's address (`--add-host host.docker.internal:host-gateway`), so connections to that address,
through the bridge only, are forwarded here. https://docs.docker.com/reference/cli/docker/container/run/
"""

import contextlib
import fcntl
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

_NAME: Final = "host.docker.internal"
_BRIDGE: Final = b"docker0"
# The request for an interface's address: netdevice(7).
_SIOCGIFADDR: Final = 0x8915
_POLL_SECONDS: Final = 0.05


def for_containers(url: str) -> str:
    """Return the URL by which a container reaches one of this stack's servers."""
    return url.replace("127.0.0.1", _NAME)


@contextlib.contextmanager
def reachable_from_containers(*urls: str) -> Iterator[None]:
    """Forward connections from Docker's bridge, if there is one, to the servers at these URLs."""
    address = _bridge_address()
    with contextlib.ExitStack() as started:
        if address:
            for url in urls:
                server = started.enter_context(_Bridge((address, urlsplit(url).port or 0), _Forward))
                threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True).start()
                started.callback(server.shutdown)
        yield


def _bridge_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", _BRIDGE))
        except OSError:
            return None  # No such interface, or not Linux.
    return socket.inet_ntoa(answer[20:24])


class _Bridge(socketserver.ThreadingTCPServer):
    """Listens on the bridge's address for connections through the bridge, not from other machines."""

    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _BRIDGE)
        super().server_bind()


class _Forward(socketserver.BaseRequestHandler):
    """Forwards a connection to the same port on loopback."""

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.request.getsockname()[1])) as server:
            threading.Thread(target=_pump, args=(server, self.request), daemon=True).start()
            _pump(self.request, server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
