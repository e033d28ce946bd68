"""What a cold start loads: every module of it is waited for by the first alert of the night, and paid for."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FUNCTION = Path(__file__).parents[2] / "function"
OURS = {path.stem for path in FUNCTION.glob("*.py")}

# Prints what importing the handler adds to the SDK and urllib3, which any handler that does this job needs.
ADDED = """
import json, sys
import boto3, urllib3
for service in ("ssm", "sqs"):
    boto3.client(service)
before = set(sys.modules)
__import__(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# Large, and of no use here. Powertools loads what its name says when it is asked for it, and must not be asked.
TOO_LARGE = (
    "asyncio",
    "aws_lambda_powertools.event_handler",
    "aws_lambda_powertools.utilities.batch",
    "aws_lambda_powertools.utilities.data_classes",
    "aws_lambda_powertools.utilities.idempotency",
    "aws_lambda_powertools.utilities.parser",
    "aws_lambda_powertools.utilities.validation",
    "aws_xray_sdk",
    "fastjsonschema",
    "jsonschema",
    "local",
    "moto",
    "multiprocessing",
    "pydantic",
    "requests",
    "samcli",
    "unittest",
)
# Powertools' batch processor brings these with it. Nobody waits for the worker: its events are in the queue.
NEEDED_BY_THE_WORKER = {
    "asyncio",
    "aws_lambda_powertools.utilities.batch",
    "aws_lambda_powertools.utilities.data_classes",
}
# Both write lines of log with metrics. Logger brings jmespath_utils; Powertools itself the tracer, without X-Ray's SDK.
FOR_THE_LOG = {
    "exceptions",
    "logging",
    "metrics",
    "package_logger",
    "shared",
    "tracing",
    "utilities.jmespath_utils",
    "warnings",
}


@functools.cache
def added(handler: str) -> frozenset[str]:
    finished = subprocess.run(  # noqa: S603 -- our own function
        [sys.executable, "-c", ADDED, handler],
        cwd=FUNCTION,
        env={
            "PATH": os.environ["PATH"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "QUEUE_URL": "https://sqs/queue.fifo",
            "DEAD_LETTER_QUEUE_URL": "https://sqs/dead-letters.fifo",
        },
        check=True,
        capture_output=True,
        text=True,
    )
    return frozenset(json.loads(finished.stdout))


def powertools(handler: str) -> set[str]:
    """Name the parts of Powertools that are loaded, and of its utilities which."""
    parts = [name.split(".")[1:] for name in added(handler) if name.startswith("aws_lambda_powertools.")]
    return {".".join(part[: 2 if part[0] == "utilities" else 1]) for part in parts} - {"utilities"}


@pytest.mark.parametrize("module", TOO_LARGE)
def test_the_cold_start_of_the_api_does_not_load(module: str) -> None:
    assert {name for name in added("app") if name == module or name.startswith(f"{module}.")} == set()


@pytest.mark.parametrize("module", sorted(set(TOO_LARGE) - NEEDED_BY_THE_WORKER))
def test_the_cold_start_of_the_worker_does_not_load(module: str) -> None:
    assert {name for name in added("worker") if name == module or name.startswith(f"{module}.")} == set()


def test_the_api_loads_no_package_but_powertools() -> None:
    # What is built into the interpreter costs nothing.
    packages = {name.partition(".")[0] for name in added("app")} - OURS - set(sys.builtin_module_names)

    # Some versions of Python and some of the SDK's packages bring typing_extensions, so that Powertools may find it.
    assert packages - {"typing_extensions"} == {"aws_lambda_powertools"}


def test_the_api_loads_of_powertools_only_what_the_log_needs() -> None:
    assert powertools("app") == FOR_THE_LOG


def test_the_worker_loads_of_powertools_only_what_the_log_and_a_batch_need() -> None:
    # The batch processor is a middleware too.
    a_batch_needs = {"middleware_factory", "utilities.batch", "utilities.data_classes"}
    assert powertools("worker") == FOR_THE_LOG | a_batch_needs


def test_each_handler_leaves_the_other_one_out() -> None:
    assert ("worker" in added("app"), "app" in added("worker"), "webhook" in added("worker")) == (False, False, False)
