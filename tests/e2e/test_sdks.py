"""RudderStack's own SDKs, unmodified, with the endpoint as their data plane: what they send and what they hear.

The Node SDK only where Node is; `pytest_terminal_summary` in conftest.py says when it is not.
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
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest
from rudderstack.analytics.client import Client

from chaos.faults import Failure, Fault, fail
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, ROOT, Options
from local.sandbox import Received, Sandbox
from local.stack import LocalStack
from tests.support import install_npm_packages, node_is_usable, wait_until

if TYPE_CHECKING:
    from flask import Request, Response

Call = dict[str, Any]  # "type", and the SDK's own names for what a call of that type takes
Flush = Sequence[Call]

# The two sample calls of RudderStack's page for its PagerDuty destination, word for word.
CONTEXT: Final = {
    "customDetails": {"ping time": "1500ms", "load avg": 0.75},
    "imageURLs": [
        {
            "src": "https://static.s4be.cochrane.org/app/uploads/2017/04/shutterstock_531145954.jpg",
            "alt": "first image",
        },
        {
            "src": "https://chart.googleapis.com/chart?chs=600x400&chd=t:6,2,9,5,2,5,7,4,8,2,1&cht=lc&chds=a&chxt=y&chm=D,0033FF,0,0,5,1",
            "alt": "second image",
        },
    ],
    "linkURLs": [
        {
            "href": "https://developer.mozilla.org/en-US/docs/Web/JavaScript/Reference/Global_Objects/Error",
            "text": "Js Object Error",
        },
        {
            "href": "https://www.techtarget.com/whatis/definition/stack-overflow#:~:text=A%20stack%20overflow%20is%20a,been%20allocated%20to%20that%20stack",
            "text": "Stack Overflow Error",
        },
    ],
}
DEDUP_KEY: Final = "9116b734-7e6b-4497-ab51-c16744d4487e"
ALERT: Final[Call] = {
    "type": "track",
    "event": "apiSecret is not present",
    "properties": {
        "action": "trigger",
        "dedupKey": DEDUP_KEY,
        "severity": "critical",
        "component": "ui",
        "source": "rudder-webapp",
        "group": "destination",
        "class": "connection settings",
        **CONTEXT,
    },
}
CHANGE: Final[Call] = {
    "type": "track",
    "event": "Github CI/CD Triggered",
    "properties": {"source": "rudder-webapp", **CONTEXT},
    "integrations": {"pagerduty": {"type": "changeEvent"}},
}
# The Node SDK sends the first call of all by itself at once. This one goes ahead of calls that are to go together.
IDENTIFY: Final[Call] = {"type": "identify", "traits": {"team": "payments"}}
PAGE: Final[Call] = {"type": "page", "name": "Runbook"}


def alert(dedup_key: str, action: str = "trigger") -> Call:
    properties = {"action": action, "dedupKey": dedup_key, "source": "db-1"}
    return {"type": "track", "event": "Disk is full", "properties": properties}


# -- the SDKs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failed:
    """What the SDK's error callback was told."""

    status: int
    code: str
    message: str


class Sdk(Protocol):
    """One of RudderStack's SDKs; `json_as` and `gzip_as` are the content types that it gives to its bodies."""

    json_as: str
    gzip_as: str

    def send(self, url: str, *flushes: Flush, write_key: str = LOCAL_TOKEN, gzipped: bool = True) -> list[Failed]:
        """Make the calls, one flush after the other; return what the error callback was told."""

    def run(self, snippets: Sequence[str]) -> str:
        """Run the one of the documented snippets that is in the SDK's language; return all that it prints."""


class PythonSdk:
    """Runs in our own process, a client for each flush."""

    json_as = "application/json"
    gzip_as = "application/json"

    def send(self, url: str, *flushes: Flush, write_key: str = LOCAL_TOKEN, gzipped: bool = True) -> list[Failed]:
        failed: list[Failed] = []

        def on_error(error: Any, events: object) -> None:
            failed.append(Failed(error.status, error.code, error.message))

        for calls in flushes:
            # A request is made when it has `upload_size` calls, or after `upload_interval` seconds. By default there
            # are ten retries, for which a test that fails would wait for minutes.
            client = Client(
                write_key,
                url,
                gzip=gzipped,
                on_error=on_error,
                max_retries=3,
                upload_size=len(calls),
                upload_interval=60,
            )
            # Its thread goes on waiting for calls for a minute; nobody has to wait for that when the tests end.
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

    json_as = "application/json"
    gzip_as = "application/x-www-form-urlencoded"

    def __init__(self, modules: Path) -> None:
        self._environment = {"NODE_PATH": str(modules)}

    def send(self, url: str, *flushes: Flush, write_key: str = LOCAL_TOKEN, gzipped: bool = True) -> list[Failed]:
        job = {"url": url, "writeKey": write_key, "gzip": gzipped, "flushes": flushes}
        output = run(["node", str(NODE / "sender.js")], json.dumps(job), **self._environment)
        return [Failed(**each) for each in json.loads(output.splitlines()[-1])]

    def run(self, snippets: Sequence[str]) -> str:
        (snippet,) = (each for each in snippets if each.startswith("const "))
        return run(["node", "-e", snippet], **self._environment)


def run(command: Sequence[str], text: str = "", **environment: str) -> str:
    """Run a program to its end, with nothing of our environment but the path; return all that it prints."""
    done = subprocess.run(  # noqa: S603 -- an SDK that we installed
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


NODE: Final = ROOT / "tests" / "e2e" / "sdk"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    return install_npm_packages(NODE)


@pytest.fixture(scope="module", params=["python", *(["node"] if node_is_usable() else [])])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    return NodeSdk(request.getfixturevalue("node_modules")) if request.param == "node" else PythonSdk()


# -- the endpoint ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """A request as it arrived, and the answer that it got."""

    route: str
    content_type: str
    encoding: str | None
    events: list[Any]
    status: int
    answer: dict[str, Any]


class Endpoint:
    """The whole stack on this machine, and every request to it in `requests`."""

    def __init__(self) -> None:
        self.requests: list[Answered] = []
        self.stack = LocalStack(Options(speed=30, rate_limit=None), on_answer=self._note)

    @property
    def statuses(self) -> list[int]:
        return [request.status for request in self.requests]

    @property
    def pagerduty(self) -> Sandbox:
        assert self.stack.sandbox is not None
        return self.stack.sandbox

    def clear(self) -> None:
        self.requests.clear()
        self.pagerduty.clear()
        self.pagerduty.on_call = None
        fail(self.stack.aws, None)

    def drain(self) -> None:
        """Wait until the worker has delivered everything in the queue."""
        wait_until(lambda: self.stack.count_messages(self.stack.queue_url) == 0)

    def _note(self, request: "Request", response: "Response") -> None:
        encoding = request.headers.get("Content-Encoding")
        body = request.get_data()
        events = json.loads(gzip.decompress(body) if encoding == "gzip" else body)["batch"]
        route = f"{request.method} {request.path}"
        answer = response.get_json()
        self.requests.append(Answered(route, request.mimetype, encoding, events, response.status_code, answer))


@pytest.fixture(scope="module")
def running() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    with endpoint.stack:
        yield endpoint


@pytest.fixture
def endpoint(running: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running.clear()
    return running


def time_of(event: dict[str, Any]) -> str:
    """Read when the call was made: the Node SDK says it in the one field, the Python SDK in the other."""
    return str(event.get("originalTimestamp") or event["timestamp"])


# -- what they send arrives ------------------------------------------------------------------------------------------


def test_the_sample_alert_of_rudderstacks_page_opens_an_incident(sdk: Sdk, endpoint: Endpoint) -> None:
    failed = sdk.send(endpoint.stack.url, [ALERT])
    endpoint.drain()

    (request,) = endpoint.requests
    assert (request.route, request.status, failed) == ("POST /v1/batch", 200, [])
    assert [call.event for call in endpoint.pagerduty.received] == [
        {
            "routing_key": LOCAL_ROUTING_KEY,
            "event_action": "trigger",
            "dedup_key": "9116b734-7e6b-4497-ab51-c16744d4487e",
            "payload": {
                "summary": "apiSecret is not present",
                "severity": "critical",
                "source": "rudder-webapp",
                "component": "ui",
                "group": "destination",
                "class": "connection settings",
                "timestamp": time_of(request.events[0]),
                "custom_details": {"ping time": "1500ms", "load avg": 0.75},
            },
            "images": CONTEXT["imageURLs"],
            "links": CONTEXT["linkURLs"],
        }
    ]
    assert [incident.status for incident in endpoint.pagerduty.incidents] == ["triggered"]


def test_the_sample_change_event_of_rudderstacks_page_is_recorded(sdk: Sdk, endpoint: Endpoint) -> None:
    failed = sdk.send(endpoint.stack.url, [CHANGE])
    endpoint.drain()

    (request,) = endpoint.requests
    assert (request.route, request.status, failed) == ("POST /v1/batch", 200, [])
    assert endpoint.pagerduty.changes == [
        {
            "routing_key": LOCAL_ROUTING_KEY,
            "payload": {
                "summary": "Github CI/CD Triggered",
                "source": "rudder-webapp",
                "timestamp": time_of(request.events[0]),
                "custom_details": {"ping time": "1500ms", "load avg": 0.75},
            },
            "images": CONTEXT["imageURLs"],
            "links": CONTEXT["linkURLs"],
        }
    ]
    assert endpoint.pagerduty.incidents == []


def test_an_incident_is_opened_acknowledged_and_resolved(sdk: Sdk, endpoint: Endpoint) -> None:
    statuses = []

    def note(_: Received) -> None:
        incident = endpoint.pagerduty.incident(DEDUP_KEY)
        statuses.append(incident.status if incident else None)

    endpoint.pagerduty.on_received = note
    failed = sdk.send(endpoint.stack.url, [ALERT], [alert(DEDUP_KEY, "acknowledge")], [alert(DEDUP_KEY, "resolve")])
    endpoint.drain()
    endpoint.pagerduty.on_received = None

    assert statuses == ["triggered", "acknowledged", "resolved"]
    assert [call.event for call in endpoint.pagerduty.received[1:]] == [
        {"routing_key": LOCAL_ROUTING_KEY, "event_action": "acknowledge", "dedup_key": DEDUP_KEY},
        {"routing_key": LOCAL_ROUTING_KEY, "event_action": "resolve", "dedup_key": DEDUP_KEY},
    ]
    assert (endpoint.statuses, failed) == ([200, 200, 200], [])


@pytest.mark.parametrize("gzipped", [True, False])
def test_a_hundred_calls_of_one_flush_are_one_request_and_all_arrive(
    sdk: Sdk, endpoint: Endpoint, *, gzipped: bool
) -> None:
    keys = [f"incident-{n}" for n in range(100)]
    failed = sdk.send(endpoint.stack.url, [IDENTIFY], [alert(key) for key in keys], gzipped=gzipped)
    endpoint.drain()

    first, second = endpoint.requests
    assert (len(first.events), len(second.events)) == (1, 100)
    assert (second.encoding, second.content_type) == (("gzip", sdk.gzip_as) if gzipped else (None, sdk.json_as))
    assert (endpoint.statuses, failed) == ([200, 200], [])
    assert second.answer["message"] == "100 events: 100 queued"
    assert sorted(incident.dedup_key for incident in endpoint.pagerduty.incidents) == sorted(keys)


def test_of_identify_page_and_track_only_track_calls_reach_pagerduty(sdk: Sdk, endpoint: Endpoint) -> None:
    failed = sdk.send(endpoint.stack.url, [IDENTIFY], [PAGE, CHANGE, IDENTIFY, ALERT, PAGE])
    endpoint.drain()

    assert (endpoint.statuses, failed) == ([200, 200], [])
    assert [[row["status"] for row in request.answer["results"]] for request in endpoint.requests] == [
        ["ignored"],
        ["ignored", "queued", "ignored", "queued", "ignored"],
    ]
    assert sorted(call.kind for call in endpoint.pagerduty.received) == ["alert", "change"]


def test_calls_of_one_batch_reach_their_incident_in_order(sdk: Sdk, endpoint: Endpoint) -> None:
    actions = ["trigger", "acknowledge", "resolve", "trigger"]
    sdk.send(endpoint.stack.url, [IDENTIFY], [alert("disk-full", action) for action in actions])
    endpoint.drain()

    assert [call.event["event_action"] for call in endpoint.pagerduty.received] == actions
    assert [incident.status for incident in endpoint.pagerduty.incidents] == ["resolved", "triggered"]


# -- what they hear --------------------------------------------------------------------------------------------------


def test_a_wrong_write_key_is_reported_once_and_not_tried_again(sdk: Sdk, endpoint: Endpoint) -> None:
    failed = sdk.send(endpoint.stack.url, [ALERT], write_key="the-write-key-of-somebody-else")

    assert failed == [
        Failed(
            401,
            "unauthorized",
            "Expected the token as Authorization: Bearer, as Basic user or password, or as X-Api-Key",
        )
    ]
    assert endpoint.statuses == [401]
    assert endpoint.pagerduty.received == []


def test_a_call_that_can_never_be_sent_is_reported_once_with_the_reason(sdk: Sdk, endpoint: Endpoint) -> None:
    failed = sdk.send(endpoint.stack.url, [alert("disk-full", "explode")])

    assert [(each.status, each.code) for each in failed] == [(400, "action_unknown")]
    assert "trigger, acknowledge" in failed[0].message
    assert endpoint.statuses == [400]
    assert endpoint.pagerduty.received == []


@pytest.mark.parametrize("status", [429, 503])
def test_while_pagerduty_cannot_take_them_the_sdk_is_done_and_they_are_delivered_later_in_order(
    sdk: Sdk, endpoint: Endpoint, status: int
) -> None:
    # A 5xx is tried again at once, twice; a 429 is not.
    failing = {429: 1, 503: 3}[status]
    endpoint.pagerduty.on_call = lambda call: Fault.answer(status) if call.number <= failing else None
    failed = sdk.send(endpoint.stack.url, [IDENTIFY], [ALERT, CHANGE, alert(DEDUP_KEY, "resolve"), PAGE])
    endpoint.drain()

    assert (endpoint.statuses, failed) == ([200, 200], [])
    assert endpoint.requests[1].answer["message"] == "4 events: 3 queued, 1 ignored"
    assert [(incident.status, incident.triggers) for incident in endpoint.pagerduty.incidents] == [("resolved", 1)]
    assert [change["payload"]["summary"] for change in endpoint.pagerduty.changes] == ["Github CI/CD Triggered"]


def test_when_the_sdk_sends_a_batch_again_what_the_queue_took_of_it_is_not_repeated(
    sdk: Sdk, endpoint: Endpoint
) -> None:
    failures = [Failure.entries("1")]
    fail(
        endpoint.stack.aws,
        lambda target, _: failures.pop() if target == "AmazonSQS.SendMessageBatch" and failures else None,
    )
    failed = sdk.send(endpoint.stack.url, [IDENTIFY], [ALERT, CHANGE, alert(DEDUP_KEY, "resolve")])
    endpoint.drain()

    assert (endpoint.statuses, failed) == ([200, 503, 200], [])
    assert [row["code"] for row in endpoint.requests[1].answer["results"]] == ["queued", "queue_unavailable", "queued"]
    assert [(incident.status, incident.triggers) for incident in endpoint.pagerduty.incidents] == [("resolved", 1)]
    assert len(endpoint.pagerduty.changes) == 1


# -- the documents ---------------------------------------------------------------------------------------------------


def snippets(url: str, write_key: str) -> list[str]:
    """Take the code out of docs/sdks.md, with this URL and this write key in it."""
    text = (ROOT / "docs" / "sdks.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\w+\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [each.replace("DATA_PLANE_URL", url).replace("TOKEN", write_key) for each in found]


def test_the_documented_snippet_pages_somebody(sdk: Sdk, endpoint: Endpoint) -> None:
    printed = sdk.run(snippets(endpoint.stack.url, LOCAL_TOKEN))
    endpoint.drain()

    assert printed == ""
    assert [(request.encoding, request.status) for request in endpoint.requests] == [(None, 200)]
    assert [incident.title for incident in endpoint.pagerduty.incidents] == ["Disk is full"]


def test_the_documented_snippet_tells_what_was_not_sent_and_why(sdk: Sdk, endpoint: Endpoint) -> None:
    printed = sdk.run(snippets(endpoint.stack.url, "the-write-key-of-somebody-else"))

    assert "not sent" in printed
    assert "Expected the token as Authorization: Bearer" in printed
    assert endpoint.statuses == [401]


# -- Node ------------------------------------------------------------------------------------------------------------


def test_where_node_is_missing_its_tests_are_not_there_and_that_is_said_loudly() -> None:
    arguments = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(  # noqa: S603 -- our own tests
        arguments, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=True
    )

    assert "NODE IS NOT ON THIS MACHINE" in done.stdout
    assert "[python]" in done.stdout
    assert "[node]" not in done.stdout


def test_the_lock_names_the_hashes_of_the_packages_and_no_registry() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]

    assert all("integrity" in package and "resolved" not in package for package in packages)
