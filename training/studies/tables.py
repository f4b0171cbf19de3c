"""Render the tables of every README from committed results, so that no number in a README is typed by hand.

A block starts with `<!-- table: NAME ARGUMENTS -->` and ends with `<!-- end of table -->`.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.hub.cards.facts import count_parameters
from training.hub.cards.tables import size_table
from training.studies.budget import read_costs, read_pairs
from training.text.writing_systems import LANGUAGES
from training.utils.files import REPO_ROOT, write_text
from training.utils.results import RESULTS_FILE, Results, markdown_table, percent_cells

BLOCK = re.compile(r"(<!-- table: (\S+)(.*?) -->\n).*?(<!-- end of table -->)", re.S)
BUDGET = REPO_ROOT / "model_cards" / "results" / "budget" / RESULTS_FILE
LATER_BUDGET = BUDGET.with_name("photo_model.json")
DEMO = REPO_ROOT / "model_cards" / "results" / "demo" / RESULTS_FILE
PHOTO_MODEL = REPO_ROOT / "model_cards" / "dcclip-tiny-photo"
BUDGET_MODELS = {
    "tiny": "`tiny`",
    "small": "`small`",
    "base": "`base`",
    "chinese-clip-rn50": "Chinese-CLIP RN50",
    "altclip": "AltCLIP",
}
WORDS = {
    "en": {
        "header": ["Model", "Parameters", "Size", "Latency of an image and a text", "Quality, en / zh", "Status"],
        "photographs": "[in this repository](model_cards/dcclip-tiny-photo)",
        "demo": "trained by `python -m training.demo`",
        "note": "Latency: one thread, batch 1; `dcclip-tiny-photo` in int8, the demo in PyTorch. R@5: text to image, "
        "690 photographs. Top-5: 3,944 emoji names, unseen skin tones.",
    },
    "zh": {
        "header": ["模型", "参数量", "大小", "一张图片加一条文本的延迟", "效果（英 / 中）", "状态"],
        "photographs": "[在本仓库中](model_cards/dcclip-tiny-photo)",
        "demo": "由 `python -m training.demo` 训练得到",
        "note": "延迟：单线程，每次一张图片和一条文本；`dcclip-tiny-photo` 为 int8，演示模型为 PyTorch。"
        "R@5：在 690 张照片中以文搜图。top-5：在 3,944 个表情名称中，图片为未见过的肤色变体。",
    },
}
# title in each language, set and metric
PHOTOGRAPH_ROWS = (
    (
        {"en": "Flickr8k validation, text to image R@5", "zh": "Flickr8k 验证集，以文搜图 R@5"},
        "flickr8k_validation",
        "text_to_image_R@5",
    ),
    (
        {"en": "Flickr8k validation, image to text R@5", "zh": "Flickr8k 验证集，以图搜文 R@5"},
        "flickr8k_validation",
        "image_to_text_R@5",
    ),
    (
        {"en": "Bing photographs of the day, text to image R@5", "zh": "必应每日图片，以文搜图 R@5"},
        "bing_validation",
        "text_to_image_R@5",
    ),
    ({"en": "CIFAR-10, top-1", "zh": "CIFAR-10，top-1"}, "cifar-10", "top1"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """No options: every README of the checkout is rendered."""


def models_table(language: str = "en") -> str:
    """The table of models at the head of a README, with a note below, in `en` or `zh`."""
    words = WORDS[language]
    lines = [words["header"], ["---", "---:", "---:", "---:", "---:", "---"]]
    lines += [_photo_line(str(words["photographs"])), _demo_line(str(words["demo"]))]
    return f"{markdown_table(lines)}\n\n{words['note']}"


def budget_table() -> str:
    """Size and latency of the student recipes and of baselines, with random weights, from one run."""
    budget = Results.read(BUDGET)
    lines = [
        ["Model", "Parameters", "Size in int8", "Latency of an image and a text"],
        ["---", "---:", "---:", "---:"],
    ]
    for name, title in BUDGET_MODELS.items():
        megabytes = read_costs(budget, name, "onnx-int8", 1)["MB"] or 0.0
        parameters = budget.mean(model=name, metric="parameters") or 0.0
        lines.append([title, f"{parameters / 1e6:.1f} M", f"{megabytes:.0f} MB", f"{_pair_ms(budget, name):.1f} ms"])
    return markdown_table(lines)


def _photo_line(status: str) -> list[str]:
    results = Results.read(PHOTO_MODEL / RESULTS_FILE)
    files = [entry for entry in results.meta["export"]["verdicts"] if entry["kept"] and entry["variant"] == "int8"]
    found = {"model": PHOTO_MODEL.name, "set": "flickr8k_validation", "metric": "text_to_image_R@5"}
    recall = " / ".join(f"{100 * (results.mean(**found, language=name) or 0.0):.0f} %" for name in LANGUAGES)
    return [
        f"**{PHOTO_MODEL.name}**",
        f"{count_parameters(PHOTO_MODEL) / 1e6:.1f} M",
        f"{sum(entry['bytes'] for entry in files) / 1e6:.0f} MB (int8)",
        f"{_pair_ms(Results.read(LATER_BUDGET), PHOTO_MODEL.name):.1f} ms",
        f"R@5 {recall}",
        status,
    ]


def _demo_line(status: str) -> list[str]:
    results = Results.read(DEMO)

    def mean(metric: str, **more: str) -> float:
        return results.mean(model="student", stage="aligned", metric=metric, **more) or 0.0

    top5 = " / ".join(f"{100 * mean('top5', set='unseen_combination', language=name):.0f} %" for name in LANGUAGES)
    return [
        "demo",
        f"{mean('parameters') / 1e6:.1f} M",
        f"{mean('bytes') / 1e6:.1f} MB (fp32)",
        f"{mean('ms_per_image') + mean('ms_per_text'):.1f} ms",
        f"top-5 {top5}",
        status,
    ]


def _pair_ms(budget: Results, name: str) -> float:
    """Latency of an image and a text in int8 on one thread, in milliseconds."""
    key = (name, "onnx-int8", 1)
    (ms,) = [pair.ms for pair in read_pairs(budget) if (pair.model, pair.backend, pair.threads) == key]
    return ms


def photographs_table(language: str = "en") -> str:
    """Recall at 5 and top-1 accuracy of the model of photographs, in percent."""
    results = Results.read(PHOTO_MODEL / RESULTS_FILE)
    lines = [["%", *({"en": ("English", "Chinese"), "zh": ("英文", "中文")}[language])], ["---", "---:", "---:"]]
    for title, name, metric in PHOTOGRAPH_ROWS:
        fields = {"model": PHOTO_MODEL.name, "set": name, "metric": metric}
        lines.append([title[language], *percent_cells(results.mean(**fields, language=each) for each in LANGUAGES)])
    return markdown_table(lines)


def _read(path: str) -> Results:
    return Results.read(REPO_ROOT / path)


RENDERERS: dict[str, Callable[..., str | None]] = {
    "models": models_table,
    "photographs": photographs_table,
    "budget": budget_table,
    "accuracy": lambda path: _read(path).table(),
    "sizes": lambda path: size_table(_read(path)),
}


def render(text: str) -> str:
    """Fill the table blocks of a README.

    Returns:
        The same text with every block rendered anew.

    Raises:
        KeyError: A block names a table that does not exist.
    """

    def fill(block: re.Match[str]) -> str:
        start, name, arguments, end = block.groups()
        return f"{start}{RENDERERS[name](*arguments.split())}\n{end}"

    return BLOCK.sub(fill, text)


def list_readmes() -> list[Path]:
    """Every tracked README of the checkout, in any language."""
    command = ["git", "ls-files", "README*.md", "**/README*.md"]
    names = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [REPO_ROOT / name for name in names]


def run(options: Options):
    """Rewrite every README whose tables have changed."""
    for path in list_readmes():
        text = path.read_text(encoding="utf-8")
        if (rendered := render(text)) != text:
            write_text(path, rendered)
            print(path.relative_to(REPO_ROOT))
