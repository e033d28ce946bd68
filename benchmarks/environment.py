"""What the function needs while it is measured: PagerDuty and AWS, each in a process of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import botocore

from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX
from local.resources import create_flow_table

ROOT: Final = Path(__file__).resolve().parent.parent
# Mozilla's list, as any system has it: reading it is a part of every cold start.
_CERTIFICATES: Final = Path(botocore.__file__).with_name("cacert.pem")


@dataclass(frozen=True)
class Environment:
    """Where everything is, as the function's environment without a table."""

    without_table: dict[str, str]

    def variables(self) -> dict[str, str]:
        """Return an environment with a table of its own: in another one a lease may last from an earlier figure."""
        dynamodb = boto3.client(
            "dynamodb",
            endpoint_url=self.without_table["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="benchmark",
            aws_secret_access_key="benchmark",  # noqa: S106 -- the local AWS takes any
        )
        return {**self.without_table, "FLOW_TABLE": create_flow_table(dynamodb, str(uuid.uuid4()))}


class Context:
    """What handlers read of Lambda's context."""

    aws_request_id = "benchmark"

    def get_remaining_time_in_millis(self) -> int:
        """Return as much as Lambda gives at the start."""
        return 9000


@contextlib.contextmanager
def running_environment() -> Iterator[Environment]:
    """Run PagerDuty and AWS, with the secrets and the queues in place."""
    with contextlib.ExitStack() as running:
        certificates = Path(running.enter_context(tempfile.TemporaryDirectory())) / "certificates.pem"
        shutil.copy(_CERTIFICATES, certificates)
        port = running.enter_context(_process("benchmarks.pagerduty_process", str(certificates)))
        aws = json.loads(running.enter_context(_process("benchmarks.aws_process")))
        yield Environment(
            {
                "AWS_ACCESS_KEY_ID": "benchmark",
                "AWS_SECRET_ACCESS_KEY": "benchmark",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": aws["url"],
                # So many that flow control admits each event.
                "CALLS_PER_MINUTE": "100000000",
                "DEAD_LETTER_QUEUE_URL": aws["dead_letter_queue_url"],
                "PAGERDUTY_URL": f"https://127.0.0.1:{port}",
                "PARAMETER_PREFIX": PREFIX,
                "POWERTOOLS_SERVICE_NAME": "rudderstack-pagerduty",
                "QUEUE_URL": aws["queue_url"],
                "SSL_CERT_FILE": str(certificates),
            }
        )


def request(**properties: Any) -> dict[str, Any]:
    """Build API Gateway's event of RudderStack's alert sample, with the timestamps that RudderStack adds."""
    gateway_event: dict[str, Any] = json.loads((ROOT / "events" / "alert-1-trigger.json").read_text())
    event = json.loads(gateway_event["body"])
    # Half a second on the way.
    sent_at, received_at = (datetime.now(UTC) - timedelta(seconds=seconds) for seconds in (1, 0.5))
    event |= dict.fromkeys(("originalTimestamp", "timestamp", "sentAt"), sent_at.isoformat(timespec="milliseconds"))
    event |= {"receivedAt": received_at.isoformat(timespec="milliseconds")}
    event["properties"] |= properties
    gateway_event["body"] = json.dumps(event)
    gateway_event["headers"]["authorization"] = f"Bearer {LOCAL_TOKEN}"
    return gateway_event


@contextlib.contextmanager
def _process(module: str, *arguments: str) -> Iterator[str]:
    """Run a Python module in a process until the block ends; yield its first line."""
    process = subprocess.Popen(  # noqa: S603 -- our own program
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


SECRETS: Final = {f"{PREFIX}/webhook-token": LOCAL_TOKEN, f"{PREFIX}/routing-keys/default": LOCAL_ROUTING_KEY}
