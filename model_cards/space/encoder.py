"""The model of the Space: an exported folder, run by the runtime that travels with it, without PyTorch."""

import importlib
import io
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401  (a missing package is named at the start, and not by the model's code)
import tokenizers  # noqa: F401
from huggingface_hub import snapshot_download
from PIL import Image

PATTERNS = ["*.py", "*.json", "onnx/*", "example.*"]  # of a Hub repo; the weights of PyTorch are not needed
CREDITS = "CREDITS.txt"
THUMBNAIL = 192  # pixels of the longer side


@dataclass(frozen=True)
class Hit:
    """One search result.

    Args:
        title: Name of the file without its extension.
        thumbnail: Content of a JPEG file.
        score: Cosine similarity to the query, in -1..1.
    """

    title: str
    thumbnail: bytes
    score: float


class Encoder:
    """An exported model and its runtime.

    Args:
        name: Exported model folder or Hub id.
        revision: Commit of the Hub repo whose code and weights are loaded. Not used for a folder.

    Raises:
        ValueError: The model does not exist, or is not exported.
    """

    def __init__(self, name: str, revision: str | None = None):
        self.folder = _find_folder(name, revision)
        self.title = self.folder.name if Path(name).is_dir() else name
        if not (self.folder / "runtime_dcclip.py").is_file():
            raise ValueError(
                f"model: {name!r} has no runtime_dcclip.py. Run `python training/export.py {name} --output_dir DIR`, "
                "then name DIR."
            )
        sys.path.append(str(self.folder))
        code = importlib.import_module("runtime_dcclip")
        self.runtime, self.open_rgb = code.Runtime(self.folder), code.open_rgb
        self.lock = threading.Lock()  # one call at a time uses the tokenizer

    @property
    def example(self) -> Path | None:
        """Example image of the model's card; None if it has none."""
        names = ("example.jpg", "example.png")
        return next((path for name in names if (path := self.folder / name).is_file()), None)

    def label(self, path: str, labels: list[str], template: str = "{}") -> list[tuple[str, float]]:
        """Rank labels for an image file.

        Args:
            path: Path of the image.
            labels: Labels, at least one. Long ones are truncated.
            template: Text around each label, with `{}` for the label.

        Returns:
            Labels with scores that sum to 1, highest score first.

        Raises:
            ValueError: The file does not decode, or the template has no `{}`.
        """
        with self.lock:
            return self.runtime.zero_shot(path, labels, template, truncate=True)


class Album:
    """A folder of images, encoded at the start and searched in memory.

    Args:
        encoder: Model that encodes the images.
        folder: Folder of images, searched recursively. Its `CREDITS.txt` is shown below the results.

    Raises:
        ValueError: The folder does not exist, or none of its images decodes.
    """

    def __init__(self, encoder: Encoder, folder: str):
        self.encoder = encoder
        credits = Path(folder) / CREDITS
        self.credit = credits.read_text(encoding="utf-8").strip() if credits.is_file() else ""
        self.titles: list[str] = []
        self.thumbnails: list[bytes] = []
        self.failures: list[tuple[Path, str]] = []
        if not Path(folder).is_dir():
            raise ValueError(f"images: there is no folder {folder!r}. Pass a folder of images.")
        found = [
            path
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and path != credits and "/." not in f"/{path.relative_to(folder).as_posix()}"
        ]
        vectors = []
        for path in found:
            try:
                image = encoder.open_rgb(path, encoder.runtime.preprocess.edge)
                vector, thumbnail = encoder.runtime.encode_images([image])[0], _thumbnail(image)
            except (ValueError, OSError) as error:
                self.failures.append((path, str(error)))
            else:
                vectors.append(vector)
                self.thumbnails.append(thumbnail)
                self.titles.append(os.fsencode(path.stem).decode("utf-8", "replace"))  # names need not be UTF-8
        if not vectors:
            raise ValueError(f"images: none of the {len(found)} images of {folder!r} decodes. Pass other images.")
        self.vectors = np.stack(vectors)  # (N, D)

    def search(self, query: str, count: int) -> tuple[list[Hit], list[str]]:
        """Find up to `count` images that are most similar to a text, with notes about the text, such as its length."""
        runtime = self.encoder.runtime
        with self.encoder.lock:
            (vector,) = runtime.encode_texts([query], truncate=True)
            notes = ["This text was truncated. · 文字过长，已截断。"] if runtime.is_truncated(query) else []
            if unknown := runtime.unknown_parts(query):
                notes.append(f"Not in the vocabulary · 词表中没有: {', '.join(unknown)}")
        found = runtime.search(vector, self.vectors, count)
        return [Hit(self.titles[row], self.thumbnails[row], score) for row, score in found], notes


def _thumbnail(image: Image.Image) -> bytes:
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.info.clear()  # comments and profiles of the file are not sent to visitors
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()


def _find_folder(name: str, revision: str | None) -> Path:
    """The folder of a model, downloaded if `name` is a Hub id."""
    if (Path(name) / "config.json").is_file():
        return Path(name).resolve()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:  # of the Hub's client: no such repo, no network, no valid id
        raise ValueError(
            f"model: {name!r} is neither a model folder nor on the Hub ({str(error).splitlines()[0]}). Pass a "
            "different --model."
        ) from error
