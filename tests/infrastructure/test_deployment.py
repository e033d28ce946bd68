"""What `sam deploy` makes of samconfig.toml and of its command line, by SAM's own code, and what it may do in CI."""

import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import tomllib
import uuid
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import boto3
import click
import pytest
import yaml
from botocore import xform_name
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from samcli.commands.delete.command import cli as delete
from samcli.commands.deploy.command import cli as deploy
from samcli.commands.deploy.deploy_context import DeployContext
from samtranslator.yaml_helper import yaml_parse

from local.aws_server import Aws
from tests.infrastructure.transformed import TEMPLATE, listed, transform
from tests.support import Endpoint, track

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def samconfig() -> dict[str, Any]:
    return tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where SAM looks for the template and for samconfig.toml."""
    monkeypatch.chdir(ROOT)


def options(*arguments: str) -> dict[str, Any]:
    """Return what `sam deploy` is told by these arguments and by samconfig.toml."""
    sam = click.Context(click.Group("sam"), info_name="sam")
    with deploy.make_context("deploy", list(arguments), parent=sam) as context:
        return dict(context.params)


def sent(*arguments: str) -> dict[str, str]:
    """Return the parameters that `sam deploy` gives to CloudFormation; the others keep the values that a stack has."""
    template = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    parameters = DeployContext.merge_parameters(template, options(*arguments)["parameter_overrides"])
    return {each["ParameterKey"]: each["ParameterValue"] for each in parameters if not each.get("UsePreviousValue")}


# -- the settings of the SAM CLI -------------------------------------------------------------------------------------


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
    known = {option.name for option in importlib.import_module(module).cli.params}
    tables = [samconfig[name][command]["parameters"] for name in ("default", "prod") if command in samconfig[name]]
    settings = {key for table in tables for key in table}

    assert settings - known == set()


@pytest.mark.parametrize(
    ("environment", "stack", "prefix", "asks"),
    [
        ("default", "rudderstack-pagerduty", "/rudderstack-pagerduty", False),
        ("prod", "prod-rudderstack-pagerduty", "/rudderstack-pagerduty-prod", True),
    ],
)
def test_an_environment_has_a_stack_and_secrets_of_its_own_and_production_asks_first(
    environment: str, stack: str, prefix: str, *, asks: bool
) -> None:
    told = options("--config-env", environment)

    assert (told["stack_name"], told["s3_prefix"], told["parameter_overrides"], told["confirm_changeset"]) == (
        stack,
        stack,
        {"ParameterPrefix": prefix},
        asks,
    )


def test_no_stack_has_a_name_with_which_the_name_of_another_begins(samconfig: dict[str, Any]) -> None:
    first, second = (samconfig[name]["deploy"]["parameters"]["stack_name"] for name in ("default", "prod"))

    assert (second.startswith(first), first.startswith(second)) == (False, False)


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_a_deployment_may_make_the_roles_and_the_bucket_that_it_needs(environment: str) -> None:
    told = options("--config-env", environment)

    assert (told["capabilities"], told["resolve_s3"]) == (["CAPABILITY_IAM"], True)


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_every_resource_is_tagged_with_what_it_belongs_to(environment: str) -> None:
    tags = options("--config-env", environment)["tags"]

    assert tags == {"application": "rudderstack-pagerduty", "environment": environment}


def test_make_deploys_the_environment_that_it_is_told() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "deploy", "ENV=prod"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- ours

    assert printed.splitlines()[-1] == ".venv/bin/sam deploy --config-env prod"


def test_make_takes_no_environment_from_the_shell() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "deploy"]
    shell = {**os.environ, "ENV": "/etc/shinit"}
    printed = subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- ours

    assert printed.splitlines()[-1] == ".venv/bin/sam deploy --config-env default"


# -- how a setting lasts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        """["ParameterPrefix=/rudderstack-pagerduty-prod", "CallsPerMinute=600", 'DefaultSource="web shop"']""",
        # As `sam deploy --guided` writes it.
        """'ParameterPrefix="/rudderstack-pagerduty-prod" CallsPerMinute="600" DefaultSource="web shop"'""",
    ],
)
def test_a_setting_in_the_file_is_sent_with_each_deployment(tmp_path: Path, written: str) -> None:
    file = tmp_path / "samconfig.toml"
    file.write_text(
        f"version = 0.1\n[prod.deploy.parameters]\nstack_name = 'a'\nparameter_overrides = {written}\n",
        encoding="utf-8",
    )

    assert sent("--config-file", str(file), "--config-env", "prod") == {
        "ParameterPrefix": "/rudderstack-pagerduty-prod",
        "CallsPerMinute": "600",
        "DefaultSource": "web shop",
    }


def test_a_value_with_a_space_needs_quotes_of_its_own() -> None:
    assert sent("--parameter-overrides", "DefaultSource=web shop") == {"DefaultSource": "web"}


def test_a_setting_on_the_command_line_takes_the_place_of_all_in_the_file() -> None:
    """So a stack that is made by this command reads the secrets of the other: ParameterPrefix has its default."""
    assert sent("--config-env", "prod", "--parameter-overrides", "CallsPerMinute=600") == {"CallsPerMinute": "600"}


def test_what_is_not_sent_keeps_the_value_that_the_stack_has() -> None:
    """So a setting that is taken out of the file does not go back to its default."""
    template = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    parameters = DeployContext.merge_parameters(template, {"ParameterPrefix": "/a"})

    assert [each for each in parameters if each["ParameterKey"] == "CallsPerMinute"] == [
        {"ParameterKey": "CallsPerMinute", "UsePreviousValue": True}
    ]


def test_continuous_deployment_is_not_asked_and_does_not_fail_without_changes() -> None:
    told = options("--config-env", "prod", "--no-confirm-changeset", "--no-fail-on-empty-changeset")

    assert (told["confirm_changeset"], told["fail_on_empty_changeset"]) == (False, False)


# -- what the role of a deployment may do ----------------------------------------------------------------------------

POLICY: Final = ROOT / "docs" / "deploy-policy.json"
# What CloudFormation's handlers of our resource types may also call, for properties that the template does not have.
NOT_OURS: Final = {
    "iam:AttachRolePolicy": "managed policies",
    "iam:DetachRolePolicy": "managed policies",
    "iam:DeleteRolePermissionsBoundary": "permissions boundaries that are taken away",
    "kms:*": "keys of our own for code, variables and logs",
    "ec2:*": "functions in a VPC",
    "dynamodb:*Item": "tables in several regions",
    "dynamodb:Scan": "tables in several regions",
    "dynamodb:Query": "tables in several regions",
    "dynamodb:*TableReplica": "tables in several regions",
    "dynamodb:UpdateContributorInsights": "insights into who uses a table",
    "dynamodb:UpdateContinuousBackups": "backups",
    "dynamodb:*ableKinesisStreamingDestination": "streams of changes",
    "dynamodb:UpdateKinesisStreamingDestination": "streams of changes",
    "kinesis:*": "streams of changes",
    "dynamodb:*Import*": "tables that begin with an import",
    "logs:*LogStream*": "tables that begin with an import",
    "logs:PutLogEvents": "tables that begin with an import",
    "dynamodb:PutResourcePolicy": "resource policies",
    "dynamodb:DeleteResourcePolicy": "resource policies",
    "iam:CreateServiceLinkedRole": "tables that scale by themselves",
    "s3:GetObjectMetadata": "tables that begin with an import",
    "elasticfilesystem:*": "file systems",
    "s3files:*": "file systems",
    "lambda:AssociateRuntimeAlias": "runtimes of our own",
    "lambda:PutRuntimeManagementConfig": "a chosen version of the runtime",
    "lambda:GetLayerVersion": "layers",
    "lambda:PassCapacityProvider": "capacity providers",
    "lambda:PutFunctionScalingConfig": "capacity providers",
    "lambda:PublishVersion": "versions",
    "lambda:PutFunctionRecursionConfig": "functions that call themselves",
    "lambda:GetCodeSigningConfig": "signed code",
    "lambda:PutFunctionCodeSigningConfig": "signed code",
    "lambda:DeleteFunctionCodeSigningConfig": "signed code",
    "logs:*KmsKey": "keys of our own for logs",
    "logs:PutDataProtectionPolicy": "data protection",
    "logs:*IndexPolicy": "indexes",
    "logs:PutBearerTokenAuthentication": "logs that are sent with a token",
    "logs:PutLogGroupDeletionProtection": "protection against deletion",
    "logs:DeleteResourcePolicy": "resource policies",
    "s3:REST.PUT.OBJECT": "logs that go to S3",
    "firehose:*": "logs that go to Firehose",
}
# What the SAM CLI itself calls: grep its lib/deploy, lib/delete and lib/package for the clients.
OF_SAM: Final = {
    *("cloudformation:CreateChangeSet", "cloudformation:DeleteChangeSet", "cloudformation:DescribeChangeSet"),
    *("cloudformation:DeleteStack", "cloudformation:DescribeStackEvents", "cloudformation:DescribeStacks"),
    *("cloudformation:ExecuteChangeSet", "cloudformation:GetTemplate", "cloudformation:GetTemplateSummary"),
    *("cloudformation:DescribeStackResources", "cloudformation:ListChangeSets", "s3:ListBucket", "s3:PutObject"),
    # Of CreateChangeSet and ExecuteChangeSet, for the tags of samconfig.toml.
    *("cloudformation:TagResource", "cloudformation:UntagResource"),
}
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging.html
OF_API_LOGGING: Final = {
    *("logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:DescribeLogGroups", "logs:DescribeResourcePolicies"),
    *("logs:GetLogDelivery", "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:UpdateLogDelivery"),
}


def statements() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(POLICY.read_text(encoding="utf-8"))["Statement"]
    return found


def allowed() -> set[str]:
    return {action for statement in statements() for action in listed(statement["Action"])}


@functools.cache
def handled() -> frozenset[str]:
    """Return what CloudFormation may call for the resource types of the template, by their schemas."""
    kinds = {entry["Type"] for entry in transform()["Resources"].values()}
    handlers = [PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema["handlers"] for kind in kinds]
    return frozenset(
        # Some schemas write getObject.
        re.sub(r":([a-z])", lambda found: f":{found[1].upper()}", action)
        for handler in handlers
        for operation in ("create", "read", "update", "delete")
        for action in handler.get(operation, {}).get("permissions", [])
    )


def test_nothing_is_named_as_not_ours_that_cloudformation_would_not_call() -> None:
    assert [pattern for pattern in NOT_OURS if not any(fnmatchcase(each, pattern) for each in handled())] == []


def test_the_role_may_do_what_cloudformation_and_sam_and_the_access_log_need_and_nothing_else() -> None:
    needed = {each for each in handled() if not any(fnmatchcase(each, pattern) for pattern in NOT_OURS)}

    assert allowed() ^ (needed | OF_SAM | OF_API_LOGGING) == set()


@pytest.mark.parametrize(
    ("action", "resource", "may"),
    [
        ("lambda:UpdateFunctionCode", "arn:aws:lambda:REGION:ACCOUNT:function:STACK-ApiFunction-0a1b", True),
        ("lambda:UpdateFunctionCode", "arn:aws:lambda:REGION:ACCOUNT:function:other", False),
        ("lambda:TagResource", "arn:aws:lambda:REGION:ACCOUNT:function:other", False),
        ("iam:PutRolePolicy", "arn:aws:iam::ACCOUNT:role/STACK-ApiFunctionRole-0a1b", True),
        ("iam:PutRolePolicy", "arn:aws:iam::ACCOUNT:role/admin", False),
        ("sqs:SetQueueAttributes", "arn:aws:sqs:REGION:ACCOUNT:STACK-Queue-0a1b.fifo", True),
        ("sqs:DeleteQueue", "arn:aws:sqs:REGION:ACCOUNT:other.fifo", False),
        ("dynamodb:UpdateTimeToLive", "arn:aws:dynamodb:REGION:ACCOUNT:table/STACK-FlowTable-0a1b", True),
        ("dynamodb:DeleteTable", "arn:aws:dynamodb:REGION:ACCOUNT:table/other", False),
        ("logs:PutMetricFilter", "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/vendedlogs/apigateway/STACK", True),
        ("logs:PutRetentionPolicy", "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/lambda/STACK-worker", True),
        ("logs:DeleteLogGroup", "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/lambda/other", False),
        ("cloudwatch:PutMetricAlarm", "arn:aws:cloudwatch:REGION:ACCOUNT:alarm:STACK-deferred", True),
        ("cloudwatch:PutDashboard", "arn:aws:cloudwatch::ACCOUNT:dashboard/STACK-REGION", True),
        ("cloudformation:ExecuteChangeSet", "arn:aws:cloudformation:REGION:ACCOUNT:stack/STACK/0a1b", True),
        ("cloudformation:DeleteStack", "arn:aws:cloudformation:REGION:ACCOUNT:stack/other/0a1b", False),
        ("cloudformation:CreateChangeSet", "arn:aws:cloudformation:REGION:aws:transform/Serverless-2016-10-31", True),
        ("cloudformation:TagResource", "arn:aws:cloudformation:REGION:ACCOUNT:stack/STACK/0a1b", True),
        ("cloudformation:TagResource", "arn:aws:cloudformation:REGION:ACCOUNT:stack/other/0a1b", False),
        ("logs:PutMetricFilter", "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/vendedlogs/apigateway/STACK2", False),
        ("logs:PutMetricFilter", "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/vendedlogs/apigateway/STACK:*", True),
        ("s3:PutObject", "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-0a1b/STACK/code", True),
        ("s3:PutObject", "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-0a1b/code", False),
        ("s3:GetObject", "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-0a1b/other/code", False),
    ],
)
def test_the_role_may_change_what_is_of_the_stack_and_nothing_of_others(
    action: str, resource: str, *, may: bool
) -> None:
    on = [each for entry in statements() if action in listed(entry["Action"]) for each in listed(entry["Resource"])]

    assert any(fnmatchcase(resource, pattern) for pattern in on) == may


def test_what_is_allowed_on_everything_cannot_be_narrowed_by_a_resource() -> None:
    everywhere = [entry["Sid"] for entry in statements() if "*" in listed(entry["Resource"])]

    assert everywhere == ["LetTheWorkerReadTheQueue", "LetTheApiWriteItsLog"]


def test_uploads_go_into_a_bucket_of_the_account_only() -> None:
    conditions = [
        entry["Condition"] for entry in statements() if any(each.startswith("s3:") for each in listed(entry["Action"]))
    ]

    assert conditions == [{"StringEquals": {"aws:ResourceAccount": "ACCOUNT"}}] * 2


def test_a_role_is_handed_to_lambda_only() -> None:
    (passing,) = (entry for entry in statements() if "iam:PassRole" in listed(entry["Action"]))

    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}


# -- the workflow ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    workflow = yaml.safe_load((ROOT / "docs" / "deploy-workflow.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = workflow["jobs"]["deploy"]
    return found


@pytest.mark.parametrize("name", ["docs/deploy-workflow.yaml", ".github/workflows/check.yml"])
def test_a_workflow_pins_every_action_to_a_commit(name: str) -> None:
    used = re.findall(r"uses: (\S+)", (ROOT / name).read_text(encoding="utf-8"))

    loose = [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", each)]
    assert (bool(used), loose) == (True, [])


def test_the_workflow_may_ask_for_a_token_of_its_own_and_read_the_sources(job: dict[str, Any]) -> None:
    assert job["permissions"] == {"contents": "read", "id-token": "write"}


def test_the_workflow_deploys_production_without_a_question(job: dict[str, Any]) -> None:
    (command,) = (step["run"] for step in job["steps"] if "sam deploy" in step.get("run", ""))
    program, subcommand, *arguments = shlex.split(command)
    told = options(*arguments)

    assert (program, subcommand) == (".venv/bin/sam", "deploy")
    assert (told["stack_name"], told["confirm_changeset"], told["fail_on_empty_changeset"]) == (
        "prod-rudderstack-pagerduty",
        False,
        False,
    )


# -- what docs/production.md says ------------------------------------------------------------------------------------

PAGE: Final = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")


def blocks(language: str = "") -> list[str]:
    """Return the blocks of code in a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(program: str) -> list[list[str]]:
    lines = [line for block in blocks() for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


def test_the_settings_on_the_page_are_sent_as_they_stand_there(tmp_path: Path) -> None:
    (settings,) = blocks("toml")
    file = tmp_path / "samconfig.toml"
    file.write_text(f"version = 0.1\n{settings}", encoding="utf-8")

    assert sent("--config-file", str(file), "--config-env", "prod") == {
        "ParameterPrefix": "/rudderstack-pagerduty-prod",
        "CallsPerMinute": "600",
        "DefaultSource": "web shop",
    }


@pytest.mark.parametrize("command", commands("aws"), ids=lambda command: " ".join(command[:2]))
def test_every_command_of_the_aws_cli_has_options_that_its_operation_has(command: list[str]) -> None:
    """The AWS CLI makes its commands and options from the models that boto3 has too."""
    service, operation, *arguments = command
    client: Any = boto3.client(service, region_name="eu-west-1")  # type: ignore[call-overload]  # any service
    model = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation.replace("-", "_")])
    known = {f"--{xform_name(name, '-')}" for name in model.input_shape.members}

    assert {each for each in arguments if each.startswith("--")} - known == set()


def test_what_is_removed_is_the_stack_of_production() -> None:
    ((subcommand, *arguments),) = (each for each in commands(".venv/bin/sam") if each[0] == "delete")
    sam = click.Context(click.Group("sam"), info_name="sam")
    with delete.make_context(subcommand, arguments, parent=sam) as context:
        assert context.params["stack_name"] == "prod-rudderstack-pagerduty"


def test_an_old_queue_becomes_the_dead_letter_queue_of_a_queue_that_serves_nothing_else(aws: Aws) -> None:
    """As far as moto goes: it cannot move the messages of one."""
    sqs = aws.client("sqs")
    old = sqs.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=old, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    (command,) = (each for each in commands("aws") if each[1] == "create-queue")
    attributes = json.loads(command[command.index("--attributes") + 1].replace("OLD_ARN", arn))
    scratch = sqs.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes=attributes)["QueueUrl"]

    assert sqs.list_dead_letter_source_queues(QueueUrl=old)["queueUrls"] == [scratch]


def test_an_event_of_another_queue_is_delivered_like_any_other(endpoint: Endpoint) -> None:
    """SQS hands a message on with its body and its group, under a new id and with a new time."""
    sqs = endpoint.aws.client("sqs")
    endpoint.post([track()])
    (record,) = endpoint.received(endpoint.deps.settings.queue_url)
    new = sqs.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    sqs.send_message(
        QueueUrl=new,
        MessageBody=record["body"],
        MessageGroupId=record["attributes"]["MessageGroupId"],
        MessageDeduplicationId=record["messageId"],
    )

    assert endpoint.work(endpoint.received(new)) == []
    assert [call.event["dedup_key"] for call in endpoint.sandbox.received] == ["disk-full"]


@pytest.mark.parametrize(
    ("boundary", "condition"),
    [
        ("/BOUNDARY/d", None),
        (
            "s|BOUNDARY|arn:aws:iam::111122223333:policy/boundary|",
            {"StringEquals": {"iam:PermissionsBoundary": "arn:aws:iam::111122223333:policy/boundary"}},
        ),
    ],
)
def test_the_policy_is_filled_in_by_the_command_on_the_page_and_fits_into_a_role(
    boundary: str, condition: object
) -> None:
    ((script, name, *_),) = commands("sed")
    assert "/BOUNDARY/d" in script
    command = ["sed", script.replace("/BOUNDARY/d", boundary), name]
    filled = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)  # noqa: S603 -- the page's own
    compact = json.dumps(filled, separators=(",", ":"))
    (roles,) = (entry for entry in filled["Statement"] if "iam:CreateRole" in entry["Action"])

    assert re.findall("REGION|ACCOUNT|STACK|BOUNDARY", compact) == []
    assert (roles["Action"], roles.get("Condition")) == (
        ["iam:CreateRole", "iam:DeleteRolePolicy", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"],
        condition,
    )
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    assert len(compact) <= 10_240


def test_the_role_trusts_the_environment_of_the_workflow_with_and_without_ids_in_its_subject(
    job: dict[str, Any],
) -> None:
    (trust,) = (json.loads(text)["Statement"][0] for text in blocks("json"))
    subjects = trust["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]

    assert subjects == [
        f"repo:OWNER@OWNER_ID/REPOSITORY@REPOSITORY_ID:environment:{job['environment']}",
        f"repo:OWNER/REPOSITORY:environment:{job['environment']}",
    ]
