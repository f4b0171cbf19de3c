"""Heads that are trained on stored features."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.tasks.losses import info_nce

LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1e-3, 0.05, 0.2
HIDDEN, WIDTH = 512, 256
START_SCALE = 2.659  # logarithm of the factor on cosines, with which CLIP starts


def mlp(width: int, out: int) -> nn.Sequential:
    """Two layers on standardized features.

    Args:
        width: Width of the features.
        out: Width of the embeddings.
    """
    return nn.Sequential(
        nn.LayerNorm(width), nn.Dropout(DROPOUT), nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, out)
    )


class Heads(nn.Module):
    """An image head and a text head over features.

    Args:
        images: Width of the image features.
        texts: Width of the text features; None for a text tower over token ids.
        out: Width of the embeddings.
        vocabulary: Number of token ids of a text tower over token ids.
    """

    def __init__(self, images: int, texts: int | None, out: int = WIDTH, vocabulary: int = 0):
        super().__init__()
        self.image = mlp(images, out)
        self.tokens = nn.EmbeddingBag(vocabulary, HIDDEN // 2, mode="mean") if texts is None else None
        self.text = mlp(HIDDEN // 2 if texts is None else texts, out)
        self.logit_scale = nn.Parameter(torch.tensor(START_SCALE))

    def encode_texts(self, texts: "Tensor | list[Tensor]") -> Tensor:
        """Embeddings of texts, (N, out).

        Args:
            texts: Features (N, width), or a list of token ids, each (L,) int64.
        """
        if self.tokens is None:
            return self.text(texts)
        lengths = torch.tensor([0, *(len(ids) for ids in texts[:-1])])
        return self.text(self.tokens(torch.cat(list(texts)), lengths.cumsum(0)))


def contrast(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """InfoNCE of pairs of different images.

    Args:
        images: Embeddings of B images, (B, D).
        texts: Embeddings of their captions, (B, D).
        logit_scale: Logarithm of the factor on cosines.
    """
    own = torch.eye(len(images), dtype=torch.bool)
    return info_nce(F.normalize(images, dim=1), F.normalize(texts, dim=1), logit_scale.exp().clamp(max=100), own)


def train(module: nn.Module, batches: Iterable[Tensor], steps: int, loss_of: Callable[[Tensor], Tensor], rate: float):
    """Train a module with AdamW and a cosine schedule.

    Args:
        module: Module to train, in place.
        batches: Indices of the captions of each batch.
        steps: Number of batches.
        loss_of: Function of the indices that returns the loss.
        rate: Peak learning rate.
    """
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _, batch in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss_of(batch).backward()
        optimizer.step()
        schedule.step()
    module.eval()
