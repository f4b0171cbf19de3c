"""Any model that has image and text features, with its own way to prepare pictures and texts."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

import modeling_dcclip  # noqa: F401  (registers our own family with the Auto classes)
from training.data import open_picture
from training.teachers import weights_fingerprint
from training.transforms import Normalize


@dataclass(frozen=True)
class ZeroShotModel:
    """A model with the processor that prepares its input.

    Args:
        model: in eval mode.
        processor: its own.
        name: shown in results.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> "ZeroShotModel":
        """Load from a folder or the Hub.

        Args:
            name: folder or Hub id.
            revision: branch, tag or commit of a Hub id. Default: the newest.

        Raises:
            ValueError: it is not there, or has no text or image tower.
        """
        fields = {"revision": revision} if revision else {}
        try:
            model = AutoModel.from_pretrained(name, dtype=torch.float32, **fields)
            processor = AutoProcessor.from_pretrained(name, **fields)
        except OSError as error:
            raise ValueError(f"model: {str(name)!r} is neither a model folder nor on the Hub. ({error})") from error
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(model, method):
                raise ValueError(
                    f"model: {str(name)!r} ({type(model).__name__}) has no {method}; zero-shot needs both towers."
                )
        return cls(model.eval(), processor, str(name))

    @cached_property
    def image_size(self) -> int:
        """Edge of the square picture that the model reads, in pixels."""
        image_processor = self.processor.image_processor
        size = getattr(image_processor, "crop_size", None) or image_processor.size
        return size.get("height") or size["shortest_edge"]

    @cached_property
    def fingerprint(self) -> str:
        """Tells one state of weights and preparation from another: a key for what is stored of this model."""
        parts = [weights_fingerprint(self.model), self.model.config.to_json_string()]
        parts.append(self.processor.image_processor.to_json_string())
        parts.append(json.dumps(self.processor.tokenizer.get_vocab(), sort_keys=True))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """(N, D) float32, L2-normalised, in order. Texts of like length are encoded together, which saves padding."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        embeddings: list[Tensor] = [torch.empty(0)] * len(texts)
        for numbers in tqdm(list(_chunks(order, batch_size)), desc="texts", unit="batch", leave=False):
            tokens = self.processor.tokenizer(
                [texts[n] for n in numbers], padding=True, truncation=True, return_tensors="pt"
            )
            features = self.model.get_text_features(**tokens.to(self.model.device)).pooler_output
            for number, embedding in zip(numbers, F.normalize(features.float(), dim=-1).cpu(), strict=True):
                embeddings[number] = embedding
        return torch.stack(embeddings)

    @torch.inference_mode()
    def encode_pictures(
        self, rows: Dataset, column: str = "image", batch_size: int = 64, squash: bool = False
    ) -> Tensor:
        """(N, D) float32, L2-normalised.

        Args:
            rows: with a column of pictures.
            column: its name.
            batch_size: pictures at a time.
            squash: resize to the model's square without a crop, instead of the short side and a crop of the centre.

        Raises:
            ValueError: a picture does not decode.
        """
        pictures = rows.select_columns([column]).cast_column(column, Image(decode=False))
        normalize = Normalize.from_processor(self.processor.image_processor, self.image_size)
        embeddings = []
        with tqdm(total=len(rows), desc="pictures", unit="picture", leave=False) as progress:
            for numbers in _chunks(range(len(rows)), batch_size):
                pixels = [_fit(_open(pictures[n][column], n), self.image_size, squash) for n in numbers]
                batch = normalize(torch.stack(pixels).to(self.model.device))
                features = self.model.get_image_features(pixel_values=batch).pooler_output
                embeddings.append(F.normalize(features.float(), dim=-1).cpu())
                progress.update(len(numbers))
        return torch.cat(embeddings)


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _open(cell: dict, row: int) -> PILImage.Image:
    try:
        return open_picture(cell)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"image: row {row} does not decode ({error}). A test set is never thinned silently: mend or remove the "
            "row."
        ) from error


def _fit(image: PILImage.Image, size: int, squash: bool) -> Tensor:
    """(3, size, size) uint8: squashed, or the short side resized and the centre cropped; bicubic."""
    scale = size / min(image.size)
    wanted = (size, size) if squash else tuple(max(size, round(edge * scale)) for edge in image.size)
    if wanted != image.size:
        image = image.resize(wanted, PILImage.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
