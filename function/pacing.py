"""How long an event that was put off waits, who goes first, and which events need not go at all.

PagerDuty takes about 120 calls in any minute and routing key (https://developer.pagerduty.com/docs/rate-limits). In a
storm of thousands of events the page that matters must not wait behind the others. What decides is how an event that
was put off spends its time, and for that the message itself tells enough: nothing is stored, nothing is shared.

Pure: time, randomness and state are passed in. Times are seconds; `waited` is the time since SQS took the message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from event import SEVERITIES, Event

# Seconds for which a critical trigger is urgent: its first minute, and a moment of PagerDuty's next. A storm that is
# critical throughout would otherwise do nothing but call in vain.
URGENT_FOR: Final = 62.0
# Seconds before the end of that time in which the last try is made at the latest.
LAST_TRY: Final = 1.0
# Seconds from which repeated triggers are merged: until then, each is news.
MERGED_AFTER: Final = 60.0

# Calls a minute and routing key on which the waiting is reckoned: what PagerDuty takes.
CALLS_A_MINUTE: Final = 120.0
SHORTEST_SHARE: Final = 20.0
LONGEST_SHARE: Final = 11 * 3600.0

SHORTEST_PAUSE: Final = 4.0
# Between which bounds a pause is stretched by chance, so that what was put off together does not come back together.
JITTER: Final = (0.75, 1.25)
# Seconds at most until the end of an outage is noticed: 1,000 receives, the most that SQS counts, then last for a day.
LONGEST_PAUSE_OF_AN_OUTAGE: Final = 120.0
# Seconds until a routing key that somebody has mended is used; SSM's values are cached for longer.
PAUSE_FOR_SETTINGS: Final = 120.0
# A message can be invisible for 12 hours from when it was received, here less what the worker has used up of them:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
LONGEST_PAUSE: Final = 12 * 3600 - 120

SHORTEST_GAP: Final = 1.0
LONGEST_GAP: Final = 60.0
# Seconds after the end of a gap, when what was learned is of a storm that is over.
FORGOTTEN_AFTER: Final = 300.0

# PagerDuty takes it later, or was not asked, since it would have been in vain.
RATE_LIMITED: Final = frozenset({"pagerduty_rate_limited", "not_its_turn"})
_SETTINGS: Final = frozenset({"routing_key_missing", "routing_key_refused"})


@dataclass(frozen=True, slots=True)
class Pace:
    """What a process has learned of a routing key: the gap between two calls, and when the next may be made."""

    gap: float = 0.0
    next_at: float = 0.0


def is_urgent(event: Event, waited: float) -> bool:
    """Tell whether the event is a critical trigger that has not waited for long: it goes ahead of everything else."""
    return event.action == "trigger" and _rank(event) == 0 and waited < URGENT_FOR


def may_go(event: Event, waited: float, pace: Pace, now: float) -> bool:
    """Tell whether PagerDuty is called for the event now.

    What is urgent always goes. Everything else waits for the gap that this process has learned, and so leaves room for
    what is urgent.
    """
    return is_urgent(event, waited) or now >= pace.next_at


def learn(pace: Pace, code: str, now: float) -> Pace:
    """Learn from the outcome of a call, as TCP learns its window.

    A 429 doubles the gap, a success shortens it. So in calm weather nothing waits, and in a storm the processes
    together find the rate that PagerDuty takes, without knowing of each other.
    """
    gap = pace.gap if now < pace.next_at + FORGOTTEN_AFTER else 0.0
    if code == "pagerduty_rate_limited":
        gap = min(max(2 * gap, SHORTEST_GAP), LONGEST_GAP)
    elif code == "delivered":
        gap = max(0.75 * gap - 0.02, 0.0)
    else:
        return pace
    return Pace(gap, now + gap)


def share(in_flight: int, keys: int) -> float:
    """Tell how long it takes until each of the messages in flight had its turn, over so many routing keys.

    They were received and not deleted, so nearly all of them were put off. What nobody has received yet does not count:
    of the thousand messages of one incident ten come back together, and the others wait behind them.
    """
    return min(max(60 * in_flight / (CALLS_A_MINUTE * keys), SHORTEST_SHARE), LONGEST_SHARE)


def pause(code: str, *, receives: int, waited: float, share: float, urgent: bool, jitter: float) -> int:  # noqa: PLR0913 -- all that the pause depends on
    """Tell for how many seconds a message stays invisible that was put off with this code.

    `receives` counts this receive too, `urgent` is what `is_urgent` says, and `jitter` is drawn from JITTER.
    """
    if code == "out_of_time":
        seconds = 0.0  # Nothing is wrong but that this invocation is over.
    elif code in RATE_LIMITED:
        # In proportion to what it has waited: the young ones are tried often, and the old ones do not crowd them out.
        # Longer than until all had their turn would leave PagerDuty idle.
        seconds = max(min(waited / 2, share), SHORTEST_PAUSE) * jitter
        # Without a try in PagerDuty's next minute, what is urgent would end up among all the others.
        last_try = URGENT_FOR - LAST_TRY - waited
        if urgent and last_try >= SHORTEST_PAUSE:
            seconds = min(seconds, last_try)
    elif code in _SETTINGS:
        seconds = PAUSE_FOR_SETTINGS * jitter
    else:
        # A blip of ten seconds makes a page late by seconds, and an outage of a day does not use the receives up.
        seconds = min(SHORTEST_PAUSE * 2.0 ** min(receives - 1, 10), LONGEST_PAUSE_OF_AN_OUTAGE) * jitter
    return min(round(seconds), LONGEST_PAUSE)


def merged(batch: Sequence[tuple[Event, float]]) -> set[int]:
    """Find the triggers of a batch, given in order with the time that each has waited, that need not be posted.

    PagerDuty keeps the title that the first trigger of an incident gave, the highest severity of all, and the summary
    and details of the last (https://support.pagerduty.com/main/docs/dynamic-notifications). So of consecutive triggers
    that waited together, these leave the same incident as all of them: the first, each that is more severe than all
    before it, and the last. A resolve, an acknowledge and a trigger that is still news are never left out, and end the
    run.
    """
    superfluous = set()
    for run in _runs(batch):
        highest = _rank(batch[run[0]][0])
        for number in run[1:-1]:
            rank = _rank(batch[number][0])
            if rank >= highest:
                superfluous.add(number)
            highest = min(rank, highest)
    return superfluous


def _runs(batch: Sequence[tuple[Event, float]]) -> list[list[int]]:
    """Find the runs of consecutive triggers of one incident that waited together, each as its places in the batch."""
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
    """Return the place of the event's severity, the most severe first; a message that nobody of ours wrote has none."""
    payload = event.content.get("payload")
    severity = payload.get("severity") if isinstance(payload, dict) else None
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
