"""The local stack: SAM's API Gateway, the functions under the runtime emulator, moto's AWS, the PagerDuty sandbox."""

import contextlib
import dataclasses
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import ClientError

from local import gateway
from local.aws_server import Aws
from local.event_source import EventSource
from local.observer import Observer
from local.options import MAX_CALLS_PER_MINUTE, PREFIX, Options
from local.resources import TEMPLATE, create_flow_table, create_queues, properties
from local.runtime import Function, Runtime
from local.sandbox import Received, Sandbox, ca_file

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# Each worker is a process. AWS runs up to QueueConcurrency of them; here, no more than there are processors.
_MAX_WORKERS: Final = max(2, os.cpu_count() or 2)


class LocalStack:
    """All parts together, as a context manager; afterwards no process runs and no port is bound.

    `middleware` wraps the API, to serve other paths as well.
    """

    def __init__(
        self,
        options: Options | None = None,
        *observers: Observer,
        middleware: "Callable[[WSGIApplication], WSGIApplication] | None" = None,
    ) -> None:
        self.options = options or Options()
        self.url = ""
        self.aws = Aws(speed=self.options.speed)
        self.runtime: Runtime
        self.worker: Runtime
        self.event_source: EventSource
        self.sandbox: Sandbox | None = None
        self.queue_url = ""
        self.dead_letter_queue_url = ""
        self.flow_table = ""
        self._observers = observers
        self._middleware = middleware
        self._api: gateway.Gateway
        # The runtimes with changed settings that are in use.
        self._changed: set[Runtime] = set()
        # The runtime for a request of `post`; SAM's API calls it in the same thread.
        self._chosen: ContextVar[Runtime | None] = ContextVar("chosen", default=None)
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:
            self._start(starting)
            self._exit = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for runtime in list(self._changed):
            runtime.close()
        self._exit.close()

    def count_messages(self, queue_url: str) -> int:
        """Return the number of messages in a queue, including those that the worker is processing."""
        return len(self.aws.peek(queue_url))

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables of the API function."""
        return {**self._api_function.environment, **self._environment}

    def post(self, path: str, body: bytes, sender: str = "") -> tuple[int, bytes]:
        """Send the API a request with the token and this user agent; return the response's status and body."""
        headers = {"Authorization": f"Bearer {self.options.token}", "Content-Type": "application/json"}
        return self._api.post(path, body, headers | {"User-Agent": sender})

    @contextlib.contextmanager
    def changed_settings(self, settings: Mapping[str, str]) -> Iterator[None]:
        """Let `post` in this block call an API function that has these environment variables too."""
        with contextlib.closing(self._make(self._api_function, {**self._environment, **settings})) as runtime:
            self._changed.add(runtime)
            before = self._chosen.set(runtime)
            try:
                yield
            finally:
                self._chosen.reset(before)
                self._changed.discard(runtime)

    def reset(self) -> None:
        """Forget all messages, leases, budgets, incidents and simulated failures."""
        for url in (self.queue_url, self.dead_letter_queue_url):
            self.aws.purge(url)
        dynamodb = self.aws.client("dynamodb")
        items = dynamodb.scan(TableName=self.flow_table)["Items"]
        for item in items:
            dynamodb.delete_item(TableName=self.flow_table, Key={"service": item["service"]})
        if any("lease" in item for item in items):  # Instances remember it.
            self.runtime.end_idle()
            self.worker.end_idle()
        if self.sandbox:
            self.sandbox.on_call, self.sandbox.known_keys = None, None
            self.sandbox.rate_limit = self.options.rate_limit
            self.sandbox.clear()

    def try_now(self) -> int:
        """Make the delayed messages of the queue visible; return their number."""
        delayed = [message for message in self.aws.peek(self.queue_url) if message.is_delayed]
        sqs = self.aws.client("sqs")
        for message in delayed:
            with contextlib.suppress(ClientError):  # It became visible meanwhile.
                sqs.change_message_visibility(
                    QueueUrl=self.queue_url, ReceiptHandle=message.handle, VisibilityTimeout=0
                )
        return len(delayed)

    def _invoke(self, _: str, event: str) -> str:
        return (self._chosen.get() or self.runtime).invoke(event)

    def _start(self, starting: contextlib.ExitStack) -> None:
        # The stack shows requests itself.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        os.environ["SAM_CLI_TELEMETRY"] = "0"
        calls_per_minute = self.options.rate_limit or MAX_CALLS_PER_MINUTE
        stacks, functions = gateway.load(TEMPLATE, {"CallsPerMinute": str(calls_per_minute)})
        self._api = gateway.Gateway(stacks, self._invoke, self.options.port, self._observers, self._middleware)
        starting.callback(self._api.stop)
        self.url = self._api.url

        starting.enter_context(self.aws)
        self._put_parameters()
        # moto keeps the resources of earlier stacks of this process.
        name = f"local-{uuid.uuid4()}"
        self.queue_url, self.dead_letter_queue_url = create_queues(self.aws.client("sqs"), name)
        self.flow_table = create_flow_table(self.aws.client("dynamodb"), name)
        self._environment = {
            "AWS_ENDPOINT_URL": self.aws.url,
            "QUEUE_URL": self.queue_url,
            "DEAD_LETTER_QUEUE_URL": self.dead_letter_queue_url,
            "FLOW_TABLE": self.flow_table,
            **self._start_pagerduty(starting),
            **self.options.settings,
        }
        self._start_worker(
            starting,
            functions["WorkerFunction"],
            stacks[0].resources["WorkerFunction"]["Properties"]["Events"]["Messages"]["Properties"],
        )
        self._api_function = functions["ApiFunction"]
        self.runtime = self._make(self._api_function, self._environment)
        starting.callback(self.runtime.close)
        self._api.start()

    def _start_pagerduty(self, starting: contextlib.ExitStack) -> dict[str, str]:
        """Start the sandbox unless there is another PagerDuty; return the functions' variables about it."""
        if self.options.pagerduty_url:
            return {"PAGERDUTY_URL": self.options.pagerduty_url}
        sandbox = Sandbox(rate_limit=self.options.rate_limit, on_received=self._on_received)
        self.sandbox = starting.enter_context(sandbox)
        return {"PAGERDUTY_URL": self.sandbox.url, "SSL_CERT_FILE": str(ca_file())}

    def _start_worker(self, starting: contextlib.ExitStack, function: Function, mapping: Mapping[str, Any]) -> None:
        """Start the worker with the template's event source mapping."""
        self.worker = self._make(function, self._environment)
        starting.callback(self.worker.close)
        self.event_source = starting.enter_context(
            EventSource(
                self.aws.client("sqs"),
                self.queue_url,
                self.worker.invoke,
                batch_size=mapping["BatchSize"],
                max_concurrency=min(mapping["ScalingConfig"]["MaximumConcurrency"], _MAX_WORKERS),
                retry_seconds=None if self.options.speed == 1 else properties("Queue")["VisibilityTimeout"],
            )
        )

    def _make(self, function: Function, environment: Mapping[str, str]) -> Runtime:
        changed = {**function.environment, **environment}
        return Runtime(dataclasses.replace(function, environment=changed), self._on_log)

    def _on_received(self, call: Received) -> None:
        for observer in self._observers:
            observer.on_received(call)

    def _on_log(self, line: str) -> None:
        for observer in self._observers:
            observer.on_log(line)

    def _put_parameters(self) -> None:
        """Put the secrets into SSM, and delete those of an earlier stack of this process, which moto keeps."""
        ssm = self.aws.client("ssm")
        parameters = {f"{PREFIX}/webhook-token": self.options.token}
        parameters |= {f"{PREFIX}/routing-keys/{name}": key for name, key in self.options.routing_keys.items()}
        found = ssm.get_paginator("get_parameters_by_path").paginate(Path=PREFIX, Recursive=True)
        for name in {each["Name"] for page in found for each in page["Parameters"]} - parameters.keys():
            ssm.delete_parameter(Name=name)
        for name, value in parameters.items():
            ssm.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
