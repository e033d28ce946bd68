"""What `sam deploy` reads in samconfig.toml, by SAM's own code, and what the role of a deployment may do."""

import importlib
import json
import os
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatchcase
from typing import Any, Final

import click
import pytest
import yaml
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from samcli.commands.deploy.command import cli as deploy

from tests.infrastructure.stack import ROOT, deployed, listed

PAGE: Final = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
WORKFLOWS: Final = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("docs/deploy-workflow.yaml", ".github/workflows/check.yml")
}
JOB: Final[dict[str, Any]] = yaml.safe_load(WORKFLOWS["docs/deploy-workflow.yaml"])["jobs"]["deploy"]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where SAM looks for the template and for samconfig.toml."""
    monkeypatch.chdir(ROOT)


def options(*arguments: str) -> dict[str, Any]:
    """Return the options of `sam deploy` with these arguments and samconfig.toml."""
    sam = click.Context(click.Group("sam"), info_name="sam")
    with deploy.make_context("deploy", list(arguments), parent=sam) as context:
        return dict(context.params)


# -- samconfig.toml --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("validate", "samcli.commands.validate.validate"),
        ("build", "samcli.commands.build.command"),
        ("deploy", "samcli.commands.deploy.command"),
        ("local_invoke", "samcli.commands.local.invoke.cli"),
    ],
)
def test_every_setting_is_an_option_of_its_command(command: str, module: str) -> None:
    """SAM ignores the others without a word."""
    environments = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))
    tables = [environments[name].get(command, {"parameters": {}})["parameters"] for name in ("default", "prod")]
    known = {option.name for option in importlib.import_module(module).cli.params}

    assert {key for table in tables for key in table if key not in known} == set()


@pytest.mark.parametrize(
    ("environment", "stack", "prefix", "confirm"),
    [
        # Neither name begins with the other: a role that may deploy one stack may change whatever begins with its name.
        ("default", "rudderstack-pagerduty", "/rudderstack-pagerduty", False),
        ("prod", "prod-rudderstack-pagerduty", "/rudderstack-pagerduty-prod", True),
    ],
)
def test_each_environment_has_a_stack_and_secrets_of_its_own_and_production_asks_first(
    environment: str, stack: str, prefix: str, *, confirm: bool
) -> None:
    found = options("--config-env", environment)

    assert (found["stack_name"], found["s3_prefix"]) == (stack, stack)
    assert found["parameter_overrides"] == {"ParameterPrefix": prefix}
    assert found["confirm_changeset"] == confirm
    assert found["tags"] == {"application": "rudderstack-pagerduty", "environment": environment}


@pytest.mark.parametrize(("arguments", "environment"), [(["ENV=prod"], "prod"), ([], "default")])
def test_make_deploys_the_environment_of_its_command_line_alone(arguments: list[str], environment: str) -> None:
    command = ["make", "--no-print-directory", "--dry-run", "deploy", *arguments]
    shell = {**os.environ, "ENV": "/etc/shinit"}
    printed = subprocess.run(command, env=shell, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- ours

    assert printed.splitlines()[-1] == f".venv/bin/sam deploy --config-env {environment}"


# -- The workflow ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_pins_every_action_to_a_commit(name: str) -> None:
    actions = re.findall(r"uses: (\S+)", WORKFLOWS[name])

    assert actions != []
    assert [each for each in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", each)] == []


def test_the_workflow_deploys_production_without_a_question() -> None:
    (command,) = (step["run"] for step in JOB["steps"] if "sam deploy" in step.get("run", ""))
    found = options(*shlex.split(command)[2:])

    assert found["stack_name"] == "prod-rudderstack-pagerduty"
    assert (found["confirm_changeset"], found["fail_on_empty_changeset"]) == (False, False)


def test_the_role_trusts_the_environment_of_the_workflow_alone() -> None:
    (trust,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    subjects = json.loads(trust)["Statement"][0]["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]

    assert JOB["permissions"] == {"contents": "read", "id-token": "write"}
    assert subjects == [
        f"repo:OWNER@OWNER_ID/REPOSITORY@REPOSITORY_ID:environment:{JOB['environment']}",
        f"repo:OWNER/REPOSITORY:environment:{JOB['environment']}",
    ]


# -- docs/deploy-policy.json -----------------------------------------------------------------------------------------

# What CloudFormation calls for properties of our resource types that the template does not have: managed policies,
# boundaries that are removed, keys of our own, VPCs, file systems, versions and signing of code, other runtimes,
# protected or indexed logs, resource policies, replicas, streams, backups and imports of tables.
NOT_NEEDED: Final = (
    *("ec2:*", "elasticfilesystem:*", "firehose:*", "kinesis:*", "kms:*", "s3files:*"),
    *("iam:*tachRolePolicy", "iam:DeleteRolePermissionsBoundary", "iam:CreateServiceLinkedRole"),
    *("lambda:AssociateRuntimeAlias", "lambda:PutRuntimeManagementConfig", "lambda:GetLayerVersion"),
    *("lambda:PassCapacityProvider", "lambda:PutFunctionScalingConfig", "lambda:PutFunctionRecursionConfig"),
    *("lambda:PublishVersion", "lambda:GetCodeSigningConfig"),
    *("lambda:PutFunctionCodeSigningConfig", "lambda:DeleteFunctionCodeSigningConfig"),
    *("dynamodb:*Item", "dynamodb:Scan", "dynamodb:Query", "dynamodb:*TableReplica", "dynamodb:*Import*"),
    *("dynamodb:Update*Insights", "dynamodb:Update*Backups", "dynamodb:*ableKinesis*", "dynamodb:UpdateKinesis*"),
    *("dynamodb:PutResourcePolicy", "dynamodb:DeleteResourcePolicy", "s3:GetObjectMetadata", "s3:REST.PUT.OBJECT"),
    *("logs:*LogStream*", "logs:PutLogEvents", "logs:*KmsKey", "logs:PutDataProtectionPolicy", "logs:*IndexPolicy"),
    *("logs:PutBearerTokenAuthentication", "logs:PutLogGroupDeletionProtection", "logs:DeleteResourcePolicy"),
)
# What the SAM CLI itself calls (its lib/deploy, lib/delete and lib/package), for tags too.
OF_SAM: Final = {
    *("cloudformation:CreateChangeSet", "cloudformation:DeleteChangeSet", "cloudformation:DescribeChangeSet"),
    *("cloudformation:DeleteStack", "cloudformation:DescribeStackEvents", "cloudformation:DescribeStacks"),
    *("cloudformation:ExecuteChangeSet", "cloudformation:GetTemplate", "cloudformation:GetTemplateSummary"),
    *("cloudformation:DescribeStackResources", "cloudformation:ListChangeSets", "s3:ListBucket", "s3:PutObject"),
    *("cloudformation:TagResource", "cloudformation:UntagResource"),
}
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging.html
OF_API_LOGGING: Final = {
    *("logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:DescribeLogGroups", "logs:DescribeResourcePolicies"),
    *("logs:GetLogDelivery", "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:UpdateLogDelivery"),
}


STATEMENTS: Final[list[dict[str, Any]]] = json.loads((ROOT / "docs" / "deploy-policy.json").read_bytes())["Statement"]
GROUP: Final = "REGION:ACCOUNT:log-group:"


def called_by_cloudformation() -> set[str]:
    """Return the actions that the schemas of the template's resource types name."""
    kinds = {entry["Type"] for entry in deployed()["Resources"].values()}
    handlers = [PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema["handlers"] for kind in kinds]
    return {
        # Some schemas write getObject.
        re.sub(r":([a-z])", lambda found: f":{found[1].upper()}", action)
        for handler in handlers
        for operation in ("create", "read", "update", "delete")
        for action in handler.get(operation, {}).get("permissions", [])
    }


def test_the_policy_allows_what_cloudformation_sam_and_the_access_log_need_and_nothing_else() -> None:
    needed = {
        each for each in called_by_cloudformation() if not any(fnmatchcase(each, each_not) for each_not in NOT_NEEDED)
    }

    assert {
        action for statement in STATEMENTS for action in listed(statement["Action"])
    } == needed | OF_SAM | OF_API_LOGGING


@pytest.mark.parametrize(
    ("action", "own", "other"),
    [
        (
            "cloudformation:CreateChangeSet",
            "REGION:aws:transform/Serverless-2016-10-31",
            "REGION:ACCOUNT:stack/other/0a1b",
        ),
        ("cloudformation:DeleteStack", "REGION:ACCOUNT:stack/STACK/0a1b", "REGION:ACCOUNT:stack/other/0a1b"),
        ("cloudformation:TagResource", "REGION:ACCOUNT:stack/STACK/0a1b", "REGION:ACCOUNT:stack/STACK2/0a1b"),
        ("cloudwatch:PutDashboard", ":ACCOUNT:dashboard/STACK-REGION", ":ACCOUNT:dashboard/other"),
        ("cloudwatch:PutMetricAlarm", "REGION:ACCOUNT:alarm:STACK-deferred", "REGION:ACCOUNT:alarm:other"),
        ("dynamodb:DeleteTable", "REGION:ACCOUNT:table/STACK-FlowTable-0a1b", "REGION:ACCOUNT:table/other"),
        ("iam:PassRole", ":ACCOUNT:role/STACK-ApiFunctionRole-0a1b", ":ACCOUNT:role/admin"),
        ("iam:PutRolePolicy", ":ACCOUNT:role/STACK-ApiFunctionRole-0a1b", ":ACCOUNT:role/admin"),
        (
            "lambda:UpdateFunctionCode",
            "REGION:ACCOUNT:function:STACK-ApiFunction-0a1b",
            "REGION:ACCOUNT:function:other",
        ),
        ("logs:DeleteLogGroup", f"{GROUP}/aws/lambda/STACK-worker", f"{GROUP}/aws/lambda/other"),
        (
            "logs:PutMetricFilter",
            f"{GROUP}/aws/vendedlogs/apigateway/STACK:*",
            f"{GROUP}/aws/vendedlogs/apigateway/STACK2",
        ),
        ("s3:GetObject", "::aws-sam-cli-managed-default-0a1b/STACK/code", "::other/STACK/code"),
        ("s3:PutObject", "::aws-sam-cli-managed-default-0a1b/STACK/code", "::aws-sam-cli-managed-default-0a1b/code"),
        ("sqs:DeleteQueue", "REGION:ACCOUNT:STACK-Queue-0a1b.fifo", "REGION:ACCOUNT:other.fifo"),
    ],
)
def test_the_policy_allows_changing_the_stack_and_nothing_else(action: str, own: str, other: str) -> None:
    arn = f"arn:aws:{action.partition(':')[0]}:"
    allowing = [entry for entry in STATEMENTS if action in listed(entry["Action"])]
    patterns = [pattern for entry in allowing for pattern in listed(entry["Resource"])]

    assert any(fnmatchcase(arn + own, pattern) for pattern in patterns)
    assert not any(fnmatchcase(arn + other, pattern) for pattern in patterns)


def test_the_policy_has_conditions_where_names_do_not_bound_it() -> None:
    conditions = {entry["Sid"]: entry["Condition"] for entry in STATEMENTS if "Condition" in entry}
    of_this_account = {"StringEquals": {"aws:ResourceAccount": "ACCOUNT"}}

    assert conditions == {
        "UploadTheCode": of_this_account,
        "SeeWhatIsUploaded": of_this_account,
        "LetTheWorkerReadTheQueue": {
            "ArnLike": {"lambda:FunctionArn": "arn:aws:lambda:REGION:ACCOUNT:function:STACK-*"}
        },
        "RolesWithinTheBoundary": {"StringEquals": {"iam:PermissionsBoundary": "BOUNDARY"}},
        "GiveTheRolesToLambdaOnly": {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}},
    }
    assert [entry["Sid"] for entry in STATEMENTS if "*" in listed(entry["Resource"])] == [
        "LetTheWorkerReadTheQueue",
        "LetTheApiWriteItsLog",
    ]


@pytest.mark.parametrize("boundary", ["/BOUNDARY/d", "s|BOUNDARY|arn:aws:iam::111122223333:policy/boundary|"])
def test_the_command_of_the_page_fills_in_the_policy_which_then_fits_into_a_role(boundary: str) -> None:
    (script,) = re.findall(r"^ *sed '(.*?)' docs/deploy-policy.json", PAGE, flags=re.MULTILINE)
    command = ["sed", script.replace("/BOUNDARY/d", boundary), "docs/deploy-policy.json"]
    filled = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603 -- the page's own
    compact = json.dumps(filled, separators=(",", ":"))

    assert re.findall("REGION|ACCOUNT|STACK|BOUNDARY", compact) == []
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    assert len(compact) <= 10_240
