"""The targets that a run needs from its teacher, and the source that computes them at every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import Batch
from training.data.images import Normalize
from training.teachers.dual_encoder import DualEncoder
from training.teachers.family import Targets

MAX_BANK = 4096  # texts in a bank
# a CPU pays for every padded token, a GPU for every small batch
CPU_CHUNK = 32
GPU_CHUNK = 512


@dataclass(frozen=True)
class TargetSpec:
    """Which targets a run needs.

    Args:
        towers: Towers of the teacher whose targets are needed, some of `vision` and `text`.
        grid: Height and width of the student's image feature map; the teacher's map is resampled to it. None for
            embeddings only.
        token_maps: Whether the states of caption tokens are needed too.
    """

    towers: tuple[str, ...]
    grid: tuple[int, int] | None = None
    token_maps: bool = False


class TargetSource(Protocol):
    """Source of distillation targets, live or cached.

    Attributes:
        num_views: Number of views of an image, which take turns; 0 if every epoch draws new views.
    """

    num_views: int

    def read(self, batch: Batch) -> Batch:
        """Fields that a loader adds to a batch in its workers, for `images` and `texts`."""

    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of augmented images.

        Args:
            images: Augmented images of the batch, (B, 3, S, S), 0..255.
            batch: Batch on the device.
        """

    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch; the feature map is on the teacher's own tokens."""


def resample_map(feature_map: Tensor, grid: Sequence[int]) -> Tensor:
    """Resample a feature map to a different grid, bilinear with antialiasing; to a single cell, by the mean.

    Args:
        feature_map: Feature map, (B, D, H, W).
        grid: New height and width.

    Returns:
        (B, D, *grid); the input itself if it has this grid already.
    """
    if feature_map.shape[-2:] == tuple(grid):
        return feature_map
    if tuple(grid) == (1, 1):
        return feature_map.float().mean((2, 3), keepdim=True).to(feature_map.dtype)
    # in float32, because antialiasing on the CPU has no half precision
    resampled = F.interpolate(
        feature_map.float(), tuple(grid), mode="bilinear", antialias=True, align_corners=False
    )
    return resampled.to(feature_map.dtype)


def encode_chunks(
    lengths: Tensor, encode: Callable[[Tensor, int], tuple[Tensor, ...]], device: torch.device
) -> tuple[Tensor, ...]:
    """Encode the texts of a training batch on a device, in chunks of similar length, without waiting for the device.

    Args:
        lengths: Number of tokens of each text, (N,) int64, on the host.
        encode: Function that encodes some texts: their indices, (n,) int64 on the device, and the number of tokens of
            the longest, to tensors (n, ...).
        device: Device of the tokens.

    Returns:
        The tensors of all chunks, (N, ...), in the order of the texts.
    """
    tokens = lengths.numpy()
    chunk = CPU_CHUNK if device.type == "cpu" else GPU_CHUNK

    def encode_part(indices: Tensor) -> tuple[Tensor, ...]:
        # the last text of a chunk is its longest
        return encode(indices.to(device, non_blocking=True), int(tokens[indices.numpy()[-1]]))

    return encode_by_length(lengths, chunk, encode_part)


def encode_by_length(
    lengths: Tensor, batch_size: int, encode: Callable[[Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Encode texts in batches of similar length, which saves padding, and return results in the order of the texts.

    Args:
        lengths: Length of each text in tokens or characters, (N,) int64, N at least 1.
        batch_size: Number of texts in a batch.
        encode: Function that encodes some texts: their indices, (n,) int64, shortest first, to tensors (n, ...).

    Returns:
        The tensors of all batches, (N, ...), in the order of the texts.
    """
    order = lengths.argsort(stable=True)
    batches = [encode(indices) for indices in order.split(batch_size)]
    joined = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    inverse = order.argsort().to(joined[0].device, non_blocking=True)
    return tuple(each[inverse] for each in joined)


class LiveTargets:
    """Targets of a teacher that runs at every step.

    Args:
        teacher: Teacher on the device of the batches, with the towers of `spec`.
        spec: Targets that the run needs.
    """

    num_views = 0

    def __init__(self, teacher: DualEncoder, spec: TargetSpec):
        self.teacher = teacher
        self.spec = spec
        if "vision" in spec.towers:
            self.normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)

    def read(self, batch: Batch) -> Batch:
        """No fields."""
        return {}

    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of augmented images, (B, 3, S, S), 0..255."""
        targets = self.teacher.image_targets(self.normalize(images))
        if self.spec.grid is None:
            return Targets(None, targets.embedding)
        return Targets(resample_map(targets.required_map, self.spec.grid), targets.embedding)

    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch, encoded in chunks of similar length.

        The feature map is on the teacher's own tokens, and zero beyond the longest caption of a chunk.
        """
        of_teacher = "teacher_" if "teacher_input_ids" in batch else ""
        input_ids, mask, lengths = (
            batch[f"{of_teacher}{name}"]  # type: ignore[literal-required]
            for name in ("input_ids", "attention_mask", "lengths")
        )

        def encode(indices: Tensor, length: int) -> tuple[Tensor, ...]:
            targets = self.teacher.text_targets(input_ids[indices, :length], mask[indices, :length])
            if targets.feature_map is None or not self.spec.token_maps:
                return (targets.embedding,)
            excess = input_ids.shape[1] - length
            return targets.embedding, F.pad(targets.feature_map, (0, 0, 0, excess))

        embeddings, *maps = encode_chunks(lengths, encode, input_ids.device)
        return Targets(maps[0] if maps else None, embeddings)


def encode_bank(teacher: DualEncoder, texts: Sequence[str]) -> Tensor:
    """Embeddings of a bank of texts. If the target is `logits`, images are compared with them.

    Args:
        teacher: Teacher with its text tower.
        texts: The bank. If there are more than `MAX_BANK` texts, evenly spaced ones are taken.

    Returns:
        (N, D) float32, L2-normalized, on the device of the teacher.
    """
    step = max(1, -(-len(texts) // MAX_BANK))
    embeddings = teacher.encode_texts(texts[::step], truncate=True)
    return torch.as_tensor(embeddings, device=teacher.model.device)
