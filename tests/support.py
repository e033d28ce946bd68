"""What the tests share besides fixtures: the function wired to real servers, and the events that they send."""

import functools
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import app
import worker
from dependencies import Dependencies
from local.aws_server import Aws
from local.options import ROOT
from local.sandbox import Sandbox

TOKEN = "a-secret-of-the-tests"
ROUTING_KEY = "0123456789abcdef0123456789ABCDEF"


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class LambdaContext:
    """What the handler reads of Lambda's context."""

    aws_request_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self, milliseconds: int = 9000) -> None:
        self._milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds


@dataclass
class Answer:
    """The handler's answer, its body parsed."""

    status: int
    content: dict[str, Any]
    raw: str


@dataclass
class Endpoint:
    """Both functions, wired to the local AWS and to the sandbox, called as API Gateway and SQS do."""

    aws: Aws
    ssm: Any
    prefix: str
    sandbox: Sandbox
    deps: Dependencies
    headers: dict[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {TOKEN}"})

    def put(self, name: str, value: str) -> None:
        self.ssm.put_parameter(Name=f"{self.prefix}/{name}", Value=value, Type="SecureString", Overwrite=True)

    def delete(self, name: str) -> None:
        self.ssm.delete_parameter(Name=f"{self.prefix}/{name}")

    def post(self, content: object, path: str = "/events", milliseconds: int = 9000, **changes: Any) -> Answer:
        """Call the API function with the content as body: JSON, unless it is a string already."""
        parts = path.split("/")
        is_named = len(parts) > 2 and parts[1] == "events"
        event = {
            "version": "2.0",
            "routeKey": "POST /events/{service}" if is_named else f"POST {path}",
            "rawPath": path,
            "rawQueryString": "",
            "headers": self.headers,
            "body": content if isinstance(content, str) else json.dumps(content),
            "isBase64Encoded": False,
            **({"pathParameters": {"service": parts[2]}} if is_named else {}),
            **changes,
        }
        response = app.handle(event, LambdaContext(milliseconds), self.deps)  # type: ignore[arg-type]  # the part it reads
        return Answer(response["statusCode"], json.loads(response["body"]), response["body"])

    def received(self, url: str) -> list[dict[str, Any]]:
        """Take what is in a queue out of it: messages as Lambda hands them to a function, group by group in order."""
        sqs = self.aws.client("sqs")
        found = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], MessageAttributeNames=["All"]
        )
        return [
            {
                "messageId": each["MessageId"],
                "receiptHandle": each["ReceiptHandle"],
                "body": each["Body"],
                "attributes": each["Attributes"],
                "messageAttributes": {
                    name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
                    for name, value in each.get("MessageAttributes", {}).items()
                },
                "md5OfBody": each["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:queue.fifo",
                "awsRegion": "us-east-1",
            }
            for each in found.get("Messages", [])
        ]

    def work(self, records: list[dict[str, Any]] | None = None, milliseconds: int = 90_000) -> list[int]:
        """Call the worker with what is in the queue; return the positions of the messages that have to stay there."""
        records = self.received(self.deps.settings.queue_url) if records is None else records
        positions = {record["messageId"]: position for position, record in enumerate(records)}
        answer = worker.handle({"Records": records}, LambdaContext(milliseconds), self.deps)  # type: ignore[arg-type]  # the part it reads
        return sorted(positions[str(failure["itemIdentifier"])] for failure in answer["batchItemFailures"])

    def dead_letters(self) -> list[tuple[str, str, str]]:
        """Take body, code and reason of what is in the dead-letter queue."""
        return [
            (
                record["body"],
                record["messageAttributes"]["code"]["stringValue"],
                record["messageAttributes"]["reason"]["stringValue"],
            )
            for record in self.received(self.deps.settings.dead_letter_queue_url)
        ]


def track(**changes: Any) -> dict[str, Any]:
    """Build the smallest track call that opens an incident."""
    properties = {"source": "db-1", "dedupKey": "disk-full", **changes.pop("properties", {})}
    return {"type": "track", "event": "Disk is full", "messageId": "m-1", "properties": properties, **changes}


def soon(seconds: float = 5.0) -> float:
    """Give a deadline that is not in question."""
    return time.monotonic() + seconds


def no_pause(_: float) -> None:
    """Do not wait between two quick retries."""


def wait_until(happened: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that happens elsewhere; an AssertionError when it has not happened by then."""
    give_up = time.monotonic() + seconds
    patience = threading.Event()
    while not happened() and time.monotonic() < give_up:
        patience.wait(0.005)
    assert happened()


@functools.cache
def node_is_usable() -> bool:
    """Tell whether there are npm and a Node that RudderStack's SDK runs on, 16.13 or newer."""
    if not (shutil.which("node") and shutil.which("npm")):
        return False
    done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)  # noqa: S607 -- any node
    version = re.match(r"v(\d+)\.(\d+)", done.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= (16, 13)


def install_npm_packages(folder: Path) -> Path:
    """Install what the folder's lock says, once for each lock: below .local, where the next run finds it."""
    lock = (folder / "package-lock.json").read_bytes()
    home = ROOT / ".local" / "node" / hashlib.sha256(lock).hexdigest()[:16]
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place, then moved there: a run that is cut short, or a second one meanwhile, spoils nothing.
        with tempfile.TemporaryDirectory(dir=home.parent, ignore_cleanup_errors=True) as building:
            new = shutil.copytree(folder, Path(building, "new"), ignore=shutil.ignore_patterns("node_modules"))
            command = ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(  # noqa: S603 -- npm, and the lock is ours
                command, cwd=new, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
            with suppress(OSError):  # The other run was first.
                new.rename(home)
    return home / "node_modules"
