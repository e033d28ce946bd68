"""The secrets, from SSM Parameter Store: one cache, which serves the last good value when SSM fails.

Nothing is read at import: an outage of SSM is then an answer that RudderStack retries, and not a crash loop.
"""

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import boto3
from aws_lambda_powertools.utilities.parameters import SSMProvider
from botocore.exceptions import ClientError

import aws
from errors import Deferred
from telemetry import logger

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

# Seconds. A value is served for five minutes; nothing is asked for more often than every ten seconds.
FRESH: Final = 300.0
REREAD: Final = 10.0
# Characters of the shared secret: fewer could be guessed.
MIN_SECRET_LENGTH: Final = 16


class _Entry(NamedTuple):
    """A parameter as SSM last knew it (None: not there, or blank), and when it was read, and last asked for."""

    value: str | None
    read_at: float
    asked_at: float


class Credentials:
    """The shared secret and the routing keys below `prefix`; `clock` is the wall clock, which runs on while frozen."""

    def __init__(self, prefix: str, client: "SSMClient | None" = None, clock: Callable[[], float] = time.time) -> None:
        client = client or boto3.client("ssm", config=aws.CLIENT_CONFIG)
        # Powertools takes SSM's own failures (InternalServerError, InvalidKeyId) for parameters that are not there,
        # and a parameter that is not there revokes a secret. So a failure is raised before Powertools sees it.
        client.meta.events.register("after-call.ssm.GetParameters", _raise_failure)
        self._ssm = SSMProvider(boto3_client=client)
        self._token_name = f"{prefix}/webhook-token"
        self._routing_keys = f"{prefix}/routing-keys"
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def webhook_tokens(self, service: str | None = None, max_age: float = FRESH) -> tuple[bytes, ...]:
        """Return the shared secrets, at most `max_age` seconds old unless SSM was asked in the last ten.

        When they have to be read, the routing key of `service` is read in the same call.
        Raises Deferred when there is none, or SSM fails and there never was one.
        """
        also = self._name_of(service) if service else None
        secrets = _secrets(self._read(self._token_name, max_age, also) or "")
        if not secrets:
            raise Deferred(
                "webhook_token_missing",
                f"SSM parameter {self._token_name}: no usable secret, so nobody is let in; "
                f"put one of at least {MIN_SECRET_LENGTH} characters there",
            )
        return secrets

    def routing_key(self, service: str) -> str:
        """Return the PagerDuty routing key of the service. Raises Deferred when there is none, or SSM fails."""
        name = self._name_of(service)
        key = self._read(name, FRESH)
        if not key:
            raise Deferred(
                "routing_key_missing",
                f"SSM parameter {name}: not there, so PagerDuty service {service} cannot be reached; "
                "put its integration key there, or correct the name at the end of the URL",
            )
        return key

    def distrust_routing_key(self, service: str) -> None:
        """Read the routing key anew for the next event: PagerDuty refused it."""
        name = self._name_of(service)
        entry = self._entries.get(name)
        if entry:
            self._entries[name] = entry._replace(read_at=float("-inf"), asked_at=float("-inf"))

    def _name_of(self, service: str) -> str:
        return f"{self._routing_keys}/{service}"

    def _read(self, name: str, max_age: float, also: str | None = None) -> str | None:
        entry = self._entries.get(name)
        now = self._clock()
        if entry is None or self._is_due(entry, max_age, now):
            self._fetch([name] if also is None else [name, also], now)
        return self._entries[name].value

    @staticmethod
    def _is_due(entry: _Entry, max_age: float, now: float) -> bool:
        # A clock that was set back makes every age wrong: better to ask once too often.
        return now < entry.asked_at or (
            now - entry.asked_at >= REREAD and (entry.value is None or now - entry.read_at >= max_age)
        )

    def _fetch(self, names: list[str], now: float) -> None:
        """Ask SSM for the names in one call. When it fails, what was known stays; what was not raises Deferred."""
        try:
            found = self._ssm.get_parameters_by_name(
                {name: {} for name in names}, decrypt=True, max_age=0, raise_on_error=False
            )
        except aws.Failure as error:
            reason = aws.reason_of(error)
            logger.warning("SSM could not be read", extra={"parameters": names, "reason": reason})
            if names[0] not in self._entries:
                raise Deferred(
                    "secrets_unavailable",
                    f"SSM parameter {names[0]}: could not be read ({reason}); it will be tried again",
                ) from None
            for name in names:
                if name in self._entries:
                    self._entries[name] = self._entries[name]._replace(asked_at=now)
            return
        # Names that were not there are forgotten after a while, so that a caller cannot fill the memory with them.
        self._entries = {
            name: entry for name, entry in self._entries.items() if entry.value or now - entry.asked_at < REREAD
        }
        for name in names:
            value = found.get(name)
            self._entries[name] = _Entry(str(value).strip() or None if value else None, now, now)


@functools.lru_cache(maxsize=1)
def _secrets(text: str) -> tuple[bytes, ...]:
    """Split the parameter at white space and commas: several secrets at once make rotation possible."""
    words = text.replace(",", " ").split()
    usable = tuple(word.encode() for word in words if len(word) >= MIN_SECRET_LENGTH)
    if len(usable) < len(words):
        logger.error(
            "A secret in webhook-token is too short and not accepted",
            extra={"too_short": len(words) - len(usable), "minimum_characters": MIN_SECRET_LENGTH},
        )
    return usable


def _raise_failure(http_response: Any, parsed: Any, **_: Any) -> None:
    if http_response.status_code >= 300:  # noqa: PLR2004 -- where botocore draws the line
        raise ClientError(parsed, "GetParameters")
