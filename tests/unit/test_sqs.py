"""Messages of the queue: how events are written and read."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

import sqs
from event import Event
from outcome import ProcessingError


def alert(**changes: Any) -> Event:
    content = {"event_action": "trigger", "dedup_key": "incident-1"}
    fields = {"content": content, "action": "trigger", "dedup_key": "incident-1", "message_id": "m"}
    return Event(**{"service": "default", "kind": "alert", **fields, **changes})


def change(**changes: Any) -> Event:
    content = {"payload": {"summary": "Deployed"}}
    return Event(**{"service": "default", "kind": "change", "content": content, "message_id": "m", **changes})


def body(event: Event) -> str:
    return sqs.write(event, 0)["MessageBody"]


def group(event: Event) -> str:
    return sqs.write(event, 0).get("MessageGroupId", "")


def deduplication_id(event: Event) -> str:
    return sqs.write(event, 0).get("MessageDeduplicationId", "")


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


@pytest.mark.parametrize("text", ["Käse ☃ 😀", "é" * 250_000], ids=["small", "large"])
@pytest.mark.parametrize("offset", [UTC, timezone(timedelta(hours=5.5))], ids=["UTC", "Delhi"])
@pytest.mark.parametrize("make", [alert, change])
def test_an_event_that_is_written_is_read_again(make: Callable[..., Event], offset: tzinfo, text: str) -> None:
    occurred_at = datetime(2026, 1, 31, 12, 0, 0, 123456, offset)
    event = make(content={"a": text}, service="checkout", occurred_at=occurred_at)

    assert sqs.read(body(event)) == event


def test_a_message_of_the_first_format_which_has_no_version_is_read() -> None:
    message = json.loads(body(alert()))
    del message["version"]

    assert sqs.read(json.dumps(message)) == alert()


def test_ids_are_hexadecimal_and_never_too_long() -> None:
    event = alert(dedup_key="☃" * 200, message_id=" spaces and\nlines")

    for identifier in (group(event), deduplication_id(event)):
        assert len(bytes.fromhex(identifier)) == 32


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        (alert(), alert(action="resolve", message_id="m-2"), True),
        (alert(), alert(dedup_key="incident-2"), False),
        (alert(), alert(service="checkout"), False),
        (change(message_id="m-1"), change(message_id="m-2"), False),
        (change(message_id=None), change(message_id=None), False),
    ],
    ids=["an incident", "two incidents", "two services", "two changes", "two changes without an id"],
)
def test_the_events_of_an_incident_share_a_group(first: Event, second: Event, *, is_shared: bool) -> None:
    assert (group(first) == group(second)) is is_shared


RESOLVE = {"event_action": "resolve", "dedup_key": "incident-1"}


@pytest.mark.parametrize(
    ("first", "second", "is_retry"),
    [
        (alert(), alert(), True),
        (change(), change(), True),
        (alert(service="a"), alert(service="b"), False),
        (alert(), alert(action="resolve", content=RESOLVE), False),
        (alert(message_id="m-1"), alert(message_id="m-2"), False),
        (alert(message_id=None), alert(message_id=None), False),
        (change(message_id=None), change(message_id=None), False),
    ],
    ids=["an alert", "a change", "two services", "trigger and resolve", "two ids", "an alert and no id", "no id"],
)
def test_a_retry_of_rudderstack_has_the_deduplication_id_of_the_event(
    first: Event, second: Event, *, is_retry: bool
) -> None:
    assert (deduplication_id(first) == deduplication_id(second)) is is_retry


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"kind": "page"},
        {"kind": None},
        {"kind": ["alert"]},
        {"service": 7},
        {"service": "a/b"},
        {"message_id": 7},
        {"dedup_key": ["a"]},
        {"action": "resolved"},
        {"action": None},
        {"event": [1]},
        {"event": None},
        {"event": {"payload": float("nan")}},
        {"event_base64": "%"},
        {"occurred_at": "yesterday"},
        {"occurred_at": 7},
        {"occurred_at": "0001-01-01T00:00:00+10:00"},
    ],
    ids=str,
)
def test_a_message_with_an_invalid_field_is_unreadable(changes: dict[str, Any]) -> None:
    message = json.dumps(json.loads(body(alert())) | changes)

    with pytest.raises(ProcessingError) as caught:
        sqs.read(message)
    assert caught.value.outcome.code == "message_unreadable"


@pytest.mark.parametrize("message", ["hello", "7", "null", "[]", "{}", "[" * 100_000], ids=lambda text: text[:9])
def test_a_message_in_another_format_is_unreadable(message: str) -> None:
    with pytest.raises(ProcessingError) as caught:
        sqs.read(message)
    assert caught.value.outcome.code == "message_unreadable"
