"""The peak memory of the function's process: `python -m benchmarks.peak EVENTS`, API Gateway's event on standard input.

Imports the function alone, so that nothing else is measured. Answers so many events, each of another incident, and
prints megabytes.
"""

import contextlib
import json
import os
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import app


def main(events: int) -> None:
    """Answer the events, with the log going nowhere."""
    context: Any = SimpleNamespace(aws_request_id="benchmark", get_remaining_time_in_millis=lambda: 9000)
    event = json.load(sys.stdin)
    body = json.loads(event["body"])
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        for n in range(events):
            body["properties"]["dedupKey"] = f"incident-{n}"
            answer = app.lambda_handler({**event, "body": json.dumps(body)}, context)
            if answer["statusCode"] != 200:  # noqa: PLR2004 -- the one that a benchmark is about
                raise RuntimeError(f"answered {answer}")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
