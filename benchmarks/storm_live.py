"""A storm in real time, through the whole local stack: `make storm-live`; exits 1 if a target is missed.

300 warnings of 300 incidents at once, in single requests, to a PagerDuty that accepts 120 calls a minute. Meanwhile
there is a critical page every five seconds, and eight older incidents are resolved. `make storm` covers more and longer
storms in virtual time; this shows that the real parts do the same.
"""

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final

import urllib3

from local.observer import Observer
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
_PATIENCE: Final = 30  # seconds; a cold start on a slow machine takes a few

Json = dict[str, Any]


class Storm(Observer):
    """The storm against a stack; `accepted` has the time of each event's acceptance, by action and dedup key."""

    def __init__(self) -> None:
        self.accepted: dict[tuple[str, str], float] = {}
        self.limited = 0
        self.url = ""

    def on_received(self, call: Received) -> None:
        """Count a call that PagerDuty refused, or note when an event was accepted."""
        self.limited += call.status == HTTPStatus.TOO_MANY_REQUESTS
        if call.accepted:
            self.accepted.setdefault((call.event["event_action"], call.event["dedup_key"]), time.monotonic())

    def post(self, event: Json, query: str = "") -> bool:
        """Send an event; return whether it was answered 200."""
        url, headers = f"{self.url}/events{query}", {"Authorization": f"Bearer {LOCAL_TOKEN}"}
        answer = urllib3.request("POST", url, json=event, headers=headers, retries=False, timeout=_PATIENCE)
        return answer.status == HTTPStatus.OK

    def warm_up(self) -> None:
        """Start as many instances as the storm needs, and open the older incidents."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            for _ in range(REQUESTS_AT_ONCE):
                threads.submit(self.post, _event("preview"), "?preview=true")
        for second in RESOLVES:
            self.post(_event(f"older-{second}", "error"))
        if len(self.accepted) < len(RESOLVES):
            raise RuntimeError("The older incidents could not be opened")

    def run(self, began: float) -> tuple[int, list[tuple[float, Json]]]:
        """Send everything; return how many requests were refused, and when each page and resolve was sent."""
        events = [(second, _event(f"page-{second}", "critical")) for second in PAGES]
        events += [(second, _event(f"older-{second}", action="resolve")) for second in RESOLVES]
        sent = []
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as storm, ThreadPoolExecutor(len(events)) as others:
            answers = [storm.submit(self.post, _event(f"warning-{n}", "warning")) for n in range(WARNINGS)]
            for second, event in sorted(events, key=lambda each: each[0]):
                time.sleep(max(0.0, began + second - time.monotonic()))
                sent.append((time.monotonic(), event))
                answers.append(others.submit(self.post, event))
            time.sleep(max(0.0, began + DURATION + MAX_SECONDS - time.monotonic()))
            return sum(not answer.result() for answer in answers), sent


def main() -> int:
    """Run the storm and print the result; return 0 if all targets are met."""
    storm = Storm()
    with LocalStack(Options(rate_limit=RATE_LIMIT), storm) as stack:
        storm.url = stack.url
        with progress("Starting the functions, and opening the older incidents"):
            storm.warm_up()
        with progress(f"The storm: {DURATION} seconds"):
            began = time.monotonic()
            refused, sent = storm.run(began)
    print(f"{'sent at':>8}  {'event':<12}{'PagerDuty accepted it after':>28}")
    late = 0
    for at, event in sent:
        accepted = storm.accepted.get((event["properties"]["action"], event["event"]), math.inf)
        late += accepted - at > MAX_SECONDS
        print(f"{at - began:>6.1f} s  {event['event']:<12}{accepted - at:>26.2f} s")
    a_minute = sum(began <= at <= began + DURATION for at in storm.accepted.values()) / DURATION * 60
    targets = {
        f"{late} pages and resolves later than {MAX_SECONDS:.0f} s": not late,
        f"{a_minute:.0f} events accepted a minute, at least {MIN_DELIVERIES}": a_minute >= MIN_DELIVERIES,
        f"{storm.limited} calls answered 429 by PagerDuty": not storm.limited,
        f"{refused} requests not answered 200": not refused,
    }
    for target, is_met in targets.items():
        print(f"{painted('met   ', 'green') if is_met else painted('MISSED', 'red')}  {target}")
    return 0 if all(targets.values()) else 1


def _event(dedup_key: str, severity: str = "info", *, action: str = "trigger") -> Json:
    properties = {"source": "storm", "severity": severity, "action": action, "dedupKey": dedup_key}
    return {"type": "track", "event": dedup_key, "messageId": f"{dedup_key}-{action}", "properties": properties}


if __name__ == "__main__":
    sys.exit(main())
