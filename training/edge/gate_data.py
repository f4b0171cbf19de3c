"""Data of the accuracy gate: labeled images, and the names of their classes in both languages.

Without options, they are the validation set that the model's folder has or names.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from torch import Tensor
from transformers import ProcessorMixin

from training.config import RECIPE_FILE
from training.data import (
    evenly_spaced_rows,
    load_source,
    open_image,
    require_allowed,
    usable_captions,
)
from training.data.reader import Reading, open_source
from training.edge.formats import ExportOptions
from training.evaluation.sets.class_names import ClassNames, general_pairs
from training.evaluation.sets.labeled_sets import Source, open_set
from training.text.writing_systems import LANGUAGES
from training.utils.reading import read_mapping
from training.utils.trust import FUNCTION, check_no_code

NUM_CALIBRATION = 128
MAX_VALIDATION = 1000  # images of a validation split, evenly spaced
NUM_NOISE = 8
NOISE_EDGE = 256
# the splits that training/finetune.py leaves in a model's folder
SPLITS_FOLDER = "data"
TRAINING_FILE = "train.parquet"
VALIDATION_FILE = "validation.parquet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateData:
    """Images with labels, class names, and calibration images.

    Args:
        images: Rows with the column `image`.
        labels: Class indices of the images, (N,); None without labels: accuracy is not checked.
        class_names: Names of the classes by language. The gate checks these languages.
        calibration: Rows with images that set the int8 ranges; None if there are none.
        source: Description of the data in results.
    """

    images: Dataset
    labels: Tensor | None
    class_names: ClassNames
    calibration: Dataset | None
    source: str

    @property
    def cells(self) -> Sequence[Any]:
        """The undecoded images."""
        return self.images.cast_column("image", Image(decode=False))["image"]

    @property
    def languages(self) -> list[str]:
        """Languages that are checked (ISO 639-1 codes)."""
        return [language for language in LANGUAGES if language in self.class_names.names]

    @classmethod
    def from_options(cls, options: ExportOptions, field: str = "data") -> "GateData":
        """The labeled set that the options name; else the validation set that the folder has or names; else none.

        Args:
            options: Options of an export.
            field: Option that names the labeled set, for error messages.

        Raises:
            ValueError: Only one of `data` and `class_names` is given, or the labeled set does not match them.
        """
        calibration = None if options.calibration is None else _calibration(options)
        if (options.data is None) != (options.class_names is None):
            raise ValueError(f"{field}: a labeled set needs both --{field} and --class_names.")
        if options.data is not None and options.class_names is not None:
            names = ClassNames.read(options.class_names)
            for language in LANGUAGES:
                names.in_language(language)
            source = Source(
                options.data,
                options.split,
                options.image_column,
                options.label_column,
                options.allow_paths,
            )
            return cls._labeled(source, names, calibration, field)
        splits = Path(options.folder, SPLITS_FOLDER)
        recipe = Path(options.folder, RECIPE_FILE)
        if (splits / VALIDATION_FILE).is_file():
            return cls._validation(splits, calibration)
        named = cls._of_recipe(recipe, calibration) if recipe.is_file() else None
        return named or cls._unchecked(calibration)

    @classmethod
    def _labeled(
        cls, source: Source, names: ClassNames, calibration: Dataset | None, field: str
    ) -> "GateData":
        """A labeled set, whose images are the default of `calibration`."""
        labeled = open_set(field, source, names)
        if labeled.labels.ndim > 1:
            raise ValueError(
                f"{field}: images of {source.location!r} have several labels, but the check needs one for each "
                "image. Name a set of that kind."
            )
        images = labeled.rows if calibration is None else calibration
        return cls(labeled.rows, labeled.labels, names, images, source.location)

    @classmethod
    def _of_recipe(cls, path: Path, calibration: Dataset | None) -> "GateData | None":
        """The validation set that a recipe names; None if it names none that can be used here. The images of the
        training data are the default of `calibration`.
        """
        recipe = read_mapping(path, "folder")
        evaluation = recipe.get("eval") or {}
        location = str(evaluation.get("data"))
        names = evaluation.get("class_names")
        if not names or not _is_here(location):
            return None
        data = recipe["data"]
        try:
            check_no_code({"eval": evaluation, "data": data}, ())
            found = cls._labeled(Source(location), ClassNames.read(names), calibration, "eval.data")
        except ValueError as error:
            logger.warning("The validation set in %s is not used: %s", path, error)
            return None
        if calibration is None and _is_here(data.get("train")):
            column = data.get("image_column", "image")
            rows = load_source(data["train"], image_column=column)
            rows = rows.select_columns([column]).rename_columns({column: "image"})
            found = replace(found, calibration=rows)
        return found

    @classmethod
    def _validation(cls, folder: Path, calibration: Dataset | None) -> "GateData":
        """The validation split in `folder`, left by fine-tuning. Images with the same first captions are one class.
        The images of the training split are the default of `calibration`.
        """
        rows = load_source(str(folder / VALIDATION_FILE))
        first: dict[str, list[str]] = {}
        for language in LANGUAGES:
            if language in rows.column_names:
                captions = [usable_captions(cell)[0] for cell in rows[language]]
                first[language] = [texts[0] if texts else "" for texts in captions]
        # rows without a caption in one of the languages have no class there
        kept = [row for row, names in enumerate(zip(*first.values(), strict=True)) if all(names)]
        if len(kept) < 2:
            best = max(first, key=lambda language: sum(map(bool, first[language])))
            first = {best: first[best]}
            kept = [row for row, name in enumerate(first[best]) if name]
        chosen = [kept[row] for row in evenly_spaced_rows(len(kept), MAX_VALIDATION)]
        numbers: dict[tuple[str, ...], int] = {}  # class numbers by class names
        labels = []
        for row in chosen:
            key = tuple(names[row] for names in first.values())
            labels.append(numbers.setdefault(key, len(numbers)))
        class_names = {}
        for place, language in enumerate(first):
            class_names[language] = [key[place] for key in numbers]
        images = rows.select(chosen).select_columns(["image"])
        if calibration is None:
            training = folder / TRAINING_FILE
            calibration = load_source(str(training)) if training.exists() else images
        return cls(
            images,
            torch.tensor(labels),
            ClassNames(class_names, next(iter(first))),
            calibration,
            str(folder / VALIDATION_FILE),
        )

    @classmethod
    def _unchecked(cls, calibration: Dataset | None) -> "GateData":
        """No labels: embeddings are compared on the calibration images, or on noise, and on general class names."""
        general = general_pairs(LANGUAGES, held_out=True)
        first, second = general.languages
        names = ClassNames({first: general.first, second: general.second})
        if calibration is None:
            return cls(make_noise(), None, names, None, f"none: {NUM_NOISE} images of noise")
        images = calibration.select(evenly_spaced_rows(len(calibration), NUM_CALIBRATION))
        return cls(images, None, names, calibration, "none: images without labels")

    def calibration_images(self, processor: ProcessorMixin) -> Iterator[np.ndarray]:
        """Up to `NUM_CALIBRATION` prepared images, evenly spaced over the calibration set: (1, 3, S, S) float32.

        Without a calibration set, the images of the check.
        """
        rows = self.images if self.calibration is None else self.calibration
        rows = rows.select(evenly_spaced_rows(len(rows), NUM_CALIBRATION))
        for cell in rows.cast_column("image", Image(decode=False))["image"]:
            yield processor.image_processor([open_image(cell)], return_tensors="np")["pixel_values"]


def make_noise() -> Dataset:
    """Images of noise, the same at each call: enough to see whether a file computes what PyTorch computes."""
    shape = (NUM_NOISE, NOISE_EDGE, NOISE_EDGE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = [PILImage.fromarray(each) for each in pixels]
    return Dataset.from_dict({"image": images}, features=Features({"image": Image()}))


def _calibration(options: ExportOptions) -> Dataset:
    """Rows of `calibration`, whose images may be opened."""
    source = str(options.calibration)
    column = options.image_column or "image"
    reading = Reading(
        split=options.split, usual_split="test", image_column=column, field="calibration"
    )
    rows = require_allowed(
        open_source(source, reading).rows,
        source,
        column,
        allow_paths=options.allow_paths,
        field="calibration",
    )
    return rows.select_columns([column]).rename_columns({column: "image"})


def _is_here(source: Any) -> bool:
    """Whether a source of a recipe is a function or a file of this machine, so that nothing is downloaded."""
    return isinstance(source, str) and bool(FUNCTION.fullmatch(source) or Path(source).exists())
