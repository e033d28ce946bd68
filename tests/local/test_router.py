"""The model of rudder-server's router keeps the rules that it is there for, against a server on loopback."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chaos.router import Form, Job, Record, RetryRules, Router, is_retried, worker_of

# The shortest wait, ten seconds, becomes ten milliseconds.
FAST = RetryRules(speed=1000)


@dataclass
class Server:
    """Answers what `answer` says of the events of a request, the nth of all; None: never."""

    url: str = ""
    answer: Callable[[list[Any], int], int | None] = lambda _events, _number: 200
    headers: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def respond(self, body: Any) -> int | None:
        events = body if isinstance(body, list) else [body]
        with self.lock:
            self.bodies.append(body)
            return self.answer(events, len(self.bodies))

    def names(self) -> list[Any]:
        """List what was sent: names, of a batch a list of them."""
        return [
            [each["messageId"] for each in body] if isinstance(body, list) else body["messageId"]
            for body in self.bodies
        ]


class Listener(ThreadingHTTPServer):
    """Lets 64 callers wait: the default of five would turn most away, who come back seconds later."""

    request_queue_size = 128


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            state.paths.append(self.path)
            status = state.respond(body)
            if status is None:
                state.closing.wait(30)
                return
            with state.lock:
                state.at_once -= 1
            self.send_response(status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(f"answer {status}".encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
            """Say nothing."""

    with Listener(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        state.closing.set()
        http.shutdown()
        thread.join()


def jobs(*names: str, form: Form = "single") -> list[Job]:
    """Make jobs of names whose first letter is the user."""
    return [Job(name[0], {"messageId": name}, form=form) for name in names]


def deliver(
    server: Server, rules: RetryRules, *names: str, form: Form = "single", patience: float = 20
) -> list[Record]:
    return Router(server.url, {"X-Api-Key": "secret"}, rules).deliver(jobs(*names, form=form), patience)


# -- which statuses are final ----------------------------------------------------------------------------------------


def test_a_status_is_final_unless_it_is_408_429_or_5xx() -> None:
    assert {status for status in range(200, 600) if is_retried(status)} == {408, 429, *range(500, 600)}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "delivered"), (204, "delivered"), (302, "aborted"), (400, "aborted"), (404, "aborted")],
)
def test_a_final_status_ends_a_job_at_the_first_attempt(server: Server, status: int, outcome: str) -> None:
    server.answer = lambda _events, _number: status
    (record,) = deliver(server, FAST, "a1")

    assert (record.outcome, record.attempts, record.requests[0].status) == (outcome, 1, status)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_sent_again_until_it_is_taken(server: Server, status: int) -> None:
    server.answer = lambda _events, number: status if number < 4 else 200
    (record,) = deliver(server, FAST, "a1")

    assert (record.outcome, record.attempts) == ("delivered", 4)
    assert [request.status for request in record.requests] == [status, status, status, 200]


# -- how long --------------------------------------------------------------------------------------------------------


def test_the_wait_doubles_from_ten_seconds_to_three_hundred() -> None:
    waits = [RetryRules().wait_after(attempts) for attempts in range(1, 9)]

    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    assert RetryRules(speed=100).wait_after(1) == 0.1


def test_the_wait_is_kept_and_retry_after_is_not_read(server: Server) -> None:
    server.headers = {"Retry-After": "3600"}
    server.answer = lambda _events, number: 503 if number < 4 else 200
    (record,) = deliver(server, FAST, "a1")
    began = [request.began for request in record.requests]

    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert all(gap >= wait for gap, wait in zip(gaps, (0.01, 0.02, 0.04), strict=True))
    assert gaps[-1] < 3


def test_no_answer_in_time_counts_as_504_and_is_sent_again(server: Server) -> None:
    server.answer = lambda _events, number: None if number == 1 else 200
    (record,) = deliver(server, RetryRules(speed=1000, request_seconds=0.3), "a1")

    assert [(request.status, request.answered) for request in record.requests] == [(504, False), (200, True)]
    assert 0.3 <= record.requests[0].seconds < 3
    assert RetryRules().request_seconds == 10


def test_a_connection_error_counts_as_504() -> None:
    (record,) = Router("http://127.0.0.1:1", {}, FAST).deliver(jobs("a1"), 0.2)

    assert {request.status for request in record.requests} == {504}


def test_what_is_not_done_in_time_is_told_apart(server: Server) -> None:
    server.answer = lambda _events, _number: 429
    (record,) = deliver(server, FAST, "a1", patience=0.2)

    assert record.outcome == "unfinished"


def test_an_answer_that_is_lost_is_sent_again(server: Server) -> None:
    lost = iter([True])
    router = Router(server.url, {}, FAST, loses=lambda _: next(lost, False))
    (record,) = router.deliver(jobs("a1"), 20)

    assert [(request.status, request.answered) for request in record.requests] == [(504, False), (200, True)]


# -- order and bodies ------------------------------------------------------------------------------------------------


def test_later_events_of_a_user_wait_while_one_fails_and_other_users_do_not(server: Server) -> None:
    failing = Counter({"a1": 3})

    def answer(events: list[Any], _: int) -> int:
        name = events[0]["messageId"]
        failing[name] -= 1
        return 503 if failing[name] >= 0 else 200

    server.answer = answer
    deliver(server, RetryRules(speed=1000, workers=1), "a1", "a2", "b1", "b2")
    names = server.names()

    assert [name for name in names if name[0] == "a"] == ["a1", "a1", "a1", "a1", "a2"]
    assert names.index("b2") < names.index("a2")


def test_an_abort_releases_the_events_behind_it(server: Server) -> None:
    server.answer = lambda events, _: 400 if events[0]["messageId"] == "a1" else 200
    records = deliver(server, FAST, "a1", "a2")

    assert [record.outcome for record in records] == ["aborted", "delivered"]
    assert server.names() == ["a1", "a2"]


@pytest.mark.parametrize(
    ("form", "service", "path", "body"),
    [
        ("single", "default", "/events", {"type": "track", "messageId": "a1"}),
        ("single", "billing", "/events/billing", {"type": "track", "messageId": "a1"}),
        ("array", "billing", "/events/billing", [{"type": "track", "messageId": "a1"}]),
        ("track", "default", "/v1/track", {"messageId": "a1"}),
        ("batch", "default", "/v1/batch", {"batch": [{"type": "track", "messageId": "a1"}]}),
    ],
)
def test_a_form_has_its_path_and_body(server: Server, form: Form, service: str, path: str, body: object) -> None:
    Router(server.url, {}, FAST).deliver([Job("a", {"type": "track", "messageId": "a1"}, service, form)], 20)

    assert (server.paths, server.bodies) == ([path], [body])


def test_a_batch_keeps_the_order_of_the_jobs_across_users(server: Server) -> None:
    deliver(server, RetryRules(batch_size=3, workers=1), "a1", "b1", "a2", "c1", form="array")

    assert server.names() == [["a1", "b1", "a2"], ["c1"]]


def test_a_job_in_another_form_waits_for_the_earlier_ones_of_its_user(server: Server) -> None:
    first, second, third, other = jobs("a1", "a2", "a3", "b1", form="array")
    Router(server.url, {}, RetryRules(workers=1)).deliver([first, replace(second, form="single"), third, other], 20)

    assert server.names() == [["a1", "b1"], "a2", ["a3"]]


def test_a_failed_batch_is_grouped_anew_with_the_first_event_of_each_user_alone(server: Server) -> None:
    server.answer = lambda _events, number: 503 if number == 1 else 200
    records = deliver(server, RetryRules(speed=1000, batch_size=3, workers=1), "a1", "a2", "b1", "c1", form="array")

    assert server.names() == [["a1", "a2", "b1"], ["c1"], ["a1", "b1"], ["a2"]]
    assert {record.outcome for record in records} == {"delivered"}
    # The second event of a user shared the batch, and waited: that is no attempt of its own.
    assert [record.attempts for record in records] == [2, 1, 2, 1]


def test_one_status_is_for_all_of_a_batch(server: Server) -> None:
    server.answer = lambda _events, _number: 400
    records = deliver(server, RetryRules(workers=1), "a1", "b1", "a2", form="array")

    assert [record.outcome for record in records] == ["aborted"] * 3
    assert len({record.requests[0] for record in records}) == 1


def test_as_many_requests_run_at_once_as_there_are_workers(server: Server) -> None:
    together = threading.Barrier(64)

    respond_alone = server.respond

    def respond(body: Any) -> int | None:
        together.wait(10)
        return respond_alone(body)

    server.respond = respond  # type: ignore[method-assign]  # so that all of them are there before one is answered
    # Names of users that fall to different workers.
    users: dict[int, str] = {}
    for n in range(10_000):
        users.setdefault(worker_of(f"user-{n}", 64), f"user-{n}")
    records = Router(server.url, {}, RetryRules()).deliver(
        [Job(user, {"messageId": user}) for user in users.values()], 20
    )

    assert (len(records), server.most_at_once) == (64, 64)
