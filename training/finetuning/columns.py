"""Detect which column of the user's data holds the images, and which the captions of each language."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Image

from training.data import evenly_spaced_rows, usable_captions
from training.evaluation.sets.sources import IMAGE_SUFFIXES
from training.finetuning.images import ImageFinder
from training.text.writing_systems import LANGUAGES, script_of

MAX_PROBED = 1000  # cells from which the content of a column is found
MOST = 0.5  # share of the cells of an image column that name images
PURE, PRESENT = 0.8, 0.2  # share of the captions in a language: nearly all, and enough to be a language of the column
# parts of column names, the best first
CAPTION_NAMES = (
    "caption",
    "title",
    "标题",
    "標題",
    "text",
    "txt",
    "文本",
    "description",
    "描述",
    "说明",
    "說明",
    "name",
    "名称",
    "名稱",
    "名字",
    "品名",
    "商品",
)
CLASS_ENDINGS = ("类别", "分类", "标签", "類別", "分類", "標籤")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "cls", "category", *CLASS_ENDINGS)
# columns of facts about an image
OTHER_NAMES = re.compile(
    r"(^|_)(id|uid|uuid|sku|url|link|path|file|filename|source|split|license|licence|author|user|hash|md5|date|time|"
    r"group|width|height|brand|price)s?($|_)"
    r"|(品牌|价格|作者|来源|链接|网址|编号|货号|型号|尺码|尺寸|日期|时间|店铺|文件|路径|许可)(名称?|名字)?$"
    r"|(價格|來源|連結|網址|編號|貨號|型號|尺碼|時間|店鋪|檔案|路徑|授權)(名稱?|名字)?$",
    re.I,
)
LANGUAGE_NAMES = {"en": ("en", "eng", "english", "英文"), "zh": ("zh", "cn", "chinese", "中文", "zh_cn", "zh_hans")}
IMAGE_NAMES = re.compile(r"image|img|photo|picture|path|file|jpg|jpeg|png|webp|图|圖", re.I)
# kana and Hangul also occur beside Han, which then is no Chinese
OTHER_ASIAN = frozenset({"Hiragana", "Katakana", "Hangul"})


@dataclass(frozen=True)
class Columns:
    """Columns of the user's data.

    Args:
        image: Column of the images, or of their paths.
        captions: Column of the captions, by language (ISO 639-1 code). Two languages may share a column.
        others: Further columns that hold captions, by language.
        are_labels: Whether the captions are class names.
    """

    image: str
    captions: dict[str, str]
    others: dict[str, list[str]]
    are_labels: bool

    def describe(self) -> str:
        """What was found, such as `image column: file, zh captions: title`."""
        kind = "class names" if self.are_labels else "captions"
        parts = [f"image column: {self.image}"] + ([] if self.captions else ["no captions"])
        parts += [f"{language} {kind}: {column}" for language, column in self.captions.items()]
        others = [f"{language}: {', '.join(names)}" for language, names in self.others.items() if names]
        return ", ".join(parts) + (f" (not used: {'; '.join(others)})" if others else "")


def language_of(text: str) -> str | None:
    """Language of a text by its script: `zh` with a Chinese character, else `en` with a Latin letter, else None.

    Args:
        text: Any text. With kana or Hangul it is neither.
    """
    scripts = {script_of(character) for character in text}
    if scripts & OTHER_ASIAN:
        return None
    return "zh" if "Han" in scripts else "en" if "Latin" in scripts else None


def find_columns(
    rows: Dataset,
    finder: ImageFinder | None,
    image_column: str | None = None,
    caption_columns: Mapping[str, str] | None = None,
    needs_captions: bool = True,
) -> Columns:
    """Find the columns of images and captions.

    Args:
        rows: Rows of the user's data, with undecoded images.
        finder: Finder of the images that a column names by path; None if the data have no folder.
        image_column: Column of the images. Default: detected.
        caption_columns: Caption columns by language. Default: detected.
        needs_captions: Whether data without a column of captions are refused.

    Raises:
        ValueError: A given column does not exist, or none is detected.
    """
    probe = rows.select(evenly_spaced_rows(len(rows), MAX_PROBED))
    given = [image_column] if image_column else []
    for name in (*given, *(caption_columns or {}).values()):
        if name not in rows.column_names:
            raise ValueError(
                f"data: there is no column {name!r}, only {', '.join(rows.column_names)}. Name one of these."
            )
    image = image_column or _find_image_column(probe, finder)
    texts = {name: _texts(probe, name) for name in rows.column_names if name != image}
    if caption_columns:
        used = dict(caption_columns)
        for language, column in used.items():
            _check_captions(probe, column, language)
        return Columns(image, used, {}, _are_labels(rows, used.values()))
    found = {language: _rank(texts, language) for language in LANGUAGES}
    # a class or a brand in one language is no caption beside the titles in another
    best = min((_tier(name) for names in found.values() for name in names), default=0)
    ranked = {language: [name for name in names if _tier(name) == best] for language, names in found.items()}
    captions = {language: names[0] for language, names in ranked.items() if names}
    if not captions and needs_captions:
        raise ValueError(
            "data: no column has captions in Chinese characters or Latin letters, only "
            f"{', '.join(rows.column_names)}. Add a column of captions, or of class names instead of numbers."
        )
    used_columns = set(captions.values())
    others = {language: [name for name in names if name not in used_columns] for language, names in ranked.items()}
    return Columns(image, captions, others, _are_labels(rows, captions.values()))


def _check_captions(rows: Dataset, column: str, language: str):
    """Refuse a column that the user names for a language in which it has no caption."""
    option = f"caption_columns.{language}"
    if language not in LANGUAGES:
        raise ValueError(f"{option}: there is no such language, only {' and '.join(LANGUAGES)}. Use one of these.")
    texts = _texts(rows, column)
    if all(language_of(text) is None and any(map(str.isdigit, text)) for text in texts):
        raise ValueError(
            f"{option}: column {column!r} holds numbers or no text. Write the name of each class, or the caption, in "
            "place of its number."
        )
    if not _share(texts, language):
        others = [other for other in LANGUAGES if _share(texts, other)]
        advice = f"Use --caption_columns.{others[0]} {column}." if others else "Name another column."
        raise ValueError(f"{option}: column {column!r} has no text in this language, such as {texts[0]!r}. {advice}")


def captions_of(cell: Any, language: str, exclusive: bool) -> list[str]:
    """Usable captions of a cell in one language.

    Args:
        cell: Value of a caption column.
        language: ISO 639-1 code of the captions.
        exclusive: Whether captions in the script of another language are left out.
    """
    texts = dict.fromkeys(usable_captions(cell)[0])
    return [text for text in texts if not exclusive or language_of(text) == language]


def is_mixed(rows: Dataset, column: str, language: str) -> bool:
    """Whether a column has captions of several languages, so that each must be assigned by its script.

    Args:
        rows: Rows of the user's data.
        column: Column of captions.
        language: ISO 639-1 code of the language that the column is used for.
    """
    texts = _texts(rows.select(evenly_spaced_rows(len(rows), MAX_PROBED)), column)
    return _share(texts, language) < PURE


def cells_of(rows: Dataset, column: str) -> list[Any]:
    """All cells of a column; class numbers with names as their names."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return [feature.names[number] if number is not None and number >= 0 else None for number in rows[column]]
    return list(rows[column])


def _texts(rows: Dataset, column: str) -> list[str]:
    feature = rows.features[column]
    inner = getattr(feature, "feature", feature)
    if not isinstance(feature, ClassLabel) and "string" not in str(getattr(inner, "dtype", "")):
        return []
    return [text for cell in cells_of(rows, column) for text in usable_captions(cell)[0]]


def _find_image_column(rows: Dataset, finder: ImageFinder | None) -> str:
    """The first column of encoded images, or else the column with the largest share of paths of images."""
    images = [name for name, feature in rows.features.items() if _holds_images(name, feature)]
    if images:
        return images[0]
    shares = {name: _share_of_paths(_texts(rows, name), finder) for name in rows.column_names}
    best = max(shares, key=lambda name: (shares[name], bool(IMAGE_NAMES.search(name))))
    if shares[best] < MOST:
        raise ValueError(
            f"data: no column has images or paths of images, only {', '.join(rows.column_names)}. Name the right one: "
            "--image_column COLUMN."
        )
    return best


def _holds_images(name: str, feature: Any) -> bool:
    is_binary = "binary" in str(getattr(feature, "dtype", ""))
    return isinstance(feature, Image) or is_binary or (isinstance(feature, dict) and "bytes" in feature)


def _share_of_paths(texts: Sequence[str], finder: ImageFinder | None) -> float:
    if not texts:
        return 0.0
    named = sum(Path(text.strip()).suffix.lower() in IMAGE_SUFFIXES for text in texts)
    if named or finder is None:
        return named / len(texts)
    return sum(finder(text) is not None for text in texts) / len(texts)


def _rank(texts: Mapping[str, Sequence[str]], language: str) -> list[str]:
    """Columns with captions in a language, the best first."""
    found = [name for name, listed in texts.items() if _share(listed, language) >= PRESENT and _is_prose(listed)]

    def key(name: str) -> tuple[Any, ...]:
        lower = name.lower()
        word = next((number for number, word in enumerate(CAPTION_NAMES) if word in lower), len(CAPTION_NAMES))
        is_pure = _share(texts[name], language) >= PURE
        distinct = round(len(set(texts[name])) / len(texts[name]), 1)  # a column of colours has few
        order = (len(lower), list(texts).index(name))
        return (not is_pure, not _names_language(lower, language), word, -distinct, *order)

    return sorted(found, key=key)


def _tier(name: str) -> int:
    """0 for a column that may hold captions, 1 for class names, 2 for facts such as a brand or an article number."""
    is_class = name.lower() in LABEL_NAMES or name.endswith(CLASS_ENDINGS)
    return 2 if OTHER_NAMES.search(name) else int(is_class)


def _names_language(name: str, language: str) -> bool:
    parts = {name, *re.split(r"[\W_]+", name)}
    return any(word in parts for word in LANGUAGE_NAMES[language])


def _share(texts: Sequence[str], language: str) -> float:
    return sum(language_of(text) == language for text in texts) / len(texts) if texts else 0.0


def _is_prose(texts: Sequence[str]) -> bool:
    """Whether texts can be captions, and not paths, addresses or article numbers."""
    return sum(map(_is_code, texts)) < MOST * len(texts)


def _is_code(text: str) -> bool:
    """Whether a text is a path of an image, a web address, or one word of letters with digits."""
    if "://" in text or Path(text).suffix.lower() in IMAGE_SUFFIXES:
        return True
    return language_of(text) == "en" and " " not in text and any(character.isdigit() for character in text)


def _are_labels(rows: Dataset, columns: Iterable[str]) -> bool:
    return all(isinstance(rows.features[name], ClassLabel) or name.lower() in LABEL_NAMES for name in columns)
