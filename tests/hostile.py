"""Send hostile requests to the endpoint, many at once, and measure the peak memory of its process.

    python -m tests.hostile                              100 requests, 50 at once; rewrites the table in tests/results
    python -m tests.hostile --num_requests 50 --model runs/demo/model

Once to the handler of the model folder, as on Inference Endpoints, with a thread for each request, and once through
`python -m training.hub.endpoint`, which also gets bodies of the largest size. The exit code is 1 if a peak is above
the limit, or an answer is no scores, no error in 400..499 and no 503 (busy). This needs /proc, so Linux.
"""

import base64
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from modeling_dcclip.image_dcclip import ORIENTATION
from tests.tiny import ROOT
from training.utils.cli import parse_options
from training.utils.results import markdown_table

RESULTS = ROOT / "tests" / "results"
TIMEOUT_S = 3600
STOP_S = 30
# runs in the process of the handler: requests come from a file, one JSON line each, and the result goes to stdout
CHILD = """
import json, sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
from handler import EndpointHandler
handler = EndpointHandler(sys.argv[1])
lines = open(sys.argv[2], "rb").read().splitlines()
def answer(number):
    try:
        return f"{len(handler(json.loads(lines[number % len(lines)])))} scores"
    except Exception as error:
        return getattr(error, "status_code", f"{type(error).__name__}: {error}")
def memory():
    lines = [line.split() for line in open("/proc/self/status") if line.startswith(("VmRSS", "VmHWM"))]
    return {name.strip(":"): int(value) / 1024 for name, value, _ in lines}
before = memory()["VmRSS"]
with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    counts = Counter(map(str, pool.map(answer, range(int(sys.argv[3])))))
print("RESULT", json.dumps({"before": before, "peak": memory()["VmHWM"], "answers": counts}))
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the measurement.

    Args:
        model: Folder of a finished model.
        num_requests: Number of requests.
        concurrent: Number of requests at once.
        max_mib: Largest allowed peak memory in MiB.
    """

    model: str = str(ROOT / "model_cards" / "dcclip-tiny-photo")
    num_requests: int = 100
    concurrent: int = 50
    max_mib: int = 1024


@dataclass(frozen=True)
class Found:
    """Result of one way to send the requests.

    Args:
        before: Memory of the process at rest, in MiB.
        peak: Its peak memory in MiB.
        answers: Number of each answer: `N scores`, or a status.
    """

    before: float
    peak: float
    answers: dict[str, int]

    def is_good(self, max_mib: int) -> bool:
        """Whether the memory stayed under its limit, and every answer is one that a client can act on."""
        clean = all(answer.endswith(" scores") or answer[0] == "4" or answer == "503" for answer in self.answers)
        return clean and self.peak <= max_mib


def payloads() -> dict[str, dict]:
    """Requests that take much memory or time, each small enough to be sent."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    good = encoded(Image.fromarray(noise), "PNG")
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    images = {
        "largest RGB": encoded(Image.new("RGB", (6324, 6324), "red"), "PNG"),
        "largest transparent": encoded(Image.new("RGBA", (6324, 6324), (255, 0, 0, 9)), "PNG"),
        "largest turned": encoded(Image.new("RGBA", (6324, 6324), (255, 0, 0, 9)), "PNG", exif=turned),
        "largest 16 bits": encoded(Image.new("I;16", (6324, 6324), 999), "PNG"),
        "largest JPEG": encoded(Image.new("RGB", (6324, 6324), "red"), "JPEG"),
        "long": encoded(Image.new("L", (200_000, 1)), "PNG"),
        "bomb": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "truncated": good[: len(good) // 2],
        "no image": "A" * 1000,
    }
    requests: dict[str, dict] = {name: {"inputs": image, "candidate_labels": ["a"]} for name, image in images.items()}
    words = [f"{number} " + "word " * 20 for number in range(1000)]
    labels = {"many labels": words, "a long label": ["x" * 2_000_000], "too many labels": ["x"] * 100_000}
    requests |= {name: {"inputs": good, "candidate_labels": value} for name, value in labels.items()}
    requests["a long template"] = {
        "inputs": good, "candidate_labels": words, "parameters": {"hypothesis_template": "{} " * 300},
    }  # fmt: skip
    return requests


def bodies() -> list[bytes]:
    """Bodies of requests: the payloads, and some of nearly the largest size that is read, 44 MiB."""
    noise = np.random.default_rng(0).integers(0, 256, (3300, 3300, 3), dtype=np.uint8)
    image = encoded(Image.fromarray(noise), "PNG", compress_level=0)
    size = 44 * 2**20 - 1000
    text = '{"inputs": "%s", "candidate_labels": ["%s"]}'
    large = [
        text % (image, "a"),
        text % (image, "\U0001f431"),  # a string with it takes four bytes a character
        text % ("AA " * (size // 3), "a"),
        text % ("A" * size, "a"),
        '{"candidate_labels": [' + "[]," * (size // 3) + "[]]}",
        '{"candidate_labels": "' + "," * size + '"}',
        "[" * size,
    ]
    return [json.dumps(payload).encode() for payload in payloads().values()] + [each.encode() for each in large]


def encoded(image: Image.Image, file_format: str, **options) -> str:
    """Base64 of an encoded image."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return base64.b64encode(file.getvalue()).decode()


def measure_handler(options: Options, folder: Path) -> Found:
    """Run the requests in a process of the handler.

    Args:
        options: Model and number of requests.
        folder: Folder for the file of requests.

    Raises:
        RuntimeError: The process failed.
    """
    path = folder / "requests.jsonl"
    path.write_text("\n".join(json.dumps(payload) for payload in payloads().values()), encoding="utf-8")
    numbers = [str(options.num_requests), str(options.concurrent)]
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(options.model).resolve()), str(path), *numbers],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"The process of the handler failed:\n{run.stderr[-3000:]}")
    return Found(**json.loads(run.stdout.partition("RESULT ")[2]))


def measure_server(options: Options, folder: Path) -> Found:
    """Send the requests to `python -m training.hub.endpoint`.

    Args:
        options: Model and number of requests.
        folder: Folder for the server's log.

    Raises:
        RuntimeError: The server did not start.
    """
    contents = bodies()
    command = [sys.executable, "-m", "training.hub.endpoint", "--port", "0", "--model", options.model]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            command, env=environment(folder), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split(" ")[0]
        if not url:
            raise RuntimeError(f"The server did not start:\n{(folder / 'log.txt').read_text()[-3000:]}")
        before = memory_mib(server.pid, "VmRSS")
        with ThreadPoolExecutor(options.concurrent) as pool:
            sent = [contents[number % len(contents)] for number in range(options.num_requests)]
            answers = Counter(pool.map(lambda body: answer_of(url, body), sent))
        return Found(before, memory_mib(server.pid, "VmHWM"), dict(answers))
    finally:
        server.terminate()
        server.wait(STOP_S)


def answer_of(url: str, body: bytes) -> str:
    """Send a body, and return the number of scores or the status."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    except ConnectionError:
        return "connection closed"
    finally:
        connection.close()
    return f"{len(json.loads(content))} scores" if answer.status == http.HTTPStatus.OK else str(answer.status)


def memory_mib(process: int, name: str) -> float:
    """`VmRSS` (memory now) or `VmHWM` (its peak) of a process, in MiB. Peaks of getrusage include the parent's."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def environment(folder: Path) -> dict[str, str]:
    """Environment of the process that is measured."""
    return os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def table(results: dict[str, Found]) -> str:
    """Render the results as a Markdown table."""
    lines: list[Sequence[str]] = [
        ["requests to", "at rest, MiB", "peak, MiB", "answers"],
        ["---", "---:", "---:", "---"],
    ]
    for name, found in results.items():
        answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(found.answers.items()))
        lines.append([name, f"{found.before:.0f}", f"{found.peak:.0f}", answers])
    return markdown_table(lines)


def main(argv: list[str] | None = None) -> int:
    """Parse the options, measure and print."""
    options = parse_options(Options, argv, prog="python -m tests.hostile", description=__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="dcclip-hostile-") as folder:
        results = {
            "the handler": measure_handler(options, Path(folder)),
            "the server": measure_server(options, Path(folder)),
        }
    print(table(results))
    if options == Options():
        content = {name: asdict(found) for name, found in results.items()}
        (RESULTS / "hostile.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        title = f"{options.num_requests} hostile requests, {options.concurrent} at once; limit {options.max_mib} MiB."
        text = f"Written by `python -m tests.hostile`. {title}\n\n{table(results)}\n"
        (RESULTS / "hostile.md").write_text(text, encoding="utf-8")
    return int(not all(found.is_good(options.max_mib) for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
