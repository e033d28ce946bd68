"""The page of `make serve` without a browser: what it refuses, what it never shows, and that it fits the template."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from samcli.yamlhelper import yaml_parse

from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, ROOT, Options
from local.resources import TEMPLATE
from local.stack import LocalStack
from local.ui import MISBEHAVIOUR, Page, settings
from local.ui.samples import samples
from tests.support import track, wait_until

KEY = "checkout0checkout0checkout0check"


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with Page(Options(services={"checkout": KEY})) as running:
        yield running


@pytest.fixture
def post(stack: LocalStack) -> Callable[..., Any]:
    """Send a request as the page does. A function can take many seconds to start on a busy machine."""

    def request(path: str, content: object, **headers: str) -> Any:
        sent = {"Origin": stack.url, "Content-Type": "application/json", **headers}
        return urllib3.request("POST", stack.url + path, body=json.dumps(content), headers=sent, timeout=30)

    return request


def tried(event: object, **changes: Any) -> dict[str, Any]:
    return {
        "path": "/events",
        "service": "default",
        "body": json.dumps(event),
        "settings": {},
        "send": True,
        **changes,
    }


def test_only_its_own_files_and_https_images_are_loaded(stack: LocalStack) -> None:
    answer = urllib3.request("GET", f"{stack.url}/")

    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src https: 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/page/start", "/page/updates"])
def test_other_pages_read_nothing(stack: LocalStack, path: str) -> None:
    assert urllib3.request("GET", stack.url + path, headers={"Host": "page.example"}, retries=False).status == 403


@pytest.mark.parametrize("path", ["/page/try", "/page/pagerduty", "/page/storm"])
def test_other_pages_and_other_bodies_are_refused(post: Callable[..., Any], path: str) -> None:
    assert post(path, {}, Origin="https://page.example").status == 403
    assert post(path, {}, **{"Content-Type": "text/plain"}).status == 415
    refused = post(path, {"events": 5_001, "mode": "unknown", "limit": 0})
    assert (refused.status, refused.json()) == (400, {"message": "This is not what the page sends"})


def test_it_shows_the_service_of_an_incident_and_no_secret(stack: LocalStack, post: Callable[..., Any]) -> None:
    answers = [post("/page/try", tried(track(), service=service)) for service in ("default", "checkout")]
    with urllib3.request("GET", f"{stack.url}/page/updates", preload_content=False) as response:
        update = next(each for each in response if each.startswith(b"data: ")).removeprefix(b"data: ")
    start = urllib3.request("GET", f"{stack.url}/page/start").data
    shown = b"".join([update, start, *(answer.data for answer in answers)]).decode()

    assert [incident["service"] for incident in json.loads(update)["incidents"]] == ["default", "checkout"]
    assert [secret for secret in (LOCAL_TOKEN, LOCAL_ROUTING_KEY, KEY) if secret in shown] == []


def test_the_api_answers_beside_it_and_no_route_is_hidden(stack: LocalStack) -> None:
    answer = urllib3.request("GET", f"{stack.url}/events")
    template: Any = yaml_parse(TEMPLATE.read_text())
    paths = [
        each["Properties"]["Path"] for each in template["Resources"]["ApiFunction"]["Properties"]["Events"].values()
    ]

    assert (answer.status, answer.json()) == (404, {"message": "Not Found"})
    assert [path for path in paths if path.startswith(("/page", "/favicon"))] == []


def test_an_event_is_previewed_with_its_settings_and_then_sent(post: Callable[..., Any]) -> None:
    event = track(event="Both", properties={"severity": None})
    changed = {"DEFAULT_SEVERITY": "info", "PAGERDUTY_URL": "https://page.example"}
    answers = [post("/page/try", tried(event, settings=settings)).json() for settings in (changed, {})]

    payloads = [each["preview"]["content"]["event"]["payload"] for each in answers]
    assert [(payload["summary"], payload["severity"]) for payload in payloads] == [
        ("Both", "info"),
        ("Both", "critical"),
    ]
    assert [each["answer"]["content"]["code"] for each in answers] == ["delivered", "delivered"]


@pytest.mark.parametrize(
    ("mode", "codes"),
    [
        ("limits", ["delivered", "queued"]),
        ("fails", ["queued", "queued"]),
        ("refuses the key", ["routing_key_refused", "routing_key_refused"]),
    ],
)
def test_failures_of_pagerduty_are_simulated(
    stack: LocalStack, post: Callable[..., Any], mode: str, codes: list[str]
) -> None:
    assert stack.sandbox is not None
    stack.sandbox.clear()
    post("/page/pagerduty", {"mode": mode, "limit": 1})
    answers = [post("/page/try", tried(track())).json()["answer"]["content"]["code"] for _ in range(2)]
    post("/page/pagerduty", {"mode": "works", "limit": 1})
    wait_until(lambda: stack.count_messages(stack.queue_url) == 0)
    stack.forget_flow()

    assert answers == codes


def test_it_offers_every_event_file_every_failure_and_the_settings_of_the_template(stack: LocalStack) -> None:
    page = (ROOT / "local" / "ui" / "index.html").read_text()
    offered = {sample["name"].split(" (")[0] for sample in samples() if sample["group"] == "events/"}
    found = settings({**stack.settings, "DEFAULT_SEVERITY": "info"})

    assert offered == {path.name for path in (ROOT / "events").glob("*.json")}
    assert [mode for mode in MISBEHAVIOUR if f'value="{mode}"' not in page] == []
    assert [[each[name] for name in ("name", "parameter", "default", "value")] for each in found][:3] == [
        ["DEDUP_KEY_FIELD", "DedupKeyField", "properties.dedupKey", "properties.dedupKey"],
        ["DEFAULT_SEVERITY", "DefaultSeverity", "critical", "info"],
        ["DEFAULT_SOURCE", "DefaultSource", "", ""],
    ]
