"""The batch that data, tasks and the training loop share: its captions, their token ids, and how it is made."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.data.images import Views
from training.text.phrasing import reword
from training.text.vocabulary import Vocabulary, chunks
from training.text.writing_systems import is_written_in
from training.utils.keys import fingerprint


class Batch(TypedDict, total=False):
    """Tensors of B samples and their T captions.

    Without images a batch has no `images`. Without captions it has only `rows`, `sources`, `view_ids` and `images`.

    Args:
        rows: (B,) int64, row number of each sample in all data. In a stream it encodes source, shard and offset.
        sources: (B,) int64, index of the source of each sample in the mixture; 0 without a mixture.
        view_ids: (B,) int64, number of the random view of each image.
        views: Random changes of each image, if the loader draws them.
        images: (B, 3, S, S) uint8, decoded; squashed to the square, or with the short side resized to S and the center
            cropped.
        input_ids: (T, L) int64, student tokens of the captions of these rows in all languages.
        attention_mask: (T, L) int64, 1 for tokens and 0 for padding.
        lengths: (T,) int64, number of student tokens.
        owner: (T,) int64, index in the batch of the sample that each caption belongs to.
        caption_ids: (T,) int64, equal for equal captions on all processes.
        language: (T,) int64, index into the languages of the recipe.
        teacher_input_ids: (T, L') int64, teacher tokens; only if the teacher's tokenizer differs.
        teacher_attention_mask: (T, L') int64, mask of the teacher tokens.
        teacher_lengths: (T,) int64, number of teacher tokens.
        aligned: (T,) bool, whether student and teacher split the caption into the same pieces; only if the student's
            vocabulary is a cut of the teacher's.
        image_targets: (B, D) float16, cached embeddings of the teacher, if the loader reads them.
        image_maps: (B, D, H, W) float16, cached feature maps.
        text_targets: (T, D) float16, cached embeddings of the captions.
        text_maps: (T, L, D) float16, cached token states, zero after the last token.
        named_targets: (T, D) float32, embeddings that a file states for some captions.
        is_named: (T,) bool, whether the file states one.
    """

    rows: Tensor
    sources: Tensor
    view_ids: Tensor
    views: Views
    images: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    lengths: Tensor
    owner: Tensor
    caption_ids: Tensor
    language: Tensor
    teacher_input_ids: Tensor
    teacher_attention_mask: Tensor
    teacher_lengths: Tensor
    aligned: Tensor
    image_targets: Tensor
    image_maps: Tensor
    text_targets: Tensor
    text_maps: Tensor
    named_targets: Tensor
    is_named: Tensor


@dataclass(frozen=True)
class Sample:
    """A decoded sample.

    Args:
        row: Row number in all data.
        source: Index of its source in the mixture.
        view_id: Number of the random view of the image.
        image: (3, S, S) uint8; None in a run without images.
        captions: One usable caption for each language that has one; empty in a run without captions.
        epoch: Pass over the rows, which keys the rewording of captions.
    """

    row: int
    source: int
    view_id: int
    image: Tensor | None
    captions: dict[str, str]
    epoch: int = 0


def make_batch(
    samples: Sequence[Sample],
    languages: Sequence[str],
    tokens: Callable[[list[str], list[str]], Batch] | None,
    caption_id: Callable[[str], int],
    phrasing: float = 0.0,
) -> Batch:
    """Stack samples and tokenize their captions.

    Args:
        samples: At least one sample.
        languages: All languages of the data, in the order of `Batch.language`.
        tokens: Function that tokenizes captions, such as a `CaptionTokenizer`; None leaves captions out.
        caption_id: Function that returns the id of a caption.
        phrasing: Share of the captions that are reworded for the student.
    """
    batch: Batch = {
        "rows": torch.tensor([sample.row for sample in samples]),
        "sources": torch.tensor([sample.source for sample in samples]),
        "view_ids": torch.tensor([sample.view_id for sample in samples]),
    }
    images = [sample.image for sample in samples if sample.image is not None]
    if images:
        batch["images"] = torch.stack(images)
    if tokens is None:
        return batch
    texts = []
    reworded = []
    numbers = []
    owners = []
    spoken = []
    for owner, sample in enumerate(samples):
        for language, text in sample.captions.items():
            number = caption_id(text)
            texts.append(text)
            if phrasing:
                text = reword(text, language, phrasing, number, sample.epoch)
            reworded.append(text)
            numbers.append(number)
            owners.append(owner)
            spoken.append(languages.index(language))
    batch.update(tokens(texts, reworded))
    batch["owner"] = torch.tensor(owners)
    batch["language"] = torch.tensor(spoken)
    batch["caption_ids"] = torch.tensor(numbers)
    return batch


def select_captions(captions: dict[str, list[str]], epoch: int) -> dict[str, str]:
    """Select one caption for each language; several captions of a language are used in turn, one in each epoch."""
    return {language: texts[epoch % len(texts)] for language, texts in captions.items()}


NO_CAPTION = "no caption"
EMPTY = "empty caption"
NO_LETTERS = "caption without letters or digits"
NOT_UNICODE = "caption is not valid Unicode"
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # half of a surrogate pair
WRONG_SCRIPT = "caption in the wrong script"
# a missing translation, and what the user asked to filter
EXPECTED_CAUSES = frozenset({NO_CAPTION, EMPTY, WRONG_SCRIPT})


def usable_captions(cell: Any, language: str | None = None) -> tuple[list[str], list[str]]:
    """Return the usable captions of a cell, and the cause for each caption that is not usable.

    Args:
        cell: Value of a caption column: a string or a list of strings. Any other value is reported as a cause.
        language: ISO 639-1 code; a caption without a letter of its script is not usable. Default: any script is.

    Returns:
        Captions without surrounding white space, and causes such as `empty caption`.
    """
    if cell is None or cell == []:
        return [], [NO_CAPTION]
    texts = []
    causes = []
    for text in cell if isinstance(cell, list) else [cell]:
        if not isinstance(text, str):
            causes.append(NO_CAPTION if text is None else "caption is not a string")
        elif not (text := text.strip()):
            causes.append(EMPTY)
        elif HALF_PAIR.search(text):
            causes.append(NOT_UNICODE)
        elif not any(map(str.isalnum, text)):
            causes.append(NO_LETTERS)
        elif language is not None and not is_written_in(text, language):
            causes.append(WRONG_SCRIPT)
        else:
            texts.append(text)
    return texts, causes


def text_id(text: str) -> int:
    """63-bit id of a text, the same in any process and run; it fits into an int64 tensor."""
    return int.from_bytes(fingerprint(text.encode()), "big") >> 1


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_text_length: int
) -> dict[str, Tensor]:
    """Tokenize texts, pad them on the right to the longest one, and truncate longer ones.

    Args:
        tokenizer: Any tokenizer.
        texts: List of T texts.
        max_text_length: Longest text in tokens.

    Returns:
        `input_ids` and `attention_mask`, both (T, L) int64.
    """
    tokens = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=max_text_length,
        padding_side="right",
        return_attention_mask=True,  # some tokenizers, such as SigLIP's, return none by default
        return_tensors="pt",
    )
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}


class CaptionTokenizer:
    """Tokenizes captions for the student and for its teacher.

    There are three cases:

    - Student and teacher have the same tokenizer. One sequence of ids serves both.
    - The student's vocabulary is a cut of the teacher's. Teacher ids are looked up from student ids. Captions that the
      two split into different pieces are tokenized for the teacher, too; they have pooled targets only.
    - The tokenizers are unrelated. Captions are tokenized twice and all of them have pooled targets only.

    Args:
        tokenizer: Tokenizer of the student.
        max_text_length: Longest text in tokens, for both tokenizers; longer texts are truncated.
        teacher_tokenizer: Tokenizer of the teacher, if it differs from the student's.
        vocabulary: Vocabulary of the student, if it was cut from the teacher's.
        clean: Function that cleans a caption before the teacher's tokenizer, if the tokenizer does not do it itself.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_text_length: int,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        vocabulary: Vocabulary | None = None,
        clean: Callable[[str], str] | None = None,
    ):
        self.tokenizer = tokenizer
        self.teacher_tokenizer = teacher_tokenizer
        self.vocabulary = vocabulary
        self.max_text_length = max_text_length
        self.clean = clean
        # None until `find_unaligned` has run, which is never the case for a stream
        self.unaligned: frozenset[str] | None = None if vocabulary is not None else frozenset()

    @property
    def teacher(self) -> PreTrainedTokenizerBase:
        """Tokenizer that makes the teacher's ids."""
        return self.teacher_tokenizer or self.tokenizer

    @property
    def has_token_targets(self) -> bool:
        """Whether student and teacher split captions into the same pieces, so that token states can be compared."""
        return self.teacher_tokenizer is None or self.vocabulary is not None

    def tokenize_for_teacher(self, texts: list[str]) -> dict[str, Tensor]:
        """Tokenize texts with the teacher's tokenizer, after its cleaning, as `tokenize` does."""
        cleaned = [self.clean(text) for text in texts] if self.clean else texts
        return tokenize(self.teacher, cleaned, self.max_text_length)

    def find_unaligned(self, texts: Iterable[str]) -> int:
        """Find the captions, among all of the data, that a cut vocabulary and its source split into different pieces.

        Returns:
            Their number. No other caption may be tokenized afterwards.
        """
        if self.vocabulary is None:
            return 0
        unaligned: set[str] = set()
        for part in chunks(texts):
            split_alike = self.vocabulary.aligned(part, self.teacher)
            unaligned.update(text for text, same in zip(part, split_alike, strict=True) if not same)
        self.unaligned = frozenset(unaligned)
        return len(unaligned)

    def count_truncated(self, texts: list[str]) -> int:
        """Count the texts that are longer than `max_text_length` and therefore truncated."""
        if not texts:
            return 0
        # not verbose: transformers would announce indexing errors, but these tokens are only counted
        input_ids = self.tokenizer(texts, verbose=False).input_ids
        return sum(len(ids) > self.max_text_length for ids in input_ids)

    def __call__(self, texts: list[str], reworded: list[str] | None = None) -> Batch:
        """Tokenize T captions.

        Args:
            texts: Captions.
            reworded: The same captions as the student reads them; the teacher encodes `texts`. Default: `texts`.

        Returns:
            The token fields of a batch: `input_ids` and `attention_mask`; `teacher_input_ids` and
            `teacher_attention_mask` if the teacher's tokens differ; `aligned` if the vocabulary is a cut or a caption
            was reworded.
        """
        reworded = reworded or texts
        aligned = [text == other for text, other in zip(texts, reworded, strict=True)]
        is_reworded = not all(aligned)
        tokens = tokenize(self.tokenizer, reworded, self.max_text_length)
        batch: Batch = {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "lengths": tokens["attention_mask"].sum(1),
        }
        if self.vocabulary is not None:
            if self.unaligned is None:  # a stream, whose captions are not known before
                split_alike = self.vocabulary.aligned(texts, self.teacher)
            else:
                split_alike = [text not in self.unaligned for text in texts]
            aligned = [same and alike for same, alike in zip(aligned, split_alike, strict=True)]
        if self.vocabulary is not None or is_reworded:
            batch["aligned"] = torch.tensor(aligned)
        if self.vocabulary is not None and all(aligned):
            batch["teacher_input_ids"] = self.vocabulary.to_source(tokens["input_ids"])
            batch["teacher_attention_mask"] = tokens["attention_mask"]
        elif self.teacher_tokenizer is not None or is_reworded:
            teacher = self.tokenize_for_teacher(texts)
            batch["teacher_input_ids"] = teacher["input_ids"]
            batch["teacher_attention_mask"] = teacher["attention_mask"]
        if "teacher_input_ids" in batch:
            batch["teacher_lengths"] = batch["teacher_attention_mask"].sum(1)
        return batch
