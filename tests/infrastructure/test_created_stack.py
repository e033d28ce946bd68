"""The stack as it comes out: the transformed template, created by moto's CloudFormation and asked of moto's AWS."""

import ast
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final

import boto3
import pytest
from botocore.exceptions import ClientError

from settings import Settings
from tests.infrastructure.transformed import listed, transform

# The types of the template that moto (5.2.5) does not create in a stack. They are left out, and each reference to one
# becomes its name in the template: the API's id is "Api". The first tests see to it that the list is neither longer nor
# shorter than it has to be.
#
# Of what moto does create, it does not show everything. This is not tested here, but as it is written, in
# test_template.py:
# - It drops the Architectures (all functions are x86_64) and LoggingConfig of a function, and the
#   ManagedPolicyArns of a role, and the TimeToLiveSpecification of a table.
# - It does not check what the parameters allow.
# - update_stack compares the texts of two templates and decides no condition anew: after a change of KmsKeyArn it says
#   UPDATE_COMPLETE and has changed nothing. It does not know UpdateReplacePolicy, and removes what is gone from a
#   template even if its DeletionPolicy is Retain.
NOT_IN_MOTO: Final = frozenset(
    {
        # moto's own API Gateway has HTTP APIs, its CloudFormation only the older REST APIs.
        "AWS::ApiGatewayV2::Api",
        "AWS::ApiGatewayV2::Stage",
        # moto's CloudWatch has alarms, its CloudFormation only dashboards.
        "AWS::CloudWatch::Alarm",
        # Likewise of CloudWatch Logs: see test_access_log.py.
        "AWS::Logs::MetricFilter",
    }
)

REGION: Final = "eu-west-1"
ACCOUNT: Final = "123456789012"
KMS_KEY: Final = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b2c3d-0000-1111-2222-333344445555"
READS: Final = ("ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath", "ssm:GetParameterHistory")

# moto warns of a type that it does not know and goes on without it; what is missing then is told by the test below.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse .* not supported by moto:UserWarning")


def detached(template: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a template in which each reference to one of these resources has become its name."""
    gone = set(names)
    reference = re.compile(r"\$\{((?:" + "|".join(gone) + r")(?:\.\w+)?)\}")

    def copied(value: Any) -> Any:
        match value:
            case {"Ref": name} if name in gone:
                return name
            case {"Fn::GetAtt": [name, attribute]} if name in gone:
                return f"{name}.{attribute}"
            case dict():
                return {key: copied(item) for key, item in value.items()}
            case list():
                return [copied(item) for item in value]
            case str():
                return reference.sub(r"\1", value)
        return value

    copy: dict[str, Any] = copied(template)
    return copy


def of_types(template: dict[str, Any], kinds: Container[str]) -> dict[str, Any]:
    return {name: entry for name, entry in template["Resources"].items() if entry["Type"] in kinds}


def creatable(template: dict[str, Any]) -> dict[str, Any]:
    """Return what moto can create of a template."""
    left_out = of_types(template, NOT_IN_MOTO)
    found = detached(template, left_out)
    for name in left_out:
        del found["Resources"][name]
    for name, entry in found["Resources"].items():
        if entry["Type"] == "AWS::SQS::Queue" and entry["Properties"].get("FifoQueue"):
            # CloudFormation ends the name that it makes for a FIFO queue in .fifo, moto does not.
            entry["Properties"].setdefault("QueueName", {"Fn::Sub": f"${{AWS::StackName}}-{name}.fifo"})
    return found


def present(value: Any) -> Any:
    """Return a value without the nulls that moto leaves in a list where CloudFormation leaves out AWS::NoValue."""
    match value:
        case dict():
            return {key: present(item) for key, item in value.items()}
        case list():
            return [present(item) for item in value if item is not None]
    return value


@dataclass(frozen=True)
class Stack:
    """A stack that moto has created."""

    name: str
    client: Callable[[str], Any]

    def summaries(self) -> list[dict[str, Any]]:
        found = self.client("cloudformation").list_stack_resources(StackName=self.name)["StackResourceSummaries"]
        # moto lists a resource that it has not created too, without a name or a type.
        return [summary for summary in found if summary["ResourceType"]]

    def created(self, kind: str | None = None) -> dict[str, str]:
        """Return the physical ids of its resources, of one type or of all, by their names in the template."""
        return {
            summary["LogicalResourceId"]: summary["PhysicalResourceId"]
            for summary in self.summaries()
            if kind in {None, summary["ResourceType"]}
        }

    def outputs(self) -> dict[str, str]:
        (found,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}

    def functions(self) -> dict[str, dict[str, Any]]:
        """Return the configuration of each function."""
        return {
            name: self.client("lambda").get_function_configuration(FunctionName=function)
            for name, function in self.created("AWS::Lambda::Function").items()
        }

    def variables(self, function: str) -> dict[str, str]:
        # moto leaves a parameter's number a number.
        found: dict[str, Any] = self.functions()[function]["Environment"]["Variables"]
        return {name: str(value) for name, value in found.items()}

    def roles(self) -> dict[str, dict[str, Any]]:
        return {
            name: self.client("iam").get_role(RoleName=role)["Role"]
            for name, role in self.created("AWS::IAM::Role").items()
        }

    def statements(self, role: str) -> list[dict[str, Any]]:
        """Return the statements of a role's policies, inline and attached."""
        iam, name = self.client("iam"), self.created("AWS::IAM::Role")[role]
        documents = [
            iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        ]
        for attached in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            arn = attached["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            documents.append(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])
        # moto hands back the inline policies of a role that a stack made as Python prints them.
        parsed = [ast.literal_eval(document) if isinstance(document, str) else document for document in documents]
        return [statement for document in parsed for statement in listed(present(document["Statement"]))]

    def allowed(self, role: str, service: str = "") -> set[tuple[str, str]]:
        """Return every action that a role allows, of one service or of all, with that which it allows it on."""
        return {
            (action, resource)
            for statement in self.statements(role)
            for action in listed(statement["Action"])
            for resource in listed(statement["Resource"])
            if action.startswith(service)
        }

    def all_allowed(self) -> set[tuple[str, str]]:
        return {entry for role in self.created("AWS::IAM::Role") for entry in self.allowed(role)}

    def readable(self, role: str, output: str) -> list[str]:
        """Return the actions by which a role can read the SSM parameter that an output names."""
        ssm, name = self.client("ssm"), self.outputs()[output]
        ssm.put_parameter(Name=name, Value="x", Type="SecureString", Overwrite=True)
        arn = ssm.get_parameter(Name=name)["Parameter"]["ARN"]
        allowed = self.allowed(role)
        return [
            read
            for read in READS
            if any(
                fnmatchcase(read.lower(), action.lower()) and fnmatchcase(arn, resource) for action, resource in allowed
            )
        ]

    def queue(self, name: str) -> dict[str, str]:
        """Return the attributes of a queue."""
        url = self.created("AWS::SQS::Queue")[name]
        found = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        attributes: dict[str, str] = found["Attributes"]
        return attributes

    def table(self) -> dict[str, Any]:
        """Return the description of the table."""
        found: dict[str, Any] = self.client("dynamodb").describe_table(TableName=self.created()["FlowTable"])["Table"]
        return found

    def log_groups(self) -> dict[str, dict[str, Any]]:
        existing = {group["logGroupName"]: group for group in self.client("logs").describe_log_groups()["logGroups"]}
        return {name: existing[group] for name, group in self.created("AWS::Logs::LogGroup").items()}


Create = Callable[..., Stack]


@pytest.fixture(scope="module")
def client(aws_url: str) -> Callable[[str], Any]:
    """Return what makes the client of a service, in a region that no other test uses."""
    session: Any = boto3.Session(region_name=REGION)

    @cache
    def of(service: str) -> Any:
        return session.client(service, endpoint_url=aws_url)

    return of


@pytest.fixture(scope="module")
def transformed() -> dict[str, Any]:
    return transform()


@pytest.fixture(scope="module")
def create(transformed: dict[str, Any], client: Callable[[str], Any]) -> Create:
    client("s3").create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    client("s3").put_object(Bucket="bucket", Key="package.zip", Body=b"")

    def make(name: str, template: dict[str, Any] | None = None, **parameters: str) -> Stack:
        client("cloudformation").create_stack(
            StackName=name,
            TemplateBody=json.dumps(template or creatable(transformed)),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        return Stack(name, client)

    return make


@pytest.fixture(scope="module")
def default(create: Create) -> Stack:
    """Return the stack of somebody who sets nothing."""
    return create("default")


@pytest.fixture(scope="module")
def configured(create: Create) -> Stack:
    """Return the stack of somebody who sets what can be set, as far as moto shows it."""
    return create(
        "configured",
        ParameterPrefix="/team/alerts",
        KmsKeyArn=KMS_KEY,
        PagerDutyRegion="eu",
        DedupKeyField="context.traits.0.id",
        DefaultSeverity="warning",
        DefaultSource="shop",
        ServiceField="properties.team",
        SummaryTemplate="{event} on {properties.host}",
        ExtraDetails="properties,context.traits.plan",
        CallsPerMinute="600",
        MergeRepeatedTriggers="false",
        QueueConcurrency="25",
        MemorySize="1024",
        LogRetentionDays="90",
    )


@pytest.fixture(scope="module")
def deleted(create: Create) -> Stack:
    """Return a stack that was deleted again."""
    stack = create("deleted")
    stack.client("cloudformation").delete_stack(StackName=stack.name)
    return stack


@pytest.fixture(params=["default", "configured"])
def stack(request: pytest.FixtureRequest) -> Stack:
    """Return either stack: what holds for both."""
    found: Stack = request.getfixturevalue(request.param)
    return found


# -- What moto creates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(NOT_IN_MOTO))
def test_what_is_left_out_is_what_moto_does_not_create(create: Create, transformed: dict[str, Any], kind: str) -> None:
    template = detached(transformed, transformed["Resources"])
    resources = of_types(template, {kind})
    for entry in resources.values():
        # What is not created then, is not because of its type.
        entry.pop("Condition", None)
    stack = create(kind.replace("::", "-"), template | {"Resources": resources})

    assert stack.created() == {}


def test_nothing_is_left_out_that_is_not_in_the_template(transformed: dict[str, Any]) -> None:
    assert NOT_IN_MOTO - {entry["Type"] for entry in transformed["Resources"].values()} == set()


def test_everything_else_is_created(stack: Stack, transformed: dict[str, Any]) -> None:
    assert set(stack.created()) == transformed["Resources"].keys() - of_types(transformed, NOT_IN_MOTO)


# -- The functions ---------------------------------------------------------------------------------------------------


def test_the_functions_run_their_handlers_on_python_3_13(default: Stack) -> None:
    assert {name: (entry["Handler"], entry["Runtime"]) for name, entry in default.functions().items()} == {
        "ApiFunction": ("app.lambda_handler", "python3.13"),
        "WorkerFunction": ("worker.lambda_handler", "python3.13"),
    }


def test_the_functions_have_their_seconds(default: Stack) -> None:
    assert {name: entry["Timeout"] for name, entry in default.functions().items()} == {
        "ApiFunction": 9,
        "WorkerFunction": 90,
    }


def test_the_functions_have_512_megabytes_when_nothing_is_asked_for(default: Stack) -> None:
    assert [entry["MemorySize"] for entry in default.functions().values()] == [512, 512]


def test_the_functions_have_the_memory_that_was_asked_for(configured: Stack) -> None:
    assert [entry["MemorySize"] for entry in configured.functions().values()] == [1024, 1024]


def test_every_function_has_the_role_that_was_made_for_it(default: Stack) -> None:
    roles = default.roles()

    assert {name: entry["Role"] for name, entry in default.functions().items()} == {
        "ApiFunction": roles["ApiFunctionRole"]["Arn"],
        "WorkerFunction": roles["WorkerFunctionRole"]["Arn"],
    }


def test_only_the_routes_of_this_api_may_invoke_the_function_behind_it(default: Stack) -> None:
    policy = default.client("lambda").get_policy(FunctionName=default.created()["ApiFunction"])["Policy"]

    assert sorted(
        (entry["Principal"]["Service"], entry["Condition"]["ArnLike"]["AWS:SourceArn"])
        for entry in json.loads(policy)["Statement"]
    ) == [
        ("apigateway.amazonaws.com", "arn:aws:execute-api:eu-west-1:123456789012:Api/*/POST/events"),
        ("apigateway.amazonaws.com", "arn:aws:execute-api:eu-west-1:123456789012:Api/*/POST/events/*"),
        ("apigateway.amazonaws.com", "arn:aws:execute-api:eu-west-1:123456789012:Api/*/POST/v1/batch"),
        ("apigateway.amazonaws.com", "arn:aws:execute-api:eu-west-1:123456789012:Api/*/POST/v1/track"),
    ]


def test_nobody_else_may_invoke_the_worker(default: Stack) -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        default.client("lambda").get_policy(FunctionName=default.created()["WorkerFunction"])


# -- Their settings --------------------------------------------------------------------------------------------------


class Recorder(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return self.variables[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def test_the_api_is_told_how_to_map_and_how_to_deliver(default: Stack) -> None:
    queues = default.created("AWS::SQS::Queue")

    assert default.variables("ApiFunction") == {
        "PARAMETER_PREFIX": "/rudderstack-pagerduty",
        "DEDUP_KEY_FIELD": "properties.dedupKey",
        "PAGERDUTY_URL": "https://events.pagerduty.com",
        "DEFAULT_SEVERITY": "critical",
        "DEFAULT_SOURCE": "",
        "SERVICE_FIELD": "",
        "SUMMARY_TEMPLATE": "",
        "EXTRA_DETAILS": "",
        "QUEUE_URL": queues["Queue"],
        "DEAD_LETTER_QUEUE_URL": queues["DeadLetterQueue"],
        "FLOW_TABLE": default.created()["FlowTable"],
        "CALLS_PER_MINUTE": "120",
        "POWERTOOLS_SERVICE_NAME": "default",
        "AWS_ENDPOINT_URL": "",
    }


def test_the_worker_is_told_how_to_deliver(default: Stack) -> None:
    queues = default.created("AWS::SQS::Queue")

    assert default.variables("WorkerFunction") == {
        "PARAMETER_PREFIX": "/rudderstack-pagerduty",
        "PAGERDUTY_URL": "https://events.pagerduty.com",
        "QUEUE_URL": queues["Queue"],
        "DEAD_LETTER_QUEUE_URL": queues["DeadLetterQueue"],
        "FLOW_TABLE": default.created()["FlowTable"],
        "CALLS_PER_MINUTE": "120",
        "MERGE_REPEATED_TRIGGERS": "true",
        "POWERTOOLS_SERVICE_NAME": "default",
        "AWS_ENDPOINT_URL": "",
    }


def test_the_api_is_told_what_was_asked_for(configured: Stack) -> None:
    queues = configured.created("AWS::SQS::Queue")

    assert configured.variables("ApiFunction") == {
        "PARAMETER_PREFIX": "/team/alerts",
        "DEDUP_KEY_FIELD": "context.traits.0.id",
        "PAGERDUTY_URL": "https://events.eu.pagerduty.com",
        "DEFAULT_SEVERITY": "warning",
        "DEFAULT_SOURCE": "shop",
        "SERVICE_FIELD": "properties.team",
        "SUMMARY_TEMPLATE": "{event} on {properties.host}",
        "EXTRA_DETAILS": "properties,context.traits.plan",
        "QUEUE_URL": queues["Queue"],
        "DEAD_LETTER_QUEUE_URL": queues["DeadLetterQueue"],
        "FLOW_TABLE": configured.created()["FlowTable"],
        "CALLS_PER_MINUTE": "600",
        "POWERTOOLS_SERVICE_NAME": "configured",
        "AWS_ENDPOINT_URL": "",
    }


def test_the_worker_is_told_what_was_asked_for(configured: Stack) -> None:
    queues = configured.created("AWS::SQS::Queue")

    assert configured.variables("WorkerFunction") == {
        "PARAMETER_PREFIX": "/team/alerts",
        "PAGERDUTY_URL": "https://events.eu.pagerduty.com",
        "QUEUE_URL": queues["Queue"],
        "DEAD_LETTER_QUEUE_URL": queues["DeadLetterQueue"],
        "FLOW_TABLE": configured.created()["FlowTable"],
        "CALLS_PER_MINUTE": "600",
        "MERGE_REPEATED_TRIGGERS": "false",
        "POWERTOOLS_SERVICE_NAME": "configured",
        "AWS_ENDPOINT_URL": "",
    }


def test_every_variable_that_the_functions_read_is_declared(default: Stack) -> None:
    declared = default.variables("ApiFunction") | default.variables("WorkerFunction")
    recorder = Recorder(declared)
    Settings.from_environment(recorder)

    assert recorder.asked - declared.keys() == set()


def test_the_defaults_of_the_template_are_those_of_the_function(default: Stack) -> None:
    variables = default.variables("ApiFunction")
    required = {name: variables[name] for name in ("QUEUE_URL", "DEAD_LETTER_QUEUE_URL", "FLOW_TABLE")}

    assert Settings.from_environment(variables) == Settings.from_environment(required)


@pytest.mark.parametrize("function", ["ApiFunction", "WorkerFunction"])
def test_a_function_makes_sense_of_its_variables(stack: Stack, function: str) -> None:
    Settings.from_environment(stack.variables(function))


def test_an_empty_endpoint_url_means_aws(default: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", default.variables("ApiFunction")["AWS_ENDPOINT_URL"])

    assert boto3.client("ssm", region_name="eu-west-1").meta.endpoint_url == "https://ssm.eu-west-1.amazonaws.com"


# -- Their permissions -----------------------------------------------------------------------------------------------


def test_only_lambda_can_take_a_role(stack: Stack) -> None:
    trusting = [
        statement for role in stack.roles().values() for statement in role["AssumeRolePolicyDocument"]["Statement"]
    ]

    assert [
        statement
        for statement in trusting
        if statement
        != {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ] == []


def test_every_action_is_written_out(stack: Stack) -> None:
    assert [action for action, _ in stack.all_allowed() if not re.fullmatch(r"[a-z]+:[A-Za-z]+", action)] == []


@pytest.mark.parametrize("role", ["ApiFunctionRole", "WorkerFunctionRole"])
def test_every_capability_is_a_statement_of_its_own_that_allows(stack: Stack, role: str) -> None:
    statements = stack.statements(role)

    assert ({entry["Effect"] for entry in statements}, len({entry["Sid"] for entry in statements})) == (
        {"Allow"},
        len(statements),
    )


def test_everything_is_allowed_on_something_of_this_account_and_region(stack: Stack) -> None:
    ours = re.compile(r"arn:aws:[a-z]+:eu-west-1:123456789012:[^*?${}]+(/\*)?")

    assert [resource for _, resource in stack.all_allowed() if not ours.fullmatch(resource)] == []


def test_nothing_but_the_names_of_the_routing_keys_is_left_open(stack: Stack) -> None:
    open_ended = {resource for _, resource in stack.all_allowed() if "*" in resource}
    prefix = stack.variables("ApiFunction")["PARAMETER_PREFIX"]

    assert open_ended == {f"arn:aws:ssm:eu-west-1:123456789012:parameter{prefix}/routing-keys/*"}


def test_the_api_reads_the_secrets_controls_the_flow_fills_the_queue_and_does_nothing_else(default: Stack) -> None:
    group = default.log_groups()["ApiFunctionLogGroup"]["logGroupArn"]

    assert default.allowed("ApiFunctionRole") == {
        ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/rudderstack-pagerduty/webhook-token"),
        ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/rudderstack-pagerduty/routing-keys/*"),
        ("sqs:SendMessage", default.queue("Queue")["QueueArn"]),
        ("dynamodb:UpdateItem", default.table()["TableArn"]),
        ("logs:CreateLogStream", group),
        ("logs:PutLogEvents", group),
    }


def test_the_worker_empties_the_queue_and_does_nothing_that_it_does_not_need_for_that(default: Stack) -> None:
    queue, group = default.queue("Queue")["QueueArn"], default.log_groups()["WorkerFunctionLogGroup"]["logGroupArn"]

    assert default.allowed("WorkerFunctionRole") == {
        ("sqs:ReceiveMessage", queue),
        ("sqs:DeleteMessage", queue),
        ("sqs:GetQueueAttributes", queue),
        ("sqs:ChangeMessageVisibility", queue),
        ("sqs:SendMessage", default.queue("DeadLetterQueue")["QueueArn"]),
        ("dynamodb:UpdateItem", default.table()["TableArn"]),
        ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/rudderstack-pagerduty/routing-keys/*"),
        ("logs:CreateLogStream", group),
        ("logs:PutLogEvents", group),
    }


def test_the_secrets_of_the_prefix_that_was_asked_for_are_allowed_and_no_others(configured: Stack) -> None:
    assert {role: configured.allowed(role, "ssm:") for role in configured.roles()} == {
        "ApiFunctionRole": {
            ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/team/alerts/webhook-token"),
            ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/team/alerts/routing-keys/*"),
        },
        "WorkerFunctionRole": {
            ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/team/alerts/routing-keys/*")
        },
    }


@pytest.mark.parametrize(
    ("role", "output"),
    [
        ("ApiFunctionRole", "WebhookTokenParameter"),
        ("ApiFunctionRole", "RoutingKeyParameter"),
        ("WorkerFunctionRole", "RoutingKeyParameter"),
    ],
)
def test_a_function_can_read_the_secrets_that_it_needs_where_the_outputs_say_they_are(
    stack: Stack, role: str, output: str
) -> None:
    assert stack.readable(role, output) == ["ssm:GetParameters"]


def test_the_worker_cannot_read_the_shared_secret(stack: Stack) -> None:
    assert stack.readable("WorkerFunctionRole", "WebhookTokenParameter") == []


@pytest.mark.parametrize("role", ["ApiFunctionRole", "WorkerFunctionRole"])
def test_a_customer_key_adds_decrypting_with_it_and_nothing_else(default: Stack, configured: Stack, role: str) -> None:
    actions = [[action for action, _ in stack.allowed(role)] for stack in (configured, default)]

    assert set(actions[0]) - set(actions[1]) == {"kms:Decrypt"}


@pytest.mark.parametrize("role", ["ApiFunctionRole", "WorkerFunctionRole"])
def test_a_customer_key_decrypts_for_ssm_of_this_region_and_no_other_service(configured: Stack, role: str) -> None:
    assert [entry for entry in configured.statements(role) if "kms:" in "".join(listed(entry["Action"]))] == [
        {
            "Sid": "DecryptSecrets",
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": "arn:aws:kms:eu-west-1:123456789012:key/0a1b2c3d-0000-1111-2222-333344445555",
            "Condition": {"StringEquals": {"kms:ViaService": "ssm.eu-west-1.amazonaws.com"}},
        }
    ]


# -- The queues ------------------------------------------------------------------------------------------------------


def test_the_queue_is_fifo_with_high_throughput(default: Stack) -> None:
    names = ("FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit")
    queue = default.queue("Queue")

    assert {name: queue[name] for name in names} == {
        "FifoQueue": "true",
        "ContentBasedDeduplication": "false",
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
    }


def test_an_event_that_could_not_be_delivered_is_tried_again_after_two_minutes(default: Stack) -> None:
    assert default.queue("Queue")["VisibilityTimeout"] == "120"


def test_an_event_is_with_one_worker_at_a_time(default: Stack) -> None:
    timeout = default.functions()["WorkerFunction"]["Timeout"]

    assert timeout < int(default.queue("Queue")["VisibilityTimeout"])


def test_an_event_is_given_up_to_the_dead_letter_queue_after_a_thousand_attempts(default: Stack) -> None:
    assert json.loads(default.queue("Queue")["RedrivePolicy"]) == {
        "deadLetterTargetArn": default.queue("DeadLetterQueue")["QueueArn"],
        "maxReceiveCount": 1000,
    }


def test_an_outage_of_a_day_loses_nothing(default: Stack) -> None:
    queue = default.queue("Queue")
    given_up = int(queue["VisibilityTimeout"]) * int(json.loads(queue["RedrivePolicy"])["maxReceiveCount"])

    assert 24 * 3600 < given_up < int(queue["MessageRetentionPeriod"])


def test_the_dead_letter_queue_is_fifo_as_that_of_a_fifo_queue_has_to_be(default: Stack) -> None:
    assert default.queue("DeadLetterQueue")["FifoQueue"] == "true"


@pytest.mark.parametrize("name", ["Queue", "DeadLetterQueue"])
def test_a_queue_is_encrypted_by_a_key_that_sqs_manages(default: Stack, name: str) -> None:
    queue = default.queue(name)

    assert (queue["SqsManagedSseEnabled"], queue.get("KmsMasterKeyId")) == ("true", None)


@pytest.mark.parametrize("name", ["Queue", "DeadLetterQueue"])
def test_a_queue_keeps_events_for_fourteen_days(default: Stack, name: str) -> None:
    assert default.queue(name)["MessageRetentionPeriod"] == "1209600"


@pytest.mark.parametrize("name", ["Queue", "DeadLetterQueue"])
def test_a_queue_takes_messages_of_one_mebibyte(default: Stack, name: str) -> None:
    assert default.queue(name)["MaximumMessageSize"] == "1048576"


def test_the_worker_is_given_ten_events_of_the_queue_at_once_and_answers_for_each(default: Stack) -> None:
    mappings = default.client("lambda").list_event_source_mappings(FunctionName=default.created()["WorkerFunction"])
    names = ("EventSourceArn", "BatchSize", "FunctionResponseTypes", "ScalingConfig", "State")

    assert [{name: mapping[name] for name in names} for mapping in mappings["EventSourceMappings"]] == [
        {
            "EventSourceArn": default.queue("Queue")["QueueArn"],
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": 10},
            "State": "Enabled",
        }
    ]


def test_as_many_batches_go_out_at_once_as_was_asked_for(configured: Stack) -> None:
    worker = configured.created()["WorkerFunction"]
    (mapping,) = configured.client("lambda").list_event_source_mappings(FunctionName=worker)["EventSourceMappings"]

    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 25}


def test_the_queues_outlive_the_stack(deleted: Stack) -> None:
    urls = deleted.client("sqs").list_queues(QueueNamePrefix="deleted").get("QueueUrls", [])

    assert [url.rpartition("/")[2] for url in urls] == ["deleted-DeadLetterQueue.fifo", "deleted-Queue.fifo"]


def test_nothing_else_outlives_the_stack(deleted: Stack) -> None:
    aws = deleted.client
    found = [
        *(entry["FunctionName"] for entry in aws("lambda").list_functions()["Functions"]),
        *(entry["FunctionArn"] for entry in aws("lambda").list_event_source_mappings()["EventSourceMappings"]),
        *(entry["RoleName"] for entry in aws("iam").list_roles()["Roles"]),
        *(entry["logGroupName"] for entry in aws("logs").describe_log_groups()["logGroups"]),
        *aws("dynamodb").list_tables()["TableNames"],
        *(entry["DashboardName"] for entry in aws("cloudwatch").list_dashboards()["DashboardEntries"]),
    ]

    assert [name for name in found if "deleted" in name] == []


# -- The table -------------------------------------------------------------------------------------------------------


def test_the_table_has_an_item_for_each_service_and_is_paid_by_use(default: Stack) -> None:
    table = default.table()

    assert (table["KeySchema"], table["AttributeDefinitions"]) == (
        [{"AttributeName": "service", "KeyType": "HASH"}],
        [{"AttributeName": "service", "AttributeType": "S"}],
    )
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"


# -- Their logs ------------------------------------------------------------------------------------------------------


def test_log_groups_are_named_after_the_stack(default: Stack) -> None:
    assert default.created("AWS::Logs::LogGroup") == {
        "AccessLogGroup": "/aws/vendedlogs/apigateway/default",
        "ApiFunctionLogGroup": "/aws/lambda/default-api",
        "WorkerFunctionLogGroup": "/aws/lambda/default-worker",
    }


def test_every_log_is_kept_for_thirty_days_unless_told_otherwise(default: Stack) -> None:
    assert {group.get("retentionInDays") for group in default.log_groups().values()} == {30}


def test_every_log_is_kept_for_the_time_that_was_asked_for(configured: Stack) -> None:
    assert {group.get("retentionInDays") for group in configured.log_groups().values()} == {90}


# -- What it tells ---------------------------------------------------------------------------------------------------


def test_the_outputs_lead_to_what_was_created(default: Stack) -> None:
    created, dashboard = default.created(), "default-eu-west-1"

    assert default.outputs() == {
        "EventsUrl": "https://Api.execute-api.eu-west-1.amazonaws.com/events",
        "DataPlaneUrl": "https://Api.execute-api.eu-west-1.amazonaws.com",
        "WebhookTokenParameter": "/rudderstack-pagerduty/webhook-token",
        "RoutingKeyParameter": "/rudderstack-pagerduty/routing-keys/default",
        "PagerDutyUrl": "https://events.pagerduty.com",
        "DashboardUrl": (
            f"https://console.aws.amazon.com/cloudwatch/home?region=eu-west-1#dashboards/dashboard/{dashboard}"
        ),
        "FunctionName": created["ApiFunction"],
        "LogGroup": created["ApiFunctionLogGroup"],
        "QueueUrl": created["Queue"],
        "FlowTableName": created["FlowTable"],
        "DeadLetterQueueUrl": created["DeadLetterQueue"],
        "WorkerLogGroup": created["WorkerFunctionLogGroup"],
    }


def test_the_dashboard_shows_the_functions_and_queues_that_were_created(default: Stack) -> None:
    name = default.created("AWS::CloudWatch::Dashboard")["Dashboard"]
    body = json.loads(default.client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"])
    metrics = [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]

    assert {metric[3] for metric in metrics if metric[2:3] in (["FunctionName"], ["QueueName"])} == {
        *default.created("AWS::Lambda::Function").values(),
        default.queue("Queue")["QueueArn"].rpartition(":")[2],
        default.queue("DeadLetterQueue")["QueueArn"].rpartition(":")[2],
    }
