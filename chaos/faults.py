"""Faults for calls to the PagerDuty sandbox and to the local AWS, in chaos and in tests."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Self

from local.aws_server import Answer, Aws, ask, json_answer, refusal
from local.sandbox import Connection, Fault

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Json = dict[str, Any]
Ending = Literal["keep", "close", "reset", "hold"]  # of the connection, after an answer


@dataclass(frozen=True)
class NetworkFault(Fault):
    """A fault of one call to PagerDuty, of the network's kinds as well; `dataclasses.replace` combines them."""

    wait: float = 0.0  # seconds before the rules are applied
    hold: float = 0.0  # seconds between the effect and the answer
    pieces: Iterable[bytes] | None = None  # sent instead of the usual answer; may be endless
    pause: float = 0.0  # seconds before each piece; without pieces, before each byte
    ending: Ending = "keep"  # hold: wait until the client hangs up

    @classmethod
    def raw(
        cls, reply: bytes | Iterable[bytes], *, pause: float = 0.0, ending: Ending = "close", takes_effect: bool = True
    ) -> Self:
        """Answer exactly these bytes; pieces may be endless, and one call uses an iterator up."""
        pieces = [reply] if isinstance(reply, bytes) else reply
        return cls(takes_effect, b"", pieces=pieces, pause=pause, ending=ending)

    @classmethod
    def reset_before(cls) -> Self:
        """Reset the connection before the event takes effect."""
        return cls.raw(b"", ending="reset", takes_effect=False)

    @classmethod
    def reset_after(cls) -> Self:
        """Reset the connection after the event took effect: the answer is lost."""
        return cls.raw(b"", ending="reset")

    @classmethod
    def hang(cls, seconds: float | None = None, *, takes_effect: bool = False) -> Self:
        """Never answer; close the connection after these seconds (None: when the client or the sandbox does)."""
        ending: Ending = "hold" if seconds is None else "close"
        return cls(takes_effect, b"", hold=seconds or 0.0, pieces=(), ending=ending)

    def begin(self, connection: Connection) -> None:
        """Wait before the rules are applied."""
        connection.wait(self.wait)

    def finish(self, connection: Connection, reply: bytes) -> None:
        """Send the pieces, then keep or end the connection; the client sees a reset as ECONNRESET."""
        connection.wait(self.hold)
        pieces = self.pieces
        if pieces is None:
            pieces = [bytes([byte]) for byte in reply] if self.pause else [reply]
        for piece in pieces:
            connection.wait(self.pause)
            connection.send(piece)
        if self.ending == "hold":
            connection.wait_for_hang_up()
        elif self.ending != "keep":
            connection.close_connection = True
        if self.ending == "reset":
            # Skips the orderly end: https://www.man7.org/linux/man-pages/man7/socket.7.html, SO_LINGER
            connection.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionResetError("A simulated reset")


@dataclass(frozen=True)
class Failure:
    """A fault of one call to AWS; the named constructors are the usual ones."""

    takes_effect: bool = True
    hold: float = 0.0  # seconds between the effect and the answer
    status: int = HTTPStatus.SERVICE_UNAVAILABLE  # of the answer, with `code` and `message`, without an effect
    code: str = ""
    message: str = "A simulated failure"
    failed_entries: tuple[str, ...] = ()  # ids of a batch's entries that fail with `code`; the others take effect
    lost: bool = False  # close the connection instead of answering

    @classmethod
    def answer(cls, status: int, code: str, message: str = "A simulated failure") -> Self:
        """Answer this status and AWS error code, without an effect."""
        return cls(takes_effect=False, status=status, code=code, message=message)

    @classmethod
    def entries(cls, *ids: str, code: str = "InternalError") -> Self:
        """List these entries of a batch as failed by SQS's fault; the others take effect."""
        return cls(failed_entries=ids, code=code)

    @classmethod
    def hang(cls, seconds: float | None = None) -> Self:
        """Never answer; close the connection after these seconds (None: when the server stops)."""
        return cls(takes_effect=False, hold=threading.TIMEOUT_MAX if seconds is None else seconds, lost=True)

    def change(self, request: Json, go_on: Callable[[Json], Answer]) -> Answer:
        """Answer a call; `go_on` executes the remaining entries."""
        if not self.takes_effect:
            return refusal(self.status, self.code, self.message)
        entries = request.get("Entries", [])
        failed = [each["Id"] for each in entries if each["Id"] in self.failed_entries]
        if not failed:
            return go_on(request)
        spared = [each for each in entries if each["Id"] not in failed]
        answer = go_on(request | {"Entries": spared}) if spared else json_answer({})
        if answer.status != HTTPStatus.OK:
            return answer
        content = json.loads(answer.body)
        failure = {"SenderFault": False, "Code": self.code, "Message": self.message}
        failures = [{"Id": each, **failure} for each in failed]
        return json_answer({**content, "Failed": [*content.get("Failed", []), *failures]})


def fail(aws: Aws, choose: Callable[[str, Json], Failure | None] | None) -> None:
    """Make calls to AWS fail from now on (None: stop that).

    `choose` is called for each call with its target ("AmazonSQS.SendMessage") and request, one at a time, and must not
    block.
    """
    choosing = threading.RLock()

    def middleware(application: "WSGIApplication") -> "WSGIApplication":
        def call(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            target = environ.get("HTTP_X_AMZ_TARGET")
            if not target:  # Neither SSM's, SQS's nor DynamoDB's.
                return application(environ, start_response)
            request = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            with choosing:
                failure = choose and choose(target, request)
            failure = failure or Failure()
            answer = failure.change(request, lambda changed: ask(application, environ, json.dumps(changed).encode()))
            if aws.stopping.wait(min(failure.hold, threading.TIMEOUT_MAX)) or failure.lost:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionAbortedError  # ignored by werkzeug, as if the client had hung up
            return answer.send(start_response)

        return call

    aws.middleware = middleware if choose else None
