"""A run: RudderStack's router sends through a stack of its own while everything around the functions fails."""

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from chaos.fault_plan import CALLS_PER_MINUTE, EVENT_ID, FaultPlan
from chaos.plan import Plan, plan
from chaos.report import Report
from chaos.router import Job, RetryRules, Router
from local.options import LOCAL_TOKEN, Options
from local.stack import LocalStack

# The router's waiting times are divided by this: 10 to 300 seconds become 0.1 to 3.
SPEED: Final = 100.0
# So many times faster does the time of what waits in the queue pass.
QUEUE_SPEED: Final = 30.0
# Seconds for the sender, and then for the queue, to come to an end.
PATIENCE: Final = 1200.0
HEADERS: Final = {"X-Api-Key": LOCAL_TOKEN}
# The part of the events of which an answer is lost on the way to the sender, and with it that to their batch.
ANSWERS_LOST: Final = 0.05


def run(*, events: int, incidents: int, seed: int) -> Report:
    """Send events through a stack of its own, wait until all have arrived, and report."""
    sent = plan(events, incidents, str(seed))
    log: list[str] = []
    routing_keys = {name: f"chaos{n:027}" for n, name in enumerate(sent.services)}
    settings = {"CALLS_PER_MINUTE": str(CALLS_PER_MINUTE)}
    options = Options(services=routing_keys, rate_limit=None, settings=settings, speed=QUEUE_SPEED)
    with LocalStack(options, on_log=log.append) as stack:
        try:
            return _run(stack, sent, str(seed), log)
        except KeyboardInterrupt:
            # Requests that are under way are neither waited for, nor do their failures matter.
            logging.disable()
            stack.runtime.close()
            stack.worker.close()
            raise


def _run(stack: LocalStack, sent: Plan, seed: str, log: Iterable[str]) -> Report:
    if stack.sandbox is None:
        raise RuntimeError("The stack has no sandbox")
    _warm_up(stack, sent.senders)
    died: list[str] = []
    stack.runtime.on_invoked = stack.worker.on_invoked = _note_deaths(died)
    faults = FaultPlan(stack, stack.sandbox, sent, seed)
    router = Router(stack.url, HEADERS, RetryRules(workers=sent.senders, speed=SPEED), _loses(sent, seed))
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
        {
            json.loads(each.body)["message_id"]: each.attributes["reason"]["StringValue"]
            for each in stack.aws.peek(stack.dead_letter_queue_url)
        },
        Counter(died),
        list(_lines_of_events(log)),
        faults=faults.faults,
        waiting=waiting,
        delayed=stack.event_source.failures,
        seconds=time.monotonic() - began,
    )


def _warm_up(stack: LocalStack, senders: int) -> None:
    """Start as many instances as there will be requests at once; later cold starts come one by one, as on Lambda."""
    body = b'{"type": "track", "event": "warm up", "properties": {"source": "chaos"}}'
    list(ThreadPoolExecutor(senders).map(lambda _: stack.post("/events?preview=true", body), range(senders)))


def _note_deaths(died: list[str]) -> Callable[[object, str, str], None]:
    """Return what notes the events that a process held when it was killed or ran out of time."""

    def on_invoked(_: object, event: str, answer: str) -> None:
        with suppress(ValueError):  # A time-out is told in plain words.
            if json.loads(answer).keys() & {"statusCode", "batchItemFailures"}:
                return
        # A message names its event twice: as message_id, and in the custom details.
        died.extend(set(EVENT_ID.findall(event)))

    return on_invoked


def _loses(sent: Plan, seed: str) -> Callable[[Sequence[Job]], bool]:
    """Choose requests whose answer does not reach the sender, which sends them again though they were accepted."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    ids = {each for each in sent.fates if chance.random() < ANSWERS_LOST}

    def loses(jobs: Sequence[Job]) -> bool:
        chosen = ids.intersection(job.event["messageId"] for job in jobs)
        ids.difference_update(chosen)
        return bool(chosen)

    return loses


def _drain(stack: LocalStack) -> int:
    """Wait until the queue is empty; return how many messages it still holds."""
    give_up = time.monotonic() + PATIENCE
    while (waiting := stack.count_messages(stack.queue_url)) and time.monotonic() < give_up:
        time.sleep(0.1)
    return waiting


def _lines_of_events(log: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the log's lines about single events; one that its process could not finish is not JSON."""
    for line in log:
        with suppress(ValueError):
            if line.startswith("{") and (content := json.loads(line)).get("message") in {"event", "without lease"}:
                yield content
