"""What the clients of AWS services share: their limits in time, their silence, and how their failures are named."""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deadline import call_until

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=BaseClient)

# A throttled call is answered at once, so that four attempts with their pauses are over within seconds; how long all
# of them may take is for the caller of `call` to say.
CLIENT_CONFIG: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 4})
# What `call` may raise.
Failure = (BotoCoreError, ClientError, TimeoutError)

# At DEBUG botocore logs whole responses, and with them the secrets; at INFO, what nobody asked for.
logging.getLogger("botocore").setLevel(logging.WARNING)

_this_thread = threading.local()


def bounded(client: C) -> C:
    """Let a client send nothing more, no retry either, for a call that is past its deadline; return the client."""
    client.meta.events.register("before-send", _refuse_late)
    return client


def _refuse_late(**_: object) -> None:
    if time.monotonic() > getattr(_this_thread, "deadline", math.inf):
        raise TimeoutError("past the deadline")


def call(function: Callable[P, T], deadline: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a client's method and return its answer, at the latest at the deadline; TimeoutError past that.

    With a `bounded` client, what is then given up sends nothing more: Lambda freezes the process after its answer, and
    what was sent when that goes on, an hour later, SQS would take for new.
    """

    def run() -> T:
        _this_thread.deadline = deadline
        return function(*args, **kwargs)

    return call_until(run, deadline)


def reason_of(failure: Exception) -> str:
    """Name a failure without its text, which could hold anything."""
    if isinstance(failure, ClientError):
        return str(failure.response.get("Error", {}).get("Code", "unknown"))
    return type(failure).__name__
