"""What `sam deploy` reads in samconfig.toml, by SAM's own code, and what the role of a deployment may do."""

import importlib
import json
import re
import tomllib
from typing import Any, Final

import click
import pytest
import yaml
from samcli.commands.deploy.command import cli as deploy

from local.options import ROOT
from tests.infrastructure.stack import listed

WORKFLOW: Final = "docs/deploy-workflow.yaml"
STATEMENTS: Final[list[dict[str, Any]]] = json.loads((ROOT / "docs" / "deploy-policy.json").read_bytes())["Statement"]


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
    ("environment", "stack", "prefix"),
    [
        # Neither name begins with the other: a role that may deploy one stack may change whatever begins with its name.
        ("default", "rudderstack-pagerduty", "/rudderstack-pagerduty"),
        ("prod", "prod-rudderstack-pagerduty", "/rudderstack-pagerduty-prod"),
    ],
)
def test_each_environment_has_its_own_stack_and_secrets(
    environment: str, stack: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sam = click.Context(click.Group("sam"), info_name="sam")
    with deploy.make_context("deploy", ["--config-env", environment], parent=sam) as context:
        options = context.params

    assert (options["stack_name"], options["s3_prefix"]) == (stack, stack)
    assert options["parameter_overrides"] == {"ParameterPrefix": prefix}


@pytest.mark.parametrize("name", [WORKFLOW, ".github/workflows/check.yml"])
def test_a_workflow_pins_every_action_to_a_commit(name: str) -> None:
    actions = re.findall(r"uses: (\S+)", (ROOT / name).read_text(encoding="utf-8"))

    assert actions != []
    assert [each for each in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", each)] == []


def test_the_role_trusts_only_the_environment_of_the_workflow() -> None:
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    (trust,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    condition = json.loads(trust)["Statement"][0]["Condition"]["StringEquals"]
    job = yaml.safe_load((ROOT / WORKFLOW).read_text(encoding="utf-8"))["jobs"]["deploy"]

    assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert condition["token.actions.githubusercontent.com:sub"] == [
        f"repo:OWNER@OWNER_ID/REPOSITORY@REPOSITORY_ID:environment:{job['environment']}",
        f"repo:OWNER/REPOSITORY:environment:{job['environment']}",
    ]


# -- docs/deploy-policy.json -----------------------------------------------------------------------------------------


def test_the_policy_has_no_wildcard_in_an_action_and_gives_a_role_permissions_only_on_conditions() -> None:
    free = [action for entry in STATEMENTS if "Condition" not in entry for action in listed(entry["Action"])]

    assert [action for entry in STATEMENTS for action in listed(entry["Action"]) if "*" in action] == []
    assert [action for action in free if re.match("iam:(Put|Attach|Create|Pass|DeleteRoleP)", action)] == []


def test_the_policy_allows_resources_of_the_stack_and_a_few_that_have_no_name_of_it() -> None:
    resources = [(entry["Sid"], resource) for entry in STATEMENTS for resource in listed(entry["Resource"])]

    # Not STACK*, which would include a stack whose name begins with this one's.
    assert [each for each in resources if not re.search(r"[:/]STACK([-/:]\*)?$", each[1])] == [
        ("TransformTheTemplate", "arn:aws:cloudformation:REGION:aws:transform/Serverless-2016-10-31"),
        ("FindTheBucket", "arn:aws:cloudformation:REGION:ACCOUNT:stack/aws-sam-cli-managed-default/*"),
        ("SeeWhatIsUploaded", "arn:aws:s3:::aws-sam-cli-managed-default-*"),
        ("LetTheWorkerReadTheQueue", "*"),
        ("TagWhatLetsItRead", "arn:aws:lambda:REGION:ACCOUNT:event-source-mapping:*"),
        ("Api", "arn:aws:apigateway:REGION::/apis"),
        ("Api", "arn:aws:apigateway:REGION::/apis/*"),
        ("Api", "arn:aws:apigateway:REGION::/tags/*"),
        ("LetTheApiWriteItsLog", "*"),
    ]


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
