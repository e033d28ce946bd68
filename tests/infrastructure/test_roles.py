"""Each function asks AWS only for what its role in the template allows: one forbidden name denies the whole call."""

from fnmatch import fnmatchcase
from typing import Any

import pytest

from chaos.faults import fail
from local.sandbox import Fault
from tests.infrastructure.stack import allowed
from tests.support import Endpoint, track

Calls = set[tuple[str, str]]


@pytest.fixture
def asked(endpoint: Endpoint) -> Calls:
    """Collect what AWS is asked for, as IAM would see it: each action with the parameter's name, queue or table."""
    calls: Calls = set()

    def note(target: str, request: Any) -> None:
        service, _, operation = target.partition(".")
        if service == "AmazonSSM":
            calls.update((f"ssm:{operation}", name) for name in request["Names"])
        elif service == "DynamoDB_20120810":
            calls.add((f"dynamodb:{operation}", request["TableName"]))
        else:
            calls.add((f"sqs:{operation.removesuffix('Batch')}", request["QueueUrl"]))

    fail(endpoint.aws, note)
    return calls


def forbidden(asked: Calls, role: str, endpoint: Endpoint) -> Calls:
    """Return the requested permissions that the role does not allow."""
    settings = endpoint.deps.settings
    places = {
        "Queue.Arn": settings.queue_url,
        "DeadLetterQueue.Arn": settings.dead_letter_queue_url,
        "FlowTable.Arn": settings.flow_table,
    }
    patterns = [
        (action, places.get(resource) or resource.partition(":parameter")[2])
        for action, resource in allowed(role, ParameterPrefix=endpoint.prefix)
    ]
    return {
        (action, name)
        for action, name in asked
        if not any(action == allowed_action and fnmatchcase(name, pattern) for allowed_action, pattern in patterns)
    }


def test_the_api_function_asks_for_what_its_role_allows(endpoint: Endpoint, asked: Calls) -> None:
    endpoint.post(track())
    endpoint.post([track()])
    endpoint.post(track(), path="/events/checkout")
    endpoint.headers = {}
    endpoint.post(track())

    assert {action for action, _ in asked} == {"ssm:GetParameters", "sqs:SendMessage", "dynamodb:UpdateItem"}
    assert forbidden(asked, "ApiFunctionRole", endpoint) == set()


def test_the_worker_asks_for_what_its_role_allows(endpoint: Endpoint, asked: Calls) -> None:
    answers = {"refused": Fault.answer(400, {"status": "invalid event", "message": "no"}), "limited": Fault.answer(429)}
    endpoint.sandbox.on_call = lambda call: answers.get(call.event["dedup_key"])
    keys = ("refused", "refused", "limited")
    endpoint.post([track(messageId=str(number), properties={"dedupKey": key}) for number, key in enumerate(keys)])
    records = endpoint.received(endpoint.deps.settings.queue_url)
    endpoint.deps.credentials._parameters.clear()  # noqa: SLF001 -- as in a process of its own
    asked.clear()
    endpoint.work(records)

    assert {action for action, _ in asked} == {
        "ssm:GetParameters",
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:SendMessage",
        "dynamodb:UpdateItem",
    }
    assert forbidden(asked, "WorkerFunctionRole", endpoint) == set()
