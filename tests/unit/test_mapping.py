"""What each RudderStack event becomes, case by case: the cases are data, in `mapping/*.json`."""

import copy
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import limits
from event import Event, decode
from mapping import map_event
from outcome import Outcome
from paths import Template, read_path, read_template
from settings import Rules, read_path_or_template

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
RULES = Rules()
FALLBACK_KEY = "fallback-key"
ACKNOWLEDGE_AND_RESOLVE = ["acknowledge", "resolve"]


CASES_OF: dict[str, list[dict[str, Any]]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parents[1] / "mapping").glob("*.json"))
}
ALL_CASES = [case for cases in CASES_OF.values() for case in cases]


def rules_of(case: dict[str, Any]) -> Rules:
    rules = dict(case.get("rules", {}))
    readers: dict[str, Any] = {
        "dedup_key_field": read_path_or_template,
        "service_field": read_path,
        "summary_template": read_template,
        "extra_details": lambda paths: tuple(map(read_path, paths)),
    }
    return Rules(**{name: readers.get(name, str)(value) for name, value in rules.items()})


def expected_of(case: dict[str, Any]) -> dict[str, Any]:
    """Return what the case says; a trigger whose dedup key it leaves open has the fallback key, and says so."""
    expected: dict[str, Any] = {key: copy.deepcopy(case[key]) for key in ("sent", "ignored", "rejected") if key in case}
    event = expected.get("sent", {}).get("event", {})
    if event.get("event_action") == "trigger":
        warnings = expected["sent"]["warnings"]
        if event.setdefault("dedup_key", FALLBACK_KEY) is FALLBACK_KEY and "properties.dedupKey" not in warnings:
            warnings.insert(0, "properties.dedupKey")
    return expected


def outcome_of(case: dict[str, Any]) -> dict[str, Any]:
    """Map the case's event and describe the result in the words of the data."""
    event = decode(case["body"]) if "body" in case else case["event"]
    mapped = map_event(
        event,
        "default",
        rules_of(case),
        NOW,
        FALLBACK_KEY,
        is_filtered=not case.get("unfiltered", False),
        is_preview=case.get("preview", False),
    )
    if isinstance(mapped, Outcome):
        if mapped.status == "ignored":
            return {"ignored": mapped.code}
        return {mapped.status: {"code": mapped.code, "field": mapped.message.partition(":")[0]}}
    warnings = [warning.partition(":")[0] for warning in mapped.warnings]
    service = {} if mapped.service == "default" else {"service": mapped.service}
    return {"sent": {"kind": mapped.kind, "event": mapped.content, "warnings": warnings, **service}}


def event_of(raw: object, rules: Rules = RULES, now: datetime = NOW) -> Event:
    """Map an event that is sent."""
    mapped = map_event(raw, "payments", rules, now, FALLBACK_KEY)
    assert isinstance(mapped, Event)
    return mapped


def refusal_of(raw: object, rules: Rules = RULES, now: datetime = NOW) -> Outcome:
    """Map an event that is not sent."""
    mapped = map_event(raw, "payments", rules, now, FALLBACK_KEY)
    assert isinstance(mapped, Outcome)
    return mapped


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
    assert written_out(outcome_of(case)) == written_out(expected_of(case))


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
        "dedup_key_template",
        "extra_details",
        "kind",
        "links_and_images",
        "names",
        "service",
        "severity",
        "shape",
        "source",
        "summary",
        "summary_template",
        "texts",
        "timestamp",
        "type",
    }


# -- what else is known of a mapped event ----------------------------------------------------------------------------


def test_a_mapped_trigger_tells_its_service_action_key_id_and_time() -> None:
    event = alert(dedupKey="disk") | {"messageId": "m-1", "originalTimestamp": "2026-06-30T13:00:00+02:00"}

    mapped = event_of(event)

    assert (mapped.service, mapped.kind, mapped.action, mapped.dedup_key, mapped.message_id, mapped.occurred_at) == (
        "payments",
        "alert",
        "trigger",
        "disk",
        "m-1",
        datetime(2026, 6, 30, 11, tzinfo=UTC),
    )


@pytest.mark.parametrize("action", ACKNOWLEDGE_AND_RESOLVE)
def test_a_mapped_acknowledge_or_resolve_tells_its_service_action_key_and_id(action: str) -> None:
    mapped = event_of(alert(dedupKey="disk", action=action.upper()) | {"messageId": "m-1"})

    assert (mapped.service, mapped.kind, mapped.action, mapped.dedup_key, mapped.message_id) == (
        "payments",
        "alert",
        action,
        "disk",
        "m-1",
    )


def test_a_mapped_change_event_has_no_action_and_no_key_and_tells_its_service_id_and_time() -> None:
    event = {
        "type": "track",
        "event": "Deployed",
        "messageId": "m-1",
        "timestamp": "2026-06-30T11:00:00Z",
        "properties": {"dedupKey": "disk", "action": "resolve"},
        "integrations": {"pagerduty": {"type": "changeEvent"}},
    }

    mapped = event_of(event)

    assert (mapped.service, mapped.kind, mapped.action, mapped.dedup_key, mapped.message_id, mapped.occurred_at) == (
        "payments",
        "change",
        None,
        None,
        "m-1",
        datetime(2026, 6, 30, 11, tzinfo=UTC),
    )


def test_a_trigger_takes_its_message_id_as_its_key_and_says_so() -> None:
    mapped = event_of(alert() | {"messageId": "m-1"})

    assert mapped.dedup_key == "m-1"


def test_a_trigger_with_neither_key_nor_message_id_has_the_fallback_key_and_no_id() -> None:
    mapped = event_of(alert())

    assert (mapped.dedup_key, mapped.message_id, mapped.occurred_at) == (FALLBACK_KEY, None, None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"properties": {"dedupKey": "disk", "action": "reslove"}}, "action_unknown"),
        ({"properties": {"dedupKey": "disk"}}, "source_missing"),
        ({"properties": {"dedupKey": "disk", "source": {}}}, "source_not_text"),
        ({"event": None}, "event_name_missing"),
        ({"timestamp": "2001-02-03T04:05:06Z"}, "timestamp_too_old"),
        ({"type": None}, "type_missing"),
        ({"type": "trak"}, "type_unknown"),
        ({"type": "page"}, "not_a_track_call"),
        ({"integrations": {"PagerDuty": False}}, "not_for_pagerduty"),
        ({"integrations": {"PagerDuty": {"type": "change"}}}, "integration_invalid"),
    ],
)
def test_an_event_that_is_not_sent_can_be_found_by_its_id_and_key(changes: dict[str, Any], code: str) -> None:
    refusal = refusal_of(alert(dedupKey="disk") | {"messageId": "m-1"} | changes)

    assert (refusal.code, refusal.message_id, refusal.dedup_key) == (code, "m-1", "disk")


EXPECTED_SEVERITY = 'properties.severity: expected critical, error, warning or info, got "severe"'


@pytest.mark.parametrize(
    ("kind", "consequence"), [("alertEvent", "sent as critical"), ("changeEvent", "left out")], ids=["alert", "change"]
)
def test_a_warning_says_what_was_expected_what_came_and_what_was_done(kind: str, consequence: str) -> None:
    event = alert(dedupKey="disk", severity="severe") | {"integrations": {"pagerduty": {"type": kind}}}

    assert event_of(event).warnings == (f"{EXPECTED_SEVERITY}; {consequence}",)


@pytest.mark.parametrize(
    ("event", "message_id", "dedup_key"),
    [
        (alert(action="resolve") | {"messageId": "m-1"}, "m-1", None),
        ({"type": "track", "messageId": "m-1", "properties": ["disk"]}, "m-1", None),
        ({"type": "track", "messageId": 7, "properties": ["disk"]}, "7", None),
        ({"type": "track", "messageId": True, "properties": ["disk"]}, None, None),
        ({"type": "trak", "properties": {"dedupKey": "disk"}}, None, "disk"),
        ({"type": "trak"}, None, None),
        (["disk"], None, None),
        (None, None, None),
    ],
)
def test_an_event_that_is_not_sent_tells_no_id_and_no_key_that_it_does_not_have(
    event: object, message_id: str | None, dedup_key: str | None
) -> None:
    refusal = refusal_of(event)

    assert (refusal.message_id, refusal.dedup_key) == (message_id, dedup_key)


def test_the_key_of_an_event_that_is_not_sent_is_where_the_rules_say_and_as_it_would_be_sent() -> None:
    refusal = refusal_of({"type": "trak", "userId": "u" * 256}, Rules(dedup_key_field=("userId",)))

    assert refusal.dedup_key == hashlib.sha256(b"u" * 256).hexdigest()


# -- what data cannot say well ---------------------------------------------------------------------------------------

DEEP = nested(100_000)


@pytest.mark.parametrize("key", ["k" * 256, "é" * 256, "🚨" * 100_000])
def test_an_over_long_dedup_key_is_the_same_hash_for_trigger_acknowledge_and_resolve(key: str) -> None:
    keys = {
        event_of(alert(dedupKey=key, action=action)).content["dedup_key"]
        for action in ("trigger", "acknowledge", "resolve")
    }

    assert keys == {hashlib.sha256(key.encode()).hexdigest()}


def test_two_over_long_dedup_keys_that_differ_at_their_end_stay_two() -> None:
    one, other = (event_of(alert(dedupKey="k" * 300 + end)).dedup_key for end in "12")

    assert one != other


def test_custom_details_of_100_levels_go_out_as_they_are() -> None:
    details = nested(100)

    assert event_of(alert(customDetails=details)).content["payload"]["custom_details"] is details


def test_among_the_details_what_is_named_by_a_setting_may_be_as_deep_as_they_are() -> None:
    rules = Rules(extra_details=(("properties", "host"),))

    assert event_of(alert(host=nested(99)), rules).content["payload"]["custom_details"] == {"host": nested(99)}
    assert event_of(alert(host=nested(100)), rules).content["payload"]["custom_details"] != {"host": nested(100)}


@pytest.mark.parametrize("details", [nested(101), DEEP, [[DEEP]]], ids=["101 levels", "100,000 levels", "in arrays"])
def test_custom_details_nested_too_deep_are_replaced_and_the_page_goes_out(details: Any) -> None:
    mapped = event_of(alert(dedupKey="disk", customDetails=details))

    sent = json.loads(limits.fit_to_limits(mapped).body)["payload"]
    assert sent["summary"] == "Disk full"
    assert list(sent["custom_details"]) == ["note"]
    assert [warning.partition(":")[0] for warning in mapped.warnings] == ["properties.customDetails"]


@pytest.mark.parametrize(
    "name", ["severity", "linkURLs", "imageURLs", "group", "class", "component", "client", "clientUrl"]
)
def test_100000_levels_in_any_other_property_are_left_out(name: str) -> None:
    mapped = event_of(alert(dedupKey="disk", **{name: DEEP}))

    assert mapped.content == event_of(alert(dedupKey="disk")).content
    assert [warning.partition(":")[0] for warning in mapped.warnings] == [f"properties.{name}"]


def test_100000_levels_are_no_dedup_key() -> None:
    mapped = event_of(alert(dedupKey=DEEP))

    assert mapped.content == event_of(alert()).content
    assert [warning.partition(":")[0] for warning in mapped.warnings] == ["properties.dedupKey"]


@pytest.mark.parametrize("name", ["source", "action"])
def test_100000_levels_in_a_property_that_decides_are_refused(name: str) -> None:
    refusal = refusal_of(alert(**{name: DEEP}))

    assert refusal.message.startswith(f"properties.{name}: ")
    assert "an object" in refusal.message


def test_20_warnings_are_all_told() -> None:
    mapped = event_of(alert(dedupKey="disk", linkURLs=[None] * 20))

    assert [warning.partition(":")[0] for warning in mapped.warnings] == [
        f"properties.linkURLs[{position}]" for position in range(20)
    ]


def test_more_than_20_warnings_are_summed_up() -> None:
    mapped = event_of(alert(dedupKey="disk", linkURLs=[None] * 100))

    assert len(mapped.warnings) == 21
    assert mapped.warnings[-1] == "and 80 more"


@pytest.mark.parametrize(("name", "field"), [("linkURLs", "links"), ("imageURLs", "images")])
def test_of_very_many_links_or_images_the_first_hundred_are_looked_at(name: str, field: str) -> None:
    mapped = event_of(alert(dedupKey="disk", **{name: [f"https://example.com/{n}" for n in range(101)]}))

    assert len(mapped.content[field]) == 100
    assert mapped.warnings == (f"properties.{name}: 101 items, only the first 100 were read",)


def test_half_a_surrogate_pair_in_a_text_becomes_a_question_mark() -> None:
    mapped = event_of(alert(dedupKey="a\ud83d", source="b\ud83d"))

    assert (mapped.dedup_key, mapped.content["payload"]["source"]) == ("a?", "b?")


def test_warnings_and_refusals_stay_short_whatever_is_wrong() -> None:
    mapped = event_of(alert(severity="x" * 100_000, group=["x" * 100_000]))

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
        pytest.param(
            alert() | {"integrations": {"pagerdutty": {"type": "changeEvent"}}},
            ["integrations.pagerdutty:", "alertEvent", "changeEvent", "misspelt pagerduty"],
            id="misspelt integration",
        ),
        pytest.param(alert() | {"event": None}, ["event:", "name", "nothing"], id="no name"),
        pytest.param(alert() | {"timestamp": 1_000_000_000}, ["timestamp:", "90 days"], id="too old"),
        pytest.param(
            alert() | {"integrations": {"PagerDuty": {"type": "change"}}},
            ["integrations.PagerDuty.type:", "alertEvent", "changeEvent", '"change"'],
            id="kind",
        ),
    ],
)
def test_a_refusal_says_which_field_what_was_expected_and_what_came(event: Any, words: list[str]) -> None:
    message = refusal_of(event).message

    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("age", [timedelta(days=90), timedelta(0), timedelta(days=-1)])
def test_the_age_of_an_event_is_told_by_the_clock_that_is_passed_in(age: timedelta) -> None:
    moment = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)

    mapped = event_of(alert() | {"timestamp": "2001-02-03T04:05:06Z"}, now=moment + age)

    assert mapped.occurred_at == moment


def test_an_event_is_too_old_by_the_clock_that_is_passed_in() -> None:
    now = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC) + timedelta(days=90, microseconds=1)

    refusal = refusal_of(alert() | {"timestamp": "2001-02-03T04:05:06Z"}, now=now)

    assert refusal.message.startswith("timestamp: more than 90 days")


# -- hostile names, paths and texts ----------------------------------------------------------------------------------

MEGABYTE = "s" * 1_000_000


def test_a_warning_about_a_name_that_is_nearly_right_says_how_it_was_written_and_how_to_write_it() -> None:
    mapped = event_of(alert(dedup_key="disk"))

    assert mapped.warnings == ('properties.dedupKey: found as "dedup_key"; write it as dedupKey',)


def test_a_warning_about_a_trigger_that_nothing_can_resolve_says_so() -> None:
    (warning,) = event_of(alert()).warnings

    assert "no later event can resolve this incident" in warning


@pytest.mark.parametrize("name", ["severity" + "_" * 1_000_000, "se\ud83dverity"])
def test_a_warning_about_a_name_stays_short_and_can_be_encoded_whatever_the_name(name: str) -> None:
    (warning,) = event_of(alert(dedupKey="disk", **{name: "info"})).warnings

    assert len(warning.encode()) < 200


@pytest.mark.parametrize("name", ["pagerdutty" + "_" * 1_000_000, "pager\ud83ddutty"])
def test_a_refusal_of_a_misspelt_integration_stays_short_and_can_be_encoded_whatever_its_name(name: str) -> None:
    refusal = refusal_of(alert() | {"integrations": {name: {"type": "changeEvent"}}})

    assert refusal.code == "integration_invalid"
    assert len(refusal.message.encode()) < 300


def test_of_very_many_integrations_with_pagerdutys_letters_the_first_ten_are_compared_with_its_name() -> None:
    others = {f"{number}": {"type": "x"} for number in range(100_000)}
    alike = {"ytud" + "_" * number + "regap": {"type": "x"} for number in range(10)}
    misspelt = {"pagerdutty": {"type": "changeEvent"}}

    assert event_of(alert() | {"integrations": {**others, **alike, **misspelt}}).action == "trigger"
    alike.popitem()
    assert refusal_of(alert() | {"integrations": {**others, **alike, **misspelt}}).code == "integration_invalid"


def test_of_very_many_properties_that_ask_not_to_page_the_names_of_the_first_ten_are_compared() -> None:
    others = {f"note {number}": "resolve" for number in range(9)}

    assert refusal_of(alert(**others, acton="resolve")).code == "action_unknown"
    assert event_of(alert(**others, note="resolve", acton="resolve")).action == "trigger"


@pytest.mark.parametrize(
    ("properties", "got"),
    [
        ({"acton": "resolve"}, 'got "resolve" as acton'),
        ({"Action": "trigger", "ACTION": "resolve"}, 'got "trigger" as Action and "resolve" as ACTION'),
    ],
)
def test_a_refusal_of_an_action_says_under_which_name_it_was(properties: dict[str, Any], got: str) -> None:
    assert got in refusal_of(alert(**properties)).message


@pytest.mark.parametrize("name", ["actio" + "_" * 1_000_000 + "n", "acti\ud83don"])
def test_a_refusal_of_an_action_stays_short_and_can_be_encoded_whatever_its_name(name: str) -> None:
    assert len(refusal_of(alert(**{name: "resolve", "ACTION": "trigger"})).message.encode()) < 300


def test_a_message_id_over_255_characters_is_its_sha_256_wherever_it_is_used() -> None:
    hashed = hashlib.sha256(b"m" * 256).hexdigest()
    change = alert() | {"integrations": {"pagerduty": {"type": "changeEvent"}}}

    assert event_of(alert() | {"messageId": "m" * 256}).message_id == hashed
    assert event_of(change | {"messageId": "m" * 256}).message_id == hashed
    assert refusal_of({"type": "trak", "messageId": "m" * 256}).message_id == hashed


DEEP_PATH = ("properties", *["a"] * 9_998, "host")
POSITION_OF_MANY_DIGITS = ("properties", "hosts", "1" * 10_000)


@pytest.mark.parametrize("path", [DEEP_PATH, POSITION_OF_MANY_DIGITS], ids=["10,000 steps", "10,000 digits"])
def test_no_path_is_too_long_to_be_followed(path: tuple[str, ...]) -> None:
    rules = Rules(path, service_field=path, summary_template=Template(("", ""), (path,)), extra_details=(path,))

    mapped = event_of(alert(hosts=["db-1"], a=DEEP), rules)

    assert mapped.content["dedup_key"] == FALLBACK_KEY
    assert mapped.content["payload"] == {"summary": "Disk full", "severity": "critical", "source": "db-1"}


def test_a_path_of_10000_steps_leads_to_what_is_there() -> None:
    event: dict[str, Any] = {"host": "db-1"}
    for _ in range(9_998):
        event = {"a": event}

    assert event_of(alert(**event), Rules(DEEP_PATH)).dedup_key == "db-1"


ALL_OF_HOST = Rules(
    dedup_key_field=read_template("{properties.host}"),
    service_field=("properties", "host"),
    summary_template=read_template("{properties.host}"),
    extra_details=(("properties", "host"),),
)


def test_a_string_of_a_megabyte_is_cut_hashed_and_replaced_wherever_it_is_used() -> None:
    mapped = limits.fit_to_limits(event_of(alert(host=MEGABYTE), ALL_OF_HOST))

    assert mapped.service == "payments"
    assert mapped.dedup_key == hashlib.sha256(MEGABYTE.encode()).hexdigest()
    assert mapped.content["payload"]["summary"] == "s" * 1024
    assert len(mapped.content["payload"]["custom_details"]["host"]) < 100


@pytest.mark.parametrize("deep", [DEEP, [[DEEP]], nested(101)], ids=["objects", "arrays", "101 levels"])
def test_what_is_nested_too_deep_is_missing_in_texts_and_a_note_among_the_details(deep: object) -> None:
    mapped = event_of(alert(host=deep), ALL_OF_HOST)

    assert mapped.content["payload"]["summary"] == "Disk full"
    assert mapped.dedup_key == FALLBACK_KEY
    assert list(mapped.content["payload"]["custom_details"]["host"]) == ["note"]
    assert limits.fit_to_limits(mapped).body


HOSTS = read_template("{properties.host} {properties.hosts}")


def test_half_a_surrogate_pair_in_a_value_becomes_a_question_mark_wherever_it_is_used() -> None:
    mapped = event_of(alert(host="a\ud83d", hosts=["b\ud83d"]), Rules(summary_template=HOSTS, dedup_key_field=HOSTS))

    assert (mapped.content["payload"]["summary"], mapped.dedup_key) == ('a? ["b?"]', 'a? ["b?"]')


def test_of_too_many_details_objects_and_arrays_become_a_note() -> None:
    details = {"free": "1%", "dump": [[]] * limits.MAX_VALUES, "tags": ["a"]}
    event = {
        "type": "track",
        "event": "Disk full",
        "properties": {"source": "db-1", "dedupKey": "disk", "customDetails": details},
    }

    mapped = map_event(event, "default", RULES, NOW, FALLBACK_KEY)

    assert isinstance(mapped, Event)
    assert mapped.content["payload"]["custom_details"] == {
        "free": "1%",
        "note": "[left out: more values than are taken]",
    }
    assert mapped.warnings == ("properties.customDetails: more values than are taken; replaced by a note",)


def test_of_very_many_properties_only_exact_names_are_read() -> None:
    properties = {f"property {number}": 0 for number in range(99_998)}

    assert event_of(alert(**properties, Severity="info")).content["payload"]["severity"] == "info"
    mapped = event_of(alert(**properties, group="web", Severity="info"))
    assert (mapped.content["payload"]["severity"], mapped.content["payload"]["group"]) == ("critical", "web")
