"""Losses: tensors in, scalar out. They know no model, no file and no process."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MOST_PAIRS = 2**22  # similarities held at once, 16 MiB in float32
SIGMOID_BIAS = -10.0  # as in Zhai et al., arXiv 2303.15343


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

    Requirements: a bank that is rich enough to tell the samples apart; images alone suffice for the batch.

    Relations: the classic distillation of logits, which `feature_map_loss` competes with.

    Source: Hinton et al., arXiv 1503.02531, with the bank as classes.
    """
    bank = F.normalize(bank.float(), dim=-1)
    ours, theirs = (logit_scale * F.normalize(x.float(), dim=-1) for x in (student, teacher))
    return _divergence((ours, bank), (theirs, bank))


def positives(owner: Tensor, caption_ids: Tensor, num_images: int, rows: Tensor | None = None) -> Tensor:
    """Which captions are right for which image: its own, and every equal one.

    Args:
        owner: (T,) image of the batch that each caption belongs to.
        caption_ids: (T,) equal for equal captions.
        num_images: B.
        rows: (B,) equal for equal images, which share their captions; None where no two are equal.

    Returns:
        (B, T) bool.
    """
    images = torch.arange(num_images, device=owner.device)
    if rows is not None:
        images = rows.unique(return_inverse=True)[1]
    captions = caption_ids.unique(return_inverse=True)[1]
    table = torch.zeros(num_images, len(captions), dtype=torch.bool, device=owner.device)
    table[images[owner], captions] = True  # by number of the image and of the caption, each counted once
    return table[images][:, captions]


def text_positives(first: Tensor, second: Tensor) -> Tensor:
    """Which captions say the same: those that are right for one and the same image.

    Args:
        first: (B, T) bool, as `positives` gives them, of the captions in one language.
        second: (B, U) bool, of those in another.

    Returns:
        (T, U) bool.
    """
    return first.T.float() @ second.float() > 0


def info_nce(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE, the mean of image-to-text and text-to-image, with any number of positives a row.

    Args:
        image_embeds: (B, D), L2-normalised.
        text_embeds: (T, D), L2-normalised.
        logit_scale: scalar factor on cosines (not its logarithm).
        positive: (B, T) bool; several positives share the target probability equally, and none is ever a negative.

    Returns:
        Scalar. Rows or columns without a positive do not count.

    Requirements: batches as large as memory allows; every other image's caption is a negative.

    Relations: `sigmoid_loss` judges each pair by itself. With captions in the place of images, and `text_positives`,
        it draws the languages of a text tower together (`text_text_weight`); that is off by default, because captions
        of one image meet at the image already, and pays where the pairs are few and the languages unequal.

    Source: van den Oord et al., arXiv 1807.03748; Radford et al., arXiv 2103.00020; several positives after Khosla et
        al., arXiv 2004.11362 (their "out" form).
    """
    image, text = logit_scale * image_embeds.float(), text_embeds.float()
    return (_cross_entropy(image, text, positive) + _cross_entropy(logit_scale * text, image_embeds, positive.T)) / 2


def sigmoid_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, logit_bias: Tensor, positive: Tensor
) -> Tensor:
    """Every pair of image and caption as a yes-or-no question of its own.

    Args:
        image_embeds: (B, D), L2-normalised.
        text_embeds: (T, D), L2-normalised.
        logit_scale: scalar factor on cosines (not its logarithm).
        logit_bias: scalar, added to the scaled cosines; it starts at `SIGMOID_BIAS`, because nearly all pairs are
            wrong.
        positive: (B, T) bool; any number a row.

    Returns:
        Scalar, the sum over pairs divided by the number of captions T.

    Requirements: a learnt bias; without one the first steps do nothing but correct the prior.

    Relations: takes the place of `info_nce`. Off by default: its advantage is at batches below 16k and in memory, but
        its logits are no distribution over the batch, which the teacher's terms are.

    Source: Zhai et al., arXiv 2303.15343, algorithm 1.
    """
    image, text = logit_scale * image_embeds.float(), text_embeds.float()

    def value(rows: slice) -> Tensor:
        logits = image[rows] @ text.T + logit_bias
        return -F.logsigmoid(torch.where(positive[rows], logits, -logits)).sum()

    return _sum_over_rows(value, *positive.shape) / max(1, len(text))


def affinity_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], logit_scale: Tensor, teacher_logit_scale: float
) -> Tensor:
    """Affinity mimicking: the student likens images and captions as the teacher does.

    The mean of two Kullback-Leibler divergences from the teacher's to the student's similarities: of each image to
    all captions, and of each caption to all images.

    Args:
        student: its images (B, D) and captions (T, D), L2-normalised.
        teacher: likewise; its width may be another.
        logit_scale: scalar, the student's factor on cosines.
        teacher_logit_scale: the teacher's.

    Returns:
        Scalar; nothing for a student that agrees.

    Requirements: a teacher that reads the captions' language, and batches in which it finds degrees of likeness.

    Relations: `bank_loss` compares with a fixed bank; here the batch is the bank, and both sides are the student's
        own. Off by default: it needs the teacher's two towers at every step, and says little in a small batch.

    Source: Wu et al., TinyCLIP, ICCV 2023, arXiv 2309.12314 (affinity mimicking).
    """
    total = torch.zeros((), device=student[0].device)
    for first, second in ((0, 1), (1, 0)):
        ours = logit_scale * student[first].float(), student[second].float()
        theirs = teacher_logit_scale * teacher[first].float(), teacher[second].float()
        total = total + _divergence(ours, theirs) / 2
    return total


def interactive_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], logit_scale: Tensor, positive: Tensor
) -> Tensor:
    """Interactive contrastive learning: the student's images find the teacher's captions, and its captions the
    teacher's images.

    Args:
        student: its images (B, D) and captions (T, D), L2-normalised.
        teacher: likewise, of the same width.
        logit_scale: scalar, the student's factor on cosines.
        positive: (B, T) bool; any number a row.

    Returns:
        Scalar, the mean of both. Rows or columns without a positive do not count.

    Requirements: student and teacher share one embedding space, as stage 1 leaves them.

    Relations: `info_nce` with one side held by the teacher; `embedding_loss` draws to the teacher's own answer and
        knows no negatives. Off by default: the anchor holds the space already, at no cost in the size of the batch.

    Source: Yang et al., CLIP-KD, CVPR 2024, arXiv 2307.12732 (ICL); several positives as in `info_nce`.
    """
    from_image = _cross_entropy(logit_scale * student[0].float(), teacher[1], positive)
    return (from_image + _cross_entropy(logit_scale * student[1].float(), teacher[0], positive.T)) / 2


def _cross_entropy(first: Tensor, second: Tensor, positive: Tensor) -> Tensor:
    """Mean over the rows with a positive, of the similarities of (N, D), scaled, to (M, D)."""
    second, counts = second.float(), positive.sum(1)

    def value(rows: slice) -> Tensor:
        logits = first[rows] @ second.T
        return (-(logits.log_softmax(1) * positive[rows]).sum(1) / counts[rows].clamp_min(1)).sum()

    return _sum_over_rows(value, *positive.shape) / (counts > 0).sum().clamp_min(1)


def _divergence(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over rows, of which there may be none, of the similarities of (N, D), scaled, to (M, D)."""

    def value(rows: slice) -> Tensor:
        found, wanted = ((first[rows] @ second.T).log_softmax(1) for first, second in (ours, theirs))
        return F.kl_div(found, wanted, reduction="sum", log_target=True)

    return _sum_over_rows(value, len(ours[0]), len(ours[1])) / max(1, len(ours[0]))


def _sum_over_rows(value: Callable[[slice], Tensor], num_rows: int, num_columns: int) -> Tensor:
    """Sum of what `value` gives for parts of the rows of a matrix of similarities. A large matrix never stands in
    memory: its parts are computed one at a time, and again for their gradients.
    """
    size = max(1, MOST_PAIRS // max(1, num_columns))
    if num_rows <= size:
        return value(slice(None))
    parts = [slice(start, start + size) for start in range(0, num_rows, size)]
    values = [checkpoint(value, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(values).sum()


def clamp_logit_scale(logit_scale: Tensor, maximum: float):
    """Keep the logarithm of the scale within 0..log(maximum), in place; CLIP's maximum is 100."""
    with torch.no_grad():
        logit_scale.clamp_(0, torch.tensor(maximum).log().item())
