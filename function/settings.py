"""The settings: one frozen object, read from an environment that is passed in."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from event import SEVERITIES, Severity
from paths import Path, Template, read_path, read_template

T = TypeVar("T", bound=str)
V = TypeVar("V")

DEFAULT_PARAMETER_PREFIX: Final = "/rudderstack-pagerduty"
DEFAULT_PAGERDUTY_URL: Final = "https://events.pagerduty.com"
DEFAULT_SEVERITY: Final[Severity] = "critical"
# What PagerDuty grants a routing key in any 60 seconds: https://developer.pagerduty.com/docs/rate-limits
DEFAULT_CALLS_PER_MINUTE: Final = 120

# The hosts that are this machine: there, and only there, the routing key may travel without TLS.
_THIS_MACHINE: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1|host\.docker\.internal", re.IGNORECASE)
# What the template makes, and each stack has of its own.
_RESOURCES: Final = {
    "QUEUE_URL": "the URL of an SQS queue",
    "DEAD_LETTER_QUEUE_URL": "the URL of an SQS queue",
    "FLOW_TABLE": "the name of a DynamoDB table",
}
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_.-]+)+")


class SettingsError(ValueError):
    """The environment does not make sense; `problems` lists everything that is wrong with it at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of the mapping: where in an event things are, and what an alert gets that does not say it itself.

    `default_source` and `service_field` are empty, and `summary_template` is None, when there is none.
    """

    dedup_key_field: Path | Template = ("properties", "dedupKey")
    default_severity: Severity = DEFAULT_SEVERITY
    default_source: str = ""
    service_field: Path = ()
    summary_template: Template | None = None
    extra_details: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set; see "Settings" in the README.

    `parameter_prefix` is where the SSM parameters are; it and `pagerduty_url` have no slash at their end.
    `calls_per_minute` is what PagerDuty grants a routing key. `merge_repeated_triggers` lets the worker leave out
    repeated triggers of which PagerDuty would show nothing.
    """

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
        """Read the environment variables; one that is missing or blank has its default.

        Raises SettingsError with every problem at once.
        """
        problems: list[str] = []

        def read(name: str, default: str = "") -> str:
            return environment.get(name, "").strip() or default

        def choose(name: str, choices: tuple[T, ...], default: T) -> T:
            value = read(name, str(default)).lower()
            for choice in choices:
                if value == choice:
                    return choice
            problems.append(f"{name}: expected one of {', '.join(choices)}")
            return default

        def parse(name: str, parser: Callable[[str], V], default: V, expected: str) -> V:
            text = read(name)
            try:
                return parser(text) if text else default
            except ValueError:
                problems.append(f"{name}: expected {expected}")
                return default

        prefix = read("PARAMETER_PREFIX", DEFAULT_PARAMETER_PREFIX).rstrip("/")
        if not _PREFIX.fullmatch(prefix):
            problems.append("PARAMETER_PREFIX: expected a path of SSM parameters such as /rudderstack-pagerduty")

        url = read("PAGERDUTY_URL", DEFAULT_PAGERDUTY_URL).rstrip("/")
        if problem := _url_problem(url):
            problems.append(f"PAGERDUTY_URL: {problem}")

        resources = {name: read(name) for name in _RESOURCES}
        problems += [
            f"{name}: missing, expected {_RESOURCES[name]}; the template sets it"
            for name, value in resources.items()
            if not value
        ]

        settings = cls(
            queue_url=resources["QUEUE_URL"],
            dead_letter_queue_url=resources["DEAD_LETTER_QUEUE_URL"],
            flow_table=resources["FLOW_TABLE"],
            parameter_prefix=prefix,
            pagerduty_url=url,
            calls_per_minute=parse(
                "CALLS_PER_MINUTE",
                _read_positive_integer,
                DEFAULT_CALLS_PER_MINUTE,
                "how many calls PagerDuty grants a routing key in any 60 seconds, a whole number from 1 on",
            ),
            merge_repeated_triggers=choose("MERGE_REPEATED_TRIGGERS", ("true", "false"), "true") == "true",
            rules=Rules(
                dedup_key_field=parse(
                    "DEDUP_KEY_FIELD",
                    read_path_or_template,
                    Rules().dedup_key_field,
                    "a dotted path without empty steps such as properties.dedupKey, "
                    "or a text with such paths in braces such as {properties.host}/{properties.check}",
                ),
                default_severity=choose("DEFAULT_SEVERITY", SEVERITIES, DEFAULT_SEVERITY),
                default_source=read("DEFAULT_SOURCE"),
                service_field=parse(
                    "SERVICE_FIELD", read_path, (), "a dotted path without empty steps such as properties.team"
                ),
                summary_template=parse(
                    "SUMMARY_TEMPLATE",
                    read_template,
                    None,
                    "a text with dotted paths in braces such as {event} on {properties.host}",
                ),
                extra_details=parse(
                    "EXTRA_DETAILS",
                    _read_paths,
                    (),
                    "dotted paths without empty steps, separated by commas, such as properties, context.traits.plan",
                ),
            ),
        )
        if problems:
            raise SettingsError(problems)
        return settings


def read_path_or_template(text: str) -> Path | Template:
    """Read a path, or a text with paths when there are braces. Raises ValueError."""
    return read_template(text) if "{" in text or "}" in text else read_path(text)


def _read_paths(text: str) -> tuple[Path, ...]:
    return tuple(read_path(part) for part in text.split(","))


def _read_positive_integer(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("not positive")
    return number


def _url_problem(url: str) -> str | None:
    """Tell what is wrong with PagerDuty's base URL: https, except to this machine, where tests and sandboxes are."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "expected a URL such as https://events.pagerduty.com"
    if not host or parts.scheme not in {"http", "https"}:
        return "expected a URL such as https://events.pagerduty.com"
    if parts.username is not None or parts.query or parts.fragment:
        return "expected a URL without user, query or fragment"
    if parts.scheme == "http" and not _THIS_MACHINE.fullmatch(host):
        return "expected https: the routing key would travel unencrypted"
    return None
