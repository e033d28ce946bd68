"""The page of `make serve` without a browser: whom it answers, what it never shows, and that it fits the template."""

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
FILES = [ROOT / "local" / "ui" / name for name in ("index.html", "page.js", "page.css")]


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with Page(Options(services={"checkout": KEY})) as running:
        yield running


@pytest.fixture
def post(stack: LocalStack) -> Callable[..., Any]:
    """Make a request as the page does."""

    def request(path: str, content: object, **headers: str) -> Any:
        sent = {"Origin": stack.url, "Content-Type": "application/json", **headers}
        return urllib3.request("POST", stack.url + path, body=json.dumps(content), headers=sent, retries=False)

    return request


def tried(event: object, **changes: Any) -> dict[str, Any]:
    body = event if isinstance(event, str) else json.dumps(event)
    return {"path": "/events", "service": "default", "body": body, "settings": {}, "send": True, **changes}


def first_update(stack: LocalStack) -> dict[str, Any]:
    with urllib3.request("GET", f"{stack.url}/page/updates", preload_content=False) as response:
        line = next(each for each in response if each.startswith(b"data: "))
    return dict(json.loads(line.removeprefix(b"data: ")))


# -- safe ------------------------------------------------------------------------------------------------------------


def test_nothing_runs_or_is_loaded_but_its_own_files_and_https_images(stack: LocalStack) -> None:
    answer = urllib3.request("GET", f"{stack.url}/")

    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src https: 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/page/start", "/page/updates", "/page/page.js"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
def test_other_pages_see_nothing(stack: LocalStack, path: str, headers: dict[str, str]) -> None:
    assert urllib3.request("GET", stack.url + path, headers=headers, retries=False).status == 403


@pytest.mark.parametrize("path", ["/page/try", "/page/pagerduty", "/page/storm"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Content-Type": "text/plain"}, 415)],
)
def test_other_pages_drive_nothing(post: Callable[..., Any], path: str, headers: dict[str, str], status: int) -> None:
    assert post(path, {}, **headers).status == status


@pytest.mark.parametrize("path", ["/page/try", "/page/pagerduty", "/page/storm"])
@pytest.mark.parametrize("content", [[1], "x", None, {}, {"events": "x"}, {"mode": [], "limit": "x"}])
def test_a_body_that_the_page_would_not_send_is_refused_with_a_message(
    post: Callable[..., Any], path: str, content: object
) -> None:
    answer = post(path, content)

    assert (answer.status, answer.json()) == (400, {"message": "This is not what the page sends"})


def test_it_shows_whose_an_incident_is_and_no_secret(stack: LocalStack, post: Callable[..., Any]) -> None:
    answers = [post("/page/try", tried(track(), service=service)) for service in ("default", "checkout")]
    update = first_update(stack)
    shown = [json.dumps(update), urllib3.request("GET", f"{stack.url}/page/start").data.decode()]
    shown += [answer.data.decode() for answer in answers]

    assert [incident["service"] for incident in update["incidents"]] == ["default", "checkout"]
    assert [secret for secret in (LOCAL_TOKEN, LOCAL_ROUTING_KEY, KEY) for text in shown if secret in text] == []


# -- it is part of the stack -----------------------------------------------------------------------------------------


def test_the_api_answers_beside_it_as_on_aws(stack: LocalStack) -> None:
    answer = urllib3.request("GET", f"{stack.url}/events")

    assert (answer.status, answer.json()) == (404, {"message": "Not Found"})


def test_no_route_of_the_template_is_hidden_by_it() -> None:
    template: Any = yaml_parse(TEMPLATE.read_text())
    events = template["Resources"]["ApiFunction"]["Properties"]["Events"].values()

    assert [event for event in events if event["Properties"]["Path"].startswith(("/page", "/favicon"))] == []


def test_what_is_tried_is_previewed_first(stack: LocalStack, post: Callable[..., Any]) -> None:
    answer = post("/page/try", tried(track(event="Both"), path="/v1/track")).json()

    assert (answer["preview"]["status"], answer["preview"]["content"]["event"]["payload"]["summary"]) == (200, "Both")
    assert (answer["answer"]["status"], answer["answer"]["content"]["code"]) == (200, "delivered")


def test_a_setting_counts_for_what_is_tried_with_it_alone(post: Callable[..., Any]) -> None:
    event = track(properties={"severity": None})

    with_setting = post("/page/try", tried(event, settings={"DEFAULT_SEVERITY": "info"}, send=False)).json()
    without = post("/page/try", tried(event, send=False)).json()

    severities = [each["preview"]["content"]["event"]["payload"]["severity"] for each in (with_setting, without)]
    assert severities == ["info", "critical"]


def test_only_settings_of_the_mapping_can_be_tried(post: Callable[..., Any]) -> None:
    answer = post("/page/try", tried(track(), settings={"PAGERDUTY_URL": "https://evil.example"})).json()

    assert answer["answer"]["content"]["code"] == "delivered"


@pytest.mark.parametrize(
    ("mode", "codes"),
    [
        ("fine", ["delivered", "delivered"]),
        ("limits", ["delivered", "queued"]),
        ("fails", ["queued", "queued"]),
        ("refuses the key", ["routing_key_refused", "routing_key_refused"]),
        ("refuses events", ["pagerduty_rejected", "pagerduty_rejected"]),
    ],
)
def test_pagerduty_misbehaves_as_told(stack: LocalStack, post: Callable[..., Any], mode: str, codes: list[str]) -> None:
    assert stack.sandbox is not None
    stack.sandbox.clear()
    post("/page/pagerduty", {"mode": mode, "limit": 1})
    answers = [post("/page/try", tried(track())).json()["answer"]["content"]["code"] for _ in range(2)]
    post("/page/pagerduty", {"mode": "fine", "limit": 1})
    wait_until(lambda: stack.count_messages(stack.queue_url) == 0)
    stack.forget_flow()

    assert answers == codes


def test_pagerduty_is_silent_when_told(stack: LocalStack, post: Callable[..., Any]) -> None:
    assert stack.sandbox is not None
    post("/page/pagerduty", {"mode": "silent", "limit": 1})
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        urllib3.request("POST", f"{stack.sandbox.plain_url}/v2/enqueue", json={}, timeout=0.3, retries=False)
    post("/page/pagerduty", {"mode": "fine", "limit": 1})


@pytest.mark.parametrize("content", [{"mode": "sulks", "limit": 1}, {"mode": "limits", "limit": 0}])
def test_pagerduty_misbehaves_in_ways_that_are_known(post: Callable[..., Any], content: dict[str, Any]) -> None:
    assert post("/page/pagerduty", content).status == 400


def test_a_storm_has_a_size(post: Callable[..., Any]) -> None:
    assert [post("/page/storm", {"events": size}).status for size in (0, 5_001)] == [400, 400]


# -- what it offers --------------------------------------------------------------------------------------------------


def test_every_file_of_events_is_a_sample() -> None:
    offered = {sample["name"].split(" (")[0] for sample in samples() if sample["group"] == "events/"}

    assert offered == {path.name for path in (ROOT / "events").glob("*.json")}


def test_every_way_to_misbehave_can_be_chosen() -> None:
    page = FILES[0].read_text()

    assert [mode for mode in MISBEHAVIOUR if f'value="{mode}"' not in page] == []


def test_the_settings_are_those_of_the_template_with_the_values_of_the_stack(stack: LocalStack) -> None:
    found = settings({**stack.settings, "DEFAULT_SEVERITY": "info"})

    assert [[each[name] for name in ("name", "parameter", "default", "value")] for each in found][:3] == [
        ["DEDUP_KEY_FIELD", "DedupKeyField", "properties.dedupKey", "properties.dedupKey"],
        ["DEFAULT_SEVERITY", "DefaultSeverity", "critical", "info"],
        ["DEFAULT_SOURCE", "DefaultSource", "", ""],
    ]


def test_its_three_files_stay_small() -> None:
    assert sum(len(path.read_text().splitlines()) for path in FILES) <= 1_000
