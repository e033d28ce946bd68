"""What can be chosen about the local stack; apart from the stack, so that a wrong argument is answered at once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

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

Delivery = Literal["direct", "queued"]


@dataclass(frozen=True)
class Options:
    """What can be chosen: the port of the API (0: the system picks), the secrets, and which PagerDuty.

    Without `pagerduty_url` PagerDuty is the sandbox, which takes `rate_limit` calls a minute and routing key (None: any
    number), and service `default` has a routing key that it takes. `speed` is how many times faster time passes for
    events that were put off.
    """

    port: int = 0
    token: str = LOCAL_TOKEN
    services: Mapping[str, str] = field(default_factory=dict)
    pagerduty_url: str | None = None
    delivery: Delivery = "direct"
    rate_limit: int | None = RATE_LIMIT
    speed: float = 1.0

    @property
    def routing_keys(self) -> Mapping[str, str]:
        """The routing keys by service, that of `default` at the sandbox included."""
        return self.services if self.pagerduty_url else {"default": LOCAL_ROUTING_KEY, **self.services}
