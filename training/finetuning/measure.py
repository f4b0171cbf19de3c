"""Accuracy of a model on the user's validation split, and on images and texts that it knew before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.corpus.free_photos import NUM_VIEWS, load_held_out
from training.data import load_source
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.metrics import wilson_interval
from training.evaluation.retrieval import RetrievalSet, make_retrieval_set
from training.evaluation.sets.class_names import GeneralPairs, general_pairs
from training.evaluation.sets.protocols import CLASS_NAMES
from training.finetuning.splits import Prepared
from training.teachers import DualEncoder
from training.utils.results import Row

VALIDATION, GENERAL = "validation", "general texts"
GENERAL_IMAGES, HELD_OUT = "general images", "held-out photographs"
# recall at 1 and top-1: what shows a loss first
KEPT_METRICS = ("_R@1", "top1")  # endings
MODEL = "student"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a set.

    Args:
        images: Embeddings of the images, (N, D) float32, L2-normalized.
        captions: Embeddings of the captions by language, (T, D) float32, L2-normalized.
    """

    images: Tensor
    captions: dict[str, Tensor]


@dataclass(frozen=True)
class CaptionedImages:
    """Images with captions or class names.

    Args:
        name: Name of the set, written to the rows.
        pairs: Images, captions and which belong together.
        names: All class names by language, if the captions are class names.
        views: Number of images that show the same photograph. They rise and fall together, so they are one query.
    """

    name: str
    pairs: RetrievalSet
    names: Mapping[str, list[str]] = field(default_factory=dict)
    views: int = 1

    @classmethod
    def of(
        cls,
        name: str,
        rows: Dataset,
        languages: Sequence[str],
        training: Dataset | None = None,
        views: int = 1,
    ) -> "CaptionedImages":
        """Open rows with the column `image` and one of lists of captions for each language.

        A caption of several images, such as the title of a product, is one text, which all of them match: the
        contrastive loss trains it so.

        Args:
            name: Name of the set.
            rows: The rows.
            languages: Languages of the captions (ISO 639-1 codes).
            training: Rows of the training split, if the captions are class names: they name further classes.
            views: Number of rows for each photograph.
        """
        columns = {language: language for language in languages if any(rows[language])}
        parts = [] if training is None else [training, rows]
        names = {
            language: sorted(
                {text for part in parts for cell in part[language] for text in cell or []}
            )
            for language in (columns if parts else ())
        }
        found = make_retrieval_set(name, rows, columns, "image", name)
        captions, pairs = {}, {}
        for language, texts in found.captions.items():
            numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
            captions[language] = list(numbers)
            pairs[language] = torch.tensor(
                [(image, numbers[texts[text]]) for image, text in found.pairs[language].tolist()]
            )
        return cls(name, replace(found, captions=captions, pairs=pairs), names, views)

    @property
    def is_merged(self) -> bool:
        """Whether a caption has several images. Recall then has a name of its own."""
        return not self.names and any(
            len(pairs) > len(pairs[:, 1].unique()) for pairs in self.pairs.pairs.values()
        )

    def encode(self, model: DualEncoder) -> Embeddings:
        """Encode the images and the captions."""
        captions = {
            language: model.encode_texts(texts) for language, texts in self.pairs.captions.items()
        }
        return Embeddings(model.encode_images(self.pairs.rows), captions)

    def score(self, model: DualEncoder, embeddings: Embeddings) -> list[Row]:
        """Accuracy in each language: retrieval, or top-1 and top-5 among the class names."""
        rows: list[Row] = []
        for language, texts in embeddings.captions.items():
            if self.names:
                rows += self._classify(model, embeddings.images, language)
            else:
                rows += retrieval.score(self.pairs, language, embeddings.images, texts, MODEL)
        if self.is_merged:
            rows = [replace(row, metric=row.metric.replace("_R@", "_merged_R@")) for row in rows]
        return rows

    def _classify(self, model: DualEncoder, images: Tensor, language: str) -> list[Row]:
        """Top-1 and top-5 accuracy among the class names of all data. Images without a name are left out."""
        names, captions = self.names[language], self.pairs.captions[language]
        numbers = {name: number for number, name in enumerate(names)}
        labels = torch.zeros(len(images), len(names), dtype=torch.int8)
        for image, caption in self.pairs.pairs[
            language
        ].tolist():  # an image may have several labels
            labels[image, numbers[captions[caption]]] = 1
        labeled = labels.any(1)
        metrics = ["top1"]  # correct if it is one of them
        if (labels.sum(1) <= 1).all():
            labels, metrics = labels.argmax(1), ["top1", "top5"]
        measured = measure(
            images[labeled], class_embeddings(model, names), labels[labeled], metrics
        )
        rows = measured.rows(model=MODEL, set=self.name, protocol=CLASS_NAMES, language=language)
        return [
            replace(row, interval=wilson_interval(row.value, int(labeled.sum()) // self.views))
            for row in rows
        ]

    def num_queries(self, row: Row) -> int:
        """Number of queries of a row of this set: images with a text, or texts with an image."""
        by_text = row.metric.startswith("text_to_image")
        return len(self.pairs.pairs[str(row.language)][:, int(by_text)].unique()) // self.views


class Measurer:
    """Measures models on the same images and texts.

    Args:
        prepared: The user's images and captions.
        general: The user's general images; None if there are none. Without captions they are not measured.
        model: Starting model, for its languages.
        processor: Processor of the model.
        device: Device on which models run.
        seed: Seed of the run, written to the rows.
    """

    def __init__(
        self,
        prepared: Prepared,
        general: Prepared | None,
        model: DCCLIPModel,
        processor: DCCLIPProcessor,
        device: torch.device,
        seed: int,
    ):
        self.processor, self.device, self.seed = processor, device, seed
        photos = load_held_out()
        languages = [
            language for language in model.config.languages if language in photos.column_names
        ]
        self.sets = [
            self._open(VALIDATION, prepared),
            CaptionedImages.of(HELD_OUT, photos, languages, training=photos, views=NUM_VIEWS),
        ]
        if general is not None and general.num_validation:
            self.sets.append(self._open(GENERAL_IMAGES, general))
        self.general: GeneralPairs = general_pairs(model.config.languages, held_out=True)

    def _open(self, name: str, prepared: Prepared) -> CaptionedImages:
        training = load_source(str(prepared.training)) if prepared.are_labels else None
        return CaptionedImages.of(
            name, load_source(str(prepared.validation)), prepared.languages, training
        )

    def measure(self, model: DCCLIPModel, stage: str) -> tuple[list[Row], Embeddings]:
        """Measure a model on all sets.

        Args:
            model: Model to measure, which prepares images and texts as the starting model does.
            stage: Stage of the model, written to the rows.

        Returns:
            The rows, and the embeddings of the validation split.
        """
        wrapped = DualEncoder(model.eval(), self.processor, MODEL).to(self.device)
        rows, found = list[Row](), dict[str, Embeddings]()
        for each in self.sets:
            found[each.name] = each.encode(wrapped)
            rows += each.score(wrapped, found[each.name])
        rows += general_rows(wrapped, self.general)
        return [replace(row, stage=stage, seed=self.seed) for row in rows], found[VALIDATION]

    def num_queries(self, row: Row) -> int:
        """Number of queries whose results a row counts: it cannot show a smaller change than one of them."""
        if row.set == GENERAL:
            return len(self.general.first)
        return next(each for each in self.sets if each.name == row.set).num_queries(row)


def general_rows(model: DualEncoder, general: GeneralPairs) -> list[Row]:
    """Share of the general texts whose nearest text in the other form is the correct one, in both directions."""
    first, second = model.encode_texts(general.texts).chunk(2)
    pairs = torch.arange(len(first))[:, None].expand(-1, 2)
    rows = []
    for language, queries, candidates in (
        (general.languages[0], first, second),
        (general.languages[1], second, first),
    ):
        recall = float((retrieval.ranks(queries, candidates, pairs) == 0).double().mean())
        fields: dict[str, Any] = {
            "model": MODEL,
            "set": GENERAL,
            "protocol": "text to text",
            "language": language,
        }
        interval = wilson_interval(recall, len(first))
        rows.append(Row(metric="text_to_text_R@1", value=recall, interval=interval, **fields))
    return rows


def mean_of(rows: Sequence[Row], name: str) -> float:
    """Mean of all values of one set, 0..1."""
    return fmean(row.value for row in rows if row.set == name)


def kept_values(rows: Sequence[Row]) -> dict[str, float]:
    """Accuracy that fine-tuning should keep, 0..1: recall at 1 and top-1 of every set but the user's own.

    Returns:
        Value of each row by its set, language and metric, such as `general images, zh, image to text R@1`.
    """
    kept = [row for row in rows if row.set != VALIDATION and row.metric.endswith(KEPT_METRICS)]
    return {name_of(row): row.value for row in kept}


def name_of(row: Row) -> str:
    """Set, language and metric of a row, in words."""
    return f"{row.set}, {row.language}, {row.metric.replace('_', ' ')}"


def mean_cosine(start: Sequence[Tensor], end: Sequence[Tensor]) -> float:
    """Mean cosine of the embeddings of two models, each (N, D), L2-normalized."""
    return float(
        torch.cat([(one * other).sum(-1) for one, other in zip(start, end, strict=True)]).mean()
    )
