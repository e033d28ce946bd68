"""The resources that the template makes of its parameters, and mistakes that would go unnoticed."""

import re
from typing import Any, Final

import pytest

from paths import Template
from settings import Rules, Settings
from tests.infrastructure.stack import allowed, of_type, resources, statements, written

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


def test_every_route_is_throttled_and_has_no_stage_in_its_path() -> None:
    (stage,) = of_type("AWS::ApiGatewayV2::Stage", **CONFIGURED).values()

    assert stage["StageName"] == "$default"
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": "20", "ThrottlingBurstLimit": "40"}
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


def test_the_metrics_bear_the_name_of_the_stack() -> None:
    assert [variables(function)["POWERTOOLS_SERVICE_NAME"] for function in FUNCTIONS] == ["stack", "stack"]


@pytest.mark.parametrize(
    ("parameter", "accepted", "refused"),
    [
        # A wildcard would let the roles read more.
        ("ParameterPrefix", ["/team_1/alerts.eu", "/a" * 13], ["", "/team/", "/team//alerts", "/*", "/a" * 14]),
        ("KmsKeyArn", ["", KMS_KEY], ["arn:aws:kms:eu-west-1:123456789012:key/*", "*"]),
        # The functions do not start with such a path.
        ("DedupKeyField", ["context.items.0.Dedup Key", "disk-{properties.host}"], ["", "a.", "a..b", "{a..b}", "{a"]),
        ("ExtraDetails", ["", "properties, context.traits.plan"], ["properties,,userId", "{properties}"]),
    ],
)
def test_a_mistake_in_a_parameter_stops_the_deployment(parameter: str, accepted: list[str], refused: list[str]) -> None:
    pattern = written()["Parameters"][parameter]["AllowedPattern"]

    assert [value for value in accepted + refused if re.fullmatch(pattern, value)] == accepted


# -- The permissions; test_roles.py holds them to what the functions call --------------------------------------------


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
    conditions = [each["Condition"] for each in statements(role, **CONFIGURED) if each["Action"] == "kms:Decrypt"]

    assert allowed(role, **CONFIGURED) == moved | {("kms:Decrypt", KMS_KEY)}
    assert conditions == [{"StringEquals": {"kms:ViaService": "ssm.eu-west-1.amazonaws.com"}}]


def test_roles_are_for_lambda_and_have_the_permissions_boundary_and_no_other_policy() -> None:
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    default, configured = of_type("AWS::IAM::Role"), of_type("AWS::IAM::Role", **CONFIGURED)

    assert sorted(default) == list(ROLES)
    for name, role in configured.items():
        assert role["AssumeRolePolicyDocument"]["Statement"] == [trust]
        assert "ManagedPolicyArns" not in role
        assert (default[name].get("PermissionsBoundary"), role["PermissionsBoundary"]) == (None, BOUNDARY)
    assert [name for name, entry in resources().items() if entry["Type"].endswith(("Policy", "Policies"))] == []


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
        name: (entry.get("DeletionPolicy"), entry.get("UpdateReplacePolicy")) for name, entry in resources().items()
    }

    assert {name: each for name, each in policies.items() if each not in {(None, None), ("Delete", "Delete")}} == {
        "Queue": ("Retain", "Retain"),
        "DeadLetterQueue": ("Retain", "Retain"),
    }


def test_the_worker_receives_ten_events_at_once_and_answers_for_each() -> None:
    assert list(of_type("AWS::Lambda::EventSourceMapping", **CONFIGURED).values()) == [
        {
            "FunctionName": "WorkerFunction",
            "EventSourceArn": "Queue.Arn",
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": "25"},
        }
    ]


def test_the_table_has_an_item_for_each_service_until_its_lease_ends() -> None:
    assert of_type("AWS::DynamoDB::Table")["FlowTable"] == {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "service", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "service", "KeyType": "HASH"}],
        "TimeToLiveSpecification": {"AttributeName": "lease", "Enabled": True},
    }


# -- The logs --------------------------------------------------------------------------------------------------------


def test_every_log_goes_to_a_group_of_the_stack_with_a_retention() -> None:
    functions = of_type("AWS::Lambda::Function")
    (stage,) = of_type("AWS::ApiGatewayV2::Stage").values()
    levels = {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}

    assert of_type("AWS::Logs::LogGroup", **CONFIGURED) == {
        "AccessLogGroup": {"LogGroupName": "/aws/vendedlogs/apigateway/stack", "RetentionInDays": "90"},
        "ApiFunctionLogGroup": {"LogGroupName": "/aws/lambda/stack-api", "RetentionInDays": "90"},
        "WorkerFunctionLogGroup": {"LogGroupName": "/aws/lambda/stack-worker", "RetentionInDays": "90"},
    }
    assert stage["AccessLogSettings"]["DestinationArn"] == "AccessLogGroup.Arn"
    assert {name: properties["LoggingConfig"] for name, properties in functions.items()} == {
        name: {"LogGroup": f"{name}LogGroup", **levels} for name in FUNCTIONS
    }
