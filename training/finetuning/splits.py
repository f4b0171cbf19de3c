"""From the user's data to two splits of images and captions: every row that is left out is counted and listed."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from training.data import load_source
from training.data.batch import CaptionTokenizer
from training.data.images import (
    FILE_MISSING,
    CellRules,
    embedded_cell,
    image_cell,
    read_image,
    rules_for,
    undecoded,
)
from training.data.reader import Reading, open_source
from training.finetuning.columns import Columns, find_columns
from training.finetuning.duplicates import IMAGES_AT_ONCE, group_images, perceptual_hash, thumbnail
from training.finetuning.finetune_options import FinetuneOptions
from training.text.writing_systems import LANGUAGES
from training.utils.files import atomic_write, write_text
from training.utils.reading import read_mapping
from training.utils.rng import keyed_uniform

DATA_FOLDER, GENERAL_FOLDER = "data", "general"
TRAIN_FILE, VALIDATION_FILE, SUMMARY_FILE, SKIPPED_FILE = (
    "train.parquet", "validation.parquet", "summary.json", "skipped.csv"
)  # fmt: skip
MAX_NAMED = 3  # rows that the summary names for each cause
MIN_TRAINING, MIN_VALIDATION, MAX_VALIDATION = 12, 4, 1000  # images
DEFAULT_SHARE = 0.15
Embed = Callable[
    [Dataset], np.ndarray
]  # rows with a column `image` to embeddings, (N, D) float32, L2-normalized


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
        notes: Sentences about what was repaired, merged or left out.
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
        kinds = {"num_training": int, "num_validation": int, "are_labels": bool, "found": str}
        summary = read_mapping(folder / SUMMARY_FILE, "resume", languages=list, notes=list, **kinds)
        return cls(
            folder,
            **{each.name: summary[each.name] for each in fields(cls) if each.name != "folder"},
        )

    def save(self):
        """Write the summary to the folder."""
        summary = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_text(
            self.folder / SUMMARY_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        )

    def __str__(self) -> str:
        images = (
            f"{self.num_training:,} images for training, {self.num_validation:,} for validation"
        )
        return "\n".join([self.found, images, *self.notes])


@dataclass
class _Pairs:
    """Usable images with their captions, hashes and color thumbnails, and the rows that were left out."""

    rows: list[int] = field(default_factory=list)  # of the user's data
    captions: list[dict[str, list[str]]] = field(default_factory=list)  # by language
    hashes: list[int] = field(default_factory=list)
    colors: list[np.ndarray] = field(default_factory=list)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)  # row, path, cause
    num_merged: int = 0  # rows whose image is a copy of an earlier one


def prepare_general(
    options: FinetuneOptions, folder: Path, embed: Embed | None = None
) -> Prepared | None:
    """Read the images of `general_data` and write their two splits into a folder in `folder`; None without them.

    Without captions, all are for training. Other options of `data` do not apply.

    Raises:
        ValueError: As `prepare`, except that captions may be missing.
    """
    if options.general_data is None:
        return None
    own: dict[str, Any] = {
        "image_column": "image",
        "caption_columns": None,
        "subset": None,
        "validation_share": None,
    }
    general = replace(options, data=options.general_data, split="train", **own)
    try:
        return prepare(general, folder / GENERAL_FOLDER, needs_captions=False, embed=embed)
    except ValueError as error:
        raise ValueError(f"general_data: {str(error).removeprefix('data: ')}") from error


def prepare(
    options: FinetuneOptions,
    folder: Path,
    needs_captions: bool = True,
    tokens: CaptionTokenizer | None = None,
    embed: Embed | None = None,
) -> Prepared:
    """Read the user's data, leave out what cannot be used, and write the two splits.

    Args:
        options: Location of the data, their columns, and the share of the validation split.
        folder: Folder for the parquet files; created if it is missing.
        needs_captions: Whether images without captions are left out. Otherwise they are for training, and without any
            caption in the data all images are.
        tokens: Tokenization of the model, which counts the captions that it truncates; None counts none.
        embed: Embeds images by the starting model, to find near-duplicates; None compares hashes alone.

    Raises:
        ValueError: The data cannot be opened, have no captions in a known script, one class only, or too few
            different images. `output_dir` then lists the rows that were left out.
    """
    reading = Reading.of(
        options.split,
        subset=options.subset,
        image_column=options.image_column,
        encoding=options.encoding,
    )
    opened = open_source(options.data, reading)
    rows = opened.rows
    columns = find_columns(rows, options.image_column, options.caption_columns, needs_captions)
    rows = rows.select_columns([*{columns.image, *columns.captions.values()}])
    rows = undecoded(rows, columns.image, options.data)
    rules = rules_for(options.data, options.allow_paths)
    pairs = _read_pairs(rows, columns, rules, needs_captions)
    images = rows.select_columns([columns.image]).rename_columns({columns.image: "image"})
    folder.mkdir(parents=True, exist_ok=True)
    try:
        languages = _languages(options, columns, pairs, needs_captions)
        training, validation = np.arange(len(pairs.rows)), np.arange(0)
        if languages:
            embeddings = None
            if embed is not None:
                _write_rows(
                    everything := folder / "all.parquet", images, pairs, training.tolist(), []
                )
                embeddings = embed(load_source(str(everything)))
                everything.unlink()
            training, validation = _split(options, pairs, embeddings)
    except ValueError as error:
        listing = Path(options.output_dir) / SKIPPED_FILE
        if pairs.skipped:
            _write_skipped(listing, pairs.skipped)
        raise ValueError(" ".join([str(error), *_describe(pairs, str(listing))])) from error
    _write_skipped(folder / SKIPPED_FILE, pairs.skipped)
    for name, chosen in ((TRAIN_FILE, training), (VALIDATION_FILE, validation)):
        _write_rows(folder / name, images, pairs, chosen.tolist(), languages)
    notes = _describe(pairs, SKIPPED_FILE)
    texts = {text for captions in pairs.captions for found in captions.values() for text in found}
    if tokens is not None and (count := tokens.count_truncated(sorted(texts))):
        limit = tokens.max_text_length
        notes.append(
            f"{count:,} of {len(texts):,} captions are longer than {limit} tokens, and cut there."
        )
    found = f"{len(rows):,} rows of {opened.form}, {columns.describe()}"
    prepared = Prepared(
        folder, languages, len(training), len(validation), columns.are_labels, found, notes
    )
    prepared.save()
    return prepared


def same_splits(first: Path, second: Path) -> bool:
    """Whether two folders that `prepare` has written have the same images and captions in both splits."""
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}
        for folder in (first, second)
    ]
    return files[0] == files[1]


def _languages(
    options: FinetuneOptions, columns: Columns, pairs: _Pairs, needs_captions: bool
) -> list[str]:
    """Languages of the captions; refuses data in which nothing can be told apart."""
    if not pairs.rows:
        is_missing = any(cause == FILE_MISSING for _, _, cause in pairs.skipped)
        advice = (
            " Write the paths relative to the folder of the file that names them."
            if is_missing
            else ""
        )
        raise ValueError(f"data: no row of {options.data!r} can be used.{advice}")
    texts = {
        language: {text for each in pairs.captions for text in each.get(language, [])}
        for language in LANGUAGES
    }
    for language, found in texts.items():
        if needs_captions and len(found) == 1:
            kind = "one class only" if columns.are_labels else "the same caption for every image"
            others = max(map(len, texts.values())) > 1
            advice = ", or name the other columns alone with --caption_columns" if others else ""
            raise ValueError(
                f"data: there is {kind}, {next(iter(found))!r} ({language}), so there is nothing to tell apart. Add "
                f"images of other classes, or captions that differ{advice}."
            )
    return [language for language in columns.captions if len(texts[language]) > 1]


def _read_pairs(rows: Dataset, columns: Columns, rules: CellRules, needs_captions: bool) -> _Pairs:
    """Look up, decode and hash the image of each row, and read its captions."""
    pairs = _Pairs()
    by_digest: dict[bytes, int] = {}
    texts = columns.captions_of(rows)
    examined = _examined(rows, columns.image, rules)
    progress = tqdm(examined, total=len(rows), desc="images", unit="image", leave=False)
    for number, image in enumerate(progress):
        captions = {language: found[number] for language, found in texts.items() if found[number]}
        cause = image.cause
        if cause is None and not captions and needs_captions:
            cause = "no caption"
        if cause is not None:
            pairs.skipped.append((number, image.name, cause))
            continue
        if (earlier := by_digest.get(image.digest)) is not None:
            pairs.num_merged += 1
            for language, found in captions.items():
                known = pairs.captions[earlier].setdefault(language, [])
                known += [text for text in found if text not in known]
            continue
        by_digest[image.digest] = len(pairs.rows)
        pairs.rows.append(number)
        pairs.captions.append(captions)
        pairs.hashes.append(image.hash)
        pairs.colors.append(image.colors)
    return pairs


@dataclass(frozen=True)
class _Examined:
    """An image of the user's: its path, the digest of its file, and its hash and thumbnail, or why it has none."""

    name: str
    digest: bytes
    cause: str | None = None
    hash: int = 0
    colors: np.ndarray | None = None


def _examined(rows: Dataset, column: str, rules: CellRules) -> Iterator[_Examined]:
    """Decode the image of each row with threads."""

    def examine(value: Any) -> _Examined:
        name = (image_cell(value) or {}).get("path") or ""
        cell = embedded_cell(rules(value))
        content = b"" if isinstance(cell, str) else cell["bytes"]
        digest, image = hashlib.blake2b(content).digest(), read_image(cell)
        if isinstance(image, str):
            return _Examined(name, digest, cause=image)
        return _Examined(name, digest, hash=perceptual_hash(image), colors=thumbnail(image))

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            yield from pool.map(examine, rows[start : start + IMAGES_AT_ONCE][column])


def _split(
    options: FinetuneOptions, pairs: _Pairs, embeddings: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation images; one without a caption is for training."""
    hashes, colors = np.array(pairs.hashes, np.uint64), np.stack(pairs.colors)
    training, validation = split_images(
        hashes, colors, options.validation_share, options.seed, embeddings
    )
    has_captions = np.array(list(map(bool, pairs.captions)))
    bare = validation[~has_captions[validation]]
    return np.sort(np.concatenate([training, bare])), validation[has_captions[validation]]


def split_images(
    hashes: np.ndarray,
    colors: np.ndarray,
    share: float | None = None,
    seed: int = 0,
    embeddings: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into a training and a validation split.

    Args:
        hashes: Perceptual hashes, (N,) uint64.
        colors: Color thumbnails, (N, 48) uint8.
        share: Share of the images for the validation split, above 0 and below 1. Default: `DEFAULT_SHARE`, at least
            `MIN_VALIDATION` and at most `MAX_VALIDATION` images.
        seed: Seed of the choice.
        embeddings: Embeddings of the images by the starting model, (N, D) float32, L2-normalized. Images whose cosine
            is above `MAX_COSINE` are kept together too, unless that leaves too few images for validation.

    Returns:
        Indices of the training and of the validation images, both in ascending order. No image of one split is a
        near-duplicate of one of the other.

    Raises:
        ValueError: There are too few images, or a split would be too small.
    """
    num_images = len(hashes)
    if num_images < MIN_TRAINING + MIN_VALIDATION:
        raise ValueError(
            f"data: {num_images} usable images are too few: training and validation take at "
            f"least {MIN_TRAINING + MIN_VALIDATION}. Add images, or use the model without fine-tuning."
        )
    wanted = max(1, round((share or DEFAULT_SHARE) * num_images))
    if share is None:
        wanted = min(max(MIN_VALIDATION, wanted), MAX_VALIDATION)
    for decides in (embeddings, None):
        members = group_images(hashes, colors, decides)
        sizes = np.bincount(members)
        is_chosen, num_chosen = np.zeros(len(sizes), bool), 0
        for group in np.argsort(
            keyed_uniform(seed, np.arange(len(sizes)), num=1)[:, 0], kind="stable"
        ).tolist():
            if num_chosen + sizes[group] <= wanted:
                is_chosen[group] = True
                num_chosen += sizes[group]
        if num_chosen >= MIN_VALIDATION:
            break
    training, validation = np.flatnonzero(~is_chosen[members]), np.flatnonzero(is_chosen[members])
    if min(len(training) - MIN_TRAINING, len(validation) - MIN_VALIDATION) < 0:
        raise ValueError(
            f"validation_share: leaves {len(training)} images for training and {len(validation)} for validation when "
            f"near-duplicates are kept together; at least {MIN_TRAINING} and {MIN_VALIDATION} are needed. Add images "
            f"that differ, or set --validation_share to a value such as {DEFAULT_SHARE}."
        )
    return training, validation


def _describe(pairs: _Pairs, listing: str) -> list[str]:
    """Sentences about the rows that were left out, which a file lists, or merged."""
    causes = Counter(cause for _, _, cause in pairs.skipped)
    notes = []
    for cause, count in causes.most_common():
        names = [name or f"row {row}" for row, name, other in pairs.skipped if other == cause][
            :MAX_NAMED
        ]
        more = ", ..." if count > MAX_NAMED else ""
        notes.append(f"{count} rows left out, {cause}: {', '.join(names)}{more}.")
    if notes:
        notes.append(f"All of them are listed in {listing}.")
    if pairs.num_merged:
        notes.append(
            f"{pairs.num_merged} rows with a copy of an earlier image were merged with it."
        )
    return notes


def _write_skipped(path: Path, skipped: list[tuple[int, str, str]]):
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([("row", "image", "cause"), *skipped])
    write_text(path, content.getvalue())


def _write_rows(
    path: Path, images: Dataset, pairs: _Pairs, numbers: list[int], languages: list[str]
):
    """Write images by their numbers in `pairs`: files as absolute paths, others as copies."""
    features = Features(
        {"image": Image()} | {language: List(Value("string")) for language in languages}
    )
    with atomic_write(path) as scratch, pq.ParquetWriter(scratch, features.arrow_schema) as writer:
        for start in range(0, len(numbers), IMAGES_AT_ONCE):
            part = numbers[start : start + IMAGES_AT_ONCE]
            cells = images[[pairs.rows[number] for number in part]]["image"]
            rows = [
                {"image": cell}
                | {language: pairs.captions[number].get(language, []) for language in languages}
                for number, cell in zip(part, cells, strict=True)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
