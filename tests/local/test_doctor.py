"""What `make doctor` reports about the local stack, with other parameters, and in a CloudFormation stack of moto's."""

import contextlib
import json
import time
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
from local.resources import properties
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
def sandbox(running: LocalStack) -> Sandbox:
    assert running.sandbox is not None
    running.sandbox.clear()
    return running.sandbox


@pytest.fixture
def local(running: LocalStack, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    """Use the local stack's moto as AWS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.aws.url)
    yield running
    fail(running.aws, None)


@pytest.fixture
def make_stack(local: LocalStack, sandbox: Sandbox) -> Callable[..., Stack]:
    """Describe the local stack, with changes to its outputs, as a deployed one without metrics."""

    def make(parameters: dict[str, str] | None = None, name: str = "", **outputs: str) -> Stack:
        healthy = {
            "EventsUrl": f"{local.url}/events",
            "WebhookTokenParameter": f"{PREFIX}/webhook-token",
            "RoutingKeyParameter": f"{PREFIX}/routing-keys/default",
            "PagerDutyUrl": sandbox.url,
            "QueueUrl": local.queue_url,
            "DeadLetterQueueUrl": local.dead_letter_queue_url,
            "FlowTableName": local.flow_table,
        }
        return Stack(healthy | outputs, local.aws.access, parameters or {}, name)

    return make


def deploy(outputs: dict[str, str]) -> str:
    name = f"stack-{uuid.uuid4()}"
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    boto3.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))
    return name


@contextlib.contextmanager
def serving(status: int, body: bytes) -> Iterator[str]:
    """Run a server with one response to everything."""
    server = Server(Response(body, status))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def examine(stack: Stack, *, test_page: bool = False) -> dict[str, str]:
    """Return what to do by level and finding, in order."""
    return {f"{each.level} {each.what}": each.todo for each in Examination(stack).run(test_page=test_page)}


def test_a_healthy_stack_has_nothing_to_fix_and_nobody_is_paged(
    local: LocalStack, sandbox: Sandbox, make_stack: Callable[..., Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    name = deploy(dict(make_stack().outputs))
    code = doctor.main(name)
    output = capsys.readouterr().out

    assert code == 0
    assert output.splitlines() == [
        f"ok    stack {name}: CREATE_COMPLETE",
        "ok    parameter /rudderstack-pagerduty/webhook-token: 1 token",
        "ok    parameter /rudderstack-pagerduty/routing-keys/default: has the form of a routing key",
        f"ok    {local.url}/events: token 1 is accepted",
        "      Enter it in RudderStack without a slash at its end, for which API Gateway answers 404.",
        f"ok    {local.url}/events: a wrong token is not accepted",
        f"ok    {sandbox.url}: from this machine PagerDuty answers",
        "ok    dead-letter queue: empty",
        f"ok    table {local.flow_table}: found",
        "",
        "Nothing to fix, 0 warnings. Nobody was paged.",
    ]
    assert [call.event for call in sandbox.received if call.event] == []


# -- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "head"),
    [
        ({"routing-keys/default": KEY}, "FIX parameter {}/webhook-token: not found"),
        ({"webhook-token": f"{TOKEN},tooshort"}, "warn parameter {}/webhook-token: 1 of 2 tokens too short"),
        ({"webhook-token": TOKEN}, "FIX parameter {}/routing-keys/default: not found"),
        (
            {"routing-keys/default": f"{KEY},tooshort"},
            "FIX parameter {}/routing-keys/default: not all of the 2 are routing keys",
        ),
        ({"routing-keys/team/checkout": KEY}, "FIX parameter {}/routing-keys/team/checkout: not a name"),
        (
            {"routing-keys/default": KEY, "routing-keys/checkout": f"{KEY},{'m' * 32}"},
            "warn PagerDuty services checkout and default: the same routing key",
        ),
    ],
)
def test_a_problem_with_a_parameter_is_reported_with_what_to_do(
    make_stack: Callable[..., Stack], parameters: dict[str, str], head: str
) -> None:
    assert examine_parameters(make_stack, parameters)[head]


def examine_parameters(
    make_stack: Callable[..., Stack], parameters: dict[str, str], kind: Any = "SecureString"
) -> dict[str, str]:
    """Examine a stack with these parameters; `{}` stands for their prefix in the findings."""
    prefix = f"/test/{uuid.uuid4()}"
    for name, value in parameters.items():
        boto3.client("ssm").put_parameter(Name=f"{prefix}/{name}", Value=value, Type=kind)
    outputs = {"WebhookTokenParameter": "webhook-token", "RoutingKeyParameter": "routing-keys/default"}
    found = examine(make_stack(**{output: f"{prefix}/{name}" for output, name in outputs.items()}))
    return {head.replace(prefix, "{}"): todo for head, todo in found.items()}


def test_secrets_that_are_not_encrypted_are_to_be_replaced(make_stack: Callable[..., Stack]) -> None:
    parameters = {"webhook-token": TOKEN, "routing-keys/default": KEY}
    found = examine_parameters(make_stack, parameters, "String")

    assert list(found)[:2] == [f"FIX parameter {{}}/{name}: a String, not a SecureString" for name in parameters]


def test_several_routing_keys_are_counted_and_a_token_of_any_text_is_tried(make_stack: Callable[..., Stack]) -> None:
    parameters = {"webhook-token": "ключ-к-моему-сердцу", "routing-keys/default": f"{KEY}, {'m' * 32}\n"}
    found = examine_parameters(make_stack, parameters)

    assert list(found)[1:3] == [
        "ok parameter {}/routing-keys/default: has the form of 2 routing keys",
        f"FIX {make_stack().outputs['EventsUrl']}: token 1 is not accepted",
    ]


# -- the endpoint and PagerDuty --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "head", "todo"),
    [
        (502, "<html>", "FIX {}: token 1: answered 502", "The answer is not this function's."),
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
    ids=["another server", "no authentication", "a hostile message"],
)
def test_an_unexpected_response_of_the_endpoint_is_reported(
    make_stack: Callable[..., Stack], status: int, body: object, head: str, todo: str
) -> None:
    with serving(status, json.dumps(body).encode()) as url:
        found = examine(make_stack(EventsUrl=url))

    assert found[head.replace("{}", url)] == todo


def test_an_endpoint_and_a_pagerduty_that_do_not_answer_are_reported(make_stack: Callable[..., Stack]) -> None:
    with serving(200, b"") as gone:
        pass
    found = examine(make_stack(EventsUrl=gone, PagerDutyUrl=gone))

    assert f"FIX {gone}: token 1: no answer (NewConnectionError)" in found
    assert f"FIX {gone}: from this machine: no answer (NewConnectionError)" in found


# -- the test alert --------------------------------------------------------------------------------------------------


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


def test_a_routing_key_that_pagerduty_refuses_is_reported(make_stack: Callable[..., Stack], sandbox: Sandbox) -> None:
    sandbox.known_keys = set()
    found = examine(make_stack(), test_page=True)
    sandbox.known_keys = None

    assert list(found)[-1] == "FIX test alert, trigger: answered 503 routing_key_refused"


@pytest.mark.parametrize(
    ("code", "head"),
    [
        ("delivered", "ok test alert, trigger: PagerDuty accepted it from the queue"),
        (None, "FIX test alert, trigger: queued and not delivered (no line in the log)"),
    ],
)
def test_the_result_of_a_queued_test_alert_is_read_from_the_log_of_the_worker(
    make_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch, code: str | None, head: str
) -> None:
    monkeypatch.setattr(doctor, "QUEUE_TIMEOUT", 0.1)
    monkeypatch.setattr(doctor, "POLL_SECONDS", 0.05)
    monkeypatch.setattr("local.doctor.secrets.token_hex", lambda _: "0123")
    group = f"/aws/lambda/{uuid.uuid4()}"
    logs = make_stack().client("logs")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="worker")
    if code:
        message = json.dumps({"message": "event", "message_id": "make-doctor-0123-trigger", "code": code})
        event = {"timestamp": int(time.time() * 1000) + 60_000, "message": message}
        logs.put_log_events(logGroupName=group, logStreamName="worker", logEvents=[event])
    with serving(200, b'{"status": "queued"}') as url:
        found = examine(make_stack(EventsUrl=url, WorkerLogGroup=group), test_page=True)

    assert list(found)[-2] == head


def test_a_queued_test_alert_of_a_stack_without_logs_is_delivered_when_the_queue_is_empty(
    make_stack: Callable[..., Stack],
) -> None:
    with serving(200, b'{"status": "queued"}') as url:
        found = examine(make_stack(EventsUrl=url), test_page=True)

    assert list(found)[-2:] == [
        "ok test alert, trigger: PagerDuty accepted it from the queue",
        "ok test alert, resolve: PagerDuty accepted it from the queue",
    ]


# -- the queue, the table and the figures ----------------------------------------------------------------------------


def test_dead_letters_are_reported(make_stack: Callable[..., Stack]) -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    for n in ("1", "2"):
        sqs.send_message(QueueUrl=url, MessageBody="x", MessageGroupId=n, MessageDeduplicationId=n)

    assert "warn dead-letter queue: 2 events" in examine(make_stack(DeadLetterQueueUrl=url))


def test_a_missing_table_is_to_be_created_as_the_template_creates_it(make_stack: Callable[..., Stack]) -> None:
    found = examine(make_stack(FlowTableName="gone"))
    table = properties("FlowTable")

    assert "aws dynamodb create-table --table-name gone " in found["FIX table gone: not found"]
    assert doctor.TABLE.split()[1::2] == [
        table["BillingMode"],
        *(shorthand(each) for each in (*table["AttributeDefinitions"], *table["KeySchema"])),
    ]
    assert set(doctor.TIME_TO_LIVE.split(",")) == set(shorthand(table["TimeToLiveSpecification"]).split(","))


def shorthand(structure: dict[str, Any]) -> str:
    """Return a structure in the shorthand syntax of the AWS CLI."""
    return ",".join(f"{name}={str(value).lower() if value is True else value}" for name, value in structure.items())


def test_the_urgent_events_of_the_last_day_are_compared_with_all(make_stack: Callable[..., Stack]) -> None:
    name, now = f"stack-{uuid.uuid4()}", datetime.now(UTC)
    values = [
        ("Received", 1, 6.0),
        ("Received", 20, 2.0),
        ("Received", 30, 100.0),
        ("Urgent", 1, 1.0),
        ("Urgent", 20, 1.0),
    ]
    boto3.client("cloudwatch").put_metric_data(
        Namespace="RudderStackPagerDuty",
        MetricData=[
            {
                "MetricName": metric,
                "Dimensions": [{"Name": "service", "Value": name}],
                "Timestamp": now - timedelta(hours=hours),
                "Value": value,
            }
            for metric, hours, value in values
        ],
    )

    assert list(examine(make_stack(name=name)))[-1] == "ok urgent events: 2 of 8 in the last day (25%)"


@pytest.mark.parametrize(
    ("urgent", "received", "level"),
    [(120, 120, "ok"), (121, 242, "ok"), (121, 241, "warn")],
    ids=["within the limit of a minute", "half", "more than half"],
)
def test_urgent_events_that_are_most_of_all_are_reported(urgent: int, received: int, level: str) -> None:
    assert doctor.judge_urgency({}, urgent, received).level == level


SIZES = {"QueueConcurrency": "10", "ThrottlingRateLimit": "200", "ReservedConcurrency": "0"}


def test_a_stack_that_can_use_all_instances_of_the_account_is_reported() -> None:
    reserved = SIZES | {"ReservedConcurrency": "100"}
    judged = [doctor.judge_concurrency(*each).level for each in ((SIZES, 610), (SIZES, 611), (reserved, 11))]

    assert judged == ["warn", "ok", "ok"]


def test_the_limit_of_the_account_is_read(make_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(200, b'{"AccountLimit": {"UnreservedConcurrentExecutions": 1900}}') as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", url)
        found = examine(Stack(make_stack().outputs, {}, SIZES))

    assert "ok concurrency: the stack may need 610 of the account's 1900 unreserved instances" in found


# -- AWS and the stack -----------------------------------------------------------------------------------------------


def test_a_failed_call_to_aws_is_reported_and_the_other_checks_are_made(
    local: LocalStack, make_stack: Callable[..., Stack]
) -> None:
    denied = Failure.answer(400, "AccessDeniedException")
    fail(local.aws, lambda target, _: denied if target == "AmazonSSM.GetParametersByPath" else None)
    found = examine(make_stack())

    head = "FIX parameters of routing keys: ssm:GetParametersByPath failed (AccessDeniedException)"
    assert found[head].startswith("You need the permission ssm:GetParametersByPath, ")
    assert "ok dead-letter queue: empty" in found


def test_a_stack_that_does_not_exist_is_reported(local: LocalStack, capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.main("no-such-stack")

    output = capsys.readouterr().out.splitlines()
    assert (code, output[0], output[-1]) == (
        1,
        "FIX   stack no-such-stack: not found",
        "1 problem to fix, 0 warnings. Nobody was paged.",
    )


@pytest.mark.parametrize(
    ("status", "level", "is_checked"),
    [
        ("CREATE_COMPLETE", "ok", True),
        ("UPDATE_ROLLBACK_COMPLETE", "warn", True),
        ("ROLLBACK_COMPLETE", "FIX", False),
        ("DELETE_IN_PROGRESS", "FIX", False),
    ],
)
def test_the_status_of_a_stack_decides_whether_it_is_checked(
    make_stack: Callable[..., Stack], status: str, level: str, *, is_checked: bool
) -> None:
    stack, finding = doctor.judge(make_stack(name="a"), status)

    assert (stack is not None, finding.level, finding.what) == (is_checked, level, f"stack a: {status}")


def test_a_stack_without_the_outputs_is_not_checked() -> None:
    stack, finding = doctor.judge(Stack({"EventsUrl": "x"}, {}, name="a"), "CREATE_COMPLETE")

    assert (stack, finding.level) == (None, "FIX")
    assert finding.todo.startswith("It has no output WebhookTokenParameter, RoutingKeyParameter, ")


@pytest.mark.parametrize("is_stale", [False, True], ids=["no file", "the file of a killed stack"])
def test_without_a_running_local_stack_there_is_nothing_to_check(
    make_stack: Callable[..., Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_stale: bool
) -> None:
    file = tmp_path / "stack.json"
    if is_stale:
        file.write_text(json.dumps({"outputs": make_stack().outputs, "aws": {"endpoint_url": "http://127.0.0.1:1"}}))
    monkeypatch.setattr(doctor, "LOCAL_STACK_FILE", file)

    assert doctor.find("local")[1].what == "the local stack: not running"
