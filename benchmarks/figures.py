"""The figures: each measured against a baseline of the same run, in turns, as the median of many rounds."""

import contextlib
import functools
import importlib
import io
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import ROOT, Context, Environment, request
from benchmarks.package import BASELINES, Packages
from local.options import LOCAL_ROUTING_KEY
from local.runtime import Function, Runtime

MILLISECONDS: Final = 1000.0
_REPORT: Final = re.compile(r"REPORT RequestId: .*\tDuration: ([0-9.]+) ms")
_REPORT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Figure:
    """One row of the table: what was measured, in which unit, against what, and how much of it is allowed."""

    name: str
    unit: str
    value: float
    baseline: float | None
    target: float

    @property
    def measured(self) -> float:
        """What the target is about: the ratio to the baseline, or the value itself when there is none."""
        return self.value if self.baseline is None else self.value / self.baseline

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.measured <= self.target

    def as_dict(self) -> dict[str, Any]:
        """Write it for a machine."""
        return {**asdict(self), "measured": self.measured, "met": self.met}


def in_turns(ours: Callable[[], float], baseline: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Run both in turns, each returning its seconds; return the median of each. One round before does not count."""
    times = [(ours(), baseline()) for _ in range(rounds + 1)][1:]
    return statistics.median(own for own, _ in times), statistics.median(base for _, base in times)


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """Let a function return the seconds that it takes."""

    def measure() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return measure


def ratio(name: str, ours: Callable[[], object], baseline: Callable[[], object], rounds: int, target: float) -> Figure:
    """Measure a time in milliseconds against its baseline."""
    value, base = in_turns(timed(ours), timed(baseline), rounds)
    return Figure(name, "ms", value * MILLISECONDS, base * MILLISECONDS, target)


# -- in this process -------------------------------------------------------------------------------------------------


def mapping() -> Figure:
    """Map RudderStack's alert sample, against reading and writing its JSON."""
    from mapping import map_event  # noqa: PLC0415 -- the function's modules are imported only once they are measured
    from settings import Rules  # noqa: PLC0415 -- the same

    text = request()["body"]
    event, rules, now = json.loads(text), Rules(), datetime.now(UTC)

    def ours() -> None:
        for _ in range(100):
            map_event(event, "default", rules, now, fallback_key="benchmark")

    def baseline() -> None:
        for _ in range(100):
            json.dumps(json.loads(text))

    return ratio("mapping, 100 events", ours, baseline, 300, 2.0)


def warm(environment: Environment) -> Figure:
    """Answer a request on a warm start, against a handler with one `update_item` and a bare POST of the same body."""
    with handler(environment.variables()) as answer:
        event = request()
        baseline, context = _baseline("direct"), Context()
        baseline_event = {"body": _posted_body(event).decode()}
        return ratio("warm start", lambda: answer(event), lambda: baseline(baseline_event, context), 500, 2.0)


def warm_queued(environment: Environment) -> Figure:
    """Answer a request whose event is enqueued, behind others of its service, against one `send_message`."""
    numbers = iter(range(1_000_000))
    with handler(environment.variables()) as answer:
        answer(_hundred(numbers))
        send = _sender(numbers)
        return ratio("warm start, enqueued", lambda: answer(_numbered(numbers)), send, 300, 2.0)


def hundred_events(environment: Environment) -> Figure:
    """Answer a request with 100 events, which go through the queue, against a handler with one `send_message`."""
    numbers = iter(range(1_000_000, 2_000_000))
    with handler(environment.variables()) as answer:
        rounds = 50
        many = iter([_hundred(numbers) for _ in range(rounds + 1)])
        return ratio("100 events in one request", lambda: answer(next(many)), _sender(numbers), rounds, 15.0)


def _baseline(name: str) -> Callable[[dict[str, Any], Context], object]:
    if str(BASELINES) not in sys.path:
        sys.path.insert(0, str(BASELINES))
    found: Callable[[dict[str, Any], Context], object] = importlib.import_module(name).lambda_handler
    return found


def _sender(numbers: Iterator[int]) -> Callable[[], None]:
    """Let the baseline send a message, each time another one."""
    baseline = _baseline("queued")

    def send() -> None:
        context = Context()
        context.aws_request_id = str(next(numbers))
        baseline(_numbered(numbers), context)

    return send


def _numbered(numbers: Iterator[int]) -> dict[str, Any]:
    return request(dedupKey=f"incident-{next(numbers)}")


def _hundred(numbers: Iterator[int]) -> dict[str, Any]:
    bodies = [json.loads(_numbered(numbers)["body"]) | {"messageId": str(next(numbers))} for _ in range(100)]
    return {**request(), "body": json.dumps(bodies)}


def growth(environment: Environment) -> Iterator[Figure]:
    """Time ten times the custom details, and ten times the body, against ten times the time of the step before."""
    with handler(environment.variables()) as answer:
        for name, make in (("custom details", _with_entries), ("KB of body", _with_kilobytes)):
            before = None
            for size in (1, 10, 100, 1000):
                event = make(size)
                run = timed(functools.partial(answer, event))
                seconds = statistics.median(run() for _ in range(100))
                if before is not None:
                    linear = 10 * before * MILLISECONDS
                    yield Figure(
                        f"{size:,} {name}, ten times {size // 10:,}", "ms", seconds * MILLISECONDS, linear, 1.0
                    )
                before = seconds


# -- in processes of their own ---------------------------------------------------------------------------------------


def cold(environment: Environment, packages: Packages) -> Figure:
    """Start the function and answer once, against a handler that does no more than it has to."""
    variables = environment.variables()
    theirs = Function("baseline", packages.baselines, "direct.lambda_handler", 9, variables)
    # Python compiles what it finds no bytecode of in the virtual environment: on Lambda the SDK has it.
    _first_answer(theirs)
    # /var/task is read-only.
    read_only = {**variables, "PYTHONDONTWRITEBYTECODE": "1"}
    ours = Function("ours", packages.ours, "app.lambda_handler", 9, read_only)
    theirs = replace(theirs, environment=read_only)
    value, base = in_turns(lambda: _first_answer(ours), lambda: _first_answer(theirs), 15)
    return Figure("cold start", "ms", value * MILLISECONDS, base * MILLISECONDS, 1.15)


def _first_answer(function: Function) -> float:
    """Start an instance and let it answer; return the seconds of both, INIT and the invocation, as the emulator does.

    The emulator runs INIT with the first invocation and counts it as a part of its duration.
    """
    reports: queue.SimpleQueue[float] = queue.SimpleQueue()

    def read_log(line: str) -> None:
        if report := _REPORT.match(line):
            reports.put(float(report[1]) / MILLISECONDS)

    runtime = Runtime(function, max_instances=1, on_log=read_log)
    try:
        answer = json.loads(runtime.invoke(json.dumps(request())))
        seconds = reports.get(timeout=_REPORT_SECONDS)
    finally:
        runtime.close()
    if answer.get("statusCode") not in {200, 202}:
        raise RuntimeError(f"{function.name} answered {answer}")
    return seconds


def memory(environment: Environment) -> Figure:
    """Compare the function's peak memory after 10,000 events with that after 100."""

    def peak(events: int) -> float:
        output = subprocess.run(  # noqa: S603 -- our own program
            [sys.executable, "-m", "benchmarks.peak", str(events)],
            input=json.dumps(request()),
            env={**os.environ, **environment.variables(), "PYTHONPATH": f"{ROOT}:{ROOT / 'function'}"},
            check=True,
            capture_output=True,
            text=True,
        )
        return float(output.stdout)

    return Figure("peak memory after 10,000 events", "MB", peak(10_000), peak(100), 1.05)


def package(packages: Packages) -> Figure:
    """Zip what `sam build` made, bytecode included."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(packages.ours.rglob("*")):
            archive.write(file, file.relative_to(packages.ours))
    return Figure("package, zipped", "MB", content.tell() / 1_000_000, None, 3.0)


# -- helpers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def handler(environment: dict[str, str]) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Yield the function's handler, made for this environment, with its log going nowhere; a wrong answer raises."""
    os.environ.update(environment)
    import app  # noqa: PLC0415 -- the function's modules are imported only once they are measured
    from dependencies import Dependencies  # noqa: PLC0415 -- the same

    deps = Dependencies.from_environment(os.environ)
    context: Any = Context()
    with Path(os.devnull).open("w") as nowhere:

        def answer(event: dict[str, Any]) -> dict[str, Any]:
            with contextlib.redirect_stdout(nowhere):
                response = app.handle(event, context, deps)
            if response["statusCode"] != 200:  # noqa: PLR2004 -- the one that a benchmark is about
                raise RuntimeError(f"answered {response}")
            return response

        yield answer


def _posted_body(event: dict[str, Any]) -> bytes:
    from event import Event, encode  # noqa: PLC0415 -- as above
    from mapping import map_event  # noqa: PLC0415 -- the same
    from settings import Rules  # noqa: PLC0415 -- the same

    mapped = map_event(json.loads(event["body"]), "default", Rules(), datetime.now(UTC), fallback_key="benchmark")
    if not isinstance(mapped, Event):
        raise TypeError(mapped.message)
    return encode({"routing_key": LOCAL_ROUTING_KEY, **mapped.content})


def _with_entries(count: int) -> dict[str, Any]:
    return request(customDetails={f"detail {n}": n for n in range(count)})


def _with_kilobytes(count: int) -> dict[str, Any]:
    event = request()
    body = json.loads(event["body"])
    body["context"] = {"padding": "x" * max(0, 1000 * count - len(event["body"]))}
    return {**event, "body": json.dumps(body)}
