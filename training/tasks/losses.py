"""Losses as pure functions of tensors; each returns a scalar. At the end, what a loss of stage 2 compares."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# similarities in memory at once, 16 MiB and 512 MiB in float32
MAX_PAIRS = 2**22
MAX_PAIRS_ON_GPU = 2**27
LOWEST_LOGIT = -1e9  # its probability is 0, and its gradient is finite


def whiten(feature_map: Tensor, dim: int) -> Tensor:
    """LayerNorm without affine parameters over the channels.

    Args:
        feature_map: Feature map of any shape, any floating-point dtype.
        dim: Channel dimension.

    Returns:
        Tensor of the same shape, float32.

    Source: Wei et al., arXiv 2205.14141, section 3.
    """
    channels_last = feature_map.float().movedim(dim, -1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, dim)


def feature_map_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    dim: int,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Smooth-L1 between an adapted student feature map and the whitened teacher feature map.

    Args:
        student: Student map, adapted to the teacher's width: (B, D, H, W) with dim=1, or (B, L, D) with dim=-1.
        teacher: Teacher map of the same shape.
        mask: Mask of a token map, (B, L), 1 for tokens and 0 for padding; None to average over all positions.
        dim: Channel dimension.
        statistics: Mean (D,) of each channel of the teacher's map over the data, and the root of their mean variance,
            a scalar, so that no direction is amplified; None whitens each position.

    Returns:
        Scalar, the mean over channels and positions that are not masked.

    Requirements: the teacher map is after the tower's own final norm, on the student's grid or tokens.

    Relations: `embedding_loss` compares one vector per sample; this loss compares all positions.

    Source: Wei et al., arXiv 2205.14141 (beta 2.0); the DC-CLIP paper, arXiv 2404.11249, stage 1. The statistics are
        those of PHI-S, Ranzinger et al., arXiv 2410.01680, without its rotation.
    """
    if statistics is None:
        target = whiten(teacher, dim)
    else:
        mean, scale = statistics
        target = ((teacher.float().movedim(dim, -1) - mean) / scale).movedim(-1, dim)
    loss = F.smooth_l1_loss(student.float(), target, beta=2.0, reduction="none").mean(dim)
    if mask is None:
        return loss.mean()
    mask = mask.to(loss.dtype)
    return (loss * mask).sum() / mask.sum().clamp_min(1)


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cosine distance, in 0..2.

    Args:
        student: Student embeddings, (B, D), any norm.
        teacher: Teacher embeddings, (B, D), any norm.

    Returns:
        Scalar; 0 for an empty batch.

    Requirements: student and teacher embeddings have the same width.

    Relations: it trains the projections in stage 1 and keeps the student in the teacher's space in stage 2. CN-CLIP
        distills with the same loss.
    """
    distances = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return distances.mean() if len(distances) else distances.sum()


def map_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of feature maps, relative to the squared norm of the teacher's.

    Args:
        student: Feature maps of the student, (B, D, H, W).
        teacher: Feature maps of the teacher, (B, D, H, W).

    Returns:
        (B,) float32, at least 0; 1 for a student whose map is zero.

    Requirements: both maps have the same channels, so the student started as a copy of the teacher.

    Relations: stage 1 compares maps through an adapter and after whitening, because its towers differ.
    """
    student = student.float().flatten(1)
    teacher = teacher.float().flatten(1)
    norms = teacher.square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
    return (student - teacher).square().sum(1) / norms


def bank_loss(student: Tensor, teacher: Tensor, bank: Tensor, logit_scale: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's to the student's similarities to a bank of texts.

    Args:
        student: Student embeddings, (B, D), any norm.
        teacher: Teacher embeddings, (B, D), any norm.
        bank: Teacher embeddings of N texts, (N, D), any norm.
        logit_scale: Factor on the cosines of both.

    Returns:
        Scalar, the mean over samples.

    Requirements: the bank has enough texts to distinguish the samples. The batch needs no captions.

    Relations: classic distillation of logits, the alternative to `feature_map_loss`.

    Source: Hinton et al., arXiv 1503.02531, with the texts of the bank as classes.
    """
    bank = _unit(bank)
    scaled = logit_scale * _unit(student)
    teacher_scaled = logit_scale * _unit(teacher)

    def value(rows: slice) -> Tensor:
        logs = (scaled[rows] @ bank.T).log_softmax(1)
        teacher_logs = (teacher_scaled[rows] @ bank.T).log_softmax(1)
        return F.kl_div(logs, teacher_logs, reduction="sum", log_target=True)

    total = _sum_over_rows(value, bank.device, len(scaled), len(bank))
    return total / max(1, len(scaled))


def class_loss(
    student: Tensor,
    names: Tensor,
    logits: Tensor,
    logit_scale: float,
    left_out: Tensor | None,
) -> Tensor:
    """Kullback-Leibler divergence from a classifier's probabilities to the student's similarities to class names.

    Args:
        student: Student embeddings of B images, (B, D), any norm.
        names: Student embeddings of the names of C classes in N languages, (N, C, D), any norm.
        logits: Logits of the classifier, (B, C).
        logit_scale: Factor on the student's cosines.
        left_out: Classes without a probability, such as copies of others, (C,) bool; None for none.

    Returns:
        Scalar, the mean over images and languages.

    Requirements: the classes need not be all of the classifier's; probabilities are over the given ones.

    Relations: `bank_loss` has a fixed bank, whose embeddings the teacher gives. Here both towers learn, from a teacher
        that has no names at all.
    """
    similarities = logit_scale * _unit(student) @ _unit(names).mT  # (N, B, C)
    logits = logits.float()
    if left_out is not None:
        similarities = similarities.masked_fill(left_out, LOWEST_LOGIT)
        logits = logits.masked_fill(left_out, LOWEST_LOGIT)
    logs = similarities.log_softmax(-1)
    target = logits.log_softmax(-1).expand_as(logs)
    return F.kl_div(logs, target, reduction="none", log_target=True).sum(-1).mean()


def positives(rows: Tensor, owner: Tensor, caption_ids: Tensor, device: torch.device) -> Tensor:
    """Find the captions that match each image: its own captions, and all equal ones.

    Args:
        rows: Ids that are equal for equal images, (B,) int64, on the CPU. Equal images share their captions.
        owner: Index of the image that each caption belongs to, (T,) int64, on the CPU.
        caption_ids: Ids that are equal for equal captions, (T,) int64, on the CPU.
        device: Device of the result.

    Returns:
        (B, T) bool.
    """
    image_numbers = _distinct(rows)
    owners = image_numbers[owner].to(device, non_blocking=True)
    images = image_numbers.to(device, non_blocking=True)
    captions = _distinct(caption_ids).to(device, non_blocking=True)
    # indexed by distinct image and distinct caption
    table = torch.zeros(len(images), len(captions), dtype=torch.bool, device=device)
    table[owners, captions] = True
    return table[images[:, None], captions]  # (B, T)


def info_nce(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positive: Tensor
) -> Tensor:
    """InfoNCE, the mean of image-to-text and text-to-image, with any number of positives per row.

    Args:
        image_embeds: Image embeddings, (B, D), L2-normalized.
        text_embeds: Text embeddings, (T, D), L2-normalized.
        logit_scale: Scalar factor on cosines (not its logarithm).
        positive: Which captions match which image, (B, T) bool. Several positives share the target probability
            equally. They are in each other's denominators, so the smallest loss of a row is the log of their number.

    Returns:
        Scalar. Rows and columns without a positive are left out.

    Requirements: batches as large as memory allows, because the captions of all other images are the negatives.

    Relations: with captions in place of images, this loss aligns the languages of a text tower (`text_text_weight`).
        That is off by default, because all captions of an image are already aligned with the image. It helps if there
        are few pairs and one language has fewer captions than the other.

    Source: van den Oord et al., arXiv 1807.03748; Radford et al., arXiv 2103.00020; several positives after Khosla et
        al., arXiv 2004.11362 (their "out" form).
    """
    image = image_embeds.float()
    text = text_embeds.float()
    return (
        _cross_entropy(logit_scale * image, text, positive)
        + _cross_entropy(logit_scale * text, image, positive.T)
    ) / 2


def _cross_entropy(first: Tensor, second: Tensor, positive: Tensor) -> Tensor:
    """Mean cross-entropy of the similarities of `first` (N, D), already scaled, to `second` (M, D), over the rows with
    a positive.
    """
    counts = positive.sum(1)

    def value(rows: slice) -> Tensor:
        logs = (first[rows] @ second.T).log_softmax(1)
        return (-(logs * positive[rows]).sum(1) / counts[rows].clamp_min(1)).sum()

    total = _sum_over_rows(value, first.device, *positive.shape)
    return total / (counts > 0).sum().clamp_min(1)


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1)


def _distinct(ids: Tensor) -> Tensor:
    """Number of each id among the distinct ones."""
    return torch.from_numpy(np.unique(ids.numpy(), return_inverse=True)[1])


def _sum_over_rows(
    value: Callable[[slice], Tensor], device: torch.device, num_rows: int, num_columns: int
) -> Tensor:
    """Sum of `value` over slices of the rows of a similarity matrix. A large matrix is never in memory as a whole: its
    slices are computed one at a time, and again for their gradients.
    """
    limit = MAX_PAIRS if device.type == "cpu" else MAX_PAIRS_ON_GPU
    size = max(1, limit // max(1, num_columns))
    if num_rows <= size:
        return value(slice(None))
    parts = [slice(start, start + size) for start in range(0, num_rows, size)]
    values = [
        checkpoint(value, part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ]
    return torch.stack(values).sum()


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What a loss of stage 2 compares: the embeddings of a batch of all processes, and its labels; all float32.

    Every process has the same inputs, and the loss of the batch is the mean over the processes.

    Args:
        embeddings: Embeddings by name, not normalized: `image` (B, D) and `text` (T, D) of the student and, with a
            teacher, `teacher_image` (B, D) and `teacher_text` (T, D).
        extra: Other outputs by name at their full width: what `OwnInputs.encode` returns, and `teacher_map` (B, C),
            the mean of the teacher's feature map, if a loss has `needs_map`.
        width: Number of leading dimensions D that are compared.
        logit_scale: Scalar factor on the student's cosines.
        positive: Which captions match which image, (B, T) bool.
        languages: Indices of the captions in each language of the recipe, int64.
    """

    embeddings: dict[str, Tensor]
    extra: dict[str, Tensor]
    width: int
    logit_scale: Tensor
    positive: Tensor
    languages: list[Tensor]

    @cached_property
    def unit(self) -> dict[str, Tensor]:
        """The same embeddings, L2-normalized."""
        return {name: F.normalize(value, dim=-1) for name, value in self.embeddings.items()}

    def in_language(self, captions: Tensor) -> "LossInputs":
        """The same batch with the captions of one language only, by their indices."""
        embeddings = dict(self.embeddings)
        for name, value in self.embeddings.items():
            if name.endswith("text"):
                embeddings[name] = value[captions]
        return replace(self, embeddings=embeddings, positive=self.positive[:, captions])

    def at_width(self, width: int) -> "LossInputs":
        """The same batch with the leading dimensions of all embeddings, 1..D."""
        embeddings = {name: value[:, :width] for name, value in self.embeddings.items()}
        return replace(self, embeddings=embeddings, width=width)

    def cut(self, name: str) -> Tensor:
        """The leading dimensions of embeddings in `extra`, (..., D)."""
        return self.extra[name][..., : self.width]
