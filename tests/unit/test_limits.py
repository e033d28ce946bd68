"""An event is cut to PagerDuty's 512,000 bytes: the page is sent, and as much of the rest as fits."""

import copy
import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest

import limits
from event import Event

LIMIT = 512_000
ROUTING_KEY = b"0123456789abcdef0123456789abcdef"
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


def fit(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Fit an event, and return what PagerDuty gets, and the fields of the warnings."""
    fitted = limits.fit_to_limits(Event("payments", "alert", content))
    posted = b'{"routing_key":"' + ROUTING_KEY + b'",' + fitted.body[1:]
    assert len(posted) <= LIMIT
    assert json.loads(posted) == {"routing_key": ROUTING_KEY.decode(), **fitted.content}
    return fitted.content, [warning.partition(":")[0] for warning in fitted.warnings]


def details_of(details: dict[str, Any]) -> dict[str, Any]:
    """Fit an alert with these details, and return those that PagerDuty gets."""
    fitted: dict[str, Any] = fit(alert(details))[0]["payload"]["custom_details"]
    return fitted


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(alert(), id="an alert"),
        pytest.param(alert({}), id="empty details"),
        pytest.param(alert({"a": "é" * 255_500}), id="two-byte characters"),
        pytest.param(alert({"a": "🚨" * 127_750}), id="four-byte characters"),
        pytest.param(alert({str(n): n for n in range(30_000)}), id="many details"),
        pytest.param(alert(links=links(500, 1000)), id="many links"),
        pytest.param({"event_action": "resolve", "dedup_key": "disk"}, id="a resolve"),
        pytest.param({"payload": {"summary": "Deployed"}}, id="a change event"),
    ],
)
def test_an_event_that_fits_is_sent_as_it_is(event: dict[str, Any]) -> None:
    assert fit(event) == (copy.deepcopy(event), [])


@pytest.mark.parametrize(("size", "is_cut"), [(LIMIT - 64, False), (LIMIT - 63, True), (LIMIT + 1, True)])
def test_the_routing_key_counts_with_64_bytes(size: int, *, is_cut: bool) -> None:
    event = alert({"a": "x" * (size - len(Event("payments", "alert", alert({"a": ""})).body))})

    assert fit(event)[1] == (["properties.customDetails"] if is_cut else [])


# -- custom details --------------------------------------------------------------------------------------------------


def test_a_note_replaces_the_largest_detail_and_nothing_else_changes() -> None:
    more = {"links": links(2, 50), "images": images(2, 50)}

    fitted, warnings = fit(alert({"z": 1, "dump": "x" * HUGE, "a": "db-1"}, **more))

    note = "[left out: 600,002 bytes, more than PagerDuty accepts]"
    assert fitted == alert({"z": 1, "dump": note, "a": "db-1"}, **more)
    assert list(fitted["payload"]["custom_details"]) == ["z", "dump", "a"]
    assert warnings == ["properties.customDetails"]


@pytest.mark.parametrize(
    ("details", "replaced"),
    [
        pytest.param({"c": "x" * 100_000, "b": "x" * 200_000, "a": "x" * 300_000}, "a", id="the largest"),
        pytest.param({"a": "x" * 600_000, "b": "x" * 400_000, "c": "x" * 200_000}, "ab", id="two"),
        pytest.param({"a": "x" * 600_000, "b": "x" * 600_000, "c": "x" * 600_000}, "abc", id="all"),
        pytest.param({"a": "x" * 512_000, "b": "x" * 10, "c": "x" * 1000}, "a", id="just too large"),
        pytest.param({"a": "🚨" * 200_000, "b": "x" * 300_000}, "a", id="800,000 bytes of 200,000 characters"),
        pytest.param({"a": "\x00" * 100_000, "b": "x" * 300_000}, "a", id="600,000 bytes of 100,000 escapes"),
        pytest.param({"a": {"b": "x" * HUGE}, "b": ["x" * 1000] * 400}, "a", id="an object"),
        pytest.param({"a": [[{"b": "x" * 1000}] * 600], "b": ["x" * 1000] * 400}, "a", id="an array"),
    ],
)
def test_as_few_details_are_replaced_as_necessary_largest_first(details: dict[str, Any], replaced: str) -> None:
    fitted = details_of(details)

    assert {name for name in details if fitted[name] != details[name]} == set(replaced)


@pytest.mark.parametrize(
    "details",
    [
        pytest.param({str(n): n for n in range(60_000)}, id="many small ones"),
        pytest.param({str(n): 0 for n in range(110_000)}, id="more than can fit"),
        pytest.param({"x" * HUGE: "y" * HUGE, "free": "1%"}, id="a huge name"),
        pytest.param({"dump": "x" * 300_000} | {f"detail {n}": "x" * 20 for n in range(20_000)}, id="a large one too"),
    ],
)
def test_one_note_replaces_details_that_are_too_many_or_have_too_long_names(details: dict[str, Any]) -> None:
    note = {"note": f"[left out: {len(details):,} custom details, more than PagerDuty accepts]"}

    assert fit(alert(details, links=links(2, 50)))[0] == alert(note, links=links(2, 50))


# -- images, links and texts -----------------------------------------------------------------------------------------

LOG, LARGE_LOG = {"log": "x" * 3000}, {"log": "x" * 300_000}
IMAGES, LARGE_IMAGES, HUGE_IMAGES = ({"images": images(count, 1000)} for count in (2, 300, 600))
LINKS, LARGE_LINKS, HUGE_LINKS = ({"links": links(count, 1000)} for count in (2, 300, 600))
IMAGES_LEFT_OUT, LINKS_LEFT_OUT, DETAILS_LEFT_OUT = (
    f"properties.{name}" for name in ("imageURLs", "linkURLs", "customDetails")
)
NOTE = {"log": "[left out: 300,002 bytes, more than PagerDuty accepts]"}
HUGE_NOTE = {"log": "[left out: 600,002 bytes, more than PagerDuty accepts]"}


@pytest.mark.parametrize(
    ("event", "fitted", "warnings"),
    [
        pytest.param(alert(LOG, **HUGE_IMAGES, **LINKS), alert(LOG, **LINKS), [IMAGES_LEFT_OUT], id="images"),
        pytest.param(alert(LOG, **HUGE_LINKS, **IMAGES), alert(LOG, **IMAGES), [LINKS_LEFT_OUT], id="links"),
        pytest.param(alert({"a": 1}, **HUGE_IMAGES), alert({"a": 1}), [IMAGES_LEFT_OUT], id="a note saves nothing"),
        pytest.param(alert(LARGE_LOG, **HUGE_LINKS), alert(LARGE_LOG), [LINKS_LEFT_OUT], id="links, not large details"),
        pytest.param(
            alert(**LARGE_IMAGES, **LARGE_LINKS), alert(**LARGE_LINKS), [IMAGES_LEFT_OUT], id="images before links"
        ),
        pytest.param(
            alert(**HUGE_IMAGES, **HUGE_LINKS), alert(), [IMAGES_LEFT_OUT, LINKS_LEFT_OUT], id="images and links"
        ),
        pytest.param(
            alert({"log": "x" * HUGE}, **LINKS, **HUGE_IMAGES),
            alert(HUGE_NOTE, **LINKS),
            [DETAILS_LEFT_OUT, IMAGES_LEFT_OUT],
            id="details and images",
        ),
        pytest.param(
            alert(LARGE_LOG, **LARGE_IMAGES), alert(NOTE, **LARGE_IMAGES), [DETAILS_LEFT_OUT], id="details are enough"
        ),
        pytest.param(
            alert(LOG, **LINKS, client="🚨" * HUGE), alert(LOG, **LINKS, client="🚨" * 1024), ["texts"], id="texts"
        ),
    ],
)
def test_as_little_as_possible_is_left_out(event: dict[str, Any], fitted: dict[str, Any], warnings: list[str]) -> None:
    assert fit(event) == (fitted, warnings)


def test_what_pages_stays_when_everything_else_is_huge() -> None:
    more = {"images": images(600, 1000), "links": links(600, 1000)}
    event = alert({"dump": "x" * HUGE, "y" * HUGE: 1}, **more, client="c" * HUGE, client_url="u" * HUGE)
    event["payload"] |= dict.fromkeys(["source", "group", "class", "component"], "\x00" * HUGE)
    event["payload"]["timestamp"] = "2026-06-30T11:00:00Z"
    before = copy.deepcopy(event)

    fitted, warnings = fit(event)

    assert fitted["payload"] == {
        "summary": "Disk full",
        "severity": "critical",
        "timestamp": "2026-06-30T11:00:00Z",
        **dict.fromkeys(["source", "group", "class", "component"], "\x00" * 1024),
        "custom_details": {"note": "[left out: 2 custom details, more than PagerDuty accepts]"},
    }
    assert (fitted["event_action"], fitted["dedup_key"]) == ("trigger", "disk")
    assert warnings == ["properties.customDetails", "properties.imageURLs", "properties.linkURLs", "texts"]
    assert event == before


def test_a_huge_timestamp_is_left_out() -> None:
    event = alert()
    event["payload"]["timestamp"] = f"2026-06-30T11:00:00.{'0' * HUGE}Z"

    assert fit(event)[0] == alert()


def test_an_event_that_is_cut_keeps_its_warnings_and_everything_else() -> None:
    event = Event(
        service="payments",
        kind="change",
        content={"payload": {"summary": "Deployed", "custom_details": {"log": "x" * HUGE}}},
        message_id="m-1",
        occurred_at=datetime(2026, 6, 30, 11, tzinfo=UTC),
        warnings=("event: cut",),
    )

    fitted = limits.fit_to_limits(event)

    assert fitted.warnings[0] == "event: cut"
    assert dataclasses.replace(fitted, content=event.content, warnings=event.warnings) == event


# -- values and dedup keys -------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize("value", ["text", None, {}, nested(100), {"a": nested(99)}, [{"a": nested(98)}] * 10])
def test_100_levels_are_no_problem(value: Any) -> None:
    assert limits.ValueLimit().problem(value) is None


@pytest.mark.parametrize("value", [nested(101), nested(900), {"a": [], "b": nested(100)}, [[], {"a": nested(99)}]])
def test_more_than_100_levels_are_a_problem(value: Any) -> None:
    assert limits.ValueLimit().problem(value) == "nested deeper than 100 levels"


def test_no_more_values_are_counted_than_are_left() -> None:
    value_limit = limits.ValueLimit(10)

    assert value_limit.problem([[1, 2, 3], {"a": 4, "b": 5}]) is None
    assert value_limit.left == 3
    # Its levels would be the problem if they were counted.
    assert value_limit.problem([1, 2, 3, 4, nested(101)]) == "more values than are accepted"
    assert value_limit.problem([1]) == "more values than are accepted"
    assert value_limit.problem("a text") is None
    assert limits.ValueLimit(100).problem(nested(101)) == "nested deeper than 100 levels"


@pytest.mark.parametrize(("values", "left"), [(10, 1000), (2000, 1989)])
def test_each_event_of_a_request_has_a_thousand_values_at_least(values: int, left: int) -> None:
    value_limit = limits.ValueLimit(values)
    value_limit.problem([0] * 11)

    value_limit.begin_event()

    assert value_limit.left == left
    assert value_limit.problem([0] * left) is None


def test_a_dedup_key_over_255_characters_is_replaced_by_its_sha_256() -> None:
    assert limits.fit_dedup_key("🚨" * 255) == "🚨" * 255
    assert limits.fit_dedup_key("🚨" * 256) == hashlib.sha256(("🚨" * 256).encode()).hexdigest()
    assert limits.fit_dedup_key("k" * 255 + "1") != limits.fit_dedup_key("k" * 255 + "2")


def test_the_limits_are_pagerdutys() -> None:
    assert (limits.MAX_SUMMARY, limits.MAX_DEDUP_KEY, limits.MAX_EVENT_BYTES) == (1024, 255, 512_000)
