"""The settings: one frozen object, read from an environment that is passed in."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from event import SEVERITIES, Severity
from paths import Path, Template, read_path, read_template

T = TypeVar("T")
S = TypeVar("S", bound=str)

DEFAULT_PARAMETER_PREFIX: Final = "/rudderstack-pagerduty"
DEFAULT_PAGERDUTY_URL: Final = "https://events.pagerduty.com"
DEFAULT_SEVERITY: Final[Severity] = "critical"
# What PagerDuty grants a routing key in any 60 seconds: https://developer.pagerduty.com/docs/rate-limits
DEFAULT_CALLS_PER_MINUTE: Final = 120

# Hosts on this machine, to which alone the routing key may be sent without TLS.
_THIS_MACHINE: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1|host\.docker\.internal", re.IGNORECASE)
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_.-]+)+")


class SettingsError(ValueError):
    """The environment is invalid; the message has everything that is wrong with it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of the mapping: paths into the event, and defaults for an alert. Unset ones are empty or None."""

    dedup_key_field: Path | Template = ("properties", "dedupKey")
    default_severity: Severity = DEFAULT_SEVERITY
    default_source: str = ""
    service_field: Path = ()
    summary_template: Template | None = None
    extra_details: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; docs/settings.md explains each. Neither prefix nor URL ends with a slash."""

    queue_url: str
    dead_letter_queue_url: str
    flow_table: str
    parameter_prefix: str = DEFAULT_PARAMETER_PREFIX
    pagerduty_url: str = DEFAULT_PAGERDUTY_URL
    calls_per_minute: int = DEFAULT_CALLS_PER_MINUTE
    merge_repeated_triggers: bool = True
    rules: Rules = Rules()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; a missing or blank one has its default. Raises SettingsError with every problem."""
        variables = _Variables(environment)
        settings = cls(
            queue_url=variables.required("QUEUE_URL", "the URL of an SQS queue"),
            dead_letter_queue_url=variables.required("DEAD_LETTER_QUEUE_URL", "the URL of an SQS queue"),
            flow_table=variables.required("FLOW_TABLE", "the name of a DynamoDB table"),
            parameter_prefix=variables.parse("PARAMETER_PREFIX", _prefix, DEFAULT_PARAMETER_PREFIX),
            pagerduty_url=variables.parse("PAGERDUTY_URL", _url, DEFAULT_PAGERDUTY_URL),
            calls_per_minute=variables.parse("CALLS_PER_MINUTE", _positive_integer, DEFAULT_CALLS_PER_MINUTE),
            merge_repeated_triggers=variables.choose("MERGE_REPEATED_TRIGGERS", ("true", "false"), "true") == "true",
            rules=Rules(
                dedup_key_field=variables.parse("DEDUP_KEY_FIELD", read_path_or_template, Rules().dedup_key_field),
                default_severity=variables.choose("DEFAULT_SEVERITY", SEVERITIES, DEFAULT_SEVERITY),
                default_source=variables.get("DEFAULT_SOURCE"),
                service_field=variables.parse("SERVICE_FIELD", read_path, ()),
                summary_template=variables.parse("SUMMARY_TEMPLATE", read_template, None),
                extra_details=variables.parse("EXTRA_DETAILS", _paths, ()),
            ),
        )
        if variables.problems:
            raise SettingsError("; ".join(variables.problems))
        return settings


class _Variables:
    """Reads environment variables, and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def get(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def required(self, name: str, expected: str) -> str:
        if not self.get(name):
            self.problems.append(f"{name}: missing, expected {expected}, as the template sets it")
        return self.get(name)

    def choose(self, name: str, choices: tuple[S, ...], default: S) -> S:
        value = self.get(name).lower() or default
        for choice in choices:
            if value == choice:
                return choice
        self.problems.append(f"{name}: expected one of {', '.join(choices)}")
        return default

    def parse(self, name: str, parser: Callable[[str], T], default: T) -> T:
        try:
            return parser(text) if (text := self.get(name)) else default
        except ValueError as error:
            self.problems.append(f"{name}: expected {error}")
            return default


def read_path_or_template(text: str) -> Path | Template:
    """Read a path, or a text with paths if there are braces. Raises ValueError."""
    return read_template(text) if "{" in text or "}" in text else read_path(text)


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(read_path(part) for part in text.split(","))


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(prefix := text.rstrip("/")):
        raise ValueError("a path of SSM parameters such as /rudderstack-pagerduty")
    return prefix


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or (number := int(text)) < 1:
        raise ValueError("a whole number of calls in 60 seconds, from 1 on")
    return number


def _url(text: str) -> str:
    """Return PagerDuty's base URL: https, except to this machine, where tests and sandboxes are. Raises ValueError."""
    url = text.rstrip("/")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not re.fullmatch(r"(?a)[\w.:-]+", host) or parts.scheme not in {"http", "https"}:
        raise ValueError("a URL such as https://events.pagerduty.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a URL without user, query or fragment")
    if parts.scheme == "http" and not _THIS_MACHINE.fullmatch(host):
        raise ValueError("https: the routing key would travel unencrypted")
    return url
