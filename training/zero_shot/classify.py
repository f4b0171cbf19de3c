"""Zero-shot classification with any model that has `get_image_features` and `get_text_features`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

import modeling_dcclip  # noqa: F401  (registers our own family with the Auto classes)
from training.data import open_picture
from training.metrics import top_k_accuracy, wilson_interval
from training.results import Row
from training.zero_shot.class_names import ClassNames


@dataclass(frozen=True)
class ZeroShotModel:
    """A model with the processor that prepares its input.

    Args:
        model: in eval mode.
        processor: its own.
        name: shown in results.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "ZeroShotModel":
        """Load from a folder or the Hub.

        Raises:
            ValueError: it is not there, or has no text or image tower.
        """
        try:
            model, processor = (
                AutoModel.from_pretrained(name, dtype=torch.float32),
                AutoProcessor.from_pretrained(name),
            )
        except OSError as error:
            raise ValueError(f"model: {str(name)!r} is neither a model folder nor on the Hub. ({error})") from error
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(model, method):
                raise ValueError(
                    f"model: {str(name)!r} ({type(model).__name__}) has no {method}; zero-shot needs both towers."
                )
        return cls(model.eval(), processor, str(name))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """(N, D) float32, L2-normalised, in order. Texts of like length are encoded together, which saves padding."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        embeddings: list[Tensor] = [torch.empty(0)] * len(texts)
        for numbers in tqdm(list(_chunks(order, batch_size)), desc="class names", unit="batch", leave=False):
            tokens = self.processor.tokenizer(
                [texts[n] for n in numbers], padding=True, truncation=True, return_tensors="pt"
            )
            features = self.model.get_text_features(**tokens.to(self.model.device)).pooler_output
            for number, embedding in zip(numbers, F.normalize(features.float(), dim=-1).cpu(), strict=True):
                embeddings[number] = embedding
        return torch.stack(embeddings)

    @torch.inference_mode()
    def encode_pictures(self, rows: Dataset, column: str = "image", batch_size: int = 64) -> Tensor:
        """(N, D) float32, L2-normalised.

        Raises:
            ValueError: a picture does not decode.
        """
        pictures = rows.select_columns([column]).cast_column(column, Image(decode=False))
        embeddings = []
        with tqdm(total=len(rows), desc="pictures", unit="picture", leave=False) as progress:
            for numbers in _chunks(range(len(rows)), batch_size):
                images = [_open(pictures[number][column], number) for number in numbers]
                pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
                features = self.model.get_image_features(pixel_values=pixels.to(self.model.device)).pooler_output
                embeddings.append(F.normalize(features.float(), dim=-1).cpu())
                progress.update(len(numbers))
        return torch.cat(embeddings)


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _open(cell: dict, row: int) -> PILImage.Image:
    try:
        return open_picture(cell)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"image: row {row} does not decode ({error}). A test set is never thinned silently: mend or remove the "
            "row."
        ) from error


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
    embeddings = torch.stack([model.encode_texts([template.format(name) for name in names]) for template in templates])
    return F.normalize(embeddings.mean(0), dim=-1)


PROTOCOL = "class-names"  # the plain names, no sentence around them


@dataclass(frozen=True)
class Encoded:
    """What one model makes of labelled sets and of their class names.

    Args:
        name: the model's.
        pictures: (N, D) by set, L2-normalised.
        classes: (classes, D) by language, L2-normalised.
    """

    name: str
    pictures: dict[str, Tensor]
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
        sets: labelled pictures by name.
        class_names: the candidates, the same for every set.
        languages: of the candidates.
        image_column: column of the pictures.

    Raises:
        ValueError: a column or language is missing, or a picture does not decode.
    """
    for name, rows in sets.items():
        _require(rows, image_column, name)
    classes = {language: class_embeddings(model, class_names.in_language(language)) for language in languages}
    pictures = {name: model.encode_pictures(rows, image_column) for name, rows in sets.items()}
    return Encoded(model.name, pictures, classes)


def score(
    pictures: Encoded,
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
        pictures: of the model that sees.
        texts: of the model that reads; another one than `pictures` where it is asked whether the two can be compared.
        sets: labelled pictures by name.
        class_names: the candidates.
        label_column: column of the label's name.
        ks: which top-k; those beyond the number of classes are left out.
        stage: written to the rows.
        seed: written to the rows.

    Raises:
        ValueError: the label column is missing, a label is not in the list, or the models' embeddings differ in
        width.
    """
    name = pictures.name if texts is pictures else f"{pictures.name} pictures, {texts.name} texts"
    table = []
    for set_name, rows in sets.items():
        _require(rows, label_column, set_name)
        labels = class_names.label_ids(rows[label_column])
        for language, classes in texts.classes.items():
            seen = pictures.pictures[set_name]
            if seen.shape[1] != classes.shape[1]:
                raise ValueError(
                    f"text_model: {texts.name!r} embeds in {classes.shape[1]} dimensions, {pictures.name!r} in "
                    f"{seen.shape[1]}: they cannot be compared. Name a model of the same space, such as its teacher."
                )
            scores = seen @ classes.T
            for k in (k for k in ks if k <= scores.shape[1]):
                share = top_k_accuracy(scores, labels, k)
                interval = wilson_interval(share, len(rows))
                table.append(Row(name, stage, set_name, PROTOCOL, language, f"top{k}", share, seed, interval))
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
