"""Entry point of the API: authenticate, read, map, deliver, answer. Each step has its own module; here they meet."""

import contextlib
import gc
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import telemetry
import webhook
from delivery import deliver
from event import Event
from limits import fit_to_limits as fit
from mapping import map_event
from outcome import NotSentError, Outcome
from parts import Parts, parts
from settings import Rules, SettingsError
from webhook import Request

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds from the handler's entry; RudderStack waits ten in all, cold start included.
DEADLINE: Final = 8.0
# PagerDuty services that the events of one request may name, besides the URL's: SSM tells of ten in a call.
MAX_SERVICES: Final = 100
# Seconds kept for the answer when the function's own time limit is nearer than the deadline.
_TIME_TO_ANSWER: Final = 0.5


def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one request of API Gateway, always: what happened to its events, in RudderStack's terms."""
    deadline = time.monotonic() + min(DEADLINE, context.get_remaining_time_in_millis() / 1000 - _TIME_TO_ANSWER)
    telemetry.begin(context.aws_request_id)
    request = None
    try:
        request = webhook.open_request(event)
        return _answer(request, event, parts(), deadline)
    except NotSentError as error:
        outcome = error.outcome
    except SettingsError as error:
        outcome = Outcome("settings_invalid", f"Settings of the function: {error}")
    except Exception as error:  # noqa: BLE001 -- our mistake has to be answered so that the event is sent again
        outcome = telemetry.unexpected(error)
    telemetry.log_request(outcome, is_preview=request is not None and request.preview == "true")
    return webhook.refusal(outcome)


def _answer(request: Request, gateway_event: dict[str, Any], has: Parts, deadline: float) -> dict[str, Any]:
    # 1 authenticate
    _authenticate(request, has, deadline)
    if request.service is None:
        raise NotSentError("no_such_service", "path: a PagerDuty service's name has 1 to 64 of A-Z a-z 0-9 _ . -")
    is_preview = webhook.wants_preview(request)
    with _no_search_for_garbage():
        # 2 read
        raw_events, are_many = webhook.read_events(gateway_event, is_track_route=request.is_track_route)
        # 3 map
        mapped = [_map(raw, request.service, has.settings.rules) for raw in raw_events]
    mapped = _with_known_services(mapped, request.service, has, deadline)
    events = [item for item in mapped if isinstance(item, Event)]
    # 4 deliver
    if is_preview:
        delivered = [_preview(event) for event in events]
    elif are_many or has.settings.delivery_mode == "queued":
        delivered = _enqueue(events, has, deadline)
    else:
        delivered = [deliver(event, has.credentials, has.pagerduty, deadline) for event in events]
    # 5 answer
    answers = iter(delivered)
    outcomes = [item if isinstance(item, Outcome) else next(answers).about(item) for item in mapped]
    telemetry.log_events(outcomes, mapped, request.service, has.credentials.knows, is_preview=is_preview)
    return webhook.answer(outcomes, are_many=are_many)


@contextlib.contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Keep Python from looking for garbage: among the million objects of a hostile body it looks most of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _authenticate(request: Request, has: Parts, deadline: float) -> None:
    """Let nobody in without a secret; one that is unknown may be new, so the secrets are then read again."""
    if webhook.is_authorized(request.headers, has.credentials.webhook_secrets(deadline, request.service)):
        return
    if webhook.is_authorized(request.headers, has.credentials.latest_webhook_secrets(deadline)):
        return
    raise NotSentError(
        "unauthorized",
        "Expected the shared secret as Authorization: Bearer, as Basic user or password, or as X-Api-Key",
    )


def _map(raw: object, service: str, rules: Rules) -> Event | Outcome:
    """Map one event and fit it to PagerDuty's limits, or tell why it is not sent; no event disturbs its neighbours."""
    try:
        mapped = map_event(raw, service, rules, datetime.now(UTC), fallback_key=str(uuid.uuid4()))
        return fit(mapped) if isinstance(mapped, Event) else mapped
    except Exception as error:  # noqa: BLE001 -- our mistake has to be answered so that the event is sent again
        return telemetry.unexpected(error)


def _with_known_services(
    mapped: list[Event | Outcome], instead: str, has: Parts, deadline: float
) -> list[Event | Outcome]:
    """Let events that name a PagerDuty service without a routing key go to the URL's: somebody has to be paged."""
    named = dict.fromkeys(item.service for item in mapped if isinstance(item, Event) and item.service != instead)
    if not named:
        return mapped
    services = list(named)
    reasons = dict.fromkeys(services[MAX_SERVICES:], f"one of more than {MAX_SERVICES} in one request")
    for service in has.credentials.without_routing_keys(services[:MAX_SERVICES], deadline):
        reasons[service] = "not set up here"
    field = ".".join(has.settings.rules.service_field)
    return [
        replace(
            item,
            service=instead,
            warnings=(
                *item.warnings,
                f"{field}: PagerDuty service {item.service} is {reasons[item.service]}; sent to {instead}",
            ),
        )
        if isinstance(item, Event) and item.service in reasons
        else item
        for item in mapped
    ]


def _preview(event: Event) -> Outcome:
    message = f"This {event.noun} would be sent to PagerDuty service {event.service}; nothing was"
    return Outcome("preview", message, content=event.content)


def _enqueue(events: Sequence[Event], has: Parts, deadline: float) -> list[Outcome]:
    """Put events into the queue, unless their PagerDuty service has no routing key: nobody would see them wait.

    Each service is asked for once, so that of an incident's events none is left behind by its successor.
    """
    refused: dict[str, Outcome] = {}
    for service in dict.fromkeys(event.service for event in events):
        try:
            has.credentials.routing_keys(service, deadline)
        except NotSentError as error:
            refused[service] = error.outcome
    enqueued = iter(has.queue.enqueue([event for event in events if event.service not in refused], deadline))
    return [refused.get(event.service) or next(enqueued) for event in events]


# Made while Lambda initialises the process, which is when a cold start has most of the processor.
# Settings that make no sense are answered, and logged, with every request.
with contextlib.suppress(SettingsError):
    parts()
