"""Events to try on the page, and the events of a storm."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from local.run import EVENTS, parse

Json = dict[str, Any]

# The warnings of a storm are of this many incidents, at most and for each, so that there are repeats to merge.
_INCIDENTS: Final = 50
_EVENTS_PER_INCIDENT: Final = 4
# One request, and RudderStack's own limit of a batch.
_BATCH: Final = 100

# The files that are the two sample calls of RudderStack's page for its own PagerDuty destination.
_OF_RUDDERSTACK: Final = frozenset({"alert-1-trigger.json", "change-event.json"})


def _track(name: str, properties: Json) -> Json:
    return {"type": "track", "messageId": str(uuid.uuid4()), "event": name, "properties": properties}


def _with_message_id(entry: Json) -> Json:
    return entry | {"messageId": str(uuid.uuid4())} if "messageId" in entry else entry


def samples() -> list[dict[str, str]]:
    """Return the samples, the simplest first: the group, the name, the path and the text of each."""
    text = Path(__file__).with_name("samples.json").read_text(encoding="utf-8")
    simple = json.loads(text, object_hook=_with_message_id)
    return [*(_sample("To begin with", each["name"], each["path"], each["body"]) for each in simple), *_files()]


def _files() -> Iterator[dict[str, str]]:
    """Yield the files of events/."""
    for path in sorted(EVENTS.glob("*.json")):
        recorded = parse(path.read_bytes())
        name = f"{path.name} (RudderStack's sample call)" if path.name in _OF_RUDDERSTACK else path.name
        yield _sample("events/", name, recorded["rawPath"], json.loads(recorded["body"]))


def _sample(group: str, name: str, path: str, content: Any) -> dict[str, str]:
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    return {"group": group, "name": name, "path": path, "text": text}


def storm(name: str, size: int) -> list[list[Json]]:
    """Return the warnings of a storm, in batches; their dedup keys begin with its name."""
    incidents = min(_INCIDENTS, size // _EVENTS_PER_INCIDENT + 1)
    return [
        [_warning(name, number % incidents + 1) for number in range(start, min(start + _BATCH, size))]
        for start in range(0, size, _BATCH)
    ]


def _warning(name: str, host: int) -> Json:
    properties = {"source": f"web-{host}", "severity": "warning", "dedupKey": f"{name}web-{host}"}
    return _track(f"Disk is filling up on web-{host}", properties)


def page(name: str, number: int) -> Json:
    """Return a critical event of an incident of its own, to be sent during a storm."""
    properties = {"source": f"region-{number}", "severity": "critical", "dedupKey": f"{name}page-{number}"}
    return _track(f"Checkout is down in region {number}", properties)
