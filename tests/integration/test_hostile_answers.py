"""Answers that are cut, stalled, reset or garbled at every byte, and some that are false or never end.

Each test states the outcome. The next event always gets its own answer, whatever the one before was.
"""

import gzip
import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

import pagerduty
from chaos.faults import Fault
from event import Event
from local.sandbox import Received, Sandbox
from pagerduty import Client
from tests.support import ROUTING_KEY, no_pause, soon

ACCEPTED = {"status": "success", "message": "Event processed", "dedup_key": "disk-full"}
REFUSED = {"status": "invalid event", "message": "Event object is invalid", "errors": ["'summary'"]}
KEY_REFUSED = {"status": "invalid event", "message": "Event is invalid", "errors": ["Bad routing key"]}
STATUS_LINE = len("HTTP/1.1 202 X\r\n")
# Seconds, for tests that wait for them often.
DEADLINE = 3.0


def encode(status: int, content: object, framing: str = "length") -> bytes:
    body = json.dumps(content).encode()
    field = {"length": b"Content-Length: %d" % len(body), "close": b"Connection: close"}
    if framing == "chunks":
        body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status
    return head + field.get(framing, b"Transfer-Encoding: chunked") + b"\r\n\r\n" + body


class Answer(NamedTuple):
    """An answer with the code of its event if it is complete, and if only its status is certain."""

    framing: str
    content: bytes
    complete: str
    status_only: str


EACH_ANSWER = pytest.mark.parametrize(
    "answer",
    [
        Answer("length", encode(202, ACCEPTED, "length"), "delivered", "delivered"),
        Answer("close", encode(400, REFUSED, "close"), "pagerduty_rejected", "pagerduty_unexpected"),
        Answer("chunks", encode(400, KEY_REFUSED, "chunks"), "routing_key_refused", "pagerduty_unexpected"),
    ],
    ids=lambda answer: answer.framing,
)


def resolve(dedup_key: str) -> Event:
    return Event("default", "alert", {"event_action": "resolve", "dedup_key": dedup_key}, "resolve", dedup_key)


class Hostile:
    """A sandbox that answers some events with given faults, and those that follow with an answer that names them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._faults: dict[str, Fault] = {}
        sandbox.on_call = self._answer

    def _answer(self, call: Received) -> Fault:
        key = str(call.event["dedup_key"])
        return self._faults.get(key) or Fault.answer(400, REFUSED | {"errors": [f"the own answer of {key}"]})

    def codes(self, faults: Mapping[Any, Fault], deadline: float = 30.0, threads: int = 100) -> dict[Any, str]:
        """Return the code of an event for each fault; only an event that may not have arrived is posted again."""
        self._faults = {f"event {name}": fault for name, fault in faults.items()}
        with ThreadPoolExecutor(threads) as pool:
            codes = dict(zip(faults, pool.map(lambda name: self._code(name, deadline), faults), strict=True))
        posts = Counter(call.event["dedup_key"] for call in self._sandbox.received)
        for name, code in codes.items():
            assert posts[f"event {name}"] == (3 if code == "pagerduty_unreachable" else 1)
        return codes

    def _code(self, name: object, deadline: float) -> str:
        client = Client(self._sandbox.plain_url, no_pause)
        outcome = client.post(resolve(f"event {name}"), ROUTING_KEY, soon(deadline))
        after = client.post(resolve(f"after {name}"), ROUTING_KEY, soon(30))
        client.close()
        assert after.message == f"PagerDuty refused the event for good with 400: the own answer of after {name}"
        return outcome.code


@pytest.fixture
def hostile(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Hostile:
    monkeypatch.setattr(pagerduty, "REPLY_TIMEOUT", 0.5)
    return Hostile(sandbox)


@EACH_ANSWER
def test_an_answer_that_is_cut_at_any_byte(hostile: Hostile, answer: Answer) -> None:
    faults = {n: Fault.raw(answer.content[:n]) for n in range(len(answer.content) + 1)}
    # The status needs no end of its line, and the last chunk no end at all.
    status_end = len("HTTP/1.1 202")
    end = len(answer.content.removesuffix(b"\r\n\r\n"))

    assert hostile.codes(faults) == {
        n: "pagerduty_unreachable" if n < status_end else answer.status_only if n < end else answer.complete
        for n in faults
    }


@EACH_ANSWER
def test_an_answer_that_stalls_at_any_byte(hostile: Hostile, answer: Answer) -> None:
    faults = {n: Fault.raw(answer.content[:n], ending="hold") for n in range(len(answer.content))}

    assert hostile.codes(faults, DEADLINE) == {
        n: "pagerduty_timeout" if n < STATUS_LINE else answer.status_only for n in faults
    }


@EACH_ANSWER
def test_an_answer_whose_connection_is_reset_at_any_byte(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    was_read = threading.Event()
    readinto = socket.SocketIO.readinto

    def note_read(file: socket.SocketIO, buffer: Any) -> int | None:
        count = readinto(file, buffer)
        if threading.current_thread().name == "call":  # The client's, not one of the sandbox.
            was_read.set()
        return count

    def pieces(content: bytes) -> Iterator[bytes]:
        """Wait until the client has read the bytes, since a reset may discard those that it has not."""
        was_read.clear()
        yield content
        assert was_read.wait(30)

    monkeypatch.setattr(socket.SocketIO, "readinto", note_read)
    lengths = range(STATUS_LINE, len(answer.content) + 1)
    faults = {n: Fault.raw(pieces(answer.content[:n]), ending="reset") for n in lengths}
    # An answer that ends with its connection is complete only with an orderly end.
    end = len(answer.content) + (answer.framing == "close")

    assert hostile.codes(faults, threads=1) == {n: answer.status_only if n < end else answer.complete for n in faults}


@EACH_ANSWER
def test_an_answer_of_which_any_byte_is_garbled_never_becomes_another(hostile: Hostile, answer: Answer) -> None:
    content = answer.content
    faults = {n: Fault.raw(content[:n] + b"\xff" + content[n + 1 :]) for n in range(len(content))}

    assert set(hostile.codes(faults).values()) == {answer.complete, answer.status_only, "pagerduty_unreachable"}


OK = encode(202, ACCEPTED)
NO = encode(400, REFUSED)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps(REFUSED).encode()
FALSE = {
    "a negative chunk size": CHUNKED + b"-5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size that is no number": CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\n\r\n",
    "a negative length": b"Content-Length: -5\r\n\r\n" + BODY[:-1],
    "a length that is too large": b"Content-Length: 10000\r\n\r\n" + BODY,
    "a length that is too small": b"Content-Length: 5\r\n\r\n" + BODY,
    "gzip": b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(gzip.compress(BODY)), gzip.compress(BODY)),
    "no body": b"\r\n",
}
# Its start, and what is repeated without end.
ENDLESS = {
    "fields": (b"", b"X-Field: 1\r\n"),
    "a field": (b"X-Field: ", b"1" * 8192),
    "trailers": (CHUNKED + b"0\r\n", b"X-Trailer: 1\r\n"),
    "the size of a chunk": (CHUNKED, b"1;" + b"x" * 8192),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "a body": (b"\r\n", b" " * 8192),
}


@pytest.mark.parametrize(("status", "code"), [(202, "delivered"), (400, "pagerduty_unexpected")])
def test_an_answer_that_is_false_or_never_ends_counts_by_its_status(hostile: Hostile, status: int, code: str) -> None:
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status
    faults = {name: Fault.raw(head + rest) for name, rest in FALSE.items()}
    for name, (start, part) in ENDLESS.items():
        faults[name] = Fault.raw(itertools.chain([head + start], itertools.repeat(part)), pause=0.0005)

    assert hostile.codes(faults, DEADLINE) == dict.fromkeys([*FALSE, *ENDLESS], code)


def test_an_answer_that_is_not_http_is_no_answer(hostile: Hostile) -> None:
    faults = {
        "another protocol": Fault.raw(b"\xff" + OK),
        "a status that is no number": Fault.raw(OK.replace(b"202", b"2x2")),
    }

    assert hostile.codes(faults) == dict.fromkeys(faults, "pagerduty_unreachable")


@pytest.mark.parametrize("final", [OK, NO], ids=["accepted", "refused"])
def test_an_interim_answer_other_than_100_is_undocumented(hostile: Hostile, final: bytes) -> None:
    heads = {status: b"HTTP/1.1 %d Early\r\nLink: </style.css>\r\n\r\n" % status for status in (102, 103, 199)}

    codes = hostile.codes({status: Fault.raw(head + final, ending="hold") for status, head in heads.items()})

    assert codes == dict.fromkeys(heads, "pagerduty_unexpected")


def test_100_continue_announces_the_answer(hostile: Hostile, calls_end: Callable[[], None]) -> None:
    faults = {
        "accepted": Fault.raw(CONTINUE * 3 + OK, ending="keep"),
        "refused": Fault.raw(CONTINUE * 3 + NO, ending="keep"),
        "never": Fault.raw(itertools.repeat(CONTINUE), pause=0.001),
    }

    codes = hostile.codes(faults, DEADLINE)
    calls_end()

    assert codes == {"accepted": "delivered", "refused": "pagerduty_rejected", "never": "pagerduty_timeout"}


def test_unrequested_bytes_after_an_answer_do_not_answer_the_next_event(hostile: Hostile) -> None:
    answers = {
        "an answer": OK + NO,
        "half an answer": OK + NO[:-10],
        "a long tail": OK + b"\xff" * 100_000,
        "an answer after chunks": encode(202, ACCEPTED, "chunks") + NO,
    }

    codes = hostile.codes({name: Fault.raw(answer, ending="keep") for name, answer in answers.items()})

    assert codes == dict.fromkeys(answers, "delivered")
