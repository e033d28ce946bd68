"""What a cold start loads: the first alert of the night waits for every module, and each is paid for."""

import functools
import json
import os
import subprocess
import sys

from tests.infrastructure.stack import ROOT

FUNCTION = ROOT / "function"
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
# What lines of log with metrics need. Logger imports jmespath_utils; Powertools itself the tracer, without X-Ray's SDK.
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
    """Name the parts of Powertools that are loaded, and each of its utilities."""
    parts = [name.split(".")[1:] for name in added(handler) if name.startswith("aws_lambda_powertools.")]
    return {".".join(part[: 2 if part[0] == "utilities" else 1]) for part in parts} - {"utilities"}


def test_the_api_function_loads_no_package_but_powertools_and_of_it_what_the_log_needs() -> None:
    # What is built into the interpreter costs nothing. Some versions of Python load typing_extensions for Powertools.
    free = OURS | set(sys.builtin_module_names) | {"typing_extensions"}

    assert {name.partition(".")[0] for name in added("app")} - free == {"aws_lambda_powertools"}
    assert powertools("app") == FOR_THE_LOG


def test_the_worker_loads_no_package_but_powertools_and_of_it_what_the_log_and_a_batch_need() -> None:
    # Its events wait in the queue, so the standard library may cost some time: asyncio, for the batch processor.
    free = OURS | sys.stdlib_module_names | {"typing_extensions"}
    # The batch processor is a middleware too.
    for_a_batch = {"middleware_factory", "utilities.batch", "utilities.data_classes"}

    assert {name.partition(".")[0] for name in added("worker")} - free == {"aws_lambda_powertools"}
    assert powertools("worker") == FOR_THE_LOG | for_a_batch


def test_each_handler_leaves_the_other_one_out() -> None:
    assert "worker" not in added("app")
    assert added("worker") & {"app", "webhook"} == set()
