"""The stack that CloudFormation makes of the template: transformed by SAM, with conditions and references resolved."""

import functools
import re
from pathlib import Path
from typing import Any, Final, cast

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT: Final = Path(__file__).parents[2]
TEMPLATE: Final = ROOT / "template.yaml"
PSEUDO_PARAMETERS: Final = {
    "AWS::AccountId": "123456789012",
    "AWS::NoValue": None,
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "stack",
    "AWS::URLSuffix": "amazonaws.com",
}

Properties = dict[str, Any]


def written() -> dict[str, Any]:
    """Return the template as it is written; short forms such as !Ref become {"Ref": ...}."""
    return cast("dict[str, Any]", yaml_parse(TEMPLATE.read_text(encoding="utf-8")))


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
def deployed(*, partition: str = "aws", **parameters: str) -> dict[str, dict[str, Any]]:
    """Return the resources and outputs of a stack with these parameters.

    A reference to a resource becomes its logical ID, such as `Queue`, and an attribute `Queue.Arn`.
    """
    template = transformed()
    values: dict[str, Any] = {name: str(entry["Default"]) for name, entry in template["Parameters"].items()}
    values |= PSEUDO_PARAMETERS | parameters | {"AWS::Partition": partition}

    def fill(text: str, variables: dict[str, Any]) -> str:
        text = re.sub(r"\$\{([^!}]+)\}", lambda found: str(variables.get(found[1], found[1])), text)
        return text.replace("${!", "${")

    def resolve(value: Any) -> Any:
        match value:
            case {"Ref": name}:
                return values.get(name, name)
            case {"Fn::GetAtt": [name, attribute]}:
                return f"{name}.{attribute}"
            case {"Fn::Sub": [text, variables]}:
                return fill(text, values | resolve(variables))
            case {"Fn::Sub": text}:
                return fill(text, values)
            case {"Fn::If": [condition, then, otherwise]}:
                return resolve(then if resolve(template["Conditions"][condition]) else otherwise)
            case {"Fn::Not": [operand]}:
                return not resolve(operand)
            case {"Fn::Equals": [left, right]}:
                return str(resolve(left)) == str(resolve(right))
            case {"Fn::FindInMap": [name, *keys]}:
                return functools.reduce(lambda entry, key: entry[resolve(key)], keys, template["Mappings"][name])
            case dict():
                resolved = {key: resolve(item) for key, item in value.items()}
                return {key: item for key, item in resolved.items() if item is not None}
            case list():
                return [item for item in map(resolve, value) if item is not None]
        return value

    return {
        section: {
            name: resolve({key: item for key, item in entry.items() if key != "Condition"})
            for name, entry in template[section].items()
            if "Condition" not in entry or resolve(template["Conditions"][entry["Condition"]])
        }
        for section in ("Resources", "Outputs")
    }


def of_type(kind: str, **parameters: str) -> dict[str, Properties]:
    """Return the properties of a stack's resources of a type, by their logical IDs."""
    resources = deployed(**parameters)["Resources"]
    return {name: entry["Properties"] for name, entry in resources.items() if entry["Type"] == kind}


def listed(value: Any) -> list[Any]:
    """Return a list unchanged, and anything else as its only element, since IAM accepts both."""
    return value if isinstance(value, list) else [value]
