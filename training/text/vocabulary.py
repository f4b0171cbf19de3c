"""A cut vocabulary: its tokenizer, and the ids of its pieces in the source."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.text.pipeline import digest, read_pipeline, unbounded, write
from training.utils.files import scratch_folder

IDS_FILE = "vocabulary.safetensors"
META_FILE = "vocabulary.json"
CHUNK = 4096


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts that are tokenized at once."""
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that was cut, and what it was cut from.

    Args:
        tokenizer: with V pieces.
        source_ids: (V,) int64, id of each piece in the source, ascending: the rows of an embedding table to keep.
        kept_ids: (V_source,) int64, id of each source piece in the cut; -1 where it is cut.
        source: name of the source tokenizer.
        source_digest: tells the source from other tokenizers of its name.
        corpus: what the pieces were counted on.
        counts: sentences and pieces counted, and how many pieces were kept for which reason.
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
        """Ids (any shape, int64) of the cut as ids of the source."""
        return self.source_ids.to(input_ids.device)[input_ids]

    def is_cut_of(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether this tokenizer is the source: the same pipeline, not only the same name."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return backend is not None and digest(read_pipeline(tokenizer)) == self.source_digest

    def check_source(self, tokenizer: PreTrainedTokenizerBase):
        """Refuse a tokenizer that is not the source.

        Raises:
            ValueError: it is another.
        """
        if not self.is_cut_of(tokenizer):
            raise ValueError(
                f"source tokenizer: {tokenizer.name_or_path!r} is not the tokenizer {self.source!r} that this "
                "vocabulary was cut from. Load that one, or cut the vocabulary anew."
            )

    def aligned(self, texts: Sequence[str], source_tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Which texts both tokenizers read in the same pieces, whatever their length.

        Args:
            texts: T of them.
            source_tokenizer: that this was cut from.

        Returns:
            (T,) bool: whether the source's ids are `to_source` of the cut's ids.

        Raises:
            ValueError: it is not the source.
        """
        self.check_source(source_tokenizer)
        same: list[bool] = []
        with unbounded(self.tokenizer) as cut, unbounded(source_tokenizer) as source:
            for chunk in chunks(texts):
                same += self.same_ids(cut.encode_batch_fast(chunk), source.encode_batch_fast(chunk))
        return np.array(same, dtype=bool)

    def same_ids(self, cut: list, source: list) -> list[bool]:
        """Whether `tokenizers` encodings of the cut and of the source are of the same pieces, text by text."""
        source_ids = self.source_ids.numpy()
        return [
            source_ids[new.ids].tolist() == old.ids if new.ids else not old.ids
            for new, old in zip(cut, source, strict=True)
        ]

    def save(self, folder: str | Path):
        """Write tokenizer and ids. A new folder appears whole or not at all; one that exists, such as a student's,
        keeps its other files.
        """
        folder = Path(folder)
        meta: dict[str, Any] = {
            "source": self.source,
            "source_digest": self.source_digest,
            "source_size": len(self.kept_ids),
            "size": len(self),
            "corpus": self.corpus,
            "counts": self.counts,
        }
        with scratch_folder(folder.with_name(f"{folder.name}.tmp")) as scratch:
            write(self.tokenizer, read_pipeline(self.tokenizer), scratch)
            save_file({"source_ids": self.source_ids, "kept_ids": self.kept_ids}, scratch / IDS_FILE)
            (scratch / META_FILE).write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            if not folder.exists():
                scratch.rename(folder)
                return
            # whoever finds the description finds a whole cut: it goes first and comes last
            (folder / META_FILE).unlink(missing_ok=True)
            for file in sorted(scratch.iterdir(), key=lambda file: file.name == META_FILE):
                file.replace(folder / file.name)

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a cut vocabulary."""
        return all((Path(folder) / name).is_file() for name in (META_FILE, IDS_FILE))

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            ValueError: there is none, or the tokenizer beside it is another.
        """
        folder = Path(folder)
        if not cls.is_in(folder):
            raise ValueError(
                f"vocabulary: {str(folder)!r} has no {META_FILE} and {IDS_FILE}. Make one with `python -m "
                "training.prepare.vocabulary`."
            )
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        ids = load_file(folder / IDS_FILE)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not len(tokenizer) == len(ids["source_ids"]) == meta["size"] or len(ids["kept_ids"]) != meta["source_size"]:
            raise ValueError(
                f"vocabulary: {str(folder)!r} has a tokenizer of {len(tokenizer)} pieces and {len(ids['source_ids'])} "
                f"source ids; {META_FILE} says {meta['size']}. Its files are of different cuts: make it anew."
            )
        return cls(
            tokenizer,
            ids["source_ids"],
            ids["kept_ids"],
            **{name: meta[name] for name in ("source", "source_digest", "corpus", "counts")},
        )
