"""`python -m local doctor`: check a stack from the outside and say what to fix.

Nobody is paged, unless a test alert is asked for.
"""

import itertools
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Literal

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from local.options import DOCTOR, LOCAL, LOCAL_STACK_FILE, MIN_TOKEN_LENGTH, RATE_LIMIT, SERVICE
from local.pagerduty_rules import ROUTING_KEY
from local.terminal import Colour, painted, printable

# Seconds that a request occupies an instance before the function notices that PagerDuty does not answer.
SLOW_REQUEST: Final = 3
# Share of all events above which urgent events compete with each other more than with the rest.
MAX_URGENT_SHARE: Final = 0.5
# As in function/telemetry.py.
NAMESPACE: Final = "RudderStackPagerDuty"

# The table as in template.yaml, for the AWS CLI.
TABLE: Final = (
    "--billing-mode PAY_PER_REQUEST --attribute-definitions AttributeName=service,AttributeType=S "
    "--key-schema AttributeName=service,KeyType=HASH"
)
TIME_TO_LIVE: Final = "Enabled=true,AttributeName=lease"

# A change event: it would page nobody even if a server that ignores `preview` sent it.
SAMPLE: Final = {
    "type": "track",
    "event": "A preview by make doctor",
    "integrations": {"pagerduty": {"type": "changeEvent"}},
    "properties": {"source": "make doctor"},
}
TEST_ALERT: Final = {"source": "make doctor", "severity": "info"}
# Seconds: until the worker's log has the result of an event, and between two looks.
QUEUE_TIMEOUT: Final = 60.0
POLL_SECONDS: Final = 0.5
# Seconds: a cold start on a slow machine takes a few.
ENDPOINT_TIMEOUT: Final = 30.0
PAGERDUTY_TIMEOUT: Final = 5.0
# Characters of an answer that are shown.
QUOTED: Final = 300
_CLIENT_CONFIG: Final = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3})
_AWS_ERRORS: Final = (ClientError, BotoCoreError)
# In AWS's codes and botocore's classes: ExpiredTokenException, SSOTokenLoadError, ProfileNotFound, NoRegionError
_ABOUT_CREDENTIALS: Final = re.compile("Credential|Expired|Login|Profile|Region|SSO|Signature|Token|UnrecognizedClient")
_OUTPUTS: Final = (
    *("EventsUrl", "WebhookTokenParameter", "RoutingKeyParameter", "PagerDutyUrl"),
    *("DeadLetterQueueUrl", "FlowTableName"),
)
_SIZES: Final = ("QueueConcurrency", "ThrottlingRateLimit", "ReservedConcurrency")

Level = Literal["ok", "warn", "FIX"]
_COLOURS: Final[Mapping[Level, Colour]] = {"ok": "green", "warn": "yellow", "FIX": "red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check, and what to do about it, if anything."""

    level: Level
    what: str
    todo: str = ""


@dataclass(frozen=True)
class Stack:
    """A stack's outputs and parameters, and the arguments of boto3's clients for its AWS.

    `name` is the value of its metrics' dimension; the local stack has none.
    """

    outputs: Mapping[str, str]
    aws: Mapping[str, Any]
    parameters: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def client(self, service: Any) -> Any:
        """Return a client of an AWS service."""
        return boto3.client(service, config=_CLIENT_CONFIG, **self.aws)


def main(name: str, *, test_page: bool = False) -> int:
    """Check the stack of that name and print the findings; return 1 if there is something to fix, otherwise 0.

    With `test_page`, one alert is sent through the stack and resolved.
    """
    stack, found = find(name)
    findings = []
    for finding in itertools.chain([found], Examination(stack).run(test_page=test_page) if stack else ()):
        findings.append(finding)
        todo = [f"      {line}" for line in finding.todo.splitlines()]
        heading = f"{painted(finding.level, _COLOURS[finding.level])}{'':{6 - len(finding.level)}}{finding.what}"
        print("\n".join([heading, *todo]), flush=True)
    levels = [finding.level for finding in findings]
    problems, warnings = levels.count("FIX"), _count(levels.count("warn"), "warning")
    verdict = f"{_count(problems, 'problem')} to fix" if problems else "Nothing to fix"
    print(f"\n{verdict}, {warnings}.{'' if test_page else ' Nobody was paged.'}")
    return 1 if problems else 0


# -- the stack -------------------------------------------------------------------------------------------------------


def find(name: str) -> tuple[Stack | None, Finding]:
    """Return the stack, or None if it cannot be checked, and a finding about it."""
    if name == LOCAL:
        return _find_local()
    try:
        found = boto3.client("cloudformation", config=_CLIENT_CONFIG).describe_stacks(StackName=name)["Stacks"][0]
    except _AWS_ERRORS as error:
        if "does not exist" not in str(error):
            return None, _failed(f"stack {name}", "cloudformation", error)
        todo = "Deploy it (README, Deploy), or name yours: make doctor STACK=... Check the region and the account."
        return None, Finding("FIX", f"stack {name}: not found", todo)
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])}
    return judge(Stack(outputs, {}, parameters, name), found["StackStatus"])


def _find_local() -> tuple[Stack | None, Finding]:
    try:
        content = json.loads(LOCAL_STACK_FILE.read_text(encoding="utf-8"))
        stack = Stack({name: content["outputs"][name] for name in (*_OUTPUTS, *content["outputs"])}, content["aws"])
        # The file remains if `make serve` was killed.
        urllib3.request("GET", stack.aws["endpoint_url"], timeout=PAGERDUTY_TIMEOUT, retries=False)
    except (OSError, ValueError, KeyError, TypeError, HTTPError):
        return None, Finding("FIX", "the local stack: not running", "Start it in another terminal: make serve")
    return stack, Finding("ok", "the local stack: running")


def judge(stack: Stack, status: str) -> tuple[Stack | None, Finding]:
    """Return the stack, or None if its status or its outputs show that it cannot be checked, and a finding about it."""
    what = f"stack {stack.name}: {status}"
    if status.startswith(("CREATE_FAILED", "DELETE_", "ROLLBACK_")):
        todo = "It was deleted or never created: see its events, delete it (sam delete), and deploy again."
        return None, Finding("FIX", what, todo)
    if missing := [name for name in _OUTPUTS if name not in stack.outputs]:
        todo = (
            f"It has no output {', '.join(missing)}: the deployment did not finish, the template is older, or this is\n"
            "another stack."
        )
        return None, Finding("FIX", what, todo)
    if status.endswith("_COMPLETE") and status != "UPDATE_ROLLBACK_COMPLETE":
        return stack, Finding("ok", what)
    return stack, Finding("warn", what, "The last deployment failed or is not finished: see the stack's events.")


# -- the checks ------------------------------------------------------------------------------------------------------


class Examination:
    """The checks of a stack; a check that fails does not prevent the others."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._tokens: list[str] = []  # those that the function accepts, once they have been read

    def run(self, *, test_page: bool = False) -> Iterator[Finding]:
        """Yield the findings of every check."""
        outputs = self._stack.outputs
        checks: list[tuple[Level, str, str, Callable[[], Iterator[Finding]]]] = [
            ("FIX", f"parameter {outputs['WebhookTokenParameter']}", "ssm", self._check_tokens),
            ("FIX", "parameters of routing keys", "ssm", self._check_routing_keys),
            ("FIX", outputs["EventsUrl"], "", self._check_endpoint),
            ("FIX", outputs["PagerDutyUrl"], "", self._check_pagerduty),
            ("FIX", "dead-letter queue", "sqs", self._check_dead_letters),
            ("FIX", f"table {outputs['FlowTableName']}", "dynamodb", self._check_flow_table),
            ("warn", "concurrency", "lambda", self._check_concurrency),
            ("warn", "urgent events", "cloudwatch", self._check_urgency),
        ]
        if test_page:
            checks.append(("FIX", "test alert", "logs", self._send_test_alert))
        for level, what, service, check in checks:
            try:
                yield from check()
            except _AWS_ERRORS as error:
                yield _failed(what, service, error, level)

    def _check_tokens(self) -> Iterator[Finding]:
        name = self._stack.outputs["WebhookTokenParameter"]
        what = f"parameter {name}"
        ssm = self._stack.client("ssm")
        try:
            parameter = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        except ssm.exceptions.ParameterNotFound:
            yield Finding("FIX", f"{what}: not found", _put(name, '"$(openssl rand -hex 24)"'))
            return
        words = _words(parameter["Value"])
        self._tokens = [word for word in words if len(word) >= MIN_TOKEN_LENGTH]
        if parameter["Type"] != "SecureString":
            yield _not_secure(what, name, parameter["Type"])
        if not self._tokens:
            todo = f"A token has at least {MIN_TOKEN_LENGTH} characters. {_put(name, 'TOKEN', overwrite=True)}"
            yield Finding("FIX", f"{what}: no usable token", todo)
        elif len(self._tokens) < len(words):
            todo = f"A token has at least {MIN_TOKEN_LENGTH} characters; shorter ones are not accepted."
            too_short = len(words) - len(self._tokens)
            yield Finding("warn", f"{what}: {too_short} of {len(words)} tokens too short", todo)
        elif parameter["Type"] == "SecureString":
            yield Finding("ok", f"{what}: {_count(len(words), 'token')}")

    def _check_routing_keys(self) -> Iterator[Finding]:
        prefix = self._stack.outputs["RoutingKeyParameter"].rpartition("/")[0]
        pages = self._stack.client("ssm").get_paginator("get_parameters_by_path")
        found = {
            each["Name"].removeprefix(f"{prefix}/"): each
            for page in pages.paginate(Path=prefix, Recursive=True, WithDecryption=True)
            for each in page.get("Parameters", [])
        }
        for service, parameter in found.items():
            yield _judge_routing_key(service, parameter)
        keys = {service: set(_words(parameter["Value"])) for service, parameter in found.items()}
        for one, other in itertools.combinations(sorted(keys), 2):
            if keys[one] & keys[other]:
                todo = (
                    "Each service may use CallsPerMinute calls, but PagerDuty grants them once for a key: in a storm\n"
                    "of one, pages of both are limited. Give each service an integration key of its own."
                )
                yield Finding("warn", f"PagerDuty services {one} and {other}: the same routing key", todo)
        if "default" not in found:
            name = f"{prefix}/default"
            todo = f"Events for the plain URL are delayed until it exists. {_put(name, 'INTEGRATION_KEY')}"
            yield Finding("warn" if found else "FIX", f"parameter {name}: not found", todo)

    def _check_endpoint(self) -> Iterator[Finding]:
        """Ask for previews, which need a token, send nothing, and raise no alarm."""
        url = self._stack.outputs["EventsUrl"]
        for number, token in enumerate(self._tokens, 1):
            what = f"{url}: token {number}"
            status, answer = self._post(f"{url}?preview=true", SAMPLE, token)
            if (status, answer.get("status")) == (HTTPStatus.OK, "preview"):
                todo = "Enter it in RudderStack without a slash at its end, for which API Gateway answers 404."
                yield Finding("ok", f"{what} is accepted", todo if number == 1 else "")
            elif status == HTTPStatus.UNAUTHORIZED:
                todo = "The function has other tokens: wait for five minutes, or correct the stack's ParameterPrefix."
                yield Finding("FIX", f"{what} is not accepted", todo)
            else:
                yield _unexpected(what, status, answer)
        what = f"{url}: a wrong token"
        status, answer = self._post(f"{url}?preview=true", SAMPLE, secrets.token_hex(24))
        if status == HTTPStatus.UNAUTHORIZED:
            yield Finding("ok", f"{what} is not accepted")
        elif status == HTTPStatus.OK:
            yield Finding("FIX", f"{what} is accepted", "The server at this URL is not this function: check the URL.")
        else:
            yield _unexpected(what, status, answer)

    def _check_pagerduty(self) -> Iterator[Finding]:
        """Yield whether PagerDuty responds at all; no event is sent."""
        url = self._stack.outputs["PagerDutyUrl"]
        what = f"{url}: from this machine"
        headers = {"User-Agent": DOCTOR}
        try:
            urllib3.request("GET", f"{url}/", headers=headers, timeout=PAGERDUTY_TIMEOUT, retries=False)
        except HTTPError as error:
            todo = (
                "Check status.pagerduty.com, and proxies between this machine and PagerDuty. The function reaches\n"
                "PagerDuty in another way; its log shows how that works."
            )
            yield Finding("FIX", f"{what}: no answer ({type(error).__name__})", todo)
        else:
            yield Finding("ok", f"{what} PagerDuty answers")

    def _check_dead_letters(self) -> Iterator[Finding]:
        number = self._count_messages("DeadLetterQueueUrl", "ApproximateNumberOfMessages")
        if number:
            todo = "Nobody was paged for them. docs/operating.md: how to read the reasons and send them again."
            yield Finding("warn", f"dead-letter queue: {_count(number, 'event')}", todo)
        else:
            yield Finding("ok", "dead-letter queue: empty")

    def _check_flow_table(self) -> Iterator[Finding]:
        name = self._stack.outputs["FlowTableName"]
        dynamodb = self._stack.client("dynamodb")
        try:
            dynamodb.describe_table(TableName=name)
        except dynamodb.exceptions.ResourceNotFoundException:
            todo = (
                "Without it, all events go through the queue, and pages are rate limited in a storm. CloudFormation\n"
                "does not notice that it is gone. Create it again:\n"
                f"aws dynamodb create-table --table-name {name} {TABLE}\n"
                f"aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification {TIME_TO_LIVE}"
            )
            yield Finding("FIX", f"table {name}: not found", todo)
        else:
            yield Finding("ok", f"table {name}: found")

    def _check_concurrency(self) -> Iterator[Finding]:
        """Compare the stack's limits with the account's; the local stack has none."""
        if self._stack.parameters.keys() >= set(_SIZES):
            limit = self._stack.client("lambda").get_account_settings()["AccountLimit"]
            yield judge_concurrency(self._stack.parameters, int(limit["UnreservedConcurrentExecutions"]))

    def _check_urgency(self) -> Iterator[Finding]:
        """Compare the last day's urgent events with all; the local stack has no figures."""
        if self._stack.name and (received := self._sum_metric("Received")):
            yield judge_urgency(self._stack.parameters, self._sum_metric("Urgent"), received)

    def _sum_metric(self, metric: str) -> int:
        """Return the sum of a metric over the last day."""
        now = datetime.now(UTC)
        points = self._stack.client("cloudwatch").get_metric_statistics(
            Namespace=NAMESPACE,
            MetricName=metric,
            Dimensions=[{"Name": "service", "Value": self._stack.name}],
            StartTime=now - timedelta(days=1),
            EndTime=now,
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
        return int(sum(point["Sum"] for point in points))

    def _send_test_alert(self) -> Iterator[Finding]:
        """Send one alert through the stack and resolve it: only PagerDuty knows whether a routing key works."""
        if not self._tokens:
            return
        key = f"make-doctor-{secrets.token_hex(8)}"
        look = f"In PagerDuty, look for the alert with the dedup key {key}."
        for action in ("trigger", "resolve"):
            properties = {**TEST_ALERT, "action": action, "dedupKey": key}
            event = {"type": "track", "event": "A test by make doctor", "messageId": f"{key}-{action}"}
            began = time.time()
            url = self._stack.outputs["EventsUrl"]
            status, answer = self._post(url, event | {"properties": properties}, self._tokens[0])
            what = f"test alert, {action}"
            if (status, answer.get("status")) == (HTTPStatus.OK, "delivered"):
                yield Finding("ok", f"{what}: PagerDuty accepted it", look)
            elif (status, answer.get("status")) == (HTTPStatus.OK, "queued"):
                code = self._wait_for_worker(f"{key}-{action}", began)
                if code == "delivered":
                    yield Finding("ok", f"{what}: PagerDuty accepted it from the queue", look)
                else:
                    todo = f"docs/answers.md: {code}" if code else "Check the worker's log and its trigger."
                    yield Finding("FIX", f"{what}: queued and not delivered ({code or 'no line in the log'})", todo)
            else:
                yield _unexpected(what, status, answer)
                return

    def _wait_for_worker(self, message_id: str, began: float) -> str | None:
        """Wait until the worker has delivered or rejected an event; return the last code in its log, or None.

        The local stack has no such log; there the event is delivered when the queue is empty.
        """
        give_up = time.monotonic() + QUEUE_TIMEOUT
        code = None
        while code not in {"delivered", "pagerduty_rejected"} and time.monotonic() < give_up:
            time.sleep(POLL_SECONDS)
            if "WorkerLogGroup" in self._stack.outputs:
                events = self._stack.client("logs").filter_log_events(
                    logGroupName=self._stack.outputs["WorkerLogGroup"],
                    filterPattern=f'"{message_id}"',
                    startTime=int(began * 1000),
                )["events"]
                code = json.loads(events[-1]["message"]).get("code") if events else None
            else:
                names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
                code = None if self._count_messages("QueueUrl", *names) else "delivered"
        return code

    def _count_messages(self, queue: str, *names: str) -> int:
        url = self._stack.outputs[queue]
        answer = self._stack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    def _post(self, url: str, event: object, token: str) -> tuple[int, dict[str, str]]:
        """Send an event; return the status (0: no answer) and the answer's fields, without tokens and shortened."""
        try:
            response = urllib3.request(
                "POST",
                url,
                json=event,
                # In UTF-8, as the function compares them; HTTP's text is Latin-1.
                headers={"Authorization": f"Bearer {token}".encode().decode("latin-1"), "User-Agent": DOCTOR},
                timeout=ENDPOINT_TIMEOUT,
                retries=False,
            )
        except HTTPError as error:
            return 0, {"code": type(error).__name__}
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = {}
        return response.status, {
            name: printable(self._without_tokens(str(value)))[:QUOTED]
            for name, value in (answer.items() if isinstance(answer, dict) else ())
        }

    def _without_tokens(self, text: str) -> str:
        for token in self._tokens:
            text = text.replace(token, "[token]")
        return text


def _judge_routing_key(service: str, parameter: Mapping[str, Any]) -> Finding:
    name = parameter["Name"]
    what = f"parameter {name}"
    if parameter["Type"] != "SecureString":
        return _not_secure(what, name, parameter["Type"])
    if not SERVICE.fullmatch(service):
        todo = "A PagerDuty service's name has 1 to 64 of A-Z a-z 0-9 _ . -, so no URL can name this one."
        return Finding("FIX", f"{what}: not a name", todo)
    keys = _words(parameter["Value"])
    if not keys or not all(re.fullmatch(ROUTING_KEY, key) for key in keys):
        todo = (
            "It has 32 letters and digits, and is the integration key of an Events API V2 integration. Separate\n"
            f"several keys by spaces or commas.\n{_put(name, 'INTEGRATION_KEY', overwrite=True)}"
        )
        which = "not a routing key" if len(keys) <= 1 else f"not all of the {len(keys)} are routing keys"
        return Finding("FIX", f"{what}: {which}", todo)
    form = "the form of a routing key" if len(keys) == 1 else f"the form of {len(keys)} routing keys"
    return Finding("ok", f"{what}: has {form}")


def judge_concurrency(parameters: Mapping[str, str], unreserved: int) -> Finding:
    """Return whether the account's `unreserved` instances are enough for the stack and other functions."""
    workers, rate, reserved = (int(parameters[name]) for name in _SIZES)
    needed = workers + (0 if reserved else rate * SLOW_REQUEST)
    what = f"concurrency: the stack may need {needed} of the account's {unreserved} unreserved instances"
    if needed < unreserved:
        return Finding("ok", what)
    todo = (
        f"QueueConcurrency={workers}, and ThrottlingRateLimit={rate} requests a second while PagerDuty is silent, can\n"
        "leave the account's other functions without an instance. Lower them, set ReservedConcurrency, or ask AWS for\n"
        "more: docs/production.md, Concurrency."
    )
    return Finding("warn", what, todo)


def judge_urgency(parameters: Mapping[str, str], urgent: int, received: int) -> Finding:
    """Return whether urgent events are few enough to go first in a storm.

    Fewer in a day than PagerDuty accepts in a minute are always few enough.
    """
    what = f"urgent events: {urgent} of {received} in the last day ({urgent / received:.0%})"
    if urgent <= int(parameters.get("CallsPerMinute", RATE_LIMIT)) or urgent <= received * MAX_URGENT_SHARE:
        return Finding("ok", what)
    todo = (
        "The first critical trigger of an incident is urgent: it does not wait in a storm. If nearly everything is\n"
        "critical, nothing goes first. Send severity error, warning or info with events that can wait."
    )
    if parameters.get("DefaultSeverity") == "critical":
        todo += (
            "\nDefaultSeverity=critical makes events without a known severity urgent. With DefaultSeverity=error they\n"
            "page as well, but can wait."
        )
    return Finding("warn", what, todo)


# -- texts -----------------------------------------------------------------------------------------------------------


def _failed(what: str, service: str, error: ClientError | BotoCoreError, level: Level = "FIX") -> Finding:
    """Return a finding about a failed call to AWS, without the error's text, which could hold anything."""
    code, action = type(error).__name__, service
    if isinstance(error, ClientError):
        code, action = error.response["Error"]["Code"], f"{service}:{error.operation_name}"
    if _ABOUT_CREDENTIALS.search(code):
        todo = "Run `aws sso login` or `aws configure`, or set AWS_PROFILE and AWS_DEFAULT_REGION."
    else:
        todo = f"You need the permission {action}, and kms:Decrypt for secrets; or AWS cannot be reached from here."
    return Finding(level, f"{what}: {action} failed ({code})", todo)


def _unexpected(what: str, status: int, answer: Mapping[str, str]) -> Finding:
    code = answer.get("code", "")
    if not status:
        todo = "Check whether this machine reaches it, and whether the stack still exists."
        return Finding("FIX", f"{what}: no answer ({code})", todo)
    message = answer.get("message", "The answer is not this function's.")
    todo = f"{message}\ndocs/answers.md: {code}" if code else message
    return Finding("FIX", f"{what}: answered {status} {code}".rstrip(), todo)


def _not_secure(what: str, name: str, kind: str) -> Finding:
    todo = (
        "Everybody who may read parameters can see it. Delete it, and put a new value:\n"
        f"aws ssm delete-parameter --name {name}\n{_put(name, 'NEW')}"
    )
    return Finding("FIX", f"{what}: a {kind}, not a SecureString", todo)


def _put(name: str, value: str, *, overwrite: bool = False) -> str:
    overwriting = " --overwrite" if overwrite else ""
    return f"aws ssm put-parameter --type SecureString --name {name} --value {value}{overwriting}"


def _words(text: str) -> list[str]:
    """Split the value of a parameter with several secrets."""
    return text.replace(",", " ").split()


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
