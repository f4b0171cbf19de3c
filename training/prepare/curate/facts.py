"""What is known of rows and captions, as compact arrays: a file a shard, and all of them together."""

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
    """The captions of one language, in the order of the source.

    Args:
        row: (T,) int64, row of the source.
        number: (T,) int32, which usable caption of its cell it is; -1 for what is no caption.
        cause: (T,) uint8, code of why it is dropped.
        identity: (T,) uint64, equal for captions that are equal but for case and punctuation.
        bands: (T, 16) uint32, MinHash.
        similarity: (T,) float32, cosine to its image; NaN where it was not scored.
        traditional: (T,) bool, traditional Chinese.
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
        """(T,) bool."""
        return self.cause == CODES[KEPT]

    def drop(self, captions: np.ndarray, cause: str):
        """Drop captions by index or by mask; the first cause stays."""
        chosen = np.zeros(len(self.cause), bool)
        chosen[captions] = True
        self.cause[chosen & self.kept] = CODES[cause]


@dataclass
class Facts:
    """Some rows with their captions.

    Args:
        cause: (N,) uint8, code of why a row is dropped.
        hash: (N,) uint64, perceptual hash of its image.
        colours: (N, 48) uint8, its thumbnail.
        captions: by language.
    """

    cause: np.ndarray
    hash: np.ndarray
    colours: np.ndarray
    captions: dict[str, CaptionFacts]

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool."""
        return self.cause == CODES[KEPT]

    def drop(self, rows: np.ndarray, cause: str):
        """Drop rows by index or by mask with the captions that they still have; the first cause stays."""
        chosen = np.zeros(len(self.cause), bool)
        chosen[rows] = True
        chosen &= self.kept
        self.cause[chosen] = CODES[cause]
        for captions in self.captions.values():
            captions.drop(chosen[captions.row], cause)

    def drop_bare(self):
        """Drop rows of which no caption is left."""
        has_caption = np.zeros(len(self.cause), bool)
        for captions in self.captions.values():
            has_caption[captions.row[captions.kept]] = True
        self.drop(~has_caption, "no caption left")

    def save(self, path: Path):
        """Write to a safetensors file, whole or not at all."""
        arrays = {"cause": self.cause, "hash": self.hash, "colours": self.colours}
        for language, captions in self.captions.items():
            arrays |= {f"{language}.{item.name}": getattr(captions, item.name) for item in fields(captions)}
        with atomic_write(path) as scratch:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, scratch)

    @classmethod
    def load(cls, path: Path, languages: Sequence[str]) -> "Facts":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged.
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
                f"output_dir: {path} is damaged ({error}). Remove this file, and the same command makes it anew."
            ) from error

    @classmethod
    def join(cls, parts: Sequence["Facts"]) -> "Facts":
        """All shards as one, in order."""
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
