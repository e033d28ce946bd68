"""The core: a RudderStack track call becomes a PagerDuty event, or is refused with the reason.

Pure: the time and the rules are passed in. The property tables are RudderStack's
(https://www.rudderstack.com/docs/destinations/streaming-destinations/pagerduty/). The page goes out whenever it can:
what is merely imperfect is repaired and reported as a warning; what leaves open *whether or whom* to page is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import limits
import timestamps
from errors import Ignored, Rejected
from timestamps import Timestamp

Kind = Literal["alert", "change"]

# rudder-transformer, `src/constants/destinationCanonicalNames.js`, in its order.
INTEGRATION_NAMES: Final = ("pagerduty", "PAGERDUTY", "PagerDuty", "Pagerduty", "pagerDuty")
# https://www.rudderstack.com/docs/event-spec/standard-events/ and what rudder-transformer knows besides.
OTHER_EVENT_TYPES: Final = frozenset(
    {"identify", "page", "screen", "group", "alias", "merge", "reset", "record", "extract", "audiencelist"}
)
_KINDS: Final[dict[str, Kind]] = {"alertevent": "alert", "changeevent": "change"}
# PagerDuty keeps change events, and shows them, for 90 days; RudderStack's own destination refuses older events.
MAX_AGE: Final = timedelta(days=90)
# RudderStack shows its users 10 KB of our answer.
_MAX_WARNINGS: Final = 20
_SHOWN_CHARACTERS: Final = 40
# Optional texts of an alert: RudderStack's property, then where PagerDuty wants it.
_PAYLOAD_TEXTS: Final = {"group": "group", "class": "class", "component": "component"}
_CLIENT_TEXTS: Final = {"client": "client", "clientUrl": "client_url"}
_SOURCE_TEXT: Final = {"source": "source"}
_LINK_TEXT: Final = {"text": "text"}
_IMAGE_TEXTS: Final = {"href": "href", "alt": "alt"}
_IMAGE_AS_LINK_TEXT: Final = {"alt": "text"}


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the mapping needs: where the dedup key is, and what an alert has that does not say."""

    dedup_key_field: tuple[str, ...] = ("properties", "dedupKey")
    default_severity: str = "critical"
    default_source: str = ""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A PagerDuty event without its routing key, and what was repaired on the way.

    `action` is None for a change event. `dedup_key` is None for a change event, and for a trigger that has neither key
    nor `messageId`: PagerDuty makes one. `occurred_at` is the event's own time, None when it has none.
    """

    kind: Kind
    event: dict[str, Any]
    action: str | None = None
    dedup_key: str | None = None
    message_id: str | None = None
    occurred_at: datetime | None = None
    warnings: tuple[str, ...] = ()


def map_event(event: object, rules: Rules, now: datetime) -> Mapped:
    """Map one RudderStack event, any JSON whatever, to the PagerDuty event that it asks for.

    Raises Ignored when it asks for none, and Rejected when it can never be sent.
    """
    if not isinstance(event, dict):
        raise Rejected("event_not_an_object", f"event: expected an object, got {_shown(event)}")
    kind = _kind(event)
    properties = event.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise Rejected("properties_not_an_object", f"properties: expected an object, got {_shown(properties)}")

    return (_change_event if kind == "change" else _alert_event)(event, properties, rules, now)


def text_of(value: object) -> str | None:
    """Write a scalar as text, 5.0 as "5" and True as "true", as JavaScript does; None when it is no scalar."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:  # noqa: PLR2004 -- Python writes larger ones with an exponent
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return None


# -- whether and whom ------------------------------------------------------------------------------------------------


def _kind(event: dict[str, Any]) -> Kind:
    """Tell an alert from a change event; raise when the event is not for PagerDuty, or leaves open what it is."""
    field, integration = _integration(event.get("integrations"))
    if integration is False:
        raise Ignored("not_for_pagerduty", f"{field} is false: the event is not for PagerDuty")

    event_type = event.get("type")
    if event_type is None:
        raise Rejected("type_missing", 'type: missing, expected "track"')
    known = event_type.lower() if isinstance(event_type, str) else None
    if known in OTHER_EVENT_TYPES:
        raise Ignored("not_a_track_call", f"type: only track calls go to PagerDuty, this is {_shown(event_type)}")
    if known != "track":
        raise Rejected("type_unknown", f'type: expected "track", got {_shown(event_type)}')

    if integration is None or integration is True:
        return "alert"
    if isinstance(integration, dict):
        wanted = integration.get("type")
        if wanted is None:
            return "alert"
        if isinstance(wanted, str) and (kind := _KINDS.get(wanted.lower())):
            return kind
        field, integration = f"{field}.type", wanted
    raise Rejected(
        "integration_unclear",
        f'{field}: expected {{"type": "alertEvent"}} or {{"type": "changeEvent"}}, got {_shown(integration)}; '
        "not sent, since it may not be meant to page",
    )


def _integration(integrations: object) -> tuple[str, object]:
    """Find PagerDuty's entry in `integrations`, as RudderStack does: the first that is neither false nor null."""
    if not isinstance(integrations, dict):
        return "integrations", integrations
    found: tuple[str, object] = ("integrations", None)
    for name in INTEGRATION_NAMES:
        value = integrations.get(name)
        if value is not None:
            found = (f"integrations.{name}", value)
            if value is not False:
                break
    return found


def _action(value: object) -> str:
    if value is None:
        return "trigger"
    action = value.strip().lower() if isinstance(value, str) else None
    if action in limits.ACTIONS:
        return action
    raise Rejected(
        "action_unknown",
        f"properties.action: expected {_one_of(limits.ACTIONS)}, got {_shown(value)}; "
        "not sent, since a misspelt resolve must not page",
    )


def _dedup_key(event: dict[str, Any], path: tuple[str, ...], warnings: list[str]) -> str | None:
    """Follow the path into the event: keys of objects, positions in arrays. Only a string or a number is a key."""
    value: Any = event
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            value = None
        if value is None:
            return None
    key = None if isinstance(value, bool) else text_of(value)
    if key is None:
        warnings.append(f"{'.'.join(path)}: expected a string or a number as dedup key, got {_shown(value)}")
    return limits.fit_dedup_key(key) if key and not key.isspace() else None


def _message_id(event: dict[str, Any]) -> str | None:
    value = event.get("messageId")
    text = None if isinstance(value, bool) else text_of(value)
    return text if text and not text.isspace() else None


# -- what PagerDuty gets ---------------------------------------------------------------------------------------------


def _alert_event(event: dict[str, Any], properties: dict[str, Any], rules: Rules, now: datetime) -> Mapped:
    """Build an alert event. An acknowledge or a resolve is judged by its dedup key alone, and has nothing else."""
    warnings: list[str] = []
    message_id = _message_id(event)
    action = _action(properties.get("action"))
    dedup_key = _dedup_key(event, rules.dedup_key_field, warnings)
    if action != "trigger":
        if dedup_key is None:
            raise Rejected(
                "dedup_key_missing",
                f"{'.'.join(rules.dedup_key_field)}: {action} needs the dedup key of the alert that it is about, "
                "a string or a number",
            )
        mapped = {"event_action": action, "dedup_key": dedup_key}
        return Mapped("alert", mapped, action, dedup_key, message_id, None, _bounded(warnings))

    if dedup_key is None and message_id is not None:
        dedup_key = limits.fit_dedup_key(message_id)
    timestamp = _timestamp(event, now, warnings)
    payload: dict[str, Any] = {
        "summary": _summary(event.get("event"), warnings),
        "severity": _severity(properties.get("severity"), rules.default_severity, warnings),
        "source": _source(properties.get("source"), rules.default_source),
    }
    if timestamp:
        payload["timestamp"] = timestamp.text
    _add_texts(payload, properties, "properties", _PAYLOAD_TEXTS, warnings)
    _add_custom_details(payload, properties, warnings)
    alert: dict[str, Any] = {"event_action": action}
    if dedup_key is not None:
        alert["dedup_key"] = dedup_key
    alert["payload"] = payload
    _add_links_and_images(alert, properties, warnings)
    _add_texts(alert, properties, "properties", _CLIENT_TEXTS, warnings)
    occurred_at = timestamp and timestamp.moment
    return Mapped("alert", alert, action, dedup_key, message_id, occurred_at, _bounded(warnings))


def _change_event(event: dict[str, Any], properties: dict[str, Any], _: Rules, now: datetime) -> Mapped:
    warnings: list[str] = []
    timestamp = _timestamp(event, now, warnings)
    payload: dict[str, Any] = {"summary": _summary(event.get("event"), warnings)}
    severity = properties.get("severity")
    if severity is not None:
        if known := _known_severity(severity):
            payload["severity"] = known
        else:
            expected = _one_of(limits.SEVERITIES)
            warnings.append(f"properties.severity: expected {expected}, got {_shown(severity)}; left out")
    if timestamp:
        payload["timestamp"] = timestamp.text
    _add_texts(payload, properties, "properties", _SOURCE_TEXT, warnings)
    _add_custom_details(payload, properties, warnings)
    change: dict[str, Any] = {"payload": payload}
    _add_links_and_images(change, properties, warnings)
    return Mapped(
        "change",
        change,
        message_id=_message_id(event),
        occurred_at=timestamp and timestamp.moment,
        warnings=_bounded(warnings),
    )


def _summary(value: object, warnings: list[str]) -> str:
    text = text_of(value)
    if not text or text.isspace():
        raise Rejected("event_name_missing", f"event: expected the event's name, got {_shown(value)}")
    if len(text) > limits.MAX_SUMMARY:
        warnings.append(f"event: {len(text):,} characters, cut to PagerDuty's {limits.MAX_SUMMARY:,}")
        return text[: limits.MAX_SUMMARY]
    return text


def _known_severity(value: object) -> str | None:
    severity = value.strip().lower() if isinstance(value, str) else None
    return severity if severity in limits.SEVERITIES else None


def _severity(value: object, default: str, warnings: list[str]) -> str:
    if value is None:
        return default
    severity = _known_severity(value)
    if severity:
        return severity
    expected = _one_of(limits.SEVERITIES)
    warnings.append(f"properties.severity: expected {expected}, got {_shown(value)}; sent as {default}")
    return default


def _source(value: object, default: str) -> str:
    text = "" if value is None else text_of(value)
    if text is None:
        raise Rejected("source_not_text", f"properties.source: expected a text, got {_shown(value)}")
    source = default if not text or text.isspace() else text
    if not source:
        raise Rejected(
            "source_missing",
            "properties.source: missing, PagerDuty wants to know what is affected; "
            "add it to the track call or set DEFAULT_SOURCE",
        )
    return source


def _timestamp(event: dict[str, Any], now: datetime, warnings: list[str]) -> Timestamp | None:
    """Find the first timestamp that can be read and is at most 90 days old; refuse when those that can be are older."""
    present = [
        field for field in ("originalTimestamp", "originalTimeStamp", "timestamp") if event.get(field) is not None
    ]
    too_old = None
    for field in present:
        timestamp = timestamps.read(event[field])
        if timestamp is None:
            continue
        if now - timestamp.moment <= MAX_AGE:
            return timestamp
        too_old = too_old or field
    if too_old:
        raise Rejected(
            "timestamp_too_old", f"{too_old}: more than {MAX_AGE.days} days ago, expected an event of the last 90 days"
        )
    if present:
        warnings.append(f"{present[0]}: expected a date and time such as 2026-01-31T12:00:00Z; left out")
    return None


def _add_texts(
    target: dict[str, Any], holder: dict[str, Any], place: str, fields: Mapping[str, str], warnings: list[str]
) -> None:
    """Copy optional texts from the event's object at `place`; `fields` maps its names to PagerDuty's."""
    for name, field in fields.items():
        value = holder.get(name)
        if value is None:
            continue
        text = text_of(value)
        if text is None:
            warnings.append(f"{place}.{name}: expected a text, got {_shown(value)}; left out")
        elif text and not text.isspace():
            target[field] = text


def _add_custom_details(payload: dict[str, Any], properties: dict[str, Any], warnings: list[str]) -> None:
    details = properties.get("customDetails")
    if details is None:
        return
    if _deeper_than(limits.MAX_DETAILS_DEPTH, details):
        note = f"nested deeper than {limits.MAX_DETAILS_DEPTH} levels"
        warnings.append(f"properties.customDetails: {note}; replaced by a note")
        details = {"note": f"[left out: {note}]"}
    payload["custom_details"] = details if isinstance(details, dict) else {"customDetails": details}


def _deeper_than(limit: int, value: object) -> bool:
    """Tell whether JSON is nested deeper than `limit`, level by level, so that no depth can exhaust the stack."""
    level = [value]
    for _ in range(limit):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return False
        level = below
    return any(isinstance(item, dict | list) for item in level)


def _add_links_and_images(mapped: dict[str, Any], properties: dict[str, Any], warnings: list[str]) -> None:
    """Add links and images; an image that is not HTTPS, which PagerDuty would not show, becomes a link."""
    links, images = [], []
    for place, link in _objects(properties.get("linkURLs"), "properties.linkURLs", "href", warnings):
        links.append({"href": link["href"]})
        _add_texts(links[-1], link, place, _LINK_TEXT, warnings)
    for place, image in _objects(properties.get("imageURLs"), "properties.imageURLs", "src", warnings):
        if image["src"].lstrip()[:8].lower() == "https://":
            images.append({"src": image["src"]})
            _add_texts(images[-1], image, place, _IMAGE_TEXTS, warnings)
        else:
            links.append({"href": image["src"]})
            _add_texts(links[-1], image, place, _IMAGE_AS_LINK_TEXT, warnings)
            warnings.append(f"{place}: PagerDuty shows only HTTPS images; sent as a link")
    if links:
        mapped["links"] = links
    if images:
        mapped["images"] = images


def _objects(value: object, field: str, required: str, warnings: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the usable items of a string, an object, or an array of either, each with its place in the event."""
    if value is None:
        return
    in_array = isinstance(value, list)
    for position, item in enumerate(value if isinstance(value, list) else [value]):
        place = f"{field}[{position}]" if in_array else field
        found = {required: item} if isinstance(item, str) else item
        if isinstance(found, dict):
            url = found.get(required)
            if isinstance(url, str) and url and not url.isspace():
                yield place, found
                continue
        warnings.append(f"{place}: expected a URL or an object with {required}, got {_shown(item)}; left out")


# -- words for people ------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    """Show what came instead: a short scalar as it is, anything larger by its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = text_of(value) or ""
    if isinstance(value, str):
        return f'"{text}"' if len(text) <= _SHOWN_CHARACTERS else f"a string of {len(text):,} characters"
    return text if len(text) <= _SHOWN_CHARACTERS else "a long number"


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _bounded(warnings: list[str]) -> tuple[str, ...]:
    if len(warnings) > _MAX_WARNINGS:
        return (*warnings[:_MAX_WARNINGS], f"and {len(warnings) - _MAX_WARNINGS:,} more")
    return tuple(warnings)
