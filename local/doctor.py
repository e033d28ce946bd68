"""`python -m local doctor`: looks at a stack from the outside, and says what has to be mended.

Pages nobody, unless it is asked for a test alert.
"""

import itertools
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
from urllib3.exceptions import HTTPError

from local.options import DOCTOR, LOCAL, LOCAL_STACK_FILE, MIN_SECRET_LENGTH, RATE_LIMIT, SERVICE
from local.pagerduty_rules import ROUTING_KEY
from local.terminal import Colour, painted

# Of an event orchestration: https://developer.pagerduty.com/docs/events-api-v2-overview.
ORCHESTRATION: Final = "R"
# Seconds for which a request occupies an instance until the function knows that PagerDuty does not answer.
SLOW_REQUEST: Final = 3
# Of all events. Above it, urgent ones compete with each other more than with those that can wait.
MAX_URGENT_SHARE: Final = 0.5
# As function/telemetry.py writes its metrics.
NAMESPACE: Final = "RudderStackPagerDuty"

# The table as template.yaml has it, for the AWS CLI.
TABLE: Final = (
    "--billing-mode PAY_PER_REQUEST --attribute-definitions AttributeName=service,AttributeType=S "
    "--key-schema AttributeName=service,KeyType=HASH"
)
TIME_TO_LIVE: Final = "Enabled=true,AttributeName=lease"

# A change event: even if it were sent, by whatever answers at the URL, it would page nobody.
SAMPLE: Final = {
    "type": "track",
    "event": "A preview by make doctor",
    "integrations": {"pagerduty": {"type": "changeEvent"}},
    "properties": {"source": "make doctor"},
}
# What is sent when it is asked for by name; its dedup key makes it an alert of its own.
TEST_ALERT: Final = {"source": "make doctor", "severity": "info"}
AS_IT_IS: Final = "Enter it in RudderStack without a slash at its end, for which API Gateway answers 404."
# Seconds: until the worker has told in its log what became of an event, and between two looks.
QUEUE_PATIENCE: Final = 60.0
LOOK_AGAIN: Final = 0.5
# Seconds: a cold start on a slow machine takes a few.
PATIENCE: Final = 30.0
PAGERDUTY_PATIENCE: Final = 5.0
# Characters of an answer.
QUOTED: Final = 300
_CLIENT_CONFIG: Final = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3})
_FAILURES: Final = (ClientError, BotoCoreError)
# Of AWS's codes and botocore's classes: ExpiredTokenException, InvalidClientTokenId, SSOTokenLoadError, ProfileNotFound
_ABOUT_CREDENTIALS: Final = re.compile("Credential|Expired|Login|Profile|SSO|Signature|Token|UnrecognizedClient")
_NEEDED: Final = (
    *("EventsUrl", "WebhookTokenParameter", "RoutingKeyParameter", "PagerDutyUrl"),
    *("DeadLetterQueueUrl", "FlowTableName"),
)
_SIZES: Final = {"QueueConcurrency", "ThrottlingRateLimit", "ReservedConcurrency"}
_OK: Final = 200
_UNAUTHORIZED: Final = 401

Level = Literal["ok", "warn", "FIX"]
_COLOURS: Final[Mapping[Level, Colour]] = {"ok": "green", "warn": "yellow", "FIX": "red"}
# Columns of the widest.
_LEVEL: Final = 4


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do about it, if anything."""

    level: Level
    what: str
    todo: str = ""


@dataclass(frozen=True)
class Stack:
    """The stack's outputs and parameters, and how to ask the AWS that it is in: arguments of boto3's clients.

    `name` is that of its metrics; the local stack has none.
    """

    outputs: Mapping[str, str]
    aws: Mapping[str, Any]
    parameters: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def client(self, service: Any) -> Any:
        """Make a client of an AWS service."""
        return boto3.client(service, config=_CLIENT_CONFIG, **self.aws)


def main(name: str, *, test_page: bool = False) -> int:
    """Look at the stack of that name and print what is found; return 0 when nothing has to be mended, otherwise 1.

    With `test_page` one alert is sent through the stack, and resolved.
    """
    stack, findings = find(name)
    found = []
    for finding in itertools.chain(findings, examine(stack, test_page=test_page) if stack else ()):
        found.append(finding)
        head, *below = lines(finding)
        level = painted(head[:_LEVEL], _COLOURS[finding.level])
        print("\n".join([level + head[_LEVEL:], *below]), flush=True)
    print(f"\n{verdict(found, paged=test_page)}")
    return 1 if any(finding.level == "FIX" for finding in found) else 0


def lines(finding: Finding) -> list[str]:
    """Lay a finding out as text: a line, and below it what to do."""
    return [f"{finding.level:<{_LEVEL}}  {finding.what}", *(f"      {line}" for line in finding.todo.splitlines())]


def verdict(findings: Sequence[Finding], *, paged: bool = False) -> str:
    """Sum the findings up in a line."""
    levels = [finding.level for finding in findings]
    to_mend = levels.count("FIX")
    warnings = _number(levels.count("warn"), "warning")
    nobody = "" if paged else " Nobody was paged."
    return f"{f'{to_mend} to mend' if to_mend else 'Nothing to mend'}, {warnings}.{nobody}"


# -- the stack -------------------------------------------------------------------------------------------------------


def find(name: str) -> tuple[Stack | None, list[Finding]]:
    """Find the stack; None when there is none that could be looked at, with the reason."""
    if name == LOCAL:
        return _find_local()
    try:
        found = boto3.client("cloudformation", config=_CLIENT_CONFIG).describe_stacks(StackName=name)["Stacks"][0]
    except _FAILURES as error:
        return None, [_not_found(name, error)]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])}
    return judge(f"stack {name}", Stack(outputs, {}, parameters, name), found["StackStatus"])


def _not_found(name: str, error: ClientError | BotoCoreError) -> Finding:
    if isinstance(error, NoRegionError):
        return Finding("FIX", "no AWS region", "Set AWS_DEFAULT_REGION, or the region of your AWS profile.")
    if isinstance(error, NoCredentialsError):
        return Finding("FIX", "no AWS credentials", "Run `aws configure` or `aws sso login`, or set AWS_PROFILE.")
    if "does not exist" in str(error):
        todo = "Deploy it (README, Deploy), or name yours: make doctor STACK=... Mind the region and the account."
        return Finding("FIX", f"stack {name}: not there", todo)
    return _failed(f"stack {name}", "cloudformation:DescribeStacks", error)


def _find_local() -> tuple[Stack | None, list[Finding]]:
    try:
        content = json.loads(LOCAL_STACK_FILE.read_text(encoding="utf-8"))
        stack = Stack({name: content["outputs"][name] for name in (*_NEEDED, *content["outputs"])}, content["aws"])
        # It is still there when `make serve` was killed.
        urllib3.request("GET", stack.aws["endpoint_url"], timeout=PAGERDUTY_PATIENCE, retries=False)
    except (OSError, ValueError, KeyError, TypeError, HTTPError):
        return None, [Finding("FIX", "the local stack: not running", "Start it in another terminal: make serve")]
    return stack, [Finding("ok", "the local stack: running")]


def judge(what: str, stack: Stack, status: str) -> tuple[Stack | None, list[Finding]]:
    """Tell by its status and its outputs whether the stack can be looked at, and with which reservations."""
    if status.startswith(("CREATE_FAILED", "DELETE_", "ROLLBACK_")):
        todo = (
            "It is gone, or never came to be: see its events for the reason, delete it (sam delete), and deploy again."
        )
        return None, [Finding("FIX", f"{what}: {status}", todo)]
    if missing := [name for name in _NEEDED if name not in stack.outputs]:
        todo = (
            f"It has no output {', '.join(missing)}: not deployed to its end, by an older template, or another stack."
        )
        return None, [Finding("FIX", f"{what}: {status}", todo)]
    if status == "UPDATE_ROLLBACK_COMPLETE":
        todo = "The last deployment was undone, what runs is the one before. See the stack's events for the reason."
        return stack, [Finding("warn", f"{what}: {status}", todo)]
    if status == "UPDATE_ROLLBACK_FAILED":
        name = what.removeprefix("stack ")
        todo = (
            f"The last deployment could not be undone:\naws cloudformation continue-update-rollback --stack-name {name}"
        )
        return stack, [Finding("FIX", f"{what}: {status}", todo)]
    if not status.endswith("_COMPLETE"):
        todo = "See the stack's events: it is being changed, or a change of it has failed."
        return stack, [Finding("warn", f"{what}: {status}", todo)]
    return stack, [Finding("ok", f"{what}: {status}")]


# -- what is looked at -----------------------------------------------------------------------------------------------


def examine(stack: Stack, *, test_page: bool = False) -> Iterator[Finding]:
    """Look at everything, one after the other; what fails does not keep the rest from being looked at."""
    tokens, findings = _tokens(stack)
    yield from findings
    yield from _routing_keys(stack)
    yield from _endpoint(stack.outputs["EventsUrl"], tokens)
    yield _pagerduty(stack.outputs["PagerDutyUrl"])
    yield from _dead_letters(stack)
    yield _flow_table(stack)
    yield from _concurrency(stack)
    yield from _urgency(stack)
    if test_page and tokens:
        yield from _test_alert(stack, tokens)


def _tokens(stack: Stack) -> tuple[list[str], list[Finding]]:
    """Look at the shared secrets, and return those that the function accepts."""
    name = stack.outputs["WebhookTokenParameter"]
    what = f"parameter {name}"
    try:
        parameter = stack.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]
    except _FAILURES as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ParameterNotFound":
            return [], [Finding("FIX", f"{what}: not there", _put(name, '"$(openssl rand -hex 24)"'))]
        return [], [_failed(what, "ssm:GetParameter", error)]
    words = _words(parameter["Value"])
    usable = [word for word in words if len(word) >= MIN_SECRET_LENGTH]
    findings = []
    if parameter["Type"] != "SecureString":
        findings.append(_not_secure(what, name, parameter["Type"]))
    if not usable:
        todo = f"A secret has at least {MIN_SECRET_LENGTH} characters. {_put(name, 'SECRET', overwrite=True)}"
        findings.append(Finding("FIX", f"{what}: no usable secret", todo))
    elif len(usable) < len(words):
        todo = f"A secret has at least {MIN_SECRET_LENGTH} characters; shorter ones let nobody in."
        findings.append(Finding("warn", f"{what}: {len(words) - len(usable)} of {len(words)} secrets too short", todo))
    return usable, findings or [Finding("ok", f"{what}: {_number(len(usable), 'secret')}")]


def _routing_keys(stack: Stack) -> Iterator[Finding]:
    prefix = stack.outputs["RoutingKeyParameter"].rpartition("/")[0]
    what = f"parameters {prefix}/*"
    try:
        pages = stack.client("ssm").get_paginator("get_parameters_by_path")
        found = [
            each
            for page in pages.paginate(Path=prefix, Recursive=True, WithDecryption=True)
            for each in page.get("Parameters", [])
        ]
    except _FAILURES as error:
        yield _failed(what, "ssm:GetParametersByPath", error)
        return
    if not found:
        yield Finding("FIX", f"{what}: none there", _put(f"{prefix}/default", "INTEGRATION_KEY"))
        return
    for parameter in found:
        yield _routing_key(parameter, prefix)
    yield from _shared_keys({each["Name"].removeprefix(f"{prefix}/"): _words(each["Value"]) for each in found})
    if f"{prefix}/default" not in {parameter["Name"] for parameter in found}:
        todo = f"Events for the plain URL are put off until it is there. {_put(f'{prefix}/default', 'INTEGRATION_KEY')}"
        yield Finding("warn", f"parameter {prefix}/default: not there", todo)


def _routing_key(parameter: Mapping[str, Any], prefix: str) -> Finding:
    name = parameter["Name"]
    what = f"parameter {name}"
    if parameter["Type"] != "SecureString":
        return _not_secure(what, name, parameter["Type"])
    if not SERVICE.fullmatch(name.removeprefix(f"{prefix}/")):
        todo = "The name of a PagerDuty service has 1 to 64 of A-Z a-z 0-9 _ . -, so no URL leads to this one."
        return Finding("FIX", f"{what}: not a name", todo)
    keys = _words(parameter["Value"])
    if not keys or not all(re.fullmatch(ROUTING_KEY, key) for key in keys):
        todo = (
            "It has 32 letters and digits, and is the integration key of an Events API V2 integration; several are\n"
            f"separated by spaces or commas.\n{_put(name, 'INTEGRATION_KEY', overwrite=True)}"
        )
        which = "not a routing key" if len(keys) <= 1 else f"not all of the {len(keys)} are routing keys"
        return Finding("FIX", f"{what}: {which}", todo)
    if len(set(keys)) < len(keys):
        todo = "The same key twice takes no more events a minute than once."
        return Finding("warn", f"{what}: a routing key twice", todo)
    if any(key.startswith(ORCHESTRATION) for key in keys):
        todo = (
            "It begins with R, as the keys of event orchestrations do: PagerDuty takes alert events with it, and no\n"
            "change events. For those, take the integration key of a service."
        )
        return Finding("warn", f"{what}: the key of an orchestration", todo)
    form = "the form of a routing key" if len(keys) == 1 else f"{len(keys)} routing keys, by their form"
    return Finding("ok", f"{what}: has {form}")


def _shared_keys(keys: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Find PagerDuty services with the same routing key; `keys` are those of each service."""
    for one, other in itertools.combinations(sorted(keys), 2):
        if set(keys[one]) & set(keys[other]):
            todo = (
                "Each service has a budget of CallsPerMinute, and PagerDuty grants the key that many only once. In a\n"
                "storm of one, pages of both meet its rate limit. Give each service an integration key of its own."
            )
            yield Finding("warn", f"PagerDuty services {one} and {other}: the same routing key", todo)


def _endpoint(url: str, tokens: Sequence[str]) -> Iterator[Finding]:
    """Ask for previews: they show who is let in, and send nothing. No alarm counts them."""
    for number, token in enumerate(tokens, 1):
        what = f"{url}: secret {number}"
        status, answer = _ask(f"{url}?preview=true", SAMPLE, token, tokens)
        if (status, answer.get("status")) == (_OK, "preview"):
            yield Finding("ok", f"{what} lets in", AS_IT_IS if number == 1 else "")
        elif status == _UNAUTHORIZED:
            todo = "The function has other secrets: wait for five minutes, or correct ParameterPrefix of the stack."
            yield Finding("FIX", f"{what} does not let in", todo)
        else:
            yield _strange(what, status, answer)
    what = f"{url}: a wrong secret"
    status, answer = _ask(f"{url}?preview=true", SAMPLE, secrets.token_hex(24), tokens)
    if status == _UNAUTHORIZED:
        yield Finding("ok", f"{what} does not let in")
    elif status == _OK:
        todo = "Whoever answers there lets everybody in: it is not this function. Look at what the URL leads to."
        yield Finding("FIX", f"{what} lets in", todo)
    else:
        yield _strange(what, status, answer)


def _ask(url: str, event: object, token: str, tokens: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Send an event; the status is 0 when there was no answer. None of the tokens is in what is returned."""
    try:
        response = urllib3.request(
            "POST",
            url,
            json=event,
            # As the bytes that the function compares: a secret need not be Latin-1, as HTTP's text is.
            headers={"Authorization": f"Bearer {token}".encode().decode("latin-1"), "User-Agent": DOCTOR},
            timeout=PATIENCE,
            retries=False,
        )
    except HTTPError as error:
        return 0, {"code": type(error).__name__}
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    return response.status, {name: _harmless(str(value), tokens) for name, value in answer.items()}


def _harmless(text: str, tokens: Sequence[str]) -> str:
    """Make what may be anybody's words fit to be shown: without our secrets, on one line, and not too long."""
    for token in tokens:
        text = text.replace(token, "[secret]")
    return "".join(each if each.isprintable() else " " for each in text)[:QUOTED]


def _strange(what: str, status: int, answer: Mapping[str, Any]) -> Finding:
    if not status:
        todo = "Look whether this machine reaches it, and whether the stack is still there."
        return Finding("FIX", f"{what}: no answer ({answer['code']})", todo)
    code = answer.get("code")
    told = str(answer.get("message", "the answer is not this function's"))
    todo = f"{told}\ndocs/answers.md: {code}" if code else told
    return Finding("FIX", f"{what}: answered {status} {code or ''}".rstrip(), todo)


def _test_alert(stack: Stack, tokens: Sequence[str]) -> Iterator[Finding]:
    """Send one alert through the stack and resolve it: only PagerDuty knows whether a routing key works."""
    key = f"make-doctor-{secrets.token_hex(8)}"
    for action in ("trigger", "resolve"):
        properties = {**TEST_ALERT, "action": action, "dedupKey": key}
        event = {"type": "track", "event": "A test by make doctor", "messageId": f"{key}-{action}"}
        began = time.time()
        status, answer = _ask(stack.outputs["EventsUrl"], event | {"properties": properties}, tokens[0], tokens)
        what = f"test alert, {action}"
        if (status, answer.get("status")) == (_OK, "queued"):
            yield _out_of_the_queue(stack, what, key, action, began)
        elif (status, answer.get("status")) == (_OK, "delivered"):
            yield Finding("ok", f"{what}: PagerDuty took it", _where_to_look(key))
        else:
            yield _strange(what, status, answer)
            return


def _out_of_the_queue(stack: Stack, what: str, key: str, action: str, began: float) -> Finding:
    """Wait until the worker's log tells what became of the event; where there is no log, until the queue is empty."""
    give_up = time.monotonic() + QUEUE_PATIENCE
    code = None
    while code != "delivered" and time.monotonic() < give_up:
        time.sleep(LOOK_AGAIN)
        try:
            code = _worker_said(stack, key, action, began) if "WorkerLogGroup" in stack.outputs else _drained(stack)
        except _FAILURES as error:
            return _failed(what, "logs:FilterLogEvents", error)
        if code == "pagerduty_rejected":
            break
    if code == "delivered":
        return Finding("ok", f"{what}: the queue delivered it to PagerDuty", _where_to_look(key))
    told = f"docs/answers.md: {code}" if code else "The worker has not tried it yet: see its log, and its trigger."
    return Finding("FIX", f"{what}: in the queue, and not delivered ({code or 'no line in the log'})", told)


def _worker_said(stack: Stack, key: str, action: str, began: float) -> str | None:
    """Return the code in the latest line that the worker has logged about the event; None when there is none yet."""
    events = stack.client("logs").filter_log_events(
        logGroupName=stack.outputs["WorkerLogGroup"], filterPattern=f'"{key}-{action}"', startTime=int(began * 1000)
    )["events"]
    return json.loads(events[-1]["message"]).get("code") if events else None


def _drained(stack: Stack) -> str | None:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = stack.client("sqs").get_queue_attributes(QueueUrl=stack.outputs["QueueUrl"], AttributeNames=names)
    return None if any(int(number) for number in answer["Attributes"].values()) else "delivered"


def _where_to_look(key: str) -> str:
    return f"In PagerDuty, look for the alert with the dedup key {key}."


def _pagerduty(url: str) -> Finding:
    """Tell whether there is PagerDuty: any answer will do, since no event is sent."""
    what = f"{url}: from this machine"
    try:
        urllib3.request("GET", f"{url}/", headers={"User-Agent": DOCTOR}, timeout=PAGERDUTY_PATIENCE, retries=False)
    except HTTPError as error:
        todo = (
            "Look at status.pagerduty.com, and at proxies between this machine and PagerDuty. The function has a way\n"
            "of its own, about which this says nothing; its log does."
        )
        return Finding("FIX", f"{what}: no answer ({type(error).__name__})", todo)
    return Finding("ok", f"{what} PagerDuty answers")


def _dead_letters(stack: Stack) -> Iterator[Finding]:
    url = stack.outputs["DeadLetterQueueUrl"]
    names = ["ApproximateNumberOfMessages"]
    try:
        answer = stack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
    except _FAILURES as error:
        yield _failed("dead-letter queue", "sqs:GetQueueAttributes", error)
        return
    number = int(answer["Attributes"][names[0]])
    if number:
        todo = "Nobody was paged for them. docs/operating.md: how to read the reasons and send them again."
        yield Finding("warn", f"dead-letter queue: {_number(number, 'event')}", todo)
    else:
        yield Finding("ok", "dead-letter queue: empty")


def _flow_table(stack: Stack) -> Finding:
    """Look whether the table of flow control is there, and forgets services that are gone."""
    name = stack.outputs["FlowTableName"]
    what = f"table {name}"
    forget = f"aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification {TIME_TO_LIVE}"
    dynamodb = stack.client("dynamodb")
    try:
        dynamodb.describe_table(TableName=name)
    except _FAILURES as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException":
            todo = (
                "Without it all events go through the queue, and pages meet PagerDuty's rate limit in a storm.\n"
                "CloudFormation does not notice that it is gone. Create it again:\n"
                f"aws dynamodb create-table --table-name {name} {TABLE}\n{forget}"
            )
            return Finding("FIX", f"{what}: not there", todo)
        return _failed(what, "dynamodb:DescribeTable", error)
    try:
        time_to_live = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    except _FAILURES as error:
        return _failed(what, "dynamodb:DescribeTimeToLive", error)
    if time_to_live.get("AttributeName") != "lease":
        return Finding("warn", f"{what}: keeps the items of services that are gone", forget)
    return Finding("ok", f"{what}: there")


def _urgency(stack: Stack) -> Iterator[Finding]:
    """Compare the urgent events of the last day with all; the local stack, and one without events, have no figures."""
    if not stack.name:
        return
    try:
        urgent, received = (_count(stack, metric) for metric in ("Urgent", "Received"))
    except _FAILURES as error:
        failed = _failed("urgent events", "cloudwatch:GetMetricStatistics", error)
        yield Finding("warn", failed.what, failed.todo)
        return
    if received:
        yield judge_urgency(stack.parameters, urgent, received)


def _count(stack: Stack, metric: str) -> int:
    """Return the sum of a metric over the last day."""
    now = datetime.now(UTC)
    points = stack.client("cloudwatch").get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=metric,
        Dimensions=[{"Name": "service", "Value": stack.name}],
        StartTime=now - timedelta(days=1),
        EndTime=now,
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    return int(sum(point["Sum"] for point in points))


def judge_urgency(parameters: Mapping[str, str], urgent: int, received: int) -> Finding:
    """Return whether urgent events are few enough to be ahead of the others in a storm.

    Fewer in a day than PagerDuty accepts in a minute are never too many.
    """
    what = f"urgent events: {urgent} of {received} in the last day ({urgent / received:.0%})"
    if urgent <= int(parameters.get("CallsPerMinute", RATE_LIMIT)) or urgent <= received * MAX_URGENT_SHARE:
        return Finding("ok", what)
    todo = (
        "The first critical trigger of an incident is urgent: it does not wait in a storm. When nearly everything is\n"
        "critical, nothing is ahead of the rest. Send severity error, warning or info with what can wait."
    )
    if parameters.get("DefaultSeverity") == "critical":
        todo += (
            "\nDefaultSeverity=critical makes events without a known severity urgent. With DefaultSeverity=error they\n"
            "page as well, but can wait."
        )
    return Finding("warn", what, todo)


def _concurrency(stack: Stack) -> Iterator[Finding]:
    """Compare what the stack may take of the account's concurrency with what the account has.

    Neither the local stack nor one of an older template tells what it may take.
    """
    if not stack.parameters.keys() >= _SIZES:
        return
    try:
        limit = stack.client("lambda").get_account_settings()["AccountLimit"]
    except _FAILURES as error:
        failed = _failed("concurrency", "lambda:GetAccountSettings", error)
        yield Finding("warn", failed.what, failed.todo)
        return
    yield judge_concurrency(
        stack.parameters, limit["ConcurrentExecutions"], int(limit["UnreservedConcurrentExecutions"])
    )


def judge_concurrency(parameters: Mapping[str, str], total: int, unreserved: int) -> Finding:
    """Tell whether the worker and the function behind the API find the instances that they may want at once.

    `total` is what the account has in this region, `unreserved` what remains of it beside all reservations.
    """
    workers, rate = int(parameters["QueueConcurrency"]), int(parameters["ThrottlingRateLimit"])
    reserved = int(parameters["ReservedConcurrency"])
    what = f"concurrency: {unreserved} of the account's {total} instances are not reserved"
    left = unreserved - workers
    if left <= 0:
        todo = (
            f"The worker may take all of them (QueueConcurrency={workers}), and in a storm leave none to others.\n"
            "Lower it (2 is the least), or ask AWS for more in Service Quotas: Concurrent executions."
        )
        return Finding("warn", what, todo)
    if reserved:
        return Finding("ok", f"{what}; the function behind the API has {reserved} of its own")
    wanted = rate * SLOW_REQUEST
    if wanted <= left:
        return Finding("ok", what)
    todo = (
        f"ThrottlingRateLimit={rate} requests a second, {SLOW_REQUEST} s each when PagerDuty stops answering, are\n"
        f"{wanted} at once; {left} are left beside QueueConcurrency={workers}, for {left // SLOW_REQUEST} a second.\n"
        "What is beyond fails and is sent again, but other functions of the account get none meanwhile. Lower\n"
        "ThrottlingRateLimit, set ReservedConcurrency, or ask AWS for more in Service Quotas."
    )
    return Finding("warn", what, todo)


# -- words -----------------------------------------------------------------------------------------------------------


def _failed(what: str, action: str, error: ClientError | BotoCoreError) -> Finding:
    """Tell of a call to AWS that failed, without the text of the answer, which could hold anything."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
    if _ABOUT_CREDENTIALS.search(code):
        todo = "AWS does not take your credentials. Run `aws sso login` or `aws configure`, or set AWS_PROFILE."
    else:
        todo = f"You need the permission {action}, and for secrets kms:Decrypt; or AWS cannot be reached from here."
    return Finding("FIX", f"{what}: {action} failed ({code})", todo)


def _not_secure(what: str, name: str, kind: str) -> Finding:
    todo = (
        "Anybody who may read parameters can see it. Delete it, and put it again with another value:\n"
        f"aws ssm delete-parameter --name {name}\n{_put(name, 'NEW')}"
    )
    return Finding("FIX", f"{what}: a {kind}, not a SecureString", todo)


def _put(name: str, value: str, *, overwrite: bool = False) -> str:
    overwriting = " --overwrite" if overwrite else ""
    return f"aws ssm put-parameter --type SecureString --name {name} --value {value}{overwriting}"


def _words(text: str) -> list[str]:
    """Split the value of a parameter with several secrets."""
    return text.replace(",", " ").split()


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
