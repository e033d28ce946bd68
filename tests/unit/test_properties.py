"""Properties that hold for any JSON (Hypothesis)."""

import contextlib
import copy
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import limits
from event import SERVICE, SEVERITIES, Event, NonFinite
from local.pagerduty_rules import violations
from mapping import Context, map_event
from outcome import Outcome, ProcessingError
from paths import Template, normalize, read_path, read_template
from settings import Rules
from webhook import read_events

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
PROPERTIES = [
    *("action", "severity", "source", "dedupKey", "group", "class", "component"),
    *("client", "clientUrl", "customDetails", "linkURLs", "imageURLs"),
    *("Action", "dedup_key", "Severity", "SOURCE", "link_urls", "custom-details", "Client Url", "group "),
    *("event_action", "acton", "links", "images", "dedup.key", "host"),
]
VALUES = [
    *("trigger", " Resolve ", "ack", "CRITICAL", "fatal", "p3", "checkout", "{event}", "{0}", "changeEvent", " "),
    *("https://a.b/c", '[{"href": "https://a.b/c"}]', '{"a": NaN}', NonFinite("NaN"), NonFinite("-Infinity")),
    *("2026-06-30T00:00:00Z", "0001-01-01T00:00:00Z"),
]

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text() | st.sampled_from(VALUES)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
objects_with_urls = st.dictionaries(st.sampled_from(["href", "src", "text", "alt"]), anything, max_size=4)
values = anything | objects_with_urls | st.lists(objects_with_urls | anything, max_size=3)
properties = st.fixed_dictionaries({}, optional=dict.fromkeys(PROPERTIES, values))
entries = anything | st.sampled_from([{"type": "changeEvent"}, {"Type": "alertEvent"}, {"kind": "changeEvent"}])
names = st.sampled_from(["pagerduty", "PagerDuty", "Pager Duty", "pagerdutty", "All"])
track_calls = st.fixed_dictionaries(
    {"type": st.just("track") | anything, "event": st.text(max_size=2000) | anything},
    optional={
        "properties": properties | anything,
        "Properties": properties,
        "integrations": anything | st.dictionaries(names, entries),
        "messageId": anything,
        "originalTimestamp": anything,
        "receivedAt": anything,
        "timestamp": anything | st.integers(),
    },
)
steps = st.sampled_from([*PROPERTIES, "properties", "event", "userId", "0", "1", "__class__", "__dict__"]) | st.text()
any_paths = st.lists(steps, min_size=1, max_size=4).map(tuple)
paths = any_paths | any_paths.map(lambda path: ("properties", *path))
templates = st.builds(
    lambda paths, text: Template((text,) * (len(paths) + 1), tuple(paths)),
    st.lists(paths, min_size=1, max_size=3),
    st.text(max_size=5),
)
rules = st.builds(
    Rules,
    dedup_key_field=st.just(("properties", "dedupKey")) | paths | templates,
    default_severity=st.sampled_from(SEVERITIES),
    default_source=st.sampled_from(["", "shop"]),
    service_field=st.just(()) | paths,
    summary_template=st.none() | templates,
    extra_details=st.lists(paths | st.just(("properties",)), max_size=3).map(tuple),
)

# A busy machine is no reason to fail.
without_deadline = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mapping_of(event: Any, rules: Rules) -> Event | Outcome:
    return map_event(event, rules, Context("default", NOW, "fallback-key"))


@without_deadline
@given(event=track_calls | anything, rules=rules)
def test_any_json_is_sent_ignored_or_rejected_and_not_changed(event: Any, rules: Rules) -> None:
    before = copy.deepcopy(event)

    mapped = mapping_of(event, rules)

    assert isinstance(mapped, Event) or mapped.status in {"ignored", "rejected"}
    if isinstance(mapped, Event):
        limits.fit_to_limits(mapped)
    assert json.dumps(event) == json.dumps(before)


@without_deadline
@given(event=track_calls, rules=rules)
def test_pagerdutys_rules_accept_each_event_that_is_sent_to_a_service_that_can_exist(event: Any, rules: Rules) -> None:
    mapped = mapping_of(event, rules)
    if isinstance(mapped, Event):
        body = limits.fit_to_limits(mapped).body
        posted = json.dumps({"routing_key": ROUTING_KEY}).encode()[:-1] + b"," + body[1:]

        assert violations(mapped.kind, posted)[1] == ()
        assert SERVICE.fullmatch(mapped.service)


@without_deadline
@given(text=st.text(alphabet=st.sampled_from("ab.{}, 0_")) | st.text(), event=track_calls)
def test_each_path_and_text_that_a_setting_accepts_is_followed_without_an_error(text: str, event: Any) -> None:
    rules = Rules()
    with contextlib.suppress(ValueError):
        rules = Rules(service_field=read_path(text), extra_details=(read_path(text),))
    with contextlib.suppress(ValueError):
        rules = replace(rules, summary_template=read_template(text), dedup_key_field=read_template(text))

    mapping_of(event, rules)


@without_deadline
@given(name=st.text(), separators=st.lists(st.sampled_from(" _-./"), max_size=5).map("".join))
def test_a_name_is_the_same_in_any_case_and_with_any_separators(name: str, separators: str) -> None:
    assert normalize(separators.join(name.upper().lower())) == normalize(name.upper().lower())


def outcomes_of(body: str) -> list[Event | Outcome]:
    try:
        events, _ = read_events({"body": body})
    except ProcessingError as error:
        return [error.outcome]
    return [mapping_of(event, Rules()) for event in events]


@without_deadline
@given(body=st.one_of(track_calls, anything, st.lists(track_calls, max_size=5)).map(json.dumps) | st.text())
def test_no_body_asks_rudderstack_to_send_it_again(body: str) -> None:
    outcomes = outcomes_of(body)

    assert [it for it in outcomes if isinstance(it, Outcome) and it.status not in {"ignored", "rejected"}] == []
