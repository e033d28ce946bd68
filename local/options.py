"""What can be chosen about the local stack; apart from the stack, so that a wrong argument is answered at once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# Where `serve` leaves word of itself; the tests have a place of their own, so as not to disturb one that is running.
STATE: Final = Path(os.environ.get("LOCAL_STATE") or ROOT / ".local")
# What `make serve` writes for `make doctor` while it runs.
LOCAL_STACK_FILE: Final = STATE / "stack.json"
# The name under which `make doctor` is asked for the stack of `make serve`.
LOCAL: Final = "local"
# By this, `make serve` tells the requests of `make doctor` from others.
DOCTOR: Final = "make doctor"
# Nobody's secrets: they open nothing but this machine's own loopback.
LOCAL_TOKEN: Final = "local-webhook-token"  # noqa: S105
LOCAL_ROUTING_KEY: Final = "local0local0local0local0local0ab"
PREFIX: Final = "/rudderstack-pagerduty"

# As in function/credentials.py and function/webhook.py.
MIN_SECRET_LENGTH: Final = 16
SERVICE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# https://github.com/PagerDuty/developer-docs/blob/main/docs/events-API-v2/05-Rate-Limits.md: per integration key.
RATE_LIMIT: Final = 120
# As of the template's parameter CallsPerMinute: what PagerDuty grants at most, and the least to save up from.
MAX_CALLS_PER_MINUTE: Final = 10_000
MIN_CALLS_PER_MINUTE: Final = 12

# The settings of the mapping, as the API's function finds them in its environment.
MAPPING_SETTINGS: Final = (
    *("DEDUP_KEY_FIELD", "DEFAULT_SEVERITY", "DEFAULT_SOURCE"),
    *("SERVICE_FIELD", "SUMMARY_TEMPLATE", "EXTRA_DETAILS"),
)


def settings_of_environment() -> dict[str, str]:
    """Return the settings of the functions that are set in the environment of this process."""
    names = (*MAPPING_SETTINGS, "MERGE_REPEATED_TRIGGERS")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


@dataclass(frozen=True)
class Options:
    """What can be chosen: the port of the API (0: the system picks), the secrets, and which PagerDuty.

    Without `pagerduty_url` PagerDuty is the sandbox, which accepts `rate_limit` calls a minute and routing key (None:
    any number), and service `default` has a routing key that it accepts. `rate_limit` is the functions' too. `settings`
    are environment variables of both functions. `speed` is how many times faster time passes for delayed events.
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
        """The routing keys by service, that of `default` at the sandbox included."""
        return self.services if self.pagerduty_url else {"default": LOCAL_ROUTING_KEY, **self.services}
