"""A set of images to search: encoded once, kept as one safetensors file."""

import hashlib
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from encoder import Encoder, on_white
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
THUMBNAIL_SIZE = 192
BATCH_SIZE = 64
CACHE = Path(os.environ.get("DCCLIP_CACHE", "~/.cache/dcclip")).expanduser() / "space"


@dataclass(frozen=True)
class ImageSet:
    """Images that are opened one after another.

    Args:
        titles: one an image: its name by language, or `{"": name}` where that is not known.
        open: the image of a number; None where it does not decode.
        fingerprint: changes with the images.
        credit: whose images they are.
    """

    titles: list[dict[str, str]]
    open: Callable[[int], Image.Image | None]
    fingerprint: str
    credit: str = ""


def open_images(source: str) -> ImageSet:
    """Find the images of a folder, or those that a function returns.

    Args:
        source: a folder, searched with all folders in it, or `module:function` that returns `datasets` rows with a
            column `image`, and `en` and `zh` for titles.

    Raises:
        ValueError: there is no such folder or function, or no image in it.
    """
    if Path(source).is_dir():
        return _of_folder(Path(source))
    module, _, function = source.partition(":")
    try:
        rows = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"images: {source!r} is neither a folder nor module:function ({error}). Name a folder of images."
        ) from error
    titles = [{language: row[language] for language in ("en", "zh")} for row in rows.select_columns(["en", "zh"])]
    return ImageSet(titles, lambda number: rows[number]["image"], rows._fingerprint, rows.info.description)


def _of_folder(folder: Path) -> ImageSet:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"images: {str(folder)!r} has no image ({', '.join(sorted(SUFFIXES))}). Name another.")

    def open_file(number: int) -> Image.Image | None:
        try:
            with Image.open(files[number]) as image:
                return ImageOps.exif_transpose(image.copy())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises
            return None

    seen = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return ImageSet([{"": path.stem} for path in files], open_file, json.dumps(seen))


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Args:
        title: as in `ImageSet`.
        thumbnail: WebP file.
        score: cosine with the query, -1..1.
    """

    title: dict[str, str]
    thumbnail: bytes
    score: float


@dataclass(frozen=True)
class Index:
    """Embeddings and thumbnails of the images that decode.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        thumbnails: WebP files, one after another, as bytes.
        ends: (N,) int64, where each of them ends.
        titles: one an image.
        credit: whose images they are.
    """

    embeddings: Tensor
    thumbnails: Tensor
    ends: Tensor
    titles: list[dict[str, str]]
    credit: str

    @classmethod
    def open(cls, encoder: Encoder, images: ImageSet, cache: Path = CACHE) -> "Index":
        """Read the index of these images by this model, or make it and keep it."""
        key = hashlib.sha256(f"{encoder.fingerprint}\n{images.fingerprint}\n{THUMBNAIL_SIZE}".encode()).hexdigest()
        path = cache / f"{key[:32]}.safetensors"
        if not path.exists():
            cls.build(encoder, images).save(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("embeddings", "thumbnails", "ends")}
            meta = file.metadata()
        return cls(**tensors, titles=json.loads(meta["titles"]), credit=meta["credit"])

    @classmethod
    def build(cls, encoder: Encoder, images: ImageSet) -> "Index":
        """Encode the images; those that do not decode are left out.

        Raises:
            ValueError: none decodes.
        """
        embeddings, thumbnails, titles = [], [], []
        with tqdm(total=len(images.titles), desc="encode images", unit="image") as progress:
            for numbers in _chunks(len(images.titles)):
                opened = {number: image for number in numbers if (image := images.open(number)) is not None}
                flat = [on_white(image) for image in opened.values()]
                if flat:
                    embeddings.append(encoder.encode_images(flat))
                thumbnails += map(make_thumbnail, flat)
                titles += [images.titles[number] for number in opened]
                progress.update(len(numbers))
        if not titles:
            raise ValueError(f"images: none of the {len(images.titles)} images decodes. Name other ones.")
        ends = torch.tensor([len(thumbnail) for thumbnail in thumbnails]).cumsum(0)
        data = torch.frombuffer(bytearray(b"".join(thumbnails)), dtype=torch.uint8)
        return cls(torch.cat(embeddings), data, ends, titles, images.credit)

    def save(self, path: Path):
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        tensors = {"embeddings": self.embeddings, "thumbnails": self.thumbnails, "ends": self.ends}
        try:
            save_file(tensors, scratch, {"titles": json.dumps(self.titles), "credit": self.credit})
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def search(self, query: Tensor, count: int) -> list[Hit]:
        """The images nearest to an embedding (D,), the nearest first."""
        scores, numbers = (self.embeddings @ query).topk(min(count, len(self.titles)))
        return [
            Hit(self.titles[number], self._thumbnail(number), score)
            for number, score in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]

    def _thumbnail(self, number: int) -> bytes:
        start = int(self.ends[number - 1]) if number else 0
        return self.thumbnails[start : int(self.ends[number])].numpy().tobytes()


def _chunks(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH_SIZE):
        yield range(start, min(start + BATCH_SIZE, count))


def make_thumbnail(image: Image.Image) -> bytes:
    """A small WebP file of an RGB image."""
    image = image.copy()
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
