"""The HTTP edge: who is let in, what is read from any body whatever, and the one status that answers many events."""

import base64
import gzip
import hmac
import json
from collections.abc import Sequence
from typing import Any

import pytest

import webhook
from outcome import CODES, Call, Outcome, ProcessingError
from paths import is_missing

MEGABYTE = 1024 * 1024
SECRET = b"correct-horse-battery-staple"
OTHER = b"another-secret-of-the-tests"
EVENT = {"type": "track", "event": "Disk full", "properties": {"source": "db-1"}}


def basic(credentials: str | bytes) -> dict[str, str]:
    raw = credentials if isinstance(credentials, bytes) else credentials.encode()
    return {"authorization": f"Basic {base64.b64encode(raw).decode()}"}


def in_base64(body: bytes) -> dict[str, Any]:
    return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}


def as_text(body: str) -> dict[str, Any]:
    return {"body": body, "isBase64Encoded": False}


def events_in(gateway_event: dict[str, Any]) -> list[Any]:
    events, _ = webhook.read_events(gateway_event)
    return events


def refusal_of(gateway_event: dict[str, Any]) -> tuple[str, int]:
    with pytest.raises(ProcessingError) as refusal:
        webhook.read_events(gateway_event)
    assert refusal.value.outcome.message.startswith("body: ")
    return refusal.value.outcome.code, refusal.value.outcome.http_status


# -- the request but its body ----------------------------------------------------------------------------------------


def test_the_names_of_headers_are_read_in_any_case() -> None:
    request = webhook.open_request({"headers": {"AUTHORIZATION": "Bearer T", "x-Api-KEY": "T"}})

    assert request.headers == {"authorization": "Bearer T", "x-api-key": "T"}


def test_the_plain_routes_are_the_default_services() -> None:
    assert webhook.open_request({"routeKey": "POST /events"}).service == "default"


@pytest.mark.parametrize("name", ["default", "payments", "a", "A.b-c_9", "0", "x" * 64, "...", "-"])
def test_a_service_may_have_this_name(name: str) -> None:
    assert webhook.open_request({"pathParameters": {"service": name}}).service == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "a/b",
        "a b",
        "a%20b",
        "pay\u0301ments",
        "zürich",
        "\u0661",
        "a\n",
        "\na",
        "*",
        "a,b",
        "a:b",
        "a\x00",
    ],
)
def test_no_service_can_have_this_name(name: str) -> None:
    assert webhook.open_request({"pathParameters": {"service": name}}).service is None


@pytest.mark.parametrize(
    "gateway_event",
    [{}, {"headers": None, "pathParameters": None, "queryStringParameters": None}, {"headers": {}, "body": None}],
)
def test_a_request_without_anything_is_read(gateway_event: dict[str, Any]) -> None:
    request = webhook.open_request(gateway_event)

    assert (request.headers, request.service, request.is_track_route) == ({}, "default", False)
    assert not webhook.wants_preview(request)


@pytest.mark.parametrize(
    ("route", "is_track_route"),
    [
        ("POST /v1/track", True),
        ("POST /v1/batch", False),
        ("POST /events", False),
        ("POST /events/{service}", False),
        ("$default", False),
    ],
)
def test_only_on_v1_track_the_path_is_the_type(route: str, is_track_route: bool) -> None:  # noqa: FBT001 -- one column of the table
    assert webhook.open_request({"routeKey": route}).is_track_route is is_track_route


@pytest.mark.parametrize("value", ["true", "True", "TRUE", " true "])
@pytest.mark.parametrize("name", ["preview", "Preview", "PREVIEW"])
def test_a_preview_is_asked_for(name: str, value: str) -> None:
    assert webhook.wants_preview(webhook.open_request({"queryStringParameters": {name: value}}))


@pytest.mark.parametrize("query", [{}, {"preview": "false"}, {"preview": "FALSE"}])
def test_no_preview_is_asked_for(query: dict[str, str]) -> None:
    assert not webhook.wants_preview(webhook.open_request({"queryStringParameters": query}))


@pytest.mark.parametrize("value", ["", "1", "yes", "treu", "true,false", "null"])
def test_a_preview_that_is_unclear_pages_nobody(value: str) -> None:
    request = webhook.open_request({"queryStringParameters": {"preview": value}})

    with pytest.raises(ProcessingError, match="preview must be true or false") as refusal:
        webhook.wants_preview(request)

    assert (refusal.value.outcome.code, refusal.value.outcome.http_status) == ("preview_invalid", 400)


@pytest.mark.parametrize(
    "query",
    [
        {"preview": "false", "PREVIEW": "true"},
        {"PREVIEW": "true", "preview": "false"},
        {"Preview": "true", "preview": "true"},
    ],
)
def test_a_preview_that_is_given_twice_pages_nobody(query: dict[str, str]) -> None:
    with pytest.raises(ProcessingError, match="preview must be true or false, once") as refusal:
        webhook.wants_preview(webhook.open_request({"queryStringParameters": query}))

    assert (refusal.value.outcome.code, refusal.value.outcome.http_status) == ("preview_invalid", 400)


@pytest.mark.parametrize("query", [{"other": "true"}, {"preview": "true", "previev": "true"}, {"preview ": "true"}])
def test_a_query_parameter_that_nobody_knows_pages_nobody(query: dict[str, str]) -> None:
    request = webhook.open_request({"queryStringParameters": query})

    with pytest.raises(ProcessingError, match="preview is the only parameter") as refusal:
        webhook.wants_preview(request)

    assert (refusal.value.outcome.code, refusal.value.outcome.http_status) == ("query_unknown", 400)


# -- who is let in ---------------------------------------------------------------------------------------------------

T = SECRET.decode()
LET_IN = {
    "a bearer token": {"authorization": f"Bearer {T}"},
    "a bearer token, scheme in lower case": {"authorization": f"bearer {T}"},
    "a bearer token, scheme in upper case": {"authorization": f"BEARER {T}"},
    "a bearer token with white space around it": {"authorization": f"  Bearer   {T}  "},
    "the user of Basic, as SDKs send the write key": basic(f"{T}:"),
    "the user of Basic with some password": basic(f"{T}:password"),
    "the user of Basic without a colon": basic(T),
    "the password of Basic": basic(f"rudderstack:{T}"),
    "the password of Basic without a user": basic(f":{T}"),
    "Basic, scheme in lower case": {"authorization": basic(f"{T}:")["authorization"].replace("Basic", "basic")},
    "Basic, scheme in upper case": {"authorization": basic(f"{T}:")["authorization"].replace("Basic", "BASIC")},
    "Basic whose user is no text": basic(b"\xff\xfe:" + SECRET),
    "an API key": {"x-api-key": T},
    "an API key with white space around it": {"x-api-key": f" {T} "},
    "an API key beside a wrong bearer token": {"x-api-key": T, "authorization": "Bearer wrong"},
    "a bearer token beside a wrong API key": {"x-api-key": "wrong", "authorization": f"Bearer {T}"},
}
SENT_AWAY = {
    "no header": {},
    "other headers": {"content-type": "application/json", "cookie": T, "api-key": T, "x-api-token": T},
    "an empty header": {"authorization": ""},
    "a blank header": {"authorization": "   "},
    "a scheme alone": {"authorization": "Bearer"},
    "a scheme and a space": {"authorization": "Bearer "},
    "Basic alone": {"authorization": "Basic"},
    "Basic of nothing": basic(""),
    "Basic of a colon": basic(":"),
    "the token without a scheme": {"authorization": T},
    "the token with another scheme": {"authorization": f"Token {T}"},
    "the token with an unknown scheme": {"authorization": f"Digest {T}"},
    "a wrong bearer token": {"authorization": "Bearer wrong"},
    "a bearer token that begins right": {"authorization": f"Bearer {T[:-1]}"},
    "a bearer token that goes on": {"authorization": f"Bearer {T}x"},
    "a bearer token in another case": {"authorization": f"Bearer {T.upper()}"},
    "a bearer token of two words": {"authorization": f"Bearer {T} {T}"},
    "two headers, joined as API Gateway joins them": {"authorization": f"Bearer {T},Bearer {T}"},
    "two headers, one wrong": {"authorization": f"Bearer wrong, Bearer {T}"},
    "a bearer token in quotes": {"authorization": f'Bearer "{T}"'},
    "a bearer token in base64": {"authorization": f"Bearer {base64.b64encode(SECRET).decode()}"},
    "Basic in plain text": {"authorization": f"Basic {T}:"},
    "Basic that is no base64": {"authorization": "Basic %%%%"},
    "Basic with a character that is not base64's": {"authorization": basic(f"{T}:")["authorization"] + "!"},
    "what Basic has, with another scheme": {
        "authorization": basic(f"{T}:")["authorization"].replace("Basic", "Digest")
    },
    "Basic without its padding": {"authorization": basic(f"{T}:")["authorization"].rstrip("=")},
    "Basic with a letter too many": {"authorization": "Basic A"},
    "Basic that is not ASCII": {"authorization": "Basic Zürich"},
    "Basic with a wrong user and password": basic("user:password"),
    "Basic with the secret spread over both": basic(f"{T[:5]}:{T[5:]}"),
    "Basic with the secret inside the password": basic(f"user:x:{T}"),
    "a bearer token that is not ASCII": {"authorization": "Bearer zürich-東京-🚨-zürich-東京"},
    "a bearer token with half a surrogate pair": {"authorization": "Bearer \ud83d\udca9\ud83d"},
    "a bearer token with a zero byte": {"authorization": f"Bearer {T}\x00"},
    "a huge header": {"authorization": "Bearer " + "x" * 1_000_000},
    "an empty API key": {"x-api-key": ""},
    "a wrong API key": {"x-api-key": "wrong"},
    "an API key that is not ASCII": {"x-api-key": "zürich-\ud83d"},
    "an API key with a scheme": {"x-api-key": f"Bearer {T}"},
}


@pytest.mark.parametrize("headers", LET_IN.values(), ids=LET_IN)
def test_who_knows_the_secret_is_let_in(headers: dict[str, str]) -> None:
    assert webhook.is_authorized(headers, [SECRET])


@pytest.mark.parametrize("headers", SENT_AWAY.values(), ids=SENT_AWAY)
def test_everybody_else_is_sent_away(headers: dict[str, str]) -> None:
    assert not webhook.is_authorized(headers, [SECRET, OTHER])


@pytest.mark.parametrize("headers", [*LET_IN.values(), *SENT_AWAY.values()], ids=[*LET_IN, *SENT_AWAY])
def test_without_a_secret_nobody_is_let_in(headers: dict[str, str]) -> None:
    assert not webhook.is_authorized(headers, [])


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("headers", LET_IN.values(), ids=LET_IN)
def test_any_of_several_secrets_will_do(headers: dict[str, str], position: int) -> None:
    secrets = [OTHER, b"a-third-secret-of-the-tests"]
    secrets.insert(position, SECRET)

    assert webhook.is_authorized(headers, secrets)


def test_two_of_several_secrets_put_together_will_not_do() -> None:
    assert not webhook.is_authorized({"authorization": f"Bearer {T} {OTHER.decode()}"}, [SECRET, OTHER])


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer zürich-東京-🚨"}, {"x-api-key": "zürich-東京-🚨"}, basic("zürich-東京-🚨:")],
    ids=["Bearer", "X-Api-Key", "Basic"],
)
def test_a_secret_that_is_not_ascii_is_compared_as_utf_8(headers: dict[str, str]) -> None:
    assert webhook.is_authorized(headers, ["zürich-東京-🚨".encode()])


def test_a_secret_with_a_colon_is_let_in_as_password() -> None:
    assert webhook.is_authorized(basic("user:a-secret:with-a-colon"), [b"a-secret:with-a-colon"])


@pytest.mark.parametrize("guess", [T, f"{T[:-1]}?", "?"])
def test_all_that_is_presented_is_compared_with_every_secret_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, guess: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(presented: bytes, secret: bytes) -> bool:
        compared.append((presented, secret))
        return hmac_compare_digest(presented, secret)

    hmac_compare_digest = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    webhook.is_authorized({"x-api-key": guess, **basic(f"{guess}:{guess}")}, [SECRET, OTHER])

    assert compared == [(guess.encode(), secret) for _ in range(3) for secret in (SECRET, OTHER)]


# -- bodies that can be read -----------------------------------------------------------------------------------------

READABLE = {
    "text": as_text(json.dumps(EVENT)),
    "text, nobody says whether it is base64": {"body": json.dumps(EVENT)},
    "text with white space around it": as_text(f"\r\n\t {json.dumps(EVENT)} \n"),
    "text with a byte order mark": as_text("\ufeff" + json.dumps(EVENT)),
    "base64": in_base64(json.dumps(EVENT).encode()),
    "base64 of a byte order mark": in_base64(b"\xef\xbb\xbf" + json.dumps(EVENT).encode()),
    "base64 of gzip": in_base64(gzip.compress(json.dumps(EVENT).encode())),
    "base64 of gzip, labelled as the Node SDK does": {
        **in_base64(gzip.compress(json.dumps(EVENT).encode())),
        "headers": {"content-type": "application/x-www-form-urlencoded", "content-encoding": "gzip"},
    },
    "base64 of gzip, labelled as nothing": {**in_base64(gzip.compress(json.dumps(EVENT).encode())), "headers": {}},
    "base64 of gzip of a byte order mark": in_base64(gzip.compress(b"\xef\xbb\xbf" + json.dumps(EVENT).encode())),
    "gzip announced and not there": {**as_text(json.dumps(EVENT)), "headers": {"content-encoding": "gzip"}},
    "gzip announced and not there, in base64": {
        **in_base64(json.dumps(EVENT).encode()),
        "headers": {"content-encoding": "gzip"},
    },
    "a body of 5 MB": as_text(json.dumps(EVENT).ljust(5 * MEGABYTE)),
    "a body of 5 MB in base64": in_base64(json.dumps(EVENT).encode().ljust(5 * MEGABYTE)),
    "5 MB when decompressed": in_base64(gzip.compress(json.dumps(EVENT).encode().ljust(5 * MEGABYTE))),
}


@pytest.mark.parametrize("gateway_event", READABLE.values(), ids=READABLE)
def test_an_event_is_read_however_it_was_packed(gateway_event: dict[str, Any]) -> None:
    assert webhook.read_events(gateway_event) == ([EVENT], False)


ONE = {
    "an event": (EVENT, [EVENT]),
    "an empty object, whose lack of a type is the event's own": ({}, [{}]),
    "an event that has a batch of its own": ({**EVENT, "batch": [1]}, [{**EVENT, "batch": [1]}]),
}
MANY = {
    "an array": ([EVENT, EVENT], [EVENT, EVENT]),
    "an array of one": ([EVENT], [EVENT]),
    "a batch": ({"batch": [EVENT, EVENT]}, [EVENT, EVENT]),
    "a batch of one": ({"batch": [EVENT]}, [EVENT]),
    "a batch as the Python SDK sends it": ({"batch": [EVENT], "sentAt": "2026-06-30T11:00:00Z"}, [EVENT]),
    "a batch as the Node SDK sends it": (
        {"batch": [EVENT], "timestamp": "2026-06-30T11:00:00Z", "sentAt": "2026-06-30T11:00:00Z"},
        [EVENT],
    ),
    "an array of what are no events, each to be refused by itself": ([1, None, "x", []], [1, None, "x", []]),
    "a batch of what are no events": ({"batch": [False, {}, [[]]]}, [False, {}, [[]]]),
}


@pytest.mark.parametrize(("body", "events"), ONE.values(), ids=ONE)
def test_one_event_is_found(body: Any, events: list[Any]) -> None:
    assert webhook.read_events(as_text(json.dumps(body))) == (events, False)


@pytest.mark.parametrize(("body", "events"), MANY.values(), ids=MANY)
def test_many_events_are_found_in_their_order(body: Any, events: list[Any]) -> None:
    assert webhook.read_events(as_text(json.dumps(body))) == (events, True)


@pytest.mark.parametrize(
    "event", [{"event": "Disk full"}, {"type": None}, {"type": "page"}, {"type": "track"}, {"type": 5}, {}]
)
def test_on_v1_track_every_event_is_a_track_call(event: dict[str, Any]) -> None:
    assert webhook.read_events(as_text(json.dumps(event)), is_track_route=True) == ([{**event, "type": "track"}], False)


def test_on_v1_track_what_is_no_event_stays_what_it_is() -> None:
    assert webhook.read_events(as_text('[{"event": "Disk full"}, 5, null]'), is_track_route=True) == (
        [{"event": "Disk full", "type": "track"}, 5, None],
        True,
    )


@pytest.mark.parametrize("event", [{"event": "Disk full"}, {"type": "page"}])
def test_on_other_routes_the_type_is_the_events_own(event: dict[str, Any]) -> None:
    assert events_in(as_text(json.dumps(event))) == [event]


# -- bodies that cannot ----------------------------------------------------------------------------------------------

PACKED = gzip.compress(json.dumps([EVENT] * 50).encode(), mtime=0)
DEEP = 100_000
UNREADABLE = {
    "no body": ({}, "body_empty", 400),
    "a body that is null": ({"body": None}, "body_empty", 400),
    "an empty body": (as_text(""), "body_empty", 400),
    "an empty body in base64": (in_base64(b""), "body_empty", 400),
    "a blank body": (as_text(" \r\n\t"), "body_empty", 400),
    "a blank body in base64": (in_base64(b" \n"), "body_empty", 400),
    "a byte order mark alone": (as_text("\ufeff"), "body_empty", 400),
    "a byte order mark alone in base64": (in_base64(b"\xef\xbb\xbf"), "body_empty", 400),
    "gzip of nothing": (in_base64(gzip.compress(b"")), "body_empty", 400),
    "no JSON": (as_text("event=Disk+full&type=track"), "body_not_json", 400),
    "XML": (as_text("<event/>"), "body_not_json", 400),
    "half of the JSON": (as_text(json.dumps(EVENT)[:-1]), "body_not_json", 400),
    "JSON and more": (as_text(json.dumps(EVENT) + "x"), "body_not_json", 400),
    "two events, one a line": (as_text(json.dumps(EVENT) + "\n" + json.dumps(EVENT)), "body_not_json", 400),
    "single quotes": (as_text("{'type': 'track'}"), "body_not_json", 400),
    "a comma too many": (as_text('{"type": "track",}'), "body_not_json", 400),
    "a comment": (as_text('{"type": "track"} // it is'), "body_not_json", 400),
    "a line break in a string": (as_text('{"type": "tr\nack"}'), "body_not_json", 400),
    "an escape that JSON does not have": (as_text(r'{"type": "\x74rack"}'), "body_not_json", 400),
    "nan": (as_text('{"type": "track", "properties": {"a": nan}}'), "body_not_json", 400),
    "NaN alone": (as_text("NaN"), "body_without_events", 400),
    "a zero byte": (as_text("\x00"), "body_not_json", 400),
    "an integer of 5,000 digits, and the JSON is broken afterwards": (
        as_text('{"a": ' + "9" * 5000 + ', "b": }'),
        "body_not_json",
        400,
    ),
    "an integer of 5,000 digits, and the JSON ends": (as_text('{"a": ' + "9" * 5000), "body_not_json", 400),
    "an integer of 5,000 digits, and arrays, 100,000 deep, afterwards": (
        as_text("[" + "9" * 5000 + "," + "[" * DEEP + "]" * DEEP + "]"),
        "body_too_deep",
        400,
    ),
    "arrays, 100,000 deep": (as_text("[" * DEEP + "]" * DEEP), "body_too_deep", 400),
    "arrays, 100,000 deep and never closed": (as_text("[" * DEEP), "body_too_deep", 400),
    "objects, 100,000 deep": (as_text('{"a":' * DEEP + "1" + "}" * DEEP), "body_too_deep", 400),
    "arrays, 100,000 deep, in base64 of gzip": (
        in_base64(gzip.compress(b"[" * DEEP + b"]" * DEEP)),
        "body_too_deep",
        400,
    ),
    "invalid UTF-8": (in_base64(b'{"type": "tr\xffack"}'), "body_not_utf8", 400),
    "Latin-1": (in_base64('{"event": "Zürich"}'.encode("latin-1")), "body_not_utf8", 400),
    "UTF-16": (in_base64(json.dumps(EVENT).encode("utf-16")), "body_not_utf8", 400),
    "UTF-8 that ends too soon": (in_base64('{"event": "🚨'.encode()[:-1]), "body_not_utf8", 400),
    "an encoded surrogate": (in_base64(b'{"event": "\xed\xa0\xbd"}'), "body_not_utf8", 400),
    "invalid UTF-8 in gzip": (in_base64(gzip.compress(b'{"type": "tr\xffack"}')), "body_not_utf8", 400),
    "invalid base64": ({"body": "%%%%", "isBase64Encoded": True}, "body_not_base64", 400),
    "base64 without its padding": ({"body": "e30", "isBase64Encoded": True}, "body_not_base64", 400),
    "base64 with a letter too many": ({"body": "A", "isBase64Encoded": True}, "body_not_base64", 400),
    "JSON announced as base64": ({**as_text(json.dumps(EVENT)), "isBase64Encoded": True}, "body_not_base64", 400),
    "base64 that is not ASCII": ({"body": "Zürich==", "isBase64Encoded": True}, "body_not_base64", 400),
    "base64 with half a surrogate pair": ({"body": "\ud83d===", "isBase64Encoded": True}, "body_not_base64", 400),
    "a number": (as_text("5"), "body_without_events", 400),
    "zero": (as_text("0"), "body_without_events", 400),
    "a string": (as_text('"track"'), "body_without_events", 400),
    "an empty string": (as_text('""'), "body_without_events", 400),
    "null": (as_text("null"), "body_without_events", 400),
    "true": (as_text("true"), "body_without_events", 400),
    "false": (as_text("false"), "body_without_events", 400),
    "an empty array": (as_text("[]"), "body_without_events", 400),
    "an empty array in base64 of gzip": (in_base64(gzip.compress(b"[]")), "body_without_events", 400),
    "an empty batch": (as_text('{"batch": []}'), "body_without_events", 400),
    "a batch that is null": (as_text('{"batch": null}'), "body_without_events", 400),
    "a batch that is an object": (as_text('{"batch": {"type": "track"}}'), "body_without_events", 400),
    "a batch that is a string": (as_text('{"batch": "track"}'), "body_without_events", 400),
    "a byte more than 5 MB": (as_text("x" * (5 * MEGABYTE + 1)), "body_too_large", 413),
    "a byte more than 5 MB in base64": (in_base64(b"x" * (5 * MEGABYTE + 1)), "body_too_large", 413),
    "more than 5 MB by its bytes and not its characters": (
        as_text('["' + "é" * (3 * MEGABYTE) + '"]'),
        "body_too_large",
        413,
    ),
    "10 MB": (as_text("x" * (10 * MEGABYTE)), "body_too_large", 413),
    "10 MB of JSON in base64": (in_base64(b'["' + b"x" * (10 * MEGABYTE) + b'"]'), "body_too_large", 413),
    "a byte more than 5 MB when decompressed": (
        in_base64(gzip.compress(b"[]".ljust(5 * MEGABYTE + 1), 1)),
        "body_too_large",
        413,
    ),
    "a gzip bomb": (in_base64(gzip.compress(bytes(50 * MEGABYTE), 1)), "body_too_large", 413),
    "gzip that was cut off": (in_base64(PACKED[:-20]), "gzip_damaged", 400),
    "gzip without the last byte of its checksum": (in_base64(PACKED[:-1]), "gzip_damaged", 400),
    "gzip that is its signature only": (in_base64(b"\x1f\x8b"), "gzip_damaged", 400),
    "gzip with a wrong checksum": (in_base64(PACKED[:-8] + bytes(4) + PACKED[-4:]), "gzip_damaged", 400),
    "gzip with other bytes in it": (in_base64(PACKED[:20] + bytes(10) + PACKED[30:]), "gzip_damaged", 400),
    "gzip with an unknown method": (in_base64(b"\x1f\x8b\x09" + PACKED[3:]), "gzip_damaged", 400),
    "gzip followed by something else": (in_base64(PACKED + b"x"), "gzip_damaged", 400),
    "gzip of which the second member was cut off": (in_base64(PACKED + PACKED[:-1]), "gzip_damaged", 400),
    "more than 5 MB in several members": (
        in_base64(gzip.compress(bytes(3 * MEGABYTE)) * 2),
        "body_too_large",
        413,
    ),
    "gzip of 101 members": (in_base64(gzip.compress(b"[") + gzip.compress(b" ") * 100), "body_too_large", 413),
    "gzip read as UTF-8": (as_text(PACKED.decode("utf-8", "replace")), "gzip_damaged", 400),
}


@pytest.mark.parametrize(("gateway_event", "code", "status"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused_for_its_reason(
    gateway_event: dict[str, Any], code: str, status: int
) -> None:
    assert refusal_of(gateway_event) == (code, status)


def test_damaged_gzip_says_to_switch_it_off_in_the_sdk() -> None:
    with pytest.raises(ProcessingError, match="switch gzip off in the SDK"):
        webhook.read_events(as_text(PACKED.decode("utf-8", "replace")))


def test_gzip_read_as_latin_1_is_refused_as_damaged_or_read_as_what_it_was() -> None:
    # Latin-1 loses no byte, so both are the truth.
    try:
        events = events_in(as_text(PACKED.decode("latin-1")))
    except ProcessingError as error:
        assert error.outcome.code == "gzip_damaged"  # noqa: PT017 -- either is right
    else:
        assert events == [EVENT] * 50


def test_a_body_of_several_gzip_members_is_not_read_in_part() -> None:
    # RFC 1952, section 2.2: a gzip file is one member or several, simply one after the other.
    text = json.dumps([EVENT] * 50).encode()
    body = in_base64(gzip.compress(text[:100]) + gzip.compress(text[100:]))

    assert events_in(body) == [EVENT] * 50


def test_gzip_of_100_members_padded_with_zeros_is_read() -> None:
    # gzip and Python's module skip zeros after a member, with which tape drives fill their blocks.
    members = [gzip.compress(part.encode()) + bytes(7) for part in json.dumps([EVENT]).split(" ", 1)]
    body = in_base64(members[0] + gzip.compress(b" ") * 98 + members[1])

    assert events_in(body) == [EVENT]


@pytest.mark.parametrize("body", ["{'type'", '{"a": nan}', "[" * DEEP, "5"])
def test_a_refusal_is_short_and_does_not_quote_the_body(body: str) -> None:
    with pytest.raises(ProcessingError) as refusal:
        webhook.read_events(as_text(body + " confidential" * 1000))

    assert len(refusal.value.outcome.message) < 200
    assert "confidential" not in refusal.value.outcome.message


def test_a_refusal_of_json_tells_the_place() -> None:
    with pytest.raises(ProcessingError, match="line 2, column 3"):
        webhook.read_events(as_text('{"type": "track",\n  x}'))


# -- values that are awkward -----------------------------------------------------------------------------------------


def test_of_duplicate_keys_the_last_one_counts() -> None:
    body = '{"type": "page", "type": "track", "properties": {"a": 1}, "properties": {"b": 2}}'

    assert events_in(as_text(body)) == [{"type": "track", "properties": {"b": 2}}]


@pytest.mark.parametrize("digits", ["1e999", "-1e999", "1E400", "9" * 400 + ".5", "9" * 5000, "-" + "9" * 5000])
def test_a_number_too_large_to_be_read_does_not_lose_the_event_and_is_never_infinite(digits: str) -> None:
    events = events_in(as_text(f'[{{"properties": {{"a": {digits}}}}}]'))

    assert json.loads(json.dumps(events, allow_nan=False)) == [{"properties": {"a": digits}}]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_have_costs_no_event_and_becomes_a_text_that_counts_as_blank(number: str) -> None:
    # An integer of 5,000 digits takes another way through the parser.
    bodies = [f'[{{"a": {number}}}, {{"b": 1}}]', f'[{{"a": {number}}}, {{"b": {"1" * 5000}}}]']

    values = [events_in(as_text(body))[0]["a"] for body in bodies]

    assert json.loads(json.dumps(values, allow_nan=False)) == [number, number]
    assert [is_missing(value) for value in values] == [True, True]


@pytest.mark.parametrize("number", ["0", "-0.0", "5", "5.0", "0.75", "1e-7", "1e300", "12345678901234567890123"])
def test_every_other_number_stays_what_it_is(number: str) -> None:
    (value,) = events_in(as_text(f"[{number}]"))

    assert repr(value) == repr(json.loads(number))


def test_half_a_surrogate_pair_in_the_text_itself_becomes_a_question_mark() -> None:
    assert events_in(as_text('{"a": "x\ud83dy"}')) == [{"a": "x?y"}]


# -- the answer ------------------------------------------------------------------------------------------------------

DELIVERED = Outcome("delivered", "PagerDuty took it", dedup_key="disk")
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
    ("outcome", "status"),
    [
        (DELIVERED, 200),
        (QUEUED, 200),
        (PREVIEW, 200),
        (IGNORED, 200),
        (REJECTED, 400),
        (UNAVAILABLE, 503),
        (LATE, 504),
        (BUG, 500),
    ],
    ids=lambda value: value.code if isinstance(value, Outcome) else str(value),
)
def test_one_event_is_answered_with_its_own_status(outcome: Outcome, status: int) -> None:
    assert webhook.answer([outcome], is_batch=False)["statusCode"] == status


@pytest.mark.parametrize(
    ("outcomes", "status", "decisive"),
    [
        ([DELIVERED], 200, DELIVERED),
        ([QUEUED], 200, QUEUED),
        ([PREVIEW], 200, PREVIEW),
        ([IGNORED], 200, IGNORED),
        ([REJECTED], 400, REJECTED),
        ([UNAVAILABLE], 503, UNAVAILABLE),
        ([LATE], 504, LATE),
        ([BUG], 500, BUG),
        ([DELIVERED, DELIVERED], 200, DELIVERED),
        ([REJECTED, DELIVERED], 200, DELIVERED),
        ([REJECTED, QUEUED], 200, QUEUED),
        ([REJECTED, IGNORED], 200, IGNORED),
        ([REJECTED, PREVIEW], 200, PREVIEW),
        ([REJECTED, REJECTED], 400, REJECTED),
        ([REJECTED] * 99 + [IGNORED], 200, IGNORED),
        ([DELIVERED, REJECTED, UNAVAILABLE], 503, UNAVAILABLE),
        ([REJECTED, REJECTED, LATE], 504, LATE),
        ([IGNORED, BUG], 500, BUG),
        ([QUEUED, UNAVAILABLE], 503, UNAVAILABLE),
        ([DELIVERED] * 99 + [LATE], 504, LATE),
        ([BUG, LATE, UNAVAILABLE], 503, UNAVAILABLE),
        ([UNAVAILABLE, LATE, BUG], 503, UNAVAILABLE),
        ([BUG, LATE], 504, LATE),
        ([LATE, BUG], 504, LATE),
        ([BUG, REJECTED, DELIVERED], 500, BUG),
        ([BUG, UNAVAILABLE], 503, UNAVAILABLE),
    ],
    ids=lambda value: " ".join(outcome.code for outcome in value[-4:]) if isinstance(value, list) else "",
)
def test_many_events_share_one_status(outcomes: Sequence[Outcome], status: int, decisive: Outcome) -> None:
    response = webhook.answer(outcomes, is_batch=True)

    assert response["statusCode"] == status
    assert (content(response)["status"], content(response)["code"]) == (decisive.status, decisive.code)


def test_the_answer_to_one_event_has_these_fields() -> None:
    outcome = Outcome(
        "delivered",
        "PagerDuty took it",
        detail="for the log",
        message_id="m-1",
        dedup_key="disk",
        warnings=("event: cut",),
        call=Call(status=202, seconds=0.1, attempts=1),
    )

    assert content(webhook.answer([outcome], is_batch=False)) == {
        "status": "delivered",
        "code": "delivered",
        "message": "PagerDuty took it",
        "dedup_key": "disk",
        "warnings": ["event: cut"],
    }


def test_the_answer_to_a_preview_shows_the_event() -> None:
    assert content(webhook.answer([PREVIEW], is_batch=False)) == {
        "status": "preview",
        "code": "preview",
        "message": "This would be sent",
        "dedup_key": None,
        "warnings": [],
        "event": {"event_action": "trigger"},
    }


def test_the_answer_to_many_events_has_one_result_each_in_their_order() -> None:
    outcomes = [REJECTED, DELIVERED, IGNORED, PREVIEW]

    answer = content(webhook.answer(outcomes, is_batch=True))

    assert set(answer) == {"status", "code", "message", "results"}
    assert answer["results"] == [content(webhook.answer([outcome], is_batch=False)) for outcome in outcomes]


def test_the_answer_to_many_events_counts_them() -> None:
    answer = content(webhook.answer([DELIVERED, REJECTED, DELIVERED, UNAVAILABLE], is_batch=True))

    assert "4 events" in answer["message"]
    assert "2 delivered" in answer["message"]
    assert "1 rejected" in answer["message"]
    assert "1 deferred" in answer["message"]


def test_the_answer_to_many_events_says_what_was_wrong() -> None:
    assert UNAVAILABLE.message in content(webhook.answer([DELIVERED, UNAVAILABLE], is_batch=True))["message"]


@pytest.mark.parametrize("code", CODES)
def test_a_refused_request_is_answered_with_the_result_and_status_of_its_code(code: str) -> None:
    response = webhook.refusal(Outcome(code, "what is wrong", detail="for the log"))

    result, status = CODES[code]
    assert response["statusCode"] == status
    assert content(response) == {"status": result, "code": code, "message": "what is wrong"}


@pytest.mark.parametrize(
    "response",
    [
        webhook.answer([DELIVERED], is_batch=False),
        webhook.answer([DELIVERED, REJECTED], is_batch=True),
        webhook.refusal(Outcome("unauthorized", "No")),
    ],
    ids=["one", "many", "refusal"],
)
def test_every_answer_is_labelled_as_json(response: dict[str, Any]) -> None:
    assert {name.lower(): value for name, value in response["headers"].items()} == {"content-type": "application/json"}


def test_an_answer_holds_any_text() -> None:
    outcome = Outcome("delivered", "🚨 \ud83d \x00 \u2028", dedup_key='"\\')

    response = webhook.answer([outcome], is_batch=False)

    assert (content(response)["message"], content(response)["dedup_key"]) == ("🚨 ? \x00 \u2028", '"\\')


# -- a batch ---------------------------------------------------------------------------------------------------------

# Trouble of SQS's, or of time, hits a batch whatever its events are.
OF_THE_BATCH = {"queue_unavailable", "earlier_event_deferred", "deadline_exceeded"}
# What an event can end with only if it is alone, or if nothing of its batch can be queued.
NEVER_BESIDE_A_QUEUED_ONE = {
    *("pagerduty_rate_limited", "pagerduty_unavailable", "pagerduty_unreachable", "pagerduty_timeout"),
    *("pagerduty_unexpected", "routing_key_missing", "routing_key_refused", "secrets_unavailable"),
    *("rate_limit_delay", "earlier_events_queued", "flow_control_unavailable"),
    *("webhook_token_missing", "settings_invalid", "merged"),
}


@pytest.mark.parametrize("code", sorted(CODES.keys() - NEVER_BESIDE_A_QUEUED_ONE))
def test_in_a_batch_of_which_an_event_was_queued_no_outcome_depends_on_an_event_and_is_again(code: str) -> None:
    outcomes = webhook.settle_batch([Outcome("queued", ""), Outcome(code, "")])
    is_again = webhook.answer(outcomes, is_batch=True)["statusCode"] not in {200, 400}

    assert is_again == (code in OF_THE_BATCH)
