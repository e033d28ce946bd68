"""The packages that are measured, and their environment: PagerDuty and AWS, in a process of their own."""

import compileall
import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any, Final

import boto3
import botocore

from local.aws_server import Aws
from local.command import deaf_to_ctrl_c
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX, ROOT
from local.resources import create_flow_table, create_queues
from local.sandbox import Sandbox, ca_file

BASELINES: Final = Path(__file__).with_name("baselines")
PARAMETERS: Final = {f"{PREFIX}/webhook-token": LOCAL_TOKEN, f"{PREFIX}/routing-keys/default": LOCAL_ROUTING_KEY}
# Mozilla's list, as on any system: every cold start reads it.
_CERTIFICATES: Final = Path(botocore.__file__).with_name("cacert.pem")


@dataclass(frozen=True)
class Packages:
    """The directories that Lambda would find at /var/task."""

    ours: Path
    baselines: Path


@contextlib.contextmanager
def built_packages() -> Iterator[Packages]:
    """Build both, the function with `sam build`, and remove them when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(  # noqa: S603 -- SAM, from the virtual environment
            [Path(sys.executable).with_name("sam"), "build", "ApiFunction", "--build-dir", folder],
            cwd=ROOT,
            env=os.environ | {"BYTECODE_PYTHON": sys.executable},
            check=False,
            capture_output=True,
            text=True,
        )
        if finished.returncode != 0:
            raise RuntimeError(finished.stderr)
        baselines = Path(folder) / "baselines"
        shutil.copytree(BASELINES, baselines, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(baselines, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        yield Packages(Path(folder) / "ApiFunction", baselines)


@dataclass(frozen=True)
class Environment:
    """The function's environment variables without FLOW_TABLE, and boto3's arguments for the local AWS."""

    shared: dict[str, str]
    access: dict[str, Any]

    def variables(self) -> dict[str, str]:
        """Return all variables, with a new table: the lease of an earlier figure would send events to the queue."""
        dynamodb = boto3.client("dynamodb", **self.access)
        return {**self.shared, "FLOW_TABLE": create_flow_table(dynamodb, str(uuid.uuid4()))}


@contextlib.contextmanager
def running_environment() -> Iterator[Environment]:
    """Run PagerDuty and AWS until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    with deaf_to_ctrl_c():
        process.start()
    theirs.close()
    try:
        with tempfile.NamedTemporaryFile("w") as certificates:
            authority, access, variables = ours.recv()
            certificates.write(_CERTIFICATES.read_text(encoding="utf-8") + authority)
            certificates.flush()
            yield Environment({**variables, "SSL_CERT_FILE": certificates.name}, access)
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection) -> None:
    """Run the servers until the other end of the connection is closed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with Aws() as aws, Sandbox() as pagerduty:
        for name, value in PARAMETERS.items():
            aws.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString")
        queue_url, dead_letter_queue_url = create_queues(aws.client("sqs"), "benchmark")
        variables = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": aws.url,
            # High enough for flow control to admit every event.
            "CALLS_PER_MINUTE": "100000000",
            "DEAD_LETTER_QUEUE_URL": dead_letter_queue_url,
            "PAGERDUTY_URL": pagerduty.url,
            "PARAMETER_PREFIX": PREFIX,
            "POWERTOOLS_SERVICE_NAME": "rudderstack-pagerduty",
            "QUEUE_URL": queue_url,
        }
        connection.send((ca_file().read_text(), aws.access, variables))
        with contextlib.suppress(EOFError):
            connection.recv()


def request(**properties: Any) -> dict[str, Any]:
    """Return API Gateway's event for RudderStack's alert sample, with the timestamps that RudderStack adds."""
    gateway_event: dict[str, Any] = json.loads((ROOT / "events" / "alert-1-trigger.json").read_text())
    event = json.loads(gateway_event["body"])
    sent_at, received_at = (datetime.now(UTC) - timedelta(seconds=seconds) for seconds in (1, 0.5))
    event |= dict.fromkeys(("originalTimestamp", "timestamp", "sentAt"), sent_at.isoformat(timespec="milliseconds"))
    event |= {"receivedAt": received_at.isoformat(timespec="milliseconds")}
    event["properties"] |= properties
    gateway_event["body"] = json.dumps(event)
    gateway_event["headers"]["authorization"] = f"Bearer {LOCAL_TOKEN}"
    return gateway_event
