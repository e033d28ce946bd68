"""The rules of the PagerDuty sandbox: what PagerDuty's documentation allows, and what is said of everything else."""

import copy
import json
from typing import Any

import pytest

from local.pagerduty_rules import violations

KEY = "0123456789abcdefABCDEF0123456789"
MISSING = object()

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
        "custom_details": {"ping time": "1500ms", "load avg": 0.75, "nested": {"deep": [None, True]}},
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
SOURCE = "'payload.source' must be a string that is not blank"
SEVERITY = "'payload.severity' is invalid (must be one of: critical, error, warning, info)"
ACTION = "'event_action' is invalid (must be one of: trigger, acknowledge, resolve)"
DEDUP_KEY = "'dedup_key' must be 1 to 255 characters"
ROUTING_KEY = "'routing_key' is incorrect (should be 32 letters and digits)"
TIMESTAMP = "'payload.timestamp' must be an ISO 8601 date and time with an offset"


def changed(event: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    """Return a copy of an event with the value at a dotted path replaced, or taken out when it is MISSING."""
    result = copy.deepcopy(event)
    holder: Any = result
    *way, last = [int(step) if step.isdecimal() else step for step in where.split(".")]
    for step in way:
        holder = holder[step]
    if value is MISSING:
        del holder[last]
    else:
        holder[last] = value
    return result


def errors(kind: str, event: object) -> tuple[str, ...]:
    return violations(kind, event if isinstance(event, bytes) else json.dumps(event).encode())[1]


def test_events_with_every_documented_field_are_accepted() -> None:
    assert errors("alert", FULL_TRIGGER) == ()
    assert errors("change", FULL_CHANGE) == ()


def test_acknowledge_and_resolve_need_no_payload() -> None:
    for action in ("acknowledge", "resolve"):
        event = {"routing_key": KEY, "event_action": action, "dedup_key": "disk"}

        assert errors("alert", event) == ()
        assert errors("alert", {**event, "payload": {"summary": "Disk full"}}) == ()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("payload.summary", "ä" * 1024),
        ("payload.summary", "\n x"),
        ("dedup_key", "ä" * 255),
        ("dedup_key", " "),
        ("payload.severity", "critical"),
        ("payload.severity", "warning"),
        ("payload.severity", "info"),
        ("payload.component", ""),
        ("payload.custom_details", {}),
        ("payload.custom_details", {"any": {"thing": [1, None, "\U0001f525"]}}),
        ("payload.timestamp", "2015-07-17T08:42:58.315+0000"),
        ("payload.timestamp", "2026-08-20t08:42:58z"),
        ("payload.timestamp", "2026-08-20T08:42:58.123456789-12:30"),
        ("payload.timestamp", "2024-02-29T00:00:00Z"),
        ("payload.timestamp", "2016-12-31T23:59:60Z"),
        ("links", []),
        ("links.0", {"href": "anything", "title": "PagerDuty does not say that it minds"}),
        ("images.0.src", "HTTPS://EXAMPLE.COM/A.PNG"),
        ("routing_key", "R" + "0" * 31),
        ("client_url", "not judged"),
    ],
)
def test_what_the_documentation_allows_is_accepted(where: str, value: object) -> None:
    assert errors("alert", changed(FULL_TRIGGER, where, value)) == ()


def test_an_event_of_512_000_bytes_is_accepted_and_one_more_byte_is_not() -> None:
    empty = changed(FULL_TRIGGER, "payload.custom_details", {"note": ""})
    room = 512_000 - len(json.dumps(empty).encode())

    assert errors("alert", changed(empty, "payload.custom_details.note", "x" * room)) == ()
    too_large = changed(empty, "payload.custom_details.note", "x" * (room + 1))
    assert errors("alert", too_large) == ("The event is larger than 512000 bytes",)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "value", "error"),
    [
        ("routing_key", MISSING, "'routing_key' is missing"),
        ("routing_key", None, ROUTING_KEY),
        ("routing_key", "", ROUTING_KEY),
        ("routing_key", "0" * 31, ROUTING_KEY),
        ("routing_key", "0" * 33, ROUTING_KEY),
        ("routing_key", "0" * 31 + "-", ROUTING_KEY),
        ("routing_key", "0" * 31 + "ä", ROUTING_KEY),
        ("routing_key", "0" * 32 + "\n", ROUTING_KEY),
        ("routing_key", 32, ROUTING_KEY),
        ("event_action", MISSING, "'event_action' is missing"),
        ("event_action", "Trigger", ACTION),
        ("event_action", "resolved", ACTION),
        ("event_action", "change", ACTION),
        ("event_action", None, ACTION),
        ("event_action", ["trigger"], ACTION),
        ("dedup_key", "", DEDUP_KEY),
        ("dedup_key", "x" * 256, DEDUP_KEY),
        ("dedup_key", 7, DEDUP_KEY),
        ("dedup_key", None, DEDUP_KEY),
        ("payload", MISSING, "'payload' is missing"),
        ("payload", "Disk full", "'payload' must be an object"),
        ("payload", None, "'payload' must be an object"),
        ("payload.summary", MISSING, "'payload.summary' is missing"),
        ("payload.summary", "", SUMMARY),
        ("payload.summary", " \t\n\u00a0", SUMMARY),
        ("payload.summary", "x" * 1025, SUMMARY),
        ("payload.summary", 5, SUMMARY),
        ("payload.source", MISSING, "'payload.source' is missing"),
        ("payload.source", "", SOURCE),
        ("payload.source", "  ", SOURCE),
        ("payload.source", None, SOURCE),
        ("payload.severity", MISSING, "'payload.severity' is missing"),
        ("payload.severity", "Critical", SEVERITY),
        ("payload.severity", "fatal", SEVERITY),
        ("payload.severity", None, SEVERITY),
        ("payload.timestamp", "", TIMESTAMP),
        ("payload.timestamp", "yesterday", TIMESTAMP),
        ("payload.timestamp", "2026-08-20", TIMESTAMP),
        ("payload.timestamp", "2026-08-20T08:42:58", TIMESTAMP),
        ("payload.timestamp", "2026-08-20 08:42:58Z", TIMESTAMP),
        ("payload.timestamp", "2026-02-30T08:42:58Z", TIMESTAMP),
        ("payload.timestamp", "2026-13-01T08:42:58Z", TIMESTAMP),
        ("payload.timestamp", "2026-08-20T24:00:00Z", TIMESTAMP),
        ("payload.timestamp", "2026-08-20T08:42:61Z", TIMESTAMP),
        ("payload.timestamp", "2026-08-20T08:42:58+24:00", TIMESTAMP),
        ("payload.timestamp", "٢٠٢٦-08-20T08:42:58Z", TIMESTAMP),
        ("payload.timestamp", 1_755_680_000, TIMESTAMP),
        ("payload.timestamp", None, TIMESTAMP),
        ("payload.component", 1, "'payload.component' must be a string"),
        ("payload.group", None, "'payload.group' must be a string"),
        ("payload.class", [], "'payload.class' must be a string"),
        ("payload.custom_details", "text", "'payload.custom_details' must be an object"),
        ("payload.custom_details", [], "'payload.custom_details' must be an object"),
        ("payload.customDetails", {}, "'payload.customDetails' is not a known field"),
        ("payload.routing", "x", "'payload.routing' is not a known field"),
        ("severity", "info", "'severity' is not a known field"),
        ("clientUrl", "https://example.com", "'clientUrl' is not a known field"),
        ("links", {"href": "https://example.com"}, "'links' must be an array"),
        ("links", None, "'links' must be an array"),
        ("links.1", "https://example.com", "'links[1]' must be an object"),
        ("links.1", None, "'links[1]' must be an object"),
        ("links.1.href", MISSING, "'links[1].href' is missing"),
        ("links.1.href", "", "'links[1].href' must not be empty"),
        ("links.1.href", 1, "'links[1].href' must not be empty"),
        ("links.0.text", 1, "'links[0].text' must be a string"),
        ("images", "https://example.com/a.png", "'images' must be an array"),
        ("images.0", "https://example.com/a.png", "'images[0]' must be an object"),
        ("images.0.src", MISSING, "'images[0].src' is missing"),
        ("images.0.src", "", "'images[0].src' must be served via HTTPS"),
        ("images.0.src", "https://", "'images[0].src' must be served via HTTPS"),
        ("images.0.src", "http://example.com/a.png", "'images[0].src' must be served via HTTPS"),
        ("images.0.src", None, "'images[0].src' must be served via HTTPS"),
        ("images.0.href", 1, "'images[0].href' must be a string"),
        ("images.0.alt", None, "'images[0].alt' must be a string"),
        ("client", 1, "'client' must be a string"),
        ("client_url", None, "'client_url' must be a string"),
    ],
)
def test_an_alert_that_breaks_a_rule_is_refused(where: str, value: object, error: str) -> None:
    assert errors("alert", changed(FULL_TRIGGER, where, value)) == (error,)


@pytest.mark.parametrize(
    ("where", "value", "error"),
    [
        ("routing_key", MISSING, "'routing_key' is missing"),
        (
            "routing_key",
            "R" + "0" * 31,
            "'routing_key' is incorrect (should be 32 letters and digits, and not a ruleset's)",
        ),
        (
            "routing_key",
            "0" * 31,
            "'routing_key' is incorrect (should be 32 letters and digits, and not a ruleset's)",
        ),
        ("payload", MISSING, "'payload' is missing"),
        ("payload", [], "'payload' must be an object"),
        ("payload.summary", MISSING, "'payload.summary' is missing"),
        ("payload.summary", " ", SUMMARY),
        ("payload.summary", "x" * 1025, SUMMARY),
        ("payload.source", 1, "'payload.source' must be a string"),
        ("payload.severity", "fatal", SEVERITY),
        ("payload.timestamp", "yesterday", TIMESTAMP),
        ("payload.custom_details", "text", "'payload.custom_details' must be an object"),
        ("payload.component", "ui", "'payload.component' is not a known field"),
        ("payload.group", "destination", "'payload.group' is not a known field"),
        ("payload.class", "settings", "'payload.class' is not a known field"),
        ("links.0.href", "", "'links[0].href' must not be empty"),
        ("images.0.src", "http://example.com", "'images[0].src' must be served via HTTPS"),
        ("event_action", "trigger", "'event_action' is not a known field"),
        ("dedup_key", "disk", "'dedup_key' is not a known field"),
        ("client", "RudderStack", "'client' is not a known field"),
        ("client_url", "https://example.com", "'client_url' is not a known field"),
    ],
)
def test_a_change_event_that_breaks_a_rule_is_refused(where: str, value: object, error: str) -> None:
    assert errors("change", changed(FULL_CHANGE, where, value)) == (error,)


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_acknowledge_and_resolve_without_a_dedup_key_are_refused(action: str) -> None:
    event = {"routing_key": KEY, "event_action": action}

    assert errors("alert", event) == ("'dedup_key' is missing",)
    assert errors("alert", {**event, "dedup_key": ""}) == (DEDUP_KEY,)


def test_all_violations_of_an_event_are_told_together() -> None:
    event = {"event_action": "trigger", "payload": {"summary": " ", "severity": "High"}, "links": [{}], "typo": 1}

    assert errors("alert", event) == (
        "'routing_key' is missing",
        "'typo' is not a known field",
        "'links[0].href' is missing",
        "'payload.source' is missing",
        SUMMARY,
        SEVERITY,
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "The body is not valid JSON in UTF-8"),
        (b"{", "The body is not valid JSON in UTF-8"),
        (b"\xff", "The body is not valid JSON in UTF-8"),
        (b'{"a": NaN}', "The body is not valid JSON in UTF-8"),
        (b'{"a": Infinity}', "The body is not valid JSON in UTF-8"),
        (b'{"a": -Infinity}', "The body is not valid JSON in UTF-8"),
        (b'{"a": "\\ud800"}', "The body is not valid JSON in UTF-8"),
        (b"[" * 100_000, "The body is not valid JSON in UTF-8"),
        (b"[]", "The body is not a JSON object"),
        (b"null", "The body is not a JSON object"),
        (b'"text"', "The body is not a JSON object"),
    ],
    ids=["empty", "cut", "not-utf8", "nan", "infinity", "minus", "surrogate", "deep", "array", "null", "string"],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, error: str) -> None:
    assert violations("alert", body) == ({}, (error,))


def test_only_errors_about_the_routing_key_name_it() -> None:
    event = {"routing_key": KEY, "event_action": "x", "dedup_key": "", "payload": {"x": 1}, "links": 1, "images": [1]}

    assert "routing" not in str(errors("alert", event))
    assert "routing" not in str(errors("change", event))
