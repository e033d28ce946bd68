"""What the AWS clients share: timeouts, log levels, error codes, and that nothing is sent after a deadline."""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deadline import run_with_deadline

P = ParamSpec("P")
T = TypeVar("T")

# A throttled call is answered at once, so that four attempts with their pauses are over within seconds; how long all
# of them may take is for the caller of `call_with_deadline` to say.
CLIENT_CONFIG: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 4})
# DynamoDB has a second in all. In this mode it is retried after 50, 100 and 200 ms (`botocore/data/_retry.json`); in
# the other one, after up to a second.
DYNAMODB_CONFIG: Final = CLIENT_CONFIG.merge(Config(retries={"mode": "legacy", "total_max_attempts": 4}))
# What `call_with_deadline` may raise.
AWS_ERRORS: Final = (BotoCoreError, ClientError, TimeoutError)

# At DEBUG botocore logs whole responses, including the secrets.
logging.getLogger("botocore").setLevel(logging.WARNING)

_this_thread = threading.local()


def call_with_deadline(function: Callable[P, T], deadline: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a client's method and return its answer; raise TimeoutError at the deadline.

    An abandoned call sends nothing more. Lambda freezes the process after its answer, and what is sent when it goes on,
    an hour later, SQS would take for new.
    """

    def run() -> T:
        _this_thread.deadline = deadline
        return function(*args, **kwargs)

    return run_with_deadline(run, deadline)


def error_code(error: Exception) -> str:
    """Return a short name for an error, without its text, which could hold anything."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def _refuse_after_deadline(connection_class: Any) -> Any:
    """Return a class of connections that send nothing after the deadline of their thread's call.

    They look once the name is resolved, the connection open and the TLS handshake done, however long that took: urllib3
    calls `send` then, and for plain HTTP, http.client would connect within it.
    """

    class Connection(connection_class):  # type: ignore[misc]  # botocore has no types
        def send(self, data: bytes) -> None:
            if self.sock is None:
                self.connect()
            if time.monotonic() > getattr(_this_thread, "deadline", math.inf):
                raise TimeoutError("past the deadline")
            super().send(data)

    return Connection


# urllib3's way to choose the class of a pool's connections. In threads without a deadline nothing changes.
for _pool in (AWSHTTPConnectionPool, AWSHTTPSConnectionPool):
    _pool.ConnectionCls = _refuse_after_deadline(_pool.ConnectionCls)
