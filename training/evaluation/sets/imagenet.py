"""ImageNet's class names, which are not copied here but read where they are installed.

Two Chinese lists are in use; they agree on 759 of the 1,000 names. One is in the packages `clip-benchmark` and
`cn-clip`, the same in both. The other is Chinese-CLIP's own, the file `label_cn.txt` of the ELEVATER data that it
offers for download.
"""

from pathlib import Path

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.packages import CLIP_BENCHMARK, CN_CLIP, TIMM, file_of, read_json, read_python

_SET = "imagenet1k"
_ENGLISH = "datasets/en_classnames.json"
NOT_HERE = "its names are not copied into this project, run `pip install --no-deps clip-benchmark`"


def imagenet_is_here() -> bool:
    """Whether its English names are installed."""
    return file_of(CLIP_BENCHMARK, _ENGLISH) is not None


def imagenet_names(chinese: str | None = None) -> tuple[ClassNames, dict[str, str]]:
    """The thousand classes in the order of their WordNet ids.

    Args:
        chinese: `clip-benchmark`, `cn-clip`, or a file with a name a line, in that order. None where no Chinese is
            asked for.

    Returns:
        The names, and by language where they are from.

    Raises:
        ValueError: a list is not there or has not 1,000 names.
    """
    path = file_of(CLIP_BENCHMARK, _ENGLISH)
    if path is None:
        raise ValueError(f"imagenet-1k: {NOT_HERE}.")
    wordnet, synonyms = _wordnet()
    names, sources = {"wordnet": wordnet, "en": read_json(path)[_SET], "synonyms": synonyms}, {"en": CLIP_BENCHMARK}
    if chinese is not None:
        names["zh"], sources["zh"] = _chinese(chinese), chinese
    return ClassNames(names, "wordnet"), sources  # English has two `missile`s and two `sunglasses`: no keys


def _chinese(source: str) -> list[str]:
    try:
        if source == CLIP_BENCHMARK:
            names = read_json(_installed(source, "datasets/cn_classnames.json"))[_SET]
        elif source == CN_CLIP:
            names = read_python(_installed(source, "eval/imagenet_zeroshot_templates.py"))["imagenet_classnames"]
        else:
            names = Path(source).read_text(encoding="utf-8").split("\n")
            names = [name.strip() for name in names if name.strip()]
    except OSError as error:
        raise ValueError(
            f"imagenet_zh: cannot read {source!r} ({error}). Give {CLIP_BENCHMARK}, {CN_CLIP}, or a file with a name "
            "a line, such as label_cn.txt of Chinese-CLIP's ELEVATER data."
        ) from error
    if len(names) != 1000:
        raise ValueError(f"imagenet_zh: {source!r} has {len(names)} names, need 1000, one a line.")
    return names


def _installed(package: str, file: str) -> Path:
    path = file_of(package, file)
    if path is None:
        raise ValueError(f"imagenet-1k: {package} has no {file} here. Run `pip install --no-deps {package}`.")
    return path


def _wordnet() -> tuple[list[str], list[str]]:
    """The thousand WordNet ids in order, as image folders name their classes, and WordNet's own names, as the Hub's
    copy has them; out of timm.
    """
    ids = _installed(TIMM, "data/_info/imagenet_synsets.txt").read_text(encoding="utf-8").split()
    lines = _installed(TIMM, "data/_info/imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    names = dict(line.split("\t", 1) for line in lines)
    return ids, [names[number] for number in ids]
