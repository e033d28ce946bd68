"""PagerDuty's rules for events, its rate limit and its incidents, from its documentation alone.

They share no code with the function, so that a mistake in the function's idea of PagerDuty shows. Where the
documentation is silent they are strict, and say so in a comment.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

# https://developer.pagerduty.com/docs/send-alert-event and https://developer.pagerduty.com/docs/send-change-event
SEVERITIES = ("critical", "error", "warning", "info")
ROUTING_KEY = r"[A-Za-z0-9]{32}"
# https://developer.pagerduty.com/docs/events-api-v2-overview says "512 KB"; decimal is the reading that is always safe.
EVENT_BYTES = 512_000
# The seconds in which the rate limit counts: https://developer.pagerduty.com/docs/rate-limits
RATE_WINDOW = 60.0
# RFC 3339 (OpenAPI's `date-time`), and the offset without a colon of PagerDuty's own example; a leap second is one.
TIMESTAMP = (
    r"(?ai)\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)"
)


class Text(NamedTuple):
    """A string that matches a pattern as a whole."""

    must: str = "be a string"
    pattern: str = ".*"


class Object(NamedTuple):
    """An object with these fields, and whether it may have others."""

    required: dict[str, Rule]
    optional: dict[str, Rule]
    others: bool = False


Rule = Text | Object | list[Text | Object]  # a list: an array of such items


def _errors(where: str, value: Any, rule: Rule) -> list[str]:
    """Return every rule that a value breaks; `where` is its place in the event."""
    if isinstance(rule, Text):
        is_accepted = isinstance(value, str) and re.fullmatch(rule.pattern, value, re.DOTALL)
        return [] if is_accepted else [f"'{where}' must {rule.must}"]
    if isinstance(rule, list):
        if not isinstance(value, list):
            return [f"'{where}' must be an array"]
        return [error for n, item in enumerate(value) for error in _errors(f"{where}[{n}]", item, rule[0])]
    if not isinstance(value, dict):
        return [f"'{where}' must be an object"]
    prefix = f"{where}." if where else ""
    fields = rule.required | rule.optional
    errors = [f"'{prefix}{name}' is missing" for name in rule.required if name not in value]
    errors += [f"'{prefix}{name}' is not a known field" for name in value if not rule.others and name not in fields]
    found = [name for name in fields if name in value]
    return errors + [error for name in found for error in _errors(prefix + name, value[name], fields[name])]


# The tables of https://developer.pagerduty.com/docs/send-alert-event and https://support.pagerduty.com/main/docs/pd-cef.
# PagerDuty does not say that it refuses unknown fields. Here they are refused in an event and in its payload, because
# they would be typos. Case matters to PagerDuty.
SUMMARY = Text("be 1 to 1024 characters, not blank", r"(?=.*\S).{1,1024}")
SEVERITY = Text(f"be one of: {', '.join(SEVERITIES)}", "|".join(SEVERITIES))
IN_ANY_PAYLOAD: dict[str, Rule] = {
    "timestamp": Text("be an ISO 8601 date and time with an offset", TIMESTAMP),
    # PagerDuty accepts a string in practice, but documents an object, and event rules can use nothing else.
    "custom_details": Object({}, {}, others=True),
}
IN_ANY_EVENT: dict[str, Rule] = {
    "links": [Object({"href": Text("not be empty", ".+")}, {"text": Text()}, others=True)],
    # For change events, only the OpenAPI description has them.
    "images": [
        Object({"src": Text("be served via HTTPS", "(?i:https)://.+")}, {"href": Text(), "alt": Text()}, others=True)
    ],
}
IDENTITY: dict[str, Rule] = {
    "routing_key": Text("be 32 letters and digits", ROUTING_KEY),
    "event_action": Text("be one of: trigger, acknowledge, resolve", "trigger|acknowledge|resolve"),
}
DEDUP_KEY: dict[str, Rule] = {"dedup_key": Text("be 1 to 255 characters", ".{1,255}")}
TRIGGER = Object(
    {
        **IDENTITY,
        "payload": Object(
            {"summary": SUMMARY, "source": Text("be a string that is not blank", r".*\S.*"), "severity": SEVERITY},
            {**IN_ANY_PAYLOAD, "component": Text(), "group": Text(), "class": Text()},
        ),
    },
    {**DEDUP_KEY, **IN_ANY_EVENT, "client": Text(), "client_url": Text()},
)
# An acknowledge and a resolve; PagerDuty ignores what else they have.
UPDATE = Object({**IDENTITY, **DEDUP_KEY}, {}, others=True)
CHANGE = Object(
    {
        # The keys of rulesets begin with R: https://developer.pagerduty.com/docs/events-api-v2-overview
        "routing_key": Text("be 32 letters and digits, and not a ruleset's", f"(?!R){ROUTING_KEY}"),
        # Severity is not in PagerDuty's table for change events, but RudderStack's page maps it.
        "payload": Object({"summary": SUMMARY}, {"source": Text(), "severity": SEVERITY, **IN_ANY_PAYLOAD}),
    },
    IN_ANY_EVENT,
)


def violations(kind: str, body: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the event in a body ({} when unreadable) and every rule for an "alert" or "change" that it breaks."""
    # How PagerDuty refuses an oversized event is not documented. A 400 is what integrators report.
    errors = [f"The event is larger than {EVENT_BYTES} bytes"] if len(body) > EVENT_BYTES else []
    try:
        event = json.loads(body.decode())
        # Python reads NaN, infinities and lone surrogates, which JSON in UTF-8 does not have.
        json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {}, (*errors, "The body is not valid JSON in UTF-8")
    if not isinstance(event, dict):
        return {}, (*errors, "The body is not a JSON object")
    alert_rules = UPDATE if event.get("event_action") in ("acknowledge", "resolve") else TRIGGER
    return event, (*errors, *_errors("", event, CHANGE if kind == "change" else alert_rules))


class RateLimit:
    """The rate limit of each routing key; alerts and changes share it. Refused calls are assumed not to count."""

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


What = Literal["triggered", "triggered again", "acknowledged", "resolved"]


class Change(NamedTuple):
    """A change of an incident, and its time in seconds since 1970."""

    what: What
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
        self._latest: dict[tuple[str, str], Incident] = {}

    def apply(self, event: dict[str, Any], dedup_key: str) -> bool:
        """Open or change an incident; return whether the event had an effect."""
        key, action, payload = event["routing_key"], event["event_action"], event.get("payload", {})
        incident = self._latest.get((key, dedup_key))
        if incident is None or incident.status == "resolved":
            if action != "trigger":
                return False  # PagerDuty drops it silently.
            incident = Incident(key, dedup_key, payload["summary"], payload["severity"], payload, event=event)
            self.all.append(incident)
            self._latest[key, dedup_key] = incident
            what: What = "triggered"
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
