"""The model of rudder-server's router keeps that router's rules, against a server on loopback."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from chaos.router import Form, Job, Record, Router, is_retried
from local.server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@dataclass
class Destination:
    """Answers the nth request, with this body, with a status."""

    url: str = ""
    answer: Callable[[int, Any], int] = lambda _number, _body: 200
    bodies: list[Any] = field(default_factory=list)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        self.bodies.append(body)
        start_response(f"{self.answer(len(self.bodies), body)} Status", [("Retry-After", "3600")])
        return [b""]

    @property
    def names(self) -> list[list[str]]:
        """The messageIds of each request."""
        bodies = [body if isinstance(body, list) else [body] for body in self.bodies]
        return [[event["messageId"] for event in body] for body in bodies]


@pytest.fixture
def destination() -> Iterator[Destination]:
    destination = Destination()
    server = Server(destination)
    destination.url = server.url
    server.start()
    yield destination
    server.stop()


def jobs(*names: str, form: Form = "single") -> list[Job]:
    """Return jobs of names whose first letter is the user."""
    return [Job(name[0], {"messageId": name}, form=form) for name in names]


def deliver(url: str, sent: list[Job], patience: float = 20, **settings: Any) -> list[Record]:
    """Deliver with retry delays from ten milliseconds on, by a single worker."""
    return Router(url, {}, **{"workers": 1, "speed": 1000, **settings}).deliver(sent, patience)


def test_a_status_is_final_unless_it_is_408_429_or_5xx() -> None:
    assert {status for status in range(200, 600) if is_retried(status)} == {408, 429, *range(500, 600)}


@pytest.mark.parametrize(("status", "outcome"), [(204, "delivered"), (302, "aborted"), (400, "aborted")])
def test_a_final_status_ends_a_job_and_releases_the_next_of_its_user(
    destination: Destination, status: int, outcome: str
) -> None:
    destination.answer = lambda number, _body: status if number == 1 else 200
    first, second = deliver(destination.url, jobs("a1", "a2"))

    assert (first.outcome, first.attempts, second.outcome) == (outcome, 1, "delivered")
    assert destination.names == [["a1"], ["a2"]]


def test_a_retry_waits_for_a_delay_that_doubles_and_ignores_retry_after(destination: Destination) -> None:
    destination.answer = lambda number, _body: [408, 429, 503, 200][number - 1]
    (record,) = deliver(destination.url, jobs("a1"))
    gaps = [later.began - earlier.began for earlier, later in itertools.pairwise(record.requests)]

    assert [request.status for request in record.requests] == [408, 429, 503, 200]
    assert record.attempts == 4
    assert all(gap >= delay for gap, delay in zip(gaps, (0.01, 0.02, 0.04), strict=True))
    assert sum(gaps) < 30
    assert [Router("", {}).retry_delay(attempts) for attempts in range(1, 8)] == [10, 20, 40, 80, 160, 300, 300]


def test_later_events_of_a_user_wait_while_one_fails_and_other_users_do_not(destination: Destination) -> None:
    destination.answer = lambda number, body: 503 if body["messageId"] == "a1" and number < 4 else 200
    deliver(destination.url, jobs("a1", "a2", "b1", "b2"), speed=5)

    assert destination.names == [["a1"], ["b1"], ["b2"], ["a1"], ["a2"]]


def test_a_batch_keeps_the_order_across_users_and_its_status_is_that_of_all_its_jobs(destination: Destination) -> None:
    destination.answer = lambda number, _body: 400 if number == 1 else 200
    records = deliver(destination.url, jobs("a1", "b1", "a2", "c1", form="array"), batch_size=3)

    assert destination.names == [["a1", "b1", "a2"], ["c1"]]
    assert [record.outcome for record in records] == ["aborted", "aborted", "aborted", "delivered"]


def test_a_failed_batch_is_grouped_anew_with_the_first_event_of_each_user_alone(destination: Destination) -> None:
    destination.answer = lambda number, _body: 503 if number == 1 else 200
    records = deliver(destination.url, jobs("a1", "a2", "b1", "c1", form="array"), batch_size=3, speed=5)

    assert destination.names == [["a1", "a2", "b1"], ["c1"], ["a1", "b1"], ["a2"]]
    # The second event of a user only shared the failed batch, which is no attempt of its own.
    assert [(record.outcome, record.attempts) for record in records] == [("delivered", n) for n in (2, 1, 2, 1)]
