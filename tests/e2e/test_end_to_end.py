"""The whole stack: SAM's API Gateway, the runtime emulator, moto's SSM and the PagerDuty sandbox, over HTTP."""

import base64
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import urllib3

import local.runtime
from chaos.faults import Fault, fail
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, PREFIX, ROOT, Options
from local.sandbox import Sandbox
from local.stack import LocalStack
from tests.support import track, wait_until

AUTHORIZED = {"Authorization": f"Bearer {LOCAL_TOKEN}", "Content-Type": "application/json"}
CHECKOUT_KEY = "c" * 32
BUSY_KEYS = ("1" * 32, "2" * 32)


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    services = {"checkout": CHECKOUT_KEY, "busy": ",".join(BUSY_KEYS)}
    with LocalStack(Options(services=services, speed=30, rate_limit=None)) as running:
        yield running


@pytest.fixture
def pagerduty(stack: LocalStack) -> Iterator[Sandbox]:
    assert stack.sandbox is not None
    stack.sandbox.clear()
    yield stack.sandbox
    stack.sandbox.on_call = None
    fail(stack.aws, None)
    drain(stack)


def drain(stack: LocalStack) -> None:
    """Wait until the worker has delivered everything in the queue; then nothing waits that a later event could pass."""
    wait_until(lambda: stack.count_messages(stack.queue_url) == 0)
    stack.forget_flow()


def post(
    stack: LocalStack, body: bytes | object, path: str = "/events", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    response = urllib3.request(
        "POST",
        stack.url + path,
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers=AUTHORIZED if headers is None else headers,
        retries=False,
        timeout=20,
    )
    return response.status, response.json()


# -- the way of an event ---------------------------------------------------------------------------------------------


def test_an_event_reaches_pagerduty(stack: LocalStack, pagerduty: Sandbox) -> None:
    status, answer = post(stack, track())

    assert (status, answer["code"]) == (200, "delivered")
    assert [received.event["routing_key"] for received in pagerduty.received] == [LOCAL_ROUTING_KEY]


def test_a_named_service_has_its_own_routing_key(stack: LocalStack, pagerduty: Sandbox) -> None:
    post(stack, track(), path="/events/checkout")

    assert [received.event["routing_key"] for received in pagerduty.received] == [CHECKOUT_KEY]


@pytest.mark.parametrize(
    ("path", "body", "result"),
    [
        ("/events", track(), "delivered"),
        ("/events/default", track(), "delivered"),
        ("/v1/track", track(), "delivered"),
        ("/v1/batch", {"batch": [track(messageId="in a batch")]}, "queued"),
        ("/events", [track(messageId="in an array")], "queued"),
    ],
)
def test_every_route_delivers_several_events_through_the_queue(
    stack: LocalStack, pagerduty: Sandbox, path: str, body: object, result: str
) -> None:
    status, answer = post(stack, body, path=path)
    drain(stack)

    assert (status, answer["status"]) == (200, result)
    assert [incident.dedup_key for incident in pagerduty.incidents] == ["disk-full"]


def test_a_batch_of_which_pagerduty_limits_one_event_loses_no_page(stack: LocalStack, pagerduty: Sandbox) -> None:
    """Also when the answer is lost, and RudderStack sends the batch again."""
    batch = [
        track(messageId="resolve", properties={"action": "resolve"}),
        track(messageId="trigger"),
        track(messageId="other", properties={"dedupKey": "other"}),
    ]
    other = [Fault.answer(429), None]
    pagerduty.on_call = lambda call: other.pop(0) if call.event["dedup_key"] == "other" else None
    post(stack, track(messageId="earlier"))
    answers = [post(stack, batch)[1]["message"] for _ in range(2)]
    drain(stack)

    assert (answers, other) == (["3 events: 3 queued"] * 2, [])
    assert [call.event["event_action"] for call in pagerduty.received if call.event["dedup_key"] == "disk-full"] == [
        "trigger",
        "resolve",
        "trigger",
    ]
    assert sorted((each.dedup_key, each.status, each.triggers) for each in pagerduty.incidents) == [
        ("disk-full", "resolved", 1),
        ("disk-full", "triggered", 1),
        ("other", "triggered", 1),
    ]


def test_an_incident_stays_with_one_of_several_routing_keys(stack: LocalStack, pagerduty: Sandbox) -> None:
    """Whichever way its events go: a trigger of its own directly, the resolve in a batch through the queue."""
    incidents = [f"incident-{n}" for n in range(8)]
    for each in incidents:
        post(stack, track(messageId=f"{each}-trigger", properties={"dedupKey": each}), path="/events/busy")
    resolves = [
        track(messageId=f"{each}-resolve", properties={"dedupKey": each, "action": "resolve"}) for each in incidents
    ]
    post(stack, resolves, path="/events/busy")
    drain(stack)

    assert [incident.status for incident in pagerduty.incidents] == ["resolved"] * 8
    assert {incident.routing_key for incident in pagerduty.incidents} == set(BUSY_KEYS)


@pytest.mark.parametrize("events", [track(), [track(), track()]])
def test_a_misspelt_service_is_told_to_rudderstack(stack: LocalStack, pagerduty: Sandbox, events: object) -> None:
    calls: list[str] = []
    fail(stack.aws, lambda target, _: calls.append(target))
    status, answer = post(stack, events, path="/events/checkuot")

    assert (status, answer["code"]) == (503, "routing_key_missing")
    assert "AmazonSQS.SendMessageBatch" not in calls
    assert pagerduty.received == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/events"), ("POST", "/"), ("POST", "/v1/identify"), ("PUT", "/events/x")]
)
def test_there_is_no_other_route(stack: LocalStack, method: str, path: str) -> None:
    response = urllib3.request(method, stack.url + path, headers=AUTHORIZED, retries=False, timeout=20)

    assert (response.status, response.json()) == (404, {"message": "Not Found"})


@pytest.mark.parametrize(
    "path", ["/events/", "/events/checkout/", "//events", "/events//checkout", "/events%2Fcheckout"]
)
def test_a_path_that_api_gateway_does_not_match_reaches_no_function(
    stack: LocalStack, pagerduty: Sandbox, path: str
) -> None:
    assert post(stack, track(), path=path) == (404, {"message": "Not Found"})
    assert pagerduty.received == []


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_gzip_is_read_whatever_the_content_type(stack: LocalStack, pagerduty: Sandbox, content_type: str) -> None:
    body = gzip.compress(json.dumps(track()).encode())
    headers = AUTHORIZED | {"Content-Type": content_type, "Content-Encoding": "gzip"}

    assert post(stack, body, "/v1/track", headers)[0] == 200
    assert len(pagerduty.received) == 1


@pytest.mark.parametrize("user_and_password", [f"{LOCAL_TOKEN}:", f"rudder:{LOCAL_TOKEN}"])
def test_basic_authentication_opens(stack: LocalStack, pagerduty: Sandbox, user_and_password: str) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(user_and_password.encode()).decode()}

    assert post(stack, track(), headers=headers)[0] == 200


def test_a_preview_sends_nothing(stack: LocalStack, pagerduty: Sandbox) -> None:
    status, answer = post(stack, track(), path="/events?preview=true")

    assert (status, answer["status"], answer["event"]["dedup_key"]) == (200, "preview", "disk-full")
    assert pagerduty.received == []


# -- bad input, by name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "body_empty"),
        (b"{", 400, "body_not_json"),
        (b"7", 400, "body_without_events"),
        (b"null", 400, "body_without_events"),
        (b"[]", 400, "body_without_events"),
        (b'"\xff"', 400, "body_not_utf8"),
        (b'{"type":"track","event":NaN}', 400, "event_name_missing"),
        (b"[" * 100_000, 400, "body_too_deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "body_too_deep"),
        (json.dumps(track(event="\ud800 half")).encode(), 200, "delivered"),
        (b'{"type":"track","type":"track","event":"a","properties":{"source":"s"}}', 200, "delivered"),
        (b"\x1f\x8b damaged", 400, "gzip_damaged"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_answered_and_never_blamed_on_us(
    stack: LocalStack, pagerduty: Sandbox, body: bytes, status: int, code: str
) -> None:
    assert post(stack, body)[0] == status
    assert post(stack, body)[1]["code"] == code


def test_a_gzip_bomb_is_too_large(stack: LocalStack) -> None:
    bomb = gzip.compress(b" " * 300_000_000, compresslevel=1)

    assert post(stack, bomb, headers=AUTHORIZED | {"Content-Encoding": "gzip"})[0] == 413


def test_a_body_of_ten_megabytes_is_too_large(stack: LocalStack) -> None:
    assert post(stack, track(padding="x" * 10_000_000))[0] == 413


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": b"Bearer \xe9\xff"}, {"Authorization": "Basic %%%"}],
)
def test_a_stranger_gets_401(stack: LocalStack, headers: dict[str, str]) -> None:
    assert post(stack, track(), headers=headers)[0] == 401


def test_several_authorization_headers_get_401(stack: LocalStack) -> None:
    headers = urllib3.HTTPHeaderDict()
    headers.add("Authorization", f"Bearer {LOCAL_TOKEN}")
    headers.add("Authorization", f"Bearer {LOCAL_TOKEN}")

    assert (
        urllib3.request("POST", stack.url + "/events", body=b"{}", headers=headers, retries=False, timeout=20).status
        == 401
    )


# -- pages of others, open in a browser on this machine --------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call to one of the servers that it answers with `status`."""

    url: str
    headers: dict[str, str]
    body: bytes
    status: int

    def make(self, **headers: str) -> urllib3.BaseHTTPResponse:
        headers = self.headers | headers
        return urllib3.request("POST", self.url, headers=headers, body=self.body, retries=False, timeout=20)


@pytest.fixture(params=["API", "AWS", "PagerDuty"])
def call(request: pytest.FixtureRequest, stack: LocalStack, pagerduty: Sandbox) -> Call:
    event = {"routing_key": CHECKOUT_KEY, "event_action": "resolve", "dedup_key": "disk-full"}
    signed = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/ssm/aws4_request, SignedHeaders=host, Signature=x"
    ssm = {
        "Authorization": signed,
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "AmazonSSM.GetParameter",
    }
    parameter = json.dumps({"Name": f"{PREFIX}/webhook-token", "WithDecryption": True}).encode()
    return {
        "API": Call(f"{stack.url}/events", AUTHORIZED, json.dumps(track()).encode(), 200),
        "AWS": Call(stack.aws.url, ssm, parameter, 200),
        "PagerDuty": Call(f"{pagerduty.plain_url}/v2/enqueue", {}, json.dumps(event).encode(), 202),
    }[str(request.param)]


@pytest.mark.parametrize(
    "headers",
    [
        # A name of the page's own, which its owner has lead to this machine.
        {"Host": "page.example"},
        {"Host": "127.0.0.1.page.example:3000"},
        {"Host": "localhost@page.example"},
        {"Host": ""},
        # A page that asks for this machine by its name.
        {"Origin": "https://page.example"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_no_server_answers_a_page_of_somebody_else(call: Call, pagerduty: Sandbox, headers: dict[str, str]) -> None:
    response = call.make(**headers)

    assert response.status == 403
    assert response.data == (
        b"This server is for programs on this machine: Host has to be a name of it, such as 127.0.0.1 or localhost, "
        b"and Origin, if there is one, the same.\n"
    )
    assert "Access-Control-Allow-Origin" not in response.headers
    assert pagerduty.received == []


def test_containers_reach_aws_and_pagerduty_by_dockers_name_and_not_the_api(
    call: Call,
) -> None:
    of_api = call.url.endswith("/events")
    host = f"host.docker.internal:{urllib3.util.parse_url(call.url).port}"

    assert call.make(Host=host).status == (403 if of_api else call.status)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
@pytest.mark.parametrize("with_origin", [False, True])
def test_every_server_answers_by_each_of_its_names(call: Call, name: str, *, with_origin: bool) -> None:
    host = f"{name}:{urllib3.util.parse_url(call.url).port}"
    origin = {"Origin": f"http://{host}"} if with_origin else {}

    assert call.make(Host=host, **origin).status == call.status


def test_the_emulator_listens_where_no_page_can_guess_since_it_answers_everybody(
    stack: LocalStack, pagerduty: Sandbox
) -> None:
    busy: list[local.runtime.Instance] = []
    pagerduty.on_call = lambda _: busy.extend(stack.runtime.busy_instances() + stack.worker.busy_instances())
    post(stack, track())
    post(stack, [track(messageId="of the emulators")])
    drain(stack)
    addresses = {ip_address(str(urllib3.util.parse_url(instance.url).host)) for instance in busy}

    assert len(addresses) == 2
    assert all(address in ip_network("127.0.0.0/8") for address in addresses)
    assert ip_address("127.0.0.1") not in addresses


@pytest.mark.parametrize("headers", [{"Host": "page.example"}, {"Origin": "https://page.example"}], ids=str)
def test_the_stand_in_for_the_emulator_answers_us_alone(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(local.runtime, "emulator", lambda: None)
    instance = local.runtime.Instance(local.runtime.Function("None", ROOT, "none.handler", timeout=1), print)
    try:
        instance.start()
        answers = [
            urllib3.request("POST", instance.url, headers=each, body=b"{}", retries=False, timeout=20).status
            for each in (headers, {})
        ]
    finally:
        instance.stop()

    assert answers == [403, 200]


# -- processes -------------------------------------------------------------------------------------------------------


def test_requests_at_the_same_time_are_all_answered(stack: LocalStack, pagerduty: Sandbox) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(
                lambda n: post(stack, track(messageId=f"m-{n}", properties={"dedupKey": f"k-{n}"}))[0], range(48)
            )
        )

    drain(stack)

    assert answers == [200] * 48
    assert len(pagerduty.incidents) == 48


def test_an_emulator_that_is_killed_in_the_middle_of_an_event_is_a_5xx_and_is_replaced(
    stack: LocalStack, pagerduty: Sandbox
) -> None:
    def kill(_: object) -> Fault:
        for instance in stack.runtime.busy_instances():
            instance.kill()
        return Fault.hang(1.0)

    # One that DynamoDB has just failed would enqueue the event.
    stack.runtime.end_idle()
    pagerduty.on_call = kill
    killed, _ = post(stack, track())
    pagerduty.on_call = None

    assert killed >= 500
    assert post(stack, track())[0] == 200


def test_no_secret_is_in_the_functions_output(stack: LocalStack, pagerduty: Sandbox) -> None:
    post(stack, [track(), 7])
    post(stack, b"{")

    output = "\n".join(stack.runtime.logs)
    assert '"status":"delivered"' in output
    assert LOCAL_TOKEN not in output
    assert LOCAL_ROUTING_KEY not in output


def test_the_stand_in_for_the_emulator_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.runtime, "emulator", lambda: None)
    with LocalStack() as stack:
        assert post(stack, track())[0] == 200
        assert stack.sandbox is not None
        assert len(stack.sandbox.received) == 1


@pytest.mark.parametrize("with_emulator", [True, False])
def test_a_function_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_emulator: bool
) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'ok'\n"
    )
    if not with_emulator:
        monkeypatch.setattr(local.runtime, "emulator", lambda: None)
    runtime = local.runtime.Runtime(local.runtime.Function("Slow", tmp_path, "slow.handler", timeout=1))
    try:
        assert runtime.invoke("0") == '"ok"'
        assert runtime.invoke("30") != '"ok"'
        assert runtime.invoke("0") == '"ok"'
    finally:
        runtime.close()
