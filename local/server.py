"""Servers: what starts and stops, and a WSGI application on 127.0.0.1 for programs on this machine alone."""

import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from werkzeug.serving import WSGIRequestHandler, make_server

from local.guard import guarded

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

# Seconds that a stop may take to be noticed.
_POLL_SECONDS: Final = 0.05


class Service:
    """What starts and stops; as a context manager, it runs for as long as that lasts."""

    def start(self) -> None:
        """Begin; RuntimeError when it runs already."""
        raise NotImplementedError

    def stop(self) -> None:
        """End; harmless when it has ended already."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server:
    """Takes its port at once (0: the system picks one; OSError when it is taken), and answers once it is started.

    `containers`: whether it answers those on this machine, too.
    """

    def __init__(self, application: "WSGIApplication", port: int = 0, *, containers: bool = False) -> None:
        # Bound here and handed over: werkzeug would end the process if it found the port taken.
        with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
            self.port: int = listening.getsockname()[1]
            self._server = make_server(
                "127.0.0.1",
                self.port,
                guarded(application, containers=containers),
                threaded=True,
                request_handler=_QuietHandler,
                fd=listening.fileno(),
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, and give the port back."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _QuietHandler(WSGIRequestHandler):
    disable_nagle_algorithm = True

    def make_environ(self) -> "WSGIEnvironment":
        """Add the request's target as it was sent: http.server makes one slash of several at its beginning."""
        return super().make_environ() | {"REQUEST_URI": self.requestline.split()[1]}

    def log(self, *_: Any) -> None:
        """Say nothing: the stack reports each request itself."""
