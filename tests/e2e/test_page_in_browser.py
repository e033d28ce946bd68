"""The page of `make serve` in a real browser, with the whole stack behind it.

Not collected where there is no Chromium; the run says so at its end. Each step waits for what it expects.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import urllib3
from playwright.sync_api import Locator, Page, ViewportSize, expect
from samcli.cli.types import CfnParameterOverridesType

import local.ui
from local.browser import chromium
from local.options import LOCAL_ROUTING_KEY, ROOT, Options
from local.sandbox import Sandbox
from local.stack import LocalStack
from tests.support import install_npm_packages, node_is_usable, track, wait_until

WIDE: Final[ViewportSize] = {"width": 1600, "height": 1000}
# A host of the tests: what is asked of it, the browser answers itself.
IMAGES: Final = "https://images.example/"
SVG: Final = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
NARROW: Final[ViewportSize] = {"width": 380, "height": 800}

# Seconds: a function that starts on a busy machine takes a few.
expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """Run one stack for all tests but those that name their options; what was put off comes again sooner."""
    with local.ui.Page(getattr(request, "param", Options(speed=30, rate_limit=None))) as running:
        yield running


@pytest.fixture
def sandbox(stack: LocalStack) -> Iterator[Sandbox]:
    """Lend the stack's PagerDuty, without an incident, and behaving."""
    assert stack.sandbox is not None
    stack.sandbox.clear()
    yield stack.sandbox
    urllib3.request("POST", f"{stack.url}/page/pagerduty", json={"mode": "fine", "limit": 1})
    wait_until(lambda: stack.count_messages(stack.queue_url) == 0)
    stack.forget_flow()


class Seen:
    """The page as a user sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.badge = page.locator("#verdict .badge")
        self.verdict = page.locator("#verdict")
        self.outcome = page.locator("#outcome")
        self.incidents = page.locator("#incident-list > li")
        self.editor = page.locator("#event")

    def load(self, stack: LocalStack) -> None:
        self.page.goto(f"{stack.url}/")
        expect(self.page.locator("#path")).to_have_text("POST /events")

    def choose(self, sample: str) -> None:
        self.page.get_by_label("Sample").select_option(label=sample)

    def write(self, content: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Write one event, or several, which go through the queue."""
        self.editor.fill(json.dumps(content, indent=2))

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def pagerduty(self, behaviour: str) -> None:
        with self.page.expect_response("**/page/pagerduty"):
            self.page.get_by_label(behaviour).check()

    def marked(self) -> Locator:
        return self.page.locator("#gutter b")


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def tab(complaints: list[str]) -> Iterator[Page]:
    """Open one tab for all tests, and note what the browser writes to its console, and what is asked of others."""

    def note_request(url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", IMAGES)):
            complaints.append(url)

    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: note_request(request.url))
        page.route(f"{IMAGES}**", lambda route: route.fulfill(status=200, content_type="image/svg+xml", body=SVG))
        yield page


@pytest.fixture
def seen(tab: Page, complaints: list[str], stack: LocalStack, sandbox: Sandbox) -> Iterator[Seen]:
    """Load the page anew; a script that was refused or failed, or a request to anybody else, fails the test."""
    tab.set_viewport_size(WIDE)
    page = Seen(tab)
    page.load(stack)
    yield page
    noted = complaints[:]
    complaints.clear()
    assert noted == []


# -- try an event ----------------------------------------------------------------------------------------------------


def test_a_newcomer_opens_an_incident_and_resolves_it(seen: Seen) -> None:
    seen.click("Send")

    expect(seen.badge).to_have_text("200 delivered")
    expect(seen.verdict).to_contain_text("RudderStack is done with it.")
    expect(seen.outcome).to_contain_text('"summary": "Disk is full"')
    expect(seen.incidents).to_contain_text(["triggered critical Disk is full"])

    seen.page.get_by_role("button", name="Resolve: Disk is full").click()

    expect(seen.incidents).to_contain_text(["resolved critical Disk is full"])
    expect(seen.editor).to_have_value(re.compile('"action": "resolve",\n *"dedupKey": "disk-full"'))
    seen.incidents.locator("summary").click()
    expect(seen.incidents.locator(".history li")).to_have_text([re.compile("^triggered "), re.compile("^resolved ")])


def test_a_preview_sends_nothing(seen: Seen, sandbox: Sandbox) -> None:
    seen.choose("A change event")
    seen.click("Preview")

    expect(seen.verdict).to_contain_text("A preview: nothing was sent.")
    expect(seen.outcome).to_contain_text('"summary": "Version 2.14.0 deployed"')
    assert sandbox.received == []


def test_a_change_event_has_a_list_of_its_own(seen: Seen) -> None:
    seen.choose("A change event")
    seen.click("Send")

    expect(seen.page.locator("#change-list > li").first).to_contain_text("Version 2.14.0 deployed")
    expect(seen.incidents).to_have_count(0)


def test_an_incident_opens_to_what_pagerduty_would_show_of_it(seen: Seen) -> None:
    seen.write(
        track(
            properties={
                "component": "postgres",
                "group": "storage",
                "class": "disk",
                "client": "Monitor",
                "clientUrl": "https://monitor.example/",
                "linkURLs": {"href": "https://wiki.example/", "text": "Runbook"},
                "imageURLs": {"src": f"{IMAGES}load.svg", "alt": "Load of the disk"},
                "customDetails": {"free": "0 %"},
            }
        )
    )
    seen.click("Send")
    seen.incidents.locator("summary").click()

    expect(seen.incidents.locator("dd")).to_have_text(["disk-full", "db-1", "storage", "disk", "postgres"])
    expect(seen.incidents.get_by_role("link")).to_have_text(["Monitor", "Runbook"])
    image = seen.incidents.get_by_role("img", name="Load of the disk")
    expect(image).to_have_attribute("loading", "lazy")
    expect(image).to_have_attribute("referrerpolicy", "no-referrer")
    expect(seen.incidents.get_by_label("Custom details")).to_have_text('{ "free": "0 %" }')


def test_each_event_of_a_batch_has_its_answer(seen: Seen) -> None:
    seen.choose("A batch of RudderStack's Python SDK")
    seen.click("Send")

    expect(seen.badge).to_have_text("200 queued")
    expect(seen.outcome.locator("h3")).to_have_text(["1. queued", "2. queued"])
    expect(seen.incidents).to_contain_text(["Queue exports is stuck", "Queue mails is stuck"])


def test_a_warning_stands_at_its_field(seen: Seen) -> None:
    seen.choose("Repaired, with warnings")
    seen.click("Preview")

    expect(seen.outcome.locator("li.warning")).to_contain_text(
        ["properties.severity: expected", "properties.group: expected", "properties.linkURLs[0]: expected"]
    )
    expect(seen.marked()).to_have_text(["7", "9", "13"])
    seen.click("Line 7")
    selected = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
    assert seen.editor.evaluate(selected) == '    "severity": "catastrophic",'


@pytest.mark.parametrize(
    ("sample", "words", "line"),
    [
        ("Refused: a misspelt action", "properties.action: expected trigger, acknowledge or resolve", "6"),
        ("Broken JSON", "body: not JSON, line 4, column 3", "4"),
    ],
)
def test_a_refusal_says_where_and_that_it_is_final(seen: Seen, sample: str, words: str, line: str) -> None:
    seen.choose(sample)
    seen.click("Send")

    expect(seen.badge).to_have_text("400 rejected")
    expect(seen.verdict).to_contain_text("RudderStack gives it up and never sends it again.")
    expect(seen.verdict).to_contain_text(words)
    expect(seen.marked()).to_have_text([line])
    expect(seen.outcome).to_contain_text("PagerDuty gets nothing of it.")


def test_a_setting_is_tried_and_written_for_samconfig(seen: Seen) -> None:
    seen.write(track(properties={"source": ""}))
    seen.page.get_by_text("Settings of the mapping").click()
    seen.page.get_by_label("DefaultSource").fill('web "shop"')
    seen.click("Preview")

    expect(seen.outcome).to_contain_text(r'"source": "web \"shop\""')
    lines = tomllib.loads(seen.page.get_by_label("Lines for samconfig.toml").inner_text())
    assert CfnParameterOverridesType().convert(lines["parameter_overrides"], None, None) == {
        "ParameterPrefix": "/rudderstack-pagerduty",
        "DefaultSource": 'web "shop"',
    }


# -- PagerDuty misbehaves --------------------------------------------------------------------------------------------


def test_pagerduty_is_down_and_back_while_the_queue_waits(seen: Seen) -> None:
    seen.pagerduty("fails with 503")
    seen.click("Send")
    expect(seen.badge).to_have_text("200 queued")
    expect(seen.page.locator("#queue-list")).to_contain_text(
        re.compile(r"Disk is full.*put off until .*PagerDuty failed")
    )

    seen.pagerduty("is fine")

    expect(seen.incidents).to_contain_text(["Disk is full"])
    expect(seen.page.locator("#queue-empty")).to_be_visible()


def test_what_is_sent_twice_is_two_events_and_not_a_retry(seen: Seen) -> None:
    for _ in range(2):
        with seen.page.expect_response("**/page/try"):
            seen.click("Send")
    seen.incidents.locator("summary").click()

    expect(seen.incidents.locator(".history li")).to_have_text(
        [re.compile("^triggered [0-9]"), re.compile("^triggered again [0-9]")]
    )


def test_what_pagerduty_refuses_for_good_is_a_dead_letter_with_its_reason(seen: Seen) -> None:
    seen.pagerduty("refuses every event")
    seen.write([track()])
    seen.click("Send")

    expect(seen.page.locator("#dead-list li").first).to_contain_text("pagerduty_rejected")
    expect(seen.page.locator("#dead-list li").first).to_contain_text("Told to refuse every event")


# A stack of its own: what a storm leaves in the queue, and in the workers' pace, must not reach the next test.
@pytest.mark.parametrize("stack", [Options(rate_limit=None)], ids=["alone"], indirect=True)
def test_in_a_storm_what_is_critical_arrives_while_the_rest_is_put_off(
    seen: Seen, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.ui, "_PAGE_SECONDS", 0.1)
    # So few that some are refused however slowly the machine sends them.
    sandbox.window = 0.5
    seen.page.locator("#limit").fill("8")
    seen.pagerduty("limits the rate to")
    seen.page.locator("#storm-size").fill("60")
    seen.click("Let it loose")

    expect(seen.page.locator("#pages-text")).to_contain_text("20 of 20, the slowest after")
    expect(seen.page.locator("#queue-counts")).to_contain_text("put off")
    reasons = re.compile("put off until .*, tried .*: (PagerDuty limits the rate|leaves room for what is critical)")
    expect(seen.page.locator("#queue-list")).to_contain_text(reasons)
    expect(seen.page.locator("#sum-limited")).not_to_have_text("0")
    expect(seen.page.locator("#chart")).to_have_attribute("aria-label", re.compile("80 received"))


# -- hostile values --------------------------------------------------------------------------------------------------


def test_what_an_event_says_is_only_ever_text(seen: Seen) -> None:
    title = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">\u202egnp.exe"
    links = ["javascript:document.title='ran'", {"href": "data:text/html,x", "text": "data"}, "https://example.com/"]
    details = {"many": "x" * 450_000, "<b>": "</pre><script>document.title='ran'</script>"}
    seen.write(track(event=title, properties={"linkURLs": links, "customDetails": details, "clientUrl": links[0]}))
    seen.click("Send")

    expect(seen.badge).to_have_text("200 delivered")
    expect(seen.incidents.locator(".title")).to_have_text(title)
    seen.incidents.locator("summary").click()
    expect(seen.incidents.locator(".body")).to_contain_text(re.compile("446,[0-9]{3} more characters"))
    expect(seen.incidents.locator("a")).to_have_count(1)
    expect(seen.incidents.locator("a")).to_have_attribute("href", "https://example.com/")
    expect(seen.outcome.locator("pre")).to_contain_text(r"\u202egnp.exe")
    expect(seen.page).to_have_title("RudderStack → PagerDuty")


def test_five_thousand_incidents_do_not_fill_the_page(seen: Seen, sandbox: Sandbox) -> None:
    for number in range(1, 5_001):
        payload = {"summary": f"Incident {number}", "source": "db-1", "severity": "error"}
        event = {"routing_key": LOCAL_ROUTING_KEY, "event_action": "trigger", "payload": payload}
        sandbox.apply(event, f"key-{number}")

    expect(seen.page.locator("#incident-counts")).to_have_text("5,000 triggered the newest 200 are here")
    expect(seen.incidents).to_have_count(30)
    expect(seen.incidents.first).to_contain_text("Incident 5000")
    seen.click("Show 30 more")
    expect(seen.incidents).to_have_count(60)


# -- for everybody ---------------------------------------------------------------------------------------------------


def test_it_works_by_keyboard_alone(seen: Seen) -> None:
    def focused() -> str:
        return str(seen.page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    visited = []
    for _ in range(5):
        seen.page.keyboard.press("Tab")
        visited.append(focused())
    seen.page.keyboard.press("Enter")
    expect(seen.incidents).to_contain_text(["triggered"])
    while focused() != "Resolve":
        seen.page.keyboard.press("Tab")
        visited.append(focused())
        assert len(visited) < 15
    seen.page.keyboard.press("Enter")

    assert visited[:5] == ["sample", "service", "event", "preview", "send"]
    expect(seen.incidents).to_contain_text(["resolved"])


def test_it_fits_a_narrow_window(seen: Seen) -> None:
    seen.page.set_viewport_size(NARROW)
    seen.write(track(event="long" * 256, properties={"dedupKey": "k" * 255, "customDetails": {"a": "b" * 500}}))
    seen.click("Send")
    seen.incidents.locator("summary").click()
    expect(seen.incidents.locator(".history")).to_be_visible()

    assert seen.page.evaluate("document.documentElement.scrollWidth") == 380


@pytest.mark.parametrize("axe", [ROOT / "tests" / "e2e" / "page"] if node_is_usable() else [], ids=["axe"])
def test_axe_finds_no_violation(seen: Seen, axe: Path) -> None:
    seen.pagerduty("refuses every event")
    seen.write([track()])
    seen.click("Send")
    expect(seen.page.locator("#dead-list li").first).to_be_visible()
    seen.pagerduty("is fine")
    seen.choose("Repaired, with warnings")
    seen.click("Send")
    seen.incidents.locator("summary", has_text="Payment provider is slow").click()
    seen.page.get_by_text("Settings of the mapping").click()
    expect(seen.incidents.locator(".history")).to_be_visible()
    expect(seen.outcome.locator("li.warning")).to_have_count(3)
    seen.page.evaluate((install_npm_packages(axe) / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))

    violations = []
    for scheme, viewport in product(SCHEMES, (WIDE, NARROW)):
        seen.page.emulate_media(color_scheme=scheme)
        seen.page.set_viewport_size(viewport)
        for found in seen.page.evaluate("axe.run()")["violations"]:
            violations += [
                f"{scheme} {viewport['width']} {found['id']}: {each['html'][:200]}" for each in found["nodes"]
            ]
    assert violations == []
