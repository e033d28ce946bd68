"""What `make doctor` reports about the local stack, with other parameters, and in a CloudFormation stack of moto's."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from werkzeug import Response

from chaos.faults import Failure, fail
from local import doctor
from local.doctor import Examination, Stack
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX
from local.sandbox import Sandbox
from local.server import Server
from local.stack import LocalStack

KEY = "k" * 32
TOKEN = "a-token-that-is-not-accepted"


@pytest.fixture(scope="module")
def running() -> Iterator[LocalStack]:
    with LocalStack() as running:
        yield running


@pytest.fixture
def local(running: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    """Use the local stack's moto as AWS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.aws.url)
    yield running
    fail(running.aws, None)


@pytest.fixture
def sandbox(local: LocalStack) -> Sandbox:
    assert local.sandbox is not None
    local.sandbox.clear()
    return local.sandbox


@pytest.fixture
def make_stack(local: LocalStack) -> Callable[..., Stack]:
    """Describe the local stack, with changes to its outputs, as a deployed one without metrics."""

    def make(name: str = "", **outputs: str) -> Stack:
        healthy = {
            "EventsUrl": f"{local.url}/events",
            "WebhookTokenParameter": f"{PREFIX}/webhook-token",
            "RoutingKeyParameter": f"{PREFIX}/routing-keys/default",
        }
        return Stack(healthy | outputs, local.aws.access, {}, name)

    return make


def examine(stack: Stack, *, test_page: bool = False) -> dict[str, str]:
    """Return what to do by level and finding, in order."""
    return {f"{each.level} {each.what}": each.advice for each in Examination(stack).run(test_page=test_page)}


def test_a_healthy_stack_has_nothing_to_fix_and_nobody_is_paged(
    local: LocalStack, sandbox: Sandbox, make_stack: Callable[..., Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"stack-{uuid.uuid4()}"
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {output: {"Value": value} for output, value in make_stack().outputs.items()},
    }
    boto3.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))
    code = doctor.main(name)

    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"ok    stack {name}: found",
        "ok    parameter /rudderstack-pagerduty/webhook-token: 1 usable token",
        "ok    parameter /rudderstack-pagerduty/routing-keys/default: has the form of 1 routing key",
        f"ok    {local.url}/events: token 1 is accepted",
        f"ok    {local.url}/events: a wrong token is not accepted",
        "",
        "Nothing to fix, 0 warnings. Nobody was paged.",
    ]
    assert sandbox.received == []


@pytest.mark.parametrize(
    ("kind", "parameters", "head"),
    [
        ("SecureString", {"routing-keys/default": KEY}, "FIX parameter {}/webhook-token: not found"),
        ("SecureString", {"webhook-token": TOKEN}, "FIX parameter {}/routing-keys/default: not found"),
        (
            "SecureString",
            {"routing-keys/default": f"{KEY},x"},
            "FIX parameter {}/routing-keys/default: contains something other than routing keys",
        ),
        ("String", {"webhook-token": TOKEN}, "FIX parameter {}/webhook-token: a String, not a SecureString"),
        ("String", {"routing-keys/a": KEY}, "FIX parameter {}/routing-keys/a: a String, not a SecureString"),
        (
            "SecureString",
            {"routing-keys/default": KEY, "routing-keys/checkout": f"{KEY},{'m' * 32}"},
            "warn PagerDuty services checkout and default: the same routing key",
        ),
    ],
)
def test_a_problem_with_a_parameter_is_reported_with_what_to_do(
    make_stack: Callable[..., Stack], kind: Any, parameters: dict[str, str], head: str
) -> None:
    prefix = f"/test/{uuid.uuid4()}"
    for name, value in parameters.items():
        boto3.client("ssm").put_parameter(Name=f"{prefix}/{name}", Value=value, Type=kind)
    outputs = {"WebhookTokenParameter": "webhook-token", "RoutingKeyParameter": "routing-keys/default"}
    found = examine(make_stack(**{output: f"{prefix}/{name}" for output, name in outputs.items()}))

    assert found[head.replace("{}", prefix)]


@pytest.mark.parametrize(
    ("status", "body", "head", "todo"),
    [
        (
            200,
            {"status": "preview"},
            "FIX {}: a wrong token is accepted",
            "The server at this URL is not this function: check the URL.",
        ),
        (
            503,
            {"code": "secrets_unavailable", "message": f"you\nsent {LOCAL_TOKEN}\x1b[31m {'x' * 999}"},
            "FIX {}: token 1: answered 503 secrets_unavailable",
            f"you sent [token] [31m {'x' * 278}\ndocs/answers.md: secrets_unavailable",
        ),
    ],
    ids=["no authentication", "a hostile message"],
)
def test_an_unexpected_response_of_the_endpoint_is_reported(
    make_stack: Callable[..., Stack], status: int, body: object, head: str, todo: str
) -> None:
    server = Server(Response(json.dumps(body), status))
    server.start()
    found = examine(make_stack(EventsUrl=server.url))
    server.stop()
    gone = examine(make_stack(EventsUrl=server.url))

    assert found[head.replace("{}", server.url)] == todo
    assert f"FIX {server.url}: token 1: no answer (NewConnectionError)" in gone


def test_a_test_alert_is_sent_through_the_stack_and_resolved(
    make_stack: Callable[..., Stack], sandbox: Sandbox
) -> None:
    found = examine(make_stack(), test_page=True)
    (incident,) = sandbox.incidents

    assert (incident.severity, incident.status) == ("info", "resolved")
    look = f"In PagerDuty, look for the alert with the dedup key {incident.dedup_key}."
    assert list(found.items())[-2:] == [
        ("ok test alert, trigger: PagerDuty accepted it", look),
        ("ok test alert, resolve: PagerDuty accepted it", look),
    ]
    assert [secret for secret in (LOCAL_TOKEN, LOCAL_ROUTING_KEY) if secret in str(found)] == []


def test_urgent_events_that_are_most_of_the_last_day_are_reported(make_stack: Callable[..., Stack]) -> None:
    name, now = f"stack-{uuid.uuid4()}", datetime.now(UTC)
    dimensions: Any = [{"Name": "service", "Value": name}]
    for metric, hours, value in (("Received", 20, 241), ("Received", 30, 900), ("Urgent", 20, 121)):
        at = now - timedelta(hours=hours)
        data: Any = [{"MetricName": metric, "Dimensions": dimensions, "Timestamp": at, "Value": value}]
        boto3.client("cloudwatch").put_metric_data(Namespace="RudderStackPagerDuty", MetricData=data)

    assert list(examine(make_stack(name=name)))[-1] == "warn urgent events: 121 of 241 in the last day (50%)"


def test_a_failed_call_to_aws_is_reported_and_the_other_checks_are_made(
    local: LocalStack, make_stack: Callable[..., Stack]
) -> None:
    denied = Failure.answer(400, "AccessDeniedException")
    fail(local.aws, lambda target, _: denied if target == "AmazonSSM.GetParametersByPath" else None)
    found = examine(make_stack())

    assert "FIX parameters of routing keys: GetParametersByPath failed (AccessDeniedException)" in found
    assert f"ok {local.url}/events: token 1 is accepted" in found


def test_a_stack_that_cannot_be_found_is_reported(
    local: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stack.json"
    file.write_text('{"outputs": {}, "aws": {"endpoint_url": "http://127.0.0.1:1"}}')
    monkeypatch.setattr(doctor, "LOCAL_STACK_FILE", file)

    assert doctor.find("local")[1].what == "the local stack: not running"
    assert doctor.main("no-such-stack") == 1
    assert capsys.readouterr().out.splitlines()[::3] == [
        "FIX   stack no-such-stack: not found",
        "1 problem to fix, 0 warnings. Nobody was paged.",
    ]
