"""Features of encoders, computed once and stored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image as PILImage
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip.runtime_dcclip import Runtime
from training.data import load_source
from training.data.images import image_cell, open_image
from training.data.named_images import undecoded
from training.data.transforms import Normalize
from training.evaluation.metrics import recall_at_k
from training.evaluation.models.image_loading import ImagePreparation
from training.teachers import Teacher
from training.teachers.cache.shards import save
from training.text.writing_systems import LANGUAGES

IMAGE_BATCH, TEXT_BATCH = 32, 64
MAX_TOKENS = 48  # of a caption


def stored(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Features of a file, which is written if it does not exist.

    Args:
        path: File of the features.
        make: Function that computes them.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save({"features": make()}, path)
    return load_file(path)["features"].float()


def first_rows(source: str, number: int) -> Dataset:
    """The first rows of a source.

    Args:
        source: Any source that `load_source` accepts.
        number: Largest number of rows.
    """
    rows = load_source(source)
    return rows.select(range(min(number, len(rows))))


@dataclass(frozen=True)
class Captions:
    """Captions of images, all languages together.

    Args:
        texts: The captions.
        owners: Row of the image of each caption, (T,) int64.
        languages: Index of the language of each caption in `LANGUAGES`, (T,) int64.
    """

    texts: list[str]
    owners: Tensor
    languages: Tensor

    @classmethod
    def of(cls, rows: Dataset, most: int | None = None) -> "Captions":
        """The captions of rows with the columns `en` and `zh`.

        Args:
            rows: Rows with lists of captions.
            most: Largest number of captions per image and language. Default: all.
        """
        texts, owners, languages = [], [], []
        for number, language in enumerate(LANGUAGES):
            for row, captions in enumerate(rows[language]):
                for text in captions[:most]:
                    texts.append(text)
                    owners.append(row)
                    languages.append(number)
        return cls(texts, torch.tensor(owners), torch.tensor(languages))


def image_batches(rows: Dataset) -> Iterator[list[PILImage.Image]]:
    """The images of rows with the column `image`, in batches.

    Args:
        rows: Rows whose images all decode.

    Yields:
        RGB images of a batch.
    """
    cells = undecoded(rows.select_columns("image"), "image", "the study")
    for start in tqdm(range(0, len(rows), IMAGE_BATCH), desc="images", unit="batch"):
        batch = [image_cell(cell) for cell in cells[start : start + IMAGE_BATCH]["image"]]
        yield [open_image(cell) for cell in batch if cell is not None]


class ModelEncoder:
    """Embeddings of a model: by its exported graphs if it has them, which takes a fraction of the time.

    Args:
        model: Folder of a model.
    """

    def __init__(self, model: str):
        self.runtime = Runtime(model, threads=1) if Path(model, "onnx").is_dir() else None
        self.teacher = Teacher.from_pretrained(model, () if self.runtime is not None else None)
        self.logit_scale = torch.tensor(self.teacher.logit_scale)

    def images(self, rows: Dataset) -> Tensor:
        """Embeddings of the images of rows, (N, D)."""
        if self.runtime is None:
            return pooled_images(self.teacher, rows)
        return torch.from_numpy(np.concatenate([self.runtime.encode_images(batch) for batch in image_batches(rows)]))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, (N, D)."""
        if self.runtime is None:
            return pooled_texts(self.teacher, texts)
        return torch.from_numpy(self.runtime.encode_texts(texts, truncate=True))


@torch.inference_mode()
def pooled_images(teacher: Teacher, rows: Dataset, image_size: int | None = None) -> Tensor:
    """Pooled outputs of images, squashed to the square.

    Args:
        teacher: Teacher with its vision tower.
        rows: Rows with the column `image`.
        image_size: Edge of the square image in pixels. Default: the teacher's.

    Returns:
        (N, D) float16.
    """
    normalize = Normalize.from_processor(teacher.image_processor, image_size or teacher.image_size)
    preparation = ImagePreparation(normalize.image_size, normalize, "the study")
    parts = []
    for images in image_batches(rows):
        batch = torch.stack([preparation.fit(image, squash=True) for image in images]).permute(0, 3, 1, 2)
        parts.append(teacher.encode_images(normalize(batch)).embedding.half())
    return torch.cat(parts)


@torch.inference_mode()
def pooled_texts(teacher: Teacher, texts: Sequence[str]) -> Tensor:
    """Pooled outputs of texts, (N, D) float16.

    Args:
        teacher: Teacher with its text tower.
        texts: The texts.
    """
    order = sorted(range(len(texts)), key=lambda number: len(texts[number].encode()))
    parts = []
    for start in tqdm(range(0, len(order), TEXT_BATCH), desc="texts", unit="batch"):
        chunk = [texts[number] for number in order[start : start + TEXT_BATCH]]
        parts.append(teacher.encode_texts(**teacher.tokenize(chunk, MAX_TOKENS)).embedding.half())
    inverse = torch.tensor(order).argsort()
    return torch.cat(parts)[inverse]


def batches_of(captions: Captions, batch_size: int, epochs: int, seed: int) -> Iterable[Tensor]:
    """Random batches of captions, at most one per image.

    Args:
        captions: All captions.
        batch_size: Number of captions in a batch.
        epochs: Number of passes over the images; each takes one random caption per image.
        seed: Seed of the order and of the captions.

    Yields:
        Indices of the captions of a batch, (B,) int64.
    """
    num_images = int(captions.owners.max()) + 1
    for epoch in range(epochs):
        rng = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(captions.texts), generator=rng)
        # the first caption of each image in this order
        first = torch.full((num_images,), len(order)).scatter_reduce(
            0, captions.owners[order], torch.arange(len(order)), "amin"
        )
        chosen = order[first[first < len(order)]]
        chosen = chosen[torch.randperm(len(chosen), generator=rng)]
        yield from chosen[: len(chosen) // batch_size * batch_size].split(batch_size)


def recall_at_10(images: Tensor, texts: Tensor, captions: Captions) -> dict[str, float]:
    """Recall at 10 of text-to-image retrieval in each language; every caption is a query.

    Args:
        images: Embeddings of the images, (N, D), any norm.
        texts: Embeddings of the captions, (T, D), any norm.
        captions: The captions.
    """
    scores = F.normalize(texts, dim=1) @ F.normalize(images, dim=1).T
    recalls = {}
    for number, language in enumerate(LANGUAGES):
        owners = captions.owners[captions.languages == number]
        pairs = torch.stack([torch.arange(len(owners)), owners], 1)
        recalls[language] = recall_at_k(scores[captions.languages == number], pairs, 10)
    return recalls
