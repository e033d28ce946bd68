"""How long a delayed message waits, which events are urgent, and which triggers need not be posted.

Pure: times, randomness and the queue's figures are passed in. Times are in seconds; `waited` is the time since SQS
accepted the message. Whether an event is posted now is decided in `flow`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from event import SEVERITIES, Event

# A critical trigger is urgent for its first minute and the start of PagerDuty's next one.
URGENT_FOR: Final = 62.0
# An urgent event is tried once more before that time ends.
LAST_TRY: Final = 1.0
# Repeated triggers are merged after this time; before it, each is news.
MERGED_AFTER: Final = 60.0

MIN_DELAY: Final = 4.0
MIN_RATE_LIMIT_DELAY: Final = 20.0
MAX_RATE_LIMIT_DELAY: Final = 11 * 3600.0
# At this delay, the 1,000 receives that SQS allows last for a day.
MAX_OUTAGE_DELAY: Final = 120.0
# Events with priority are tried again after this fraction of the time that they have waited, for their first hour.
PRIORITY_FOR: Final = 3600.0
PRIORITY_FRACTION: Final = 1 / 16
# The bounds of that delay for a critical trigger in an outage.
MIN_CRITICAL_DELAY: Final = 2.0
MAX_CRITICAL_DELAY: Final = 30.0
# Its maximum if the rate is limited, unless a fiftieth of the others' delay is longer: with 20,000 messages in flight,
# the worker would do nothing but receive.
MAX_PRIORITY_DELAY: Final = 10.0
PRIORITY_FACTOR: Final = 50
# A corrected routing key is used within this time.
CONFIGURATION_DELAY: Final = 120.0
# While no lease can be written, so that it is written soon after DynamoDB is back.
MAX_DELAY_WITHOUT_LEASE: Final = 20.0
# A message can be invisible for 12 hours after it was received, of which the worker uses some:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
MAX_DELAY: Final = 12 * 3600 - 120
# Delays are multiplied by a random number between these, so that messages do not all return together.
JITTER: Final = (0.75, 1.25)

# The codes of events that PagerDuty accepts later, or was not asked about since the budget is spent.
RATE_LIMITED: Final = frozenset({"pagerduty_rate_limited", "rate_limit_delay"})
_CONFIGURATION: Final = frozenset({"routing_key_missing", "routing_key_refused"})


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the queue knows of a message; `receive_count` includes the current receive."""

    receive_count: int
    waited: float


def is_critical(event: Event) -> bool:
    """Return whether the event is a trigger of severity critical."""
    return event.action == "trigger" and _rank(event) == 0


def is_urgent(event: Event, waited: float) -> bool:
    """Return whether the event is a critical trigger in its first minute."""
    return is_critical(event) and waited < URGENT_FOR


def has_priority(event: Event) -> bool:
    """Return whether the event may spend the budget ahead: a critical trigger, an acknowledge or a resolve."""
    return is_critical(event) or event.action in {"acknowledge", "resolve"}


def seconds_to_drain(in_flight: int, calls_per_minute: float) -> float:
    """Return the seconds needed to post every message in flight once, 20 s to 11 h. Others wait behind them."""
    return min(max(60 * in_flight / calls_per_minute, MIN_RATE_LIMIT_DELAY), MAX_RATE_LIMIT_DELAY)


def retry_delay(code: str, event: Event | None, waiting: Waiting, *, seconds_to_drain: float, jitter: float) -> int:
    """Return for how many whole seconds a message stays invisible after this code; `event` is None if unreadable."""
    if code == "deadline_exceeded":
        seconds = 0.0  # Only this invocation is over.
    elif code in RATE_LIMITED:
        # In proportion to the time waited, so that old messages do not crowd out recent ones. At most until all had
        # their turn: after that PagerDuty would be idle.
        if event and has_priority(event) and URGENT_FOR <= waiting.waited < PRIORITY_FOR:
            shortest = min(PRIORITY_FRACTION * waiting.waited, MAX_PRIORITY_DELAY)
            seconds_to_drain = max(seconds_to_drain / PRIORITY_FACTOR, shortest)
        elif waiting.waited >= PRIORITY_FOR:  # Otherwise few messages would use up their receives within hours.
            seconds_to_drain = max(seconds_to_drain, MAX_OUTAGE_DELAY)
        seconds = max(min(waiting.waited / 2, seconds_to_drain), MIN_DELAY) * jitter
        last_try = URGENT_FOR - LAST_TRY - waiting.waited
        if event and is_urgent(event, waiting.waited) and last_try >= MIN_DELAY:
            seconds = min(seconds, last_try)
    elif code in _CONFIGURATION:
        seconds = CONFIGURATION_DELAY * jitter
    elif event and is_critical(event) and waiting.waited < PRIORITY_FOR:
        # A page is seconds late after an outage of a minute; in a longer one, failing calls leave budget for its end.
        seconds = min(max(PRIORITY_FRACTION * waiting.waited, MIN_CRITICAL_DELAY), MAX_CRITICAL_DELAY) * jitter
    else:
        seconds = min(MIN_DELAY * 2.0 ** min(waiting.receive_count - 1, 10), MAX_OUTAGE_DELAY) * jitter
    return min(round(seconds), MAX_DELAY)


def superseded_triggers(batch: Sequence[tuple[Event, float]]) -> set[int]:
    """Return the positions of the triggers that need not be posted; `batch` has each event with the time it has waited.

    PagerDuty keeps the title of an incident's first trigger, the highest severity, and the summary and details of the
    last trigger (https://support.pagerduty.com/main/docs/dynamic-notifications). So of consecutive triggers that waited
    together only these are posted: the first, each that is more severe than all before it, and the last.
    """
    superseded = set()
    for run in _runs(batch):
        highest = _rank(batch[run[0]][0])
        for number in run[1:-1]:
            rank = _rank(batch[number][0])
            if rank >= highest:
                superseded.add(number)
            highest = min(rank, highest)
    return superseded


def _runs(batch: Sequence[tuple[Event, float]]) -> list[list[int]]:
    """Return the runs of consecutive triggers of one incident that waited together, as positions in the batch."""
    runs: list[list[int]] = []
    current: dict[tuple[str, str | None], list[int]] = {}
    for number, (event, waited) in enumerate(batch):
        incident = (event.service, event.dedup_key)
        if event.action != "trigger" or waited <= MERGED_AFTER:
            current.pop(incident, None)
        elif incident in current:
            current[incident].append(number)
        else:
            current[incident] = [number]
            runs.append(current[incident])
    return runs


def _rank(event: Event) -> int:
    """Return the position of the event's severity, the most severe first; without one, the last."""
    payload = event.content.get("payload")
    severity = payload.get("severity") if isinstance(payload, dict) else None
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
