"""What the template makes of its parameters, and what of it could go wrong unseen."""

import re
from dataclasses import asdict
from typing import Any, Final

import boto3
import pytest

from paths import Template
from settings import Rules, Settings
from tests.infrastructure.stack import Properties, deployed, listed, of_type, written

KMS_KEY: Final = "arn:aws:kms:eu-west-1:123456789012:key/0a1b2c3d-0000-1111-2222-333344445555"
BOUNDARY: Final = "arn:aws:iam::123456789012:policy/boundary"
CONFIGURED: Final = {
    "ParameterPrefix": "/team/alerts",
    "KmsKeyArn": KMS_KEY,
    "PagerDutyRegion": "eu",
    "DedupKeyField": "context.traits.0.id",
    "DefaultSeverity": "warning",
    "DefaultSource": "shop",
    "ServiceField": "properties.team",
    "SummaryTemplate": "{event} on {properties.host}",
    "ExtraDetails": "properties,context.traits.plan",
    "CallsPerMinute": "600",
    "MergeRepeatedTriggers": "false",
    "QueueConcurrency": "25",
    "ThrottlingRateLimit": "20",
    "ThrottlingBurstLimit": "40",
    "ReservedConcurrency": "100",
    "MemorySize": "1024",
    "Architecture": "x86_64",
    "LogRetentionDays": "90",
    "PermissionsBoundaryArn": BOUNDARY,
}
FUNCTIONS: Final = ("ApiFunction", "WorkerFunction")
ROLES: Final = ("ApiFunctionRole", "WorkerFunctionRole")
SSM: Final = "arn:aws:ssm:eu-west-1:123456789012:parameter"


# -- The endpoint ----------------------------------------------------------------------------------------------------


def test_the_routes_are_the_documented_ones_and_call_the_api_function() -> None:
    body = of_type("AWS::ApiGatewayV2::Api")["Api"]["Body"]
    routes = {
        f"{method.upper()} {path}": route["x-amazon-apigateway-integration"]
        for path, methods in body["paths"].items()
        for method, route in methods.items()
    }

    assert routes.keys() == {"POST /events", "POST /events/{service}", "POST /v1/track", "POST /v1/batch"}
    assert {each["payloadFormatVersion"] for each in routes.values()} == {"2.0"}
    assert all("functions/ApiFunction.Arn/invocations" in each["uri"] for each in routes.values())
    assert "x-amazon-apigateway-cors" not in body


def test_only_the_routes_of_this_api_may_invoke_a_function() -> None:
    routes = ("POST/events", "POST/events/*", "POST/v1/track", "POST/v1/batch")
    permissions = of_type("AWS::Lambda::Permission").values()

    assert {(each["FunctionName"], each["Principal"], each["SourceArn"]) for each in permissions} == {
        ("ApiFunction", "apigateway.amazonaws.com", f"arn:aws:execute-api:eu-west-1:123456789012:Api/*/{route}")
        for route in routes
    }


@pytest.mark.parametrize(
    ("parameters", "rate", "burst"), [({}, "200", "400"), (CONFIGURED, "20", "40")], ids=["default", "configured"]
)
def test_every_route_is_throttled_and_has_no_stage_in_its_path(
    parameters: dict[str, str], rate: str, burst: str
) -> None:
    (stage,) = of_type("AWS::ApiGatewayV2::Stage", **parameters).values()

    assert stage["StageName"] == "$default"
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": burst}
    assert "RouteSettings" not in stage


# -- The functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "memory", "architecture", "reserved"),
    [({}, "512", "arm64", None), (CONFIGURED, "1024", "x86_64", "100")],
    ids=["default", "configured"],
)
def test_the_functions_run_as_the_parameters_say(
    parameters: dict[str, str], memory: str, architecture: str, reserved: str | None
) -> None:
    # A snapshot (SnapStart) would freeze the secrets.
    names = ("Handler", "Timeout", "Role", "MemorySize", "Architectures", "ReservedConcurrentExecutions", "SnapStart")
    functions = of_type("AWS::Lambda::Function", **parameters)

    assert {function: [properties.get(name) for name in names] for function, properties in functions.items()} == {
        "ApiFunction": ["app.lambda_handler", 9, "ApiFunctionRole.Arn", memory, [architecture], reserved, None],
        "WorkerFunction": ["worker.lambda_handler", 90, "WorkerFunctionRole.Arn", memory, [architecture], None, None],
    }


def variables(function: str, **parameters: str) -> dict[str, str]:
    found: dict[str, str] = of_type("AWS::Lambda::Function", **parameters)[function]["Environment"]["Variables"]
    return found


def test_the_defaults_of_the_template_are_those_of_the_functions() -> None:
    defaults = Settings(queue_url="Queue", dead_letter_queue_url="DeadLetterQueue", flow_table="FlowTable")

    assert Settings.from_environment(variables("ApiFunction")) == defaults
    assert Settings.from_environment(variables("WorkerFunction")) == defaults


def test_each_parameter_reaches_its_setting() -> None:
    delivery: dict[str, Any] = {
        "queue_url": "Queue",
        "dead_letter_queue_url": "DeadLetterQueue",
        "flow_table": "FlowTable",
        "parameter_prefix": "/team/alerts",
        "pagerduty_url": "https://events.eu.pagerduty.com",
        "calls_per_minute": 600,
    }
    rules = Rules(
        dedup_key_field=("context", "traits", "0", "id"),
        default_severity="warning",
        default_source="shop",
        service_field=("properties", "team"),
        summary_template=Template(("", " on ", ""), (("event",), ("properties", "host"))),
        extra_details=(("properties",), ("context", "traits", "plan")),
    )

    api, worker = (variables(function, **CONFIGURED) for function in FUNCTIONS)

    assert Settings.from_environment(api) == Settings(**delivery, rules=rules)
    assert Settings.from_environment(worker) == Settings(**delivery, merge_repeated_triggers=False)


def test_no_setting_is_without_a_parameter() -> None:
    both = variables("ApiFunction", **CONFIGURED) | variables("WorkerFunction", **CONFIGURED)
    configured, default = Settings.from_environment(both), Settings.from_environment(variables("ApiFunction"))
    settings = [name for name in asdict(default) if getattr(configured, name) == getattr(default, name)]
    rules = [name for name in asdict(default.rules) if getattr(configured.rules, name) == getattr(default.rules, name)]

    assert (settings, rules) == (["queue_url", "dead_letter_queue_url", "flow_table"], [])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_metrics_bear_the_name_of_the_stack(function: str) -> None:
    assert variables(function)["POWERTOOLS_SERVICE_NAME"] == "stack"


def test_an_empty_endpoint_url_means_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", variables("ApiFunction")["AWS_ENDPOINT_URL"])

    assert boto3.client("ssm", region_name="eu-west-1").meta.endpoint_url == "https://ssm.eu-west-1.amazonaws.com"


# -- The parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "accepted", "refused"),
    [
        (
            "ParameterPrefix",
            ["/rudderstack-pagerduty", "/team_1/alerts.eu", "/a" * 13],
            ["", "/", "team", "/team/", "/team//alerts", "/*", "/team?", "/a" * 14],
        ),
        (
            "DedupKeyField",
            ["messageId", "context.items.0.Dedup Key", "{properties.host}/{properties.check}", "disk-{messageId}"],
            ["", ".a", "a.", "a..b", "{a..b}", "{a", "a}", "{}"],
        ),
        ("ServiceField", ["", "properties.team"], ["properties.", "{properties.team}"]),
        ("SummaryTemplate", ["", "{event} on {properties.host}", "v1.2: {event}."], ["event", "{{event}}", "{event"]),
        (
            "ExtraDetails",
            ["", "properties", "properties, context.traits.plan"],
            ["properties,", "properties,,userId", "{properties}"],
        ),
        (
            "KmsKeyArn",
            ["", KMS_KEY, "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-0a1b2c3d"],
            ["arn:aws:kms:eu-west-1:123456789012:alias/secrets", "arn:aws:kms:eu-west-1:123456789012:key/*", "*"],
        ),
        (
            "PermissionsBoundaryArn",
            ["", "arn:aws:iam::123456789012:policy/teams/boundary", "arn:aws-cn:iam::aws:policy/PowerUserAccess"],
            ["arn:aws:iam::123456789012:role/boundary"],
        ),
        (
            "AlarmTopicArn",
            ["", "arn:aws-cn:sns:cn-north-1:123456789012:alarms"],
            ["arn:aws:sns:eu-west-1:123456789012:alarms.fifo"],
        ),
    ],
)
def test_a_mistake_in_a_parameter_stops_the_deployment(parameter: str, accepted: list[str], refused: list[str]) -> None:
    pattern = written()["Parameters"][parameter]["AllowedPattern"]

    assert [value for value in accepted + refused if re.fullmatch(pattern, value)] == accepted


def test_numbers_have_the_limits_of_aws_and_pagerduty() -> None:
    parameters = written()["Parameters"]
    names = ("CallsPerMinute", "QueueConcurrency", "ReservedConcurrency", "NoDeliveryAlarmHours")

    assert {name: (parameters[name]["MinValue"], parameters[name].get("MaxValue")) for name in names} == {
        "CallsPerMinute": (12, 10_000),
        "QueueConcurrency": (2, 1_000),
        "ReservedConcurrency": (0, None),
        # Seven days: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
        "NoDeliveryAlarmHours": (0, 168),
    }


def test_every_parameter_is_shown_in_one_group() -> None:
    template = written()
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]

    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(template["Parameters"])


# -- The permissions; test_roles.py holds them to what the functions call --------------------------------------------


def statements(role: str, **parameters: str) -> list[dict[str, Any]]:
    (policy,) = of_type("AWS::IAM::Role", **parameters)[role]["Policies"]
    found: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return found


def allowed(role: str, **parameters: str) -> set[tuple[str, str]]:
    """Return what a role allows, each action with its resource."""
    return {
        (action, resource)
        for statement in statements(role, **parameters)
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }


def test_the_api_function_reads_the_secrets_controls_the_flow_and_enqueues() -> None:
    assert allowed("ApiFunctionRole") == {
        ("ssm:GetParameters", f"{SSM}/rudderstack-pagerduty/webhook-token"),
        ("ssm:GetParameters", f"{SSM}/rudderstack-pagerduty/routing-keys/*"),
        ("sqs:SendMessage", "Queue.Arn"),
        ("dynamodb:UpdateItem", "FlowTable.Arn"),
        ("logs:CreateLogStream", "ApiFunctionLogGroup.Arn"),
        ("logs:PutLogEvents", "ApiFunctionLogGroup.Arn"),
    }


def test_the_worker_consumes_the_queue_and_reads_no_token() -> None:
    assert allowed("WorkerFunctionRole") == {
        ("sqs:ReceiveMessage", "Queue.Arn"),
        ("sqs:DeleteMessage", "Queue.Arn"),
        ("sqs:GetQueueAttributes", "Queue.Arn"),
        ("sqs:ChangeMessageVisibility", "Queue.Arn"),
        ("sqs:SendMessage", "DeadLetterQueue.Arn"),
        ("dynamodb:UpdateItem", "FlowTable.Arn"),
        ("ssm:GetParameters", f"{SSM}/rudderstack-pagerduty/routing-keys/*"),
        ("logs:CreateLogStream", "WorkerFunctionLogGroup.Arn"),
        ("logs:PutLogEvents", "WorkerFunctionLogGroup.Arn"),
    }


@pytest.mark.parametrize("role", ROLES)
def test_the_prefix_and_the_customer_key_change_what_a_role_may_read(role: str) -> None:
    moved = {(action, name.replace("/rudderstack-pagerduty/", "/team/alerts/")) for action, name in allowed(role)}

    assert allowed(role, **CONFIGURED) == moved | {("kms:Decrypt", KMS_KEY)}


@pytest.mark.parametrize("role", ROLES)
def test_the_customer_key_decrypts_for_ssm_of_this_region_alone(role: str) -> None:
    (statement,) = (each for each in statements(role, **CONFIGURED) if each["Action"] == "kms:Decrypt")

    assert statement["Condition"] == {"StringEquals": {"kms:ViaService": "ssm.eu-west-1.amazonaws.com"}}


def test_roles_are_for_lambda_and_have_the_permissions_boundary_and_no_other_policy() -> None:
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    default, configured = of_type("AWS::IAM::Role"), of_type("AWS::IAM::Role", **CONFIGURED)

    assert sorted(default) == list(ROLES)
    for name, role in configured.items():
        assert role["AssumeRolePolicyDocument"]["Statement"] == [trust]
        assert "ManagedPolicyArns" not in role
        assert (default[name].get("PermissionsBoundary"), role["PermissionsBoundary"]) == (None, BOUNDARY)
    assert [
        name for name, entry in deployed()["Resources"].items() if entry["Type"].endswith(("Policy", "Policies"))
    ] == []


# -- The queues and the table ----------------------------------------------------------------------------------------


def test_the_queue_is_fifo_with_high_throughput_and_a_dead_letter_queue() -> None:
    assert of_type("AWS::SQS::Queue") == {
        "Queue": {
            "FifoQueue": True,
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
            "SqsManagedSseEnabled": True,
            "MessageRetentionPeriod": 1_209_600,
            "MaximumMessageSize": 1_048_576,
            "VisibilityTimeout": 120,
            "RedrivePolicy": {"deadLetterTargetArn": "DeadLetterQueue.Arn", "maxReceiveCount": 1000},
        },
        "DeadLetterQueue": {
            "FifoQueue": True,
            "SqsManagedSseEnabled": True,
            "MessageRetentionPeriod": 1_209_600,
            "MaximumMessageSize": 1_048_576,
        },
    }


def test_the_queues_outlive_the_stack_and_nothing_else_does() -> None:
    policies = {
        name: (entry.get("DeletionPolicy"), entry.get("UpdateReplacePolicy"))
        for name, entry in deployed()["Resources"].items()
    }

    assert {name: each for name, each in policies.items() if each not in {(None, None), ("Delete", "Delete")}} == {
        "Queue": ("Retain", "Retain"),
        "DeadLetterQueue": ("Retain", "Retain"),
    }


@pytest.mark.parametrize(("parameters", "concurrency"), [({}, "10"), (CONFIGURED, "25")], ids=["default", "configured"])
def test_the_worker_receives_ten_events_at_once_and_answers_for_each(
    parameters: dict[str, str], concurrency: str
) -> None:
    assert list(of_type("AWS::Lambda::EventSourceMapping", **parameters).values()) == [
        {
            "FunctionName": "WorkerFunction",
            "EventSourceArn": "Queue.Arn",
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": concurrency},
        }
    ]


def test_the_table_has_an_item_for_each_service_until_its_lease_ends() -> None:
    assert of_type("AWS::DynamoDB::Table")["FlowTable"] == {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "service", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "service", "KeyType": "HASH"}],
        "TimeToLiveSpecification": {"AttributeName": "lease", "Enabled": True},
    }


# -- The logs and the outputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parameters", "days"), [({}, "30"), (CONFIGURED, "90")], ids=["default", "configured"])
def test_every_log_goes_to_a_group_of_the_stack_with_a_retention(parameters: dict[str, str], days: str) -> None:
    functions = of_type("AWS::Lambda::Function", **parameters)
    (stage,) = of_type("AWS::ApiGatewayV2::Stage", **parameters).values()
    levels = {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}

    assert of_type("AWS::Logs::LogGroup", **parameters) == {
        "AccessLogGroup": {"LogGroupName": "/aws/vendedlogs/apigateway/stack", "RetentionInDays": days},
        "ApiFunctionLogGroup": {"LogGroupName": "/aws/lambda/stack-api", "RetentionInDays": days},
        "WorkerFunctionLogGroup": {"LogGroupName": "/aws/lambda/stack-worker", "RetentionInDays": days},
    }
    assert stage["AccessLogSettings"]["DestinationArn"] == "AccessLogGroup.Arn"
    for name in FUNCTIONS:
        assert functions[name]["LoggingConfig"] == {"LogGroup": f"{name}LogGroup", **levels}


def outputs(**options: Any) -> Properties:
    return {name: output["Value"] for name, output in deployed(**options)["Outputs"].items()}


def test_the_outputs_lead_to_what_was_created() -> None:
    assert outputs() == {
        "EventsUrl": "https://Api.execute-api.eu-west-1.amazonaws.com/events",
        "DataPlaneUrl": "https://Api.execute-api.eu-west-1.amazonaws.com",
        "WebhookTokenParameter": "/rudderstack-pagerduty/webhook-token",
        "RoutingKeyParameter": "/rudderstack-pagerduty/routing-keys/default",
        "PagerDutyUrl": "https://events.pagerduty.com",
        "DashboardUrl": (
            "https://console.aws.amazon.com/cloudwatch/home?region=eu-west-1#dashboards/dashboard/Dashboard"
        ),
        "FunctionName": "ApiFunction",
        "LogGroup": "ApiFunctionLogGroup",
        "QueueUrl": "Queue",
        "FlowTableName": "FlowTable",
        "DeadLetterQueueUrl": "DeadLetterQueue",
        "WorkerLogGroup": "WorkerFunctionLogGroup",
    }


@pytest.mark.parametrize(
    ("partition", "console"),
    [("aws-cn", "https://console.amazonaws.cn/"), ("aws-us-gov", "https://console.amazonaws-us-gov.com/")],
)
def test_the_dashboard_is_in_the_console_of_the_partition(partition: str, console: str) -> None:
    assert outputs(partition=partition)["DashboardUrl"].startswith(console)
