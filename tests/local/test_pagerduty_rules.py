"""PagerDuty's documented rules for events, its rate limit, and the life of an incident."""

import copy
import json
from typing import Any

import pytest

from local.pagerduty_rules import Incident, Incidents, RateLimit, violations

KEY = "0123456789abcdefABCDEF0123456789"
OTHER_KEY = "f" * 32

FULL_TRIGGER = {
    "routing_key": KEY,
    "event_action": "trigger",
    "dedup_key": "disk",
    "payload": {
        "summary": "Disk full",
        "source": "db1",
        "severity": "error",
        "timestamp": "2026-08-20T08:42:58.315Z",
        "component": "ui",
        "group": "destination",
        "class": "settings",
        "custom_details": {"load avg": 0.75, "nested": {"deep": [None, True]}},
    },
    "images": [{"src": "https://example.com/a.png", "href": "https://example.com", "alt": "A"}],
    "links": [{"href": "https://example.com", "text": "Example"}, {"href": "http://example.com"}],
    "client": "RudderStack",
    "client_url": "https://example.com",
}
FULL_CHANGE = {
    "routing_key": KEY,
    "payload": {
        "summary": "Deployed",
        "source": "ci",
        "severity": "info",
        "timestamp": "2020-07-17T08:42:58.315+0000",
        "custom_details": {"build": 2},
    },
    "links": [{"href": "https://example.com"}],
    "images": [{"src": "https://example.com/a.png"}],
}

SUMMARY = "'payload.summary' must be 1 to 1024 characters, not blank"
SEVERITY = "'payload.severity' must be one of: critical, error, warning, info"
DEDUP_KEY = "'dedup_key' must be 1 to 255 characters"
ROUTING_KEY = "'routing_key' must be 32 letters and digits"
TIMESTAMP = "'payload.timestamp' must be an ISO 8601 date and time with an offset"


def changed(event: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    """Return a copy of an event with the value at a dotted path replaced."""
    result = copy.deepcopy(event)
    holder: Any = result
    *way, last = [int(step) if step.isdecimal() else step for step in where.split(".")]
    for step in way:
        holder = holder[step]
    holder[last] = value
    return result


def errors(kind: str, event: object) -> tuple[str, ...]:
    return violations(kind, json.dumps(event).encode())[1]


def test_events_with_every_documented_field_are_accepted() -> None:
    assert errors("alert", FULL_TRIGGER) == ()
    assert errors("change", FULL_CHANGE) == ()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("payload.summary", "ä" * 1024),
        ("dedup_key", "ä" * 255),
        ("payload.timestamp", "2026-08-20T08:42:58.123456789-12:30"),
        ("payload.timestamp", "2016-12-31T23:59:60Z"),
        ("links.0", {"href": "anything", "title": "PagerDuty does not say that it minds"}),
        ("routing_key", "R" + "0" * 31),
    ],
)
def test_what_the_documentation_allows_is_accepted(where: str, value: object) -> None:
    assert errors("alert", changed(FULL_TRIGGER, where, value)) == ()


@pytest.mark.parametrize(
    ("kind", "where", "value", "error"),
    [
        ("alert", "routing_key", "0" * 31 + "ä", ROUTING_KEY),
        ("alert", "routing_key", "0" * 32 + "\n", ROUTING_KEY),
        ("alert", "event_action", "Trigger", "'event_action' must be one of: trigger, acknowledge, resolve"),
        ("alert", "dedup_key", "", DEDUP_KEY),
        ("alert", "dedup_key", "x" * 256, DEDUP_KEY),
        ("alert", "payload.summary", " \t\n\u00a0", SUMMARY),
        ("alert", "payload.summary", "x" * 1025, SUMMARY),
        ("alert", "payload.source", "  ", "'payload.source' must be a string that is not blank"),
        ("alert", "payload.severity", "Critical", SEVERITY),
        ("alert", "payload.timestamp", "2026-08-20T08:42:58", TIMESTAMP),
        ("alert", "payload.timestamp", "2026-13-20T08:42:58Z", TIMESTAMP),
        ("alert", "payload.timestamp", "2026-08-20T08:42:58+24:00", TIMESTAMP),
        ("alert", "payload.component", 1, "'payload.component' must be a string"),
        ("alert", "payload.custom_details", "text", "'payload.custom_details' must be an object"),
        ("alert", "payload.customDetails", {}, "'payload.customDetails' is not a known field"),
        ("alert", "links", {"href": "https://example.com"}, "'links' must be an array"),
        ("alert", "images.0.src", "http://example.com/a.png", "'images[0].src' must be served via HTTPS"),
        ("change", "routing_key", "R" + "0" * 31, "'routing_key' must be 32 letters and digits, and not a ruleset's"),
        ("change", "payload.severity", "fatal", SEVERITY),
        ("change", "payload.component", "ui", "'payload.component' is not a known field"),
        ("change", "event_action", "trigger", "'event_action' is not a known field"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused(kind: str, where: str, value: object, error: str) -> None:
    event = {"alert": FULL_TRIGGER, "change": FULL_CHANGE}[kind]

    assert errors(kind, changed(event, where, value)) == (error,)


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_acknowledge_and_resolve_need_both_keys_and_no_payload(action: str) -> None:
    assert errors("alert", {"routing_key": KEY, "event_action": action, "dedup_key": "disk"}) == ()
    assert errors("alert", {"event_action": action}) == ("'routing_key' is missing", "'dedup_key' is missing")


def test_an_event_has_512_000_bytes_at_most() -> None:
    body = json.dumps(FULL_TRIGGER).encode()

    assert violations("alert", body.ljust(512_000))[1] == ()
    assert violations("alert", body.ljust(512_001))[1] == ("The event is larger than 512000 bytes",)


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000], ids=lambda body: repr(body[:20])
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    assert violations("alert", body) == ({}, ("The body is not valid JSON in UTF-8",))
    assert violations("alert", b"[]") == ({}, ("The body is not a JSON object",))


def test_each_routing_key_has_120_calls_in_any_60_seconds_and_refused_calls_do_not_count() -> None:
    limit = RateLimit()
    assert all(limit.accepts(KEY, n / 10, 120) for n in range(120))

    assert [limit.accepts(KEY, now, 120) for now in (59.9, 60, 60.05, 60.1)] == [False, True, False, True]
    assert limit.accepts(OTHER_KEY, 60.05, 120)


def apply(incidents: Incidents, action: str, routing_key: str = KEY, **payload: str) -> bool:
    event: dict[str, Any] = {**FULL_TRIGGER, "routing_key": routing_key, "event_action": action}
    if action == "trigger":
        event["payload"] = {"summary": "Disk full", "source": "db1", "severity": "error", **payload}
    return incidents.apply(event, "disk")


def test_triggers_merge_into_the_open_incident_whose_severity_never_falls() -> None:
    incidents = Incidents()
    for severity in ("warning", "critical", "info"):
        assert apply(incidents, "trigger", summary=f"{severity} disk", severity=severity)

    latest = {"summary": "info disk", "source": "db1", "severity": "info"}
    assert incidents.all == [Incident(KEY, "disk", "warning disk", "critical", latest, "triggered", 3)]


def test_an_incident_is_acknowledged_and_resolved_and_the_next_trigger_opens_another() -> None:
    incidents, statuses = Incidents(), []
    for action in ("trigger", "acknowledge", "trigger", "resolve", "trigger"):
        assert apply(incidents, action)
        statuses.append(incidents.all[-1].status)

    assert statuses == ["triggered", "acknowledged", "acknowledged", "resolved", "triggered"]
    history = [change.what for change in incidents.all[0].history]
    assert history == ["triggered", "acknowledged", "triggered again", "resolved"]


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_without_an_open_incident_an_event_has_no_effect(action: str) -> None:
    incidents = Incidents()
    assert not apply(incidents, action)
    apply(incidents, "trigger")
    apply(incidents, "resolve")

    assert not apply(incidents, action)
    assert [incident.status for incident in incidents.all] == ["resolved"]


def test_the_same_dedup_key_under_another_routing_key_is_another_incident() -> None:
    incidents = Incidents()
    apply(incidents, "trigger")
    assert not apply(incidents, "resolve", OTHER_KEY)
    apply(incidents, "trigger", OTHER_KEY)

    assert [incident.routing_key for incident in incidents.all] == [KEY, OTHER_KEY]
