"""Zero-shot classification of labelled sets in memory, with any model that has image and text features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from training.evaluation.measure import TOP, joint_name, measure, require_equal_widths
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.protocols import CLASS_NAMES
from training.utils.results import Row

MAX_TEXTS = 8192  # texts whose embeddings are in memory together


def class_embeddings(model: ZeroShotModel, names: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
    """One embedding per class: fill in every prompt template, encode, normalise, average and normalise again.

    Args:
        model: Model that encodes the texts.
        names: One name per class.
        templates: Prompt templates, each with one `{}`.

    Returns:
        (C, D) float32, L2-normalised.

    Source: ELEVATER (arXiv 2204.08790), which ensembles prompts as CLIP (arXiv 2103.00020) does.
    """
    classes_at_once = max(1, MAX_TEXTS // len(templates))
    means = []
    for start in range(0, len(names), classes_at_once):
        part = names[start : start + classes_at_once]
        embeddings = model.encode_texts([template.format(name) for name in part for template in templates])
        means.append(embeddings.unflatten(0, (len(part), len(templates))).mean(1))  # (C * T, D) -> (C, T, D) -> (C, D)
    return F.normalize(torch.cat(means), dim=-1)


@dataclass(frozen=True)
class Encoded:
    """Embeddings of labelled sets and of class names, by one model.

    Args:
        name: Name of the model.
        images: Image embeddings by set, (N, D) float32, L2-normalised.
        classes: Class embeddings by language, (C, D) float32, L2-normalised.
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
        model: Model that encodes images and texts.
        sets: Labelled images by name of the set.
        class_names: Candidate classes, the same for every set.
        languages: Languages in which the class names are encoded.
        image_column: Name of the column of images.

    Raises:
        ValueError: A column or language is missing, or an image cannot be decoded.
    """
    for name, rows in sets.items():
        _require_column(rows, image_column, name)
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
        images: Embeddings of the model that encoded the images.
        texts: Embeddings of the model that encoded the class names. Pass those of another model than `images` to
            measure whether the embeddings of the two can be compared.
        sets: Labelled images by name of the set.
        class_names: Candidate classes.
        label_column: Name of the column of labels, which are class names.
        ks: Values of k; those greater than the number of classes are left out.
        stage: Training stage, written to the rows.
        seed: Seed of the training run, written to the rows.

    Raises:
        ValueError: The label column is missing, a label is not among the class names, or the embeddings of the two
            models differ in width.
    """
    table = []
    for set_name, rows in sets.items():
        _require_column(rows, label_column, set_name)
        labels = class_names.label_ids(rows[label_column])
        for language, classes in texts.classes.items():
            require_equal_widths(images, images.images[set_name], texts, classes)
            measurement = measure(images.images[set_name], classes, labels, [f"{TOP}{k}" for k in ks])
            table += measurement.rows(
                model=joint_name(images, texts),
                stage=stage,
                set=set_name,
                protocol=CLASS_NAMES,
                language=language,
                seed=seed,
            )
    return table


def _require_column(rows: Dataset, column: str, name: str):
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
    """Encode and score labelled sets with one model.

    Args:
        model: Model that encodes images and texts.
        sets: Labelled images by name of the set.
        class_names: Candidate classes, the same for every set.
        languages: Languages in which the class names are encoded.
        label_column: Name of the column of labels, which are class names.
        image_column: Name of the column of images.
        ks: Values of k; those greater than the number of classes are left out.
        stage: Training stage, written to the rows.
        seed: Seed of the training run, written to the rows.

    Raises:
        ValueError: A column or language is missing, a label is not among the class names, or an image cannot be
            decoded.
    """
    for name, rows in sets.items():
        _require_column(rows, label_column, name)
        class_names.label_ids(rows[label_column])  # report a wrong label before encoding
    encoded = encode(model, sets, class_names, languages, image_column)
    return score(encoded, encoded, sets, class_names, label_column, ks, stage, seed)
