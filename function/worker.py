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
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools.utilities.batch import SqsFifoPartialProcessor, process_partial_response

import sqs
import telemetry
from delivery import deliver
from event import Event
from outcome import NotSentError, Outcome
from parts import Parts, parts
from settings import SettingsError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds for one event, from SSM to PagerDuty's answer.
DEADLINE: Final = 8.0
# Seconds. With less than this left of the function's time, no call is begun: the event stays in the queue.
LEAST_TIME: Final = 10.0
# Seconds kept for the answer.
_TIME_TO_ANSWER: Final = 0.5


def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Deliver a batch of messages; name those that have to stay in the queue. Raises SettingsError."""
    telemetry.begin(context.aws_request_id)
    processor = SqsFifoPartialProcessor(skip_group_on_error=True)
    # A batch that failed as a whole is an answer like any other, not an error of the function.
    processor.raise_on_entire_batch_failure = False
    handle = functools.partial(_handle, has=parts(), last_of_group=_last_of_group(event["Records"]), context=context)
    return process_partial_response(event=event, record_handler=handle, processor=processor, context=context)


def _last_of_group(records: Sequence[dict[str, Any]]) -> set[str]:
    """Find the messages after which no other of their group comes in the batch, by their ids."""
    return set({record["attributes"]["MessageGroupId"]: record["messageId"] for record in records}.values())


def _handle(record: "SQSRecord", *, has: Parts, last_of_group: set[str], context: "LambdaContext") -> None:
    """Deliver one message, or set it aside. Raises NotSentError when it has to stay in the queue."""
    remaining = context.get_remaining_time_in_millis() / 1000
    end = time.monotonic() + remaining - _TIME_TO_ANSWER
    event = None
    try:
        event = sqs.read(record.body)
        outcome = _deliver(event, has, remaining).about(event)
    except NotSentError as error:
        outcome = error.outcome
    except Exception as error:  # noqa: BLE001 -- our mistake must not cost the event
        outcome = telemetry.unexpected(error)
    try:
        if outcome.result == "rejected":
            has.dead_letters.set_aside(record, outcome, end)
        if outcome.result != "deferred" and record.message_id not in last_of_group:
            has.queue.delete(record, end)
    except NotSentError as error:
        outcome = error.outcome if event is None else error.outcome.about(event)
    telemetry.log_event(
        outcome,
        event.service if event else None,
        event,
        is_known=event is not None and has.credentials.knows(event.service),
        receives=int(record.attributes.approximate_receive_count),
        queue_time=max(0.0, time.time() - int(record.attributes.sent_timestamp) / 1000),
    )
    if outcome.result == "deferred":
        raise NotSentError(outcome.code, outcome.message)


def _deliver(event: Event, has: Parts, remaining: float) -> Outcome:
    if remaining < LEAST_TIME:
        return Outcome("out_of_time", "No time was left to call PagerDuty; it stays in the queue")
    return deliver(event, has.credentials, has.pagerduty, time.monotonic() + DEADLINE)


# Made while Lambda initialises the process.
with contextlib.suppress(SettingsError):
    parts()
