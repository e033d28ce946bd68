"""The figures: each compared with a baseline of the same run, in turns, by the medians of many rounds."""

import atexit
import contextlib
import functools
import importlib
import io
import itertools
import json
import os
import queue
import re
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import boto3

from benchmarks.environment import BASELINES, Environment, Packages, request
from local.options import LOCAL_ROUTING_KEY
from local.runtime import Function, Instance, Runtime

MILLISECONDS: Final = 1000.0
# Seconds: wide enough for a cold start on a busy machine.
_TIMEOUT: Final = 60
_REPORT: Final = re.compile(r"REPORT RequestId: .*\tDuration: ([0-9.]+) ms")
_PEAK: Final = re.compile(r"VmHWM:\s+(\d+) kB")
_CONTEXT: Final[Any] = SimpleNamespace(aws_request_id="benchmark", get_remaining_time_in_millis=lambda: 9000)
_NOWHERE: Final = Path(os.devnull).open("w")  # noqa: SIM115 -- until the process ends
atexit.register(_NOWHERE.close)

Handler = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One row of the table; `target` is the maximum of `measured`."""

    name: str
    unit: str
    value: float
    baseline: float | None
    target: float

    @property
    def measured(self) -> float:
        """The ratio to the baseline, or without one the value itself."""
        return self.value if self.baseline is None else self.value / self.baseline

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.measured <= self.target


def in_turns(ours: Callable[[], float], baseline: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Run both in turns, each returning its seconds; return the medians. The first round does not count."""
    times = [(ours(), baseline()) for _ in range(rounds + 1)][1:]
    return statistics.median(own for own, _ in times), statistics.median(base for _, base in times)


def timed(run: Callable[[], object]) -> float:
    """Run a function and return its seconds."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ratio(name: str, ours: Callable[[], object], baseline: Callable[[], object], rounds: int, target: float) -> Figure:
    """Measure a time in milliseconds against its baseline."""
    value, base = in_turns(lambda: timed(ours), lambda: timed(baseline), rounds)
    return Figure(name, "ms", value * MILLISECONDS, base * MILLISECONDS, target)


# -- in this process -------------------------------------------------------------------------------------------------


def mapping() -> Figure:
    """Map RudderStack's alert sample, against reading and writing its JSON."""
    from mapping import Context, map_event  # noqa: PLC0415 -- the function's modules are imported only once they are measured
    from settings import Rules  # noqa: PLC0415 -- the same

    text = request()["body"]
    event, rules, now = json.loads(text), Rules(), datetime.now(UTC)

    def ours() -> None:
        for _ in range(100):
            map_event(event, rules, Context("default", now, "benchmark"))

    def baseline() -> None:
        for _ in range(100):
            json.dumps(json.loads(text))

    return ratio("mapping, 100 events", ours, baseline, 300, 2.0)


def warm(environment: Environment) -> Figure:
    """Answer a request on a warm start, against a handler with one `update_item` and a bare POST of the same body."""
    answer = handler(environment.variables())
    sys.path.insert(0, str(BASELINES))
    baseline = importlib.import_module("direct").lambda_handler
    event, posted = request(), posted_body(answer)
    return ratio("warm start", lambda: answer(event), lambda: baseline({"body": posted}, _CONTEXT), 500, 2.0)


def queued(environment: Environment) -> Iterator[Figure]:
    """Answer requests whose events are enqueued, one and a hundred at a time, against one `send_message`."""
    answer = handler(environment.variables())
    numbers = itertools.count()
    sqs, body = boto3.client("sqs"), request()["body"]

    def one() -> dict[str, Any]:
        return answer(request(dedupKey=f"incident-{next(numbers)}"))

    def hundred() -> dict[str, Any]:
        event = json.loads(body)
        properties = event["properties"]
        events = [
            {**event, "messageId": str(n), "properties": {**properties, "dedupKey": f"incident-{n}"}}
            for n in itertools.islice(numbers, 100)
        ]
        return answer({**request(), "body": json.dumps(events)})

    def baseline() -> None:
        identity = str(next(numbers))
        sqs.send_message(
            QueueUrl=environment.shared["QUEUE_URL"],
            MessageBody=body,
            MessageGroupId=identity,
            MessageDeduplicationId=identity,
        )

    # Several events always go through the queue; those of the service then follow them.
    hundred()
    yield ratio("warm start, enqueued", one, baseline, 300, 2.0)
    yield ratio("100 events in one request", hundred, baseline, 50, 15.0)


def growth(environment: Environment) -> Iterator[Figure]:
    """Time ten times the custom details, and ten times the body, against ten times the time of the step before."""
    answer = handler(environment.variables())

    def with_details(count: int) -> dict[str, Any]:
        return request(customDetails={f"detail {n}": n for n in range(count)})

    def with_kilobytes(count: int) -> dict[str, Any]:
        event = request()
        padding = "x" * max(0, 1000 * count - len(event["body"]))
        return {**event, "body": json.dumps({**json.loads(event["body"]), "context": {"padding": padding}})}

    for name, make in (("custom details", with_details), ("KB of body", with_kilobytes)):
        before = None
        for size in (1, 10, 100, 1000):
            run = functools.partial(answer, make(size))
            milliseconds = statistics.median(timed(run) for _ in range(100)) * MILLISECONDS
            if before is not None:
                yield Figure(f"{size:,} {name}, ten times {size // 10:,}", "ms", milliseconds, 10 * before, 1.0)
            before = milliseconds


def handler(environment: dict[str, str]) -> Handler:
    """Return the function's handler for this environment, without its log; it raises if an answer is not a 200."""
    os.environ.update(environment)
    with contextlib.redirect_stdout(_NOWHERE):  # The logger keeps the standard output that it finds on import.
        import app  # noqa: PLC0415 -- the function's modules are imported only once they are measured
        import dependencies  # noqa: PLC0415 -- the same
    deps = dependencies.load()

    def answer(event: dict[str, Any]) -> dict[str, Any]:
        with contextlib.redirect_stdout(_NOWHERE):
            return _checked(app.handle(event, _CONTEXT, deps))

    return answer


def posted_body(answer: Handler) -> str:
    """Return the body that the function posts to PagerDuty for the alert sample."""
    preview = answer(request() | {"queryStringParameters": {"preview": "true"}})
    return json.dumps({"routing_key": LOCAL_ROUTING_KEY, **json.loads(preview["body"])["event"]})


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("statusCode") not in {200, 202}:
        raise RuntimeError(f"answered {answer}")
    return answer


# -- of the package ----------------------------------------------------------------------------------------------------


def package(packages: Packages) -> Figure:
    """Zip what `sam build` made, bytecode included."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(packages.ours.rglob("*")):
            archive.write(file, file.relative_to(packages.ours))
    return Figure("package, zipped", "MB", content.tell() / 1_000_000, None, 3.0)


def cold(environment: Environment, packages: Packages) -> Figure:
    """Start the function and answer once, against a handler that does only what it must."""
    variables = environment.variables()
    event, baseline_event = request(), {"body": posted_body(handler(variables))}
    # Compiles the SDK in the virtual environment: on Lambda it has bytecode. /var/task is read-only afterwards.
    theirs = Function("baseline", packages.baselines, "direct.lambda_handler", _TIMEOUT, variables)
    _first_answer(theirs, baseline_event)
    read_only = {**variables, "PYTHONDONTWRITEBYTECODE": "1"}
    ours = Function("ours", packages.ours, "app.lambda_handler", _TIMEOUT, read_only)
    theirs = replace(theirs, environment=read_only)
    value, base = in_turns(lambda: _first_answer(ours, event), lambda: _first_answer(theirs, baseline_event), 15)
    return Figure("cold start", "ms", value * MILLISECONDS, base * MILLISECONDS, 1.15)


def _first_answer(function: Function, event: dict[str, Any]) -> float:
    """Start an instance and let it answer; return the seconds of INIT and invocation, which the emulator adds up."""
    reports: queue.SimpleQueue[float] = queue.SimpleQueue()

    def on_log(line: str) -> None:
        if report := _REPORT.match(line):
            reports.put(float(report[1]) / MILLISECONDS)

    with contextlib.closing(Runtime(function, on_log)) as runtime:
        _checked(json.loads(runtime.invoke(json.dumps(event))))
        return reports.get(timeout=_TIMEOUT)


def memory(environment: Environment, packages: Packages) -> Figure:
    """Compare the peak memory of the function's process after 10,000 events with that after 100."""
    function = Function("ours", packages.ours, "app.lambda_handler", _TIMEOUT, environment.variables())
    instances: list[Instance] = []
    peaks: dict[int, float] = {}
    with contextlib.closing(Runtime(function)) as runtime:
        runtime.on_invoked = lambda instance, _event, _answer: instances.append(instance)
        for number in range(1, 10_001):
            _checked(json.loads(runtime.invoke(json.dumps(request(dedupKey=f"incident-{number}")))))
            if number in (100, 10_000):
                peaks[number] = peak_megabytes(instances[0].function_process())
    return Figure("peak memory after 10,000 events", "MB", peaks[10_000], peaks[100], 1.05)


def peak_megabytes(process: int) -> float:
    """Return the peak memory of a process; infinity if it was killed. Linux only."""
    with contextlib.suppress(OSError):
        if found := _PEAK.search(Path(f"/proc/{process}/status").read_text()):
            return int(found[1]) / 1024
    return float("inf")
