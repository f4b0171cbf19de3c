"""What a run needs of its teacher, and the teacher that answers at every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import tokenize
from training.data.transforms import Normalize
from training.teachers import Targets, Teacher

MAX_BANK = 4096  # texts in a bank


@dataclass(frozen=True)
class TargetSpec:
    """Which targets a run asks for.

    Args:
        towers: of the teacher, `vision` and `text`.
        grid: (height, width) of the student's map, on which the teacher's is given; None for embeddings alone.
        token_maps: whether the states of caption tokens are asked for too.
    """

    towers: tuple[str, ...]
    grid: tuple[int, int] | None = None
    token_maps: bool = False


class TargetSource(Protocol):
    """Gives the teacher's answers to a batch."""

    num_views: int

    def images(self, images: Tensor, batch: dict[str, Any]) -> Targets:
        """Targets of the augmented images (B, 3, S, S) in 0..255."""

    def texts(self, batch: dict[str, Any]) -> Targets:
        """Targets of the captions; the map is on the teacher's own tokens."""


def resample_map(feature_map: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, D, H, W) to (B, D, *grid), bilinear with antialiasing."""
    if feature_map.shape[-2:] == tuple(grid):
        return feature_map
    return F.interpolate(feature_map, tuple(grid), mode="bilinear", antialias=True, align_corners=False)


class LiveTargets:
    """Runs the teacher at every step.

    Args:
        teacher: on the device of the batches, with the towers that are needed.
        spec: what is asked for.
    """

    num_views = 0  # every epoch makes new views

    def __init__(self, teacher: Teacher, spec: TargetSpec):
        self.teacher, self.spec = teacher, spec
        self.normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)

    def images(self, images: Tensor, batch: dict[str, Any]) -> Targets:
        """Targets of the augmented images (B, 3, S, S) in 0..255."""
        targets = self.teacher.encode_images(self.normalize(images))
        if self.spec.grid is None:
            return Targets(None, targets.embedding)
        return Targets(resample_map(targets.feature_map, self.spec.grid), targets.embedding)

    def texts(self, batch: dict[str, Any]) -> Targets:
        """Targets of the captions; the map is on the teacher's own tokens."""
        prefix = "teacher_" if "teacher_input_ids" in batch else ""
        return self.teacher.encode_texts(batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"])


@torch.no_grad()
def encode_bank(teacher: Teacher, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """The teacher's embeddings (N, D) of a bank of texts; of more than `MAX_BANK`, evenly spaced ones."""
    step = max(1, -(-len(texts) // MAX_BANK))
    texts = list(texts)[::step]
    device, embeddings = teacher.model.device, []
    for start in range(0, len(texts), batch_size):
        tokens = tokenize(teacher.tokenizer, texts[start : start + batch_size], teacher.max_text_length)
        targets = teacher.encode_texts(*(value.to(device) for value in tokens.values()))
        embeddings.append(targets.embedding.float())
    return torch.cat(embeddings)
