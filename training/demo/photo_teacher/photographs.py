"""Load the images, captions and class names that the recipe names."""

import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset

from training.data import load_source, require_allowed, require_columns, rules_for
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.evaluation.sets.imagenet import imagenet_names
from training.evaluation.sets.packages import CLIP_BENCHMARK
from training.text.writing_systems import LANGUAGES

SCENE_NAMES = Path(__file__).with_name("scene_names.json")
TEMPLATES = {"en": ("{}", "a photo of a {}."), "zh": ("{}", "一张{}的照片。")}
TRAIN_PER_VALIDATION = 5  # number of training images of a class for each of its validation images


@dataclass(frozen=True)
class CaptionedImages:
    """Images with captions in both languages.

    Args:
        name: Name of the source, for file names.
        images: Rows with a decoded `image`.
        captions: Captions of each image by language. An image has the same number of captions in both languages.
    """

    name: str
    images: Dataset
    captions: dict[str, list[list[str]]]


@dataclass(frozen=True)
class ClassImages:
    """Images with a class name.

    Args:
        name: Name of the source, for file names.
        images: Rows with a decoded `image`.
        names: English class name of each image; empty for images without class names.
    """

    name: str
    images: Dataset
    names: list[str]


def load_captioned(
    source: str | list[str], columns: dict[str, str], option: str, image: str = "image"
) -> CaptionedImages:
    """Load captioned images.

    Args:
        source: Source that `load_source` accepts, such as a parquet file.
        columns: Column of the captions for each language.
        option: Name of the recipe's field, for error messages.
        image: Column of the images.

    Raises:
        ValueError: There are no rows, a column is missing, a cell is not a list of captions or is empty, or an image
            has different numbers of captions in the two languages.
    """
    rows = load_source(source)
    rows = require_columns(rows, [image, *columns.values()], str(source), f"Name them in {option}.", option)
    captions = {language: list(rows[columns[language]]) for language in LANGUAGES}
    if not len(rows):
        raise ValueError(f"{option}: {source!r} has no rows. Name a file with captioned images.")
    for row, cells in enumerate(zip(*captions.values(), strict=True)):
        check_captions(cells, f"{option}: row {row}")
    return CaptionedImages(_stem(source), _with_images(rows, image, source, option), captions)


def check_captions(cells: tuple, where: str):
    """Check the captions of one image.

    Args:
        cells: Cell of each language.
        where: Start of the error message.

    Raises:
        ValueError: A cell is not a list of strings or is empty, or the lengths differ.
    """
    for language, cell in zip(LANGUAGES, cells, strict=True):
        if not isinstance(cell, list) or not cell or not all(isinstance(text, str) and text.strip() for text in cell):
            raise ValueError(f"{where}: {language} is {cell!r}, expected a list of captions. Fill or remove the row.")
    lengths = [len(cell) for cell in cells]
    if len(set(lengths)) > 1:
        counts = ", ".join(f"{language} has {count}" for language, count in zip(LANGUAGES, lengths, strict=True))
        raise ValueError(f"{where}: {counts} captions, expected equally many. Fill or remove the row.")


def load_classes(recipe: PhotoTeacherRecipe) -> tuple[list[ClassImages], list[ClassImages], dict[str, str]]:
    """Load the images with class names.

    Returns:
        Training images and validation images by file, and the Chinese class name for each English one.

    Raises:
        ValueError: A column is missing, or a class has no Chinese name.
    """
    train: list[ClassImages] = []
    validation: list[ClassImages] = []
    translations: dict[str, str] = {}
    for source in recipe.class_images:
        rows = load_source(source)
        rows = require_columns(rows, ["image", "en"], source, "Rename them in the file.", "class_images")
        names = list(rows["en"])
        chinese = dict(zip(names, rows["zh"], strict=True)) if "zh" in rows.column_names else scene_names()
        if missing := sorted(set(names) - set(chinese)):
            raise ValueError(
                f"class_images: {source!r} has no Chinese name for {len(missing)} classes, such as {missing[0]!r}. "
                f"Add a column zh to the file, or the names to {SCENE_NAMES.name}."
            )
        translations = {name: chinese[name] for name in sorted(set(names))} | translations
        picked = spaced_rows(names, recipe.images_per_class)
        images = _with_images(rows, "image", source, "class_images")
        for kind, indices in zip((train, validation), picked, strict=True):
            kind.append(ClassImages(_stem(source), images.select(indices), [names[index] for index in indices]))
    return train, validation, translations


def spaced_rows(names: list[str], per_class: int) -> tuple[list[int], list[int]]:
    """Select evenly spaced rows of every class.

    Args:
        names: Class name of each row.
        per_class: Number of training rows of a class.

    Returns:
        Indices of the training rows, and of a fifth as many validation rows.
    """
    rows = np.array(names)
    train: list[int] = []
    validation: list[int] = []
    for name in sorted(set(names)):
        available = np.flatnonzero(rows == name)
        count = min(len(available), per_class + -(-per_class // TRAIN_PER_VALIDATION))
        chosen = available[np.linspace(0, len(available) - 1, count).round().astype(int)].tolist()
        held_out = chosen[TRAIN_PER_VALIDATION :: TRAIN_PER_VALIDATION + 1]
        validation += held_out
        train += [index for index in chosen if index not in held_out]
    return train, validation


def load_unlabelled(recipe: PhotoTeacherRecipe) -> list[ClassImages]:
    """Load the images without captions; their list of class names is empty."""
    sets = []
    for source in recipe.unlabelled:
        rows = load_source(source)
        rows = require_columns(rows, ["image"], source, "Rename them in the file.", "unlabelled")
        rows = rows.select(range(min(len(rows), recipe.num_unlabelled)))
        sets.append(ClassImages(_stem(source), _with_images(rows, "image", source, "unlabelled"), []))
    return sets


def scene_names() -> dict[str, str]:
    """Return the Chinese name of each of the 75 English scene names."""
    return json.loads(SCENE_NAMES.read_text(encoding="utf-8"))


def object_names() -> dict[str, list[str]]:
    """Return ImageNet's 1,000 class names by language, in the order of their WordNet ids.

    Raises:
        ValueError: The package `clip-benchmark` is not installed.
    """
    names, _ = imagenet_names(CLIP_BENCHMARK)
    return {language: names.in_language(language) for language in LANGUAGES}


def prompts(names: list[str], language: str) -> list[list[str]]:
    """Insert class names into the prompt templates.

    Args:
        names: Class names in one language.
        language: Language of the names, `en` or `zh`.

    Returns:
        The captions of all names, one list per template.
    """
    return [[template.format(name) for name in names] for template in TEMPLATES[language]]


def _with_images(rows: Dataset, column: str, source: str | list[str], option: str) -> Dataset:
    rows = require_allowed(rows.select_columns([column]), column, rules_for(source), str(source), option)
    rows = rows if column == "image" else rows.rename_column(column, "image")
    return rows.cast_column("image", datasets.Image())


def _stem(source: str | list[str]) -> str:
    return Path(source if isinstance(source, str) else source[0]).stem
