"""Properties that hold for any JSON whatever (Hypothesis)."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import limits
from event import SERVICE, SEVERITIES, Event, NonFinite
from local.pagerduty_rules import violations
from mapping import map_event
from outcome import Outcome
from paths import Template, normalize, read_path, read_template
from settings import Rules
from tests.support import ROUTING_KEY, Endpoint

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
NEAR_NAMES = [
    "Action",
    "dedup_key",
    "Severity",
    "SOURCE",
    "link_urls",
    "custom-details",
    "Client Url",
    "group ",
    "event_action",
    "acton",
    "links",
    "images",
    "dedup.key",
    "host",
]
PROPERTIES = [
    *NEAR_NAMES,
    *("action", "severity", "source", "dedupKey", "group", "class", "component"),
    *("client", "clientUrl", "customDetails", "linkURLs", "imageURLs"),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(
        [
            "trigger",
            " Resolve ",
            "ack",
            "CRITICAL",
            "fatal",
            "p3",
            "checkout",
            "{event}",
            "{0}",
            "changeEvent",
            "https://a.b/c",
            "2026-06-30T00:00:00Z",
            "0001-01-01T00:00:00Z",
            '[{"href": "https://a.b/c"}]',
            '{"a": NaN}',
            " ",
            NonFinite("NaN"),
            NonFinite("-Infinity"),
        ]
    )
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
objects_with_urls = st.dictionaries(st.sampled_from(["href", "src", "text", "alt"]), anything, max_size=4)
properties = st.fixed_dictionaries(
    {},
    optional={
        name: anything | objects_with_urls | st.lists(objects_with_urls | anything, max_size=3) for name in PROPERTIES
    },
)
track_calls = st.fixed_dictionaries(
    {"type": st.just("track") | anything, "event": st.text(max_size=2000) | anything},
    optional={
        "properties": properties | anything,
        "messageId": anything,
        "integrations": anything
        | st.dictionaries(
            st.sampled_from(["pagerduty", "PagerDuty", "Pager Duty", "pagerdutty", "All"]),
            anything | st.sampled_from([{"type": "changeEvent"}, {"Type": "alertEvent"}, {"kind": "changeEvent"}]),
        ),
        "originalTimestamp": anything,
        "receivedAt": anything,
        "Properties": properties,
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

# What holds, holds on a busy machine too.
whenever = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mapping_of(event: Any, rules: Rules) -> Event | Outcome:
    return map_event(event, "default", rules, NOW, "fallback-key")


@whenever
@given(event=track_calls | anything, rules=rules)
def test_no_json_makes_the_mapping_fail_or_defer(event: Any, rules: Rules) -> None:
    mapped = mapping_of(event, rules)

    assert isinstance(mapped, Event) or mapped.status in {"ignored", "rejected"}


@whenever
@given(event=track_calls, rules=rules)
def test_whatever_the_mapping_sends_pagerdutys_rules_accept(event: Any, rules: Rules) -> None:
    mapped = mapping_of(event, rules)
    if isinstance(mapped, Outcome):
        return
    body = limits.fit_to_limits(mapped).body
    posted = json.dumps({"routing_key": ROUTING_KEY}).encode()[:-1] + b"," + body[1:]

    assert violations(mapped.kind, posted)[1] == ()


@whenever
@given(event=track_calls, rules=rules)
def test_the_mapping_never_changes_the_event_that_it_maps(event: Any, rules: Rules) -> None:
    before = json.dumps(event)
    mapped = mapping_of(event, rules)
    if isinstance(mapped, Event):
        limits.fit_to_limits(mapped)

    assert json.dumps(event) == before


@whenever
@given(event=track_calls, rules=rules)
def test_every_event_is_for_a_pagerduty_service_that_could_exist(event: Any, rules: Rules) -> None:
    mapped = mapping_of(event, rules)

    assert isinstance(mapped, Outcome) or SERVICE.fullmatch(mapped.service)


@whenever
@given(text=st.text(alphabet=st.sampled_from("ab.{}, 0_")) | st.text(), event=track_calls)
def test_whatever_a_setting_says_it_is_refused_at_once_or_followed_without_an_error(text: str, event: Any) -> None:
    rules = Rules()
    with contextlib.suppress(ValueError):
        rules = Rules(service_field=read_path(text), extra_details=(read_path(text),))
    with contextlib.suppress(ValueError):
        rules = replace(rules, summary_template=read_template(text), dedup_key_field=read_template(text))

    mapping_of(event, rules)


@whenever
@given(name=st.text(), separators=st.lists(st.sampled_from(" _-./"), max_size=5).map("".join))
def test_a_name_is_the_same_in_any_case_and_with_any_separators(name: str, separators: str) -> None:
    assert normalize(separators.join(name.upper().lower())) == normalize(name.upper().lower())


@pytest.fixture
def post(endpoint: Endpoint) -> Callable[[str], int]:
    return lambda body: endpoint.post(body).status


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(body=st.one_of(track_calls, anything, st.lists(track_calls, max_size=5)).map(json.dumps) | st.text())
def test_no_body_makes_the_function_answer_5xx(post: Callable[[str], int], body: str) -> None:
    assert post(body) in {200, 400}
