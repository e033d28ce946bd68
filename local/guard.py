"""Lets only programs of this machine in: a page of anybody's, open in a browser here, can send requests to loopback.

`Host` gives away a page whose own name leads here (DNS rebinding), which could otherwise read every answer, and
`Origin` one that asks for this machine by its name. Programs send the server's own name, and no `Origin`.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REFUSAL: Final = (
    b"This server is for programs on this machine: Host has to be a name of it, such as 127.0.0.1 or localhost, "
    b"and Origin, if there is one, the same.\n"
)
_OWN_NAME: Final = re.compile(r"(?:127\.0\.0\.1|\[::1\]|localhost)(?::[0-9]+)?", re.IGNORECASE)
_DOCKERS_NAME: Final = re.compile(r"host\.docker\.internal(?::[0-9]+)?", re.IGNORECASE)


def is_for_us(host: str | None, origin: str | None, *, containers: bool) -> bool:
    """Return by its `Host` and `Origin` whether a request may be answered; `containers` may send requests or not."""
    name = host or ""
    is_own = bool(_OWN_NAME.fullmatch(name) or (containers and _DOCKERS_NAME.fullmatch(name)))
    return is_own and (origin is None or origin.partition("://")[2] == host)


def guarded(application: "WSGIApplication", *, containers: bool) -> "WSGIApplication":
    """Put the guard in front of an application."""

    def guard(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if is_for_us(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"), containers=containers):
            return application(environ, start_response)
        status = HTTPStatus.FORBIDDEN
        start_response(f"{status} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [REFUSAL]

    return guard
