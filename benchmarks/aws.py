"""SSM and SQS with the secrets and a queue in place, as a process: prints where they are, serves until killed."""

import json
import threading

from benchmarks.surroundings import SECRETS
from local.aws import Aws


def main() -> None:
    """Start, print one line of JSON, and wait."""
    with Aws() as aws:
        for name, value in SECRETS.items():
            aws.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
        queue = aws.client("sqs").create_queue(QueueName="benchmark.fifo", Attributes={"FifoQueue": "true"})
        print(json.dumps({"url": aws.url, "queue_url": queue["QueueUrl"]}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
