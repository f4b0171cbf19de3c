"""Names of things that can be photographed: the synsets of ImageNet-21k in English, and their Chinese lemmas.

The English lemmas come with timm (`imagenet_synset_to_lemma.txt`), the Chinese ones from Chinese Open WordNet. Both
number synsets as WordNet 3.0 does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

LEMMAS = "_info/imagenet_synset_to_lemma.txt"


@dataclass(frozen=True)
class ObjectName:
    """Lemmas of one synset.

    Attributes:
        en: English lemmas, the usual one first; at least one.
        zh: Chinese lemmas; can be empty.
    """

    en: tuple[str, ...]
    zh: tuple[str, ...]


def read_object_names(chinese: Mapping[str, list[str]]) -> list[ObjectName]:
    """Read the names of the synsets of ImageNet-21k.

    Of the further English lemmas, those with a capital letter are left out: most are Latin names of species.

    Args:
        chinese: Chinese lemmas by offset of the synset, eight digits (`read_nouns`).

    Returns:
        Names in the order of timm's file.
    """
    lines = (files("timm.data") / LEMMAS).read_text(encoding="utf-8").splitlines()
    names = []
    for line in lines:
        synset, lemmas = line.split("\t")
        first, *others = (lemma.strip() for lemma in lemmas.split(","))
        lower = [lemma for lemma in others if lemma == lemma.lower()]
        names.append(ObjectName((first, *lower), tuple(chinese.get(synset.removeprefix("n"), ()))))
    return names


def hold_out(names: list[ObjectName], count: int, seed: int) -> tuple[list[ObjectName], list[ObjectName]]:
    """Keep some names for validation.

    Args:
        names: All names.
        count: Number of names to keep, drawn from those with a Chinese lemma.
        seed: Seed of the draw.

    Returns:
        The names for training, without any that shares a lemma with a name for validation; the names for validation.
    """
    candidates = [row for row, name in enumerate(names) if name.zh]
    kept = {candidates[row] for row in np.random.default_rng(seed).permutation(len(candidates))[:count]}
    validation = [names[row] for row in sorted(kept)]
    taken = lemmas(validation)
    training = [name for row, name in enumerate(names) if row not in kept and taken.isdisjoint((*name.en, *name.zh))]
    return training, validation


def lemmas(names: list[ObjectName]) -> set[str]:
    """Return every lemma of the names, in both languages."""
    return {lemma for name in names for lemma in (*name.en, *name.zh)}


def read_nouns(path: Path) -> dict[str, list[str]]:
    """Read the nouns of Chinese Open WordNet.

    Args:
        path: File with a tab between synset, kind and lemma; a plus sign stands between the words of a lemma.

    Returns:
        Lemmas by offset of the synset, eight digits.

    Raises:
        ValueError: The file is missing, or has no noun.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data_dir: cannot read {path.name} ({error}). Copy Chinese Open WordNet there.") from error
    nouns: dict[str, list[str]] = {}
    for row in (line.split("\t") for line in lines if not line.startswith("#")):
        if len(row) == 3 and row[0].endswith("-n") and row[1] == "cmn:lemma":
            nouns.setdefault(row[0].removesuffix("-n"), []).append(row[2].strip().replace("+", ""))
    if not nouns:
        raise ValueError(f"data_dir: {path.name} has no lines 'SYNSET-n<tab>cmn:lemma<tab>LEMMA'. Copy it again.")
    return nouns
