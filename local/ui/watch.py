"""The parts of the page other than the requests, read from the stack and from its log.

All of it is bounded: texts are cut, and only some of many incidents or messages are shown.
"""

import hashlib
import json
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import groupby
from typing import Any, Final

from local.dead_letters import read_body
from local.fifo import QueuedMessage
from local.observer import Observer
from local.options import MAX_CALLS_PER_MINUTE
from local.pagerduty_rules import Incident
from local.requests import Json, Requests, Row
from local.sandbox import Received
from local.stack import LocalStack

MAX_INCIDENTS: Final = 200
_MAX_CHANGES: Final = 50
_MAX_MESSAGES: Final = 25
_MAX_ITEMS: Final = 20  # of links, images and changes of an incident
_MAX_TEXT: Final = 1_100  # a summary has 1,024
_MAX_DETAILS: Final = 4_000
_MAX_REASONS: Final = 20_000
# Seconds of a step of the chart, and its steps: ten minutes.
STEP: Final = 2
_STEPS: Final = 300
_COUNTED: Final = {
    "Received": "received",
    "Delivered": "delivered",
    "Merged": "merged",
    "Rejected": "refused",
    "Ignored": "refused",
    "PagerDuty429": "limited",
}
# A budget is read twice a second. Its refill and its size, as in function/flow.py.
_FLOW_SECONDS: Final = 0.5
REFILL: Final = 0.75
BURST: Final = 1 / 12


@dataclass
class Storm:
    """A storm and its progress; `size`, `delivered` and `slowest` (seconds) are by "pages" and "others"."""

    name: str
    size: dict[str, int]
    refused: int = 0
    merged: int = 0
    delivered: dict[str, int] = field(default_factory=lambda: {"pages": 0, "others": 0})
    slowest: dict[str, float] = field(default_factory=dict)

    def note(self, dedup_key: str, status: str, seconds: float) -> None:
        """Count an event that was merged, or was delivered after so many seconds in the queue."""
        kind = "pages" if "page-" in dedup_key else "others"
        if status == "merged":
            self.merged += 1
        elif status == "delivered":
            self.delivered[kind] += 1
            self.slowest[kind] = round(max(seconds, self.slowest.get(kind, 0.0)), 1)


class Watch(Observer):
    """Watches a stack."""

    def __init__(self) -> None:
        self.requests = Requests()
        self._stack: LocalStack
        self._lock = threading.Lock()
        # The queue's clock is the monotonic one.
        self._epoch = time.time() - time.monotonic()
        self.clear()

    def begin(self, stack: LocalStack) -> None:
        """Set the stack to watch."""
        self._stack = stack
        self._services = {key: name for name, keys in stack.options.routing_keys.items() for key in keys.split(",")}

    def clear(self) -> None:
        """Forget everything."""
        self.requests.clear()
        with self._lock:
            self.storm = Storm("storm-0-", {"pages": 0, "others": 0})
            self._changes: deque[Json] = deque(maxlen=_MAX_CHANGES)
            self._count_of_changes = 0
            self._steps: OrderedDict[int, Counter[str]] = OrderedDict()
            self._merged: Counter[str] = Counter()
            # Why a message was delayed, by its event's service, dedup key and messageId.
            self._reasons: OrderedDict[tuple[str, ...], str] = OrderedDict()
            self._flow_at, self._flow_state = 0.0, list[Json]()

    def on_received(self, call: Received) -> None:
        """Note a change event; the sandbox keeps the incidents itself."""
        if call.kind == "change" and call.accepted:
            payload = call.event["payload"]
            with self._lock:
                self._count_of_changes += 1
                row = {"number": self._count_of_changes, "at": time.time(), "title": _cut(payload["summary"])}
                self._changes.append(row | self._context(call.event, payload))

    def on_log(self, line: str) -> None:
        """Note what a line of the functions' log says about an event."""
        try:
            content = json.loads(line) if '"status"' in line else {}
        except ValueError:
            return
        self.requests.on_event(content, is_urgent="Urgent" in content)
        with self._lock:
            step = int(time.time() // STEP)
            for metric in _COUNTED.keys() & content.keys():
                # The embedded metric format has the values of a metric in an array.
                self._steps.setdefault(step, Counter())[_COUNTED[metric]] += int(sum(content[metric]))
            while len(self._steps) > _STEPS:
                self._steps.popitem(last=False)
            if "receive_count" in content:
                self._note_queued(content, sum(content.get("QueueTime", ())))

    def _note_queued(self, content: Json, seconds: float) -> None:
        """Note from the worker's line why an event was delayed, or that it is done."""
        identity = tuple(str(content.get(name)) for name in ("pagerduty_service", "dedup_key", "message_id"))
        key, status = str(content.get("dedup_key")), content["status"]
        self._reasons.pop(identity, None)
        if status == "deferred":
            self._reasons[identity] = content["code"]
            if len(self._reasons) > _MAX_REASONS:
                self._reasons.popitem(last=False)
        self._merged[key] += status == "merged"
        if key.startswith(self.storm.name):
            self.storm.note(key, status, seconds)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def lists(self) -> dict[str, Callable[[], Iterator[Row]]]:
        """Return for each list a function that yields its rows, the oldest first."""
        return {"requests": self.requests.rows, "incidents": self._incidents, "changes": self._change_rows}

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return for each other part a function that returns its content."""
        return {
            "queue": self._queue,
            "dead_letters": self._dead_letters,
            "flow": self._flow,
            "chart": lambda: {str(step): dict(counts) for step, counts in list(self._steps.items())},
            "storm": lambda: asdict(self.storm),
        }

    def _incidents(self) -> Iterator[Row]:
        every = self._stack.sandbox.incidents if self._stack.sandbox else []
        first = max(0, len(every) - MAX_INCIDENTS)
        for number, incident in enumerate(every[first:], first + 1):
            version = len(incident.history) + self._merged[incident.dedup_key]
            yield number, version, partial(self._incident, number, incident)

    def _incident(self, number: int, incident: Incident) -> Json:
        history = [
            {"what": what, "at": steps[0].at, "until": steps[-1].at, "count": len(steps)}
            for what, group in groupby(incident.history[:], key=lambda change: change.what)
            for steps in [list(group)]
        ]
        return {
            **self._context(incident.event, incident.payload),
            **{name: getattr(incident, name) for name in ("status", "severity", "dedup_key")},
            "number": number,
            "title": _cut(incident.title),
            "merged": self._merged[incident.dedup_key],
            "history": history[-_MAX_ITEMS:],
        }

    def _change_rows(self) -> Iterator[Row]:
        for change in list(self._changes):
            yield change["number"], 0, change.copy

    def _context(self, event: Json, payload: Json) -> Json:
        """Return the fields of alert and change events, with the service of the routing key instead of the key."""
        custom = payload.get("custom_details")
        details = json.dumps(custom, indent=2, ensure_ascii=False) if custom else ""
        fields = {name: payload.get(name) for name in ("severity", "source", "group", "class", "component")}
        fields |= {name: event.get(name) for name in ("client", "client_url")}
        lists = {name: [_cut_all(each) for each in event.get(name, [])[:_MAX_ITEMS]] for name in ("links", "images")}
        return {
            "service": self._services.get(event.get("routing_key", ""), "?"),
            "summary": _cut(payload["summary"]),
            **{name: _cut(value) for name, value in fields.items() if value},
            **lists,
            "details": details[:_MAX_DETAILS],
            "details_left_out": max(0, len(details) - _MAX_DETAILS),
        }

    def _queue(self) -> Json:
        """Return the number of messages by state, and the first message of each group, which the others wait for."""
        messages = self._stack.aws.peek(self._stack.queue_url)
        groups: dict[str, list[QueuedMessage]] = {}
        for message in messages:
            groups.setdefault(message.group, []).append(message)
        order = ("in flight", "waiting", "delayed")
        ordered = sorted(groups.values(), key=lambda each: (order.index(_state(each[0])), each[0].hidden_until))
        return {
            "counts": dict(Counter(map(_state, messages))),
            "groups": len(groups),
            "messages": [self._message(each[0]) | {"behind": len(each) - 1} for each in ordered[:_MAX_MESSAGES]],
        }

    def _message(self, message: QueuedMessage) -> Json:
        shown, state = _read(message.body), _state(message)
        shown |= {"state": state, "receive_count": message.receive_count}
        if state == "delayed":
            identity = tuple(str(shown.get(name)) for name in ("service", "dedup_key", "message_id"))
            due = round(self._epoch + message.hidden_until, 1)
            shown |= {"due": due, "reason": self._reasons.get(identity, "")}
        return shown

    def _dead_letters(self) -> Json:
        letters = self._stack.aws.peek(self._stack.dead_letter_queue_url)
        return {"count": len(letters), "messages": [_dead_letter(each) for each in letters[: -_MAX_MESSAGES - 1 : -1]]}

    def _flow(self) -> list[Json]:
        """Return the state of each PagerDuty service that has a routing key, at most half a second old."""
        now = time.time()
        if now - self._flow_at >= _FLOW_SECONDS:
            waiting = Counter[str]()
            for message in self._stack.aws.peek(self._stack.queue_url):
                waiting[_read(message.body).get("service", "")] += 1
            state = []
            for service, keys in self._stack.options.routing_keys.items():
                key = {"service": {"S": service}}
                item = self._dynamodb.get_item(TableName=self._stack.flow_table, Key=key).get("Item", {})
                reasons = Counter(code for (each, *_), code in list(self._reasons.items()) if each == service)
                shown = {"service": service, "waiting": waiting[service], "reasons": dict(reasons)}
                state.append(shown | self._limits(item, keys, now))
            self._flow_at, self._flow_state = now, state
        return self._flow_state

    @cached_property
    def _dynamodb(self) -> Any:
        return self._stack.aws.client("dynamodb")

    def _limits(self, item: Json, keys: str, now: float) -> Json:
        """Return the lease of an item, and the calls that each routing key has left, below 0 if spent ahead."""
        rate = self._stack.options.rate_limit or MAX_CALLS_PER_MINUTE
        size = max(1.0, BURST * rate)

        def left(key: str) -> int:
            spent = item.get(f"spent_{hashlib.sha256(key.encode()).hexdigest()[:32]}", {"N": "0"})["N"]
            return int(min(size, (now - float(spent)) * REFILL * rate / 60 + 1))

        lease = float(item.get("lease", {"N": "0"})["N"])
        shown = {"lease": lease if lease > now else None, "size": int(size)}
        return shown | {"left": [left(key) for key in keys.split(",")]}


def _state(message: QueuedMessage) -> str:
    if message.is_delayed:
        return "delayed"
    return "in flight" if message.is_hidden else "waiting"


def _read(body: str) -> Json:
    """Return the event's fields in a message's body, shortened."""
    event = read_body(body)
    return event | {"title": _cut(event["title"])} if event else {"title": "unreadable"}


def _dead_letter(message: QueuedMessage) -> Json:
    reasons = {name: message.attributes.get(name, {}).get("StringValue", "") for name in ("code", "reason")}
    return {"id": message.id, **_read(message.body), **reasons}


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _cut_all(texts: Mapping[str, Any]) -> Json:
    return {name: _cut(texts[name]) for name in ("href", "text", "src", "alt") if texts.get(name)}
