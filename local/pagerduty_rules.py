"""PagerDuty's rules for events, from its documentation alone.

They share no code with the function, so that a mistake in the function's idea of PagerDuty shows. Where the
documentation is silent they are strict, and say so in a comment.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Rule = Callable[[str, Any], list[str]]  # the name of a field and its value → what is wrong with it

# https://developer.pagerduty.com/docs/send-alert-event and https://developer.pagerduty.com/docs/send-change-event
SUMMARY_CHARACTERS = 1024
SEVERITIES = ("critical", "error", "warning", "info")
DEDUP_KEY_CHARACTERS = 255
ROUTING_KEY = r"[A-Za-z0-9]{32}"
# https://developer.pagerduty.com/docs/events-api-v2-overview says "512 KB"; decimal is the reading that is always safe.
EVENT_BYTES = 512_000
# RFC 3339 (OpenAPI's `date-time`), and the offset without a colon of PagerDuty's own example; a leap second is one.
TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):([0-5]\d|60)(?:\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)


def _text(pattern: str = ".*", complaint: str = "must be a string") -> Rule:
    """Make the rule for a string that matches as a whole."""
    matches = re.compile(pattern, re.DOTALL).fullmatch
    return lambda where, value: [] if isinstance(value, str) and matches(value) else [f"'{where}' {complaint}"]


def _one_of(*allowed: str) -> Rule:
    """Make the rule for an enumeration; upper and lower case matter to PagerDuty."""
    complaint = f"is invalid (must be one of: {', '.join(allowed)})"
    return lambda where, value: [] if value in allowed else [f"'{where}' {complaint}"]


def _array(rule: Rule) -> Rule:
    """Make the rule for an array of which every item follows a rule."""

    def apply(where: str, value: Any) -> list[str]:
        if not isinstance(value, list):
            return [f"'{where}' must be an array"]
        return [error for position, item in enumerate(value) for error in rule(f"{where}[{position}]", item)]

    return apply


def _object(fields: Mapping[str, Rule], *required: str, others: bool = False) -> Rule:
    """Make the rule for an object: its fields' rules, which of them it must have, whether it may have others."""

    def apply(where: str, value: Any) -> list[str]:
        if not isinstance(value, dict):
            return [f"'{where}' must be an object"]
        prefix = f"{where}." if where else ""
        errors = [f"'{prefix}{name}' is missing" for name in required if name not in value]
        errors += [f"'{prefix}{name}' is not a known field" for name in value if not others and name not in fields]
        return errors + [
            error for name in fields if name in value for error in fields[name](prefix + name, value[name])
        ]

    return apply


def _timestamp(where: str, value: Any) -> list[str]:
    """Want a date and time that exists."""
    match = TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    with suppress(ValueError):
        if match:
            year, month, day, hour, minute, second = map(int, match.groups())
            datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
            return []
    return [f"'{where}' must be an ISO 8601 date and time with an offset"]


# The tables of https://developer.pagerduty.com/docs/send-alert-event and https://support.pagerduty.com/main/docs/pd-cef.
# PagerDuty does not say that it refuses fields which are not in its tables. The sandbox does, in an event and in its
# payload: a field that nobody reads is a typo of ours.
CHANGE_PAYLOAD: dict[str, Rule] = {
    "summary": _text(
        rf"(?=.*\S).{{1,{SUMMARY_CHARACTERS}}}", f"must be 1 to {SUMMARY_CHARACTERS} characters, not blank"
    ),
    "source": _text(),
    # Not in PagerDuty's table for change events, but RudderStack's page maps it.
    "severity": _one_of(*SEVERITIES),
    "timestamp": _timestamp,
    # PagerDuty takes a plain string in practice, but documents an object, and event rules can use nothing else.
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
        event = json.loads(body.decode(), parse_constant=_no_json)
        json.dumps(event, ensure_ascii=False).encode()  # A lone surrogate parses, but no UTF-8 can hold it.
    except (ValueError, RecursionError):
        return {}, (*errors, "The body is not valid JSON in UTF-8")
    if not isinstance(event, dict):
        return {}, (*errors, "The body is not a JSON object")
    alert_rules = ALERT_RULES.get(str(event.get("event_action")), UNKNOWN_ACTION_RULES)
    return event, (*errors, *(CHANGE_RULES if kind == "change" else alert_rules)("", event))


def _no_json(constant: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and JSON does not have (RFC 8259, section 6)."""
    raise ValueError(constant)
