"""The reader of metrics, which must not be laxer than CloudWatch."""

import json
from typing import Any

import pytest

from local.metrics import Metric, read


def line(metric: dict[str, Any], **fields: Any) -> str:
    directive = {"Namespace": "N", "Dimensions": [["service"]], "Metrics": [metric]}
    return json.dumps({"_aws": {"Timestamp": 1, "CloudWatchMetrics": [directive]}, "service": "s", **fields})


def test_the_metrics_of_a_line_are_read() -> None:
    text = line({"Name": "Delivered", "Unit": "Count"}, Delivered=1)

    assert read(text) == [Metric("N", "Delivered", "Count", (("service", "s"),), 1)]
    assert read('{"level":"INFO"}') == read("START RequestId: 1") == []


@pytest.mark.parametrize(("unit", "value"), [("Count", "1"), ("Pages", 1)])
def test_a_line_that_cloudwatch_would_not_accept_is_refused(unit: str, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(line({"Name": "Delivered", "Unit": unit}, Delivered=value))
