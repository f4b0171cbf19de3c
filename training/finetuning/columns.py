"""The columns of images and captions of the user's data, and the captions in them by language."""

from collections.abc import Mapping
from dataclasses import dataclass

from datasets import ClassLabel, Dataset

from training.data import evenly_spaced_rows, usable_captions
from training.text.writing_systems import LANGUAGES, language_of

MAX_PROBED = 1000  # cells from which the languages of a column are found
MIN_SHARE = 0.2  # smallest share of a column's captions in one of its languages
CAPTION = "caption"  # column of images with text files
LABEL = "label"  # column of class folders


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
