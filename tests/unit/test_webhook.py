"""The HTTP edge: authentication, reading any body, and the one status that answers many events."""

import base64
import gzip
import hmac
import json
from typing import Any

import pytest

import webhook
from outcome import CODES, Code, Outcome, ProcessingError
from paths import is_missing

MEGABYTE = 1024 * 1024
TOKEN_BYTES = b"correct-horse-battery-staple"
TOKEN = TOKEN_BYTES.decode()
OTHER = b"another-token-of-the-tests"
EVENT = {"type": "track", "event": "Disk full", "properties": {"source": "db-1"}}
JSON = json.dumps(EVENT)


def basic(credentials: str | bytes, scheme: str = "Basic") -> dict[str, str]:
    raw = credentials if isinstance(credentials, bytes) else credentials.encode()
    return {"authorization": f"{scheme} {base64.b64encode(raw).decode()}"}


def in_base64(body: bytes) -> dict[str, Any]:
    return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}


def as_text(body: str) -> dict[str, Any]:
    return {"body": body, "isBase64Encoded": False}


def events_in(body: str) -> list[Any]:
    events, _ = webhook.read_events(as_text(body))
    return events


# -- the request without its body --------------------------------------------------------------------------------------


def test_names_of_headers_are_read_in_any_case() -> None:
    assert webhook.open_request({"headers": {"x-Api-KEY": "T"}}).headers == {"x-api-key": "T"}


@pytest.mark.parametrize("name", ["A.b-c_9", "x" * 64])
def test_a_service_may_have_this_name(name: str) -> None:
    assert webhook.open_request({"pathParameters": {"service": name}}).service == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a%20b", "\u0661", "a\n"])
def test_a_service_cannot_have_this_name(name: str) -> None:
    assert webhook.open_request({"pathParameters": {"service": name}}).service is None


@pytest.mark.parametrize(
    "gateway_event", [{}, {"headers": None, "pathParameters": None, "queryStringParameters": None}]
)
def test_a_request_without_headers_path_and_query_is_read(gateway_event: dict[str, Any]) -> None:
    request = webhook.open_request(gateway_event)

    assert (request.headers, request.service, request.is_track_route) == ({}, "default", False)
    assert not webhook.wants_preview(request)


@pytest.mark.parametrize(
    ("route", "is_track_route", "is_filtered"),
    [("POST /v1/track", True, False), ("POST /v1/batch", False, False), ("POST /events/{service}", False, True)],
)
def test_each_route_has_its_rules(route: str, is_track_route: bool, is_filtered: bool) -> None:  # noqa: FBT001 -- a table
    request = webhook.open_request({"routeKey": route})

    assert (request.is_track_route, request.is_filtered) == (is_track_route, is_filtered)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [({"preview": "true"}, True), ({"PREVIEW": " True "}, True), ({}, False), ({"Preview": "FALSE"}, False)],
)
def test_the_query_asks_for_a_preview(query: dict[str, str], wanted: bool) -> None:  # noqa: FBT001 -- a table
    assert webhook.wants_preview(webhook.open_request({"queryStringParameters": query})) is wanted


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"preview": ""}, "preview_invalid"),
        ({"preview": "false", "PREVIEW": "true"}, "preview_invalid"),
        ({"other": "true"}, "query_unknown"),
        ({"preview": "true", "previev": "true"}, "query_unknown"),
    ],
)
def test_an_unclear_query_is_refused(query: dict[str, str], code: str) -> None:
    request = webhook.open_request({"queryStringParameters": query})

    with pytest.raises(ProcessingError, match="query: preview") as refusal:
        webhook.wants_preview(request)

    assert refusal.value.outcome.code == code


# -- authentication ----------------------------------------------------------------------------------------------------

AUTHORIZED = {
    "bearer token, scheme in another case, white space": {"authorization": f"  bEARER   {TOKEN}  "},
    "user of Basic, as SDKs send the write key": basic(f"{TOKEN}:"),
    "password of Basic": basic(f"rudderstack:{TOKEN}"),
    "password of Basic, scheme in another case": basic(f":{TOKEN}", "bASIC"),
    "password of Basic whose user is not text": basic(b"\xff\xfe:" + TOKEN_BYTES),
    "API key with white space": {"x-api-key": f" {TOKEN} "},
    "API key beside a wrong bearer token": {"x-api-key": TOKEN, "authorization": "Bearer wrong"},
    "bearer token beside a wrong API key": {"x-api-key": "wrong", "authorization": f"Bearer {TOKEN}"},
}
UNAUTHORIZED = {
    "no header": {},
    "other headers": {"cookie": TOKEN, "api-key": TOKEN, "x-api-token": TOKEN},
    "Basic of a colon": basic(":"),
    "token without a scheme": {"authorization": TOKEN},
    "beginning of the token": {"authorization": f"Bearer {TOKEN[:-1]}"},
    "token with one more character": {"authorization": f"Bearer {TOKEN}x"},
    "Basic in plain text": {"authorization": f"Basic {TOKEN}:"},
    "Basic with a character outside of base64": {"authorization": basic(f"{TOKEN}:")["authorization"] + "!"},
    "Basic without its padding": {"authorization": basic(f"{TOKEN}:")["authorization"].rstrip("=")},
    "content of Basic with another scheme": basic(f"{TOKEN}:", "Digest"),
    "half a surrogate pair as bearer token": {"authorization": "Bearer \ud83d\udca9\ud83d"},
    "half a surrogate pair as API key": {"x-api-key": "zürich-\ud83d"},
}


@pytest.mark.parametrize("tokens", [[TOKEN_BYTES, OTHER], [OTHER, TOKEN_BYTES]], ids=["first", "last"])
@pytest.mark.parametrize("headers", AUTHORIZED.values(), ids=AUTHORIZED)
def test_one_of_the_tokens_is_enough(headers: dict[str, str], tokens: list[bytes]) -> None:
    assert webhook.is_authorized(headers, tokens)


@pytest.mark.parametrize("headers", UNAUTHORIZED.values(), ids=UNAUTHORIZED)
def test_a_request_without_a_token_is_unauthorized(headers: dict[str, str]) -> None:
    assert not webhook.is_authorized(headers, [TOKEN_BYTES, OTHER])


def test_no_request_is_authorized_without_a_configured_token() -> None:
    assert not webhook.is_authorized({"x-api-key": "", **basic(":")}, [])


def test_a_token_may_hold_colons_and_any_utf_8() -> None:
    token = "zürich:東京:🚨"

    for headers in ({"authorization": f"Bearer {token}"}, {"x-api-key": token}, basic(f"user:{token}")):
        assert webhook.is_authorized(headers, [token.encode()])


@pytest.mark.parametrize("guess", [TOKEN, "?"])
def test_every_presented_token_is_compared_with_every_configured_one_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, guess: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare_digest = hmac.compare_digest

    def compare(presented: bytes, token: bytes) -> bool:
        compared.append((presented, token))
        return compare_digest(presented, token)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    webhook.is_authorized({"x-api-key": guess, **basic(f"{guess}:{guess}")}, [TOKEN_BYTES, OTHER])

    assert compared == [(guess.encode(), token) for _ in range(3) for token in (TOKEN_BYTES, OTHER)]


# -- readable bodies ---------------------------------------------------------------------------------------------------

PACKED = gzip.compress(JSON.encode(), mtime=0)
REST = [*[gzip.compress(b"")] * 98, gzip.compress(JSON[9:].encode())]
READABLE = {
    "text, isBase64Encoded missing": {"body": JSON},
    "text with white space": as_text(f"\r\n\t {JSON} \n"),
    "text with a byte order mark": as_text("\ufeff" + JSON),
    "base64": in_base64(JSON.encode()),
    "base64 of gzip": in_base64(PACKED),
    "gzip read as Latin-1, which loses no byte": as_text(PACKED.decode("latin-1")),
    # RFC 1952, section 2.2: one member after the other. gzip skips the zeros with which tape drives fill their blocks.
    "gzip of 100 members with zeros in between": in_base64(b"\0\0".join([gzip.compress(JSON[:9].encode()), *REST])),
    "5 MB": as_text(JSON.ljust(5 * MEGABYTE)),
    "5 MB when decompressed": in_base64(gzip.compress(JSON.encode().ljust(5 * MEGABYTE), 1)),
}


@pytest.mark.parametrize("gateway_event", READABLE.values(), ids=READABLE)
def test_an_event_is_read_in_any_encoding(gateway_event: dict[str, Any]) -> None:
    assert webhook.read_events(gateway_event) == ([EVENT], False)


@pytest.mark.parametrize(
    ("body", "events", "is_batch"),
    [
        (EVENT, [EVENT], False),
        ({}, [{}], False),
        ({**EVENT, "batch": [1]}, [{**EVENT, "batch": [1]}], False),
        ([EVENT, {}], [EVENT, {}], True),
        ([EVENT], [EVENT], True),
        ({"batch": [EVENT], "sentAt": "2026-06-30T11:00:00Z"}, [EVENT], True),
        ([1, None, "x", []], [1, None, "x", []], True),
        ({"batch": [False, {}]}, [False, {}], True),
        ([0] * 200, [0] * 200, True),
    ],
    ids=["event", "empty event", "event with a batch", "array", "array of one", "batch", "no events", "{}", "200"],
)
def test_events_are_found_in_their_order(body: object, events: list[Any], is_batch: bool) -> None:  # noqa: FBT001 -- a table
    assert webhook.read_events(as_text(json.dumps(body))) == (events, is_batch)


def test_on_v1_track_every_event_is_a_track_call() -> None:
    body = as_text(json.dumps([{"event": "Disk full"}, {"type": "page"}, 5]))
    events = [{"event": "Disk full", "type": "track"}, {"type": "track"}, 5]

    assert webhook.read_events(body, is_track_route=True) == (events, True)


# -- unreadable bodies, awkward values ---------------------------------------------------------------------------------

DEEP = 100_000
UNREADABLE = {
    "no body": ({}, "body_empty"),
    "blank": (as_text(" \r\n\t"), "body_empty"),
    "JSON and more": (as_text(JSON + "x"), "body_not_json"),
    "integer of 5,000 digits in broken JSON": (as_text('{"a": ' + "9" * 5000 + ', "b": }'), "body_not_json"),
    "arrays, 100,000 deep": (as_text("[" * DEEP + "]" * DEEP), "body_too_deep"),
    "integer of 5,000 digits, then 100,000 deep": (as_text("[" + "9" * 5000 + "," + "[" * DEEP), "body_too_deep"),
    "invalid UTF-8": (in_base64(b'{"type": "tr\xffack"}'), "body_not_utf8"),
    "encoded surrogate": (in_base64(b'{"event": "\xed\xa0\xbd"}'), "body_not_utf8"),
    "invalid base64": ({"body": "%%%%", "isBase64Encoded": True}, "body_not_base64"),
    "base64 that is not ASCII": ({"body": "\ud83d===", "isBase64Encoded": True}, "body_not_base64"),
    "number": (as_text("0"), "body_without_events"),
    "empty array": (as_text("[]"), "body_without_events"),
    "batch that is an object": (as_text('{"batch": {"type": "track"}}'), "body_without_events"),
    "201 events": (as_text(json.dumps([0] * 201)), "too_many_events"),
    "more than 5 MB in bytes alone": (as_text('["' + "é" * (3 * MEGABYTE) + '"]'), "body_too_large"),
    "a byte too many when decompressed": (in_base64(gzip.compress(bytes(5 * MEGABYTE + 1), 1)), "body_too_large"),
    "more than 5 MB in two members": (in_base64(gzip.compress(bytes(3 * MEGABYTE), 1) * 2), "body_too_large"),
    "gzip of 101 members": (in_base64(PACKED + gzip.compress(b" ") * 100), "body_too_large"),
    "gzip without its last byte": (in_base64(PACKED[:-1]), "gzip_damaged"),
    "gzip followed by something else": (in_base64(PACKED + b"x"), "gzip_damaged"),
    "gzip with a damaged second member": (in_base64(PACKED + PACKED[:-1]), "gzip_damaged"),
    "gzip read as UTF-8": (as_text(PACKED.decode("utf-8", "replace")), "gzip_damaged"),
}


@pytest.mark.parametrize(("gateway_event", "code"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_body_is_refused_for_its_reason(gateway_event: dict[str, Any], code: str) -> None:
    with pytest.raises(ProcessingError, match=r"^body: ") as refusal:
        webhook.read_events(gateway_event)

    assert refusal.value.outcome.code == code


@pytest.mark.parametrize("body", ["{'type'", '{"a": nan}', "[" * DEEP, "5"])
def test_a_refusal_is_short_and_does_not_quote_the_body(body: str) -> None:
    with pytest.raises(ProcessingError) as refusal:
        webhook.read_events(as_text(body + " confidential" * 1000))

    assert len(refusal.value.outcome.message) < 200
    assert "confidential" not in refusal.value.outcome.message


def test_a_refusal_of_json_names_the_line_and_column() -> None:
    with pytest.raises(ProcessingError, match="line 2, column 3"):
        webhook.read_events(as_text('{"type": "track",\n  x}'))


@pytest.mark.parametrize("rest", ["", f", {'9' * 5000}"], ids=["alone", "beside an integer of 5,000 digits"])
def test_nan_counts_as_missing(rest: str) -> None:
    assert is_missing(events_in(f'[{{"a": NaN}}{rest}]')[0]["a"])


def test_half_a_surrogate_pair_in_the_text_becomes_a_question_mark() -> None:
    assert events_in('{"a": "x\ud83dy"}') == [{"a": "x?y"}]


# -- the answer --------------------------------------------------------------------------------------------------------

DELIVERED = Outcome("delivered", "PagerDuty accepted the event", dedup_key="disk")
QUEUED = Outcome("queued", "It is in the queue")
PREVIEW = Outcome("preview", "This would be sent", content={"event_action": "trigger"})
IGNORED = Outcome("not_a_track_call", "type: a page call")
REJECTED = Outcome("source_missing", "properties.source: missing")
UNAVAILABLE = Outcome("pagerduty_unavailable", "PagerDuty answered 500")
LATE = Outcome("pagerduty_timeout", "PagerDuty did not answer")
BUG = Outcome("internal_error", "The function failed")


def content(response: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(response["body"])
    return read


@pytest.mark.parametrize(
    ("outcomes", "status", "decisive"),
    [
        ([REJECTED, REJECTED], 400, REJECTED),
        ([REJECTED, IGNORED], 200, IGNORED),
        ([IGNORED, QUEUED, DELIVERED], 200, DELIVERED),
        ([PREVIEW, QUEUED], 200, QUEUED),
        ([IGNORED, PREVIEW], 200, PREVIEW),
        ([DELIVERED, BUG], 500, BUG),
        ([BUG, LATE, UNAVAILABLE], 503, UNAVAILABLE),
        ([BUG, LATE], 504, LATE),
    ],
    ids=lambda value: " ".join(outcome.code for outcome in value[-3:]) if isinstance(value, list) else "",
)
def test_many_events_share_one_status(outcomes: list[Outcome], status: int, decisive: Outcome) -> None:
    response = webhook.answer(outcomes, is_batch=True)

    assert response["statusCode"] == status
    assert (content(response)["status"], content(response)["code"]) == (decisive.status, decisive.code)


def test_the_answer_to_one_event_has_these_fields() -> None:
    message = 'Any text: 🚨 \ud83d \x00 \u2028 "'
    outcome = Outcome("pagerduty_timeout", message, detail="for the log", dedup_key="disk", warnings=("event: cut",))

    response = webhook.answer([outcome], is_batch=False)

    assert (response["statusCode"], response["headers"]) == (504, {"content-type": "application/json"})
    assert content(response) == {
        "status": "deferred",
        "code": "pagerduty_timeout",
        "message": 'Any text: 🚨 ? \x00 \u2028 "',
        "dedup_key": "disk",
        "warnings": ["event: cut"],
    }


def test_the_answer_to_many_events_counts_them_and_has_a_result_for_each_in_their_order() -> None:
    outcomes = [REJECTED, DELIVERED, UNAVAILABLE, DELIVERED]

    response = webhook.answer(outcomes, is_batch=True)

    assert (response["statusCode"], response["headers"]) == (503, {"content-type": "application/json"})
    assert content(response) == {
        "status": "deferred",
        "code": "pagerduty_unavailable",
        "message": "4 events: 1 rejected, 2 delivered, 1 deferred. PagerDuty answered 500",
        "results": [content(webhook.answer([outcome], is_batch=False)) for outcome in outcomes],
    }


def test_an_answer_that_lambda_would_refuse_is_shortened() -> None:
    outcome = Outcome("preview", "", content={"text": "x" * MEGABYTE})

    assert len(content(webhook.answer([outcome], is_batch=True))["results"]) == 1
    assert content(webhook.answer([outcome, outcome], is_batch=True)) == {
        "status": "preview",
        "code": "preview",
        "message": "2 events: 2 preview (the rest of this answer was too long)",
    }


# -- a batch -----------------------------------------------------------------------------------------------------------

# Failures of SQS and the deadline concern the batch, not an event.
OF_THE_BATCH = {"queue_unavailable", "earlier_event_deferred", "deadline_exceeded"}
# Outcomes of an event that is alone, or of which nothing in the batch can be queued.
NEVER_BESIDE_A_QUEUED_ONE = {
    *("pagerduty_rate_limited", "pagerduty_unavailable", "pagerduty_unreachable", "pagerduty_timeout"),
    *("pagerduty_unexpected", "routing_key_missing", "routing_key_refused", "secrets_unavailable"),
    *("rate_limit_delay", "earlier_events_queued", "flow_control_unavailable"),
    *("webhook_token_missing", "settings_invalid", "merged"),
}


@pytest.mark.parametrize("code", sorted(CODES.keys() - NEVER_BESIDE_A_QUEUED_ONE))
def test_a_batch_with_a_queued_event_is_not_retried_because_of_another_event(code: Code) -> None:
    outcomes = webhook.settle_batch([QUEUED, Outcome(code, "")])
    is_retried = webhook.answer(outcomes, is_batch=True)["statusCode"] not in {200, 400}

    assert is_retried == (code in OF_THE_BATCH)
