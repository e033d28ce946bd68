"""Accept requests from this machine's programs only: any web page that is open here can send requests to loopback.

`Host` reveals a page whose own name resolves to this machine (DNS rebinding), which could otherwise read the responses;
`Origin` reveals a page that uses this machine's name. Programs send the server's name, and no `Origin`.
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
