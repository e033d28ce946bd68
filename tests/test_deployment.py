"""What `sam deploy` makes of samconfig.toml and of its command line, by SAM's own code; and what docs/ says of it."""

import importlib
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from samcli.commands.deploy.command import cli as deploy
from samcli.commands.deploy.deploy_context import DeployContext
from samtranslator.yaml_helper import yaml_parse

from infrastructure import TEMPLATE

ROOT = Path(__file__).parents[1]


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
        ("prod", "rudderstack-pagerduty-prod", "/rudderstack-pagerduty-prod", True),
    ],
)
def test_an_environment_has_a_stack_and_secrets_of_its_own_and_production_asks_first(
    environment: str, stack: str, prefix: str, *, asks: bool
) -> None:
    told = options("--config-env", environment)

    assert (told["stack_name"], told["parameter_overrides"], told["confirm_changeset"]) == (
        stack,
        {"ParameterPrefix": prefix},
        asks,
    )


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_a_deployment_may_make_the_roles_and_the_bucket_that_it_needs(environment: str) -> None:
    told = options("--config-env", environment)

    assert (told["capabilities"], told["resolve_s3"]) == (["CAPABILITY_IAM"], True)


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_every_resource_is_tagged_with_what_it_belongs_to(environment: str) -> None:
    tags = options("--config-env", environment)["tags"]

    assert tags == {"application": "rudderstack-pagerduty", "environment": environment}


def test_make_deploys_the_environment_that_it_is_told() -> None:
    command = ["make", "--dry-run", "deploy", "ENV=prod"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- ours

    assert printed.splitlines()[-1] == ".venv/bin/sam deploy --config-env prod"


def test_make_takes_no_environment_from_the_shell() -> None:
    command = ["make", "--dry-run", "deploy"]
    shell = {**os.environ, "ENV": "/etc/shinit"}
    printed = subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- ours

    assert printed.splitlines()[-1] == ".venv/bin/sam deploy --config-env default"


# -- how a setting lasts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        """["ParameterPrefix=/rudderstack-pagerduty-prod", "DeliveryMode=queued", 'DefaultSource="web shop"']""",
        # As `sam deploy --guided` writes it.
        """'ParameterPrefix="/rudderstack-pagerduty-prod" DeliveryMode="queued" DefaultSource="web shop"'""",
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
        "DeliveryMode": "queued",
        "DefaultSource": "web shop",
    }


def test_a_value_with_a_space_needs_quotes_of_its_own() -> None:
    assert sent("--parameter-overrides", "DefaultSource=web shop") == {"DefaultSource": "web"}


def test_a_setting_on_the_command_line_takes_the_place_of_all_in_the_file() -> None:
    """So a stack that is made by this command reads the secrets of the other: ParameterPrefix has its default."""
    assert sent("--config-env", "prod", "--parameter-overrides", "DeliveryMode=queued") == {"DeliveryMode": "queued"}


def test_what_is_not_sent_keeps_the_value_that_the_stack_has() -> None:
    """So a setting that is taken out of the file does not go back to its default."""
    template = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    parameters = DeployContext.merge_parameters(template, {"ParameterPrefix": "/a"})

    assert [each for each in parameters if each["ParameterKey"] == "DeliveryMode"] == [
        {"ParameterKey": "DeliveryMode", "UsePreviousValue": True}
    ]


def test_continuous_deployment_is_not_asked_and_does_not_fail_without_changes() -> None:
    told = options("--config-env", "prod", "--no-confirm-changeset", "--no-fail-on-empty-changeset")

    assert (told["confirm_changeset"], told["fail_on_empty_changeset"]) == (False, False)
