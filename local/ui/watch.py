"""What the page shows: the incidents, the queue and the last ten minutes, read from the stack and from its log.

All of it is bounded, however much happens: texts are cut, and of many incidents the newest are shown.
"""

import json
import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Final

from tests import metrics
from local.fifo import QueuedMessage
from local.pagerduty_rules import Incident
from local.sandbox import Received
from local.stack import LocalStack

Json = dict[str, Any]

SHOWN_INCIDENTS: Final = 200
SHOWN_CHANGES: Final = 50
SHOWN_MESSAGES: Final = 25
_SHOWN_LINKS: Final = 20
_SHOWN_HISTORY: Final = 20
_TEXT_CHARACTERS: Final = 1_100  # a summary has 1,024
_DETAILS_CHARACTERS: Final = 4_000

# Seconds of a step of the chart, and its steps: ten minutes.
STEP: Final = 5
STEPS: Final = 120
_COUNTED: Final = {"Received": "received", "Delivered": "delivered", "Deferred": "delayed", "PagerDuty429": "limited"}
_REMEMBERED: Final = 20_000


@dataclass
class Storm:
    """A storm and how far it got; `size`, `delivered` and `slowest` (seconds) are by "pages" and "others"."""

    name: str
    size: dict[str, int]
    refused: int = 0
    merged: int = 0
    delivered: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)


class Watch:
    """Watches a stack; `on_received` and `on_log` are to be called by it, from any thread."""

    def __init__(self) -> None:
        self.storm: Storm | None = None
        self._lock = threading.Lock()
        self._stack: LocalStack
        self._services: dict[str, str] = {}
        # The queue's clock is the monotonic one.
        self._epoch = time.time() - time.monotonic()
        self._changes: deque[Json] = deque(maxlen=SHOWN_CHANGES)
        self._changes_seen = 0
        self._steps: OrderedDict[int, Counter[str]] = OrderedDict()
        self._late: defaultdict[int, dict[str, float]] = defaultdict(dict)
        self._merged: Counter[str] = Counter()
        # Why a message was delayed, by what identifies its event in the log and in the queue alike.
        self._reasons: OrderedDict[tuple[str, ...], str] = OrderedDict()

    def begin(self, stack: LocalStack) -> None:
        """Take the stack to watch."""
        self._stack = stack
        self._services = {
            key: name for name, keys in stack.options.routing_keys.items() for key in keys.replace(",", " ").split()
        }

    # -- what happens --------------------------------------------------------------------------------------------------

    def on_received(self, call: Received) -> None:
        """Note a change event; incidents are the sandbox's own."""
        if call.kind == "change" and call.accepted:
            with self._lock:
                self._changes_seen += 1
                payload = call.event["payload"]
                seen = {"number": self._changes_seen, "at": time.time(), **self._common(call.event, payload)}
                self._changes.append({**seen, "title": _cut(payload["summary"]), "severity": payload.get("severity")})

    def on_log(self, line: str) -> None:
        """Note what a line of the functions' log says of an event."""
        if '"status"' not in line:
            return
        try:
            content = json.loads(line)
            found = {each.name: each.value for each in metrics.read_all([line]) if len(each.dimensions) == 1}
        except (ValueError, KeyError, TypeError):
            return
        with self._lock:
            self._count(found)
            if "receive_count" in content:
                self._note_queued(content, found)

    def _count(self, found: dict[str, float]) -> None:
        step = int(time.time() // STEP)
        counts = self._steps.setdefault(step, Counter())
        for metric, name in _COUNTED.items():
            counts[name] += int(found.get(metric, 0))
        while next(iter(self._steps)) <= step - STEPS:
            self._late.pop(self._steps.popitem(last=False)[0], None)

    def _note_queued(self, content: Json, found: dict[str, float]) -> None:
        """Note from the worker's line why an event was delayed, or how late it was."""
        identity = tuple(str(content.get(name)) for name in ("pagerduty_service", "dedup_key", "message_id"))
        if content["status"] == "deferred":
            self._reasons[identity] = content["code"]
            if len(self._reasons) > _REMEMBERED:
                self._reasons.popitem(last=False)
            return
        self._reasons.pop(identity, None)
        key = str(content.get("dedup_key"))
        if content["status"] == "merged":
            self._merged[key] += 1
            if self.storm and key.startswith(self.storm.name):
                self.storm.merged += 1
        elif content["status"] == "delivered":
            self._note_late(key, found.get("QueueTime", 0.0))

    def _note_late(self, key: str, seconds: float) -> None:
        incident = self._stack.sandbox.incident(key) if self._stack.sandbox else None
        kind = "pages" if incident and incident.severity == "critical" else "others"
        late = self._late[int(time.time() // STEP)]
        late[kind] = round(max(seconds, late.get(kind, 0.0)), 1)
        storm = self.storm
        if storm and key.startswith(storm.name):
            storm.delivered[kind] += 1
            storm.slowest[kind] = round(max(seconds, storm.slowest.get(kind, 0.0)), 1)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Name the parts that are shown as a whole whenever they change."""
        return {"counts": self._counts, "queue": self._queue, "chart": self._chart, "storm": self._storm}

    def incidents(self, known: dict[int, int]) -> list[Json]:
        """Show those of the newest incidents that changed since they were noted in `known`, the oldest first."""
        sandbox = self._stack.sandbox
        every = sandbox.incidents if sandbox else []
        first = max(0, len(every) - SHOWN_INCIDENTS)
        shown = []
        for number, incident in enumerate(every[first:], first + 1):
            version = len(incident.history) + self._merged[incident.dedup_key]
            if known.get(number) != version:
                known[number] = version
                shown.append(self._incident(number, incident))
        for number in [each for each in known if each <= first]:
            del known[number]
        return shown

    def changes(self, since: int) -> list[Json]:
        """Show the change events after this number, the oldest first."""
        with self._lock:
            return [change for change in self._changes if change["number"] > since]

    def _counts(self) -> Json:
        every = self._stack.sandbox.incidents[:] if self._stack.sandbox else []
        statuses = Counter(str(incident.status) for incident in every)
        return {"incidents": len(every), "changes": self._changes_seen, **statuses}

    def _incident(self, number: int, incident: Incident) -> Json:
        history = [
            {"what": what, "at": steps[0].at, "until": steps[-1].at, "count": len(steps)}
            for what, group in groupby(incident.history[:], key=lambda change: change.what)
            for steps in [list(group)]
        ]
        return {
            "number": number,
            "status": incident.status,
            "severity": incident.severity,
            "title": _cut(incident.title),
            "dedup_key": incident.dedup_key,
            "merged": self._merged[incident.dedup_key],
            "history": history[-_SHOWN_HISTORY:],
            **self._common(incident.event, incident.payload),
        }

    def _common(self, event: Json, payload: Json) -> Json:
        """Show what an alert and a change event have in common; never the routing key, but whose it is."""
        details, left_out = _details(payload.get("custom_details"))
        fields = {name: payload.get(name) for name in ("source", "group", "class", "component")}
        fields |= {name: event.get(name) for name in ("client", "client_url")}
        return {
            "service": self._services.get(event.get("routing_key", ""), "?"),
            "summary": _cut(payload["summary"]),
            **{name: _cut(value) for name, value in fields.items() if value},
            "links": [_cut_all(link) for link in event.get("links", [])[:_SHOWN_LINKS]],
            "images": [_cut_all(image) for image in event.get("images", [])[:_SHOWN_LINKS]],
            "details": details,
            "details_left_out": left_out,
        }

    def _queue(self) -> Json:
        messages = self._stack.aws.peek(self._stack.queue_url)
        dead = self._stack.aws.peek(self._stack.dead_letter_queue_url)
        states = Counter(_state(each) for each in messages)
        # The first message of a group stands for those behind it.
        groups: dict[str, list[QueuedMessage]] = {}
        for message in messages:
            groups.setdefault(message.group, []).append(message)
        order = ("in flight", "waiting", "delayed")
        coming = sorted(
            groups.values(),
            key=lambda group: (order.index(_state(group[0])), group[0].is_delayed, group[0].hidden_until),
        )
        return {
            **{name.replace(" ", "_"): states[name] for name in order},
            "shown": [self._message(group[0]) | {"behind": len(group) - 1} for group in coming[:SHOWN_MESSAGES]],
            "groups": len(groups),
            "dead": len(dead),
            "dead_shown": [self._dead_letter(each) for each in islice(reversed(dead), SHOWN_MESSAGES)],
        }

    def _message(self, message: QueuedMessage) -> Json:
        shown, identity = _read(message.body)
        state = _state(message)
        shown |= {"state": state, "receive_count": message.receive_count}
        if state == "delayed":
            due = round(self._epoch + message.hidden_until, 1)
            shown |= {"due": due, "reason": self._reasons.get(identity, "")}
        return shown

    def _dead_letter(self, message: QueuedMessage) -> Json:
        shown, _ = _read(message.body)
        names = ("code", "reason")
        return shown | {name: message.attributes.get(name, {}).get("StringValue", "") for name in names}

    def _chart(self) -> Json:
        with self._lock:
            step = int(time.time() // STEP)
            recent = [each for each in self._steps if each > step - STEPS]
            return {
                "step": step,
                "counts": {str(each): dict(self._steps[each]) for each in recent},
                "late": {str(each): dict(self._late[each]) for each in recent if each in self._late},
            }

    def _storm(self) -> Json | None:
        storm = self.storm
        if storm is None:
            return None
        with self._lock:
            return {name: value for name, value in vars(storm).items() if name != "name"} | {
                "delivered": dict(storm.delivered),
                "slowest": dict(storm.slowest),
            }


def _state(message: QueuedMessage) -> str:
    if message.is_delayed:
        return "delayed"
    return "in flight" if message.is_hidden else "waiting"


def _read(body: str) -> tuple[Json, tuple[str, ...]]:
    """Read what a message says of its event, and what identifies that in the log."""
    try:
        message = json.loads(body)
        payload = message.get("event", {}).get("payload", {})
        shown = {name: message[name] for name in ("kind", "action", "dedup_key")}
        shown |= {"title": _cut(payload.get("summary", "")), "severity": payload.get("severity")}
        return shown, tuple(str(message[name]) for name in ("service", "dedup_key", "message_id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"title": "unreadable"}, ()


def _details(details: Any) -> tuple[str, int]:
    """Write custom details as text; return how many characters were left out, too."""
    if not details:
        return "", 0
    text = json.dumps(details, indent=2, ensure_ascii=False)
    return text[:_DETAILS_CHARACTERS], max(0, len(text) - _DETAILS_CHARACTERS)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _TEXT_CHARACTERS else f"{text[:_TEXT_CHARACTERS]}…"


def _cut_all(texts: Json) -> Json:
    return {name: _cut(texts[name]) for name in ("href", "text", "src", "alt") if texts.get(name)}
