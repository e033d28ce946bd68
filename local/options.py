"""The options of the local stack. This module imports little, so that a wrong argument is reported at once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# Where `serve` describes itself to other commands. The tests use a folder of their own, beside a stack in use.
STATE: Final = Path(os.environ.get("LOCAL_STATE") or ROOT / ".local")
# Written by `make serve` for `make doctor` and `make dead-letters` while it runs.
LOCAL_STACK_FILE: Final = STATE / "stack.json"
# The name of the stack of `make serve` in these commands.
LOCAL: Final = "local"
# The user agent of `make doctor`, by which `make serve` marks its requests.
DOCTOR: Final = "make doctor"
# Public on purpose: they work only on this machine's loopback interface.
LOCAL_TOKEN: Final = "local-webhook-token"  # noqa: S105
LOCAL_ROUTING_KEY: Final = "local0local0local0local0local0ab"
PREFIX: Final = "/rudderstack-pagerduty"

# As in function/credentials.py and function/webhook.py.
MIN_TOKEN_LENGTH: Final = 16
SERVICE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# https://github.com/PagerDuty/developer-docs/blob/main/docs/events-API-v2/05-Rate-Limits.md: per integration key.
RATE_LIMIT: Final = 120
# As in the template's parameter CallsPerMinute.
MAX_CALLS_PER_MINUTE: Final = 10_000

# The mapping's settings: environment variables of the API function.
MAPPING_SETTINGS: Final = (
    *("DEDUP_KEY_FIELD", "DEFAULT_SEVERITY", "DEFAULT_SOURCE"),
    *("SERVICE_FIELD", "SUMMARY_TEMPLATE", "EXTRA_DETAILS"),
)


def settings_of_environment() -> dict[str, str]:
    """Return the functions' settings that are set in this process's environment."""
    names = (*MAPPING_SETTINGS, "MERGE_REPEATED_TRIGGERS")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


@dataclass(frozen=True)
class Options:
    """The API's port (0: the system picks one), the secrets, and the PagerDuty that receives events.

    Without `pagerduty_url`, PagerDuty is the sandbox, and service `default` has a routing key that the sandbox accepts.
    `rate_limit` is the sandbox's limit, in calls a minute and routing key (None: no limit), and the functions'.
    `settings` are environment variables of both functions. Time passes `speed` times faster for delayed events.
    """

    port: int = 0
    token: str = LOCAL_TOKEN
    services: Mapping[str, str] = field(default_factory=dict)
    pagerduty_url: str | None = None
    rate_limit: int | None = RATE_LIMIT
    settings: Mapping[str, str] = field(default_factory=dict)
    speed: float = 1.0

    @property
    def routing_keys(self) -> Mapping[str, str]:
        """The routing keys by service, including the sandbox's for `default`."""
        return self.services if self.pagerduty_url else {"default": LOCAL_ROUTING_KEY, **self.services}
