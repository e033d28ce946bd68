"""The template as CloudFormation gets it: transformed by SAM, with the conditions of a stack decided."""

from pathlib import Path
from typing import Any, Final

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

TEMPLATE: Final = Path(__file__).parents[2] / "template.yaml"


def transform() -> dict[str, Any]:
    """Return what CloudFormation is given, after SAM's transform; its conditions are not decided yet."""
    source = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    for name in ("ApiFunction", "WorkerFunction"):
        source["Resources"][name]["Properties"]["CodeUri"] = "s3://bucket/package.zip"
    translator = Translator(
        managed_policy_map=None,
        sam_parser=Parser(),
        plugins=[],
        boto_session=boto3.Session(region_name="eu-west-1"),
    )
    found: dict[str, Any] = translator.translate(sam_template=source, parameter_values={}, get_managed_policy_map=dict)
    return found


def deployed(transformed: dict[str, Any], *, partition: str = "aws", **parameters: str) -> dict[str, Any]:
    """Return the resources and outputs that a stack with these parameters has: the conditions are decided."""
    values = {name: entry["Default"] for name, entry in transformed["Parameters"].items()} | parameters
    values["AWS::Partition"] = partition

    def decide(expression: Any) -> Any:
        match expression:
            case {"Ref": name}:
                return values[name]
            case {"Fn::Not": [inner]}:
                return not decide(inner)
            case {"Fn::Equals": [left, right]}:
                return str(decide(left)) == str(decide(right))
        return expression

    conditions = {name: decide(expression) for name, expression in transformed["Conditions"].items()}

    def resolve(value: Any) -> Any:
        match value:
            case {"Fn::If": [name, then, otherwise]}:
                return resolve(then if conditions[name] else otherwise)
            case dict():
                resolved = {key: resolve(item) for key, item in value.items()}
                return {key: item for key, item in resolved.items() if item != {"Ref": "AWS::NoValue"}}
            case list():
                return [item for item in map(resolve, value) if item != {"Ref": "AWS::NoValue"}]
        return value

    return {
        section: {
            name: resolve(entry)
            for name, entry in transformed[section].items()
            if "Condition" not in entry or conditions[entry["Condition"]]
        }
        for section in ("Resources", "Outputs")
    }


def of_type(resources: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of the resources of a type, by their names in the template."""
    return {name: entry["Properties"] for name, entry in resources.items() if entry["Type"] == kind}


def listed(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of it: IAM takes both."""
    return value if isinstance(value, list) else [value]
