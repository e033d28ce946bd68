"""Output on a terminal or into a pipe: colours, tables, progress, and hostile text made harmless."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Colour = Literal["red", "green", "yellow"]

# Columns: wide enough that a row stays on one line in a pipe.
_PIPE_WIDTH: Final = 10_000


def painted(text: str, colour: Colour) -> str:
    """Return the text in colour, or as it is in a pipe or if NO_COLOR (https://no-color.org) is set."""
    console = _console()
    with console.capture() as captured:
        console.print(Text(text, style=colour), end="", soft_wrap=True)
    return captured.get()


def counted(number: int, noun: str) -> str:
    """Return the number with the noun, in the plural unless it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Replace control characters and others that are not printable with spaces: they could control the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. Cells are wrapped on a terminal that is too narrow; in a pipe each row is one line."""
    table = Table(*header, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    _console().print(table)


def progress(what: str) -> AbstractContextManager[object]:
    """Show a status line on a terminal, and erase it at the end."""
    # Refreshed rarely, so as not to disturb measurements.
    return _console().status(what, refresh_per_second=2)


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
