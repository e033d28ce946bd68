"""`python -m local run`: send event files through the whole stack and show the result of each.

A file holds a request as API Gateway passes it to the function, or what RudderStack sends: an event, an array of
events, `{"batch": [...]}`, or an event in each line. For the latter, the PagerDuty events are previewed as well.
"""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import urllib3

from local.options import LOCAL_TOKEN, ROOT, Options
from local.sandbox import Received
from local.stack import LocalStack
from local.terminal import counted, painted, print_table, printable, progress

EVENTS: Final = ROOT / "events"
# Headers of the recorded connection.
_NOT_SENT_ON: Final = frozenset({"host", "content-length", "connection"})
# Seconds: a cold start on a slow machine takes a few.
_REQUEST_TIMEOUT: Final = 60
_QUEUE_TIMEOUT: Final = 10
# Sent last: its events go through the queue, and so do later ones.
_SEVERAL: Final = "array.json"
_ACCEPTED: Final = frozenset({"delivered", "queued", "ignored", "preview"})
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
    """Send the files and print a table; return 1 if a result is not as expected, or an own event is refused."""
    requests = []
    for path in [each for file in files or [EVENTS] for each in event_files(file)]:
        try:
            requests.append((path, *_read(path)))
        except (OSError, RecursionError, ValueError) as error:
            raise click.UsageError(f"{path}: {error}") from None

    with progress("Sending the events"), LocalStack(options) as stack:
        previews = [line for path, request, is_plain in requests if is_plain for line in _preview(stack, path, request)]
        results = [(path, *_send(stack, request)) for path, request, _ in requests]
    for line in previews:
        print(printable(line))
    columns = _COLUMNS if stack.sandbox else _COLUMNS[:2]
    rows = [(path.name, f"{result.status} {result.code}", *result[2:]) for path, result, _ in results]
    print_table(columns, [row[: len(columns)] for row in rows])
    print()
    problems = [
        f"{path.name}: expected {expected}; got {result}: {answer.get('message')}"
        for path, result, answer in results
        if (expected := _expected(path)) and result[: len(columns)] != expected[: len(columns)]
    ]
    own = [(path, answer) for path, _, answer in results if not _expected(path)]
    events = [event for path, answer in own for event in _events(path, answer)]
    refused = [f"{name}: {event.get('message')}" for name, event in events if event.get("status") not in _ACCEPTED]
    for line in (line for line in refused if line not in previews):
        print(printable(line))
    for problem in problems:
        print(f"{painted('NOT AS EXPECTED', 'red')}  {printable(problem)}")
    verdict = f"{len(problems)} not as expected" if problems else "all as expected"
    verdicts = [painted(verdict, "red" if problems else "green")] if len(own) < len(results) else []
    if own:
        of = f" of {len(events)} events" if len(events) > len(own) else ""
        verdicts.append(painted(f"{len(refused) or 'none'}{of} refused", "red" if refused else "green"))
    target = options.pagerduty_url or "the PagerDuty sandbox"
    print(f"{counted(len(results), 'file')} sent to {target}: {', '.join(verdicts)}.")
    return 1 if problems or refused else 0


def event_files(path: Path) -> list[Path]:
    """Return the file, or those of a folder. Raises UsageError if it has none."""
    files = [file for file in path.iterdir() if file.suffix in {".json", ".ndjson"}] if path.is_dir() else [path]
    if not files:
        raise click.UsageError(f"{path}: this folder has no *.json or *.ndjson file")
    return sorted(files, key=lambda file: (file.resolve() == EVENTS / _SEVERAL, file.name))


def _expected(path: Path) -> Result | None:
    return EXPECTED.get(path.name) if path.resolve().parent == EVENTS else None


def parse(content: bytes) -> Any:
    """Parse JSON, or JSON in each line as an array. Raises ValueError with the place of a mistake, RecursionError."""
    text = content.decode(json.detect_encoding(content))
    if not text.strip():
        raise ValueError("the file is empty")
    values, number = [], 0
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
        for number, line in enumerate(text.split("\n")):  # noqa: B007 -- the place
            values += [json.loads(line)] if line.strip() else []
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON, line {number + error.lineno}, column {error.colno}: {error.msg}") from None
    return values


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a file; return the API Gateway event, and whether the file held only RudderStack's events."""
    content = parse(path.read_bytes())
    names = content.keys() if isinstance(content, dict) else set()
    if {"rawPath", "requestContext"} <= names:
        return content, False
    if not (names & {"type", "event", "batch"} or (isinstance(content, list) and content)):
        message = "expected RudderStack's event, several, or an API Gateway event of payload format 2.0 as in events/"
        raise ValueError(message)
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


def _send(stack: LocalStack, request: dict[str, Any]) -> tuple[Result, dict[str, Any]]:
    """Send a request, wait until the queue is empty, and return the result and the answer."""
    sandbox = stack.sandbox
    before = len(sandbox.received) if sandbox else 0
    status, answer = _post(stack.url, request)
    # Afterwards, the table shows the state at that time.
    give_up = time.monotonic() + _QUEUE_TIMEOUT
    while stack.count_messages(stack.queue_url) and time.monotonic() < give_up:
        time.sleep(0.01)
    result = Result(status, str(answer.get("code")))
    if sandbox and (calls := sandbox.received[before:]):
        # One incident's events arrive in order; events of others may come between.
        received = ", ".join(_describe(call) for call in sorted(calls, key=lambda call: call.kind))
        keys = [call.event["dedup_key"] for call in calls if "dedup_key" in call.event]
        statuses = [incident.status for incident in sandbox.incidents if incident.dedup_key in keys[-1:]]
        result = result._replace(received=received, incident=statuses[-1] if statuses else "-")
    return result, answer


def _preview(stack: LocalStack, path: Path, request: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about a preview: each PagerDuty event with its warnings, or why there is none."""
    _, answer = _post(stack.url, {**request, "rawQueryString": "preview=true"})
    for name, event in _events(path, answer):
        yield f"{name}: {event['message'].removesuffix(' Nothing was sent.')}"
        for warning in event.get("warnings", ()):
            yield f"  warning: {warning}"
        if "event" in event:
            yield from json.dumps(event["event"], indent=2, ensure_ascii=False).splitlines()
    yield ""


def _events(path: Path, answer: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the name of each event of a file, and the answer's part about it."""
    results = answer.get("results", [answer])
    names = [path.name if len(results) == 1 else f"{path.name}, event {number + 1}" for number in range(len(results))]
    return list(zip(names, results, strict=True))


def _describe(call: Received) -> str:
    words = f"{call.kind} {call.event.get('event_action', '')}".rstrip()
    if call.errors:
        return f"{words} (refused with {call.status}: {'; '.join(call.errors)})"
    return words if call.accepted else f"{words} (dropped: no incident is open)"
