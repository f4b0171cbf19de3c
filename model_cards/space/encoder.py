"""The model of the Space: an exported folder, run by the code that travels with it, without PyTorch."""

import hashlib
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401  (a missing package is named at the start, and not by the model's code)
import tokenizers  # noqa: F401
from huggingface_hub import snapshot_download

PATTERNS = ["*.py", "*.json", "onnx/*", "example.*"]  # of a Hub repo; the weights of PyTorch are not needed
EXAMPLES = ("example.jpg", "example.png")
CREDITS = "CREDITS.txt"
THUMBNAIL = 192  # pixels of the longer side
CACHE = Path(os.environ.get("DCCLIP_CACHE", "~/.cache/dcclip")).expanduser() / "space"


@dataclass(frozen=True)
class Hit:
    """One search result.

    Args:
        title: Name of the file without its ending.
        thumbnail: Content of a JPEG file.
        score: Cosine similarity to the query, in -1..1.
    """

    title: str
    thumbnail: bytes
    score: float


class Encoder:
    """Label images. Each image file is decoded and encoded once.

    Args:
        name: Exported model folder or Hub id.
        revision: Commit of the Hub repo whose code and weights are loaded. Not used for a folder.

    Raises:
        ValueError: The model does not exist, or is not exported.
    """

    def __init__(self, name: str, revision: str | None = None):
        self.name, self.is_local = name, Path(name).is_dir()
        self.folder = _find_folder(name, revision)
        for file in ("runtime_dcclip.py", "index_dcclip.py"):
            if not (self.folder / file).is_file():
                raise ValueError(
                    f"model: {name!r} has no {file}. Run `python training/export.py {name} --output_dir DIR`, then "
                    "name DIR."
                )
        sys.path.append(str(self.folder))
        self.runtime = importlib.import_module("runtime_dcclip").Runtime(self.folder)
        self.lock = threading.RLock()  # the tokenizer and the filter of warnings belong to one call at a time
        self.encode_image = lru_cache(maxsize=256)(self._encode_image)

    @property
    def title(self) -> str:
        """Name of the model for the page: its Hub id, or the name of its folder."""
        return self.folder.name if self.is_local else self.name

    @property
    def example(self) -> Path | None:
        """Example image of the model's card; None if it has none."""
        return next((path for name in EXAMPLES if (path := self.folder / name).is_file()), None)

    def _encode_image(self, path: str) -> np.ndarray:
        """Encode an image file. A large JPEG is decoded at a fraction of its size, as in an index.

        Returns:
            (D,) float32, L2-normalised.

        Raises:
            ValueError: The file does not decode.
        """
        return self.runtime.encode_images([path])[0]

    def label(self, path: str, labels: Sequence[str], template: str = "{}") -> list[tuple[str, float]]:
        """Rank labels for an image file.

        Args:
            path: Path of the image.
            labels: Labels, at least one. Long ones are truncated.
            template: Text around each label, with `{}` for the label.

        Returns:
            Labels with scores that sum to 1, highest score first.

        Raises:
            ValueError: The file does not decode.
        """
        image = self.encode_image(path)
        with self.lock:
            texts = self.runtime.encode_texts([template.replace("{}", label) for label in labels], truncate=True)
            logits = self.runtime.logit_scale * (texts @ image)
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        return [(labels[number], float(scores[number])) for number in np.argsort(-scores, kind="stable")]


class Album:
    """A folder of images with its index, which the runtime keeps up to date.

    Args:
        encoder: Model that encodes the images.
        folder: Folder of images, searched recursively. Its `CREDITS.txt` is shown below the results.
        cache: Folder of the indexes.

    Raises:
        ValueError: The folder does not exist, or none of its images decodes.
    """

    def __init__(self, encoder: Encoder, folder: str, cache: Path = CACHE):
        code: dict[str, Any] = {
            name: importlib.import_module(f"{name}_dcclip") for name in ("index", "query", "space", "thumbnails")
        }
        self.encoder, self._warning = encoder, code["query"].QueryWarning
        self.thumbnail = lru_cache(maxsize=4096)(lambda path: code["thumbnails"].make_thumbnail(path, THUMBNAIL))
        credits = Path(folder) / CREDITS
        self.credit = credits.read_text(encoding="utf-8").strip() if credits.is_file() else ""
        # an index belongs to one model: another model has another one
        key = f"{code['space'].fingerprint(encoder.runtime)}\n{Path(folder).resolve()}"
        path = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
        self.index = code["index"].Index.open(path, encoder.runtime, create=True, dtype="float16")
        try:
            report = self.index.add(folder, progress=_show_progress)
        except ValueError as error:
            raise ValueError(f"images: {error}") from error
        self.failures: list[tuple[str, str]] = report.failures
        self.total: int = len(self.index)
        if not self.total:
            raise ValueError(f"images: none of the {report.found} images of {folder!r} decodes. Pass other images.")

    def search(self, query: str, count: int) -> tuple[list[Hit], list[str]]:
        """Find the images that are most similar to a text.

        Args:
            query: Text in Chinese or English.
            count: Maximum number of results.

        Returns:
            Search results, most similar first, and notes about the text, such as that it is too long.

        Raises:
            ValueError: The text is not a query.
        """
        with self.encoder.lock, warnings.catch_warnings(record=True, category=self._warning) as caught:
            warnings.simplefilter("always", self._warning)
            found = self.index.search(query, top=count)
        hits = []
        for each in found:
            with suppress(ValueError):  # the file was removed or damaged after the start
                hits.append(Hit(_shown(Path(each.path).stem), self.thumbnail(each.path), each.score))
        return hits, [str(each.message) for each in caught]


def _shown(name: str) -> str:
    """A name as valid text: names of files need not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _find_folder(name: str, revision: str | None) -> Path:
    """The folder of a model, downloaded if `name` is a Hub id."""
    if (Path(name) / "config.json").is_file():
        return Path(name).resolve()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:  # of the Hub's client: no such repo, no network, no valid id
        raise ValueError(
            f"model: {name!r} is neither a model folder nor on the Hub ({str(error).splitlines()[0]}). Name another "
            "one with --model."
        ) from error


def _show_progress(done: int, total: int):
    end = "\n" if done == total else ""
    print(f"\rencode images: {done} of {total}", end=end, file=sys.stderr, flush=True)
