"""Entry point of the queue: delivers what the API function enqueued, in order per incident.

What PagerDuty cannot take now stays in the queue for as long as `pacing` says, and holds back only its own message
group. What PagerDuty refuses for good goes to the dead-letter queue with the reason, and holds back nothing.

A batch is answered as a whole, at its end; if the process dies before, all of it comes again. So a message that has a
later one of its group behind it in the batch is deleted before that one goes out: a trigger that came again after its
resolve would open the incident again.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools.utilities.batch import SqsFifoPartialProcessor, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import pacing
import sqs
import telemetry
from delivery import choose, post
from event import Event
from outcome import NotSentError, Outcome
from parts import Parts, parts
from settings import SettingsError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
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
    batch = _Batch([SQSRecord(record) for record in event["Records"]], parts(), context)
    processor = SqsFifoPartialProcessor(skip_group_on_error=True)
    # A batch that failed as a whole is an answer like any other, not an error of the function.
    processor.raise_on_entire_batch_failure = False
    answer = process_partial_response(event=event, record_handler=batch.handle, processor=processor, context=context)
    batch.put_off({str(item["itemIdentifier"]) for item in answer["batchItemFailures"]})
    return answer


class _Batch:
    """The messages of one invocation, handled one after the other."""

    def __init__(self, records: list[SQSRecord], has: Parts, context: "LambdaContext") -> None:
        self._records = records
        self._has = has
        self._context = context
        self._events = {record.message_id: _read(record) for record in records}
        # By message group: the message after which no other one of it comes, and how long what stays is put off.
        self._last = {_group(record): record.message_id for record in records}
        self._pauses: dict[str, int] = {}
        self._merged = self._find_merged() if has.settings.merge_repeats else set()

    def handle(self, record: SQSRecord) -> None:
        """Deliver one message, merge it, or set it aside. Raises NotSentError when it has to stay in the queue."""
        event = self._events[record.message_id]
        try:
            outcome = event if isinstance(event, Outcome) else self._deliver(event, record).about(event)
        except Exception as error:  # noqa: BLE001 -- our mistake must not cost the event
            outcome = telemetry.unexpected(error)
        try:
            if outcome.result == "rejected":
                # PagerDuty shows nothing of it, so it says nothing for others.
                self._merged -= {each.message_id for each in self._records if _group(each) == _group(record)}
                self._has.dead_letters.set_aside(record, outcome, self._end())
            if outcome.result != "deferred" and record.message_id != self._last[_group(record)]:
                self._has.queue.delete(record, self._end())
        except NotSentError as error:
            outcome = error.outcome if isinstance(event, Outcome) else error.outcome.about(event)
        self._log(record, outcome)
        if outcome.result == "deferred":
            self._pauses[_group(record)] = self._pause(record, outcome)
            raise NotSentError(outcome.code, outcome.message)

    def put_off(self, stayed: set[str]) -> None:
        """Let the messages that stay come again when it is their turn: each with the rest of its group."""
        pauses = [
            (record, self._pauses[_group(record)])
            for record in self._records
            if record.message_id in stayed and _group(record) in self._pauses
        ]
        if not pauses:
            return
        try:
            self._has.queue.put_off(pauses, self._end())
        except NotSentError as error:
            telemetry.logger.warning(
                "Events come again after the queue's visibility timeout", extra={"reason": str(error)}
            )

    def _deliver(self, event: Event, record: SQSRecord) -> Outcome:
        if record.message_id in self._merged:
            return Outcome("merged", "A later trigger of the incident says all that PagerDuty would show of this one")
        if self._remaining() < LEAST_TIME:
            return Outcome("out_of_time", "No time was left to call PagerDuty; it stays in the queue")
        deadline = time.monotonic() + DEADLINE
        has = self._has
        try:
            routing_key = choose(has.credentials.routing_keys(event.service, deadline), event)
        except NotSentError as error:
            return error.outcome
        pace = has.paces[routing_key]
        # The wall clock, since a process that is frozen must not think that no time has passed.
        if not pacing.may_go(event, _waited(record), pace, time.time()):
            return Outcome("not_its_turn", "PagerDuty limits the rate of this routing key; it stays in the queue")
        outcome = post(event, routing_key, has.credentials, has.pagerduty, deadline)
        has.paces[routing_key] = pacing.learn(pace, outcome.code, time.time())
        return outcome

    def _pause(self, record: SQSRecord, outcome: Outcome) -> int:
        """Tell for how many seconds a message that stays, and the rest of its group, is put off."""
        event, waited = self._events[record.message_id], _waited(record)
        share = 0.0
        if outcome.code in pacing.RATE_LIMITED and isinstance(event, Event):
            keys = self._has.credentials.routing_keys(event.service, self._end())
            share = pacing.share(self._has.queue.in_flight(self._end()), len(keys))
        return pacing.pause(
            outcome.code,
            receives=_receives(record),
            waited=waited,
            share=share,
            urgent=isinstance(event, Event) and pacing.is_urgent(event, waited),
            jitter=random.uniform(*pacing.JITTER),  # noqa: S311 -- not a secret
        )

    def _find_merged(self) -> set[str]:
        """Find the messages that need not be posted, by their ids."""
        known = [
            (record, event) for record in self._records if isinstance(event := self._events[record.message_id], Event)
        ]
        places = pacing.merged([(event, _waited(record)) for record, event in known])
        return {known[place][0].message_id for place in places}

    def _log(self, record: SQSRecord, outcome: Outcome) -> None:
        event = self._events[record.message_id]
        known = event if isinstance(event, Event) else None
        telemetry.log_event(
            outcome,
            known.service if known else None,
            known,
            is_known=known is not None and self._has.credentials.knows(known.service),
            receives=_receives(record),
            queue_time=_waited(record),
        )

    def _remaining(self) -> float:
        return self._context.get_remaining_time_in_millis() / 1000

    def _end(self) -> float:
        """Tell when this invocation has to have answered (seconds of the monotonic clock)."""
        return time.monotonic() + self._remaining() - _TIME_TO_ANSWER


def _read(record: SQSRecord) -> Event | Outcome:
    try:
        return sqs.read(record.body)
    except NotSentError as error:
        return error.outcome
    except Exception as error:  # noqa: BLE001 -- our mistake must not cost the event
        return telemetry.unexpected(error)


def _group(record: SQSRecord) -> str:
    return record.attributes.message_group_id or record.message_id


def _receives(record: SQSRecord) -> int:
    return int(record.attributes.approximate_receive_count)


def _waited(record: SQSRecord) -> float:
    """Tell for how many seconds the message has been in the queue."""
    return max(0.0, time.time() - int(record.attributes.sent_timestamp) / 1000)


# Made while Lambda initialises the process.
with contextlib.suppress(SettingsError):
    parts()
