"""Data of the accuracy gate: labelled images, and the names of their classes in both languages.

Without options, they are data of the kind that the model was trained on, if its folder names any.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from torch import Tensor
from transformers import ProcessorMixin

from training.config import RECIPE_FILE
from training.corpus.emoji import DEFAULT_CACHE
from training.data import (
    evenly_spaced_rows,
    load_source,
    open_image,
    require_allowed,
    require_columns,
    rules_for,
)
from training.edge.formats import ExportOptions
from training.evaluation.sets.class_names import ClassNames, general_pairs
from training.text.writing_systems import LANGUAGES
from training.utils.reading import read_mapping

NUM_CALIBRATION = 128
MAX_VALIDATION = 1000  # images of a validation split, evenly spaced
NUM_NOISE, NOISE_EDGE = 8, 256
CALIBRATION, NOISE = "calibration", "noise"  # names of sets without labels
ROW = "row"  # key of the numbers that are the labels of captioned images
# the splits that training/finetune.py leaves in a model's folder
SPLITS_FOLDER, TRAINING_FILE, VALIDATION_FILE = "data", "train.parquet", "validation.parquet"
EMOJI = "training.corpus.emoji:"  # functions that load the embedded corpus


@dataclass(frozen=True)
class GateData:
    """Labelled sets with class names and calibration images.

    Args:
        sets: Labelled images by name of the set; images without labels if `label_column` is None.
        class_names: Names of the classes by language. The gate checks these languages.
        calibration: Images that set the int8 ranges; None if there are none.
        image_column: Column of the images.
        label_column: Column of the class names. None without labels: accuracy is not checked.
        source: Description of the data in results.
    """

    sets: dict[str, Dataset]
    class_names: ClassNames
    calibration: Dataset | None
    image_column: str
    label_column: str | None
    source: str

    def __post_init__(self):
        for name, rows in self.sets.items():
            remedy = "Name the right one with --image_column or --label_column."
            columns = (
                [self.image_column]
                if self.label_column is None
                else [self.image_column, self.label_column]
            )
            require_columns(rows, columns, name, remedy)
            if self.label_column is not None:
                self.label_ids(name)  # an unknown label is reported before the export starts

    @property
    def languages(self) -> list[str]:
        """Languages that are checked (ISO 639-1 codes)."""
        return [language for language in LANGUAGES if language in self.class_names.names]

    @property
    def is_checked(self) -> bool:
        """Whether the images have labels, so that accuracy can be checked."""
        return self.label_column is not None

    @classmethod
    def from_options(cls, options: ExportOptions) -> "GateData":
        """The labelled set that the options name; else data of the kind that the model was trained on; else none.

        Raises:
            ValueError: Only one of `data` and `class_names` is given, or the labelled set does not match them.
        """
        calibration = None
        if options.calibration is not None:
            calibration = _load(options.calibration, options, "calibration").select_columns(
                [options.image_column]
            )
            calibration = (
                calibration
                if options.data
                else calibration.rename_columns({options.image_column: "image"})
            )
        if options.data is None and options.class_names is not None:
            raise ValueError(
                f"class_names: {options.class_names!r} is given without data. Name a labelled set."
            )
        if options.data is None:
            splits = Path(options.folder) / SPLITS_FOLDER
            if (splits / VALIDATION_FILE).is_file():
                return cls._validation(splits, calibration)
            recipe = Path(options.folder) / RECIPE_FILE
            if recipe.is_file() and is_of_emoji(read_mapping(recipe, "folder")):
                return cls._embedded(calibration)
            return cls._unchecked(calibration)
        if options.class_names is None:
            raise ValueError(
                f"data: {options.data!r} needs class_names, the names of its classes in both languages."
            )
        rows, names = _load(options.data, options, "data"), ClassNames.read(options.class_names)
        if missing := [language for language in LANGUAGES if language not in names.names]:
            raise ValueError(
                f"class_names: the labelled set has names in {sorted(names.names)}, none in {missing[0]!r}. The gate "
                f"checks both languages: add names in {missing[0]!r} to each class."
            )
        sets = {Path(options.data).stem: rows}
        calibration = rows if calibration is None else calibration
        return cls(
            sets, names, calibration, options.image_column, options.label_column, options.data
        )

    @classmethod
    def _embedded(cls, calibration: Dataset | None) -> "GateData":
        """The embedded corpus: images held out from training, and the names of all concepts. The images of the
        training split are the default of `calibration`.
        """
        # not at the top, so that other data do not need the packages of the embedded corpus
        from training.evaluation.sets.held_out import HeldOut

        held_out = HeldOut.open()
        calibration = (
            load_source(str(held_out.corpus / "train.parquet"))
            if calibration is None
            else calibration
        )
        return cls(
            held_out.sets, held_out.class_names, calibration, "image", "label", held_out.corpus.name
        )

    @classmethod
    def _validation(cls, folder: Path, calibration: Dataset | None) -> "GateData":
        """The validation split in `folder`, left by fine-tuning. Images with the same first captions are one class.
        The images of the training split are the default of `calibration`.
        """
        rows = load_source(str(folder / VALIDATION_FILE))
        languages = [language for language in LANGUAGES if language in rows.column_names]
        first = {
            language: [texts[0] if texts else "" for texts in rows[language]]
            for language in languages
        }

        def complete(names: list[str]) -> list[int]:
            return [row for row in range(len(rows)) if all(first[name][row] for name in names)]

        # rows without a caption in one of the languages have no class there
        if len(complete(languages)) < 2:
            languages = [max(languages, key=lambda language: len(complete([language])))]
        kept = complete(languages)
        chosen = [kept[row] for row in evenly_spaced_rows(len(kept), MAX_VALIDATION)]
        keys = [tuple(first[language][row] for language in languages) for row in chosen]
        classes = {key: str(number) for number, key in enumerate(dict.fromkeys(keys))}
        columns = zip(*classes, strict=True)
        names = dict(zip(languages, map(list, columns), strict=True)) | {ROW: [*classes.values()]}
        labelled = (
            rows.select(chosen)
            .select_columns(["image"])
            .add_column("label", [classes[key] for key in keys])
        )
        if calibration is None and (folder / TRAINING_FILE).exists():
            calibration = load_source(str(folder / TRAINING_FILE))
        calibration = labelled if calibration is None else calibration
        source = str(folder / VALIDATION_FILE)
        return cls(
            {"validation": labelled}, ClassNames(names, ROW), calibration, "image", "label", source
        )

    @classmethod
    def _unchecked(cls, calibration: Dataset | None) -> "GateData":
        """No labels: embeddings are compared on the calibration images, or on noise, and on general class names."""
        general = general_pairs(LANGUAGES, held_out=True)
        names = ClassNames(
            dict(zip(general.languages, (general.first, general.second), strict=True))
        )
        if calibration is None:
            return cls(
                {NOISE: make_noise()},
                names,
                None,
                "image",
                None,
                f"none: {NUM_NOISE} images of noise",
            )
        chosen = calibration.select(evenly_spaced_rows(len(calibration), NUM_CALIBRATION))
        return cls(
            {CALIBRATION: chosen}, names, calibration, "image", None, "none: images without labels"
        )

    def label_ids(self, name: str) -> Tensor:
        """Class ids of a labelled set's images, (N,)."""
        return self.class_names.label_ids(self.sets[name][self.label_column])

    def calibration_images(self, processor: ProcessorMixin) -> Iterator[np.ndarray]:
        """Up to `NUM_CALIBRATION` prepared images, evenly spaced over the calibration set: (1, 3, S, S) float32.

        Without a calibration set, the images of noise.
        """
        rows = self.sets[NOISE] if self.calibration is None else self.calibration
        rows = rows.select(evenly_spaced_rows(len(rows), NUM_CALIBRATION))
        for row in rows.cast_column(self.image_column, Image(decode=False)):
            image = open_image(row[self.image_column])
            yield processor.image_processor([image], return_tensors="np")["pixel_values"]


def make_noise() -> Dataset:
    """Images of noise, the same at each call: enough to see whether a file computes what PyTorch computes."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (NUM_NOISE, NOISE_EDGE, NOISE_EDGE, 3), np.uint8
    )
    features = Features({"image": Image()})
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(image) for image in pixels]}, features=features
    )


def _load(source: str, options: ExportOptions, field: str) -> Dataset:
    """Load rows whose images may be opened."""
    rows = load_source(source, options.split, field=field)
    require_columns(
        rows, (options.image_column,), source, "Name the right one with --image_column.", field
    )
    rules = rules_for(source, options.allow_paths)
    return require_allowed(rows, options.image_column, rules, source, field)


def is_of_emoji(recipe: dict[str, Any]) -> bool:
    """Whether all training data of a recipe are the embedded corpus of emoji."""
    found = recipe.get("data")
    data: dict[str, Any] = found if isinstance(found, dict) else {}
    sources = [
        source.get("train") for source in data.get("sources") or [] if isinstance(source, dict)
    ]
    sources += [data["train"]] if data.get("train") else []
    cache = DEFAULT_CACHE.expanduser().resolve()
    return bool(sources) and all(
        isinstance(source, str)
        and (source.startswith(EMOJI) or Path(source).expanduser().resolve().is_relative_to(cache))
        for source in sources
    )
