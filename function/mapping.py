"""The core: a RudderStack track call becomes a PagerDuty event, or is refused with the reason.

Pure: the time and the rules are passed in. The property tables are RudderStack's
(https://www.rudderstack.com/docs/destinations/streaming-destinations/pagerduty/). The page goes out whenever it can:
what is merely imperfect is repaired and reported as a warning; what leaves open *whether or whom* to page is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import limits
import timestamps
from event import ACTIONS, SEVERITIES, Action, Event, Kind, Severity
from outcome import NotSentError, Outcome
from settings import Rules
from timestamps import Timestamp

T = TypeVar("T", bound=str)

# rudder-transformer, `src/constants/destinationCanonicalNames.js`, in its order.
INTEGRATION_NAMES: Final = ("pagerduty", "PAGERDUTY", "PagerDuty", "Pagerduty", "pagerDuty")
# https://www.rudderstack.com/docs/event-spec/standard-events/ and what rudder-transformer knows besides.
OTHER_EVENT_TYPES: Final = frozenset(
    {"identify", "page", "screen", "group", "alias", "merge", "reset", "record", "extract", "audiencelist"}
)
_KINDS: Final[dict[str, Kind]] = {"alertevent": "alert", "changeevent": "change"}
# PagerDuty keeps change events, and shows them, for 90 days; RudderStack's own destination refuses older events.
MAX_AGE: Final = timedelta(days=90)
# Where an event says when it happened, the most trustworthy first; RudderStack's page writes the second.
_TIMESTAMPS: Final = ("originalTimestamp", "originalTimeStamp", "timestamp")
_TIMESTAMPS_WHEN_FILLED_IN: Final = ("timestamp", "originalTimestamp", "originalTimeStamp")
_CONTAINERS: Final = (dict, list)
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


def map_event(raw: object, service: str, rules: Rules, now: datetime, fallback_key: str) -> Event | Outcome:
    """Map one RudderStack event, any JSON whatever, to the event for that PagerDuty service that it asks for.

    Returns the reason when it asks for none, or can never be sent. `fallback_key` is the dedup key of a trigger that
    brings neither one nor a `messageId`: any text that no other event has.
    """
    try:
        return _map(raw, service, rules, now, fallback_key)
    except NotSentError as error:
        # Its line in the log is the only trace of what is refused out of a batch: it has to say which event it was.
        message_id, dedup_key = _message_id(raw), _dedup_key(raw, rules.dedup_key_field, [])
        return replace(error.outcome, message_id=message_id, dedup_key=dedup_key)


def _map(raw: object, service: str, rules: Rules, now: datetime, fallback_key: str) -> Event:
    if not isinstance(raw, dict):
        raise NotSentError("event_not_an_object", f"event: expected an object, got {_shown(raw)}")
    kind = _kind(raw)
    properties = raw.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise NotSentError("properties_not_an_object", f"properties: expected an object, got {_shown(properties)}")
    if kind == "change":
        return _change_event(raw, properties, service, now)
    return _alert_event(raw, properties, service, rules, now, fallback_key)


def text_of(value: object) -> str | None:
    """Write a scalar as text, 5.0 as "5" and True as "true", as JavaScript does; None when it is no scalar.

    Half of a surrogate pair, which neither the log nor PagerDuty can have, becomes a question mark.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
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
        raise NotSentError("not_for_pagerduty", f"{field} is false: the event is not for PagerDuty")

    event_type = event.get("type")
    if event_type is None:
        raise NotSentError("type_missing", 'type: missing, expected "track"')
    known = event_type.lower() if isinstance(event_type, str) else None
    if known in OTHER_EVENT_TYPES:
        raise NotSentError("not_a_track_call", f"type: only track calls go to PagerDuty, this is {_shown(event_type)}")
    if known != "track":
        raise NotSentError("type_unknown", f'type: expected "track", got {_shown(event_type)}')

    if integration is None or integration is True:
        return "alert"
    if isinstance(integration, dict):
        wanted = integration.get("type")
        if wanted is None:
            return "alert"
        if isinstance(wanted, str) and (kind := _KINDS.get(wanted.lower())):
            return kind
        field, integration = f"{field}.type", wanted
    raise NotSentError(
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


def _action(value: object) -> Action:
    if value is None:
        return "trigger"
    if action := _chosen(value, ACTIONS):
        return action
    raise NotSentError(
        "action_unknown",
        f"properties.action: expected {_one_of(ACTIONS)}, got {_shown(value)}; "
        "not sent, since a misspelt resolve must not page",
    )


def _dedup_key(event: object, path: tuple[str, ...], warnings: list[str]) -> str | None:
    """Follow the path into the event: keys of objects, positions in arrays. Only a string or a number is a key."""
    value = event
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


def _message_id(event: object) -> str | None:
    value = event.get("messageId") if isinstance(event, dict) else None
    text = None if isinstance(value, bool) else text_of(value)
    return text if text and not text.isspace() else None


# -- what PagerDuty gets ---------------------------------------------------------------------------------------------


def _alert_event(  # noqa: PLR0913, PLR0917 -- all that decides what an alert says
    raw: dict[str, Any], properties: dict[str, Any], service: str, rules: Rules, now: datetime, fallback_key: str
) -> Event:
    """Build an alert event. An acknowledge or a resolve is judged by its dedup key alone, and has nothing else."""
    warnings: list[str] = []
    message_id = _message_id(raw)
    action = _action(properties.get("action"))
    dedup_key = _dedup_key(raw, rules.dedup_key_field, warnings)
    if action != "trigger":
        if dedup_key is None:
            raise NotSentError(
                "dedup_key_missing",
                f"{'.'.join(rules.dedup_key_field)}: {action} needs the dedup key of the alert that it is about, "
                "a string or a number",
            )
        content = {"event_action": action, "dedup_key": dedup_key}
        return Event(service, "alert", content, action, dedup_key, message_id, None, _bounded(warnings))

    dedup_key = dedup_key or limits.fit_dedup_key(message_id or fallback_key)
    timestamp = _timestamp(raw, now, warnings)
    payload: dict[str, Any] = {
        "summary": _summary(raw.get("event"), warnings),
        "severity": _severity(properties.get("severity"), rules.default_severity, warnings),
        "source": _source(properties.get("source"), rules.default_source, warnings),
    }
    if timestamp:
        payload["timestamp"] = timestamp.text
    _add_texts(payload, properties, "properties", _PAYLOAD_TEXTS, warnings)
    _add_custom_details(payload, properties, warnings)
    alert: dict[str, Any] = {"event_action": action, "dedup_key": dedup_key, "payload": payload}
    _add_links_and_images(alert, properties, warnings)
    _add_texts(alert, properties, "properties", _CLIENT_TEXTS, warnings)
    occurred_at = timestamp and timestamp.moment
    return Event(service, "alert", alert, action, dedup_key, message_id, occurred_at, _bounded(warnings))


def _change_event(raw: dict[str, Any], properties: dict[str, Any], service: str, now: datetime) -> Event:
    warnings: list[str] = []
    timestamp = _timestamp(raw, now, warnings)
    payload: dict[str, Any] = {"summary": _summary(raw.get("event"), warnings)}
    severity = properties.get("severity")
    if severity is not None:
        if known := _chosen(severity, SEVERITIES):
            payload["severity"] = known
        else:
            expected = _one_of(SEVERITIES)
            warnings.append(f"properties.severity: expected {expected}, got {_shown(severity)}; left out")
    if timestamp:
        payload["timestamp"] = timestamp.text
    _add_texts(payload, properties, "properties", _SOURCE_TEXT, warnings)
    _add_custom_details(payload, properties, warnings)
    change: dict[str, Any] = {"payload": payload}
    _add_links_and_images(change, properties, warnings)
    return Event(
        service,
        "change",
        change,
        message_id=_message_id(raw),
        occurred_at=timestamp and timestamp.moment,
        warnings=_bounded(warnings),
    )


def _summary(value: object, warnings: list[str]) -> str:
    text = text_of(value)
    if not text or text.isspace():
        raise NotSentError("event_name_missing", f"event: expected the event's name, got {_shown(value)}")
    if len(text) > limits.MAX_SUMMARY:
        warnings.append(f"event: {len(text):,} characters, cut to PagerDuty's {limits.MAX_SUMMARY:,}")
        return text[: limits.MAX_SUMMARY]
    return text


def _chosen(value: object, choices: tuple[T, ...]) -> T | None:
    """Find the choice that the value names, whatever its case and the white space around it."""
    name = value.strip().lower() if isinstance(value, str) else None
    for choice in choices:
        if choice == name:
            return choice
    return None


def _severity(value: object, default: Severity, warnings: list[str]) -> Severity:
    if value is None:
        return default
    severity = _chosen(value, SEVERITIES)
    if severity:
        return severity
    expected = _one_of(SEVERITIES)
    warnings.append(f"properties.severity: expected {expected}, got {_shown(value)}; sent as {default}")
    return default


def _source(value: object, default: str, warnings: list[str]) -> str:
    text = "" if value is None else text_of(value)
    if text and not text.isspace():
        return text
    if not default:
        if text is None:
            raise NotSentError("source_not_text", f"properties.source: expected a text, got {_shown(value)}")
        raise NotSentError(
            "source_missing",
            "properties.source: missing, PagerDuty wants to know what is affected; "
            "add it to the track call or set DEFAULT_SOURCE",
        )
    if text is None:
        warnings.append(f"properties.source: expected a text, got {_shown(value)}; sent as {default}")
    return default


def _timestamp(event: dict[str, Any], now: datetime, warnings: list[str]) -> Timestamp | None:
    """Find the first timestamp that can be read and is at most 90 days old; refuse when those that can be are older.

    An `originalTimestamp` that means the same moment as `receivedAt` is rudder-server's own, filled in on arrival; the
    sender's time is then in `timestamp` (rudder-server, `processor/processor.go`).
    """
    original = timestamps.read(event.get("originalTimestamp"))
    received = original and timestamps.read(event.get("receivedAt"))
    fields = _TIMESTAMPS
    if original and received and original.moment == received.moment:
        fields = _TIMESTAMPS_WHEN_FILLED_IN
    unreadable = too_old = None
    for field in fields:
        timestamp = original if field == "originalTimestamp" else timestamps.read(event.get(field))
        if timestamp is None:
            unreadable = unreadable or (field if event.get(field) is not None else None)
        elif now - timestamp.moment <= MAX_AGE:
            return timestamp
        else:
            too_old = too_old or field
    if too_old:
        raise NotSentError(
            "timestamp_too_old", f"{too_old}: more than {MAX_AGE.days} days ago, expected an event of the last 90 days"
        )
    if unreadable:
        warnings.append(f"{unreadable}: expected a date and time such as 2026-01-31T12:00:00Z; left out")
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
        level = [
            below
            for item in level
            if isinstance(item, _CONTAINERS)
            for below in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, _CONTAINERS) for item in level)


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
    items = value if isinstance(value, list) else [value]
    if len(items) > limits.MAX_ITEMS:
        warnings.append(f"{field}: {len(items):,} items, of which the first {limits.MAX_ITEMS} were looked at")
    for position, item in enumerate(items[: limits.MAX_ITEMS]):
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
