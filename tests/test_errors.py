"""The codes: every one that is raised has a status, every one that has a status is raised, and each status is right."""

import ast
import functools
from pathlib import Path

import pytest

from errors import STATUS_OF, Deferred, Ignored, NotSentError, Rejected

MODULES = sorted((Path(__file__).parent.parent / "function").glob("*.py"))
TREES = {module.name: ast.parse(module.read_text(encoding="utf-8"), module.name) for module in MODULES}
# RudderStack tries these again, and gives every other 4xx up at once.
TRIED_AGAIN = {408, 429, *range(500, 600)}


def classes_of(base: str) -> set[str]:
    """Find the names of the class and of everything that is derived from it, in any module."""
    names = {base}
    while True:
        derived = {
            node.name
            for tree in TREES.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and any(isinstance(parent, ast.Name) and parent.id in names for parent in node.bases)
        }
        if derived <= names:
            return names
        names |= derived


@functools.cache
def codes_of(base: str) -> dict[str, str | None]:
    """Find every place where such an error is made, with the code that is written there; None when none is."""
    names = classes_of(base)
    return {
        f"{module}:{node.lineno}": node.args[0].value
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
        else None
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    }


def test_errors_are_found_in_the_source() -> None:
    found = codes_of("NotSentError")

    assert len(found) > 20
    assert {place.partition(":")[0] for place in found} >= {"mapping.py", "webhook.py", "delivery.py", "pagerduty.py"}


def test_every_error_has_its_code_written_out_where_it_is_made() -> None:
    assert [place for place, code in codes_of("NotSentError").items() if code is None] == []


def test_every_code_that_is_raised_has_a_status() -> None:
    assert {place: code for place, code in codes_of("NotSentError").items() if code not in STATUS_OF} == {}


def test_every_code_that_has_a_status_is_raised() -> None:
    assert set(STATUS_OF) - set(codes_of("NotSentError").values()) == set()


def test_what_is_ignored_is_answered_with_200() -> None:
    assert {STATUS_OF[code] for code in codes_of("Ignored").values() if code} == {200}


def test_what_is_rejected_is_never_tried_again() -> None:
    statuses = {place: STATUS_OF[code] for place, code in codes_of("Rejected").items() if code}

    assert {place: status for place, status in statuses.items() if status in TRIED_AGAIN or status < 400} == {}


def test_what_is_deferred_is_tried_again() -> None:
    statuses = {place: STATUS_OF[code] for place, code in codes_of("Deferred").items() if code}

    assert {place: status for place, status in statuses.items() if status not in TRIED_AGAIN} == {}


def test_no_code_is_used_for_two_outcomes() -> None:
    ignored, rejected, deferred = (set(codes_of(name).values()) for name in ("Ignored", "Rejected", "Deferred"))

    assert (ignored & rejected, rejected & deferred, deferred & ignored) == (set(), set(), set())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("not_for_pagerduty", 200),
        ("not_a_track_call", 200),
        ("unauthorized", 401),
        ("no_such_service", 404),
        ("preview_unclear", 400),
        ("body_too_large", 413),
        ("body_empty", 400),
        ("body_not_base64", 400),
        ("body_not_utf8", 400),
        ("body_not_json", 400),
        ("body_too_deep", 400),
        ("body_without_events", 400),
        ("gzip_damaged", 400),
        ("event_not_an_object", 400),
        ("integration_unclear", 400),
        ("type_missing", 400),
        ("type_unknown", 400),
        ("properties_not_an_object", 400),
        ("action_unknown", 400),
        ("dedup_key_missing", 400),
        ("event_name_missing", 400),
        ("source_missing", 400),
        ("source_not_text", 400),
        ("timestamp_too_old", 400),
        ("pagerduty_rejected", 400),
        ("pagerduty_rate_limited", 429),
        ("pagerduty_unavailable", 503),
        ("pagerduty_unreachable", 503),
        ("pagerduty_timeout", 504),
        ("out_of_time", 504),
        ("pagerduty_unexpected", 503),
        ("routing_key_missing", 503),
        ("routing_key_refused", 503),
        ("webhook_token_missing", 503),
        ("secrets_unavailable", 503),
        ("settings_invalid", 500),
        ("internal_error", 500),
    ],
)
def test_the_status_is_the_contracts(code: str, status: int) -> None:
    assert STATUS_OF[code] == status


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [(Ignored, "ignored"), (Rejected, "rejected"), (Deferred, "deferred")],
    ids=["ignored", "rejected", "deferred"],
)
def test_an_error_tells_its_outcome_code_message_and_status(kind: type[NotSentError], outcome: str) -> None:
    error = kind("out_of_time", "what is wrong")

    assert (error.outcome, error.code, error.message, error.status) == (outcome, "out_of_time", "what is wrong", 504)
    assert str(error) == "what is wrong"


def test_the_status_of_another_event_can_be_taken_over() -> None:
    assert Deferred("held_back", "what is wrong", status=429).status == 429


def test_a_code_that_nobody_knows_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        Rejected("no_such_code", "what is wrong")
