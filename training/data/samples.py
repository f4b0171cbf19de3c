"""One image with its captions, and many as a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.captions import CaptionTokens


@dataclass(frozen=True)
class Sample:
    """What has become of one row.

    Args:
        row: number of the row in the data.
        view: number of the random view to take of the image.
        image: (3, S, S) uint8; None where no images are wanted.
        captions: one usable caption of each language there is; nothing where none are wanted.
    """

    row: int
    view: int
    image: Tensor | None
    captions: dict[str, str]


def make_batch(
    samples: Sequence[Sample],
    languages: Sequence[str],
    tokens: CaptionTokens | None,
    number_of: Callable[[str], int],
) -> dict[str, Tensor]:
    """The batch dict of `training.data`.

    Args:
        samples: at least one.
        languages: of the whole data, in order.
        tokens: makes token ids; None leaves the captions out.
        number_of: gives equal captions equal numbers.
    """
    batch = {
        "rows": torch.tensor([sample.row for sample in samples]),
        "view_ids": torch.tensor([sample.view for sample in samples]),
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
    return (
        batch
        | tokens(texts)
        | {
            "owner": torch.tensor([owner for owner, _, _ in captions]),
            "language": torch.tensor([languages.index(language) for _, language, _ in captions]),
            "caption_ids": torch.tensor([number_of(text) for text in texts]),
        }
    )


def take_turns(captions: dict[str, list[str]], view: int, languages: Sequence[str]) -> dict[str, str]:
    """One caption of each language that is wanted and there; several of one take turns, view by view."""
    return {language: choices[view % len(choices)] for language, choices in captions.items() if language in languages}
