"""Entry point of the API: authenticate, read, map, deliver, answer. Each step has its own module; here they meet."""

import contextlib
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import boto3

import aws
import limits
import sqs
import telemetry
import webhook
from credentials import REREAD, Credentials
from delivery import Delivery, Direct, Job, Queued
from errors import Deferred, NotSentError, Rejected
from mapping import Rules, map_event
from pagerduty import Client, Receipt, RoutingKeyRefused
from settings import Settings, SettingsError
from webhook import Outcome, Request

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds from the handler's entry; RudderStack waits ten in all, cold start included.
DEADLINE: Final = 8.0
# Seconds kept for the answer when the function's own time limit is nearer than the deadline.
_TIME_TO_ANSWER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Ready:
    """An event that can be sent: the job, what PagerDuty will see of it, and what was repaired."""

    job: Job
    event: dict[str, Any]
    warnings: tuple[str, ...]


# An event that can be sent, or why it is not.
Prepared = Ready | NotSentError


@dataclass(frozen=True, slots=True)
class Service:
    """What lives as long as the process: the settings, the secrets, the connections, the memory of deliveries.

    `queue` is None in direct delivery.
    """

    rules: Rules
    credentials: Credentials
    pagerduty: Client
    direct: Direct
    queue: sqs.Queue | None = None


@functools.cache
def service() -> Service:
    """Build everything from the environment, once. Raises SettingsError when the environment makes no sense."""
    settings = Settings.from_environment(os.environ)
    queue = sqs.Queue(boto3.client("sqs", config=aws.CLIENT_CONFIG), settings.queue_url) if settings.queue_url else None
    return Service(
        Rules(settings.dedup_key_field, settings.default_severity, settings.default_source),
        Credentials(settings.parameter_prefix),
        Client(settings.pagerduty_url),
        Direct(),
        queue,
    )


def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one request of API Gateway, always: what happened to its events, in RudderStack's terms."""
    deadline = time.monotonic() + min(DEADLINE, context.get_remaining_time_in_millis() / 1000 - _TIME_TO_ANSWER)
    telemetry.begin(context.aws_request_id)
    request = None
    try:
        request = webhook.open_request(event)
        return _answer(request, event, deadline)
    except NotSentError as error:
        refused = error
    except SettingsError as error:
        telemetry.logger.error("The environment variables make no sense", extra={"problems": error.problems})
        refused = Deferred("settings_invalid", f"Settings of the function: {error}")
    except Exception as error:  # noqa: BLE001 -- a bug must be an answer that is retried, not a lost page
        refused = telemetry.bug(error)
    telemetry.log_request(refused, preview=request is not None and request.preview == "true")
    return webhook.refusal(refused)


def _answer(request: Request, event: dict[str, Any], deadline: float) -> dict[str, Any]:
    parts = service()
    _authenticate(request, parts)
    if request.service is None:
        raise Rejected("no_such_service", "path: a PagerDuty service's name has 1 to 64 of A-Z a-z 0-9 _ . -")
    preview = webhook.wants_preview(request)
    batch = webhook.read_events(event, is_track_route=request.is_track_route)
    prepared = [_prepare(item, parts.rules) for item in batch.events]
    outcomes = (
        [_previewed(item) for item in prepared] if preview else _deliver(prepared, request.service, parts, deadline)
    )
    for item, outcome in zip(prepared, outcomes, strict=True):
        telemetry.log_event(
            request.service,
            outcome.outcome,
            outcome.code,
            item.job if isinstance(item, Ready) else None,
            dedup_key=outcome.dedup_key,
            warnings=outcome.warnings,
            exchange=outcome.exchange,
            preview=preview,
        )
    return webhook.answer(outcomes, many=batch.many)


def _authenticate(request: Request, parts: Service) -> None:
    """Let nobody in without a secret; one that is unknown may be new, so the secrets are then read again."""
    # In queued delivery it is the worker that needs the routing key, and alone may read it.
    service = None if parts.queue else request.service
    if webhook.is_authorized(request.headers, parts.credentials.webhook_tokens(service)):
        return
    if webhook.is_authorized(request.headers, parts.credentials.webhook_tokens(service, max_age=REREAD)):
        return
    raise Rejected(
        "unauthorized",
        "Expected the secret of SSM parameter webhook-token as Authorization: Bearer, as Basic user or password, "
        "or as X-Api-Key",
    )


# -- map and deliver -------------------------------------------------------------------------------------------------


def _prepare(event: Any, rules: Rules) -> Prepared:
    """Map one event and fit it to PagerDuty's limits, or tell why it is not sent; no event disturbs its neighbours."""
    try:
        mapped = map_event(event, rules, datetime.now(UTC))
        fitted = limits.fit(mapped.event)
    except NotSentError as error:
        return error
    except Exception as error:  # noqa: BLE001 -- a bug must be an answer that is retried, not a lost page
        return telemetry.bug(error)
    job = Job(mapped.kind, fitted.body, mapped.dedup_key, mapped.message_id, mapped.action, mapped.occurred_at)
    return Ready(job, fitted.event, mapped.warnings + fitted.warnings)


def _deliver(prepared: Sequence[Prepared], service: str, parts: Service, deadline: float) -> list[Outcome]:
    jobs = [item.job for item in prepared if isinstance(item, Ready)]
    if parts.queue:
        deliveries = iter(parts.queue.deliver(service, jobs, deadline))
    else:
        again = any(isinstance(item, Deferred) for item in prepared)
        deliveries = iter(_deliver_directly(parts, service, jobs, deadline, again=again))
    return [_delivered(item, next(deliveries)) if isinstance(item, Ready) else Outcome.of(item) for item in prepared]


def _deliver_directly(
    parts: Service, service: str, jobs: Sequence[Job], deadline: float, *, again: bool
) -> Sequence[Delivery]:
    """Post the jobs to the PagerDuty service of that name; return what became of each."""
    if not jobs:
        return []
    try:
        routing_key = parts.credentials.routing_key(service)
    except Deferred as error:
        return [error] * len(jobs)

    def send(job: Job) -> Receipt:
        try:
            return parts.pagerduty.send(job.kind, job.body, routing_key, deadline)
        except RoutingKeyRefused:
            parts.credentials.distrust_routing_key(service)
            raise
        except NotSentError:
            raise
        except Exception as error:  # noqa: BLE001 -- a bug must be an answer that is retried, not a lost page
            raise telemetry.bug(error) from None

    return parts.direct.deliver(service, jobs, send, again=again)


# -- outcomes --------------------------------------------------------------------------------------------------------


def _delivered(ready: Ready, delivery: Delivery) -> Outcome:
    job = ready.job
    if isinstance(delivery, NotSentError):
        return Outcome.of(delivery, job.dedup_key, ready.warnings)
    if delivery is None:
        message = f"PagerDuty took the {_noun(job)} when the batch was first sent"
        return Outcome("delivered", "already_delivered", message, 200, job.dedup_key, ready.warnings)
    if isinstance(delivery, Queued):
        message = f"The queue took the {_noun(job)}, and delivers it to PagerDuty"
        return Outcome("queued", "queued", message, 200, job.dedup_key, ready.warnings)
    message = f"PagerDuty took the {_noun(job)}"
    dedup_key = job.dedup_key or delivery.dedup_key
    return Outcome("delivered", "delivered", message, 200, dedup_key, ready.warnings, exchange=delivery.exchange)


def _previewed(item: Prepared) -> Outcome:
    if isinstance(item, NotSentError):
        return Outcome.of(item)
    message = f"This {_noun(item.job)} would be sent; nothing was"
    return Outcome("preview", "preview", message, 200, item.job.dedup_key, item.warnings, item.event)


def _noun(job: Job) -> str:
    return "change event" if job.kind == "change" else f"alert event ({job.action})"


# Built while Lambda initialises the process, which is when a cold start has most of the CPU. Reads no secret yet.
# Settings that make no sense are answered, and logged, with every request.
with contextlib.suppress(SettingsError):
    service()
