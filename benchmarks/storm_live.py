"""A storm in real time, through the whole local stack: `make storm-live`; exits 1 if a target is missed.

300 warnings of 300 incidents at once, in single requests, to a PagerDuty that accepts 120 calls a minute. Meanwhile
there is a critical page every five seconds, and eight older incidents are resolved. `make storm` covers more and longer
storms in virtual time; this shows that the real parts do the same.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
# The targets: seconds until PagerDuty accepts a page or a resolve, and accepted calls a minute.
MAX_SECONDS: Final = 3.0
MIN_DELIVERIES: Final = 80
# Seconds: a cold start on a slow machine takes a few.
_PATIENCE: Final = 30

Json = dict[str, Any]
Timed = list[tuple[float, Json]]


class Storm:
    """The storm against a stack; `accepted` has the time of each event's acceptance, by action and dedup key."""

    def __init__(self) -> None:
        self.accepted: dict[tuple[str, str], float] = {}
        self.limited = 0
        self.url = ""

    def note(self, call: Received) -> None:
        """Note a call to PagerDuty."""
        self.limited += call.status == HTTPStatus.TOO_MANY_REQUESTS
        if call.accepted:
            self.accepted.setdefault((call.event["event_action"], call.event["dedup_key"]), time.monotonic())

    def post(self, event: Json, query: str = "") -> int:
        """Send an event; return the status."""
        url, headers = f"{self.url}/events{query}", {"Authorization": f"Bearer {LOCAL_TOKEN}"}
        return urllib3.request("POST", url, json=event, headers=headers, retries=False, timeout=_PATIENCE).status

    def warm_up(self) -> bool:
        """Start as many instances as the storm needs, and open the older incidents; return whether they are open."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            previews = [threads.submit(self.post, _event("preview"), "?preview=true") for _ in range(REQUESTS_AT_ONCE)]
        for preview in previews:
            preview.result()
        opened = [self.post(_event(f"older-{second}", "error")) for second in RESOLVES]
        return {*opened} == {HTTPStatus.OK} and len(self.accepted) == len(RESOLVES)

    def run(self, began: float) -> tuple[int, Timed]:
        """Send everything; return how many requests were refused, and when each page and resolve was sent."""
        events = [(second, _event(f"page-{second}", "critical")) for second in PAGES]
        events += [(second, _event(f"older-{second}", action="resolve")) for second in RESOLVES]
        warnings = [_event(f"warning-{n}", "warning") for n in range(WARNINGS)]
        sent: Timed = []
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as storm, ThreadPoolExecutor(len(events)) as others:
            answers = [storm.submit(self.post, warning) for warning in warnings]
            for second, event in sorted(events, key=lambda each: each[0]):
                time.sleep(max(0.0, began + second - time.monotonic()))
                sent.append((time.monotonic(), event))
                answers.append(others.submit(self.post, event))
            time.sleep(max(0.0, began + DURATION + MAX_SECONDS - time.monotonic()))
            return sum(answer.result() != HTTPStatus.OK for answer in answers), sent


def main() -> int:
    """Run the storm and print the result; return 0 if all targets are met."""
    storm = Storm()
    with LocalStack(Options(rate_limit=RATE_LIMIT), on_received=storm.note) as stack:
        storm.url = stack.url
        with progress("Starting the functions, and opening the older incidents"):
            are_open = storm.warm_up()
        with progress(f"The storm: {DURATION} seconds"):
            began = time.monotonic()
            refused, sent = storm.run(began)
    missed = [] if are_open else ["not all older incidents were opened directly"]
    print(f"{'sent at':>8}  {'event':<12}{'PagerDuty accepted it after':>28}")
    for at, event in sent:
        name = event["event"]
        accepted = storm.accepted.get((event["properties"]["action"], name))
        late = "not delivered" if accepted is None else f"{accepted - at:.2f} s"
        print(f"{at - began:>6.1f} s  {name:<12}{late:>28}")
        if accepted is None or accepted - at > MAX_SECONDS:
            missed.append(f"{name}: {late}")
    deliveries = sum(began <= at <= began + DURATION for at in storm.accepted.values())
    a_minute = deliveries / DURATION * 60
    print(f"\nAccepted: {deliveries} events in {DURATION} s, {a_minute:.0f} a minute. 429s: {storm.limited}.")
    if storm.limited:
        missed.append(f"{storm.limited} calls were answered 429")
    if a_minute < MIN_DELIVERIES:
        missed.append(f"{a_minute:.0f} deliveries a minute, fewer than {MIN_DELIVERIES}")
    if refused:
        missed.append(f"{refused} requests were not answered 200")
    for each in missed:
        print(f"{painted('MISSED', 'red')}  {each}")
    print(painted(f"{len(missed)} targets missed", "red") if missed else painted("all targets met", "green"))
    return 1 if missed else 0


def _event(dedup_key: str, severity: str = "info", *, action: str = "trigger") -> Json:
    properties = {"source": "storm", "severity": severity, "action": action, "dedupKey": dedup_key}
    return {"type": "track", "event": dedup_key, "messageId": f"{dedup_key}-{action}", "properties": properties}


if __name__ == "__main__":
    sys.exit(main())
