"""EfficientNet-Lite2 and the multilingual Universal Sentence Encoder, frozen, as one model that can be evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from training.demo.photo_teacher.lite2 import Lite2
from training.evaluation.models.image_loading import ImagePreparation, prepared_batches
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.teachers.image_processors import square_image_processor

IMAGE_SIZE = 224
HALF = (0.5, 0.5, 0.5)
Head = Callable[[Tensor], Tensor]


class Towers:
    """Both pretrained towers. Their features are computed once for each set of images and each list of texts.

    Args:
        lite2: Weights of the image tower and of its classifier.
        encode: Sentence encoder: N texts to (N, 512) float32.
    """

    def __init__(self, lite2: Lite2, encode: Callable[[Sequence[str]], Tensor]):
        self.lite2 = lite2
        self._encode = encode
        self._tower = timm.create_model("tf_efficientnet_lite2", num_classes=0)
        self._tower.load_state_dict(lite2.tower)
        self._tower.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        processor = square_image_processor(IMAGE_SIZE, HALF, HALF, squash=True)
        self.preparation = ImagePreparation.of(PreTrainedConfig(), processor, "Lite2")
        self._pooled: dict[tuple[Any, bool | None], Tensor] = {}
        self._texts: dict[tuple[str, ...], Tensor] = {}

    @torch.inference_mode()
    def pooled(self, rows: Dataset, squash: bool | None = None) -> Tensor:
        """Pooled features of images.

        Args:
            rows: Rows with a column `image`.
            squash: Whether images are resized to a square without a crop. Default: they are.

        Returns:
            (N, 1280) float32 before any normalisation.
        """
        key = (rows._fingerprint, squash)
        if key not in self._pooled:
            batches = prepared_batches(rows, "image", 64, lambda image: self.preparation.fit(image, squash))
            progress = tqdm(batches, desc="images", unit="batch", total=-(-len(rows) // 64), leave=False)
            normalized = (self.preparation.normalize(batch) for batch in progress)
            layout = torch.channels_last
            self._pooled[key] = torch.cat(
                [self._tower(batch.contiguous(memory_format=layout)) for batch in normalized]
            )
        return self._pooled[key]

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts by the sentence encoder, (N, 512) float32."""
        key = tuple(texts)
        if key not in self._texts:
            self._texts[key] = self._encode(key)
        return self._texts[key]


@dataclass(frozen=True)
class FrozenTowers(ZeroShotModel):
    """Both towers with a head each. Texts are encoded as strings: the sentence encoder brings its own tokenizer.

    Args:
        model: Both towers.
        processor: Nothing; the towers prepare their input.
        name: Name of the model, for results; also the key of its cached embeddings.
        image_head: Maps pooled features, (N, 1280), to embeddings, (N, D).
        text_head: Maps embeddings of sentences, (N, 512), to the same space, (N, D).
    """

    processor: Any = field(default_factory=SimpleNamespace)
    name: str = ""
    image_head: Head = field(default_factory=nn.Identity)
    text_head: Head = field(default_factory=nn.Identity)

    @cached_property
    def fingerprint(self) -> str:
        """Key of the cached embeddings; each run has a cache of its own."""
        return self.name

    @cached_property
    def images(self) -> ImagePreparation:
        """How images become the input of the image tower."""
        return self.model.preparation

    @torch.inference_mode()
    def encode_images(
        self, rows: Dataset, column: str = "image", batch_size: int = 64, squash: bool | None = None
    ) -> Tensor:
        """Encode images, (N, D) float32, L2-normalised."""
        return F.normalize(self.image_head(self.model.pooled(rows, squash)), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Encode texts, (N, D) float32, L2-normalised."""
        return F.normalize(self.text_head(self.model.sentences(texts)), dim=-1)
