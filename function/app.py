"""Entry point of the API function: authenticate, read, map, deliver, answer. Each step has a module of its own."""

import contextlib
import gc
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import dependencies
import telemetry
import webhook
from delivery import choose_routing_key, deliver, post
from dependencies import Dependencies
from event import Event
from limits import ValueLimit, fit_to_limits
from mapping import Context, map_event
from outcome import Code, Outcome, ProcessingError
from settings import Rules, SettingsError
from webhook import Request

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds from the handler's entry; RudderStack waits ten in all, cold start included.
DEADLINE: Final = 8.0
# Seconds for a direct call to PagerDuty, and at most half of what is left: the rest is for the queue.
DIRECT_LIMIT: Final = 3.0
# PagerDuty services that the events of one request may name, besides the URL's: SSM reads ten in a call.
MAX_SERVICES: Final = 100
# Seconds kept for the answer if the function's own time limit is nearer than the deadline.
_TIME_TO_ANSWER: Final = 0.5
# A single event with one of these codes is enqueued. Failures of our configuration are answered instead, so that
# RudderStack shows them.
_TO_BE_QUEUED: Final[frozenset[Code]] = frozenset({
    "pagerduty_rate_limited", "pagerduty_unavailable", "pagerduty_unreachable", "pagerduty_timeout",
    "pagerduty_unexpected", "deadline_exceeded",
    "rate_limit_delay", "earlier_events_queued", "flow_control_unavailable",
})  # fmt: skip


def handle(event: dict[str, Any], context: "LambdaContext", deps: Dependencies | SettingsError) -> dict[str, Any]:
    """Handle one API Gateway request. Never raises: every failure becomes a status that RudderStack understands."""
    deadline = time.monotonic() + min(DEADLINE, context.get_remaining_time_in_millis() / 1000 - _TIME_TO_ANSWER)
    telemetry.set_request_id(context.aws_request_id)
    request = None
    try:
        request = webhook.open_request(event)
        if isinstance(deps, Dependencies):
            with _gc_disabled():
                return _answer(request, event, deps, deadline)
        outcome = Outcome("settings_invalid", f"Settings of the function: {deps}")
    except ProcessingError as error:
        outcome = error.outcome
    except Exception as error:  # noqa: BLE001 -- a bug is answered, so that RudderStack sends the event again
        outcome = telemetry.log_exception(error)
    telemetry.log_request(outcome, is_preview=request is not None and request.is_preview)
    return webhook.refusal(outcome)


def _answer(request: Request, gateway_event: dict[str, Any], deps: Dependencies, deadline: float) -> dict[str, Any]:
    # 1 authenticate
    _authenticate(request, deps, deadline)
    if request.service is None:
        raise ProcessingError("no_such_service", "path: a PagerDuty service's name has 1 to 64 of A-Z a-z 0-9 _ . -")
    is_preview = webhook.wants_preview(request)
    # 2 read
    raw_events, is_batch = webhook.read_events(gateway_event, is_track_route=request.is_track_route)
    # 3 map
    mapped = _map(raw_events, request, request.service, deps.settings.rules)
    del raw_events
    mapped = _with_known_services(mapped, request.service, deps, deadline)
    events = [item for item in mapped if isinstance(item, Event)]
    # 4 deliver
    if is_preview:
        delivered = [_preview(event) for event in events]
    elif is_batch:
        delivered = _enqueue_batch(events, deps, deadline)
    else:
        delivered = [_deliver(event, deps, deadline) for event in events]
    # 5 answer
    answers = iter(delivered)
    outcomes = [item if isinstance(item, Outcome) else next(answers).for_event(item) for item in mapped]
    if is_batch:
        outcomes = webhook.settle_batch(outcomes)
    telemetry.log_events(outcomes, mapped, request.service, deps.credentials.has_routing_key, is_preview=is_preview)
    return webhook.answer(outcomes, is_batch=is_batch)


@contextlib.contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable the garbage collector: with a hostile body's million objects it would dominate the run time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _authenticate(request: Request, deps: Dependencies, deadline: float) -> None:
    """Raise ProcessingError unless the caller has a token. An unknown one may be new, so the tokens are read again."""
    if webhook.is_authorized(request.headers, deps.credentials.webhook_secrets(deadline, request.service)):
        return
    if webhook.is_authorized(request.headers, deps.credentials.refresh_webhook_secrets(deadline)):
        return
    expected = "Expected the token as Authorization: Bearer, as Basic user or password, or as X-Api-Key"
    raise ProcessingError("unauthorized", expected)


def _map(raw_events: list[Any], request: Request, service: str, rules: Rules) -> list[Event | Outcome]:
    """Return for each event the PagerDuty event, fitted to the limits, or why there is none."""
    value_limit = ValueLimit()
    mapped: list[Event | Outcome] = []
    for raw in raw_events:
        value_limit.begin_event()
        context = Context(service, datetime.now(UTC), str(uuid.uuid4()), request.is_filtered, request.is_preview)
        try:
            item = map_event(raw, rules, context, value_limit)
            mapped.append(fit_to_limits(item) if isinstance(item, Event) else item)
        except Exception as error:  # noqa: BLE001 -- a bug in one event must not affect the others
            message_id = raw["messageId"] if isinstance(raw, dict) and isinstance(raw.get("messageId"), str) else None
            mapped.append(replace(telemetry.log_exception(error), message_id=message_id))
    return mapped


def _with_known_services(
    mapped: list[Event | Outcome], fallback: str, deps: Dependencies, deadline: float
) -> list[Event | Outcome]:
    """Return the events; those for a PagerDuty service without a routing key go to the URL's service instead."""
    named = list(dict.fromkeys(item.service for item in mapped if isinstance(item, Event) and item.service != fallback))
    if not named:
        return mapped
    reasons = dict.fromkeys(named[MAX_SERVICES:], f"one of more than {MAX_SERVICES} in one request")
    for service in deps.credentials.services_without_key(named[:MAX_SERVICES], deadline):
        reasons[service] = "not set up here"
    field = ".".join(deps.settings.rules.service_field)

    def with_known_service(item: Event | Outcome) -> Event | Outcome:
        if isinstance(item, Outcome) or item.service not in reasons:
            return item
        warning = f"{field}: PagerDuty service {item.service} is {reasons[item.service]}; sent to {fallback}"
        return replace(item, service=fallback, warnings=(*item.warnings, warning))

    return [with_known_service(item) for item in mapped]


def _preview(event: Event) -> Outcome:
    message = f"Would send this {event.description} to PagerDuty service {event.service}. Nothing was sent."
    return Outcome("preview", message, content=event.content)


def _deliver(event: Event, deps: Dependencies, deadline: float) -> Outcome:
    """Post one event at once, or enqueue it if flow control does not admit it or PagerDuty does not accept it now."""
    limit = min(DIRECT_LIMIT, (deadline - time.monotonic()) / 2)
    outcome = deliver(event, deps, deadline, limit=limit)
    if outcome.code not in _TO_BE_QUEUED:
        return outcome
    # If the queue fails and PagerDuty was not asked, a page out of order is better than no page. That takes time too.
    has_fallback = outcome.is_urgent and not outcome.call
    kept = min(limit, (deadline - time.monotonic()) / 2) if has_fallback else 0.0
    [queued] = _enqueue([event], deps, deadline - kept, reason=outcome)
    if queued.status == "queued" or not has_fallback:
        return queued
    routing_key = choose_routing_key(deps.credentials.routing_keys(event.service, deadline), event)
    return replace(post(event, routing_key, deps, deadline, limit=limit), reason=queued.code, is_urgent=True)


def _enqueue_batch(events: Sequence[Event], deps: Dependencies, deadline: float) -> list[Outcome]:
    """Enqueue the events of one request, unless none of their PagerDuty services has a routing key.

    If only some have none, their events wait in the queue too: a failure would make RudderStack repeat the batch.
    """
    without_key: dict[str, Outcome] = {}
    services = dict.fromkeys(event.service for event in events)
    for service in services:
        try:
            deps.credentials.routing_keys(service, deadline)
        except ProcessingError as error:
            without_key[service] = error.outcome
    if len(without_key) == len(services):
        return [without_key[event.service] for event in events]
    return _enqueue(events, deps, deadline)


def _enqueue(
    events: Sequence[Event], deps: Dependencies, deadline: float, reason: Outcome | None = None
) -> list[Outcome]:
    """Enqueue events, after their services' leases; `reason` is why they are not posted at once, None in a batch."""
    now = time.time()
    without_lease = deps.flow.extend_leases({event.service: now for event in events}, deadline)
    for event in events:
        if event.service in without_lease:
            telemetry.log_without_lease(event)
    return [
        replace(
            outcome,
            message=f"{outcome.message}. Not at once: {reason.message}" if reason else outcome.message,
            call=reason.call if reason else None,
            reason=reason.code if reason else "several_events",
            is_urgent=deps.flow.priority(event, 0.0) == "urgent",
            without_lease=event.service in without_lease,
        )
        for event, outcome in zip(events, deps.queue.enqueue(events, deadline), strict=True)
    ]


_deps = dependencies.load()


def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Handle one request with the dependencies of this process, made while Lambda initialises it."""
    return handle(event, context, _deps)
