"""Run Chromium headless through playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Open a `playwright.sync_api.Browser` and close it after the block.

    Raises:
        ValueError: playwright or Chromium is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ValueError('browser: playwright is not installed. Run `pip install -e ".[browser]"`.') from error
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise ValueError(
            f"browser: none of {', '.join(NAMES)} is on the path. Install one (Debian: apt-get install chromium)."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
