"""Answers that break off or are garbled at each byte, and some that are malformed or endless.

After any such answer, the next event still gets its own.
"""

import gzip
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import pagerduty
from chaos.faults import Ending, NetworkFault
from event import Event
from local.sandbox import Fault, Received, Sandbox
from pagerduty import Client
from tests.support import ROUTING_KEY, no_pause, soon

ACCEPTED = b"HTTP/1.1 202 X\r\nContent-Length: 2\r\n\r\n{}"
BODY = b'{"status":"","message":"","errors":["Routing key"]}'
REFUSED = b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"9\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (BODY[:9], len(BODY) - 9, BODY[9:])
# Each answer, with the code of its event if it is complete, and if only its status is certain.
ANSWERS = {
    "length": (ACCEPTED, "delivered", "delivered"),
    "close": (b"HTTP/1.1 400 X\r\nConnection: close\r\n\r\n" + BODY, "routing_key_refused", "pagerduty_unexpected"),
    "chunks": (b"HTTP/1.1 400 X\r\n" + CHUNKED + CHUNKS, "routing_key_refused", "pagerduty_unexpected"),
}
# Seconds, for tests in which events have to wait for it.
DEADLINE = 3.0

Codes = Callable[..., dict[Any, str]]


@pytest.fixture
def codes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Codes:
    """Post an event for each fault, and return their codes; only one that may not have arrived is posted again."""
    monkeypatch.setattr(pagerduty, "REPLY_TIMEOUT", 0.5)

    def codes(faults: Mapping[Any, Fault], deadline: float = 30.0) -> dict[Any, str]:
        by_key = {f"event {name}": fault for name, fault in faults.items()}

        def answer(call: Received) -> Fault:
            key = str(call.event["dedup_key"])
            return by_key.get(key) or Fault.answer(400, {"status": "", "message": f"the answer to {key}"})

        def code(key: str) -> str:
            client = Client(sandbox.plain_url, no_pause)
            event, after = (Event("default", "alert", {"dedup_key": each}, "resolve") for each in (key, f"after {key}"))
            outcome = client.post(event, ROUTING_KEY, soon(deadline))
            message = client.post(after, ROUTING_KEY, soon(30)).message
            client.close()
            assert message == f"PagerDuty refused the event for good with 400: the answer to after {key}"
            return outcome.code

        sandbox.on_call = answer
        with ThreadPoolExecutor(100) as threads:
            found = list(threads.map(code, by_key))
        posts = Counter(call.event["dedup_key"] for call in sandbox.received)
        assert [posts[key] for key in by_key] == [3 if each == "pagerduty_unreachable" else 1 for each in found]
        return dict(zip(faults, found, strict=True))

    return codes


@pytest.mark.parametrize(
    ("ending", "needed", "no_status"),
    [
        ("close", "HTTP/1.1 202", "pagerduty_unreachable"),
        ("reset", "HTTP/1.1 202 X\r\n", "pagerduty_unreachable"),
        ("hold", "HTTP/1.1 202 X\r\n", "pagerduty_timeout"),
    ],
    ids=["cut", "reset", "stalled"],
)
def test_an_answer_that_breaks_off_at_any_byte_counts_by_its_status(
    codes: Codes, ending: Ending, needed: str, no_status: str
) -> None:
    faults, expected = {}, {}
    for name, (answer, complete, status_only) in ANSWERS.items():
        # The last chunk needs no end if the connection has an orderly one.
        end = len(answer.removesuffix(b"\r\n\r\n")) if ending == "close" else len(answer)
        for n in range(len(answer)):
            faults[name, n] = NetworkFault.raw(answer[:n], ending=ending)
            expected[name, n] = no_status if n < len(needed) else status_only if n < end else complete

    assert codes(faults, DEADLINE if ending == "hold" else 30.0) == expected


@pytest.mark.parametrize(("answer", "complete", "status_only"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_of_which_any_byte_is_garbled_never_becomes_another(
    codes: Codes, answer: bytes, complete: str, status_only: str
) -> None:
    faults = {n: NetworkFault.raw(answer[:n] + b"\xff" + answer[n + 1 :]) for n in range(len(answer))}

    assert set(codes(faults).values()) == {complete, status_only, "pagerduty_unreachable"}


MALFORMED = {
    "a negative chunk size": CHUNKED + b"-5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a negative length": b"Content-Length: -5\r\n\r\n" + BODY[:-1],
    "a length that is too small": b"Content-Length: 5\r\n\r\n" + BODY,
    "gzip": b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(gzip.compress(BODY)), gzip.compress(BODY)),
}
# The start, and what is repeated without end.
ENDLESS = {
    "fields": (b"", b"X-Field: 1\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"X-Trailer: 1\r\n"),
    "the size of a chunk": (CHUNKED, b"1;" + b"x" * 8192),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "a body": (b"\r\n", b" " * 8192),
}


def test_an_answer_that_is_malformed_or_endless_counts_by_its_status(codes: Codes) -> None:
    faults: dict[tuple[str, int], NetworkFault] = {}
    expected: dict[tuple[str, int], str] = {}
    for status, code in ((202, "delivered"), (400, "pagerduty_unexpected")):
        head = b"HTTP/1.1 %d X\r\n" % status
        for name, rest in MALFORMED.items():
            faults[name, status] = NetworkFault.raw(head + rest)
        for name, (start, part) in ENDLESS.items():
            endless = itertools.chain([head + start], itertools.repeat(part))
            faults[name, status] = NetworkFault.raw(endless, pause=0.0005)
        expected |= {each: code for each in faults if each[1] == status}

    assert codes(faults, DEADLINE) == expected


def test_an_interim_answer_other_than_100_is_undocumented(codes: Codes) -> None:
    faults = {n: NetworkFault.raw(b"HTTP/1.1 %d Early\r\n\r\n" % n + ACCEPTED, ending="hold") for n in (102, 103, 199)}

    assert codes(faults) == dict.fromkeys(faults, "pagerduty_unexpected")


def test_100_continue_announces_the_answer(codes: Codes, calls_end: Callable[[], None]) -> None:
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    faults = {
        "answered": NetworkFault.raw(go_on * 3 + ACCEPTED, ending="keep"),
        "never": NetworkFault.raw(itertools.repeat(go_on), pause=0.001),
    }

    found = codes(faults, DEADLINE)
    calls_end()

    assert found == {"answered": "delivered", "never": "pagerduty_timeout"}


def test_unrequested_bytes_after_an_answer_do_not_answer_the_next_event(codes: Codes) -> None:
    answers = {
        "an answer": ACCEPTED + REFUSED,
        "half an answer": ACCEPTED + REFUSED[:-10],
        "a long tail": ACCEPTED + b"\xff" * 100_000,
        "an answer after chunks": b"HTTP/1.1 202 X\r\n" + CHUNKED + CHUNKS + REFUSED,
    }

    faults = {name: NetworkFault.raw(answer, ending="keep") for name, answer in answers.items()}

    assert codes(faults) == dict.fromkeys(faults, "delivered")
