"""Calibrate the probability that a photograph fits a query, and measure it, on validation photographs.

Names are the classes of an image classifier, which also tells which photographs show them, and the nouns of captions.
Sentences are captions: of a photograph that is there, or of a different set, whose photographs are not. The best of
many photographs has a higher score than the best of few, so both are also searched in small parts of the photographs.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets
from torch import Tensor, nn

from modeling_dcclip.search.query.fit import (
    FIRST,
    NOUNS,
    correct,
    expected_maximum,
    hub_numbers,
    judge,
    name_share,
    standardize,
)
from modeling_dcclip.search.query.query import LOOKED, phrasings
from training.evaluation.retrieval import PROTOCOL, RetrievalSet
from training.experiments.photographs.words import count_nouns
from training.tasks.own_inputs import read_classifier
from training.teachers import DualEncoder
from training.teachers.images import prepared_batches
from training.utils.results import Row

SMALLEST = 8  # photographs of a part
MIN_PHOTOS, MIN_CAPTIONS = 5, 3  # that show a noun, and of such a photograph
# probabilities of the classifier that a photograph shows a class: surely, perhaps, surely not
SHOWN, PERHAPS, ABSENT = 0.6, 0.15, 0.03


@dataclass(frozen=True)
class Names:
    """Names as queries, and what is known of I photographs.

    Args:
        texts: N names.
        photos: Positions of the photographs among those of all sets, (I,).
        shown: Whether a photograph surely shows what is named, (I, N).
        perhaps: Whether it may show it, (I, N).
        absent: Whether it surely does not, (I, N).
    """

    texts: list[str]
    photos: np.ndarray
    shown: np.ndarray
    perhaps: np.ndarray
    absent: np.ndarray


@dataclass(frozen=True)
class Search:
    """Searches for N names in the I photographs about which something is known.

    Args:
        names: The names.
        scores: Standardized similarities, (N, I).
        ranked: Similarities by which a search ranks, (N, I).
    """

    names: Names
    scores: np.ndarray
    ranked: np.ndarray


def calibrate(
    model: DualEncoder,
    pretrained: DualEncoder,
    sets: Sequence[RetrievalSet],
    embeddings: Sequence[np.ndarray],
    classifier: Path,
    bank: np.ndarray,
) -> tuple[list[float] | None, list[Row]]:
    """Fit the numbers of `DCCLIPConfig.fit`.

    Args:
        model: Model to calibrate.
        pretrained: Model whose image tower the classifier reads.
        sets: Validation photographs with captions in every language, at least two sets of different subjects.
        embeddings: The model's embeddings of the photographs of each set, (I, D).
        classifier: File as `AlignRecipe.classifier`, with the names of its classes in every language.
        bank: Embeddings of the captions of the model's bank, (M, D).

    Returns:
        The six numbers; None if no class is surely in the photographs, or none surely is not. By language, for the
        sets `names` (classes) and `nouns`: how many of the photographs that show a name are listed, `fitting_recall`;
        how many of those listed may show it, `fitting_precision`; how many of the names that no photograph shows list
        nothing, `nothing_fits`. All are shares, 0 to 1.
    """
    background = np.asarray(model.encode_texts(NOUNS))
    similarities = [each @ background.T for each in embeddings]
    photos, all_similarities = np.concatenate(embeddings), np.concatenate(similarities)
    hubs = hub_numbers(photos, bank, background)
    classes = _classes(pretrained, sets, classifier)
    known = next(iter(classes.values()))  # the same in every language
    if not (known.shown.any() and known.absent.all(0).any()):
        return None, []
    searched: dict[tuple[str, str], Search] = {}
    examples: dict[tuple[str, str], np.ndarray] = {}
    for language in classes:
        for kind, names in (("names", classes[language]), ("nouns", _nouns(sets, language))):
            cosines = encode_names(model, names.texts) @ photos.T
            ranked = correct(cosines, hubs, name_shares(model, names.texts))
            scores = standardize(cosines, all_similarities)
            part = names.photos
            search = Search(names, scores[:, part], ranked[:, part])
            searched[kind, language] = search
            examples[kind, language] = _name_examples(search)
        examples["sentences", language] = _sentence_examples(
            model, sets, embeddings, similarities, language
        )
    short = [each for (kind, _), each in examples.items() if kind != "sentences"]
    long = [each for (kind, _), each in examples.items() if kind == "sentences"]
    numbers = _logistic(np.concatenate(short)) + _logistic(np.concatenate(long))
    about = partial(Row, model=model.name, protocol=PROTOCOL)
    rows = []
    for (kind, language), search in searched.items():
        measures = _list_measures(model, search, numbers)
        for metric, value in measures.items():
            rows.append(about(metric=metric, value=value, set=kind, language=language))
    return [round(number, 3) for number in numbers], rows


def _name_examples(search: Search) -> np.ndarray:
    """Examples of the names that surely are, or surely are not, among all photographs or a part of them."""
    names, found = search.names, []
    for part in _parts(len(names.photos)):
        has, lacks = names.shown[part].any(0), names.absent[part].all(0)
        is_sure = has | lacks
        found.append(_examples(search.scores[is_sure][:, part], has[is_sure]))
    return np.concatenate(found)


def _sentence_examples(
    model: DualEncoder,
    sets: Sequence[RetrievalSet],
    embeddings: Sequence[np.ndarray],
    similarities: Sequence[np.ndarray],
    language: str,
) -> np.ndarray:
    """Examples of captions, each asked of the photographs of its own set and of every other set."""
    found = []
    for each in sets:
        captions = _sentences(model, each, language)
        texts = model.encode_texts([*captions.values()] or [""], truncate=True)  # there may be none
        queries = np.asarray(texts[: len(captions)])
        for other, images, seen in zip(sets, embeddings, similarities, strict=True):
            is_own = other is each
            scores = standardize(queries @ images.T, seen)
            for part in _parts(len(images)):
                is_asked = np.isin([*captions], part) if is_own else np.full(len(captions), True)
                is_there = np.full(int(is_asked.sum()), is_own)
                found.append(_examples(scores[is_asked][:, part], is_there))
    return np.concatenate(found)


def _list_measures(
    model: DualEncoder, search: Search, calibration: Sequence[float]
) -> dict[str, float]:
    """What a search by each name lists, compared with what is known of the photographs."""
    names = search.names
    measures: defaultdict[str, list[float]] = defaultdict(list)
    for number, share in enumerate(name_shares(model, names.texts)):
        order = np.argsort(-search.ranked[number])[:LOOKED]
        scores = search.scores[number, order]
        _, is_listed = judge(
            scores,
            np.arange(1, len(order) + 1),
            scores[:FIRST],
            float(share),
            len(names.photos),
            calibration,
        )
        listed = order[is_listed]
        if names.absent[:, number].all():
            measures["nothing_fits"].append(len(listed) == 0)
        elif (shown := names.shown[:, number]).any():
            measures["fitting_recall"].append(shown[listed].sum() / shown.sum())
            if len(listed):
                measures["fitting_precision"].append(names.perhaps[listed, number].mean())
    return {metric: float(np.mean(values)) for metric, values in measures.items()}


def encode_names(model: DualEncoder, names: list[str]) -> np.ndarray:
    """Embeddings of names, (N, D), as a search embeds them."""
    texts = []
    owners = []
    for number, name in enumerate(names):
        found = phrasings(name)
        texts += found
        owners += [number] * len(found)
    sums = np.zeros((len(names), model.projection_dim), np.float32)
    np.add.at(sums, owners, model.encode_texts(texts, truncate=True))
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def _sentences(model: DualEncoder, each: RetrievalSet, language: str) -> dict[int, str]:
    """A caption of each photograph, by its position, that is as long as a sentence."""
    captions = each.captions[language]
    rows = zip(each.pairs[language].tolist(), captions, name_shares(model, captions), strict=True)
    return {image: text for (image, _), text, share in rows if share == 0}


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
def _classes(
    pretrained: DualEncoder, sets: Sequence[RetrievalSet], classifier: Path
) -> dict[str, Names]:
    """The classes of a classifier, by language."""
    weight, bias, names = read_classifier(str(classifier))
    logits: list[Tensor] = []
    rows = concatenate_datasets([each.rows for each in sets])
    for images in prepared_batches(rows["image"], 64, pretrained.images.fit):
        pixels = pretrained.images.normalize(images)
        maps = pretrained.model.get_image_features(pixels).feature_map
        logits.append(nn.functional.linear(maps.float().mean((2, 3)), weight, bias))
    shown = torch.cat(logits).softmax(1).numpy()
    return {
        language: Names(
            texts, np.arange(len(shown)), shown > SHOWN, shown > PERHAPS, shown < ABSENT
        )
        for language, texts in names.items()
    }


def _nouns(sets: Sequence[RetrievalSet], language: str) -> Names:
    """The nouns of photographs with several captions: those of most captions are shown. None is surely missing."""
    photos, counts, limits, start = [], [], [], 0
    for each in sets:
        captions: dict[int, list[str]] = {}
        pairs = zip(each.pairs[language].tolist(), each.captions[language], strict=True)
        for (image, _), text in pairs:
            captions.setdefault(image, []).append(text)
        for image, texts in captions.items():
            if len(texts) >= MIN_CAPTIONS:
                photos.append(start + image)
                counts.append(count_nouns(texts, language))
                limits.append(len(texts) / 2)
        start += len(each.rows)
    nouns = sorted({noun for count in counts for noun in count})
    table = np.array([[count[noun] for noun in nouns] for count in counts])
    table = table.reshape(len(photos), len(nouns))  # also of none
    shown = table > np.array(limits)[:, None]
    kept = np.flatnonzero(shown.sum(0) >= MIN_PHOTOS)
    shown, perhaps = shown[:, kept], table[:, kept] > 0
    texts = [nouns[number] for number in kept]
    return Names(texts, np.array(photos, int), shown, perhaps, np.zeros_like(shown))


def name_shares(model: DualEncoder, texts: Sequence[str]) -> np.ndarray:
    """How far each text is a name, by its number of tokens without special tokens, (N,)."""
    tokenize = partial(model.processor.tokenizer, add_special_tokens=False)
    return np.array([name_share(len(tokenize(text).input_ids)) for text in texts])


def _logistic(examples: np.ndarray) -> list[float]:
    """Slope, growth and offset of `judge` that make the labels of examples most likely.

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
