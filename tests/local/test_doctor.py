"""What `make doctor` finds, in a CloudFormation stack of moto's that leads to the local stack, and by itself."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import boto3
import pytest

from chaos.faults import Failure, fail
from local import doctor
from local.aws_server import DYNAMODB
from local.doctor import Finding, Stack, examine, lines
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX
from local.resources import properties
from local.stack import LocalStack

SECRETS = (LOCAL_TOKEN, LOCAL_ROUTING_KEY, "a-secret-that-opens-nothing", "k" * 32, "tooshort")


@pytest.fixture(scope="module")
def running() -> Iterator[LocalStack]:
    with LocalStack() as running:
        yield running


@pytest.fixture
def local(running: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    """Let AWS be the moto of the local stack."""
    assert running.sandbox is not None
    running.sandbox.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.aws.url)
    yield running
    fail(running.aws, None)


def outputs_of(local: LocalStack) -> dict[str, str]:
    """Tell what a deployed stack would tell by its outputs, as far as the doctor asks."""
    assert local.sandbox is not None
    return {
        "EventsUrl": f"{local.url}/events",
        "WebhookTokenParameter": f"{PREFIX}/webhook-token",
        "RoutingKeyParameter": f"{PREFIX}/routing-keys/default",
        "PagerDutyUrl": local.sandbox.url,
        "QueueUrl": local.queue_url,
        "DeadLetterQueueUrl": local.dead_letter_queue_url,
        "FlowTableName": local.flow_table,
    }


@pytest.fixture
def deploy(local: LocalStack) -> Callable[..., str]:
    """Create a stack in CloudFormation with these parameters, and these outputs besides those of a healthy one."""

    def create(parameters: dict[str, str] | None = None, **changes: str | None) -> str:
        outputs = {**outputs_of(local), **changes}
        name = f"stack-{uuid.uuid4()}"
        template = {
            "Parameters": {each: {"Type": "String", "Default": value} for each, value in (parameters or {}).items()},
            "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
            "Outputs": {name: {"Value": value} for name, value in outputs.items() if value is not None},
        }
        boto3.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))
        return name

    return create


@pytest.fixture
def deploy_with(deploy: Callable[..., str]) -> Callable[..., tuple[str, str]]:
    """Create a stack with parameters of its own; return its name and their prefix."""

    def create(token: str | None, kind: Any = "SecureString", **routing_keys: str) -> tuple[str, str]:
        prefix = f"/test/{uuid.uuid4()}"
        ssm = boto3.client("ssm")
        if token is not None:
            ssm.put_parameter(Name=f"{prefix}/webhook-token", Value=token, Type=kind)
        for name, key in routing_keys.items():
            ssm.put_parameter(Name=f"{prefix}/routing-keys/{name}", Value=key, Type=kind)
        name = deploy(
            WebhookTokenParameter=f"{prefix}/webhook-token", RoutingKeyParameter=f"{prefix}/routing-keys/default"
        )
        return name, prefix

    return create


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], running: LocalStack) -> Callable[[str], tuple[int, str]]:
    """Run the doctor; whatever it finds, it prints no secret and sends PagerDuty no event."""

    def run(name: str) -> tuple[int, str]:
        code = doctor.main(name)
        output = capsys.readouterr().out
        assert [secret for secret in SECRETS if secret in output] == []
        assert running.sandbox is not None
        assert [call for call in running.sandbox.received if call.kind] == []
        return code, output

    return run


def levels(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()[:-2] if not line.startswith(" ")]


def test_a_stack_in_which_all_is_well_has_nothing_to_mend(
    local: LocalStack, deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    name = deploy()
    code, output = ask(name)

    assert local.sandbox is not None
    assert code == 0
    assert output.splitlines() == [
        f"ok    stack {name}: CREATE_COMPLETE",
        "ok    parameter /rudderstack-pagerduty/webhook-token: 1 secret",
        "ok    parameter /rudderstack-pagerduty/routing-keys/default: has the form of a routing key",
        f"ok    {local.url}/events: secret 1 lets in",
        "      Enter it in RudderStack without a slash at its end, for which API Gateway answers 404.",
        f"ok    {local.url}/events: a wrong secret does not let in",
        f"ok    {local.sandbox.url}: from this machine PagerDuty answers",
        "ok    dead-letter queue: empty",
        f"ok    table {local.flow_table}: there",
        "",
        "Nothing to mend, 0 warnings. Nobody was paged.",
    ]


# -- the test alert --------------------------------------------------------------------------------------------------


def paged(stack: Stack) -> list[str]:
    return [
        line for finding in examine(stack, test_page=True) if "test alert" in finding.what for line in lines(finding)
    ]


def stack_of(local: LocalStack, **outputs: str) -> Stack:
    return Stack(outputs_of(local) | outputs, local.aws.access)


def test_unless_asked_for_by_name_nothing_is_sent(local: LocalStack) -> None:
    assert local.sandbox is not None
    list(examine(stack_of(local)))

    assert [call.event for call in local.sandbox.received if call.event] == []


def test_a_test_alert_is_sent_through_the_stack_and_resolved(local: LocalStack) -> None:
    assert local.sandbox is not None
    found = paged(stack_of(local))
    (incident,) = local.sandbox.incidents

    assert (incident.severity, incident.status) == ("info", "resolved")
    look = f"      In PagerDuty, look for the alert with the dedup key {incident.dedup_key}."
    assert found == [
        "ok    test alert, trigger: PagerDuty took it",
        look,
        "ok    test alert, resolve: PagerDuty took it",
        look,
    ]


def test_a_routing_key_that_does_not_work_shows(local: LocalStack) -> None:
    assert local.sandbox is not None
    local.sandbox.known_keys = set()
    found = paged(stack_of(local))
    local.sandbox.known_keys = None

    assert found[0] == "FIX   test alert, trigger: answered 503 routing_key_refused"


QUEUED = json.dumps({"status": "queued", "code": "queued"}).encode()


def test_an_alert_that_is_queued_is_waited_for_until_the_queue_is_empty(local: LocalStack) -> None:
    with serving(200, QUEUED) as url:
        found = paged(stack_of(local, EventsUrl=url))

    assert found[::2] == [
        "ok    test alert, trigger: the queue delivered it to PagerDuty",
        "ok    test alert, resolve: the queue delivered it to PagerDuty",
    ]


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("delivered", "ok    test alert, trigger: the queue delivered it to PagerDuty"),
        ("pagerduty_rejected", "FIX   test alert, trigger: in the queue, and not delivered (pagerduty_rejected)"),
        ("routing_key_refused", "FIX   test alert, trigger: in the queue, and not delivered (routing_key_refused)"),
        (None, "FIX   test alert, trigger: in the queue, and not delivered (no line in the log)"),
    ],
)
def test_what_became_of_it_in_the_queue_is_taken_from_the_workers_log(
    local: LocalStack, monkeypatch: pytest.MonkeyPatch, code: str | None, line: str
) -> None:
    monkeypatch.setattr(doctor, "QUEUE_PATIENCE", 0.1)
    monkeypatch.setattr(doctor, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr("local.doctor.secrets.token_hex", lambda _: "0123")
    stack = stack_of(local, WorkerLogGroup=f"/aws/lambda/{uuid.uuid4()}")
    group, logs = stack.outputs["WorkerLogGroup"], stack.client("logs")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="worker")
    message = json.dumps({"message": "event", "message_id": "make-doctor-0123-trigger", "code": code})
    in_a_moment = int(time.time() * 1000) + 60_000
    if code:
        event = {"timestamp": in_a_moment, "message": message}
        logs.put_log_events(logGroupName=group, logStreamName="worker", logEvents=[event])
    with serving(200, QUEUED) as url:
        found = paged(replace(stack, outputs={**stack.outputs, "EventsUrl": url}))

    assert found[0] == line


# -- secrets ---------------------------------------------------------------------------------------------------------

KEY = "k" * 32
TOKEN = "a-secret-that-opens-nothing"


@pytest.mark.parametrize(
    ("parameters", "finding", "todo"),
    [
        ({"token": None, "default": KEY}, "FIX   parameter {}/webhook-token: not there", "aws ssm put-parameter"),
        ({"token": "tooshort", "default": KEY}, "FIX   parameter {}/webhook-token: no usable secret", "at least 16"),
        (
            {"token": f"{TOKEN},tooshort", "default": KEY},
            "warn  parameter {}/webhook-token: 1 of 2 secrets too short",
            "shorter ones let nobody in",
        ),
        ({"token": TOKEN}, "FIX   parameters {}/routing-keys/*: none there", "{}/routing-keys/default --value"),
        (
            {"token": TOKEN, "default": "tooshort"},
            "FIX   parameter {}/routing-keys/default: not a routing key",
            "32 letters and digits",
        ),
        (
            {"token": TOKEN, "default": "k" * 31 + "!"},
            "FIX   parameter {}/routing-keys/default: not a routing key",
            "--overwrite",
        ),
        (
            {"token": TOKEN, "default": f"{KEY},tooshort"},
            "FIX   parameter {}/routing-keys/default: not all of the 2 are routing keys",
            "several are\n      separated by spaces or commas",
        ),
        (
            {"token": TOKEN, "default": f"{KEY} {KEY}"},
            "warn  parameter {}/routing-keys/default: a routing key twice",
            "takes no more events a minute",
        ),
        (
            {"token": TOKEN, "default": f"{KEY} R{'k' * 31}"},
            "warn  parameter {}/routing-keys/default: the key of an orchestration",
            "take the integration key of a service",
        ),
        (
            {"token": TOKEN, "checkout": KEY},
            "warn  parameter {}/routing-keys/default: not there",
            "Events for the plain URL are put off",
        ),
        (
            {"token": TOKEN, "default": KEY, "checkout": f"{KEY},{'m' * 32}", "payments": "p" * 32},
            "warn  PagerDuty services checkout and default: the same routing key",
            "Give each service an integration key of its own.",
        ),
        (
            {"token": TOKEN, "default": KEY, "x" * 65: KEY},
            "FIX   parameter {}/routing-keys/" + "x" * 65 + ": not a name",
            "no URL leads to this one",
        ),
        (
            {"token": TOKEN, "kind": "String", "default": KEY},
            "FIX   parameter {}/webhook-token: a String, not a SecureString",
            "aws ssm delete-parameter --name {}/webhook-token",
        ),
        (
            {"token": TOKEN, "kind": "String", "default": KEY},
            "FIX   parameter {}/routing-keys/default: a String, not a SecureString",
            "aws ssm delete-parameter --name {}/routing-keys/default",
        ),
    ],
)
def test_what_is_wrong_with_a_parameter_is_said_with_what_to_do(
    deploy_with: Callable[..., tuple[str, str]],
    ask: Callable[[str], tuple[int, str]],
    parameters: dict[str, Any],
    finding: str,
    todo: str,
) -> None:
    name, prefix = deploy_with(**parameters)
    _, output = ask(name)

    _, found, after = output.partition(finding.replace("{}", prefix) + "\n")
    assert found
    assert todo.replace("{}", prefix) in after.partition("\nok ")[0].partition("\nFIX ")[0]


def test_a_routing_key_with_white_space_around_it_is_one(
    deploy_with: Callable[..., tuple[str, str]], ask: Callable[[str], tuple[int, str]]
) -> None:
    name, _ = deploy_with(TOKEN, default=f"{KEY}\n")
    _, output = ask(name)

    assert "/routing-keys/default: has the form of a routing key" in output


def test_several_routing_keys_of_a_service_are_counted(
    deploy_with: Callable[..., tuple[str, str]], ask: Callable[[str], tuple[int, str]]
) -> None:
    name, prefix = deploy_with(TOKEN, default=f"{KEY}, {'m' * 32}")
    _, output = ask(name)

    assert f"ok    parameter {prefix}/routing-keys/default: has 2 routing keys, by their form\n" in output


# -- the endpoint and PagerDuty --------------------------------------------------------------------------------------


def test_a_secret_that_the_function_does_not_know_is_to_be_mended(
    local: LocalStack, deploy_with: Callable[..., tuple[str, str]], ask: Callable[[str], tuple[int, str]]
) -> None:
    name, _ = deploy_with(TOKEN, default=KEY)
    code, output = ask(name)

    assert (code, f"FIX   {local.url}/events: secret 1 does not let in\n" in output) == (1, True)


def test_an_endpoint_that_lets_everybody_in_is_to_be_mended(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    with serving(200, b'{"status":"preview"}') as url:
        code, output = ask(deploy(EventsUrl=url))

    assert (code, f"FIX   {url}: a wrong secret lets in\n" in output) == (1, True)


def test_our_own_code_and_message_are_passed_on(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    with serving(503, b'{"code":"secrets_unavailable","message":"SSM could not be read"}') as url:
        _, output = ask(deploy(EventsUrl=url))

    assert (
        f"FIX   {url}: secret 1: answered 503 secrets_unavailable\n"
        "      SSM could not be read\n"
        "      docs/answers.md: secrets_unavailable\n"
    ) in output


def test_an_answer_that_is_not_ours_is_to_be_mended(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    with serving(502, b"<html>") as url:
        _, output = ask(deploy(EventsUrl=url))

    assert f"FIX   {url}: secret 1: answered 502\n      the answer is not this function's\n" in output


def test_what_cannot_be_reached_is_to_be_mended(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    with serving(200, b"") as gone:
        pass
    code, output = ask(deploy(EventsUrl=gone, PagerDutyUrl=gone))

    assert code == 1
    assert f"FIX   {gone}: secret 1: no answer (NewConnectionError)\n" in output
    assert f"FIX   {gone}: from this machine: no answer (NewConnectionError)\n" in output


def test_an_answer_that_holds_the_secret_is_shown_without_it(
    local: LocalStack, deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    body = json.dumps({"code": "x", "message": f"you\nsaid {LOCAL_TOKEN}\x1b[31m {'x' * 999}"}).encode()
    with serving(503, body) as url:
        _, output = ask(deploy(EventsUrl=url))

    assert "\n      you said [secret] [31m xxx" in output
    assert "x" * 300 not in output


def test_a_secret_beyond_latin_1_is_tried_like_any_other(
    deploy_with: Callable[..., tuple[str, str]], ask: Callable[[str], tuple[int, str]]
) -> None:
    name, _ = deploy_with("ключ-к-моему-сердцу", default=KEY)
    _, output = ask(name)

    assert "/events: secret 1 does not let in\n" in output


@contextlib.contextmanager
def serving(status: int, body: bytes) -> Iterator[str]:
    """Run a server that answers everything with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:  # Also when the test fails, which would hang otherwise.
            server.shutdown()
            thread.join()


# -- AWS -------------------------------------------------------------------------------------------------------------


def test_a_stack_that_is_not_there_is_told_apart(local: LocalStack, ask: Callable[[str], tuple[int, str]]) -> None:
    code, output = ask("no-such-stack")

    assert (code, output.splitlines()[0]) == (1, "FIX   stack no-such-stack: not there")


def test_another_stack_than_ours_is_told_apart(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    code, output = ask(deploy(EventsUrl=None))

    assert (code, "It has no output EventsUrl" in output) == (1, True)


@pytest.mark.parametrize(
    ("variable", "finding"),
    [("AWS_DEFAULT_REGION", "FIX   no AWS region"), ("AWS_ACCESS_KEY_ID", "FIX   no AWS credentials")],
)
def test_what_boto3_misses_is_said(
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[str], tuple[int, str]],
    tmp_path: Any,
    variable: str,
    finding: str,
) -> None:
    monkeypatch.delenv(variable)
    if variable == "AWS_ACCESS_KEY_ID":
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    # A session of its own: boto3's remembers what it found before.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

    code, output = ask("a-stack")

    assert (code, output.splitlines()[0]) == (1, finding)


OUTPUTS = dict.fromkeys(
    (
        *("EventsUrl", "WebhookTokenParameter", "RoutingKeyParameter", "PagerDutyUrl"),
        *("DeadLetterQueueUrl", "FlowTableName"),
    ),
    "x",
)


@pytest.mark.parametrize(
    ("status", "level"),
    [
        ("CREATE_COMPLETE", "ok"),
        ("UPDATE_COMPLETE", "ok"),
        ("UPDATE_ROLLBACK_COMPLETE", "warn"),
        ("UPDATE_IN_PROGRESS", "warn"),
        ("UPDATE_ROLLBACK_FAILED", "FIX"),
    ],
)
def test_the_status_of_a_stack_that_can_be_looked_at_is_judged(status: str, level: str) -> None:
    stack, (finding,) = doctor.judge("stack a", Stack(OUTPUTS, {}), status)

    assert (stack is not None, finding.level) == (True, level)


@pytest.mark.parametrize(
    "status", ["CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_COMPLETE", "DELETE_IN_PROGRESS"]
)
def test_a_stack_that_is_gone_or_never_came_to_be_is_not_looked_at(status: str) -> None:
    stack, (finding,) = doctor.judge("stack a", Stack(OUTPUTS, {}), status)

    assert (stack, finding.level, finding.what) == (None, "FIX", f"stack a: {status}")


def test_credentials_that_have_expired_are_not_taken_for_a_permission(
    local: LocalStack, deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    name = deploy()
    expired = Failure.answer(400, "ExpiredTokenException")
    fail(local.aws, lambda target, _: expired if target == "AmazonSSM.GetParameter" else None)
    _, output = ask(name)

    assert "ssm:GetParameter failed (ExpiredTokenException)\n      AWS does not take your credentials." in output


def test_a_routing_key_one_level_too_deep_is_found(
    deploy_with: Callable[..., tuple[str, str]], ask: Callable[[str], tuple[int, str]]
) -> None:
    name, prefix = deploy_with(TOKEN, default=KEY, **{"team/checkout": KEY})
    _, output = ask(name)

    assert f"FIX   parameter {prefix}/routing-keys/team/checkout: not a name\n" in output


STALE = json.dumps({"outputs": OUTPUTS, "aws": {"endpoint_url": "http://127.0.0.1:1"}})


@pytest.mark.parametrize(
    "content",
    [None, "{", "{}", "[]", '{"outputs": {}, "aws": {}}', STALE],
)
def test_without_word_of_a_stack_and_with_that_of_a_killed_one_there_is_none(
    ask: Callable[[str], tuple[int, str]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "stack.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(doctor, "LOCAL_STACK_FILE", file)
    code, output = ask("local")

    assert (code, output.splitlines()[0]) == (1, "FIX   the local stack: not running")


@pytest.mark.parametrize(
    ("call", "permission"),
    [
        ("AmazonSSM.GetParameter", "ssm:GetParameter"),
        ("AmazonSSM.GetParametersByPath", "ssm:GetParametersByPath"),
        (f"{DYNAMODB}.DescribeTable", "dynamodb:DescribeTable"),
        (f"{DYNAMODB}.DescribeTimeToLive", "dynamodb:DescribeTimeToLive"),
    ],
)
def test_a_permission_that_you_lack_is_named_and_the_rest_is_looked_at_all_the_same(
    local: LocalStack,
    deploy: Callable[..., str],
    ask: Callable[[str], tuple[int, str]],
    call: str,
    permission: str,
) -> None:
    name = deploy()
    fail(local.aws, lambda target, _: Failure.answer(400, "AccessDeniedException") if target == call else None)
    code, output = ask(name)

    assert code == 1
    assert f"{permission} failed (AccessDeniedException)\n      You need the permission {permission}" in output
    assert "from this machine PagerDuty answers" in output


@pytest.mark.parametrize(
    ("letters", "line"), [(0, "ok    dead-letter queue: empty"), (2, "warn  dead-letter queue: 2 events")]
)
def test_dead_letters_are_reported(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]], letters: int, line: str
) -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    for n in range(letters):
        sqs.send_message(QueueUrl=url, MessageBody="x", MessageGroupId=str(n), MessageDeduplicationId=str(n))
    code, output = ask(deploy(DeadLetterQueueUrl=url))

    assert (code, line in output.splitlines()) == (0, True)


# -- flow control ----------------------------------------------------------------------------------------------------


def test_a_table_that_is_gone_is_to_be_created_again(
    local: LocalStack, deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    name = f"table-{uuid.uuid4()}"
    code, output = ask(deploy(FlowTableName=name))

    assert (code, f"FIX   table {name}: not there\n" in output) == (1, True)
    assert f"aws dynamodb create-table --table-name {name} --billing-mode PAY_PER_REQUEST" in output


def test_the_table_that_is_to_be_created_is_that_of_the_template() -> None:
    assert doctor.TABLE.split()[1::2] == [
        properties("FlowTable")["BillingMode"],
        *(in_short(each) for each in properties("FlowTable")["AttributeDefinitions"]),
        *(in_short(each) for each in properties("FlowTable")["KeySchema"]),
    ]
    assert set(doctor.TIME_TO_LIVE.split(",")) == set(
        in_short(properties("FlowTable")["TimeToLiveSpecification"]).split(",")
    )


def in_short(structure: dict[str, Any]) -> str:
    """Write a structure in the shorthand syntax of the AWS CLI."""
    return ",".join(f"{name}={str(value).lower() if value is True else value}" for name, value in structure.items())


def test_a_table_that_forgets_nothing_is_warned_of(
    local: LocalStack, deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    name = f"table-{uuid.uuid4()}"
    local.aws.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "service", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "service", "KeyType": "HASH"}],
    )
    code, output = ask(deploy(FlowTableName=name))

    assert (code, f"warn  table {name}: keeps the items of services that are gone\n" in output) == (0, True)


def test_the_share_of_urgent_events_is_that_of_the_last_day(
    deploy: Callable[..., str], ask: Callable[[str], tuple[int, str]]
) -> None:
    name = deploy()
    now = datetime.now(UTC)
    boto3.client("cloudwatch").put_metric_data(
        Namespace="RudderStackPagerDuty",
        MetricData=[
            {
                "MetricName": metric,
                "Dimensions": [{"Name": "service", "Value": name}],
                "Timestamp": now - timedelta(hours=hours),
                "Value": value,
            }
            for metric, hours, value in [
                ("Received", 1, 6.0),
                ("Received", 20, 2.0),
                ("Received", 30, 100.0),
                ("Urgent", 1, 1.0),
                ("Urgent", 20, 1.0),
            ]
        ],
    )
    _, output = ask(name)

    assert "ok    urgent events: 2 of 8 in the last day (25%)\n" in output


@pytest.mark.parametrize(
    ("parameters", "urgent", "received", "level", "todo"),
    [
        ({}, 120, 120, "ok", ""),
        ({}, 121, 121, "warn", "When nearly everything is\ncritical, nothing is ahead of the rest."),
        ({}, 121, 242, "ok", ""),
        ({}, 121, 241, "warn", "Send severity error, warning or info with what can wait."),
        ({"CallsPerMinute": "600"}, 600, 600, "ok", ""),
        ({"DefaultSeverity": "critical"}, 121, 121, "warn", "DefaultSeverity=critical makes events without"),
    ],
)
def test_many_urgent_events_are_warned_of_when_they_are_most_of_all(
    parameters: dict[str, str], urgent: int, received: int, level: str, todo: str
) -> None:
    finding = doctor.judge_urgency(parameters, urgent, received)

    assert (finding.level, todo in finding.todo) == (level, True)


def test_the_default_severity_is_named_only_if_it_makes_events_urgent() -> None:
    assert "DefaultSeverity" not in doctor.judge_urgency({"DefaultSeverity": "error"}, 121, 121).todo


# -- concurrency -----------------------------------------------------------------------------------------------------

SIZES = {"QueueConcurrency": "10", "ThrottlingRateLimit": "200", "ReservedConcurrency": "0"}


@pytest.mark.parametrize(
    ("changes", "unreserved", "level", "todo"),
    [
        ({}, 10, "warn", "The worker may take all of them (QueueConcurrency=10)"),
        (
            {},
            500,
            "warn",
            "200 requests a second, 3 s each when PagerDuty stops answering, are\n600 at once; 490 are left",
        ),
        ({}, 500, "warn", "beside QueueConcurrency=10, for 163 a second."),
        ({}, 609, "warn", "599 are left"),
        ({}, 610, "ok", ""),
        ({"ThrottlingRateLimit": "163"}, 500, "ok", ""),
        ({"ReservedConcurrency": "100"}, 900, "ok", ""),
        ({"ReservedConcurrency": "100"}, 10, "warn", "Lower it"),
    ],
)
def test_what_the_stack_may_take_at_once_is_compared_with_what_the_account_has(
    changes: dict[str, str], unreserved: int, level: str, todo: str
) -> None:
    finding = doctor.judge_concurrency(SIZES | changes, 1000, unreserved)

    assert (finding.level, todo in finding.todo) == (level, True)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            (200, b'{"AccountLimit": {"ConcurrentExecutions": 2000, "UnreservedConcurrentExecutions": 1900}}'),
            "ok    concurrency: 1900 of the account's 2000 instances are not reserved",
        ),
        ((403, b"{}"), "warn  concurrency: lambda:GetAccountSettings failed (403)"),
    ],
)
def test_the_account_is_asked_for_its_limit(
    deploy: Callable[..., str],
    ask: Callable[[str], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, bytes],
    line: str,
) -> None:
    name = deploy(parameters=SIZES)
    with serving(*answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", url)
        code, output = ask(name)

    assert (code, line in output.splitlines()) == (0, True)


# -- the command -----------------------------------------------------------------------------------------------------


def test_a_finding_is_a_line_and_below_it_what_to_do() -> None:
    assert doctor.lines(Finding("warn", "two", "do this\nthen that")) == [
        "warn  two",
        "      do this",
        "      then that",
    ]


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        (["ok", "ok"], "Nothing to mend, 0 warnings. Nobody was paged."),
        (["ok", "warn", "FIX"], "1 to mend, 1 warning. Nobody was paged."),
    ],
)
def test_the_verdict_sums_up(levels: list[Any], verdict: str) -> None:
    assert doctor.verdict([Finding(level, "something") for level in levels]) == verdict
