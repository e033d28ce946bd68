"""The limits of PagerDuty's Events API v2. An event that exceeds them is cut, and still sent.

https://developer.pagerduty.com/docs/events-api-v2-overview and
https://developer.pagerduty.com/docs/send-alert-event unless a constant says otherwise.
"""

import hashlib
from dataclasses import replace
from typing import Any, Final

from event import Event, encode

# Characters, not bytes: PagerDuty answers 400 to one more.
MAX_SUMMARY: Final = 1024
MAX_DEDUP_KEY: Final = 255
# "512 KB" of encoded JSON; whether it is decimal is not documented, so the smaller reading.
MAX_EVENT_BYTES: Final = 512_000
# This product's: every JSON library can encode that, and people cannot read more.
MAX_DETAILS_DEPTH: Final = 100
# Values in the objects and arrays of one request. An event that fits has no more, since each has at least two bytes,
# such as `0,`.
MAX_VALUES: Final = MAX_EVENT_BYTES // 2
# Values that each event may have, however many the events before it had.
_MIN_VALUES: Final = 1_000
# This product's: of links, and of images. PagerDuty documents no limit.
MAX_ITEMS: Final = 100
# This product's: the characters of a text, if leaving out everything else is not enough.
_MAX_CUT_TEXT: Final = 1024
# The size of `"routing_key":"…",`, which is added when the event is posted.
_ROUTING_KEY_BYTES: Final = 64
_MAX_BODY_BYTES: Final = MAX_EVENT_BYTES - _ROUTING_KEY_BYTES
# Entries of an object that could fit: each has at least five bytes, `"":0,`.
MAX_ENTRIES: Final = _MAX_BODY_BYTES // 5
_CONTAINERS: Final = (dict, list)
# The properties that images and links come from.
_SOURCES: Final = {"images": "properties.imageURLs", "links": "properties.linkURLs"}
_TOO_LARGE: Final = f"the event exceeded PagerDuty's {MAX_EVENT_BYTES:,} bytes"
_DROPPED_IN_TURN: Final[tuple[tuple[str, ...], ...]] = (("images",), ("links",), ("images", "links"))


def fit_dedup_key(key: str) -> str:
    """Return the dedup key; over 255 characters its SHA-256 in hex, the same for trigger, acknowledge and resolve."""
    return key if len(key) <= MAX_DEDUP_KEY else hashlib.sha256(key.encode()).hexdigest()


class ValueLimit:
    """How many more values in objects and arrays are visited for the events of one request."""

    def __init__(self, values: int = MAX_VALUES) -> None:
        self.left = values

    def begin_event(self) -> None:
        """Leave some to the next event, even if earlier ones have used up all."""
        self.left = max(self.left, _MIN_VALUES)

    def problem(self, value: object, levels: int = MAX_DETAILS_DEPTH) -> str | None:
        """Return why JSON is too deep or too much, None if it is neither. Stops at the limit."""
        if not isinstance(value, _CONTAINERS) or not self._exceeded(value, levels):
            return None
        return f"nested deeper than {levels} levels" if self.left >= 0 else "more values than are accepted"

    def _exceeded(self, value: Any, levels: int) -> bool:
        """Visit depth first, since memory is read faster in the order in which it was written."""
        self.left -= len(value)
        if not levels or self.left < 0:
            return True
        for below in value.values() if isinstance(value, dict) else value:
            if isinstance(below, _CONTAINERS) and self._exceeded(below, levels - 1):
                return True
        return False


def fit_to_limits(event: Event) -> Event:
    """Return the event, with as little left out as PagerDuty's 512,000 bytes require, routing key included.

    The largest custom details are replaced by a note, unless images, links or texts alone are the cause.
    """
    excess = len(event.body) - _MAX_BODY_BYTES
    if excess <= 0:
        return event

    warnings: list[str] = []
    content = {**event.content, "payload": dict(event.content["payload"])}
    payload = content["payload"]
    details = payload.get("custom_details") or {}
    least = {**content, "payload": {**payload, "custom_details": _all_left_out(details)}}
    saved_by_details = max(0, len(event.body) - len(encode(least))) if details else 0
    sizes = {field: len(encode({field: content[field]})) - 1 for field in _SOURCES if field in content}
    are_texts_cut = excess > saved_by_details + sum(sizes.values())
    if are_texts_cut:
        _cut_texts(content)
        _cut_texts(payload)
        excess = len(encode(content)) - _MAX_BODY_BYTES
    dropped: tuple[str, ...] = ()
    if excess > saved_by_details:
        saved = {fields: sum(sizes.get(field, 0) for field in fields) for fields in _DROPPED_IN_TURN}
        dropped = next(fields for more in (0, saved_by_details) for fields in saved if saved[fields] + more >= excess)
        excess -= saved[dropped]
    if excess > 0:
        payload["custom_details"] = _replace_largest(details, excess)
        warnings.append(f"properties.customDetails: the largest entries were replaced by a note, {_TOO_LARGE}")
    warnings += [f"{_SOURCES[field]}: left out, {_TOO_LARGE}" for field in dropped if content.pop(field, None)]
    if are_texts_cut:
        warnings.append(f"texts: cut, {_TOO_LARGE}")
    return replace(event, content=content, warnings=(*event.warnings, *warnings))


def _cut_texts(part: dict[str, Any]) -> None:
    for name, value in list(part.items()):
        if isinstance(value, str) and len(value) > _MAX_CUT_TEXT:
            part[name] = value[:_MAX_CUT_TEXT]
    if len(part.get("timestamp", "")) == _MAX_CUT_TEXT:
        del part["timestamp"]  # A truncated timestamp is invalid.


def _all_left_out(details: dict[str, Any]) -> dict[str, Any]:
    return {"note": f"[left out: {len(details):,} custom details, more than PagerDuty accepts]"}


def _replace_largest(details: dict[str, Any], excess: int) -> dict[str, Any]:
    """Return the details with the largest entries replaced by a note until `excess` bytes are saved, if need be all."""
    if len(details) > MAX_ENTRIES:  # The keys alone are too much.
        return _all_left_out(details)
    reduced = dict(details)
    sizes = {key: len(encode(value)) for key, value in details.items()}
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        note = f"[left out: {sizes[key]:,} bytes, more than PagerDuty accepts]"
        saved = sizes[key] - len(note) - len('""')
        if saved <= 0:
            break
        reduced[key] = note
        excess -= saved
        if excess <= 0:
            return reduced
    return _all_left_out(details)
