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

# Four attempts of a throttled call take seconds; `call_with_deadline` limits all of them together.
CLIENT_CONFIG: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 4})
# DynamoDB has one second in all. The legacy mode retries it after 50, 100 and 200 ms (`botocore/data/_retry.json`), the
# standard mode after up to a second.
DYNAMODB_CONFIG: Final = CLIENT_CONFIG.merge(Config(retries={"mode": "legacy", "total_max_attempts": 4}))
# The errors of `call_with_deadline`.
AWS_ERRORS: Final = (BotoCoreError, ClientError, TimeoutError)

# At DEBUG botocore logs responses, including secrets.
logging.getLogger("botocore").setLevel(logging.WARNING)

_this_thread = threading.local()


def call_with_deadline(function: Callable[P, T], deadline: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a method of a boto3 client and return its answer. Raises AWS_ERRORS, TimeoutError at the deadline.

    An abandoned call sends nothing more. Lambda freezes the process after the response; if the call went on an hour
    later, SQS would accept the message as a new one.
    """

    def run() -> T:
        _this_thread.deadline = deadline
        return function(*args, **kwargs)

    return run_with_deadline(run, deadline)


def error_code(error: Exception) -> str:
    """Return a short name for an error, without its text, which could contain anything."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def _refuse_after_deadline(connection_class: Any) -> Any:
    """Return a class of connections that send nothing after the deadline of their thread's call.

    urllib3 calls `send` after the look-up of the name, the connect and the TLS handshake; for plain HTTP, http.client
    would connect within it.
    """

    class Connection(connection_class):  # type: ignore[misc]  # botocore has no types
        def send(self, data: bytes) -> None:
            if self.sock is None:
                self.connect()
            if time.monotonic() > getattr(_this_thread, "deadline", math.inf):
                raise TimeoutError("past the deadline")
            super().send(data)

    return Connection


# urllib3 reads the class of a pool's connections there. Threads without a deadline are not affected.
for _pool in (AWSHTTPConnectionPool, AWSHTTPSConnectionPool):
    _pool.ConnectionCls = _refuse_after_deadline(_pool.ConnectionCls)
