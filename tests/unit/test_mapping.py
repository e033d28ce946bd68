"""What each RudderStack event becomes. Most cases are data, in `tests/mapping/cases.yaml`."""

import copy
import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import limits
from event import Event, decode
from mapping import Context, map_event
from outcome import Outcome
from paths import Template, read_template
from settings import Rules, Settings

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
RANDOM = "random"
CASES = Path(__file__).parents[1] / "mapping" / "cases.yaml"
RESOURCES = {"QUEUE_URL": "q", "DEAD_LETTER_QUEUE_URL": "d", "FLOW_TABLE": "f"}
USUAL_CHANGE = {"summary": "Disk full", "source": "db-1"}
USUAL_ALERT = {**USUAL_CHANGE, "severity": "critical", "event_action": "trigger", "dedup_key": "disk"}
IN_PAYLOAD = {"summary", "source", "severity", "timestamp", "group", "class", "component", "custom_details"}
RESULTS = {"alert", "change", "acknowledge", "resolve", "ignored", "refused"}
ABOUT_THE_CASE = RESULTS | {"raw", "properties", "settings", "preview", "unfiltered", "service", "warnings"}


class Loader(yaml.CSafeLoader):
    """Reads YAML with the scalars of JSON, and NaN: `no` and 2026-01-31 are texts."""


Loader.yaml_implicit_resolvers = {}
for tag, pattern in {
    "null": r"null$",
    "bool": r"(true|false)$",
    "int": r"-?[0-9]+$",
    "float": r"-?([0-9]+(\.[0-9]+)?(e-?[0-9]+)?|\.inf|\.nan)$",
}.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)


def read_cases() -> list[tuple[str, dict[str, Any]]]:
    """Return the cases, each with its subject and name."""
    subjects = yaml.load(CASES.read_text(encoding="utf-8"), Loader)  # noqa: S506 -- a SafeLoader
    return [
        (f"{subject}: {name}", case)
        for subject, cases in subjects.items()
        for each in cases
        for name, case in each.items()
    ]


def event_of(case: dict[str, Any]) -> Any:
    """Return the case's event, as it would be read from a body."""
    if "raw" in case:
        return decode(json.dumps(case["raw"]))
    properties = case.get("properties", {})
    if isinstance(properties, dict):
        properties = {"source": "db-1", "dedupKey": "disk", **properties}
    kind = {"integrations": {"pagerduty": {"type": "changeEvent"}}} if "change" in case else {}
    fields = {name: value for name, value in case.items() if name not in ABOUT_THE_CASE}
    return decode(json.dumps({"type": "track", "event": "Disk full", "properties": properties, **kind, **fields}))


def expected_of(case: dict[str, Any]) -> dict[str, Any]:
    (result,) = RESULTS & case.keys()
    if result in {"ignored", "refused"}:
        return {result: case[result]}
    fields = {"event_action": result, "dedup_key": case[result]}
    if result in {"alert", "change"}:
        usual = USUAL_ALERT if result == "alert" else USUAL_CHANGE
        fields = {name: value for name, value in {**usual, **case[result]}.items() if value is not None}
        fields["payload"] = {name: fields.pop(name) for name in IN_PAYLOAD & fields.keys()}
    return {"sent": fields, "warnings": case.get("warnings", []), "service": case.get("service", "default")}


def result_of(mapped: Event | Outcome) -> dict[str, Any]:
    if isinstance(mapped, Event):
        warnings = [warning.partition(":")[0] for warning in mapped.warnings]
        return {"sent": mapped.content, "warnings": warnings, "service": mapped.service}
    if mapped.status == "ignored":
        return {"ignored": mapped.code}
    return {"refused": f"{mapped.message.partition(':')[0]} ({mapped.code})"}


def as_json(value: Any) -> str:
    # To Python 1, 1.0 and True are equal; to PagerDuty they are not.
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in read_cases()])
def test_an_event_becomes_what_its_case_says(case: dict[str, Any]) -> None:
    event = event_of(case)
    before = copy.deepcopy(event)

    rules = Settings.from_environment(RESOURCES | case.get("settings", {})).rules
    mapped = map_event(
        event, rules, Context("default", NOW, RANDOM, not case.get("unfiltered"), case.get("preview", False))
    )

    assert as_json(result_of(mapped)) == as_json(expected_of(case))
    assert event == before


def alert(**properties: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Disk full", "properties": {"source": "db-1", "dedupKey": "disk", **properties}}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def sent(raw: object, rules: Rules | None = None) -> Event:
    mapped = map_event(raw, rules or Rules(), Context("payments", NOW, RANDOM))
    assert isinstance(mapped, Event)
    return mapped


def refused(raw: object, rules: Rules | None = None) -> Outcome:
    mapped = map_event(raw, rules or Rules(), Context("payments", NOW, RANDOM))
    assert isinstance(mapped, Outcome)
    return mapped


def integrated(name: str, kind: str) -> dict[str, Any]:
    return {**alert(), "integrations": {name: {"type": kind}}}


CHANGE = {"integrations": {"pagerduty": {"type": "changeEvent"}}}
DEEP = nested(100_000)
MEGABYTE = "s" * 1_000_000


# https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1, and the priorities of Zabbix, Jira, PagerDuty and others.
@pytest.mark.parametrize(
    ("severity", "words"),
    [
        ("critical", "fatal emergency emerg panic alert crit disaster blocker p0 p1 sev0 sev1"),
        ("error", "err high major p2 sev2"),
        ("warning", "warn average medium moderate minor p3 sev3"),
        ("info", "information informational notice low normal none trivial trace verbose debug ok success"),
        ("info", "p4 p5 sev4 sev5"),
    ],
)
def test_a_word_of_others_becomes_one_of_pagerdutys_severities(severity: str, words: str) -> None:
    # A change event has no default in place of a word that is not known.
    found = {
        word: sent({**alert(severity=word), **CHANGE}).content["payload"].get("severity") for word in words.split()
    }

    assert found == dict.fromkeys(words.split(), severity)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, ("alert", "trigger", "disk"), id="trigger"),
        pytest.param({"properties": {"action": "ACKNOWLEDGE", "dedupKey": 7}}, ("alert", "acknowledge", "7"), id="ack"),
        pytest.param(CHANGE, ("change", None, None), id="change event"),
    ],
)
def test_a_mapped_event_has_its_service_action_key_id_and_time(
    changes: dict[str, Any], expected: tuple[str, str | None, str | None]
) -> None:
    mapped = sent({**alert(), "messageId": "m-1", "timestamp": "2026-06-30T13:00:00+02:00", **changes})

    assert (mapped.kind, mapped.action, mapped.dedup_key) == expected
    assert (mapped.service, mapped.message_id) == ("payments", "m-1")
    assert mapped.occurred_at == (None if mapped.action == "acknowledge" else datetime(2026, 6, 30, 11, tzinfo=UTC))


@pytest.mark.parametrize(
    ("changes", "code", "message_id", "dedup_key"),
    [
        ({"event": None}, "event_name_missing", "m-1", "disk"),
        ({"type": "page", "userId": None}, "not_a_track_call", "m-1", None),
        ({"integrations": {"PagerDuty": False}, "messageId": 7}, "not_for_pagerduty", "7", "disk"),
        ({"properties": ["disk"], "messageId": True}, "properties_not_an_object", None, "disk"),
        ({"type": "trak", "messageId": "m" * 256}, "type_unknown", hashlib.sha256(b"m" * 256).hexdigest(), "disk"),
        ({"type": "trak", "userId": "u" * 256}, "type_unknown", "m-1", hashlib.sha256(b"u" * 256).hexdigest()),
    ],
)
def test_an_event_that_is_not_sent_keeps_its_id_and_key(
    changes: dict[str, Any], code: str, message_id: str | None, dedup_key: str | None
) -> None:
    refusal = refused({**alert(), "messageId": "m-1", "userId": "disk", **changes}, Rules(dedup_key_field=("userId",)))

    assert (refusal.code, refusal.message_id, refusal.dedup_key) == (code, message_id, dedup_key)


@pytest.mark.parametrize("action", ["trigger", "acknowledge", "resolve"])
def test_an_over_long_dedup_key_is_the_same_hash_for_each_action(action: str) -> None:
    mapped = sent(alert(dedupKey=f" {'é' * 256} ", action=action))

    assert mapped.content["dedup_key"] == mapped.dedup_key == hashlib.sha256(("é" * 256).encode()).hexdigest()


def test_an_over_long_message_id_is_hashed_as_id_and_as_dedup_key() -> None:
    mapped = sent({**alert(dedupKey=None), "messageId": "m" * 256})

    assert mapped.message_id == mapped.dedup_key == hashlib.sha256(b"m" * 256).hexdigest()


@pytest.mark.parametrize(
    ("event", "template", "place"),
    [("🚨" * 1025, None, "event"), ("Disk full", read_template("{properties.host}"), "SUMMARY_TEMPLATE")],
)
def test_a_summary_is_cut_to_1024_characters(event: str, template: Template | None, place: str) -> None:
    mapped = sent({**alert(host="🚨" * 1025), "event": event}, Rules(summary_template=template))

    assert mapped.content["payload"]["summary"] == "🚨" * 1024
    assert mapped.warnings == (f"{place}: 1,025 characters, cut to PagerDuty's 1,024",)
    assert sent({**alert(), "event": "🚨" * 1024}).warnings == ()
    assert sent({**alert(), "event": " " * 1024 + "Disk"}).content["payload"]["summary"] == "Disk"


EXPECTED_SEVERITY = "properties.severity: expected critical, error, warning or info, got"
EXPECTED_KEY = "properties.dedupKey: expected a string or a number as dedup key"
NO_RESOLVE = "no later event can resolve this incident"


@pytest.mark.parametrize(
    ("event", "warning"),
    [
        (alert(severity="severe"), f'{EXPECTED_SEVERITY} "severe"; sent as critical'),
        ({**alert(severity=[]), **CHANGE}, f"{EXPECTED_SEVERITY} an array; left out"),
        (alert(dedupKey={}), f"{EXPECTED_KEY}, got an object; {NO_RESOLVE}"),
        ({**alert(), "timestamp": 5}, "timestamp: expected the event's time, such as 2026-01-31T12:00:00Z; left out"),
        (alert(group=[]), "properties.group: expected a text, got an array; left out"),
        (alert(linkURLs=5), "properties.linkURLs: expected a URL or an object with href, got 5; left out"),
        (alert(imageURLs="http://a"), "properties.imageURLs: PagerDuty shows only HTTPS images; sent as a link"),
    ],
)
def test_a_warning_says_what_was_expected_what_was_found_and_what_was_done(event: object, warning: str) -> None:
    assert sent(event).warnings == (warning,)


ACTIONS = "properties.action: expected trigger, acknowledge or resolve, got"
NOT_SENT = "not sent, since a misspelt resolve must not page"
KINDS = 'expected {"type": "alertEvent"} or {"type": "changeEvent"}'
NO_PAGE = "not sent, since it may not be meant to page"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (5, "event: expected an object, got 5"),
        ({**alert(), "properties": []}, "properties: expected an object, got an array"),
        ({"event": "Disk full"}, 'type: missing, expected "track"'),
        ({"type": "trak"}, 'type: expected "track", got "trak"'),
        ({**alert(), "event": None}, "event: expected the event's name, got nothing"),
        ({**alert(), "timestamp": 1_000_000_000}, "timestamp: more than 90 days ago"),
        (alert(source=None), "properties.source: missing; add it, or set DEFAULT_SOURCE"),
        (alert(source={}), "properties.source: expected a text, got an object"),
        (integrated("PagerDuty", "change"), f'integrations.PagerDuty.type: {KINDS}, got "change"; {NO_PAGE}'),
        (
            integrated("pagerdutty", "changeEvent"),
            f"integrations.pagerdutty: {KINDS}, which looks like a misspelt pagerduty; {NO_PAGE}",
        ),
        (alert(action="reslove"), f'{ACTIONS} "reslove"; {NOT_SENT}'),
        (alert(acton="resolve"), f'{ACTIONS} "resolve" as acton; {NOT_SENT}'),
        (alert(Action="trigger", ACTION="ack"), f'{ACTIONS} "trigger" as Action and "ack" as ACTION; {NOT_SENT}'),
    ],
)
def test_a_refusal_says_what_was_expected_and_what_was_found(event: object, message: str) -> None:
    assert refused(event).message == message


@pytest.mark.parametrize("bad", ["_" * 1_000_000, "\ud83d"], ids=["a megabyte", "half a surrogate pair"])
def test_messages_stay_short_and_can_be_encoded_whatever_the_names_and_values(bad: str) -> None:
    (warning,) = sent(alert(**{f"seve{bad}rity": "info"})).warnings
    misspelt = refused(integrated(f"pager{bad}dutty", "changeEvent"))
    unclear = refused(alert(**{f"acti{bad}on": "resolve", "ACTION": "trigger"}))
    *_, last = sent(alert(severity=bad, group=[bad])).warnings

    assert (misspelt.code, unclear.code) == ("integration_invalid", "action_unknown")
    assert max(len(text.encode()) for text in (warning, misspelt.message, unclear.message, last)) < 300


def test_20_warnings_are_given_and_more_are_counted() -> None:
    assert len(sent(alert(linkURLs=[None] * 20)).warnings) == 20
    warnings = sent(alert(linkURLs=[None] * 100)).warnings
    assert (len(warnings), warnings[19][:23], warnings[20]) == (21, "properties.linkURLs[19]", "and 80 more")


@pytest.mark.parametrize(("name", "field"), [("linkURLs", "links"), ("imageURLs", "images")])
def test_the_first_hundred_links_and_images_are_read(name: str, field: str) -> None:
    mapped = sent(alert(**{name: [f"https://example.com/{n}" for n in range(101)]}))

    assert len(mapped.content[field]) == 100
    assert mapped.warnings == (f"properties.{name}: 101 items, only the first 100 were read",)


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    template = read_template("{properties.host} {properties.hosts}")

    mapped = sent(
        alert(source="a\ud83d", host="b\ud83d", hosts=["c\ud83d"]), Rules(template, summary_template=template)
    )

    assert mapped.content["payload"]["source"] == "a?"
    assert mapped.content["payload"]["summary"] == mapped.dedup_key == 'b? ["c?"]'


# -- large and deep events -------------------------------------------------------------------------------------------

EVERYWHERE = Rules(
    dedup_key_field=read_template("{properties.host}"),
    service_field=("properties", "host"),
    summary_template=read_template("{properties.host}"),
    extra_details=(("properties", "host"),),
)


def test_a_text_of_a_megabyte_is_hashed_cut_and_replaced() -> None:
    mapped = limits.fit_to_limits(sent(alert(host=MEGABYTE), EVERYWHERE))

    assert mapped.service == "payments"
    assert mapped.dedup_key == hashlib.sha256(MEGABYTE.encode()).hexdigest()
    assert mapped.content["payload"]["summary"] == "s" * 1024
    assert len(mapped.content["payload"]["custom_details"]["host"]) < 100


@pytest.mark.parametrize("deep", [DEEP, [[DEEP]], nested(101)], ids=["objects", "arrays", "101 levels"])
def test_a_value_nested_too_deep_is_missing_in_texts_and_a_note_in_details(deep: object) -> None:
    mapped = sent(alert(host=deep, customDetails=deep), EVERYWHERE)

    details = mapped.content["payload"]["custom_details"]
    assert (mapped.content["payload"]["summary"], mapped.dedup_key) == ("Disk full", RANDOM)
    assert (list(details), list(details["host"])) == (["host", "note"], ["note"])
    assert limits.fit_to_limits(mapped).body


def test_custom_details_of_100_levels_are_sent_as_they_are() -> None:
    rules = Rules(extra_details=(("properties", "host"),))

    assert sent(alert(customDetails=nested(100))).content["payload"]["custom_details"] == nested(100)
    assert sent(alert(host=nested(99)), rules).content["payload"]["custom_details"] == {"host": nested(99)}
    assert sent(alert(host=nested(100)), rules).content["payload"]["custom_details"] != {"host": nested(100)}


def test_an_integration_nested_too_deep_is_an_alert() -> None:
    assert sent({**alert(), "integrations": {"pagerduty": {"options": DEEP}}}).kind == "alert"


@pytest.mark.parametrize("name", ["severity", "linkURLs", "imageURLs", "group", "clientUrl"])
def test_100000_levels_in_another_property_are_left_out(name: str) -> None:
    mapped = sent(alert(**{name: DEEP}))

    assert mapped.content == sent(alert()).content
    assert [warning.partition(":")[0] for warning in mapped.warnings] == [f"properties.{name}"]


def test_a_note_replaces_objects_and_arrays_of_too_many_details() -> None:
    mapped = sent(alert(customDetails={"free": "1%", "dump": [[]] * limits.MAX_VALUES, "tags": ["a"]}))

    note = "[left out: more values than are accepted]"
    assert mapped.content["payload"]["custom_details"] == {"free": "1%", "note": note}
    assert mapped.warnings == ("properties.customDetails: more values than are accepted; replaced by a note",)


def test_a_note_replaces_json_text_that_is_nested_too_deep() -> None:
    mapped = sent(alert(customDetails='{"a":' * 101 + "1" + "}" * 101))

    assert list(mapped.content["payload"]["custom_details"]) == ["note"]


def test_json_text_that_python_cannot_parse_stays_a_text() -> None:
    text = "[" * 100_000

    assert sent(alert(linkURLs=text)).content["links"] == [{"href": text}]


@pytest.mark.parametrize(
    "path",
    [("properties", *["a"] * 9_998, "host"), ("properties", "hosts", "1" * 10_000)],
    ids=["10,000 steps", "10,000 digits"],
)
def test_a_path_of_any_length_is_followed(path: tuple[str, ...]) -> None:
    rules = Rules(path, service_field=path, summary_template=Template(("", ""), (path,)), extra_details=(path,))

    mapped = sent(alert(hosts=["db-1"], a=DEEP), rules)

    assert mapped.content["dedup_key"] == RANDOM
    assert mapped.content["payload"] == {"summary": "Disk full", "severity": "critical", "source": "db-1"}


def test_a_path_of_10000_steps_finds_its_value() -> None:
    event: dict[str, Any] = {"host": "db-1"}
    for _ in range(9_998):
        event = {"a": event}

    assert sent(alert(**event), Rules(("properties", *["a"] * 9_998, "host"))).dedup_key == "db-1"


def test_similar_names_are_found_among_100000_properties_at_most() -> None:
    properties = {f"property {number}": 0 for number in range(99_997)}

    assert sent(alert(**properties, Severity="info")).content["payload"]["severity"] == "info"
    payload = sent(alert(**properties, group="web", Severity="info")).content["payload"]
    assert (payload["severity"], payload["group"]) == ("critical", "web")


def test_too_many_properties_are_replaced_by_a_note_in_the_details() -> None:
    properties = {f"property {number}": 0 for number in range(100_000)}

    details = sent(alert(**properties), Rules(extra_details=(("properties",),))).content["payload"]["custom_details"]

    assert details == {"properties": "[left out: 100,002 properties, more than PagerDuty accepts]"}


def test_more_integrations_than_are_compared_are_refused_unless_one_is_exact() -> None:
    many = {str(number): True for number in range(100_001)}
    refused = map_event({**alert(), "integrations": many}, Rules(), Context("payments", NOW, RANDOM))

    assert isinstance(refused, Outcome)
    assert (refused.code, "got 100,001 entries" in refused.message) == ("integration_invalid", True)
    assert sent({**alert(), "integrations": many | {"pagerduty": {"type": "changeEvent"}}}).kind == "change"


def test_the_first_ten_integrations_with_pagerdutys_letters_are_compared_with_its_name() -> None:
    others = {f"{number}": {"type": "x"} for number in range(90_000)}
    alike = {"ytud" + "_" * number + "regap": {"type": "x"} for number in range(10)}
    misspelt = {"pagerdutty": {"type": "changeEvent"}}

    assert sent({**alert(), "integrations": {**others, **alike, **misspelt}}).action == "trigger"
    alike.popitem()
    assert refused({**alert(), "integrations": {**others, **alike, **misspelt}}).code == "integration_invalid"


def test_the_names_of_the_first_ten_properties_that_say_resolve_are_compared_with_action() -> None:
    others = {f"note {number}": "resolve" for number in range(9)}

    assert refused(alert(**others, acton="resolve")).code == "action_unknown"
    assert sent(alert(**others, note="resolve", acton="resolve")).action == "trigger"
