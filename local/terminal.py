"""What a terminal is shown, and a pipe is not: colours, lines that fit, and that something is still going on."""

import contextlib
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Final, Literal

Colour = Literal["red", "green", "yellow"]

# https://en.wikipedia.org/wiki/ANSI_escape_code#Colors
_CODES: Final = {"red": 31, "green": 32, "yellow": 33}
_ERASE: Final = "\r\x1b[K"


def painted(text: str, colour: Colour) -> str:
    """Colour a text, unless it goes into a pipe or NO_COLOR (https://no-color.org) is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def fitted(line: str) -> str:
    """Break a line of a table that is wider than the terminal, with the rest indented below it; rules are cut."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= width:
        return line
    if not line.strip("- "):
        return line[:width]
    return textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False)


@contextlib.contextmanager
def progress(what: str, every: float = 1.0) -> Iterator[None]:
    """Show, every so many seconds, for how long something has been going on; it leaves no trace."""
    if not sys.stdout.isatty():
        yield
        return
    done = threading.Event()
    began = time.monotonic()

    def show() -> None:
        while not done.wait(every):
            print(f"{_ERASE}{what}: {time.monotonic() - began:.0f} s", end="", flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print(_ERASE, end="", flush=True)
