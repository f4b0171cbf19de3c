"""Words of photographs: nouns of captions, classes that Lite2 sees, and traditional Chinese pieces of a vocabulary."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from datasets import Image, concatenate_datasets
from tqdm.auto import tqdm

from training.data import load_source
from training.data.images import Normalize
from training.experiments.corpus.pretrained import LITE2
from training.tasks.own_inputs import read_classifier
from training.teachers.images import ImagePreparation, prepared_batches
from training.text.writing_systems import LANGUAGES

LONGEST_NAME = 3  # words
MIN_PHOTOS = 3  # a noun needs this many photographs; rarer ones are mostly accidents
CLASSIFIER_SIZE = 192  # height and width in pixels, close to the photographs' own
MIN_PROBABILITY = 0.25
MAX_CLASSES = 3  # most classes of one photograph
BATCH_SIZE = 64
IRREGULAR = {
    "calves": "calf",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "oxen": "ox",
    "people": "person",
    "shelves": "shelf",
    "teeth": "tooth",
    "wolves": "wolf",
    "women": "woman",
}
# nouns of WordNet that captions use in a different sense, or that no photograph shows
NOT_SHOWN = frozenset(
    Path(__file__)
    .with_name("not_shown.txt")
    .read_text(encoding="utf-8")
    .replace("\n", " ")
    .strip()
    .split(", ")
)


def synsets() -> Iterator[tuple[str, list[str]]]:
    """WordNet 3.0's number and English lemmas of each synset of ImageNet-21k, as timm lists them."""
    table = files("timm.data") / "_info/imagenet_synset_to_lemma.txt"
    for line in table.read_text(encoding="utf-8").splitlines():
        synset, lemmas = line.split("\t")
        yield synset, lemmas.split(", ")


def write_nouns(sources: Sequence[Path], path: Path):
    """Write photographs whose captions are the nouns of their captions.

    English nouns are the names of ImageNet-21k's synsets, in the singular; Chinese ones are what jieba tags as common
    nouns. Each noun is repeated once per caption that mentions it. Rare ones are left out.

    Args:
        sources: Parquet files with the column `image`, and `en`, `zh` or both, captions or lists of captions.
        path: Parquet file to write, with the column `image` and the lists `en` and `zh`.
    """
    rows = []
    num_photos = {language: Counter[str]() for language in LANGUAGES}
    for source in sources:
        columns = [name for name in ("image", *LANGUAGES) if name in pq.read_schema(source).names]
        for row in pq.read_table(source, columns=columns).to_pylist():
            for language in LANGUAGES:
                row[language] = count_nouns(row.get(language), language)
                num_photos[language].update(row[language].keys())
            rows.append(row)
    table = []
    for row in rows:
        for language, counts in num_photos.items():
            nouns = row[language].elements()
            row[language] = [noun for noun in nouns if counts[noun] >= MIN_PHOTOS]
        if any(row[language] for language in LANGUAGES):
            table.append(row)
    pq.write_table(pa.Table.from_pylist(table), path)


def count_nouns(captions: str | list[str] | None, language: str) -> Counter[str]:
    """How many captions of a photograph have each noun."""
    listed = [captions] if isinstance(captions, str) else captions or []
    find = _chinese_nouns if language == "zh" else _english_nouns
    counts = Counter[str]()
    for caption in listed:
        counts.update(sorted(find(caption)))  # sorted: their order is the order of the file
    return counts


def _chinese_nouns(text: str) -> set[str]:
    import jieba.posseg

    jieba.setLogLevel(logging.ERROR)
    return {pair.word for pair in jieba.posseg.cut(text) if pair.flag == "n"}


def _english_nouns(text: str) -> set[str]:
    """The longest names at each word."""
    words = re.findall("[a-z]+", text.lower())
    found = set[str]()
    start = 0
    while start < len(words):
        for length in range(min(LONGEST_NAME, len(words) - start), 0, -1):
            if noun := _as_noun(words[start : start + length]):
                found.add(noun)
                if words[start] == "people":
                    found.add("people")
                start += length
                break
        else:
            start += 1
    return found - NOT_SHOWN


def _as_noun(words: list[str]) -> str | None:
    """The name in the singular; None if the words are none."""
    names, last = _english_names(), words[-1]
    if len(words) == 1:
        return _singular(last)
    for each in (last, _singular(last) or last):
        name = " ".join([*words[:-1], each])
        if name in names:
            return name
        if last.endswith("s") and name[:-1] in names:
            return name[:-1]
    return None


def _singular(word: str) -> str | None:
    names = _english_names()
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in names and not word.endswith("s"):
        return word
    for suffix, ending in (("ies", "y"), ("es", ""), ("s", "")):
        stem = word.removesuffix(suffix)
        if word.endswith(suffix) and len(stem) > 1 and stem + ending in names:
            return stem + ending
    return word if word in names else None


@cache
def _english_names() -> frozenset[str]:
    return frozenset(lemma for _, lemmas in synsets() for lemma in lemmas if lemma == lemma.lower())


@torch.inference_mode()
def write_classes(sources: Sequence[Path], classifier: Path, path: Path):
    """Write photographs whose captions are the classes that EfficientNet-Lite2 sees in them.

    Args:
        sources: Parquet files with the column `image`; captions are not read.
        classifier: File as `AlignRecipe.classifier`, with the names of the classes.
        path: Parquet file to write, with the column `image` and the lists `en` and `zh`, best class first.
    """
    names = read_classifier(str(classifier))[2]
    model = timm.create_model(LITE2.architecture)
    model.load_state_dict(LITE2.weights())
    model.eval()
    parts = []
    for source in sources:
        photographs = load_source(str(source), field="photos").select_columns(["image"])
        parts.append(photographs.cast_column("image", Image(decode=False)))
    images = concatenate_datasets(parts)
    normalize = Normalize(CLASSIFIER_SIZE, tuple(LITE2.image_mean), tuple(LITE2.image_std))
    squashed = ImagePreparation(CLASSIFIER_SIZE, normalize, "", squashes=True)
    batches = prepared_batches(images["image"], BATCH_SIZE, squashed.fit)
    probabilities = []
    for pixels in tqdm(
        batches, desc="classes of photographs", total=math.ceil(len(images) / BATCH_SIZE)
    ):
        with torch.autocast("cpu", torch.bfloat16):
            probabilities.append(model(normalize(pixels)).float().softmax(1))
    rows = []
    for row, values in zip(images, torch.cat(probabilities), strict=True):
        order = values.argsort(descending=True)[:MAX_CLASSES]
        classes = [number for number in order.tolist() if values[number] > MIN_PROBABILITY]
        if classes:
            for language in LANGUAGES:
                row[language] = [names[language][number] for number in classes]
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path)


def simplified_pieces(vocabulary: Mapping[str, int]) -> dict[int, int]:
    """Find the pieces in traditional Chinese whose simplified form, by OpenCC, is also a piece.

    Args:
        vocabulary: Ids of the pieces of a tokenizer.

    Returns:
        Id of the simplified piece by id of the traditional one.
    """
    from opencc import OpenCC

    simplify = OpenCC("t2s").convert
    simplified = {}
    for piece, number in vocabulary.items():
        other = vocabulary.get(simplify(piece))
        if other not in (None, number):
            simplified[number] = other
    return simplified
