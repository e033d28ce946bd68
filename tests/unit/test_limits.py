"""How an event is fitted into PagerDuty's 512,000 bytes: the page goes out, and of the rest as much as can."""

import copy
import dataclasses
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

import limits
from event import ACTIONS, SEVERITIES, Event, encode

LIMIT = 512_000
ROUTING_KEY = b"0123456789abcdef0123456789abcdef"
# Bytes of one field that, with the rest of a small event, just fits.
NEARLY = 511_000
HUGE = 600_000


def alert(details: Any = None, **more: Any) -> dict[str, Any]:
    payload = {"summary": "Disk full", "severity": "critical", "source": "db-1"}
    if details is not None:
        payload |= {"custom_details": details}
    return {"event_action": "trigger", "dedup_key": "disk", "payload": payload, **more}


def links(count: int, size: int) -> list[dict[str, str]]:
    return [{"href": f"https://a.example/{n:06}".ljust(size, "x")} for n in range(count)]


def images(count: int, size: int) -> list[dict[str, str]]:
    return [{"src": f"https://a.example/{n:06}".ljust(size, "x")} for n in range(count)]


def fit(content: dict[str, Any], *warnings: str) -> Event:
    return limits.fit_to_limits(Event("payments", "alert", content, warnings=warnings))


def sent(content: dict[str, Any]) -> dict[str, Any]:
    """Fit the event, check what is so for every one, and return what PagerDuty reads."""
    fitted = fit(content)
    posted = b'{"routing_key":"' + ROUTING_KEY + b'",' + fitted.body[1:]
    assert len(posted) <= LIMIT
    read: dict[str, Any] = json.loads(posted)
    assert read == {"routing_key": ROUTING_KEY.decode(), **fitted.content}
    return fitted.content


def fields(event: dict[str, Any]) -> list[str]:
    return [warning.partition(":")[0] for warning in fit(event).warnings]


# -- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        alert(),
        alert({}),
        alert({"free": "1%", "nested": {"a": [1, 2.5, None, True, {}]}}),
        alert({"a": "x" * NEARLY}),
        alert({"a": "é" * (NEARLY // 2)}),
        alert({"a": "🚨" * (NEARLY // 4)}),
        alert({"a": "\x00" * (NEARLY // 6)}),
        alert({str(n): n for n in range(30_000)}),
        alert(links=links(500, 1000)),
        alert(images=images(500, 1000)),
        {"event_action": "resolve", "dedup_key": "disk"},
        {"payload": {"summary": "Deployed"}},
    ],
    ids=[
        "an alert",
        "empty details",
        "details",
        "a large detail",
        "a large detail of two-byte characters",
        "a large detail of four-byte characters",
        "a large detail of control characters",
        "many details",
        "many links",
        "many images",
        "a resolve",
        "a change event",
    ],
)
def test_an_event_that_fits_goes_out_as_it_is(event: dict[str, Any]) -> None:
    before = copy.deepcopy(event)

    assert sent(event) == before
    assert fields(event) == []


def test_the_encoding_spends_no_byte_on_spaces_or_escapes() -> None:
    assert encode({"a": ["é", "🚨", 1, 2.5, None, True], "ü": {}}) == (
        '{"a":["é","🚨",1,2.5,null,true],"ü":{}}'.encode()
    )


def test_half_a_surrogate_pair_does_not_stop_the_encoding() -> None:
    halves = {"\ud83d": "high", "low": "\udea8", "wrong way round": "a\udea8\ud83db", "a pair": "🚨"}

    assert json.loads(encode(halves)) == {
        "?": "high",
        "low": "?",
        "wrong way round": "a??b",
        "a pair": "🚨",
    }


@pytest.mark.parametrize("size", [LIMIT - 400, LIMIT - 300, LIMIT - 200, LIMIT - 150, LIMIT - 100, LIMIT, LIMIT + 1])
def test_with_the_routing_key_in_it_the_event_never_has_a_byte_too_many(size: int) -> None:
    event = alert({"a": "x" * (size - len(encode(alert({"a": ""}))))})

    assert len(encode(event)) == size
    assert sent(event)["payload"]["summary"] == "Disk full"


# -- custom details go first -----------------------------------------------------------------------------------------


def test_the_largest_detail_is_replaced_by_a_note_and_nothing_else_changes() -> None:
    event = alert({"free": "1%", "dump": "x" * HUGE, "host": "db-1"}, links=links(2, 50), images=images(2, 50))

    fitted = sent(event)

    note = fitted["payload"]["custom_details"].pop("dump")
    assert "left out" in note
    assert "600,002 bytes" in note
    assert fitted == alert({"free": "1%", "host": "db-1"}, links=links(2, 50), images=images(2, 50))
    assert fields(event) == ["properties.customDetails"]


@pytest.mark.parametrize(
    ("sizes", "replaced"),
    [
        ({"a": 300_000, "b": 200_000, "c": 100_000}, {"a"}),
        ({"c": 100_000, "b": 200_000, "a": 300_000}, {"a"}),
        ({"a": 500_000, "b": 400_000, "c": 100_000}, {"a"}),
        ({"a": 600_000, "b": 400_000, "c": 200_000}, {"a", "b"}),
        ({"a": 600_000, "b": 600_000, "c": 600_000}, {"a", "b", "c"}),
        ({"a": 512_000, "b": 10, "c": 1000}, {"a"}),
    ],
)
def test_no_more_details_are_replaced_than_it_takes_the_largest_first(
    sizes: dict[str, int], replaced: set[str]
) -> None:
    details = {key: "x" * size for key, size in sizes.items()}

    fitted = sent(alert(details))["payload"]["custom_details"]

    assert {key for key in details if fitted[key] != details[key]} == replaced


def test_the_details_keep_their_order() -> None:
    details = {"z": 1, "dump": "x" * HUGE, "a": 2}

    assert list(sent(alert(details))["payload"]["custom_details"]) == ["z", "dump", "a"]


def test_bytes_count_and_not_characters() -> None:
    # 200,000 characters are 800,000 bytes, 300,000 characters 300,000.
    details = {"sirens": "🚨" * 200_000, "dump": "x" * 300_000}

    fitted = sent(alert(details))["payload"]["custom_details"]

    assert fitted["dump"] == details["dump"]
    assert "800,002 bytes" in fitted["sirens"]


def test_escapes_count() -> None:
    # 100,000 control characters are 600,000 bytes.
    details = {"zeros": "\x00" * 100_000, "dump": "x" * 300_000}

    fitted = sent(alert(details))["payload"]["custom_details"]

    assert fitted["dump"] == details["dump"]


@pytest.mark.parametrize(
    "value",
    [{"a": {"b": "x" * HUGE}}, list(range(200_000)), [[{"a": "x" * 1000}] * 600]],
    ids=["an object", "an array", "arrays of objects"],
)
def test_a_detail_of_any_kind_can_be_the_largest(value: Any) -> None:
    details = {"dump": value, "more": ["x" * 1000] * 400, "free": "1%"}

    fitted = sent(alert(details))["payload"]["custom_details"]

    assert "left out" in fitted["dump"]
    assert (fitted["more"], fitted["free"]) == (details["more"], "1%")


def test_details_that_were_wrapped_are_replaced_where_they_were() -> None:
    fitted = sent(alert({"customDetails": "x" * HUGE}))["payload"]["custom_details"]

    assert list(fitted) == ["customDetails"]
    assert "left out" in fitted["customDetails"]


@pytest.mark.parametrize(
    "details",
    [
        {str(n): n for n in range(60_000)},
        {f"detail {n}": "x" * 20 for n in range(20_000)},
        {"x" * HUGE: 1},
        {"x" * HUGE: "y" * HUGE, "free": "1%"},
        {str(n) * 1000: n for n in range(1000)},
        {"dump": "x" * 300_000} | {f"detail {n}": "x" * 20 for n in range(20_000)},
    ],
    ids=[
        "many tiny ones",
        "many small ones",
        "a huge key",
        "a huge key and value",
        "large keys",
        "a huge and many small",
    ],
)
def test_details_too_many_or_too_long_in_their_names_give_way_to_one_note(details: dict[str, Any]) -> None:
    fitted = sent(alert(details, links=links(2, 50)))

    assert "left out" in json.dumps(fitted["payload"].pop("custom_details"))
    assert fitted == alert(links=links(2, 50))


def test_the_details_of_a_change_event_give_way_too() -> None:
    event = {"payload": {"summary": "Deployed", "custom_details": {"log": "x" * HUGE, "build": 7}}}

    fitted = sent(event)["payload"]

    assert fitted["summary"] == "Deployed"
    assert fitted["custom_details"]["build"] == 7


# -- then images, then links -----------------------------------------------------------------------------------------


def test_images_give_way_when_there_is_no_detail_to_take() -> None:
    event = alert(images=images(600, 1000), links=links(2, 50))

    assert sent(event) == alert(links=links(2, 50))
    assert fields(event) == ["properties.imageURLs"]


def test_details_stay_when_a_note_in_their_stead_would_save_nothing() -> None:
    event = alert({"a": 1}, images=images(600, 1000))

    assert sent(event) == alert({"a": 1})
    assert fields(event) == ["properties.imageURLs"]


def test_images_give_way_before_links() -> None:
    event = alert(images=images(300, 1000), links=links(300, 1000))

    assert sent(event) == alert(links=links(300, 1000))
    assert fields(event) == ["properties.imageURLs"]


def test_images_stay_when_the_details_are_enough() -> None:
    event = alert({"dump": "x" * 300_000}, images=images(300, 1000))

    assert sent(event)["images"] == images(300, 1000)
    assert fields(event) == ["properties.customDetails"]


@pytest.mark.parametrize("count", [1, 600], ids=["one that is huge", "many"])
def test_links_give_way_when_they_are_what_is_too_much(count: int) -> None:
    event = alert(links=links(count, HUGE // count))

    assert sent(event) == alert()
    assert fields(event) == ["properties.linkURLs"]


def test_images_and_links_give_way_when_each_is_too_much() -> None:
    event = alert(images=images(600, 1000), links=links(600, 1000))

    assert sent(event) == alert()
    assert fields(event) == ["properties.imageURLs", "properties.linkURLs"]


def test_links_give_way_to_details_when_they_alone_are_too_much() -> None:
    details = {"log": "x" * 3000}
    event = alert(details, links=links(2, HUGE // 2), images=images(2, 50))

    assert sent(event) == alert(details, images=images(2, 50))
    assert fields(event) == ["properties.linkURLs"]


def test_large_details_stay_when_leaving_out_links_is_enough() -> None:
    event = alert({"log": "x" * 300_000}, links=links(600, 1000))

    assert sent(event) == alert({"log": "x" * 300_000})
    assert fields(event) == ["properties.linkURLs"]


def test_links_stay_when_details_and_images_are_enough() -> None:
    event = alert({"log": "x" * HUGE, "free": "1%"}, links=links(2, 50), images=images(600, 1000))

    fitted = sent(event)

    assert (fitted["links"], fitted["payload"]["custom_details"]["free"]) == (links(2, 50), "1%")
    assert fields(event) == ["properties.customDetails", "properties.imageURLs"]


def test_details_links_and_images_stay_when_texts_alone_are_too_much() -> None:
    more = {"links": links(2, 50), "images": images(2, 50)}
    event = alert({"log": "x" * 3000}, **more, client="c" * HUGE)

    assert sent(event) == alert({"log": "x" * 3000}, **more, client="c" * 1024)
    assert fields(event) == ["texts"]


# -- then texts are cut ----------------------------------------------------------------------------------------------

PAYLOAD_TEXTS = ["source", "group", "class", "component"]
CLIENT_TEXTS = ["client", "client_url"]


@pytest.mark.parametrize("name", [*PAYLOAD_TEXTS, *CLIENT_TEXTS])
@pytest.mark.parametrize("character", ["x", "é", "🚨", "\x00", '"'])
def test_a_huge_text_is_cut_between_characters(name: str, character: str) -> None:
    event = alert()
    part = event if name in CLIENT_TEXTS else event["payload"]
    part[name] = character * HUGE

    fitted = sent(event)

    part = fitted if name in CLIENT_TEXTS else fitted["payload"]
    assert set(part[name]) == {character}
    assert len(part[name]) >= 255


def test_what_pages_stays_when_everything_else_is_huge() -> None:
    event = alert(
        {"dump": "x" * HUGE, "y" * HUGE: 1}, images=images(600, 1000), links=links(600, 1000), client="c" * HUGE
    )
    event["client_url"] = "u" * HUGE
    event["payload"] |= dict.fromkeys(PAYLOAD_TEXTS, "🚨" * HUGE)
    event["payload"] |= {"summary": "s" * 1024, "timestamp": "2026-06-30T11:00:00Z"}
    event["dedup_key"] = "k" * 255

    fitted = sent(event)

    assert (fitted["event_action"], fitted["dedup_key"]) == ("trigger", "k" * 255)
    assert fitted["payload"].items() >= {
        ("summary", "s" * 1024),
        ("severity", "critical"),
        ("timestamp", "2026-06-30T11:00:00Z"),
    }
    assert fields(event) == ["properties.customDetails", "properties.imageURLs", "properties.linkURLs", "texts"]


def test_a_timestamp_that_is_cut_would_be_none() -> None:
    event = alert()
    event["payload"]["timestamp"] = f"2026-06-30T11:00:00.{'0' * HUGE}Z"

    timestamp = sent(event)["payload"].get("timestamp")

    assert timestamp is None or re.fullmatch(r"2026-06-30T11:00:00(\.0+)?(Z|\+00:00)", timestamp)


# -- and the event itself --------------------------------------------------------------------------------------------


def test_the_event_passed_in_is_never_changed() -> None:
    event = alert(
        {"dump": "x" * HUGE, "free": "1%"}, images=images(600, 1000), links=links(600, 1000), client="c" * HUGE
    )
    before = copy.deepcopy(event)

    fit(event)

    assert event == before


def test_what_was_warned_of_before_is_still_warned_of() -> None:
    assert fit(alert(), "event: cut").warnings == ("event: cut",)
    assert [warning.partition(":")[0] for warning in fit(alert({"dump": "x" * HUGE}), "event: cut").warnings] == [
        "event",
        "properties.customDetails",
    ]


def test_fitting_changes_nothing_but_content_and_warnings() -> None:
    event = Event(
        service="payments",
        kind="alert",
        content=alert({"dump": "x" * HUGE}),
        action="trigger",
        dedup_key="disk",
        message_id="m-1",
        occurred_at=datetime(2026, 6, 30, 11, tzinfo=UTC),
    )

    fitted = limits.fit_to_limits(event)

    assert dataclasses.replace(fitted, content=event.content, warnings=()) == event


# -- how much is looked at -------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize("value", [5, "text", None, {}, [], nested(100), {"a": nested(99)}, [{"a": nested(98)}] * 10])
def test_what_is_nested_100_levels_deep_is_no_problem(value: Any) -> None:
    assert limits.ValueLimit().problem(value) is None


@pytest.mark.parametrize("value", [nested(101), nested(900), {"a": [], "b": nested(100)}, [[], {"a": nested(99)}]])
def test_what_is_nested_deeper_is_one(value: Any) -> None:
    assert limits.ValueLimit().problem(value) == "nested deeper than 100 levels"


def test_no_more_values_are_looked_at_than_are_left() -> None:
    value_limit = limits.ValueLimit(10)

    assert value_limit.problem([[1, 2, 3], {"a": 4, "b": 5}]) is None
    assert value_limit.left == 3
    # What is nested too deep would be found, were it looked at.
    assert value_limit.problem([1, 2, 3, 4, nested(101)]) == "more values than are taken"
    assert value_limit.problem([1]) == "more values than are taken"
    assert value_limit.problem("a text") is None


def test_each_event_of_a_request_may_have_some_values() -> None:
    value_limit = limits.ValueLimit(10)
    value_limit.problem([0] * 11)

    value_limit.begin_event()

    assert value_limit.problem([0] * 1000) is None


# -- dedup keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["k", "k" * 255, "é" * 255, "🚨" * 255, "\ud83d" * 255])
def test_a_dedup_key_of_up_to_255_characters_stays_as_it_is(key: str) -> None:
    assert limits.fit_dedup_key(key) == key


@pytest.mark.parametrize("key", ["k" * 256, "é" * 256, "🚨" * 256, "k" * 1_000_000])
def test_a_longer_dedup_key_becomes_its_sha_256_in_hex(key: str) -> None:
    assert limits.fit_dedup_key(key) == hashlib.sha256(key.encode()).hexdigest()


# -- the numbers -----------------------------------------------------------------------------------------------------


def test_the_limits_are_pagerdutys() -> None:
    assert (limits.MAX_SUMMARY, limits.MAX_DEDUP_KEY, limits.MAX_EVENT_BYTES) == (1024, 255, 512_000)
    assert set(ACTIONS) == {"trigger", "acknowledge", "resolve"}
    assert set(SEVERITIES) == {"critical", "error", "warning", "info"}
