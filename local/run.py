"""`python -m local run`: sends event files through the whole stack and shows what became of each.

A file holds a request as API Gateway hands it to the function, or what RudderStack sends: an event, an array of them,
or `{"batch": [...]}`. Of the latter the PagerDuty events are shown as well.
"""

import base64
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from local import metrics
from local.options import LOCAL_TOKEN, ROOT, Options
from local.sandbox import Received
from local.stack import LocalStack
from local.terminal import fitted, painted, progress

EVENTS: Final = ROOT / "events"
# They belong to the connection that the event was recorded from.
_NOT_SENT_ON: Final = frozenset({"host", "content-length", "connection"})
# Seconds: a cold start on a slow machine takes a few.
_PATIENCE: Final = 60
_PATIENCE_AFTERWARDS: Final = 10
# The file with several events. They go through the queue, and so does what is sent after them.
_SEVERAL: Final = "array.json"
_COLUMNS: Final = ("event file", "our answer", "PagerDuty received", "incident")


@dataclass(frozen=True)
class Expected:
    """How a file of events/ has to turn out: our status and code, PagerDuty's calls, the incident's state after it."""

    status: int
    code: str
    received: tuple[str, ...] = ()
    incident: str = ""


EXPECTED: Final = {
    "alert-1-trigger.json": Expected(200, "delivered", ("alert trigger",), "triggered"),
    "alert-2-acknowledge.json": Expected(200, "delivered", ("alert acknowledge",), "acknowledged"),
    "alert-3-resolve.json": Expected(200, "delivered", ("alert resolve",), "resolved"),
    "change-event-with-severity.json": Expected(200, "delivered", ("change",)),
    "change-event.json": Expected(200, "delivered", ("change",)),
    "ignored-identify.json": Expected(200, "not_a_track_call"),
    "refused-misspelt-action.json": Expected(400, "action_unknown"),
    _SEVERAL: Expected(200, "queued", ("alert trigger", "alert resolve", "change"), "resolved"),
}


@dataclass(frozen=True)
class Row:
    """What became of one file; `problem` says how it differs from what was expected."""

    file: str
    status: int
    answer: dict[str, Any]
    received: tuple[str, ...]
    incident: str
    problem: str


def main(options: Options, files: Sequence[Path]) -> int:
    """Send the files, print the table; return 0 only if all went as expected."""
    paths = list(files) or sorted(EVENTS.glob("*.json"), key=lambda path: (path.name == _SEVERAL, path.name))
    events = []
    for path in paths:
        try:
            events.append((path.name, *_read(path)))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"error: {path}: {reason}", file=sys.stderr)
            return 2

    began = time.monotonic()
    log: list[str] = []
    with progress("Sending the events"), LocalStack(options, on_log=log.append) as stack:
        started = time.monotonic()
        previews = [(name, _preview(stack, event)) for name, event, is_plain in events if is_plain]
        rows = [_send(stack, name, event) for name, event, _ in events]
        sent = time.monotonic()
        answers = [row.answer for row in rows] + [answer for _, answer in previews]
        results = [result for answer in answers for result in _results(answer)]
        _wait_for(log, lines=sum(1 + (result["status"] == "queued") for result in results))
    for name, answer in previews:
        print("\n".join(preview_lines(name, answer)), end="\n\n")
    for line in [*table(rows, seen=options.pagerduty_url is None), "", *metrics_table(log)]:
        print(fitted(line))
    problems = [row for row in rows if row.problem]
    print()
    for row in problems:
        print(f"{painted('NOT AS EXPECTED', 'red')}  {row.file}: {row.problem}")
    where = options.pagerduty_url or "the PagerDuty sandbox"
    verdict = painted(f"{len(problems)} not as expected", "red") if problems else painted("all as expected", "green")
    print(
        f"{len(rows)} files sent to {where}: {verdict}. "
        f"The stack started in {started - began:.1f} s, the events took {sent - started:.1f} s."
    )
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
    """Read a file, and tell whether it holds RudderStack's events alone, without a request around them."""
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


def send(url: str, event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Send the HTTP request that the event was made from; return the status and the answer."""
    body = event.get("body") or ""
    query = event.get("rawQueryString")
    response = urllib3.request(
        event["requestContext"]["http"]["method"],
        url + event["rawPath"] + (f"?{query}" if query else ""),
        body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
        headers={name: value for name, value in event["headers"].items() if name.lower() not in _NOT_SENT_ON},
        retries=False,
        timeout=_PATIENCE,
    )
    try:
        answer = response.json()
    except ValueError:
        answer = {"message": response.data.decode("utf-8", "replace")}
    return response.status, answer if isinstance(answer, dict) else {"message": str(answer)}


def _results(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """List the results of an answer, also of one event."""
    found: list[dict[str, Any]] = answer.get("results", [{"status": "", **answer}])
    return found


def _wait_for(log: Sequence[str], lines: int) -> None:
    """Wait until the log has the line of each event: it comes on a way of its own, a little later than the answer."""
    _wait_until(lambda: sum('"status":' in line for line in log) >= lines)


def _wait_until(happened: Callable[[], bool]) -> None:
    """Wait, but not for ever: what has not happened then shows in the table."""
    give_up = time.monotonic() + _PATIENCE_AFTERWARDS
    while not happened() and time.monotonic() < give_up:
        time.sleep(0.01)


def _send(stack: LocalStack, name: str, event: dict[str, Any]) -> Row:
    sandbox = stack.sandbox
    before = len(sandbox.received) if sandbox else 0
    status, answer = send(stack.url, event)
    _wait_until(lambda: not stack.count_messages(stack.queue_url))
    calls = sandbox.received[before:] if sandbox else []
    # Events of one incident arrive in order; those of others, at the same time.
    received = tuple(_describe(call) for call in sorted(calls, key=lambda call: call.kind))
    keys = [call.event["dedup_key"] for call in calls if call.kind == "alert" and "dedup_key" in call.event]
    incident = sandbox.incident(keys[-1]) if sandbox and keys else None
    row = Row(name, status, answer, received, incident.status if incident else "", "")
    return Row(name, status, answer, received, row.incident, _problem(row, sandbox is not None))


def _preview(stack: LocalStack, event: dict[str, Any]) -> dict[str, Any]:
    return send(stack.url, {**event, "rawQueryString": "preview=true"})[1]


def preview_lines(name: str, answer: dict[str, Any]) -> list[str]:
    """Lay out the answer to a preview: each PagerDuty event with its warnings, or why there is none."""
    results = _results(answer)
    lines = []
    for number, result in enumerate(results, start=1):
        heading = name if len(results) == 1 else f"{name}, event {number}"
        lines.append(f"{heading}: {result['message'].removesuffix(' Nothing was sent.')}")
        lines += [f"  warning: {warning}" for warning in result.get("warnings", ())]
        if "event" in result:
            lines += json.dumps(result["event"], indent=2, ensure_ascii=False).splitlines()
    return lines


def _describe(call: Received) -> str:
    words = [call.kind, str(call.event.get("event_action", ""))]
    if call.errors:
        words.append(f"(refused with {call.status}: {'; '.join(call.errors)})")
    elif not call.accepted:
        words.append("(dropped: no incident is open)")
    return " ".join(word for word in words if word)


def _problem(row: Row, with_sandbox: bool) -> str:  # noqa: FBT001 -- private, and called once
    """Tell how the row differs from what was expected; a file that is not of events/ is expected to be answered 200."""
    expected = EXPECTED.get(row.file)
    if expected is None:
        return "" if row.status == 200 else f"expected 200, got {row.status}: {row.answer.get('message')}"  # noqa: PLR2004 -- the status
    code = row.answer.get("code")
    if (row.status, code) != (expected.status, expected.code):
        return f"expected {expected.status} {expected.code}, got {row.status} {code}: {row.answer.get('message')}"
    if with_sandbox and row.received != expected.received:
        return f"expected PagerDuty to receive {expected.received or 'nothing'}, got {row.received or 'nothing'}"
    if with_sandbox and row.incident != expected.incident:
        return f"expected the incident {expected.incident or 'not to be there'}, got {row.incident or 'none'}"
    return ""


def table(rows: Iterable[Row], *, seen: bool = True) -> list[str]:
    """Lay the rows out as text, a line each; what PagerDuty received is left out where it could not be seen."""
    columns = _COLUMNS if seen else _COLUMNS[:2]
    cells = [
        columns,
        *(
            (row.file, _answer_in_short(row), ", ".join(row.received) or "-", row.incident or "-")[: len(columns)]
            for row in rows
        ),
    ]
    return _laid_out(cells)


def metrics_table(log: Iterable[str]) -> list[str]:
    """Lay out the metrics that CloudWatch would read out of the log: counts added up, times as their mean."""
    lines = [line for line in log if metrics.read(line)]
    found: dict[str, dict[str, list[metrics.Metric]]] = {}
    for metric in metrics.read_all(lines):
        place = " ".join(value for _, value in metric.dimensions[1:])
        found.setdefault(metric.name, {}).setdefault(place, []).append(metric)
    cells = [("metric", "all", "by PagerDuty service and event type")]
    for name, places in sorted(found.items()):
        below = ", ".join(f"{place} {_summed(each)}" for place, each in sorted(places.items()) if place)
        cells.append((name, _summed(places[""]), below))
    return [*_laid_out(cells), f"(out of {len(lines)} lines of log in CloudWatch's embedded metric format)"]


def _summed(values: Sequence[metrics.Metric]) -> str:
    total = sum(each.value for each in values)
    if values[0].unit == "Count":
        return str(round(total))
    return f"{total / len(values):.1f} {'ms' if values[0].unit == 'Milliseconds' else 's'}"


def _laid_out(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _answer_in_short(row: Row) -> str:
    words = dict.fromkeys((str(row.answer.get("status", "")), str(row.answer.get("code", ""))))
    return f"{row.status} {', '.join(words)}"
