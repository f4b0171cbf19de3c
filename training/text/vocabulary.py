"""A cut vocabulary: a tokenizer with a part of a larger tokenizer's pieces, and the ids that connect the two.

The tokenizer that was cut is the source, usually the teacher's. `source_ids` maps ids of the cut to ids of the source,
`kept_ids` maps ids of the source to ids of the cut. A student's embedding table is therefore
`source_table[vocabulary.source_ids]`, and `Vocabulary.to_source` converts a tokenized batch for the teacher.
`python -m training.prepare.vocabulary` makes cut vocabularies.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.text.pipeline import digest, read_pipeline, save_with_pipeline, untruncated
from training.utils.files import atomic_write, write_json
from training.utils.reading import read_mapping

IDS_FILE = "vocabulary.safetensors"
META_FILE = "vocabulary.json"
FILES = (IDS_FILE, META_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CHUNK = 4096  # texts that are tokenized at once


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Divide texts into lists of at most `CHUNK`, which are tokenized at once."""
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


@dataclass(frozen=True)
class Vocabulary:
    """A cut tokenizer and its relation to the source.

    Args:
        tokenizer: Cut tokenizer with V pieces.
        source_ids: (V,) int64, source id of each piece, ascending: the rows of an embedding table to keep.
        kept_ids: (V_source,) int64, id in the cut of each source piece; -1 for pieces that were cut.
        source: Name of the source tokenizer.
        source_digest: Digest of the source's pipeline, to recognize the source whatever its name.
        corpus: Name of the corpus whose pieces were counted.
        counts: Number of pieces counted, and number of pieces kept for each reason.
    """

    tokenizer: PreTrainedTokenizerBase
    source_ids: Tensor
    kept_ids: Tensor
    source: str
    source_digest: str
    corpus: str
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.source_ids)

    def to_source(self, input_ids: Tensor) -> Tensor:
        """Convert ids of the cut (any shape, int64) to ids of the source."""
        return self.source_ids.to(input_ids.device)[input_ids]

    def is_cut_of(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Check whether a tokenizer is the source. Pipelines are compared, not names."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return backend is not None and digest(read_pipeline(tokenizer)) == self.source_digest

    def aligned(
        self, texts: Sequence[str], source_tokenizer: PreTrainedTokenizerBase
    ) -> list[bool]:
        """Find the texts that the cut and the source split into the same pieces. Texts are not truncated.

        Args:
            texts: List of T texts.
            source_tokenizer: Source tokenizer of this vocabulary; see `is_cut_of`.

        Returns:
            For each text, whether the source's ids equal `to_source` of the cut's ids.
        """
        source_ids = self.source_ids.numpy()
        same = []
        with untruncated(self.tokenizer) as cut, untruncated(source_tokenizer) as source:
            for chunk in chunks(texts):
                ours = cut.encode_batch_fast(chunk)
                theirs = source.encode_batch_fast(chunk)
                for new, old in zip(ours, theirs, strict=True):
                    ids = source_ids[np.array(new.ids, int)]
                    same.append(ids.tolist() == old.ids)
        return same

    def save(self, folder: str | Path):
        """Write tokenizer and ids into a folder. An existing folder, such as a student's, keeps its other files."""
        folder = Path(folder)
        meta: dict[str, Any] = {
            "source": self.source,
            "source_digest": self.source_digest,
            "corpus": self.corpus,
            "counts": self.counts,
        }
        folder.mkdir(parents=True, exist_ok=True)
        # the metadata file marks a complete vocabulary: it is removed first and written last
        (folder / META_FILE).unlink(missing_ok=True)
        save_with_pipeline(self.tokenizer, read_pipeline(self.tokenizer), folder)
        with atomic_write(folder / IDS_FILE) as scratch:
            save_file({"source_ids": self.source_ids, "kept_ids": self.kept_ids}, scratch)
        write_json(folder / META_FILE, meta)

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Check whether a folder holds a cut vocabulary."""
        return all((Path(folder) / name).is_file() for name in (META_FILE, IDS_FILE))

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Load a vocabulary from a folder that `save` wrote.

        Raises:
            ValueError: The folder does not hold a vocabulary, or its tokenizer does not match.
        """
        folder = Path(folder)
        try:
            meta = read_mapping(folder / META_FILE, "vocabulary")
            ids = load_file(folder / IDS_FILE)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            origin = {name: meta[name] for name in ("source", "source_digest", "corpus", "counts")}
            loaded = cls(tokenizer, ids["source_ids"], ids["kept_ids"], **origin)
        except Exception as error:  # tokenizers raises Exception itself
            raise ValueError(
                f"vocabulary: {str(folder)!r} is damaged ({type(error).__name__}: {error}). Copy it or cut it again."
            ) from error
        if len(tokenizer) != len(loaded):
            raise ValueError(
                f"vocabulary: {str(folder)!r} has a tokenizer of {len(tokenizer)} pieces and {len(loaded)} source "
                "ids: the files come from different cuts. Cut again."
            )
        return loaded
