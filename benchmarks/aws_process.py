"""The local AWS with the secrets and the queues in place, as a process: prints where they are, serves until killed."""

import json
import threading

from benchmarks.environment import SECRETS
from local.aws_server import Aws
from local.resources import create_queues


def main() -> None:
    """Start, print one line of JSON, and wait."""
    with Aws() as aws:
        for name, value in SECRETS.items():
            aws.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
        queue_url, dead_letter_queue_url = create_queues(aws.client("sqs"), "benchmark")
        where = {"url": aws.url, "queue_url": queue_url, "dead_letter_queue_url": dead_letter_queue_url}
        print(json.dumps(where), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
