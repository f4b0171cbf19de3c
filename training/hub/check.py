"""Check that a folder loads without this package and gives the embeddings that were stored at training."""

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
# largest difference between a score of the pipeline and the softmax of the model's logits
SCORE_TOLERANCE = 1e-3


class FolderError(ValueError):
    """A folder must not be published; the message says why."""


def check_folder(folder: str | Path, python: str = sys.executable) -> float:
    """Load a folder in a fresh process without this package, network or caches, and compare its embeddings.

    Args:
        folder: A finished Hub folder with `self_check.json`.
        python: Path of the interpreter that loads the folder. Default: the current one. An interpreter of another
            environment checks the folder under other versions of the libraries.

    Returns:
        The largest absolute difference between an embedding component and the value stored at training.

    Raises:
        FolderError: The folder does not load, or its embeddings or pipeline scores differ from those at training.
    """
    folder = Path(folder)
    path = folder / SELF_CHECK_FILE
    if not path.is_file():
        raise FolderError(
            f"{folder} has no {SELF_CHECK_FILE}, so its weights cannot be compared with the trained model. "
            "training/distill.py and training/align.py write this file."
        )
    stored, loaded = json.loads(path.read_text(encoding="utf-8")), _load_isolated(folder, python)
    names = ("text_embeds", "image_embeds")
    difference = max(_largest_difference(loaded[name], stored[name], name) for name in names)
    if difference > stored["tolerance"]:
        raise FolderError(
            f"{folder} gives other embeddings than at training: they differ by up to {difference:.2g}, the tolerance "
            f"is {stored['tolerance']:.2g}. Weights, code, processor or tokenizer were changed. Train the model again "
            "or copy the original folder again."
        )
    _compare_pipeline(loaded, stored["texts"])
    return difference


def _load_isolated(folder: Path, python: str) -> dict[str, Any]:
    """Outputs of the folder's model in a process without this package, network, token or caches."""
    with tempfile.TemporaryDirectory(prefix="dcclip-check-") as home:
        removed = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
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
    output = process.stdout.partition("RESULT ")[2]
    if process.returncode or not output:
        *_, cause = process.stderr.strip().splitlines() or ["no output"]
        raise FolderError(
            f"{folder} does not load in a process without this package ({cause[-500:]}). To see the whole error, run: "
            f"{python} -I {ISOLATED_LOAD} {folder}"
        )
    return json.loads(output)


def _largest_difference(loaded: list[list[float]], stored: list[list[float]], name: str) -> float:
    if [len(row) for row in loaded] != [len(row) for row in stored]:
        raise FolderError(
            f"{name}: {len(loaded)} x {len(loaded[0])} values, expected {len(stored)} x {len(stored[0])} as stored."
        )
    pairs = zip(chain.from_iterable(loaded), chain.from_iterable(stored), strict=True)
    # NaN is not greater than any tolerance, so it counts as an infinite difference
    return max(abs(a - b) if math.isfinite(a) else math.inf for a, b in pairs)


def _compare_pipeline(loaded: dict[str, Any], texts: dict[str, list[str]]):
    """Check that the pipeline's scores are the softmax of the model's logits in each language."""
    logits = dict(zip(chain.from_iterable(texts.values()), loaded["logits"], strict=True))
    largest = max(logits.values())
    for language, labels in texts.items():
        total = sum(math.exp(logits[label] - largest) for label in labels)
        for prediction in loaded["predictions"][language]:
            label, score = prediction["label"], prediction["score"]
            expected = math.exp(logits[label] - largest) / total
            if not abs(score - expected) < SCORE_TOLERANCE:
                raise FolderError(
                    f"the pipeline scores {label!r} ({language}) {score:.4f}, the model {expected:.4f}: the pipeline "
                    "loads another tokenizer or image processor than the one in the folder."
                )
