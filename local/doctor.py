"""`python -m local doctor`: check a stack from the outside and say what to fix.

Nobody is paged, unless a test alert is asked for.
"""

import itertools
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Literal

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from local.options import DOCTOR, LOCAL, LOCAL_STACK_FILE, MIN_TOKEN_LENGTH, RATE_LIMIT
from local.pagerduty_rules import ROUTING_KEY
from local.terminal import Colour, counted, painted, printable

# Share of all events above which urgent events compete with each other more than with the rest.
MAX_URGENT_SHARE: Final = 0.5

# A change event: it would page nobody even if a server that ignores `preview` sent it.
SAMPLE: Final = {
    "type": "track",
    "event": "A preview by make doctor",
    "integrations": {"pagerduty": {"type": "changeEvent"}},
    "properties": {"source": "make doctor"},
}
# Seconds: a cold start on a slow machine takes a few.
_TIMEOUT: Final = 30.0
# Characters of an answer that are shown.
_QUOTED: Final = 300
_CLIENT_CONFIG: Final = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3})
AWS_ERRORS: Final = (ClientError, BotoCoreError)
_OUTPUTS: Final = ("EventsUrl", "WebhookTokenParameter", "RoutingKeyParameter")

Level = Literal["ok", "warn", "FIX"]
_COLOURS: Final[Mapping[Level, Colour]] = {"ok": "green", "warn": "yellow", "FIX": "red"}

# What to do.
_ADVICE: Final = {
    "no stack": "Deploy it (README, Deploy), or name yours: STACK=... Check the region and the account.",
    "not running": "Start it in another terminal: make serve",
    "outputs": "The deployment did not finish, the template is older, or this is another stack.",
    "failed": "Check your credentials and region (aws sso login, AWS_PROFILE, AWS_DEFAULT_REGION), and that you may\n"
    "call {}; secrets need kms:Decrypt as well.",
    "not secure": "Anyone who may read parameters can read it. Delete it, and put a new value:\n"
    "aws ssm delete-parameter --name {}",
    "routing key": "It has 32 letters and digits, and is the integration key of an Events API V2 integration.\n"
    "Separate several keys by spaces or commas.",
    "same key": "PagerDuty grants CallsPerMinute once for a key. Give each service an integration key of its own.",
    "no default": "Until it exists, events for the plain URL are answered 503, and given up after about three hours.",
    "other token": "The function has other tokens: wait for five minutes, or correct the stack's ParameterPrefix.",
    "other server": "The server at this URL is not this function: check the URL.",
    "no answer": "Check whether this machine reaches it, and whether the stack still exists.",
    "urgent": "The first critical trigger of an incident is urgent: it does not wait in a storm. If nearly everything\n"
    "is critical, nothing goes first. Send severity error, warning or info with events that can wait, or set\n"
    "DefaultSeverity=error: events without a known severity page as well, but can wait.",
    "test alert": "In PagerDuty, look for the alert with the dedup key {}.",
    "queued": "\nIt waits behind earlier events; if it does not arrive, the worker's log has the reason.",
}


@dataclass(frozen=True)
class Finding:
    """The result of one check, and what to do about it, if anything."""

    level: Level
    what: str
    advice: str = ""


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
    levels = []
    for finding in itertools.chain([found], Examination(stack).run(test_page=test_page) if stack else ()):
        levels.append(finding.level)
        advice = [f"      {line}" for line in finding.advice.splitlines()]
        heading = f"{painted(finding.level, _COLOURS[finding.level])}{'':{6 - len(finding.level)}}{finding.what}"
        print("\n".join([heading, *advice]), flush=True)
    problems, warnings = levels.count("FIX"), counted(levels.count("warn"), "warning")
    verdict = f"{counted(problems, 'problem')} to fix" if problems else "Nothing to fix"
    print(f"\n{verdict}, {warnings}.{'' if test_page else ' Nobody was paged.'}")
    return 1 if problems else 0


def find(name: str, required: Sequence[str] = _OUTPUTS) -> tuple[Stack | None, Finding]:
    """Return the stack, or None if it or a required output cannot be found, and a finding about it."""
    if name == LOCAL:
        return _find_local()
    try:
        found = boto3.client("cloudformation", config=_CLIENT_CONFIG).describe_stacks(StackName=name)["Stacks"][0]
    except AWS_ERRORS as error:
        if "does not exist" in str(error):
            return None, Finding("FIX", f"stack {name}: not found", _ADVICE["no stack"])
        return None, failed(f"stack {name}", error)
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])}
    if missing := [output for output in required if output not in outputs]:
        return None, Finding("FIX", f"stack {name}: no output {', '.join(missing)}", _ADVICE["outputs"])
    return Stack(outputs, {}, parameters, name), Finding("ok", f"stack {name}: found")


def _find_local() -> tuple[Stack | None, Finding]:
    try:
        content = json.loads(LOCAL_STACK_FILE.read_text(encoding="utf-8"))
        # The file remains if `make serve` was killed.
        urllib3.request("GET", content["aws"]["endpoint_url"], timeout=_TIMEOUT, retries=False)
    except (OSError, HTTPError):
        return None, Finding("FIX", "the local stack: not running", _ADVICE["not running"])
    return Stack(content["outputs"], content["aws"]), Finding("ok", "the local stack: running")


class Examination:
    """The checks of a stack; a check that fails does not prevent the others."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._tokens: list[str] = []  # those that the function accepts, once they have been read

    def run(self, *, test_page: bool = False) -> Iterator[Finding]:
        """Yield the findings of every check."""
        outputs = self._stack.outputs
        checks: list[tuple[Level, str, Callable[[], Iterator[Finding]]]] = [
            ("FIX", f"parameter {outputs['WebhookTokenParameter']}", self._check_tokens),
            ("FIX", "parameters of routing keys", self._check_routing_keys),
            ("FIX", outputs["EventsUrl"], self._check_endpoint),
            ("warn", "urgent events", self._check_urgency),
        ]
        if test_page:
            checks.append(("FIX", "test alert", self._send_test_alert))
        for level, what, check in checks:
            try:
                yield from check()
            except AWS_ERRORS as error:
                yield failed(what, error, level)

    def _check_tokens(self) -> Iterator[Finding]:
        name = self._stack.outputs["WebhookTokenParameter"]
        ssm = self._stack.client("ssm")
        try:
            parameter = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        except ssm.exceptions.ParameterNotFound:
            yield Finding("FIX", f"parameter {name}: not found", _put(name, '"$(openssl rand -hex 24)"'))
            return
        # The function logs an error about shorter ones.
        self._tokens = [word for word in _words(parameter["Value"]) if len(word) >= MIN_TOKEN_LENGTH]
        level: Level = "ok" if self._tokens else "FIX"
        usable = Finding(level, f"parameter {name}: {counted(len(self._tokens), 'usable token')}")
        yield _not_secure(parameter) if parameter["Type"] != "SecureString" else usable

    def _check_routing_keys(self) -> Iterator[Finding]:
        prefix = self._stack.outputs["RoutingKeyParameter"].rpartition("/")[0]
        pages = self._stack.client("ssm").get_paginator("get_parameters_by_path")
        found = {
            each["Name"].removeprefix(f"{prefix}/"): each
            for page in pages.paginate(Path=prefix, Recursive=True, WithDecryption=True)
            for each in page.get("Parameters", [])
        }
        yield from map(_judge_routing_key, found.values())
        keys = {service: set(_words(parameter["Value"])) for service, parameter in found.items()}
        for one, other in itertools.combinations(sorted(keys), 2):
            if keys[one] & keys[other]:
                yield Finding(
                    "warn", f"PagerDuty services {one} and {other}: the same routing key", _ADVICE["same key"]
                )
        if "default" not in found:
            name = f"{prefix}/default"
            advice = f"{_ADVICE['no default']} {_put(name, 'INTEGRATION_KEY')}"
            yield Finding("warn" if found else "FIX", f"parameter {name}: not found", advice)

    def _check_endpoint(self) -> Iterator[Finding]:
        """Ask for previews, which need a token, send nothing, and raise no alarm."""
        url = self._stack.outputs["EventsUrl"]
        for number, token in enumerate([*self._tokens, secrets.token_hex(24)], 1):
            is_right = number <= len(self._tokens)
            what = f"{url}: token {number}" if is_right else f"{url}: a wrong token"
            status, answer = self._post(f"{url}?preview=true", SAMPLE, token)
            is_accepted = status == HTTPStatus.OK and (answer.get("status") == "preview" or not is_right)
            if not is_accepted and status != HTTPStatus.UNAUTHORIZED:
                yield _unexpected(what, status, answer)
            else:
                found = f"{what} is {'' if is_accepted else 'not '}accepted"
                advice = _ADVICE["other token" if is_right else "other server"]
                yield Finding("ok", found) if is_accepted == is_right else Finding("FIX", found, advice)

    def _check_urgency(self) -> Iterator[Finding]:
        """Compare the last day's urgent events with all; the local stack has no figures.

        Fewer urgent events in a day than PagerDuty accepts in a minute cause no warning.
        """
        if self._stack.name and (received := self._sum_metric("Received")):
            urgent, limit = self._sum_metric("Urgent"), int(self._stack.parameters.get("CallsPerMinute", RATE_LIMIT))
            what = f"urgent events: {urgent} of {received} in the last day ({urgent / received:.0%})"
            is_fine = urgent <= max(limit, received * MAX_URGENT_SHARE)
            yield Finding("ok", what) if is_fine else Finding("warn", what, _ADVICE["urgent"])

    def _sum_metric(self, metric: str) -> int:
        """Return the sum of a metric over the last day."""
        now = datetime.now(UTC)
        points = self._stack.client("cloudwatch").get_metric_statistics(
            Namespace="RudderStackPagerDuty",  # as in function/telemetry.py
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
        key = f"make-doctor-{secrets.token_hex(8)}"
        look = _ADVICE["test alert"].format(key)
        for action in ("trigger", "resolve") if self._tokens else ():
            properties = {"source": "make doctor", "severity": "info", "action": action, "dedupKey": key}
            event = {"type": "track", "event": "A test by make doctor", "messageId": f"{key}-{action}"}
            url = self._stack.outputs["EventsUrl"]
            status, answer = self._post(url, event | {"properties": properties}, self._tokens[0])
            what = f"test alert, {action}"
            if (status, answer.get("status")) == (HTTPStatus.OK, "delivered"):
                yield Finding("ok", f"{what}: PagerDuty accepted it", look)
            elif (status, answer.get("status")) == (HTTPStatus.OK, "queued"):
                yield Finding("warn", f"{what}: queued", look + _ADVICE["queued"])
            else:
                yield _unexpected(what, status, answer)
                return

    def _post(self, url: str, event: object, token: str) -> tuple[int, dict[str, str]]:
        """Send an event; return the status (0: no answer) and the answer's fields, without tokens and shortened."""
        # In UTF-8, as the function compares them; HTTP's text is Latin-1.
        headers = {"Authorization": f"Bearer {token}".encode().decode("latin-1"), "User-Agent": DOCTOR}
        try:
            response = urllib3.request("POST", url, json=event, headers=headers, timeout=_TIMEOUT, retries=False)
        except HTTPError as error:
            return 0, {"code": type(error).__name__}
        try:
            answer = response.json()
        except (RecursionError, ValueError):
            answer = {}
        fields = answer.items() if isinstance(answer, dict) else ()
        return response.status, {name: printable(self._redact(str(value)))[:_QUOTED] for name, value in fields}

    def _redact(self, text: str) -> str:
        for token in self._tokens:
            text = text.replace(token, "[token]")
        return text


def _judge_routing_key(parameter: Mapping[str, Any]) -> Finding:
    name = parameter["Name"]
    if parameter["Type"] != "SecureString":
        return _not_secure(parameter)
    keys = _words(parameter["Value"])
    if not keys or not all(re.fullmatch(ROUTING_KEY, key) for key in keys):
        advice = f"{_ADVICE['routing key']}\n{_put(name, 'INTEGRATION_KEY', overwrite=True)}"
        return Finding("FIX", f"parameter {name}: contains something other than routing keys", advice)
    return Finding("ok", f"parameter {name}: has the form of {counted(len(keys), 'routing key')}")


def failed(what: str, error: ClientError | BotoCoreError, level: Level = "FIX") -> Finding:
    """Return a finding about a failed call to AWS, without the error's text, which could hold anything."""
    name, action = type(error).__name__, "AWS"
    if isinstance(error, ClientError):
        name, action = error.response["Error"]["Code"], error.operation_name.removesuffix("Batch")
    return Finding(level, f"{what}: {action} failed ({name})", _ADVICE["failed"].format(action))


def _unexpected(what: str, status: int, answer: Mapping[str, str]) -> Finding:
    code = answer.get("code", "")
    if not status:
        return Finding("FIX", f"{what}: no answer ({code})", _ADVICE["no answer"])
    message = answer.get("message", "The answer is not this function's.")
    advice = f"{message}\ndocs/answers.md: {code}" if code else message
    return Finding("FIX", f"{what}: answered {status} {code}".rstrip(), advice)


def _not_secure(parameter: Mapping[str, Any]) -> Finding:
    name, kind = parameter["Name"], parameter["Type"]
    advice = f"{_ADVICE['not secure'].format(name)}\n{_put(name, 'NEW')}"
    return Finding("FIX", f"parameter {name}: a {kind}, not a SecureString", advice)


def _put(name: str, value: str, *, overwrite: bool = False) -> str:
    overwriting = " --overwrite" if overwrite else ""
    return f"aws ssm put-parameter --type SecureString --name {name} --value {value}{overwriting}"


def _words(text: str) -> list[str]:
    """Split the value of a parameter with several secrets."""
    return text.replace(",", " ").split()
