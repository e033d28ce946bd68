"""Ends a command within two seconds of Ctrl-C: it says `Stopped.`, exits with 130, and leaves no process behind.

`python -m local.command MODULE ARGUMENT...` runs a module so that this holds from its first import on.
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
# Until then the command may clean up by itself.
_SECONDS: Final = 1.0
_STDERR: Final = 2
# Held once `Stopped.` is printed, by whichever thread was first.
_said: Final = threading.Lock()


def run(command: Callable[[], int]) -> int:
    """Run a command in the main thread; return its exit code, or 130 if it was interrupted.

    Child processes are ended at once, since threads and context managers may wait for them. What takes too long
    nevertheless, such as a thread that is still busy, ends with the process.
    """
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        # Once is enough: a second Ctrl-C must not disturb the clean-up.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        interrupted.set()
        # Whatever fails from now on fails because of this.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)
        _end_children(signal.SIGTERM)
        raise KeyboardInterrupt

    def leave_at_once() -> None:
        if interrupted.is_set():
            sys.stdout.flush()
            os._exit(INTERRUPTED)

    # It runs after what others register later; to tear down the modules takes a second or more on a busy machine.
    atexit.register(leave_at_once)
    # Python writes each signal to the pipe at once, whatever the main thread is busy with.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    threading.Thread(target=_end_in_time, args=(reader,), daemon=True).start()
    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        code = command()
    except BaseException:
        if not interrupted.is_set():
            raise
    if not interrupted.is_set():
        return code
    _say_stopped()
    return INTERRUPTED


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Let the processes that are started in the block ignore Ctrl-C, which a terminal sends to them as well."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def children(pid: int) -> Iterator[int]:
    """Yield the ids of a process's children; on Linux only."""
    # The process, or one of its threads, may end meanwhile.
    with contextlib.suppress(OSError):
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                yield from map(int, tasks.read_text().split())


def _end_in_time(reader: int) -> None:
    while os.read(reader, 1)[0] not in _SIGNALS:
        continue
    time.sleep(_SECONDS)
    _say_stopped()
    _end_children(signal.SIGKILL)
    os._exit(INTERRUPTED)


def _say_stopped() -> None:
    if _said.acquire(blocking=False):
        print("\r\x1b[KStopped." if sys.stdout.isatty() else "Stopped.", flush=True)


def _end_children(number: signal.Signals) -> None:
    pids = {*_descendants(os.getpid()), *(each.pid for each in multiprocessing.active_children() if each.pid)}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            # A stopped process, as `chaos` has some, would end only then.
            os.kill(pid, signal.SIGCONT)


def _descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _descendants(child)


def _module() -> int:
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(_module))
