"""What API Gateway answers by itself is counted from its access log, and what the function answered is not."""

import json
from typing import Any, Final

import pytest

from local.metrics import Metric
from tests.infrastructure.dashboard import substitute
from tests.infrastructure.transformed import deployed, of_type, transform
from tests.local import access_log

# Every variable is one of https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging-variables.html.
FIELDS: Final = {
    "service": "a-stack",
    "requestId": "$context.requestId",
    "requestTime": "$context.requestTime",
    "sourceIp": "$context.identity.sourceIp",
    "method": "$context.httpMethod",
    "path": "$context.path",
    "routeKey": "$context.routeKey",
    "status": "$context.status",
    "functionStatus": "$context.integration.status",
    "error": "$context.error.message",
    "integrationError": "$context.integration.error",
    "responseLength": "$context.responseLength",
    "responseLatency": "$context.responseLatency",
    "integrationLatency": "$context.integrationLatency",
}


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    found: dict[str, Any] = deployed(transform())["Resources"]
    return found


@pytest.fixture(scope="module")
def log_format(resources: dict[str, Any]) -> str:
    (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    return substitute(stage["AccessLogSettings"]["Format"], {"AWS::StackName": "a-stack"}.__getitem__)


def test_a_line_holds_these_fields_and_neither_headers_nor_queries(log_format: str) -> None:
    assert json.loads(log_format) == FIELDS


def test_there_is_one_line_a_request(log_format: str) -> None:
    assert "\n" not in log_format


@pytest.mark.parametrize(
    ("statuses", "counted"),
    [
        pytest.param({"status": "200", "integration_status": "200"}, [], id="the function takes the event"),
        pytest.param({"status": "400", "integration_status": "400"}, [], id="the function refuses the event"),
        pytest.param({"status": "404", "integration_status": "404"}, [], id="the function knows no such service"),
        pytest.param({"status": "429", "integration_status": "429"}, [], id="PagerDuty limits the rate"),
        pytest.param({"status": "503", "integration_status": "503"}, [], id="the function puts the event off"),
        pytest.param({"status": "404"}, ["GatewayRefusals"], id="there is no such route"),
        pytest.param({"status": "413"}, ["GatewayRefusals"], id="the body is too large"),
        pytest.param({"status": "429"}, [], id="more requests than the throttle lets in, which are sent again"),
        pytest.param({"status": "500"}, ["GatewayErrors"], id="the function crashed"),
        pytest.param({"status": "503"}, ["GatewayErrors"], id="Lambda does not start the function"),
    ],
)
def test_what_the_function_did_not_answer_itself_is_counted(
    resources: dict[str, Any], log_format: str, statuses: dict[str, str], counted: list[str]
) -> None:
    line = access_log.write(log_format, **statuses)
    filters = of_type(resources, "AWS::Logs::MetricFilter").values()

    assert access_log.count(line, filters) == [
        Metric("RudderStackPagerDuty", name, "Count", (("service", "a-stack"),), 1.0) for name in counted
    ]


def test_the_filters_read_the_access_log(resources: dict[str, Any]) -> None:
    filters = of_type(resources, "AWS::Logs::MetricFilter")

    assert {name: each["LogGroupName"] for name, each in filters.items()} == {
        "GatewayRefusals": {"Ref": "AccessLogGroup"},
        "GatewayErrors": {"Ref": "AccessLogGroup"},
    }
