"""Calls that may hang: each runs in a thread, and nobody waits for it past its deadline.

A look-up of a name, or an answer that trickles in, knows no time-out. Deadlines are in seconds of the monotonic clock.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds. With less than this left, no call is begun.
SHORTEST_CALL: Final = 0.25

# One is in use, and another for each call that hangs on; a request leaves at most a few behind.
_THREADS: Final = ThreadPoolExecutor(100, thread_name_prefix="call")


def call_until(function: Callable[P, T], deadline: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function and return what it returns, at the latest at the deadline.

    Past the deadline TimeoutError is raised, and nobody looks at what the thread still does.
    """
    return _THREADS.submit(function, *args, **kwargs).result(max(0.0, deadline - time.monotonic()))
