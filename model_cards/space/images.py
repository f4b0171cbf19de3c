"""Searchable images: encoded once, stored as one safetensors file."""

import hashlib
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from encoder import Encoder
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # of these files
THUMBNAIL_SIZE = 192
BATCH_SIZE = 64
CACHE = Path(os.environ.get("DCCLIP_CACHE", "~/.cache/dcclip")).expanduser() / "space"


@dataclass(frozen=True)
class ImageSet:
    """Images that are opened one at a time.

    Args:
        titles: Name of each image by language, or `{"": name}` if the language is not known.
        open: Function that returns the image of an index; None if it does not decode.
        fingerprint: Text that changes if the images change.
        credit: Credit line for the images.
    """

    titles: list[dict[str, str]]
    open: Callable[[int], Image.Image | None]
    fingerprint: str
    credit: str = ""


def open_images(source: str) -> ImageSet:
    """Find the images of a folder, or of a function.

    Args:
        source: Folder, searched recursively, or `module:function` that returns a `datasets.Dataset` with the column
            `image`, and `en` and `zh` for titles.

    Raises:
        ValueError: The folder or function does not exist, or has no image.
    """
    if Path(source).is_dir():
        return _open_folder(Path(source))
    module, _, function = source.partition(":")
    try:
        rows = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"images: {source!r} is neither a folder nor module:function ({error}). Pass a folder of images."
        ) from error
    titles = [{language: row[language] for language in ("en", "zh")} for row in rows.select_columns(["en", "zh"])]
    return ImageSet(titles, lambda number: rows[number]["image"], rows._fingerprint, rows.info.description)


def _open_folder(folder: Path) -> ImageSet:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"images: {str(folder)!r} has no image ({', '.join(sorted(SUFFIXES))}). Pass another.")

    def open_file(number: int) -> Image.Image | None:
        try:
            with Image.open(files[number], formats=FORMATS) as image:
                return ImageOps.exif_transpose(image.copy())
        except Exception:  # on damaged files, Pillow's plugins raise nearly every type
            return None

    states = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return ImageSet([{"": path.stem} for path in files], open_file, json.dumps(states))


@dataclass(frozen=True)
class Hit:
    """One search result.

    Args:
        title: Name of the image by language.
        thumbnail: Content of a WebP file.
        score: Cosine similarity to the query, in -1..1.
    """

    title: dict[str, str]
    thumbnail: bytes
    score: float


@dataclass(frozen=True)
class Index:
    """Embeddings and thumbnails of the images that decode.

    Args:
        embeddings: Image embeddings, (N, D) float32, L2-normalised.
        thumbnails: Concatenated WebP files, uint8.
        ends: End of each thumbnail in `thumbnails`, (N,) int64.
        titles: Name of each image by language.
        credit: Credit line for the images.
    """

    embeddings: Tensor
    thumbnails: Tensor
    ends: Tensor
    titles: list[dict[str, str]]
    credit: str

    @classmethod
    def open(cls, encoder: Encoder, images: ImageSet, cache: Path = CACHE) -> "Index":
        """Load the cached index of these images and this model, or build and cache it.

        Args:
            encoder: Model that encodes the images.
            images: Images to index.
            cache: Folder of cached indexes.
        """
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
        """Encode the images. Images that do not decode are skipped.

        Args:
            encoder: Model that encodes the images.
            images: Images to index.

        Raises:
            ValueError: No image decodes.
        """
        embeddings: list[torch.Tensor] = []
        thumbnails: list[bytes] = []
        titles: list[dict[str, str]] = []
        with tqdm(total=len(images.titles), desc="encode images", unit="image") as progress:
            for numbers in _chunks(len(images.titles)):
                opened = {number: image for number in numbers if (image := images.open(number)) is not None}
                flat = [encoder.to_rgb(image) for image in opened.values()]
                if flat:
                    embeddings.append(encoder.encode_images(flat))
                thumbnails += map(make_thumbnail, flat)
                titles += [images.titles[number] for number in opened]
                progress.update(len(numbers))
        if not titles:
            raise ValueError(f"images: none of the {len(images.titles)} images decodes. Pass other images.")
        ends = torch.tensor([len(thumbnail) for thumbnail in thumbnails]).cumsum(0)
        data = torch.frombuffer(bytearray(b"".join(thumbnails)), dtype=torch.uint8)
        return cls(torch.cat(embeddings), data, ends, titles, images.credit)

    def save(self, path: Path):
        """Write the index atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        tensors = {"embeddings": self.embeddings, "thumbnails": self.thumbnails, "ends": self.ends}
        try:
            save_file(tensors, scratch, {"titles": json.dumps(self.titles), "credit": self.credit})
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def search(self, query: Tensor, count: int) -> list[Hit]:
        """Find the images that are most similar to a query.

        Args:
            query: Query embedding, (D,), L2-normalised.
            count: Maximum number of results.

        Returns:
            Search results, most similar first.
        """
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
    """Return a thumbnail of an RGB image as the content of a WebP file."""
    image = image.copy()
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
