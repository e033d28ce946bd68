"""Services that start and stop, and a WSGI server on 127.0.0.1 for this machine's programs only."""

import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from werkzeug.serving import WSGIRequestHandler, make_server

from local.guard import guarded

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

# Seconds until a stop is noticed.
_POLL_SECONDS: Final = 0.05


class Service:
    """Something that starts and stops; as a context manager, it runs inside the block."""

    def start(self) -> None:
        """Start. Raises RuntimeError if it runs already."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop; harmless if it is stopped already."""
        raise NotImplementedError

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
        """The URL where it listens."""
        return f"http://127.0.0.1:{self.port}"

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
