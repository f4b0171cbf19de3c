"""Losses: tensors in, scalar out. They know no model, no file and no process."""

import torch
import torch.nn.functional as F
from torch import Tensor


def whiten(feature_map: Tensor, dim: int) -> Tensor:
    """LayerNorm without affine parameters over the channels.

    Args:
        feature_map: any float tensor.
        dim: the channel dimension.

    Returns:
        The same shape, float32.

    Source: Wei et al., arXiv 2205.14141, section 3.
    """
    channels_last = feature_map.float().movedim(dim, -1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, dim)


def feature_map_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    beta: float = 2.0,
    dim: int = 1,
    whitened: bool = True,
) -> Tensor:
    """Smooth-L1 between an adapted student map and the whitened teacher map.

    Args:
        student: (B, D, H, W) with dim=1, or (B, L, D) with dim=-1; already adapted to the teacher's width.
        teacher: the same shape.
        mask: (B, L), 1 where a token counts; for token maps only.
        beta: where Smooth-L1 turns from square to line.
        dim: the channel dimension.
        whitened: False compares with the teacher map as it is.

    Returns:
        Scalar, the mean over everything that counts.

    Requirements: teacher maps come after the tower's own final norm, on the student's grid or tokens.

    Relations: `embedding_loss` compares one vector a sample; this compares all positions.

    Source: Wei et al., arXiv 2205.14141 (beta 2.0); the DC-CLIP paper, arXiv 2404.11249, stage 1.
    """
    target = whiten(teacher, dim) if whitened else teacher.float()
    loss = F.smooth_l1_loss(student.float(), target, beta=beta, reduction="none").mean(dim)
    if mask is None:
        return loss.mean()
    mask = mask.to(loss.dtype)
    return (loss * mask).sum() / mask.sum().clamp_min(1)


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cosine distance, in 0..2.

    Args:
        student: (B, D), any norm.
        teacher: (B, D), any norm.

    Requirements: both live in a space of the same width.

    Relations: fits the projections in stage 1; holds stage 2 to the teacher's space (CN-CLIP distils with the same
        term).
    """
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()


def bank_loss(student: Tensor, teacher: Tensor, bank: Tensor, logit_scale: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's to the student's similarities to a bank of texts.

    Args:
        student: (B, D), any norm.
        teacher: (B, D), any norm.
        bank: (N, D), the teacher's embeddings of N texts, any norm.
        logit_scale: factor on cosines, for both.

    Returns:
        Scalar, the mean over samples.

    Requirements: a bank that is rich enough to tell the samples apart; pictures alone suffice for the batch.

    Relations: the classic distillation of logits, which `feature_map_loss` competes with.

    Source: Hinton et al., arXiv 1503.02531, with the bank as classes.
    """
    bank = F.normalize(bank.float(), dim=-1)
    ours, theirs = (logit_scale * F.normalize(x.float(), dim=-1) @ bank.T for x in (student, teacher))
    return F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True)


def positives(owner: Tensor, caption_ids: Tensor, num_pictures: int) -> Tensor:
    """Which captions are right for which picture: its own, and every equal one.

    Args:
        owner: (T,) picture of the batch that each caption belongs to.
        caption_ids: (T,) equal for equal captions.
        num_pictures: B.

    Returns:
        (B, T) bool.
    """
    owned = F.one_hot(owner, num_pictures).T.float()  # (B, T)
    same = (caption_ids[:, None] == caption_ids[None, :]).float()  # (T, T)
    return owned @ same > 0


def info_nce(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE, the mean of image-to-text and text-to-image, with any number of positives a row.

    Args:
        image_embeds: (B, D), L2-normalised.
        text_embeds: (T, D), L2-normalised.
        logit_scale: scalar factor on cosines (not its logarithm).
        positive: (B, T) bool; several positives share the target probability equally, and none is ever a negative.

    Returns:
        Scalar. Rows or columns without a positive do not count.

    Requirements: batches as large as memory allows; every other picture's caption is a negative.

    Source: van den Oord et al., arXiv 1807.03748; Radford et al., arXiv 2103.00020; several positives after Khosla et
        al., arXiv
    2004.11362 (their "out" form).
    """
    logits = logit_scale * image_embeds.float() @ text_embeds.float().T
    return (_cross_entropy(logits, positive) + _cross_entropy(logits.T, positive.T)) / 2


def _cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    counts = positive.sum(1)
    per_row = -(logits.log_softmax(1) * positive).sum(1) / counts.clamp_min(1)
    return per_row.sum() / (counts > 0).sum().clamp_min(1)


def clamp_logit_scale(logit_scale: Tensor, maximum: float):
    """Keep the logarithm of the scale within 0..log(maximum), in place; CLIP's maximum is 100."""
    with torch.no_grad():
        logit_scale.clamp_(0, torch.tensor(maximum).log().item())
