"""Draws CloudWatch's dashboard as text: each widget where it is, each of its metrics with what was found for it.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

GRID_COLUMNS: Final = 24
CHARACTERS: Final = 6  # of a column of the grid
LINES: Final = 2  # of a row of the grid
_SEARCH: Final = re.compile(r"SEARCH\('\{([^}]*)\} (.*)', '(\w+)', (\d+)\)")


@dataclass(frozen=True)
class Shown:
    """A metric that a widget or an alarm names: of a search, what it looks for, and the dimensions that are left open.

    `dimensions` are those with a value, `open_dimensions` those that a search leaves to what it finds.
    """

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    open_dimensions: tuple[str, ...] = ()
    label: str = ""

    @property
    def dimension_names(self) -> set[str]:
        """The names of all its dimensions: CloudWatch takes metrics with others for other metrics."""
        return {name for name, _ in self.dimensions} | set(self.open_dimensions)


def substitute(value: Any, resolve: Callable[[str], str]) -> str:
    """Do what CloudFormation's Fn::Sub does; `resolve` is asked for what is not among its own variables."""
    match value:
        case str(text):
            return text
        case {"Ref": name}:
            return resolve(name)
        case {"Fn::GetAtt": [name, attribute]}:
            return resolve(f"{name}.{attribute}")
        case {"Fn::Sub": str(text)}:
            return _fill(text, {}, resolve)
        case {"Fn::Sub": [str(text), dict(variables)]}:
            return _fill(text, {name: substitute(each, resolve) for name, each in variables.items()}, resolve)
    raise TypeError(f"not a text: {value}")


def _fill(text: str, variables: Mapping[str, str], resolve: Callable[[str], str]) -> str:
    def filled(found: re.Match[str]) -> str:
        name = found[1]
        if name.startswith("!"):
            return f"${{{name[1:]}}}"
        return variables[name] if name in variables else resolve(name)

    return re.sub(r"\$\{([^}]+)\}", filled, text)


def metrics_of(widget: Mapping[str, Any]) -> Iterator[Shown]:
    """List the metrics of a widget."""
    for entry in widget["properties"].get("metrics", []):
        options = entry[-1] if isinstance(entry[-1], dict) else {}
        if "expression" in options:
            yield _searched(options["expression"], options.get("label", ""))
            continue
        namespace, name, *rest = entry[:-1] if options else entry
        dimensions = tuple(zip(rest[::2], rest[1::2], strict=True))
        yield Shown(namespace, name, dimensions, label=options.get("label", name))


def label_of(label: str, dimensions: Mapping[str, str]) -> str:
    """Fill in a label that names dimensions, as CloudWatch does for each metric that a search finds.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/graph-dynamic-labels.html
    """
    return re.sub(r"\$\{PROP\('Dim\.(\w+)'\)\}", lambda found: dimensions[found[1]], label)


def _searched(expression: str, label: str) -> Shown:
    found = _SEARCH.fullmatch(expression)
    if found is None:
        raise ValueError(f"not a search: {expression}")
    namespace, *names = found[1].split(",")
    terms: dict[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
    name = terms.pop("MetricName")
    left_open = tuple(each for each in names if each not in terms)
    return Shown(namespace, name, tuple(terms.items()), left_open, label)


def draw(body: Mapping[str, Any], lines_of: Callable[[Shown], list[str]]) -> str:
    """Draw the dashboard; `lines_of` says what a metric looks like. Raises ValueError where something does not fit."""
    widgets = body["widgets"]
    canvas = [
        [" "] * (GRID_COLUMNS * CHARACTERS) for _ in range(max(each["y"] + each["height"] for each in widgets) * LINES)
    ]
    taken: set[tuple[int, int]] = set()
    for widget in widgets:
        cells = {
            (x, y)
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        }
        if taken & cells or max(x for x, _ in cells) >= GRID_COLUMNS:
            raise ValueError(f"it overlaps, or does not fit: {json.dumps(widget)}")
        taken |= cells
        _draw_widget(canvas, widget, lines_of)
    return "\n".join("".join(line).rstrip() for line in canvas) + "\n"


def _draw_widget(canvas: list[list[str]], widget: Mapping[str, Any], lines_of: Callable[[Shown], list[str]]) -> None:
    left, top = widget["x"] * CHARACTERS, widget["y"] * LINES
    width, height = widget["width"] * CHARACTERS, widget["height"] * LINES
    lines = _box(list(_content(widget, lines_of)), width, height) if widget["type"] != "text" else _text(widget, height)
    for y, line in enumerate(lines):
        canvas[top + y][left : left + width] = list(line[:width].ljust(width))


def _text(widget: Mapping[str, Any], height: int) -> list[str]:
    return ["", widget["properties"]["markdown"].lstrip("# ").upper()][-height:]


def _box(content: list[str], width: int, height: int) -> list[str]:
    title, *rest = content
    if len(rest) > height - 2 or len(title) > width - len("+-  +"):
        raise ValueError(f"{title}: {len(rest)} lines do not fit into {width} x {height}")
    inner = width - 4
    body = [f"| {line[:inner].ljust(inner)} |" for line in rest + [""] * (height - 2 - len(rest))]
    return [f"+- {title} ".ljust(width - 1, "-") + "+", *body, "+".ljust(width - 1, "-") + "+"]


def _content(widget: Mapping[str, Any], lines_of: Callable[[Shown], list[str]]) -> Iterator[str]:
    properties = widget["properties"]
    yield properties["title"]
    if widget["type"] == "alarm":
        yield from _columns([arn.rpartition(":")[2] for arn in properties["alarms"]])
    elif widget["type"] == "log":
        yield from (part.strip() for part in properties["query"].split("|"))
    elif properties["view"] == "singleValue":
        yield from _columns([line for shown in metrics_of(widget) for line in lines_of(shown)])
    else:
        yield from (line for shown in metrics_of(widget) for line in lines_of(shown))


def _columns(texts: list[str]) -> Iterator[str]:
    for at in range(0, len(texts), 4):
        yield "".join(text.ljust(34) for text in texts[at : at + 4])
