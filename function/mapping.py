"""The core: a RudderStack track call becomes a PagerDuty event, or is refused with the reason.

Pure: the time and the rules are passed in. The property tables are RudderStack's
(https://www.rudderstack.com/docs/destinations/streaming-destinations/pagerduty/). The page goes out whenever it can:
what is merely imperfect is repaired and reported as a warning; what leaves open *whether or whom* to page is refused.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar

import limits
import timestamps
from event import ACTIONS, SERVICE, SEVERITIES, Action, Event, Kind, Severity, decode, encode
from outcome import Outcome, ProcessingError
from paths import (
    EventReader,
    Path,
    Template,
    by_letters,
    describe,
    is_missing,
    may_be_compared,
    normalize,
    scalar_to_text,
    strip,
)
from settings import Rules

Object = dict[str, Any]
T = TypeVar("T")

# rudder-transformer, `src/constants/destinationCanonicalNames.js`, in its order.
INTEGRATION_NAMES: Final = ("pagerduty", "PAGERDUTY", "PagerDuty", "Pagerduty", "pagerDuty")
# https://www.rudderstack.com/docs/event-spec/standard-events/ and what rudder-transformer knows besides.
OTHER_EVENT_TYPES: Final = frozenset(
    {"identify", "page", "screen", "group", "alias", "merge", "reset", "record", "extract", "audiencelist"}
)
_KINDS: Final[dict[str, Kind]] = {"alertevent": "alert", "changeevent": "change"}
_CHANGE_EVENT: Final = re.compile(rb'"change[^a-z0-9"]*event"', re.IGNORECASE)
# How many letters of a name under `integrations` may be wrong for it to look like PagerDuty's.
_WRONG_LETTERS: Final = 2
# How many names of an event are compared letter by letter, which takes 10 µs each: no real event has as many.
_MAX_COMPARED: Final = 10
_ACTIONS: Final[dict[str, Action]] = {action: action for action in ACTIONS}
# Values that ask not to page, and names, by their letters, that may mean the action.
_NO_TRIGGERS: Final = frozenset({"acknowledge", "acknowledged", "ack", "acked", "resolve", "resolved"})
_WORDS: Final = "(?:event|alert|incident|pagerduty|pd|type|name)*"
_ACTION_NAME: Final = re.compile(f"{_WORDS}actions?{_WORDS}")
# What is read of an event, its properties and their parts. RudderStack's page writes `originalTimeStamp`; `links` and
# `images` are PagerDuty's own names.
_TIMESTAMPS: Final = ("originalTimestamp", "originalTimeStamp", "timestamp")
_OF_EVENT: Final = by_letters(*_TIMESTAMPS, "integrations", "type", "properties", "event", "messageId", "receivedAt")
_OF_CHANGE: Final = by_letters(
    "severity", "source", "customDetails", "linkURLs", "imageURLs", links="linkURLs", images="imageURLs"
)
_OF_ALERT: Final = _OF_CHANGE | by_letters("action", "group", "class", "component", "client", "clientUrl")
_OF_LINK, _OF_IMAGE = by_letters("href", "text"), by_letters("src", "href", "alt")
# What others call PagerDuty's four severities, by letters and digits alone; syslog's are in
# https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1.
OTHER_SEVERITIES: Final[dict[str, Severity]] = {
    **dict.fromkeys(("fatal", "emergency", "emerg", "panic", "alert", "crit", "disaster", "blocker"), "critical"),
    **dict.fromkeys(("p0", "p1", "sev0", "sev1"), "critical"),
    **dict.fromkeys(("err", "high", "major", "p2", "sev2"), "error"),
    **dict.fromkeys(("warn", "average", "medium", "moderate", "minor", "p3", "sev3"), "warning"),
    **dict.fromkeys(("information", "informational", "notice", "low", "normal", "none", "trivial", "trace"), "info"),
    **dict.fromkeys(("verbose", "debug", "ok", "success", "p4", "p5", "sev4", "sev5"), "info"),
}
_SEVERITIES: Final[dict[str, Severity]] = OTHER_SEVERITIES | {severity: severity for severity in SEVERITIES}
# PagerDuty keeps change events, and shows them, for 90 days; RudderStack's own destination refuses older events.
MAX_AGE: Final = timedelta(days=90)
# Clocks differ; a time further ahead means nothing.
_MAX_AHEAD: Final = timedelta(days=1)
# RudderStack shows its users 10 KB of our answer.
_MAX_WARNINGS: Final = 20
_NAME_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True)
class Context:
    """What the mapping needs besides the event and the rules.

    `service` is the PagerDuty service of an event that names none. `fallback_key`, any unique text, is the dedup key of
    a trigger with neither one nor a `messageId`. `is_filtered` means that a data plane has applied `integrations.All`.
    In a preview, paths of settings that find nothing cause a warning.
    """

    service: str
    now: datetime
    fallback_key: str
    is_filtered: bool = True
    is_preview: bool = False


def map_event(
    raw: object, rules: Rules, context: Context, value_limit: limits.ValueLimit | None = None
) -> Event | Outcome:
    """Return the PagerDuty event for a RudderStack event, any JSON, or the reason why it is not sent.

    `value_limit` is shared by the events of a request.
    """
    reader = EventReader(raw, value_limit, is_preview=context.is_preview)
    event = reader.get(raw, _OF_EVENT) if isinstance(raw, dict) else {}
    try:
        kind = _kind(reader, event, is_filtered=context.is_filtered)
        return _map(reader, event, kind, rules, context)
    except ProcessingError as error:
        # For an event refused in a batch the log is the only trace.
        dedup_key, _ = _dedup_key(reader, rules.dedup_key_field)
        return replace(error.outcome, message_id=_to_key(event.get("messageId")), dedup_key=dedup_key)


def _map(reader: EventReader, event: Object, kind: Kind, rules: Rules, context: Context) -> Event:
    raw = _properties(reader, event.get("properties"), kind)
    properties = reader.get(raw, _OF_ALERT if kind == "alert" else _OF_CHANGE, "properties")
    service = _service(reader, rules.service_field, context.service) if rules.service_field else context.service
    message_id, action, dedup_key, timestamp = _to_key(event.get("messageId")), None, None, None
    content: Object = {}
    if kind == "alert":
        action = _action(reader, raw)
        dedup_key = _dedup_key_for(reader, action, rules.dedup_key_field, message_id or context.fallback_key)
        content = {"event_action": action, "dedup_key": dedup_key}
    # An acknowledge or a resolve has nothing else, and is refused for nothing else.
    if action in {None, "trigger"}:
        timestamp = _timestamp(event, context.now, reader.warnings)
        summary = {"summary": _summary(reader, event.get("event"), rules.summary_template)}
        moment = {"timestamp": timestamp.text} if timestamp else {}
        content["payload"] = summary | moment | _payload_properties(reader, properties, raw, kind, rules)
        content |= _links_and_images(reader, properties)
        if kind == "alert":
            content |= _texts(properties, {"client": "client", "clientUrl": "client_url"}, reader.warnings)
    warnings = list(dict.fromkeys(reader.warnings))
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"and {len(warnings) - _MAX_WARNINGS:,} more"]
    return Event(
        service=service,
        kind=kind,
        content=content,
        action=action,
        dedup_key=dedup_key,
        message_id=message_id,
        occurred_at=timestamp and timestamp.moment,
        warnings=tuple(warnings),
    )


def _kind(reader: EventReader, event: Object, *, is_filtered: bool) -> Kind:
    """Return whether it is an alert or a change event; raise if it is not for PagerDuty, or leaves open what it is."""
    if not isinstance(reader.event, dict):
        raise ProcessingError("event_not_an_object", f"event: expected an object, got {describe(reader.event)}")
    place, entry = _entry(reader, event.get("integrations"), is_filtered=is_filtered)
    if entry is False:
        raise ProcessingError("not_for_pagerduty", f"{place} is false: the event is not for PagerDuty")
    event_type = event.get("type")
    if event_type is None:
        raise ProcessingError("type_missing", 'type: missing, expected "track"')
    known = strip(event_type).lower() if isinstance(event_type, str) else None
    if known in OTHER_EVENT_TYPES:
        raise ProcessingError("not_a_track_call", f"type: only track calls go to PagerDuty, not {describe(event_type)}")
    if known != "track":
        raise ProcessingError("type_unknown", f'type: expected "track", got {describe(event_type)}')
    return _requested_kind(reader, place, entry)


def _entry(reader: EventReader, integrations: Any, *, is_filtered: bool) -> tuple[str, Any]:
    """Find PagerDuty's entry in `integrations`, as RudderStack does: the first that is not falsy; None if all are.

    A misspelt name may ask for an alert; raise if it asks for anything else.
    """
    if not isinstance(integrations, dict):
        return "integrations", integrations
    right = INTEGRATION_NAMES[0]
    says = {name: it for name, it in integrations.items() if it is False or not (is_missing(it) or it == 0)}
    says.pop("All", None)
    exact = [name for name in INTEGRATION_NAMES if name in says]
    if names := exact or [name for name in says if normalize(name) == right]:
        name = max(names, key=lambda name: says[name] is not False)
        if not exact:
            reader.warn_of_spelling("integrations", right, name)
        return f"integrations.{name if exact else right}", says[name]
    if misspelt := _misspelt_name(reader, says, right):
        place = f"integrations.{_short(misspelt)}"
        if _requested_kind(reader, place, integrations[misspelt]) != "alert":
            raise _invalid(place, f"which looks like a misspelt {right}")
        return place, True
    if not is_filtered and reader.get(integrations, by_letters("All"), "integrations").get("All") is False:
        return "integrations.All", False
    return "integrations", None


def _misspelt_name(reader: EventReader, entries: Object, right: str) -> str | None:
    """Return the name of an entry for an alert or a change event that is wrong in one or two letters."""
    letters = {name: its for name in entries if len(right) - _WRONG_LETTERS <= len(its := normalize(name))}
    likely = (name for name, its in letters.items() if len({*its} & {*right}) >= len(right) - _WRONG_LETTERS)
    asking = (name for name in likely if _may_ask(reader, entries[name]))
    for name in islice(asking, _MAX_COMPARED):
        if max(len(letters[name]), len(right)) - _letters_in_common(letters[name], right) <= _WRONG_LETTERS:
            return name
    return None


def _may_ask(reader: EventReader, entry: object) -> bool:
    return entry is True or isinstance(entry, dict) or _mentions_change_event(reader, entry)


def _letters_in_common(letters: str, right: str) -> int:
    """Count the letters in common, in the same order; none if the name is much too long."""
    from difflib import SequenceMatcher  # noqa: PLC0415 -- hardly any event needs it, and each cold start would wait

    if len(letters) > 2 * len(right):
        return 0
    return sum(block.size for block in SequenceMatcher(None, letters, right).get_matching_blocks())


def _requested_kind(reader: EventReader, place: str, entry: object) -> Kind:
    """Return the kind of event that PagerDuty's entry asks for."""
    if entry is None or entry is True:
        return "alert"
    if isinstance(entry, dict):
        wanted = reader.get(entry, by_letters("type"), place).get("type")
        if wanted is None and not _mentions_change_event(reader, entry):
            return "alert"
        if kind := _choose(wanted, _KINDS):
            return kind
        place, entry = f"{place}.type", wanted
    raise _invalid(place, f"got {describe(entry)}")


def _mentions_change_event(reader: EventReader, entry: object) -> bool:
    is_readable = isinstance(entry, dict | str) and not reader.value_limit.problem(entry)
    return is_readable and _CHANGE_EVENT.search(encode(entry)) is not None


def _short(name: str) -> str:
    """Return a name that the sender chose, or the beginning of it."""
    return scalar_to_text(name[:_NAME_CHARACTERS]) or ""


def _invalid(place: str, problem: str) -> ProcessingError:
    expected = 'expected {"type": "alertEvent"} or {"type": "changeEvent"}'
    reason = "not sent, since it may not be meant to page"
    return ProcessingError("integration_invalid", f"{place}: {expected}, {problem}; {reason}")


def _properties(reader: EventReader, properties: Any, kind: Kind) -> Object:
    if properties is None or isinstance(properties, dict):
        return properties or {}
    problem = f"properties: expected an object, got {describe(properties)}"
    if kind == "alert":
        raise ProcessingError("properties_not_an_object", problem)
    reader.warnings.append(f"{problem}; left out")
    return {}


def _service(reader: EventReader, field: Path, fallback_service: str) -> str:
    """Return the PagerDuty service that the event names."""
    value = reader.find(field)
    name = None if isinstance(value, bool) or is_missing(value) else scalar_to_text(value)
    if name is not None and SERVICE.fullmatch(name):
        return name
    expected = "expected the name of a PagerDuty service, 1 to 64 of A-Z a-z 0-9 _ . -"
    reader.warnings.append(f"{'.'.join(field)}: {expected}, got {describe(value)}; sent to {fallback_service}")
    return fallback_service


def _action(reader: EventReader, properties: Object) -> Action:
    """Return the action under its name, else under a similar one or PagerDuty's own; a trigger without any.

    Raise if it is unknown, if two names disagree, or if another property is likely to mean an action.
    """
    names = ["action"]
    if is_missing(properties.get("action")):
        own = [name for name in reader.get_similar(properties, "eventaction") if _choose(properties[name], _ACTIONS)]
        names = [*reader.get_similar(properties, "action"), *own]
        if not names and (likely := _likely_actions(properties)):
            raise _unclear_action(properties, likely)
        if not names:
            return "trigger"
        reader.warn_of_spelling("properties", "action", names[0])
    meant = {_choose(properties[name], _ACTIONS): name for name in names}
    action = next(iter(meant))
    if action is None or len(meant) > 1:
        raise _unclear_action(properties, list(meant.values()))
    return action


def _likely_actions(properties: Object) -> list[str]:
    """List the names of properties that ask not to page under a name like `action`."""
    words = {name: strip(it).lower() for name, it in properties.items() if isinstance(it, str)}
    likely = [name for name, word in words.items() if word in _NO_TRIGGERS][:_MAX_COMPARED]
    return [name for name in likely if _is_like_action(normalize(name), words[name])]


def _is_like_action(letters: str, word: str) -> bool:
    if letters == "eventtype":  # The action in version 1 of PagerDuty's API.
        return word in ACTIONS
    # By the ratio that difflib has, 0.8 at least.
    is_close = 5 * _letters_in_common(letters, "action") >= 2 * (len(letters) + len("action"))
    is_close = is_close and letters[:1] == "a" and letters[-1:] == "n" and letters != "auction"
    return is_close or _ACTION_NAME.fullmatch(letters) is not None


def _unclear_action(properties: Object, names: list[str]) -> ProcessingError:
    got = " and ".join(describe(properties[it]) + (f" as {_short(it)}" if it != "action" else "") for it in names[:2])
    problem = f"expected trigger, acknowledge or resolve, got {got}; not sent, since a misspelt resolve must not page"
    return ProcessingError("action_unknown", f"properties.action: {problem}")


def _dedup_key_for(reader: EventReader, action: Action, field: Path | Template, fallback: str) -> str:
    """Return the dedup key; a trigger without one has the fallback, an acknowledge or a resolve is refused."""
    dedup_key, problem = _dedup_key(reader, field)
    if dedup_key is None and action != "trigger":
        raise ProcessingError("dedup_key_missing", f"{problem}; {action} needs the dedup key of its alert")
    if dedup_key is None:
        reader.warnings.append(f"{problem}; no later event can resolve this incident")
    return dedup_key or limits.fit_dedup_key(fallback)


def _dedup_key(reader: EventReader, field: Path | Template) -> tuple[str | None, str]:
    """Return the dedup key; without one, what is wrong. On its own only a string or a number is a key."""
    if isinstance(field, Template):
        values = reader.find_texts(field)
        if None in values:
            missing = ".".join(field.paths[values.index(None)])
            return None, f"{missing}: expected a value, which the dedup key is made of, got nothing"
        return limits.fit_dedup_key(field.fill([strip(value) for value in values if value])), ""
    value = reader.find(field)
    if key := _to_key(value):
        return key, ""
    return None, f"{'.'.join(field)}: expected a string or a number as dedup key, got {describe(value)}"


def _to_key(value: object) -> str | None:
    """Return a string or a number as a key that fits; None for anything else, and for what is missing."""
    text = None if isinstance(value, bool) or is_missing(value) else scalar_to_text(value)
    return None if text is None else limits.fit_dedup_key(strip(text))


def _payload_properties(reader: EventReader, properties: Object, raw: Object, kind: Kind, rules: Rules) -> Object:
    """Return what the payload of a trigger or a change event has of the properties; `raw` are all that there are."""
    is_alert = kind == "alert"
    payload: Object = {}
    if severity := _severity(properties.get("severity"), rules.default_severity if is_alert else None, reader.warnings):
        payload["severity"] = severity
    if is_alert:
        payload["source"] = _source(properties.get("source"), rules.default_source, reader.warnings)
    texts = ("group", "class", "component") if is_alert else ("source",)
    payload |= _texts(properties, {name: name for name in texts}, reader.warnings)
    details = _custom_details(reader, properties.get("customDetails"), raw, kind, rules.extra_details)
    return payload if details is None else {**payload, "custom_details": details}


def _summary(reader: EventReader, name: object, template: Template | None) -> str:
    """Write the summary by the template; without one, or if none of its values is there, it is the event's name."""
    if template and any(values := reader.find_texts(template)):
        # Collapse the spaces left by missing values.
        field, text = "SUMMARY_TEMPLATE", " ".join(template.fill([value or "" for value in values]).split())
    else:
        field, text = "event", scalar_to_text(name) or ""
    if not text:
        raise ProcessingError("event_name_missing", f"event: expected the event's name, got {describe(name)}")
    if len(text) > limits.MAX_SUMMARY:
        reader.warnings.append(f"{field}: {len(text):,} characters, cut to PagerDuty's {limits.MAX_SUMMARY:,}")
    return text[: limits.MAX_SUMMARY]


def _choose(value: object, choices: Mapping[str, T]) -> T | None:
    """Return what the value stands for, whatever its case and the white space around it."""
    return choices.get(strip(value).lower()) if isinstance(value, str) else None


def _severity(value: object, default: Severity | None, warnings: list[str]) -> Severity | None:
    """Return the severity in PagerDuty's words, or in those of others with a warning."""
    if value is None:
        return default
    word = strip(value).lower() if isinstance(value, str) else ""
    severity = _SEVERITIES.get(normalize(word), default)
    if word not in SEVERITIES:
        result = f"{describe(value)}; sent as {severity}" if severity else f"{describe(value)}; left out"
        warnings.append(f"properties.severity: expected critical, error, warning or info, got {result}")
    return severity


def _source(value: object, default: str, warnings: list[str]) -> str:
    if (text := scalar_to_text(value)) is not None:
        return text
    if not default and value is None:
        raise ProcessingError("source_missing", "properties.source: missing; add it, or set DEFAULT_SOURCE")
    if not default:
        raise ProcessingError("source_not_text", f"properties.source: expected a text, got {describe(value)}")
    if value is not None:
        warnings.append(f"properties.source: expected a text, got {describe(value)}; sent as {default}")
    return default


def _timestamp(event: Object, now: datetime, warnings: list[str]) -> timestamps.Timestamp | None:
    """Return the first timestamp that means a moment and is at most 90 days old; raise if all that do are older.

    An `originalTimestamp` that means the same moment as `receivedAt` is rudder-server's own, filled in on arrival; the
    sender's time is then in `timestamp` (rudder-server, `processor/processor.go`).
    """
    original = timestamps.read(event.get("originalTimestamp"))
    received = original and "timestamp" in event and timestamps.read(event.get("receivedAt"))
    is_filled_in = original and received and original.moment == received.moment
    read = {}
    for name in ("timestamp", *_TIMESTAMPS) if is_filled_in else _TIMESTAMPS:
        if name in event:
            read[name] = original if name == "originalTimestamp" else timestamps.read(event[name])
            if (it := read[name]) and -_MAX_AHEAD <= now - it.moment <= MAX_AGE:
                return it
    for name, it in read.items():
        if it and now - it.moment > MAX_AGE:
            raise ProcessingError("timestamp_too_old", f"{name}: more than {MAX_AGE.days} days ago")
    if read:
        warnings.append(f"{next(iter(read))}: expected the event's time, such as 2026-01-31T12:00:00Z; left out")
    return None


def _texts(values: Object, fields: Mapping[str, str], warnings: list[str], place: str = "properties") -> dict[str, str]:
    """Return optional texts among the values at `place`; `fields` maps their names to PagerDuty's."""
    texts = {}
    for name, field in fields.items():
        if (value := values.get(name)) is not None:
            if (text := scalar_to_text(value)) is not None:
                texts[field] = text
            else:
                warnings.append(f"{place}.{name}: expected a text, got {describe(value)}; left out")
    return texts


def _custom_details(reader: EventReader, value: object, raw: Object, kind: Kind, extra: tuple[Path, ...]) -> Any:
    """Return the custom details with what EXTRA_DETAILS adds, None without any; of values with one name, the first."""
    parsed = _from_json(value)
    details = _limit_details(reader, parsed if isinstance(parsed, dict) else value, "properties.customDetails")
    if details is not None and not isinstance(details, dict):
        details = {"customDetails": details}
    added: Object = {}
    for path in extra:
        found = {path[-1]: reader.explain(path, reader.find(path))}
        if path == ("properties",):
            used = {*(_OF_ALERT if kind == "alert" else _OF_CHANGE), "dedupkey"}
            found = {"properties": f"[left out: {len(raw):,} properties, more than PagerDuty takes]"}
            if may_be_compared(raw):
                found = {name: it for name, it in raw.items() if normalize(name) not in used}
        for name, it in found.items():
            if isinstance(it, dict | list) and name not in added:
                place = f"EXTRA_DETAILS: {_short(name)}"
                added[name] = _limit_details(reader, it, place, limits.MAX_DETAILS_DEPTH - 1)
            elif it is not None:
                added.setdefault(name, it)
    return added | (details or {}) if added else details


def _limit_details(reader: EventReader, details: Any, place: str, levels: int = limits.MAX_DETAILS_DEPTH) -> Any:
    """Return the details; if they are too deep or too many, a note instead of those that are objects and arrays."""
    problem = reader.value_limit.problem(details, levels)
    if problem is None:
        return details
    reader.warnings.append(f"{place}: {problem}; replaced by a note")
    entries = details if isinstance(details, dict) and len(details) <= limits.MAX_ENTRIES else {}
    scalars = {name: it for name, it in entries.items() if not isinstance(it, dict | list)}
    return {**scalars, "note": f"[left out: {problem}]"}


def _links_and_images(reader: EventReader, properties: Object) -> Object:
    """Return links and images; an image that is not HTTPS, which PagerDuty would not show, becomes a link."""
    links, images = [], []
    for place, item in _items(reader, properties, "linkURLs", _OF_LINK):
        links.append(_texts(item, {"href": "href", "text": "text"}, reader.warnings, place))
    for place, item in _items(reader, properties, "imageURLs", _OF_IMAGE):
        if item["src"].lstrip()[:8].lower() == "https://":
            images.append(_texts(item, {"src": "src", "href": "href", "alt": "alt"}, reader.warnings, place))
        else:
            links.append(_texts(item, {"src": "href", "alt": "text"}, reader.warnings, place))
            reader.warnings.append(f"{place}: PagerDuty shows only HTTPS images; sent as a link")
    return ({"links": links} if links else {}) | ({"images": images} if images else {})


def _items(reader: EventReader, properties: Object, name: str, names: Object) -> Iterator[tuple[str, Object]]:
    """Yield the usable items of a URL, an object, or an array of either: the place of each, and its values."""
    required = next(iter(names))
    value = _from_json(properties.get(name))
    items = value if isinstance(value, list) else [] if value is None else [value]
    if len(items) > limits.MAX_ITEMS:
        reader.warnings.append(f"properties.{name}: {len(items):,} items, only the first {limits.MAX_ITEMS} were read")
    for position, item in enumerate(items[: limits.MAX_ITEMS]):
        place = f"properties.{name}[{position}]" if items is value else f"properties.{name}"
        values = reader.get(item if isinstance(item, dict) else {required: item}, names, place)
        if isinstance(values.get(required), str):
            yield place, values
        else:
            expected = f"expected a URL or an object with {required}"
            reader.warnings.append(f"{place}: {expected}, got {describe(item)}; left out")


def _from_json(value: object) -> object:
    """Return what a JSON text holds, as columns of a warehouse do; anything else as it is."""
    if isinstance(value, str) and strip(value).startswith(("[", "{", '"')):
        with contextlib.suppress(ValueError, RecursionError):
            return decode(strip(value))
    return value
