"""The settings: one frozen object, read from an environment that is passed in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from limits import SEVERITIES

DEFAULT_PARAMETER_PREFIX: Final = "/rudderstack-pagerduty"
DEFAULT_DEDUP_KEY_FIELD: Final = "properties.dedupKey"
DEFAULT_PAGERDUTY_URL: Final = "https://events.pagerduty.com"
DEFAULT_SEVERITY: Final = "critical"

# The hosts that are this machine: there, and only there, the routing key may travel without TLS.
_THIS_MACHINE: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1|host\.docker\.internal", re.IGNORECASE)
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_.-]+)+")


class SettingsError(ValueError):
    """The environment does not make sense; `problems` lists everything that is wrong with it at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set, with its defaults; see "Settings" in the README.

    `parameter_prefix` is where the SSM parameters are, without a slash at its end. `dedup_key_field` is the path into
    the event, one step an item. `pagerduty_url` has no slash at its end. `default_source` is empty when there is none;
    so are the queues' URLs in direct delivery.
    """

    parameter_prefix: str = DEFAULT_PARAMETER_PREFIX
    dedup_key_field: tuple[str, ...] = tuple(DEFAULT_DEDUP_KEY_FIELD.split("."))
    pagerduty_url: str = DEFAULT_PAGERDUTY_URL
    default_severity: str = DEFAULT_SEVERITY
    default_source: str = ""
    queue_url: str = ""
    dead_letter_queue_url: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the environment variables; one that is missing or blank has its default.

        Raises SettingsError with every problem at once.
        """

        def read(name: str, default: str) -> str:
            return environment.get(name, "").strip() or default

        problems: list[str] = []

        prefix = read("PARAMETER_PREFIX", DEFAULT_PARAMETER_PREFIX).rstrip("/")
        if not _PREFIX.fullmatch(prefix):
            problems.append("PARAMETER_PREFIX: expected a path of SSM parameters such as /rudderstack-pagerduty")

        path = tuple(read("DEDUP_KEY_FIELD", DEFAULT_DEDUP_KEY_FIELD).split("."))
        if not all(path):
            problems.append("DEDUP_KEY_FIELD: expected a dotted path without empty steps such as properties.dedupKey")

        url = read("PAGERDUTY_URL", DEFAULT_PAGERDUTY_URL).rstrip("/")
        if problem := _url_problem(url):
            problems.append(f"PAGERDUTY_URL: {problem}")

        severity = read("DEFAULT_SEVERITY", DEFAULT_SEVERITY).lower()
        if severity not in SEVERITIES:
            problems.append(f"DEFAULT_SEVERITY: expected one of {', '.join(SEVERITIES)}")

        if problems:
            raise SettingsError(problems)
        return cls(
            parameter_prefix=prefix,
            dedup_key_field=path,
            pagerduty_url=url,
            default_severity=severity,
            default_source=read("DEFAULT_SOURCE", ""),
            queue_url=read("QUEUE_URL", ""),
            dead_letter_queue_url=read("DEAD_LETTER_QUEUE_URL", ""),
        )


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
