"""Each function asks AWS only for what its role in the template allows: one forbidden name denies the whole call."""

from fnmatch import fnmatchcase
from typing import Any

import pytest

from chaos.faults import Fault, fail
from local.aws_server import DYNAMODB
from tests.infrastructure.transformed import deployed, listed, transform
from tests.support import Endpoint, track

Calls = list[tuple[str, str]]


def allowed(role: str, endpoint: Endpoint) -> Calls:
    """Return what a role allows on SSM, SQS and DynamoDB, each action with the parameter's name, queue or table."""
    settings = endpoint.deps.settings
    places = {
        "Queue.Arn": settings.queue_url,
        "DeadLetterQueue.Arn": settings.dead_letter_queue_url,
        "FlowTable.Arn": settings.flow_table,
    }
    policies = deployed(transform())["Resources"][role]["Properties"]["Policies"]
    return [
        (
            action,
            places[".".join(on["Fn::GetAtt"])] if "Fn::GetAtt" in on else parameter(on["Fn::Sub"], endpoint.prefix),
        )
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        for action in listed(statement["Action"])
        for on in listed(statement["Resource"])
        if action.startswith(("ssm:", "sqs:", "dynamodb:"))
    ]


def parameter(arn: str, prefix: str) -> str:
    return arn.partition(":parameter")[2].replace("${ParameterPrefix}", prefix)


@pytest.fixture
def asked(endpoint: Endpoint) -> Calls:
    """Collect what AWS is asked for, as IAM would see it."""
    calls: Calls = []

    def note(target: str, request: Any) -> None:
        service, _, operation = target.partition(".")
        if service == "AmazonSSM":
            calls.extend((f"ssm:{operation}", name) for name in request["Names"])
        elif service == DYNAMODB:
            calls.append((f"dynamodb:{operation}", request["TableName"]))
        else:
            calls.append((f"sqs:{operation.removesuffix('Batch')}", request["QueueUrl"]))

    fail(endpoint.aws, note)
    return calls


def forbidden(asked: Calls, allowed: Calls) -> Calls:
    return [
        (action, name)
        for action, name in asked
        if not any(action == may and fnmatchcase(name, on) for may, on in allowed)
    ]


def test_the_api_function_asks_for_what_its_role_allows(endpoint: Endpoint, asked: Calls) -> None:
    endpoint.post(track())
    endpoint.post([track()])
    endpoint.post(track(), path="/events/checkout")
    endpoint.headers = {}
    endpoint.post(track())

    assert {action for action, _ in asked} == {"ssm:GetParameters", "sqs:SendMessage", "dynamodb:UpdateItem"}
    assert forbidden(asked, allowed("ApiFunctionRole", endpoint)) == []


def test_the_worker_asks_for_what_its_role_allows(endpoint: Endpoint, asked: Calls) -> None:
    endpoint.sandbox.on_call = lambda call: (
        Fault.answer(400, {"status": "invalid event", "message": "no"}) if call.number == 1 else None
    )
    endpoint.post([track(), track(messageId="m-2"), track(properties={"dedupKey": "other"})])
    records = endpoint.received(endpoint.deps.settings.queue_url)
    endpoint.deps.credentials._parameters.clear()  # noqa: SLF001 -- as in a process of its own
    asked.clear()
    endpoint.work(records)

    assert {action for action, _ in asked} == {
        "ssm:GetParameters",
        "sqs:SendMessage",
        "sqs:DeleteMessage",
        "dynamodb:UpdateItem",
    }
    assert forbidden(asked, allowed("WorkerFunctionRole", endpoint)) == []


def test_a_name_that_a_role_does_not_allow_is_seen(endpoint: Endpoint) -> None:
    token = ("ssm:GetParameters", f"{endpoint.prefix}/webhook-token")

    assert forbidden([token], allowed("WorkerFunctionRole", endpoint)) == [token]
    assert forbidden([("sqs:ReceiveMessage", endpoint.deps.settings.queue_url)], allowed("ApiFunctionRole", endpoint))
