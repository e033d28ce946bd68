"""The local stack: SAM's API Gateway, the functions under the runtime emulator, moto's AWS, the PagerDuty sandbox."""

import contextlib
import dataclasses
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from local import gateway
from local.aws import Aws
from local.event_source import EventSource
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX, ROOT, STATE, Delivery, Options
from local.runtime import Function, Runtime
from local.sandbox import Received, Sandbox, ca_file

if TYPE_CHECKING:
    from flask import Request, Response

# What can be chosen is imported from here as well: it is part of what a stack is.
__all__ = [
    "LOCAL_ROUTING_KEY",
    "LOCAL_TOKEN",
    "PREFIX",
    "ROOT",
    "STATE",
    "TEMPLATE",
    "Delivery",
    "LocalStack",
    "Options",
]

TEMPLATE: Final = ROOT / "template.yaml"
# Each worker is a process. On AWS there are up to QueueConcurrency of them, here no more than this machine bears.
MOST_WORKERS: Final = max(2, os.cpu_count() or 2)


class LocalStack:
    """Everything together, as a context manager: on leaving, no process and no port is left behind.

    `on_request` is told every request to the API, `on_answer` every answer, `on_received` every call to the sandbox,
    `on_log` every line of log.
    """

    def __init__(  # noqa: PLR0913 -- the ways to look at it
        self,
        options: Options | None = None,
        *,
        on_request: "Callable[[Request], None] | None" = None,
        on_answer: "Callable[[Request, Response], None] | None" = None,
        on_received: Callable[[Received], None] | None = None,
        on_log: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.options = options or Options()
        self.url = ""
        self.aws = Aws(speed=self.options.speed)
        self.runtime: Runtime
        self.worker: Runtime
        self.event_source: EventSource
        self.sandbox: Sandbox | None = None
        self.workers = 0  # at once, at most
        self.queue_concurrency = 0  # of the template
        self.queue_url = ""
        self.dead_letter_queue_url = ""
        self._on_request = on_request
        self._on_answer = on_answer
        self._on_received = on_received
        self._on_log = on_log
        self._extra_environment = environment or {}
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:
            self._start(starting)
            self._exit = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def count_messages(self, queue_url: str) -> int:
        """Count the messages in a queue, those that the worker has in its hands included."""
        answer = self.aws.client("sqs").get_queue_attributes(
            QueueUrl=queue_url,
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return sum(int(number) for number in answer["Attributes"].values())

    def _start(self, starting: contextlib.ExitStack) -> None:
        # werkzeug announces and logs; what is worth showing, the stack shows itself.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        os.environ["SAM_CLI_TELEMETRY"] = "0"
        options = self.options

        stacks, functions = gateway.load(TEMPLATE, {"DeliveryMode": options.delivery})
        api = gateway.Gateway(
            stacks,
            lambda _, event: self.runtime.invoke(event),
            options.port,
            on_request=self._on_request,
            on_answer=self._on_answer,
        )
        starting.callback(api.close)
        self.url = api.url

        starting.enter_context(self.aws)
        self._put_parameters(starting)

        pagerduty_url = options.pagerduty_url
        if pagerduty_url is None:
            sandbox = Sandbox(rate_limit=options.rate_limit, on_received=self._on_received)
            self.sandbox = starting.enter_context(sandbox)
            pagerduty_url = self.sandbox.url

        self._create_queues(stacks[0].resources)
        environment = {
            "AWS_ENDPOINT_URL": self.aws.url,
            "PAGERDUTY_URL": pagerduty_url,
            "QUEUE_URL": self.queue_url,
            "DEAD_LETTER_QUEUE_URL": self.dead_letter_queue_url,
        }
        if self.sandbox:
            environment["SSL_CERT_FILE"] = str(ca_file())
        self.worker = self._run(starting, functions["WorkerFunction"], environment)
        events = stacks[0].resources["WorkerFunction"]["Properties"]["Events"]["Messages"]["Properties"]
        self.queue_concurrency = events["ScalingConfig"]["MaximumConcurrency"]
        self.workers = min(self.queue_concurrency, MOST_WORKERS)
        self.event_source = starting.enter_context(
            EventSource(
                self.aws.client("sqs"),
                self.queue_url,
                self.worker.invoke,
                batch_size=events["BatchSize"],
                max_concurrency=self.workers,
                retry_seconds=None if options.speed == 1 else self._visibility_timeout,
            )
        )
        self.runtime = self._run(starting, functions["ApiFunction"], environment)
        api.start()

    def _run(self, starting: contextlib.ExitStack, function: Function, environment: Mapping[str, str]) -> Runtime:
        changed = {**function.environment, **environment, **self._extra_environment}
        runtime = Runtime(dataclasses.replace(function, environment=changed), on_log=self._on_log)
        starting.callback(runtime.close)
        return runtime

    def _put_parameters(self, starting: contextlib.ExitStack) -> None:
        """Put the secrets into SSM; take them out in the end, since moto keeps them for all stacks of this process."""
        ssm = self.aws.client("ssm")
        services = dict(self.options.services)
        if self.options.pagerduty_url is None:
            services.setdefault("default", LOCAL_ROUTING_KEY)
        parameters = {f"{PREFIX}/webhook-token": self.options.token}
        parameters |= {f"{PREFIX}/routing-keys/{name}": key for name, key in services.items()}
        for name, value in parameters.items():
            ssm.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
            starting.callback(ssm.delete_parameter, Name=name)

    def _create_queues(self, resources: Mapping[str, Any]) -> None:
        """Create both queues with the properties of the template, under names of this stack alone."""
        sqs = self.aws.client("sqs")
        name = f"local-{uuid.uuid4()}"
        dead = _queue_attributes(resources["DeadLetterQueue"]["Properties"])
        self.dead_letter_queue_url = sqs.create_queue(QueueName=f"{name}-dead.fifo", Attributes=dead)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self.dead_letter_queue_url, AttributeNames=["QueueArn"])
        attributes = _queue_attributes(resources["Queue"]["Properties"])
        policy = {
            **resources["Queue"]["Properties"]["RedrivePolicy"],
            "deadLetterTargetArn": arn["Attributes"]["QueueArn"],
        }
        attributes["RedrivePolicy"] = json.dumps(policy)
        self.queue_url = sqs.create_queue(QueueName=f"{name}.fifo", Attributes=attributes)["QueueUrl"]
        self._visibility_timeout = int(attributes["VisibilityTimeout"])


def _queue_attributes(properties: Mapping[str, Any]) -> dict[Any, str]:
    """Write a queue's properties as SQS's attributes, which have the same names."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in properties.items()
        if isinstance(value, bool | int | str)
    }
