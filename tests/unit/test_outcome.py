"""The codes: every one that is used is known, every one that is known is used, and each says what is true."""

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest

from event import Event
from outcome import CODES, Call, Outcome, ProcessingError

MODULES = sorted((Path(__file__).parents[2] / "function").glob("*.py"))
# What the sender is told; RudderStack gives up after any 4xx but 408 and 429, and tries 5xx again.
CONTRACT = {
    ("delivered", 200): {"delivered"},
    ("queued", 200): {"queued"},
    ("merged", 200): {"merged"},
    ("preview", 200): {"preview"},
    ("ignored", 200): {"not_for_pagerduty", "not_a_track_call"},
    ("rejected", 400): {
        *("query_unknown", "preview_invalid"),
        *("body_empty", "body_not_base64", "gzip_damaged", "body_not_utf8", "body_not_json", "body_too_deep"),
        *("body_without_events", "event_not_an_object", "properties_not_an_object", "integration_invalid"),
        *("type_missing", "type_unknown", "action_unknown", "dedup_key_missing", "event_name_missing"),
        *("source_missing", "source_not_text", "timestamp_too_old", "pagerduty_rejected", "message_unreadable"),
        "event_failed",
    },
    ("rejected", 401): {"unauthorized"},
    ("rejected", 404): {"no_such_service"},
    ("rejected", 413): {"body_too_large", "too_many_events"},
    ("deferred", 500): {"settings_invalid", "internal_error"},
    ("deferred", 503): {
        *("pagerduty_unavailable", "pagerduty_unreachable", "pagerduty_unexpected", "earlier_event_deferred"),
        *("routing_key_missing", "routing_key_refused", "webhook_token_missing", "secrets_unavailable"),
        *(
            "pagerduty_rate_limited",
            "queue_unavailable",
            "rate_limit_delay",
            "earlier_events_queued",
            "flow_control_unavailable",
        ),
    },
    ("deferred", 504): {"pagerduty_timeout", "deadline_exceeded"},
}
PLACES = {
    f"{module.name}:{node.lineno}": node
    for module in MODULES
    if module.name != "outcome.py"
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"), module.name))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Outcome", "ProcessingError"}
}


def code_at(place: str) -> str | None:
    """Return the code that is written there; None when none is, or when another outcome's is taken over."""
    argument = PLACES[place].args[0] if PLACES[place].args else None
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None


CODE_AT = {place: code_at(place) for place in PLACES}


def test_outcomes_are_found_in_the_source() -> None:
    assert len(CODE_AT) > 40
    assert {place.partition(":")[0] for place in CODE_AT} >= {
        *(
            "app.py",
            "credentials.py",
            "mapping.py",
            "pagerduty.py",
            "sqs.py",
            "telemetry.py",
            "webhook.py",
            "worker.py",
        ),
    }


def test_every_outcome_has_its_code_written_out_or_takes_over_another_ones() -> None:
    unwritten = [place for place, code in CODE_AT.items() if code is None]

    assert [place for place in unwritten if ast.unparse(PLACES[place].args[0]) != "outcome.code"] == []


def test_every_code_that_is_used_is_known() -> None:
    assert {place: code for place, code in CODE_AT.items() if code is not None and code not in CODES} == {}


def test_every_code_that_is_known_is_used() -> None:
    assert set(CODES) - set(CODE_AT.values()) == set()


def test_each_code_means_what_the_contract_says() -> None:
    found: dict[tuple[str, int], set[str]] = {}
    for code, decided in CODES.items():
        found.setdefault(decided, set()).add(code)

    assert found == CONTRACT


def test_2xx_is_said_of_all_that_is_done_and_of_nothing_else() -> None:
    results = {"delivered", "queued", "merged", "preview", "ignored"}
    done = {code for code, (result, _) in CODES.items() if result in results}

    assert {code for code, (_, status) in CODES.items() if 200 <= status < 300} == done


def test_what_is_rejected_is_never_tried_again() -> None:
    statuses = {code: status for code, (result, status) in CODES.items() if result == "rejected"}

    assert {code for code, status in statuses.items() if status not in {*range(400, 500)} - {408, 429}} == set()


def test_what_is_deferred_is_tried_again() -> None:
    statuses = {code: status for code, (result, status) in CODES.items() if result == "deferred"}

    assert {code for code, status in statuses.items() if status not in {500, 503, 504}} == set()


@pytest.mark.parametrize(("code", "decided"), CODES.items(), ids=CODES)
def test_an_outcome_says_what_its_code_decides(code: str, decided: tuple[str, int]) -> None:
    outcome = Outcome(code, "what happened")

    assert (outcome.status, outcome.http_status) == decided


@pytest.mark.parametrize("question", ["status", "http_status"])
def test_an_outcome_whose_code_nobody_knows_says_nothing(question: str) -> None:
    outcome = Outcome("no_such_code", "what happened")

    with pytest.raises(KeyError, match="no_such_code"):
        getattr(outcome, question)


def test_an_error_carries_the_outcome_and_says_its_message() -> None:
    error = ProcessingError("deadline_exceeded", "what is wrong", detail="for the log")

    assert error.outcome == Outcome("deadline_exceeded", "what is wrong", detail="for the log")
    assert str(error) == "what is wrong"


def test_an_outcome_can_be_said_to_be_an_events() -> None:
    call = Call(status=202, seconds=0.1, attempts=1)
    event = Event(
        service="payments",
        kind="alert",
        content={"event_action": "trigger"},
        action="trigger",
        dedup_key="disk",
        message_id="m-1",
        occurred_at=datetime(2026, 6, 30, 11, tzinfo=UTC),
        warnings=("event: cut",),
    )

    assert Outcome("delivered", "PagerDuty took it", "for the log", call=call).for_event(event) == Outcome(
        "delivered",
        "PagerDuty took it",
        detail="for the log",
        message_id="m-1",
        dedup_key="disk",
        warnings=("event: cut",),
        call=call,
    )
