"""The page of `make serve` in a real browser, with the whole stack behind it.

Not collected where Chromium is missing; the run says so at its end.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import urllib3
from playwright.sync_api import Page, ViewportSize, expect
from samcli.cli.types import CfnParameterOverridesType

import local.ui
from local.options import LOCAL_TOKEN, ROOT, Options
from local.sandbox import Sandbox
from local.stack import LocalStack
from tests.e2e.browser import chromium
from tests.support import drain, install_npm_packages, node_is_usable, track

WIDE: Final[ViewportSize] = {"width": 1600, "height": 1000}
NARROW: Final[ViewportSize] = {"width": 380, "height": 800}
LOOKS: Final[tuple[tuple[Literal["light", "dark"], ViewportSize], ...]] = (("light", WIDE), ("dark", NARROW))

# Milliseconds: on a busy machine, a function can take many seconds to start.
TIMEOUT: Final = 60_000
expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """Run one stack for all tests without options of their own; delayed events return sooner in it."""
    with local.ui.Page(getattr(request, "param", Options(speed=30, rate_limit=None))) as running:
        yield running


@pytest.fixture
def sandbox(stack: LocalStack) -> Iterator[Sandbox]:
    """Return the stack's PagerDuty, without incidents; afterwards no failure is simulated."""
    assert stack.sandbox is not None
    stack.sandbox.clear()
    yield stack.sandbox
    urllib3.request("POST", f"{stack.url}/api/pagerduty", json={"mode": "works"})
    drain(stack)


class Seen:
    """The page, by what a user sees."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.badge = page.locator("#verdict .badge")
        self.verdict = page.locator("#verdict")
        self.outcome = page.locator("#outcome")
        self.incidents = page.locator("#incident-list > li")
        self.editor = page.locator("#event")
        self.marked = page.locator("#gutter b")

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
        with self.page.expect_response("**/api/pagerduty"):
            self.page.get_by_label(behaviour).check()


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def tab(complaints: list[str]) -> Iterator[Page]:
    """Open one tab for all tests; collect console messages, errors, and requests to other hosts."""
    own = "http://127.0.0.1:"
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda each: None if each.url.startswith(own) else complaints.append(each.url))
        yield page


@pytest.fixture
def seen(tab: Page, complaints: list[str], stack: LocalStack, sandbox: Sandbox) -> Iterator[Seen]:
    """Load the page; a script that is blocked or fails, or a request to another host, fails the test."""
    tab.set_viewport_size(WIDE)
    page = Seen(tab)
    page.load(stack)
    yield page
    noted = complaints[:]
    tab.evaluate("sessionStorage.clear()")
    # Otherwise the page would complain when its stack ends.
    tab.goto("about:blank")
    complaints.clear()
    assert noted == []


def test_a_newcomer_opens_an_incident_and_resolves_it_with_the_keyboard(seen: Seen) -> None:
    seen.editor.focus()
    draft = seen.editor.input_value()
    seen.page.keyboard.press("Control+Enter")

    expect(seen.badge).to_have_text("200 delivered")
    expect(seen.verdict).to_contain_text("RudderStack is done with it.")
    expect(seen.verdict).to_contain_text(json.loads(draft)["messageId"])
    expect(seen.outcome).to_contain_text('"summary": "Disk is full"')
    expect(seen.incidents).to_contain_text(["#1 triggered critical Disk is full"])

    seen.page.get_by_label("Show incidents that are").focus()
    for _ in range(5):  # All of them, the list, the incident, Acknowledge.
        seen.page.keyboard.press("Tab")
    expect(seen.page.get_by_role("button", name="Resolve: Disk is full")).to_be_focused()
    seen.page.keyboard.press("Enter")

    expect(seen.incidents).to_contain_text(["resolved critical Disk is full"])
    expect(seen.outcome).to_contain_text("Sent: resolve of incident #1")
    expect(seen.editor).to_have_value(re.compile('"dedupKey": "disk-full"\n'))
    seen.incidents.locator("summary").click()
    expect(seen.incidents.locator(".history li")).to_have_text([re.compile("^triggered "), re.compile("^resolved ")])


def test_a_draft_survives_a_sample_and_a_reload(seen: Seen, stack: LocalStack) -> None:
    seen.editor.fill('{"my": "draft"}')
    seen.choose("A change event")
    expect(seen.editor).not_to_have_value('{"my": "draft"}')
    seen.click("Undo")
    seen.load(stack)

    expect(seen.editor).to_have_value('{"my": "draft"}')


def test_a_request_of_another_program_is_found_and_sent_again(seen: Seen, stack: LocalStack) -> None:
    headers = {"Authorization": f"Bearer {LOCAL_TOKEN}"}
    for key in ("a", "b"):
        event = track(messageId=f"m-{key}", properties={"dedupKey": key})
        urllib3.request("POST", f"{stack.url}/events", json=event, headers=headers)
    rows = seen.page.locator("#request-list > li")
    seen.page.get_by_label("Search the requests").fill('"dedupKey":"a"')
    expect(rows).to_contain_text(["m-a"])
    seen.page.reload()

    expect(rows).to_contain_text(["m-a"])
    rows.locator("summary").first.click()
    expect(rows.locator(".history li").first).to_contain_text("delivered, PagerDuty answered 202")
    expect(rows.get_by_label("Body")).to_contain_text('"dedupKey":"a"')
    expect(rows).not_to_contain_text([LOCAL_TOKEN])
    seen.click("Send again")
    expect(seen.badge).to_have_text("200 delivered")
    seen.click("Edit and send")
    expect(seen.editor).to_have_value(re.compile('"dedupKey":"a"'))

    # Requests of clicks during a call are sent after it.
    seen.pagerduty("does not answer")
    seen.click("Send")
    seen.page.get_by_role("button", name="Resolve: Disk is full").first.click()
    expect(seen.outcome).to_contain_text("Sent: resolve of incident #")


def test_a_dead_letter_is_redriven(seen: Seen) -> None:
    seen.pagerduty("refuses every event")
    seen.write([track()])
    seen.click("Send")
    letters = seen.page.locator("#dead-list > li")
    expect(letters).to_contain_text(["pagerduty_rejected PagerDuty refused the event for good with 400"])
    seen.pagerduty("works")
    seen.page.get_by_role("button", name="Redrive: Disk is full").click()

    expect(seen.incidents).to_contain_text(["triggered critical Disk is full"])
    expect(letters).to_have_count(0)


def test_a_warning_and_a_refusal_are_marked_at_their_lines(seen: Seen) -> None:
    seen.choose("Repaired, with warnings")
    seen.click("Preview")

    expect(seen.outcome.locator("li.warning")).to_contain_text(
        ["properties.severity: expected", "properties.group: expected", "properties.linkURLs[0]: expected"]
    )
    expect(seen.marked).to_have_text(["7", "9", "13"])

    seen.choose("Refused: a misspelt action")
    seen.click("Send")

    expect(seen.badge).to_have_text("400 rejected")
    expect(seen.verdict).to_contain_text("RudderStack gives it up and never sends it again.")
    expect(seen.verdict).to_contain_text("properties.action: expected trigger, acknowledge or resolve")
    expect(seen.marked).to_have_text(["6"])


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


# -- PagerDuty fails -------------------------------------------------------------------------------------------------


def test_an_event_waits_in_the_queue_while_pagerduty_is_down(seen: Seen) -> None:
    seen.pagerduty("fails with 503")
    seen.click("Send")
    expect(seen.badge).to_have_text("200 queued")
    expect(seen.page.locator("#queue-list")).to_contain_text(
        re.compile(r"Disk is full.*delayed until .*PagerDuty failed")
    )

    expect(seen.page.locator("#flow")).to_contain_text(re.compile("default through the queue until .* left1 waiting"))

    seen.pagerduty("works")

    expect(seen.incidents).to_contain_text(["Disk is full"])
    expect(seen.page.locator("#queue-empty")).to_be_visible()


# A stack of its own, because a storm leaves events in the queue and delays in the workers.
@pytest.mark.parametrize("stack", [Options(rate_limit=None)], ids=["alone"], indirect=True)
def test_in_a_storm_critical_events_arrive_while_the_others_are_delayed(
    seen: Seen, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.ui, "_PAGE_SECONDS", 0.1)
    # So few that some calls are refused on a slow machine too.
    sandbox.window = 0.5
    seen.page.locator("#limit").fill("8")
    seen.pagerduty("limits the rate to")
    seen.page.locator("#storm-size").fill("60")
    height = seen.page.evaluate("document.documentElement.scrollHeight")
    seen.click("Start")

    expect(seen.page.locator("#pages-text")).to_contain_text("20 of 20, the slowest after")
    expect(seen.page.locator("#queue-counts")).to_contain_text("delayed")
    reasons = re.compile("delayed until .*, tried .*: (PagerDuty limits the rate|room is left)")
    expect(seen.page.locator("#queue-list")).to_contain_text(reasons)
    expect(seen.page.locator("#sum-limited")).not_to_have_text("0")
    expect(seen.page.locator("#chart")).to_have_attribute("aria-label", re.compile("^80 received"))
    assert seen.page.evaluate("document.documentElement.scrollHeight") <= height

    seen.pagerduty("works")
    seen.click("Try now")
    expect(seen.page.locator("#queue-empty")).to_be_visible()


def test_hostile_values_are_shown_as_text_and_fit_a_narrow_window(seen: Seen) -> None:
    title = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">\u202egnp.exe"
    links = ["javascript:document.title='ran'", {"href": "data:text/html,x", "text": "data"}, "https://example.com/"]
    details = {"many": "x" * 450_000, "<b>": "</pre><script>document.title='ran'</script>"}
    seen.page.set_viewport_size(NARROW)
    seen.write(track(event=title, properties={"linkURLs": links, "customDetails": details, "clientUrl": links[0]}))
    seen.click("Send")

    expect(seen.incidents.locator(".title")).to_have_text(title)
    seen.incidents.locator("summary").click()
    expect(seen.incidents.locator(".body")).to_contain_text(re.compile("446,[0-9]{3} more characters"))
    expect(seen.incidents.locator("a")).to_have_count(1)
    expect(seen.incidents.locator("a")).to_have_attribute("href", "https://example.com/")
    expect(seen.page).to_have_title("RudderStack → PagerDuty")
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 380


@pytest.mark.parametrize("axe", [ROOT / "tests" / "e2e" / "page"] if node_is_usable() else [], ids=["axe"])
def test_axe_finds_no_violation(seen: Seen, axe: Path) -> None:
    seen.pagerduty("refuses every event")
    seen.write([track()])
    seen.click("Send")
    expect(seen.page.locator("#dead-list li").first).to_be_visible()
    seen.pagerduty("works")
    seen.choose("Repaired, with warnings")
    seen.click("Send")
    seen.incidents.locator("summary", has_text="Payment provider is slow").click()
    expect(seen.outcome.locator("li.warning")).to_have_count(3)
    seen.page.evaluate((install_npm_packages(axe) / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))

    violations = []
    for scheme, viewport in LOOKS:
        seen.page.emulate_media(color_scheme=scheme)
        seen.page.set_viewport_size(viewport)
        for found in seen.page.evaluate("axe.run()")["violations"]:
            violations += [
                f"{scheme} {viewport['width']} {found['id']}: {each['html'][:200]}" for each in found["nodes"]
            ]
    assert violations == []
