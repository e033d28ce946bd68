"""Fixtures: AWS without an account, PagerDuty's sandbox, and the function wired to both."""

import functools
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aws_lambda_powertools.metrics.provider.cloudwatch_emf import cloudwatch

from chaos.faults import fail
from local.browser import find_chromium
from local.sandbox import Sandbox, ca_file

# The run says at its end what it could not test.
collect_ignore = [] if find_chromium() else ["e2e/test_page_in_browser.py"]

_STATE = tempfile.TemporaryDirectory()
# Before app is imported, which makes its AWS clients then: no test reaches a real account, or a local stack in use.
os.environ.update(
    LOCAL_STATE=_STATE.name,
    # The sandbox's certificate is made on the fly.
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
    """Take one more than there are processors: many tests wait for something most of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_unconfigure() -> None:
    _STATE.cleanup()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not node_is_usable():
        message = "NODE IS NOT ON THIS MACHINE (16.13 or newer, and npm): RudderStack's Node SDK was not tested"
        terminalreporter.write_line(message, red=True, bold=True)
    if not find_chromium():
        message = "CHROMIUM IS NOT ON THIS MACHINE: the page of make serve was not tested in a browser"
        terminalreporter.write_line(message, red=True, bold=True)


@pytest.fixture(scope="session")
def running_aws() -> Iterator[Aws]:
    with Aws() as running:
        yield running


@pytest.fixture
def aws(running_aws: Aws) -> Iterator[Aws]:
    """Lend the one SSM and SQS that is running; it does not fail."""
    yield running_aws
    fail(running_aws, None)


@pytest.fixture(scope="session")
def aws_url(running_aws: Aws) -> str:
    return running_aws.url


@pytest.fixture(scope="session")
def ssm(running_aws: Aws) -> Any:
    return running_aws.client("ssm")


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """Lend the one sandbox that is running, with nothing left of an earlier test."""
    running_sandbox.clear()
    running_sandbox.on_call = None
    running_sandbox.known_keys = None
    return running_sandbox


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Collect what the function logs."""
    stream = io.StringIO()
    # Powertools prints metrics; pytest has taken sys.stdout for itself by then.
    monkeypatch.setattr(cloudwatch, "print", functools.partial(print, file=stream), raising=False)
    monkeypatch.setattr(telemetry.logger.registered_handler, "stream", stream)
    return stream


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calls_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Wait until the calls that the function made have ended, also those for which it did not wait itself."""
    running: set[object] = set()

    def noted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            this = object()
            running.add(this)
            try:
                return function(*args, **kwargs)
            finally:
                running.remove(this)

        return run_with_deadline(call, *args, **kwargs)

    def end() -> None:
        wait_until(lambda: not running)

    for module in ("aws", "pagerduty"):
        monkeypatch.setattr(f"{module}.run_with_deadline", noted)
    yield end
    end()


@pytest.fixture
def make_client() -> Iterator[Callable[[str], Client]]:
    """Make clients of PagerDuty that do not pause, and close their connections in the end."""
    clients = []

    def make(url: str) -> Client:
        clients.append(Client(url, no_pause))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def make_endpoint(
    aws: Aws, ssm: Any, sandbox: Sandbox, make_client: Callable[[str], Client]
) -> Callable[..., Endpoint]:
    """Wire both functions, with an SSM prefix, queues and a table that no other test uses.

    PagerDuty grants so many calls that flow control does not get in the way of a test about something else.
    """

    def make(
        url: str | None = None,
        *,
        rules: Rules | None = None,
        clock: Clock | None = None,
        calls_per_minute: int = 10_000,
        merge_repeated_triggers: bool = True,
        **services: str,
    ) -> Endpoint:
        name = str(uuid.uuid4())
        clocks = [clock] if clock else []
        sqs = functools.cache(lambda: aws.client("sqs"))
        dynamodb = aws.client("dynamodb")
        queue_url, dead_letter_queue_url = create_queues(sqs(), name)
        settings = Settings(
            queue_url,
            dead_letter_queue_url,
            create_flow_table(dynamodb, name),
            f"/test/{name}",
            calls_per_minute=calls_per_minute,
            merge_repeated_triggers=merge_repeated_triggers,
            rules=rules or Rules(),
        )
        deps = Dependencies(
            settings,
            Credentials(settings.parameter_prefix, ssm, *clocks),
            make_client(url or sandbox.url),
            Flow(Table(dynamodb, settings.flow_table), calls_per_minute, *clocks),
            Queue(sqs, queue_url),
            Queue(sqs, dead_letter_queue_url),
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
