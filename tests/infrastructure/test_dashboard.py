"""The dashboard, the alarms and the queries name metrics and fields that exist: the functions' own, or AWS's."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest

import telemetry
from event import Event
from local.options import ROOT
from outcome import CODES, Call, Outcome
from pacing import Waiting
from tests.infrastructure.stack import Properties, of_type
from tests.metrics import read_all

TOPIC: Final = "arn:aws:sns:eu-west-1:123456789012:alarms"
# Everything that can be switched on.
ALARMED: Final = {"AlarmTopicArn": TOPIC, "NoDeliveryAlarmHours": "24"}
# A metric by its namespace, name and dimensions; None stands for every value that CloudWatch finds.
Metric = tuple[str, str, tuple[tuple[str, str | None], ...]]

# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
OF_LAMBDA: Final = ("Invocations", "Errors", "Throttles", "Duration", "ConcurrentExecutions")
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
OF_THE_API: Final = ("Count", "4xx", "5xx", "Latency", "IntegrationLatency")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
OF_SQS: Final = (
    "ApproximateAgeOfOldestMessage",
    *("ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"),
)
OF_AWS: Final[set[Metric]] = {
    (namespace, name, ((dimension, value),))
    for namespace, dimension, values, names in (
        ("AWS/Lambda", "FunctionName", ("ApiFunction", "WorkerFunction"), OF_LAMBDA),
        ("AWS/ApiGateway", "ApiId", ("Api",), OF_THE_API),
        ("AWS/SQS", "QueueName", ("Queue.QueueName", "DeadLetterQueue.QueueName"), OF_SQS),
    )
    for value in values
    for name in names
}


@pytest.fixture
def lines(log: io.StringIO) -> list[str]:
    """Let the functions log every outcome, with everything that a line can have."""
    event = Event(
        service="default",
        kind="alert",
        content={},
        action="trigger",
        dedup_key="disk-full",
        message_id="m-1",
        occurred_at=datetime.now(UTC),
        warnings=("severity: unknown",),
    )
    queued = Outcome("queued", "", detail="no lease", is_urgent=True, without_lease=True).for_event(event)
    codes = CODES.keys() - {"preview"}
    reasons: list[Any] = [*codes, "several_events"]
    calls = [Call(status, seconds=0.1, attempts=2) for status in (200, 302, 400, 429, 503, None)]
    for outcome in (
        *(replace(queued, code=code) for code in codes),
        *(replace(queued, reason=reason) for reason in reasons),
        *(replace(queued, call=call) for call in calls),
    ):
        telemetry.log_event(outcome, "default", event, is_known=True)
        telemetry.log_event(outcome, "default", event, is_known=True, waiting=Waiting(1, 1.0))
    telemetry.log_request(Outcome("unauthorized", ""), is_preview=False)
    telemetry.log_flow_control_error("ThrottlingException")
    return log.getvalue().splitlines()


def with_stack(names: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
    return tuple((name, "stack" if name == "service" else None) for name in names)


@pytest.fixture
def written(lines: list[str]) -> set[Metric]:
    """Return the metrics of the functions, and those that are counted in the access log."""
    by_functions = {(each.namespace, each.name, with_stack(each.dimension_names)) for each in read_all(lines)}
    counted = [each["MetricTransformations"][0] for each in of_type("AWS::Logs::MetricFilter").values()]
    return by_functions | {
        (each["MetricNamespace"], each["MetricName"], with_stack(entry["Key"] for entry in each["Dimensions"]))
        for each in counted
    }


def widgets() -> list[dict[str, Any]]:
    body: str = of_type("AWS::CloudWatch::Dashboard", **ALARMED)["Dashboard"]["DashboardBody"]
    found: list[dict[str, Any]] = json.loads(body)["widgets"]
    return found


def shown() -> Iterator[Metric]:
    """List what the widgets show: metrics, and searches for metrics."""
    for entry in (entry for widget in widgets() for entry in widget["properties"].get("metrics", [])):
        options = entry[-1] if isinstance(entry[-1], dict) else {}
        if search := options.get("expression"):
            names, terms = re.findall(r"^SEARCH\('\{([^}]*)\} (.*)', 'Sum', 300\)$", search)[0]
            namespace, *dimensions = names.split(",")
            values = dict(re.findall(r'(\w+)="([^"]*)"', terms))
            yield namespace, values["MetricName"], tuple((name, values.get(name)) for name in dimensions)
        else:
            namespace, name, dimension, value = entry[:4]
            yield namespace, name, ((dimension, value),)


def alarms(**parameters: str) -> dict[str, Properties]:
    return of_type("AWS::CloudWatch::Alarm", **parameters)


def test_every_metric_of_the_dashboard_exists(written: set[Metric]) -> None:
    assert set(shown()) - written - OF_AWS == set()


def test_every_metric_of_an_alarm_exists(written: set[Metric]) -> None:
    watched = {
        (alarm["Namespace"], alarm["MetricName"], tuple((each["Name"], each["Value"]) for each in alarm["Dimensions"]))
        for alarm in alarms(**ALARMED).values()
    }

    assert watched - written - OF_AWS == set()


def test_every_metric_that_is_written_is_on_the_dashboard(written: set[Metric]) -> None:
    assert {name for _, name, _ in written} - {name for _, name, _ in shown()} == set()


def test_every_alarm_is_on_the_dashboard() -> None:
    (shown_alarms,) = (each["properties"]["alarms"] for each in widgets() if each["type"] == "alarm")

    assert sorted(shown_alarms) == sorted(f"{name}.Arn" for name in alarms(**ALARMED))


def queries() -> list[str]:
    (of_dashboard,) = (each["properties"]["query"] for each in widgets() if each["type"] == "log")
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    return [of_dashboard, *re.findall(r"^```text\n(filter .*?)^```$", page, flags=re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("query", queries())
def test_a_query_names_fields_of_the_log(query: str, lines: list[str]) -> None:
    bare = re.sub(r'"[^"]*"|\'[^\']*\'', "", query)
    aliases = re.findall(r" as (\w+)", bare)
    keywords = {"SOURCE", "filter", "fields", "stats", "sort", "by", "as", "in", "and", "or", "desc", "0"}
    names = set(re.findall(r"[\w.@]+(?![\w.(])", bare)) - keywords - set(aliases)
    of_the_log = {field for line in lines for field in json.loads(line)}

    # The latter are fields of CloudWatch and of Lambda's own lines.
    assert names - of_the_log - {"@timestamp", "type", "record.status"} == set()


def in_words(alarm: Properties) -> str:
    comparisons = {"GreaterThanOrEqualToThreshold": ">=", "GreaterThanThreshold": ">", "LessThanThreshold": "<"}
    metric = f"{alarm['MetricName']} of {alarm['Dimensions'][0]['Value'].removesuffix('.QueueName')}"
    statistic = alarm.get("Statistic") or alarm["ExtendedStatistic"]
    limit = f"{statistic} {comparisons[alarm['ComparisonOperator']]} {alarm['Threshold']}"
    periods = alarm["EvaluationPeriods"]
    return f"{metric}: {limit}, {alarm.get('DatapointsToAlarm', periods)} of {periods} x {alarm['Period']} s"


def test_the_alarms_go_off_at_these_limits() -> None:
    assert {name: in_words(alarm) for name, alarm in alarms(**ALARMED).items()} == {
        "EventsRefusedAlarm": "Rejected of stack: Sum >= 1, 1 of 1 x 300 s",
        "UnauthorizedAlarm": "Unauthorized of stack: Sum >= 1, 1 of 1 x 300 s",
        "GatewayRefusalsAlarm": "GatewayRefusals of stack: Sum >= 1, 1 of 1 x 300 s",
        "GatewayErrorsAlarm": "GatewayErrors of stack: Sum >= 1, 1 of 1 x 300 s",
        "DeferredAlarm": "Deferred of stack: Sum >= 1, 3 of 5 x 180 s",
        "ApiErrorsAlarm": "Errors of ApiFunction: Sum >= 1, 1 of 1 x 300 s",
        "ApiThrottlesAlarm": "Throttles of ApiFunction: Sum >= 1, 1 of 1 x 300 s",
        "SlowAnswersAlarm": "Latency of Api: p99 > 8000, 2 of 3 x 300 s",
        "FlowControlAlarm": "FlowControlErrors of stack: Sum >= 1, 2 of 3 x 300 s",
        "WorkerErrorsAlarm": "Errors of WorkerFunction: Sum >= 1, 1 of 1 x 300 s",
        "WorkerThrottlesAlarm": "Throttles of WorkerFunction: Sum >= 1, 1 of 1 x 300 s",
        "QueueAgeAlarm": "QueueTime of stack: Maximum > 600, 1 of 1 x 300 s",
        "QueueUnreadAlarm": "ApproximateAgeOfOldestMessage of Queue: Maximum > 600, 1 of 1 x 300 s",
        "DeadLettersAlarm": "ApproximateNumberOfMessagesVisible of DeadLetterQueue: Maximum >= 1, 1 of 1 x 300 s",
        "NoDeliveryAlarm": "Delivered of stack: Sum < 1, 24 of 24 x 3600 s",
    }


def test_silence_raises_an_alarm_only_if_deliveries_are_expected() -> None:
    missing_data = {name: alarm["TreatMissingData"] for name, alarm in alarms(**ALARMED).items()}

    assert [name for name, treatment in missing_data.items() if treatment != "notBreaching"] == ["NoDeliveryAlarm"]
    assert missing_data["NoDeliveryAlarm"] == "breaching"
    assert set(missing_data) - set(alarms()) == {"NoDeliveryAlarm"}


def test_every_alarm_notifies_the_topic_when_it_goes_off_and_when_it_ends() -> None:
    notified = {name: (each["AlarmActions"], each["OKActions"]) for name, each in alarms(**ALARMED).items()}

    assert [name for name, actions in notified.items() if actions != ([TOPIC], [TOPIC])] == []
