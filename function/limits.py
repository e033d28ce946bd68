"""What PagerDuty's Events API v2 accepts, and how an event is cut to fit: a page that is too long still goes out.

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
# Ours: what a person could still read in an incident, and what every JSON library can encode.
MAX_DETAILS_DEPTH: Final = 100
# Ours: of links, and of images; PagerDuty documents no limit, and nobody reads more. Of integrations, nobody has more.
MAX_ITEMS: Final = 100
# Ours: to this many characters a text field is cut once everything else has been left out.
_LAST_RESORT_TEXT: Final = 1024
# What `"routing_key":"…",` adds when the event is posted.
_ROUTING_KEY_BYTES: Final = 64
_ROOM: Final = MAX_EVENT_BYTES - _ROUTING_KEY_BYTES
# An entry of an object has at least that many: `"":0,`.
_ENTRY_BYTES: Final = 5
_CONTAINERS: Final = (dict, list)


def fit_dedup_key(key: str) -> str:
    """Replace a dedup key over 255 characters by its SHA-256 in hex: the same for trigger, acknowledge and resolve."""
    if len(key) <= MAX_DEDUP_KEY:
        return key
    return hashlib.sha256(key.encode()).hexdigest()


def deeper_than(limit: int, value: object) -> bool:
    """Tell whether JSON is nested deeper than `limit`, level by level, so that no depth can exhaust the stack."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            below
            for item in level
            for below in (item.values() if isinstance(item, dict) else item)
            if isinstance(below, _CONTAINERS)
        ]
    return bool(level)


def fit(event: Event) -> Event:
    """Leave out as little of the event as it takes to stay within PagerDuty's 512,000 bytes, routing key included.

    First the largest custom details are replaced by a note, then images and links go, then texts are cut.
    """
    size = len(event.body)
    if size <= _ROOM:
        return event

    warnings: list[str] = []
    # What is in the event is the sender's own data: it is copied as deep as it is changed.
    content = {**event.content, "payload": dict(event.content["payload"])}
    payload = content["payload"]
    if details := payload.get("custom_details"):
        payload["custom_details"] = _shrink(details, size - _ROOM)
        left = len(encode(content))
        if left < size:
            warnings.append(
                f"properties.customDetails: the event had {size:,} bytes and PagerDuty takes {MAX_EVENT_BYTES:,}; "
                "the largest entries were replaced by a note"
            )
            size = left
        else:
            payload["custom_details"] = details
    for field, source in (("images", "properties.imageURLs"), ("links", "properties.linkURLs")):
        if size > _ROOM and content.pop(field, None):
            warnings.append(f"{source}: left out, the event exceeded PagerDuty's {MAX_EVENT_BYTES:,} bytes")
            size = len(encode(content))
    if size > _ROOM:
        for part in (content, payload):
            too_long = [
                name for name, value in part.items() if isinstance(value, str) and len(value) > _LAST_RESORT_TEXT
            ]
            for name in too_long:
                part[name] = part[name][:_LAST_RESORT_TEXT]
            if "timestamp" in too_long:
                del part["timestamp"]  # Half of one is none.
        warnings.append(f"texts: cut, the event exceeded PagerDuty's {MAX_EVENT_BYTES:,} bytes")
    return replace(event, content=content, warnings=(*event.warnings, *warnings))


def _shrink(details: dict[str, Any], excess: int) -> dict[str, Any]:
    """Replace the largest entries by a note, largest first, until `excess` bytes are saved; if need be all of them.

    So many entries that their names alone are too much are not looked at one by one.
    """
    all_left_out = {"note": f"[left out: {len(details):,} custom details, more than PagerDuty takes]"}
    if len(details) * _ENTRY_BYTES > _ROOM:
        return all_left_out
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
    return all_left_out
