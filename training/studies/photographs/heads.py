"""Heads on frozen embeddings: ConSE, which is not trained, and two MLPs that are trained on captions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from training.demo.photo_teacher.lite2 import Lite2
from training.tasks.losses import info_nce
from training.text.writing_systems import LANGUAGES

WIDTH, HIDDEN = 512, 1024
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 40, 512, 1e-3, 0.05
DROPOUT = 0.2
INITIAL_SCALE = 2.66  # logarithm of 1 / 0.07


class Conse(nn.Module):
    """Embeds an image as the mean of its class names' embeddings, weighted by the classifier's probabilities.

    Args:
        lite2: Weights of the classifier.
        names: Embedding of each ImageNet class, (1000, D) float32, L2-normalised.

    Source: Norouzi et al., arXiv 1312.5650.
    """

    def __init__(self, lite2: Lite2, names: Tensor):
        super().__init__()
        self.lite2, self.names = lite2, names

    def forward(self, pooled: Tensor) -> Tensor:
        """Embed pooled features, (B, 1280) float32; (B, D) float32."""
        return self.lite2.log_probabilities(pooled).exp() @ self.names


class CaptionHeads(nn.Module):
    """An MLP on pooled image features and one on sentence embeddings, both to one space."""

    def __init__(self):
        super().__init__()
        self.image, self.text = _mlp(1280), _mlp(512)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE))


class Both(nn.Module):
    """Concatenates the normalised outputs of two heads: similarities are the mean of both."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, features: Tensor) -> Tensor:
        """Embed features, (B, F) float32; (B, D1 + D2) float32."""
        return torch.cat([F.normalize(self.first(features), dim=-1), F.normalize(self.second(features), dim=-1)], -1)


@dataclass(frozen=True)
class Captions:
    """Captions of images in one language.

    Args:
        embeddings: Sentence embedding of each caption, (T, 512) float32.
        starts: Number of captions before those of each image, (N + 1,) int64.
        ids: Number of each caption's text, equal for equal texts, (T,) int64.
    """

    embeddings: Tensor
    starts: Tensor
    ids: Tensor

    @classmethod
    def of(cls, lists: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor]) -> "Captions":
        """Encode captions.

        Args:
            lists: Captions of each image, at least one.
            encode: Function of texts that returns (T, 512) float32.
        """
        texts = [text for each in lists for text in each]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        starts = torch.tensor([0, *(len(each) for each in lists)]).cumsum(0)
        return cls(encode(texts), starts, torch.tensor([numbers[text] for text in texts]))

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a caption of each image, (B,) int64."""
        first, counts = self.starts[images], self.starts[images + 1] - self.starts[images]
        return first + (torch.rand(len(images), generator=generator) * counts).long()


def train_heads(pooled: Tensor, captions: dict[str, Captions], seed: int) -> CaptionHeads:
    """Train both heads with InfoNCE in each language. Equal captions of several images are right for all of them.

    Args:
        pooled: Pooled features of the images, (N, 1280) float32.
        captions: Their captions by language.
        seed: Seed of the weights and of the batches.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    heads = CaptionHeads().train()
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    size = min(BATCH_SIZE, len(pooled))
    steps_per_epoch = len(pooled) // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * steps_per_epoch)
    for _ in tqdm(range(EPOCHS), desc=f"heads, seed {seed}", unit="epoch", leave=False):
        for images in torch.randperm(len(pooled), generator=generator)[: steps_per_epoch * size].split(size):
            embeds, scale = F.normalize(heads.image(pooled[images]), dim=-1), heads.logit_scale.exp()
            losses = []
            for language in LANGUAGES:
                rows = captions[language].draw(images, generator)
                texts = F.normalize(heads.text(captions[language].embeddings[rows]), dim=-1)
                ids = captions[language].ids[rows]
                losses.append(info_nce(embeds, texts, scale, ids[:, None] == ids))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
            schedule.step()
    return heads.eval()


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, WIDTH))
