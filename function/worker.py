"""Entry point of the queue: delivers what the API function enqueued, in order per incident.

What PagerDuty cannot take now stays in the queue, and holds back only its own message group. What PagerDuty refuses for
good goes to the dead-letter queue with the reason, and holds back nothing.

A batch is answered as a whole, at its end; if the process dies before, all of it comes again. So a message that has a
later one of its group behind it in the batch is deleted before that one goes out: a trigger that came again after its
resolve would open the incident again.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import contextlib
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from aws_lambda_powertools.utilities.batch import SqsFifoPartialProcessor, process_partial_response

import aws
import sqs
import telemetry
from credentials import Credentials
from delivery import Job
from errors import Deferred, Rejected
from pagerduty import Client, Receipt, RoutingKeyRefused
from settings import Settings, SettingsError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds for one event, its quick retries included.
DEADLINE: Final = 8.0
# Seconds. With less than this left of the function's time, no call is begun: the event stays in the queue.
LEAST_TIME: Final = 10.0


@dataclass(frozen=True, slots=True)
class Worker:
    """What lives as long as the process: the routing keys, the connections, the queues."""

    credentials: Credentials
    pagerduty: Client
    queue: sqs.Queue
    dead_letters: sqs.Queue


@functools.cache
def worker() -> Worker:
    """Build everything from the environment, once. Raises SettingsError when the environment makes no sense."""
    settings = Settings.from_environment(os.environ)
    client = boto3.client("sqs", config=aws.CLIENT_CONFIG)
    return Worker(
        Credentials(settings.parameter_prefix),
        Client(settings.pagerduty_url),
        sqs.Queue(client, settings.queue_url),
        sqs.Queue(client, settings.dead_letter_queue_url),
    )


def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Deliver a batch of messages; name those that have to stay in the queue. Raises SettingsError."""
    telemetry.begin(context.aws_request_id)
    worker()
    processor = SqsFifoPartialProcessor(skip_group_on_error=True)
    # A batch that failed as a whole is an answer like any other, not an error of the function.
    processor.raise_on_entire_batch_failure = False
    handle = functools.partial(_handle, last_of_group=_last_of_group(event["Records"]), context=context)
    return process_partial_response(event=event, record_handler=handle, processor=processor, context=context)


def _last_of_group(records: Sequence[dict[str, Any]]) -> set[str]:
    """Find the messages after which no other of their group comes in the batch, by their ids."""
    return set({record["attributes"]["MessageGroupId"]: record["messageId"] for record in records}.values())


def _handle(record: "SQSRecord", *, last_of_group: set[str], context: "LambdaContext") -> None:
    """Deliver one message, or bury it. Raises Deferred when it has to stay in the queue."""
    parts = worker()
    service, job, exchange = "", None, None
    outcome = code = "delivered"
    try:
        try:
            service, job = sqs.read(record.body)
            exchange = _send(parts, service, job, context.get_remaining_time_in_millis() / 1000).exchange
        except Rejected as error:
            outcome, code, exchange = error.outcome, error.code, error.exchange
            parts.dead_letters.bury(_message(record), error)
        if record.message_id not in last_of_group:
            parts.queue.delete(record.receipt_handle)
    except Exception as problem:
        stays = problem if isinstance(problem, Deferred) else telemetry.bug(problem)
        outcome, code, exchange = stays.outcome, stays.code, stays.exchange or exchange
        raise
    finally:
        telemetry.log_event(
            service,
            outcome,
            code,
            job,
            dedup_key=job.dedup_key if job else None,
            exchange=exchange,
            receives=int(record.attributes.approximate_receive_count),
        )


def _send(parts: Worker, service: str, job: Job, remaining: float) -> Receipt:
    if remaining < LEAST_TIME:
        raise Deferred("out_of_time", "No time was left to call PagerDuty; it stays in the queue")
    routing_key = parts.credentials.routing_key(service)
    try:
        return parts.pagerduty.send(job.kind, job.body, routing_key, time.monotonic() + DEADLINE)
    except RoutingKeyRefused:
        parts.credentials.distrust_routing_key(service)
        raise


def _message(record: "SQSRecord") -> sqs.Message:
    attributes = record.attributes
    return sqs.Message(
        record.body,
        attributes.message_group_id or record.message_id,
        attributes.message_deduplication_id or record.message_id,
    )


# Built while Lambda initialises the process. Reads no secret yet.
with contextlib.suppress(SettingsError):
    worker()
