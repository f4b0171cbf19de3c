"""How quickly the page and the Space answer in a real browser, and what they look like.

python -m training.studies.benchmarks.pages --site runs/web --model runs/demo/model
--output_dir model_cards/results/pages

It writes results.json, page.png and space.png.
"""

import io
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

from jsonargparse import ArgumentError, ArgumentParser
from PIL import Image

from training.edge.web.assemble import EXAMPLE
from training.edge.web.chromium import open_browser
from training.edge.web.serve import serve
from training.utils.cli import command_of
from training.utils.files import REPO_ROOT
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

SPACE = REPO_ROOT / "model_cards" / "space" / "app.py"
OPENINGS, ANSWERS = 5, 20
WARM_UP = 3
PATIENCE_S = 600  # the Space encodes its images before it answers
DESK, PHONE = {"width": 1060, "height": 700}, {"width": 360, "height": 700}
# ten labels each, so that every change is answered anew
LABELS = (
    "狐狸, 狗, 猫, 熊, 老虎, 兔子, 马, 牛, 猪, 羊",
    "fox, dog, cat, bear, tiger, rabbit, horse, cow, pig, sheep",
)
SHOWN = "狐狸, 狗, 猫, 熊, a red apple, a rocket"


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What to look at.

    Args:
        site: folder that `python -m training.edge.web` wrote.
        model: folder for the Space.
        output_dir: results.json and the images of both.
    """

    site: str = "runs/web"
    model: str = "runs/demo/model"
    output_dir: str = "runs/pages"


def _serve_page(site: Path) -> str:
    """The address of a site that is served for as long as this process runs."""
    addresses: Queue[str] = Queue()
    Thread(target=serve, args=(site, 0, addresses.put), daemon=True).start()
    return addresses.get()


@contextmanager
def serving_space(model: str) -> Iterator[str]:
    """The Space in a process of its own; its address, once it answers.

    Raises:
        ValueError: it ends, or needs too long.
    """
    port = free_port()
    arguments = [sys.executable, str(SPACE), "--model", model, "--port", str(port)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    address, until = f"http://127.0.0.1:{port}/", time.monotonic() + PATIENCE_S
    try:
        while not answers(address):
            if process.poll() is not None or time.monotonic() > until:
                raise ValueError(f"model: the Space does not start with {model!r}; its message stands above.")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(address: str) -> bool:
    """Whether anything is served there yet."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _open(browser: Any, address: str, viewport: dict[str, int]) -> Any:
    """A page in a context of its own, which has no cache."""
    page = browser.new_context(viewport=viewport).new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    page.goto(address)
    return page


def measure_page(browser: Any, address: str, image: bytes) -> dict[str, float]:
    """Milliseconds, medians: from opening to the first answer, then for each image."""
    ready, images = [], []
    for _ in range(OPENINGS):
        page = _open(browser, address, DESK)
        page.wait_for_selector("body[data-ready-ms]")
        ready.append(float(page.get_attribute("body", "data-ready-ms")))
        page.wait_for_selector("#found li", state="attached")
        if len(ready) < OPENINGS:
            page.context.close()
    for _ in range(WARM_UP + ANSWERS):
        page.evaluate("document.getElementById('answer-note').textContent = ''")
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": image})
        page.wait_for_function("document.getElementById('answer-note').textContent.includes('ms')")
        images.append(_milliseconds(page, "#answer-note b"))
    return {"first_answer_ms": statistics.median(ready), "image_ms": statistics.median(images[WARM_UP:])}


def measure_space(browser: Any, address: str) -> dict[str, float]:
    """Milliseconds in the server, median, for an image with ten labels."""
    page = _open(browser, address, DESK)
    page.wait_for_selector("#answer .bars")
    times = []
    for number in range(WARM_UP + ANSWERS):
        labels = LABELS[number % len(LABELS)]
        page.fill("#labels textarea", labels)
        page.wait_for_selector(f"#answer .name:text-is('{labels.split(', ')[0]}')")
        times.append(_milliseconds(page, "#answer .note b"))
    return {"ten_labels_ms": statistics.median(times[WARM_UP:])}


def _milliseconds(page: Any, selector: str) -> float:
    return float(page.inner_text(selector).removesuffix(" ms"))


def take_image(browser: Any, address: str, path: Path):
    """The first tab in a window, beside the second tab on a phone."""
    shots = []
    for viewport, tab, awaited in ((DESK, 0, "#answer li >> nth=0"), (PHONE, 1, "#found li >> nth=0")):
        page = _open(browser, address, viewport)
        page.wait_for_selector("#answer .bars, #answer.bars li")
        page.fill("#labels textarea, textarea#labels", SHOWN)
        page.get_by_role("tab").nth(tab).click()
        page.wait_for_selector(awaited)
        page.wait_for_timeout(1000)  # images and transitions
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


def measure(options: MeasureOptions) -> Results:
    """Serve both, look at both, write.

    Raises:
        ValueError: a folder is not what it should be, or the browser is missing.
    """
    output_dir, site = Path(options.output_dir), Path(options.site)
    if not (site / EXAMPLE).is_file():
        raise ValueError(
            f"site: {options.site!r} has no {EXAMPLE}, with which the page begins. Name a folder that "
            "`python -m training.edge.web` made of a model with one, such as the demo's."
        )
    found: dict[str, dict[str, float]] = {}
    with open_browser() as browser:
        address = _serve_page(site)
        found["page"] = measure_page(browser, address, (site / EXAMPLE).read_bytes())
        take_image(browser, address, output_dir / "page.png")
        with serving_space(options.model) as address:
            found["space"] = measure_space(browser, address)
            take_image(browser, address, output_dir / "space.png")
        version = browser.version
    rows = [
        Row(model=name, metric=metric, value=value)
        for name, values in found.items()
        for metric, value in values.items()
    ]
    meta = make_meta(
        data=f"{OPENINGS} openings, {ANSWERS} answers, medians",
        seed=None,
        command=command_of("python -m training.studies.benchmarks.pages", options),
        browser=f"Chromium {version}",
        cores=os.cpu_count(),
    )
    results = Results(meta, rows)
    results.write(output_dir)
    return results


def main(argv: list[str] | None = None):
    """Parse, measure, print."""
    parser = ArgumentParser(
        prog="python -m training.studies.benchmarks.pages",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_class_arguments(MeasureOptions)
    try:
        options = MeasureOptions(**vars(parser.instantiate(parser.parse_args(argv))))
        results = measure(options)
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"measure: {error}\n")
    for row in results.rows:
        print(f"{row.model:6} {row.metric:16} {row.value:8.0f}")
    print(f"\n{Path(options.output_dir) / RESULTS_FILE}")


if __name__ == "__main__":
    main()
