"""Does a folder load where there is nothing of ours, and answer as it did when it was trained?"""

import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from training.hub.self_check import SELF_CHECK_FILE

ISOLATED_LOAD = Path(__file__).with_name("isolated_load.py")
TIMEOUT_S = 600


class FolderError(ValueError):
    """A folder that must not be published as it is; the message says why."""


def check_folder(folder: str | Path, python: str = sys.executable) -> float:
    """Load a folder in a fresh process without this package, without network and with empty caches; compare.

    Args:
        folder: a finished Hub folder with `self_check.json`.
        python: the interpreter that loads it; another environment's has other versions of everything.

    Returns:
        The largest difference of an embedding's component from the value stored at training.

    Raises:
        FolderError: it does not load, or answers otherwise than at training.
    """
    folder = Path(folder)
    stored = folder / SELF_CHECK_FILE
    if not stored.is_file():
        raise FolderError(
            f"{folder} has no {SELF_CHECK_FILE}, so nobody can tell whether it still is the model that was trained. "
            "training/distill.py and training/align.py write it."
        )
    wanted, found = json.loads(stored.read_text(encoding="utf-8")), _load_isolated(folder, python)
    difference = max(_distance(found[name], wanted[name], name) for name in ("text_embeds", "image_embeds"))
    if difference > wanted["tolerance"]:
        raise FolderError(
            f"{folder} answers otherwise than when it was trained: its embeddings differ by up to {difference:.2g}, "
            f"allowed are {wanted['tolerance']:.2g}. Weights, code, processor or tokenizer were changed; train, or "
            "copy the folder, again."
        )
    _compare_pipeline(found, wanted["texts"])
    return difference


def _load_isolated(folder: Path, python: str) -> dict[str, Any]:
    """What the folder answers in a process that has neither our package, nor a network, nor a token, nor a cache."""
    with tempfile.TemporaryDirectory(prefix="dcclip-check-") as home:
        hidden = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        environment |= {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1"}
        process = subprocess.run(
            [python, "-I", str(ISOLATED_LOAD), str(folder.resolve())],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )
    answer = process.stdout.partition("FOUND ")[2]
    if process.returncode or not answer:
        raise FolderError(f"{folder} does not load in a process without this package:\n{process.stderr[-2000:]}")
    return json.loads(answer)


def _distance(found: list[list[float]], wanted: list[list[float]], name: str) -> float:
    if [len(row) for row in found] != [len(row) for row in wanted]:
        raise FolderError(f"{name}: {len(found)} x {len(found[0])} values, stored {len(wanted)} x {len(wanted[0])}.")
    pairs = zip(chain.from_iterable(found), chain.from_iterable(wanted), strict=True)
    # a value that is no number is infinitely far
    return max(abs(a - b) if math.isfinite(a) else math.inf for a, b in pairs)


def _compare_pipeline(found: dict[str, Any], texts: dict[str, list[str]]):
    """The pipeline's shares are the softmax of the model's logits, in each language."""
    logits = dict(zip(chain.from_iterable(texts.values()), found["logits"], strict=True))
    for language, labels in texts.items():
        total = sum(math.exp(logits[label] - max(logits.values())) for label in labels)
        for answer in found["answers"][language]:
            share = math.exp(logits[answer["label"]] - max(logits.values())) / total
            if not abs(answer["score"] - share) < 1e-3:
                raise FolderError(
                    f"the pipeline gives {answer['label']!r} ({language}) {answer['score']:.4f}, the model {share:.4f}"
                    ": its tokenizer or its image processor is not the one in the folder."
                )
