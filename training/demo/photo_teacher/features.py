"""Outputs of the frozen lower layers, computed once and stored in files."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image as PILImage
from PIL import ImageEnhance
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.demo.photo_teacher.fast_linear import LinearAsConvolution
from training.demo.photo_teacher.upper import LowerImageTower, UpperImageTower, UpperTextTower
from training.utils.files import atomic_write

IMAGE_BATCH = 32
TOKENS_PER_BATCH = 4096
# of random crops: smallest share of the area, largest change of the aspect ratio (natural logarithm) and of colours
MIN_AREA, MAX_STRETCH, COLOUR_RANGE = 0.5, 0.25, 0.2
SMALL_EDGES = 28, 72  # smallest and largest edge of a view of low resolution, in pixels


@dataclass(frozen=True)
class ImageFeatures:
    """Features of N images.

    Args:
        maps: Feature maps that enter the last stage, (N, 208, 7, 7) float16.
        pooled: Pooled outputs of the pretrained tower, (N, 1280) float16.
    """

    maps: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.pooled)


@dataclass(frozen=True)
class TextFeatures:
    """Features of N texts.

    Args:
        states: Token states that enter the upper layers, one text after the other, (tokens, 384) float16.
        starts: Index of the first row of each text, then the number of rows, (N + 1,) int64.
        pooled: Pooled outputs of the pretrained tower, (N, 384) float32.
    """

    states: Tensor
    starts: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    def padded(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Padded token states of a batch of texts.

        Args:
            indices: Indices of the texts, of length B.

        Returns:
            Token states, (B, L, 384) float32, and their mask, (B, L) int64, 1 for a token and 0 for padding.
        """
        rows = [self.states[self.starts[index] : self.starts[index + 1]].float() for index in indices]
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return states, (torch.arange(states.shape[1]) < lengths[:, None]).long()


@dataclass
class FeatureMaker:
    """Computes features, or loads them if they are already stored.

    Args:
        model: Teacher before training.
        processor: Processor of the teacher.
        num_text_layers: Number of text layers that are trained.
        folder: Folder of the feature files.
        seed: Seed of the random crops.
    """

    model: DCCLIPModel
    processor: DCCLIPProcessor
    num_text_layers: int
    folder: Path
    seed: int = 0
    upper_image: UpperImageTower = field(init=False)
    upper_text: UpperTextTower = field(init=False)

    def __post_init__(self):
        self.upper_image = UpperImageTower(self.model).eval()
        self.upper_text = UpperTextTower(self.model, self.num_text_layers).eval()

    def images(self, name: str, rows: Dataset, view: int = 0, is_small: bool = False) -> ImageFeatures:
        """Features of images.

        Args:
            name: Name of the source, for file names and progress bars.
            rows: Rows with a decoded `image`.
            view: Number of the view. 0 is the whole image as the processor prepares it; other numbers are random
                crops.
            is_small: Whether the view is reduced to a low resolution, as small images are enlarged for the model.
        """
        key = [name, len(rows), rows._fingerprint, view, self.seed if view or is_small else None, is_small]
        label = f"{name}-view{view}{'-small' * is_small}"
        stored = self._stored(label, key, lambda: self._compute_images(label, rows, view, is_small))
        return ImageFeatures(**stored)

    def texts(self, name: str, texts: list[str]) -> TextFeatures:
        """Features of texts.

        Args:
            name: Name of the source, for file names and progress bars.
            texts: Texts to encode, of length N.
        """
        key = [texts, self.num_text_layers, self.model.config.max_text_length]
        return TextFeatures(**self._stored(name, key, lambda: self._compute_texts(name, texts)))

    def _stored(self, name: str, key: Any, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        digest = hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:16]
        path = self.folder / f"{name}-{digest}.safetensors"
        if not path.exists():
            with atomic_write(path) as scratch:
                save_file(compute(), scratch)
        return load_file(path)

    @torch.inference_mode()
    def _compute_images(self, name: str, rows: Dataset, view: int, is_small: bool) -> dict[str, Tensor]:
        maps, pooled = [], []
        # a copy in channels-last layout, which is twice as fast on a CPU; torch types `to` without memory_format
        lower = copy.deepcopy(LowerImageTower(self.model)).eval()
        lower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        progress = tqdm(total=len(rows), desc=f"features of {name}", unit="image")
        for start in range(0, len(rows), IMAGE_BATCH):
            batch = range(start, min(start + IMAGE_BATCH, len(rows)))
            images = [rows[index]["image"].convert("RGB") for index in batch]
            draws = [np.random.default_rng([self.seed, view, index]) for index in batch]
            if view:
                images = [random_crop(image, rng) for image, rng in zip(images, draws, strict=True)]
            if is_small:
                images = [reduce(image, rng) for image, rng in zip(images, draws, strict=True)]
            pixel_values = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
            hidden = lower(pixel_values.contiguous(memory_format=torch.channels_last))
            maps.append(hidden.half().contiguous())
            pooled.append(self.upper_image(hidden).half())
            progress.update(len(batch))
        progress.close()
        return {"maps": torch.cat(maps), "pooled": torch.cat(pooled)}

    @torch.inference_mode()
    def _compute_texts(self, name: str, texts: list[str]) -> dict[str, Tensor]:
        limits = {"truncation": True, "max_length": self.model.config.max_text_length}
        ids = self.processor.tokenizer(texts, **limits)["input_ids"]
        lengths = [len(each) for each in ids]
        starts = torch.tensor([0, *np.cumsum(lengths)])
        width = self.model.config.text_width
        assert width is not None  # the teacher has a text tower
        states = torch.empty(int(starts[-1]), width, dtype=torch.float16)
        pooled = torch.empty(len(texts), width)
        progress = tqdm(total=len(texts), desc=f"features of {name}", unit="text")
        for batch in batches_by_length(lengths, TOKENS_PER_BATCH):
            inputs = self.processor.tokenizer.pad({"input_ids": [ids[index] for index in batch]}, return_tensors="pt")
            hidden, pooled[batch] = self._encode(inputs["input_ids"], inputs["attention_mask"])
            for row, index in enumerate(batch):
                states[starts[index] : starts[index + 1]] = hidden[row, : lengths[index]]
            progress.update(len(batch))
        progress.close()
        return {"states": states, "starts": starts, "pooled": pooled}

    def _encode(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tower = self.model.text_model
        with LinearAsConvolution():
            outputs = tower(input_ids=input_ids, attention_mask=mask, output_hidden_states=True)
        weights = mask[..., None].float()
        pooled = (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)
        return outputs.hidden_states[-1 - self.num_text_layers].half(), pooled


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Group texts of similar length.

    Args:
        lengths: Number of tokens of each text.
        max_tokens: Largest number of tokens in a batch, padding included.

    Yields:
        Indices of the texts in a batch.
    """
    batch: list[int] = []
    for index in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def random_crop(image: PILImage.Image, rng: np.random.Generator) -> PILImage.Image:
    """Crop a random part of an image to a square, and change its colours slightly. Half of the crops are mirrored.

    Args:
        image: RGB image.
        rng: Random number generator.
    """
    area, stretch = rng.uniform(MIN_AREA, 1), np.exp(rng.uniform(-MAX_STRETCH, MAX_STRETCH))
    width = min(image.width, round(image.width * np.sqrt(area * stretch)))
    height = min(image.height, round(image.height * np.sqrt(area / stretch)))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    size = min(image.size)
    image = image.resize((size, size), PILImage.Resampling.BICUBIC, (left, top, left + width, top + height))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - COLOUR_RANGE, 1 + COLOUR_RANGE))
    return image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def reduce(image: PILImage.Image, rng: np.random.Generator) -> PILImage.Image:
    """Reduce an image to a random low resolution. A smaller image is not enlarged.

    Args:
        image: RGB image.
        rng: Random number generator.
    """
    low, high = np.log(SMALL_EDGES)
    factor = np.exp(rng.uniform(low, high)) / min(image.size)
    if factor >= 1:
        return image
    filters = [PILImage.Resampling.BOX, PILImage.Resampling.BICUBIC]
    size = [max(1, round(edge * factor)) for edge in image.size]
    return image.resize((size[0], size[1]), filters[int(rng.integers(len(filters)))])
