"""The HTTP edge: an API Gateway event (payload format 2.0) in, events out; outcomes in, an answer out.

Pure. https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

import base64
import binascii
import hmac
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from event import SERVICE, decode, encode
from outcome import Outcome, ProcessingError

# Limits of this product. Of JSON however it arrives, since a small body may unfold into a large one: RudderStack sends
# 4 MB at most.
MAX_JSON_BYTES: Final = 5 * 1024 * 1024
# What can be enqueued before the deadline if all are of one incident, a call to SQS each. RudderStack sends 100.
MAX_EVENTS: Final = 200
# Lambda answers at most 6 MB, of JSON in which our JSON is a text with each quotation mark escaped:
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024

_TRACK_ROUTE: Final = "POST /v1/track"
_DATA_PLANE_ROUTES: Final = "POST /v1/"
_GZIP: Final = b"\x1f\x8b"
# For zlib: with the header and the checksum of gzip.
_GZIP_WBITS: Final = 31
# Members that one gzip body may have, since even empty ones take time; SDKs send one.
_MAX_GZIP_MEMBERS: Final = 100
# The same two bytes when somebody on the way took gzip for text: read as Latin-1, and read as broken UTF-8.
_GZIP_AS_LATIN1: Final = "\x1f\x8b"
_GZIP_AS_BROKEN_UTF8: Final = "\x1f\ufffd"
# From the worst to the best: what one status has to say about many events.
_AGAIN: Final = (503, 504, 500)
_DONE: Final = ("delivered", "queued", "preview", "ignored", "rejected")

Names = dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What the path, the query and the headers say, before anything of the body is read.

    `service` is the PagerDuty service, None when the path names none that could exist. The names in `headers` and in
    `query` are lower case. `is_filtered` tells that a data plane has applied `integrations.All`, which SDKs only send.
    """

    headers: Names
    service: str | None
    query: Names
    is_track_route: bool
    is_filtered: bool

    @property
    def preview(self) -> str:
        """What the query says of a preview, in lower case; "false" when it says nothing."""
        return self.query.get("preview", "false").strip().lower()

    @property
    def is_preview(self) -> bool:
        """Whether nothing is to be sent."""
        return self.preview == "true"


# -- 1 authenticate --------------------------------------------------------------------------------------------------


def open_request(gateway_event: dict[str, Any]) -> Request:
    """Read everything of the request but its body."""
    path = gateway_event.get("pathParameters") or {}
    query: Names = {}
    for name, value in (gateway_event.get("queryStringParameters") or {}).items():
        # As API Gateway joins the values of one name in the same case.
        query[name.lower()] = f"{query[name.lower()]},{value}" if name.lower() in query else value
    service = path.get("service", "default")
    return Request(
        headers={name.lower(): value for name, value in (gateway_event.get("headers") or {}).items()},
        service=service if SERVICE.fullmatch(service) else None,
        query=query,
        is_track_route=gateway_event.get("routeKey") == _TRACK_ROUTE,
        is_filtered=not gateway_event.get("routeKey", "").startswith(_DATA_PLANE_ROUTES),
    )


def is_authorized(headers: Names, secrets: Sequence[bytes]) -> bool:
    """Tell whether the caller knows one of the secrets; whatever is wrong with the headers, the answer is no.

    Every candidate is compared with every secret, as bytes and in constant time, so that the time taken tells nothing.
    """
    matches = [
        hmac.compare_digest(candidate, secret) for candidate in _presented_secrets(headers) for secret in secrets
    ]
    return any(matches)


def _presented_secrets(headers: Names) -> list[bytes]:
    """Collect what the caller offers as secret: an API key, a bearer token, a Basic user name or password.

    RudderStack's SDKs send the write key as the user name of Basic authentication.
    """
    presented = []
    if "x-api-key" in headers:
        presented.append(headers["x-api-key"].strip().encode("utf-8", "surrogatepass"))
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    value = credentials.strip().encode("utf-8", "surrogatepass")
    if scheme.lower() == "bearer":
        presented.append(value)
    elif scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).partition(b":")
        except binascii.Error:
            pass  # Nothing presented, then: the same 401 as for a wrong secret.
        else:
            presented += [user, password]
    return presented


def wants_preview(request: Request) -> bool:
    """Read the query; what it says and nobody understands is refused, since it may be meant to page nobody."""
    if request.query.keys() - {"preview"}:
        raise ProcessingError("query_unknown", "query: preview is the only parameter; remove the others from the URL")
    if request.preview not in {"true", "false"}:
        raise ProcessingError("preview_invalid", "query: preview must be true or false, once")
    return request.is_preview


# -- 2 read ----------------------------------------------------------------------------------------------------------


def read_events(gateway_event: dict[str, Any], *, is_track_route: bool = False) -> tuple[list[Any], bool]:
    """Undo base64 and gzip, parse the JSON, and find the events in it: one, an array, or `{"batch": [...]}`.

    Returns them, each any JSON whatever, and whether they came in an array or a batch, also of one. On `/v1/track` the
    path is the events' type, as at a RudderStack data plane. Raises ProcessingError.
    """
    events, is_batch = _find_events(_parse(_body_text(gateway_event)))
    if is_track_route:
        events = [{**event, "type": "track"} if isinstance(event, dict) else event for event in events]
    return events, is_batch


def _body_text(gateway_event: dict[str, Any]) -> str:
    raw = _body(gateway_event)
    if raw.startswith(_GZIP):
        raw = _gunzip(raw)
    if len(raw) > MAX_JSON_BYTES:
        raise ProcessingError(
            "body_too_large", f"body: more than the {MAX_JSON_BYTES:,} bytes of JSON that are taken; send fewer events"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProcessingError("body_not_utf8", f"body: expected UTF-8, byte {error.start:,} is not") from None
    if not text or text.isspace():
        raise ProcessingError("body_empty", "body: empty, expected a RudderStack event as JSON")
    return text


def _body(gateway_event: dict[str, Any]) -> bytes:
    """Return the body as the sender sent it; of gzip that somebody on the way took for text, what can be had back."""
    body = gateway_event.get("body") or ""
    if gateway_event.get("isBase64Encoded"):
        try:
            return base64.b64decode(body, validate=True)
        except ValueError:
            raise ProcessingError("body_not_base64", "body: announced as base64, and it is not") from None
    if body.startswith(_GZIP_AS_BROKEN_UTF8):
        raise _damaged_gzip()
    return bytes(body.encode("latin-1" if body.startswith(_GZIP_AS_LATIN1) else "utf-8", "replace"))


def _gunzip(raw: bytes) -> bytes:
    """Decompress a body, and no more of it than tells that it is too large."""
    unpacked = b""
    for _ in range(_MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(_GZIP_WBITS)
        try:
            unpacked += member.decompress(raw, MAX_JSON_BYTES + 1 - len(unpacked))
        except zlib.error:
            raise _damaged_gzip() from None
        if len(unpacked) > MAX_JSON_BYTES:
            return unpacked
        if not member.eof:
            raise _damaged_gzip()
        # As gzip itself does, skip the zeros that fill up a block.
        raw = member.unused_data.lstrip(b"\0")
        if not raw:
            return unpacked
    raise ProcessingError("body_too_large", f"body: gzip of more than {_MAX_GZIP_MEMBERS} members; send one")


def _damaged_gzip() -> ProcessingError:
    return ProcessingError(
        "gzip_damaged",
        "body: gzip that was damaged on the way; switch gzip off in the SDK (in Python: gzip=False)",
    )


def _parse(text: str) -> object:
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        raise ProcessingError(
            "body_not_json", f"body: not JSON, line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise ProcessingError("body_too_deep", "body: nested too deeply to be read") from None


def _find_events(value: object) -> tuple[list[Any], bool]:
    if isinstance(value, dict) and ("batch" not in value or "type" in value):
        return [value], False
    events = value.get("batch") if isinstance(value, dict) else value
    if isinstance(events, list) and len(events) > MAX_EVENTS:
        raise ProcessingError(
            "too_many_events", f"body: {len(events):,} events, at most {MAX_EVENTS:,} are taken at once; send fewer"
        )
    if isinstance(events, list) and events:
        return events, True
    raise ProcessingError(
        "body_without_events",
        'body: expected an event, an array of events or {"batch": [...]}, and at least one event',
    )


# -- 5 answer --------------------------------------------------------------------------------------------------------


def settle_batch(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of a batch, of which none may depend on its event and ask for the batch to be sent again.

    Repeated, what was queued would take effect again after SQS's five minutes. So an event on which our code failed is
    refused if another one was queued.
    """
    if not any(outcome.status == "queued" for outcome in outcomes):
        return list(outcomes)
    return [
        Outcome("event_failed", "The function failed on this event, which is not sent; its log has the place")
        if outcome.code == "internal_error"
        else outcome
        for outcome in outcomes
    ]


def answer(outcomes: Sequence[Outcome], *, is_batch: bool) -> dict[str, Any]:
    """Build the response that tells RudderStack the truth about all events in one status."""
    if not is_batch:
        return _response(outcomes[0].http_status, _row(outcomes[0]))
    decisive = min(outcomes, key=_rank)
    counts = Counter(outcome.status for outcome in outcomes)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    message = f"{len(outcomes)} events: {summary}"
    if decisive.http_status != 200:  # noqa: PLR2004 -- the one status that needs no explanation
        message += f". {decisive.message}"
    content = {"status": decisive.status, "code": decisive.code, "message": message}
    return _response(decisive.http_status, content | {"results": [_row(outcome) for outcome in outcomes]})


def refusal(outcome: Outcome) -> dict[str, Any]:
    """Build the response to a request of which no event was looked at."""
    content = {"status": outcome.status, "code": outcome.code, "message": outcome.message}
    return _response(outcome.http_status, content)


def _row(outcome: Outcome) -> dict[str, Any]:
    """Build an event's part of the answer."""
    row: dict[str, Any] = {
        "status": outcome.status,
        "code": outcome.code,
        "message": outcome.message,
        "dedup_key": outcome.dedup_key,
        "warnings": outcome.warnings,
    }
    if outcome.content is not None:
        row["event"] = outcome.content
    return row


def _rank(outcome: Outcome) -> int:
    """Order outcomes by whose status all share: anything to try again first, then anything done, then a refusal."""
    if outcome.http_status in _AGAIN:
        return _AGAIN.index(outcome.http_status)
    return len(_AGAIN) + _DONE.index(outcome.status)


def _response(status: int, content: dict[str, Any]) -> dict[str, Any]:
    body = encode(content)
    if len(body) > MAX_ANSWER_BYTES:
        # Lambda would refuse it, and RudderStack would send again what has been delivered.
        short = {name: content[name] for name in ("status", "code", "message")}
        short["message"] += " (the rest of this answer was too long)"
        body = encode(short)
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": body.decode()}
