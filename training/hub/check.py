"""Check that a model folder loads without this package and gives the embeddings that this package computes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.hub.isolated_load import embed

ISOLATED_LOAD = Path(__file__).with_name("isolated_load.py")
TIMEOUT_S = 600
TEXTS = ["a house under the sun", "two dogs in the snow", "太阳下的房子", "一个红苹果"]
# largest difference of L2-normalized embeddings: wide enough for the rounding of another device or library version
TOLERANCE = 1e-3


class FolderError(ValueError):
    """A folder must not be published; the message says why."""


def check_folder(folder: str | Path, python: str = sys.executable) -> float:
    """Load a folder in a fresh process without this package, network or caches, and compare its embeddings.

    Args:
        folder: A finished model folder.
        python: Path of the interpreter that loads the folder. Default: the current one. An interpreter of a different
            environment checks the folder under other versions of the libraries.

    Returns:
        The largest absolute difference between a component of an L2-normalized embedding and this package's value.

    Raises:
        FolderError: The folder does not load in the pipeline, or its embeddings differ from this package's or are not
            finite.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(prefix="dcclip-check-") as home:
        image = Path(home) / "image.png"
        down = Image.linear_gradient("L")
        around = Image.radial_gradient("L")
        Image.merge("RGB", [down, around, down.rotate(90)]).save(image)
        expected = _load_here(folder, image)
        loaded = _load_isolated(folder, image, python, Path(home))
    names = ("text_embeds", "image_embeds")
    largest = [np.abs(np.subtract(loaded[name], expected[name])).max() for name in names]
    difference = float(np.max(largest))  # not a number, if any embedding is not
    if not difference <= TOLERANCE:
        raise FolderError(
            f"{folder} gives different embeddings without this package: they differ by up to {difference:.2g}, the "
            f"tolerance is {TOLERANCE:.2g}. Weights are missing or damaged, or the code in the folder was changed. "
            "Train the model again or copy the original folder again."
        )
    return difference


def _load_here(folder: Path, image: Path) -> dict[str, Any]:
    """L2-normalized embeddings of the image and the texts, computed by this package."""
    import torch

    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

    try:
        model = DCCLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        processor = DCCLIPProcessor.from_pretrained(folder)
    except Exception as error:  # transformers raises many kinds
        raise FolderError(
            f"{folder} does not load ({str(error)[-500:]}). Copy or write the folder again."
        ) from error
    return embed(model, processor, Image.open(image), TEXTS)


def _load_isolated(folder: Path, image: Path, python: str, home: Path) -> dict[str, Any]:
    """Outputs of the folder's model in a process without this package, network, token or caches."""
    removed = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHONPATH")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(removed)
    }
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment["HF_MODULES_CACHE"] = str(home / "modules")
    arguments = [str(folder.resolve()), str(image), json.dumps(TEXTS)]
    process = subprocess.run(
        [python, "-I", str(ISOLATED_LOAD), *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    output = process.stdout.partition("RESULT ")[2]
    if process.returncode or not output:
        *_, cause = process.stderr.strip().splitlines() or ["no output"]
        raise FolderError(
            f"{folder} does not load in a process without this package ({cause[-500:]}). To see the whole error, run: "
            f"{python} -I {ISOLATED_LOAD} {folder} IMAGE.png '[\"a cat\"]'"
        )
    return json.loads(output)
