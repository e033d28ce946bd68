"""Events to try on the page, and the events of a storm."""

import json
import uuid
from collections.abc import Iterator
from typing import Any, Final

from local.run import EVENTS, read_event

Json = dict[str, Any]

# The warnings of a storm are of this many incidents, at most and for each, so that there are repeats to merge.
_INCIDENTS: Final = 50
_EVENTS_PER_INCIDENT: Final = 4
# One request, and RudderStack's own limit of a batch.
_BATCH: Final = 100

# The files that are the two sample calls of RudderStack's page for its own PagerDuty destination.
_OF_RUDDERSTACK: Final = frozenset({"alert-1-trigger.json", "change-event.json"})


def _track(name: str, properties: Json, **more: Any) -> Json:
    return {"type": "track", "messageId": _id(), "event": name, "properties": properties, **more}


def _id() -> str:
    return str(uuid.uuid4())


def samples() -> list[dict[str, str]]:
    """List what there is to try, the simplest first: its name, its group, the path that it is sent to, its text."""
    disk = {"dedupKey": "disk-full"}
    simple = {
        "Open an incident": _track("Disk is full", {"source": "db-1", "severity": "critical", **disk}),
        "Acknowledge it": _track("Disk is full", {"action": "acknowledge", **disk}),
        "Resolve it": _track("Disk is full", {"action": "resolve", **disk}),
        "A change event": _track(
            "Version 2.14.0 deployed",
            {"source": "checkout", "customDetails": {"by": "Ada", "commits": 7}},
            integrations={"pagerduty": {"type": "changeEvent"}},
        ),
        "Repaired, with warnings": _track(
            "Payment provider is slow",
            {
                "source": "checkout",
                "severity": "catastrophic",
                "dedupKey": "payments-slow",
                "group": ["payments"],
                "linkURLs": [{"text": "Runbook"}],
            },
        ),
        "Refused: a misspelt action": _track("Disk is full", {"action": "resolved", **disk}),
    }
    sdk = {
        "batch": [
            {
                "type": "track",
                "channel": "server",
                "context": {"library": {"name": "analytics-python", "version": "2.1.9"}},
                "integrations": {"All": True},
                "anonymousId": None,
                "userId": "backend",
                "messageId": _id(),
                "event": f"Queue {name} is stuck",
                "properties": {"source": "jobs", "severity": "error", "dedupKey": f"queue-{name}"},
            }
            for name in ("mails", "exports")
        ],
        "sentAt": "2026-01-31T12:00:00.000000+00:00",
    }
    return [
        *(_sample("To begin with", name, "/events", event) for name, event in simple.items()),
        _sample("To begin with", "A batch of RudderStack's Python SDK", "/v1/batch", sdk),
        _sample(
            "To begin with",
            "Broken JSON",
            "/events",
            '{\n  "type": "track",\n  "event": "Disk is full"\n  "properties": {}\n}',
        ),
        *_files(),
    ]


def _files() -> Iterator[dict[str, str]]:
    """List the files of events/."""
    for path in sorted(EVENTS.glob("*.json")):
        recorded = read_event(path)
        name = f"{path.name} (RudderStack's sample call)" if path.name in _OF_RUDDERSTACK else path.name
        yield _sample("events/", name, recorded["rawPath"], json.loads(recorded["body"]))


def _sample(group: str, name: str, path: str, content: Any) -> dict[str, str]:
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    return {"group": group, "name": name, "path": path, "text": text}


def storm(name: str, size: int) -> list[list[Json]]:
    """Make the warnings of a storm, in batches; their dedup keys begin with its name."""
    incidents = min(_INCIDENTS, size // _EVENTS_PER_INCIDENT + 1)
    return [
        [_warning(name, number % incidents + 1) for number in range(start, min(start + _BATCH, size))]
        for start in range(0, size, _BATCH)
    ]


def _warning(name: str, host: int) -> Json:
    properties = {"source": f"web-{host}", "severity": "warning", "dedupKey": f"{name}web-{host}"}
    return _track(f"Disk is filling up on web-{host}", properties)


def page(name: str, number: int) -> Json:
    """Make a critical event that comes during a storm, of an incident of its own."""
    properties = {"source": f"region-{number}", "severity": "critical", "dedupKey": f"{name}page-{number}"}
    return _track(f"Checkout is down in region {number}", properties)
