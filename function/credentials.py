"""The token and the routing keys, from SSM Parameter Store: one cache, which serves the last good values if SSM fails.

Nothing is read at import, so that during an outage of SSM requests are answered, and retried by RudderStack.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aws
from outcome import ProcessingError
from telemetry import logger

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

# Seconds for which a value is served.
TTL: Final = 300.0
# Seconds before a parameter is read again if it is missing, if PagerDuty refused it, or if it lacks a caller's token.
MISSING_TTL: Final = 1.0
# Seconds after a failed read in which no parameter with a value is refreshed.
RETRY_AFTER: Final = 10.0
# Seconds for a read, and for one that is only a refresh, all attempts included. Both leave time to deliver the event.
READ_LIMIT: Final = 3.0
REFRESH_LIMIT: Final = 2.0
# Parameters that SSM reads in a call:
# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html
MAX_NAMES: Final = 10
# Missing parameters that are remembered: events can make up any name.
MAX_MISSING: Final = 1000
# Characters of a token: a shorter one could be guessed.
MIN_TOKEN_LENGTH: Final = 16

_NEVER: Final = float("-inf")


@dataclass(slots=True)
class _Parameter:
    """A parameter: its value (None if missing, empty or never read), when that was read, and the last attempt."""

    value: str | None = None
    read_at: float = _NEVER
    asked_at: float = _NEVER
    error: Exception | None = None


class Credentials:
    """The tokens and the routing keys below `prefix`.

    Methods raise ProcessingError if SSM fails and there is no last good value. Deadlines are in seconds of the
    monotonic clock; `clock` is the wall clock, since the monotonic one may stop while Lambda freezes the process.
    """

    def __init__(self, prefix: str, client: "SSMClient", clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._token_name = f"{prefix}/webhook-token"
        self._routing_keys = f"{prefix}/routing-keys"
        self._clock = clock
        self._parameters: dict[str, _Parameter] = {}
        self._failed_at = _NEVER

    def webhook_secrets(self, deadline: float, service: str | None = None) -> tuple[bytes, ...]:
        """Return the usable tokens. If they have to be read, `service`'s routing keys are read in the same call."""
        try:
            value = self._read(self._token_name, deadline, [self._name_of(service)] if service else [])
        except aws.AWS_ERRORS as error:
            raise self._cannot_check(error) from None
        return _tokens(value or "")

    def refresh_webhook_secrets(self, deadline: float) -> tuple[bytes, ...]:
        """Return the tokens, at least one, read within the last second: one may be new. Raises ProcessingError."""
        received_at = self._clock()
        parameter = self._parameters.setdefault(self._token_name, _Parameter())
        try:
            if self._is_past(parameter.asked_at, MISSING_TTL):
                self._fetch([self._token_name], deadline, READ_LIMIT)
            if parameter.error:
                raise parameter.error
            if parameter.read_at < received_at - MISSING_TTL:
                raise TimeoutError
        except aws.AWS_ERRORS as error:
            raise self._cannot_check(error) from None
        if tokens := _tokens(parameter.value or ""):
            return tokens
        message = "No token is configured, so every request is refused; the event will be tried again"
        detail = f"SSM parameter {self._token_name}: missing, or shorter than {MIN_TOKEN_LENGTH} characters"
        raise ProcessingError("webhook_token_missing", message, detail=detail)

    def routing_keys(self, service: str, deadline: float) -> tuple[str, ...]:
        """Return the routing keys of the PagerDuty service, at least one. Raises ProcessingError if it has none."""
        name = self._name_of(service)
        try:
            value = self._read(name, deadline)
        except aws.AWS_ERRORS as error:
            problem = f"SSM parameter {name}: could not be read ({aws.error_code(error)}); it will be tried again"
            raise ProcessingError("secrets_unavailable", problem) from None
        if keys := tuple(_words(value)):
            return keys
        problem = f"SSM parameter {name}: missing, so nothing can be sent to PagerDuty service {service}"
        advice = "put its integration key there, or correct the name at the end of the URL"
        raise ProcessingError("routing_key_missing", f"{problem}; {advice}")

    def services_without_key(self, services: Sequence[str], deadline: float) -> set[str]:
        """Return the PagerDuty services that have no routing key, as far as SSM answers now. Raises nothing."""
        received_at, deadline = self._clock(), min(deadline, time.monotonic() + READ_LIMIT)
        names = {self._name_of(service): service for service in services}
        due = [name for name in names if self._is_due(name)]
        for start in range(0, len(due), MAX_NAMES):
            with contextlib.suppress(*aws.AWS_ERRORS):
                self._fetch(due[start : start + MAX_NAMES], deadline, READ_LIMIT)
        return {
            service
            for name, service in names.items()
            if (parameter := self._parameters.get(name))
            and parameter.value is None
            and parameter.error is None
            and parameter.asked_at > received_at - MISSING_TTL
        }

    def invalidate_routing_keys(self, service: str) -> None:
        """Let the next event read the routing keys again, at most once a second: PagerDuty refused one."""
        if parameter := self._parameters.get(self._name_of(service)):
            parameter.read_at = _NEVER

    def has_routing_key(self, service: str) -> bool:
        """Return whether the PagerDuty service had a routing key when it was last read. Reads nothing."""
        parameter = self._parameters.get(self._name_of(service))
        return parameter is not None and parameter.value is not None

    def _name_of(self, service: str) -> str:
        return f"{self._routing_keys}/{service}"

    def _read(self, name: str, deadline: float, also: Sequence[str] = ()) -> str | None:
        """Return a parameter's value, None if it is missing. Raises AWS_ERRORS if it was never read."""
        parameter = self._parameters.setdefault(name, _Parameter())
        has_value = parameter.value is not None
        if self._is_due(name):
            try:
                self._fetch([name, *also], deadline, REFRESH_LIMIT if has_value else READ_LIMIT)
            except aws.AWS_ERRORS as error:
                if has_value:
                    extra = {"parameter": name, "reason": aws.error_code(error)}
                    logger.warning("SSM could not be read; the last good value is served", extra=extra)
        if parameter.error and not has_value:
            raise parameter.error
        return parameter.value

    def _is_due(self, name: str) -> bool:
        """Return whether the parameter has to be read."""
        parameter = self._parameters.get(name, _Parameter())
        if parameter.value is None:
            return self._is_past(parameter.asked_at, MISSING_TTL)
        ages = ((parameter.read_at, TTL), (parameter.asked_at, MISSING_TTL), (self._failed_at, RETRY_AFTER))
        return all(self._is_past(moment, seconds) for moment, seconds in ages)

    def _is_past(self, moment: float, seconds: float) -> bool:
        """Return whether so many seconds have passed. If the clock was set back, assume that they have."""
        return not 0 <= self._clock() - moment < seconds

    def _fetch(self, names: Sequence[str], deadline: float, limit: float) -> None:
        """Read the parameters in one call, in at most `limit` seconds. Raises AWS_ERRORS, and keeps their values."""
        parameters = {name: self._parameters.pop(name, _Parameter()) for name in names}
        self._parameters |= parameters  # The latest last, since the first are forgotten.
        read_at = self._clock()
        error: Exception | None = None
        try:
            end = min(deadline, time.monotonic() + limit)
            answer = aws.call_with_deadline(self._client.get_parameters, end, Names=names, WithDecryption=True)
            found = {each["Name"]: each["Value"] for each in answer["Parameters"] if _words(each["Value"])}
            for name, parameter in parameters.items():
                parameter.value, parameter.read_at = found.get(name), read_at
        except aws.AWS_ERRORS as failure:
            error, self._failed_at = failure, self._clock()
            raise
        finally:
            for parameter in parameters.values():
                parameter.asked_at, parameter.error = self._clock(), error
            missing = [name for name, parameter in self._parameters.items() if parameter.value is None]
            for name in missing[: max(0, len(missing) - MAX_MISSING)]:
                del self._parameters[name]

    def _cannot_check(self, error: Exception) -> ProcessingError:
        """Return the error for a token that cannot be checked; its message reveals nothing about the parameters."""
        message = "The token cannot be checked at the moment; the event will be tried again"
        detail = f"SSM parameter {self._token_name}: could not be read ({aws.error_code(error)})"
        return ProcessingError("secrets_unavailable", message, detail=detail)


def _words(value: str | None) -> list[str]:
    """Return the values of a parameter, which are separated by white space or commas."""
    return (value or "").replace(",", " ").split()


@functools.lru_cache(maxsize=1)
def _tokens(value: str) -> tuple[bytes, ...]:
    """Return the tokens of a parameter; log an error, once, if some are too short to be accepted."""
    words = _words(value)
    usable = tuple(word.encode() for word in words if len(word) >= MIN_TOKEN_LENGTH)
    if too_short := len(words) - len(usable):
        extra = {"too_short": too_short, "minimum_characters": MIN_TOKEN_LENGTH}
        logger.error("A token in webhook-token is too short and not accepted", extra=extra)
    return usable
