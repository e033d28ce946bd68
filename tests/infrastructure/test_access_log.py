"""The access log holds no secret, and what API Gateway answers itself is counted in it."""

import json
import re
from fnmatch import fnmatchcase

import pytest

from tests.infrastructure.stack import of_type


def test_a_line_is_json_and_has_neither_headers_nor_the_query() -> None:
    (stage,) = of_type("AWS::ApiGatewayV2::Stage").values()
    line_format = stage["AccessLogSettings"]["Format"]
    fields = json.loads(line_format)

    # Every line ends at a line break.
    assert "\n" not in line_format
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging-variables.html
    assert set(re.findall(r"\$context\.([\w.]+)", line_format)) == {
        *("requestId", "requestTime", "identity.sourceIp", "httpMethod", "path", "routeKey", "status"),
        *("integration.status", "error.message", "integration.error"),
        *("responseLength", "responseLatency", "integrationLatency"),
    }
    # What the filters read.
    names = ("service", "status", "functionStatus")
    assert [fields[name] for name in names] == ["stack", "$context.status", "$context.integration.status"]


@pytest.mark.parametrize(
    ("status", "function_status", "expected"),
    [
        pytest.param("400", "400", [], id="the function refuses the event"),
        pytest.param("503", "503", [], id="the function defers the event"),
        pytest.param("404", "-", ["GatewayRefusals"], id="there is no such route"),
        pytest.param("429", "-", [], id="the throttle refuses the request, which is sent again"),
        pytest.param("500", "-", ["GatewayErrors"], id="the function crashed"),
        pytest.param("503", "200", ["GatewayErrors"], id="the response of the function is unusable"),
    ],
)
def test_what_the_function_did_not_answer_is_counted(status: str, function_status: str, expected: list[str]) -> None:
    line = {"status": status, "functionStatus": function_status}
    counted = []
    for name, properties in of_type("AWS::Logs::MetricFilter").items():
        conditions = re.findall(r'\(\$\.(\w+) (=|!=) "([^"]*)"\)', properties["FilterPattern"])
        if all(fnmatchcase(line[field], value) is (operator == "=") for field, operator, value in conditions):
            counted.append(name)

    assert counted == expected


def test_the_filters_count_lines_of_the_access_log_for_the_stack() -> None:
    for name, properties in of_type("AWS::Logs::MetricFilter").items():
        (transformation,) = properties["MetricTransformations"]

        assert properties["LogGroupName"] == "AccessLogGroup"
        assert (transformation["MetricName"], transformation["MetricValue"]) == (name, "1")
        assert transformation["Dimensions"] == [{"Key": "service", "Value": "$.service"}]
