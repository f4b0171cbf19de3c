"""Captions: what is usable, and their tokens for student and teacher."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.text.pipeline import unbounded
from training.text.vocabulary import Vocabulary
from training.text.writing_systems import is_written_in


def usable_captions(cell: Any, language: str | None = None) -> tuple[list[str], list[str]]:
    """The captions in one cell, stripped, and for each unusable one the cause.

    Args:
        cell: a string or a list of strings, if all is well.
        language: ISO 639-1 code; captions without one letter of its script are unusable. None asks for none.
    """
    if cell is None or cell == []:
        return [], ["no caption"]
    texts, lost = [], []
    for text in cell if isinstance(cell, list) else [cell]:
        if not isinstance(text, str):
            lost.append("no caption" if text is None else "caption is not a string")
        elif not (text := text.strip()):
            lost.append("empty caption")
        elif language is not None and not is_written_in(text, language):
            lost.append("caption in the wrong script")
        else:
            texts.append(text)
    return texts, lost


def caption_id(text: str) -> int:
    """A number of 63 bits, the same for equal captions in any process and run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_text_length: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, both (T, L) int64, padded on the right to the longest text."""
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=max_text_length, padding_side="right", return_tensors="pt"
    )
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}


class CaptionTokens:
    """Token ids of captions, for the student and for its teacher.

    There are three cases. Both read the same tokens: one sequence serves both. The student's vocabulary is a cut of
    the teacher's: the teacher's ids are one lookup, except for captions that the cut reads in other pieces; these
    have pooled targets alone. The tokenizers are strangers: there are no token targets at all.

    Args:
        tokenizer: the student's.
        max_text_length: longest text in tokens, for both; longer ones are cut.
        teacher_tokenizer: the teacher's, where it differs.
        vocabulary: how the student's tokenizer was cut from the teacher's, if it was.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_text_length: int,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        vocabulary: Vocabulary | None = None,
    ):
        self.tokenizer, self.teacher_tokenizer, self.vocabulary = tokenizer, teacher_tokenizer, vocabulary
        self.max_text_length = max_text_length
        # None: not looked for yet
        self.unaligned: frozenset[str] | None = None if vocabulary is not None else frozenset()

    @property
    def teacher(self) -> PreTrainedTokenizerBase:
        """The tokenizer that makes the teacher's ids."""
        return self.teacher_tokenizer or self.tokenizer

    @property
    def have_maps(self) -> bool:
        """Whether student and teacher read the same pieces, so that token states can be compared."""
        return self.teacher_tokenizer is None or self.vocabulary is not None

    def find_unaligned(self, texts: Iterable[str]) -> int:
        """Remember which of these texts, which are all there are, a cut vocabulary reads in other pieces than its
        source; their number.
        """
        if self.vocabulary is not None:
            texts = list(texts)
            aligned = self.vocabulary.aligned(texts, self.teacher)
            self.unaligned = frozenset(text for text, same in zip(texts, aligned, strict=True) if not same)
        return len(self.unaligned or ())

    def count_cut(self, texts: list[str]) -> int:
        """How many of these texts are longer than the tower reads."""
        return sum(len(ids) > self.max_text_length for ids in self.tokenizer(texts).input_ids) if texts else 0

    def _aligned(self, texts: list[str], vocabulary: Vocabulary) -> Tensor:
        """(T,) bool, looked up where all texts are known, and found out where they come as a stream."""
        if self.unaligned is not None:
            return torch.tensor([text not in self.unaligned for text in texts])
        with unbounded(vocabulary.tokenizer) as cut, unbounded(self.teacher) as source:
            return torch.tensor(vocabulary.same_ids(cut.encode_batch_fast(texts), source.encode_batch_fast(texts)))

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """The text part of a batch: student ids and masks, and where they differ the teacher's."""
        tokens = tokenize(self.tokenizer, texts, self.max_text_length)
        if self.teacher_tokenizer is None:
            return tokens
        aligned = self._aligned(texts, self.vocabulary) if self.vocabulary is not None else None
        if self.vocabulary is not None and aligned is not None and aligned.all():
            teacher = {
                "input_ids": self.vocabulary.to_source(tokens["input_ids"]),
                "attention_mask": tokens["attention_mask"],
            }
        else:
            teacher = tokenize(self.teacher_tokenizer, texts, self.max_text_length)
        if aligned is not None:
            tokens["aligned"] = aligned
        return tokens | {f"teacher_{name}": value for name, value in teacher.items()}
