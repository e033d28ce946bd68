"""Headless Chromium for the page's tests; `python -m tests.e2e.browser` writes the page's picture for the README."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")  # Debian's first
# About the width at which the README is shown.
_SCALE: Final = 0.8


def find_chromium() -> str | None:
    """Return the browser's path, or None if there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    """Run the browser headless, with an empty profile. Raises SystemExit if there is none."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- most tests need no browser

    path = find_chromium()
    if path is None:
        raise SystemExit("Chromium is not installed. On Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path) as browser:
        yield browser


def main() -> None:
    """Start a storm, and send an event that is repaired while critical events arrive and the warnings wait."""
    from local.options import ROOT, Options  # noqa: PLC0415 -- the tests set variables for them first
    from local.ui import Page  # noqa: PLC0415 -- the same

    with chromium() as browser, Page(Options(services={"checkout": "checkout" * 4})) as stack:
        tab = browser.new_page(viewport={"width": 1440, "height": 1180}, device_scale_factor=_SCALE)
        tab.goto(f"{stack.url}/")
        tab.locator("#path", has_text="POST").wait_for()
        tab.get_by_label("Warnings", exact=True).fill("150")
        tab.get_by_role("button", name="Start").click()
        # One is sent every five seconds.
        tab.locator("#pages-text", has_text=re.compile("^[5-9] of 20")).wait_for(timeout=60_000)
        tab.get_by_label("Sample").select_option(label="Repaired, with warnings")
        with tab.expect_response("**/api/send"):
            tab.get_by_role("button", name="Send", exact=True).click()
        tab.locator("#request-list > li:first-child", has_text="queued").wait_for()
        tab.get_by_role("heading", name="Try an event").click()
        tab.screenshot(path=ROOT / "docs" / "page.png")


if __name__ == "__main__":
    main()
