"""The HTTP API of `make serve`, and its page without a browser: what they return, refuse, and never show."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

import flow
from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, ROOT, Options
from local.requests import MAX_BODY
from local.stack import LocalStack
from local.ui import FAILURES, Page
from local.ui.watch import BURST, REFILL
from tests.support import node_is_usable, track, wait_until

KEY = "checkout0checkout0checkout0check"
TOKEN = "another-secret-token"


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with Page(Options(token=TOKEN, services={"checkout": KEY})) as running:
        yield running


@pytest.fixture
def post(stack: LocalStack) -> Callable[..., Any]:
    """Send a request as the page does. A function can take many seconds to start on a busy machine."""

    def request(path: str, content: object, **headers: str) -> Any:
        sent = {"Origin": stack.url, "Content-Type": "application/json", **headers}
        return urllib3.request("POST", stack.url + path, body=json.dumps(content), headers=sent, timeout=30)

    return request


@pytest.fixture
def get(stack: LocalStack) -> Callable[[str], Any]:
    return lambda path: urllib3.request("GET", stack.url + path, timeout=30).json()


def tried(**changes: Any) -> dict[str, Any]:
    return {"path": "/events", "body": json.dumps(track()), "send": True, **changes}


def test_only_its_own_files_and_https_images_are_loaded(stack: LocalStack) -> None:
    answer = urllib3.request("GET", f"{stack.url}/")

    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src https: 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/api/send", {"path": "/events"}, "body: expected a string"),
        ("/api/send", tried(path="events"), "path: expected one that begins with /, such as /events"),
        ("/api/storm", {"events": 5_001}, "events: expected 1 to 5,000"),
        ("/api/pagerduty", {"mode": "limits", "limit": 0}, "limit: expected at least 1"),
        ("/api/pagerduty", {"mode": "?"}, f"mode: expected one of {', '.join(FAILURES)}"),
        ("/api/dead-letters/redrive", {"ids": "1"}, "ids: expected an array"),
    ],
)
def test_other_pages_and_wrong_fields_are_refused(
    post: Callable[..., Any], path: str, content: object, message: str
) -> None:
    assert post(path, content, Origin="https://page.example").status == 403
    assert post(path, content, **{"Content-Type": "text/plain"}).status == 415
    refused = post(path, content)
    assert (refused.status, refused.json()) == (400, {"message": message})


def test_a_request_is_recorded_with_the_steps_of_its_events_and_without_secret_headers(
    stack: LocalStack, post: Callable[..., Any], get: Callable[[str], Any]
) -> None:
    events = [track(messageId="m-1", properties={"dedupKey": "recorded"}), track(type="page", messageId="m-2")]
    post("/events", events, Authorization=f"Bearer {TOKEN}", **{"X-Api-Key": KEY, "User-Agent": "curl"})
    wait_until(lambda: get("/api/requests?search=RECORDED")[0].get("later"))
    (row,) = get("/api/requests?search=RECORDED")
    request = get(f"/api/requests/{row['number']}")

    assert {name: row[name] for name in ("route", "status", "code", "message_id", "events", "later")} == {
        "route": "POST /events",
        "status": 200,
        "code": "queued",
        "message_id": "m-1",
        "events": 2,
        "later": {"delivered": 1},
    }
    assert json.loads(request["body"]) == events
    assert [step["status"] for step in request["steps"]] == ["queued", "ignored", "delivered"]
    assert (request["headers"]["Authorization"], request["headers"]["User-Agent"]) == ("(hidden)", "curl")
    assert request["answer"]["message"] == "2 events: 1 queued, 1 ignored"
    assert [secret for secret in (TOKEN, KEY) if secret in json.dumps(request)] == []


def test_of_a_large_body_the_beginning_is_kept(post: Callable[..., Any], get: Callable[[str], Any]) -> None:
    for size in (MAX_BODY - 2, MAX_BODY - 1):  # in quotes
        post("/events", "x" * size)
    kept = [get(f"/api/requests/{row['number']}") for row in get("/api/requests")[:2]]

    assert [(len(each["body"]), each["is_whole"]) for each in kept] == [(MAX_BODY, False), (MAX_BODY, True)]


def test_a_reset_forgets_everything_and_the_next_event_is_posted_at_once(
    post: Callable[..., Any], get: Callable[[str], Any]
) -> None:
    post("/api/pagerduty", {"mode": "fails"})
    post("/api/send", tried())
    wait_until(lambda: get("/api/queue")["counts"] == {"delayed": 1})
    post("/api/reset", {})

    assert [get(f"/api/{name}") for name in ("requests", "incidents", "changes")] == [[], [], []]
    assert (get("/api/queue")["counts"], get("/api/dead-letters")["count"], get("/api/pagerduty")["mode"]) == (
        {},
        0,
        "works",
    )
    assert post("/api/send", tried()).json()["answer"]["content"]["code"] == "delivered"


def test_the_limits_of_flow_control_are_those_of_the_function() -> None:
    assert (REFILL, BURST) == (flow.REFILL, flow.BURST)


def test_it_shows_the_service_of_an_incident_and_no_secret(stack: LocalStack, post: Callable[..., Any]) -> None:
    post("/api/reset", {})
    answers = [post("/api/send", tried(path=path)) for path in ("/events", "/events/checkout")]
    with urllib3.request("GET", f"{stack.url}/api/updates", preload_content=False) as response:
        update = next(each for each in response if each.startswith(b"data: ")).removeprefix(b"data: ")
    start = urllib3.request("GET", f"{stack.url}/api/start").data
    shown = b"".join([update, start, *(answer.data for answer in answers)]).decode()

    assert [incident["service"] for incident in json.loads(update)["incidents"]] == ["default", "checkout"]
    assert [secret for secret in (TOKEN, LOCAL_ROUTING_KEY, KEY) if secret in shown] == []


def test_an_event_is_previewed_with_its_settings_and_then_sent(post: Callable[..., Any]) -> None:
    changed = {"DEFAULT_SEVERITY": "info", "PAGERDUTY_URL": "https://page.example"}
    answers = [post("/api/send", tried(settings=settings)).json() for settings in (changed, {})]

    severities = [answer["preview"]["content"]["event"]["payload"]["severity"] for answer in answers]
    assert severities == ["info", "critical"]
    assert [answer["answer"]["content"]["code"] for answer in answers] == ["delivered", "delivered"]


@pytest.mark.parametrize("runner", ["node"] if node_is_usable() else [])
def test_the_documented_test_of_a_transformation_passes(stack: LocalStack, tmp_path: Path, runner: str) -> None:
    document = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```javascript\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    example = example.replace("http://127.0.0.1:3000", stack.url).replace(LOCAL_TOKEN, TOKEN)
    (tmp_path / "example.test.mjs").write_text(example)
    (tmp_path / "transformation.mjs").write_text("export const transformEvent = (event) => event;")

    done = subprocess.run([runner, "--test"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 -- node

    assert (done.returncode, "# pass 1\n" in done.stdout) == (0, True), done.stdout
