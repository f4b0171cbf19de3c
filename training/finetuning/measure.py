"""Accuracy of a model on the user's validation split, and on images and texts that it knew before."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.corpus.free_photos import load_images
from training.data import load_source
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.image_loading import prepared_batches
from training.evaluation.metrics import wilson_interval
from training.evaluation.retrieval import RetrievalSet, make_retrieval_set
from training.evaluation.sets.class_names import GeneralPairs, general_pairs
from training.evaluation.sets.protocols import CLASS_NAMES
from training.evaluation.zero_shot_model import ZeroShotModel
from training.finetuning.prepare import Prepared
from training.utils.results import Row

VALIDATION, GENERAL, GENERAL_IMAGES, FREE_PHOTOS = "validation", "general texts", "general images", "free photographs"
# recall at 1 and top-1: what shows a loss first
KEPT_METRICS = ("text_to_image_R@1", "image_to_text_R@1", "text_to_text_R@1", "top1")
MODEL = "student"
BATCH_SIZE = 64
Prepare = Callable[[PILImage.Image], Tensor]  # an RGB image to the input of the model, (S, S, 3) uint8


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a set.

    Args:
        images: Embeddings of the images, (N, D) float32, L2-normalized.
        captions: Embeddings of the captions by language, (T, D) float32, L2-normalized.
    """

    images: Tensor
    captions: dict[str, Tensor]


class CaptionedImages:
    """Images with captions or class names, which are decoded once.

    Args:
        name: Name of the set, written to the rows.
        rows: Rows with the column `image` and a column for each language.
        languages: Languages of the captions (ISO 639-1 codes).
        prepare: Preparation of an image.
        seed: Seed of the run, written to the rows.
        training: Rows of the training split, if the captions are class names: they name further classes.
    """

    def __init__(
        self,
        name: str,
        rows: Dataset,
        languages: Sequence[str],
        prepare: Prepare,
        seed: int,
        training: Dataset | None = None,
    ):
        self.name, self.seed, self.are_labels = name, seed, training is not None
        columns = {language: language for language in languages if any(rows[language])}
        self.pairs: RetrievalSet = make_retrieval_set(name, rows, columns, "image", name)
        self.pixels = torch.cat(list(prepared_batches(self.pairs.rows, "image", BATCH_SIZE, prepare)))
        self.names: dict[str, list[str]] = {}
        if training is not None:
            for language in columns:
                cells = [*training[language], *rows[language]]
                self.names[language] = sorted({text for cell in cells for text in cell or []})

    @classmethod
    def of(cls, name: str, prepared: Prepared, prepare: Prepare, seed: int) -> "CaptionedImages":
        """Open the validation split of prepared data."""
        training = load_source(str(prepared.training)) if prepared.are_labels else None
        rows = load_source(str(prepared.validation))
        return cls(name, rows, prepared.languages, prepare, seed, training)

    def encode(self, model: ZeroShotModel, device: torch.device) -> Embeddings:
        """Encode the images and the captions with a model that has the preparation of the set."""
        normalize = model.images.normalize
        parts = [model.embed_images(normalize(part.to(device))).cpu() for part in self.pixels.split(BATCH_SIZE)]
        captions = {language: model.encode_texts(texts) for language, texts in self.pairs.captions.items()}
        return Embeddings(torch.cat(parts), captions)

    def score(self, model: ZeroShotModel, stage: str, embeddings: Embeddings) -> list[Row]:
        """Accuracy in each language: retrieval, or top-1 and top-5 among the class names.

        Args:
            model: Model to measure.
            stage: Stage of the model, written to the rows.
            embeddings: Embeddings of the set by this model.
        """
        rows: list[Row] = []
        for language, texts in embeddings.captions.items():
            if self.are_labels:
                rows += self._classify(model, embeddings.images, language, stage)
            else:
                rows += retrieval.score(
                    self.pairs, language, embeddings.images, texts, MODEL, stage=stage, seed=self.seed
                )
        return rows

    def _classify(self, model: ZeroShotModel, images: Tensor, language: str, stage: str) -> list[Row]:
        """Top-1 and top-5 accuracy among the class names of all data. Images without a name are left out."""
        names, captions = self.names[language], self.pairs.captions[language]
        numbers = {name: number for number, name in enumerate(names)}
        labels = torch.zeros(len(images), len(names), dtype=torch.int8)
        for image, caption in self.pairs.pairs[language].tolist():  # an image may have several labels
            labels[image, numbers[captions[caption]]] = 1
        labelled = labels.any(1)
        metrics = ["top1"]  # correct if it is one of them
        if (labels.sum(1) <= 1).all():
            labels, metrics = labels.argmax(1), ["top1", "top5"]
        measured = measure(images[labelled], class_embeddings(model, names), labels[labelled], metrics)
        fields = {"model": MODEL, "stage": stage, "set": self.name, "protocol": CLASS_NAMES, "language": language}
        return measured.rows(seed=self.seed, **fields)

    def num_queries(self, row: Row) -> int:
        """Number of queries of a row of this set: images with a text, or texts with an image."""
        by_text = row.metric.startswith("text_to_image")
        return len(self.pairs.pairs[str(row.language)][:, int(by_text)].unique())


class Measurer:
    """Measures models on the same images and texts.

    Args:
        prepared: The user's images and captions.
        general: The user's general images; None if there are none. Without captions they are not measured.
        model: Starting model, for the preparation of its images and for its languages.
        processor: Processor of the model.
        device: Device on which models run.
        seed: Seed of the run, written to the rows.

    Attributes:
        images_per_s: Throughput of the last model that was measured.
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
        self.processor, self.device, self.seed, self.images_per_s = processor, device, seed, 0.0
        prepare = self._wrap(model).images.fit
        self.validation = CaptionedImages.of(VALIDATION, prepared, prepare, seed)
        photos = load_images()
        languages = [language for language in model.config.languages if language in photos.column_names]
        self.known = [CaptionedImages(FREE_PHOTOS, photos, languages, prepare, seed)]
        if general is not None and general.num_validation:
            self.known.append(CaptionedImages.of(GENERAL_IMAGES, general, prepare, seed))
        self.general: GeneralPairs = general_pairs(model.config.languages, held_out=True)

    def _wrap(self, model: DCCLIPModel) -> ZeroShotModel:
        return ZeroShotModel(model.eval(), self.processor, MODEL).to(self.device)

    def encode(self, model: DCCLIPModel) -> Embeddings:
        """Encode the validation split with a model that prepares images and texts as the starting model does."""
        start = time.perf_counter()
        embeddings = self.validation.encode(self._wrap(model), self.device)
        self.images_per_s = len(embeddings.images) / (time.perf_counter() - start)
        return embeddings

    def rows(self, model: DCCLIPModel, stage: str, embeddings: Embeddings | None = None) -> list[Row]:
        """Measure a model on all sets.

        Args:
            model: Model to measure.
            stage: Stage of the model, written to the rows.
            embeddings: Embeddings of the validation split by this model. Default: they are computed.
        """
        embeddings, wrapped = embeddings or self.encode(model), self._wrap(model)
        rows = self.validation.score(wrapped, stage, embeddings)
        for known in self.known:
            rows += known.score(wrapped, stage, known.encode(wrapped, self.device))
        return rows + general_rows(wrapped, self.general, stage, self.seed)

    def validate(self, model: DCCLIPModel) -> dict[str, float]:
        """Mean accuracy of a model on the validation split, 0..1, by the name `VALIDATION`."""
        rows = self.validation.score(self._wrap(model), "", self.encode(model))
        return {VALIDATION: mean_of(rows, VALIDATION)}

    def num_queries(self, row: Row) -> int:
        """Number of queries whose results a row counts: it cannot show a smaller change than one of them."""
        if row.set == GENERAL:
            return len(self.general.first)
        return next(each for each in (self.validation, *self.known) if each.name == row.set).num_queries(row)


def general_rows(model: ZeroShotModel, general: GeneralPairs, stage: str | None, seed: int | None) -> list[Row]:
    """Share of the general texts whose nearest text in the other form is the correct one, in both directions.

    Args:
        model: Model to measure.
        general: Pairs of texts.
        stage: Stage of the model, written to the rows.
        seed: Seed of the training run, written to the rows.
    """
    first, second = model.encode_texts(general.texts).chunk(2)
    pairs = torch.arange(len(first))[:, None].expand(-1, 2)
    rows = []
    for language, queries, candidates in (
        (general.languages[0], first, second),
        (general.languages[1], second, first),
    ):
        recall = float((retrieval.ranks(queries, candidates, pairs) == 0).double().mean())
        fields = {"model": MODEL, "stage": stage, "set": GENERAL, "protocol": "text to text", "language": language}
        interval = wilson_interval(recall, len(first))
        rows.append(Row(metric="text_to_text_R@1", value=recall, interval=interval, seed=seed, **fields))
    return rows


def mean_of(rows: Sequence[Row], name: str) -> float:
    """Mean of all values of one set, 0..1."""
    return fmean(row.value for row in rows if row.set == name)


def kept_values(rows: Sequence[Row]) -> dict[str, float]:
    """Accuracy that fine-tuning should keep, 0..1: recall at 1 and top-1 of every set but the user's own.

    Args:
        rows: Rows of one model.

    Returns:
        Value of each row by its set, language and metric, such as `general images, zh, image to text R@1`.
    """
    kept = [row for row in rows if row.set != VALIDATION and row.metric in KEPT_METRICS]
    return {name_of(row): row.value for row in kept}


def name_of(row: Row) -> str:
    """Set, language and metric of a row, in words."""
    return f"{row.set}, {row.language}, {row.metric.replace('_', ' ')}"


def compatibility(start: Sequence[Tensor], end: Sequence[Tensor]) -> float:
    """Mean cosine of the embeddings of two models.

    Args:
        start: Embeddings by the starting model, (N, D) each, L2-normalized.
        end: Embeddings by the other model, (N, D) each, L2-normalized.
    """
    cosines = [(one * other).sum(-1) for one, other in zip(start, end, strict=True)]
    return sum(float(part.sum()) for part in cosines) / sum(len(part) for part in cosines)
