"""Prompt templates, and class names of ImageNet.

They come from the packages clip-benchmark, cn-clip and timm where these are installed, else from `templates/en.json`
and `templates/zh.json`, which were written for this project. The packages are not imported: JSON files are read and
Python files are parsed, which is fast and does not need their dependencies.
"""

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.protocols import IMAGENET, OURS, SETS
from training.utils.files import packaged_file
from training.utils.reading import read_text

CLIP_BENCHMARK = "clip-benchmark"
CN_CLIP = "cn-clip"
TIMM = "timm"
SOURCES = ("auto", OURS)
FORMS = (
    f"Give {' or '.join(SOURCES)}, or a JSON file of "
    '{"en": ["a photo of a {}."], "zh": ["一张{}的照片"]}.'
)
_IMAGENET_NAMES = "datasets/en_classnames.json"
NOT_INSTALLED = (
    "its class names are not part of this project, run `pip install --no-deps clip-benchmark`"
)


@dataclass(frozen=True)
class Templates:
    """Prompt templates.

    Args:
        lines: Templates, each with one `{}` for the class name.
        source: Origin of the templates, written to results.
    """

    lines: tuple[str, ...]
    source: str


def templates_of(name: str, language: str, source: str = "auto") -> Templates:
    """The templates of a set.

    Args:
        name: Id of the set.
        language: Language of the templates, `en` or `zh`.
        source: One of `auto` (an installed package that has ELEVATER's own templates, else ours), `ours`, or a JSON
            file of {language: [templates]} or {language: {set: [templates]}}.

    Raises:
        ValueError: The file is missing, or has no templates in this language.
    """
    if source not in SOURCES:
        return read_templates(source, language, name)
    if source == "auto" and (found := _installed_templates(name, language)):
        return found
    path = Path(__file__).parent / "templates" / f"{language}.json"
    return Templates(tuple(json.loads(path.read_text(encoding="utf-8"))[name]), OURS)


def read_templates(path: str, language: str, name: str) -> Templates:
    """Read templates of a set from a JSON file of {language: [templates]} or {language: {set: [templates]}}.

    Raises:
        ValueError: The file cannot be read, has no templates for the language and set, or a template does not have
            exactly one `{}`.
    """
    problem = None
    try:
        lines = json.loads(read_text(Path(path)))[language]
        lines = lines[name] if isinstance(lines, dict) else lines
        if {line.format("\0").count("\0") for line in lines} != {1}:
            problem = "a template needs exactly one {}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = repr(error)
    if problem:
        raise ValueError(
            f"templates: cannot read templates of {name} in {language!r} from {path!r} ({problem}). {FORMS}"
        )
    return Templates(tuple(lines), path)


def _installed_templates(name: str, language: str) -> Templates | None:
    """English templates of clip-benchmark, Chinese ones of cn-clip; None if there are none for this set."""
    if language == "en":
        path = packaged_file("clip_benchmark", "datasets/en_zeroshot_classification_templates.json")
        lines = path and _read_json(path).get(SETS[name].clip_benchmark or "")
        return Templates(tuple(lines), CLIP_BENCHMARK) if lines else None
    file = "eval/cvinw_zeroshot_templates.py"
    group = SETS[name].cn_clip
    if name == IMAGENET:
        file = "eval/imagenet_zeroshot_templates.py"
        group = "openai_imagenet_template"
    path = packaged_file("cn_clip", file)
    lines = path and _read_python(path).get(group)
    return Templates(tuple(lines), f"{CN_CLIP} ({group})") if lines else None


def imagenet_is_installed() -> bool:
    """Whether the package with the English class names of ImageNet is installed."""
    return packaged_file("clip_benchmark", _IMAGENET_NAMES) is not None


def imagenet_names(with_chinese: bool) -> ClassNames:
    """The thousand classes of ImageNet in the order of their WordNet ids, named as in the package `clip-benchmark`.

    Two Chinese lists are in use, which agree on 759 names: this one, which `cn-clip` has as well, and `label_cn.txt`
    of the ELEVATER data that Chinese-CLIP offers for download.

    Raises:
        ValueError: A package is not installed.
    """
    english = _read_json(_installed(CLIP_BENCHMARK, _IMAGENET_NAMES))
    # timm has the WordNet ids, which image folders are named after, and the names that the data set on the Hub uses
    ids = _installed(TIMM, "data/_info/imagenet_synsets.txt")
    wordnet = ids.read_text(encoding="utf-8").split()
    listed = _installed(TIMM, "data/_info/imagenet_synset_to_lemma.txt")
    lines = listed.read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    names = {
        "wordnet": wordnet,
        "en": english["imagenet1k"],
        "synonyms": [lemmas[number] for number in wordnet],
    }
    if with_chinese:
        chinese = _read_json(_installed(CLIP_BENCHMARK, "datasets/cn_classnames.json"))
        names["zh"] = chinese["imagenet1k"]
    # not keyed by "en", which has `missile` and `sunglasses` twice
    return ClassNames(names, "wordnet")


def _installed(package: str, file: str) -> Path:
    if (path := packaged_file(package.replace("-", "_"), file)) is None:
        raise ValueError(
            f"imagenet-1k: {file} of {package} is not installed. Run `pip install --no-deps {package}`."
        )
    return path


@cache
def _read_json(path: Path) -> dict[str, list[str]]:
    """Lists of `clip-benchmark` by set, with its `{c}` replaced by `{}`."""
    return json.loads(path.read_text(encoding="utf-8").replace("{c}", "{}"))


@cache
def _read_python(path: Path) -> dict[str, list[str]]:
    """Lists that a Python file assigns at module level. Their items are strings, or functions that insert a name into
    a template, which are returned as the template with `{}` in place of the name.
    """

    def template(node: ast.expr) -> str:
        if isinstance(node, ast.Lambda):
            node = node.body
        if isinstance(node, ast.JoinedStr):
            return "".join(map(template, node.values))
        if isinstance(node, ast.FormattedValue):
            return "{}"
        return str(ast.literal_eval(node))

    lists = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    lists[target.id] = [template(element) for element in node.value.elts]
    return lists
