"""What the function needs around it while it is measured: PagerDuty, SSM, SQS, each in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from local.stack import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX

ROOT: Final = Path(__file__).resolve().parent.parent
BASELINES: Final = Path(__file__).with_name("baselines")


@dataclass(frozen=True)
class Surroundings:
    """Where everything is; `environment` is the function's in direct delivery, without `QUEUE_URL`."""

    environment: dict[str, str]
    queue_url: str


class Context:
    """What handlers read of Lambda's context."""

    aws_request_id = "benchmark"

    def get_remaining_time_in_millis(self) -> int:
        """Return as much as Lambda gives at the start."""
        return 9000


@contextlib.contextmanager
def pagerduty(seconds: float = 0.0) -> Iterator[str]:
    """Run a PagerDuty that answers after so many seconds; yield its URL."""
    with _process(str(Path(__file__).with_name("pagerduty.py")), str(seconds)) as first_line:
        yield f"http://127.0.0.1:{first_line}"


@contextlib.contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Run PagerDuty and AWS, with the secrets and a queue in place."""
    with pagerduty() as pagerduty_url, _process("-m", "benchmarks.aws") as line:
        started = json.loads(line)
        yield Surroundings(
            {
                "AWS_ACCESS_KEY_ID": "benchmark",
                "AWS_SECRET_ACCESS_KEY": "benchmark",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": started["url"],
                "PAGERDUTY_URL": pagerduty_url,
                "PARAMETER_PREFIX": PREFIX,
                "POWERTOOLS_SERVICE_NAME": "rudderstack-pagerduty",
            },
            started["queue_url"],
        )


def request(**properties: Any) -> dict[str, Any]:
    """Build API Gateway's event of RudderStack's alert sample, with the timestamps that RudderStack adds."""
    gateway_event: dict[str, Any] = json.loads((ROOT / "events" / "alert-1-trigger.json").read_text())
    event = json.loads(gateway_event["body"])
    event |= dict.fromkeys(("originalTimestamp", "timestamp", "sentAt", "receivedAt"), "2126-01-01T12:00:00.000Z")
    event["properties"] |= properties
    gateway_event["body"] = json.dumps(event)
    gateway_event["headers"]["authorization"] = f"Bearer {LOCAL_TOKEN}"
    return gateway_event


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[str]:
    """Run a Python process until the block ends; yield its first line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(  # noqa: S603 -- our own program
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


SECRETS: Final = {f"{PREFIX}/webhook-token": LOCAL_TOKEN, f"{PREFIX}/routing-keys/default": LOCAL_ROUTING_KEY}
