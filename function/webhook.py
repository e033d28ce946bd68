"""The HTTP edge: from an API Gateway event (payload format 2.0) to events, and from outcomes to the response.

Pure. https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

import base64
import binascii
import hmac
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from event import SERVICE, decode, encode
from outcome import Outcome, ProcessingError

# JSON after decompression. RudderStack sends 4 MB at most.
MAX_JSON_BYTES: Final = 5 * 1024 * 1024
# So many can be enqueued before the deadline if all are of one incident, a call to SQS each. RudderStack sends 100.
MAX_EVENTS: Final = 200
# Lambda's response has at most 6 MB, in which this JSON is a string with its quotation marks escaped:
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024

_TRACK_ROUTE: Final = "POST /v1/track"
_DATA_PLANE_ROUTES: Final = "POST /v1/"
_GZIP: Final = b"\x1f\x8b"
# zlib's value for gzip's header and checksum.
_GZIP_WBITS: Final = 31
# Members of a gzip body, since even empty ones take time; SDKs send one.
_MAX_GZIP_MEMBERS: Final = 100
# The start of gzip that was decoded as text on the way: as Latin-1, and as UTF-8, which damages it.
_GZIP_AS_LATIN1: Final = "\x1f\x8b"
_GZIP_AS_BROKEN_UTF8: Final = "\x1f\ufffd"
# The statuses of a batch, in order of precedence.
_PRECEDENCE: Final = (503, 504, 500, "delivered", "queued", "preview", "ignored", "rejected")

Names = dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """The path, the query and the headers of a request.

    `service` is the PagerDuty service, None if its name is invalid. `query` and the names in `headers` are lower case.
    `is_filtered` means that a data plane has applied `integrations.All`, which SDKs only send.
    """

    headers: Names
    service: str | None
    query: Names
    is_track_route: bool
    is_filtered: bool

    @property
    def is_preview(self) -> bool:
        """Whether nothing is to be sent."""
        return self.query.get("preview") == "true"


def open_request(gateway_event: dict[str, Any]) -> Request:
    """Read the request, except its body."""
    path = gateway_event.get("pathParameters") or {}
    query: Names = {}
    for name, value in (gateway_event.get("queryStringParameters") or {}).items():
        # API Gateway joins the values of names in the same case like this.
        lower = value.strip().lower()
        query[name.lower()] = f"{query[name.lower()]},{lower}" if name.lower() in query else lower
    service = path.get("service", "default")
    return Request(
        headers={name.lower(): value for name, value in (gateway_event.get("headers") or {}).items()},
        service=service if SERVICE.fullmatch(service) else None,
        query=query,
        is_track_route=gateway_event.get("routeKey") == _TRACK_ROUTE,
        is_filtered=not gateway_event.get("routeKey", "").startswith(_DATA_PLANE_ROUTES),
    )


def is_authorized(headers: Names, tokens: Sequence[bytes]) -> bool:
    """Return whether the headers have one of the tokens; False if anything is wrong with them.

    Each candidate is compared with each token, as bytes and in constant time, so that the time reveals nothing.
    """
    matches = [hmac.compare_digest(candidate, token) for candidate in _candidates(headers) for token in tokens]
    return any(matches)


def _candidates(headers: Names) -> list[bytes]:
    """Return the API key, the bearer token, or the Basic user name (SDKs send the write key in it) and password."""
    candidates = []
    if "x-api-key" in headers:
        candidates.append(headers["x-api-key"].strip().encode("utf-8", "surrogatepass"))
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    value = credentials.strip().encode("utf-8", "surrogatepass")
    if scheme.lower() == "bearer":
        candidates.append(value)
    elif scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).partition(b":")
        except binascii.Error:
            pass  # The same 401 as for a wrong token.
        else:
            candidates += [user, password]
    return candidates


def wants_preview(request: Request) -> bool:
    """Return whether a preview is wanted. Unknown parameters are refused: they may be a misspelt `preview`."""
    if request.query.keys() - {"preview"}:
        raise ProcessingError("query_unknown", "query: preview is the only parameter; remove the others from the URL")
    if request.query.get("preview", "false") not in {"true", "false"}:
        raise ProcessingError("preview_invalid", "query: preview must be true or false, once")
    return request.is_preview


def read_events(gateway_event: dict[str, Any], *, is_track_route: bool = False) -> tuple[list[Any], bool]:
    """Return the events in the body, each any JSON, and whether they are in an array or `{"batch": [...]}`.

    On `/v1/track` the path is the event's type, as at a RudderStack data plane. Raises ProcessingError.
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
        message = f"body: more than {MAX_JSON_BYTES:,} bytes of JSON are not accepted; send fewer events"
        raise ProcessingError("body_too_large", message)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProcessingError("body_not_utf8", f"body: expected UTF-8, byte {error.start:,} is not") from None
    if not text or text.isspace():
        raise ProcessingError("body_empty", "body: empty, expected a RudderStack event as JSON")
    return text


def _body(gateway_event: dict[str, Any]) -> bytes:
    """Return the body as the sender sent it. Gzip that was decoded as Latin-1 on the way is restored."""
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
    """Return the decompressed body, or so much of it that it is too large."""
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
        # Like gzip, skip padding.
        raw = member.unused_data.lstrip(b"\0")
        if not raw:
            return unpacked
    raise ProcessingError("body_too_large", f"body: gzip of more than {_MAX_GZIP_MEMBERS} members; send one")


def _damaged_gzip() -> ProcessingError:
    message = "body: gzip that was damaged on the way; switch gzip off in the SDK (in Python: gzip=False)"
    return ProcessingError("gzip_damaged", message)


def _parse(text: str) -> object:
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        message = f"body: not JSON, line {error.lineno}, column {error.colno}: {error.msg}"
        raise ProcessingError("body_not_json", message) from None
    except RecursionError:
        raise ProcessingError("body_too_deep", "body: nested too deeply to be read") from None


def _find_events(value: object) -> tuple[list[Any], bool]:
    if isinstance(value, dict) and ("batch" not in value or "type" in value):
        return [value], False
    events = value.get("batch") if isinstance(value, dict) else value
    if isinstance(events, list) and len(events) > MAX_EVENTS:
        message = f"body: {len(events):,} events, at most {MAX_EVENTS:,} are accepted at once; send fewer"
        raise ProcessingError("too_many_events", message)
    if isinstance(events, list) and events:
        return events, True
    expected = 'expected an event, an array of events or {"batch": [...]}, and at least one event'
    raise ProcessingError("body_without_events", f"body: {expected}")


def settle_batch(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of a batch, in which a bug in an event is final if another event was queued.

    If RudderStack repeated the batch, the queued events would take effect again after SQS's five minutes.
    """
    if not any(outcome.status == "queued" for outcome in outcomes):
        return list(outcomes)
    message = "The function failed on this event, which is not sent; its log has the place"
    return [
        replace(outcome, code="event_failed", message=message) if outcome.code == "internal_error" else outcome
        for outcome in outcomes
    ]


def answer(outcomes: Sequence[Outcome], *, is_batch: bool) -> dict[str, Any]:
    """Return the response with one HTTP status for all events."""
    if not is_batch:
        return _response(outcomes[0].http_status, _row(outcomes[0]))
    decisive = min(outcomes, key=_rank)
    counts = Counter(outcome.status for outcome in outcomes)
    message = f"{len(outcomes)} events: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    if decisive.http_status != 200:  # noqa: PLR2004 -- the one status that needs no explanation
        message += f". {decisive.message}"
    results = [_row(outcome) for outcome in outcomes]
    return _response(decisive.http_status, _head(decisive) | {"message": message, "results": results})


def refusal(outcome: Outcome) -> dict[str, Any]:
    """Return the response to a request that was refused as a whole."""
    return _response(outcome.http_status, _head(outcome))


def _head(outcome: Outcome) -> dict[str, Any]:
    return {"status": outcome.status, "code": outcome.code, "message": outcome.message}


def _row(outcome: Outcome) -> dict[str, Any]:
    """Return an event's part of the answer."""
    event = {} if outcome.content is None else {"event": outcome.content}
    return _head(outcome) | {"dedup_key": outcome.dedup_key, "warnings": outcome.warnings} | event


def _rank(outcome: Outcome) -> int:
    """Return the precedence of an outcome in a batch: first any to be repeated, then any done, then a refusal."""
    return min(_PRECEDENCE.index(each) for each in (outcome.http_status, outcome.status) if each in _PRECEDENCE)


def _response(status: int, content: dict[str, Any]) -> dict[str, Any]:
    body = encode(content)
    if len(body) > MAX_ANSWER_BYTES:
        # Lambda would refuse it, and RudderStack repeat events that were delivered.
        message = f"{content['message']} (the rest of this answer was too long)"
        body = encode({"status": content["status"], "code": content["code"], "message": message})
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": body.decode()}
