"""The access log as API Gateway writes it, and what CloudWatch Logs counts in it."""

import json
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from local.metrics import Metric

_VARIABLE: Final = re.compile(r"\$context\.(\w+(?:\.\w+)*)")
_CONDITION: Final = re.compile(r'\(\$\.(\w+) (=|!=) "([^"]*)"\)')


def write(log_format: str, **values: str) -> str:
    """Write the line of a request; a variable without a value is a hyphen, and dots in names are underscores here."""
    return _VARIABLE.sub(lambda found: values.get(found[1].replace(".", "_"), "-"), log_format)


def count(line: str, filters: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return what metric filters count of a line.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/matching-terms-json-log-events.html
    """
    content = json.loads(line)
    return [
        Metric(
            transformation["MetricNamespace"],
            transformation["MetricName"],
            transformation["Unit"],
            tuple((each["Key"], content[each["Value"].removeprefix("$.")]) for each in transformation["Dimensions"]),
            float(transformation["MetricValue"]),
        )
        for each in filters
        if _matches(each["FilterPattern"], content)
        for transformation in each["MetricTransformations"]
    ]


def _matches(pattern: str, content: Mapping[str, str]) -> bool:
    """Tell whether all conditions hold. Raises ValueError for a pattern that is not made of comparisons of texts."""
    if _CONDITION.sub("", pattern).replace("&&", "").split() != ["{", "}"]:
        raise ValueError(f"not comparisons alone: {pattern}")
    return all(
        fnmatchcase(content[name], value) == (operator == "=") for name, operator, value in _CONDITION.findall(pattern)
    )
