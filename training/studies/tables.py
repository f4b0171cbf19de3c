"""Render the tables of every README from committed results, so that no number in a README is typed by hand.

A block starts with `<!-- table: NAME ARGUMENTS -->` and ends with `<!-- end of table -->`.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.hub.cards.tables import size_table
from training.studies import claims
from training.studies.budget import read_costs
from training.studies.probe import IMAGE_MS, TEXT_MS
from training.text.writing_systems import LANGUAGES
from training.utils.files import REPO_ROOT, write_text
from training.utils.results import RESULTS_FILE, Results, markdown_table

BLOCK = re.compile(r"(<!-- table: (\S+)(.*?) -->\n).*?(<!-- end of table -->)", re.S)
BUDGET = REPO_ROOT / "model_cards" / "results" / "budget" / RESULTS_FILE
PHOTO_MODEL = REPO_ROOT / "model_cards" / "dcclip-tiny-photo"
BUDGET_MODELS = {name: f"`{name}`" for name in ("tiny", "small", "base")} | {
    "chinese-clip-rn50": "Chinese-CLIP RN50",
    "altclip": "AltCLIP",
}
WORDS = {
    "en": {
        "header": [
            "Model",
            "Parameters",
            "Size in int8",
            "Latency of an image and a text",
            "R@5, en / zh",
        ],
        "note": "Latency is for int8, one thread and batch 1, all models in one run. AltCLIP, the paper's "
        "teacher, has random weights. R@5 is text to image on 690 photographs.",
    },
    "zh": {
        "header": ["模型", "参数量", "int8 大小", "一张图片加一条文本的延迟", "R@5（英 / 中）"],
        "note": "延迟：int8，单线程，每次一张图片和一条文本，同一次运行测得；AltCLIP（论文中的教师模型）用随机权重。"
        "R@5：在 690 张照片中以文搜图。",
    },
}
FLICKR, BING, CIFAR = "flickr8k_validation", "bing_validation", "cifar-10"
FIND, DESCRIBE = "text_to_image_R@5", "image_to_text_R@5"
PHOTOGRAPH_TITLES = {
    "en": (
        "Flickr8k validation, text to image R@5",
        "Flickr8k validation, image to text R@5",
        "Bing photographs of the day, text to image R@5",
        "CIFAR-10, top-1",
    ),
    "zh": (
        "Flickr8k 验证集，以文搜图 R@5",
        "Flickr8k 验证集，以图搜文 R@5",
        "必应每日图片，以文搜图 R@5",
        "CIFAR-10，top-1",
    ),
}
PHOTOGRAPH_METRICS = ((FLICKR, FIND), (FLICKR, DESCRIBE), (BING, FIND), (CIFAR, "top1"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """No options: every README of the checkout is rendered."""


def models_table(language: str = "en") -> str:
    """The table of models at the head of a README, with a note below, in `en` or `zh`."""
    words = WORDS[language]
    budget, results = Results.read(BUDGET), Results.read(PHOTO_MODEL / RESULTS_FILE)
    found = {"model": PHOTO_MODEL.name, "set": FLICKR, "metric": FIND}
    recall = " / ".join(
        f"{100 * (results.mean(**found, language=name) or 0.0):.0f} %" for name in LANGUAGES
    )
    name = PHOTO_MODEL.name
    lines = [
        words["header"],
        ["---", *["---:"] * 4],
        [f"[**{name}**](model_cards/{name})", *_costs(budget, name), recall],
        ["[AltCLIP](https://huggingface.co/BAAI/AltCLIP)", *_costs(budget, "altclip"), "-"],
    ]
    return f"{markdown_table(lines)}\n\n{words['note']}"


def budget_table() -> str:
    """Size and latency of the student recipes and of baselines, with random weights, from one run."""
    budget = Results.read(BUDGET)
    lines = [WORDS["en"]["header"][:4], ["---", "---:", "---:", "---:"]]
    lines += [[title, *_costs(budget, name)] for name, title in BUDGET_MODELS.items()]
    return markdown_table(lines)


def _costs(budget: Results, name: str) -> list[str]:
    """Parameters, size and latency of an image and a text, in int8 on one thread."""
    costs = read_costs(budget, name, "onnx-int8")
    return [
        f"{costs['parameters'] / 1e6:.1f} M",
        f"{costs['bytes'] / 1e6:.0f} MB",
        f"{costs[IMAGE_MS] + costs[TEXT_MS]:.1f} ms",
    ]


def photographs_table(language: str = "en") -> str:
    """Recall at 5 and top-1 accuracy of the model of photographs, in percent; a part of a set is named as one."""
    results = Results.read(PHOTO_MODEL / RESULTS_FILE)
    names = {"en": ("English", "Chinese"), "zh": ("英文", "中文")}[language]
    lines = [["%", *names], ["---", "---:", "---:"]]
    for title, (name, metric) in zip(PHOTOGRAPH_TITLES[language], PHOTOGRAPH_METRICS, strict=True):
        found = {row.set for row in results.rows if row.metric == metric and row.set}
        for part in sorted(each for each in found if each.partition(" (")[0] == name):
            fields = {"model": PHOTO_MODEL.name, "set": part, "metric": metric}
            means = [results.mean(**fields, language=each) for each in LANGUAGES]
            cells = ["-" if mean is None else f"{100 * mean:.1f}" for mean in means]
            lines.append([f"{title}{part.removeprefix(name)}", *cells])
    return markdown_table(lines)


RENDERERS: dict[str, Callable[..., str | None]] = {
    "models": models_table,
    "photographs": photographs_table,
    "budget": budget_table,
    "accuracy": lambda path: Results.read(REPO_ROOT / path).table(),
    "sizes": lambda path: size_table(Results.read(REPO_ROOT / path)),
    "claims": lambda path: claims.table(Results.read(REPO_ROOT / path)),
    "verdicts": lambda path: claims.verdicts(Results.read(REPO_ROOT / path)),
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
    names = subprocess.run(
        command, cwd=REPO_ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [REPO_ROOT / name for name in names]


def run(options: Options):
    """Rewrite every README whose tables have changed."""
    for path in list_readmes():
        text = path.read_text(encoding="utf-8")
        if (rendered := render(text)) != text:
            write_text(path, rendered)
            print(path.relative_to(REPO_ROOT))
