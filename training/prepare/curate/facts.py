"""Arrays of all rows and captions: causes, hashes, similarities. One safetensors file stores one shard."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from training.prepare.curate.causes import CODES, KEPT
from training.utils.files import atomic_write


@dataclass
class CaptionFacts:
    """The T captions of one language, in the order of the source.

    Args:
        row: (T,) int64, row of the source.
        number: (T,) int32, index among the usable captions of its cell; -1 for an unusable caption.
        cause: (T,) uint8, code of the cause it is dropped for.
        identity: (T,) uint64, equal for captions that differ only in case and punctuation.
        bands: (T, 16) uint32, MinHash bands; (T, 0) if near-duplicate captions are kept.
        similarity: (T,) float32, cosine with its image; NaN if it was not scored.
        traditional: (T,) bool, whether it is in traditional Chinese.
    """

    row: np.ndarray
    number: np.ndarray
    cause: np.ndarray
    identity: np.ndarray
    bands: np.ndarray
    similarity: np.ndarray
    traditional: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Captions that are kept, (T,) bool."""
        return self.cause == CODES[KEPT]

    def drop(self, captions: np.ndarray, cause: str):
        """Drop captions. A caption that is already dropped keeps its first cause.

        Args:
            captions: Indices (K,) or mask (T,) of the captions.
            cause: Reason, a key of `CAUSES`.
        """
        chosen = np.zeros(len(self.cause), bool)
        chosen[captions] = True
        self.cause[chosen & self.kept] = CODES[cause]


@dataclass
class Facts:
    """N rows with their captions.

    Args:
        cause: (N,) uint8, code of the cause the row is dropped for.
        hash: (N,) uint64, perceptual hash of the image.
        colours: (N, 48) uint8, RGB thumbnail of the image.
        captions: Facts of the captions, by language.
    """

    cause: np.ndarray
    hash: np.ndarray
    colours: np.ndarray
    captions: dict[str, CaptionFacts]

    @property
    def kept(self) -> np.ndarray:
        """Rows that are kept, (N,) bool."""
        return self.cause == CODES[KEPT]

    def drop(self, rows: np.ndarray, cause: str):
        """Drop rows and the captions they still have. A row that is already dropped keeps its first cause.

        Args:
            rows: Indices (K,) or mask (N,) of the rows.
            cause: Reason, a key of `CAUSES`.
        """
        chosen = np.zeros(len(self.cause), bool)
        chosen[rows] = True
        chosen &= self.kept
        self.cause[chosen] = CODES[cause]
        for captions in self.captions.values():
            captions.drop(chosen[captions.row], cause)

    def drop_without_captions(self):
        """Drop rows that have no caption left."""
        has_caption = np.zeros(len(self.cause), bool)
        for captions in self.captions.values():
            has_caption[captions.row[captions.kept]] = True
        self.drop(~has_caption, "no caption left")

    def save(self, path: Path):
        """Write a safetensors file atomically."""
        arrays = {"cause": self.cause, "hash": self.hash, "colours": self.colours}
        for language, captions in self.captions.items():
            arrays |= {f"{language}.{item.name}": getattr(captions, item.name) for item in fields(captions)}
        with atomic_write(path) as scratch:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, scratch)

    @classmethod
    def load(cls, path: Path, languages: Sequence[str]) -> "Facts":
        """Read a file that `save` wrote.

        Args:
            path: Path of the safetensors file.
            languages: Languages of the captions in the file.

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            arrays = load_file(path)
            captions = {
                language: CaptionFacts(
                    **{item.name: arrays[f"{language}.{item.name}"] for item in fields(CaptionFacts)}
                )
                for language in languages
            }
            return cls(arrays["cause"], arrays["hash"], arrays["colours"], captions)
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(
                f"output_dir: {path} is damaged ({error}). Delete this file and run the same command again."
            ) from error

    @classmethod
    def join(cls, parts: Sequence["Facts"]) -> "Facts":
        """Concatenate shards in order."""
        captions = {
            language: CaptionFacts(
                **{
                    item.name: np.concatenate([getattr(part.captions[language], item.name) for part in parts])
                    for item in fields(CaptionFacts)
                }
            )
            for language in parts[0].captions
        }
        cause, hashes, colours = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("cause", "hash", "colours")
        )
        return cls(cause, hashes, colours, captions)
