"""A run: RudderStack's router sends through a stack of its own while everything around the functions fails."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import urllib3

from chaos.plan import Mode, Plan, plan
from chaos.reckoning import Reckoning, reckon
from chaos.router import BATCH_SIZE, Job, Router, Rules
from chaos.weather import EVENT_ID, Weather, caller_of, sandbox_of
from local.options import LOCAL_TOKEN, Options
from local.runtime import Runtime
from local.stack import LocalStack

# The router's waiting times are divided by this: 10 to 300 seconds become 0.1 to 3, its three hours become 108 s.
SPEED: Final = 100.0
# So many times faster does the time of what waits in the queue pass.
QUEUE_SPEED: Final = 30.0
# Seconds for the sender, and then for the queue, to come to an end.
PATIENCE: Final = 1200.0
HEADERS: Final = {"X-Api-Key": LOCAL_TOKEN}
# The part of the events of which an answer is lost on the way to the sender, and with it that to their batch.
ANSWERS_LOST: Final = 0.05


def run(mode: Mode, *, events: int, incidents: int, seed: int) -> Reckoning:
    """Send events through a stack of its own, wait until all has arrived, and reckon."""
    name = f"{seed} {mode.name}"
    made_up = plan(events, incidents, name)
    log: list[str] = []
    options = Options(delivery=mode.delivery, rate_limit=None, speed=QUEUE_SPEED)
    with LocalStack(options, on_log=log.append) as stack:
        _warm_up(stack, made_up.senders)
        died = _count_deaths(caller_of(stack, mode))
        weather = Weather(stack, mode, made_up, name)
        router = Router(
            f"{stack.url}/events",
            HEADERS,
            Rules(batch_size=BATCH_SIZE if mode.batched else 0, workers=made_up.senders, speed=SPEED),
            _loses(made_up, name),
        )
        began = time.monotonic()
        weather.begin()
        records = router.deliver(made_up.jobs, PATIENCE)
        waiting = _drain(stack)
        weather.end()
        result = Reckoning(mode, len(made_up.jobs), seconds=time.monotonic() - began, faults=weather.faults)
        result.put_back = stack.event_source.failures
        if waiting:
            result.problems.append(f"{waiting} messages are still in the queue")
        reckon(result, made_up, records, sandbox_of(stack), _dead_letters(stack), died, _merged(log))
    return result


def _warm_up(stack: LocalStack, senders: int) -> None:
    """Start as many instances as there will be requests at once; later cold starts come one by one, as on Lambda."""
    body = {"type": "track", "event": "warm up", "properties": {"source": "chaos"}}
    url = f"{stack.url}/events?preview=true"

    def post(_: int) -> int:
        return urllib3.request("POST", url, json=body, headers=HEADERS, timeout=60, retries=False).status

    with ThreadPoolExecutor(senders) as threads:
        list(threads.map(post, range(senders)))


def _count_deaths(runtime: Runtime) -> Counter[str]:
    """Count, from now on, the events that a process had in its hands when it was killed or ran out of time."""
    died: Counter[str] = Counter()
    lock = threading.Lock()

    def note(_: object, event: str, answer: str) -> None:
        with suppress(ValueError):  # A time-out is told in plain words.
            if json.loads(answer).keys() & {"statusCode", "batchItemFailures"}:
                return
        with lock:
            # A message names its event twice: as message_id, and in the custom details.
            died.update(set(EVENT_ID.findall(event)))

    runtime.on_invoked = note
    return died


def _loses(plan: Plan, seed: str) -> Callable[[Sequence[Job]], bool]:
    """Choose requests whose answer does not reach the sender, which sends them again though they were accepted."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    ids = {each for each in plan.fates if chance.random() < ANSWERS_LOST}
    lock = threading.Lock()

    def loses(jobs: Sequence[Job]) -> bool:
        with lock:
            chosen = ids.intersection(job.event["messageId"] for job in jobs)
            ids.difference_update(chosen)
        return bool(chosen)

    return loses


def _drain(stack: LocalStack) -> int:
    """Wait until the queue is empty; return how many messages it still holds."""
    give_up = time.monotonic() + PATIENCE
    pause = threading.Event()
    while (waiting := stack.count_messages(stack.queue_url)) and time.monotonic() < give_up:
        pause.wait(0.1)
    return waiting


def _dead_letters(stack: LocalStack) -> dict[str, str]:
    """Empty the dead-letter queue; return the reasons by messageId."""
    letters: dict[str, str] = {}
    sqs = stack.aws.client("sqs")
    while messages := sqs.receive_message(
        QueueUrl=stack.dead_letter_queue_url, MessageAttributeNames=["All"], MaxNumberOfMessages=10
    ).get("Messages", []):
        for message in messages:
            letters[json.loads(message["Body"])["message_id"]] = message["MessageAttributes"]["reason"]["StringValue"]
            sqs.delete_message(QueueUrl=stack.dead_letter_queue_url, ReceiptHandle=message["ReceiptHandle"])
    return letters


def _merged(log: Iterable[str]) -> set[str]:
    """Find the events that the worker says it merged: PagerDuty would show nothing of them."""
    lines = [json.loads(line) for line in log if '"outcome":"merged"' in line]
    return {line["message_id"] for line in lines}
