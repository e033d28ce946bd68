"""The cost of hostile bodies: `python -m benchmarks.hostile_bodies`; exits with 1 if one exceeds its limits.

Each body goes to an instance of its own under AWS's runtime emulator. Where this machine has control groups (Linux, as
root), the instance gets the memory and the processor share of `MemorySize` 512; elsewhere it gets all that there is.
"""

import base64
import contextlib
import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import peak_megabytes
from local.observer import Log
from local.options import LOCAL_TOKEN, Options
from local.runtime import Instance, emulator
from local.stack import LocalStack

MEMORY_MB: Final = 512
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: 1,769 MB have one processor.
PROCESSOR: Final = MEMORY_MB / 1769
MAX_SECONDS: Final = 4.0
MAX_MEMORY_MB: Final = 350.0
_PERIOD_MICROSECONDS: Final = 100_000
_CGROUP: Final = Path("/sys/fs/cgroup")
_ROW: Final = "{:<58} {:>9} {:>28} {:>7} {:>7} {:>6}"
_MEGABYTES_5: Final = 5 * 1024 * 1024


@dataclass(frozen=True)
class Body:
    """A body, made on demand, and the code of its answer; `members` is the number of copies if it is gzipped."""

    name: str
    code: str
    make: Callable[[], str]
    members: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """Build API Gateway's event."""
        body = self.make()
        if self.members:
            body = base64.b64encode(gzip.compress(body.encode(), mtime=0) * self.members).decode()
        return {
            "version": "2.0",
            "routeKey": "POST /events",
            "rawPath": "/events",
            "headers": {"authorization": f"Bearer {LOCAL_TOKEN}"},
            "body": body,
            "isBase64Encoded": self.members > 0,
        }


def _event(properties: str, more: str = "") -> str:
    return f'{{"type":"track","event":"x","messageId":"m","properties":{{"source":"s",{properties}}}{more}}}'


def _filled(start: str, part: str, end: str) -> str:
    """Return 5 MB: the start, repetitions of the part without the last comma, and the end."""
    count = (_MEGABYTES_5 - len(start.encode()) - len(end.encode())) // len(part.encode())
    return start + (part * count).rstrip(",") + end


def _filled_property(start: str, part: str, end: str = "]") -> str:
    """Return an event whose last property, from `start` to `end`, fills 5 MB."""
    return _filled(_event(start)[:-2], part, f"{end}}}}}")


def _200_events(event: Callable[[int], str]) -> str:
    return f"[{','.join(map(event, range(200)))}]"


def _entries(count: int, name: Callable[[int], str], value: str) -> str:
    return ",".join(f'"{name(number)}":{value}' for number in range(count))


def _hexadecimal(number: int) -> str:
    return f"{number:x}-"


def _spelled(name: str) -> Callable[[int], str]:
    """Return spellings of the name by number, with separators after its first letter."""
    return lambda number: name[0] + f"{number:b}".replace("0", "-").replace("1", "_") + name[1:]


_DEEP: Final = "[" * 90 + "]" * 90
_SETTINGS: Final = {
    "DEDUP_KEY_FIELD": "{properties.host}/{properties.host.name}",
    "SUMMARY_TEMPLATE": "{event} on {properties.host} with {properties.customDetails}",
    "EXTRA_DETAILS": "properties,properties.host,context",
    "SERVICE_FIELD": "properties.host.team",
}
_SIMILAR_INTEGRATIONS: Final = f',"integrations":{{{_entries(100, _spelled("ytudregap"), "{}")}}}'
_ENTRY: Final = ',"integrations":{"pagerduty":{"":"'
_QUOTES: Final = r"\"" * 1_000_000

# The worst body of each kind that is known.
BODIES: Final = (
    Body("5 million zeros, gzipped", "body_too_large", lambda: f"[{'0,' * 4_999_999}0]", members=1),
    Body("4.4 MB of empty gzip members", "body_too_large", lambda: "", members=220_000),
    Body("5 MB of zeros", "too_many_events", lambda: _filled("[", "0,", "]")),
    Body("5 MB of objects, gzipped", "too_many_events", lambda: _filled("[", '{"":{}},', "]"), members=1),
    Body("5 MB nested as deep as it goes", "body_too_deep", lambda: "[" * _MEGABYTES_5),
    Body("5 MB of objects in one event", "type_missing", lambda: _filled('{"":[', '{"":{}},', "]}"), members=1),
    Body("5 MB of integers", "type_missing", lambda: _filled(f'{{"":[{"1" * 5000},', "7,", "]}")),
    Body("5 MB of one number", "type_missing", lambda: _filled('{"":', "7", ".5}")),
    Body("5 MB of escapes", "type_missing", lambda: _filled('{"":"', "\\ud83d", '"}')),
    # The events of one incident are enqueued one after the other.
    Body("200 events of one incident", "queued", lambda: _200_events(lambda _: _event('"dedupKey":"same"'))),
    Body("5 MB of spaces for PagerDuty", "delivered", lambda: _filled(_event('"":0', _ENTRY)[:-1], " ", '"}}}')),
    # Each quote could begin a text that spells changeEvent.
    Body("a million quotes for PagerDuty", "delivered", lambda: _event('"":0', _ENTRY + _QUOTES + '"}}')),
    Body("5 MB of a name like action", "delivered", lambda: _filled_property('"', "pd", '":"resolve"')),
    Body(
        "200 events of 5 KB", "queued", lambda: _200_events(lambda n: _event(f'"dedupKey":{n},"group":"{"é" * 2400}"'))
    ),
    Body(
        "200 events with 1,000 bad links each",
        "queued",
        lambda: _200_events(lambda n: _event(f'"dedupKey":{n},"linkURLs":[{"0," * 999}0]')),
    ),
    Body(
        "200 events with a deep host of 25 KB, with settings",
        "queued",
        lambda: _200_events(lambda _: _event(f'"host":[{f"{_DEEP}," * 140}0],"customDetails":{_DEEP}')),
        settings=_SETTINGS,
    ),
    Body(
        "200 events with 100 integrations like pagerduty each",
        "queued",
        lambda: _200_events(lambda n: _event(f'"dedupKey":{n}', _SIMILAR_INTEGRATIONS)),
    ),
    Body("5 MB of bad links", "delivered", lambda: _filled_property('"linkURLs":[', "0,")),
    Body("2 MB of links as JSON text", "delivered", lambda: _event(f'"linkURLs":"[{"[]," * 600_000}[]]"')),
    Body("5 MB of text", "delivered", lambda: _filled_property('"group":"', "x", '🚨"')),
    Body(
        "400,000 details", "delivered", lambda: _event(f'"customDetails":{{{_entries(400_000, str, "0")}}}'), members=1
    ),
    Body(
        "100,000 details of 50 bytes",
        "delivered",
        lambda: _event(f'"customDetails":{{{_entries(100_000, "{:05}".format, json.dumps("x" * 38))}}}'),
    ),
    Body("5 MB of details 90 deep", "delivered", lambda: _filled_property('"customDetails":[', f"{_DEEP},")),
    Body(
        "the same beside a deep host, with settings",
        "delivered",
        lambda: _filled_property(f'"host":{{"a":[{f"{_DEEP}," * 14_000}0]}},"customDetails":[', f"{_DEEP},"),
        settings=_SETTINGS,
    ),
    Body(
        "450,000 names in a host, with settings",
        "delivered",
        lambda: _event(f'"host":{{{_entries(450_000, _hexadecimal, "0")}}}'),
        settings=_SETTINGS,
    ),
    Body(
        "450,000 properties, with settings",
        "delivered",
        lambda: _event(_entries(450_000, _hexadecimal, "0")),
        settings=_SETTINGS,
    ),
    Body(
        "100,000 integrations",
        "delivered",
        lambda: _event('"a":0', f',"integrations":{{{_entries(100_000, _hexadecimal, "{}")}}}'),
    ),
    Body("150,000 spellings of severity", "delivered", lambda: _event(_entries(150_000, _spelled("severity"), '""'))),
    Body("150,000 names like action", "delivered", lambda: _event(_entries(150_000, _spelled("acoitn"), '"ack"'))),
)


def main() -> int:
    """Send each body and print a table; return 1 if one exceeded its limits or had another answer."""
    if emulator() is None:
        print("This is measured in AWS's runtime emulator, which runs on Linux only.", file=sys.stderr)
        return 2
    failed = 0
    with _control_group() as limit:
        resources = f"{MEMORY_MB} MB and {PROCESSOR:.0%} of a processor" if limit else "the whole machine"
        print(f"Each function has {resources}. The limits are {MAX_SECONDS:g} s and {MAX_MEMORY_MB:g} MB.\n")
        print(_ROW.format("body", "KB", "answer", "s", "MB", "lines"))
        for body in BODIES:
            failed += not _measure(body, limit)
    print(f"\n{f'{failed} of {len(BODIES)} exceed their limits.' if failed else 'All are within their limits.'}")
    return 1 if failed else 0


def _measure(body: Body, limit: Callable[[int], None] | None) -> bool:
    """Send one body and print its row; return whether it kept to its limits."""
    request = json.dumps(body.request(), ensure_ascii=False)
    log = Log()
    instances: list[Instance] = []
    with LocalStack(Options(rate_limit=None, settings=body.settings), log) as stack:
        stack.runtime.on_invoked = lambda instance, _event, _answer: instances.append(instance)
        stack.runtime.invoke(json.dumps(Body("", "", lambda: _event('"dedupKey":"warm"')).request()))
        process = instances[0].function_process()
        if limit:
            limit(process)
        before = len(log.lines)
        began = time.monotonic()
        answer = json.loads(stack.runtime.invoke(request))
        seconds = time.monotonic() - began
        peak = peak_megabytes(process)
        written = sum('"code":' in line or '"left_out":' in line for line in log.lines[before:])
    code = json.loads(answer["body"])["code"] if "body" in answer else answer.get("errorMessage", "no answer")
    shown = f"{answer.get('statusCode', '-')} {code}"[:28]
    size = len(request.encode()) // 1024
    print(_ROW.format(body.name, size, shown, f"{seconds:.1f}", f"{peak:.0f}", written), flush=True)
    return code == body.code and seconds <= MAX_SECONDS and peak <= MAX_MEMORY_MB


@contextlib.contextmanager
def _control_group() -> Iterator[Callable[[int], None] | None]:
    """Make a control group of either version; yield a function that adds a process to it, or None if that fails."""
    name = f"rudderstack-pagerduty-{os.getpid()}"
    quota, memory = int(PROCESSOR * _PERIOD_MICROSECONDS), MEMORY_MB * 1024 * 1024
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
