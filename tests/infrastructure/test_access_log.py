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
    assert (fields["service"], fields["status"], fields["functionStatus"]) == (
        "stack",
        "$context.status",
        "$context.integration.status",
    )


def holds(condition: str, line: dict[str, str]) -> bool:
    ((field, operator, value),) = re.findall(r'^\(\$\.(\w+) (=|!=) "([^"]*)"\)$', condition)
    return fnmatchcase(line[field], value) is (operator == "=")


@pytest.mark.parametrize(
    ("status", "function_status", "filters"),
    [
        pytest.param("200", "200", [], id="the function accepts the event"),
        pytest.param("400", "400", [], id="the function refuses the event"),
        pytest.param("503", "503", [], id="the function defers the event"),
        pytest.param("404", "-", ["GatewayRefusals"], id="there is no such route"),
        pytest.param("413", "-", ["GatewayRefusals"], id="the body is too large"),
        pytest.param("429", "-", [], id="the throttle refuses the request, which is sent again"),
        pytest.param("500", "-", ["GatewayErrors"], id="the function crashed"),
        pytest.param("503", "200", ["GatewayErrors"], id="the response of the function is unusable"),
    ],
)
def test_what_the_function_did_not_answer_is_counted(status: str, function_status: str, filters: list[str]) -> None:
    line = {"status": status, "functionStatus": function_status}
    patterns = {name: each["FilterPattern"] for name, each in of_type("AWS::Logs::MetricFilter").items()}

    assert [
        name for name, pattern in patterns.items() if all(holds(each, line) for each in pattern[2:-2].split(" && "))
    ] == filters


def test_the_filters_count_lines_of_the_access_log_for_the_stack() -> None:
    for name, properties in of_type("AWS::Logs::MetricFilter").items():
        assert properties["LogGroupName"] == "AccessLogGroup"
        assert properties["MetricTransformations"] == [
            {
                "MetricNamespace": "RudderStackPagerDuty",
                "MetricName": name,
                "MetricValue": "1",
                "Unit": "Count",
                "Dimensions": [{"Key": "service", "Value": "$.service"}],
            }
        ]
