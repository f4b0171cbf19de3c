"""Small batches and targets made by hand, and plain numpy oracles for tests of tasks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from tests.tiny import IMAGE_SIZE, PROJECTION_DIM
from training.config import AugmentConfig, DataConfig
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.teachers.family import Targets

NORMALIZE = Normalize(IMAGE_SIZE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
STILL = AugmentConfig(zoom=0, stretch=0, shift=0, brightness=0, contrast=0, saturation=0)
LENGTH = 7  # tokens of the longest caption


def data_config(*languages: str, **fields: Any) -> DataConfig:
    return DataConfig(
        train="", caption_columns={name: name for name in languages or ("en", "zh")}, **fields
    )


def make_batch(owner: list[int], language: list[int], rows: list[int], **fields: Any) -> Batch:
    """One random image for each row and one random caption for each owner; caption T has 3 + T % 5 tokens."""
    generator = torch.Generator().manual_seed(len(owner))
    lengths = 3 + torch.arange(len(owner)) % 5
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    ids = torch.randint(3, 600, mask.shape, generator=generator)
    shape = (len(rows), 3, IMAGE_SIZE, IMAGE_SIZE)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    batch = {
        "rows": torch.tensor(rows),
        "view_ids": torch.arange(len(rows)),
        "images": images,
        "input_ids": ids * mask + (1 - mask),
        "attention_mask": mask,
        "lengths": lengths,
        "owner": torch.tensor(owner),
        "caption_ids": torch.arange(len(owner)),
        "language": torch.tensor(language),
    }
    return batch | fields


def tokens_of(batch: Batch) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def augment() -> Augment:
    return Augment(STILL, 0)


class FixedTargets:
    """Targets that a test chose. It records the images that the teacher saw."""

    num_views = 0

    def __init__(self, image, text, image_map=None, text_map=None):
        self.image = Targets(image_map, image)
        self.text = Targets(text_map, text)
        self.seen = []

    def images(self, images: Tensor, batch: Batch) -> Targets:
        self.seen.append(images)
        return self.image

    def read(self, batch: Batch) -> Batch:
        return {}

    def texts(self, batch: Batch) -> Targets:
        return self.text


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int = 0) -> Tensor:
    return torch.linalg.qr(random(PROJECTION_DIM, PROJECTION_DIM, seed=seed)).Q


@torch.no_grad()
def encode(model: DCCLIPModel, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of unchanged images (B, D), and of captions (T, D), one by one and without padding."""
    images = model.get_image_features(NORMALIZE(batch["images"])).pooler_output
    texts = []
    for ids, length in zip(batch["input_ids"], batch["lengths"].tolist(), strict=True):
        alone = ids[None, :length]
        texts.append(model.get_text_features(alone, torch.ones_like(alone)).pooler_output)
    return images.numpy(), torch.cat(texts).numpy()


def unit(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def cosine_distance(first: Any, second: Any) -> float:
    return float(np.mean(1 - (unit(first) * unit(second)).sum(-1)))


def info_nce(first: Any, second: Any, scale: float, positive: np.ndarray) -> float:
    """Mean of both directions of the cross-entropy, averaged over the rows with a positive."""
    logits = torch.tensor(scale * unit(first) @ unit(second).T)
    return (cross_entropy(logits, positive) + cross_entropy(logits.T, positive.T)) / 2


def cross_entropy(logits: Tensor, positive: np.ndarray) -> float:
    losses = []
    for row, matches in zip(logits.log_softmax(1).numpy(), positive, strict=True):
        if matches.any():
            losses.append(-row[matches].mean())
    return float(np.mean(losses))


def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    """Kullback-Leibler divergence from the teacher's to the student's logits, (N, C), averaged over rows."""
    logs = torch.as_tensor(student).log_softmax(1)
    teacher_logs = torch.as_tensor(teacher).log_softmax(1)
    return (teacher_logs.exp() * (teacher_logs - logs)).sum(1).mean().item()


def assert_equal(loss: Tensor, expected: float, rel: float = 1e-4):
    """A loss in float32 equals its plain computation."""
    assert loss.item() == pytest.approx(expected, rel=rel)


def save_classifier(path: Path, width: int, names: dict[str, list[str]]) -> str:
    """Write a random classifier of classes with these names by language, and return its file."""
    number = len(next(iter(names.values())))
    tensors = {"weight": random(number, width), "bias": random(number)}
    save_file(tensors, path, metadata={"names": json.dumps(names)})
    return str(path)
