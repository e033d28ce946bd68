"""Calls that stop at a deadline."""

import subprocess
import sys
import threading
import time

import pytest

from deadline import run_with_deadline
from local.options import ROOT
from tests.support import soon


def test_a_call_that_hangs_delays_no_other() -> None:
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        run_with_deadline(go_on.wait, time.monotonic() + 0.1, 30)

    assert run_with_deadline(str, soon(), "done") == "done"
    go_on.set()


def test_threads_are_used_again() -> None:
    before = set(threading.enumerate())
    for _ in range(20):
        run_with_deadline(int, soon())

    assert len({*threading.enumerate()} - before) < 20


def test_a_call_that_hangs_forever_does_not_keep_the_process_alive() -> None:
    program = "import threading, deadline; deadline.run_with_deadline(threading.Event().wait, 0)"
    done = subprocess.run(  # noqa: S603 -- our own program
        [sys.executable, "-c", program], cwd=ROOT / "function", capture_output=True, text=True, check=False, timeout=30
    )

    assert done.stderr.splitlines()[-1] == "TimeoutError"
