"""A run: RudderStack's router sends events through a local stack while everything around the functions fails."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from chaos.fault_plan import CALLS_PER_MINUTE, EVENT_ID, FaultPlan
from chaos.plan import SENDERS, Plan, plan
from chaos.report import Report
from chaos.router import Job, Router
from local.observer import Log
from local.options import LOCAL_TOKEN, Options
from local.stack import LocalStack

# Divides the router's retry delays: 10 to 300 seconds become 0.1 to 3.
SPEED: Final = 100.0
# Divides the delays of messages in the queue.
QUEUE_SPEED: Final = 30.0
# Seconds for the sender, and then for the queue, to finish.
PATIENCE: Final = 1200.0
# The part of the events that lose an answer on its way to the sender.
ANSWERS_LOST: Final = 0.05


def run(events: int, seed: str) -> Report:
    """Send the events of a plan through a new stack, wait until all have arrived, and report."""
    sent = plan(events, seed)
    log = Log()
    routing_keys = {name: f"chaos{n:027}" for n, name in enumerate(sent.services)}
    settings = {"CALLS_PER_MINUTE": str(CALLS_PER_MINUTE)}
    options = Options(services=routing_keys, rate_limit=None, settings=settings, speed=QUEUE_SPEED)
    with LocalStack(options, log) as stack:
        return _run(stack, sent, seed, log.lines)


def _run(stack: LocalStack, sent: Plan, seed: str, log: Iterable[str]) -> Report:
    if stack.sandbox is None:
        raise RuntimeError("The stack has no sandbox")
    _warm_up(stack)
    died: list[str] = []
    stack.runtime.on_invoked = stack.worker.on_invoked = _record_deaths(died)
    faults = FaultPlan(stack, stack.sandbox, sent, seed)
    router = Router(
        stack.url, {"X-Api-Key": LOCAL_TOKEN}, workers=SENDERS, speed=SPEED, loses_answer=_loses_answer(sent, seed)
    )
    began = time.monotonic()
    faults.begin()
    records = router.deliver(sent.jobs, PATIENCE)
    waiting = _drain(stack)
    faults.end()
    return Report(
        sent,
        records,
        stack.sandbox.received,
        stack.sandbox.incidents,
        Counter(died),
        list(_event_lines(log)),
        faults=faults.faults,
        waiting=waiting,
        delayed=stack.event_source.failures,
        seconds=time.monotonic() - began,
    )


def _warm_up(stack: LocalStack) -> None:
    """Start one instance for each concurrent request; later cold starts come one by one, as on Lambda."""
    body = b'{"type": "track", "event": "warm up", "properties": {"source": "chaos"}}'
    list(ThreadPoolExecutor(SENDERS).map(lambda _: stack.post("/events?preview=true", body), range(SENDERS)))


def _record_deaths(died: list[str]) -> Callable[[object, str, str], None]:
    """Return a callback that adds the events of a process that was killed or ran out of time."""

    def on_invoked(_: object, event: str, answer: str) -> None:
        with suppress(ValueError):  # The emulator reports a time-out in plain text.
            if json.loads(answer).keys() & {"statusCode", "batchItemFailures"}:
                return
        # A message names its event twice: as message_id, and in the custom details.
        died.extend(set(EVENT_ID.findall(event)))

    return on_invoked


def _loses_answer(sent: Plan, seed: str) -> Callable[[Sequence[Job]], bool]:
    """Return a function that chooses requests whose answer is lost, so that the sender repeats accepted events."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    ids = {job.message_id for job in sent.jobs if chance.random() < ANSWERS_LOST}

    def loses_answer(jobs: Sequence[Job]) -> bool:
        chosen = ids.intersection(job.message_id for job in jobs)
        ids.difference_update(chosen)
        return bool(chosen)

    return loses_answer


def _drain(stack: LocalStack) -> int:
    """Wait until the queue is empty; return the number of messages left."""
    deadline = time.monotonic() + PATIENCE
    while (waiting := stack.count_messages(stack.queue_url)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return waiting


def _event_lines(log: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the log's lines about single events; the last line of a killed process may not be JSON."""
    for line in log:
        with suppress(ValueError):
            if line.startswith("{") and (content := json.loads(line)).get("message") in {"event", "without lease"}:
                yield content
