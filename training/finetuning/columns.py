"""The columns of images and captions of the user's data, and the captions in them by language."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from training.data import evenly_spaced_rows, usable_captions
from training.text.writing_systems import LANGUAGES, language_of

MAX_PROBED = 1000  # cells from which the languages of a column are found
MIN_SHARE = 0.2  # of the captions of a column, to be one of its languages
CAPTION, LABEL = "caption", "label"  # columns of images with text files, and of class folders


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
        parts = [f"image column: {self.image}"] + ([] if self.captions else ["no captions"])
        parts += [f"{language} {kind}: {column}" for language, column in self.captions.items()]
        return ", ".join(parts)

    def captions_of(self, rows: Dataset) -> dict[str, list[list[str]]]:
        """Usable captions of each row by language. A column of two languages is divided by script."""
        columns = list(self.captions.values())
        found: dict[str, list[list[str]]] = {}
        for language, column in self.captions.items():
            is_shared = columns.count(column) > 1
            found[language] = [
                [text for text in texts if not is_shared or language_of(text) == language]
                for texts in texts_of(rows, column)
            ]
        return found


def find_columns(
    rows: Dataset,
    image_column: str = "image",
    caption_columns: Mapping[str, str] | None = None,
    needs_captions: bool = True,
) -> Columns:
    """Find the columns of images and captions.

    Args:
        rows: Rows of the user's data, with undecoded images.
        image_column: Column of the images.
        caption_columns: Caption columns by language. Default: the columns `en` and `zh` that exist, or else `caption`
            or `label`, in the languages of its texts.
        needs_captions: Whether data without captions are refused.

    Raises:
        ValueError: A column does not exist, or none has captions in English or Chinese.
    """
    names = rows.column_names
    captions = dict(caption_columns or {each: each for each in LANGUAGES if each in names})
    for name in (image_column, *captions.values()):
        if name not in names:
            raise ValueError(
                f"data: there is no column {name!r}, only {', '.join(names)}. Name the right ones: --image_column "
                "COLUMN, --caption_columns.zh COLUMN."
            )
    for language in captions:
        if language not in LANGUAGES:
            raise ValueError(
                f"caption_columns.{language}: fine-tuning knows the languages {' and '.join(LANGUAGES)}. Name one."
            )
    column = next((name for name in (CAPTION, LABEL) if name in names), None)
    if not captions and column is not None:
        probe = rows.select(evenly_spaced_rows(len(rows), MAX_PROBED)).select_columns(column)
        spoken = [language_of(text) for texts in texts_of(probe, column) for text in texts]
        for language in LANGUAGES:
            if spoken and spoken.count(language) >= MIN_SHARE * len(spoken):
                captions[language] = column
    if not captions and needs_captions:
        raise ValueError(
            f"data: which column has the captions, of {', '.join(names)}? Name it: --caption_columns.zh COLUMN, and "
            "in the same way for English (en). Images need one folder per class, without images beside them, or a "
            "text file for each (1.txt for 1.jpg)."
        )
    labels = [
        isinstance(rows.features[name], ClassLabel) or name == LABEL for name in captions.values()
    ]
    return Columns(image_column, captions, bool(labels) and all(labels))


def texts_of(rows: Dataset, column: str) -> list[list[str]]:
    """Usable texts of each cell of a column, without repetitions; class names as words."""
    try:
        cells: list[Any] = rows[column][:]
    except UnicodeDecodeError as error:  # parquet has a flag for text, and no check
        raise ValueError(
            f"data: column {column!r} has damaged text ({error}). Write the file again."
        ) from error
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        cells = [
            feature.names[cell] if (cell or 0) >= 0 and cell is not None else None for cell in cells
        ]
    if column == LABEL:
        cells = [cell.replace("_", " ") if isinstance(cell, str) else cell for cell in cells]
    return [list(dict.fromkeys(usable_captions(cell)[0])) for cell in cells]
