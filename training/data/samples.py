"""One image with its captions, and samples as a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.captions import CaptionTokenizer


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
    tokens: CaptionTokenizer | None,
    caption_id: Callable[[str], int],
) -> Batch:
    """Stack samples and tokenize their captions.

    Args:
        samples: At least one sample.
        languages: All languages of the data, in the order of `Batch.language`.
        tokens: Tokenizer of the captions; None leaves captions out.
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
