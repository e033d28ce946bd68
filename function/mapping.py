"""The core: maps a RudderStack track call to a PagerDuty event, or refuses it with the reason.

Pure: the time and the rules are passed in. The property tables are RudderStack's
(https://www.rudderstack.com/docs/destinations/streaming-destinations/pagerduty/). An imperfect event is repaired with a
warning; only an event that does not say clearly whether or whom to page is refused.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar

import limits
import paths
import timestamps
from event import ACTIONS, SERVICE, SEVERITIES, Action, Event, Kind, Severity, decode, encode
from outcome import Outcome, ProcessingError
from paths import EventReader, Path, Template, by_letters, describe, is_missing, normalize, scalar_to_text, strip
from settings import Rules

Object = dict[str, Any]
T = TypeVar("T")

# rudder-transformer, `src/constants/destinationCanonicalNames.js`, in its order.
INTEGRATION_NAMES: Final = ("pagerduty", "PAGERDUTY", "PagerDuty", "Pagerduty", "pagerDuty")
# https://www.rudderstack.com/docs/event-spec/standard-events/, and others that rudder-transformer accepts.
OTHER_EVENT_TYPES: Final = frozenset(
    {"identify", "page", "screen", "group", "alias", "merge", "reset", "record", "extract", "audiencelist"}
)
_KINDS: Final[dict[str, Kind]] = {"alertevent": "alert", "changeevent": "change"}
# "changeEvent" in JSON, with any characters but quotes around and between the words. Possessive: it needs no memory.
_CHANGE_EVENT: Final = re.compile(rb'(?i)"%bchange%bevent%b\\?"' % ((rb'(?:\\u00..|\\[^"]|[^a-z0-9"\\])*+',) * 3))
# Letters that may be wrong in a misspelt name of PagerDuty's entry.
_MAX_EDITS: Final = 2
# Names of an event that are compared letter by letter, which takes 10 µs each: no real event has as many.
_MAX_COMPARED: Final = 10
_ACTIONS: Final[dict[str, Action]] = {action: action for action in ACTIONS}
# Values that ask not to page, and names, by their letters, that may mean the action.
_NO_TRIGGERS: Final = frozenset({"acknowledge", "acknowledged", "ack", "acked", "resolve", "resolved"})
_WORDS: Final = "(?:event|alert|incident|pagerduty|pd|type|name)*+"
_ACTION_NAME: Final = re.compile(f"{_WORDS}actions?{_WORDS}")
# The names that are read in an event, its properties and their items. RudderStack writes `originalTimeStamp`; `links`
# and `images` are PagerDuty's own names.
_TIMESTAMPS: Final = ("originalTimestamp", "originalTimeStamp", "timestamp")
_OF_EVENT: Final = by_letters(*_TIMESTAMPS, "integrations", "type", "properties", "event", "messageId", "receivedAt")
_OF_CHANGE: Final = by_letters(
    "severity", "source", "customDetails", "linkURLs", "imageURLs", links="linkURLs", images="imageURLs"
)
_OF_ALERT: Final = _OF_CHANGE | by_letters("action", "group", "class", "component", "client", "clientUrl")
_OF_LINK, _OF_IMAGE = by_letters("href", "text"), by_letters("src", "href", "alt")
# Other names of PagerDuty's severities, by their letters and digits; syslog's are in
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
# PagerDuty keeps change events for 90 days; RudderStack's own destination refuses older events.
MAX_AGE: Final = timedelta(days=90)
# Clocks differ; a time further ahead is not used.
_MAX_AHEAD: Final = timedelta(days=1)
# RudderStack shows 10 KB of the answer.
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
    """Return the event for PagerDuty, or why it is not sent. The events of a batch share `value_limit`."""
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
    """Return whether it is an alert or a change event. Raises ProcessingError if it is neither, or may be either."""
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
    """Return the place and the value of PagerDuty's entry in `integrations`: as at RudderStack the first one not falsy.

    A misspelt name may ask for an alert. Raises ProcessingError if it asks for anything else.
    """
    if not isinstance(integrations, dict):
        return "integrations", integrations
    right = INTEGRATION_NAMES[0]
    entries = {name: it for name, it in integrations.items() if it is False or not (is_missing(it) or it == 0)}
    entries.pop("All", None)
    exact = [name for name in INTEGRATION_NAMES if name in entries]
    if not exact and len(entries) > paths.MAX_COMPARED_NAMES:
        raise _invalid("integrations", f"got {len(entries):,} entries, too many to compare with {right}")
    if names := exact or [name for name in entries if normalize(name) == right]:
        name = max(names, key=lambda name: entries[name] is not False)
        if not exact:
            reader.warn_of_spelling("integrations", right, name)
        return f"integrations.{name if exact else right}", entries[name]
    misspelt = _misspelt_names(reader, entries, right)
    for name in misspelt:
        place = f"integrations.{_short(name)}"
        if _requested_kind(reader, place, entries[name]) != "alert":
            raise _invalid(place, f"which looks like a misspelt {right}")
    if misspelt:
        return place, True
    if not is_filtered and reader.get(integrations, by_letters("All"), "integrations").get("All") is False:
        return "integrations.All", False
    return "integrations", None


def _misspelt_names(reader: EventReader, entries: Object, right: str) -> list[str]:
    """Return the names of entries for an alert or a change event that are wrong in one or two letters."""
    letters = {name: its for name in entries if len(right) - _MAX_EDITS <= len(its := normalize(name))}
    likely = (name for name, its in letters.items() if len({*its} & {*right}) >= len(right) - _MAX_EDITS)
    requests = (name for name in likely if _may_request(reader, entries[name]))
    found = {name: letters[name] for name in islice(requests, _MAX_COMPARED)}
    return [it for it, its in found.items() if max(len(its), len(right)) - _letters_in_common(its, right) <= _MAX_EDITS]


def _may_request(reader: EventReader, entry: object) -> bool:
    return entry is True or isinstance(entry, dict) or _mentions_change_event(reader, entry)


def _letters_in_common(letters: str, right: str) -> int:
    """Return the number of letters in common, in the same order; 0 if the name is much too long."""
    from difflib import SequenceMatcher  # noqa: PLC0415 -- few events need it, and it would slow down the cold start

    if len(letters) > 2 * len(right):
        return 0
    return sum(block.size for block in SequenceMatcher(None, letters, right).get_matching_blocks())


def _requested_kind(reader: EventReader, place: str, entry: object) -> Kind:
    """Return the kind of event that PagerDuty's entry requests."""
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
    is_readable = isinstance(entry, dict | list | str) and not reader.value_limit.problem(entry)
    return is_readable and _CHANGE_EVENT.search(encode(entry)) is not None


def _short(name: str) -> str:
    """Return the beginning of a name that the sender chose."""
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
    """Return the action: of `action`, else of a similar name or PagerDuty's own, else trigger.

    Raises ProcessingError if it is unknown, if two names disagree, or if another property is likely to mean an action.
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
    """Return the names like `action` whose values ask not to page."""
    words = {name: strip(it).lower() for name, it in properties.items() if isinstance(it, str)}
    likely = [name for name, word in words.items() if word in _NO_TRIGGERS][:_MAX_COMPARED]
    return [name for name in likely if _is_like_action(normalize(name), words[name])]


def _is_like_action(letters: str, word: str) -> bool:
    if letters == "eventtype":  # The action in version 1 of PagerDuty's API.
        return word in ACTIONS
    # difflib's ratio is at least 0.8.
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
    """Return the dedup key, and why there is none. Without a template only a string or a number is a key."""
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
    """Return a string or a number as a key of at most 255 characters; None for anything else."""
    text = None if isinstance(value, bool) or is_missing(value) else scalar_to_text(value)
    return None if text is None else limits.fit_dedup_key(strip(text))


def _payload_properties(reader: EventReader, properties: Object, raw: Object, kind: Kind, rules: Rules) -> Object:
    """Return the fields of the payload that come from `properties`; `raw` has all of them, for the custom details."""
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
    """Return the summary by the template; without one, or if none of its values exists, the event's name."""
    if template and any(values := reader.find_texts(template)):
        # Collapse the spaces left by missing values.
        field, text = "SUMMARY_TEMPLATE", " ".join(template.fill([value or "" for value in values]).split())
    else:
        field, text = "event", scalar_to_text(name) or ""
    if not text:
        raise ProcessingError("event_name_missing", f"event: expected the event's name, got {describe(name)}")
    text = text if len(text) <= limits.MAX_SUMMARY else strip(text)
    if len(text) > limits.MAX_SUMMARY:
        reader.warnings.append(f"{field}: {len(text):,} characters, cut to PagerDuty's {limits.MAX_SUMMARY:,}")
    return text[: limits.MAX_SUMMARY]


def _choose(value: object, choices: Mapping[str, T]) -> T | None:
    """Return the choice for a text, whatever its case and outer white space."""
    return choices.get(strip(value).lower()) if isinstance(value, str) else None


def _severity(value: object, default: Severity | None, warnings: list[str]) -> Severity | None:
    """Return the severity in PagerDuty's words, with a warning if it was in others."""
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
    """Return the first valid timestamp of the last 90 days. Raises ProcessingError if all valid ones are older.

    An `originalTimestamp` that equals `receivedAt` was added by rudder-server (`processor/processor.go`); the sender's
    time is then in `timestamp`.
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
    """Return the texts among the values at `place`; `fields` maps their names to PagerDuty's."""
    texts = {}
    for name, field in fields.items():
        text = scalar_to_text(values[name]) if name in values else None
        if text is not None:
            texts[field] = text
        elif name in values:
            warnings.append(f"{place}.{name}: expected a text, got {describe(values[name])}; left out")
    return texts


def _custom_details(reader: EventReader, value: object, raw: Object, kind: Kind, extra: tuple[Path, ...]) -> Any:
    """Return the custom details with those of EXTRA_DETAILS, None without any. The first value of a name counts."""
    parsed = _from_json(value)
    details = _limit_details(reader, parsed if isinstance(parsed, dict) else value, "properties.customDetails")
    details = details if details is None or isinstance(details, dict) else {"customDetails": details}
    added: Object = {}
    for path in extra:
        found = {path[-1]: reader.explain(path, reader.find(path))}
        if path == ("properties",):
            used = {*(_OF_ALERT if kind == "alert" else _OF_CHANGE), "dedupkey"}
            found = {"properties": f"[left out: {len(raw):,} properties, more than PagerDuty accepts]"}
            if len(raw) <= paths.MAX_COMPARED_NAMES:
                found = {name: it for name, it in raw.items() if normalize(name) not in used}
        for name, it in found.items():
            if isinstance(it, dict | list) and name not in added:
                place = f"EXTRA_DETAILS: {_short(name)}"
                added[name] = _limit_details(reader, it, place, limits.MAX_DETAILS_DEPTH - 1)
            elif it is not None:
                added.setdefault(name, it)
    return added | (details or {}) if added else details


def _limit_details(reader: EventReader, details: Any, place: str, levels: int = limits.MAX_DETAILS_DEPTH) -> Any:
    """Return the details; if they are too deep or too many, a note instead of the objects and arrays among them."""
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
        if item["src"][:8].lower() == "https://" and item["src"][8:]:
            images.append(_texts(item, {"src": "src", "href": "href", "alt": "alt"}, reader.warnings, place))
        else:
            links.append(_texts(item, {"src": "href", "alt": "text"}, reader.warnings, place))
            reader.warnings.append(f"{place}: PagerDuty shows only HTTPS images; sent as a link")
    return ({"links": links} if links else {}) | ({"images": images} if images else {})


def _items(reader: EventReader, properties: Object, name: str, names: Object) -> Iterator[tuple[str, Object]]:
    """Yield the place and the values of each valid item of a URL, an object, or an array of either."""
    required = next(iter(names))
    value = _from_json(properties.get(name))
    items = value if isinstance(value, list) else [] if value is None else [value]
    if len(items) > limits.MAX_ITEMS:
        reader.warnings.append(f"properties.{name}: {len(items):,} items, only the first {limits.MAX_ITEMS} were read")
    for position, item in enumerate(items[: limits.MAX_ITEMS]):
        place = f"properties.{name}[{position}]" if items is value else f"properties.{name}"
        values = reader.get(item if isinstance(item, dict) else {required: item}, names, place)
        if isinstance(values.get(required), str):
            yield place, values | {required: strip(values[required])}
        else:
            expected = f"expected a URL or an object with {required}"
            reader.warnings.append(f"{place}: {expected}, got {describe(item)}; left out")


def _from_json(value: object) -> object:
    """Return the value of a JSON text, such as a warehouse's column; anything else as it is."""
    if isinstance(value, str) and strip(value).startswith(("[", "{", '"')):
        with contextlib.suppress(ValueError, RecursionError):
            return decode(strip(value))
    return value
