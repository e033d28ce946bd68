"""The core: a RudderStack track call becomes a PagerDuty event, or is refused with the reason.

Pure: the time and the rules are passed in. The property tables are RudderStack's
(https://www.rudderstack.com/docs/destinations/streaming-destinations/pagerduty/). The page goes out whenever it can:
what is merely imperfect is repaired and reported as a warning; what leaves open *whether or whom* to page is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import limits
import timestamps
from event import ACTIONS, SERVICE, SEVERITIES, Action, Event, Kind, Severity
from outcome import NotSentError, Outcome
from paths import Finder, Path, Template, fold, shown, text_of
from settings import Rules
from timestamps import Timestamp

T = TypeVar("T", bound=str)
D = TypeVar("D", bound=Severity | None)

# rudder-transformer, `src/constants/destinationCanonicalNames.js`, in its order.
INTEGRATION_NAMES: Final = ("pagerduty", "PAGERDUTY", "PagerDuty", "Pagerduty", "pagerDuty")
# https://www.rudderstack.com/docs/event-spec/standard-events/ and what rudder-transformer knows besides.
OTHER_EVENT_TYPES: Final = frozenset(
    {"identify", "page", "screen", "group", "alias", "merge", "reset", "record", "extract", "audiencelist"}
)
_KINDS: Final[dict[str, Kind]] = {"alertevent": "alert", "changeevent": "change"}
# How many letters of a name under `integrations` may be wrong for it to look like PagerDuty's.
_WRONG_LETTERS: Final = 2
# The properties in RudderStack's tables, the dedup key's apart: the settings say where that is.
_CHANGE_PROPERTIES: Final = ("severity", "source", "customDetails", "linkURLs", "imageURLs")
_ALERT_PROPERTIES: Final = ("action", "group", "class", "component", "client", "clientUrl", *_CHANGE_PROPERTIES)
_BY_LETTERS: Final[dict[Kind, dict[str, str]]] = {
    "alert": {fold(name): name for name in _ALERT_PROPERTIES},
    "change": {fold(name): name for name in _CHANGE_PROPERTIES},
}
_KNOWN: Final = {kind: {*names.values(), "dedupKey"} for kind, names in _BY_LETTERS.items()}
_LETTERS: Final = {kind: {fold(name) for name in names} for kind, names in _KNOWN.items()}
# In EXTRA_DETAILS: all properties that the tables do not use.
_ALL_PROPERTIES: Final = ("properties",)
# What others call PagerDuty's four severities; syslog's are in https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1.
OTHER_SEVERITIES: Final[dict[str, Severity]] = {
    **dict.fromkeys(("fatal", "emergency", "alert", "crit", "p1"), "critical"),
    **dict.fromkeys(("err", "high", "p2"), "error"),
    **dict.fromkeys(("warn", "medium", "p3"), "warning"),
    **dict.fromkeys(("notice", "low", "informational", "debug", "ok", "p4", "p5"), "info"),
}
# PagerDuty keeps change events, and shows them, for 90 days; RudderStack's own destination refuses older events.
MAX_AGE: Final = timedelta(days=90)
# Where an event says when it happened, the most trustworthy first; RudderStack's page writes the second.
_TIMESTAMPS: Final = ("originalTimestamp", "originalTimeStamp", "timestamp")
_TIMESTAMPS_WHEN_FILLED_IN: Final = ("timestamp", "originalTimestamp", "originalTimeStamp")
# RudderStack shows its users 10 KB of our answer.
_MAX_WARNINGS: Final = 20
_NAME_CHARACTERS: Final = 40
# Optional texts of an alert: RudderStack's property, then where PagerDuty wants it.
_PAYLOAD_TEXTS: Final = {"group": "group", "class": "class", "component": "component"}
_CLIENT_TEXTS: Final = {"client": "client", "clientUrl": "client_url"}
_SOURCE_TEXT: Final = {"source": "source"}
_LINK_TEXT: Final = {"text": "text"}
_IMAGE_TEXTS: Final = {"href": "href", "alt": "alt"}
_IMAGE_AS_LINK_TEXT: Final = {"alt": "text"}


def map_event(raw: object, service: str, rules: Rules, now: datetime, fallback_key: str) -> Event | Outcome:
    """Map one RudderStack event, any JSON whatever, to a PagerDuty event, or return the reason why it is not sent.

    `service` is the PagerDuty service of an event that names none itself. `fallback_key` is the dedup key of a trigger
    that brings neither one nor a `messageId`: any text that no other event has.
    """
    try:
        return _map(Finder(raw), service, rules, now, fallback_key)
    except NotSentError as error:
        # Its line in the log is the only trace of what is refused out of a batch: it has to say which event it was.
        dedup_key, _ = _dedup_key(Finder(raw), rules.dedup_key_field)
        return replace(error.outcome, message_id=_message_id(raw), dedup_key=dedup_key)


def _map(finder: Finder, service: str, rules: Rules, now: datetime, fallback_key: str) -> Event:
    raw = finder.event
    if not isinstance(raw, dict):
        raise NotSentError("event_not_an_object", f"event: expected an object, got {shown(raw)}")
    kind = _kind(finder)
    properties = _properties(kind, finder)
    if rules.service_field:
        service = _service(service, rules.service_field, finder)
    if kind == "change":
        return _change_event(finder, properties, service, rules, now)
    return _alert_event(finder, properties, service, rules, now, fallback_key)


# -- whether and whom ------------------------------------------------------------------------------------------------


def _kind(finder: Finder) -> Kind:
    """Tell an alert from a change event; raise when the event is not for PagerDuty, or leaves open what it is."""
    event = finder.event
    field, integration = _integration(event.get("integrations"), finder)
    if integration is False:
        raise NotSentError("not_for_pagerduty", f"{field} is false: the event is not for PagerDuty")

    event_type = event.get("type")
    if event_type is None:
        raise NotSentError("type_missing", 'type: missing, expected "track"')
    known = event_type.lower() if isinstance(event_type, str) else None
    if known in OTHER_EVENT_TYPES:
        raise NotSentError("not_a_track_call", f"type: only track calls go to PagerDuty, this is {shown(event_type)}")
    if known != "track":
        raise NotSentError("type_unknown", f'type: expected "track", got {shown(event_type)}')

    if integration is None or integration is True:
        return "alert"
    if isinstance(integration, dict):
        wanted = integration.get("type")
        if wanted is None:
            return "alert"
        if isinstance(wanted, str) and (kind := _KINDS.get(wanted.lower())):
            return kind
        field, integration = f"{field}.type", wanted
    raise _unclear(field, f"got {shown(integration)}")


def _integration(integrations: object, finder: Finder) -> tuple[str, object]:
    """Find PagerDuty's entry in `integrations`, as RudderStack does: the first that is neither false nor null.

    Raises NotSentError when there is none, and one whose name is misspelt.
    """
    if not isinstance(integrations, dict):
        return "integrations", integrations
    found: tuple[str, object] = ("integrations", None)
    for name in INTEGRATION_NAMES:
        value = integrations.get(name)
        if value is not None:
            found = (f"integrations.{name}", value)
            if value is not False:
                break
    # `All` alone is what an SDK writes when nobody chose anything.
    if found[1] is not None or (len(integrations) == 1 and "All" in integrations):
        return found
    return _nearly_integration(integrations, finder) or found


def _nearly_integration(integrations: dict[str, Any], finder: Finder) -> tuple[str, object] | None:
    """Find PagerDuty's entry under a name that is nearly right; raise when it may be one under a misspelt name."""
    name = INTEGRATION_NAMES[0]
    folded = finder.folded(integrations)
    if name in folded:
        return f"integrations.{name}", finder.near(integrations, name, ("integrations",))
    for letters, other in list(folded.items())[: limits.MAX_ITEMS]:
        value = integrations[other]
        if isinstance(value, dict) and value.get("type") is not None and _is_like(letters, name, _WRONG_LETTERS):
            raise _unclear(f"integrations.{_short(other)}", f"which looks like a misspelt {name}")
    return None


def _is_like(name: str, other: str, wrong: int) -> bool:
    """Tell whether the names differ in so few letters at most, each changed, added, or left out."""
    if name[:1] == other[:1]:
        return not name or _is_like(name[1:], other[1:], wrong)
    rests = ((name[1:], other), (name, other[1:]), (name[1:], other[1:]))
    return wrong > 0 and any(_is_like(*rest, wrong - 1) for rest in rests)


def _unclear(field: str, what: str) -> NotSentError:
    return NotSentError(
        "integration_unclear",
        f'{field}: expected {{"type": "alertEvent"}} or {{"type": "changeEvent"}}, {what}; '
        "not sent, since it may not be meant to page",
    )


def _properties(kind: Kind, finder: Finder) -> dict[str, Any]:
    """Return the event's properties, those whose names are nearly right also under RudderStack's names."""
    properties = finder.event.get("properties")
    if properties is None:
        return {}
    if not isinstance(properties, dict):
        raise NotSentError("properties_not_an_object", f"properties: expected an object, got {shown(properties)}")
    if _KNOWN[kind].issuperset(properties):
        return properties
    missing = [
        name
        for letters in finder.folded(properties)
        if (name := _BY_LETTERS[kind].get(letters)) and properties.get(name) is None
    ]
    return properties | {name: finder.near(properties, name, _ALL_PROPERTIES) for name in missing}


def _service(instead: str, field: Path, finder: Finder) -> str:
    """Find the PagerDuty service that the event names."""
    value = finder.find(field)
    name = None if isinstance(value, bool) else text_of(value)
    if name is not None and SERVICE.fullmatch(name):
        return name
    finder.warnings.append(
        f"{'.'.join(field)}: expected the name of a PagerDuty service, 1 to 64 of A-Z a-z 0-9 _ . -, "
        f"got {shown(value)}; sent to {instead}"
    )
    return instead


def _action(value: object) -> Action:
    if value is None:
        return "trigger"
    if action := _chosen(value, ACTIONS):
        return action
    raise NotSentError(
        "action_unknown",
        f"properties.action: expected {_one_of(ACTIONS)}, got {shown(value)}; "
        "not sent, since a misspelt resolve must not page",
    )


def _dedup_key(finder: Finder, field: Path | Template) -> tuple[str | None, str]:
    """Find the dedup key; without one, tell what is wrong. On its own only a string or a number is a key."""
    if isinstance(field, Template):
        values = finder.texts(field)
        if None in values:
            missing = ".".join(field.paths[values.index(None)])
            return None, f"{missing}: expected a value, which the dedup key is made of, got nothing"
        return limits.fit_dedup_key(field.fill([value for value in values if value])), ""
    value = finder.find(field)
    key = None if isinstance(value, bool) else text_of(value)
    if key and not key.isspace():
        return limits.fit_dedup_key(key), ""
    return None, f"{'.'.join(field)}: expected a string or a number as dedup key, got {shown(value)}"


def _message_id(event: object) -> str | None:
    value = event.get("messageId") if isinstance(event, dict) else None
    text = None if isinstance(value, bool) else text_of(value)
    return text if text and not text.isspace() else None


# -- what PagerDuty gets ---------------------------------------------------------------------------------------------


def _alert_event(  # noqa: PLR0913, PLR0917 -- all that decides what an alert says
    finder: Finder, properties: dict[str, Any], service: str, rules: Rules, now: datetime, fallback_key: str
) -> Event:
    """Build an alert event. An acknowledge or a resolve is judged by its dedup key alone, and has nothing else."""
    raw, warnings = finder.event, finder.warnings
    message_id = _message_id(raw)
    action = _action(properties.get("action"))
    dedup_key, problem = _dedup_key(finder, rules.dedup_key_field)
    if action != "trigger":
        if dedup_key is None:
            raise NotSentError("dedup_key_missing", f"{problem}; {action} needs the dedup key of its alert")
        content = {"event_action": action, "dedup_key": dedup_key}
        return Event(service, "alert", content, action, dedup_key, message_id, None, _bounded(warnings))

    if dedup_key is None:
        warnings.append(f"{problem}; no later event can resolve this incident")
        dedup_key = limits.fit_dedup_key(message_id or fallback_key)
    timestamp = _timestamp(raw, now, warnings)
    payload: dict[str, Any] = {
        "summary": _summary(finder, rules.summary_template),
        "severity": _severity(properties.get("severity"), rules.default_severity, warnings),
        "source": _source(properties.get("source"), rules.default_source, warnings),
    }
    if timestamp:
        payload["timestamp"] = timestamp.text
    _add_texts(payload, properties, _PAYLOAD_TEXTS, warnings)
    _add_custom_details(payload, properties, "alert", rules, finder)
    alert: dict[str, Any] = {"event_action": action, "dedup_key": dedup_key, "payload": payload}
    _add_links_and_images(alert, properties, warnings)
    _add_texts(alert, properties, _CLIENT_TEXTS, warnings)
    occurred_at = timestamp and timestamp.moment
    return Event(service, "alert", alert, action, dedup_key, message_id, occurred_at, _bounded(warnings))


def _change_event(finder: Finder, properties: dict[str, Any], service: str, rules: Rules, now: datetime) -> Event:
    raw, warnings = finder.event, finder.warnings
    timestamp = _timestamp(raw, now, warnings)
    payload: dict[str, Any] = {"summary": _summary(finder, rules.summary_template)}
    if severity := _severity(properties.get("severity"), None, warnings):
        payload["severity"] = severity
    if timestamp:
        payload["timestamp"] = timestamp.text
    _add_texts(payload, properties, _SOURCE_TEXT, warnings)
    _add_custom_details(payload, properties, "change", rules, finder)
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


def _summary(finder: Finder, template: Template | None) -> str:
    """Write the summary by the template; without one, or when none of its values is there, it is the event's name."""
    field, text = "SUMMARY_TEMPLATE", None
    if template:
        values = finder.texts(template)
        if any(values):
            # What a missing value leaves behind is white space, as a rule.
            text = " ".join(template.fill([value or "" for value in values]).split())
    if text is None:
        field, text = "event", text_of(finder.event.get("event"))
    if not text or text.isspace():
        raise NotSentError(
            "event_name_missing", f"event: expected the event's name, got {shown(finder.event.get('event'))}"
        )
    if len(text) > limits.MAX_SUMMARY:
        finder.warnings.append(f"{field}: {len(text):,} characters, cut to PagerDuty's {limits.MAX_SUMMARY:,}")
        return text[: limits.MAX_SUMMARY]
    return text


def _chosen(value: object, choices: tuple[T, ...]) -> T | None:
    """Find the choice that the value names, whatever its case and the white space around it."""
    name = value.strip().lower() if isinstance(value, str) else None
    for choice in choices:
        if choice == name:
            return choice
    return None


def _severity(value: object, default: D, warnings: list[str]) -> Severity | D:
    """Find the severity that the value names in PagerDuty's words, or in those of others with a warning."""
    if value is None:
        return default
    if severity := _chosen(value, SEVERITIES):
        return severity
    name = value.strip().lower() if isinstance(value, str) else ""
    known = OTHER_SEVERITIES.get(name, default)
    consequence = f"sent as {known}" if known else "left out"
    warnings.append(f"properties.severity: expected {_one_of(SEVERITIES)}, got {shown(value)}; {consequence}")
    return known


def _source(value: object, default: str, warnings: list[str]) -> str:
    text = "" if value is None else text_of(value)
    if text and not text.isspace():
        return text
    if not default:
        if text is None:
            raise NotSentError("source_not_text", f"properties.source: expected a text, got {shown(value)}")
        raise NotSentError(
            "source_missing",
            "properties.source: missing, PagerDuty wants to know what is affected; "
            "add it to the track call or set DEFAULT_SOURCE",
        )
    if text is None:
        warnings.append(f"properties.source: expected a text, got {shown(value)}; sent as {default}")
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


def _add_texts(  # noqa: PLR0913, PLR0917 -- what to copy, whereto, and where it is
    target: dict[str, Any],
    holder: dict[str, Any],
    fields: Mapping[str, str],
    warnings: list[str],
    place: str = "properties",
    position: int | None = None,
) -> None:
    """Copy optional texts from the event's object at `place`; `fields` maps its names to PagerDuty's."""
    for name, field in fields.items():
        value = holder.get(name)
        if value is None:
            continue
        text = text_of(value)
        if text is None:
            warnings.append(f"{_item(place, position)}.{name}: expected a text, got {shown(value)}; left out")
        elif text and not text.isspace():
            target[field] = text


def _add_custom_details(
    payload: dict[str, Any], properties: dict[str, Any], kind: Kind, rules: Rules, finder: Finder
) -> None:
    details = properties.get("customDetails")
    if details is not None:
        details = _not_too_deep(details, "properties.customDetails", limits.MAX_DETAILS_DEPTH, finder.warnings)
        payload["custom_details"] = details if isinstance(details, dict) else {"customDetails": details}
    if rules.extra_details and (extra := _extra_details(properties, kind, rules.extra_details, finder)):
        payload["custom_details"] = extra | payload.get("custom_details", {})


def _extra_details(properties: dict[str, Any], kind: Kind, paths: tuple[Path, ...], finder: Finder) -> dict[str, Any]:
    """Find what else the custom details are to show; of two values with the same name, the first."""
    found: dict[str, Any] = {}
    for path in paths:
        values = _unused(properties, kind) if path == _ALL_PROPERTIES else {path[-1]: finder.find(path)}
        for name, value in values.items():
            if value is not None and name not in found:
                place = f"EXTRA_DETAILS: {_short(name)}"
                found[name] = _not_too_deep(value, place, limits.MAX_DETAILS_DEPTH - 1, finder.warnings)
    return found


def _unused(properties: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return the properties that are not in RudderStack's table, nor nearly."""
    return {name: value for name, value in properties.items() if fold(name) not in _LETTERS[kind]}


def _not_too_deep(details: object, place: str, limit: int, warnings: list[str]) -> object:
    """Return the details, or a note in their stead when they are nested so deep that not everybody could read them."""
    if not limits.deeper_than(limit, details):
        return details
    note = f"nested deeper than {limit} levels"
    warnings.append(f"{place}: {note}; replaced by a note")
    return {"note": f"[left out: {note}]"}


def _add_links_and_images(mapped: dict[str, Any], properties: dict[str, Any], warnings: list[str]) -> None:
    """Add links and images; an image that is not HTTPS, which PagerDuty would not show, becomes a link."""
    links, images = [], []
    place = "properties.linkURLs"
    for position, url, holder in _objects(properties.get("linkURLs"), place, "href", warnings):
        link = {"href": url}
        _add_texts(link, holder, _LINK_TEXT, warnings, place, position)
        links.append(link)
    place = "properties.imageURLs"
    for position, url, holder in _objects(properties.get("imageURLs"), place, "src", warnings):
        if url.lstrip()[:8].lower() == "https://":
            image = {"src": url}
            _add_texts(image, holder, _IMAGE_TEXTS, warnings, place, position)
            images.append(image)
        else:
            link = {"href": url}
            _add_texts(link, holder, _IMAGE_AS_LINK_TEXT, warnings, place, position)
            links.append(link)
            warnings.append(f"{_item(place, position)}: PagerDuty shows only HTTPS images; sent as a link")
    if links:
        mapped["links"] = links
    if images:
        mapped["images"] = images


def _objects(
    value: object, field: str, required: str, warnings: list[str]
) -> list[tuple[int | None, str, dict[str, Any]]]:
    """List the usable items of a string, an object, or an array of either: position in the array, URL, and the object.

    The position is None when there is no array.
    """
    if value is None:
        return []
    in_array = isinstance(value, list)
    items = value if isinstance(value, list) else [value]
    if len(items) > limits.MAX_ITEMS:
        warnings.append(f"{field}: {len(items):,} items, of which the first {limits.MAX_ITEMS} were looked at")
    found = []
    for number, item in enumerate(items[: limits.MAX_ITEMS]):
        position = number if in_array else None
        holder = item if isinstance(item, dict) else {required: item}
        url = holder.get(required)
        if isinstance(url, str) and url and not url.isspace():
            found.append((position, url, holder))
        else:
            place = _item(field, position)
            warnings.append(f"{place}: expected a URL or an object with {required}, got {shown(item)}; left out")
    return found


# -- words for people ------------------------------------------------------------------------------------------------


def _item(field: str, position: int | None) -> str:
    return field if position is None else f"{field}[{position}]"


def _short(name: str) -> str:
    """Write a name that the sender chose, or the beginning of it."""
    return text_of(name[:_NAME_CHARACTERS]) or ""


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _bounded(warnings: list[str]) -> tuple[str, ...]:
    if len(warnings) > _MAX_WARNINGS:
        return (*warnings[:_MAX_WARNINGS], f"and {len(warnings) - _MAX_WARNINGS:,} more")
    return tuple(warnings)
