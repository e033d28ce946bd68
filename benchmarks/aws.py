"""SSM and SQS with the secrets and the queues in place, as a process: prints where they are, serves until killed."""

import json
import threading

from benchmarks.surroundings import SECRETS
from local.aws import Aws


def main() -> None:
    """Start, print one line of JSON, and wait."""
    with Aws() as aws:
        for name, value in SECRETS.items():
            aws.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
        where = {"url": aws.url}
        for name in ("queue", "dead_letter_queue"):
            queue = aws.client("sqs").create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})
            where[f"{name}_url"] = queue["QueueUrl"]
        print(json.dumps(where), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
