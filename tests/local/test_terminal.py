"""What a terminal is shown, and a pipe is not."""

import io
from contextlib import redirect_stdout

import pytest

from local.terminal import fitted, painted, progress
from tests.support import wait_until


class Terminal(io.StringIO):
    """Looks like a terminal to who prints there."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_shows_colours() -> None:
    with redirect_stdout(Terminal()):
        assert painted("FIX", "red") == "\x1b[31mFIX\x1b[0m"


def test_nobody_sees_colours_who_does_not_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    with redirect_stdout(Terminal()):
        assert painted("FIX", "red") == "FIX"


def test_a_pipe_has_no_colours() -> None:
    with redirect_stdout(io.StringIO()):
        assert painted("FIX", "red") == "FIX"


ROW = "array.json  200 queued  alert trigger, alert resolve, change  resolved"


def test_a_row_that_is_too_long_goes_on_below_itself() -> None:
    with redirect_stdout(Terminal()):
        assert fitted(ROW).splitlines() == [
            "array.json  200 queued  alert trigger,",
            "    alert resolve, change  resolved",
        ]


def test_a_rule_that_is_too_long_is_cut() -> None:
    with redirect_stdout(Terminal()):
        assert fitted("-" * 30 + "  " + "-" * 30) == "-" * 30 + "  " + "-" * 8


def test_in_a_pipe_a_row_stays_one_line() -> None:
    with redirect_stdout(io.StringIO()):
        assert fitted(ROW) == ROW


def test_a_terminal_shows_that_something_is_going_on_for_as_long_as_it_does() -> None:
    with redirect_stdout(Terminal()) as terminal, progress("queued", every=0.01):
        wait_until(lambda: "queued: 0 s" in terminal.getvalue())

    assert terminal.getvalue().endswith(" s\r\x1b[K")


def test_a_pipe_gets_no_progress() -> None:
    with redirect_stdout(io.StringIO()) as pipe, progress("queued", every=0.0):
        pass

    assert pipe.getvalue() == ""
