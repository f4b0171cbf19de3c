"""The filters of the curation: checks of one image and of one caption, and filters that compare rows."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from training.data import load_source, require_allowed, require_columns, rules_for, usable_captions
from training.data.images import CellRules, embedded_cell, undecoded
from training.data.sources import require_texts
from training.prepare.curation_options import PROGRAM, CurateOptions
from training.prepare.duplicates import (
    MAX_COLOUR_DISTANCE,
    NUM_COLOURS,
    ExaminedImage,
    examine_image,
    match_images,
    normalise,
)
from training.teachers import DualEncoder
from training.text.writing_systems import SCRIPTS_OF, script_of
from training.utils.cli import command_of
from training.utils.files import atomic_write, write_text
from training.utils.output import claim_folder
from training.utils.results import make_meta, markdown_table, portable_values

DATA_FOLDER, REPORT_FILE = "data", "report.json"
EXCLUDED, LOW_SIMILARITY, BOILERPLATE = "in an excluded set", "low similarity", "boilerplate"
NEAR_IMAGE, EQUAL_CAPTION, NO_CAPTION_LEFT = (
    "near-duplicate image",
    "equal caption",
    "no caption left",
)
SAMPLES = 5  # dropped captions of each cause and language in the report
IMAGES_AT_ONCE, ROWS_PER_SHARD, ROWS_PER_GROUP = 256, 4096, 256
MIN_CONTRAST = 4.0  # standard deviation of the brightness, 0..127

# thresholds of the caption checks; shares are of characters or words, 0..1
MAX_CHARACTERS, MAX_WORDS = 1000, 128
MAX_SYMBOLS, MAX_DIGITS, MAX_REPEATED_WORDS, MAX_RUN = 0.3, 0.3, 0.5, 5
MIN_SCRIPT_SHARE, MAX_KANA_SHARE = 0.5, 0.1
# no domain that is also a word: "like it.Me too" is not a web address
TOP_LEVEL = "com|net|org|info|edu|gov|cn|io|uk|jp|tw|hk"
URL = re.compile(
    rf"(?:https?|ftp)://|\bwww\.|(?<![\w@.-])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:{TOP_LEVEL})(?![\w.])",
    re.I | re.A,
)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
SUFFIXES = "jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|pdf|docx?|pptx?|zip|mp4|mov|avi"
FILE_NAME = re.compile(
    rf"[^\s.]\.(?:{SUFFIXES})(?!\w)|^(?:img|dsc|dscn|dscf|pxl|gopr|screenshot)[\s_-]*\d[\d_-]*$",
    re.I | re.A,
)
UNSPACED = frozenset({"Han", "Hiragana", "Katakana"})  # each character counts as a word
KANA_OR_HANGUL = frozenset({"Hiragana", "Katakana", "Hangul"})
APOSTROPHES = str.maketrans("", "", "'’")


def words_of(text: str) -> list[tuple[str, str]]:
    """The words of a text, each with its script, in order.

    Each ideograph or kana is one word. Digits and punctuation are not part of any word.
    """
    words: list[tuple[str, str]] = []
    for script, letters in groupby(
        unicodedata.normalize("NFKC", text).translate(APOSTROPHES), script_of
    ):
        if script in UNSPACED:
            words += [(letter, script) for letter in letters]
        elif script is not None:
            words.append(("".join(letters), script))
    return words


def caption_faults(text: str, language: str) -> Iterator[str]:
    """Yield the reasons to drop a caption of a language (ISO 639-1 code), cheap checks first."""
    scripts = SCRIPTS_OF.get(language)
    # one ideograph can be a whole caption; one letter cannot
    if len(text) < (1 if scripts and UNSPACED & scripts else 2):
        yield "too few characters"
    if len(text) > MAX_CHARACTERS:
        yield "too many characters"
    for fault, pattern in (
        ("e-mail address", EMAIL),
        ("file name", FILE_NAME),
        ("web address", URL),
    ):
        if pattern.search(text):
            yield fault
    # the punctuation mark that ends a sentence does not count, however short the sentence
    end = -1 if len(text) > 1 and unicodedata.category(text[-1]).startswith("P") else None
    kinds = [
        unicodedata.category(character)[0] for character in text[:end] if not character.isspace()
    ]
    if kinds.count("P") + kinds.count("S") > MAX_SYMBOLS * len(kinds):
        yield "symbols"
    if kinds.count("N") > MAX_DIGITS * len(kinds):
        yield "digits"
    if max((sum(1 for _ in run) for _, run in groupby(text)), default=0) > MAX_RUN:
        yield "repeated characters"
    words = words_of(text)
    if scripts is not None:
        shares = Counter(script for _, script in words)
        foreign = KANA_OR_HANGUL - scripts if "Han" in scripts else frozenset()
        if sum(shares[script] for script in foreign) > MAX_KANA_SHARE * len(words):
            yield "kana or Hangul"
        if not words or sum(shares[script] for script in scripts) < MIN_SCRIPT_SHARE * len(words):
            yield "wrong script"
    if len(words) > MAX_WORDS:
        yield "too many words"
    if len(words) - len({word.casefold() for word, _ in words}) > MAX_REPEATED_WORDS * len(words):
        yield "repeated words"


@dataclass(slots=True)
class Caption:
    """One caption of a row.

    Args:
        row: Row of the source.
        language: Language (ISO 639-1 code).
        text: Text without surrounding white space; empty if the cell holds none.
        cause: Reason to drop it; None for a caption that is kept.
    """

    row: int
    language: str
    text: str
    cause: str | None = None


class Curation:
    """The rows of a source, with the reason that each row and each caption is dropped for.

    Args:
        options: Data, columns and thresholds.

    Attributes:
        causes: Reason to drop each row; None for a row that is kept.
        captions: All captions in the order of the rows.
        copy_of: Earlier row that the image of a row is a near-duplicate of.

    Raises:
        ValueError: The source cannot be loaded, is empty, or lacks a column of captions or images.
    """

    def __init__(self, options: CurateOptions):
        self.options = options
        self.rules = rules_for(options.data, options.allow_paths)
        columns = list(dict.fromkeys(options.caption_columns.values()))
        rows = load_source(options.data, subset=options.subset)
        remedy = "Name the right one as image_column or caption_columns."
        rows = require_columns(rows, [options.image_column, *columns], options.data, remedy)
        require_texts(rows.features, columns, options.data, "caption_columns")
        rows = rows.select_columns([options.image_column, *columns])
        self.rows = undecoded(rows, options.image_column, options.data)
        if not len(self.rows):
            raise ValueError(f"data: {options.data!r} has no rows. Name a different source.")
        images = _examine(
            self.rows,
            options.image_column,
            self.rules,
            options.min_edge,
            options.max_aspect_ratio,
            MIN_CONTRAST,
        )
        self.causes = [image.cause for image in images]
        self.hashes = np.array([image.hash for image in images], np.uint64)
        self.colours = np.stack([image.colours for image in images])
        self.captions: list[Caption] = []
        texts = self.rows.select_columns(columns)  # reading a caption does not read its image
        for row, cells in enumerate(texts):
            for language, column in options.caption_columns.items():
                usable, unusable = usable_captions(cells[column])
                for text in usable:
                    cause = self.causes[row] or next(caption_faults(text, language), None)
                    self.captions.append(Caption(row, language, text, cause))
                self.captions += [Caption(row, language, "", cause) for cause in unusable]
        self.drop_rows_without_captions()
        self.copy_of: dict[int, int] = {}

    def kept_rows(self) -> list[int]:
        """Rows that are kept."""
        return [row for row, cause in enumerate(self.causes) if cause is None]

    def kept_captions(self, language: str) -> list[Caption]:
        """Captions of a language that are kept."""
        return [
            caption
            for caption in self.captions
            if caption.cause is None and caption.language == language
        ]

    def drop_rows(self, rows: list[int], cause: str):
        """Drop rows that are still kept, with the captions they still have."""
        for row in rows:
            self.causes[row] = cause
        for caption in self.captions:
            caption.cause = caption.cause or self.causes[caption.row]

    def drop_rows_without_captions(self):
        """Drop rows that have no caption left."""
        with_caption = {caption.row for caption in self.captions if caption.cause is None}
        self.drop_rows(
            [row for row in self.kept_rows() if row not in with_caption], NO_CAPTION_LEFT
        )

    def drop_excluded(self):
        """Drop rows whose image is a near-duplicate of an image of an excluded source, in any colours.

        Raises:
            ValueError: An excluded source cannot be loaded, or one of its images cannot be opened.
        """
        column, options = self.options.image_column, self.options
        excluded: list[int] = []
        for name in options.exclude:
            remedy = "Name the right one as image_column."
            rows = require_columns(
                load_source(name), [column], name, remedy, "exclude"
            ).select_columns([column])
            rules = rules_for(name, options.allow_paths)
            # an excluded image that is not opened would let its copies pass, so it is refused
            for row, image in enumerate(
                _examine(require_allowed(rows, column, rules, name, "exclude"), column, rules)
            ):
                if image.cause is not None:
                    raise ValueError(
                        f"exclude: row {row} of {name!r} cannot be hashed ({image.cause}). Fix or remove the row."
                    )
                excluded.append(image.hash)
        kept = self.kept_rows()
        hashes = np.concatenate([np.array(excluded, np.uint64), self.hashes[kept]])
        gray = np.zeros((len(hashes), NUM_COLOURS), np.uint8)
        match = match_images(
            hashes, gray, options.max_image_distance, MAX_COLOUR_DISTANCE, len(excluded)
        )
        self.drop_rows(
            [
                row
                for row, found in zip(kept, match[len(excluded) :], strict=True)
                if found < len(excluded)
            ],
            EXCLUDED,
        )

    def drop_dissimilar(self):
        """Drop the share of captions with the lowest cosine to their image under the teacher.

        Raises:
            ValueError: The teacher cannot be loaded, or returns values that are not finite.
        """
        captions, options = (
            [caption for caption in self.captions if caption.cause is None],
            self.options,
        )
        if not captions:
            return
        rows = sorted({caption.row for caption in captions})
        try:
            model = DualEncoder.from_pretrained(str(options.teacher))
        except ValueError as error:
            raise ValueError(f"teacher: {str(error).removeprefix('model: ')}") from error
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        images = model.encode_images(
            self.rows.select(rows), options.image_column, options.batch_size
        )
        texts = model.encode_texts([caption.text for caption in captions], options.batch_size)
        position = {row: number for number, row in enumerate(rows)}
        cosines = (images[[position[caption.row] for caption in captions]] * texts).sum(1)
        if not cosines.isfinite().all():
            raise ValueError(
                f"teacher: {model.name!r} returns values that are not finite. Choose a different teacher."
            )
        for language, share in self.options.drop_share.items():
            own = [index for index, caption in enumerate(captions) if caption.language == language]
            ranked = sorted(own, key=cosines.tolist().__getitem__)
            for index in ranked[: int(share * len(ranked))]:
                captions[index].cause = LOW_SIMILARITY

    def drop_boilerplate(self, limit: int):
        """Drop captions of more than `limit` different images."""
        for language in self.options.caption_columns:
            kept = self.kept_captions(language)
            images: dict[str, set[int]] = defaultdict(set)
            for caption in kept:
                images[normalise(caption.text)].add(int(self.hashes[caption.row]))
            for caption in kept:
                if len(images[normalise(caption.text)]) > limit:
                    caption.cause = BOILERPLATE

    def drop_near_images(self):
        """Drop rows whose image is a near-duplicate of an earlier row's."""
        rows = np.array(self.kept_rows(), np.int64)
        limits = self.options.max_image_distance, MAX_COLOUR_DISTANCE
        match = match_images(self.hashes[rows], self.colours[rows], *limits)
        self.copy_of = {
            int(row): int(rows[first])
            for row, first in zip(rows, match, strict=True)
            if rows[first] != row
        }
        self.drop_rows(list(self.copy_of), NEAR_IMAGE)

    def drop_equal_captions(self):
        """Drop captions that equal an earlier one of their language up to case and punctuation."""
        for language in self.options.caption_columns:
            seen: set[str] = set()
            for caption in self.kept_captions(language):
                text = normalise(caption.text)
                caption.cause = EQUAL_CAPTION if text in seen else None
                seen.add(text)

    def write(self, folder: Path):
        """Write the kept rows as parquet files: images unchanged, a cell without kept captions empty."""
        options = self.options
        features = Features({options.image_column: Image()})
        for column in options.caption_columns.values():
            is_text = isinstance(self.rows.features[column], Value)
            features[column] = Value("string") if is_text else List(Value("string"))
        texts: dict[tuple[int, str], list[str]] = defaultdict(list)
        for caption in self.captions:
            if caption.cause is None:
                texts[caption.row, options.caption_columns[caption.language]].append(caption.text)
        kept = self.kept_rows()
        starts = range(0, len(kept), ROWS_PER_SHARD)
        for number, start in enumerate(tqdm(starts, desc="write", unit="shard")):
            part = kept[start : start + ROWS_PER_SHARD]
            cells: dict[str, list[Any]] = {
                options.image_column: [
                    embedded_cell(self.rows[row][options.image_column]) for row in part
                ]
            }
            for column in options.caption_columns.values():
                found = [texts.get((row, column)) for row in part]
                is_list = isinstance(features[column], List)
                cells[column] = [each if is_list or each is None else each[0] for each in found]
            with atomic_write(
                folder / f"train-{number:05d}-of-{len(starts):05d}.parquet"
            ) as scratch:
                table = pa.Table.from_pydict(cells, schema=features.arrow_schema)
                pq.write_table(table, scratch, row_group_size=ROWS_PER_GROUP)

    def report(self) -> dict[str, Any]:
        """Counts by cause of the rows and of the captions of each language, and samples of dropped captions."""
        samples: dict[str, dict[str, list[dict]]] = {}
        for caption in self.captions:
            if caption.cause is None:
                continue
            found = samples.setdefault(caption.cause, {}).setdefault(caption.language, [])
            if len(found) < SAMPLES:
                sample = {"row": caption.row, "text": caption.text or None}
                is_copy = caption.cause == NEAR_IMAGE
                found.append(sample | ({"like_row": self.copy_of[caption.row]} if is_copy else {}))
        captions = {
            language: _count(
                [caption.cause for caption in self.captions if caption.language == language]
            )
            for language in self.options.caption_columns
        }
        return {"rows": _count(self.causes), "captions": captions, "samples": samples}


def curate(options: CurateOptions) -> dict[str, Any]:
    """Curate a source, and write the curated set and the report.

    Memory holds the hashes of all images and the text of all captions.

    Returns:
        Content of report.json: the provenance, counts by cause of the rows and of the captions of each language, and
        samples.

    Raises:
        ValueError: An option or a source is invalid, a file of the user would be overwritten, or no row is left.
    """
    folder = Path(options.output_dir)
    names, inputs = [DATA_FOLDER, REPORT_FILE], {"data": options.data}
    with claim_folder(folder, names, command="curate", inputs=inputs, overwrite=options.overwrite):
        curation = Curation(options)
        if options.exclude:
            curation.drop_excluded()
        if options.drop_share:
            curation.drop_dissimilar()
        if options.max_caption_images is not None:
            curation.drop_boilerplate(options.max_caption_images)
        curation.drop_rows_without_captions()  # before their images decide which of several copies is kept
        curation.drop_near_images()
        curation.drop_equal_captions()
        curation.drop_rows_without_captions()
        meta = portable_values(make_meta(options.data, None, command_of(PROGRAM, options)))
        report = {"meta": meta, **curation.report()}
        write_text(folder / REPORT_FILE, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        if not curation.kept_rows():
            raise ValueError(
                f"data: no row of {options.data!r} is left. Relax the filters; {folder / REPORT_FILE} has the causes."
            )
        for old in (folder / DATA_FOLDER).glob("train-*-of-*.parquet"):  # of an earlier run
            old.unlink()
        curation.write(folder / DATA_FOLDER)
    return report


def report_table(report: dict[str, Any]) -> str:
    """A Markdown table of a report: a line for each cause, and a column for the rows and each language."""
    columns = {"rows": report["rows"], **report["captions"]}
    lines = [["cause", *columns], ["---", *["---:"] * len(columns)]]
    lines.append(["input", *(f"{column['in']:,}" for column in columns.values())])
    for cause in dict.fromkeys(cause for column in columns.values() for cause in column["dropped"]):
        lines.append(
            [cause, *(f"{column['dropped'].get(cause, 0):,}" for column in columns.values())]
        )
    lines.append(["kept", *(f"{column['out']:,}" for column in columns.values())])
    return markdown_table(lines)


def _count(causes: list[str | None]) -> dict[str, Any]:
    dropped = Counter(cause for cause in causes if cause is not None)
    return {
        "in": len(causes),
        "out": len(causes) - dropped.total(),
        "dropped": dict(dropped.most_common()),
    }


def _examine(rows: Dataset, column: str, rules: CellRules, *thresholds: Any) -> list[ExaminedImage]:
    """Checks and hashes of every image, computed by threads."""
    images: list[ExaminedImage] = []
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(rows), desc="examine", unit="image") as progress,
    ):
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            cells = rows[start : start + IMAGES_AT_ONCE][column]
            images += pool.map(lambda cell: examine_image(rules(cell), *thresholds), cells)
            progress.update(len(images) - start)
    return images
