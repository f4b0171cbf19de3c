r"""Caption crops of photographs with the class names of a classifier, to train the photo student.

    python -m training.demo.packaged_weights --network lite2 --classifier --output_dir runs/lite2_classifier
    python -m training.demo.named_crops --classifier runs/lite2_classifier --images photographs.parquet \
        --output_dir runs/photographs/crops

The photographs need no captions. The classifier sees each whole photograph and random crops of it. Of each class in a
photograph, the crop with the highest probability is kept, if this probability is high enough.

    crops.parquet         crops, with their class names in prompts, in English and Chinese
    validation.parquet    the photographs that `held_out` leaves out, for `training.studies.photographs.classes`
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from training.demo.photo_data import SHARP_PROMPTS, captions
from training.utils.cli import command_name, parse_options, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from datasets import Dataset

    from training.teachers.classifier import Classifier

PROGRAM = "python -m training.demo.named_crops"
WRITTEN = ("crops.parquet", "validation.parquet")
AREAS = (0.1, 0.6)  # of the photograph
ASPECTS = (3 / 4, 4 / 3)
PHOTOGRAPHS_PER_BATCH = 8
JPEG_QUALITY = 92

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """Options of the command.

    Args:
        images: Photographs in the column `image`: Hub id, folder or parquet files.
        classifier: Folder or Hub id of a classifier of ImageNet's classes, of transformers or timm.
        output_dir: Folder for the written files.
        num_crops: Number of random crops of each photograph, in addition to the whole photograph.
        min_probability: Least probability of the class of a crop that is kept.
        max_per_class: Maximum number of crops of a class. Of more crops, a random sample is kept.
        held_out: Share of the photographs that is left out, evenly spaced, 0..1.
        seed: Seed of the crops and of the sample.
        overwrite: Whether to replace existing files in `output_dir`.
    """

    images: str
    classifier: str
    output_dir: str
    num_crops: int = 8
    min_probability: float = 0.6
    max_per_class: int = 60
    held_out: float = 0.0
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        for field, least in (("num_crops", 0), ("max_per_class", 1), ("seed", 0)):
            if (value := getattr(self, field)) < least:
                raise ValueError(f"{field}: is {value}, expected at least {least}.")
        if not 0 < self.min_probability <= 1:
            raise ValueError(f"min_probability: is {self.min_probability}, expected above 0 and at most 1.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out: is {self.held_out}, expected at least 0 and below 1.")


@dataclass(frozen=True)
class Crop:
    """A crop of a photograph.

    Args:
        row: Row of the photograph.
        box: Edges of the crop in pixels.
        label: Class that the classifier gives it.
        probability: Probability of this class.
    """

    row: int
    box: Box
    label: int
    probability: float


def run(options: CropOptions) -> tuple[int, int]:
    """Write the files.

    Args:
        options: What to read and write.

    Returns:
        Number of crops, and number of their classes.

    Raises:
        ValueError: A source or the classifier cannot be opened, a photograph does not decode, the classifier has other
            classes or is sure of nothing, or a file would be replaced.
    """
    import torch
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    from training.data import evenly_spaced_rows
    from training.demo.photo_teacher.photographs import object_names
    from training.teachers.classifier import Classifier
    from training.utils.files import atomic_write
    from training.utils.output import claim_folder

    folder = Path(options.output_dir)
    inputs = {"images": options.images, "classifier": options.classifier}
    with claim_folder(folder, WRITTEN, command=command_name(PROGRAM), inputs=inputs, overwrite=options.overwrite):
        names = object_names()
        photographs = _load(options.images)
        network = Classifier.from_pretrained(options.classifier, torch.float32, torch.device("cpu"))
        network.require_classes(len(names["en"]), options.classifier)
        left_out = evenly_spaced_rows(len(photographs), round(options.held_out * len(photographs)))
        kept = sorted(set(range(len(photographs))) - set(left_out))
        crops = draw_per_class(find_crops(photographs, kept, network, options), options)
        if not crops:
            raise ValueError(
                f"min_probability: the classifier is as sure as {options.min_probability} of no crop of {len(kept)} "
                "photographs. Lower it, or name other photographs."
            )
        text = List(Value("string"))
        features = Features({"image": ImageFeature(), "en": text, "zh": text})
        tables = {WRITTEN[0]: Dataset.from_list(list(_rows(photographs, crops, names)), features=features)}
        if left_out:
            tables[WRITTEN[1]] = photographs.select(left_out).cast_column("image", ImageFeature())
        else:
            (folder / WRITTEN[1]).unlink(missing_ok=True)  # of an earlier run, whose photographs now have crops
        for file, table in tables.items():
            with atomic_write(folder / file) as scratch:
                table.to_parquet(scratch)
    return len(crops), len({crop.label for crop in crops})


def find_crops(photographs: "Dataset", rows: Sequence[int], network: "Classifier", options: CropOptions) -> list[Crop]:
    """Find the crop with the highest probability of each class in each photograph.

    Args:
        photographs: Undecoded photographs in the column `image`.
        rows: Rows to use.
        network: The classifier.
        options: Number of crops, least probability and seed.

    Raises:
        ValueError: A photograph does not decode; the message names its row.
    """
    import torch
    from tqdm.auto import tqdm

    edge = network.normalize.image_size
    found: list[Crop] = []
    with tqdm(total=len(rows), desc="classify", unit="photograph", leave=False) as progress:
        for start in range(0, len(rows), PHOTOGRAPHS_PER_BATCH):
            batch = rows[start : start + PHOTOGRAPHS_PER_BATCH]
            images, places = [], []
            for number, row in enumerate(batch, start):
                photograph = _open(photographs, row)
                for box in boxes(photograph.size, options.num_crops, number, options.seed):
                    image = photograph.resize((edge, edge), Image.Resampling.BICUBIC, box=box)
                    images.append(torch.from_numpy(np.array(image)))
                    places.append((row, box))
            probability, labels = network.probabilities(torch.stack(images).permute(0, 3, 1, 2)).max(-1)
            values = zip(places, labels.tolist(), probability.tolist(), strict=True)
            found += [Crop(*place, *value) for place, *value in values if value[1] >= options.min_probability]
            progress.update(len(batch))
    return surest(found)


def surest(crops: Iterable[Crop]) -> list[Crop]:
    """Keep the crop with the highest probability of each class in each photograph, the first one of equal ones."""
    best: dict[tuple[int, int], Crop] = {}
    for crop in crops:
        known = best.setdefault((crop.row, crop.label), crop)
        if crop.probability > known.probability:
            best[crop.row, crop.label] = crop
    return list(best.values())


def boxes(size: tuple[int, int], num_crops: int, number: int, seed: int) -> list[Box]:
    """Return the box of the whole photograph, and those of random crops.

    Args:
        size: Width and height of the photograph in pixels.
        num_crops: Number of random crops.
        number: Number of the photograph among those used. Number and seed determine the crops.
        seed: Seed of the crops of all photographs.
    """
    from training.utils.rng import keyed_uniform

    width, height = size
    found: list[Box] = [(0, 0, width, height)]
    for area, aspect, left, top in keyed_uniform(seed, number, np.arange(num_crops), num=4).tolist():
        pixels = (AREAS[0] + area * (AREAS[1] - AREAS[0])) * width * height
        ratio = ASPECTS[0] * (ASPECTS[1] / ASPECTS[0]) ** aspect
        wide = min(width, max(1, round(math.sqrt(pixels * ratio))))
        high = min(height, max(1, round(math.sqrt(pixels / ratio))))
        x, y = round(left * (width - wide)), round(top * (height - high))
        found.append((x, y, x + wide, y + high))
    return found


def draw_per_class(crops: Sequence[Crop], options: CropOptions) -> list[Crop]:
    """Draw at most `max_per_class` crops of each class.

    Args:
        crops: Crops of all classes.
        options: Maximum number, and seed of the draw.

    Returns:
        The drawn crops, ordered by row and class.
    """
    by_class: dict[int, list[Crop]] = defaultdict(list)
    for crop in crops:
        by_class[crop.label].append(crop)
    rng = np.random.default_rng(options.seed)
    drawn = [
        by_class[label][index]
        for label in sorted(by_class)
        for index in rng.permutation(len(by_class[label]))[: options.max_per_class]
    ]
    return sorted(drawn, key=lambda crop: (crop.row, crop.label))


def _load(source: str) -> "Dataset":
    from training.data import load_source, require_allowed, require_columns, rules_for

    rows = require_columns(load_source(source, field="images"), ["image"], source, "Rename it.", "images")
    return require_allowed(rows.select_columns(["image"]), "image", rules_for(source), source, "images")


def _rows(photographs: "Dataset", crops: Sequence[Crop], names: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    named = [{language: listed[crop.label] for language, listed in names.items()} for crop in crops]
    texts = captions(named, SHARP_PROMPTS)
    for index, crop in enumerate(crops):
        buffer = io.BytesIO()
        _open(photographs, crop.row).crop(crop.box).save(buffer, "JPEG", quality=JPEG_QUALITY)
        cells = {language: column[index] for language, column in texts.items()}
        yield {"image": {"bytes": buffer.getvalue(), "path": None}, **cells}


def _open(photographs: "Dataset", row: int) -> Image.Image:
    from training.evaluation.models.image_loading import open_row

    return open_row(photographs[row]["image"], row, "images")


def main(argv: list[str] | None = None):
    """Parse the options, write the files, print the counts."""
    options = parse_options(CropOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        keep_freed_memory()
        crops, classes = run(options)
        print(f"{crops:,} crops, {classes:,} classes")


if __name__ == "__main__":
    main()
