"""Entry point of the worker function: delivers the events in the queue, in order per incident.

An event that PagerDuty does not accept now stays in the queue, and delays only its message group. One that PagerDuty
refuses for good goes to the dead-letter queue with the reason.
Lambda deletes a batch at its end; if the process dies before, all of it is received again. So a message is deleted
before a later one of its group is posted: a trigger repeated after its resolve would open the incident again.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import random
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools.utilities.batch import SqsFifoPartialProcessor, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import dependencies
import pacing
import sqs
import telemetry
from delivery import deliver
from dependencies import Dependencies
from event import Event
from outcome import Outcome, ProcessingError
from pacing import Waiting
from settings import SettingsError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds for one event, and for its call to PagerDuty.
DEADLINE: Final = 9.0
CALL_LIMIT: Final = 5.0
# Seconds. With less time left, an event is not started and stays in the queue.
MIN_TIME_PER_EVENT: Final = 10.0
# Seconds kept for the answer.
_TIME_TO_ANSWER: Final = 0.5


def handle(
    event: dict[str, Any], context: "LambdaContext", deps: Dependencies | SettingsError
) -> "PartialItemFailureResponse":
    """Deliver a batch of messages; return those that have to stay in the queue. Raises SettingsError."""
    telemetry.set_request_id(context.aws_request_id)
    if isinstance(deps, SettingsError):
        raise deps
    batch = _Batch([SQSRecord(record) for record in event["Records"]], deps, context)
    processor = SqsFifoPartialProcessor(skip_group_on_error=True)
    # All events of a batch may have to stay, which is not an error of the function.
    processor.raise_on_entire_batch_failure = False
    answer = process_partial_response(event=event, record_handler=batch.handle, processor=processor, context=context)
    batch.delay({str(item["itemIdentifier"]) for item in answer["batchItemFailures"]})
    return answer


class _Batch:
    """The messages of one invocation, handled one after the other."""

    def __init__(self, records: list[SQSRecord], deps: Dependencies, context: "LambdaContext") -> None:
        self._records = records
        self._deps = deps
        self._context = context
        self._events = {record.message_id: _read(record) for record in records}
        # By message group: its last message in this batch, and the deferred one with its outcome.
        self._last = {_group(record): record.message_id for record in records}
        self._deferred: dict[str, tuple[SQSRecord, Outcome]] = {}
        self._superseded = self._find_superseded() if deps.settings.merge_repeated_triggers else set()
        # By PagerDuty service: a call that timed out. Only one of the batch has to wait for that.
        self._timeouts: dict[str, Outcome] = {}

    def handle(self, record: SQSRecord) -> None:
        """Handle one message. Raises ProcessingError if it has to stay in the queue."""
        outcome = self._outcome_of(record)
        try:
            self._remove(record, outcome)
        except ProcessingError as error:
            outcome = error.outcome
        event = self._events[record.message_id]
        if isinstance(event, Event):
            outcome = outcome.for_event(event)
        self._log(record, outcome)
        if outcome.status == "deferred":
            self._deferred[_group(record)] = record, outcome
            raise ProcessingError(outcome.code, outcome.message)

    def delay(self, stayed: set[str]) -> None:
        """Make the messages that stay invisible, all of a group for the same time; extend their leases before."""
        seconds = {group: self._retry_delay(*deferred) for group, deferred in self._deferred.items()}
        leases: dict[str, float] = {}
        for group, (record, _) in self._deferred.items():
            event = self._events[record.message_id]
            if isinstance(event, Event):
                leases[event.service] = max(leases.get(event.service, 0.0), time.time() + seconds[group])
        if self._deps.flow.extend_leases(leases, self._end()):
            seconds = {group: min(each, round(pacing.MAX_DELAY_WITHOUT_LEASE)) for group, each in seconds.items()}
        delays = [
            (record, seconds[_group(record)])
            for record in self._records
            if record.message_id in stayed and _group(record) in seconds
        ]
        try:
            if delays:
                self._deps.queue.delay(delays, self._end())
        except ProcessingError as error:
            message = "Delayed events stay invisible for the queue's visibility timeout"
            telemetry.logger.warning(message, extra={"reason": str(error)})

    def _outcome_of(self, record: SQSRecord) -> Outcome:
        """Deliver a message's event, unless there is a reason not to, and return the outcome."""
        event = self._events[record.message_id]
        if isinstance(event, Outcome):
            return event
        if record.message_id in self._superseded:
            return Outcome("merged", "Superseded by a later trigger of the same incident")
        if self._remaining() < MIN_TIME_PER_EVENT:
            return Outcome("deadline_exceeded", "No time was left to call PagerDuty; it stays in the queue")
        if event.service in self._timeouts:
            return replace(self._timeouts[event.service], call=None)
        try:
            deadline = time.monotonic() + DEADLINE
            outcome = deliver(event, self._deps, deadline, limit=CALL_LIMIT, waited=_waiting(record).waited)
        except Exception as error:  # noqa: BLE001 -- a bug must not cost the event
            return telemetry.log_exception(error)
        if outcome.code == "pagerduty_timeout":
            self._timeouts[event.service] = outcome
        return outcome

    def _remove(self, record: SQSRecord, outcome: Outcome) -> None:
        """Remove a finished message from the queue, if that cannot wait. Raises ProcessingError if SQS fails."""
        if outcome.status == "deferred":
            return
        if outcome.status == "rejected":
            # PagerDuty does not show it, so it supersedes nothing.
            self._superseded -= {each.message_id for each in self._records if _group(each) == _group(record)}
            self._deps.dead_letters.dead_letter(record, outcome, self._end())
        if record.message_id != self._last[_group(record)]:
            self._deps.queue.delete(record, self._end())

    def _retry_delay(self, record: SQSRecord, outcome: Outcome) -> int:
        """Return the delay of a message and the rest of its group in seconds."""
        event = self._events[record.message_id]
        seconds_to_drain = 0.0
        if outcome.code in pacing.RATE_LIMITED and isinstance(event, Event):
            rate = self._deps.settings.calls_per_minute
            with suppress(ProcessingError):  # The keys may have been deleted since the call.
                rate *= len(self._deps.credentials.routing_keys(event.service, self._end()))
            seconds_to_drain = pacing.seconds_to_drain(self._deps.queue.in_flight(self._end()), rate)
        return pacing.retry_delay(
            outcome.code,
            event if isinstance(event, Event) else None,
            _waiting(record),
            seconds_to_drain=seconds_to_drain,
            jitter=random.uniform(*pacing.JITTER),  # noqa: S311 -- not a secret
        )

    def _find_superseded(self) -> set[str]:
        """Return the ids of the messages that need not be posted."""
        events = [(record, self._events[record.message_id]) for record in self._records]
        known = [(record, event) for record, event in events if isinstance(event, Event)]
        positions = pacing.superseded_triggers([(event, _waiting(record).waited) for record, event in known])
        return {known[position][0].message_id for position in positions}

    def _log(self, record: SQSRecord, outcome: Outcome) -> None:
        item = self._events[record.message_id]
        event, service = (item, item.service) if isinstance(item, Event) else (None, None)
        is_known = service is not None and self._deps.credentials.has_routing_key(service)
        telemetry.log_event(outcome, service, event, is_known=is_known, waiting=_waiting(record))

    def _remaining(self) -> float:
        return self._context.get_remaining_time_in_millis() / 1000

    def _end(self) -> float:
        """Return the deadline of this invocation (seconds of the monotonic clock)."""
        return time.monotonic() + self._remaining() - _TIME_TO_ANSWER


def _read(record: SQSRecord) -> Event | Outcome:
    try:
        return sqs.read(record.body)
    except ProcessingError as error:
        return error.outcome
    except Exception as error:  # noqa: BLE001 -- a bug must not cost the event
        return telemetry.log_exception(error)


def _group(record: SQSRecord) -> str:
    return record.attributes.message_group_id or record.message_id


def _waiting(record: SQSRecord) -> Waiting:
    waited = max(0.0, time.time() - int(record.attributes.sent_timestamp) / 1000)
    return Waiting(int(record.attributes.approximate_receive_count), waited)


_deps = dependencies.load()


def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Deliver a batch with the dependencies of this process, made while Lambda initialises it."""
    return handle(event, context, _deps)
