"""Accuracy of a model on the user's validation split, and on images and texts that it knew before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from datasets import Dataset
from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.data import load_source
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.metrics import wilson_interval
from training.evaluation.retrieval import RetrievalSet, make_retrieval_set
from training.evaluation.sets.class_names import GeneralPairs, general_pairs
from training.evaluation.sets.protocols import CLASS_NAMES
from training.finetuning.splits import Prepared
from training.general_images import NUM_VIEWS, load_held_out
from training.teachers import DualEncoder
from training.utils.results import Row

VALIDATION = "validation"
GENERAL = "general texts"
HELD_OUT = "held-out photographs"
# recall at 1 and top-1: what shows a loss first
KEPT_METRICS = ("_R@1", "top1")  # endings
MODEL = "student"


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
        names = {}
        if training is not None:
            for language in columns:
                cells = [*training[language], *rows[language]]
                names[language] = sorted({text for cell in cells for text in cell or []})
        found = make_retrieval_set(name, rows, columns, "image", name)
        captions = {}
        pairs = {}
        for language, texts in found.captions.items():
            captions[language] = list(dict.fromkeys(texts))
            numbers = {text: number for number, text in enumerate(captions[language])}
            own = torch.tensor([numbers[text] for text in texts])
            pairs[language] = torch.stack([found.pairs[language][:, 0], own], 1)
        return cls(name, replace(found, captions=captions, pairs=pairs), names, views)

    def measure(self, model: DualEncoder) -> tuple[list[Row], tuple[Tensor, Tensor]]:
        """Accuracy in each language: retrieval, or top-1 and top-5 among the class names.

        Returns:
            The rows, and the embeddings of the images, (N, D), and of the captions in all languages, (T, D).
        """
        images = torch.as_tensor(model.encode_images(self.pairs.rows["image"]))
        rows: list[Row] = []
        captions = []
        for language, texts in self.pairs.captions.items():
            embeddings = torch.as_tensor(model.encode_texts(texts, truncate=True))
            captions.append(embeddings)
            if self.names:
                rows += self._classify(model, images, language)
            else:
                rows += retrieval.score(self.pairs, language, images, embeddings, MODEL)
        return rows, (images, torch.cat(captions))

    def _classify(self, model: DualEncoder, images: Tensor, language: str) -> list[Row]:
        """Top-1 and top-5 accuracy among the class names of all data. Images without a name are left out."""
        names = self.names[language]
        captions = self.pairs.captions[language]
        numbers = torch.tensor([names.index(caption) for caption in captions])
        pairs = self.pairs.pairs[language]
        labels = torch.zeros(len(images), len(names), dtype=torch.int8)
        labels[pairs[:, 0], numbers[pairs[:, 1]]] = 1  # an image may have several labels
        labeled = labels.any(1)
        metrics = ["top1"]  # correct if it is one of them
        if (labels.sum(1) <= 1).all():
            labels = labels.argmax(1)
            metrics = ["top1", "top5"]
        classes = class_embeddings(model, names)
        measured = measure(images[labeled], classes, labels[labeled], metrics)
        rows = measured.rows(model=MODEL, set=self.name, protocol=CLASS_NAMES, language=language)
        count = int(labeled.sum()) // self.views
        return [replace(row, interval=wilson_interval(row.value, count)) for row in rows]

    def num_queries(self, row: Row) -> int:
        """Number of queries of a row of this set: images with a text, or texts with an image."""
        images, texts = self.pairs.pairs[str(row.language)].T
        queries = texts if row.metric.startswith("text_to_image") else images
        return len(queries.unique()) // self.views


class Measurer:
    """Measures models on the same images and texts.

    Args:
        prepared: The user's images and captions.
        model: Starting model, for its languages.
        processor: Processor of the model.
        device: Device on which models run.
        seed: Seed of the run, written to the rows.
    """

    def __init__(
        self,
        prepared: Prepared,
        model: DCCLIPModel,
        processor: DCCLIPProcessor,
        device: torch.device,
        seed: int,
    ):
        self.processor = processor
        self.device = device
        self.seed = seed
        photos = load_held_out()
        validation = load_source(str(prepared.validation))
        languages = [
            language for language in model.config.languages if language in photos.column_names
        ]
        training = load_source(str(prepared.training)) if prepared.are_labels else None
        self.sets = [
            CaptionedImages.of(VALIDATION, validation, prepared.languages, training),
            CaptionedImages.of(HELD_OUT, photos, languages, training=photos, views=NUM_VIEWS),
        ]
        self.general: GeneralPairs = general_pairs(model.config.languages, held_out=True)

    def measure(self, model: DCCLIPModel, stage: str) -> tuple[list[Row], tuple[Tensor, Tensor]]:
        """Measure a model on all sets.

        Args:
            model: Model to measure, which prepares images and texts as the starting model does.
            stage: Stage of the model, written to the rows.

        Returns:
            The rows, and the embeddings of the images and captions of the validation split.
        """
        wrapped = DualEncoder(model.eval(), self.processor, MODEL).to(self.device)
        rows = general_rows(wrapped, self.general)
        (own, embeddings), (held_out, _) = [each.measure(wrapped) for each in self.sets]
        rows += own + held_out
        return [replace(row, stage=stage, seed=self.seed) for row in rows], embeddings

    def num_queries(self, row: Row) -> int:
        """Number of queries whose results a row counts: it cannot show a smaller change than one of them."""
        if row.set == GENERAL:
            return len(self.general.first)
        return next(test for test in self.sets if test.name == row.set).num_queries(row)


def general_rows(model: DualEncoder, general: GeneralPairs) -> list[Row]:
    """Share of the general texts whose nearest text in the other form is the correct one, in both directions."""
    embeddings = torch.as_tensor(model.encode_texts(general.texts, truncate=True))
    first, second = embeddings.chunk(2)
    pairs = torch.arange(len(first))[:, None].expand(-1, 2)
    directions = ((first, second), (second, first))
    rows = []
    for language, (queries, candidates) in zip(general.languages, directions, strict=True):
        ranks = retrieval.ranks(queries, candidates, pairs)
        recall = float((ranks == 0).double().mean())
        row = Row(
            model=MODEL,
            metric="text_to_text_R@1",
            value=recall,
            set=GENERAL,
            protocol="text to text",
            language=language,
            interval=wilson_interval(recall, len(first)),
        )
        rows.append(row)
    return rows


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
