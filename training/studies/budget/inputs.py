"""Images and texts that the towers are timed on. It imports numpy only."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FILE = "inputs.json"


@dataclass(frozen=True)
class Inputs:
    """Images and texts for one model.

    Args:
        image_size: Edge of the square input in pixels.
        pad_token_id: Token id that pads shorter texts.
        texts: Token ids of zero-shot queries, by language.
    """

    image_size: int
    pad_token_id: int
    texts: dict[str, list[list[int]]]

    def write(self, folder: Path):
        """Write `folder/inputs.json`."""
        (folder / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Inputs":
        """Read a file that `write` wrote."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))

    def images(self, batch_size: int) -> np.ndarray:
        """Random noise in the range of normalised images, (B, 3, S, S) float32. Content does not affect speed."""
        shape = (batch_size, 3, self.image_size, self.image_size)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def text_batches(self, language: str, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """All texts of a language in full batches, padded to the longest text of each batch.

        Args:
            language: Language of the texts.
            batch_size: Texts per batch.

        Returns:
            Token ids (B, L) and attention mask (B, L), int64, of each batch.
        """
        texts = self.texts[language]
        starts = range(0, len(texts) - batch_size + 1, batch_size)
        return [pad(texts[start : start + batch_size], self.pad_token_id) for start in starts]


def pad(texts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad texts to the longest one.

    Args:
        texts: Token ids of B texts.
        pad_token_id: Token id that pads shorter texts.

    Returns:
        Token ids (B, L) int64 and attention mask (B, L) int64.
    """
    length = max(map(len, texts))
    ids = np.full((len(texts), length), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(texts), length), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return ids, mask
