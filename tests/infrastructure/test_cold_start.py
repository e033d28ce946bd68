"""What a cold start loads: the first alert of the night waits for every module, and each is paid for."""

import functools
import json
import os
import subprocess
import sys

from local.options import ROOT

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
    *("exceptions", "logging", "metrics", "package_logger", "shared", "tracing", "warnings"),
    "utilities.jmespath_utils",
}


@functools.cache
def added(handler: str) -> frozenset[str]:
    queues = {"QUEUE_URL": "https://sqs/queue.fifo", "DEAD_LETTER_QUEUE_URL": "https://sqs/dead-letters.fifo"}
    finished = subprocess.run(  # noqa: S603 -- our own function
        [sys.executable, "-c", ADDED, handler],
        cwd=FUNCTION,
        env={"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": "us-east-1", **queues},
        check=True,
        capture_output=True,
        text=True,
    )
    return frozenset(json.loads(finished.stdout))


def packages(handler: str) -> set[str]:
    # Some versions of Python load typing_extensions for Powertools.
    return {name.partition(".")[0] for name in added(handler)} - OURS - {"typing_extensions"}


def powertools(handler: str) -> set[str]:
    """Return the parts of Powertools that are loaded, and each of its utilities."""
    parts = [name.split(".")[1:] for name in added(handler) if name.startswith("aws_lambda_powertools.")]
    return {".".join(part[: 2 if part[0] == "utilities" else 1]) for part in parts} - {"utilities"}


def test_the_api_function_loads_only_the_part_of_powertools_that_the_log_needs() -> None:
    # What is built into the interpreter costs nothing.
    assert packages("app") - set(sys.builtin_module_names) == {"aws_lambda_powertools"}
    assert powertools("app") == FOR_THE_LOG
    assert "worker" not in added("app")


def test_the_worker_also_loads_the_standard_library_and_the_batch_processor() -> None:
    # Its events wait in the queue, so the standard library may cost some time: asyncio, for the batch processor.
    assert packages("worker") - sys.stdlib_module_names == {"aws_lambda_powertools"}
    # The batch processor is a middleware too.
    assert powertools("worker") == FOR_THE_LOG | {"middleware_factory", "utilities.batch", "utilities.data_classes"}
    assert added("worker") & {"app", "webhook"} == set()
