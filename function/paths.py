"""Names and paths in an event, templates with such paths, and their values.

Pure. Paths and templates are parsed once, from the settings. Nothing is evaluated: a step of a path is a name in an
object or a position in an array.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import limits
from event import encode

# The steps of a path, none of them blank.
Path = tuple[str, ...]
# The right names, by themselves and by their letters and digits.
Names = Mapping[str, str]

_IN_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_BRACE: Final = re.compile(r"[{}]")
# No array of a body of 5 MB is that long; no name has as many dots.
_MAX_DIGITS: Final = 9
_MAX_STEPS_OF_NAME: Final = 20
# In an object with more names, similar ones are not looked for; no real object has as many.
MAX_COMPARED_NAMES: Final = 100_000
_MAX_DESCRIBED_CHARACTERS: Final = 40
# The white space of `str.isspace`, and the zero-width characters that come with copied texts and files.
_BLANKS: Final = (
    " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u200b\u200c\u200d\u2060\ufeff"
)
# For `normalize`, which is called for each name of an event: four times faster than testing each character.
_LETTERS: Final = {code: chr(code).lower() if chr(code).isalnum() else None for code in range(128)}


def read_path(text: str) -> Path:
    """Parse a dotted path such as `context.traits.plan`. Raises ValueError if it has a blank step or a brace."""
    steps = tuple(text.strip().split("."))
    if _BRACE.search(text) or not all(step.strip() for step in steps):
        raise ValueError("a dotted path without empty steps, such as properties.dedupKey")
    return steps


@dataclass(frozen=True, slots=True)
class Template:
    """A text with paths: `around` are the texts between them, one more than there are paths."""

    around: tuple[str, ...]
    paths: tuple[Path, ...]

    def fill(self, values: Sequence[str]) -> str:
        """Return the text with the values in place of the paths."""
        return "".join(text + value for text, value in zip(self.around, (*values, ""), strict=True))


def read_template(text: str) -> Template:
    """Parse a text such as `{event} on {properties.host}`. Raises ValueError if it has no path, or a lone brace."""
    parts = _IN_BRACES.split(text)
    around, paths = tuple(parts[::2]), tuple(read_path(part) for part in parts[1::2])
    if not paths or any(_BRACE.search(part) for part in around):
        raise ValueError("a text with dotted paths in braces, such as {event} on {properties.host}")
    return Template(around, paths)


class EventReader:
    """Reads one event, which may be any JSON, with the same rule for all names.

    The exact name comes first. If its value is missing, the first name with the same letters and digits and a value
    counts, whatever its case and separators; a warning gives the right spelling.
    """

    __slots__ = ("_names", "event", "is_preview", "value_limit", "warnings")

    def __init__(self, event: Any, value_limit: limits.ValueLimit | None = None, *, is_preview: bool = False) -> None:
        self.event: Any = event
        self.is_preview = is_preview
        self.warnings: list[str] = []
        self.value_limit = value_limit or limits.ValueLimit()
        # By the id of an object of the event: its names, by their letters and digits.
        self._names: dict[int, dict[str, list[str]]] = {}

    def get(self, holder: dict[str, Any], names: Names, place: str = "") -> dict[str, Any]:
        """Return the values in the object at `place` that are not missing, by their right names."""
        found, others = {}, []
        for name, value in holder.items():
            if names.get(name) != name:
                others.append(name)
            # `is_missing` written out: a call for each name would take longer than all the rest.
            elif value is not None and not (isinstance(value, str) and not value.strip(_BLANKS)):
                found[name] = value
        for other in others if len(holder) <= MAX_COMPARED_NAMES else ():
            right = names.get(normalize(other))
            if right is not None and right not in found and not is_missing(holder[other]):
                found[right] = holder[other]
                self.warn_of_spelling(place, right, other)
        return found

    def get_similar(self, holder: dict[str, Any], letters: str) -> list[str]:
        """Return the names in an object of the event that have these letters and digits and a value."""
        known = self._names.get(id(holder))
        if known is None:
            known = self._names[id(holder)] = {}
            for name in holder if len(holder) <= MAX_COMPARED_NAMES else ():
                known.setdefault(normalize(name), []).append(name)
        return [name for name in known.get(letters, ()) if letters and not is_missing(holder[name])]

    def warn_of_spelling(self, place: str, name: str, found: str) -> None:
        """Warn that a name was found in another spelling."""
        self.warnings.append(f"{place}{place and '.'}{name}: found as {describe(found)}; write it as {name}")

    def find(self, path: Path, value: Any = None, start: int = 0) -> Any:
        """Return the value at a path, or None. If nothing is nested like that, a name may contain the dots."""
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
        """Return the values at the paths of a template, as texts; None for each that is missing."""
        return [self.explain(path, to_text(self.find(path), self.value_limit)) for path in template.paths]

    def explain(self, path: Path, value: Any) -> Any:
        """Return the value at a setting's path; in a preview, warn if it is None."""
        if self.is_preview and value is None:
            self.warnings.append(f"{'.'.join(path)}: nothing found in this event")
        return value


def by_letters(*names: str, **others: str) -> dict[str, str]:
    """Return the names by themselves and by their letters and digits, earlier names first, and `others`."""
    return {**{name: name for name in names}, **{normalize(name): name for name in reversed(names)}, **others}


def normalize(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return name.translate(_LETTERS) if name.isascii() else "".join(filter(str.isalnum, name)).lower()


def is_missing(value: object) -> bool:
    """Return whether the value is null, a blank text, or a number that JSON does not have."""
    return value is None or (isinstance(value, str) and not value.strip(_BLANKS))


def strip(text: str) -> str:
    """Return the text without outer white space and zero-width characters."""
    return text.strip(_BLANKS)


def scalar_to_text(value: object) -> str | None:
    """Return a scalar as text, as JavaScript writes it (5.0 as "5", True as "true"); None if it is not a scalar.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.
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
    """Return any JSON as text, objects and arrays as JSON; None if it is missing, too deep or too much."""
    if is_missing(value) or value_limit.problem(value):
        return None
    text = scalar_to_text(value)
    return encode(value).decode() if text is None else text


def describe(value: object) -> str:
    """Return a value as messages show it: a short scalar as it is, anything else by its type."""
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
