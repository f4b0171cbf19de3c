"""From the user's data to two splits of images and captions: every row that is left out is counted and listed."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas
from datasets import ClassLabel, Dataset, Image, List, Value
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from training.data import evenly_spaced_rows, usable_captions
from training.data.images import embedded_cell, read_image
from training.data.reader import CellRules, Reading, open_source, require_columns, rules_for
from training.finetuning.finetune_options import FinetuneOptions
from training.text.writing_systems import LANGUAGES, language_of
from training.utils.files import atomic_write, write_text
from training.utils.keys import fingerprint, keyed_uniform
from training.utils.reading import read_mapping

DATA_FOLDER = "data"
TRAIN_FILE = "train.parquet"
VALIDATION_FILE = "validation.parquet"
SUMMARY_FILE = "summary.json"
SKIPPED_FILE = "skipped.csv"
IMAGES_AT_ONCE = 256
MAX_PROBED = 1000  # cells from which the languages of a column are found
MIN_SHARE = 0.2  # smallest share of a column's captions in one of its languages
CAPTION = "caption"  # column of images with text files
LABEL = "label"  # column of class folders
MERGED = "a copy of an earlier image, which has its captions"
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
class Columns:
    """Columns of the user's data.

    Args:
        image: Column of the images.
        captions: Column of the captions by language (ISO 639-1 code). Two languages may share a column.
        are_labels: Whether the captions are class names.
    """

    image: str
    captions: dict[str, str]
    are_labels: bool

    def describe(self) -> str:
        """What is used, such as `image column: image, zh captions: title`."""
        kind = "class names" if self.are_labels else "captions"
        parts = [f"{language} {kind}: {column}" for language, column in self.captions.items()]
        return ", ".join([f"image column: {self.image}", *parts])

    def captions_of(self, rows: Dataset) -> dict[str, list[list[str]]]:
        """Usable captions of each row by language. A column of two languages is divided by script."""
        is_divided = len({*self.captions.values()}) < len(self.captions)
        return {
            language: texts_of(rows, column, language if is_divided else None)
            for language, column in self.captions.items()
        }


def find_columns(
    rows: Dataset, image_column: str = "image", caption_columns: Mapping[str, str] | None = None
) -> Columns:
    """Find the columns of images and captions.

    Args:
        rows: Rows of the user's data, with undecoded images.
        image_column: Column of the images.
        caption_columns: Caption columns by language. Default: the columns `en` and `zh` that exist, or else `caption`
            or `label`, in the languages of its texts.

    Raises:
        ValueError: A column does not exist, or none has captions in English or Chinese.
    """
    names = rows.column_names
    captions = dict(
        caption_columns or {language: language for language in LANGUAGES if language in names}
    )
    column = next((name for name in (CAPTION, LABEL) if name in names), None)
    if not captions and column is not None:
        probe = rows.select(evenly_spaced_rows(len(rows), MAX_PROBED)).select_columns(column)
        texts = [text for cell in texts_of(probe, column) for text in cell]
        spoken = [language_of(text) for text in texts]
        different = [language_of(text) for text in {*texts}]
        enough = max(1, MIN_SHARE * len(spoken))
        frequent = [language for language in LANGUAGES if spoken.count(language) >= enough]
        # one text alone, such as OK beside 不良, is no language of its own
        varied = [language for language in frequent if different.count(language) > 1]
        captions = dict.fromkeys(varied or sorted(frequent, key=spoken.count)[-1:], column)
    if not captions or not {image_column, *captions.values()} <= {*names}:
        raise ValueError(
            f"data: which columns of {', '.join(names)} have the images and the captions? Name them: --image_column "
            "COLUMN, --caption_columns.zh COLUMN, and in the same way for English (en). Images need one folder per "
            "class, without images beside them, or a text file for each (1.txt for 1.jpg)."
        )
    if unknown := {*captions} - {*LANGUAGES}:
        raise ValueError(
            f"caption_columns: fine-tuning knows {' and '.join(LANGUAGES)}, not {', '.join(unknown)}. Name one."
        )
    used = {*captions.values()}
    are_classes = all(isinstance(rows.features[name], ClassLabel) for name in used)
    are_labels = are_classes or used == {LABEL}
    return Columns(image_column, captions, are_labels)


def texts_of(rows: Dataset, column: str, language: str | None = None) -> list[list[str]]:
    """Usable texts of each cell of a column in one language or all, without repetitions; class names as words."""
    feature = rows.features[column]
    found = []
    for cell in rows[column]:
        if isinstance(feature, ClassLabel):
            cell = None if cell is None or cell < 0 else feature.names[cell]
        if column == LABEL and isinstance(cell, str):
            cell = cell.replace("_", " ")
        texts = list(dict.fromkeys(usable_captions(cell)[0]))
        if language is not None:
            texts = [text for text in texts if language_of(text) == language]
        found.append(texts)
    return found


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
    captions = columns.captions_of(rows)
    languages = []
    notes = []
    for language, cells in captions.items():
        texts = _different(cells)
        if len(texts) > 1:
            languages.append(language)
        elif texts:
            notes.append(f"The only {language} text, {texts.pop()!r}, is left out.")
    rules = rules_for(options.data, options.allow_paths)
    usable, left_out = _merge_copies(rows, columns.image, captions, languages, rules)
    notes += _report(left_out, Path(options.output_dir) / SKIPPED_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        is_alike = all(len(_different(usable[language])) < 2 for language in languages)
        if is_alike and (len(usable) or not languages):
            raise ValueError(
                "data: there is nothing to tell apart. Add images of other classes, or name other columns with "
                "--caption_columns."
            )
        num_validation = validation_size(len(usable), options.validation_share)
        embeddings = embed(usable["image"])
        training, validation = split_images(embeddings, num_validation, options.seed)
    except ValueError as error:
        raise ValueError(" ".join([str(error), *notes])) from error
    usable = usable.cast_column("image", Image())
    usable.select(training).to_parquet(folder / TRAIN_FILE)
    usable.select(validation).to_parquet(folder / VALIDATION_FILE)
    prepared = Prepared(
        folder=folder,
        languages=languages,
        num_training=len(training),
        num_validation=len(validation),
        are_labels=columns.are_labels,
        found=f"{len(rows):,} rows of {opened.form}, {columns.describe()}",
        notes=notes,
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


def _different(cells: Iterable[list[str]]) -> set[str]:
    """All different texts of a column."""
    return {text for cell in cells for text in cell}


def _merge_copies(
    rows: Dataset,
    column: str,
    captions: dict[str, list[list[str]]],
    languages: Sequence[str],
    rules: CellRules,
) -> tuple[Dataset, list[tuple[int, str, str]]]:
    """Images that decode and have a caption. A copy of an earlier image adds its captions to that image's.

    Args:
        rows: Rows of the user's data, with undecoded images.
        column: Column of the images.
        captions: Captions of each row by language.
        languages: Languages that are used.
        rules: Rules for the paths of images.

    Returns:
        Rows with the column `image` and one list of captions for each language; number, path and cause of each row
        that is left out or merged.
    """
    first_rows: dict[bytes, int] = {}  # by digest of the image
    merged: dict[str, dict[bytes, list[str]]] = {language: {} for language in languages}
    left_out = []
    for row, (path, digest, cause) in enumerate(_examine(rows, column, rules)):
        if cause is None and not any(captions[language][row] for language in languages):
            cause = "no caption"
        if cause is not None:
            left_out.append((row, path, cause))
            continue
        if digest in first_rows:
            left_out.append((row, path, MERGED))
        first_rows.setdefault(digest, row)
        for language in languages:
            known = merged[language].setdefault(digest, [])
            known += [text for text in captions[language][row] if text not in known]
    usable = rows.select([*first_rows.values()]).select_columns([column])
    usable = usable.rename_columns({column: "image"})
    for language in languages:
        lists = [*merged[language].values()]
        usable = usable.add_column(language, lists, feature=List(Value("string")))
    return usable, left_out


def _examine(
    rows: Dataset, column: str, rules: CellRules
) -> Iterator[tuple[str, bytes, str | None]]:
    """Path and digest of each image, and why it cannot be used; images are decoded with threads."""

    def examine(value: Any) -> tuple[str, bytes, str | None]:
        cell = embedded_cell(rules(value))
        image = read_image(cell)
        cause = image if isinstance(image, str) else None
        content = b"" if isinstance(cell, str) else cell["bytes"]
        path = (value or {}).get("path") or ""
        return path, fingerprint(content, size=16), cause

    with ThreadPoolExecutor() as pool:
        for start in tqdm(range(0, len(rows), IMAGES_AT_ONCE), desc="images", leave=False):
            yield from pool.map(examine, rows[start : start + IMAGES_AT_ONCE][column])


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


def _report(left_out: Sequence[tuple[int, str, str]], listing: Path) -> list[str]:
    """List the rows that were left out or merged in a file; sentences about them."""
    listing.unlink(missing_ok=True)
    if not left_out:
        return []
    causes = Counter(cause for _, _, cause in left_out)
    notes = [f"{count} rows left out, {cause}." for cause, count in causes.most_common()]
    table = pandas.DataFrame(left_out, columns=["row", "image", "cause"])
    with atomic_write(listing) as scratch:
        table.to_csv(scratch, index=False)
    return [*notes, f"All of them are listed in {listing}."]
