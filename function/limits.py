"""What PagerDuty's Events API v2 accepts, and how an event is cut to fit: a page that is too long still goes out.

https://developer.pagerduty.com/docs/events-api-v2-overview and
https://developer.pagerduty.com/docs/send-alert-event unless a constant says otherwise.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

ACTIONS: Final = ("trigger", "acknowledge", "resolve")
SEVERITIES: Final = ("critical", "error", "warning", "info")

# Characters, not bytes: PagerDuty answers 400 to one more.
MAX_SUMMARY: Final = 1024
MAX_DEDUP_KEY: Final = 255
# "512 KB" of encoded JSON; whether it is decimal is not documented, so the smaller reading.
MAX_EVENT_BYTES: Final = 512_000
# Ours: what a person could still read in an incident, and what every JSON library can encode.
MAX_DETAILS_DEPTH: Final = 100
# Ours: to this many characters a text field is cut once everything else has been left out.
_LAST_RESORT_TEXT: Final = 1024
# What `"routing_key":"…",` adds when the event is posted.
_ROUTING_KEY_BYTES: Final = 64
_ROOM: Final = MAX_EVENT_BYTES - _ROUTING_KEY_BYTES

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A PagerDuty event without routing key, encoded: `body` has at most MAX_EVENT_BYTES with a routing key added."""

    event: dict[str, Any]
    body: bytes
    warnings: tuple[str, ...] = ()


def fit_dedup_key(key: str) -> str:
    """Replace a dedup key over 255 characters by its SHA-256 in hex: the same for trigger, acknowledge and resolve."""
    if len(key) <= MAX_DEDUP_KEY:
        return key
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def encode(value: object) -> bytes:
    """Encode finite JSON as UTF-8; half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def fit(event: dict[str, Any]) -> Fitted:
    """Encode the event, leaving out as little as it takes to stay within PagerDuty's 512,000 bytes.

    First the largest custom details are replaced by a note, then images and links go, then texts are cut.
    """
    body = encode(event)
    if len(body) <= _ROOM:
        return Fitted(event, body)

    warnings: list[str] = []
    # The caller's event is the sender's own data: it is copied as deep as it is changed.
    event = {**event, "payload": dict(event["payload"])}
    details = event["payload"].get("custom_details")
    shrunk = _shrink(details, len(body) - _ROOM) if details else details
    if len(encode(shrunk)) < len(encode(details)):
        event["payload"]["custom_details"] = shrunk
        warnings.append(
            f"properties.customDetails: the event had {len(body):,} bytes and PagerDuty takes {MAX_EVENT_BYTES:,}; "
            "the largest entries were replaced by a note"
        )
        body = encode(event)
    for field, source in (("images", "properties.imageURLs"), ("links", "properties.linkURLs")):
        if len(body) > _ROOM and event.pop(field, None):
            warnings.append(f"{source}: left out, the event exceeded PagerDuty's {MAX_EVENT_BYTES:,} bytes")
            body = encode(event)
    if len(body) > _ROOM:
        for part in (event, event["payload"]):
            too_long = [
                name for name, value in part.items() if isinstance(value, str) and len(value) > _LAST_RESORT_TEXT
            ]
            for name in too_long:
                part[name] = part[name][:_LAST_RESORT_TEXT]
            if "timestamp" in too_long:
                del part["timestamp"]  # Half of one is none.
        warnings.append(f"texts: cut, the event exceeded PagerDuty's {MAX_EVENT_BYTES:,} bytes")
        body = encode(event)
    return Fitted(event, body, tuple(warnings))


def _shrink(details: dict[str, Any], excess: int) -> dict[str, Any]:
    """Replace the largest entries by a note, largest first, until `excess` bytes are saved; if need be all of them."""
    shrunk = dict(details)
    sizes = {key: len(encode(value)) for key, value in details.items()}
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        note = f"[left out: {sizes[key]:,} bytes, more than PagerDuty takes]"
        saved = sizes[key] - len(note) - len('""')
        if saved <= 0:
            break
        shrunk[key] = note
        excess -= saved
        if excess <= 0:
            return shrunk
    return {"note": f"[left out: {len(details):,} custom details, more than PagerDuty takes]"}
