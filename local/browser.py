"""Chromium for the tests and the screenshot of the page: without a window, and with nothing of the user's."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Debian's name first.
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS: Final = (
    "--no-sandbox",  # which Chromium refuses to run with as root; it opens nothing but our own page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Find the browser; None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    """Run the browser without a window, with an empty profile. Raises FileNotFoundError where there is none."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- only who needs a browser pays for it

    path = find_chromium()
    if path is None:
        raise FileNotFoundError("Chromium is not on this machine. On Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        yield browser
        browser.close()
