"""From the user's data to two splits of images and captions: every row that is left out is counted and listed."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from training.data import load_source
from training.data.images import embedded_cell, read_image
from training.data.reader import CellRules, Reading, open_source, require_columns, rules_for
from training.finetuning.columns import Columns, find_columns
from training.finetuning.finetune_options import FinetuneOptions
from training.utils.files import atomic_write, write_text
from training.utils.keys import fingerprint, keyed_uniform
from training.utils.reading import read_mapping

DATA_FOLDER = "data"
TRAIN_FILE = "train.parquet"
VALIDATION_FILE = "validation.parquet"
SUMMARY_FILE = "summary.json"
SKIPPED_FILE = "skipped.csv"
IMAGES_AT_ONCE = 256
# images
MIN_TRAINING = 12
MIN_VALIDATION = 4
MAX_VALIDATION = 1000
DEFAULT_SHARE = 0.15
# cosine of two images by the starting model above which they count as near-duplicates. With dcclip-tiny-photo, at
# least 95 % of brightened, mirrored, framed, compressed, rotated or slightly cropped copies are above it, 90 % of
# watermarked ones, 75 % of those cropped by a tenth, half of the gray ones, and hardly any unrelated photographs
MAX_COSINE = 0.9
# undecoded images to embeddings by the starting model, (N, D) float32, L2-normalized
Embed = Callable[[Sequence[Any]], np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """Images and captions in a folder, divided into a training and a validation split.

    Args:
        folder: Folder of the parquet files. Their columns are `image` and one list of captions for each language.
        languages: Languages of the captions (ISO 639-1 codes).
        num_training: Number of images in the training split.
        num_validation: Number of images in the validation split.
        are_labels: Whether the captions are class names.
        found: What was found in the data, in words.
        notes: Sentences about what was merged or left out.
    """

    folder: Path
    languages: list[str]
    num_training: int
    num_validation: int
    are_labels: bool
    found: str
    notes: list[str]

    @property
    def training(self) -> Path:
        """Parquet file of the training split."""
        return self.folder / TRAIN_FILE

    @property
    def validation(self) -> Path:
        """Parquet file of the validation split."""
        return self.folder / VALIDATION_FILE

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """Load what `prepare` has written to a folder.

        Raises:
            ValueError: The summary is missing or damaged.
        """
        types = get_type_hints(cls)
        del types["folder"]
        summary = read_mapping(folder / SUMMARY_FILE, "resume", **types)
        return cls(folder, **{name: summary[name] for name in types})

    def __str__(self) -> str:
        images = (
            f"{self.num_training:,} images for training, {self.num_validation:,} for validation"
        )
        return "\n".join([self.found, images, *self.notes])


@dataclass
class _Pairs:
    """Usable images with their captions, and the rows that were left out."""

    rows: list[int] = field(default_factory=list)  # row numbers in the user's data
    captions: list[dict[str, list[str]]] = field(default_factory=list)  # by language
    skipped: list[tuple[int, str, str]] = field(default_factory=list)  # row, path, cause
    num_merged: int = 0  # rows whose image is a copy of an earlier one
    numbers: dict[bytes, int] = field(
        default_factory=dict
    )  # place in `rows` by digest of the image

    def add(self, row: int, digest: bytes, captions: dict[str, list[str]]):
        """Add an image with its captions. A copy of an earlier image adds its captions to that one's."""
        if digest not in self.numbers:
            self.numbers[digest] = len(self.rows)
            self.rows.append(row)
            self.captions.append(captions)
            return
        self.num_merged += 1
        merged = self.captions[self.numbers[digest]]
        for language, texts in captions.items():
            known = merged.setdefault(language, [])
            known += [text for text in texts if text not in known]


def prepare(options: FinetuneOptions, folder: Path, embed: Embed) -> Prepared:
    """Read the user's data, leave out what cannot be used, and write the two splits.

    Args:
        options: Location of the data, their columns, and the share of the validation split. `output_dir` gets the list
            of the rows that are left out.
        folder: Folder for the parquet files; created if it is missing.
        embed: Embeds images by the starting model, to find near-duplicates.

    Raises:
        ValueError: The data cannot be opened, have no captions in a known script, one class only, or too few
            different images.
    """
    reading = Reading.of(
        options.split,
        subset=options.subset,
        image_column=options.image_column,
        encoding=options.encoding,
    )
    opened = open_source(options.data, reading)
    columns = find_columns(opened.rows, options.image_column, options.caption_columns)
    rows = opened.rows.select_columns([*{columns.image, *columns.captions.values()}])
    rows = require_columns(rows, [columns.image], [], options.data)
    rows = rows.cast_column(columns.image, Image(decode=False))
    pairs = _read_pairs(rows, columns, rules_for(options.data, options.allow_paths))
    languages, lone = _choose_languages(columns, pairs)
    notes = _report(pairs, Path(options.output_dir) / SKIPPED_FILE)
    images = rows.select_columns([columns.image]).rename_columns({columns.image: "image"})
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if lone and not languages:
            raise ValueError(
                f"data: there is nothing to tell apart. {' '.join(lone)} Add images of other classes, or name other "
                "columns with --caption_columns."
            )
        num_validation = validation_size(len(pairs.rows), options.validation_share)
        everything = folder / "all.parquet"
        _write_rows(everything, images, pairs, range(len(pairs.rows)), [])
        cells = load_source(str(everything)).cast_column("image", Image(decode=False))
        embeddings = embed(cells["image"])
        everything.unlink()
        training, validation = split_images(embeddings, num_validation, options.seed)
    except ValueError as error:
        raise ValueError(" ".join([str(error), *notes])) from error
    _write_rows(folder / TRAIN_FILE, images, pairs, training.tolist(), languages)
    _write_rows(folder / VALIDATION_FILE, images, pairs, validation.tolist(), languages)
    prepared = Prepared(
        folder=folder,
        languages=languages,
        num_training=len(training),
        num_validation=len(validation),
        are_labels=columns.are_labels,
        found=f"{len(rows):,} rows of {opened.form}, {columns.describe()}",
        notes=lone + notes,
    )
    summary = asdict(prepared)
    del summary["folder"]
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    write_text(folder / SUMMARY_FILE, f"{text}\n")
    return prepared


def same_splits(first: Path, second: Path) -> bool:
    """Whether two folders that `prepare` has written have the same images and captions in both splits."""
    return all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in (TRAIN_FILE, VALIDATION_FILE)
    )


def _choose_languages(columns: Columns, pairs: _Pairs) -> tuple[list[str], list[str]]:
    """Languages with several captions, and sentences about the others.

    Images without a caption in the chosen languages are left out, unless there are none.
    """
    languages = []
    lone = []
    for language in columns.captions:
        texts = {text for each in pairs.captions for text in each.get(language, [])}
        if len(texts) > 1:
            languages.append(language)
        elif texts:
            lone.append(f"The only {language} text, {texts.pop()!r}, is left out.")
    if languages and lone:
        for number in reversed(range(len(pairs.rows))):
            if not any(pairs.captions[number].get(language) for language in languages):
                pairs.skipped.append((pairs.rows.pop(number), "", "no caption"))
                del pairs.captions[number]
    return languages, lone


def _read_pairs(rows: Dataset, columns: Columns, rules: CellRules) -> _Pairs:
    """Decode the image of each row with threads, and read its captions."""
    pairs = _Pairs()
    texts = columns.captions_of(rows)

    def examine(value: Any) -> tuple[str, bytes, str | None]:
        """Path and digest of an image, and why it cannot be used."""
        cell = embedded_cell(rules(value))
        image = read_image(cell)
        cause = image if isinstance(image, str) else None
        content = b"" if isinstance(cell, str) else cell["bytes"]
        path = (value or {}).get("path") or ""
        return path, fingerprint(content, size=16), cause

    with ThreadPoolExecutor() as pool:
        for start in tqdm(range(0, len(rows), IMAGES_AT_ONCE), desc="images", leave=False):
            cells = rows[start : start + IMAGES_AT_ONCE][columns.image]
            for row, (path, digest, cause) in enumerate(pool.map(examine, cells), start):
                captions = {language: cells[row] for language, cells in texts.items() if cells[row]}
                if cause is not None or not captions:
                    pairs.skipped.append((row, path, cause or "no caption"))
                else:
                    pairs.add(row, digest, captions)
    return pairs


def validation_size(num_images: int, share: float | None = None) -> int:
    """Number of images for the validation split.

    Args:
        num_images: Number of usable images.
        share: Share of the images, above 0 and below 1. Default: `DEFAULT_SHARE`, at least `MIN_VALIDATION` and at
            most `MAX_VALIDATION` images.

    Raises:
        ValueError: A split would be too small.
    """
    size = round((share or DEFAULT_SHARE) * num_images)
    if share is None:
        size = min(max(MIN_VALIDATION, size), MAX_VALIDATION)
    if not MIN_VALIDATION <= size <= num_images - MIN_TRAINING:
        raise ValueError(
            f"data: {num_images} usable images leave {num_images - size} for training, {size} for validation; "
            f"at least {MIN_TRAINING} and {MIN_VALIDATION} are needed. Add images, or change --validation_share."
        )
    return size


def split_images(
    embeddings: np.ndarray, num_validation: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into a training and a validation split.

    Args:
        embeddings: Embeddings of the images by the starting model, (N, D) float32, L2-normalized. Images whose cosine
            is above `MAX_COSINE` are kept together, unless that leaves too few images for validation.
        num_validation: Largest number of images in the validation split.
        seed: Seed of the choice.

    Returns:
        Indices of the training and of the validation images, both in ascending order.
    """
    for members in (group_images(embeddings), np.arange(len(embeddings))):
        sizes = np.bincount(members)
        is_chosen = np.zeros(len(sizes), bool)
        num_chosen = 0
        order = keyed_uniform(seed, np.arange(len(sizes)), num=1)[:, 0].argsort(kind="stable")
        for group in order.tolist():
            if num_chosen + sizes[group] <= num_validation:
                is_chosen[group] = True
                num_chosen += sizes[group]
        if num_chosen >= MIN_VALIDATION:
            break
    return np.flatnonzero(~is_chosen[members]), np.flatnonzero(is_chosen[members])


def group_images(embeddings: np.ndarray) -> np.ndarray:
    """Number of the group of near-duplicates of each image, (N,)."""
    count = len(embeddings)
    members = np.arange(count)
    for start in range(0, count, IMAGES_AT_ONCE):
        cosines = embeddings[start : start + IMAGES_AT_ONCE] @ embeddings.T
        one, other = np.nonzero(cosines > MAX_COSINE)
        # edges: each image to the first of its group so far, and the new pairs
        _, first_of_group = np.unique(members, return_index=True)
        tails = np.append(np.arange(count), start + one)
        heads = np.append(first_of_group[members], other)
        graph = csr_array((np.ones(len(tails), bool), (tails, heads)), (count, count))
        _, members = connected_components(graph, directed=False)
    return members


def _report(pairs: _Pairs, listing: Path) -> list[str]:
    """List the rows that were left out in a file; sentences about them, and about the rows that were merged."""
    listing.unlink(missing_ok=True)
    causes = Counter(cause for _, _, cause in pairs.skipped)
    notes = [f"{count} rows left out, {cause}." for cause, count in causes.most_common()]
    if notes:
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerows([("row", "image", "cause"), *pairs.skipped])
        write_text(listing, content.getvalue())
        notes.append(f"All of them are listed in {listing}.")
    if pairs.num_merged:
        notes.append(
            f"{pairs.num_merged} rows with a copy of an earlier image were merged with it."
        )
    return notes


def _write_rows(
    path: Path, images: Dataset, pairs: _Pairs, numbers: Sequence[int], languages: list[str]
):
    """Write images by their numbers in `pairs`: files as absolute paths, others as copies."""
    features = Features({"image": Image()})
    for language in languages:
        features[language] = List(Value("string"))
    schema = features.arrow_schema
    with atomic_write(path) as scratch, pq.ParquetWriter(scratch, schema) as writer:
        for start in range(0, len(numbers), IMAGES_AT_ONCE):
            part = numbers[start : start + IMAGES_AT_ONCE]
            rows = [pairs.rows[number] for number in part]
            captions = [pairs.captions[number] for number in part]
            columns = {"image": images[rows]["image"]}
            for language in languages:
                columns[language] = [texts.get(language, []) for texts in captions]
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))
