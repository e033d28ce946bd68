"""Calls that may hang run in a thread, and the caller stops waiting at the deadline (seconds of the monotonic clock).

Timeouts do not bound the look-up of a name, or an answer that trickles in.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds. With less than this left, no call is started.
MIN_CALL: Final = 0.25

# Not a ThreadPoolExecutor: at exit Python would wait for its threads.
_calls: Final[SimpleQueue[Callable[[], None]]] = SimpleQueue()
_idle_threads: Final = Semaphore(0)


def run_with_deadline(function: Callable[P, T], deadline: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function in a thread and return its result; raise TimeoutError at the deadline.

    The thread is then abandoned; later calls use another.
    """
    answer: Future[T] = Future()

    def call() -> None:
        try:
            answer.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- raised again where the result is awaited
            answer.set_exception(error)

    if not _idle_threads.acquire(blocking=False):
        Thread(target=_make_calls, name="call", daemon=True).start()
    _calls.put(call)
    return answer.result(max(0.0, deadline - time.monotonic()))


def _make_calls() -> None:
    """Make one call after the other until the process ends."""
    while True:
        _calls.get()()
        _idle_threads.release()
