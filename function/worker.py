"""Entry point of the queue: delivers what the API function enqueued, in order per incident.

What PagerDuty does not accept now stays in the queue for as long as `pacing` says, and holds up only its own message
group. What PagerDuty refuses for good goes to the dead-letter queue with the reason, and holds up nothing.

A batch is answered as a whole, at its end; if the process dies before, all of it is received again. So a message that
has a later one of its group behind it in the batch is deleted before that one is posted: a trigger that was repeated
after its resolve would open the incident again.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import random
import time
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

# Seconds for one event, from SSM to what follows from PagerDuty's answer; and of them for the call to PagerDuty.
DEADLINE: Final = 9.0
CALL_LIMIT: Final = 5.0
# Seconds. With less than this left of the function's time, no event is started: it stays in the queue.
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
    # A batch that failed as a whole is an answer like any other, not an error of the function.
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
        # By message group: its last message in this batch, and the outcome for which what stays of it is delayed.
        self._last = {_group(record): record.message_id for record in records}
        self._delayed: dict[str, tuple[SQSRecord, Outcome]] = {}
        self._superseded = self._find_superseded() if deps.settings.merge_repeated_triggers else set()
        # The PagerDuty services of which a call was not answered: one call of the batch hangs, not ten.
        self._silent: dict[str, Outcome] = {}

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
            self._delayed[_group(record)] = record, outcome
            raise ProcessingError(outcome.code, outcome.message)

    def delay(self, stayed: set[str]) -> None:
        """Make the messages that stay invisible, each as long as the one of its group that was handled last.

        Before, the leases are extended beyond the time at which they come back. While that fails the delays are short.
        """
        seconds = {group: self._retry_delay(*delayed) for group, delayed in self._delayed.items()}
        leases: dict[str, float] = {}
        for group, (record, _) in self._delayed.items():
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
        if not delays:
            return
        try:
            self._deps.queue.delay(delays, self._end())
        except ProcessingError as error:
            telemetry.logger.warning(
                "Delayed events stay invisible for the queue's visibility timeout", extra={"reason": str(error)}
            )

    def _outcome_of(self, record: SQSRecord) -> Outcome:
        """Deliver a message's event unless there is a reason not to, and return its outcome."""
        event = self._events[record.message_id]
        if isinstance(event, Outcome):
            return event
        if record.message_id in self._superseded:
            return Outcome("merged", "Superseded by a later trigger of the same incident")
        if self._remaining() < MIN_TIME_PER_EVENT:
            return Outcome("deadline_exceeded", "No time was left to call PagerDuty; it stays in the queue")
        if event.service in self._silent:
            return replace(self._silent[event.service], call=None)
        try:
            deadline = time.monotonic() + DEADLINE
            outcome = deliver(event, self._deps, deadline, limit=CALL_LIMIT, waited=_waiting(record).waited)
        except Exception as error:  # noqa: BLE001 -- our mistake must not cost the event
            return telemetry.log_exception(error)
        if outcome.code == "pagerduty_timeout":
            self._silent[event.service] = outcome
        return outcome

    def _remove(self, record: SQSRecord, outcome: Outcome) -> None:
        """Remove a finished message from the queue, if that cannot wait. Raises ProcessingError if SQS fails."""
        if outcome.status == "deferred":
            return
        if outcome.status == "rejected":
            # PagerDuty shows nothing of it, so it supersedes nothing.
            self._superseded -= {each.message_id for each in self._records if _group(each) == _group(record)}
            self._deps.dead_letters.dead_letter(record, outcome, self._end())
        if record.message_id != self._last[_group(record)]:
            self._deps.queue.delete(record, self._end())

    def _retry_delay(self, record: SQSRecord, outcome: Outcome) -> int:
        """Return for how many seconds a message, and the rest of its group, is delayed."""
        event = self._events[record.message_id]
        seconds_to_drain = 0.0
        if outcome.code in pacing.RATE_LIMITED and isinstance(event, Event):
            keys = self._deps.credentials.routing_keys(event.service, self._end())
            rate = self._deps.settings.calls_per_minute * len(keys)
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
        known = [
            (record, event) for record in self._records if isinstance(event := self._events[record.message_id], Event)
        ]
        positions = pacing.superseded_triggers([(event, _waiting(record).waited) for record, event in known])
        return {known[position][0].message_id for position in positions}

    def _log(self, record: SQSRecord, outcome: Outcome) -> None:
        event = self._events[record.message_id]
        known = event if isinstance(event, Event) else None
        telemetry.log_event(
            outcome,
            known.service if known else None,
            known,
            is_known=known is not None and self._deps.credentials.has_routing_key(known.service),
            waiting=_waiting(record),
        )

    def _remaining(self) -> float:
        return self._context.get_remaining_time_in_millis() / 1000

    def _end(self) -> float:
        """Return when this invocation has to have answered (seconds of the monotonic clock)."""
        return time.monotonic() + self._remaining() - _TIME_TO_ANSWER


def _read(record: SQSRecord) -> Event | Outcome:
    try:
        return sqs.read(record.body)
    except ProcessingError as error:
        return error.outcome
    except Exception as error:  # noqa: BLE001 -- our mistake must not cost the event
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
