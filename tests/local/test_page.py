"""The page of `make serve` without a browser: what it refuses, and what it never shows."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3

from local.options import LOCAL_ROUTING_KEY, LOCAL_TOKEN, Options
from local.stack import LocalStack
from local.ui import Page
from tests.support import track

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


def tried(**changes: Any) -> dict[str, Any]:
    event = {"path": "/events", "service": "default", "body": json.dumps(track()), "settings": {}, "send": True}
    return event | changes


def test_only_its_own_files_and_https_images_are_loaded(stack: LocalStack) -> None:
    answer = urllib3.request("GET", f"{stack.url}/")

    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src https: 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/page/try", "/page/pagerduty", "/page/storm"])
def test_other_pages_and_other_bodies_are_refused(post: Callable[..., Any], path: str) -> None:
    assert post(path, {}, Origin="https://page.example").status == 403
    assert post(path, {}, **{"Content-Type": "text/plain"}).status == 415
    refused = post(path, {"events": 5_001, "mode": "unknown", "limit": 0})
    assert (refused.status, refused.json()) == (400, {"message": "This is not what the page sends"})


def test_it_shows_the_service_of_an_incident_and_no_secret(stack: LocalStack, post: Callable[..., Any]) -> None:
    answers = [post("/page/try", tried(service=service)) for service in ("default", "checkout")]
    with urllib3.request("GET", f"{stack.url}/page/updates", preload_content=False) as response:
        update = next(each for each in response if each.startswith(b"data: ")).removeprefix(b"data: ")
    start = urllib3.request("GET", f"{stack.url}/page/start").data
    shown = b"".join([update, start, *(answer.data for answer in answers)]).decode()

    assert [incident["service"] for incident in json.loads(update)["incidents"]] == ["default", "checkout"]
    assert [secret for secret in (LOCAL_TOKEN, LOCAL_ROUTING_KEY, KEY) if secret in shown] == []


def test_an_event_is_previewed_with_its_settings_and_then_sent(post: Callable[..., Any]) -> None:
    changed = {"DEFAULT_SEVERITY": "info", "PAGERDUTY_URL": "https://page.example"}
    answers = [post("/page/try", tried(settings=settings)).json() for settings in (changed, {})]

    severities = [answer["preview"]["content"]["event"]["payload"]["severity"] for answer in answers]
    assert severities == ["info", "critical"]
    assert [answer["answer"]["content"]["code"] for answer in answers] == ["delivered", "delivered"]
