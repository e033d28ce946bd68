"""Flow control: decides whether an event is posted now or goes through the queue, by state that all instances share.

A DynamoDB item per PagerDuty service holds its lease, until when all of its events go through the queue, and the budget
of each routing key. An incident has an item for two minutes after a page was posted beyond the budget. This module
neither posts nor delays anything.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from botocore.exceptions import ClientError

import aws
import pacing
import telemetry
from deadline import MIN_CALL
from event import Event

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# The part of PagerDuty's calls a minute (https://developer.pagerduty.com/docs/rate-limits) that refills the budget
# evenly, and the part that it can save up. A quarter is left for urgent events.
REFILL: Final = 0.75
BURST: Final = 1 / 12
# Seconds for which a budget is closed after PagerDuty limited the rate or did not answer.
CLOSED: Final = 5.0
# Seconds that a lease lasts when written, and that it must last before an event is enqueued.
LEASE: Final = 3600.0
MIN_LEASE: Final = 3300.0
# Seconds for DynamoDB's answer, all attempts included, and seconds after a failure in which it is not called.
CALL_LIMIT: Final = 1.0
RETRY_AFTER: Final = 5.0
# Calls for one event, since other instances may change the item before each. None of 150 concurrent events needs four.
MAX_UPDATES: Final = 5
# Seconds in which another critical trigger of an incident is a repeat, and incidents that are remembered for that.
REPEATED: Final = 120.0
MAX_INCIDENTS: Final = 10_000

# Attributes. Neither is one of DynamoDB's reserved words.
_LEASE: Final = "lease"
_NUMBER: Final = "event_number"

# post: now. wait: the budget has no call left. queue: an earlier event of the service may be waiting. unknown: DynamoDB
# did not answer.
Admission = Literal["post", "wait", "queue", "unknown"]
# urgent: posted whatever the budget. page: a critical trigger after its first minute. answer: an acknowledge or a
# resolve. none: everything else, and repeats.
Priority = Literal["urgent", "page", "answer", "none"]
# Seconds by which the budget may be spent ahead. Urgent events are charged as far ahead as pages, so that others make
# room; further ahead, after an outage they would keep out those that have just ceased to be urgent.
_AHEAD: Final[dict[Priority, float]] = {"urgent": 0.0, "page": 10.0, "answer": 5.0, "none": 0.0}
# The attributes of an item. A service's only grow.
Item = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Update:
    """A conditional change of an item.

    Each attribute in `ranges` has to be above the first number (None: or missing) and at most the second. `add` is
    added to attributes, `set` replaces them.
    """

    ranges: Mapping[str, tuple[float | None, float]]
    add: Mapping[str, float]
    set: Mapping[str, float]

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of UpdateItem for the change."""
        values: dict[str, Any] = {}

        def value(number: float) -> str:
            values[placeholder := f":v{len(values)}"] = {"N": repr(number)}
            return placeholder

        conditions = []
        for attribute, (above, limit) in self.ranges.items():
            at_least = f"attribute_not_exists({attribute}) OR" if above is None else f"{attribute} > {value(above)} AND"
            conditions.append(f"({at_least} {attribute} <= {value(limit)})")
        changes = [f"{attribute} = {attribute} + {value(number)}" for attribute, number in self.add.items()]
        changes += [f"{attribute} = {value(number)}" for attribute, number in self.set.items()]
        return {
            "ConditionExpression": " AND ".join(conditions),
            "UpdateExpression": f"SET {', '.join(changes)}",
            "ExpressionAttributeValues": values,
        }


class Table:
    """The DynamoDB table; UpdateItem is the only call."""

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        self._client = client
        self._name = name

    def update(self, service: str, update: Update, deadline: float) -> tuple[bool, Item]:
        """Update the item if it is within the ranges; return whether it was, and the item as it is now.

        If the condition fails, DynamoDB returns the item at no extra cost. Raises AWS_ERRORS.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_UpdateItem.html
        """
        try:
            answer = aws.call_with_deadline(
                self._client.update_item,
                deadline,
                TableName=self._name,
                Key={"service": {"S": service}},
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **update.parameters(),
            )
        except ClientError as error:
            if aws.error_code(error) != "ConditionalCheckFailedException":
                raise
            old: Any = error.response
            return False, _numbers(old.get("Item", {}))
        return True, _numbers(answer["Attributes"])


@dataclass(frozen=True, slots=True)
class Budget:
    """The calls that a routing key may make: a token bucket, kept as the time until which it is spent.

    A call costs `cost` seconds, and at most `room` seconds more are saved up.
    https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
    """

    cost: float
    room: float

    @classmethod
    def for_rate(cls, calls_per_minute: float) -> Self:
        """Return the budget of a routing key that PagerDuty grants so many calls in any 60 seconds."""
        cost = 60 / (REFILL * calls_per_minute)
        # A millisecond for the rounding of sums.
        return cls(cost, (max(1.0, BURST * calls_per_minute) - 1) * cost + 0.001)

    def charge(self, attribute: str, spent_until: float | None, limit: float, now: float) -> Update | None:
        """Return the update that takes one call; None if the budget was last seen spent beyond `limit`."""
        idle = now - self.room  # Charged differently, since an UpdateExpression has no maximum.
        if spent_until is None or spent_until <= idle:
            return Update({attribute: (None, idle)}, {}, {attribute: idle + self.cost})
        if spent_until <= limit:
            return Update({attribute: (idle, limit)}, {attribute: self.cost}, {})
        return None


class Flow:
    """Admits events, extends leases, and remembers the items that it last saw.

    `clock` is the wall clock, which all instances share; deadlines are in seconds of the monotonic clock. If DynamoDB
    fails, that is logged and counted, and no method raises.
    """

    def __init__(self, table: Table, calls_per_minute: float, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._budget = Budget.for_rate(calls_per_minute)
        self._clock = clock
        # By service. Since its numbers only grow, "queue" and "wait" need no call.
        self._items: dict[str, Item] = {}
        self._failed_at = float("-inf")
        self._posted: dict[tuple[str, str | None], float] = {}

    def priority(self, event: Event, waited: float) -> Priority:
        """Return how far ahead the event may spend the budget.

        A critical trigger is urgent in its first minute, unless this instance posted one of the same incident within
        two minutes: a check that fires every second must not use up the calls that another page needs.
        """
        if not pacing.has_priority(event):
            return "none"
        if not pacing.is_urgent(event, waited):
            return "page" if event.action == "trigger" else "answer"
        posted_at = self._posted.get((event.service, event.dedup_key))
        is_repeat = posted_at is not None and 0 <= self._clock() - posted_at < REPEATED
        return "none" if is_repeat else "urgent"

    def note_posted(self, event: Event) -> None:
        """Remember a critical trigger that PagerDuty accepted; a resolve ends its incident."""
        incident = (event.service, event.dedup_key)
        if event.action == "resolve" or pacing.is_critical(event):
            self._posted.pop(incident, None)
        if pacing.is_critical(event):
            self._posted[incident] = self._clock()
            if len(self._posted) > MAX_INCIDENTS:
                del self._posted[next(iter(self._posted))]

    def admit(
        self, event: Event, routing_key: str, deadline: float, *, priority: Priority, is_direct: bool
    ) -> Admission:
        """Charge the routing key's budget for the event, and return whether it may be posted.

        Nothing is posted directly while the service's lease lasts. An urgent event is posted even if the budget is
        spent or closed, unless another instance posted a page of the same incident.
        """
        attribute = _attribute(routing_key)
        for _ in range(MAX_UPDATES):
            now = self._clock()
            known = self._items.get(event.service, {})
            if is_direct and known.get(_LEASE, 0.0) > now:
                return "queue"
            update = self._budget.charge(attribute, known.get(attribute), now + _AHEAD[priority], now)
            if update is None and priority == "urgent" and not self._is_claimed(event, deadline):
                limit = now + _AHEAD["page"] - self._budget.cost
                update = self._budget.charge(attribute, known.get(attribute), limit, now)
                # Nothing is charged beyond that; directly, the lease is still checked.
                update = update or Update({}, {attribute: 0.0}, {})
            if update is None:
                return "wait"
            if is_direct:
                update = replace(update, ranges={_LEASE: (None, now), **update.ranges})
            was_updated = self._update(event.service, update, deadline) if update.ranges else True
            if was_updated is not False:
                return "post" if was_updated else "unknown"
        return "post" if priority == "urgent" and not is_direct else "wait"

    def close(self, service: str, routing_key: str, deadline: float) -> None:
        """Close the budget of the routing key for five seconds, for all events without priority."""
        attribute, until = _attribute(routing_key), self._clock() + CLOSED
        if self._items.get(service, {}).get(attribute, 0.0) < until:
            self._update(service, Update({attribute: (None, until)}, {}, {attribute: until}), deadline)

    def extend_leases(self, services: Mapping[str, float], deadline: float) -> set[str]:
        """Extend the leases of services to an hour after the given times; return those that could not be written.

        A lease that lasts 55 minutes after its time is left alone, so that a storm costs one write in five minutes.
        """
        deadline = (deadline + time.monotonic()) / 2  # The rest is for the queue.
        failed = set()
        for service, until in services.items():
            lease = math.ceil(until + LEASE)
            update = Update({_LEASE: (None, lease)}, {}, {_LEASE: lease})
            has_lease = self._items.get(service, {}).get(_LEASE, 0.0) >= until + MIN_LEASE
            if not has_lease and self._update(service, update, deadline) is None:
                failed.add(service)
        return failed

    def _is_claimed(self, event: Event, deadline: float) -> bool:
        """Return whether another page of the incident was posted beyond the budget within two minutes.

        If not, claim the incident for this event: otherwise ten workers would post ten pages of it. The claim has the
        event's number, since the same event is tried again if PagerDuty limits the rate.
        """
        now, number = self._clock(), float(int(_hash(event.message_id or "")[:12], 16))
        incident = f"{event.service} {_hash(event.dedup_key or '')}"
        update = Update({_LEASE: (None, now)}, {}, {_LEASE: math.ceil(now + REPEATED), _NUMBER: number})
        was_updated = self._update(incident, update, deadline)
        return self._items.pop(incident, {}).get(_NUMBER) != number and was_updated is False

    def _update(self, service: str, update: Update, deadline: float) -> bool | None:
        """Update an item, remember it, and return whether it was within the ranges; None if DynamoDB did not answer."""
        if 0 <= self._clock() - self._failed_at < RETRY_AFTER or deadline - time.monotonic() < MIN_CALL:
            return None
        try:
            was_updated, item = self._table.update(service, update, min(deadline, time.monotonic() + CALL_LIMIT))
        except aws.AWS_ERRORS as error:
            self._failed_at = self._clock()
            telemetry.log_flow_control_error(aws.error_code(error))
            return None
        self._items[service] = item
        return was_updated


def _attribute(routing_key: str) -> str:
    """Return the attribute of a routing key's budget, which does not reveal the key."""
    return f"spent_{_hash(routing_key)[:32]}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _numbers(attributes: Mapping[str, Any]) -> Item:
    return {name: float(value["N"]) for name, value in attributes.items() if "N" in value}
