"""The dashboard and the alarms name metrics that are really there: those that the functions write, and AWS's own."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
import urllib3

from chaos.faults import Failure, Fault, fail
from local.aws_server import DYNAMODB
from local.metrics import Metric, read_all
from local.options import LOCAL_TOKEN, Options
from local.sandbox import Received
from local.stack import LocalStack
from tests.infrastructure.dashboard import Shown, draw, label_of, metrics_of, substitute
from tests.infrastructure.transformed import deployed, of_type, transform
from tests.local import access_log
from tests.support import track, wait_until

DRAWING: Final = Path(__file__).parent / "dashboard.txt"
NAMESPACE: Final = "RudderStackPagerDuty"
TOPIC: Final = "arn:aws:sns:eu-west-1:123456789012:alarms"

# How PagerDuty answers the event with this dedup key, so that every metric is written once. Each has a service of its
# own: once one waits in the queue, all later ones of its service go there without PagerDuty being asked.
FAULTS: Final = {
    "limited": Fault.answer(429),
    "down": Fault.answer(503),
    "moved": Fault.answer(302),
    "refused": Fault.answer(400),
    "gone": Fault.reset_before(),
}
# A warning more than the budget of a routing key saves up: a twelfth of the calls of a minute.
STORM: Final = 11
# What the worker writes of the events that come in one request and so go through the queue.
OF_BATCH: Final = {("Delivered", "acknowledge"), ("Delivered", "resolve")}
# The time of the queue passes so much faster that what was delayed once has waited for long enough to be merged.
SPEED: Final = 600
# The dimension, the kind of resource that is its value, and the metrics that AWS documents for it:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
AWS_METRICS: Final[dict[str, tuple[str, str, frozenset[str]]]] = {
    "AWS/Lambda": (
        "FunctionName",
        "AWS::Lambda::Function",
        frozenset({"Invocations", "Errors", "Throttles", "Duration", "ConcurrentExecutions"}),
    ),
    "AWS/ApiGateway": (
        "ApiId",
        "AWS::ApiGatewayV2::Api",
        frozenset({"Count", "4xx", "5xx", "Latency", "IntegrationLatency"}),
    ),
    "AWS/SQS": (
        "QueueName",
        "AWS::SQS::Queue",
        frozenset(
            {
                "ApproximateAgeOfOldestMessage",
                "ApproximateNumberOfMessagesVisible",
                "ApproximateNumberOfMessagesNotVisible",
            }
        ),
    ),
}


@pytest.fixture(scope="module")
def log() -> list[str]:
    """Return what the functions log while events end in every way, through the whole stack."""
    lines: list[str] = []
    limited_once = iter([Fault.answer(429)])

    def on_call(call: Received) -> Fault | None:
        key = str(call.event.get("dedup_key"))
        return next(limited_once, None) if key == "repeated" else FAULTS.get(key)

    services = {name: f"{name:0<8}" * 4 for name in (*FAULTS, "busy", "alone")}
    with LocalStack(Options(speed=SPEED, services=services), on_log=lines.append) as stack:
        assert stack.sandbox is not None
        stack.sandbox.on_call = on_call

        def post(content: object, token: str = LOCAL_TOKEN, path: str = "/events") -> None:
            headers = {"X-Api-Key": token}
            urllib3.request("POST", stack.url + path, json=content, headers=headers, retries=False, timeout=30)

        def written() -> set[tuple[str, str | None]]:
            return {(each.name, dict(each.dimensions).get("event_type")) for each in read_all(lines)}

        now = datetime.now(UTC).isoformat()
        post(track(timestamp=now, properties={"severity": "loud"}))
        post(track(timestamp=now, integrations={"pagerduty": {"type": "changeEvent"}}))
        post(track(type="identify"))
        post(track(properties={"action": "resolved"}))
        post(track(), token="a-wrong-secret-of-somebody")
        post(track(messageId="refused", properties={"dedupKey": "refused"}))
        for key in FAULTS:
            post(track(messageId=key, properties={"dedupKey": key}), path=f"/events/{key}")
        post([track(properties={"action": action}) for action in ("acknowledge", "resolve")])
        wait_until(lambda: written() >= OF_BATCH)
        repeated = {"dedupKey": "repeated", "severity": "warning"}
        post([track(messageId=f"repeated-{n}", properties=repeated) for n in range(3)])
        post(track(messageId="later"))
        for n in range(STORM):
            warning = track(messageId=f"m-{n}", properties={"dedupKey": f"host-{n}", "severity": "warning"})
            post(warning, path="/events/busy")
        wait_until(lambda: ("Merged", "trigger") in written())
        fail(stack.aws, lambda target, _: Failure.answer(500, "InternalServerError") if DYNAMODB in target else None)
        post(track(), path="/events/alone")
        wait_until(lambda: written() >= {("FlowControlErrors", None), ("QueuedFlowControl", None)})
    return lines


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    """Return the resources of a stack in which everything that can be switched on is."""
    found = deployed(transform(), AlarmTopicArn=TOPIC, NoDeliveryAlarmHours="24")
    return dict(found["Resources"])


@pytest.fixture(scope="module")
def emitted(log: list[str], resources: dict[str, Any]) -> list[Metric]:
    """Return what the functions write, and what is counted in the access log when API Gateway answers by itself."""
    (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    log_format = substitute(stage["AccessLogSettings"]["Format"], resolving(resources))
    filters = list(of_type(resources, "AWS::Logs::MetricFilter").values())
    refused = [access_log.write(log_format, status=status) for status in ("404", "503")]
    return [*read_all(log), *(metric for line in refused for metric in access_log.count(line, filters))]


def resolving(resources: Mapping[str, Any]) -> Callable[[str], str]:
    """Resolve references as the stack named `local` would in Ireland; a resource's name is its logical id."""

    def resolve(name: str) -> str:
        pseudo = {"AWS::StackName": "local", "AWS::Region": "eu-west-1"}
        if name in pseudo:
            return pseudo[name]
        resource, _, attribute = name.partition(".")
        found = resources[resource]
        if attribute == "Arn":
            alarm = substitute(found["Properties"]["AlarmName"], resolve)
            return f"arn:aws:cloudwatch:eu-west-1:123456789012:alarm:{alarm}"
        return resource

    return resolve


@pytest.fixture(scope="module")
def body(resources: dict[str, Any]) -> dict[str, Any]:
    """Return the dashboard as CloudWatch gets it."""
    text = substitute(resources["Dashboard"]["Properties"]["DashboardBody"], resolving(resources))
    found: dict[str, Any] = json.loads(text)
    return found


def alarms(resources: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return of_type(dict(resources), "AWS::CloudWatch::Alarm")


def watched(resources: Mapping[str, Any]) -> Iterator[Shown]:
    """List what the alarms watch."""
    resolve = resolving(resources)
    for name, alarm in alarms(resources).items():
        dimensions = tuple((each["Name"], substitute(each["Value"], resolve)) for each in alarm["Dimensions"])
        yield Shown(alarm["Namespace"], alarm["MetricName"], dimensions, label=name)


def matching(shown: Shown, emitted: list[Metric]) -> list[Metric]:
    """Find what was written of a metric: under the same dimensions, no more and no fewer."""
    return [
        metric
        for metric in emitted
        if (metric.namespace, metric.name) == (shown.namespace, shown.name)
        and set(metric.dimension_names) == shown.dimension_names
        and set(shown.dimensions) <= set(metric.dimensions)
    ]


def is_documented(shown: Shown, resources: Mapping[str, Any]) -> bool:
    """Tell whether it is one of AWS's metrics, of a resource of this stack."""
    dimension, kind, names = AWS_METRICS[shown.namespace]
    ((name, value),) = shown.dimensions
    return shown.name in names and name == dimension and resources[value]["Type"] == kind


def missing(shown: list[Shown], emitted: list[Metric], resources: Mapping[str, Any]) -> list[str]:
    return [
        f"{each.label}: {each.namespace} {each.name} {each.dimensions}"
        for each in shown
        if not (matching(each, emitted) if each.namespace == NAMESPACE else is_documented(each, resources))
    ]


def test_every_metric_of_the_dashboard_is_there(
    body: dict[str, Any], emitted: list[Metric], resources: dict[str, Any]
) -> None:
    shown = [each for widget in body["widgets"] for each in metrics_of(widget)]

    assert missing(shown, emitted, resources) == []


def test_every_metric_of_an_alarm_is_there(emitted: list[Metric], resources: dict[str, Any]) -> None:
    assert missing(list(watched(resources)), emitted, resources) == []


def test_every_metric_that_the_functions_write_is_shown(body: dict[str, Any], emitted: list[Metric]) -> None:
    shown = {each.name for widget in body["widgets"] for each in metrics_of(widget)}

    assert {metric.name for metric in emitted} - shown == set()


def test_metrics_have_the_dimensions_that_the_dashboard_and_the_alarms_need_and_no_others(
    emitted: list[Metric],
) -> None:
    assert {metric.dimension_names for metric in emitted} == {
        ("service",),
        ("service", "pagerduty_service", "event_type"),
    }


def test_the_dashboard_looks_as_it_should(
    body: dict[str, Any], emitted: list[Metric], resources: dict[str, Any]
) -> None:
    """After an intended change: take what is drawn, look at it, and put it in the place of the file."""

    def lines_of(shown: Shown) -> list[str]:
        if shown.namespace != NAMESPACE:
            return [f"{shown.label}: {'AWS' if is_documented(shown, resources) else 'NOT THERE'}"]
        found = {
            f"{label_of(shown.label, dict(each.dimensions))}: {each.unit}"
            for each in matching(shown, emitted)
            # What becomes of the events of the others is a matter of timing.
            if dict(each.dimensions).get("pagerduty_service", "default") == "default"
        }
        return sorted(found) or [f"{shown.label}: NOT THERE"]

    assert draw(body, lines_of) == DRAWING.read_text(encoding="utf-8")


def test_no_widget_combines_what_cloudwatch_may_refuse(body: dict[str, Any]) -> None:
    # AWS's own CDK refuses it: https://github.com/aws/aws-cdk/blob/main/packages/aws-cdk-lib/aws-cloudwatch/lib/graph.ts
    refused = {"sparkline", "setPeriodToTimeRange"}

    assert [each for each in body["widgets"] if refused <= each["properties"].keys()] == []


def test_the_query_for_codes_asks_for_fields_that_the_log_has(body: dict[str, Any], log: list[str]) -> None:
    (query,) = (widget["properties"]["query"] for widget in body["widgets"] if widget["type"] == "log")
    fields = set(re.findall(r"\bby ([\w, ]+)", query)[0].replace(" ", "").split(",")) | {"status"}
    refused = [line for line in map(parse, log) if line.get("status") in {"rejected", "deferred"}]

    assert [line for line in refused if line["message"] == "event" and not fields <= line.keys()] == []
    assert {line["status"] for line in refused} == {"rejected", "deferred"}


def parse(line: str) -> dict[str, Any]:
    """Read a line of log; what the emulator says itself is no JSON."""
    try:
        content: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return content


def test_the_query_reads_the_logs_of_both_functions(body: dict[str, Any]) -> None:
    (query,) = (widget["properties"]["query"] for widget in body["widgets"] if widget["type"] == "log")

    assert re.findall(r"SOURCE '(\w+)'", query) == ["ApiFunctionLogGroup", "WorkerFunctionLogGroup"]


def test_every_alarm_is_on_the_dashboard(body: dict[str, Any], resources: dict[str, Any]) -> None:
    (arns,) = (widget["properties"]["alarms"] for widget in body["widgets"] if widget["type"] == "alarm")
    resolve = resolving(resources)

    assert sorted(arns) == sorted(resolve(f"{name}.Arn") for name in alarms(resources))


# -- the alarms ------------------------------------------------------------------------------------------------------


def test_the_alarms_go_off_at_these_limits(resources: dict[str, Any]) -> None:
    assert {name: in_words(alarm) for name, alarm in alarms(resources).items()} == {
        "EventsRefusedAlarm": "Rejected Sum >= 1 in 1 of 1 x 300 s",
        "UnauthorizedAlarm": "Unauthorized Sum >= 1 in 1 of 1 x 300 s",
        "GatewayRefusalsAlarm": "GatewayRefusals Sum >= 1 in 1 of 1 x 300 s",
        "GatewayErrorsAlarm": "GatewayErrors Sum >= 1 in 1 of 1 x 300 s",
        "DeferredAlarm": "Deferred Sum >= 1 in 3 of 5 x 180 s",
        "ApiErrorsAlarm": "Errors Sum >= 1 in 1 of 1 x 300 s",
        "ApiThrottlesAlarm": "Throttles Sum >= 1 in 1 of 1 x 300 s",
        "SlowAnswersAlarm": "Latency p99 > 8000 in 2 of 3 x 300 s",
        "FlowControlAlarm": "FlowControlErrors Sum >= 1 in 2 of 3 x 300 s",
        "WorkerErrorsAlarm": "Errors Sum >= 1 in 1 of 1 x 300 s",
        "WorkerThrottlesAlarm": "Throttles Sum >= 1 in 1 of 1 x 300 s",
        "QueueAgeAlarm": "QueueTime Maximum > 600 in 1 of 1 x 300 s",
        "QueueUnreadAlarm": "ApproximateAgeOfOldestMessage Maximum > 600 in 1 of 1 x 300 s",
        "DeadLettersAlarm": "ApproximateNumberOfMessagesVisible Maximum >= 1 in 1 of 1 x 300 s",
        "NoDeliveryAlarm": "Delivered Sum < 1 in 24 of 24 x 3600 s",
    }


def periods_of(alarm: dict[str, Any]) -> int:
    """Return how many periods an alarm looks at; NoDeliveryAlarmHours is 24 in these stacks."""
    return 24 if alarm["EvaluationPeriods"] == {"Ref": "NoDeliveryAlarmHours"} else int(alarm["EvaluationPeriods"])


def in_words(alarm: dict[str, Any]) -> str:
    operators = {
        "GreaterThanOrEqualToThreshold": ">=",
        "GreaterThanThreshold": ">",
        "LessThanThreshold": "<",
    }
    periods = periods_of(alarm)
    points = alarm.get("DatapointsToAlarm", periods)
    statistic = alarm.get("Statistic") or alarm["ExtendedStatistic"]
    return (
        f"{alarm['MetricName']} {statistic} {operators[alarm['ComparisonOperator']]} {alarm['Threshold']}"
        f" in {points} of {periods} x {alarm['Period']} s"
    )


def test_silence_is_trouble_only_when_deliveries_are_expected(resources: dict[str, Any]) -> None:
    breaching = [name for name, alarm in alarms(resources).items() if alarm["TreatMissingData"] != "notBreaching"]

    assert (breaching, resources["NoDeliveryAlarm"]["Properties"]["TreatMissingData"]) == (
        ["NoDeliveryAlarm"],
        "breaching",
    )


def test_no_delivery_is_expected_by_default() -> None:
    assert "NoDeliveryAlarm" not in deployed(transform())["Resources"]


def test_every_alarm_says_what_to_do_first(resources: dict[str, Any]) -> None:
    assert [name for name, alarm in alarms(resources).items() if "First " not in alarm["AlarmDescription"]] == []


def test_every_alarm_says_where_the_rest_is_told(resources: dict[str, Any]) -> None:
    ends = " Runbook: docs/operating.md#runbook"

    assert [name for name, each in alarms(resources).items() if not each["AlarmDescription"].endswith(ends)] == []


def test_no_description_is_longer_than_cloudwatch_takes(resources: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    assert [name for name, alarm in alarms(resources).items() if len(alarm["AlarmDescription"]) > 1024] == []


@pytest.mark.parametrize("action", ["AlarmActions", "OKActions"])
def test_every_alarm_tells_the_topic_when_it_goes_off_and_when_it_is_over(
    resources: dict[str, Any], action: str
) -> None:
    assert [name for name, alarm in alarms(resources).items() if alarm[action] != [{"Ref": "AlarmTopicArn"}]] == []


def test_without_a_topic_the_alarms_tell_nobody() -> None:
    found = alarms(deployed(transform())["Resources"])

    assert [name for name, alarm in found.items() if {"AlarmActions", "OKActions"} & alarm.keys()] == []


def test_no_alarm_looks_back_further_than_cloudwatch_does() -> None:
    # Seven days, when the periods are hours; NoDeliveryAlarmHours is their number.
    assert transform()["Parameters"]["NoDeliveryAlarmHours"]["MaxValue"] * 3600 == 7 * 24 * 3600


def test_cloudwatch_takes_every_alarm(resources: dict[str, Any], aws_url: str) -> None:
    """CloudFormation, whose part moto lacks for alarms, hands their properties on to this call, name by name."""
    cloudwatch: Any = boto3.client("cloudwatch", endpoint_url=aws_url)
    resolve = resolving(resources)
    for properties in alarms(resources).values():
        cloudwatch.put_metric_alarm(
            **properties
            | {
                "AlarmName": substitute(properties["AlarmName"], resolve),
                "Dimensions": [
                    {**each, "Value": substitute(each["Value"], resolve)} for each in properties["Dimensions"]
                ],
                "EvaluationPeriods": periods_of(properties),
                "AlarmActions": [TOPIC],
                "OKActions": [TOPIC],
            }
        )
    taken = cloudwatch.describe_alarms(AlarmNamePrefix="local-")["MetricAlarms"]

    assert len(taken) == len(alarms(resources)) == 15
