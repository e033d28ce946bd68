"""Helpers of the tests: both functions connected to local servers, sample events, and waiting."""

import functools
import hashlib
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import app
import worker
from chaos.faults import Failure
from dependencies import Dependencies
from local.aws_server import Aws
from local.event_source import record
from local.options import ROOT
from local.sandbox import Sandbox

if TYPE_CHECKING:
    from local.stack import LocalStack

TOKEN = "the-token-of-the-tests"
QUEUE_ARN = "arn:aws:sqs:us-east-1:123456789012:queue.fifo"
ROUTING_KEY = "0123456789abcdef0123456789ABCDEF"


class Clock:
    """A clock that a test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class LambdaContext:
    """The part of Lambda's context that the functions read."""

    milliseconds: int = 9000
    aws_request_id: str = "11111111-2222-3333-4444-555555555555"

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


class Answer(NamedTuple):
    """The API function's response, its body parsed."""

    status: int
    content: dict[str, Any]


@dataclass
class Endpoint:
    """Both functions, connected to the local AWS and the sandbox, called as API Gateway and SQS do."""

    aws: Aws
    ssm: Any
    prefix: str
    sandbox: Sandbox
    deps: Dependencies
    headers: dict[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {TOKEN}"})

    def put(self, name: str, value: str) -> None:
        self.ssm.put_parameter(Name=f"{self.prefix}/{name}", Value=value, Type="SecureString", Overwrite=True)

    def post(self, content: object, path: str = "/events", milliseconds: int = 9000, **changes: Any) -> Answer:
        """Call the API function; the content becomes the body, as JSON unless it is a string."""
        is_named = path.startswith("/events/")
        event = {
            "routeKey": "POST /events/{service}" if is_named else f"POST {path}",
            "headers": self.headers,
            "body": content if isinstance(content, str) else json.dumps(content),
            **({"pathParameters": {"service": path.removeprefix("/events/")}} if is_named else {}),
            **changes,
        }
        response = app.handle(event, LambdaContext(milliseconds), self.deps)  # type: ignore[arg-type]  # the part it reads
        return Answer(response["statusCode"], json.loads(response["body"]))

    def received(self, url: str | None = None) -> list[dict[str, Any]]:
        """Receive the messages in a queue, by default the events', as Lambda hands them to a function."""
        url = url or self.deps.settings.queue_url
        found = self.aws.client("sqs").receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], MessageAttributeNames=["All"]
        )
        return [record(message, QUEUE_ARN) for message in found.get("Messages", [])]

    def work(self, records: list[dict[str, Any]] | None = None, milliseconds: int = 90_000) -> list[int]:
        """Call the worker with the messages, or those in the queue; return the positions of those that have to stay."""
        records = self.received() if records is None else records
        ids = [record["messageId"] for record in records]
        answer = worker.handle({"Records": records}, LambdaContext(milliseconds), self.deps)  # type: ignore[arg-type]  # the part it reads
        return sorted(ids.index(str(failure["itemIdentifier"])) for failure in answer["batchItemFailures"])

    def dead_letters(self) -> list[tuple[str, str, str]]:
        """Receive body, code and reason of the messages in the dead-letter queue."""
        letters = self.received(self.deps.settings.dead_letter_queue_url)
        values = [(letter["body"], letter["messageAttributes"]) for letter in letters]
        return [(body, each["code"]["stringValue"], each["reason"]["stringValue"]) for body, each in values]


def down(service: str) -> Callable[[str, object], Failure | None]:
    """Let the calls to an AWS service fail, or those whose target begins like this."""
    return lambda target, _: Failure.answer(503, "ServiceUnavailable") if target.startswith(service) else None


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Return the lines of the log, each parsed."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


def track(**changes: Any) -> dict[str, Any]:
    """Return a minimal track call that opens an incident."""
    properties = {"source": "db-1", "dedupKey": "disk-full", **changes.pop("properties", {})}
    return {"type": "track", "event": "Disk is full", "messageId": "m-1", "properties": properties, **changes}


def soon(seconds: float = 5.0) -> float:
    """Return a deadline that a local call does not reach."""
    return time.monotonic() + seconds


def no_pause(_: float) -> None:
    """Return at once, instead of waiting before a quick retry."""


def wait_until(happened: Callable[[], object], seconds: float = 30) -> None:
    """Wait until the function returns a true value. Raises AssertionError after so many seconds."""
    give_up = time.monotonic() + seconds
    while not happened() and time.monotonic() < give_up:
        time.sleep(0.005)  # Polled, since it may happen in another process.
    assert happened()


@functools.cache
def node_is_usable() -> bool:
    """Return whether there are npm and Node 16.13 or newer, which RudderStack's SDK needs."""
    if not (shutil.which("node") and shutil.which("npm")):
        return False
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S607 -- any node
    return [int(number) for number in version.removeprefix("v").split(".")[:2]] >= [16, 13]


def install_npm_packages(folder: Path) -> Path:
    """Install the packages of the folder's lock file, unless an earlier run has; return their folder."""
    home = ROOT / ".local" / "node" / hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()[:16]
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when complete, since a run may be interrupted, or a second one install the same.
        with tempfile.TemporaryDirectory(dir=home.parent, ignore_cleanup_errors=True) as building:
            shutil.copytree(folder, building, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
            command = ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=building, check=True)  # noqa: S603 -- a fixed command
            with suppress(OSError):  # The other run has finished first.
                Path(building).rename(home)
    return home / "node_modules"


def drain(stack: "LocalStack") -> None:
    """Wait until the queue is empty, and let the next events be posted directly."""
    wait_until(lambda: stack.count_messages(stack.queue_url) == 0)
    stack.reset()
