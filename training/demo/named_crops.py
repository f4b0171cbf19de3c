"""Write parts of photographs that a classifier is sure of, and the names of its classes, to train the photo student.

    python -m training.demo.packaged_weights --network lite2 --classifier --output_dir runs/lite2_classifier
    python -m training.demo.named_crops --classifier runs/lite2_classifier --images photographs.parquet \
        --output_dir runs/photographs/crops

The photographs need no captions. The classifier sees each photograph as a whole and random parts of it. The surest
part of each class is kept, if it is sure enough.

    crops.parquet         the parts, and the names of their classes in prompts, in English and Chinese
    validation.parquet    the photographs that `held_out` leaves out, for `training.studies.photographs.classes`
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from training.utils.cli import command_name, parse_options, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from datasets import Dataset

    from training.teachers.classifier import Classifier

PROGRAM = "python -m training.demo.named_crops"
WRITTEN = ("crops.parquet", "validation.parquet")
NUM_PROMPTS = 3  # those of sharp photographs
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
        num_crops: Number of random parts of each photograph, beside the whole.
        min_probability: Probability from which a part is kept.
        max_per_class: Largest number of parts of a class; of more, a random draw.
        held_out: Share of the photographs that is left out, evenly spaced.
        seed: Seed of the parts and of the draw.
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
    """A part of a photograph.

    Args:
        row: Row of the photograph.
        box: Where the part is, in pixels.
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
        Number of parts, and number of classes that they show.

    Raises:
        ValueError: A source or the classifier cannot be opened, a photograph is damaged, the classifier has other
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
        if network.num_classes != len(names["en"]):
            raise ValueError(
                f"classifier: {options.classifier!r} has {network.num_classes} classes, expected {len(names['en'])}."
            )
        left_out = evenly_spaced_rows(len(photographs), round(options.held_out * len(photographs)))
        kept = sorted(set(range(len(photographs))) - set(left_out))
        crops = draw_per_class(find_crops(photographs.select(kept), network, options), options)
        if not crops:
            raise ValueError(
                f"min_probability: the classifier is as sure as {options.min_probability} of no part of {len(kept)} "
                "photographs. Lower it, or name other photographs."
            )
        text = List(Value("string"))
        features = Features({"image": ImageFeature(), "en": text, "zh": text})
        rows = _rows(photographs.select(kept), crops, names)
        tables = {WRITTEN[0]: Dataset.from_list(list(rows), features=features)}
        if left_out:
            tables[WRITTEN[1]] = photographs.select(left_out).cast_column("image", ImageFeature())
        else:
            (folder / WRITTEN[1]).unlink(missing_ok=True)  # of a run before, whose photographs now have parts
        for file, table in tables.items():
            with atomic_write(folder / file) as scratch:
                table.to_parquet(scratch)
    return len(crops), len({crop.label for crop in crops})


def find_crops(photographs: "Dataset", network: "Classifier", options: CropOptions) -> list[Crop]:
    """Find the parts of photographs that a classifier is sure of: the surest of each class in each photograph.

    Args:
        photographs: Undecoded photographs in the column `image`.
        network: The classifier.
        options: Number of parts, least probability and seed.

    Raises:
        ValueError: A photograph is damaged; the message names its row.
    """
    import torch
    from tqdm.auto import tqdm

    edge = network.normalize.image_size
    found: list[Crop] = []
    with tqdm(total=len(photographs), desc="classify", unit="photograph", leave=False) as progress:
        for start in range(0, len(photographs), PHOTOGRAPHS_PER_BATCH):
            rows = range(start, min(start + PHOTOGRAPHS_PER_BATCH, len(photographs)))
            views, places = [], []
            for row in rows:
                photograph = _open(photographs, row)
                for box in boxes(photograph.size, options.num_crops, row, options.seed):
                    view = photograph.resize((edge, edge), Image.Resampling.BICUBIC, box=box)
                    views.append(torch.from_numpy(np.array(view)))
                    places.append((row, box))
            probability, labels = network.probabilities(torch.stack(views).permute(0, 3, 1, 2)).max(-1)
            surest: dict[tuple[int, int], Crop] = {}
            for (row, box), label, value in zip(places, labels.tolist(), probability.tolist(), strict=True):
                best = surest.get((row, label))
                if value >= options.min_probability and (best is None or value > best.probability):
                    surest[row, label] = Crop(row, box, label, value)
            found += surest.values()
            progress.update(len(rows))
    return found


def boxes(size: tuple[int, int], num_crops: int, row: int, seed: int) -> list[Box]:
    """Return the whole of a photograph and random parts of it.

    Args:
        size: Width and height of the photograph in pixels.
        num_crops: Number of random parts.
        row: Row of the photograph, which with the seed determines the parts.
        seed: Seed of all random parts.
    """
    from training.utils.rng import keyed_uniform

    width, height = size
    parts: list[Box] = [(0, 0, width, height)]
    for area, aspect, left, top in keyed_uniform(seed, row, np.arange(num_crops), num=4).tolist():
        pixels = (AREAS[0] + area * (AREAS[1] - AREAS[0])) * width * height
        ratio = ASPECTS[0] * (ASPECTS[1] / ASPECTS[0]) ** aspect
        wide = min(width, max(1, round(math.sqrt(pixels * ratio))))
        high = min(height, max(1, round(math.sqrt(pixels / ratio))))
        x, y = round(left * (width - wide)), round(top * (height - high))
        parts.append((x, y, x + wide, y + high))
    return parts


def draw_per_class(crops: Sequence[Crop], options: CropOptions) -> list[Crop]:
    """Draw at most `max_per_class` parts of each class.

    Args:
        crops: Parts of all classes.
        options: The largest number, and the seed of the draw.

    Returns:
        The drawn parts, ordered by row and class.
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
    from training.demo.photo_data import captions

    named = [{language: listed[crop.label] for language, listed in names.items()} for crop in crops]
    texts = captions(named, NUM_PROMPTS)
    for index, crop in enumerate(crops):
        buffer = io.BytesIO()
        _open(photographs, crop.row).crop(crop.box).save(buffer, "JPEG", quality=JPEG_QUALITY)
        cells = {language: column[index] for language, column in texts.items()}
        yield {"image": {"bytes": buffer.getvalue(), "path": None}, **cells}


def _open(photographs: "Dataset", row: int) -> Image.Image:
    from modeling_dcclip.image_dcclip import ImageError
    from training.data import open_image

    try:
        return open_image(photographs[row]["image"])
    except (OSError, ImageError) as error:
        raise ValueError(f"images: row {row} of the photographs used cannot be read ({error}). Remove it.") from error


def main(argv: list[str] | None = None):
    """Parse the options, write the files, print the counts."""
    options = parse_options(CropOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        keep_freed_memory()
        parts, classes = run(options)
        print(f"{parts:,} parts of photographs, {classes:,} classes")


if __name__ == "__main__":
    main()
