"""Reads log lines as CloudWatch Logs Insights does, as far as the queries of the documents go; refuses anything else.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html
"""

import ast
import re
from collections.abc import Callable, Iterable
from typing import Any

Line = dict[str, Any]


def run(query: str, lines: Iterable[Line]) -> list[Line]:
    """Pass the lines, each with its `@timestamp`, through the commands of the query; return the rows of its result."""
    rows = list(lines)
    for command in query.split("|"):
        name, _, rest = command.strip().partition(" ")
        rows = _COMMANDS[name](rest.strip(), rows)
    return rows


def _filter(text: str, rows: list[Line]) -> list[Line]:
    if " or " in text and " and " in text:
        raise ValueError(f"what binds stronger is not known here: {text}")
    among, word = (any, " or ") if " or " in text else (all, " and ")
    return [row for row in rows if among(_holds(part, row) for part in text.split(word))]


def _holds(condition: str, row: Line) -> bool:
    if found := re.fullmatch(r"ispresent\((\S+)\)", condition):
        return _field(row, found[1]) is not None
    if found := re.fullmatch(r"(\S+) in (\[.+\])", condition):
        return _field(row, found[1]) in ast.literal_eval(found[2])
    if found := re.fullmatch(r"(\S+) = (\S+)", condition):
        return bool(_field(row, found[1]) == ast.literal_eval(found[2]))
    if found := re.fullmatch(r"(\S+) != (\S+)", condition):
        return bool(_field(row, found[1]) != ast.literal_eval(found[2]))
    raise ValueError(f"not a condition that is known here: {condition}")


def _fields(text: str, rows: list[Line]) -> list[Line]:
    found = re.findall(r'strcontains\((\w+), "(\w+)"\) as (\w+)', text)
    if ", ".join(f'strcontains({name}, "{part}") as {alias}' for name, part, alias in found) != text:
        raise ValueError(f"not functions that are known here: {text}")
    return [row | {alias: int(part in row[name]) for name, part, alias in found} for row in rows]


def _stats(text: str, rows: list[Line]) -> list[Line]:
    functions, _, by = text.partition(" by ")
    found = re.findall(r"(\w+)\((\S+)\) as (\w+)", functions)
    if ", ".join(f"{name}({field}) as {alias}" for name, field, alias in found) != functions:
        raise ValueError(f"not functions that are known here: {functions}")
    names = by.split(", ")
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for row in sorted(rows, key=lambda row: str(row["@timestamp"])):
        groups.setdefault(tuple(_field(row, name) for name in names), []).append(row)
    return [
        dict(zip(names, key, strict=True))
        | {alias: _FUNCTIONS[name]([_field(row, field) for row in group]) for name, field, alias in found}
        for key, group in groups.items()
    ]


def _sort(text: str, rows: list[Line]) -> list[Line]:
    name, _, order = text.partition(" ")
    return sorted(rows, key=lambda row: row[name], reverse=order == "desc")


def _field(row: Line, name: str) -> Any:
    """Find a field by its name; the dots of a name lead into objects, and * is the whole row."""
    value: Any = row
    if name == "*":
        return row
    for step in [name] if name in row or name.startswith("@") else name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _latest(values: list[Any]) -> Any:
    return next((value for value in reversed(values) if value is not None), None)


def _count(values: list[Any]) -> int:
    return sum(value is not None for value in values)


_FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {"latest": _latest, "sum": sum, "max": max, "count": _count}
_COMMANDS: dict[str, Callable[[str, list[Line]], list[Line]]] = {
    "filter": _filter,
    "fields": _fields,
    "stats": _stats,
    "sort": _sort,
}
