"""Services that start and stop, and a WSGI server on 127.0.0.1 for this machine's programs only.

Any web page that is open here can send requests to loopback. `Host` reveals a page whose own name resolves to this
machine (DNS rebinding), which could otherwise read the responses; `Origin` reveals a page that uses this machine's
name. Programs send the server's name, and no `Origin`.
"""

import re
import socket
import threading
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Seconds until a stop is noticed.
_POLL_SECONDS: Final = 0.05
REFUSAL: Final = (
    b"This server is for programs on this machine: Host has to be a name of it, such as 127.0.0.1 or localhost, "
    b"and Origin, if there is one, the same.\n"
)
_OWN_NAME: Final = re.compile(r"(?:127\.0\.0\.1|\[::1\]|localhost)(?::[0-9]+)?", re.IGNORECASE)
_DOCKERS_NAME: Final = re.compile(r"host\.docker\.internal(?::[0-9]+)?", re.IGNORECASE)


def is_for_us(host: str | None, origin: str | None, *, containers: bool) -> bool:
    """Return whether a request with this `Host` and `Origin` is accepted; `containers`: also from a container."""
    name = host or ""
    is_own = bool(_OWN_NAME.fullmatch(name) or (containers and _DOCKERS_NAME.fullmatch(name)))
    return is_own and (origin is None or origin.partition("://")[2] == host)


def guarded(application: "WSGIApplication", *, containers: bool) -> "WSGIApplication":
    """Return the application with this check in front of it."""

    def guard(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if is_for_us(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"), containers=containers):
            return application(environ, start_response)
        status = HTTPStatus.FORBIDDEN
        start_response(f"{status} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [REFUSAL]

    return guard


class Service:
    """Something that starts and stops; as a context manager, it runs inside the block."""

    def start(self) -> None:
        """Start."""

    def stop(self) -> None:
        """Stop; harmless if it is stopped already."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server:
    """Binds its port at once (0: the system picks one; OSError if it is in use), and answers once it is started.

    `containers`: whether containers on this machine may send requests too.
    """

    def __init__(self, application: "WSGIApplication", port: int = 0, *, containers: bool = False) -> None:
        # Bound here, because werkzeug would exit the process if the port were in use.
        with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
            port = listening.getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._server = make_server(
                "127.0.0.1",
                port,
                guarded(application, containers=containers),
                threaded=True,
                request_handler=_QuietHandler,
                fd=listening.fileno(),
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and release the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _QuietHandler(WSGIRequestHandler):
    disable_nagle_algorithm = True

    def make_environ(self) -> "WSGIEnvironment":
        """Add the request target as it was sent: http.server collapses several slashes at its beginning."""
        return super().make_environ() | {"REQUEST_URI": self.requestline.split()[1]}

    def log(self, *_: Any) -> None:
        """Log nothing: the stack shows each request itself."""
