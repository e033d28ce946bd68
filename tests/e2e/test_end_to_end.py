"""The whole stack over HTTP: SAM's API Gateway, the runtime emulator, moto's AWS, and the PagerDuty sandbox."""

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import urllib3

import local.runtime
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, ROOT, Options
from local.sandbox import Sandbox
from local.stack import LocalStack
from tests.support import drain, track, wait_until

HEADERS = {"Authorization": f"Bearer {LOCAL_TOKEN}", "Content-Type": "application/json"}
CHECKOUT_KEY = "c" * 32


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack(Options(services={"checkout": CHECKOUT_KEY}, speed=30, rate_limit=None)) as running:
        yield running


@pytest.fixture
def pagerduty(stack: LocalStack) -> Iterator[Sandbox]:
    assert stack.sandbox is not None
    stack.sandbox.clear()
    yield stack.sandbox
    drain(stack)


def request(url: str, body: bytes | object, method: str = "POST", **headers: str) -> urllib3.BaseHTTPResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return urllib3.request(method, url, body=content, headers=HEADERS | headers, retries=False, timeout=20)


def post(stack: LocalStack, body: bytes | object, path: str = "/events") -> tuple[int, Any]:
    response = request(stack.url + path, body)
    return response.status, response.json()


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/events", track(), ("delivered", LOCAL_ROUTING_KEY)),
        ("/events/checkout", track(), ("delivered", CHECKOUT_KEY)),
        ("/v1/track", track(), ("delivered", LOCAL_ROUTING_KEY)),
        ("/v1/batch", {"batch": [track(messageId="in a batch")]}, ("queued", LOCAL_ROUTING_KEY)),
        ("/events", [track(messageId="in an array")], ("queued", LOCAL_ROUTING_KEY)),
    ],
)
def test_an_event_on_each_route_opens_an_incident(
    stack: LocalStack, pagerduty: Sandbox, path: str, body: object, expected: tuple[str, str]
) -> None:
    status, answer = post(stack, body, path)
    wait_until(lambda: pagerduty.incidents)
    (incident,) = pagerduty.incidents

    assert (status, answer["status"], incident.routing_key) == (200, *expected)


# -- API Gateway -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", "/events"), ("POST", "/v1/identify"), ("POST", "/events/")])
def test_there_is_no_other_route(stack: LocalStack, pagerduty: Sandbox, method: str, path: str) -> None:
    response = request(stack.url + path, track(), method)

    assert (response.status, response.json()) == (404, {"message": "Not Found"})
    assert pagerduty.received == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'"\xff"', (400, "body_not_utf8")), (b"x" * 6_300_000, (413, None))],
    ids=["not UTF-8", "too large for Lambda"],
)
def test_a_body_reaches_the_function_as_it_was_sent_unless_it_is_too_large(
    stack: LocalStack, pagerduty: Sandbox, body: bytes, expected: tuple[int, str | None]
) -> None:
    status, answer = post(stack, body)

    assert (status, answer.get("code")) == expected


@pytest.mark.parametrize(
    ("host", "statuses"), [("page.example", [403, 403, 403]), ("host.docker.internal", [403, 200, 202])]
)
def test_no_server_answers_another_web_page_and_the_api_no_container(
    stack: LocalStack, pagerduty: Sandbox, host: str, statuses: list[int]
) -> None:
    signature = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/ssm/aws4_request, SignedHeaders=host, Signature=x"
    ssm = {"Authorization": signature, "X-Amz-Target": "AmazonSSM.DescribeParameters"}
    event = {"routing_key": CHECKOUT_KEY, "event_action": "resolve", "dedup_key": "disk-full"}
    responses = [
        request(f"{stack.url}/events", track(), Host=host),
        request(stack.aws.url, {}, Host=host, **ssm | {"Content-Type": "application/x-amz-json-1.1"}),
        request(f"{pagerduty.plain_url}/v2/enqueue", event, Host=host),
    ]

    assert [response.status for response in responses] == statuses
    refused = [response.headers for response in responses if response.status == 403]
    assert [headers for headers in refused if "Access-Control-Allow-Origin" in headers] == []


def test_the_emulator_listens_at_an_address_that_no_web_page_can_guess(stack: LocalStack, pagerduty: Sandbox) -> None:
    busy: list[local.runtime.Instance] = []
    pagerduty.on_call = lambda _: busy.extend(stack.runtime.busy_instances())
    post(stack, track())
    (address,) = {ip_address(str(urllib3.util.parse_url(instance.url).host)) for instance in busy}

    assert (address.is_loopback, str(address) == "127.0.0.1") == (True, False)


# -- processes -------------------------------------------------------------------------------------------------------


def test_the_stand_in_delivers_an_event_where_there_is_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.runtime, "emulator", lambda: None)
    with LocalStack() as stack:
        assert post(stack, track())[1]["status"] == "delivered"


@pytest.mark.parametrize("headers", [{"Host": "page.example"}, {"Origin": "https://page.example"}], ids=str)
def test_the_stand_in_refuses_another_web_page(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    monkeypatch.setattr(local.runtime, "emulator", lambda: None)
    instance = local.runtime.Instance(local.runtime.Function("None", ROOT, "none.handler", timeout=1), print)
    try:
        statuses = [request(instance.url, {}, **each).status for each in (headers, {})]
    finally:
        instance.kill()

    assert statuses == [403, 200]


@pytest.mark.parametrize("has_emulator", [True, False], ids=["emulator", "stand-in"])
def test_a_function_is_ended_at_its_time_limit_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_emulator: bool
) -> None:
    handler = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'ok'\n"
    (tmp_path / "slow.py").write_text(handler)
    if not has_emulator:
        monkeypatch.setattr(local.runtime, "emulator", lambda: None)
    runtime = local.runtime.Runtime(local.runtime.Function("Slow", tmp_path, "slow.handler", timeout=1))
    try:
        answers = [runtime.invoke(event) == '"ok"' for event in ("0", "30", "0")]
    finally:
        runtime.close()

    assert answers == [True, False, True]
