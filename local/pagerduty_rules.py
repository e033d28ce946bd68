"""PagerDuty's rules for events, its rate limit and its incidents, from its documentation alone.

They share no code with the function, so that a mistake in the function's idea of PagerDuty shows. Where the
documentation is silent they are strict, and say so in a comment.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Rule = Callable[[str, Any], list[str]]  # a field's name and value → the rules that it breaks

# https://developer.pagerduty.com/docs/send-alert-event and https://developer.pagerduty.com/docs/send-change-event
SUMMARY_CHARACTERS = 1024
SEVERITIES = ("critical", "error", "warning", "info")
DEDUP_KEY_CHARACTERS = 255
ROUTING_KEY = r"[A-Za-z0-9]{32}"
# https://developer.pagerduty.com/docs/events-api-v2-overview says "512 KB"; decimal is the reading that is always safe.
EVENT_BYTES = 512_000
# The seconds in which the rate limit counts: https://developer.pagerduty.com/docs/rate-limits
RATE_WINDOW = 60.0
# RFC 3339 (OpenAPI's `date-time`), and the offset without a colon of PagerDuty's own example; a leap second is one.
TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):([0-5]\d|60)(?:\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)


def _text(pattern: str = ".*", complaint: str = "must be a string") -> Rule:
    """Return the rule for a string that matches as a whole."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    return lambda where, value: [] if isinstance(value, str) and matches(value) else [f"'{where}' {complaint}"]


def _one_of(*allowed: str) -> Rule:
    """Return the rule for an enumeration; case matters to PagerDuty."""
    complaint = f"is invalid (must be one of: {', '.join(allowed)})"
    return lambda where, value: [] if value in allowed else [f"'{where}' {complaint}"]


def _array(rule: Rule) -> Rule:
    """Return the rule for an array whose items follow a rule."""

    def apply(where: str, value: Any) -> list[str]:
        if not isinstance(value, list):
            return [f"'{where}' must be an array"]
        return [error for position, item in enumerate(value) for error in rule(f"{where}[{position}]", item)]

    return apply


def _object(fields: Mapping[str, Rule], *required: str, others: bool = False) -> Rule:
    """Return the rule for an object: its fields' rules, the required ones, and whether it may have others."""

    def apply(where: str, value: Any) -> list[str]:
        if not isinstance(value, dict):
            return [f"'{where}' must be an object"]
        prefix = f"{where}." if where else ""
        errors = [f"'{prefix}{name}' is missing" for name in required if name not in value]
        errors += [f"'{prefix}{name}' is not a known field" for name in value if not others and name not in fields]
        found = [name for name in fields if name in value]
        return errors + [error for name in found for error in fields[name](prefix + name, value[name])]

    return apply


def _timestamp(where: str, value: Any) -> list[str]:
    """Apply the rule for a date and time, which must exist."""
    match = TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    with suppress(ValueError):
        if match:
            year, month, day, hour, minute, second = map(int, match.groups())
            datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
            return []
    return [f"'{where}' must be an ISO 8601 date and time with an offset"]


# The tables of https://developer.pagerduty.com/docs/send-alert-event and https://support.pagerduty.com/main/docs/pd-cef.
# PagerDuty does not say that it refuses unknown fields. Here they are refused in an event and in its payload, because
# they would be typos.
CHANGE_PAYLOAD: dict[str, Rule] = {
    "summary": _text(
        rf"(?=.*\S).{{1,{SUMMARY_CHARACTERS}}}", f"must be 1 to {SUMMARY_CHARACTERS} characters, not blank"
    ),
    "source": _text(),
    # Not in PagerDuty's table for change events, but RudderStack's page maps it.
    "severity": _one_of(*SEVERITIES),
    "timestamp": _timestamp,
    # PagerDuty accepts a string in practice, but documents an object, and event rules can use nothing else.
    "custom_details": _object({}, others=True),
}
ALERT_PAYLOAD = CHANGE_PAYLOAD | {
    "source": _text(r".*\S.*", "must be a string that is not blank"),
    "component": _text(),
    "group": _text(),
    "class": _text(),
}
HTTPS = _text(r"(?i:https)://.+", "must be served via HTTPS")
CONTEXT: dict[str, Rule] = {
    "links": _array(_object({"href": _text(".+", "must not be empty"), "text": _text()}, "href", others=True)),
    # For change events, only the OpenAPI description has them.
    "images": _array(_object({"src": HTTPS, "href": _text(), "alt": _text()}, "src", others=True)),
}
ALERT = CONTEXT | {
    "routing_key": _text(ROUTING_KEY, "is incorrect (should be 32 letters and digits)"),
    "event_action": _one_of("trigger", "acknowledge", "resolve"),
    "dedup_key": _text(f".{{1,{DEDUP_KEY_CHARACTERS}}}", f"must be 1 to {DEDUP_KEY_CHARACTERS} characters"),
    "payload": _object(ALERT_PAYLOAD),
    "client": _text(),
    "client_url": _text(),
}
TRIGGER = ALERT | {"payload": _object(ALERT_PAYLOAD, "summary", "source", "severity")}
CHANGE = CONTEXT | {
    # https://developer.pagerduty.com/docs/events-api-v2-overview, "Getting Started": the keys of rulesets begin with R.
    "routing_key": _text(f"(?!R){ROUTING_KEY}", "is incorrect (should be 32 letters and digits, and not a ruleset's)"),
    "payload": _object(CHANGE_PAYLOAD, "summary"),
}
ALERT_RULES = {
    "trigger": _object(TRIGGER, "routing_key", "event_action", "payload"),
    "acknowledge": _object(ALERT, "routing_key", "event_action", "dedup_key"),
    "resolve": _object(ALERT, "routing_key", "event_action", "dedup_key"),
}
UNKNOWN_ACTION_RULES = _object(ALERT, "routing_key", "event_action")
CHANGE_RULES = _object(CHANGE, "routing_key", "payload")


def violations(kind: str, body: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the event in a body ({} when unreadable) and every rule for an "alert" or "change" that it breaks."""
    # How PagerDuty refuses an oversized event is not documented. A 400 is what integrators report.
    errors = [f"The event is larger than {EVENT_BYTES} bytes"] if len(body) > EVENT_BYTES else []
    try:
        event = json.loads(body.decode(), parse_constant=_refuse_constant)
        json.dumps(event, ensure_ascii=False).encode()  # A lone surrogate parses, but UTF-8 cannot hold it.
    except (ValueError, RecursionError):
        return {}, (*errors, "The body is not valid JSON in UTF-8")
    if not isinstance(event, dict):
        return {}, (*errors, "The body is not a JSON object")
    alert_rules = ALERT_RULES.get(str(event.get("event_action")), UNKNOWN_ACTION_RULES)
    return event, (*errors, *(CHANGE_RULES if kind == "change" else alert_rules)("", event))


def _refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and JSON does not have (RFC 8259, section 6)."""
    raise ValueError(constant)


class RateLimit:
    """The rate limit of each routing key; alerts and changes share it. That refused calls do not count is assumed."""

    def __init__(self) -> None:
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)

    def accepts(self, routing_key: str, now: float, limit: int, window: float = RATE_WINDOW) -> bool:
        """Count a call, and return whether it is within `limit` calls in any `window` seconds."""
        calls = self._calls[routing_key]
        while calls and calls[0] <= now - window:
            calls.popleft()
        if len(calls) >= limit:
            return False
        calls.append(now)
        return True


class Change(NamedTuple):
    """A change of an incident, and its time in seconds since 1970."""

    what: Literal["triggered", "triggered again", "acknowledged", "resolved"]
    at: float


@dataclass
class Incident:
    """An incident of a routing key and a dedup key, from its first trigger to its resolve."""

    routing_key: str
    dedup_key: str
    title: str  # the summary of the first trigger
    severity: str  # the highest of all triggers
    payload: dict[str, Any]  # of the last trigger: what the alert shows
    status: Literal["triggered", "acknowledged", "resolved"] = "triggered"
    triggers: int = 1  # the first included
    event: dict[str, Any] = field(default_factory=dict, compare=False)  # the last trigger
    history: list[Change] = field(default_factory=list, compare=False)


class Incidents:
    """The incidents: https://developer.pagerduty.com/docs/send-alert-event#alert-de-duplication."""

    def __init__(self) -> None:
        self.all: list[Incident] = []
        self._latest: dict[tuple[str | None, str], Incident] = {}

    def latest(self, dedup_key: str, routing_key: str | None = None) -> Incident | None:
        """Return the latest incident of a dedup key (None: of any routing key)."""
        return self._latest.get((routing_key, dedup_key))

    def apply(self, event: dict[str, Any], dedup_key: str) -> bool:
        """Open or change an incident; return whether the event had an effect."""
        key, action, payload = event["routing_key"], event["event_action"], event.get("payload", {})
        incident = self.latest(dedup_key, key)
        if incident is None or incident.status == "resolved":
            if action != "trigger":
                return False  # PagerDuty drops it silently.
            incident = Incident(key, dedup_key, payload["summary"], payload["severity"], payload, event=event)
            self.all.append(incident)
            self._latest[key, dedup_key] = self._latest[None, dedup_key] = incident
            what: Literal["triggered", "triggered again", "acknowledged", "resolved"] = "triggered"
        elif action == "trigger":
            # Title and status stay, also when acknowledged; the severity never falls:
            # https://support.pagerduty.com/main/docs/dynamic-notifications
            incident.triggers += 1
            incident.payload, incident.event = payload, event
            incident.severity = min(incident.severity, payload["severity"], key=SEVERITIES.index)
            what = "triggered again"
        else:
            incident.status = what = "acknowledged" if action == "acknowledge" else "resolved"
        incident.history.append(Change(what, time.time()))
        return True
