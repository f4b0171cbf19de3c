"""What the towers are timed on; it knows numpy alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FILE = "inputs.json"


@dataclass(frozen=True)
class Inputs:
    """Images and texts of one model.

    Args:
        image_size: edge of its square input in pixels.
        pad_token_id: what its shorter texts are filled up with.
        texts: token ids of real queries, by language.
    """

    image_size: int
    pad_token_id: int
    texts: dict[str, list[list[int]]]

    def write(self, folder: Path):
        """Write `folder/inputs.json`."""
        (folder / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Inputs":
        """Read what `write` wrote."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))

    def images(self, batch_size: int) -> np.ndarray:
        """(B, 3, S, S) float32 noise, in the range of prepared images: what they show costs nothing."""
        shape = (batch_size, 3, self.image_size, self.image_size)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def text_batches(self, language: str, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """All texts of a language in batches, each as ids (B, L) and mask (B, L), padded to its longest."""
        texts = self.texts[language]
        starts = range(0, len(texts) - batch_size + 1, batch_size)
        return [pad(texts[start : start + batch_size], self.pad_token_id) for start in starts]


def pad(texts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (B, L) int64 and their mask (B, L) int64, padded to the longest text."""
    length = max(map(len, texts))
    ids = np.full((len(texts), length), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(texts), length), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return ids, mask
