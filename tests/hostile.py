"""Send hostile requests to the endpoint's handler, many at once, and measure the peak memory of its process.

    python -m tests.hostile                              200 requests, 50 at once
    python -m tests.hostile --num_requests 50 --model runs/demo/model

The handler runs as on Inference Endpoints: from the model folder, in a process of its own, with a thread for each
request. The exit code is 1 if the peak is above the limit, or an answer is no score and no error in 400..499.
"""

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import ROOT
from training.utils.cli import parse_options

TIMEOUT_S = 3600
# runs in the process of the handler: requests come from a file, one JSON line each, and the result goes to stdout
CHILD = """
import json, resource, sys
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
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    counts = Counter(map(str, pool.map(answer, range(int(sys.argv[3])))))
print("RESULT", json.dumps({"before": before, "peak": peak(), "answers": counts}))
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
    num_requests: int = 200
    concurrent: int = 50
    max_mib: int = 1024


def payloads() -> dict[str, dict]:
    """Requests that take much memory or time, each small enough to be sent."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    good = encoded(Image.fromarray(noise), "PNG")
    images = {
        "largest RGB": encoded(Image.new("RGB", (6324, 6324), "red"), "PNG"),
        "largest transparent": encoded(Image.new("RGBA", (6324, 6324), (255, 0, 0, 9)), "PNG"),
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


def encoded(image: Image.Image, file_format: str) -> str:
    """Base64 of an encoded image."""
    file = io.BytesIO()
    image.save(file, file_format)
    return base64.b64encode(file.getvalue()).decode()


def measure(options: Options, folder: Path) -> dict:
    """Run the requests in a process of the handler.

    Args:
        options: Model and number of requests.
        folder: Folder for the file of requests.

    Returns:
        Memory in MiB before the first request (`before`) and at its peak (`peak`), and the number of each answer.

    Raises:
        RuntimeError: The process failed.
    """
    path = folder / "requests.jsonl"
    path.write_text("\n".join(json.dumps(payload) for payload in payloads().values()), encoding="utf-8")
    numbers = [str(options.num_requests), str(options.concurrent)]
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(options.model).resolve()), str(path), *numbers],
        env=os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"The process of the handler failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.partition("RESULT ")[2])


def is_good(found: dict, options: Options) -> bool:
    """Whether the memory stayed under its limit, and every answer is scores or an error of the client."""
    clean = all(answer.endswith(" scores") or answer.startswith("4") for answer in found["answers"])
    return clean and found["peak"] <= options.max_mib


def main(argv: list[str] | None = None) -> int:
    """Parse the options, measure and print."""
    options = parse_options(Options, argv, prog="python -m tests.hostile", description=__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="dcclip-hostile-") as folder:
        found = measure(options, Path(folder))
    for answer, count in sorted(found["answers"].items()):
        print(f"{count:>5}  {answer}")
    print(
        f"{options.num_requests} requests, {options.concurrent} at once: {found['before']:.0f} MiB before, peak "
        f"{found['peak']:.0f} MiB, limit {options.max_mib} MiB"
    )
    return int(not is_good(found, options))


if __name__ == "__main__":
    sys.exit(main())
