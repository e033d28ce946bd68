"""The codes: what each means for RudderStack, which repeats an event after 408, 429 and 5xx only."""

from event import Event
from outcome import CODES, Call, Outcome, ProcessingError

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
        *("pagerduty_rate_limited", "pagerduty_unavailable", "pagerduty_unreachable", "pagerduty_unexpected"),
        *("rate_limit_delay", "earlier_events_queued", "earlier_event_deferred", "flow_control_unavailable"),
        *("routing_key_missing", "routing_key_refused", "webhook_token_missing", "secrets_unavailable"),
        "queue_unavailable",
    },
    ("deferred", 504): {"pagerduty_timeout", "deadline_exceeded"},
}


def test_each_code_has_the_status_of_the_contract() -> None:
    found: dict[tuple[str, int], set[str]] = {}
    for code in CODES:
        outcome = Outcome(code, "what happened")
        found.setdefault((outcome.status, outcome.http_status), set()).add(code)

    assert found == CONTRACT


def test_an_error_has_the_outcome_and_its_message() -> None:
    error = ProcessingError("deadline_exceeded", "what is wrong", detail="for the log")

    assert error.outcome == Outcome("deadline_exceeded", "what is wrong", detail="for the log")
    assert str(error) == "what is wrong"


def test_an_outcome_of_an_event_has_its_id_key_and_warnings() -> None:
    event = Event("payments", "alert", {}, "trigger", dedup_key="disk", message_id="m-1", warnings=("event: cut",))
    call = Call(status=202, seconds=0.1, attempts=1)

    outcome = Outcome("delivered", "Delivered", "for the log", call=call).for_event(event)

    assert outcome == Outcome("delivered", "Delivered", "for the log", "m-1", "disk", ("event: cut",), call)
