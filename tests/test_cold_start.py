"""What a cold start loads: every module of it is waited for by the first alert of the night, and paid for."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FUNCTION = Path(__file__).parents[1] / "function"
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


@functools.cache
def added(handler: str) -> frozenset[str]:
    finished = subprocess.run(  # noqa: S603 -- our own function
        [sys.executable, "-c", ADDED, handler],
        cwd=FUNCTION,
        env={"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": "us-east-1", "QUEUE_URL": "https://sqs/queue.fifo"},
        check=True,
        capture_output=True,
        text=True,
    )
    return frozenset(json.loads(finished.stdout))


@pytest.mark.parametrize("module", TOO_LARGE)
def test_the_cold_start_of_the_api_does_not_load(module: str) -> None:
    assert {name for name in added("app") if name == module or name.startswith(f"{module}.")} == set()


@pytest.mark.parametrize("module", sorted(set(TOO_LARGE) - NEEDED_BY_THE_WORKER))
def test_the_cold_start_of_the_worker_does_not_load(module: str) -> None:
    assert {name for name in added("worker") if name == module or name.startswith(f"{module}.")} == set()


def test_the_api_loads_no_package_but_powertools() -> None:
    packages = {name.partition(".")[0] for name in added("app")} - OURS

    # Of boto3 only what Powertools' parameters bring; the codec is urllib3's, for the names of hosts. Some of the SDK's
    # own packages bring typing_extensions as well, so that it is not always Powertools that adds it.
    of_the_libraries = {"encodings", "stringprep", "unicodedata", "typing_extensions"}
    assert packages - of_the_libraries == {"aws_lambda_powertools", "boto3"}


def test_the_api_loads_only_the_utility_of_powertools_that_it_uses() -> None:
    prefix = "aws_lambda_powertools.utilities."
    utilities = {name.removeprefix(prefix).partition(".")[0] for name in added("app") if name.startswith(prefix)}

    # jmespath_utils is imported by the parameters.
    assert utilities == {"parameters", "jmespath_utils"}


def test_each_handler_leaves_the_other_one_out() -> None:
    assert ("worker" in added("app"), "app" in added("worker"), "webhook" in added("worker")) == (False, False, False)
