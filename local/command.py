"""End a command within two seconds of Ctrl-C: print `Stopped.`, exit with 130, and leave no process behind.

`python -m local.command MODULE ARGUMENT...` runs a module this way, also while it is still being imported.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

INTERRUPTED: Final = 130
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The time that the command has to clean up by itself.
_SECONDS: Final = 1.0
# Erase the line and show the cursor, both of which a progress display may have changed.
_RESET: Final = "\r\x1b[K\x1b[?25h"
# Held by the thread that prints `Stopped.`, for good.
_stopped: Final = threading.Lock()


def run(command: Callable[[], int]) -> int:
    """Run a command in the main thread; return its exit code, or 130 if it was interrupted.

    Child processes are terminated at once, because threads and context managers may wait for them. After a second the
    process exits, even if a thread is still busy.
    """
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        # A second Ctrl-C must not disturb the clean-up.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        interrupted.set()
        # Hide the errors that the interruption causes: 2 is standard error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _signal_children(signal.SIGTERM)
        raise KeyboardInterrupt

    def exit_at_once() -> None:
        if interrupted.is_set():
            sys.stdout.flush()
            os._exit(INTERRUPTED)

    # Runs after exit functions that are registered later. Tearing down the modules can take a second.
    atexit.register(exit_at_once)
    # Python writes each signal to the pipe at once, even while the main thread is busy.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    threading.Thread(target=_exit_in_time, args=(reader,), daemon=True).start()
    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        code = command()
    except BaseException:
        if not interrupted.is_set():
            raise
    if not interrupted.is_set():
        return code
    _print_stopped()
    return INTERRUPTED


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Start processes in the block that ignore Ctrl-C, which a terminal sends to children too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of the processes that a process has started, and of theirs. Linux only."""
    # The process or one of its threads may end meanwhile.
    with contextlib.suppress(OSError):
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, tasks.read_text().split()):
                    yield child
                    yield from descendants(child)


def _exit_in_time(reader: int) -> None:
    while os.read(reader, 1)[0] not in _SIGNALS:
        continue
    time.sleep(_SECONDS)
    _print_stopped()
    _signal_children(signal.SIGKILL)
    os._exit(INTERRUPTED)


def _print_stopped() -> None:
    if _stopped.acquire(blocking=False):
        print(f"{_RESET}Stopped." if sys.stdout.isatty() else "Stopped.", flush=True)


def _signal_children(number: signal.Signals) -> None:
    pids = {*descendants(os.getpid()), *(each.pid for each in multiprocessing.active_children() if each.pid)}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            # A stopped process handles the signal only after it continues.
            os.kill(pid, signal.SIGCONT)


def _module() -> int:
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(_module))
