"""What a hostile body costs: `python -m benchmarks.hostile_bodies`; exits 1 when one takes more than is allowed.

Each body goes to an instance of its own under AWS's runtime emulator, with the memory and the share of a processor that
Lambda gives to `MemorySize` 512, where this machine has control groups to give them with (Linux, as root); elsewhere
with all that there is, and it says so.
"""

import base64
import contextlib
import gzip
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from local.options import LOCAL_TOKEN, Options
from local.runtime import Instance, emulator
from local.stack import LocalStack

MEMORY_MB: Final = 512
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: 1,769 MB have one processor.
PROCESSOR: Final = MEMORY_MB / 1769
SECONDS_ALLOWED: Final = 4.0
MEMORY_ALLOWED_MB: Final = 350.0
_PERIOD_MICROSECONDS: Final = 100_000
_CGROUP: Final = Path("/sys/fs/cgroup")
_ROW: Final = "{:<58} {:>9} {:>28} {:>7} {:>7} {:>6}"
_PEAK: Final = re.compile(r"VmHWM:\s+(\d+) kB")
_MEGABYTES_5: Final = 5 * 1024 * 1024


@dataclass(frozen=True)
class Body:
    """A body, made when it is needed, whether it is sent gzipped, and how often, and the code that answers it."""

    name: str
    make: Callable[[], str]
    code: str
    gzipped: bool = False
    times: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """Build API Gateway's event."""
        text = self.make()
        body = base64.b64encode(gzip.compress(text.encode(), mtime=0) * self.times).decode() if self.gzipped else text
        return {
            "version": "2.0",
            "routeKey": "POST /events",
            "rawPath": "/events",
            "headers": {"authorization": f"Bearer {LOCAL_TOKEN}"},
            "body": body,
            "isBase64Encoded": self.gzipped,
        }


def _event(properties: str) -> str:
    return f'{{"type":"track","event":"x","messageId":"m","properties":{{"source":"s",{properties}}}}}'


def _many(count: int, event: Callable[[int], str]) -> str:
    return f"[{','.join(map(event, range(count)))}]"


def _filled(start: str, part: str, end: str) -> str:
    """Repeat the part, without the comma at its end, until the whole has 5 MB."""
    count = (_MEGABYTES_5 - len(start.encode()) - len(end.encode())) // len(part.encode())
    return start + (part * count).rstrip(",") + end


def _trigger(key: object) -> str:
    return _event(f'"dedupKey":"{key}"')


def _spelt(name: str, number: int) -> str:
    """Spell the name in a way of its own, with separators after its first letter."""
    return name[0] + f"{number:b}".replace("0", "-").replace("1", "_") + name[1:]


def _detailed(count: int, entry: Callable[[int], str]) -> str:
    entries = ",".join(map(entry, range(count)))
    return _event(f'"customDetails":{{{entries}}}')


def _named(count: int, value: str) -> str:
    return ",".join(f'"{number:x}-":{value}' for number in range(count))


_DEEP: Final = "[" * 90 + "]" * 90
_SETTINGS: Final = {
    "DEDUP_KEY_FIELD": "{properties.host}/{properties.host.name}",
    "SUMMARY_TEMPLATE": "{event} on {properties.host} with {properties.customDetails}",
    "EXTRA_DETAILS": "properties,properties.host,context",
    "SERVICE_FIELD": "properties.host.team",
}
_INTEGRATIONS_LIKE_OURS: Final = json.dumps({_spelt("ytudregap", number): {} for number in range(100)})

BODIES: Final = (
    Body("200,000 zeros, gzipped", lambda: f"[{'0,' * 199_999}0]", "too_many_events", gzipped=True),
    Body("5 million zeros, gzipped", lambda: f"[{'0,' * 4_999_999}0]", "body_too_large", gzipped=True),
    Body("800 KB of zeros", lambda: f"[{'0,' * 399_999}0]", "too_many_events"),
    Body("5 MB of zeros", lambda: _filled("[", "0,", "]"), "too_many_events"),
    Body("5 MB of objects, gzipped", lambda: _filled("[", '{"":{}},', "]"), "too_many_events", gzipped=True),
    Body(
        "5 MB of objects as one event, gzipped",
        lambda: _filled('{"":[', '{"":{}},', "]}"),
        "type_missing",
        gzipped=True,
    ),
    Body("5 MB of fractions as one event", lambda: _filled('{"":[', "0.1,", "]}"), "type_missing"),
    Body(
        "5 MB of integers beside one of 5,000 digits",
        lambda: _filled(f'{{"":[{"1" * 5000},', "7,", "]}"),
        "type_missing",
    ),
    Body("5 MB of one number", lambda: _filled('{"":', "7", ".5}"), "type_missing"),
    Body("5 MB of escapes", lambda: _filled('{"":"', "\\ud83d", '"}'), "type_missing"),
    Body("5 MB nested as deep as it goes", lambda: "[" * _MEGABYTES_5, "body_too_deep"),
    Body("100,000 page calls", lambda: _many(100_000, lambda _: '{"type":"page"}'), "too_many_events"),
    Body("200 page calls", lambda: _many(200, lambda _: '{"type":"page"}'), "not_a_track_call"),
    Body("200 events that are none", lambda: _many(200, lambda _: "0"), "event_not_an_object"),
    Body("20,000 valid events", lambda: _many(20_000, _trigger), "too_many_events"),
    Body("200 valid events of as many incidents", lambda: _many(200, _trigger), "queued"),
    # One incident's events are enqueued one by one, in their order: RudderStack sends 100 at most.
    Body("200 valid events of one incident", lambda: _many(200, lambda _: _trigger("same")), "queued"),
    Body(
        "200 events of 5 KB",
        lambda: _many(200, lambda n: _event(f'"dedupKey":{n},"group":"{"é" * 2400}"')),
        "queued",
    ),
    Body(
        "200 events with 1,000 bad links each",
        lambda: _many(200, lambda n: _event(f'"dedupKey":{n},"linkURLs":[{"0," * 999}0]')),
        "queued",
    ),
    Body(
        "one event with 5 million bad links, gzipped",
        lambda: _event(f'"linkURLs":[{"0," * 4_999_999}0]'),
        "body_too_large",
        gzipped=True,
    ),
    Body("one event with 5 MB of bad links", lambda: _filled(_event('"linkURLs":[')[:-2], "0,", "]}}"), "delivered"),
    Body(
        "one event with 400,000 custom details, gzipped",
        lambda: _detailed(400_000, lambda n: f'"{n}":0'),
        "delivered",
        gzipped=True,
    ),
    Body(
        "one event with 100,000 custom details of 50 bytes",
        lambda: _detailed(100_000, lambda n: f'"{n:05}":"{"x" * 38}"'),
        "delivered",
    ),
    Body(
        "one event with 5 MB of objects in its details, gzipped",
        lambda: _filled(_event('"customDetails":[')[:-2], '{"":{}},', "]}}"),
        "delivered",
        gzipped=True,
    ),
    Body(
        "one event with 5 MB of details 90 deep",
        lambda: _filled(_event('"customDetails":[')[:-2], f"{_DEEP},", "]}}"),
        "delivered",
    ),
    Body(
        "the same beside a nested host, with settings",
        lambda: _filled(_event(f'"host":{{"a":[{f"{_DEEP}," * 14_000}0]}},"customDetails":[')[:-2], f"{_DEEP},", "]}}"),
        "delivered",
        settings=_SETTINGS,
    ),
    Body(
        "200 events with a host of 25 KB 90 deep, with settings",
        lambda: _many(200, lambda _: _event(f'"host":[{f"{_DEEP}," * 140}0],"customDetails":{_DEEP}')),
        "queued",
        settings=_SETTINGS,
    ),
    Body(
        "one event with 450,000 names in its host, with settings",
        lambda: _event(f'"host":{{{_named(450_000, "0")}}}'),
        "delivered",
        settings=_SETTINGS,
    ),
    Body(
        "one event with 450,000 properties, with settings",
        lambda: _event(_named(450_000, "0")),
        "delivered",
        settings=_SETTINGS,
    ),
    Body(
        "one event with 400,000 integrations",
        lambda: _event('"a":0')[:-1] + f',"integrations":{{{_named(400_000, "{}")}}}}}',
        "delivered",
    ),
    Body("4.4 MB of empty gzip members", lambda: "", "body_too_large", gzipped=True, times=220_000),
    Body(
        "one event with 150,000 blank spellings of one property",
        lambda: _event(",".join(f'"{_spelt("severity", number)}":""' for number in range(150_000))),
        "delivered",
    ),
    Body(
        "one event with 150,000 names with the letters of action",
        lambda: _event(",".join(f'"{_spelt("acoitn", number)}":"ack"' for number in range(150_000))),
        "delivered",
    ),
    Body(
        "200 events with 100 names with the letters of pagerduty each",
        lambda: _many(200, lambda n: _event(f'"dedupKey":{n}')[:-1] + f',"integrations":{_INTEGRATIONS_LIKE_OURS}}}'),
        "queued",
    ),
    Body("one event with 2 MB of JSON text", lambda: _event(f'"linkURLs":"[{"[]," * 600_000}[]]"'), "delivered"),
    Body("one event with 5 MB of text", lambda: _filled(_event('"group":"')[:-2], "x", '🚨"}}'), "delivered"),
)


def main() -> int:
    """Send each body, print a table; return 1 when one took too long or too much, or was answered otherwise."""
    if emulator() is None:
        print("AWS's runtime emulator, in which this is measured, runs on Linux only.", file=sys.stderr)
        return 2
    failed = 0
    with _control_group() as limit:
        where = "all that this machine has" if limit is None else f"{MEMORY_MB} MB, {PROCESSOR:.0%} of a processor"
        print(f"Each answered with {where}; allowed are {SECONDS_ALLOWED:g} s and {MEMORY_ALLOWED_MB:g} MB.\n")
        print(_ROW.format("body", "KB", "answer", "s", "MB", "lines"))
        for body in BODIES:
            failed += not _measure(body, limit)
    print(f"\n{f'{failed} of {len(BODIES)} are too much.' if failed else 'All are answered in time and memory.'}")
    return 1 if failed else 0


def _measure(body: Body, limit: Callable[[int], None] | None) -> bool:
    request = json.dumps(body.request(), ensure_ascii=False)
    lines: list[str] = []
    instances: list[Instance] = []
    with LocalStack(Options(rate_limit=None, settings=body.settings), on_log=lines.append) as stack:
        stack.runtime.on_invoked = lambda instance, _event, _answer: instances.append(instance)
        stack.runtime.invoke(json.dumps({**body.request(), "body": _trigger("warm"), "isBase64Encoded": False}))
        process = instances[0].function_process()
        if limit:
            limit(process)
        before = len(lines)
        began = time.monotonic()
        answer = json.loads(stack.runtime.invoke(request))
        seconds = time.monotonic() - began
        peak = _peak_megabytes(process)
        written = sum('"code":' in line or '"left_out":' in line for line in lines[before:])
    code = json.loads(answer["body"])["code"] if "body" in answer else answer.get("errorMessage", "no answer")
    shown = f"{answer.get('statusCode', '-')} {code}"
    print(
        _ROW.format(body.name, len(request.encode()) // 1024, shown[:28], f"{seconds:.1f}", f"{peak:.0f}", written),
        flush=True,
    )
    return code == body.code and seconds <= SECONDS_ALLOWED and peak <= MEMORY_ALLOWED_MB


def _peak_megabytes(process: int) -> float:
    try:
        found = _PEAK.search(Path(f"/proc/{process}/status").read_text())
    except OSError:
        found = None  # It was killed.
    return int(found[1]) / 1024 if found else float("inf")


@contextlib.contextmanager
def _control_group() -> Iterator[Callable[[int], None] | None]:
    """Make a control group of either version; yield what puts a process into it, or None where there is none."""
    name = f"rudderstack-pagerduty-{os.getpid()}"
    quota = int(PROCESSOR * _PERIOD_MICROSECONDS)
    memory = MEMORY_MB * 1024 * 1024
    if (_CGROUP / "cgroup.controllers").exists():
        folders = {_CGROUP / name: {"cpu.max": f"{quota} {_PERIOD_MICROSECONDS}", "memory.max": str(memory)}}
    else:
        folders = {
            _CGROUP / "cpu" / name: {"cpu.cfs_period_us": str(_PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)},
            _CGROUP / "memory" / name: {"memory.limit_in_bytes": str(memory)},
        }
    with contextlib.ExitStack() as made:
        try:
            for folder, settings in folders.items():
                folder.mkdir()
                made.callback(folder.rmdir)
                for file, value in settings.items():
                    (folder / file).write_text(value)
        except OSError:
            yield None
            return

        def put(process: int) -> None:
            for folder in folders:
                (folder / "cgroup.procs").write_text(str(process))

        yield put


if __name__ == "__main__":
    sys.exit(main())
