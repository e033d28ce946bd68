"""The template as it is written, where moto creates nothing of it or does not show it; see test_created_stack.py."""

import re
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from tests.infrastructure.dashboard import substitute
from tests.infrastructure.transformed import TEMPLATE, deployed, of_type, transform


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """Return the template as it is written; short forms such as !Ref become {"Ref": ...}."""
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    """Return the resources that CloudFormation is given."""
    found: dict[str, Any] = transform()["Resources"]
    return found


@pytest.fixture(scope="module")
def functions(resources: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of both functions."""
    return of_type(resources, "AWS::Lambda::Function")


@pytest.fixture(scope="module")
def body(resources: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document that API Gateway is given."""
    found: dict[str, Any] = resources["Api"]["Properties"]["Body"]
    return found


@pytest.fixture(scope="module")
def stage(resources: dict[str, Any]) -> dict[str, Any]:
    (found,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    return found


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


# -- The functions ---------------------------------------------------------------------------------------------------


def test_the_functions_run_on_the_chosen_processor_which_is_arm_by_default(
    template: dict[str, Any], functions: dict[str, Any]
) -> None:
    assert [function["Architectures"] for function in functions.values()] == [[{"Ref": "Architecture"}]] * 2
    assert template["Parameters"]["Architecture"]["Default"] == "arm64"


def test_invocations_are_not_traced(functions: dict[str, Any]) -> None:
    assert [function for function in functions.values() if "TracingConfig" in function] == []


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


@pytest.mark.parametrize(("asked_for", "reserved"), [("0", None), ("100", {"Ref": "ReservedConcurrency"})])
def test_the_function_behind_the_api_has_as_many_instances_of_its_own_as_were_asked_for(
    asked_for: str, reserved: object
) -> None:
    functions = of_type(deployed(transform(), ReservedConcurrency=asked_for)["Resources"], "AWS::Lambda::Function")

    assert {name: each.get("ReservedConcurrentExecutions") for name, each in functions.items()} == {
        "ApiFunction": reserved,
        "WorkerFunction": None,
    }


def test_no_instances_are_taken_away_from_the_account_by_default(template: dict[str, Any]) -> None:
    assert template["Parameters"]["ReservedConcurrency"]["Default"] == 0


def test_a_deployment_takes_effect_without_versions_or_aliases(resources: dict[str, Any]) -> None:
    kinds = {entry["Type"] for entry in resources.values()}

    assert kinds & {"AWS::Lambda::Version", "AWS::Lambda::Alias"} == set()


# -- The parameters --------------------------------------------------------------------------------------------------


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
        ("DedupKeyField", "{properties.host}/{properties.check}", True),
        ("DedupKeyField", "disk-{messageId}", True),
        ("DedupKeyField", "{properties..host}", False),
        ("DedupKeyField", "{properties.host", False),
        ("DedupKeyField", "properties.host}", False),
        ("DedupKeyField", "{}", False),
        ("ServiceField", "", True),
        ("ServiceField", "properties.team", True),
        ("ServiceField", "properties.", False),
        ("ServiceField", "{properties.team}", False),
        ("SummaryTemplate", "", True),
        ("SummaryTemplate", "{event} on {properties.host}", True),
        ("SummaryTemplate", "v1.2: {event}.", True),
        ("SummaryTemplate", "event", False),
        ("SummaryTemplate", "{{event}}", False),
        ("SummaryTemplate", "{event", False),
        ("ExtraDetails", "", True),
        ("ExtraDetails", "properties", True),
        ("ExtraDetails", "properties, context.traits.plan", True),
        ("ExtraDetails", "properties,", False),
        ("ExtraDetails", "properties,,userId", False),
        ("ExtraDetails", "{properties}", False),
        ("KmsKeyArn", "", True),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:123456789012:key/0a1b2c3d-0000-1111-2222-333344445555", True),
        ("KmsKeyArn", "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-0a1b2c3d", True),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:123456789012:alias/secrets", False),
        ("KmsKeyArn", "arn:aws:kms:eu-west-1:123456789012:key/*", False),
        ("KmsKeyArn", "*", False),
        ("CallsPerMinute", "11", False),
        ("CallsPerMinute", "12", True),
        ("CallsPerMinute", "10000", True),
        ("CallsPerMinute", "10001", False),
        # What Lambda takes.
        ("QueueConcurrency", "1", False),
        ("QueueConcurrency", "2", True),
        ("QueueConcurrency", "1000", True),
        ("QueueConcurrency", "1001", False),
        ("ReservedConcurrency", "-1", False),
        ("ReservedConcurrency", "0", True),
        ("PermissionsBoundaryArn", "", True),
        ("PermissionsBoundaryArn", "arn:aws:iam::123456789012:policy/teams/boundary", True),
        ("PermissionsBoundaryArn", "arn:aws-cn:iam::aws:policy/PowerUserAccess", True),
        ("PermissionsBoundaryArn", "arn:aws:iam::123456789012:role/boundary", False),
        ("AlarmTopicArn", "", True),
        ("AlarmTopicArn", "arn:aws-cn:sns:cn-north-1:123456789012:alarms", True),
        ("AlarmTopicArn", "arn:aws:sns:eu-west-1:123456789012:alarms.fifo", False),
    ],
)
def test_a_mistake_in_a_parameter_stops_the_deployment(
    template: dict[str, Any], parameter: str, value: str, *, accepted: bool
) -> None:
    assert accepts(template["Parameters"][parameter], value) == accepted


def accepts(parameter: dict[str, Any], value: str) -> bool:
    """Tell whether CloudFormation takes a value for a parameter."""
    if parameter["Type"] == "Number":
        return int(parameter.get("MinValue", value)) <= int(value) <= int(parameter.get("MaxValue", value))
    if "AllowedValues" in parameter:
        return value in parameter["AllowedValues"]
    return bool(re.fullmatch(parameter["AllowedPattern"], value))


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


def test_no_role_has_managed_policies(resources: dict[str, Any]) -> None:
    roles = of_type(resources, "AWS::IAM::Role")

    assert [name for name, role in roles.items() if "ManagedPolicyArns" in role] == []


@pytest.mark.parametrize(
    ("arn", "boundary"),
    [("", None), ("arn:aws:iam::123456789012:policy/boundary", {"Ref": "PermissionsBoundaryArn"})],
)
def test_both_roles_have_the_permissions_boundary_that_was_asked_for(arn: str, boundary: object) -> None:
    roles = of_type(deployed(transform(), PermissionsBoundaryArn=arn)["Resources"], "AWS::IAM::Role")

    assert {name: role.get("PermissionsBoundary") for name, role in roles.items()} == {
        "ApiFunctionRole": boundary,
        "WorkerFunctionRole": boundary,
    }


def test_no_policy_is_made_beside_the_roles(resources: dict[str, Any]) -> None:
    kinds = {entry["Type"] for entry in resources.values()}

    assert {kind for kind in kinds if kind.endswith(("Policy", "Policies"))} == set()


# -- The queues ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Queue", "DeadLetterQueue"])
def test_a_queue_outlives_a_change_that_makes_another_in_its_place(resources: dict[str, Any], name: str) -> None:
    assert resources[name]["UpdateReplacePolicy"] == "Retain"


def test_no_queue_has_a_name_that_the_next_stack_could_not_take(resources: dict[str, Any]) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")

    assert [name for name, queue in queues.items() if "QueueName" in queue] == []


# -- The table -------------------------------------------------------------------------------------------------------


def test_the_table_is_encrypted_by_a_key_that_aws_owns_and_goes_with_the_stack(resources: dict[str, Any]) -> None:
    table = resources["FlowTable"]

    assert "SSESpecification" not in table["Properties"]
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("Delete", "Delete")


def test_the_table_forgets_a_service_when_its_lease_is_over(resources: dict[str, Any]) -> None:
    assert resources["FlowTable"]["Properties"]["TimeToLiveSpecification"] == {
        "AttributeName": "lease",
        "Enabled": True,
    }


def test_no_table_has_a_name_that_the_next_stack_could_not_take(resources: dict[str, Any]) -> None:
    assert "TableName" not in resources["FlowTable"]["Properties"]


# -- The outputs -------------------------------------------------------------------------------------------------------


def test_every_output_says_what_to_do_with_it(template: dict[str, Any]) -> None:
    assert [name for name, output in template["Outputs"].items() if not output.get("Description")] == []


@pytest.mark.parametrize(
    ("partition", "region", "console"),
    [
        ("aws", "eu-west-1", "console.aws.amazon.com"),
        ("aws-cn", "cn-north-1", "console.amazonaws.cn"),
        ("aws-us-gov", "us-gov-west-1", "console.amazonaws-us-gov.com"),
    ],
)
def test_the_dashboard_is_in_the_console_of_the_partition(partition: str, region: str, console: str) -> None:
    output = deployed(transform(), partition=partition)["Outputs"]["DashboardUrl"]["Value"]
    url = substitute(output, {"AWS::Region": region, "Dashboard": "alerts"}.__getitem__)

    assert url == f"https://{console}/cloudwatch/home?region={region}#dashboards/dashboard/alerts"
