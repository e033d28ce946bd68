"""Fixtures: AWS without an account, PagerDuty's sandbox, and the function wired to both."""

import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from local.sandbox import Sandbox, ca_file

os.environ["SSL_CERT_FILE"] = str(ca_file())
_STATE = tempfile.TemporaryDirectory()
# Before app is imported, which makes its AWS clients then: no test reaches a real account, or a local stack in use.
os.environ.update(
    LOCAL_STATE=_STATE.name,
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    SAM_CLI_TELEMETRY="0",
)
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)

import app
import telemetry
from credentials import Credentials
from delivery import Direct
from mapping import Rules
from pagerduty import Client
from support import ROUTING_KEY, TOKEN, Clock, Endpoint, no_pause, node_is_usable


def pytest_unconfigure() -> None:
    _STATE.cleanup()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not node_is_usable():
        message = "NODE IS NOT ON THIS MACHINE (16.13 or newer, and npm): RudderStack's Node SDK was not tested"
        terminalreporter.write_line(message, red=True, bold=True)


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def ssm(aws_url: str) -> Any:
    return boto3.client("ssm", endpoint_url=aws_url)


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """Lend the one sandbox that is running, with nothing left of an earlier test."""
    running_sandbox.clear()
    running_sandbox.misbehave = None
    running_sandbox.known_keys = None
    return running_sandbox


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Collect what the function logs."""
    stream = io.StringIO()
    monkeypatch.setattr(telemetry.handler, "stream", stream)
    return stream


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_endpoint(ssm: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Endpoint]:
    """Wire the function anew, below an SSM prefix that no other test uses."""

    def make(
        url: str | None = None, rules: Rules | None = None, clock: Clock | None = None, **services: str
    ) -> Endpoint:
        prefix = f"/test/{uuid.uuid4()}"
        credentials = Credentials(prefix, ssm, *([clock] if clock else []))
        service = app.Service(rules or Rules(), credentials, Client(url or sandbox.url, no_pause), Direct())
        monkeypatch.setattr(app, "service", lambda: service)
        endpoint = Endpoint(ssm, prefix, sandbox, service)
        endpoint.put("webhook-token", TOKEN)
        for name, key in (services or {"default": ROUTING_KEY}).items():
            endpoint.put(f"routing-keys/{name}", key)
        return endpoint

    return make


@pytest.fixture
def endpoint(make_endpoint: Callable[..., Endpoint]) -> Endpoint:
    return make_endpoint()
