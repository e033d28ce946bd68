"""Read metrics from the functions' log as CloudWatch does, as strictly as its specification.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Final, NamedTuple

DIMENSIONS: Final = range(31)
METRICS: Final = range(1, 101)
VALUES: Final = range(1, 101)
NAME_LENGTHS: Final = range(1, 1025)
# Those in use: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
UNITS: Final = frozenset({"Seconds", "Microseconds", "Milliseconds", "Count", "Bytes", "Percent", "None"})


class Metric(NamedTuple):
    """One value of a metric under one set of dimensions, in the line's order."""

    namespace: str
    name: str
    unit: str
    dimensions: tuple[tuple[str, str], ...]
    value: float

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """The names of its dimensions, which distinguish metrics of one name in CloudWatch."""
        return tuple(name for name, _ in self.dimensions)


def read(line: str) -> list[Metric]:
    """Return the metrics in a log line. Raises ValueError if CloudWatch would reject the line."""
    try:
        content = json.loads(line)
    except ValueError:
        return []
    if not isinstance(content, dict) or "_aws" not in content:
        return []
    if not _is_number(content["_aws"].get("Timestamp")):
        raise ValueError("_aws.Timestamp: expected milliseconds")
    return [
        metric for directive in content["_aws"]["CloudWatchMetrics"] for metric in _of_directive(content, directive)
    ]


def read_all(lines: Iterable[str]) -> list[Metric]:
    """Return the metrics in a log."""
    return [metric for line in lines for metric in read(line)]


def _of_directive(content: dict[str, Any], directive: dict[str, Any]) -> Iterator[Metric]:
    if len(directive["Metrics"]) not in METRICS:
        raise ValueError(f"expected 1 to 100 metrics, got {len(directive['Metrics'])}")
    for names, metric in product(directive["Dimensions"], directive["Metrics"]):
        if len(names) not in DIMENSIONS:
            raise ValueError(f"expected at most 30 dimensions, got {len(names)}")
        for name in names:
            _check_text(name, content[name])
        if metric["Unit"] not in UNITS:
            raise ValueError(f"{metric['Name']}: {metric['Unit']} is not a unit")
        values = content[metric["Name"]] if isinstance(content[metric["Name"]], list) else [content[metric["Name"]]]
        if len(values) not in VALUES or not all(map(_is_number, values)):
            raise ValueError(f"{metric['Name']}: {content[metric['Name']]} is neither a number nor 1 to 100 numbers")
        dimensions = tuple((name, content[name]) for name in names)
        for value in values:
            yield Metric(directive["Namespace"], metric["Name"], metric["Unit"], dimensions, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) not in NAME_LENGTHS or not value.isascii() or not value.strip():
        raise ValueError(f"{name}: {value!r} is not a dimension value")
