"""Read metrics from the functions' log as CloudWatch does.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple


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


def read_all(lines: Iterable[str]) -> list[Metric]:
    """Return the metrics in the lines of a log. Raises KeyError if a line lacks a value that it announces."""
    found = []
    for line in lines:
        content = json.loads(line) if '"_aws"' in line else {}
        for directive in content["_aws"]["CloudWatchMetrics"] if "_aws" in content else ():
            for names, metric in product(directive["Dimensions"], directive["Metrics"]):
                dimensions = tuple((name, content[name]) for name in names)
                value = content[metric["Name"]]
                found += [
                    Metric(directive["Namespace"], metric["Name"], metric["Unit"], dimensions, each)
                    for each in (value if isinstance(value, list) else [value])
                ]
    return found
