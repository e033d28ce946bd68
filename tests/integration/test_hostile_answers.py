"""Answers of PagerDuty's that are cut, stall, begin anew or are garbled, at every byte; and some that lie or never end.

For each it is stated what the sender is told. The next event always gets its own answer, whatever the one before was.
"""

import gzip
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import pagerduty
from chaos.faults import Fault
from event import Event
from local.sandbox import Received, Sandbox
from pagerduty import Client
from tests.support import ROUTING_KEY, no_pause, soon

Answer = tuple[int, dict[str, Any]]
ACCEPTED: Answer = (202, {"status": "success", "message": "Event processed", "dedup_key": "disk-full"})
REFUSED: Answer = (400, {"status": "invalid event", "message": "Event object is invalid", "errors": ["'summary'"]})
KEY_REFUSED: Answer = (400, {"status": "invalid event", "message": "Event is invalid", "errors": ["Bad routing key"]})
# The answer, what the sender is told when it came as a whole, and when no more than its status is known for certain.
ANSWERS = {
    "accepted": (ACCEPTED, "delivered", "delivered"),
    "refused": (REFUSED, "pagerduty_rejected", "pagerduty_unexpected"),
    "key refused": (KEY_REFUSED, "routing_key_refused", "pagerduty_unexpected"),
}
NAMES_AND_FRAMINGS = [
    ("accepted", "content-length"),
    ("accepted", "chunked"),
    ("refused", "content-length"),
    ("refused", "closed"),
    ("key refused", "content-length"),
    ("key refused", "chunked"),
]
# Each answer and each framing once.
ONE_OF_EACH = [("accepted", "content-length"), ("refused", "closed"), ("key refused", "chunked")]
STATUS_LINE = len("HTTP/1.1 202 X\r\n")
STATUS = len("HTTP/1.1 202")
# What ends a chunked answer once its last chunk is announced.
TAIL = len("\r\n\r\n")
# So many that all of those that stall do so at once.
THREADS = 100
# Seconds, for a test that waits for them hundreds of times.
DEADLINE = 2.0
REPLY_TIMEOUT = 0.1


def encoded(answer: Answer, framing: str) -> bytes:
    status, content = answer
    body = json.dumps(content).encode()
    fields = [b"HTTP/1.1 %d X" % status, b"Content-Type: application/json"]
    if framing == "content-length":
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    else:
        fields.append(b"Connection: close")
    return b"\r\n".join(fields) + b"\r\n\r\n" + body


def length_of_head(answer: bytes) -> int:
    return answer.index(b"\r\n\r\n") + 4


def resolve(dedup_key: str) -> Event:
    content = {"event_action": "resolve", "dedup_key": dedup_key}
    return Event("default", "alert", content, "resolve", dedup_key)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagerduty, "REPLY_TIMEOUT", REPLY_TIMEOUT)


class Hostile:
    """A sandbox that gives some events an answer of ours, and all that come after them one that tells whose it is."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._answers: dict[str, Fault] = {}
        sandbox.on_call = self._answer

    def _answer(self, call: Received) -> Fault:
        key = str(call.event["dedup_key"])
        own = {"status": "invalid event", "message": "no", "errors": [f"the own answer of {key}"]}
        return self._answers.get(key) or Fault.answer(400, own)

    def codes(self, faults: dict[Any, Fault], deadline: float = 5.0) -> dict[Any, tuple[str, int]]:
        """Return, for each answer, the code of what the sender is told and how often the event was posted."""
        self._answers = {f"event {name}": fault for name, fault in faults.items()}
        with ThreadPoolExecutor(THREADS) as threads:
            codes = dict(zip(faults, threads.map(self._code, faults, itertools.repeat(deadline)), strict=True))
        posts = Counter(call.event["dedup_key"] for call in self._sandbox.received)
        return {name: (code, posts[f"event {name}"]) for name, code in codes.items()}

    def _code(self, name: object, deadline: float) -> str:
        client = Client(self._sandbox.plain_url, no_pause)
        outcome = client.post(resolve(f"event {name}"), ROUTING_KEY, time.monotonic() + deadline)
        after = client.post(resolve(f"after {name}"), ROUTING_KEY, soon())
        client.close()
        assert after.message == f"PagerDuty refused the event for good with 400: the own answer of after {name}"
        return outcome.code


@pytest.fixture
def hostile(sandbox: Sandbox) -> Hostile:
    return Hostile(sandbox)


def posts(code: str) -> int:
    """Tell how often an event is posted that ends with this code: only what may not have arrived is quickly retried."""
    return 3 if code == "pagerduty_unreachable" else 1


def differences(told: dict[Any, tuple[str, int]], expected: Callable[[Any], set[str]]) -> dict[Any, tuple[str, int]]:
    return {name: got for name, got in told.items() if got not in {(code, posts(code)) for code in expected(name)}}


def by_status_line(answer: bytes, whole: str, status_only: str) -> str:
    """Tell what follows from the first line of an answer, of which all the rest is as it should be."""
    words = answer.split(b"\r\n", 1)[0].split()
    if not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "pagerduty_unreachable"
    return whole if words[0].startswith(b"HTTP/1.") else status_only


@pytest.mark.parametrize(("name", "framing"), NAMES_AND_FRAMINGS)
def test_an_answer_that_is_cut_at_any_byte(hostile: Hostile, name: str, framing: str) -> None:
    parts, whole, status_only = ANSWERS[name]
    answer = encoded(parts, framing)
    end = len(answer) - (TAIL if framing == "chunked" else 0)

    def expected(length: int) -> set[str]:
        if length < STATUS:
            return {"pagerduty_unreachable"}
        return {whole if length >= end else status_only}

    told = hostile.codes({n: Fault.raw(answer[:n]) for n in range(len(answer) + 1)})

    assert differences(told, expected) == {}


@pytest.mark.parametrize(("name", "framing"), ONE_OF_EACH)
def test_an_answer_whose_connection_is_reset_at_any_byte(hostile: Hostile, name: str, framing: str) -> None:
    parts, whole, status_only = ANSWERS[name]
    answer = encoded(parts, framing)

    def expected(length: int) -> set[str]:
        if length < STATUS_LINE:
            return {"pagerduty_unreachable"}
        # What ends with its connection has its end only when that was closed in peace.
        return {whole if length == len(answer) and framing != "closed" else status_only}

    told = hostile.codes({n: Fault.raw(answer[:n], ending="reset") for n in range(len(answer) + 1)})

    assert differences(told, expected) == {}


@pytest.mark.parametrize(("name", "framing"), ONE_OF_EACH)
def test_an_answer_that_stalls_at_any_byte(hostile: Hostile, name: str, framing: str) -> None:
    parts, _, status_only = ANSWERS[name]
    answer = encoded(parts, framing)

    def expected(length: int) -> set[str]:
        if length < STATUS_LINE:
            return {"pagerduty_timeout"}
        return {status_only}

    told = hostile.codes({n: Fault.raw(answer[:n], ending="hold") for n in range(len(answer))}, DEADLINE)

    assert differences(told, expected) == {}


@pytest.mark.parametrize(("name", "framing"), ONE_OF_EACH)
def test_an_answer_that_begins_anew_at_any_byte(hostile: Hostile, name: str, framing: str) -> None:
    parts, whole, status_only = ANSWERS[name]
    answer = encoded(parts, framing)
    end = len(answer) - (len("\r\n") if framing == "chunked" else 0)

    def expected(length: int) -> set[str]:
        if length < STATUS_LINE:
            return {by_status_line(answer[:length] + answer, whole, status_only)}
        # In the head, one field twice or a line too many does no harm, or it hides where the body begins or ends.
        if length < length_of_head(answer):
            return {whole, status_only}
        return {whole if length >= end and framing != "closed" else status_only}

    told = hostile.codes({n: Fault.raw(answer[:n] + answer) for n in range(1, len(answer) + 1)})

    assert differences(told, expected) == {}


@pytest.mark.parametrize(("name", "framing"), NAMES_AND_FRAMINGS)
def test_an_answer_of_which_any_byte_is_garbled(hostile: Hostile, name: str, framing: str) -> None:
    parts, whole, status_only = ANSWERS[name]
    answer = encoded(parts, framing)

    def garbled(place: int) -> bytes:
        return answer[:place] + b"\xff" + answer[place + 1 :]

    def expected(place: int) -> set[str]:
        if place < STATUS_LINE - len("\r\n"):
            return {by_status_line(garbled(place), whole, status_only)}
        # A field that does no harm, or one that hides where the body begins or ends.
        if place < length_of_head(answer):
            return {whole, status_only}
        # The line ends around the chunks are not looked at.
        is_line_end = framing == "chunked" and answer[place : place + 1] in {b"\r", b"\n"}
        return {whole, status_only} if is_line_end else {status_only}

    told = hostile.codes({n: Fault.raw(garbled(n)) for n in range(len(answer))})

    assert differences(told, expected) == {}


# -- answers that lie, or never end ----------------------------------------------------------------------------------

OK = encoded(ACCEPTED, "content-length")
NO = encoded(REFUSED, "content-length")


def endless(start: bytes, part: bytes) -> Iterator[bytes]:
    return itertools.chain([start], itertools.repeat(part))


@pytest.mark.parametrize("status", [102, 103, 199])
@pytest.mark.parametrize("final", [OK, NO])
def test_an_interim_answer_is_not_the_answer_and_what_follows_it_not_that_of_the_next_event(
    hostile: Hostile, status: int, final: bytes
) -> None:
    interim = b"HTTP/1.1 %d Early\r\nLink: </style.css>\r\n\r\n" % status

    assert hostile.codes({0: Fault.raw(interim + final, ending="hold")}) == {0: ("pagerduty_unexpected", 1)}


@pytest.mark.parametrize(("final", "code"), [(OK, "delivered"), (NO, "pagerduty_rejected")])
def test_a_100_continue_announces_the_answer(hostile: Hostile, final: bytes, code: str) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 3

    assert hostile.codes({0: Fault.raw(interim + final, ending="keep")}) == {0: (code, 1)}


HEAD_OK, HEAD_NO = (b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status for status in (202, 400))
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps(REFUSED[1]).encode()
# How it begins, and what comes then, again and again.
ENDLESS = {
    "fields": (b"", b"X-Field: 1\r\n"),
    "a field": (b"X-Field: ", b"1" * 8192),
    "trailers": (CHUNKED + b"0\r\n", b"X-Trailer: 1\r\n"),
    "the size of a chunk": (CHUNKED, b"1;" + b"x" * 8192),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "a body": (b"\r\n", b" " * 8192),
}


@pytest.mark.parametrize(("head", "code"), [(HEAD_OK, "delivered"), (HEAD_NO, "pagerduty_unexpected")])
def test_of_an_answer_without_an_end_the_status_counts(hostile: Hostile, head: bytes, code: str) -> None:
    faults = {name: Fault.raw(endless(head + start, part), pause=0.0005) for name, (start, part) in ENDLESS.items()}

    assert hostile.codes(faults, DEADLINE) == dict.fromkeys(ENDLESS, (code, 1))


def test_100_continue_for_ever_is_no_answer(hostile: Hostile) -> None:
    faults = {0: Fault.raw(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), pause=0.001)}

    assert hostile.codes(faults, 0.5) == {0: ("pagerduty_timeout", 1)}


@pytest.mark.parametrize(("head", "code"), [(HEAD_OK, "delivered"), (HEAD_NO, "pagerduty_unexpected")])
@pytest.mark.parametrize(
    "rest",
    [
        CHUNKED + b"-5\r\n" + BODY + b"\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
        CHUNKED + b"\r\n\r\n",
        b"Content-Length: -5\r\n\r\n" + BODY[:-1],
        b"Content-Length: 10000\r\n\r\n" + BODY,
        b"Content-Length: 5\r\n\r\n" + BODY,
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(gzip.compress(BODY)), gzip.compress(BODY)),
        b"Content-Length: 200000\r\n\r\n" + b"[" * 100_000 + b"]" * 100_000,
        b"Content-Length: 40000\r\n\r\n" + b"[" * 20_000 + b"]" * 20_000,
        b"\r\n",
    ],
)
def test_of_an_answer_that_contradicts_itself_the_status_counts(
    hostile: Hostile, head: bytes, code: str, rest: bytes
) -> None:
    assert hostile.codes({0: Fault.raw(head + rest)}) == {0: (code, 1)}


def test_what_comes_unasked_after_an_answer_is_not_that_of_the_next_event(hostile: Hostile) -> None:
    faults = {
        "a second answer": Fault.raw(OK + NO, ending="keep"),
        "half an answer": Fault.raw(OK + NO[:-10], ending="keep"),
        "a long tail": Fault.raw(OK + b"\xff" * 100_000, ending="keep"),
    }

    assert hostile.codes(faults) == dict.fromkeys(faults, ("delivered", 1))
