"""Fixtures: a local AWS, PagerDuty's sandbox, and both functions connected to them."""

import atexit
import functools
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from aws_lambda_powertools.metrics.provider.cloudwatch_emf import cloudwatch
from botocore.config import Config

from chaos.faults import fail
from local.sandbox import Sandbox, ca_file
from tests.e2e.browser import find_chromium

# The summary of the run names what was not tested.
collect_ignore = [] if find_chromium() else ["e2e/test_page_in_browser.py"]

_STATE = tempfile.TemporaryDirectory()
atexit.register(_STATE.cleanup)
# app makes its AWS clients when it is imported. No test reaches a real account, or a local stack in use.
os.environ.update(
    LOCAL_STATE=_STATE.name,
    SSL_CERT_FILE=str(ca_file()),
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    SAM_CLI_TELEMETRY="0",
)
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)

import telemetry
from aws import DYNAMODB_CONFIG
from credentials import Credentials
from deadline import run_with_deadline
from dependencies import Dependencies
from flow import Flow, Table
from local.aws_server import Aws
from local.resources import create_flow_table, create_queues
from pagerduty import Client
from settings import Rules, Settings
from sqs import Queue
from tests.support import ROUTING_KEY, TOKEN, Clock, Endpoint, no_pause, node_is_usable, wait_until


def pytest_xdist_auto_num_workers() -> int:
    """Return one more than there are processors: most tests spend their time waiting."""
    return (os.cpu_count() or 1) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tools = {
        "NODE (16.13 or newer, with npm) IS MISSING: RudderStack's Node SDK was not tested": node_is_usable(),
        "CHROMIUM IS MISSING: the page of make serve was not tested in a browser": find_chromium(),
    }
    for message, is_there in tools.items():
        if not is_there:
            terminalreporter.write_line(message, red=True, bold=True)


@pytest.fixture(scope="session")
def running_aws() -> Iterator[Aws]:
    with Aws() as running:
        yield running


@pytest.fixture
def aws(running_aws: Aws) -> Iterator[Aws]:
    """Return the shared AWS server, and remove the faults of the test afterwards."""
    yield running_aws
    fail(running_aws, None)


@pytest.fixture(scope="session")
def ssm(running_aws: Aws) -> Any:
    return running_aws.client("ssm")


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """Return the shared sandbox, in its initial state."""
    running_sandbox.clear()
    running_sandbox.on_call = None
    running_sandbox.known_keys = None
    return running_sandbox


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Capture the log of the function."""
    stream = io.StringIO()
    # Powertools prints metrics to the sys.stdout of pytest.
    monkeypatch.setattr(cloudwatch, "print", functools.partial(print, file=stream), raising=False)
    monkeypatch.setattr(telemetry.logger.registered_handler, "stream", stream)
    return stream


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calls_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Wait until the function's calls have ended, also those abandoned at their deadline."""
    running: list[object] = []

    def run(function: Callable[..., Any], deadline: float, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            try:
                return function(*args, **kwargs)
            finally:
                running.remove(function)

        running.append(function)
        return run_with_deadline(call, deadline)

    for module in ("aws", "pagerduty"):
        monkeypatch.setattr(f"{module}.run_with_deadline", run)
    end = functools.partial(wait_until, lambda: not running)
    yield end
    end()


@pytest.fixture
def make_client() -> Iterator[Callable[[str], Client]]:
    """Make clients of PagerDuty that retry without a pause; close their connections at the end."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(closing(Client(url, no_pause)))


@pytest.fixture
def make_endpoint(
    aws: Aws, ssm: Any, sandbox: Sandbox, make_client: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Endpoint]:
    """Connect both functions to AWS resources of their own; by default neither limit of flow control is reached."""
    monkeypatch.setattr("flow.CALL_LIMIT", 30)
    dynamodb = aws.client("dynamodb", DYNAMODB_CONFIG.merge(Config(read_timeout=30)))
    sqs = aws.client("sqs")

    def make(
        *,
        rules: Rules | None = None,
        clock: Clock | None = None,
        calls_per_minute: int = 10_000,
        merge_repeated_triggers: bool = True,
        **services: str,
    ) -> Endpoint:
        name = str(uuid.uuid4())
        clocks = [clock] if clock else []
        settings = Settings(
            *create_queues(sqs, name),
            create_flow_table(dynamodb, name),
            f"/test/{name}",
            calls_per_minute=calls_per_minute,
            merge_repeated_triggers=merge_repeated_triggers,
            rules=rules or Rules(),
        )
        deps = Dependencies(
            settings,
            Credentials(settings.parameter_prefix, ssm, *clocks),
            make_client(sandbox.url),
            Flow(Table(dynamodb, settings.flow_table), calls_per_minute, *clocks),
            Queue(lambda: sqs, settings.queue_url),
            Queue(lambda: sqs, settings.dead_letter_queue_url),
        )
        endpoint = Endpoint(aws, ssm, settings.parameter_prefix, sandbox, deps)
        endpoint.put("webhook-token", TOKEN)
        for service, key in (services or {"default": ROUTING_KEY}).items():
            endpoint.put(f"routing-keys/{service}", key)
        return endpoint

    return make


@pytest.fixture
def endpoint(make_endpoint: Callable[..., Endpoint]) -> Endpoint:
    return make_endpoint()
