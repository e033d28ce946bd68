import importlib
import json
import re
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from samcli.cli.types import CfnTags
from samcli.lib.providers.sam_function_provider import SamFunctionProvider
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider
from samtranslator.yaml_helper import yaml_parse

from infrastructure import TEMPLATE, deployed, listed, transform
from settings import Settings

ROOT = Path(__file__).parents[1]

KMS_KEY = "arn:aws:kms:eu-west-1:123456789012:key/0a1b2c3d-0000-1111-2222-333344445555"
ARN = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${ParameterPrefix}"


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """Return the template as it is written; short forms such as !Ref become {"Ref": ...}."""
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def transformed() -> dict[str, Any]:
    return transform()


@pytest.fixture(scope="module")
def direct(transformed: dict[str, Any]) -> dict[str, Any]:
    """Return the stack of somebody who sets nothing."""
    return deployed(transformed)


@pytest.fixture(scope="module")
def queued(transformed: dict[str, Any]) -> dict[str, Any]:
    return deployed(transformed, DeliveryMode="queued")


@pytest.fixture(scope="module", params=["direct", "queued"])
def stack(request: pytest.FixtureRequest, transformed: dict[str, Any]) -> dict[str, Any]:
    """Return the stack of either mode: what holds for both."""
    return deployed(transformed, DeliveryMode=request.param)


@pytest.fixture(scope="module")
def resources(stack: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stack["Resources"]
    return found


@pytest.fixture(scope="module")
def functions(queued: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of both functions."""
    return of_type(queued["Resources"], "AWS::Lambda::Function")


@pytest.fixture(scope="module")
def body(resources: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document that API Gateway is given."""
    found: dict[str, Any] = resources["Api"]["Properties"]["Body"]
    return found


@pytest.fixture(scope="module")
def stage(resources: dict[str, Any]) -> dict[str, Any]:
    (found,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    return found


def of_type(resources: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: entry["Properties"] for name, entry in resources.items() if entry["Type"] == kind}


def environment(function: str = "ApiFunction", **parameters: str) -> dict[str, str]:
    """Return the function's environment variables as SAM resolves them for a stack with these parameters.

    A queue's URL is known to AWS only: SAM puts the name that the queue has in the template in its place.
    """
    with warnings.catch_warnings():
        # SAM's reading of a template uses parts of its own, and of jsonschema, that are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        stacks, _ = SamLocalStackProvider.get_stacks(str(TEMPLATE), parameter_overrides=parameters)
        found: dict[str, str] = SamFunctionProvider(stacks).get(function).environment["Variables"]
    return found


def statements(stack: dict[str, Any], role: str) -> dict[str, dict[str, Any]]:
    """Return what a role allows, by Sid."""
    (policy,) = stack["Resources"][role]["Properties"]["Policies"]
    return {statement["Sid"]: statement for statement in policy["PolicyDocument"]["Statement"]}


def allowed(stack: dict[str, Any], role: str) -> set[tuple[str, str]]:
    """Return every action that a role allows, with that which it allows it on."""
    return {
        (action, shown(resource))
        for statement in statements(stack, role).values()
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }


def shown(resource: Any) -> str:
    match resource:
        case {"Fn::GetAtt": [name, attribute]}:
            return f"{name}.{attribute}"
        case {"Fn::Sub": str(text)} | {"Ref": str(text)} | str(text):
            return text
    raise TypeError(resource)


# -- The endpoint ----------------------------------------------------------------------------------------------------


def test_the_four_documented_routes_are_the_only_ones(body: dict[str, Any]) -> None:
    routes = {(method, path) for path, methods in body["paths"].items() for method in methods}

    assert routes == {
        ("post", "/events"),
        ("post", "/events/{service}"),
        ("post", "/v1/track"),
        ("post", "/v1/batch"),
    }


@pytest.mark.parametrize("path", ["/events", "/events/{service}", "/v1/track", "/v1/batch"])
def test_every_route_hands_payloads_of_format_2_0_to_the_function(body: dict[str, Any], path: str) -> None:
    integration = body["paths"][path]["post"]["x-amazon-apigateway-integration"]

    assert (integration["payloadFormatVersion"], "${ApiFunction.Arn}" in integration["uri"]["Fn::Sub"]) == ("2.0", True)


def test_browsers_are_not_let_in(body: dict[str, Any]) -> None:
    assert "x-amazon-apigateway-cors" not in body


def test_urls_have_no_stage_in_their_path(stage: dict[str, Any]) -> None:
    assert stage["StageName"] == "$default"


def test_every_route_is_throttled(stage: dict[str, Any]) -> None:
    assert stage["DefaultRouteSettings"] == {
        "ThrottlingRateLimit": {"Ref": "ThrottlingRateLimit"},
        "ThrottlingBurstLimit": {"Ref": "ThrottlingBurstLimit"},
    }


def test_throttling_leaves_room_for_a_storm_by_default(template: dict[str, Any]) -> None:
    limits = ("ThrottlingRateLimit", "ThrottlingBurstLimit")

    assert [template["Parameters"][name]["Default"] for name in limits] == [200, 400]


def test_requests_are_logged_to_a_group_of_their_own(stage: dict[str, Any]) -> None:
    assert stage["AccessLogSettings"]["DestinationArn"] == {"Fn::GetAtt": ["AccessLogGroup", "Arn"]}


def test_the_access_log_holds_neither_headers_nor_queries(stage: dict[str, Any]) -> None:
    assert json.loads(stage["AccessLogSettings"]["Format"]) == {
        "requestId": "$context.requestId",
        "requestTime": "$context.requestTime",
        "sourceIp": "$context.identity.sourceIp",
        "routeKey": "$context.routeKey",
        "status": "$context.status",
        "responseLength": "$context.responseLength",
        "responseLatency": "$context.responseLatency",
        "integrationLatency": "$context.integrationLatency",
        "integrationError": "$context.integration.error",
    }


def test_the_access_log_has_one_line_a_request(stage: dict[str, Any]) -> None:
    assert "\n" not in stage["AccessLogSettings"]["Format"]


# -- The functions ---------------------------------------------------------------------------------------------------


def test_the_endpoint_is_answered_by_app_and_the_queue_is_read_by_worker(functions: dict[str, Any]) -> None:
    assert {name: function["Handler"] for name, function in functions.items()} == {
        "ApiFunction": "app.lambda_handler",
        "WorkerFunction": "worker.lambda_handler",
    }


def test_both_functions_are_the_same_code(template: dict[str, Any]) -> None:
    code = [template["Resources"][name]["Properties"]["CodeUri"] for name in ("ApiFunction", "WorkerFunction")]

    assert code == ["function/", "function/"]


def test_the_functions_run_on_python_3_13(functions: dict[str, Any]) -> None:
    assert [function["Runtime"] for function in functions.values()] == ["python3.13", "python3.13"]


def test_the_functions_run_on_arm(functions: dict[str, Any]) -> None:
    assert [function["Architectures"] for function in functions.values()] == [["arm64"], ["arm64"]]


def test_the_functions_have_the_memory_that_was_asked_for(functions: dict[str, Any]) -> None:
    assert [function["MemorySize"] for function in functions.values()] == [{"Ref": "MemorySize"}, {"Ref": "MemorySize"}]


def test_the_api_is_stopped_before_rudderstack_gives_up(functions: dict[str, Any]) -> None:
    assert functions["ApiFunction"]["Timeout"] == 9


def test_invocations_are_traced(functions: dict[str, Any]) -> None:
    assert [function["TracingConfig"] for function in functions.values()] == [{"Mode": "Active"}, {"Mode": "Active"}]


def test_the_functions_log_json_to_groups_of_their_own(functions: dict[str, Any]) -> None:
    assert {name: function["LoggingConfig"] for name, function in functions.items()} == {
        "ApiFunction": {
            "LogGroup": {"Ref": "ApiFunctionLogGroup"},
            "LogFormat": "JSON",
            "ApplicationLogLevel": "INFO",
            "SystemLogLevel": "INFO",
        },
        "WorkerFunction": {
            "LogGroup": {"Ref": "WorkerFunctionLogGroup"},
            "LogFormat": "JSON",
            "ApplicationLogLevel": "INFO",
            "SystemLogLevel": "INFO",
        },
    }


def test_no_snapshot_freezes_the_secrets_of_a_version(functions: dict[str, Any]) -> None:
    assert [name for name, function in functions.items() if "SnapStart" in function] == []


def test_no_function_takes_concurrency_away_from_the_account(functions: dict[str, Any]) -> None:
    assert [name for name, function in functions.items() if "ReservedConcurrentExecutions" in function] == []


def test_a_deployment_takes_effect_without_versions_or_aliases(resources: dict[str, Any]) -> None:
    kinds = {entry["Type"] for entry in resources.values()}

    assert kinds & {"AWS::Lambda::Version", "AWS::Lambda::Alias"} == set()


@pytest.mark.parametrize("name", ["ApiFunction", "WorkerFunction"])
def test_a_function_is_built_by_its_makefile(template: dict[str, Any], name: str) -> None:
    assert template["Resources"][name]["Metadata"] == {"BuildMethod": "makefile"}


# -- Their settings --------------------------------------------------------------------------------------------------


class Recorder(Mapping[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_the_environment_variables_have_their_documented_defaults() -> None:
    assert environment() == {
        "PARAMETER_PREFIX": "/rudderstack-pagerduty",
        "DEDUP_KEY_FIELD": "properties.dedupKey",
        "PAGERDUTY_URL": "https://events.pagerduty.com",
        "DEFAULT_SEVERITY": "critical",
        "DEFAULT_SOURCE": "",
        "QUEUE_URL": "",
        "POWERTOOLS_SERVICE_NAME": "local",  # what SAM calls a stack on this machine
        "AWS_ENDPOINT_URL": "",
    }


def test_the_worker_is_told_where_its_secrets_and_queues_are_and_nothing_about_the_mapping() -> None:
    assert environment("WorkerFunction", DeliveryMode="queued") == {
        "PARAMETER_PREFIX": "/rudderstack-pagerduty",
        "PAGERDUTY_URL": "https://events.pagerduty.com",
        "QUEUE_URL": "Queue",
        "DEAD_LETTER_QUEUE_URL": "DeadLetterQueue",
        "POWERTOOLS_SERVICE_NAME": "local",  # what SAM calls a stack on this machine
        "AWS_ENDPOINT_URL": "",
    }


def test_queued_delivery_tells_the_api_where_the_queue_is_and_changes_nothing_else() -> None:
    assert environment(DeliveryMode="queued") == environment() | {"QUEUE_URL": "Queue"}


def test_every_variable_that_the_functions_read_is_declared() -> None:
    recorder = Recorder()
    Settings.from_environment(recorder)

    assert recorder.asked - environment().keys() - environment("WorkerFunction").keys() == set()


def test_the_defaults_of_the_template_are_those_of_the_function() -> None:
    assert Settings.from_environment(environment()) == Settings()


@pytest.mark.parametrize("function", ["ApiFunction", "WorkerFunction"])
def test_accounts_in_europe_are_served_by_pagerduty_in_europe(function: str) -> None:
    assert environment(function, PagerDutyRegion="eu")["PAGERDUTY_URL"] == "https://events.eu.pagerduty.com"


def test_both_functions_find_their_secrets_at_the_same_place() -> None:
    prefixes = [
        environment(name, ParameterPrefix="/team/alerts")["PARAMETER_PREFIX"]
        for name in ("ApiFunction", "WorkerFunction")
    ]

    assert prefixes == ["/team/alerts", "/team/alerts"]


def test_parameters_reach_the_api() -> None:
    variables = environment(
        ParameterPrefix="/team/alerts",
        DedupKeyField="context.traits.0.id",
        DefaultSeverity="warning",
        DefaultSource="shop",
    )

    assert Settings.from_environment(variables) == Settings(
        parameter_prefix="/team/alerts",
        dedup_key_field=("context", "traits", "0", "id"),
        default_severity="warning",
        default_source="shop",
    )


def test_an_empty_endpoint_url_means_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", environment()["AWS_ENDPOINT_URL"])

    assert boto3.client("ssm", region_name="eu-west-1").meta.endpoint_url == "https://ssm.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("parameter", "value", "accepted"),
    [
        ("ParameterPrefix", "/rudderstack-pagerduty", True),
        ("ParameterPrefix", "/team_1/alerts.eu", True),
        ("ParameterPrefix", "", False),
        ("ParameterPrefix", "/", False),
        ("ParameterPrefix", "rudderstack-pagerduty", False),
        ("ParameterPrefix", "/rudderstack-pagerduty/", False),
        ("ParameterPrefix", "/team//alerts", False),
        ("ParameterPrefix", "/*", False),
        ("ParameterPrefix", "/team?", False),
        ("ParameterPrefix", "/a" * 13, True),
        ("ParameterPrefix", "/a" * 14, False),
        ("DedupKeyField", "properties.dedupKey", True),
        ("DedupKeyField", "messageId", True),
        ("DedupKeyField", "context.items.0.Dedup Key", True),
        ("DedupKeyField", "", False),
        ("DedupKeyField", ".properties", False),
        ("DedupKeyField", "properties.", False),
        ("DedupKeyField", "properties..dedupKey", False),
        ("KmsKeyArn", "", True),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:123456789012:key/0a1b2c3d-0000-1111-2222-333344445555", True),
        ("KmsKeyArn", "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-0a1b2c3d", True),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:123456789012:alias/secrets", False),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:123456789012:key/*", False),
        ("KmsKeyArn", "*", False),
    ],
)
def test_a_mistake_in_a_parameter_stops_the_deployment(
    template: dict[str, Any], parameter: str, value: str, *, accepted: bool
) -> None:
    pattern = template["Parameters"][parameter]["AllowedPattern"]

    assert bool(re.fullmatch(pattern, value)) == accepted


def test_delivery_is_direct_unless_queued_is_asked_for(template: dict[str, Any]) -> None:
    parameter = template["Parameters"]["DeliveryMode"]

    assert (parameter["Default"], parameter["AllowedValues"]) == ("direct", ["direct", "queued"])


def test_ten_batches_go_out_at_once_unless_another_number_that_lambda_takes_is_asked_for(
    template: dict[str, Any],
) -> None:
    parameter = template["Parameters"]["QueueConcurrency"]

    assert (parameter["Type"], parameter["Default"], parameter["MinValue"], parameter["MaxValue"]) == (
        "Number",
        10,
        2,
        1000,
    )


def test_every_parameter_has_a_default_and_a_description(template: dict[str, Any]) -> None:
    incomplete = [
        name for name, entry in template["Parameters"].items() if "Default" not in entry or not entry.get("Description")
    ]

    assert incomplete == []


def test_every_parameter_is_shown_in_one_labelled_group(template: dict[str, Any]) -> None:
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in groups if group["Label"]["default"] for name in group["Parameters"]]

    assert sorted(shown) == sorted(template["Parameters"])


# -- Their permissions -----------------------------------------------------------------------------------------------


def test_every_function_has_a_role_of_its_own(functions: dict[str, Any]) -> None:
    assert {name: function["Role"]["Fn::GetAtt"] for name, function in functions.items()} == {
        "ApiFunction": ["ApiFunctionRole", "Arn"],
        "WorkerFunction": ["WorkerFunctionRole", "Arn"],
    }


def test_no_other_roles_are_made(direct: dict[str, Any], queued: dict[str, Any]) -> None:
    roles = [sorted(of_type(stack["Resources"], "AWS::IAM::Role")) for stack in (direct, queued)]

    assert roles == [["ApiFunctionRole"], ["ApiFunctionRole", "WorkerFunctionRole"]]


def test_no_role_has_managed_policies(resources: dict[str, Any]) -> None:
    roles = of_type(resources, "AWS::IAM::Role")

    assert [name for name, role in roles.items() if "ManagedPolicyArns" in role] == []


def test_no_policy_is_made_beside_the_roles(resources: dict[str, Any]) -> None:
    kinds = {entry["Type"] for entry in resources.values()}

    assert {kind for kind in kinds if kind.endswith(("Policy", "Policies"))} == set()


@pytest.mark.parametrize("role", ["ApiFunctionRole", "WorkerFunctionRole"])
def test_only_lambda_can_take_a_role(queued: dict[str, Any], role: str) -> None:
    assert queued["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"] == [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ]


def test_with_direct_delivery_the_api_reads_all_secrets_and_does_nothing_else(direct: dict[str, Any]) -> None:
    assert allowed(direct, "ApiFunctionRole") == {
        ("ssm:GetParameters", f"{ARN}/webhook-token"),
        ("ssm:GetParameters", f"{ARN}/routing-keys/*"),
        ("logs:CreateLogStream", "ApiFunctionLogGroup.Arn"),
        ("logs:PutLogEvents", "ApiFunctionLogGroup.Arn"),
        ("xray:PutTraceSegments", "*"),
        ("xray:PutTelemetryRecords", "*"),
    }


def test_with_queued_delivery_the_api_fills_the_queue_and_cannot_read_a_routing_key(queued: dict[str, Any]) -> None:
    assert allowed(queued, "ApiFunctionRole") == {
        ("ssm:GetParameters", f"{ARN}/webhook-token"),
        ("sqs:SendMessage", "Queue.Arn"),
        ("logs:CreateLogStream", "ApiFunctionLogGroup.Arn"),
        ("logs:PutLogEvents", "ApiFunctionLogGroup.Arn"),
        ("xray:PutTraceSegments", "*"),
        ("xray:PutTelemetryRecords", "*"),
    }


def test_the_worker_empties_the_queue_and_cannot_read_the_shared_secret(queued: dict[str, Any]) -> None:
    assert allowed(queued, "WorkerFunctionRole") == {
        ("sqs:ReceiveMessage", "Queue.Arn"),
        ("sqs:DeleteMessage", "Queue.Arn"),
        ("sqs:GetQueueAttributes", "Queue.Arn"),
        ("sqs:SendMessage", "DeadLetterQueue.Arn"),
        ("ssm:GetParameters", f"{ARN}/routing-keys/*"),
        ("logs:CreateLogStream", "WorkerFunctionLogGroup.Arn"),
        ("logs:PutLogEvents", "WorkerFunctionLogGroup.Arn"),
        ("xray:PutTraceSegments", "*"),
        ("xray:PutTelemetryRecords", "*"),
    }


ROLES = [("direct", "ApiFunctionRole"), ("queued", "ApiFunctionRole"), ("queued", "WorkerFunctionRole")]


@pytest.mark.parametrize(("mode", "role"), ROLES)
def test_every_capability_is_a_statement_that_allows(transformed: dict[str, Any], mode: str, role: str) -> None:
    stack = deployed(transformed, DeliveryMode=mode, KmsKeyArn=KMS_KEY)
    (policy,) = stack["Resources"][role]["Properties"]["Policies"]
    entries = policy["PolicyDocument"]["Statement"]

    assert ({entry["Effect"] for entry in entries}, len({entry["Sid"] for entry in entries})) == (
        {"Allow"},
        len(entries),
    )


@pytest.mark.parametrize(("mode", "role"), ROLES)
def test_a_customer_key_adds_decrypting_with_it_and_nothing_else(
    transformed: dict[str, Any], mode: str, role: str
) -> None:
    without = deployed(transformed, DeliveryMode=mode)
    with_key = deployed(transformed, DeliveryMode=mode, KmsKeyArn=KMS_KEY)

    assert allowed(with_key, role) ^ allowed(without, role) == {("kms:Decrypt", "KmsKeyArn")}


@pytest.mark.parametrize(("mode", "role"), ROLES)
def test_the_customer_key_decrypts_for_ssm_only(transformed: dict[str, Any], mode: str, role: str) -> None:
    stack = deployed(transformed, DeliveryMode=mode, KmsKeyArn=KMS_KEY)

    assert statements(stack, role)["DecryptSecrets"]["Condition"] == {
        "StringEquals": {"kms:ViaService": {"Fn::Sub": "ssm.${AWS::Region}.${AWS::URLSuffix}"}}
    }


def test_only_this_api_may_invoke_a_function_and_only_the_one_behind_its_routes(resources: dict[str, Any]) -> None:
    permissions = of_type(resources, "AWS::Lambda::Permission").values()
    prefix = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${__ApiId__}/${__Stage__}"

    assert {entry["FunctionName"]["Ref"] for entry in permissions} == {"ApiFunction"}
    assert sorted(
        (entry["Principal"], entry["SourceArn"]["Fn::Sub"][0], entry["SourceArn"]["Fn::Sub"][1]["__ApiId__"]["Ref"])
        for entry in permissions
    ) == [
        ("apigateway.amazonaws.com", f"{prefix}/POST/events", "Api"),
        ("apigateway.amazonaws.com", f"{prefix}/POST/events/*", "Api"),
        ("apigateway.amazonaws.com", f"{prefix}/POST/v1/batch", "Api"),
        ("apigateway.amazonaws.com", f"{prefix}/POST/v1/track", "Api"),
    ]


# -- Queued delivery -------------------------------------------------------------------------------------------------


def test_queued_delivery_adds_two_queues_and_a_worker(direct: dict[str, Any], queued: dict[str, Any]) -> None:
    assert {name: queued["Resources"][name]["Type"] for name in queued["Resources"].keys() - direct["Resources"]} == {
        "Queue": "AWS::SQS::Queue",
        "DeadLetterQueue": "AWS::SQS::Queue",
        "WorkerFunction": "AWS::Lambda::Function",
        "WorkerFunctionMessages": "AWS::Lambda::EventSourceMapping",
        "WorkerFunctionLogGroup": "AWS::Logs::LogGroup",
        "WorkerFunctionRole": "AWS::IAM::Role",
        "WorkerErrorsAlarm": "AWS::CloudWatch::Alarm",
        "WorkerThrottlesAlarm": "AWS::CloudWatch::Alarm",
        "QueueAgeAlarm": "AWS::CloudWatch::Alarm",
        "DeadLettersAlarm": "AWS::CloudWatch::Alarm",
    }


def test_direct_delivery_has_nothing_that_queued_delivery_has_not(
    direct: dict[str, Any], queued: dict[str, Any]
) -> None:
    assert direct["Resources"].keys() - queued["Resources"] == set()


def test_direct_delivery_names_nothing_of_queued_delivery(direct: dict[str, Any]) -> None:
    # The metric "Queued" is there in either mode: what is not counted is not shown.
    assert re.findall(r'"(?:sqs|SQS|DeadLetter|Queue(?!d\b)|Worker)\w*', json.dumps(direct)) == []


def test_the_queue_is_fifo_with_high_throughput_encrypted_and_keeps_events_for_fourteen_days(
    queued: dict[str, Any],
) -> None:
    assert queued["Resources"]["Queue"]["Properties"] == {
        "FifoQueue": True,
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
        "SqsManagedSseEnabled": True,
        "MessageRetentionPeriod": 14 * 24 * 3600,
        "MaximumMessageSize": 1024 * 1024,
        "VisibilityTimeout": 120,
        "RedrivePolicy": {
            "deadLetterTargetArn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]},
            "maxReceiveCount": 1000,
        },
    }


def test_the_dead_letter_queue_is_fifo_encrypted_and_keeps_events_for_fourteen_days(queued: dict[str, Any]) -> None:
    assert queued["Resources"]["DeadLetterQueue"]["Properties"] == {
        "FifoQueue": True,
        "SqsManagedSseEnabled": True,
        "MessageRetentionPeriod": 14 * 24 * 3600,
        "MaximumMessageSize": 1024 * 1024,
    }


@pytest.mark.parametrize("name", ["Queue", "DeadLetterQueue"])
@pytest.mark.parametrize("policy", ["DeletionPolicy", "UpdateReplacePolicy"])
def test_the_queues_outlive_a_change_of_mode_or_of_stack(queued: dict[str, Any], name: str, policy: str) -> None:
    assert queued["Resources"][name][policy] == "Retain"


def test_no_queue_has_a_name_that_the_next_stack_could_not_take(queued: dict[str, Any]) -> None:
    queues = of_type(queued["Resources"], "AWS::SQS::Queue")

    assert [name for name, queue in queues.items() if "QueueName" in queue] == []


def test_an_outage_of_a_day_loses_nothing(queued: dict[str, Any]) -> None:
    queue = queued["Resources"]["Queue"]["Properties"]
    given_up = queue["VisibilityTimeout"] * queue["RedrivePolicy"]["maxReceiveCount"]

    assert (given_up > 24 * 3600, queue["MessageRetentionPeriod"] > given_up) == (True, True)


def test_an_event_is_with_one_worker_at_a_time(queued: dict[str, Any], functions: dict[str, Any]) -> None:
    visibility_timeout = queued["Resources"]["Queue"]["Properties"]["VisibilityTimeout"]

    assert (functions["WorkerFunction"]["Timeout"], visibility_timeout) == (90, 120)


def test_the_worker_is_given_ten_events_at_once_and_answers_for_each(queued: dict[str, Any]) -> None:
    assert of_type(queued["Resources"], "AWS::Lambda::EventSourceMapping") == {
        "WorkerFunctionMessages": {
            "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
            "FunctionName": {"Ref": "WorkerFunction"},
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": {"Ref": "QueueConcurrency"}},
        }
    }


# -- Their logs ------------------------------------------------------------------------------------------------------


def test_log_groups_are_named_after_the_stack(queued: dict[str, Any]) -> None:
    groups = of_type(queued["Resources"], "AWS::Logs::LogGroup")

    assert {name: group["LogGroupName"]["Fn::Sub"] for name, group in groups.items()} == {
        "AccessLogGroup": "/aws/vendedlogs/apigateway/${AWS::StackName}",
        "ApiFunctionLogGroup": "/aws/lambda/${AWS::StackName}-api",
        "WorkerFunctionLogGroup": "/aws/lambda/${AWS::StackName}-worker",
    }


def test_every_log_is_kept_for_the_time_that_was_asked_for(queued: dict[str, Any]) -> None:
    groups = of_type(queued["Resources"], "AWS::Logs::LogGroup")

    assert [name for name, group in groups.items() if group["RetentionInDays"] != {"Ref": "LogRetentionDays"}] == []


def test_logs_are_kept_for_thirty_days_by_default(template: dict[str, Any]) -> None:
    assert template["Parameters"]["LogRetentionDays"]["Default"] == 30


# -- Deploying it ----------------------------------------------------------------------------------------------------


def test_the_outputs_are_what_setting_up_rudderstack_needs(direct: dict[str, Any]) -> None:
    assert set(direct["Outputs"]) == {
        "EventsUrl",
        "DataPlaneUrl",
        "WebhookTokenParameter",
        "RoutingKeyParameter",
        "PagerDutyUrl",
        "DashboardUrl",
        "FunctionName",
        "LogGroup",
    }


def test_queued_delivery_adds_what_looking_after_the_queues_needs(
    direct: dict[str, Any], queued: dict[str, Any]
) -> None:
    added = queued["Outputs"].keys() - direct["Outputs"]

    assert {name: queued["Outputs"][name]["Value"] for name in added} == {
        "QueueUrl": {"Ref": "Queue"},
        "DeadLetterQueueUrl": {"Ref": "DeadLetterQueue"},
        "WorkerLogGroup": {"Ref": "WorkerFunctionLogGroup"},
    }


def test_every_output_says_what_to_do_with_it(template: dict[str, Any]) -> None:
    assert [name for name, output in template["Outputs"].items() if not output.get("Description")] == []


def test_the_outputs_name_the_parameters_that_the_roles_can_read(template: dict[str, Any]) -> None:
    outputs = template["Outputs"]

    assert [outputs[name]["Value"]["Fn::Sub"] for name in ("WebhookTokenParameter", "RoutingKeyParameter")] == [
        "${ParameterPrefix}/webhook-token",
        "${ParameterPrefix}/routing-keys/default",
    ]


@pytest.fixture(scope="module")
def samconfig() -> dict[str, Any]:
    return tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))


def test_there_is_a_default_environment_and_one_for_production(samconfig: dict[str, Any]) -> None:
    assert [name for name, value in samconfig.items() if isinstance(value, dict)] == ["default", "prod"]


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("validate", "samcli.commands.validate.validate"),
        ("build", "samcli.commands.build.command"),
        ("deploy", "samcli.commands.deploy.command"),
        ("local_invoke", "samcli.commands.local.invoke.cli"),
    ],
)
def test_every_setting_is_an_option_of_its_command(samconfig: dict[str, Any], command: str, module: str) -> None:
    options = {option.name for option in importlib.import_module(module).cli.params}
    tables = [samconfig[name][command]["parameters"] for name in ("default", "prod") if command in samconfig[name]]
    settings = {key for table in tables for key in table}

    assert settings - options == set()


def test_production_asks_before_it_changes_anything(samconfig: dict[str, Any]) -> None:
    assert samconfig["prod"]["deploy"]["parameters"]["confirm_changeset"] is True


def test_production_has_a_stack_and_secrets_of_its_own(samconfig: dict[str, Any]) -> None:
    production = samconfig["prod"]["deploy"]["parameters"]

    assert (production["stack_name"], production["parameter_overrides"]) == (
        "rudderstack-pagerduty-prod",
        'ParameterPrefix="/rudderstack-pagerduty-prod"',
    )


@pytest.mark.parametrize("name", ["default", "prod"])
def test_a_deployment_may_make_the_roles_and_the_bucket_that_it_needs(samconfig: dict[str, Any], name: str) -> None:
    parameters = samconfig[name]["deploy"]["parameters"]

    assert (parameters["capabilities"], parameters["resolve_s3"]) == ("CAPABILITY_IAM", True)


@pytest.mark.parametrize("name", ["default", "prod"])
def test_every_resource_is_tagged_with_what_it_belongs_to(samconfig: dict[str, Any], name: str) -> None:
    tags = samconfig[name]["deploy"]["parameters"]["tags"]

    assert CfnTags().convert(tags, None, None) == {"application": "rudderstack-pagerduty", "environment": name}
