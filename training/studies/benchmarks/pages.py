"""Measure the latency of the web page and of the Space in a real browser, and take screenshots.

Examples:
  python -m training.studies.benchmarks.pages --site runs/web

It writes results.json, page.png and space.png.
"""

import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from PIL import Image

from training.edge.web.chromium import open_browser
from training.edge.web.serve import serve
from training.utils.cli import command_of, parse_options, user_errors
from training.utils.files import REPO_ROOT
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

PROGRAM = "python -m training.studies.benchmarks.pages"
SPACE = REPO_ROOT / "model_cards" / "space" / "app.py"
NUM_PAGE_LOADS, NUM_REQUESTS = 5, 20
WARM_UP = 3
TIMEOUT_S = 600  # the Space encodes its images when it starts
DESKTOP, PHONE = {"width": 1060, "height": 700}, {"width": 360, "height": 700}
# ten labels each; alternating between them prevents cached results
LABELS = (
    "猫, 狗, 兔子, 马, 牛, 羊, 鸟, 鱼, 老虎, 大象",
    "cat, dog, rabbit, horse, cow, sheep, bird, fish, tiger, elephant",
)
SCREENSHOT_LABELS = "猫, 狗, 兔子, a tiger, a cup of coffee"


@dataclass(frozen=True, kw_only=True)
class PagesOptions:
    """What to measure.

    Args:
        site: Folder that `python -m training.edge.web` wrote.
        model: Exported folder of the model for the Space.
        output_dir: Folder for results.json and the screenshots.
    """

    site: str = "runs/web"
    model: str = "model_cards/dcclip-tiny-photo"
    output_dir: str = "runs/pages"


def _serve_page(site: Path) -> str:
    """Serve a site in a background thread until this process ends; return its address."""
    addresses: Queue[str] = Queue()
    Thread(target=serve, args=(site, 0, addresses.put), daemon=True).start()
    return addresses.get()


@contextmanager
def serving_space(model: str) -> Iterator[str]:
    """Run the Space in a process of its own, and yield its address once it responds.

    Args:
        model: Folder of the model.

    Raises:
        ValueError: If the Space exits or does not respond in time.
    """
    port = free_port()
    arguments = [sys.executable, str(SPACE), "--model", model, "--port", str(port)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + TIMEOUT_S
    try:
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ValueError(
                    f"model: the Space does not start with {model!r}. Its error message is printed above."
                )
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(address: str) -> bool:
    """Whether a server responds at an address."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _open(browser: Any, address: str, viewport: dict[str, int]) -> Any:
    """Open a page in a new browser context, which has an empty cache."""
    page = browser.new_context(viewport=viewport).new_page()
    page.set_default_timeout(1000 * TIMEOUT_S)
    page.goto(address)
    return page


def measure_page(browser: Any, address: str, image: bytes) -> dict[str, float]:
    """Measure the web page.

    Args:
        browser: Browser of Playwright.
        address: Address of the page.
        image: Encoded image to classify.

    Returns:
        Medians in milliseconds: from opening to the first result, and per image.
    """
    ready, images = [], []
    for _ in range(NUM_PAGE_LOADS):
        page = _open(browser, address, DESKTOP)
        page.wait_for_selector("body[data-ready-ms]")
        ready.append(float(page.get_attribute("body", "data-ready-ms")))
        page.wait_for_selector("#found li", state="attached")
        if len(ready) < NUM_PAGE_LOADS:
            page.context.close()
    for _ in range(WARM_UP + NUM_REQUESTS):
        page.evaluate("document.getElementById('answer-note').textContent = ''")
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": image})
        page.wait_for_selector("#answer-note:has-text('ms')")  # a function would need eval, which the page forbids
        images.append(_milliseconds(page, "#answer-note b"))
    return {"first_answer_ms": statistics.median(ready), "image_ms": statistics.median(images[WARM_UP:])}


def measure_space(browser: Any, address: str) -> dict[str, float]:
    """Measure the Space.

    Args:
        browser: Browser of Playwright.
        address: Address of the Space.

    Returns:
        Median in milliseconds in the server for an image with ten labels.
    """
    page = _open(browser, address, DESKTOP)
    page.wait_for_selector("#answer .bars")
    times = []
    for number in range(WARM_UP + NUM_REQUESTS):
        labels = LABELS[number % len(LABELS)]
        page.fill("#labels textarea", labels)
        page.wait_for_selector(f"#answer .name:text-is('{labels.split(', ')[0]}')")
        times.append(_milliseconds(page, "#answer .note b"))
    return {"ten_labels_ms": statistics.median(times[WARM_UP:])}


def _milliseconds(page: Any, selector: str) -> float:
    return float(page.inner_text(selector).removesuffix(" ms"))


def take_screenshot(browser: Any, address: str, path: Path):
    """Save a screenshot: the first tab in a desktop window beside the second tab on a phone.

    Args:
        browser: Browser of Playwright.
        address: Address of the page or the Space.
        path: Path of the PNG file.
    """
    shots = []
    for viewport, tab, selector in ((DESKTOP, 0, "#answer li >> nth=0"), (PHONE, 1, "#found li >> nth=0")):
        page = _open(browser, address, viewport)
        page.wait_for_selector("#answer .bars, #answer.bars li")
        page.fill("#labels textarea, textarea#labels", SCREENSHOT_LABELS)
        page.get_by_role("tab").nth(tab).click()
        page.wait_for_selector(selector)
        page.wait_for_timeout(1000)  # images load, transitions end
        page.mouse.move(0, 0)
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        page.context.close()
    gap = 24
    width, height = sum(shot.width for shot in shots) + 3 * gap, shots[0].height + 2 * gap
    sheet = Image.new("RGB", (width, height), "#cbd5e1")
    left = gap
    for shot in shots:
        sheet.paste(shot, (left, gap))
        left += shot.width + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _read_site(site: Path) -> dict[str, Any]:
    path = site / "site.json"
    if not path.is_file():
        raise ValueError(
            f"site: {str(site)!r} has no site.json. Name a folder that `python -m training.edge.web` wrote."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def measure(options: PagesOptions) -> Results:
    """Measure the web page and the Space, take screenshots, and write results.json.

    Args:
        options: What to measure.

    Raises:
        ValueError: If a folder has the wrong content, or the browser is missing.
    """
    output_dir, site = Path(options.output_dir), Path(options.site)
    example = site / str(_read_site(site).get("example"))
    if not example.is_file():
        raise ValueError(
            f"site: {options.site!r} has no example image, which the page shows first. Name a folder that "
            "`python -m training.edge.web` wrote for a model with an example, such as the model of photographs."
        )
    measured: dict[str, dict[str, float]] = {}
    with open_browser() as browser:
        address = _serve_page(site)
        measured["page"] = measure_page(browser, address, example.read_bytes())
        take_screenshot(browser, address, output_dir / "page.png")
        with serving_space(options.model) as address:
            measured["space"] = measure_space(browser, address)
            take_screenshot(browser, address, output_dir / "space.png")
        version = browser.version
    rows = [
        Row(model=name, metric=metric, value=value)
        for name, values in measured.items()
        for metric, value in values.items()
    ]
    meta = make_meta(
        data=f"medians of {NUM_PAGE_LOADS} page loads and {NUM_REQUESTS} requests",
        seed=None,
        command=command_of(PROGRAM, options),
        browser=f"Chromium {version}",
        cores=os.cpu_count(),
    )
    results = Results(meta, rows)
    results.write(output_dir)
    return results


def main(argv: list[str] | None = None):
    """Parse the options, measure, print."""
    options = parse_options(PagesOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("pages", extra="browser"):
        results = measure(options)
    for row in results.rows:
        print(f"{row.model:6} {row.metric:16} {row.value:8.0f}")
    print(f"\n{Path(options.output_dir) / RESULTS_FILE}")


if __name__ == "__main__":
    main()
