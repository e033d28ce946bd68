"""Properties that hold for any JSON whatever (Hypothesis)."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import limits
from event import SEVERITIES, Event
from local.sandbox import violations
from mapping import map_event
from outcome import Outcome
from settings import Rules
from support import ROUTING_KEY, Endpoint

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
PROPERTIES = [
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
        ["trigger", " Resolve ", "ack", "CRITICAL", "changeEvent", "https://a.b/c", "2026-06-30T00:00:00Z"]
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
        | st.dictionaries(st.sampled_from(["pagerduty", "PagerDuty"]), anything | st.just({"type": "changeEvent"})),
        "originalTimestamp": anything,
        "receivedAt": anything,
        "timestamp": anything | st.integers(),
    },
)
rules = st.builds(
    Rules,
    dedup_key_field=st.sampled_from([("properties", "dedupKey"), ("properties", "linkURLs", "0"), ("userId",)]),
    default_severity=st.sampled_from(SEVERITIES),
    default_source=st.sampled_from(["", "shop"]),
)


def mapping_of(event: Any, rules: Rules) -> Event | Outcome:
    return map_event(event, "default", rules, NOW, "fallback-key")


@given(event=track_calls | anything, rules=rules)
def test_no_json_makes_the_mapping_fail_or_defer(event: Any, rules: Rules) -> None:
    mapped = mapping_of(event, rules)

    assert isinstance(mapped, Event) or mapped.result in {"ignored", "rejected"}


@given(event=track_calls, rules=rules)
def test_whatever_the_mapping_sends_pagerdutys_rules_accept(event: Any, rules: Rules) -> None:
    mapped = mapping_of(event, rules)
    if isinstance(mapped, Outcome):
        return
    body = limits.fit(mapped).body
    posted = json.dumps({"routing_key": ROUTING_KEY}).encode()[:-1] + b"," + body[1:]

    assert violations(mapped.kind, posted)[1] == ()


@given(event=track_calls, rules=rules)
def test_the_mapping_never_changes_the_event_that_it_maps(event: Any, rules: Rules) -> None:
    before = json.dumps(event)
    mapped = mapping_of(event, rules)
    if isinstance(mapped, Event):
        limits.fit(mapped)

    assert json.dumps(event) == before


@pytest.fixture
def post(endpoint: Endpoint) -> Callable[[str], int]:
    return lambda body: endpoint.post(body).status


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(body=st.one_of(track_calls, anything, st.lists(track_calls, max_size=5)).map(json.dumps) | st.text())
def test_no_body_makes_the_function_answer_5xx(post: Callable[[str], int], body: str) -> None:
    assert post(body) in {200, 400}
