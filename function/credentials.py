"""The secrets, from SSM Parameter Store: one cache, which serves the last good value when SSM fails.

Nothing is read at import: an outage of SSM is then an answer that RudderStack retries, and not a crash loop.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import aws
from outcome import NotSentError
from telemetry import logger

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

# Seconds for which a value is served.
FRESH: Final = 300.0
# Seconds after which a parameter that was not there, or did not let a caller in, is read again.
REREAD: Final = 1.0
# Seconds after which a read that failed is tried again while there is a last good value.
RETRY: Final = 10.0
# Seconds for one read, all its attempts included: it leaves time to deliver the event.
READ_LIMIT: Final = 5.0
# Parameters that SSM reads in a call:
# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html
MAX_NAMES: Final = 10
# Characters of the shared secret: fewer could be guessed.
MIN_SECRET_LENGTH: Final = 16


class _Entry(NamedTuple):
    """A parameter as SSM last knew it (None: not there, or blank), and when SSM was asked for that."""

    value: str | None
    read_at: float


class Credentials:
    """The shared secrets and the routing keys below `prefix`; `clock` is the wall clock, which runs on while frozen.

    Every method raises NotSentError when SSM fails and there is no last good value. `deadline` is in seconds of the
    monotonic clock.
    """

    def __init__(self, prefix: str, client: "SSMClient", clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._token_name = f"{prefix}/webhook-token"
        self._routing_keys = f"{prefix}/routing-keys"
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._asked_at: dict[str, float] = {}
        self._failures: dict[str, Exception] = {}

    def webhook_secrets(self, deadline: float, service: str | None = None) -> tuple[bytes, ...]:
        """Return the shared secrets; when they have to be read, `service`'s routing keys are read in the same call."""
        also = [] if service is None else [self._name_of(service)]
        try:
            value = self._read(self._token_name, deadline, also)
        except aws.Failure as error:
            raise self._cannot_check(error) from None
        return self._usable_secrets(value)

    def latest_webhook_secrets(self, deadline: float) -> tuple[bytes, ...]:
        """Return the shared secrets as SSM has them now, or had them within the last second.

        Raises NotSentError when they cannot be read now: a secret that is not among the old ones may be a new one.
        """
        name = self._token_name
        came = self._clock()
        try:
            if self._is_past(self._asked_at.get(name), REREAD):
                self._fetch([name], deadline)
            entry = self._entries.get(name)
            if entry is None or entry.read_at < came - REREAD:
                raise self._failures[name]
        except aws.Failure as error:
            raise self._cannot_check(error) from None
        return self._usable_secrets(entry.value)

    def routing_keys(self, service: str, deadline: float) -> tuple[str, ...]:
        """Return the routing keys of the PagerDuty service, at least one. Raises NotSentError when it has none."""
        name = self._name_of(service)
        try:
            value = self._read(name, deadline)
        except aws.Failure as error:
            raise NotSentError(
                "secrets_unavailable",
                f"SSM parameter {name}: could not be read ({aws.reason_of(error)}); it will be tried again",
            ) from None
        keys = tuple(_words(value))
        if not keys:
            raise NotSentError(
                "routing_key_missing",
                f"SSM parameter {name}: not there, so PagerDuty service {service} cannot be reached; "
                "put its integration key there, or correct the name at the end of the URL",
            )
        return keys

    def without_routing_keys(self, services: Sequence[str], deadline: float) -> set[str]:
        """Tell which of the PagerDuty services have no routing key, as far as SSM can tell now; raises nothing."""
        came, deadline = self._clock(), min(deadline, time.monotonic() + READ_LIMIT)
        names = {self._name_of(service): service for service in services}
        due = [name for name in names if self._is_due(name)]
        for start in range(0, len(due), MAX_NAMES):
            with contextlib.suppress(*aws.Failure):
                self._fetch(due[start : start + MAX_NAMES], deadline)
        return {
            service
            for name, service in names.items()
            if (entry := self._entries.get(name)) and not _words(entry.value) and entry.read_at > came - REREAD
        }

    def distrust_routing_keys(self, service: str) -> None:
        """Read the routing keys anew for the next event: PagerDuty refused one."""
        self._asked_at.pop(self._name_of(service), None)
        entry = self._entries.get(self._name_of(service))
        if entry:
            self._entries[self._name_of(service)] = entry._replace(read_at=float("-inf"))

    def knows(self, service: str) -> bool:
        """Tell whether SSM had a routing key for the PagerDuty service when it was last asked; asks nobody."""
        entry = self._entries.get(self._name_of(service))
        return entry is not None and entry.value is not None

    def _name_of(self, service: str) -> str:
        return f"{self._routing_keys}/{service}"

    def _read(self, name: str, deadline: float, also: Sequence[str] = ()) -> str | None:
        """Return a parameter's value. Raises aws.Failure when it cannot be read and never was."""
        entry = self._entries.get(name)
        asked_at = self._asked_at.get(name)
        if entry is None:
            if not self._is_past(asked_at, REREAD):
                raise self._failures[name]
            self._fetch([name, *also], deadline)
            return self._entries[name].value
        if self._is_due(name):
            try:
                self._fetch([name, *also], deadline)
            except aws.Failure as error:
                logger.warning(
                    "SSM could not be read; the last good value goes on serving",
                    extra={"parameter": name, "reason": aws.reason_of(error)},
                )
        return self._entries[name].value

    def _is_due(self, name: str) -> bool:
        """Tell whether SSM is to be asked for the parameter: it never was, or what is known of it is not fresh."""
        entry = self._entries.get(name)
        age, pause = (REREAD, REREAD) if entry is None or entry.value is None else (FRESH, RETRY)
        return self._is_past(entry and entry.read_at, age) and self._is_past(self._asked_at.get(name), pause)

    def _is_past(self, moment: float | None, seconds: float) -> bool:
        """Tell whether so many seconds have passed; a clock that was set back makes every age wrong, so they have."""
        return moment is None or not 0 <= self._clock() - moment < seconds

    def _fetch(self, names: Sequence[str], deadline: float) -> None:
        """Ask SSM for the names in one call. Raises aws.Failure, and what was known stays."""
        now = self._clock()
        self._asked_at |= dict.fromkeys(names, now)
        try:
            answer = aws.call(
                self._client.get_parameters,
                min(deadline, time.monotonic() + READ_LIMIT),
                Names=names,
                WithDecryption=True,
            )
        except aws.Failure as error:
            self._failures |= dict.fromkeys(names, error)
            raise
        found = {parameter["Name"]: parameter["Value"].strip() for parameter in answer["Parameters"]}
        self._entries |= {name: _Entry(found.get(name) or None, now) for name in names}

    def _cannot_check(self, failure: Exception) -> NotSentError:
        """Build the answer to a caller who may or may not know the secret: nobody can tell, so it names nothing."""
        return NotSentError(
            "secrets_unavailable",
            "The secret cannot be checked at the moment; the event will be tried again",
            detail=f"SSM parameter {self._token_name}: could not be read ({aws.reason_of(failure)})",
        )

    def _usable_secrets(self, value: str | None) -> tuple[bytes, ...]:
        secrets = _secrets(value or "")
        if not secrets:
            raise NotSentError(
                "webhook_token_missing",
                "No secret is set up here, so nobody is let in; the event will be tried again",
                detail=f"SSM parameter {self._token_name}: no usable secret; "
                f"put one of at least {MIN_SECRET_LENGTH} characters there",
            )
        return secrets


def _words(value: str | None) -> list[str]:
    """Split a parameter that may hold several values, at white space and commas."""
    return (value or "").replace(",", " ").split()


@functools.lru_cache(maxsize=1)
def _secrets(value: str) -> tuple[bytes, ...]:
    """Split the parameter into secrets, and complain, once, about those that are too short to be accepted."""
    words = _words(value)
    usable = tuple(word.encode() for word in words if len(word) >= MIN_SECRET_LENGTH)
    if len(usable) < len(words):
        logger.error(
            "A secret in webhook-token is too short and not accepted",
            extra={"too_short": len(words) - len(usable), "minimum_characters": MIN_SECRET_LENGTH},
        )
    return usable
