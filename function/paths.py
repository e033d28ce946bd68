"""Names and paths in an event, texts with such paths in them, and the values that they lead to.

Pure. Paths and texts are read once, from the settings; for an event they are looked up. Nothing is evaluated: a step
of a path is a name in an object or a position in an array.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import limits
from event import encode

# The steps of a path, none of them blank.
Path = tuple[str, ...]
# Right names, by themselves and by the letters and digits that stand for them.
Names = Mapping[str, str]

# A path in a text stands in braces.
_IN_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_BRACE: Final = re.compile(r"[{}]")
# No array of a body of 5 MB is that long; no name has as many dots.
_MAX_DIGITS: Final = 9
_MAX_STEPS_OF_NAME: Final = 20
# Names of an object among which similar ones are looked for: no real object has as many.
_MAX_COMPARED_NAMES: Final = 100_000
_MAX_DESCRIBED_CHARACTERS: Final = 40
# What `str.isspace` knows, and the zero-width characters, which are as invisible and come with copied texts and files.
_BLANKS: Final = (
    " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u200b\u200c\u200d\u2060\ufeff"
)
# For `normalize`, of which an event's every name needs one: four times faster than to look at each character.
_LETTERS: Final = {code: chr(code).lower() if chr(code).isalnum() else None for code in range(128)}


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


class EventReader:
    """Reads one event, any JSON whatever, by one rule for all names.

    The exact name comes first. Where its value is missing, the first name counts that has a value and the same letters
    and digits, whatever their case and what separates them; a warning gives the right spelling.
    """

    __slots__ = ("_names", "event", "is_preview", "value_limit", "warnings")

    def __init__(self, event: Any, value_limit: limits.ValueLimit | None = None, *, is_preview: bool = False) -> None:
        self.event: Any = event
        self.is_preview = is_preview
        self.warnings: list[str] = []
        self.value_limit = value_limit or limits.ValueLimit()
        # The names in an object of the event, by their letters; found by the object's identity.
        self._names: dict[int, dict[str, list[str]]] = {}

    def get(self, holder: dict[str, Any], names: Names, place: str = "") -> dict[str, Any]:
        """Return the values in the object at `place` that are not missing, by the names that are right for them."""
        found, others = {}, []
        for name, value in holder.items():
            if names.get(name) != name:
                others.append(name)
            # As `is_missing`, whose call for each name would take longer than all the rest.
            elif value is not None and not (isinstance(value, str) and not value.strip(_BLANKS)):
                found[name] = value
        for other in others if may_be_compared(holder) else ():
            right = names.get(normalize(other))
            if right is not None and right not in found and not is_missing(holder[other]):
                found[right] = holder[other]
                self.warn_of_spelling(place, right, other)
        return found

    def get_similar(self, holder: dict[str, Any], letters: str) -> list[str]:
        """Return the names in an object of the event that have these letters and digits, and a value."""
        known = self._names.get(id(holder))
        if known is None:
            known = self._names[id(holder)] = {}
            for name in holder if may_be_compared(holder) else ():
                if (its := normalize(name)) in known:
                    known[its].append(name)
                else:
                    known[its] = [name]
        return [name for name in known.get(letters, ()) if letters and not is_missing(holder[name])]

    def warn_of_spelling(self, place: str, name: str, found: str) -> None:
        """Say how to write a name that was found in another spelling."""
        self.warnings.append(f"{place}{place and '.'}{name}: found as {describe(found)}; write it as {name}")

    def find(self, path: Path, value: Any = None, start: int = 0) -> Any:
        """Follow a path; return None when it leads nowhere. What is not nested may be under a name with its dots."""
        value = value if start else self.event
        holders = []
        for index in range(start, len(path)):
            step = path[index]
            if isinstance(value, dict):
                holders.append((value, index))
                holder, value = value, value.get(step)
                if is_missing(value) and (similar := self.get_similar(holder, normalize(step))):
                    value = holder[similar[0]]
                    self.warn_of_spelling(".".join(path[:index]), step, similar[0])
            else:
                is_position = isinstance(value, list) and step.isdecimal() and len(step) <= _MAX_DIGITS
                value = value[int(step)] if is_position and int(step) < len(value) else None
            if value is None:
                break
        while is_missing(value) and holders:
            holder, index = holders.pop()
            for end in range(index + 2, min(index + _MAX_STEPS_OF_NAME, len(path)) + 1):
                literal = holder.get(".".join(path[index:end]))
                if is_missing(value) and literal is not None:
                    value = self.find(path, literal, end)
        return value

    def find_texts(self, template: Template) -> list[str | None]:
        """Find the values for the paths of a text, as texts; None for each that is missing."""
        return [self.explain(path, to_text(self.find(path), self.value_limit)) for path in template.paths]

    def explain(self, path: Path, value: Any) -> Any:
        """Return the value of a setting's path; in a preview, warn if it is None."""
        if self.is_preview and value is None:
            self.warnings.append(f"{'.'.join(path)}: nothing found in this event")
        return value


def by_letters(*names: str, **others: str) -> dict[str, str]:
    """Return the names by themselves and by their letters and digits, the first of the same ones, and by `others`."""
    return {**{name: name for name in names}, **{normalize(name): name for name in reversed(names)}, **others}


def normalize(name: str) -> str:
    """Reduce a name to its letters and digits, in lower case."""
    return name.translate(_LETTERS) if name.isascii() else "".join(filter(str.isalnum, name)).lower()


def may_be_compared(holder: dict[str, Any]) -> bool:
    """Return whether an object has few enough names that similar ones are looked for."""
    return len(holder) <= _MAX_COMPARED_NAMES


def is_missing(value: object) -> bool:
    """Return whether it is null, a blank text, or a number that JSON does not have."""
    return value is None or (isinstance(value, str) and not value.strip(_BLANKS))


def strip(text: str) -> str:
    """Remove outer white space, zero-width characters included."""
    return text.strip(_BLANKS)


def scalar_to_text(value: object) -> str | None:
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


def to_text(value: object, value_limit: limits.ValueLimit) -> str | None:
    """Write any JSON as text, objects and arrays as JSON; None for what is missing, too deep or too much."""
    if is_missing(value) or value_limit.problem(value):
        return None
    text = scalar_to_text(value)
    return encode(value).decode() if text is None else text


def describe(value: object) -> str:
    """Describe for people what was found instead: a short scalar as it is, anything else by its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = scalar_to_text(value) or ""
    if len(text) > _MAX_DESCRIBED_CHARACTERS:
        return f"a string of {len(text):,} characters" if isinstance(value, str) else "a long number"
    return f'"{text}"' if isinstance(value, str) else text
