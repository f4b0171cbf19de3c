"""The batch that data, tasks and the training loop share, and how it is made. mypy checks its keys everywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor


class Batch(TypedDict, total=False):
    """Tensors of B samples and their T captions.

    Without images a batch has no `images`. Without captions it has only `rows`, `sources`, `view_ids` and `images`.

    Args:
        rows: (B,) int64, row number of each sample in all data. In a stream it encodes source, shard and offset.
        sources: (B,) int64, index of the source of each sample in the mixture; 0 without a mixture.
        view_ids: (B,) int64, number of the random view of each image.
        images: (B, 3, S, S) uint8, decoded; squashed to the square, or with the short side resized to S and the center
            cropped.
        input_ids: (T, L) int64, student tokens of the captions of these rows in all languages.
        attention_mask: (T, L) int64, 1 for tokens and 0 for padding.
        owner: (T,) int64, index in the batch of the sample that each caption belongs to.
        caption_ids: (T,) int64, equal for equal captions on all processes.
        language: (T,) int64, index into the languages of the recipe.
        teacher_input_ids: (T, L') int64, teacher tokens; only if the teacher's tokenizer differs.
        teacher_attention_mask: (T, L') int64, mask of the teacher tokens. Both fields of further teachers have names
            that end with the number of the teacher, such as `teacher_input_ids_1`; see `captions.teacher_tokens`.
        aligned: (T,) bool, whether student and teacher split the caption into the same pieces; only if the student's
            vocabulary is a cut of the teacher's.
    """

    rows: Tensor
    sources: Tensor
    view_ids: Tensor
    images: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    owner: Tensor
    caption_ids: Tensor
    language: Tensor
    teacher_input_ids: Tensor
    teacher_attention_mask: Tensor
    aligned: Tensor


@dataclass(frozen=True)
class Sample:
    """A decoded sample.

    Args:
        row: Row number in all data.
        source: Index of its source in the mixture.
        view_id: Number of the random view of the image.
        image: (3, S, S) uint8; None in a run without images.
        captions: One usable caption for each language that has one; empty in a run without captions.
    """

    row: int
    source: int
    view_id: int
    image: Tensor | None
    captions: dict[str, str]


def make_batch(
    samples: Sequence[Sample],
    languages: Sequence[str],
    tokens: Callable[[list[str]], Batch] | None,
    caption_id: Callable[[str], int],
) -> Batch:
    """Stack samples and tokenize their captions.

    Args:
        samples: At least one sample.
        languages: All languages of the data, in the order of `Batch.language`.
        tokens: Function that tokenizes captions, such as a `CaptionTokenizer`; None leaves captions out.
        caption_id: Function that returns the id of a caption.
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
    captions = [
        (owner, language, text) for owner, sample in enumerate(samples) for language, text in sample.captions.items()
    ]
    texts = [text for _, _, text in captions]
    batch.update(tokens(texts))
    batch["owner"] = torch.tensor([owner for owner, _, _ in captions])
    batch["language"] = torch.tensor([languages.index(language) for _, language, _ in captions])
    batch["caption_ids"] = torch.tensor([caption_id(text) for text in texts])
    return batch


def select_captions(captions: dict[str, list[str]], epoch: int, languages: Sequence[str]) -> dict[str, str]:
    """Select one caption for each language.

    Args:
        captions: Usable captions of a row by language, at least one for each.
        epoch: Pass over the rows. Several captions of a language are used in turn, one in each epoch.
        languages: Languages to select; others are left out.
    """
    return {language: texts[epoch % len(texts)] for language, texts in captions.items() if language in languages}
