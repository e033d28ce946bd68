"""A storm in real time, through the whole local stack: `make storm-live`; exits 1 when a target is missed.

300 warnings of 300 incidents at once, in single requests, to a PagerDuty that accepts 120 calls a minute. Meanwhile
there is a critical page every five seconds, and eight incidents that were open before are resolved. `make storm` covers
more storms, and longer ones, in virtual time; this shows that the real parts do the same.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import urllib3

from local.options import LOCAL_TOKEN, RATE_LIMIT, Options
from local.sandbox import Received
from local.stack import LocalStack
from local.terminal import painted, progress

WARNINGS: Final = 300
REQUESTS_AT_ONCE: Final = 20
# Seconds since the storm began.
DURATION: Final = 90
PAGES: Final = range(2, DURATION, 5)
RESOLVES: Final = range(5, 85, 10)
# The targets: seconds until PagerDuty has a page or a resolve, and accepted calls a minute.
MAX_SECONDS: Final = 3.0
MIN_DELIVERIES: Final = 80
# Seconds: a cold start on a slow machine takes a few.
_PATIENCE: Final = 30

Json = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A page or a resolve, the second in which it was sent, and how long it took until PagerDuty had it."""

    what: str
    second: float
    took: float | None  # None: PagerDuty does not have it


@dataclass
class Arrivals:
    """The calls to PagerDuty: when each event was accepted, and how many were not."""

    accepted: dict[tuple[str, str], float] = field(default_factory=dict)  # by action and dedup key
    limited: int = 0

    def note(self, call: Received) -> None:
        """Note one call, as the sandbox's `on_received`."""
        if call.status == HTTPStatus.TOO_MANY_REQUESTS:
            self.limited += 1
        if call.accepted:
            self.accepted.setdefault((call.event["event_action"], call.event["dedup_key"]), time.monotonic())


def main() -> int:
    """Run the storm and print the result; return 0 if all targets are met."""
    arrivals = Arrivals()
    with LocalStack(Options(rate_limit=RATE_LIMIT), on_received=arrivals.note) as stack:
        url = f"{stack.url}/events"
        with progress("Starting the functions, and opening the older incidents"):
            _warm_up(url)
            opened = [_post(url, _event(f"older-{n}", "error")) for n in range(1, len(RESOLVES) + 1)]
        before = len(arrivals.accepted)
        with progress(f"The storm: {DURATION} seconds"):
            began = time.monotonic()
            refused, timed = _run(url, began, arrivals)
        ended = began + DURATION
        deliveries = sum(began <= at <= ended for at in arrivals.accepted.values())
    print("\n".join(_table(timed)))
    a_minute = deliveries / DURATION * 60
    print(f"\nAccepted: {deliveries} events in {DURATION} s, {a_minute:.0f} a minute. 429s: {arrivals.limited}.")
    missed = [
        *(f"{each.what} sent at {each.second:.0f} s: {_seconds(each)}" for each in timed if not _is_in_time(each)),
        *([f"{arrivals.limited} calls were answered 429"] if arrivals.limited else []),
        *([f"{a_minute:.0f} deliveries a minute, fewer than {MIN_DELIVERIES}"] if a_minute < MIN_DELIVERIES else []),
        *([f"{refused} requests were not answered 200"] if refused else []),
        *(
            ["not all older incidents were opened directly"]
            if {*opened} != {HTTPStatus.OK} or before < len(opened)
            else []
        ),
    ]
    for each in missed:
        print(f"{painted('MISSED', 'red')}  {each}")
    print(painted(f"{len(missed)} targets missed", "red") if missed else painted("all targets met", "green"))
    return 1 if missed else 0


def _run(url: str, began: float, arrivals: Arrivals) -> tuple[int, list[Sent]]:
    """Send everything; return how many requests were refused, and the pages and resolves."""
    timed = sorted(
        [
            *((second, f"page {n}", _event(f"page-{n}", "critical")) for n, second in enumerate(PAGES, 1)),
            *((second, f"resolve {n}", _event(f"older-{n}", action="resolve")) for n, second in enumerate(RESOLVES, 1)),
        ],
        key=lambda each: each[0],
    )
    warnings = [_event(f"warning-{n}", "warning") for n in range(WARNINGS)]
    sent: list[tuple[str, Json, float]] = []
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as storm, ThreadPoolExecutor(len(timed)) as others:
        answers = [storm.submit(_post, url, warning) for warning in warnings]
        for second, what, event in timed:
            time.sleep(max(0.0, began + second - time.monotonic()))
            sent.append((what, event, time.monotonic()))
            answers.append(others.submit(_post, url, event))
        time.sleep(max(0.0, began + DURATION + MAX_SECONDS - time.monotonic()))
        refused = sum(answer.result() != HTTPStatus.OK for answer in answers)
    return refused, [Sent(what, at - began, _took(event, at, arrivals)) for what, event, at in sent]


def _took(event: Json, at: float, arrivals: Arrivals) -> float | None:
    properties = event["properties"]
    arrived = arrivals.accepted.get((properties["action"], properties["dedupKey"]))
    return None if arrived is None else arrived - at


def _warm_up(url: str) -> None:
    """Start as many instances as the storm needs: on this machine, unlike on AWS, they would compete with it."""
    preview = _event("preview", "info")
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        list(threads.map(lambda _: _post(f"{url}?preview=true", preview), range(REQUESTS_AT_ONCE)))


def _event(dedup_key: str, severity: str = "info", *, action: str = "trigger") -> Json:
    properties = {"source": "storm", "severity": severity, "action": action, "dedupKey": dedup_key}
    return {"type": "track", "event": dedup_key, "messageId": f"{dedup_key}-{action}", "properties": properties}


def _post(url: str, event: Json) -> int:
    """Send an event; return the status."""
    headers = {"Authorization": f"Bearer {LOCAL_TOKEN}"}
    return urllib3.request("POST", url, json=event, headers=headers, retries=False, timeout=_PATIENCE).status


def _is_in_time(each: Sent) -> bool:
    return each.took is not None and each.took <= MAX_SECONDS


def _seconds(each: Sent) -> str:
    return "not delivered" if each.took is None else f"{each.took:.2f} s"


def _table(timed: Sequence[Sent]) -> Iterator[str]:
    """Lay out the pages and resolves, a line each."""
    yield f"{'sent at':>8}  {'what':<12}{'PagerDuty had it after':>24}"
    for each in timed:
        yield f"{each.second:>6.1f} s  {each.what:<12}{_seconds(each):>24}"


if __name__ == "__main__":
    sys.exit(main())
