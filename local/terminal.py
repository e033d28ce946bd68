"""Output on a terminal or into a pipe: colours, tables, progress, and hostile text made harmless."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from rich.box import Box
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Colour = Literal["red", "green", "yellow"]

# A rule of dashes below the header, and spaces between the columns.
_BOX: Final = Box("    \n    \n -  \n    \n    \n    \n    \n    \n")
# Columns: wide enough that a row stays on one line in a pipe.
_PIPE_WIDTH: Final = 10_000


def painted(text: str, colour: Colour) -> str:
    """Return the text in colour, or as it is in a pipe or if NO_COLOR (https://no-color.org) is set."""
    console = _console()
    with console.capture() as captured:
        console.print(Text(text, style=colour), end="", soft_wrap=True)
    return captured.get()


def printable(text: str) -> str:
    """Replace control characters and others that are not printable with spaces: they could control the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. Cells are wrapped on a terminal that is too narrow; in a pipe each row is one line."""
    table = Table(*header, box=_BOX, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    console = _console()
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on a terminal what is going on and for how long; it is erased at the end."""
    columns = (TextColumn("{task.description}:"), TimeElapsedColumn())
    console = _console()
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
    ) as shown:
        shown.add_task(what, total=None)
        yield


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
