"""What is printed on a terminal, and into a pipe."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout

import pytest

from local.terminal import painted, print_table, printable, progress
from tests.support import wait_until

HEADER, ROW = ("event file", "PagerDuty received"), ("array.json", "alert trigger, alert resolve, \x1b[31mchange")


class Terminal(io.StringIO):
    """Text that a program takes for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.parametrize(
    ("make", "environment", "text"),
    [(Terminal, {}, "\x1b[31mFIX\x1b[0m"), (Terminal, {"NO_COLOR": "1"}, "FIX"), (io.StringIO, {}, "FIX")],
    ids=["terminal", "NO_COLOR", "pipe"],
)
def test_only_a_terminal_has_colours_unless_they_are_switched_off(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], io.StringIO], environment: dict[str, str], text: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(make()):
        assert painted("FIX", "red") == text


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (io.StringIO, ["array.json  alert trigger, alert resolve,  [31mchange"]),
        (Terminal, ["array.json  alert trigger, alert", "            resolve,  [31mchange"]),
    ],
    ids=["pipe", "narrow terminal"],
)
def test_a_row_is_one_line_in_a_pipe_and_wrapped_on_a_terminal(
    make: Callable[[], io.StringIO], lines: list[str]
) -> None:
    with redirect_stdout(make()) as output:
        print_table(HEADER, [ROW])

    assert output.getvalue().splitlines()[2:] == lines


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31m\x9b\u202e\r\n東京 🚨") == "a [31m    東京 🚨"


def test_progress_is_shown_on_a_terminal_only() -> None:
    with redirect_stdout(Terminal()) as terminal, progress("Sending"):
        wait_until(lambda: "Sending: " in terminal.getvalue())
    with redirect_stdout(io.StringIO()) as pipe, progress("Sending"):
        pass

    assert pipe.getvalue() == ""
