"""Calls that may hang: each is made in a thread, and nobody waits for it past its deadline.

A look-up of a name, or an answer that trickles in, knows no time-out. Deadlines are in seconds of the monotonic clock.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds. With less than this left, no call is begun.
SHORTEST_CALL: Final = 0.25

# Not a ThreadPoolExecutor: at its exit, Python would wait for a thread of it that hangs.
_calls: Final[SimpleQueue[Callable[[], None]]] = SimpleQueue()
_idle_threads: Final = Semaphore(0)


def call_until(function: Callable[P, T], deadline: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function and return what it returns, at the latest at the deadline.

    Past the deadline TimeoutError is raised, and nobody looks at what the thread still does; the next call has another.
    """
    answer: Future[T] = Future()

    def call() -> None:
        try:
            answer.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- it is raised where the answer is waited for
            answer.set_exception(error)

    if not _idle_threads.acquire(blocking=False):
        Thread(target=_make_calls, name="call", daemon=True).start()
    _calls.put(call)
    return answer.result(max(0.0, deadline - time.monotonic()))


def _make_calls() -> None:
    """Make one call after the other, for as long as the process lives."""
    while True:
        _calls.get()()
        _idle_threads.release()
