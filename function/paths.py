"""Paths into an event, texts with such paths in them, and the values that they lead to.

Pure. Paths and texts are read once, from the settings; for an event they are looked up. Nothing is evaluated: a step
of a path is a name in an object or a position in an array.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import limits
from event import encode

# The steps of a path, none of them blank.
Path = tuple[str, ...]

# A path in a text stands in braces.
_IN_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_BRACE: Final = re.compile(r"[{}]")
# No array of a body of 5 MB is that long.
_MAX_DIGITS: Final = 9
_SHOWN_CHARACTERS: Final = 40


def read_path(text: str) -> Path:
    """Read a dotted path such as `context.traits.plan`. Raises ValueError when it has a blank step or a brace."""
    steps = tuple(text.strip().split("."))
    if _BRACE.search(text) or not all(step.strip() for step in steps):
        raise ValueError("not a path")
    return steps


@dataclass(frozen=True, slots=True)
class Template:
    """A text with paths in it: the texts around its paths, one more than there are paths."""

    around: tuple[str, ...]
    paths: tuple[Path, ...]

    def fill(self, values: Sequence[str]) -> str:
        """Write the text with a value in the place of each path."""
        return "".join(text + value for text, value in zip(self.around, (*values, ""), strict=True))


def read_template(text: str) -> Template:
    """Read a text such as `{event} on {properties.host}`. Raises ValueError when it has no path, or a lone brace."""
    parts = _IN_BRACES.split(text)
    around, paths = tuple(parts[::2]), tuple(read_path(part) for part in parts[1::2])
    if not paths or any(_BRACE.search(part) for part in around):
        raise ValueError("not a text with paths")
    return Template(around, paths)


class Finder:
    """Finds values in one event, any JSON whatever.

    A value under its exact name counts first. Where it is missing, or null, the first name counts that has the same
    letters and digits, whatever their case and what separates them; `warnings` gets to know how to write it.
    """

    __slots__ = ("_folded", "event", "warnings")

    def __init__(self, event: Any) -> None:
        self.event: Any = event
        self.warnings: list[str] = []
        # By the identity of an object: its names by what is left of them. Each object is looked through once.
        self._folded: dict[int, dict[str, str]] = {}

    def find(self, path: Path) -> Any:
        """Follow the path; return None when it leads nowhere."""
        value = self.event
        for number, step in enumerate(path):
            if isinstance(value, dict):
                found = value.get(step)
                value = self.near(value, step, path[:number]) if found is None else found
            elif isinstance(value, list) and _is_position(step, value):
                value = value[int(step)]
            else:
                return None
            if value is None:
                return None
        return value

    def texts(self, template: Template) -> list[str | None]:
        """Find the values for the paths of a text, as texts; None for each that is missing or blank."""
        known = {path: _as_text(self.find(path)) for path in dict.fromkeys(template.paths)}
        return [known[path] for path in template.paths]

    def near(self, holder: dict[str, Any], name: str, place: Path) -> Any:
        """Find the value in the object at `place` whose name is nearly right; None when there is none."""
        other = self.folded(holder).get(fold(name))
        if other is None:
            return None
        warning = f"{'.'.join((*place, name))}: found as {shown(other)}; write it as {name}"
        if warning not in self.warnings:
            self.warnings.append(warning)
        return holder[other]

    def folded(self, holder: dict[str, Any]) -> dict[str, str]:
        """Return the names in the object that have a value, by their letters and digits; of several, the first."""
        known = self._folded.get(id(holder))
        if known is None:
            known = self._folded[id(holder)] = {}
            for name, value in holder.items():
                if value is not None and (letters := fold(name)):
                    known.setdefault(letters, name)
        return known


def fold(name: str) -> str:
    """Reduce a name to its letters and digits, in lower case."""
    return (name if name.isalnum() else "".join(filter(str.isalnum, name))).lower()


def _is_position(step: str, items: list[Any]) -> bool:
    return step.isdecimal() and len(step) <= _MAX_DIGITS and int(step) < len(items)


# -- values as texts -------------------------------------------------------------------------------------------------


def text_of(value: object) -> str | None:
    """Write a scalar as text, 5.0 as "5" and True as "true", as JavaScript does; None when it is no scalar.

    Half of a surrogate pair, which neither the log nor PagerDuty can have, becomes a question mark.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:  # noqa: PLR2004 -- Python writes larger ones with an exponent
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return None


def shown(value: object) -> str:
    """Show people what came instead of what was expected: a short scalar as it is, anything larger by its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = text_of(value) or ""
    if isinstance(value, str):
        return f'"{text}"' if len(text) <= _SHOWN_CHARACTERS else f"a string of {len(text):,} characters"
    return text if len(text) <= _SHOWN_CHARACTERS else "a long number"


def _as_text(value: object) -> str | None:
    """Write any JSON as text, objects and arrays as JSON; None for null, and for what is blank or too deep."""
    if value is None or limits.deeper_than(limits.MAX_DETAILS_DEPTH, value):
        return None
    text = text_of(value)
    if text is None:
        return encode(value).decode()
    return text if text and not text.isspace() else None
