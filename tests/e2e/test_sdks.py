"""RudderStack's own SDKs with the endpoint as their data plane: what they send, and what they report.

The Node SDK is tested only where Node is; `pytest_terminal_summary` in conftest.py says so otherwise.
"""

import atexit
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from rudderstack.analytics.client import Client

from local.observer import Observer
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, ROOT, Options
from local.sandbox import Sandbox
from local.stack import LocalStack
from tests.support import install_npm_packages, node_is_usable, wait_until

if TYPE_CHECKING:
    from flask import Request, Response

Call = dict[str, Any]  # "type", and the arguments of the SDK's method of that name

NODE: Final = ROOT / "tests" / "e2e" / "sdk"
WRONG_TOKEN: Final = "the-write-key-of-another-source"
PROPERTIES: Final = {
    "source": "db-1",
    "dedupKey": "disk-full",
    "severity": "critical",
    "customDetails": {"ping time": "1500ms", "load avg": 0.75},
    "linkURLs": [{"href": "https://example.com/?a=1&b=2#c", "text": "Runbook"}],
}
ALERT: Final[Call] = {"type": "track", "event": "Disk is full", "properties": PROPERTIES}
CHANGE: Final[Call] = {
    "type": "track",
    "event": "Deployed",
    "properties": {"source": "shop"},
    "integrations": {"pagerduty": {"type": "changeEvent"}},
}
# The Node SDK sends its first call at once. This one precedes calls that belong in one request.
IDENTIFY: Final[Call] = {"type": "identify", "traits": {"team": "payments"}}


def alert(dedup_key: str, action: str = "trigger") -> Call:
    return {**ALERT, "properties": {"action": action, "dedupKey": dedup_key, "source": "db-1"}}


# -- the SDKs --------------------------------------------------------------------------------------------------------


class PythonSdk:
    """Runs in this process, with a client for each flush; returns the errors that the SDK passes to its callback."""

    gzip_type = "application/json"

    def send(self, url: str, *flushes: Sequence[Call], gzipped: bool = True) -> list[str]:
        failed: list[str] = []
        for calls in flushes:
            # A request is made after `upload_size` calls or `upload_interval` seconds. The default of ten retries
            # would take minutes.
            options = {"upload_size": len(calls), "upload_interval": 60, "max_retries": 3}
            client = Client(
                LOCAL_TOKEN, url, gzip=gzipped, on_error=lambda error, _: failed.append(str(error)), **options
            )
            # Its thread waits for calls for a minute, which would delay the end of the tests.
            atexit.unregister(client.join)
            for call in calls:
                arguments = {name: value for name, value in call.items() if name != "type"}
                getattr(client, call["type"])(user_id="backend", **arguments)
            client.flush()
        return failed

    def run(self, snippets: Sequence[str]) -> str:
        (snippet,) = (each for each in snippets if each.startswith("import "))
        return run([sys.executable, "-c", snippet])


class NodeSdk:
    """Runs in a process of its own, `sdk/sender.js`, with the packages of that folder."""

    gzip_type = "application/x-www-form-urlencoded"

    def __init__(self, modules: Path) -> None:
        self._environment = {"NODE_PATH": str(modules)}

    def send(self, url: str, *flushes: Sequence[Call], gzipped: bool = True) -> list[str]:
        job = {"url": url, "writeKey": LOCAL_TOKEN, "gzip": gzipped, "flushes": flushes}
        output = run(["node", str(NODE / "sender.js")], json.dumps(job), **self._environment)
        return list(json.loads(output.splitlines()[-1]))

    def run(self, snippets: Sequence[str]) -> str:
        (snippet,) = (each for each in snippets if each.startswith("const "))
        return run(["node", "-e", snippet], **self._environment)


Sdk = PythonSdk | NodeSdk


def run(command: Sequence[str], text: str = "", **environment: str) -> str:
    """Run a program with only this environment and PATH; return its output."""
    done = subprocess.run(  # noqa: S603 -- an SDK
        command,
        input=text,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module", params=["python", *(["node"] if node_is_usable() else [])])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    return NodeSdk(install_npm_packages(NODE)) if request.param == "node" else PythonSdk()


# -- the endpoint ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """A request and its response."""

    route: str
    content_type: str
    encoding: str | None
    events: list[Any]
    status: int
    message: str


class Endpoint(Observer):
    """The local stack, and the exchanges of its API."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.stack = LocalStack(Options(speed=30, rate_limit=None), self)

    @property
    def pagerduty(self) -> Sandbox:
        assert self.stack.sandbox is not None
        return self.stack.sandbox

    def drain(self) -> None:
        wait_until(lambda: self.stack.count_messages(self.stack.queue_url) == 0)

    def on_answer(self, request: "Request", response: "Response") -> None:
        encoding = request.headers.get("Content-Encoding")
        body = request.get_data()
        events = json.loads(gzip.decompress(body) if encoding == "gzip" else body)["batch"]
        message = response.get_json()["message"]
        route = f"{request.method} {request.path}"
        self.exchanges.append(Exchange(route, request.mimetype, encoding, events, response.status_code, message))


@pytest.fixture(scope="module")
def running() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    with endpoint.stack:
        yield endpoint


@pytest.fixture
def endpoint(running: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running.exchanges.clear()
    running.pagerduty.clear()
    return running


def time_of(event: dict[str, Any]) -> str:
    """Return when the call was made: the Node SDK writes the first field, the Python SDK the second."""
    return str(event.get("originalTimestamp") or event["timestamp"])


# -- tests -----------------------------------------------------------------------------------------------------------


def test_an_alert_event_and_a_change_event_arrive(sdk: Sdk, endpoint: Endpoint) -> None:
    failed = sdk.send(endpoint.stack.url, [ALERT], [CHANGE])
    endpoint.drain()

    first, second = endpoint.exchanges
    assert (first.encoding, first.content_type) == ("gzip", sdk.gzip_type)
    assert ((first.route, first.status), (second.route, second.status)) == (("POST /v1/batch", 200),) * 2
    assert failed == []
    assert sorted((call.kind, call.event) for call in endpoint.pagerduty.received) == [
        (
            "alert",
            {
                "routing_key": LOCAL_ROUTING_KEY,
                "event_action": "trigger",
                "dedup_key": "disk-full",
                "payload": {
                    "summary": "Disk is full",
                    "severity": "critical",
                    "source": "db-1",
                    "timestamp": time_of(first.events[0]),
                    "custom_details": {"ping time": "1500ms", "load avg": 0.75},
                },
                "links": [{"href": "https://example.com/?a=1&b=2#c", "text": "Runbook"}],
            },
        ),
        (
            "change",
            {
                "routing_key": LOCAL_ROUTING_KEY,
                "payload": {"summary": "Deployed", "source": "shop", "timestamp": time_of(second.events[0])},
            },
        ),
    ]


def test_a_hundred_calls_of_one_flush_are_one_request_and_all_arrive_in_order(sdk: Sdk, endpoint: Endpoint) -> None:
    keys = [f"incident-{n}" for n in range(49)]
    calls = [alert(key, action) for key in keys for action in ("trigger", "resolve")]
    failed = sdk.send(endpoint.stack.url, [IDENTIFY], [*calls, IDENTIFY, alert("open")], gzipped=False)
    endpoint.drain()

    _, batch = endpoint.exchanges
    assert (batch.encoding, batch.content_type) == (None, "application/json")
    assert (len(batch.events), batch.status, failed) == (100, 200, [])
    assert batch.message == "100 events: 99 queued, 1 ignored"
    assert sorted((incident.dedup_key, incident.status) for incident in endpoint.pagerduty.incidents) == [
        *sorted((key, "resolved") for key in keys),
        ("open", "triggered"),
    ]


@pytest.mark.parametrize(
    ("token", "status", "printed", "titles"),
    [(LOCAL_TOKEN, 200, "", ["Disk is full"]), (WRONG_TOKEN, 401, "Expected the token as Authorization: Bearer", [])],
    ids=["accepted", "refused"],
)
def test_the_documented_snippet_sends_an_alert_and_prints_a_refusal(  # noqa: PLR0913 -- the columns of the table
    sdk: Sdk, endpoint: Endpoint, *, token: str, status: int, printed: str, titles: list[str]
) -> None:
    text = (ROOT / "docs" / "sdks.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\w+\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    output = sdk.run([each.replace("DATA_PLANE_URL", endpoint.stack.url).replace("TOKEN", token) for each in found])
    endpoint.drain()

    assert (printed in output, bool(printed) == bool(output)) == (True, True)
    assert [(exchange.encoding, exchange.status) for exchange in endpoint.exchanges] == [(None, status)]
    assert [incident.title for incident in endpoint.pagerduty.incidents] == titles


def test_the_lock_has_a_hash_of_each_package_and_no_registry() -> None:
    packages = json.loads((NODE / "package-lock.json").read_text())["packages"]

    assert all("integrity" in package and "resolved" not in package for name, package in packages.items() if name)
