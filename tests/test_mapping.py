"""What each RudderStack event becomes, case by case: the cases are data, in `mapping/*.json`."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import limits
from errors import Ignored, Rejected
from mapping import Rules, map_event

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
ACKNOWLEDGE_AND_RESOLVE = ["acknowledge", "resolve"]


CASES_OF: dict[str, list[dict[str, Any]]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parent / "mapping").glob("*.json"))
}
ALL_CASES = [case for cases in CASES_OF.values() for case in cases]


def rules_of(case: dict[str, Any]) -> Rules:
    rules = dict(case.get("rules", {}))
    if "dedup_key_field" in rules:
        rules["dedup_key_field"] = tuple(rules["dedup_key_field"].split("."))
    return Rules(**rules)


def outcome_of(case: dict[str, Any]) -> dict[str, Any]:
    """Map the case's event and describe the result in the words of the data."""
    try:
        mapped = map_event(case["event"], rules_of(case), NOW)
    except Ignored as error:
        return {"ignored": error.code}
    except Rejected as error:
        return {"rejected": {"code": error.code, "field": error.message.partition(":")[0]}}
    warnings = [warning.partition(":")[0] for warning in mapped.warnings]
    return {"sent": {"kind": mapped.kind, "event": mapped.event, "warnings": warnings}}


def written_out(value: Any) -> str:
    # As text, because to Python 1, 1.0 and True are equal; to PagerDuty they are not.
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def alert(**properties: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Disk full", "properties": {"source": "db-1", **properties}}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{theme}: {case['name']}") for theme, cases in CASES_OF.items() for case in cases],
)
def test_an_event_becomes_what_the_case_says(case: dict[str, Any]) -> None:
    expected = {key: case[key] for key in ("sent", "ignored", "rejected") if key in case}

    assert written_out(outcome_of(case)) == written_out(expected)


def test_the_event_passed_in_is_never_changed() -> None:
    before = [written_out(case) for case in ALL_CASES]

    for case in ALL_CASES:
        outcome_of(case)

    assert [written_out(case) for case in ALL_CASES] == before


def test_every_theme_has_cases() -> None:
    assert set(CASES_OF) == {
        "action",
        "alert",
        "change_event",
        "custom_details",
        "dedup_key",
        "kind",
        "links_and_images",
        "severity",
        "shape",
        "source",
        "summary",
        "texts",
        "timestamp",
        "type",
    }


# -- what else is known of a mapped event ----------------------------------------------------------------------------


def test_a_mapped_trigger_tells_its_action_key_id_and_time() -> None:
    event = alert(dedupKey="disk") | {"messageId": "m-1", "originalTimestamp": "2026-06-30T13:00:00+02:00"}

    mapped = map_event(event, Rules(), NOW)

    assert (mapped.kind, mapped.action, mapped.dedup_key, mapped.message_id, mapped.occurred_at) == (
        "alert",
        "trigger",
        "disk",
        "m-1",
        datetime(2026, 6, 30, 11, tzinfo=UTC),
    )


@pytest.mark.parametrize("action", ACKNOWLEDGE_AND_RESOLVE)
def test_a_mapped_acknowledge_or_resolve_tells_its_action_key_and_id(action: str) -> None:
    mapped = map_event(alert(dedupKey="disk", action=action.upper()) | {"messageId": "m-1"}, Rules(), NOW)

    assert (mapped.kind, mapped.action, mapped.dedup_key, mapped.message_id) == ("alert", action, "disk", "m-1")


def test_a_mapped_change_event_has_no_action_and_no_key_and_tells_its_id_and_time() -> None:
    event = {
        "type": "track",
        "event": "Deployed",
        "messageId": "m-1",
        "timestamp": "2026-06-30T11:00:00Z",
        "properties": {"dedupKey": "disk", "action": "resolve"},
        "integrations": {"pagerduty": {"type": "changeEvent"}},
    }

    mapped = map_event(event, Rules(), NOW)

    assert (mapped.kind, mapped.action, mapped.dedup_key, mapped.message_id, mapped.occurred_at) == (
        "change",
        None,
        None,
        "m-1",
        datetime(2026, 6, 30, 11, tzinfo=UTC),
    )


def test_a_trigger_takes_its_message_id_as_its_key_and_says_so() -> None:
    mapped = map_event(alert() | {"messageId": "m-1"}, Rules(), NOW)

    assert mapped.dedup_key == "m-1"


def test_an_event_without_key_id_and_time_has_none_of_them() -> None:
    mapped = map_event(alert(), Rules(), NOW)

    assert (mapped.dedup_key, mapped.message_id, mapped.occurred_at) == (None, None, None)


# -- what data cannot say well ---------------------------------------------------------------------------------------

DEEP = nested(100_000)


@pytest.mark.parametrize("key", ["k" * 256, "é" * 256, "🚨" * 100_000, "\ud83d" * 256])
def test_an_over_long_dedup_key_is_the_same_hash_for_trigger_acknowledge_and_resolve(key: str) -> None:
    keys = {
        map_event(alert(dedupKey=key, action=action), Rules(), NOW).event["dedup_key"]
        for action in ("trigger", "acknowledge", "resolve")
    }

    assert keys == {hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()}


def test_two_over_long_dedup_keys_that_differ_at_their_end_stay_two() -> None:
    one, other = (map_event(alert(dedupKey="k" * 300 + end), Rules(), NOW).dedup_key for end in "12")

    assert one != other


def test_custom_details_of_100_levels_go_out_as_they_are() -> None:
    details = nested(100)

    assert map_event(alert(customDetails=details), Rules(), NOW).event["payload"]["custom_details"] is details


@pytest.mark.parametrize("details", [nested(101), DEEP, [[DEEP]]], ids=["101 levels", "100,000 levels", "in arrays"])
def test_custom_details_nested_too_deep_are_replaced_and_the_page_goes_out(details: Any) -> None:
    mapped = map_event(alert(customDetails=details), Rules(), NOW)

    sent = json.loads(limits.fit(mapped.event).body)["payload"]
    assert sent["summary"] == "Disk full"
    assert list(sent["custom_details"]) == ["note"]
    assert [warning.partition(":")[0] for warning in mapped.warnings] == ["properties.customDetails"]


@pytest.mark.parametrize(
    "name", ["severity", "dedupKey", "linkURLs", "imageURLs", "group", "class", "component", "client", "clientUrl"]
)
def test_100000_levels_in_any_other_property_are_left_out(name: str) -> None:
    mapped = map_event(alert(**{name: DEEP}), Rules(), NOW)

    assert mapped.event == map_event(alert(), Rules(), NOW).event
    assert [warning.partition(":")[0] for warning in mapped.warnings] == [f"properties.{name}"]


@pytest.mark.parametrize("name", ["source", "action"])
def test_100000_levels_in_a_property_that_decides_are_refused(name: str) -> None:
    with pytest.raises(Rejected, match=rf"^properties\.{name}: .*an object"):
        map_event(alert(**{name: DEEP}), Rules(), NOW)


def test_20_warnings_are_all_told() -> None:
    mapped = map_event(alert(linkURLs=[None] * 20), Rules(), NOW)

    assert [warning.partition(":")[0] for warning in mapped.warnings] == [
        f"properties.linkURLs[{position}]" for position in range(20)
    ]


def test_more_than_20_warnings_are_summed_up() -> None:
    mapped = map_event(alert(linkURLs=[None] * 5000), Rules(), NOW)

    assert len(mapped.warnings) == 21
    assert mapped.warnings[-1] == "and 4,980 more"


def test_warnings_and_refusals_stay_short_whatever_is_wrong() -> None:
    mapped = map_event(alert(severity="x" * 100_000, group=["x" * 100_000]), Rules(), NOW)

    assert max(len(warning) for warning in mapped.warnings) < 200


@pytest.mark.parametrize(
    ("event", "words"),
    [
        pytest.param(5, ["event:", "an object", "5"], id="no object"),
        pytest.param({"type": "track", "properties": []}, ["properties:", "an object", "an array"], id="properties"),
        pytest.param({"event": "Disk full"}, ["type:", "track"], id="no type"),
        pytest.param({"type": "trak"}, ["type:", "track", '"trak"'], id="type"),
        pytest.param(alert(action="reslove"), ["trigger", "acknowledge", "resolve", '"reslove"'], id="action"),
        pytest.param(alert(action="resolve"), ["properties.dedupKey:", "resolve", "dedup key"], id="no dedup key"),
        pytest.param(alert(source=None), ["properties.source:", "DEFAULT_SOURCE"], id="no source"),
        pytest.param(alert(source={}), ["properties.source:", "a text", "an object"], id="source"),
        pytest.param(alert() | {"event": None}, ["event:", "name", "nothing"], id="no name"),
        pytest.param(alert() | {"timestamp": 0}, ["timestamp:", "90 days"], id="too old"),
        pytest.param(
            alert() | {"integrations": {"PagerDuty": {"type": "change"}}},
            ["integrations.PagerDuty.type:", "alertEvent", "changeEvent", '"change"'],
            id="kind",
        ),
    ],
)
def test_a_refusal_says_which_field_what_was_expected_and_what_came(event: Any, words: list[str]) -> None:
    with pytest.raises(Rejected) as refusal:
        map_event(event, Rules(), NOW)

    assert [word for word in words if word not in refusal.value.message] == []


@pytest.mark.parametrize("age", [timedelta(days=90), timedelta(0), timedelta(days=-1)])
def test_the_age_of_an_event_is_told_by_the_clock_that_is_passed_in(age: timedelta) -> None:
    moment = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)

    mapped = map_event(alert() | {"timestamp": "2001-02-03T04:05:06Z"}, Rules(), moment + age)

    assert mapped.occurred_at == moment


def test_an_event_is_too_old_by_the_clock_that_is_passed_in() -> None:
    now = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC) + timedelta(days=90, microseconds=1)

    with pytest.raises(Rejected, match=r"^timestamp: more than 90 days"):
        map_event(alert() | {"timestamp": "2001-02-03T04:05:06Z"}, Rules(), now)
