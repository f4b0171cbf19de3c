"""Training files that are prepared from a folder of data: names of classes and things, words of photographs, pages."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.experiments.photographs.pages import write_pages
from training.experiments.photographs.towers import save_classifier
from training.experiments.photographs.words import synsets, write_classes, write_nouns
from training.general_images import FREE_PHOTOS
from training.text.writing_systems import LANGUAGES
from training.utils.reading import read_mapping

CLASSIFIER = "classifier.safetensors"
NAMES, NOUNS, CLASS_TEXTS = "names.parquet", "nouns.parquet", "class_names.parquet"
PAGES = "pages.parquet"
VALIDATION_PAGES = "pages_validation.parquet"
NUM_PAGES = 2000
NUM_VALIDATION_PAGES = 400
CLASS_NAMES = "imagenet_class_names_en_zh.json"
SENTENCES = "sentences_tatoeba_en_zh.parquet"
CAPTIONED = ("photos_flickr8k_train.parquet", "photos_bing_train.parquet")
PHOTOGRAPHS = (
    *CAPTIONED,
    "photos_named_zh.parquet",
    "photos_named_zh_more.parquet",
    "photos_coco_unlabelled.parquet",
    "photos_places_train.parquet",
)
# jaguar and hedgehog in the list of Chinese-CLIP
CORRECTED = {"leopard": "豹", "porcupine": "豪猪"}


def prepare(photos: Path, folder: Path, seed: int):
    """Write every file of `PREPARED` whose first source is in the folder of data, and report missing sources.

    Args:
        photos: Folder of the user's data.
        folder: Folder to write to, which exists.
        seed: Seed of the drawn pages.
    """
    for name, (sources, write) in PREPARED.items():
        paths = [photos / source for source in sources]
        for path in paths:
            if not path.exists():
                print(f"photos: {path} is missing for {name}.", flush=True)
        if paths[0].exists():
            write([path for path in paths if path.exists()], folder / name, seed)


def write_class_names(sources: Sequence[Path], path: Path, seed: int):
    """Write ImageNet's classifier with the class names of a JSON file, {WordNet id: {language: name}}.

    The names are also written as captions without images, to `CLASS_TEXTS` in the same folder.

    Raises:
        ValueError: The file is damaged, or a class has no name in a language.
    """
    (source,) = sources
    names: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for number, entry in sorted(read_mapping(source, "photos").items()):
        for language in LANGUAGES:
            name = entry.get(language) if isinstance(entry, dict) else None
            if not isinstance(name, str):
                raise ValueError(
                    f"photos: in {source}, {number!r} has no name in {language!r}. Add it."
                )
            names[language].append(name)
    names["zh"] = [CORRECTED.get(en, zh) for en, zh in zip(names["en"], names["zh"], strict=True)]
    save_classifier(path, names)
    pq.write_table(pa.table(names), path.with_name(CLASS_TEXTS))


def write_names(sources: Sequence[Path], path: Path, seed: int):
    """Write the names of ImageNet-21k's synsets as captions without images.

    Names with a capital letter are left out, unless a synset has no other: most are Latin.

    Args:
        sources: File of Chinese Open WordNet, with lines such as `02131777-n<TAB>cmn:lemma<TAB>熊`.
        path: Parquet file to write, with the lists `en` and `zh`.
        seed: Unused; the names are not random.

    Raises:
        ValueError: The source has no Chinese name.
    """
    (source,) = sources
    chinese: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
        synset, _, lemma = line.partition("\tcmn:lemma\t")
        chinese.setdefault(synset, []).append(lemma.replace("+", ""))
    rows = []
    for synset, (first, *others) in synsets():
        lower = [lemma for lemma in others if lemma == lemma.lower()]
        rows.append({"en": [first, *lower], "zh": chinese.get(f"{synset[1:]}-n", [])})
    if not any(row["zh"] for row in rows):
        raise ValueError(
            f"photos: {source} has no Chinese names of nouns. Copy Chinese Open WordNet again."
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_seen_classes(sources: Sequence[Path], path: Path, seed: int):
    """Write photographs, of the sources after the class names, with the classes that are seen in them."""
    _, *photographs = sources
    if photographs:
        write_classes(photographs, path.with_name(CLASSIFIER), path)


def write_drawn_pages(sources: Sequence[Path], path: Path, seed: int, held_out: bool = False):
    """Draw pages with sentences of a parquet file: for training, or in the design that is held out."""
    (source,) = sources
    sentences = pq.read_table(source, columns=list(LANGUAGES)).to_pydict()
    backgrounds = [photo.open() for photo in FREE_PHOTOS]
    num = NUM_VALIDATION_PAGES if held_out else NUM_PAGES
    write_pages(path, num, sentences, backgrounds, held_out=held_out, seed=seed)


# prepared file -> its sources in the folder of data, and the function that writes it
PREPARED: dict[str, tuple[tuple[str, ...], Callable[[Sequence[Path], Path, int], None]]] = {
    CLASSIFIER: ((CLASS_NAMES,), write_class_names),
    NAMES: (("wordnet_zh_cow.tab",), write_names),
    NOUNS: (CAPTIONED, lambda sources, path, seed: write_nouns(sources, path)),
    "classes.parquet": ((CLASS_NAMES, *PHOTOGRAPHS), write_seen_classes),
    PAGES: ((SENTENCES,), write_drawn_pages),
    VALIDATION_PAGES: ((SENTENCES,), partial(write_drawn_pages, held_out=True)),
}
