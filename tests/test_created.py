"""The stack as it comes out: the transformed template is created in moto's CloudFormation, and AWS's APIs are asked."""

import ast
import contextlib
import copy
import io
import json
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, Final

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure import transform

# What moto's CloudFormation cannot create. The routes are checked in test_template.py, on the OpenAPI document; alarms
# are given to CloudWatch's own API, below. Of functions moto drops the architecture.
NOT_IN_MOTO: Final = {"AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage", "AWS::CloudWatch::Alarm"}
ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"
KMS_KEY: Final = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b2c3d-0000-1111-2222-333344445555"
TOPIC: Final = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"


class Created:
    """A stack in moto, and what AWS's APIs say of it."""

    def __init__(self, url: str, template: dict[str, Any], **parameters: str) -> None:
        self._url = url
        self.name = f"stack-{uuid.uuid4()}"
        self.cloudformation = self.client("cloudformation")
        self.cloudformation.create_stack(
            StackName=self.name, TemplateBody=json.dumps(template), Parameters=listed(parameters)
        )
        self.read()

    def read(self) -> None:
        resources = self.cloudformation.describe_stack_resources(StackName=self.name)["StackResources"]
        # What a condition leaves out, moto lists without a name.
        there = [each for each in resources if "LogicalResourceId" in each]
        self.types = {each["LogicalResourceId"]: each["ResourceType"] for each in there}
        self.ids = {each["LogicalResourceId"]: each.get("PhysicalResourceId", "") for each in there}

    def client(self, service: Any) -> Any:
        return boto3.client(service, endpoint_url=self._url, region_name=REGION)

    def function(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client("lambda").get_function_configuration(FunctionName=self.ids[name])
        return found

    def queue(self, name: str) -> dict[str, str]:
        answer = self.client("sqs").get_queue_attributes(QueueUrl=self.ids[name], AttributeNames=["All"])
        return dict(answer["Attributes"])

    def statements(self, role: str) -> dict[str, dict[str, Any]]:
        """Return what a role allows, by Sid. It has no policies but its own."""
        iam, name = self.client("iam"), self.ids[role]
        assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
        (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
        document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        # moto writes it down in Python, and a statement that a condition leaves out as None.
        return {each["Sid"]: each for each in ast.literal_eval(document)["Statement"] if each}


def listed(parameters: dict[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def without(template: dict[str, Any], types: set[str]) -> dict[str, Any]:
    """Leave resources out; what refers to one of them gets its logical id instead of an id or an attribute."""
    gone = {name for name, entry in template["Resources"].items() if entry["Type"] in types}

    def mended(value: Any) -> Any:
        match value:
            case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]} if name in gone:
                return name
            case dict():
                return {key: mended(item) for key, item in value.items()}
            case list():
                return [mended(item) for item in value]
            case str():
                # The text of a Fn::Sub.
                return re.sub(r"\$\{(\w+)(?:\.\w+)?\}", lambda found: found[1] if found[1] in gone else found[0], value)
        return value

    rest = {name: mended(entry) for name, entry in template["Resources"].items() if name not in gone}
    return {**template, "Resources": rest, "Outputs": mended(template["Outputs"])}


def named(template: dict[str, Any]) -> dict[str, Any]:
    """Name the FIFO queues: CloudFormation ends the names that it makes in .fifo, moto does not."""
    template = copy.deepcopy(template)
    for name, entry in template["Resources"].items():
        if entry["Type"] == "AWS::SQS::Queue":
            entry["Properties"]["QueueName"] = {"Fn::Sub": f"${{AWS::StackName}}-{name}.fifo"}
    return template


@pytest.fixture(scope="module")
def template(aws_url: str) -> dict[str, Any]:
    """Return what moto can create, with the package where the template says."""
    s3 = boto3.client("s3", endpoint_url=aws_url)
    s3.create_bucket(Bucket="bucket")
    with io.BytesIO() as package:
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("app.py", "")
        s3.put_object(Bucket="bucket", Key="package.zip", Body=package.getvalue())
    return named(without(transform(), NOT_IN_MOTO))


@pytest.fixture(scope="module")
def create(aws_url: str, template: dict[str, Any]) -> Callable[..., Created]:
    return lambda **parameters: Created(aws_url, template, **parameters)


@pytest.fixture(scope="module")
def direct(create: Callable[..., Created]) -> Created:
    return create()


@pytest.fixture(scope="module")
def queued(create: Callable[..., Created]) -> Created:
    return create(DeliveryMode="queued", LogRetentionDays="90", ParameterPrefix="/team/alerts")


@pytest.fixture(scope="module", params=["direct", "queued"])
def stack(request: pytest.FixtureRequest) -> Created:
    found: Created = request.getfixturevalue(request.param)
    return found


# -- what there is ---------------------------------------------------------------------------------------------------


def kinds(stack: Created) -> list[str]:
    """List what runs or keeps events; the permissions are API Gateway's, one a route."""
    return sorted(kind for kind in stack.types.values() if kind.startswith(("AWS::Lambda", "AWS::SQS")))


def test_direct_delivery_has_one_function_and_no_queue(direct: Created) -> None:
    assert kinds(direct) == ["AWS::Lambda::Function", *["AWS::Lambda::Permission"] * 4]


def test_queued_delivery_has_two_functions_two_queues_and_what_joins_them(queued: Created) -> None:
    assert kinds(queued) == [
        "AWS::Lambda::EventSourceMapping",
        "AWS::Lambda::Function",
        "AWS::Lambda::Function",
        *["AWS::Lambda::Permission"] * 4,
        "AWS::SQS::Queue",
        "AWS::SQS::Queue",
    ]


@pytest.mark.parametrize("kind", sorted(NOT_IN_MOTO))
@pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
def test_what_is_left_out_is_what_moto_cannot_create(aws_url: str, template: dict[str, Any], kind: str) -> None:
    assert template["Resources"]
    with contextlib.suppress(ClientError):
        stack = Created(aws_url, named(without(transform(), NOT_IN_MOTO - {kind})), DeliveryMode="queued")
        assert kind not in stack.types.values()


# -- the functions ---------------------------------------------------------------------------------------------------


def test_the_apis_function_is_what_the_template_says(direct: Created) -> None:
    function = direct.function("ApiFunction")

    assert {key: function[key] for key in ("Handler", "Runtime", "Timeout", "MemorySize")} == {
        "Handler": "app.lambda_handler",
        "Runtime": "python3.13",
        "Timeout": 9,
        "MemorySize": 512,
    }


def test_the_worker_is_what_the_template_says(queued: Created) -> None:
    function = queued.function("WorkerFunction")

    assert {key: function[key] for key in ("Handler", "Runtime", "Timeout", "MemorySize")} == {
        "Handler": "worker.lambda_handler",
        "Runtime": "python3.13",
        "Timeout": 90,
        "MemorySize": 512,
    }


def test_in_direct_delivery_the_function_knows_of_no_queue(direct: Created) -> None:
    assert direct.function("ApiFunction")["Environment"]["Variables"] == {
        "PARAMETER_PREFIX": "/rudderstack-pagerduty",
        "DEDUP_KEY_FIELD": "properties.dedupKey",
        "PAGERDUTY_URL": "https://events.pagerduty.com",
        "DEFAULT_SEVERITY": "critical",
        "DEFAULT_SOURCE": "",
        "QUEUE_URL": "",
        "POWERTOOLS_SERVICE_NAME": direct.name,
        "AWS_ENDPOINT_URL": "",
    }


def test_in_queued_delivery_both_functions_know_the_queue_that_was_created(queued: Created) -> None:
    variables = {name: queued.function(name)["Environment"]["Variables"] for name in ("ApiFunction", "WorkerFunction")}

    assert {name: found["QUEUE_URL"] for name, found in variables.items()} == {
        "ApiFunction": queued.ids["Queue"],
        "WorkerFunction": queued.ids["Queue"],
    }
    assert variables["WorkerFunction"]["DEAD_LETTER_QUEUE_URL"] == queued.ids["DeadLetterQueue"]


@pytest.mark.parametrize("name", ["ApiFunction", "WorkerFunction"])
def test_a_function_has_its_own_role(queued: Created, name: str) -> None:
    assert queued.function(name)["Role"] == f"arn:aws:iam::{ACCOUNT}:role/{queued.ids[f'{name}Role']}"


# -- what they may do ------------------------------------------------------------------------------------------------


def test_the_apis_function_may_do_this_and_nothing_else_in_direct_delivery(direct: Created) -> None:
    assert allowed(direct, "ApiFunctionRole") == {
        ("ssm:GetParameters", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/rudderstack-pagerduty/webhook-token"),
        ("ssm:GetParameters", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/rudderstack-pagerduty/routing-keys/*"),
        *logs_and_traces(direct, "api"),
    }


def test_the_apis_function_may_do_this_and_nothing_else_in_queued_delivery(queued: Created) -> None:
    assert allowed(queued, "ApiFunctionRole") == {
        ("ssm:GetParameters", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/team/alerts/webhook-token"),
        ("sqs:SendMessage", queued.queue("Queue")["QueueArn"]),
        *logs_and_traces(queued, "api"),
    }


def test_the_worker_may_do_this_and_nothing_else(queued: Created) -> None:
    queue = queued.queue("Queue")["QueueArn"]

    assert allowed(queued, "WorkerFunctionRole") == {
        ("ssm:GetParameters", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/team/alerts/routing-keys/*"),
        ("sqs:ReceiveMessage", queue),
        ("sqs:DeleteMessage", queue),
        ("sqs:GetQueueAttributes", queue),
        ("sqs:SendMessage", queued.queue("DeadLetterQueue")["QueueArn"]),
        *logs_and_traces(queued, "worker"),
    }


def allowed(stack: Created, role: str) -> set[tuple[str, str]]:
    """Return every action that a role allows, with that which it allows it on."""
    return {
        (action, resource)
        for statement in stack.statements(role).values()
        for action in many(statement["Action"])
        for resource in many(statement["Resource"])
        if resource is not None  # moto's way to leave it out
    }


def logs_and_traces(stack: Created, function: str) -> Iterator[tuple[str, str]]:
    for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
        yield action, f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{stack.name}-{function}"
    # X-Ray has no resources that these actions could be limited to.
    for action in ("xray:PutTraceSegments", "xray:PutTelemetryRecords"):
        yield action, "*"


def test_no_action_is_a_wildcard(stack: Created) -> None:
    roles = [name for name, kind in stack.types.items() if kind == "AWS::IAM::Role"]

    assert [action for role in roles for action, _ in allowed(stack, role) if "*" in action] == []


def test_only_traces_are_allowed_on_everything(stack: Created) -> None:
    roles = [name for name, kind in stack.types.items() if kind == "AWS::IAM::Role"]
    everywhere = {action for role in roles for action, resource in allowed(stack, role) if resource == "*"}

    assert everywhere == {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}


def test_only_lambda_takes_on_the_roles(stack: Created) -> None:
    iam = stack.client("iam")
    roles = [stack.ids[name] for name, kind in stack.types.items() if kind == "AWS::IAM::Role"]
    trusted = [iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"] for role in roles]

    assert {json.dumps(statement["Principal"]) for statements in trusted for statement in statements} == {
        '{"Service": "lambda.amazonaws.com"}'
    }


@pytest.mark.parametrize("role", ["ApiFunctionRole", "WorkerFunctionRole"])
def test_a_key_of_the_customers_is_used_through_ssm_only(create: Callable[..., Created], role: str) -> None:
    with_key = create(DeliveryMode="queued", KmsKeyArn=KMS_KEY)

    assert with_key.statements(role)["DecryptSecrets"] == {
        "Sid": "DecryptSecrets",
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": KMS_KEY,
        "Condition": {"StringEquals": {"kms:ViaService": f"ssm.{REGION}.amazonaws.com"}},
    }


def test_without_such_a_key_nothing_may_be_decrypted(stack: Created) -> None:
    roles = [name for name, kind in stack.types.items() if kind == "AWS::IAM::Role"]

    assert [role for role in roles if "DecryptSecrets" in stack.statements(role)] == []


# -- logs and queues -------------------------------------------------------------------------------------------------


def retention(stack: Created) -> dict[str, int]:
    groups = stack.client("logs").get_paginator("describe_log_groups").paginate()
    found = {each["logGroupName"]: each.get("retentionInDays", 0) for page in groups for each in page["logGroups"]}
    return {name: days for name, days in found.items() if stack.name in name}


def test_the_logs_of_direct_delivery_are_kept_for_thirty_days(direct: Created) -> None:
    assert retention(direct) == {
        f"/aws/lambda/{direct.name}-api": 30,
        f"/aws/vendedlogs/apigateway/{direct.name}": 30,
    }


def test_logs_are_kept_for_as_long_as_was_asked_for(queued: Created) -> None:
    assert retention(queued) == {
        f"/aws/lambda/{queued.name}-api": 90,
        f"/aws/lambda/{queued.name}-worker": 90,
        f"/aws/vendedlogs/apigateway/{queued.name}": 90,
    }


def test_the_queue_is_fifo_encrypted_and_leads_to_the_dead_letter_queue(queued: Created) -> None:
    attributes = queued.queue("Queue")
    expected = {
        "FifoQueue": "true",
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
        "SqsManagedSseEnabled": "true",
        "MessageRetentionPeriod": "1209600",
        "VisibilityTimeout": "120",
    }

    assert {
        name: attributes[name].lower() if attributes[name] == "True" else attributes[name] for name in expected
    } == (expected)
    assert json.loads(attributes["RedrivePolicy"]) == {
        "deadLetterTargetArn": queued.queue("DeadLetterQueue")["QueueArn"],
        "maxReceiveCount": 1000,
    }


def test_the_worker_is_fed_from_the_queue_in_tens_and_answers_for_each(queued: Created) -> None:
    mappings = queued.client("lambda").list_event_source_mappings(FunctionName=queued.ids["WorkerFunction"])
    (mapping,) = mappings["EventSourceMappings"]

    assert (mapping["EventSourceArn"], mapping["BatchSize"], mapping["FunctionResponseTypes"]) == (
        queued.queue("Queue")["QueueArn"],
        10,
        ["ReportBatchItemFailures"],
    )


# -- the dashboard and the alarms ------------------------------------------------------------------------------------


def test_the_dashboard_is_taken_and_names_this_stack(stack: Created) -> None:
    dashboard = stack.client("cloudwatch").get_dashboard(DashboardName=f"{stack.name}-{REGION}")
    body = json.loads(dashboard["DashboardBody"])

    assert {
        metric[3]
        for widget in body["widgets"]
        for metric in widget["properties"].get("metrics", [])
        if metric[0] == "RudderStackPagerDuty"
    } == {stack.name}


def test_cloudwatch_takes_every_alarm(queued: Created) -> None:
    """CloudFormation hands an alarm's properties on to this call under the same names."""
    cloudwatch = queued.client("cloudwatch")
    alarms = {
        name: entry["Properties"]
        for name, entry in transform()["Resources"].items()
        if entry["Type"] == "AWS::CloudWatch::Alarm"
    }
    for properties in alarms.values():
        cloudwatch.put_metric_alarm(
            **properties
            | {
                "AlarmName": f"{queued.name}{properties['AlarmName']['Fn::Sub'].removeprefix('${AWS::StackName}')}",
                "Dimensions": [{**each, "Value": queued.name} for each in properties["Dimensions"]],
                "AlarmActions": [TOPIC],
                "OKActions": [TOPIC],
                "EvaluationPeriods": int(properties["EvaluationPeriods"])
                if isinstance(properties["EvaluationPeriods"], int)
                else 24,
            }
        )
    found = cloudwatch.describe_alarms(AlarmNamePrefix=queued.name)["MetricAlarms"]

    assert len(found) == len(alarms) == 11


# -- changes ---------------------------------------------------------------------------------------------------------


def test_a_stack_that_is_deleted_leaves_its_queues_behind(create: Callable[..., Created]) -> None:
    stack = create(DeliveryMode="queued")
    stack.cloudformation.delete_stack(StackName=stack.name)

    assert stack.queue("Queue")["FifoQueue"] == stack.queue("DeadLetterQueue")["FifoQueue"]
