"""The stack that CloudFormation makes of the template: transformed by SAM, with conditions and references resolved."""

import functools
import re
from typing import Any, cast

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from local.options import ROOT

Properties = dict[str, Any]


def written() -> dict[str, Any]:
    """Return the template as it is written; short forms such as !Ref become {"Ref": ...}."""
    return cast("dict[str, Any]", yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8")))


@functools.cache
def transformed() -> dict[str, Any]:
    """Return what CloudFormation receives, after SAM's transform."""
    source = written()
    for name in ("ApiFunction", "WorkerFunction"):
        source["Resources"][name]["Properties"]["CodeUri"] = "s3://bucket/package.zip"
    session = boto3.Session(region_name="eu-west-1")
    translator = Translator(managed_policy_map=None, sam_parser=Parser(), plugins=[], boto_session=session)
    return cast("dict[str, Any]", translator.translate(source, parameter_values={}, get_managed_policy_map=dict))


@functools.cache
def resources(**parameters: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a stack with these parameters.

    A reference to a resource becomes its logical ID, such as `Queue`, and an attribute `Queue.Arn`.
    """
    template = transformed()
    values: dict[str, Any] = {name: str(entry["Default"]) for name, entry in template["Parameters"].items()}
    values |= parameters | {
        "AWS::AccountId": "123456789012",
        "AWS::NoValue": None,
        "AWS::Partition": "aws",
        "AWS::Region": "eu-west-1",
        "AWS::StackName": "stack",
        "AWS::URLSuffix": "amazonaws.com",
    }

    def substitute(argument: str | list[Any]) -> str:
        text, variables = (argument, {}) if isinstance(argument, str) else (argument[0], resolve(argument[1]))
        known = values | variables
        filled = re.sub(r"\$\{([^!}]+)\}", lambda found: str(known.get(found[1], found[1])), text)
        return filled.replace("${!", "${")

    def holds(condition: str) -> bool:
        return bool(resolve(template["Conditions"][condition]))

    functions: dict[str, Any] = {
        "Ref": lambda name: values.get(name, name),
        "Fn::GetAtt": ".".join,
        "Fn::Sub": substitute,
        "Fn::If": lambda argument: resolve(argument[1] if holds(argument[0]) else argument[2]),
        "Fn::Not": lambda argument: not resolve(argument[0]),
        "Fn::Equals": lambda argument: str(resolve(argument[0])) == str(resolve(argument[1])),
        "Fn::FindInMap": lambda argument: template["Mappings"][argument[0]][resolve(argument[1])][argument[2]],
    }

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in map(resolve, value) if item is not None]
        if not isinstance(value, dict):
            return value
        for name, argument in value.items():
            if name in functions:
                return functions[name](argument)
        return {key: item for key, item in ((key, resolve(item)) for key, item in value.items()) if item is not None}

    return {
        name: resolve({key: item for key, item in entry.items() if key != "Condition"})
        for name, entry in template["Resources"].items()
        if "Condition" not in entry or holds(entry["Condition"])
    }


def of_type(kind: str, **parameters: str) -> dict[str, Properties]:
    """Return the properties of a stack's resources of a type, by their logical IDs."""
    return {name: entry["Properties"] for name, entry in resources(**parameters).items() if entry["Type"] == kind}


def listed(value: Any) -> list[Any]:
    """Return a list unchanged, and anything else as its only element, since IAM accepts both."""
    return value if isinstance(value, list) else [value]


def statements(role: str, **parameters: str) -> list[dict[str, Any]]:
    """Return the statements of a role's only policy."""
    (policy,) = of_type("AWS::IAM::Role", **parameters)[role]["Policies"]
    return list(policy["PolicyDocument"]["Statement"])


def allowed(role: str, **parameters: str) -> set[tuple[str, str]]:
    """Return what a role allows, each action with its resource."""
    return {
        (action, resource)
        for statement in statements(role, **parameters)
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }
