"""Flow control: whether an event is posted at once or goes through the queue, decided by what all instances share.

One DynamoDB item per PagerDuty service holds its lease, until when all of its events go through the queue, and the
budget of each routing key. An incident has an item of its own for two minutes after a page of it was posted beyond the
budget. Nothing here knows how an event is posted, or how long a delayed one waits.
"""

import hashlib
import math
import time
from collections import OrderedDict
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

# Of what PagerDuty grants a routing key (https://developer.pagerduty.com/docs/rate-limits), the part that is used up
# evenly, and the part that is saved up. A quarter is left for urgent events.
REFILL: Final = 0.75
BURST: Final = 1 / 12
# Seconds for which a budget is closed after PagerDuty limited the rate, or did not answer.
CLOSED: Final = 5.0
# Seconds that a lease lasts when it is written, and that it has to last at least before an event is enqueued.
LEASE: Final = 3600.0
MIN_LEASE: Final = 3300.0
# Seconds for DynamoDB's answer, all attempts included; and seconds after a failure in which it is not asked.
CALL_LIMIT: Final = 1.0
RETRY_AFTER: Final = 5.0
# Calls for one event: each tells what other instances changed just before. Of 150 at the same moment none needs four.
MAX_UPDATES: Final = 5
# Seconds for which a critical trigger that was posted makes the next one of its incident a repeat.
REPEATED: Final = 120.0
# Incidents that an instance remembers for that.
MAX_INCIDENTS: Final = 10_000

_LEASE: Final = "lease"
_NUMBER: Final = "number"

# post: now. wait: the budget has no call left. queue: an earlier event of the service may be waiting. unknown: DynamoDB
# did not answer.
Admission = Literal["post", "wait", "queue", "unknown"]
# urgent: posted whatever the budget. page: a critical trigger after its first minute. answer: somebody's acknowledge or
# resolve. none: everything else, and repeats.
Priority = Literal["urgent", "page", "answer", "none"]
# Seconds by which the budget may be spent ahead: an incident that nobody seems to have acknowledged escalates. Urgent
# events are charged as far ahead as pages, so that the others make room; were it further, after an outage they would
# keep out those that have just ceased to be urgent.
_AHEAD: Final[dict[Priority, float]] = {"urgent": 0.0, "page": 10.0, "answer": 5.0, "none": 0.0}
# The attributes of an item. Those of a service only grow.
Item = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Update:
    """One conditional change of a service's item.

    Each attribute in `ranges` has to be above the first number (None: it may be missing) and at most the second.
    `add` is added to attributes, `set` replaces them.
    """

    ranges: Mapping[str, tuple[float | None, float]]
    add: Mapping[str, float]
    set: Mapping[str, float]


class Table:
    """The DynamoDB table, of which UpdateItem is the only call."""

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        self._client = client
        self._name = name

    def update(self, service: str, update: Update, deadline: float) -> tuple[bool, Item]:
        """Apply the update if the item is within its ranges; return whether it was, and the item as it is now.

        A condition that fails returns the item at no extra cost. Raises AWS_ERRORS.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_UpdateItem.html
        """
        names: dict[str, str] = {}
        values: dict[str, Any] = {}

        def name(attribute: str) -> str:
            return names.setdefault(attribute, f"#n{len(names)}")

        def value(number: float) -> str:
            values[placeholder := f":v{len(values)}"] = {"N": repr(number)}
            return placeholder

        conditions = []
        for attribute, (above, limit) in update.ranges.items():
            at_most = f"{name(attribute)} <= {value(limit)}"
            if above is None:
                conditions.append(f"(attribute_not_exists({name(attribute)}) OR {at_most})")
            else:
                conditions.append(f"{name(attribute)} > {value(above)} AND {at_most}")
        changes = [f"{name(each)} = {name(each)} + {value(number)}" for each, number in update.add.items()]
        changes += [f"{name(each)} = {value(number)}" for each, number in update.set.items()]
        try:
            answer = aws.call_with_deadline(
                self._client.update_item,
                deadline,
                TableName=self._name,
                Key={"service": {"S": service}},
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeNames={placeholder: each for each, placeholder in names.items()},
                ExpressionAttributeValues=values,
                UpdateExpression=f"SET {', '.join(changes)}",
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if aws.error_code(error) != "ConditionalCheckFailedException":
                raise
            old: Any = error.response
            return False, _numbers(old.get("Item", {}))
        return True, _numbers(answer["Attributes"])


@dataclass(frozen=True, slots=True)
class Budget:
    """The calls that a routing key may make: a token bucket, of which one number is kept, the time until it is spent.

    A call takes `cost` seconds of it, and at most `room` seconds more than that are saved up.
    https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
    """

    cost: float
    room: float

    @classmethod
    def for_rate(cls, calls_per_minute: float) -> Self:
        """Return the budget of a routing key that PagerDuty grants so many calls in any 60 seconds."""
        cost = 60 / (REFILL * calls_per_minute)
        # A millisecond more than the calls need, since sums of floats are rounded.
        return cls(cost, (max(1.0, BURST * calls_per_minute) - 1) * cost + 0.001)

    def charge(self, attribute: str, spent_until: float | None, limit: float, now: float) -> Update | None:
        """Return the update that takes one call, given what was last seen; None if it is spent for longer than `limit`.

        An UpdateExpression knows no maximum, so a budget that was idle and one in use are charged differently.
        """
        idle = now - self.room
        if spent_until is None or spent_until <= idle:
            return Update({attribute: (None, idle)}, {}, {attribute: idle + self.cost})
        if spent_until <= limit:
            return Update({attribute: (idle, limit)}, {attribute: self.cost}, {})
        return None


class Flow:
    """Admits events, keeps leases, and remembers what this instance last saw of either.

    `clock` is the wall clock, which all instances share; deadlines are in seconds of the monotonic clock. No method
    raises when DynamoDB fails: that is logged, counted and answered.
    """

    def __init__(self, table: Table, calls_per_minute: float, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._budget = Budget.for_rate(calls_per_minute)
        self._clock = clock
        # By service, as DynamoDB last answered. Since its numbers only grow, "queue" and "wait" need no call.
        self._items: dict[str, Item] = {}
        self._failed_at = float("-inf")
        self._posted: OrderedDict[tuple[str, str | None], float] = OrderedDict()

    def priority(self, event: Event, waited: float) -> Priority:
        """Return how far the event may spend the budget.

        A critical trigger is urgent in its first minute, unless this instance has posted one of the same incident
        within two minutes: a check that fires every second must not use up what another page needs.
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
        if event.action == "resolve":
            self._posted.pop(incident, None)
        elif pacing.is_critical(event):
            self._posted[incident] = self._clock()
            self._posted.move_to_end(incident)
            if len(self._posted) > MAX_INCIDENTS:
                self._posted.popitem(last=False)

    def admit(
        self, event: Event, routing_key: str, deadline: float, *, priority: Priority, is_direct: bool
    ) -> Admission:
        """Take a call of the routing key's budget for the event; return whether it may be posted.

        Directly, nothing is posted while the service's lease lasts. What is urgent is charged, and posted also if the
        budget is spent or closed, unless another instance has posted a page of the same incident.
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
                # Charged as far ahead as may be, a page costs no more; directly, the lease still has to be looked at.
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
        """Let nothing be posted with the routing key for five seconds but what has priority."""
        attribute, until = _attribute(routing_key), self._clock() + CLOSED
        if self._items.get(service, {}).get(attribute, 0.0) < until:
            self._update(service, Update({attribute: (None, until)}, {}, {attribute: until}), deadline)

    def extend_leases(self, services: Mapping[str, float], deadline: float) -> set[str]:
        """Send the events of services through the queue until an hour after the times given.

        A lease that lasts for 55 minutes after them is left as it is, so that a storm costs a write in five minutes.
        Returns the services for which it could not be written.
        """
        deadline = min(deadline, time.monotonic() + CALL_LIMIT)
        failed = set()
        for service, until in services.items():
            lease = math.ceil(until + LEASE)
            update = Update({_LEASE: (None, lease)}, {}, {_LEASE: lease})
            has_lease = self._items.get(service, {}).get(_LEASE, 0.0) >= until + MIN_LEASE
            if not has_lease and self._update(service, update, deadline) is None:
                failed.add(service)
        return failed

    def _is_claimed(self, event: Event, deadline: float) -> bool:
        """Return whether another page of the incident was posted beyond the budget within two minutes; if not, this is.

        Ten workers would otherwise post ten of each. The incident's item has the number of the event that was posted,
        since the same one is tried again if PagerDuty limits the rate.
        """
        now, number = self._clock(), float(int(_hash(event.message_id or "")[:12], 16))
        incident = f"{event.service} {_hash(event.dedup_key or '')}"
        update = Update({_LEASE: (None, now)}, {}, {_LEASE: math.ceil(now + REPEATED), _NUMBER: number})
        was_updated = self._update(incident, update, deadline)
        return self._items.pop(incident, {}).get(_NUMBER) != number and was_updated is False

    def _update(self, service: str, update: Update, deadline: float) -> bool | None:
        """Update a service's item, remember it, and return whether it was within the ranges.

        None if DynamoDB did not answer, or was not asked since it just failed or no time was left.
        """
        has_just_failed = 0 <= self._clock() - self._failed_at < RETRY_AFTER
        if has_just_failed or deadline - time.monotonic() < MIN_CALL:
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
    """Return the name of the budget of a routing key, which does not reveal it."""
    return f"spent_{_hash(routing_key)[:32]}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _numbers(attributes: Mapping[str, Any]) -> Item:
    return {name: float(value["N"]) for name, value in attributes.items() if "N" in value}
