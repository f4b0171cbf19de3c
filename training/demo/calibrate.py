"""Calibrate the probability that a photograph fits a query, and measure it, on validation photographs.

Names are the classes of an image classifier, which also tells which photographs show them. Sentences are captions: of
a photograph that is there, or of another set, whose photographs are not.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets
from torch import Tensor, nn

from modeling_dcclip.search.fit import NOUNS, fitting, logistic, name_share, standardize
from training.engine.inputs import read_classifier
from training.evaluation.image_loading import prepared_batches
from training.evaluation.metrics import roc_auc
from training.evaluation.retrieval import RetrievalSet
from training.evaluation.zero_shot_model import ZeroShotModel
from training.utils.results import Row

Examples = tuple[np.ndarray, np.ndarray]  # standard scores, (N,), and whether they are right, (N,) bool
NUM_NEAREST = 10  # photographs of each name
SHOWN = 0.15  # probability of the classifier from which a photograph shows a name
PRESENT, ABSENT = 0.6, 0.03  # highest probability of a name that is, and of one that is not, in the photographs


def calibrate(
    model: ZeroShotModel, teacher: ZeroShotModel, sets: Sequence[RetrievalSet], classifier: Path
) -> tuple[list[float] | None, list[Row]]:
    """Fit the numbers of `DCCLIPConfig.fit`.

    Args:
        model: Model to calibrate.
        teacher: Model whose image tower the classifier reads.
        sets: Validation photographs with captions in every language, at least two sets of different subjects.
        classifier: File as `AlignRecipe.classifier`, with the names of its classes in every language.

    Returns:
        The four numbers; None if no class is surely in the photographs, or none surely is not. By language: the area
        under the ROC curve at which the best probability tells whether a query has a photograph,
        `has_photograph_auc`; and for names that have photographs, of the `NUM_NEAREST` most similar ones, the share of
        the fitting ones that show the name, `fitting_precision`, and the share of names with a fitting one,
        `fitting_names`.
    """
    nouns = model.encode_texts(NOUNS).numpy()
    parts = [model.encode_images(each.rows).numpy() for each in sets]
    backgrounds = [part @ nouns.T for part in parts]
    shown, names = _classify(teacher, sets, classifier)  # (I, C)
    is_there, is_absent = shown.max(0) > PRESENT, shown.max(0) < ABSENT
    if not (is_there.any() and is_absent.any()):
        return None, []
    chosen = is_there | is_absent
    nearest: dict[str, Examples] = {}
    best: dict[tuple[str, str], Examples] = {}
    for language, texts in names.items():
        similarities = model.encode_texts(texts).numpy()[chosen] @ np.concatenate(parts).T
        scores = standardize(similarities, np.concatenate(backgrounds))  # (chosen, I)
        best["names", language] = scores.max(1), is_there[chosen]
        order = np.argsort(-scores[is_there[chosen]], 1)[:, :NUM_NEAREST]
        found, right = scores[is_there[chosen]], shown.T[is_there] > SHOWN
        nearest[language] = np.take_along_axis(found, order, 1), np.take_along_axis(right, order, 1)
        examples = []
        for each in sets:
            captions = {
                image: text
                for (image, _), text in zip(each.pairs[language].tolist(), each.captions[language], strict=True)
            }
            texts = [text for text in captions.values() if name_share(_length(model, text)) == 0]
            embeddings = model.encode_texts(texts).numpy()
            for other, part, background in zip(sets, parts, backgrounds, strict=True):
                highest = standardize(embeddings @ part.T, background).max(1)
                examples.append((highest, np.full(len(texts), other is each)))
        best["sentences", language] = _joined(examples)
    numbers = [
        number
        for kind in ("names", "sentences")
        for number in _logistic(_joined(best[kind, language] for language in names))
    ]
    rows = []
    for (kind, language), (scores, labels) in best.items():
        area = roc_auc(torch.from_numpy(np.stack([-scores, scores], 1)), torch.from_numpy(labels))
        rows.append(Row(model=model.name, metric="has_photograph_auc", value=area, set=kind, language=language))
    for language, (scores, right) in nearest.items():
        listed = fitting(logistic(scores, *numbers[:2]), axis=1)
        shares = {"fitting_precision": right[listed].mean(), "fitting_names": listed.any(1).mean()}
        for metric, share in shares.items():
            rows.append(Row(model=model.name, metric=metric, value=float(share), set="names", language=language))
    return [round(number, 3) for number in numbers], rows


@torch.inference_mode()
def _classify(
    teacher: ZeroShotModel, sets: Sequence[RetrievalSet], classifier: Path
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


def _length(model: ZeroShotModel, text: str) -> int:
    return len(model.processor.tokenizer(text, add_special_tokens=False).input_ids)


def _joined(examples: Iterable[Examples]) -> Examples:
    scores, labels = zip(*examples, strict=True)
    return np.concatenate(scores), np.concatenate(labels)


def _logistic(examples: Examples) -> tuple[float, float]:
    """Slope and offset of the logistic function that makes the labels most likely, both with the same total weight."""
    x, y = (torch.from_numpy(each).double() for each in examples)
    weights = torch.where(y > 0, 1 / y.sum(), 1 / (1 - y).sum())
    numbers = torch.tensor([1.0, -float(x.mean())], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(numbers[0] * x + numbers[1], y, weights)
        value.backward()
        return value

    optimizer.step(loss)
    slope, offset = numbers.tolist()
    return slope, offset
