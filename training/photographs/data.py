"""Training files that are prepared from a folder of data: class names, names of things, and drawn pages."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.corpus.free_photos import FREE_PHOTOS
from training.photographs.pages import write_pages
from training.photographs.towers import save_classifier
from training.text.writing_systems import LANGUAGES
from training.utils.reading import read_mapping

PAGES = "pages.parquet"
VALIDATION_PAGES = "pages_validation.parquet"
NUM_PAGES = 2000
NUM_VALIDATION_PAGES = 400
# jaguar and hedgehog in the list of Chinese-CLIP
CORRECTED = {"leopard": "豹", "porcupine": "豪猪"}


def prepare(photos: Path, folder: Path, seed: int):
    """Write every file of `PREPARED` whose source is in the folder of data, and report the others.

    Args:
        photos: Folder of the user's data.
        folder: Folder to write to, which exists.
        seed: Seed of the drawn pages.
    """
    for name, (source, write) in PREPARED.items():
        if (photos / source).exists():
            write(photos / source, folder / name, seed)
        else:
            print(f"photos: {photos / source} is missing, so {name} is left out.", flush=True)


def write_classifier(source: Path, path: Path, seed: int):
    """Write ImageNet's classifier with the class names of a JSON file, {WordNet id: {language: name}}.

    Raises:
        ValueError: The file is damaged, or a class has no name in a language.
    """
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


def write_names(source: Path, path: Path, seed: int):
    """Write the names of ImageNet-21k's synsets as captions without images.

    English names come with timm. Names with a capital letter are left out, unless a synset has no other: most are
    Latin. Synsets are numbered as in WordNet 3.0.

    Args:
        source: File of Chinese Open WordNet, with lines such as `02131777-n<TAB>cmn:lemma<TAB>熊`.
        path: Parquet file to write, with the lists `en` and `zh`.
        seed: Unused; the names are not random.

    Raises:
        ValueError: The source has no Chinese name.
    """
    chinese: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
        synset, _, lemma = line.partition("\tcmn:lemma\t")
        chinese.setdefault(synset, []).append(lemma.replace("+", ""))
    english = files("timm.data") / "_info/imagenet_synset_to_lemma.txt"
    rows = []
    for line in english.read_text(encoding="utf-8").splitlines():
        synset, lemmas = line.split("\t")
        first, *others = lemmas.split(", ")
        lower = [lemma for lemma in others if lemma == lemma.lower()]
        rows.append({"en": [first, *lower], "zh": chinese.get(f"{synset[1:]}-n", [])})
    if not any(row["zh"] for row in rows):
        raise ValueError(
            f"photos: {source} has no Chinese names of nouns. Copy Chinese Open WordNet again."
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_training_pages(source: Path, path: Path, seed: int):
    """Draw pages with sentences of a parquet file, for training."""
    _write_pages(source, path, NUM_PAGES, held_out=False, seed=seed)


def write_validation_pages(source: Path, path: Path, seed: int):
    """Draw pages in the design that is held out."""
    _write_pages(source, path, NUM_VALIDATION_PAGES, held_out=True, seed=seed)


def _write_pages(source: Path, path: Path, num: int, *, held_out: bool, seed: int):
    sentences = pq.read_table(source, columns=list(LANGUAGES)).to_pydict()
    backgrounds = [photo.open() for photo in FREE_PHOTOS]
    write_pages(path, num, sentences, backgrounds, held_out=held_out, seed=seed)


# prepared file -> its source in the folder of data, and the function that writes it
PREPARED: dict[str, tuple[str, Callable[[Path, Path, int], None]]] = {
    "classifier.safetensors": ("imagenet_class_names_en_zh.json", write_classifier),
    "names.parquet": ("wordnet_zh_cow.tab", write_names),
    PAGES: ("sentences_tatoeba_en_zh.parquet", write_training_pages),
    VALIDATION_PAGES: ("sentences_tatoeba_en_zh.parquet", write_validation_pages),
}
