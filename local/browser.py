"""Headless Chromium, without the user's profile, for the page's tests and screenshot."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Debian's name first.
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the browser's path, or None if there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    """Run the browser headless, with an empty profile. Raises FileNotFoundError if there is none."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- most tests need no browser

    path = find_chromium()
    if path is None:
        raise FileNotFoundError("Chromium is not installed. On Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
