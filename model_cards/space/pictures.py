"""A set of pictures to search: encoded once, kept as one safetensors file."""

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
class PictureSet:
    """Pictures that are opened one after another.

    Args:
        titles: one a picture: its name by language, or `{"": name}` where that is not known.
        open: the picture of a number; None where it does not decode.
        fingerprint: changes with the pictures.
        credit: whose pictures they are.
    """

    titles: list[dict[str, str]]
    open: Callable[[int], Image.Image | None]
    fingerprint: str
    credit: str = ""


def open_pictures(source: str) -> PictureSet:
    """Find the pictures of a folder, or those that a function returns.

    Args:
        source: a folder, searched with all folders in it, or `module:function` that returns `datasets` rows with a
            column `image`, and `en` and `zh` for titles.

    Raises:
        ValueError: there is no such folder or function, or no picture in it.
    """
    if Path(source).is_dir():
        return _of_folder(Path(source))
    module, _, function = source.partition(":")
    try:
        rows = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"pictures: {source!r} is neither a folder nor module:function ({error}). Name a folder of pictures."
        ) from error
    titles = [{language: row[language] for language in ("en", "zh")} for row in rows.select_columns(["en", "zh"])]
    return PictureSet(titles, lambda number: rows[number]["image"], rows._fingerprint, rows.info.description)


def _of_folder(folder: Path) -> PictureSet:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"pictures: {str(folder)!r} has no picture ({', '.join(sorted(SUFFIXES))}). Name another.")

    def open_file(number: int) -> Image.Image | None:
        try:
            with Image.open(files[number]) as picture:
                return ImageOps.exif_transpose(picture.copy())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises
            return None

    seen = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return PictureSet([{"": path.stem} for path in files], open_file, json.dumps(seen))


@dataclass(frozen=True)
class Hit:
    """One picture that was found.

    Args:
        title: as in `PictureSet`.
        thumbnail: WebP file.
        score: cosine with the query, -1..1.
    """

    title: dict[str, str]
    thumbnail: bytes
    score: float


@dataclass(frozen=True)
class Index:
    """Embeddings and thumbnails of the pictures that decode.

    Args:
        embeddings: (N, D) float32, L2-normalised.
        thumbnails: WebP files, one after another, as bytes.
        ends: (N,) int64, where each of them ends.
        titles: one a picture.
        credit: whose pictures they are.
    """

    embeddings: Tensor
    thumbnails: Tensor
    ends: Tensor
    titles: list[dict[str, str]]
    credit: str

    @classmethod
    def open(cls, encoder: Encoder, pictures: PictureSet, cache: Path = CACHE) -> "Index":
        """Read the index of these pictures by this model, or make it and keep it."""
        key = hashlib.sha256(f"{encoder.fingerprint}\n{pictures.fingerprint}\n{THUMBNAIL_SIZE}".encode()).hexdigest()
        path = cache / f"{key[:32]}.safetensors"
        if not path.exists():
            cls.build(encoder, pictures).save(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("embeddings", "thumbnails", "ends")}
            meta = file.metadata()
        return cls(**tensors, titles=json.loads(meta["titles"]), credit=meta["credit"])

    @classmethod
    def build(cls, encoder: Encoder, pictures: PictureSet) -> "Index":
        """Encode the pictures; those that do not decode are left out.

        Raises:
            ValueError: none decodes.
        """
        embeddings, thumbnails, titles = [], [], []
        with tqdm(total=len(pictures.titles), desc="encode pictures", unit="picture") as progress:
            for numbers in _chunks(len(pictures.titles)):
                opened = {number: picture for number in numbers if (picture := pictures.open(number)) is not None}
                flat = [on_white(picture) for picture in opened.values()]
                if flat:
                    embeddings.append(encoder.encode_pictures(flat))
                thumbnails += map(make_thumbnail, flat)
                titles += [pictures.titles[number] for number in opened]
                progress.update(len(numbers))
        if not titles:
            raise ValueError(f"pictures: none of the {len(pictures.titles)} pictures decodes. Name other ones.")
        ends = torch.tensor([len(thumbnail) for thumbnail in thumbnails]).cumsum(0)
        data = torch.frombuffer(bytearray(b"".join(thumbnails)), dtype=torch.uint8)
        return cls(torch.cat(embeddings), data, ends, titles, pictures.credit)

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
        """The pictures nearest to an embedding (D,), the nearest first."""
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


def make_thumbnail(picture: Image.Image) -> bytes:
    """A small WebP file of an RGB picture."""
    picture = picture.copy()
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
