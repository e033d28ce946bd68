"""Creates the template's queues and table on the local AWS, for the local stack and for tests."""

import functools
import json
from typing import Any, Final

from samtranslator.yaml_helper import yaml_parse

from local.options import ROOT

TEMPLATE: Final = ROOT / "template.yaml"


@functools.cache
def template() -> Any:
    """Return the template, with intrinsic functions as objects."""
    return yaml_parse(TEMPLATE.read_text(encoding="utf-8"))


def properties(resource: str) -> dict[str, Any]:
    """Return the properties of a resource of the template, with references unresolved."""
    return dict(template()["Resources"][resource]["Properties"])


def create_queues(sqs: Any, name: str) -> tuple[str, str]:
    """Create the queue and its dead-letter queue under names that begin with `name`; return both URLs."""
    dead = sqs.create_queue(QueueName=f"{name}-dead.fifo", Attributes=_queue_attributes("DeadLetterQueue"))["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = {**properties("Queue")["RedrivePolicy"], "deadLetterTargetArn": arn}
    attributes = {**_queue_attributes("Queue"), "RedrivePolicy": json.dumps(policy)}
    return sqs.create_queue(QueueName=f"{name}.fifo", Attributes=attributes)["QueueUrl"], dead


def create_flow_table(dynamodb: Any, name: str) -> str:
    """Create the table of flow control under this name; return the name."""
    table = properties("FlowTable")
    del table["TimeToLiveSpecification"]  # which has a call of its own, and no effect on one machine
    dynamodb.create_table(TableName=name, **table)
    return name


def _queue_attributes(resource: str) -> dict[Any, str]:
    """Return a queue's properties as SQS's attributes, which have the same names."""
    plain = {name: value for name, value in properties(resource).items() if isinstance(value, bool | int | str)}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in plain.items()}
