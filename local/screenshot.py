"""`python -m local.screenshot`: use the page in a browser and write its picture for the README."""

import re
import sys
from typing import TYPE_CHECKING, Final

from local.browser import chromium
from local.options import ROOT, Options
from local.pagerduty_rules import RATE_WINDOW
from local.stack import LocalStack
from local.ui import Page

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

PICTURE: Final = ROOT / "docs" / "page.png"
# A storm of minutes takes seconds.
_SPEED: Final = 6.0
# About the width at which the README is shown.
_SCALE: Final = 0.7
_TIMEOUT_MILLISECONDS: Final = 120_000


def main() -> int:
    """Take the picture; return 0, or 1 if there is no browser."""
    try:
        with chromium() as browser, Page(Options(speed=_SPEED, services={"checkout": "checkout" * 4})) as stack:
            tab = browser.new_page(viewport={"width": 1600, "height": 1120}, device_scale_factor=_SCALE)
            tab.set_default_timeout(_TIMEOUT_MILLISECONDS)
            _play(tab, stack)
            tab.screenshot(path=PICTURE)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} KB")
    return 0


def _play(tab: "Tab", stack: LocalStack) -> None:
    """Start a storm, open incidents, resolve one, and send an event that is repaired."""
    if stack.sandbox:
        stack.sandbox.window = RATE_WINDOW / _SPEED
    tab.goto(f"{stack.url}/")
    tab.locator("#path", has_text="POST").wait_for()

    tab.get_by_label("Warnings", exact=True).fill("150")
    _set_limit(tab, "40")
    tab.get_by_role("button", name="Start").click()
    tab.locator("#pages-text", has_text=re.compile("^1[0-9] of 20")).wait_for()

    _set_limit(tab, "120")
    _send(tab, "A change event")
    tab.locator("#change-list > li").wait_for()
    _send(tab, "Open an incident")
    tab.get_by_role("button", name="Resolve: Disk is full").click()
    tab.locator("#incident-list .resolved").first.wait_for()
    _send(tab, "alert-1-trigger.json (RudderStack's sample call)")
    tab.get_by_role("button", name="Acknowledge: apiSecret").click()
    tab.locator("#incident-list .acknowledged").first.wait_for()
    _send(tab, "Repaired, with warnings")
    tab.locator("#incident-list summary", has_text="Payment provider is slow").click()
    tab.get_by_role("heading", name="Try an event").click()


def _set_limit(tab: "Tab", calls: str) -> None:
    tab.get_by_label("limits the rate to").check()
    tab.get_by_label("Calls a minute and routing key").fill(calls)
    tab.get_by_label("Calls a minute and routing key").press("Tab")


def _send(tab: "Tab", sample: str) -> None:
    tab.get_by_label("Sample").select_option(label=sample)
    with tab.expect_response("**/page/try"):
        tab.get_by_role("button", name="Send", exact=True).click()


if __name__ == "__main__":
    sys.exit(main())
