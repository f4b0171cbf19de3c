"""A real browser. Tests that need one are skipped where it is not installed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.local_server import answers
from training.edge.web import chromium

PATIENCE_S = 90


@contextmanager
def open_browser() -> Iterator:
    """Chromium without a window; the test is skipped where it is missing."""
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(chromium.open_browser())
        except ValueError as error:
            pytest.skip(str(error))
        yield browser


class Visit:
    """One page in a window of its own.

    Args:
        browser: of `open_browser`.
        address: of the page.
        width: of the window, in pixels.
    """

    def __init__(self, browser, address: str, width: int = 1120):
        self.page = browser.new_page(viewport={"width": width, "height": 800})
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda entry: self.errors.append(entry.text) if entry.type == "error" else None)
        self.address = address
        self.page.goto(address)

    def foreign(self) -> list[str]:
        """What was asked of another host."""
        return [url for url in self.requests if not url.startswith((self.address, "data:", "blob:"))]

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@contextmanager
def serving(arguments: list[str], port: int, cwd: Path, environment: dict[str, str]) -> Iterator[str]:
    """A Python process that serves a page; its address, once it answers."""
    log = cwd / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        address = f"http://127.0.0.1:{port}/"
        try:
            until = time.monotonic() + PATIENCE_S
            while not answers(address):
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait()
