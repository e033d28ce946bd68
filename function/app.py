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
from limits import Fitted
from mapping import Mapped, Rules, map_event
from pagerduty import Client, Receipt, RoutingKeyRefused
from settings import Settings, SettingsError
from webhook import Outcome, Request

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Seconds from the handler's entry; RudderStack waits ten in all, cold start included.
DEADLINE: Final = 8.0
# Seconds kept for the answer when the function's own time limit is nearer than the deadline.
_TIME_TO_ANSWER: Final = 0.5

# An event that can be sent, mapped and fitted, or why it is not.
Prepared = tuple[Mapped, Fitted] | NotSentError


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
    telemetry.logger.append_keys(request_id=context.aws_request_id)
    try:
        return _answer(event, deadline)
    except NotSentError as error:
        telemetry.log_request(error)
        return webhook.refusal(error)
    except SettingsError as error:
        telemetry.logger.error("The environment variables make no sense", extra={"problems": error.problems})
        return webhook.refusal(Deferred("settings_invalid", f"Settings of the function: {error}"))
    except Exception as error:  # noqa: BLE001 -- a bug must be an answer that is retried, not a lost page
        return webhook.refusal(telemetry.bug(error))


def _answer(event: dict[str, Any], deadline: float) -> dict[str, Any]:
    parts = service()
    request = webhook.open_request(event)
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
        _log(request.service, item, outcome)
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
        return mapped, limits.fit(mapped.event)
    except NotSentError as error:
        return error
    except Exception as error:  # noqa: BLE001 -- a bug must be an answer that is retried, not a lost page
        return telemetry.bug(error)


def _deliver(prepared: Sequence[Prepared], service: str, parts: Service, deadline: float) -> list[Outcome]:
    jobs = [_job(*item) for item in prepared if not isinstance(item, NotSentError)]
    if parts.queue:
        deliveries = iter(parts.queue.deliver(service, jobs, deadline))
    else:
        again = any(isinstance(item, Deferred) for item in prepared)
        deliveries = iter(_deliver_directly(parts, service, jobs, deadline, again=again))
    return [
        Outcome.of(item) if isinstance(item, NotSentError) else _delivered(*item, next(deliveries)) for item in prepared
    ]


def _job(mapped: Mapped, fitted: Fitted) -> Job:
    return Job(mapped.kind, fitted.body, mapped.dedup_key, mapped.message_id, mapped.action)


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


# -- outcomes and their log lines ------------------------------------------------------------------------------------


def _delivered(mapped: Mapped, fitted: Fitted, delivery: Delivery) -> Outcome:
    warnings = mapped.warnings + fitted.warnings
    if isinstance(delivery, NotSentError):
        return Outcome.of(delivery, mapped.dedup_key, warnings)
    if delivery is None:
        message = f"PagerDuty took the {_noun(mapped)} when the batch was first sent"
        return Outcome("delivered", "already_delivered", message, dedup_key=mapped.dedup_key, warnings=warnings)
    if isinstance(delivery, Queued):
        message = f"The queue took the {_noun(mapped)}, and delivers it to PagerDuty"
        return Outcome("queued", "queued", message, dedup_key=mapped.dedup_key, warnings=warnings)
    dedup_key = mapped.dedup_key or delivery.dedup_key
    return Outcome("delivered", "delivered", f"PagerDuty took the {_noun(mapped)}", 200, dedup_key, warnings)


def _previewed(item: Prepared) -> Outcome:
    if isinstance(item, NotSentError):
        return Outcome.of(item)
    mapped, fitted = item
    message = f"This {_noun(mapped)} would be sent; nothing was"
    warnings = mapped.warnings + fitted.warnings
    return Outcome("preview", "preview", message, 200, mapped.dedup_key, warnings, fitted.event)


def _noun(mapped: Mapped) -> str:
    return "change event" if mapped.kind == "change" else f"alert event ({mapped.action})"


def _log(service: str, item: Prepared, outcome: Outcome) -> None:
    identity: dict[str, Any] = {}
    if not isinstance(item, NotSentError):
        mapped, _ = item
        identity = {"kind": mapped.kind, "action": mapped.action, "message_id": mapped.message_id}
        identity["repaired"] = [warning.partition(":")[0] for warning in outcome.warnings]
    telemetry.log_event(
        service=service, outcome=outcome.outcome, code=outcome.code, dedup_key=outcome.dedup_key, **identity
    )


# Built while Lambda initialises the process, which is when a cold start has most of the CPU. Reads no secret yet.
# Settings that make no sense are answered, and logged, with every request.
with contextlib.suppress(SettingsError):
    service()
