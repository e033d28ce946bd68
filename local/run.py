"""`python -m local run`: send event files through the whole stack and show the result of each.

A file holds a request as API Gateway passes it to the function, or what RudderStack sends: an event, an array of
events, or `{"batch": [...]}`. For the latter, the PagerDuty events are previewed as well.
"""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import urllib3

from local.options import LOCAL_TOKEN, ROOT, Options
from local.sandbox import Received
from local.stack import LocalStack
from local.terminal import painted, print_table, printable, progress

EVENTS: Final = ROOT / "events"
# Headers of the recorded connection.
_NOT_SENT_ON: Final = frozenset({"host", "content-length", "connection"})
# Seconds: a cold start on a slow machine takes a few.
_REQUEST_TIMEOUT: Final = 60
_QUEUE_TIMEOUT: Final = 10
# Sent last: its events go through the queue, and so do later ones.
_SEVERAL: Final = "array.json"
_COLUMNS: Final = ("event file", "our answer", "PagerDuty received", "incident")


class Result(NamedTuple):
    """The result of a file: the answer's status and code, the calls to PagerDuty, and the incident's last state."""

    status: int
    code: str
    received: str = "-"
    incident: str = "-"

    def __str__(self) -> str:
        return f"{self.status} {self.code}, PagerDuty received {self.received}, incident {self.incident}"


EXPECTED: Final = {
    "alert-1-trigger.json": Result(200, "delivered", "alert trigger", "triggered"),
    "alert-2-acknowledge.json": Result(200, "delivered", "alert acknowledge", "acknowledged"),
    "alert-3-resolve.json": Result(200, "delivered", "alert resolve", "resolved"),
    "change-event-with-severity.json": Result(200, "delivered", "change"),
    "change-event.json": Result(200, "delivered", "change"),
    "ignored-identify.json": Result(200, "not_a_track_call"),
    "refused-misspelt-action.json": Result(400, "action_unknown"),
    _SEVERAL: Result(200, "queued", "alert trigger, alert resolve, change", "resolved"),
}


def main(options: Options, files: Sequence[Path]) -> int:
    """Send the files and print a table; return 0 only if every result is as expected. Raises UsageError."""
    paths = files or sorted(EVENTS.glob("*.json"), key=lambda path: (path.name == _SEVERAL, path.name))
    requests = []
    for path in paths:
        try:
            requests.append((path.name, *_read(path)))
        except (OSError, ValueError) as error:
            raise click.UsageError(f"{path}: {error}") from None

    with progress("Sending the events"), LocalStack(options) as stack:
        previews = [line for name, request, is_plain in requests if is_plain for line in _preview(stack, name, request)]
        results = [(name, *_send(stack, request)) for name, request, _ in requests]
    for line in previews:
        print(printable(line))
    columns = _COLUMNS if stack.sandbox else _COLUMNS[:2]
    rows = [(name, f"{result.status} {result.code}", *result[2:]) for name, result, _ in results]
    print_table(columns, [row[: len(columns)] for row in rows])
    problems = []
    for name, result, message in results:
        # A file that is not in events/ should yield 200.
        expected = EXPECTED.get(name, result._replace(status=HTTPStatus.OK))
        if result[: len(columns)] != expected[: len(columns)]:
            problems.append(f"{name}: expected {expected}; got {result}: {message}")
    print()
    for problem in problems:
        print(f"{painted('NOT AS EXPECTED', 'red')}  {printable(problem)}")
    verdict = painted(f"{len(problems)} not as expected", "red") if problems else painted("all as expected", "green")
    print(f"{len(results)} files sent to {options.pagerduty_url or 'the PagerDuty sandbox'}: {verdict}.")
    return 1 if problems else 0


def read_event(path: Path) -> dict[str, Any]:
    """Read an API Gateway event of payload format 2.0 from a file. Raises OSError, ValueError."""
    event = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(event, dict) or "rawPath" not in event or "requestContext" not in event:
        raise ValueError(
            "expected RudderStack's event, several, or an API Gateway event of payload format 2.0 as in events/"
        )
    return event


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a file; return the API Gateway event, and whether the file held only RudderStack's events."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = content.keys() if isinstance(content, dict) else set()
    if not names & {"type", "event", "batch"} and not (isinstance(content, list) and content):
        return read_event(path), False
    request = {
        "rawPath": "/events",
        "requestContext": {"http": {"method": "POST"}},
        "headers": {"authorization": f"Bearer {LOCAL_TOKEN}", "content-type": "application/json"},
        "body": json.dumps(content),
    }
    return request, True


def _post(url: str, event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Send the HTTP request that an API Gateway event was made from; return the status and the answer."""
    body = event.get("body") or ""
    query = event.get("rawQueryString")
    response = urllib3.request(
        event["requestContext"]["http"]["method"],
        url + event["rawPath"] + (f"?{query}" if query else ""),
        body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
        headers={name: value for name, value in event["headers"].items() if name.lower() not in _NOT_SENT_ON},
        retries=False,
        timeout=_REQUEST_TIMEOUT,
    )
    return response.status, response.json()


def _send(stack: LocalStack, request: dict[str, Any]) -> tuple[Result, str]:
    """Send a request, wait until the queue is empty, and return the result and the answer's message."""
    sandbox = stack.sandbox
    before = len(sandbox.received) if sandbox else 0
    status, answer = _post(stack.url, request)
    # Not forever: the table shows what has not happened by then.
    give_up = time.monotonic() + _QUEUE_TIMEOUT
    while stack.count_messages(stack.queue_url) and time.monotonic() < give_up:
        time.sleep(0.01)
    result = Result(status, str(answer.get("code")))
    if sandbox and (calls := sandbox.received[before:]):
        # One incident's events arrive in order; events of others may come between.
        received = ", ".join(_describe(call) for call in sorted(calls, key=lambda call: call.kind))
        keys = [call.event["dedup_key"] for call in calls if "dedup_key" in call.event]
        incident = sandbox.incident(keys[-1]) if keys else None
        result = result._replace(received=received, incident=incident.status if incident else "-")
    return result, str(answer.get("message"))


def _preview(stack: LocalStack, name: str, request: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about a preview: each PagerDuty event with its warnings, or why there is none."""
    _, answer = _post(stack.url, {**request, "rawQueryString": "preview=true"})
    results = answer.get("results", [answer])
    for number, result in enumerate(results, start=1):
        heading = name if len(results) == 1 else f"{name}, event {number}"
        yield f"{heading}: {result['message'].removesuffix(' Nothing was sent.')}"
        for warning in result.get("warnings", ()):
            yield f"  warning: {warning}"
        if "event" in result:
            yield from json.dumps(result["event"], indent=2, ensure_ascii=False).splitlines()
    yield ""


def _describe(call: Received) -> str:
    words = f"{call.kind} {call.event.get('event_action', '')}".rstrip()
    if call.errors:
        return f"{words} (refused with {call.status}: {'; '.join(call.errors)})"
    return words if call.accepted else f"{words} (dropped: no incident is open)"
