"""Calibrate the probability that a photograph fits a query, and measure it, on validation photographs.

Names are the classes of an image classifier, which also tells which photographs show them. Sentences are captions: of
a photograph that is there, or of another set, whose photographs are not. The best of many photographs has a higher
score than the best of few, so both are also searched in small parts of the photographs.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets
from torch import Tensor, nn

from modeling_dcclip.search.fit import (
    NOUNS,
    centered,
    expected_maximum,
    fitting,
    logistic,
    name_share,
    standardize,
)
from training.evaluation.metrics import roc_auc
from training.evaluation.retrieval import PROTOCOL, RetrievalSet
from training.tasks.classes import read_classifier
from training.teachers import DualEncoder
from training.teachers.images import prepared_batches
from training.utils.results import Row

SMALLEST = 8  # photographs of a part
NUM_NEAREST = 10  # photographs of each name
SHOWN = 0.15  # probability of the classifier from which a photograph shows a name
PRESENT, ABSENT = (
    0.6,
    0.03,
)  # highest probability of a name that is, and of one that is not, in the photographs


def calibrate(
    model: DualEncoder, teacher: DualEncoder, sets: Sequence[RetrievalSet], classifier: Path
) -> tuple[list[float] | None, list[Row]]:
    """Fit the numbers of `DCCLIPConfig.fit`.

    Args:
        model: Model to calibrate.
        teacher: Model whose image tower the classifier reads.
        sets: Validation photographs with captions in every language, at least two sets of different subjects.
        classifier: File as `AlignRecipe.classifier`, with the names of its classes in every language.

    Returns:
        The six numbers; None if no class is surely in the photographs, or none surely is not. By language: the area
        under the ROC curve at which the best probability tells whether a query has a photograph among all,
        `has_photograph_auc`; and for names that have photographs, of the `NUM_NEAREST` most similar ones, the share of
        the fitting ones that show the name, `fitting_precision`, and the share of names with a fitting one,
        `fitting_names`.
    """
    nouns = model.encode_texts(NOUNS).numpy()
    embeddings = [model.encode_images(each.rows).numpy() for each in sets]
    backgrounds = [each @ nouns.T for each in embeddings]
    shown, names = _classify(teacher, sets, classifier)  # (I, C)
    is_there = shown.max(0) > PRESENT
    if not (is_there.any() and (shown.max(0) < ABSENT).any()):
        return None, []
    nearest = {}
    examples: dict[tuple[str, str], np.ndarray] = {}
    for language, texts in names.items():
        queries, photos = model.encode_texts(texts).numpy(), np.concatenate(embeddings)
        scores = standardize(queries @ photos.T, np.concatenate(backgrounds))  # (C, I)
        # ranked as a search ranks them
        lengths = [_length(model, text) for text in texts]
        ranked = [
            centered(query, nouns, length) for query, length in zip(queries, lengths, strict=True)
        ]
        order = np.argsort(-np.stack(ranked)[is_there] @ photos.T, 1)[:, :NUM_NEAREST]
        right = np.take_along_axis(shown.T[is_there] > SHOWN, order, 1)
        share = np.array([[name_share(length)] for length in lengths])[is_there]
        nearest[language] = np.take_along_axis(scores[is_there], order, 1), share, right
        found = []
        for part in _parts(len(shown)):
            highest = shown[part].max(0)
            is_sure = (highest > PRESENT) | (highest < ABSENT)
            found.append(_examples(scores[is_sure][:, part], highest[is_sure] > PRESENT))
        examples["names", language] = np.concatenate(found)
        found = []
        for each in sets:
            captions = {
                image: text
                for (image, _), text in zip(
                    each.pairs[language].tolist(), each.captions[language], strict=True
                )
                if name_share(_length(model, text)) == 0
            }
            queries = model.encode_texts([*captions.values()] or [""]).numpy()[
                : len(captions)
            ]  # there may be none
            for other, photos, background in zip(sets, embeddings, backgrounds, strict=True):
                scores = standardize(queries @ photos.T, background)
                for part in _parts(len(photos)):
                    asked = np.isin([*captions], part) | (other is not each)
                    found.append(
                        _examples(scores[asked][:, part], np.full(asked.sum(), other is each))
                    )
        examples["sentences", language] = np.concatenate(found)
    numbers = [
        number
        for kind in ("names", "sentences")
        for number in _logistic(np.concatenate([examples[kind, language] for language in names]))
    ]
    about = partial(Row, model=model.name, protocol=PROTOCOL)
    rows = []
    for (kind, language), (scores, labels, sizes) in (
        (key, each.T) for key, each in examples.items()
    ):
        is_whole = np.isin(
            sizes, [len(shown)] if kind == "names" else [len(each) for each in embeddings]
        )
        logits = torch.from_numpy(np.stack([-scores, scores], 1)[is_whole])
        area = roc_auc(logits, torch.from_numpy(labels[is_whole] > 0))
        rows.append(about(metric="has_photograph_auc", value=area, set=kind, language=language))
    for language, (scores, share, right) in nearest.items():
        listed = fitting(logistic(scores, share, len(shown), numbers))
        measures = {
            "fitting_precision": right[listed].mean(),
            "fitting_names": listed.any(1).mean(),
        }
        for metric, value in measures.items():
            rows.append(about(metric=metric, value=float(value), set="names", language=language))
    return [round(number, 3) for number in numbers], rows


def _parts(num_photos: int) -> Iterator[np.ndarray]:
    """Positions of photographs: of parts of about `SMALLEST`, of parts of twice as many, and so on, and of all."""
    rng = np.random.default_rng(0)
    size = SMALLEST
    while 2 * size <= num_photos:
        yield from np.array_split(rng.permutation(num_photos), num_photos // size)
        size *= 2
    yield np.arange(num_photos)


def _examples(scores: np.ndarray, is_there: np.ndarray) -> np.ndarray:
    """Best score of each text, whether it has a photograph, and the number of photographs, (Q, 3) from (Q, I)."""
    return np.stack([scores.max(1), is_there, np.full(len(scores), scores.shape[1])], 1)


@torch.inference_mode()
def _classify(
    teacher: DualEncoder, sets: Sequence[RetrievalSet], classifier: Path
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Probabilities of the classes, (I, C), of the photographs of all sets, and the names of the classes."""
    weight, bias, names = read_classifier(str(classifier))
    logits: list[Tensor] = []
    for images in prepared_batches(
        concatenate_datasets([each.rows for each in sets]), "image", 64, teacher.images.fit
    ):
        maps = teacher.model.get_image_features(teacher.images.normalize(images)).feature_map
        logits.append(nn.functional.linear(maps.float().mean((2, 3)), weight, bias))
    return torch.cat(logits).softmax(1).numpy(), names


def _length(model: DualEncoder, text: str) -> int:
    return len(model.processor.tokenizer(text, add_special_tokens=False).input_ids)


def _logistic(examples: np.ndarray) -> list[float]:
    """Slope, growth and offset of `logistic` that make the labels of examples most likely.

    Both labels have the same total weight, among few photographs and among many.
    """
    scores, labels, sizes = examples.T
    weights = np.zeros(len(examples))
    groups = labels + 2 * np.floor(np.log2(sizes))
    for group in np.unique(groups):
        weights[groups == group] = 1 / (groups == group).sum()
    inputs = np.stack([scores, expected_maximum(sizes), np.ones(len(scores))], 1)
    x, y, w = (torch.from_numpy(each) for each in (inputs, labels, weights))
    numbers = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(x @ numbers, y, w, reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    return numbers.tolist()
