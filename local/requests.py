"""Records the requests that the API received, their answers, and what the functions' logs say about their events."""

import json
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from local.observer import Observer

if TYPE_CHECKING:
    from flask import Request, Response

Json = dict[str, Any]
# A row of a list: its number, its version, and a function that returns its content.
Row = tuple[int, int, Callable[[], Json]]

MAX_REQUESTS: Final = 500
# The user agent of the page's own previews, which are not recorded.
PREVIEWS: Final = "the page of make serve"
# Bytes of a body, and steps of a request's events, that are kept.
MAX_BODY: Final = 256 * 1024
_MAX_STEPS: Final = 200
_SECRET: Final = frozenset({"authorization", "proxy-authorization", "x-api-key", "cookie"})
_OF_STEP: Final = ("status", "code", "reason", "dedup_key", "message_id", "pagerduty_status", "receive_count")


@dataclass
class _Recorded:
    row: Json  # as in the list of requests
    detail: Json
    latest: dict[str, str] = field(default_factory=dict)  # by messageId, the worker's last status

    def change(self, row: Json, detail: Json) -> None:
        """Replace both: other threads may be reading the former ones."""
        self.row, self.detail = self.row | row | {"version": self.row["version"] + 1}, self.detail | detail


class Requests(Observer):
    """The last 500 requests, with bodies of 256 KB at most, and without secret headers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._recorded: deque[_Recorded] = deque(maxlen=MAX_REQUESTS)
        self._by_message_id: WeakValueDictionary[str, _Recorded] = WeakValueDictionary()

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._recorded.clear()

    def on_request(self, request: "Request") -> None:
        """Record a request."""
        if request.user_agent.string == PREVIEWS:
            return
        content = _decompress(request.get_data())
        body = content[:MAX_BODY].decode("utf-8", "replace")
        ids = _message_ids(body)
        headers = {name: "(hidden)" if name.lower() in _SECRET else value for name, value in request.headers.items()}
        with self._lock:
            self._count += 1
            row = {"number": self._count, "at": time.time(), "message_id": (ids or [""])[0][:100], "events": len(ids)}
            row |= {"route": f"{request.method} {request.full_path.rstrip('?')}", "version": 0}
            detail: Json = {"headers": headers, "body": body, "is_whole": body.encode() == content}
            recorded = _Recorded(row, detail | {"answer": None, "steps": []})
            self._recorded.append(recorded)
            for each in ids:
                self._by_message_id[each] = recorded
        request.environ["local.recorded"] = recorded

    def on_answer(self, request: "Request", response: "Response") -> None:
        """Record the answer."""
        if recorded := request.environ.get("local.recorded"):
            answer = response.get_json(silent=True) or {}
            seconds = round(time.time() - recorded.row["at"], 3)
            with self._lock:
                change = {"status": response.status_code, "code": answer.get("code"), "seconds": seconds}
                recorded.change(change, {"answer": answer})

    def on_event(self, line: Json, *, is_urgent: bool) -> None:
        """Record what a line of the log says about an event."""
        with self._lock:
            if recorded := self._by_message_id.get(line.get("message_id", "")):
                step: Json = {"at": time.time(), **{name: line[name] for name in _OF_STEP if name in line}}
                change: Json = {"is_urgent": True} if is_urgent else {}
                if "receive_count" in line:
                    recorded.latest[line["message_id"]] = line["status"]
                    change["later"] = Counter(recorded.latest.values())
                recorded.change(change, {"steps": [*recorded.detail["steps"][1 - _MAX_STEPS :], step]})

    def rows(self) -> Iterator[Row]:
        """Yield the requests, the oldest first."""
        for each in self._copy():
            yield each.row["number"], each.row["version"], each.row.copy

    def search(self, text: str) -> list[Json]:
        """Return the rows of the requests in which the text occurs, in any case, the newest first."""
        found = ((each, [*each.row.values(), each.detail["body"]]) for each in reversed(self._copy()))
        return [each.row for each, contents in found if text.lower() in " ".join(map(str, contents)).lower()]

    def detail(self, number: int) -> Json | None:
        """Return a request with headers, body, answer and steps; None if it is gone."""
        return next((each.row | each.detail for each in self._copy() if each.row["number"] == number), None)

    def _copy(self) -> list[_Recorded]:
        with self._lock:
            return list(self._recorded)


def _decompress(body: bytes) -> bytes:
    """Return a body; if it is gzip, decompress it, up to one byte more than is kept."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    with suppress(zlib.error):
        return zlib.decompressobj(31).decompress(body, MAX_BODY + 1)
    return body


def _message_ids(body: str) -> list[str]:
    """Return the `messageId` of each event in a body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return []
    events = content.get("batch", [content]) if isinstance(content, dict) else content
    found = [each.get("messageId") for each in events if isinstance(each, dict)] if isinstance(events, list) else []
    return [each for each in found if isinstance(each, str)]
