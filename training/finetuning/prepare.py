"""From the user's data to images and captions in parquet files: every row that is left out is counted and listed."""

import csv
import filecmp
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from training.data.captions import CaptionTokenizer
from training.data.images import URL_REFUSED, CellRules, encoded_bytes, fetch_allowed, image_cell, is_url
from training.finetuning.columns import Columns, captions_of, cells_of, find_columns, is_mixed
from training.finetuning.images import ImageFinder
from training.finetuning.options import FinetuneOptions
from training.finetuning.sources import Opened, open_data
from training.finetuning.split import split_images
from training.prepare.duplicates import ExaminedImage, examine_image
from training.utils.files import atomic_write, write_text

DATA_FOLDER, GENERAL_FOLDER = "data", "general"
TRAIN_FILE, VALIDATION_FILE, SUMMARY_FILE, SKIPPED_FILE = (
    "train.parquet", "validation.parquet", "summary.json", "skipped.csv"
)  # fmt: skip
FILE_MISSING = "image file is missing"
MAX_NAMED = 3  # rows that the summary names for each cause
IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class Prepared:
    """Images and captions in a folder, divided into a training and a validation split.

    Args:
        folder: Folder of the parquet files. Their columns are `image` and one list of captions for each language.
        languages: Languages of the captions (ISO 639-1 codes).
        num_training: Number of images in the training split.
        num_validation: Number of images in the validation split.
        are_labels: Whether the captions are class names.
        found: What was detected in the data, in words.
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
        """Load what `prepare` has written to a folder."""
        return cls(folder, **json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")))

    def save(self):
        """Write the summary to the folder."""
        summary = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_text(self.folder / SUMMARY_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")

    def __str__(self) -> str:
        images = f"{self.num_training:,} images for training, {self.num_validation:,} for validation"
        return "\n".join([self.found, images, *self.notes])


@dataclass
class _Pairs:
    """Usable images with their captions, and the rows that were left out.

    Args:
        rows: Row of the user's data with each image.
        paths: Absolute path of each image; None for images that the data hold.
        captions: Captions of each image by language.
        hashes: Perceptual hash of each image.
        colours: Colour thumbnail of each image, (48,) uint8.
        skipped: Row number, path and cause of each row that was left out.
        num_merged: Number of rows whose image is a copy of an earlier one.
    """

    rows: list[int] = field(default_factory=list)
    paths: list[str | None] = field(default_factory=list)
    captions: list[dict[str, list[str]]] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    colours: list[np.ndarray] = field(default_factory=list)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    num_merged: int = 0


def prepare_general(options: FinetuneOptions, folder: Path, scratch: Path | None = None) -> Prepared | None:
    """Read the images of `general_data` and write their two splits; without captions, all are for training.

    Args:
        options: Location of the data.
        folder: Folder of the splits of `data`, in which this one gets a folder of its own.
        scratch: Folder to write to, as in `prepare`.

    Returns:
        None without `general_data`.

    Raises:
        ValueError: As `prepare`, except that captions may be missing.
    """
    if options.general_data is None:
        return None
    general = FinetuneOptions(
        model=options.model,
        data=options.general_data,
        output_dir=options.output_dir,
        allow_urls=options.allow_urls,
        allow_paths=options.allow_paths,
        seed=options.seed,
    )
    try:
        inner = scratch / GENERAL_FOLDER if scratch is not None else None
        return prepare(general, folder / GENERAL_FOLDER, needs_captions=False, scratch=inner)
    except ValueError as error:
        raise ValueError(f"general_data: {str(error).removeprefix('data: ')}") from error


def prepare(
    options: FinetuneOptions,
    folder: Path,
    needs_captions: bool = True,
    scratch: Path | None = None,
    tokens: CaptionTokenizer | None = None,
) -> Prepared:
    """Read the user's data, leave out what cannot be used, and write the two splits.

    Args:
        options: Location of the data, their columns, and the share of the validation split.
        folder: Folder for the parquet files; created if it is missing.
        needs_captions: Whether images without captions are left out. Otherwise they are for training, and without any
            caption in the data all images are.
        scratch: Folder to write to, which the caller moves to `folder`. The list of left-out rows of data that are
            refused is then written to `output_dir`. Default: `folder`.
        tokens: Tokenization of the model, which counts the captions that it truncates; None counts none.

    Raises:
        ValueError: The data cannot be opened, have no captions in a known script, one class only, or too few
            different images.
    """
    opened = open_data(options.data, options.split, options.subset, needs_captions)
    given = options.image_column, options.caption_columns
    columns = find_columns(opened.rows, opened.finder, *given, needs_captions=needs_captions)
    rules = CellRules(options.allow_urls, options.allow_paths or opened.roots is None, opened.roots or ())
    if options.allow_urls:
        opened = replace(opened, rows=fetch_allowed(opened.rows, columns.image, rules, options.data))
    pairs = _read_pairs(opened, columns, rules, needs_captions)
    try:
        languages, training, validation = _choose(options, columns, pairs, needs_captions)
    except ValueError as error:
        listing = (folder if scratch is None else Path(options.output_dir)) / SKIPPED_FILE
        if pairs.skipped:
            _write_skipped(listing, pairs.skipped)
        raise ValueError(" ".join([str(error), *_describe(pairs, listing)])) from error
    written = scratch or folder
    written.mkdir(parents=True, exist_ok=True)
    _write_skipped(written / SKIPPED_FILE, pairs.skipped)
    images = opened.rows.select_columns([columns.image]).rename_columns({columns.image: "image"})
    for name, rows in ((TRAIN_FILE, training), (VALIDATION_FILE, validation)):
        _write_rows(written / name, images, pairs, rows.tolist(), languages)
    prepared = Prepared(
        written,
        languages,
        len(training),
        len(validation),
        columns.are_labels,
        f"{opened.form}, {columns.describe()}",
        [*opened.notes, *_describe(pairs, folder / SKIPPED_FILE), *_describe_truncated(pairs, languages, tokens)],
    )
    prepared.save()
    return prepared


def same_splits(first: Path, second: Path) -> bool:
    """Whether two folders that `prepare` has written have the same images and captions in both splits.

    Args:
        first: Folder of the splits of `data`, and perhaps of those of `general_data`.
        second: Another such folder.
    """
    names = [folder / name for folder in (Path(), Path(GENERAL_FOLDER)) for name in (TRAIN_FILE, VALIDATION_FILE)]
    return all(_same_file(first / name, second / name) for name in names)


def _same_file(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return first.exists() == second.exists()
    return filecmp.cmp(first, second, shallow=False)


def _choose(
    options: FinetuneOptions, columns: Columns, pairs: _Pairs, needs_captions: bool
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Languages of the captions, and indices of the training and of the validation images."""
    if not pairs.rows:
        is_missing = any(cause == FILE_MISSING for _, _, cause in pairs.skipped)
        advice = " Write the paths relative to the folder of the file that names them." if is_missing else ""
        raise ValueError(f"data: no row of {options.data!r} can be used.{advice}")
    languages = [language for language in columns.captions if any(language in texts for texts in pairs.captions)]
    if needs_captions:
        _check_captions(pairs, languages, columns)
    else:
        languages = [language for language in languages if len(_texts(pairs, language)) > 1]
    if not languages:
        return languages, np.arange(len(pairs.rows)), np.arange(0)
    return languages, *_split(options, pairs)


def _read_pairs(opened: Opened, columns: Columns, rules: CellRules, needs_captions: bool) -> _Pairs:
    """Look up, decode and hash the image of each row, and read its captions."""
    pairs, by_digest = _Pairs(), dict[bytes, int]()
    texts = {
        language: (cells_of(opened.rows, column), is_mixed(opened.rows, column, language))
        for language, column in columns.captions.items()
    }
    rows = _examined(opened.rows, columns.image, opened.finder, rules)
    progress = tqdm(rows, total=len(opened.rows), desc="images", unit="image", leave=False)
    for number, (name, path, cause, digest, image) in enumerate(progress):
        captions = {
            language: found for language, (cells, mixed) in texts.items()
            if (found := captions_of(cells[number], language, mixed))
        }  # fmt: skip
        if cause is None and not captions and needs_captions:
            cause = "no caption"
        if cause is not None:
            pairs.skipped.append((number, name, cause))
            continue
        if (earlier := by_digest.get(digest)) is not None:
            pairs.num_merged += 1
            for language, found in captions.items():
                known = pairs.captions[earlier].setdefault(language, [])
                known += [text for text in found if text not in known]
            continue
        by_digest[digest] = len(pairs.rows)
        pairs.rows.append(number)
        pairs.paths.append(path)
        pairs.captions.append(captions)
        pairs.hashes.append(image.hash)
        pairs.colours.append(image.colours)
    return pairs


class _Examined(NamedTuple):
    """Image of a row.

    Args:
        name: Path that the row names; empty for an image that the data hold.
        path: Absolute path of the file; None for an image that the data hold.
        cause: Reason why the image cannot be used; None for a usable image.
        digest: Digest of the encoded image.
        image: Hash and thumbnail.
    """

    name: str
    path: str | None
    cause: str | None
    digest: bytes
    image: ExaminedImage


def _examined(rows: Dataset, column: str, finder: ImageFinder | None, rules: CellRules) -> Iterator[_Examined]:
    """Look up, decode and hash the image of each row, if it may be opened."""
    find = finder or _existing

    def examine(value: Any) -> _Examined:
        cell = image_cell(value) or {}
        name, path = str(cell.get("path") or ""), None
        unusable = _Examined(name, None, "no image", b"", ExaminedImage("no image"))
        if cell.get("bytes") is None:
            if not name:
                return unusable
            if is_url(name) and not name.startswith("file://"):
                return unusable._replace(cause=URL_REFUSED)
            if (found := find(name)) is None:
                return unusable._replace(cause=FILE_MISSING)
            path = str(found)
            if isinstance(refused := rules(path), str):
                return unusable._replace(cause=refused)
            try:
                cell = {"bytes": found.read_bytes(), "path": None}
            except OSError as error:
                return unusable._replace(cause=f"image file cannot be read ({error.strerror})")
        image = examine_image(cell)
        return _Examined(name, path, image.cause, hashlib.blake2b(encoded_bytes(cell)).digest(), image)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            yield from pool.map(examine, rows[start : start + IMAGES_AT_ONCE][column])


def _existing(name: str) -> Path | None:
    return Path(name).absolute() if Path(name).is_file() else None


def _split(options: FinetuneOptions, pairs: _Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation images; one without a caption is for training."""
    hashes, colours = np.array(pairs.hashes, np.uint64), np.stack(pairs.colours)
    training, validation = split_images(hashes, colours, options.validation_share, options.seed)
    has_captions = np.array(list(map(bool, pairs.captions)))
    bare = validation[~has_captions[validation]]
    return np.sort(np.concatenate([training, bare])), validation[has_captions[validation]]


def _check_captions(pairs: _Pairs, languages: list[str], columns: Columns):
    """Refuse captions that are all the same: there is nothing to tell apart."""
    for language in languages:
        texts = _texts(pairs, language)
        if len(texts) == 1:
            kind = "one class only" if columns.are_labels else "the same caption for every image"
            raise ValueError(
                f"data: there is {kind}, {next(iter(texts))!r} ({language}), so there is nothing to tell apart. Add "
                "images of other classes, or captions that differ."
            )


def _texts(pairs: _Pairs, language: str) -> set[str]:
    """All different captions in a language."""
    return {text for captions in pairs.captions for text in captions.get(language, [])}


def _describe(pairs: _Pairs, listing: Path) -> list[str]:
    """Sentences about the rows that were left out, which a file lists, or merged."""
    causes = Counter(cause for _, _, cause in pairs.skipped)
    notes = []
    for cause, count in causes.most_common():
        names = [name or f"row {row}" for row, name, other in pairs.skipped if other == cause][:MAX_NAMED]
        more = ", ..." if count > MAX_NAMED else ""
        notes.append(f"{count} rows left out, {cause}: {', '.join(names)}{more}.")
    if notes:
        notes.append(f"All of them are listed in {listing}.")
    if pairs.num_merged:
        notes.append(f"{pairs.num_merged} rows with a copy of an earlier image were merged with it.")
    return notes


def _describe_truncated(pairs: _Pairs, languages: list[str], tokens: CaptionTokenizer | None) -> list[str]:
    """A sentence about captions that are longer than the model's texts, if there are any."""
    texts = [text for language in languages for text in _texts(pairs, language)]
    count = tokens.count_truncated(texts) if tokens is not None else 0
    if not tokens or not count:
        return []
    return [f"{count:,} of {len(texts):,} captions are longer than {tokens.max_text_length} tokens, and cut there."]


def _write_skipped(path: Path, skipped: list[tuple[int, str, str]]):
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([("row", "image", "cause"), *skipped])
    write_text(path, content.getvalue())


def _write_rows(path: Path, images: Dataset, pairs: _Pairs, numbers: list[int], languages: list[str]):
    """Write a split. Images in files are named by their absolute path, others are copied.

    Args:
        path: Parquet file to write.
        images: Rows of the user's data with one column, `image`.
        pairs: Usable images with their captions.
        numbers: Indices of the images in `pairs`.
        languages: Languages of the captions.
    """
    features = Features({"image": Image()} | {language: List(Value("string")) for language in languages})
    with atomic_write(path) as scratch, pq.ParquetWriter(scratch, features.arrow_schema) as writer:
        for start in range(0, len(numbers), IMAGES_AT_ONCE):
            part = numbers[start : start + IMAGES_AT_ONCE]
            cells = images[[pairs.rows[number] for number in part]]["image"]
            rows = [
                {"image": {"bytes": None, "path": pairs.paths[number]} if pairs.paths[number] else image_cell(cell)}
                | {language: pairs.captions[number].get(language, []) for language in languages}
                for number, cell in zip(part, cells, strict=True)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
