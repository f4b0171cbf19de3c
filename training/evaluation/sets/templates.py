"""Prompt templates. They come from installed packages where possible, else from `templates/en.json` and
`templates/zh.json`, which were written for this project.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from training.evaluation.sets.packages import CLIP_BENCHMARK, CN_CLIP, file_of, read_json, read_python
from training.evaluation.sets.protocols import IMAGENET, SETS, Protocol

OURS = "ours"
SOURCES = ("auto", OURS)
# sets that have their own templates in Chinese-CLIP's script; all others share one list
_SCRIPT_GROUPS = {
    "fgvc-aircraft-2013b-variants102", "food-101", "oxford-flower-102", "eurosat_clip", "resisc45_clip", "country211"
}  # fmt: skip


@dataclass(frozen=True)
class Templates:
    """Prompt templates, each with one `{}`.

    Args:
        lines: Templates, each with one `{}` for the class name.
        source: Origin of the templates, written to results.
    """

    lines: tuple[str, ...]
    source: str


def templates_of(name: str, protocol: Protocol, source: str = "auto") -> Templates:
    """The templates of a set.

    Args:
        name: Id of the set.
        protocol: Protocol, which determines the language.
        source: One of `auto` (an installed package that has ELEVATER's own templates, else ours), `ours`, or a JSON
            file of {language: [templates]} or {language: {set: [templates]}}.

    Raises:
        ValueError: The file is missing, or has no templates in this language.
    """
    if source not in SOURCES:
        return read_templates(source, protocol.language, name)
    if source == "auto" and (found := _from_clip_benchmark(name, protocol) or _from_cn_clip(name, protocol)):
        return found
    path = Path(__file__).parent / "templates" / f"{protocol.language}.json"
    return Templates(tuple(json.loads(path.read_text(encoding="utf-8"))[name]), OURS)


def read_templates(path: str, language: str, name: str) -> Templates:
    """Read templates from a JSON file of {language: [templates]} or {language: {set: [templates]}}.

    Args:
        path: JSON file.
        language: Language of the templates.
        name: Id of the set.

    Raises:
        ValueError: The file cannot be read, has no templates for the language and set, or a template does not have
            exactly one `{}`.
    """
    try:
        lines = json.loads(Path(path).read_text(encoding="utf-8"))[language]
        lines = lines[name] if isinstance(lines, dict) else lines
        lines[0].format("")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"templates: cannot read templates of {name} in {language!r} from {path!r} ({error!r}). Give "
            f"{', '.join(SOURCES)}, or a JSON file of "
            '{"en": ["a photo of a {}."], "zh": ["一张{}的照片"]}.'
        ) from error
    if not isinstance(lines, list):
        raise ValueError(
            f"templates: {lines!r} in {path!r} must be a list of templates. Write [{json.dumps(lines)}] in its place."
        )
    for line in lines:
        if line.count("{}") != 1 or line.count("{") != 1:
            raise ValueError(f"templates: {line!r} in {path!r} needs exactly one {{}}, in place of the class name.")
    return Templates(tuple(lines), path)


def _from_clip_benchmark(name: str, protocol: Protocol) -> Templates | None:
    """English templates. The only Chinese ones in this package are for ImageNet, copied from `cn-clip`."""
    path = file_of(CLIP_BENCHMARK, "datasets/en_zeroshot_classification_templates.json")
    if path is None or protocol.language != "en":
        return None
    lines = read_json(path).get(SETS[name].clip_benchmark or "")
    return Templates(tuple(lines), CLIP_BENCHMARK) if lines else None


def _from_cn_clip(name: str, protocol: Protocol) -> Templates | None:
    """Chinese templates."""
    file, group = "eval/cvinw_zeroshot_templates.py", SETS[name].cn_clip
    if protocol.script_templates and name not in _SCRIPT_GROUPS:
        group = "openai_templates"
    elif name == IMAGENET:
        file, group = "eval/imagenet_zeroshot_templates.py", "openai_imagenet_template"
    path = file_of(CN_CLIP, file)
    if path is None or protocol.language != "zh":
        return None
    lines = read_python(path).get(group)
    return Templates(tuple(lines), f"{CN_CLIP} ({group})") if lines else None
