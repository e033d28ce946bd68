"""Messages of the queue: how events are written and read."""

import base64
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import sqs
from event import Event
from outcome import ProcessingError

TRIGGER = {"event_action": "trigger", "dedup_key": "incident-1"}
RESOLVE = {"event_action": "resolve", "dedup_key": "incident-1"}


def alert(**changes: Any) -> Event:
    fields = {"content": TRIGGER, "action": "trigger", "dedup_key": "incident-1", "message_id": "m", **changes}
    return Event(**{"service": "default", "kind": "alert", **fields})


def change(message_id: str | None = "m", **changes: Any) -> Event:
    return Event(**{"service": "default", "kind": "change", "content": {}, "message_id": message_id, **changes})


def body(event: Event) -> str:
    return sqs.write(event, 0)["MessageBody"]


def test_a_message_is_ascii_json_with_a_format_version_and_without_a_routing_key() -> None:
    message = body(alert(content={"payload": {"summary": "Käse ☃"}}))

    assert message.isascii()
    assert json.loads(message) == {
        "version": 1,
        "service": "default",
        "kind": "alert",
        "action": "trigger",
        "dedup_key": "incident-1",
        "message_id": "m",
        "occurred_at": None,
        "event": {"payload": {"summary": "Käse ☃"}},
    }


def test_an_event_that_ascii_would_make_too_large_is_written_as_base64() -> None:
    message = body(alert(content={"a": "é" * 250_000}))

    assert base64.b64decode(json.loads(message)["event_base64"]).decode() == '{"a":"' + "é" * 250_000 + '"}'
    assert len(message) <= sqs.MAX_MESSAGE_BYTES


OCCURRED_AT = datetime(2026, 1, 31, 12, 0, 0, 123456, timezone(timedelta(hours=5.5)))


@pytest.mark.parametrize("content", [{"a": "Käse ☃ 😀"}, {"a": "é" * 250_000}], ids=["small", "large"])
@pytest.mark.parametrize("make", [alert, change])
def test_an_event_that_is_written_is_read_again_also_without_a_version(make: Any, content: dict[str, str]) -> None:
    event = make(content=content, service="checkout", occurred_at=OCCURRED_AT)
    message = json.loads(body(event))
    unversioned = {name: value for name, value in message.items() if name != "version"}

    assert sqs.read(json.dumps(message)) == sqs.read(json.dumps(unversioned)) == event


def test_ids_are_hexadecimal_and_never_too_long() -> None:
    entry = sqs.write(alert(dedup_key="☃" * 200, message_id=" spaces and\nlines"), 0)

    assert len(bytes.fromhex(entry["MessageGroupId"])) == len(bytes.fromhex(entry["MessageDeduplicationId"])) == 32


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        (alert(), alert(action="resolve", message_id="m-2"), True),
        (alert(), alert(dedup_key="incident-2"), False),
        (alert(), alert(service="checkout"), False),
        (change("m-1"), change("m-2"), False),
        (change(None), change(None), False),
    ],
    ids=["an incident", "two incidents", "two services", "two changes", "two changes without an id"],
)
def test_the_events_of_an_incident_share_a_group(first: Event, second: Event, *, is_shared: bool) -> None:
    groups = {sqs.write(event, 0)["MessageGroupId"] for event in (first, second)}
    assert len(groups) == (1 if is_shared else 2)


@pytest.mark.parametrize(
    ("first", "second", "is_retry"),
    [
        (alert(), alert(), True),
        (alert(), alert(service="checkout"), False),
        (alert(), alert(action="resolve", content=RESOLVE), False),
        (alert(), alert(message_id="m-2"), False),
        (alert(message_id=None), alert(message_id=None), False),
    ],
    ids=["a retry", "two services", "trigger and resolve", "two ids", "no id"],
)
def test_a_retry_of_rudderstack_has_the_deduplication_id_of_the_event(
    first: Event, second: Event, *, is_retry: bool
) -> None:
    ids = {sqs.write(event, 0)["MessageDeduplicationId"] for event in (first, second)}
    assert len(ids) == (1 if is_retry else 2)


INVALID: list[dict[str, Any]] = [
    {"version": 2},
    {"kind": "page"},
    {"service": 7},
    {"service": "a/b"},
    {"message_id": 7},
    {"dedup_key": ["a"]},
    {"action": "resolved"},
    {"event": [1]},
    {"event": {"payload": float("nan")}},
    {"event_base64": "%"},
    {"occurred_at": "yesterday"},
    {"occurred_at": "0001-01-01T00:00:00+10:00"},
]


@pytest.mark.parametrize("message", ["hello", "[]", "{}", "[" * 100_000, *INVALID], ids=lambda value: str(value)[:40])
def test_a_message_that_the_api_function_cannot_have_written_is_unreadable(message: str | dict[str, Any]) -> None:
    text = message if isinstance(message, str) else json.dumps(json.loads(body(alert())) | message)

    with pytest.raises(ProcessingError) as caught:
        sqs.read(text)
    assert caught.value.outcome.code == "message_unreadable"
