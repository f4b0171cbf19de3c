"""Zero-shot classification with any model that has image and text features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from training.evaluation.metrics import top_k_accuracy, wilson_interval
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames
from training.utils.results import Row

TEXTS_AT_ONCE = 8192  # their embeddings are in memory together


def class_embeddings(model: ZeroShotModel, names: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
    """One embedding a class: fill every template, encode, normalise, mean, normalise again.

    Args:
        model: the encoder.
        names: one a class.
        templates: each with one `{}`.

    Returns:
        (classes, D), L2-normalised.

    Source: ELEVATER (arXiv 2204.08790), as CLIP (arXiv 2103.00020) ensembles prompts.
    """
    at_once = max(1, TEXTS_AT_ONCE // len(templates))
    parts = []
    for start in range(0, len(names), at_once):
        part = names[start : start + at_once]
        embeddings = model.encode_texts([template.format(name) for name in part for template in templates])
        parts.append(
            embeddings.unflatten(0, (len(part), len(templates))).mean(1)
        )  # (classes, templates, D) -> (classes, D)
    return F.normalize(torch.cat(parts), dim=-1)


PROTOCOL = "class-names"  # the plain names, no sentence around them


@dataclass(frozen=True)
class Encoded:
    """What one model makes of labelled sets and of their class names.

    Args:
        name: the model's.
        images: (N, D) by set, L2-normalised.
        classes: (classes, D) by language, L2-normalised.
    """

    name: str
    images: dict[str, Tensor]
    classes: dict[str, Tensor]


def encode(
    model: ZeroShotModel,
    sets: dict[str, Dataset],
    class_names: ClassNames,
    languages: Sequence[str],
    image_column: str = "image",
) -> Encoded:
    """Encode labelled sets and class names.

    Args:
        model: the encoder.
        sets: labelled images by name.
        class_names: the candidates, the same for every set.
        languages: of the candidates.
        image_column: column of the images.

    Raises:
        ValueError: a column or language is missing, or an image does not decode.
    """
    for name, rows in sets.items():
        _require(rows, image_column, name)
    classes = {language: class_embeddings(model, class_names.in_language(language)) for language in languages}
    images = {name: model.encode_images(rows, image_column) for name, rows in sets.items()}
    return Encoded(model.name, images, classes)


def score(
    images: Encoded,
    texts: Encoded,
    sets: dict[str, Dataset],
    class_names: ClassNames,
    label_column: str = "label",
    ks: Sequence[int] = (1, 5),
    stage: str | None = None,
    seed: int | None = None,
) -> list[Row]:
    """Top-k accuracy on every set, in every language.

    Args:
        images: of the model that sees.
        texts: of the model that reads; another one than `images` where it is asked whether the two can be compared.
        sets: labelled images by name.
        class_names: the candidates.
        label_column: column of the label's name.
        ks: which top-k; those beyond the number of classes are left out.
        stage: written to the rows.
        seed: written to the rows.

    Raises:
        ValueError: the label column is missing, a label is not in the list, or the models' embeddings differ in
        width.
    """
    name = images.name if texts is images else f"{images.name} images, {texts.name} texts"
    table = []
    for set_name, rows in sets.items():
        _require(rows, label_column, set_name)
        labels = class_names.label_ids(rows[label_column])
        for language, classes in texts.classes.items():
            seen = images.images[set_name]
            if seen.shape[1] != classes.shape[1]:
                raise ValueError(
                    f"text_model: {texts.name!r} embeds in {classes.shape[1]} dimensions, {images.name!r} in "
                    f"{seen.shape[1]}: they cannot be compared. Name a model of the same space, such as its teacher."
                )
            scores = seen @ classes.T
            for k in (k for k in ks if k <= scores.shape[1]):
                share = top_k_accuracy(scores, labels, k)
                interval = wilson_interval(share, len(rows))
                table.append(
                    Row(
                        model=name,
                        stage=stage,
                        set=set_name,
                        protocol=PROTOCOL,
                        language=language,
                        metric=f"top{k}",
                        value=share,
                        seed=seed,
                        interval=interval,
                    )
                )
    return table


def _require(rows: Dataset, column: str, name: str):
    if column not in rows.column_names:
        raise ValueError(f"data: {name} has no column {column!r}, only {rows.column_names}.")


def evaluate(
    model: ZeroShotModel,
    sets: dict[str, Dataset],
    class_names: ClassNames,
    languages: Sequence[str],
    label_column: str = "label",
    image_column: str = "image",
    ks: Sequence[int] = (1, 5),
    stage: str | None = None,
    seed: int | None = None,
) -> list[Row]:
    """Encode and score one model; the arguments are those of `encode` and `score`."""
    for name, rows in sets.items():
        _require(rows, label_column, name)
        class_names.label_ids(rows[label_column])  # a wrong label is said before the work
    encoded = encode(model, sets, class_names, languages, image_column)
    return score(encoded, encoded, sets, class_names, label_column, ks, stage, seed)
