"""A real browser. Tests that need one are skipped where it is not installed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE_S = 90
NAMES = ("chromium", "chromium-browser", "google-chrome")
# no network requests except those of the page
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def open_browser() -> Iterator:
    """Chromium without a window; the test is skipped where it or playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[dev]"')
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the path (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One page in a window of its own; `window` has its options."""

    def __init__(self, browser, address: str, **window: Any):
        self.page = browser.new_page(**({"viewport": {"width": 1120, "height": 800}} | window))
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda entry: self.errors.append(entry.text) if entry.type == "error" else None,
        )
        self.address = address.partition("?")[0]
        self.page.goto(address)

    def foreign(self) -> list[str]:
        """What was asked of another host."""
        return [
            url for url in self.requests if not url.startswith((self.address, "data:", "blob:"))
        ]
